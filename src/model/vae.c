/* vae.c: the autoencoder between pictures and latents (Rombach et al. 2022): diffusers' AutoencoderKL.
 *
 *     pictures [N,H,W,3] -> conv_in -> per level, narrowest first: resnets, then a convolution of stride 2
 *       (not after the last) -> mid (resnet, attention, resnet) -> norm, silu, conv_out -> quant_conv
 *       -> moments [N,h,w,2C]: mean and log variance of q(z|picture) = N(mean, exp(logvar))
 *
 *     z [N,h,w,C] -> post_quant_conv -> conv_in -> mid
 *       -> per level, widest first: resnets, then twice the size and a convolution (not after the last)
 *       -> norm, silu, conv_out -> pictures [N, 2^(levels-1) h, 2^(levels-1) w, 3], about -1..1
 *
 * Frames are independent. The mid attention is one head over all channels and pixels, with biases on q, k, v.
 * All norms have eps 1e-6. A convolution of stride 2 sees one row below and one column to the right of the
 * picture and none above or to the left: a side of n becomes floor(n / 2).
 *
 * vae_piece: the same decoder cut at its norms, so that a picture of any size can go through it band by band.
 *
 * Knows diffusers' AutoencoderKL config. Refuses to know files, clips and how latents were made. */
#include "model/model.h"

#include <math.h>
#include <string.h>

enum { MAX_VAE_WIDTH = 16384 };
static const float vae_eps = 1e-6f;
static const int pad1[4] = {1, 1, 1, 1}, pad_below_right[4] = {0, 1, 0, 1};

typedef struct {
    int width, groups;
    Weight norm[2];
    Attention attn;
} MidAttention;

typedef struct {
    Resnet first, last;
    MidAttention attn;
} Mid;

typedef struct {
    int resnets, width;
    bool resample;
    Resnet resnet[MAX_LAYERS + 1];
    Weight conv[2];
} VaeLevel;

/* Encoder or decoder: the same parts in another order. */
typedef struct {
    int in, first, last, out; /* channels: input, after conv_in, before conv_out, output */
    Weight conv_in[2], norm_out[2], conv_out[2];
    VaeLevel level[MAX_LEVELS];
    Mid mid;
} Coder;

struct Vae {
    int latent, in, out, levels, width[MAX_LEVELS], layers, groups;
    bool quant, post_quant, attention;
    double scaling;
    Weight quant_conv[2], post_quant_conv[2];
    Coder encoder, decoder;
};

const char *const vae_ignore[] = {NULL};

int vae_factor(const Vae *v)
{
    return 1 << (v->levels - 1);
}

int vae_channels(const Vae *v)
{
    return v->latent;
}

double vae_scaling(const Vae *v)
{
    return v->scaling;
}

float vae_draw(float mean, float log_variance, float eps)
{
    return mean + expf(0.5f * fminf(fmaxf(log_variance, -30.0f), 20.0f)) * eps;
}

/* ---- config ------------------------------------------------------------------------------ */

static const ConfigRule rules[] = {
    {"_class_name", "\"AutoencoderKL\""},
    {"act_fn", "\"silu\"|\"swish\""},
    {"out_channels", "3"},
    {"shift_factor", "null|0"},
    {"latents_mean", "null"},
    {"latents_std", "null"},
    {NULL, NULL},
};

/* A list of block types of which only one is implemented, as long as the list of widths. */
static int check_types(const json_t *j, const char *where, const char *key, const char *only, int levels,
                       gimbal_error *err)
{
    const json_t *list = json_object_get(j, key);
    if (!list && levels == 1)
        return GIMBAL_OK;
    if (!json_is_array(list) || json_array_size(list) != (size_t)levels)
        return fail(err, GIMBAL_EMODEL,
                    "%s: \"%s\" must be a list of %d names, one for each of \"block_out_channels\"", where,
                    key, levels);
    for (int i = 0; i < levels; i++) {
        const char *type = json_string_value(json_array_get(list, (size_t)i));
        char q[QUOTED_ROOM];
        if (!type || strcmp(type, only))
            return fail(err, GIMBAL_EMODEL, "%s: \"%s\"[%d] is %s; only \"%s\" is supported", where, key, i,
                        type ? quoted(type, q) : "not a name", only);
    }
    return GIMBAL_OK;
}

