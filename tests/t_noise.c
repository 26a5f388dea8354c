/* t_noise.c: what every noise prior must be, tested by walking the registry, what white noise must be for
 * both generators, and what the registries say to wrong words.
 *
 * What PYoCo's and VideoFusion's priors are by formula is checked value by value, for both generators.
 *
 * Statistics are held to three and a half standard errors of the number of values drawn, so that a fault
 * of a few percent in a weight is seen and chance is not. Sizes are odd and not square on purpose. */
#include "diffusion/diffusion.h"
#include "tests/check.h"

static const gimbal_shape shape = {.c = 4, .f = 7, .h = 33, .w = 21};
static const char *const kinds[] = {"noise", "reinit", "sampler", "family"};

#define FOR_EACH_NOISE(plugin)                                                                               \
    gimbal_plugin plugin;                                                                                    \
    for (int i_ = 0; gimbal_plugin_at("noise", i_, &plugin) == GIMBAL_OK; i_++)

static float *draw(const char *spec, const char *rng, uint64_t seed, int64_t frame0, gimbal_shape s)
{
    gimbal_error err = {0};
    float *x = malloc(sizeof(float) * shape_count(s));
    check_ok(gimbal_noise(spec, rng, seed, frame0, s, x, &err), err);
    return x;
}

/* Value i of frame f, i in 0..c*h*w-1. */
static double at(const float *x, gimbal_shape s, int f, size_t i)
{
    const size_t plane = (size_t)s.h * s.w;
    return x[(i / plane * (size_t)s.f + (size_t)f) * plane + i % plane];
}

static void every_prior_keeps_each_frame_standard_normal(void **state)
{
    (void)state;
    const size_t n = (size_t)shape.c * shape.h * shape.w;
    FOR_EACH_NOISE(prior)
    {
        for (int torch = 0; torch < 2; torch++) {
            float *x = draw(prior.name, torch ? "torch" : "philox", 7, 0, shape);
            for (int f = 0; f < shape.f; f++) {
                double mean = 0, square = 0;
                for (size_t i = 0; i < n; i++)
                    mean += at(x, shape, f, i) / n, square += at(x, shape, f, i) * at(x, shape, f, i) / n;
                check_near(mean, 0.0, 3.5 / sqrt(n), "%s: mean of frame %d", prior.name, f);
                check_near(square - mean * mean, 1.0, 3.5 * sqrt(2.0 / n), "%s: variance of frame %d",
                           prior.name, f);
            }
            free(x);
        }
    }
}

static void every_prior_correlates_frames_as_it_says(void **state)
{
    (void)state;
    const size_t n = (size_t)shape.c * shape.h * shape.w;
    FOR_EACH_NOISE(prior)
    {
        Arena keep = {0};
        gimbal_error err = {0};
        const Noise *noise;
        void *self;
        check_ok(noise_parse(prior.name, &noise, &self, &keep, &err), err);
        float *x = draw(prior.name, "philox", 11, 0, shape);
        for (int i = 0; i < shape.f; i++)
            for (int j = 0; j <= i; j++) {
                double product = 0;
                for (size_t k = 0; k < n; k++)
                    product += at(x, shape, i, k) * at(x, shape, j, k) / n;
                check_near(product, noise->corr(self, i, j), 4.5 / sqrt(n), "%s: frames %d and %d",
                           prior.name, i, j);
            }
        free(x);
        arena_free(&keep);
    }
}

static void a_longer_clip_begins_with_the_shorter_one_and_a_later_start_is_a_window(void **state)
{
    (void)state;
    gimbal_shape longer = shape, window = shape;
    longer.f = 12, window.f = 3;
    const size_t n = (size_t)shape.c * shape.h * shape.w;
    FOR_EACH_NOISE(prior)
    {
        float *x = draw(prior.name, "philox", 7, 0, shape), *y = draw(prior.name, "philox", 7, 0, longer);
        float *z = draw(prior.name, "philox", 7, 5, window);
        for (size_t i = 0; i < n; i++) {
            for (int f = 0; f < shape.f; f++)
                check(at(x, shape, f, i) == at(y, longer, f, i), "%s: frame %d, value %zu", prior.name, f, i);
            for (int f = 0; f < window.f; f++)
                check(at(z, window, f, i) == at(y, longer, f + 5, i), "%s: frame %d, value %zu", prior.name,
                      f + 5, i);
        }
        free(x), free(y), free(z);
    }
}

