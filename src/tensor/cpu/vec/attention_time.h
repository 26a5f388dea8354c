/* attention_time.h: attention over time, cut into strips: the rows of a few positions of a clip, at the
 * channels of some heads, gathered so that a position's frames lie behind each other.
 *
 *     queries, results   [position][frame][heads * D]
 *     keys, values       [position][key][heads * D], the keys of all sets behind each other */
#ifndef ATTENTION_TIME_H
#define ATTENTION_TIME_H

#include "tensor/cpu/vec/attention.h"

enum { GATHER = 16384 }; /* values of a strip, of each operand */

typedef struct {
    int64_t F, S, D, keys, clip, position, positions, head, heads; /* keys: of a position, of all sets */
} Strip;

static inline int64_t head_width(const Call *call)
{
    return tensor_channels(call->in[0]) / call->a.attn.arg.heads;
}

/* The size of strips. */
static inline Strip strip_of(const Call *call)
{
    const AttnArg *a = &call->a.attn.arg;
    Strip s = {.F = a->frames,
               .S = call->in[0]->n[1],
               .D = head_width(call),
               .keys = key_total(call),
               .heads = a->heads};
    const int64_t row = s.F * s.D; /* of one position and head */
    s.heads = MAX(1, MIN(a->heads, 2 * GATHER / row));
    s.positions = s.heads < a->heads ? 1 : MAX(1, MIN(s.S, GATHER / (row * s.heads)));
    return s;
}

static inline int64_t strips_across(const Call *call, const Strip *size)
{
    return (call->a.attn.arg.heads + size->heads - 1) / size->heads;
}
static inline int64_t strip_count(const Call *call, const Strip *size)
{
    const int64_t along = (size->S + size->positions - 1) / size->positions;
    return call->in[0]->n[0] / size->F * along * strips_across(call, size);
}

/* The i-th. */
static inline Strip strip_at(const Call *call, const Strip *size, int64_t i)
{
    const int64_t across = strips_across(call, size),
                  along = (size->S + size->positions - 1) / size->positions;
    Strip s = *size;
    s.clip = i / across / along;
    s.position = i / across % along * s.positions, s.positions = MIN(s.positions, s.S - s.position);
    s.head = i % across * s.heads, s.heads = MIN(s.heads, call->a.attn.arg.heads - s.head);
    return s;
}

/* Of a strip with `rows` rows for each position. */
static inline size_t strip_floats(const Strip *s, int64_t rows)
{
    return round64((size_t)(s->positions * rows * s->heads * s->D));
}

/* The number in its tensor of the row that belongs to frame f of the strip's position i. */
static inline int64_t strip_row(const Strip *s, int64_t f, int64_t i)
{
    return (s->clip * s->F + f) * s->S + s->position + i;
}

/* The row of the frame after f and position i on its way into the cache: rows of a frame are few, and no CPU
 * sees by itself where the next frame's are. */
static inline void fetch_later(const Strip *s, const float *rows, int64_t ld_rows, int64_t f, int64_t i)
{
    const float *row = rows + strip_row(s, f + 1, i) * ld_rows + s->head * s->D;
    for (int64_t c = 0; f + 1 < s->F && c < s->heads * s->D; c += 16)
        __builtin_prefetch(row + c, 0, 2);
}

/* The strip's rows of a tensor's data into [position][frame][channel], positions `each` rows apart. */
static inline void gather(const Strip *s, const float *rows, int64_t ld_rows, int64_t each, float *to)
{
    const int64_t width = s->heads * s->D;
    for (int64_t f = 0; f < s->F; f++)
        for (int64_t i = 0; i < s->positions; i++) {
            fetch_later(s, rows, ld_rows, f, i);
            memcpy(to + (i * each + f) * width, rows + strip_row(s, f, i) * ld_rows + s->head * s->D,
                   (size_t)width * sizeof(float));
        }
}

static inline void gather_windows(const Call *call, int set, const Strip *s, const Tensor *t, float *to)
{
    const int64_t width = s->heads * s->D;
    for (int64_t i = 0; i < s->positions; i++) {
        const KeyRows rows = key_rows(call, set, s->clip * s->F, s->position + i);
        for (int64_t j = 0; j < rows.count; j++)
            memcpy(to + (i * s->keys + j) * width, row_at(t, key_row(&rows, j)) + s->head * s->D,
                   (size_t)width * sizeof(float));
    }
}

/* The keys of all sets; with `values` their values. */
static inline void gather_keys(const Call *call, const Strip *s, bool values, float *to)
{
    for (int set = 0; set < call->a.attn.n_kv; set++) {
        const bool window = call->a.attn.map[set] == KV_WINDOW;
        const Tensor *t = call->in[1 + 2 * set + values];
        if (window)
            gather_windows(call, set, s, t, to);
        else
            gather(s, t->d, t->ld, s->keys, to);
        to += (window ? WINDOW_KEYS : s->F) * s->heads * s->D;
    }
}

#endif
