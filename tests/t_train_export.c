/* t_train_export.c: what was learnt as model files: it binds again, in diffusers' spelling and the original
 * one, and is rounded once.
 *
 * Networks are the tiny AnimateDiff model's, and two weights made by hand. */
#include "train/train.h" /* before cmocka.h, which makes a macro of fail */

#include "tests/io_files.h"
#include "tests/kit/smallnet.h"

static const gimbal_ranks alone = {.size = 1};

/* ---- export ------------------------------------------------------------------------------- */

#define MODEL "tests/golden/models/animatediff-tiny"
static const char model[] = MODEL, adapter[] = MODEL "-motion";

/* A trainer of the tiny model's motion modules, values moved a little. */
static void tiny_open(struct gimbal_trainer *t, gimbal_clips *clips, const char *patterns)
{
    gimbal_error err = {0};
    uint64_t seed = 5;
    memset(t, 0, sizeof *t);
    *clips = (gimbal_clips){.count = 9, .identity = "c0ffee"};
    check_ok(gimbal_train_defaults(&t->s, NULL, &err), err);
    check_ok(gimbal_open(&t->engine, model, adapter, &err), err);
    t->recipe = recipe_at(0), t->clips = clips, t->ranks = &alone, t->output = folder;
    t->s.width = 64, t->s.height = 32, t->step = 21;
    const TrainPart parts[] = {{unet_params, t->engine->unet, 0}, {unet_motion_params, t->engine->unet, 0}};
    check_ok(set_mark(&t->set, parts, 2, patterns, &t->keep, &err), err);
    check_ok(set_memory(&t->set, true, &err), err);
    for (int i = 0; i < t->set.n; i++)
        for (int64_t k = 0; k < t->set.p[i].count; k++) {
            t->set.value[t->set.p[i].at + k] += 0.01f * sn_random(&seed);
            t->set.ema[t->set.p[i].at + k] += 0.01f * sn_random(&seed);
        }
}

static void tiny_close(struct gimbal_trainer *t)
{
    set_free(&t->set);
    gimbal_close(t->engine);
    arena_free(&t->keep);
}

/* Weights of another opening of the model, met in the same order as the trainer's. */
typedef struct {
    Params params;
    const struct gimbal_trainer *t;
    const float *array; /* value or ema */
    int at, met;
    double worst; /* relative difference */
} Compare;

static int compare_leaf(Params *p, Weight *w)
{
    Compare *c = (Compare *)p;
    const int64_t n = weight_count(w);
    if (w->kind == W_TABLE) {
        check(weight_given(w), "%s is not in the file", w->name);
        return 0;
    }
    if (c->at == c->t->set.n)
        return 0;
    const Param *param = &c->t->set.p[c->at];
    if (strcmp(param->w->name, w->name))
        return 0;
    float *x = malloc((size_t)n * sizeof *x);
    weight_widen(w, 0, n, x);
    for (int64_t i = 0; i < n; i++) {
        const double want = c->array[param->at + i];
        c->worst = fmax(c->worst, fabs(x[i] - want) / (fabs(want) + 1e-4));
    }
    free(x);
    c->at++;
    return 0;
}

static double compare_with(const struct gimbal_trainer *t, const float *array, const char *motion)
{
    gimbal_engine *e;
    gimbal_error err = {0};
    Compare c = {.params.leaf = compare_leaf, .t = t, .array = array};
    check_ok(gimbal_open(&e, model, motion, &err), err);
    unet_motion_params(e->unet, &c.params);
    check(c.at == t->set.n, "%d of %d tensors were compared", c.at, t->set.n);
    gimbal_close(e);
    return c.worst;
}

static void motion_modules_bind_again(void **state)
{
    (void)state;
    static struct gimbal_trainer t;
    gimbal_clips clips;
    gimbal_error err = {0};
    tiny_open(&t, &clips, "*motion_modules*");
    static const struct {
        const char *type;
        double most;
    } types[] = {{"F32", 0}, {"F16", 4.9e-4}, {"BF16", 4e-3}};
    for (int i = 0; i < COUNT(types); i++) {
        t.s.save_type = types[i].type;
        check_ok(export_unet(&t, folder, false, &err), err);
        const double off = compare_with(&t, t.set.value, in_folder("motion_adapter"));
        check(off <= types[i].most && (off > 0) == (i > 0), "%s is %g off", types[i].type, off);
    }
    assert_false(is_folder(in_folder("unet"))); /* nothing of it was trained */
    t.s.save_type = "F32";
    check_ok(export_unet(&t, folder, true, &err), err);
    assert_true(compare_with(&t, t.set.ema, in_folder("motion_adapter")) == 0);
    assert_true(compare_with(&t, t.set.value, in_folder("motion_adapter")) > 0);
    tiny_close(&t);
}

