/* t_consisti2v_rules.c: the ConsistI2V U-Net: what its blocks must do whatever the weights are, what its
 * config's variants say, how training begins without them, and what is refused. */
#include "tests/consisti2v.h"

/* ---- what blocks must do ----------------------------------------------------------------- */

static bool same_outputs(Unet *unet, Inputs *in, const char *first, const char *second)
{
    Watch w = {.name = {first, second}};
    Cx cx = {0};
    cx_init(&cx, cpu_chain(), 1, &err);
    cx.tap = keep_two, cx.tap_user = &w;
    UnetCall call = {.unet = unet, .frames = in->F};
    check(unet_forward(&cx, &call, (Tensor *[]){&in->in[0], &in->in[1], &in->in[2], &in->in[3]}) != NULL,
          "%.400s", err.msg);
    check(w.kept[0] && w.kept[1], "%s and %s are shown", first, second);
    const bool same = w.n[0] == w.n[1] && !memcmp(w.kept[0], w.kept[1], w.n[0] * sizeof(float));
    free(w.kept[0]), free(w.kept[1]), cx_free(&cx);
    return same;
}

/* Writes the spatial part of the published layout: what an image model's file has. */
static void write_image_model(const WeightSet *set, const char *path)
{
    enum { ROOM = 1500 };
    gimbal_tensor *items = calloc(ROOM, sizeof *items);
    int n = 0;
    for (int i = 0; i < weights_count(set); i++) {
        const StEntry *e = weights_entry(set, i);
        if (strstr(e->name, "conv3ds") || strstr(e->name, "tempo_attns") || strstr(e->name, "frame_stride"))
            continue;
        check(n < ROOM && e->nd <= 4, "%s fits", e->name);
        int64_t count = 1;
        items[n] = (gimbal_tensor){.name = e->name, .type = "F32", .nd = e->nd};
        for (int k = 0; k < e->nd; k++)
            items[n].n[k] = e->n[k], count *= e->n[k];
        float *x = malloc(sizeof *x * (size_t)count);
        widen(e->type, e->data, 0, count, x);
        items[n++].data = x;
    }
    check_ok(st_write(path, items, n, NULL, &err), err);
    for (int i = 0; i < n; i++)
        free((void *)items[i].data);
    free(items);
}

/* Training begins with an image model: what it lacks is made, and changes nothing at first. */
static void an_image_model_is_enough_to_begin_with(void **state)
{
    (void)state;
    char path[] = "/tmp/gimbal-consisti2v-XXXXXX.safetensors";
    Net full, net = {0};
    int made = 0;
    const int fd = mkstemps(path, 12);
    check(fd >= 0, "%s", path);
    fclose(fdopen(fd, "w"));
    open_net(&full);
    write_image_model(full.set, path);
    json_t *config = json_deep_copy(full.config);
    build_net(&net, config);
    check_ok(weights_open(&net.set, path, &err), err);
    check_fails(bind_weights(net.set, "", unet_params, net.unet, net.family->unet_ignore, NULL, &err),
                GIMBAL_EMODEL, err, "missing");
    check_ok(
        bind_fresh(net.set, "", unet_params, net.unet, net.family->unet_fresh, 7, &net.keep, &made, &err),
        err);
    check(made > 0 && made < weights_count(full.set) - weights_count(net.set), "%d made: not the dead ones",
          made);
    check_ok(bind_weights(net.set, "", unet_params, net.unet, net.family->unet_ignore, NULL, &err), err);
    SafeTensors *file;
    check_ok(st_open(&file, FOLDER "unet-batch1.safetensors", &err), err);
    Inputs in = recorded_inputs(&net, file);
    check(same_outputs(net.unet, &in, "down_blocks.0.resnets.0", "down_blocks.0.conv3ds.0"), "conv3ds");
    check(same_outputs(net.unet, &in, "down_blocks.0.attentions.0", "down_blocks.0.tempo_attns.0"),
          "tempo_attns");
    check(!same_outputs(full.unet, &in, "down_blocks.0.resnets.0", "down_blocks.0.conv3ds.0"),
          "trained ones do something");
    st_close(file), inputs_free(&in), remove(path);
    Params p = {.leaf = drop_layer}; /* the arena owns what was made */
    unet_params(net.unet, &p);
    weights_close(net.set), json_decref(net.config), arena_free(&net.keep);
    close_net(&full);
}

typedef struct {
    const char *part;
    int found;
} NameCount;

static int count_names(Params *p, Weight *w)
{
    NameCount *c = p->user;
    c->found += strstr(w->name, c->part) != NULL;
    return 0;
}

static int names_with(Unet *unet, const char *part)
{
    NameCount c = {.part = part};
    walk(unet, count_names, &c);
    return c.found;
}

