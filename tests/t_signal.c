/* t_signal.c: the transform against a float64 sum, masks against diffusers' (as published) and against what a
 * low pass must be (ours), mixes against both. Sizes 1 to 33 on every axis, odd and not square on purpose.
 * tests/golden/filters.safetensors: FxHxW.KIND.dsA.dtB.mask on the shifted grid, .mixed of .x and .noise. */
#include "signal/signal.h"
#include "tests/check.h"

#include <complex.h>

#define FILTERS "tests/golden/filters.safetensors"

typedef double complex cpx;

static float *floats(size_t n)
{
    float *x = malloc(sizeof(float) * n);
    assert_non_null(x);
    return x;
}

static float *white(uint64_t seed, gimbal_shape s)
{
    float *x = floats((size_t)s.c * s.f * s.h * s.w);
    philox_normal(seed, 0, 0, s, x);
    return x;
}

/* Transform along one axis of x [before][N][after] by the definition, in float64. */
static void dft_axis(cpx *x, int before, int N, int after, int sign)
{
    cpx *line = malloc(sizeof(cpx) * (size_t)N);
    assert_non_null(line);
    for (int b = 0; b < before; b++)
        for (int a = 0; a < after; a++) {
            cpx *at = x + (size_t)b * N * after + a;
            for (int k = 0; k < N; k++) {
                line[k] = 0;
                for (int i = 0; i < N; i++)
                    line[k] += at[(size_t)i * after] * cexp(sign * 2.0 * I * M_PI * ((long)k * i % N) / N);
            }
            for (int k = 0; k < N; k++)
                at[(size_t)k * after] = line[k];
        }
    free(line);
}

static cpx *dft(const float *x, int F, int h, int w)
{
    cpx *out = malloc(sizeof(cpx) * (size_t)F * h * w);
    assert_non_null(out);
    for (int i = 0; i < F * h * w; i++)
        out[i] = x[i];
    dft_axis(out, F * h, w, 1, -1);
    dft_axis(out, F, h, w, -1);
    dft_axis(out, 1, F, h * w, -1);
    return out;
}

/* Inverse in place, divided by the count. */
static void inverse_dft(cpx *x, int F, int h, int w)
{
    dft_axis(x, F * h, w, 1, 1);
    dft_axis(x, F, h, w, 1);
    dft_axis(x, 1, F, h * w, 1);
    for (int i = 0; i < F * h * w; i++)
        x[i] /= F * h * w;
}

static void check_spectrum(int F, int h, int w)
{
    gimbal_error err = {0};
    const gimbal_shape s = {1, F, h, w};
    const size_t n = (size_t)F * h * w;
    float *x = white(3, s), *got = floats(2 * n);
    cpx *want = dft(x, F, h, w);
    check_ok(spectrum(x, F, h, w, got, &err), err);
    double wrong = 0, all = 0;
    for (size_t i = 0; i < n; i++) {
        const cpx d = got[2 * i] + I * got[2 * i + 1] - want[i];
        wrong += creal(d * conj(d)), all += creal(want[i] * conj(want[i]));
    }
    check_near(sqrt(wrong / all), 0.0, 1e-6, "%dx%dx%d", F, h, w);
    free(x);
    free(got);
    free(want);
}

static void the_spectrum_is_the_transform_for_every_size_to_33(void **state)
{
    (void)state;
    for (int n = 1; n <= 33; n++) {
        check_spectrum(n, 3, 2);
        check_spectrum(2, n, 5);
        check_spectrum(4, 1, n);
        check_spectrum(1, 1, n);
        check_spectrum(n, 1, 1);
        check_spectrum(1, n, 34 - n);
    }
    check_spectrum(5, 7, 9);
}

/* ---- masks ------------------------------------------------------------------------------- */

static const Lowpass filters[] = {
    {LOWPASS_BUTTERWORTH, 4, 0.25, 0.25, false}, {LOWPASS_BUTTERWORTH, 1, 0.4, 0.2, false},
    {LOWPASS_GAUSSIAN, 0, 0.25, 0.25, false},    {LOWPASS_GAUSSIAN, 0, 0.25, 0.5, false},
    {LOWPASS_IDEAL, 0, 0.25, 0.25, false},       {LOWPASS_IDEAL, 0, 1.0, 0.5, false},
    {LOWPASS_BOX, 0, 0.25, 0.5, false},          {LOWPASS_BOX, 0, 0.3, 1.0, false},
};
static const int sizes[][3] = {{16, 8, 8}, {5, 7, 9},  {9, 6, 10}, {1, 4, 4},
                               {3, 1, 5},  {2, 33, 1}, {1, 1, 1}};

