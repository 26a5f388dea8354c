/* rest_back.c: gradients of the ops that do little with each value (rest.c, frames.c) and so run at the
 * memory's speed. All add to what gradients hold.
 *
 *     act     gx += gy act'(x);   GEGLU: gx[c] += gy[c] GELU(x[C+c]),  gx[C+c] += gy[c] x[c] GELU'(x[C+c])
 *     rows    gx += gy,  grows[k] += the sum of gy over the rows that row k was added to
 *     resize  a pixel gets the sum of its copies; repeat likewise
 *     rotate  gy turned back; a frequency: sum of f (gy[2i+1] y[2i] - gy[2i] y[2i+1])
 *     blend   ga += k gy, gb += (1 - k) gy; the share: sum of gy (a - b), inside 0..1
 *
 * Inputs may be one and the same tensor: they are served one after the other.
 *
 * Knows rows x channels and frames. Refuses to know what they are of. */
#include "tensor/cpu/vec/math.h"
#include "tensor/cpu/vec/sums.h"

enum { SPAN = 4096 };

/* A gradient as rows; `d` NULL: not wanted. */
typedef struct {
    float *d;
    int64_t ld;
} Grad;

static Grad grad(const Tensor *t)
{
    Grad g = {NULL, 0};
    g.d = grad_of(t, &g.ld);
    return g;
}

static double moves(const Call *call)
{
    return MAX(NS_MOVE * (double)tensor_count(call->out), NS_MOVE * call->flops);
}

/* ---- activation -------------------------------------------------------------------------- */

#define SLOPE_ROW(name, slope_v)                                                                             \
    static void name(const float *x, const float *gy, int64_t C, float *gx)                                  \
    {                                                                                                        \
        for (int64_t c = 0; c < C; c += VL) {                                                                \
            const int64_t n = C - c;                                                                         \
            st_some(gx + c, ld_some(gx + c, n) + ld_some(gy + c, n) * slope_v(ld_some(x + c, n)), n);        \
        }                                                                                                    \
    }

INLINE V gelu_slope_alone_v(V x)
{
    V value;
    return gelu_slope_v(x, &value);
}
SLOPE_ROW(silu_back, silu_slope_v)
SLOPE_ROW(gelu_back, gelu_slope_alone_v)
SLOPE_ROW(quick_gelu_back, quick_gelu_slope_v)

/* C: of the result, half of x's. */
static void geglu_back(const float *x, const float *gy, int64_t C, float *gx)
{
    for (int64_t c = 0; c < C; c += VL) {
        const int64_t n = C - c;
        const V g = ld_some(gy + c, n);
        V value;
        const V slope = gelu_slope_v(ld_some(x + C + c, n), &value);
        st_some(gx + c, ld_some(gx + c, n) + g * value, n);
        st_some(gx + C + c, ld_some(gx + C + c, n) + g * ld_some(x + c, n) * slope, n);
    }
}

int VEC(act_back)(Cx *cx, const Call *call)
{
    static void (*const by_act[])(const float *, const float *, int64_t, float *) = {
        [ACT_SILU] = silu_back,
        [ACT_GELU] = gelu_back,
        [ACT_QUICK_GELU] = quick_gelu_back,
        [ACT_GEGLU] = geglu_back,
    };
    const Tensor *x = call->in[0], *y = call->out;
    const int64_t C = tensor_channels(y);
    const Grad gy = grad(y), gx = grad(x);
    if (!gx.d)
        return 0;
    PARALLEL_FOR(cx, MAX(moves(call), NS_ACT * call->flops))
    for (int64_t r = 0; r < tensor_rows(y); r++)
        by_act[call->a.act](row_at(x, r), gy.d + r * gy.ld, C, gx.d + r * gx.ld);
    return 0;
}

/* ---- what passes gradients on ------------------------------------------------------------ */

static void add_row(const float *g, int64_t C, float *to)
{
    for (int64_t c = 0; c < C; c += VL)
        st_some(to + c, ld_some(to + c, C - c) + ld_some(g + c, C - c), C - c);
}

static void add_part(const float *g, V by, int64_t C, float *to)
{
    for (int64_t c = 0; c < C; c += VL)
        st_some(to + c, ld_some(to + c, C - c) + by * ld_some(g + c, C - c), C - c);
}

/* gx[r, c] += gy[r, from + c], when x wants a gradient. Where both lie dense, channels mean nothing. */
static void pass_back(const Cx *cx, const Call *call, const Tensor *x, int64_t from)
{
    Grad gy = grad(call->out), gx = grad(x);
    int64_t C = tensor_channels(x);
    const int64_t count = gx.d ? tensor_count(x) : 0;
    if (gy.ld == C && gx.ld == C)
        C = gy.ld = gx.ld = SPAN;
    PARALLEL_FOR(cx, moves(call))
    for (int64_t r = 0; r < (count + C - 1) / C; r++)
        add_row(gy.d + r * gy.ld + from, MIN(C, count - r * C), gx.d + r * gx.ld);
}

