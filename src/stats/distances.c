/* distances.c: how far two sets of features are apart, and how sharp and varied a set of logits is.
 *
 * Frechet distance of the Gaussians fitted to X [n,d] and Y [m,d] (Heusel et al. 2017; Unterthiner et al.
 * 2018), with A = (X - mu1) / sqrt(n-1), B = (Y - mu2) / sqrt(m-1), so that S1 = A^T A and S2 = B^T B:
 *
 *     d^2 = |mu1 - mu2|^2 + |A|_F^2 + |B|_F^2 - 2 tr((S1 S2)^1/2),    tr((S1 S2)^1/2) = |A B^T|_* = |R_A
 * R_B^T|_*
 *
 * for the eigenvalues of S1 S2 are the squared singular values of A B^T. R is the triangular factor of a QR
 * decomposition where a set has more rows than columns, else the matrix itself. No covariance is ever formed.
 *
 * Kernel distance: the unbiased squared maximum mean discrepancy (Gretton et al. 2012) with the polynomial
 * kernel k(x,y) = (x.y/d + 1)^3, all samples at once, as the KVD of videos is reported. Inception score
 * (Salimans et al. 2016): exp( mean_i KL(p_i | mean p) ), one split.
 *
 * Features are float32, row-major; sums are double. Refuses to know which network made them. */
#include "base/base.h"
#include "stats/stats.h"

#include <lapacke.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>

static int check_set(const float *x, int64_t n, int64_t d, const char *which, gimbal_error *err)
{
    if (n < 2)
        return fail(err, GIMBAL_EUSAGE, "the %s set has %lld samples, expected 2 or more", which,
                    (long long)n);
    if (d < 1 || d > INT_MAX || n > INT_MAX)
        return fail(err, GIMBAL_EUSAGE, "the %s set is [%lld,%lld], expected 1 to %d each way", which,
                    (long long)n, (long long)d, INT_MAX);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++)
            if (!isfinite(x[i * d + j]))
                return fail(err, GIMBAL_EUSAGE,
                            "the %s set holds %g at row %lld, column %lld: expected finite numbers", which,
                            (double)x[i * d + j], (long long)i, (long long)j);
    return GIMBAL_OK;
}

static int no_memory(gimbal_error *err, int64_t n, int64_t d)
{
    return fail(err, GIMBAL_ENOMEM, "no memory for %lld x %lld numbers", (long long)n, (long long)d);
}

/* ---- Frechet distance -------------------------------------------------------------------- */

/* A set, centred and scaled, column-major [n,d]; after factor_reduce its first `rows` rows are R. */
typedef struct {
    double *a, *mean; /* [n*d], [d] */
    int n, d, rows;
    bool triangular;
    double energy; /* |A|_F^2: the trace of the covariance */
} Factor;

static void factor_free(Factor *f)
{
    free(f->a); /* as large as the sets: not left to an arena */
    free(f->mean);
}

static void fill_column(Factor *f, const float *x, int j)
{
    const size_t n = (size_t)f->n, d = (size_t)f->d;
    double *column = f->a + (size_t)j * n, sum = 0, rest = 0;
    const double scale = 1.0 / sqrt((double)f->n - 1.0);
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i * d + (size_t)j];
    const double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++)
        column[i] = (double)x[i * d + (size_t)j] - mean, rest += column[i];
    rest /= (double)n; /* what rounding left of the mean: small beside it, but not beside a small variance */
    for (size_t i = 0; i < n; i++) {
        column[i] = (column[i] - rest) * scale;
        f->energy += column[i] * column[i];
    }
    f->mean[j] = mean + rest;
}

static int factor_reduce(Factor *f, gimbal_error *err)
{
    f->triangular = f->n > f->d;
    f->rows = MIN(f->n, f->d);
    if (!f->triangular)
        return GIMBAL_OK;
    double *tau = alloc_array((size_t)f->d, sizeof *tau);
    const lapack_int info =
        tau ? LAPACKE_dgeqrf(LAPACK_COL_MAJOR, f->n, f->d, f->a, f->n, tau) : LAPACK_WORK_MEMORY_ERROR;
    free(tau);
    return info ? no_memory(err, f->n, f->d) : GIMBAL_OK;
}

