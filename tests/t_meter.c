/* t_meter.c: the meter and its registry: every metric that needs no network meets the same clips; orders that
 * cannot be; what is shared and what is forgotten. Flow is a cheap one of the test's own unless OpenCV's is
 * the point. */
#include "tests/clips.h"

#include "flow/flow.h"

#include <unistd.h>

/* The difference of brightness as a motion: finite, repeatable, and of no further meaning. */
static int cheap_flow(void *user, const uint8_t *a, const uint8_t *b, int w, int h, float *out,
                      gimbal_error *err)
{
    (void)user, (void)err;
    for (int p = 0; p < w * h; p++) {
        out[2 * p] = (float)(b[3 * p] - a[3 * p]) / 16;
        out[2 * p + 1] = (float)(b[3 * p + 1] - a[3 * p + 1]) / 8;
    }
    return GIMBAL_OK;
}

static TestClip noisy(int frames, int w, int h)
{
    TestClip c = clip_moving(frames, w, h, 1.7, -0.4);
    for (size_t i = 0; i < (size_t)frames * picture_size(&c); i++)
        c.rgb[i] = (uint8_t)(c.rgb[i] * 0.9 + 25 * scatter((uint32_t)i));
    return c;
}

/* ---- the registry ------------------------------------------------------------------------ */

static void every_metric_is_listed_once_and_explained(void **state)
{
    (void)state;
    gimbal_plugin p;
    int n = 0;
    for (; metric_at(n); n++) {
        const Metric *m = metric_at(n);
        check(m->help && m->source && m->definition && m->size && m->frame && m->end && m->scores[0].name,
              "%s", m->name);
        check_ok(gimbal_plugin_at("metric", n, &p), (gimbal_error){0});
        assert_string_equal(p.name, m->name);
        for (int s = 0; m->scores[s].name; s++) {
            check(s < SCORE_MOST && m->scores[s].help && abs(m->scores[s].better) <= 1, "%s",
                  m->scores[s].name);
            for (int k = 0; metric_at(k); k++)
                for (int t = 0; metric_at(k)->scores[t].name; t++)
                    check((k == n && t == s) || strcmp(metric_at(k)->scores[t].name, m->scores[s].name),
                          "%s twice", m->scores[s].name);
        }
    }
    assert_int_equal(gimbal_plugin_at("metric", n, &p), GIMBAL_EUSAGE);
    check(n >= 9, "%d metrics", n);
}

/* The same bits, NaN and all. */
static void check_same(const gimbal_meter *a, const gimbal_meter *b, int frames, const char *what)
{
    gimbal_score x, y;
    for (int i = 0; !gimbal_measure_score(a, i, &x); i++) {
        check(!gimbal_measure_score(b, i, &y), "%s", what);
        check(!memcmp(&x.value, &y.value, sizeof x.value), "%s, %s: %.17g and %.17g", what, x.name, x.value,
              y.value);
        check(!x.values == !y.values, "%s, %s", what, x.name);
        check(!x.values || !memcmp(x.values, y.values, sizeof(double) * (size_t)frames), "%s, %s per frame",
              what, x.name);
    }
}

/* Defined and finite, or undefined with a reason. */
static void check_sane(const gimbal_meter *m, bool defined, const char *what)
{
    gimbal_score s;
    int n = 0;
    for (; !gimbal_measure_score(m, n, &s); n++) {
        check(!isinf(s.value) && isnan(s.value) == (s.why != NULL), "%s, %s: %g (%s)", what, s.name, s.value,
              s.why ? s.why : "no reason");
        check(!defined || !isnan(s.value), "%s, %s is not defined: %s", what, s.name, s.why);
        check(s.name && s.metric && s.definition && s.help && !s.weights, "%s, %s", what, s.name);
    }
    check(n >= 11, "%s: %d scores", what, n);
}

