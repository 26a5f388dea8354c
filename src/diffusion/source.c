/* source.c: where random tensors come from: white noise of a seed, or a prior over it.
 *
 * Two generators. "philox" makes a value a function of (seed, stream, absolute frame, channel, y, x), so
 * that a longer clip begins with the shorter one and no draw depends on another; the stream tells apart
 * what the noise is for: why<<28 | lane<<24 | pass<<16 | step. The lane that a clip shares may have a seed of
 * its own. "torch" is one sequence,
 * torch.randn([1,C,F,h,w]) call after call: who asks first gets the first values, and absolute frames
 * mean nothing. Some of the reference's pipelines draw frame by frame, [F,C,h,w]: frames_first.
 *
 * Knows requests and generators. Refuses to know what a prior does with white noise. */
#include "diffusion/diffusion.h"

#include <stdlib.h>
#include <string.h>

static int draw_philox(void *self, const DrawReq *req, float *out)
{
    const WhiteNoise *white = self;
    const int64_t last_start = (int64_t)UINT32_MAX - (req->shape.f - 1);
    if (req->lane < 0 || req->lane > 15 || req->pass < 0 || req->pass > 255 || req->step < 0 ||
        req->step > 65535 || req->frame0 < 0 || req->frame0 > last_start)
        return GIMBAL_EUSAGE;
    const uint32_t stream = (uint32_t)req->why << 28 | (uint32_t)req->lane << 24 | (uint32_t)req->pass << 16 |
                            (uint32_t)req->step;
    philox_normal(req->lane == 1 ? white->shared_seed : white->seed, stream, req->frame0, req->shape, out);
    return GIMBAL_OK;
}

static int draw_torch(void *self, const DrawReq *req, float *out)
{
    WhiteNoise *white = self;
    const gimbal_shape s = req->shape;
    const size_t n = shape_count(s), plane = (size_t)s.h * s.w;
    if (!(white->frames_first >> req->why & 1)) {
        torch_randn(&white->rng, out, n);
        return GIMBAL_OK;
    }
    float *drawn = alloc_array(n, sizeof *drawn); /* [F,C,h,w] */
    if (!drawn)
        return GIMBAL_ENOMEM;
    torch_randn(&white->rng, drawn, n);
    for (int c = 0; c < s.c; c++)
        for (int f = 0; f < s.f; f++)
            memcpy(out + ((size_t)c * s.f + f) * plane, drawn + ((size_t)f * s.c + c) * plane,
                   plane * sizeof *out);
    free(drawn);
    return GIMBAL_OK;
}

int white_init(WhiteNoise *white, const char *rng, uint64_t seed, gimbal_error *err)
{
    *white = (WhiteNoise){.seed = seed, .shared_seed = seed};
    if (rng && !strcmp(rng, "torch")) {
        white->torch = true;
        torch_seed(&white->rng, seed);
    } else if (!rng || strcmp(rng, "philox")) {
        return fail_hint(
            err, GIMBAL_EUSAGE, "philox is gimbal's own, torch draws what PyTorch draws on a CPU",
            "random generator \"%s\" is unknown; expected philox or torch", rng ? rng : "(none)");
    }
    return GIMBAL_OK;
}

Source white_source(WhiteNoise *white)
{
    return (Source){white->torch ? draw_torch : draw_philox, white};
}

static int draw_prior(void *self, const DrawReq *req, float *out)
{
    const PriorNoise *prior = self;
    return prior->noise->draw(prior->self, prior->white, req, out);
}

Source prior_source(PriorNoise *prior)
{
    return (Source){draw_prior, prior};
}
