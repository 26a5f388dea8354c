/* t_noise_split.c: VideoFusion's decomposition on arrays, with networks that are told the truth: what goes into
 * each network and what is made of its answers, how frames are grouped, with layers over time and without.
 *
 * Luo et al., VideoFusion, CVPR 2023; no network and no file. */
#include "diffusion/engine.h" /* before cmocka.h, which makes a macro of fail */
#include "tests/check.h"

#include <math.h>
#include <string.h>

static gimbal_error err;

enum { C = 4, H = 5, W = 7, FRAME = C * H * W, FRAMES = 6, KEY = 2 };

/* A clip x, its noise b and r, and what the stubs say. */
typedef struct {
    Arena keep;
    Schedule schedule;
    Split split;
    double share[FRAMES];
    float x[FRAMES * FRAME], b[FRAME], r[FRAMES * FRAME], e[FRAMES * FRAME],
        z[FRAMES * FRAME];      /* [C,F,h,w] */
    float seen[FRAMES * FRAME]; /* z' as the residual's network got it */
    double seen_t[FRAMES];
    float wrong; /* error of the base's stub, times the clip's own values */
    bool feels;  /* the residual's stub answers by what it sees */
    int base_calls, residual_calls;
} Rig;

static float *frame_of(float *x, int c, int f)
{
    return x + ((size_t)c * FRAMES + f) * H * W;
}

static int base_stub(void *self, const float *x, const int *number, double t, double cfg, float *alone,
                     float *guided, gimbal_error *e)
{
    Rig *rig = self;
    (void)number, (void)t, (void)e;
    for (int i = 0; i < FRAME; i++) {
        alone[i] = rig->b[i] + rig->wrong * x[i];
        guided[i] = cfg > 1 ? 2 * alone[i] : alone[i];
    }
    rig->base_calls++;
    return GIMBAL_OK;
}

static int residual_stub(void *self, const float *x, const int *number, double t, double cfg, float *alone,
                         float *guided, gimbal_error *e)
{
    Rig *rig = self;
    (void)cfg, (void)e;
    check(alone == NULL, "only the base's prediction is wanted alone");
    for (int i = 0; i < rig->split.group; i++) {
        const int f = number[i] - 1;
        rig->seen_t[f] = t;
        for (int c = 0; c < C; c++)
            for (int k = 0; k < H * W; k++) {
                const float v = x[((size_t)c * rig->split.group + i) * H * W + k];
                frame_of(rig->seen, c, f)[k] = v;
                guided[((size_t)c * rig->split.group + i) * H * W + k] =
                    rig->feels ? sinf(v) + (float)f : frame_of(rig->r, c, f)[k];
            }
    }
    rig->residual_calls++;
    return GIMBAL_OK;
}

static void rig_open(Rig *rig, double lambda, int group)
{
    const gimbal_shape clip = {C, FRAMES, H, W}, one = {C, 1, H, W};
    const char *note;
    json_t *config = json_pack("{s:s, s:s, s:f, s:f, s:b}", "_class_name", "DDIMScheduler", "beta_schedule",
                               "linear", "beta_start", 0.00085, "beta_end", 0.012, "clip_sample", 0);
    memset(rig, 0, sizeof *rig);
    check_ok(schedule_read(&rig->schedule, config, "x", NULL, NULL, false, &rig->keep, &note, &err), err);
    json_decref(config);
    for (int f = 0; f < FRAMES; f++)
        rig->share[f] = f == KEY ? 1 : lambda;
    rig->split = (Split){.schedule = &rig->schedule,
                         .shape = clip,
                         .key = KEY,
                         .group = group,
                         .share = rig->share,
                         .base = {base_stub, rig},
                         .residual = {residual_stub, rig}};
    check_ok(split_memory(&rig->split, &err), err);
    philox_normal(1, 0, 0, clip, rig->x), philox_normal(2, 0, 0, one, rig->b),
        philox_normal(3, 0, 0, clip, rig->r);
}

static void rig_close(Rig *rig)
{
    split_free(&rig->split);
    arena_free(&rig->keep);
}

