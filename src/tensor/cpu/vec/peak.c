/* peak.c: the ceiling: how many multiply-adds a second one thread can do when nothing is ever loaded.
 *
 * Twelve sums (MR, where there are registers for more) that depend on nothing but themselves hide the
 * latency. */
#include "tensor/cpu/vec/simd.h"

enum { SUMS = 12, ROUNDS = 20000 };

/* What the compiler may neither know nor drop. */
static volatile float scale = 0.999999f, step = 1e-6f, sink;

static double seconds_of(bool bf16)
{
    V s[SUMS];
    UNROLL for (int i = 0; i < SUMS; i++) s[i] = splat((float)i);
    const V x = splat(scale), y = splat(step);
    const double start = seconds_now();
    if (bf16)
        for (int r = 0; r < ROUNDS; r++)
            UNROLL for (int i = 0; i < SUMS; i++) s[i] = dot_bf16(s[i], (U)x, (U)y);
    else
        for (int r = 0; r < ROUNDS; r++)
            UNROLL for (int i = 0; i < SUMS; i++) s[i] = s[i] * x + y;
    for (int i = 1; i < SUMS; i++)
        s[0] += s[i];
    sink = s[0][0];
    return seconds_now() - start;
}

double VEC(peak)(bool bf16)
{
    double least = 1;
    for (int i = 0; i < 40; i++)
        least = MIN(least, seconds_of(bf16));
    return (bf16 ? 4.0 : 2.0) * VL * SUMS * ROUNDS / least;
}
