/* call.c: one call of an operator as data: its tensors and weights, its text, its equal, and its execution.
 *
 * The plan compares calls, the probe groups them, the tape walks them back, opcheck runs them: through here.
 *
 * Knows what a Call holds. Refuses to know how a kernel works and why a call was made. */
#include "tensor/core.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *op_name(OpCode op)
{
#define OP_NAME(op_, name) [OP_##op_] = name,
    static const char *const names[OP_COUNT] = {OPS(OP_NAME)};
    return op >= 0 && op < OP_COUNT ? names[op] : "unknown";
}

int call_tensors(const Call *c, Tensor *out[CALL_TENSORS])
{
    int n = 0;
    for (int i = 0; i < c->n_in; i++)
        if (c->in[i])
            out[n++] = c->in[i];
    if (c->epi.row)
        out[n++] = c->epi.row;
    if (c->epi.add)
        out[n++] = c->epi.add;
    return n;
}

int call_weights(const Call *c, Weight *out[CALL_WEIGHTS])
{
    int n = 0;
    for (int i = 0; i < COUNT(c->w); i++)
        if (c->w[i])
            out[n++] = c->w[i];
    if (c->epi.bias)
        out[n++] = c->epi.bias;
    return n;
}

bool call_grows(const Call *c, const Tensor *t)
{
    return owner(t)->need_grad && t->type == F32 && !(c->op == OP_MSE && t != c->in[0]);
}

int backward_reads(OpCode op)
{
    switch (op) {
    case OP_ADD:
    case OP_ROWS:
    case OP_CONCAT:
    case OP_RESIZE:
    case OP_REPEAT:
    case OP_FIRST:
        return 0;
    case OP_ATTN:
        return READS_IN | READS_OUT;
    default:
        return READS_IN;
    }
}

const Backend *call_choose(Cx *cx, Call *c, bool backward)
{
    for (const Backend *const *b = cx->chain; *b; b++) {
        c->scratch = 0;
        if ((backward ? (*b)->backward : (*b)->forward)[c->op] && (*b)->supports(cx, c, backward))
            return *b;
    }
    char text[256];
    call_text(c, backward ? BACKWARD : FORWARD, text, sizeof text);
    return cx_fail(cx, GIMBAL_ENOSUP, "no backend does %s", text);
}

/* ---- comparison -------------------------------------------------------------------------- */

/* Values at t's places. The id of inputs is -1 in every run; the memory is the caller's. */
static const char *tensor_difference(const Tensor *a, const Tensor *b, bool places)
{
    if (!a || !b)
        return a == b ? NULL : "inputs";
    if (a->nd != b->nd || memcmp(a->n, b->n, (size_t)a->nd * sizeof *a->n))
        return "shapes";
    if (a->type != b->type)
        return "types";
    if (a->ld != b->ld)
        return "row strides";
    if (owner(a)->need_grad != owner(b)->need_grad)
        return "need of gradients";
    if (places && (a->id != b->id || view_offset(a) != view_offset(b)))
        return "flow of data (another tensor of the same shape)";
    return NULL;
}

static const char *weight_difference(const Weight *a, const Weight *b, bool places)
{
    if (!a || !b || places)
        return a == b ? NULL : "weight";
    if (a->nd != b->nd || memcmp(a->n, b->n, (size_t)a->nd * sizeof *a->n) ||
        weight_given(a) != weight_given(b))
        return "weight's shape";
    if (a->type != b->type || a->trainable != b->trainable)
        return "weight's type";
    return NULL;
}

static bool same_attributes(const Call *a, const Call *b)
{
    switch (a->op) {
    case OP_CONV2D:
        return a->a.conv.stride == b->a.conv.stride &&
               !memcmp(a->a.conv.pad, b->a.conv.pad, sizeof a->a.conv.pad);
    case OP_CONVT:
    case OP_ROTATE:
    case OP_FIRST:
        return a->a.frames == b->a.frames;
    case OP_NORM:
        return a->a.norm.groups == b->a.norm.groups && a->a.norm.per == b->a.norm.per &&
               a->a.norm.eps == b->a.norm.eps && a->a.norm.act == b->a.norm.act;
    case OP_ATTN: {
        const AttnArg p = a->a.attn.arg, q = b->a.attn.arg;
        return a->a.attn.n_kv == b->a.attn.n_kv && p.heads == q.heads && p.frames == q.frames &&
               p.in_time == q.in_time && p.causal == q.causal && p.scale == q.scale && p.width == q.width &&
               !memcmp(a->a.attn.map, b->a.attn.map, (size_t)a->a.attn.n_kv * sizeof *a->a.attn.map);
    }
    case OP_ACT:
        return a->a.act == b->a.act;
    case OP_ROWS:
        return a->a.per == b->a.per;
    default:
        return true;
    }
}

