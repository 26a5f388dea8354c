/* t_train_optim.c: AdamW, clipping, EMA and schedules against PyTorch and diffusers (golden/training/optim,
 * and optim_bits, which has PyTorch's own float32), and against a plain spelling of the formulas. */
#include "train/train.h" /* before cmocka.h, which makes a macro of fail */

#include "tests/check.h"

#ifdef _OPENMP
#include <omp.h>
#else
#define omp_set_num_threads(n) ((void)(n))
#endif

static const char file[] = "tests/golden/training/optim.safetensors",
                  bits_file[] = "tests/golden/training/optim_bits.safetensors";

/* A tensor's numbers in float64, as they are stored; caller frees. */
static double *doubles(const char *name, size_t *n)
{
    gimbal_error err = {0};
    SafeTensors *st;
    check_ok(st_open(&st, file, &err), err);
    const StEntry *e = st_find(st, name);
    check(e && e->type == F64, "%s is not there as F64", name);
    double *x = malloc(e->bytes + 1);
    memcpy(x, e->data, e->bytes);
    *n = e->bytes / sizeof *x;
    st_close(st);
    return x;
}

/* ---- AdamW ------------------------------------------------------------------------------- */

enum { STEPS = 6, N = 43 };
static const struct {
    const char *name;
    AdamW adamw;
    double lr;
} cases[] = {
    {"default", {0.9, 0.999, 1e-8, 0.01}, 1e-3},
    {"fast", {0.5, 0.9, 1e-4, 0.1}, 1e-2},
    {"nodecay", {0.9, 0.999, 1e-8, 0}, 3e-4},
    {"slow_mean",
     {0.3, 0.95, 1e-6, 0.02},
     2e-3}, /* in optim_bits only: m is then counted from the gradient */
};

/* Runs case i; p of all steps, m and v of the last. */
static void run(int i, float p[STEPS][N], float m[N], float v[N])
{
    size_t n;
    float *g = golden(file, "g", &n), *p0 = golden(file, "p0", &n), now[N];
    memcpy(now, p0, sizeof now);
    memset(m, 0, sizeof now), memset(v, 0, sizeof now);
    for (int s = 0; s < STEPS; s++) {
        adamw_step(&cases[i].adamw, cases[i].lr, s + 1, N, now, g + (size_t)s * N, m, v);
        memcpy(p[s], now, sizeof now);
    }
    free(g), free(p0);
}

/* rel_rms against float64. */
static double distance(const float *a, const double *b, size_t n)
{
    double d = 0, s = 0;
    for (size_t i = 0; i < n; i++)
        d += (a[i] - b[i]) * (a[i] - b[i]), s += b[i] * b[i];
    return sqrt(d / s);
}

static void adamw_agrees_with_float64(void **state)
{
    (void)state;
    static const char *const what[] = {"p", "m", "v"};
    for (int i = 0; i < 3; i++) {
        float p[STEPS][N], m[N], v[N];
        run(i, p, m, v);
        for (int k = 0; k < 3; k++) {
            char name[40];
            size_t n;
            snprintf(name, sizeof name, "adamw.%s.%s", cases[i].name, what[k]);
            double *want = doubles(name, &n);
            const double off = distance(k == 0 ? p[0] : k == 1 ? m : v, want, n);
            check(off <= 1e-6, "%s is %.2g off", name, off);
            free(want);
        }
    }
}

