/* t_quality.c: --dtype bf16: what it costs in quality, and what it must not change.
 *
 * The gate: the same clip, once in float32 and once with the U-Net's products of rounded inputs, decoded by
 * the same VAE; PSNR over all pixels of all frames. bf16 has 8 bits, so each product is off by up to 2^-8 of
 * itself and a sum of n by about 2^-9 / sqrt(n) of its terms' size; what is left after 25 steps is measured,
 * and written down in docs/METHODS.md.
 *
 * GIMBAL_QUALITY=N takes the first N of the prompts; by default two, under sanitizers one short clip. */
#include "diffusion/engine.h" /* before cmocka.h, which makes a macro of fail */
#include "tensor/backend.h"

#include "tests/models.h"

static const char *const prompts[] = {
    "a large red circle moving right over a checkered black background",
    "a small blue square moving up over a plain white background",
    "a large green triangle moving left over a striped gray background",
    "a small yellow circle moving down over a plain black background",
    "a large white square standing still over a checkered blue background",
    "a small red triangle moving left over a striped white background",
};

enum { FRAMES = 16, SIDE = 128, VALUES = 4 * FRAMES * (SIDE / 8) * (SIDE / 8) };
#ifdef GIMBAL_SANITIZED
enum { STEPS = 3, SOME = 1 };
#else
enum { STEPS = 25, SOME = 2 };
#endif

/* What one prediction, of variance 1, may be off by: 0.0015 is measured on every instruction set, and 0.0025
 * when inputs are truncated instead of rounded. */
static const double most_off = 0.002;

/* What a clip may lose, in dB. Of the six prompts the least was 38; 25 guided steps magnify what they find.
 */
static const double floor_db = 34;

typedef struct {
    uint8_t rgb[FRAMES][3 * SIDE * SIDE];
} Film;

static int keep_frame(void *user, int i, const uint8_t *rgb, int width, int height)
{
    check(width == SIDE && height == SIDE, "%d x %d", width, height);
    memcpy(((Film *)user)->rgb[i], rgb, sizeof((Film *)user)->rgb[i]);
    return 0;
}

static gimbal_settings settings_of(const gimbal_engine *e, const char *prompt, const char *dtype)
{
    gimbal_settings s;
    gimbal_defaults(&s, e);
    s.prompt = prompt, s.dtype = dtype, s.seed = 11;
    s.frames = FRAMES, s.width = s.height = SIDE, s.steps = STEPS, s.cfg = 5;
    return s;
}

static void make(gimbal_engine *e, const gimbal_settings *s, float *latents, Film *film)
{
    gimbal_session *run;
    check_ok(gimbal_begin(&run, e, s, &err), err);
    check_ok(gimbal_sample(run, latents, &err), err);
    if (film)
        check_ok(gimbal_decode(run, latents, gimbal_latent_shape(run), keep_frame, film, &err), err);
    gimbal_end(run);
}

static double psnr(const Film *a, const Film *b)
{
    double sum = 0;
    const uint8_t *x = a->rgb[0], *y = b->rgb[0];
    for (size_t i = 0; i < sizeof a->rgb; i++)
        sum += (x[i] - y[i]) * (x[i] - y[i]);
    return sum > 0 ? 10 * log10(255.0 * 255.0 * sizeof a->rgb / sum) : INFINITY;
}

/* The reference operators and oneDNN know float32 alone: bf16 rounds nothing there. */
static bool rounds(void)
{
    return !strcmp(cpu_chain()[0]->name, "vec");
}

static int some(void)
{
    const char *text = getenv("GIMBAL_QUALITY");
    const int n = text ? atoi(text) : SOME;
    return MIN(MAX(n, 1), COUNT(prompts));
}

static void bf16_keeps_the_decoded_clip(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TOYWORLD, NULL);
    static Film exact, rounded;
    static float x[VALUES], y[VALUES];
    for (int i = 0; i < some(); i++) {
        gimbal_settings s = settings_of(e, prompts[i], "f32");
        make(e, &s, x, &exact);
        s.dtype = "bf16";
        make(e, &s, y, &rounded);
        const double db = psnr(&rounded, &exact), away = rel_rms(y, x, VALUES);
        print_message("# %s: %.1f dB, latents %.2g away\n", prompts[i], db, away);
        check(db > floor_db, "\"%s\": %.1f dB", prompts[i], db);
        check(!rounds() || away > 1e-5, "\"%s\": nothing was rounded", prompts[i]);
    }
    gimbal_close(e);
}

/* The first estimate of the clean clip, then cancelled. */
static int first_estimate(void *user, const gimbal_progress *p)
{
    if (strcmp(p->stage, "sample"))
        return 0;
    memcpy(user, p->latents, sizeof(float) * VALUES);
    return 1;
}

