/* dnn_conv.c: convolution by oneDNN's direct kernels, one tile at a time.
 *
 * A tile is one picture, or a band of its output rows when there are too few pictures to share among threads
 * or the band would not stay in the cache. A band reads the input rows under it; what its taps see beyond the
 * picture is padding of its own, so that bands at the top, in the middle and at the bottom are different
 * primitives:
 *
 *     rows y0..y1 of the result read rows y0*s - top .. (y1-1)*s - top + kh of the picture
 *
 * Inputs with a row stride are copied to a dense band first (oneDNN's fast kernels want dense channels-last).
 */
#include "tensor/cpu/dnn.h"

enum { BANDS = 128, WANTED_TILES = 16, BAND_BYTES = 4 << 20, LEAST_ROWS = 4 };

typedef struct {
    int64_t y0, y1, in0, in1; /* rows of the result and of the picture, ends excluded */
    Conv *conv;
} Band;

typedef struct {
    const Call *call;
    ConvShape s;
    Band band[BANDS];
    int bands;
    bool dense;                               /* the input has no row stride */
    size_t scratchpad, copy, z, each, packed; /* bytes: per thread, their sum, and of a laid-out weight */
    float *out;                               /* where x*w goes, or NULL: the result or a tile's z */
    dnnl_memory_t weights[BANDS];
    bool owned[BANDS];
    const float *bias;
} Job;

static int64_t rows_per_band(const ConvShape *s)
{
    const int64_t most = (int64_t)BAND_BYTES / (4 * s->Wo * (s->wide + s->I * s->stride * s->stride));
    const int64_t wanted = (WANTED_TILES + s->N - 1) / s->N;
    int64_t rows = MIN((s->Ho + wanted - 1) / wanted, MAX(most, LEAST_ROWS));
    rows = MAX(rows, LEAST_ROWS);
    return MAX(rows, (s->Ho + BANDS - 1) / BANDS);
}

static ConvKey band_key(const ConvShape *s, Band *b, bool bias)
{
    const int64_t from = b->y0 * s->stride - s->pad[0], to = (b->y1 - 1) * s->stride - s->pad[0] + s->kh;
    b->in0 = MAX(0, from), b->in1 = MIN(s->H, to);
    return (ConvKey){.H = b->in1 - b->in0,
                     .W = s->W,
                     .I = s->I,
                     .Ho = b->y1 - b->y0,
                     .Wo = s->Wo,
                     .O = s->wide,
                     .kh = s->kh,
                     .kw = s->kw,
                     .stride = s->stride,
                     .top = b->in0 - from,
                     .bottom = to - b->in1,
                     .left = s->pad[2],
                     .right = (s->Wo - 1) * s->stride + s->kw - s->W - s->pad[2],
                     .bias = bias};
}

static void job_release(Job *j)
{
    for (int i = 0; i < j->bands; i++) {
        if (j->owned[i] && j->weights[i] && (i == 0 || j->weights[i] != j->weights[i - 1]))
            dnnl_memory_destroy(j->weights[i]);
        conv_release(j->band[i].conv);
    }
}

/* Cuts the call and finds its primitives. False: oneDNN has no good kernel. Release it either way. */
static bool job_make(Job *j, const Call *call, bool bias, bool plain, bool ready)
{
    *j = (Job){.call = call, .s = conv_shape(call)};
    const ConvShape *s = &j->s;
    const int64_t rows = rows_per_band(s);
    j->dense = s->ld == s->I;
    for (int64_t y = 0; y < s->Ho; y += rows) {
        Band *b = &j->band[j->bands++];
        *b = (Band){.y0 = y, .y1 = MIN(s->Ho, y + rows)};
        const ConvKey key = band_key(s, b, bias);
        if (key.H <= 0 || !(b->conv = conv_acquire(&key, ready)))
            return false;
        j->scratchpad = MAX(j->scratchpad, round64(b->conv->scratch));
        j->packed = MAX(j->packed, round64(b->conv->packed));
        if (!j->dense)
            j->copy = MAX(j->copy, round64((size_t)(key.H * key.W * key.I) * sizeof(float)));
        if (call->epi.act == ACT_GEGLU && !plain)
            j->z = MAX(j->z, round64((size_t)(key.Ho * key.Wo * key.O) * sizeof(float)));
    }
    j->each = j->scratchpad + j->copy + j->z;
    return true;
}

/* Memory beside tensors: weights with `own` values are laid out per band, since layouts may differ. What is
 * to be trained has them by the time it runs. */
static size_t job_bytes(const Cx *cx, const Job *j)
{
    const Weight *w = j->call->w[0];
    const size_t layouts = w->own || w->trainable ? (size_t)j->bands * j->packed : 0;
    return layouts + (size_t)cx->threads * j->each;
}

static bool has_bias(const Call *call)
{
    return call->epi.bias && weight_given(call->epi.bias);
}

bool dnn_conv_scratch(const Cx *cx, const Call *call, bool plain, size_t *bytes)
{
    Job j;
    const bool can = job_make(&j, call, has_bias(call) && !plain, plain, false);
    *bytes = can ? job_bytes(cx, &j) : 0;
    job_release(&j);
    return can;
}

size_t dnn_conv_packed(const Call *call)
{
    Job j;
    size_t bytes = 0;
    if (!call->w[0]->own && job_make(&j, call, has_bias(call), false, false))
        for (int i = 0; i < j.bands; i++) {
            int same = 0;
            while (same < i && !dnnl_memory_desc_equal(&j.band[same].conv->weights, &j.band[i].conv->weights))
                same++;
            bytes += same == i ? j.band[i].conv->packed : 0;
        }
    if (!call->w[0]->own)
        job_release(&j);
    return bytes;
}

