/* guide.c: one prediction for a clip: the U-Net behind the Denoise callback, with classifier-free guidance.
 *
 *     raw = e(x, negative) + cfg (e(x, prompt) - e(x, negative))        Ho and Salimans, 2022
 *
 * and of the image, where frame 0 of x is one: y is x with noise in that frame (Ren et al., ConsistI2V,
 * equation 5; the noise is that of the pass's start all the way, as in their code)
 *
 *     raw = e(y, negative) + cfg_image (e(x, negative) - e(y, negative))
 *           + cfg (e(x, prompt) - e(x, negative))
 *
 * With two branches `rescale` brings raw back to the prompt's deviation, of all values but a held frame's
 * (Lin et al., 2023, equations 15, 16):
 *
 *     raw (phi std(e(x, prompt)) / std(raw) + 1 - phi)
 *
 * Both halves are one call that gives 2F frames, rows [negative, prompt], so that every weight is read once;
 * x and the timestep are given once, and the network computes both halves' common beginning once. The keys
 * and values that its layers make of the prompts are computed before the first step and kept. At cfg <= 1
 * there is one branch and the negative prompt is not evaluated, as diffusers does; a run whose passes differ
 * in that has a plan for each. Host arrays are [C,F,h,w]; the network wants rows [F,h,w,C].
 *
 * Knows layouts and guidance. Refuses to know timesteps' order, samplers and noise. */
#include "diffusion/engine.h"

#include <math.h>
#include <string.h>

void to_rows(const float *x, gimbal_shape s, float *rows)
{
    const size_t points = (size_t)s.f * s.h * s.w;
    for (int c = 0; c < s.c; c++)
        for (size_t i = 0; i < points; i++)
            rows[i * s.c + c] = x[c * points + i];
}

/* Inputs of one call of b branches: x [F,h,w,C], time [1,T], keys and values [b,77,K], stride [1,T] or
 * frames' numbers [F,T]. One branch is the prompt's, the last. Three do not have x in common: [3F,h,w,C],
 * [3,T]. */
static void inputs(const Guide *g, int b, Tensor *in[4])
{
    const gimbal_shape s = g->shape;
    const int width = g->call.keyed ? g->keys_width : g->context_width;
    const float *text = g->call.keyed ? g->keys : g->context;
    if (text)
        text += (size_t)(g->batch - b) * TOKENS * (size_t)width;
    const int clips = b == 3 ? 3 : 1;
    in[0] = tensor_input(g->cx, F32, 4, (int64_t[]){clips * s.f, s.h, s.w, s.c}, g->x);
    in[1] = tensor_input(g->cx, F32, 2, (int64_t[]){clips, g->time_width}, g->time);
    in[2] = tensor_input(g->cx, F32, 3, (int64_t[]){b, TOKENS, width}, text);
    in[3] = g->strided    ? tensor_input(g->cx, F32, 2, (int64_t[]){clips, g->time_width}, g->stride)
            : g->numbered ? tensor_input(g->cx, F32, 2, (int64_t[]){s.f, g->time_width}, g->numbers)
                          : NULL;
}

static Tensor *context_input(const Guide *g)
{
    return tensor_input(g->cx, F32, 3, (int64_t[]){g->batch, TOKENS, g->context_width}, g->context);
}

Plan *guide_plan_text(Guide *g)
{
    Tensor *context = context_input(g);
    return plan_make(g->cx, unet_text, g->call.unet, &context);
}

int guide_text(Guide *g, gimbal_error *err)
{
    if (!g->call.keyed)
        return GIMBAL_OK;
    cx_reset(g->cx);
    Tensor *context = context_input(g);
    const Tensor *y = plan_run(g->cx, g->text, unet_text, g->call.unet, &context);
    if (!y)
        return pass_on(g->cx->err, err);
    const size_t width = (size_t)g->keys_width, rows = (size_t)g->batch * TOKENS;
    for (size_t i = 0; i < rows; i++)
        memcpy(g->keys + i * width, (const float *)y->d + i * (size_t)y->ld, width * sizeof(float));
    return GIMBAL_OK;
}

Plan *guide_plan(Guide *g, int b)
{
    Tensor *in[4];
    inputs(g, b, in);
    return plan_make(g->cx, unet_forward, &g->call, in);
}

/* e rows [b*F,h,w,C] -> raw [C,F,h,w], guided where there is more than one branch. */
static void from_rows(const Guide *g, int b, const Tensor *e, float cfg, float *raw)
{
    const gimbal_shape s = g->shape;
    const size_t points = (size_t)s.f * s.h * s.w, ld = (size_t)e->ld, branch = points * ld;
    const float by_image = (float)g->cfg_image, *rows = e->d;
    for (int c = 0; c < s.c; c++)
        for (size_t i = 0; i < points; i++) {
            const float *at = rows + i * ld + c, a = at[0];
            float *out = &raw[c * points + i];
            if (b == 1)
                *out = a;
            else if (b == 2)
                *out = a + cfg * (at[branch] - a);
            else
                *out = a + by_image * (at[branch] - a) + cfg * (at[2 * branch] - at[branch]);
        }
}

