/* consisti2v.h: what tests of the ConsistI2V U-Net share: the golden network, networks with weights by
 * formula, one call of either.
 *
 * Weights by formula need no file: value i of the tensor NAME is a hash of i and CRC32(NAME), see hashed().
 */
#ifndef CONSISTI2V_H
#define CONSISTI2V_H

#include "diffusion/engine.h"
#include "tests/models.h"
#include "tests/network.h"

#define FOLDER "tests/golden/consisti2v-tiny/"

/* ---- a U-Net with weights ---------------------------------------------------------------- */

typedef struct {
    Arena keep;
    WeightSet *set;
    json_t *config;
    const Family *family;
    UnetShape shape;
    RunDefaults run;
    Unet *unet;
} Net;

/* Takes over the config. */
static inline void build_net(Net *n, json_t *config)
{
    const FolderConfigs configs = {.unet = config, .unet_where = "config"};
    n->config = config;
    check_ok(family_find(&n->family, &configs, &err), err);
    check(!strcmp(n->family->name, "consisti2v"), "family %s", n->family->name);
    check_ok(n->family->shape(&configs, &n->shape, &n->run, &err), err);
    check_ok(unet_build(&n->unet, &n->keep, &n->shape, &err), err);
}

static inline void open_net(Net *n)
{
    json_t *config;
    memset(n, 0, sizeof *n);
    check_ok(weights_open(&n->set, FOLDER "model/unet", &err), err);
    check_ok(json_read(&config, FOLDER "model/unet/config.json", &err), err);
    build_net(n, config);
    check_ok(bind_weights(n->set, "", unet_params, n->unet, n->family->unet_ignore, NULL, &err), err);
}

static inline int drop(Params *p, Weight *w)
{
    (void)p;
    weight_drop(w);
    if (!w->file)
        free(w->own), w->own = NULL;
    free(w->grad), w->grad = NULL;
    return 0;
}

static inline void walk(Unet *unet, int (*leaf)(Params *, Weight *), void *user)
{
    Params p = {.leaf = leaf, .user = user, .err = &err};
    unet_params(unet, &p);
    check(!p.code, "%.400s", err.msg);
}

static inline void close_net(Net *n)
{
    walk(n->unet, drop, NULL);
    weights_close(n->set), json_decref(n->config);
    arena_free(&n->keep);
}

/* ---- one call ---------------------------------------------------------------------------- */

/* Inputs of `clips` clips of F frames, frame 0 the picture's. */
typedef struct {
    int clips, F, H, W, L, D, base;
    float *x, *time, *stride, *context;
    Tensor in[4];
} Inputs;

/* first [B,4,1,H,W] and sample [B,4,F-1,H,W] as the authors have them. */
static inline Inputs inputs_of(const Unet *unet, const float *first, const float *sample,
                               const float *context, int B, int F, int H, int W, int L)
{
    const UnetShape *s = unet_shape(unet);
    const int plane = H * W;
    Inputs in = {.clips = B, .F = F, .H = H, .W = W, .L = L, .D = s->context, .base = s->width[0]};
    in.x = malloc(sizeof(float) * (size_t)(B * F * plane * 4));
    for (int b = 0; b < B; b++)
        for (int c = 0; c < 4; c++)
            for (int f = 0; f < F; f++)
                for (int i = 0; i < plane; i++)
                    in.x[((b * F + f) * plane + i) * 4 + c] =
                        f ? sample[((b * 4 + c) * (F - 1) + f - 1) * plane + i]
                          : first[(b * 4 + c) * plane + i];
    in.context = malloc(sizeof(float) * (size_t)(B * L * in.D));
    memcpy(in.context, context, sizeof(float) * (size_t)(B * L * in.D));
    in.time = malloc(sizeof(float) * (size_t)(B * in.base));
    in.stride = malloc(sizeof(float) * (size_t)(B * in.base));
    for (int b = 0; b < B; b++) {
        timestep_features(801, in.base, in.time + b * in.base);
        timestep_features(3, in.base, in.stride + b * in.base);
    }
    in.in[0] = input(F32, 4, (int64_t[]){B * F, H, W, 4}, in.x);
    in.in[1] = input(F32, 2, (int64_t[]){B, in.base}, in.time);
    in.in[2] = input(F32, 3, (int64_t[]){B, L, in.D}, in.context);
    in.in[3] = input(F32, 2, (int64_t[]){B, in.base}, in.stride);
    return in;
}

static inline void inputs_free(Inputs *in)
{
    free(in->x), free(in->time), free(in->stride), free(in->context);
}

/* The prediction of frames 1 on, as the authors have it: [B,4,F-1,H,W]. Caller frees. */
static inline float *prediction(const Tensor *y, int F)
{
    const int64_t plane = y->n[1] * y->n[2], B = y->n[0] / F;
    float *out = malloc(sizeof(float) * (size_t)(B * 4 * (F - 1) * plane));
    for (int64_t b = 0; b < B; b++)
        for (int64_t c = 0; c < 4; c++)
            for (int64_t f = 1; f < F; f++)
                for (int64_t i = 0; i < plane; i++)
                    out[((b * 4 + c) * (F - 1) + f - 1) * plane + i] =
                        ((const float *)y->d)[((b * F + f) * plane + i) * y->ld + c];
    return out;
}