/* Largest change of the last frame's prediction when the picture changes. */
static double reach_of_picture(const char *key, const char *value)
{
    Net net;
    formula_net(&net, key, value);
    Inputs in = formula_inputs(net.unet, 1, 8, 8);
    float *before = predict(net.unet, &in);
    for (int i = 0; i < 8 * 8 * 4; i++)
        in.x[i] = -in.x[i];
    float *after = predict(net.unet, &in);
    double most = 0;
    for (int c = 0; c < 4; c++)
        for (int i = 0; i < 64; i++) {
            const int at = (c * 4 + 3) * 64 + i;
            most = fmax(most, fabs((double)before[at] - after[at]));
        }
    free(before), free(after), inputs_free(&in), close_net(&net);
    return most;
}

static void modes_without_known_values_do_what_they_say(void **state)
{
    (void)state;
    Net net;
    formula_net(&net, "first_frame_condition_mode", "\"conv2d\"");
    check(names_with(net.unet, "first_frame_conv") == 2 * 9, "a convolution in each of nine blocks");
    check(net.shape.given && net.shape.given_space, "as concat beside");
    close_net(&net);
    formula_net(&net, "use_temporal", "false");
    check(!names_with(net.unet, "conv3ds") && !names_with(net.unet, "tempo_attns"), "nothing over time");
    close_net(&net);
    formula_net(&net, "first_frame_condition_mode", "\"none\"");
    check(!net.shape.given && !net.shape.given_space && net.shape.window, "no picture");
    close_net(&net);
    formula_net(&net, "use_frame_stride_condition", "false");
    check(!names_with(net.unet, "frame_stride") && !net.shape.stride && !net.run.frame_stride, "no stride");
    Inputs in = formula_inputs(net.unet, 1, 8, 8);
    in.in[3].n[0] = 9; /* is not looked at */
    free(predict(net.unet, &in)), inputs_free(&in), close_net(&net);
    check(reach_of_picture("first_frame_condition_mode", "\"conv2d\"") > 1e-2,
          "conv2d: the picture reaches all");
    check(reach_of_picture("use_temporal", "false") > 1e-2, "over space alone the picture reaches all");
}

/* With frame 0 of x unseen (no layers over time, none that sees the picture), the entries alone tell of it,
 * and only frame 0. */
static void frames_without_layers_between_do_not_see_the_picture(void **state)
{
    (void)state;
    Net net;
    json_t *config = formula_config("use_temporal", "false");
    json_object_set_new(config, "first_frame_condition_mode", json_string("input_only"));
    memset(&net, 0, sizeof net);
    build_net(&net, config);
    walk(net.unet, by_formula, NULL);
    Inputs in = formula_inputs(net.unet, 1, 8, 8);
    float *before = predict(net.unet, &in);
    for (int i = 0; i < 8 * 8 * 4; i++)
        in.x[i] = -in.x[i];
    float *after = predict(net.unet, &in);
    check_near(rel_rms(after, before, 4 * 4 * 64), 0, 1e-6, "later frames");
    free(before), free(after), inputs_free(&in), close_net(&net);
}

/* Guidance by text: one clip under two texts, and their keys made once, against two copies of the clip. */
static void texts_share_a_clip_and_keys_are_made_once(void **state)
{
    (void)state;
    Net net;
    Cx cx = {0};
    formula_net(&net, NULL, NULL);
    Inputs two = formula_inputs(net.unet, 2, 10, 6);
    const size_t clip = (size_t)two.F * 10 * 6 * 4;
    memcpy(two.x + clip, two.x, sizeof(float) * clip);
    float *want = predict(net.unet, &two);
    cx_init(&cx, cpu_chain(), 2, &err);
    Tensor one[4] = {two.in[0], two.in[1], two.in[2], two.in[3]};
    one[0].n[0] /= 2, one[1].n[0] = one[3].n[0] = 1;
    one[2] = *unet_text(&cx, net.unet, (Tensor *[]){&two.in[2]});
    check(one[2].n[2] == unet_text_width(net.unet), "keys of width %lld", (long long)one[2].n[2]);
    UnetCall call = {.unet = net.unet, .frames = two.F, .keyed = true};
    const Tensor *y = unet_forward(&cx, &call, (Tensor *[]){&one[0], &one[1], &one[2], &one[3]});
    check(y != NULL, "%.400s", err.msg);
    float *got = prediction(y, two.F);
    check_near(rel_rms(got, want, 2 * 4 * 4 * 60), 0, 5e-6, "shared and keyed");
    check(rel_rms(got, got + 4 * 4 * 60, 4 * 4 * 60) > 1e-3, "the texts differ");
    free(got), free(want), cx_free(&cx), inputs_free(&two), close_net(&net);
}

/* ---- configs and what is refused --------------------------------------------------------- */

static void absent_keys_have_the_constructors_defaults(void **state)
{
    (void)state;
    Net net = {0};
    json_t *config = json_loads("{\"_class_name\": \"VideoLDMUNet3DConditionModel\"}", 0, NULL);
    build_net(&net, config);
    const UnetShape *s = &net.shape;
    check(!s->given && !s->given_space && !s->given_entry && !s->window && !s->rotary && !s->stride,
          "no picture, sinusoids, no stride");
    check(s->blend_heads == 8 && s->context == 1280 && s->heads[0] == 8 && s->layers[3] == 2, "numbers");
    check(net.run.frames == 8 && net.run.width == 256, "8 frames of the trained size");
    close_net(&net);
}

