/* settings.c: gimbal_settings: the option table, the model's defaults, and a run's settings checked against a
 * model.
 *
 * A caller in C can put anything into the struct, so the table's ranges and choices are applied again here,
 * not only where text is parsed. What is checked only against a model: frames (the motion module's
 * positions), sizes (a multiple of what the VAE and diffusers can do), steps (the schedule's length), and
 * whether the re-initialiser serves the sampler.
 *
 * Messages name the option as the command line spells it, the value found and the range expected. */
#include "diffusion/engine.h"
#include "tensor/backend.h"

#include <math.h>
#include <string.h>

enum { MAX_FRAMES = 4096, MAX_SIDE = 8192, MAX_STEPS = 10000, MAX_THREADS = 1024 };
enum { MAX_STRIDE = 1000, MAX_CHUNKS = 4096, MAX_VIDEO = 65536 };

static const char *const rngs[] = {"philox", "torch", NULL};
static const char *const spacings[] = {"leading", "linspace", "trailing", NULL};
static const char *const beta_names[] = {"linear", "scaled_linear", NULL};
static const char *const norms[] = {"clip", "frame", NULL};
static const char *const dtypes[] = {"f32", "bf16", "auto", NULL};

#define TEXT(field, help, text)                                                                              \
    {                                                                                                        \
#field, help, GIMBAL_TEXT, offsetof(gimbal_settings, field), 0, 0, 0, text, NULL                     \
    }
#define CHOICE(name, field, help, text, list)                                                                \
    {                                                                                                        \
        name, help, GIMBAL_CHOICE, offsetof(gimbal_settings, field), 0, 0, 0, text, list                     \
    }
#define INT(field, help, def, min, max) INT_AS(#field, field, help, def, min, max)
#define REAL(field, help, def, min, max) REAL_AS(#field, field, help, def, min, max)
#define INT_AS(name, field, help, def, min, max)                                                             \
    {                                                                                                        \
        name, help, GIMBAL_INT, offsetof(gimbal_settings, field), def, min, max, NULL, NULL                  \
    }
#define REAL_AS(name, field, help, def, min, max)                                                            \
    {                                                                                                        \
        name, help, GIMBAL_REAL, offsetof(gimbal_settings, field), def, min, max, NULL, NULL                 \
    }

/* A default of 0 or NULL for a number or a schedule is the model's own, filled in by gimbal_defaults. */
static const gimbal_option table[] = {
    TEXT(prompt, "what the clip shows", ""),
    TEXT(negative, "what it should not show (needs cfg > 1)", ""),
    INT(frames, "length of the clip, or of one chunk", 0, 1, MAX_FRAMES),
    INT(chunks,
        "image to video: clips that follow each other, each beginning with the last one's last frame; K "
        "chunks "
        "make K (frames - 1) + 1 frames",
        1, 1, MAX_CHUNKS),
    INT(width, "pixels, a multiple of 8", 0, 8, MAX_SIDE),
    INT(height, "pixels, a multiple of 8", 0, 8, MAX_SIDE),
    INT(steps, "network calls of one full pass", 0, 1, MAX_STEPS),
    REAL(cfg, "guidance scale: how strictly the prompt is followed; off at 1 and below", 0, 0, 1000),
    REAL_AS("cfg-image", cfg_image,
            "image to video: how strictly the picture is followed; above 1 a third branch a step, whatever "
            "--cfg is; off at 1 and below",
            1, 0, 1000),
    REAL_AS(
        "cfg-base", cfg_base,
        "VideoFusion: guidance scale of the base network, whose frame the others follow; 0: that of --cfg", 0,
        0, 1000),
    REAL(rescale,
         "share of the guided prediction that is brought back to its unguided deviation, against harsh "
         "colours; "
         "needs --cfg above 1, and no --cfg-image",
         0, 0, 1),
    INT_AS("frame-stride", frame_stride,
           "frames of the film between two of the clip, for models that were told: higher is faster motion, "
           "trained with 1 to 5; 0: the model's own",
           0, 0, MAX_STRIDE),
    REAL(eta, "DDIM: noise put back at each step, 0 none, 1 as much as DDPM", 0, 0, 1),
    REAL(strength, "with a clip to begin from: share of the steps that is run; 1 forgets it", 0.8, 0, 1),
    {"seed", "same seed, same clip", GIMBAL_SEED, offsetof(gimbal_settings, seed), 0, 0, 0, NULL, NULL},
    {"base-seed",
     "seed of the noise that all frames share: the same base with other residuals, or the reverse; 0: "
     "--seed's",
     GIMBAL_SEED, offsetof(gimbal_settings, base_seed), 0, 0, 0, NULL, NULL},
    CHOICE("rng", rng, "random numbers: gimbal's own, or PyTorch's CPU generator", "philox", rngs),
    TEXT(sampler, "how the steps are made", NULL),
    CHOICE("spacing", spacing, "where the steps lie in time", NULL, spacings),
    CHOICE("betas", betas, "noise schedule", NULL, beta_names),
    CHOICE("motion-norm", motion_norm,
           "motion modules' group norms: over the clip (diffusers) or each frame (the original)", "clip",
           norms),
    TEXT(noise, "prior of the initial noise", "white"),
    TEXT(reinit, "re-initialisation of the noise between passes", "none"),
    CHOICE("dtype", dtype,
           "the U-Net's products: f32, bf16 (of rounded inputs, summed in float32), or auto: bf16 where the "
           "CPU has it and the network is large",
           "auto", dtypes),
    INT(threads, "0: all this process may use", 0, 0, MAX_THREADS),
    {.name = NULL},
};

