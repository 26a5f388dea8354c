/* t_sampler.c: samplers against diffusers' trajectories (tests/golden/schedulers.safetensors: every case
 * of manifest.json whose sampler is in the registry) and against closed forms; what every sampler must
 * be, by walking the registry. */
#include "diffusion/diffusion.h"
#include "tests/check.h"

#define GOLDEN "tests/golden/schedulers.safetensors"
#define FOR_EACH_SAMPLER(plugin)                                                                             \
    gimbal_plugin plugin;                                                                                    \
    for (int i_ = 0; gimbal_plugin_at("sampler", i_, &plugin) == GIMBAL_OK; i_++)

/* A schedule, a grid on it and a sampler at work: what a test of one pass needs. */
typedef struct {
    Arena keep;
    Schedule schedule;
    Grid grid;
    const Sampler *sampler;
    void *self;
    float *history;
} Rig;

static void rig_open(Rig *rig, const char *sampler, const json_t *config, int steps)
{
    gimbal_error err = {0};
    const char *note;
    *rig = (Rig){0};
    check_ok(schedule_read(&rig->schedule, config, "x.json", NULL, NULL, false, &rig->keep, &note, &err),
             err);
    check_ok(sampler_parse(sampler, &rig->sampler, &rig->self, &rig->keep, &err), err);
    check_ok(sampler_grid(rig->sampler, &rig->grid, &rig->schedule, steps, &rig->keep, &err), err);
}

/* Makes the rig ready for a pass over n values; the history of an earlier one lies there still. */
static void rig_begin(Rig *rig, double eta, size_t n)
{
    gimbal_error err = {0};
    if (!rig->history)
        rig->history = arena_alloc(&rig->keep, ((size_t)rig->sampler->history * n + 1) * sizeof(float));
    assert_non_null(rig->history);
    check_ok(rig->sampler->begin(rig->self, &rig->schedule, &rig->grid, eta, rig->history, &err), err);
}

static bool sampler_is(const Rig *rig, const char *name)
{
    return !strcmp(rig->sampler->name, name);
}

static void rig_parse(Rig *rig, const char *sampler, const char *json, int steps)
{
    json_t *config = json_loads(json, 0, NULL);
    assert_non_null(config);
    rig_open(rig, sampler, config, steps);
    json_decref(config);
}

static const char plain[] =
    "{\"_class_name\":\"DDIMScheduler\",\"beta_schedule\":\"linear\",\"beta_start\":0.00085,"
    "\"beta_end\":0.012,\"steps_offset\":1,\"clip_sample\":false}";

/* ---- goldens ----------------------------------------------------------------------------- */

enum { CLIP = 72 }; /* values of a golden clip: [4,2,3,3] */

static void toy(double t, size_t n, const float *x, float *raw)
{
    for (size_t i = 0; i < n; i++)
        raw[i] = (float)(0.8 * sin(x[i] + 0.001 * t) + 0.1 * x[i]);
}

/* One case's tensors. levels [steps + 1]: of the reference's own x, a multiple of ours: sqrt(1 + sigma^2) for
 * Euler, 1 for the others. */
typedef struct {
    const char *name;
    float *timesteps, *sigmas, *trajectory;
    double level[64];
} Case;

static void case_open(Case *c, const char *name, const char *sampler, int steps)
{
    char key[3][96];
    size_t n;
    static const char *const parts[] = {"timesteps", "sigmas", "trajectory"};
    *c = (Case){.name = name};
    for (int i = 0; i < 3; i++)
        snprintf(key[i], sizeof key[i], "%s.%s", name, parts[i]);
    c->timesteps = golden(GOLDEN, key[0], &n);
    assert_int_equal(n, steps);
    c->trajectory = golden(GOLDEN, key[2], &n);
    assert_int_equal(n, CLIP * (steps + 1));
    if (strcmp(sampler, "ddim")) {
        c->sigmas = golden(GOLDEN, key[1], &n);
        assert_int_equal(n, steps + 1);
    }
    for (int k = 0; k <= steps; k++)
        c->level[k] = strcmp(sampler, "euler") ? 1 : sqrt(1 + (double)c->sigmas[k] * c->sigmas[k]);
}

static void case_close(Case *c)
{
    free(c->timesteps), free(c->sigmas), free(c->trajectory);
}

/* The reference's sigmas come from alphas in float32: 1 - A is off by up to 6e-8, and with zero terminal SNR
 * A comes from differences of roots. */
