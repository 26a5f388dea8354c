/* attention.h: a part of an attention call: up to AT_ONCE queries of one head, and the keys that all of them
 * see.
 *
 * attention.c cuts calls into parts, attention_part.c does one. */
#ifndef ATTENTION_H
#define ATTENTION_H

#include "tensor/cpu/vec/simd.h"

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

/* Furnishes a room for that many queries in `memory`, or with NULL finds out how much that takes. */
size_t VEC(furnish)(Room *, char *memory, int64_t D, int64_t queries, bool bf16);
void VEC(attend)(const Part *, Room *);

#endif
