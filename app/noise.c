/* noise.c: gimbal noise: latents for any engine, without a model.
 *
 *     out = fresh                                                    drawn by --noise, --rng, --seed
 *     out = F^-1( F(z) m + F(fresh) g ),  m of --reinit              with --low: FreeInit's mix (Wu et al.,
 * 2024) z   = low, or sqrt(abar) low + sqrt(1 - abar) first            with --first and --alpha-bar: a
 * finished clip
 *
 * Values are unit noise. Layouts of the file, by --layout:
 *     gimbal            "latents" [1,C,F,h,w]
 *     diffusers         the same: the `latents` argument of AnimateDiffPipeline and TextToVideoSDPipeline,
 * whose prepare_latents multiplies by init_noise_sigma (diffusers 0.33.1, pipeline_animatediff.py)
 *     diffusers-images  "latents" [F,C,h,w]: the `latents` of image pipelines, a frame per picture of the
 * batch comfyui           "latent_tensor" [F,C,h,w] and the empty marker "latent_format_version_0", without
 * which LoadLatent divides by 0.18215 (ComfyUI nodes.py, SaveLatent and LoadLatent, @01094316) A .npy file
 * holds the array alone. Refuses to know models: the schedule's abar is a number that is given. */
#include "app/app.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *output, *noise, *rng, *reinit, *low, *first, *mask, *power, *layout, *latent_size;
    uint64_t seed;
    double alpha_bar, low_scale;
    int frames, first_frame, width, height, channels, json;
} Flags;

static const char *const rngs[] = {"philox", "torch", NULL};
static const char *const powers[] = {"auto", "on", "off", NULL};
static const char *const layouts[] = {"gimbal", "diffusers", "diffusers-images", "comfyui", NULL};

enum { MOST_VALUES = 1 << 30, MOST_SIDE = 1024 };

#define AT(field) offsetof(Flags, field)
#define TEXT(name, field, help, def)                                                                         \
    {                                                                                                        \
        name, help, GIMBAL_TEXT, AT(field), 0, 0, 0, def, NULL                                               \
    }
#define INT(name, field, help, def, min, max)                                                                \
    {                                                                                                        \
        name, help, GIMBAL_INT, AT(field), def, min, max, NULL, NULL                                         \
    }
static const gimbal_option options[] = {
    TEXT("output", output, "OUT, also -o: .safetensors, .npy, or .latent (of comfyui)", NULL),
    TEXT("noise", noise, "prior of the noise", "white"),
    {"rng", "random numbers: gimbal's own, or PyTorch's CPU generator", GIMBAL_CHOICE, AT(rng), 0, 0, 0,
     "philox", rngs},
    {"seed", "same seed, same noise", GIMBAL_SEED, AT(seed), 0, 0, 0, NULL, NULL},
    INT("frames", frames, "length of the clip; without it LOW's, or 16", 0, 1, 4096),
    INT("first-frame", first_frame, "absolute number of the first frame: a clip in pieces (rng philox)", 0, 0,
        1 << 30),
    INT("width", width, "pixels, a multiple of 8; without it LOW's, or 512", 0, 8, 8 * MOST_SIDE),
    INT("height", height, "pixels, a multiple of 8; without it LOW's, or 512", 0, 8, 8 * MOST_SIDE),
    TEXT("latent-size", latent_size, "HxW in latent pixels, instead of --width and --height", NULL),
    INT("channels", channels, "of the latents", 4, 1, 64),
    {"layout", "how the file is laid out, and LOW and FIRST", GIMBAL_CHOICE, AT(layout), 0, 0, 0, "gimbal",
     layouts},
    TEXT("reinit", reinit, "the re-initialiser whose mask mixes LOW with the noise", NULL),
    TEXT("low", low, "file of latents whose low band is kept", NULL),
    {"low-scale", "LOW times this; 0.18215 for ComfyUI's latents of SD 1.5", GIMBAL_REAL, AT(low_scale), 1,
     -1e6, 1e6, NULL, NULL},
    TEXT("first", first, "LOW is a finished clip: the unit noise that it was made from", NULL),
    {"alpha-bar", "with --first: abar of the timestep that sampling starts at", GIMBAL_REAL, AT(alpha_bar), 0,
     0, 1, NULL, NULL},
    {"power", "mix so that variance is kept; auto: as the re-initialiser does", GIMBAL_CHOICE, AT(power), 0,
     0, 0, "auto", powers},
    TEXT("mask", mask, "file for the mask [F,h,w] of --reinit, DC first", NULL),
    {"json", "a JSON object on stdout", GIMBAL_BOOL, AT(json), 0, 0, 1, NULL, NULL},
    {.name = NULL},
};

