/* t_trainer.c: the loop as a whole, on the golden model of 80,284 parameters and clips made up here: what
 * must not matter does not, what must happen happens. */
#include "train/train.h"
#include "tests/check.h"

#define FOLDER "tests/golden/training/"

static gimbal_error err;
static char output[64];

/* ---- clips: smooth patterns that move, a function of their number ---------------------------- */

typedef struct {
    int length, broken; /* frames of every clip; clips below `broken` cannot be read */
    int notes, steps, saved, valid, pictures;
    double first, last, loss[64]; /* of the validation set; of steps */
    char text[512];
} World;

static int look(void *self, int64_t i, int *frames, const char **caption, gimbal_error *e)
{
    static const char *const captions[] = {"a cat", "", "a dog, walking", "rain"};
    const World *w = self;
    if (i < w->broken)
        return (fail)(e, GIMBAL_EFORMAT, "clip %lld is broken", (long long)i);
    *frames = w->length, *caption = captions[i % 4];
    return GIMBAL_OK;
}

static int read_frames(void *self, int64_t i, const int *at, int n, int width, int height, uint8_t *rgb,
                       gimbal_error *e)
{
    (void)e;
    ((World *)self)->pictures += n;
    for (int f = 0; f < n; f++)
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++)
                for (int c = 0; c < 3; c++)
                    *rgb++ =
                        (uint8_t)(127 + 100 * sin(0.1 * (x + 3 * at[f]) + 0.05 * y * (double)(i + 1) + c));
    return GIMBAL_OK;
}

static const char *name_of(void *self, int64_t i)
{
    static char name[32];
    (void)self;
    snprintf(name, sizeof name, "pattern %lld", (long long)i);
    return name;
}

static int on_event(void *user, const gimbal_train_event *e)
{
    World *w = user;
    if (e->what == GIMBAL_TRAIN_NOTE)
        w->notes++, snprintf(w->text, sizeof w->text, "%s", e->text);
    if (e->what == GIMBAL_TRAIN_STEP && w->steps < COUNT(w->loss))
        w->loss[w->steps++] = e->loss;
    if (e->what == GIMBAL_TRAIN_VALID)
        w->last = e->loss, w->first = w->valid++ ? w->first : e->loss;
    w->saved += e->what == GIMBAL_TRAIN_SAVED;
    return 0;
}

static gimbal_clips clips_of(World *w, int count)
{
    return (gimbal_clips){.count = count,
                          .identity = "00000000000000000000000000000000000000000000000000000000000000aa",
                          .look = look,
                          .read = read_frames,
                          .name = name_of,
                          .self = w};
}

/* ---- running ---------------------------------------------------------------------------------- */

static gimbal_train_settings defaults(void)
{
    gimbal_train_settings s;
    check_ok(gimbal_train_defaults(&s, "motion", &err), err);
    s.model = FOLDER "model", s.motion = FOLDER "model-motion";
    s.batch = 4, s.micro = 1, s.frames = 4, s.height = 40, s.width = 56, s.steps = 4;
    s.warmup = 0, s.cache = "none", s.dtype = "f32", s.validation = 0, s.save_every = 1000, s.lr = 1e-3;
    return s;
}

/* The parameters after a run; the caller frees. */
static float *run(const gimbal_train_settings *s, World *w, int count, int64_t *total)
{
    gimbal_trainer *t;
    const gimbal_clips clips = clips_of(w, count);
    char folder[128];
    static int number;
    snprintf(folder, sizeof folder, "%s/run%d", output, number++);
    check_ok(gimbal_train_begin(&t, s, &clips, NULL, folder, 0, on_event, w, &err), err);
    check_ok(gimbal_train_run(t, &err), err);
    float *value = malloc((size_t)t->set.total * sizeof *value);
    memcpy(value, t->set.value, (size_t)t->set.total * sizeof *value);
    *total = t->set.total;
    gimbal_train_end(t);
    return value;
}

static double apart(const float *a, const float *b, int64_t n)
{
    double sum = 0, all = 0;
    for (int64_t i = 0; i < n; i++)
        sum += pow((double)a[i] - b[i], 2), all += pow(a[i], 2);
    return sqrt(sum / all);
}

/* ---- what must not matter ----------------------------------------------------------------------- */

static void micro_batches_change_rounding_only(void **state)
{
    (void)state;
    gimbal_train_settings s = defaults();
    World one = {.length = 4}, four = {.length = 4};
    int64_t n;
    float *a = run(&s, &one, 8, &n);
    s.micro = 4;
    float *b = run(&s, &four, 8, &n);
    for (int i = 0; i < 4; i++)
        check_near(one.loss[i], four.loss[i], 2e-5 * one.loss[i], "loss of step %d", i);
    check(apart(a, b, n) < 1e-4, "parameters are %.1e apart", apart(a, b, n));
    free(a), free(b);
}

