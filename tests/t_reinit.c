/* t_reinit.c: the re-initialisers besides FreeInit, by formula and by statistics, and what plans of unequal
 * passes cost and do with a real network.
 *
 * FreqPrior is compared with the two noised copies of its paper, and its noise must stay N(0, I) in every
 * band; the control keeps one band to the bit of a transform and redraws the other. Sizes are odd and not
 * square, or small and even where the published masks hold too. */
#include "diffusion/diffusion.h"
#include "tests/models.h"

typedef struct {
    Arena keep;
    Schedule schedule;
    const Reinit *reinit;
    void *self;
} Rig;

static void rig_open(Rig *rig, const char *spec)
{
    static const char config[] =
        "{\"_class_name\":\"DDIMScheduler\",\"beta_start\":0.00085,\"beta_end\":0.012,"
        "\"steps_offset\":1,\"clip_sample\":false}";
    const char *note;
    json_t *json = json_loads(config, 0, NULL);
    *rig = (Rig){0};
    check_ok(schedule_read(&rig->schedule, json, "x.json", NULL, NULL, false, &rig->keep, &note, &err), err);
    check_ok(reinit_parse(spec, &rig->reinit, &rig->self, &rig->keep, &err), err);
    json_decref(json);
}

/* A clip of white noise; the caller's. */
static float *clip_of(uint32_t stream, gimbal_shape s)
{
    float *x = malloc(sizeof(float) * shape_count(s));
    philox_normal(31, stream, 0, s, x);
    return x;
}

/* A Source of white noise that remembers what it was asked. */
typedef struct {
    uint32_t stream; /* of its first clip; each further one is the next */
    DrawReq asked[8];
    int calls;
} Pen;

static int draw(void *self, const DrawReq *req, float *out)
{
    Pen *pen = self;
    if (pen->calls < COUNT(pen->asked))
        pen->asked[pen->calls] = *req;
    philox_normal(31, pen->stream + (uint32_t)pen->calls++, 0, req->shape, out);
    return GIMBAL_OK;
}

/* sqrt(m)-power mix of the public functions, by a spec's mask. */
static void mix(const char *spec, gimbal_shape s, const float *low, const float *high, float *out)
{
    float *mask = malloc(sizeof(float) * s.f * s.h * s.w);
    check_ok(gimbal_mask(spec, s, mask, &err), err);
    check_ok(gimbal_mix(low, high, mask, 1, s, out, &err), err);
    free(mask);
}

/* ---- freqprior --------------------------------------------------------------------------- */

/* The paper's refinement: copies x1, x2 of the diffused latent with noise of their own, each mixed with noise
 * of its own, summed over sqrt(2). The mask is the published one, which is the corrected one at even sizes.
 */
