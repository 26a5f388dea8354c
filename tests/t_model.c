/* t_model.c: the three networks against PyTorch, module by module, so that the first one that differs is
 * named.
 *
 * tests/golden/models is the network of the golden runs, whose first call was recorded. tests/golden/shapes
 * holds networks that are unusual on purpose, with an input and the output of many modules each: lists   3
 * levels, everything that may be a list is one, linear projections, no mid module, 5 frames of 9x13 single  1
 * level, no position tables in the file, fractional timestep, frames of 1x7 deep    4 levels, bf16, one frame
 * of 5x3, which halves to 1x1 PyTorch has [N,C,h,w], we have [N,h,w,C]. */
#include "tests/network.h"

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
        check_near(rel_rms(y->d, st_find(file, context_of[k])->data, 77 * 32), 0, module_tolerance, "%s",
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
    check_unet(m->unet, file);
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

/* ---- the encoder ------------------------------------------------------------------------- */

typedef struct {
    Arena keep;
    WeightSet *set;
    json_t *config;
    Vae *vae;
} VaeModel;

static void open_vae(VaeModel *m, const char *folder)
{
    gimbal_error err = {0};
    char where[PATH_ROOM];
    memset(m, 0, sizeof *m);
    snprintf(where, sizeof where, "%.1000s/config.json", folder);
    check_ok(weights_open(&m->set, folder, &err), err);
    check_ok(json_read(&m->config, where, &err), err);
    check_ok(vae_build(&m->vae, &m->keep, m->config, where, &err), err);
    check_ok(bind_weights(m->set, "", vae_params, m->vae, vae_ignore, old_diffusers_names, &err), err);
}

static void close_vae(VaeModel *m)
{
    Params p = {.leaf = drop};
    vae_params(m->vae, &p);
    weights_close(m->set), json_decref(m->config), arena_free(&m->keep);
}

/* Sides that no level but the last halves evenly: padding above and to the left for below and to the right
 * moves every value. */
static void the_encoders_agree_module_by_module_on_sides_that_do_not_halve(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"lists", "tests/golden/shapes/lists/vae"}, {"single", "tests/golden/shapes/single/vae"},
        {"deep", "tests/golden/shapes/deep/vae"},   {"tiny", "tests/golden/models/animatediff-tiny/vae"},
        {"toyworld", "models/toyworld/vae"},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        gimbal_error err = {0};
        char path[128];
        SafeTensors *file;
        VaeModel m;
        snprintf(path, sizeof path, "tests/golden/encode/%s.safetensors", cases[i][0]);
        check_ok(st_open(&file, path, &err), err);
        open_vae(&m, cases[i][1]);
        const StEntry *x = st_find(file, "x");
        float *rows = channels_last(x->data, (int)x->n[0], 3, 1, (int)(x->n[2] * x->n[3]), false);
        Tensor in = input(F32, 4, (int64_t[]){x->n[0], x->n[2], x->n[3], 3}, rows);
        Goldens g = {.file = file, .prefix = "act.vae", .frames = 1};
        run(vae_encode, m.vae, (Tensor *[]){&in}, 1, &g, recorded(file, "act.vae."));
        free(rows);
        close_vae(&m), st_close(file);
    }
}

static void pictures_that_the_encoder_cannot_take_are_refused(void **state)
{
    (void)state;
    static const struct {
        int64_t n[4];
        const char *says;
    } cases[] = {{{1, 16, 16, 4}, "4 channels"}, {{1, 16, 7, 3}, "7x16"}, {{1, 7, 16, 3}, "16x7"}};
    VaeModel m;
    open_vae(&m, "tests/golden/models/animatediff-tiny/vae");
    for (int i = 0; i < COUNT(cases); i++) {
        gimbal_error err = {0};
        Cx cx = {0};
        cx_init(&cx, cpu_chain(), 1, &err);
        Tensor in = input(F32, 4, cases[i].n, NULL);
        check(!plan_make(&cx, vae_encode, m.vae, (Tensor *[]){&in}), "refused");
        check(err.code == GIMBAL_EMODEL && strstr(err.msg, cases[i].says), "%.400s", err.msg);
        cx_free(&cx);
    }
    close_vae(&m);
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
      the_bundled_model_binds_whole, the_encoders_agree_module_by_module_on_sides_that_do_not_halve,
      pictures_that_the_encoder_cannot_take_are_refused,
      more_frames_than_positions_are_refused_before_any_work, motion_norm_per_frame_differs_from_per_clip,
      recomputation_changes_no_gradient)
