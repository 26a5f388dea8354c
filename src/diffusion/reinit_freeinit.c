/* reinit_freeinit.c: FreeInit (Wu et al., ECCV 2024): sample, noise the result again, keep its low band,
 * redraw the high band, sample again. The low band carries layout and slow motion from pass to pass.
 *
 *     z_t = a(t) x0 + s(t) eps0                    eps0: the first pass's noise, the same every time
 *     x   = F^-1( F(z_t) m + F(fresh) g )          m: low-pass mask over frames, height and width
 *
 * Corrected, the default: t is the first timestep that the coming pass samples; m has gain 1 at DC for
 * every size and its true radius; g = sqrt(1 - m^2), so that noise stays of variance 1.
 * early=K: every pass but the last stops after K steps; x0 is then what the network takes the clip to be.
 * compat=1, what diffusers 0.33 does, faults included: t = T-1 always, the published mask, g = 1 - m.
 *
 * Knows the schedule's a and s, masks and noise handed to it. Refuses to know models, samplers' insides,
 * files. */
#include "diffusion/reinit_filter.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    int passes, fast, compat, early;
    double early_cfg;
    FilterOptions filter;
} FreeInit;

static const gimbal_option options[] = {
    {.name = "passes",
     .help = "samplings in all, the first included; each further one costs as much as plain sampling, unless "
             "early or fast shortens it",
     .type = GIMBAL_INT,
     .offset = offsetof(FreeInit, passes),
     .def = 3,
     .min = 1,
     .max = MAX_PASSES},
    FILTER_OPTIONS(FreeInit, filter, "butterworth", "the last pass"),
    {.name = "fast",
     .help = "coarse to fine: early passes make fewer steps; three passes take the time of two, layout is a "
             "little "
             "rougher",
     .type = GIMBAL_BOOL,
     .offset = offsetof(FreeInit, fast)},
    {.name = "early",
     .help = "every pass but the last stops after this many of its steps and hands on its estimate of the "
             "clip, a "
             "rougher layout; 8 of 25 steps make two passes take 1.32 times one's time; 0: all steps",
     .type = GIMBAL_INT,
     .offset = offsetof(FreeInit, early),
     .def = 0,
     .min = 0,
     .max = 10000},
    {.name = "early-cfg",
     .help =
         "guidance scale of every pass but the last; 1 halves their time (one network call in place of two): "
         "layout follows the prompt less, motion is slowed down less; 0: the run's",
     .type = GIMBAL_REAL,
     .offset = offsetof(FreeInit, early_cfg),
     .def = 0,
     .min = 0,
     .max = 1000},
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
        out[i] = (Pass){.steps = o->fast ? MAX(1, coarse) : steps};
        if (i < o->passes - 1)
            out[i].run = MIN(o->early, out[i].steps), out[i].cfg = o->early_cfg;
    }
    return o->passes;
}

static int lowpass(const void *self, Lowpass *out)
{
    const FreeInit *o = self;
    *out = filter_lowpass(&o->filter, o->compat);
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
    const size_t n = shape_count(in->shape);
    Lowpass filter;
    lowpass(o, &filter);
    float *fresh = alloc_array(n, sizeof *fresh);
    if (!fresh)
        return fail(err, GIMBAL_ENOMEM, "freeinit: no memory for %zu values of noise", n);
    renoise(in->schedule, o->compat ? in->schedule->T - 1 : in->t, n, in->x0, in->eps0, x);
    int code = fresh_noise(in, "freeinit", in->pass, 0, fresh, err);
    if (!code)
        code = filter_mix(&filter, !o->compat, x, fresh, in->shape, x, err);
    free(fresh); /* a clip's size once per pass: too large to keep through the sampling in between */
    return code;
}

static const char *refuses(const void *self, const char *sampler, bool from_clip)
{
    const FreeInit *o = self;
    if (!o->compat)
        return NULL;
    if (strcmp(sampler, "ddim"))
        return "compat=1 repeats diffusers' loop, which is sound with ddim only: other schedulers scale the "
               "stored noise twice or lack the last timestep";
    if (from_clip)
        return "compat=1 repeats diffusers' loop, which is unsound where a clip is begun from: each pass "
               "applies the strength again, and noise is of the last timestep, not of the first sampled";
    return NULL;
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
