/* motion_smoothness_dis.c: VBench's motion_smoothness with frames interpolated along a flow that needs no
 * weights (in place of AMT), hence the name of its own.
 *
 * Frames 0, 2, 4, ... are kept, and each odd one is guessed from its neighbours x0 and x1:
 *     guess = bytes of (W(x0, -F01/2) + W(x1, -F10/2)) / 2, cut off, F01 and F10 the flows between the two
 *     (255 - mean_i mean |x_(2i+1) - guess_i|) / 255
 * A last frame without a kept one behind it is not guessed. Refuses to know how flow is found. */
#include "metric/metric.h"
#include "metric/taps.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    uint64_t *rows; /* [h]: a row's sum of differences */
    double sum;
    int guesses;
} State;

static int begin(void *self, Meter *m, int w, int h, double fps, gimbal_error *err)
{
    State *s = self;
    (void)m, (void)w, (void)fps;
    s->rows = alloc_array((size_t)h, sizeof *s->rows);
    return s->rows ? GIMBAL_OK : fail(err, GIMBAL_ENOMEM, "no memory for %d rows of differences", h);
}

static void close_state(void *self)
{
    free(((State *)self)->rows);
}

static bool keeps(const void *self, int j, int i)
{
    (void)self;
    return j == i || (i % 2 && j == i - 1);
}

static int flows(const void *self, int i, int pairs[PAIR_MOST][2])
{
    (void)self;
    if (!i || i % 2)
        return 0;
    pairs[0][0] = i - 2, pairs[0][1] = i;
    pairs[1][0] = i, pairs[1][1] = i - 2;
    return 2;
}

typedef struct {
    const uint8_t *before, *between, *after;
    const float *forward, *back;
    int w, h;
} Triple;

static uint64_t compare_row(const Triple *t, int y)
{
    uint64_t sum = 0;
    for (int x = 0; x < t->w; x++) {
        const size_t p = (size_t)y * (size_t)t->w + (size_t)x;
        const float *f = t->forward + 2 * p, *b = t->back + 2 * p;
        const Taps from = taps_at(x - 0.5 * (double)f[0], y - 0.5 * (double)f[1], t->w, t->h);
        const Taps to = taps_at(x - 0.5 * (double)b[0], y - 0.5 * (double)b[1], t->w, t->h);
        for (int c = 0; c < 3; c++) {
            const float guess = (taps_byte(&from, t->before, 3, c) + taps_byte(&to, t->after, 3, c)) / 2;
            sum += (uint64_t)abs((int)guess - t->between[3 * p + (size_t)c]);
        }
    }
    return sum;
}

static int see(void *self, const Frame *f, gimbal_error *err)
{
    State *s = self;
    uint64_t sum = 0;
    (void)err;
    if (!f->i || f->i % 2)
        return GIMBAL_OK;
    const Triple t = {.before = meter_picture(f->meter, f->i - 2),
                      .between = f->prev,
                      .after = f->rgb,
                      .forward = meter_flow(f->meter, f->i - 2, f->i, false),
                      .back = meter_flow(f->meter, f->i, f->i - 2, false),
                      .w = f->w,
                      .h = f->h};
    if (!t.before || !t.between || !t.forward || !t.back)
        return GIMBAL_ENOMEM;
#pragma omp parallel for num_threads(meter_threads(f->meter))
    for (int y = 0; y < f->h; y++)
        s->rows[y] = compare_row(&t, y);
    for (int y = 0; y < f->h; y++)
        sum += s->rows[y];
    const double mean = (double)sum / (3.0 * f->w * f->h);
    s->sum += mean;
    s->guesses++;
    return meter_frame_value(f->meter, 0, f->i - 1, (255.0 - mean) / 255.0);
}

static int end(void *self, int frames, double *values, const char **why, gimbal_error *err)
{
    const State *s = self;
    (void)frames, (void)err;
    if (!s->guesses)
        *why = "fewer than three frames";
    else
        values[0] = (255.0 - s->sum / s->guesses) / 255.0;
    return GIMBAL_OK;
}

static const Score scores[] = {
    {"motion_smoothness_dis", "how well odd frames are guessed from even ones along the flow; 1: exactly", 1},
    {.name = NULL},
};

const Metric metric_motion_smoothness_dis = {
    .name = "motion_smoothness_dis",
    .help = "VBench's motion smoothness, frames interpolated along DIS flow in place of AMT",
    .source = "VBench, Huang et al. 2024: motion_smoothness; flow by DIS",
    .definition = "vbench:motion_smoothness/flow=dis-medium/1",
    .scores = scores,
    .needs = NEED_FLOW,
    .least = 16,
    .size = sizeof(State),
    .begin = begin,
    .keeps = keeps,
    .flows = flows,
    .frame = see,
    .end = end,
    .close = close_state,
};
