/* metric_nets.h: what the tests of the metrics' networks share: pictures by formula, as tests/oracle makes
 * them, and the tiny networks with random weights. */
#ifndef METRIC_NETS_H
#define METRIC_NETS_H

#include "metric/nets.h" /* before cmocka.h, which makes a macro of fail */
#include "tests/models.h"

#define METRIC_NETS "tests/golden/metric/nets"

/* [h][w][3]; caller frees */
static inline uint8_t *formula_picture(int f, int w, int h)
{
    uint8_t *rgb = malloc(3 * (size_t)w * (size_t)h), *to = rgb;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int c = 0; c < 3; c++)
                *to++ = (uint8_t)(x * (3 + c) + y * (5 - c) + x * y / 16 + 37 * c + 11 * f);
    return rgb;
}

/* [n][h][w][3], -2..2; caller frees */
static inline float *formula_pictures(int n, int w, int h)
{
    const size_t each = 3 * (size_t)w * (size_t)h;
    float *out = malloc((size_t)n * each * sizeof *out);
    for (int f = 0; f < n; f++) {
        uint8_t *rgb = formula_picture(f, w, h);
        for (size_t i = 0; i < each; i++)
            out[(size_t)f * each + i] = (rgb[i] / 255.0f - 0.5f) / 0.25f;
        free(rgb);
    }
    return out;
}

static inline Nets *opened_nets(const char *path, unsigned kinds, bool text)
{
    Nets *n;
    check_ok(nets_open(&n, path, kinds, text, 2, &err), err);
    return n;
}

/* The tiny networks in SCRATCH/nets, with the small model's words beside CLIP. */
static inline int copy_nets(void **state)
{
    (void)state;
    snprintf(scratch, sizeof scratch, "/tmp/gimbal-nets-XXXXXX");
    check(mkdtemp(scratch) != NULL, "mkdtemp");
    shell("cp -r " METRIC_NETS " %s/nets && chmod -R u+w %s && cp " TINY "/tokenizer/* %s/nets/clip/",
          scratch, scratch, scratch);
    return 0;
}

#define WITH_NETS(f) cmocka_unit_test_setup_teardown(f, copy_nets, remove_model)

#endif
