/* t_driver.c: the loop over passes and steps, on an analytic denoiser: the order of draws, given tensors,
 * progress, cancelling anywhere and going on, values that turn non-finite, and every plug-in with every
 * other.
 *
 * Passes that stop early hand on what they should, and a clip is begun from where its strength says.
 * Two passes of two or three steps at least; sizes are odd and not square. */
#include "diffusion/diffusion.h"
#include "tests/check.h"

#include <unistd.h>

static const gimbal_shape shape = {.c = 3, .f = 5, .h = 7, .w = 9};
enum { N = 3 * 5 * 7 * 9 };

/* A denoiser that can be told to fail at one of its calls. */
typedef struct {
    int calls, fail_at;    /* fail_at: 1-based, 0 never */
    double t[64], cfg[64]; /* of its calls */
    int sleep_us;          /* for each branch of a call */
    int code;              /* what it then returns; 0: a NaN in its prediction */
    atomic_int *raise;     /* set at fail_at, the call itself succeeds */
} Toy;

static int toy(void *self, const float *x, gimbal_shape s, double t, double cfg, float *raw,
               gimbal_error *err)
{
    Toy *net = self;
    if (net->calls < COUNT(net->t))
        net->t[net->calls] = t, net->cfg[net->calls] = cfg;
    const bool now = ++net->calls == net->fail_at;
    if (net->sleep_us)
        usleep((useconds_t)(net->sleep_us * branches(cfg)));
    for (size_t i = 0; i < shape_count(s); i++)
        raw[i] = (float)(0.8 * sin(x[i] + 0.001 * t) + 0.1 * x[i]);
    if (!now)
        return GIMBAL_OK;
    if (net->raise) {
        atomic_store(net->raise, 1);
        return GIMBAL_OK;
    }
    if (!net->code) {
        raw[N / 2] = NAN;
        return GIMBAL_OK;
    }
    memset(raw, 0xff, sizeof *raw * N); /* an interrupted call leaves its output in any state */
    return fail_hint(err, net->code, "", "toy failed"); /* cmocka has a macro fail */
}

/* What the driver's callbacks saw; stop_at: 1-based callback that asks for a stop, 0 never. */
typedef struct {
    int calls, stop_at;
    gimbal_progress seen[64];
    float pass_result[N];
    bool finite;
} Watch;

static int watch(void *user, const gimbal_progress *p)
{
    Watch *w = user;
    if (w->calls < COUNT(w->seen))
        w->seen[w->calls] = *p;
    w->finite = true;
    for (size_t i = 0; i < shape_count(p->shape); i++)
        w->finite &= isfinite(p->latents[i]) != 0;
    if (!strcmp(p->stage, "pass"))
        memcpy(w->pass_result, p->latents, sizeof w->pass_result);
    return ++w->calls == w->stop_at;
}

/* Requests in the order they came, answered by a generator beneath. */
typedef struct {
    Source below;
    DrawReq asked[64];
    int calls;
} Recorder;

static int record(void *self, const DrawReq *req, float *out)
{
    Recorder *r = self;
    if (r->calls < COUNT(r->asked))
        r->asked[r->calls] = *req;
    r->calls++;
    return r->below.draw(r->below.self, req, out);
}

/* A driver with everything that it borrows. */
typedef struct {
    Arena keep;
    Schedule schedule;
    WhiteNoise white;
    PriorNoise prior;
    Recorder recorder;
    Toy net;
    Watch watch;
    atomic_int cancel;
    float clip[N];
    Driver driver;
} Rig;

typedef struct {
    const char *noise, *reinit, *sampler, *rng;
    int steps;
    double eta, strength; /* strength: with a clip, rig.clip; 0: none */
} Setup;
static const Setup usual = {"white", "freeinit:passes=2", "ddim", "philox", 3, 0.0, 0.0};

