/* vit.c: vision transformers (Dosovitskiy et al. 2021) that give one feature a picture: DINO's ViT-S/16 and
 * ViT-B/16 (Caron et al. 2021) and CLIP's vision tower (Radford et al. 2021), in one engine.
 *
 *     h = [cls; patches of P x P as one vector each] + position;  CLIP: h = pre(h)
 *     per layer:  h += attention(norm1(h));  h += fc2(act(fc1(norm2(h))))
 *     feature = final(h[cls]);  CLIP: times projection                 pictures [n,H,W,3] -> [n,out]
 *
 * Only the CLS row of the last layer is read, so only that row is computed there. Sizes are those of the
 * file's tensors; a head is 64 wide unless the caller knows better. A token grid that is not the trained one
 * gets positions as DINO's own code makes them: bicubic (a = -0.75), the source being
 * (d + 0.5) N / (size + 0.1) - 0.5, also along an axis that keeps its length.
 *
 * Knows three spellings of the tensors' names. Refuses to know pixels' scaling, files and metrics. */
#include "model/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_VIT_LAYERS = 64, MAX_VIT_WIDTH = 16384, MAX_VIT_PATCH = 64, HEAD_WIDTH = 64 };

/* Names below the prefix; NULL: there is none. */
typedef struct {
    const char *cls, *position, *patch, *pre, *layers, *norm1, *q, *k, *v, *qkv, *out, *norm2, *fc1, *fc2,
        *final, *projection;
    bool patch_bias;
    float eps;
    Act act;
} Names;

static const Names names[VIT_SPELLINGS] = {
    [VIT_DINO] = {.cls = "cls_token",
                  .position = "pos_embed",
                  .patch = "patch_embed.proj",
                  .layers = "blocks",
                  .norm1 = "norm1",
                  .qkv = "attn.qkv",
                  .out = "attn.proj",
                  .norm2 = "norm2",
                  .fc1 = "mlp.fc1",
                  .fc2 = "mlp.fc2",
                  .final = "norm",
                  .patch_bias = true,
                  .eps = 1e-6f,
                  .act = ACT_GELU},
    [VIT_HF] = {.cls = "embeddings.cls_token",
                .position = "embeddings.position_embeddings",
                .patch = "embeddings.patch_embeddings.projection",
                .layers = "encoder.layer",
                .norm1 = "layernorm_before",
                .q = "attention.attention.query",
                .k = "attention.attention.key",
                .v = "attention.attention.value",
                .out = "attention.output.dense",
                .norm2 = "layernorm_after",
                .fc1 = "intermediate.dense",
                .fc2 = "output.dense",
                .final = "layernorm",
                .patch_bias = true,
                .eps = 1e-6f,
                .act = ACT_GELU},
    [VIT_CLIP] = {.cls = "vision_model.embeddings.class_embedding",
                  .position = "vision_model.embeddings.position_embedding.weight",
                  .patch = "vision_model.embeddings.patch_embedding",
                  .pre = "vision_model.pre_layrnorm",
                  .layers = "vision_model.encoder.layers",
                  .norm1 = "layer_norm1",
                  .q = "self_attn.q_proj",
                  .k = "self_attn.k_proj",
                  .v = "self_attn.v_proj",
                  .out = "self_attn.out_proj",
                  .norm2 = "layer_norm2",
                  .fc1 = "mlp.fc1",
                  .fc2 = "mlp.fc2",
                  .final = "vision_model.post_layernorm",
                  .projection = "visual_projection",
                  .eps = 1e-5f,
                  .act = ACT_QUICK_GELU},
};

/* Heads of classifiers, and what whole CLIP models hold beside the tower. */
const char *const vit_ignore[] = {"*pooler.*",     "*classifier.*",           "head.*",       "*text_model.*",
                                  "*position_ids", "*text_projection.weight", "*logit_scale", NULL};

typedef struct {
    const Vit *vit;
    bool last;
    Weight norm1[2], qkv[2], q[2], k[2], v[2], out[2], norm2[2], fc1[2], fc2[2];
} Layer;

