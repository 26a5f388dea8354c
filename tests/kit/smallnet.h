/* smallnet.h: a network of a few thousand parameters that uses every operator, for t_plan and t_tape.
 *
 *     x [B*F,5,3,3] -> conv_in -> resnet(time) -> attention(text) -> down -> over time -> up
 *       -> concat with the resnet's result -> resnet -> conv_out
 *
 * Sizes are odd and not square. Parameters are random and the network's own memory. */
#ifndef SMALLNET_H
#define SMALLNET_H

#include "tensor/backend.h"
#include "tests/check.h"

enum {
    SN_CLIPS = 2,
    SN_FRAMES = 3,
    SN_H = 5,
    SN_W = 3,
    SN_IN = 3,
    SN_C = 4,
    SN_TEXT = 6,
    SN_TIME = 8,
    SN_LEAVES = 80
};

typedef struct {
    Weight norm1[2], conv1[2], time[2], norm2[2], conv2[2], shortcut[2];
    int in, out;
} SnRes;

typedef struct {
    Weight norm[2], qkv[2], out1[2], norm2[2], q[2], k[2], v[2], out2[2], norm3[2], wide[2], narrow[2];
} SnAttn;

typedef struct {
    Weight in[2], down[2], norm[2], out[2], table, tnorm[2], tqkv[2], tout[2];
    SnRes first, last;
    SnAttn attn;
    Weight *leaf[SN_LEAVES];
    int n_leaves;
    uint64_t seed;
} SmallNet;

static inline float sn_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(*seed >> 40) / 16777216.0f - 0.5f;
}

static inline int sn_fill(Params *p, Weight *w)
{
    SmallNet *net = p->user;
    const int64_t count = weight_count(w);
    w->own = malloc((size_t)count * sizeof(float));
    w->grad = calloc((size_t)count, sizeof(float));
    w->trainable = true;
    const float base = w->kind == W_NORM_SCALE ? 1.0f : 0.0f, spread = w->nd == 1 ? 0.4f : 1.0f;
    for (int64_t i = 0; i < count; i++)
        w->own[i] = base + spread * sn_random(&net->seed);
    net->leaf[net->n_leaves++] = w;
    return 0;
}

static inline void sn_res_params(Params *p, const char *name, SnRes *r, int in, int out)
{
    r->in = in, r->out = out;
    pv_in(p, "%s", name);
    pv_norm(p, "norm1", r->norm1, in);
    pv_conv(p, "conv1", r->conv1, in, out, 3);
    pv_linear(p, "time", r->time, SN_TIME, out, true);
    pv_norm(p, "norm2", r->norm2, out);
    pv_conv(p, "conv2", r->conv2, out, out, 3);
    if (in != out)
        pv_conv(p, "shortcut", r->shortcut, in, out, 1);
    pv_out(p);
}

static inline void sn_attn_params(Params *p, SnAttn *a)
{
    pv_in(p, "attn");
    pv_norm(p, "norm1", a->norm, SN_C);
    pv_linear(p, "qkv", a->qkv, SN_C, 3 * SN_C, false);
    pv_linear(p, "out1", a->out1, SN_C, SN_C, true);
    pv_norm(p, "norm2", a->norm2, SN_C);
    pv_linear(p, "q", a->q, SN_C, SN_C, false);
    pv_linear(p, "k", a->k, SN_TEXT, SN_C, false);
    pv_linear(p, "v", a->v, SN_TEXT, SN_C, false);
    pv_linear(p, "out2", a->out2, SN_C, SN_C, true);
    pv_norm(p, "norm3", a->norm3, SN_C);
    pv_linear(p, "wide", a->wide, SN_C, 16, true);
    pv_linear(p, "narrow", a->narrow, 8, SN_C, true);
    pv_out(p);
}

