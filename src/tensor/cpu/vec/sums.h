/* sums.h: sums over rows, for gradients of what was added to many rows (biases, time embeddings, positions).
 *
 * Rows are cut into blocks of `per`, and these into segments of at most SEGMENT rows, which are summed in
 * float32, each by one thread; segments' sums are added up in double, in order. The cut follows the shape
 * alone.
 *
 *     parts [blocks][segments][C]
 *
 * Knows rows of floats. Refuses to know what they are of. */
#ifndef SUMS_H
#define SUMS_H

#include "tensor/cpu/vec/simd.h"

enum { SEGMENT = 128, STRIP = 8 * VL };

typedef struct {
    const float *g;
    int64_t ld, rows, C, per;
} RowSums;

static inline int64_t sum_segments(const RowSums *s)
{
    return (MIN(s->per, s->rows) + SEGMENT - 1) / SEGMENT;
}
static inline int64_t sum_blocks(const RowSums *s)
{
    return (s->rows + s->per - 1) / s->per;
}
static inline size_t sum_bytes(const RowSums *s)
{
    return round64((size_t)(sum_blocks(s) * sum_segments(s) * s->C) * sizeof(float));
}

/* Sums of n rows, at most STRIP channels of each. */
INLINE void sum_strip(const float *g, int64_t apart, int64_t n, int64_t C, float *out)
{
    if (C == STRIP) {
        V s[8] = {{0}};
        for (int64_t r = 0; r < n; r++)
            UNROLL for (int i = 0; i < 8; i++) s[i] += ld(g + r * apart + i * VL);
        UNROLL for (int i = 0; i < 8; i++) st(out + i * VL, s[i]);
        return;
    }
    for (int64_t c = 0; c < C; c += VL) {
        V s[4] = {{0}};
        int64_t r = 0;
        for (; C - c >= VL && r + 4 <= n; r += 4)
            UNROLL for (int i = 0; i < 4; i++) s[i] += ld(g + (r + i) * apart + c);
        for (; r < n; r++)
            s[0] += ld_some(g + r * apart + c, C - c);
        st_some(out + c, (s[0] + s[1]) + (s[2] + s[3]), C - c);
    }
}

/* Fills parts. */
static inline void sum_parts(const Cx *cx, const RowSums *s, double ns, float *parts)
{
    const int64_t each = sum_segments(s);
    PARALLEL_FOR(cx, ns)
    for (int64_t i = 0; i < sum_blocks(s) * each; i++) {
        const int64_t end = MIN(s->rows, (i / each + 1) * s->per);
        const int64_t r = MIN(end, i / each * s->per + i % each * SEGMENT), n = MIN(SEGMENT, end - r);
        for (int64_t c = 0; c < s->C; c += STRIP)
            sum_strip(s->g + r * s->ld + c, s->ld, n, MIN(STRIP, s->C - c), parts + i * s->C + c);
    }
}

/* out[c] += the sum of parts of blocks k, k + step, ... */
static inline void sum_up(const RowSums *s, const float *parts, int64_t k, int64_t step, float *out)
{
    const int64_t each = sum_segments(s);
    for (int64_t c = 0; c < s->C; c++) {
        double sum = 0;
        for (int64_t b = k; b < sum_blocks(s); b += step)
            for (int64_t i = b * each; i < (b + 1) * each; i++)
                sum += parts[i * s->C + c];
        out[c] += (float)sum;
    }
}

#endif