const gimbal_option *gimbal_setting_options(void)
{
    return table;
}

void gimbal_defaults(gimbal_settings *s, const gimbal_engine *e)
{
    const int step = gimbal_size_step(e), most = e->shape.max_frames;
    memset(s, 0, sizeof *s);
    s->size = sizeof *s;
    options_default(table, s);
    s->frames = most > 0 ? MIN(e->run.frames, most) : e->run.frames;
    s->width = MIN(MAX(e->run.width / step, 1) * step, MAX_SIDE);
    s->height = MIN(MAX(e->run.height / step, 1) * step, MAX_SIDE);
    s->steps = MIN(e->run.steps, e->train_steps);
    s->cfg = e->run.cfg;
    s->frame_stride = e->run.frame_stride;
    if (e->run.noise)
        s->noise = e->run.noise;
    if (e->run.reinit)
        s->reinit = e->run.reinit;
    s->betas = e->betas;
    s->spacing = e->spacing;
    s->sampler = e->sampler;
}

/* ---- the table's own rules, for callers in C --------------------------------------------- */

static bool is_choice(const char *const *choices, const char *word)
{
    for (int i = 0; choices[i]; i++)
        if (!strcmp(choices[i], word))
            return true;
    return false;
}

static int refuse_choice(const gimbal_option *o, const char *found, gimbal_error *err)
{
    char list[160] = "";
    for (int i = 0; o->choices[i]; i++) {
        const size_t at = strlen(list);
        snprintf(list + at, sizeof list - at, "%s%s", at ? ", " : "", o->choices[i]);
    }
    return fail(err, GIMBAL_EUSAGE, "--%s is \"%.64s\", expected one of: %s", o->name, found, list);
}

static int check_field(const gimbal_option *o, const gimbal_settings *s, gimbal_error *err)
{
    const char *field = (const char *)s + o->offset;
    double value;
    if (o->type == GIMBAL_CHOICE) {
        const char *word = *(const char *const *)(const void *)field;
        return !word || is_choice(o->choices, word) ? GIMBAL_OK : refuse_choice(o, word, err);
    }
    if (o->type == GIMBAL_INT)
        value = *(const int *)(const void *)field;
    else if (o->type == GIMBAL_REAL)
        value = *(const double *)(const void *)field;
    else
        return GIMBAL_OK;
    if (value >= o->min && value <= o->max) /* false for nan */
        return GIMBAL_OK;
    return fail(err, GIMBAL_EUSAGE, "--%s is %g, expected %g to %g", o->name, value, o->min, o->max);
}

static int check_table(const gimbal_settings *s, gimbal_error *err)
{
    for (const gimbal_option *o = table; o->name; o++)
        TRY(check_field(o, s, err));
    return GIMBAL_OK;
}

/* ---- rules of the model ------------------------------------------------------------------ */