/* e and z of the forward process at t. */
static void diffuse(Rig *rig, double t)
{
    const double a = schedule_a(&rig->schedule, t), s = schedule_s(&rig->schedule, t);
    for (int c = 0; c < C; c++)
        for (int f = 0; f < FRAMES; f++)
            for (int k = 0; k < H * W; k++) {
                const double l = rig->share[f], b = rig->b[c * H * W + k];
                float *e = &frame_of(rig->e, c, f)[k];
                *e = (float)(sqrt(l) * b + sqrt(1 - l) * frame_of(rig->r, c, f)[k]);
                frame_of(rig->z, c, f)[k] = (float)(a * frame_of(rig->x, c, f)[k] + s * *e);
            }
}

static void predict(Rig *rig, const float *z, double t, double cfg, float *raw)
{
    const Denoise net = split_denoise(&rig->split);
    check_ok(net.predict(net.self, z, rig->split.shape, t, cfg, raw, &err), err);
}

/* The true noise in both networks: one step from any level to none is the clip itself. */
static void true_noise_leads_back_to_the_clip(void **state)
{
    (void)state;
    static const double from[] = {1, 300, 700, 999};
    Rig rig;
    rig_open(&rig, 0.5, 3);
    const Sampler *ddim;
    void *self;
    check_ok(sampler_parse("ddim", &ddim, &self, &rig.keep, &err), err);
    for (int i = 0; i < COUNT(from); i++) {
        const Grid grid = {.n = 1, .start = 1, .t = &from[i]};
        float raw[FRAMES * FRAME], next[FRAMES * FRAME];
        diffuse(&rig, from[i]);
        predict(&rig, rig.z, from[i], 1, raw);
        check_ok(ddim->begin(self, &rig.schedule, &grid, 0, NULL, &err), err);
        ddim->step(self, 0, FRAMES * FRAME, rig.z, raw, NULL, next, NULL);
        for (int k = 0; k < FRAMES * FRAME; k++)
            check_near(next[k], rig.x[k], 1e-4, "from timestep %g: value %d", from[i], k);
    }
    rig_close(&rig);
}

/* z' - a x is (1 - l)(1 - abar) of noise, and with a wrong bhat exactly sqrt(1 - l) s times the effective
 * residual r + sqrt(l / (1 - l)) (b - bhat). */
static void what_is_left_of_a_frame_is_its_residual_noise(void **state)
{
    (void)state;
    const double t = 600, l = 0.5;
    Rig rig;
    float raw[FRAMES * FRAME];
    rig_open(&rig, l, 5);
    const double a = schedule_a(&rig.schedule, t), s = schedule_s(&rig.schedule, t);
    for (int turn = 0; turn < 2; turn++) {
        double square = 0;
        rig.wrong = turn ? 0.3f : 0;
        diffuse(&rig, t);
        predict(&rig, rig.z, t, 1, raw);
        for (int f = 0; f < FRAMES; f++)
            for (int c = 0; c < C && f != KEY; c++)
                for (int k = 0; k < H * W; k++) {
                    const double noise = frame_of(rig.seen, c, f)[k] - a * frame_of(rig.x, c, f)[k],
                                 off = -rig.wrong * frame_of(rig.z, c, KEY)[k],
                                 r = frame_of(rig.r, c, f)[k] + sqrt(l / (1 - l)) * off;
                    check_near(noise, sqrt(1 - l) * s * r, 2e-6, "frame %d, value %d", f, k);
                    square += noise * noise / ((FRAMES - 1) * FRAME);
                }
        if (!turn)
            check_near(sqrt(square), sqrt((1 - l) * (1 - a * a)), 0.05, "the noise that is left");
    }
    rig_close(&rig);
}

/* Share 0: frames are what the residual's network makes of them alone, to the bit; share 1 of all but the key
 * frame is what no model has. */
static void without_a_share_the_base_does_not_matter(void **state)
{
    (void)state;
    Rig rig;
    float one[FRAMES * FRAME], two[FRAMES * FRAME];
    rig_open(&rig, 0, 5);
    rig.feels = true;
    diffuse(&rig, 500);
    predict(&rig, rig.z, 500, 1, one);
    rig.wrong = 7;
    predict(&rig, rig.z, 500, 1, two);
    for (int f = 0; f < FRAMES; f++)
        for (int c = 0; c < C && f != KEY; c++)
            for (int k = 0; k < H * W; k++) {
                const float *x = frame_of(one, c, f), *y = frame_of(two, c, f);
                check(x[k] == y[k] && x[k] == sinf(frame_of(rig.z, c, f)[k]) + (float)f, "frame %d, value %d",
                      f, k);
            }
    check(memcmp(frame_of(one, 0, KEY), frame_of(two, 0, KEY), H * W * sizeof *one),
          "the key frame is the base's");
    rig_close(&rig);
}

