/* ref_attention.c: attention, the meaning, one query row and head at a time.
 *
 *     p = softmax(q k' * scale),  y = p v        over the concatenation of n_kv key sets
 *
 * Which rows are a query's keys is key_rows() of cpu.c: the frame's own, the same position over the clip's
 * frames, the clip's set, or frame 0's rows, all or the position's neighbours. Backward: dp = dy v', ds = p *
 * (dp - sum(p * dp)) * scale, dq = ds k, dk += ds' q, dv += p' dy. Keys and values belong to one clip, so
 * clips and heads are independent. */
#include "tensor/cpu/ref.h"

/* Two rows of doubles as long as the key set. */
size_t ref_attention_scratch(const Call *call)
{
    return round64((size_t)key_total(call) * 2 * sizeof(double));
}

/* Row r of a key or value set (which 0: k, 1: v), at the head's channels. */
static const float *kv_at(const Call *call, int set, int which, int64_t r, int64_t from)
{
    return row_at(call->in[1 + 2 * set + which], r) + from;
}

static double dot(const float *a, const float *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

/* p: probabilities of all keys of the query (f, s) at channels [from, from + D). */
static void probabilities(const Call *call, int64_t f, int64_t s, int64_t from, int64_t D, double *p)
{
    const float *q = row_at(call->in[0], f * call->in[0]->n[1] + s) + from;
    const double scale = attention_scale(call);
    double top = -INFINITY, sum = 0;
    int64_t n = 0;
    for (int set = 0; set < call->a.attn.n_kv; set++) {
        const KeyRows k = key_rows(call, set, f, s);
        for (int64_t j = 0; j < k.count; j++, n++) {
            p[n] = dot(q, kv_at(call, set, 0, key_row(&k, j), from), D) * scale;
            top = fmax(top, p[n]);
        }
    }
    for (int64_t j = 0; j < n; j++)
        sum += p[j] = exp(p[j] - top);
    for (int64_t j = 0; j < n; j++)
        p[j] /= sum;
}

int ref_attention(Cx *cx, const Call *call)
{
    const int64_t S = call->in[0]->n[1], D = tensor_channels(call->in[0]) / call->a.attn.arg.heads;
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t r = 0; r < tensor_rows(call->out); r++) {
        double *p = thread_scratch(call, ref_attention_scratch(call));
        for (int h = 0; h < call->a.attn.arg.heads; h++) {
            probabilities(call, r / S, r % S, h * D, D, p);
            for (int64_t c = h * D; c < (h + 1) * D; c++) {
                double sum = 0;
                int64_t n = 0;
                for (int set = 0; set < call->a.attn.n_kv; set++) {
                    const KeyRows k = key_rows(call, set, r / S, r % S);
                    for (int64_t j = 0; j < k.count; j++)
                        sum += p[n++] * *kv_at(call, set, 1, key_row(&k, j), c);
                }
                row_at(call->out, r)[c] = (float)sum;
            }
        }
    }
    return 0;
}

/* The gradient buffers of one set's k and v. */
typedef struct {
    float *k, *v;
    int64_t ldk, ldv;
} KvGrad;

/* Adds what one query (f, s) gives to q, k and v at channels [from, from + D). gy: gradient of the result's
 * row. */
static void query_back(const Call *call, const KvGrad *g, int64_t f, int64_t s, int64_t from, int64_t D,
                       const float *gy, float *gq, double *p)
{
    const float *q = row_at(call->in[0], f * call->in[0]->n[1] + s) + from;
    const double scale = attention_scale(call);
    double *dp = p + key_total(call), mean = 0;
    int64_t n = 0;
    probabilities(call, f, s, from, D, p);
    for (int set = 0; set < call->a.attn.n_kv; set++) {
        const KeyRows k = key_rows(call, set, f, s);
        for (int64_t j = 0; j < k.count; j++, n++) {
            const int64_t row = key_row(&k, j);
            dp[n] = dot(gy, kv_at(call, set, 1, row, from), D);
            mean += p[n] * dp[n];
            for (int64_t c = 0; g[set].v && c < D; c++)
                g[set].v[row * g[set].ldv + from + c] += (float)(p[n] * gy[c]);
        }
    }
    n = 0;
    for (int set = 0; set < call->a.attn.n_kv; set++) {
        const KeyRows k = key_rows(call, set, f, s);
        for (int64_t j = 0; j < k.count; j++, n++) {
            const int64_t row = key_row(&k, j);
            const double ds = p[n] * (dp[n] - mean) * scale;
            for (int64_t c = 0; gq && c < D; c++)
                gq[c] += (float)(ds * kv_at(call, set, 0, row, from)[c]);
            for (int64_t c = 0; g[set].k && c < D; c++)
                g[set].k[row * g[set].ldk + from + c] += (float)(ds * q[c]);
        }
    }
}

int ref_attention_back(Cx *cx, const Call *call)
{
    const AttnArg *a = &call->a.attn.arg;
    const int64_t S = call->in[0]->n[1], D = tensor_channels(call->in[0]) / a->heads, rows = a->frames * S;
    KvGrad kv[MAX_KV] = {{NULL}};
    int64_t ld = 0, ldq = 0;
    const float *gy = grad_of(call->out, &ld);
    float *gq = grad_of(call->in[0], &ldq);
    for (int set = 0; set < call->a.attn.n_kv; set++) {
        kv[set].k = grad_of(call->in[1 + 2 * set], &kv[set].ldk);
        kv[set].v = grad_of(call->in[2 + 2 * set], &kv[set].ldv);
    }
    PARALLEL_FOR(cx, HEAVY)
    for (int64_t i = 0; i < call->in[0]->n[0] / a->frames * a->heads; i++) {
        const int64_t clip = i / a->heads, from = i % a->heads * D;
        double *p = thread_scratch(call, ref_attention_scratch(call));
        for (int64_t r = clip * rows; r < (clip + 1) * rows; r++)
            query_back(call, kv, r / S, r % S, from, D, gy + r * ld + from, gq ? gq + r * ldq + from : NULL,
                       p);
    }
    return 0;
}
