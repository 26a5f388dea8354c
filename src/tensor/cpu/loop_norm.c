/* loop_norm.c: GroupNorm and LayerNorm, with SiLU in the same pass.
 *
 * GroupNorm reads x twice and writes once. A set's rows are cut into chunks of ROW_BLOCK rows; each gives per
 * group its mean and sum of squared deviations (m, d), taken about the chunk's first row so that float32 sums
 * stay small:
 *
 *     channel:  m = k + s1/R,  d = s2 - s1*s1/R      s1, s2: sums of (x - k) and (x - k)^2
 *     merging n sets of equal meaning:  d = sum d_i + sum R_i (m_i - m)^2
 *
 * Chunks are merged in order, in double: any number of threads gives the same bytes. LayerNorm is row by row.
 */
#include "tensor/cpu/loop.h"

enum { PARTS = 16 }; /* partial sums of a row */

typedef struct {
    double mean, dev; /* dev: sum of squared deviations */
} Partial;

typedef struct {
    const Call *call;
    const float *scale, *shift;
    int64_t C, sets, rows, chunks, groups, width;
    Partial *partial; /* [sets, chunks, groups] */
    float *center;    /* [sets, 2, C]: mean, then scale / sqrt(var + eps) */
    float *sums;      /* [threads, 2, C] */
} Job;

static Job job_of(const Call *call)
{
    const Tensor *x = call->in[0];
    Job j = {.call = call, .C = tensor_channels(x), .groups = call->a.norm.groups};
    j.sets = x->n[0] / call->a.norm.per;
    j.rows = tensor_rows(x) / j.sets;
    j.chunks = (j.rows + ROW_BLOCK - 1) / ROW_BLOCK;
    j.width = j.C / j.groups;
    j.partial = (Partial *)call->tmp;
    return j;
}

static size_t partial_bytes(const Job *j)
{
    return round64((size_t)(j->sets * j->chunks * j->groups) * sizeof(Partial));
}

size_t loop_norm_scratch(const Cx *cx, const Call *call)
{
    if (call->a.norm.groups == 0)
        return 0;
    const Job j = job_of(call);
    return partial_bytes(&j) + (size_t)(j.sets + cx->threads) * 2 * (size_t)j.C * sizeof(float);
}

/* Sums of a chunk per channel about its first row. */
CLONES static void channel_sums(const float *x, int64_t ld, int64_t rows, int64_t C, float *s1, float *s2)
{
    memset(s1, 0, (size_t)C * sizeof(float));
    memset(s2, 0, (size_t)C * sizeof(float));
    for (int64_t r = 1; r < rows; r++) {
        const float *row = x + r * ld;
#pragma omp simd
        for (int64_t c = 0; c < C; c++) {
            const float d = row[c] - x[c];
            s1[c] += d;
            s2[c] += d * d;
        }
    }
}

static void chunk_statistics(const Job *j, int64_t set, int64_t chunk)
{
    const int64_t from = chunk * ROW_BLOCK, rows = MIN(ROW_BLOCK, j->rows - from);
    const float *x = row_at(j->call->in[0], set * j->rows + from);
    float *s1 = j->sums + (int64_t)omp_get_thread_num() * 2 * j->C, *s2 = s1 + j->C;
    channel_sums(x, j->call->in[0]->ld, rows, j->C, s1, s2);
    for (int64_t g = 0; g < j->groups; g++) {
        double mean = 0, dev = 0;
        for (int64_t c = g * j->width; c < (g + 1) * j->width; c++)
            mean += x[c] + (double)s1[c] / (double)rows;
        mean /= (double)j->width;
        for (int64_t c = g * j->width; c < (g + 1) * j->width; c++) {
            const double off = x[c] + (double)s1[c] / (double)rows - mean;
            dev += (double)s2[c] - (double)s1[c] * s1[c] / (double)rows + off * off * (double)rows;
        }
        j->partial[(set * j->chunks + chunk) * j->groups + g] = (Partial){mean, dev};
    }
}

static void set_center(const Job *j, int64_t set)
{
    float *mean_of = j->center + set * 2 * j->C, *factor = mean_of + j->C;
    for (int64_t g = 0; g < j->groups; g++) {
        const Partial *p = j->partial + set * j->chunks * j->groups + g;
        double mean = 0, dev = 0;
        for (int64_t k = 0; k < j->chunks; k++)
            mean += p[k * j->groups].mean * (double)MIN(ROW_BLOCK, j->rows - k * ROW_BLOCK) / (double)j->rows;
        for (int64_t k = 0; k < j->chunks; k++) {
            const double off = p[k * j->groups].mean - mean;
            const double count = (double)(MIN(ROW_BLOCK, j->rows - k * ROW_BLOCK) * j->width);
            dev += p[k * j->groups].dev + off * off * count;
        }
        const double var = dev / (double)(j->rows * j->width), over = 1 / sqrt(var + j->call->a.norm.eps);
        for (int64_t c = g * j->width; c < (g + 1) * j->width; c++) {
            mean_of[c] = (float)mean;
            factor[c] = (float)(over * j->scale[c]);
        }
    }
}