static int check_side(const char *name, int value, int step, gimbal_error *err)
{
    char hint[80];
    if (value % step == 0)
        return GIMBAL_OK;
    const int below = value / step * step;
    if (below)
        snprintf(hint, sizeof hint, "the nearest are %d and %d", below, below + step);
    else
        snprintf(hint, sizeof hint, "the smallest is %d", step);
    return fail_hint(err, GIMBAL_EUSAGE, hint, "--%s is %d, expected a multiple of %d", name, value, step);
}

/* One of the settings of image to video, for a model that was not made for it. */
static int check_no_image(const gimbal_settings *s, const gimbal_engine *e, gimbal_error *err)
{
    const char *name = s->chunks > 1 ? "chunks" : s->cfg_image > 1 ? "cfg-image" : NULL;
    if (name)
        return fail(err, GIMBAL_EUSAGE,
                    "--%s is %g, but this %s model does not begin from a picture and cannot use it", name,
                    s->chunks > 1 ? s->chunks : s->cfg_image, e->family->name);
    return GIMBAL_OK;
}

static int check_image(const gimbal_settings *s, const gimbal_engine *e, gimbal_error *err)
{
    const int64_t frames = (int64_t)s->chunks * (s->frames - 1) + 1;
    if (!s->image)
        return fail_hint(err, GIMBAL_EUSAGE, "give one with --image or --image-latents",
                         "this %s model begins from a picture, and there is none", e->family->name);
    if (s->frames < 2)
        return fail(err, GIMBAL_EUSAGE,
                    "--frames is %d, expected at least 2: the first frame is the picture itself", s->frames);
    if (frames > MAX_VIDEO)
        return fail(err, GIMBAL_EUSAGE, "--chunks %d of --frames %d are %lld frames, expected at most %d",
                    s->chunks, s->frames, (long long)frames, MAX_VIDEO);
    if (s->chunks > 1 && (s->clip || s->fresh))
        return fail(err, GIMBAL_EUSAGE, "--chunks is %d, but %s is of one clip's length", s->chunks,
                    s->clip ? "the clip to begin from" : "given re-initialisation noise");
    if (s->rescale > 0 && s->cfg_image > 1)
        return fail(err, GIMBAL_EUSAGE,
                    "--rescale is %g, which has no meaning with guidance by the image (--cfg-image is %g)",
                    s->rescale, s->cfg_image);
    return GIMBAL_OK;
}

static int check_picture(const gimbal_settings *s, const gimbal_engine *e, gimbal_error *err)
{
    if (s->frame_stride && !e->shape.stride)
        return fail(err, GIMBAL_EUSAGE, "--frame-stride is %d, but this %s model is not told the stride",
                    s->frame_stride, e->family->name);
    return (gimbal_needs_image(e) ? check_image : check_no_image)(s, e, err);
}

/* What two networks that share a clip's noise can do and a single one cannot, and the reverse. */
static int check_split(const gimbal_settings *s, const gimbal_engine *e, gimbal_error *err)
{
    if (!e->family->split)
        return s->cfg_base > 0 ? fail(err, GIMBAL_EUSAGE,
                                      "--cfg-base is %g, but this %s model has no base network of its own",
                                      s->cfg_base, e->family->name)
                               : GIMBAL_OK;
    if (s->rescale > 0)
        return fail(err, GIMBAL_EUSAGE,
                    "--rescale is %g, which is not defined for the two networks of a %s model", s->rescale,
                    e->family->name);
    if (s->frames > SPLIT_FRAMES)
        return fail(err, GIMBAL_EUSAGE, "--frames is %d, a %s model makes at most %d", s->frames,
                    e->family->name, SPLIT_FRAMES);
    if (e->split.listed && s->frames != e->split.frames)
        return fail(
            err, GIMBAL_EUSAGE,
            "--frames is %d, but \"lambda\" of %s lists the shares of %d frames, and clips of another "
            "length have none",
            s->frames, e->part[PART_SPLIT].where, e->split.frames);
    return GIMBAL_OK;
}

