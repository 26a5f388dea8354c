/* pipeline.c: the driver: every pass of a re-initialiser's plan, every step of a pass, as arrays and a
 * Denoise.
 *
 *     x = eps0                                  pass 1: given, or drawn
 *     for each pass:   x = reinit.start(eps0, last result, fresh noise)       from the second pass on
 *         for each t:  raw = net(x, t);  x = sampler.step(x, raw, noise)
 *
 * Random tensors are asked for in the order of the reference's one generator: initial noise, [step noise
 * of pass 1], fresh noise of pass 2, ... What the caller gives is not drawn. A run that was cancelled
 * keeps its state: the next driver_run goes on at the step whose network call was interrupted, and draws
 * nothing a second time.
 *
 * Knows registries' contracts and progress. Refuses to know models, text, files; x is [C,F,h,w], one
 * clip. */
#include "diffusion/diffusion.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct DriverState {
    Arena keep; /* grids */
    int passes, pass, step;
    bool begun; /* x holds the start of `pass`, the sampler is prepared */
    Grid grid[MAX_PASSES];
    int calls, total_calls;
    double elapsed, in_calls, in_first_call; /* seconds: of all driver_runs, of network calls, of the first */
    float *eps0, *x, *next, *raw, *x0, *injected; /* one allocation, at eps0 */
};

int driver_passes(const Driver *d, Pass *out, int max)
{
    return d->reinit->plan(d->reinit_self, d->steps, out, max);
}

static void state_free(struct DriverState *state)
{
    if (!state)
        return;
    arena_free(&state->keep);
    free(state->eps0);
    free(state);
}

void driver_end(Driver *d)
{
    state_free(d->state);
    d->state = NULL;
}

/* Everything that can be wrong before the first network call: the plan, its grids, the pairing. */
static int prepare(const Driver *d, struct DriverState *state, gimbal_error *err)
{
    Pass plan[MAX_PASSES];
    const char *why = d->reinit->refuses ? d->reinit->refuses(d->reinit_self, d->sampler->name) : NULL;
    if (why)
        return fail(err, GIMBAL_EUSAGE, "%s cannot serve sampler %s: %s", d->reinit->name, d->sampler->name,
                    why);
    state->passes = driver_passes(d, plan, MAX_PASSES);
    if (state->passes < 1)
        return fail(err, GIMBAL_EUSAGE, "%s plans no passes for %d steps", d->reinit->name, d->steps);
    for (int i = 0; i < state->passes; i++) {
        TRY(grid_make(&state->grid[i], d->schedule, plan[i].steps, &state->keep, err));
        state->total_calls += state->grid[i].n;
    }
    const size_t n = shape_count(d->shape);
    float **const arrays[] = {&state->eps0, &state->x,  &state->next,
                              &state->raw,  &state->x0, &state->injected};
    float *memory = alloc_array(n * COUNT(arrays), sizeof(float));
    if (!memory)
        return fail(err, GIMBAL_ENOMEM, "no memory for %d clips of %zu latent values", COUNT(arrays), n);
    for (int i = 0; i < COUNT(arrays); i++)
        *arrays[i] = memory + n * (size_t)i;
    return GIMBAL_OK;
}

/* ---- noise: given or drawn --------------------------------------------------------------- */

static int draw(Source source, DrawReq req, const char *what, float *out, gimbal_error *err)
{
    const int code = source.draw(source.self, &req, out);
    return code ? fail(err, code, "%s of pass %d, step %d cannot be drawn", what, req.pass + 1, req.step + 1)
                : GIMBAL_OK;
}

/* A Source over the caller's fresh noise, self = Driver; passes beyond it come from the prior. */
static int draw_fresh(void *self, const DrawReq *req, float *out)
{
    const Driver *d = self;
    const size_t n = shape_count(req->shape);
    const int place = req->pass - 1; /* the first pass has none */
    if (!d->fresh || place < 0 || place >= d->n_fresh)
        return d->noise.draw(d->noise.self, req, out);
    memcpy(out, d->fresh + (size_t)place * n, n * sizeof *out);
    return GIMBAL_OK;
}

/* ---- passes ------------------------------------------------------------------------------ */

static int cancelled(const Driver *d)
{
    return d->cancel && atomic_load(d->cancel);
}

static int stopped(const Driver *d, gimbal_error *err)
{
    const struct DriverState *s = d->state;
    return fail(err, GIMBAL_ECANCEL, "cancelled in pass %d of %d, after %d of %d network calls",
                MIN(s->pass + 1, s->passes), s->passes, s->calls, s->total_calls);
}

