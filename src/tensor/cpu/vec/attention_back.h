/* attention_back.h: a part of the gradients of an attention call: up to NR queries of one head, and the keys
 * that all of them see.
 *
 * attention_back.c cuts calls into parts, attention_back_part.c does one. */
#ifndef ATTENTION_BACK_H
#define ATTENTION_BACK_H

#include "tensor/cpu/vec/attention_time.h"

/* One key set at one head's channels: `count` rows, ldk and ldv apart. */
typedef struct {
    const float *k, *v;
    float *gk, *gv; /* [count][padded], added to; gk without scale; NULL: not wanted */
    int64_t ldk, ldv, count;
    bool hides; /* key j from the queries before j */
} KeysBack;

/* Up to NR queries of one head that see the same keys. next: what this thread does then, or NULL. */
typedef struct PartBack {
    const float *q, *y, *gy;
    float *gq; /* added to, or written if it is new; NULL: not wanted */
    bool new;
    int64_t ldq, ldy, ldgy, ldgq, count, index; /* index: of query 0, for the mask */
    int64_t D;
    float scale;
    int n_sets;
    KeysBack set[MAX_KV];
    const struct PartBack *next;
} PartBack;

/* What one thread works in. */
typedef struct {
    float *s, *ds;           /* [all keys][NR], [KEYS][NR] */
    float *q, *gy, *gq;      /* [D][NR] */
    float *q_rows, *gy_rows; /* [NR][padded] */
    int64_t fetched, rate;   /* rows fetched for what follows, and how many more after each product */
} RoomBack;

/* D up to whole vectors. */
static inline int64_t padded_width(int64_t D)
{
    return (D + VL - 1) / VL * VL;
}

/* Furnishes a room for that many keys of all sets in `memory`, or with NULL finds out how much that takes. */
size_t VEC(furnish_back)(RoomBack *, char *memory, int64_t D, int64_t keys);
void VEC(attend_back)(const PartBack *, RoomBack *);

#endif
