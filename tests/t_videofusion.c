/* t_videofusion.c: two networks that share a clip's noise: the decomposition itself on arrays with networks
 * that are told the truth, the residual's network against PyTorch, then a whole tiny model: which noise
 * decides what, what is computed once, how frames are grouped, and which folders are refused.
 *
 * Luo et al., VideoFusion, CVPR 2023. The golden networks are those of tests/golden/training, in float64. */
#include "diffusion/engine.h" /* before cmocka.h, which makes a macro of fail */
#include "tests/network.h"

#include "tests/models.h"

#define GOLD "tests/golden/training/"

/* ---- arrays, with stubs for networks ------------------------------------------------------ */

enum { C = 4, H = 5, W = 7, FRAME = C * H * W, FRAMES = 6, KEY = 2 };

/* A clip x, its noise b and r, and what the stubs say. */
typedef struct {
    Arena keep;
    Schedule schedule;
    Split split;
    double share[FRAMES];
    float x[FRAMES * FRAME], b[FRAME], r[FRAMES * FRAME], e[FRAMES * FRAME],
        z[FRAMES * FRAME];      /* [C,F,h,w] */
    float seen[FRAMES * FRAME]; /* z' as the residual's network got it */
    double seen_t[FRAMES];
    float wrong; /* error of the base's stub, times the clip's own values */
    bool feels;  /* the residual's stub answers by what it sees */
    int base_calls, residual_calls;
} Rig;

static float *frame_of(float *x, int c, int f)
{
    return x + ((size_t)c * FRAMES + f) * H * W;
}

static int base_stub(void *self, const float *x, const int *number, double t, double cfg, float *alone,
                     float *guided, gimbal_error *e)
{
    Rig *rig = self;
    (void)number, (void)t, (void)e;
    for (int i = 0; i < FRAME; i++) {
        alone[i] = rig->b[i] + rig->wrong * x[i];
        guided[i] = cfg > 1 ? 2 * alone[i] : alone[i];
    }
    rig->base_calls++;
    return GIMBAL_OK;
}

static int residual_stub(void *self, const float *x, const int *number, double t, double cfg, float *alone,
                         float *guided, gimbal_error *e)
{
    Rig *rig = self;
    (void)cfg, (void)e;
    check(alone == NULL, "only the base's prediction is wanted alone");
    for (int i = 0; i < rig->split.group; i++) {
        const int f = number[i] - 1;
        rig->seen_t[f] = t;
        for (int c = 0; c < C; c++)
            for (int k = 0; k < H * W; k++) {
                const float v = x[((size_t)c * rig->split.group + i) * H * W + k];
                frame_of(rig->seen, c, f)[k] = v;
                guided[((size_t)c * rig->split.group + i) * H * W + k] =
                    rig->feels ? sinf(v) + (float)f : frame_of(rig->r, c, f)[k];
            }
    }
    rig->residual_calls++;
    return GIMBAL_OK;
}

static void rig_open(Rig *rig, double lambda, int group)
{
    const gimbal_shape clip = {C, FRAMES, H, W}, one = {C, 1, H, W};
    const char *note;
    json_t *config = json_pack("{s:s, s:s, s:f, s:f, s:b}", "_class_name", "DDIMScheduler", "beta_schedule",
                               "linear", "beta_start", 0.00085, "beta_end", 0.012, "clip_sample", 0);
    memset(rig, 0, sizeof *rig);
    check_ok(schedule_read(&rig->schedule, config, "x", NULL, NULL, false, &rig->keep, &note, &err), err);
    json_decref(config);
    for (int f = 0; f < FRAMES; f++)
        rig->share[f] = f == KEY ? 1 : lambda;
    rig->split = (Split){.schedule = &rig->schedule,
                         .shape = clip,
                         .key = KEY,
                         .group = group,
                         .share = rig->share,
                         .base = {base_stub, rig},
                         .residual = {residual_stub, rig}};
    check_ok(split_memory(&rig->split, &err), err);
    philox_normal(1, 0, 0, clip, rig->x), philox_normal(2, 0, 0, one, rig->b),
        philox_normal(3, 0, 0, clip, rig->r);
}