/* x becomes the unit noise that the pass starts from; the sampler is made ready. */
static int begin_pass(Driver *d, gimbal_error *err)
{
    struct DriverState *s = d->state;
    const Grid *grid = &s->grid[s->pass];
    const size_t bytes = shape_count(d->shape) * sizeof(float);
    TRY(d->sampler->begin(d->sampler_self, d->schedule, grid, d->eta, err));
    if (s->pass > 0) {
        const ReinitIn in = {.schedule = d->schedule,
                             .grid = grid,
                             .pass = s->pass,
                             .shape = d->shape,
                             .eps0 = s->eps0,
                             .x0 = s->x,
                             .x = s->x,
                             .x_t = -1,
                             .noise = {draw_fresh, d}};
        TRY(d->reinit->start(d->reinit_self, &in, s->next, err));
        float *start = s->next;
        s->next = s->x, s->x = start;
    } else {
        if (d->given)
            memcpy(s->eps0, d->given, bytes);
        else
            TRY(draw(d->noise, (DrawReq){.why = DRAW_INIT, .shape = d->shape}, "initial noise", s->eps0,
                     err));
        memcpy(s->x, s->eps0, bytes);
    }
    s->begun = true;
    return GIMBAL_OK;
}

/* One network call and one step: x at t[step] -> x at the next. s->step counts up only when x is
 * replaced. */
static int one_step(Driver *d, gimbal_error *err)
{
    struct DriverState *s = d->state;
    const double t = s->grid[s->pass].t[s->step], from = seconds_now();
    const size_t n = shape_count(d->shape);
    TRY(d->net.predict(d->net.self, s->x, d->shape, t, d->cfg, s->raw, err));
    const double seconds = seconds_now() - from;
    s->in_calls += seconds;
    if (s->calls++ == 0)
        s->in_first_call = seconds;

    const float *injected = NULL;
    if (d->sampler->injects(d->sampler_self, s->step)) {
        const DrawReq req = {.why = DRAW_STEP, .pass = s->pass, .step = s->step, .shape = d->shape};
        TRY(draw(d->noise, req, "step noise", s->injected, err));
        injected = s->injected;
    }
    const int code = d->sampler->step(d->sampler_self, s->step, n, s->x, s->raw, injected, s->next,
                                      d->progress ? s->x0 : NULL);
    if (code)
        return fail(err, code, "sampler %s failed in pass %d, step %d", d->sampler->name, s->pass + 1,
                    s->step + 1);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(s->next[i]))
            return fail(err, GIMBAL_EVALUE,
                        "latents are not finite after pass %d, step %d of %d, timestep %g", s->pass + 1,
                        s->step + 1, s->grid[s->pass].n, t);
    float *done = s->next;
    s->next = s->x, s->x = done;
    s->step++;
    return GIMBAL_OK;
}

/* ---- progress ---------------------------------------------------------------------------- */

/* Seconds to go, from the mean of all calls but the first, which also prepares weights; < 0 while
 * unknown. */
static double seconds_left(const struct DriverState *s)
{
    const int left = s->total_calls - s->calls;
    if (s->calls > 1)
        return left * (s->in_calls - s->in_first_call) / (s->calls - 1);
    return s->calls == 1 ? left * s->in_first_call : -1;
}

/* `step` of pass `pass` (0-based) has ended; nonzero: stop. */
static int report(const Driver *d, const char *stage, int pass, int step, double elapsed,
                  const float *latents)
{
    const struct DriverState *s = d->state;
    if (!d->progress)
        return 0;
    const gimbal_progress p = {.stage = stage,
                               .pass = pass + 1,
                               .passes = s->passes,
                               .step = step,
                               .steps = s->grid[pass].n,
                               .calls = s->calls,
                               .total_calls = s->total_calls,
                               .elapsed = elapsed,
                               .eta = seconds_left(s),
                               .latents = latents,
                               .shape = d->shape};
    return d->progress(d->user, &p);
}

/* The passes that are left. The state is complete before every callback, so that any of them may stop the
 * run. */
static int run(Driver *d, double since, gimbal_error *err)
{
    struct DriverState *s = d->state;
    while (s->pass < s->passes) {
        if (cancelled(d))
            return stopped(d, err);
        if (!s->begun)
            TRY(begin_pass(d, err));
        while (s->step < s->grid[s->pass].n) {
            if (cancelled(d))
                return stopped(d, err);
            TRY(one_step(d, err));
            if (report(d, "sample", s->pass, s->step, s->elapsed + seconds_now() - since, s->x0))
                return stopped(d, err);
        }
        const int pass = s->pass++, steps = s->step;
        s->step = 0, s->begun = false;
        if (report(d, "pass", pass, steps, s->elapsed + seconds_now() - since, s->x))
            return stopped(d, err);
    }
    return GIMBAL_OK;
}

int driver_run(Driver *d, float *latents, gimbal_error *err)
{
    const double since = seconds_now();
    if (!d->state) {
        struct DriverState *state = calloc(1, sizeof *state);
        const int code =
            state ? prepare(d, state, err) : fail(err, GIMBAL_ENOMEM, "no memory for a run's state");
        if (code) {
            state_free(state);
            return code;
        }
        d->state = state;
    }
    const int code = run(d, since, err);
    d->state->elapsed += seconds_now() - since;
    if (!code)
        memcpy(latents, d->state->x, shape_count(d->shape) * sizeof *latents);
    return code;
}
