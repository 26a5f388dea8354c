/* driver_state.c: a run in a file, so that it goes on after the process was killed, with the same bytes.
 *
 *     tensors    eps0, x, x0 [C,F,h,w] F32; history [n,C,F,h,w] F32 of a multistep sampler;
 *                first, blank [C,1,h,w] F32 of a run from a picture; made [C,frames,h,w] F32 of a long video;
 *                place [9] I32: pass, step, begun, calls, work, milliseconds of all, of later calls, of the
 * first, chunk; rng [628] I32 of the torch generator: its words, the place among them, has_next, next (2)
 * metadata gimbal-state: 2; recipe: what the run is; given: SHA-256 of the tensors that it was given
 *
 * A state is taken up by the run that wrote it and by no other: the recipes must agree in all but the number
 * of threads, which changes no byte. It is written between two network calls, whole or not at all, and what
 * is read is checked like any stranger's file before the run is touched.
 *
 * Knows sessions and runs from inside. Refuses to know when a state is worth keeping. */
#include "diffusion/driver.h"
#include "diffusion/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MT_WORDS = 624, RNG_WORDS = MT_WORDS + 4, PLACE_WORDS = 9, MAX_TENSORS = 9 };
enum { PASS, STEP, BEGUN, CALLS, WORK, ELAPSED, IN_CALLS, IN_FIRST, CHUNK }; /* of "place" */
static const char mark[] = "gimbal-state", version[] = "2";

/* ---- what the caller gave ---------------------------------------------------------------- */

static void hash_given(Sha256 *sha, const char *name, const float *x, size_t n)
{
    sha256_add(sha, name, strlen(name));
    if (x)
        sha256_add(sha, x, n * sizeof *x);
}

/* Tensors given by the caller decide the clip but are not in its recipe. */
static int given_digest(const gimbal_session *s, char hex[65], gimbal_error *err)
{
    const gimbal_settings *o = &s->run.s;
    const size_t n = shape_count(s->run.shape);
    Sha256 *sha = sha256_new();
    if (!sha)
        return fail(err, GIMBAL_ENOMEM, "no memory for a hash");
    hash_given(sha, "latents", o->latents, n);
    hash_given(sha, "fresh", o->fresh, n * (size_t)o->n_fresh);
    hash_given(sha, "clip", o->clip, n);
    hash_given(sha, "image", o->image, n / (size_t)s->run.shape.f);
    hash_given(sha, "reference", o->reference, n);
    hash_given(sha, "chunks", o->chunk_latents, n * (size_t)o->n_chunk_latents);
    sha256_end(sha, hex);
    return GIMBAL_OK;
}

/* ---- saving ------------------------------------------------------------------------------ */

static int32_t milliseconds(double seconds)
{
    return (int32_t)fmin(fmax(seconds * 1000, 0), INT32_MAX);
}

static void pack_rng(const TorchRng *rng, int32_t out[RNG_WORDS])
{
    memcpy(out, rng->mt, sizeof rng->mt);
    out[MT_WORDS] = rng->at;
    out[MT_WORDS + 1] = rng->has_next;
    memcpy(out + MT_WORDS + 2, &rng->next, sizeof rng->next);
}

static gimbal_tensor clip_tensor(const char *name, gimbal_shape s, const float *x)
{
    return (gimbal_tensor){name, "F32", 4, {s.c, s.f, s.h, s.w}, x};
}

