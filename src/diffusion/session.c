/* session.c: one run: begin, text, sampling through the driver, decoding, cancelling, end.
 *
 * gimbal_begin checks, plans and takes memory, so that what cannot work fails before the first second of
 * work. Prompts are encoded at the first gimbal_sample. After ECANCEL the driver keeps where it stopped;
 * after success a further call makes the same clip again.
 *
 * Pictures: z / scaling factor -> VAE -> x/2 + 1/2, clamped to 0..1, times 255, rounded, ties to even (as
 * diffusers).
 *
 * Knows the order of things. Refuses to know files, argv and codecs. */
#include "diffusion/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- begin and end ----------------------------------------------------------------------- */

static int start(gimbal_session *s, const gimbal_settings *settings, gimbal_error *err)
{
    const Tokenizer *tokenizer = s->engine->tokenizer;
    int dropped;
    TRY(run_resolve(&s->run, s->engine, settings, err));
    TRY(tokenize(tokenizer, s->run.s.negative, s->ids[0], TOKENS, &dropped, err));
    TRY(tokenize(tokenizer, s->run.s.prompt, s->ids[1], TOKENS, &dropped, err));
    s->recipe = gimbal_recipe_json(s->engine, settings);
    if (!s->recipe)
        return fail(err, GIMBAL_ENOMEM, "no memory for a recipe");
    TRY(plans_make(&s->plans, s->engine, &s->run, err));
    s->plans.cx.cancel = &s->cancel;
    return plans_memory(&s->plans, err);
}

int gimbal_begin(gimbal_session **out, gimbal_engine *e, const gimbal_settings *settings, gimbal_error *err)
{
    *out = NULL;
    gimbal_session *s = calloc(1, sizeof *s);
    if (!s)
        return fail(err, GIMBAL_ENOMEM, "no memory for a session");
    s->engine = e;
    atomic_init(&s->cancel, 0);
    const int code = start(s, settings, err);
    if (code)
        gimbal_end(s);
    else
        *out = s;
    return code;
}

void gimbal_end(gimbal_session *s)
{
    if (!s)
        return;
    driver_end(&s->driver);
    plans_free(&s->plans);
    run_free(&s->run);
    free(s->recipe);
    free(s);
}

gimbal_shape gimbal_latent_shape(const gimbal_session *s)
{
    return s->run.whole;
}

void gimbal_cancel(gimbal_session *s)
{
    atomic_store(&s->cancel, 1);
}

/* Every call on a session begins and ends here. One made from a callback would use memory that the call
 * around it still needs. */
int session_enter(gimbal_session *s, const char *what, gimbal_error *err)
{
    if (s->busy)
        return fail(err, GIMBAL_EUSAGE, "%s was called from a callback of the same session", what);
    s->busy = true;
    return GIMBAL_OK;
}

/* A request to cancel is spent once the call that it interrupted has returned. */
int session_leave(gimbal_session *s, int code)
{
    s->busy = false;
    if (code == GIMBAL_ECANCEL)
        atomic_store(&s->cancel, 0);
    return code;
}

int session_report(const gimbal_session *s, const char *stage, int step, int steps, double since,
                   gimbal_error *err)
{
    const double elapsed = seconds_now() - since;
    const gimbal_progress p = {.stage = stage,
                               .step = step,
                               .steps = steps,
                               .elapsed = elapsed,
                               .eta = elapsed / step * (steps - step)};
    if (s->run.s.progress && !s->paused && s->run.s.progress(s->run.s.user, &p))
        return fail(err, GIMBAL_ECANCEL, "cancelled after %s %d of %d", stage, step, steps);
    return GIMBAL_OK;
}

/* ---- text -------------------------------------------------------------------------------- */

int gimbal_context(gimbal_session *s, const char *text, float *context, gimbal_error *err)
{
    int32_t ids[TOKENS];
    TRY(gimbal_tokenize(s->engine, text, ids, NULL, err));
    TRY(session_enter(s, "gimbal_context", err));
    return session_leave(s, plans_text(&s->plans, ids, context, err));
}

/* The guide's context [batch,77,D], the prompt alone, negative and prompt, or negative twice and prompt, and
 * the keys and values made of it. */
int session_texts(gimbal_session *s, gimbal_error *err)
{
    if (s->encoded)
        return GIMBAL_OK;
    const int batch = s->run.batch, texts = MIN(batch, 2);
    const size_t one = (size_t)TOKENS * (size_t)s->plans.guide.context_width;
    float *context = s->plans.guide.context;
    const double since = seconds_now();
    for (int b = 0; b < texts; b++) {
        TRY(plans_text(&s->plans, s->ids[2 - texts + b], context + (size_t)(batch - texts + b) * one, err));
        TRY(session_report(s, "text", b + 1, texts, since, err));
    }
    if (batch > texts)
        memcpy(context, context + one, one * sizeof *context);
    TRY(plans_keys(&s->plans, err));
    s->encoded = true;
    return GIMBAL_OK;
}

