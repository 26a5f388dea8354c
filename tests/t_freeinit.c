/* t_freeinit.c: re-initialisers, through the public functions and the plug-in's own: the plan of passes,
 * FreeInit as published against diffusers' numbers (tests/golden/filters.safetensors), FreeInit corrected
 * against its own oracle (unit gain at DC, variance 1, a float64 transform by definition), and what every
 * re-initialiser must be. */
#include "diffusion/diffusion.h"
#include "tests/check.h"

#include <complex.h>

#define FILTERS "tests/golden/filters.safetensors"
#define FOR_EACH_REINIT(plugin)                                                                              \
    gimbal_plugin plugin;                                                                                    \
    for (int i_ = 0; gimbal_plugin_at("reinit", i_, &plugin) == GIMBAL_OK; i_++)

static const char *const filters[] = {"butterworth", "gaussian", "ideal", "box"};

/* One pass's surroundings: SD's linear schedule, a grid, a parsed re-initialiser. */
typedef struct {
    Arena keep;
    Schedule schedule;
    Grid grid;
    const Reinit *reinit;
    void *self;
} Rig;

static void rig_open(Rig *rig, const char *spec, int steps)
{
    static const char config[] =
        "{\"_class_name\":\"DDIMScheduler\",\"beta_start\":0.00085,\"beta_end\":0.012,"
        "\"steps_offset\":1,\"clip_sample\":false}";
    gimbal_error err = {0};
    const char *note;
    json_t *json = json_loads(config, 0, NULL);
    *rig = (Rig){0};
    check_ok(schedule_read(&rig->schedule, json, "x.json", NULL, NULL, false, &rig->keep, &note, &err), err);
    check_ok(grid_make(&rig->grid, &rig->schedule, steps, &rig->keep, &err), err);
    check_ok(reinit_parse(spec, &rig->reinit, &rig->self, &rig->keep, &err), err);
    json_decref(json);
}

static float *white(uint64_t seed, uint32_t stream, gimbal_shape s)
{
    float *x = malloc(sizeof(float) * shape_count(s));
    philox_normal(seed, stream, 0, s, x);
    return x;
}

/* A Source that hands out one array and remembers what it was asked. */
typedef struct {
    const float *data;
    DrawReq asked;
    int calls;
} Given;

static int draw_given(void *self, const DrawReq *req, float *out)
{
    Given *given = self;
    given->asked = *req, given->calls++;
    memcpy(out, given->data, sizeof(float) * shape_count(req->shape));
    return GIMBAL_OK;
}

static float *start(Rig *rig, int pass, gimbal_shape s, const float *eps0, const float *x0, Given *fresh)
{
    gimbal_error err = {0};
    float *x = malloc(sizeof(float) * shape_count(s));
    const ReinitIn in = {.schedule = &rig->schedule,
                         .t = rig->grid.t[0],
                         .pass = pass,
                         .shape = s,
                         .eps0 = eps0,
                         .x0 = x0,
                         .x = x0,
                         .x_t = -1,
                         .noise = {draw_given, fresh}};
    check_ok(rig->reinit->start(rig->self, &in, x, &err), err);
    return x;
}

/* ---- the plan ---------------------------------------------------------------------------- */

static void check_plan(const char *spec, int steps, const int *want, int n)
{
    Arena keep = {0};
    gimbal_error err = {0};
    const Reinit *reinit;
    void *self;
    Pass plan[MAX_PASSES];
    check_ok(reinit_parse(spec, &reinit, &self, &keep, &err), err);
    assert_int_equal(reinit->plan(self, steps, plan, MAX_PASSES), n);
    for (int i = 0; i < n; i++)
        check(plan[i].steps == want[i], "%s, %d steps: pass %d makes %d, expected %d", spec, steps, i,
              plan[i].steps, want[i]);
    assert_int_equal(reinit->plan(self, steps, plan, n - 1), GIMBAL_EUSAGE);
    arena_free(&keep);
}