static int factor_make(Factor *f, const float *x, int64_t n, int64_t d, gimbal_error *err)
{
    *f = (Factor){.n = (int)n, .d = (int)d};
    f->a = alloc_array((size_t)n * (size_t)d, sizeof *f->a);
    f->mean = alloc_array((size_t)d, sizeof *f->mean);
    if (!f->a || !f->mean)
        return no_memory(err, n, d);
    for (int j = 0; j < f->d; j++)
        fill_column(f, x, j);
    return factor_reduce(f, err);
}

/* How many of the first rows of column k are not zero. */
static int filled(const Factor *f, int k)
{
    return f->triangular ? MIN(k + 1, f->rows) : f->rows;
}

/* p [a.rows, b.rows], column-major: R_A R_B^T. */
static void multiply(const Factor *a, const Factor *b, double *p)
{
    const size_t rows = (size_t)a->rows;
    for (size_t i = 0; i < rows * (size_t)b->rows; i++)
        p[i] = 0;
    for (int k = 0; k < a->d; k++) {
        const double *x = a->a + (size_t)k * (size_t)a->n, *y = b->a + (size_t)k * (size_t)b->n;
        const int nx = filled(a, k), ny = filled(b, k);
        for (int j = 0; j < ny; j++) {
            double *column = p + (size_t)j * rows;
            const double yj = y[j];
            for (int i = 0; i < nx; i++)
                column[i] += x[i] * yj;
        }
    }
}

/* Sum of the singular values of R_A R_B^T. */
static int nuclear_norm(const Factor *a, const Factor *b, double *out, gimbal_error *err)
{
    const int least = MIN(a->rows, b->rows);
    double *p = alloc_array((size_t)a->rows * (size_t)b->rows, sizeof *p);
    double *s = alloc_array((size_t)least, sizeof *s);
    lapack_int info = LAPACK_WORK_MEMORY_ERROR;
    if (p && s) {
        multiply(a, b, p);
        info = LAPACKE_dgesdd(LAPACK_COL_MAJOR, 'N', a->rows, b->rows, p, a->rows, s, NULL, 1, NULL, 1);
    }
    *out = 0;
    for (int i = 0; !info && i < least; i++)
        *out += s[i];
    free(p);
    free(s);
    if (info > 0)
        return fail(err, GIMBAL_EVALUE, "the singular values of a %d x %d matrix did not converge", a->rows,
                    b->rows);
    return info ? no_memory(err, a->rows, b->rows) : GIMBAL_OK;
}

static int distance_of(const Factor *a, const Factor *b, double *out, gimbal_error *err)
{
    double norm, shift = 0;
    TRY(nuclear_norm(a, b, &norm, err));
    for (int j = 0; j < a->d; j++)
        shift += (a->mean[j] - b->mean[j]) * (a->mean[j] - b->mean[j]);
    const double d2 = shift + a->energy + b->energy - 2 * norm;
    *out = MAX(d2, 0); /* below zero by rounding alone */
    return GIMBAL_OK;
}

int frechet_distance(const float *x, int64_t n, const float *y, int64_t m, int64_t d, double *out,
                     gimbal_error *err)
{
    Factor a = {0}, b = {0};
    TRY(check_set(x, n, d, "first", err));
    TRY(check_set(y, m, d, "second", err));
    int code = factor_make(&a, x, n, d, err);
    code = code ? code : factor_make(&b, y, m, d, err);
    code = code ? code : distance_of(&a, &b, out, err);
    factor_free(&a);
    factor_free(&b);
    return code;
}

/* ---- kernel distance --------------------------------------------------------------------- */

enum { TILE = 64 };

/* t [d][TILE]: rows first .. first+count-1 of y [.][d], turned so that the innermost loop runs over samples.
 */
