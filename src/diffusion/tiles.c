/* tiles.c: one large picture through the VAE's decoder in bounded memory.
 *
 * A convolution needs a row above and one below; a group norm needs the mean and the variance of the whole
 * picture. Tiles that are decoded by themselves take their own for it: their colours drift apart, and where
 * they are blended that only shows less. Here the picture goes through ResNet after ResNet in bands of rows,
 * and every statistic is the whole picture's, gathered over all bands before the first one is normalised:
 *
 *     sums of u           u = x, or of x twice as large through the upsampler's convolution
 *     sums of h           h = conv1(silu(norm1(u)))               norm(u) = (u - mean) / sqrt(var + eps) *
 * scale + shift y, sums of y        y = conv2(silu(norm2(h))) + shortcut(u)
 *
 * A band is read with the rows around it that its result depends on, so bands join without a seam: what comes
 * out is the untiled picture up to rounding. Only x and y are ever whole, and y takes x's place where their
 * shapes agree. The price is conv1 twice and the upsampler three times: 2.2 times the products of SD's
 * decoder, for 1.0 instead of 2.6 KB a pixel.
 *
 * Knows rows, and the decoder's pieces. Refuses to know frames, clips and which pictures are large. */
#include "diffusion/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MANY = 8, LEAST_ROWS = 8 }; /* bands of a picture; rows of a band */
enum { KEPT = 4 };                 /* rows that the next band reads and this one has overwritten */

/* Rows start .. start+n of a picture. */
typedef struct {
    int start, n;
} Rows;

/* One ResNet, behind its level's upsampler where it is the first of its level: x [in_h,in_w,in] in buffer
 * `from` -> y [h,w,out] in buffer `to`. Windows: rows that each piece works on; where they begin depends on
 * the band. */
typedef struct {
    VaePiece up, first, second;
    Plan *plan_up, *plan_first, *plan_second; /* plan_up NULL: x goes in as it is */
    int in_h, in_w, h, w, in, out;
    int bands, rows_low, rows_u, rows_h;
    int from, to;
} Segment;

/* Sums over the picture for one norm, and what they make of it: norm(x) = a x + b, channel by channel. */
typedef struct {
    double *sum, *square; /* [channels] */
    float *a, *b;
} Stats;

struct Tiles {
    Arena keep;
    VaePiece middle, last;
    Plan *plan_middle, *plan_last;
    Segment *segment;
    int n, h, w, c;          /* segments; of the latents */
    int out_bands, rows_out; /* of the last piece */
    int out_from;            /* the buffer it reads; the picture goes to the other one */
    size_t work, floats[2];  /* bytes of the largest plan; of the two buffers */
    size_t staged, kept;     /* floats of a band, raw or normed; of the rows kept */
    Stats of_u, of_h;
    float *buffer[2], *raw, *normed, *old; /* in cx->work, while decoding */
};

/* ---- bands ------------------------------------------------------------------------------- */

/* Bands of a picture of H rows with `row` values each, of about `values`: MANY of them or more, unless they
 * had fewer than LEAST_ROWS. */
static int count_bands(int H, int64_t row, int64_t values)
{
    const int64_t rows = MIN(MAX(MIN(values / row, H / MANY), LEAST_ROWS), H);
    return (int)((H + rows - 1) / rows);
}

/* Band i; they differ by a row at most. */
static Rows band(int i, int bands, int H)
{
    const int from = (int)((int64_t)i * H / bands), to = (int)((int64_t)(i + 1) * H / bands);
    return (Rows){from, to - from};
}

static int band_rows(int bands, int H)
{
    return (H + bands - 1) / bands;
}

/* The window of n rows that begins at `first`, or as near as a picture of H rows lets it. */
static Rows window(int first, int n, int H)
{
    return (Rows){MIN(MAX(first, 0), H - n), n};
}

/* ---- planning ---------------------------------------------------------------------------- */

static Plan *plan_piece(Tiles *t, Cx *cx, VaePiece *piece, int h, int w, int channels, int second_channels)
{
    Tensor *in[2] = {tensor_input(cx, F32, 4, (int64_t[]){1, h, w, channels}, NULL), NULL};
    if (second_channels)
        in[1] = tensor_input(cx, F32, 4, (int64_t[]){1, h, w, second_channels}, NULL);
    Plan *p = plan_make(cx, vae_piece, piece, in);
    if (p)
        t->work = MAX(t->work, plan_bytes(p));
    return p;
}

