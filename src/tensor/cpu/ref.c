/* ref.c: the reference backend: plain loops that say what every op means, forward and backward. It takes
 * every call and is the last of the chain. Sums are kept in double. One file per family: ref_conv.c
 * (convolution, linear and their epilogue backward), ref_norm.c, ref_attention.c, ref_frames.c, ref_rest.c.
 *
 * Owns pack slot 0: a weight widened to float32, shared with every backend that wants plain floats. */
#include "tensor/cpu/ref.h"

#include <pthread.h>
#include <stdlib.h>

/* A float32 file at an aligned offset is read in place. */
static const float *floats_in_place(const Weight *w)
{
    if (w->own)
        return w->own;
    return w->type == F32 && (uintptr_t)w->file % sizeof(float) == 0 ? w->file : NULL;
}

size_t floats_bytes(const Weight *w)
{
    if (!weight_given(w) || floats_in_place(w))
        return 0;
    return (size_t)weight_count(w) * sizeof(float);
}

const float *weight_floats(Cx *cx, Weight *w)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    const float *plain = floats_in_place(w);
    if (plain)
        return plain;
    pthread_mutex_lock(&lock);
    float *copy = w->pack[0];
    if (!copy) {
        const int64_t count = weight_count(w);
        copy = alloc_array((size_t)count, sizeof(float));
        if (copy)
            weight_widen(w, 0, count, copy);
        w->pack[0] = copy;
    }
    pthread_mutex_unlock(&lock);
    if (!copy)
        cx_fail(cx, GIMBAL_ENOMEM, "%s: no memory to widen %lld values", w->name, (long long)weight_count(w));
    return copy;
}

static size_t conv_scratch(const Cx *cx, const Call *call, bool backward)
{
    const size_t row = (size_t)call->w[0]->n[0] * sizeof(float);
    if (backward)
        return (size_t)tensor_rows(call->out) * row;
    return call->epi.act == ACT_GEGLU ? (size_t)cx->threads * round64(row) : 0;
}

static int supports(const Cx *cx, Call *call, bool backward)
{
    call->scratch = 0;
    if (call->op == OP_CONV2D || call->op == OP_CONVT || call->op == OP_LINEAR)
        call->scratch = conv_scratch(cx, call, backward);
    else if (call->op == OP_NORM && backward)
        call->scratch = ref_norm_scratch(call);
    else if (call->op == OP_ATTN)
        call->scratch = (size_t)cx->threads * ref_attention_scratch(call);
    return 1;
}

static size_t pack_bytes(const Call *call, const Weight *w)
{
    return call->op == OP_EMBED ? 0 : floats_bytes(w);
}

const Backend backend_ref = {
    .name = "ref",
    .slot = 0,
    .supports = supports,
    .forward = {[OP_CONV2D] = ref_conv,
                [OP_CONVT] = ref_conv,
                [OP_LINEAR] = ref_conv,
                [OP_NORM] = ref_norm,
                [OP_ATTN] = ref_attention,
                [OP_ACT] = ref_act,
                [OP_ADD] = ref_add,
                [OP_ROWS] = ref_rows,
                [OP_CONCAT] = ref_concat,
                [OP_RESIZE] = ref_resize,
                [OP_REPEAT] = ref_repeat,
                [OP_ROTATE] = ref_rotate,
                [OP_BLEND] = ref_blend,
                [OP_FIRST] = ref_first,
                [OP_EMBED] = ref_embed,
                [OP_MSE] = ref_mse},
    .backward = {[OP_CONV2D] = ref_conv_back,
                 [OP_CONVT] = ref_conv_back,
                 [OP_LINEAR] = ref_conv_back,
                 [OP_NORM] = ref_norm_back,
                 [OP_ATTN] = ref_attention_back,
                 [OP_ACT] = ref_act_back,
                 [OP_ADD] = ref_add_back,
                 [OP_ROWS] = ref_rows_back,
                 [OP_CONCAT] = ref_concat_back,
                 [OP_RESIZE] = ref_resize_back,
                 [OP_REPEAT] = ref_repeat_back,
                 [OP_ROTATE] = ref_rotate_back,
                 [OP_BLEND] = ref_blend_back,
                 [OP_FIRST] = ref_first_back,
                 [OP_EMBED] = ref_embed_back,
                 [OP_MSE] = ref_mse_back},
    .pack_bytes = pack_bytes,
    .drop = free,
};
