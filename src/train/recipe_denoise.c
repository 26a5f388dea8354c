/* recipe_denoise.c: the recipes that learn one network to predict noise: motion modules on a frozen image
 * U-Net (Guo et al., AnimateDiff, 2024), an image U-Net on single frames, and ConsistI2V's video layers
 * (Ren et al., 2024).
 *
 *     L = 1/batch  sum over clips of  weight  mean (unet(z, t, text) - target)^2
 *
 * ConsistI2V: frame 0 of z is the clean first frame c0 (now and then, for guidance by the image, a noised
 * one), and its prediction does not count. Forward, loss and backward are one graph, so that training's
 * memory is planned like any other.
 *
 * Knows the U-Net and rows. Refuses to know data, optimisers and files' names. */
#include "train/train.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    UnetCall call;
    Tape *tape;
    Plan *learn, *look; /* with and without backward */
    int clips;
    bool given;                        /* frame 0 is the picture's */
    float *time, *stride, *weight, *x; /* [B,width0] twice, [B*F], rows of z with clean first frames */
} Denoiser;

static Tensor *loss_graph(Cx *cx, void *self, Tensor **in)
{
    Denoiser *d = self;
    Tensor *y = unet_forward(cx, &d->call, in);
    y = op_mse_weighted(cx, y, in[4], in[5]);
    if (y && cx->tape && backward(cx, op_channels(cx, y, 0, 1)))
        return NULL;
    return y;
}

/* x, t, context, stride or NULL, target, weights */
static void inputs(const Denoiser *d, struct gimbal_trainer *t, const Batch *b, Tensor *in[6])
{
    const gimbal_shape s = t->batch.shape;
    const int64_t B = d->clips, width = t->engine->shape.width[0];
    const int64_t rows[] = {B * s.f, s.h, s.w, s.c};
    Cx *cx = &t->cx;
    in[0] = tensor_input(cx, F32, 4, rows, b ? (d->given ? d->x : b->z) : NULL);
    in[1] = tensor_input(cx, F32, 2, (int64_t[]){B, width}, d->time);
    in[2] = tensor_input(cx, F32, 3, (int64_t[]){B, TOKENS, t->engine->shape.context}, b ? b->context : NULL);
    in[3] = t->engine->shape.stride ? tensor_input(cx, F32, 2, (int64_t[]){B, width}, d->stride) : NULL;
    in[4] = tensor_input(cx, F32, 4, rows, b ? b->target : NULL);
    in[5] = tensor_input(cx, F32, 1, (int64_t[]){B * s.f}, d->weight);
}

static int plan_one(Denoiser *d, struct gimbal_trainer *t, Plan **plan, bool learn, gimbal_error *err)
{
    Tensor *in[6];
    cx_reset(&t->cx);
    inputs(d, t, NULL, in);
    t->cx.tape = learn ? d->tape : NULL;
    plan_free(*plan);
    *plan = plan_make(&t->cx, loss_graph, d, in);
    t->cx.tape = NULL;
    return *plan ? GIMBAL_OK : pass_on(&t->err, err);
}

static int plan(void *self, struct gimbal_trainer *t, gimbal_error *err)
{
    Denoiser *d = self;
    const gimbal_shape s = t->batch.shape;
    if (!d->tape) {
        const size_t B = (size_t)t->s.micro, width = (size_t)t->engine->shape.width[0];
        d->clips = t->s.micro;
        d->given = t->engine->shape.given;
        d->call = (UnetCall){.unet = t->engine->unet,
                             .frames = s.f,
                             .norm_clip = !strcmp(t->s.motion_norm, "clip"),
                             .still = t->recipe == &recipe_image};
        d->tape = tape_new();
        d->time = alloc_array(B * width, sizeof(float));
        d->stride = alloc_array(B * width, sizeof(float));
        d->weight = alloc_array(B * (size_t)s.f, sizeof(float));
        d->x = alloc_array(d->given ? B * shape_count(s) : 1, sizeof(float));
        if (!d->tape || !d->time || !d->stride || !d->weight || !d->x)
            return fail(err, GIMBAL_ENOMEM, "no memory for a batch's features");
    }
    TRY(plan_one(d, t, &d->learn, true, err));
    return plan_one(d, t, &d->look, false, err);
}

static size_t work_bytes(const void *self)
{
    const Denoiser *d = self;
    return MAX(plan_bytes(d->learn), plan_bytes(d->look));
}

static double flops(const void *self)
{
    return plan_flops(((const Denoiser *)self)->learn);
}

static int plans(const void *self, const Plan *out[4])
{
    out[0] = ((const Denoiser *)self)->learn;
    return 1;
}

/* Frame 0 of every clip clean, unless the image is dropped. */
static void give_first(Denoiser *d, const Batch *b)
{
    const size_t values = shape_count(b->shape), frame = values / (size_t)b->shape.f;
    memcpy(d->x, b->z, (size_t)b->clips * values * sizeof(float));
    for (int i = 0; i < b->clips; i++)
        if (!b->no_image[i])
            memcpy(d->x + (size_t)i * values, b->x0 + (size_t)i * values, frame * sizeof(float));
}

static void fill(Denoiser *d, const struct gimbal_trainer *t, const Batch *b)
{
    const int F = b->shape.f, counted = F - d->given, width = t->engine->shape.width[0];
    for (int i = 0; i < b->clips; i++) {
        timestep_features(b->t[i], width, d->time + (size_t)i * width);
        timestep_features(b->stride[i], width, d->stride + (size_t)i * width);
        for (int f = 0; f < F; f++)
            d->weight[i * F + f] =
                f < d->given ? 0 : (float)((double)b->weight[i] / counted / (double)t->s.batch);
    }
    if (d->given)
        give_first(d, b);
}

