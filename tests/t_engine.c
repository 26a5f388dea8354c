/* t_engine.c: the public API on real folders: what opens, what is refused and in which words, what a run
 * promises.
 *
 * Hostile folders are copies of the small golden model with one part damaged. Promises: same seed, same bytes
 * on any number of threads; a cancelled run goes on and ends as if nothing had been; what cannot work fails
 * in gimbal_begin. */
#include "io/io.h"
#include "tests/models.h"

#include <limits.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static void write_text(const char *name, const char *text)
{
    FILE *f = fopen(in_scratch(name), "w");
    check(f != NULL, "%s", name);
    fputs(text, f);
    fclose(f);
}

static void refused(const char *model, const char *motion, int code, const char *words)
{
    gimbal_engine *e;
    check_fails(gimbal_open(&e, model, motion, &err), code, err, words);
    check(e == NULL, "an engine in spite of an error");
}

/* ---- opening ----------------------------------------------------------------------------- */

static void the_bundled_model_opens_with_its_own_numbers(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TOYWORLD, NULL);
    gimbal_settings s;
    gimbal_defaults(&s, e);
    assert_string_equal(gimbal_family(e), "animatediff");
    assert_int_equal(strlen(gimbal_identity(e)), 64);
    assert_int_equal(gimbal_size_step(e), 8);
    assert_int_equal(gimbal_context_width(e), 128);
    assert_int_equal(s.frames, 16);
    assert_int_equal(s.width, 128);
    assert_int_equal(s.height, 128);
    assert_string_equal(s.betas, "linear");
    assert_string_equal(s.spacing, "leading");
    check(gimbal_note(e, 0) == NULL, "a note: %s", gimbal_note(e, 0));
    gimbal_close(e);
}

/* The text encoder and the VAE serve without motion; clips are refused, before any work. */
static void an_image_model_alone_encodes_and_decodes_but_does_not_sample(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, NULL);
    gimbal_settings s;
    gimbal_session *run;
    gimbal_cost cost;
    int32_t ids[77];
    static float context[77 * 32], latents[4 * 16 * 8 * 8];
    check_ok(gimbal_tokenize(e, "a cat", ids, NULL, &err), err);
    gimbal_defaults(&s, e);
    s.prompt = "a cat", s.width = s.height = 64;
    check_fails(gimbal_predict(e, &s, &cost, &err), GIMBAL_EMODEL, err, "--motion");
    check_ok(gimbal_begin(&run, e, &s, &err), err);
    check_ok(gimbal_context(run, "a cat", context, &err), err);
    check_fails(gimbal_sample(run, latents, &err), GIMBAL_EMODEL, err, "needs a motion adapter");
    gimbal_end(run);
    gimbal_close(e);
}

static void an_adapter_is_found_inside_beside_and_as_a_file(void **state)
{
    (void)state;
    gimbal_close(opened(in_scratch("model"), NULL));
    gimbal_close(opened(TINY, MOTION));
    gimbal_close(opened(TINY "/", MOTION "/diffusion_pytorch_model.safetensors"));
    refused(TINY, "no/such/adapter", GIMBAL_EIO, "no/such/adapter");
    refused(TINY, TINY, GIMBAL_EMODEL, "config.json");
    shell("mkdir %s/lone && cp " MOTION "/*.safetensors %s/lone/mm.safetensors", scratch, scratch);
    refused(TINY, in_scratch("lone/mm.safetensors"), GIMBAL_EMODEL, "no config.json beside it");
}

static void identity_is_the_model_s_and_not_the_path_s(void **state)
{
    (void)state;
    gimbal_engine *a = opened(TINY, MOTION), *b = opened(in_scratch("model"), NULL);
    assert_string_equal(gimbal_identity(a), gimbal_identity(b));
    gimbal_close(b);
    shell("sed -i 's/\"beta_end\": 0.012/\"beta_end\": 0.013/' %s/model/scheduler/scheduler_config.json",
          scratch);
    b = opened(in_scratch("model"), NULL);
    assert_string_not_equal(gimbal_identity(a), gimbal_identity(b));
    gimbal_close(a);
    gimbal_close(b);
}

