/* recipe_videofusion.c: two image U-Nets that share a clip's noise, learnt together (Luo et al., VideoFusion,
 * CVPR 2023, section 4.3): the base's from the key frame k, the residual's from all others.
 *
 *     bhat   = base(z_k, t)                        z_k = a x_k + s b,    a = sqrt(abar), s = sqrt(1 - abar)
 *     z'_i   = z_i - sqrt(l_i) s [bhat]            z_i = a x_i + s e_i,  e_i = sqrt(l_i) b + sqrt(1 - l_i) r_i
 *     rhat_i = residual(z'_i, t, i)                i counted from 1
 *     L = 1/(batch F) sum over clips of weight ( |b - bhat|^2
 *                       + sum over i != k of |e_i - sqrt(l_i) [bhat] - sqrt(1 - l_i) rhat_i|^2 )
 *
 * [bhat] enters as a number: no gradient of the residual's terms reaches the base, which would be spoilt by
 * them at the beginning. So there are two graphs with a tape each: the base's forward, whose result is plain
 * data for the residual's, and then each one's own forward, loss and backward; the base runs forward twice,
 * one frame against F - 1. The residual's loss is that of rhat against (e_i - sqrt(l_i) bhat) / sqrt(1 -
 * l_i), times 1 - l_i. With stop_gradient 0, the paper's counter-example, both are one graph.
 *
 * The residual's network begins as the base's, told each frame's number through an embedding whose second
 * layer is zero, and then reads z' at unit variance (guide_videofusion.c); or at random. With layers over
 * time, a motion adapter's, it reads x_k itself at the key frame's place, and its answer there does not count.
 *
 * Knows the two networks and rows. Refuses to know data, optimisers and sampling. */
#include "train/train.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct {
    UnetCall base, residual;
    char *residual_config; /* text of its config; NULL: the folder's own */
    NoiseSplit split;
    bool base_learns, residual_learns, joint; /* joint: one graph */
    bool over_time;                           /* the residual's network has layers over time */
    Tape *tape[2];
    Plan *look, *learn_base;         /* bhat; the key frame's loss, with backward */
    Plan *rest, *learn_rest, *whole; /* the others' loss without and with backward; all of it in one */
    int clips, others; /* others: frames that the residual's network reads, F - 1, or F over time */
    float *key, *key_weight, *bhat;   /* [B,h,w,C], [B], [B,h,w,C] */
    float *rows, *target, *weight;    /* z' [B*others,h,w,C], what rhat is to be, [B*others] */
    float *time, *rest_time, *number; /* [B,width0] of each network, [B*others,width0] */
    Weight minus, share, own;         /* of the joint graph: multiples of the unit matrix [C,C] */
} VideoFusion;

/* ---- graphs -------------------------------------------------------------------------------- */

/* x, t, context, -, target, weights -> [1 + B] */
static Tensor *base_graph(Cx *cx, void *self, Tensor **in)
{
    VideoFusion *v = self;
    Tensor *y = op_mse_weighted(cx, unet_forward(cx, &v->base, in), in[4], in[5]);
    return y && cx->tape && backward(cx, op_channels(cx, y, 0, 1)) ? NULL : y;
}

/* z', t, context, numbers, target, weights -> [1 + B*others] */
static Tensor *rest_graph(Cx *cx, void *self, Tensor **in)
{
    VideoFusion *v = self;
    Tensor *y = op_mse_weighted(cx, unet_forward(cx, &v->residual, in), in[4], in[5]);
    return y && cx->tape && backward(cx, op_channels(cx, y, 0, 1)) ? NULL : y;
}

static Tensor *look_graph(Cx *cx, void *self, Tensor **in)
{
    VideoFusion *v = self;
    return unet_forward(cx, &v->base, in);
}

/* Both networks' inputs, one after the other, of one clip; the residual's rows are z times their scale, and
 * its target is e -> [2 + 1 + others]. */
