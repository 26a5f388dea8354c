/* study.c: the forward process x_t = a(t) x0 + s(t) eps of a model or of a named schedule, as numbers, and
 * the timesteps that a run samples: what studies of leaking layout (FreeInit, Wu et al., ECCV 2024) go by.
 *
 * Without a model: Stable Diffusion's betas, 0.00085 to 0.012 over 1000 timesteps, steps_offset 1, which
 * AnimateDiff, ModelScope and VideoCrafter share.
 *
 * Knows schedules and samplers' grids. Refuses to know clips and networks. */
#include "diffusion/engine.h"

#include <stdlib.h>
#include <string.h>

enum { PLAIN_STEPS = 25 }; /* FreeInit's own runs */

/* Stable Diffusion's process with one of diffusers' beta schedules. */
static int plain_schedule(const char *betas, const char *spacing, Schedule *out, Arena *keep,
                          gimbal_error *err)
{
    const char *note;
    json_t *config = json_pack("{s:s, s:f, s:f, s:s, s:i, s:i, s:b, s:b, s:s}", "_class_name",
                               "DDIMScheduler", "beta_start", 0.00085, "beta_end", 0.012, "beta_schedule",
                               "linear", "num_train_timesteps", 1000, "steps_offset", 1, "clip_sample", 0,
                               "set_alpha_to_one", 1, "timestep_spacing", "leading");
    if (!config)
        return fail(err, GIMBAL_ENOMEM, "no memory for a schedule");
    const int code =
        schedule_read(out, config, "a schedule without a model", betas, spacing, false, keep, &note, err);
    json_decref(config);
    return code;
}

/* Everything in one block, so that the caller's free() takes it all. */
static gimbal_schedule *pack(const Schedule *s, const Grid *grid, const Sampler *sampler)
{
    static const char *const spacings[] = {
        [SPACING_LEADING] = "leading", [SPACING_LINSPACE] = "linspace", [SPACING_TRAILING] = "trailing"};
    const size_t T = (size_t)s->T, n = (size_t)grid->n;
    gimbal_schedule *out = malloc(sizeof *out + (T + 2 * n) * sizeof(double));
    if (!out)
        return NULL;
    double *alpha_bar = (double *)(out + 1), *t = alpha_bar + T, *t_alpha_bar = t + n;
    memcpy(alpha_bar, s->alpha_bar, T * sizeof *alpha_bar);
    memcpy(t, grid->t, n * sizeof *t);
    for (size_t k = 0; k < n; k++) {
        const double a = schedule_a(s, t[k]);
        t_alpha_bar[k] = a * a;
    }
    *out = (gimbal_schedule){.betas = s->betas ? s->betas : "trained",
                             .spacing = spacings[s->spacing],
                             .sampler = sampler->name,
                             .timesteps = s->T,
                             .steps = grid->n,
                             .zero_snr = s->alpha_bar[s->T - 1] <= 0,
                             .start = grid->start,
                             .alpha_bar = alpha_bar,
                             .t = t,
                             .t_alpha_bar = t_alpha_bar};
    return out;
}

static int make(gimbal_schedule **out, const gimbal_engine *e, const char *betas, const char *spacing,
                const char *sampler, int steps, Arena *keep, gimbal_error *err)
{
    const Sampler *how;
    void *self;
    const char *note;
    Schedule s;
    Grid grid;
    if (e)
        TRY(engine_schedule(e, betas, spacing, &s, &note, keep, err));
    else
        TRY(plain_schedule(betas, spacing, &s, keep, err));
    if (steps < 1 || steps > s.T)
        return fail(err, GIMBAL_EUSAGE, "steps is %d, expected 1..%d, the schedule's timesteps", steps, s.T);
    TRY(sampler_parse(sampler ? sampler : e ? e->sampler : "ddim", &how, &self, keep, err));
    TRY(sampler_grid(how, &grid, &s, steps, keep, err));
    *out = pack(&s, &grid, how);
    return *out ? GIMBAL_OK : fail(err, GIMBAL_ENOMEM, "no memory for a schedule of %d timesteps", s.T);
}

int gimbal_schedule_of(gimbal_schedule **out, const gimbal_engine *e, const char *betas, const char *spacing,
                       const char *sampler, int steps, gimbal_error *err)
{
    Arena keep = {0};
    gimbal_settings own = {.steps = PLAIN_STEPS};
    *out = NULL;
    if (e)
        gimbal_defaults(&own, e);
    const int code = make(out, e, betas, spacing, sampler, steps ? steps : own.steps, &keep, err);
    arena_free(&keep);
    return code;
}
