/* batch.c: a micro-batch: clips of the data become latents, noise, noisy latents, target and context.
 *
 *     x0 = scaling (mean + std n)        posterior of the VAE, n from the sample's own key
 *     z  = sqrt(abar_t) x0 + sqrt(1 - abar_t) e,    t one per clip
 *     target = e, or v = sqrt(abar_t) e - sqrt(1 - abar_t) x0
 *     weight = min(SNR, gamma) / SNR of e, / (SNR + 1) of v        Hang et al., Min-SNR, 2023
 *           or 1 / sqrt(min(SNR, 1000)) of e, 1 / (SNR + 1) of v   Yu et al., 2024
 *
 * Everything drawn is a function of the sample's key (train.h, law 1). A clip that cannot be used is reported
 * and another of the same epoch takes its place, chosen by the same key.
 *
 * Knows data, the frozen encoders and the forward process. Refuses to know what learns. */
#include "train/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ATTEMPTS = 64 }; /* other clips that are tried for one that cannot be used */

/* ---- memory ------------------------------------------------------------------------------ */

static size_t clip_values(gimbal_shape s)
{
    return (size_t)s.f * s.h * s.w * s.c;
}

int batch_make(Batch *b, int clips, gimbal_shape s, int context_width, bool decomposed, gimbal_error *err)
{
    const size_t n = (size_t)clips, values = n * clip_values(s), text = n * TOKENS * (size_t)context_width;
    *b = (Batch){.clips = clips, .shape = s};
    b->x0 = alloc_array(values, sizeof(float));
    b->noise = alloc_array(values, sizeof(float));
    b->z = alloc_array(values, sizeof(float));
    b->target = alloc_array(values, sizeof(float));
    b->context = alloc_array(text, sizeof(float));
    b->t = alloc_array(n, sizeof *b->t);
    b->weight = alloc_array(n, sizeof *b->weight);
    b->stride = alloc_array(n, sizeof *b->stride);
    b->no_image = alloc_array(n, sizeof *b->no_image);
    b->sample = alloc_array(n, sizeof *b->sample);
    b->clip = alloc_array(n, sizeof *b->clip);
    bool all = b->x0 && b->noise && b->z && b->target && b->context && b->t && b->weight && b->stride &&
               b->no_image && b->sample && b->clip;
    if (decomposed) {
        b->base = alloc_array(values / (size_t)s.f, sizeof(float));
        b->residual = alloc_array(values, sizeof(float));
        b->lambda = alloc_array((size_t)s.f, sizeof *b->lambda);
        all = all && b->base && b->residual && b->lambda;
    }
    if (all)
        return GIMBAL_OK;
    batch_free(b);
    return fail(err, GIMBAL_ENOMEM, "no memory for a batch of %d clips of %zu values", clips, clip_values(s));
}

uint64_t batch_bytes(int clips, gimbal_shape s, int context_width)
{
    const uint64_t values = 4 * clip_values(s) * (uint64_t)clips, fetched = 3 * clip_values(s);
    return sizeof(float) * (values + fetched + (uint64_t)clips * TOKENS * (uint64_t)context_width);
}

void batch_free(Batch *b)
{
    free(b->x0), free(b->noise), free(b->z), free(b->target), free(b->context), free(b->t);
    free(b->weight), free(b->stride), free(b->no_image), free(b->sample), free(b->clip);
    free(b->base), free(b->residual), free(b->lambda);
    *b = (Batch){0};
}

/* ---- pictures to latents ------------------------------------------------------------------ */

/* Into a cache, if there is one. A full disk: training goes on without it. */
static void keep(struct gimbal_trainer *t, Cache **cache, int64_t clip, int frame, bool flip, const float *x)
{
    gimbal_error err = {0};
    if (!*cache || !cache_add(*cache, clip, frame, flip, x, &err))
        return;
    trainer_note(t, "%s", err.msg);
    cache_close(*cache);
    *cache = NULL;
}

/* Rows of pixels from right to left, in place. */
static void mirror(uint8_t *rgb, int height, int width)
{
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width / 2; x++)
            for (int c = 0; c < 3; c++) {
                uint8_t *a = rgb + 3 * ((size_t)y * width + x) + c;
                uint8_t *b = rgb + 3 * ((size_t)y * width + width - 1 - x) + c, was = *a;
                *a = *b, *b = was;
            }
}