static Tensor *whole_graph(Cx *cx, void *self, Tensor **in)
{
    VideoFusion *v = self;
    Tensor *bhat = unet_forward(cx, &v->base, in), **rest = in + 6;
    Tensor *first = op_mse_weighted(cx, bhat, in[4], in[5]), *all = op_repeat(cx, bhat, v->others);
    Tensor *z = op_linear(cx, all, &v->minus, (Epi){.add = rest[0]});
    Tensor *rhat = unet_forward(cx, &v->residual, (Tensor *[]){z, rest[1], rest[2], rest[3]});
    Tensor *e = op_linear(cx, rhat, &v->own, (Epi){.add = op_linear(cx, all, &v->share, (Epi){0})});
    Tensor *second = op_mse_weighted(cx, e, rest[4], rest[5]);
    if (!first || !second)
        return NULL;
    Tensor *loss = op_add(cx, op_channels(cx, first, 0, 1), op_channels(cx, second, 0, 1));
    return cx->tape && backward(cx, loss) ? NULL : op_concat(cx, first, second);
}

static void base_inputs(const VideoFusion *v, struct gimbal_trainer *t, const Batch *b, Tensor *in[6])
{
    const gimbal_shape s = t->batch.shape;
    const UnetShape *net = unet_shape(v->base.unet);
    const int64_t B = v->clips, rows[] = {B, s.h, s.w, s.c};
    in[0] = tensor_input(&t->cx, F32, 4, rows, v->key);
    in[1] = tensor_input(&t->cx, F32, 2, (int64_t[]){B, net->width[0]}, v->time);
    in[2] = tensor_input(&t->cx, F32, 3, (int64_t[]){B, TOKENS, net->context}, b ? b->context : NULL);
    in[3] = NULL;
    in[4] = tensor_input(&t->cx, F32, 4, rows, b ? b->base : NULL);
    in[5] = tensor_input(&t->cx, F32, 1, &B, v->key_weight);
}

static void rest_inputs(const VideoFusion *v, struct gimbal_trainer *t, const Batch *b, Tensor *in[6])
{
    const gimbal_shape s = t->batch.shape;
    const UnetShape *net = unet_shape(v->residual.unet);
    const int64_t B = v->clips, N = B * v->others, rows[] = {N, s.h, s.w, s.c};
    in[0] = tensor_input(&t->cx, F32, 4, rows, v->rows);
    in[1] = tensor_input(&t->cx, F32, 2, (int64_t[]){B, net->width[0]}, v->rest_time);
    in[2] = tensor_input(&t->cx, F32, 3, (int64_t[]){B, TOKENS, net->context}, b ? b->context : NULL);
    in[3] = tensor_input(&t->cx, F32, 2, (int64_t[]){N, net->width[0]}, v->number);
    in[4] = tensor_input(&t->cx, F32, 4, rows, v->target);
    in[5] = tensor_input(&t->cx, F32, 1, &N, v->weight);
}

/* ---- plans --------------------------------------------------------------------------------- */

/* c times the unit matrix, frozen. */
static int unit(Arena *keep, Weight *w, const char *name, int channels, gimbal_error *err)
{
    *w = (Weight){.kind = W_LINEAR, .type = F32, .nd = 2, .n = {channels, channels}};
    snprintf(w->name, sizeof w->name, "%s", name);
    w->own = arena_alloc(keep, (size_t)channels * (size_t)channels * sizeof *w->own);
    return w->own ? GIMBAL_OK : fail(err, GIMBAL_ENOMEM, "no memory for a matrix of %d channels", channels);
}

static void set_unit(Weight *w, double c)
{
    for (int64_t i = 0; i < w->n[0]; i++)
        w->own[i * w->n[0] + i] = (float)c;
    weight_drop(w); /* what a backend packed of it */
}

/* The frame of place n of a clip's rows. */
static int frame_at(const VideoFusion *v, int frames, int n)
{
    return n + (!v->over_time && n >= split_key(&v->split, frames));
}

