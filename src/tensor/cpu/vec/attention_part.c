/* attention_part.c: attention with online softmax; scores exist for NR queries and KEYS keys at a time.
 *
 * Queries lie across the lanes, keys and values are read where they are, so that both products are the
 * microkernel of product.h, maxima and sums are vertical, and only queries and results are transposed, once:
 *
 *     S [keys][NR] = K Q'      m' = max(m, max S)      P = 2^(S - m')      l = l 2^(m - m') + sum P
 *     Y [D][NR] = Y 2^(m - m') + V' P                  at the end Y' / l
 *
 * where Q' [D][NR] carries scale / ln 2. All groups of a part share a block of keys in the cache. With bf16
 * both products take pairs: of channels for S, of keys for Y. P is rounded too; maxima and sums are of
 * float32.
 *
 * A query's sums run over its keys in one order, whatever it shares a part with. Refuses to know where
 * queries and keys come from. */
#include "tensor/cpu/vec/attention.h"
#include "tensor/cpu/vec/product.h"

enum { SLICE = 24 }; /* rows of a product between two fetches */

/* ---- queries in, results out ---------------------------------------------------------------- */

static void load_queries(const Part *p, int64_t from, Group *g)
{
    rows_to_lanes(p->q + from * p->ldq, p->ldq, g->count, p->D, g->nv, p->scale * LOG2_E, g->q);
}

static void store_results(const Part *p, int64_t from, const Group *g)
{
    const int64_t width = g->nv * VL, D = p->D, ldy = p->ldy;
    for (int v = 0; v < g->nv; v++) {
        const V over = 1.0f / g->sum[v];
        const int64_t rows = MIN(VL, g->count - v * VL);
        for (int64_t next = 0; next < D; next += VL) {
            const int64_t c = block_at(next, D), n = MIN(VL, D - c);
            const float *from_y = g->y + c * width + v * VL;
            V t[VL];
            UNROLL for (int i = 0; i < VL; i++) t[i] = ld(from_y + MIN(i, n - 1) * width) * over;
            transpose(t);
            float *y = p->y + (from + v * VL) * ldy + c;
            for (int64_t i = 0; i < rows; i++)
                st_some(y + i * ldy, t[i], n);
        }
    }
}

/* ---- softmax -------------------------------------------------------------------------------- */

/* What is there of sums and results shrinks when the maximum rises to `top`. */
INLINE void shrink(const int NV, Group *g, const V *top, int64_t D)
{
    V by[2];
    UNROLL for (int v = 0; v < NV; v++)
    {
        by[v] = exp2_v(g->top[v] - top[v]);
        g->sum[v] *= by[v];
    }
    for (int64_t c = 0; c < D; c++)
        UNROLL for (int v = 0; v < NV; v++)
        {
            float *y = g->y + (c * NV + v) * VL;
            st(y, ld(y) * by[v]);
        }
}

/* The maxima with these scores. */
INLINE void raise_top(const int NV, Group *g, const float *s, int64_t count, int64_t D, bool first)
{
    V top[2];
    UNROLL for (int v = 0; v < NV; v++) top[v] = first ? ld(s + v * VL) : g->top[v];
    for (int64_t j = 0; j < count; j++)
        UNROLL for (int v = 0; v < NV; v++) top[v] = max_v(ld(s + (j * NV + v) * VL), top[v]);
    if (!first && memcmp(g->top, top, (size_t)NV * sizeof(V)))
        shrink(NV, g, top, D);
    UNROLL for (int v = 0; v < NV; v++) g->top[v] = top[v];
}

/* Scores become probabilities, up to 1 / l. */
INLINE void soften(const int NV, Group *g, float *s, int64_t count, int64_t D, bool first)
{
    V sum[2] = {{0}};
    raise_top(NV, g, s, count, D, first);
    const V top[2] = {g->top[0], g->top[1]};
    for (int64_t j = 0; j < count; j++)
        UNROLL for (int v = 0; v < NV; v++)
        {
            const V p = exp2_v(ld(s + (j * NV + v) * VL) - top[v]);
            st(s + (j * NV + v) * VL, p);
            sum[v] += p;
        }
    UNROLL for (int v = 0; v < NV; v++) g->sum[v] = first ? sum[v] : g->sum[v] + sum[v];
}