static int check_numbers(const Vae *v, const char *where, gimbal_error *err)
{
    for (int i = 0; i < v->levels; i++)
        if (v->width[i] < 1 || v->width[i] > MAX_VAE_WIDTH || v->width[i] % v->groups)
            return fail(err, GIMBAL_EMODEL,
                        "%s: \"block_out_channels\"[%d] is %d, expected a multiple of \"norm_num_groups\", "
                        "%d, up to %d",
                        where, i, v->width[i], v->groups, MAX_VAE_WIDTH);
    if (!(v->scaling > 0) || !isfinite(v->scaling))
        return fail(err, GIMBAL_EMODEL, "%s: \"scaling_factor\" is %g, expected a positive number", where,
                    v->scaling);
    return GIMBAL_OK;
}

static int read_config(Vae *v, const json_t *j, const char *where, gimbal_error *err)
{
    TRY(json_refuse(j, where, rules, err));
    TRY(json_get_int(j, where, "in_channels", 3, 1, 256, &v->in, err));
    TRY(json_get_int(j, where, "latent_channels", 4, 1, 256, &v->latent, err));
    TRY(json_get_int(j, where, "norm_num_groups", 32, 1, MAX_VAE_WIDTH, &v->groups, err));
    TRY(json_get_int(j, where, "layers_per_block", 1, 1, MAX_LAYERS, &v->layers, err));
    TRY(json_get_real(j, where, "scaling_factor", 0.18215, &v->scaling, err));
    TRY(json_get_bool(j, where, "use_quant_conv", true, &v->quant, err));
    TRY(json_get_bool(j, where, "use_post_quant_conv", true, &v->post_quant, err));
    TRY(json_get_bool(j, where, "mid_block_add_attention", true, &v->attention, err));
    TRY(json_get_ints(j, where, "block_out_channels", 0, v->width, MAX_LEVELS, &v->levels, err));
    v->out = 3;
    if (!json_object_get(j, "block_out_channels"))
        v->width[0] = 64, v->levels = 1;
    if (!v->levels)
        return fail(err, GIMBAL_EMODEL, "%s: \"block_out_channels\" is empty, expected 1 to %d widths", where,
                    MAX_LEVELS);
    TRY(check_types(j, where, "down_block_types", "DownEncoderBlock2D", v->levels, err));
    TRY(check_types(j, where, "up_block_types", "UpDecoderBlock2D", v->levels, err));
    return check_numbers(v, where, err);
}

/* ---- building ---------------------------------------------------------------------------- */

static Resnet resnet_of(const Vae *v, int in, int out)
{
    return (Resnet){.in = in, .out = out, .groups = v->groups, .eps = vae_eps};
}

static void build_mid(const Vae *v, Mid *mid, int width)
{
    mid->first = mid->last = resnet_of(v, width, width);
    mid->attn.width = width, mid->attn.groups = v->groups;
    mid->attn.attn =
        (Attention){.width = width, .inner = width, .context = width, .heads = 1, .qkv_bias = true};
}

/* order +1: from the picture, narrow to wide; -1: back. */
static void build_coder(const Vae *v, Coder *c, int order, int in, int out)
{
    const int top = v->levels - 1;
    int now = v->width[order > 0 ? 0 : top];
    c->in = in, c->out = out, c->first = now;
    for (int k = 0; k <= top; k++) {
        VaeLevel *level = &c->level[k];
        level->width = v->width[order > 0 ? k : top - k];
        level->resnets = v->layers + (order < 0);
        level->resample = k < top;
        for (int j = 0; j < level->resnets; j++, now = level->width)
            level->resnet[j] = resnet_of(v, now, level->width);
    }
    c->last = order > 0 ? v->width[top] : v->width[0];
    build_mid(v, &c->mid, v->width[top]);
}