struct Vit {
    const Names *names;
    int width, inner, heads, layers, patch, side, out; /* side: of the trained token grid */
    Weight cls, position, embed[2], pre[2], final[2], projection[2];
    Weight place; /* positions of the present grid, when that is not the trained one */
    int h, w;     /* the pictures that vit_place was told */
    Layer *layer;
};

const char *vit_mark(VitSpelling s)
{
    return names[s].cls;
}

int vit_width(const Vit *v)
{
    return v->out;
}

/* ---- sizes ------------------------------------------------------------------------------- */

static const StEntry *entry(const WeightSet *set, const char *prefix, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static const StEntry *entry(const WeightSet *set, const char *prefix, const char *fmt, ...)
{
    char name[512];
    const int n = snprintf(name, 256, "%s", prefix);
    va_list args;
    va_start(args, fmt);
    vsnprintf(name + MIN(n, 255), 256, fmt, args);
    va_end(args);
    return weights_find(set, name);
}

/* Size `dim` of a tensor of at least `nd` dimensions, counted from the end when negative. */
static int size_of(const WeightSet *set, const StEntry *e, const char *what, int nd, int dim, int most,
                   int *out, gimbal_error *err)
{
    if (!e || e->nd < nd)
        return fail(err, GIMBAL_EMODEL,
                    "%s: a vision transformer's %s is expected with %d dimensions, found %s",
                    weights_path(set), what, nd, e ? "fewer" : "none");
    const int64_t n = e->n[dim < 0 ? e->nd + dim : dim];
    if (n < 1 || n > most)
        return fail(err, GIMBAL_EMODEL, "%s: size %d of the %s is %lld, expected 1 to %d", weights_path(set),
                    dim, what, (long long)n, most);
    *out = (int)n;
    return GIMBAL_OK;
}

static int read_sizes(Vit *v, const WeightSet *set, const char *prefix, gimbal_error *err)
{
    const Names *s = v->names;
    const StEntry *position = entry(set, prefix, "%s", s->position);
    int positions = 0;
    TRY(size_of(set, position, "position table", 2, -1, MAX_VIT_WIDTH, &v->width, err));
    TRY(size_of(set, position, "position table", 2, -2, 1 << 16, &positions, err));
    TRY(size_of(set, entry(set, prefix, "%s.weight", s->patch), "patch embedding", 4, 3, MAX_VIT_PATCH,
                &v->patch, err));
    TRY(size_of(set, entry(set, prefix, "%s.0.%s.weight", s->layers, s->fc1), "first linear", 2, 0,
                4 * MAX_VIT_WIDTH, &v->inner, err));
    v->out = v->width;
    if (s->projection)
        TRY(size_of(set, entry(set, prefix, "%s.weight", s->projection), "projection", 2, 0, MAX_VIT_WIDTH,
                    &v->out, err));
    while (v->layers < MAX_VIT_LAYERS &&
           entry(set, prefix, "%s.%d.%s.weight", s->layers, v->layers, s->norm1))
        v->layers++;
    v->side = (int)lround(sqrt(positions - 1));
    if (v->side < 1 || v->side * v->side != positions - 1)
        return fail(err, GIMBAL_EMODEL, "%s: the position table has %d rows, expected 1 and a square",
                    weights_path(set), positions);
    return v->layers ? GIMBAL_OK
                     : fail(err, GIMBAL_EMODEL, "%s: no layer %s.0 of a vision transformer",
                            weights_path(set), s->layers);
}

int vit_build(Vit **out, Arena *keep, const WeightSet *set, const char *prefix, VitSpelling spelling,
              int heads, gimbal_error *err)
{
    *out = NULL;
    Vit *v = arena_alloc(keep, sizeof *v);
    if (!v)
        return fail(err, GIMBAL_ENOMEM, "no memory for a vision transformer");
    v->names = &names[spelling];
    TRY(read_sizes(v, set, prefix, err));
    v->heads = heads ? heads : v->width / HEAD_WIDTH;
    if (v->heads < 1 || v->width % v->heads)
        return fail_hint(
            err, GIMBAL_EMODEL,
            "heads are taken to be 64 wide; a config.json beside the file with num_attention_heads "
            "and hidden_size says otherwise",
            "%s: a width of %d cannot be cut into %d heads", weights_path(set), v->width, v->heads);
    v->layer = arena_alloc(keep, sizeof *v->layer * (size_t)v->layers);
    if (!v->layer)
        return fail(err, GIMBAL_ENOMEM, "no memory for a vision transformer's %d layers", v->layers);
    for (int i = 0; i < v->layers; i++)
        v->layer[i].vit = v, v->layer[i].last = i == v->layers - 1;
    *out = v;
    return GIMBAL_OK;
}

/* ---- parameters -------------------------------------------------------------------------- */

static void layer_params(Params *p, const Vit *v, Layer *l)
{
    const Names *s = v->names;
    const int w = v->width;
    pv_norm(p, s->norm1, l->norm1, w);
    if (s->qkv) {
        pv_linear(p, s->qkv, l->qkv, w, 3 * w, true);
    } else {
        pv_linear(p, s->q, l->q, w, w, true);
        pv_linear(p, s->k, l->k, w, w, true);
        pv_linear(p, s->v, l->v, w, w, true);
    }
    pv_linear(p, s->out, l->out, w, w, true);
    pv_norm(p, s->norm2, l->norm2, w);
    pv_linear(p, s->fc1, l->fc1, w, v->inner, true);
    pv_linear(p, s->fc2, l->fc2, v->inner, w, true);
}

void vit_params(void *vit, Params *p)
{
    Vit *v = vit;
    const Names *s = v->names;
    const int64_t rows = (int64_t)v->side * v->side + 1, width = v->width;
    const bool clip = s->projection; /* one row less of dimensions in its file */
    if (clip)
        pv_leaf(p, s->cls, &v->cls, W_EMBEDDING, 1, (int64_t[]){width});
    else
        pv_leaf(p, s->cls, &v->cls, W_EMBEDDING, 3, (int64_t[]){1, 1, width});
    pv_leaf(p, s->position, &v->position, W_EMBEDDING, clip ? 2 : 3,
            clip ? (int64_t[]){rows, width, 0} : (int64_t[]){1, rows, width});
    pv_in(p, "%s", s->patch);
    pv_leaf(p, "weight", &v->embed[0], W_CONV, 4, (int64_t[]){width, 3, v->patch, v->patch});
    if (s->patch_bias)
        pv_leaf(p, "bias", &v->embed[1], W_BIAS, 1, (int64_t[]){width});
    pv_out(p);
    if (s->pre)
        pv_norm(p, s->pre, v->pre, v->width);
    for (int i = 0; i < v->layers; i++) {
        pv_in(p, "%s.%d", s->layers, i);
        layer_params(p, v, &v->layer[i]);
        pv_out(p);
    }
    pv_norm(p, s->final, v->final, v->width);
    if (s->projection)
        pv_linear(p, s->projection, v->projection, v->width, v->out, false);
}

/* `count` rows of a bound weight from row `from` on: the file's own bytes. */
static Weight rows_of(const Weight *w, int64_t from, int64_t count)
{
    Weight part = *w;
    int64_t each = 1;
    for (int i = 1; i < w->nd; i++)
        each *= w->n[i];
    part.n[0] = count;
    part.file = (const char *)w->file + (size_t)(from * each) * dtype_size(w->type);
    return part;
}

void vit_bound(Vit *v)
{
    const int64_t w = v->width;
    v->cls.nd = 2, v->cls.n[0] = 1, v->cls.n[1] = w;
    for (int i = 0; i < v->layers && v->names->qkv; i++) {
        Layer *l = &v->layer[i];
        for (int b = 0; b < 2; b++) {
            l->q[b] = rows_of(&l->qkv[b], 0, w);
            l->k[b] = rows_of(&l->qkv[b], w, w);
            l->v[b] = rows_of(&l->qkv[b], 2 * w, w);
        }
    }
}

/* ---- positions --------------------------------------------------------------------------- */

/* Weights of the four taps around source position x, and their clamped places. */
static void cubic_taps(float x, int n, int at[4], float weight[4])
{
    const float a = -0.75f, base = floorf(x), t = x - base;
    for (int k = 0; k < 4; k++) {
        const float d = fabsf(t - (float)(k - 1));
        weight[k] = d <= 1 ? ((a + 2) * d - (a + 3)) * d * d + 1 : (((d - 5) * d + 8) * d - 4) * a;
        at[k] = MIN(MAX((int)base + k - 1, 0), n - 1);
    }
}

/* table [1 + side^2, width] -> out [1 + gh*gw, width]. */
static void resample(const Vit *v, const float *table, int gh, int gw, float *out)
{
    const int n = v->side;
    const size_t width = (size_t)v->width;
    const float sy = (float)(n / (gh + 0.1)), sx = (float)(n / (gw + 0.1));
    memcpy(out, table, width * sizeof *out);
    table += width, out += width;
    for (int y = 0; y < gh; y++)
        for (int x = 0; x < gw; x++, out += width) {
            int row[4], column[4];
            float wy[4], wx[4];
            cubic_taps(sy * ((float)y + 0.5f) - 0.5f, n, row, wy);
            cubic_taps(sx * ((float)x + 0.5f) - 0.5f, n, column, wx);
            memset(out, 0, width * sizeof *out);
            for (int k = 0; k < 16; k++) {
                const float *from = table + (size_t)(row[k / 4] * n + column[k % 4]) * width;
                for (size_t c = 0; c < width; c++)
                    out[c] += wy[k / 4] * wx[k % 4] * from[c];
            }
        }
}

int vit_place(Vit *v, int h, int w, gimbal_error *err)
{
    const int gh = h / v->patch, gw = w / v->patch;
    if (gh < 1 || gw < 1)
        return fail(err, GIMBAL_EMODEL, "a picture of %dx%d is smaller than a patch of %dx%d", w, h, v->patch,
                    v->patch);
    if (v->h == h && v->w == w)
        return GIMBAL_OK;
    v->h = v->w = 0;
    free(v->place.own); /* of another grid */
    v->place = (Weight){.nd = 0};
    if (h == w && gh == v->side)
        return v->h = h, v->w = w, GIMBAL_OK;
    if (v->names->projection)
        return fail(err, GIMBAL_EMODEL, "CLIP's vision tower wants pictures of %dx%d, found %dx%d",
                    v->side * v->patch, v->side * v->patch, w, h);
    const size_t rows = (size_t)gh * (size_t)gw + 1, old = (size_t)v->side * (size_t)v->side + 1;
    float *table = alloc_array(old * (size_t)v->width, sizeof *table);
    float *own = alloc_array(rows * (size_t)v->width, sizeof *own);
    if (table && own) {
        weight_widen(&v->position, 0, (int64_t)old * v->width, table);
        resample(v, table, gh, gw, own);
        v->place = v->position;
        v->place.nd = 2, v->place.n[0] = (int64_t)rows, v->place.n[1] = v->width;
        v->place.own = own;
        v->h = h, v->w = w;
    }
    free(table); /* the trained table, widened */
    if (v->place.own)
        return GIMBAL_OK;
    free(own); /* there was none for the other */
    return fail(err, GIMBAL_ENOMEM, "no memory for %zu positions", rows);
}

/* ---- forward ----------------------------------------------------------------------------- */

/* The CLS rows of h [n,S,D]: [n,1,D], no copy. */
static Tensor *first_token(Cx *cx, Tensor *h)
{
    if (!h)
        return NULL;
    const int64_t n = h->n[0], width = h->n[2];
    Tensor *t = op_view(cx, h, 2, (int64_t[]){n, h->n[1] * width});
    t = op_channels(cx, t, 0, width);
    return op_view(cx, t, 3, (int64_t[]){n, 1, width});
}

/* in: h [n,S,D] -> the same, of the last layer [n,1,D]. */
static Tensor *layer_graph(Cx *cx, void *layer, Tensor **in)
{
    Layer *l = layer;
    const NormArg norm = {.groups = 0, .per = 1, .eps = l->vit->names->eps};
    Tensor *h = in[0], *n = op_norm(cx, h, &l->norm1[0], &l->norm1[1], norm);
    const Kv kv = {.k = op_linear(cx, n, &l->k[0], (Epi){.bias = &l->k[1]}),
                   .v = op_linear(cx, n, &l->v[0], (Epi){.bias = &l->v[1]}),
                   .map = KV_SELF};
    if (l->last)
        n = first_token(cx, n), h = first_token(cx, h);
    Tensor *q = op_linear(cx, n, &l->q[0], (Epi){.bias = &l->q[1]});
    n = op_attention(cx, q, &kv, 1, (AttnArg){.heads = l->vit->heads, .frames = 1});
    h = op_linear(cx, n, &l->out[0], (Epi){.bias = &l->out[1], .add = h});
    n = op_norm(cx, h, &l->norm2[0], &l->norm2[1], norm);
    n = op_linear(cx, n, &l->fc1[0], (Epi){.bias = &l->fc1[1], .act = l->vit->names->act});
    return op_linear(cx, n, &l->fc2[0], (Epi){.bias = &l->fc2[1], .add = h});
}

/* [n,H,W,3] -> [n,1+S,D]: patches behind the CLS token, positions added. */
static Tensor *tokens_of(Cx *cx, Vit *v, Tensor *pictures)
{
    static const int none[4] = {0, 0, 0, 0};
    Epi epi = {.bias = v->names->patch_bias ? &v->embed[1] : NULL};
    Tensor *x = op_conv2d(cx, pictures, &v->embed[0], v->patch, none, epi);
    if (!x)
        return NULL;
    const int64_t n = x->n[0], count = x->n[1] * x->n[2], width = x->n[3];
    x = op_view(cx, x, 2, (int64_t[]){n, count * width});
    Tensor *cls = op_repeat(cx, op_embed(cx, &v->cls, NULL, 1), n);
    x = op_view(cx, op_concat(cx, cls, x), 3, (int64_t[]){n, count + 1, width});
    return op_rows(cx, x, op_embed(cx, v->place.own ? &v->place : &v->position, NULL, count + 1), 1);
}

Tensor *vit_forward(Cx *cx, void *vit, Tensor **in)
{
    Vit *v = vit;
    if (!in[0])
        return NULL;
    if (in[0]->n[1] != v->h || in[0]->n[2] != v->w)
        return cx_fail(cx, GIMBAL_EMODEL, "pictures of %lldx%lld, but positions are for %dx%d",
                       (long long)in[0]->n[2], (long long)in[0]->n[1], v->w, v->h);
    const NormArg norm = {.groups = 0, .per = 1, .eps = v->names->eps};
    Tensor *h = tokens_of(cx, v, in[0]);
    if (v->names->pre)
        h = op_norm(cx, h, &v->pre[0], &v->pre[1], norm);
    for (int i = 0; i < v->layers && h; i++)
        h = block(cx, layer_graph, &v->layer[i], &h, 1);
    h = op_view(cx, h, 2, (int64_t[]){in[0]->n[0], v->width});
    h = op_norm(cx, h, &v->final[0], &v->final[1], norm);
    return v->names->projection ? op_linear(cx, h, &v->projection[0], (Epi){.bias = NULL}) : h;
}

static int drop_leaf(Params *p, Weight *w)
{
    (void)p;
    weight_drop(w);
    return 0;
}

void vit_drop(Vit *v)
{
    Params p = {.leaf = drop_leaf};
    if (!v)
        return;
    free(v->place.own); /* vit_place's */
    v->place.own = NULL, v->h = v->w = 0;
    vit_params(v, &p);
    for (int i = 0; i < v->layers && v->names->qkv; i++)
        for (int b = 0; b < 2; b++) {
            weight_drop(&v->layer[i].q[b]);
            weight_drop(&v->layer[i].k[b]);
            weight_drop(&v->layer[i].v[b]);
        }
}