static void the_same_seed_draws_the_same_bytes_and_another_seed_others(void **state)
{
    (void)state;
    const gimbal_shape tiny = {1, 1, 1, 1};
    FOR_EACH_NOISE(prior)
    {
        for (int torch = 0; torch < 2; torch++) {
            const char *rng = torch ? "torch" : "philox";
            float *x = draw(prior.name, rng, 7, 0, shape), *y = draw(prior.name, rng, 7, 0, shape);
            float *z = draw(prior.name, rng, 8, 0, shape), *one = draw(prior.name, rng, 7, 0, tiny);
            check(!memcmp(x, y, sizeof(float) * shape_count(shape)), "%s, %s: twice seed 7", prior.name, rng);
            check(rel_rms(z, x, shape_count(shape)) > 1.2, "%s, %s: seed 8 against 7", prior.name, rng);
            check(isfinite(one[0]), "%s, %s: a clip of one value", prior.name, rng);
            free(x), free(y), free(z), free(one);
        }
    }
}

static void white_torch_noise_is_what_pytorch_draws(void **state)
{
    (void)state;
    size_t n;
    float *want = golden("tests/golden/rng.safetensors", "seed42.n100", &n);
    float *x = draw("white", "torch", 42, 0, (gimbal_shape){4, 5, 1, 5});
    for (size_t i = 0; i < n; i++)
        check_near(x[i], want[i], 3e-6, "value %zu", i);
    free(x), free(want);
}

/* ---- PYoCo's and VideoFusion's priors, by formula ---------------------------------------- */

/* Two frames' covariance over many pixels, against the closed form, within three standard errors. */
static void correlations_follow_the_closed_forms(void **state)
{
    (void)state;
    static const struct {
        const char *spec;
        int i, j;
        double want;
    } cases[] = {
        {"mixed", 0, 3, 0.5},
        {"mixed:alpha=1.5", 1, 2, 2.25 / 3.25},
        {"mixed:alpha=0", 0, 1, 0},
        {"mixed:alpha=100", 0, 3, 1e4 / 10001},
        {"progressive", 1, 2, M_SQRT1_2},
        {"progressive", 0, 3, M_SQRT1_2 / 2},
        {"progressive:alpha=2", 3, 1, 0.8},
        {"progressive:alpha=0", 0, 1, 0},
        {"shared", 0, 3, 0.5},
        {"shared:lambda=0.2", 2, 3, 0.2},
        {"shared:lambda=0.5,key=2", 0, 1, 0.5},
        {"shared:lambda=0.5,key=2", 2, 1, M_SQRT1_2},
        {"shared:lambda=0", 0, 1, 0},
        {"shared:lambda=0,key=0", 0, 1, 0},
        {"shared:lambda=1", 3, 0, 1},
    };
    const gimbal_shape s = {4, 4, 157, 161};
    const size_t n = (size_t)s.c * s.h * s.w;
    for (int k = 0; k < COUNT(cases); k++) {
        Arena keep = {0};
        gimbal_error err = {0};
        const Noise *noise;
        void *self;
        check_ok(noise_parse(cases[k].spec, &noise, &self, &keep, &err), err);
        const int i = cases[k].i, j = cases[k].j;
        check_near(noise->corr(self, i, j), cases[k].want, 1e-12, "%s: corr(%d, %d)", cases[k].spec, i, j);
        check_near(noise->corr(self, j, j), 1, 0, "%s: corr(%d, %d)", cases[k].spec, j, j);
        float *x = draw(cases[k].spec, "philox", 5, 0, s);
        double product = 0, square = 0;
        for (size_t v = 0; v < n; v++)
            product += at(x, s, i, v) * at(x, s, j, v) / n, square += at(x, s, j, v) * at(x, s, j, v) / n;
        check_near(product, cases[k].want, 3 * sqrt((1 + cases[k].want * cases[k].want) / n),
                   "%s: frames %d and %d", cases[k].spec, i, j);
        check_near(square, 1, 3 * sqrt(2.0 / n), "%s: variance", cases[k].spec);
        free(x);
        arena_free(&keep);
    }
}

/* PyTorch's generator, read as the reference code reads it: the shared image, then the frames' own; for the
 * chain two whole clips, of the first of which one frame is used. */