int VEC(add_back)(Cx *cx, const Call *call)
{
    pass_back(cx, call, call->in[0], 0);
    pass_back(cx, call, call->in[1], 0);
    return 0;
}

int VEC(concat_back)(Cx *cx, const Call *call)
{
    pass_back(cx, call, call->in[0], 0);
    pass_back(cx, call, call->in[1], tensor_channels(call->in[0]));
    return 0;
}

static RowSums sums_of_rows(const Call *call)
{
    return (RowSums){.rows = tensor_rows(call->out), .C = tensor_channels(call->out), .per = call->a.per};
}

size_t VEC(rows_back_scratch)(const Cx *cx, const Call *call)
{
    const RowSums s = sums_of_rows(call);
    (void)cx;
    return sum_bytes(&s);
}

int VEC(rows_back)(Cx *cx, const Call *call)
{
    const Grad gy = grad(call->out), to = grad(call->in[1]);
    RowSums s = sums_of_rows(call);
    const int64_t n = tensor_rows(call->in[1]);
    float *parts = (float *)call->tmp;
    pass_back(cx, call, call->in[0], 0);
    if (!to.d)
        return 0;
    s.g = gy.d, s.ld = gy.ld;
    sum_parts(cx, &s, moves(call), parts);
    for (int64_t k = 0; k < n; k++)
        sum_up(&s, parts, k, n, to.d + k * to.ld);
    return 0;
}

/* First of `out` that shows i of `in`: the least j with floor(j * in / out) >= i. */
static int64_t first_copy(int64_t i, int64_t in, int64_t out)
{
    return (i * out + in - 1) / in;
}

int VEC(resize_back)(Cx *cx, const Call *call)
{
    const Tensor *x = call->in[0], *y = call->out;
    const int64_t high = x->n[1], wide = x->n[2], C = tensor_channels(y);
    const Grad gy = grad(y), gx = grad(x);
    PARALLEL_FOR(cx, moves(call))
    for (int64_t line = 0; line < (gx.d ? x->n[0] * high : 0); line++) {
        const int64_t i = line % high, to = first_copy(i + 1, high, y->n[1]);
        for (int64_t j = first_copy(i, high, y->n[1]); j < to; j++) {
            const float *g = gy.d + (line / high * y->n[1] + j) * y->n[2] * gy.ld;
            for (int64_t k = 0; k < y->n[2]; k++, g += gy.ld)
                add_row(g, C, gx.d + (line * wide + k * wide / y->n[2]) * gx.ld);
        }
    }
    return 0;
}

int VEC(repeat_back)(Cx *cx, const Call *call)
{
    const int64_t n = tensor_rows(call->in[0]), total = tensor_rows(call->out),
                  C = tensor_channels(call->out);
    const Grad gy = grad(call->out), gx = grad(call->in[0]);
    PARALLEL_FOR(cx, moves(call))
    for (int64_t r = 0; r < (gx.d ? n : 0); r++)
        for (int64_t c = 0; c < C; c += VL) {
            V sum = {0};
            for (int64_t k = r; k < total; k += n)
                sum += ld_some(gy.d + k * gy.ld + c, C - c);
            float *to = gx.d + r * gx.ld + c;
            st_some(to, ld_some(to, C - c) + sum, C - c);
        }
    return 0;
}

int VEC(first_back)(Cx *cx, const Call *call)
{
    const Tensor *y = call->out;
    const int64_t S = tensor_rows(y) / y->n[0];
    const Grad gy = grad(y), to[2] = {grad(call->in[0]), grad(call->in[1])};
    PARALLEL_FOR(cx, moves(call))
    for (int64_t r = 0; r < tensor_rows(y); r++) {
        const Grad *g = &to[r / S % call->a.frames == 0];
        if (g->d)
            add_row(gy.d + r * gy.ld, tensor_channels(y), g->d + r * g->ld);
    }
    return 0;
}

/* ---- blend ------------------------------------------------------------------------------- */

enum { SHARE = 64 }; /* rows whose gy (a - b) are summed up by one thread */

size_t VEC(blend_back_scratch)(const Cx *cx, const Call *call)
{
    (void)cx;
    return round64((size_t)((tensor_rows(call->out) + SHARE - 1) / SHARE) * sizeof(double));
}

/* Rows [r0, r1) of gy (a - b). */
static double share_sum(const Call *call, const Grad *gy, int64_t r0, int64_t r1)
{
    const int64_t C = tensor_channels(call->out);
    double sum = 0;
    for (int64_t r = r0; r < r1; r++) {
        const float *a = row_at(call->in[0], r), *b = row_at(call->in[1], r), *g = gy->d + r * gy->ld;
        V s = {0};
        for (int64_t c = 0; c < C; c += VL)
            s += ld_some(g + c, C - c) * (ld_some(a + c, C - c) - ld_some(b + c, C - c));
        for (int i = 0; i < VL; i++)
            sum += s[i];
    }
    return sum;
}