static void check_grid(const Case *c, const Rig *rig, double init_sigma)
{
    const double relative = rig->schedule.zero_snr ? 2e-4 : 2e-6;
    for (int k = 0; k < rig->grid.n; k++) {
        const double t = rig->grid.t[k];
        check_near(t, c->timesteps[k], strcmp(rig->sampler->name, "euler") ? 0 : 1e-4, "%s: timestep %d",
                   c->name, k);
        const double sigma = c->sigmas ? c->sigmas[k] : 0;
        if (c->sigmas)
            check_near(schedule_sigma(&rig->schedule, t), sigma, relative * sigma + 4e-8 / sigma,
                       "%s: sigma %d", c->name, k);
    }
    if (c->sigmas)
        check_near(schedule_sigma(&rig->schedule, grid_next(&rig->grid, rig->grid.n - 1)), 0, 0,
                   "%s: the last sigma", c->name);
    check_near(rig->grid.start, init_sigma / c->level[0], 2e-6, "%s: the start", c->name);
}

/* One case of the manifest; the toy denoiser leads the trajectory away exponentially where a step is
 * wrong. */
static void check_case(const char *name, const json_t *one, const float *start, const float *noise)
{
    Rig rig;
    Case c;
    const char *sampler = json_string_value(json_object_get(one, "sampler"));
    const int steps = (int)json_integer_value(json_object_get(one, "steps"));
    const double eta = json_number_value(json_object_get(one, "eta"));
    rig_open(&rig, sampler, json_object_get(one, "config"), steps);
    case_open(&c, name, sampler, steps);
    check_grid(&c, &rig, json_number_value(json_object_get(one, "init_noise_sigma")));
    const double bound = rig.schedule.zero_snr && !strcmp(sampler, "euler") ? 2e-4 : 1e-5;

    float x[CLIP], next[CLIP], raw[CLIP], x0[CLIP];
    for (int i = 0; i < CLIP; i++)
        x[i] = (float)(rig.grid.start * start[i]);
    rig_begin(&rig, eta, CLIP);
    for (int k = 0; k < rig.grid.n; k++) {
        const bool inject = rig.sampler->injects && rig.sampler->injects(rig.self, k);
        check(inject == (eta > 0), "%s: step %d", name, k);
        toy(rig.grid.t[k], CLIP, x, raw);
        assert_int_equal(
            rig.sampler->step(rig.self, k, CLIP, x, raw, inject ? noise + k * CLIP : NULL, next, x0),
            GIMBAL_OK);
        memcpy(x, next, sizeof x);
        for (int i = 0; i < CLIP; i++)
            next[i] = (float)(c.trajectory[(k + 1) * CLIP + i] / c.level[k + 1]);
        const double off = rel_rms(x, next, CLIP);
        check(off <= bound, "%s: %g off after step %d", name, off, k + 1);
    }
    case_close(&c);
    arena_free(&rig.keep);
}

static void trajectories_are_those_of_diffusers(void **state)
{
    (void)state;
    gimbal_error err = {0};
    json_t *manifest, *one;
    const char *name;
    size_t n;
    int cases = 0;
    float *start = golden(GOLDEN, "x", &n), *noise = golden(GOLDEN, "noise", &n);
    check_ok(json_read(&manifest, "tests/golden/manifest.json", &err), err);
    json_object_foreach(json_object_get(manifest, "schedulers"), name, one)
    {
        json_object_set_new(json_object_get(one, "config"), "_class_name", json_string("DDIMScheduler"));
        check_case(name, one, start, noise);
        cases++;
    }
    assert_int_equal(cases, 130);
    json_decref(manifest);
    free(start), free(noise);
}

