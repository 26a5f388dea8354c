/* sampler_euler.c: Euler's method on the probability flow (Karras et al., NeurIPS 2022, algorithm 1 without
 * churn), as k-diffusion and diffusers step it.
 *
 *     y = x sqrt(1 + sigma^2) = x0 + sigma eps         sigma = s/a: the clip with its noise on top
 *     dy/dsigma = (y - x0) / sigma = eps               y' = y + eps (sigma' - sigma) = x0 + sigma' eps
 *
 * y stays inside: what comes and goes is x = y / sqrt(1 + sigma^2), which has unit variance and is at the
 * same time what the network is given. Then a step is x' = (x0 + sigma' eps) / sqrt(1 + sigma'^2).
 *
 * Linspace keeps fractional timesteps, with sigma interpolated. Where the reference multiplies the initial
 * noise by sigma alone (linspace, trailing) and not by sqrt(1 + sigma^2), x starts below unit variance.
 *
 * Knows the schedule and the grid. Refuses to know models, noise and passes. */
#include "diffusion/diffusion.h"

#include <math.h>
#include <string.h>

typedef struct {
    const Schedule *schedule;
    const Grid *grid;
} Euler;

/* Not rounded to whole timesteps, but to float32, which is what the reference tells the network. */
static void lay_fractional(double *t, int n, int T)
{
    const double apart = (T - 1) / (double)MAX(n - 1, 1);
    for (int k = 0; k < n; k++) {
        const int place = n - 1 - k;
        t[k] = (float)(place == n - 1 && n > 1 ? T - 1 : place * apart);
    }
}

static int grid(Grid *grid, const Schedule *schedule, int steps, Arena *keep, gimbal_error *err)
{
    TRY(grid_make(grid, schedule, steps, keep, err));
    if (schedule->spacing == SPACING_LINSPACE) {
        double *t = arena_alloc(keep, (size_t)steps * sizeof *t);
        if (!t)
            return fail(err, GIMBAL_ENOMEM, "euler: no memory for %d timesteps", steps);
        lay_fractional(t, steps, schedule->T);
        grid->t = t;
    }
    const double sigma = schedule_sigma(schedule, grid->t[0]);
    grid->ratio = 0;
    grid->start = schedule->spacing == SPACING_LEADING ? 1 : sigma / sqrt(1 + sigma * sigma);
    return GIMBAL_OK;
}

/* eta has no meaning here; an impossible one is refused as everywhere. */
static int begin(void *self, const Schedule *schedule, const Grid *grid, double eta, float *history,
                 gimbal_error *err)
{
    (void)history;
    if (!(eta >= 0.0 && eta <= 1.0))
        return fail(err, GIMBAL_EUSAGE, "euler: eta is %g; expected 0..1, and it is not used", eta);
    *(Euler *)self = (Euler){schedule, grid};
    return GIMBAL_OK;
}

/* x, raw, next, x0 [n]; x0 NULL: not wanted. Blocks keep x0 and eps off the heap. */
static int step(void *self, int k, size_t n, const float *x, const float *raw, const float *inject,
                float *next, float *x0)
{
    enum { BLOCK = 512 };
    (void)inject;
    const Euler *o = self;
    const double sigma = schedule_sigma(o->schedule, o->grid->t[k]);
    const double to = schedule_sigma(o->schedule, grid_next(o->grid, k)), scale = 1 / sqrt(1 + to * to);

    for (size_t at = 0; at < n; at += BLOCK) {
        float clean[BLOCK], eps[BLOCK];
        const size_t m = MIN(n - at, (size_t)BLOCK);
        predict_at_sigma(o->schedule->prediction, sigma, m, x + at, raw + at, clean, eps);
        for (size_t i = 0; i < m; i++)
            next[at + i] = (float)(scale * (clean[i] + to * eps[i]));
        if (x0)
            memcpy(x0 + at, clean, m * sizeof *x0);
    }
    return GIMBAL_OK;
}

const Sampler sampler_euler = {
    .name = "euler",
    .help = "straight steps in sigma, deterministic; what EulerDiscreteScheduler does",
    .source =
        "Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, NeurIPS 2022",
    .size = sizeof(Euler),
    .grid = grid,
    .begin = begin,
    .step = step,
};
