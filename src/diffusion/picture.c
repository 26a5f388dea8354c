/* picture.c: a picture of any size made to fit a clip, and ConsistI2V's camera moves, to its code's letter.
 *
 *     crop   the smaller side becomes H, the other floor(H long / short); the middle W x H is cut out from
 *            round-half-even((n - N) / 2); where the picture is smaller, black is put around it, the odd
 * pixel right and below pan    smaller side H; a window W x H at x = trunc((W' - W) i / T), or of 1 - i / T
 * to the left zoom   smaller side 2 H, m = min(W', H'), d = m - floor(m / 1.5); a centred square of side m -
 * trunc(d i / T) (in) or floor(m / 1.5) + trunc(d i / T) (out) is resized to W x W
 *
 * All of it bilinear with half-pixel centres and without a low pass, in training too (Ren et al., ConsistI2V,
 * TMLR 2024, and its code). The published zoom-out computes sides that are no whole numbers and fails; these
 * are what it means. rgb [h][w][3] bytes, pixels [height][width][3] in -1..1.
 *
 * Knows pixels. Refuses to know files, latents and what the pictures are for. */
#include "diffusion/picture.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_SIDE = 1 << 16, MOST_RESULT = 8192 };

int picture_check(const uint8_t *rgb, int w, int h, int width, int height, gimbal_error *err)
{
    if (!rgb || w < 1 || h < 1 || w > MOST_SIDE || h > MOST_SIDE)
        return fail(err, GIMBAL_EUSAGE, "a picture of %dx%d, expected sides of 1 to %d pixels", w, h,
                    MOST_SIDE);
    if (width < 1 || height < 1 || width > MOST_RESULT || height > MOST_RESULT)
        return fail(err, GIMBAL_EUSAGE, "a picture is to become %dx%d, expected sides of 1 to %d pixels",
                    width, height, MOST_RESULT);
    return GIMBAL_OK;
}

int picture_window(Picture in, int w, int h, int left, int top, int width, int height, float *out,
                   gimbal_error *err)
{
    const Resize to = {.w = w, .h = h, .left = left, .top = top, .width = width, .height = height};
    return resize_picture(in, &to, out, err);
}

void picture_normalise(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = x[i] / 255.0f * 2.0f - 1.0f;
}

int picture_short_side(Picture in, int side, int *w, int *h, gimbal_error *err)
{
    const int64_t other = (int64_t)side * MAX(in.w, in.h) / MIN(in.w, in.h);
    if (other > INT_MAX / 4)
        return fail(err, GIMBAL_EUSAGE,
                    "a picture of %dx%d is %lld pixels long when its smaller side is %d: that is no picture",
                    in.w, in.h, (long long)other, side);
    *w = in.w > in.h ? (int)other : side;
    *h = in.w > in.h ? side : (int)other;
    return GIMBAL_OK;
}

/* ---- fitting ----------------------------------------------------------------------------- */

/* The window of the picture resized to w x h, put at x, y of black pixels. */
static int place(Picture in, int w, int h, int width, int height, int x, int y, float *pixels,
                 gimbal_error *err)
{
    const int pw = MIN(w, width), ph = MIN(h, height);
    float *window = alloc_array(3 * (size_t)pw * (size_t)ph, sizeof *window);
    if (!window)
        return fail(err, GIMBAL_ENOMEM, "no memory for a picture of %dx%d", pw, ph);
    const int code =
        picture_window(in, w, h, (int)rint((w - pw) / 2.0), (int)rint((h - ph) / 2.0), pw, ph, window, err);
    memset(pixels, 0, 3 * (size_t)width * (size_t)height * sizeof *pixels);
    for (int row = 0; row < ph && !code; row++)
        memcpy(pixels + 3 * ((size_t)(y + row) * (size_t)width + (size_t)x),
               window + 3 * (size_t)row * (size_t)pw, 3 * (size_t)pw * sizeof *pixels);
    free(window); /* a picture's size, for one call */
    picture_normalise(pixels, 3 * (size_t)width * (size_t)height);
    return code;
}

/* As large as fits, proportions kept to the rounded pixel. */
static void inside(Picture in, int width, int height, int *w, int *h)
{
    const double scale = fmin((double)width / in.w, (double)height / in.h);
    *w = MIN(MAX((int)lrint(in.w * scale), 1), width);
    *h = MIN(MAX((int)lrint(in.h * scale), 1), height);
}