/* DDPM's are in a file of their own, with the configs and the noise of every step. */
static void trajectories_of_ddpm_are_those_of_diffusers(void **state)
{
    (void)state;
    static const char file[] = "tests/golden/ddpm.safetensors";
    static const char *const cases[] = {"leading", "every", "linspace", "trailing", "clipped"};
    gimbal_error err = {0};
    SafeTensors *st;
    check_ok(st_open(&st, file, &err), err);
    for (int i = 0; i < COUNT(cases); i++) {
        Rig rig;
        char key[3][64];
        size_t n;
        static const char *const parts[] = {"timesteps", "trajectory", "noise"};
        for (int k = 0; k < 3; k++)
            snprintf(key[k], sizeof key[k], "%s.%s", cases[i], parts[k]);
        json_t *config = json_loads(st_metadata(st, cases[i]), 0, NULL);
        assert_non_null(config);
        rig_open(&rig, "ddpm", config, (int)json_integer_value(json_object_get(config, "steps")));
        rig_begin(&rig, 0, CLIP);
        float *t = golden(file, key[0], &n), *path = golden(file, key[1], &n),
              *noise = golden(file, key[2], &n);
        float x[CLIP], raw[CLIP], next[CLIP], x0[CLIP];
        memcpy(x, path, sizeof x);
        for (int k = 0; k < rig.grid.n; k++) {
            check(rig.grid.t[k] == t[k], "%s: timestep %d", cases[i], k);
            toy(t[k], CLIP, x, raw);
            const bool inject = rig.sampler->injects(rig.self, k);
            check(inject == (t[k] > 0), "%s: step %d", cases[i], k);
            rig.sampler->step(rig.self, k, CLIP, x, raw, inject ? noise + k * CLIP : NULL, next, x0);
            check_near(rel_rms(next, path + (k + 1) * CLIP, CLIP), 0, 1e-5, "%s: after step %d", cases[i], k);
            memcpy(x, next, sizeof x);
        }
        free(t), free(path), free(noise);
        json_decref(config), arena_free(&rig.keep);
    }
    st_close(st);
}

/* ---- closed forms ------------------------------------------------------------------------ */

/* The optimal prediction where clips are N(m, d^2) per value: eps-hat = s (x - a m) / (a^2 d^2 + s^2). */
static void gaussian(const Schedule *schedule, double t, double m, double d, size_t n, const float *x,
                     float *raw)
{
    const double a = schedule_a(schedule, t), s = schedule_s(schedule, t);
    for (size_t i = 0; i < n; i++) {
        const double eps = s * (x[i] - a * m) / (a * a * d * d + s * s), x0 = m + a * d * d / s * eps;
        raw[i] = (float)(schedule->prediction == PREDICT_EPSILON  ? eps
                         : schedule->prediction == PREDICT_SAMPLE ? x0
                                                                  : a * eps - s * x0);
    }
}

static void ddim_on_gaussian_clips_is_a_product_of_scales(void **state)
{
    (void)state;
    static const char *const predictions[] = {"epsilon", "v_prediction", "sample"};
    enum { N = 35 };
    const double m = 0.3, d = 0.6;
    for (int p = 0; p < 3; p++)
        for (int steps = 2; steps <= 20; steps += 9) {
            char json[512];
            Rig rig;
            snprintf(json, sizeof json, "%.*s,\"prediction_type\":\"%s\"}", (int)strlen(plain) - 1, plain,
                     predictions[p]);
            rig_parse(&rig, "ddim", json, steps);
            rig_begin(&rig, 0, N);
            float x[N], next[N], raw[N];
            double scale = 1;
            philox_normal(5, 0, 0, (gimbal_shape){1, 1, 5, 7}, x);
            double first[N];
            for (int i = 0; i < N; i++)
                first[i] = x[i] - schedule_a(&rig.schedule, rig.grid.t[0]) * m;
            for (int k = 0; k < steps; k++) {
                const double t = rig.grid.t[k], u = t - rig.grid.ratio;
                const double a = schedule_a(&rig.schedule, t), s = schedule_s(&rig.schedule, t);
                const double b = schedule_a(&rig.schedule, u), r = schedule_s(&rig.schedule, u);
                scale *= (b * a * d * d + r * s) / (a * a * d * d + s * s);
                gaussian(&rig.schedule, t, m, d, N, x, raw);
                assert_int_equal(rig.sampler->step(rig.self, k, N, x, raw, NULL, next, NULL), GIMBAL_OK);
                memcpy(x, next, sizeof x);
            }
            for (int i = 0; i < N; i++)
                check_near(x[i], m + scale * first[i], 3e-6, "%s, %d steps, value %d", predictions[p], steps,
                           i);
            arena_free(&rig.keep);
        }
}

/* With eta 1 and the exact prediction for one clip m, x stays a m + s N(0, 1) from step to step, and ends
 * at m. */