typedef struct {
    const Args *args;
    Flags flags;
    gimbal_shape shape;
    float *out, *low, *first, *mask; /* [C,F,h,w] each, mask [F,h,w] */
    char *recipe;                    /* what was asked, as JSON */
} Job;

static size_t count_of(gimbal_shape s)
{
    return (size_t)s.c * (size_t)s.f * (size_t)s.h * (size_t)s.w;
}

static bool is_npy(const char *path)
{
    return ends_with(path, ".npy");
}

/* ---- what contradicts itself ------------------------------------------------------------- */

static int check_ending(const char *path, const char *layout, gimbal_error *err)
{
    if (ends_with(path, ".latent") && strcmp(layout, "comfyui"))
        return complain(err, GIMBAL_EUSAGE, "--layout comfyui", "%s: .latent is ComfyUI's, the layout is %s",
                        path, layout);
    if (is_npy(path) || ends_with(path, ".safetensors") || ends_with(path, ".latent"))
        return check_place(path, err);
    return complain(err, GIMBAL_EUSAGE, NULL, "%s: unknown ending, expected .safetensors, .npy or .latent",
                    path);
}

static int check_mixing(const Job *job, gimbal_error *err)
{
    const Flags *f = &job->flags;
    if (f->low && !f->reinit)
        return complain(err, GIMBAL_EUSAGE, "--reinit freeinit", "--low needs --reinit, whose mask mixes");
    if (f->reinit && !f->low && !f->mask)
        return complain(err, GIMBAL_EUSAGE, NULL,
                        "--reinit needs --low FILE (latents to mix with) or --mask FILE (to write its mask)");
    if (f->mask && !f->reinit)
        return complain(err, GIMBAL_EUSAGE, "--reinit freeinit",
                        "--mask needs --reinit, whose mask is written");
    if ((f->first || args_has(job->args, "low-scale")) && !f->low)
        return complain(err, GIMBAL_EUSAGE, NULL, "--%s without --low has no meaning",
                        f->first ? "first" : "low-scale");
    if ((f->first != NULL) != args_has(job->args, "alpha-bar"))
        return complain(err, GIMBAL_EUSAGE, "SD 1.5: 0.0047 at timestep 999",
                        "--first and --alpha-bar belong together");
    if (args_has(job->args, "power") && !f->low)
        return complain(err, GIMBAL_EUSAGE, NULL, "--power without --low has no meaning");
    return GIMBAL_OK;
}

static int check_flags(const Job *job, gimbal_error *err)
{
    const Flags *f = &job->flags;
    if (job->args->n_words)
        return complain(err, GIMBAL_EUSAGE, NULL, "\"%.60s\": unexpected argument", job->args->words[0]);
    if (!f->output && !f->mask)
        return complain(err, GIMBAL_EUSAGE, "-o noise.safetensors",
                        "-o is missing: where should the noise go?");
    if (f->latent_size && (f->width || f->height))
        return complain(err, GIMBAL_EUSAGE, NULL, "--latent-size and --width or --height are both given");
    if (f->width % 8 || f->height % 8)
        return complain(err, GIMBAL_EUSAGE, NULL,
                        "--width and --height are %d and %d, expected multiples of 8", f->width, f->height);
    TRY(check_mixing(job, err));
    if (f->mask)
        TRY(check_ending(f->mask, f->layout, err));
    return f->output ? check_ending(f->output, f->layout, err) : GIMBAL_OK;
}

