/* stats.h: what a set of numbers or of features says: distances between two sets of clips, and whether a
 * paired difference is more than luck. Everything in double. A library of the program's own: it links LAPACK.
 *
 * Knows arrays. Refuses to know clips, metrics and files. */
#ifndef STATS_H
#define STATS_H

#include "gimbal.h"

/* ---- distances of sets: distances.c ------------------------------------------------------ */

/* Frechet distance of two Gaussians fitted to x [n][d] and y [m][d] (Heusel et al. 2017; of videos:
 * Unterthiner et al. 2018): |mu1-mu2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^1/2), covariances with 1/(n-1). The
 * last trace is the nuclear norm of the product of the sets' QR factors: no matrix square root, no squared
 * condition number. EUSAGE: n or m below 2, values that are not finite (row and column named); ENOMEM. */
int frechet_distance(const float *x, int64_t n, const float *y, int64_t m, int64_t d, double *out,
                     gimbal_error *err);
/* Unbiased squared maximum mean discrepancy with the kernel (x.y/d + 1)^3; may be negative. */
int kernel_distance(const float *x, int64_t n, const float *y, int64_t m, int64_t d, double *out,
                    gimbal_error *err);
/* exp( mean over clips of KL(p | mean p) ), p the softmax of logits [n][c]. */
int inception_score(const float *logits, int64_t n, int64_t c, double *out, gimbal_error *err);

/* ---- paired comparison: paired.c --------------------------------------------------------- */

/* Of paired values a[n], b[n]; d = b - a. */
typedef struct {
    int n, wins, ties, losses;       /* of b: d > 0, = 0, < 0 */
    double mean_a, mean_b, mean, sd; /* of d */
    double low, high;     /* bootstrap 95 % interval of the mean of d, bias-corrected and accelerated */
    double wilcoxon_p;    /* signed-rank, two-sided; exact up to 50 pairs without ties, else normal with
                             corrections for ties and continuity; zeros are dropped (Wilcoxon) */
    double permutation_p; /* sign flips, two-sided: all 2^n up to 16 pairs, else 20000 random ones */
    double dz;            /* mean / sd: Cohen's d of paired samples; 0 when all d are 0 */
    double rank_biserial; /* (sum of positive ranks - negative) / all */
} Paired;
/* seed decides the resampling. EUSAGE: n < 2, not finite; ENOMEM. */
int paired_compare(const double *a, const double *b, int n, uint64_t seed, Paired *out, gimbal_error *err);
/* Holm's step-down correction of m p-values, in place. */
int holm(double *p, int m, gimbal_error *err);

/* Mean and bootstrap 95 % interval (percentile) of x[n]. */
typedef struct {
    double mean, low, high;
} Interval;
int mean_interval(const double *x, int n, uint64_t seed, Interval *out, gimbal_error *err);

#endif