static void ddim_with_eta_keeps_the_noise_at_its_level(void **state)
{
    (void)state;
    enum { N = 40000, STEPS = 5 };
    const gimbal_shape shape = {1, 1, 200, 200};
    const double m = 0.7;
    float *memory = malloc(sizeof(float) * N * 5);
    float *x = memory, *next = memory + N, *raw = memory + 2 * N, *z = memory + 3 * N, *x0 = memory + 4 * N;
    Rig rig;
    rig_parse(&rig, "ddim", plain, STEPS);
    rig_begin(&rig, 1.0, N);
    philox_normal(6, 0, 0, shape, x);
    for (int i = 0; i < N; i++)
        x[i] = (float)(schedule_a(&rig.schedule, rig.grid.t[0]) * m +
                       schedule_s(&rig.schedule, rig.grid.t[0]) * x[i]);
    for (int k = 0; k < STEPS; k++) {
        const double t = rig.grid.t[k], u = t - rig.grid.ratio, s = schedule_s(&rig.schedule, u);
        gaussian(&rig.schedule, t, m, 0, N, x, raw);
        philox_normal(6, 1 + (uint32_t)k, 0, shape, z);
        assert_true(rig.sampler->injects(rig.self, k));
        assert_int_equal(rig.sampler->step(rig.self, k, N, x, raw, z, next, x0), GIMBAL_OK);
        memcpy(x, next, sizeof(float) * N);
        double mean = 0, square = 0;
        for (int i = 0; i < N; i++) {
            const double e = x[i] - schedule_a(&rig.schedule, u) * m;
            mean += e / N, square += e * e / N;
            check_near(x0[i], m, 2e-5, "x0 at step %d", k);
        }
        check_near(mean, 0, 4 * s / sqrt(N) + 1e-6, "mean after step %d", k);
        check_near(sqrt(square), s, 4 * s / sqrt(2.0 * N) + 1e-6, "deviation after step %d", k);
    }
    free(memory);
    arena_free(&rig.keep);
}

/* With the noise known, a step's mean and variance are those of q(x_prev | x, x0), so that x_prev is at its
 * own level of noise; the last step ends at the clip itself. */
static void ddpm_keeps_the_noise_at_its_level_and_ends_clean(void **state)
{
    (void)state;
    enum { N = 40000, STEPS = 6 };
    Rig rig;
    float *x = malloc(N * sizeof *x), *e = malloc(N * sizeof *e), *z = malloc(N * sizeof *z),
          *next = malloc(N * sizeof *next), *x0 = malloc(N * sizeof *x0);
    rig_parse(&rig, "ddpm", plain, STEPS);
    rig_begin(&rig, 0, N);
    for (int k = 0; k < STEPS; k++) {
        const double a = schedule_a(&rig.schedule, rig.grid.t[k]),
                     s = schedule_s(&rig.schedule, rig.grid.t[k]);
        const double to = grid_next(&rig.grid, k), a_to = to < 0 ? 1 : schedule_a(&rig.schedule, to);
        philox_normal(3, (uint32_t)k, 0, (gimbal_shape){1, 1, 1, N}, e);
        philox_normal(4, (uint32_t)k, 0, (gimbal_shape){1, 1, 1, N}, z);
        for (int i = 0; i < N; i++)
            x[i] = (float)(a * 0.7 + s * e[i]);
        assert_int_equal(rig.sampler->step(rig.self, k, N, x, e, z, next, x0), GIMBAL_OK);
        double mean = 0, square = 0;
        for (int i = 0; i < N; i++)
            mean += next[i] / N, square += (next[i] - a_to * 0.7) * (next[i] - a_to * 0.7) / N;
        check_near(mean, a_to * 0.7, 0.02, "mean after step %d", k);
        check_near(square, 1 - a_to * a_to, 0.03 * (1 - a_to * a_to) + 1e-9, "variance after step %d", k);
        check_near(x0[7], 0.7, 1e-4, "the clip as step %d sees it", k);
    }
    check_near(next[3], 0.7, 1e-4, "the clip at the end");
    free(x), free(e), free(z), free(next), free(x0);
    arena_free(&rig.keep);
}

static void ddim_serves_zero_terminal_snr_exactly_where_the_formulas_hold(void **state)
{
    (void)state;
    static const char zero[] =
        "{\"_class_name\":\"DDIMScheduler\",\"rescale_betas_zero_snr\":true,"
        "\"clip_sample\":false,\"timestep_spacing\":\"%s\",\"prediction_type\":\"%s\"}";
    const float x[3] = {1.5f, -2.0f, 0.25f}, raw[3] = {0.5f, 4.0f, -1.0f};
    static const char *const predictions[] = {"v_prediction", "sample"};
    for (int p = 0; p < 2; p++) {
        char json[512];
        Rig rig;
        snprintf(json, sizeof json, zero, "trailing", predictions[p]);
        rig_parse(&rig, "ddim", json, 4);
        rig_begin(&rig, 1.0, 3);
        float next[3], x0[3];
        assert_int_equal(rig.sampler->step(rig.self, 0, 3, x, raw, x, next, x0), GIMBAL_OK);
        for (int i = 0; i < 3; i++) {
            check(x0[i] == (p ? raw[i] : -raw[i]), "%s: x0 of pure noise is %g", predictions[p], x0[i]);
            check(isfinite(next[i]), "%s: next is %g", predictions[p], next[i]);
        }
        arena_free(&rig.keep);
    }
    char json[512];
    gimbal_error err = {0};
    Rig rig;
    snprintf(json, sizeof json, zero, "trailing", "epsilon");
    rig_parse(&rig, "ddim", json, 4);
    check_fails(rig.sampler->begin(rig.self, &rig.schedule, &rig.grid, 0, NULL, &err), GIMBAL_EMODEL, err,
                "zero signal");
    arena_free(&rig.keep);
    snprintf(json, sizeof json, zero, "leading", "epsilon");
    rig_parse(&rig, "ddim", json, 4);
    rig_begin(&rig, 0, 3);
    arena_free(&rig.keep);
}

