/* attention_back_part.c: the gradients of attention for up to NR queries of one head.
 *
 * Queries lie across the lanes, as in attention_part.c. The scores of these queries and all keys are made
 * again and kept, NR of them for each key, so that softmax needs no second look at the keys:
 *
 *     S [keys][NR] = K Q'     P = 2^(S - max S)     l = sum P     G = dY / l     d = sum(G * Y) over channels
 *
 * then, KEYS keys at a time:
 *
 *     dV [keys][D] += P G     dS [keys][NR] = P * (V G' - d)     dK [keys][D] += dS Q     dQ' [D][NR] += K'
 * dS
 *
 * with P as it is and G in place of dY, 1 / l is multiplied in where there is least of it. Q' carries scale /
 * ln 2 in S; dQ and dK are multiplied by scale at the end.
 *
 * Sums run over keys and queries in order. Refuses to know where queries and keys come from. */
#include "tensor/cpu/vec/attention_back.h"
#include "tensor/cpu/vec/product.h"

/* v without its first n lanes. */
INLINE V without_first(V v, int64_t n)
{
    I lane;
    UNROLL for (int i = 0; i < VL; i++) lane[i] = i;
    return choose_v(lane >= (int32_t)n, v, (V){0});
}

/* ---- softmax -------------------------------------------------------------------------------- */

static void find_scores(const PartBack *p, int nv, const RoomBack *room)
{
    const int64_t width = nv * VL;
    float *s = room->s;
    rows_to_lanes(p->q, p->ldq, p->count, p->D, nv, p->scale * LOG2_E, room->q);
    for (int set = 0; set < p->n_sets; s += p->set[set++].count * width) {
        const KeysBack *b = &p->set[set];
        (nv == 2 ? product : product_narrow)(b->k, b->ldk, room->q, p->D, s, width, b->count, false);
        if (b->hides)
            hide_later(p->index, p->count, nv, 0, b->count, s);
    }
}

/* Scores become probabilities, up to 1 / l, which is returned. */
INLINE void soften(const int NV, float *s, int64_t keys, V *over)
{
    V top[2], all[2] = {{0}};
    UNROLL for (int v = 0; v < NV; v++) top[v] = ld(s + v * VL);
    for (int64_t j = 1; j < keys; j++)
        UNROLL for (int v = 0; v < NV; v++) top[v] = max_v(ld(s + (j * NV + v) * VL), top[v]);
    for (int64_t from = 0; from < keys; from += KEYS) {
        V sum[2] = {{0}};
        for (int64_t j = from; j < MIN(keys, from + KEYS); j++)
            UNROLL for (int v = 0; v < NV; v++)
            {
                const V e = exp2_v(ld(s + (j * NV + v) * VL) - top[v]);
                st(s + (j * NV + v) * VL, e);
                sum[v] += e;
            }
        UNROLL for (int v = 0; v < NV; v++) all[v] += sum[v];
    }
    UNROLL for (int v = 0; v < NV; v++) over[v] = 1.0f / all[v];
}

/* ---- queries in, gradients out -------------------------------------------------------------- */

/* G across lanes and as rows, and d. */
static void load_gradients(const PartBack *p, int nv, const V *over, const RoomBack *room, V *d)
{
    const int64_t D = p->D, width = nv * VL, padded = padded_width(D);
    float by[NR];
    for (int v = 0; v < nv; v++) {
        const int64_t rows = MIN(VL, p->count - v * VL);
        V sum[VL] = {{0}};
        st(by + v * VL, over[v]);
        for (int64_t next = 0; next < D; next += VL) {
            const int64_t c = block_at(next, D), n = MIN(VL, D - c);
            V t[VL];
            for (int64_t i = 0; i < rows; i++) {
                const int64_t r = v * VL + i;
                t[i] = ld_some(p->gy + r * p->ldgy + c, n) * by[r];
                st(room->gy_rows + r * padded + c, t[i]);
                const V by_y = t[i] * ld_some(p->y + r * p->ldy + c, n);
                sum[i] += c < next ? without_first(by_y, next - c) : by_y;
            }
            for (int64_t i = rows; i < VL; i++)
                t[i] = (V){0};
            transpose(t);
            float *to = room->gy + c * width + v * VL;
            for (int i = 0; i < n; i++)
                st(to + i * width, t[i]);
        }
        transpose(sum);
        d[v] = (V){0};
        UNROLL for (int i = 0; i < VL; i++) d[v] += sum[i];
    }
}

static void copy_queries(const PartBack *p, const RoomBack *room)
{
    const int64_t D = p->D, padded = padded_width(D);
    for (int64_t r = 0; r < p->count; r++)
        for (int64_t next = 0; next < D; next += VL) {
            const int64_t c = block_at(next, D);
            st(room->q_rows + r * padded + c, ld_some(p->q + r * p->ldq + c, D - c));
        }
}

