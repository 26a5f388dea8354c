/* t_shared_work.c: work that is skipped must not be missed: a call whose clip is shared by several texts, and
 * one on keys and values made beforehand, give what the plain call gives, for less.
 *
 * The networks are small, with random weights, and differ in where the first layer stands that reads the
 * text: that is where the frames of one clip become those of all texts. Two clips' worth of work is compared
 * with one clip and two texts: values, gradients, FLOPs; last, what the engine makes of it. */
#include "diffusion/engine.h"
#include "tests/network.h"

/* ---- networks ---------------------------------------------------------------------------- */

enum { C = 4, H = 5, W = 7, L = 9, D = 6, BASE = 8, MOST_F = 5, MOST_B = 3 };

typedef struct {
    Arena keep;
    Unet *unet;
} Net;

static uint32_t state_of_weights;

static int init(Params *p, Weight *w)
{
    (void)p;
    const int64_t count = weight_count(w), out = w->n[0];
    const double scale = w->kind == W_NORM_SCALE || w->nd < 2 ? 0.3 : sqrt(3.0 * (double)out / (double)count);
    w->own = calloc((size_t)count, sizeof *w->own);
    for (int64_t i = 0; i < count; i++) {
        state_of_weights = state_of_weights * 1664525u + 1013904223u;
        w->own[i] = (float)(scale * ((state_of_weights >> 8) / 8388608.0 - 1) + (w->kind == W_NORM_SCALE));
    }
    return 0;
}

static int release(Params *p, Weight *w)
{
    (void)p;
    weight_drop(w);
    free(w->own), free(w->grad);
    return 0;
}

static void walk(Unet *unet, int (*leaf)(Params *, Weight *), void *user)
{
    Params p = {.leaf = leaf, .user = user};
    unet_params(unet, &p), unet_motion_params(unet, &p);
}

/* Two levels of an image network with motion modules everywhere. */
static UnetShape image_shape(bool first, bool second, bool mid, bool up)
{
    return (UnetShape){.in = C,
                       .out = C,
                       .levels = 2,
                       .width = {BASE, 2 * BASE},
                       .layers = {1, 2},
                       .heads = {2, 2},
                       .depth = {2, 1},
                       .down_attn = {first, second},
                       .up_attn = {up, first},
                       .mid_attn = mid,
                       .groups = 4,
                       .context = D,
                       .eps = 1e-5f,
                       .linear_proj = second,
                       .motion_heads = {2, 2},
                       .motion_depth = {1, 1},
                       .motion_mid_depth = 1,
                       .max_frames = MOST_F,
                       .motion = true,
                       .motion_mid = true};
}

static UnetShape video_shape(bool first)
{
    UnetShape s = image_shape(first, true, true, true);
    s.motion = s.motion_mid = false;
    s.temporal = true, s.head_width = 4, s.entry_heads = 2, s.linear_proj = true;
    return s;
}

enum { NOWHERE = 4, SHAPES = 7 };
static const char *const first_text[SHAPES] = {"on the way down, first level",
                                               "on the way down, second level",
                                               "in the middle",
                                               "on the way up",
                                               "nowhere",
                                               "of a video network, first level",
                                               "of a video network, second level"};

static UnetShape shape_at(int i)
{
    return i == 0   ? image_shape(true, true, true, true)
           : i == 1 ? image_shape(false, true, false, true)
           : i == 2 ? image_shape(false, false, true, false)
           : i == 3 ? image_shape(false, false, false, true)
           : i == 4 ? image_shape(false, false, false, false)
                    : video_shape(i == 5);
}

static void net_make(Net *n, const UnetShape *s)
{
    gimbal_error err = {0};
    *n = (Net){0};
    check_ok(unet_build(&n->unet, &n->keep, s, &err), err);
    state_of_weights = 7;
    walk(n->unet, init, NULL);
}

static void net_free(Net *n)
{
    walk(n->unet, release, NULL);
    arena_free(&n->keep);
}

