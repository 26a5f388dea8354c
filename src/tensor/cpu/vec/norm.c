/* norm.c: GroupNorm and LayerNorm, with SiLU in the same pass.
 *
 *     y = act((x - mean) / sqrt(var + eps) * scale[c] + shift[c])
 *
 * GroupNorm reads x twice and writes once. The rows of a statistic are cut into chunks of CHUNK rows; each
 * gives per group its mean and sum of squared deviations, taken about the chunk's first row so that float32
 * sums stay small:
 *
 *     channel:  m = k + s1/R,  d = s2 - s1*s1/R      s1, s2: sums of (x - k) and (x - k)^2
 *     merging n sets of equal meaning:  d = sum d_i + sum R_i (m_i - m)^2
 *
 * Chunks are merged in order, in double. LayerNorm is row by row, VL of them at a time (norm.h). A mean that
 * float32 cannot hold is not lost: what is left of it goes into the shift.
 *
 * Knows rows and channels. Refuses to know what a frame is, beyond how many rows share a statistic. */
#include "tensor/cpu/vec/norm.h"

enum { AT_ONCE = 7 }; /* rows that are added together: CHUNK - 1 is a multiple */

/* center [sets, 3, C]: mean, scale / sqrt(var + eps), shift less what the mean lacks. */
static size_t center_bytes(const NormJob *j)
{
    return round64((size_t)(j->sets * 3 * j->C) * sizeof(float));
}

size_t VEC(norm_scratch)(const Cx *cx, const Call *call)
{
    if (call->a.norm.groups == 0)
        return 0;
    const NormJob j = norm_job(call);
    return norm_statistics_bytes(cx, &j) + center_bytes(&j);
}

/* ---- statistics of a chunk --------------------------------------------------------------- */

/* Adds R rows, as differences from `first`, to the sums of each channel. */
INLINE void add_rows(const int R, const float *first, const float *x, int64_t ld_x, int64_t C, float *s1,
                     float *s2)
{
    for (int64_t c = 0; c < C; c += VL) {
        const int64_t n = C - c;
        const V k = ld_some(first + c, n);
        V a = ld(s1 + c), b = ld(s2 + c);
        UNROLL for (int r = 0; r < R; r++)
        {
            const V d = ld_some(x + r * ld_x + c, n) - k;
            a += d;
            b += d * d;
        }
        st(s1 + c, a);
        st(s2 + c, b);
    }
}

static void channel_sums(const float *x, int64_t ld_x, int64_t rows, int64_t C, float *s1, float *s2)
{
    int64_t r = 1;
    for (; r + AT_ONCE <= rows; r += AT_ONCE)
        add_rows(AT_ONCE, x, x + r * ld_x, ld_x, C, s1, s2);
    for (; r < rows; r++)
        add_rows(1, x, x + r * ld_x, ld_x, C, s1, s2);
}

static void chunk_statistics(const NormJob *j, int64_t set, int64_t chunk)
{
    const int64_t from = chunk * CHUNK, rows = MIN(CHUNK, j->rows - from);
    const double over_rows = 1 / (double)rows, over_width = 1 / (double)j->width;
    const float *x = row_at(j->call->in[0], set * j->rows + from);
    float *s1 = j->sums + (int64_t)omp_get_thread_num() * 2 * j->padded, *s2 = s1 + j->padded;
    memset(s1, 0, (size_t)(2 * j->padded) * sizeof(float));
    channel_sums(x, j->call->in[0]->ld, rows, j->C, s1, s2);
    for (int64_t g = 0; g < j->groups; g++) {
        double mean = 0, dev = 0;
        for (int64_t c = g * j->width; c < (g + 1) * j->width; c++)
            mean += x[c] + s1[c] * over_rows;
        mean *= over_width;
        for (int64_t c = g * j->width; c < (g + 1) * j->width; c++) {
            const double own = s1[c] * over_rows, off = x[c] + own - mean;
            dev += s2[c] - s1[c] * own + off * off * (double)rows;
        }
        j->partial[(set * j->chunks + chunk) * j->groups + g] = (Partial){mean, dev};
    }
}

void VEC(norm_statistics)(const Cx *cx, const NormJob *j)
{
    PARALLEL_FOR(cx, NS_NORM * j->call->flops)
    for (int64_t i = 0; i < j->sets * j->chunks; i++)
        chunk_statistics(j, i / j->chunks, i % j->chunks);
}

