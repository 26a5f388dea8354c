/* t_model.c: the three networks against PyTorch, module by module, so that the first one that differs is
 * named.
 *
 * tests/golden/models is the network of the golden runs, whose first call was recorded. tests/golden/shapes
 * holds networks that are unusual on purpose, with an input and the output of many modules each: lists   3
 * levels, everything that may be a list is one, linear projections, no mid module, 5 frames of 9x13 single  1
 * level, no position tables in the file, fractional timestep, frames of 1x7 deep    4 levels, bf16, one frame
 * of 5x3, which halves to 1x1 PyTorch has [N,C,h,w], we have [N,h,w,C]. */
#include "model/model.h"
#include "tensor/backend.h"
#include "tests/check.h"

/* Measured 3.4e-6 at most; the smallest slip tried, an epsilon of 1e-6 for 1e-5 in the last norm,
 * costs 1.4e-4. */
static const double tolerance = 1e-5;

/* ---- a model folder ---------------------------------------------------------------------- */

typedef struct {
    Arena keep;
    WeightSet *set[4];
    json_t *config[4];
    Unet *unet;
    Vae *vae;
    ClipText *clip;
    int frames;
} Model;

static json_t *open_part(Model *m, int i, const char *folder, const char *part, char where[PATH_ROOM])
{
    gimbal_error err = {0};
    char dir[PATH_ROOM];
    snprintf(dir, sizeof dir, "%.1000s%s", folder, part);
    snprintf(where, PATH_ROOM, "%.1000s/config.json", dir);
    check_ok(weights_open(&m->set[i], dir, &err), err);
    check_ok(json_read(&m->config[i], where, &err), err);
    return m->config[i];
}

static Model *open_model(const char *folder, const char *text, const char *motion)
{
    Model *m = calloc(1, sizeof *m);
    gimbal_error err = {0};
    char where[4][PATH_ROOM];
    const FolderConfigs configs = {.unet = open_part(m, 0, folder, "/unet", where[0]),
                                   .motion = open_part(m, 1, folder, motion, where[1]),
                                   .unet_where = where[0],
                                   .motion_where = where[1]};
    const Family *family;
    UnetShape shape;
    RunDefaults run;
    check_ok(family_find(&family, &configs, &err), err);
    check_ok(family->shape(&configs, &shape, &run, &err), err);
    check_ok(unet_build(&m->unet, &m->keep, &shape, &err), err);
    check_ok(vae_build(&m->vae, &m->keep, open_part(m, 2, folder, "/vae", where[2]), where[2], &err), err);
    check_ok(clip_build(&m->clip, &m->keep, open_part(m, 3, folder, text, where[3]), where[3], &err), err);
    check_ok(bind_weights(m->set[0], "", unet_params, m->unet, family->unet_ignore, NULL, &err), err);
    check_ok(bind_weights(m->set[1], "", unet_motion_params, m->unet, family->motion_ignore, NULL, &err),
             err);
    check_ok(bind_weights(m->set[2], "", vae_params, m->vae, vae_ignore, old_diffusers_names, &err), err);
    check_ok(bind_weights(m->set[3], "", clip_params, m->clip, clip_ignore, NULL, &err), err);
    return m;
}

static int drop(Params *p, Weight *w)
{
    (void)p;
    weight_drop(w);
    return 0;
}

static void close_model(Model *m)
{
    Params p = {.leaf = drop};
    unet_params(m->unet, &p), unet_motion_params(m->unet, &p), vae_params(m->vae, &p),
        clip_params(m->clip, &p);
    for (int i = 0; i < 4; i++)
        weights_close(m->set[i]), json_decref(m->config[i]);
    arena_free(&m->keep);
    free(m);
}

/* ---- comparing --------------------------------------------------------------------------- */

/* Goldens of one network: the tensor of module M is PREFIX.M in `file`. */
typedef struct {
    const SafeTensors *file;
    const char *prefix;
    int frames, compared;
} Goldens;

/* Our rows x channels in PyTorch's order: [N,C,h,w], or the prediction's [B,C,F,h,w]. Caller frees. */
static float *as_pytorch(const Tensor *t, int frames)
{
    const int64_t C = tensor_channels(t), rows = tensor_rows(t);
    const int64_t plane = t->nd == 4 ? t->n[1] * t->n[2] : 1;
    float *out = malloc(sizeof(float) * (size_t)(rows * C));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < C; c++) {
            const int64_t n = r / plane, b = n / frames, f = n % frames;
            const float x = ((const float *)t->d)[r * t->ld + c];
            out[((b * C + c) * frames + f) * plane + r % plane] = x;
        }
    return out;
}

