/* dnn_back.c: gradients of convolution and linear as matrix products, tap by tap.
 *
 * With gz the gradient of z = x*w [pixels, O], and w_t [O, I] the weights of tap t = (u, v):
 *
 *     gx[p + shift(t)] += gz[p] * w_t          gw_t += gz' * x[. + shift(t)]
 *
 * gx is owned by its picture (or tile of rows), gw by a tap and a band of output channels: sums run in one
 * order on any number of threads. A linear has one tap and no shift; then products add into the gradients
 * directly. */
#include "tensor/cpu/dnn.h"

enum { ROWS = 256, OUT_BAND = 64 };

typedef struct {
    const Call *call;
    ConvShape s;
    int64_t taps, rows; /* rows: of the result */
    float *gz;          /* [rows, wide] */
    float *w;           /* [taps, wide, I]; a linear's weight itself */
    char *room; /* per thread `each` bytes: one picture of pixels x I (gx), or rows x I of a tap (gw) */
    size_t each;
    float *gx, *gw;
    int64_t ldx;
} Job;

static Job job_of(const Call *call)
{
    Job j = {.call = call, .s = conv_shape(call), .rows = tensor_rows(call->out)};
    if (is_linear(call))
        j.s = (ConvShape){.N = 1,
                          .H = 1,
                          .W = j.rows,
                          .I = j.s.I,
                          .Ho = 1,
                          .Wo = j.rows,
                          .wide = j.s.wide,
                          .kh = 1,
                          .kw = 1,
                          .ld = j.s.ld,
                          .stride = 1};
    j.taps = j.s.kh * j.s.kw;
    j.each = is_linear(call) ? 0 : round64((size_t)(j.s.Ho * j.s.Wo * j.s.I) * sizeof(float));
    return j;
}

static size_t gz_bytes(const Job *j)
{
    return round64((size_t)(j->rows * j->s.wide) * sizeof(float));
}
static size_t w_bytes(const Job *j)
{
    return is_linear(j->call) ? 0 : round64((size_t)(j->taps * j->s.wide * j->s.I) * sizeof(float));
}

size_t dnn_back_scratch(const Cx *cx, const Call *call)
{
    const Job j = job_of(call);
    size_t again = 0;
    if (epilogue_needs_z(call) && !is_linear(call) && !dnn_conv_scratch(cx, call, true, &again))
        return 0;
    return gz_bytes(&j) + w_bytes(&j) + MAX(again, (size_t)cx->threads * j.each);
}

/* The pixel of picture n that tap t of output pixel (y, x) reads, or -1. */
static int64_t tap_source(const ConvShape *s, int64_t n, int64_t t, int64_t y, int64_t x)
{
    const int64_t row = y * s->stride + t / s->kw - s->pad[0], col = x * s->stride + t % s->kw - s->pad[2];
    return row < 0 || col < 0 || row >= s->H || col >= s->W ? -1 : (n * s->H + row) * s->W + col;
}

static bool input_back(const Job *j, int64_t n, float *part)
{
    const ConvShape *s = &j->s;
    const int64_t pixels = s->Ho * s->Wo;
    for (int64_t t = 0; t < j->taps; t++) {
        if (dnnl_sgemm('N', 'N', pixels, s->I, s->wide, 1.0f, j->gz + n * pixels * s->wide, s->wide,
                       j->w + t * s->wide * s->I, s->I, 0.0f, part, s->I))
            return false;
        for (int64_t p = 0; p < pixels; p++) {
            const int64_t source = tap_source(s, n, t, p / s->Wo, p % s->Wo);
            float *gx = j->gx + source * j->ldx;
            for (int64_t i = 0; source >= 0 && i < s->I; i++)
                gx[i] += part[p * s->I + i];
        }
    }
    return true;
}

/* Tap t, output channels [o, o + n) of gw. gw is [O, I, taps]: the product goes to `sum` [n, I] first. */
static bool tap_back(const Job *j, int64_t t, int64_t o, int64_t count, float *x, float *sum)
{
    const ConvShape *s = &j->s;
    const int64_t pixels = s->Ho * s->Wo;
    for (int64_t n = 0; n < s->N; n++) {
        for (int64_t p = 0; p < pixels; p++) {
            const int64_t source = tap_source(s, n, t, p / s->Wo, p % s->Wo);
            if (source < 0)
                memset(x + p * s->I, 0, (size_t)s->I * sizeof(float));
            else
                memcpy(x + p * s->I, row_at(j->call->in[0], source), (size_t)s->I * sizeof(float));
        }
        if (dnnl_sgemm('T', 'N', count, s->I, pixels, 1.0f, j->gz + n * pixels * s->wide + o, s->wide, x,
                       s->I, n ? 1.0f : 0.0f, sum, s->I))
            return false;
    }
    for (int64_t k = 0; k < count; k++)
        for (int64_t i = 0; i < s->I; i++)
            j->gw[((o + k) * s->I + i) * j->taps + t] += sum[k * s->I + i];
    return true;
}

