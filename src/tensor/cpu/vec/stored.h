/* stored.h: blocks of a stored weight, widened to float32 and turned so that output channels are lanes.
 *
 * Knows Weight's bytes. Refuses to know what the weight is for. */
#ifndef STORED_H
#define STORED_H

#include "tensor/cpu/vec/simd.h"

/* Elements [at, at + n) of a weight, n <= VL. */
INLINE V weight_part(const Weight *w, int64_t at, int64_t n)
{
    if (n >= VL && w->own)
        return ld(w->own + at);
    if (n >= VL && (w->type == F32 || w->type == F16 || w->type == BF16))
        return ld_stored(w->type, w->file, at);
    float part[VL] = {0};
    weight_widen(w, at, n, part);
    return ld(part);
}

/* Elements [at, at + n) in one piece; room: n + VL floats. */
INLINE const float *weight_run(const Weight *w, int64_t at, int64_t n, float *room)
{
    if (w->own)
        return w->own + at;
    for (int64_t i = 0; i < n; i += VL)
        st(room + i, weight_part(w, at + i, MIN(VL, n - i)));
    return room;
}

/* Of a weight seen as [O][K]: t[i] becomes column k + i, i < n, of rows o .. o + VL - 1; rows from o + lanes
 * on are 0. */
INLINE void weight_block(const Weight *w, int64_t K, int64_t o, int64_t lanes, int64_t k, int64_t n, V t[VL])
{
    if (n >= VL && lanes >= VL && !w->own && (w->type == F32 || w->type == F16 || w->type == BF16)) {
        UNROLL for (int i = 0; i < VL; i++) t[i] = ld_stored(w->type, w->file, (o + i) * K + k);
    } else {
        for (int i = 0; i < VL; i++)
            t[i] = i < lanes ? weight_part(w, (o + i) * K + k, n) : (V){0};
    }
    transpose(t);
}

#endif
