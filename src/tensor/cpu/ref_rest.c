/* ref_rest.c: the meaning of the small ops: activation, addition, row addition, concatenation,
 * nearest-neighbour resize, repetition, table look-up, mean square error. Each forward is followed by its
 * backward.
 *
 * Tensors are rows x channels; x[r] is row r. */
#include "tensor/cpu/ref.h"

/* y = act(x); GEGLU: y[c] = x[c] * GELU(x[C + c]) */
int ref_act(Cx *cx, const Call *call)
{
    const int64_t C = tensor_channels(call->out);
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t r = 0; r < tensor_rows(call->out); r++) {
        const float *x = row_at(call->in[0], r);
        for (int64_t c = 0; c < C; c++)
            row_at(call->out, r)[c] = (float)(call->a.act == ACT_GEGLU ? x[c] * act_value(ACT_GELU, x[C + c])
                                                                       : act_value(call->a.act, x[c]));
    }
    return 0;
}

int ref_act_back(Cx *cx, const Call *call)
{
    const int64_t C = tensor_channels(call->out);
    int64_t ld = 0, ldx = 0;
    const float *gy = grad_of(call->out, &ld);
    float *gx = grad_of(call->in[0], &ldx);
    if (!gx)
        return 0;
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t r = 0; r < tensor_rows(call->out); r++) {
        const float *x = row_at(call->in[0], r);
        for (int64_t c = 0; c < C; c++) {
            const double g = gy[r * ld + c];
            if (call->a.act == ACT_GEGLU) {
                gx[r * ldx + c] += (float)(g * act_value(ACT_GELU, x[C + c]));
                gx[r * ldx + C + c] += (float)(g * x[c] * act_slope(ACT_GELU, x[C + c]));
            } else {
                gx[r * ldx + c] += (float)(g * act_slope(call->a.act, x[c]));
            }
        }
    }
    return 0;
}

int ref_add(Cx *cx, const Call *call)
{
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t r = 0; r < tensor_rows(call->out); r++)
        for (int64_t c = 0; c < tensor_channels(call->out); c++)
            row_at(call->out, r)[c] = row_at(call->in[0], r)[c] + row_at(call->in[1], r)[c];
    return 0;
}

/* gx[r, c] += gy[r, from + c] for all rows and channels of x, when x wants a gradient. */
static void pass_back(Cx *cx, const Call *call, const Tensor *x, int64_t from)
{
    const int64_t rows = tensor_rows(x), C = tensor_channels(x);
    int64_t ld = 0, ldx = 0;
    const float *gy = grad_of(call->out, &ld);
    float *gx = grad_of(x, &ldx);
    if (!gx)
        return;
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < C; c++)
            gx[r * ldx + c] += gy[r * ld + from + c];
}

/* One after the other: a and b may be the same tensor. */
int ref_add_back(Cx *cx, const Call *call)
{
    pass_back(cx, call, call->in[0], 0);
    pass_back(cx, call, call->in[1], 0);
    return 0;
}

/* y[r] = x[r] + rows[(r / per) % n] */
int ref_rows(Cx *cx, const Call *call)
{
    const Tensor *rows = call->in[1];
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t r = 0; r < tensor_rows(call->out); r++) {
        const float *add = row_at(rows, r / call->a.per % tensor_rows(rows));
        for (int64_t c = 0; c < tensor_channels(call->out); c++)
            row_at(call->out, r)[c] = row_at(call->in[0], r)[c] + add[c];
    }
    return 0;
}

int ref_rows_back(Cx *cx, const Call *call)
{
    const int64_t n = tensor_rows(call->in[1]), C = tensor_channels(call->out),
                  total = tensor_rows(call->out);
    int64_t ld = 0, ldr = 0;
    const float *gy = grad_of(call->out, &ld);
    float *grows = grad_of(call->in[1], &ldr);
    pass_back(cx, call, call->in[0], 0);
    if (!grows)
        return 0;
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t k = 0; k < n * C; k++) {
        double sum = 0;
        for (int64_t block = k / C; block * call->a.per < total; block += n)
            for (int64_t r = block * call->a.per; r < MIN(total, (block + 1) * call->a.per); r++)
                sum += gy[r * ld + k % C];
        grows[k / C * ldr + k % C] += (float)sum;
    }
    return 0;
}

int ref_concat(Cx *cx, const Call *call)
{
    const size_t a = (size_t)tensor_channels(call->in[0]), b = (size_t)tensor_channels(call->in[1]);
    PARALLEL_FOR(cx, NS_MOVE * (double)tensor_count(call->out))
    for (int64_t r = 0; r < tensor_rows(call->out); r++) {
        memcpy(row_at(call->out, r), row_at(call->in[0], r), a * sizeof(float));
        memcpy(row_at(call->out, r) + a, row_at(call->in[1], r), b * sizeof(float));
    }
    return 0;
}

int ref_concat_back(Cx *cx, const Call *call)
{
    pass_back(cx, call, call->in[0], 0);
    pass_back(cx, call, call->in[1], tensor_channels(call->in[0]));
    return 0;
}

/* The row of x that row r of y copies: source index floor(i * in / out) on each axis. */
static int64_t source_row(const Tensor *x, const Tensor *y, int64_t r)
{
    const int64_t row = r / y->n[2] % y->n[1] * x->n[1] / y->n[1], col = r % y->n[2] * x->n[2] / y->n[2];
    return (r / (y->n[1] * y->n[2]) * x->n[1] + row) * x->n[2] + col;
}

int ref_resize(Cx *cx, const Call *call)
{
    const Tensor *x = call->in[0], *y = call->out;
    PARALLEL_FOR(cx, NS_MOVE * (double)tensor_count(y))
    for (int64_t r = 0; r < tensor_rows(y); r++)
        memcpy(row_at(y, r), row_at(x, source_row(x, y, r)), (size_t)tensor_channels(y) * sizeof(float));
    return 0;
}