/* ---- layouts ----------------------------------------------------------------------------- */

/* Is the axis of frames before that of channels? */
static bool frames_first(const char *layout)
{
    return !strcmp(layout, "diffusers-images") || !strcmp(layout, "comfyui");
}

static const char *tensor_name(const char *layout)
{
    return strcmp(layout, "comfyui") ? "latents" : "latent_tensor";
}

/* [A,B,h,w] -> [B,A,h,w]: between [C,F,..] and [F,C,..] in either direction. NULL: no memory. */
static float *swapped(const float *x, size_t a, size_t b, size_t plane)
{
    float *out = malloc(a * b * plane * sizeof *out);
    for (size_t i = 0; out && i < a; i++)
        for (size_t k = 0; k < b; k++)
            memcpy(out + (k * a + i) * plane, x + (i * b + k) * plane, plane * sizeof *out);
    return out;
}

/* Latents of a file in the layout: *out [C,F,h,w], caller frees. */
static int read_latents(const char *path, const char *layout, float **out, gimbal_shape *shape,
                        gimbal_error *err)
{
    int64_t n[6];
    *out = NULL;
    TRY(is_npy(path) ? npy_read(path, out, n, err)
                     : gimbal_tensor_read(path, tensor_name(layout), out, n, err));
    const bool swap = frames_first(layout);
    bool fits = n[0] == 1 && n[1] == 1;
    for (int i = 2; i < 6; i++)
        fits = fits && n[i] > 0 && n[i] <= 4096;
    if (!fits || n[2] * n[3] * n[4] * n[5] > MOST_VALUES)
        return complain(err, GIMBAL_EFORMAT, "--layout says how it is laid out",
                        "%s: is [%lld,%lld,%lld,%lld,%lld], expected [%s,height,width]", path,
                        (long long)n[1], (long long)n[2], (long long)n[3], (long long)n[4], (long long)n[5],
                        swap ? "frames,channels" : "1,channels,frames");
    *shape = (gimbal_shape){(int)n[2], (int)n[3], (int)n[4], (int)n[5]};
    if (swap) {
        float *turned = swapped(*out, (size_t)n[2], (size_t)n[3], (size_t)(n[4] * n[5]));
        free(*out);
        *out = turned;
        shape->c = (int)n[3], shape->f = (int)n[2];
    }
    return *out ? GIMBAL_OK : fail_memory(err);
}

static int write_latents(const Job *job, gimbal_error *err)
{
    const Flags *f = &job->flags;
    const gimbal_shape s = job->shape;
    const bool swap = frames_first(f->layout), comfy = !strcmp(f->layout, "comfyui");
    float *turned = NULL;
    if (swap && !(turned = swapped(job->out, (size_t)s.c, (size_t)s.f, (size_t)s.h * (size_t)s.w)))
        return fail_memory(err);
    gimbal_tensor t[2] = {
        {tensor_name(f->layout), "F32", 5, {1, s.c, s.f, s.h, s.w}, job->out},
        {"latent_format_version_0", "F32", 1, {0}, ""},
    };
    if (swap)
        t[0].nd = 4, t[0].n[0] = s.f, t[0].n[1] = s.c, t[0].n[2] = s.h, t[0].n[3] = s.w, t[0].data = turned;
    const char *metadata[] = {"noise", job->recipe, NULL};
    const int code = is_npy(f->output) ? npy_write(f->output, t[0].data, t[0].n, t[0].nd, err)
                                       : gimbal_tensors_write(f->output, t, comfy ? 2 : 1, metadata, err);
    free(turned);
    return code;
}

static int write_mask(const Job *job, gimbal_error *err)
{
    const gimbal_shape s = job->shape;
    const gimbal_tensor t = {"mask", "F32", 3, {s.f, s.h, s.w}, job->mask};
    const char *metadata[] = {"noise", job->recipe, NULL};
    return is_npy(job->flags.mask) ? npy_write(job->flags.mask, job->mask, t.n, t.nd, err)
                                   : gimbal_tensors_write(job->flags.mask, &t, 1, metadata, err);
}

