/* product_back.c: gradients of convolutions and linears, y = act(z + bias + row) * scale + add, z = x*w:
 *
 *     gz = gy * scale * act'(z + bias + row)      gadd += gy      gbias, grow += sums of gz over rows
 *     gx += gz * w turned around                  gw += gz' * x   (weight_back.c)
 *
 * Without activation and scale gz is gy where it lies. The second line's first product is a call of the
 * forward's kind, that adds to what gx holds: for a linear with the weight not transposed, for a convolution
 * of stride 1 with taps rotated, so that Winograd serves it too. With a larger stride the input falls into
 * stride x stride phases, each of which sees some of the taps only: as many such calls, whose results are
 * then added where they belong.
 *
 * What wants no gradient costs nothing. Knows the epilogue and how a product is turned around. Refuses to
 * know how it is done. */
#include "tensor/cpu/vec/epilogue.h"
#include "tensor/cpu/vec/sums.h"
#include "tensor/cpu/vec/winograd.h"

enum {
    MOST_SUMS = 32 << 20, /* floats of Winograd's sums for a weight */
    LEAST_PIXELS = 256,   /* of all pictures, that are worth them */
};

/* A call that makes the input's gradient, or a phase of it, and what it points to. */
typedef struct {
    Call call;
    Turn turn;
    Weight w;
    Tensor gz, to;
    int64_t first[2]; /* line and place of the input at which the phase begins */
} Turned;

/* In scratch: gz unless it is gy, then room for one thing after the other. */
typedef struct {
    const Call *call;
    ConvShape s;
    int64_t rows;
    int phases; /* on either axis */
    bool copies, wants_x, wants_w, wants_sums;
    size_t gz, part; /* bytes: of gz; of a phase's result */
} Job;

/* ---- shapes ------------------------------------------------------------------------------ */

static bool grows(const Tensor *t)
{
    return t && (t->base ? t->base : t)->need_grad;
}

static bool trained(const Weight *w)
{
    return w && w->trainable;
}

/* Whether the weight's gradient is made by Winograd's transforms: four times faster, but with sums of four
 * times the weight's size, which few pictures do not pay for. */
static bool by_winograd(const Call *call)
{
    const ConvShape s = conv_shape(call);
    return VEC(winograd_takes)(call) && s.I * s.wide <= MOST_SUMS / PLACES &&
           s.N * s.Ho * s.Wo >= LEAST_PIXELS;
}

static Job job_of(const Call *call)
{
    const Epi *e = &call->epi;
    Job j = {.call = call, .s = conv_shape(call), .rows = tensor_rows(call->out)};
    j.phases = j.s.stride;
    j.copies = e->act != ACT_NONE || (e->scale != 0 && e->scale != 1);
    j.wants_x = grows(call->in[0]), j.wants_w = trained(call->w[0]);
    j.wants_sums = trained(e->bias) || grows(e->row);
    j.gz = j.copies ? round64((size_t)(j.rows * j.s.wide) * sizeof(float)) : 0;
    const ConvShape *s = &j.s; /* the largest phase */
    const int64_t high = (s->H + s->stride - 1) / s->stride, across = (s->W + s->stride - 1) / s->stride;
    j.part = j.phases > 1 ? round64((size_t)(s->N * high * across * s->I) * sizeof(float)) : 0;
    return j;
}

/* t's shape with other channels and memory. */
static Tensor like(const Tensor *t, int64_t channels, float *d, int64_t stride)
{
    Tensor l = *t;
    l.n[l.nd - 1] = channels, l.d = d, l.ld = stride;
    l.base = NULL, l.grad = NULL;
    return l;
}

/* x*w alone, to z. */
static Call plain_call(const Call *call, Tensor *z)
{
    Call c = *call;
    c.epi = (Epi){.bias = NULL};
    c.out = z;
    return c;
}

/* One axis of phase a: of `size` inputs those at first, first + stride, ... see taps a, a + stride, ...; with
 * m = (input + pad - a) / stride they read gz[m - k] by tap a + k stride. *pad is of the turned call. */
typedef struct {
    int64_t first, count, taps, pad;
} Phase;

static Phase phase_of(int64_t size, int64_t kernel, int pad, int64_t stride, int64_t a)
{
    Phase p = {.taps = a < kernel ? (kernel - a + stride - 1) / stride : 0};
    const int64_t m = pad > a ? (pad - a + stride - 1) / stride : 0;
    p.first = m * stride + a - pad;
    p.count = p.first < size ? (size - p.first + stride - 1) / stride : 0;
    p.pad = p.taps - 1 - m;
    return p;
}

