/* sampler_dpmpp2m.c: DPM-Solver++(2M), the multistep solver of second order (Lu et al., 2022, algorithm 2).
 *
 *     lambda = ln(a/s) = -ln sigma,   h = lambda' - lambda,   D = x0 + (x0 - x0_before) h / (2 h_before)
 *     x' = (s'/s) x - a' (e^-h - 1) D                          e^-h = sigma' / sigma
 *
 * The midpoint form. The first step has no x0 before it and the last has sigma' = 0 and so an infinite h:
 * both are of first order, D = x0 (the last one is then x' = x0). The x0 of the step before is the caller's
 * memory; a NaN in its first value says that there is none, so that it is saved and put back with the rest.
 *
 * Leading and linspace lay out one timestep more and drop the lowest, as in diffusers; whole timesteps.
 *
 * Knows the schedule and the grid. Refuses to know models, noise and passes. */
#include "diffusion/diffusion.h"

#include <math.h>
#include <string.h>

typedef struct {
    const Schedule *schedule;
    const Grid *grid;
    float *before; /* x0 of the step before [n] */
} Dpmpp2m;

/* How many timesteps, from 0 on, are not too noisy for lambda_min. lambda falls with t. */
static int usable(const Schedule *schedule)
{
    int n = schedule->T;
    while (n > 0 && -log(schedule_sigma(schedule, n - 1)) < schedule->lambda_min)
        n--;
    return n;
}

/* The k-th timestep of n out of 0..last-1, by NumPy's rules (halves round to even). */
static double spaced(const Schedule *s, int n, int last, int k)
{
    const int place = n - k; /* of n + 1 points, of which the lowest is left out */
    if (s->spacing == SPACING_LEADING)
        return (double)place * (last / (n + 1)) + s->steps_offset;
    if (s->spacing == SPACING_LINSPACE)
        return place == n ? last - 1 : nearbyint(place * ((last - 1) / (double)n));
    const double apart = (last - s->T / (double)n) - last;
    return nearbyint(last + k * apart) - 1;
}

static int grid(Grid *grid, const Schedule *schedule, int steps, Arena *keep, gimbal_error *err)
{
    const int last = usable(schedule);
    *grid = (Grid){0};
    if (steps < 1 || steps > schedule->T)
        return fail(err, GIMBAL_EUSAGE,
                    "steps is %d, expected 1..%d, the timesteps that the model was trained on", steps,
                    schedule->T);
    double *t = arena_alloc(keep, (size_t)steps * sizeof *t);
    if (!t)
        return fail(err, GIMBAL_ENOMEM, "dpmpp2m: no memory for %d timesteps", steps);
    for (int k = 0; k < steps; k++) {
        t[k] = spaced(schedule, steps, last, k);
        if (t[k] < 0 || t[k] > schedule->T - 1 || (k && t[k] >= t[k - 1]))
            return fail_hint(err, GIMBAL_EUSAGE, "make fewer steps",
                             "dpmpp2m: step %d of %d would be at timestep %g, which is taken or not one of "
                             "0..%d",
                             k + 1, steps, t[k], schedule->T - 1);
    }
    *grid = (Grid){.n = steps, .start = 1, .t = t};
    return GIMBAL_OK;
}

/* eta has no meaning here; an impossible one is refused as everywhere. */
static int begin(void *self, const Schedule *schedule, const Grid *grid, double eta, float *history,
                 gimbal_error *err)
{
    if (!(eta >= 0.0 && eta <= 1.0))
        return fail(err, GIMBAL_EUSAGE, "dpmpp2m: eta is %g; expected 0..1, and it is not used", eta);
    *(Dpmpp2m *)self = (Dpmpp2m){schedule, grid, history};
    history[0] = NAN;
    return GIMBAL_OK;
}

/* x, raw, next, x0 [n]; x0 NULL: not wanted. */
static int step(void *self, int k, size_t n, const float *x, const float *raw, const float *inject,
                float *next, float *x0)
{
    enum { BLOCK = 512 };
    (void)inject;
    const Dpmpp2m *o = self;
    const double sigma = schedule_sigma(o->schedule, o->grid->t[k]);
    const double to = schedule_sigma(o->schedule, grid_next(o->grid, k)), fall = to / sigma; /* e^-h */
    const double a = 1 / sqrt(1 + to * to), s_ratio = fall * a * sqrt(1 + sigma * sigma);
    double extra = 0; /* h / (2 h_before) */
    if (k > 0 && to > 0 && !isnan(o->before[0]))
        extra = log(fall) / log(sigma / schedule_sigma(o->schedule, o->grid->t[k - 1])) / 2;

    for (size_t at = 0; at < n; at += BLOCK) {
        float clean[BLOCK], eps[BLOCK];
        const size_t m = MIN(n - at, (size_t)BLOCK);
        predict_at_sigma(o->schedule->prediction, sigma, m, x + at, raw + at, clean, eps);
        for (size_t i = 0; i < m; i++) {
            const double slope = extra ? extra * ((double)clean[i] - o->before[at + i]) : 0;
            next[at + i] = (float)(s_ratio * x[at + i] - a * (fall - 1) * (clean[i] + slope));
        }
        memcpy(o->before + at, clean, m * sizeof *clean);
        if (x0)
            memcpy(x0 + at, clean, m * sizeof *x0);
    }
    return GIMBAL_OK;
}

const Sampler sampler_dpmpp2m = {
    .name = "dpmpp2m",
    .help = "second order from two predictions, deterministic: good clips in 15 to 25 steps; what "
            "DPMSolverMultistepScheduler does",
    .source = "Lu et al., DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models, "
              "2022",
    .size = sizeof(Dpmpp2m),
    .grid = grid,
    .history = 1,
    .begin = begin,
    .step = step,
};