static void rig_open(Rig *rig, Setup setup)
{
    static const char config[] =
        "{\"_class_name\":\"DDIMScheduler\",\"beta_start\":0.00085,\"beta_end\":0.012,"
        "\"steps_offset\":1,\"clip_sample\":false}";
    gimbal_error err = {0};
    const char *note;
    void *noise_self;
    memset(rig, 0, sizeof *rig);
    Driver *d = &rig->driver;
    json_t *json = json_loads(config, 0, NULL);
    check_ok(schedule_read(&rig->schedule, json, "x.json", NULL, NULL, false, &rig->keep, &note, &err), err);
    json_decref(json);
    check_ok(white_init(&rig->white, setup.rng, 21, &err), err);
    check_ok(noise_parse(setup.noise, &rig->prior.noise, &noise_self, &rig->keep, &err), err);
    rig->prior.self = noise_self, rig->prior.white = white_source(&rig->white);
    rig->recorder.below = prior_source(&rig->prior);
    check_ok(reinit_parse(setup.reinit, &d->reinit, &d->reinit_self, &rig->keep, &err), err);
    check_ok(sampler_parse(setup.sampler, &d->sampler, &d->sampler_self, &rig->keep, &err), err);
    d->schedule = &rig->schedule;
    d->noise = (Source){record, &rig->recorder};
    d->steps = setup.steps, d->eta = setup.eta, d->shape = shape, d->cfg = 6;
    philox_normal(77, 0, 0, shape, rig->clip);
    d->clip = setup.strength > 0 ? rig->clip : NULL, d->strength = setup.strength;
    d->image = d->reinit->reads_picture ? rig->clip : NULL; /* of which one frame is read */
    d->net = (Denoise){toy, &rig->net};
    d->cancel = &rig->cancel;
    d->progress = watch, d->user = &rig->watch;
}

static void rig_close(Rig *rig)
{
    driver_end(&rig->driver);
    arena_free(&rig->keep);
}

/* An undisturbed run. */
static void run_once(Setup setup, float *latents)
{
    Rig rig;
    gimbal_error err = {0};
    rig_open(&rig, setup);
    check_ok(driver_run(&rig.driver, latents, &err), err);
    rig_close(&rig);
}

/* ---- what a run is ----------------------------------------------------------------------- */

static void one_pass_is_the_loop_written_out(void **state)
{
    (void)state;
    Rig rig;
    gimbal_error err = {0};
    Setup setup = usual;
    setup.reinit = "none";
    rig_open(&rig, setup);
    float given[N], latents[N], x[N], raw[N], next[N];
    philox_normal(1, 0, 0, shape, given);
    rig.driver.given = given;
    check_ok(driver_run(&rig.driver, latents, &err), err);
    assert_int_equal(rig.net.calls, 3);
    assert_int_equal(rig.recorder.calls, 0);

    Grid grid;
    Toy net = {0};
    check_ok(grid_make(&grid, &rig.schedule, 3, &rig.keep, &err), err);
    check_ok(rig.driver.sampler->begin(rig.driver.sampler_self, &rig.schedule, &grid, 0, NULL, &err), err);
    memcpy(x, given, sizeof x);
    for (int k = 0; k < 3; k++) {
        toy(&net, x, shape, grid.t[k], 6, raw, &err);
        rig.driver.sampler->step(rig.driver.sampler_self, k, N, x, raw, NULL, next, NULL);
        memcpy(x, next, sizeof x);
    }
    assert_memory_equal(x, latents, sizeof x);
    rig_close(&rig);
}

static void draws_come_in_the_order_of_the_reference(void **state)
{
    (void)state;
    Rig rig;
    gimbal_error err = {0};
    float latents[N];
    Setup setup = usual;
    setup.eta = 1, setup.steps = 2;
    rig_open(&rig, setup);
    check_ok(driver_run(&rig.driver, latents, &err), err);
    static const DrawReq want[] = {{.why = DRAW_INIT},
                                   {.why = DRAW_STEP},
                                   {.why = DRAW_STEP, .step = 1},
                                   {.why = DRAW_FRESH, .pass = 1},
                                   {.why = DRAW_STEP, .pass = 1},
                                   {.why = DRAW_STEP, .pass = 1, .step = 1}};
    assert_int_equal(rig.recorder.calls, COUNT(want));
    for (int i = 0; i < COUNT(want); i++) {
        const DrawReq *r = &rig.recorder.asked[i];
        check(r->why == want[i].why && r->pass == want[i].pass && r->step == want[i].step && r->frame0 == 0,
              "draw %d: why %d, pass %d, step %d", i, r->why, r->pass, r->step);
        assert_memory_equal(&r->shape, &shape, sizeof shape);
    }
    rig_close(&rig);
}

