/* t_study.c: radial bands of a clip and what a schedule leaves of it: Parseval, white noise, waves whose band
 * is known, correlation against sums, FreeInit's leak in numbers, and what is refused. Odd and not square
 * sizes. */
#include "diffusion/diffusion.h"
#include "tests/models.h"

static const double edges[] = {0.05, 0.1, 0.25, 0.5, 1};
enum { BANDS = 6 };
static const gimbal_shape sizes[] = {
    {4, 16, 16, 16}, {3, 5, 7, 9}, {1, 1, 8, 12}, {2, 2, 1, 33}, {1, 1, 1, 1}};

static float *white(uint64_t seed, gimbal_shape s)
{
    float *x = malloc(sizeof(float) * shape_count(s));
    assert_non_null(x);
    philox_normal(seed, 0, 0, s, x);
    return x;
}

/* ---- bands ------------------------------------------------------------------------------- */

static void energy_and_counts_add_up(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT(sizes); i++)
        for (int ratio = 0; ratio < 3; ratio++) {
            const gimbal_shape s = sizes[i];
            gimbal_band band[BANDS];
            float *x = white(7, s), *y = white(8, s);
            check_ok(gimbal_bands(x, y, s, edges, BANDS, ratio, band, &err), err);
            double direct[2] = {0}, power[2] = {0};
            int64_t count = 0;
            for (size_t k = 0; k < shape_count(s); k++)
                direct[0] += (double)x[k] * x[k], direct[1] += (double)y[k] * y[k];
            for (int b = 0; b < BANDS; b++) {
                count += band[b].count;
                check((band[b].count == 0) == isnan(band[b].power), "size %d band %d", i, b);
                power[0] += band[b].count ? band[b].power * (double)band[b].count * s.c : 0;
                power[1] += band[b].count ? band[b].power_y * (double)band[b].count * s.c : 0;
            }
            check(count == (int64_t)s.f * s.h * s.w, "size %d: %lld bins", i, (long long)count);
            check_near(power[0], direct[0], 1e-5 * direct[0], "size %d: energy of x", i);
            check_near(power[1], direct[1], 1e-5 * direct[1], "size %d: energy of y", i);
            free(x);
            free(y);
        }
}

/* Power 1 in every band, so that at abar = 1/2 the signal is as strong as the noise: 0 dB. Five deviations.
 */
static void white_noise_is_at_zero_decibels(void **state)
{
    (void)state;
    const gimbal_shape s = {4, 16, 32, 24};
    gimbal_band band[BANDS];
    float *x = white(3, s), *y = white(4, s);
    check_ok(gimbal_bands(x, y, s, edges, BANDS, 1, band, &err), err);
    for (int b = 0; b < BANDS; b++) {
        const double deviation = sqrt(2.0 / ((double)band[b].count * s.c)),
                     snr = 0.5 / (1 - 0.5) * band[b].power;
        check(band[b].count > 0, "band %d", b);
        check_near(snr, 1, 5 * deviation, "band %d", b);
        check_near(band[b].correlation, 0, 5 * deviation, "band %d: of two independent clips", b);
    }
    free(x);
    free(y);
}

static float *wave(gimbal_shape s, int t, int y, int x, double phase)
{
    float *out = malloc(sizeof(float) * shape_count(s));
    assert_non_null(out);
    for (size_t k = 0; k < shape_count(s); k++) {
        const double angle = (double)t * (double)(k / ((size_t)s.h * s.w) % s.f) / s.f +
                             (double)y * (double)(k / s.w % s.h) / s.h + (double)x * (double)(k % s.w) / s.w;
        out[k] = (float)cos(2 * M_PI * angle + phase);
    }
    return out;
}

/* A wave (t, y, x) lies at radius sqrt((ratio 2t/F)^2 + (2y/h)^2 + (2x/w)^2); what is on an edge is above it.
 */
static void waves_lie_in_their_band(void **state)
{
    (void)state;
    static const struct {
        int t, y, x;
        double ratio;
        int band;
    } cases[] = {{0, 0, 0, 1, 0},   {0, 0, 1, 1, 1}, {0, 0, 2, 1, 2}, {0, 3, 2, 1, 3},  {4, 0, 0, 1, 4},
                 {4, 0, 0, 0.5, 3}, {4, 0, 0, 0, 0}, {8, 6, 0, 1, 5}, {0, 0, 16, 1, 5}, {0, 3, 0, 1, 3}};
    const gimbal_shape s = {2, 16, 24, 32};
    for (int i = 0; i < COUNT(cases); i++) {
        gimbal_band band[BANDS];
        float *x = wave(s, cases[i].t, cases[i].y, cases[i].x, 0);
        check_ok(gimbal_bands(x, NULL, s, edges, BANDS, cases[i].ratio, band, &err), err);
        double all = 0;
        for (int b = 0; b < BANDS; b++)
            all += band[b].count ? band[b].power * (double)band[b].count : 0;
        const double there = band[cases[i].band].power * (double)band[cases[i].band].count;
        check_near(there / all, 1, 1e-6, "wave %d: share in band %d", i, cases[i].band);
        free(x);
    }
}