static int save(gimbal_session *s, const char *path, gimbal_error *err)
{
    const struct DriverState *d = s->driver.state;
    const gimbal_shape z = s->run.shape, one = {z.c, 1, z.h, z.w};
    const int32_t place[PLACE_WORDS] = {[PASS] = d->pass,
                                        [STEP] = d->step,
                                        [BEGUN] = d->begun,
                                        [CALLS] = d->calls,
                                        [WORK] = (int32_t)d->work,
                                        [ELAPSED] =
                                            milliseconds(fmax(d->elapsed, d->in_first_call + d->in_calls)),
                                        [IN_CALLS] = milliseconds(d->in_calls),
                                        [IN_FIRST] = milliseconds(d->in_first_call),
                                        [CHUNK] = d->chunk};
    int32_t rng[RNG_WORDS];
    char given[65];
    gimbal_tensor items[MAX_TENSORS] = {{"place", "I32", 1, {PLACE_WORDS}, place},
                                        clip_tensor("eps0", z, d->eps0),
                                        clip_tensor("x", z, d->x),
                                        clip_tensor("x0", z, d->x0)};
    int n = 4;
    if (d->begun && s->run.sampler->history)
        items[n++] =
            (gimbal_tensor){"history", "F32", 5, {s->run.sampler->history, z.c, z.f, z.h, z.w}, d->history};
    if (s->driver.image)
        items[n++] = clip_tensor("first", one, d->first);
    if (s->driver.hold)
        items[n++] = clip_tensor("blank", one, s->driver.blank);
    if (d->made)
        items[n++] = clip_tensor("made", s->run.whole, d->made);
    if (s->white.torch) {
        pack_rng(&s->white.rng, rng);
        items[n++] = (gimbal_tensor){"rng", "I32", 1, {RNG_WORDS}, rng};
    }
    TRY(given_digest(s, given, err));
    const char *const metadata[] = {mark, version, "recipe", s->recipe, "given", given, NULL};
    return st_write(path, items, n, metadata, err);
}

int gimbal_state_save(gimbal_session *s, const char *path, gimbal_error *err)
{
    if (s->busy && !s->paused)
        return fail(err, GIMBAL_EUSAGE, "gimbal_state_save was called from a callback other than sampling's");
    if (!s->running || !s->driver.state || !s->driver.state->calls)
        return fail(err, GIMBAL_EUSAGE, "%s: there is nothing to save: no step has been made", path);
    return save(s, path, err);
}

/* ---- is it this run's? ------------------------------------------------------------------- */

/* A value of a recipe as short text. */
static void spell(const json_t *value, char out[80])
{
    char *text =
        value ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(9))
              : NULL;
    snprintf(out, 80, "%.70s%s", text ? text : "absent", text && strlen(text) > 70 ? "..." : "");
    free(text); /* json_dumps hands it over */
}

static int another(const char *path, const char *what, const json_t *was, const json_t *is, gimbal_error *err)
{
    char old[80], now[80];
    spell(was, old), spell(is, now);
    return fail_hint(err, GIMBAL_EUSAGE, "remove it, or repeat the flags of that run",
                     "%s: the state of another run: %s was %s, is %s", path, what, old, now);
}

static int same_recipe(const char *path, const json_t *was, const json_t *is, gimbal_error *err)
{
    static const char *const facts[][2] = {{"gimbal", "the program's version"},
                                           {"identity", "the model's identity"},
                                           {"given", "tensors from files"}};
    for (int i = 0; i < COUNT(facts); i++) {
        const json_t *a = json_object_get(was, facts[i][0]), *b = json_object_get(is, facts[i][0]);
        if (!json_equal(a, b))
            return another(path, facts[i][1], a, b, err);
    }
    const json_t *old = json_object_get(was, "settings"), *now = json_object_get(is, "settings");
    for (const gimbal_option *o = gimbal_setting_options(); o->name; o++) {
        char what[80];
        const json_t *a = json_object_get(old, o->name), *b = json_object_get(now, o->name);
        snprintf(what, sizeof what, "--%s", o->name);
        if (strcmp(o->name, "threads") && !json_equal(a, b))
            return another(path, what, a, b, err);
    }
    return GIMBAL_OK;
}

