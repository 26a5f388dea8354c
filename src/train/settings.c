/* settings.c: gimbal_train_settings: the option table, what a recipe decides, and the checks that need no
 * model.
 *
 * Numbers below 0 and texts that are NULL are filled from the recipe and then from the model: what is written
 * into a checkpoint has every field. A caller in C can put anything into the struct, so the table's ranges
 * hold here again.
 *
 * Knows the table. Refuses to know networks and data. */
#include "train/train.h"

#include <math.h>
#include <string.h>

enum { MANY = 1 << 30, MAX_BATCH = 1 << 20, MAX_FRAMES = 4096, MAX_SIDE = 8192, MAX_THREADS = 1024 };

static const char *const dtypes[] = {"f32", "bf16", "auto", NULL};
static const char *const predictions[] = {"epsilon", "v_prediction", NULL};
static const char *const beta_names[] = {"linear", "scaled_linear", NULL};
static const char *const norms[] = {"clip", "frame", NULL};
static const char *const residuals[] = {"base", "video", "new", NULL};
static const char *const save_types[] = {"F32", "F16", "BF16", NULL};

#define AT(field) offsetof(gimbal_train_settings, field)
#define TEXT(name, field, help, text)                                                                        \
    {                                                                                                        \
        name, help, GIMBAL_TEXT, AT(field), 0, 0, 0, text, NULL                                              \
    }
#define CHOICE(name, field, help, text, list)                                                                \
    {                                                                                                        \
        name, help, GIMBAL_CHOICE, AT(field), 0, 0, 0, text, list                                            \
    }
#define INT(name, field, help, def, min, max)                                                                \
    {                                                                                                        \
        name, help, GIMBAL_INT, AT(field), def, min, max, NULL, NULL                                         \
    }
#define REAL(name, field, help, def, min, max)                                                               \
    {                                                                                                        \
        name, help, GIMBAL_REAL, AT(field), def, min, max, NULL, NULL                                        \
    }