/* Standard deviation of frames from.. of x, whose value (c, i) lies at x[c * across + i * along]. */
static double deviation(gimbal_shape s, int from, const float *x, size_t across, size_t along)
{
    const size_t plane = (size_t)s.h * s.w, points = (size_t)s.f * plane;
    double sum = 0, squares = 0;
    const double n = (double)s.c * (double)(points - (size_t)from * plane);
    for (size_t c = 0; c < (size_t)s.c; c++)
        for (size_t i = (size_t)from * plane; i < points; i++) {
            const double v = x[c * across + i * along];
            sum += v, squares += v * v;
        }
    return sqrt(fmax(squares - sum * sum / n, 0) / (n - 1));
}

/* raw [C,F,h,w] guided, e rows of two branches. */
static void rescale(const Guide *g, const Tensor *e, float *raw)
{
    const gimbal_shape s = g->shape;
    const size_t points = (size_t)s.f * s.h * s.w, ld = (size_t)e->ld;
    const double have = deviation(s, g->held, raw, points, 1),
                 want = deviation(s, g->held, (const float *)e->d + points * ld, 1, ld);
    const float by = (float)(have > 0 ? g->rescale * want / have + 1 - g->rescale : 1);
    for (size_t i = 0; i < (size_t)s.c * points; i++)
        raw[i] *= by;
}

/* x, time and stride of b branches in the network's layout. Of three the first has noise in frame 0. */
static void fill(Guide *g, const float *x, int b, double t)
{
    const gimbal_shape s = g->shape;
    to_rows(x, s, g->x);
    timestep_features(t, g->time_width, g->time);
    if (b < 3)
        return;
    for (size_t i = 1; i < 3; i++) {
        memcpy(g->x + i * shape_count(s), g->x, shape_count(s) * sizeof *g->x);
        memcpy(g->time + i * (size_t)g->time_width, g->time, (size_t)g->time_width * sizeof *g->time);
    }
    to_rows(g->blank, (gimbal_shape){s.c, 1, s.h, s.w}, g->x);
}

/* One call of b branches -> e, rows [b*F,h,w,C] until the next call. */
static int call(Guide *g, const float *x, int b, double t, const Tensor **e, gimbal_error *err)
{
    if (!g->plan[b - 1])
        return fail(err, GIMBAL_EMODEL, "no call of %d branch%s was planned", b, b > 1 ? "es" : "");
    fill(g, x, b, t);
    Tensor *in[4];
    cx_reset(g->cx); /* the last call's headers */
    inputs(g, b, in);
    *e = plan_run(g->cx, g->plan[b - 1], unet_forward, &g->call, in);
    return *e ? GIMBAL_OK : pass_on(g->cx->err, err);
}

int guide_eps(void *guide, const float *x, const int *number, double t, double cfg, float *alone,
              float *guided, gimbal_error *err)
{
    Guide *g = guide;
    const gimbal_shape s = g->shape;
    const int b = branches(cfg);
    const Tensor *e;
    for (int f = 0; g->numbered && f < s.f; f++)
        timestep_features(number[f], g->time_width, g->numbers + (size_t)f * (size_t)g->time_width);
    TRY(call(g, x, b, t, &e, err));
    from_rows(g, b, e, (float)cfg, guided);
    if (!alone)
        return GIMBAL_OK;
    const size_t points = (size_t)s.f * s.h * s.w, ld = (size_t)e->ld;
    const float *rows = (const float *)e->d + (size_t)(b - 1) * points * ld;
    for (size_t c = 0; c < (size_t)s.c; c++)
        for (size_t i = 0; i < points; i++)
            alone[c * points + i] = rows[i * ld + c];
    return GIMBAL_OK;
}

static int predict(void *self, const float *x, gimbal_shape shape, double t, double cfg, float *raw,
                   gimbal_error *err)
{
    Guide *g = self;
    const gimbal_shape s = g->shape;
    const int b = g->cfg_image > 1 ? 3 : branches(cfg);
    const Tensor *e;
    if (shape.c != s.c || shape.f != s.f || shape.h != s.h || shape.w != s.w)
        return fail(err, GIMBAL_EMODEL,
                    "the network was planned for latents [%d,%d,%d,%d], asked for [%d,%d,%d,%d]", s.c, s.f,
                    s.h, s.w, shape.c, shape.f, shape.h, shape.w);
    TRY(call(g, x, b, t, &e, err));
    from_rows(g, b, e, (float)cfg, raw);
    if (b == 2 && g->rescale > 0)
        rescale(g, e, raw);
    return GIMBAL_OK;
}

Denoise guide_denoise(Guide *g)
{
    return (Denoise){predict, g};
}
