/* t_encode.c: from pictures to latents and from there to a clip, through the public API.
 *
 * tests/golden/encode holds two runs of diffusers' AnimateDiffVideoToVideoPipeline on the small golden model.
 * "plain": 5 frames of 72x40, 3 of 5 steps, guidance. "drawn": 18 frames of 24x16, more than its encoder
 * takes at a time, 2 of 5 steps, eta 1, so that every draw of the one generator counts.
 *
 * Measured relative rms: encoder 8e-7 at most, results 2e-6. */
#include "diffusion/diffusion.h"
#include "tests/models.h"

#define RUN(name) "tests/golden/encode/" name ".run.safetensors"

/* ---- goldens and settings ---------------------------------------------------------------- */

typedef struct {
    const char *path, *prompt;
    uint64_t seed;
    int frames, width, height, steps;
    double strength, eta, cfg;
} Case;
static const Case cases[] = {{RUN("plain"), "a red ball rolls", 42, 5, 72, 40, 5, 0.6, 0, 7.5},
                             {RUN("drawn"), "a red ball rolls", 7, 18, 24, 16, 5, 0.5, 1, 1}};

static uint8_t *pictures_of(const Case *c)
{
    SafeTensors *file;
    check_ok(st_open(&file, c->path, &err), err);
    const StEntry *e = st_find(file, "rgb");
    const size_t n = (size_t)c->frames * c->width * c->height * 3;
    check(e && e->bytes == n, "%s: rgb", c->path);
    uint8_t *rgb = malloc(n);
    memcpy(rgb, e->data, n);
    st_close(file);
    return rgb;
}

static gimbal_settings settings_of(const gimbal_engine *e, const Case *c)
{
    gimbal_settings s;
    gimbal_defaults(&s, e);
    s.prompt = c->prompt, s.negative = "blur", s.seed = c->seed, s.rng = "torch";
    s.frames = c->frames, s.width = c->width, s.height = c->height;
    s.steps = c->steps, s.strength = c->strength, s.eta = c->eta, s.cfg = c->cfg;
    s.threads = 2;
    return s;
}

static gimbal_session *begun(gimbal_engine *e, const gimbal_settings *s)
{
    gimbal_session *run;
    check_ok(gimbal_begin(&run, e, s, &err), err);
    return run;
}

static size_t count_of(const gimbal_session *run)
{
    return shape_count(gimbal_latent_shape(run));
}

/* ---- parity with diffusers --------------------------------------------------------------- */

static void mean_and_sample_are_diffusers_in_its_order_of_draws(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    for (int i = 0; i < COUNT(cases); i++) {
        const Case *c = &cases[i];
        const gimbal_settings s = settings_of(e, c);
        gimbal_session *run = begun(e, &s);
        uint8_t *rgb = pictures_of(c);
        for (int sample = 0; sample < 2; sample++) {
            size_t n;
            float *want = golden(c->path, sample ? "sample" : "mean", &n), *got = malloc(n * sizeof *got);
            assert_int_equal(n, count_of(run));
            check_ok(gimbal_encode(run, rgb, c->width, c->height, c->frames, sample, got, &err), err);
            check_near(rel_rms(got, want, n), 0, 1e-5, "%s, %s", c->path, sample ? "sample" : "mean");
            free(want), free(got);
        }
        free(rgb), gimbal_end(run);
    }
    gimbal_close(e);
}

static void a_run_from_given_latents_and_noise_ends_where_diffusers_ends(void **state)
{
    (void)state;
    const Case *c = &cases[0];
    gimbal_engine *e = opened(TINY, MOTION);
    size_t n;
    float *clip = golden(c->path, "sample", &n), *noise = golden(c->path, "noise", &n),
          *want = golden(c->path, "result", &n), *got = malloc(n * sizeof *got);
    gimbal_settings s = settings_of(e, c);
    s.clip = clip, s.latents = noise, s.rng = "philox";
    gimbal_session *run = begun(e, &s);
    check_ok(gimbal_sample(run, got, &err), err);
    check_near(rel_rms(got, want, n), 0, 5e-5, "result");
    gimbal_end(run), gimbal_close(e);
    free(clip), free(noise), free(want), free(got);
}

/* Encoder's noise, initial noise, step noise: one sequence. Encoded in the session that samples, and in
 * another one whose seed is the same. */
