/* pipeline.c: the driver: every chunk of a video, every pass of a re-initialiser's plan, every step of a
 * pass, as arrays and a Denoise.
 *
 *     eps0 = reinit.first(given, or drawn)
 *     x = start eps0,  or a(t) clip + s(t) eps0 where a clip is begun from           pass 1
 *     for each pass:   x = reinit.start(eps0, what the last pass left, fresh noise)  from the second pass on
 *         for each t:  raw = net(x, t);  x, x0 = sampler.step(x, raw, noise)
 *
 * With a clip every pass makes the last int(n * strength) of its n steps (diffusers' meaning), so that all
 * passes start at the same level of noise. A pass that stops early leaves x where it stopped and x0.
 *
 * With `hold` a chunk's frame 0 is a clean picture from its first step to its last and only the others are
 * sampled; what that frame's noise was stays in `blank` for guidance. Chunk k has the absolute frames
 * k (F-1) .. k (F-1) + F-1 and begins with the last frame of the one before it, which both have (Ren et al.,
 * ConsistI2V, TMLR 2024, section 4.4).
 *
 * Random tensors are asked for in the order of the reference's one generator: initial noise, [step noise
 * of pass 1], fresh noise of pass 2, ... What the caller gives is not drawn. A run that was cancelled
 * keeps its state: the next driver_run goes on at the step whose network call was interrupted, and draws
 * nothing a second time.
 *
 * Knows registries' contracts and progress. Refuses to know models, text, files; x is [C,F,h,w], one
 * clip. */
#include "diffusion/driver.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the plan ---------------------------------------------------------------------------- */

/* from and to of one pass, its grid made. */
static void place_steps(const Driver *d, const Pass *pass, PlannedPass *out)
{
    const int n = out->grid.n, kept = d->clip ? MIN(MAX((int)(n * d->strength), 1), n) : n;
    out->from = n - kept;
    out->to = pass->run > 0 ? MIN(out->from + pass->run, n) : n;
    for (int k = out->from + 1; pass->until > 0 && k < out->to; k++)
        if (out->grid.t[k] <= pass->until)
            out->to = k;
    out->cfg = pass->cfg > 0 ? pass->cfg : d->cfg;
    out->branches = d->cfg_image > 1 ? 3 : branches(out->cfg);
}

static int check_strength(const Driver *d, gimbal_error *err)
{
    if (!d->clip || (d->strength > 0 && d->strength <= 1 && (int)(d->steps * d->strength) >= 1))
        return GIMBAL_OK;
    if (d->strength > 0 && d->strength <= 1)
        return fail_hint(err, GIMBAL_EUSAGE, "a larger strength, or more steps",
                         "strength %g of %d steps is less than one step", d->strength, d->steps);
    return fail_hint(err, GIMBAL_EUSAGE, "at 0 there is nothing to do: the clip stays as it is",
                     "strength is %g, expected more than 0 and at most 1", d->strength);
}

/* What the re-initialiser cannot serve, whatever its passes. */
static int check_reinit(const Driver *d, gimbal_error *err)
{
    const Reinit *reinit = d->reinit;
    const char *why =
        reinit->refuses ? reinit->refuses(d->reinit_self, d->sampler->name, d->clip != NULL) : NULL;
    if (why)
        return fail(err, GIMBAL_EUSAGE, "%s cannot serve sampler %s%s: %s", reinit->name, d->sampler->name,
                    d->clip ? " from a clip" : "", why);
    if (reinit->reads_picture && !d->image && !d->reference)
        return fail_hint(err, GIMBAL_EUSAGE, "give one with --image, --image-latents or --reference",
                         "%s takes the low band of a picture or of a clip, and there is none", reinit->name);
    return reinit->check ? reinit->check(d->reinit_self, d->schedule, err) : GIMBAL_OK;
}

int driver_plan(const Driver *d, PlannedPass *out, Arena *keep, gimbal_error *err)
{
    Pass plan[MAX_PASSES] = {0};
    TRY(check_reinit(d, err));
    TRY(check_strength(d, err));
    const int passes = d->reinit->plan(d->reinit_self, d->steps, plan, MAX_PASSES);
    if (passes < 1)
        return fail(err, GIMBAL_EUSAGE, "%s plans no passes for %d steps", d->reinit->name, d->steps);
    for (int i = 0; i < passes; i++) {
        if (plan[i].cfg > 0 && d->cfg_image > 1)
            return fail(
                err, GIMBAL_EUSAGE,
                "%s gives pass %d a guidance scale of its own, which does not go with guidance by the "
                "image (--cfg-image %g)",
                d->reinit->name, i + 1, d->cfg_image);
        TRY(sampler_grid(d->sampler, &out[i].grid, d->schedule, plan[i].steps, keep, err));
        place_steps(d, &plan[i], &out[i]);
    }
    return passes;
}

