/* loop_attention.c: attention with online softmax; scores exist for 16 queries and KEYS keys at a time.
 *
 * Sixteen queries lie across the lanes of a vector: scores, maxima and sums are vertical, keys and values are read
 * where they are (one value for all lanes), and only the queries and the result are transposed, once. Lanes are
 * positions in space and frames in time, so neither needs a permuted copy. For a block of keys, per query:
 *
 *     m' = max(m, max s),  a = exp(m - m'),  p = exp(s - m'),  l = l*a + sum p,  y = y*a + p v;   at the end y / l
 *
 * The vector type is the compiler's, sixteen floats on any instruction set. */
#include "tensor/cpu/loop.h"

enum { LANES = 16, KEYS = 128, TILE = 4 }; /* TILE groups of queries share a block of keys in the cache */

typedef float Lanes __attribute__((vector_size(64)));

/* A block of one key set: `count` <= KEYS rows at one head's channels. */
typedef struct {
    const float *k, *v;
    int64_t ldk, ldv, count;
} Block;

/* 16 queries on their way. q and y [D][LANES]; lanes beyond the last query repeat it. */
typedef struct {
    Lanes *q, *y, top, sum;
    int64_t first, count; /* query index (position or frame) of lane 0, lanes in use */
} Group;

size_t loop_attention_scratch(const Call *call)
{
    const int64_t D = tensor_channels(call->in[0]) / call->a.attn.arg.heads;
    return (size_t)(2 * D * TILE + KEYS) * sizeof(Lanes);
}

INLINE void scores(const Lanes *q, int64_t D, const Block *b, float scale, Lanes *s)
{
    for (int64_t j = 0; j < b->count; j += 4) {
        const int64_t last = b->count - 1 - j;
        const float *k0 = b->k + j * b->ldk, *k1 = k0 + MIN(1, last) * b->ldk, *k2 = k0 + MIN(2, last) * b->ldk,
                    *k3 = k0 + MIN(3, last) * b->ldk;
        Lanes s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        for (int64_t d = 0; d < D; d++) {
            const Lanes x = q[d];
            s0 += x * k0[d];
            s1 += x * k1[d];
            s2 += x * k2[d];
            s3 += x * k3[d];
        }
        s[j] = s0 * scale, s[j + 1] = s1 * scale, s[j + 2] = s2 * scale, s[j + 3] = s3 * scale;
    }
}

/* Keys that a query may not see: index of key j of the block is from + j. */
INLINE void mask_later(const Group *g, int64_t from, int64_t count, Lanes *s)
{
    for (int64_t j = 0; j < count; j++)
        for (int i = 0; i < LANES; i++)
            if (from + j > g->first + MIN(i, g->count - 1))
                s[j][i] = -INFINITY;
}

/* Scores become p; the group's maximum and sum move on. Returns in *fade what older results shrink by. */
INLINE void soften(Group *g, int64_t count, Lanes *s, Lanes *fade)
{
    float top[LANES], was[LANES], sum[LANES];
    memcpy(top, &g->top, sizeof top);
    memcpy(was, &g->top, sizeof was);
    memcpy(sum, &g->sum, sizeof sum);
    for (int64_t j = 0; j < count; j++) {
        const float *row = (const float *)&s[j];
#pragma omp simd
        for (int i = 0; i < LANES; i++)
            top[i] = choose(row[i] > top[i], row[i], top[i]);
    }
    float shrink[LANES];
#pragma omp simd
    for (int i = 0; i < LANES; i++) {
        shrink[i] = exp_f(was[i] - top[i]);
        sum[i] *= shrink[i];
    }
    for (int64_t j = 0; j < count; j++) {
        float *row = (float *)&s[j];
#pragma omp simd
        for (int i = 0; i < LANES; i++) {
            row[i] = exp_f(row[i] - top[i]);
            sum[i] += row[i];
        }
    }
    memcpy(&g->top, top, sizeof top);
    memcpy(&g->sum, sum, sizeof sum);
    memcpy(fade, shrink, sizeof shrink);
}

INLINE void gather_values(const Lanes *p, int64_t D, const Block *b, const Lanes *fade, Lanes *y)
{
    int64_t c = 0;
    for (; c + 4 <= D; c += 4) {
        Lanes y0 = y[c] * *fade, y1 = y[c + 1] * *fade, y2 = y[c + 2] * *fade, y3 = y[c + 3] * *fade;
        const float *v = b->v + c;
        for (int64_t j = 0; j < b->count; j++, v += b->ldv) {
            y0 += p[j] * v[0];
            y1 += p[j] * v[1];
            y2 += p[j] * v[2];
            y3 += p[j] * v[3];
        }
        y[c] = y0, y[c + 1] = y1, y[c + 2] = y2, y[c + 3] = y3;
    }
    for (; c < D; c++) {
        Lanes sum = y[c] * *fade;
        for (int64_t j = 0; j < b->count; j++)
            sum += p[j] * b->v[j * b->ldv + c];
        y[c] = sum;
    }
}

