/* reinit_freqprior.c: FreqPrior (Yuan et al., ICLR 2025, arXiv 2502.03496): short passes that stop half-way,
 * noise refined by frequency between them so that it stays N(0, I).
 *
 *     every pass but the last stops at timestep `stop`, where it left x_m;      t: where the coming one
 * starts 1 diffuse   z = sqrt(A) x_m + sqrt(1 - A) eps0,              A = abar(t) / abar(m), eps0 as in
 * FreeInit 2 refine    low = (sqrt(2) r z + sqrt(1 - r^2) eta) / sqrt(1 + r^2),               eta, fresh ~
 * N(0, I) 3 mix       x = F^-1( F(low) m + F(fresh) sqrt(1 - m^2) )                                m:
 * low-pass
 *
 * The paper writes 2 and 3 with two noised copies x_i = (r z + sqrt(1 - r^2) eta_i) / sqrt(1 + r^2), each
 * mixed with noise of its own, summed over sqrt(2) as (Re + Im) of one and (Re - Im) of the other, which
 * gathers what an asymmetric mask leaves in the imaginary part. Our masks are symmetric: the parts are real
 * and the sum is the above, with two random clips in place of four. r is the code's `ratio`, cos(theta).
 *
 * Chosen where its authors' code does otherwise: z is diffused to the first sampled timestep, not to 999 (as
 * our FreeInit); the mask is FreeInit's corrected one; `stop` need not be on the grid: a pass stops at the
 * first timestep at or below it, which for 25 steps is theirs, 321 after 16 of them.
 *
 * Knows the schedule's a, masks and noise handed to it. Refuses to know models, samplers' insides, files. */
#include "diffusion/reinit_filter.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    FilterOptions filter;
    int passes, stop;
    double ratio;
} FreqPrior;

static const gimbal_option options[] = {
    {.name = "passes",
     .help =
         "samplings in all; every one but the last stops early, at the usual stop a further one takes two "
         "thirds of plain sampling's time",
     .type = GIMBAL_INT,
     .offset = offsetof(FreqPrior, passes),
     .def = 3,
     .min = 1,
     .max = MAX_PASSES},
    {.name = "stop",
     .help =
         "timestep at which early passes stop: higher is cheaper and hands on a rougher layout and less of "
         "the motion, 0 runs them to the end",
     .type = GIMBAL_INT,
     .offset = offsetof(FreqPrior, stop),
     .def = 321,
     .min = 0,
     .max = 999},
    {.name = "ratio",
     .help =
         "how much of the kept band's layout and motion is handed on rather than drawn anew: 1 all, 0 none; "
         "costs no time",
     .type = GIMBAL_REAL,
     .offset = offsetof(FreqPrior, ratio),
     .def = 0.8,
     .min = 0,
     .max = 1},
    FILTER_OPTIONS(FreqPrior, filter, "butterworth", "the last pass"),
    {.name = NULL},
};

static int plan(const void *self, int steps, Pass *out, int max)
{
    const FreqPrior *o = self;
    if (o->passes > max)
        return GIMBAL_EUSAGE;
    for (int i = 0; i < o->passes; i++)
        out[i] = (Pass){.steps = steps, .until = i < o->passes - 1 ? o->stop : 0};
    return o->passes;
}

static int lowpass(const void *self, Lowpass *out)
{
    *out = filter_lowpass(&((const FreqPrior *)self)->filter, false);
    return GIMBAL_OK;
}

/* Steps 1 and 2, low [n] out; eta [n]. */
static void refine(const ReinitIn *in, double ratio, const float *eta, float *low)
{
    const double left = schedule_a(in->schedule, in->t) / schedule_a(in->schedule, in->x_t);
    const double added = sqrt(fmax(1.0 - left * left, 0.0)), r2 = ratio * ratio;
    const double keep = sqrt(2.0 * r2 / (1.0 + r2)), own = sqrt((1.0 - r2) / (1.0 + r2));
    for (size_t i = 0; i < shape_count(in->shape); i++)
        low[i] = (float)(keep * (left * in->x[i] + added * in->eps0[i]) + own * eta[i]);
}

/* x [C,F,h,w] out: where the coming pass starts. */
static int start(const void *self, const ReinitIn *in, float *x, gimbal_error *err)
{
    const FreqPrior *o = self;
    const size_t n = shape_count(in->shape);
    Lowpass filter;
    lowpass(o, &filter);
    float *fresh = alloc_array(2 * n, sizeof *fresh), *eta = fresh + n;
    if (!fresh)
        return fail(err, GIMBAL_ENOMEM, "freqprior: no memory for %zu values of noise", 2 * n);
    int code = fresh_noise(in, "freqprior", in->pass, 0, fresh, err);
    if (!code)
        code = fresh_noise(in, "freqprior", in->pass, 1, eta, err);
    if (!code) {
        refine(in, o->ratio, eta, x);
        code = filter_mix(&filter, true, x, fresh, in->shape, x, err);
    }
    free(fresh); /* two clips' size once per pass: too large to keep through the sampling in between */
    return code;
}

const Reinit reinit_freqprior = {
    .name = "freqprior",
    .help =
        "several samplings, all but the last stopped half-way; the noise between them stays standard normal",
    .source = "Yuan et al., FreqPrior: Frequency Filtering Gaussian Noise, ICLR 2025",
    .options = options,
    .size = sizeof(FreqPrior),
    .plan = plan,
    .start = start,
    .lowpass = lowpass,
};
