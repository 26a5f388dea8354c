/* sampler_ddim.c: DDIM (Song et al., ICLR 2021), from deterministic (eta 0) to as noisy as DDPM (eta 1).
 *
 *     x_prev = sqrt(A_p) x0 + sqrt(1 - A_p - v) eps + sqrt(v) z        A: cumulative alpha, z ~ N(0, 1)
 *     v = eta^2 (1 - A_p)/(1 - A_t) (1 - A_t/A_p)                      (paper, equations 12 and 16)
 *
 * The previous step is t - T/steps whatever the spacing, as in diffusers; below 0 it is the schedule's
 * final alpha. eps is never re-derived from a clipped x0. With eta > 0 noise is asked for at every step,
 * the last included, so that a shared generator is read as often as the reference reads it.
 *
 * Knows the schedule and the grid. Refuses to know models, noise and passes. */
#include "diffusion/diffusion.h"

#include <math.h>
#include <string.h>

typedef struct {
    const Schedule *schedule;
    const Grid *grid;
    double eta;
} Ddim;

static double alpha(const Schedule *schedule, double t)
{
    const double a = schedule_a(schedule, t);
    return a * a;
}

/* Alphas that vanish (zero terminal SNR) are served where the formulas hold: x0 cannot be had from pure
 * noise and a prediction of that noise. */
static int begin(void *self, const Schedule *schedule, const Grid *grid, double eta, float *history,
                 gimbal_error *err)
{
    (void)history;
    if (!(eta >= 0.0 && eta <= 1.0))
        return fail_hint(err, GIMBAL_EUSAGE, "0 is deterministic, 1 is as noisy as DDPM",
                         "ddim: eta is %g; expected 0..1", eta);
    for (int k = 0; k < grid->n; k++) {
        const double t = grid->t[k];
        if (schedule_a(schedule, grid_next(grid, k)) <= 0.0)
            return fail(err, GIMBAL_EMODEL, "ddim: the schedule's alpha is 0 at timestep %g, before the last",
                        grid_next(grid, k));
        if (schedule_a(schedule, t) <= 0.0 && schedule->prediction == PREDICT_EPSILON)
            return fail_hint(
                err, GIMBAL_EMODEL, "use spacing leading, which does not start at the last timestep",
                "ddim: timestep %g has zero signal (rescale_betas_zero_snr), where prediction_type "
                "epsilon says nothing about the clip; expected v_prediction or sample",
                t);
    }
    *(Ddim *)self = (Ddim){schedule, grid, eta};
    return GIMBAL_OK;
}

static bool injects(const void *self, int k)
{
    (void)k;
    return ((const Ddim *)self)->eta > 0.0;
}

/* x, raw, inject, next, x0 [n]; inject NULL: no noise; x0 NULL: not wanted. Blocks keep x0 and eps off
 * the heap. */
static int step(void *self, int k, size_t n, const float *x, const float *raw, const float *inject,
                float *next, float *x0)
{
    enum { BLOCK = 512 };
    const Ddim *o = self;
    const double t = o->grid->t[k];
    const double now = alpha(o->schedule, t), prev = alpha(o->schedule, grid_next(o->grid, k));
    const double v = o->eta * o->eta * (1.0 - prev) / (1.0 - now) * (1.0 - now / prev);
    const double keep = sqrt(prev), toward = sqrt(fmax(1.0 - prev - v, 0.0)), sigma = sqrt(fmax(v, 0.0));

    for (size_t at = 0; at < n; at += BLOCK) {
        float clean[BLOCK], eps[BLOCK];
        const size_t m = MIN(n - at, (size_t)BLOCK);
        predict_x0_eps(o->schedule, t, m, x + at, raw + at, clean, eps);
        for (size_t i = 0; i < m; i++) {
            const double noise = inject ? sigma * inject[at + i] : 0.0;
            next[at + i] = (float)(keep * clean[i] + toward * eps[i] + noise);
        }
        if (x0)
            memcpy(x0 + at, clean, m * sizeof *x0);
    }
    return GIMBAL_OK;
}

const Sampler sampler_ddim = {
    .name = "ddim",
    .help = "deterministic at eta 0, as noisy as DDPM at eta 1",
    .source = "Song et al., Denoising Diffusion Implicit Models, ICLR 2021",
    .size = sizeof(Ddim),
    .takes_eta = true,
    .begin = begin,
    .injects = injects,
    .step = step,
};