/* On clips N(m, d^2) the probability flow keeps (x - a m) / sqrt(a^2 d^2 + s^2). The error half-way, at
 * timestep 499 whatever the number of steps: at the end, where sigma is like sqrt(t), steps in lambda do not
 * get smaller with more of them. */
static double flow_error(const char *sampler, const char *json, int steps)
{
    enum { N = 35 };
    const double m = 0.3, d = 0.6;
    Rig rig;
    float x[N], next[N], raw[N], want[N];
    rig_parse(&rig, sampler, json, steps);
    rig_begin(&rig, 0, N);
    const double a = schedule_a(&rig.schedule, rig.grid.t[0]), s = schedule_s(&rig.schedule, rig.grid.t[0]);
    const double b = schedule_a(&rig.schedule, rig.grid.t[steps / 2]),
                 r = schedule_s(&rig.schedule, rig.grid.t[steps / 2]);
    const double shrink = sqrt((b * b * d * d + r * r) / (a * a * d * d + s * s));
    philox_normal(5, 0, 0, (gimbal_shape){1, 1, 5, 7}, x);
    for (int i = 0; i < N; i++)
        want[i] = (float)(b * m + (x[i] - a * m) * shrink);
    for (int k = 0; k < steps / 2; k++) {
        gaussian(&rig.schedule, rig.grid.t[k], m, d, N, x, raw);
        assert_int_equal(rig.sampler->step(rig.self, k, N, x, raw, NULL, next, NULL), GIMBAL_OK);
        memcpy(x, next, sizeof x);
    }
    arena_free(&rig.keep);
    return rel_rms(x, want, N);
}

/* Twice the steps: half the error of a method of first order, a quarter of one of second. */
static void errors_fall_with_the_order_of_the_method(void **state)
{
    (void)state;
    static const char *const predictions[] = {"epsilon", "v_prediction", "sample"};
    for (int p = 0; p < 3; p++) {
        char json[512];
        snprintf(json, sizeof json, "%.*s,\"timestep_spacing\":\"trailing\",\"prediction_type\":\"%s\"}",
                 (int)strlen(plain) - 1, plain, predictions[p]);
        const double euler[] = {flow_error("euler", json, 20), flow_error("euler", json, 40)};
        const double solver[] = {flow_error("dpmpp2m", json, 20), flow_error("dpmpp2m", json, 40)};
        print_message("%s: euler %.3g %.3g, dpmpp2m %.3g %.3g\n", predictions[p], euler[0], euler[1],
                      solver[0], solver[1]);
        check(euler[0] / euler[1] > 1.6 && euler[0] / euler[1] < 2.6, "euler, %s", predictions[p]);
        check(solver[0] / solver[1] > 2.8, "dpmpp2m, %s", predictions[p]);
        check(solver[0] < euler[0] / 3, "%s: dpmpp2m %g, euler %g", predictions[p], solver[0], euler[0]);
    }
}

/* ---- every sampler ----------------------------------------------------------------------- */

/* A pass over n values, in place of the driver; x0 wanted or not. */
static void pass(Rig *rig, double eta, size_t n, float *x, bool want_x0)
{
    float *raw = malloc(sizeof(float) * n), *z = malloc(sizeof(float) * n), *x0 = malloc(sizeof(float) * n);
    float *next = malloc(sizeof(float) * n);
    rig_begin(rig, eta, n);
    for (int k = 0; k < rig->grid.n; k++) {
        toy(rig->grid.t[k], n, x, raw);
        const bool inject = rig->sampler->injects && rig->sampler->injects(rig->self, k);
        for (size_t i = 0; i < n; i++)
            z[i] = (float)sin(12.9898 * (double)(i + 1) * (k + 1));
        assert_int_equal(
            rig->sampler->step(rig->self, k, n, x, raw, inject ? z : NULL, next, want_x0 ? x0 : NULL),
            GIMBAL_OK);
        memcpy(x, next, sizeof(float) * n);
    }
    free(raw), free(z), free(x0), free(next);
}

