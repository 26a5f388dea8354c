/* t_modelscope.c: the ModelScope U-Net: against PyTorch module by module, by what its layers over time must
 * do whatever the weights are, its gradients, and what is refused of its configs and settings. Whole runs are
 * t_golden.c's.
 *
 * tests/golden/modelscope/unets holds one call each of networks that are unusual on purpose:
 *     old      bfloat16, 3 levels, heads that leave channels over, 2 clips of 5 frames of 5x9
 *     single   1 level, heads of 3 channels, one frame of 1x7, fractional timestep */
#include "diffusion/engine.h"
#include "tests/models.h"
#include "tests/network.h"

#define MODELSCOPE "tests/golden/models/modelscope-tiny"
#define UNETS "tests/golden/modelscope/unets/"

/* ---- a U-Net with weights ---------------------------------------------------------------- */

typedef struct {
    Arena keep;
    WeightSet *set;
    json_t *config;
    Unet *unet;
} Net;

static void open_net(Net *n, const char *folder)
{
    char where[PATH_ROOM];
    memset(n, 0, sizeof *n);
    snprintf(where, sizeof where, "%.1000s/config.json", folder);
    check_ok(weights_open(&n->set, folder, &err), err);
    check_ok(json_read(&n->config, where, &err), err);
    const FolderConfigs configs = {.unet = n->config, .unet_where = where};
    const Family *family;
    UnetShape shape;
    RunDefaults run_defaults;
    check_ok(family_find(&family, &configs, &err), err);
    check_ok(family->shape(&configs, &shape, &run_defaults, &err), err);
    check_ok(unet_build(&n->unet, &n->keep, &shape, &err), err);
    check_ok(bind_weights(n->set, "", unet_params, n->unet, family->unet_ignore, NULL, &err), err);
}

static int drop(Params *p, Weight *w)
{
    (void)p;
    weight_drop(w);
    return 0;
}

static void close_net(Net *n)
{
    Params p = {.leaf = drop};
    unet_params(n->unet, &p);
    weights_close(n->set), json_decref(n->config);
    arena_free(&n->keep);
}

/* ---- against PyTorch --------------------------------------------------------------------- */

static void the_golden_unet_agrees_module_by_module(void **state)
{
    (void)state;
    enum { B = 2, F = 6, C = 4, SIDE = 8, L = 77, D = 32, BASE = 24, MODULES = 11 };
    const char *path = "tests/golden/runs/ms_plain.out.safetensors";
    SafeTensors *file;
    Net net;
    size_t n;
    open_net(&net, MODELSCOPE "/unet");
    check_ok(st_open(&file, path, &err), err);
    float *latents = golden("tests/golden/runs/ms_plain.in.safetensors", "latents", &n),
          *x = channels_last(latents, B, C, F, SIDE * SIDE, true);
    float time[B][BASE], context[B][L * D];
    for (int b = 0; b < B; b++) {
        timestep_features(((const float *)st_find(file, "pass0.timesteps")->data)[0], BASE, time[b]);
        memcpy(context[b], st_find(file, b ? "context" : "neg_context")->data, sizeof context[b]);
    }
    Tensor in[] = {input(F32, 4, (int64_t[]){B * F, SIDE, SIDE, C}, x),
                   input(F32, 2, (int64_t[]){B, BASE}, time), input(F32, 3, (int64_t[]){B, L, D}, context)};
    Goldens g = {.file = file, .prefix = "act.unet", .frames = F};
    UnetCall call = {.unet = net.unet, .frames = F};
    run(unet_forward, &call, (Tensor *[]){&in[0], &in[1], &in[2]}, 3, &g, MODULES);
    free(latents), free(x);
    st_close(file), close_net(&net);
}

static void check_recorded(const char *folder, const char *recording)
{
    SafeTensors *file;
    Net net;
    open_net(&net, folder);
    check_ok(st_open(&file, recording, &err), err);
    check(recorded(file, "act.unet.") >= 10, "%s holds %d modules", recording, recorded(file, "act.unet."));
    check_unet(net.unet, file);
    st_close(file), close_net(&net);
}

static void heads_that_do_not_fill_their_channels_agree(void **state)
{
    (void)state;
    check_recorded("tests/golden/modelscope/models/old/unet", UNETS "old.safetensors");
}

