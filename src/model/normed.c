/* normed.c: convolutions with batch norm behind them, run one at a time, as RAFT and I3D have them.
 *
 *     y = act( (conv(x) - mean) * scale / sqrt(variance + eps) + shift )
 *
 * The statistics are fixed, so they are folded into the convolution's weights and bias when the network is
 * opened. A convolution over k frames is one over pictures whose channels are k frames beside each other:
 * [O,I,k,h,w] becomes [O,k*I,h,w]. These networks are not generated from and not trained: their operators run
 * eagerly, and the activations that no operator has (ReLU, sigmoid, tanh) are applied in place between two of
 * them.
 *
 * Knows weights and arrays. Refuses to know which network it stands in. */
#include "model/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void normed_params(Params *p, const char *conv, const char *norm, Normed *c)
{
    const int64_t n[5] = {c->out, c->in, c->k[0], c->k[1], c->k[2]};
    const int flat = c->k[0] ? 0 : 1; /* no frames: 4 dimensions */
    const int64_t plane[4] = {c->out, c->in, c->k[1], c->k[2]};
    pv_in(p, "%s", conv);
    pv_leaf(p, "weight", &c->w[0], W_CONV, 5 - flat, flat ? plane : n);
    if (c->bias)
        pv_leaf(p, "bias", &c->w[1], W_BIAS, 1, n);
    pv_out(p);
    if (!norm)
        return;
    pv_norm(p, norm, c->norm, c->out);
    pv_in(p, "%s", norm);
    pv_leaf(p, "running_mean", &c->norm[2], W_NORM_SHIFT, 1, n);
    pv_leaf(p, "running_var", &c->norm[3], W_NORM_SCALE, 1, n);
    pv_out(p);
}

/* row [I,k,area] times s -> out [k,I,area]. */
static void frames_first(const float *row, int64_t I, int64_t k, int64_t area, float s, float *out)
{
    for (int64_t c = 0; c < I; c++)
        for (int64_t t = 0; t < k; t++)
            for (int64_t a = 0; a < area; a++)
                out[(t * I + c) * area + a] = s * row[(c * k + t) * area + a];
}

static float value(const Weight *w, int64_t i, float absent)
{
    float x = absent;
    if (weight_given(w))
        weight_widen(w, i, 1, &x);
    return x;
}

int normed_fold(Normed *c, float eps, Arena *keep, gimbal_error *err)
{
    const int64_t O = c->out, I = c->in, k = MAX(c->k[0], 1), area = (int64_t)c->k[1] * c->k[2];
    const int64_t K = I * k * area;
    float *own = arena_alloc(keep, sizeof *own * (size_t)(O * K)), *row = alloc_array((size_t)K, sizeof *row),
          *bias = arena_alloc(keep, sizeof *bias * (size_t)O);
    for (int64_t o = 0; o < O && own && row && bias; o++) {
        float s = 1, shift = value(&c->w[1], o, 0);
        if (weight_given(&c->norm[3])) {
            s = value(&c->norm[0], o, 1) / sqrtf(value(&c->norm[3], o, 1) + eps);
            shift = (shift - value(&c->norm[2], o, 0)) * s + value(&c->norm[1], o, 0);
        }
        weight_widen(&c->w[0], o * K, K, row);
        frames_first(row, I, k, area, s, own + o * K);
        bias[o] = shift;
    }
    free(row); /* one output's weights */
    if (!own || !row || !bias)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for %lld folded weights", c->w[0].name,
                    (long long)(O * K));
    c->w[0].own = own, c->w[0].nd = 4;
    memcpy(c->w[0].n, (int64_t[]){O, k * I, c->k[1], c->k[2], 0}, sizeof c->w[0].n);
    c->w[1].own = bias, c->w[1].nd = 1, c->w[1].n[0] = O;
    return GIMBAL_OK;
}

Tensor *normed_conv(Cx *cx, Normed *c, Tensor *x, int stride, const int pad[4], Squash f)
{
    return squash(cx, op_conv2d(cx, x, &c->w[0], stride, pad, (Epi){.bias = &c->w[1]}), f);
}

Tensor *squash(Cx *cx, Tensor *t, Squash f)
{
    if (!t || f == SQUASH_NONE)
        return t;
    float *x = t->d;
    const int64_t n = tensor_count(t);
    (void)cx; /* without OpenMP */
#pragma omp parallel for num_threads(cx->threads) schedule(static)
    for (int64_t i = 0; i < n; i++)
        x[i] = f == SQUASH_RELU   ? (x[i] > 0   ? x[i]
                                     : x[i] < 0 ? 0
                                                : x[i]) /* NaN stays */
               : f == SQUASH_TANH ? tanhf(x[i])
                                  : 1 / (1 + expf(-x[i]));
    return t;
}