static void freqprior_is_the_two_noised_copies_of_its_paper(void **state)
{
    (void)state;
    const gimbal_shape s = {3, 16, 8, 8};
    const size_t n = shape_count(s);
    const double r = 0.6;
    float *eps0 = clip_of(0, s), *mid = clip_of(1, s), *split = clip_of(2, s), *other = clip_of(3, s);
    float *fresh = clip_of(10, s), *eta = clip_of(11, s), *x = malloc(sizeof(float) * n), *part[4];
    for (int i = 0; i < 4; i++)
        part[i] = malloc(sizeof(float) * n);
    Rig rig;
    rig_open(&rig, "freqprior:ratio=0.6,filter=gaussian,ds=0.5,dt=0.3");
    Pen pen = {.stream = 10};
    const ReinitIn in = {.schedule = &rig.schedule,
                         .t = 999,
                         .pass = 2,
                         .shape = s,
                         .eps0 = eps0,
                         .x0 = eps0,
                         .x = mid,
                         .x_t = 321,
                         .noise = {draw, &pen}};
    check_ok(rig.reinit->start(rig.self, &in, x, &err), err);
    assert_int_equal(pen.calls, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pen.asked[i].why, DRAW_FRESH);
        assert_int_equal(pen.asked[i].pass, 2);
        assert_int_equal(pen.asked[i].step, i);
    }

    const double a = rig.schedule.alpha_bar[999] / rig.schedule.alpha_bar[321];
    for (size_t i = 0; i < n; i++) {
        const double z = sqrt(a) * mid[i] + sqrt(1 - a) * eps0[i], scale = 1 / sqrt(1 + r * r);
        /* any split of eta and fresh into two gives the same sum */
        part[0][i] = (float)(scale * (r * z + sqrt(1 - r * r) * (eta[i] * M_SQRT1_2 + split[i])));
        part[1][i] = (float)(scale * (r * z + sqrt(1 - r * r) * (eta[i] * M_SQRT1_2 - split[i])));
        part[2][i] = (float)(fresh[i] * M_SQRT1_2 + other[i]);
        part[3][i] = (float)(fresh[i] * M_SQRT1_2 - other[i]);
    }
    const char *published = "freeinit:compat=1,filter=gaussian,ds=0.5,dt=0.3";
    mix(published, s, part[0], part[2], part[0]);
    mix(published, s, part[1], part[3], part[1]);
    for (size_t i = 0; i < n; i++)
        part[0][i] = (float)((part[0][i] + part[1][i]) * M_SQRT1_2);
    check(rel_rms(x, part[0], n) < 1e-6, "%g off", rel_rms(x, part[0], n));
    for (int i = 0; i < 4; i++)
        free(part[i]);
    free(eps0), free(mid), free(split), free(other), free(fresh), free(eta), free(x);
    arena_free(&rig.keep);
}

/* Sums |F|^2 / n of x's channels into bands of |f|, f in units of Nyquist over three axes. */
enum { BANDS = 8 };
static void add_power(const float *x, gimbal_shape s, double power[BANDS], double count[BANDS])
{
    const size_t n = (size_t)s.f * s.h * s.w;
    float *spectrum_ = malloc(sizeof(float) * 2 * n);
    for (int c = 0; c < s.c; c++) {
        check_ok(spectrum(x + (size_t)c * n, s.f, s.h, s.w, spectrum_, &err), err);
        for (size_t i = 0; i < n; i++) {
            const int at[3] = {(int)(i / ((size_t)s.h * s.w)), (int)(i / s.w % s.h), (int)(i % s.w)};
            const int size[3] = {s.f, s.h, s.w};
            double d2 = 0;
            for (int k = 0; k < 3; k++)
                d2 += pow(MIN(at[k], size[k] - at[k]) / (size[k] / 2.0), 2);
            const int band = MIN((int)(sqrt(d2) * BANDS / 1.75), BANDS - 1);
            power[band] += ((double)spectrum_[2 * i] * spectrum_[2 * i] +
                            (double)spectrum_[2 * i + 1] * spectrum_[2 * i + 1]) /
                           n;
            count[band] += 1;
        }
    }
    free(spectrum_);
}

/* Over 64 draws, from independent white clips: variance 1, the same power in every band. Bins come in
 * conjugate pairs, so half of them count for the standard error. */
static void check_white(const char *spec, bool first)
{
    const gimbal_shape s = {4, 15, 48, 50};
    const size_t n = shape_count(s);
    double square = 0, power[BANDS] = {0}, count[BANDS] = {0};
    Rig rig;
    rig_open(&rig, spec);
    float *x = malloc(sizeof(float) * n);
    for (uint32_t i = 0; i < 64; i++) {
        float *eps0 = clip_of(100 * i, s), *mid = clip_of(100 * i + 1, s);
        Pen pen = {.stream = 100 * i + 2};
        ReinitIn in = {.schedule = &rig.schedule, .t = 961, .shape = s, .eps0 = eps0, .noise = {draw, &pen}};
        if (first) {
            memcpy(x, eps0, sizeof(float) * n);
            check_ok(rig.reinit->first(rig.self, &in, x, &err), err);
        } else {
            in.pass = 1, in.x = mid, in.x0 = mid, in.x_t = 321;
            check_ok(rig.reinit->start(rig.self, &in, x, &err), err);
        }
        for (size_t k = 0; k < n; k++)
            square += (double)x[k] * x[k] / n / 64;
        if (i < 16)
            add_power(x, s, power, count);
        free(eps0), free(mid);
    }
    check_near(square, 1.0, 1e-3, "%s: variance", spec);
    for (int b = 0; b < BANDS; b++)
        check_near(power[b] / count[b], 1.0, 3 / sqrt(count[b] / 2), "%s: power of band %d", spec, b);
    free(x);
    arena_free(&rig.keep);
}