static bool linear_back(Cx *cx, const Job *j)
{
    const ConvShape *s = &j->s;
    atomic_int failed = 0;
    if (j->gx) {
        PARALLEL_TILES(cx, HEAVY)
        for (int64_t r = 0; r < j->rows; r += ROWS) {
            const DnnGuard was = dnn_enter(1);
            if (dnnl_sgemm('N', 'N', MIN(ROWS, j->rows - r), s->I, s->wide, 1.0f, j->gz + r * s->wide,
                           s->wide, j->w, s->I, 1.0f, j->gx + r * j->ldx, j->ldx))
                atomic_store(&failed, 1);
            dnn_leave(was);
        }
    }
    if (j->gw) {
        PARALLEL_TILES(cx, HEAVY)
        for (int64_t o = 0; o < s->wide; o += OUT_BAND) {
            const DnnGuard was = dnn_enter(1);
            if (dnnl_sgemm('T', 'N', MIN(OUT_BAND, s->wide - o), s->I, j->rows, 1.0f, j->gz + o, s->wide,
                           j->call->in[0]->d, s->ld, 1.0f, j->gw + o * s->I, s->I))
                atomic_store(&failed, 1);
            dnn_leave(was);
        }
    }
    return !failed;
}

static bool conv_back(Cx *cx, const Job *j)
{
    const ConvShape *s = &j->s;
    const int64_t bands = (s->wide + OUT_BAND - 1) / OUT_BAND;
    atomic_int failed = 0;
    if (j->gx) {
        PARALLEL_TILES(cx, HEAVY)
        for (int64_t n = 0; n < s->N; n++) {
            const DnnGuard was = dnn_enter(1);
            if (!input_back(j, n, (float *)(j->room + (size_t)omp_get_thread_num() * j->each)))
                atomic_store(&failed, 1);
            dnn_leave(was);
        }
    }
    /* the taps' weights are no longer needed: their room holds the sums */
    if (j->gw) {
        PARALLEL_TILES(cx, HEAVY)
        for (int64_t i = 0; i < j->taps * bands; i++) {
            const int64_t t = i / bands, o = i % bands * OUT_BAND;
            const DnnGuard was = dnn_enter(1);
            if (!tap_back(j, t, o, MIN(OUT_BAND, s->wide - o),
                          (float *)(j->room + (size_t)omp_get_thread_num() * j->each),
                          j->w + (t * s->wide + o) * s->I))
                atomic_store(&failed, 1);
            dnn_leave(was);
        }
    }
    return !failed;
}

/* [O, I, taps] to [taps, O, I] */
static void spread_taps(Cx *cx, const Job *j, const float *w)
{
    const int64_t O = j->s.wide, I = j->s.I;
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t o = 0; o < O; o++)
        for (int64_t i = 0; i < I; i++)
            for (int64_t t = 0; t < j->taps; t++)
                j->w[(t * O + o) * I + i] = w[(o * I + i) * j->taps + t];
}

int dnn_back(Cx *cx, const Call *call)
{
    Job j = job_of(call);
    const float *w = weight_floats(cx, call->w[0]);
    j.gz = (float *)call->tmp;
    j.room = call->tmp + gz_bytes(&j) + w_bytes(&j);
    if (!w)
        return cx->err->code;
    if (epilogue_needs_z(call))
        TRY(is_linear(call) ? dnn_linear_plain(cx, call, j.gz) : dnn_conv_plain(cx, call, j.gz, j.room));
    epilogue_back(cx, call, j.gz);
    if (cx_failed(cx))
        return cx->err->code;
    j.gx = grad_of(call->in[0], &j.ldx);
    j.gw = weight_grad(call->w[0]);
    j.w = is_linear(call) ? (float *)w : (float *)(call->tmp + gz_bytes(&j));
    if (!is_linear(call))
        spread_taps(cx, &j, w);
    if (!(is_linear(call) ? linear_back(cx, &j) : conv_back(cx, &j)))
        cx_fail(cx, GIMBAL_ENOMEM, "gradient of %s: oneDNN failed to run", call->w[0]->name);
    return cx_failed(cx) ? cx->err->code : 0;
}
