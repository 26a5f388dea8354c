/* ssim.c: structural similarity (Wang et al., IEEE TIP 2004) of each frame with the one before it, and with
 * the first.
 *
 *     S = (2 mx my + C1)(2 vxy + C2) / ((mx^2 + my^2 + C1)(vx + vy + C2)),  C1 = 2.55^2, C2 = 7.65^2
 *
 * Means m and (co)variances v under an 11x11 Gaussian of sigma 1.5, on luma (0.299 R + 0.587 G + 0.114 B, not
 * rounded), averaged over the places where the window fits. The same as scikit-image's structural_similarity
 * with gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255. The window is
 * separable: columns first, row by row; in double, because variances are differences of large numbers.
 * Refuses to know anything else. */
#include "metric/metric.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TAPS = 11, SUMS = 5 }; /* sums: x, y, xx, yy, xy */

typedef struct {
    float *first; /* the first frame, grey [h][w] */
    double *rows; /* [h]: a row's sum */
    double gauss[TAPS], prev_sum, first_sum;
} State;

static int begin(void *self, Meter *m, int w, int h, double fps, gimbal_error *err)
{
    State *s = self;
    double sum = 0;
    (void)m, (void)fps;
    s->first = alloc_array((size_t)w * (size_t)h, sizeof *s->first);
    s->rows = alloc_array((size_t)h, sizeof *s->rows);
    if (!s->first || !s->rows)
        return fail(err, GIMBAL_ENOMEM, "no memory for the SSIM of %dx%d", w, h);
    for (int k = 0; k < TAPS; k++)
        sum += s->gauss[k] = exp(-0.5 * (k - TAPS / 2) * (k - TAPS / 2) / (1.5 * 1.5));
    for (int k = 0; k < TAPS; k++)
        s->gauss[k] /= sum;
    return GIMBAL_OK;
}

static void close_state(void *self)
{
    State *s = self;
    free(s->first);
    free(s->rows);
}

/* column[SUMS][w]: the Gaussian sums of the columns below row y. */
static void sum_columns(const double *gauss, const float *x, const float *y, int w, double *restrict column)
{
    double *restrict sx = column, *restrict sy = column + w, *restrict sxx = column + 2 * (size_t)w;
    double *restrict syy = column + 3 * (size_t)w, *restrict sxy = column + 4 * (size_t)w;
    memset(column, 0, SUMS * (size_t)w * sizeof *column);
    for (int k = 0; k < TAPS; k++, x += w, y += w) {
        const double g = gauss[k];
        for (int i = 0; i < w; i++) {
            const double a = x[i], b = y[i], ga = g * a, gb = g * b;
            sx[i] += ga;
            sy[i] += gb;
            sxx[i] += ga * a;
            syy[i] += gb * b;
            sxy[i] += ga * b;
        }
    }
}

/* out[n] = the Gaussian sums along a row of n + 10. */
static void sum_along(const double *gauss, const double *in, int n, double *restrict out)
{
    for (int i = 0; i < n; i++)
        out[i] = gauss[0] * in[i];
    for (int k = 1; k < TAPS; k++)
        for (int i = 0; i < n; i++)
            out[i] += gauss[k] * in[i + k];
}

static double sum_row(const double *sums, int n, size_t stride)
{
    const double c1 = 2.55 * 2.55, c2 = 7.65 * 7.65;
    double total = 0;
    for (int i = 0; i < n; i++) {
        const double mx = sums[i], my = sums[i + stride];
        const double vx = sums[i + 2 * stride] - mx * mx, vy = sums[i + 3 * stride] - my * my;
        const double vxy = sums[i + 4 * stride] - mx * my;
        total += (2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2));
    }
    return total;
}

/* s->rows; false: no memory. */
static bool ssim_rows(State *s, const float *x, const float *y, int w, int h, int threads)
{
    const int rows = h - TAPS + 1, columns = w - TAPS + 1;
    bool memory = true;
    (void)threads; /* a build without OpenMP has one */
#pragma omp parallel num_threads(threads)
    {
        double *column = alloc_array(2 * SUMS * (size_t)w, sizeof *column);
        double *sums = column ? column + SUMS * (size_t)w : NULL;
#pragma omp for
        for (int r = 0; r < rows; r++) {
            if (!column) {
#pragma omp atomic write
                memory = false;
                continue;
            }
            sum_columns(s->gauss, x + (size_t)r * (size_t)w, y + (size_t)r * (size_t)w, w, column);
            for (int k = 0; k < SUMS; k++)
                sum_along(s->gauss, column + (size_t)k * (size_t)w, columns, sums + (size_t)k * (size_t)w);
            s->rows[r] = sum_row(sums, columns, (size_t)w);
        }
        free(column); /* a thread's own */
    }
    return memory;
}

/* Rows are summed by themselves and added up in order, so that threads change no digit. */
static int ssim(State *s, const float *x, const float *y, const Frame *f, double *out, gimbal_error *err)
{
    double sum = 0;
    if (!ssim_rows(s, x, y, f->w, f->h, meter_threads(f->meter)))
        return fail(err, GIMBAL_ENOMEM, "no memory for the SSIM of %dx%d", f->w, f->h);
    for (int r = 0; r < f->h - TAPS + 1; r++)
        sum += s->rows[r];
    *out = sum / ((double)(f->h - TAPS + 1) * (f->w - TAPS + 1));
    return GIMBAL_OK;
}

static int see(void *self, const Frame *f, gimbal_error *err)
{
    State *s = self;
    const float *now = meter_grey(f->meter, f->i);
    double value = 0;
    if (!now)
        return GIMBAL_ENOMEM;
    if (!f->i) {
        memcpy(s->first, now, (size_t)f->w * (size_t)f->h * sizeof *now);
        return GIMBAL_OK;
    }
    const float *prev = meter_grey(f->meter, f->i - 1);
    if (!prev)
        return GIMBAL_ENOMEM;
    TRY(ssim(s, prev, now, f, &value, err));
    s->prev_sum += value;
    TRY(meter_frame_value(f->meter, 0, f->i, value));
    if (f->i > 1) /* else it is the same pair */
        TRY(ssim(s, s->first, now, f, &value, err));
    s->first_sum += value;
    return meter_frame_value(f->meter, 1, f->i, value);
}

static int end(void *self, int frames, double *values, const char **why, gimbal_error *err)
{
    const State *s = self;
    (void)err;
    if (frames < 2) {
        *why = "one frame has no other to be like";
        return GIMBAL_OK;
    }
    values[0] = s->prev_sum / (frames - 1);
    values[1] = s->first_sum / (frames - 1);
    return GIMBAL_OK;
}

static const Score scores[] = {
    {"ssim_prev", "structural similarity with the frame before; 1: equal", 1},
    {"ssim_first", "structural similarity with the first frame; 1: equal", 1},
    {.name = NULL},
};

const Metric metric_ssim = {
    .name = "ssim",
    .help = "structural similarity of luma with the frame before and with the first, 11x11 Gaussian",
    .source = "Wang et al. 2004; scikit-image's structural_similarity with gaussian_weights",
    .definition = "wang:ssim/gaussian11,sigma=1.5,luma=601,valid/1",
    .scores = scores,
    .least = TAPS,
    .size = sizeof(State),
    .begin = begin,
    .frame = see,
    .end = end,
    .close = close_state,
};