static void from_pictures_and_a_seed_to_diffusers_result(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    for (int i = 0; i < 2 * COUNT(cases); i++) {
        const Case *c = &cases[i / 2];
        const bool apart = i % 2;
        size_t n;
        float *want = golden(c->path, "result", &n), *got = malloc(n * sizeof *got),
              *clip = calloc(n, sizeof *clip);
        uint8_t *rgb = pictures_of(c);
        gimbal_settings s = settings_of(e, c);
        gimbal_session *other = apart ? begun(e, &s) : NULL;
        s.clip = clip;
        gimbal_session *run = begun(e, &s);
        check_ok(gimbal_encode(apart ? other : run, rgb, c->width, c->height, c->frames, 1, clip, &err), err);
        check_ok(gimbal_sample(run, got, &err), err);
        check_near(rel_rms(got, want, n), 0, 5e-5, "%s, encoded %s", c->path, apart ? "apart" : "here");
        gimbal_end(run), gimbal_end(other);
        free(want), free(got), free(clip), free(rgb);
    }
    gimbal_close(e);
}

/* ---- what holds for every run ------------------------------------------------------------ */

static void the_same_bytes_on_any_number_of_threads_and_in_every_session(void **state)
{
    (void)state;
    const Case *c = &cases[0];
    gimbal_engine *e = opened(TINY, MOTION);
    uint8_t *rgb = pictures_of(c);
    float *z[3];
    for (int k = 0; k < 3; k++) {
        gimbal_settings s = settings_of(e, c);
        s.rng = "philox", s.threads = 1 + k % 2;
        gimbal_session *run = begun(e, &s);
        z[k] = malloc(count_of(run) * sizeof *z[k]);
        check_ok(gimbal_encode(run, rgb, c->width, c->height, c->frames, 1, z[k], &err), err);
        check(!memcmp(z[0], z[k], count_of(run) * sizeof *z[k]), "threads: %d", s.threads);
        gimbal_end(run);
    }
    free(z[0]), free(z[1]), free(z[2]), free(rgb);
    gimbal_close(e);
}

/* Noise is a function of the absolute frame, also beyond a draw of 16; seeds differ. */
static void a_longer_clip_begins_as_the_shorter_one_with_philox(void **state)
{
    (void)state;
    const Case *c = &cases[1];
    enum { SHORT = 3 };
    gimbal_engine *e = opened(TINY, MOTION);
    uint8_t *rgb = pictures_of(c);
    gimbal_settings s = settings_of(e, c);
    s.rng = "philox";
    gimbal_session *run = begun(e, &s);
    const gimbal_shape shape = gimbal_latent_shape(run);
    const size_t plane = (size_t)shape.h * shape.w;
    float *whole = malloc(count_of(run) * sizeof *whole),
          *start = malloc(shape.c * SHORT * plane * sizeof *start),
          *other = malloc(count_of(run) * sizeof *other);
    check_ok(gimbal_encode(run, rgb, c->width, c->height, c->frames, 1, whole, &err), err);
    check_ok(gimbal_encode(run, rgb, c->width, c->height, SHORT, 1, start, &err), err);
    gimbal_end(run);
    for (int k = 0; k < shape.c; k++)
        check_near(rel_rms(start + k * SHORT * plane, whole + (size_t)k * shape.f * plane, SHORT * plane), 0,
                   1e-5, "channel %d", k);
    s.seed++;
    run = begun(e, &s);
    check_ok(gimbal_encode(run, rgb, c->width, c->height, c->frames, 1, other, &err), err);
    check(rel_rms(whole, other, count_of(run)) > 0.1, "another seed is another sample");
    gimbal_end(run), gimbal_close(e);
    free(whole), free(start), free(other), free(rgb);
}

typedef struct {
    int calls, stop_at, last, steps;
    bool other; /* a stage that is not expected */
} Watch;

static int watch(void *user, const gimbal_progress *p)
{
    Watch *w = user;
    w->other |= strcmp(p->stage, "encode") || p->pass || p->step <= w->last;
    w->last = p->step, w->steps = p->steps;
    return ++w->calls == w->stop_at;
}