static void a_path_that_is_no_model_is_told_what_it_is(void **state)
{
    (void)state;
    refused("no/such/model", NULL, GIMBAL_EIO, "no/such/model");
    refused("", NULL, GIMBAL_EIO, "no such folder");
    refused(scratch, NULL, GIMBAL_EMODEL, "model"); /* one level too high */
    refused(in_scratch("model/unet"), NULL, GIMBAL_EMODEL, "model/unet");
    write_text("sd15.ckpt", "PK\3\4 not really a pickle, but it begins like one");
    refused(in_scratch("sd15.ckpt"), NULL, GIMBAL_EFORMAT, "sd15.ckpt");
    float x = 0;
    const gimbal_tensor one = {"model.diffusion_model.input_blocks.0.0.weight", "F32", 1, {1}, &x};
    check_ok(gimbal_tensors_write(in_scratch("sd15.safetensors"), &one, 1, NULL, &err), err);
    refused(in_scratch("sd15.safetensors"), NULL, GIMBAL_EMODEL, "not read yet");
}

static void a_hub_cache_folder_leads_to_its_snapshot(void **state)
{
    (void)state;
    shell("mkdir -p %s/models--a--b/snapshots %s/models--a--b/refs && cp -r %s/model "
          "%s/models--a--b/snapshots/c0ffee",
          scratch, scratch, scratch, scratch);
    write_text("models--a--b/refs/main", "c0ffee\n");
    gimbal_close(opened(in_scratch("models--a--b"), NULL));
    write_text("models--a--b/refs/main", "../../model");
    refused(in_scratch("models--a--b"), NULL, GIMBAL_EFORMAT, "refs/main");
}

static void each_missing_part_is_named(void **state)
{
    (void)state;
    static const char *const parts[] = {"unet", "vae", "text_encoder", "tokenizer", "scheduler"};
    for (int i = 0; i < COUNT(parts); i++) {
        shell("mv %s/model/%s %s/away", scratch, parts[i], scratch);
        refused(in_scratch("model"), NULL, GIMBAL_EMODEL, parts[i]);
        shell("mv %s/away %s/model/%s", scratch, scratch, parts[i]);
    }
    static const char *const configs[] = {"unet/config.json", "vae/config.json", "text_encoder/config.json",
                                          "scheduler/scheduler_config.json", "motion_adapter/config.json"};
    for (int i = 0; i < COUNT(configs); i++) {
        shell("mv %s/model/%s %s/away", scratch, configs[i], scratch);
        refused(in_scratch("model"), NULL, GIMBAL_EMODEL, strchr(configs[i], '/') + 1);
        shell("mv %s/away %s/model/%s", scratch, scratch, configs[i]);
    }
    gimbal_close(opened(in_scratch("model"), NULL));
}

static void damaged_files_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *file, *damage;
        int code;
        const char *words;
    } cases[] = {
        {"unet/diffusion_pytorch_model.safetensors", "truncate -s 100000", GIMBAL_EFORMAT,
         "unet/diffusion_pytorch_model"},
        {"vae/diffusion_pytorch_model.safetensors", "truncate -s 0", GIMBAL_EFORMAT,
         "vae/diffusion_pytorch_model"},
        {"motion_adapter/diffusion_pytorch_model.safetensors", "rm", GIMBAL_EMODEL, "motion_adapter"},
        {"motion_adapter/diffusion_pytorch_model.safetensors",
         "cp " TINY "/vae/diffusion_pytorch_model.safetensors", GIMBAL_EMODEL, "motion_modules"},
        {"text_encoder/model.safetensors", "cp " TOYWORLD "/text_encoder/model.safetensors", GIMBAL_EMODEL,
         "text_"},
        {"unet/config.json", "truncate -s 40", GIMBAL_EFORMAT, "unet/config.json"},
        {"vae/config.json", "cp /dev/null", GIMBAL_EFORMAT, "vae/config.json"},
        {"tokenizer/vocab.json", "rm", INT_MIN, "vocab.json"},
        {"tokenizer/merges.txt", "rm", INT_MIN, "merges.txt"},
        {"scheduler/scheduler_config.json", "sed -i s/linear/quadratic/", GIMBAL_EFORMAT, "quadratic"},
        {"unet/config.json", "sed -i s/UNet2DConditionModel/UNet9D/", GIMBAL_EMODEL, "UNet9D"},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        gimbal_engine *e;
        shell("cp %s/model/%s %s/kept && %s %s/model/%s", scratch, cases[i].file, scratch, cases[i].damage,
              scratch, cases[i].file);
        const int code = gimbal_open(&e, in_scratch("model"), NULL, &err);
        check(code && !e && strstr(err.msg, cases[i].words), "%s after %s: code %d, \"%.300s\"",
              cases[i].file, cases[i].damage, code, err.msg);
        check(cases[i].code == INT_MIN || code == cases[i].code, "%s after %s: code %d (%.300s), expected %d",
              cases[i].file, cases[i].damage, code, err.msg, cases[i].code);
        err = (gimbal_error){0};
        shell("cp %s/kept %s/model/%s", scratch, scratch, cases[i].file);
    }
}

