/* noise_mixed.c: PYoCo's mixed noise prior (Ge et al., ICCV 2023, section 4.2): one image of noise that all
 * frames share, and one of each frame's own.
 *
 *     eps[f] = sqrt(a^2 / (1 + a^2)) shared  +  sqrt(1 / (1 + a^2)) own[f]
 *
 * Every frame stays N(0, 1), any two correlate by a^2 / (1 + a^2). ConsistI2V was released with a = 1
 * (correlation 0.5); its paper names a = 1.5 (0.692). The prior is of initial and fresh noise; what a
 * sampler injects between steps stays white, as in ConsistI2V's code, whose scheduler knows no prior.
 *
 * Knows frames, channels and pixels. Refuses to know models, timesteps and files. */
#include "diffusion/diffusion.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    double alpha;
} Mixed;

static const gimbal_option options[] = {
    {.name = "alpha",
     .help = "how much of their noise the frames share: 0 nothing, 1 half, 3 nine tenths; more holds layout "
             "steadier and calms motion, and costs no time",
     .type = GIMBAL_REAL,
     .offset = offsetof(Mixed, alpha),
     .def = 1,
     .min = 0,
     .max = 100},
    {.name = NULL},
};

/* Of the noise of frames i and j. */
static double correlation(const void *self, int i, int j)
{
    const double a = ((const Mixed *)self)->alpha;
    return i == j ? 1.0 : a * a / (1.0 + a * a);
}

/* out [C,F,h,w]. Lane 1, the shared image, is asked first: the reference code reads PyTorch's generator in
 * that order. */
static int draw(const void *self, Source white, const DrawReq *req, float *out)
{
    const gimbal_shape s = req->shape;
    const size_t plane = (size_t)s.h * s.w;
    const double a = ((const Mixed *)self)->alpha;
    const float keep = (float)sqrt(a * a / (1.0 + a * a)), own = (float)sqrt(1.0 / (1.0 + a * a));
    if (req->why == DRAW_STEP)
        return white.draw(white.self, req, out);

    DrawReq one = *req;
    one.lane = 1, one.frame0 = 0, one.shape.f = 1;
    float *shared = alloc_array((size_t)s.c * plane, sizeof *shared);
    if (!shared)
        return GIMBAL_ENOMEM;
    int code = white.draw(white.self, &one, shared);
    if (!code)
        code = white.draw(white.self, req, out);
    for (int c = 0; c < s.c && !code; c++)
        for (int f = 0; f < s.f; f++)
            for (size_t i = 0; i < plane; i++) {
                float *x = &out[((size_t)c * s.f + f) * plane + i];
                *x = keep * shared[c * plane + i] + own * *x;
            }
    free(shared); /* one frame, for the length of one draw */
    return code;
}

const Noise noise_mixed = {
    .name = "mixed",
    .help = "all frames share part of their noise: steadier layout, the same everywhere in the clip",
    .source = "Ge et al., Preserve Your Own Correlation, ICCV 2023",
    .options = options,
    .size = sizeof(Mixed),
    .draw = draw,
    .corr = correlation,
    .shares = true,
};