static void priors_read_pytorchs_generator_in_the_order_of_the_reference(void **state)
{
    (void)state;
    const gimbal_shape s = {4, 3, 5, 7};
    enum { PLANE = 5 * 7, N = 4 * 3 * PLANE };
    float *mixed = draw("mixed:alpha=1.5", "torch", 42, 0, s),
          *chain = draw("progressive", "torch", 42, 0, s);
    float *shared = draw("shared:lambda=0.3,key=1", "torch", 42, 0, s);
    float one[4 * PLANE], own[N], n[N], d[N];
    TorchRng rng;
    torch_seed(&rng, 42), torch_randn(&rng, one, 4 * PLANE), torch_randn(&rng, own, N);
    torch_seed(&rng, 42), torch_randn(&rng, n, N), torch_randn(&rng, d, N);
    for (int c = 0; c < 4; c++)
        for (int i = 0; i < PLANE; i++) {
            double e = 0;
            for (int f = 0; f < 3; f++) {
                const int k = (c * 3 + f) * PLANE + i;
                const double base = one[c * PLANE + i];
                check_near(mixed[k], sqrt(2.25 / 3.25) * base + sqrt(1 / 3.25) * own[k], 1e-6, "mixed %d", k);
                check_near(shared[k], f == 1 ? base : sqrt(0.3) * base + sqrt(0.7) * own[k], 1e-6,
                           "shared %d", k);
                e = f ? M_SQRT1_2 * e + M_SQRT1_2 * d[k] : n[k];
                check_near(chain[k], e, 1e-6, "progressive %d", k);
            }
        }
    free(mixed), free(chain), free(shared);
}

/* Windows and longer clips with other options than the defaults: a key frame is an absolute number. */
static void windows_agree_with_the_clip_under_every_option(void **state)
{
    (void)state;
    static const char *const specs[] = {"mixed:alpha=2", "progressive:alpha=3", "shared:lambda=0.9,key=6"};
    const gimbal_shape longer = {2, 13, 5, 3}, window = {2, 4, 5, 3};
    for (int k = 0; k < COUNT(specs); k++)
        for (int from = 0; from < 10; from++) {
            float *x = draw(specs[k], "philox", 9, 0, longer), *y = draw(specs[k], "philox", 9, from, window);
            for (size_t i = 0; i < 30; i++)
                for (int f = 0; f < 4; f++)
                    check(at(y, window, f, i) == at(x, longer, from + f, i), "%s: frame %d, value %zu",
                          specs[k], from + f, i);
            free(x), free(y);
        }
    gimbal_error err = {0};
    float x[120];
    check_fails(gimbal_noise("progressive", "philox", 9, 65537, window, x, &err), GIMBAL_EUSAGE, err,
                "progressive");
}

/* What a prior does with a sampler's step noise: VideoFusion's shares it, PYoCo's leave it white. */
static void step_noise_is_shared_by_shared_alone(void **state)
{
    (void)state;
    const DrawReq step = {.why = DRAW_STEP, .step = 3, .shape = shape},
                  fresh = {.why = DRAW_FRESH, .pass = 2, .shape = shape};
    const size_t n = (size_t)shape.c * shape.h * shape.w, all = shape_count(shape);
    float *x = malloc(sizeof(float) * all), *plain = malloc(sizeof(float) * all);
    FOR_EACH_NOISE(plugin)
    {
        Arena keep = {0};
        gimbal_error err = {0};
        WhiteNoise white;
        PriorNoise prior;
        void *self;
        check_ok(white_init(&white, "philox", 4, &err), err);
        check_ok(noise_parse(plugin.name, &prior.noise, &self, &keep, &err), err);
        prior.self = self, prior.white = white_source(&white);
        const Source source = prior_source(&prior);
        for (int k = 0; k < 2; k++) {
            assert_int_equal(source.draw(source.self, k ? &fresh : &step, x), GIMBAL_OK);
            assert_int_equal(prior.white.draw(prior.white.self, k ? &fresh : &step, plain), GIMBAL_OK);
            double product = 0;
            for (size_t i = 0; i < n; i++)
                product += at(x, shape, 2, i) * at(x, shape, 5, i) / n;
            const bool takes_part = k || !strcmp(plugin.name, "shared");
            check_near(product, takes_part ? prior.noise->corr(self, 2, 5) : 0, 4.5 / sqrt(n), "%s, %s",
                       plugin.name, k ? "fresh noise" : "step noise");
            if (!takes_part)
                check(!memcmp(x, plain, sizeof(float) * all), "%s: step noise is not white", plugin.name);
        }
        arena_free(&keep);
    }
    free(x), free(plain);
}

