/* frames.c: ops that know a clip's frames, and the blend of a block with its input; all run at the memory's
 * speed.
 *
 *     rotate  pairs of channels turn by f w[i]: y = x * [c c ..] + swapped(x) * [-s s ..], from tables
 *     blend   y = k a + (1 - k) b
 *     first   frame 0 of a clip from the second input
 *
 * Knows rows x channels and frames. Refuses to know what they are of. */
#include "tensor/cpu/vec/simd.h"

/* Cosines and sines of all frames, [F][2P] each, a value for each channel. */
static size_t table_floats(const Call *call)
{
    return round64((size_t)call->a.frames * 2 * (size_t)call->w[0]->n[0]);
}

size_t VEC(rotate_scratch)(const Cx *cx, const Call *call)
{
    (void)cx;
    return 2 * table_floats(call) * sizeof(float);
}

void VEC(rotate_tables)(const Call *call, const float *w)
{
    const int64_t P = call->w[0]->n[0];
    float *c = (float *)call->tmp, *s = c + table_floats(call);
    for (int64_t f = 0; f < call->a.frames; f++)
        for (int64_t i = 0; i < P; i++) {
            const double angle = (double)f * w[i];
            const int64_t at = (f * P + i) * 2;
            c[at] = c[at + 1] = (float)cos(angle);
            s[at + 1] = (float)sin(angle);
            s[at] = -s[at + 1];
        }
}

static void copy_row(const float *x, int64_t C, float *y)
{
    for (int64_t c = 0; c < C; c += VL)
        st_some(y + c, ld_some(x + c, C - c), C - c);
}

int VEC(rotate)(Cx *cx, const Call *call)
{
    const Tensor *x = call->in[0], *y = call->out;
    const int64_t C = tensor_channels(y), W = 2 * call->w[0]->n[0], S = tensor_rows(y) / y->n[0];
    const float *w = weight_floats(cx, call->w[0]);
    const float *cosines = (const float *)call->tmp, *sines = cosines + table_floats(call);
    if (!w)
        return cx->err->code;
    VEC(rotate_tables)(call, w);
    PARALLEL_FOR(cx, NS_MOVE * call->flops)
    for (int64_t r = 0; r < tensor_rows(y); r++) {
        const int64_t f = r / S % call->a.frames;
        const float *from = row_at(x, r), *co = cosines + f * W, *si = sines + f * W;
        float *to = row_at(y, r);
        for (int64_t c = 0; c < W; c += VL) {
            const int64_t n = W - c;
            const V v = ld_some(from + c, n);
            st_some(to + c, v * ld_some(co + c, n) + swap_pairs(v) * ld_some(si + c, n), n);
        }
        copy_row(from + W, C - W, to + W);
    }
    return 0;
}

int VEC(blend)(Cx *cx, const Call *call)
{
    const Tensor *a = call->in[0], *b = call->in[1], *y = call->out;
    const float *alpha = weight_floats(cx, call->w[0]);
    if (!alpha)
        return cx->err->code;
    const float share = fminf(fmaxf(*alpha, 0), 1);
    const V k = splat(share), rest = splat(1 - share);
    const int64_t C = tensor_channels(y);
    PARALLEL_FOR(cx, NS_MOVE * call->flops)
    for (int64_t r = 0; r < tensor_rows(y); r++)
        for (int64_t c = 0; c < C; c += VL)
            st_some(row_at(y, r) + c,
                    k * ld_some(row_at(a, r) + c, C - c) + rest * ld_some(row_at(b, r) + c, C - c), C - c);
    return 0;
}

int VEC(first)(Cx *cx, const Call *call)
{
    const Tensor *y = call->out;
    const int64_t S = tensor_rows(y) / y->n[0];
    PARALLEL_FOR(cx, NS_MOVE * (double)tensor_count(y))
    for (int64_t r = 0; r < tensor_rows(y); r++)
        copy_row(row_at(call->in[r / S % call->a.frames == 0], r), tensor_channels(y), row_at(y, r));
    return 0;
}
