/* report_view.c: what a report keeps of a clip while it streams by, in memory that does not grow with its
 * length but for two numbers of each frame.
 *
 *     thumbnails     frames 0, s, 2s, ...; when 4 times as many as wanted are kept, every second is dropped
 * and s doubles: what is chosen of them at the end is then nearly even slices         the middle row and the
 * middle column of frames 0, s, 2s, ..., at most 1024, in the same way per frame      mean luma Y = .299 R +
 * .587 G + .114 B, and mean |difference| of all values to the frame before largest change that pair of
 * neighbours, and their difference pixel by pixel
 *
 * Refuses to know pages. */
#include "app/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { KEPT = 4 }; /* thumbnails for each that will be shown */

ClipView *clip_view_new(int most)
{
    ClipView *v = calloc(1, sizeof *v);
    if (!v)
        return NULL;
    v->most = most < 2 ? 2 : most > MOST_THUMBS ? MOST_THUMBS : most;
    v->thumb_stride = v->slice_stride = 1;
    v->thumbs = calloc(KEPT * (size_t)v->most, sizeof *v->thumbs);
    if (!v->thumbs) {
        clip_view_free(v);
        return NULL;
    }
    return v;
}

void clip_view_free(ClipView *v)
{
    if (!v)
        return;
    for (int i = 0; i < v->n_thumbs; i++)
        free(v->thumbs[i].rgb);
    free(v->thumbs);
    free(v->last);
    free(v->across);
    free(v->down);
    free(v->luma);
    free(v->change);
    free(v->before.rgb);
    free(v->after.rgb);
    free(v->heat);
    free(v);
}

/* ---- room -------------------------------------------------------------------------------- */

static int begin(ClipView *v, int width, int height, gimbal_error *err)
{
    int one;
    v->width = width, v->height = height;
    fit_size(width, 1, SLICE_SIDE, &v->across_side, &one);
    fit_size(height, 1, SLICE_SIDE, &v->down_side, &one);
    v->last = malloc(3 * (size_t)width * (size_t)height);
    v->across = malloc((size_t)MOST_SLICES * 3 * (size_t)v->across_side);
    v->down = malloc((size_t)MOST_SLICES * 3 * (size_t)v->down_side);
    return v->last && v->across && v->down ? GIMBAL_OK : fail_memory(err);
}

static int grow(ClipView *v, gimbal_error *err)
{
    if (v->frames < v->room)
        return GIMBAL_OK;
    if (v->room > INT32_MAX / 2)
        return complain(err, GIMBAL_EUSAGE, NULL, "a clip of more than %d frames", v->room);
    const int room = v->room ? 2 * v->room : 256;
    double *luma = realloc(v->luma, (size_t)room * sizeof *luma);
    v->luma = luma ? luma : v->luma;
    double *change = realloc(v->change, (size_t)room * sizeof *change);
    v->change = change ? change : v->change;
    if (!luma || !change)
        return fail_memory(err);
    v->room = room;
    return GIMBAL_OK;
}

/* ---- thumbnails and slices --------------------------------------------------------------- */

static int keep_thumb(ClipView *v, const uint8_t *rgb, gimbal_error *err)
{
    if (v->frames % v->thumb_stride)
        return GIMBAL_OK;
    if (v->n_thumbs == KEPT * v->most) {
        for (int i = 0; i < v->n_thumbs; i++)
            if (i & 1)
                free(v->thumbs[i].rgb);
            else
                v->thumbs[i / 2] = v->thumbs[i];
        v->n_thumbs /= 2, v->thumb_stride *= 2;
        if (v->frames % v->thumb_stride)
            return GIMBAL_OK;
    }
    if (!shrink_to(&v->thumbs[v->n_thumbs], rgb, v->width, v->height, THUMB_SIDE, v->frames))
        return fail_memory(err);
    v->n_thumbs++;
    return GIMBAL_OK;
}

static void halve(uint8_t *slices, int n, size_t size)
{
    for (int i = 1; i < n / 2; i++)
        memcpy(slices + (size_t)i * size, slices + 2 * (size_t)i * size, size);
}

static int keep_slices(ClipView *v, const uint8_t *rgb, gimbal_error *err)
{
    const size_t width = (size_t)v->width, across = 3 * (size_t)v->across_side,
                 down = 3 * (size_t)v->down_side;
    if (v->n_slices == MOST_SLICES && v->frames % v->slice_stride == 0) {
        halve(v->across, MOST_SLICES, across);
        halve(v->down, MOST_SLICES, down);
        v->n_slices = MOST_SLICES / 2, v->slice_stride *= 2;
    }
    if (v->frames % v->slice_stride)
        return GIMBAL_OK;
    uint8_t *column = malloc(3 * (size_t)v->height);
    if (!column)
        return fail_memory(err);
    for (int y = 0; y < v->height; y++)
        memcpy(column + 3 * (size_t)y, rgb + 3 * ((size_t)y * width + width / 2), 3);
    shrink(rgb + 3 * width * (size_t)(v->height / 2), v->width, 1, v->across + (size_t)v->n_slices * across,
           v->across_side, 1);
    shrink(column, v->height, 1, v->down + (size_t)v->n_slices * down, v->down_side, 1);
    free(column);
    v->n_slices++;
    return GIMBAL_OK;
}

