/* sampler_ddpm.c: ancestral sampling of the process that the network was trained on (Ho et al., NeurIPS
 * 2020), from timestep to timestep of any grid.
 *
 *     x_prev = sqrt(A_p) b/(1 - A_t) x0 + sqrt(a) (1 - A_p)/(1 - A_t) x + sqrt(v) z
 *     a = A_t/A_p,  b = 1 - a,  v = b (1 - A_p)/(1 - A_t)                 A: cumulative alpha, z ~ N(0, 1)
 *
 * (paper, equations 6 and 7, its smaller variance). With neighbouring timesteps a and b are the schedule's
 * own; where steps are left out they are those of the step that is made, as in diffusers. The last step ends
 * at the clean clip, A_p = 1, and draws noise of variance 0 like any other, so that a shared generator is
 * read as often as the reference reads it; only at timestep 0 none is drawn.
 *
 * Knows the schedule and the grid. Refuses to know models, noise and passes. */
#include "diffusion/diffusion.h"

#include <math.h>
#include <string.h>

typedef struct {
    const Schedule *schedule;
    const Grid *grid;
} Ddpm;

/* DDIM's timesteps, but each leads to the next. */
static int grid(Grid *out, const Schedule *schedule, int steps, Arena *keep, gimbal_error *err)
{
    TRY(grid_make(out, schedule, steps, keep, err));
    out->ratio = 0;
    return GIMBAL_OK;
}

/* eta has no meaning here; an impossible one is refused as everywhere. */
static int begin(void *self, const Schedule *schedule, const Grid *steps, double eta, float *history,
                 gimbal_error *err)
{
    (void)history;
    if (!(eta >= 0 && eta <= 1))
        return fail(err, GIMBAL_EUSAGE, "ddpm: eta is %g; expected 0..1, and it is not used", eta);
    for (int k = 0; k < steps->n; k++)
        if (schedule_a(schedule, steps->t[k]) <= 0)
            return fail_hint(
                err, GIMBAL_EMODEL, "use sampler ddim, or spacing leading",
                "ddpm: timestep %g has zero signal (rescale_betas_zero_snr), from which there is no "
                "step back",
                steps->t[k]);
    *(Ddpm *)self = (Ddpm){schedule, steps};
    return GIMBAL_OK;
}

static bool injects(const void *self, int k)
{
    return ((const Ddpm *)self)->grid->t[k] > 0;
}

/* x, raw, inject, next, x0 [n]; inject NULL: no noise; x0 NULL: not wanted. */
static int step(void *self, int k, size_t n, const float *x, const float *raw, const float *inject,
                float *next, float *x0)
{
    enum { BLOCK = 512 };
    const Ddpm *o = self;
    const double t = o->grid->t[k], to = grid_next(o->grid, k);
    const double root = schedule_a(o->schedule, t), root_prev = to < 0 ? 1 : schedule_a(o->schedule, to);
    const double now = root * root, prev = root_prev * root_prev, alpha = now / prev, beta = 1 - alpha;
    const double clean_by = root_prev * beta / (1 - now), keep = sqrt(alpha) * (1 - prev) / (1 - now);
    const double sigma = sqrt(fmax((1 - prev) / (1 - now) * beta, 0));

    for (size_t at = 0; at < n; at += BLOCK) {
        float clean[BLOCK], eps[BLOCK];
        const size_t m = MIN(n - at, (size_t)BLOCK);
        predict_x0_eps(o->schedule, t, m, x + at, raw + at, clean, eps);
        for (size_t i = 0; i < m; i++) {
            const double noise = inject ? sigma * inject[at + i] : 0.0;
            next[at + i] = (float)(clean_by * clean[i] + keep * x[at + i] + noise);
        }
        if (x0)
            memcpy(x0 + at, clean, m * sizeof *x0);
    }
    return GIMBAL_OK;
}

const Sampler sampler_ddpm = {
    .name = "ddpm",
    .help = "noise at every step, as the process that was trained on has it",
    .source = "Ho et al., Denoising Diffusion Probabilistic Models, NeurIPS 2020",
    .size = sizeof(Ddpm),
    .grid = grid,
    .begin = begin,
    .injects = injects,
    .step = step,
};