/* An original name in canonical spelling: the same list, read the other way. */
static void canonical(char out[300], const char *name)
{
    char next[300];
    snprintf(out, 300, "%s", name);
    for (const Rename *r = animatediff_names; r->from; r++) {
        const char *at = strstr(out, r->from);
        if (at) {
            snprintf(next, sizeof next, "%.*s%s%.150s", (int)(at - out), out, r->to, at + strlen(r->from));
            memcpy(out, next, sizeof next);
        }
    }
}

static void check_metadata(const SafeTensors *original, const SafeTensors *diffusers)
{
    assert_string_equal(st_metadata(original, "format"), "pt");
    assert_string_equal(st_metadata(original, "modelspec.architecture"), "stable-diffusion-v1/motion-module");
    assert_non_null(strstr(st_metadata(diffusers, "gimbal.recipe"), "\"step\":21"));
    assert_null(strstr(st_metadata(diffusers, "gimbal.recipe"), model)); /* no paths */
}

static void motion_modules_have_the_original_spelling_too(void **state)
{
    (void)state;
    static struct gimbal_trainer t;
    gimbal_clips clips;
    gimbal_error err = {0};
    SafeTensors *original, *diffusers;
    int twins = 0, tables = 0;
    tiny_open(&t, &clips, "*motion_modules*");
    check_ok(export_unet(&t, folder, false, &err), err);
    check_ok(st_open(&original, in_folder("motion_module.safetensors"), &err), err);
    check_ok(st_open(&diffusers, in_folder("motion_adapter/diffusion_pytorch_model.safetensors"), &err), err);
    for (int i = 0; i < st_count(original); i++) {
        const StEntry *e = st_entry(original, i), *want;
        char name[300];
        check(strstr(e->name, ".temporal_transformer.") && !strstr(e->name, ".attn"), "%s", e->name);
        canonical(name, e->name);
        if (strstr(name, ".attn2.pos_encoder.pe")) {
            char twin[300];
            snprintf(twin, sizeof twin, "%s", e->name);
            strstr(twin, "attention_blocks.")[strlen("attention_blocks.")] = '0';
            want = st_find(original, twin);
            twins++;
        } else {
            want = st_find(diffusers, name);
        }
        check(want && want->bytes == e->bytes && !memcmp(want->data, e->data, e->bytes), "%s differs",
              e->name);
    }
    for (int i = 0; i < st_count(diffusers); i++)
        tables += strstr(st_entry(diffusers, i)->name, "pos_embed.pe") != NULL;
    assert_true(twins > 0 && twins == tables);
    assert_int_equal(st_count(original), st_count(diffusers) + twins);
    assert_non_null(st_find(original,
                            "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0."
                            "attention_blocks.1.to_out.0.weight"));
    check_metadata(original, diffusers);
    st_close(original), st_close(diffusers);
    tiny_close(&t);
}

static int drop_table(Params *p, Weight *w)
{
    (void)p;
    if (w->kind == W_TABLE)
        w->file = NULL;
    return 0;
}

/* An adapter without position tables, as some are: they are computed and written. */
static void missing_position_tables_are_written(void **state)
{
    (void)state;
    static struct gimbal_trainer t;
    gimbal_clips clips;
    gimbal_error err = {0};
    SafeTensors *was, *is;
    Params walk = {.leaf = drop_table};
    int tables = 0;
    tiny_open(&t, &clips, "*motion_modules*proj_out*");
    unet_motion_params(t.engine->unet, &walk);
    check_ok(export_unet(&t, folder, false, &err), err);
    check_ok(st_open(&was, MODEL "-motion/diffusion_pytorch_model.safetensors", &err), err);
    check_ok(st_open(&is, in_folder("motion_adapter/diffusion_pytorch_model.safetensors"), &err), err);
    assert_int_equal(st_count(is), st_count(was));
    for (int i = 0; i < st_count(is); i++) {
        const StEntry *a = st_entry(is, i), *b = st_entry(was, i);
        assert_string_equal(a->name, b->name);
        assert_int_equal(a->bytes, b->bytes);
        const bool table = strstr(a->name, "pos_embed.pe"), trained = strstr(a->name, "proj_out");
        check(memcmp(a->data, b->data, a->bytes) == 0 || trained || table, "%s was not to change", a->name);
        check(!table || rel_rms(a->data, b->data, a->bytes / 4) < 1e-6, "%s is another table", a->name);
        tables += table;
    }
    assert_true(tables > 0);
    st_close(was), st_close(is);
    tiny_close(&t);
}

