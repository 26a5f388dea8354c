/* clips.h: what the tests of metrics share: clips made by formula, and one call that measures one.
 *
 * A textured clip is a sum of waves of periods from 9 to 80 pixels, the same whatever its place: moving it by
 * any fraction of a pixel is exact. A clip is uint8 [F][h][w][3]. */
#ifndef CLIPS_H
#define CLIPS_H

#include "metric/metric.h" /* before cmocka.h, which makes a macro of fail */

#include "tests/check.h"

typedef struct {
    int frames, w, h;
    double fps;
    uint8_t *rgb;
} TestClip;

static inline size_t picture_size(const TestClip *c)
{
    return 3 * (size_t)c->w * (size_t)c->h;
}

static inline uint8_t *frame_of(const TestClip *c, int i)
{
    return c->rgb + (size_t)i * picture_size(c);
}

static inline TestClip clip_new(int frames, int w, int h)
{
    TestClip c = {frames, w, h, 8, NULL};
    c.rgb = calloc((size_t)frames, picture_size(&c));
    assert_non_null(c.rgb);
    return c;
}

/* Numbers 0..1 from a number: the same on every machine. */
static inline double scatter(uint32_t n)
{
    n = (n ^ 61u) ^ (n >> 16);
    n *= 9u;
    n ^= n >> 4;
    n *= 0x27d4eb2du;
    n ^= n >> 15;
    return n / 4294967296.0;
}

enum { WAVES = 24 };

/* Brightness around 0 at a place; waves: {x, y, phase} per turn, from texture_waves. */
static inline double texture(double waves[WAVES][3], double x, double y)
{
    double sum = 0;
    for (int k = 0; k < WAVES; k++)
        sum += 9 * sin(6.283185307179586 * (waves[k][0] * x + waves[k][1] * y + waves[k][2]));
    return sum;
}

static inline void texture_waves(double waves[WAVES][3])
{
    for (uint32_t k = 0; k < WAVES; k++) {
        const double period = 9 * pow(80.0 / 9.0, scatter(3 * k)),
                     angle = 6.283185307179586 * scatter(3 * k + 1);
        waves[k][0] = cos(angle) / period, waves[k][1] = sin(angle) / period,
        waves[k][2] = scatter(3 * k + 2);
    }
}

/* What lies at p in frame 0 lies at p + i (dx, dy) in frame i. */
static inline TestClip clip_moving(int frames, int w, int h, double dx, double dy)
{
    TestClip c = clip_new(frames, w, h);
    double waves[WAVES][3];
    texture_waves(waves);
    for (int i = 0; i < frames; i++)
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++) {
                const double light = texture(waves, x - i * dx, y - i * dy);
                for (int k = 0; k < 3; k++)
                    frame_of(&c, i)[3 * (y * w + x) + k] =
                        (uint8_t)lround(MIN(255, MAX(0, 128 + 8 * k + (1 - 0.15 * k) * light)));
            }
    return c;
}

/* Scores of a clip by name; `meter` is the caller's to free. */
static inline gimbal_meter *measure(const TestClip *c, const char *scores, gimbal_flow flow, void *user,
                                    int threads)
{
    gimbal_measure_order o;
    gimbal_meter *m = NULL;
    gimbal_error e = {0};
    gimbal_measure_defaults(&o);
    o.scores = scores;
    o.width = c->w, o.height = c->h;
    o.fps = c->fps;
    o.threads = threads;
    o.flow = flow;
    o.flow_user = user;
    check_ok(gimbal_measure_begin(&m, &o, &e), e);
    for (int i = 0; i < c->frames; i++)
        check_ok(gimbal_measure_frame(m, frame_of(c, i), &e), e);
    check_ok(gimbal_measure_end(m, &e), e);
    assert_int_equal(gimbal_measure_frames(m), c->frames);
    return m;
}

static inline gimbal_score score_of(const gimbal_meter *m, const char *name)
{
    gimbal_score s;
    for (int i = 0; !gimbal_measure_score(m, i, &s); i++)
        if (!strcmp(s.name, name))
            return s;
    fail_msg("no score %s", name);
    return s;
}

/* One score of a clip. */
static inline double measure_one(const TestClip *c, const char *name, gimbal_flow flow)
{
    gimbal_meter *m = measure(c, name, flow, NULL, 2);
    const double value = score_of(m, name).value;
    gimbal_measure_free(m);
    return value;
}

#endif
