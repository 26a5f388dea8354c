/* resize.c: pictures resized, to torch's and Pillow's letter.
 *
 * Resizing is separable: along each axis an output is a few weighted inputs (taps). With `in` pixels to
 * `out`:
 *
 *   plain        s = (d + 0.5) in/out - 0.5;  bilinear: s not below 0, two taps;  bicubic: a = -0.75, four
 *                taps, places clamped to the picture. No low pass: shrinking aliases; the definition is so
 *   antialiased  the kernel (bicubic: a = -0.5) widened by in/out where that is above 1, cut at the border,
 *                divided by its sum: Pillow's way, and torch's antialias=True
 *
 * pillow: antialiased as Pillow itself does, with 22-bit weights and bytes between across and down (10.4;
 * Pillow 13.0 goes down first where that is less work, which moves some bytes by one). Overshoots stay as
 * they are but there. Only what is wanted of the result is computed.
 *
 * Knows pictures and kernels. Refuses to know what they are resized for. */
#include "signal/signal.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>

enum { BITS = 22 };

/* ---- one axis ---------------------------------------------------------------------------- */

/* For outputs from..from+n: `most` inputs each and their weights, [n][most]. */
typedef struct {
    int n, most, *at;
    float *weight;
    int32_t *fixed; /* the weights times 2^BITS, rounded */
} Taps;