static void state_free(struct DriverState *state)
{
    if (!state)
        return;
    arena_free(&state->keep);
    free(state->eps0);
    free(state->made);
    free(state);
}

void driver_end(Driver *d)
{
    state_free(d->state);
    d->state = NULL;
}

/* history comes behind the clips, `first` behind it; `made` is zeros where no chunk is yet, for it is saved.
 */
static int take_memory(const Driver *d, struct DriverState *state, gimbal_error *err)
{
    const size_t n = shape_count(d->shape), frame = n / (size_t)d->shape.f;
    float **const arrays[] = {&state->eps0, &state->x,        &state->next,   &state->raw,
                              &state->x0,   &state->injected, &state->history};
    const int count = COUNT(arrays) - 1 + d->sampler->history;
    float *memory = alloc_array(n * (size_t)count + frame, sizeof(float));
    const size_t all = frame * (size_t)driver_frames(d);
    if (d->chunks > 1)
        state->made = alloc_array(all, sizeof(float));
    if (!memory || (d->chunks > 1 && !state->made)) {
        free(memory);
        return fail(err, GIMBAL_ENOMEM, "no memory for %d clips of %zu latent values, and %d frames", count,
                    n, driver_frames(d));
    }
    for (int i = 0; i < COUNT(arrays); i++)
        *arrays[i] = memory + n * (size_t)i;
    state->first = memory + n * (size_t)count;
    if (d->image)
        memcpy(state->first, d->image, frame * sizeof(float));
    if (state->made)
        memset(state->made, 0, all * sizeof(float));
    return GIMBAL_OK;
}

/* Everything that can be wrong before the first network call, then memory. */
static int prepare(const Driver *d, struct DriverState *state, gimbal_error *err)
{
    state->passes = driver_plan(d, state->plan, &state->keep, err);
    if (state->passes < 0)
        return state->passes;
    for (int i = 0; i < state->passes; i++) {
        const int steps = (state->plan[i].to - state->plan[i].from) * MAX(d->chunks, 1);
        state->total_calls += steps;
        state->total_work += steps * state->plan[i].branches;
    }
    return take_memory(d, state, err);
}

/* ---- frames ------------------------------------------------------------------------------ */

/* Frame f of x [C,F,h,w] -> one [C,1,h,w], or the other way round. */
static void frame_out(const float *x, gimbal_shape s, int f, float *one)
{
    const size_t plane = (size_t)s.h * s.w;
    for (int c = 0; c < s.c; c++)
        memcpy(one + c * plane, x + ((size_t)c * s.f + f) * plane, plane * sizeof *one);
}

static void frame_in(const float *one, gimbal_shape s, int f, float *x)
{
    const size_t plane = (size_t)s.h * s.w;
    for (int c = 0; c < s.c; c++)
        memcpy(x + ((size_t)c * s.f + f) * plane, one + c * plane, plane * sizeof *one);
}

/* The absolute number of the chunk's first frame. */
static int64_t first_frame(const Driver *d)
{
    return (int64_t)d->state->chunk * (d->shape.f - 1);
}

/* ---- noise: given or drawn --------------------------------------------------------------- */

static int draw(Source source, DrawReq req, const char *what, float *out, gimbal_error *err)
{
    const int code = source.draw(source.self, &req, out);
    return code ? fail(err, code, "%s of pass %d, step %d cannot be drawn", what, req.pass + 1, req.step + 1)
                : GIMBAL_OK;
}

/* A Source over the caller's fresh noise, self = Driver; passes beyond it, and what a re-initialiser asks for
 * besides, come from the prior. */