static int take_arrays(VideoFusion *v, struct gimbal_trainer *t, gimbal_error *err)
{
    const gimbal_shape s = t->batch.shape;
    const size_t B = (size_t)t->s.micro, N = B * (size_t)v->others, frame = (size_t)s.c * s.h * s.w;
    const size_t width = (size_t)unet_shape(v->base.unet)->width[0],
                 rest_width = (size_t)unet_shape(v->residual.unet)->width[0];
    const struct {
        float **array;
        size_t count;
    } arrays[] = {{&v->key, B * frame},        {&v->key_weight, B},
                  {&v->bhat, B * frame},       {&v->rows, N * frame},
                  {&v->target, N * frame},     {&v->weight, N},
                  {&v->time, B * width},       {&v->rest_time, B * rest_width},
                  {&v->number, N * rest_width}};
    for (int i = 0; i < COUNT(arrays); i++)
        if (!(*arrays[i].array = arena_alloc(&t->keep, arrays[i].count * sizeof(float))))
            return fail(err, GIMBAL_ENOMEM, "no memory for a batch of %zu frames", N + B);
    for (size_t i = 0; i < N; i++)
        timestep_features(frame_at(v, s.f, (int)(i % (size_t)v->others)) + 1, (int)rest_width,
                          v->number + i * rest_width);
    TRY(unit(&t->keep, &v->minus, "base noise taken out", s.c, err));
    TRY(unit(&t->keep, &v->share, "base noise put back", s.c, err));
    return unit(&t->keep, &v->own, "residual noise", s.c, err);
}

static int start(VideoFusion *v, struct gimbal_trainer *t, gimbal_error *err)
{
    v->clips = t->s.micro, v->others = t->batch.shape.f - !v->over_time;
    v->base.frames = 1, v->residual.frames = v->others;
    v->base_learns = set_learns(unet_params, v->base.unet);
    v->residual_learns =
        set_learns(unet_params, v->residual.unet) || set_learns(unet_motion_params, v->residual.unet);
    v->joint = !t->s.stop_gradient && v->base_learns;
    if (v->joint && v->over_time)
        return fail(err, GIMBAL_EUSAGE,
                    "--stop-gradient 0 knows residual networks without layers over time only");
    if (v->joint && v->clips != 1)
        return fail(err, GIMBAL_EUSAGE, "--stop-gradient 0 learns from one clip at a time, --micro is %d",
                    v->clips);
    v->tape[0] = tape_new(), v->tape[1] = tape_new();
    if (!v->tape[0] || !v->tape[1])
        return fail(err, GIMBAL_ENOMEM, "no memory for tapes");
    return take_arrays(v, t, err);
}

/* tape NULL: no gradients. */
static int plan_one(VideoFusion *v, struct gimbal_trainer *t, Plan **plan, Graph graph, Tape *tape,
                    Tensor **in, gimbal_error *err)
{
    t->cx.tape = tape;
    plan_free(*plan);
    *plan = plan_make(&t->cx, graph, v, in);
    t->cx.tape = NULL;
    return *plan ? GIMBAL_OK : pass_on(&t->err, err);
}

static int plan(void *self, struct gimbal_trainer *t, gimbal_error *err)
{
    VideoFusion *v = self;
    Tensor *in[12];
    if (!v->tape[0])
        TRY(start(v, t, err));
    cx_reset(&t->cx);
    base_inputs(v, t, NULL, in);
    rest_inputs(v, t, NULL, in + 6);
    TRY(plan_one(v, t, &v->look, look_graph, NULL, in, err));
    TRY(plan_one(v, t, &v->rest, rest_graph, NULL, in + 6, err));
    if (v->joint)
        return plan_one(v, t, &v->whole, whole_graph, v->tape[0], in, err);
    if (v->base_learns)
        TRY(plan_one(v, t, &v->learn_base, base_graph, v->tape[0], in, err));
    return v->residual_learns ? plan_one(v, t, &v->learn_rest, rest_graph, v->tape[1], in + 6, err)
                              : GIMBAL_OK;
}