/* The call for phase (a, b). gz.d and to.d are the caller's business. False: no tap sees it. */
static bool turn_call(const Job *j, int64_t a, int64_t b, Turned *t)
{
    const Call *call = j->call;
    const ConvShape *s = &j->s;
    const Phase y = phase_of(s->H, s->kh, s->pad[0], s->stride, a),
                x = phase_of(s->W, s->kw, s->pad[2], s->stride, b);
    if (y.taps < 1 || x.taps < 1 || y.count < 1 || x.count < 1)
        return false;
    t->turn = (Turn){.taps = s->kh * s->kw,
                     .wide = s->kw,
                     .y = a + (y.taps - 1) * s->stride,
                     .x = b + (x.taps - 1) * s->stride,
                     .step = s->stride};
    t->first[0] = y.first, t->first[1] = x.first;
    t->w = *call->w[0];
    t->w.n[0] = s->I, t->w.n[1] = s->wide;
    t->gz = like(call->out, s->wide, NULL, s->wide);
    t->to = like(call->in[0], s->I, NULL, s->I);
    t->call =
        (Call){.op = call->op, .in = {&t->gz}, .n_in = 1, .w = {&t->w}, .out = &t->to, .flops = call->flops};
    if (call->op == OP_CONVT)
        t->call.a.frames = call->a.frames;
    if (call->op == OP_CONV2D) {
        t->w.n[2] = y.taps, t->w.n[3] = x.taps;
        t->to.n[1] = y.count, t->to.n[2] = x.count;
        t->call.a.conv.stride = 1;
        t->call.a.conv.pad[0] = (int)y.pad, t->call.a.conv.pad[2] = (int)x.pad;
        t->call.a.conv.pad[1] = (int)(y.count + y.taps - 1 - s->Ho - y.pad);
        t->call.a.conv.pad[3] = (int)(x.count + x.taps - 1 - s->Wo - x.pad);
    }
    return true;
}

static RowSums sums_of(const Job *j, const Tensor *gz)
{
    const int64_t per = grows(j->call->epi.row) ? j->call->epi.row_per : j->rows;
    return (RowSums){.g = gz->d, .ld = gz->ld, .rows = j->rows, .C = j->s.wide, .per = per};
}

size_t VEC(product_back_scratch)(const Cx *cx, const Call *call)
{
    const Job j = job_of(call);
    Tensor z = like(call->out, j.s.wide, NULL, j.s.wide);
    const RowSums sums = sums_of(&j, &z);
    const Call plain = plain_call(call, &z);
    size_t most = call->epi.act != ACT_NONE ? VEC(multiply_scratch)(cx, &plain, NULL) : 0;
    for (int i = 0; j.wants_x && i < j.phases * j.phases; i++) {
        Turned t;
        if (turn_call(&j, i / j.phases, i % j.phases, &t))
            most = MAX(most, j.part + VEC(multiply_scratch)(cx, &t.call, &t.turn));
    }
    if (j.wants_w)
        most = MAX(most, by_winograd(call) ? VEC(winograd_back_scratch)(cx, call)
                                           : VEC(weight_back_scratch)(cx, call));
    if (j.wants_sums)
        most = MAX(most, sum_bytes(&sums));
    return j.gz + most;
}

/* ---- the epilogue ------------------------------------------------------------------------ */

static V slope_of(Act act, V x)
{
    V value;
    return act == ACT_SILU         ? silu_slope_v(x)
           : act == ACT_GELU       ? gelu_slope_v(x, &value)
           : act == ACT_QUICK_GELU ? quick_gelu_slope_v(x)
                                   : splat(1);
}

/* z of one row, without bias, becomes its gradient. C: channels of the result. */
static void slope_row(const Tail *t, const float *row, const float *gy, int64_t C, float *z)
{
    for (int64_t c = 0; c < C; c += VL) {
        const int64_t n = C - c;
        V g = ld_some(gy + c, n) * t->scale;
        if (t->act != ACT_NONE) {
            const V a = tail_sum(t, ld_some(z + c, n), row, c, n);
            if (t->act == ACT_GEGLU) {
                V value;
                const V slope = gelu_slope_v(tail_sum(t, ld_some(z + C + c, n), row, C + c, n), &value);
                st_some(z + C + c, g * a * slope, n);
                g *= value;
            } else {
                g *= slope_of(t->act, a);
            }
        }
        st_some(z + c, g, n);
    }
}

