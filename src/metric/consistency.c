/* consistency.c: VBench's subject_consistency and background_consistency (Huang et al., CVPR 2024, and its
 * code): one formula on the features of two networks.
 *
 *     1/(T-1) sum_(t>=2) 1/2 ( relu cos(f_(t-1), f_t) + relu cos(f_1, f_t) )
 *
 * Cosines are cut at 0 before they are averaged. A clip that stands still has 1, so read it beside the
 * motion. Refuses to know networks and how pictures were prepared. */
#include "metric/feature.h"

typedef struct {
    float first[FEATURE_MAX], previous[FEATURE_MAX];
    double sum;
} State;

static int see(void *self, const Frame *f, gimbal_error *err)
{
    State *s = self;
    double value = 0;
    (void)err;
    if (!f->i) {
        keep_feature(s->first, f);
    } else {
        value = (not_below_0(cosine(s->previous, f->feature, f->width)) +
                 not_below_0(cosine(s->first, f->feature, f->width))) /
                2;
        s->sum += value;
    }
    keep_feature(s->previous, f);
    return f->i ? meter_frame_value(f->meter, 0, f->i, value) : GIMBAL_OK;
}

static int end(void *self, int frames, double *values, const char **why, gimbal_error *err)
{
    (void)err;
    return mean_over_pairs(((const State *)self)->sum, frames, "one frame has no neighbour", values, why);
}

static const Score subject[] = {
    {"subject_consistency", "how alike the frames' subjects are to the last and the first one's; at most 1",
     1},
    {.name = NULL},
};

const Metric metric_subject_consistency = {
    .name = "subject_consistency",
    .help = "likeness of each frame to the one before and to the first, as DINO ViT-B/16 sees them",
    .source = "VBench, Huang et al. 2024: subject_consistency; features: Caron et al. 2021",
    .definition = "vbench:subject_consistency/net=dino-vitb16/resize=224,bilinear,unrounded/1",
    .scores = subject,
    .needs = NEED_DINO_B,
    .size = sizeof(State),
    .frame = see,
    .end = end,
};

static const Score background[] = {
    {"background_consistency", "how alike whole frames are to the last and the first one; at most 1", 1},
    {.name = NULL},
};

const Metric metric_background_consistency = {
    .name = "background_consistency",
    .help = "likeness of each frame to the one before and to the first, as CLIP ViT-B/32 sees them",
    .source = "VBench, Huang et al. 2024: background_consistency; features: Radford et al. 2021",
    .definition = "vbench:background_consistency/net=clip-vit-b32/resize=224,bicubic,unrounded/1",
    .scores = background,
    .needs = NEED_CLIP,
    .size = sizeof(State),
    .frame = see,
    .end = end,
};