/* A tap: fails at the first module that differs. */
static void compare(void *user, const char *module, const Tensor *t)
{
    Goldens *g = user;
    char key[200];
    const bool silu = !strcmp(module, "time_embedding.silu"); /* PyTorch's module ends before the SiLU */
    snprintf(key, sizeof key, "%s%s%s", g->prefix, *module ? "." : "", silu ? "time_embedding" : module);
    const StEntry *want = st_find(g->file, key);
    if (!want && !strcmp(module, "unet"))
        want = st_find(g->file, g->prefix);
    if (!want)
        return;
    const int64_t count = tensor_count(t);
    check(want->bytes == 4 * (size_t)count, "%s: %lld elements, golden %zu", key, (long long)count,
          want->bytes / 4);
    float *got = as_pytorch(t, !strcmp(module, "unet") ? g->frames : 1), *x = malloc(want->bytes);
    memcpy(x, want->data, want->bytes);
    for (int64_t i = 0; silu && i < count; i++)
        x[i] /= 1 + expf(-x[i]);
    check_near(rel_rms(got, x, (size_t)count), 0, tolerance, "relative rms of %s", key);
    free(got), free(x);
    g->compared++;
}

/* Runs a graph eagerly with every module compared, then planned: the plan must give the same bytes. */
static void run(Graph graph, void *self, Tensor *const in[], int n_in, Goldens *g, int expected)
{
    gimbal_error err = {0};
    Cx cx = {0};
    cx_init(&cx, cpu_chain(), 2, &err);
    Tensor *mine[4] = {NULL};
    memcpy(mine, in, sizeof *in * (size_t)n_in);
    cx.tap = compare, cx.tap_user = g;
    Tensor *y = graph(&cx, self, mine);
    check(y != NULL, "eager run: %.400s", err.msg);
    check(g->compared == expected, "%d modules compared, expected %d", g->compared, expected);
    const size_t bytes = sizeof(float) * (size_t)tensor_count(y);
    float *kept = malloc(bytes);
    memcpy(kept, y->d, bytes);
    cx_reset(&cx);

    cx.tap = NULL;
    Plan *plan = plan_make(&cx, graph, self, mine);
    check(plan != NULL, "plan: %.400s", err.msg);
    cx.work_bytes = plan_bytes(plan);
    cx.work = alloc_array(cx.work_bytes, 1);
    y = plan_run(&cx, plan, graph, self, mine);
    check(y != NULL, "planned run: %.400s", err.msg);
    check(!memcmp(kept, y->d, bytes), "the planned run equals the eager one");
    plan_free(plan), free(cx.work), free(kept);
    cx_free(&cx);
}

static Tensor input(DType type, int nd, const int64_t *n, const void *data)
{
    Tensor t = {.d = (void *)data, .nd = nd, .id = -1, .type = type, .ld = n[nd - 1]};
    memcpy(t.n, n, sizeof *n * (size_t)nd);
    return t;
}

/* [B,C,F,h,w] -> [B*F,h,w,C]; B = copies of the one clip when `copies`. Caller frees. */
static float *channels_last(const float *x, int B, int C, int F, int plane, bool copies)
{
    float *out = malloc(sizeof(float) * (size_t)B * C * F * plane);
    for (int b = 0; b < B; b++)
        for (int c = 0; c < C; c++)
            for (int f = 0; f < F; f++)
                for (int i = 0; i < plane; i++)
                    out[((b * F + f) * plane + i) * C + c] =
                        x[(((copies ? 0 : b) * C + c) * F + f) * plane + i];
    return out;
}

/* ---- the golden runs' network ------------------------------------------------------------ */

#define RUN "tests/golden/runs/ad_plain"

static Model *tiny(SafeTensors **out)
{
    gimbal_error err = {0};
    check_ok(st_open(out, RUN ".out.safetensors", &err), err);
    return open_model("tests/golden/models/animatediff-tiny", "/text_encoder", "-motion");
}

