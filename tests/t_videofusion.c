/* t_videofusion.c: two networks that share a clip's noise: the residual's network against PyTorch, then a
 * whole tiny model: which noise decides what, what is computed once, how frames are grouped, and which
 * folders are refused. The decomposition on arrays is t_noise_split.c's.
 *
 * Luo et al., VideoFusion, CVPR 2023. The golden networks are those of tests/golden/training, in float64. */
#include "diffusion/engine.h" /* before cmocka.h, which makes a macro of fail */
#include "tests/network.h"

#include "tests/models.h"

#define GOLD "tests/golden/training/"

/* ---- the residual's network --------------------------------------------------------------- */

typedef struct {
    Arena keep;
    WeightSet *weights;
    json_t *config;
    Unet *unet;
} Net;

static void net_open(Net *n, const char *folder, bool numbered)
{
    char path[128];
    UnetShape shape = {0};
    *n = (Net){0};
    snprintf(path, sizeof path, "%s/config.json", folder);
    check_ok(json_read(&n->config, path, &err), err);
    check_ok(config_unet2d(&(Config){n->config, path, &err}, numbered, &shape), err);
    check_ok(unet_build(&n->unet, &n->keep, &shape, &err), err);
    check_ok(weights_open(&n->weights, folder, &err), err);
    check_ok(bind_weights(n->weights, "", unet_params, n->unet, NULL, NULL, &err), err);
}

static int drop_leaf(Params *p, Weight *w)
{
    (void)p;
    weight_drop(w);
    return 0;
}

static void net_close(Net *n)
{
    Params p = {.leaf = drop_leaf};
    unet_params(n->unet, &p);
    weights_close(n->weights);
    json_decref(n->config);
    arena_free(&n->keep);
}

enum { GC = 4, GH = 6, GW = 5, GP = GH * GW, WIDTH = 8, TEXT = 12 };

/* Rows [n,h,w,C] of [n,C,h,w]. */
static void gold_rows(const float *x, int n, float *rows)
{
    for (int i = 0; i < n; i++)
        for (int c = 0; c < GC; c++)
            for (int k = 0; k < GP; k++)
                rows[((size_t)i * GP + k) * GC + c] = x[((size_t)i * GC + c) * GP + k];
}

/* Eager: rows of `frames` frames a clip, t and text of each clip; numbers may be NULL. Caller frees. */
static float *ask(Net *net, const float *rows, int clips, int frames, const float *t, int texts,
                  const float *context, const int *number)
{
    Cx cx = {0};
    gimbal_error wrong = {0};
    const int n = clips * frames;
    float *time = malloc(sizeof *time * (size_t)(clips * WIDTH)),
          *told = malloc(sizeof *told * (size_t)(n * WIDTH));
    for (int i = 0; i < clips; i++)
        timestep_features(t[i], WIDTH, time + i * WIDTH);
    for (int i = 0; i < n && number; i++)
        timestep_features(number[i % frames], WIDTH, told + i * WIDTH);
    cx_init(&cx, cpu_chain(), 1, &wrong);
    UnetCall call = {.unet = net->unet, .frames = frames};
    Tensor *in[4] = {tensor_input(&cx, F32, 4, (int64_t[]){n, GH, GW, GC}, rows),
                     tensor_input(&cx, F32, 2, (int64_t[]){clips, WIDTH}, time),
                     tensor_input(&cx, F32, 3, (int64_t[]){texts, TOKENS, TEXT}, context),
                     number ? tensor_input(&cx, F32, 2, (int64_t[]){n, WIDTH}, told) : NULL};
    const Tensor *y = unet_forward(&cx, &call, in);
    check(y != NULL, "%.400s", wrong.msg);
    float *out = malloc(sizeof *out * (size_t)tensor_count(y));
    memcpy(out, y->d, sizeof *out * (size_t)tensor_count(y));
    cx_free(&cx);
    free(time), free(told);
    return out;
}

