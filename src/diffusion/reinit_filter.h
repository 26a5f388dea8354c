/* reinit_filter.h: what re-initialisers that work by frequency share: their filter options, the mask made
 * from them, the mix through it, fresh noise. Private to reinit_*.c.
 *
 * Knows signal's masks and the driver's sources. Refuses to know what the two bands are. */
#ifndef REINIT_FILTER_H
#define REINIT_FILTER_H

#include "diffusion/diffusion.h"

/* The part of a private struct that FILTER_OPTIONS fills. */
typedef struct {
    const char *name;
    int order;
    double ds, dt;
} FilterOptions;
extern const char *const filter_names[]; /* in the order of LowpassKind, then NULL */

/* Four rows of an option table; `field` is a FilterOptions in `type`. `kind`: the filter's default. `kept`:
 * what the low band is kept of, for the help text. */
#define FILTER_OPTIONS(type_, field_, kind_, kept_)                                                          \
    {.name = "filter",                                                                                       \
     .help =                                                                                                 \
         "edge of the kept band: butterworth is the compromise, gaussian the steadiest and calms motion, "   \
         "ideal and box cut hard; costs no time",                                                            \
     .type = GIMBAL_CHOICE,                                                                                  \
     .offset = offsetof(type_, field_.name),                                                                 \
     .text = kind_,                                                                                          \
     .choices = filter_names},                                                                               \
        {.name = "order",                                                                                    \
         .help = "steepness of butterworth's edge: low is soft like gaussian, high is hard like ideal",      \
         .type = GIMBAL_INT,                                                                                 \
         .offset = offsetof(type_, field_.order),                                                            \
         .def = 4,                                                                                           \
         .min = 1,                                                                                           \
         .max = 64},                                                                                         \
        {.name = "ds",                                                                                       \
         .help = "how much layout is kept from " kept_                                                       \
                 ": highest kept frequency in space, 1 = Nyquist, 0 = nothing",                              \
         .type = GIMBAL_REAL,                                                                                \
         .offset = offsetof(type_, field_.ds),                                                               \
         .def = 0.25,                                                                                        \
         .min = 0,                                                                                           \
         .max = 2},                                                                                          \
    {                                                                                                        \
        .name = "dt",                                                                                        \
        .help =                                                                                              \
            "how much motion is kept from " kept_                                                            \
            ": highest kept frequency in time, 1 = Nyquist, 0 = nothing; lower lets motion be drawn anew",   \
        .type = GIMBAL_REAL, .offset = offsetof(type_, field_.dt), .def = 0.25, .min = 0, .max = 2           \
    }

/* as_published: the mask of FreeInit's code, faults included (signal.h). */
Lowpass filter_lowpass(const FilterOptions *, bool as_published);

/* out = F^-1( F(low) m + F(high) g ), m of `filter`, g = sqrt(1 - m^2) when `power`, else 1 - m. All
 * [C,F,h,w]; out may be low or high. */
int filter_mix(const Lowpass *filter, bool power, const float *low, const float *high, gimbal_shape,
               float *out, gimbal_error *err);

/* Fresh noise number `step` of pass `pass`: out [C,F,h,w]. `who` stands before the message. */
int fresh_noise(const ReinitIn *, const char *who, int pass, int step, float *out, gimbal_error *err);

#endif