static int check_model(const gimbal_settings *s, const gimbal_engine *e, gimbal_error *err)
{
    const int most = e->shape.max_frames;
    TRY(check_split(s, e, err));
    if (most > 0 && s->frames > most)
        return fail_hint(err, GIMBAL_EUSAGE,
                         "motion_max_seq_length of the adapter is the limit; make several clips instead",
                         "--frames is %d, this motion module knows at most %d", s->frames, most);
    if (!e->family->needs_motion && strcmp(s->motion_norm, "clip"))
        return fail(
            err, GIMBAL_EUSAGE,
            "--motion-norm is %s, but this %s model has no motion modules: its norms over time cover the "
            "clip",
            s->motion_norm, e->family->name);
    if (s->steps > e->train_steps)
        return fail(err, GIMBAL_EUSAGE, "--steps is %d, the model's schedule has only %d", s->steps,
                    e->train_steps);
    TRY(check_picture(s, e, err));
    TRY(check_side("width", s->width, gimbal_size_step(e), err));
    return check_side("height", s->height, gimbal_size_step(e), err);
}

int check_given(const char *what, const float *x, size_t n, gimbal_error *err)
{
    for (size_t i = 0; x && i < n; i++)
        if (!isfinite(x[i]))
            return fail(err, GIMBAL_EUSAGE, "%s: value %zu of %zu is not finite (%g)", what, i, n,
                        (double)x[i]);
    return GIMBAL_OK;
}

static int check_tensors(const gimbal_settings *s, gimbal_shape shape, gimbal_error *err)
{
    const size_t n = shape_count(shape);
    if (s->n_fresh < 0 || s->n_fresh > MAX_PASSES || (s->fresh != NULL) != (s->n_fresh > 0))
        return fail(err, GIMBAL_EUSAGE, "fresh noise of %d passes %s; expected 1 to %d with data", s->n_fresh,
                    s->fresh ? "with data" : "without data", MAX_PASSES);
    if (s->n_chunk_latents < 0 || s->n_chunk_latents >= s->chunks + (s->chunks < 1) ||
        (s->chunk_latents != NULL) != (s->n_chunk_latents > 0))
        return fail(err, GIMBAL_EUSAGE, "noise of %d further chunks %s; expected at most %d, with data",
                    s->n_chunk_latents, s->chunk_latents ? "with data" : "without data", s->chunks - 1);
    TRY(check_given("the given latents", s->latents, n, err));
    TRY(check_given("the given latents of chunks", s->chunk_latents, n * (size_t)s->n_chunk_latents, err));
    return check_given("the given re-initialisation noise", s->fresh, n * (size_t)s->n_fresh, err);
}

/* ---- a run ------------------------------------------------------------------------------- */

const char *engine_fastest_type(const gimbal_engine *e)
{
    enum { LARGE = 100000000 };
    return e->unet_size >= LARGE && cpu_has_bf16() ? "bf16" : "f32";
}

void settings_fill(gimbal_settings *s, const gimbal_engine *e)
{
    gimbal_settings own;
    gimbal_defaults(&own, e);
#define FILL(field) s->field = s->field ? s->field : own.field
    FILL(prompt), FILL(negative), FILL(rng), FILL(sampler), FILL(spacing), FILL(betas), FILL(motion_norm),
        FILL(noise), FILL(reinit);
#undef FILL
    s->frame_stride = s->frame_stride ? s->frame_stride : own.frame_stride;
    if (!s->dtype || !strcmp(s->dtype, "auto"))
        s->dtype = engine_fastest_type(e);
}

static int count_calls(Run *r, gimbal_error *err)
{
    PlannedPass pass[MAX_PASSES];
    const Driver driver = {.schedule = &r->schedule,
                           .sampler = r->sampler,
                           .sampler_self = r->sampler_self,
                           .reinit = r->reinit,
                           .reinit_self = r->reinit_self,
                           .clip = r->s.clip,
                           .strength = r->s.strength,
                           .steps = r->s.steps,
                           .cfg = r->s.cfg,
                           .cfg_image = r->s.cfg_image,
                           .image = r->s.image,
                           .reference = r->s.reference};
    r->passes = driver_plan(&driver, pass, &r->keep, err);
    if (r->passes < 0)
        return r->passes;
    for (int i = 0; i < r->passes; i++) {
        const int steps = (pass[i].to - pass[i].from) * r->s.chunks, batch = pass[i].branches;
        r->calls += steps, r->calls_of[batch - 1] += steps;
        r->batch = MAX(r->batch, batch);
        if (r->share) {
            const int base = branches(r->s.cfg_base > 0 ? r->s.cfg_base : pass[i].cfg);
            r->base_of[base - 1] += split_base_calls(r->over_time, steps);
            r->batch = MAX(r->batch, base);
        }
    }
    return GIMBAL_OK;
}

