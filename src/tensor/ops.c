/* ops.c: the fronts of all operators: what shapes must fit, what comes out, what it costs.
 *
 * A front checks everything that a kernel relies on, so that kernels check nothing, and says what is wrong
 * with the op's and the layer's name, expected and found. Then it hands a Call to issue(). Shapes are in
 * tensor.h.
 *
 * On a tape an activation fused behind a convolution or linear becomes an op of its own: backward kernels
 * then need not keep or recompute what lay before it. Inside block() the same holds, so that both runs have
 * the same bits.
 *
 * Knows shapes. Refuses to know what a network is and how a kernel works. */
#include "tensor/core.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* ---- what all fronts check --------------------------------------------------------------- */

/* An error of this call: "conv2d down_blocks.0.resnets.0.conv1.weight: ...". Returns NULL. */
static void *wrong(Cx *cx, const Call *c, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void *wrong(Cx *cx, const Call *c, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    const Weight *w = c->w[0];
    return cx_fail(cx, GIMBAL_EMODEL, "%s%s%s: %s", op_name(c->op), w ? " " : "", w ? w->name : "", text);
}

static Text shape_of(const Tensor *t)
{
    return shape_text(t->nd, t->n);
}

static Text shape_of_weight(const Weight *w)
{
    return shape_text(w->nd, w->n);
}

/* Inputs are there and float32, weights are there, both have data (a dry run needs none). */
static bool ready(Cx *cx, const Call *c, int n_w)
{
    if (halted(cx))
        return false;
    Tensor *in[CALL_TENSORS];
    for (int i = 0; i < c->n_in; i++)
        if (!c->in[i])
            return wrong(cx, c, "input %d of %d is missing", i + 1, c->n_in);
    for (int i = call_tensors(c, in) - 1; i >= 0; i--) {
        if (in[i]->type != F32)
            return wrong(cx, c, "an input has type %s, expected F32", dtype_name(in[i]->type));
        if (!in[i]->d && cx->mode != DRY)
            return wrong(cx, c, "input %s has no data", shape_of(in[i]).s);
    }
    for (int i = 0; i < n_w; i++) {
        if (!c->w[i])
            return wrong(cx, c, "parameter %d of %d is missing", i + 1, n_w);
        if (!weight_given(c->w[i]) && cx->mode != DRY)
            return wrong(cx, c, "parameter %s has no data", c->w[i]->name);
    }
    return true;
}

/* A vector of one value per channel: norms' scale and shift, biases. */
static bool per_channel(Cx *cx, const Call *c, const Weight *w, int64_t channels)
{
    if (w->nd == 1 && w->n[0] == channels)
        return true;
    return wrong(cx, c, "parameter %s has shape %s, expected [%" PRId64 "]", w->name, shape_of_weight(w).s,
                 channels);
}

static bool same_shape(const Tensor *a, int nd, const int64_t *n)
{
    return a->nd == nd && !memcmp(a->n, n, (size_t)nd * sizeof *n);
}

static Tensor *finish(Cx *cx, Call *c, int nd, const int64_t *n)
{
    c->out = header(cx, F32, nd, n);
    return issue(cx, c);
}

/* The same for results of x's shape, `cost` FLOPs per element. */
static Tensor *finish_like(Cx *cx, Call *c, const Tensor *x, double cost)
{
    c->flops = cost * (double)tensor_count(x);
    return finish(cx, c, x->nd, x->n);
}

/* ---- convolution and linear -------------------------------------------------------------- */

/* n: the product's shape, whose last size is the weight's output channels; row and bias join before the
 * activation. */
static bool epilogue_fits(Cx *cx, const Call *c, int nd, const int64_t *n)
{
    const Epi *e = &c->epi;
    const int64_t channels = n[nd - 1];
    int64_t rows = 1;
    for (int i = 0; i < nd - 1; i++)
        rows *= n[i];
    if (e->bias && (e->bias->nd || weight_given(e->bias)) && !per_channel(cx, c, e->bias, channels))
        return false;
    if (e->row && (tensor_channels(e->row) != channels || e->row_per < 1 ||
                   (rows + e->row_per - 1) / e->row_per > tensor_rows(e->row)))
        return wrong(cx, c,
                     "row addition %s, each row for %" PRId64 " rows, does not fit %" PRId64
                     " rows of %" PRId64 " channels",
                     shape_of(e->row).s, e->row_per, rows, channels);
    if (e->act == ACT_GEGLU && channels % 2)
        return wrong(cx, c, "GEGLU needs an even number of channels, found %" PRId64, channels);
    return true;
}

/* The result of a product of shape n, through its epilogue. */
static Tensor *with_epilogue(Cx *cx, Call *c, int nd, int64_t *n)
{
    if (!epilogue_fits(cx, c, nd, n))
        return NULL;
    int64_t out[MAX_DIMS];
    const Epi e = c->epi;
    memcpy(out, n, (size_t)nd * sizeof *n);
    if (e.act == ACT_GEGLU)
        out[nd - 1] /= 2;
    if (e.add && !same_shape(e.add, nd, out))
        return wrong(cx, c, "addition %s does not fit result %s", shape_of(e.add).s, shape_text(nd, out).s);
    if (e.act == ACT_NONE || (!cx->tape && !cx->in_block))
        return finish(cx, c, nd, out);

    if (e.scale != 0.0f && e.scale != 1.0f)
        return wrong(cx, c, "an activation and a scale (%g) in one epilogue have no gradient",
                     (double)e.scale);
    c->epi.act = ACT_NONE;
    c->epi.add = NULL;
    Tensor *y = op_act(cx, finish(cx, c, nd, n), e.act);
    return e.add ? op_add(cx, y, e.add) : y;
}

Tensor *op_conv2d(Cx *cx, Tensor *x, Weight *w, int stride, const int pad[4], Epi epi)
{
    Call c = {.op = OP_CONV2D, .in = {x}, .n_in = 1, .w = {w}, .epi = epi, .a.conv.stride = stride};
    memcpy(c.a.conv.pad, pad, sizeof c.a.conv.pad);
    if (!ready(cx, &c, 1))
        return NULL;
    if (x->nd != 4 || w->nd != 4)
        return wrong(cx, &c, "x %s and weight %s must have 4 dimensions each", shape_of(x).s,
                     shape_of_weight(w).s);
    if (x->n[3] != w->n[1])
        return wrong(cx, &c, "x %s has %" PRId64 " channels, weight %s expects %" PRId64, shape_of(x).s,
                     x->n[3], shape_of_weight(w).s, w->n[1]);
    if (epi.act == ACT_GEGLU)
        return wrong(cx, &c, "GEGLU follows a linear only");

    const int64_t high = x->n[1] + pad[0] + pad[1] - w->n[2], wide = x->n[2] + pad[2] + pad[3] - w->n[3];
    if (stride < 1 || MIN(MIN(pad[0], pad[1]), MIN(pad[2], pad[3])) < 0 || high < 0 || wide < 0)
        return wrong(cx, &c, "x %s with padding %d,%d,%d,%d and stride %d is too small for weight %s",
                     shape_of(x).s, pad[0], pad[1], pad[2], pad[3], stride, shape_of_weight(w).s);
    int64_t n[4] = {x->n[0], high / stride + 1, wide / stride + 1, w->n[0]};
    c.flops = 2.0 * (double)(n[0] * n[1] * n[2]) * (double)weight_count(w);
    return with_epilogue(cx, &c, 4, n);
}

Tensor *op_convt(Cx *cx, Tensor *x, Weight *w, int frames, Epi epi)
{
    Call c = {.op = OP_CONVT, .in = {x}, .n_in = 1, .w = {w}, .epi = epi, .a.frames = frames};
    if (!ready(cx, &c, 1))
        return NULL;
    if (w->nd != 5 || w->n[2] % 2 != 1 || w->n[3] != 1 || w->n[4] != 1)
        return wrong(cx, &c, "weight %s is not [O,I,k,1,1] with an odd k", shape_of_weight(w).s);
    if (x->nd != 4 || frames < 1 || x->n[0] % frames)
        return wrong(cx, &c, "x %s is not [clips*frames,height,width,channels] with %d frames", shape_of(x).s,
                     frames);
    if (x->n[3] != w->n[1])
        return wrong(cx, &c, "x %s has %" PRId64 " channels, weight %s expects %" PRId64, shape_of(x).s,
                     x->n[3], shape_of_weight(w).s, w->n[1]);
    if (epi.act == ACT_GEGLU)
        return wrong(cx, &c, "GEGLU follows a linear only");
    int64_t n[4] = {x->n[0], x->n[1], x->n[2], w->n[0]};
    c.flops = 2.0 * (double)tensor_rows(x) * (double)weight_count(w);
    return with_epilogue(cx, &c, 4, n);
}

Tensor *op_linear(Cx *cx, Tensor *x, Weight *w, Epi epi)
{
    Call c = {.op = OP_LINEAR, .in = {x}, .n_in = 1, .w = {w}, .epi = epi};
    if (!ready(cx, &c, 1))
        return NULL;
    if (!(w->nd == 2 || (w->nd == 4 && w->n[2] == 1 && w->n[3] == 1)))
        return wrong(cx, &c, "weight %s is neither [O,I] nor [O,I,1,1]", shape_of_weight(w).s);
    if (tensor_channels(x) != w->n[1])
        return wrong(cx, &c, "x %s has %" PRId64 " channels, weight %s expects %" PRId64, shape_of(x).s,
                     tensor_channels(x), shape_of_weight(w).s, w->n[1]);
    int64_t n[MAX_DIMS];
    memcpy(n, x->n, sizeof n);
    n[x->nd - 1] = w->n[0];
    c.flops = 2.0 * (double)tensor_rows(x) * (double)weight_count(w);
    return with_epilogue(cx, &c, x->nd, n);
}

/* ---- norms and attention ----------------------------------------------------------------- */

Tensor *op_norm(Cx *cx, Tensor *x, Weight *scale, Weight *shift, NormArg arg)
{
    Call c = {.op = OP_NORM, .in = {x}, .n_in = 1, .w = {scale, shift}, .a.norm = arg};
    if (!ready(cx, &c, 2))
        return NULL;
    const int64_t channels = tensor_channels(x);
    if (!per_channel(cx, &c, scale, channels) || !per_channel(cx, &c, shift, channels))
        return NULL;
    if (arg.act != ACT_NONE && arg.act != ACT_SILU)
        return wrong(cx, &c, "only SiLU can follow a norm");
    if (!(arg.eps >= 0.0f) || arg.groups < 0)
        return wrong(cx, &c, "%d groups with epsilon %g cannot be", arg.groups, (double)arg.eps);
    if (arg.groups && (channels % arg.groups || arg.per < 1 || x->n[0] % arg.per))
        return wrong(cx, &c, "x %s cannot be cut into %d groups of channels with %d frames per statistic",
                     shape_of(x).s, arg.groups, arg.per);
    return finish_like(cx, &c, x, arg.act == ACT_SILU ? 12 : 8);
}

/* One key set against the queries. */
static bool kv_fits(Cx *cx, const Call *c, const Tensor *q, const Kv *kv, AttnArg arg)
{
    const Tensor *k = kv->k;
    const bool own = kv->map == KV_SELF, clip = kv->map == KV_CLIP, window = kv->map == KV_WINDOW;
    const int64_t sets = clip ? q->n[0] / arg.frames : q->n[0];
    if (!same_shape(kv->v, k->nd, k->n))
        return wrong(cx, c, "keys %s and values %s differ in shape", shape_of(k).s, shape_of(kv->v).s);
    if (k->nd != 3 || k->n[0] != sets || k->n[2] != q->n[2])
        return wrong(cx, c, "keys %s do not fit queries %s: expected [%" PRId64 ",*,%" PRId64 "], %s",
                     shape_of(k).s, shape_of(q).s, sets, q->n[2],
                     clip ? "one set per clip" : "one set per frame");
    if ((window || (own && (arg.in_time || arg.causal))) && k->n[1] != q->n[1])
        return wrong(cx, c, "keys %s and queries %s must have the same positions in time or causal attention",
                     shape_of(k).s, shape_of(q).s);
    if (!own && (arg.in_time != window || arg.causal))
        return wrong(cx, c, "keys of %s go with attention over %s, without a causal mask",
                     window ? "a window"
                     : clip ? "a whole clip"
                            : "a first frame",
                     window ? "time" : "space");
    if (window && (arg.width < 1 || q->n[1] % arg.width))
        return wrong(cx, c, "%" PRId64 " positions are no lines of %d", q->n[1], arg.width);
    return true;
}

Tensor *op_attention(Cx *cx, Tensor *q, const Kv *kv, int n_kv, AttnArg arg)
{
    Call c = {.op = OP_ATTN, .in = {q}, .n_in = 1, .a.attn = {.arg = arg}};
    if (n_kv < 1 || n_kv > MAX_KV)
        return wrong(cx, &c, "%d key sets, expected 1 to %d", n_kv, MAX_KV);
    for (int i = 0; i < n_kv; i++) {
        c.in[c.n_in++] = kv[i].k;
        c.in[c.n_in++] = kv[i].v;
        c.a.attn.map[i] = kv[i].map;
    }
    c.a.attn.n_kv = n_kv;
    if (!ready(cx, &c, 0))
        return NULL;
    if (q->nd != 3 || arg.heads < 1 || q->n[2] % arg.heads || arg.frames < 1 || q->n[0] % arg.frames)
        return wrong(cx, &c,
                     "queries %s cannot be [clips*frames,positions,channels] with %d frames and %d heads",
                     shape_of(q).s, arg.frames, arg.heads);
    double keys = 0;
    for (int i = 0; i < n_kv; i++) {
        if (!kv_fits(cx, &c, q, &kv[i], arg))
            return NULL;
        const int64_t seen = kv[i].map == KV_WINDOW ? WINDOW_KEYS : arg.in_time ? arg.frames : kv[i].k->n[1];
        keys += arg.causal ? 0.5 * (double)(seen + 1) : (double)seen;
    }
    c.flops = 4.0 * (double)tensor_count(q) * keys;
    return finish(cx, &c, q->nd, q->n);
}

/* ---- the small ones ---------------------------------------------------------------------- */

Tensor *op_act(Cx *cx, Tensor *x, Act act)
{
    Call c = {.op = OP_ACT, .in = {x}, .n_in = 1, .a.act = act};
    if (!ready(cx, &c, 0))
        return NULL;
    if (act == ACT_NONE)
        return x;
    int64_t n[MAX_DIMS];
    memcpy(n, x->n, sizeof n);
    if (act == ACT_GEGLU && n[x->nd - 1] % 2)
        return wrong(cx, &c, "GEGLU needs an even number of channels, found %s", shape_of(x).s);
    if (act == ACT_GEGLU)
        n[x->nd - 1] /= 2;
    c.flops = 8.0 * (double)tensor_count(x);
    return finish(cx, &c, x->nd, n);
}

Tensor *op_add(Cx *cx, Tensor *a, Tensor *b)
{
    Call c = {.op = OP_ADD, .in = {a, b}, .n_in = 2};
    if (!ready(cx, &c, 0))
        return NULL;
    if (!same_shape(a, b->nd, b->n))
        return wrong(cx, &c, "%s and %s differ in shape", shape_of(a).s, shape_of(b).s);
    return finish_like(cx, &c, a, 1);
}

Tensor *op_rows(Cx *cx, Tensor *x, Tensor *rows, int64_t per)
{
    Call c = {.op = OP_ROWS, .in = {x, rows}, .n_in = 2, .a.per = per};
    if (!ready(cx, &c, 0))
        return NULL;
    if (per < 1 || tensor_channels(rows) != tensor_channels(x) || rows->nd != 2)
        return wrong(cx, &c, "rows %s, each for %" PRId64 " rows, do not fit x %s", shape_of(rows).s, per,
                     shape_of(x).s);
    return finish_like(cx, &c, x, 1);
}

Tensor *op_concat(Cx *cx, Tensor *a, Tensor *b)
{
    Call c = {.op = OP_CONCAT, .in = {a, b}, .n_in = 2};
    if (!ready(cx, &c, 0))
        return NULL;
    if (a->nd != b->nd || memcmp(a->n, b->n, (size_t)(a->nd - 1) * sizeof *a->n))
        return wrong(cx, &c, "%s and %s may differ in their channels only", shape_of(a).s, shape_of(b).s);
    int64_t n[MAX_DIMS];
    memcpy(n, a->n, sizeof n);
    n[a->nd - 1] += tensor_channels(b);
    return finish(cx, &c, a->nd, n);
}

Tensor *op_resize(Cx *cx, Tensor *x, int64_t H, int64_t W)
{
    Call c = {.op = OP_RESIZE, .in = {x}, .n_in = 1};
    if (!ready(cx, &c, 0))
        return NULL;
    if (x->nd != 4 || H < 1 || W < 1)
        return wrong(cx, &c, "x %s cannot be resized to %" PRId64 "x%" PRId64, shape_of(x).s, H, W);
    return finish(cx, &c, 4, (int64_t[]){x->n[0], H, W, x->n[3]});
}

Tensor *op_repeat(Cx *cx, Tensor *x, int64_t times)
{
    Call c = {.op = OP_REPEAT, .in = {x}, .n_in = 1};
    if (!ready(cx, &c, 0))
        return NULL;
    int64_t n[MAX_DIMS];
    memcpy(n, x->n, sizeof n);
    if (x->nd < 2 || times < 1 || __builtin_mul_overflow(n[0], times, &n[0]))
        return wrong(cx, &c, "x %s cannot be repeated %" PRId64 " times", shape_of(x).s, times);
    return times == 1 ? x : finish(cx, &c, x->nd, n);
}

/* Whole clips. */
static bool clips_fit(Cx *cx, const Call *c, const Tensor *x, int frames)
{
    if (x->nd >= 2 && frames >= 1 && x->n[0] % frames == 0)
        return true;
    return wrong(cx, c, "x %s is not [clips*frames,...,channels] with %d frames", shape_of(x).s, frames);
}

Tensor *op_rotate(Cx *cx, Tensor *x, Weight *freqs, int frames)
{
    Call c = {.op = OP_ROTATE, .in = {x}, .n_in = 1, .w = {freqs}, .a.frames = frames};
    if (!ready(cx, &c, 1) || !clips_fit(cx, &c, x, frames))
        return NULL;
    if (freqs->nd != 1 || freqs->n[0] < 1 || freqs->n[0] > tensor_channels(x) / 2)
        return wrong(cx, &c,
                     "%s frequencies for the %" PRId64 " channels of x, expected at most half as many",
                     shape_of_weight(freqs).s, tensor_channels(x));
    return finish_like(cx, &c, x, 3);
}

Tensor *op_blend(Cx *cx, Tensor *a, Tensor *b, Weight *alpha)
{
    Call c = {.op = OP_BLEND, .in = {a, b}, .n_in = 2, .w = {alpha}};
    if (!ready(cx, &c, 1) || !per_channel(cx, &c, alpha, 1))
        return NULL;
    if (!same_shape(a, b->nd, b->n))
        return wrong(cx, &c, "%s and %s differ in shape", shape_of(a).s, shape_of(b).s);
    return finish_like(cx, &c, a, 3);
}

Tensor *op_first(Cx *cx, Tensor *x, Tensor *first, int frames)
{
    Call c = {.op = OP_FIRST, .in = {x, first}, .n_in = 2, .a.frames = frames};
    if (!ready(cx, &c, 0) || !clips_fit(cx, &c, x, frames))
        return NULL;
    if (!same_shape(x, first->nd, first->n))
        return wrong(cx, &c, "%s and %s differ in shape", shape_of(x).s, shape_of(first).s);
    return finish(cx, &c, x->nd, x->n);
}

Tensor *op_embed(Cx *cx, Weight *table, Tensor *ids, int64_t count)
{
    Call c = {.op = OP_EMBED, .w = {table}};
    if (!ready(cx, &c, 1))
        return NULL;
    const int64_t width = table->nd < 1 ? 0 : table->n[table->nd - 1];
    const int64_t rows = table->nd < 2 ? 0 : table->n[table->nd - 2];
    if (rows * width != weight_count(table)) /* [1,rows,channels], as motion adapters have it, is fine */
        return wrong(cx, &c, "table %s is not [rows,channels]", shape_of_weight(table).s);
    if (!ids && (count < 1 || count > rows))
        return wrong(cx, &c, "%" PRId64 " rows asked of table %s", count, shape_of_weight(table).s);
    if (ids && (ids->type != I32 || ids->nd != 1 || ids->n[0] != count))
        return wrong(cx, &c, "ids are %s %s, expected I32 [%" PRId64 "]", dtype_name(ids->type),
                     shape_of(ids).s, count);
    if (ids && !ids->d && cx->mode != DRY)
        return wrong(cx, &c, "ids %s have no data", shape_of(ids).s);
    c.in[0] = ids;
    c.n_in = ids ? 1 : 0;
    return finish(cx, &c, 2, (int64_t[]){count, width});
}

Tensor *op_mse(Cx *cx, Tensor *x, Tensor *target)
{
    Call c = {.op = OP_MSE, .in = {x, target}, .n_in = 2};
    if (!ready(cx, &c, 0))
        return NULL;
    if (!same_shape(x, target->nd, target->n))
        return wrong(cx, &c, "%s and target %s differ in shape", shape_of(x).s, shape_of(target).s);
    c.flops = 3.0 * (double)tensor_count(x);
    return finish(cx, &c, 1, (int64_t[]){1});
}

Tensor *op_mse_weighted(Cx *cx, Tensor *x, Tensor *target, Tensor *weight)
{
    Call c = {.op = OP_MSE, .in = {x, target, weight}, .n_in = 3};
    if (!ready(cx, &c, 0))
        return NULL;
    if (!same_shape(x, target->nd, target->n))
        return wrong(cx, &c, "%s and target %s differ in shape", shape_of(x).s, shape_of(target).s);
    if (weight->nd != 1 || weight->n[0] != x->n[0])
        return wrong(cx, &c, "%s with weights %s, expected [%lld]", shape_of(x).s, shape_of(weight).s,
                     (long long)x->n[0]);
    c.flops = 3.0 * (double)tensor_count(x);
    return finish(cx, &c, 1, (int64_t[]){1 + x->n[0]});
}