static void given_tensors_take_the_place_of_draws_and_leave_the_generator_alone(void **state)
{
    (void)state;
    Setup setup = usual;
    setup.rng = "torch", setup.reinit = "freeinit:passes=3", setup.steps = 2;
    float drawn[N], latents[N], tensors[3 * N];
    run_once(setup, drawn);

    /* the generator's first three tensors, as files would give them */
    TorchRng torch;
    torch_seed(&torch, 21);
    for (int i = 0; i < 3; i++)
        torch_randn(&torch, tensors + i * N, N);
    Rig rig;
    gimbal_error err = {0};
    rig_open(&rig, setup);
    rig.driver.given = tensors, rig.driver.fresh = tensors + N, rig.driver.n_fresh = 2;
    check_ok(driver_run(&rig.driver, latents, &err), err);
    assert_memory_equal(latents, drawn, sizeof drawn);
    assert_int_equal(rig.recorder.calls, 0);
    rig_close(&rig);

    /* one fresh tensor for three passes: the third pass draws its own */
    rig_open(&rig, setup);
    rig.driver.given = tensors, rig.driver.fresh = tensors + N, rig.driver.n_fresh = 1;
    check_ok(driver_run(&rig.driver, latents, &err), err);
    assert_int_equal(rig.recorder.calls, 1);
    assert_int_equal(rig.recorder.asked[0].why, DRAW_FRESH);
    assert_int_equal(rig.recorder.asked[0].pass, 2);
    check(rel_rms(latents, drawn, N) > 1e-3, "the third pass did not use its own draw");
    rig_close(&rig);
}

static void later_passes_start_from_the_first_noise_and_the_last_result(void **state)
{
    (void)state;
    Rig rig;
    gimbal_error err = {0};
    Setup setup = usual;
    setup.reinit = "freeinit:passes=2,compat=1,filter=gaussian", setup.steps = 2;
    rig_open(&rig, setup);
    float tensors[2 * N], first[N], latents[N], start[N], want[N];
    philox_normal(2, 0, 0, shape, tensors);
    philox_normal(2, 1, 0, shape, tensors + N);
    rig.driver.given = tensors, rig.driver.fresh = tensors + N, rig.driver.n_fresh = 1;
    rig.watch.stop_at = 3; /* after the first pass */
    check_fails(driver_run(&rig.driver, latents, &err), GIMBAL_ECANCEL, err, "cancelled");
    memcpy(first, rig.watch.pass_result, sizeof first);
    check_ok(driver_run(&rig.driver, latents, &err), err);

    Grid grid;
    check_ok(grid_make(&grid, &rig.schedule, 2, &rig.keep, &err), err);
    float mask[5 * 7 * 9];
    for (int i = 0; i < N; i++)
        want[i] =
            (float)(schedule_a(&rig.schedule, 999) * first[i] + schedule_s(&rig.schedule, 999) * tensors[i]);
    check_ok(gimbal_mask(setup.reinit, shape, mask, &err), err);
    check_ok(gimbal_mix(want, tensors + N, mask, 0, shape, start, &err), err);
    Setup plain = usual;
    Rig again;
    plain.reinit = "none", plain.steps = 2;
    rig_open(&again, plain);
    again.driver.given = start;
    check_ok(driver_run(&again.driver, want, &err), err);
    check(rel_rms(latents, want, N) < 1e-6, "%g off", rel_rms(latents, want, N));
    rig_close(&again);
    rig_close(&rig);
}

static void every_plug_in_runs_with_every_other(void **state)
{
    (void)state;
    gimbal_plugin noise, reinit, sampler;
    for (int i = 0; !gimbal_plugin_at("noise", i, &noise); i++)
        for (int j = 0; !gimbal_plugin_at("reinit", j, &reinit); j++)
            for (int k = 0; !gimbal_plugin_at("sampler", k, &sampler); k++)
                for (int torch = 0; torch < 2; torch++) {
                    const Setup setup = {noise.name, reinit.name, sampler.name, torch ? "torch" : "philox",
                                         2,          0.5,         0.0};
                    float x[N], y[N];
                    Rig rig;
                    PlannedPass plan[MAX_PASSES];
                    gimbal_error err = {0};
                    run_once(setup, x);
                    rig_open(&rig, setup);
                    rig.driver.progress = NULL; /* looking on must not change the clip */
                    check_ok(driver_run(&rig.driver, y, &err), err);
                    check(!memcmp(x, y, sizeof x), "%s, %s, %s", noise.name, reinit.name, sampler.name);
                    check(isfinite(rel_rms(x, y, N)), "%s, %s, %s", noise.name, reinit.name, sampler.name);
                    int calls = 0;
                    const int passes = driver_plan(&rig.driver, plan, &rig.keep, &err);
                    for (int p = 0; p < passes; p++)
                        calls += plan[p].to - plan[p].from;
                    assert_int_equal(rig.net.calls, calls);
                    rig_close(&rig);
                }
}

