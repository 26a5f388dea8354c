/* guide.c: one prediction for a clip: the U-Net behind the Denoise callback, with classifier-free guidance.
 *
 *     raw = e(x, negative) + cfg (e(x, prompt) - e(x, negative))        Ho and Salimans, 2022
 *
 * Both halves are one call of 2F frames, rows [negative, prompt], so that every weight is read once. At cfg
 * <= 1 there is one branch and the negative prompt is not evaluated, as diffusers does; a run whose passes
 * differ in that has a plan for each. Host arrays are [C,F,h,w]; the network wants rows [b*F,h,w,C].
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

/* Inputs of one call of b branches: x [b*F,h,w,C], time [b,T], context [b,77,D]. One branch is the prompt's,
 * the last. */
static void inputs(const Guide *g, int b, Tensor *in[3])
{
    const gimbal_shape s = g->shape;
    const size_t skip = (size_t)(g->batch - b) * TOKENS * (size_t)g->context_width;
    const float *context = g->context ? g->context + skip : NULL;
    in[0] = tensor_input(g->cx, F32, 4, (int64_t[]){(int64_t)b * s.f, s.h, s.w, s.c}, g->x);
    in[1] = tensor_input(g->cx, F32, 2, (int64_t[]){b, g->time_width}, g->time);
    in[2] = tensor_input(g->cx, F32, 3, (int64_t[]){b, TOKENS, g->context_width}, context);
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
    const size_t half = shape_count(s);
    for (int i = 0; i < b; i++) {
        to_rows(x, s, g->x + (size_t)i * half);
        timestep_features(t, g->time_width, g->time + (size_t)i * g->time_width);
    }
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