static void the_golden_text_encoder_agrees_module_by_module(void **state)
{
    (void)state;
    SafeTensors *file;
    Model *m = tiny(&file);
    const char *ids_of[] = {"ids", "neg_ids"}, *context_of[] = {"context", "neg_context"};
    for (int k = 0; k < 2; k++) {
        int32_t ids[77];
        for (int i = 0; i < 77; i++)
            ids[i] = (int32_t)((const int64_t *)st_find(file, ids_of[k])->data)[i];
        Tensor in = input(I32, 1, (int64_t[]){77}, ids);
        gimbal_error err = {0};
        Cx cx = {0};
        cx_init(&cx, cpu_chain(), 1, &err);
        Tensor *args[] = {&in}, *y = clip_forward(&cx, m->clip, args);
        check(y != NULL, "%.400s", err.msg);
        check_near(rel_rms(y->d, st_find(file, context_of[k])->data, 77 * 32), 0, tolerance, "%s",
                   context_of[k]);
        cx_free(&cx);
        Goldens g = {.file = file, .prefix = "act.text_encoder", .frames = 1};
        if (k == 0)
            run(clip_forward, m->clip, args, 1, &g, 2);
    }
    st_close(file), close_model(m);
}

static void the_golden_unet_agrees_module_by_module(void **state)
{
    (void)state;
    enum { B = 2, F = 8, C = 4, SIDE = 8, L = 77, D = 32, BASE = 32 };
    SafeTensors *file;
    Model *m = tiny(&file);
    size_t n;
    float *latents = golden(RUN ".in.safetensors", "latents", &n),
          *x = channels_last(latents, B, C, F, SIDE * SIDE, true);
    float time[B][BASE], context[B][L * D];
    for (int b = 0; b < B; b++) {
        timestep_features(((const float *)st_find(file, "pass0.timesteps")->data)[0], BASE, time[b]);
        memcpy(context[b], st_find(file, b ? "context" : "neg_context")->data, sizeof context[b]);
    }
    Tensor in[] = {input(F32, 4, (int64_t[]){B * F, SIDE, SIDE, C}, x),
                   input(F32, 2, (int64_t[]){B, BASE}, time), input(F32, 3, (int64_t[]){B, L, D}, context)};
    Goldens g = {.file = file, .prefix = "act.unet", .frames = F};
    UnetCall call = {.unet = m->unet, .frames = F, .norm_clip = true};
    run(unet_forward, &call, (Tensor *[]){&in[0], &in[1], &in[2]}, 3, &g, 9);
    free(latents), free(x);
    st_close(file), close_model(m);
}

static void the_golden_vae_agrees_module_by_module_and_in_its_frames(void **state)
{
    (void)state;
    enum { F = 8, C = 4, SIDE = 8, OUT = 64 };
    SafeTensors *file;
    Model *m = tiny(&file);
    size_t n, count;
    float *latents = golden(RUN ".out.safetensors", "latents", &n),
          *z = channels_last(latents, 1, C, F, SIDE * SIDE, false);
    float *frames = golden(RUN ".out.safetensors", "frames", &count);
    for (size_t i = 0; i < n; i++)
        z[i] = (float)(z[i] / vae_scaling(m->vae));
    Tensor in = input(F32, 4, (int64_t[]){F, SIDE, SIDE, C}, z), *args[] = {&in};
    Goldens g = {.file = file, .prefix = "act.vae", .frames = F};
    run(vae_decode, m->vae, args, 1, &g, 4);

    gimbal_error err = {0};
    Cx cx = {0};
    cx_init(&cx, cpu_chain(), 2, &err);
    Tensor *y = vae_decode(&cx, m->vae, args);
    check(y && y->n[0] == F && y->n[1] == OUT && y->n[2] == OUT && y->n[3] == 3, "pictures of 64x64: %.400s",
          err.msg);
    for (size_t i = 0; i < count; i++)
        check_near(fmin(fmax(((float *)y->d)[i] / 2 + 0.5, 0), 1), frames[i], 2e-5,
                   "value %zu of the first frames", i);
    free(latents), free(z), free(frames);
    cx_free(&cx), st_close(file), close_model(m);
}

/* ---- unusual networks -------------------------------------------------------------------- */

/* Modules that the recording holds for one network. */
static int recorded(const SafeTensors *file, const char *prefix)
{
    int n = 0;
    for (int i = 0; i < st_count(file); i++)
        n += !strncmp(st_entry(file, i)->name, prefix, strlen(prefix));
    return n;
}