/* The windows and plans of a segment whose pieces, shapes and buffers are set. */
static bool plan_segment(Tiles *t, Cx *cx, Segment *s, int64_t values)
{
    s->bands = count_bands(s->h, (int64_t)s->w * MAX(s->in, s->out), values);
    s->rows_h = MIN(band_rows(s->bands, s->h) + 2, s->h);
    s->rows_u = MIN(s->rows_h + 2, s->h);
    s->rows_low = MIN((s->rows_u + 1) / 2 + 2, s->in_h);
    t->staged = MAX(t->staged, (size_t)s->rows_u * s->w * MAX(s->in, s->out));
    t->kept = MAX(t->kept, (size_t)KEPT * s->w * s->in);
    if (s->up.vae && !(s->plan_up = plan_piece(t, cx, &s->up, s->rows_low, s->in_w, s->in, 0)))
        return false;
    s->plan_first = plan_piece(t, cx, &s->first, s->rows_u, s->w, s->in, 0);
    s->plan_second = plan_piece(t, cx, &s->second, s->rows_h, s->w, s->out, s->in);
    return s->plan_first && s->plan_second;
}

static void need_floats(Tiles *t, int buffer, int h, int w, int channels)
{
    t->floats[buffer] = MAX(t->floats[buffer], (size_t)h * w * channels);
}

/* All segments; *buffer is where the first one's input lies, and becomes where the last one's result does. */
static bool plan_segments(Tiles *t, Cx *cx, Vae *vae, int64_t values, int *buffer)
{
    const int levels = vae_levels(vae), resnets = vae_resnets(vae);
    int h = t->h, w = t->w, width = vae_middle_width(vae);
    for (int k = 0; k < levels; k++)
        for (int j = 0; j < resnets; j++) {
            Segment *s = &t->segment[t->n++];
            const bool up = k > 0 && j == 0;
            *s = (Segment){.first = {vae, VAE_FIRST, k, j}, .second = {vae, VAE_SECOND, k, j}};
            if (up)
                s->up = (VaePiece){vae, VAE_UP, k - 1, 0};
            s->in_h = h, s->in_w = w, s->in = width, s->out = vae_width(vae, k);
            s->h = h <<= up, s->w = w <<= up;
            s->from = *buffer, s->to = up || s->in != s->out ? !*buffer : *buffer;
            width = s->out, *buffer = s->to;
            need_floats(t, s->to, h, w, width);
            if (!plan_segment(t, cx, s, values))
                return false;
        }
    return true;
}

static bool plan_ends(Tiles *t, Cx *cx, Vae *vae, int64_t values)
{
    int buffer = 0;
    t->middle = (VaePiece){vae, VAE_MIDDLE, 0, 0};
    t->last = (VaePiece){vae, VAE_OUT, 0, 0};
    t->plan_middle = plan_piece(t, cx, &t->middle, t->h, t->w, t->c, 0);
    need_floats(t, buffer, t->h, t->w, vae_middle_width(vae));
    if (!t->plan_middle || !plan_segments(t, cx, vae, values, &buffer))
        return false;
    const Segment *s = &t->segment[t->n - 1];
    t->out_bands = count_bands(s->h, (int64_t)s->w * s->out, values);
    t->rows_out = MIN(band_rows(t->out_bands, s->h) + 2, s->h);
    t->staged = MAX(t->staged, (size_t)t->rows_out * s->w * s->out);
    t->out_from = buffer;
    need_floats(t, !buffer, s->h, s->w, 3);
    t->plan_last = plan_piece(t, cx, &t->last, t->rows_out, s->w, s->out, 0);
    return t->plan_last != NULL;
}

static bool make_stats(Stats *s, Arena *keep, size_t channels)
{
    s->sum = arena_alloc(keep, channels * sizeof *s->sum);
    s->square = arena_alloc(keep, channels * sizeof *s->square);
    s->a = arena_alloc(keep, channels * sizeof *s->a);
    s->b = arena_alloc(keep, channels * sizeof *s->b);
    return s->sum && s->square && s->a && s->b;
}