static void check_refused(const char *key, const char *value, const char *word)
{
    json_t *config = formula_config(key, value);
    const FolderConfigs configs = {.unet = config, .unet_where = "unet/config.json"};
    const Family *family;
    UnetShape shape;
    RunDefaults defaults;
    check_ok(family_find(&family, &configs, &err), err);
    const int code = family->shape(&configs, &shape, &defaults, &err);
    check(code == GIMBAL_EMODEL || code == GIMBAL_EFORMAT, "%s = %s is refused: %d", key, value, code);
    check(strstr(err.msg, word) && strstr(err.msg, "unet/config.json"), "%s = %s: %.300s", key, value,
          err.msg);
    memset(&err, 0, sizeof err);
    json_decref(config);
}

static void configs_that_cannot_be_are_refused(void **state)
{
    (void)state;
    check_refused("first_frame_condition_mode", "\"Concat\"", "Concat");
    check_refused("first_frame_condition_mode", "3", "first_frame_condition_mode");
    check_refused("temp_pos_embedding", "\"alibi\"", "alibi");
    check_refused("n_temp_heads", "5", "n_temp_heads");
    check_refused("n_temp_heads", "0", "n_temp_heads");
    check_refused("n_frames", "-1", "n_frames");
    check_refused("n_frames", "1e9", "n_frames");
    check_refused("use_temporal", "\"yes\"", "use_temporal");
    check_refused("transformer_layers_per_block", "2", "transformer_layers_per_block");
    check_refused("num_attention_heads", "8", "num_attention_heads");
    json_t *config = formula_config("norm_num_groups", "8");
    json_object_set_new(config, "block_out_channels", json_pack("[i,i,i,i]", 40, 64, 96, 96));
    char *text = json_dumps(json_object_get(config, "block_out_channels"), 0);
    json_decref(config);
    check_refused("block_out_channels", text, "multiple");
    free(text);
}

static void calls_that_cannot_be_are_refused(void **state)
{
    (void)state;
    Net net;
    Cx cx = {0};
    formula_net(&net, NULL, NULL);
    Inputs in = formula_inputs(net.unet, 1, 8, 8);
    UnetCall call = {.unet = net.unet, .frames = in.F};
    cx_init(&cx, cpu_chain(), 1, &err);
    in.in[3].n[1] = 16;
    check(!unet_forward(&cx, &call, (Tensor *[]){&in.in[0], &in.in[1], &in.in[2], &in.in[3]}) &&
              strstr(err.msg, "stride"),
          "narrow stride features: %.200s", err.msg);
    memset(&err, 0, sizeof err);
    float x[4 * 6 * 8] = {0};
    Tensor t = input(F32, 3, (int64_t[]){4, 6, 8}, x);
    const struct {
        KvMap map;
        AttnArg arg;
        const char *word;
    } bad[] = {
        {KV_WINDOW, {.heads = 2, .frames = 4, .in_time = true, .width = 4}, "lines"},
        {KV_WINDOW, {.heads = 2, .frames = 4, .in_time = true}, "lines"},
        {KV_WINDOW, {.heads = 2, .frames = 4, .width = 3}, "window"},
        {KV_WINDOW, {.heads = 2, .frames = 4, .in_time = true, .causal = true, .width = 3}, "window"},
        {KV_FIRST, {.heads = 2, .frames = 4, .in_time = true}, "first frame"},
        {KV_FIRST, {.heads = 2, .frames = 4, .causal = true}, "first frame"},
    };
    for (int i = 0; i < COUNT(bad); i++) {
        const Kv kv = {&t, &t, bad[i].map};
        check(!op_attention(&cx, &t, &kv, 1, bad[i].arg) && strstr(err.msg, bad[i].word),
              "attention %d: %.200s", i, err.msg);
        memset(&err, 0, sizeof err);
    }
    Weight w = {.name = "w", .nd = 1, .n = {5}, .own = x};
    check(!op_rotate(&cx, &t, &w, 4) && strstr(err.msg, "half"), "rotate: %.200s", err.msg);
    memset(&err, 0, sizeof err);
    check(!op_rotate(&cx, &t, &w, 3) && strstr(err.msg, "frames"), "rotate: %.200s", err.msg);
    memset(&err, 0, sizeof err);
    check(!op_blend(&cx, &t, &t, &w) && strstr(err.msg, "expected [1]"), "blend: %.200s", err.msg);
    memset(&err, 0, sizeof err);
    check(!op_first(&cx, &t, &in.in[0], 4) && strstr(err.msg, "differ"), "first: %.200s", err.msg);
    memset(&err, 0, sizeof err);
    cx_free(&cx), inputs_free(&in), close_net(&net);
}

TESTS(an_image_model_is_enough_to_begin_with, modes_without_known_values_do_what_they_say,
      frames_without_layers_between_do_not_see_the_picture, texts_share_a_clip_and_keys_are_made_once,
      absent_keys_have_the_constructors_defaults, configs_that_cannot_be_are_refused,
      calls_that_cannot_be_are_refused)
