/* opcheck_truth.c: every operator in float64, from the formulas in tensor.h, sharing no code with the
 * backends.
 *
 * Inputs are dense doubles; nothing here knows row strides, threads or packed weights. */
#include "tests/opcheck.h"

#include <math.h>
#include <string.h>

static double act_of(Act act, double x)
{
    if (act == ACT_SILU)
        return x / (1 + exp(-x));
    if (act == ACT_QUICK_GELU)
        return x / (1 + exp(-1.702 * x));
    if (act == ACT_GELU)
        return x * 0.5 * erfc(-x * M_SQRT1_2);
    return x;
}

/* A factor of a product as the backend is told to see it: rounded to bf16, ties to even. */
static double seen(const Problem *p, double v)
{
    const float f = (float)v;
    uint32_t bits;
    float rounded;
    if (!p->c.bf16)
        return v;
    memcpy(&bits, &f, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&rounded, &bits, sizeof rounded);
    return (double)rounded;
}

/* One row of z [wide] (x*w) to the result's row r. */
static void epilogue(const Problem *p, double *z, int64_t wide, int64_t r, double *out)
{
    const Case *c = &p->c;
    const int64_t C = c->act == ACT_GEGLU ? wide / 2 : wide;
    const double scale = c->scale != 0 ? (double)c->scale : 1;
    for (int64_t o = 0; o < wide; o++) {
        z[o] += p->in[BIAS].v ? p->in[BIAS].v[o] : 0;
        z[o] += p->in[ROW].v ? p->in[ROW].v[r / c->per * wide + o] : 0;
    }
    for (int64_t o = 0; o < C; o++) {
        const double y = c->act == ACT_GEGLU ? z[o] * act_of(ACT_GELU, z[C + o]) : act_of(c->act, z[o]);
        out[r * C + o] = y * scale + (p->in[ADD].v ? p->in[ADD].v[r * C + o] : 0);
    }
}

static void conv(const Problem *p, double *out)
{
    const Case *c = &p->c;
    const int64_t N = c->x[0], H = c->x[1], W = c->x[2], I = c->x[3], O = c->O;
    const int64_t Ho = (H + c->pad[0] + c->pad[1] - c->kh) / c->stride + 1;
    const int64_t Wo = (W + c->pad[2] + c->pad[3] - c->kw) / c->stride + 1;
    double z[4096];
    for (int64_t r = 0; r < N * Ho * Wo; r++) {
        const int64_t n = r / (Ho * Wo), y = r / Wo % Ho, x = r % Wo;
        for (int64_t o = 0; o < O; o++) {
            z[o] = 0;
            for (int64_t u = 0; u < c->kh; u++)
                for (int64_t v = 0; v < c->kw; v++) {
                    const int64_t h = y * c->stride + u - c->pad[0], w = x * c->stride + v - c->pad[2];
                    for (int64_t i = 0; h >= 0 && w >= 0 && h < H && w < W && i < I; i++)
                        z[o] += p->in[0].v[((n * H + h) * W + w) * I + i] *
                                p->in[W0].v[((o * I + i) * c->kh + u) * c->kw + v];
                }
        }
        epilogue(p, z, O, r, out);
    }
}

static void conv_over_time(const Problem *p, double *out)
{
    const Case *c = &p->c;
    const int64_t area = c->x[1] * c->x[2], I = c->x[3], O = c->O, F = c->frames;
    double z[4096];
    for (int64_t r = 0; r < c->x[0] * area; r++) {
        const int64_t f = r / area % F;
        for (int64_t o = 0; o < O; o++) {
            z[o] = 0;
            for (int64_t t = 0; t < c->kh; t++) {
                const int64_t away = t - c->kh / 2;
                for (int64_t i = 0; f + away >= 0 && f + away < F && i < I; i++)
                    z[o] += p->in[0].v[(r + away * area) * I + i] * p->in[W0].v[(o * I + i) * c->kh + t];
            }
        }
        epilogue(p, z, O, r, out);
    }
}

static void linear(const Problem *p, double *out)
{
    const int64_t I = p->in[W0].n[1], O = p->in[W0].n[0];
    double z[4096];
    for (int64_t r = 0; r < row_count(&p->in[0]); r++) {
        for (int64_t o = 0; o < O; o++) {
            z[o] = 0;
            for (int64_t i = 0; i < I; i++)
                z[o] += seen(p, p->in[0].v[r * I + i]) * seen(p, p->in[W0].v[o * I + i]);
        }
        epilogue(p, z, O, r, out);
    }
}

