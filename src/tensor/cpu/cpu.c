/* cpu.c: the chain of CPU backends, and what all of them need to read a call.
 *
 * The chain is vec, dnn, ref. GIMBAL_BACKEND=dnn|ref drops the better ones, so that a doubt about a kernel
 * can be settled from the command line. */
#include "tensor/cpu/vec/vec.h"

#include <pthread.h>
#include <stdlib.h>

static const Backend *chain_all[] = {NULL, &backend_dnn, &backend_ref, NULL};
static const Backend *const *chain = chain_all;

/* An unknown name keeps all: the variable is for tests, and nothing down here may print. */
static void choose_chain(void)
{
    const char *wanted = getenv("GIMBAL_BACKEND");
    chain_all[0] = vec_chosen();
    for (int i = 0; wanted && chain_all[i]; i++)
        if (!strcmp(chain_all[i]->name, wanted))
            chain = chain_all + i;
}

const Backend *const *cpu_chain(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, choose_chain);
    return chain;
}

ConvShape conv_shape(const Call *call)
{
    const Tensor *x = call->in[0], *y = call->out;
    const Weight *w = call->w[0];
    ConvShape s = {.I = tensor_channels(x), .wide = w->n[0], .ld = x->ld, .stride = 1};
    if (call->op == OP_LINEAR) {
        s.N = s.H = s.Ho = s.kh = s.kw = 1;
        s.W = s.Wo = tensor_rows(x);
        return s;
    }
    if (call->op == OP_CONVT) { /* frames above each other: a clip is one picture of F x (H*W) */
        s.H = s.Ho = call->a.frames, s.W = s.Wo = x->n[1] * x->n[2];
        s.N = x->n[0] / s.H;
        s.kh = w->n[2], s.kw = 1;
        s.pad[0] = s.pad[1] = (int)(s.kh / 2);
        return s;
    }
    s.N = x->n[0], s.H = x->n[1], s.W = x->n[2];
    s.Ho = y->n[1], s.Wo = y->n[2];
    s.kh = w->n[2], s.kw = w->n[3];
    s.stride = call->a.conv.stride;
    memcpy(s.pad, call->a.conv.pad, sizeof s.pad);
    return s;
}

int64_t key_row(const KeyRows *k, int64_t j)
{
    if (!k->width)
        return k->first + j * k->step;
    const int64_t at = j < 4 ? j : j + 1; /* of 3x3, the middle left out */
    const int64_t y = MIN(MAX(k->y + at / 3 - 1, 0), k->height - 1);
    const int64_t x = MIN(MAX(k->x + at % 3 - 1, 0), k->width - 1);
    return k->first + y * k->width + x;
}

KeyRows key_rows(const Call *call, int set, int64_t f, int64_t s)
{
    const AttnArg *a = &call->a.attn.arg;
    const int64_t S = call->in[0]->n[1], L = call->in[1 + 2 * set]->n[1], F = a->frames, clip = f / F;
    switch (call->a.attn.map[set]) {
    case KV_CLIP:
        return (KeyRows){.first = clip * L, .step = 1, .count = L};
    case KV_FIRST:
        return (KeyRows){.first = clip * F * L, .step = 1, .count = L};
    case KV_WINDOW:
        return (KeyRows){.first = clip * F * S,
                         .count = WINDOW_KEYS,
                         .width = a->width,
                         .height = S / a->width,
                         .y = s / a->width,
                         .x = s % a->width};
    default:
        if (a->in_time)
            return (KeyRows){.first = clip * F * S + s, .step = S, .count = a->causal ? f % F + 1 : F};
        return (KeyRows){.first = f * L, .step = 1, .count = a->causal ? MIN(s + 1, L) : L};
    }
}

int64_t key_total(const Call *call)
{
    int64_t total = 0;
    for (int set = 0; set < call->a.attn.n_kv; set++) {
        const KvMap map = call->a.attn.map[set];
        const bool over_frames = call->a.attn.arg.in_time && map == KV_SELF;
        total += map == KV_WINDOW ? WINDOW_KEYS
                 : over_frames    ? call->a.attn.arg.frames
                                  : call->in[1 + 2 * set]->n[1];
    }
    return total;
}

float attention_scale(const Call *call)
{
    const AttnArg *a = &call->a.attn.arg;
    const double width = (double)(tensor_channels(call->in[0]) / a->heads);
    return a->scale != 0 ? a->scale : (float)(1.0 / sqrt(width));
}
