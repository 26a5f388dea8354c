/* t_resume.c: a run saved between two steps and taken up by another session gives the same bytes, with every
 * sampler, generator and re-initialiser; states of other runs and damaged ones are refused by name and leave
 * the session as it was. tests/cli_resume.sh kills the real program. */
#include "diffusion/engine.h" /* before cmocka.h, which makes a macro of fail */

#include "tests/models.h"

enum { FRAMES = 3, WIDTH = 40, HEIGHT = 24, STEPS = 3, N = 4 * FRAMES * (WIDTH / 8) * (HEIGHT / 8) };

/* Saves at the stop_at-th callback of sampling and cancels there. */
typedef struct {
    gimbal_session *run;
    const char *path;
    int calls, stop_at;
} Stop;

static int on_progress(void *user, const gimbal_progress *p)
{
    Stop *stop = user;
    if (strcmp(p->stage, "sample") && strcmp(p->stage, "pass"))
        return 0;
    if (++stop->calls != stop->stop_at)
        return 0;
    check_ok(gimbal_state_save(stop->run, stop->path, &err), err);
    return 1;
}

static gimbal_settings settings(const gimbal_engine *e, const char *sampler, const char *rng,
                                const char *reinit)
{
    gimbal_settings s;
    gimbal_defaults(&s, e);
    s.prompt = "a cat", s.cfg = 2, s.seed = 7;
    s.frames = FRAMES, s.width = WIDTH, s.height = HEIGHT, s.steps = STEPS;
    s.sampler = sampler, s.rng = rng, s.reinit = reinit;
    s.eta = strcmp(sampler, "ddim") ? 0 : 0.7;
    return s;
}

/* latents [N] of a run that is stopped at callback `at` (0: never), leaving its state in `path`. */
static int run_until(gimbal_engine *e, gimbal_settings s, int at, const char *path, float *latents)
{
    Stop stop = {.path = path, .stop_at = at};
    s.progress = on_progress, s.user = &stop;
    check_ok(gimbal_begin(&stop.run, e, &s, &err), err);
    const int code = gimbal_sample(stop.run, latents, &err);
    gimbal_end(stop.run);
    err.code = 0;
    return code;
}

/* The same settings in a new session, from the state. */
static int go_on(gimbal_engine *e, const gimbal_settings *s, const char *path, gimbal_progress *at,
                 float *latents)
{
    gimbal_session *run;
    check_ok(gimbal_begin(&run, e, s, &err), err);
    int code = gimbal_state_load(run, path, at, &err);
    if (!code)
        check_ok(gimbal_sample(run, latents, &err), err);
    gimbal_end(run);
    return code;
}

static void a_run_goes_on_to_the_same_bytes_from_every_place(void **state)
{
    (void)state;
    static const char *const rngs[] = {"philox", "torch"}, *const reinits[] = {"freeinit:passes=2", "none"};
    gimbal_engine *e = opened(TINY, MOTION);
    gimbal_plugin sampler;
    for (int i = 0; !gimbal_plugin_at("sampler", i, &sampler); i++)
        for (int r = 0; r < 4; r++) {
            gimbal_settings s = settings(e, sampler.name, rngs[r % 2], reinits[r / 2]);
            const int places = r / 2 ? STEPS + 1 : 2 * (STEPS + 1), calls = r / 2 ? STEPS : 2 * STEPS;
            float whole[N], again[N];
            assert_int_equal(run_until(e, s, 0, NULL, whole), GIMBAL_OK);
            for (int at = 1; at <= places; at++) {
                gimbal_progress where;
                memset(again, 0, sizeof again);
                assert_int_equal(run_until(e, s, at, in_scratch("state"), again), GIMBAL_ECANCEL);
                s.threads = 1 + at % 2; /* changes no byte */
                check_ok(go_on(e, &s, in_scratch("state"), &where, again), err);
                check(!memcmp(whole, again, sizeof whole), "%s, %s, %s: gone on at callback %d", sampler.name,
                      s.rng, s.reinit, at);
                const int pass = (at - 1) / (STEPS + 1), step = (at - 1) % (STEPS + 1);
                check(where.pass == pass + 1 && where.passes == calls / STEPS && where.steps == STEPS &&
                          where.step == MIN(step + 1, STEPS) && where.total_calls == calls &&
                          where.calls == pass * STEPS + where.step &&
                          !strcmp(where.stage, step == STEPS ? "pass" : "sample"),
                      "callback %d: %s, pass %d, step %d, call %d", at, where.stage, where.pass, where.step,
                      where.calls);
            }
        }
    gimbal_close(e);
}