/* The same into pairs of keys; an odd last key gets a partner of probability 0. */
static void soften_pairs(Group *g, const float *s, int64_t count, int64_t D, bool first, uint32_t *out)
{
    V sum[2] = {{0}};
    raise_top(2, g, s, count, D, first);
    for (int64_t j = 0; j < count; j += 2, s += 2 * NR, out += NR)
        UNROLL for (int v = 0; v < 2; v++)
        {
            const V p = exp2_v(ld(s + v * VL) - g->top[v]);
            const V next = j + 1 < count ? exp2_v(ld(s + NR + v * VL) - g->top[v]) : (V){0};
            *(U1 *)(out + v * VL) = pair_bf16(p, next);
            sum[v] += p;
            sum[v] += next;
        }
    UNROLL for (int v = 0; v < 2; v++) g->sum[v] = first ? sum[v] : g->sum[v] + sum[v];
}

/* ---- blocks of keys ------------------------------------------------------------------------- */

/* One slice's share of the rows that will be wanted from memory: where results go, the next queries, and the
 * first of their keys if those are others. */
static void fetch_ahead(const Part *p, Room *room)
{
    const Part *next = p->next;
    const int64_t from = room->fetched, to = from + room->rate;
    if (from >= AT_ONCE)
        return;
    room->fetched = to;
    fetch(p->y, p->ldy, from, MIN(to, p->count), p->D);
    if (!next)
        return;
    fetch(next->q, next->ldq, from, MIN(to, next->count), next->D);
    for (int set = 0; set < next->n_sets; set++) {
        const Keys *k = &next->set[set];
        if (k->k == p->set[set].k)
            continue;
        fetch(k->k, k->ldk, from, MIN(to, k->count), p->D);
        fetch(k->v, k->ldv, from, MIN(to, k->count), p->D);
    }
}

/* One group and one block of keys from score to result, SLICE rows at a time: in between is room for fetches.
 */
static void group_block(const Part *p, Group *g, const Keys *b, int64_t from, bool first, Room *room)
{
    const int64_t D = p->D, width = g->nv * VL;
    float *s = room->s;
    for (int64_t r = 0; r < b->count; r += SLICE, fetch_ahead(p, room))
        (g->nv == 2 ? product : product_narrow)(b->k + r * b->ldk, b->ldk, g->q, D, s + r * width, width,
                                                MIN(SLICE, b->count - r), false);
    if (b->hides)
        hide_later(g->index, g->count, g->nv, from, b->count, s);
    if (g->nv == 2)
        soften(2, g, s, b->count, D, first);
    else
        soften(1, g, s, b->count, D, first);
    for (int64_t c = 0; c < D; c += SLICE, fetch_ahead(p, room))
        (g->nv == 2 ? product_columns : product_columns_narrow)(
            b->v + c, b->ldv, s, b->count, g->y + c * width, width, MIN(SLICE, D - c), !first);
}

static void group_block_bf16(const Part *p, Group *g, const Keys *b, int64_t from, bool first, Room *room)
{
    const int64_t D = p->D, half = (D + 1) / 2;
    for (int64_t r = 0; r < b->count; r += SLICE, fetch_ahead(p, room))
        product_bf16(room->k + r * half, half, g->pairs, half, room->s + r * NR, NR, MIN(SLICE, b->count - r),
                     false);
    if (b->hides)
        hide_later(g->index, g->count, g->nv, from, b->count, room->s);
    soften_pairs(g, room->s, b->count, D, first, room->p);
    for (int64_t c = 0; c < D; c += SLICE, fetch_ahead(p, room))
        product_columns_bf16(room->v + c, D, room->p, (b->count + 1) / 2, g->y + c * NR, NR,
                             MIN(SLICE, D - c), !first);
}