static void moments_have_pytorchs_bits(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT(cases); i++) {
        float p[STEPS][N], m[N], v[N];
        char name[40];
        size_t n;
        run(i, p, m, v);
        snprintf(name, sizeof name, "%s.m", cases[i].name);
        float *want_m = golden(bits_file, name, &n);
        snprintf(name, sizeof name, "%s.v", cases[i].name);
        float *want_v = golden(bits_file, name, &n);
        snprintf(name, sizeof name, "%s.p", cases[i].name);
        float *want_p = golden(bits_file, name, &n);
        int other = 0;
        for (int k = 0; k < N; k++) {
            check(m[k] == want_m[k], "%s: m[%d] is %a, PyTorch's %a", cases[i].name, k, m[k], want_m[k]);
            check(v[k] == want_v[k], "%s: v[%d] is %a, PyTorch's %a", cases[i].name, k, v[k], want_v[k]);
            other += p[STEPS - 1][k] != want_p[k];
            check_near(p[STEPS - 1][k], want_p[k], 2e-7 * fabsf(want_p[k]) + 1e-12, "p[%d]", k);
        }
        check(other <= 3, "%s: %d of %d parameters have other bits than PyTorch's", cases[i].name, other, N);
        free(want_m), free(want_v), free(want_p);
    }
}

static float *noise(size_t n, uint64_t seed)
{
    float *x = malloc(n * sizeof *x);
    philox_normal(seed, 0, 0, (gimbal_shape){1, 1, 1, (int)n}, x);
    return x;
}

/* The formulas one number at a time, through libm's fmaf. */
static void plain_adamw(const AdamW *a, double lr, int s, size_t n, float *p, const float *g, float *m,
                        float *v)
{
    const float w1 = (float)(1 - a->beta1), w2 = (float)(1 - a->beta2), b2 = (float)a->beta2;
    const float root = (float)sqrt(1 - pow(a->beta2, s)), rate = (float)(lr / (1 - pow(a->beta1, s)));
    for (size_t i = 0; i < n; i++) {
        p[i] *= (float)(1 - lr * a->decay);
        m[i] = fmaf(w1, g[i] - m[i], m[i]);
        v[i] = v[i] * b2;
        v[i] = fmaf(w2 * g[i], g[i], v[i]);
        p[i] = p[i] - (rate * m[i]) / (sqrtf(v[i]) / root + (float)a->eps);
    }
}

static void adamw_has_the_same_bits_at_any_length_and_thread_count(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 7, 8, 9, 65536, 65537, 200003};
    for (int i = 0; i < COUNT(sizes); i++)
        for (int threads = 1; threads <= 3; threads += 2) {
            const size_t n = sizes[i], room = n + 1;
            float *g = noise(room, 1), *p = noise(room, 2), *q = noise(room, 2);
            float *m = calloc(4 * room, sizeof *m), *v = m + room, *m2 = v + room, *v2 = m2 + room;
            omp_set_num_threads(threads);
            for (int s = 1; s <= 3; s++) {
                adamw_step(&cases[0].adamw, 1e-3, s, (int64_t)n, p, g, m, v);
                plain_adamw(&cases[0].adamw, 1e-3, s, n, q, g, m2, v2);
            }
            assert_memory_equal(p, q, room * sizeof *p); /* the number behind the end included */
            assert_memory_equal(m, m2, 2 * room * sizeof *m);
            free(g), free(p), free(q), free(m);
        }
}

static void a_learning_rate_of_zero_leaves_every_byte(void **state)
{
    (void)state;
    float *g = noise(1000, 1), *p = noise(1000, 2), *q = noise(1000, 2), m[1000] = {0}, v[1000] = {0};
    adamw_step(&cases[0].adamw, 0, 1, 1000, p, g, m, v);
    assert_memory_equal(p, q, 1000 * sizeof *p);
    check(m[0] != 0 && v[0] != 0, "the moments stood still");
    free(g), free(p), free(q);
}

/* ---- clipping ---------------------------------------------------------------------------- */

