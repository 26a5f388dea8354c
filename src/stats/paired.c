/* paired.c: is a paired difference more than luck? Intervals by the bootstrap, two tests, effect sizes, Holm.
 *
 * Of pairs (a_i, b_i), d_i = b_i - a_i:
 *   interval     bootstrap of the mean of d, bias-corrected and accelerated (Efron 1987): the ends are
 * quantiles Phi(z0 + (z0 + z) / (1 - acc (z0 + z))) of the resampled means, z = -+1.96, with z0 =
 * Phi^-1(share of resampled means below the mean), acc = sum (d-m)^3 / (6 (sum (d-m)^2)^1.5) Wilcoxon signed
 * ranks (1945), two-sided; zeros dropped, tied sizes get their mean rank permutation  sign flips of d,
 * two-sided, statistic |sum d| (Fisher 1935) Holm (1979)  p of rank i (from 0) of m becomes max_{j<=i} (m-j)
 * p_j, at most 1
 *
 * Random numbers are Philox's of (seed, which resample, which draw): the same on every machine.
 * Refuses to know what was measured. */
#include "base/base.h"
#include "stats/stats.h"

#include <math.h>
#include <stdlib.h>

enum { RESAMPLES = 10000, FLIPS = 20000, EXACT_FLIPS = 16, EXACT_RANKS = 50 };
enum { STREAM_BOOTSTRAP = 1, STREAM_FLIPS = 2 };
static const double largest = 1e150; /* squares of larger values overflow */

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int check_values(const double *x, int n, int least, const char *what, gimbal_error *err)
{
    if (n < least)
        return fail(err, GIMBAL_EUSAGE, "%d %s, expected %d or more", n, what, least);
    for (int i = 0; i < n; i++)
        if (!(fabs(x[i]) <= largest))
            return fail(err, GIMBAL_EUSAGE, "number %d of %d %s is %g, expected at most %g either way", i, n,
                        what, x[i], largest);
    return GIMBAL_OK;
}

static double mean_of(const double *x, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += x[i];
    return sum / n;
}

/* ---- the normal distribution ------------------------------------------------------------- */

static double normal_below(double z)
{
    return 0.5 * erfc(-z * 0.70710678118654752440);
}

/* The z that has p below it, 0 < p < 1. Bisection: called four times a comparison. */
static double normal_quantile(double p)
{
    double low = -9, high = 9;
    for (int i = 0; i < 64; i++) {
        const double z = 0.5 * (low + high);
        if (normal_below(z) < p)
            low = z;
        else
            high = z;
    }
    return 0.5 * (low + high);
}

/* ---- bootstrap --------------------------------------------------------------------------- */

static double resampled_mean(const double *x, int n, uint64_t seed, uint32_t which)
{
    uint32_t word[4] = {0};
    double sum = 0;
    for (int i = 0; i < n; i++) {
        const uint32_t at[4] = {(uint32_t)i / 4, which, 0, STREAM_BOOTSTRAP};
        if (i % 4 == 0)
            philox(at, seed, word);
        sum += x[(uint64_t)word[i % 4] * (uint64_t)n >> 32];
    }
    return sum / n;
}

/* RESAMPLES means in ascending order; caller frees. NULL: no memory. */
static double *resample(const double *x, int n, uint64_t seed)
{
    double *means = alloc_array(RESAMPLES, sizeof *means);
    for (uint32_t i = 0; means && i < RESAMPLES; i++)
        means[i] = resampled_mean(x, n, seed, i);
    if (means)
        qsort(means, RESAMPLES, sizeof *means, ascending);
    return means;
}

static double quantile(const double *sorted, double p)
{
    const double at = p * (RESAMPLES - 1);
    const int i = MIN((int)at, RESAMPLES - 2);
    return sorted[i] + (at - i) * (sorted[i + 1] - sorted[i]);
}

/* z0: half of the resampled means that equal the mean count as below. */
static double bias(const double *means, double mean)
{
    double below = 0;
    for (int i = 0; i < RESAMPLES; i++)
        below += means[i] < mean ? 1 : means[i] == mean ? 0.5 : 0;
    return normal_quantile(MIN(MAX(below, 0.5), RESAMPLES - 0.5) / RESAMPLES);
}

static double acceleration(const double *x, int n, double mean, double sd)
{
    double cubes = 0;
    for (int i = 0; i < n; i++)
        cubes += pow((x[i] - mean) / sd, 3);
    return cubes / (6 * pow(n - 1, 1.5));
}