static void check_unet(Model *m, const SafeTensors *file)
{
    const StEntry *x = st_find(file, "x"), *t = st_find(file, "t"), *context = st_find(file, "context");
    const int base = unet_shape(m->unet)->width[0], B = (int)x->n[0], C = (int)x->n[1], F = (int)x->n[2];
    float *rows = channels_last(x->data, B, C, F, (int)(x->n[3] * x->n[4]), false);
    float *time = malloc(sizeof(float) * (size_t)(B * base));
    for (int b = 0; b < B; b++)
        timestep_features(((const float *)t->data)[b], base, &time[b * base]);
    Tensor in[] = {input(F32, 4, (int64_t[]){B * F, x->n[3], x->n[4], C}, rows),
                   input(F32, 2, (int64_t[]){B, base}, time), input(F32, 3, context->n, context->data)};
    Goldens g = {.file = file, .prefix = "act.unet", .frames = F};
    UnetCall call = {.unet = m->unet, .frames = F, .norm_clip = true};
    run(unet_forward, &call, (Tensor *[]){&in[0], &in[1], &in[2]}, 3, &g, recorded(file, "act.unet."));
    free(rows), free(time);
}

static void check_others(Model *m, const SafeTensors *file)
{
    const StEntry *ids = st_find(file, "ids"), *z = st_find(file, "z");
    Tensor text = input(I32, 1, &ids->n[1], ids->data);
    Goldens words = {.file = file, .prefix = "act.text", .frames = 1};
    run(clip_forward, m->clip, (Tensor *[]){&text}, 1, &words, recorded(file, "act.text."));

    float *rows = channels_last(z->data, (int)z->n[0], (int)z->n[1], 1, (int)(z->n[2] * z->n[3]), false);
    Tensor latents = input(F32, 4, (int64_t[]){z->n[0], z->n[2], z->n[3], z->n[1]}, rows);
    Goldens pictures = {.file = file, .prefix = "act.vae", .frames = 1};
    run(vae_decode, m->vae, (Tensor *[]){&latents}, 1, &pictures, recorded(file, "act.vae."));
    free(rows);
}

static void check_shapes(const char *name)
{
    gimbal_error err = {0};
    char folder[128], path[160];
    SafeTensors *file;
    snprintf(folder, sizeof folder, "tests/golden/shapes/%s", name);
    snprintf(path, sizeof path, "%s/acts.safetensors", folder);
    check_ok(st_open(&file, path, &err), err);
    Model *m = open_model(folder, "/text", "/motion");
    check_unet(m, file);
    check_others(m, file);
    st_close(file), close_model(m);
}

static void lists_per_level_and_sizes_that_do_not_halve_agree(void **state)
{
    (void)state;
    check_shapes("lists");
}

static void a_single_level_without_position_tables_in_the_file_agrees(void **state)
{
    (void)state;
    check_shapes("single");
}

static void four_levels_down_to_one_pixel_agree(void **state)
{
    (void)state;
    check_shapes("deep");
}

static void the_bundled_model_binds_whole(void **state)
{
    (void)state;
    Model *m = open_model("models/toyworld", "/text_encoder", "/motion_adapter");
    check(unet_shape(m->unet)->levels == 3 && vae_factor(m->vae) == 8, "its numbers");
    close_model(m);
}

/* ---- refusals ---------------------------------------------------------------------------- */

static void more_frames_than_positions_are_refused_before_any_work(void **state)
{
    (void)state;
    SafeTensors *file;
    Model *m = tiny(&file);
    gimbal_error err = {0};
    Cx cx = {0};
    cx_init(&cx, cpu_chain(), 1, &err);
    Tensor in[] = {input(F32, 4, (int64_t[]){25, 8, 8, 4}, NULL), input(F32, 2, (int64_t[]){1, 32}, NULL),
                   input(F32, 3, (int64_t[]){1, 77, 32}, NULL)};
    UnetCall call = {.unet = m->unet, .frames = 25, .norm_clip = true};
    Plan *plan = plan_make(&cx, unet_forward, &call, (Tensor *[]){&in[0], &in[1], &in[2]});
    check(!plan && err.code == GIMBAL_EMODEL && strstr(err.msg, "25 frames") &&
              strstr(err.msg, "24 positions"),
          "%.400s", err.msg);
    cx_free(&cx), st_close(file), close_model(m);
}