int tiles_make(Tiles **out, Cx *cx, Vae *vae, gimbal_shape shape, int64_t values, gimbal_error *err)
{
    size_t widest = (size_t)vae_middle_width(vae);
    for (int k = 0; k < vae_levels(vae); k++)
        widest = MAX(widest, (size_t)vae_width(vae, k));
    Tiles *t = *out = calloc(1, sizeof *t);
    if (t)
        t->segment = arena_alloc(&t->keep, (size_t)(vae_levels(vae) * vae_resnets(vae)) * sizeof *t->segment);
    if (!t || !t->segment || !make_stats(&t->of_u, &t->keep, widest) ||
        !make_stats(&t->of_h, &t->keep, widest)) {
        tiles_free(t);
        *out = NULL;
        return fail(err, GIMBAL_ENOMEM, "no memory to plan a picture of %d x %d latents", shape.w, shape.h);
    }
    t->h = shape.h, t->w = shape.w, t->c = shape.c;
    if (plan_ends(t, cx, vae, values))
        return GIMBAL_OK;
    tiles_free(t);
    *out = NULL;
    return pass_on(cx->err, err);
}

void tiles_free(Tiles *t)
{
    if (!t)
        return;
    plan_free(t->plan_middle);
    plan_free(t->plan_last);
    for (int i = 0; i < t->n; i++) {
        plan_free(t->segment[i].plan_up);
        plan_free(t->segment[i].plan_first);
        plan_free(t->segment[i].plan_second);
    }
    arena_free(&t->keep);
    free(t); /* the handle itself, which holds the arena */
}

/* ---- numbers ----------------------------------------------------------------------------- */

static size_t padded(size_t floats)
{
    return (floats * sizeof(float) + 63) & ~(size_t)63;
}

size_t tiles_bytes(const Tiles *t)
{
    return ((t->work + 63) & ~(size_t)63) + padded(t->floats[0]) + padded(t->floats[1]) +
           2 * padded(t->staged) + padded(t->kept);
}

size_t tiles_pack_bytes(const Tiles *t)
{
    size_t sum = plan_pack_bytes(t->plan_middle) + plan_pack_bytes(t->plan_last);
    for (int i = 0; i < t->n; i++) {
        const Segment *s = &t->segment[i];
        sum += s->plan_up ? plan_pack_bytes(s->plan_up) : 0;
        sum += plan_pack_bytes(s->plan_first) + plan_pack_bytes(s->plan_second);
    }
    return sum;
}

double tiles_flops(const Tiles *t)
{
    double sum = plan_flops(t->plan_middle) + t->out_bands * plan_flops(t->plan_last);
    for (int i = 0; i < t->n; i++) {
        const Segment *s = &t->segment[i];
        sum += s->bands * ((s->plan_up ? 3 * plan_flops(s->plan_up) : 0) + 2 * plan_flops(s->plan_first) +
                           plan_flops(s->plan_second));
    }
    return sum;
}

/* Buffers behind the plans' own part of the work memory. */
static bool place_buffers(Tiles *t, Cx *cx)
{
    if (!cx->work || cx->work_bytes < tiles_bytes(t))
        return cx_fail(cx, GIMBAL_ENOMEM, "a large picture needs %zu bytes of working memory, given are %zu",
                       tiles_bytes(t), cx->work ? cx->work_bytes : 0);
    char *at = cx->work + ((t->work + 63) & ~(size_t)63);
    float **const place[] = {&t->buffer[0], &t->buffer[1], &t->raw, &t->normed, &t->old};
    const size_t floats[] = {t->floats[0], t->floats[1], t->staged, t->staged, t->kept};
    for (int i = 0; i < COUNT(place); i++) {
        *place[i] = (float *)(void *)at;
        at += padded(floats[i]);
    }
    return true;
}

/* ---- statistics -------------------------------------------------------------------------- */

static void forget(Stats *s, int channels)
{
    memset(s->sum, 0, (size_t)channels * sizeof *s->sum);
    memset(s->square, 0, (size_t)channels * sizeof *s->square);
}

static void add_rows(Stats *s, const float *x, size_t points, int channels)
{
    double *restrict sum = s->sum, *restrict square = s->square;
    for (size_t i = 0; i < points; i++, x += channels)
        for (int c = 0; c < channels; c++) {
            const double v = x[c];
            sum[c] += v, square[c] += v * v;
        }
}