static void every_metric_is_repeatable_on_odd_sizes(void **state)
{
    (void)state;
    static const int sizes[][2] = {{16, 16}, {37, 53}, {131, 67}, {64, 17}};
    for (int k = 0; k < COUNT(sizes); k++)
        for (int frames = 3; frames <= 35; frames += 16) {
            TestClip c = noisy(frames, sizes[k][0], sizes[k][1]);
            gimbal_meter *a = measure(&c, NULL, cheap_flow, NULL, 1),
                         *b = measure(&c, NULL, cheap_flow, NULL, 3);
            check_sane(a, true, "noisy");
            check_same(a, b, frames, "1 and 3 threads");
            gimbal_measure_free(a);
            gimbal_measure_free(b);
            free(c.rgb);
        }
}

static void every_metric_answers_for_clips_that_are_hardly_there(void **state)
{
    (void)state;
    static const int shapes[][3] = {{1, 64, 48}, {2, 64, 48}, {3, 1, 1}, {2, 11, 15}, {4, 200, 3}, {1, 1, 1}};
    for (int k = 0; k < COUNT(shapes); k++) {
        TestClip c = noisy(shapes[k][0], shapes[k][1], shapes[k][2]), black = clip_new(c.frames, c.w, c.h);
        gimbal_meter *a = measure(&c, NULL, cheap_flow, NULL, 2),
                     *b = measure(&black, NULL, cheap_flow, NULL, 2);
        char what[40];
        snprintf(what, sizeof what, "%d frames %dx%d", c.frames, c.w, c.h);
        check_sane(a, false, what);
        check_sane(b, false, what);
        if (c.frames == 1)
            check(isnan(score_of(a, "temporal_flickering").value) && isnan(score_of(a, "warp_error").value),
                  "%s", what);
        if (c.h < 11)
            check(strstr(score_of(a, "ssim_prev").why, "at least 11 pixels"), "%s", what);
        gimbal_measure_free(a);
        gimbal_measure_free(b);
        free(c.rgb);
        free(black.rgb);
    }
}

static void opencvs_flow_gives_the_same_on_any_threads(void **state)
{
    (void)state;
    if (!flow_version()) {
        print_message("skipped: this build has no OpenCV\n");
        skip();
    }
    TestClip c = noisy(7, 203, 149);
    gimbal_meter *one = measure(&c, NULL, flow_dis, NULL, 1);
    for (int threads = 2; threads <= 5; threads++) {
        gimbal_meter *m = measure(&c, NULL, flow_dis, NULL, threads);
        check_same(one, m, c.frames, "threads");
        gimbal_measure_free(m);
    }
    gimbal_measure_free(one);
    free(c.rgb);
}

/* ---- orders ------------------------------------------------------------------------------ */

static gimbal_measure_order order_of(const char *scores)
{
    gimbal_measure_order o;
    gimbal_measure_defaults(&o);
    o.scores = scores;
    o.width = 32, o.height = 24;
    return o;
}

static void orders_that_cannot_be_are_refused(void **state)
{
    (void)state;
    gimbal_error e = {0};
    gimbal_meter *m = (gimbal_meter *)1;
    gimbal_measure_order o = order_of("temporal_flikering");
    check_fails(gimbal_measure_begin(&m, &o, &e), GIMBAL_EUSAGE, e, "did you mean temporal_flickering?");
    assert_null(m);
    o = order_of("psnr_prev,,ssim_prev");
    check_fails(gimbal_measure_begin(&m, &o, &e), GIMBAL_EUSAGE, e, "unknown");
    o = order_of("");
    check_fails(gimbal_measure_begin(&m, &o, &e), GIMBAL_EUSAGE, e, "no score");
    o = order_of("psnr_prev,warp_error");
    check_fails(gimbal_measure_begin(&m, &o, &e), GIMBAL_ENOSUP, e, "optical flow");
    o = order_of(NULL), o.width = 0;
    check_fails(gimbal_measure_begin(&m, &o, &e), GIMBAL_EUSAGE, e, "0x24");
    o = order_of(NULL), o.width = o.height = 1 << 20;
    check_fails(gimbal_measure_begin(&m, &o, &e), GIMBAL_EUSAGE, e, "cannot be measured");
    o = order_of(NULL), o.fps = NAN;
    check_fails(gimbal_measure_begin(&m, &o, &e), GIMBAL_EUSAGE, e, "nan");
    o = order_of(NULL), o.size = 8;
    check_fails(gimbal_measure_begin(&m, &o, &e), GIMBAL_EUSAGE, e, "gimbal_measure_defaults");
}

