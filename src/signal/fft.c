/* fft.c: the spectrum of a clip, and the mix of two clips by frequency.
 *
 *     out = Re F^-1( F(low) m + F(high) g ),   g = 1 - m, or sqrt(1 - m^2) where powers shall add up to 1
 *
 * F is the complex 3-D transform over (F, h, w) of one channel, unnormalised; F^-1 divides by F h w. With g =
 * sqrt(1 - m^2) the mix of two independent white clips is white again (FreqPrior, Yuan et al. 2025); 1 - m,
 * FreeInit's, loses variance where m is neither 0 nor 1. Knows kissfft, and is the only file that does.
 * Refuses to know where clips and masks come from. */
#include "signal/signal.h"

#include <kissfft/kiss_fftnd.h>
#include <limits.h>
#include <math.h>

/* Number of values of one channel, checked: kissfft counts in int. */
static int count_values(int F, int h, int w, size_t *n, gimbal_error *err)
{
    if (F < 1 || h < 1 || w < 1)
        return fail(err, GIMBAL_EUSAGE, "a clip of %d frames %dx%d, expected at least 1 of each", F, h, w);
    int count;
    if (__builtin_mul_overflow(F, h, &count) || __builtin_mul_overflow(count, w, &count))
        return fail(err, GIMBAL_EUSAGE, "a clip of %d frames %dx%d, expected at most %d values", F, h, w,
                    INT_MAX);
    *n = (size_t)count;
    return GIMBAL_OK;
}

static kiss_fftnd_cfg plan(int F, int h, int w, bool inverse)
{
    return kiss_fftnd_alloc((const int[]){F, h, w}, 3, inverse, NULL, NULL);
}

static void real_to_complex(const float *x, size_t n, kiss_fft_cpx *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (kiss_fft_cpx){.r = x[i], .i = 0.0f};
}

int spectrum(const float *x, int F, int h, int w, float *out, gimbal_error *err)
{
    size_t n = 0;
    TRY(count_values(F, h, w, &n, err));
    kiss_fft_cpx *in = alloc_array(n, sizeof *in);
    kiss_fftnd_cfg forward = plan(F, h, w, false);
    int code = GIMBAL_OK;
    if (in && forward) {
        real_to_complex(x, n, in);
        kiss_fftnd(forward, in, (kiss_fft_cpx *)out);
    } else {
        code = fail(err, GIMBAL_ENOMEM, "no memory for the spectrum of %d frames %dx%d", F, h, w);
    }
    kiss_fft_free(forward); /* kissfft's and alloc_array's: no arena holds them */
    free(in);
    return code;
}

/* What one mix works with: two plans and three complex clips of one channel. */
typedef struct {
    kiss_fftnd_cfg forward, inverse;
    kiss_fft_cpx *clip, *low, *high; /* [F,h,w] */
} Bench;

static int bench_open(Bench *b, gimbal_shape s, size_t n, gimbal_error *err)
{
    *b = (Bench){
        .forward = plan(s.f, s.h, s.w, false),
        .inverse = plan(s.f, s.h, s.w, true),
        .clip = alloc_array(n, sizeof *b->clip),
        .low = alloc_array(n, sizeof *b->low),
        .high = alloc_array(n, sizeof *b->high),
    };
    if (b->forward && b->inverse && b->clip && b->low && b->high)
        return GIMBAL_OK;
    return fail(err, GIMBAL_ENOMEM, "no memory to mix clips of %d frames %dx%d", s.f, s.h, s.w);
}

static void bench_close(Bench *b)
{
    kiss_fft_free(b->forward);
    kiss_fft_free(b->inverse);
    free(b->clip);
    free(b->low);
    free(b->high);
}

/* b->clip = the mixed channel, complex, scaled. */
static void mix_channel(Bench *b, const float *low, const float *high, const float *mask, bool power,
                        size_t n)
{
    real_to_complex(low, n, b->clip);
    kiss_fftnd(b->forward, b->clip, b->low);
    real_to_complex(high, n, b->clip);
    kiss_fftnd(b->forward, b->clip, b->high);

    for (size_t i = 0; i < n; i++) {
        const float m = mask[i];
        const float g = power ? (float)sqrt(MAX(0.0, 1.0 - (double)m * m)) : 1.0f - m;
        b->low[i].r = b->low[i].r * m + b->high[i].r * g;
        b->low[i].i = b->low[i].i * m + b->high[i].i * g;
    }
    kiss_fftnd(b->inverse, b->low, b->clip);
    for (size_t i = 0; i < n; i++)
        b->clip[i].r /= (float)n, b->clip[i].i /= (float)n;
}

int spectral_mix(const float *low, const float *high, const float *mask, bool power, gimbal_shape s,
                 float *out, double *imag, gimbal_error *err)
{
    size_t n = 0;
    Bench b;
    double largest = 0.0, squares = 0.0;
    TRY(count_values(s.f, s.h, s.w, &n, err));
    const int code = bench_open(&b, s, n, err);
    for (int c = 0; c < s.c && !code; c++) {
        const size_t at = (size_t)c * n;
        mix_channel(&b, low + at, high + at, mask, power, n);
        for (size_t i = 0; i < n; i++) {
            const double re = b.clip[i].r, im = fabs((double)b.clip[i].i);
            out[at + i] = b.clip[i].r;
            squares += re * re;
            largest = MAX(largest, im);
        }
    }
    bench_close(&b);
    if (imag && !code)
        *imag = squares > 0.0 ? largest / sqrt(squares / ((double)s.c * (double)n)) : largest;
    return code;
}