/* Makes gz in scratch, where it is not gy itself. */
static int make_gz(Cx *cx, const Job *j, const float *gy, int64_t ldy, Tensor *gz)
{
    const Call *call = j->call;
    const Epi *e = &call->epi;
    *gz =
        like(call->out, j->s.wide, j->copies ? (float *)call->tmp : (float *)gy, j->copies ? j->s.wide : ldy);
    if (!j->copies)
        return 0;
    if (e->act != ACT_NONE) {
        Call plain = plain_call(call, gz);
        plain.tmp = call->tmp + j->gz;
        TRY(VEC(multiply)(cx, &plain, NULL));
    }
    const float *bias = e->bias && weight_given(e->bias) ? weight_floats(cx, e->bias) : NULL;
    if (cx_failed(cx))
        return cx->err->code;
    const Tail t = tail_of(call, bias);
    PARALLEL_FOR(cx, MAX(NS_MOVE, NS_FLOP * 2 * (double)j->s.I) * (double)(j->rows * j->s.wide))
    for (int64_t r = 0; r < j->rows; r++)
        slope_row(&t, e->row ? row_at(e->row, r / e->row_per) : NULL, gy + r * ldy,
                  tensor_channels(call->out), row_at(gz, r));
    return 0;
}

/* gadd += gy */
static void add_back(const Cx *cx, const Job *j, const float *gy, int64_t ldy)
{
    const int64_t C = tensor_channels(j->call->out);
    int64_t ldt = 0;
    float *to = j->call->epi.add ? grad_of(j->call->epi.add, &ldt) : NULL;
    PARALLEL_FOR(cx, NS_MOVE * (double)(j->rows * C))
    for (int64_t r = 0; r < (to ? j->rows : 0); r++)
        for (int64_t c = 0; c < C; c += VL)
            st_some(to + r * ldt + c, ld_some(to + r * ldt + c, C - c) + ld_some(gy + r * ldy + c, C - c),
                    C - c);
}

static void sums_back(const Cx *cx, const Job *j, const Tensor *gz)
{
    const Epi *e = &j->call->epi;
    const RowSums s = sums_of(j, gz);
    float *parts = (float *)(j->call->tmp + j->gz), *gbias = weight_grad(e->bias);
    int64_t ldr = 0;
    float *grow = e->row ? grad_of(e->row, &ldr) : NULL;
    sum_parts(cx, &s, NS_MOVE * (double)(j->rows * j->s.wide), parts);
    if (gbias)
        sum_up(&s, parts, 0, 1, gbias);
    for (int64_t k = 0; grow && k < sum_blocks(&s); k++)
        sum_up(&s, parts, k, sum_blocks(&s), grow + k * ldr);
}

/* ---- the input --------------------------------------------------------------------------- */

/* Adds a phase's result where it belongs. */
static void spread(const Cx *cx, const Job *j, const Turned *t, float *gx, int64_t ldx)
{
    const ConvShape *s = &j->s;
    const int64_t high = t->to.n[1], across = t->to.n[2];
    PARALLEL_FOR(cx, NS_MOVE * (double)tensor_count(&t->to))
    for (int64_t line = 0; line < s->N * high; line++) {
        const int64_t y = t->first[0] + line % high * s->stride;
        for (int64_t k = 0; k < across; k++) {
            const float *from = row_at(&t->to, line * across + k);
            float *to = gx + ((line / high * s->H + y) * s->W + t->first[1] + k * s->stride) * ldx;
            for (int64_t c = 0; c < s->I; c += VL)
                st_some(to + c, ld_some(to + c, s->I - c) + ld_some(from + c, s->I - c), s->I - c);
        }
    }
}

static int input_back(Cx *cx, const Job *j, const Tensor *gz, float *gx, int64_t ldx)
{
    char *room = j->call->tmp + j->gz;
    for (int i = 0; i < j->phases * j->phases; i++) {
        Turned t;
        if (!turn_call(j, i / j->phases, i % j->phases, &t))
            continue;
        t.gz.d = gz->d, t.gz.ld = gz->ld;
        t.call.tmp = room + j->part;
        if (j->phases == 1) {
            t.to.d = gx, t.to.ld = ldx;
            t.call.epi.add = &t.to;
        } else {
            t.to.d = (float *)room;
        }
        TRY(VEC(multiply)(cx, &t.call, &t.turn));
        if (j->phases > 1)
            spread(cx, j, &t, gx, ldx);
    }
    return 0;
}

int VEC(product_back)(Cx *cx, const Call *call)
{
    const Job j = job_of(call);
    int64_t ldy = 0, ldx = 0;
    const float *gy = grad_of(call->out, &ldy);
    float *gx = grad_of(call->in[0], &ldx), *gw = weight_grad(call->w[0]);
    Tensor gz;
    TRY(make_gz(cx, &j, gy, ldy, &gz));
    add_back(cx, &j, gy, ldy);
    if (j.wants_sums)
        sums_back(cx, &j, &gz);
    if (gx)
        TRY(input_back(cx, &j, &gz, gx, ldx));
    if (gw)
        (by_winograd(call) ? VEC(winograd_back) : VEC(weight_back))(cx, call, &gz, gw, call->tmp + j.gz);
    return 0;
}
