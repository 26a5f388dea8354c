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

#endif