static double bca_quantile(const double *means, double z0, double acc, double z)
{
    const double below = 1 - acc * (z0 + z);
    return quantile(means, below > 0 ? normal_below(z0 + (z0 + z) / below) : z > 0);
}

static int bca_interval(const double *d, uint64_t seed, Paired *out, gimbal_error *err)
{
    if (out->sd == 0) {
        out->low = out->high = out->mean;
        return GIMBAL_OK;
    }
    double *means = resample(d, out->n, seed);
    if (!means)
        return fail(err, GIMBAL_ENOMEM, "no memory for %d resampled means", RESAMPLES);
    const double z0 = bias(means, out->mean), acc = acceleration(d, out->n, out->mean, out->sd);
    const double z = normal_quantile(0.975);
    out->low = bca_quantile(means, z0, acc, -z);
    out->high = bca_quantile(means, z0, acc, z);
    free(means);
    return GIMBAL_OK;
}

int mean_interval(const double *x, int n, uint64_t seed, Interval *out, gimbal_error *err)
{
    TRY(check_values(x, n, 1, "values", err));
    double *means = resample(x, n, seed);
    if (!means)
        return fail(err, GIMBAL_ENOMEM, "no memory for %d resampled means", RESAMPLES);
    *out = (Interval){mean_of(x, n), quantile(means, 0.025), quantile(means, 0.975)};
    free(means);
    return GIMBAL_OK;
}

/* ---- Wilcoxon's signed ranks ------------------------------------------------------------- */

typedef struct {
    double plus, all; /* sums of the ranks of d > 0, of all d != 0 */
    double ties;      /* sum of t^3 - t over groups of t equal sizes */
    int n;            /* d != 0 */
} Ranks;

/* sizes [n] ascending; the rank of a size is the middle of its group of equals. */
static double rank_of(const double *sizes, int n, double size, int *group)
{
    int low = 0, high = n; /* first not below */
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (sizes[middle] < size)
            low = middle + 1;
        else
            high = middle;
    }
    for (high = low; high < n && sizes[high] == size;)
        high++;
    *group = high - low;
    return 0.5 * (low + 1 + high);
}

static Ranks rank_differences(const double *d, int n, double *sizes)
{
    Ranks r = {0};
    for (int i = 0; i < n; i++)
        if (d[i] != 0)
            sizes[r.n++] = fabs(d[i]);
    qsort(sizes, (size_t)r.n, sizeof *sizes, ascending);
    for (int i = 0; i < n; i++) {
        if (d[i] == 0)
            continue;
        int t;
        const double rank = rank_of(sizes, r.n, fabs(d[i]), &t);
        r.plus += d[i] > 0 ? rank : 0;
        r.all += rank;
        r.ties += (double)t * t - 1; /* the t members of a group together: t^3 - t */
    }
    return r;
}

/* counts[s]: subsets of the ranks 1..n whose sum is s; all 2^n of them at n = 50 fit a double. */
static double exact_p(const Ranks *r)
{
    enum { MOST = EXACT_RANKS * (EXACT_RANKS + 1) / 2 };
    double counts[MOST + 1] = {1}, below = 0, above = 0;
    int top = 0;
    for (int rank = 1; rank <= r->n; rank++) {
        top += rank;
        for (int s = top; s >= rank; s--)
            counts[s] += counts[s - rank];
    }
    for (int s = 0; s <= top; s++) {
        below += s <= r->plus ? counts[s] : 0;
        above += s >= r->plus ? counts[s] : 0;
    }
    return MIN(1.0, 2 * MIN(below, above) / ldexp(1, r->n));
}

static double normal_p(const Ranks *r)
{
    const double n = r->n, mean = n * (n + 1) / 4, variance = n * (n + 1) * (2 * n + 1) / 24 - r->ties / 48;
    const double off = MAX(fabs(r->plus - mean) - 0.5, 0); /* continuity */
    return MIN(1.0, 2 * normal_below(-off / sqrt(variance)));
}

static int wilcoxon(const double *d, Paired *out, gimbal_error *err)
{
    double *sizes = alloc_array((size_t)out->n, sizeof *sizes);
    if (!sizes)
        return fail(err, GIMBAL_ENOMEM, "no memory for %d ranks", out->n);
    const Ranks r = rank_differences(d, out->n, sizes);
    free(sizes);
    out->rank_biserial = r.n ? 2 * r.plus / r.all - 1 : 0;
    out->wilcoxon_p = !r.n ? 1 : r.ties == 0 && r.n <= EXACT_RANKS ? exact_p(&r) : normal_p(&r);
    return GIMBAL_OK;
}