/* ---- neighbours -------------------------------------------------------------------------- */

static double mean_luma(const uint8_t *rgb, size_t pixels)
{
    uint64_t r = 0, g = 0, b = 0;
    for (size_t i = 0; i < pixels; i++)
        r += rgb[3 * i], g += rgb[3 * i + 1], b += rgb[3 * i + 2];
    return (.299 * (double)r + .587 * (double)g + .114 * (double)b) / (double)pixels;
}

static double mean_difference(const uint8_t *a, const uint8_t *b, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (uint64_t)abs(a[i] - b[i]);
    return (double)sum / (double)n;
}

static void fill_heat(const ClipView *v, const uint8_t *rgb, float *heat, int w, int h)
{
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            const int y0 = (int)((int64_t)y * v->height / h), y1 = (int)((int64_t)(y + 1) * v->height / h),
                      x0 = (int)((int64_t)x * v->width / w), x1 = (int)((int64_t)(x + 1) * v->width / w);
            double sum = 0;
            for (int i = y0; i < y1; i++) {
                const size_t at = 3 * ((size_t)i * (size_t)v->width + (size_t)x0), n = 3 * (size_t)(x1 - x0);
                sum += mean_difference(v->last + at, rgb + at, n) * (x1 - x0);
            }
            heat[(size_t)y * (size_t)w + (size_t)x] = (float)(sum / ((double)(y1 - y0) * (x1 - x0)));
        }
}

static int keep_pair(ClipView *v, const uint8_t *rgb, gimbal_error *err)
{
    Picture before = {0}, after = {0};
    const bool pictures = shrink_to(&before, v->last, v->width, v->height, PAIR_SIDE, v->frames - 1) &&
                          shrink_to(&after, rgb, v->width, v->height, PAIR_SIDE, v->frames);
    float *heat = pictures ? malloc((size_t)before.width * (size_t)before.height * sizeof *heat) : NULL;
    if (!heat) {
        free(before.rgb);
        free(after.rgb);
        return fail_memory(err);
    }
    free(v->before.rgb);
    free(v->after.rgb);
    free(v->heat);
    fill_heat(v, rgb, heat, before.width, before.height);
    v->before = before, v->after = after, v->heat = heat;
    return GIMBAL_OK;
}

int clip_view_see(void *clip_view, int i, const uint8_t *rgb, int width, int height, gimbal_error *err)
{
    ClipView *v = clip_view;
    if (!v->frames)
        TRY(begin(v, width, height, err));
    if (width != v->width || height != v->height || i != v->frames)
        return complain(err, GIMBAL_EUSAGE, NULL, "picture %d of %dx%d pixels, expected picture %d of %dx%d",
                        i, width, height, v->frames, v->width, v->height);
    const size_t pixels = (size_t)width * (size_t)height;
    TRY(grow(v, err));
    TRY(keep_thumb(v, rgb, err));
    TRY(keep_slices(v, rgb, err));
    v->luma[i] = mean_luma(rgb, pixels);
    v->change[i] = i ? mean_difference(v->last, rgb, 3 * pixels) : NAN;
    if (i && (!v->before.rgb || v->change[i] > v->change[v->after.frame]))
        TRY(keep_pair(v, rgb, err));
    memcpy(v->last, rgb, 3 * pixels);
    v->frames++;
    return GIMBAL_OK;
}

/* ---- the spectrum over time -------------------------------------------------------------- */

/* |sum_t x_t exp(-2 pi i k t / m)|^2; turn[j] = (cos, sin)(2 pi j / m) */
static double power_at(const double *x, int m, int k, double (*turn)[2])
{
    double re = 0, im = 0;
    for (int t = 0, j = 0; t < m; t++, j = (j + k) % m)
        re += x[t] * turn[j][0], im += x[t] * turn[j][1];
    return re * re + im * im;
}

int time_spectrum(const double *x, int n, double amplitude[MOST_SLICES / 2 + 1])
{
    double turn[MOST_SLICES][2];
    const int m = n < MOST_SLICES ? n : MOST_SLICES, windows = n / m;
    for (int j = 0; j < m; j++)
        turn[j][0] = cos(2 * M_PI * j / m), turn[j][1] = sin(2 * M_PI * j / m);
    for (int k = 0; k <= m / 2; k++) {
        double power = 0;
        for (int w = 0; w < windows; w++)
            power += power_at(x + (size_t)w * (size_t)m, m, k, turn);
        const double once =
            k == 0 || 2 * k == m ? 1 : 2; /* the mean and the highest frequency have no mirror image */
        amplitude[k] = once * sqrt(power / windows) / m;
    }
    return m;
}
