/* warp.c: the warping error of Lai et al. (ECCV 2018, and the code of fast_blind_video_consistency): how far
 * a frame is from the next one moved back along the flow, where nothing appears or disappears.
 *
 * For frames I_t in [0,1], F the flow t -> t+1, B the flow t+1 -> t, W(I,f)(p) = I(p + f(p)) bilinear:
 *     Bw    = W(B, F)
 *     occ1  = |Bw + F|^2 > 0.01 (|Bw|^2 + |F|^2) + 0.5
 *     occ2  = |grad u|^2 + |grad v|^2 of F > 0.01 |F|^2 + 0.002     forward differences, 0 in the last row
 * and column M     = 1 - (occ1 or occ2) E_t   = sum_p,c M (W(I_t+1, F) - I_t)^2 / (3 sum_p M) warp_error is
 * the mean of E_t per sample (some codes divide by sum M and have three times as much), warp_coverage the
 * mean of M. Flow is the meter's, of the clip itself. Refuses to know how flow is found. */
#include "metric/metric.h"
#include "metric/taps.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    double *rows; /* [h][2]: of each row the sum of squared errors, and of M */
    double error, coverage;
} State;

static int begin(void *self, Meter *m, int w, int h, double fps, gimbal_error *err)
{
    State *s = self;
    (void)m, (void)w, (void)fps;
    s->rows = alloc_array((size_t)h, 2 * sizeof *s->rows);
    return s->rows ? GIMBAL_OK : fail(err, GIMBAL_ENOMEM, "no memory for %d rows of the warping error", h);
}

static void close_state(void *self)
{
    free(((State *)self)->rows);
}

static int flows(const void *self, int i, int pairs[PAIR_MOST][2])
{
    (void)self;
    if (!i)
        return 0;
    pairs[0][0] = i - 1, pairs[0][1] = i;
    pairs[1][0] = i, pairs[1][1] = i - 1;
    return 2;
}

static float square(float x)
{
    return x * x;
}

/* Squared forward differences of F at pixel p; right, below: is there such a neighbour? */
static float flow_gradient(const float *f, size_t p, int w, bool right, bool below)
{
    const float *here = f + 2 * p, *next = right ? here + 2 : here,
                *under = below ? here + 2 * (size_t)w : here;
    return square(next[0] - here[0]) + square(next[1] - here[1]) + square(under[0] - here[0]) +
           square(under[1] - here[1]);
}

typedef struct {
    const uint8_t *from, *to; /* I_t, I_t+1 */
    const float *forward, *back;
    int w, h;
} Pair;

static void measure_row(const Pair *p, int y, double sums[2])
{
    double error = 0, mask = 0;
    for (int x = 0; x < p->w; x++) {
        const size_t at = (size_t)y * (size_t)p->w + (size_t)x;
        const float u = p->forward[2 * at], v = p->forward[2 * at + 1];
        const Taps taps = taps_at((double)x + (double)u, (double)y + (double)v, p->w, p->h);
        const float bu = taps_flow(&taps, p->back, 0), bv = taps_flow(&taps, p->back, 1);
        const float size = square(u) + square(v);
        const bool seen_once =
            square(bu + u) + square(bv + v) > 0.01f * (square(bu) + square(bv) + size) + 0.5f;
        const bool edge =
            flow_gradient(p->forward, at, p->w, x + 1 < p->w, y + 1 < p->h) > 0.01f * size + 0.002f;
        if (seen_once || edge)
            continue;
        mask += 1;
        for (int c = 0; c < 3; c++) {
            const double d = ((double)taps_byte(&taps, p->to, 3, c) - p->from[3 * at + (size_t)c]) / 255.0;
            error += d * d;
        }
    }
    sums[0] = error, sums[1] = mask;
}

static int see(void *self, const Frame *f, gimbal_error *err)
{
    State *s = self;
    double error = 0, mask = 0;
    (void)err;
    if (!f->i)
        return GIMBAL_OK;
    const Pair pair = {.from = f->prev,
                       .to = f->rgb,
                       .forward = meter_flow(f->meter, f->i - 1, f->i, false),
                       .back = meter_flow(f->meter, f->i, f->i - 1, false),
                       .w = f->w,
                       .h = f->h};
    if (!pair.forward || !pair.back)
        return GIMBAL_ENOMEM;
#pragma omp parallel for num_threads(meter_threads(f->meter))
    for (int y = 0; y < f->h; y++)
        measure_row(&pair, y, s->rows + 2 * y);
    for (int y = 0; y < f->h; y++)
        error += s->rows[2 * y], mask += s->rows[2 * y + 1];
    const double value = mask > 0 ? error / (3.0 * mask) : 0.0; /* all hidden: the code's sum is 0 too */
    const double coverage = mask / ((double)f->w * f->h);
    s->error += value, s->coverage += coverage;
    TRY(meter_frame_value(f->meter, 0, f->i, value));
    return meter_frame_value(f->meter, 1, f->i, coverage);
}

static int end(void *self, int frames, double *values, const char **why, gimbal_error *err)
{
    const State *s = self;
    (void)err;
    if (frames < 2) {
        *why = "one frame has no flow";
        return GIMBAL_OK;
    }
    values[0] = s->error / (frames - 1);
    values[1] = s->coverage / (frames - 1);
    return GIMBAL_OK;
}

static const Score scores[] = {
    {"warp_error", "squared error to the next frame moved back along the flow", -1},
    {"warp_coverage", "share of pixels that the warping error counts: neither hidden nor at motion's edges",
     0},
    {.name = NULL},
};

const Metric metric_warp = {
    .name = "warp",
    .help = "warping error per sample in [0,1]^2, with occlusion masks, and what share of the pixels it saw",
    .source = "Lai et al. 2018, flow of the clip itself",
    .definition = "lai2018:warp_error/flow=dis-medium,per-sample/1",
    .scores = scores,
    .needs = NEED_FLOW,
    .least = 16,
    .size = sizeof(State),
    .begin = begin,
    .flows = flows,
    .frame = see,
    .end = end,
    .close = close_state,
};
