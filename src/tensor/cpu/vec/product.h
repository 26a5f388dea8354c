/* product.h: the microkernel: R x (NV*VL) sums in registers.
 *
 *     c[r][j] (+)= sum over k of  a[r*rs + k*ks] * b[k*NV*VL + j]          0 <= r < rows, 0 <= j < NV*VL
 *
 * a is read one value at a time and b a row at a time; either stride of a may be 1, so that rows (linears)
 * and columns (values of attention) are read where they lie. b is packed, or has ldb floats from row to row;
 * c has ldc.
 * The bf16 forms take pairs: a [rows][K/2] or [K/2][rows], b [K/2][NV*VL], 32 bits each. A call's sums begin
 * at zero, go over k in order whatever R is, and are added to c as a whole: long sums, made piece by piece,
 * stay exacter.
 *
 * Knows numbers. Refuses to know what they mean. */
#ifndef PRODUCT_H
#define PRODUCT_H

#include "tensor/cpu/vec/simd.h"

INLINE void tile(const int R, const int NV, const float *a, int64_t rs, int64_t ks, const float *b,
                 int64_t ldb, int64_t K, float *c, int64_t ldc, bool add)
{
    V s[MR][2];
    UNROLL for (int r = 0; r < R; r++) s[r][0] = s[r][1] = (V){0};
    const char *ahead = (const char *)(a + R * rs);
    for (int64_t k = 0; k < K; k++, a += ks, b += ldb) {
        const V b0 = ld(b), b1 = NV > 1 ? ld(b + VL) : b0;
        if (R == MR)
            __builtin_prefetch(ahead += MR * sizeof(float), 0, 2);
        UNROLL for (int r = 0; r < R; r++)
        {
            const float x = a[r * rs];
            s[r][0] += x * b0;
            if (NV > 1)
                s[r][1] += x * b1;
        }
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < NV; v++)
    {
        float *to = c + r * ldc + v * VL;
        st(to, add ? ld(to) + s[r][v] : s[r][v]);
    }
}

/* All rows: MR at a time, then what is left by 4, 2 and 1. */
#define ALL_ROWS(NV, RS, KS, LDB)                                                                            \
    int64_t r = 0;                                                                                           \
    for (; r + MR <= rows; r += MR)                                                                          \
        tile(MR, NV, a + r * (RS), RS, KS, b, LDB, K, c + r * ldc, ldc, add);                                \
    for (; r + 4 <= rows; r += 4)                                                                            \
        tile(4, NV, a + r * (RS), RS, KS, b, LDB, K, c + r * ldc, ldc, add);                                 \
    for (; r + 2 <= rows; r += 2)                                                                            \
        tile(2, NV, a + r * (RS), RS, KS, b, LDB, K, c + r * ldc, ldc, add);                                 \
    for (; r < rows; r++)                                                                                    \
        tile(1, NV, a + r * (RS), RS, KS, b, LDB, K, c + r * ldc, ldc, add);

#define PRODUCT(name, NV, RS, KS)                                                                            \
    static __attribute__((unused, noinline)) void name(const float *a, int64_t stride, const float *b,       \
                                                       int64_t K, float *c, int64_t ldc, int64_t rows,       \
                                                       bool add)                                             \
    {                                                                                                        \
        (void)stride;                                                                                        \
        ALL_ROWS(NV, RS, KS, (NV)*VL)                                                                        \
    }

/* b where it lies. */
#define PRODUCT_ROWS(name, NV)                                                                               \
    static __attribute__((unused, noinline)) void name(const float *a, int64_t stride, const float *b,       \
                                                       int64_t ldb, int64_t K, float *c, int64_t ldc,        \
                                                       int64_t rows, bool add)                               \
    {                                                                                                        \
        ALL_ROWS(NV, stride, 1, ldb)                                                                         \
    }

/* a[r*stride + k]: rows of a are rows of c. */
PRODUCT(product, 2, stride, 1)
PRODUCT(product_narrow, 1, stride, 1) /* b and c VL columns wide */
PRODUCT_ROWS(product_rows, 2)
PRODUCT_ROWS(product_rows_narrow, 1)
/* a[r + k*stride]: columns of a are rows of c. */
PRODUCT(product_columns, 2, 1, stride)
PRODUCT(product_columns_narrow, 1, 1, stride)

/* ---- bf16 -------------------------------------------------------------------------------- */

INLINE void tile_bf16(const int R, const uint32_t *a, int64_t rs, int64_t ks, const uint32_t *b,
                      int64_t pairs, float *c, int64_t ldc, bool add)
{
    V s[MR][2];
    UNROLL for (int r = 0; r < R; r++) s[r][0] = s[r][1] = (V){0};
    for (int64_t k = 0; k < pairs; k++, a += ks, b += NR) {
        const U b0 = *(const U1 *)b, b1 = *(const U1 *)(b + VL);
        UNROLL for (int r = 0; r < R; r++)
        {
            const U x = a[r * rs] - (U){0};
            s[r][0] = dot_bf16(s[r][0], x, b0);
            s[r][1] = dot_bf16(s[r][1], x, b1);
        }
    }
    UNROLL for (int r = 0; r < R; r++)
    {
        float *to = c + r * ldc;
        st(to, add ? ld(to) + s[r][0] : s[r][0]);
        st(to + VL, add ? ld(to + VL) + s[r][1] : s[r][1]);
    }
}

#define PRODUCT_BF16(name, RS, KS)                                                                           \
    static __attribute__((unused, noinline)) void name(const uint32_t *a, int64_t stride, const uint32_t *b, \
                                                       int64_t pairs, float *c, int64_t ldc, int64_t rows,   \
                                                       bool add)                                             \
    {                                                                                                        \
        int64_t r = 0;                                                                                       \
        for (; r + MR <= rows; r += MR)                                                                      \
            tile_bf16(MR, a + r * (RS), RS, KS, b, pairs, c + r * ldc, ldc, add);                            \
        for (; r + 4 <= rows; r += 4)                                                                        \
            tile_bf16(4, a + r * (RS), RS, KS, b, pairs, c + r * ldc, ldc, add);                             \
        for (; r + 2 <= rows; r += 2)                                                                        \
            tile_bf16(2, a + r * (RS), RS, KS, b, pairs, c + r * ldc, ldc, add);                             \
        for (; r < rows; r++)                                                                                \
            tile_bf16(1, a + r * (RS), RS, KS, b, pairs, c + r * ldc, ldc, add);                             \
    }

PRODUCT_BF16(product_bf16, stride, 1)
PRODUCT_BF16(product_columns_bf16, 1, stride)

#endif