/* One block of keys for up to TILE groups. later: key index of the block's first row when causal, else -1. */
CLONES static void one_block(Group *groups, int n_groups, const Block *b, int64_t D, float scale, int64_t later,
                             Lanes *s)
{
    for (int i = 0; i < n_groups; i++) {
        Lanes fade;
        scores(groups[i].q, D, b, scale, s);
        if (later >= 0)
            mask_later(&groups[i], later, b->count, s);
        soften(&groups[i], b->count, s, &fade);
        gather_values(s, D, b, &fade, groups[i].y);
    }
}

/* Where a tile's queries are: query i is row `first + i * step` of q and of the result. */
typedef struct {
    int64_t frame, position; /* of query 0 */
    int64_t first, step, count, index;
} Queries;

static void load_group(const Call *call, const Queries *t, int64_t from, int64_t D, int64_t channel, Group *g)
{
    g->first = t->index + from;
    g->count = MIN(LANES, t->count - from);
    for (int i = 0; i < LANES; i++) {
        const float *q = row_at(call->in[0], t->first + (from + MIN(i, g->count - 1)) * t->step) + channel;
        float *lane = (float *)g->q + i;
        for (int64_t d = 0; d < D; d++)
            lane[d * LANES] = q[d];
        ((float *)&g->top)[i] = -INFINITY;
        ((float *)&g->sum)[i] = 0;
    }
    memset(g->y, 0, (size_t)D * sizeof(Lanes));
}

static void store_group(const Call *call, const Queries *t, int64_t from, int64_t D, int64_t channel, const Group *g)
{
    for (int64_t i = 0; i < g->count; i++) {
        float *y = row_at(call->out, t->first + (from + i) * t->step) + channel;
        const float *lane = (const float *)g->y + i, over = 1 / ((const float *)&g->sum)[i];
        for (int64_t d = 0; d < D; d++)
            y[d] = lane[d * LANES] * over;
    }
}

/* All keys for up to TILE * LANES queries of one head. */
static void one_tile(const Call *call, const Queries *t, int head)
{
    const int64_t D = tensor_channels(call->in[0]) / call->a.attn.arg.heads, channel = head * D;
    const bool causal = call->a.attn.arg.causal;
    Lanes *room = thread_scratch(call, loop_attention_scratch(call)), *s = room + 2 * D * TILE;
    Group groups[TILE];
    int n = 0;
    for (int64_t from = 0; from < t->count; from += LANES, n++) {
        groups[n].q = room + 2 * D * n, groups[n].y = groups[n].q + D;
        load_group(call, t, from, D, channel, &groups[n]);
    }
    for (int set = 0; set < call->a.attn.n_kv; set++) {
        /* the last query of the tile sees most */
        const int64_t end = t->index + t->count - 1;
        const KeyRows rows = call->a.attn.arg.in_time ? key_rows(call, set, t->frame - t->index + end, t->position)
                                                      : key_rows(call, set, t->frame, end);
        const Tensor *k = call->in[1 + 2 * set], *v = call->in[2 + 2 * set];
        for (int64_t j = 0; j < rows.count; j += KEYS) {
            const int64_t row = rows.first + j * rows.step;
            const Block b = {row_at(k, row) + channel, row_at(v, row) + channel, k->ld * rows.step,
                             v->ld * rows.step, MIN(KEYS, rows.count - j)};
            const bool hides = causal && call->a.attn.map[set] == KV_SELF;
            one_block(groups, n, &b, D, attention_scale(call), hides ? j : -1, s);
        }
    }
    for (int i = 0; i < n; i++)
        store_group(call, t, (int64_t)i * LANES, D, channel, &groups[i]);
}

int loop_attention(Cx *cx, const Call *call)
{
    const AttnArg *a = &call->a.attn.arg;
    const int64_t S = call->in[0]->n[1], F = a->frames, clips = call->in[0]->n[0] / F;
    const int64_t queries = a->in_time ? F : S, per_tile = TILE * LANES, tiles = (queries + per_tile - 1) / per_tile;
    const int64_t lines = a->in_time ? clips * S : clips * F; /* whose queries see each other */
    PARALLEL_TILES(cx)
    for (int64_t i = 0; i < lines * tiles; i++) {
        const int64_t line = i / tiles, index = i % tiles * per_tile;
        Queries t = {.count = MIN(per_tile, queries - index), .index = index};
        if (a->in_time)
            t.frame = line / S * F + index, t.position = line % S, t.step = S, t.first = t.frame * S + t.position;
        else
            t.frame = line, t.position = index, t.step = 1, t.first = line * S + index;
        for (int head = 0; head < a->heads; head++)
            one_tile(call, &t, head);
    }
    return 0;
}