/* a and b of a norm from its sums over `points` pixels. */
static void settle(Stats *s, const VaePiece *piece, double points)
{
    const VaeNorm n = vae_norm(piece);
    const int per = n.channels / n.groups;
    for (int g = 0; g < n.groups; g++) {
        double sum = 0, square = 0;
        for (int c = g * per; c < (g + 1) * per; c++)
            sum += s->sum[c], square += s->square[c];
        const double mean = sum / (points * per), var = fmax(square / (points * per) - mean * mean, 0);
        const double inverse = 1 / sqrt(var + (double)n.eps);
        for (int c = g * per; c < (g + 1) * per; c++) {
            float scale, shift;
            weight_widen(n.scale, c, 1, &scale);
            weight_widen(n.shift, c, 1, &shift);
            s->a[c] = (float)(inverse * scale);
            s->b[c] = (float)(shift - mean * inverse * scale);
        }
    }
}

static void apply(const Stats *s, const float *x, size_t points, int channels, float *restrict y)
{
    const float *restrict a = s->a, *restrict b = s->b;
    for (size_t i = 0; i < points; i++, x += channels, y += channels)
        for (int c = 0; c < channels; c++)
            y[c] = a[c] * x[c] + b[c];
}

/* ---- one ResNet -------------------------------------------------------------------------- */

static const float *run_piece(Cx *cx, Plan *plan, VaePiece *piece, int h, int w, const float *x, int channels,
                              const float *second, int second_channels)
{
    cx_reset(cx); /* the last call's headers */
    Tensor *in[2] = {tensor_input(cx, F32, 4, (int64_t[]){1, h, w, channels}, x), NULL};
    if (second)
        in[1] = tensor_input(cx, F32, 4, (int64_t[]){1, h, w, second_channels}, second);
    const Tensor *y = plan_run(cx, plan, vae_piece, piece, in);
    return y ? y->d : NULL;
}

/* Where a band's rows come from: its own, those that h needs, those that u needs. */
typedef struct {
    Rows own, h, u;
} Reach;

static Reach reach_of(const Segment *s, int i)
{
    Reach r = {.own = band(i, s->bands, s->h)};
    r.h = window(r.own.start - 1, s->rows_h, s->h);
    r.u = window(r.h.start - 1, s->rows_u, s->h);
    return r;
}

/* u's rows into t->raw: x as it is, of which rows above `written` lie in t->old since y took their place. */
static bool load_u(Tiles *t, Cx *cx, Segment *s, Rows u, int written)
{
    const size_t row = (size_t)s->w * s->in;
    const float *x = t->buffer[s->from];
    if (s->plan_up) {
        const Rows low = window((u.start + 1) / 2 - 1, s->rows_low, s->in_h);
        const float *y = run_piece(cx, s->plan_up, &s->up, low.n, s->in_w,
                                   x + (size_t)low.start * s->in_w * s->in, s->in, NULL, 0);
        if (y)
            memcpy(t->raw, y + (size_t)(u.start - 2 * low.start) * row, (size_t)u.n * row * sizeof *y);
        return y != NULL;
    }
    for (int r = 0; r < u.n; r++) {
        const int at = u.start + r;
        memcpy(t->raw + (size_t)r * row,
               at < written ? t->old + (size_t)(at - (written - KEPT)) * row : x + (size_t)at * row,
               row * sizeof *x);
    }
    return true;
}

/* h on the rows of reach.u from t->raw; all but those at the window's inner edges are right. */
static const float *make_h(Tiles *t, Cx *cx, Segment *s, Rows u)
{
    apply(&t->of_u, t->raw, (size_t)u.n * s->w, s->in, t->normed);
    return run_piece(cx, s->plan_first, &s->first, u.n, s->w, t->normed, s->in, NULL, 0);
}

/* Sums of u, where an upsampler makes it: those of x are there already. */
static bool sum_u(Tiles *t, Cx *cx, Segment *s)
{
    if (s->plan_up)
        forget(&t->of_u, s->in);
    for (int i = 0; s->plan_up && i < s->bands; i++) {
        const Reach r = reach_of(s, i);
        if (!load_u(t, cx, s, r.u, 0))
            return false;
        add_rows(&t->of_u, t->raw + (size_t)(r.own.start - r.u.start) * s->w * s->in, (size_t)r.own.n * s->w,
                 s->in);
    }
    settle(&t->of_u, &s->first, (double)s->h * s->w);
    return true;
}

