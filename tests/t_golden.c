/* t_golden.c: whole runs against PyTorch diffusers, from the manifests: ids, context, latents after every
 * step, frames.
 *
 * Each run is made twice: from the latents in its file, and from its seed by PyTorch's generator.
 * A spy in the sampler's place compares x after every step of every pass, so that the first step that differs
 * is the one named. Bounds: float32 itself costs 2e-6 after the whole loop, with Winograd 6e-6; the slightest
 * slip tried (tanh for erf) costs 9e-5.
 *
 * tests/run.sh runs this once for every set of kernels: GIMBAL_ISA, GIMBAL_BACKEND. */
#include "diffusion/engine.h"
#include "tensor/backend.h"
#include "tests/check.h"

static const double context_bound = 1e-5, latents_bound = 5e-5, least_psnr = 45;

/* Where a manifest lies; paths in it begin there. least: runs that any build can make. */
static const struct {
    const char *folder;
    int least;
} manifests[] = {{"tests/golden/", 9}, {"tests/golden/modelscope/", 3}};

/* One run of a manifest, opened. */
typedef struct {
    const char *name, *folder;
    char out[256]; /* its .out.safetensors */
    SafeTensors *gold;
    gimbal_engine *engine;
    gimbal_settings s;
    float *latents, *fresh;
} Golden;

static gimbal_error err;

/* ---- the manifest ------------------------------------------------------------------------ */

static json_t *manifest(int i)
{
    static json_t *json[COUNT(manifests)];
    char path[128];
    snprintf(path, sizeof path, "%smanifest.json", manifests[i].folder);
    if (!json[i])
        check_ok(json_read(&json[i], path, &err), err);
    return json[i];
}

static bool sampler_exists(const char *name)
{
    gimbal_plugin p;
    for (int i = 0; !gimbal_plugin_at("sampler", i, &p); i++)
        if (!strcmp(p.name, name))
            return true;
    return false;
}

static const char *value_of(const json_t *args, const char *flag)
{
    for (size_t i = 1; i + 1 < json_array_size(args); i += 2)
        if (!strcmp(json_string_value(json_array_get(args, i)), flag))
            return json_string_value(json_array_get(args, i + 1));
    return NULL;
}

static const char *in_golden(const Golden *g, char out[256], const char *name)
{
    if (name)
        snprintf(out, 256, "%s%s", g->folder, name);
    return name ? out : NULL;
}

/* Reads pass1, pass2, ... of a file as one array. */
static void read_fresh(Golden *g, const char *file)
{
    size_t n;
    SafeTensors *st;
    char name[16];
    check_ok(st_open(&st, file, &err), err);
    for (g->s.n_fresh = 0; snprintf(name, sizeof name, "pass%d", g->s.n_fresh + 1), st_find(st, name);) {
        float *one = golden(file, name, &n);
        g->fresh = realloc(g->fresh, (size_t)(g->s.n_fresh + 1) * n * sizeof(float));
        memcpy(g->fresh + (size_t)g->s.n_fresh++ * n, one, n * sizeof(float));
        free(one);
    }
    st_close(st);
    g->s.fresh = g->fresh;
}

/* The command line as settings. */
static void take_arguments(Golden *g, const json_t *args)
{
    size_t n;
    char path[256];
    for (size_t i = 1; i + 1 < json_array_size(args); i += 2) {
        const char *flag = json_string_value(json_array_get(args, i)),
                   *value = json_string_value(json_array_get(args, i + 1));
        in_golden(g, path, value);
        if (!strcmp(flag, "--latents"))
            g->s.latents = g->latents = golden(path, "latents", &n);
        else if (!strcmp(flag, "--reinit-noise"))
            read_fresh(g, path);
        else if (strcmp(flag, "--model") && strcmp(flag, "--motion"))
            check_ok(gimbal_set(gimbal_setting_options(), &g->s, flag + 2, value, "--", &err), err);
    }
}

static void open_golden(Golden *g, const char *folder, const char *name, const json_t *args)
{
    char model[256], motion[256];
    memset(g, 0, sizeof *g);
    g->name = name, g->folder = folder;
    snprintf(g->out, sizeof g->out, "%sruns/%s.out.safetensors", folder, name);
    check_ok(st_open(&g->gold, g->out, &err), err);
    check_ok(gimbal_open(&g->engine, in_golden(g, model, value_of(args, "--model")),
                         in_golden(g, motion, value_of(args, "--motion")), &err),
             err);
    gimbal_defaults(&g->s, g->engine);
    take_arguments(g, args);
}

