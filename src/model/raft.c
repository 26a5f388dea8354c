/* raft.c: optical flow by RAFT, the large form (Teed and Deng 2020).
 *
 *   f_a, f_b = features(a), features(b);  hidden, inp = tanh, relu of context(a)       at an eighth of H, W
 *   correlation of pixel p with q at level l:  <f_a[p], mean of f_b over 2^l x 2^l at q> / sqrt(C)
 *   per update:  corr = 4 levels, 9 x 9 bilinear samples around (p + flow) / 2^l, zeros outside
 *                m = motion(corr, flow);  hidden = GRU 1x5, then 5x1, of (hidden, [inp, m, flow])
 *                flow += head(hidden)
 *   flow at full size: each pixel a convex combination of its cell's 3 x 3 neighbours, times 8
 *
 * Samples lie in memory x offset slowest: the published weights were trained so. Correlation is linear in
 * f_b, so the pyramid is made of f_b and products are made where they are looked up: no volume of all pairs.
 * Feature norms are per picture and channel (no parameters), context norms are folded batch norms.
 *
 * Knows torchvision's and the original's spelling. Refuses to know padding, files and metrics. */
#include "model/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LEVELS = 4, RADIUS = 4, SPAN = 2 * RADIUS + 1, BLOCKS = 6, MAX_WIDTH = 4096, MASK = 9 * 64 };
static const float norm_eps = 1e-5f;

/* The convolutions of an update: their place in Raft.conv, and their kernels. */
#define UPDATE_CONVS(X)                                                                                      \
    X(CORR1, 1, 1, "convcorr1.0", "convc1")                                                                  \
    X(CORR2, 3, 3, "convcorr2.0", "convc2")                                                                  \
    X(FLOW1, 7, 7, "convflow1.0", "convf1")                                                                  \
    X(FLOW2, 3, 3, "convflow2.0", "convf2")                                                                  \
    X(MOTION, 3, 3, "conv.0", "conv")                                                                        \
    X(Z1, 1, 5, "convgru1.convz", "convz1")                                                                  \
    X(R1, 1, 5, "convgru1.convr", "convr1")                                                                  \
    X(Q1, 1, 5, "convgru1.convq", "convq1")                                                                  \
    X(Z2, 5, 1, "convgru2.convz", "convz2")                                                                  \
    X(R2, 5, 1, "convgru2.convr", "convr2")                                                                  \
    X(Q2, 5, 1, "convgru2.convq", "convq2")                                                                  \
    X(HEAD1, 3, 3, "conv1", "conv1")                                                                         \
    X(HEAD2, 3, 3, "conv2", "conv2")                                                                         \
    X(MASK1, 3, 3, "convrelu.0", "0")                                                                        \
    X(MASK2, 1, 1, "conv", "2")
#define CONV_ENUM(name, high, wide, torchvision, original) name,
enum { UPDATE_CONVS(CONV_ENUM) CONVS };
#define CONV_ROW(name, high, wide, torchvision, original) {{high, wide}, {torchvision, original}},
static const struct {
    int k[2];
    const char *name[RAFT_SPELLINGS];
} convs[CONVS] = {UPDATE_CONVS(CONV_ROW)};

/* Where those stand, and the encoders' names. */
typedef struct {
    const char *mark, *encoder[2], *stem, *stem_norm, *conv1, *norm1, *conv2, *norm2, *end, *motion, *gru,
        *head, *mask;
} Names;
static const Names names[RAFT_SPELLINGS] = {
    [RAFT_TORCHVISION] = {"feature_encoder.convnormrelu.0.weight",
                          {"feature_encoder", "context_encoder"},
                          "convnormrelu.0",
                          "convnormrelu.1",
                          "convnormrelu1.0",
                          "convnormrelu1.1",
                          "convnormrelu2.0",
                          "convnormrelu2.1",
                          "conv",
                          "update_block.motion_encoder",
                          "update_block.recurrent_block",
                          "update_block.flow_head",
                          "mask_predictor"},
    [RAFT_ORIGINAL] = {"fnet.conv1.weight",
                       {"fnet", "cnet"},
                       "conv1",
                       "norm1",
                       "conv1",
                       "norm1",
                       "conv2",
                       "norm2",
                       "conv2",
                       "update_block.encoder",
                       "update_block.gru",
                       "update_block.flow_head",
                       "update_block.mask"},
};