static double cubic(double x, double a)
{
    x = fabs(x);
    return x < 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

static void plain_taps(const Taps *t, int i, int d, int in, int out, bool bicubic)
{
    const float scale = (float)in / (float)out;
    float s = scale * ((float)d + 0.5f) - 0.5f;
    if (!bicubic)
        s = MAX(s, 0);
    const int base = (int)floorf(s), first = bicubic ? -1 : 0;
    const float part = s - (float)base;
    for (int k = 0; k < t->most; k++) {
        const float distance = part - (float)(k + first);
        t->at[i * t->most + k] = MIN(MAX(base + k + first, 0), in - 1);
        t->weight[i * t->most + k] = bicubic ? (float)cubic(distance, -0.75) : 1 - fabsf(distance);
    }
}

static void wide_taps(const Taps *t, int i, int d, int in, int out, bool bicubic)
{
    const double scale = (double)in / out, wide = MAX(scale, 1), support = (bicubic ? 2 : 1) * wide,
                 centre = (d + 0.5) * scale;
    const int from = (int)MAX(centre - support + 0.5, 0), to = (int)MIN(centre + support + 0.5, in);
    double weight[2] = {0}; /* sum, this one */
    for (int pass = 0; pass < 2; pass++)
        for (int k = 0; k < t->most; k++) {
            const double x = (from + k - centre + 0.5) / wide;
            weight[1] = from + k >= to ? 0 : bicubic ? cubic(x, -0.5) : MAX(1 - fabs(x), 0);
            t->at[i * t->most + k] = MIN(from + k, in - 1);
            if (pass) {
                const double share = weight[1] / weight[0];
                t->weight[i * t->most + k] = (float)share;
                t->fixed[i * t->most + k] = (int32_t)(share * (1 << BITS) + (share < 0 ? -0.5 : 0.5));
            } else {
                weight[0] += weight[1];
            }
        }
}

static void free_taps(Taps *t)
{
    free(t->at);
    free(t->weight);
    free(t->fixed);
}

/* Outputs from .. from + n of `out`. False: no memory. */
static bool make_taps(Taps *t, int in, int out, int from, int n, bool bicubic, bool antialias)
{
    const double scale = antialias ? MAX((double)in / out, 1) : 1;
    *t = (Taps){.n = n, .most = antialias ? 2 * (int)ceil((bicubic ? 2 : 1) * scale) + 1 : bicubic ? 4 : 2};
    const size_t count = (size_t)n * (size_t)t->most;
    t->at = alloc_array(count, sizeof *t->at);
    t->weight = alloc_array(count, sizeof *t->weight);
    t->fixed = alloc_array(count, sizeof *t->fixed);
    if (!t->at || !t->weight || !t->fixed)
        return false;
    for (int i = 0; i < n; i++)
        (antialias ? wide_taps : plain_taps)(t, i, from + i, in, out, bicubic);
    return true;
}

/* ---- both axes --------------------------------------------------------------------------- */

/* Pillow: bytes in, a byte out. */
static float fixed_sum(const int32_t *weight, const float *value, int n)
{
    int64_t sum = 1 << (BITS - 1);
    for (int k = 0; k < n; k++)
        sum += (int64_t)weight[k] * (int64_t)value[k];
    return (float)MIN(MAX(sum >> BITS, 0), 255);
}

static float float_sum(const float *weight, const float *value, int n)
{
    float sum = 0;
    for (int k = 0; k < n; k++)
        sum += weight[k] * value[k];
    return sum;
}

typedef struct {
    Taps x, y;
    bool pillow;
    float *value; /* [most taps] of one sum */
} Sums;

static float weighed(const Sums *r, const Taps *t, int i)
{
    const size_t at = (size_t)i * (size_t)t->most;
    return r->pillow ? fixed_sum(t->fixed + at, r->value, t->most)
                     : float_sum(t->weight + at, r->value, t->most);
}

static float pixel(const Picture *in, size_t at)
{
    return in->bytes ? in->bytes[at] : in->floats[at];
}

/* Row y of the picture -> out [x.n][3]. */
static void across(const Sums *r, const Picture *in, int y, float *out)
{
    const Taps *t = &r->x;
    const size_t row = 3 * (size_t)y * in->row;
    for (int i = 0; i < t->n; i++)
        for (size_t c = 0; c < 3; c++) {
            for (int k = 0; k < t->most; k++)
                r->value[k] = pixel(in, row + 3 * (size_t)t->at[i * t->most + k] + c);
            out[3 * (size_t)i + c] = weighed(r, t, i);
        }
}

/* rows [..][x.n][3], of which at[] are wanted -> out [y.n][x.n][3] */
static void down(const Sums *r, const float *rows, int first_row, float *out)
{
    const Taps *t = &r->y;
    const size_t width = 3 * (size_t)r->x.n;
    for (int i = 0; i < t->n; i++)
        for (size_t c = 0; c < width; c++) {
            for (int k = 0; k < t->most; k++)
                r->value[k] = rows[(size_t)(t->at[i * t->most + k] - first_row) * width + c];
            out[(size_t)i * width + c] = weighed(r, t, i);
        }
}

/* Only the rows that are wanted go across. */
static bool both_ways(Sums *r, const Picture *in, float *out)
{
    const Taps *t = &r->y;
    const size_t width = 3 * (size_t)r->x.n;
    int first = INT_MAX, last = 0;
    for (int i = 0; i < t->n * t->most; i++)
        first = MIN(first, t->at[i]), last = MAX(last, t->at[i]);
    r->value = alloc_array((size_t)MAX(r->x.most, t->most), sizeof *r->value);
    float *rows = alloc_array((size_t)(last - first + 1), width * sizeof *rows);
    const bool room = r->value && rows;
    for (int y = first; room && y <= last; y++)
        across(r, in, y, rows + (size_t)(y - first) * width);
    if (room)
        down(r, rows, first, out);
    free(rows);
    free(r->value);
    return room;
}

int resize_picture(Picture in, const Resize *to, float *out, gimbal_error *err)
{
    Sums r = {.pillow = to->pillow};
    const bool room = make_taps(&r.x, in.w, to->w, to->left, to->width, to->cubic, to->antialias) &&
                      make_taps(&r.y, in.h, to->h, to->top, to->height, to->cubic, to->antialias) &&
                      both_ways(&r, &in, out);
    free_taps(&r.x);
    free_taps(&r.y);
    return room ? GIMBAL_OK
                : fail(err, GIMBAL_ENOMEM, "no memory to resize a picture of %dx%d to %dx%d", in.w, in.h,
                       to->w, to->h);
}