/* ---- one call in several ways ------------------------------------------------------------ */

/* Room for the largest call: x of B equal clips, their equal timesteps, B texts, their keys and values. */
typedef struct {
    int B, F;
    float x[MOST_B * MOST_F * H * W * C], time[MOST_B * BASE], text[MOST_B * L * D];
    float *keys;
} Inputs;

static Inputs *inputs_make(int B, int F)
{
    Inputs *in = calloc(1, sizeof *in);
    const int clip = F * H * W * C;
    in->B = B, in->F = F;
    for (int i = 0; i < B * clip; i++)
        in->x[i] = sinf((float)(i % clip * (i % clip) % 9973));
    for (int i = 0; i < COUNT(in->text); i++)
        in->text[i] = 2 * cosf((float)(i * i % 7919));
    for (int b = 0; b < B; b++)
        timestep_features(371.5, BASE, in->time + b * BASE);
    return in;
}

static void inputs_free(Inputs *in)
{
    free(in->keys), free(in);
}

/* unet_text's result, kept with the inputs. */
static void make_keys(Inputs *in, Unet *unet)
{
    gimbal_error err = {0};
    Cx cx = {0};
    cx_init(&cx, cpu_chain(), 2, &err);
    Tensor text = input(F32, 3, (int64_t[]){in->B, L, D}, in->text);
    const Tensor *y = unet_text(&cx, unet, (Tensor *[]){&text});
    check(y && y->n[0] == in->B && y->n[1] == L && y->n[2] == unet_text_width(unet) && y->ld == y->n[2],
          "keys and values: %.400s", err.msg);
    in->keys = malloc(sizeof(float) * (size_t)tensor_count(y));
    memcpy(in->keys, y->d, sizeof(float) * (size_t)tensor_count(y));
    cx_free(&cx);
}

typedef struct {
    bool shared, keyed;
    int threads; /* 0: eagerly with two; else planned */
} Manner;

static Tensor *call_inputs(const Inputs *in, const Unet *unet, bool shared, bool keyed, Tensor room[3],
                           Tensor *list[3])
{
    const int clips = shared ? 1 : in->B, width = keyed ? unet_text_width(unet) : D;
    room[0] = input(F32, 4, (int64_t[]){clips * in->F, H, W, C}, in->x);
    room[1] = input(F32, 2, (int64_t[]){clips, BASE}, in->time);
    room[2] = input(F32, 3, (int64_t[]){in->B, L, width}, keyed ? in->keys : in->text);
    for (int i = 0; i < 3; i++)
        list[i] = &room[i];
    return room;
}

/* The prediction [B*F,H,W,C]; the caller frees it. */
static float *predict(Unet *unet, const Inputs *in, Manner way, bool norm_clip)
{
    gimbal_error err = {0};
    Cx cx = {0};
    Tensor room[3], *list[3];
    UnetCall call = {.unet = unet, .frames = in->F, .norm_clip = norm_clip, .keyed = way.keyed};
    Plan *plan = NULL;
    cx_init(&cx, cpu_chain(), MAX(way.threads, 1), &err);
    call_inputs(in, unet, way.shared, way.keyed, room, list);
    if (way.threads) {
        plan = plan_make(&cx, unet_forward, &call, list);
        check(plan != NULL, "%.400s", err.msg);
        cx.work_bytes = plan_bytes(plan);
        cx.work = alloc_array(cx.work_bytes, 1);
    }
    const Tensor *y = plan ? plan_run(&cx, plan, unet_forward, &call, list) : unet_forward(&cx, &call, list);
    check(y != NULL, "%.400s", err.msg);
    const int64_t count = (int64_t)in->B * in->F * H * W * C;
    check(tensor_count(y) == count && y->nd == 4, "the prediction has %lld values, expected %lld",
          (long long)tensor_count(y), (long long)count);
    float *out = malloc(sizeof(float) * (size_t)count);
    memcpy(out, y->d, sizeof(float) * (size_t)count);
    plan_free(plan), free(cx.work);
    cx_free(&cx);
    return out;
}