static void clipping_agrees_with_pytorch(void **state)
{
    (void)state;
    static const double most[] = {0.5, 1000};
    float all[30];
    size_t n, count[3], at = 0;
    for (int k = 0; k < 3; k++) {
        char name[20];
        snprintf(name, sizeof name, "clip.%d", k);
        float *x = golden(file, name, &count[k]);
        memcpy(all + at, x, count[k] * sizeof *x);
        at += count[k];
        free(x);
    }
    for (int i = 0; i < 2; i++) {
        char name[40];
        snprintf(name, sizeof name, "clip%g.norm", most[i]);
        double *norm = doubles(name, &n);
        check_near(grad_norm(all, (int64_t)at), *norm, 1e-7 * *norm, "%s", name);
        const float factor = (float)clip_factor(grad_norm(all, (int64_t)at), most[i]);
        check((i == 1) == (factor == 1), "clip%g: factor %g", most[i], factor);
        const float *x = all;
        for (int k = 0; k < 3; k++) {
            snprintf(name, sizeof name, "clip%g.%d", most[i], k);
            double *want = doubles(name, &n);
            for (size_t j = 0; j < n; j++)
                check_near(*x++ * factor, want[j], 1e-6 * fabs(want[j]), "%s[%zu]", name, j);
            free(want);
        }
        free(norm);
    }
    assert_true(clip_factor(5, 0) == 1);
}

static void norms_do_not_depend_on_threads(void **state)
{
    (void)state;
    const size_t n = 300007;
    float *g = noise(n, 5);
    double one, sum = 0;
    omp_set_num_threads(1);
    one = grad_norm(g, (int64_t)n);
    omp_set_num_threads(3);
    assert_true(one == grad_norm(g, (int64_t)n));
    for (size_t i = 0; i < n; i++)
        sum += (double)g[i] * g[i];
    check_near(one, sqrt(sum), 1e-10 * one, "norm");
    g[n - 1] = NAN;
    assert_true(isnan(grad_norm(g, (int64_t)n)));
    g[n - 1] = 0, g[0] = INFINITY;
    assert_true(isinf(grad_norm(g, (int64_t)n)));
    assert_true(grad_norm(g, 0) == 0);
    free(g);
}

/* ---- running mean ------------------------------------------------------------------------ */

static void ema_decays_agree_with_diffusers(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        Ema ema;
    } ways[] = {
        {"default", {.decay = 0.9999, .inv_gamma = 1, .power = 2.0 / 3}},
        {"short", {.decay = 0.5, .min_decay = 0.2, .inv_gamma = 1, .power = 2.0 / 3, .after = 3}},
        {"warmup", {.decay = 0.9999, .inv_gamma = 1, .power = 0.75, .warmup = true}},
        {"late", {.decay = 0.9999, .inv_gamma = 1, .power = 2.0 / 3, .after = 10, .warmup = true}},
    };
    for (int i = 0; i < COUNT(ways); i++) {
        char name[40];
        size_t n;
        snprintf(name, sizeof name, "ema_decay.%s", ways[i].name);
        double *want = doubles(name, &n);
        assert_int_equal(n, 30);
        for (size_t s = 0; s < n; s++)
            check_near(ema_decay(&ways[i].ema, (int64_t)s + 1), want[s], 1e-12, "%s, update %zu", name,
                       s + 1);
        free(want);
    }
}

static void running_means_move_by_their_share(void **state)
{
    (void)state;
    const size_t n = 70001;
    float *p = noise(n, 1), *shadow = noise(n, 2), *was = noise(n, 2);
    ema_update(0.75, (int64_t)n, shadow, p);
    for (size_t i = 0; i < n; i++)
        check_near(shadow[i], 0.75 * was[i] + 0.25 * p[i], 1e-6, "mean %zu", i);
    ema_update(0, (int64_t)n, shadow, p);
    assert_memory_equal(shadow, p, n * sizeof *p);
    free(p), free(shadow), free(was);
}

/* ---- schedules --------------------------------------------------------------------------- */