/* ---- passes that stop early, and their guidance ------------------------------------------ */

/* Where the passes of a plan begin and end in their grids. */
static void steps_of_every_pass_are_known_before_the_run(void **state)
{
    (void)state;
    static const struct {
        const char *reinit;
        int steps;
        double strength;
        int passes, from[3], to[3];
    } cases[] = {
        {"none", 25, 0, 1, {0}, {25}},
        {"freeinit:early=8", 25, 0, 3, {0, 0, 0}, {8, 8, 25}},
        {"freeinit:early=8,passes=2", 5, 0, 2, {0, 0}, {5, 5}},
        {"freeinit:early=2,fast=1,passes=2", 5, 0, 2, {0, 0}, {2, 5}},
        {"freeinit:early=1,fast=1", 2, 0, 3, {0, 0, 0}, {1, 1, 2}},
        {"freqprior", 25, 0, 3, {0, 0, 0}, {16, 16, 25}}, /* 961, 921, ..., 361 | 321 */
        {"freqprior:stop=320", 25, 0, 3, {0, 0, 0}, {17, 17, 25}},
        {"freqprior:stop=961", 25, 0, 3, {0, 0, 0}, {1, 1, 25}},
        {"freqprior:stop=999,passes=2", 2, 0, 2, {0, 0}, {1, 2}},
        {"freqprior:stop=0,passes=2", 7, 0, 2, {0, 0}, {7, 7}},
        {"none", 25, 0.8, 1, {5}, {25}},
        {"none", 25, 1, 1, {0}, {25}},
        {"none", 3, 0.34, 1, {2}, {3}}, /* int(1.02) */
        {"freeinit", 10, 0.55, 3, {5, 5, 5}, {10, 10, 10}},
        {"freeinit:early=2", 10, 0.55, 3, {5, 5, 5}, {7, 7, 10}},
        {"freeinit:fast=1", 10, 0.5, 3, {2, 3, 5}, {3, 6, 10}}, /* of 3, 6 and 10 steps */
        {"freqprior", 25, 0.5, 3, {13, 13, 13}, {16, 16, 25}},
        {"freqprior", 25, 0.2, 3, {20, 20, 20}, {21, 21, 25}}, /* begins below the stop: one step */
        {"redraw", 25, 0, 1, {0}, {25}},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        Rig rig;
        PlannedPass plan[MAX_PASSES];
        gimbal_error err = {0};
        Setup setup = usual;
        setup.reinit = cases[i].reinit, setup.steps = cases[i].steps, setup.strength = cases[i].strength;
        rig_open(&rig, setup);
        const int passes = driver_plan(&rig.driver, plan, &rig.keep, &err);
        check(passes == cases[i].passes, "%s: %d passes, %.300s", setup.reinit, passes, err.msg);
        for (int p = 0; p < passes; p++)
            check(plan[p].from == cases[i].from[p] && plan[p].to == cases[i].to[p],
                  "%s, %d steps, strength %g, pass %d: steps %d to %d", setup.reinit, setup.steps,
                  setup.strength, p, plan[p].from, plan[p].to);
        rig_close(&rig);
    }
}

