/* analyze_clip.c: clips for studies: scaled pictures for a model's encoder, or small standardised luma.
 *
 *     luma = .299 R + .587 G + .114 B, averaged over the area of each of side x side cells, then
 *     (luma - mean) / deviation over the whole clip
 *
 * A clip that is shorter than asked is taken as it is. Refuses to know what is studied. */
#include "app/analyze.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int enough(const char *path, int frames, gimbal_error *err)
{
    return frames > 1 ? GIMBAL_OK
                      : complain(err, GIMBAL_EUSAGE, "a study of motion needs two frames or more",
                                 "%s: has %d frame%s", path, frames, frames == 1 ? "" : "s");
}

int clip_pictures(const char *path, int most, int width, int height, bool quiet, uint8_t **rgb, int *frames,
                  gimbal_error *err)
{
    const size_t picture = 3 * (size_t)width * (size_t)height;
    media_reader *reader;
    media_info info;
    TRY(media_open_scaled(&reader, path, width, height, &info, err));
    int n = 0, got = 1;
    *rgb = calloc((size_t)most, picture);
    if (!*rgb)
        got = fail_memory(err);
    while (got > 0 && n < most && (got = media_get(reader, *rgb + (size_t)n * picture, err)) > 0)
        n++;
    media_free(reader);
    if (!quiet && got >= 0 && (info.file_width != width || info.file_height != height))
        fprintf(stderr, "gimbal: note: %s is %dx%d, scaled to %dx%d\n", path, info.file_width,
                info.file_height, width, height);
    *frames = n;
    const int code = got < 0 ? got : enough(path, n, err);
    if (code) {
        free(*rgb);
        *rgb = NULL;
    }
    return code;
}

/* Mean over the cells' areas: out [side][side], pixels that a cell's edge cuts count in part. */
static void average(const uint8_t *rgb, int width, int height, int side, float *out)
{
    const double high = (double)height / side, wide = (double)width / side;
    for (int i = 0; i < side; i++)
        for (int k = 0; k < side; k++) {
            const double top = i * high, bottom = top + high, left = k * wide, right = left + wide;
            double sum = 0, area = 0;
            for (int y = (int)top; y < height && y < bottom; y++)
                for (int x = (int)left; x < width && x < right; x++) {
                    const uint8_t *p = rgb + 3 * ((size_t)y * (size_t)width + (size_t)x);
                    const double part =
                        (fmin(y + 1, bottom) - fmax(y, top)) * (fmin(x + 1, right) - fmax(x, left));
                    sum += part * (0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2]);
                    area += part;
                }
            out[i * side + k] = (float)(sum / area);
        }
}

static int standardise(const char *path, float *x, size_t n, gimbal_error *err)
{
    double mean = 0, square = 0;
    for (size_t i = 0; i < n; i++)
        mean += x[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        square += (x[i] - mean) * (x[i] - mean) / (double)n;
    if (square < 1e-9)
        return complain(err, GIMBAL_EUSAGE, NULL, "%s: nothing in it differs, so that no band holds anything",
                        path);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)((x[i] - mean) / sqrt(square));
    return GIMBAL_OK;
}

static int read_luma(media_reader *reader, const media_info *info, int most, int side, float *luma,
                     int *frames, gimbal_error *err)
{
    uint8_t *rgb = malloc(3 * (size_t)info->width * (size_t)info->height);
    int got = rgb ? 1 : fail_memory(err);
    for (*frames = 0; *frames < most && got > 0;) {
        if ((got = media_get(reader, rgb, err)) > 0)
            average(rgb, info->width, info->height, side, luma + (size_t)(*frames)++ * (size_t)(side * side));
        if (check_signals(err))
            got = GIMBAL_ECANCEL;
    }
    free(rgb);
    return got < 0 ? got : GIMBAL_OK;
}

int clip_luma(const char *path, int most, int side, float **luma, int *frames, gimbal_error *err)
{
    media_reader *reader;
    media_info info;
    TRY(media_open(&reader, path, &info, err));
    *luma = calloc((size_t)most, (size_t)(side * side) * sizeof **luma);
    int code = *luma ? read_luma(reader, &info, most, side, *luma, frames, err) : fail_memory(err);
    media_free(reader);
    code = code ? code : enough(path, *frames, err);
    code = code ? code : standardise(path, *luma, (size_t)*frames * (size_t)(side * side), err);
    if (code) {
        free(*luma);
        *luma = NULL;
    }
    return code;
}
