/* attention.h: a part of an attention call: up to AT_ONCE queries of one head, and the keys that all of them
 * see.
 *
 * attention.c cuts calls into parts, attention_part.c does one. What their gradients share with them is here
 * too. */
#ifndef ATTENTION_H
#define ATTENTION_H

#include "tensor/cpu/vec/math.h"

#define LOG2_E 1.44269504f

/* KEYS: of a block, even and a multiple of MR. AT_ONCE: a multiple of NR. */
enum { KEYS = 96, AT_ONCE = 256, GROUPS = AT_ONCE / NR };

/* One key set at one head's channels: `count` rows, ldk and ldv apart. */
typedef struct {
    const float *k, *v;
    int64_t ldk, ldv, count;
    bool hides; /* key j from the queries before j */
} Keys;

/* Up to AT_ONCE queries of one head that see the same keys. next: what this thread does then, or NULL. */
typedef struct Part {
    const float *q;
    float *y;
    int64_t ldq, ldy, count, index; /* index: of query 0, for the mask */
    int64_t D;
    float scale;
    bool bf16;
    int n_sets;
    Keys set[MAX_KV];
    const struct Part *next;
} Part;

/* Up to NR queries on their way: q and y [D][nv * VL], pairs [(D + 1) / 2][NR] with bf16. Lanes beyond the
 * last query repeat it. */
typedef struct {
    float *q, *y;
    uint32_t *pairs;
    int64_t index, count;
    int nv;
    V top[2], sum[2];
} Group;

/* What one thread works in. s [KEYS][NR]; pairs: k [KEYS][(D + 1) / 2], v [KEYS / 2][D], p [KEYS / 2][NR]. */
typedef struct {
    Group group[GROUPS];
    float *s;
    uint32_t *k, *v, *p;
    int64_t fetched, rate; /* rows fetched for what follows, and how many more after each slice */
} Room;

/* Where a block of VL of D channels begins: the last one overlaps the one before rather than being a part. */
INLINE int64_t block_at(int64_t c, int64_t D)
{
    return MAX(0, MIN(c, D - VL));
}

/* Rows x of D channels times `by`, across lanes: out [D][nv * VL]; lanes beyond the last row repeat it. */
INLINE void rows_to_lanes(const float *x, int64_t ldx, int64_t count, int64_t D, int nv, float by, float *out)
{
    const int64_t width = nv * VL;
    for (int v = 0; v < nv; v++) {
        const float *row[VL];
        for (int i = 0; i < VL; i++)
            row[i] = x + MIN(v * VL + i, count - 1) * ldx;
        for (int64_t next = 0; next < D; next += VL) {
            const int64_t c = block_at(next, D), n = MIN(VL, D - c);
            V t[VL];
            UNROLL for (int i = 0; i < VL; i++) t[i] = ld_some(row[i] + c, n) * by;
            transpose(t);
            float *to = out + c * width + v * VL;
            for (int i = 0; i < n; i++)
                st(to + i * width, t[i]);
        }
    }
}

/* Scores s [count][nv * VL] of keys from `from` on that queries from `index` on may not see. */
static inline void hide_later(int64_t index, int64_t queries, int nv, int64_t from, int64_t count, float *s)
{
    const int64_t width = nv * VL;
    for (int64_t j = MAX(0, index + 1 - from); j < count; j++)
        for (int64_t i = 0; i < width; i++)
            if (from + j > index + MIN(i, queries - 1))
                s[j * width + i] = -INFINITY;
}

/* Rows [from, to) on their way into the cache. */
static inline void fetch(const float *rows, int64_t ld, int64_t from, int64_t to, int64_t D)
{
    for (int64_t r = from; r < to; r++) {
        for (int64_t c = 0; c < D; c += 16)
            __builtin_prefetch(rows + r * ld + c, 0, 2);
        __builtin_prefetch(rows + r * ld + D - 1, 0, 2);
    }
}

/* Cuts `bytes` off a block of memory, or only counts when there is none. */
static inline void *cut(char *memory, size_t *used, size_t bytes)
{
    char *at = memory ? memory + *used : NULL;
    *used += round64(bytes);
    return at;
}

/* Furnishes a room for that many queries in `memory`, or with NULL finds out how much that takes. */
size_t VEC(furnish)(Room *, char *memory, int64_t D, int64_t queries, bool bf16);
void VEC(attend)(const Part *, Room *);

#endif