int gimbal_fit(const uint8_t *rgb, int w, int h, const char *fit, int width, int height, float *pixels,
               gimbal_error *err)
{
    const Picture in = {.bytes = rgb, .w = w, .h = h, .row = (size_t)w};
    int rw = width, rh = height;
    TRY(picture_check(rgb, w, h, width, height, err));
    if (!fit || !strcmp(fit, "crop"))
        TRY(picture_short_side(in, height, &rw, &rh, err));
    else if (!strcmp(fit, "pad"))
        inside(in, width, height, &rw, &rh);
    else if (strcmp(fit, "stretch"))
        return fail(err, GIMBAL_EUSAGE, "fit is \"%.64s\", expected one of: crop, pad, stretch", fit);
    return place(in, rw, rh, width, height, MAX(width - rw, 0) / 2, MAX(height - rh, 0) / 2, pixels, err);
}

/* ---- published moves --------------------------------------------------------------------- */

static void note_box(const Shot *shot, int i, int top, int left, int height, int width)
{
    const int box[4] = {top, left, height, width};
    if (shot->boxes)
        memcpy(shot->boxes[i], box, sizeof box);
}

int picture_pan(const Shot *shot, bool right, gimbal_error *err)
{
    int w = 0, h = 0;
    char hint[160];
    TRY(picture_short_side(shot->in, shot->height, &w, &h, err));
    snprintf(hint, sizeof hint, "tilt-up and tilt-down move over portraits; or take a width of at most %d",
             w);
    if (h != shot->height || w < shot->width)
        return fail_hint(
            err, GIMBAL_EUSAGE, hint,
            "a pan needs a picture that is wider than the clip: %dx%d becomes %dx%d, the clip is %dx%d",
            shot->in.w, shot->in.h, w, h, shot->width, shot->height);
    const size_t n = 3 * (size_t)shot->width * (size_t)shot->height;
    for (int i = 0; i < shot->frames; i++) {
        const double part = (double)i / shot->frames;
        const int x = (int)((w - shot->width) * (right ? part : 1 - part));
        float *pixels = shot->pixels + (size_t)i * n;
        TRY(picture_window(shot->in, w, h, x, 0, shot->width, shot->height, pixels, err));
        picture_normalise(pixels, n);
        note_box(shot, i, 0, x, shot->height, shot->width);
    }
    return GIMBAL_OK;
}

/* square [m][m][3]: the middle of the picture resized to w x h. */
static int zoom_frames(const Shot *shot, bool in, int w, int h, const float *square, gimbal_error *err)
{
    const int m = MIN(w, h), least = (int)floor(m / 1.5), side = shot->width;
    const size_t n = 3 * (size_t)side * (size_t)side;
    for (int i = 0; i < shot->frames; i++) {
        const int grown = (int)((m - least) * ((double)i / shot->frames)), s = in ? m - grown : least + grown;
        const int left = (w - s) / 2, top = (h - s) / 2;
        const size_t at = (size_t)(top - (h - m) / 2) * (size_t)m + (size_t)(left - (w - m) / 2);
        const Picture crop = {.floats = square + 3 * at, .w = s, .h = s, .row = (size_t)m};
        float *pixels = shot->pixels + (size_t)i * n;
        TRY(picture_window(crop, side, side, 0, 0, side, side, pixels, err));
        picture_normalise(pixels, n);
        note_box(shot, i, top, left, s, s);
    }
    return GIMBAL_OK;
}

int picture_zoom(const Shot *shot, bool in, gimbal_error *err)
{
    int w = 0, h = 0;
    if (shot->width != shot->height)
        return fail(err, GIMBAL_EUSAGE,
                    "a zoom is made of squares: width is %d, height %d, expected the same", shot->width,
                    shot->height);
    TRY(picture_short_side(shot->in, 2 * shot->height, &w, &h, err));
    const int m = MIN(w, h);
    float *square = alloc_array(3 * (size_t)m * (size_t)m, sizeof *square);
    if (!square)
        return fail(err, GIMBAL_ENOMEM, "no memory for a picture of %dx%d", m, m);
    int code = picture_window(shot->in, w, h, (w - m) / 2, (h - m) / 2, m, m, square, err);
    if (!code)
        code = zoom_frames(shot, in, w, h, square, err);
    free(square); /* four pictures' size, for one call */
    return code;
}