static void rig_close(Rig *rig)
{
    split_free(&rig->split);
    arena_free(&rig->keep);
}

/* e and z of the forward process at t. */
static void diffuse(Rig *rig, double t)
{
    const double a = schedule_a(&rig->schedule, t), s = schedule_s(&rig->schedule, t);
    for (int c = 0; c < C; c++)
        for (int f = 0; f < FRAMES; f++)
            for (int k = 0; k < H * W; k++) {
                const double l = rig->share[f], b = rig->b[c * H * W + k];
                float *e = &frame_of(rig->e, c, f)[k];
                *e = (float)(sqrt(l) * b + sqrt(1 - l) * frame_of(rig->r, c, f)[k]);
                frame_of(rig->z, c, f)[k] = (float)(a * frame_of(rig->x, c, f)[k] + s * *e);
            }
}

static void predict(Rig *rig, const float *z, double t, double cfg, float *raw)
{
    const Denoise net = split_denoise(&rig->split);
    check_ok(net.predict(net.self, z, rig->split.shape, t, cfg, raw, &err), err);
}

/* The true noise in both networks: one step from any level to none is the clip itself. */
static void true_noise_leads_back_to_the_clip(void **state)
{
    (void)state;
    static const double from[] = {1, 300, 700, 999};
    Rig rig;
    rig_open(&rig, 0.5, 3);
    const Sampler *ddim;
    void *self;
    check_ok(sampler_parse("ddim", &ddim, &self, &rig.keep, &err), err);
    for (int i = 0; i < COUNT(from); i++) {
        const Grid grid = {.n = 1, .start = 1, .t = &from[i]};
        float raw[FRAMES * FRAME], next[FRAMES * FRAME];
        diffuse(&rig, from[i]);
        predict(&rig, rig.z, from[i], 1, raw);
        check_ok(ddim->begin(self, &rig.schedule, &grid, 0, NULL, &err), err);
        ddim->step(self, 0, FRAMES * FRAME, rig.z, raw, NULL, next, NULL);
        for (int k = 0; k < FRAMES * FRAME; k++)
            check_near(next[k], rig.x[k], 1e-4, "from timestep %g: value %d", from[i], k);
    }
    rig_close(&rig);
}

/* z' - a x is (1 - l)(1 - abar) of noise, and with a wrong bhat exactly sqrt(1 - l) s times the effective
 * residual r + sqrt(l / (1 - l)) (b - bhat). */
static void what_is_left_of_a_frame_is_its_residual_noise(void **state)
{
    (void)state;
    const double t = 600, l = 0.5;
    Rig rig;
    float raw[FRAMES * FRAME];
    rig_open(&rig, l, 5);
    const double a = schedule_a(&rig.schedule, t), s = schedule_s(&rig.schedule, t);
    for (int turn = 0; turn < 2; turn++) {
        double square = 0;
        rig.wrong = turn ? 0.3f : 0;
        diffuse(&rig, t);
        predict(&rig, rig.z, t, 1, raw);
        for (int f = 0; f < FRAMES; f++)
            for (int c = 0; c < C && f != KEY; c++)
                for (int k = 0; k < H * W; k++) {
                    const double noise = frame_of(rig.seen, c, f)[k] - a * frame_of(rig.x, c, f)[k],
                                 off = -rig.wrong * frame_of(rig.z, c, KEY)[k],
                                 r = frame_of(rig.r, c, f)[k] + sqrt(l / (1 - l)) * off;
                    check_near(noise, sqrt(1 - l) * s * r, 2e-6, "frame %d, value %d", f, k);
                    square += noise * noise / ((FRAMES - 1) * FRAME);
                }
        if (!turn)
            check_near(sqrt(square), sqrt((1 - l) * (1 - a * a)), 0.05, "the noise that is left");
    }
    rig_close(&rig);
}

