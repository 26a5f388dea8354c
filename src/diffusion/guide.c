/* guide.c: one prediction for a clip: the U-Net behind the Denoise callback, with classifier-free guidance.
 *
 *     raw = e(x, negative) + cfg (e(x, prompt) - e(x, negative))        Ho and Salimans, 2022
 *
 * Both halves are one call of 2F frames, rows [negative, prompt], so that every weight is read once. At cfg
 * <= 1 the batch is one and the negative prompt is not evaluated, as diffusers does. Host arrays are
 * [C,F,h,w]; the network wants rows [B*F,h,w,C].
 *
 * Knows layouts and guidance. Refuses to know timesteps' order, samplers and noise. */
#include "diffusion/engine.h"

/* x [C,F,h,w] -> rows [F,h,w,C] */
static void to_rows(const float *x, gimbal_shape s, float *rows)
{
    const size_t points = (size_t)s.f * s.h * s.w;
    for (int c = 0; c < s.c; c++)
        for (size_t i = 0; i < points; i++)
            rows[i * s.c + c] = x[c * points + i];
}

/* Inputs of one call: x [B*F,h,w,C], time [B,T], context [B,77,D]. */
static void inputs(const Guide *g, Tensor *in[3])
{
    const gimbal_shape s = g->shape;
    in[0] = tensor_input(g->cx, F32, 4, (int64_t[]){(int64_t)g->batch * s.f, s.h, s.w, s.c}, g->x);
    in[1] = tensor_input(g->cx, F32, 2, (int64_t[]){g->batch, g->time_width}, g->time);
    in[2] = tensor_input(g->cx, F32, 3, (int64_t[]){g->batch, TOKENS, g->context_width}, g->context);
}

Plan *guide_plan(Guide *g)
{
    Tensor *in[3];
    inputs(g, in);
    return plan_make(g->cx, unet_forward, &g->call, in);
}

/* e rows [B*F,h,w,C] -> raw [C,F,h,w], guided. */
static void from_rows(const Guide *g, const Tensor *e, float *raw)
{
    const gimbal_shape s = g->shape;
    const size_t points = (size_t)s.f * s.h * s.w;
    const float *first = e->d, *second = first + points * (size_t)e->ld, cfg = (float)g->cfg;
    for (int c = 0; c < s.c; c++)
        for (size_t i = 0; i < points; i++) {
            const float a = first[i * (size_t)e->ld + c];
            raw[c * points + i] = g->batch == 1 ? a : a + cfg * (second[i * (size_t)e->ld + c] - a);
        }
}

static int predict(void *self, const float *x, gimbal_shape shape, double t, double cfg, float *raw,
                   gimbal_error *err)
{
    Guide *g = self;
    g->cfg = cfg;
    const gimbal_shape s = g->shape;
    if (shape.c != s.c || shape.f != s.f || shape.h != s.h || shape.w != s.w)
        return fail(err, GIMBAL_EMODEL,
                    "the network was planned for latents [%d,%d,%d,%d], asked for [%d,%d,%d,%d]", s.c, s.f,
                    s.h, s.w, shape.c, shape.f, shape.h, shape.w);
    const size_t half = shape_count(s);
    for (int b = 0; b < g->batch; b++) {
        to_rows(x, s, g->x + (size_t)b * half);
        timestep_features(t, g->time_width, g->time + (size_t)b * g->time_width);
    }
    Tensor *in[3];
    cx_reset(g->cx); /* the last call's headers */
    inputs(g, in);
    const Tensor *e = plan_run(g->cx, g->plan, unet_forward, &g->call, in);
    if (!e)
        return pass_on(g->cx->err, err);
    from_rows(g, e, raw);
    return GIMBAL_OK;
}

Denoise guide_denoise(Guide *g)
{
    return (Denoise){predict, g};
}
