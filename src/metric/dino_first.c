/* dino_first.c: FreeInit's temporal consistency (Wu et al., ECCV 2024): the first frame against all later
 * ones.
 *
 *     1/(T-1) sum_(t>=2) cos(f_1, f_t),  f: DINO ViT-S/16      (the paper's tables: times 100)
 *
 * The paper published no code of it; pictures are prepared as for VBench's DINO score. Refuses to know
 * networks. */
#include "metric/feature.h"

typedef struct {
    float first[FEATURE_MAX];
    double sum;
} State;

static int see(void *self, const Frame *f, gimbal_error *err)
{
    State *s = self;
    (void)err;
    if (!f->i) {
        keep_feature(s->first, f);
        return GIMBAL_OK;
    }
    const double value = cosine(s->first, f->feature, f->width);
    s->sum += value;
    return meter_frame_value(f->meter, 0, f->i, value);
}

static int end(void *self, int frames, double *values, const char **why, gimbal_error *err)
{
    (void)err;
    return mean_over_pairs(((const State *)self)->sum, frames, "one frame has no later one", values, why);
}

static const Score scores[] = {
    {"dino_first", "how alike later frames are to the first; at most 1", 1},
    {.name = NULL},
};

const Metric metric_dino_first = {
    .name = "dino_first",
    .help = "likeness of later frames to the first, as DINO ViT-S/16 sees them",
    .source = "FreeInit, Wu et al. 2024, section 4; features: Caron et al. 2021",
    .definition = "freeinit:dino_first/net=dino-vits16/resize=224,bilinear,unrounded/1",
    .scores = scores,
    .needs = NEED_DINO_S,
    .size = sizeof(State),
    .frame = see,
    .end = end,
};
