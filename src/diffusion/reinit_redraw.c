/* reinit_redraw.c: the control that every comparison of re-initialisers needs: the high band of the initial
 * noise is drawn anew, and nothing is learnt from any pass.
 *
 *     eps = F^-1( F(eps0) m + F(fresh) sqrt(1 - m^2) )             then one plain sampling
 *
 * FreeInit's last pass starts from the low band of (result + eps0) and a high band of fresh noise. What it
 * gains over plain sampling is partly the luck of other noise; this gives that luck alone, at the price of
 * one pass. `passes` names whose luck: the fresh noise is the one that FreeInit with as many passes uses in
 * its last (without step noise, or with Philox: exactly that one), so that pairs differ by the low band only.
 * With white eps0 and fresh noise the result is white: no sampling statistics change.
 *
 * Knows masks and noise handed to it. Refuses to know schedules, models and samplers. */
#include "diffusion/reinit_filter.h"

#include <stdlib.h>

typedef struct {
    FilterOptions filter;
    int passes;
} Redraw;

static const gimbal_option options[] = {
    FILTER_OPTIONS(Redraw, filter, "butterworth", "the initial noise"),
    {.name = "passes",
     .help = "the fresh noise is that of the last pass of freeinit with as many; this one makes one pass and "
             "costs no time",
     .type = GIMBAL_INT,
     .offset = offsetof(Redraw, passes),
     .def = 3,
     .min = 2,
     .max = MAX_PASSES},
    {.name = NULL},
};

static int lowpass(const void *self, Lowpass *out)
{
    *out = filter_lowpass(&((const Redraw *)self)->filter, false);
    return GIMBAL_OK;
}

/* eps [C,F,h,w] in and out. All fresh noises up to the wanted one are drawn: a sequential generator then
 * gives the same one as it does to FreeInit. */
static int first(const void *self, const ReinitIn *in, float *eps, gimbal_error *err)
{
    const Redraw *o = self;
    const size_t n = shape_count(in->shape);
    Lowpass filter;
    lowpass(o, &filter);
    float *fresh = alloc_array(n, sizeof *fresh);
    if (!fresh)
        return fail(err, GIMBAL_ENOMEM, "redraw: no memory for %zu values of noise", n);
    int code = GIMBAL_OK;
    for (int pass = 1; pass < o->passes && !code; pass++)
        code = fresh_noise(in, "redraw", pass, 0, fresh, err);
    if (!code)
        code = filter_mix(&filter, true, eps, fresh, in->shape, eps, err);
    free(fresh); /* a clip's size once a run */
    return code;
}

const Reinit reinit_redraw = {
    .name = "redraw",
    .help = "one pass whose noise has a new high band: the control to compare re-initialisers with",
    .source = "gimbal's own control (docs/METHODS.md)",
    .options = options,
    .size = sizeof(Redraw),
    .plan = plan_one_pass,
    .first = first,
    .lowpass = lowpass,
};