static inline float *predict(Unet *unet, Inputs *in)
{
    Cx cx = {0};
    cx_init(&cx, cpu_chain(), 2, &err);
    UnetCall call = {.unet = unet, .frames = in->F};
    const Tensor *y = unet_forward(&cx, &call, (Tensor *[]){&in->in[0], &in->in[1], &in->in[2], &in->in[3]});
    check(y != NULL, "%.400s", err.msg);
    float *out = prediction(y, in->F);
    cx_free(&cx);
    return out;
}

static inline Inputs recorded_inputs(const Net *net, const SafeTensors *file)
{
    const StEntry *x = st_find(file, "sample"), *text = st_find(file, "encoder_hidden_states");
    return inputs_of(net->unet, st_find(file, "first_frame_latents")->data, x->data, text->data, (int)x->n[0],
                     (int)x->n[2] + 1, (int)x->n[3], (int)x->n[4], (int)text->n[1]);
}

/* What an arena owns stays. */
static inline int drop_layer(Params *p, Weight *w)
{
    (void)p;
    weight_drop(w);
    return 0;
}

/* ---- weights by formula --------------------------------------------------- */

static inline uint32_t crc32_of(const char *s)
{
    uint32_t crc = 0xffffffffu;
    for (; *s; s++) {
        crc ^= (unsigned char)*s;
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

static inline float hashed(uint32_t crc, uint32_t i, double scale)
{
    uint32_t x = i + crc * 0x9e3779b9u;
    x ^= x >> 16, x *= 0x7feb352du, x ^= x >> 15, x *= 0x846ca68bu, x ^= x >> 16;
    return (float)((2 * ((double)(x >> 8) / (1 << 24)) - 1) * scale);
}

static inline float *hashed_values(const char *name, size_t n, double scale)
{
    const uint32_t crc = crc32_of(name);
    float *out = malloc(n * sizeof *out);
    for (size_t i = 0; i < n; i++)
        out[i] = hashed(crc, (uint32_t)i, scale);
    return out;
}

static inline int by_formula(Params *p, Weight *w)
{
    const size_t n = (size_t)weight_count(w), width = n / (size_t)MAX(w->n[0], 1);
    const bool bias = w->kind == W_BIAS || w->kind == W_NORM_SHIFT;
    const double scale = w->kind == W_BLEND        ? 1
                         : w->kind == W_NORM_SCALE ? 0.2
                         : bias                    ? 0.1
                                                   : sqrt(3.0 / (double)width);
    (void)p;
    w->own = hashed_values(w->name, n, scale);
    for (size_t i = 0; i < n; i++) {
        if (w->kind == W_ROTARY)
            w->own[i] = (float)pow(10000, -2.0 * (double)i / (double)(2 * n));
        else if (w->kind == W_BLEND)
            w->own[i] = (float)(0.25 + 0.25 * (double)w->own[i]);
        else if (w->kind == W_NORM_SCALE)
            w->own[i] += 1;
    }
    return 0;
}

static inline json_t *formula_config(const char *key, const char *value)
{
    static const char text[] =
        "{\"_class_name\": \"VideoLDMUNet3DConditionModel\", \"block_out_channels\": [32, 64, 96, 96],"
        "\"attention_head_dim\": [2, 4, 4, 4], \"cross_attention_dim\": 24, \"n_frames\": 5, "
        "\"use_linear_projection\": true, \"first_frame_condition_mode\": \"concat\","
        "\"augment_temporal_attention\": true, \"temp_pos_embedding\": \"rotary\","
        "\"use_frame_stride_condition\": true}";
    json_t *config = json_loads(text, 0, NULL);
    if (key)
        json_object_set_new(config, key, json_loads(value, JSON_DECODE_ANY, NULL));
    return config;
}

static inline void formula_net(Net *n, const char *key, const char *value)
{
    memset(n, 0, sizeof *n);
    build_net(n, formula_config(key, value));
    walk(n->unet, by_formula, NULL);
}

static inline Inputs formula_inputs(const Unet *unet, int B, int H, int W)
{
    enum { F = 5, L = 7, D = 24 };
    const size_t plane = (size_t)(H * W), clips = (size_t)B;
    float *x = hashed_values("input.sample", clips * 4 * (F - 1) * plane, 1.5),
          *first = hashed_values("input.first_frame", clips * 4 * plane, 1.5),
          *text = hashed_values("input.text", clips * L * D, 1);
    const Inputs in = inputs_of(unet, first, x, text, B, F, H, W, L);
    free(x), free(first), free(text);
    return in;
}

#endif
