/* t_stats.c: distances of sets and paired comparison against closed forms, published test values and
 * simulation.
 *
 * Values marked scipy come from tests/oracle/stats.py, run by hand; the rest is arithmetic. */
#include "base/base.h"
#include "stats/stats.h"

#include "tests/check.h"

#include <limits.h>

/* n*d standard normal values; caller frees. */
static float *normals(uint64_t seed, int n, int d)
{
    float *x = malloc((size_t)n * (size_t)d * sizeof *x);
    philox_normal(seed, 7, 0, (gimbal_shape){1, n, 1, d}, x);
    return x;
}

static double frechet(const float *x, int64_t n, const float *y, int64_t m, int64_t d)
{
    gimbal_error err = {0};
    double out = NAN;
    check_ok(frechet_distance(x, n, y, m, d, &out, &err), err);
    return out;
}

/* ---- Frechet distance -------------------------------------------------------------------- */

/* 41 rows whose covariance is exactly 100 diag(v): column i has its own rows, +-10 s with 2 sum s^2 = 40 v,
 * which four whole numbers can always do. shift[i] is added to column i. */
enum { ROWS = 41, DIMENSIONS = 5 };
static const int squares[DIMENSIONS + 1][4] = {{0},          {4, 2, 0, 0}, {6, 2, 0, 0},
                                               {7, 3, 1, 1}, {8, 4, 0, 0}, {10, 0, 0, 0}};

static void exact_set(float *x, int width, const int v[DIMENSIONS], int shift)
{
    memset(x, 0, sizeof *x * ROWS * (size_t)width);
    for (int i = 0; i < DIMENSIONS; i++)
        for (int k = 0; k < 4; k++) {
            x[(8 * i + 2 * k) * width + i] = (float)(10 * squares[v[i]][k]);
            x[(8 * i + 2 * k + 1) * width + i] = (float)(-10 * squares[v[i]][k]);
        }
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < DIMENSIONS; i++)
            x[r * width + i] += (float)(shift * i);
}

static void test_frechet_has_its_closed_form(void **state)
{
    (void)state;
    static const int up[] = {1, 2, 3, 4, 5}, down[] = {5, 4, 3, 2, 1};
    static float x[ROWS * 64], y[ROWS * 64];
    double want = 0.01 * (0 + 1 + 4 + 9 + 16);
    for (int i = 0; i < DIMENSIONS; i++)
        want += pow(sqrt(up[i]) - sqrt(down[i]), 2);
    check_near(want, 4.042019591016081, 1e-14, "the closed form itself");
    static const int widths[] = {5, 40, 41, 64}; /* with QR, just with, just without, rank-deficient */
    for (int k = 0; k < 4; k++) {
        exact_set(x, widths[k], up, 0);
        exact_set(y, widths[k], down, 1);
        check_near(frechet(x, ROWS, y, ROWS, widths[k]) / 100, want, 1e-12, "%d wide", widths[k]);
        check_near(frechet(y, ROWS, x, ROWS, widths[k]) / 100, want, 1e-12, "%d wide, turned round",
                   widths[k]);
    }
}

static void test_frechet_of_a_set_with_itself_is_zero(void **state)
{
    (void)state;
    static const int sizes[][2] = {{100, 400}, {300, 40}, {2, 3}, {41, 40}};
    for (int k = 0; k < COUNT(sizes); k++) {
        float *x = normals(11, sizes[k][0], sizes[k][1]);
        check_near(frechet(x, sizes[k][0], x, sizes[k][0], sizes[k][1]), 0, 1e-10, "%d x %d", sizes[k][0],
                   sizes[k][1]);
        free(x);
    }
}

/* Far from 0 the mean must not eat the digits of the variance. */
static void test_frechet_does_not_mind_where_the_sets_lie(void **state)
{
    (void)state;
    enum { N = 60, D = 8 };
    float *x = normals(3, N, D), *y = normals(4, N, D), far_x[N * D], far_y[N * D];
    for (int i = 0; i < N * D; i++) {
        x[i] = rintf(1024 * x[i]) / 1024, y[i] = rintf(1024 * y[i]) / 1024; /* so that adding 4096 is exact */
        far_x[i] = x[i] + 4096, far_y[i] = y[i] + 4096;
    }
    check_near(frechet(far_x, N, far_y, N, D), frechet(x, N, y, N, D), 1e-10, "moved by 4096");
    check_near(frechet(x, N, far_x, N, D), D * 4096.0 * 4096.0, 1e-6, "moved alone");
    free(x);
    free(y);
}