/* Measured 0 with vec and ref, 1.3e-6 with oneDNN alone, which chooses its convolutions by the number of
 * pictures; gradients 1.4e-6, with oneDNN alone 3.5e-5. */
static const double rounding = 5e-6, gradient_rounding = 1e-4;

static void check_shape(int i, int B, int F, bool norm_clip)
{
    const UnetShape shape = shape_at(i);
    const size_t clip = (size_t)F * H * W * C, count = (size_t)B * clip;
    const bool reads = i != NOWHERE;
    Net net;
    net_make(&net, &shape);
    Inputs *in = inputs_make(B, F);
    float *plain = predict(net.unet, in, (Manner){0}, norm_clip);
    check((rel_rms(plain, plain + clip, clip) > 1e-3) == reads, "texts differ, and only where they are read");
    if (reads)
        make_keys(in, net.unet);
    for (int k = 1; k < (reads ? 4 : 2); k++) {
        const Manner way = {.shared = k & 1, .keyed = k & 2};
        float *y = predict(net.unet, in, way, norm_clip);
        check_near(rel_rms(y, plain, count), 0, rounding, "text first read %s, %d frames,%s%s", first_text[i],
                   F, way.shared ? " shared" : "", way.keyed ? " keyed" : "");
        for (int threads = 1; threads <= 3; threads++) {
            float *z = predict(net.unet, in, (Manner){way.shared, way.keyed, threads}, norm_clip);
            check(!memcmp(z, y, count * sizeof *y), "planned, %d threads: the same bytes", threads);
            free(z);
        }
        free(y);
    }
    free(plain), inputs_free(in), net_free(&net);
}

static void a_clip_that_texts_share_gives_what_copies_of_it_give(void **state)
{
    (void)state;
    for (int i = 0; i < SHAPES; i++)
        for (int F = 1; F <= MOST_F; F++)
            check_shape(i, 2 + F % 2, F, (F + i) % 2);
}

/* A network whose keys and values are as wide as its context: only the caller knows which it gives. */
static void the_call_says_whether_it_gives_keys(void **state)
{
    (void)state;
    UnetShape shape = shape_at(2);
    shape.width[1] = 3 * BASE / 2 * 2, shape.groups = 4, shape.depth[1] = 1;
    shape.context = 2 * shape.width[1];
    Net net;
    net_make(&net, &shape);
    check(unet_text_width(net.unet) == shape.context, "%d channels of keys and values, context %d",
          unet_text_width(net.unet), shape.context);
    enum { F = 2 };
    const int width = shape.context;
    gimbal_error err = {0};
    Inputs *in = inputs_make(1, F);
    float *text = malloc(sizeof(float) * (size_t)(L * width)), out[3][F * H * W * C];
    for (int i = 0; i < L * width; i++)
        text[i] = cosf((float)(i * i % 4099));
    for (int k = 0; k < 3; k++) { /* text as text, its keys as keys, text as keys */
        Cx cx = {0};
        cx_init(&cx, cpu_chain(), 1, &err);
        Tensor x = input(F32, 4, (int64_t[]){F, H, W, C}, in->x),
               t = input(F32, 2, (int64_t[]){1, BASE}, in->time),
               c = input(F32, 3, (int64_t[]){1, L, width}, text);
        UnetCall call = {.unet = net.unet, .frames = F, .keyed = k > 0};
        Tensor *keys = k == 1 ? unet_text(&cx, net.unet, (Tensor *[]){&c}) : &c;
        const Tensor *y = unet_forward(&cx, &call, (Tensor *[]){&x, &t, keys});
        check(y != NULL, "%.400s", err.msg);
        memcpy(out[k], y->d, sizeof out[k]);
        cx_free(&cx);
    }
    check_near(rel_rms(out[1], out[0], COUNT(out[0])), 0, rounding, "keys given");
    check(rel_rms(out[2], out[0], COUNT(out[0])) > 1e-3, "text taken for keys is something else");
    free(text), inputs_free(in), net_free(&net);
}