/* ---- requests ---------------------------------------------------------------------------- */

static void draws_of_another_purpose_pass_step_and_lane_are_independent(void **state)
{
    (void)state;
    const size_t n = shape_count(shape);
    const DrawReq reqs[] = {
        {.why = DRAW_INIT, .shape = shape},
        {.why = DRAW_FRESH, .pass = 1, .shape = shape},
        {.why = DRAW_STEP, .shape = shape},
        {.why = DRAW_FRESH, .pass = 2, .shape = shape},
        {.why = DRAW_STEP, .step = 1, .shape = shape},
        {.why = DRAW_STEP, .pass = 1, .shape = shape},
        {.why = DRAW_INIT, .lane = 1, .shape = shape},
    };
    gimbal_error err = {0};
    WhiteNoise white;
    check_ok(white_init(&white, "philox", 3, &err), err);
    Source source = white_source(&white);
    float *x[COUNT(reqs)];
    for (int i = 0; i < COUNT(reqs); i++) {
        x[i] = malloc(sizeof(float) * n);
        assert_int_equal(source.draw(source.self, &reqs[i], x[i]), GIMBAL_OK);
        for (int j = 0; j < i; j++) {
            double product = 0;
            for (size_t k = 0; k < n; k++)
                product += (double)x[i][k] * x[j][k] / n;
            check_near(product, 0.0, 4.5 / sqrt(n), "requests %d and %d", i, j);
        }
    }
    DrawReq beyond = reqs[2];
    beyond.step = 65536;
    assert_int_equal(source.draw(source.self, &beyond, x[0]), GIMBAL_EUSAGE);
    for (int i = 0; i < COUNT(reqs); i++)
        free(x[i]);
}

static void wrong_requests_for_noise_are_refused(void **state)
{
    (void)state;
    gimbal_error err = {0};
    float x[16];
    const gimbal_shape s = {1, 2, 2, 2};
    check_fails(gimbal_noise("whit", "philox", 0, 0, s, x, &err), GIMBAL_EUSAGE, err, "did you mean white");
    check_fails(gimbal_noise("entirely different", "philox", 0, 0, s, x, &err), GIMBAL_EUSAGE, err,
                "known: white");
    check_fails(gimbal_noise("", "philox", 0, 0, s, x, &err), GIMBAL_EUSAGE, err, "known: white");
    check_fails(gimbal_noise(NULL, "philox", 0, 0, s, x, &err), GIMBAL_EUSAGE, err, "known: white");
    check_fails(gimbal_noise("white:alpha=1", "philox", 0, 0, s, x, &err), GIMBAL_EUSAGE, err, "alpha");
    check_fails(gimbal_noise("white", "mt19937", 0, 0, s, x, &err), GIMBAL_EUSAGE, err, "philox or torch");
    check_fails(gimbal_noise("white", NULL, 0, 0, s, x, &err), GIMBAL_EUSAGE, err, "philox or torch");
    check_fails(gimbal_noise("white", "torch", 0, 1, s, x, &err), GIMBAL_EUSAGE, err, "only start at 0");
    check_fails(gimbal_noise("white", "philox", 0, -1, s, x, &err), GIMBAL_EUSAGE, err, "first frame is -1");
    check_fails(gimbal_noise("white", "philox", 0, 4294967295, s, x, &err), GIMBAL_EUSAGE, err, "4294967295");
    check_fails(gimbal_noise("white", "philox", 0, INT64_MAX, s, x, &err), GIMBAL_EUSAGE, err, "first frame");
    check_fails(gimbal_noise("white", "philox", 0, 0, (gimbal_shape){1, 0, 2, 2}, x, &err), GIMBAL_EUSAGE,
                err, ">= 1");
    check_fails(gimbal_noise("white", "philox", 0, 0, (gimbal_shape){1, 1, 65536, 2}, x, &err), GIMBAL_EUSAGE,
                err, "too large");
    check_fails(
        gimbal_noise("white", "philox", 0, 0, (gimbal_shape){INT32_MAX, INT32_MAX, 65535, 65535}, x, &err),
        GIMBAL_EUSAGE, err, "too large");
}

/* ---- all registries ---------------------------------------------------------------------- */

