/* t_feature_metrics.c: metrics of networks' features: the formulas on features made by hand, then whole clips
 * through the tiny networks by the public calls. */
#include "metric/meter.h"
#include "tests/metric_nets.h"

/* ---- formulas ---------------------------------------------------------------------------- */

enum { W = 2 };

/* A metric's first score of frames whose features are given; `given`: of the prompt or the image. */
static double scored(const Metric *metric, int n, const float (*features)[W], const float *given,
                     double *per_frame)
{
    double value[SCORE_MOST] = {NAN, NAN, NAN, NAN};
    const char *why = NULL;
    Job job = {.metric = metric, .self = calloc(1, metric->size), .feed = feed_of(metric->needs)};
    struct gimbal_meter m = {.order = {.width = 8, .height = 8}, .jobs = &job, .n_jobs = 1, .current = &job};
    m.text = (float *)given;
    m.feeds[job.feed].image = (float *)given;
    for (int i = 0; i < n; i++) {
        const Frame f = {.i = i, .w = 8, .h = 8, .feature = features[i], .width = W, .meter = &m};
        check_ok(job_frame(&m, &job, &f), m.error);
    }
    check_ok(metric->end(job.self, n, value, &why, &err), err);
    check(isfinite(value[0]) || why, "an undefined score says why");
    for (int i = 0; per_frame && i < n; i++)
        per_frame[i] = i < job.room[0] ? job.values[0][i] : NAN;
    free(job.self), free(job.values[0]);
    return value[0];
}

static const float same[3][W] = {{1, 0}, {2, 0}, {0.5f, 0}}, across[3][W] = {{1, 0}, {0, 1}, {1, 0}},
                   against[3][W] = {{1, 0}, {-1, 0}, {1, 0}};
/* cosines: first and second 0.6, second and third 0.6 * 0.8 + 0.8 * -0.6 = 0, first and third 0.8 */
static const float by_hand[3][W] = {{1, 0}, {0.6f, 0.8f}, {0.8f, -0.6f}};
static const float right[W] = {3, 0};

static void consistency_is_vbenchs(void **state)
{
    (void)state;
    const Metric *const both[] = {&metric_subject_consistency, &metric_background_consistency};
    for (int k = 0; k < 2; k++) {
        double per[3];
        check_near(scored(both[k], 3, same, NULL, NULL), 1, 1e-12, "identical");
        check_near(scored(both[k], 3, across, NULL, NULL), 0.25, 1e-12,
                   "orthogonal to the last, then back at the first");
        check_near(scored(both[k], 2, across, NULL, NULL), 0, 1e-12, "orthogonal");
        check_near(scored(both[k], 3, against, NULL, NULL), 0.25, 1e-12, "opposite counts as 0, not as -1");
        check_near(scored(both[k], 3, by_hand, NULL, per), (0.6 + 0.4) / 2, 1e-7, "by hand");
        check(isnan(per[0]), "the first frame has no value");
        check_near(per[1], 0.6, 1e-7, "second frame");
        check_near(per[2], 0.4, 1e-7, "third frame");
        check(isnan(scored(both[k], 1, same, NULL, NULL)), "one frame");
    }
}

static void dino_first_and_clip_frames_are_not_cut(void **state)
{
    (void)state;
    check_near(scored(&metric_dino_first, 3, same, NULL, NULL), 1, 1e-12, "identical");
    check_near(scored(&metric_dino_first, 3, against, NULL, NULL), 0, 1e-12, "opposite is -1");
    check_near(scored(&metric_dino_first, 3, by_hand, NULL, NULL), 0.7, 1e-7, "by hand");
    check(isnan(scored(&metric_dino_first, 1, same, NULL, NULL)), "one frame");
    check_near(scored(&metric_clip_frame_consistency, 3, same, NULL, NULL), 1, 1e-12, "identical");
    check_near(scored(&metric_clip_frame_consistency, 3, against, NULL, NULL), -1, 1e-12, "opposite is -1");
    check_near(scored(&metric_clip_frame_consistency, 3, by_hand, NULL, NULL), 0.3, 1e-7, "by hand");
    check(isnan(scored(&metric_clip_frame_consistency, 1, same, NULL, NULL)), "one frame");
}

static void clipsim_and_i2v_subject_compare_with_what_is_given(void **state)
{
    (void)state;
    double per[3];
    check_near(scored(&metric_clipsim, 3, by_hand, right, per), 0.8, 1e-7, "clipsim");
    check_near(per[0], 1, 1e-7, "the first frame has a value, too");
    check_near(scored(&metric_clipsim, 1, against + 1, right, NULL), -1, 1e-12, "one frame, opposite");
    check_near(scored(&metric_i2v_subject, 3, same, right, NULL), 1, 1e-12, "i2v identical");
    check_near(scored(&metric_i2v_subject, 3, against, right, NULL), 0.4, 1e-12, "the maximum, and zeros");
    /* frames 2 and 3: cosines 0.6 and 0 with the last; the image is nearest to frame 1 */
    check_near(scored(&metric_i2v_subject, 3, by_hand, right, NULL), 0.4 + 0.3 * 0.3, 1e-7, "by hand");
    check_near(scored(&metric_i2v_subject, 2, by_hand + 1, right, NULL), 0.4 * 0.8, 1e-7,
               "maximum over later frames");
    check(isnan(scored(&metric_i2v_subject, 1, same, right, NULL)), "one frame");
}