static void passes_make_the_steps_that_diffusers_makes(void **state)
{
    (void)state;
    check_plan("none", 7, (const int[]){7}, 1);
    check_plan("freeinit", 25, (const int[]){25, 25, 25}, 3);
    check_plan("freeinit:passes=1", 2, (const int[]){2}, 1);
    check_plan("freeinit:fast=1", 10, (const int[]){3, 6, 10}, 3);
    check_plan("freeinit:fast=1,passes=5", 2, (const int[]){1, 1, 1, 1, 2}, 5);
    check_plan("freeinit:fast=1,passes=3,compat=1", 20, (const int[]){6, 13, 20}, 3);
    check_plan("freeinit:fast=1,passes=7", 25, (const int[]){3, 7, 10, 14, 17, 21, 25}, 7);
}

/* early and early-cfg are of every pass but the last. */
static void early_passes_are_short_and_guided_as_asked(void **state)
{
    (void)state;
    static const struct {
        const char *spec;
        int run[3];
        double cfg[3];
    } cases[] = {{"freeinit", {0, 0, 0}, {0, 0, 0}},
                 {"freeinit:early=8", {8, 8, 0}, {0, 0, 0}},
                 {"freeinit:early=8,early-cfg=1", {8, 8, 0}, {1, 1, 0}},
                 {"freeinit:early-cfg=2.5,fast=1", {0, 0, 0}, {2.5, 2.5, 0}},
                 {"freeinit:early=8,fast=1", {6, 8, 0}, {0, 0, 0}}};
    for (int i = 0; i < COUNT(cases); i++) {
        Rig rig;
        Pass plan[MAX_PASSES];
        rig_open(&rig, cases[i].spec, 20);
        assert_int_equal(rig.reinit->plan(rig.self, 20, plan, MAX_PASSES), 3);
        for (int p = 0; p < 3; p++)
            check(plan[p].run == cases[i].run[p] && plan[p].cfg == cases[i].cfg[p],
                  "%s, pass %d: %d steps, guidance %g", cases[i].spec, p, plan[p].run, plan[p].cfg);
        arena_free(&rig.keep);
    }
}

static void wrong_specs_are_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"freeinit:passes=-1", "1 to 64"},
        {"freeinit:passes=0", "1 to 64"},
        {"freeinit:passes=65", "1 to 64"},
        {"freeinit:passes=2.5", "passes"},
        {"freeinit:pases=3", "passes"},
        {"freeinit:filter=gausian", "gaussian"},
        {"freeinit:ds=-0.1", "0 to 2"},
        {"freeinit:dt=2.1", "0 to 2"},
        {"freeinit:dt=nan", "dt"},
        {"freeinit:order=0", "1 to 64"},
        {"freeinit:compat=maybe", "compat"},
        {"freeinit:early=-1", "0 to 10000"},
        {"freeinit:early=some", "early"},
        {"freeinit:early-cfg=-1", "early-cfg"},
        {"freeinit:early_cfg=1", "did you mean 'early-cfg'"},
        {"freeinit:passes=2,passes=3", "passes"},
        {"freinit", "freeinit"},
        {"framing", "known: none, freeinit"},
        {"", "known: none"},
        {"none:passes=2", "passes"},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        Arena keep = {0};
        gimbal_error err = {0};
        const Reinit *reinit;
        void *self;
        check_fails(reinit_parse(cases[i][0], &reinit, &self, &keep, &err), GIMBAL_EUSAGE, err, cases[i][1]);
        arena_free(&keep);
    }
}

/* ---- as published ------------------------------------------------------------------------ */

/* FILTERS holds masks with DC in the middle (the shifted grid of the reference). */
static size_t shifted(int f, int y, int x, int F, int h, int w)
{
    return ((size_t)((f + F / 2) % F) * h + (size_t)((y + h / 2) % h)) * w + (size_t)((x + w / 2) % w);
}