static void scores_are_those_that_were_named(void **state)
{
    (void)state;
    TestClip c = noisy(3, 32, 24);
    gimbal_meter *m =
        measure(&c, "ssim_first,temporal_flickering,warp_coverage,ssim_first", cheap_flow, NULL, 2);
    static const char *const names[] = {"temporal_flickering", "ssim_first", "warp_coverage"};
    gimbal_score s;
    for (int i = 0; i < COUNT(names); i++) {
        assert_int_equal(gimbal_measure_score(m, i, &s), GIMBAL_OK);
        assert_string_equal(s.name, names[i]);
    }
    assert_int_equal(gimbal_measure_score(m, 3, &s), GIMBAL_EUSAGE);
    assert_int_equal(gimbal_measure_score(m, -1, &s), GIMBAL_EUSAGE);
    gimbal_measure_free(m);
    m = measure(&c, "warp", cheap_flow, NULL, 2); /* a metric's name: all its scores */
    assert_int_equal(gimbal_measure_score(m, 1, &s), GIMBAL_OK);
    assert_string_equal(s.name, "warp_coverage");
    gimbal_measure_free(m);
    m = measure(&c, NULL, NULL, NULL, 2); /* without flow: what needs none */
    for (int i = 0; !gimbal_measure_score(m, i, &s); i++)
        check(strcmp(s.metric, "warp") && strcmp(s.metric, "motion_magnitude"), "%s", s.name);
    gimbal_measure_free(m);
    free(c.rgb);
}

static void calls_out_of_order_are_refused(void **state)
{
    (void)state;
    gimbal_error e = {0};
    gimbal_meter *m;
    gimbal_score s;
    uint8_t rgb[3 * 32 * 24] = {0};
    gimbal_measure_order o = order_of(NULL);
    check_ok(gimbal_measure_begin(&m, &o, &e), e);
    check_fails(gimbal_measure_end(m, &e), GIMBAL_EUSAGE, e, "without frames");
    check_ok(gimbal_measure_frame(m, rgb, &e), e);
    assert_int_equal(gimbal_measure_score(m, 0, &s), GIMBAL_EUSAGE);
    check_ok(gimbal_measure_end(m, &e), e);
    check_fails(gimbal_measure_end(m, &e), GIMBAL_EUSAGE, e, "ended before");
    check_fails(gimbal_measure_frame(m, rgb, &e), GIMBAL_EUSAGE, e, "after the end");
    check_ok(gimbal_measure_score(m, 0, &s), e);
    gimbal_measure_free(m);
    gimbal_measure_free(NULL);
}

/* ---- what is shared, what is forgotten --------------------------------------------------- */

typedef struct {
    int calls[16][16]; /* from, to */
    int fail_at;       /* frame */
} Counter;

/* Pixel 0 holds the frame's number. */
static int counting_flow(void *user, const uint8_t *a, const uint8_t *b, int w, int h, float *out,
                         gimbal_error *err)
{
    Counter *counter = user;
    memset(out, 0, 2 * sizeof(float) * (size_t)w * (size_t)h);
    if (MAX(a[0], b[0]) == counter->fail_at)
        return (fail)(err, GIMBAL_EIO, "no flow to picture %d", counter->fail_at);
#pragma omp atomic
    counter->calls[a[0]][b[0]]++;
    return GIMBAL_OK;
}

static TestClip numbered(int frames)
{
    TestClip c = clip_new(frames, 24, 20);
    for (int i = 0; i < frames; i++)
        frame_of(&c, i)[0] = (uint8_t)i;
    return c;
}

