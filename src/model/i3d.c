/* i3d.c: the inflated 3-D Inception of Carreira and Zisserman (2017) for clips: the logits of Kinetics-400,
 * which are the features of Frechet video distance (Unterthiner et al. 2018).
 *
 *     unit     relu(norm(conv(x))), convolution without bias, batch norm folded; 1x1x1 or 3x3x3, stride 1
 *     mixed    b0(x) | b1b(b1a(x)) | b2b(b2a(x)) | b3b(max 3x3x3 of x), channels beside each other
 *     whole    7x7x7/2 - max 1,3,3 - 1x1x1 - 3x3x3 - max 1,3,3 - 2 mixed - max 3,3,3 - 5 mixed - max 2,2,2
 *              - 2 mixed - mean over 2x7x7 - linear - mean over time
 *
 * Padding is TensorFlow's "SAME": the total that makes the size ceil(n / stride), the odd one at the end;
 * zeros, for maxima too (after ReLU nothing is below). A convolution over k frames is one over pictures whose
 * channels are k frames beside each other: frames are gathered, a few output frames at a time.
 *
 * clip [T,224,224,3] in -1..1 -> [400]. Knows the names of the PyTorch ports. Refuses to know files and what
 * the logits are used for. */
#include "model/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MIXED = 9, BRANCHES = 6, CHUNK = 8, MAX_WIDTH = 4096 };
static const char *const mixed_names[MIXED] = {"Mixed_3b", "Mixed_3c", "Mixed_4b", "Mixed_4c", "Mixed_4d",
                                               "Mixed_4e", "Mixed_4f", "Mixed_5b", "Mixed_5c"};
enum { B0, B1A, B1B, B2A, B2B, B3B };
static const char *const branch_names[BRANCHES] = {"b0", "b1a", "b1b", "b2a", "b2b", "b3b"};

const char *const i3d_ignore[] = {"*num_batches_tracked", NULL};

struct I3d {
    Normed stem, second, third, mixed[MIXED][BRANCHES], logits;
};

/* A clip of activations [t,h,w,c]; owns x. */
typedef struct {
    float *x;
    int t, h, w, c;
} Clip;

const char *i3d_mark(void)
{
    return "Conv3d_1a_7x7.conv3d.weight";
}

/* ---- sizes and parameters ---------------------------------------------------------------- */

static int size_unit(Normed *c, const WeightSet *set, const char *prefix, const char *name, int in, int k,
                     gimbal_error *err)
{
    char full[512];
    snprintf(full, sizeof full, "%.200s%.120s.conv3d.weight", prefix, name);
    const StEntry *e = weights_find(set, full);
    if (!e || e->nd != 5 || e->n[0] < 1 || e->n[0] > MAX_WIDTH)
        return fail(err, GIMBAL_EMODEL, "%s: tensor %s is %s, expected I3D's convolution of 1 to %d channels",
                    weights_path(set), full, e ? "of another shape" : "missing", MAX_WIDTH);
    *c = (Normed){.in = in, .out = (int)e->n[0], .k = {k, k, k}};
    return GIMBAL_OK;
}

static int size_mixed(Normed m[BRANCHES], const WeightSet *set, const char *prefix, const char *place,
                      int *width, gimbal_error *err)
{
    static const int k[BRANCHES] = {1, 1, 3, 1, 3, 1};
    for (int b = 0; b < BRANCHES; b++) {
        char name[64];
        snprintf(name, sizeof name, "%s.%s", place, branch_names[b]);
        const int in = b == B1B || b == B2B ? m[b - 1].out : *width;
        TRY(size_unit(&m[b], set, prefix, name, in, k[b], err));
    }
    *width = m[B0].out + m[B1B].out + m[B2B].out + m[B3B].out;
    return GIMBAL_OK;
}

int i3d_build(I3d **out, Arena *keep, const WeightSet *set, const char *prefix, gimbal_error *err)
{
    *out = NULL;
    I3d *n = arena_alloc(keep, sizeof *n);
    if (!n)
        return fail(err, GIMBAL_ENOMEM, "no memory for I3D");
    TRY(size_unit(&n->stem, set, prefix, "Conv3d_1a_7x7", 3, 7, err));
    TRY(size_unit(&n->second, set, prefix, "Conv3d_2b_1x1", n->stem.out, 1, err));
    TRY(size_unit(&n->third, set, prefix, "Conv3d_2c_3x3", n->second.out, 3, err));
    int width = n->third.out;
    for (int i = 0; i < MIXED; i++)
        TRY(size_mixed(n->mixed[i], set, prefix, mixed_names[i], &width, err));
    n->logits = (Normed){.in = width, .out = I3D_CLASSES, .k = {1, 1, 1}, .bias = true};
    *out = n;
    return GIMBAL_OK;
}