static const gimbal_option table[] = {
    TEXT("recipe", recipe, "what is learnt: motion, image, consisti2v, videofusion", "motion"),
    TEXT("model", model, "model folder to begin from", NULL),
    TEXT("motion", motion, "motion adapter to begin from; without it the model folder's own", NULL),
    INT("fresh", fresh, "1: what is trained begins anew, with random values, instead of the file's", 0, 0, 1),
    TEXT("train", train, "which parameters: name patterns with *, commas between; without it the recipe's",
         NULL),
    INT("steps", steps, "optimiser steps", 1000, 1, MANY),
    INT("batch", batch, "clips per optimiser step, over all machines", -1, -1, MAX_BATCH),
    INT("micro", micro, "clips computed at a time; memory grows with it", -1, -1, MAX_BATCH),
    INT("frames", frames, "frames of a clip that is learnt; -1: the model's", -1, -1, MAX_FRAMES),
    INT("frame-stride", frame_stride, "frames of the film between two of the clip; AnimateDiff learnt with 4",
        1, 1, 1000),
    INT("width", width, "pixels, a multiple of 8; -1: the model's", -1, -1, MAX_SIDE),
    INT("height", height, "pixels, a multiple of 8; -1: the model's", -1, -1, MAX_SIDE),
    REAL("flip", flip, "probability of mirroring a clip; -1: the recipe's", -1, -1, 1),
    REAL("lr", lr, "learning rate; -1: the recipe's", -1, -1, 1e30),
    REAL("base-lr", base_lr, "videofusion: learning rate of the base network; -1: a tenth of lr", -1, -1,
         1e30),
    TEXT("schedule", schedule,
         "of the learning rate: constant, linear, cosine, cosine_with_restarts, polynomial, piecewise:RULES",
         "constant"),
    INT("warmup", warmup, "steps from a learning rate of 0 to the full one; -1: the recipe's", -1, -1, MANY),
    REAL("beta1", beta1, "AdamW's decay of the mean", 0.9, 0, 0.999999),
    REAL("beta2", beta2, "AdamW's decay of the squares' mean", 0.999, 0, 0.99999999),
    REAL("eps", eps, "AdamW's epsilon", 1e-8, 0, 1),
    REAL("decay", decay, "AdamW's weight decay", 0.01, 0, 10),
    REAL("clip", clip, "largest norm of the gradient, larger ones are scaled down; 0: not; -1: the recipe's",
         -1, -1, 1e30),
    REAL("ema", ema, "largest decay of the running mean of parameters, which is what is saved; 0: none",
         0.9999, 0, 0.99999999),
    INT("ema-warmup", ema_warmup, "0: the mean's decay is (1+s)/(10+s) at first; 1: 1-(1+s)^-power", 0, 0, 1),
    REAL("ema-power", ema_power, "with --ema-warmup 1", 2.0 / 3, 0.01, 1),
    REAL("snr-gamma", snr_gamma, "min-SNR weighting of the loss, 5 is usual; 0: none", 0, 0, 1e6),
    INT("debiased", debiased,
        "1: noisy timesteps, where layout and motion are decided, weigh as much as clear ones", 0, 0, 1),
    REAL("caption-dropout", caption_dropout, "share of clips learnt without their caption", 0.1, 0, 1),
    REAL("image-dropout", image_dropout, "consisti2v: share of clips whose first frame is noised too", 0.1, 0,
         1),
    REAL("noise-offset", noise_offset, "weight of one more normal number per clip and channel in its noise",
         0, 0, 1),
    CHOICE("prediction", prediction, "what the network is to give; without it the model's", NULL,
           predictions),
    CHOICE("betas", betas, "noise schedule; without it the model's", NULL, beta_names),
    CHOICE("motion-norm", motion_norm,
           "motion modules' group norms: over the clip (diffusers) or each frame (the original)", "clip",
           norms),
    TEXT("noise", noise, "prior of the noise that is learnt from; without it the recipe's", NULL),
    REAL("lambda", lambda, "videofusion: share of the base noise in every frame but the key frame", 0.5, 0,
         0.999999),
    INT("key-frame", key_frame, "videofusion: counted from 0; -1: the middle, floor(frames/2) - 1", -1, -1,
        MAX_FRAMES),
    CHOICE("residual", residual,
           "videofusion: how the residual network begins: as the base network; video: with the motion "
           "modules as layers over time, which the paper's has not; new: at random",
           "base", residuals),
    INT("freeze-base", freeze_base, "videofusion: 1: the base network is not trained", 0, 0, 1),
    INT("stop-gradient", stop_gradient,
        "videofusion: 0: the residual's loss reaches the base, as an ablation", 1, 0, 1),
    {"seed", "same seed, same run", GIMBAL_SEED, AT(seed), 0, 0, 0, NULL, NULL},
    CHOICE("dtype", dtype, "products: f32, bf16 (of rounded inputs, summed in float32), auto", "auto",
           dtypes),
    INT("recompute", recompute,
        "1: a block's inside is computed again in backward instead of kept; -1: where memory is short", -1,
        -1, 1),
    INT("threads", threads, "0: all this process may use", 0, 0, MAX_THREADS),
    INT("save-every", save_every, "steps between checkpoints", 500, 1, MANY),
    INT("keep", keep, "checkpoints that stay; 0: all", 3, 0, MANY),
    INT("validate-every", validate_every, "steps between looks at the validation clips; 0: never", 250, 0,
        MANY),
    INT("validation", validation, "clips of the data, its last ones, that are only looked at", 8, 0,
        MAX_BATCH),
    CHOICE("save-type", save_type, "type of the weights that come out", "F32", save_types),
    TEXT("cache", cache,
         "folder for encoded frames and captions; without it OUT/cache; none: nothing is kept", NULL),
    INT("allow-change", allow_change, "resuming: 1: another batch, data set or schedule is allowed", 0, 0, 1),
    {.name = NULL},
};

const gimbal_option *gimbal_train_options(void)
{
    return table;
}

int gimbal_train_defaults(gimbal_train_settings *s, const char *name, gimbal_error *err)
{
    const Recipe *recipe;
    memset(s, 0, sizeof *s);
    s->size = sizeof *s;
    options_default(table, s);
    TRY(recipe_find(&recipe, name ? name : "motion", err));
    s->recipe = recipe->name;
    return GIMBAL_OK;
}

/* ---- checks ------------------------------------------------------------------------------ */

static int check_number(const gimbal_option *o, const gimbal_train_settings *s, gimbal_error *err)
{
    const char *at = (const char *)s + o->offset;
    const double x = o->type == GIMBAL_INT ? *(const int *)at : *(const double *)at;
    if (x >= o->min && x <= o->max) /* false for NaN */
        return GIMBAL_OK;
    return fail(err, GIMBAL_EUSAGE, "--%s is %g, expected %g to %g", o->name, x, o->min, o->max);
}

