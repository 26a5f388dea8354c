/* t_toyworld.c: the procedural clips (src/train/toyworld.c) are those that the bundled model learnt from:
 * pixels of the script that made these (tests/golden/training/toyworld.safetensors), captions and attributes
 * of the judge (tests/kit), which knows the grammar from models/toyworld/README.md alone. */
#include "tests/check.h"
#include "tests/kit/toyworld.h"

#include <time.h>

enum { SIZE = TOY_SIZE, PICTURE = SIZE * SIZE * 3, CLIP = TOY_FRAMES * PICTURE, JUDGED = 200 };
static const int all[TOY_FRAMES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static gimbal_clips open_world(const char *spec)
{
    gimbal_clips world;
    gimbal_error err = {0};
    check_ok(gimbal_toyworld(spec, &world, &err), err);
    return world;
}

static void read_at(const gimbal_clips *world, int64_t i, const int *at, int n, int width, int height,
                    uint8_t *rgb)
{
    gimbal_error err = {0};
    check_ok(world->read(world->self, i, at, n, width, height, rgb, &err), err);
}

/* Every fourth pixel of one frame of eight scenes, one of each motion, as the script drew them. */
static void pixels_are_those_of_the_training_set(void **state)
{
    (void)state;
    enum { SCENES = 8, EACH = 32 * 32 * 3 };
    const char *file = "tests/golden/training/toyworld.safetensors";
    size_t n, n_scenes;
    float *scene = golden(file, "scene", &n_scenes), *want = golden(file, "pixels", &n);
    assert_int_equal(n_scenes, SCENES), assert_int_equal(n, SCENES * EACH);
    static uint8_t rgb[PICTURE];
    int off = 0;
    for (int s = 0; s < SCENES; s++) {
        char spec[64];
        const int frame = 3 + s;
        snprintf(spec, sizeof spec, "count=1,first=%.0f", (double)scene[s]);
        gimbal_clips world = open_world(spec);
        read_at(&world, 0, &frame, 1, SIZE, SIZE, rgb);
        for (int i = 0; i < EACH; i++) {
            const int y = i / 96 * 4 + 1, x = i / 3 % 32 * 4 + 1;
            const double d = fabs(rgb[(y * SIZE + x) * 3 + i % 3] - (double)want[s * EACH + i]);
            check(d <= 1, "scene %d, x %d, y %d: off by %g", s, x, y, d); /* rounding in float32 there */
            off += d > 0;
        }
        world.close(world.self);
    }
    check(off <= 5, "%d values", off);
    free(scene), free(want);
}

static void the_judge_reads_what_was_drawn(void **state)
{
    (void)state;
    static const char *const names[] = {"size", "colour", "shape", "motion", "background", "texture"};
    gimbal_clips world = open_world("count=200,first=1000000");
    uint8_t *rgb = malloc(CLIP);
    int right[TOY_ATTRIBUTES] = {0};
    for (int i = 0; i < JUDGED; i++) {
        int seen[TOY_ATTRIBUTES], truth[TOY_ATTRIBUTES];
        const ToyScene scene = toy_scene(1000000 + (uint64_t)i);
        toy_truth(&scene, truth);
        read_at(&world, i, all, TOY_FRAMES, SIZE, SIZE, rgb);
        toy_read(rgb, TOY_FRAMES, seen);
        for (int k = 0; k < TOY_ATTRIBUTES; k++)
            right[k] += seen[k] == truth[k];
    }
    for (int k = 0; k < TOY_ATTRIBUTES; k++) {
        print_message("%s: %d of %d\n", names[k], right[k], JUDGED);
        check(right[k] >= 0.97 * JUDGED, "%s: %d of %d", names[k], right[k], JUDGED);
    }
    free(rgb);
    world.close(world.self);
}

static void captions_are_the_grammar_s(void **state)
{
    (void)state;
    gimbal_clips world = open_world("count=500,first=77");
    gimbal_error err = {0};
    for (int64_t i = 0; i < 500; i++) {
        int frames;
        const char *caption;
        char want[128];
        const ToyScene scene = toy_scene(77 + (uint64_t)i);
        toy_caption(&scene, want, sizeof want);
        check_ok(world.look(world.self, i, &frames, &caption, &err), err);
        assert_string_equal(caption, want);
        assert_int_equal(frames, TOY_FRAMES);
    }
    assert_string_equal(world.name(world.self, 3), "toyworld scene 80");
    world.close(world.self);
}

static void a_frame_does_not_depend_on_what_was_read_before(void **state)
{
    (void)state;
    gimbal_clips world = open_world("first=5"), other = open_world("count=3,first=9");
    uint8_t *whole = malloc(CLIP), *part = malloc(3 * PICTURE);
    const int some[] = {15, 2, 2}, none[] = {0};
    read_at(&world, 6, all, TOY_FRAMES, SIZE, SIZE, whole);
    read_at(&world, 4095, none, 1, SIZE, SIZE, part);
    read_at(&other, 2, some, 3, SIZE, SIZE, part); /* scene 11 again */
    assert_memory_equal(part, whole + 15 * PICTURE, PICTURE);
    assert_memory_equal(part + PICTURE, whole + 2 * PICTURE, PICTURE);
    assert_memory_equal(part + 2 * PICTURE, whole + 2 * PICTURE, PICTURE);
    read_at(&world, 0, none, 0, SIZE, SIZE, part); /* nothing is asked for, nothing happens */
    assert_memory_equal(part, whole + 15 * PICTURE, PICTURE);
    free(whole), free(part);
    world.close(world.self), other.close(other.self);
}

/* A clip of half the size is about the mean of four pixels: it is drawn, edges included, at its own. */
static void small_clips_show_the_whole_world(void **state)
{
    (void)state;
    enum { HALF = SIZE / 2 };
    gimbal_clips world = open_world("count=8,first=0");
    static uint8_t full[PICTURE], half[HALF * HALF * 3];
    double sum = 0;
    for (int64_t i = 0; i < 8; i++) {
        read_at(&world, i, &all[7], 1, SIZE, SIZE, full);
        read_at(&world, i, &all[7], 1, HALF, HALF, half);
        for (int y = 0; y < HALF; y++)
            for (int k = 0; k < 3 * HALF; k++) {
                const uint8_t *p = full + (2 * y * SIZE + k / 3 * 2) * 3 + k % 3;
                sum += fabs((p[0] + p[3] + p[3 * SIZE] + p[3 * SIZE + 3]) / 4.0 - half[y * 3 * HALF + k]);
            }
    }
    check(sum / (8 * sizeof half) < 0.5, "mean difference %g", sum / (8 * sizeof half));
    world.close(world.self);
}

/* 3 : 2 and 2 : 3 are the middle of the square that covers them. */
static void wide_and_tall_clips_are_cut_from_the_middle(void **state)
{
    (void)state;
    enum { LONG = 96, SHORT = 64, CUT = (LONG - SHORT) / 2 };
    gimbal_clips world = open_world("count=4,first=40");
    static uint8_t square[LONG * LONG * 3], wide[LONG * SHORT * 3], tall[LONG * SHORT * 3];
    for (int64_t i = 0; i < 4; i++) {
        read_at(&world, i, &all[2], 1, LONG, LONG, square);
        read_at(&world, i, &all[2], 1, LONG, SHORT, wide);
        read_at(&world, i, &all[2], 1, SHORT, LONG, tall);
        for (int y = 0; y < SHORT; y++)
            for (int k = 0; k < 3 * LONG; k++)
                check_near(wide[y * 3 * LONG + k], square[(y + CUT) * 3 * LONG + k], 1, "wide, %d %d", y, k);
        for (int y = 0; y < LONG; y++)
            for (int k = 0; k < 3 * SHORT; k++)
                check_near(tall[y * 3 * SHORT + k], square[y * 3 * LONG + k + 3 * CUT], 1, "tall, %d %d", y,
                           k);
    }
    world.close(world.self);
}

static void sets_have_names_of_their_own(void **state)
{
    (void)state;
    gimbal_clips a = open_world(NULL), b = open_world("count=4096,first=0"), c = open_world("first=1"),
                 d = open_world("count=10");
    assert_int_equal(a.count, 4096), assert_int_equal(d.count, 10);
    assert_int_equal(strlen(a.identity), 64);
    assert_string_equal(a.identity, b.identity);
    assert_string_not_equal(a.identity, c.identity);
    assert_string_not_equal(a.identity, d.identity);
    a.close(a.self), b.close(b.self), c.close(c.self), d.close(d.self);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    gimbal_error err = {0};
    gimbal_clips w;
    check_fails(gimbal_toyworld("count=0", &w, &err), GIMBAL_EUSAGE, err, "count is 0, expected at least 1");
    check_fails(gimbal_toyworld("count=4294967296", &w, &err), GIMBAL_EUSAGE, err, "count");
    check_fails(gimbal_toyworld("first=-1", &w, &err), GIMBAL_EUSAGE, err, "first is -1");
    check_fails(gimbal_toyworld("first=9223372036854775807", &w, &err), GIMBAL_EUSAGE, err, "first is 9");
    check_fails(gimbal_toyworld("frist=1", &w, &err), GIMBAL_EUSAGE, err, "first");
    assert_null(w.self);
    w = open_world("count=2");
    uint8_t rgb[3];
    int frames;
    const char *caption;
    check_fails(w.look(w.self, 2, &frames, &caption, &err), GIMBAL_EUSAGE, err, "clip 2 of 2");
    check_fails(w.look(w.self, -1, &frames, &caption, &err), GIMBAL_EUSAGE, err, "clip -1");
    check_fails(w.read(w.self, 2, all, 1, 1, 1, rgb, &err), GIMBAL_EUSAGE, err, "clip 2 of 2");
    check_fails(w.read(w.self, 0, all, 1, 0, 1, rgb, &err), GIMBAL_EUSAGE, err, "0x1");
    check_fails(w.read(w.self, 0, all, 1, 1, 1 << 20, rgb, &err), GIMBAL_EUSAGE, err, "1x1048576");
    const int late = TOY_FRAMES, early = -1;
    check_fails(w.read(w.self, 0, &late, 1, 1, 1, rgb, &err), GIMBAL_EUSAGE, err, "frame 16 of 16");
    check_fails(w.read(w.self, 0, &early, 1, 1, 1, rgb, &err), GIMBAL_EUSAGE, err, "frame -1 of 16");
    w.close(w.self);
}

/* In this process's own time, which other programs on the machine do not lengthen much. */
static void drawing_keeps_up_with_training(void **state)
{
    (void)state;
    gimbal_clips world = open_world("count=16,first=0");
    uint8_t *rgb = malloc(CLIP);
    const clock_t begin = clock();
    for (int64_t i = 0; i < 16; i++)
        read_at(&world, i, all, TOY_FRAMES, SIZE, SIZE, rgb);
    const double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
    print_message("%.0f frames a second\n", 16 * TOY_FRAMES / seconds);
#ifndef GIMBAL_SANITIZED
    check(16 * TOY_FRAMES / seconds >= 200, "%.0f frames a second", 16 * TOY_FRAMES / seconds);
#endif
    free(rgb);
    world.close(world.self);
}

TESTS(pixels_are_those_of_the_training_set, the_judge_reads_what_was_drawn, captions_are_the_grammar_s,
      a_frame_does_not_depend_on_what_was_read_before, small_clips_show_the_whole_world,
      wide_and_tall_clips_are_cut_from_the_middle, sets_have_names_of_their_own, what_cannot_be_is_refused,
      drawing_keeps_up_with_training)