static void noise_stays_standard_normal_in_every_band(void **state)
{
    (void)state;
    check_white("freqprior", false);
    check_white("freqprior:filter=gaussian,ratio=0.3,ds=0.6,dt=0.6", false);
    check_white("redraw:filter=gaussian,ds=0.6,dt=0.4", true);
}

/* ---- redraw ------------------------------------------------------------------------------ */

static void redraw_keeps_the_low_band_and_no_other(void **state)
{
    (void)state;
    const gimbal_shape s = {1, 7, 10, 9};
    const size_t n = shape_count(s);
    const char *const spec = "redraw:filter=ideal,ds=0.5,dt=0.4";
    float *eps0 = clip_of(0, s), *x = clip_of(0, s), *fresh = clip_of(51, s);
    float *mask = malloc(sizeof(float) * n), *before = malloc(sizeof(float) * 2 * n),
          *after = malloc(sizeof(float) * 2 * n), *new = malloc(sizeof(float) * 2 * n);
    Rig rig;
    rig_open(&rig, spec);
    Pen pen = {.stream = 50};
    const ReinitIn in = {.schedule = &rig.schedule, .t = 961, .shape = s, .eps0 = x, .noise = {draw, &pen}};
    check_ok(rig.reinit->first(rig.self, &in, x, &err), err);
    /* the fresh noise of the last of three passes: pass 1's and pass 2's are drawn, as FreeInit would */
    assert_int_equal(pen.calls, 2);
    for (int i = 0; i < 2; i++)
        check(pen.asked[i].why == DRAW_FRESH && pen.asked[i].pass == i + 1 && !pen.asked[i].step, "draw %d",
              i);
    check_ok(gimbal_mask(spec, s, mask, &err), err);
    check_ok(spectrum(eps0, s.f, s.h, s.w, before, &err), err);
    check_ok(spectrum(x, s.f, s.h, s.w, after, &err), err);
    check_ok(spectrum(fresh, s.f, s.h, s.w, new, &err), err);
    int low = 0;
    for (size_t i = 0; i < 2 * n; i++) {
        check_near(after[i], mask[i / 2] ? before[i] : new[i], 1e-4, "bin %zu, gain %g", i / 2, mask[i / 2]);
        low += mask[i / 2] == 1;
    }
    check(low > 20 && low < (int)n, "%d kept values of %zu", low, 2 * n);
    free(eps0), free(x), free(fresh), free(mask), free(before), free(after), free(new);
    arena_free(&rig.keep);
}

/* ---- with a network ---------------------------------------------------------------------- */

static void small_settings(gimbal_settings *s, const gimbal_engine *e, double cfg, const char *reinit)
{
    gimbal_defaults(s, e);
    s->prompt = "a cat", s->negative = "a dog";
    s->frames = 3, s->width = 64, s->height = 32, s->steps = 3, s->cfg = cfg, s->reinit = reinit;
}

/* The result of each pass of a run. */
typedef struct {
    float pass[4][4 * 3 * 4 * 8];
    int calls;
} Passes;

static int keep_passes(void *user, const gimbal_progress *p)
{
    Passes *all = user;
    if (!strcmp(p->stage, "pass"))
        memcpy(all->pass[p->pass], p->latents, sizeof all->pass[0]);
    all->calls = p->calls ? p->calls : all->calls;
    return 0;
}

