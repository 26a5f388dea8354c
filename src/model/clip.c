/* clip.c: CLIP's text encoder (Radford et al. 2021): tokens to the context that the U-Net reads.
 *
 *     h = token[ids] + position[0..L-1];  per layer:  h += attention(norm1(h)) (causal);  h +=
 * fc2(act(fc1(norm2(h)))); context = final_norm(h)                                                     ids
 * [L] -> [1,L,D]
 *
 * Padding is not masked: what follows the text is seen by nobody before it anyway. Knows transformers'
 * CLIPTextModel config. Refuses to know tokens' meaning, prompts and files. */
#include "model/model.h"

enum { MAX_CLIP_LAYERS = 64, MAX_CLIP_WIDTH = 16384 };

typedef struct {
    const ClipText *clip;
    Weight norm1[2], q[2], k[2], v[2], out[2], norm2[2], fc1[2], fc2[2];
} Layer;

struct ClipText {
    int vocab, positions, width, inner, heads, layers;
    float eps;
    Act act;
    Weight token, position, final_norm[2];
    Layer *layer;
};

/* What exports of whole CLIP models, or older ones of this class, hold beside the encoder. */
const char *const clip_ignore[] = {
    "text_model.embeddings.position_ids", "text_projection.weight", "logit_scale",
    "visual_projection.weight",           "vision_model.*",         NULL};

int clip_width(const ClipText *c)
{
    return c->width;
}

int clip_positions(const ClipText *c)
{
    return c->positions;
}

int clip_vocab(const ClipText *c)
{
    return c->vocab;
}

static int read_config(ClipText *c, const json_t *j, const char *where, gimbal_error *err)
{
    static const ConfigRule rules[] = {
        {"model_type", "\"clip_text_model\""}, {"hidden_act", "\"quick_gelu\"|\"gelu\""}, {NULL, NULL}};
    const char *act;
    double eps;
    TRY(json_refuse(j, where, rules, err));
    TRY(json_get_int(j, where, "vocab_size", 49408, 1, 1 << 24, &c->vocab, err));
    TRY(json_get_int(j, where, "hidden_size", 512, 1, MAX_CLIP_WIDTH, &c->width, err));
    TRY(json_get_int(j, where, "intermediate_size", 2048, 1, 4 * MAX_CLIP_WIDTH, &c->inner, err));
    TRY(json_get_int(j, where, "num_hidden_layers", 12, 1, MAX_CLIP_LAYERS, &c->layers, err));
    TRY(json_get_int(j, where, "num_attention_heads", 8, 1, MAX_CLIP_WIDTH, &c->heads, err));
    TRY(json_get_int(j, where, "max_position_embeddings", 77, 1, 1 << 16, &c->positions, err));
    TRY(json_get_text(j, where, "hidden_act", "quick_gelu", &act, err));
    TRY(json_get_real(j, where, "layer_norm_eps", 1e-5, &eps, err));
    if (c->width % c->heads)
        return fail(err, GIMBAL_EMODEL,
                    "%s: \"num_attention_heads\" is %d, expected a divisor of \"hidden_size\", %d", where,
                    c->heads, c->width);
    if (!(eps > 0 && eps < 1))
        return fail(err, GIMBAL_EMODEL, "%s: \"layer_norm_eps\" is %g, expected between 0 and 1", where, eps);
    c->eps = (float)eps;
    c->act = act[0] == 'q' ? ACT_QUICK_GELU : ACT_GELU;
    return GIMBAL_OK;
}

int clip_build(ClipText **out, Arena *keep, const json_t *config, const char *where, gimbal_error *err)
{
    *out = NULL;
    ClipText *c = arena_alloc(keep, sizeof *c);
    if (!c)
        return fail(err, GIMBAL_ENOMEM, "no memory for the text encoder");
    TRY(read_config(c, config, where, err));
    c->layer = arena_alloc(keep, sizeof *c->layer * (size_t)c->layers);
    if (!c->layer)
        return fail(err, GIMBAL_ENOMEM, "no memory for the text encoder's %d layers", c->layers);
    for (int i = 0; i < c->layers; i++)
        c->layer[i].clip = c;
    *out = c;
    return GIMBAL_OK;
}