static void a_flow_is_computed_once(void **state)
{
    (void)state;
    Counter counter = {.fail_at = -1};
    TestClip c = numbered(16);
    gimbal_measure_free(
        measure(&c, NULL, counting_flow, &counter, 2)); /* 8 fps: the degree sees neighbours */
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++) {
            const bool neighbours = abs(i - k) == 1, kept = abs(i - k) == 2 && i % 2 == 0;
            check(counter.calls[i][k] == (neighbours || kept), "%d to %d: %d times", i, k,
                  counter.calls[i][k]);
        }
    c.fps = 24;
    memset(&counter.calls, 0, sizeof counter.calls);
    gimbal_measure_free(measure(&c, "dynamic_degree_dis", counting_flow, &counter, 2));
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++)
            check(counter.calls[i][k] == (i % 3 == 0 && k == i + 3), "at 24 fps %d to %d", i, k);
    free(c.rgb);
}

static void a_failed_flow_stops_the_meter(void **state)
{
    (void)state;
    Counter counter = {.fail_at = 2};
    gimbal_error e = {0};
    gimbal_meter *m;
    gimbal_score s;
    TestClip c = numbered(4);
    gimbal_measure_order o = order_of(NULL);
    o.width = c.w, o.height = c.h;
    o.flow = counting_flow, o.flow_user = &counter;
    check_ok(gimbal_measure_begin(&m, &o, &e), e);
    check_ok(gimbal_measure_frame(m, frame_of(&c, 0), &e), e);
    check_ok(gimbal_measure_frame(m, frame_of(&c, 1), &e), e);
    check_fails(gimbal_measure_frame(m, frame_of(&c, 2), &e), GIMBAL_EIO, e, "no flow to picture 2");
    check_fails(gimbal_measure_frame(m, frame_of(&c, 3), &e), GIMBAL_EIO, e, "no flow to picture 2");
    check_fails(gimbal_measure_end(m, &e), GIMBAL_EIO, e, "no flow to picture 2");
    assert_int_equal(gimbal_measure_score(m, 0, &s), GIMBAL_EUSAGE);
    gimbal_measure_free(m);
    free(c.rgb);
}

static void a_long_clip_needs_no_more_memory(void **state)
{
    (void)state;
    enum { LONG = 6000, SOON = 100 }; /* ten minutes at 10 per second */
    gimbal_error e = {0};
    gimbal_meter *m;
    gimbal_measure_order o = order_of(NULL);
    TestClip c = noisy(40, 32, 24);
    uint64_t early = 0;
    o.fps = 10;
    o.flow = cheap_flow;
    o.threads = 1;
    check_ok(gimbal_measure_begin(&m, &o, &e), e);
    for (int i = 0; i < LONG; i++) {
        check_ok(gimbal_measure_frame(m, frame_of(&c, i % c.frames), &e), e);
        if (i == SOON)
            early = anon_bytes_now();
    }
    const uint64_t late = anon_bytes_now(), pictures = (uint64_t)LONG * picture_size(&c);
    check_ok(gimbal_measure_end(m, &e), e);
    print_message("%d frames: %.2f MB more than after %d; the pictures are %.1f MB\n", LONG,
                  ((double)late - (double)early) / 1e6, SOON, (double)pictures / 1e6);
#ifndef GIMBAL_SANITIZED
    check(late < early + 3000000, "memory grew from %llu to %llu", (unsigned long long)early,
          (unsigned long long)late);
#endif
    check(gimbal_measure_frames(m) == LONG, "frames");
    gimbal_measure_free(m);
    free(c.rgb);
}

static void a_clip_of_hostile_rate_is_measured(void **state)
{
    (void)state;
    TestClip c = noisy(6, 32, 24);
    c.fps = 1e300;
    gimbal_meter *m = measure(&c, "dynamic_degree_dis", cheap_flow, NULL, 1);
    assert_true(isnan(score_of(m, "dynamic_degree_dis").value));
    assert_non_null(score_of(m, "dynamic_degree_dis").why);
    gimbal_measure_free(m);
    free(c.rgb);
}

TESTS(every_metric_is_listed_once_and_explained, every_metric_is_repeatable_on_odd_sizes,
      every_metric_answers_for_clips_that_are_hardly_there, opencvs_flow_gives_the_same_on_any_threads,
      orders_that_cannot_be_are_refused, scores_are_those_that_were_named, calls_out_of_order_are_refused,
      a_flow_is_computed_once, a_failed_flow_stops_the_meter, a_long_clip_needs_no_more_memory,
      a_clip_of_hostile_rate_is_measured)
