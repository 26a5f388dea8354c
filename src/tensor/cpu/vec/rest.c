/* rest.c: the ops that do little with each value and so run at the memory's speed: activation, addition,
 * rows, concatenation, nearest-neighbour resize, repetition.
 *
 *     act     y = act(x);   GEGLU: y[c] = x[c] * GELU(x[C + c])
 *     rows    y[r] = x[r] + rows[r / per mod n]
 *     resize  source index floor(i * in / out) on each axis
 *     repeat  y[k*n + r] = x[r]
 *
 * Knows rows x channels. Refuses to know what they are of. */
#include "tensor/cpu/vec/math.h"

enum { SPAN = 4096 };

/* A result as rows that are worked on one by one. Where everything lies dense, channels mean nothing: then
 * rows are spans of the whole, the last one shorter. */
typedef struct {
    int64_t rows, width, last;
} Cut;

static Cut cut_of(const Tensor *y, bool dense)
{
    const int64_t C = tensor_channels(y), count = tensor_count(y);
    if (!dense)
        return (Cut){tensor_rows(y), C, C};
    const int64_t rows = (count + SPAN - 1) / SPAN;
    return (Cut){rows, SPAN, count - (rows - 1) * SPAN};
}

static bool is_dense(const Tensor *t)
{
    return t->ld == tensor_channels(t);
}

/* Row r of an input, seen through the cut: its own stride, or the span's. */
static const float *row_of(const Tensor *t, const Cut *cut, bool dense, int64_t r)
{
    return (const float *)t->d + r * (dense ? cut->width : t->ld);
}

static int64_t width_of(const Cut *cut, int64_t r)
{
    return r < cut->rows - 1 ? cut->width : cut->last;
}

/* ---- activation -------------------------------------------------------------------------- */

#define ACT_ROW(name, act_v)                                                                                 \
    static void name(const float *x, int64_t C, float *y)                                                    \
    {                                                                                                        \
        for (int64_t c = 0; c < C; c += VL)                                                                  \
            st_some(y + c, act_v(ld_some(x + c, C - c)), C - c);                                             \
    }
#define AS_IT_IS
ACT_ROW(none_row, AS_IT_IS)
ACT_ROW(silu_row, silu_v)
ACT_ROW(gelu_row, gelu_v)
ACT_ROW(quick_gelu_row, quick_gelu_v)

/* The CPU follows x, gate and y by itself within a row, but not into the next one, `ahead` floats on. */
static void geglu_row(const float *x, const float *gate, int64_t C, int64_t ahead, float *y)
{
    for (int64_t c = 0; c < C; c += VL) {
        const int64_t n = C - c;
        __builtin_prefetch(x + c + ahead, 0, 0);
        __builtin_prefetch(gate + c + ahead, 0, 0);
        __builtin_prefetch(y + c + C, 1);
        st_some(y + c, ld_some(x + c, n) * gelu_v(ld_some(gate + c, n)), n);
    }
}

static void geglu(const Cx *cx, const Call *call)
{
    const Tensor *x = call->in[0], *y = call->out;
    const int64_t C = tensor_channels(y);
    PARALLEL_FOR(cx, NS_ACT * call->flops)
    for (int64_t r = 0; r < tensor_rows(y); r++)
        geglu_row(row_at(x, r), row_at(x, r) + C, C, x->ld, row_at(y, r));
}

int VEC(act)(Cx *cx, const Call *call)
{
    static void (*const by_act[])(const float *, int64_t, float *) = {
        [ACT_NONE] = none_row,
        [ACT_SILU] = silu_row,
        [ACT_GELU] = gelu_row,
        [ACT_QUICK_GELU] = quick_gelu_row,
    };
    const Tensor *x = call->in[0], *y = call->out;
    const bool dense = is_dense(x);
    const Cut cut = cut_of(y, dense);
    if (call->a.act == ACT_GEGLU) {
        geglu(cx, call);
        return 0;
    }
    PARALLEL_FOR(cx, NS_ACT * call->flops)
    for (int64_t r = 0; r < cut.rows; r++)
        by_act[call->a.act](row_of(x, &cut, dense, r), width_of(&cut, r), (float *)y->d + r * cut.width);
    return 0;
}

/* ---- addition ---------------------------------------------------------------------------- */

static void sum_row(const float *a, const float *b, int64_t C, float *y)
{
    for (int64_t c = 0; c < C; c += VL)
        st_some(y + c, ld_some(a + c, C - c) + ld_some(b + c, C - c), C - c);
}

int VEC(add)(Cx *cx, const Call *call)
{
    const Tensor *a = call->in[0], *b = call->in[1], *y = call->out;
    const bool dense = is_dense(a) && is_dense(b);
    const Cut cut = cut_of(y, dense);
    PARALLEL_FOR(cx, NS_MOVE * call->flops)
    for (int64_t r = 0; r < cut.rows; r++)
        sum_row(row_of(a, &cut, dense, r), row_of(b, &cut, dense, r), width_of(&cut, r),
                (float *)y->d + r * cut.width);
    return 0;
}

int VEC(rows)(Cx *cx, const Call *call)
{
    const Tensor *x = call->in[0], *rows = call->in[1], *y = call->out;
    const int64_t n = tensor_rows(rows), C = tensor_channels(y);
    PARALLEL_FOR(cx, NS_MOVE * call->flops)
    for (int64_t r = 0; r < tensor_rows(y); r++)
        sum_row(row_at(x, r), row_at(rows, r / call->a.per % n), C, row_at(y, r));
    return 0;
}

/* ---- moves ------------------------------------------------------------------------------- */

int VEC(concat)(Cx *cx, const Call *call)
{
    const Tensor *a = call->in[0], *b = call->in[1], *y = call->out;
    const int64_t first = tensor_channels(a), second = tensor_channels(b);
    PARALLEL_FOR(cx, NS_MOVE * (double)tensor_count(y))
    for (int64_t r = 0; r < tensor_rows(y); r++) {
        none_row(row_at(a, r), first, row_at(y, r));
        none_row(row_at(b, r), second, row_at(y, r) + first);
    }
    return 0;
}

/* A line of pictures: lines of the result that show the same line of x follow each other, so that it is read
 * from the cache. */
int VEC(resize)(Cx *cx, const Call *call)
{
    const Tensor *x = call->in[0], *y = call->out;
    const int64_t high = y->n[1], wide = y->n[2];
    PARALLEL_FOR(cx, NS_MOVE * (double)tensor_count(y))
    for (int64_t line = 0; line < y->n[0] * high; line++) {
        const int64_t from = (line / high * x->n[1] + line % high * x->n[1] / high) * x->n[2];
        for (int64_t i = 0; i < wide; i++)
            none_row(row_at(x, from + i * x->n[2] / wide), tensor_channels(y), row_at(y, line * wide + i));
    }
    return 0;
}

int VEC(repeat)(Cx *cx, const Call *call)
{
    const Tensor *x = call->in[0], *y = call->out;
    const int64_t n = tensor_rows(x);
    PARALLEL_FOR(cx, NS_MOVE * (double)tensor_count(y))
    for (int64_t r = 0; r < tensor_rows(y); r++)
        none_row(row_at(x, r % n), tensor_channels(y), row_at(y, r));
    return 0;
}