static void layer_params(Params *p, const ClipText *c, Layer *l)
{
    const int w = c->width;
    pv_norm(p, "layer_norm1", l->norm1, w);
    pv_linear(p, "self_attn.q_proj", l->q, w, w, true);
    pv_linear(p, "self_attn.k_proj", l->k, w, w, true);
    pv_linear(p, "self_attn.v_proj", l->v, w, w, true);
    pv_linear(p, "self_attn.out_proj", l->out, w, w, true);
    pv_norm(p, "layer_norm2", l->norm2, w);
    pv_linear(p, "mlp.fc1", l->fc1, w, c->inner, true);
    pv_linear(p, "mlp.fc2", l->fc2, c->inner, w, true);
}

void clip_params(void *clip, Params *p)
{
    ClipText *c = clip;
    pv_in(p, "text_model");
    pv_leaf(p, "embeddings.token_embedding.weight", &c->token, W_EMBEDDING, 2,
            (int64_t[]){c->vocab, c->width});
    pv_leaf(p, "embeddings.position_embedding.weight", &c->position, W_EMBEDDING, 2,
            (int64_t[]){c->positions, c->width});
    for (int i = 0; i < c->layers; i++) {
        pv_in(p, "encoder.layers.%d", i);
        layer_params(p, c, &c->layer[i]);
        pv_out(p);
    }
    pv_norm(p, "final_layer_norm", c->final_norm, c->width);
    pv_out(p);
}

/* in: h [1,L,D]. */
static Tensor *layer_graph(Cx *cx, void *layer, Tensor **in)
{
    Layer *l = layer;
    const NormArg norm = {.groups = 0, .per = 1, .eps = l->clip->eps};
    Tensor *h = in[0], *n = op_norm(cx, h, &l->norm1[0], &l->norm1[1], norm);
    Tensor *q = op_linear(cx, n, &l->q[0], (Epi){.bias = &l->q[1]});
    const Kv kv = {.k = op_linear(cx, n, &l->k[0], (Epi){.bias = &l->k[1]}),
                   .v = op_linear(cx, n, &l->v[0], (Epi){.bias = &l->v[1]}),
                   .map = KV_SELF};
    n = op_attention(cx, q, &kv, 1, (AttnArg){.heads = l->clip->heads, .frames = 1, .causal = true});
    h = op_linear(cx, n, &l->out[0], (Epi){.bias = &l->out[1], .add = h});
    n = op_norm(cx, h, &l->norm2[0], &l->norm2[1], norm);
    n = op_linear(cx, n, &l->fc1[0], (Epi){.bias = &l->fc1[1], .act = l->clip->act});
    return op_linear(cx, n, &l->fc2[0], (Epi){.bias = &l->fc2[1], .add = h});
}

Tensor *clip_forward(Cx *cx, void *clip, Tensor **in)
{
    ClipText *c = clip;
    if (!in[0])
        return NULL;
    const int64_t length = tensor_count(in[0]);
    if (length > c->positions)
        return cx_fail(cx, GIMBAL_EMODEL, "text encoder: %lld tokens, but it knows %d positions",
                       (long long)length, c->positions);
    Tensor *h = op_embed(cx, &c->token, in[0], length);
    h = op_add(cx, h, op_embed(cx, &c->position, NULL, length));
    h = tap(cx, op_view(cx, h, 3, (int64_t[]){1, length, c->width}), "text_model.embeddings");
    for (int i = 0; i < c->layers && h; i++)
        h = tap(cx, block(cx, layer_graph, &c->layer[i], &h, 1), "text_model.encoder.layers.%d", i);
    const NormArg norm = {.groups = 0, .per = 1, .eps = c->eps};
    return tap(cx, op_norm(cx, h, &c->final_norm[0], &c->final_norm[1], norm), "text_model");
}