static void compat_masks_and_mixes_are_those_of_diffusers(void **state)
{
    (void)state;
    static const int sizes[][3] = {{16, 8, 8}, {5, 7, 9}, {9, 6, 10}, {1, 4, 4}};
    for (int i = 0; i < COUNT(sizes) * 4; i++) {
        const int F = sizes[i / 4][0], h = sizes[i / 4][1], w = sizes[i / 4][2];
        const gimbal_shape s = {4, F, h, w};
        const char *kind = filters[i % 4];
        char spec[96], key[96];
        size_t n;
        gimbal_error err = {0};
        float *mask = malloc(sizeof(float) * F * h * w), *out = malloc(sizeof(float) * shape_count(s));
        snprintf(spec, sizeof spec, "freeinit:compat=1,filter=%s", kind);
        check_ok(gimbal_mask(spec, s, mask, &err), err);
        const char *order = i % 4 ? "" : "4";
        snprintf(key, sizeof key, "%dx%dx%d.%s%s.ds0.25.dt0.25.mask", F, h, w, kind, order);
        float *want = golden(FILTERS, key, &n);
        for (int f = 0; f < F; f++)
            for (int y = 0; y < h; y++)
                for (int x = 0; x < w; x++)
                    check_near(mask[((size_t)f * h + y) * w + x], want[shifted(f, y, x, F, h, w)], 1e-6,
                               "%s at %d,%d,%d", key, f, y, x);
        free(want);

        snprintf(key, sizeof key, "%dx%dx%d.x", F, h, w);
        float *low = golden(FILTERS, key, &n);
        snprintf(key, sizeof key, "%dx%dx%d.noise", F, h, w);
        float *high = golden(FILTERS, key, &n);
        snprintf(key, sizeof key, "%dx%dx%d.%s%s.ds0.25.dt0.25.mixed", F, h, w, kind, order);
        want = golden(FILTERS, key, &n);
        check_ok(gimbal_mix(low, high, mask, 0, s, out, &err), err);
        for (size_t k = 0; k < n; k++)
            check_near(out[k], want[k], 2e-6, "%s[%zu]", key, k);
        free(mask), free(out), free(low), free(high), free(want);
    }
}

/* out = F^-1( F(low) m + F(high) g ), g by `power`, from the public functions: what `start` must come to. */
static float *mixed(const char *spec, gimbal_shape s, const float *low, const float *high, int power)
{
    gimbal_error err = {0};
    float *mask = malloc(sizeof(float) * s.f * s.h * s.w), *out = malloc(sizeof(float) * shape_count(s));
    check_ok(gimbal_mask(spec, s, mask, &err), err);
    check_ok(gimbal_mix(low, high, mask, power, s, out, &err), err);
    free(mask);
    return out;
}

static float *renoised(double alpha_bar, gimbal_shape s, const float *x0, const float *eps0)
{
    float *z = malloc(sizeof(float) * shape_count(s));
    for (size_t i = 0; i < shape_count(s); i++)
        z[i] = (float)(sqrt(alpha_bar) * x0[i] + sqrt(1 - alpha_bar) * eps0[i]);
    return z;
}

static void a_pass_starts_from_the_last_clip_noised_with_the_first_noise(void **state)
{
    (void)state;
    const gimbal_shape s = {3, 5, 7, 9};
    const size_t n = shape_count(s);
    float *eps0 = white(1, 0, s), *x0 = white(1, 1, s), *fresh = white(1, 2, s);
    for (int compat = 0; compat < 2; compat++)
        for (int k = 0; k < 4; k++) {
            char spec[96];
            Rig rig;
            snprintf(spec, sizeof spec, "freeinit:filter=%s,ds=0.4,dt=0.6,compat=%d", filters[k], compat);
            rig_open(&rig, spec, 4);
            Given given = {.data = fresh};
            /* 4 steps, leading, offset 1: the grid starts at 751; compat re-noises to 999 all the same */
            float *low = renoised(rig.schedule.alpha_bar[compat ? 999 : 751], s, x0, eps0);
            float *want = mixed(spec, s, low, fresh, !compat), *x = start(&rig, 2, s, eps0, x0, &given);
            check(rel_rms(x, want, n) < 1e-6, "%s: %g off", spec, rel_rms(x, want, n));
            assert_int_equal(given.calls, 1);
            assert_int_equal(given.asked.why, DRAW_FRESH);
            assert_int_equal(given.asked.pass, 2);
            assert_int_equal(given.asked.lane, 0);
            assert_memory_equal(&given.asked.shape, &s, sizeof s);
            free(low), free(want), free(x);
            arena_free(&rig.keep);
        }
    free(eps0), free(x0), free(fresh);
}