static void inputs_that_do_not_go_together_are_refused(void **state)
{
    (void)state;
    const UnetShape shape = shape_at(0), silent = shape_at(NOWHERE);
    Net net, deaf;
    net_make(&net, &shape), net_make(&deaf, &silent);
    const int keys = unet_text_width(net.unet);
    const struct {
        int clips, times, texts, width;
        bool keyed;
        const char *says;
    } cases[] = {
        {2, 2, 3, D, false, "text of 3 clips, width 6, expected 2 clips, width 6"},
        {2, 1, 2, D, false, "timestep features [1,8], expected [2,8]"},
        {1, 2, 2, D, false, "timestep features [2,8], expected [1,8]"},
        {1, 1, 2, keys, false, "expected 1 clips or more, width 6"},
        {1, 1, 2, D, true, "keys and values of 2 clips, width 6"},
        {3, 3, 1, keys, true, "keys and values of 1 clips"},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        gimbal_error err = {0};
        Cx cx = {0};
        cx_init(&cx, cpu_chain(), 1, &err);
        Tensor x = input(F32, 4, (int64_t[]){cases[i].clips * 3, H, W, C}, NULL),
               t = input(F32, 2, (int64_t[]){cases[i].times, BASE}, NULL),
               c = input(F32, 3, (int64_t[]){cases[i].texts, L, cases[i].width}, NULL);
        UnetCall call = {.unet = net.unet, .frames = 3, .keyed = cases[i].keyed};
        check(!plan_make(&cx, unet_forward, &call, (Tensor *[]){&x, &t, &c}), "case %d is refused", i);
        check(err.code == GIMBAL_EMODEL && strstr(err.msg, cases[i].says), "case %d: %.400s", i, err.msg);
        cx_free(&cx);
    }
    gimbal_error err = {0};
    Cx cx = {0};
    cx_init(&cx, cpu_chain(), 1, &err);
    Tensor c = input(F32, 3, (int64_t[]){1, L, D}, NULL);
    check(unet_text_width(deaf.unet) == 0 && !plan_make(&cx, unet_text, deaf.unet, (Tensor *[]){&c}) &&
              strstr(err.msg, "none of its layers reads a text"),
          "%.400s", err.msg);
    cx_free(&cx), net_free(&net), net_free(&deaf);
}

/* ---- gradients --------------------------------------------------------------------------- */

static int train(Params *p, Weight *w)
{
    (void)p;
    w->trainable = true;
    w->grad = calloc((size_t)weight_count(w), sizeof *w->grad);
    return 0;
}

/* Gradients in the order of the walk: of the plain call, then compared with. */
typedef struct {
    float *kept[1024];
    int n;
    bool compare;
    const char *how;
} Gradients;

static int keep_or_compare(Params *p, Weight *w)
{
    Gradients *g = p->user;
    const size_t count = (size_t)weight_count(w);
    check(g->n < COUNT(g->kept), "room for %d gradients", g->n);
    float **kept = &g->kept[g->n++];
    if (g->compare)
        check_near(rel_rms(w->grad, *kept, count), 0, gradient_rounding, "gradient of %s, %s", w->name,
                   g->how);
    else
        *kept = malloc(count * sizeof **kept), memcpy(*kept, w->grad, count * sizeof **kept);
    memset(w->grad, 0, count * sizeof *w->grad);
    return 0;
}