static void close_golden(Golden *g)
{
    gimbal_close(g->engine);
    st_close(g->gold);
    free(g->latents);
    free(g->fresh);
}

/* The reference, and the wide template on vectors half as wide, take twenty times as long as the rest: they
 * make every third run. */
static bool is_slow(void)
{
    const Backend *best = cpu_chain()[0];
    return !strcmp(best->name, "ref") || (best->isa && !strcmp(best->isa, "wide"));
}

/* Calls `test` for every run that this build can make, with the arguments under `key`. */
static void for_each_run(const char *key, void (*test)(Golden *))
{
    for (int i = 0; i < COUNT(manifests); i++) {
        const char *name;
        json_t *run;
        int made = 0, met = 0;
        json_object_foreach(json_object_get(manifest(i), "runs"), name, run)
        {
            const json_t *args = json_object_get(run, key);
            if (!sampler_exists(value_of(args, "--sampler")) || (met++ % 3 && is_slow()))
                continue;
            Golden g;
            open_golden(&g, manifests[i].folder, name, args);
            test(&g);
            close_golden(&g);
            made++;
        }
        check(met >= manifests[i].least && made > 0, "%d runs in the manifest of %s, %d made", met,
              manifests[i].folder, made);
    }
}

/* The runs below mean nothing for kernels that they were not made with. */
static void the_kernels_that_were_asked_for_are_used(void **state)
{
    const char *isa = getenv("GIMBAL_ISA"), *backend = getenv("GIMBAL_BACKEND");
    const Backend *best = cpu_chain()[0];
    (void)state;
    assert_string_equal(best->name, backend ? backend : "vec");
    if (isa && !backend)
        assert_string_equal(best->isa, isa);
}

/* ---- text -------------------------------------------------------------------------------- */

static void check_ids(const Golden *g, const char *tensor, const char *text)
{
    int32_t ids[TOKENS];
    int64_t want[TOKENS];
    const StEntry *entry = st_find(g->gold, tensor);
    check(entry && entry->bytes == sizeof want, "%s: %s", g->name, tensor);
    memcpy(want, entry->data, sizeof want);
    check_ok(gimbal_tokenize(g->engine, text, ids, NULL, &err), err);
    for (int i = 0; i < TOKENS; i++)
        check(ids[i] == want[i], "%s: %s[%d] is %d, expected %d", g->name, tensor, i, (int)ids[i],
              (int)want[i]);
}

static void check_context(gimbal_session *run, const Golden *g, const char *tensor, const char *text)
{
    size_t n;
    float *want = golden(g->out, tensor, &n), *have = malloc(n * sizeof(float));
    assert_int_equal(n, TOKENS * gimbal_context_width(g->engine));
    check_ok(gimbal_context(run, text, have, &err), err);
    check_near(rel_rms(have, want, n), 0, context_bound, "%s: %s", g->name, tensor);
    free(want);
    free(have);
}

static void check_text(Golden *g)
{
    gimbal_session *run;
    check_ids(g, "ids", g->s.prompt);
    check_ids(g, "neg_ids", g->s.negative);
    check_ok(gimbal_begin(&run, g->engine, &g->s, &err), err);
    check_context(run, g, "context", g->s.prompt);
    check_context(run, g, "neg_context", g->s.negative);
    gimbal_end(run);
}

static void prompts_become_the_reference_s_ids_and_context(void **state)
{
    (void)state;
    for_each_run("args", check_text);
}

/* ---- steps ------------------------------------------------------------------------------- */

static struct {
    const Golden *g;
    const Sampler *real;
    const Schedule *schedule;
    const Grid *grid;
    int pass, calls;
} spy;

static int spy_begin(void *self, const Schedule *schedule, const Grid *grid, double eta, float *history,
                     gimbal_error *e)
{
    size_t n;
    char name[32];
    snprintf(name, sizeof name, "pass%d.timesteps", ++spy.pass);
    float *want = golden(spy.g->out, name, &n);
    check((size_t)grid->n == n, "%s: %s has %zu steps, made %d", spy.g->name, name, n, grid->n);
    for (int i = 0; i < grid->n; i++)
        check_near(grid->t[i], want[i], 1e-9, "%s: %s[%d]", spy.g->name, name, i);
    free(want);
    spy.schedule = schedule, spy.grid = grid;
    return spy.real->begin(self, schedule, grid, eta, history, e);
}

