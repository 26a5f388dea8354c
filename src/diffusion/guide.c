/* guide.c: one prediction for a clip: the U-Net behind the Denoise callback, with classifier-free guidance.
 *
 *     raw = e(x, negative) + cfg (e(x, prompt) - e(x, negative))        Ho and Salimans, 2022
 *
 * Both halves are one call that gives 2F frames, rows [negative, prompt], so that every weight is read once;
 * x and the timestep are given once, and the network computes both halves' common beginning once. The keys
 * and values that its layers make of the prompts are computed before the first step and kept. At cfg <= 1
 * there is one branch and the negative prompt is not evaluated, as diffusers does; a run whose passes differ
 * in that has a plan for each. Host arrays are [C,F,h,w]; the network wants rows [F,h,w,C].
 *
 * Knows layouts and guidance. Refuses to know timesteps' order, samplers and noise. */
#include "diffusion/engine.h"

#include <string.h>

/* x [C,F,h,w] -> rows [F,h,w,C] */
static void to_rows(const float *x, gimbal_shape s, float *rows)
{
    const size_t points = (size_t)s.f * s.h * s.w;
    for (int c = 0; c < s.c; c++)
        for (size_t i = 0; i < points; i++)
            rows[i * s.c + c] = x[c * points + i];
}

/* Inputs of one call of b branches: x [F,h,w,C], time [1,T], keys and values [b,77,K]. One branch is the
 * prompt's, the last. */
static void inputs(const Guide *g, int b, Tensor *in[3])
{
    const gimbal_shape s = g->shape;
    const int width = g->call.keyed ? g->keys_width : g->context_width;
    const float *text = g->call.keyed ? g->keys : g->context;
    if (text)
        text += (size_t)(g->batch - b) * TOKENS * (size_t)width;
    in[0] = tensor_input(g->cx, F32, 4, (int64_t[]){s.f, s.h, s.w, s.c}, g->x);
    in[1] = tensor_input(g->cx, F32, 2, (int64_t[]){1, g->time_width}, g->time);
    in[2] = tensor_input(g->cx, F32, 3, (int64_t[]){b, TOKENS, width}, text);
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
    Tensor *in[3];
    inputs(g, b, in);
    return plan_make(g->cx, unet_forward, &g->call, in);
}

/* e rows [b*F,h,w,C] -> raw [C,F,h,w], guided where there are two branches. */
static void from_rows(gimbal_shape s, int b, const Tensor *e, float cfg, float *raw)
{
    const size_t points = (size_t)s.f * s.h * s.w;
    const float *first = e->d, *second = first + points * (size_t)e->ld;
    for (int c = 0; c < s.c; c++)
        for (size_t i = 0; i < points; i++) {
            const float a = first[i * (size_t)e->ld + c];
            raw[c * points + i] = b == 1 ? a : a + cfg * (second[i * (size_t)e->ld + c] - a);
        }
}

static int predict(void *self, const float *x, gimbal_shape shape, double t, double cfg, float *raw,
                   gimbal_error *err)
{
    Guide *g = self;
    const gimbal_shape s = g->shape;
    const int b = branches(cfg);
    if (shape.c != s.c || shape.f != s.f || shape.h != s.h || shape.w != s.w)
        return fail(err, GIMBAL_EMODEL,
                    "the network was planned for latents [%d,%d,%d,%d], asked for [%d,%d,%d,%d]", s.c, s.f,
                    s.h, s.w, shape.c, shape.f, shape.h, shape.w);
    if (!g->plan[b - 1])
        return fail(err, GIMBAL_EMODEL, "no call of %d branch%s was planned, asked for one at guidance %g", b,
                    b > 1 ? "es" : "", cfg);
    to_rows(x, s, g->x);
    timestep_features(t, g->time_width, g->time);
    Tensor *in[3];
    cx_reset(g->cx); /* the last call's headers */
    inputs(g, b, in);
    const Tensor *e = plan_run(g->cx, g->plan[b - 1], unet_forward, &g->call, in);
    if (!e)
        return pass_on(g->cx->err, err);
    from_rows(s, b, e, (float)cfg, raw);
    return GIMBAL_OK;
}

Denoise guide_denoise(Guide *g)
{
    return (Denoise){predict, g};
}
