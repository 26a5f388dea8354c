/* math.h: exponential and activations of a vector of float32. No branches, no tables; NaN stays NaN.
 *
 *     exp     2 ulp on [-87, 88], held at the ends outside (1.6e-38 instead of 0)
 *     GELU    x * P(X < x) for a normal X, absolute error 2.4e-7 (half an ulp of the result at 4)
 *
 * Coefficients are minimax fits of our own. */
#ifndef VEC_MATH_H
#define VEC_MATH_H

#include "tensor/cpu/vec/simd.h"

/* Of x <= 88. 2^n * e^r with n = round(x / ln 2): adding 1.5 * 2^23 rounds, and leaves n in the low bits. */
INLINE V exp_below_v(V x)
{
    x = max_v(splat(-87.0f), x); /* this order: NaN stays */
    const V t = x * 1.44269504f + 12582912.0f, n = t - 12582912.0f;
    const V r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    V p = r * 1.381453724e-3f + 8.368745407e-3f;
    p = p * r + 4.166839085e-2f;
    p = p * r + 1.666652040e-1f;
    p = p * r + 4.999999343e-1f;
    p = p * (r * r) + r + 1.0f;
    const U bits = ((U)t - 0x4B400000u + 127u) << 23;
    return p * (V)bits;
}

INLINE V exp_v(V x)
{
    return exp_below_v(min_v(splat(88.0f), x));
}

/* 2^x for x <= 0, 1.5 ulp; 0 below -127. The polynomial is a minimax fit of our own on [-1/2, 1/2]; adding
 * 1.5 * 2^23 rounds, and leaves the integer in the low bits. */
INLINE V exp2_v(V x)
{
    x = max_v(splat(-127.0f), x);
    const V t = x + 12582912.0f, r = x - (t - 12582912.0f);
    V p = r * 1.326471509e-3f + 9.671512771e-3f;
    p = p * r + 5.550733773e-2f;
    p = p * r + 2.402224208e-1f;
    p = p * r + 6.931469776e-1f;
    p = p * r + 1.0f;
    return (V)((U)p + ((U)t << 23));
}

INLINE V silu_v(V x)
{
    return x / (1.0f + exp_v(-x));
}
INLINE V quick_gelu_v(V x)
{
    return x / (1.0f + exp_v(x * -1.702f));
}

/* Q(a) = P(X > a) = exp(-a*a/2) * t * poly(t), t = 1 / (1 + 0.35 a), of a >= 0; *e = exp(-a*a/2). */
INLINE V normal_tail_v(V a, V *e)
{
    const V t = 1.0f / (a * 0.35f + 1.0f);
    V p = t * -2.909554595e-2f + 1.437216979e-1f;
    p = p * t - 2.551866018e-1f;
    p = p * t + 1.585571748e-1f;
    p = p * t - 2.267403131e-2f;
    p = p * t + 1.053182272e-1f;
    p = p * t + 1.198824477e-1f;
    p = p * t + 1.398547897e-1f;
    p = p * t + 1.396218260e-1f;
    *e = exp_below_v(a * a * -0.5f);
    return *e * (t * p);
}

/* max(x, 0) - |x| * Q(|x|) */
INLINE V gelu_v(V x)
{
    const V a = (V)((U)x & 0x7fffffffu);
    V e;
    const V q = normal_tail_v(a, &e), positive = (V)((I)x & (x > 0.0f));
    return positive - a * q;
}

/* ---- derivatives ------------------------------------------------------------------------- */

/* Of x / (1 + exp(-k x)): s (1 + k x (1 - s)), s = 1 / (1 + exp(-k x)). */
INLINE V sigmoid_slope_v(V x, float k)
{
    const V s = 1.0f / (1.0f + exp_v(x * -k));
    return s * (x * k * (1.0f - s) + 1.0f);
}
INLINE V silu_slope_v(V x)
{
    return sigmoid_slope_v(x, 1.0f);
}
INLINE V quick_gelu_slope_v(V x)
{
    return sigmoid_slope_v(x, 1.702f);
}

/* P(X < x) + x exp(-x*x/2) / sqrt(2 pi), and through *value GELU itself. */
INLINE V gelu_slope_v(V x, V *value)
{
    const V a = (V)((U)x & 0x7fffffffu);
    V e;
    const V q = normal_tail_v(a, &e), below = choose_v(x > 0.0f, 1.0f - q, q);
    *value = x * below;
    return x * e * 0.398942280f + below;
}

#endif
