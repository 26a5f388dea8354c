/* flicker.c: VBench's temporal_flickering (Huang et al., CVPR 2024, and its code).
 *
 *     (255 - 1/(T-1) sum_t mean |x_t - x_(t-1)|) / 255      over all pixels and channels of 8-bit frames
 *
 * Sums are whole numbers, divided once. A clip that stands still has 1. VBench computes it for clips that
 * were filtered as static; here it is for any clip, so read it beside the motion. Refuses to know anything
 * else. */
#include "metric/metric.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    double sum; /* of the pairs' means, 0..255 */
} State;

static int see(void *self, const Frame *f, gimbal_error *err)
{
    State *s = self;
    const size_t n = 3 * (size_t)f->w * (size_t)f->h;
    uint64_t sum = 0;
    (void)err;
    if (!f->prev)
        return GIMBAL_OK;
    for (size_t i = 0; i < n;) {
        const size_t end = MIN(n, i + 65536); /* a short sum has narrow lanes */
        uint32_t part = 0;
        for (; i < end; i++)
            part += (uint32_t)abs(f->rgb[i] - f->prev[i]);
        sum += part;
    }
    const double mean = (double)sum / (double)n;
    s->sum += mean;
    return meter_frame_value(f->meter, 0, f->i, (255.0 - mean) / 255.0);
}

static int end(void *self, int frames, double *values, const char **why, gimbal_error *err)
{
    (void)err;
    if (frames < 2)
        *why = "one frame has no neighbour";
    else
        values[0] = (255.0 - ((const State *)self)->sum / (frames - 1)) / 255.0;
    return GIMBAL_OK;
}

static const Score scores[] = {
    {"temporal_flickering", "how little neighbouring frames differ; 1: not at all", 1},
    {.name = NULL},
};

const Metric metric_temporal_flickering = {
    .name = "temporal_flickering",
    .help = "mean absolute difference of neighbouring frames, turned so that 1 is none",
    .source = "VBench, Huang et al. 2024: temporal_flickering",
    .definition = "vbench:temporal_flickering/1",
    .scores = scores,
    .size = sizeof(State),
    .frame = see,
    .end = end,
};