static float *mask_of(const Lowpass *p, int F, int h, int w)
{
    float *m = floats((size_t)F * h * w);
    lowpass_mask(p, F, h, w, m);
    return m;
}

static void dc_passes_whole_at_every_size_to_33(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT(filters); i++)
        for (int n = 1; n <= 33; n++) {
            const int shapes[][3] = {{n, 2, 3}, {2, n, 3}, {3, 2, n}, {n, n, 34 - n}};
            for (int k = 0; k < COUNT(shapes); k++) {
                float *m = mask_of(&filters[i], shapes[k][0], shapes[k][1], shapes[k][2]);
                check(m[0] == 1.0f, "filter %d, %dx%dx%d: %.9g", i, shapes[k][0], shapes[k][1], shapes[k][2],
                      m[0]);
                free(m);
            }
        }
}

static void masks_are_symmetric_and_within_0_and_1(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT(filters); i++)
        for (int k = 0; k < COUNT(sizes); k++) {
            const int F = sizes[k][0], h = sizes[k][1], w = sizes[k][2];
            float *m = mask_of(&filters[i], F, h, w);
            for (int t = 0; t < F; t++)
                for (int y = 0; y < h; y++)
                    for (int x = 0; x < w; x++) {
                        const float a = m[(t * h + y) * w + x];
                        const float b = m[((F - t) % F * h + (h - y) % h) * w + (w - x) % w];
                        check(a == b, "filter %d, %dx%dx%d: bin %d %d %d", i, F, h, w, t, y, x);
                        check(a >= 0 && a <= 1, "filter %d: %g", i, a);
                    }
            free(m);
        }
}

static void masks_fall_from_dc_to_nyquist_on_every_axis(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT(filters); i++) {
        float *m = mask_of(&filters[i], 11, 9, 14);
        for (int t = 1; t <= 5; t++)
            check(m[t * 9 * 14] <= m[(t - 1) * 9 * 14], "filter %d: frequency %d in time", i, t);
        for (int y = 1; y <= 4; y++)
            check(m[y * 14] <= m[(y - 1) * 14], "filter %d: frequency %d down", i, y);
        for (int x = 1; x <= 7; x++)
            check(m[x] <= m[x - 1], "filter %d: frequency %d across", i, x);
        check(m[(5 * 9 + 4) * 14 + 7] < 1, "filter %d: the highest band is cut", i);
        free(m);
    }
}

/* Frequency 2/8 is the stop frequency 0.25 itself: half for Butterworth, exp(-1/2) for Gaussian, still inside
 * for ideal and box; 3/8 is outside. Time has a stop frequency of its own: 4/8 at dt = 0.5. */
static void the_stop_frequency_is_where_it_says(void **state)
{
    static const double at_stop[] = {0.5, 0.60653065971263342, 1.0, 1.0};
    (void)state;
    for (int kind = LOWPASS_BUTTERWORTH; kind <= LOWPASS_BOX; kind++) {
        const Lowpass p = {(LowpassKind)kind, 4, 0.25, 0.5, false};
        float *m = mask_of(&p, 16, 16, 16);
        check_near(m[2], at_stop[kind], 1e-7, "kind %d, across", kind);
        check_near(m[2 * 16], at_stop[kind], 1e-7, "kind %d, down", kind);
        check_near(m[4 * 256], at_stop[kind], 1e-7, "kind %d, in time", kind);
        check(m[3] < 0.35 && m[5 * 256] < 0.5, "kind %d: beyond the stop frequency", kind);
        if (kind >= LOWPASS_IDEAL)
            check(m[3] == 0 && m[5 * 256] == 0, "kind %d: beyond the stop frequency", kind);
        check(m[2 * 16 + 2] == (kind == LOWPASS_BOX) || kind < LOWPASS_IDEAL, "kind %d: a corner", kind);
        free(m);
    }
}

static void a_stop_frequency_of_0_lets_nothing_pass(void **state)
{
    (void)state;
    for (int kind = LOWPASS_BUTTERWORTH; kind <= LOWPASS_BOX; kind++)
        for (int i = 0; i < 4; i++) {
            const Lowpass p = {(LowpassKind)kind, 4, i & 1 ? 0.0 : 0.25, i & 1 ? 0.25 : 0.0, i & 2};
            float *m = mask_of(&p, 5, 4, 3);
            for (int k = 0; k < 60; k++)
                check(m[k] == 0.0f, "kind %d, case %d", kind, i);
            free(m);
        }
}