static void test_distances_of_sets_of_different_size(void **state)
{
    (void)state;
    enum { N = 50, M = 10, D = 20 };
    float *x = normals(5, N, D), *y = normals(6, M, D);
    double there, back;
    gimbal_error err = {0};
    check_near(frechet(x, N, y, M, D), frechet(y, M, x, N, D), 1e-10, "one with QR, one without");
    check_ok(kernel_distance(x, N, y, M, D, &there, &err), err);
    check_ok(kernel_distance(y, M, x, N, D, &back, &err), err);
    check_near(there, back, 1e-12, "kernel distance, turned round");
    free(x);
    free(y);
}

static void test_what_is_no_set_is_refused(void **state)
{
    (void)state;
    float x[6] = {1, 2, 3, 4, 5, 6}, bad[6] = {1, 2, 3, 4, NAN, 6};
    double out;
    gimbal_error err = {0};
    check_fails(frechet_distance(x, 2, bad, 2, 3, &out, &err), GIMBAL_EUSAGE, err,
                "second set holds nan at row 1, column 1");
    bad[4] = -INFINITY;
    check_fails(kernel_distance(bad, 3, x, 3, 2, &out, &err), GIMBAL_EUSAGE, err,
                "first set holds -inf at row 2, column 0");
    check_fails(inception_score(bad, 3, 2, &out, &err), GIMBAL_EUSAGE, err, "row 2, column 0");
    check_fails(frechet_distance(x, 1, x, 2, 3, &out, &err), GIMBAL_EUSAGE, err, "1 samples");
    check_fails(kernel_distance(x, 2, x, 1, 3, &out, &err), GIMBAL_EUSAGE, err, "1 samples");
    check_fails(inception_score(x, 1, 3, &out, &err), GIMBAL_EUSAGE, err, "1 samples");
    check_fails(frechet_distance(x, 2, x, 2, 0, &out, &err), GIMBAL_EUSAGE, err, "[2,0]");
    check_fails(frechet_distance(x, -5, x, 2, 3, &out, &err), GIMBAL_EUSAGE, err, "-5 samples");
    check_fails(frechet_distance(x, INT64_MAX, x, 2, 2, &out, &err), GIMBAL_EUSAGE, err, "expected 1 to");
    check_fails(kernel_distance(x, 2, x, 2, INT64_MAX, &out, &err), GIMBAL_EUSAGE, err, "expected 1 to");
}

/* ---- kernel distance, inception score ---------------------------------------------------- */

static double kvd(const float *x, int64_t n, const float *y, int64_t m, int64_t d)
{
    gimbal_error err = {0};
    double out = NAN;
    check_ok(kernel_distance(x, n, y, m, d, &out, &err), err);
    return out;
}

static void test_kernel_distance_by_hand(void **state)
{
    (void)state;
    /* k(0,1) = 1; k(2,3) = 7^3 = 343; k(0,.) = 1 twice, k(1,2) = 27, k(1,3) = 64: 1 + 343 - 2 * 93/4 */
    static const float x[] = {0, 1}, y[] = {2, 3};
    check_near(kvd(x, 2, y, 2, 1), 297.5, 1e-12, "two numbers against two");
}

/* E k(x,x') of N(m,I_d) is 1 + 3 (|m|^2/d) + ... ; the values of metrics.md's closed form: 0 and 0.2958 at m
 * = .3. */
static void test_kernel_distance_of_normal_sets(void **state)
{
    (void)state;
    enum { N = 64, D = 400, TRIALS = 30 };
    double sum = 0, shifted = 0;
    for (int t = 0; t < TRIALS; t++) {
        float *x = normals(100 + (uint64_t)t, N, D), *y = normals(500 + (uint64_t)t, N, D);
        sum += kvd(x, N, y, N, D) / TRIALS;
        for (int i = 0; i < N * D; i++)
            y[i] += 0.3f;
        shifted += kvd(x, N, y, N, D) / TRIALS;
        free(x);
        free(y);
    }
    check_near(sum, 0, 0.005, "the same distribution, mean of %d", TRIALS);
    check_near(shifted, 0.2958, 0.008, "moved by .3, mean of %d", TRIALS);
}

static double score(const float *logits, int64_t n, int64_t c)
{
    gimbal_error err = {0};
    double out = NAN;
    check_ok(inception_score(logits, n, c, &out, &err), err);
    return out;
}