static void add_gradients(Unet *unet, const Inputs *in, bool shared, bool recompute, const Tensor *target)
{
    gimbal_error err = {0};
    Cx cx = {0};
    Tensor room[3], *list[3], goal = *target;
    UnetCall call = {.unet = unet, .frames = in->F, .norm_clip = true};
    cx_init(&cx, cpu_chain(), 2, &err);
    cx.tape = tape_new(), cx.recompute = recompute;
    call_inputs(in, unet, shared, false, room, list);
    Tensor *y = unet_forward(&cx, &call, list);
    check(y != NULL, "%.400s", err.msg);
    check_ok(backward(&cx, op_mse(&cx, y, &goal)), err);
    tape_free(cx.tape), cx_free(&cx);
}

static void gradients_through_the_repetition_are_those_of_copies(void **state)
{
    (void)state;
    enum { B = 2, F = 3 };
    static const char *const how[] = {"plain", "shared", "shared and recomputed"};
    float goal[B * F * H * W * C];
    for (int i = 0; i < COUNT(goal); i++)
        goal[i] = cosf((float)(3 * i * i % 6007));
    const Tensor target = input(F32, 4, (int64_t[]){B * F, H, W, C}, goal);
    for (int i = 0; i < SHAPES; i++) {
        const UnetShape shape = shape_at(i);
        Gradients *g = calloc(1, sizeof *g);
        Net net;
        net_make(&net, &shape);
        Inputs *in = inputs_make(B, F);
        walk(net.unet, train, NULL);
        for (int k = 0; k < COUNT(how); k++) {
            add_gradients(net.unet, in, k > 0, k > 1, &target);
            g->n = 0, g->compare = k > 0, g->how = how[k];
            walk(net.unet, keep_or_compare, g);
        }
        for (int k = 0; k < g->n; k++)
            free(g->kept[k]);
        free(g), inputs_free(in), net_free(&net);
    }
}

/* ---- what it saves ----------------------------------------------------------------------- */

static int declare_only(Params *p, Weight *w)
{
    (void)p, (void)w;
    return 0;
}

typedef struct {
    double flops, text; /* text: of unet_text */
    size_t bytes;
} Dry;

/* A guided call at [16,4,32,32], dry. */
static Dry dry_run(Unet *unet, int width, bool shared, bool keyed)
{
    enum { F = 16, S = 32, TEXT = 77 };
    gimbal_error err = {0};
    Cx cx = {0};
    cx_init(&cx, cpu_chain(), 1, &err);
    const int clips = shared ? 1 : 2;
    Tensor x = input(F32, 4, (int64_t[]){clips * F, S, S, 4}, NULL),
           t = input(F32, 2, (int64_t[]){clips, unet_shape(unet)->width[0]}, NULL),
           c = input(F32, 3, (int64_t[]){2, TEXT, width}, NULL), k = c;
    k.n[2] = k.ld = unet_text_width(unet);
    UnetCall call = {.unet = unet, .frames = F, .norm_clip = true, .keyed = keyed};
    Plan *plan = plan_make(&cx, unet_forward, &call, (Tensor *[]){&x, &t, keyed ? &k : &c}),
         *text = plan_make(&cx, unet_text, unet, (Tensor *[]){&c});
    check(plan && text, "%.400s", err.msg);
    const Dry d = {plan_flops(plan), plan_flops(text), plan_bytes(plan)};
    plan_free(plan), plan_free(text), cx_free(&cx);
    return d;
}

static void published(Net *n, const Family *family, const char *unet, const char *motion)
{
    gimbal_error err = {0};
    json_error_t e;
    json_t *config = json_loads(unet, 0, &e), *adapter = motion ? json_loads(motion, 0, &e) : NULL;
    const FolderConfigs configs = {
        .unet = config, .motion = adapter, .unet_where = "unet", .motion_where = "motion"};
    UnetShape shape;
    RunDefaults d;
    *n = (Net){0};
    check_ok(family->shape(&configs, &shape, &d, &err), err);
    check_ok(unet_build(&n->unet, &n->keep, &shape, &err), err);
    walk(n->unet, declare_only, NULL);
    json_decref(config), json_decref(adapter);
}