/* ---- as published ------------------------------------------------------------------------ */

static const struct {
    const char *name;
    LowpassKind kind;
    int order;
} kinds[] = {{"butterworth2", LOWPASS_BUTTERWORTH, 2},
             {"butterworth4", LOWPASS_BUTTERWORTH, 4},
             {"gaussian", LOWPASS_GAUSSIAN, 0},
             {"ideal", LOWPASS_IDEAL, 0},
             {"box", LOWPASS_BOX, 0}};
static const int shapes_published[][3] = {{8, 8, 8}, {16, 8, 8}, {5, 7, 9}, {9, 6, 10}, {1, 4, 4}};

/* The golden mask is stored with DC in the middle: bin k lies at (k + N / 2) % N. */
static void check_published_mask(const float *m, const char *name, int F, int h, int w, double tolerance)
{
    size_t n;
    float *want = golden(FILTERS, name, &n);
    check(n == (size_t)F * h * w, "%s: %zu values", name, n);
    for (int t = 0; t < F; t++)
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++)
                check_near(m[(t * h + y) * w + x],
                           want[((t + F / 2) % F * h + (y + h / 2) % h) * w + (x + w / 2) % w], tolerance,
                           "%s at %d %d %d", name, t, y, x);
    free(want);
}

static void published_masks_are_those_of_diffusers(void **state)
{
    static const double stops[][2] = {{0.25, 0.25}, {0.25, 0.5}, {0.4, 0.2}};
    (void)state;
    for (int s = 0; s < COUNT(shapes_published); s++)
        for (int k = 0; k < COUNT(kinds); k++)
            for (int d = 0; d < COUNT(stops); d++) {
                const int *z = shapes_published[s];
                const Lowpass p = {kinds[k].kind, kinds[k].order, stops[d][0], stops[d][1], true};
                char name[96];
                snprintf(name, sizeof name, "%dx%dx%d.%s.ds%g.dt%g.mask", z[0], z[1], z[2], kinds[k].name,
                         p.ds, p.dt);
                float *m = mask_of(&p, z[0], z[1], z[2]);
                check_published_mask(m, name, z[0], z[1], z[2], p.kind >= LOWPASS_IDEAL ? 0.0 : 1e-6);
                free(m);
            }
}

static void published_mixes_are_those_of_diffusers(void **state)
{
    gimbal_error err = {0};
    (void)state;
    for (int s = 0; s < COUNT(shapes_published); s++)
        for (int k = 0; k < COUNT(kinds); k++) {
            const int *z = shapes_published[s];
            const gimbal_shape shape = {4, z[0], z[1], z[2]};
            const Lowpass p = {kinds[k].kind, kinds[k].order, 0.25, 0.25, true};
            char name[96];
            size_t n;
            snprintf(name, sizeof name, "%dx%dx%d.x", z[0], z[1], z[2]);
            float *x = golden(FILTERS, name, &n);
            snprintf(name, sizeof name, "%dx%dx%d.noise", z[0], z[1], z[2]);
            float *noise = golden(FILTERS, name, &n);
            snprintf(name, sizeof name, "%dx%dx%d.%s.ds0.25.dt0.25.mixed", z[0], z[1], z[2], kinds[k].name);
            float *want = golden(FILTERS, name, &n), *m = mask_of(&p, z[0], z[1], z[2]);
            check_ok(spectral_mix(x, noise, m, false, shape, x, NULL, &err), err);
            for (size_t i = 0; i < n; i++)
                check_near(x[i], want[i], 2e-6, "%s[%zu]", name, i);
            free(x);
            free(noise);
            free(want);
            free(m);
        }
}

/* A box wider than a narrow axis: the code it comes from writes slices, where a start below 0 counts from the
 * end. Height 10, ds 1 gives bins -5..4 on both axes; on a width of 4 that is [-3:7], places 1, 2, 3 of the
 * shifted grid. */
static void the_published_box_takes_its_width_from_the_height(void **state)
{
    const Lowpass p = {LOWPASS_BOX, 0, 1.0, 1.0, true};
    (void)state;
    float *m = mask_of(&p, 2, 10, 4);
    for (int i = 0; i < 2 * 10; i++) {
        const float want[4] = {1, 1, 0, 1}; /* frequencies 0, 1, -2, -1 */
        assert_memory_equal(m + 4 * i, want, sizeof want);
    }
    free(m);
}

