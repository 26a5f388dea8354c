/* t_frameinit.c: FrameInit and what goes with it against the authors' code (tests/golden/consisti2v-tiny):
 * masks of every kind at even and odd sizes, mixes, both noise priors from raw draws, the schedule; then what
 * the goldens cannot show: the corrected filter, other priors beneath it, models that sample every frame,
 * refusals. */
#include "diffusion/diffusion.h"
#include "tests/models.h"

#define GOLD "tests/golden/consisti2v-tiny/"

typedef struct {
    Arena keep;
    Schedule schedule;
    const Reinit *reinit;
    void *self;
} Rig;

static void rig_open(Rig *rig, const char *spec)
{
    const char *note, *where = GOLD "model/scheduler/scheduler_config.json";
    json_t *json;
    *rig = (Rig){0};
    check_ok(json_read(&json, where, &err), err);
    check_ok(schedule_read(&rig->schedule, json, where, NULL, NULL, false, &rig->keep, &note, &err), err);
    check_ok(reinit_parse(spec, &rig->reinit, &rig->self, &rig->keep, &err), err);
    json_decref(json);
}

/* eps [n] after FrameInit of `spec`. */
static void init(const char *spec, gimbal_shape s, const float *image, const float *reference, float *eps)
{
    Rig rig;
    rig_open(&rig, spec);
    const ReinitIn in = {
        .schedule = &rig.schedule, .shape = s, .image = image, .reference = reference, .x_t = -1};
    check_ok(rig.reinit->first(rig.self, &in, eps, &err), err);
    arena_free(&rig.keep);
}

/* Largest distance. */
static double distance(const float *a, const float *b, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++)
        worst = fmax(worst, fabs((double)a[i] - b[i]));
    return worst;
}

/* ---- as published ------------------------------------------------------------------------ */

static const struct {
    const char *file, *spec;
    gimbal_shape s;
    double mask_tol, mixed_tol;
} files[] = {
    {"gaussian-8x6x10", "frameinit", {4, 8, 6, 10}, 4.77e-7, 4.67e-6},
    {"gaussian-5x7x6", "frameinit:ds=0.5", {4, 5, 7, 6}, 3.32e-7, 4.22e-6},
    {"butterworth-6x5x8", "frameinit:filter=butterworth,ds=0.3,dt=0.4", {4, 6, 5, 8}, 4.59e-7, 4.74e-6},
    {"ideal-8x6x5", "frameinit:filter=ideal,ds=0.4,dt=0.3,level=850", {4, 8, 6, 5}, 4.77e-7, 4.54e-6},
    {"box-8x7x8", "frameinit:filter=box,ds=0.5,dt=0.4,order=4,compat=1", {4, 8, 7, 8}, 4.77e-7, 3.74e-6},
};

static void masks_and_mixes_are_the_authors(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT(files); i++) {
        char path[128];
        size_t n, frame, plane;
        const gimbal_shape s = files[i].s;
        snprintf(path, sizeof path, GOLD "frameinit-%s.safetensors", files[i].file);
        float *mask = golden(path, "mask", &plane), *mine = malloc(plane * sizeof *mine);
        check_ok(gimbal_mask(files[i].spec, s, mine, &err), err);
        for (int t = 0, k = 0; t < s.f; t++) /* the file has frequency 0 in the middle */
            for (int y = 0; y < s.h; y++)
                for (int x = 0; x < s.w; x++, k++)
                    check_near(
                        mine[k],
                        mask[((t + s.f / 2) % s.f * s.h + (y + s.h / 2) % s.h) * s.w + (x + s.w / 2) % s.w],
                        files[i].mask_tol, "%s: mask at %d,%d,%d", files[i].file, t, y, x);
        float *eps = golden(path, "noise", &n), *first = golden(path, "first", &frame),
              *mixed = golden(path, "mixed", &n);
        assert_int_equal(n, shape_count(s));
        assert_int_equal(frame * (size_t)s.f, n);
        init(files[i].spec, s, first, NULL, eps);
        check_near(distance(eps, mixed, n), 0, files[i].mixed_tol, "%s: mix", files[i].file);
        free(mask), free(mine), free(eps), free(first), free(mixed);
    }
}