/* ---- sampling ---------------------------------------------------------------------------- */

/* Between two network calls the work memory is free: gimbal_decode may use it. */
static int on_step(void *user, const gimbal_progress *p)
{
    gimbal_session *s = user;
    s->paused = true;
    const int stop = s->run.s.progress(s->run.s.user, p);
    s->paused = false;
    return stop;
}

/* The clip has been filled by now. torch's sequence begins with what encoding it takes, and diffusers' video
 * to video draws the noise for it frame by frame. */
static int begin_from_clip(gimbal_session *s, gimbal_error *err)
{
    const gimbal_shape shape = s->run.shape;
    TRY(check_given("the clip to begin from", s->run.s.clip, shape_count(shape), err));
    s->white.frames_first |= 1u << DRAW_INIT;
    return s->white.torch ? encode_noise(&s->white, shape, CLIP_DRAW, NULL, err) : GIMBAL_OK;
}

/* The picture and the reference have been filled by now; behind what encoding them takes of torch's sequence.
 */
static int begin_from_picture(gimbal_session *s, gimbal_error *err)
{
    gimbal_shape shape = s->run.shape;
    TRY(check_given("the reference", s->run.s.reference, shape_count(shape), err));
    const size_t frame = shape_count(shape) / (size_t)shape.f;
    TRY(check_given("the picture to begin from", s->run.s.image, frame, err));
    shape.f = run_pictures(&s->run);
    return s->white.torch ? encode_noise(&s->white, shape, shape.f, NULL, err) : GIMBAL_OK;
}

static int begin_from(gimbal_session *s, gimbal_error *err)
{
    if (s->run.s.clip)
        return begin_from_clip(s, err);
    return s->run.s.image || s->run.s.reference ? begin_from_picture(s, err) : GIMBAL_OK;
}

/* A run from its beginning: the random numbers too. */
int session_start_run(gimbal_session *s, gimbal_error *err)
{
    const Run *r = &s->run;
    TRY(white_init(&s->white, r->s.rng, r->s.seed, err));
    if (r->s.base_seed)
        s->white.shared_seed = r->s.base_seed;
    if (s->engine->family->step_by_frame)
        s->white.frames_first |= 1u << DRAW_STEP;
    TRY(begin_from(s, err));
    s->prior = (PriorNoise){.noise = r->noise, .self = r->noise_self, .white = white_source(&s->white)};
    s->driver = (Driver){
        .schedule = &r->schedule,
        .sampler = r->sampler,
        .sampler_self = r->sampler_self,
        .reinit = r->reinit,
        .reinit_self = r->reinit_self,
        .noise = prior_source(&s->prior),
        .given = r->s.latents,
        .fresh = r->s.fresh,
        .n_fresh = r->s.n_fresh,
        .clip = r->s.clip,
        .strength = r->s.strength,
        .steps = r->s.steps,
        .eta = r->s.eta,
        .cfg = r->s.cfg,
        .image = r->s.image,
        .reference = r->s.reference,
        .hold = r->hold,
        .blank = s->plans.guide.blank,
        .cfg_image = r->s.cfg_image,
        .chunks = r->s.chunks,
        .chunk_given = r->s.chunk_latents,
        .n_chunk_given = r->s.n_chunk_latents,
        .shape = r->shape,
        .net = plans_denoise(&s->plans),
        .cancel = &s->cancel,
        .progress = r->s.progress ? on_step : NULL,
        .user = s,
    };
    s->running = true;
    return GIMBAL_OK;
}

static int sample(gimbal_session *s, float *latents, gimbal_error *err)
{
    TRY(engine_can_sample(s->engine, err));
    TRY(session_texts(s, err));
    if (!s->running)
        TRY(session_start_run(s, err));
    plans_clear(&s->plans);
    TRY(driver_run(&s->driver, latents, err));
    driver_end(&s->driver);
    s->running = false;
    return GIMBAL_OK;
}

int gimbal_sample(gimbal_session *s, float *latents, gimbal_error *err)
{
    TRY(session_enter(s, "gimbal_sample", err));
    return session_leave(s, sample(s, latents, err));
}

/* ---- decoding ---------------------------------------------------------------------------- */

