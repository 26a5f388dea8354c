/* clipsim.c: CLIPSIM (GODIVA, Wu et al. 2021): does the clip show what the prompt says?
 *
 *     1/T sum_t cos(e_t, p),  e, p: CLIP ViT-B/32's projected features of frame t and of the prompt
 *
 * Pictures go the way of CLIP's own code: Pillow's antialiased bicubic on bytes. Refuses to know networks. */
#include "metric/feature.h"

typedef struct {
    double sum;
} State;

static int see(void *self, const Frame *f, gimbal_error *err)
{
    State *s = self;
    const float *text = meter_text(f->meter);
    (void)err;
    if (!text)
        return GIMBAL_EMODEL; /* the meter has the message */
    const double value = cosine(text, f->feature, f->width);
    s->sum += value;
    return meter_frame_value(f->meter, 0, f->i, value);
}

static int end(void *self, int frames, double *values, const char **why, gimbal_error *err)
{
    (void)err;
    if (frames < 1)
        *why = "no frame";
    else
        values[0] = ((const State *)self)->sum / frames;
    return GIMBAL_OK;
}

static const Score scores[] = {
    {"clipsim", "how well the frames fit the prompt; real clips reach about 0.3", 1},
    {.name = NULL},
};

const Metric metric_clipsim = {
    .name = "clipsim",
    .help = "likeness of frames and prompt, as CLIP ViT-B/32 sees them",
    .source = "GODIVA, Wu et al. 2021: CLIPSIM; features: Radford et al. 2021",
    .definition = "godiva:clipsim/net=clip-vit-b32/resize=224,bicubic,rounded/1",
    .scores = scores,
    .needs = NEED_CLIP_ANTIALIAS | NEED_TEXT,
    .size = sizeof(State),
    .frame = see,
    .end = end,
};