/* Counters of training; the original holds the shortcuts' norms twice. */
const char *const raft_ignore[] = {"*num_batches_tracked", "*.norm3.*", NULL};

typedef struct {
    bool batch; /* norms: folded batch norms, else per picture */
    Normed stem, end;
    struct {
        Normed conv1, conv2, shortcut; /* shortcut: of the blocks that halve */
        int stride;
    } block[BLOCKS];
} Encoder;

struct Raft {
    RaftSpelling spelling;
    Encoder encoder[2]; /* features, context */
    Normed conv[CONVS];
    int features, hidden, inp; /* channels */
};

const char *raft_mark(RaftSpelling s)
{
    return names[s].mark;
}

static const char *place_of(const Names *s, int conv)
{
    return conv <= MOTION ? s->motion : conv <= Q2 ? s->gru : conv <= HEAD2 ? s->head : s->mask;
}

/* ---- sizes ------------------------------------------------------------------------------- */

/* Output channels of convolution `place`.`name`, from the file. */
static int read_out(const WeightSet *set, const char *prefix, const char *place, const char *name, int *out,
                    gimbal_error *err)
{
    char full[512];
    snprintf(full, sizeof full, "%.200s%.120s.%.120s.weight", prefix, place, name);
    const StEntry *e = weights_find(set, full);
    if (!e || e->nd != 4 || e->n[0] < 1 || e->n[0] > MAX_WIDTH)
        return fail(err, GIMBAL_EMODEL,
                    "%s: tensor %s is %s, expected RAFT's convolution of 1 to %d channels", weights_path(set),
                    full, e ? "of another shape" : "missing", MAX_WIDTH);
    *out = (int)e->n[0];
    return GIMBAL_OK;
}

static Normed conv_of(int in, int out, int high, int wide)
{
    return (Normed){.in = in, .out = out, .k = {0, high, wide}, .bias = true};
}

static int size_encoder(Encoder *e, const WeightSet *set, const char *prefix, const Names *s, int which,
                        gimbal_error *err)
{
    const char *place = s->encoder[which];
    char at[200];
    int width = 0, out = 0;
    e->batch = which == 1;
    TRY(read_out(set, prefix, place, s->stem, &width, err));
    e->stem = conv_of(3, width, 7, 7);
    for (int i = 0; i < BLOCKS; i++) {
        snprintf(at, sizeof at, "%s.layer%d.%d", place, i / 2 + 1, i % 2);
        TRY(read_out(set, prefix, at, s->conv1, &out, err));
        e->block[i].stride = i == 2 || i == 4 ? 2 : 1;
        e->block[i].conv1 = conv_of(width, out, 3, 3);
        e->block[i].conv2 = conv_of(out, out, 3, 3);
        e->block[i].shortcut = conv_of(width, out, 1, 1);
        if (e->block[i].stride == 1 && width != out)
            return fail(err, GIMBAL_EMODEL, "%s: %s takes %d channels to %d without a shortcut",
                        weights_path(set), at, width, out);
        width = out;
    }
    TRY(read_out(set, prefix, place, s->end, &out, err));
    e->end = conv_of(width, out, 1, 1);
    return GIMBAL_OK;
}