static void report(const char *name, Dry plain, Dry less)
{
    print_message("%s, 16 frames of 256x256 with guidance: %.4g GFLOP plain, %.4g now, %.3g saved (%.2f %%); "
                  "keys and values %.3g once; tensors %.0f MiB plain, %.0f now\n",
                  name, plain.flops / 1e9, less.flops / 1e9, (plain.flops - less.flops) / 1e9,
                  100 * (1 - less.flops / plain.flops), less.text / 1e9, (double)plain.bytes / (1 << 20),
                  (double)less.bytes / (1 << 20));
}

/* By hand, of SD 1.5: a clip of 16 frames of 32x32 once less through conv_in, the first ResNet, and the first
 * transformer up to the queries on the text; one row less of time embedding and its projections. */
static void stable_diffusion_saves_what_it_shares(void **state)
{
    (void)state;
    Net net;
    published(&net, &family_animatediff,
              "{\"_class_name\": \"UNet2DConditionModel\", \"cross_attention_dim\": 768,"
              " \"attention_head_dim\": 8}",
              "{\"_class_name\": \"MotionAdapter\"}");
    check(unet_text_width(net.unet) == 2 * (5 * 320 + 5 * 640 + 6 * 1280), "%d channels of keys and values",
          unet_text_width(net.unet));
    const double rows = 16 * 32 * 32, w = 320, T = 1280;
    const double conv_in = 2 * rows * 9 * 4 * w;
    const double resnet = 2 * (2 * rows * 9 * w * w + 12 * rows * w);
    const double transformer = 8 * rows * w * 3 + 2 * rows * w * w * 6 + 4 * rows * w * 1024;
    const double projections = 2 * T * (5 * 320 + 5 * 640 + 12 * 1280), time = 2 * (w * T + T * T);
    const double keys = 2.0 * 2 * 77 * 768 * unet_text_width(net.unet);
    const Dry plain = dry_run(net.unet, 768, false, false), shared = dry_run(net.unet, 768, true, false),
              keyed = dry_run(net.unet, 768, false, true), both = dry_run(net.unet, 768, true, true);
    check_near(plain.text / keys, 1, 1e-12, "FLOPs of keys and values");
    check_near((plain.flops - keyed.flops) / keys, 1, 1e-9, "FLOPs saved by keys");
    check_near((plain.flops - shared.flops) / (conv_in + resnet + transformer + projections + time), 1, 1e-9,
               "FLOPs saved by sharing");
    check_near((plain.flops - both.flops) / (plain.flops - keyed.flops + plain.flops - shared.flops), 1, 1e-9,
               "FLOPs saved by both");
    check(both.bytes <= plain.bytes, "%zu bytes of tensors, plainly %zu", both.bytes, plain.bytes);
    report("SD 1.5 + AnimateDiff", plain, both);
    arena_free(&net.keep);
}

static void modelscope_shares_its_layers_over_time_too(void **state)
{
    (void)state;
    Net net;
    published(&net, &family_modelscope, "{\"_class_name\": \"UNet3DConditionModel\"}", NULL);
    const Dry plain = dry_run(net.unet, 1024, false, false), both = dry_run(net.unet, 1024, true, true);
    const double rows = 16 * 32 * 32, w = 320;
    /* of conv_in, transformer_in, the first ResNet and its temporal convolution the products alone */
    const double least = 2 * rows * w * (9 * 4 + 2 * 9 * w + 4 * 3 * w + 14 * w);
    check(plain.flops - both.flops > least + both.text, "saved %g FLOPs, expected more than %g",
          plain.flops - both.flops, least + both.text);
    check(both.bytes <= plain.bytes, "%zu bytes of tensors, plainly %zu", both.bytes, plain.bytes);
    report("ModelScope", plain, both);
    arena_free(&net.keep);
}

/* ---- the operator and the engine --------------------------------------------------------- */