static void encoding_reports_its_frames_and_can_be_cancelled(void **state)
{
    (void)state;
    const Case *c = &cases[0];
    gimbal_engine *e = opened(TINY, MOTION);
    uint8_t *rgb = pictures_of(c);
    Watch w = {0};
    gimbal_settings s = settings_of(e, c);
    s.progress = watch, s.user = &w;
    gimbal_session *run = begun(e, &s);
    float *z = malloc(count_of(run) * sizeof *z), *again = malloc(count_of(run) * sizeof *again);
    check_ok(gimbal_encode(run, rgb, c->width, c->height, c->frames, 1, z, &err), err);
    check(!w.other && w.calls >= 1 && w.last == c->frames && w.steps == c->frames, "reports: %d to %d",
          w.calls, w.last);
    w = (Watch){.stop_at = 1};
    check_fails(gimbal_encode(run, rgb, c->width, c->height, c->frames, 1, again, &err), GIMBAL_ECANCEL, err,
                "encode");
    gimbal_cancel(run);
    check_fails(gimbal_encode(run, rgb, c->width, c->height, c->frames, 1, again, &err), GIMBAL_ECANCEL, err,
                "");
    w = (Watch){0};
    check_ok(gimbal_encode(run, rgb, c->width, c->height, c->frames, 1, again, &err), err);
    check(!memcmp(z, again, count_of(run) * sizeof *z), "a later call is whole");
    gimbal_end(run), gimbal_close(e);
    free(z), free(again), free(rgb);
}

/* From the encoder's own output back to pictures: toyworld's VAE knows discs on checkerboards
 * (PyTorch: 26 dB on such a picture). */
static int keep_frame(void *user, int i, const uint8_t *rgb, int width, int height)
{
    memcpy((uint8_t *)user + (size_t)i * width * height * 3, rgb, (size_t)width * height * 3);
    return 0;
}

static void toyworld_gives_back_the_picture_that_it_encoded(void **state)
{
    (void)state;
    enum { W = 72, H = 48, F = 2, N = F * H * W * 3 };
    static uint8_t rgb[N], back[N];
    gimbal_engine *e = opened(TOYWORLD, NULL);
    for (int i = 0; i < F * H * W; i++) {
        const int x = i % W, y = i / W % H, f = i / W / H;
        const bool light = (x / 16 + y / 16) % 2, disc = hypot(x - 30 - 8 * f, y - 22) < 14;
        const uint8_t grey = light ? 70 : 20,
                      colour[3] = {disc ? 220 : grey, disc ? 40 : grey, disc ? 40 : grey};
        memcpy(rgb + 3 * i, colour, 3);
    }
    gimbal_settings s;
    gimbal_defaults(&s, e);
    s.prompt = "a large red circle moving right over a checkered black background";
    s.width = W, s.height = H, s.frames = F;
    gimbal_session *run = begun(e, &s);
    float *z = malloc(count_of(run) * sizeof *z);
    check_ok(gimbal_encode(run, rgb, W, H, F, 0, z, &err), err);
    check_ok(gimbal_decode(run, z, gimbal_latent_shape(run), keep_frame, back, &err), err);
    double square = 0;
    for (int i = 0; i < N; i++)
        square += (rgb[i] - back[i]) * (double)(rgb[i] - back[i]);
    const double psnr = 10 * log10(255.0 * 255.0 * N / square);
    check(psnr > 23, "PSNR of encode and decode: %.1f dB", psnr);
    free(z), gimbal_end(run), gimbal_close(e);
}

/* The last step alone changes nearly nothing, all steps leave nearly nothing. */
static void the_less_strength_the_nearer_the_clip(void **state)
{
    (void)state;
    const Case *c = &cases[0];
    gimbal_engine *e = opened(TINY, MOTION);
    const size_t n = 4 * 5 * 5 * 9;
    float *clip = malloc(n * sizeof *clip), *z = malloc(n * sizeof *z);
    double far = 0;
    for (size_t i = 0; i < n; i++)
        clip[i] = sinf((float)i);
    for (int k = 1; k <= 5; k++) {
        gimbal_settings s = settings_of(e, c);
        s.clip = clip, s.strength = k / 5.0;
        gimbal_session *run = begun(e, &s);
        check_ok(gimbal_sample(run, z, &err), err);
        const double now = rel_rms(z, clip, n);
        check(now > far, "strength %g: %.3f from the clip, less than %.3f", s.strength, now, far);
        check(k > 1 || now < 0.1, "strength %g: %.3f", s.strength, now);
        far = now;
        gimbal_end(run);
    }
    check(far > 1, "strength 1: %.3f", far);
    free(clip), free(z), gimbal_close(e);
}

/* ---- refusals ---------------------------------------------------------------------------- */

static void pictures_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    const gimbal_settings s = settings_of(e, &cases[0]);
    gimbal_session *run = begun(e, &s);
    static const uint8_t rgb[3 * 24 * 24];
    static float z[4 * 9];
    static const int wrong[][3] = {{23, 24, 1}, {24, 20, 1},  {0, 24, 1},           {24, -8, 1},
                                   {24, 24, 0}, {24, 24, -1}, {1 << 20, 1 << 20, 1}};
    for (int i = 0; i < COUNT(wrong); i++)
        check_fails(gimbal_encode(run, rgb, wrong[i][0], wrong[i][1], wrong[i][2], 0, z, &err), GIMBAL_EUSAGE,
                    err, "multiples of 8");
    check_ok(gimbal_encode(run, rgb, 24, 24, 1, 0, z, &err), err);
    gimbal_end(run), gimbal_close(e);
}