static void one_frame_on_one_level_agrees(void **state)
{
    (void)state;
    check_recorded(UNETS "single", UNETS "single.safetensors");
}

/* ---- what layers over time must do ------------------------------------------------------- */

enum { F = 5, H = 6, W = 7, C = 4, L = 9, D = 32, BASE = 24, CLIP = F * H * W * C, TEXT = L * D };

/* Two clips with texts of their own, 5 frames of 6x7, which do not halve evenly. */
typedef struct {
    float x[2 * CLIP], time[2 * BASE], context[2 * TEXT];
} Case;

static Case *case_make(void)
{
    Case *c = calloc(1, sizeof *c);
    for (int i = 0; i < COUNT(c->x); i++)
        c->x[i] = sinf((float)(i * i % 9973));
    for (int i = 0; i < COUNT(c->context); i++)
        c->context[i] = cosf((float)(7 * i % 613));
    timestep_features(321, BASE, c->time);
    timestep_features(321, BASE, c->time + BASE);
    return c;
}

/* Prediction of `clips` clips from clip `first` on. */
static void predict(Unet *unet, const Case *c, int first, int clips, float *out)
{
    Cx cx = {0};
    cx_init(&cx, cpu_chain(), 2, &err);
    Tensor in[] = {input(F32, 4, (int64_t[]){clips * F, H, W, C}, c->x + first * CLIP),
                   input(F32, 2, (int64_t[]){clips, BASE}, c->time + first * BASE),
                   input(F32, 3, (int64_t[]){clips, L, D}, c->context + first * TEXT)};
    UnetCall call = {.unet = unet, .frames = F};
    const Tensor *y = unet_forward(&cx, &call, (Tensor *[]){&in[0], &in[1], &in[2]});
    check(y != NULL, "%.400s", err.msg);
    memcpy(out, y->d, sizeof(float) * (size_t)clips * CLIP);
    cx_free(&cx);
}

static void swap_frames(float *clip, int a, int b)
{
    enum { FRAME = CLIP / F };
    float kept[FRAME];
    memcpy(kept, clip + a * FRAME, sizeof kept);
    memcpy(clip + a * FRAME, clip + b * FRAME, sizeof kept);
    memcpy(clip + b * FRAME, kept, sizeof kept);
}

static void clips_of_one_call_do_not_see_each_other(void **state)
{
    (void)state;
    Net net;
    float both[2 * CLIP], alone[CLIP];
    Case *c = case_make();
    open_net(&net, MODELSCOPE "/unet");
    predict(net.unet, c, 0, 2, both);
    for (int k = 0; k < 2; k++) {
        predict(net.unet, c, k, 1, alone);
        check_near(rel_rms(both + k * CLIP, alone, CLIP), 0, 1e-6, "clip %d of two against itself alone", k);
    }
    check(rel_rms(both, both + CLIP, CLIP) > 0.1, "the two clips differ");
    free(c), close_net(&net);
}

/* What temporal convolutions are made into by a test, with weights of the test's own. */
enum { REVERSED, ZERO_LAST, MIDDLE_ONLY };

static int change_convolution(Params *p, Weight *w)
{
    const int how = *(const int *)p->user;
    const int64_t count = weight_count(w);
    const bool last = strstr(w->name, ".conv4.3.") != NULL;
    if (!strstr(w->name, "temp_convs") || (w->nd != 5 && !(last && how == ZERO_LAST)))
        return 0;
    float *own = malloc((size_t)count * sizeof *own);
    for (int64_t i = 0; i < count; i++) {
        const int64_t tap = i % 3;
        weight_widen(w, how == REVERSED ? i - tap + 2 - tap : i, 1, &own[i]);
        if ((how == ZERO_LAST && last) || (how == MIDDLE_ONLY && tap != 1))
            own[i] = 0;
    }
    weight_drop(w);
    w->own = own;
    return 0;
}

static int restore(Params *p, Weight *w)
{
    (void)p;
    free(w->own), w->own = NULL;
    return 0;
}

static void walk(Unet *unet, int (*leaf)(Params *, Weight *), void *user)
{
    Params p = {.leaf = leaf, .user = user};
    unet_params(unet, &p);
}

static void change(Unet *unet, int how)
{
    walk(unet, change_convolution, &how);
}