static int check_run(const gimbal_session *s, const SafeTensors *st, gimbal_error *err)
{
    enum { DEPTH = 8 };
    const char *path = st_path(st), *recipe = st_metadata(st, "recipe"), *given = st_metadata(st, "given");
    const char *is = st_metadata(st, mark);
    char now[65];
    json_t *was = NULL, *own = NULL;
    if (is && !strcmp(is, "1"))
        return fail_hint(err, GIMBAL_EUSAGE, "remove it, or finish that run with the version that began it",
                         "%s: a state of version 1, which an older gimbal saved; this one reads version %s",
                         path, version);
    if (!is || strcmp(is, version) || !recipe || !given)
        return fail(err, GIMBAL_EFORMAT, "%s: no state of a run that gimbal %s saved", path, GIMBAL_VERSION);
    int code = json_parse(&was, recipe, strlen(recipe), DEPTH, path, err);
    if (!code)
        code = json_parse(&own, s->recipe, strlen(s->recipe), DEPTH, "recipe", err);
    if (!code)
        code = same_recipe(path, was, own, err);
    if (!code)
        code = given_digest(s, now, err);
    if (!code && strcmp(given, now))
        code = fail_hint(err, GIMBAL_EUSAGE, "remove it, or give the tensors of that run",
                         "%s: the state of another run: the given latents, noise or clip have other values",
                         path);
    json_decref(was);
    json_decref(own);
    return code;
}

/* ---- loading ----------------------------------------------------------------------------- */

/* The tensor `name` [n] of a type whose elements have 4 bytes -> out. */
static int take(const SafeTensors *st, const char *name, const char *type, size_t n, void *out,
                gimbal_error *err)
{
    const StEntry *e = st_find(st, name);
    if (!e || strcmp(e->spelling, type) || e->bytes != 4 * n)
        return fail(err, GIMBAL_EFORMAT, "%s: tensor \"%s\" is %s, expected %zu values of type %s",
                    st_path(st), name, e ? "of another kind" : "absent", n, type);
    memcpy(out, e->data, e->bytes);
    return GIMBAL_OK;
}

static int take_clip(const SafeTensors *st, const char *name, size_t n, float *out, gimbal_error *err)
{
    TRY(take(st, name, "F32", n, out, err));
    for (size_t i = 0; i < n; i++)
        if (!isfinite(out[i]))
            return fail(err, GIMBAL_EFORMAT, "%s: tensor \"%s\": value %zu is not finite", st_path(st), name,
                        i);
    return GIMBAL_OK;
}

static int take_rng(const SafeTensors *st, TorchRng *rng, gimbal_error *err)
{
    int32_t word[RNG_WORDS];
    TRY(take(st, "rng", "I32", RNG_WORDS, word, err));
    if (word[MT_WORDS] < 0 || word[MT_WORDS] > MT_WORDS || word[MT_WORDS + 1] < 0 || word[MT_WORDS + 1] > 1)
        return fail(err, GIMBAL_EFORMAT, "%s: \"rng\" is no state of the generator", st_path(st));
    memcpy(rng->mt, word, sizeof rng->mt);
    rng->at = word[MT_WORDS];
    rng->has_next = word[MT_WORDS + 1];
    memcpy(&rng->next, word + MT_WORDS + 2, sizeof rng->next);
    return GIMBAL_OK;
}

/* The place of a state that was saved between two calls of this plan. */
static int take_place(const SafeTensors *st, struct DriverState *d, int chunks, gimbal_error *err)
{
    int32_t at[PLACE_WORDS];
    TRY(take(st, "place", "I32", PLACE_WORDS, at, err));
    const bool begun = at[BEGUN] == 1, inside = at[PASS] >= 0 && at[PASS] < d->passes;
    const PlannedPass *now = &d->plan[inside ? at[PASS] : 0];
    bool good = (at[BEGUN] == 0 || at[BEGUN] == 1) && (inside || (at[PASS] == d->passes && !begun));
    good = good && (!begun || (at[STEP] > now->from && at[STEP] <= now->to));
    good = good && at[CALLS] > 0 && at[CALLS] <= d->total_calls && at[WORK] >= 0 && at[WORK] <= d->total_work;
    good = good && at[CHUNK] >= 0 && at[CHUNK] < chunks;
    good = good && at[ELAPSED] >= 0 && at[IN_CALLS] >= 0 && at[IN_FIRST] >= 0;
    if (!good)
        return fail(err, GIMBAL_EFORMAT,
                    "%s: \"place\" is none of this run's %d chunks, %d passes and %d calls", st_path(st),
                    chunks, d->passes, d->total_calls);
    d->chunk = at[CHUNK];
    d->pass = at[PASS], d->step = at[STEP], d->begun = begun;
    d->calls = at[CALLS], d->work = at[WORK];
    d->elapsed = at[ELAPSED] / 1e3, d->in_calls = at[IN_CALLS] / 1e3, d->in_first_call = at[IN_FIRST] / 1e3;
    return GIMBAL_OK;
}