/* ---- export of anything ------------------------------------------------------------------- */

static void two_params(void *self, Params *p)
{
    Weight *w = self;
    pv_leaf(p, "a.weight", &w[0], W_LINEAR, 2, (int64_t[]){256, 257});
    pv_leaf(p, "b.bias", &w[1], W_BIAS, 1, (int64_t[]){3});
}

typedef struct {
    Weight w[2];
    struct gimbal_trainer t;
    struct gimbal_engine engine;
    gimbal_clips clips;
    Part part;
    Export export;
    float a[256 * 257];
} Any;

/* A network of two weights from a file that has two tensors more. */
static void any_open(Any *x)
{
    static const float a[256 * 257], b[3] = {1, -2, 0.5f};
    static const int32_t dead[2] = {7, 8};
    static const uint16_t buffer[3] = {0x3c00, 1, 2};
    gimbal_error err = {0};
    memset(x, 0, sizeof *x);
    const gimbal_tensor items[] = {{"a.weight", "F32", 2, {256, 257}, a},
                                   {"b.bias", "F32", 1, {3}, b},
                                   {"dead.ids", "I32", 1, {2}, dead},
                                   {"dead.buffer", "F16", 2, {1, 3}, buffer}};
    static const char *const unused[] = {"dead.*", NULL};
    const char *file = in_folder("source.safetensors");
    check_ok(st_write(file, items, COUNT(items), NULL, &err), err);
    check_ok(weights_open(&x->part.weights, file, &err), err);
    check_ok(bind_weights(x->part.weights, "", two_params, x->w, unused, NULL, &err), err);
    x->part.where = (char *)put_bytes("source.json", "{ \"as\": \"it was\" }\n", 19);
    memset(x->engine.identity, 'e', 64);
    x->engine.family = &family_animatediff;
    x->clips = (gimbal_clips){.count = 9, .identity = "c0ffee"};
    check_ok(gimbal_train_defaults(&x->t.s, NULL, &err), err);
    x->t.engine = &x->engine, x->t.clips = &x->clips, x->t.recipe = recipe_at(0);
    x->export = (Export){two_params, x->w, &x->part, NULL, "test/two"};
}

static void dead_tensors_and_the_config_come_along(void **state)
{
    (void)state;
    static Any x;
    gimbal_error err = {0};
    SafeTensors *st, *source;
    Mapped config;
    any_open(&x);
    x.t.s.save_type = "BF16";
    check_ok(export_network(&x.t, &x.export, in_folder("net"), false, &err), err);
    check_ok(st_open(&st, in_folder("net/diffusion_pytorch_model.safetensors"), &err), err);
    check_ok(st_open(&source, in_folder("source.safetensors"), &err), err);
    assert_int_equal(st_count(st), 4);
    assert_string_equal(st_find(st, "a.weight")->spelling, "BF16");
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "dead.buffer" : "dead.ids";
        const StEntry *a = st_find(st, name), *b = st_find(source, name);
        assert_string_equal(a->spelling, b->spelling);
        assert_true(a->nd == b->nd && a->bytes == b->bytes && !memcmp(a->data, b->data, a->bytes));
    }
    st_close(st), st_close(source);
    check_ok(load_file(&config, in_folder("net/config.json"), &err), err);
    assert_true(config.size == 19 && !memcmp(config.data, "{ \"as\": \"it was\" }\n", 19));
    unmap_file(&config);
    x.export.config = "{\"new\": 1}";
    check_ok(export_network(&x.t, &x.export, in_folder("net"), false, &err), err);
    check_ok(load_file(&config, in_folder("net/config.json"), &err), err);
    assert_true(config.size == 10 && !memcmp(config.data, "{\"new\": 1}", 10));
    unmap_file(&config);
    weights_close(x.part.weights);
}

static float value_of(DType type, uint32_t bits)
{
    const uint16_t stored = (uint16_t)bits;
    float x;
    widen(type, &stored, 0, 1, &x);
    return x;
}

/* Every number of the type comes back as it is, and what lies between two goes to the nearer one, or half way
 * to the even one. 65535 of 65792 numbers are looked at. */
