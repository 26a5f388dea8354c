/* loop_attention.c: attention with online softmax; scores exist for 16 queries and KEYS keys at a time.
 *
 * Sixteen queries lie across the lanes of a vector: scores, maxima and sums are vertical, keys and values are
 * read where they are (one value for all lanes), and only the queries and the result are transposed, once.
 * Lanes are positions in space and frames in time, so neither needs a permuted copy. For a block of keys, per
 * query:
 *
 *     m' = max(m, max s),  a = exp(m - m'),  p = exp(s - m'),  l = l*a + sum p,  y = y*a + p v;   at the end
 * y / l
 *
 * Loops over lanes are plain: the compiler keeps four rows of lanes in registers, on any instruction set. */
#include "tensor/cpu/loop.h"

enum {
    LANES = 16,
    KEYS = 128,
    TILE = 4,
    AT_ONCE = 4
}; /* TILE groups of queries share a block of keys in the cache */

typedef struct {
    float v[LANES];
} Lanes;

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

/* s[j] = scale * (k_j . q) for AT_ONCE keys from k on, `last` the last that exists (it stands in for the
 * rest). */
INLINE void some_scores(const Lanes *q, int64_t D, const float *k, int64_t ld, int64_t last, float scale,
                        Lanes *s)
{
    const float *k0 = k, *k1 = k + MIN(1, last) * ld, *k2 = k + MIN(2, last) * ld,
                *k3 = k + MIN(3, last) * ld;
    Lanes s0 = {{0}}, s1 = {{0}}, s2 = {{0}}, s3 = {{0}};
    for (int64_t d = 0; d < D; d++) {
        const float *x = q[d].v, a0 = k0[d], a1 = k1[d], a2 = k2[d], a3 = k3[d];
#pragma omp simd
        for (int i = 0; i < LANES; i++) {
            s0.v[i] += x[i] * a0;
            s1.v[i] += x[i] * a1;
            s2.v[i] += x[i] * a2;
            s3.v[i] += x[i] * a3;
        }
    }
#pragma omp simd
    for (int i = 0; i < LANES; i++) {
        s[0].v[i] = s0.v[i] * scale;
        s[1].v[i] = s1.v[i] * scale;
        s[2].v[i] = s2.v[i] * scale;
        s[3].v[i] = s3.v[i] * scale;
    }
}

CLONES static void scores(const Lanes *q, int64_t D, const Block *b, float scale, Lanes *s)
{
    for (int64_t j = 0; j < b->count; j += AT_ONCE)
        some_scores(q, D, b->k + j * b->ldk, b->ldk, b->count - 1 - j, scale, s + j);
}

/* Keys that a query may not see: index of key j of the block is from + j. */
static void mask_later(const Group *g, int64_t from, int64_t count, Lanes *s)
{
    for (int64_t j = 0; j < count; j++)
        for (int i = 0; i < LANES; i++)
            if (from + j > g->first + MIN(i, g->count - 1))
                s[j].v[i] = -INFINITY;
}

/* Scores become p; the group's maximum and sum move on. Returns in *fade what older results shrink by. */
CLONES static void soften(Group *g, int64_t count, Lanes *s, Lanes *fade)
{
    Lanes top = g->top, sum = g->sum;
    for (int64_t j = 0; j < count; j++)
#pragma omp simd
        for (int i = 0; i < LANES; i++)
            top.v[i] = choose(s[j].v[i] > top.v[i], s[j].v[i], top.v[i]);
#pragma omp simd
    for (int i = 0; i < LANES; i++) {
        fade->v[i] = exp_f(g->top.v[i] - top.v[i]);
        sum.v[i] *= fade->v[i];
    }
    for (int64_t j = 0; j < count; j++)
#pragma omp simd
        for (int i = 0; i < LANES; i++) {
            s[j].v[i] = exp_f(s[j].v[i] - top.v[i]);
            sum.v[i] += s[j].v[i];
        }
    g->top = top;
    g->sum = sum;
}