static int count_repeats(void *user, const PlanCall *p)
{
    *(int *)user += !strncmp(p->text, "repeat ", 7) && p->seconds > 0 ? p->count : 0;
    return 0;
}

/* Of the first transformer: queries, residual inside, residual around; and the three skips from before it. */
static void repetitions_are_planned_and_timed_like_any_operator(void **state)
{
    (void)state;
    gimbal_error err = {0};
    const UnetShape shape = shape_at(1);
    Net net;
    Cx cx = {0};
    Tensor room[3], *list[3];
    int repeats = 0;
    net_make(&net, &shape);
    Inputs *in = inputs_make(3, 5);
    cx_init(&cx, cpu_chain(), 2, &err);
    UnetCall call = {.unet = net.unet, .frames = 5};
    call_inputs(in, net.unet, true, false, room, list);
    Plan *plan = plan_make(&cx, unet_forward, &call, list);
    check(plan != NULL, "%.400s", err.msg);
    check_ok(plan_trials(&cx, plan, 0.01, count_repeats, &repeats), err);
    check(repeats == 6, "%d repetitions, expected 3 in the transformer and 3 skips", repeats);
    const double seconds = plan_seconds(&cx, plan, 0.001); /* too little for whole calls: they are cut */
    check(seconds > 1e-5 && seconds < 10 && !cx_failed(&cx), "%g s: %.400s", seconds, err.msg);

    Tensor x = input(F32, 3, (int64_t[]){2, 1, 3}, in->x), line = input(F32, 1, (int64_t[]){6}, in->x);
    const Tensor *y = op_repeat(&cx, op_channels(&cx, &x, 1, 2), 3);
    check(op_repeat(&cx, &x, 1) == &x && y && y->n[0] == 6 && y->n[1] == 1 && y->ld == 2, "shapes");
    for (int i = 0; i < 12; i++)
        check(((float *)y->d)[i] == in->x[i % 4 / 2 * 3 + 1 + i % 2], "value %d", i);
    check(!op_repeat(&cx, &x, 0) && strstr(err.msg, "cannot be repeated 0 times"), "%.400s", err.msg);
    memset(&err, 0, sizeof err);
    check(!op_repeat(&cx, &line, 2) && strstr(err.msg, "[6] cannot be repeated"), "%.400s", err.msg);
    plan_free(plan), cx_free(&cx), inputs_free(in), net_free(&net);
}

static int note_runs(void *user, const PlanCall *p)
{
    int *most = user;
    *most = MAX(*most, p->runs / p->count);
    return 0;
}

static int runs_of(Plans *p, const Plan *plan)
{
    int most = 0;
    check(!plan_times(&p->cx, plan, note_runs, &most), "%.400s", p->err.msg);
    return most;
}

static int stop_once(void *user, const gimbal_progress *p)
{
    int *left = user;
    return !strcmp(p->stage, "text") && (*left)-- == 1;
}

/* Cancelled while the texts are made; then two clips: five calls of the network, one of unet_text. */
static void a_run_makes_its_keys_once(void **state)
{
    (void)state;
    gimbal_error err = {0};
    gimbal_engine *e;
    gimbal_settings s;
    gimbal_session *run;
    int left = 2;
    check_ok(gimbal_open(&e, "models/toyworld", NULL, &err), err);
    gimbal_defaults(&s, e);
    s.prompt = "a red ball", s.frames = 3, s.width = 40, s.height = 24, s.steps = 3;
    s.progress = stop_once, s.user = &left;
    check_ok(gimbal_begin(&run, e, &s, &err), err);
    const size_t n = shape_count(run->run.shape);
    float *one = malloc(n * sizeof *one), *two = malloc(n * sizeof *two);
    Plans *p = &run->plans;
    check_fails(gimbal_sample(run, one, &err), GIMBAL_ECANCEL, err, "text 2");
    check(runs_of(p, p->guide.text) == 0, "cancelled before the keys were made");
    check_ok(gimbal_sample(run, one, &err), err);
    check_ok(gimbal_sample(run, two, &err), err);
    check(!memcmp(one, two, n * sizeof *one), "the second clip equals the first");
    check(runs_of(p, p->guide.text) == 1 && runs_of(p, p->guide.plan[1]) == 6, "%d and %d runs",
          runs_of(p, p->guide.text), runs_of(p, p->guide.plan[1]));
    const uint64_t guided = p->host_bytes;
    gimbal_end(run);

    s.cfg = 1; /* one branch: one prompt's context, keys and values less */
    check_ok(gimbal_begin(&run, e, &s, &err), err);
    check(guided - run->plans.host_bytes ==
              sizeof(float) * TOKENS * (size_t)(e->shape.context + unet_text_width(e->unet)),
          "%llu and %llu bytes of arrays", (unsigned long long)guided,
          (unsigned long long)run->plans.host_bytes);
    gimbal_end(run), gimbal_close(e);
    free(one), free(two);
}