static int plans(const void *self, const Plan *out[4])
{
    const VideoFusion *v = self;
    const Plan *const all[] = {v->whole, v->learn_base, v->learn_rest};
    int n = 0;
    for (int i = 0; i < COUNT(all); i++)
        if (all[i])
            out[n++] = all[i];
    return n;
}

static size_t work_bytes(const void *self)
{
    const VideoFusion *v = self;
    const Plan *some[4];
    size_t most = MAX(plan_bytes(v->look), plan_bytes(v->rest));
    for (int i = plans(v, some) - 1; i >= 0; i--)
        most = MAX(most, plan_bytes(some[i]));
    return most;
}

static double flops(const void *self)
{
    const VideoFusion *v = self;
    const Plan *some[4];
    double sum = v->joint ? 0 : plan_flops(v->look);
    for (int i = plans(v, some) - 1; i >= 0; i--)
        sum += plan_flops(some[i]);
    return sum;
}

/* ---- a micro-batch ------------------------------------------------------------------------- */

static size_t frame_values(const Batch *b)
{
    return shape_count(b->shape) / (size_t)b->shape.f;
}

/* Key frames, timesteps, weights. */
static void fill_base(VideoFusion *v, const struct gimbal_trainer *t, const Batch *b)
{
    const size_t frame = frame_values(b);
    const int F = b->shape.f, key = split_key(&v->split, F), width = unet_shape(v->base.unet)->width[0];
    for (int i = 0; i < b->clips; i++) {
        memcpy(v->key + (size_t)i * frame, b->z + ((size_t)i * F + key) * frame, frame * sizeof(float));
        timestep_features(b->t[i], width, v->time + (size_t)i * width);
        v->key_weight[i] = (float)((double)b->weight[i] / F / t->s.batch);
    }
}

/* Row n of the residual's: frame f of clip i. Of the joint graph z and e stay whole. */
static void fill_row(VideoFusion *v, const struct gimbal_trainer *t, const Batch *b, int i, int f, int n,
                     double scale, bool whole)
{
    const size_t frame = frame_values(b), at = ((size_t)i * b->shape.f + f) * frame;
    const double share = split_share(&v->split, b->shape.f, f), noise = schedule_s(&t->schedule, b->t[i]);
    const float root = (float)sqrt(share), by = (float)(sqrt(share) * noise), times = (float)scale,
                own = (float)sqrt(1 - share);
    const float *z = b->z + at, *e = b->noise + at, *bhat = v->bhat + (size_t)i * frame;
    float *row = v->rows + (size_t)n * frame, *target = v->target + (size_t)n * frame;
    for (size_t k = 0; k < frame; k++) {
        row[k] = whole ? times * z[k] : times * (z[k] - by * bhat[k]);
        target[k] = whole ? e[k] : (e[k] - root * bhat[k]) / own;
    }
    v->weight[n] = (float)((double)b->weight[i] / b->shape.f / t->s.batch * (whole ? 1 : 1 - share));
}

/* Row n: clip i's key frame as it is. */
static void fill_key(VideoFusion *v, const Batch *b, int i, int key, int n)
{
    const size_t frame = frame_values(b);
    memcpy(v->rows + (size_t)n * frame, b->x0 + ((size_t)i * b->shape.f + key) * frame,
           frame * sizeof(float));
    memset(v->target + (size_t)n * frame, 0, frame * sizeof(float));
    v->weight[n] = 0;
}

