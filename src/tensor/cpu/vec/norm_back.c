/* norm_back.c: the gradients of GroupNorm and LayerNorm, with SiLU.
 *
 * With h = (x - mean) / sqrt(var + eps), t = h * scale + shift, y = act(t), dt = dy * act'(t), d = dt * scale
 * and means over a statistic:
 *
 *     dx += (d - mean(d) - h * mean(d * h)) / sqrt(var + eps)      dscale += sum(dt * h)    dshift += sum(dt)
 *
 * GroupNorm reads x for its moments (norm.c), then x and dy for sums per channel, of which both means and the
 * weights' gradients are made, then x and dy again for dx. Chunks' sums are of float32; they are added in
 * double and in order. LayerNorm does all of that in the cache, for VL rows at a time, so that what belongs
 * to a row lies in a lane.
 *
 * Knows rows and channels. Refuses to know what a frame is, beyond how many rows share a statistic. */
#include "tensor/cpu/vec/norm.h"

enum { AT_ONCE = 4, SPAN = 64 }; /* rows that are done together; channels that are added up together */

typedef struct {
    NormJob n;
    const float *gy;
    float *gx; /* NULL: not wanted */
    int64_t ldgy, ldgx;
    bool silu, weights; /* weights: scale's or shift's gradient is wanted */
    float *grown;       /* [sets, chunks, 2, padded]: sums of dt and of dt * (x - mean), LayerNorm: dt * h */
    float *center;      /* [sets, 5, padded]: mean; factor and shift, t = (x - mean) * factor + shift;
                           slope and offset, dx = dt * factor + (x - mean) * slope + offset */
} BackJob;

static size_t grown_bytes(const NormJob *n)
{
    return (size_t)(n->sets * n->chunks * 2 * n->padded) * sizeof(float);
}

size_t VEC(norm_back_scratch)(const Cx *cx, const Call *call)
{
    const NormJob n = norm_job(call);
    if (call->a.norm.groups == 0)
        return call->w[0]->trainable || call->w[1]->trainable ? grown_bytes(&n) : 0;
    return norm_statistics_bytes(cx, &n) + round64(grown_bytes(&n)) +
           (size_t)(n.sets * 5 * n.padded) * sizeof(float);
}

static float *grown_at(const BackJob *b, int64_t set, int64_t chunk)
{
    return b->grown + (set * b->n.chunks + chunk) * 2 * b->n.padded;
}

/* Adds `count` pairs of sums, `step` chunks apart, to the gradients of scale and shift. */
static void grow_weights(const Cx *cx, const BackJob *b, int64_t count, int64_t step)
{
    float *gscale = weight_grad(b->n.call->w[0]), *gshift = weight_grad(b->n.call->w[1]);
    if (!b->weights)
        return;
    PARALLEL_FOR(cx, NS_MOVE * (double)(count * 2 * b->n.C))
    for (int64_t c = 0; c < b->n.C; c += SPAN) {
        const int64_t n = MIN(SPAN, b->n.C - c);
        double sum[SPAN] = {0}, sum_h[SPAN] = {0};
        for (int64_t k = 0; k < count; k++) {
            const float *from = grown_at(b, 0, k * step) + c;
            for (int64_t i = 0; i < n; i++)
                sum[i] += from[i], sum_h[i] += from[b->n.padded + i];
        }
        for (int64_t i = 0; gscale && i < n; i++)
            gscale[c + i] += (float)sum_h[i];
        for (int64_t i = 0; gshift && i < n; i++)
            gshift[c + i] += (float)sum[i];
    }
}

/* ---- GroupNorm --------------------------------------------------------------------------- */

static void set_center(const BackJob *b, int64_t set, int64_t group)
{
    const int64_t width = b->n.width, padded = b->n.padded;
    float *mean = b->center + set * 5 * padded, *factor = mean + padded, *shift = factor + padded;
    const Moments m = VEC(norm_moments)(&b->n, set, group);
    for (int64_t c = group * width; c < (group + 1) * width; c++) {
        mean[c] = m.mean;
        factor[c] = (float)(m.over * b->n.scale[c]);
        shift[c] = b->silu ? (float)(b->n.shift[c] - m.rest * m.over * b->n.scale[c]) : 0;
    }
    for (int k = 0; group == 0 && k < 5; k++) /* the lanes beyond C are counted along */
        memset(mean + k * padded + b->n.C, 0, (size_t)(padded - b->n.C) * sizeof *mean);
}

