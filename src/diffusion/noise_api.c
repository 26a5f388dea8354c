/* noise_api.c: the public functions that need no model: draw noise, build a low-pass mask, mix two clips'
 * bands.
 *
 * For engines that want a tensor: latents in, latents out, [C,F,h,w] float32.
 *
 * Knows registries and arrays. Refuses to know models and files. */
#include "diffusion/diffusion.h"

#include <stdlib.h>

/* Sizes from outside: each at least 1, sides within Philox's 16 bits, the whole within memory. */
static int check_shape(gimbal_shape s, gimbal_error *err)
{
    if (s.c < 1 || s.f < 1 || s.h < 1 || s.w < 1)
        return fail(err, GIMBAL_EUSAGE,
                    "shape is [%d,%d,%d,%d]; expected channels, frames, height, width >= 1", s.c, s.f, s.h,
                    s.w);
    const size_t limit = SIZE_MAX / sizeof(float) / 4; /* spectra take up to four floats a value */
    if (s.h > 65535 || s.w > 65535 || (size_t)s.c > limit / (size_t)s.f / ((size_t)s.h * (size_t)s.w))
        return fail(err, GIMBAL_EUSAGE, "shape [%d,%d,%d,%d] is too large; height and width go to 65535", s.c,
                    s.f, s.h, s.w);
    return GIMBAL_OK;
}

int gimbal_noise(const char *spec, const char *rng, uint64_t seed, int64_t frame0, gimbal_shape shape,
                 float *out, gimbal_error *err)
{
    TRY(check_shape(shape, err));
    WhiteNoise *white = malloc(sizeof *white); /* a generator's state is 2.5 kB: not for the caller's stack */
    Arena keep = {0};
    PriorNoise prior = {0};
    void *self = NULL;
    int code =
        white ? white_init(white, rng, seed, err) : fail(err, GIMBAL_ENOMEM, "no memory for a generator");
    if (!code && white->torch && frame0 != 0)
        code = fail_hint(err, GIMBAL_EUSAGE, "use rng philox, whose values belong to absolute frames",
                         "first frame is %lld; rng torch is one sequence and can only start at 0",
                         (long long)frame0);
    if (!code && (frame0 < 0 || frame0 > (int64_t)UINT32_MAX - (shape.f - 1)))
        code =
            fail(err, GIMBAL_EUSAGE, "first frame is %lld; expected 0 or more, the last at most 4294967295",
                 (long long)frame0);
    if (!code)
        code = noise_parse(spec, &prior.noise, &self, &keep, err);
    if (!code && prior.noise->fit) /* the clip is as long as what is asked of it */
        code = prior.noise->fit(self, (int)MIN(frame0 + shape.f, INT32_MAX), NULL, err);
    if (!code) {
        prior.self = self, prior.white = white_source(white);
        const DrawReq req = {.why = DRAW_INIT, .frame0 = frame0, .shape = shape};
        code = prior.noise->draw(prior.self, prior.white, &req, out);
        if (code)
            fail(err, code, "noise %s cannot be drawn", prior.noise->name);
    }
    arena_free(&keep);
    free(white);
    return code;
}

/* The filter of a re-initialiser's spec. */
static int find_lowpass(const char *spec, Lowpass *filter, bool *power, gimbal_error *err)
{
    Arena keep = {0};
    const Reinit *reinit = NULL;
    void *self = NULL;
    int code = reinit_parse(spec, &reinit, &self, &keep, err);
    if (!code && !reinit->lowpass)
        code = fail_hint(err, GIMBAL_EUSAGE, "freeinit has one", "re-initialiser %s has no low-pass filter",
                         reinit->name);
    if (!code)
        code = reinit->lowpass(self, filter);
    if (!code) /* published filters come with the published mix */
        *power = !reinit->one_noise && !filter->as_published;
    arena_free(&keep);
    return code;
}

int gimbal_mask(const char *spec, gimbal_shape shape, float *out, gimbal_error *err)
{
    Lowpass filter;
    bool power;
    TRY(check_shape(shape, err));
    TRY(find_lowpass(spec, &filter, &power, err));
    lowpass_mask(&filter, shape.f, shape.h, shape.w, out);
    return GIMBAL_OK;
}

int gimbal_mask_power(const char *spec, int *power, gimbal_error *err)
{
    Lowpass filter;
    bool kept;
    TRY(find_lowpass(spec, &filter, &kept, err));
    *power = kept;
    return GIMBAL_OK;
}

int gimbal_mix(const float *low, const float *high, const float *mask, int power, gimbal_shape shape,
               float *out, gimbal_error *err)
{
    TRY(check_shape(shape, err));
    return spectral_mix(low, high, mask, power != 0, shape, out, NULL, err);
}