static void an_early_pass_hands_on_its_estimate_of_the_clip(void **state)
{
    (void)state;
    Rig rig;
    gimbal_error err = {0};
    Setup setup = usual;
    setup.reinit = "freeinit:passes=2,early=2,early-cfg=1";
    rig_open(&rig, setup);
    float tensors[2 * N], x0[N], latents[N], low[N], start[N], want[N], mask[5 * 7 * 9];
    philox_normal(2, 0, 0, shape, tensors);
    philox_normal(2, 1, 0, shape, tensors + N);
    rig.driver.given = tensors, rig.driver.fresh = tensors + N, rig.driver.n_fresh = 1;
    rig.watch.stop_at = 3; /* after the first pass */
    check_fails(driver_run(&rig.driver, latents, &err), GIMBAL_ECANCEL, err, "after 2 of 5 network calls");
    memcpy(x0, rig.watch.pass_result, sizeof x0);
    check_ok(driver_run(&rig.driver, latents, &err), err);
    static const double t[] = {667, 334, 667, 334, 1}, cfg[] = {1, 1, 6, 6, 6};
    assert_int_equal(rig.net.calls, 5);
    assert_memory_equal(rig.net.t, t, sizeof t);
    assert_memory_equal(rig.net.cfg, cfg, sizeof cfg);

    /* the estimate, written out: two steps, and what the network takes the clip to be at the second */
    Grid grid;
    Toy net = {0};
    float x[N], raw[N], eps[N];
    check_ok(grid_make(&grid, &rig.schedule, 3, &rig.keep, &err), err);
    check_ok(rig.driver.sampler->begin(rig.driver.sampler_self, &rig.schedule, &grid, 0, NULL, &err), err);
    memcpy(x, tensors, sizeof x);
    toy(&net, x, shape, 667, 1, raw, &err);
    rig.driver.sampler->step(rig.driver.sampler_self, 0, N, x, raw, NULL, low, NULL);
    toy(&net, low, shape, 334, 1, raw, &err);
    predict_x0_eps(&rig.schedule, 334, N, low, raw, want, eps);
    check(rel_rms(x0, want, N) < 1e-6, "%g off the estimate", rel_rms(x0, want, N));

    for (int i = 0; i < N; i++)
        low[i] =
            (float)(schedule_a(&rig.schedule, 667) * x0[i] + schedule_s(&rig.schedule, 667) * tensors[i]);
    check_ok(gimbal_mask(setup.reinit, shape, mask, &err), err);
    check_ok(gimbal_mix(low, tensors + N, mask, 1, shape, start, &err), err);
    Setup plain = usual;
    Rig again;
    plain.reinit = "none";
    rig_open(&again, plain);
    again.driver.given = start;
    check_ok(driver_run(&again.driver, want, &err), err);
    check(rel_rms(latents, want, N) < 1e-6, "%g off", rel_rms(latents, want, N));
    rig_close(&again);
    rig_close(&rig);
}

static void the_time_left_counts_branches(void **state)
{
    (void)state;
    Rig rig;
    gimbal_error err = {0};
    float latents[N];
    Setup setup = usual;
    setup.reinit = "freeinit:passes=2,early=2,early-cfg=1";
    rig_open(&rig, setup);
    rig.net.sleep_us = 2000;
    check_ok(driver_run(&rig.driver, latents, &err), err);
    /* after two calls of one branch, each at least 2 ms: three of two branches are left */
    check(rig.watch.seen[1].eta >= 0.012, "%g s left", rig.watch.seen[1].eta);
    check(rig.watch.seen[0].eta >= 0.014, "%g s left", rig.watch.seen[0].eta);
    check(rig.watch.seen[rig.watch.calls - 1].eta == 0, "at the end");
    rig_close(&rig);
}

/* ---- a clip to begin from ---------------------------------------------------------------- */

static void a_clip_is_noised_to_the_first_sampled_timestep_and_sampled_from_there(void **state)
{
    (void)state;
    static const struct {
        double strength;
        int calls;
    } cases[] = {{0.7, 2}, {1, 3}};
    for (int i = 0; i < COUNT(cases); i++) {
        Rig rig;
        Grid grid;
        gimbal_error err = {0};
        Setup setup = usual;
        setup.reinit = "none", setup.strength = cases[i].strength;
        rig_open(&rig, setup);
        float given[N], latents[N], x[N], raw[N], next[N];
        philox_normal(1, 0, 0, shape, given);
        rig.driver.given = given;
        check_ok(driver_run(&rig.driver, latents, &err), err);
        assert_int_equal(rig.net.calls, cases[i].calls);
        assert_int_equal(rig.watch.seen[0].step, 1);
        assert_int_equal(rig.watch.seen[0].steps, cases[i].calls);

        Toy net = {0};
        check_ok(grid_make(&grid, &rig.schedule, 3, &rig.keep, &err), err);
        check_ok(rig.driver.sampler->begin(rig.driver.sampler_self, &rig.schedule, &grid, 0, NULL, &err),
                 err);
        const int from = 3 - cases[i].calls;
        for (int j = 0; j < N; j++)
            x[j] = (float)schedule_a(&rig.schedule, grid.t[from]) * rig.clip[j] +
                   (float)schedule_s(&rig.schedule, grid.t[from]) * given[j];
        for (int k = from; k < 3; k++) {
            toy(&net, x, shape, grid.t[k], 6, raw, &err);
            rig.driver.sampler->step(rig.driver.sampler_self, k, N, x, raw, NULL, next, NULL);
            memcpy(x, next, sizeof x);
        }
        assert_memory_equal(x, latents, sizeof x);
        rig_close(&rig);
    }
}

