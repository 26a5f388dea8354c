/* t_recipe.c: what the library writes down about clips and models.
 *
 * Recipes bring every setting back; hostile ones are refused and change nothing. Descriptions name what a
 * path is, whole or damaged. */
#include "tests/models.h"

/* ---- recipes ----------------------------------------------------------------------------- */

static void a_recipe_brings_every_setting_back(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    gimbal_settings s, t;
    gimbal_recipe *r;
    gimbal_defaults(&s, e);
    s.frames = 5, s.width = 40, s.height = 24, s.steps = 3, s.eta = 0.5, s.reinit = "freeinit:passes=2";
    s.prompt = "a \"cat\"\nand \xc3\xa9t\xc3\xa9", s.seed = UINT64_MAX, s.cfg = 0.1 + 0.2, s.rng = "torch",
    s.betas = "scaled_linear";
    s.spacing = NULL, s.motion_norm = "frame";
    char *json = gimbal_recipe_json(e, &s);
    check(json && !strchr(json, '\n'), "recipe %s", json);
    check_ok(gimbal_recipe_parse(&r, json, &err), err);
    gimbal_defaults(&t, e);
    check_ok(gimbal_recipe_apply(r, &t, &err), err);
    assert_string_equal(gimbal_recipe_model(r), TINY);
    assert_string_equal(gimbal_recipe_motion(r), MOTION);
    assert_string_equal(gimbal_recipe_identity(r), gimbal_identity(e));
    s.spacing = "leading", s.dtype = "f32"; /* resolved */
    for (const gimbal_option *o = gimbal_setting_options(); o->name; o++) {
        char a[256], b[256];
        option_print(o, &s, a, sizeof a);
        option_print(o, &t, b, sizeof b);
        check(!strcmp(a, b), "%s: %.99s became %.99s", o->name, a, b);
    }
    free(json);
    gimbal_recipe_free(r);
    gimbal_close(e);
}

static void hostile_recipes_are_refused_and_change_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        int code;
        const char *words;
    } cases[] = {
        {"", GIMBAL_EFORMAT, "recipe"},
        {"[1]", GIMBAL_EFORMAT, "recipe"},
        {"{\"model\":\"m\",\"identity\":\"i\"}", GIMBAL_EFORMAT, "settings"},
        {"{\"identity\":\"i\",\"settings\":{}}", GIMBAL_EFORMAT, "model"},
        {"{\"model\":7,\"identity\":\"i\",\"settings\":{}}", GIMBAL_EFORMAT, "model"},
        {"{\"model\":\"m\",\"identity\":\"i\",\"settings\":[[[[[[[[[[[[1]]]]]]]]]]]]}", GIMBAL_EFORMAT,
         "recipe"},
        {"{\"model\":\"m\",\"identity\":\"i\",\"settings\":{\"steps\":7,\"frames\":-1}}", GIMBAL_EUSAGE,
         "recipe: frames is -1"},
        {"{\"model\":\"m\",\"identity\":\"i\",\"settings\":{\"steps\":7,\"rng\":\"x\"}}", GIMBAL_EUSAGE,
         "rng"},
        {"{\"model\":\"m\",\"identity\":\"i\",\"settings\":{\"steps\":7,\"width\":\"wide\"}}", GIMBAL_EFORMAT,
         "width"},
        {"{\"model\":\"m\",\"identity\":\"i\",\"settings\":{\"steps\":7,\"prompt\":{}}}", GIMBAL_EFORMAT,
         "prompt"},
        {"{\"model\":\"m\",\"identity\":\"i\",\"settings\":{\"steps\":7,\"seed\":-5}}", GIMBAL_EUSAGE,
         "seed"},
    };
    gimbal_engine *e = opened(TINY, MOTION);
    gimbal_settings s, before;
    gimbal_defaults(&s, e);
    before = s;
    for (int i = 0; i < COUNT(cases); i++) {
        gimbal_recipe *r;
        int code = gimbal_recipe_parse(&r, cases[i].json, &err);
        if (!code)
            code = gimbal_recipe_apply(r, &s, &err);
        check_fails(code, cases[i].code, err, cases[i].words);
        check(!memcmp(&s, &before, sizeof s), "%s changed the settings", cases[i].json);
        gimbal_recipe_free(r);
    }
    gimbal_recipe *r;
    check_ok(gimbal_recipe_parse(
                 &r,
                 "{\"later\":1,\"model\":\"m\",\"identity\":\"i\",\"settings\":{\"new-knob\":2,\"cfg\":3}}",
                 &err),
             err);
    check_ok(gimbal_recipe_apply(r, &s, &err), err);
    check(s.cfg == 3 && s.steps == before.steps && !gimbal_recipe_motion(r), "unknown keys matter");
    gimbal_recipe_free(r);
    gimbal_close(e);
}

/* ---- descriptions ------------------------------------------------------------------------ */

static void described(const char *path, const char *const *words)
{
    char *json;
    check_ok(gimbal_describe(path, &json, &err), err);
    for (; *words; words++)
        check(strstr(json, *words) != NULL, "%s lacks %s:\n%.400s", path, *words, json);
    free(json);
}

#define DESCRIBED(path, ...) described(path, (const char *const[]){__VA_ARGS__, NULL})

static void anything_readable_is_described(void **state)
{
    (void)state;
    char *json;
    DESCRIBED(TOYWORLD, "\"kind\": \"model\"", "\"usable\": true", "\"max_frames\": 32", "\"motion_adapter\"",
              "\"parameters\": 3221572", "\"F16\"", "\"hidden_size\": 128");
    DESCRIBED(TINY, "\"usable\": false", "needs a motion adapter", "\"cross_attention_dim\": 32",
              "\"identity\"");
    DESCRIBED(MOTION, "\"motion adapter\"", "\"motion_max_seq_length\": 24", "\"usable\": true");
    DESCRIBED(TINY "/vae", "\"network\"", "\"latent_channels\": 4");
    DESCRIBED(TINY "/vae/diffusion_pytorch_model.safetensors", "\"weights\"", "decoder.conv_in.weight",
              "\"F32\"", "\"list\"");
    shell("truncate -s 1000 %s/model/vae/diffusion_pytorch_model.safetensors && rm "
          "%s/model/tokenizer/vocab.json && echo '{' > "
          "%s/model/scheduler/scheduler_config.json",
          scratch, scratch, scratch);
    DESCRIBED(in_scratch("model"), "\"usable\": false", "\"error\"", "vae/diffusion_pytorch_model",
              "scheduler_config.json: ");
    check_fails(gimbal_describe("no/such/path", &json, &err), GIMBAL_EIO, err, "no/such/path");
    check_fails(gimbal_describe("tests/check.h", &json, &err), GIMBAL_EFORMAT, err, "tests/check.h");
    check_fails(gimbal_describe("tests/names", &json, &err), GIMBAL_EMODEL, err, "tests/names");
}

static void the_library_says_what_it_is(void **state)
{
    (void)state;
    check(strstr(gimbal_build_info(), gimbal_version()) && strstr(gimbal_build_info(), "oneDNN"), "%s",
          gimbal_build_info());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_recipe_brings_every_setting_back),
        cmocka_unit_test(hostile_recipes_are_refused_and_change_nothing),
        WITH_MODEL(anything_readable_is_described),
        cmocka_unit_test(the_library_says_what_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