int VEC(blend_back)(Cx *cx, const Call *call)
{
    const float *alpha = weight_floats(cx, call->w[0]);
    float *galpha = weight_grad(call->w[0]);
    const int64_t rows = tensor_rows(call->out), parts = (rows + SHARE - 1) / SHARE;
    double *part = (double *)call->tmp, sum = 0;
    if (!alpha)
        return cx->err->code;
    const float k = fminf(fmaxf(*alpha, 0), 1);
    const Grad gy = grad(call->out);
    for (int i = 0; i < 2; i++) {
        const Grad to = grad(call->in[i]);
        const V by = splat(i ? 1 - k : k);
        PARALLEL_FOR(cx, moves(call))
        for (int64_t r = 0; r < (to.d ? rows : 0); r++)
            add_part(gy.d + r * gy.ld, by, tensor_channels(call->out), to.d + r * to.ld);
    }
    if (!galpha || *alpha != k)
        return 0;
    PARALLEL_FOR(cx, moves(call))
    for (int64_t i = 0; i < parts; i++)
        part[i] = share_sum(call, &gy, i * SHARE, MIN(rows, (i + 1) * SHARE));
    for (int64_t i = 0; i < parts; i++)
        sum += part[i];
    *galpha += (float)sum;
    return 0;
}

/* ---- rotate ------------------------------------------------------------------------------ */

/* In scratch: tables as in the forward, then for each picture a sum per channel. */
size_t VEC(rotate_back_scratch)(const Cx *cx, const Call *call)
{
    const size_t W = 2 * (size_t)call->w[0]->n[0];
    return VEC(rotate_scratch)(cx, call) +
           (call->w[0]->trainable ? round64((size_t)call->out->n[0] * W * sizeof(float)) : 0);
}

/* Sums over picture p: gy[2i+1] y[2i] at channel 2i, -gy[2i] y[2i+1] at 2i+1, y being x turned. */
static void turn_sums(const Call *call, const Grad *gy, int64_t p, const float *co, const float *si,
                      float *out)
{
    const int64_t W = 2 * call->w[0]->n[0], S = tensor_rows(call->out) / call->out->n[0];
    for (int64_t c = 0; c < W; c += VL) {
        const int64_t n = W - c;
        const V cosines = ld_some(co + c, n), sines = ld_some(si + c, n);
        V sum = {0}, sign;
        for (int i = 0; i < VL; i++)
            sign[i] = i % 2 ? -1.0f : 1.0f;
        for (int64_t r = p * S; r < (p + 1) * S; r++) {
            const V x = ld_some(row_at(call->in[0], r) + c, n), g = ld_some(gy->d + r * gy->ld + c, n);
            sum += (x * cosines + swap_pairs(x) * sines) * swap_pairs(g);
        }
        st_some(out + c, sum * sign, n);
    }
}

static void turn_back(const float *g, const float *co, const float *si, int64_t W, int64_t C, float *to)
{
    for (int64_t c = 0; c < W; c += VL) {
        const V v = ld_some(g + c, W - c);
        const V back = v * ld_some(co + c, W - c) - swap_pairs(v) * ld_some(si + c, W - c);
        st_some(to + c, ld_some(to + c, W - c) + back, W - c);
    }
    add_row(g + W, C - W, to + W);
}

int VEC(rotate_back)(Cx *cx, const Call *call)
{
    const Tensor *y = call->out;
    const int64_t W = 2 * call->w[0]->n[0], S = tensor_rows(y) / y->n[0], F = call->a.frames;
    const float *w = weight_floats(cx, call->w[0]), *co = (const float *)call->tmp;
    float *gw = weight_grad(call->w[0]);
    const float *si = co + VEC(rotate_scratch)(cx, call) / 2 / sizeof(float);
    float *sums = (float *)(call->tmp + VEC(rotate_scratch)(cx, call));
    const Grad gy = grad(y), gx = grad(call->in[0]);
    if (!w)
        return cx->err->code;
    VEC(rotate_tables)(call, w);
    PARALLEL_FOR(cx, moves(call))
    for (int64_t r = 0; r < (gx.d ? tensor_rows(y) : 0); r++)
        turn_back(gy.d + r * gy.ld, co + r / S % F * W, si + r / S % F * W, W, tensor_channels(y),
                  gx.d + r * gx.ld);
    PARALLEL_FOR(cx, moves(call))
    for (int64_t p = 0; p < (gw ? y->n[0] : 0); p++)
        turn_sums(call, &gy, p, co + p % F * W, si + p % F * W, sums + p * W);
    for (int64_t i = 0; i < (gw ? W / 2 : 0); i++) {
        double sum = 0;
        for (int64_t p = 0; p < y->n[0]; p++)
            sum += (double)(p % F) * ((double)sums[p * W + 2 * i] + (double)sums[p * W + 2 * i + 1]);
        gw[i] += (float)sum;
    }
    return 0;
}
