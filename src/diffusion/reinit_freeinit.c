/* reinit_freeinit.c: FreeInit (Wu et al., ECCV 2024): sample, noise the result again, keep its low band,
 * redraw the high band, sample again. The low band carries layout and slow motion from pass to pass.
 *
 *     z_t = a(t) x0 + s(t) eps0                    eps0: the first pass's noise, the same every time
 *     x   = F^-1( F(z_t) m + F(fresh) g )          m: low-pass mask over frames, height and width
 *
 * Corrected, the default: t is the first timestep that the coming pass samples; m has gain 1 at DC for
 * every size and its true radius; g = sqrt(1 - m^2), so that noise stays of variance 1.
 * compat=1, what diffusers 0.33 does, faults included: t = T-1 always, the published mask, g = 1 - m.
 *
 * Knows the schedule's a and s, masks and noise handed to it. Refuses to know models, samplers' insides,
 * files. */
#include "diffusion/diffusion.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int passes, order, fast, compat;
    const char *filter;
    double ds, dt;
} FreeInit;

/* In the order of LowpassKind. */
static const char *const filters[] = {"butterworth", "gaussian", "ideal", "box", NULL};

static const gimbal_option options[] = {
    {.name = "passes",
     .help = "samplings in all, the first included; each further one costs as much as plain sampling",
     .type = GIMBAL_INT,
     .offset = offsetof(FreeInit, passes),
     .def = 3,
     .min = 1,
     .max = MAX_PASSES},
    {.name = "filter",
     .help = "edge of the kept band: butterworth is the compromise, gaussian the steadiest and calms motion, "
             "ideal "
             "and box cut hard",
     .type = GIMBAL_CHOICE,
     .offset = offsetof(FreeInit, filter),
     .text = "butterworth",
     .choices = filters},
    {.name = "order",
     .help = "steepness of butterworth's edge: low is soft like gaussian, high is hard like ideal",
     .type = GIMBAL_INT,
     .offset = offsetof(FreeInit, order),
     .def = 4,
     .min = 1,
     .max = 64},
    {.name = "ds",
     .help =
         "how much of the picture's layout is kept from the last pass: highest kept frequency in space, 1 = "
         "Nyquist, 0 = nothing",
     .type = GIMBAL_REAL,
     .offset = offsetof(FreeInit, ds),
     .def = 0.25,
     .min = 0,
     .max = 2},
    {.name = "dt",
     .help = "how much of its motion is kept: highest kept frequency in time, 1 = Nyquist, 0 = nothing; "
             "lower lets "
             "motion be drawn anew",
     .type = GIMBAL_REAL,
     .offset = offsetof(FreeInit, dt),
     .def = 0.25,
     .min = 0,
     .max = 2},
    {.name = "fast",
     .help = "coarse to fine: early passes make fewer steps; three passes take the time of two, layout is a "
             "little "
             "rougher",
     .type = GIMBAL_BOOL,
     .offset = offsetof(FreeInit, fast)},
    {.name = "compat",
     .help =
         "exactly as diffusers, faults included (weaker noise, wider ideal filter); with sampler ddim only",
     .type = GIMBAL_BOOL,
     .offset = offsetof(FreeInit, compat)},
    {.name = NULL},
};

/* Coarse to fine multiplies after dividing, in double, and truncates: diffusers' step counts to the one. */
static int plan(const void *self, int steps, Pass *out, int max)
{
    const FreeInit *o = self;
    if (o->passes > max)
        return GIMBAL_EUSAGE;
    for (int i = 0; i < o->passes; i++) {
        const int coarse = (int)((double)steps / o->passes * (i + 1));
        out[i].steps = o->fast ? MAX(1, coarse) : steps;
    }
    return o->passes;
}

static int lowpass(const void *self, Lowpass *out)
{
    const FreeInit *o = self;
    *out = (Lowpass){.order = o->order, .ds = o->ds, .dt = o->dt, .as_published = o->compat};
    for (int i = 0; filters[i]; i++)
        if (!strcmp(filters[i], o->filter))
            out->kind = (LowpassKind)i;
    return GIMBAL_OK;
}

/* z [n] = a x0 + s eps0 in float32, products rounded before the sum, as the reference code's tensors are. */
static void renoise(const Schedule *schedule, double t, size_t n, const float *x0, const float *eps0,
                    float *z)
{
    const float a = (float)schedule_a(schedule, t), s = (float)schedule_s(schedule, t);
    for (size_t i = 0; i < n; i++)
        z[i] = a * x0[i] + s * eps0[i];
}

/* x [C,F,h,w] out: where the coming pass starts. */
static int start(const void *self, const ReinitIn *in, float *x, gimbal_error *err)
{
    const FreeInit *o = self;
    const gimbal_shape shape = in->shape;
    const size_t n = shape_count(shape), plane = n / (size_t)shape.c;
    float *fresh = alloc_array(n + plane, sizeof(float));
    if (!fresh)
        return fail(err, GIMBAL_ENOMEM, "freeinit: no memory for %zu values of noise and mask", n + plane);

    float *mask = fresh + n;
    Lowpass filter;
    lowpass(self, &filter);
    lowpass_mask(&filter, shape.f, shape.h, shape.w, mask);
    renoise(in->schedule, o->compat ? in->schedule->T - 1 : in->grid->t[0], n, in->x0, in->eps0, x);

    const DrawReq req = {.why = DRAW_FRESH, .pass = in->pass, .shape = shape};
    int code = in->noise.draw(in->noise.self, &req, fresh);
    if (code)
        fail(err, code, "freeinit: the fresh noise of pass %d cannot be drawn", in->pass + 1);
    else
        code = spectral_mix(x, fresh, mask, !o->compat, shape, x, NULL, err);
    free(fresh); /* a clip's size once per pass: too large to keep through the sampling in between */
    return code;
}

static const char *refuses(const void *self, const char *sampler)
{
    const FreeInit *o = self;
    if (!o->compat || !strcmp(sampler, "ddim"))
        return NULL;
    return "compat=1 repeats diffusers' loop, which is sound with ddim only: other schedulers scale the "
           "stored noise "
           "twice or lack the last timestep";
}

const Reinit reinit_freeinit = {
    .name = "freeinit",
    .help = "sample several times, keeping each result's low frequencies and redrawing the rest",
    .source = "Wu et al., FreeInit: Bridging Initialization Gap in Video Diffusion Models, ECCV 2024",
    .options = options,
    .size = sizeof(FreeInit),
    .plan = plan,
    .start = start,
    .lowpass = lowpass,
    .refuses = refuses,
};
