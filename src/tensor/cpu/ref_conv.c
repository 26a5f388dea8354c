/* ref_conv.c: convolution and linear, the meaning.
 *
 *     z[n,y,x,o] = sum over i,u,v of X[n, y*stride + u - top, x*stride + v - left, i] * w[o,i,u,v]
 *     out = act(z + bias + row[r / row_per]) * scale + add
 *
 * A linear is the same with 1x1 taps on one picture of 1 x rows, a convolution over time the same with k x 1
 * taps on one picture of frames x pixels per clip. Rows r are pixels in memory order. Sums in double.
 * Backward makes the gradient gz of z first (epilogue_back), then gathers: every value has one owner, so that
 * any number of threads gives the same bytes. */
#include "tensor/cpu/ref.h"

/* x*w at output pixel r, without bias. */
static void one_pixel(const ConvShape *s, const float *x, const float *w, int64_t r, float *z)
{
    const int64_t n = r / (s->Ho * s->Wo), top = r / s->Wo % s->Ho * s->stride - s->pad[0],
                  left = r % s->Wo * s->stride - s->pad[2], taps = s->kh * s->kw;
    for (int64_t o = 0; o < s->wide; o++) {
        double sum = 0;
        for (int64_t u = MAX(0, -top); u < MIN(s->kh, s->H - top); u++)
            for (int64_t v = MAX(0, -left); v < MIN(s->kw, s->W - left); v++) {
                const float *in = x + ((n * s->H + top + u) * s->W + left + v) * s->ld;
                const float *tap = w + o * s->I * taps + u * s->kw + v;
                for (int64_t i = 0; i < s->I; i++)
                    sum += (double)in[i] * tap[i * taps];
            }
        z[o] = (float)sum;
    }
}

int ref_conv(Cx *cx, const Call *call)
{
    const ConvShape s = conv_shape(call);
    const bool halves = call->epi.act == ACT_GEGLU;
    const float *w = weight_floats(cx, call->w[0]), *bias = NULL;
    if (call->epi.bias && weight_given(call->epi.bias))
        bias = weight_floats(cx, call->epi.bias);
    if (cx_failed(cx))
        return cx->err->code;
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t r = 0; r < tensor_rows(call->out); r++) {
        float *z =
            halves ? thread_scratch(call, round64((size_t)s.wide * sizeof(float))) : row_at(call->out, r);
        one_pixel(&s, call->in[0]->d, w, r, z);
        epilogue_rows(call, z, s.wide, r, 1, bias);
    }
    return 0;
}

double act_value(Act act, double x)
{
    switch (act) {
    case ACT_SILU:
        return x / (1 + exp(-x));
    case ACT_GELU:
        return 0.5 * x * (1 + erf(x * M_SQRT1_2));
    case ACT_QUICK_GELU:
        return x / (1 + exp(-1.702 * x));
    default:
        return x;
    }
}

double act_slope(Act act, double x)
{
    const double k = act == ACT_QUICK_GELU ? 1.702 : 1.0, sigmoid = 1 / (1 + exp(-k * x));
    switch (act) {
    case ACT_SILU:
    case ACT_QUICK_GELU:
        return sigmoid * (1 + k * x * (1 - sigmoid));
    case ACT_GELU:
        return 0.5 * (1 + erf(x * M_SQRT1_2)) + x * exp(-0.5 * x * x) / sqrt(2 * M_PI);
    default:
        return 1;
    }
}

/* z of one row, without bias, becomes its gradient; gy is the gradient of the row's out. */
static void row_back(const Epi *e, const float *bias, const float *row, const float *gy, int64_t C, float *z)
{
    const double scale = e->scale != 0 ? e->scale : 1;
    for (int64_t c = 0; c < C; c++) {
        const double g = gy[c] * scale;
        if (e->act == ACT_NONE) {
            z[c] = (float)g;
            continue;
        }
        const double a = (double)z[c] + (bias ? bias[c] : 0) + (row ? row[c] : 0);
        if (e->act != ACT_GEGLU) {
            z[c] = (float)(g * act_slope(e->act, a));
            continue;
        }
        const double gate = (double)z[C + c] + (bias ? bias[C + c] : 0) + (row ? row[C + c] : 0);
        z[c] = (float)(g * act_value(ACT_GELU, gate));
        z[C + c] = (float)(g * a * act_slope(ACT_GELU, gate));
    }
}

/* out[c] += sum over rows [from, to) of z[r,c] */
static void sum_rows(const float *z, int64_t wide, int64_t from, int64_t to, int64_t c, float *out)
{
    double sum = 0;
    for (int64_t r = from; r < to; r++)
        sum += z[r * wide + c];
    out[c] += (float)sum;
}

