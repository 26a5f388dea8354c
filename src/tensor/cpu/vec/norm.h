/* norm.h: what norm.c and norm_back.c share: how a call is cut, and the moments of a statistic.
 *
 * The rows of a statistic are cut into chunks of CHUNK rows. LayerNorm, whose rows stand for themselves, is
 * cut the same way: one set of all rows. */
#ifndef NORM_H
#define NORM_H

#include "tensor/cpu/vec/math.h"

enum { CHUNK = 64 };

/* Of one chunk and group. dev: sum of squared deviations. */
typedef struct {
    double mean, dev;
} Partial;

/* Of one statistic: its mean is `mean` plus `rest`; over: 1 / sqrt(var + eps). */
typedef struct {
    float mean;
    double over, rest;
} Moments;

typedef struct {
    const Call *call;
    const float *scale, *shift;
    int64_t C, padded, sets, rows, chunks, groups, width; /* padded: C up to whole vectors */
    Partial *partial;                                     /* [sets, chunks, groups] */
    float *sums;                                          /* [threads, 2, padded] */
} NormJob;

static inline size_t norm_partial_bytes(const NormJob *j)
{
    return round64((size_t)(j->sets * j->chunks * j->groups) * sizeof(Partial));
}

/* GroupNorm's statistics lie at the beginning of call->tmp. */
static inline size_t norm_statistics_bytes(const Cx *cx, const NormJob *j)
{
    return norm_partial_bytes(j) + round64((size_t)cx->threads * 2 * (size_t)j->padded * sizeof(float));
}

static inline NormJob norm_job(const Call *call)
{
    const Tensor *x = call->in[0];
    const bool layer = call->a.norm.groups == 0;
    NormJob j = {.call = call, .C = tensor_channels(x), .groups = layer ? 1 : call->a.norm.groups};
    j.padded = (j.C + VL - 1) / VL * VL;
    j.sets = layer ? 1 : x->n[0] / call->a.norm.per;
    j.rows = tensor_rows(x) / j.sets;
    j.chunks = (j.rows + CHUNK - 1) / CHUNK;
    j.width = j.C / j.groups;
    j.partial = (Partial *)call->tmp;
    j.sums = call->tmp ? (float *)(call->tmp + norm_partial_bytes(&j)) : NULL;
    return j;
}

/* Of GroupNorm: every chunk's partials; then the moments of any set and group. */
void VEC(norm_statistics)(const Cx *, const NormJob *);
Moments VEC(norm_moments)(const NormJob *, int64_t set, int64_t group);

/* ---- LayerNorm --------------------------------------------------------------------------- */

/* The first n lanes, the others 0. */
INLINE V first_lanes(V v, int64_t n)
{
    I lane;
    UNROLL for (int i = 0; i < VL; i++) lane[i] = i;
    return choose_v(lane < (int32_t)MIN(n, VL), v, (V){0});
}

/* sum[i] is the sum of t[i]'s lanes. */
INLINE void sums_of_lanes(V t[VL], double sum[VL])
{
    float lanes[VL * VL];
    transpose(t);
    UNROLL for (int i = 0; i < VL; i++) st(lanes + i * VL, t[i]);
    memset(sum, 0, VL * sizeof *sum);
    for (int k = 0; k < VL; k++)
        for (int i = 0; i < VL; i++)
            sum[i] += (double)lanes[k * VL + i];
}

/* Sums of d = x - about, and of d*d, over one row; four vectors of partial sums each. */
INLINE void row_sums(const float *x, int64_t C, float about, V *s1, V *s2)
{
    V a[4] = {{0}}, b[4] = {{0}};
    int64_t c = 0;
    for (; c + 4 * VL <= C; c += 4 * VL)
        UNROLL for (int i = 0; i < 4; i++)
        {
            const V d = ld(x + c + i * VL) - about;
            a[i] += d;
            b[i] += d * d;
        }
    for (; c < C; c += VL) {
        const V all = ld_some(x + c, C - c) - about, d = C - c < VL ? first_lanes(all, C - c) : all;
        a[0] += d;
        b[0] += d * d;
    }
    *s1 = (a[0] + a[1]) + (a[2] + a[3]);
    *s2 = (b[0] + b[1]) + (b[2] + b[3]);
}

/* The moments of up to VL rows, each in a lane: the mean first, then the deviations about what float32 holds
 * of it. h = (x - mean) * over + lack. */
typedef struct {
    float mean[VL], over[VL], lack[VL];
} RowMoments;

static inline void row_moments(const NormJob *j, const float *x, int64_t ld_x, int64_t rows, RowMoments *m)
{
    const int64_t C = j->C;
    V t1[VL] = {{0}}, t2[VL] = {{0}};
    double s1[VL], s2[VL];
    for (int64_t r = 0; r < rows; r++)
        row_sums(x + r * ld_x, C, 0, &t1[r], &t2[r]);
    sums_of_lanes(t1, s1);
    for (int64_t r = 0; r < VL; r++)
        m->mean[r] = (float)(s1[r] / (double)C);
    memset(t1, 0, sizeof t1);
    memset(t2, 0, sizeof t2);
    for (int64_t r = 0; r < rows; r++)
        row_sums(x + r * ld_x, C, m->mean[r], &t1[r], &t2[r]);
    sums_of_lanes(t1, s1);
    sums_of_lanes(t2, s2);
    for (int64_t r = 0; r < VL; r++) {
        const double rest = s1[r] / (double)C, var = MAX(s2[r] / (double)C - rest * rest, 0);
        const double over = 1 / sqrt(var + j->call->a.norm.eps);
        m->over[r] = (float)over, m->lack[r] = (float)(-rest * over);
    }
}

#endif