static int take_run(gimbal_session *s, const SafeTensors *st, gimbal_error *err)
{
    struct DriverState *d = s->driver.state;
    const Sampler *sampler = s->run.sampler;
    const size_t n = shape_count(s->run.shape);
    TRY(take_place(st, d, s->run.s.chunks, err));
    TRY(take_clip(st, "eps0", n, d->eps0, err));
    TRY(take_clip(st, "x", n, d->x, err));
    TRY(take_clip(st, "x0", n, d->x0, err));
    if (s->driver.image)
        TRY(take_clip(st, "first", n / (size_t)s->run.shape.f, d->first, err));
    if (s->driver.hold)
        TRY(take_clip(st, "blank", n / (size_t)s->run.shape.f, s->driver.blank, err));
    if (d->made)
        TRY(take_clip(st, "made", shape_count(s->run.whole), d->made, err));
    if (d->begun)
        TRY(sampler->begin(s->run.sampler_self, &s->run.schedule, &d->plan[d->pass].grid, s->run.s.eta,
                           d->history, err));
    if (d->begun && sampler->history) /* a NaN in it has a meaning */
        TRY(take(st, "history", "F32", n * (size_t)sampler->history, d->history, err));
    return s->white.torch ? take_rng(st, &s->white.rng, err) : GIMBAL_OK;
}

static gimbal_progress where(const gimbal_session *s)
{
    const struct DriverState *d = s->driver.state;
    const bool between = !d->begun && d->pass == 0; /* chunks */
    /* the one under way, or the last that ended */
    const int pass = d->begun ? d->pass : (between ? d->passes : d->pass) - 1;
    const PlannedPass *plan = &d->plan[pass];
    return (gimbal_progress){.stage = d->begun ? "sample" : "pass",
                             .pass = pass + 1,
                             .passes = d->passes,
                             .chunk = d->chunk + !between,
                             .chunks = s->run.s.chunks,
                             .step = d->begun ? d->step - plan->from : plan->to - plan->from,
                             .steps = plan->to - plan->from,
                             .calls = d->calls,
                             .total_calls = d->total_calls,
                             .elapsed = d->elapsed,
                             .eta = -1,
                             .shape = s->run.shape};
}

static void forget(gimbal_session *s)
{
    driver_end(&s->driver);
    s->running = false;
}

static int load(gimbal_session *s, const SafeTensors *st, gimbal_progress *at, gimbal_error *err)
{
    TRY(check_run(s, st, err));
    forget(s);
    int code = session_start_run(s, err);
    if (!code)
        code = driver_prepare(&s->driver, err);
    if (!code)
        code = take_run(s, st, err);
    if (code)
        forget(s);
    else if (at)
        *at = where(s);
    return code;
}

int gimbal_state_load(gimbal_session *s, const char *path, gimbal_progress *at, gimbal_error *err)
{
    SafeTensors *st;
    TRY(session_enter(s, "gimbal_state_load", err));
    int code = engine_can_sample(s->engine, err);
    if (!code)
        code = st_load(&st, path, err); /* read, not mapped: the file may be replaced meanwhile */
    if (!code) {
        code = load(s, st, at, err);
        st_close(st);
    }
    return session_leave(s, code);
}