static void every_pass_from_a_clip_starts_at_the_same_timestep(void **state)
{
    (void)state;
    static const char *const specs[] = {"freeinit:passes=3", "freqprior:passes=3,stop=1", "redraw"};
    for (int i = 0; i < COUNT(specs); i++) {
        Rig rig;
        gimbal_error err = {0};
        float latents[N], other[N];
        Setup setup = usual;
        setup.reinit = specs[i], setup.steps = 10, setup.strength = 0.8;
        rig_open(&rig, setup);
        for (int k = 0; k < N; k++)
            rig.clip[k] += 3; /* a brightness: the low band of so small a clip is little more */
        check_ok(driver_run(&rig.driver, latents, &err), err);
        for (int k = 0; k < rig.watch.calls; k++)
            if (rig.watch.seen[k].step == 1 && !strcmp(rig.watch.seen[k].stage, "sample"))
                check_near(rig.net.t[rig.watch.seen[k].calls - 1], 701, 0, "%s, pass %d", specs[i],
                           rig.watch.seen[k].pass);
        rig_close(&rig);
        rig_open(&rig, setup);
        memset(rig.clip, 0, sizeof rig.clip);
        check_ok(driver_run(&rig.driver, other, &err), err);
        check(rel_rms(other, latents, N) > 1e-2, "%s does not see the clip", specs[i]);
        rig_close(&rig);
    }
}

static void a_clip_that_cannot_be_begun_from_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *reinit;
        double strength;
        const char *says;
    } cases[] = {{"freeinit:compat=1", 0.8, "first sampled"},
                 {"none", 0.3, "less than one step"},
                 {"none", 1.01, "at most 1"},
                 {"none", -1, "more than 0"},
                 {"none", NAN, "more than 0"}};
    for (int i = 0; i < COUNT(cases); i++) {
        Rig rig;
        gimbal_error err = {0};
        float latents[N];
        Setup setup = usual;
        setup.reinit = cases[i].reinit;
        rig_open(&rig, setup);
        rig.driver.clip = rig.clip, rig.driver.strength = cases[i].strength;
        check_fails(driver_run(&rig.driver, latents, &err), GIMBAL_EUSAGE, err, cases[i].says);
        assert_int_equal(rig.net.calls + rig.recorder.calls, 0);
        rig_close(&rig);
    }
}

/* ---- progress ---------------------------------------------------------------------------- */

static void progress_counts_steps_passes_and_calls(void **state)
{
    (void)state;
    Rig rig;
    gimbal_error err = {0};
    float latents[N];
    Setup setup = usual;
    setup.reinit = "freeinit:passes=2,fast=1", setup.steps = 4; /* 2 steps, then 4 */
    rig_open(&rig, setup);
    check_ok(driver_run(&rig.driver, latents, &err), err);
    static const struct {
        const char *stage;
        int pass, step, steps, calls;
    } want[] = {{"sample", 1, 1, 2, 1}, {"sample", 1, 2, 2, 2}, {"pass", 1, 2, 2, 2},
                {"sample", 2, 1, 4, 3}, {"sample", 2, 2, 4, 4}, {"sample", 2, 3, 4, 5},
                {"sample", 2, 4, 4, 6}, {"pass", 2, 4, 4, 6}};
    assert_int_equal(rig.watch.calls, COUNT(want));
    double elapsed = 0;
    for (int i = 0; i < COUNT(want); i++) {
        const gimbal_progress *p = &rig.watch.seen[i];
        check(!strcmp(p->stage, want[i].stage) && p->pass == want[i].pass && p->passes == 2 &&
                  p->step == want[i].step && p->steps == want[i].steps && p->calls == want[i].calls &&
                  p->total_calls == 6,
              "callback %d: %s, pass %d/%d, step %d/%d, call %d/%d", i, p->stage, p->pass, p->passes, p->step,
              p->steps, p->calls, p->total_calls);
        check(p->elapsed >= elapsed && p->eta >= 0, "callback %d: elapsed %g, eta %g", i, p->elapsed, p->eta);
        check(p->latents != NULL, "callback %d", i);
        assert_memory_equal(&p->shape, &shape, sizeof shape);
        elapsed = p->elapsed;
    }
    assert_true(rig.watch.finite);
    assert_true(rig.watch.seen[7].eta == 0);
    assert_memory_equal(rig.watch.pass_result, latents, sizeof latents);
    rig_close(&rig);
}