/* Adds R rows to the sums of each channel. */
INLINE void add_rows(const int R, const bool silu, const BackJob *b, const float *x, const float *gy,
                     const float *mean, float *s1)
{
    const int64_t C = b->n.C, padded = b->n.padded, ld_x = b->n.call->in[0]->ld;
    for (int64_t c = 0; c < C; c += VL) {
        const int64_t n = C - c;
        const V m = ld(mean + c), factor = ld(mean + padded + c), shift = ld(mean + 2 * padded + c);
        V sum = ld(s1 + c), sum_x = ld(s1 + padded + c);
        UNROLL for (int r = 0; r < R; r++)
        {
            const V d = ld_some(x + r * ld_x + c, n) - m;
            V dt = ld_some(gy + r * b->ldgy + c, n);
            if (silu)
                dt *= silu_slope_v(d * factor + shift);
            sum += dt;
            sum_x += dt * d;
        }
        st(s1 + c, sum);
        st(s1 + padded + c, sum_x);
    }
}

INLINE void sum_chunk(const bool silu, const BackJob *b, int64_t set, int64_t chunk)
{
    const int64_t from = set * b->n.rows + chunk * CHUNK, rows = MIN(CHUNK, b->n.rows - chunk * CHUNK);
    const float *x = row_at(b->n.call->in[0], from), *gy = b->gy + from * b->ldgy;
    const float *mean = b->center + set * 5 * b->n.padded;
    const int64_t ld_x = b->n.call->in[0]->ld;
    float *sums = grown_at(b, set, chunk);
    int64_t r = 0;
    memset(sums, 0, (size_t)(2 * b->n.padded) * sizeof *sums);
    for (; r + AT_ONCE <= rows; r += AT_ONCE)
        add_rows(AT_ONCE, silu, b, x + r * ld_x, gy + r * b->ldgy, mean, sums);
    for (; r < rows; r++)
        add_rows(1, silu, b, x + r * ld_x, gy + r * b->ldgy, mean, sums);
}

/* Adds up the chunks of one statistic, into the first of them and now with h for x - mean, and finds dx's
 * slope and offset. */
static void sum_group(const BackJob *b, int64_t set, int64_t group)
{
    const Moments m = VEC(norm_moments)(&b->n, set, group);
    const int64_t padded = b->n.padded, end = (group + 1) * b->n.width;
    const double count = (double)(b->n.rows * b->n.width);
    double mean_d = 0, mean_dh = 0;
    for (int64_t c = group * b->n.width; c < end; c += SPAN) {
        const int64_t n = MIN(SPAN, end - c);
        double sum[SPAN] = {0}, sum_x[SPAN] = {0};
        for (int64_t k = 0; k < b->n.chunks; k++) {
            const float *from = grown_at(b, set, k) + c;
            for (int64_t i = 0; i < n; i++)
                sum[i] += from[i], sum_x[i] += from[padded + i];
        }
        float *to = grown_at(b, set, 0) + c;
        for (int64_t i = 0; i < n; i++) {
            const double sum_h = (sum_x[i] - m.rest * sum[i]) * m.over;
            mean_d += sum[i] * b->n.scale[c + i] / count;
            mean_dh += sum_h * b->n.scale[c + i] / count;
            to[i] = (float)sum[i], to[padded + i] = (float)sum_h;
        }
    }
    float *slope = b->center + (set * 5 + 3) * padded, *offset = slope + padded;
    for (int64_t c = group * b->n.width; c < end; c++) {
        slope[c] = (float)(-m.over * m.over * mean_dh);
        offset[c] = (float)(m.over * (m.rest * m.over * mean_dh - mean_d));
    }
}

/* dx of R rows. */
INLINE void grow_rows(const int R, const bool silu, const BackJob *b, const float *x, const float *gy,
                      const float *mean, float *gx)
{
    const int64_t C = b->n.C, padded = b->n.padded, ld_x = b->n.call->in[0]->ld;
    for (int64_t c = 0; c < C; c += VL) {
        const int64_t n = C - c;
        const float *at = mean + c;
        const V m = ld(at), factor = ld(at + padded), shift = ld(at + 2 * padded);
        const V slope = ld(at + 3 * padded), offset = ld(at + 4 * padded);
        UNROLL for (int r = 0; r < R; r++)
        {
            const V d = ld_some(x + r * ld_x + c, n) - m;
            V dt = ld_some(gy + r * b->ldgy + c, n);
            if (silu)
                dt *= silu_slope_v(d * factor + shift);
            float *to = gx + r * b->ldgx + c;
            st_some(to, ld_some(to, n) + (dt * factor + (d * slope + offset)), n);
        }
    }
}

