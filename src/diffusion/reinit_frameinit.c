/* reinit_frameinit.c: FrameInit (Ren et al., ConsistI2V, TMLR 2024, section 4.3): before the only pass, the
 * low band of the initial noise takes after a still clip of the first frame, so that layout is there from the
 * start.
 *
 *     z   = a(level) z0 + s(level) eps          z0: the picture in every frame, or a reference clip
 *     eps = F^-1( F(z) m + F(eps) (1 - m) )     m: low-pass mask over frames, height and width
 *
 * Both bands hold the same noise, so that 1 - m keeps its variance: what is lost is s^2 against 1 in the low
 * band, where z0 is. A reference clip that moves (a camera over the picture) lays that motion down.
 * compat=1, the default, is the published mask, which at odd sizes has its middle half a bin beside zero
 * frequency, takes ideal's radius for sqrt(2 ds) and box's width from the height; 0 corrects the mask.
 *
 * Knows the schedule's a and s, masks and clips handed to it. Refuses to know models, samplers and where
 * pictures come from. */
#include "diffusion/reinit_filter.h"

#include <stdlib.h>

typedef struct {
    int level, compat;
    FilterOptions filter;
} FrameInit;

enum { MOST_LEVEL = 100000 };

static const gimbal_option options[] = {
    {.name = "level",
     .help =
         "timestep that the picture is noised to before its low band is taken: lower shows more of it and "
         "leaves less motion; costs no time",
     .type = GIMBAL_INT,
     .offset = offsetof(FrameInit, level),
     .def = 850,
     .min = 0,
     .max = MOST_LEVEL},
    FILTER_OPTIONS(FrameInit, filter, "gaussian", "the still picture"),
    {.name = "compat",
     .help = "1: the filter exactly as published, which is a little off at odd sizes; 0: corrected",
     .type = GIMBAL_BOOL,
     .offset = offsetof(FrameInit, compat),
     .def = 1},
    {.name = NULL},
};

static int lowpass(const void *self, Lowpass *out)
{
    const FrameInit *o = self;
    *out = filter_lowpass(&o->filter, o->compat);
    return GIMBAL_OK;
}

static int check(const void *self, const Schedule *schedule, gimbal_error *err)
{
    const FrameInit *o = self;
    if (o->level < schedule->T)
        return GIMBAL_OK;
    return fail(err, GIMBAL_EUSAGE, "frameinit: level is %d, the model's schedule has timesteps 0 to %d",
                o->level, schedule->T - 1);
}

/* z [C,F,h,w] = a z0 + s eps in float32, products rounded before the sum, as the reference code's tensors
 * are. */
static void noised(const ReinitIn *in, float a, float s, const float *eps, float *z)
{
    const size_t plane = (size_t)in->shape.h * in->shape.w, frames = (size_t)in->shape.f;
    for (size_t c = 0, i = 0; c < (size_t)in->shape.c; c++)
        for (size_t f = 0; f < frames; f++)
            for (size_t k = 0; k < plane; k++, i++)
                z[i] = a * (in->reference ? in->reference[i] : in->image[c * plane + k]) + s * eps[i];
}

/* eps [C,F,h,w] in and out. */
static int first(const void *self, const ReinitIn *in, float *eps, gimbal_error *err)
{
    const FrameInit *o = self;
    const size_t n = shape_count(in->shape);
    Lowpass filter;
    lowpass(o, &filter);
    float *z = alloc_array(n, sizeof *z);
    if (!z)
        return fail(err, GIMBAL_ENOMEM, "frameinit: no memory for %zu latent values", n);
    noised(in, (float)schedule_a(in->schedule, o->level), (float)schedule_s(in->schedule, o->level), eps, z);
    const int code = filter_mix(&filter, false, z, eps, in->shape, eps, err);
    free(z); /* a clip's size once a chunk */
    return code;
}

const Reinit reinit_frameinit = {
    .name = "frameinit",
    .help = "one pass whose noise has the low frequencies of the picture that is begun from",
    .source = "Ren et al., ConsistI2V: Enhancing Visual Consistency for Image-to-Video Generation, TMLR 2024",
    .options = options,
    .size = sizeof(FrameInit),
    .plan = plan_one_pass,
    .first = first,
    .lowpass = lowpass,
    .one_noise = true,
    .reads_picture = true,
    .check = check,
};