/* ---- dynamic degree on flows made by hand ------------------------------------------------ */

/* speed[k]: pixels that 6 % of pair k's flow moves, the rest stands. */
static double degree(int pairs, const double *speed, double fps, int w, int h)
{
    double value[SCORE_MOST] = {NAN};
    const char *why = NULL;
    const Metric *metric = &metric_dynamic_degree;
    const size_t n = (size_t)nets_padded(w) * (size_t)nets_padded(h);
    const int interval = MAX(1, (int)rint(fps / 8));
    Job job = {.metric = metric, .self = calloc(1, metric->size), .feed = -1};
    Flow flow = {.raft = true, .flow = calloc(2 * n, sizeof(float))};
    struct gimbal_meter m = {.order = {.width = w, .height = h},
                             .jobs = &job,
                             .n_jobs = 1,
                             .current = &job,
                             .flows = &flow,
                             .n_flows = 1};
    check_ok(metric->begin(job.self, &m, w, h, fps, &err), err);
    for (int i = 0; i <= pairs * interval; i++) {
        flow.a = i - interval, flow.b = i;
        for (size_t p = 0; i && i % interval == 0 && p < n * 6 / 100; p++) {
            const float v = (float)speed[i / interval - 1];
            flow.flow[2 * (p * 13 % n)] = 0.6f * v, flow.flow[2 * (p * 13 % n) + 1] = -0.8f * v;
        }
        const Frame f = {.i = i, .w = w, .h = h, .fps = fps, .meter = &m};
        check_ok(job_frame(&m, &job, &f), m.error);
    }
    check_ok(metric->end(job.self, pairs * interval + 1, value, &why, &err), err);
    metric->close(job.self);
    free(job.self), free(job.values[0]), free(flow.flow);
    return value[0];
}

static void dynamic_degree_counts_pairs_above_the_threshold(void **state)
{
    (void)state;
    /* 15 pairs of 16 frames: 4 must have more than 6 * 128 / 256 = 3 pixels */
    double fast[15] = {0}, slow[15] = {0};
    for (int i = 0; i < 15; i++)
        fast[i] = i % 4 ? 0.5 : 3.01, slow[i] = i % 4 ? 0.5 : 2.99;
    assert_true(degree(15, fast, 8, 136, 128) == 1);
    assert_true(degree(15, slow, 8, 136, 128) == 0);
    fast[12] = 0.5;
    assert_true(degree(15, fast, 8, 136, 128) == 0);
    fast[12] = 3.01;
    assert_true(degree(15, fast, 24, 130, 128) == 1); /* every third frame */
    assert_true(degree(1, slow, 0, 128, 128) == 1);   /* two frames: published so */
    check(isnan(degree(0, slow, 8, 128, 128)), "one frame");
}

/* ---- whole clips ------------------------------------------------------------------------- */

#define ALL "dino_first,subject_consistency,background_consistency,clip_frame_consistency,clipsim,i2v_subject"

static gimbal_measure_order order_of(const char *scores, int w, int h)
{
    static char path[PATH_ROOM];
    snprintf(path, sizeof path, "%s", in_scratch("nets"));
    gimbal_measure_order o;
    gimbal_measure_defaults(&o);
    o.scores = scores, o.weights = path, o.prompt = "a red ball rolls", o.width = w, o.height = h,
    o.threads = 2;
    return o;
}

/* pictures `still` ? the same : others; frees nothing of *out's */
static void measured(const gimbal_measure_order *o, int frames, bool still, double *out, int n)
{
    gimbal_meter *m;
    check_ok(gimbal_measure_begin(&m, o, &err), err);
    for (int f = 0; f < frames; f++) {
        uint8_t *rgb = formula_picture(still ? 0 : f, o->width, o->height);
        check_ok(gimbal_measure_frame(m, rgb, &err), err);
        free(rgb);
    }
    check_ok(gimbal_measure_end(m, &err), err);
    for (int i = 0; i < n; i++) {
        gimbal_score s;
        check_ok(gimbal_measure_score(m, i, &s), err);
        check(s.weights && strlen(s.weights) == 64, "%s: hash of the weights", s.name);
        check(strstr(s.definition, "antialias=") || strstr(s.definition, "raft"), "%s", s.definition);
        out[i] = s.value;
        check(isfinite(s.value) || s.why, "%s", s.name);
    }
    gimbal_measure_free(m);
}

