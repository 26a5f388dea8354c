/* noise_shared.c: VideoFusion's decomposed noise (Luo et al., CVPR 2023, section 3): a base that the clip
 * shares and each frame's residual.
 *
 *     eps[f] = sqrt(lambda) base  +  sqrt(1 - lambda) residual[f],      eps[key] = base
 *
 * Every frame stays N(0, 1). Two frames correlate by lambda, a frame and the key frame by sqrt(lambda). The
 * paper's lambda is 0.5 and its key frame the middle of the clip. Here the key frame is an absolute frame
 * number and off unless asked for: "the middle" moves with the length, and a longer clip would no longer
 * begin with the shorter one. Without one this is MuseV's form. Models that were trained on such noise say
 * each frame's lambda themselves.
 *
 * All noise of a run is decomposed, a sampler's step noise too: white step noise would take the frames'
 * covariance away again.
 *
 * Knows frames, channels and pixels. Refuses to know models, timesteps and files. */
#include "diffusion/diffusion.h"

#include <math.h>
#include <stdlib.h>

enum { MOST_FRAMES = 1 << 20, NO_KEY = -1, OWN_KEY = -2 };
static const double own_lambda = -1, usual_lambda = 0.5; /* own: the model's */

typedef struct {
    double lambda;
    int key, frames;
    const double *share; /* [frames] the model's, where lambda is left to it; borrowed */
} Shared;

static const gimbal_option options[] = {
    {.name = "lambda",
     .help =
         "share of the base in every frame's noise: 0 white, 0.5 the paper's, 1 all frames alike; more holds "
         "layout steadier and leaves less room for motion, and costs no time; -1: the model's own, or 0.5",
     .type = GIMBAL_REAL,
     .offset = offsetof(Shared, lambda),
     .def = 0.5,
     .min = -1,
     .max = 1},
    {.name = "key",
     .help =
         "frame, counted from 0, whose noise is the base alone, so that the others' layout follows it; the "
         "paper's is the middle one, frames / 2; -1: none; -2: the model's own, or frames / 2 - 1",
     .type = GIMBAL_INT,
     .offset = offsetof(Shared, key),
     .def = NO_KEY,
     .min = OWN_KEY,
     .max = MOST_FRAMES},
    {.name = NULL},
};

/* Share of the base in the noise of absolute frame f. */
static double share(const Shared *o, int64_t f)
{
    if (f == o->key)
        return 1.0;
    const double lambda = o->share && f < o->frames ? o->share[f] : o->lambda;
    return lambda < 0 ? usual_lambda : lambda;
}

/* The model's key frame is the one with share 1; a key frame that was asked for takes its place. */
static int fit(void *self, int frames, const double *own, gimbal_error *err)
{
    Shared *o = self;
    if (o->lambda < 0 && o->lambda != own_lambda)
        return fail(err, GIMBAL_EUSAGE, "shared: lambda is %g, expected 0 to 1, or -1: the model's own",
                    o->lambda);
    if (o->lambda == own_lambda && own)
        o->share = own, o->frames = frames;
    if (o->key == OWN_KEY) {
        o->key = MAX(frames / 2 - 1, 0);
        for (int f = 0; own && f < frames; f++)
            if (own[f] == 1)
                o->key = f;
    }
    return GIMBAL_OK;
}

/* Of the noise of frames i and j. */
static double correlation(const void *self, int i, int j)
{
    return i == j ? 1.0 : sqrt(share(self, i) * share(self, j));
}

/* out [C,F,h,w]. Lane 1, the base, is asked first. */
static int draw(const void *self, Source white, const DrawReq *req, float *out)
{
    const gimbal_shape s = req->shape;
    const size_t plane = (size_t)s.h * s.w;
    DrawReq one = *req;
    one.lane = 1, one.frame0 = 0, one.shape.f = 1;
    float *base = alloc_array((size_t)s.c * plane, sizeof *base);
    if (!base)
        return GIMBAL_ENOMEM;

    int code = white.draw(white.self, &one, base);
    if (!code)
        code = white.draw(white.self, req, out);
    for (int f = 0; f < s.f && !code; f++) {
        const double lambda = share(self, req->frame0 + f);
        const float keep = (float)sqrt(lambda), own = (float)sqrt(1.0 - lambda);
        for (int c = 0; c < s.c; c++)
            for (size_t i = 0; i < plane; i++) {
                float *x = &out[((size_t)c * s.f + f) * plane + i];
                *x = keep * base[c * plane + i] + own * *x;
            }
    }
    free(base); /* one frame, for the length of one draw */
    return code;
}

const Noise noise_shared = {
    .name = "shared",
    .help = "a base for the clip and a residual for each frame, in the sampler's step noise too",
    .source = "Luo et al., VideoFusion: Decomposed Diffusion Models, CVPR 2023",
    .options = options,
    .size = sizeof(Shared),
    .draw = draw,
    .corr = correlation,
    .fit = fit,
    .shares = true,
};