/* Guidance goes into the estimate, never into what is subtracted. */
static void what_is_subtracted_is_not_guided(void **state)
{
    (void)state;
    Rig rig;
    float plain[FRAMES * FRAME], raw[FRAMES * FRAME], seen[FRAMES * FRAME];
    rig_open(&rig, 0.5, 5);
    diffuse(&rig, 400);
    predict(&rig, rig.z, 400, 1, plain);
    memcpy(seen, rig.seen, sizeof seen);
    predict(&rig, rig.z, 400, 3, raw);
    check(!memcmp(seen, rig.seen, sizeof seen), "the residual's network sees the same");
    rig.split.cfg_base = 1;
    predict(&rig, rig.z, 400, 3, seen);
    check(!memcmp(seen, plain, sizeof seen), "the base has a guidance of its own");
    for (int c = 0; c < C; c++)
        for (int k = 0; k < H * W; k++) {
            const float b = rig.b[c * H * W + k];
            check_near(frame_of(raw, c, KEY)[k], 2 * b, 1e-6, "the key frame, guided");
            check_near(frame_of(raw, c, 0)[k], frame_of(plain, c, 0)[k] + sqrt(0.5) * b, 1e-6,
                       "frame 0, guided");
        }
    rig_close(&rig);
}

static void groups_change_nothing(void **state)
{
    (void)state;
    float first[FRAMES * FRAME], raw[FRAMES * FRAME];
    for (int group = 1; group <= FRAMES - 1; group++) {
        Rig rig;
        rig_open(&rig, 0.5, group);
        rig.feels = true;
        diffuse(&rig, 400);
        predict(&rig, rig.z, 400, 1, group == 1 ? first : raw);
        assert_int_equal(split_calls(&rig.split), (FRAMES - 2 + group) / group);
        assert_int_equal(rig.residual_calls, split_calls(&rig.split));
        assert_int_equal(rig.base_calls, 1);
        check(group == 1 || !memcmp(first, raw, sizeof raw), "groups of %d", group);
        rig_close(&rig);
    }
    const NoiseSplit plain = {.frames = 16};
    const UnetShape flat = {0}, deep = {.motion = true};
    assert_int_equal(split_group(&plain, &deep, (gimbal_shape){4, 512, 64, 64}), 16);
    assert_int_equal(split_group(&plain, &deep, (gimbal_shape){4, 9, 64, 64}), 9);
    assert_int_equal(split_group(&plain, &flat, (gimbal_shape){4, 16, 32, 32}), 15);
    assert_int_equal(split_group(&plain, &flat, (gimbal_shape){4, 16, 64, 64}), 8);
    assert_int_equal(split_group(&plain, &flat, (gimbal_shape){4, 512, 64, 64}), 8);
    assert_int_equal(split_group(&plain, &flat, (gimbal_shape){4, 512, 16, 16}), 16);
    assert_int_equal(split_group(&plain, &flat, (gimbal_shape){4, 1, 64, 64}), 1);
    assert_int_equal(split_group(&plain, &flat, (gimbal_shape){4, 16, 512, 512}), 1);
}

/* With layers over time every call is a whole clip of the trained length: the key frame's picture at its place,
 * and others around it, all of which come by. */
static void layers_over_time_see_the_key_frame_in_every_cut(void **state)
{
    (void)state;
    const double t = 400;
    for (int group = 2; group <= FRAMES; group++) {
        Rig rig;
        float raw[FRAMES * FRAME];
        rig_open(&rig, 0.5, group);
        rig.split.over_time = true, rig.split.key_place = group == FRAMES ? KEY : group - 1;
        diffuse(&rig, t);
        predict(&rig, rig.z, t, 1, raw);
        assert_int_equal(split_calls(&rig.split), (FRAMES - 1 + group - 2) / (group - 1));
        assert_int_equal(rig.residual_calls, split_calls(&rig.split));
        assert_int_equal(rig.split.place[rig.split.key_place], KEY);
        assert_int_equal(rig.base_calls, 1 + 4); /* four steps of eight from timestep 400 to the picture */
        for (int i = 0; i < FRAMES * FRAME; i++)
            check_near(raw[i], rig.e[i], 1e-5, "e in groups of %d, value %d", group, i);
        for (int c = 0; c < C; c++)
            for (int k = 0; k < H * W; k++)
                check_near(frame_of(rig.seen, c, KEY)[k], frame_of(rig.x, c, KEY)[k], 1e-5,
                           "the key frame's row is its picture");
        rig_close(&rig);
    }
}