int vae_build(Vae **out, Arena *keep, const json_t *config, const char *where, gimbal_error *err)
{
    *out = NULL;
    Vae *v = arena_alloc(keep, sizeof *v);
    if (!v)
        return fail(err, GIMBAL_ENOMEM, "no memory for the VAE's blocks");
    TRY(read_config(v, config, where, err));
    build_coder(v, &v->encoder, +1, v->in, 2 * v->latent);
    build_coder(v, &v->decoder, -1, v->latent, v->out);
    *out = v;
    return GIMBAL_OK;
}

/* ---- parameters -------------------------------------------------------------------------- */

static void mid_params(Params *p, Mid *mid, bool attention)
{
    pv_in(p, "mid_block.resnets.0");
    resnet_params(p, &mid->first);
    pv_out(p);
    if (attention) {
        pv_in(p, "mid_block.attentions");
        pv_norm(p, "0.group_norm", mid->attn.norm, mid->attn.width);
        attention_params(p, "0", &mid->attn.attn);
        pv_out(p);
    }
    pv_in(p, "mid_block.resnets.1");
    resnet_params(p, &mid->last);
    pv_out(p);
}

static void coder_params(Params *p, const Vae *v, Coder *c, const char *name, const char *blocks,
                         const char *resampler)
{
    pv_in(p, "%s", name);
    pv_conv(p, "conv_in", c->conv_in, c->in, c->first, 3);
    for (int k = 0; k < v->levels; k++) {
        VaeLevel *level = &c->level[k];
        pv_in(p, "%s.%d", blocks, k);
        for (int j = 0; j < level->resnets; j++) {
            pv_in(p, "resnets.%d", j);
            resnet_params(p, &level->resnet[j]);
            pv_out(p);
        }
        if (level->resample)
            pv_conv(p, resampler, level->conv, level->width, level->width, 3);
        pv_out(p);
    }
    mid_params(p, &c->mid, v->attention);
    pv_norm(p, "conv_norm_out", c->norm_out, c->last);
    pv_conv(p, "conv_out", c->conv_out, c->last, c->out, 3);
    pv_out(p);
}

void vae_params(void *vae, Params *p)
{
    Vae *v = vae;
    coder_params(p, v, &v->encoder, "encoder", "down_blocks", "downsamplers.0.conv");
    coder_params(p, v, &v->decoder, "decoder", "up_blocks", "upsamplers.0.conv");
    if (v->quant)
        pv_conv(p, "quant_conv", v->quant_conv, 2 * v->latent, 2 * v->latent, 1);
    if (v->post_quant)
        pv_conv(p, "post_quant_conv", v->post_quant_conv, v->latent, v->latent, 1);
}

/* ---- forward ----------------------------------------------------------------------------- */

static Tensor *resnet_graph(Cx *cx, void *resnet, Tensor **in)
{
    return resnet_forward(cx, resnet, in[0], NULL);
}

/* in: x [N,H,W,C]. */
static Tensor *attention_graph(Cx *cx, void *mid, Tensor **in)
{
    MidAttention *m = mid;
    Tensor *x = in[0];
    const int64_t tokens[3] = {x->n[0], x->n[1] * x->n[2], m->width};
    const int64_t picture[4] = {x->n[0], x->n[1], x->n[2], m->width};
    Tensor *n =
        op_norm(cx, x, &m->norm[0], &m->norm[1], (NormArg){.groups = m->groups, .per = 1, .eps = vae_eps});
    n = attention_forward(cx, &m->attn, op_view(cx, n, 3, tokens), NULL, op_view(cx, x, 3, tokens),
                          (AttnArg){.frames = 1});
    return op_view(cx, n, 4, picture);
}