/* Input channels follow from what each convolution is given. */
static void chain(Raft *r, const int out[CONVS])
{
    const int x = r->inp + out[MOTION] + 2, h = r->hidden;
    const int in[CONVS] = {[CORR1] = LEVELS * SPAN * SPAN,
                           [CORR2] = out[CORR1],
                           [FLOW1] = 2,
                           [FLOW2] = out[FLOW1],
                           [MOTION] = out[CORR2] + out[FLOW2],
                           [Z1] = h + x,
                           [R1] = h + x,
                           [Q1] = h + x,
                           [Z2] = h + x,
                           [R2] = h + x,
                           [Q2] = h + x,
                           [HEAD1] = h,
                           [HEAD2] = out[HEAD1],
                           [MASK1] = h,
                           [MASK2] = out[MASK1]};
    for (int i = 0; i < CONVS; i++)
        r->conv[i] = conv_of(in[i], out[i], convs[i].k[0], convs[i].k[1]);
    for (int i = Z1; i <= Q2; i++)
        r->conv[i].out = h;
    r->conv[HEAD2].out = 2;
    r->conv[MASK2].out = MASK;
}

int raft_build(Raft **out, Arena *keep, const WeightSet *set, const char *prefix, RaftSpelling spelling,
               gimbal_error *err)
{
    const Names *s = &names[spelling];
    int width[CONVS];
    *out = NULL;
    Raft *r = arena_alloc(keep, sizeof *r);
    if (!r)
        return fail(err, GIMBAL_ENOMEM, "no memory for RAFT");
    r->spelling = spelling;
    for (int i = 0; i < 2; i++)
        TRY(size_encoder(&r->encoder[i], set, prefix, s, i, err));
    for (int i = 0; i < CONVS; i++)
        TRY(read_out(set, prefix, place_of(s, i), convs[i].name[spelling], &width[i], err));
    r->features = r->encoder[0].end.out;
    r->hidden = width[Z1];
    r->inp = r->encoder[1].end.out - r->hidden;
    if (r->inp < 1)
        return fail(err, GIMBAL_EMODEL, "%s: RAFT's context has %d channels, its hidden state %d of them",
                    weights_path(set), r->encoder[1].end.out, r->hidden);
    chain(r, width);
    *out = r;
    return GIMBAL_OK;
}

/* ---- parameters -------------------------------------------------------------------------- */

static void encoder_params(Params *p, const Names *s, Encoder *e)
{
    normed_params(p, s->stem, e->batch ? s->stem_norm : NULL, &e->stem);
    for (int i = 0; i < BLOCKS; i++) {
        pv_in(p, "layer%d.%d", i / 2 + 1, i % 2);
        normed_params(p, s->conv1, e->batch ? s->norm1 : NULL, &e->block[i].conv1);
        normed_params(p, s->conv2, e->batch ? s->norm2 : NULL, &e->block[i].conv2);
        if (e->block[i].stride == 2)
            normed_params(p, "downsample.0", e->batch ? "downsample.1" : NULL, &e->block[i].shortcut);
        pv_out(p);
    }
    normed_params(p, s->end, NULL, &e->end);
}

void raft_params(void *raft, Params *p)
{
    Raft *r = raft;
    const Names *s = &names[r->spelling];
    for (int i = 0; i < 2; i++) {
        pv_in(p, "%s", s->encoder[i]);
        encoder_params(p, s, &r->encoder[i]);
        pv_out(p);
    }
    for (int i = 0; i < CONVS; i++) {
        pv_in(p, "%s", place_of(s, i));
        normed_params(p, convs[i].name[r->spelling], NULL, &r->conv[i]);
        pv_out(p);
    }
}

int raft_bound(Raft *r, Arena *keep, gimbal_error *err)
{
    for (int e = 0; e < 2; e++) {
        Encoder *encoder = &r->encoder[e];
        TRY(normed_fold(&encoder->stem, norm_eps, keep, err));
        TRY(normed_fold(&encoder->end, norm_eps, keep, err));
        for (int i = 0; i < BLOCKS; i++) {
            TRY(normed_fold(&encoder->block[i].conv1, norm_eps, keep, err));
            TRY(normed_fold(&encoder->block[i].conv2, norm_eps, keep, err));
            if (encoder->block[i].stride == 2)
                TRY(normed_fold(&encoder->block[i].shortcut, norm_eps, keep, err));
        }
    }
    for (int i = 0; i < CONVS; i++)
        TRY(normed_fold(&r->conv[i], norm_eps, keep, err));
    return GIMBAL_OK;
}

/* ---- encoders ---------------------------------------------------------------------------- */