static void every_sampler_repeats_itself_and_does_not_need_x0(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 511, 512, 513, 1155}; /* about the block of 512, and 5*7*33 */
    FOR_EACH_SAMPLER(sampler)
    {
        for (int i = 0; i < COUNT(sizes); i++) {
            const size_t n = sizes[i];
            float *x = malloc(sizeof(float) * n), *y = malloc(sizeof(float) * n),
                  *z = malloc(sizeof(float) * n);
            Rig rig;
            rig_parse(&rig, sampler.name, plain, 3);
            philox_normal(9, 0, 0, (gimbal_shape){1, 1, 1, (int)n}, x);
            memcpy(y, x, sizeof(float) * n), memcpy(z, x, sizeof(float) * n);
            pass(&rig, 0.5, n, x, true);
            pass(&rig, 0.5, n, y,
                 false); /* the second pass of one object: begin must clear what the first left */
            pass(&rig, 0.5, MIN(n, (size_t)1), z, true);
            check(!memcmp(x, y, sizeof(float) * n), "%s, %zu values", sampler.name, n);
            check(x[0] == z[0], "%s: a value depends on how many there are", sampler.name);
            free(x), free(y), free(z);
            arena_free(&rig.keep);
        }
    }
}

/* What --resume relies on: begin, put the history back, go on in the middle. */
static void every_sampler_goes_on_from_x_and_its_history(void **state)
{
    (void)state;
    enum { N = 600, STEPS = 5 };
    FOR_EACH_SAMPLER(sampler)
    {
        Rig rig;
        float x[N], next[N], raw[N], whole[N], kept[N], middle[N];
        rig_parse(&rig, sampler.name, plain, STEPS);
        assert_true(rig.sampler->history <= 1);
        for (int stop = 0; stop < STEPS; stop++) {
            philox_normal(9, 0, 0, (gimbal_shape){1, 1, 1, N}, x);
            rig_begin(&rig, 0, N);
            for (int k = 0; k < STEPS; k++) {
                if (k == stop)
                    memcpy(middle, x, sizeof x),
                        memcpy(kept, rig.history, sizeof(float) * N * rig.sampler->history);
                toy(rig.grid.t[k], N, x, raw);
                rig.sampler->step(rig.self, k, N, x, raw, NULL, next, NULL);
                memcpy(x, next, sizeof x);
            }
            memcpy(whole, x, sizeof x);
            rig_begin(&rig, 0, N);
            memcpy(x, middle, sizeof x), memcpy(rig.history, kept, sizeof(float) * N * rig.sampler->history);
            for (int k = stop; k < STEPS; k++) {
                toy(rig.grid.t[k], N, x, raw);
                rig.sampler->step(rig.self, k, N, x, raw, NULL, next, NULL);
                memcpy(x, next, sizeof x);
            }
            check(!memcmp(x, whole, sizeof x), "%s: gone on at step %d", sampler.name, stop);
        }
        arena_free(&rig.keep);
    }
}

/* A pass may start in the middle of a grid (video to video): what an earlier pass left must not count. */
static void every_sampler_starts_anywhere_without_history(void **state)
{
    (void)state;
    enum { N = 35, STEPS = 5 };
    FOR_EACH_SAMPLER(sampler)
    {
        Rig rig;
        float x[N], raw[N], first[N], again[N];
        rig_parse(&rig, sampler.name, plain, STEPS);
        philox_normal(9, 0, 0, (gimbal_shape){1, 1, 5, 7}, x);
        toy(rig.grid.t[2], N, x, raw);
        rig_begin(&rig, 0, N);
        rig.sampler->step(rig.self, 2, N, x, raw, NULL, first, NULL);
        rig.sampler->step(rig.self, 3, N, first, raw, NULL, again, NULL);
        rig_begin(&rig, 0, N);
        rig.sampler->step(rig.self, 2, N, x, raw, NULL, again, NULL);
        check(!memcmp(first, again, sizeof first), "%s", sampler.name);
        const double u = grid_next(&rig.grid, 2), a = schedule_a(&rig.schedule, rig.grid.t[2]),
                     s = schedule_s(&rig.schedule, rig.grid.t[2]);
        const bool noisy = rig.sampler->injects && rig.sampler->injects(rig.self, 2);
        for (int i = 0; i < N && !noisy; i++) /* of first order all that add no noise are one formula */
            check_near(first[i],
                       schedule_a(&rig.schedule, u) * (x[i] - s * raw[i]) / a +
                           schedule_s(&rig.schedule, u) * raw[i],
                       1e-6, "%s: value %d", sampler.name, i);
        arena_free(&rig.keep);
    }
}

