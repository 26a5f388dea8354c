/* prep.c: pictures as networks were given them: resized, cropped, normalised, to torchvision's letter.
 *
 * Resizing is signal/resize.c's. Unrounded pictures keep overshoots below 0 and above 255. Rounded and plain:
 * clamped and rounded to bytes once, as torchvision does with uint8 tensors. Rounded and antialiased: Pillow
 * itself. The long side is int(n * long / short); a centre crop begins at the half rounded to
 * even. Then (x / 255 - mean) / std.
 *
 * Knows what networks want. Refuses to know kernels of resizing and metrics. */
#include "metric/metric.h"
#include "signal/signal.h"

#include <limits.h>
#include <math.h>

enum { EXACT = -1 };

static const struct {
    int side, crop; /* short side; square cut out of the middle, 0: none, EXACT: both sides are `side` */
    bool cubic;
    float mean[3], std[3];
} kinds[] = {
    [PREP_DINO] = {224, 0, false, {0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}},
    [PREP_CLIP] =
        {224, 224, true, {0.48145466f, 0.4578275f, 0.40821073f}, {0.26862954f, 0.26130258f, 0.27577711f}},
    [PREP_DINO_CROP] = {256, 224, true, {0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}},
    [PREP_I3D] = {224, EXACT, false, {0.5f, 0.5f, 0.5f}, {0.5f, 0.5f, 0.5f}},
};

/* ---- sizes ------------------------------------------------------------------------------- */

/* Size before the crop. */
static void resized(Prep kind, int w, int h, int *rw, int *rh)
{
    const int side = kinds[kind].side;
    const double other = (double)side * MAX(w, h) / MIN(w, h);
    *rw = *rh = side;
    if (kinds[kind].crop != EXACT)
        *(w > h ? rw : rh) = (int)MIN(other, INT_MAX / 2);
}

void prep_size(Prep kind, int w, int h, int *pw, int *ph)
{
    resized(kind, w, h, pw, ph);
    if (kinds[kind].crop > 0)
        *pw = *ph = kinds[kind].crop;
}

static float to_byte(float x)
{
    return rintf(MIN(MAX(x, 0), 255));
}

int prep_picture(Prep kind, const uint8_t *rgb, int w, int h, bool antialias, bool round, float *out,
                 gimbal_error *err)
{
    int rw, rh, pw, ph;
    resized(kind, w, h, &rw, &rh);
    prep_size(kind, w, h, &pw, &ph);
    const Picture in = {.bytes = rgb, .w = w, .h = h, .row = (size_t)w};
    const Resize to = {.w = rw,
                       .h = rh,
                       .left = (int)rint((rw - pw) / 2.0),
                       .top = (int)rint((rh - ph) / 2.0),
                       .width = pw,
                       .height = ph,
                       .cubic = kinds[kind].cubic,
                       .antialias = antialias,
                       .pillow = antialias && round};
    TRY(resize_picture(in, &to, out, err));
    for (size_t i = 0; i < 3 * (size_t)pw * (size_t)ph; i++) {
        const float x = round ? to_byte(out[i]) : out[i];
        out[i] = (x / 255 - kinds[kind].mean[i % 3]) / kinds[kind].std[i % 3];
    }
    return GIMBAL_OK;
}