/* ---- stopping and going on --------------------------------------------------------------- */

enum { BY_CALLBACK, BY_NETWORK, BY_FLAG, WAYS };

/* Stops the run at the k-th callback, inside the k-th network call, or with the flag raised during that
 * call; then goes on. Returns whether there was a k-th. calls, draws: of an undisturbed run. */
static bool interrupted(Setup setup, int way, int k, int calls, int draws, float *latents)
{
    Rig rig;
    gimbal_error err = {0};
    rig_open(&rig, setup);
    rig.net.fail_at = way == BY_CALLBACK ? 0 : k, rig.net.code = GIMBAL_ECANCEL;
    rig.net.raise = way == BY_FLAG ? &rig.cancel : NULL;
    rig.watch.stop_at = way == BY_CALLBACK ? k : 0;
    const int code = driver_run(&rig.driver, latents, &err);
    if (code) {
        assert_int_equal(code, GIMBAL_ECANCEL);
        atomic_store(&rig.cancel, 0);
        memset(latents, 0xff, sizeof *latents * N);
        memset(&err, 0, sizeof err);
        const int before = rig.net.calls;
        check_ok(driver_run(&rig.driver, latents, &err), err);
        check(rig.net.calls <= calls + (way == BY_NETWORK), "%d network calls, %d before the stop",
              rig.net.calls, before);
    }
    const gimbal_progress *final = &rig.watch.seen[rig.watch.calls - 1];
    assert_int_equal(final->calls, calls);
    assert_int_equal(rig.recorder.calls, draws);
    rig_close(&rig);
    return code != 0;
}

static void a_run_stopped_anywhere_goes_on_to_the_same_bytes(void **state)
{
    (void)state;
    static const struct {
        const char *reinit;
        double strength;
        int passes, calls, draws; /* draws: initial, fresh, and every step's */
    } cases[] = {{"freeinit:passes=2", 0, 2, 6, 8},
                 {"freeinit:passes=2,early=1,early-cfg=1", 0, 2, 4, 6},
                 {"freqprior:passes=3", 0, 3, 7, 12}, /* 667, 334 and not 1; two fresh clips each */
                 {"redraw:passes=2", 0.7, 1, 2, 4}};
    for (int c = 0; c < 2 * COUNT(cases); c++) {
        const int i = c / 2, calls = cases[i].calls;
        Setup setup = usual;
        setup.reinit = cases[i].reinit, setup.strength = cases[i].strength;
        setup.rng = c % 2 ? "torch" : "philox", setup.eta = 0.7;
        float whole[N], latents[N];
        run_once(setup, whole);
        for (int way = 0; way < WAYS; way++) {
            int k = 1;
            while (interrupted(setup, way, k, calls, cases[i].draws, latents)) {
                check(!memcmp(latents, whole, sizeof whole), "%s, %s, way %d, stop %d", setup.reinit,
                      setup.rng, way, k);
                k++;
            }
            /* the flag raised in the last call of all stops nothing */
            const int stops = way == BY_CALLBACK ? calls + cases[i].passes : calls - (way == BY_FLAG);
            check(k - 1 == stops, "%s, %s, way %d: %d stops", setup.reinit, setup.rng, way, k - 1);
        }
    }
}