static void a_strength_that_leaves_nothing_to_do_is_refused_at_once(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    gimbal_settings s = settings_of(e, &cases[0]);
    gimbal_session *run;
    gimbal_cost cost;
    const float some = 0;
    s.clip = &some;
    static const struct {
        double strength;
        const char *says;
    } wrong[] = {{0, "strength is 0"},
                 {0.19, "less than one step"},
                 {1.01, "strength"},
                 {-0.5, "strength"},
                 {NAN, "strength"}};
    for (int i = 0; i < COUNT(wrong); i++) {
        s.strength = wrong[i].strength;
        check_fails(gimbal_begin(&run, e, &s, &err), GIMBAL_EUSAGE, err, wrong[i].says);
        check_fails(gimbal_predict(e, &s, &cost, &err), GIMBAL_EUSAGE, err, wrong[i].says);
    }
    s.clip = NULL, s.strength = 0; /* no clip: it says nothing */
    run = begun(e, &s);
    gimbal_end(run), gimbal_close(e);
}

/* The clip is read when sampling begins, not before. */
static void a_clip_that_is_not_finite_is_refused_by_sampling(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    gimbal_settings s = settings_of(e, &cases[1]);
    const size_t n = 4 * 18 * 2 * 3;
    float *clip = calloc(n, sizeof *clip), *z = malloc(n * sizeof *z);
    clip[n - 1] = NAN, s.clip = clip;
    gimbal_session *run = begun(e, &s);
    check_fails(gimbal_sample(run, z, &err), GIMBAL_EUSAGE, err, "clip");
    clip[n - 1] = 0;
    check_ok(gimbal_sample(run, z, &err), err);
    gimbal_end(run), gimbal_close(e);
    free(clip), free(z);
}

/* ---- cost, recipe ------------------------------------------------------------------------ */

static void the_cost_counts_fewer_steps_and_the_encoder(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    gimbal_settings s = settings_of(e, &cases[0]);
    gimbal_cost plain, some, twice;
    const float clip = 0;
    check_ok(gimbal_predict(e, &s, &plain, &err), err);
    s.clip = &clip;
    check_ok(gimbal_predict(e, &s, &some, &err), err);
    s.reinit = "freeinit:passes=2";
    check_ok(gimbal_predict(e, &s, &twice, &err), err);
    check(plain.calls == 5 && some.calls == 3 && twice.calls == 6, "%d, %d, %d calls", plain.calls,
          some.calls, twice.calls);
    check_near(some.relative, 0.6, 1e-9, "relative");
    check(some.host_bytes > plain.host_bytes, "host arrays: %llu", (unsigned long long)some.host_bytes);
    s.reinit = "none", s.strength = 1;
    check_ok(gimbal_predict(e, &s, &some, &err), err);
    check(some.calls == 5 && some.flops > plain.flops, "the encoder's operations count");
    gimbal_close(e);
}

static void a_recipe_names_the_clip_and_keeps_the_strength(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    gimbal_settings s = settings_of(e, &cases[0]), back;
    gimbal_recipe *recipe;
    const float clip = 0;
    s.clip = &clip, s.strength = 0.35;
    char *json = gimbal_recipe_json(e, &s);
    check(strstr(json, "\"given\":[\"clip\"]") != NULL, "%s", json);
    check_ok(gimbal_recipe_parse(&recipe, json, &err), err);
    gimbal_defaults(&back, e);
    check_near(back.strength, 0.8, 0, "default");
    check_ok(gimbal_recipe_apply(recipe, &back, &err), err);
    check_near(back.strength, 0.35, 0, "strength");
    gimbal_recipe_free(recipe), free(json);
    gimbal_close(e);
}

/* ---- with FreeInit ----------------------------------------------------------------------- */

/* What an analytic network is asked: timestep and input of the first call of each pass; results of passes. */
typedef struct {
    int pass, calls;
    double t[4], last_t;
    float x[4][2 * 3 * 5 * 7], result[4][2 * 3 * 5 * 7];
} Seen;

