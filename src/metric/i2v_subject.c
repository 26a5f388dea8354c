/* i2v_subject.c: VBench-I2V's i2v_subject: does the clip keep the subject of the picture it was made from?
 *
 *     0.4 max_t relu cos(g, f_t) + 0.3 mean_(t>=2) c_t + 0.3 min_(t>=2) c_t,  c_t = relu cos(f_(t-1), f_t)
 *
 * f: DINO ViT-B/16 of the frames, g: of the input picture. The first term is a maximum, as published. Frames
 * are resized as floats, the picture as a file through Pillow. VBench-I2V leaves antialiasing of frames to
 * torchvision's version (on since 0.17); the definition says what was done. Refuses to know networks. */
#include "metric/feature.h"

typedef struct {
    float previous[FEATURE_MAX];
    double most, sum, least;
} State;

static int see(void *self, const Frame *f, gimbal_error *err)
{
    State *s = self;
    const float *image = meter_image(f->meter);
    (void)err;
    if (!image)
        return GIMBAL_EMODEL; /* the meter has the message */
    const double to_image = not_below_0(cosine(image, f->feature, f->width));
    s->most = MAX(s->most, to_image);
    if (f->i) {
        const double to_last = not_below_0(cosine(s->previous, f->feature, f->width));
        s->sum += to_last;
        s->least = f->i == 1 ? to_last : MIN(s->least, to_last);
    }
    keep_feature(s->previous, f);
    return meter_frame_value(f->meter, 0, f->i, to_image);
}

static int end(void *self, int frames, double *values, const char **why, gimbal_error *err)
{
    const State *s = self;
    (void)err;
    if (frames < 2)
        *why = "one frame has no neighbour";
    else
        values[0] = 0.4 * s->most + 0.3 * s->sum / (frames - 1) + 0.3 * s->least;
    return GIMBAL_OK;
}

static const Score scores[] = {
    {"i2v_subject", "how well the clip keeps the picture it began with; at most 1", 1},
    {.name = NULL},
};

const Metric metric_i2v_subject = {
    .name = "i2v_subject",
    .help = "likeness of the frames to the input picture and to each other, as DINO ViT-B/16 sees them",
    .source = "VBench-I2V (VBench++, Huang et al. 2024): i2v_subject",
    .definition =
        "vbench-i2v:i2v_subject/net=dino-vitb16/resize=256,bicubic,unrounded/crop=224/image=rounded/1",
    .scores = scores,
    .needs = NEED_DINO_CROP | NEED_IMAGE,
    .size = sizeof(State),
    .frame = see,
    .end = end,
};