static void a_raised_flag_stops_before_any_work(void **state)
{
    (void)state;
    Rig rig;
    gimbal_error err = {0};
    float whole[N], latents[N];
    run_once(usual, whole);
    rig_open(&rig, usual);
    atomic_store(&rig.cancel, 1);
    for (int i = 0; i < 2; i++)
        check_fails(driver_run(&rig.driver, latents, &err), GIMBAL_ECANCEL, err, "0 of 6");
    assert_int_equal(rig.net.calls + rig.recorder.calls, 0);
    atomic_store(&rig.cancel, 0);
    check_ok(driver_run(&rig.driver, latents, &err), err);
    assert_memory_equal(latents, whole, sizeof whole);
    rig_close(&rig);
}

/* ---- what goes wrong --------------------------------------------------------------------- */

static void values_that_turn_non_finite_stop_the_run_with_their_place(void **state)
{
    (void)state;
    Rig rig;
    gimbal_error err = {0};
    float latents[N];
    rig_open(&rig, usual);
    rig.net.fail_at = 5;
    check_fails(driver_run(&rig.driver, latents, &err), GIMBAL_EVALUE, err,
                "pass 2, step 2 of 3, timestep 334");
    rig_close(&rig);
}

static void impossible_runs_are_refused_before_the_first_call(void **state)
{
    (void)state;
    static const struct {
        int steps;
        double eta;
        const char *says;
    } cases[] = {{0, 0, "1..1000"},
                 {-1, 0, "1..1000"},
                 {1001, 0, "1..1000"},
                 {1000, 0, "steps_offset"},
                 {3, 2, "eta"}};
    gimbal_error err = {0};
    float latents[N];
    Rig rig;
    for (int i = 0; i < COUNT(cases); i++) {
        Setup setup = usual;
        setup.steps = cases[i].steps, setup.eta = cases[i].eta;
        rig_open(&rig, setup);
        check_fails(driver_run(&rig.driver, latents, &err), GIMBAL_EUSAGE, err, cases[i].says);
        assert_int_equal(rig.net.calls + rig.recorder.calls, 0);
        rig_close(&rig);
    }
    Setup setup = usual;
    setup.reinit = "freeinit:compat=1";
    rig_open(&rig, setup);
    Sampler other = *rig.driver.sampler;
    other.name = "euler";
    rig.driver.sampler = &other;
    check_fails(driver_run(&rig.driver, latents, &err), GIMBAL_EUSAGE, err, "ddim only");
    rig_close(&rig);
}

static int refuse(void *self, const DrawReq *req, float *out)
{
    (void)self, (void)req, (void)out;
    return GIMBAL_ENOMEM;
}

static void errors_from_below_arrive_with_their_code(void **state)
{
    (void)state;
    gimbal_error err = {0};
    float latents[N];
    Rig rig;
    rig_open(&rig, usual);
    rig.net.fail_at = 2, rig.net.code = GIMBAL_EMODEL;
    check_fails(driver_run(&rig.driver, latents, &err), GIMBAL_EMODEL, err, "toy failed");
    rig_close(&rig);

    rig_open(&rig, usual);
    rig.driver.noise = (Source){refuse, NULL};
    check_fails(driver_run(&rig.driver, latents, &err), GIMBAL_ENOMEM, err, "initial noise");
    rig_close(&rig);

    rig_open(&rig, usual);
    float given[N] = {0};
    rig.driver.noise = (Source){refuse, NULL}, rig.driver.given = given;
    check_fails(driver_run(&rig.driver, latents, &err), GIMBAL_ENOMEM, err, "fresh noise of pass 2");
    rig_close(&rig);
}

TESTS(one_pass_is_the_loop_written_out, draws_come_in_the_order_of_the_reference,
      given_tensors_take_the_place_of_draws_and_leave_the_generator_alone,
      later_passes_start_from_the_first_noise_and_the_last_result, every_plug_in_runs_with_every_other,
      steps_of_every_pass_are_known_before_the_run, an_early_pass_hands_on_its_estimate_of_the_clip,
      the_time_left_counts_branches, a_clip_is_noised_to_the_first_sampled_timestep_and_sampled_from_there,
      every_pass_from_a_clip_starts_at_the_same_timestep, a_clip_that_cannot_be_begun_from_is_refused,
      progress_counts_steps_passes_and_calls, a_run_stopped_anywhere_goes_on_to_the_same_bytes,
      a_raised_flag_stops_before_any_work, values_that_turn_non_finite_stop_the_run_with_their_place,
      impossible_runs_are_refused_before_the_first_call, errors_from_below_arrive_with_their_code)