static void check_rounding(Any *x, DType type, uint32_t finite)
{
    static const char *const between[] = {"itself", "a little above", "half way", "a little below the next"};
    gimbal_error err = {0};
    x->t.s.save_type = dtype_name(type);
    x->w[0].own = x->a;
    for (int k = 0; k < 4; k++) {
        SafeTensors *st;
        memset(x->a, 0, sizeof x->a);
        for (uint32_t h = 0; h + 1 < finite; h++) {
            const float low = value_of(type, h), high = value_of(type, h + 1),
                        middle = low + (high - low) / 2;
            const float to[] = {low, nextafterf(middle, low), middle, nextafterf(middle, high)};
            x->a[h] = to[k], x->a[h + finite] = -to[k];
        }
        check_ok(export_network(&x->t, &x->export, in_folder("net"), false, &err), err);
        check_ok(st_open(&st, in_folder("net/diffusion_pytorch_model.safetensors"), &err), err);
        const uint8_t *stored = st_find(st, "a.weight")->data;
        for (uint32_t h = 0; h + 1 < finite; h++) {
            const uint32_t want = k < 2 ? h : k == 2 ? h + (h & 1) : h + 1;
            const uint32_t plus = stored[2 * h] | stored[2 * h + 1] << 8;
            const uint8_t *other = stored + 2 * (size_t)(h + finite);
            check(plus == want, "%s, %x and %s: %x", dtype_name(type), h, between[k], plus);
            check((uint32_t)(other[0] | other[1] << 8) == (want | 0x8000), "%s, -%x", dtype_name(type), h);
        }
        st_close(st);
    }
}

static void numbers_are_rounded_once_to_the_nearest_even(void **state)
{
    (void)state;
    static Any x;
    any_open(&x);
    check_rounding(&x, F16, 0x7c00);
    check_rounding(&x, BF16, 0x7f80);
    weights_close(x.part.weights);
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    static Any x;
    gimbal_error err = {0};
    any_open(&x);
    x.w[0].own = x.a;
    x.t.s.save_type = "F16";
    x.a[70] = 65519.9f; /* rounds to 65504 */
    check_ok(export_network(&x.t, &x.export, in_folder("net"), false, &err), err);
    x.a[70] = -65520;
    check_fails(export_network(&x.t, &x.export, in_folder("net"), false, &err), GIMBAL_EVALUE, err,
                "a.weight: -65520 does not fit into F16");
    x.t.s.save_type = "BF16";
    check_ok(export_network(&x.t, &x.export, in_folder("net"), false, &err), err);
    x.a[70] = INFINITY;
    check_fails(export_network(&x.t, &x.export, in_folder("net"), false, &err), GIMBAL_EVALUE, err,
                "does not fit");
    x.w[0].own = NULL, x.w[0].file = NULL;
    check_fails(export_network(&x.t, &x.export, in_folder("net"), false, &err), GIMBAL_EMODEL, err,
                "a.weight: has no value");
    check_fails(export_network(&x.t, &x.export, in_folder("no/where"), false, &err), GIMBAL_EIO, err,
                "no/where");
    weights_close(x.part.weights);
}

static void the_image_network_binds_again(void **state)
{
    (void)state;
    static struct gimbal_trainer t;
    gimbal_clips clips;
    gimbal_error err = {0};
    WeightSet *weights;
    tiny_open(&t, &clips, "conv_in.*");
    check_ok(export_unet(&t, folder, false, &err), err);
    assert_false(is_folder(in_folder("motion_adapter")));
    check_ok(weights_open(&weights, in_folder("unet"), &err), err);
    const StEntry *e = weights_find(weights, "conv_in.weight"),
                  *other = weights_find(weights, "conv_out.weight");
    assert_memory_equal(e->data, t.set.value + t.set.p[0].at, e->bytes);
    const StEntry *was = weights_find(t.engine->part[PART_UNET].weights, "conv_out.weight");
    assert_memory_equal(other->data, was->data, was->bytes);
    check_ok(bind_weights(weights, "", unet_params, t.engine->unet, NULL, NULL, &err), err);
    tiny_close(&t);
    weights_close(weights);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, make_folder, drop_folder)
int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(motion_modules_bind_again),
        CASE(motion_modules_have_the_original_spelling_too),
        CASE(missing_position_tables_are_written),
        CASE(dead_tensors_and_the_config_come_along),
        CASE(numbers_are_rounded_once_to_the_nearest_even),
        CASE(what_does_not_fit_is_refused),
        CASE(the_image_network_binds_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