static Passes sampled(gimbal_engine *e, double cfg, const char *reinit)
{
    static Passes all;
    gimbal_settings s;
    gimbal_session *run;
    memset(&all, 0, sizeof all);
    small_settings(&s, e, cfg, reinit);
    s.progress = keep_passes, s.user = &all;
    check_ok(gimbal_begin(&run, e, &s, &err), err);
    check_ok(gimbal_sample(run, all.pass[0], &err), err);
    gimbal_end(run);
    return all;
}

static void each_pass_has_its_own_guidance(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    const size_t bytes = sizeof((Passes *)NULL)->pass[0], n = bytes / sizeof(float);
    const Passes guided = sampled(e, 4, "none"), plain = sampled(e, 1, "none");
    const Passes both = sampled(e, 4, "freeinit:passes=2"),
                 cheap = sampled(e, 4, "freeinit:passes=2,early-cfg=1");
    const Passes rich = sampled(e, 1, "freeinit:passes=2,early-cfg=4");
    const Passes same = sampled(e, 4, "freeinit:passes=2,early-cfg=4"),
                 early = sampled(e, 4, "freeinit:passes=3,early=1,early-cfg=1");
    check(rel_rms(guided.pass[1], plain.pass[1], n) > 1e-4, "guidance does not show");
    check(!memcmp(cheap.pass[1], plain.pass[1], bytes), "pass 1 without guidance");
    check(!memcmp(rich.pass[1], guided.pass[1], bytes), "pass 1 with guidance in a run without");
    check(!memcmp(both.pass[1], guided.pass[1], bytes), "pass 1");
    check(!memcmp(both.pass[0], same.pass[0], bytes), "early-cfg of the run's own value");
    check(rel_rms(cheap.pass[2], both.pass[2], n) > 1e-6, "the second pass does not depend on the first");
    check(!memcmp(cheap.pass[0], cheap.pass[2], bytes), "the result is the last pass's");
    assert_int_equal(early.calls, 5);
    assert_int_equal(cheap.calls, 6);
    gimbal_close(e);
}

static void plans_name_their_price(void **state)
{
    (void)state;
    static const struct {
        const char *reinit;
        double cfg, relative;
        int passes, calls;
    } cases[] = {{"none", 6, 1, 1, 25},
                 {"freeinit:passes=2,early=8", 6, 1.32, 2, 33},
                 {"freeinit:passes=2,early=2,early-cfg=1", 6, 1.04, 2, 27},
                 {"freeinit:passes=2,early=5,early-cfg=6", 1, 1.4, 2, 30},
                 {"freqprior", 6, 2.28, 3, 57}};
    gimbal_engine *e = opened(TINY, MOTION);
    uint64_t alone = 0;
    double flops = 0;
    for (int i = 0; i < COUNT(cases); i++) {
        gimbal_settings s;
        gimbal_cost cost;
        small_settings(&s, e, cases[i].cfg, cases[i].reinit);
        s.steps = 25;
        check_ok(gimbal_predict(e, &s, &cost, &err), err);
        check_near(cost.relative, cases[i].relative, 1e-9, "%s at guidance %g", cases[i].reinit,
                   cases[i].cfg);
        check(cost.passes == cases[i].passes && cost.calls == cases[i].calls, "%s: %d passes, %d calls",
              cases[i].reinit, cost.passes, cost.calls);
        if (!i)
            alone = cost.work_bytes, flops = cost.flops;
        check(cost.work_bytes == alone, "%s: memory is that of the larger call", cases[i].reinit);
        if (cases[i].cfg > 1)
            check(cost.flops >= flops && cost.flops < 1.02 * flops * cost.relative, "%s: %g FLOPs, plain %g",
                  cases[i].reinit, cost.flops, flops);
    }
    gimbal_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(freqprior_is_the_two_noised_copies_of_its_paper),
        cmocka_unit_test(noise_stays_standard_normal_in_every_band),
        cmocka_unit_test(redraw_keeps_the_low_band_and_no_other),
        cmocka_unit_test(each_pass_has_its_own_guidance),
        cmocka_unit_test(plans_name_their_price),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