/* Same size out, or half of it. */
static Tensor *conv(Cx *cx, Normed *c, Tensor *x, int stride, Squash f)
{
    const int pad[4] = {c->k[1] / 2, c->k[1] / 2, c->k[2] / 2, c->k[2] / 2};
    return normed_conv(cx, c, x, stride, pad, f);
}

/* Sums and sums of squares of row y of t [1,h,w,C]: sum [2C]. */
static void row_sums(const Tensor *t, int64_t y, double *sum)
{
    const int64_t w = t->n[2], C = t->n[3];
    const float *x = (const float *)t->d + y * w * C;
    memset(sum, 0, sizeof *sum * 2 * (size_t)C);
    for (int64_t i = 0; i < w; i++, x += C)
        for (int64_t c = 0; c < C; c++) {
            sum[c] += x[c];
            sum[C + c] += (double)x[c] * x[c];
        }
}

/* In place: each channel of the one picture t [1,h,w,C] to mean 0 and variance 1. */
static Tensor *instance_norm(Cx *cx, Tensor *t)
{
    if (!t)
        return NULL;
    const int64_t h = t->n[1], C = t->n[3], pixels = h * t->n[2];
    double *sums = alloc_array((size_t)h * 2 * (size_t)C, sizeof *sums);
    if (!sums)
        return cx_fail(cx, GIMBAL_ENOMEM, "no memory for the statistics of %lld rows", (long long)h);
    float *x = t->d;
#pragma omp parallel for num_threads(cx->threads) schedule(static)
    for (int64_t y = 0; y < h; y++)
        row_sums(t, y, sums + y * 2 * C);
    for (int64_t y = 1; y < h; y++)
        for (int64_t c = 0; c < 2 * C; c++)
            sums[c] += sums[y * 2 * C + c];
    for (int64_t c = 0; c < C; c++) { /* to a factor and a shift */
        const double mean = sums[c] / (double)pixels, var = sums[C + c] / (double)pixels - mean * mean;
        sums[c] = 1 / sqrt(MAX(var, 0) + (double)norm_eps);
        sums[C + c] = -mean * sums[c];
    }
#pragma omp parallel for num_threads(cx->threads) schedule(static)
    for (int64_t i = 0; i < pixels; i++)
        for (int64_t c = 0; c < C; c++)
            x[i * C + c] = (float)(x[i * C + c] * sums[c] + sums[C + c]);
    free(sums); /* of this picture */
    return t;
}

/* Convolution, norm, activation. */
static Tensor *unit(Cx *cx, const Encoder *e, Normed *c, Tensor *x, int stride, Squash f)
{
    if (e->batch)
        return conv(cx, c, x, stride, f);
    return squash(cx, instance_norm(cx, conv(cx, c, x, stride, SQUASH_NONE)), f);
}

/* picture [1,H,W,3] -> [1,H/8,W/8,C] */
static Tensor *encode(Cx *cx, Encoder *e, Tensor *picture)
{
    Tensor *x = unit(cx, e, &e->stem, picture, 2, SQUASH_RELU);
    for (int i = 0; i < BLOCKS && x; i++) {
        const int stride = e->block[i].stride;
        Tensor *y = unit(cx, e, &e->block[i].conv1, x, stride, SQUASH_RELU);
        y = unit(cx, e, &e->block[i].conv2, y, 1, SQUASH_RELU);
        if (stride == 2)
            x = unit(cx, e, &e->block[i].shortcut, x, stride, SQUASH_NONE);
        x = squash(cx, op_add(cx, x, y), SQUASH_RELU);
    }
    return conv(cx, &e->end, x, 1, SQUASH_NONE);
}

/* ---- correlation ------------------------------------------------------------------------- */

/* What one pair of pictures needs. */
typedef struct {
    int h, w;                          /* of the cells: an eighth of the picture */
    float *a, *level[LEVELS];          /* [h,w,C], [h >> l,w >> l,C] */
    float *hidden, *inp, *flow, *corr; /* [h,w,*] */
} Pair;