/* ---- the shape --------------------------------------------------------------------------- */

static int read_size(const char *text, int *h, int *w, gimbal_error *err)
{
    int used = 0;
    if (sscanf(text, "%4dx%4d%n", h, w, &used) == 2 && !text[used] && *h > 0 && *w > 0 && *h <= MOST_SIDE &&
        *w <= MOST_SIDE)
        return GIMBAL_OK;
    return complain(err, GIMBAL_EUSAGE, NULL,
                    "--latent-size is %.40s, expected HxW, each 1 to %d, such as 32x48", text, MOST_SIDE);
}

static int choose(int asked, int of_low, int otherwise)
{
    return asked ? asked : of_low ? of_low : otherwise;
}

/* Of flags, else of LOW, else of 16 frames of 512x512; what LOW is cannot be asked otherwise. */
static int find_shape(Job *job, gimbal_error *err)
{
    const Flags *f = &job->flags;
    gimbal_shape low = {0, 0, 0, 0}, *s = &job->shape;
    int h = f->height / 8, w = f->width / 8;
    if (f->latent_size)
        TRY(read_size(f->latent_size, &h, &w, err));
    if (f->low)
        TRY(read_latents(f->low, f->layout, &job->low, &low, err));
    *s =
        (gimbal_shape){f->channels, choose(f->frames, low.f, 16), choose(h, low.h, 64), choose(w, low.w, 64)};
    if (f->low && (s->c != low.c || s->f != low.f || s->h != low.h || s->w != low.w))
        return complain(err, GIMBAL_EMODEL,
                        "without --frames, --width and --height those of LOW hold; is --layout right?",
                        "%s: channels, frames, height, width are %d,%d,%d,%d, asked for are %d,%d,%d,%d",
                        f->low, low.c, low.f, low.h, low.w, s->c, s->f, s->h, s->w);
    if ((double)s->c * s->f * s->h * s->w > MOST_VALUES)
        return complain(err, GIMBAL_EUSAGE, NULL,
                        "channels, frames, height, width %d,%d,%d,%d: more than %d values", s->c, s->f, s->h,
                        s->w, MOST_VALUES);
    return GIMBAL_OK;
}

/* ---- the work ---------------------------------------------------------------------------- */

/* low becomes z. */
static int renoise(Job *job, gimbal_error *err)
{
    const Flags *f = &job->flags;
    const size_t n = count_of(job->shape);
    gimbal_shape s;
    for (size_t i = 0; i < n; i++)
        job->low[i] *= (float)f->low_scale;
    if (!f->first)
        return GIMBAL_OK;
    TRY(read_latents(f->first, f->layout, &job->first, &s, err));
    if (s.c != job->shape.c || s.f != job->shape.f || s.h != job->shape.h || s.w != job->shape.w)
        return complain(err, GIMBAL_EMODEL, NULL, "%s: its shape is not that of %s", f->first, f->low);
    if (!memcmp(job->first, job->out, n * sizeof *job->out))
        return complain(err, GIMBAL_EUSAGE, "another --seed",
                        "the fresh noise is %s itself: the high band would not be drawn anew", f->first);
    const float a = (float)sqrt(f->alpha_bar), b = (float)sqrt(1 - f->alpha_bar);
    for (size_t i = 0; i < n; i++)
        job->low[i] = a * job->low[i] + b * job->first[i];
    return GIMBAL_OK;
}

static int mix(Job *job, gimbal_error *err)
{
    const Flags *f = &job->flags;
    int power = !strcmp(f->power, "on");
    job->mask = calloc(count_of(job->shape) / (size_t)job->shape.c, sizeof *job->mask);
    if (!job->mask)
        return fail_memory(err);
    TRY(gimbal_mask(f->reinit, job->shape, job->mask, err));
    if (!f->low)
        return GIMBAL_OK;
    if (!strcmp(f->power, "auto"))
        TRY(gimbal_mask_power(f->reinit, &power, err));
    TRY(renoise(job, err));
    return gimbal_mix(job->low, job->out, job->mask, power, job->shape, job->out, err);
}