static void test_inception_score(void **state)
{
    (void)state;
    enum { C = 101 };
    static float x[C * C];
    for (int i = 0; i < C; i++)
        x[i * C + i] = 1000;
    check_near(score(x, C, C), C, 1e-9, "one clip of each class");
    memset(x, 0, sizeof x);
    check_near(score(x, C, C), 1, 1e-12, "no idea");
    for (int i = 0; i < C * C; i++)
        x[i] = (float)(i % C);
    check_near(score(x, C, C), 1, 1e-12, "the same idea of all clips");
    /* p = (.75,.25), (.25,.75): KL to (.5,.5) = .75 ln 1.5 + .25 ln .5 */
    const float l = (float)log(3), two[] = {l, 0, 0, l};
    check_near(score(two, 2, 2), exp(0.75 * log(1.5) + 0.25 * log(0.5)), 1e-7, "two clips, two classes");
    const float high[] = {3e38f, 3e38f, 3e38f, 3e38f};
    check_near(score(high, 2, 2), 1, 1e-12, "logits at the end of float");
}

/* ---- paired comparison ------------------------------------------------------------------- */

/* Of differences d: a = 0. */
static Paired paired(const double *d, int n, uint64_t seed)
{
    Paired out;
    gimbal_error err = {0};
    double *zero = calloc((size_t)n, sizeof *zero);
    check_ok(paired_compare(zero, d, n, seed, &out, &err), err);
    free(zero);
    return out;
}

/* Formulas that tests/oracle/stats.py shares. */
static void differences(double *d, int n, double shift)
{
    for (int i = 0; i < n; i++)
        d[i] = sin(1.7 * i * i + 0.3) + shift;
}

static void quarters(double *d, int n)
{
    differences(d, n, 0.3);
    for (int i = 0; i < n; i++)
        d[i] = rint(4 * d[i]) / 4;
}

typedef struct {
    int n;
    double shift, wilcoxon, flips; /* flips NaN: too many for scipy's full enumeration */
} Known;

/* scipy 1.17.1: stats.wilcoxon(correction=True), exact without ties up to 50, else normal; all sign flips by
 * hand. */
static void test_p_values_are_scipys(void **state)
{
    (void)state;
    static const Known known[] = {
        {5, 0.4, 0.0625, 0.0625},
        {8, 0.4, 0.078125, 0.0625},
        {16, 0.3, 0.065399169921875, 0.065032958984375},
        {24, 0.3, 0.00792050361633301, NAN},
        {50, 0.15, 0.109530493934594, NAN},
        {51, 0.15, 0.0980428345670357, NAN},
        {200, 0.1, 0.00414658263258496, NAN},
    };
    static const Known tied[] = {
        {9, 0.3, 0.0737663498983951, 0.0859375},
        {20, 0.3, 0.0679457701731092, 0.120143890380859},
        {60, 0.3, 0.00489875618682711, NAN},
    };
    double d[200];
    for (int k = 0; k < COUNT(known) + COUNT(tied); k++) {
        const Known *want = k < COUNT(known) ? &known[k] : &tied[k - COUNT(known)];
        if (k < COUNT(known))
            differences(d, want->n, want->shift);
        else
            quarters(d, want->n);
        const Paired p = paired(d, want->n, 1);
        check_near(p.wilcoxon_p, want->wilcoxon, 1e-13, "Wilcoxon, case %d, %d pairs", k, want->n);
        if (!isnan(want->flips)) /* up to 16 pairs exact, else 20000 random flips: four standard errors */
            check_near(p.permutation_p, want->flips, want->n <= 16 ? 1e-15 : 0.0095,
                       "flips, case %d, %d pairs", k, want->n);
    }
}

/* scipy 1.17.1: stats.bootstrap with 400000 resamples; ours has 10000, so that an end moves by about a
 * fiftieth of the interval. */
static void test_intervals_are_scipys(void **state)
{
    (void)state;
    static const struct {
        int n;
        double shift, low, high, plain_low, plain_high;
    } known[] = {
        {12, 0.4, 3.451812, 9.154264, 3.355507, 9.041981},
        {24, 0.3, 3.535015, 7.306241, 3.470856, 7.230822},
        {40, 0.0, 1.759227, 3.310840, 1.722480, 3.264801},
    };
    for (int k = 0; k < COUNT(known); k++) {
        double d[40], low = 0, high = 0;
        Interval i;
        gimbal_error err = {0};
        differences(d, known[k].n, known[k].shift);
        for (int j = 0; j < known[k].n; j++)
            d[j] = exp(2 * d[j]);
        for (uint64_t seed = 0; seed < 16; seed++) { /* the mean of several leaves what is systematic */
            const Paired p = paired(d, known[k].n, seed);
            low += p.low / 16, high += p.high / 16;
        }
        const double width = known[k].high - known[k].low;
        check_near(low, known[k].low, 0.006 * width, "low end, %d pairs", known[k].n);
        check_near(high, known[k].high, 0.006 * width, "high end, %d pairs", known[k].n);
        check_ok(mean_interval(d, known[k].n, 3, &i, &err), err);
        check_near(i.low, known[k].plain_low, 0.03 * width, "percentile's low end, %d", known[k].n);
        check_near(i.high, known[k].plain_high, 0.03 * width, "percentile's high end, %d", known[k].n);
    }
}

