/* simd.h: a vector of VL floats, and what GCC's vector extensions do not spell: loads at any alignment, parts
 * of vectors, rounding to bf16, widening of stored weights.
 *
 * Knows lanes. Refuses to know tensors. */
#ifndef SIMD_H
#define SIMD_H

#include "tensor/cpu/vec/vec.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

enum { NR = 2 * VL, MR = VL == 16 ? 12 : 6 };

typedef float V __attribute__((vector_size(4 * VL)));
typedef int32_t I __attribute__((vector_size(4 * VL)));
typedef uint32_t U __attribute__((vector_size(4 * VL)));
typedef uint16_t H __attribute__((vector_size(2 * VL)));
typedef float V1 __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef uint32_t U1 __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef uint16_t H1 __attribute__((vector_size(2 * VL), aligned(1), may_alias));
typedef float V0 __attribute__((vector_size(4 * VL), aligned(1), may_alias));

INLINE V ld(const float *p)
{
    return *(const V1 *)p;
}
INLINE void st(float *p, V v)
{
    *(V1 *)p = v;
}
INLINE V splat(float x)
{
    return x - (V){0};
}
/* The first n < VL lanes, the rest 0. */
INLINE V ld_part(const float *p, int64_t n)
{
    V v = {0};
    memcpy(&v, p, (size_t)n * sizeof(float));
    return v;
}
INLINE void st_part(float *p, V v, int64_t n)
{
    memcpy(p, &v, (size_t)n * sizeof(float));
}
/* n >= 1 lanes, all of them when n >= VL. */
INLINE V ld_some(const float *p, int64_t n)
{
    return n >= VL ? ld(p) : ld_part(p, n);
}
INLINE void st_some(float *p, V v, int64_t n)
{
    if (n >= VL)
        st(p, v);
    else
        st_part(p, v, n);
}
/* mask ? a : b, mask a comparison's result. */
INLINE V choose_v(I mask, V a, V b)
{
    return (V)((mask & (I)a) | (~mask & (I)b));
}
/* a > b ? a : b, so b when either is NaN. One instruction, which GCC does not find by itself. */
INLINE V max_v(V a, V b)
{
#if defined(__AVX512F__) && VL == 16
    return (V)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__) && VL == 8
    return (V)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE__) && VL == 4
    return (V)_mm_max_ps((__m128)a, (__m128)b);
#else
    return choose_v(a > b, a, b);
#endif
}

/* a < b ? a : b, so b when either is NaN. */
INLINE V min_v(V a, V b)
{
#if defined(__AVX512F__) && VL == 16
    return (V)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX__) && VL == 8
    return (V)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE__) && VL == 4
    return (V)_mm_min_ps((__m128)a, (__m128)b);
#else
    return choose_v(a < b, a, b);
#endif
}

/* ---- bf16 -------------------------------------------------------------------------------- */

/* To nearest, ties to even, in the low half of each lane; NaN stays NaN. */
INLINE U round_bf16(V x)
{
    const U b = (U)x;
    const U r = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
    const U nan = (U)(x != x);
    return (r & ~nan) | (nan & 0x7fc0);
}

/* sum + a.lo * b.lo + a.hi * b.hi: pairs of bf16 in every lane. */
INLINE V dot_bf16(V sum, U a, U b)
{
#ifdef __AVX512BF16__
    return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    sum += (V)(a << 16) * (V)(b << 16);
    return sum + (V)(a & 0xffff0000u) * (V)(b & 0xffff0000u);
#endif
}

/* Pairs for dot_bf16: lane i is a[i] in the low half, b[i] in the high one. */
INLINE U pair_bf16(V a, V b)
{
#ifdef __AVX512BF16__
    static const uint16_t zip[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                     8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
    return (U)_mm512_permutexvar_epi16(_mm512_loadu_si512(zip), halves);
#else
    return round_bf16(a) | round_bf16(b) << 16;
#endif
}

/* n floats to n bf16, one behind the other. */
INLINE void to_bf16(const float *x, int64_t n, uint16_t *out)
{
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
#ifdef __AVX512BF16__
        const __m256bh h = _mm512_cvtneps_pbh((__m512)ld(x + i));
        memcpy(out + i, &h, sizeof h);
#else
        *(H1 *)(out + i) = __builtin_convertvector(round_bf16(ld(x + i)), H);
#endif
    }
    if (i < n) {
        const H h = __builtin_convertvector(round_bf16(ld_part(x + i, n - i)), H);
        memcpy(out + i, &h, (size_t)(n - i) * sizeof *out);
    }
}

/* ---- stored weights ---------------------------------------------------------------------- */

/* VL half floats. Denormals get a hidden bit that is subtracted again: no slow denormal arithmetic. */
INLINE V widen_f16(H h)
{
    const U u = __builtin_convertvector(h, U), magnitude = (u & 0x7fff) << 13;
    const U small = (U)(magnitude < (1u << 23)), huge = (U)(magnitude >= (0x7c00u << 13));
    const U bits = magnitude + (112u << 23) + (small & (1u << 23)) + (huge & (112u << 23));
    const V value = (V)bits - (V)(small & (113u << 23));
    return (V)((U)value | ((u & 0x8000) << 16));
}

/* Elements [at, at + VL) of a block of F32, F16 or BF16 at any alignment. */
INLINE V ld_stored(DType type, const void *p, int64_t at)
{
    if (type == F32)
        return *(const V0 *)((const char *)p + at * 4);
    const H h = *(const H1 *)((const char *)p + at * 2);
    return type == F16 ? widen_f16(h) : (V)(__builtin_convertvector(h, U) << 16);
}

/* ---- transposition ----------------------------------------------------------------------- */

/* Lane j of the result: lane at[j] of a, then b. clang 14 has no __builtin_shuffle, and is for tests alone.
 */
#ifdef __clang__
INLINE V pick(V a, V b, I at)
{
    V y;
    UNROLL for (int j = 0; j < VL; j++) y[j] = at[j] < VL ? a[at[j]] : b[at[j] - VL];
    return y;
}
#else
#define pick(a, b, at) __builtin_shuffle(a, b, at)
#endif

/* Lanes 2i and 2i+1 change places. */
INLINE V swap_pairs(V x)
{
    I lane;
    UNROLL for (int i = 0; i < VL; i++) lane[i] = i ^ 1;
    return pick(x, x, lane);
}

/* In place: row i, lane j <-> row j, lane i. Each round swaps blocks of `s` lanes between rows s apart. */
#define SWAP_ROUND(t, s)                                                                                     \
    UNROLL for (int i_ = 0; i_ < VL; i_++) if (!(i_ & (s)))                                                  \
    {                                                                                                        \
        I low, high;                                                                                         \
        UNROLL for (int j_ = 0; j_ < VL; j_++)                                                               \
        {                                                                                                    \
            low[j_] = j_ & (s) ? VL + j_ - (s) : j_;                                                         \
            high[j_] = j_ & (s) ? VL + j_ : j_ + (s);                                                        \
        }                                                                                                    \
        const V a_ = t[i_], b_ = t[i_ + (s)];                                                                \
        t[i_] = pick(a_, b_, low);                                                                           \
        t[i_ + (s)] = pick(a_, b_, high);                                                                    \
    }

INLINE void transpose(V t[VL])
{
    SWAP_ROUND(t, 1)
    SWAP_ROUND(t, 2)
#if VL >= 8
    SWAP_ROUND(t, 4)
#endif
#if VL >= 16
    SWAP_ROUND(t, 8)
#endif
}

#endif