static void parts_of_different_models_are_told_apart_with_both_numbers(void **state)
{
    (void)state;
    shell("cp -r %s/model %s/words && cp " TOYWORLD "/tokenizer/* %s/words/tokenizer/", scratch, scratch,
          scratch);
    gimbal_close(opened(in_scratch("words"), NULL)); /* 624 ids for 657 rows are possible */
    shell("cp -r " TOYWORLD " %s/toy && chmod -R u+w %s/toy && cp " TINY "/tokenizer/* %s/toy/tokenizer/",
          scratch, scratch, scratch);
    refused(in_scratch("toy"), NULL, GIMBAL_EMODEL, "657");
    shell("cp " TOYWORLD "/tokenizer/* %s/words/tokenizer/ && cp " TOYWORLD
          "/text_encoder/* %s/words/text_encoder/",
          scratch, scratch);
    refused(in_scratch("words"), NULL, GIMBAL_EMODEL, "cross_attention_dim is 32");
    refused(in_scratch("words"), NULL, GIMBAL_EMODEL, "128");
}

static void a_pndm_folder_is_sampled_with_ddim_and_says_so(void **state)
{
    (void)state;
    shell("sed -i -e s/DDIMScheduler/PNDMScheduler/ -e 's/\"linear\"/\"scaled_linear\"/' "
          "%s/model/scheduler/scheduler_config.json",
          scratch);
    gimbal_engine *e = opened(in_scratch("model"), NULL);
    gimbal_settings s;
    gimbal_defaults(&s, e);
    check(gimbal_note(e, 0) && strstr(gimbal_note(e, 0), "PNDM"), "note: %s", gimbal_note(e, 0));
    check(gimbal_note(e, 1) == NULL && gimbal_note(e, -1) == NULL, "more notes than one");
    assert_string_equal(s.betas, "linear");
    assert_string_equal(s.spacing, "leading");
    assert_string_equal(s.sampler, "ddim");
    gimbal_close(e);
}

/* As diffusers 0.33 saves them: every key, and -Infinity, which is no JSON. */
static void a_folder_s_scheduler_class_names_the_default_sampler(void **state)
{
    (void)state;
    static const struct {
        const char *json, *sampler, *spacing;
    } schedulers[] = {
        {"{\"_class_name\": \"DPMSolverMultistepScheduler\", \"algorithm_type\": \"dpmsolver++\", "
         "\"solver_order\": 2,\n"
         "\"beta_schedule\": \"linear\", \"final_sigmas_type\": \"zero\", \"lambda_min_clipped\": "
         "-Infinity,\n"
         "\"lower_order_final\": true, \"solver_type\": \"midpoint\", \"variance_type\": null}",
         "dpmpp2m", "linspace"},
        {"{\"_class_name\": \"EulerDiscreteScheduler\", \"beta_schedule\": \"linear\", \"sigma_max\": null,\n"
         "\"timestep_spacing\": \"trailing\"}",
         "euler", "trailing"},
    };
    for (int i = 0; i < COUNT(schedulers); i++) {
        write_text("model/scheduler/scheduler_config.json", schedulers[i].json);
        gimbal_engine *e = opened(in_scratch("model"), NULL);
        gimbal_settings s;
        char *described;
        gimbal_defaults(&s, e);
        assert_string_equal(s.sampler, schedulers[i].sampler);
        assert_string_equal(s.spacing, schedulers[i].spacing);
        assert_null(gimbal_note(e, 0));
        check_ok(gimbal_describe(in_scratch("model"), &described, &err), err);
        check(strstr(described, "Scheduler"), "%s", described);
        free(described);

        /* unnamed, it is what a recipe writes down, and what runs */
        s.prompt = "a cat", s.frames = 2, s.width = s.height = 16, s.steps = 3, s.sampler = NULL;
        char *recipe = gimbal_recipe_json(e, &s), want[40];
        snprintf(want, sizeof want, "\"sampler\":\"%s\"", schedulers[i].sampler);
        check(strstr(recipe, want), "%s in %s", want, recipe);
        free(recipe);
        float own[4 * 2 * 2 * 2], named[4 * 2 * 2 * 2], ddim[4 * 2 * 2 * 2];
        const char *const samplers[] = {NULL, schedulers[i].sampler, "ddim"};
        float *const out[] = {own, named, ddim};
        for (int k = 0; k < 3; k++) {
            gimbal_session *run;
            s.sampler = samplers[k];
            check_ok(gimbal_begin(&run, e, &s, &err), err);
            check_ok(gimbal_sample(run, out[k], &err), err);
            gimbal_end(run);
        }
        check(!memcmp(own, named, sizeof own) && memcmp(own, ddim, sizeof own), "%s runs",
              schedulers[i].sampler);

        gimbal_session *run;
        s.sampler = NULL, s.eta = 0.5;
        check_fails(gimbal_begin(&run, e, &s, &err), GIMBAL_EUSAGE, err, "is deterministic");
        s.eta = 0, s.reinit = "freeinit:compat=1";
        check_fails(gimbal_begin(&run, e, &s, &err), GIMBAL_EUSAGE, err, "sound with ddim");
        gimbal_close(e);
    }
    write_text("model/scheduler/scheduler_config.json",
               "{\"_class_name\": \"DDIMScheduler\", \"beta_start\": NaN}");
    refused(in_scratch("model"), NULL, GIMBAL_EFORMAT, "\"beta_start\" is null, expected a number");
}