static void halve(const float *x, int h, int w, int C, float *out)
{
    const size_t row = (size_t)w * (size_t)C;
    for (int y = 0; y < h / 2; y++)
        for (int i = 0; i < w / 2; i++)
            for (int c = 0; c < C; c++, out++) {
                const float *p = x + (size_t)(2 * y) * row + (size_t)(2 * i) * (size_t)C + c;
                *out = (p[0] + p[C] + p[row] + p[row + (size_t)C]) * 0.25f;
            }
}

static float dot(const float *a, const float *b, int n)
{
    float part[8] = {0}, sum = 0;
    int i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++)
            part[k] += a[i + k] * b[i + k];
    for (; i < n; i++)
        sum += a[i] * b[i];
    for (int k = 0; k < 8; k++)
        sum += part[k];
    return sum;
}

/* The SPAN x SPAN samples around (x, y) of b [h,w,C], x offset slowest. */
static void look_around(const float *a, const float *b, int h, int w, int C, float x, float y, float *out)
{
    enum { GRID = SPAN + 1 };
    float d[GRID][GRID];
    if (!(fabsf(x) < 1e6f && fabsf(y) < 1e6f)) { /* far outside, or not a number */
        memset(out, 0, sizeof *out * SPAN * SPAN);
        return;
    }
    const int x0 = (int)floorf(x) - RADIUS, y0 = (int)floorf(y) - RADIUS;
    const float fx = x - floorf(x), fy = y - floorf(y), scale = 1 / sqrtf((float)C);
    for (int j = 0; j < GRID; j++)
        for (int i = 0; i < GRID; i++) {
            const bool in = x0 + i >= 0 && x0 + i < w && y0 + j >= 0 && y0 + j < h;
            d[j][i] =
                in ? scale * dot(a, b + ((size_t)(y0 + j) * (size_t)w + (size_t)(x0 + i)) * (size_t)C, C) : 0;
        }
    for (int i = 0; i < SPAN; i++)
        for (int j = 0; j < SPAN; j++)
            *out++ = (1 - fy) * ((1 - fx) * d[j][i] + fx * d[j][i + 1]) +
                     fy * ((1 - fx) * d[j + 1][i] + fx * d[j + 1][i + 1]);
}

static void look_up(const Raft *r, const Cx *cx, Pair *p)
{
    const int C = r->features, each = SPAN * SPAN;
    (void)cx; /* without OpenMP */
#pragma omp parallel for num_threads(cx->threads) schedule(static)
    for (int i = 0; i < p->h * p->w; i++) {
        const float x = (float)(i % p->w) + p->flow[2 * i], y = (float)(i / p->w) + p->flow[2 * i + 1];
        for (int l = 0; l < LEVELS; l++)
            look_around(p->a + (size_t)i * (size_t)C, p->level[l], p->h >> l, p->w >> l, C,
                        x / (float)(1 << l), y / (float)(1 << l),
                        p->corr + ((size_t)i * LEVELS + (size_t)l) * (size_t)each);
    }
}

/* ---- updates ----------------------------------------------------------------------------- */

static Tensor *wrap(Cx *cx, const Pair *p, int C, const float *data)
{
    return tensor_input(cx, F32, 4, (int64_t[]){1, p->h, p->w, C}, data);
}

/* hidden = (1 - z) hidden + z q, one direction. */
static void half_gru(Raft *r, Cx *cx, Pair *p, int first, Tensor *x)
{
    Tensor *h = wrap(cx, p, r->hidden, p->hidden), *hx = op_concat(cx, h, x);
    Tensor *z = conv(cx, &r->conv[first], hx, 1, SQUASH_SIGMOID);
    Tensor *reset = conv(cx, &r->conv[first + 1], hx, 1, SQUASH_SIGMOID);
    const int64_t n = (int64_t)p->h * p->w * r->hidden;
    if (cx_failed(cx))
        return;
    float *rh = reset->d;
    for (int64_t i = 0; i < n; i++)
        rh[i] *= p->hidden[i];
    Tensor *q = conv(cx, &r->conv[first + 2], op_concat(cx, reset, x), 1, SQUASH_TANH);
    for (int64_t i = 0; q && i < n; i++) {
        const float share = ((const float *)z->d)[i];
        p->hidden[i] = (1 - share) * p->hidden[i] + share * ((const float *)q->d)[i];
    }
}