/* Share 0: frames are what the residual's network makes of them alone, to the bit; share 1 of all but the key
 * frame is what no model has. */
static void without_a_share_the_base_does_not_matter(void **state)
{
    (void)state;
    Rig rig;
    float one[FRAMES * FRAME], two[FRAMES * FRAME];
    rig_open(&rig, 0, 5);
    rig.feels = true;
    diffuse(&rig, 500);
    predict(&rig, rig.z, 500, 1, one);
    rig.wrong = 7;
    predict(&rig, rig.z, 500, 1, two);
    for (int f = 0; f < FRAMES; f++)
        for (int c = 0; c < C && f != KEY; c++)
            for (int k = 0; k < H * W; k++) {
                const float *x = frame_of(one, c, f), *y = frame_of(two, c, f);
                check(x[k] == y[k] && x[k] == sinf(frame_of(rig.z, c, f)[k]) + (float)f, "frame %d, value %d",
                      f, k);
            }
    check(memcmp(frame_of(one, 0, KEY), frame_of(two, 0, KEY), H * W * sizeof *one),
          "the key frame is the base's");
    rig_close(&rig);
}

/* Guidance goes into the estimate, never into what is subtracted. */
static void what_is_subtracted_is_not_guided(void **state)
{
    (void)state;
    Rig rig;
    float plain[FRAMES * FRAME], raw[FRAMES * FRAME], seen[FRAMES * FRAME];
    rig_open(&rig, 0.5, 5);
    diffuse(&rig, 400);
    predict(&rig, rig.z, 400, 1, plain);
    memcpy(seen, rig.seen, sizeof seen);
    predict(&rig, rig.z, 400, 3, raw);
    check(!memcmp(seen, rig.seen, sizeof seen), "the residual's network sees the same");
    rig.split.cfg_base = 1;
    predict(&rig, rig.z, 400, 3, seen);
    check(!memcmp(seen, plain, sizeof seen), "the base has a guidance of its own");
    for (int c = 0; c < C; c++)
        for (int k = 0; k < H * W; k++) {
            const float b = rig.b[c * H * W + k];
            check_near(frame_of(raw, c, KEY)[k], 2 * b, 1e-6, "the key frame, guided");
            check_near(frame_of(raw, c, 0)[k], frame_of(plain, c, 0)[k] + sqrt(0.5) * b, 1e-6,
                       "frame 0, guided");
        }
    rig_close(&rig);
}

static void groups_change_nothing(void **state)
{
    (void)state;
    float first[FRAMES * FRAME], raw[FRAMES * FRAME];
    for (int group = 1; group <= FRAMES - 1; group++) {
        Rig rig;
        rig_open(&rig, 0.5, group);
        rig.feels = true;
        diffuse(&rig, 400);
        predict(&rig, rig.z, 400, 1, group == 1 ? first : raw);
        assert_int_equal(split_calls(&rig.split), (FRAMES - 2 + group) / group);
        assert_int_equal(rig.residual_calls, split_calls(&rig.split));
        assert_int_equal(rig.base_calls, 1);
        check(group == 1 || !memcmp(first, raw, sizeof raw), "groups of %d", group);
        rig_close(&rig);
    }
    assert_int_equal(split_group((gimbal_shape){4, 16, 32, 32}), 15);
    assert_int_equal(split_group((gimbal_shape){4, 16, 64, 64}), 8);
    assert_int_equal(split_group((gimbal_shape){4, 512, 64, 64}), 8);
    assert_int_equal(split_group((gimbal_shape){4, 512, 16, 16}), 16);
    assert_int_equal(split_group((gimbal_shape){4, 1, 64, 64}), 1);
    assert_int_equal(split_group((gimbal_shape){4, 16, 512, 512}), 1);
}