/* ---- settings ---------------------------------------------------------------------------- */

/* gimbal_begin with one option set from text, or refused by gimbal_set already. */
static int begin_with(gimbal_engine *e, const char *name, const char *value)
{
    gimbal_settings s;
    gimbal_session *run;
    gimbal_defaults(&s, e);
    s.frames = 2, s.width = s.height = 16, s.steps = 2;
    int code = gimbal_set(gimbal_setting_options(), &s, name, value, "--", &err);
    if (code)
        return code;
    code = gimbal_begin(&run, e, &s, &err);
    check(code ? !run : run != NULL, "--%s %s: code %d", name, value, code);
    gimbal_end(run);
    return code;
}

static void wrong_settings_are_refused_with_what_was_found_and_expected(void **state)
{
    (void)state;
    static const struct {
        const char *name, *value, *words;
    } cases[] = {
        {"frames", "0", "--frames is 0"},
        {"frames", "25", "--frames is 25, this motion module knows at most 24"},
        {"frames", "2147483648", "--frames"},
        {"frames", "8x", "8x"},
        {"width", "20", "16 and 24"},
        {"height", "4", "--height"},
        {"width", "1000000", "--width"},
        {"steps", "0", "--steps is 0"},
        {"steps", "1001", "--steps is 1001, the model's schedule has only 1000"},
        {"cfg", "nan", "--cfg"},
        {"cfg", "1e999", "--cfg"},
        {"eta", "1.5", "--eta is 1.5"},
        {"seed", "-1", "--seed"},
        {"rng", "pytorch", "--rng"},
        {"sampler", "ddmi", "ddim"},
        {"noise", "pink", "white"},
        {"reinit", "freeinit:passes=-1", "passes"},
        {"reinit", "freeinit:filter=gausian", "gaussian"},
        {"reinit", "freeinot", "freeinit"},
        {"dtype", "f16", "--dtype"},
        {"motion-norm", "batch", "--motion-norm"},
        {"betas", "cosine", "--betas"},
        {"prompt", "a \xff cat", "UTF-8"},
        {"negative", "\xc3", "UTF-8"},
        {"frmaes", "3", "frames"},
    };
    gimbal_engine *e = opened(TINY, MOTION);
    for (int i = 0; i < COUNT(cases); i++)
        check_fails(begin_with(e, cases[i].name, cases[i].value), GIMBAL_EUSAGE, err, cases[i].words);
    gimbal_close(e);
}

static void settings_filled_by_hand_are_checked_like_typed_ones(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    gimbal_session *run;
    gimbal_settings s, good;
    gimbal_defaults(&good, e);
    good.frames = 2, good.width = good.height = 16, good.steps = 2;
#define REFUSED(change, words)                                                                               \
    s = good;                                                                                                \
    change;                                                                                                  \
    check_fails(gimbal_begin(&run, e, &s, &err), GIMBAL_EUSAGE, err, words)
    REFUSED(s.size = 8, "settings.size is 8");
    REFUSED(s.frames = -3, "--frames is -3");
    REFUSED(s.cfg = NAN, "--cfg");
    REFUSED(s.eta = INFINITY, "--eta");
    REFUSED(s.rng = "dice", "dice");
    REFUSED(s.threads = -1, "--threads");
    REFUSED(s.n_fresh = 2, "fresh noise");
    float latents[4 * 2 * 2 * 2] = {[9] = NAN};
    REFUSED(s.latents = latents, "value 9 of 32 is not finite");
#undef REFUSED
    s = good;
    s.prompt = s.negative = s.rng = s.sampler = s.noise = s.reinit = s.betas = s.spacing = s.dtype =
        s.motion_norm = NULL;
    check_ok(gimbal_begin(&run, e, &s, &err), err);
    gimbal_end(run);
    gimbal_close(e);
}