/* whole: for the joint graph. */
static void fill_rest(VideoFusion *v, const struct gimbal_trainer *t, const Batch *b, bool whole)
{
    const int F = b->shape.f, key = split_key(&v->split, F), width = unet_shape(v->residual.unet)->width[0];
    const double share = v->split.lambda[0];
    for (int i = 0, n = 0; i < b->clips; i++) {
        double scale = 1, at = b->t[i];
        if (v->split.rescale)
            at = split_timestep(&t->schedule, b->t[i], share, &scale);
        timestep_features(at, width, v->rest_time + (size_t)i * width);
        for (int k = 0; k < v->others; k++, n++)
            if (frame_at(v, F, k) == key)
                fill_key(v, b, i, key, n);
            else
                fill_row(v, t, b, i, frame_at(v, F, k), n, scale, whole);
        if (whole) {
            set_unit(&v->minus, -scale * sqrt(share) * schedule_s(&t->schedule, b->t[i]));
            set_unit(&v->share, sqrt(share));
            set_unit(&v->own, sqrt(1 - share));
        }
    }
}

static const Tensor *run(VideoFusion *v, struct gimbal_trainer *t, Plan *some, Graph graph, Tape *tape,
                         Tensor **in)
{
    t->cx.tape = tape;
    const Tensor *y = plan_run(&t->cx, some, graph, v, in);
    t->cx.tape = NULL;
    return y;
}

/* bhat, and the key frame's part of each clip's loss. */
static int look(VideoFusion *v, struct gimbal_trainer *t, const Batch *b, Tensor **in, double *loss,
                gimbal_error *err)
{
    const size_t frame = frame_values(b), c = (size_t)b->shape.c;
    const Tensor *y = run(v, t, v->look, look_graph, NULL, in);
    if (!y)
        return pass_on(&t->err, err);
    for (int i = 0; i < b->clips; i++) {
        double sum = 0;
        for (size_t k = 0; k < frame; k++) {
            const size_t row = ((size_t)i * frame + k) / c;
            const float x = ((const float *)y->d)[row * (size_t)y->ld + k % c];
            const double off = (double)x - b->base[(size_t)i * frame + k];
            v->bhat[(size_t)i * frame + k] = x;
            sum += off * off;
        }
        loss[i] = sum / (double)frame / b->shape.f;
    }
    return GIMBAL_OK;
}

/* The other frames' part; with the residual's gradient where it learns. */
static int learn_rest(VideoFusion *v, struct gimbal_trainer *t, const Batch *b, Tensor **in, bool learn,
                      double *loss, gimbal_error *err)
{
    const bool backwards = learn && v->learn_rest;
    const Tensor *y =
        run(v, t, backwards ? v->learn_rest : v->rest, rest_graph, backwards ? v->tape[1] : NULL, in);
    if (!y)
        return pass_on(&t->err, err);
    const float *m = (const float *)y->d + 1;
    const int F = b->shape.f, key = split_key(&v->split, F);
    for (int i = 0; i < b->clips; i++)
        for (int k = 0; k < v->others; k++)
            loss[i] += (frame_at(v, F, k) != key) * (1 - v->split.lambda[0]) * (double)m[i * v->others + k] /
                       b->shape.f;
    return GIMBAL_OK;
}

static int learn_whole(VideoFusion *v, struct gimbal_trainer *t, const Batch *b, double *loss,
                       gimbal_error *err)
{
    Tensor *in[12];
    fill_rest(v, t, b, true);
    base_inputs(v, t, b, in);
    rest_inputs(v, t, b, in + 6);
    const Tensor *y = run(v, t, v->whole, whole_graph, v->tape[0], in);
    if (!y)
        return pass_on(&t->err, err);
    const float *m = y->d;
    loss[0] = m[1];
    for (int k = 0; k < v->others; k++)
        loss[0] += (double)m[3 + k];
    loss[0] /= b->shape.f;
    return GIMBAL_OK;
}