static void a_state_after_cancelling_is_the_same(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    gimbal_settings s = settings(e, "dpmpp2m", "torch", "freeinit:passes=2");
    float whole[N], again[N];
    assert_int_equal(run_until(e, s, 0, NULL, whole), GIMBAL_OK);
    Stop stop = {.path = in_scratch("one"), .stop_at = 2};
    s.progress = on_progress, s.user = &stop;
    check_ok(gimbal_begin(&stop.run, e, &s, &err), err);
    check_fails(gimbal_state_save(stop.run, in_scratch("two"), &err), GIMBAL_EUSAGE, err, "nothing to save");
    check_fails(gimbal_sample(stop.run, again, &err), GIMBAL_ECANCEL, err, "cancelled");
    check_ok(gimbal_state_save(stop.run, in_scratch("two"), &err), err);
    check_ok(gimbal_sample(stop.run, again, &err), err); /* saving has changed nothing */
    check(!memcmp(whole, again, sizeof whole), "saved and gone on in one session");
    check_fails(gimbal_state_save(stop.run, in_scratch("two"), &err), GIMBAL_EUSAGE, err, "nothing to save");
    check_ok(gimbal_state_load(stop.run, in_scratch("two"), NULL, &err), err);
    check_ok(gimbal_sample(stop.run, again, &err), err);
    check(!memcmp(whole, again, sizeof whole), "loaded into the session that saved it");
    gimbal_end(stop.run);
    gimbal_close(e);
}

static void a_state_of_another_run_is_refused_by_name(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION), *other;
    const gimbal_settings s = settings(e, "ddim", "philox", "none");
    float noise[N], again[N], fresh[N];
    assert_int_equal(run_until(e, s, 1, in_scratch("state"), again), GIMBAL_ECANCEL);
    for (int i = 0; i < N; i++)
        noise[i] = (float)i / N, fresh[i] = -noise[i];
    gimbal_settings o[10] = {s, s, s, s, s, s, s, s, s, s};
    const char *says[10];
    o[0].seed = 8, says[0] = "--seed was \"7\", is \"8\"";
    o[1].prompt = "a dog", says[1] = "--prompt was \"a cat\", is \"a dog\"";
    o[2].steps = 4, says[2] = "--steps was 3, is 4";
    o[3].cfg = 3, says[3] = "--cfg was 2.0, is 3.0";
    o[4].eta = 0, says[4] = "--eta was 0.7";
    o[5].reinit = "freeinit:passes=2", says[5] = "--reinit";
    o[6].rng = "torch", says[6] = "--rng";
    o[7].frames = 4, says[7] = "--frames was 3, is 4";
    o[8].latents = noise, says[8] = "tensors from files was [], is [\"latents\"]";
    o[9].dtype = "bf16", says[9] = "--dtype was \"f32\", is \"bf16\"";
    for (int i = 0; i < COUNT(o); i++)
        check_fails(go_on(e, &o[i], in_scratch("state"), NULL, again), GIMBAL_EUSAGE, err, says[i]);

    /* the same kinds of tensors with other values */
    gimbal_settings given = settings(e, "ddim", "philox", "freeinit:passes=2");
    given.latents = noise, given.fresh = fresh, given.n_fresh = 1;
    assert_int_equal(run_until(e, given, 5, in_scratch("state"), again), GIMBAL_ECANCEL);
    check_ok(go_on(e, &given, in_scratch("state"), NULL, again), err);
    fresh[N - 1] += 1;
    check_fails(go_on(e, &given, in_scratch("state"), NULL, again), GIMBAL_EUSAGE, err, "other values");
    fresh[N - 1] -= 1;

    shell("sed -i 's/\"norm_eps\": 1e-05/\"norm_eps\": 2e-05/' %s", in_scratch("model/unet/config.json"));
    other = opened(in_scratch("model"), NULL);
    check(strcmp(gimbal_identity(e), gimbal_identity(other)) != 0, "another model");
    check_fails(go_on(other, &given, in_scratch("state"), NULL, again), GIMBAL_EUSAGE, err, "identity");
    gimbal_close(other);
    gimbal_close(e);
}

/* ---- damaged states ---------------------------------------------------------------------- */

/* The state's tensors, to be changed and written again. */
typedef struct {
    gimbal_tensor items[8];
    void *data[8];
    int n;
    char *recipe, *given;
} State;

static void state_read(State *s, const char *path)
{
    SafeTensors *st;
    *s = (State){0};
    check_ok(st_open(&st, path, &err), err);
    for (s->n = 0; s->n < st_count(st); s->n++) {
        const StEntry *e = st_entry(st, s->n);
        gimbal_tensor *t = &s->items[s->n];
        *t = (gimbal_tensor){strdup(e->name), strdup(e->spelling), e->nd, {0}, NULL};
        memcpy(t->n, e->n, sizeof t->n);
        t->data = s->data[s->n] = malloc(e->bytes);
        memcpy(s->data[s->n], e->data, e->bytes);
    }
    s->recipe = strdup(st_metadata(st, "recipe")), s->given = strdup(st_metadata(st, "given"));
    st_close(st);
}