static void reversed_frames_and_taps_give_reversed_predictions(void **state)
{
    (void)state;
    Net net;
    float there[CLIP], back[CLIP];
    Case *c = case_make();
    open_net(&net, MODELSCOPE "/unet");
    predict(net.unet, c, 0, 1, there);
    for (int f = 0; f < F / 2; f++)
        swap_frames(c->x, f, F - 1 - f);
    predict(net.unet, c, 0, 1, back);
    for (int f = 0; f < F / 2; f++)
        swap_frames(back, f, F - 1 - f);
    check(rel_rms(back, there, CLIP) > 1e-3, "the taps know which way time runs");
    change(net.unet, REVERSED);
    predict(net.unet, c, 0, 1, back);
    for (int f = 0; f < F / 2; f++)
        swap_frames(back, f, F - 1 - f);
    check_near(rel_rms(back, there, CLIP), 0, 2e-6, "reversed prediction");
    walk(net.unet, restore, NULL);
    free(c), close_net(&net);
}

/* Attention over time knows no order and norms none: only the outer taps do. */
static void without_outer_taps_frames_may_be_exchanged(void **state)
{
    (void)state;
    Net net;
    float plain[CLIP], exchanged[CLIP];
    Case *c = case_make();
    open_net(&net, MODELSCOPE "/unet");
    change(net.unet, MIDDLE_ONLY);
    predict(net.unet, c, 0, 1, plain);
    swap_frames(c->x, 1, 4);
    predict(net.unet, c, 0, 1, exchanged);
    swap_frames(exchanged, 1, 4);
    check_near(rel_rms(exchanged, plain, CLIP), 0, 2e-6, "prediction of exchanged frames");
    walk(net.unet, restore, NULL);
    free(c), close_net(&net);
}

static void watch(Unet *unet, const Case *c, Watch *w)
{
    Cx cx = {0};
    cx_init(&cx, cpu_chain(), 1, &err);
    cx.tap = keep_two, cx.tap_user = w;
    Tensor in[] = {input(F32, 4, (int64_t[]){F, H, W, C}, c->x), input(F32, 2, (int64_t[]){1, BASE}, c->time),
                   input(F32, 3, (int64_t[]){1, L, D}, c->context)};
    UnetCall call = {.unet = unet, .frames = F};
    check(unet_forward(&cx, &call, (Tensor *[]){&in[0], &in[1], &in[2]}) != NULL, "%.400s", err.msg);
    check(w->kept[0] && w->kept[1], "%s and %s are shown", w->name[0], w->name[1]);
    cx_free(&cx);
}

static void watch_free(Watch *w)
{
    free(w->kept[0]), free(w->kept[1]);
}

static void a_temporal_convolution_that_ends_in_zeros_is_the_identity(void **state)
{
    (void)state;
    Net net;
    Case *c = case_make();
    Watch w = {.name = {"down_blocks.0.resnets.0", "down_blocks.0.temp_convs.0"}};
    open_net(&net, MODELSCOPE "/unet");
    change(net.unet, ZERO_LAST);
    watch(net.unet, c, &w);
    check(w.n[0] == w.n[1] && !memcmp(w.kept[0], w.kept[1], w.n[0] * sizeof(float)), "same bytes");
    walk(net.unet, restore, NULL);
    watch_free(&w), free(c), close_net(&net);
}

/* Frame 4 is beyond the reach of conv_in; without outer taps only norms and attention over the clip tell it
 * of frame 0. */
static void norms_over_time_cover_the_clip(void **state)
{
    (void)state;
    Net net;
    Case *c = case_make();
    Watch before = {.name = {"conv_in", "transformer_in"}}, after = before;
    open_net(&net, MODELSCOPE "/unet");
    watch(net.unet, c, &before);
    for (int i = 0; i < CLIP / F; i++)
        c->x[i] *= 3;
    watch(net.unet, c, &after);
    const size_t n = before.n[0] / F, from = 4 * n;
    check(!memcmp(before.kept[0] + from, after.kept[0] + from, n * sizeof(float)), "conv_in is of one frame");
    check(rel_rms(before.kept[1] + from, after.kept[1] + from, n) > 1e-4, "transformer_in is of all");
    watch_free(&before), watch_free(&after), free(c), close_net(&net);
}

/* ---- training ---------------------------------------------------------------------------- */

static int train(Params *p, Weight *w)
{
    (void)p;
    w->trainable = true;
    w->grad = calloc((size_t)weight_count(w), sizeof *w->grad);
    return 0;
}