static void compat_is_refused_with_samplers_that_it_breaks(void **state)
{
    (void)state;
    Rig rig;
    rig_open(&rig, "freeinit:compat=1", 2);
    assert_null(rig.reinit->refuses(rig.self, "ddim", false));
    assert_non_null(strstr(rig.reinit->refuses(rig.self, "euler", false), "ddim only"));
    assert_non_null(strstr(rig.reinit->refuses(rig.self, "ddim", true), "strength again"));
    arena_free(&rig.keep);
    rig_open(&rig, "freeinit", 2);
    assert_null(rig.reinit->refuses(rig.self, "euler", false));
    assert_null(rig.reinit->refuses(rig.self, "ddim", true));
    arena_free(&rig.keep);
}

/* ---- corrected --------------------------------------------------------------------------- */

static void the_clips_mean_passes_whole_at_every_size_to_33(void **state)
{
    (void)state;
    float mask[33 * 33];
    for (int k = 0; k < 4; k++)
        for (int size = 1; size <= 33; size++)
            for (int axis = 0; axis < 3; axis++) {
                char spec[64];
                gimbal_error err = {0};
                const gimbal_shape s = {1, axis == 0 ? size : 1, axis == 1 ? size : 2, axis == 2 ? size : 3};
                snprintf(spec, sizeof spec, "freeinit:filter=%s", filters[k]);
                check_ok(gimbal_mask(spec, s, mask, &err), err);
                check(mask[0] == 1.0f, "%s, axis %d, size %d: gain %.9g at DC", spec, axis, size, mask[0]);
            }
}

static void mixing_keeps_noise_at_variance_1_over_64_draws(void **state)
{
    (void)state;
    const gimbal_shape s = {4, 15, 32, 29};
    const size_t n = shape_count(s);
    for (int k = 0; k < 4; k++) {
        char spec[64];
        double square = 0;
        Rig rig;
        snprintf(spec, sizeof spec, "freeinit:filter=%s", filters[k]);
        rig_open(&rig, spec, 25);
        for (int i = 0; i < 64; i++) {
            float *eps0 = white(100, 3 * (uint32_t)i, s), *x0 = white(100, 3 * (uint32_t)i + 1, s);
            float *fresh = white(100, 3 * (uint32_t)i + 2, s);
            Given given = {.data = fresh};
            float *x = start(&rig, 1, s, eps0, x0, &given);
            for (size_t j = 0; j < n; j++)
                square += (double)x[j] * x[j] / n / 64;
            free(eps0), free(x0), free(fresh), free(x);
        }
        check_near(square, 1.0, 1e-3, "%s: variance", spec);
        arena_free(&rig.keep);
    }
}

static void nothing_imaginary_is_discarded(void **state)
{
    (void)state;
    static const int sizes[][3] = {{5, 7, 9}, {16, 8, 8}, {1, 1, 1}, {2, 33, 4}, {3, 1, 5}};
    for (int i = 0; i < COUNT(sizes) * 4; i++) {
        const gimbal_shape s = {2, sizes[i / 4][0], sizes[i / 4][1], sizes[i / 4][2]};
        char spec[64];
        gimbal_error err = {0};
        double imag;
        float *low = white(2, 0, s), *high = white(2, 1, s), *out = malloc(sizeof(float) * shape_count(s));
        float *mask = malloc(sizeof(float) * s.f * s.h * s.w);
        snprintf(spec, sizeof spec, "freeinit:filter=%s,ds=0.5,dt=0.3", filters[i % 4]);
        check_ok(gimbal_mask(spec, s, mask, &err), err);
        check_ok(spectral_mix(low, high, mask, true, s, out, &imag, &err), err);
        check(imag < 2e-6, "%s on %dx%dx%d: %g imaginary", spec, s.f, s.h, s.w, imag);
        free(low), free(high), free(out), free(mask);
    }
}