INLINE void grow_chunk(const bool silu, const BackJob *b, int64_t set, int64_t chunk)
{
    const int64_t from = set * b->n.rows + chunk * CHUNK, rows = MIN(CHUNK, b->n.rows - chunk * CHUNK);
    const float *x = row_at(b->n.call->in[0], from), *gy = b->gy + from * b->ldgy;
    const float *mean = b->center + set * 5 * b->n.padded;
    const int64_t ld_x = b->n.call->in[0]->ld;
    float *gx = b->gx + from * b->ldgx;
    int64_t r = 0;
    for (; r + AT_ONCE <= rows; r += AT_ONCE)
        grow_rows(AT_ONCE, silu, b, x + r * ld_x, gy + r * b->ldgy, mean, gx + r * b->ldgx);
    for (; r < rows; r++)
        grow_rows(1, silu, b, x + r * ld_x, gy + r * b->ldgy, mean, gx + r * b->ldgx);
}

static void group_norm_back(const Cx *cx, BackJob *b)
{
    const double ns = NS_NORM * b->n.call->flops;
    const int64_t parts = b->n.sets * b->n.chunks, statistics = b->n.sets * b->n.groups;
    b->grown = (float *)(b->n.call->tmp + norm_statistics_bytes(cx, &b->n));
    b->center = b->grown + round64(grown_bytes(&b->n)) / sizeof(float);
    VEC(norm_statistics)(cx, &b->n);
    for (int64_t i = 0; i < statistics; i++)
        set_center(b, i / b->n.groups, i % b->n.groups);
    PARALLEL_FOR(cx, ns)
    for (int64_t i = 0; i < parts; i++)
        b->silu ? sum_chunk(true, b, i / b->n.chunks, i % b->n.chunks)
                : sum_chunk(false, b, i / b->n.chunks, i % b->n.chunks);
    PARALLEL_FOR(cx, NS_MOVE * (double)(parts * 2 * b->n.C))
    for (int64_t i = 0; i < statistics; i++)
        sum_group(b, i / b->n.groups, i % b->n.groups);
    grow_weights(cx, b, b->n.sets, b->n.chunks);
    if (!b->gx)
        return;
    PARALLEL_FOR(cx, ns)
    for (int64_t i = 0; i < parts; i++)
        b->silu ? grow_chunk(true, b, i / b->n.chunks, i % b->n.chunks)
                : grow_chunk(false, b, i / b->n.chunks, i % b->n.chunks);
}

/* ---- LayerNorm --------------------------------------------------------------------------- */

/* Up to VL rows. t = ((x - mean) * over + lack) * scale + shift, dx = dt * scale * over + (x - mean) * slope
 * + offset. */
typedef struct {
    const float *x, *gy;
    float *gx;
    int64_t rows, ld_x;
    RowMoments m;
    float slope[VL], offset[VL];
} Rows;

/* dt of n channels of row r, from dy and d = x - mean. */
INLINE V dt_of(const bool silu, const BackJob *b, const Rows *p, int64_t r, int64_t c, V d, V gy)
{
    const int64_t n = b->n.C - c;
    if (!silu)
        return gy;
    return gy * silu_slope_v((d * p->m.over[r] + p->m.lack[r]) * ld_some(b->n.scale + c, n) +
                             ld_some(b->n.shift + c, n));
}

/* slope and offset. */
INLINE void find_slopes(const bool silu, const BackJob *b, Rows *p)
{
    const int64_t C = b->n.C;
    const float *scale = b->n.scale;
    V t1[VL] = {{0}}, t2[VL] = {{0}};
    double s1[VL], s2[VL];
    for (int64_t r = 0; r < p->rows; r++) {
        const float *x = p->x + r * p->ld_x, *gy = p->gy + r * b->ldgy, mean = p->m.mean[r];
        V sum = {0}, sum_x = {0};
        for (int64_t c = 0; c < C; c += VL) {
            const V d = ld_some(x + c, C - c) - mean;
            const V dt = dt_of(silu, b, p, r, c, d, ld_some(gy + c, C - c)) * ld_some(scale + c, C - c);
            sum += dt;
            sum_x += dt * d;
        }
        t1[r] = sum, t2[r] = sum_x;
    }
    sums_of_lanes(t1, s1);
    sums_of_lanes(t2, s2);
    for (int64_t r = 0; r < VL; r++) {
        const double over = (double)p->m.over[r], lack = (double)p->m.lack[r];
        const double mean_d = s1[r] / (double)C, mean_dh = s2[r] / (double)C * over + lack * mean_d;
        p->slope[r] = (float)(-over * over * mean_dh);
        p->offset[r] = (float)(-over * (mean_d + lack * mean_dh));
    }
}