/* Pictures are independent; inside one the sum runs in memory order. */
int ref_resize_back(Cx *cx, const Call *call)
{
    const Tensor *x = call->in[0], *y = call->out;
    const int64_t picture = y->n[1] * y->n[2];
    int64_t ld = 0, ldx = 0;
    const float *gy = grad_of(y, &ld);
    float *gx = grad_of(x, &ldx);
    if (!gx)
        return 0;
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t n = 0; n < y->n[0]; n++)
        for (int64_t r = n * picture; r < (n + 1) * picture; r++)
            for (int64_t c = 0; c < tensor_channels(y); c++)
                gx[source_row(x, y, r) * ldx + c] += gy[r * ld + c];
    return 0;
}

/* y[k*rows + r] = x[r] */
int ref_repeat(Cx *cx, const Call *call)
{
    const Tensor *x = call->in[0], *y = call->out;
    const int64_t rows = tensor_rows(x);
    PARALLEL_FOR(cx, NS_MOVE * (double)tensor_count(y))
    for (int64_t r = 0; r < tensor_rows(y); r++)
        memcpy(row_at(y, r), row_at(x, r % rows), (size_t)tensor_channels(y) * sizeof(float));
    return 0;
}

int ref_repeat_back(Cx *cx, const Call *call)
{
    const int64_t rows = tensor_rows(call->in[0]), total = tensor_rows(call->out);
    int64_t ld = 0, ldx = 0;
    const float *gy = grad_of(call->out, &ld);
    float *gx = grad_of(call->in[0], &ldx);
    if (!gx)
        return 0;
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < tensor_channels(call->out); c++) {
            double sum = 0;
            for (int64_t k = r; k < total; k += rows)
                sum += gy[k * ld + c];
            gx[r * ldx + c] += (float)sum;
        }
    return 0;
}

/* The table's row for row i of the result; -1 after an error. */
static int64_t table_row(Cx *cx, const Call *call, int64_t i)
{
    const Weight *table = call->w[0];
    const int64_t rows = weight_count(table) / tensor_channels(call->out);
    const int64_t id = call->in[0] ? ((const int32_t *)call->in[0]->d)[i] : i;
    if (id >= 0 && id < rows)
        return id;
    cx_fail(cx, GIMBAL_EMODEL, "%s: id %lld at place %lld, the table has rows 0 to %lld", table->name,
            (long long)id, (long long)i, (long long)rows - 1);
    return -1;
}

int ref_embed(Cx *cx, const Call *call)
{
    const int64_t C = tensor_channels(call->out);
    for (int64_t i = 0; i < tensor_rows(call->out); i++) {
        const int64_t row = table_row(cx, call, i);
        if (row < 0)
            return cx->err->code;
        weight_widen(call->w[0], row * C, C, row_at(call->out, i));
    }
    return 0;
}

int ref_embed_back(Cx *cx, const Call *call)
{
    const int64_t C = tensor_channels(call->out);
    int64_t ld = 0;
    const float *gy = grad_of(call->out, &ld);
    float *gw = weight_grad(call->w[0]);
    for (int64_t i = 0; gw && i < tensor_rows(call->out); i++) {
        const int64_t row = table_row(cx, call, i);
        if (row < 0)
            return cx->err->code;
        for (int64_t c = 0; c < C; c++)
            gw[row * C + c] += gy[i * ld + c];
    }
    return 0;
}

/* Rows of the first dimension: r / per of row r; one for all without weights. */
static int64_t mse_parts(const Call *call, int64_t *per)
{
    const int64_t parts = call->n_in == 3 ? call->in[0]->n[0] : 1;
    *per = tensor_rows(call->in[0]) / parts;
    return parts;
}

/* Double sums in memory order: a loss is read far more often than it is waited for. */
int ref_mse(Cx *cx, const Call *call)
{
    const Tensor *x = call->in[0], *target = call->in[1];
    int64_t per;
    const int64_t parts = mse_parts(call, &per);
    float *out = call->out->d;
    double total = 0;
    (void)cx;
    for (int64_t i = 0; i < parts; i++) {
        double sum = 0;
        for (int64_t r = i * per; r < (i + 1) * per; r++)
            for (int64_t c = 0; c < tensor_channels(x); c++) {
                const double d = (double)row_at(x, r)[c] - row_at(target, r)[c];
                sum += d * d;
            }
        sum /= (double)(per * tensor_channels(x));
        if (call->n_in == 3)
            out[1 + i] = (float)sum;
        total += call->n_in == 3 ? sum * (double)((const float *)call->in[2]->d)[i] : sum;
    }
    out[0] = (float)total;
    return 0;
}

int ref_mse_back(Cx *cx, const Call *call)
{
    const Tensor *x = call->in[0], *target = call->in[1];
    int64_t ld = 0, ldx = 0, per;
    mse_parts(call, &per);
    const float *g = grad_of(call->out, &ld), *weight = call->n_in == 3 ? call->in[2]->d : NULL;
    float *gx = grad_of(x, &ldx);
    if (!gx)
        return 0;
    const double scale = 2.0 / (double)(per * tensor_channels(x));
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t r = 0; r < tensor_rows(x); r++) {
        const int64_t i = r / per;
        const double by = scale * (weight ? (double)g[0] * weight[i] + g[1 + i] : g[0]);
        for (int64_t c = 0; c < tensor_channels(x); c++)
            gx[r * ldx + c] += (float)(by * ((double)row_at(x, r)[c] - row_at(target, r)[c]));
    }
    return 0;
}
