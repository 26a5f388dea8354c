/* ref_frames.c: the meaning of the ops that know a clip's frames: rotary positions, a first frame put in
 * place; and of the blend of a block with its input. Each forward is followed by its backward.
 *
 *     rotate  (y[2i], y[2i+1]) = (x[2i] cos a - x[2i+1] sin a, x[2i+1] cos a + x[2i] sin a),  a = f w[i]
 *     blend   y = k a + (1 - k) b,  k = min(max(alpha, 0), 1)
 *     first   y = frame 0 of the clip: first; the other frames: x
 *
 * Tensors are rows x channels; a frame is rows / n[0] rows. */
#include "tensor/cpu/ref.h"

/* The frame of its clip that row r lies in. */
static int64_t frame_of(const Call *call, int64_t r)
{
    return r / (tensor_rows(call->out) / call->out->n[0]) % call->a.frames;
}

int ref_rotate(Cx *cx, const Call *call)
{
    const int64_t C = tensor_channels(call->out), P = call->w[0]->n[0];
    const float *w = weight_floats(cx, call->w[0]);
    if (!w)
        return cx->err->code;
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t r = 0; r < tensor_rows(call->out); r++) {
        const float *x = row_at(call->in[0], r);
        float *y = row_at(call->out, r);
        const double frame = (double)frame_of(call, r);
        for (int64_t i = 0; i < P; i++) {
            const double c = cos(frame * w[i]), s = sin(frame * w[i]);
            y[2 * i] = (float)(x[2 * i] * c - x[2 * i + 1] * s);
            y[2 * i + 1] = (float)(x[2 * i + 1] * c + x[2 * i] * s);
        }
        memcpy(y + 2 * P, x + 2 * P, (size_t)(C - 2 * P) * sizeof(float));
    }
    return 0;
}

/* Of all rows into frequency i: d y[2i] / da = -y[2i+1], d y[2i+1] / da = y[2i]. */
static double frequency_back(const Call *call, int64_t i, double w, const float *gy, int64_t ld)
{
    double sum = 0;
    for (int64_t r = 0; r < tensor_rows(call->out); r++) {
        const float *x = row_at(call->in[0], r) + 2 * i, *g = gy + r * ld + 2 * i;
        const double frame = (double)frame_of(call, r), c = cos(frame * w), s = sin(frame * w);
        sum += frame * (g[1] * (x[0] * c - x[1] * s) - g[0] * (x[1] * c + x[0] * s));
    }
    return sum;
}

int ref_rotate_back(Cx *cx, const Call *call)
{
    const int64_t C = tensor_channels(call->out), P = call->w[0]->n[0];
    const float *w = weight_floats(cx, call->w[0]);
    int64_t ld = 0, ldx = 0;
    const float *gy = grad_of(call->out, &ld);
    float *gx = grad_of(call->in[0], &ldx), *gw = weight_grad(call->w[0]);
    if (!w)
        return cx->err->code;
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t r = 0; r < (gx ? tensor_rows(call->out) : 0); r++) {
        const float *g = gy + r * ld;
        float *to = gx + r * ldx;
        const double frame = (double)frame_of(call, r);
        for (int64_t i = 0; i < P; i++) {
            const double c = cos(frame * w[i]), s = sin(frame * w[i]);
            to[2 * i] += (float)(g[2 * i] * c + g[2 * i + 1] * s);
            to[2 * i + 1] += (float)(g[2 * i + 1] * c - g[2 * i] * s);
        }
        for (int64_t c = 2 * P; c < C; c++)
            to[c] += g[c];
    }
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t i = 0; i < (gw ? P : 0); i++)
        gw[i] += (float)frequency_back(call, i, w[i], gy, ld);
    return 0;
}

/* The share of the first input, and through *inside whether alpha moves it. */
static double share_of(const float *alpha, bool *inside)
{
    *inside = *alpha >= 0.0f && *alpha <= 1.0f;
    return fmin(fmax(*alpha, 0), 1);
}

int ref_blend(Cx *cx, const Call *call)
{
    const float *alpha = weight_floats(cx, call->w[0]);
    bool inside;
    if (!alpha)
        return cx->err->code;
    const double k = share_of(alpha, &inside);
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t r = 0; r < tensor_rows(call->out); r++)
        for (int64_t c = 0; c < tensor_channels(call->out); c++)
            row_at(call->out, r)[c] =
                (float)(k * row_at(call->in[0], r)[c] + (1 - k) * row_at(call->in[1], r)[c]);
    return 0;
}

/* gx += gy times `by`, of an input that wants a gradient. */
static void share_back(Cx *cx, const Call *call, const Tensor *x, double by)
{
    int64_t ld = 0, ldx = 0;
    const float *gy = grad_of(call->out, &ld);
    float *gx = grad_of(x, &ldx);
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t r = 0; r < (gx ? tensor_rows(x) : 0); r++)
        for (int64_t c = 0; c < tensor_channels(x); c++)
            gx[r * ldx + c] += (float)(by * gy[r * ld + c]);
}

/* One after the other: a and b may be the same tensor. */
int ref_blend_back(Cx *cx, const Call *call)
{
    const float *alpha = weight_floats(cx, call->w[0]);
    int64_t ld = 0;
    const float *gy = grad_of(call->out, &ld);
    bool inside;
    double sum = 0;
    if (!alpha)
        return cx->err->code;
    const double k = share_of(alpha, &inside);
    share_back(cx, call, call->in[0], k);
    share_back(cx, call, call->in[1], 1 - k);
    for (int64_t r = 0; weight_grad(call->w[0]) && inside && r < tensor_rows(call->out); r++)
        for (int64_t c = 0; c < tensor_channels(call->out); c++)
            sum += gy[r * ld + c] * ((double)row_at(call->in[0], r)[c] - row_at(call->in[1], r)[c]);
    if (weight_grad(call->w[0]))
        *weight_grad(call->w[0]) += (float)sum;
    return 0;
}

int ref_first(Cx *cx, const Call *call)
{
    PARALLEL_FOR(cx, NS_MOVE * (double)tensor_count(call->out))
    for (int64_t r = 0; r < tensor_rows(call->out); r++)
        memcpy(row_at(call->out, r), row_at(call->in[frame_of(call, r) == 0], r),
               (size_t)tensor_channels(call->out) * sizeof(float));
    return 0;
}

int ref_first_back(Cx *cx, const Call *call)
{
    int64_t ld = 0, to[2] = {0};
    const float *gy = grad_of(call->out, &ld);
    float *const g[2] = {grad_of(call->in[0], &to[0]), grad_of(call->in[1], &to[1])};
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t r = 0; r < tensor_rows(call->out); r++) {
        const int which = frame_of(call, r) == 0;
        for (int64_t c = 0; g[which] && c < tensor_channels(call->out); c++)
            g[which][r * to[which] + c] += gy[r * ld + c];
    }
    return 0;
}