static void update(Raft *r, Cx *cx, Pair *p)
{
    cx_reset(cx);
    look_up(r, cx, p);
    Tensor *flow = wrap(cx, p, 2, p->flow);
    Tensor *c = conv(cx, &r->conv[CORR1], wrap(cx, p, LEVELS * SPAN * SPAN, p->corr), 1, SQUASH_RELU);
    c = conv(cx, &r->conv[CORR2], c, 1, SQUASH_RELU);
    Tensor *f = conv(cx, &r->conv[FLOW1], flow, 1, SQUASH_RELU);
    f = conv(cx, &r->conv[FLOW2], f, 1, SQUASH_RELU);
    Tensor *m = conv(cx, &r->conv[MOTION], op_concat(cx, c, f), 1, SQUASH_RELU);
    Tensor *x = op_concat(cx, op_concat(cx, wrap(cx, p, r->inp, p->inp), m), flow);
    half_gru(r, cx, p, Z1, x);
    half_gru(r, cx, p, Z2, x);
    Tensor *d = conv(cx, &r->conv[HEAD1], wrap(cx, p, r->hidden, p->hidden), 1, SQUASH_RELU);
    d = conv(cx, &r->conv[HEAD2], d, 1, SQUASH_NONE);
    for (int i = 0; d && i < 2 * p->h * p->w; i++)
        p->flow[i] += ((const float *)d->d)[i];
}

/* ---- full size --------------------------------------------------------------------------- */

/* One pixel of cell (x, y): mask [9][64] of that cell, `k` its place inside. */
static void upsampled(const Pair *p, const float *mask, int x, int y, int k, float out[2])
{
    float most = -INFINITY, sum = 0;
    out[0] = out[1] = 0;
    for (int i = 0; i < 9; i++)
        most = MAX(most, 0.25f * mask[i * 64 + k]);
    for (int i = 0; i < 9; i++) {
        const int nx = x + i % 3 - 1, ny = y + i / 3 - 1;
        const float e = expf(0.25f * mask[i * 64 + k] - most);
        sum += e;
        if (nx < 0 || nx >= p->w || ny < 0 || ny >= p->h)
            continue;
        const float *f = p->flow + 2 * ((size_t)ny * (size_t)p->w + (size_t)nx);
        out[0] += 8 * e * f[0], out[1] += 8 * e * f[1];
    }
    out[0] /= sum, out[1] /= sum;
}

static int enlarge(Raft *r, Cx *cx, const Pair *p, float *flow)
{
    cx_reset(cx);
    Tensor *m = conv(cx, &r->conv[MASK1], wrap(cx, p, r->hidden, p->hidden), 1, SQUASH_RELU);
    m = conv(cx, &r->conv[MASK2], m, 1, SQUASH_NONE);
    if (!m)
        return cx->err->code;
    const float *mask = m->d;
    const int H = RAFT_STEP * p->h, W = RAFT_STEP * p->w;
#pragma omp parallel for num_threads(cx->threads) schedule(static)
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++)
            upsampled(p, mask + ((size_t)(y / 8) * (size_t)p->w + (size_t)(x / 8)) * MASK, x / 8, y / 8,
                      y % 8 * 8 + x % 8, flow + 2 * ((size_t)y * (size_t)W + (size_t)x));
    for (size_t i = 0; i < 2 * (size_t)H * (size_t)W; i++)
        if (!isfinite(flow[i]))
            return fail(cx->err, GIMBAL_EVALUE, "RAFT's flow is not finite: damaged weights?");
    return GIMBAL_OK;
}

/* ---- a pair ------------------------------------------------------------------------------ */

static void free_pair(Pair *p)
{
    free(p->a);
    for (int l = 0; l < LEVELS; l++)
        free(p->level[l]);
    free(p->hidden);
    free(p->inp);
    free(p->flow);
    free(p->corr);
}