/* Moments [h,w,2C] of `n` pictures, at most the planned number, which is always what runs. */
static int encode(struct gimbal_trainer *t, const uint8_t *rgb, int n, float *pixels, const float **moments,
                  gimbal_error *err)
{
    const size_t picture = 3 * (size_t)t->s.width * t->s.height;
    for (int i = 0; i < t->encoders.encode.f; i++)
        for (size_t k = 0; k < picture; k++)
            pixels[i * picture + k] = 2.0f * ((float)rgb[MIN(i, n - 1) * picture + k] / 255.0f) - 1.0f;
    return plans_moments(&t->encoders, pixels, moments, err);
}

typedef struct {
    int64_t clip;
    int *at; /* [F] frames of the film */
    bool flip;
    float *moments; /* [F,h,w,2C] */
    int *missing;   /* indices into at */
    int n_missing;
    uint8_t *rgb;
    float *pixels;
} Fetch;

/* What the cache does not have, a few pictures at a time. */
static int encode_missing(struct gimbal_trainer *t, Fetch *f, gimbal_error *err)
{
    const gimbal_shape s = t->batch.shape;
    const size_t picture = 3 * (size_t)t->s.width * t->s.height, frame = 2 * (size_t)s.h * s.w * s.c;
    int at[MAX_CLIP_FRAMES];
    for (int i = 0; i < f->n_missing; i++)
        at[i] = f->at[f->missing[i]];
    TRY(t->clips->read(t->clips->self, f->clip, at, f->n_missing, t->s.width, t->s.height, f->rgb, err));
    for (int i = 0; f->flip && i < f->n_missing; i++)
        mirror(f->rgb + i * picture, t->s.height, t->s.width);
    for (int i = 0; i < f->n_missing; i += t->encoders.encode.f) {
        const int n = MIN(t->encoders.encode.f, f->n_missing - i);
        const float *made;
        TRY(encode(t, f->rgb + i * picture, n, f->pixels, &made, err));
        for (int k = 0; k < n; k++) {
            memcpy(f->moments + f->missing[i + k] * frame, made + k * frame, frame * sizeof(float));
            keep(t, &t->moments, f->clip, at[i + k], f->flip, made + k * frame);
        }
    }
    return GIMBAL_OK;
}

static int fetch(struct gimbal_trainer *t, Fetch *f, gimbal_error *err)
{
    const gimbal_shape s = t->batch.shape;
    const size_t frame = 2 * (size_t)s.h * s.w * s.c;
    f->n_missing = 0;
    for (int i = 0; i < s.f; i++)
        if (!t->moments || !cache_find(t->moments, f->clip, f->at[i], f->flip, f->moments + i * frame))
            f->missing[f->n_missing++] = i;
    return f->n_missing ? encode_missing(t, f, err) : GIMBAL_OK;
}

/* moments [F,h,w,2C] -> x0 rows [F,h,w,C], a draw from the posterior; eps [C,F,h,w]. */
static void sample_posterior(const struct gimbal_trainer *t, const float *moments, const float *eps,
                             float *x0)
{
    const gimbal_shape s = t->batch.shape;
    const size_t points = (size_t)s.f * s.h * s.w;
    const float scale = (float)vae_scaling(t->engine->vae);
    for (size_t i = 0; i < points; i++)
        for (int c = 0; c < s.c; c++) {
            const float *in = moments + i * 2 * s.c + c;
            x0[i * s.c + c] = scale * vae_draw(in[0], in[s.c], eps[c * points + i]);
        }
}

/* ---- one clip ----------------------------------------------------------------------------- */

/* Frame numbers of a clip of `length` frames under this sample's key; EUSAGE when it is too short. */
static int choose_frames(const struct gimbal_trainer *t, uint64_t key, int64_t clip, int length, int *at,
                         gimbal_error *err)
{
    const int n = t->batch.shape.f, span = (n - 1) * t->s.frame_stride + 1;
    if (length < span)
        return fail_hint(err, GIMBAL_EUSAGE, "a smaller --frame-stride or fewer --frames need shorter clips",
                         "%s has %d frames, %d are needed (%d frames, stride %d)",
                         t->clips->name(t->clips->self, clip), length, span, n, t->s.frame_stride);
    const int start = (int)draw_below(key, DRAW_START, length - span + 1);
    for (int i = 0; i < n; i++)
        at[i] = start + i * t->s.frame_stride;
    return GIMBAL_OK;
}

/* The context of clip's caption, or of the empty one. */
static int make_context(struct gimbal_trainer *t, int64_t clip, const char *caption, bool dropped,
                        float *context, gimbal_error *err)
{
    const size_t bytes = TOKENS * (size_t)t->engine->shape.context * sizeof(float);
    int32_t ids[TOKENS];
    int cut;
    if (dropped || !caption[0]) {
        memcpy(context, t->empty, bytes);
        return GIMBAL_OK;
    }
    if (t->texts && cache_find(t->texts, clip, -1, false, context))
        return GIMBAL_OK;
    TRY(tokenize(t->engine->tokenizer, caption, ids, TOKENS, &cut, err));
    TRY(plans_text(&t->encoders, ids, context, err));
    keep(t, &t->texts, clip, -1, false, context);
    return GIMBAL_OK;
}

