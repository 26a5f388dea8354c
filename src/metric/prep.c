/* prep.c: pictures as networks were given them: resized, cropped, normalised, to torchvision's letter.
 *
 * Resizing is separable: along each axis an output is a few weighted inputs (taps). With `in` pixels to
 * `out`:
 *
 *   plain        s = (d + 0.5) in/out - 0.5;  bilinear: s not below 0, two taps;  bicubic: a = -0.75, four
 *                taps, places clamped to the picture. No low pass: shrinking aliases; the definition is so
 *   antialiased  the kernel (bicubic: a = -0.5) widened by in/out where that is above 1, cut at the border,
 *                divided by its sum: Pillow's way, and torch's antialias=True
 *
 * Unrounded pictures keep overshoots below 0 and above 255. Rounded and plain: clamped and rounded to bytes
 * once, as torchvision does with uint8 tensors. Rounded and antialiased: Pillow itself, with 22-bit weights
 * and bytes between across and down (10.4; Pillow 13.0 goes down first where that is less work, which moves
 * some bytes by one). The long side is int(n * long / short); a centre crop begins at the half rounded to
 * even. Then (x / 255 - mean) / std.
 *
 * Knows bytes and kernels. Refuses to know networks and metrics. */
#include "metric/metric.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BITS = 22, EXACT = -1 };

static const struct {
    int side, crop; /* short side; square cut out of the middle, 0: none, EXACT: both sides are `side` */
    bool cubic;
    float mean[3], std[3];
} kinds[] = {
    [PREP_DINO] = {224, 0, false, {0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}},
    [PREP_CLIP] =
        {224, 224, true, {0.48145466f, 0.4578275f, 0.40821073f}, {0.26862954f, 0.26130258f, 0.27577711f}},
    [PREP_DINO_CROP] = {256, 224, true, {0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}},
    [PREP_I3D] = {224, EXACT, false, {0.5f, 0.5f, 0.5f}, {0.5f, 0.5f, 0.5f}},
};

/* ---- sizes ------------------------------------------------------------------------------- */

/* Size before the crop. */
static void resized(Prep kind, int w, int h, int *rw, int *rh)
{
    const int side = kinds[kind].side;
    const double other = (double)side * MAX(w, h) / MIN(w, h);
    *rw = *rh = side;
    if (kinds[kind].crop != EXACT)
        *(w > h ? rw : rh) = (int)MIN(other, INT_MAX / 2);
}

void prep_size(Prep kind, int w, int h, int *pw, int *ph)
{
    resized(kind, w, h, pw, ph);
    if (kinds[kind].crop > 0)
        *pw = *ph = kinds[kind].crop;
}

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

static float to_byte(float x)
{
    return rintf(MIN(MAX(x, 0), 255));
}

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
} Resize;

static float weighed(const Resize *r, const Taps *t, int i)
{
    const size_t at = (size_t)i * (size_t)t->most;
    return r->pillow ? fixed_sum(t->fixed + at, r->value, t->most)
                     : float_sum(t->weight + at, r->value, t->most);
}

/* Row `rgb` [w][3] -> out [x.n][3]. */
static void across(const Resize *r, const uint8_t *rgb, float *out)
{
    const Taps *t = &r->x;
    for (int i = 0; i < t->n; i++)
        for (int c = 0; c < 3; c++) {
            for (int k = 0; k < t->most; k++)
                r->value[k] = rgb[3 * (size_t)t->at[i * t->most + k] + (size_t)c];
            out[3 * i + c] = weighed(r, t, i);
        }
}

/* rows [..][x.n][3], of which at[] are wanted -> out [y.n][x.n][3] */
static void down(const Resize *r, const float *rows, int first_row, float *out)
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

/* Only the rows that the crop needs go across. */
static bool resize(Resize *r, const uint8_t *rgb, int w, float *out)
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
        across(r, rgb + 3 * (size_t)y * (size_t)w, rows + (size_t)(y - first) * width);
    if (room)
        down(r, rows, first, out);
    free(rows);
    free(r->value);
    return room;
}

int prep_picture(Prep kind, const uint8_t *rgb, int w, int h, bool antialias, bool round, float *out,
                 gimbal_error *err)
{
    const bool cubic_kernel = kinds[kind].cubic;
    int rw, rh, pw, ph;
    resized(kind, w, h, &rw, &rh);
    prep_size(kind, w, h, &pw, &ph);
    Resize r = {.pillow = antialias && round};
    const bool room = make_taps(&r.x, w, rw, (int)rint((rw - pw) / 2.0), pw, cubic_kernel, antialias) &&
                      make_taps(&r.y, h, rh, (int)rint((rh - ph) / 2.0), ph, cubic_kernel, antialias) &&
                      resize(&r, rgb, w, out);
    free_taps(&r.x);
    free_taps(&r.y);
    if (!room)
        return fail(err, GIMBAL_ENOMEM, "no memory to resize a picture of %dx%d to %dx%d", w, h, rw, rh);
    for (size_t i = 0; i < 3 * (size_t)pw * (size_t)ph; i++) {
        const float x = round ? to_byte(out[i]) : out[i];
        out[i] = (x / 255 - kinds[kind].mean[i % 3]) / kinds[kind].std[i % 3];
    }
    return GIMBAL_OK;
}