const char *call_difference(const Call *a, const Call *b, bool places)
{
    if (a->op != b->op)
        return "operator";
    if (a->n_in != b->n_in)
        return "number of inputs";
    const char *diff = NULL;
    for (int i = 0; i < a->n_in && !diff; i++)
        diff = tensor_difference(a->in[i], b->in[i], places);
    for (int i = 0; i < COUNT(a->w) && !diff; i++)
        diff = weight_difference(a->w[i], b->w[i], places);
    if (diff || (diff = weight_difference(a->epi.bias, b->epi.bias, places)) ||
        (diff = tensor_difference(a->epi.row, b->epi.row, places)) ||
        (diff = tensor_difference(a->epi.add, b->epi.add, places)) ||
        (diff = tensor_difference(a->out, b->out, false)))
        return diff;
    if (a->epi.act != b->epi.act || a->epi.scale != b->epi.scale || a->epi.row_per != b->epi.row_per)
        return "epilogue";
    return same_attributes(a, b) ? NULL : "attributes";
}

int call_text(const Call *c, Way way, char *out, size_t room)
{
    if (way == GRADIENT)
        return snprintf(out, room, "gradient %s", shape_text(c->out->nd, c->out->n).s);
    const Tensor *x = c->n_in > 0 && c->in[0] ? c->in[0] : c->out;
    const Weight *w = c->w[0];
    return snprintf(out, room, "%s%s %s%s%s%s%s", op_name(c->op), way == BACKWARD ? " backward" : "",
                    shape_text(x->nd, x->n).s, w ? "x" : "", w ? shape_text(w->nd, w->n).s : "", w ? " " : "",
                    w ? w->name : "");
}

/* ---- execution --------------------------------------------------------------------------- */

int call_execute(Cx *cx, const Backend *backend, Call *c, bool backward)
{
    c->tmp = NULL;
    if (c->scratch && !(c->tmp = alloc_array(c->scratch, 1))) {
        cx_fail(cx, GIMBAL_ENOMEM, "%s: no memory for %zu bytes of scratch", op_name(c->op), c->scratch);
        return cx->err->code;
    }
#ifdef GIMBAL_POISON
    if (c->tmp)
        memset(c->tmp, 0xff, c->scratch); /* NaN: whoever reads what it did not write shows */
#endif
    const int code = (backward ? backend->backward : backend->forward)[c->op](cx, c);
    free(c->tmp); /* scratch lives during one call */
    c->tmp = NULL;
    return code;
}

int call_run(Cx *cx, const Backend *backend, Call *c, bool backward)
{
    c->scratch = 0;
    if (!(backward ? backend->backward : backend->forward)[c->op] || !backend->supports(cx, c, backward)) {
        cx_fail(cx, GIMBAL_ENOSUP, "%s does not do this %s%s", backend->name, op_name(c->op),
                backward ? " backward" : "");
        return GIMBAL_ENOSUP;
    }
    return call_execute(cx, backend, c, backward);
}

/* ---- the watch --------------------------------------------------------------------------- */

/* "down_blocks.0.resnets.0.conv1.weight" -> the layer's name. */
static void layer_name(const Weight *w, char *out, size_t room)
{
    static const char tail[] = ".weight";
    size_t n = strnlen(w->name, sizeof w->name);
    if (n > sizeof tail - 1 && !memcmp(w->name + n - (sizeof tail - 1), tail, sizeof tail - 1))
        n -= sizeof tail - 1;
    snprintf(out, room, "%.*s", (int)n, w->name);
}

static bool weight_finite(const Weight *w)
{
    float part[256];
    const int64_t count = weight_count(w);
    for (int64_t at = 0; weight_given(w) && at < count; at += COUNT(part)) {
        const int64_t n = MIN(count - at, COUNT(part));
        weight_widen(w, at, n, part);
        for (int64_t i = 0; i < n; i++)
            if (!isfinite(part[i]))
                return false;
    }
    return true;
}

int call_watch(Cx *cx, const Call *c, int number, const Weight *before)
{
    if (!cx->watch || tensor_finite(c->out))
        return GIMBAL_OK;
    char layer[sizeof c->w[0]->name], at[32] = "", after[sizeof layer + 8] = "",
                                      cause[sizeof layer + 64] = "";
    if (c->w[0])
        layer_name(c->w[0], layer, sizeof layer);
    else
        snprintf(layer, sizeof layer, "%s", op_name(c->op));
    if (number >= 0)
        snprintf(at, sizeof at, ", call %d", number);
    if (!c->w[0] && before)
        snprintf(after, sizeof after, " after %s", before->name);

    Tensor *in[CALL_TENSORS];
    Weight *w[CALL_WEIGHTS];
    for (int i = call_tensors(c, in) - 1; i >= 0; i--)
        if (!tensor_finite(in[i]))
            snprintf(cause, sizeof cause, "; its input is not finite either");
    for (int i = call_weights(c, w) - 1; i >= 0; i--)
        if (!weight_finite(w[i]))
            snprintf(cause, sizeof cause, "; the model's own %s is not finite", w[i]->name);
    return fail_hint(
        cx->err, GIMBAL_EVALUE,
        "overflow from too large a guidance scale or input, or damaged weights; try a lower --cfg",
        "%s: values turned non-finite (%s %s%s%s)%s", layer, op_name(c->op),
        shape_text(c->out->nd, c->out->n).s, at, after, cause);
}