static void a_run_that_cannot_fit_in_memory_is_refused_before_it_starts(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    gimbal_session *run;
    gimbal_settings s;
    gimbal_defaults(&s, e);
    s.frames = 24, s.width = s.height = 8192;
    const uint64_t before = anon_bytes_now();
    check_fails(gimbal_begin(&run, e, &s, &err), GIMBAL_ENOMEM, err, "MiB are available");
    check(anon_bytes_now() < before + (64u << 20), "memory was taken all the same");
    gimbal_close(e);
}

/* Bytes more than now that RLIMIT_DATA grants from here on; 0: no limit. */
static void grant(uint64_t more)
{
    unsigned long pages = 0;
    struct rlimit limit;
    FILE *f = fopen("/proc/self/statm", "r");
    check(f && fscanf(f, "%*u %*u %*u %*u %*u %lu", &pages) == 1 && !fclose(f), "statm");
    getrlimit(RLIMIT_DATA, &limit);
    limit.rlim_cur = more ? pages * (uint64_t)sysconf(_SC_PAGESIZE) + more : limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_DATA, &limit), 0);
}

static int drop_frame(void *user, int i, const uint8_t *rgb, int width, int height)
{
    (void)user, (void)i, (void)rgb, (void)width, (void)height;
    return 0;
}

/* Refused with the numbers below what it needs, whole just above. */
static void a_limit_of_the_process_is_respected_to_the_mebibyte(void **state)
{
    (void)state;
#ifdef GIMBAL_SANITIZED
    skip(); /* sanitizers need memory of their own */
#endif
    enum { MIB = 1 << 20 };
    static float x[4 * 8 * 16 * 20];
    gimbal_engine *e = opened(TOYWORLD, NULL);
    gimbal_session *run;
    gimbal_settings s;
    gimbal_cost cost;
    double needs = 0;
    gimbal_defaults(&s, e);
    s.prompt = "a circle", s.frames = 8, s.width = 160, s.height = 128, s.steps = 2, s.threads = 2;
    grant(8 * MIB);
    const int code = gimbal_begin(&run, e, &s, &err);
    grant(0);
    sscanf(err.msg, "this run needs %lf MiB", &needs);
    check_fails(code, GIMBAL_ENOMEM, err, "MiB are available");
    check_ok(gimbal_predict(e, &s, &cost, &err), err);
    check_near(needs * MIB, (double)(cost.work_bytes + cost.pack_bytes + cost.host_bytes), 13.0 * MIB,
               "what it needs");
    grant((uint64_t)(needs - 1) * MIB);
    check_fails(gimbal_begin(&run, e, &s, &err), GIMBAL_ENOMEM, err, "MiB are available");
    grant(0);
    grant((uint64_t)(needs + 2) * MIB);
    check_ok(gimbal_predict(e, &s, &cost, &err), err);
    check(cost.limit_bytes < cost.anon_bytes + 16 * MIB, "the limit is %llu",
          (unsigned long long)cost.limit_bytes);
    check_ok(gimbal_begin(&run, e, &s, &err), err);
    check_ok(gimbal_sample(run, x, &err), err);
    check_ok(gimbal_decode(run, x, gimbal_latent_shape(run), drop_frame, NULL, &err), err);
    grant(0);
    gimbal_end(run);
    gimbal_close(e);
}

static void long_prompts_are_cut_and_say_by_how_much(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    int32_t ids[77];
    int truncated = -1;
    char text[1024] = "";
    for (int i = 0; i < 100; i++)
        strcat(text, "cat ");
    check_ok(gimbal_tokenize(e, "a cat", ids, &truncated, &err), err);
    assert_int_equal(truncated, 0);
    check_ok(gimbal_tokenize(e, text, ids, &truncated, &err), err);
    assert_int_equal(truncated, 25);
    gimbal_close(e);
}

/* ---- runs -------------------------------------------------------------------------------- */