static int toy(void *self, const float *x, gimbal_shape s, double t, double cfg, float *raw, gimbal_error *e)
{
    (void)cfg, (void)e;
    Seen *seen = self;
    const size_t n = shape_count(s);
    if (!seen->calls || t > seen->last_t) {
        seen->t[seen->pass] = t;
        memcpy(seen->x[seen->pass++], x, n * sizeof *x);
    }
    seen->calls++, seen->last_t = t;
    for (size_t i = 0; i < n; i++)
        raw[i] = 0.7f * x[i] + 0.1f;
    return GIMBAL_OK;
}

static int keep_pass(void *user, const gimbal_progress *p)
{
    Seen *seen = user;
    if (!strcmp(p->stage, "pass"))
        memcpy(seen->result[p->pass - 1], p->latents, sizeof seen->result[0]);
    return 0;
}

/* A mask that keeps everything makes a later pass start at a(t) x0 + s(t) eps0: t must be the timestep that
 * every pass samples first, for diffusers' T-1 puts noise of full strength where the network expects less. */
static void freeinit_renoises_a_clip_to_the_first_timestep_that_is_sampled(void **state)
{
    (void)state;
    const gimbal_shape shape = {2, 3, 5, 7};
    const size_t n = shape_count(shape);
    float clip[2 * 3 * 5 * 7], eps[2 * 3 * 5 * 7], out[2 * 3 * 5 * 7];
    const char *note;
    Arena keep = {0};
    Schedule schedule;
    Seen seen = {0};
    json_t *json = json_loads("{\"_class_name\":\"DDIMScheduler\",\"beta_start\":0.00085,\"beta_end\":0.012,"
                              "\"steps_offset\":1,\"clip_sample\":false}",
                              0, NULL);
    check_ok(schedule_read(&schedule, json, "x.json", NULL, NULL, false, &keep, &note, &err), err);
    json_decref(json);
    philox_normal(5, 0, 0, shape, eps);
    for (size_t i = 0; i < n; i++)
        clip[i] = sinf((float)i);
    Driver d = {.schedule = &schedule,
                .given = eps,
                .clip = clip,
                .strength = 0.45,
                .steps = 7,
                .shape = shape,
                .net = {toy, &seen},
                .cfg = 1,
                .progress = keep_pass,
                .user = &seen};
    WhiteNoise white;
    check_ok(white_init(&white, "philox", 3, &err), err);
    d.noise = white_source(&white);
    check_ok(sampler_parse("ddim", &d.sampler, &d.sampler_self, &keep, &err), err);
    check_ok(reinit_parse("freeinit:passes=3,filter=box,ds=2,dt=2", &d.reinit, &d.reinit_self, &keep, &err),
             err);
    check_ok(driver_run(&d, out, &err), err);
    check(seen.pass == 3 && seen.calls == 9, "%d passes, %d calls", seen.pass, seen.calls);
    for (int k = 0; k < 3; k++) {
        const double t = seen.t[k], a = schedule_a(&schedule, t), s = schedule_s(&schedule, t);
        const float *x0 = k ? seen.result[k - 1] : clip;
        check_near(t, 285, 0, "first timestep of pass %d", k + 1);
        for (size_t i = 0; i < n; i++)
            check_near(seen.x[k][i], a * x0[i] + s * eps[i], 1e-5, "pass %d, value %zu", k + 1, i);
    }
    driver_end(&d), arena_free(&keep);
}

static void freeinit_as_diffusers_refuses_a_clip(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    gimbal_settings s = settings_of(e, &cases[0]);
    gimbal_session *run;
    const float some = 0;
    s.clip = &some, s.reinit = "freeinit:passes=2,compat=1";
    check_fails(gimbal_begin(&run, e, &s, &err), GIMBAL_EUSAGE, err, "unsound");
    gimbal_close(e);
}

TESTS(mean_and_sample_are_diffusers_in_its_order_of_draws,
      a_run_from_given_latents_and_noise_ends_where_diffusers_ends,
      from_pictures_and_a_seed_to_diffusers_result,
      the_same_bytes_on_any_number_of_threads_and_in_every_session,
      a_longer_clip_begins_as_the_shorter_one_with_philox, encoding_reports_its_frames_and_can_be_cancelled,
      toyworld_gives_back_the_picture_that_it_encoded, the_less_strength_the_nearer_the_clip,
      pictures_that_do_not_fit_are_refused, a_strength_that_leaves_nothing_to_do_is_refused_at_once,
      a_clip_that_is_not_finite_is_refused_by_sampling, the_cost_counts_fewer_steps_and_the_encoder,
      a_recipe_names_the_clip_and_keeps_the_strength,
      freeinit_renoises_a_clip_to_the_first_timestep_that_is_sampled, freeinit_as_diffusers_refuses_a_clip)