/* name: "encoder" or "decoder", for taps. */
static Tensor *mid_forward(Cx *cx, const Vae *v, Mid *mid, Tensor *h, const char *name)
{
    h = h ? block(cx, resnet_graph, &mid->first, &h, 1) : NULL;
    if (v->attention && h)
        h = tap(cx, block(cx, attention_graph, &mid->attn, &h, 1), "%s.mid_block.attentions.0", name);
    h = h ? block(cx, resnet_graph, &mid->last, &h, 1) : NULL;
    return tap(cx, h, "%s.mid_block", name);
}

static Tensor *resnets_forward(Cx *cx, VaeLevel *level, Tensor *h)
{
    for (int j = 0; j < level->resnets && h; j++)
        h = block(cx, resnet_graph, &level->resnet[j], &h, 1);
    return h;
}

static Tensor *down_forward(Cx *cx, VaeLevel *level, Tensor *h, int k)
{
    h = resnets_forward(cx, level, h);
    if (level->resample)
        h = op_conv2d(cx, h, &level->conv[0], 2, pad_below_right, (Epi){.bias = &level->conv[1]});
    return tap(cx, h, "encoder.down_blocks.%d", k);
}

static Tensor *up_forward(Cx *cx, VaeLevel *level, Tensor *h, int k)
{
    h = resnets_forward(cx, level, h);
    if (level->resample && h) {
        h = op_resize(cx, h, 2 * h->n[1], 2 * h->n[2]);
        h = op_conv2d(cx, h, &level->conv[0], 1, pad1, (Epi){.bias = &level->conv[1]});
    }
    return tap(cx, h, "decoder.up_blocks.%d", k);
}

static Tensor *out_forward(Cx *cx, const Vae *v, Coder *c, Tensor *h)
{
    const NormArg norm = {.groups = v->groups, .per = 1, .eps = vae_eps, .act = ACT_SILU};
    h = op_norm(cx, h, &c->norm_out[0], &c->norm_out[1], norm);
    return op_conv2d(cx, h, &c->conv_out[0], 1, pad1, (Epi){.bias = &c->conv_out[1]});
}

Tensor *vae_encode(Cx *cx, void *vae, Tensor **in)
{
    Vae *v = vae;
    Coder *c = &v->encoder;
    Tensor *h = in[0];
    const int factor = vae_factor(v);
    if (!h)
        return NULL;
    if (h->nd != 4 || h->n[3] != v->in)
        return cx_fail(cx, GIMBAL_EMODEL, "VAE: pictures of %lld channels, this encoder takes %d",
                       (long long)tensor_channels(h), v->in);
    if (h->n[1] < factor || h->n[2] < factor)
        return cx_fail(cx, GIMBAL_EMODEL, "VAE: pictures of %lldx%lld, a latent pixel covers %dx%d",
                       (long long)h->n[2], (long long)h->n[1], factor, factor);
    h = op_conv2d(cx, h, &c->conv_in[0], 1, pad1, (Epi){.bias = &c->conv_in[1]});
    h = tap(cx, h, "encoder.conv_in");
    for (int k = 0; k < v->levels; k++)
        h = down_forward(cx, &c->level[k], h, k);
    h = mid_forward(cx, v, &c->mid, h, "encoder");
    h = tap(cx, out_forward(cx, v, c, h), "encoder");
    if (v->quant)
        h = tap(cx, op_linear(cx, h, &v->quant_conv[0], (Epi){.bias = &v->quant_conv[1]}), "quant_conv");
    return h;
}