static int draw_fresh(void *self, const DrawReq *req, float *out)
{
    const Driver *d = self;
    const size_t n = shape_count(req->shape);
    const int place = req->pass - 1; /* the first pass has none */
    if (!d->fresh || place < 0 || place >= d->n_fresh || req->step > 0)
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

/* What a re-initialiser may know before `pass`. */
static ReinitIn surroundings(Driver *d)
{
    struct DriverState *s = d->state;
    const PlannedPass *now = &s->plan[s->pass], *last = now - 1;
    ReinitIn in = {.schedule = d->schedule,
                   .t = now->grid.t[now->from],
                   .pass = s->pass,
                   .frame0 = first_frame(d),
                   .shape = d->shape,
                   .image = d->image ? s->first : NULL,
                   .reference = s->chunk ? NULL : d->reference,
                   .eps0 = s->eps0,
                   .x_t = -1,
                   .noise = {draw_fresh, d}};
    if (s->pass > 0) {
        const bool whole = last->to == last->grid.n;
        in.x = s->x, in.x0 = whole ? s->x : s->x0;
        in.x_t = whole ? -1 : grid_next(&last->grid, last->to - 1);
    }
    return in;
}

/* The chunk's initial noise that the caller gave, or NULL. */
static const float *given_noise(const Driver *d)
{
    const int chunk = d->state->chunk;
    if (chunk == 0)
        return d->given;
    return chunk <= d->n_chunk_given ? d->chunk_given + (size_t)(chunk - 1) * shape_count(d->shape) : NULL;
}

/* eps0, and x from it. */
static int start_first(Driver *d, gimbal_error *err)
{
    struct DriverState *s = d->state;
    const Grid *grid = &s->plan[0].grid;
    const size_t n = shape_count(d->shape);
    const ReinitIn in = surroundings(d);
    const DrawReq req = {.why = DRAW_INIT, .frame0 = in.frame0, .shape = d->shape};
    const float *given = given_noise(d);
    if (given)
        memcpy(s->eps0, given, n * sizeof *s->eps0);
    else
        TRY(draw(d->noise, req, "initial noise", s->eps0, err));
    if (d->reinit->first)
        TRY(d->reinit->first(d->reinit_self, &in, s->eps0, err));
    const float a = d->clip ? (float)schedule_a(d->schedule, in.t) : 0.0f;
    const float scale = (float)(d->clip ? schedule_s(d->schedule, in.t) : grid->start);
    for (size_t i = 0; i < n; i++)
        s->x[i] = d->clip ? a * d->clip[i] + scale * s->eps0[i] : scale * s->eps0[i];
    return GIMBAL_OK;
}

/* x becomes what the pass starts from; the sampler is made ready. */
static int begin_pass(Driver *d, gimbal_error *err)
{
    struct DriverState *s = d->state;
    const PlannedPass *now = &s->plan[s->pass];
    TRY(d->sampler->begin(d->sampler_self, d->schedule, &now->grid, d->eta, s->history, err));
    if (s->pass > 0) {
        const ReinitIn in = surroundings(d);
        TRY(d->reinit->start(d->reinit_self, &in, s->next, err));
        float *start = s->next;
        s->next = s->x, s->x = start;
    } else {
        TRY(start_first(d, err));
    }
    if (d->hold) {
        frame_out(s->x, d->shape, 0, d->blank);
        frame_in(s->first, d->shape, 0, s->x);
    }
    s->step = now->from;
    s->begun = true;
    return GIMBAL_OK;
}

/* raw = the network at t[step], and what it took. */
static int call_network(Driver *d, double t, gimbal_error *err)
{
    struct DriverState *s = d->state;
    const double cfg = s->plan[s->pass].cfg, from = seconds_now();
    TRY(d->net.predict(d->net.self, s->x, d->shape, t, cfg, s->raw, err));
    if (s->calls++ == 0)
        s->in_first_call = seconds_now() - from;
    else
        s->in_calls += seconds_now() - from, s->work += s->plan[s->pass].branches;
    return GIMBAL_OK;
}

/* What the step is to inject, or NULL: of the frames that are sampled. */
static int step_noise(Driver *d, const float **out, gimbal_error *err)
{
    struct DriverState *s = d->state;
    const int held = d->hold ? 1 : 0, frames = d->shape.f - held;
    const size_t plane = (size_t)d->shape.h * d->shape.w, some = (size_t)frames * plane;
    DrawReq req = {.why = DRAW_STEP,
                   .pass = s->pass,
                   .step = s->step,
                   .frame0 = first_frame(d) + held,
                   .shape = d->shape};
    *out = NULL;
    if (!d->sampler->injects || !d->sampler->injects(d->sampler_self, s->step))
        return GIMBAL_OK;
    req.shape.f = frames;
    TRY(draw(d->noise, req, "step noise", s->injected, err));
    for (int c = d->shape.c - 1; held && c >= 0; c--) { /* channels move apart, the last one first */
        float *to = s->injected + (size_t)c * (some + plane);
        memmove(to + plane, s->injected + (size_t)c * some, some * sizeof *to);
        memset(to, 0, plane * sizeof *to);
    }
    *out = s->injected;
    return GIMBAL_OK;
}

/* One network call and one step: x at t[step] -> x at the next. s->step counts up only when x is
 * replaced. */
static int one_step(Driver *d, gimbal_error *err)
{
    struct DriverState *s = d->state;
    const Grid *grid = &s->plan[s->pass].grid;
    const double t = grid->t[s->step];
    const size_t n = shape_count(d->shape);
    TRY(call_network(d, t, err));

    const float *injected;
    TRY(step_noise(d, &injected, err));
    const int code = d->sampler->step(d->sampler_self, s->step, n, s->x, s->raw, injected, s->next, s->x0);
    if (code)
        return fail(err, code, "sampler %s failed in pass %d, step %d", d->sampler->name, s->pass + 1,
                    s->step + 1);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(s->next[i]))
            return fail(err, GIMBAL_EVALUE,
                        "latents are not finite after pass %d, step %d of %d, timestep %g", s->pass + 1,
                        s->step + 1, grid->n, t);
    float *done = s->next;
    s->next = s->x, s->x = done;
    if (d->hold)
        frame_in(s->first, d->shape, 0, s->x), frame_in(s->first, d->shape, 0, s->x0);
    s->step++;
    return GIMBAL_OK;
}

