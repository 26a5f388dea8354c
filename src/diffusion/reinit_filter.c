/* reinit_filter.c: a low-pass filter from its options, the mix of two clips through it, and fresh noise.
 *
 *     out = F^-1( F(low) m + F(high) g )         m [F,h,w]: signal.h; g = sqrt(1 - m^2) or 1 - m
 *
 * With m and sqrt(1 - m^2) two independent clips of unit variance give one of unit variance; with m and 1 - m
 * one and the same clip gives itself. Clips are
 * [C,F,h,w]. Refuses to know where clips come from and what passes are for. */
#include "diffusion/reinit_filter.h"

#include <stdlib.h>
#include <string.h>

const char *const filter_names[] = {"butterworth", "gaussian", "ideal", "box", NULL};

Lowpass filter_lowpass(const FilterOptions *o, bool as_published)
{
    Lowpass filter = {.order = o->order, .ds = o->ds, .dt = o->dt, .as_published = as_published};
    for (int i = 0; filter_names[i]; i++)
        if (!strcmp(filter_names[i], o->name))
            filter.kind = (LowpassKind)i;
    return filter;
}

int filter_mix(const Lowpass *filter, bool power, const float *low, const float *high, gimbal_shape s,
               float *out, gimbal_error *err)
{
    const size_t plane = (size_t)s.f * s.h * s.w;
    float *mask = alloc_array(plane, sizeof *mask);
    if (!mask)
        return fail(err, GIMBAL_ENOMEM, "no memory for a mask of %zu frequencies", plane);
    lowpass_mask(filter, s.f, s.h, s.w, mask);
    const int code = spectral_mix(low, high, mask, power, s, out, NULL, err);
    free(mask); /* once a pass: not worth keeping through the sampling in between */
    return code;
}

int fresh_noise(const ReinitIn *in, const char *who, int pass, int step, float *out, gimbal_error *err)
{
    const DrawReq req = {
        .why = DRAW_FRESH, .pass = pass, .step = step, .frame0 = in->frame0, .shape = in->shape};
    const int code = in->noise.draw(in->noise.self, &req, out);
    return code ? fail(err, code, "%s: the fresh noise of pass %d cannot be drawn", who, pass + 1)
                : GIMBAL_OK;
}
