/* loop_epilogue.c: what follows x*w in a convolution or linear, on rows that are still in the cache:
 *
 *     y = act(z + bias + row[r / row_per]) * scale + add
 *
 * Channels go in blocks through a small buffer, so that each term is one plain loop whatever the combination,
 * and z may be the result's own memory. */
#include "tensor/cpu/loop.h"

enum { BLOCK = 256 };

/* out = z + bias + row; either may be NULL. */
INLINE void sum_terms(const float *z, const float *bias, const float *row, int64_t n, float *out)
{
    if (bias && row) {
#pragma omp simd
        for (int64_t c = 0; c < n; c++)
            out[c] = z[c] + bias[c] + row[c];
    } else if (bias || row) {
        const float *only = bias ? bias : row;
#pragma omp simd
        for (int64_t c = 0; c < n; c++)
            out[c] = z[c] + only[c];
    } else {
        memmove(out, z, (size_t)n * sizeof(float));
    }
}

INLINE void activate(Act act, float *a, const float *gate, int64_t n)
{
    if (act == ACT_SILU) {
#pragma omp simd
        for (int64_t c = 0; c < n; c++)
            a[c] = silu_f(a[c]);
    } else if (act == ACT_GELU) {
#pragma omp simd
        for (int64_t c = 0; c < n; c++)
            a[c] = gelu_f(a[c]);
    } else if (act == ACT_QUICK_GELU) {
#pragma omp simd
        for (int64_t c = 0; c < n; c++)
            a[c] = quick_gelu_f(a[c]);
    } else if (act == ACT_GEGLU) {
#pragma omp simd
        for (int64_t c = 0; c < n; c++)
            a[c] *= gelu_f(gate[c]);
    }
}

INLINE void finish(const float *a, float scale, const float *add, int64_t n, float *y)
{
    if (add) {
#pragma omp simd
        for (int64_t c = 0; c < n; c++)
            y[c] = a[c] * scale + add[c];
    } else {
#pragma omp simd
        for (int64_t c = 0; c < n; c++)
            y[c] = a[c] * scale;
    }
}

/* One row of C result channels. */
INLINE void row_tail(const Epi *e, const float *z, const float *bias, const float *row, const float *add,
                     float *y, int64_t C)
{
    const float scale = e->scale != 0 ? e->scale : 1.0f;
    float a[BLOCK], gate[BLOCK];
    for (int64_t c = 0; c < C; c += BLOCK) {
        const int64_t n = MIN(BLOCK, C - c);
        if (e->act == ACT_GEGLU)
            sum_terms(z + C + c, bias ? bias + C + c : NULL, row ? row + C + c : NULL, n, gate);
        sum_terms(z + c, bias ? bias + c : NULL, row ? row + c : NULL, n, a);
        activate(e->act, a, gate, n);
        finish(a, scale, add ? add + c : NULL, n, y + c);
    }
}

CLONES static void all_rows(const Call *call, const float *z, int64_t ldz, int64_t r0, int64_t n,
                            const float *bias)
{
    const Epi *e = &call->epi;
    const int64_t C = tensor_channels(call->out);
    for (int64_t r = r0; r < r0 + n; r++, z += ldz)
        row_tail(e, z, bias, e->row ? row_at(e->row, r / e->row_per) : NULL,
                 e->add ? row_at(e->add, r) : NULL, row_at(call->out, r), C);
}

void epilogue_rows(Cx *cx, const Call *call, const float *z, int64_t ldz, int64_t r0, int64_t n,
                   const float *bias)
{
    const Epi *e = &call->epi;
    const bool changes = bias || e->row || e->act != ACT_NONE || e->add || (e->scale != 0 && e->scale != 1);
    (void)cx;
    if (changes || z != row_at(call->out, r0))
        all_rows(call, z, ldz, r0, n, bias);
}