static int parse_noise(Run *r, gimbal_error *err)
{
    TRY(noise_parse(r->s.noise, &r->noise, &r->noise_self, &r->keep, err));
    if (r->s.base_seed && !r->noise->shares)
        return fail_hint(err, GIMBAL_EUSAGE, "--noise shared has a base",
                         "--base-seed is %llu, but the frames of --noise %s share no noise",
                         (unsigned long long)r->s.base_seed, r->noise->name);
    if (r->s.base_seed && strcmp(r->s.rng, "philox"))
        return fail_hint(err, GIMBAL_EUSAGE, "use --rng philox",
                         "--base-seed is %llu, but --rng %s is one sequence for all noise",
                         (unsigned long long)r->s.base_seed, r->s.rng);
    return r->noise->fit ? r->noise->fit(r->noise_self, r->shape.f, r->share, err) : GIMBAL_OK;
}

static int parse_plugins(Run *r, gimbal_error *err)
{
    TRY(parse_noise(r, err));
    TRY(sampler_parse(r->s.sampler, &r->sampler, &r->sampler_self, &r->keep, err));
    TRY(reinit_parse(r->s.reinit, &r->reinit, &r->reinit_self, &r->keep, err));
    if (r->s.eta > 0 && !r->sampler->takes_eta)
        return fail_hint(err, GIMBAL_EUSAGE, "leave eta at 0, or use sampler ddim",
                         "--eta is %g, but --sampler %s is deterministic and would not use it", r->s.eta,
                         r->sampler->name);
    if ((r->s.reference || (r->s.image && !r->hold)) && !r->reinit->reads_picture)
        return fail_hint(err, GIMBAL_EUSAGE, "use --reinit frameinit",
                         "%s is given, but neither the model nor --reinit %s would use it",
                         r->s.reference ? "a reference" : "a picture", r->reinit->name);
    return count_calls(r, err);
}

/* Of a model whose two networks share the noise: each frame's share of the base. */
static int take_share(Run *r, const gimbal_engine *e, gimbal_error *err)
{
    if (!e->family->split)
        return GIMBAL_OK;
    double *share = arena_alloc(&r->keep, (size_t)r->shape.f * sizeof *share);
    if (!share)
        return fail(err, GIMBAL_ENOMEM, "no memory for %d frames", r->shape.f);
    for (int f = 0; f < r->shape.f; f++)
        share[f] = split_share(&e->split, r->shape.f, f);
    r->share = share, r->over_time = e->residual_shape.motion;
    return GIMBAL_OK;
}

static int resolve(Run *r, const gimbal_engine *e, gimbal_error *err)
{
    const char *note;
    settings_fill(&r->s, e);
    TRY(check_table(&r->s, err));
    TRY(check_model(&r->s, e, err));
    const int factor = vae_factor(e->vae);
    r->shape = (gimbal_shape){vae_channels(e->vae), r->s.frames, r->s.height / factor, r->s.width / factor};
    r->hold = gimbal_needs_image(e);
    r->whole = r->shape;
    r->whole.f = r->s.chunks * (r->s.frames - 1) + 1;
    r->s.threads = r->s.threads > 0 ? r->s.threads : threads_available();
    TRY(check_tensors(&r->s, r->shape, err));
    TRY(take_share(r, e, err));
    TRY(engine_schedule(e, r->s.betas, r->s.spacing, &r->schedule, &note, &r->keep, err));
    return parse_plugins(r, err);
}

int run_resolve(Run *r, const gimbal_engine *e, const gimbal_settings *s, gimbal_error *err)
{
    memset(r, 0, sizeof *r);
    if (s->size != sizeof *s)
        return fail_hint(err, GIMBAL_EUSAGE, "fill the settings with gimbal_defaults first",
                         "settings.size is %zu, this library's is %zu", s->size, sizeof *s);
    r->s = *s;
    const int code = resolve(r, e, err);
    if (code)
        run_free(r);
    return code;
}

void run_free(Run *r)
{
    arena_free(&r->keep);
}
