/* clip_frame.c: consistency of neighbouring frames in CLIP's eyes (EvalCrafter's clip_temp_score, Liu et al.
 * 2024).
 *
 *     1/(T-1) sum_t cos(e_t, e_(t+1)),  e: CLIP ViT-B/32, projected
 *
 * No cosine is cut at 0 and no frame is compared with the first. EvalCrafter's code feeds the network
 * pictures that were not normalised; here they are prepared as CLIP was trained, so its digits differ.
 * Refuses to know networks. */
#include "metric/feature.h"

typedef struct {
    float previous[FEATURE_MAX];
    double sum;
} State;

static int see(void *self, const Frame *f, gimbal_error *err)
{
    State *s = self;
    const double value = f->i ? cosine(s->previous, f->feature, f->width) : 0;
    (void)err;
    s->sum += value;
    keep_feature(s->previous, f);
    return f->i ? meter_frame_value(f->meter, 0, f->i, value) : GIMBAL_OK;
}

static int end(void *self, int frames, double *values, const char **why, gimbal_error *err)
{
    (void)err;
    return mean_over_pairs(((const State *)self)->sum, frames, "one frame has no neighbour", values, why);
}

static const Score scores[] = {
    {"clip_frame_consistency", "how alike neighbouring frames are; at most 1", 1},
    {.name = NULL},
};

const Metric metric_clip_frame_consistency = {
    .name = "clip_frame_consistency",
    .help = "likeness of neighbouring frames, as CLIP ViT-B/32 sees them",
    .source = "EvalCrafter, Liu et al. 2024: clip_temp_score, with normalised pictures",
    .definition = "evalcrafter:clip_temp_score/net=clip-vit-b32/resize=224,bicubic,unrounded/normalised/1",
    .scores = scores,
    .needs = NEED_CLIP,
    .size = sizeof(State),
    .frame = see,
    .end = end,
};
