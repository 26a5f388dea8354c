/* consisti2v.c: the temporal convolution of ConsistI2V, a block of its own: blended with its input.
 *
 *     h = conv1(silu(norm1(x)));  h = conv2(silu(norm2(h)));  y = x + h;  out = a x + (1 - a) y
 *
 * x [B*F,H,W,C]. Norms are of single frames; the convolutions see one frame to each side, and zeros beyond
 * the clip. a is learned, clamped to 0..1; at 1 the block does nothing, which is how training on an image
 * model begins (Ren et al. 2024; the mixing factor is Blattmann et al. 2023's).
 *
 * Knows ops and its own parameters. Refuses to know which network it stands in. */
#include "model/model.h"

void blended_conv_params(Params *p, BlendedConv *b)
{
    pv_leaf(p, "alpha", &b->alpha, W_BLEND, 1, (int64_t[]){1});
    for (int i = 0; i < COUNT(b->stage); i++) {
        pv_norm(p, i ? "norm2" : "norm1", b->stage[i].norm, b->channels);
        pv_convt(p, i ? "conv2" : "conv1", b->stage[i].conv, b->channels, b->channels, 3);
    }
}

Tensor *blended_conv_forward(Cx *cx, BlendedConv *b, Tensor *x, int frames)
{
    const NormArg norm = {.groups = BLENDED_GROUPS, .per = 1, .eps = 1e-6f, .act = ACT_SILU};
    Tensor *h = x;
    for (int i = 0; i < COUNT(b->stage); i++) {
        h = op_norm(cx, h, &b->stage[i].norm[0], &b->stage[i].norm[1], norm);
        h = op_convt(cx, h, &b->stage[i].conv[0], frames,
                     (Epi){.bias = &b->stage[i].conv[1], .add = i ? x : NULL});
    }
    return op_blend(cx, x, h, &b->alpha);
}