static int learn(void *self, struct gimbal_trainer *t, const Batch *b, bool learn_it, double *loss,
                 gimbal_error *err)
{
    VideoFusion *v = self;
    Tensor *in[6];
    t->err = (gimbal_error){0};
    cx_reset(&t->cx);
    fill_base(v, t, b);
    if (v->joint && learn_it)
        return learn_whole(v, t, b, loss, err);
    base_inputs(v, t, b, in);
    TRY(look(v, t, b, in, loss, err));
    if (learn_it && v->learn_base && !run(v, t, v->learn_base, base_graph, v->tape[0], in))
        return pass_on(&t->err, err);
    fill_rest(v, t, b, false);
    rest_inputs(v, t, b, in);
    return learn_rest(v, t, b, in, learn_it, loss, err);
}

/* ---- the networks -------------------------------------------------------------------------- */

typedef struct {
    Params params; /* first: the visitor's leaf gets this */
    Arena *keep;
    bool all; /* every parameter, or the embedding of the number alone */
    uint64_t seed;
} Begin;

/* A first value; the number says nothing at first. */
static int begin_leaf(Params *p, Weight *w)
{
    static const char embedding[] = "class_embedding.", second[] = "class_embedding.linear_2.";
    Begin *b = (Begin *)p;
    if (!b->all && strncmp(w->name, embedding, strlen(embedding)))
        return GIMBAL_OK;
    w->own = arena_alloc(b->keep, (size_t)weight_count(w) * sizeof *w->own);
    if (!w->own)
        return fail(p->err, GIMBAL_ENOMEM, "%s: no memory for %lld values", w->name,
                    (long long)weight_count(w));
    if (strncmp(w->name, second, strlen(second)))
        weight_begin(w, b->seed, w->own);
    return GIMBAL_OK;
}

