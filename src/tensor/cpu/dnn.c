/* dnn.c: the oneDNN backend: convolutions and matrix products. What it takes, what it packs, its table.
 *
 * Owns pack slot 1: a convolution's weight in the layouts that its primitives chose. Linears read plain
 * floats. */
#include "tensor/cpu/dnn.h"

bool is_linear(const Call *call)
{
    if (call->op == OP_LINEAR)
        return true;
    if (call->op == OP_CONVT)
        return call->w[0]->n[2] == 1;
    const int *pad = call->a.conv.pad;
    return call->w[0]->n[2] == 1 && call->w[0]->n[3] == 1 && call->a.conv.stride == 1 &&
           !(pad[0] | pad[1] | pad[2] | pad[3]);
}

static int supports(const Cx *cx, Call *call, bool backward)
{
    call->scratch = 0;
    if ((call->op != OP_CONV2D && call->op != OP_CONVT && call->op != OP_LINEAR) || !dnn_engine())
        return 0;
    if (backward)
        return (call->scratch = dnn_back_scratch(cx, call)) > 0;
    if (!is_linear(call))
        return dnn_conv_scratch(cx, call, false, &call->scratch);
    call->scratch = dnn_linear_scratch(cx, call);
    return 1;
}

static size_t pack_bytes(const Call *call, const Weight *w)
{
    return w == call->w[0] && !is_linear(call) ? dnn_conv_packed(call) : floats_bytes(w);
}

static int forward(Cx *cx, const Call *call)
{
    return is_linear(call) ? dnn_linear(cx, call) : dnn_conv(cx, call);
}

const Backend backend_dnn = {
    .name = "dnn",
    .slot = 1,
    .supports = supports,
    .forward = {[OP_CONV2D] = forward, [OP_CONVT] = forward, [OP_LINEAR] = forward},
    .backward = {[OP_CONV2D] = dnn_back, [OP_CONVT] = dnn_back, [OP_LINEAR] = dnn_back},
    .pack_bytes = pack_bytes,
    .drop = conv_drop,
};
