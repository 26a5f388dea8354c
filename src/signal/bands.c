/* bands.c: how strong a clip is in each radial band of spatio-temporal frequency, and how alike two clips are
 * there.
 *
 *     r^2 = (ratio f_t)^2 + f_y^2 + f_x^2          f = 1 at Nyquist, ratio = ds / dt (FreeInit's radius)
 *     power of a band = mean of |X(k)|^2 / N over its bins k and the channels,  N = F h w
 *     correlation     = sum Re X(k) conj Y(k) / sqrt(sum |X(k)|^2 sum |Y(k)|^2)
 *
 * White noise of variance 1 has power 1 in every band; powers times counts add up to the clip's energy
 * (Parseval). What FreeInit's analysis of leaking layout counts (Wu et al., ECCV 2024, section 3.2).
 * Refuses to know timesteps and what the clips are. */
#include "signal/signal.h"

#include <math.h>
#include <stdlib.h>

/* Sums over the bins of one band. */
typedef struct {
    double bins, x, y, cross;
} Sum;

static int check_edges(const double *edges, int n, double ratio, gimbal_error *err)
{
    if (n < 1 || n > 4096)
        return fail(err, GIMBAL_EUSAGE, "%d bands are asked for, expected 1 to 4096", n);
    if (!(ratio >= 0 && ratio <= 1e6))
        return fail(err, GIMBAL_EUSAGE, "ds/dt is %g, expected 0 to 1e6", ratio);
    for (int i = 0; i < n - 1; i++)
        if (!(edges[i] > (i ? edges[i - 1] : 0) && edges[i] <= 1e9))
            return fail(err, GIMBAL_EUSAGE, "edge %d of the bands is %g, expected numbers above 0 that go up",
                        i + 1, edges[i]);
    return GIMBAL_OK;
}

/* The slack keeps bins on an edge, whatever their squares round to. */
static int band_of(const double *edges, int n, double r)
{
    int band = 0;
    while (band < n - 1 && r >= edges[band] * (1 - 1e-12))
        band++;
    return band;
}

/* X, Y [F,h,w][2]: spectra of one channel of each clip. */
static void add_channel(const float *X, const float *Y, gimbal_shape s, const double *edges, int n,
                        double ratio, Sum *sum)
{
    for (int t = 0; t < s.f; t++)
        for (int y = 0; y < s.h; y++)
            for (int x = 0; x < s.w; x++, X += 2, Y += 2) {
                const double ft = ratio * bin_frequency(t, s.f), fy = bin_frequency(y, s.h),
                             fx = bin_frequency(x, s.w);
                Sum *b = &sum[band_of(edges, n, sqrt(ft * ft + fy * fy + fx * fx))];
                b->bins += 1;
                b->x += (double)X[0] * X[0] + (double)X[1] * X[1];
                b->y += (double)Y[0] * Y[0] + (double)Y[1] * Y[1];
                b->cross += (double)X[0] * Y[0] + (double)X[1] * Y[1];
            }
}

static int add_channels(const float *x, const float *y, gimbal_shape s, const double *edges, int n,
                        double ratio, Sum *sum, gimbal_error *err)
{
    const size_t plane = (size_t)s.f * (size_t)s.h * (size_t)s.w;
    float *X = alloc_array(plane, 2 * sizeof *X), *Y = y ? alloc_array(plane, 2 * sizeof *Y) : X;
    int code = X && Y ? GIMBAL_OK
                      : fail(err, GIMBAL_ENOMEM, "no memory for spectra of %d frames %dx%d", s.f, s.h, s.w);
    for (int c = 0; c < s.c && !code; c++) {
        code = spectrum(x + (size_t)c * plane, s.f, s.h, s.w, X, err);
        if (!code && y)
            code = spectrum(y + (size_t)c * plane, s.f, s.h, s.w, Y, err);
        if (!code)
            add_channel(X, Y, s, edges, n, ratio, sum);
    }
    if (y)
        free(Y); /* alloc_array's: no arena holds them */
    free(X);
    return code;
}

static int fill(const Sum *sum, int n, gimbal_shape s, gimbal_band *out, gimbal_error *err)
{
    const double size = (double)s.f * s.h * s.w;
    for (int i = 0; i < n; i++) {
        const double bins = sum[i].bins, both = sqrt(sum[i].x) * sqrt(sum[i].y);
        if (!isfinite(sum[i].x) || !isfinite(sum[i].y))
            return fail(err, GIMBAL_EUSAGE,
                        "a clip holds values that are not finite, or too large to square");
        out[i] = (gimbal_band){.count = (int64_t)(bins / s.c),
                               .power = bins ? sum[i].x / bins / size : NAN,
                               .power_y = bins ? sum[i].y / bins / size : NAN,
                               .correlation = both > 0 ? sum[i].cross / both : NAN};
    }
    return GIMBAL_OK;
}

int gimbal_bands(const float *x, const float *y, gimbal_shape s, const double *edges, int n, double ratio,
                 gimbal_band *out, gimbal_error *err)
{
    size_t values;
    TRY(check_edges(edges, n, ratio, err));
    if (s.c < 1 || s.f < 1 || s.h < 1 || s.w < 1)
        return fail(err, GIMBAL_EUSAGE,
                    "shape is [%d,%d,%d,%d]; expected channels, frames, height, width >= 1", s.c, s.f, s.h,
                    s.w);
    if (__builtin_mul_overflow((size_t)s.f * (size_t)s.h, (size_t)s.w, &values) ||
        __builtin_mul_overflow(values, (size_t)s.c, &values) || values > SIZE_MAX / 64)
        return fail(err, GIMBAL_EUSAGE, "shape [%d,%d,%d,%d] is too large", s.c, s.f, s.h, s.w);
    Sum *sum = calloc((size_t)n, sizeof *sum);
    int code = sum ? add_channels(x, y, s, edges, n, ratio, sum, err)
                   : fail(err, GIMBAL_ENOMEM, "no memory for %d bands", n);
    if (!code)
        code = fill(sum, n, s, out, err);
    free(sum);
    return code;
}