static void test_equal_differences(void **state)
{
    (void)state;
    static const double zero[8] = {0}, same[8] = {.1, .1, .1, .1, .1, .1, .1, .1};
    Paired p = paired(zero, 8, 1);
    check(p.ties == 8 && !p.wins && !p.losses, "%d ties", p.ties);
    check(p.wilcoxon_p == 1 && p.permutation_p == 1 && p.dz == 0 && p.low == 0 && p.high == 0 &&
              p.rank_biserial == 0,
          "no difference at all");
    p = paired(same, 8, 1);
    check(p.wins == 8 && p.low == p.mean && p.high == p.mean && isinf(p.dz) && p.dz > 0, "dz %g", p.dz);
    check_near(p.permutation_p, 2 / 256.0, 0, "all signs the same");
    check_near(p.rank_biserial, 1, 0, "all ranks positive");
    p = paired(same, 2, 1);
    check_near(p.permutation_p, 0.5, 0, "two pairs can say little");
}

static void test_a_b_and_counts(void **state)
{
    (void)state;
    static const double a[] = {1, 2, 3, 4}, b[] = {2, 2, 1, 7};
    Paired p;
    gimbal_error err = {0};
    check_ok(paired_compare(a, b, 4, 0, &p, &err), err);
    check(p.n == 4 && p.wins == 2 && p.ties == 1 && p.losses == 1, "%d %d %d", p.wins, p.ties, p.losses);
    check_near(p.mean_a, 2.5, 1e-15, "mean of a");
    check_near(p.mean_b, 3, 1e-15, "mean of b");
    check_near(p.mean, 0.5, 1e-15, "mean of b - a");
    check_near(p.sd, sqrt(13 / 3.0), 1e-14, "sd"); /* d = 1 0 -2 3: squares about .5: .25 .25 6.25 6.25 */
    check_near(p.rank_biserial, (1 + 3 - 2) / 6.0, 1e-15, "ranks 1 2 3, the middle one negative");
}

static void test_values_that_cannot_be_compared(void **state)
{
    (void)state;
    double a[] = {1, 2, 3}, bad[] = {1, NAN, 3};
    Paired p;
    Interval i;
    gimbal_error err = {0};
    check_fails(paired_compare(a, a, 1, 0, &p, &err), GIMBAL_EUSAGE, err, "expected 2 or more");
    check_fails(paired_compare(a, bad, 3, 0, &p, &err), GIMBAL_EUSAGE, err,
                "number 1 of 3 values of b is nan");
    bad[1] = INFINITY;
    check_fails(paired_compare(bad, a, 3, 0, &p, &err), GIMBAL_EUSAGE, err, "values of a is inf");
    bad[1] = -1e300;
    check_fails(mean_interval(bad, 3, 0, &i, &err), GIMBAL_EUSAGE, err, "-1e+300");
    check_fails(mean_interval(a, 0, 0, &i, &err), GIMBAL_EUSAGE, err, "0 values");
    a[1] = 1e150, bad[1] = -1e150;
    check_ok(paired_compare(a, bad, 3, 0, &p, &err), err);
    check(isfinite(p.low) && isfinite(p.high) && isfinite(p.sd) && isfinite(p.dz), "the largest numbers");
}

static void test_holm(void **state)
{
    (void)state;
    double p[] = {.01, .04, .03, .005}, high[] = {.6, .9, 0};
    static const double want[] = {.03, .06, .06, .02}, want_high[] = {1, 1, 0};
    gimbal_error err = {0};
    check_ok(holm(p, 4, &err), err);
    check_ok(holm(high, 3, &err), err);
    for (int i = 0; i < 4; i++)
        check_near(p[i], want[i], 1e-15, "p %d", i);
    for (int i = 0; i < 3; i++)
        check_near(high[i], want_high[i], 0, "high p %d", i);
    p[2] = NAN;
    check_fails(holm(p, 4, &err), GIMBAL_EUSAGE, err, "p-value 2 of 4 is nan");
    p[2] = 1.5;
    check_fails(holm(p, 4, &err), GIMBAL_EUSAGE, err, "1.5");
    check_ok(holm(p, 0, &err), err);
}

