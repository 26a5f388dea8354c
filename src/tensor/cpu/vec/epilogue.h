/* epilogue.h: what follows x*w in a convolution or linear, a vector of channels at a time:
 *
 *     y = act(z + bias + row) * scale + add            GEGLU: value half times GELU of the gate half
 *
 * Knows Epi. Refuses to know where z came from. */
#ifndef EPILOGUE_H
#define EPILOGUE_H

#include "tensor/cpu/vec/math.h"

/* What stays the same over a call. bias: all channels as float32, or NULL. */
typedef struct {
    const Epi *epi;
    const float *bias;
    float scale;
    Act act;
    int64_t gate; /* GEGLU: where the gate's channels begin in bias and row */
} Tail;

INLINE Tail tail_of(const Call *call, const float *bias)
{
    const Epi *e = &call->epi;
    return (Tail){e, bias, e->scale != 0 ? e->scale : 1.0f, e->act, call->w[0]->n[0] / 2};
}

/* z + bias + row at channel c, n lanes. row: the call's row for this position, or NULL. */
INLINE V tail_sum(const Tail *t, V z, const float *row, int64_t c, int64_t n)
{
    if (t->bias)
        z += ld_some(t->bias + c, n);
    return row ? z + ld_some(row + c, n) : z;
}

/* What a result row adds to. */
typedef struct {
    const float *row, *add;
    float *out;
} TailRow;

INLINE TailRow tail_row(const Tail *t, const Tensor *out, int64_t r)
{
    return (TailRow){t->epi->row ? row_at(t->epi->row, r / t->epi->row_per) : NULL,
                     t->epi->add ? row_at(t->epi->add, r) : NULL, row_at(out, r)};
}

/* Writes result channels [c, c + n), n >= 1; all VL of them when n is larger. */
INLINE void tail(const Tail *t, TailRow at, V z, V gate, int64_t c, int64_t n)
{
    z = tail_sum(t, z, at.row, c, n);
    if (t->act == ACT_GEGLU)
        z *= gelu_v(tail_sum(t, gate, at.row, t->gate + c, n));
    else if (t->act == ACT_SILU)
        z = silu_v(z);
    else if (t->act == ACT_GELU)
        z = gelu_v(z);
    else if (t->act == ACT_QUICK_GELU)
        z = quick_gelu_v(z);
    z *= t->scale;
    if (at.add)
        z += ld_some(at.add + c, n);
    st_some(at.out + c, z, n);
}

#endif