static void unit_params(Params *p, const char *name, Normed *c)
{
    pv_in(p, "%s", name);
    normed_params(p, "conv3d", c->bias ? NULL : "bn", c);
    pv_out(p);
}

void i3d_params(void *i3d, Params *p)
{
    I3d *n = i3d;
    unit_params(p, "Conv3d_1a_7x7", &n->stem);
    unit_params(p, "Conv3d_2b_1x1", &n->second);
    unit_params(p, "Conv3d_2c_3x3", &n->third);
    for (int i = 0; i < MIXED; i++) {
        pv_in(p, "%s", mixed_names[i]);
        for (int b = 0; b < BRANCHES; b++)
            unit_params(p, branch_names[b], &n->mixed[i][b]);
        pv_out(p);
    }
    unit_params(p, "logits", &n->logits);
}

int i3d_bound(I3d *n, float eps, Arena *keep, gimbal_error *err)
{
    TRY(normed_fold(&n->stem, eps, keep, err));
    TRY(normed_fold(&n->second, eps, keep, err));
    TRY(normed_fold(&n->third, eps, keep, err));
    for (int i = 0; i < MIXED; i++)
        for (int b = 0; b < BRANCHES; b++)
            TRY(normed_fold(&n->mixed[i][b], eps, keep, err));
    return normed_fold(&n->logits, eps, keep, err);
}

/* ---- clips ------------------------------------------------------------------------------- */

static int ceil_div(int n, int by)
{
    return (n + by - 1) / by;
}

/* "SAME": how much of the padding stands before the first of n. */
static int pad_before(int n, int k, int stride)
{
    return MAX((ceil_div(n, stride) - 1) * stride + k - n, 0) / 2;
}

static int make_clip(Clip *c, Cx *cx, int t, int h, int w, int channels)
{
    *c = (Clip){.t = t, .h = h, .w = w, .c = channels};
    c->x = alloc_array((size_t)t * (size_t)h, (size_t)w * (size_t)channels * sizeof(float));
    return c->x ? GIMBAL_OK
                : fail(cx->err, GIMBAL_ENOMEM, "no memory for %d frames of %dx%dx%d", t, w, h, channels);
}

/* Frames from-th to (from + n)-th of the result: k frames of x beside each other, [n,h,w,k*c]. */
static void gather(const Clip *x, int from, int n, int k, int stride, float *out)
{
    const int before = pad_before(x->t, k, stride);
    const size_t pixels = (size_t)x->h * (size_t)x->w, c = (size_t)x->c;
    for (int f = 0; f < n; f++)
        for (int j = 0; j < k; j++) {
            const int t = (from + f) * stride - before + j;
            const float *in = x->x + (size_t)MAX(t, 0) * pixels * c;
            float *to = out + ((size_t)f * pixels * (size_t)k + (size_t)j) * c;
            for (size_t p = 0; p < pixels; p++, to += (size_t)k * c)
                if (t >= 0 && t < x->t)
                    memcpy(to, in + p * c, c * sizeof *to);
                else
                    memset(to, 0, c * sizeof *to);
        }
}

/* The unit on `n` frames of the result from `from` on; a width of `ld` channels, at `at`, of y. */
static int unit_frames(Cx *cx, Normed *u, const Clip *x, int stride, int from, int n, float *frames, Clip *y,
                       int at)
{
    const int k = u->k[0], total_h = MAX((y->h - 1) * stride + k - x->h, 0),
              total_w = MAX((y->w - 1) * stride + k - x->w, 0);
    const int pad[4] = {total_h / 2, total_h - total_h / 2, total_w / 2, total_w - total_w / 2};
    const size_t each = (size_t)x->h * (size_t)x->w * (size_t)x->c;
    const float *data = k == 1 ? x->x + (size_t)from * each : frames;
    if (k > 1)
        gather(x, from, n, k, stride, frames);
    cx_reset(cx);
    Tensor *in = tensor_input(cx, F32, 4, (int64_t[]){n, x->h, x->w, (int64_t)k * x->c}, data);
    const Tensor *out = normed_conv(cx, u, in, stride, pad, SQUASH_RELU);
    if (!out)
        return cx->err->code;
    const size_t rows = (size_t)n * (size_t)y->h * (size_t)y->w;
    float *to = y->x + (size_t)from * (size_t)y->h * (size_t)y->w * (size_t)y->c + at;
    for (size_t r = 0; r < rows; r++)
        memcpy(to + r * (size_t)y->c, (const float *)out->d + r * (size_t)u->out,
               (size_t)u->out * sizeof(float));
    return GIMBAL_OK;
}