static void networks_are_those_of_diffusers(void **state)
{
    (void)state;
    static const int number[] = {1, 3, 4};
    Net net;
    size_t n;
    float rows[6 * GP * GC], want[6 * GP * GC];
    float *t = golden(GOLD "batch.safetensors", "vf.timesteps", &n),
          *context = golden(GOLD "batch.safetensors", "context", &n),
          *z = golden(GOLD "videofusion-residual.safetensors", "z_res", &n),
          *rhat = golden(GOLD "videofusion-residual.safetensors", "rhat", &n);
    assert_int_equal(n, 6 * GP * GC);
    net_open(&net, GOLD "residual", true);
    gold_rows(z, 6, rows), gold_rows(rhat, 6, want);
    float *got = ask(&net, rows, 2, 3, t, 2, context, number);
    check_near(rel_rms(got, want, n), 0, 1e-5, "the residual's prediction");
    free(got);

    /* one clip under two texts is two clips under one each, and frames are alone */
    const float twice[2] = {t[0], t[0]};
    memcpy(rows + 3 * GP * GC, rows, sizeof rows / 2);
    float *both = ask(&net, rows, 1, 3, t, 2, context, number),
          *apart = ask(&net, rows, 2, 3, twice, 2, context, number);
    check_near(rel_rms(both, apart, 6 * GP * GC), 0, 1e-6, "two texts");
    for (int f = 0; f < 3; f++) {
        float *alone = ask(&net, rows + f * GP * GC, 1, 1, t, 1, context, number + f);
        check_near(rel_rms(alone, both + f * GP * GC, GP * GC), 0, 1e-6, "frame %d by itself", f);
        free(alone);
    }
    free(both), free(apart);
    net_close(&net);
    free(t), free(context), free(z), free(rhat);
}

/* ---- a whole model ------------------------------------------------------------------------ */

/* SCRATCH/model: base/, residual/ and the rest of the golden model. */
static int make_model(void **state)
{
    (void)state;
    snprintf(scratch, sizeof scratch, "/tmp/gimbal-videofusion-XXXXXX");
    check(mkdtemp(scratch) != NULL, "mkdtemp");
    shell("cp -r " GOLD "model %s/model && mv %s/model/unet %s/model/base && cp -r " GOLD
          "residual %s/model/ && "
          "chmod -R u+w %s",
          scratch, scratch, scratch, scratch, scratch);
    shell("echo '{\"lambda\": 0.5, \"key_frame\": 1, \"frame_count\": 5, \"rescale\": false}' > "
          "%s/model/videofusion.json",
          scratch);
    return 0;
}

static gimbal_settings settings_of(gimbal_engine *e)
{
    gimbal_settings s;
    gimbal_defaults(&s, e);
    s.prompt = "red", s.steps = 3, s.seed = 11, s.cfg = 2;
    return s;
}

static int note_runs(void *user, const PlanCall *call)
{
    int *most = user;
    *most = MAX(*most, call->runs / call->count);
    return 0;
}

static int runs_of(Plans *p, const Plan *plan)
{
    int most = 0;
    check(!plan || !plan_times(&p->cx, plan, note_runs, &most), "%.400s", p->err.msg);
    return most;
}

/* A clip; *base and *residual (may be NULL): how often the networks ran. Caller frees. */
static float *clip_of(gimbal_engine *e, const gimbal_settings *s, gimbal_shape *shape, int *base,
                      int *residual)
{
    gimbal_session *run;
    check_ok(gimbal_begin(&run, e, s, &err), err);
    Plans *p = &run->plans;
    *shape = gimbal_latent_shape(run);
    float *x = malloc(sizeof *x * shape_count(*shape));
    check_ok(gimbal_sample(run, x, &err), err);
    if (base)
        *base = runs_of(p, p->base.plan[0]) + runs_of(p, p->base.plan[1]);
    if (residual)
        *residual = runs_of(p, p->guide.plan[0]) + runs_of(p, p->guide.plan[1]);
    gimbal_end(run);
    return x;
}