static void every_grid_descends_inside_the_schedule(void **state)
{
    (void)state;
    static const char *const spacings[] = {"leading", "linspace", "trailing"};
    static const int steps[] = {1, 2, 3, 7, 16, 48, 61, 100, 333, 998};
    FOR_EACH_SAMPLER(sampler)
    {
        for (int i = 0; i < 3 * COUNT(steps); i++) {
            char json[512];
            Rig rig;
            snprintf(json, sizeof json, "%.*s,\"timestep_spacing\":\"%s\"}", (int)strlen(plain) - 1, plain,
                     spacings[i % 3]);
            rig_parse(&rig, sampler.name, json, steps[i / 3]);
            const Grid *g = &rig.grid;
            assert_int_equal(g->n, steps[i / 3]);
            check(g->start > 0 && g->start <= 1, "%s: start %g", sampler.name, g->start);
            for (int k = 0; k < g->n; k++)
                check(g->t[k] >= 0 && g->t[k] <= 999 && (k == 0 || g->t[k] < g->t[k - 1]) &&
                          grid_next(g, k) < g->t[k],
                      "%s, %s, %d steps: t[%d] = %g", sampler.name, spacings[i % 3], g->n, k, g->t[k]);
            check(grid_next(g, g->n - 1) <= 0 || sampler_is(&rig, "ddim"), "%s ends at %g", sampler.name,
                  grid_next(g, g->n - 1));
            arena_free(&rig.keep);
        }
        Rig rig;
        gimbal_error err = {0};
        rig_parse(&rig, sampler.name, plain, 3);
        Grid grid;
        check_fails(sampler_grid(rig.sampler, &grid, &rig.schedule, 0, &rig.keep, &err), GIMBAL_EUSAGE, err,
                    "1..1000");
        check_fails(sampler_grid(rig.sampler, &grid, &rig.schedule, 1001, &rig.keep, &err), GIMBAL_EUSAGE,
                    err, "1..1000");
        check_fails(sampler_grid(rig.sampler, &grid, &rig.schedule, 1000, &rig.keep, &err), GIMBAL_EUSAGE,
                    err, "1000");
        arena_free(&rig.keep);
    }
}

/* diffusers' own numbers: squaredcos with the threshold that its documents advise. */
static void dpmpp2m_leaves_out_timesteps_noisier_than_lambda_min(void **state)
{
    (void)state;
    static const struct {
        const char *spacing;
        double first, second, last, sigma;
    } cases[] = {{"linspace", 995, 945, 50, 160.41366577148438},
                 {"leading", 941, 894, 48, 11.033004760742188},
                 {"trailing", 995, 945, 45, 160.41366577148438}};
    for (int i = 0; i < COUNT(cases); i++) {
        char json[512];
        Rig rig;
        snprintf(json, sizeof json,
                 "{\"_class_name\":\"DPMSolverMultistepScheduler\",\"beta_schedule\":\"squaredcos_cap_v2\","
                 "\"lambda_min_clipped\":-5.1,\"steps_offset\":1,\"timestep_spacing\":\"%s\"}",
                 cases[i].spacing);
        rig_parse(&rig, "dpmpp2m", json, 20);
        check(rig.grid.t[0] == cases[i].first && rig.grid.t[1] == cases[i].second &&
                  rig.grid.t[19] == cases[i].last,
              "%s: %g, %g, ... %g", cases[i].spacing, rig.grid.t[0], rig.grid.t[1], rig.grid.t[19]);
        check_near(schedule_sigma(&rig.schedule, rig.grid.t[0]), cases[i].sigma, 2e-3 * cases[i].sigma, "%s",
                   cases[i].spacing);
        arena_free(&rig.keep);
    }
}

/* ---- FreeInit with every sampler --------------------------------------------------------- */

/* The exact denoiser of clips N(0, 1), which notes the variance of what each pass starts from. */
typedef struct {
    const Schedule *schedule;
    int calls, steps;
    double start[2];
} Exact;

static int exact(void *self, const float *x, gimbal_shape shape, double t, double cfg, float *raw,
                 gimbal_error *err)
{
    (void)cfg, (void)err;
    Exact *net = self;
    const size_t n = shape_count(shape);
    gaussian(net->schedule, t, 0, 1, n, x, raw);
    if (net->calls % net->steps == 0)
        for (size_t i = 0; i < n; i++)
            net->start[net->calls / net->steps] += (double)x[i] * x[i] / (double)n;
    net->calls++;
    return GIMBAL_OK;
}