/* Gradients in the order of the walk: kept the first time, compared and freed the second. */
typedef struct {
    float *kept[512];
    int n;
    bool compare;
} Gradients;

static int keep_or_compare(Params *p, Weight *w)
{
    Gradients *g = p->user;
    const size_t count = (size_t)weight_count(w);
    check(g->n < COUNT(g->kept), "room for %d gradients", g->n);
    float **kept = &g->kept[g->n++];
    if (!g->compare) {
        *kept = w->grad;
        w->grad = calloc(count, sizeof *w->grad);
        return 0;
    }
    double size = 0;
    for (size_t i = 0; i < count; i++)
        size += fabs((*kept)[i]);
    check(size > 0, "%s has a gradient", w->name);
    check_near(rel_rms(w->grad, *kept, count), 0, 1e-6, "gradient of %s", w->name);
    free(*kept), free(w->grad), w->grad = NULL;
    return 0;
}

static void recomputation_changes_no_gradient_and_every_parameter_has_one(void **state)
{
    (void)state;
    Net net;
    Case *c = case_make();
    Gradients *g = calloc(1, sizeof *g);
    open_net(&net, MODELSCOPE "/unet");
    walk(net.unet, train, NULL);
    for (int k = 0; k < 2; k++) {
        Cx cx = {0};
        cx_init(&cx, cpu_chain(), 2, &err);
        cx.tape = tape_new(), cx.recompute = k;
        Tensor in[] = {input(F32, 4, (int64_t[]){F, H, W, C}, c->x),
                       input(F32, 2, (int64_t[]){1, BASE}, c->time),
                       input(F32, 3, (int64_t[]){1, L, D}, c->context),
                       input(F32, 4, (int64_t[]){F, H, W, C}, c->x + CLIP)};
        UnetCall call = {.unet = net.unet, .frames = F};
        Tensor *y = unet_forward(&cx, &call, (Tensor *[]){&in[0], &in[1], &in[2]});
        check(y != NULL, "%.400s", err.msg);
        check_ok(backward(&cx, op_mse(&cx, y, &in[3])), err);
        g->compare = k, g->n = 0;
        walk(net.unet, keep_or_compare, g);
        tape_free(cx.tape), cx_free(&cx);
    }
    free(g), free(c), close_net(&net);
}

/* ---- the family -------------------------------------------------------------------------- */

static const char *const base =
    "{\"_class_name\": \"UNet3DConditionModel\", \"block_out_channels\": [32, 64], \"layers_per_block\": 1,"
    "\"norm_num_groups\": 8, \"attention_head_dim\": 16, \"cross_attention_dim\": 12, \"sample_size\": 8,"
    "\"down_block_types\": [\"CrossAttnDownBlock3D\", \"DownBlock3D\"],"
    "\"up_block_types\": [\"UpBlock3D\", \"CrossAttnUpBlock3D\"]}";

static int shape_of(const char *key, const char *value, UnetShape *shape, RunDefaults *defaults)
{
    json_error_t e;
    json_t *config = json_loads(base, 0, &e);
    check(config != NULL, "%s", e.text);
    if (key && value)
        json_object_set_new(config, key, json_loads(value, JSON_DECODE_ANY, &e));
    else if (key)
        json_object_del(config, key);
    const FolderConfigs configs = {.unet = config, .unet_where = "M/unet.json"};
    const Family *family;
    int code = family_find(&family, &configs, &err);
    code = code ? code : family->shape(&configs, shape, defaults, &err);
    json_decref(config);
    return code;
}