Tensor *vae_decode(Cx *cx, void *vae, Tensor **in)
{
    Vae *v = vae;
    Coder *c = &v->decoder;
    Tensor *h = in[0];
    if (!h)
        return NULL;
    if (h->nd != 4 || h->n[3] != v->latent)
        return cx_fail(cx, GIMBAL_EMODEL, "VAE: latents of %lld channels, expected %d",
                       (long long)tensor_channels(h), v->latent);
    if (v->post_quant)
        h = tap(cx, op_linear(cx, h, &v->post_quant_conv[0], (Epi){.bias = &v->post_quant_conv[1]}),
                "post_quant_conv");
    h = op_conv2d(cx, h, &c->conv_in[0], 1, pad1, (Epi){.bias = &c->conv_in[1]});
    h = mid_forward(cx, v, &c->mid, tap(cx, h, "decoder.conv_in"), "decoder");
    for (int k = 0; k < v->levels; k++)
        h = up_forward(cx, &c->level[k], h, k);
    return tap(cx, out_forward(cx, v, c, h), "decoder");
}

/* ---- the decoder in pieces --------------------------------------------------------------- */

int vae_levels(const Vae *v)
{
    return v->levels;
}

int vae_resnets(const Vae *v)
{
    return v->decoder.level[0].resnets;
}

int vae_width(const Vae *v, int level)
{
    return v->decoder.level[level].width;
}

int vae_middle_width(const Vae *v)
{
    return v->decoder.first;
}

VaeNorm vae_norm(const VaePiece *p)
{
    const Coder *c = &p->vae->decoder;
    const Resnet *r = &c->level[p->level].resnet[p->resnet];
    const Weight *norm = p->part == VAE_OUT ? c->norm_out : p->part == VAE_FIRST ? r->norm1 : r->norm2;
    const int channels = p->part == VAE_OUT ? c->last : p->part == VAE_FIRST ? r->in : r->out;
    return (VaeNorm){&norm[0], &norm[1], channels, p->vae->groups, vae_eps};
}

static Tensor *middle_piece(Cx *cx, Vae *v, Tensor *z)
{
    Coder *c = &v->decoder;
    if (v->post_quant)
        z = op_linear(cx, z, &v->post_quant_conv[0], (Epi){.bias = &v->post_quant_conv[1]});
    z = op_conv2d(cx, z, &c->conv_in[0], 1, pad1, (Epi){.bias = &c->conv_in[1]});
    return mid_forward(cx, v, &c->mid, z, "decoder");
}

static Tensor *up_piece(Cx *cx, VaeLevel *level, Tensor *x)
{
    x = x ? op_resize(cx, x, 2 * x->n[1], 2 * x->n[2]) : NULL;
    return op_conv2d(cx, x, &level->conv[0], 1, pad1, (Epi){.bias = &level->conv[1]});
}

static Tensor *second_piece(Cx *cx, Resnet *r, Tensor *h, Tensor *x)
{
    if (r->in != r->out)
        x = op_linear(cx, x, &r->shortcut[0], (Epi){.bias = &r->shortcut[1]});
    h = op_act(cx, h, ACT_SILU);
    return x ? op_conv2d(cx, h, &r->conv2[0], 1, pad1, (Epi){.bias = &r->conv2[1], .add = x}) : NULL;
}

Tensor *vae_piece(Cx *cx, void *piece, Tensor **in)
{
    const VaePiece *p = piece;
    Coder *c = &p->vae->decoder;
    VaeLevel *level = &c->level[p->level];
    Resnet *r = &level->resnet[p->resnet];
    switch (p->part) {
    case VAE_MIDDLE:
        return middle_piece(cx, p->vae, in[0]);
    case VAE_UP:
        return up_piece(cx, level, in[0]);
    case VAE_FIRST:
        return op_conv2d(cx, op_act(cx, in[0], ACT_SILU), &r->conv1[0], 1, pad1, (Epi){.bias = &r->conv1[1]});
    case VAE_SECOND:
        return second_piece(cx, r, in[0], in[1]);
    default:
        return op_conv2d(cx, op_act(cx, in[0], ACT_SILU), &c->conv_out[0], 1, pad1,
                         (Epi){.bias = &c->conv_out[1]});
    }
}