/* The base's config, and that it is told a number. */
static int residual_config(VideoFusion *v, const Part *unet, Arena *keep, gimbal_error *err)
{
    json_t *config = json_copy(unet->config);
    json_object_set_new(config, "class_embed_type", json_string("timestep"));
    char *text = config ? json_dumps(config, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : NULL;
    v->residual_config = text ? arena_printf(keep, "%s\n", text) : NULL;
    free(text); /* json_dumps hands it over */
    json_decref(config);
    return v->residual_config ? GIMBAL_OK : fail(err, GIMBAL_ENOMEM, "%s: no memory for a copy", unet->where);
}

/* The adapter's modules, or new ones where it is a config alone. */
static int make_motion(VideoFusion *v, struct gimbal_trainer *t, gimbal_error *err)
{
    const WeightSet *weights = t->engine->part[PART_MOTION].weights;
    int made;
    if (!weights)
        return engine_begin_motion(v->residual.unet, t->s.seed, &t->keep, &made, err);
    return bind_weights(weights, "", unet_motion_params, v->residual.unet, t->engine->family->motion_ignore,
                        NULL, err);
}

/* Whether the residual's network has layers over time: a pair's has its own. */
static int over_time(const struct gimbal_trainer *t, bool pair, bool *out, gimbal_error *err)
{
    const gimbal_engine *e = t->engine;
    const int most = pair ? e->residual_shape.max_frames : e->shape.max_frames;
    *out = pair ? e->residual_shape.motion : t->s.residual && !strcmp(t->s.residual, "video");
    if (*out && !pair && !e->part[PART_MOTION].dir)
        return fail_hint(err, GIMBAL_EUSAGE, "--motion names the folder of an adapter",
                         "--residual video takes a motion adapter's modules, and %s has none", t->s.model);
    if (*out && t->s.frames > most)
        return fail(err, GIMBAL_EUSAGE, "--frames is %d, the residual network's layers over time know %d",
                    t->s.frames, most);
    return GIMBAL_OK;
}

static bool anew(const struct gimbal_trainer *t)
{
    return t->s.fresh || (t->s.residual && !strcmp(t->s.residual, "new"));
}

/* A residual network for an image model: the same, with numbers. It lives as long as the trainer: the set
 * points into it. */
static int make_residual(VideoFusion *v, struct gimbal_trainer *t, gimbal_error *err)
{
    const gimbal_engine *e = t->engine;
    const Part *unet = &e->part[PART_UNET];
    const bool new = anew(t);
    UnetShape shape = e->shape;
    shape.numbered = true;
    if (!v->over_time)
        shape.motion = shape.motion_mid = false, shape.max_frames = 0;
    TRY(residual_config(v, unet, &t->keep, err));
    TRY(unet_build(&v->residual.unet, &t->keep, &shape, err));
    Begin b = {.params = {.leaf = begin_leaf, .err = err}, .keep = &t->keep, .all = new, .seed = t->s.seed};
    unet_params(v->residual.unet, &b.params);
    TRY(b.params.code);
    if (!new)
        TRY(bind_weights(unet->weights, "", unet_params, v->residual.unet, e->family->unet_ignore, NULL,
                         err));
    return v->over_time ? make_motion(v, t, err) : GIMBAL_OK;
}

/* What was learnt before is gone on with as it is. */
static int same_split(const VideoFusion *v, const struct gimbal_trainer *t, gimbal_error *err)
{
    const NoiseSplit *was = &t->engine->split, *is = &v->split;
    const char *where = t->engine->part[PART_SPLIT].where;
    if (was->listed)
        return fail(err, GIMBAL_EUSAGE, "%s: \"lambda\" is a list, and one number is what can be learnt",
                    where);
    if (was->lambda[0] != is->lambda[0])
        return fail(err, GIMBAL_EUSAGE, "--lambda is %g, but %s was learnt with %g", is->lambda[0], where,
                    was->lambda[0]);
    if (was->frames == is->frames && was->key != is->key)
        return fail(err, GIMBAL_EUSAGE, "--key-frame is %d, but %s was learnt with %d", is->key, where,
                    was->key);
    return GIMBAL_OK;
}

static int parts(void *self, struct gimbal_trainer *t, TrainPart out[4], gimbal_error *err)
{
    VideoFusion *v = self;
    const gimbal_engine *e = t->engine;
    const bool pair = e->family->split, image = !strcmp(e->family->name, "animatediff");
    if (!pair && !image)
        return fail(err, GIMBAL_EUSAGE,
                    "recipe videofusion learns image models and those of its own, %s is %s", t->s.model,
                    e->family->name);
    if (t->s.frames < 2 || t->s.frames > SPLIT_FRAMES)
        return fail(err, GIMBAL_EUSAGE, "recipe videofusion learns clips of 2 to %d frames, --frames is %d",
                    SPLIT_FRAMES, t->s.frames);
    if (t->s.noise_offset > 0 || strcmp(t->s.noise, "white"))
        return fail(
            err, GIMBAL_EUSAGE,
            "recipe videofusion has a noise of its own, base and residuals, and --%s would not be used",
            t->s.noise_offset > 0 ? "noise-offset" : "noise");
    if (t->schedule.prediction != PREDICT_EPSILON)
        return fail(err, GIMBAL_EUSAGE, "recipe videofusion learns noise, --prediction is %s",
                    t->s.prediction);
    v->split = (NoiseSplit){.frames = t->s.frames, .key = t->s.key_frame, .lambda = {t->s.lambda}};
    v->split.rescale = pair ? e->split.rescale : !anew(t);
    v->base = (UnetCall){.unet = e->unet, .still = true};
    v->residual = (UnetCall){.unet = e->residual, .norm_clip = !strcmp(t->s.motion_norm, "clip")};
    TRY(over_time(t, pair, &v->over_time, err));
    TRY(pair ? same_split(v, t, err) : make_residual(v, t, err));
    int n = 0;
    out[n++] = (TrainPart){unet_params, v->residual.unet, 0};
    if (v->over_time)
        out[n++] = (TrainPart){unet_motion_params, v->residual.unet, 0};
    if (!t->s.freeze_base)
        out[n++] = (TrainPart){unet_params, v->base.unet, 1};
    return n;
}

static void lambda(const void *self, const struct gimbal_trainer *t, double *out)
{
    const VideoFusion *v = self;
    for (int f = 0; f < t->batch.shape.f; f++)
        out[f] = split_share(&v->split, t->batch.shape.f, f);
}

/* ---- saving -------------------------------------------------------------------------------- */

static int save_split(const VideoFusion *v, const struct gimbal_trainer *t, const char *folder,
                      gimbal_error *err)
{
    char path[PATH_ROOM];
    Stage stage = {0};
    TRY(path_join(path, folder, part_config(PART_SPLIT), err));
    json_t *root = json_pack("{s:f, s:i, s:i, s:b, s:i, s:i}", "lambda", v->split.lambda[0], "key_frame",
                             v->split.key, "frame_count", v->split.frames, "rescale", v->split.rescale,
                             "width", t->s.width, "height", t->s.height);
    int code = root ? stage_open(&stage, path, err) : fail(err, GIMBAL_ENOMEM, "%s: no memory", path);
    if (!code &&
        json_dump_file(root, stage.path, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17)))
        code = fail(err, GIMBAL_EIO, "%s: %s", path, strerror(errno));
    if (!code)
        code = stage_commit(&stage, err);
    stage_abort(&stage);
    json_decref(root);
    return code;
}