static void norm(const Problem *p, double *out)
{
    const Case *c = &p->c;
    const Operand *x = &p->in[0];
    const int64_t C = x->n[x->nd - 1], all = row_count(x), sets = c->groups ? x->n[0] / c->per : all;
    const int64_t rows = all / sets, groups = c->groups ? c->groups : 1, width = C / groups;
    for (int64_t k = 0; k < sets * groups; k++) {
        const int64_t r0 = k / groups * rows, c0 = k % groups * width;
        double mean = 0, square = 0;
        for (int64_t i = 0; i < rows * width; i++)
            mean += x->v[(r0 + i / width) * C + c0 + i % width] / (double)(rows * width);
        for (int64_t i = 0; i < rows * width; i++)
            square += pow(x->v[(r0 + i / width) * C + c0 + i % width] - mean, 2) / (double)(rows * width);
        for (int64_t i = 0; i < rows * width; i++) {
            const int64_t ch = c0 + i % width, at = (r0 + i / width) * C + ch;
            const double h = (x->v[at] - mean) / sqrt(square + (double)1e-5f);
            out[at] = act_of(c->act, h * p->in[W0].v[ch] + p->in[W1].v[ch]);
        }
    }
}

/* How often position rs of the first frame is among the neighbours of s; those beyond an edge are its own. */
static int neighbours(const Case *c, int64_t s, int64_t rs)
{
    const int64_t wide = c->width, high = c->x[1] / wide;
    int n = 0;
    for (int64_t y = s / wide - 1; y <= s / wide + 1; y++)
        for (int64_t x = s % wide - 1; x <= s % wide + 1; x++) {
            const int64_t inside_y = y < 0 ? 0 : y >= high ? high - 1 : y;
            const int64_t inside_x = x < 0 ? 0 : x >= wide ? wide - 1 : x;
            n += (y != s / wide || x != s % wide) && inside_y * wide + inside_x == rs;
        }
    return n;
}

/* How often is row `row` of key set `set` seen by query (f, s)? */
static int sees(const Case *c, int set, int64_t f, int64_t s, int64_t row)
{
    const int64_t S = c->x[1], L = c->map[set] != KV_CLIP && c->in_time ? S : c->L[set];
    const int64_t rf = row / L, rs = row % L;
    if (c->map[set] == KV_CLIP)
        return rf == f / c->frames;
    if (c->map[set] == KV_FIRST || c->map[set] == KV_WINDOW)
        return rf != f / c->frames * c->frames ? 0 : c->map[set] == KV_FIRST ? 1 : neighbours(c, s, rs);
    if (c->in_time)
        return rs == s && rf / c->frames == f / c->frames && (!c->causal || rf <= f);
    return rf == f && (!c->causal || rs <= s);
}

/* The score of query row r and key row `row` at channels [from, from + D). */
static double score(const Problem *p, const Operand *k, int64_t r, int64_t row, int64_t from, int64_t D)
{
    const Case *c = &p->c;
    double sum = 0;
    for (int64_t d = from; d < from + D; d++)
        sum += seen(p, p->in[0].v[r * c->x[2] + d]) * seen(p, k->v[row * c->x[2] + d]);
    return sum * (c->scale != 0 ? (double)c->scale : 1 / sqrt((double)D));
}

/* All keys that query q = row * heads + head sees. Pass 0 finds the largest score, pass 1 the sums. */
static void attend(const Problem *p, int64_t q, int pass, double *top, double *sum, double *y)
{
    const Case *c = &p->c;
    const int64_t S = c->x[1], C = c->x[2], D = C / c->heads, r = q / c->heads, from = q % c->heads * D;
    for (int set = 0; set < c->n_kv; set++) {
        const Operand *k = &p->in[1 + 2 * set], *v = k + 1;
        for (int64_t row = 0; row < row_count(k); row++) {
            const int times = sees(c, set, r / S, r % S, row);
            if (!times)
                continue;
            const double s = score(p, k, r, row, from, D);
            if (!pass)
                *top = fmax(*top, s);
            const double weight = pass ? times * exp(s - *top) : 0;
            *sum += weight;
            for (int64_t d = 0; pass && d < D; d++)
                y[d] += weight * seen(p, v->v[row * C + from + d]);
        }
    }
}