/* Rows of keys as pairs of channels, and pairs of rows of values. */
static void pack_pairs(const Keys *b, int64_t D, const Room *room)
{
    const int64_t half = (D + 1) / 2;
    for (int64_t j = 0; j < b->count; j++) {
        room->k[j * half + half - 1] = 0; /* an odd last channel's partner */
        for (int64_t next = 0; next < D; next += VL) {
            const int64_t c = block_at(next, D);
            to_bf16(b->k + j * b->ldk + c, MIN(VL, D - c), (uint16_t *)(room->k + j * half) + c);
        }
    }
    for (int64_t j = 0; j < b->count; j += 2) {
        const float *v = b->v + j * b->ldv;
        for (int64_t next = 0; next < D; next += VL) {
            const int64_t c = block_at(next, D);
            const V later = j + 1 < b->count ? ld_some(v + b->ldv + c, D - c) : (V){0};
            const U pair = pair_bf16(ld_some(v + c, D - c), later);
            st_some((float *)room->v + j / 2 * D + c, (V)pair, D - c);
        }
    }
}

static void pair_queries(Group *g, int64_t D)
{
    for (int64_t c = 0; c < D; c += 2)
        UNROLL for (int v = 0; v < 2; v++)
        {
            const float *q = g->q + c * NR + v * VL;
            *(U1 *)(g->pairs + c / 2 * NR + v * VL) = pair_bf16(ld(q), c + 1 < D ? ld(q + NR) : (V){0});
        }
}

/* ---- a part --------------------------------------------------------------------------------- */

static void start_groups(const Part *p, int n, Group *g)
{
    for (int i = 0; i < n; i++, g++) {
        g->index = p->index + i * NR;
        g->count = MIN(NR, p->count - i * NR);
        g->nv = p->bf16 || g->count > VL ? 2 : 1;
        load_queries(p, i * NR, g);
        if (p->bf16)
            pair_queries(g, p->D);
    }
}

/* Rows to fetch after a slice so that they are spread over the part. */
static int64_t fetch_rate(const Part *p, int n)
{
    int64_t slices = 0;
    for (int set = 0; set < p->n_sets; set++)
        slices += p->set[set].count / SLICE + 1 + (p->set[set].count / KEYS + 1) * (p->D / SLICE);
    return MAX(p->count, KEYS) / (slices * n) + 1;
}

void VEC(attend)(const Part *p, Room *room)
{
    const int n = (int)((p->count + NR - 1) / NR);
    bool first = true;
    room->fetched = 0, room->rate = fetch_rate(p, n);
    start_groups(p, n, room->group);
    for (int set = 0; set < p->n_sets; set++)
        for (int64_t j = 0; j < p->set[set].count; j += KEYS, first = false) {
            Keys b = p->set[set];
            b.k += j * b.ldk, b.v += j * b.ldv, b.count = MIN(KEYS, b.count - j);
            if (p->bf16)
                pack_pairs(&b, p->D, room);
            for (int i = 0; i < n; i++)
                (p->bf16 ? group_block_bf16 : group_block)(p, &room->group[i], &b, j, first, room);
        }
    for (int i = 0; i < n; i++)
        store_results(p, i * NR, &room->group[i]);
}

/* ---- its room ------------------------------------------------------------------------------- */

size_t VEC(furnish)(Room *room, char *memory, int64_t D, int64_t queries, bool bf16)
{
    const size_t panel = (size_t)(D * NR), half = (size_t)(D + 1) / 2;
    size_t used = 0;
    room->s = cut(memory, &used, KEYS * NR * sizeof(float));
    for (int i = 0; i < MIN(GROUPS, (queries + NR - 1) / NR); i++) {
        room->group[i].q = cut(memory, &used, panel * sizeof(float));
        room->group[i].y = cut(memory, &used, panel * sizeof(float));
        room->group[i].pairs = bf16 ? cut(memory, &used, half * NR * sizeof(uint32_t)) : NULL;
    }
    if (bf16) {
        room->k = cut(memory, &used, KEYS * half * sizeof(uint32_t));
        room->v = cut(memory, &used, KEYS / 2 * (size_t)D * sizeof(uint32_t));
        room->p = cut(memory, &used, KEYS / 2 * NR * sizeof(uint32_t));
    }
    return used;
}
