/* backend.c: the vec backend's table, one for each instruction set, and which kernel does a product.
 * Gradients that it lacks are oneDNN's and ref's business.
 *
 * Packs nothing, but that the few values of biases and norms may be widened once and kept (slot 0, ref's). */
#include "tensor/cpu/vec/simd.h"

static bool is_product(OpCode op)
{
    return op == OP_CONV2D || op == OP_CONVT || op == OP_LINEAR;
}

/* A turned kernel must be a whole one. */
static bool by_winograd(const Call *call, const Turn *turn)
{
    return VEC(winograd_takes)(call) && (!turn || turn->step == 1);
}

size_t VEC(multiply_scratch)(const Cx *cx, const Call *call, const Turn *turn)
{
    return by_winograd(call, turn) ? VEC(winograd_scratch)(cx, call) : VEC(gemm_scratch)(cx, call, turn);
}

int VEC(multiply)(Cx *cx, const Call *call, const Turn *turn)
{
    return by_winograd(call, turn) ? VEC(winograd)(cx, call, turn) : VEC(gemm)(cx, call, turn);
}

static int product_forward(Cx *cx, const Call *call)
{
    return VEC(multiply)(cx, call, NULL);
}

static int supports_back(const Cx *cx, Call *call)
{
    if (call->op == OP_ATTN)
        call->scratch = VEC(attention_back_scratch)(cx, call);
    if (call->op == OP_NORM)
        call->scratch = VEC(norm_back_scratch)(cx, call);
    if (call->op == OP_ROWS)
        call->scratch = VEC(rows_back_scratch)(cx, call);
    if (call->op == OP_BLEND)
        call->scratch = VEC(blend_back_scratch)(cx, call);
    if (call->op == OP_ROTATE)
        call->scratch = VEC(rotate_back_scratch)(cx, call);
    if (!is_product(call->op))
        return 1;
    const ConvShape s = conv_shape(call);
    call->scratch = VEC(product_back_scratch)(cx, call);
    return s.kh * s.kw <= TURN_TAPS;
}

static int supports(const Cx *cx, Call *call, bool backward)
{
    call->scratch = 0;
    if (backward)
        return supports_back(cx, call);
    if (call->op == OP_ATTN)
        call->scratch = VEC(attention_scratch)(cx, call);
    if (call->op == OP_NORM)
        call->scratch = VEC(norm_scratch)(cx, call);
    if (call->op == OP_ROTATE)
        call->scratch = VEC(rotate_scratch)(cx, call);
    if (!is_product(call->op))
        return 1;
    call->scratch = VEC(multiply_scratch)(cx, call, NULL);
    return 1;
}

static const char *method(const Cx *cx, const Call *call, double *flops)
{
    *flops = call->flops;
    if (call->op == OP_ATTN)
        return VEC(attention_bf16)(cx, call) ? "online softmax bf16" : "online softmax";
    if (!is_product(call->op))
        return "fused";
    if (VEC(winograd_takes)(call)) {
        *flops = VEC(winograd_flops)(call);
        return call->op == OP_CONVT ? "winograd 4" : "winograd 4x4";
    }
    return cx->bf16 && call->op == OP_LINEAR ? "gemm bf16" : call->op == OP_LINEAR ? "gemm" : "gathered gemm";
}

static size_t pack_bytes(const Call *call, const Weight *w)
{
    return is_product(call->op) && w == call->w[0] ? 0 : floats_bytes(w);
}

const Backend VEC(backend_vec) = {
    .name = "vec",
    .isa = VEC_TEXT(VEC_ISA),
    .slot = -1,
    .supports = supports,
    .forward =
        {
            [OP_CONV2D] = product_forward,
            [OP_CONVT] = product_forward,
            [OP_LINEAR] = product_forward,
            [OP_NORM] = VEC(norm),
            [OP_ATTN] = VEC(attention),
            [OP_ACT] = VEC(act),
            [OP_ADD] = VEC(add),
            [OP_ROWS] = VEC(rows),
            [OP_CONCAT] = VEC(concat),
            [OP_RESIZE] = VEC(resize),
            [OP_REPEAT] = VEC(repeat),
            [OP_ROTATE] = VEC(rotate),
            [OP_BLEND] = VEC(blend),
            [OP_FIRST] = VEC(first),
        },
    .backward =
        {
            [OP_CONV2D] = VEC(product_back),
            [OP_CONVT] = VEC(product_back),
            [OP_LINEAR] = VEC(product_back),
            [OP_ACT] = VEC(act_back),
            [OP_ADD] = VEC(add_back),
            [OP_ROWS] = VEC(rows_back),
            [OP_CONCAT] = VEC(concat_back),
            [OP_RESIZE] = VEC(resize_back),
            [OP_REPEAT] = VEC(repeat_back),
            [OP_ROTATE] = VEC(rotate_back),
            [OP_BLEND] = VEC(blend_back),
            [OP_FIRST] = VEC(first_back),
            [OP_NORM] = VEC(norm_back),
            [OP_ATTN] = VEC(attention_back),
        },
    .method = method,
    .pack_bytes = pack_bytes,
};
