/* t_prep.c: preparing pictures for networks against torch and Pillow (tests/oracle/metric_prep.py): every
 * 17th pixel of every kind, plain and antialiased, as floats and as bytes, enlarging and shrinking, wide and
 * high. */
#include "tests/metric_nets.h"

#define WANT "tests/golden/metric/prep.safetensors"
enum { STEP = 17 };

static const struct {
    Prep kind;
    const char *name;
} kinds[] = {{PREP_DINO, "dino"}, {PREP_CLIP, "clip"}, {PREP_DINO_CROP, "dino_crop"}, {PREP_I3D, "i3d"}};
static const int sizes[][2] = {{53, 37}, {300, 517}, {640, 333}};

static float *prepared(Prep kind, int w, int h, bool antialias, bool round, int *pw, int *ph)
{
    uint8_t *rgb = formula_picture(2, w, h);
    prep_size(kind, w, h, pw, ph);
    float *x = malloc(sizeof *x * 3 * (size_t)*pw * (size_t)*ph);
    check_ok(prep_picture(kind, rgb, w, h, antialias, round, x, &err), err);
    free(rgb);
    return x;
}

static void check_mode(int k, int w, int h, bool antialias, bool round)
{
    char key[64];
    int pw, ph;
    size_t n, at = 0;
    float *x = prepared(kinds[k].kind, w, h, antialias, round, &pw, &ph);
    snprintf(key, sizeof key, "%s.%dx%d.%s%s", kinds[k].name, w, h, antialias ? "antialias" : "plain",
             round ? "8" : "");
    float *want = golden(WANT, key, &n);
    check(n == 3 * (size_t)((pw + STEP - 1) / STEP) * (size_t)((ph + STEP - 1) / STEP), "%s: %dx%d", key, pw,
          ph);
    for (int y = 0; y < ph; y += STEP)
        for (int i = 0; i < pw; i += STEP)
            for (int c = 0; c < 3; c++, at++)
                check_near(x[3 * ((size_t)y * (size_t)pw + (size_t)i) + (size_t)c], want[at], 1e-4,
                           "%s at %d,%d,%d", key, i, y, c);
    free(x), free(want);
}

static void every_kind_and_mode_is_torchs_or_pillows(void **state)
{
    (void)state;
    for (int k = 0; k < COUNT(kinds); k++)
        for (int s = 0; s < COUNT(sizes); s++)
            for (int mode = 0; mode < 4; mode++)
                check_mode(k, sizes[s][0], sizes[s][1], mode & 1, mode & 2);
}

static void sizes_are_torchvisions(void **state)
{
    (void)state;
    static const struct {
        Prep kind;
        int w, h, pw, ph;
    } want[] = {{PREP_DINO, 512, 512, 224, 224},      {PREP_DINO, 1280, 720, 398, 224},
                {PREP_DINO, 333, 640, 224, 430},      {PREP_CLIP, 1280, 720, 224, 224},
                {PREP_DINO_CROP, 10, 4000, 224, 224}, {PREP_I3D, 320, 240, 224, 224}};
    for (int i = 0; i < COUNT(want); i++) {
        int pw, ph;
        prep_size(want[i].kind, want[i].w, want[i].h, &pw, &ph);
        check(pw == want[i].pw && ph == want[i].ph, "case %d: %dx%d", i, pw, ph);
    }
}

/* A picture of the network's own size comes through with its values, a flat one with its value at any size.
 */
static void what_need_not_change_does_not(void **state)
{
    (void)state;
    static const double mean[] = {.485, .456, .406}, deviation[] = {.229, .224, .225};
    int pw, ph;
    uint8_t *rgb = formula_picture(2, 224, 224);
    float *x = prepared(PREP_I3D, 224, 224, false, false, &pw, &ph);
    for (int i = 0; i < 224 * 224 * 3; i++)
        check_near(x[i], 2 * rgb[i] / 255.0 - 1, 1e-6, "value %d", i);
    free(x), free(rgb);
    uint8_t *flat = malloc(3 * 1 * 97);
    memset(flat, 200, 3 * 97);
    prep_size(PREP_DINO, 97, 1, &pw, &ph);
    x = malloc(sizeof *x * 3 * (size_t)pw * (size_t)ph);
    for (int mode = 0; mode < 4; mode++) {
        check_ok(prep_picture(PREP_DINO, flat, 97, 1, mode & 1, mode & 2, x, &err), err);
        for (size_t i = 0; i < 3 * (size_t)pw * (size_t)ph; i += 41) {
            const double want = (200 / 255.0 - mean[i % 3]) / deviation[i % 3];
            check_near(x[i], want, 1e-5, "mode %d, value %zu", mode, i);
        }
    }
    free(flat), free(x);
}

TESTS(every_kind_and_mode_is_torchs_or_pillows, sizes_are_torchvisions, what_need_not_change_does_not)