/* How much the first estimate of the clean clip, (x - s eps) / a, moves per unit of the predicted noise: 25
 * and 3 leading steps begin at (steps - 1) T / steps + offset. */
static double estimate_per_eps(const gimbal_engine *e)
{
    Schedule s;
    Arena keep = {0};
    const char *note;
    check_ok(engine_schedule(e, NULL, NULL, &s, &note, &keep, &err), err);
    const double sigma = schedule_sigma(&s, (STEPS - 1) * (s.T / STEPS) + s.steps_offset);
    arena_free(&keep);
    return sigma;
}

/* One prediction of the noise, whose variance is 1: before the steps that follow magnify or mend what it is
 * off by. */
static void one_prediction_is_off_by_what_rounding_explains(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TOYWORLD, NULL);
    static float noise[VALUES], exact[VALUES], rounded[VALUES], ignored[VALUES];
    const gimbal_shape shape = {4, FRAMES, SIDE / 8, SIDE / 8};
    check_ok(gimbal_noise("white", "philox", 5, 0, shape, noise, &err), err);
    for (int i = 0; i < 2; i++) {
        gimbal_settings s = settings_of(e, prompts[0], i ? "bf16" : "f32");
        gimbal_session *run;
        s.latents = noise, s.cfg = 1, s.sampler = "ddim", s.progress = first_estimate,
        s.user = i ? rounded : exact;
        check_ok(gimbal_begin(&run, e, &s, &err), err);
        check_fails(gimbal_sample(run, ignored, &err), GIMBAL_ECANCEL, err, "cancel");
        gimbal_end(run);
    }
    double sum = 0;
    for (int i = 0; i < VALUES; i++)
        sum += (rounded[i] - exact[i]) * (rounded[i] - exact[i]);
    const double off = sqrt(sum / VALUES) / estimate_per_eps(e);
    print_message("# one prediction: off by %.2g\n", off);
    check(off < most_off, "off by %.3g", off);
    check(!rounds() || off > most_off / 20, "off by %.3g: nothing was rounded", off);
    gimbal_close(e);
}

/* Two steps of an odd clip. */
static gimbal_settings short_run(const gimbal_engine *e, const char *dtype)
{
    gimbal_settings s;
    gimbal_defaults(&s, e);
    s.prompt = prompts[0], s.dtype = dtype, s.seed = 3;
    s.frames = 5, s.width = 72, s.height = 40, s.steps = 2, s.cfg = 5;
    return s;
}
enum { SHORT = 4 * 5 * 5 * 9 };

static void bf16_gives_the_same_bytes_on_any_number_of_threads(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TOYWORLD, NULL);
    float one[SHORT], other[SHORT];
    gimbal_settings s = short_run(e, "bf16");
    s.threads = 1;
    make(e, &s, one, NULL);
    for (s.threads = 2; s.threads <= 3; s.threads++) {
        make(e, &s, other, NULL);
        check(!memcmp(one, other, sizeof one), "%d threads: %.3g away", s.threads,
              rel_rms(other, one, SHORT));
    }
    gimbal_close(e);
}

static void auto_leaves_small_networks_exact(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TOYWORLD, NULL);
    float exact[SHORT], chosen[SHORT];
    gimbal_settings s = short_run(e, "f32");
    make(e, &s, exact, NULL);
    s.dtype = "auto";
    make(e, &s, chosen, NULL);
    check(!memcmp(exact, chosen, sizeof exact), "%.3g away", rel_rms(chosen, exact, SHORT));
    char *recipe = gimbal_recipe_json(e, &s);
    check(recipe && strstr(recipe, "\"dtype\":\"f32\""), "%s", recipe);
    free(recipe);
    gimbal_close(e);
}

/* What was resolved stands in the recipe, and a recipe brings it to any CPU. */
static void a_recipe_keeps_the_type_that_was_used(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TOYWORLD, NULL);
    gimbal_settings s = short_run(e, "bf16"), again;
    gimbal_recipe *r;
    char *recipe = gimbal_recipe_json(e, &s);
    check(recipe && strstr(recipe, "\"dtype\":\"bf16\""), "%s", recipe);
    check_ok(gimbal_recipe_parse(&r, recipe, &err), err);
    gimbal_defaults(&again, e);
    check_ok(gimbal_recipe_apply(r, &again, &err), err);
    assert_string_equal(again.dtype, "bf16");
    gimbal_recipe_free(r);
    free(recipe);
    gimbal_close(e);
}

TESTS(bf16_keeps_the_decoded_clip, one_prediction_is_off_by_what_rounding_explains,
      bf16_gives_the_same_bytes_on_any_number_of_threads, auto_leaves_small_networks_exact,
      a_recipe_keeps_the_type_that_was_used)