/* Into channels [at, at + out) of y, which has the result's size. */
static int unit_into(Cx *cx, Normed *u, const Clip *x, int stride, Clip *y, int at)
{
    const int k = u->k[0], n = MIN(CHUNK, y->t);
    const size_t pixels = (size_t)x->h * (size_t)x->w;
    float *frames = k > 1 ? alloc_array((size_t)n * pixels, (size_t)k * (size_t)x->c * sizeof *frames) : NULL;
    if (k > 1 && !frames)
        return fail(cx->err, GIMBAL_ENOMEM, "no memory for %d frames of %dx%d", n, x->w, x->h);
    int code = GIMBAL_OK;
    for (int from = 0; from < y->t && !code; from += n)
        code = unit_frames(cx, u, x, stride, from, MIN(n, y->t - from), frames, y, at);
    free(frames); /* gathered input of a chunk */
    return code;
}

/* x becomes the unit of x. */
static int through(Cx *cx, Normed *u, Clip *x, int stride)
{
    Clip y;
    TRY(make_clip(&y, cx, ceil_div(x->t, stride), ceil_div(x->h, stride), ceil_div(x->w, stride), u->out));
    const int code = unit_into(cx, u, x, stride, &y, 0);
    free(x->x); /* replaced */
    *x = y;
    return code;
}

/* ---- pooling ----------------------------------------------------------------------------- */

/* out[c] of one place: the maxima of its window, and 0 where that sticks out. */
static void window_max(const Clip *x, const int k[3], const int start[3], float *out)
{
    const int size[3] = {x->t, x->h, x->w};
    bool outside = false;
    int from[3], to[3];
    for (int i = 0; i < 3; i++) {
        from[i] = MAX(start[i], 0), to[i] = MIN(start[i] + k[i], size[i]);
        outside = outside || start[i] < 0 || start[i] + k[i] > size[i];
    }
    for (int c = 0; c < x->c; c++)
        out[c] = outside ? 0 : -INFINITY;
    for (int t = from[0]; t < to[0]; t++)
        for (int y = from[1]; y < to[1]; y++)
            for (int i = from[2]; i < to[2]; i++) {
                const float *p =
                    x->x + (((size_t)t * (size_t)x->h + (size_t)y) * (size_t)x->w + (size_t)i) * (size_t)x->c;
                for (int c = 0; c < x->c; c++)
                    out[c] = p[c] > out[c] || isnan(p[c]) ? p[c] : out[c];
            }
}

static int pool(Cx *cx, const Clip *x, const int k[3], const int stride[3], Clip *y)
{
    TRY(make_clip(y, cx, ceil_div(x->t, stride[0]), ceil_div(x->h, stride[1]), ceil_div(x->w, stride[2]),
                  x->c));
    const int before[3] = {pad_before(x->t, k[0], stride[0]), pad_before(x->h, k[1], stride[1]),
                           pad_before(x->w, k[2], stride[2])};
#pragma omp parallel for num_threads(cx->threads) schedule(static)
    for (int r = 0; r < y->t * y->h; r++)
        for (int i = 0; i < y->w; i++) {
            const int start[3] = {r / y->h * stride[0] - before[0], r % y->h * stride[1] - before[1],
                                  i * stride[2] - before[2]};
            window_max(x, k, start, y->x + ((size_t)r * (size_t)y->w + (size_t)i) * (size_t)x->c);
        }
    return GIMBAL_OK;
}

static int pool_through(Cx *cx, Clip *x, int kt, int k, int st)
{
    Clip y;
    TRY(pool(cx, x, (int[]){kt, k, k}, (int[]){st, 2, 2}, &y));
    free(x->x); /* replaced */
    *x = y;
    return GIMBAL_OK;
}

/* ---- the whole --------------------------------------------------------------------------- */