static bool same_frame(const float *x, const float *y, gimbal_shape s, int f)
{
    const size_t plane = (size_t)s.h * (size_t)s.w;
    for (size_t c = 0; c < (size_t)s.c; c++)
        if (memcmp(x + (c * (size_t)s.f + (size_t)f) * plane, y + (c * (size_t)s.f + (size_t)f) * plane,
                   plane * sizeof *x))
            return false;
    return true;
}

static void the_folder_opens_with_its_own_noise(void **state)
{
    (void)state;
    gimbal_engine *e = opened(in_scratch("model"), NULL);
    gimbal_settings s = settings_of(e);
    gimbal_session *run;
    check(!strcmp(gimbal_family(e), "videofusion") && gimbal_most_frames(e) == 512, "family %s",
          gimbal_family(e));
    check(s.frames == 5 && s.width == 48 && !strcmp(s.noise, "shared:lambda=-1,key=-2"),
          "%d frames, noise %s", s.frames, s.noise);
    for (int frames = 5; frames <= 8; frames += 3) { /* trained on five; of eight the middle one */
        const int key = frames == 5 ? 1 : 3;
        s.frames = frames;
        check_ok(gimbal_begin(&run, e, &s, &err), err);
        const Run *r = &run->run;
        check_near(r->noise->corr(r->noise_self, 0, frames - 1), 0.5, 1e-12, "two frames");
        check_near(r->noise->corr(r->noise_self, key, 0), sqrt(0.5), 1e-12, "the key frame of %d", frames);
        assert_int_equal(run->plans.split.key, key);
        gimbal_end(run);
    }
    gimbal_close(e);
}

/* Same base, other residuals, and the reverse; with and without noise between steps. */
static void the_base_decides_the_key_frame(void **state)
{
    (void)state;
    static const char *const samplers[] = {"ddim", "ddim", "ddpm", "euler"};
    gimbal_engine *e = opened(in_scratch("model"), NULL);
    for (int i = 0; i < COUNT(samplers); i++) {
        gimbal_settings s = settings_of(e);
        gimbal_shape z;
        s.sampler = samplers[i], s.eta = i == 1, s.base_seed = 77;
        float *one = clip_of(e, &s, &z, NULL, NULL);
        s.seed = 12;
        float *two = clip_of(e, &s, &z, NULL, NULL);
        s.base_seed = 78;
        float *three = clip_of(e, &s, &z, NULL, NULL);
        for (int f = 0; f < z.f; f++) {
            check(same_frame(one, two, z, f) == (f == 1), "%s: same base: frame %d", samplers[i], f);
            check(!same_frame(two, three, z, f), "%s: another base: frame %d", samplers[i], f);
        }
        free(one), free(two), free(three);
    }
    gimbal_settings s = settings_of(e);
    gimbal_shape z;
    float *plain = clip_of(e, &s, &z, NULL, NULL);
    s.base_seed = s.seed;
    float *named = clip_of(e, &s, &z, NULL, NULL);
    check(!memcmp(plain, named, sizeof *plain * shape_count(z)), "the seed itself is the base's by default");
    free(plain), free(named);
    gimbal_close(e);
}

/* Clips with one base: its network runs for the first of them; the bytes are those of a run by itself. */
static void the_base_is_computed_once(void **state)
{
    (void)state;
    gimbal_engine *e = opened(in_scratch("model"), NULL);
    gimbal_settings s = settings_of(e);
    s.base_seed = 5;
    for (int eta = 0; eta < 2; eta++)
        for (int i = 0; i < 3; i++) {
            gimbal_shape z;
            int base, residual, fresh;
            s.seed = 100 + (uint64_t)i, s.eta = eta;
            float *again = clip_of(e, &s, &z, &base, &residual);
            assert_int_equal(base, i ? 0 : 3 - eta); /* the first key frame is that of the runs before */
            assert_int_equal(residual, 3);
            gimbal_engine *other = opened(in_scratch("model"), NULL);
            float *alone = clip_of(other, &s, &z, &fresh, NULL);
            assert_int_equal(fresh, 3);
            check(!memcmp(again, alone, sizeof *again * shape_count(z)), "clip %d", i);
            gimbal_close(other);
            free(again), free(alone);
        }
    const char *prompts[] = {"red", "blue"}; /* what else it depends on */
    for (int i = 0; i < 4; i++) {
        gimbal_shape z;
        int base;
        s.prompt = prompts[i == 0], s.cfg = i == 1 ? 3 : 2, s.cfg_base = i == 2 ? 1 : 0,
        s.width = i == 3 ? 56 : 48;
        s.eta = 0;
        free(clip_of(e, &s, &z, &base, NULL));
        check(base > 0, "change %d", i);
    }
    gimbal_close(e);
}