static void freeinit_keeps_the_variance_of_every_sampler_s_start(void **state)
{
    (void)state;
    static const char *const spacings[] = {"leading", "linspace", "trailing"};
    enum { STEPS = 20 };
    const gimbal_shape shape = {4, 9, 14, 18};
    const size_t n = shape_count(shape);
    float *x = malloc(n * sizeof *x);
    FOR_EACH_SAMPLER(sampler)
    {
        for (int i = 0; i < 3; i++) {
            char json[512];
            gimbal_error err = {0};
            Rig rig;
            WhiteNoise white;
            snprintf(json, sizeof json, "%.*s,\"timestep_spacing\":\"%s\"}", (int)strlen(plain) - 1, plain,
                     spacings[i]);
            rig_parse(&rig, sampler.name, json, STEPS);
            check_ok(white_init(&white, "philox", 3, &err), err);
            Exact net = {.schedule = &rig.schedule, .steps = STEPS};
            Driver d = {.schedule = &rig.schedule,
                        .sampler = rig.sampler,
                        .sampler_self = rig.self,
                        .noise = white_source(&white),
                        .steps = STEPS,
                        .shape = shape,
                        .net = {exact, &net}};
            check_ok(reinit_parse("freeinit:passes=2", &d.reinit, &d.reinit_self, &rig.keep, &err), err);
            check_ok(driver_run(&d, x, &err), err);
            driver_end(&d);
            assert_int_equal(net.calls, 2 * STEPS);
            double end = 0;
            for (size_t k = 0; k < n; k++)
                end += (double)x[k] * x[k] / (double)n;
            /* 9072 values: three standard errors are 0.045 */
            check_near(net.start[0], rig.grid.start * rig.grid.start, 0.05, "%s, %s: pass 1 starts",
                       sampler.name, spacings[i]);
            check_near(net.start[1], 1, 0.05, "%s, %s: pass 2 starts", sampler.name, spacings[i]);
            check_near(end, 1, 0.25, "%s, %s: the clip", sampler.name, spacings[i]);
            arena_free(&rig.keep);
        }
    }
    free(x);
}

static void every_sampler_refuses_an_impossible_eta(void **state)
{
    (void)state;
    const double bad[] = {-0.1, 1.5, NAN, INFINITY};
    FOR_EACH_SAMPLER(sampler)
    {
        Rig rig;
        gimbal_error err = {0};
        rig_parse(&rig, sampler.name, plain, 3);
        for (int i = 0; i < COUNT(bad); i++)
            check_fails(rig.sampler->begin(rig.self, &rig.schedule, &rig.grid, bad[i], NULL, &err),
                        GIMBAL_EUSAGE, err, "eta");
        arena_free(&rig.keep);
    }
}

static void wrong_sampler_names_get_the_nearest_one(void **state)
{
    (void)state;
    const Sampler *sampler;
    void *self;
    Arena keep = {0};
    gimbal_error err = {0};
    check_fails(sampler_parse("dim", &sampler, &self, &keep, &err), GIMBAL_EUSAGE, err, "did you mean ddim");
    check_fails(sampler_parse("plms", &sampler, &self, &keep, &err), GIMBAL_EUSAGE, err, "known: ddim");
    check_fails(sampler_parse("ddim:eta=1", &sampler, &self, &keep, &err), GIMBAL_EUSAGE, err, "eta");
    arena_free(&keep);
}

TESTS(trajectories_are_those_of_diffusers, trajectories_of_ddpm_are_those_of_diffusers,
      ddpm_keeps_the_noise_at_its_level_and_ends_clean, ddim_on_gaussian_clips_is_a_product_of_scales,
      ddim_with_eta_keeps_the_noise_at_its_level,
      ddim_serves_zero_terminal_snr_exactly_where_the_formulas_hold, errors_fall_with_the_order_of_the_method,
      every_sampler_goes_on_from_x_and_its_history, every_sampler_starts_anywhere_without_history,
      every_grid_descends_inside_the_schedule, dpmpp2m_leaves_out_timesteps_noisier_than_lambda_min,
      freeinit_keeps_the_variance_of_every_sampler_s_start, every_sampler_repeats_itself_and_does_not_need_x0,
      every_sampler_refuses_an_impossible_eta, wrong_sampler_names_get_the_nearest_one)