/* Against itself 1, upside down -1, a quarter of a wave later 0, an eighth sqrt(1/2). */
static void correlation_is_the_cosine_of_the_shift(void **state)
{
    (void)state;
    const gimbal_shape s = {1, 8, 16, 16};
    float *x = wave(s, 1, 2, 0, 0);
    for (int i = 0; i <= 4; i++) {
        float *y = wave(s, 1, 2, 0, i * M_PI / 4);
        gimbal_band all;
        check_ok(gimbal_bands(x, y, s, NULL, 1, 1, &all, &err), err);
        check_near(all.correlation, cos(i * M_PI / 4), 1e-6, "shift %d", i);
        free(y);
    }
    memset(x, 0, sizeof(float) * shape_count(s));
    gimbal_band none;
    check_ok(gimbal_bands(x, NULL, s, NULL, 1, 1, &none, &err), err);
    check(none.power == 0 && isnan(none.correlation), "an empty clip: %g %g", none.power, none.correlation);
    free(x);
}

static void bands_refuse(void **state)
{
    (void)state;
    const gimbal_shape s = {1, 2, 3, 4};
    gimbal_band band[BANDS];
    float *x = white(1, s);
    const double down[] = {0.2, 0.1}, zero[] = {0, 1}, nan[] = {0.1, NAN};
    check_fails(gimbal_bands(x, NULL, s, edges, 0, 1, band, &err), GIMBAL_EUSAGE, err, "0 bands");
    check_fails(gimbal_bands(x, NULL, s, edges, BANDS, NAN, band, &err), GIMBAL_EUSAGE, err, "ds/dt is nan");
    check_fails(gimbal_bands(x, NULL, s, edges, BANDS, -1, band, &err), GIMBAL_EUSAGE, err, "ds/dt is -1");
    check_fails(gimbal_bands(x, NULL, s, down, 3, 1, band, &err), GIMBAL_EUSAGE, err, "edge 2");
    check_fails(gimbal_bands(x, NULL, s, zero, 3, 1, band, &err), GIMBAL_EUSAGE, err, "edge 1");
    check_fails(gimbal_bands(x, NULL, s, nan, 3, 1, band, &err), GIMBAL_EUSAGE, err, "edge 2");
    const gimbal_shape none = {1, 0, 3, 4}, huge = {65536, 65536, 65536, 65536};
    check_fails(gimbal_bands(x, NULL, none, edges, BANDS, 1, band, &err), GIMBAL_EUSAGE, err, "[1,0,3,4]");
    check_fails(gimbal_bands(x, NULL, huge, edges, BANDS, 1, band, &err), GIMBAL_EUSAGE, err, "too large");
    x[5] = NAN;
    check_fails(gimbal_bands(x, NULL, s, edges, BANDS, 1, band, &err), GIMBAL_EUSAGE, err, "not finite");
    free(x);
}

/* ---- filters ----------------------------------------------------------------------------- */

/* Ours are symmetric for every size, so that a mix has no imaginary part; the published ones are not. */
static void corrected_masks_are_symmetric(void **state)
{
    (void)state;
    static const char *const kinds[] = {"butterworth", "gaussian", "ideal", "box"};
    const gimbal_shape s = {2, 5, 7, 12};
    float *x = white(1, s), *y = white(2, s), *mask = white(0, s), *out = white(0, s);
    for (int i = 0; i < COUNT(kinds); i++)
        for (int published = 0; published < 2; published++) {
            char spec[80];
            double imag = NAN;
            snprintf(spec, sizeof spec, "freeinit:filter=%s,ds=0.4,dt=0.5,compat=%d", kinds[i], published);
            check_ok(gimbal_mask(spec, s, mask, &err), err);
            check_ok(spectral_mix(x, y, mask, !published, s, out, &imag, &err), err);
            check(published ? imag > 1e-3 : imag < 1e-5, "%s: %g", spec, imag);
        }
    free(x), free(y), free(mask), free(out);
}

/* ---- schedules --------------------------------------------------------------------------- */

static double decibels(double alpha_bar)
{
    return 10 * log10(alpha_bar / (1 - alpha_bar));
}