/* The chunk joins the others, and its last frame begins the next. */
static void end_chunk(Driver *d)
{
    struct DriverState *s = d->state;
    const gimbal_shape z = d->shape;
    const size_t plane = (size_t)z.h * z.w, some = (size_t)z.f * plane, all = driver_frames(d) * plane;
    const size_t at = (size_t)first_frame(d) * plane;
    for (int c = 0; s->made && c < z.c; c++)
        memcpy(s->made + (size_t)c * all + at, s->x + (size_t)c * some, some * sizeof *s->x);
    frame_out(s->x, z, z.f - 1, s->first);
    s->chunk++;
    if (s->chunk < d->chunks)
        s->pass = 0;
}

/* ---- progress ---------------------------------------------------------------------------- */

/* Seconds to go, from the mean of all branches but the first call's, which also prepares weights; < 0 while
 * unknown. */
static double seconds_left(const struct DriverState *s)
{
    const double first = s->plan[0].branches, left = s->total_work - first - s->work;
    if (s->calls > 1)
        return left * s->in_calls / s->work;
    return s->calls == 1 ? left * s->in_first_call / first : -1;
}

/* `step` steps of pass `pass` (0-based) are made; nonzero: stop. */
static int report(const Driver *d, const char *stage, int pass, int step, double elapsed,
                  const float *latents)
{
    const struct DriverState *s = d->state;
    if (!d->progress)
        return 0;
    const gimbal_progress p = {.stage = stage,
                               .pass = pass + 1,
                               .passes = s->passes,
                               .chunk = s->chunk + 1,
                               .chunks = MAX(d->chunks, 1),
                               .step = step,
                               .steps = s->plan[pass].to - s->plan[pass].from,
                               .calls = s->calls,
                               .total_calls = s->total_calls,
                               .elapsed = elapsed,
                               .eta = seconds_left(s),
                               .latents = latents,
                               .shape = d->shape};
    return d->progress(d->user, &p);
}

/* The passes of this chunk that are left. The state is complete before every callback, so that any of them
 * may stop the run. A pass's result is a clean clip: x at the end, its x0 where it stopped early. */
static int run_chunk(Driver *d, double since, gimbal_error *err)
{
    struct DriverState *s = d->state;
    while (s->pass < s->passes) {
        if (cancelled(d))
            return stopped(d, err);
        if (!s->begun)
            TRY(begin_pass(d, err));
        const PlannedPass *now = &s->plan[s->pass];
        while (s->step < now->to) {
            if (cancelled(d))
                return stopped(d, err);
            TRY(one_step(d, err));
            if (report(d, "sample", s->pass, s->step - now->from, s->elapsed + seconds_now() - since, s->x0))
                return stopped(d, err);
        }
        const int pass = s->pass++;
        s->begun = false;
        if (report(d, "pass", pass, now->to - now->from, s->elapsed + seconds_now() - since,
                   now->to < now->grid.n ? s->x0 : s->x))
            return stopped(d, err);
    }
    return GIMBAL_OK;
}

int driver_prepare(Driver *d, gimbal_error *err)
{
    if (d->state)
        return GIMBAL_OK;
    struct DriverState *state = calloc(1, sizeof *state);
    const int code = state ? prepare(d, state, err) : fail(err, GIMBAL_ENOMEM, "no memory for a run's state");
    if (code)
        state_free(state);
    else
        d->state = state;
    return code;
}

int driver_run(Driver *d, float *latents, gimbal_error *err)
{
    const double since = seconds_now();
    TRY(driver_prepare(d, err));
    const struct DriverState *s = d->state;
    int code = GIMBAL_OK;
    while (!code && s->chunk < MAX(d->chunks, 1)) {
        code = run_chunk(d, since, err);
        if (!code)
            end_chunk(d);
    }
    d->state->elapsed += seconds_now() - since;
    const size_t frame = shape_count(d->shape) / (size_t)d->shape.f;
    if (!code)
        memcpy(latents, s->made ? s->made : s->x, frame * (size_t)driver_frames(d) * sizeof *latents);
    return code;
}
