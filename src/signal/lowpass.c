/* lowpass.c: low-pass masks over the frequencies of a clip, mask [F,h,w], FFT order.
 *
 *     d^2 = ((ds / dt) f_t)^2 + f_y^2 + f_x^2         f = 1 at Nyquist
 *     gaussian      exp(-d^2 / (2 ds^2))
 *     butterworth   1 / (1 + (d^2 / ds^2)^order)
 *     ideal         d <= ds
 *     box           |f_t| <= dt, |f_y| <= ds, |f_x| <= ds
 *
 * FreeInit (Wu et al. 2023, section 4.1 and its code). With as_published the masks are those of its code and
 * of diffusers, faults included: the coordinate is 2 i / N - 1 on the grid with DC in the middle (at index N
 * / 2), so that no bin of an odd axis is at 0; ideal keeps d^2 <= 2 ds; box keeps the bins -n..n-1. Refuses
 * to know what is filtered. */
#include "signal/signal.h"

#include <math.h>

double bin_frequency(int k, int N)
{
    return N == 1 ? 0.0 : (k <= N / 2 ? k : k - N) / (N / 2.0);
}

/* The published coordinate of bin k: its place on the shifted grid, DC at N / 2 rounded down. */
static double published_frequency(int k, int N)
{
    return 2.0 * ((k + N / 2) % N) / N - 1.0;
}

static double gain(const Lowpass *p, double t, double y, double x)
{
    const double tt = p->ds / p->dt * t, d2 = tt * tt + y * y + x * x, ds2 = p->ds * p->ds;
    switch (p->kind) {
    case LOWPASS_BUTTERWORTH:
        return 1.0 / (1.0 + pow(d2 / ds2, p->order));
    case LOWPASS_GAUSSIAN:
        return exp(-d2 / (2.0 * ds2));
    case LOWPASS_IDEAL: /* the slack keeps bins on the sphere, whatever their squares round to */
        return p->as_published ? d2 <= 2.0 * p->ds : d2 <= ds2 * (1.0 + 1e-12);
    case LOWPASS_BOX:
        return fabs(t) <= p->dt && fabs(y) <= p->ds && fabs(x) <= p->ds;
    }
    return 0.0;
}

/* Is bin k of N inside the published slice [N/2 - n, N/2 + n) of the shifted grid? A start below 0 counts
 * from the end, as slices do in the language of that code: a box wider than its axis loses bins. */
static bool in_slice(int k, int N, int n)
{
    const int i = (k + N / 2) % N, start = N / 2 - n;
    return i >= (start < 0 ? MAX(0, start + N) : start) && i < N / 2 + n;
}

/* FreeInit's box: half widths rounded to even, the one of x taken from the height as well. */
static void published_box(const Lowpass *p, int F, int h, int w, float *mask)
{
    const int n_t = (int)rint(F / 2 * p->dt), n_s = (int)rint(h / 2 * p->ds);
    for (int t = 0; t < F; t++)
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++)
                *mask++ = in_slice(t, F, n_t) && in_slice(y, h, n_s) && in_slice(x, w, n_s);
}

void lowpass_mask(const Lowpass *p, int F, int h, int w, float *mask)
{
    double (*f)(int, int) = p->as_published ? published_frequency : bin_frequency;
    if (p->ds == 0.0 || p->dt == 0.0) {
        for (size_t i = 0; i < (size_t)F * h * w; i++)
            mask[i] = 0.0f;
        return;
    }
    if (p->kind == LOWPASS_BOX && p->as_published) {
        published_box(p, F, h, w, mask);
        return;
    }
    for (int t = 0; t < F; t++)
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++)
                *mask++ = (float)gain(p, f(t, F), f(y, h), f(x, w));
}