/* Latents and context of one clip of the data, into place i of the batch. */
static int load_clip(struct gimbal_trainer *t, Fetch *f, Batch *b, int i, uint64_t key, int64_t clip,
                     gimbal_error *err)
{
    const gimbal_shape s = b->shape;
    const char *caption = "";
    int length = 0;
    TRY(t->clips->look(t->clips->self, clip, &length, &caption, err));
    f->clip = clip;
    f->flip = t->s.flip > 0 && draw_uniform(key, DRAW_FLIP) < t->s.flip;
    TRY(choose_frames(t, key, clip, length, f->at, err));
    const bool dropped = draw_uniform(key, DRAW_CAPTION) < t->s.caption_dropout;
    TRY(make_context(t, clip, caption, dropped,
                     b->context + (size_t)i * TOKENS * (size_t)t->engine->shape.context, err));
    TRY(fetch(t, f, err));
    philox_normal(key, DRAW_POSTERIOR, 0, s, t->draw);
    sample_posterior(t, f->moments, t->draw, b->x0 + (size_t)i * clip_values(s));
    b->clip[i] = clip;
    b->stride[i] = t->s.frame_stride;
    return GIMBAL_OK;
}

/* ---- noise ------------------------------------------------------------------------------- */

/* noise = sqrt(lambda) base + sqrt(1 - lambda) residual, frame by frame (Luo et al., equation 4). */
static void compose(const Batch *b, int i)
{
    const gimbal_shape s = b->shape;
    const size_t frame = clip_values(s) / (size_t)s.f;
    const float *base = b->base + (size_t)i * frame, *residual = b->residual + (size_t)i * clip_values(s);
    float *noise = b->noise + (size_t)i * clip_values(s);
    for (int f = 0; f < s.f; f++) {
        const float shared = (float)sqrt(b->lambda[f]), own = (float)sqrt(1 - b->lambda[f]);
        for (size_t k = 0; k < frame; k++)
            noise[f * frame + k] = shared * base[k] + own * residual[f * frame + k];
    }
}

static int draw_noise(struct gimbal_trainer *t, Batch *b, int i, uint64_t key, gimbal_error *err)
{
    const gimbal_shape s = b->shape;
    const size_t values = clip_values(s);
    float *noise = b->noise + (size_t)i * values;
    if (b->base) {
        const gimbal_shape one = {s.c, 1, s.h, s.w};
        philox_normal(key, DRAW_NOISE_CLIP, 0, one, t->draw);
        to_rows(t->draw, one, b->base + (size_t)i * values / (size_t)s.f);
        philox_normal(key, DRAW_NOISE_FRAME, 0, s, t->draw);
        to_rows(t->draw, s, b->residual + (size_t)i * values);
        compose(b, i);
        return GIMBAL_OK;
    }
    WhiteNoise white;
    TRY(white_init(&white, "philox", key, err));
    PriorNoise prior = {t->noise, t->noise_self, white_source(&white)};
    const Source source = prior_source(&prior);
    const DrawReq req = {.why = DRAW_INIT, .shape = s};
    const int code = source.draw(source.self, &req, t->draw);
    if (code)
        return fail(err, code, "the noise of a clip cannot be drawn");
    to_rows(t->draw, s, noise);
    if (t->s.noise_offset > 0) {
        float offset[16];
        philox_normal(key, DRAW_OFFSET, 0, (gimbal_shape){MIN(s.c, COUNT(offset)), 1, 1, 1}, offset);
        for (size_t k = 0; k < values; k++)
            noise[k] += (float)t->s.noise_offset * offset[k % (size_t)s.c];
    }
    return GIMBAL_OK;
}

/* ---- the forward process ------------------------------------------------------------------- */

/* What a clip's loss counts at this signal-to-noise ratio. */
static double weight_of(const gimbal_train_settings *s, double snr, bool v)
{
    if (s->debiased)
        return v ? 1 / (snr + 1) : 1 / sqrt(MIN(MAX(snr, 1e-6), 1000));
    if (s->snr_gamma <= 0)
        return 1;
    return MIN(snr, s->snr_gamma) / (v ? snr + 1 : MAX(snr, 1e-12));
}

