/* static_share.c: how much of a clip's energy stands still: the share of the temporal frequency 0.
 *
 *     P(k) = sum over pixels of |FFT over t of luma|^2,    static_share = P(0) / sum_k P(k)
 *          = sum_p (sum_t x)^2 / (T sum_p,t x^2)            (Parseval)
 *
 * Over the whole clip at full size, no FFT: sums per pixel. 1 for a clip that stands still. The mean
 * brightness counts in, so the values of real clips lie close to 1. Refuses to know anything else. */
#include "metric/metric.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    double *sum; /* [h*w] over time */
    size_t n;
    double squares;
} State;

static int begin(void *self, Meter *m, int w, int h, double fps, gimbal_error *err)
{
    State *s = self;
    (void)m, (void)fps;
    s->n = (size_t)w * (size_t)h;
    s->sum = alloc_array(s->n, sizeof *s->sum);
    if (!s->sum)
        return fail(err, GIMBAL_ENOMEM, "no memory for the sums of %dx%d pixels", w, h);
    for (size_t p = 0; p < s->n; p++)
        s->sum[p] = 0;
    return GIMBAL_OK;
}

static void close_state(void *self)
{
    free(((State *)self)->sum);
}

static int see(void *self, const Frame *f, gimbal_error *err)
{
    State *s = self;
    const float *grey = meter_grey(f->meter, f->i);
    double squares = 0;
    (void)err;
    if (!grey)
        return GIMBAL_ENOMEM;
    for (size_t p = 0; p < s->n; p++) {
        s->sum[p] += grey[p];
        squares += (double)grey[p] * grey[p];
    }
    s->squares += squares;
    return GIMBAL_OK;
}

static int end(void *self, int frames, double *values, const char **why, gimbal_error *err)
{
    const State *s = self;
    double still = 0;
    (void)err;
    if (frames < 2) {
        *why = "one frame has no change in time";
        return GIMBAL_OK;
    }
    if (!(s->squares > 0)) {
        *why = "a black clip has no energy";
        return GIMBAL_OK;
    }
    for (size_t p = 0; p < s->n; p++)
        still += s->sum[p] * s->sum[p];
    values[0] =
        MIN(1.0, still / (frames * s->squares)); /* rounding may lead above the bound of Cauchy and Schwarz */
    return GIMBAL_OK;
}

static const Score scores[] = {
    {"static_share", "share of the energy at temporal frequency 0; 1: nothing changes", 0},
    {.name = NULL},
};

const Metric metric_static_share = {
    .name = "static_share",
    .help = "share of a clip's energy, mean brightness included, that does not change in time",
    .source = "temporal spectrum of luma, P(0) / sum P",
    .definition = "gimbal:static_share/luma=601/1",
    .scores = scores,
    .size = sizeof(State),
    .begin = begin,
    .frame = see,
    .end = end,
    .close = close_state,
};