Moments VEC(norm_moments)(const NormJob *j, int64_t set, int64_t group)
{
    const Partial *p = j->partial + set * j->chunks * j->groups + group;
    double mean = 0, dev = 0;
    for (int64_t k = 0; k < j->chunks; k++)
        mean += p[k * j->groups].mean * (double)MIN(CHUNK, j->rows - k * CHUNK) / (double)j->rows;
    for (int64_t k = 0; k < j->chunks; k++) {
        const double off = p[k * j->groups].mean - mean;
        const double count = (double)(MIN(CHUNK, j->rows - k * CHUNK) * j->width);
        dev += p[k * j->groups].dev + off * off * count;
    }
    const double var = MAX(dev, 0) / (double)(j->rows * j->width);
    return (Moments){(float)mean, 1 / sqrt(var + j->call->a.norm.eps), mean - (double)(float)mean};
}

/* ---- their use --------------------------------------------------------------------------- */

static void set_center(const NormJob *j, int64_t set, float *center)
{
    float *mean_of = center + set * 3 * j->C, *factor = mean_of + j->C, *shift = factor + j->C;
    for (int64_t g = 0; g < j->groups; g++) {
        const Moments m = VEC(norm_moments)(j, set, g);
        for (int64_t c = g * j->width; c < (g + 1) * j->width; c++) {
            mean_of[c] = m.mean;
            factor[c] = (float)(m.over * j->scale[c]);
            shift[c] = (float)(j->shift[c] - m.rest * m.over * j->scale[c]);
        }
    }
}

/* y = (x - mean) * factor + shift on `rows` rows, then SiLU. */
INLINE void apply(const bool silu, const float *x, int64_t ld_x, int64_t rows, int64_t C, const float *mean,
                  float *y)
{
    const float *factor = mean + C, *shift = factor + C;
    for (int64_t r = 0; r < rows; r++, x += ld_x, y += C)
        for (int64_t c = 0; c < C; c += VL) {
            const int64_t n = C - c;
            const V t =
                (ld_some(x + c, n) - ld_some(mean + c, n)) * ld_some(factor + c, n) + ld_some(shift + c, n);
            st_some(y + c, silu ? silu_v(t) : t, n);
        }
}

static void apply_chunk(const NormJob *j, int64_t set, int64_t chunk, const float *center)
{
    const Tensor *x = j->call->in[0];
    const int64_t r = set * j->rows + chunk * CHUNK, rows = MIN(CHUNK, j->rows - chunk * CHUNK);
    const float *mean = center + set * 3 * j->C;
    if (j->call->a.norm.act == ACT_SILU)
        apply(true, row_at(x, r), x->ld, rows, j->C, mean, row_at(j->call->out, r));
    else
        apply(false, row_at(x, r), x->ld, rows, j->C, mean, row_at(j->call->out, r));
}

static void group_norm(const Cx *cx, const NormJob *j)
{
    float *center = (float *)(j->call->tmp + norm_statistics_bytes(cx, j));
    VEC(norm_statistics)(cx, j);
    for (int64_t set = 0; set < j->sets; set++)
        set_center(j, set, center);
    PARALLEL_FOR(cx, NS_NORM * j->call->flops)
    for (int64_t i = 0; i < j->sets * j->chunks; i++)
        apply_chunk(j, i / j->chunks, i % j->chunks, center);
}

/* ---- LayerNorm --------------------------------------------------------------------------- */

/* Up to VL rows. */
INLINE void layer_norm_rows(const bool silu, const NormJob *j, const float *x, int64_t ld_x, int64_t rows,
                            float *y)
{
    RowMoments m;
    row_moments(j, x, ld_x, rows, &m);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < j->C; c += VL) {
            const int64_t n = j->C - c;
            const V h = (ld_some(x + r * ld_x + c, n) - m.mean[r]) * m.over[r] + m.lack[r];
            const V t = h * ld_some(j->scale + c, n) + ld_some(j->shift + c, n);
            st_some(y + r * j->C + c, silu ? silu_v(t) : t, n);
        }
}

static void layer_norm(const Cx *cx, const NormJob *j)
{
    const Tensor *x = j->call->in[0], *y = j->call->out;
    const bool silu = j->call->a.norm.act == ACT_SILU;
    PARALLEL_FOR(cx, NS_NORM * j->call->flops)
    for (int64_t r = 0; r < j->rows; r += VL) {
        const int64_t rows = MIN(VL, j->rows - r);
        silu ? layer_norm_rows(true, j, row_at(x, r), x->ld, rows, row_at(y, r))
             : layer_norm_rows(false, j, row_at(x, r), x->ld, rows, row_at(y, r));
    }
}

int VEC(norm)(Cx *cx, const Call *call)
{
    const float *scale = weight_floats(cx, call->w[0]), *shift = weight_floats(cx, call->w[1]);
    if (!scale || !shift)
        return cx->err->code;
    NormJob j = norm_job(call);
    j.scale = scale, j.shift = shift;
    if (call->a.norm.groups > 0)
        group_norm(cx, &j);
    else
        layer_norm(cx, &j);
    return 0;
}
