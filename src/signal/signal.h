/* signal.h: frequencies of a clip-shaped array: FFT mixing and low-pass masks; pictures resized.
 * gimbal_bands, in the public header, is this folder's too (bands.c).
 *
 * Arrays are float32 [F,h,w] per channel, row-major. Frequencies are in FFT order, DC first. The FFT is
 * complex 3-D (kissfft), unnormalised forward; the inverse here divides by F*h*w. Odd sizes are as good as
 * even ones. Knows arrays and frequency. Refuses to know timesteps, latents, files and noise. */
#ifndef SIGNAL_H
#define SIGNAL_H

#include "base/base.h"

typedef enum { LOWPASS_BUTTERWORTH, LOWPASS_GAUSSIAN, LOWPASS_IDEAL, LOWPASS_BOX } LowpassKind;

/* ds, dt: stop frequencies in space and time as fractions of Nyquist. order: Butterworth's n.
 * as_published 0 (ours): frequency of bin k of N is |k| / (N/2), k signed, so DC is exactly 0 for every N and
 * the mask is symmetric (the mix of two real arrays is real); ideal keeps d <= ds; box keeps |k| <=
 * round-free fractions
 *   (|f_t| <= dt, |f_y|, |f_x| <= ds).
 * as_published 1: FreeInit's code and diffusers, faults included: coordinate 2i/N - 1 on the shifted grid
 * (off DC for odd N), ideal d^2 <= 2 ds, box of +-round(N/2 * d) bins (FreeInit's repository; see golden
 * box()). With d^2 = ((ds/dt) f_t)^2 + f_y^2 + f_x^2: gaussian exp(-d^2 / (2 ds^2)), butterworth 1 / (1 +
 * (d^2/ds^2)^order). ds = 0 or dt = 0: all zeros. */
typedef struct {
    LowpassKind kind;
    int order;
    double ds, dt;
    bool as_published;
} Lowpass;

/* Frequency of bin k of N in units of Nyquist, in -1..1; 0 for an axis of one. */
double bin_frequency(int k, int N);

/* mask [F,h,w] in [0,1], computed in double, stored as float. */
void lowpass_mask(const Lowpass *, int F, int h, int w, float *mask);

/* out = Re F^-1( F(low) m + F(high) g ), g = sqrt(1-m^2) when `power`, else 1-m, for each of C channels.
 * low, high, out [C,F,h,w]; mask [F,h,w]; out may be low or high. *imag (may be NULL): the largest |imaginary
 * part| that was discarded, relative to the rms of out (0 up to rounding for symmetric masks). ENOMEM. */
int spectral_mix(const float *low, const float *high, const float *mask, bool power, gimbal_shape, float *out,
                 double *imag, gimbal_error *);

/* Forward complex FFT of one real [F,h,w] array into out [F,h,w][2]. ENOMEM. */
int spectrum(const float *x, int F, int h, int w, float *out, gimbal_error *);

/* ---- pictures: resize.c ------------------------------------------------------------------ */

/* [h][row][3], of which the first w of each row count; bytes, or floats where that is NULL. */
typedef struct {
    const uint8_t *bytes;
    const float *floats;
    int w, h;
    size_t row;
} Picture;
/* The picture as w x h, and of that the part that is wanted. cubic: else linear. antialias: with a low pass
 * where it shrinks. pillow: antialiased with Pillow's rounding; wants bytes. */
typedef struct {
    int w, h, left, top, width, height;
    bool cubic, antialias, pillow;
} Resize;
/* out [height][width][3], in the input's units, not clamped. ENOMEM. */
int resize_picture(Picture, const Resize *, float *out, gimbal_error *);

#endif
