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
} Rig;

static void rig_open(Rig *rig, const char *sampler, const json_t *config, int steps)
{
    gimbal_error err = {0};
    const char *note;
    *rig = (Rig){0};
    check_ok(schedule_read(&rig->schedule, config, "x.json", NULL, NULL, false, &rig->keep, &note, &err),
             err);
    check_ok(grid_make(&rig->grid, &rig->schedule, steps, &rig->keep, &err), err);
    check_ok(sampler_parse(sampler, &rig->sampler, &rig->self, &rig->keep, &err), err);
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

static void toy(double t, size_t n, const float *x, float *raw)
{
    for (size_t i = 0; i < n; i++)
        raw[i] = (float)(0.8 * sin(x[i] + 0.001 * t) + 0.1 * x[i]);
}

/* One case of the manifest; the toy denoiser leads the trajectory away exponentially where a step is
 * wrong. */
static void check_case(const char *name, const json_t *one, const float *start, const float *noise)
{
    char key[96];
    size_t count;
    Rig rig;
    gimbal_error err = {0};
    const int steps = (int)json_integer_value(json_object_get(one, "steps"));
    const double eta = json_number_value(json_object_get(one, "eta"));
    rig_open(&rig, json_string_value(json_object_get(one, "sampler")), json_object_get(one, "config"), steps);
    snprintf(key, sizeof key, "%s.trajectory", name);
    float *want = golden(GOLDEN, key, &count);
    enum { N = 72 };
    assert_int_equal(count, N * (rig.grid.n + 1));

    float x[N], next[N], raw[N], x0[N];
    memcpy(x, start, sizeof x);
    check_ok(rig.sampler->begin(rig.self, &rig.schedule, &rig.grid, eta, &err), err);
    for (int k = 0; k < rig.grid.n; k++) {
        const bool inject = rig.sampler->injects(rig.self, k);
        check(inject == (eta > 0), "%s: step %d", name, k);
        toy(rig.grid.t[k], N, x, raw);
        assert_int_equal(rig.sampler->step(rig.self, k, N, x, raw, inject ? noise + k * N : NULL, next, x0),
                         GIMBAL_OK);
        memcpy(x, next, sizeof x);
        const double off = rel_rms(x, want + (k + 1) * N, N);
        check(off <= 1e-5, "%s: %g off after step %d", name, off, k + 1);
    }
    free(want);
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
        FOR_EACH_SAMPLER(sampler)
        {
            if (strcmp(sampler.name, json_string_value(json_object_get(one, "sampler"))))
                continue;
            json_object_set_new(json_object_get(one, "config"), "_class_name", json_string("DDIMScheduler"));
            check_case(name, one, start, noise);
            cases++;
        }
    }
    assert_true(cases >= 46);
    json_decref(manifest);
    free(start), free(noise);
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
            gimbal_error err = {0};
            Rig rig;
            snprintf(json, sizeof json, "%.*s,\"prediction_type\":\"%s\"}", (int)strlen(plain) - 1, plain,
                     predictions[p]);
            rig_parse(&rig, "ddim", json, steps);
            check_ok(rig.sampler->begin(rig.self, &rig.schedule, &rig.grid, 0, &err), err);
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
    gimbal_error err = {0};
    Rig rig;
    rig_parse(&rig, "ddim", plain, STEPS);
    check_ok(rig.sampler->begin(rig.self, &rig.schedule, &rig.grid, 1.0, &err), err);
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
        gimbal_error err = {0};
        Rig rig;
        snprintf(json, sizeof json, zero, "trailing", predictions[p]);
        rig_parse(&rig, "ddim", json, 4);
        check_ok(rig.sampler->begin(rig.self, &rig.schedule, &rig.grid, 1.0, &err), err);
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
    check_fails(rig.sampler->begin(rig.self, &rig.schedule, &rig.grid, 0, &err), GIMBAL_EMODEL, err,
                "zero signal");
    arena_free(&rig.keep);
    snprintf(json, sizeof json, zero, "leading", "epsilon");
    rig_parse(&rig, "ddim", json, 4);
    check_ok(rig.sampler->begin(rig.self, &rig.schedule, &rig.grid, 0, &err), err);
    arena_free(&rig.keep);
}

/* ---- every sampler ----------------------------------------------------------------------- */

/* A pass over n values, in place of the driver; x0 wanted or not. */
static void pass(Rig *rig, double eta, size_t n, float *x, bool want_x0)
{
    gimbal_error err = {0};
    float *raw = malloc(sizeof(float) * n), *z = malloc(sizeof(float) * n), *x0 = malloc(sizeof(float) * n);
    float *next = malloc(sizeof(float) * n);
    check_ok(rig->sampler->begin(rig->self, &rig->schedule, &rig->grid, eta, &err), err);
    for (int k = 0; k < rig->grid.n; k++) {
        toy(rig->grid.t[k], n, x, raw);
        const bool inject = rig->sampler->injects(rig->self, k);
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
            check_fails(rig.sampler->begin(rig.self, &rig.schedule, &rig.grid, bad[i], &err), GIMBAL_EUSAGE,
                        err, "eta");
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

TESTS(trajectories_are_those_of_diffusers, ddim_on_gaussian_clips_is_a_product_of_scales,
      ddim_with_eta_keeps_the_noise_at_its_level,
      ddim_serves_zero_terminal_snr_exactly_where_the_formulas_hold,
      every_sampler_repeats_itself_and_does_not_need_x0, every_sampler_refuses_an_impossible_eta,
      wrong_sampler_names_get_the_nearest_one)