static void a_still_clip_is_consistent_and_a_restless_one_less(void **state)
{
    (void)state;
    double still[6], other[6], again[6], one[6];
    gimbal_measure_order o = order_of(ALL, 70, 41);
    measured(&o, 3, true, still, 6);
    measured(&o, 19, false, other, 6); /* more than a batch */
    measured(&o, 1, true, one, 6);
    o.threads = 1;
    measured(&o, 19, false, again, 6);
    assert_memory_equal(other, again, sizeof other);
    for (int i = 0; i < 4; i++) {
        check_near(still[i], 1, 1e-6, "score %d", i);
        check(other[i] < still[i] - 1e-4, "score %d: %g", i, other[i]);
    }
    check(still[4] == one[4], "clipsim has a value for one frame");
    for (int i = 0; i < 6; i++)
        check(i == 4 || isnan(one[i]), "score %d of one frame", i);
    check(still[5] > 0.9 && other[5] < still[5], "i2v_subject: %g and %g", still[5], other[5]);
}

/* The meter's numbers are the formula on features asked for one by one. */
static void what_the_meter_says_is_the_formula_on_the_networks_features(void **state)
{
    (void)state;
    enum { FRAMES = 4, SIDE_W = 90, SIDE_H = 50 };
    gimbal_measure_order o = order_of("subject_consistency", SIDE_W, SIDE_H);
    double value, antialiased;
    measured(&o, FRAMES, false, &value, 1);
    o.antialias = 1;
    measured(&o, FRAMES, false, &antialiased, 1);
    check(value != antialiased, "antialiasing changes digits: %.9f", value);
    Nets *n = opened_nets(o.weights, 1u << NET_DINO_B, false);
    float feature[FRAMES][32];
    double sum = 0;
    int pw, ph;
    prep_size(PREP_DINO, SIDE_W, SIDE_H, &pw, &ph);
    float *x = malloc(sizeof *x * 3 * (size_t)pw * (size_t)ph);
    for (int f = 0; f < FRAMES; f++) {
        uint8_t *rgb = formula_picture(f, SIDE_W, SIDE_H);
        check_ok(prep_picture(PREP_DINO, rgb, SIDE_W, SIDE_H, false, false, x, &err), err);
        check_ok(nets_features(n, NET_DINO_B, x, 1, pw, ph, feature[f], &err), err);
        free(rgb);
    }
    for (int f = 1; f < FRAMES; f++)
        for (int k = 0; k < 2; k++) {
            double ab = 0, aa = 0, bb = 0;
            for (int c = 0; c < 32; c++) {
                const double a = feature[f][c], b = feature[k ? f - 1 : 0][c];
                ab += a * b, aa += a * a, bb += b * b;
            }
            sum += fmax(ab / sqrt(aa * bb), 0) / 2;
        }
    check_near(value, sum / (FRAMES - 1), 1e-6, "subject_consistency");
    free(x);
    nets_close(n);
}

static void dynamic_degree_through_raft_and_clips_too_small_for_it(void **state)
{
    (void)state;
    double value;
    gimbal_measure_order o = order_of("dynamic_degree", 130, 128);
    measured(&o, 3, false, &value, 1);
    check(value == 0 || value == 1, "dynamic degree is %g", value);
    o.width = 127;
    gimbal_meter *m;
    gimbal_score s;
    uint8_t *rgb = formula_picture(0, 127, 128);
    check_ok(gimbal_measure_begin(&m, &o, &err), err);
    check_ok(gimbal_measure_frame(m, rgb, &err), err);
    check_ok(gimbal_measure_end(m, &err), err);
    check_ok(gimbal_measure_score(m, 0, &s), err);
    check(isnan(s.value) && strstr(s.why, "128"), "%s", s.why);
    gimbal_measure_free(m);
    free(rgb);
}

static void missing_networks_and_prompts_are_named(void **state)
{
    (void)state;
    gimbal_meter *m;
    gimbal_measure_order o = order_of("clipsim", 64, 64);
    o.prompt = NULL;
    check_fails(gimbal_measure_begin(&m, &o, &err), GIMBAL_EUSAGE, err, "prompt");
    o.prompt = "a ball", o.weights = NULL;
    check_fails(gimbal_measure_begin(&m, &o, &err), GIMBAL_EMODEL, err, "CLIP ViT-B/32");
    o = order_of("dino_first", 64, 64);
    shell("rm %s/nets/dino-vits16.safetensors", scratch);
    check_fails(gimbal_measure_begin(&m, &o, &err), GIMBAL_EMODEL, err, "dino_deitsmall16_pretrain.pth");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(consistency_is_vbenchs),
        cmocka_unit_test(dino_first_and_clip_frames_are_not_cut),
        cmocka_unit_test(clipsim_and_i2v_subject_compare_with_what_is_given),
        cmocka_unit_test(dynamic_degree_counts_pairs_above_the_threshold),
        WITH_NETS(a_still_clip_is_consistent_and_a_restless_one_less),
        WITH_NETS(what_the_meter_says_is_the_formula_on_the_networks_features),
        WITH_NETS(dynamic_degree_through_raft_and_clips_too_small_for_it),
        WITH_NETS(missing_networks_and_prompts_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