/* ---- a call that is cancelled ------------------------------------------------------------ */

static atomic_int stop;
static int ops_left;

static int supports_all(const Cx *cx, Call *call, bool backward)
{
    return backend_ref.supports(cx, call, backward);
}

/* Computes nothing, for nobody looks at values; cancels with the last operator that is let through. */
static int count_only(Cx *cx, const Call *call)
{
    (void)cx, (void)call;
    if (--ops_left == 0)
        atomic_store(&stop, 1);
    return 0;
}

/* true: the network ended before so many operators were done. */
static bool cancelled_after(int ops, Unet *unet, const Inputs *in, Manner way)
{
    static Backend counting = {.name = "counting", .slot = -1, .supports = supports_all};
    const Backend *const chain[] = {&counting, &backend_ref, NULL};
    gimbal_error err = {0};
    Cx cx = {0};
    Tensor room[3], *list[3];
    UnetCall call = {.unet = unet, .frames = in->F, .norm_clip = true, .keyed = way.keyed};
    for (int op = 0; op < OP_COUNT; op++)
        counting.forward[op] = count_only;
    atomic_store(&stop, 0), ops_left = ops;
    cx_init(&cx, chain, 1, &err);
    cx.cancel = &stop;
    call_inputs(in, unet, way.shared, way.keyed, room, list);
    const Tensor *y = unet_forward(&cx, &call, list);
    check((y != NULL) == (err.code == 0) && (y || err.code == GIMBAL_ECANCEL), "after %d operators: %.400s",
          ops, err.msg);
    cx_free(&cx);
    return y != NULL;
}

/* Found by a run that crashed: where the first text is met, a tensor that was not made was asked its shape.
 */
static void a_call_may_be_cancelled_after_any_operator(void **state)
{
    (void)state;
    for (int i = 0; i < SHAPES; i++) {
        const UnetShape shape = shape_at(i);
        Net net;
        net_make(&net, &shape);
        Inputs *in = inputs_make(2, 3);
        if (i != NOWHERE)
            make_keys(in, net.unet);
        for (int k = 0; k < (i == NOWHERE ? 2 : 4); k++) {
            int n = 1;
            while (n < 2000 && !cancelled_after(n, net.unet, in, (Manner){.shared = k & 1, .keyed = k & 2}))
                n++;
            check(n > 20 && n < 2000, "%d operators", n);
        }
        inputs_free(in), net_free(&net);
    }
}

TESTS(a_call_may_be_cancelled_after_any_operator, a_clip_that_texts_share_gives_what_copies_of_it_give,
      the_call_says_whether_it_gives_keys, inputs_that_do_not_go_together_are_refused,
      gradients_through_the_repetition_are_those_of_copies, stable_diffusion_saves_what_it_shares,
      modelscope_shares_its_layers_over_time_too, repetitions_are_planned_and_timed_like_any_operator,
      a_run_makes_its_keys_once)
