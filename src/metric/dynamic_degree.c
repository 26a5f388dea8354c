/* dynamic_degree.c: VBench's dynamic_degree (Huang et al., CVPR 2024, and its code): does the clip move?
 *
 * Every max(1, round(fps/8))-th frame is looked at (round half to even; unknown fps: every one). For
 * neighbours of these, m is the mean of the largest int(0.05 H W) values of |flow| by RAFT, on the padded
 * picture H x W. The clip moves (1, else 0) when at least round(4 n / 16) pairs of its n frames have m > 6
 * min(h,w) / 256. With n = 2 no pair need move: published so. Values per frame are m / min(h,w). Refuses to
 * know RAFT. */
#include "metric/metric.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    float *size; /* [H*W] */
    int interval, seen, moving;
} State;

static int begin(void *self, Meter *m, int w, int h, double fps, gimbal_error *err)
{
    State *s = self;
    (void)m;
    s->interval = (int)MAX(1.0, MIN(rint(fps / 8.0), 1e9));
    s->size = alloc_array((size_t)nets_padded(w) * (size_t)nets_padded(h), sizeof *s->size);
    return s->size ? GIMBAL_OK : fail(err, GIMBAL_ENOMEM, "no memory for the speeds of %dx%d pixels", w, h);
}

static void close_state(void *self)
{
    free(((State *)self)->size); /* begin's */
}

static bool keeps(const void *self, int j, int i)
{
    return j == i - i % ((const State *)self)->interval;
}

static int see(void *self, const Frame *f, gimbal_error *err)
{
    State *s = self;
    const size_t n = (size_t)nets_padded(f->w) * (size_t)nets_padded(f->h);
    const int side = MIN(f->w, f->h);
    (void)err;
    if (f->i % s->interval)
        return GIMBAL_OK;
    s->seen++;
    if (!f->i)
        return GIMBAL_OK;
    const float *flow = meter_flow(f->meter, f->i - s->interval, f->i, true);
    if (!flow)
        return GIMBAL_EMODEL; /* the meter has the message */
    for (size_t p = 0; p < n; p++)
        s->size[p] = sqrtf(flow[2 * p] * flow[2 * p] + flow[2 * p + 1] * flow[2 * p + 1]);
    const double m = mean_of_largest(s->size, n, (size_t)((double)n * 0.05));
    s->moving += m > 6.0 * side / 256.0;
    return meter_frame_value(f->meter, 0, f->i, m / side);
}

static int end(void *self, int frames, double *values, const char **why, gimbal_error *err)
{
    const State *s = self;
    (void)frames, (void)err;
    if (s->seen < 2)
        *why = "fewer than two frames at eight per second";
    else
        values[0] = s->moving >= (int)rint(4.0 * s->seen / 16.0);
    return GIMBAL_OK;
}

static const Score scores[] = {
    {"dynamic_degree", "does the clip move? 1 or 0", 0},
    {.name = NULL},
};

const Metric metric_dynamic_degree = {
    .name = "dynamic_degree",
    .help = "whether the clip moves, by RAFT's flow",
    .source = "VBench, Huang et al. 2024: dynamic_degree; flow: Teed and Deng 2020",
    .definition = "vbench:dynamic_degree/flow=raft,20/1",
    .scores = scores,
    .needs = NEED_RAFT,
    .least = 128, /* the coarsest level of RAFT's pyramid is then two cells wide */
    .size = sizeof(State),
    .begin = begin,
    .keeps = keeps,
    .frame = see,
    .end = end,
    .close = close_state,
};