/* Half widths that end in .5 go to the even number: 10 / 2 * 0.5 = 2.5 gives the bins -2..1. */
static void the_published_box_rounds_half_to_even(void **state)
{
    static const float want[10] = {1, 1, 0, 0, 0, 0, 0, 0, 1, 1};
    const Lowpass p = {LOWPASS_BOX, 0, 0.5, 0.5, true};
    (void)state;
    float *m = mask_of(&p, 10, 10, 10);
    for (int i = 0; i < 10; i++)
        check(m[i] == want[i] && m[10 * i] == want[i] && m[100 * i] == want[i], "bin %d", i);
    free(m);
}

/* ---- mixes ------------------------------------------------------------------------------- */

/* Brute force: real part of the mix of one channel into want[n]; returns the largest |imaginary part|. */
static double mix_by_sums(const float *low, const float *high, const float *m, bool power, gimbal_shape s,
                          double *want)
{
    const int n = s.f * s.h * s.w;
    cpx *a = dft(low, s.f, s.h, s.w), *b = dft(high, s.f, s.h, s.w);
    double largest = 0;
    for (int i = 0; i < n; i++) {
        const double g = power ? sqrt(1.0 - (double)m[i] * m[i]) : 1.0 - (double)m[i];
        a[i] = a[i] * m[i] + b[i] * g;
    }
    inverse_dft(a, s.f, s.h, s.w);
    for (int i = 0; i < n; i++)
        want[i] = creal(a[i]), largest = fmax(largest, fabs(cimag(a[i])));
    free(a);
    free(b);
    return largest;
}

static void a_mix_is_the_sum_over_frequencies_in_float64(void **state)
{
    const gimbal_shape s = {2, 5, 7, 9};
    const int n = 5 * 7 * 9;
    double *want = malloc(sizeof(double) * n), imag;
    gimbal_error err = {0};
    (void)state;
    assert_non_null(want);
    float *low = white(1, s), *high = white(2, s), *out = floats(2 * n);
    for (int i = 0; i < 2 * COUNT(filters); i++) {
        float *m = mask_of(&filters[i / 2], s.f, s.h, s.w);
        check_ok(spectral_mix(low, high, m, i % 2, s, out, &imag, &err), err);
        check_near(imag, 0.0, 1e-6, "filter %d: imaginary part", i / 2);
        for (int c = 0; c < s.c; c++) {
            check_near(mix_by_sums(low + c * n, high + c * n, m, i % 2, s, want), 0.0, 1e-12,
                       "imaginary part");
            for (int k = 0; k < n; k++)
                check_near(out[c * n + k], want[k], 2e-6, "filter %d, power %d, channel %d, value %d", i / 2,
                           i % 2, c, k);
        }
        free(m);
    }
    free(low);
    free(high);
    free(out);
    free(want);
}

static void imag_tells_what_an_asymmetric_mask_discards(void **state)
{
    const gimbal_shape s = {1, 5, 7, 9};
    const Lowpass p = {LOWPASS_GAUSSIAN, 0, 0.25, 0.25, true};
    double want[5 * 7 * 9], imag, squares = 0;
    gimbal_error err = {0};
    (void)state;
    float *low = white(1, s), *high = white(2, s), *m = mask_of(&p, 5, 7, 9);
    const double largest = mix_by_sums(low, high, m, false, s, want);
    for (int i = 0; i < COUNT(want); i++)
        squares += want[i] * want[i];
    check_ok(spectral_mix(low, high, m, false, s, low, &imag, &err), err);
    check(imag > 1e-3, "%g", imag);
    check_near(imag, largest / sqrt(squares / COUNT(want)), 1e-5, "imaginary part");
    free(low);
    free(high);
    free(m);
}

static void the_output_may_be_either_input(void **state)
{
    const gimbal_shape s = {3, 4, 5, 6};
    const size_t bytes = sizeof(float) * 3 * 4 * 5 * 6;
    gimbal_error err = {0};
    (void)state;
    float *low = white(1, s), *high = white(2, s), *m = mask_of(&filters[2], 4, 5, 6), *out = floats(360);
    float *low2 = white(1, s), *high2 = white(2, s);
    check_ok(spectral_mix(low, high, m, true, s, out, NULL, &err), err);
    check_ok(spectral_mix(low, high2, m, true, s, high2, NULL, &err), err);
    check_ok(spectral_mix(low2, high, m, true, s, low2, NULL, &err), err);
    assert_memory_equal(high2, out, bytes);
    assert_memory_equal(low2, out, bytes);
    free(low);
    free(high);
    free(m);
    free(out);
    free(low2);
    free(high2);
}