/* dQ' to the queries' gradients. */
static void store_results(const PartBack *p, int nv, const RoomBack *room)
{
    const int64_t width = nv * VL, D = p->D;
    for (int v = 0; v < nv; v++)
        for (int64_t next = 0; next < D; next += VL) {
            const int64_t c = block_at(next, D), n = MIN(VL, D - c), rows = MIN(VL, p->count - v * VL);
            const float *from = room->gq + c * width + v * VL;
            V t[VL];
            UNROLL for (int i = 0; i < VL; i++) t[i] = ld(from + MIN(i, n - 1) * width) * p->scale;
            transpose(t);
            float *to = p->gq + v * VL * p->ldgq + c;
            for (int64_t i = 0; i < rows; i++, to += p->ldgq)
                if (p->new)
                    st_some(to, t[i], n);
                else
                    st_some(to, ld_some(to, n) + (c < next ? without_first(t[i], next - c) : t[i]), n);
        }
}

/* ---- blocks of keys ------------------------------------------------------------------------- */

/* Some of the rows that the next part will want from memory. */
static void fetch_ahead(const PartBack *p, RoomBack *room)
{
    const PartBack *next = p->next;
    const int64_t from = room->fetched;
    if (!next || from >= next->count)
        return;
    const int64_t to = room->fetched = MIN(from + room->rate, next->count);
    fetch(next->q, next->ldq, from, to, p->D);
    fetch(next->y, next->ldy, from, to, p->D);
    fetch(next->gy, next->ldgy, from, to, p->D);
    if (next->gq)
        fetch(next->gq, next->ldgq, from, to, p->D);
}

/* out [count][padded] += s [count][nv * VL] rows [queries][padded] */
static void add_products(const PartBack *p, const float *s, int64_t width, const float *rows, int64_t count,
                         float *out)
{
    const int64_t padded = padded_width(p->D);
    for (int64_t c = 0; c < padded; c += NR)
        (padded - c > VL ? product_rows : product_rows_narrow)(s, width, rows + c, padded, p->count, out + c,
                                                               padded, count, true);
}

/* dS from V G' in ds and P in s. */
INLINE void finish_scores(const int NV, const float *s, const V *d, int64_t count, float *ds)
{
    for (int64_t j = 0; j < count; j++)
        UNROLL for (int v = 0; v < NV; v++)
        {
            const int64_t at = (j * NV + v) * VL;
            st(ds + at, ld(s + at) * (ld(ds + at) - d[v]));
        }
}

/* Keys [from, from + count) of a set, of which s has the probabilities. first: nothing is in dQ' yet. */
static void block_back(const PartBack *p, int nv, const KeysBack *b, int64_t from, int64_t count,
                       const float *s, const V *d, bool first, RoomBack *room)
{
    const int64_t width = nv * VL, padded = padded_width(p->D);
    if (b->gv)
        add_products(p, s, width, room->gy_rows, count, b->gv + from * padded);
    fetch_ahead(p, room);
    if (!b->gk && !p->gq)
        return;
    (nv == 2 ? product : product_narrow)(b->v + from * b->ldv, b->ldv, room->gy, p->D, room->ds, width, count,
                                         false);
    if (nv == 2)
        finish_scores(2, s, d, count, room->ds);
    else
        finish_scores(1, s, d, count, room->ds);
    fetch_ahead(p, room);
    if (b->gk)
        add_products(p, room->ds, width, room->q_rows, count, b->gk + from * padded);
    fetch_ahead(p, room);
    if (p->gq)
        (nv == 2 ? product_columns : product_columns_narrow)(b->k + from * b->ldk, b->ldk, room->ds, count,
                                                             room->gq, width, p->D, !first);
}

void VEC(attend_back)(const PartBack *p, RoomBack *room)
{
    const int nv = p->count > VL ? 2 : 1;
    int64_t keys = 0;
    V over[2], d[2];
    find_scores(p, nv, room);
    for (int set = 0; set < p->n_sets; set++)
        keys += p->set[set].count;
    room->fetched = 0, room->rate = NR * KEYS / (3 * keys) + 1;
    if (nv == 2)
        soften(2, room->s, keys, over);
    else
        soften(1, room->s, keys, over);
    load_gradients(p, nv, over, room, d);
    copy_queries(p, room);
    const float *s = room->s;
    for (int set = 0; set < p->n_sets; set++)
        for (int64_t from = 0; from < p->set[set].count; from += KEYS) {
            const int64_t count = MIN(KEYS, p->set[set].count - from);
            block_back(p, nv, &p->set[set], from, count, s, d, s == room->s, room);
            s += count * nv * VL;
        }
    if (p->gq)
        store_results(p, nv, room);
}

size_t VEC(furnish_back)(RoomBack *room, char *memory, int64_t D, int64_t keys)
{
    const size_t panel = (size_t)(D * NR) * sizeof(float);
    const size_t rows = (size_t)(NR * padded_width(D)) * sizeof(float);
    size_t used = 0;
    room->s = cut(memory, &used, (size_t)(keys * NR) * sizeof(float));
    room->ds = cut(memory, &used, KEYS * NR * sizeof(float));
    room->q = cut(memory, &used, panel);
    room->gy = cut(memory, &used, panel);
    room->gq = cut(memory, &used, panel);
    room->q_rows = cut(memory, &used, rows);
    room->gy_rows = cut(memory, &used, rows);
    if (memory) { /* what lies beyond D is multiplied too */
        memset(room->q_rows, 0, rows);
        memset(room->gy_rows, 0, rows);
    }
    return used;
}