/* The network that is guided differently, and what a dry run says of both. */
static void each_network_has_its_guidance(void **state)
{
    (void)state;
    gimbal_engine *e = opened(in_scratch("model"), NULL);
    static const struct {
        double cfg, base;
        int base_plan, residual_plan;
    } cases[] = {{2, 0, 1, 1}, {1, 0, 0, 0}, {2, 1, 0, 1}, {1, 4, 1, 0}};
    gimbal_cost cost[COUNT(cases)];
    for (int i = 0; i < COUNT(cases); i++) {
        gimbal_settings s = settings_of(e);
        gimbal_session *run;
        s.cfg = cases[i].cfg, s.cfg_base = cases[i].base;
        check_ok(gimbal_begin(&run, e, &s, &err), err);
        const Plans *p = &run->plans;
        check(p->base.plan[cases[i].base_plan] && !p->base.plan[!cases[i].base_plan], "case %d: base", i);
        check(p->guide.plan[cases[i].residual_plan] && !p->guide.plan[!cases[i].residual_plan],
              "case %d: residual", i);
        check_near(plans_flops(p, &run->run),
                   3 * (plan_flops(p->base.plan[cases[i].base_plan]) +
                        p->groups * plan_flops(p->guide.plan[cases[i].residual_plan])),
                   1, "FLOPs");
        gimbal_end(run);
        check_ok(gimbal_predict(e, &s, &cost[i], &err), err);
    }
    check(cost[0].flops > cost[2].flops && cost[2].flops > cost[3].flops && cost[3].flops > cost[1].flops,
          "branches are counted where they are");
    gimbal_close(e);
}

/* One frame to the longest clip; work memory stops growing with the group. */
static void clips_of_any_length_take_the_memory_of_a_group(void **state)
{
    (void)state;
    static const int frames[] = {1, 2, 17, 64, 512};
    gimbal_engine *e = opened(in_scratch("model"), NULL);
    size_t bytes[COUNT(frames)];
    for (int i = 0; i < COUNT(frames); i++) {
        gimbal_settings s = settings_of(e);
        gimbal_session *run;
        s.frames = frames[i], s.steps = 1, s.width = s.height = 32;
        check_ok(gimbal_begin(&run, e, &s, &err), err);
        bytes[i] = plan_bytes(run->plans.guide.plan[1]);
        gimbal_end(run);
    }
    check(bytes[1] < bytes[2] && bytes[3] == bytes[2] && bytes[4] == bytes[2], "%zu, %zu, %zu, %zu bytes",
          bytes[1], bytes[2], bytes[3], bytes[4]);
    for (int i = 0; i < 4; i++) {
        gimbal_settings s = settings_of(e);
        gimbal_shape z;
        int residual;
        s.frames = frames[i], s.steps = 2, s.width = s.height = 32;
        float *x = clip_of(e, &s, &z, NULL, &residual);
        assert_int_equal(residual, 2 * ((frames[i] - 1 + 15) / 16));
        free(x);
    }
    gimbal_settings s = settings_of(e);
    gimbal_session *run;
    s.frames = 513;
    check_fails(gimbal_begin(&run, e, &s, &err), GIMBAL_EUSAGE, err, "at most 512");
    gimbal_close(e);
}