static int check_choice(const gimbal_option *o, const gimbal_train_settings *s, gimbal_error *err)
{
    const char *word = *(const char *const *)((const char *)s + o->offset);
    if (!word)
        return GIMBAL_OK;
    for (int i = 0; o->choices[i]; i++)
        if (!strcmp(o->choices[i], word))
            return GIMBAL_OK;
    return fail(err, GIMBAL_EUSAGE, "--%s is '%s', expected one of its choices, such as %s", o->name, word,
                o->choices[0]);
}

int train_check(const gimbal_train_settings *s, gimbal_error *err)
{
    if (s->size != sizeof *s)
        return fail_hint(err, GIMBAL_EUSAGE, "fill the settings with gimbal_train_defaults first",
                         "settings.size is %zu, this library's is %zu", s->size, sizeof *s);
    for (const gimbal_option *o = table; o->name; o++)
        if (o->type == GIMBAL_INT || o->type == GIMBAL_REAL)
            TRY(check_number(o, s, err));
        else if (o->type == GIMBAL_CHOICE)
            TRY(check_choice(o, s, err));
    if (s->debiased && s->snr_gamma > 0)
        return fail(err, GIMBAL_EUSAGE, "--debiased and --snr-gamma %g both weigh timesteps: choose one",
                    s->snr_gamma);
    if (!s->model)
        return fail(err, GIMBAL_EUSAGE, "no --model to begin from");
    return GIMBAL_OK;
}

/* ---- what is left to the recipe and the model --------------------------------------------- */

static int copy_text(const char **text, Arena *keep, gimbal_error *err)
{
    if (!*text)
        return GIMBAL_OK;
    *text = arena_printf(keep, "%s", *text);
    return *text ? GIMBAL_OK : fail(err, GIMBAL_ENOMEM, "no memory for settings");
}

static void fill_sizes(gimbal_train_settings *s, const gimbal_engine *e)
{
    const int step = gimbal_size_step(e), most = e->shape.max_frames;
    if (s->frames < 0)
        s->frames = most > 0 ? MIN(e->run.frames, most) : e->run.frames;
    if (s->width < 0)
        s->width = MAX(e->run.width / step, 1) * step;
    if (s->height < 0)
        s->height = MAX(e->run.height / step, 1) * step;
}

static void fill_rest(gimbal_train_settings *s, const gimbal_engine *e)
{
    s->batch = s->batch > 0 ? s->batch : 4;
    s->micro = s->micro > 0 ? s->micro : 1;
    s->flip = s->flip >= 0 ? s->flip : 0;
    s->lr = s->lr >= 0 ? s->lr : 1e-4;
    s->base_lr = s->base_lr >= 0 ? s->base_lr : s->lr / 10;
    s->warmup = s->warmup >= 0 ? s->warmup : 0;
    s->clip = s->clip >= 0 ? s->clip : 1;
    s->key_frame = s->key_frame >= 0 ? s->key_frame : MAX(s->frames / 2 - 1, 0);
    s->noise = s->noise ? s->noise : "white";
    s->betas = s->betas ? s->betas : e->betas;
    s->train = s->train ? s->train : "";
    s->cache = s->cache ? s->cache : "";
    s->threads = s->threads > 0 ? s->threads : threads_available();
}

int train_fill(gimbal_train_settings *s, const gimbal_engine *e, const Recipe *recipe, Arena *keep,
               gimbal_error *err)
{
    if (recipe->defaults)
        recipe->defaults(s);
    fill_sizes(s, e);
    fill_rest(s, e);
    for (const gimbal_option *o = table; o->name; o++)
        if (o->type == GIMBAL_TEXT || o->type == GIMBAL_CHOICE)
            TRY(copy_text((const char **)((char *)s + o->offset), keep, err));
    const int step = gimbal_size_step(e);
    if (s->width < step || s->height < step || s->width % step || s->height % step)
        return fail(err, GIMBAL_EUSAGE, "--width and --height are %d and %d, expected multiples of %d",
                    s->width, s->height, step);
    if (s->frames < 1 || (e->shape.max_frames > 0 && s->frames > e->shape.max_frames))
        return fail(err, GIMBAL_EUSAGE,
                    "--frames is %d, expected 1 to the %d positions of the motion modules", s->frames,
                    e->shape.max_frames);
    if (s->key_frame >= s->frames)
        return fail(err, GIMBAL_EUSAGE, "--key-frame is %d, expected 0 to %d", s->key_frame, s->frames - 1);
    return GIMBAL_OK;
}