/* Euler's own latents are ours times this after step k. */
static double level(int k)
{
    const double sigma = schedule_sigma(spy.schedule, grid_next(spy.grid, k));
    return strcmp(spy.real->name, "euler") ? 1 : sqrt(1 + sigma * sigma);
}

static int spy_step(void *self, int k, size_t count, const float *x, const float *raw, const float *inject,
                    float *next, float *x0)
{
    size_t n;
    char name[32];
    const int code = spy.real->step(self, k, count, x, raw, inject, next, x0);
    snprintf(name, sizeof name, "pass%d.step%d", spy.pass, k);
    float *want = golden(spy.g->out, name, &n);
    assert_int_equal(n, count);
    for (size_t i = 0; i < n; i++)
        want[i] = (float)(want[i] / level(k));
    check_near(rel_rms(next, want, n), 0, latents_bound, "%s: the first step that differs is %s", spy.g->name,
               name);
    free(want);
    spy.calls++;
    return code;
}

/* ---- pictures ---------------------------------------------------------------------------- */

typedef struct {
    const Golden *g;
    const StEntry *want; /* frames_u8 [F,H,W,3] */
    double worst;        /* PSNR of a frame, dB */
    int frames;
} Look;

static int look(void *user, int i, const uint8_t *rgb, int width, int height)
{
    Look *l = user;
    const size_t n = (size_t)width * height * 3;
    const uint8_t *want = (const uint8_t *)l->want->data + (size_t)i * n;
    double sum = 0;
    check(i == l->frames++ && l->want->n[1] == height && l->want->n[2] == width && i < l->want->n[0],
          "%s: frame %d, %d x %d", l->g->name, i, width, height);
    for (size_t k = 0; k < n; k++)
        sum += (rgb[k] - want[k]) * (double)(rgb[k] - want[k]);
    l->worst = fmin(l->worst, 10 * log10(255.0 * 255.0 * (double)n / fmax(sum, 1e-9)));
    return 0;
}

static void check_pictures(gimbal_session *run, const Golden *g, const float *latents)
{
    Look l = {.g = g, .want = st_find(g->gold, "frames_u8"), .worst = 1e9};
    check_ok(gimbal_decode(run, latents, gimbal_latent_shape(run), look, &l, &err), err);
    check(l.frames == l.want->n[0], "%s: %d frames", g->name, l.frames);
    check(l.worst >= least_psnr, "%s: a frame has %.1f dB", g->name, l.worst);
}

/* ---- runs -------------------------------------------------------------------------------- */

static void check_run(Golden *g)
{
    size_t n;
    gimbal_session *run;
    check_ok(gimbal_begin(&run, g->engine, &g->s, &err), err);
    Sampler watched = *run->run.sampler;
    watched.begin = spy_begin, watched.step = spy_step;
    spy.g = g, spy.real = run->run.sampler, spy.pass = -1, spy.calls = 0;
    run->run.sampler = &watched;

    float *want = golden(g->out, "latents_exact", &n), *have = malloc(n * sizeof(float));
    assert_int_equal(n, shape_count(gimbal_latent_shape(run)));
    check_ok(gimbal_sample(run, have, &err), err);
    check(spy.calls == run->run.calls, "%s: %d steps made, %d planned", g->name, spy.calls, run->run.calls);
    const double distance = rel_rms(have, want, n);
    print_message("%s: latents %.2g from the exact ones\n", g->name, distance);
    check_near(distance, 0, latents_bound, "%s: final latents", g->name);
    check_pictures(run, g, have);
    free(want);
    free(have);
    gimbal_end(run);
}

static void runs_from_given_latents_match_the_reference_step_by_step(void **state)
{
    (void)state;
    for_each_run("args", check_run);
}

static void runs_from_a_seed_match_the_reference_step_by_step(void **state)
{
    (void)state;
    for_each_run("args_seed_only", check_run);
}

TESTS(the_kernels_that_were_asked_for_are_used, prompts_become_the_reference_s_ids_and_context,
      runs_from_given_latents_match_the_reference_step_by_step,
      runs_from_a_seed_match_the_reference_step_by_step)