static void settings_that_mean_nothing_are_refused(void **state)
{
    (void)state;
    gimbal_engine *e = opened(in_scratch("model"), NULL), *other = opened(TINY, MOTION);
    gimbal_session *run;
    gimbal_settings s = settings_of(e);
    s.rescale = 0.5;
    check_fails(gimbal_begin(&run, e, &s, &err), GIMBAL_EUSAGE, err, "--rescale is 0.5");
    s = settings_of(e), s.base_seed = 3, s.noise = "white";
    check_fails(gimbal_begin(&run, e, &s, &err), GIMBAL_EUSAGE, err, "--noise white share no noise");
    s = settings_of(e), s.base_seed = 3, s.rng = "torch";
    check_fails(gimbal_begin(&run, e, &s, &err), GIMBAL_EUSAGE, err, "one sequence");
    s = settings_of(other), s.cfg_base = 3;
    check_fails(gimbal_begin(&run, other, &s, &err), GIMBAL_EUSAGE, err, "no base network");
    s = settings_of(other), s.noise = "shared", s.base_seed = 3; /* any model may share noise */
    check_ok(gimbal_begin(&run, other, &s, &err), err);
    gimbal_end(run);
    gimbal_close(e), gimbal_close(other);
}

/* ---- folders ------------------------------------------------------------------------------ */

/* Inside a copy of the folder. */
static const struct {
    const char *change, *says;
} bad_folders[] = {
    {"echo '{\"lambda\": 1}' > videofusion.json", "nothing would be left to the residual"},
    {"echo '{\"lambda\": -0.1}' > videofusion.json", "\"lambda\" is -0.1"},
    {"echo '{\"lambda\": \"half\"}' > videofusion.json", "\"lambda\" is not a number"},
    {"echo '{\"lambda\": [0.5, 1], \"frame_count\": 3}' > videofusion.json", "has 2 entries"},
    {"echo '{\"lambda\": [0.5, 0.9, 0.5], \"frame_count\": 3, \"key_frame\": 1}' > videofusion.json",
     "frame 1 is the key frame"},
    {"echo '{\"lambda\": [1, 1, 0.5], \"frame_count\": 3, \"key_frame\": 1}' > videofusion.json",
     "\"lambda\"[0] is 1"},
    {"echo '{\"key_frame\": 5, \"frame_count\": 5}' > videofusion.json", "\"key_frame\" is 5"},
    {"echo '{\"key_frame\": -1}' > videofusion.json", "key_frame"},
    {"echo '{\"frame_count\": 0}' > videofusion.json", "frame_count"},
    {"echo '{\"frame_count\": 1000000}' > videofusion.json", "frame_count"},
    {"echo '{\"rescale\": 1}' > videofusion.json", "rescale"},
    {"echo '{\"width\": 1}' > videofusion.json", "width"},
    {"echo '[]' > videofusion.json", "videofusion.json"},
    {"rm videofusion.json", "no videofusion.json"},
    {"rm -r residual", "no residual"},
    {"mv base unet", "no base"},
    {"sed -i 's/\"timestep\"/null/' residual/config.json", "class_embed_type"},
    {"sed -i '/class_embed_type/d' residual/config.json", "class_embed_type"},
    {"sed -i 's/\"class_embed_type\": null/\"class_embed_type\": \"timestep\"/' base/config.json",
     "class_embed_type"},
    {"sed -i 's/\"cross_attention_dim\": 12/\"cross_attention_dim\": 16/' residual/config.json",
     "cross_attention_dim"},
    {"sed -i 's/\"in_channels\": 4/\"in_channels\": 3/; s/\"out_channels\": 4/\"out_channels\": 3/' "
     "residual/config.json",
     "in_channels"},
    {"sed -i 's/UNet2DConditionModel/UNet3DConditionModel/' residual/config.json", "_class_name"},
    {"cp base/*.safetensors residual/", "class_embedding.linear_1"},
    {"cp residual/*.safetensors base/", "class_embedding"},
    {"sed -i 's/epsilon/v_prediction/' scheduler/scheduler_config.json", "prediction_type"},
};