/* value NULL: the key is removed; says NULL: accepted. */
static const struct {
    const char *key, *value, *says;
} changes[] = {
    {"act_fn", "\"gelu\"", "gelu"},
    {"act_fn", "\"swish\"", NULL},
    {"downsample_padding", "0", "0"},
    {"mid_block_scale_factor", "2", "2"},
    {"mid_block_scale_factor", "1.0", NULL},
    {"num_attention_heads", "4", "4"},
    {"num_attention_heads", "null", NULL},
    {"time_cond_proj_dim", "256", "256"},
    {"down_block_types", "[\"CrossAttnDownBlock2D\", \"DownBlock3D\"]", "CrossAttnDownBlock2D"},
    {"down_block_types", NULL, "4 entries"},
    {"up_block_types", "[\"UpBlock3D\"]", "1 entries"},
    {"block_out_channels", "[32, 60]", "multiple"},
    {"block_out_channels", "[36, 64]", "multiple"},
    {"layers_per_block", "[1, 1]", "[1,1]"},
    {"layers_per_block", "9", "1 to 8"},
    {"attention_head_dim", "[16, 16]", "[16,16]"},
    {"attention_head_dim", "0", "0"},
    {"attention_head_dim", "33", "more than the 32 channels"},
    {"attention_head_dim", "20", NULL}, /* one head of 20 in 32 channels */
    {"cross_attention_dim", "[12, 12]", "[12,12]"},
    {"cross_attention_dim", "null", "null"},
    {"norm_num_groups", "null", "null"},
    {"norm_eps", "0", "0"},
    {"in_channels", "9", "out_channels"},
    {"sample_size", "null", NULL},
    {"sample_size", "[8, 12]", NULL},
    {"sample_size", "0", "1 to 4096"},
    {"use_linear_projection", "false", NULL},
    {"class_embed_type", "\"timestep\"",
     NULL}, /* early exports carry keys that the constructor does not know */
};

static void configs_are_refused_by_file_and_key(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT(changes); i++) {
        UnetShape shape;
        RunDefaults defaults;
        const char *key = changes[i].key, *value = changes[i].value, *says = changes[i].says;
        err = (gimbal_error){0};
        const int code = shape_of(key, value, &shape, &defaults);
        if (!says) {
            check(code == GIMBAL_OK, "\"%s\": %s is accepted: %.300s", key, value, err.msg);
            continue;
        }
        check(code == GIMBAL_EMODEL || code == GIMBAL_EFORMAT, "\"%s\": %s is refused", key, value);
        check(strstr(err.msg, "M/unet.json") && strstr(err.msg, key) && strstr(err.msg, says),
              "%.300s names the file, %s and \"%s\"", err.msg, key, says);
    }
    err = (gimbal_error){0};
}

static void defaults_are_those_of_the_pipeline(void **state)
{
    (void)state;
    UnetShape shape;
    RunDefaults d;
    check_ok(shape_of("sample_size", NULL, &shape, &d), err);
    check(d.frames == 16 && d.width == 256 && d.height == 256 && d.steps == 50,
          "%d frames of %d x %d, %d steps", d.frames, d.width, d.height, d.steps);
    check_near(d.cfg, 9, 0, "guidance");
    check_near(d.fps, 8, 0, "rate");
    check(shape.max_frames == 0, "any number of frames");
}

static void a_motion_adapter_is_refused_by_name(void **state)
{
    (void)state;
    gimbal_engine *e;
    check(gimbal_open(&e, MODELSCOPE, MOTION, &err) == GIMBAL_EUSAGE && !e, "it does not open");
    check(strstr(err.msg, "--motion is " MOTION) && strstr(err.msg, MODELSCOPE " is a modelscope model"),
          "%.400s", err.msg);
    err = (gimbal_error){0};
}

static void settings_of_motion_modules_are_refused_and_long_clips_are_not(void **state)
{
    (void)state;
    gimbal_settings s;
    Run r;
    gimbal_engine *e = opened(MODELSCOPE, NULL);
    check(!strcmp(gimbal_family(e), "modelscope"), "%s", gimbal_family(e));
    gimbal_defaults(&s, e);
    s.motion_norm = "frame";
    check_fails(run_resolve(&r, e, &s, &err), GIMBAL_EUSAGE, err, "--motion-norm is frame");
    err = (gimbal_error){0};
    gimbal_defaults(&s, e);
    s.frames = 333;
    check_ok(run_resolve(&r, e, &s, &err), err);
    check(r.shape.f == 333, "%d frames", r.shape.f);
    run_free(&r), gimbal_close(e);
}

static int declare_only(Params *p, Weight *w)
{
    (void)p, (void)w;
    return 0;
}