/* Brought to unit variance and asked about where a picture has as much noise; frames of other shares
 * elsewhere. */
static void rescaled_frames_are_ordinary_noised_pictures(void **state)
{
    (void)state;
    const double t = 650;
    Rig rig;
    float raw[FRAMES * FRAME];
    rig_open(&rig, 0.5, 5);
    rig.split.rescale = true, rig.share[4] = 0.2, rig.share[5] = 0;
    diffuse(&rig, t);
    predict(&rig, rig.z, t, 1, raw);
    assert_int_equal(rig.residual_calls, 3);
    assert_int_equal(split_calls(&rig.split), 3);
    for (int f = 0; f < FRAMES; f++) {
        double scale, off = 0;
        if (f == KEY)
            continue;
        const double at = split_timestep(&rig.schedule, t, rig.share[f], &scale), l = rig.share[f],
                     abar = rig.schedule.alpha_bar[(int)t], v = abar + (1 - l) * (1 - abar);
        check(rig.seen_t[f] == at && at <= t, "frame %d is asked about at %g", f, rig.seen_t[f]);
        check_near(scale, 1 / sqrt(v), 1e-12, "scale");
        for (int i = 0; i < rig.schedule.T; i++)
            check(fabs(rig.schedule.alpha_bar[i] - abar / v) >=
                      fabs(rig.schedule.alpha_bar[(int)at] - abar / v),
                  "timestep %d is nearer than %g", i, at);
        for (int c = 0; c < C; c++)
            for (int k = 0; k < H * W; k++) {
                const double want = schedule_a(&rig.schedule, at) * frame_of(rig.x, c, f)[k] +
                                    schedule_s(&rig.schedule, at) * frame_of(rig.r, c, f)[k];
                off = fmax(off, fabs(want - frame_of(rig.seen, c, f)[k]));
            }
        check(off < 5e-3, "frame %d is %g off", f, off);
    }
    check(rig.seen_t[5] == t && rig.seen_t[0] < rig.seen_t[4],
          "the larger the share, the clearer the picture");
    rig_close(&rig);
}

static void frames_correlate_as_the_shares_say(void **state)
{
    (void)state;
    const gimbal_shape s = {4, 4, 158, 160}; /* 101,120 values a frame */
    const size_t plane = (size_t)s.h * (size_t)s.w, n = (size_t)s.c * plane;
    float *x = malloc(sizeof *x * shape_count(s));
    check_ok(gimbal_noise("shared:lambda=0.5,key=-2", "philox", 5, 0, s, x, &err), err);
    for (int i = 0; i < s.f; i++)
        for (int j = 0; j <= i; j++) {
            double sum = 0;
            for (size_t k = 0; k < n; k++)
                sum += (double)x[(k / plane * 4 + (size_t)i) * plane + k % plane] *
                       x[(k / plane * 4 + (size_t)j) * plane + k % plane];
            const bool with_key = i == 1 || j == 1; /* the middle of four: 4 / 2 - 1 */
            check_near(sum / (double)n,
                       i == j     ? 1
                       : with_key ? sqrt(0.5)
                                  : 0.5,
                       0.01, "frames %d and %d", i, j);
        }
    free(x);
    check_fails(
        gimbal_noise("shared:lambda=-0.5", "philox", 5, 0, (gimbal_shape){1, 1, 1, 1}, (float[1]){0}, &err),
        GIMBAL_EUSAGE, err, "the model's own");
}

TESTS(true_noise_leads_back_to_the_clip, what_is_left_of_a_frame_is_its_residual_noise,
      without_a_share_the_base_does_not_matter, what_is_subtracted_is_not_guided, groups_change_nothing,
      layers_over_time_see_the_key_frame_in_every_cut, rescaled_frames_are_ordinary_noised_pictures,
      frames_correlate_as_the_shares_say)