static bool sum_h(Tiles *t, Cx *cx, Segment *s)
{
    forget(&t->of_h, s->out);
    for (int i = 0; i < s->bands; i++) {
        const Reach r = reach_of(s, i);
        const float *h = load_u(t, cx, s, r.u, 0) ? make_h(t, cx, s, r.u) : NULL;
        if (!h)
            return false;
        add_rows(&t->of_h, h + (size_t)(r.own.start - r.u.start) * s->w * s->out, (size_t)r.own.n * s->w,
                 s->out);
    }
    settle(&t->of_h, &s->second, (double)s->h * s->w);
    return true;
}

/* The rows that y is about to overwrite and the next band still reads. */
static void keep_rows(Tiles *t, const Segment *s, Rows own)
{
    const size_t row = (size_t)s->w * s->in;
    const int end = own.start + own.n, from = MAX(end - KEPT, own.start);
    const int known = KEPT - (end - from); /* rows of the band before that stay */
    memmove(t->old, t->old + (size_t)(KEPT - known) * row, (size_t)known * row * sizeof(float));
    memcpy(t->old + (size_t)known * row, t->buffer[s->from] + (size_t)from * row,
           (size_t)(end - from) * row * sizeof(float));
}

static bool make_y(Tiles *t, Cx *cx, Segment *s)
{
    const size_t row = (size_t)s->w * s->out;
    const bool in_place = s->from == s->to;
    forget(&t->of_u, s->out); /* its a and b are settled: from here its sums are y's, the next segment's */
    for (int i = 0; i < s->bands; i++) {
        const Reach r = reach_of(s, i);
        const float *h = load_u(t, cx, s, r.u, in_place ? r.own.start : 0) ? make_h(t, cx, s, r.u) : NULL;
        if (!h)
            return false;
        apply(&t->of_h, h + (size_t)(r.h.start - r.u.start) * row, (size_t)r.h.n * s->w, s->out, t->normed);
        const float *y = run_piece(cx, s->plan_second, &s->second, r.h.n, s->w, t->normed, s->out,
                                   t->raw + (size_t)(r.h.start - r.u.start) * s->w * s->in, s->in);
        if (!y)
            return false;
        if (in_place)
            keep_rows(t, s, r.own);
        y += (size_t)(r.own.start - r.h.start) * row;
        memcpy(t->buffer[s->to] + (size_t)r.own.start * row, y, (size_t)r.own.n * row * sizeof *y);
        add_rows(&t->of_u, y, (size_t)r.own.n * s->w, s->out);
    }
    return true;
}

/* ---- the picture ------------------------------------------------------------------------- */

static bool run_middle(Tiles *t, Cx *cx, const float *z)
{
    const int width = vae_middle_width(t->middle.vae);
    const size_t points = (size_t)t->h * t->w;
    const float *x = run_piece(cx, t->plan_middle, &t->middle, t->h, t->w, z, t->c, NULL, 0);
    if (!x)
        return false;
    memcpy(t->buffer[0], x, points * (size_t)width * sizeof *x);
    forget(&t->of_u, width);
    add_rows(&t->of_u, x, points, width);
    return true;
}

static const float *run_last(Tiles *t, Cx *cx)
{
    const Segment *s = &t->segment[t->n - 1];
    const float *x = t->buffer[t->out_from];
    float *picture = t->buffer[!t->out_from];
    settle(&t->of_u, &t->last, (double)s->h * s->w);
    for (int i = 0; i < t->out_bands; i++) {
        const Rows own = band(i, t->out_bands, s->h), in = window(own.start - 1, t->rows_out, s->h);
        apply(&t->of_u, x + (size_t)in.start * s->w * s->out, (size_t)in.n * s->w, s->out, t->normed);
        const float *y = run_piece(cx, t->plan_last, &t->last, in.n, s->w, t->normed, s->out, NULL, 0);
        if (!y)
            return NULL;
        memcpy(picture + (size_t)own.start * s->w * 3, y + (size_t)(own.start - in.start) * s->w * 3,
               (size_t)own.n * s->w * 3 * sizeof *y);
    }
    return picture;
}

const float *tiles_decode(Tiles *t, Cx *cx, const float *z)
{
    if (!place_buffers(t, cx) || !run_middle(t, cx, z))
        return NULL;
    for (int i = 0; i < t->n; i++) {
        Segment *s = &t->segment[i];
        if (!sum_u(t, cx, s) || !sum_h(t, cx, s) || !make_y(t, cx, s))
            return NULL;
    }
    return run_last(t, cx);
}
