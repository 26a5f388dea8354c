/* noise_progressive.c: PYoCo's progressive noise prior (Ge et al., ICCV 2023, section 4.2): each frame's
 * noise is a little of the frame before it, a first-order autoregression.
 *
 *     eps[0] = first[0]
 *     eps[f] = sqrt(a^2 / (1 + a^2)) eps[f-1]  +  sqrt(1 / (1 + a^2)) own[f]
 *
 * Every frame stays N(0, 1); frames i and j correlate by (a^2 / (1 + a^2))^(|i-j|/2). The chain begins at
 * absolute frame 0, so that a window and a longer clip have the same frames; it is walked from there, at the
 * price of one draw a frame. As with `mixed`, noise that a sampler injects between steps stays white.
 *
 * Knows frames, channels and pixels. Refuses to know models, timesteps and files. */
#include "diffusion/diffusion.h"

#include <math.h>
#include <stdlib.h>

/* A window farther out is refused: its chain would take minutes to walk. */
enum { FARTHEST = 65536 };

typedef struct {
    double alpha;
} Progressive;

static const gimbal_option options[] = {
    {.name = "alpha",
     .help =
         "how much of its noise a frame takes from the frame before: 0 nothing, 1 correlates neighbours by "
         "0.71, 2 by 0.89; more makes motion slower and smoother, layout may still drift; costs no time",
     .type = GIMBAL_REAL,
     .offset = offsetof(Progressive, alpha),
     .def = 1,
     .min = 0,
     .max = 100},
    {.name = NULL},
};

static double link(const Progressive *o)
{
    return sqrt(o->alpha * o->alpha / (1.0 + o->alpha * o->alpha));
}

/* Of the noise of frames i and j. */
static double correlation(const void *self, int i, int j)
{
    return pow(link(self), abs(i - j)); /* alpha 0: 0^0 = 1 on the diagonal */
}

/* eps [C,1,h,w] of one frame -> of the next; own [C,F,h,w], whose frame f is the next one's own noise and
 * takes the result too. */
static void advance(const Progressive *o, gimbal_shape s, float *eps, int f, float *own)
{
    const size_t plane = (size_t)s.h * s.w;
    const float keep = (float)link(o), fresh = (float)sqrt(1.0 / (1.0 + o->alpha * o->alpha));
    for (int c = 0; c < s.c; c++)
        for (size_t i = 0; i < plane; i++) {
            float *e = &eps[c * plane + i], *x = &own[((size_t)c * s.f + f) * plane + i];
            *e = *x = keep * *e + fresh * *x;
        }
}

/* Frame 0 of x [C,F,h,w] -> eps [C,1,h,w] */
static void first_frame(const float *x, gimbal_shape s, float *eps)
{
    const size_t plane = (size_t)s.h * s.w;
    for (int c = 0; c < s.c; c++)
        for (size_t i = 0; i < plane; i++)
            eps[c * plane + i] = x[(size_t)c * s.f * plane + i];
}

/* eps [C,1,h,w]: frame 0's noise, carried to frame `last`; one: [C,1,h,w] of scratch. */
static int walk(const Progressive *o, Source white, const DrawReq *req, int64_t last, float *eps, float *one)
{
    DrawReq next = *req;
    next.shape.f = 1;
    for (next.frame0 = 1; next.frame0 <= last; next.frame0++) {
        TRY(white.draw(white.self, &next, one));
        advance(o, next.shape, eps, 0, one);
    }
    return GIMBAL_OK;
}

/* out [C,F,h,w], eps: two frames. Lane 1 is the chain's beginning, of which frame 0 is used; all of it is
 * drawn, and first, as the reference code does. */
static int chain(const Progressive *o, Source white, const DrawReq *req, float *out, float *eps)
{
    const gimbal_shape s = req->shape;
    const size_t plane = (size_t)s.h * s.w, frame = (size_t)s.c * plane;
    DrawReq first = *req;
    first.lane = 1, first.frame0 = 0;
    TRY(white.draw(white.self, &first, out));
    first_frame(out, s, eps);
    if (req->frame0 > 0)
        TRY(walk(o, white, req, req->frame0 - 1, eps, eps + frame));
    TRY(white.draw(white.self, req, out));
    for (int f = 0; f < s.f; f++)
        if (req->frame0 > 0 || f > 0)
            advance(o, s, eps, f, out);
        else
            for (int c = 0; c < s.c; c++)
                for (size_t i = 0; i < plane; i++)
                    out[(size_t)c * s.f * plane + i] = eps[c * plane + i];
    return GIMBAL_OK;
}

static int draw(const void *self, Source white, const DrawReq *req, float *out)
{
    const size_t frame = (size_t)req->shape.c * req->shape.h * req->shape.w;
    if (req->why == DRAW_STEP)
        return white.draw(white.self, req, out);
    if (req->frame0 > FARTHEST)
        return GIMBAL_EUSAGE;
    float *eps = alloc_array(2 * frame, sizeof *eps);
    const int code = eps ? chain(self, white, req, out, eps) : GIMBAL_ENOMEM;
    free(eps); /* two frames, for the length of one draw */
    return code;
}

const Noise noise_progressive = {
    .name = "progressive",
    .help = "each frame's noise continues the last one's: neighbours alike, distant frames free",
    .source = "Ge et al., Preserve Your Own Correlation, ICCV 2023",
    .options = options,
    .size = sizeof(Progressive),
    .draw = draw,
    .corr = correlation,
};