/* Draws from a file, in its order. */
typedef struct {
    const char *file, *kind;
    int calls;
} Drawn;

static int draw(void *self, const DrawReq *req, float *out)
{
    size_t n;
    char name[32];
    Drawn *d = self;
    snprintf(name, sizeof name, "%s.draw%d", d->kind, d->calls++);
    float *x = golden(d->file, name, &n);
    assert_int_equal(n, shape_count(req->shape));
    memcpy(out, x, n * sizeof *x);
    free(x);
    return GIMBAL_OK;
}

static void priors_are_the_authors_from_the_same_draws(void **state)
{
    (void)state;
    static const char *const alphas[] = {"1", "1.5"}, *const kinds[] = {"mixed", "progressive"};
    for (int i = 0; i < 4; i++) {
        char path[128], spec[40];
        size_t n;
        const Noise *noise;
        void *self;
        Arena keep = {0};
        snprintf(path, sizeof path, GOLD "noise-alpha%s.safetensors", alphas[i / 2]);
        snprintf(spec, sizeof spec, "%s:alpha=%s", kinds[i % 2], alphas[i / 2]);
        check_ok(noise_parse(spec, &noise, &self, &keep, &err), err);
        float *want = golden(path, kinds[i % 2], &n), *have = malloc(n * sizeof *have);
        Drawn drawn = {path, kinds[i % 2], 0};
        const DrawReq req = {.why = DRAW_INIT, .shape = {4, 8, 3, 5}};
        check_ok(noise->draw(self, (Source){draw, &drawn}, &req, have), err);
        assert_int_equal(drawn.calls, 2);
        check_near(distance(have, want, n), 0, 1.2e-6, "%s", spec);
        free(want), free(have);
        arena_free(&keep);
    }
}

static void the_schedule_is_linear_and_ends_at_one(void **state)
{
    (void)state;
    static const int steps[] = {3, 7, 50};
    const char *file = GOLD "schedule.safetensors";
    size_t n;
    Rig rig;
    SafeTensors *st;
    rig_open(&rig, "none");
    check_ok(st_open(&st, file, &err), err);
    float *abar = golden(file, "alphas_cumprod", &n);
    assert_int_equal(n, rig.schedule.T);
    for (size_t i = 0; i < n; i++)
        check_near(rig.schedule.alpha_bar[i], abar[i], 1.2e-6, "abar[%zu]", i);
    check_near(rig.schedule.alpha_bar[850], 0.00842408, 1e-7, "abar[850]");
    check_near(rig.schedule.final_alpha, 1, 0, "final");
    for (int i = 0; i < COUNT(steps); i++) {
        Grid grid;
        char name[24];
        snprintf(name, sizeof name, "timesteps%d", steps[i]);
        const StEntry *t = st_find(st, name); /* I64 */
        check_ok(grid_make(&grid, &rig.schedule, steps[i], &rig.keep, &err), err);
        check(t && t->bytes == sizeof(int64_t) * (size_t)grid.n, "%s", name);
        for (int k = 0; k < grid.n; k++) {
            int64_t want;
            memcpy(&want, (const char *)t->data + (size_t)k * sizeof want, sizeof want);
            check_near(grid.t[k], (double)want, 0, "%s[%d]", name, k);
        }
    }
    free(abar);
    st_close(st);
    arena_free(&rig.keep);
}

/* ---- beyond the goldens ------------------------------------------------------------------ */