static void threads_and_the_cache_change_nothing(void **state)
{
    (void)state;
    gimbal_train_settings s = defaults();
    World w = {.length = 6}, v = {.length = 6};
    int64_t n;
    s.threads = 1;
    float *a = run(&s, &w, 3, &n);
    s.threads = 2, s.cache = NULL;
    float *b = run(&s, &v, 3, &n);
    check(!memcmp(a, b, (size_t)n * sizeof *a), "parameters are %.1e apart", apart(a, b, n));
    free(a), free(b);
}

/* Another network behind the same encoder finds what was encoded; another encoder does not, even where only
 * one number of its file differs. */
static void what_is_kept_depends_on_the_encoder(void **state)
{
    (void)state;
    gimbal_train_settings s = defaults();
    World first = {.length = 6}, trained = {.length = 6}, other = {.length = 6};
    char command[512], cache[96], motion[96], model[96];
    int64_t n;
    snprintf(cache, sizeof cache, "%s/cache", output), snprintf(model, sizeof model, "%s/model", output);
    snprintf(command, sizeof command, "cp -r %smodel %s && chmod -R u+w %s", FOLDER, model, model);
    check(system(command) == 0, "%.300s", command);
    s.cache = cache, s.model = model;
    free(run(&s, &first, 3, &n));
    snprintf(motion, sizeof motion, "%.60s/trained", output);
    snprintf(command, sizeof command, "mv %s/run*/step-00000004/weights/motion_adapter %s", output, motion);
    check(system(command) == 0, "%.300s", command);
    s.motion = motion;
    free(run(&s, &trained, 3, &n));
    check(first.pictures > 0 && !trained.pictures, "%d pictures, then %d", first.pictures, trained.pictures);

    snprintf(command, sizeof command, "%s/vae/diffusion_pytorch_model.safetensors", model);
    FILE *file = fopen(command, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, -4, SEEK_END), 0);
    const int was = fgetc(file);
    assert_int_equal(fseek(file, -4, SEEK_END), 0);
    fputc(was ^ 1, file);
    fclose(file);
    free(run(&s, &other, 3, &n));
    check(other.pictures == first.pictures, "%d pictures, then %d", first.pictures, other.pictures);
}

static void a_rate_of_zero_leaves_every_byte(void **state)
{
    (void)state;
    gimbal_train_settings s = defaults();
    World w = {.length = 4}, v = {.length = 4};
    int64_t n;
    s.lr = 0;
    float *a = run(&s, &w, 8, &n);
    s.steps = 1;
    float *b = run(&s, &v, 8, &n);
    check(!memcmp(a, b, (size_t)n * sizeof *a), "parameters changed");
    check(w.loss[0] != w.loss[1], "two steps gave the same loss");
    free(a), free(b);
}

/* ---- what must happen ----------------------------------------------------------------------------- */

static void four_clips_are_learnt_by_heart(void **state)
{
    (void)state;
    gimbal_train_settings s = defaults();
    World w = {.length = 4};
    int64_t n;
    s.train = "*", s.lr = 2e-3, s.steps = 60, s.micro = 4, s.validation = 2, s.validate_every = 60, s.ema = 0;
    s.clip = 1;
    free(run(&s, &w, 8, &n));
    check(w.valid == 2, "%d looks at the validation set", w.valid);
    check(w.last < 0.75 * w.first, "validation loss went from %g to %g", w.first, w.last);
}

static void single_frames_train(void **state)
{
    (void)state;
    gimbal_train_settings s;
    check_ok(gimbal_train_defaults(&s, "image", &err), err);
    World w = {.length = 3};
    int64_t n;
    s.model = FOLDER "model", s.motion = FOLDER "model-motion", s.batch = s.micro = 3, s.steps = 2;
    s.height = 40, s.width = 56, s.cache = "none", s.validation = 0, s.lr = 1e-3;
    free(run(&s, &w, 5, &n));
    check(w.steps == 2 && w.loss[0] > 0 && isfinite(w.loss[1]), "losses %g, %g", w.loss[0], w.loss[1]);
}