/* dx of R rows from row `from` on, and what they add to the sums of each channel. */
INLINE void grow_layer_rows(const int R, const bool silu, const BackJob *b, const Rows *p, int64_t from,
                            float *sums)
{
    const float *x = p->x + from * p->ld_x, *gy = p->gy + from * b->ldgy;
    float *gx = p->gx ? p->gx + from * b->ldgx : NULL;
    for (int64_t c = 0; c < b->n.C; c += VL) {
        const int64_t n = b->n.C - c;
        const V scale = ld_some(b->n.scale + c, n);
        V sum = {0}, sum_h = {0};
        UNROLL for (int i = 0; i < R; i++)
        {
            const int64_t r = from + i;
            const V d = ld_some(x + i * p->ld_x + c, n) - p->m.mean[r];
            const V dt = dt_of(silu, b, p, r, c, d, ld_some(gy + i * b->ldgy + c, n));
            sum += dt;
            sum_h += dt * (d * p->m.over[r] + p->m.lack[r]);
            float *to = gx + i * b->ldgx + c;
            if (gx)
                st_some(to, ld_some(to, n) + (dt * scale * p->m.over[r] + (d * p->slope[r] + p->offset[r])),
                        n);
        }
        if (sums) {
            st(sums + c, ld(sums + c) + sum);
            st(sums + b->n.padded + c, ld(sums + b->n.padded + c) + sum_h);
        }
    }
}

INLINE void layer_norm_chunk(const bool silu, const BackJob *b, int64_t chunk)
{
    const Tensor *x = b->n.call->in[0];
    const int64_t end = MIN(b->n.rows, (chunk + 1) * CHUNK);
    float *sums = b->weights ? grown_at(b, 0, chunk) : NULL;
    if (sums)
        memset(sums, 0, (size_t)(2 * b->n.padded) * sizeof *sums);
    for (int64_t r = chunk * CHUNK; r < end; r += VL) {
        Rows p = {.x = row_at(x, r),
                  .gy = b->gy + r * b->ldgy,
                  .gx = b->gx ? b->gx + r * b->ldgx : NULL,
                  .rows = MIN(VL, end - r),
                  .ld_x = x->ld};
        row_moments(&b->n, p.x, p.ld_x, p.rows, &p.m);
        if (b->gx)
            find_slopes(silu, b, &p);
        int64_t i = 0;
        for (; i + AT_ONCE <= p.rows; i += AT_ONCE)
            grow_layer_rows(AT_ONCE, silu, b, &p, i, sums);
        for (; i < p.rows; i++)
            grow_layer_rows(1, silu, b, &p, i, sums);
    }
}

static void layer_norm_back(const Cx *cx, BackJob *b)
{
    b->grown = (float *)b->n.call->tmp;
    PARALLEL_FOR(cx, NS_NORM * b->n.call->flops)
    for (int64_t chunk = 0; chunk < b->n.chunks; chunk++)
        b->silu ? layer_norm_chunk(true, b, chunk) : layer_norm_chunk(false, b, chunk);
    grow_weights(cx, b, b->n.chunks, 1);
}

int VEC(norm_back)(Cx *cx, const Call *call)
{
    BackJob b = {.n = norm_job(call), .silu = call->a.norm.act == ACT_SILU};
    b.gy = grad_of(call->out, &b.ldgy);
    b.gx = grad_of(call->in[0], &b.ldgx);
    b.weights = weight_grad(call->w[0]) || weight_grad(call->w[1]);
    b.n.scale = weight_floats(cx, call->w[0]);
    b.n.shift = weight_floats(cx, call->w[1]);
    if (!b.n.scale || !b.n.shift)
        return cx->err->code;
    if (!b.gx && !b.weights)
        return GIMBAL_OK;
    if (call->a.norm.groups > 0)
        group_norm_back(cx, &b);
    else
        layer_norm_back(cx, &b);
    return GIMBAL_OK;
}