/* The numbers of FreeInit's initialisation gap. */
static void schedules_leak_as_published(void **state)
{
    (void)state;
    gimbal_schedule *linear, *scaled, *eight;
    check_ok(gimbal_schedule_of(&linear, NULL, NULL, NULL, NULL, 0, &err), err);
    check_ok(gimbal_schedule_of(&scaled, NULL, "scaled_linear", NULL, NULL, 25, &err), err);
    check_ok(gimbal_schedule_of(&eight, NULL, "linear", NULL, NULL, 8, &err), err);
    assert_string_equal(linear->betas, "linear");
    assert_string_equal(linear->spacing, "leading");
    assert_string_equal(linear->sampler, "ddim");
    check(linear->timesteps == 1000 && linear->steps == 25 && !linear->zero_snr, "%d of %d", linear->steps,
          linear->timesteps);
    check_near(sqrt(linear->alpha_bar[999]), 0.0397, 5e-5, "linear 999");
    check_near(decibels(linear->alpha_bar[999]), -28.0, 0.05, "linear 999");
    check_near(linear->t[0], 961, 0, "first of 25 steps");
    check_near(sqrt(linear->t_alpha_bar[0]), 0.0498, 5e-5, "linear 961");
    check_near(decibels(linear->t_alpha_bar[0]), -26.0, 0.05, "linear 961");
    check_near(sqrt(linear->alpha_bar[850]), 0.0918, 5e-5, "linear 850");
    check_near(decibels(linear->alpha_bar[850]), -20.7, 0.05, "linear 850");
    check_near(sqrt(scaled->alpha_bar[999]), 0.0683, 5e-5, "scaled_linear 999");
    check_near(decibels(scaled->alpha_bar[999]), -23.3, 0.05, "scaled_linear 999");
    check_near(scaled->alpha_bar[999], 0.0046601, 5e-8, "scaled_linear 999");
    check_near(eight->t[0], 876, 0, "first of 8 steps");
    free(linear), free(scaled), free(eight);
}

static void schedules_are_the_models(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TOYWORLD, NULL);
    gimbal_schedule *own, *plain, *euler;
    check_ok(gimbal_schedule_of(&own, e, NULL, NULL, NULL, 0, &err), err);
    check_ok(gimbal_schedule_of(&plain, NULL, "linear", "leading", "ddim", own->steps, &err), err);
    check(own->timesteps == plain->timesteps, "%d", own->timesteps);
    for (int t = 0; t < own->timesteps; t++)
        check_near(own->alpha_bar[t], plain->alpha_bar[t], 1e-12, "abar %d", t);
    for (int k = 0; k < own->steps; k++)
        check_near(own->t[k], plain->t[k], 0, "step %d", k);
    check_ok(gimbal_schedule_of(&euler, e, "scaled_linear", "linspace", "euler", 7, &err), err);
    assert_string_equal(euler->betas, "scaled_linear");
    assert_string_equal(euler->sampler, "euler");
    check_near(euler->t[0], 999, 1e-9, "linspace begins at the end");
    check_near(euler->start, sqrt(1 - euler->alpha_bar[999]), 1e-9, "euler's start");
    check(euler->steps == 7 && euler->t[6] < euler->t[5], "descending");
    free(own), free(plain), free(euler);
    gimbal_close(e);
}

static void zero_snr_is_told(void **state)
{
    (void)state;
    gimbal_schedule *s;
    shell("sed -i 's/\"rescale_betas_zero_snr\": false/\"rescale_betas_zero_snr\": true/' %s",
          in_scratch("model/scheduler/scheduler_config.json"));
    gimbal_engine *e = opened(in_scratch("model"), NULL);
    check_ok(gimbal_schedule_of(&s, e, NULL, "trailing", NULL, 5, &err), err);
    check(s->zero_snr && s->alpha_bar[s->timesteps - 1] == 0 && s->t_alpha_bar[0] == 0, "abar %g",
          s->alpha_bar[s->timesteps - 1]);
    free(s);
    gimbal_close(e);
}

static void schedules_refuse(void **state)
{
    (void)state;
    gimbal_schedule *s = (gimbal_schedule *)&err;
    check_fails(gimbal_schedule_of(&s, NULL, "linaer", NULL, NULL, 5, &err), GIMBAL_EUSAGE, err, "linaer");
    check(s == NULL, "nothing is given out on error");
    check_fails(gimbal_schedule_of(&s, NULL, NULL, "middle", NULL, 5, &err), GIMBAL_EUSAGE, err, "middle");
    check_fails(gimbal_schedule_of(&s, NULL, NULL, NULL, "heun", 5, &err), GIMBAL_EUSAGE, err, "heun");
    check_fails(gimbal_schedule_of(&s, NULL, NULL, NULL, NULL, 1001, &err), GIMBAL_EUSAGE, err, "1..1000");
    check_fails(gimbal_schedule_of(&s, NULL, NULL, NULL, NULL, -1, &err), GIMBAL_EUSAGE, err, "steps is -1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(energy_and_counts_add_up),
        cmocka_unit_test(white_noise_is_at_zero_decibels),
        cmocka_unit_test(waves_lie_in_their_band),
        cmocka_unit_test(correlation_is_the_cosine_of_the_shift),
        cmocka_unit_test(bands_refuse),
        cmocka_unit_test(corrected_masks_are_symmetric),
        cmocka_unit_test(schedules_leak_as_published),
        cmocka_unit_test(schedules_are_the_models),
        WITH_MODEL(zero_snr_is_told),
        cmocka_unit_test(schedules_refuse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
