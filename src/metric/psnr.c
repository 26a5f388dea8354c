/* psnr.c: peak signal to noise ratio of each frame against the one before it.
 *
 *     10 log10(255^2 / MSE), MSE over all pixels and channels; at most 99 dB, which equal frames have
 *
 * The score is the mean over pairs of each pair's decibels (FFmpeg's filter averages the MSE first). Refuses
 * to know anything else. */
#include "metric/metric.h"

#include <math.h>

typedef struct {
    double sum;
} State;

static const double most = 99.0;

static int see(void *self, const Frame *f, gimbal_error *err)
{
    State *s = self;
    const size_t n = 3 * (size_t)f->w * (size_t)f->h;
    uint64_t sum = 0;
    (void)err;
    if (!f->prev)
        return GIMBAL_OK;
    for (size_t i = 0; i < n;) {
        const size_t end = MIN(n, i + 65536); /* 65536 * 255^2 fits 32 bits */
        uint32_t part = 0;
        for (; i < end; i++) {
            const int d = f->rgb[i] - f->prev[i];
            part += (uint32_t)(d * d);
        }
        sum += part;
    }
    const double mse = (double)sum / (double)n;
    const double psnr = sum ? MIN(most, 10.0 * log10(255.0 * 255.0 / mse)) : most;
    s->sum += psnr;
    return meter_frame_value(f->meter, 0, f->i, psnr);
}

static int end(void *self, int frames, double *values, const char **why, gimbal_error *err)
{
    (void)err;
    return mean_over_pairs(((const State *)self)->sum, frames, "one frame has no neighbour", values, why);
}

static const Score scores[] = {
    {"psnr_prev", "dB of a frame against the one before it; 99: equal", 1},
    {.name = NULL},
};

const Metric metric_psnr = {
    .name = "psnr",
    .help = "peak signal to noise ratio of neighbouring frames",
    .source = "mean over pairs of 10 log10(255^2 / MSE), at most 99 dB",
    .definition = "gimbal:psnr_prev/1",
    .scores = scores,
    .size = sizeof(State),
    .frame = see,
    .end = end,
};
