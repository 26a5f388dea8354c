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

INLINE V silu_v(V x)
{
    return x / (1.0f + exp_v(-x));
}
INLINE V quick_gelu_v(V x)
{
    return x / (1.0f + exp_v(x * -1.702f));
}

/* max(x, 0) - |x| * Q(|x|), where Q(a) = P(X > a) = exp(-a*a/2) * t * poly(t), t = 1 / (1 + 0.35 a). */
INLINE V gelu_v(V x)
{
    const V a = (V)((U)x & 0x7fffffffu), t = 1.0f / (a * 0.35f + 1.0f);
    V p = t * -2.909554595e-2f + 1.437216979e-1f;
    p = p * t - 2.551866018e-1f;
    p = p * t + 1.585571748e-1f;
    p = p * t - 2.267403131e-2f;
    p = p * t + 1.053182272e-1f;
    p = p * t + 1.198824477e-1f;
    p = p * t + 1.398547897e-1f;
    p = p * t + 1.396218260e-1f;
    const V positive = (V)((I)x & (x > 0.0f));
    return positive - a * (exp_below_v(a * a * -0.5f) * (t * p));
}

#endif