/* Zeroed last layers: new motion modules add nothing, so the first loss is that of the image network. */
static void new_modules_begin_with_the_image_network(void **state)
{
    (void)state;
    gimbal_train_settings s = defaults();
    gimbal_trainer *t;
    World w = {.length = 4}, v = {.length = 4};
    const gimbal_clips clips = clips_of(&w, 8);
    int64_t n;
    s.fresh = 1, s.steps = 1;
    free(run(&s, &v, 8, &n));
    s.fresh = 0;
    char folder[128];
    snprintf(folder, sizeof folder, "%s/still", output);
    check_ok(gimbal_train_begin(&t, &s, &clips, NULL, folder, 0, NULL, NULL, &err), err);
    for (int i = 0; i < t->set.n; i++)
        if (strstr(t->set.p[i].w->name, ".proj_out."))
            memset(t->set.value + t->set.p[i].at, 0, (size_t)t->set.p[i].count * sizeof(float));
    double sum = 0, one;
    for (int g = 0; g < 4; g++) {
        check_ok(batch_fill(t, &t->batch, g, &err), err);
        check_ok(t->recipe->learn(t->self, t, &t->batch, false, &one, &err), err);
        sum += one / 4;
    }
    gimbal_train_end(t);
    check_near(v.loss[0], sum, 1e-6 * sum, "loss of the first step");
}

/* ConsistI2V's file without its layers over time, as a plain image network has it. Returns how many were left
 * out. */
static int strip(const char *from, const char *to)
{
    WeightSet *set;
    check_ok(weights_open(&set, from, &err), err);
    gimbal_tensor *kept = calloc((size_t)weights_count(set), sizeof *kept);
    int n = 0;
    for (int i = 0; i < weights_count(set); i++) {
        const StEntry *e = weights_entry(set, i);
        bool added = false;
        for (const char *const *f = family_consisti2v.unet_fresh; *f && !added; f++)
            added = name_matches(*f, e->name);
        if (added)
            continue;
        kept[n] = (gimbal_tensor){.name = e->name, .type = e->spelling, .nd = e->nd, .data = e->data};
        memcpy(kept[n++].n, e->n, sizeof kept->n);
    }
    check_ok(st_write(to, kept, n, NULL, &err), err);
    const int left = weights_count(set) - n;
    free(kept);
    weights_close(set);
    return left;
}

/* What the file lacks begins with random values, learns, and is in the file that comes out, which opens. */
static void a_video_network_begins_with_an_image_network(void **state)
{
    (void)state;
    char command[512], model[96], folder[96];
    gimbal_engine *engine;
    gimbal_train_settings s;
    gimbal_trainer *t;
    World w = {.length = 4};
    const gimbal_clips clips = clips_of(&w, 4);
    snprintf(model, sizeof model, "%s/plain", output), snprintf(folder, sizeof folder, "%s/video", output);
    snprintf(command, sizeof command,
             "cp -r tests/golden/consisti2v-tiny/model %s && chmod -R u+w %s && rm %s/unet/*.safetensors",
             model, model, model);
    check(system(command) == 0, "%.300s", command);
    snprintf(command, sizeof command, "%s/unet/diffusion_pytorch_model.safetensors", model);
    check(strip("tests/golden/consisti2v-tiny/model/unet", command) > 0, "nothing was left out");
    check(gimbal_open(&engine, model, NULL, &err) == GIMBAL_EMODEL, "a stripped model opens");
    err = (gimbal_error){0};

    check_ok(gimbal_train_defaults(&s, "consisti2v", &err), err);
    s.model = model, s.batch = 2, s.frames = 4, s.width = 64, s.height = 48, s.steps = 1, s.validation = 0;
    s.cache = "none", s.dtype = "f32", s.warmup = 0;
    check_ok(gimbal_train_begin(&t, &s, &clips, NULL, folder, 0, on_event, &w, &err), err);
    check(w.notes == 1 && strstr(w.text, "random values"), "%d notes: %.300s", w.notes, w.text);
    check_ok(gimbal_train_run(t, &err), err);
    gimbal_train_end(t);
    snprintf(command, sizeof command, "cp %s/step-00000001/weights/unet/*.safetensors %s/unet/", folder,
             model);
    check(system(command) == 0, "%.300s", command);
    check_ok(gimbal_open(&engine, model, NULL, &err), err);
    gimbal_close(engine);
}

static void broken_clips_are_reported_and_replaced(void **state)
{
    (void)state;
    gimbal_train_settings s = defaults();
    World w = {.length = 4, .broken = 3};
    int64_t n;
    free(run(&s, &w, 8, &n));
    check(w.notes > 0 && strstr(w.text, "is broken"), "%d notes, the last: %.300s", w.notes, w.text);
}

