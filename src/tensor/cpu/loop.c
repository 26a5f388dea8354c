/* loop.c: the loop backend: fused plain loops that the compiler vectorises, forward only. Norms with SiLU
 * (loop_norm.c), attention (loop_attention.c), the epilogue of convolutions and linears (loop_epilogue.c),
 * and here the ops that only move or add rows. What it does not do falls to ref.
 *
 * Same results for any number of threads; instruction sets may differ in the last bits. */
#include "tensor/cpu/loop.h"

/* Runs `body` for every block of rows [r, r + n) of the result. */
#define FOR_ROW_BLOCKS(cx, y, r, n, ns)                                                                      \
    PARALLEL_FOR(cx, ns)                                                                                     \
    for (int64_t r = 0; r < tensor_rows(y); r += ROW_BLOCK)                                                  \
        for (int64_t n = MIN(ROW_BLOCK, tensor_rows(y) - r), once_ = 1; once_; once_ = 0)

CLONES static void add_rows(const float *a, int64_t lda, const float *b, int64_t ldb, float *y, int64_t rows,
                            int64_t C)
{
    for (int64_t r = 0; r < rows; r++, a += lda, b += ldb, y += C)
#pragma omp simd
        for (int64_t c = 0; c < C; c++)
            y[c] = a[c] + b[c];
}

static int loop_add(Cx *cx, const Call *call)
{
    const Tensor *a = call->in[0], *b = call->in[1], *y = call->out;
    FOR_ROW_BLOCKS(cx, y, r, n, NS_MOVE * call->flops)
    add_rows(row_at(a, r), a->ld, row_at(b, r), b->ld, row_at(y, r), n, tensor_channels(y));
    return 0;
}

static int loop_rows(Cx *cx, const Call *call)
{
    const Tensor *x = call->in[0], *rows = call->in[1], *y = call->out;
    PARALLEL_FOR(cx, NS_MOVE * call->flops)
    for (int64_t r = 0; r < tensor_rows(y); r++)
        add_rows(row_at(x, r), 0, row_at(rows, r / call->a.per % tensor_rows(rows)), 0, row_at(y, r), 1,
                 tensor_channels(y));
    return 0;
}

CLONES static void act_rows(Act act, const float *x, int64_t ld, float *y, int64_t rows, int64_t C)
{
    for (int64_t r = 0; r < rows; r++, x += ld, y += C) {
        if (act == ACT_SILU) {
#pragma omp simd
            for (int64_t c = 0; c < C; c++)
                y[c] = silu_f(x[c]);
        } else if (act == ACT_GELU) {
#pragma omp simd
            for (int64_t c = 0; c < C; c++)
                y[c] = gelu_f(x[c]);
        } else if (act == ACT_QUICK_GELU) {
#pragma omp simd
            for (int64_t c = 0; c < C; c++)
                y[c] = quick_gelu_f(x[c]);
        } else {
#pragma omp simd
            for (int64_t c = 0; c < C; c++)
                y[c] = x[c] * gelu_f(x[C + c]);
        }
    }
}

static int loop_act(Cx *cx, const Call *call)
{
    const Tensor *x = call->in[0], *y = call->out;
    FOR_ROW_BLOCKS(cx, y, r, n, NS_ACT * call->flops)
    act_rows(call->a.act, row_at(x, r), x->ld, row_at(y, r), n, tensor_channels(y));
    return 0;
}

static int supports(const Cx *cx, Call *call, bool backward)
{
    call->scratch = 0;
    if (backward)
        return 0;
    switch (call->op) {
    case OP_NORM:
        call->scratch = loop_norm_scratch(cx, call);
        return 1;
    case OP_ATTN:
        call->scratch = (size_t)cx->threads * loop_attention_scratch(call);
        return 1;
    case OP_ACT:
        return call->a.act != ACT_NONE;
    case OP_ADD:
    case OP_ROWS:
        return 1;
    default:
        return 0;
    }
}

static size_t pack_bytes(const Call *call, const Weight *w)
{
    (void)call;
    return floats_bytes(w);
}

const Backend backend_loop = {
    .name = "loop",
    .slot = -1,
    .supports = supports,
    .forward = {[OP_NORM] = loop_norm,
                [OP_ATTN] = loop_attention,
                [OP_ACT] = loop_act,
                [OP_ADD] = loop_add,
                [OP_ROWS] = loop_rows},
    .pack_bytes = pack_bytes,
};