static void *state_data(State *s, const char *name)
{
    for (int i = 0; i < s->n; i++)
        if (!strcmp(s->items[i].name, name))
            return s->data[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static void state_write(const State *s, int n, const char *version, const char *path)
{
    const char *const metadata[] = {"gimbal-state", version, "recipe", s->recipe, "given", s->given, NULL};
    check_ok(gimbal_tensors_write(path, s->items, n, metadata, &err), err);
}

static void state_free(State *s)
{
    for (int i = 0; i < s->n; i++)
        free((void *)s->items[i].name), free((void *)s->items[i].type), free(s->data[i]);
    free(s->recipe), free(s->given);
}

static void damaged_states_are_refused_and_the_session_begins_anew(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    const gimbal_settings s = settings(e, "dpmpp2m", "torch", "freeinit:passes=2");
    float whole[N], again[N];
    State kept;
    gimbal_session *run;
    assert_int_equal(run_until(e, s, 0, NULL, whole), GIMBAL_OK);
    assert_int_equal(run_until(e, s, 6, in_scratch("state"), again), GIMBAL_ECANCEL);
    state_read(&kept, in_scratch("state"));
    assert_int_equal(kept.n, 6);
    check_ok(gimbal_begin(&run, e, &s, &err), err);
    const char *bad = in_scratch("bad");

    static const struct {
        const char *tensor;
        int at;
        int32_t value;
    } values[] = {{"place", 0, 2},     {"place", 0, -1},        {"place", 0, 1 << 30}, {"place", 1, 0},
                  {"place", 1, 4},     {"place", 1, -5},        {"place", 2, 2},       {"place", 3, 0},
                  {"place", 3, 7},     {"place", 4, 1000},      {"place", 4, -1},      {"place", 5, -1},
                  {"place", 6, -2},    {"place", 7, INT32_MIN}, {"place", 8, 1},       {"place", 8, -1},
                  {"rng", 624, 625},   {"rng", 624, -1},        {"rng", 625, 256},     {"x", 0, 0x7f800000},
                  {"eps0", N - 1, -1}, {"x0", 3, 0x7fc00000}};
    for (int i = 0; i < COUNT(values); i++) {
        int32_t *word = (int32_t *)state_data(&kept, values[i].tensor) + values[i].at;
        const int32_t was = *word;
        *word = values[i].value;
        state_write(&kept, kept.n, "2", bad);
        check_fails(gimbal_state_load(run, bad, NULL, &err), GIMBAL_EFORMAT, err, values[i].tensor);
        *word = was;
    }
    for (int n = 0; n < kept.n; n++) { /* one tensor after the other is absent */
        const gimbal_tensor last = kept.items[kept.n - 1], gone = kept.items[n];
        kept.items[n] = last;
        state_write(&kept, kept.n - 1, "2", bad);
        check_fails(gimbal_state_load(run, bad, NULL, &err), GIMBAL_EFORMAT, err, gone.name);
        kept.items[n] = gone, kept.items[kept.n - 1] = last;
    }
    state_write(&kept, kept.n, "3", bad);
    check_fails(gimbal_state_load(run, bad, NULL, &err), GIMBAL_EFORMAT, err, "no state of a run");
    state_write(&kept, kept.n, "1", bad);
    check_fails(gimbal_state_load(run, bad, NULL, &err), GIMBAL_EUSAGE, err, "an older gimbal");
    shell("head -c 900 %s > %s", in_scratch("state"), bad);
    check_fails(gimbal_state_load(run, bad, NULL, &err), GIMBAL_EFORMAT, err, "bad");
    check_fails(gimbal_state_load(run, in_scratch("none"), NULL, &err), GIMBAL_EIO, err, "none");

    check_ok(gimbal_sample(run, again, &err), err);
    check(!memcmp(whole, again, sizeof whole), "after all these the session makes its clip");
    gimbal_end(run);
    state_free(&kept);
    gimbal_close(e);
}

/* From text's progress there is nothing to save, and loading is for a session at rest. */
static int misuse(void *user, const gimbal_progress *p)
{
    gimbal_session *run = *(gimbal_session **)user;
    if (!strcmp(p->stage, "text"))
        check_fails(gimbal_state_save(run, in_scratch("state"), &err), GIMBAL_EUSAGE, err, "callback");
    if (!strcmp(p->stage, "sample"))
        check_fails(gimbal_state_load(run, in_scratch("state"), NULL, &err), GIMBAL_EUSAGE, err, "callback");
    if (!strcmp(p->stage, "sample"))
        check_fails(gimbal_state_save(run, in_scratch("none/state"), &err), GIMBAL_EIO, err, "none");
    return 0;
}

static void a_state_is_not_for_every_moment(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    gimbal_settings s = settings(e, "euler", "philox", "none");
    gimbal_session *run;
    float whole[N], again[N];
    assert_int_equal(run_until(e, s, 0, NULL, whole), GIMBAL_OK);
    s.progress = misuse, s.user = &run;
    check_ok(gimbal_begin(&run, e, &s, &err), err);
    check_ok(gimbal_sample(run, again, &err), err);
    check(!memcmp(whole, again, sizeof whole), "the clip");
    gimbal_end(run);
    gimbal_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_MODEL(a_run_goes_on_to_the_same_bytes_from_every_place),
        WITH_MODEL(a_state_after_cancelling_is_the_same),
        WITH_MODEL(a_state_of_another_run_is_refused_by_name),
        WITH_MODEL(damaged_states_are_refused_and_the_session_begins_anew),
        WITH_MODEL(a_state_is_not_for_every_moment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