static inline void sn_open(SmallNet *net)
{
    gimbal_error err = {0};
    memset(net, 0, sizeof *net);
    net->seed = 42;
    Params p = {.leaf = sn_fill, .user = net, .err = &err};
    pv_conv(&p, "conv_in", net->in, SN_IN, SN_C, 3);
    sn_res_params(&p, "first", &net->first, SN_C, SN_C);
    sn_attn_params(&p, &net->attn);
    pv_conv(&p, "down", net->down, SN_C, SN_C, 3);
    pv_leaf(&p, "table", &net->table, W_TABLE, 2, (int64_t[]){SN_FRAMES, SN_C});
    pv_norm(&p, "tnorm", net->tnorm, SN_C);
    pv_linear(&p, "tqkv", net->tqkv, SN_C, 3 * SN_C, true);
    pv_linear(&p, "tout", net->tout, SN_C, SN_C, true);
    sn_res_params(&p, "last", &net->last, 2 * SN_C, SN_C);
    pv_norm(&p, "norm_out", net->norm, SN_C);
    pv_conv(&p, "conv_out", net->out, SN_C, SN_IN, 3);
    check_ok(p.code, err);
}

static inline void sn_close(SmallNet *net)
{
    for (int i = 0; i < net->n_leaves; i++) {
        weight_drop(net->leaf[i]);
        free(net->leaf[i]->own), free(net->leaf[i]->grad);
    }
}

static const int sn_same[4] = {1, 1, 1, 1};

/* in: x, time (after SiLU) */
static inline Tensor *sn_res(Cx *cx, void *self, Tensor **in)
{
    SnRes *r = self;
    Tensor *x = in[0];
    const int64_t per = x ? SN_FRAMES * x->n[1] * x->n[2] : 1;
    const NormArg norm = {.groups = 2, .per = 1, .eps = 1e-5f, .act = ACT_SILU};
    Tensor *t = op_linear(cx, in[1], &r->time[0], (Epi){.bias = &r->time[1]});
    Tensor *h = op_norm(cx, x, &r->norm1[0], &r->norm1[1], norm);
    h = op_conv2d(cx, h, &r->conv1[0], 1, sn_same, (Epi){.bias = &r->conv1[1], .row = t, .row_per = per});
    h = op_norm(cx, h, &r->norm2[0], &r->norm2[1], norm);
    if (r->in != r->out)
        x = op_linear(cx, x, &r->shortcut[0], (Epi){.bias = &r->shortcut[1]});
    return op_conv2d(cx, h, &r->conv2[0], 1, sn_same, (Epi){.bias = &r->conv2[1], .add = x, .scale = 0.7f});
}

/* in: x [N,S,C], text [B,L,D] */
static inline Tensor *sn_attn(Cx *cx, void *self, Tensor **in)
{
    SnAttn *a = self;
    Tensor *x = in[0];
    const NormArg norm = {.eps = 1e-5f};
    const AttnArg arg = {.heads = 2, .frames = SN_FRAMES};
    Tensor *h = op_norm(cx, x, &a->norm[0], &a->norm[1], norm);
    Tensor *qkv = op_linear(cx, h, &a->qkv[0], (Epi){.bias = &a->qkv[1]});
    Tensor *q = op_channels(cx, qkv, 0, SN_C), *k = op_channels(cx, qkv, SN_C, SN_C);
    Tensor *v = op_channels(cx, qkv, 2 * SN_C, SN_C);
    h = op_attention(cx, q, &(Kv){k, v, KV_SELF}, 1, arg);
    x = op_linear(cx, h, &a->out1[0], (Epi){.bias = &a->out1[1], .add = x});

    h = op_norm(cx, x, &a->norm2[0], &a->norm2[1], norm);
    q = op_linear(cx, h, &a->q[0], (Epi){0});
    k = op_linear(cx, in[1], &a->k[0], (Epi){0});
    v = op_linear(cx, in[1], &a->v[0], (Epi){0});
    h = op_attention(cx, q, &(Kv){k, v, KV_CLIP}, 1, arg);
    x = op_linear(cx, h, &a->out2[0], (Epi){.bias = &a->out2[1], .add = x});

    h = op_norm(cx, x, &a->norm3[0], &a->norm3[1], norm);
    h = op_linear(cx, h, &a->wide[0], (Epi){.bias = &a->wide[1], .act = ACT_GEGLU});
    return op_linear(cx, h, &a->narrow[0], (Epi){.bias = &a->narrow[1], .add = x});
}