/* Frames from.. of latents [C,F,h,w] as z [n,h,w,C], n of the plan; past the end the last frame again. */
static void gather(const float *latents, gimbal_shape s, int from, int n, float factor, float *z)
{
    const size_t plane = (size_t)s.h * s.w;
    for (int i = 0; i < n; i++) {
        const int f = MIN(from + i, s.f - 1);
        for (int c = 0; c < s.c; c++) {
            const float *x = latents + ((size_t)c * s.f + f) * plane;
            float *rows = z + (size_t)i * plane * s.c + c;
            for (size_t k = 0; k < plane; k++)
                rows[k * s.c] = factor * x[k];
        }
    }
}

/* About -1..1 to 0..255. */
static void to_bytes(const float *x, size_t n, uint8_t *rgb)
{
    for (size_t i = 0; i < n; i++)
        rgb[i] = (uint8_t)rintf(255.0f * fminf(fmaxf(x[i] / 2 + 0.5f, 0.0f), 1.0f));
}

typedef int (*OnFrame)(void *user, int i, const uint8_t *rgb, int width, int height);

static int decode_all(gimbal_session *s, const float *latents, gimbal_shape shape, float *z, uint8_t *rgb,
                      OnFrame frame, void *user, gimbal_error *err)
{
    const int factor = vae_factor(s->engine->vae), width = shape.w * factor, height = shape.h * factor;
    const int n = s->plans.decode.f;
    const size_t picture = 3 * (size_t)width * height;
    const float unscale = (float)(1.0 / vae_scaling(s->engine->vae));
    const double since = seconds_now();
    for (int from = 0; from < shape.f; from += n) {
        const float *pictures;
        gather(latents, shape, from, n, unscale, z);
        TRY(plans_picture(&s->plans, z, &pictures, err));
        for (int i = from; i < MIN(from + n, shape.f); i++) {
            to_bytes(pictures + (size_t)(i - from) * picture, picture, rgb);
            if (frame(user, i, rgb, width, height))
                return fail(err, GIMBAL_ECANCEL, "stopped by the receiver of frame %d", i);
            TRY(session_report(s, "decode", i + 1, shape.f, since, err));
        }
    }
    return GIMBAL_OK;
}

static int check_latents(const gimbal_session *s, const float *latents, gimbal_shape shape, gimbal_error *err)
{
    enum { MOST = 1 << 20 };
    const int c = vae_channels(s->engine->vae);
    const int64_t pixels =
        (int64_t)shape.h * shape.w * vae_factor(s->engine->vae) * vae_factor(s->engine->vae);
    if (shape.c != c)
        return fail(err, GIMBAL_EMODEL, "latents have %d channels, this model's VAE has %d", shape.c, c);
    if (shape.f < 1 || shape.h < 1 || shape.w < 1 || shape.f > MOST || shape.h > MOST || shape.w > MOST ||
        pixels > (1 << 28))
        return fail(err, GIMBAL_EUSAGE,
                    "latents [%d,%d,%d,%d]: expected at least one frame and at most 2^28 pixels a picture",
                    shape.c, shape.f, shape.h, shape.w);
    for (size_t i = 0, n = shape_count(shape); i < n; i++)
        if (!isfinite(latents[i]))
            return fail(err, GIMBAL_EUSAGE, "latents: value %zu of %zu is not finite (%g)", i, n,
                        (double)latents[i]);
    return GIMBAL_OK;
}

static int decode(gimbal_session *s, const float *latents, gimbal_shape shape, OnFrame frame, void *user,
                  gimbal_error *err)
{
    const size_t factor = (size_t)vae_factor(s->engine->vae);
    TRY(check_latents(s, latents, shape, err));
    plans_clear(&s->plans);
    TRY(plans_decode(&s->plans, shape, err));
    float *z = alloc_array(shape_count(s->plans.decode), sizeof(float));
    uint8_t *rgb = alloc_array(3 * factor * factor * (size_t)shape.h, (size_t)shape.w);
    const int code =
        z && rgb ? decode_all(s, latents, shape, z, rgb, frame, user, err)
                 : fail(err, GIMBAL_ENOMEM, "no memory for a picture of %d x %d latents", shape.w, shape.h);
    free(z);
    free(rgb);
    return code;
}

/* A preview: sampling goes on afterwards as if nothing had been. A cancel stays, for it is the run's too. */
static int decode_aside(gimbal_session *s, const float *latents, gimbal_shape shape, OnFrame frame,
                        void *user, gimbal_error *err)
{
    s->decoding = true;
    const int code = decode(s, latents, shape, frame, user, err);
    s->decoding = false;
    plans_clear(&s->plans);
    return code;
}

int gimbal_decode(gimbal_session *s, const float *latents, gimbal_shape shape, OnFrame frame, void *user,
                  gimbal_error *err)
{
    if (s->paused && !s->decoding)
        return decode_aside(s, latents, shape, frame, user, err);
    TRY(session_enter(s, "gimbal_decode", err));
    return session_leave(s, decode(s, latents, shape, frame, user, err));
}