/* What was asked, for the file's metadata and --json. NULL: no memory. */
static json_t *describe(const Job *job)
{
    const Flags *f = &job->flags;
    const gimbal_shape s = job->shape;
    char seed[24];
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)f->seed);
    json_t *out = json_pack("{s:o, s:s, s:s, s:i, s:s, s:[i,i,i,i]}", "noise", json_text(f->noise), "rng",
                            f->rng, "seed", seed, "first-frame", f->first_frame, "layout", f->layout, "shape",
                            s.c, s.f, s.h, s.w);
    if (out && f->reinit)
        json_object_set_new(out, "reinit", json_text(f->reinit));
    if (out && f->low)
        json_object_set_new(out, "low", json_text(f->low));
    return out;
}

static int make(Job *job, gimbal_error *err)
{
    const Flags *f = &job->flags;
    TRY(find_shape(job, err));
    json_t *asked = describe(job);
    job->recipe = asked ? json_dumps(asked, JSON_COMPACT) : NULL;
    json_decref(asked);
    job->out = calloc(count_of(job->shape), sizeof *job->out);
    if (!job->out || !job->recipe)
        return fail_memory(err);
    TRY(gimbal_noise(f->noise, f->rng, f->seed, f->first_frame, job->shape, job->out, err));
    if (f->reinit)
        TRY(mix(job, err));
    TRY(check_signals(err));
    if (f->mask)
        TRY(write_mask(job, err));
    return f->output ? write_latents(job, err) : GIMBAL_OK;
}

static int report(const Job *job, gimbal_error *err)
{
    const Flags *f = &job->flags;
    const size_t n = count_of(job->shape);
    double sum = 0, squares = 0;
    if (!f->json) {
        puts(f->output ? f->output : f->mask);
        return flush_stdout(err);
    }
    for (size_t i = 0; i < n; i++)
        sum += job->out[i], squares += (double)job->out[i] * job->out[i];
    json_t *out = describe(job);
    json_object_set_new(out, "schema", json_integer(1));
    json_object_set_new(out, "output", json_text(f->output));
    json_object_set_new(out, "mask", json_text(f->mask));
    json_object_set_new(out, "mean", json_real(sum / (double)n));
    json_object_set_new(out, "rms", json_real(sqrt(squares / (double)n)));
    return print_json(out, err);
}

static int run(const Args *args, gimbal_error *err)
{
    Job job = {.args = args};
    args_defaults(&command_noise, &job.flags);
    int code = args_apply(args, &job.flags, err);
    code = code ? code : check_flags(&job, err);
    code = code ? code : make(&job, err);
    code = code ? code : report(&job, err);
    free(job.out);
    free(job.low);
    free(job.first);
    free(job.mask);
    free(job.recipe);
    return code;
}

const Command command_noise = {
    .name = "noise",
    .usage = "noise [--noise SPEC] [--reinit SPEC --low FILE] -o OUT [flags]",
    .help =
        "Draws latents, or re-initialises a clip's, for any engine; needs no model. Values are unit noise.",
    .options = options,
    .more = "layouts: gimbal and diffusers \"latents\" [1,C,F,h,w]; diffusers-images \"latents\" [F,C,h,w];\n"
            "         comfyui \"latent_tensor\" [F,C,h,w], as ComfyUI's .latent files; .npy holds the array "
            "alone\n"
            "example: gimbal noise --noise white --seed 7 --frames 16 -o first.npy\n"
            "         gimbal noise --seed 8 --reinit freeinit --low clip.npy --first first.npy --alpha-bar "
            "0.0047\n"
            "         -o second.npy          (FreeInit's second pass starts from it)\n",
    .run = run,
};