/* Attention over frames. in: x [N,S,C] */
static inline Tensor *sn_time(Cx *cx, void *self, Tensor **in)
{
    SmallNet *net = self;
    Tensor *x = in[0];
    if (!x)
        return NULL;
    Tensor *h = op_norm(cx, x, &net->tnorm[0], &net->tnorm[1],
                        (NormArg){.groups = 2, .per = SN_FRAMES, .eps = 1e-6f});
    h = op_rows(cx, h, op_embed(cx, &net->table, NULL, SN_FRAMES), x->n[1]);
    Tensor *qkv = op_linear(cx, h, &net->tqkv[0], (Epi){.bias = &net->tqkv[1]});
    Tensor *q = op_channels(cx, qkv, 0, SN_C), *k = op_channels(cx, qkv, SN_C, SN_C);
    Tensor *v = op_channels(cx, qkv, 2 * SN_C, SN_C);
    h = op_attention(cx, q, &(Kv){k, v, KV_SELF}, 1,
                     (AttnArg){.heads = 1, .frames = SN_FRAMES, .in_time = true});
    return op_linear(cx, h, &net->tout[0], (Epi){.bias = &net->tout[1], .act = ACT_QUICK_GELU, .add = x});
}

/* in: x [B*F,H,W,3], time [B,8], text [B,L,6] -> [B*F,H,W,3] */
static inline Tensor *sn_forward(Cx *cx, void *self, Tensor **in)
{
    SmallNet *net = self;
    const int64_t N = in[0]->n[0], H = in[0]->n[1], W = in[0]->n[2], h2 = (H + 1) / 2, w2 = (W + 1) / 2;
    Tensor *time = op_act(cx, in[1], ACT_SILU);
    Tensor *h = op_conv2d(cx, in[0], &net->in[0], 1, sn_same, (Epi){.bias = &net->in[1]});
    h = block(cx, sn_res, &net->first, (Tensor *[]){h, time}, 2);
    Tensor *skip = h;
    h = op_view(cx, h, 3, (int64_t[]){N, H * W, SN_C});
    h = block(cx, sn_attn, &net->attn, (Tensor *[]){h, in[2]}, 2);
    h = op_view(cx, h, 4, (int64_t[]){N, H, W, SN_C});
    h = op_conv2d(cx, h, &net->down[0], 2, sn_same, (Epi){.bias = &net->down[1], .act = ACT_SILU});
    h = op_view(cx, h, 3, (int64_t[]){N, h2 * w2, SN_C});
    h = block(cx, sn_time, net, (Tensor *[]){h}, 1);
    h = op_view(cx, h, 4, (int64_t[]){N, h2, w2, SN_C});
    h = op_concat(cx, op_resize(cx, h, H, W), skip);
    h = block(cx, sn_res, &net->last, (Tensor *[]){h, time}, 2);
    h = op_norm(cx, h, &net->norm[0], &net->norm[1],
                (NormArg){.groups = 2, .per = 1, .eps = 1e-5f, .act = ACT_SILU});
    return op_conv2d(cx, h, &net->out[0], 1, sn_same, (Epi){.bias = &net->out[1]});
}

/* Data of the network's inputs and a target, for height SN_H + grow. */
typedef struct {
    float x[4096], time[SN_CLIPS * SN_TIME], text[SN_CLIPS * 7 * SN_TEXT], target[4096];
} SnData;

static inline void sn_data(SnData *d)
{
    uint64_t seed = 7;
    for (size_t i = 0; i < sizeof *d / sizeof(float); i++)
        ((float *)d)[i] = 2.0f * sn_random(&seed);
}

/* in[4]: x, time, text, target */
static inline void sn_inputs(Cx *cx, SnData *d, int h, int w, Tensor *in[4])
{
    const int64_t n[4] = {SN_CLIPS * SN_FRAMES, h, w, SN_IN};
    in[0] = tensor_input(cx, F32, 4, n, d ? d->x : NULL);
    in[1] = tensor_input(cx, F32, 2, (int64_t[]){SN_CLIPS, SN_TIME}, d ? d->time : NULL);
    in[2] = tensor_input(cx, F32, 3, (int64_t[]){SN_CLIPS, 7, SN_TEXT}, d ? d->text : NULL);
    in[3] = tensor_input(cx, F32, 4, n, d ? d->target : NULL);
}

#endif