/* With one statistic per frame a frame's offset vanishes in the module's norm; over the clip it stays. */
static void motion_norm_per_frame_differs_from_per_clip(void **state)
{
    (void)state;
    enum { F = 4 };
    gimbal_error err = {0};
    SafeTensors *file;
    Model *m = tiny(&file);
    float x[F * 64 * 4], out[2][F * 64 * 4], time[32], context[77 * 32] = {0};
    for (int i = 0; i < COUNT(x); i++)
        x[i] = sinf((float)i) + (float)(i / 256);
    timestep_features(500, 32, time);
    for (int k = 0; k < 2; k++) {
        Cx cx = {0};
        cx_init(&cx, cpu_chain(), 1, &err);
        Tensor in[] = {input(F32, 4, (int64_t[]){F, 8, 8, 4}, x), input(F32, 2, (int64_t[]){1, 32}, time),
                       input(F32, 3, (int64_t[]){1, 77, 32}, context)};
        UnetCall call = {.unet = m->unet, .frames = F, .norm_clip = k};
        Tensor *y = unet_forward(&cx, &call, (Tensor *[]){&in[0], &in[1], &in[2]});
        check(y != NULL, "%.400s", err.msg);
        memcpy(out[k], y->d, sizeof out[k]);
        cx_free(&cx);
    }
    check(rel_rms(out[0], out[1], COUNT(x)) > 1e-3, "the two norms give different predictions");
    st_close(file), close_model(m);
}

/* ---- training ---------------------------------------------------------------------------- */

static int train(Params *p, Weight *w)
{
    (void)p;
    w->trainable = w->kind != W_TABLE;
    w->grad = w->trainable ? calloc((size_t)weight_count(w), sizeof *w->grad) : NULL;
    return 0;
}

/* Gradients in the order of the walk: kept the first time, compared and freed the second. */
typedef struct {
    float *kept[2048];
    int n;
    bool compare;
} Gradients;

static int keep_or_compare(Params *p, Weight *w)
{
    Gradients *g = p->user;
    if (!w->trainable)
        return 0;
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
    free(*kept), free(w->grad);
    return 0;
}

static void walk(Model *m, int (*leaf)(Params *, Weight *), void *user)
{
    Params p = {.leaf = leaf, .user = user};
    unet_params(m->unet, &p), unet_motion_params(m->unet, &p);
}

/* Recomputed blocks must give every parameter of the U-Net the gradient that it gets from a whole tape. */
static void recomputation_changes_no_gradient(void **state)
{
    (void)state;
    enum { B = 2, F = 2, H = 9, W = 10, C = 4, L = 4, D = 6, BASE = 8 };
    Model *m = open_model("tests/golden/shapes/deep", "/text", "/motion");
    float x[B * F * H * W * C], target[COUNT(x)], time[B][BASE], context[B * L * D];
    for (int i = 0; i < COUNT(x); i++)
        x[i] = sinf((float)(i * i)), target[i] = cosf((float)(3 * i * i));
    for (int i = 0; i < COUNT(context); i++)
        context[i] = sinf((float)(7 * i * i));
    for (int b = 0; b < B; b++)
        timestep_features(100 + b, BASE, time[b]);
    Gradients *g = calloc(1, sizeof *g);
    walk(m, train, NULL);
    for (int k = 0; k < 2; k++) {
        gimbal_error err = {0};
        Cx cx = {0};
        cx_init(&cx, cpu_chain(), 2, &err);
        cx.tape = tape_new(), cx.recompute = k;
        Tensor in[] = {
            input(F32, 4, (int64_t[]){B * F, H, W, C}, x), input(F32, 2, (int64_t[]){B, BASE}, time),
            input(F32, 3, (int64_t[]){B, L, D}, context), input(F32, 4, (int64_t[]){B * F, H, W, C}, target)};
        UnetCall call = {.unet = m->unet, .frames = F, .norm_clip = true};
        Tensor *y = unet_forward(&cx, &call, (Tensor *[]){&in[0], &in[1], &in[2]});
        const int length = tape_length(cx.tape);
        check(y && (k ? length < 60 : length > 200), "tape of %d calls: %.400s", length, err.msg);
        check_ok(backward(&cx, op_mse(&cx, y, &in[3])), err);
        g->compare = k, g->n = 0;
        walk(m, keep_or_compare, g);
        tape_free(cx.tape), cx_free(&cx);
    }
    free(g), close_model(m);
}

TESTS(the_golden_text_encoder_agrees_module_by_module, the_golden_unet_agrees_module_by_module,
      the_golden_vae_agrees_module_by_module_and_in_its_frames,
      lists_per_level_and_sizes_that_do_not_halve_agree,
      a_single_level_without_position_tables_in_the_file_agrees, four_levels_down_to_one_pixel_agree,
      the_bundled_model_binds_whole, more_frames_than_positions_are_refused_before_any_work,
      motion_norm_per_frame_differs_from_per_clip, recomputation_changes_no_gradient)
