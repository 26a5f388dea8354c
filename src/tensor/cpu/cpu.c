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

KeyRows key_rows(const Call *call, int set, int64_t f, int64_t s)
{
    const AttnArg *a = &call->a.attn.arg;
    const int64_t S = call->in[0]->n[1], L = call->in[1 + 2 * set]->n[1], F = a->frames, clip = f / F;
    if (call->a.attn.map[set] == KV_CLIP)
        return (KeyRows){clip * L, 1, L};
    if (a->in_time)
        return (KeyRows){clip * F * S + s, S, a->causal ? f % F + 1 : F};
    return (KeyRows){f * L, 1, a->causal ? MIN(s + 1, L) : L};
}

int64_t key_total(const Call *call)
{
    int64_t total = 0;
    for (int set = 0; set < call->a.attn.n_kv; set++) {
        const bool over_frames = call->a.attn.arg.in_time && call->a.attn.map[set] == KV_SELF;
        total += over_frames ? call->a.attn.arg.frames : call->in[1 + 2 * set]->n[1];
    }
    return total;
}

float attention_scale(const Call *call)
{
    const AttnArg *a = &call->a.attn.arg;
    const double width = (double)(tensor_channels(call->in[0]) / a->heads);
    return a->scale != 0 ? a->scale : (float)(1.0 / sqrt(width));
}