/* A short run at odd sizes: 5 frames of 40 x 24, latents 5 x 3. */
static gimbal_settings small(const gimbal_engine *e)
{
    gimbal_settings s;
    gimbal_defaults(&s, e);
    s.prompt = "a cat", s.negative = "blurry";
    s.frames = 5, s.width = 40, s.height = 24, s.steps = 3, s.seed = 0xfeedfacecafebeef, s.eta = 0.5;
    s.reinit = "freeinit:passes=2";
    return s;
}

enum { SMALL = 4 * 5 * 3 * 5 };

static void sample_small(gimbal_engine *e, const gimbal_settings *s, float out[SMALL])
{
    gimbal_session *run;
    check_ok(gimbal_begin(&run, e, s, &err), err);
    const gimbal_shape z = gimbal_latent_shape(run);
    check(z.c == 4 && z.f == 5 && z.h == 3 && z.w == 5, "latents [%d,%d,%d,%d]", z.c, z.f, z.h, z.w);
    check_ok(gimbal_sample(run, out, &err), err);
    gimbal_end(run);
}

static void the_same_seed_gives_the_same_bytes_on_any_number_of_threads(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    gimbal_settings s = small(e);
    float one[SMALL], other[SMALL];
    s.threads = 1;
    sample_small(e, &s, one);
    for (int threads = 2; threads <= 3; threads++) {
        s.threads = threads;
        sample_small(e, &s, other);
        check(!memcmp(one, other, sizeof one), "%d threads: %.3g away", threads, rel_rms(other, one, SMALL));
    }
    s.seed++;
    sample_small(e, &s, other);
    check(rel_rms(other, one, SMALL) > 0.1, "another seed gives the same clip");
    gimbal_close(e);
}

typedef struct {
    gimbal_session *run;
    int at, calls, last; /* stop at this call */
    bool by_signal;
} Stop;

static int stop_at(void *user, const gimbal_progress *p)
{
    Stop *s = user;
    if (strcmp(p->stage, "sample"))
        return 0;
    check(p->latents != NULL && p->calls == s->last + 1 && p->total_calls == 6, "call %d after %d, of %d",
          p->calls, s->last, p->total_calls);
    s->last = p->calls;
    if (++s->calls != s->at)
        return 0;
    if (s->by_signal)
        gimbal_cancel(s->run);
    return !s->by_signal;
}

static void a_cancelled_run_goes_on_as_if_nothing_had_been(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    float whole[SMALL], parts[SMALL];
    gimbal_settings s = small(e);
    sample_small(e, &s, whole);
    for (int at = 1; at <= 5; at++) {
        Stop stop = {.at = at, .by_signal = at % 2};
        s.progress = stop_at, s.user = &stop;
        check_ok(gimbal_begin(&stop.run, e, &s, &err), err);
        check_fails(gimbal_sample(stop.run, parts, &err), GIMBAL_ECANCEL, err, "cancel");
        assert_int_equal(stop.calls, at);
        check_ok(gimbal_sample(stop.run, parts, &err), err);
        check(!memcmp(whole, parts, sizeof whole), "stopped at call %d: %.3g away", at,
              rel_rms(parts, whole, SMALL));
        stop.last = 0;
        check_ok(gimbal_sample(stop.run, parts, &err), err); /* once more, from the beginning */
        check(!memcmp(whole, parts, sizeof whole), "the second clip of a session is another one");
        gimbal_end(stop.run);
    }
    gimbal_close(e);
}

static void a_cancel_before_the_first_step_is_seen_and_then_spent(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    float x[SMALL];
    gimbal_settings s = small(e);
    gimbal_session *run;
    check_ok(gimbal_begin(&run, e, &s, &err), err);
    gimbal_cancel(run);
    check_fails(gimbal_sample(run, x, &err), GIMBAL_ECANCEL, err, "cancel");
    check_ok(gimbal_sample(run, x, &err), err);
    gimbal_cancel(run);
    gimbal_end(run);
    gimbal_close(e);
}

typedef struct {
    gimbal_engine *e;
    gimbal_settings s;
    float x[SMALL];
    int code;
} Job;

static void *job(void *self)
{
    Job *j = self;
    gimbal_session *run;
    j->code = gimbal_begin(&run, j->e, &j->s, NULL);
    if (!j->code)
        j->code = gimbal_sample(run, j->x, NULL);
    gimbal_end(run);
    return NULL;
}

static void two_sessions_share_an_engine(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    Job job_of[2] = {{.e = e, .s = small(e)}, {.e = e, .s = small(e)}};
    pthread_t thread[2];
    float alone[SMALL];
    job_of[1].s.seed = 5;
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, job, &job_of[i]), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < 2; i++) {
        sample_small(e, &job_of[i].s, alone);
        check(!job_of[i].code && !memcmp(alone, job_of[i].x, sizeof alone), "session %d: code %d", i,
              job_of[i].code);
    }
    gimbal_close(e);
}