static int learn(void *self, struct gimbal_trainer *t, const Batch *b, bool learns, double *loss,
                 gimbal_error *err)
{
    Denoiser *d = self;
    Tensor *in[6];
    const int F = b->shape.f, counted = F - d->given;
    fill(d, t, b);
    t->err = (gimbal_error){0};
    cx_reset(&t->cx);
    inputs(d, t, b, in);
    t->cx.tape = learns ? d->tape : NULL;
    const Tensor *y = plan_run(&t->cx, learns ? d->learn : d->look, loss_graph, d, in);
    t->cx.tape = NULL;
    if (!y)
        return pass_on(&t->err, err);
    for (int i = 0; i < b->clips; i++) {
        loss[i] = 0;
        for (int f = d->given; f < F; f++)
            loss[i] += (double)((const float *)y->d)[1 + i * F + f] / counted;
    }
    return GIMBAL_OK;
}

static void release(void *self)
{
    Denoiser *d = self;
    plan_free(d->learn), plan_free(d->look), tape_free(d->tape);
    free(d->time), free(d->stride), free(d->weight), free(d->x);
}

static int save(void *self, struct gimbal_trainer *t, const char *folder, bool ema, gimbal_error *err)
{
    (void)self;
    return export_unet(t, folder, ema, err);
}

/* What the recipes below have in common. */
#define DENOISER                                                                                             \
    .size = sizeof(Denoiser), .plan = plan, .work_bytes = work_bytes, .flops = flops, .plans = plans,        \
    .learn = learn, .save = save, .free = release

/* ---- motion -------------------------------------------------------------------------------- */

static int need_family(const struct gimbal_trainer *t, const char *family, gimbal_error *err)
{
    if (!strcmp(t->engine->family->name, family))
        return GIMBAL_OK;
    return fail(err, GIMBAL_EUSAGE, "recipe %s learns models of family %s, %s is %s", t->recipe->name, family,
                t->s.model, t->engine->family->name);
}

static int unet_parts(struct gimbal_trainer *t, TrainPart parts[4])
{
    int n = 0;
    parts[n++] = (TrainPart){unet_params, t->engine->unet, 0};
    if (t->engine->part[PART_MOTION].dir)
        parts[n++] = (TrainPart){unet_motion_params, t->engine->unet, 0};
    return n;
}

static int motion_parts(void *self, struct gimbal_trainer *t, TrainPart parts[4], gimbal_error *err)
{
    (void)self;
    if (strcmp(t->engine->family->name, "modelscope")) /* whose temporal layers are its own */
        TRY(need_family(t, "animatediff", err));
    TRY(engine_can_sample(t->engine, err));
    return unet_parts(t, parts);
}

static const char *motion_patterns(const struct gimbal_trainer *t)
{
    return t->engine->part[PART_MOTION].dir ? "*motion_modules*"
                                            : "*temp_convs*,*temp_attentions*,transformer_in*";
}

static void motion_defaults(gimbal_train_settings *s)
{
    s->warmup = s->warmup >= 0 ? s->warmup : MIN(500, s->steps / 10);
}

const Recipe recipe_motion = {
    .name = "motion",
    .help = "motion modules, or ModelScope's layers over time, on a frozen image network",
    .source = "Guo et al., AnimateDiff, ICLR 2024",
    .patterns = motion_patterns,
    .defaults = motion_defaults,
    .parts = motion_parts,
    DENOISER,
};

/* ---- image ---------------------------------------------------------------------------------- */

static int image_parts(void *self, struct gimbal_trainer *t, TrainPart parts[4], gimbal_error *err)
{
    (void)self;
    TRY(need_family(t, "animatediff", err));
    if (t->s.frames != 1)
        return fail(err, GIMBAL_EUSAGE, "recipe image learns single frames, --frames is %d", t->s.frames);
    parts[0] = (TrainPart){unet_params, t->engine->unet, 0};
    return 1;
}

static void image_defaults(gimbal_train_settings *s)
{
    s->frames = s->frames >= 0 ? s->frames : 1;
    s->batch = s->batch > 0 ? s->batch : 16;
    s->micro = s->micro > 0 ? s->micro : MIN(s->batch, 16);
    s->lr = s->lr >= 0 ? s->lr : 1e-5;
}

const Recipe recipe_image = {
    .name = "image",
    .help = "a whole image network, on single frames of the clips",
    .source = "Ho et al. 2020; Rombach et al. 2022",
    .patterns = recipe_everything,
    .defaults = image_defaults,
    .parts = image_parts,
    DENOISER,
};

/* ---- consisti2v ------------------------------------------------------------------------------ */

static int consisti2v_parts(void *self, struct gimbal_trainer *t, TrainPart parts[4], gimbal_error *err)
{
    (void)self;
    TRY(need_family(t, "consisti2v", err));
    if (t->s.frames < 2)
        return fail(err, GIMBAL_EUSAGE,
                    "recipe consisti2v learns what follows the first frame, --frames is %d", t->s.frames);
    return unet_parts(t, parts);
}

static void consisti2v_defaults(gimbal_train_settings *s)
{
    s->lr = s->lr >= 0 ? s->lr : 5e-5;
    s->clip = s->clip >= 0 ? s->clip : 0.5;
    s->flip = s->flip >= 0 ? s->flip : 0.5;
    s->noise = s->noise ? s->noise : "mixed:alpha=1";
}

const Recipe recipe_consisti2v = {
    .name = "consisti2v",
    .help = "image to video: every layer that a gradient reaches, from the model or a plain image network",
    .source = "Ren et al., ConsistI2V, 2024",
    .patterns = recipe_everything,
    .defaults = consisti2v_defaults,
    .parts = consisti2v_parts,
    DENOISER,
};