/* The cut of a long convolution over time must keep whole clips: timing it reads and writes real memory. */
static void the_cost_of_a_run_is_predicted(void **state)
{
    (void)state;
    Net net;
    Cx cx = {0};
    open_net(&net, MODELSCOPE "/unet");
    cx_init(&cx, cpu_chain(), 2, &err);
    Tensor in[] = {input(F32, 4, (int64_t[]){2 * 33, 12, 13, C}, NULL),
                   input(F32, 2, (int64_t[]){2, BASE}, NULL), input(F32, 3, (int64_t[]){2, L, D}, NULL)};
    UnetCall call = {.unet = net.unet, .frames = 33};
    Plan *plan = plan_make(&cx, unet_forward, &call, (Tensor *[]){&in[0], &in[1], &in[2]});
    check(plan != NULL, "%.300s", err.msg);
    char table[16384] = "";
    check(plan_print(plan, table, sizeof table) > 0 && strstr(table, "convt [66,12,13,24]x[24,24,3,1,1]"),
          "the table names its convolutions over time: %.300s", table);
    const double seconds = plan_seconds(&cx, plan, 0.05); /* too little for whole calls */
    check(seconds > 1e-4 && seconds < 1e4, "%g seconds", seconds);
    check(!cx_failed(&cx), "%.300s", err.msg);
    plan_free(plan), cx_free(&cx), close_net(&net);
}

/* The published network, 16 frames of 256x256 with guidance: 4.89e12 products of two numbers, counted from
 * its tensors: linears 49 %, convolutions over space 34 %, over time 14 %. The text's keys and values are
 * counted once per frame there and made once per clip here: 1.3 % less. */
static void the_published_network_costs_what_its_tensors_say(void **state)
{
    (void)state;
    Arena keep = {0};
    Cx cx = {0};
    UnetShape shape;
    RunDefaults d;
    Unet *unet;
    json_t *config =
        json_pack("{s:s}", "_class_name", "UNet3DConditionModel"); /* all else are the defaults */
    const FolderConfigs configs = {.unet = config, .unet_where = "unet"};
    Params p = {.leaf = declare_only};
    check_ok(family_modelscope.shape(&configs, &shape, &d, &err), err);
    check_ok(unet_build(&unet, &keep, &shape, &err), err);
    unet_params(unet, &p);
    cx_init(&cx, cpu_chain(), 2, &err);
    Tensor in[] = {input(F32, 4, (int64_t[]){2 * 16, 32, 32, 4}, NULL),
                   input(F32, 2, (int64_t[]){2, 320}, NULL), input(F32, 3, (int64_t[]){2, 77, 1024}, NULL)};
    UnetCall call = {.unet = unet, .frames = 16};
    Plan *plan = plan_make(&cx, unet_forward, &call, (Tensor *[]){&in[0], &in[1], &in[2]});
    check(plan != NULL, "%.300s", err.msg);
    check_near(plan_flops(plan) / 2 / 4.89e12, 0.987, 0.005, "products of one call");
    check(plan_bytes(plan) < 1u << 30, "%zu bytes of tensors", plan_bytes(plan));
    print_message("%.3g products, %.0f MiB of tensors, %.0f at least\n", plan_flops(plan) / 2,
                  (double)plan_bytes(plan) / (1 << 20), (double)plan_bound(plan) / (1 << 20));
    plan_free(plan), cx_free(&cx), arena_free(&keep), json_decref(config);
}

static void its_parts_are_described(void **state)
{
    (void)state;
    char *text;
    check_ok(gimbal_describe(MODELSCOPE, &text, &err), err);
    check(strstr(text, "\"family\": \"modelscope\"") && strstr(text, "\"usable\": true"), "%s", text);
    free(text);
    check_ok(gimbal_describe(MODELSCOPE "/unet", &text, &err), err);
    check(strstr(text, "\"kind\": \"network\"") && strstr(text, "\"attention_head_dim\": 8"), "%s", text);
    free(text);
}

TESTS(the_golden_unet_agrees_module_by_module, heads_that_do_not_fill_their_channels_agree,
      one_frame_on_one_level_agrees, clips_of_one_call_do_not_see_each_other,
      reversed_frames_and_taps_give_reversed_predictions, without_outer_taps_frames_may_be_exchanged,
      a_temporal_convolution_that_ends_in_zeros_is_the_identity, norms_over_time_cover_the_clip,
      recomputation_changes_no_gradient_and_every_parameter_has_one, configs_are_refused_by_file_and_key,
      defaults_are_those_of_the_pipeline, a_motion_adapter_is_refused_by_name,
      settings_of_motion_modules_are_refused_and_long_clips_are_not, the_cost_of_a_run_is_predicted,
      the_published_network_costs_what_its_tensors_say, its_parts_are_described)