/* base/, residual/ and videofusion.json; the base's too when it is frozen, for they belong together. */
static int save(void *self, struct gimbal_trainer *t, const char *folder, bool ema, gimbal_error *err)
{
    VideoFusion *v = self;
    const Part *part = t->engine->part;
    const Part *own = v->residual_config ? &part[PART_UNET] : &part[PART_RESIDUAL];
    const Export base = {unet_params, v->base.unet, &part[PART_UNET], NULL, "videofusion/base"},
                 residual = {unet_params, v->residual.unet, own, v->residual_config, "videofusion/residual"},
                 motion = {unet_motion_params, v->residual.unet, &part[PART_MOTION], NULL,
                           "videofusion/residual-motion"};
    char path[PATH_ROOM];
    TRY(path_join(path, folder, "base", err));
    TRY(export_network(t, &base, path, ema, err));
    TRY(path_join(path, folder, "residual", err));
    TRY(export_network(t, &residual, path, ema, err));
    if (v->over_time) {
        TRY(path_join(path, folder, "residual/motion_adapter", err));
        TRY(export_network(t, &motion, path, ema, err));
    }
    return save_split(v, t, folder, err);
}

static int drop_leaf(Params *p, Weight *w)
{
    (void)p;
    weight_drop(w);
    return GIMBAL_OK;
}

static void release(void *self)
{
    VideoFusion *v = self;
    Plan *const all[] = {v->look, v->learn_base, v->rest, v->learn_rest, v->whole};
    Weight *const units[] = {&v->minus, &v->share, &v->own};
    Params p = {.leaf = drop_leaf};
    for (int i = 0; i < COUNT(all); i++)
        plan_free(all[i]);
    for (int i = 0; i < COUNT(units); i++)
        weight_drop(units[i]);
    tape_free(v->tape[0]), tape_free(v->tape[1]);
    if (v->residual_config && v->residual.unet) /* of its own: the engine's go with it */
        unet_params(v->residual.unet, &p), unet_motion_params(v->residual.unet, &p);
}

const Recipe recipe_videofusion = {
    .name = "videofusion",
    .help = "an image network for the noise that a clip shares, and a second one for each frame's own",
    .source = "Luo et al., VideoFusion: Decomposed Diffusion Models, CVPR 2023",
    .patterns = recipe_everything,
    .size = sizeof(VideoFusion),
    .decomposed = true,
    .lambda = lambda,
    .parts = parts,
    .plan = plan,
    .work_bytes = work_bytes,
    .flops = flops,
    .plans = plans,
    .learn = learn,
    .save = save,
    .free = release,
};