static void the_low_band_of_a_mix_is_that_of_low_and_the_rest_that_of_high(void **state)
{
    const gimbal_shape s = {1, 9, 6, 10};
    const int n = 9 * 6 * 10;
    gimbal_error err = {0};
    (void)state;
    float *low = white(1, s), *high = white(2, s), *out = floats(n);
    float *a = floats(2 * n), *b = floats(2 * n), *mixed = floats(2 * n), *m = mask_of(&filters[4], 9, 6, 10);
    check_ok(spectral_mix(low, high, m, true, s, out, NULL, &err), err);
    check_ok(spectrum(low, 9, 6, 10, a, &err), err);
    check_ok(spectrum(high, 9, 6, 10, b, &err), err);
    check_ok(spectrum(out, 9, 6, 10, mixed, &err), err);
    for (int i = 0; i < 2 * n; i++)
        check_near(mixed[i], m[i / 2] == 1.0f ? a[i] : b[i], 1e-4, "bin %d", i / 2);
    free(low);
    free(high);
    free(out);
    free(a);
    free(b);
    free(mixed);
    free(m);
}

/* Mean square over 64 draws of two independent white clips. */
static double mixed_variance(const Lowpass *p, bool power, gimbal_shape s)
{
    const size_t n = (size_t)s.c * s.f * s.h * s.w;
    double squares = 0;
    gimbal_error err = {0};
    float *m = mask_of(p, s.f, s.h, s.w);
    for (uint64_t draw = 0; draw < 64; draw++) {
        float *low = white(2 * draw, s), *high = white(2 * draw + 1, s);
        check_ok(spectral_mix(low, high, m, power, s, low, NULL, &err), err);
        for (size_t i = 0; i < n; i++)
            squares += (double)low[i] * low[i];
        free(low);
        free(high);
    }
    free(m);
    return squares / (64.0 * (double)n);
}

/* 64 draws of 4x16x32x32 have a standard error of 7e-4 for the variance. */
static void adding_powers_keeps_white_noise_white(void **state)
{
    const gimbal_shape square = {4, 16, 32, 32}, odd = {4, 13, 31, 41};
    (void)state;
    check_near(mixed_variance(&filters[0], true, square), 1.0, 1e-3, "butterworth");
    check_near(mixed_variance(&filters[2], true, odd), 1.0, 1e-3, "gaussian, odd sizes");
    check(mixed_variance(&filters[2], false, (gimbal_shape){1, 16, 32, 32}) < 0.98, "1 - m loses variance");
}

static void impossible_sizes_are_refused(void **state)
{
    float x[2] = {0}, m[1] = {0};
    gimbal_error err = {0};
    (void)state;
    check_fails(spectral_mix(x, x, m, true, (gimbal_shape){1, 0, 1, 1}, x, NULL, &err), GIMBAL_EUSAGE, err,
                "0 frames 1x1");
    check_fails(spectral_mix(x, x, m, true, (gimbal_shape){1, 65536, 65536, 2}, x, NULL, &err), GIMBAL_EUSAGE,
                err, "at most");
    check_fails(spectrum(x, 1, -1, 1, x, &err), GIMBAL_EUSAGE, err, "at least 1");
}

TESTS(the_spectrum_is_the_transform_for_every_size_to_33, dc_passes_whole_at_every_size_to_33,
      masks_are_symmetric_and_within_0_and_1, masks_fall_from_dc_to_nyquist_on_every_axis,
      the_stop_frequency_is_where_it_says, a_stop_frequency_of_0_lets_nothing_pass,
      published_masks_are_those_of_diffusers, published_mixes_are_those_of_diffusers,
      the_published_box_takes_its_width_from_the_height, the_published_box_rounds_half_to_even,
      a_mix_is_the_sum_over_frequencies_in_float64, imag_tells_what_an_asymmetric_mask_discards,
      the_output_may_be_either_input, the_low_band_of_a_mix_is_that_of_low_and_the_rest_that_of_high,
      adding_powers_keeps_white_noise_white, impossible_sizes_are_refused)