static void only_broken_clips_are_an_error(void **state)
{
    (void)state;
    gimbal_train_settings s = defaults();
    World w = {.length = 3};
    gimbal_trainer *t;
    const gimbal_clips clips = clips_of(&w, 8);
    char folder[128];
    snprintf(folder, sizeof folder, "%s/short", output);
    check_ok(gimbal_train_begin(&t, &s, &clips, NULL, folder, 0, on_event, &w, &err), err);
    err = (gimbal_error){0};
    const int code = gimbal_train_run(t, &err);
    check(code == GIMBAL_EUSAGE && strstr(err.msg, "has 3 frames, 4 are needed"), "%d: %.300s", code,
          err.msg);
    check(strstr(err.hint, "--frame-stride"), "hint: %s", err.hint);
    err = (gimbal_error){0};
    gimbal_train_end(t);
}

static void a_rate_beyond_all_measure_stops_and_names_the_clip(void **state)
{
    (void)state;
    gimbal_train_settings s = defaults();
    World w = {.length = 4};
    gimbal_trainer *t;
    const gimbal_clips clips = clips_of(&w, 8);
    char folder[128];
    snprintf(folder, sizeof folder, "%s/nan", output);
    s.lr = 1e30, s.steps = 10, s.save_every = 1;
    check_ok(gimbal_train_begin(&t, &s, &clips, NULL, folder, 0, on_event, &w, &err), err);
    err = (gimbal_error){0};
    const int code = gimbal_train_run(t, &err);
    check(code == GIMBAL_EVALUE && strstr(err.msg, "step ") && w.saved >= 1, "%d: %.300s; %d saved", code,
          err.msg, w.saved);
    err = (gimbal_error){0};
    gimbal_train_end(t);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    World w = {.length = 4};
    const gimbal_clips clips = clips_of(&w, 8);
    const struct {
        int batch, micro, width;
        const char *train, *recipe, *says;
    } cases[] = {
        {5, 2, 56, NULL, "motion", "--batch is 5"},
        {4, 1, 57, NULL, "motion", "multiples of 8"},
        {4, 1, 56, "*nothing_like_it*", "motion", "nothing_like_it"},
        {4, 1, 56, NULL, "consisti2v", "family consisti2v"},
        {4, 1, 56, NULL, "moton", "no recipe"},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        gimbal_train_settings s = defaults();
        gimbal_trainer *t;
        s.batch = cases[i].batch, s.micro = cases[i].micro, s.width = cases[i].width;
        s.train = cases[i].train, s.recipe = cases[i].recipe;
        err = (gimbal_error){0};
        const int code = gimbal_train_begin(&t, &s, &clips, NULL, output, 0, NULL, NULL, &err);
        check(code == GIMBAL_EUSAGE && !t && strstr(err.msg, cases[i].says), "case %d: %d %.300s", i, code,
              err.msg);
    }
    err = (gimbal_error){0};
}

static void the_dry_run_counts_what_learns(void **state)
{
    (void)state;
    gimbal_train_settings s = defaults();
    gimbal_train_cost cost;
    check_ok(gimbal_train_predict(&s, 1, &cost, &err), err);
    assert_int_equal(cost.tensors, 182);
    assert_int_equal(cost.trained, 28600);
    assert_true(cost.parameters >= 80284);
    assert_true(cost.recompute_bytes < cost.activation_bytes && cost.flops > 0 && cost.seconds > 0);
    assert_true(cost.gradient_bytes == cost.master_bytes && cost.moment_bytes == 2 * cost.master_bytes);
}

static int make_output(void **state)
{
    (void)state;
    snprintf(output, sizeof output, "/tmp/gimbal-trainer-XXXXXX");
    return mkdtemp(output) ? 0 : -1;
}

static int remove_output(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", output);
    return system(command);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_output, remove_output)
    const struct CMUnitTest tests[] = {
        TEST(micro_batches_change_rounding_only),
        TEST(threads_and_the_cache_change_nothing),
        TEST(what_is_kept_depends_on_the_encoder),
        TEST(a_rate_of_zero_leaves_every_byte),
        TEST(four_clips_are_learnt_by_heart),
        TEST(single_frames_train),
        TEST(new_modules_begin_with_the_image_network),
        TEST(a_video_network_begins_with_an_image_network),
        TEST(broken_clips_are_reported_and_replaced),
        TEST(only_broken_clips_are_an_error),
        TEST(a_rate_beyond_all_measure_stops_and_names_the_clip),
        TEST(what_cannot_be_is_refused),
        TEST(the_dry_run_counts_what_learns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