/* z, target and weight of place i from its x0, noise and t. */
void batch_diffuse(const struct gimbal_trainer *t, Batch *b, int i)
{
    const size_t values = clip_values(b->shape), at = (size_t)i * values;
    const double abar = t->schedule.alpha_bar[(int)b->t[i]], snr = abar / (1 - abar);
    const bool v = t->schedule.prediction == PREDICT_V;
    const float a = (float)sqrt(abar), s = (float)sqrt(1 - abar);
    for (size_t k = at; k < at + values; k++) {
        b->z[k] = a * b->x0[k] + s * b->noise[k];
        b->target[k] = v ? a * b->noise[k] - s * b->x0[k] : b->noise[k];
    }
    b->weight[i] = (float)weight_of(&t->s, snr, v);
}

/* ---- the batch ----------------------------------------------------------------------------- */

static int load_any(struct gimbal_trainer *t, Fetch *f, Batch *b, int i, int64_t g, gimbal_error *err)
{
    const uint64_t key = sample_key(t->s.seed, g);
    gimbal_error why = {0};
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        const int64_t clip = order_clip(t->s.seed, t->learnt_from, g, attempt);
        why = (gimbal_error){0};
        const int code = load_clip(t, f, b, i, key, clip, &why);
        if (!code || code == GIMBAL_ENOMEM || code == GIMBAL_ECANCEL || code == GIMBAL_EVALUE)
            return code ? pass_on(&why, err) : code;
        trainer_note(t, "%s", why.msg);
    }
    return fail_hint(err, GIMBAL_EUSAGE, why.hint, "%d clips in a row cannot be used, the last: %s", ATTEMPTS,
                     why.msg);
}

static void fetch_free(Fetch *f)
{
    free(f->at), free(f->missing), free(f->moments), free(f->rgb), free(f->pixels);
}

static int fetch_make(const struct gimbal_trainer *t, Fetch *f, gimbal_error *err)
{
    const gimbal_shape s = t->batch.shape;
    const size_t frames = (size_t)s.f, picture = 3 * (size_t)t->s.width * t->s.height;
    *f = (Fetch){0};
    f->at = alloc_array(frames, sizeof *f->at);
    f->missing = alloc_array(frames, sizeof *f->missing);
    f->moments = alloc_array(2 * clip_values(s), sizeof(float));
    f->rgb = alloc_array(frames, picture);
    f->pixels = alloc_array((size_t)t->encoders.encode.f * picture, sizeof(float));
    if (f->at && f->missing && f->moments && f->rgb && f->pixels)
        return GIMBAL_OK;
    fetch_free(f);
    return fail(err, GIMBAL_ENOMEM, "no memory for a clip of %d pictures", s.f);
}

static int fill_all(struct gimbal_trainer *t, Fetch *f, Batch *b, int64_t g, gimbal_error *err)
{
    for (int i = 0; i < b->clips; i++) {
        const uint64_t key = sample_key(t->s.seed, g + i);
        TRY(load_any(t, f, b, i, g + i, err));
        TRY(draw_noise(t, b, i, key, err));
        b->sample[i] = g + i;
        b->t[i] = (double)draw_below(key, DRAW_TIMESTEP, t->schedule.T);
        b->no_image[i] = draw_uniform(key, DRAW_IMAGE) < t->s.image_dropout;
        batch_diffuse(t, b, i);
    }
    return GIMBAL_OK;
}

int batch_fill(struct gimbal_trainer *t, Batch *b, int64_t g, gimbal_error *err)
{
    Fetch f;
    TRY(fetch_make(t, &f, err));
    const int code = fill_all(t, &f, b, g, err);
    fetch_free(&f);
    return code;
}

/* Validation clip v, the same noise whenever it is looked at, a timestep in the middle of each band in turn.
 */
int batch_validation(struct gimbal_trainer *t, Batch *b, int v, int band, gimbal_error *err)
{
    enum { APART = 0x7a11d }; /* from the samples that are learnt from */
    Fetch f;
    TRY(fetch_make(t, &f, err));
    int code = GIMBAL_OK;
    for (int i = 0; i < b->clips && !code; i++) {
        const int clip = (v + i) % t->s.validation;
        const uint64_t key = sample_key(t->s.seed ^ APART, clip * GIMBAL_TRAIN_BANDS + band);
        code = load_clip(t, &f, b, i, key, t->learnt_from + clip, err);
        if (!code)
            code = draw_noise(t, b, i, key, err);
        b->sample[i] = -1 - clip;
        b->t[i] = (double)(t->schedule.T * (2 * band + 1) / (2 * GIMBAL_TRAIN_BANDS));
        b->no_image[i] = false;
        if (!code)
            batch_diffuse(t, b, i);
    }
    fetch_free(&f);
    return code;
}