static int make_pair(Pair *p, const Raft *r, Cx *cx)
{
    const size_t cells = (size_t)p->h * (size_t)p->w;
    bool all = true;
    p->a = alloc_array(cells * (size_t)r->features, sizeof(float));
    for (int l = 0; l < LEVELS; l++) {
        p->level[l] =
            alloc_array((size_t)(p->h >> l) * (size_t)(p->w >> l) * (size_t)r->features, sizeof(float));
        all = all && p->level[l];
    }
    p->hidden = alloc_array(cells * (size_t)r->hidden, sizeof(float));
    p->inp = alloc_array(cells * (size_t)r->inp, sizeof(float));
    p->corr = alloc_array(cells * LEVELS * SPAN * SPAN, sizeof(float));
    p->flow = calloc(2 * cells, sizeof(float));
    if (all && p->a && p->hidden && p->inp && p->corr && p->flow)
        return GIMBAL_OK;
    return fail(cx->err, GIMBAL_ENOMEM, "no memory for the flow of %dx%d cells", p->w, p->h);
}

/* picture [H,W,3] through an encoder into out [h,w,C]. */
static int encode_into(Cx *cx, Encoder *e, const float *picture, int H, int W, float *out)
{
    cx_reset(cx);
    const Tensor *y = encode(cx, e, tensor_input(cx, F32, 4, (int64_t[]){1, H, W, 3}, picture));
    if (!y)
        return cx->err->code;
    memcpy(out, y->d, sizeof *out * (size_t)tensor_count(y));
    return GIMBAL_OK;
}

/* The context's channels: the first for tanh, the rest for ReLU. */
static int read_context(Raft *r, Cx *cx, const float *picture, Pair *p)
{
    cx_reset(cx);
    const int64_t n[4] = {1, RAFT_STEP * p->h, RAFT_STEP * p->w, 3};
    Tensor *c = encode(cx, &r->encoder[1], tensor_input(cx, F32, 4, n, picture));
    for (size_t i = 0; c && i < (size_t)(p->h * p->w); i++) {
        const float *from = (const float *)c->d + i * (size_t)(r->hidden + r->inp);
        for (int k = 0; k < r->hidden; k++)
            p->hidden[i * (size_t)r->hidden + (size_t)k] = tanhf(from[k]);
        for (int k = 0; k < r->inp; k++)
            p->inp[i * (size_t)r->inp + (size_t)k] = MAX(from[r->hidden + k], 0);
    }
    return c ? GIMBAL_OK : cx->err->code;
}

static int prepare(Raft *r, Cx *cx, const float *a, const float *b, Pair *p)
{
    const int H = RAFT_STEP * p->h, W = RAFT_STEP * p->w;
    TRY(make_pair(p, r, cx));
    TRY(encode_into(cx, &r->encoder[0], a, H, W, p->a));
    TRY(encode_into(cx, &r->encoder[0], b, H, W, p->level[0]));
    for (int l = 1; l < LEVELS; l++)
        halve(p->level[l - 1], p->h >> (l - 1), p->w >> (l - 1), r->features, p->level[l]);
    return read_context(r, cx, a, p);
}

int raft_flow(Raft *r, Cx *cx, const float *a, const float *b, int H, int W, int updates, float *flow)
{
    Pair p = {.h = H / RAFT_STEP, .w = W / RAFT_STEP};
    if (MIN(H, W) < RAFT_LEAST || H % RAFT_STEP || W % RAFT_STEP)
        return fail(cx->err, GIMBAL_EUSAGE,
                    "RAFT takes pictures of %d pixels a side or more, multiples of %d; found %dx%d",
                    RAFT_LEAST, RAFT_STEP, W, H);
    int code = prepare(r, cx, a, b, &p);
    for (int i = 0; i < updates && !code; i++) {
        update(r, cx, &p);
        code = cx->err->code;
    }
    if (!code)
        code = enlarge(r, cx, &p, flow);
    cx_reset(cx);
    free_pair(&p);
    return code;
}
