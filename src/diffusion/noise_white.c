/* noise_white.c: independent standard normal noise for every value of every frame; what diffusion models
 * are trained on, and the control for every other prior.
 *
 *     eps[c,f,y,x] ~ N(0, 1)
 *
 * Knows nothing but the source that it passes on. Refuses to know frames, models, timesteps and files. */
#include "diffusion/diffusion.h"

static int draw(const void *self, Source white, const DrawReq *req, float *out)
{
    (void)self;
    return white.draw(white.self, req, out);
}

/* Of the noise of frames i and j. */
static double correlation(const void *self, int i, int j)
{
    (void)self;
    return i == j ? 1.0 : 0.0;
}

const Noise noise_white = {
    .name = "white",
    .help = "every frame has noise of its own",
    .source = "Ho et al., Denoising Diffusion Probabilistic Models, NeurIPS 2020",
    .draw = draw,
    .corr = correlation,
};