/* One bin of the transform of x [5,7,9], by definition, in float64. */
static double complex bin(const float *x, int a, int b, int c)
{
    double complex sum = 0;
    for (int f = 0; f < 5; f++)
        for (int y = 0; y < 7; y++)
            for (int z = 0; z < 9; z++)
                sum +=
                    x[(f * 7 + y) * 9 + z] * cexp(-2 * M_PI * I * (a * f / 5.0 + b * y / 7.0 + c * z / 9.0));
    return sum;
}

/* The whole of a corrected start: masks from the formula, transforms from the definition, nothing shared
 * with src. */
static void a_start_is_the_sum_over_frequencies_in_float64(void **state)
{
    (void)state;
    enum { F = 5, H = 7, W = 9, N = F * H * W };
    const gimbal_shape s = {1, F, H, W};
    const double ds = 0.5, dt = 0.4;
    float *eps0 = white(3, 0, s), *x0 = white(3, 1, s), *fresh = white(3, 2, s);
    for (int k = 0; k < 2; k++) {
        char spec[96];
        Rig rig;
        Given given = {.data = fresh};
        snprintf(spec, sizeof spec, "freeinit:filter=%s,ds=%g,dt=%g,order=3", filters[k], ds, dt);
        rig_open(&rig, spec, 25);
        float *low = renoised(rig.schedule.alpha_bar[961], s, x0, eps0),
              *x = start(&rig, 1, s, eps0, x0, &given);
        static double complex spectrum_[N];
        for (int i = 0; i < N; i++) {
            const int a = i / (H * W), b = i / W % H, c = i % W;
            const double ft = MIN(a, F - a) / (F / 2.0), fy = MIN(b, H - b) / (H / 2.0),
                         fx = MIN(c, W - c) / (W / 2.0);
            const double d2 = pow(ds / dt * ft, 2) + fy * fy + fx * fx;
            const double m = k ? exp(-d2 / (2 * ds * ds)) : 1 / (1 + pow(d2 / (ds * ds), 3));
            spectrum_[i] = m * bin(low, a, b, c) + sqrt(1 - m * m) * bin(fresh, a, b, c);
        }
        for (int i = 0; i < N; i++) {
            double complex sum = 0;
            for (int j = 0; j < N; j++)
                sum += spectrum_[j] *
                       cexp(2 * M_PI * I *
                            ((double)(j / (H * W)) * (i / (H * W)) / F +
                             (double)(j / W % H) * (i / W % H) / H + (double)(j % W) * (i % W) / W)) /
                       N;
            check_near(x[i], creal(sum), 3e-6, "%s, value %d", spec, i);
            check_near(cimag(sum), 0, 1e-12, "%s, value %d, imaginary", spec, i);
        }
        free(low), free(x);
        arena_free(&rig.keep);
    }
    free(eps0), free(x0), free(fresh);
}

static void the_low_band_comes_from_the_clip_and_the_high_band_from_fresh_noise(void **state)
{
    (void)state;
    const gimbal_shape s = {1, 7, 6, 11};
    const size_t n = shape_count(s);
    float *eps0 = white(4, 0, s), *x0 = white(4, 1, s), *fresh = white(4, 2, s), *other = white(4, 3, s);
    Rig rig;
    Given given = {.data = fresh}, another = {.data = other};
    rig_open(&rig, "freeinit:filter=ideal", 25);
    for (size_t i = 0; i < n; i++)
        x0[i] += 40.0f; /* a clip of another brightness: DC alone */
    float *x = start(&rig, 1, s, eps0, x0, &given), *y = start(&rig, 1, s, eps0, x0, &another);
    double a = 0, b = 0, clip = 0;
    for (size_t i = 0; i < n; i++) {
        a += x[i] / n, b += y[i] / n;
        clip += (schedule_a(&rig.schedule, 961) * x0[i] + schedule_s(&rig.schedule, 961) * eps0[i]) / n;
    }
    check_near(a, clip, 1e-5, "mean");
    check_near(b, clip, 1e-5, "mean with other fresh noise");
    check(rel_rms(y, x, n) > 0.4, "fresh noise does not show: %g", rel_rms(y, x, n));
    free(x), free(y);
    arena_free(&rig.keep);

    rig_open(&rig, "freeinit:ds=0", 25); /* nothing is kept */
    x = start(&rig, 1, s, eps0, x0, &given);
    check(rel_rms(x, fresh, n) < 1e-6, "ds=0: %g off the fresh noise", rel_rms(x, fresh, n));
    free(x), free(eps0), free(x0), free(fresh), free(other);
    arena_free(&rig.keep);
}