/* Overwrites a tensor of a weight file with bytes that are NaN in every float type. */
static void spoil(const char *file, const char *tensor)
{
    SafeTensors *st;
    const char *header;
    size_t n;
    check_ok(st_open(&st, file, &err), err);
    st_header(st, &header, &n);
    const StEntry *entry = st_find(st, tensor);
    check(entry != NULL, "no %s", tensor);
    const long at = (long)((const char *)entry->data - (header - 8));
    char *nan = malloc(entry->bytes);
    memset(nan, 0xff, entry->bytes);
    FILE *f = fopen(file, "r+b");
    check(f && !fseek(f, at, SEEK_SET) && fwrite(nan, entry->bytes, 1, f) == 1 && !fclose(f), "%s", file);
    free(nan);
    st_close(st);
}

static void weights_that_are_not_finite_stop_the_run_with_the_layer_s_name(void **state)
{
    (void)state;
    spoil(in_scratch("model/unet/diffusion_pytorch_model.safetensors"), "mid_block.resnets.1.conv2.weight");
    gimbal_engine *e = opened(in_scratch("model"), NULL);
    gimbal_settings s = small(e);
    gimbal_session *run;
    float x[SMALL];
    check_ok(gimbal_begin(&run, e, &s, &err), err);
    check_fails(gimbal_sample(run, x, &err), GIMBAL_EVALUE, err, "mid_block.resnets.1.conv2");
    gimbal_end(run);
    gimbal_close(e);
}

/* ---- decoding ---------------------------------------------------------------------------- */

typedef struct {
    uint8_t rgb[9][24 * 40 * 3];
    int frames, stop_at;
} Film;

static int film(void *user, int i, const uint8_t *rgb, int width, int height)
{
    Film *f = user;
    check(i == f->frames && width == 40 && height == 24, "frame %d after %d, %d x %d", i, f->frames, width,
          height);
    memcpy(f->rgb[f->frames++], rgb, sizeof f->rgb[0]);
    return f->frames == f->stop_at;
}

static void frames_decode_alike_alone_and_together(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    gimbal_settings s = small(e);
    gimbal_session *run;
    const gimbal_shape nine = {4, 9, 3, 5}, one = {4, 1, 3, 5};
    float x[4 * 9 * 15], y[4 * 15];
    static Film all, single;
    check_ok(gimbal_noise("white", "philox", 3, 0, nine, x, &err), err);
    check_ok(gimbal_begin(&run, e, &s, &err), err);
    memset(&all, 0, sizeof all);
    check_ok(gimbal_decode(run, x, nine, film, &all, &err), err);
    assert_int_equal(all.frames, 9);
    for (int f = 0; f < 9; f++) {
        for (int c = 0; c < 4; c++)
            memcpy(y + c * 15, x + (c * 9 + f) * 15, 15 * sizeof(float));
        memset(&single, 0, sizeof single);
        check_ok(gimbal_decode(run, y, one, film, &single, &err), err);
        int worst = 0;
        for (size_t i = 0; i < sizeof single.rgb[0]; i++)
            worst = MAX(worst, abs(single.rgb[0][i] - all.rgb[f][i]));
        check(worst <= 1, "frame %d differs by %d", f, worst);
    }
    memset(&all, 0, sizeof all), all.stop_at = 4;
    check_fails(gimbal_decode(run, x, nine, film, &all, &err), GIMBAL_ECANCEL, err, "frame 3");
    assert_int_equal(all.frames, 4);
    gimbal_end(run);
    gimbal_close(e);
}

static void latents_that_cannot_be_decoded_are_refused(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    gimbal_settings s = small(e);
    gimbal_session *run;
    float x[4 * 15] = {0};
    check_ok(gimbal_begin(&run, e, &s, &err), err);
    check_fails(gimbal_decode(run, x, (gimbal_shape){3, 1, 3, 5}, film, NULL, &err), GIMBAL_EMODEL, err,
                "3 channels");
    check_fails(gimbal_decode(run, x, (gimbal_shape){4, 0, 3, 5}, film, NULL, &err), GIMBAL_EUSAGE, err,
                "[4,0,3,5]");
    check_fails(gimbal_decode(run, x, (gimbal_shape){4, 1, 1 << 19, 1 << 19}, film, NULL, &err),
                GIMBAL_EUSAGE, err, "pixels");
    x[7] = INFINITY;
    check_fails(gimbal_decode(run, x, (gimbal_shape){4, 1, 3, 5}, film, NULL, &err), GIMBAL_EUSAGE, err,
                "not finite");
    gimbal_end(run);
    gimbal_close(e);
}