static void attention(const Problem *p, double *out)
{
    const Case *c = &p->c;
    const int64_t D = c->x[2] / c->heads;
    for (int64_t q = 0; q < c->x[0] * c->x[1] * c->heads; q++) {
        double top = -INFINITY, sum = 0, y[512] = {0};
        attend(p, q, 0, &top, &sum, y);
        attend(p, q, 1, &top, &sum, y);
        for (int64_t d = 0; d < D; d++)
            out[q / c->heads * c->x[2] + q % c->heads * D + d] = y[d] / sum;
    }
}

static void small_ops(const Problem *p, double *out)
{
    const Case *c = &p->c;
    const Operand *x = &p->in[0], *b = &p->in[1];
    const int64_t C = p->out.n[p->out.nd - 1], A = c->op == OP_EMBED ? C : x->n[x->nd - 1];
    for (int64_t i = 0; i < p->out.count; i++) {
        const int64_t r = i / C, ch = i % C;
        if (c->op == OP_ACT && c->act == ACT_GEGLU)
            out[i] = x->v[r * A + ch] * act_of(ACT_GELU, x->v[r * A + C + ch]);
        else if (c->op == OP_ACT)
            out[i] = act_of(c->act, x->v[i]);
        else if (c->op == OP_ADD)
            out[i] = x->v[i] + b->v[i];
        else if (c->op == OP_ROWS)
            out[i] = x->v[i] + b->v[r / c->per % c->more * C + ch];
        else if (c->op == OP_CONCAT)
            out[i] = ch < A ? x->v[r * A + ch] : b->v[r * c->more + ch - A];
        else if (c->op == OP_BLEND) {
            const double k = fmin(fmax(p->in[W0].v[0], 0), 1);
            out[i] = k * x->v[i] + (1 - k) * b->v[i];
        } else if (c->op == OP_FIRST)
            out[i] = r / (row_count(x) / c->x[0]) % c->frames ? x->v[i] : b->v[i];
        else if (c->op == OP_ROTATE) {
            const double f = (double)(r / (row_count(x) / c->x[0]) % c->frames);
            const double angle = ch < 2 * c->more ? f * p->in[W0].v[ch / 2] : 0;
            const int64_t pair = ch % 2 ? i - 1 : i + 1;
            out[i] = x->v[i] * cos(angle);
            out[i] += ch < 2 * c->more ? x->v[pair] * sin(angle) * (ch % 2 ? 1 : -1) : 0;
        } else if (c->op == OP_REPEAT)
            out[i] = x->v[i % x->count];
        else if (c->op == OP_EMBED)
            out[i] = p->in[W0].v[(p->ids ? p->ids[r] : r) * C + ch];
        else {
            const int64_t n = r / (c->H2 * c->W2), y = r / c->W2 % c->H2, w = r % c->W2;
            const int64_t sy = (int64_t)floor((double)y * (double)c->x[1] / (double)c->H2);
            const int64_t sx = (int64_t)floor((double)w * (double)c->x[2] / (double)c->W2);
            out[i] = x->v[((n * c->x[1] + sy) * c->x[2] + sx) * C + ch];
        }
    }
}

/* The mean of squared differences; with weights, their sum over the rows of the first dimension and each. */
static void squares(const Problem *p, double *out)
{
    const int64_t parts = p->call.n_in == 3 ? p->in[0].n[0] : 1, per = p->in[0].count / parts;
    out[0] = 0;
    for (int64_t i = 0; i < parts; i++) {
        double mean = 0;
        for (int64_t k = i * per; k < (i + 1) * per; k++)
            mean += pow(p->in[0].v[k] - p->in[1].v[k], 2) / (double)per;
        if (p->call.n_in == 3)
            out[1 + i] = mean;
        out[0] += p->call.n_in == 3 ? p->in[2].v[i] * mean : mean;
    }
}

void truth(const Problem *p, double *out)
{
    switch (p->c.op) {
    case OP_CONV2D:
        conv(p, out);
        break;
    case OP_CONVT:
        conv_over_time(p, out);
        break;
    case OP_LINEAR:
        linear(p, out);
        break;
    case OP_NORM:
        norm(p, out);
        break;
    case OP_ATTN:
        attention(p, out);
        break;
    case OP_MSE:
        squares(p, out);
        break;
    default:
        small_ops(p, out);
    }
}
