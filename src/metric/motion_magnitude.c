/* motion_magnitude.c: how much a clip moves: the mean length of the flow from each frame to the next, in
 * percent of the shorter side, so that a clip and the same clip at another size move as much.
 *
 *     100 / min(h,w) * mean over pairs and pixels of |F|
 *
 * To be read beside every score of consistency: a frozen clip is perfect in all of them. Refuses to know how
 * flow is found. */
#include "metric/metric.h"

#include <math.h>

typedef struct {
    double sum;
} State;

static int flows(const void *self, int i, int pairs[PAIR_MOST][2])
{
    (void)self;
    if (!i)
        return 0;
    pairs[0][0] = i - 1, pairs[0][1] = i;
    return 1;
}

static int see(void *self, const Frame *f, gimbal_error *err)
{
    State *s = self;
    const size_t n = (size_t)f->w * (size_t)f->h;
    double sum = 0;
    (void)err;
    if (!f->i)
        return GIMBAL_OK;
    const float *flow = meter_flow(f->meter, f->i - 1, f->i, false);
    if (!flow)
        return GIMBAL_ENOMEM;
    for (size_t p = 0; p < n; p++)
        sum += sqrtf(flow[2 * p] * flow[2 * p] + flow[2 * p + 1] * flow[2 * p + 1]);
    const double value = 100.0 * sum / ((double)n * MIN(f->w, f->h));
    s->sum += value;
    return meter_frame_value(f->meter, 0, f->i, value);
}

static int end(void *self, int frames, double *values, const char **why, gimbal_error *err)
{
    (void)err;
    return mean_over_pairs(((const State *)self)->sum, frames, "one frame does not move", values, why);
}

static const Score scores[] = {
    {"motion_magnitude", "mean speed, in percent of the shorter side per frame", 0},
    {.name = NULL},
};

const Metric metric_motion_magnitude = {
    .name = "motion_magnitude",
    .help = "mean length of the flow between neighbouring frames, in percent of the shorter side",
    .source = "EvalCrafter's flow score per pixel, with DIS flow, divided by the shorter side",
    .definition = "gimbal:motion_magnitude/flow=dis-medium,percent-of-short-side/1",
    .scores = scores,
    .needs = NEED_FLOW,
    .least = 16,
    .size = sizeof(State),
    .flows = flows,
    .frame = see,
    .end = end,
};
