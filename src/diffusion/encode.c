/* encode.c: pictures to latents, for runs that begin from a clip or a picture.
 *
 *     rgb / 255 * 2 - 1, or pixels as they are -> VAE -> mean m, log variance v of q(z|picture)
 *     latents = scaling factor * m,   or   scaling factor * (m + exp(v/2) * eps)
 *
 * eps is the first that a seed gives, before a run's initial noise, drawn as diffusers'
 * AnimateDiffVideoToVideoPipeline does (0.33.1): frame by frame, [n,C,h,w], 16 frames a draw. With torch's
 * one sequence a run that begins from a clip therefore goes on behind it, whether the clip was encoded here,
 * in another session or another program: its noise depends on the seed alone. ConsistI2V's code draws the
 * noise of all its pictures at once: so do pixels, and runs with an image.
 *
 * Knows the VAE's encoder and the generator. Refuses to know where pictures come from and what is made of
 * them. */
#include "diffusion/engine.h"

#include <stdlib.h>
#include <string.h>

/* ---- noise ------------------------------------------------------------------------------- */

/* eps of all frames [C,n,h,w]; out NULL: only the generator goes on. */
int encode_noise(WhiteNoise *white, gimbal_shape s, int most, float *out, gimbal_error *err)
{
    const size_t plane = (size_t)s.h * s.w;
    float *some = alloc_array((size_t)s.c * (size_t)MIN(most, s.f) * plane, sizeof *some);
    int code = some ? GIMBAL_OK : fail(err, GIMBAL_ENOMEM, "no memory for the noise of %d frames", s.f);
    white->frames_first |= 1u << DRAW_ENCODE;
    for (int from = 0; from < s.f && !code; from += most) {
        const int n = MIN(most, s.f - from);
        const Source source = white_source(white);
        const DrawReq req = {.why = DRAW_ENCODE, .frame0 = from, .shape = {s.c, n, s.h, s.w}};
        code = source.draw(source.self, &req, some);
        if (code)
            fail(err, code, "noise of the encoder's frame %d cannot be drawn", from);
        for (int c = 0; c < s.c && out && !code; c++)
            memcpy(out + ((size_t)c * s.f + from) * plane, some + (size_t)c * n * plane,
                   n * plane * sizeof *out);
    }
    free(some);
    return code;
}

/* ---- one call of the encoder ------------------------------------------------------------- */

/* Pictures [..][height][width][3] as bytes, or as floats in -1..1. */
typedef struct {
    const uint8_t *rgb;
    const float *pixels;
} Pictures;

/* Pictures from.. as x [n,H,W,3], n of the plan; past the end the last one again. */
static void to_floats(Pictures in, int frames, int from, int n, size_t picture, float *x)
{
    for (int i = 0; i < n; i++) {
        const size_t at = (size_t)MIN(from + i, frames - 1) * picture;
        float *out = x + (size_t)i * picture;
        for (size_t k = 0; k < picture; k++)
            out[k] = in.rgb ? 2.0f * ((float)in.rgb[at + k] / 255.0f) - 1.0f : in.pixels[at + k];
    }
}

/* moments [n,h,w,2C] of frames from..from+n; latents [C,F,h,w] hold eps when `sample`. */
static void to_latents(const float *moments, gimbal_shape s, int from, int n, bool sample, float scale,
                       float *latents)
{
    const size_t plane = (size_t)s.h * s.w;
    for (int i = 0; i < n; i++)
        for (int c = 0; c < s.c; c++) {
            const float *in = moments + (size_t)i * plane * 2 * s.c + c;
            float *z = latents + ((size_t)c * s.f + from + i) * plane;
            for (size_t k = 0; k < plane; k++) {
                const float mean = in[k * 2 * s.c], log_variance = in[k * 2 * s.c + s.c];
                z[k] = scale * (sample ? vae_draw(mean, log_variance, z[k]) : mean);
            }
        }
}

/* ---- a clip ------------------------------------------------------------------------------ */

static int encode_all(gimbal_session *s, Pictures in, gimbal_shape shape, bool sample, float *x,
                      float *latents, gimbal_error *err)
{
    const int factor = vae_factor(s->engine->vae), n = s->plans.encode.f;
    const size_t picture = 3 * (size_t)factor * factor * shape.h * shape.w;
    const float scale = (float)vae_scaling(s->engine->vae);
    const double since = seconds_now();
    if (sample) {
        WhiteNoise white;
        TRY(white_init(&white, s->run.s.rng, s->run.s.seed, err));
        TRY(encode_noise(&white, shape, in.rgb ? CLIP_DRAW : shape.f, latents, err));
    }
    for (int from = 0; from < shape.f; from += n) {
        const int real = MIN(n, shape.f - from);
        const float *moments;
        to_floats(in, shape.f, from, n, picture, x);
        TRY(plans_moments(&s->plans, x, &moments, err));
        to_latents(moments, shape, from, real, sample, scale, latents);
        TRY(session_report(s, "encode", from + real, shape.f, since, err));
    }
    return GIMBAL_OK;
}

static int encode(gimbal_session *s, Pictures in, int width, int height, int n, bool sample, float *latents,
                  gimbal_error *err)
{
    enum { MOST = 1 << 20 };
    const int factor = vae_factor(s->engine->vae);
    if (width < 1 || height < 1 || width % factor || height % factor || n < 1 || n > MOST ||
        (int64_t)width * height > 1 << 28)
        return fail(
            err, GIMBAL_EUSAGE,
            "%d pictures of %dx%d cannot be encoded: expected at least one, both sides multiples of %d, "
            "at most 2^28 pixels",
            n, width, height, factor);
    const gimbal_shape shape = {vae_channels(s->engine->vae), n, height / factor, width / factor};
    TRY(check_given("pixels", in.pixels, 3 * (size_t)n * (size_t)width * (size_t)height, err));
    plans_clear(&s->plans);
    TRY(plans_encode(&s->plans, shape, err));
    float *x = alloc_array(3 * (size_t)s->plans.encode.f * (size_t)height, (size_t)width * sizeof *x);
    const int code = x ? encode_all(s, in, shape, sample, x, latents, err)
                       : fail(err, GIMBAL_ENOMEM, "no memory for a picture of %dx%d", width, height);
    free(x);
    return code;
}

int gimbal_encode(gimbal_session *s, const uint8_t *rgb, int width, int height, int n, int sample,
                  float *latents, gimbal_error *err)
{
    TRY(session_enter(s, "gimbal_encode", err));
    return session_leave(s, encode(s, (Pictures){.rgb = rgb}, width, height, n, sample != 0, latents, err));
}

int gimbal_encode_pixels(gimbal_session *s, const float *pixels, int width, int height, int n, int sample,
                         float *latents, gimbal_error *err)
{
    TRY(session_enter(s, "gimbal_encode_pixels", err));
    return session_leave(
        s, encode(s, (Pictures){.pixels = pixels}, width, height, n, sample != 0, latents, err));
}