/* y = (x - mean) * factor + shift on `rows` rows, then SiLU. */
CLONES static void apply(const float *x, int64_t ld, int64_t rows, int64_t C, const float *mean,
                         const float *factor, const float *shift, bool silu, float *y)
{
    for (int64_t r = 0; r < rows; r++, x += ld, y += C) {
        if (silu) {
#pragma omp simd
            for (int64_t c = 0; c < C; c++)
                y[c] = silu_f((x[c] - mean[c]) * factor[c] + shift[c]);
        } else {
#pragma omp simd
            for (int64_t c = 0; c < C; c++)
                y[c] = (x[c] - mean[c]) * factor[c] + shift[c];
        }
    }
}

static int group_norm(Cx *cx, const Call *call, const float *scale, const float *shift)
{
    const double ns = NS_NORM * call->flops;
    Job j = job_of(call);
    j.scale = scale, j.shift = shift;
    j.center = (float *)(call->tmp + partial_bytes(&j));
    j.sums = j.center + j.sets * 2 * j.C;
    PARALLEL_FOR(cx, ns)
    for (int64_t i = 0; i < j.sets * j.chunks; i++)
        chunk_statistics(&j, i / j.chunks, i % j.chunks);
    for (int64_t set = 0; set < j.sets; set++)
        set_center(&j, set);
    PARALLEL_FOR(cx, ns)
    for (int64_t i = 0; i < j.sets * j.chunks; i++) {
        const int64_t set = i / j.chunks, from = i % j.chunks * ROW_BLOCK;
        const float *mean = j.center + set * 2 * j.C;
        apply(row_at(call->in[0], set * j.rows + from), call->in[0]->ld, MIN(ROW_BLOCK, j.rows - from), j.C,
              mean, mean + j.C, shift, call->a.norm.act == ACT_SILU, row_at(call->out, set * j.rows + from));
    }
    return 0;
}

/* Sum of (x - about)^power over one row, power 1 or 2, in 16 partial sums: one long float sum would lose
 * digits. */
INLINE double row_sum(const float *x, int64_t C, float about, int power)
{
    float part[PARTS] = {0};
    int64_t c = 0;
    for (; c + PARTS <= C; c += PARTS)
#pragma omp simd
        for (int i = 0; i < PARTS; i++) {
            const float d = x[c + i] - about;
            part[i] += power == 2 ? d * d : d;
        }
    for (; c < C; c++) {
        const float d = x[c] - about;
        part[c % PARTS] += power == 2 ? d * d : d;
    }
    double sum = 0;
    for (int i = 0; i < PARTS; i++)
        sum += part[i];
    return sum;
}

CLONES static void layer_norm_rows(const float *x, int64_t ld, int64_t rows, int64_t C, const float *scale,
                                   const float *shift, float eps, bool silu, float *y)
{
    for (int64_t r = 0; r < rows; r++, x += ld, y += C) {
        const float mean = (float)(row_sum(x, C, 0, 1) / (double)C);
        const float over = (float)(1 / sqrt(row_sum(x, C, mean, 2) / (double)C + eps));
#pragma omp simd
        for (int64_t c = 0; c < C; c++)
            y[c] = (x[c] - mean) * over * scale[c] + shift[c];
        if (silu) {
#pragma omp simd
            for (int64_t c = 0; c < C; c++)
                y[c] = silu_f(y[c]);
        }
    }
}

int loop_norm(Cx *cx, const Call *call)
{
    const float *scale = weight_floats(cx, call->w[0]), *shift = weight_floats(cx, call->w[1]);
    const int64_t rows = tensor_rows(call->in[0]), C = tensor_channels(call->in[0]);
    const double ns = NS_NORM * call->flops;
    if (!scale || !shift)
        return cx->err->code;
    if (call->a.norm.groups > 0)
        return group_norm(cx, call, scale, shift);
    PARALLEL_FOR(cx, ns)
    for (int64_t r = 0; r < rows; r += ROW_BLOCK)
        layer_norm_rows(row_at(call->in[0], r), call->in[0]->ld, MIN(ROW_BLOCK, rows - r), C, scale, shift,
                        call->a.norm.eps, call->a.norm.act == ACT_SILU, row_at(call->out, r));
    return 0;
}
