/* lowpass_share.c: how much of a clip lies in the low band that FreeInit keeps.
 *
 *     sum |Z|^2 G / sum |Z|^2,  Z = FFT over (t,y,x),  G = 1 / (1 + (d^2 / 0.25^2)^4),  d of (f_t, f_y, f_x)
 *
 * (Wu et al. 2023, section 4.1: Butterworth, n = 4, d_s = d_t = 0.25; the symmetric form of signal.h.) Luma
 * is averaged over areas to 64x64; Z is taken of windows of 16 frames without their mean, one behind the
 * other; the score is the mean over windows. What is left at the end of a longer clip is not counted; a clip
 * of less than 16 frames is one window. A window without any contrast has no share.
 *
 * Knows spectra. Refuses to know flows and networks. */
#include "metric/metric.h"
#include "signal/signal.h"

#include <math.h>
#include <stdlib.h>

enum { SIDE = 64, AREA = SIDE * SIDE, WINDOW = 16 };

/* Which pixels of a line make one of its 64 parts: weight[first .. first + count) of a row of the table. */
typedef struct {
    int first, count;
    float *weight;
} Part;

typedef struct {
    Part across[SIDE], down[SIDE];
    float *weights;  /* of all parts */
    float *row;      /* [w] one part down */
    float *window;   /* [WINDOW][64][64] */
    float *mask;     /* the same shape */
    float *spectrum; /* [WINDOW][64][64][2] */
    double sum;
    int windows, filled, flat;
} State;

/* Parts of a line of n pixels; weights of a part sum to 1. Returns the weights used. */
static int divide(Part *parts, int n, float *weights)
{
    int used = 0;
    for (int k = 0; k < SIDE; k++) {
        const double from = (double)k * n / SIDE, to = (double)(k + 1) * n / SIDE;
        const int last = MIN((int)ceil(to), n);
        parts[k] = (Part){.first = (int)from, .count = last - (int)from, .weight = weights + used};
        for (int i = (int)from; i < last; i++)
            weights[used++] = (float)((MIN(to, i + 1.0) - MAX(from, (double)i)) / (to - from));
    }
    return used;
}

static int begin(void *self, Meter *m, int w, int h, double fps, gimbal_error *err)
{
    State *s = self;
    (void)m, (void)fps;
    s->weights = alloc_array((size_t)w + (size_t)h + 4 * SIDE, sizeof *s->weights);
    s->row = alloc_array((size_t)w, sizeof *s->row);
    s->window = alloc_array(WINDOW * AREA, sizeof *s->window);
    s->mask = alloc_array(WINDOW * AREA, sizeof *s->mask);
    s->spectrum = alloc_array(WINDOW * AREA, 2 * sizeof *s->spectrum);
    if (!s->weights || !s->row || !s->window || !s->mask || !s->spectrum)
        return fail(err, GIMBAL_ENOMEM, "no memory for the spectrum of %d frames", WINDOW);
    divide(s->down, h, s->weights + divide(s->across, w, s->weights));
    return GIMBAL_OK;
}

static void close_state(void *self)
{
    State *s = self;
    free(s->weights);
    free(s->row);
    free(s->window);
    free(s->mask);
    free(s->spectrum);
}

/* grey [h][w] -> out [64][64] */
static void shrink(State *s, const float *grey, int w, float *out)
{
    for (int y = 0; y < SIDE; y++) {
        const Part *down = &s->down[y];
        for (int x = 0; x < w; x++)
            s->row[x] = 0;
        for (int k = 0; k < down->count; k++)
            for (int x = 0; x < w; x++)
                s->row[x] += down->weight[k] * grey[(size_t)(down->first + k) * (size_t)w + (size_t)x];
        for (int x = 0; x < SIDE; x++) {
            const Part *across = &s->across[x];
            float sum = 0;
            for (int k = 0; k < across->count; k++)
                sum += across->weight[k] * s->row[across->first + k];
            out[y * SIDE + x] = sum;
        }
    }
}

/* The share of the n frames in the window. */
static int add_window(State *s, int n, gimbal_error *err)
{
    const size_t count = (size_t)n * AREA;
    const Lowpass butterworth = {.kind = LOWPASS_BUTTERWORTH, .order = 4, .ds = 0.25, .dt = 0.25};
    double mean = 0, energy = 0, low = 0, contrast = 0;
    for (size_t i = 0; i < count; i++)
        mean += s->window[i];
    mean /= (double)count;
    for (size_t i = 0; i < count; i++) {
        s->window[i] -= (float)mean;
        contrast = MAX(contrast, fabs((double)s->window[i]));
    }
    s->filled = 0;
    if (contrast < 1e-3) { /* grey levels: what rounding leaves of a flat window */
        s->flat++;
        return GIMBAL_OK;
    }
    lowpass_mask(&butterworth, n, SIDE, SIDE, s->mask);
    TRY(spectrum(s->window, n, SIDE, SIDE, s->spectrum, err));
    for (size_t i = 0; i < count; i++) {
        const double re = s->spectrum[2 * i], im = s->spectrum[2 * i + 1], power = re * re + im * im;
        energy += power;
        low += power * s->mask[i];
    }
    s->sum += low / energy;
    s->windows++;
    return GIMBAL_OK;
}

static int see(void *self, const Frame *f, gimbal_error *err)
{
    State *s = self;
    const float *grey = meter_grey(f->meter, f->i);
    if (!grey)
        return GIMBAL_ENOMEM;
    shrink(s, grey, f->w, s->window + (size_t)s->filled * AREA);
    return ++s->filled == WINDOW ? add_window(s, WINDOW, err) : GIMBAL_OK;
}

static int end(void *self, int frames, double *values, const char **why, gimbal_error *err)
{
    State *s = self;
    if (frames < 2) {
        *why = "one frame has no temporal spectrum";
        return GIMBAL_OK;
    }
    if (frames < WINDOW)
        TRY(add_window(s, frames, err));
    if (s->windows)
        values[0] = s->sum / s->windows;
    else
        *why = "a clip of one grey has no spectrum";
    return GIMBAL_OK;
}

static const Score scores[] = {
    {"lowpass_share", "share of the energy, without the mean, in FreeInit's low band", 0},
    {.name = NULL},
};

const Metric metric_lowpass_share = {
    .name = "lowpass_share",
    .help =
        "share of the contrast's energy below FreeInit's cut-off: Butterworth n=4, 0.25 in space and time",
    .source = "FreeInit, Wu et al. 2023, section 4.1; luma at 64x64, windows of 16 frames",
    .definition = "freeinit:lowpass_share/butterworth4,ds=0.25,dt=0.25,64x64x16/1",
    .scores = scores,
    .size = sizeof(State),
    .begin = begin,
    .frame = see,
    .end = end,
    .close = close_state,
};
