/* dnn_linear.c: linear and 1x1 convolution by oneDNN's matrix product, z [rows, O] = x [rows, I] * w [O, I]'.
 *
 * Work is cut into tiles of ROWS rows; with few rows (a time embedding, a prompt) also into bands of output
 * channels, and then the epilogue waits for all of them. Weights stay in the file's own order: a float32 file
 * is read where it is mapped. */
#include "tensor/cpu/dnn.h"

enum { ROWS = 256, WANTED_TILES = 8, LEAST_COLUMNS = 64 };

typedef struct {
    int64_t rows, I, wide, ld, columns; /* columns: channels of a tile */
} Cut;

static Cut cut_of(const Call *call)
{
    Cut c = {tensor_rows(call->in[0]), tensor_channels(call->in[0]), call->w[0]->n[0], call->in[0]->ld, 0};
    const int64_t tiles = (c.rows + ROWS - 1) / ROWS, bands = (WANTED_TILES + tiles - 1) / tiles;
    const bool worth = (double)c.rows * (double)c.I * (double)c.wide > 1e6;
    c.columns = worth ? MAX(LEAST_COLUMNS, (c.wide / bands + 15) / 16 * 16) : c.wide;
    c.columns = MIN(c.columns, c.wide);
    return c;
}

size_t dnn_linear_scratch(const Cx *cx, const Call *call)
{
    const Cut c = cut_of(call);
    if (call->epi.act != ACT_GEGLU)
        return 0;
    const size_t row = (size_t)c.wide * sizeof(float);
    return c.columns < c.wide ? (size_t)c.rows * row
                              : (size_t)cx->threads * round64((size_t)MIN(ROWS, c.rows) * row);
}

/* Columns [from, to) of n rows of z. */
static bool product(const Call *call, const Cut *c, const float *w, int64_t r, int64_t n, int64_t from,
                    int64_t to, float *z)
{
    const DnnGuard was = dnn_enter(1);
    const dnnl_status_t status = dnnl_sgemm('N', 'T', n, to - from, c->I, 1.0f, row_at(call->in[0], r), c->ld,
                                            w + from * c->I, c->I, 0.0f, z, c->wide);
    dnn_leave(was);
    return status == dnnl_success;
}

/* z != NULL: all of x*w there. Else tile by tile into the result or this thread's room, with the epilogue. */
static int run(Cx *cx, const Call *call, const Cut *c, float *z, const float *bias)
{
    const float *w = weight_floats(cx, call->w[0]);
    const bool halves = call->epi.act == ACT_GEGLU;
    const int64_t tiles = (c->rows + ROWS - 1) / ROWS, bands = (c->wide + c->columns - 1) / c->columns;
    const size_t each = round64((size_t)(MIN(ROWS, c->rows) * c->wide) * sizeof(float));
    atomic_int failed = 0;
    if (!w)
        return cx->err->code;
    PARALLEL_TILES(cx, NS_FLOP * call->flops)
    for (int64_t i = 0; i < tiles * bands; i++) {
        const int64_t r = i / bands * ROWS, n = MIN(ROWS, c->rows - r), from = i % bands * c->columns;
        float *tile = z ? z + r * c->wide : halves ? thread_scratch(call, each) : row_at(call->out, r);
        if (!product(call, c, w, r, n, from, MIN(c->wide, from + c->columns), tile + from))
            atomic_store(&failed, 1);
        else if (!z)
            epilogue_rows(call, tile, c->wide, r, n, bias);
    }
    if (failed)
        cx_fail(cx, GIMBAL_ENOMEM, "linear %s: oneDNN failed to run", call->w[0]->name);
    return failed ? cx->err->code : 0;
}

int dnn_linear(Cx *cx, const Call *call)
{
    const Cut c = cut_of(call);
    const float *bias = NULL;
    if (call->epi.bias && weight_given(call->epi.bias))
        bias = weight_floats(cx, call->epi.bias);
    if (cx_failed(cx))
        return cx->err->code;
    if (c.columns == c.wide)
        return run(cx, call, &c, NULL, bias);
    float *z = call->epi.act == ACT_GEGLU ? (float *)call->tmp : call->out->d;
    TRY(run(cx, call, &c, z, NULL));
    PARALLEL_FOR(cx, NS_FLOP * call->flops)
    for (int64_t r = 0; r < c.rows; r += 16)
        epilogue_rows(call, z + r * c.wide, c.wide, r, MIN(16, c.rows - r), bias);
    return 0;
}

int dnn_linear_plain(Cx *cx, const Call *call, float *z)
{
    const Cut c = cut_of(call);
    return run(cx, call, &c, z, NULL);
}