/* A picture of one colour: all of it is at frequency 0, where the corrected mask is 1 at every size. */
static void corrected_the_lowest_band_is_whole_at_odd_sizes(void **state)
{
    (void)state;
    const gimbal_shape s = {2, 5, 7, 9};
    enum { N = 2 * 5 * 7 * 9, FRAME = 2 * 7 * 9 };
    float flat[FRAME], eps[2][N], noise[N];
    for (int i = 0; i < FRAME; i++)
        flat[i] = i < FRAME / 2 ? 3 : -2;
    philox_normal(5, 0, 0, s, noise);
    for (int compat = 0; compat < 2; compat++) {
        memcpy(eps[compat], noise, sizeof noise);
        init(compat ? "frameinit:level=500" : "frameinit:level=500,compat=0", s, flat, NULL, eps[compat]);
    }
    Rig rig;
    rig_open(&rig, "none");
    const double a = schedule_a(&rig.schedule, 500), sigma = schedule_s(&rig.schedule, 500);
    for (int c = 0; c < 2; c++) {
        double before = 0, mean[2] = {0};
        for (int i = 0; i < N / 2; i++) {
            before += noise[c * N / 2 + i] / (N / 2);
            for (int k = 0; k < 2; k++)
                mean[k] += eps[k][c * N / 2 + i] / (N / 2);
        }
        check_near(mean[0], a * (c ? -2 : 3) + sigma * before, 1e-5, "corrected: mean of channel %d", c);
        check(fabs(mean[1] - (a * (c ? -2 : 3) + sigma * before)) > 0.05, "published: %g", mean[1]);
    }
    arena_free(&rig.keep);
}

/* Unit variance is what samplers expect; a picture of unit variance keeps it, whatever prior lies beneath. */
static void variance_is_kept_over_every_prior(void **state)
{
    (void)state;
    static const char *const priors[] = {"white", "mixed:alpha=1", "progressive:alpha=1"};
    const gimbal_shape s = {4, 16, 16, 16}, one = {4, 1, 16, 16};
    const size_t n = shape_count(s);
    float *eps = malloc(n * sizeof *eps), image[4 * 256];
    philox_normal(9, 0, 0, one, image);
    for (int i = 0; i < COUNT(priors); i++) {
        double sum = 0, was = 0;
        check_ok(gimbal_noise(priors[i], "philox", 3, 0, s, eps, &err), err);
        for (size_t k = 0; k < n; k++)
            was += eps[k] * (double)eps[k] / (double)n;
        init("frameinit:compat=0,ds=0.5,dt=0.5", s, image, NULL, eps);
        for (size_t k = 0; k < n; k++)
            sum += eps[k] * (double)eps[k] / (double)n;
        check_near(sum, was, 0.02, "%s: mean square", priors[i]);
    }
    free(eps);
}