/* Brought to unit variance and asked about where a picture has as much noise; frames of other shares
 * elsewhere. */
static void rescaled_frames_are_ordinary_noised_pictures(void **state)
{
    (void)state;
    const double t = 650;
    Rig rig;
    float raw[FRAMES * FRAME];
    rig_open(&rig, 0.5, 5);
    rig.split.rescale = true, rig.share[4] = 0.2, rig.share[5] = 0;
    diffuse(&rig, t);
    predict(&rig, rig.z, t, 1, raw);
    assert_int_equal(rig.residual_calls, 3);
    assert_int_equal(split_calls(&rig.split), 3);
    for (int f = 0; f < FRAMES; f++) {
        double scale, off = 0;
        if (f == KEY)
            continue;
        const double at = split_timestep(&rig.schedule, t, rig.share[f], &scale), l = rig.share[f],
                     abar = rig.schedule.alpha_bar[(int)t], v = abar + (1 - l) * (1 - abar);
        check(rig.seen_t[f] == at && at <= t, "frame %d is asked about at %g", f, rig.seen_t[f]);
        check_near(scale, 1 / sqrt(v), 1e-12, "scale");
        for (int i = 0; i < rig.schedule.T; i++)
            check(fabs(rig.schedule.alpha_bar[i] - abar / v) >=
                      fabs(rig.schedule.alpha_bar[(int)at] - abar / v),
                  "timestep %d is nearer than %g", i, at);
        for (int c = 0; c < C; c++)
            for (int k = 0; k < H * W; k++) {
                const double want = schedule_a(&rig.schedule, at) * frame_of(rig.x, c, f)[k] +
                                    schedule_s(&rig.schedule, at) * frame_of(rig.r, c, f)[k];
                off = fmax(off, fabs(want - frame_of(rig.seen, c, f)[k]));
            }
        check(off < 5e-3, "frame %d is %g off", f, off);
    }
    check(rig.seen_t[5] == t && rig.seen_t[0] < rig.seen_t[4],
          "the larger the share, the clearer the picture");
    rig_close(&rig);
}

static void frames_correlate_as_the_shares_say(void **state)
{
    (void)state;
    const gimbal_shape s = {4, 4, 158, 160}; /* 101,120 values a frame */
    const size_t plane = (size_t)s.h * (size_t)s.w, n = (size_t)s.c * plane;
    float *x = malloc(sizeof *x * shape_count(s));
    check_ok(gimbal_noise("shared:lambda=0.5,key=-2", "philox", 5, 0, s, x, &err), err);
    for (int i = 0; i < s.f; i++)
        for (int j = 0; j <= i; j++) {
            double sum = 0;
            for (size_t k = 0; k < n; k++)
                sum += (double)x[(k / plane * 4 + (size_t)i) * plane + k % plane] *
                       x[(k / plane * 4 + (size_t)j) * plane + k % plane];
            const bool with_key = i == 1 || j == 1; /* the middle of four: 4 / 2 - 1 */
            check_near(sum / (double)n,
                       i == j     ? 1
                       : with_key ? sqrt(0.5)
                                  : 0.5,
                       0.01, "frames %d and %d", i, j);
        }
    free(x);
    check_fails(
        gimbal_noise("shared:lambda=-0.5", "philox", 5, 0, (gimbal_shape){1, 1, 1, 1}, (float[1]){0}, &err),
        GIMBAL_EUSAGE, err, "the model's own");
}

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
        cmocka_unit_test(true_noise_leads_back_to_the_clip),
        cmocka_unit_test(what_is_left_of_a_frame_is_its_residual_noise),
        cmocka_unit_test(without_a_share_the_base_does_not_matter),
        cmocka_unit_test(what_is_subtracted_is_not_guided),
        cmocka_unit_test(groups_change_nothing),
        cmocka_unit_test(rescaled_frames_are_ordinary_noised_pictures),
        cmocka_unit_test(frames_correlate_as_the_shares_say),
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