void epilogue_back(Cx *cx, const Call *call, float *z)
{
    const Epi *e = &call->epi;
    const int64_t wide = call->w[0]->n[0], C = tensor_channels(call->out), rows = tensor_rows(call->out);
    int64_t ld = 0, ld_add = 0, ld_row = 0;
    const float *gy = grad_of(call->out, &ld);
    float *gadd = e->add ? grad_of(e->add, &ld_add) : NULL, *grow = e->row ? grad_of(e->row, &ld_row) : NULL;
    float *gbias = weight_grad(e->bias);
    const float *bias = e->bias && weight_given(e->bias) ? weight_floats(cx, e->bias) : NULL;
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t r = 0; r < rows; r++) {
        row_back(e, bias, e->row ? row_at(e->row, r / e->row_per) : NULL, gy + r * ld, C, z + r * wide);
        for (int64_t c = 0; gadd && c < C; c++)
            gadd[r * ld_add + c] += gy[r * ld + c];
    }
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t c = 0; c < wide; c++) {
        if (gbias)
            sum_rows(z, wide, 0, rows, c, gbias);
        for (int64_t k = 0; grow && k * e->row_per < rows; k++)
            sum_rows(z, wide, k * e->row_per, MIN(rows, (k + 1) * e->row_per), c, grow + k * ld_row);
    }
}

/* Output position on one axis whose tap t reads input position p, or -1. */
static int64_t reader(int64_t p, int64_t t, int pad, int stride, int64_t count)
{
    const int64_t at = p + pad - t;
    return at >= 0 && at % stride == 0 && at / stride < count ? at / stride : -1;
}

/* gx of one input pixel p: every output that read it. */
static void input_back(const ConvShape *s, const float *w, const float *gz, int64_t p, float *gx)
{
    const int64_t n = p / (s->H * s->W), row = p / s->W % s->H, col = p % s->W, taps = s->kh * s->kw;
    for (int64_t i = 0; i < s->I; i++) {
        double sum = 0;
        for (int64_t u = 0; u < s->kh; u++)
            for (int64_t v = 0; v < s->kw; v++) {
                const int64_t y = reader(row, u, s->pad[0], s->stride, s->Ho);
                const int64_t x = reader(col, v, s->pad[2], s->stride, s->Wo);
                if (y < 0 || x < 0)
                    continue;
                const float *g = gz + ((n * s->Ho + y) * s->Wo + x) * s->wide;
                const float *tap = w + i * taps + u * s->kw + v;
                for (int64_t o = 0; o < s->wide; o++)
                    sum += (double)g[o] * tap[o * s->I * taps];
            }
        gx[i] += (float)sum;
    }
}

/* gw of one output channel o: [I,kh,kw]. */
static void weight_back(const ConvShape *s, const float *x, const float *gz, int64_t o, float *gw)
{
    for (int64_t i = 0; i < s->I; i++)
        for (int64_t u = 0; u < s->kh; u++)
            for (int64_t v = 0; v < s->kw; v++) {
                double sum = 0;
                for (int64_t r = 0; r < s->N * s->Ho * s->Wo; r++) {
                    const int64_t n = r / (s->Ho * s->Wo),
                                  row = r / s->Wo % s->Ho * s->stride + u - s->pad[0],
                                  col = r % s->Wo * s->stride + v - s->pad[2];
                    if (row >= 0 && row < s->H && col >= 0 && col < s->W)
                        sum += (double)gz[r * s->wide + o] * x[((n * s->H + row) * s->W + col) * s->ld + i];
                }
                gw[(i * s->kh + u) * s->kw + v] += (float)sum;
            }
}

int ref_conv_back(Cx *cx, const Call *call)
{
    const ConvShape s = conv_shape(call);
    const float *x = call->in[0]->d, *w = weight_floats(cx, call->w[0]);
    float *gz = (float *)call->tmp, *gw = weight_grad(call->w[0]);
    int64_t ldg = 0;
    float *gx = grad_of(call->in[0], &ldg);
    if (!w)
        return cx->err->code;
    if (epilogue_needs_z(call)) {
        PARALLEL_FOR(cx, HEAVY)
        for (int64_t r = 0; r < tensor_rows(call->out); r++)
            one_pixel(&s, x, w, r, gz + r * s.wide);
    }
    epilogue_back(cx, call, gz);
    if (cx_failed(cx))
        return cx->err->code;
    if (gx) {
        PARALLEL_FOR(cx, HEAVY)
        for (int64_t p = 0; p < s.N * s.H * s.W; p++)
            input_back(&s, w, gz, p, gx + p * ldg);
    }
    if (gw) {
        PARALLEL_FOR(cx, HEAVY)
        for (int64_t o = 0; o < s.wide; o++)
            weight_back(&s, x, gz, o, gw + o * s.I * s.kh * s.kw);
    }
    return 0;
}