static void a_reference_of_still_frames_is_the_picture(void **state)
{
    (void)state;
    const gimbal_shape s = {2, 4, 5, 6}, one = {2, 1, 5, 6};
    enum { N = 2 * 4 * 5 * 6, FRAME = 60, PLANE = 30 };
    float image[FRAME], reference[N], a[N], b[N], c[N];
    philox_normal(1, 0, 0, one, image);
    philox_normal(1, 1, 0, s, a);
    memcpy(b, a, sizeof a), memcpy(c, a, sizeof a);
    for (int i = 0; i < N; i++)
        reference[i] = image[i / (4 * PLANE) * PLANE + i % PLANE];
    init("frameinit", s, image, NULL, a);
    init("frameinit", s, NULL, reference, b);
    assert_memory_equal(a, b, sizeof a);
    for (int i = 0; i < N; i++)
        reference[i] *= i / PLANE % 4 ? -1 : 1; /* one that moves */
    init("frameinit", s, image, reference, c);
    check(rel_rms(c, a, N) > 1e-3, "the reference comes before the picture");
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    static const char *const specs[][2] = {{"frameinit:level=-1", "0 to"},
                                           {"frameinit:level=nan", "level"},
                                           {"frameinit:ds=3", "0 to 2"},
                                           {"frameinit:filter=gauss", "gaussian"},
                                           {"frameinit:passes=2", "passes"}};
    for (int i = 0; i < COUNT(specs); i++) {
        Arena keep = {0};
        const Reinit *reinit;
        void *self;
        check_fails(reinit_parse(specs[i][0], &reinit, &self, &keep, &err), GIMBAL_EUSAGE, err, specs[i][1]);
        arena_free(&keep);
    }
    gimbal_engine *e = opened(TINY, MOTION);
    gimbal_session *run;
    gimbal_settings s;
    float image[4 * 3 * 5] = {0};
    gimbal_defaults(&s, e);
    s.frames = 3, s.width = 40, s.height = 24, s.steps = 2, s.prompt = "a cat";
    s.image = image;
    check_fails(gimbal_begin(&run, e, &s, &err), GIMBAL_EUSAGE, err, "--reinit frameinit");
    s.image = NULL, s.reference = image, s.reinit = "freeinit:passes=2";
    check_fails(gimbal_begin(&run, e, &s, &err), GIMBAL_EUSAGE, err, "a reference is given");
    s.reference = NULL, s.reinit = "frameinit";
    check_fails(gimbal_begin(&run, e, &s, &err), GIMBAL_EUSAGE, err, "--image");
    s.image = image, s.reinit = "frameinit:level=1000";
    check_fails(gimbal_begin(&run, e, &s, &err), GIMBAL_EUSAGE, err, "0 to 999");
    s.reinit = "frameinit", s.chunks = 2;
    check_fails(gimbal_begin(&run, e, &s, &err), GIMBAL_EUSAGE, err, "--chunks is 2");
    s.chunks = 1, s.cfg_image = 2;
    check_fails(gimbal_begin(&run, e, &s, &err), GIMBAL_EUSAGE, err, "--cfg-image is 2");
    s.cfg_image = 1, s.frame_stride = 3;
    check_fails(gimbal_begin(&run, e, &s, &err), GIMBAL_EUSAGE, err, "--frame-stride");
    s.frame_stride = 0, image[7] = NAN;
    check_ok(gimbal_begin(&run, e, &s, &err), err); /* the picture is read by gimbal_sample */
    float latents[4 * 3 * 3 * 5];
    check_fails(gimbal_sample(run, latents, &err), GIMBAL_EUSAGE, err, "value 7 of 60");
    gimbal_end(run);
    gimbal_close(e);
}

/* A model that samples every frame: only its noise takes after the picture. */
static void a_text_model_takes_after_a_picture(void **state)
{
    (void)state;
    const gimbal_shape z = {4, 3, 3, 5}, one = {4, 1, 3, 5};
    enum { N = 4 * 3 * 3 * 5 };
    gimbal_engine *e = opened(TINY, MOTION);
    float image[60], noise[N], mixed[N], want[N], have[N];
    philox_normal(4, 0, 0, one, image);
    philox_normal(4, 1, 0, z, noise);
    memcpy(mixed, noise, sizeof noise);
    gimbal_settings s;
    gimbal_session *run;
    gimbal_defaults(&s, e);
    s.frames = 3, s.width = 40, s.height = 24, s.steps = 2, s.prompt = "a cat", s.rescale = 0.5;
    init("frameinit", z, image, NULL, mixed);
    s.latents = mixed;
    check_ok(gimbal_begin(&run, e, &s, &err), err);
    check_ok(gimbal_sample(run, want, &err), err);
    gimbal_end(run);
    s.latents = noise, s.image = image, s.reinit = "frameinit";
    check_ok(gimbal_begin(&run, e, &s, &err), err);
    check_ok(gimbal_sample(run, have, &err), err);
    gimbal_end(run);
    check(rel_rms(have, want, N) < 1e-3, "%g off", rel_rms(have, want, N)); /* betas of another file */
    check(rel_rms(noise, mixed, N) > 1e-3, "the noise has changed");
    gimbal_close(e);
}

TESTS(masks_and_mixes_are_the_authors, priors_are_the_authors_from_the_same_draws,
      the_schedule_is_linear_and_ends_at_one, corrected_the_lowest_band_is_whole_at_odd_sizes,
      variance_is_kept_over_every_prior, a_reference_of_still_frames_is_the_picture,
      what_cannot_be_is_refused, a_text_model_takes_after_a_picture)