static void schedules_agree_with_diffusers(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text;
        int warmup, total;
    } ways[] = {
        {"constant", "constant", 0, 30},
        {"warmup", "constant", 5, 30},
        {"linear", "linear", 4, 25},
        {"cosine", "cosine", 4, 25},
        {"cosine_nowarm", "cosine:0.5", 0, 20},
        {"restarts", "cosine_with_restarts:3", 3, 24},
        {"polynomial", "polynomial:2", 4, 25},
        {"piecewise", "piecewise:1:10,0.1:20,0.01", 7, 30},
    };
    for (int i = 0; i < COUNT(ways); i++) {
        char name[40];
        size_t n;
        LrSchedule s;
        gimbal_error err = {0};
        snprintf(name, sizeof name, "lr.%s", ways[i].name);
        double *want = doubles(name, &n);
        assert_int_equal(n, 30);
        check_ok(lr_parse(&s, ways[i].text, ways[i].warmup, ways[i].total, 1, &err), err);
        for (size_t k = 0; k < n; k++)
            check_near(lr_factor(&s, (int64_t)k), want[k], 1e-12, "%s, %zu steps done", name, k);
        free(want);
    }
}

static void wrong_schedules_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } wrong[] = {
        {"cosin", "did you mean 'cosine'"},
        {"", "there are constant, linear"},
        {"linear:2", "nothing may follow"},
        {"constant:", "nothing may follow"},
        {"cosine:", "cycles after the colon"},
        {"cosine:half", "cycles after the colon"},
        {"polynomial:-1", "power after the colon"},
        {"polynomial:nan", "power after the colon"},
        {"piecewise", "a factor is not a number"},
        {"piecewise:", "a factor is not a number"},
        {"piecewise:1:10", "the last factor is missing"},
        {"piecewise:1:10,", "a factor is not a number"},
        {"piecewise:1,0.1", "needs a step behind it"},
        {"piecewise:1:10,0.1:10,0", "whole numbers that grow"},
        {"piecewise:1:2.5,0", "whole numbers that grow"},
        {"piecewise:-1", "a factor is not a number"},
        {"piecewise:1:1,1:2,1:3,1:4,1:5,1:6,1:7,1:8,1:9,1:10,1:11,1:12,1:13,1:14,1:15,1:16,1:17,1",
         "more than 16"},
    };
    LrSchedule s;
    gimbal_error err = {0};
    for (int i = 0; i < COUNT(wrong); i++)
        check_fails(lr_parse(&s, wrong[i].text, 0, 10, 1e-3, &err), GIMBAL_EUSAGE, err, wrong[i].says);
    check_fails(lr_parse(&s, "polynomial", 0, 10, 1e-8, &err), GIMBAL_EUSAGE, err, "ends at a learning rate");
    check_ok(lr_parse(&s, "piecewise:0.5", 0, 10, 1e-3, &err), err);
    assert_true(lr_factor(&s, 0) == 0.5 && lr_factor(&s, 1000) == 0.5);
}

static void schedules_stay_finite_where_warmup_outlasts_the_run(void **state)
{
    (void)state;
    static const char *const all[] = {"constant", "linear", "cosine", "cosine_with_restarts:2",
                                      "polynomial:1.5"};
    gimbal_error err = {0};
    for (int i = 0; i < COUNT(all); i++)
        for (int total = 1; total <= 12; total += 11)
            for (int done = 0; done < 30; done++) {
                LrSchedule s;
                check_ok(lr_parse(&s, all[i], 6, total, 1e-3, &err), err);
                const double f = lr_factor(&s, done);
                check(f >= 0 && f <= 1, "%s, %d of %d steps: %g", all[i], done, total, f);
            }
}

TESTS(adamw_agrees_with_float64, moments_have_pytorchs_bits,
      adamw_has_the_same_bits_at_any_length_and_thread_count, a_learning_rate_of_zero_leaves_every_byte,
      clipping_agrees_with_pytorch, norms_do_not_depend_on_threads, ema_decays_agree_with_diffusers,
      running_means_move_by_their_share, schedules_agree_with_diffusers, wrong_schedules_are_refused,
      schedules_stay_finite_where_warmup_outlasts_the_run)