/* y[c] = y[c] * fade + sum over keys of p * v[c], for four channels. */
INLINE void some_values(const Lanes *p, const float *v, int64_t ld, int64_t count, const Lanes *fade,
                        Lanes *y)
{
    Lanes y0, y1, y2, y3;
#pragma omp simd
    for (int i = 0; i < LANES; i++) {
        y0.v[i] = y[0].v[i] * fade->v[i];
        y1.v[i] = y[1].v[i] * fade->v[i];
        y2.v[i] = y[2].v[i] * fade->v[i];
        y3.v[i] = y[3].v[i] * fade->v[i];
    }
    for (int64_t j = 0; j < count; j++, v += ld) {
        const float *x = p[j].v, a0 = v[0], a1 = v[1], a2 = v[2], a3 = v[3];
#pragma omp simd
        for (int i = 0; i < LANES; i++) {
            y0.v[i] += x[i] * a0;
            y1.v[i] += x[i] * a1;
            y2.v[i] += x[i] * a2;
            y3.v[i] += x[i] * a3;
        }
    }
    y[0] = y0, y[1] = y1, y[2] = y2, y[3] = y3;
}

CLONES static void values(const Lanes *p, int64_t D, const Block *b, const Lanes *fade, Lanes *y)
{
    int64_t c = 0;
    for (; c + AT_ONCE <= D; c += AT_ONCE)
        some_values(p, b->v + c, b->ldv, b->count, fade, y + c);
    for (; c < D; c++)
        for (int64_t j = 0; j < b->count; j++)
#pragma omp simd
            for (int i = 0; i < LANES; i++)
                y[c].v[i] = (j ? y[c].v[i] : y[c].v[i] * fade->v[i]) + p[j].v[i] * b->v[j * b->ldv + c];
}

/* One block of keys for up to TILE groups. later: key index of the block's first row when causal, else -1. */
static void one_block(Group *groups, int n_groups, const Block *b, int64_t D, float scale, int64_t later,
                      Lanes *s)
{
    for (int i = 0; i < n_groups; i++) {
        Lanes fade;
        scores(groups[i].q, D, b, scale, s);
        if (later >= 0)
            mask_later(&groups[i], later, b->count, s);
        soften(&groups[i], b->count, s, &fade);
        values(s, D, b, &fade, groups[i].y);
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
        for (int64_t d = 0; d < D; d++)
            g->q[d].v[i] = q[d];
        g->top.v[i] = -INFINITY;
        g->sum.v[i] = 0;
    }
    memset(g->y, 0, (size_t)D * sizeof(Lanes));
}

static void store_group(const Call *call, const Queries *t, int64_t from, int64_t D, int64_t channel,
                        const Group *g)
{
    for (int64_t i = 0; i < g->count; i++) {
        float *y = row_at(call->out, t->first + (from + i) * t->step) + channel;
        const float over = 1 / g->sum.v[i];
        for (int64_t d = 0; d < D; d++)
            y[d] = g->y[d].v[i] * over;
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
        const KeyRows rows = call->a.attn.arg.in_time
                                 ? key_rows(call, set, t->frame - t->index + end, t->position)
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
    const int64_t queries = a->in_time ? F : S, per_tile = TILE * LANES,
                  tiles = (queries + per_tile - 1) / per_tile;
    const int64_t lines = a->in_time ? clips * S : clips * F; /* whose queries see each other */
    PARALLEL_TILES(cx, NS_ATTENTION * call->flops)
    for (int64_t i = 0; i < lines * tiles; i++) {
        const int64_t line = i / tiles, index = i % tiles * per_tile;
        Queries t = {.count = MIN(per_tile, queries - index), .index = index};
        if (a->in_time)
            t.frame = line / S * F + index, t.position = line % S, t.step = S,
            t.first = t.frame * S + t.position;
        else
            t.frame = line, t.position = index, t.step = 1, t.first = line * S + index;
        for (int head = 0; head < a->heads; head++)
            one_tile(call, &t, head);
    }
    return 0;
}