/* n values with mean `shift`, of trial t and stream k; skewed: log-normal, less its mean. */
static void simulate(double *d, int n, int t, int k, double shift, bool skewed)
{
    float *x = normals((uint64_t)(1000 * k + t), n, 1);
    for (int i = 0; i < n; i++)
        d[i] = shift + (skewed ? exp((double)x[i]) - exp(0.5) : (double)x[i]);
    free(x);
}

static void test_resampling_is_the_seeds(void **state)
{
    (void)state;
    double d[24];
    simulate(d, 24, 1, 1, 0.4, true);
    const Paired p = paired(d, 24, 5), same = paired(d, 24, 5), other = paired(d, 24, 6);
    assert_memory_equal(&p, &same, sizeof p);
    check(p.low != other.low && p.high != other.high && p.permutation_p != other.permutation_p,
          "another seed");
    check_near(p.low, other.low, 0.05 * p.sd, "but the same low end, nearly");
    check_near(p.permutation_p, other.permutation_p, 0.01, "and p");
}

/* How often the interval holds the true mean. The bootstrap's own undercoverage at small n, largest where the
 * distribution is skewed, is known: 24 log-normal values give about 88 to 91 %. */
static void test_intervals_cover(void **state)
{
    (void)state;
    enum { N = 24, TRIALS = 150 };
    for (int skewed = 0; skewed < 2; skewed++) {
        int covered = 0, plain = 0;
        for (int t = 0; t < TRIALS; t++) {
            double d[N];
            Interval i;
            gimbal_error err = {0};
            simulate(d, N, t, 2 + skewed, 0, skewed);
            const Paired p = paired(d, N, (uint64_t)t);
            check_ok(mean_interval(d, N, (uint64_t)t, &i, &err), err);
            covered += p.low <= 0 && p.high >= 0;
            plain += i.low <= 0 && i.high >= 0;
        }
        print_message("# %s: %.1f %% by BCa, %.1f %% by percentiles\n", skewed ? "log-normal" : "normal",
                      100.0 * covered / TRIALS, 100.0 * plain / TRIALS);
        check(covered >= (skewed ? 0.84 : 0.90) * TRIALS && covered <= 0.98 * TRIALS, "%d of %d covered",
              covered, TRIALS);
        check(plain >= 0.82 * TRIALS, "percentiles: %d of %d covered", plain, TRIALS);
    }
}

/* As compare decides: interval, Holm over the scores, at least one of which differs. */
static int called_different(int t, int scores, double shift)
{
    enum { N = 24, MOST = 2 };
    double p[MOST] = {0};
    bool apart[MOST] = {false};
    int found = 0;
    gimbal_error err = {0};
    for (int k = 0; k < scores; k++) {
        double d[N];
        simulate(d, N, t, 10 + k, shift, false);
        const Paired c = paired(d, N, (uint64_t)t);
        p[k] = c.permutation_p, apart[k] = c.low > 0 || c.high < 0;
    }
    check_ok(holm(p, scores, &err), err);
    for (int k = 0; k < scores; k++)
        found += apart[k] && p[k] < 0.05;
    return found > 0;
}

static void test_luck_is_called_luck(void **state)
{
    (void)state;
    enum { TRIALS = 400, REAL = 100 };
    int by_luck = 0, real = 0;
    for (int t = 0; t < TRIALS; t++) {
        by_luck += called_different(t, 2, 0);
        real += t < REAL && called_different(t, 1, 1);
    }
    print_message("# called different: %.2f %% of equal sets, %.2f %% of sets one sd apart\n",
                  100.0 * by_luck / TRIALS, 100.0 * real / REAL);
    check(by_luck <= 0.075 * TRIALS, "%d of %d equal sets were called different", by_luck, TRIALS);
    check(real > 0.95 * REAL, "%d of %d real differences were found", real, REAL);
}

TESTS(test_frechet_has_its_closed_form, test_frechet_of_a_set_with_itself_is_zero,
      test_frechet_does_not_mind_where_the_sets_lie, test_distances_of_sets_of_different_size,
      test_what_is_no_set_is_refused, test_kernel_distance_by_hand, test_kernel_distance_of_normal_sets,
      test_inception_score, test_p_values_are_scipys, test_intervals_are_scipys, test_equal_differences,
      test_a_b_and_counts, test_values_that_cannot_be_compared, test_holm, test_resampling_is_the_seeds,
      test_intervals_cover, test_luck_is_called_luck)
