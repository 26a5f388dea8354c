/* dynamic_degree.c: VBench's dynamic_degree (Huang et al., CVPR 2024, and its code): does the clip move?
 *
 * Every max(1, round(fps/8))-th frame is looked at (round half to even; unknown fps: every one). For
 * neighbours of these, m is the mean of the largest int(0.05 H W) values of |flow|: by RAFT on the padded
 * picture H x W, as published, or by a flow that needs no weights, under a name of its own. The clip moves
 * (1, else 0) when at least round(4 n / 16) pairs of its n frames have m > 6 min(h,w) / 256. With n = 2 no
 * pair need move: published so. Values per frame are m / min(h,w). Refuses to know how flow is found. */
#include "metric/metric.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    float *size; /* [n] speeds of the pixels */
    size_t n;
    int interval, seen, moving;
    bool raft;
} State;

static int begin_sized(State *s, int w, int h, double fps, gimbal_error *err)
{
    s->n = (size_t)w * (size_t)h;
    s->interval = (int)MAX(1.0, MIN(rint(fps / 8.0), 1e9));
    s->size = alloc_array(s->n, sizeof *s->size);
    return s->size ? GIMBAL_OK : fail(err, GIMBAL_ENOMEM, "no memory for the speeds of %dx%d pixels", w, h);
}

static int begin_dis(void *self, Meter *m, int w, int h, double fps, gimbal_error *err)
{
    (void)m;
    return begin_sized(self, w, h, fps, err);
}

static int begin_raft(void *self, Meter *m, int w, int h, double fps, gimbal_error *err)
{
    State *s = self;
    (void)m;
    s->raft = true;
    return begin_sized(s, nets_padded(w), nets_padded(h), fps, err);
}

static void close_state(void *self)
{
    free(((State *)self)->size); /* begin's */
}

static bool keeps(const void *self, int j, int i)
{
    return j == i - i % ((const State *)self)->interval;
}

static int flows(const void *self, int i, int pairs[PAIR_MOST][2])
{
    const int interval = ((const State *)self)->interval;
    if (!i || i % interval)
        return 0;
    pairs[0][0] = i - interval, pairs[0][1] = i;
    return 1;
}

/* Moves the k largest of x[n] to the front (Hoare's selection); 0 < k <= n. */
static void select_largest(float *x, size_t n, size_t k)
{
    size_t low = 0, high = n - 1;
    while (low < high) {
        const float pivot = x[low + (high - low) / 2];
        size_t i = low, j = high;
        for (;;) {
            while (x[i] > pivot)
                i++;
            while (x[j] < pivot)
                j--;
            if (i >= j)
                break;
            const float swap = x[i];
            x[i++] = x[j], x[j--] = swap;
        }
        /* x[low..j] >= pivot >= x[j+1..high] */
        if (k - 1 <= j)
            high = j;
        else
            low = j + 1;
    }
}

static double mean_of_largest(float *x, size_t n, size_t k)
{
    double sum = 0;
    select_largest(x, n, k);
    for (size_t i = 0; i < k; i++)
        sum += x[i];
    return sum / (double)k;
}

static int see(void *self, const Frame *f, gimbal_error *err)
{
    State *s = self;
    const int side = MIN(f->w, f->h);
    (void)err;
    if (f->i % s->interval)
        return GIMBAL_OK;
    s->seen++;
    if (!f->i)
        return GIMBAL_OK;
    const float *flow = meter_flow(f->meter, f->i - s->interval, f->i, s->raft);
    if (!flow)
        return GIMBAL_EMODEL; /* the meter has the message */
    for (size_t p = 0; p < s->n; p++) {
        const float size = sqrtf(flow[2 * p] * flow[2 * p] + flow[2 * p + 1] * flow[2 * p + 1]);
        s->size[p] = size >= 0 ? size : 0; /* selection needs an order, and NaN has none */
    }
    const double m = mean_of_largest(s->size, s->n, (size_t)((double)s->n * 0.05));
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

static const Score raft_scores[] = {
    {"dynamic_degree", "does the clip move? 1 or 0", 0},
    {.name = NULL},
};

const Metric metric_dynamic_degree = {
    .name = "dynamic_degree",
    .help = "whether the clip moves, by RAFT's flow",
    .source = "VBench, Huang et al. 2024: dynamic_degree; flow: Teed and Deng 2020",
    .definition = "vbench:dynamic_degree/flow=raft,20/1",
    .scores = raft_scores,
    .needs = NEED_RAFT,
    .least = 128, /* the coarsest level of RAFT's pyramid is then two cells wide */
    .size = sizeof(State),
    .begin = begin_raft,
    .keeps = keeps,
    .frame = see,
    .end = end,
    .close = close_state,
};

static const Score dis_scores[] = {
    {"dynamic_degree_dis", "does the clip move? 1 or 0", 0},
    {.name = NULL},
};

const Metric metric_dynamic_degree_dis = {
    .name = "dynamic_degree_dis",
    .help = "VBench's dynamic degree, with DIS flow in place of RAFT",
    .source = "VBench, Huang et al. 2024: dynamic_degree; flow by DIS",
    .definition = "vbench:dynamic_degree/flow=dis-medium/1",
    .scores = dis_scores,
    .needs = NEED_FLOW,
    .least = 16,
    .size = sizeof(State),
    .begin = begin_dis,
    .keeps = keeps,
    .flows = flows,
    .frame = see,
    .end = end,
    .close = close_state,
};