/* ---- cost -------------------------------------------------------------------------------- */

static gimbal_cost cost_of(gimbal_engine *e, int frames, double cfg, const char *reinit)
{
    gimbal_settings s;
    gimbal_cost c;
    gimbal_defaults(&s, e);
    s.frames = frames, s.cfg = cfg, s.reinit = reinit, s.steps = 10, s.width = s.height = 64;
    check_ok(gimbal_predict(e, &s, &c, &err), err);
    check(c.work_bytes > 0 && c.anon_bytes >= c.work_bytes + c.pack_bytes + c.host_bytes && c.seconds > 0 &&
              c.mapped_bytes > 1000000,
          "work %llu, anon %llu, %g s", (unsigned long long)c.work_bytes, (unsigned long long)c.anon_bytes,
          c.seconds);
    return c;
}

static void the_predicted_cost_counts_passes_frames_and_guidance(void **state)
{
    (void)state;
    gimbal_engine *e = opened(TINY, MOTION);
    const gimbal_cost plain = cost_of(e, 8, 7.5, "none"), three = cost_of(e, 8, 7.5, "freeinit:passes=3");
    const gimbal_cost fast = cost_of(e, 8, 7.5, "freeinit:passes=3,fast=1,compat=1"),
                      half = cost_of(e, 8, 1, "none");
    assert_int_equal(plain.calls, 10);
    assert_int_equal(plain.passes, 1);
    assert_int_equal(three.calls, 30);
    assert_int_equal(three.passes, 3);
    assert_int_equal(fast.calls, 19); /* 3 + 6 + 10 */
    check_near(three.relative, 3, 0, "relative cost of three passes");
    check(three.flops > 2.5 * plain.flops && three.flops < 3 * plain.flops, "three passes: %g, one %g",
          three.flops, plain.flops);
    check(half.flops < 0.6 * plain.flops, "without guidance: %g, with %g", half.flops, plain.flops);
    check(2 * plain.work_bytes > 3 * cost_of(e, 2, 7.5, "none").work_bytes,
          "8 frames need little more than 2"); /* kernels' scratch is the same */
    gimbal_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bundled_model_opens_with_its_own_numbers),
        WITH_MODEL(an_adapter_is_found_inside_beside_and_as_a_file),
        cmocka_unit_test(an_image_model_alone_encodes_and_decodes_but_does_not_sample),
        WITH_MODEL(identity_is_the_model_s_and_not_the_path_s),
        WITH_MODEL(a_path_that_is_no_model_is_told_what_it_is),
        WITH_MODEL(a_hub_cache_folder_leads_to_its_snapshot),
        WITH_MODEL(each_missing_part_is_named),
        WITH_MODEL(damaged_files_are_refused_by_name),
        WITH_MODEL(parts_of_different_models_are_told_apart_with_both_numbers),
        WITH_MODEL(a_pndm_folder_is_sampled_with_ddim_and_says_so),
        WITH_MODEL(a_folder_s_scheduler_class_names_the_default_sampler),
        cmocka_unit_test(wrong_settings_are_refused_with_what_was_found_and_expected),
        cmocka_unit_test(settings_filled_by_hand_are_checked_like_typed_ones),
        cmocka_unit_test(a_run_that_cannot_fit_in_memory_is_refused_before_it_starts),
        cmocka_unit_test(a_limit_of_the_process_is_respected_to_the_mebibyte),
        cmocka_unit_test(long_prompts_are_cut_and_say_by_how_much),
        cmocka_unit_test(the_same_seed_gives_the_same_bytes_on_any_number_of_threads),
        cmocka_unit_test(a_cancelled_run_goes_on_as_if_nothing_had_been),
        cmocka_unit_test(a_cancel_before_the_first_step_is_seen_and_then_spent),
        cmocka_unit_test(two_sessions_share_an_engine),
        WITH_MODEL(weights_that_are_not_finite_stop_the_run_with_the_layer_s_name),
        cmocka_unit_test(frames_decode_alike_alone_and_together),
        cmocka_unit_test(latents_that_cannot_be_decoded_are_refused),
        cmocka_unit_test(the_predicted_cost_counts_passes_frames_and_guidance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
