/* t_memory.c: opening a model, beginning a run, a whole small run, recipes, descriptions and noise, each with
 * every one of its allocations failing in turn (failing.h says how). t_io_memory.c does the same for the
 * loaders alone.
 *
 * Caches of kernels live as long as the program; they are filled by one run before the count begins. One
 * thread, so that allocations have an order. */
#include "base/base.h" /* before cmocka.h, which makes a macro of fail */
#include "tests/models.h"

#include "tests/failing.h"

static gimbal_engine *engine; /* of the tests that do not open one */

static int open_and_close(gimbal_error *e)
{
    gimbal_engine *opened_now;
    TRY(gimbal_open(&opened_now, TINY, MOTION, e));
    gimbal_close(opened_now);
    return GIMBAL_OK;
}

static gimbal_settings small_run(const gimbal_engine *e)
{
    gimbal_settings s;
    gimbal_defaults(&s, e);
    s.prompt = "a cat", s.negative = "a dog";
    s.frames = 3, s.width = 40, s.height = 24, s.steps = 2, s.cfg = 5, s.threads = 1;
    s.reinit = "freeinit:passes=2,filter=gaussian";
    return s;
}

static int begin_and_end(gimbal_error *e)
{
    const gimbal_settings s = small_run(engine);
    gimbal_session *run;
    TRY(gimbal_begin(&run, engine, &s, e));
    gimbal_end(run);
    return GIMBAL_OK;
}

static int ignore_frame(void *user, int i, const uint8_t *rgb, int width, int height)
{
    (void)user, (void)i, (void)rgb, (void)width, (void)height;
    return 0;
}

static int sample_and_decode(gimbal_session *run, gimbal_error *e)
{
    static float latents[4 * 3 * 3 * 5];
    const gimbal_shape shape = gimbal_latent_shape(run);
    check(shape.c * shape.f * shape.h * shape.w == COUNT(latents), "latents [%d,%d,%d,%d]", shape.c, shape.f,
          shape.h, shape.w);
    TRY(gimbal_sample(run, latents, e));
    return gimbal_decode(run, latents, shape, ignore_frame, NULL, e);
}

static int run_of(const char *model, const char *motion, gimbal_error *e)
{
    gimbal_engine *own;
    gimbal_session *run;
    TRY(gimbal_open(&own, model, motion, e));
    const gimbal_settings s = small_run(own);
    int code = gimbal_begin(&run, own, &s, e);
    if (!code)
        code = sample_and_decode(run, e);
    gimbal_end(run);
    gimbal_close(own);
    return code;
}

static int whole_run(gimbal_error *e)
{
    return run_of(TINY, MOTION, e);
}

static char pair[96];

static int pair_run(gimbal_error *e)
{
    return run_of(pair, NULL, e);
}

static char *recipe_text;

static int read_recipe(gimbal_error *e)
{
    gimbal_recipe *recipe;
    gimbal_settings s = small_run(engine);
    TRY(gimbal_recipe_parse(&recipe, recipe_text, e));
    const int code = gimbal_recipe_apply(recipe, &s, e);
    gimbal_recipe_free(recipe);
    return code;
}

static int describe(const char *path, gimbal_error *e)
{
    char *json;
    TRY(gimbal_describe(path, &json, e));
    free(json);
    return GIMBAL_OK;
}

static int describe_model(gimbal_error *e)
{
    return describe(TINY, e);
}

static int describe_file(gimbal_error *e)
{
    return describe("tests/golden/runs/ad_plain.in.safetensors", e);
}

static const char *spec; /* of the two below */

static int draw(gimbal_error *e)
{
    float x[2 * 3 * 4 * 5];
    return gimbal_noise(spec, "philox", 7, 0, (gimbal_shape){2, 3, 4, 5}, x, e);
}

static int mask_and_mix(gimbal_error *e)
{
    const gimbal_shape shape = {2, 3, 4, 5};
    float mask[3 * 4 * 5], low[2 * 3 * 4 * 5] = {0}, high[2 * 3 * 4 * 5] = {0}, x[2 * 3 * 4 * 5];
    TRY(gimbal_mask(spec, shape, mask, e));
    return gimbal_mix(low, high, mask, 1, shape, x, e);
}

/* ---- tests ------------------------------------------------------------------------------- */

static int open_engine(void **state)
{
    (void)state;
    engine = opened(TINY, MOTION);
    return 0;
}

static int close_engine(void **state)
{
    (void)state;
    gimbal_close(engine);
    return 0;
}

static void opening_survives_every_failed_allocation(void **state)
{
    (void)state;
    fail_each(open_and_close, "gimbal_open");
}

static void beginning_survives_every_failed_allocation(void **state)
{
    (void)state;
    check_ok(begin_and_end(&err), err);
    fail_each_of(begin_and_end, "gimbal_begin",
                 true); /* a kernel that cannot be had is replaced by the next */
}

static void a_whole_run_survives_every_failed_allocation(void **state)
{
    (void)state;
    check_ok(whole_run(&err), err);
    fail_each_of(whole_run, "a run", true);
}

/* Of two networks that share the noise. */
static void a_run_of_two_networks_survives_every_failed_allocation(void **state)
{
    (void)state;
    check_ok(pair_run(&err), err);
    fail_each_of(pair_run, "a run of two networks", true);
}

static int make_pair(void **state)
{
    (void)state;
    snprintf(scratch, sizeof scratch, "/tmp/gimbal-memory-XXXXXX");
    check(mkdtemp(scratch) != NULL, "mkdtemp");
    snprintf(pair, sizeof pair, "%s/pair", scratch);
    shell("cp -r tests/golden/training/model %s && mv %s/unet %s/base && cp -r "
          "tests/golden/training/residual %s/ && "
          "chmod -R u+w %s && echo '{\"frame_count\": 3}' > %s/videofusion.json",
          pair, pair, pair, pair, pair, pair);
    return 0;
}

static void recipes_survive_every_failed_allocation(void **state)
{
    (void)state;
    const gimbal_settings s = small_run(engine);
    recipe_text = gimbal_recipe_json(engine, &s);
    fail_each(read_recipe, "gimbal_recipe_parse");
    free(recipe_text);
}

static void descriptions_survive_every_failed_allocation(void **state)
{
    (void)state;
    fail_each_of(describe_model, "gimbal_describe of a model", true);
    fail_each_of(describe_file, "gimbal_describe of a file", true);
}

static void every_prior_and_filter_survives_every_failed_allocation(void **state)
{
    (void)state;
    gimbal_plugin p;
    for (int i = 0; !gimbal_plugin_at("noise", i, &p); i++)
        spec = p.name, fail_each(draw, p.name);
    spec = "freeinit:filter=gaussian";
    fail_each(mask_and_mix, "gimbal_mask and gimbal_mix");
}

int main(void)
{
#define WITH_ENGINE(f) cmocka_unit_test_setup_teardown(f, open_engine, close_engine)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opening_survives_every_failed_allocation),
        WITH_ENGINE(beginning_survives_every_failed_allocation),
        cmocka_unit_test(a_whole_run_survives_every_failed_allocation),
        cmocka_unit_test_setup_teardown(a_run_of_two_networks_survives_every_failed_allocation, make_pair,
                                        remove_model),
        WITH_ENGINE(recipes_survive_every_failed_allocation),
        cmocka_unit_test(descriptions_survive_every_failed_allocation),
        cmocka_unit_test(every_prior_and_filter_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
