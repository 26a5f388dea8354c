/* tape.c: gradients by walking recorded calls backwards, and blocks that run again to save their memory.
 *
 *     forward    y = f(x, w)  is written down when x or w wants a gradient
 *     backward   in reverse:  dx += f'(x, w) dy,  dw += ...
 *     block      keeps its inputs and result; backward runs it once more on a tape of its own and walks that
 *                with the gradient of the old result. Same kernels on the same bits: same gradients.
 *
 * Gradients of tensors are tensors like others: born zeroed at their first use, planned, dead after their
 * last. A view has none of its own; grad_of points into its owner's. Gradients of weights live outside every
 * plan.
 *
 * Knows which call led to which tensor. Refuses to know what a kernel computes. */
#include "tensor/core.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCK_INPUTS = 4 };

typedef struct {
    Call call; /* call.out is the block's result when graph is set */
    Graph graph;
    void *self;
    Tensor *in[BLOCK_INPUTS];
} Node;

struct Tape {
    Node *v;
    int n, room;
};

Tape *tape_new(void)
{
    return calloc(1, sizeof(Tape));
}

void tape_clear(Tape *t)
{
    t->n = 0;
}

void tape_free(Tape *t)
{
    if (t)
        free(t->v); /* grew by realloc */
    free(t);
}

int tape_length(const Tape *t)
{
    return t->n;
}

static int node_add(Cx *cx, const Node *node)
{
    Tape *t = cx->tape;
    if (t->n == t->room) {
        const int room = t->room ? 2 * t->room : 64;
        Node *v = realloc(t->v, (size_t)room * sizeof *v);
        if (!v) {
            cx_fail(cx, GIMBAL_ENOMEM, "no memory for a tape of %d calls", room);
            return GIMBAL_ENOMEM;
        }
        t->v = v, t->room = room;
    }
    t->v[t->n++] = *node;
    return GIMBAL_OK;
}

int tape_record(Cx *cx, const Call *c)
{
    return node_add(cx, &(Node){.call = *c});
}

Tensor *block(Cx *cx, Graph graph, void *self, Tensor **in, int n_in)
{
    if (halted(cx))
        return NULL;
    if (!cx->tape || !cx->recompute)
        return graph(cx, self, in);
    if (n_in > BLOCK_INPUTS)
        return cx_fail(cx, GIMBAL_EMODEL, "block: %d inputs, at most %d are possible", n_in, BLOCK_INPUTS);

    Tape *tape = cx->tape;
    cx->tape = NULL, cx->in_block = true;
    Tensor *out = graph(cx, self, in);
    cx->tape = tape, cx->in_block = false;
    if (!out || !owner(out)->need_grad)
        return out;

    Node node = {.call.out = out, .graph = graph, .self = self};
    for (int i = 0; i < n_in; i++) {
        if (in[i] && owner(in[i]) == owner(out))
            return out; /* handed through: its gradient is the input's already */
        node.in[i] = in[i];
    }
    return node_add(cx, &node) ? NULL : out;
}

/* ---- backward ---------------------------------------------------------------------------- */

/* Whether t's buffer is of this run. An input outlives runs and may carry the buffer of an earlier one. */
static bool has_grad(const Cx *cx, const Tensor *t)
{
    if (!t->grad || t->id >= 0)
        return t->grad;
    return cx->plan ? plan_fed(cx->plan, t) : t->grad->id < 0;
}

/* Gives t's owner a zeroed gradient unless it has one. */
static int give_grad(Cx *cx, Tensor *t)
{
    Tensor *o = owner(t);
    if (has_grad(cx, o))
        return GIMBAL_OK;
    /* an input's is kept beside the input, so that a later run can look at it */
    Tensor *g = header_in(cx, o->id < 0 ? &cx->headers : plan_headers(cx), F32, o->nd, o->n);
    if (!g)
        return cx->err->code;
    Call birth = {.out = g};
    TRY(perform(cx, &birth, GRADIENT));
    o->grad = g;
    return o->id < 0 && cx->plan ? plan_feed(cx, o) : GIMBAL_OK;
}

float *grad_of(const Tensor *t, int64_t *ld)
{
    const Tensor *o = owner(t);
    if (!o->need_grad || !o->grad)
        return NULL;
    *ld = t->ld;
    return (float *)((char *)o->grad->d + view_offset(t));
}

static int walk(Cx *cx, Tape *tape);

/* Runs the block again, recording, and walks that record. */
static int block_backward(Cx *cx, Node *node)
{
    Tape *inner = tape_new();
    if (!inner) {
        cx_fail(cx, GIMBAL_ENOMEM, "no memory for a block's tape");
        return GIMBAL_ENOMEM;
    }
    cx->tape = inner;
    Tensor *out = node->graph(cx, node->self, node->in);
    cx->tape = NULL;
    if (out) {
        /* the same shape; the old result's own data may be dead by now */
        owner(out)->grad = owner(node->call.out)->grad;
        walk(cx, inner);
    }
    tape_free(inner);
    return cx->err->code;
}

/* A product once more for the input and for the weight, if they want it; other ops about twice. */
static double backward_flops(const Call *c)
{
    if (c->op != OP_CONV2D && c->op != OP_CONVT && c->op != OP_LINEAR)
        return 2 * c->flops;
    return (call_grows(c, c->in[0]) + c->w[0]->trainable) * c->flops;
}

static int call_backward(Cx *cx, Node *node)
{
    Call *c = &node->call;
    Tensor *in[CALL_TENSORS];
    Weight *w[CALL_WEIGHTS];
    const int n = call_tensors(c, in);
    for (int i = 0; i < n; i++)
        if (call_grows(c, in[i]))
            TRY(give_grad(cx, in[i]));
    for (int i = call_weights(c, w) - 1; i >= 0; i--)
        if (w[i]->trainable && !w[i]->grad && cx->mode != DRY) {
            cx_fail(cx, GIMBAL_EMODEL, "%s is trainable but has no gradient buffer", w[i]->name);
            return GIMBAL_EMODEL;
        }
    Call back = *c;
    back.flops = backward_flops(c);
    return perform(cx, &back, BACKWARD);
}

static int walk(Cx *cx, Tape *tape)
{
    for (int i = tape->n - 1; i >= 0; i--) {
        Node *node = &tape->v[i];
        if (!has_grad(cx, owner(node->call.out)))
            continue; /* led to nothing */
        TRY(node->graph ? block_backward(cx, node) : call_backward(cx, node));
    }
    return cx->err->code;
}

int backward(Cx *cx, Tensor *loss)
{
    if (halted(cx))
        return cx->err->code;
    if (!loss || !cx->tape || tensor_count(loss) != 1 || !owner(loss)->need_grad) {
        cx_fail(cx, GIMBAL_EMODEL, "backward: %s",
                !loss                     ? "given no loss"
                : !cx->tape               ? "the context has no tape"
                : tensor_count(loss) != 1 ? "the loss is not a single number"
                                          : "nothing that can be trained led to the loss");
        return GIMBAL_EMODEL;
    }
    Tape *tape = cx->tape;
    cx->tape = NULL; /* what follows is not recorded */
    int code = give_grad(cx, loss);
    if (!code && cx->mode != DRY)
        *(float *)owner(loss)->grad->d = 1.0f;
    if (!code)
        code = walk(cx, tape);
    cx->tape = tape;
    tape_clear(tape);
    return code;
}