static int job_weights(Cx *cx, Job *j, char **room)
{
    for (int i = 0; i < j->bands; i++) {
        const Band *b = &j->band[i];
        if (i > 0 && dnnl_memory_desc_equal(&b->conv->weights, &j->band[i - 1].conv->weights)) {
            j->weights[i] = j->weights[i - 1], j->owned[i] = j->owned[i - 1];
            continue;
        }
        j->weights[i] = conv_weights(cx, j->call->w[0], b->conv, *room, &j->owned[i]);
        if (cx_failed(cx))
            return cx->err->code;
        *room += j->owned[i] ? round64(b->conv->packed) : 0;
    }
    return 0;
}

/* The band's input rows of picture n, dense. */
static const float *band_input(const Job *j, const Band *b, int64_t n, float *copy)
{
    const ConvShape *s = &j->s;
    const float *x = (const float *)j->call->in[0]->d + (n * s->H + b->in0) * s->W * s->ld;
    if (j->dense)
        return x;
    for (int64_t r = 0; r < (b->in1 - b->in0) * s->W; r++)
        memcpy(copy + r * s->I, x + r * s->ld, (size_t)s->I * sizeof(float));
    return copy;
}

static bool execute(const Job *j, int band, const float *x, float *z, void *scratchpad)
{
    const Conv *c = j->band[band].conv;
    dnnl_memory_t src = NULL, dst = NULL, bias = NULL, scratch = NULL;
    dnnl_stream_t stream = NULL;
    const dnnl_engine_t e = dnn_engine();
    bool done = !dnnl_stream_create(&stream, e, dnnl_stream_default_flags) &&
                !dnnl_memory_create(&src, &c->src, e, (void *)x) &&
                !dnnl_memory_create(&dst, &c->dst, e, z) &&
                !dnnl_memory_create(&scratch, &c->scratchpad, e, scratchpad) &&
                (!j->bias || !dnnl_memory_create(&bias, &c->bias, e, (void *)j->bias));
    if (done) {
        const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, src},
                                        {DNNL_ARG_WEIGHTS, j->weights[band]},
                                        {DNNL_ARG_DST, dst},
                                        {DNNL_ARG_SCRATCHPAD, scratch},
                                        {DNNL_ARG_BIAS, bias}};
        done =
            !dnnl_primitive_execute(c->primitive, stream, j->bias ? 5 : 4, args) && !dnnl_stream_wait(stream);
    }
    if (src)
        dnnl_memory_destroy(src);
    if (dst)
        dnnl_memory_destroy(dst);
    if (bias)
        dnnl_memory_destroy(bias);
    if (scratch)
        dnnl_memory_destroy(scratch);
    if (stream)
        dnnl_stream_destroy(stream);
    return done;
}

/* Band `b` of picture n: x*w, then the epilogue while it is in the cache (not when only z is wanted). */
static bool one_tile(const Job *j, int64_t n, int b, char *room)
{
    const ConvShape *s = &j->s;
    const Band *band = &j->band[b];
    const int64_t row = (n * s->Ho + band->y0) * s->Wo, rows = (band->y1 - band->y0) * s->Wo;
    float *z = j->out ? j->out + row * s->wide : row_at(j->call->out, row);
    if (j->z)
        z = (float *)(room + j->scratchpad + j->copy);
    const DnnGuard was = dnn_enter(1);
    const bool done = execute(j, b, band_input(j, band, n, (float *)(room + j->scratchpad)), z, room);
    dnn_leave(was);
    if (done && !j->out)
        epilogue_rows(j->call, z, s->wide, row, rows, NULL);
    return done;
}

static int job_run(Cx *cx, Job *j, char *room)
{
    atomic_int failed = 0;
    TRY(job_weights(cx, j, &room));
    PARALLEL_TILES(cx, NS_FLOP * j->call->flops)
    for (int64_t i = 0; i < j->s.N * j->bands; i++)
        if (!one_tile(j, i / j->bands, (int)(i % j->bands), room + (size_t)omp_get_thread_num() * j->each))
            atomic_store(&failed, 1);
    if (failed)
        cx_fail(cx, GIMBAL_ENOMEM, "%s %s: oneDNN failed to run", op_name(j->call->op), j->call->w[0]->name);
    return failed ? cx->err->code : 0;
}

int dnn_conv(Cx *cx, const Call *call)
{
    Job j;
    int code = 0;
    const float *bias = has_bias(call) ? weight_floats(cx, call->epi.bias) : NULL;
    if (cx_failed(cx))
        return cx->err->code;
    if (!job_make(&j, call, bias != NULL, false, true)) {
        cx_fail(cx, GIMBAL_ENOMEM, "%s %s: oneDNN made no primitive", op_name(call->op), call->w[0]->name);
        code = cx->err->code;
    } else {
        j.bias = bias;
        code = job_run(cx, &j, call->tmp);
    }
    job_release(&j);
    return code;
}

int dnn_conv_plain(Cx *cx, const Call *call, float *z, char *room)
{
    Job j;
    int code = 0;
    if (!job_make(&j, call, false, true, true)) {
        cx_fail(cx, GIMBAL_ENOMEM, "%s %s: oneDNN made no primitive", op_name(call->op), call->w[0]->name);
        code = cx->err->code;
    } else {
        j.out = z;
        code = job_run(cx, &j, room);
    }
    job_release(&j);
    return code;
}