static void turn(const float *y, int64_t d, int64_t first, int count, double *t)
{
    for (int64_t k = 0; k < d; k++)
        for (int j = 0; j < TILE; j++)
            t[k * TILE + j] = j < count ? (double)y[(first + j) * d + k] : 0;
}

/* dots[j] = x . y_j of one tile. */
static void products(const float *x, const double *t, int64_t d, double dots[TILE])
{
    for (int j = 0; j < TILE; j++)
        dots[j] = 0;
    for (int64_t k = 0; k < d; k++) {
        const double xk = (double)x[k];
        for (int j = 0; j < TILE; j++)
            dots[j] += xk * t[k * TILE + j];
    }
}

static double kernel(double dot, int64_t d)
{
    const double base = dot / (double)d + 1.0;
    return base * base * base;
}

/* Sum of k(x_i, y_j) over all pairs; same: x is y, and only i < j count, twice. tile [d*TILE]. */
static double kernel_sum(const float *x, int64_t n, const float *y, int64_t m, int64_t d, bool same,
                         double *tile)
{
    double sum = 0, dots[TILE];
    for (int64_t first = 0; first < m; first += TILE) {
        const int count = (int)MIN(m - first, TILE);
        turn(y, d, first, count, tile);
        const int64_t rows = same ? MIN(n, first + count) : n;
        for (int64_t i = 0; i < rows; i++) {
            products(x + i * d, tile, d, dots);
            double row = 0; /* sums of sums: rounding grows with the root of the pairs at most */
            for (int j = 0; j < count; j++)
                if (!same || i < first + j)
                    row += kernel(dots[j], d);
            sum += row;
        }
    }
    return same ? 2 * sum : sum;
}

int kernel_distance(const float *x, int64_t n, const float *y, int64_t m, int64_t d, double *out,
                    gimbal_error *err)
{
    TRY(check_set(x, n, d, "first", err));
    TRY(check_set(y, m, d, "second", err));
    double *tile = alloc_array((size_t)d * TILE, sizeof *tile);
    if (!tile)
        return no_memory(err, d, TILE);
    const double xn = (double)n, ym = (double)m;
    *out = kernel_sum(x, n, x, n, d, true, tile) / (xn * (xn - 1)) +
           kernel_sum(y, m, y, m, d, true, tile) / (ym * (ym - 1)) -
           2 * kernel_sum(x, n, y, m, d, false, tile) / (xn * ym);
    free(tile);
    return GIMBAL_OK;
}

/* ---- inception score --------------------------------------------------------------------- */

/* log of the sum of exponentials of c logits. */
static double log_sum_exp(const float *logits, int64_t c)
{
    double most = -INFINITY, sum = 0;
    for (int64_t j = 0; j < c; j++)
        most = MAX(most, (double)logits[j]);
    for (int64_t j = 0; j < c; j++)
        sum += exp((double)logits[j] - most);
    return most + log(sum);
}

int inception_score(const float *logits, int64_t n, int64_t c, double *out, gimbal_error *err)
{
    TRY(check_set(logits, n, c, "first", err));
    double *mean = alloc_array((size_t)c, sizeof *mean); /* n times */
    if (!mean)
        return no_memory(err, 1, c);
    double entropy = 0; /* sum_i sum_c p log p */
    for (int64_t j = 0; j < c; j++)
        mean[j] = 0;
    for (int64_t i = 0; i < n; i++) {
        const double norm = log_sum_exp(logits + i * c, c);
        double row = 0; /* sums of sums, as above */
        for (int64_t j = 0; j < c; j++) {
            const double log_p = (double)logits[i * c + j] - norm, p = exp(log_p);
            mean[j] += p;
            row += p > 0 ? p * log_p : 0;
        }
        entropy += row;
    }
    double cross = 0; /* sum_c mean log mean: sum_i p_i log mean, by n */
    for (int64_t j = 0; j < c; j++)
        cross += mean[j] > 0 ? mean[j] / (double)n * log(mean[j] / (double)n) : 0;
    free(mean);
    *out = exp(entropy / (double)n - cross);
    return GIMBAL_OK;
}
