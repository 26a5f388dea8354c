/* taps.h: a bilinear look between the pixels of a picture or a flow, for the metrics that warp.
 *
 *     W(I, f)(p) = bilinear I(p + f(p)), taps clamped to the border (FlowNet2's Resample2d)
 *
 * Refuses to know what is looked at. */
#ifndef TAPS_H
#define TAPS_H

#include "base/base.h"

#include <math.h>

typedef struct {
    size_t at[2][2]; /* pixel numbers y * w + x: [lower, upper][left, right] */
    float fx, fy;    /* 0..1 on the way to the right, to the lower one */
} Taps;

/* A place outside has both taps on the border; one that is not finite counts as outside. */
static inline double taps_inside(double v, int n)
{
    return !(v > -1.0) ? -1.0 : v > n ? n : v;
}

static inline Taps taps_at(double x, double y, int w, int h)
{
    x = taps_inside(x, w), y = taps_inside(y, h);
    const int x0 = (int)floor(x), y0 = (int)floor(y);
    const size_t left = (size_t)MIN(MAX(x0, 0), w - 1), right = (size_t)MIN(MAX(x0 + 1, 0), w - 1);
    const size_t up = (size_t)MIN(MAX(y0, 0), h - 1) * (size_t)w,
                 low = (size_t)MIN(MAX(y0 + 1, 0), h - 1) * (size_t)w;
    return (Taps){{{up + left, up + right}, {low + left, low + right}}, (float)(x - x0), (float)(y - y0)};
}

/* From four values; equal ones give just that value. */
static inline float taps_mix(const Taps *t, float a, float b, float c, float d)
{
    const float upper = a + t->fx * (b - a), lower = c + t->fx * (d - c);
    return upper + t->fy * (lower - upper);
}

static inline float taps_byte(const Taps *t, const uint8_t *x, int channels, int c)
{
    const size_t k = (size_t)channels;
    return taps_mix(t, x[k * t->at[0][0] + (size_t)c], x[k * t->at[0][1] + (size_t)c],
                    x[k * t->at[1][0] + (size_t)c], x[k * t->at[1][1] + (size_t)c]);
}

static inline float taps_flow(const Taps *t, const float *f, int c)
{
    return taps_mix(t, f[2 * t->at[0][0] + (size_t)c], f[2 * t->at[0][1] + (size_t)c],
                    f[2 * t->at[1][0] + (size_t)c], f[2 * t->at[1][1] + (size_t)c]);
}

#endif