static void every_plug_in_says_what_it_is(void **state)
{
    (void)state;
    gimbal_plugin p, q;
    for (int k = 0; k < COUNT(kinds); k++) {
        int n = 0;
        for (; gimbal_plugin_at(kinds[k], n, &p) == GIMBAL_OK; n++) {
            check(strlen(p.name) > 0 && !p.name[strspn(p.name, "abcdefghijklmnopqrstuvwxyz0123456789_")],
                  "%s %d: name \"%s\"", kinds[k], n, p.name);
            check(p.help && strlen(p.help) >= 10, "%s %s: help", kinds[k], p.name);
            check(p.source && strlen(p.source) >= 3, "%s %s: source", kinds[k], p.name);
            for (int j = 0; j < n && gimbal_plugin_at(kinds[k], j, &q) == GIMBAL_OK; j++)
                check(strcmp(p.name, q.name), "%s %s: two of that name", kinds[k], p.name);
            for (const gimbal_option *o = p.options; o && o->name; o++)
                check(o->help && strlen(o->help) >= 10, "%s %s: help of %s", kinds[k], p.name, o->name);
        }
        check(n > 0, "registry %s is empty", kinds[k]);
    }
    assert_int_equal(gimbal_plugin_at("noise", -1, &p), GIMBAL_EUSAGE);
    assert_int_equal(gimbal_plugin_at("nois", 0, &p), GIMBAL_EUSAGE);
    assert_int_equal(gimbal_plugin_at(NULL, 0, &p), GIMBAL_EUSAGE);
}

/* Parses a spec of any registry; size: of the private struct. */
static int parse(const char *kind, const char *spec, void **self, size_t *size, Arena *keep,
                 gimbal_error *err)
{
    const Noise *noise;
    const Reinit *reinit;
    const Sampler *sampler;
    int code;
    if (!strcmp(kind, "noise")) {
        code = noise_parse(spec, &noise, self, keep, err);
        *size = code ? 0 : noise->size;
    } else if (!strcmp(kind, "reinit")) {
        code = reinit_parse(spec, &reinit, self, keep, err);
        *size = code ? 0 : reinit->size;
    } else {
        code = sampler_parse(spec, &sampler, self, keep, err);
        *size = code ? 0 : sampler->size;
    }
    return code;
}

static void options_read_back_what_they_print(void **state)
{
    (void)state;
    gimbal_plugin p;
    for (int k = 0; k < 3; k++)
        for (int i = 0; gimbal_plugin_at(kinds[k], i, &p) == GIMBAL_OK; i++) {
            Arena keep = {0};
            gimbal_error err = {0};
            void *first, *second;
            size_t size;
            check_ok(parse(kinds[k], p.name, &first, &size, &keep, &err), err);
            char spec[400];
            int n = snprintf(spec, sizeof spec, "%s", p.name);
            for (const gimbal_option *o = p.options; o && o->name; o++) {
                /* off the default: the largest number, the last choice */
                char *at_field = (char *)first + o->offset;
                if (o->type == GIMBAL_INT)
                    *(int *)at_field = (int)o->max;
                else if (o->type == GIMBAL_BOOL)
                    *(int *)at_field = !o->def;
                else if (o->type == GIMBAL_REAL)
                    *(double *)at_field = o->max - (o->max - o->min) / 3;
                else if (o->type == GIMBAL_CHOICE)
                    for (int c = 0; o->choices[c]; c++)
                        *(const char **)at_field = o->choices[c];
                n +=
                    snprintf(spec + n, sizeof spec - (size_t)n, "%c%s=", o == p.options ? ':' : ',', o->name);
                option_print(o, first, spec + n, sizeof spec - (size_t)n);
                n += (int)strlen(spec + n);
            }
            check_ok(parse(kinds[k], spec, &second, &size, &keep, &err), err);
            check(!memcmp(first, second, size), "%s", spec);
            arena_free(&keep);
        }
}

TESTS(every_prior_keeps_each_frame_standard_normal, every_prior_correlates_frames_as_it_says,
      a_longer_clip_begins_with_the_shorter_one_and_a_later_start_is_a_window,
      the_same_seed_draws_the_same_bytes_and_another_seed_others, white_torch_noise_is_what_pytorch_draws,
      correlations_follow_the_closed_forms, priors_read_pytorchs_generator_in_the_order_of_the_reference,
      windows_agree_with_the_clip_under_every_option, step_noise_is_shared_by_shared_alone,
      draws_of_another_purpose_pass_step_and_lane_are_independent, wrong_requests_for_noise_are_refused,
      every_plug_in_says_what_it_is, options_read_back_what_they_print)