static void folders_are_refused_by_file_and_key(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT(bad_folders); i++) {
        gimbal_engine *e;
        shell("rm -rf %s/bad && cp -r %s/model %s/bad && cd %s/bad && %s", scratch, scratch, scratch, scratch,
              bad_folders[i].change);
        const int code = gimbal_open(&e, in_scratch("bad"), NULL, &err);
        check(code == GIMBAL_EMODEL || code == GIMBAL_EFORMAT, "%s: %d, %.300s", bad_folders[i].change, code,
              err.msg);
        check(strstr(err.msg, bad_folders[i].says) != NULL, "%s: \"%.300s\" says \"%s\"",
              bad_folders[i].change, err.msg, bad_folders[i].says);
        err = (gimbal_error){0};
    }
}

/* A share for each frame, of one length alone. */
static void shares_may_be_listed(void **state)
{
    (void)state;
    shell("echo '{\"lambda\": [0.5, 0.25, 1, 0], \"key_frame\": 2, \"frame_count\": 4, \"rescale\": true}' > "
          "%s/model/videofusion.json",
          scratch);
    gimbal_engine *e = opened(in_scratch("model"), NULL);
    gimbal_settings s = settings_of(e);
    gimbal_session *run;
    check_ok(gimbal_begin(&run, e, &s, &err), err);
    const Run *r = &run->run;
    check_near(r->noise->corr(r->noise_self, 0, 1), sqrt(0.125), 1e-12, "frames 0 and 1");
    check_near(r->noise->corr(r->noise_self, 2, 1), 0.5, 1e-12, "frame 1 and the key frame");
    check_near(r->noise->corr(r->noise_self, 0, 3), 0, 0, "a frame without a share");
    assert_int_equal(run->plans.groups, 3); /* each at a timestep of its own */
    gimbal_end(run);
    s.frames = 5;
    check_fails(gimbal_begin(&run, e, &s, &err), GIMBAL_EUSAGE, err, "lists the shares of 4 frames");
    gimbal_close(e);
}

static void the_description_names_both_networks(void **state)
{
    (void)state;
    char *text;
    check_ok(gimbal_describe(in_scratch("model"), &text, &err), err);
    json_t *root = json_loads(text, 0, NULL), *parts = json_object_get(root, "parts");
    check(json_is_true(json_object_get(root, "usable")), "%.400s", text);
    check(!strcmp(json_string_value(json_object_get(root, "family")), "videofusion"), "%.400s", text);
    check(!json_object_get(parts, "motion_adapter"), "it has no motion adapter");
    check(json_integer_value(json_object_get(json_object_get(parts, "residual"), "tensors")) == 212 &&
              json_integer_value(json_object_get(json_object_get(parts, "unet"), "tensors")) == 208,
          "tensors of both");
    const json_t *config = json_object_get(json_object_get(parts, "noise_split"), "config");
    check_near(json_number_value(json_object_get(config, "lambda")), 0.5, 0, "lambda");
    json_decref(root), free(text);
    shell("rm %s/model/videofusion.json", scratch);
    check_ok(gimbal_describe(in_scratch("model"), &text, &err), err);
    check(strstr(text, "no videofusion.json") && strstr(text, "\"usable\": false"), "%.300s", text);
    free(text);
}

int main(void)
{
#define WITH_PAIR(f) cmocka_unit_test_setup_teardown(f, make_model, remove_model)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(networks_are_those_of_diffusers),
        WITH_PAIR(the_folder_opens_with_its_own_noise),
        WITH_PAIR(the_base_decides_the_key_frame),
        WITH_PAIR(the_base_is_computed_once),
        WITH_PAIR(each_network_has_its_guidance),
        WITH_PAIR(clips_of_any_length_take_the_memory_of_a_group),
        WITH_PAIR(settings_that_mean_nothing_are_refused),
        WITH_PAIR(folders_are_refused_by_file_and_key),
        WITH_PAIR(shares_may_be_listed),
        WITH_PAIR(the_description_names_both_networks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