/* ---- every re-initialiser ---------------------------------------------------------------- */

static void every_reinit_plans_passes_and_starts_them_the_same_way_twice(void **state)
{
    (void)state;
    static const gimbal_shape shapes[] = {{4, 5, 7, 9}, {1, 1, 1, 1}, {2, 16, 3, 8}};
    FOR_EACH_REINIT(plugin)
    {
        for (int i = 0; i < COUNT(shapes); i++) {
            const gimbal_shape s = shapes[i];
            const size_t n = shape_count(s);
            Rig rig;
            Pass plan[MAX_PASSES];
            rig_open(&rig, plugin.name, 2);
            const int passes = rig.reinit->plan(rig.self, 2, plan, MAX_PASSES);
            check(passes >= 1 && passes <= MAX_PASSES, "%s: %d passes", plugin.name, passes);
            for (int p = 0; p < passes; p++)
                check(plan[p].steps >= 1 && plan[p].steps <= 2, "%s: pass %d", plugin.name, p);
            float *eps0 = white(8, 0, s), *x0 = white(8, 1, s), *fresh = white(8, 2, s);
            Given given = {.data = fresh};
            for (int p = 1; p < passes; p++) {
                float *x = start(&rig, p, s, eps0, x0, &given), *y = start(&rig, p, s, eps0, x0, &given);
                check(!memcmp(x, y, sizeof(float) * n), "%s: pass %d", plugin.name, p);
                for (size_t k = 0; k < n; k++)
                    check(isfinite(x[k]), "%s: pass %d, value %zu", plugin.name, p, k);
                free(x), free(y);
            }
            free(eps0), free(x0), free(fresh);
            arena_free(&rig.keep);
        }
    }
}

static void a_mask_or_mix_that_cannot_be_is_refused(void **state)
{
    (void)state;
    gimbal_error err = {0};
    float x[8] = {0};
    check_fails(gimbal_mask("none", (gimbal_shape){1, 1, 2, 2}, x, &err), GIMBAL_EUSAGE, err,
                "no low-pass filter");
    check_fails(gimbal_mask("freeinit", (gimbal_shape){1, -1, 2, 2}, x, &err), GIMBAL_EUSAGE, err, ">= 1");
    check_fails(gimbal_mask("freeinit:ds=3", (gimbal_shape){1, 1, 2, 2}, x, &err), GIMBAL_EUSAGE, err, "ds");
    check_fails(gimbal_mix(x, x, x, 0, (gimbal_shape){0, 1, 2, 2}, x, &err), GIMBAL_EUSAGE, err, ">= 1");
}

TESTS(passes_make_the_steps_that_diffusers_makes, early_passes_are_short_and_guided_as_asked,
      wrong_specs_are_refused, compat_masks_and_mixes_are_those_of_diffusers,
      a_pass_starts_from_the_last_clip_noised_with_the_first_noise,
      compat_is_refused_with_samplers_that_it_breaks, the_clips_mean_passes_whole_at_every_size_to_33,
      mixing_keeps_noise_at_variance_1_over_64_draws, nothing_imaginary_is_discarded,
      a_start_is_the_sum_over_frequencies_in_float64,
      the_low_band_comes_from_the_clip_and_the_high_band_from_fresh_noise,
      every_reinit_plans_passes_and_starts_them_the_same_way_twice, a_mask_or_mix_that_cannot_be_is_refused)