/* Two units after each other into channels `at` of y. */
static int branch(Cx *cx, Normed *first, Normed *second, const Clip *x, Clip *y, int at)
{
    Clip inner;
    TRY(make_clip(&inner, cx, x->t, x->h, x->w, first->out));
    int code = unit_into(cx, first, x, 1, &inner, 0);
    if (!code)
        code = unit_into(cx, second, &inner, 1, y, at);
    free(inner.x); /* between the two */
    return code;
}

static int pooled_branch(Cx *cx, Normed *u, const Clip *x, Clip *y, int at)
{
    Clip most;
    TRY(pool(cx, x, (int[]){3, 3, 3}, (int[]){1, 1, 1}, &most));
    const int code = unit_into(cx, u, &most, 1, y, at);
    free(most.x); /* the maxima */
    return code;
}

static int mixed(Cx *cx, Normed m[BRANCHES], Clip *x)
{
    const int at1 = m[B0].out, at2 = at1 + m[B1B].out, at3 = at2 + m[B2B].out;
    Clip y;
    TRY(make_clip(&y, cx, x->t, x->h, x->w, at3 + m[B3B].out));
    int code = unit_into(cx, &m[B0], x, 1, &y, 0);
    if (!code)
        code = branch(cx, &m[B1A], &m[B1B], x, &y, at1);
    if (!code)
        code = branch(cx, &m[B2A], &m[B2B], x, &y, at2);
    if (!code)
        code = pooled_branch(cx, &m[B3B], x, &y, at3);
    free(x->x); /* replaced */
    *x = y;
    return code;
}

static int body(I3d *n, Cx *cx, Clip *x)
{
    TRY(through(cx, &n->stem, x, 2));
    TRY(pool_through(cx, x, 1, 3, 1));
    TRY(through(cx, &n->second, x, 1));
    TRY(through(cx, &n->third, x, 1));
    TRY(pool_through(cx, x, 1, 3, 1));
    for (int i = 0; i < MIXED; i++) {
        if (i == 2)
            TRY(pool_through(cx, x, 3, 3, 2));
        if (i == 7)
            TRY(pool_through(cx, x, 2, 2, 2));
        TRY(mixed(cx, n->mixed[i], x));
    }
    return GIMBAL_OK;
}

/* x [t,7,7,c]: the mean over pairs of frames and all pixels, the linear, the mean over time. */
static int head(const I3d *n, Cx *cx, const Clip *x, float *logits)
{
    const size_t c = (size_t)x->c, pixels = (size_t)x->h * (size_t)x->w;
    double *mean = calloc(c, sizeof *mean);
    if (!mean)
        return fail(cx->err, GIMBAL_ENOMEM, "no memory for %zu means", c);
    const double share = 1.0 / (2.0 * (double)pixels * (x->t - 1));
    for (int t = 0; t < x->t; t++)
        for (size_t p = 0; p < pixels; p++) /* inner frames are in two pairs */
            for (size_t k = 0; k < c; k++)
                mean[k] += x->x[((size_t)t * pixels + p) * c + k] * share * (t > 0 && t < x->t - 1 ? 2 : 1);
    bool finite = true;
    for (int o = 0; o < I3D_CLASSES; o++) {
        double sum = n->logits.w[1].own[o];
        for (size_t k = 0; k < c; k++)
            sum += mean[k] * n->logits.w[0].own[(size_t)o * c + k];
        logits[o] = (float)sum;
        finite = finite && isfinite(logits[o]);
    }
    free(mean); /* a picture's worth of numbers */
    return finite ? GIMBAL_OK : fail(cx->err, GIMBAL_EVALUE, "I3D's logits are not finite: damaged weights?");
}

int i3d_logits(I3d *n, Cx *cx, const float *clip, int T, float *logits)
{
    if (T < I3D_LEAST)
        return fail(cx->err, GIMBAL_EUSAGE, "I3D takes clips of %d frames or more, found %d", I3D_LEAST, T);
    Clip x;
    TRY(make_clip(&x, cx, T, I3D_SIDE, I3D_SIDE, 3));
    memcpy(x.x, clip, sizeof *clip * 3 * (size_t)T * I3D_SIDE * I3D_SIDE);
    int code = body(n, cx, &x);
    if (!code)
        code = head(n, cx, &x, logits);
    free(x.x); /* the last activations */
    cx_reset(cx);
    return code;
}