/* ---- sign flips -------------------------------------------------------------------------- */

/* |sum of d with the signs of `bits`|, of d[0] in bit 0 on. */
static double flipped(const double *d, int n, uint32_t bits)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += bits >> i & 1 ? d[i] : -d[i];
    return fabs(sum);
}

static double flipped_at_random(const double *d, int n, uint64_t seed, uint32_t which)
{
    uint32_t word[4] = {0};
    double sum = 0;
    for (int i = 0; i < n; i++) {
        const uint32_t at[4] = {(uint32_t)i / 128, which, 0, STREAM_FLIPS};
        if (i % 128 == 0)
            philox(at, seed, word);
        sum += word[i % 128 / 32] >> i % 32 & 1 ? d[i] : -d[i];
    }
    return fabs(sum);
}

/* Sums that are equal but for rounding count as as large. Of random flips, the given signs are one more: then
 * p is never 0 and the test keeps its level (Phipson and Smyth 2010). */
static double permutation(const double *d, int n, uint64_t seed)
{
    double sum = 0, sizes = 0, reached = 0;
    for (int i = 0; i < n; i++)
        sum += d[i], sizes += fabs(d[i]);
    const double bar = fabs(sum) - 1e-12 * sizes;
    if (n <= EXACT_FLIPS) {
        for (uint32_t bits = 0; bits < UINT32_C(1) << n; bits++)
            reached += flipped(d, n, bits) >= bar;
        return reached / (double)(UINT32_C(1) << n);
    }
    for (uint32_t i = 0; i < FLIPS; i++)
        reached += flipped_at_random(d, n, seed, i) >= bar;
    return (reached + 1) / (FLIPS + 1);
}

/* ---- together ---------------------------------------------------------------------------- */

static void describe(const double *d, Paired *out)
{
    double squares = 0;
    out->mean = mean_of(d, out->n);
    for (int i = 0; i < out->n; i++) {
        squares += (d[i] - out->mean) * (d[i] - out->mean);
        out->wins += d[i] > 0;
        out->ties += d[i] == 0;
        out->losses += d[i] < 0;
    }
    out->sd = sqrt(squares / (out->n - 1));
    if (out->sd <= 1e-12 * fabs(out->mean)) /* the same difference everywhere, but for rounding */
        out->sd = 0;
    out->dz = out->mean == 0 ? 0 : out->sd > 0 ? out->mean / out->sd : copysign(INFINITY, out->mean);
}

int paired_compare(const double *a, const double *b, int n, uint64_t seed, Paired *out, gimbal_error *err)
{
    TRY(check_values(a, n, 2, "values of a", err));
    TRY(check_values(b, n, 2, "values of b", err));
    double *d = alloc_array((size_t)n, sizeof *d);
    if (!d)
        return fail(err, GIMBAL_ENOMEM, "no memory for %d differences", n);
    for (int i = 0; i < n; i++)
        d[i] = b[i] - a[i];
    *out = (Paired){.n = n, .mean_a = mean_of(a, n), .mean_b = mean_of(b, n)};
    describe(d, out);
    out->permutation_p = permutation(d, n, seed);
    int code = wilcoxon(d, out, err);
    code = code ? code : bca_interval(d, seed, out, err);
    free(d);
    return code;
}

/* ---- Holm -------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    return ascending(*(double *const *)a, *(double *const *)b);
}

int holm(double *p, int m, gimbal_error *err)
{
    for (int i = 0; i < m; i++)
        if (!(p[i] >= 0 && p[i] <= 1))
            return fail(err, GIMBAL_EUSAGE, "p-value %d of %d is %g, expected 0 to 1", i, m, p[i]);
    if (m < 1)
        return GIMBAL_OK;
    double **order = alloc_array((size_t)m, sizeof *order);
    if (!order)
        return fail(err, GIMBAL_ENOMEM, "no memory for %d p-values", m);
    for (int i = 0; i < m; i++)
        order[i] = &p[i];
    double most = 0;
    qsort(order, (size_t)m, sizeof *order, by_value);
    for (int i = 0; i < m; i++) {
        most = MAX(most, MIN(1.0, (m - i) * *order[i]));
        *order[i] = most;
    }
    free(order);
    return GIMBAL_OK;
}
