/* opcheck_problem.c: a case of the table as data: random inputs in double, and the same numbers as tensors
 * with row strides and as weights in a file's type at any alignment, with gradients that already hold
 * something.
 *
 * What lies between the channels of an input with a row stride is NaN, so that reading it shows. */
#include "tests/opcheck.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state = 1;

double uniform(void)
{
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (double)(int64_t)(state >> 11) / (double)(1ull << 52) - 1.0;
}

int64_t row_count(const Operand *o)
{
    return o->count / o->n[o->nd - 1];
}

/* One value; denormal: the least positive number of the type, which has `steps` multiples below normal. */
static double draw(Values kind, double denormal, double steps)
{
    const double u = uniform();
    switch (kind) {
    case FINE:
        return (double)(float)u;
    case LARGE:
        return round(u * 64) / 64 * 1e4;
    case OFFSET:
        return (double)(float)(1e4 + u);
    case DENORMAL:
        return round(u * steps) * denormal;
    default:
        return round(u * 64) / 64;
    }
}

static double draw_of(Values kind, DType type)
{
    if (type == F16)
        return draw(kind, 0x1p-24, 1023);
    return type == BF16 ? draw(kind, 0x1p-133, 127) : draw(kind, 0x1p-149, 8388607);
}

static bool shape(Operand *o, int nd, const int64_t *n, Values values, DType type)
{
    o->nd = nd, o->count = 1;
    for (int i = 0; i < nd; i++) {
        o->n[i] = n[i];
        o->count *= n[i];
    }
    o->v = calloc((size_t)o->count, sizeof *o->v);
    for (int64_t i = 0; o->v && i < o->count; i++)
        o->v[i] = draw_of(values, type);
    return o->v != NULL;
}

/* An input: floats with `gap` channels around, half of them before. */
static bool tensor_of(Operand *o, int nd, const int64_t *n, int gap, bool grows, Values values)
{
    if (!shape(o, nd, n, values, F32))
        return false;
    const int64_t C = n[nd - 1], ld = C + gap, rows = row_count(o);
    o->data = alloc_array((size_t)(rows * ld), sizeof(float));
    o->gdata = alloc_array((size_t)(rows * ld), sizeof(float));
    if (!o->data || !o->gdata)
        return false;
    for (int64_t i = 0; i < rows * ld; i++) {
        const int64_t c = i % ld - gap / 2;
        o->data[i] = c >= 0 && c < C ? (float)o->v[i / ld * C + c] : NAN;
    }
    o->t = (Tensor){.d = o->data + gap / 2, .ld = ld, .nd = nd, .id = -1, .type = F32, .need_grad = grows};
    memcpy(o->t.n, n, (size_t)nd * sizeof *n);
    o->owner = o->t;
    o->owner.d = o->data, o->owner.n[nd - 1] = ld;
    o->grad = o->owner;
    o->grad.d = o->gdata;
    o->owner.grad = &o->grad;
    o->t.base = &o->owner;
    o->grows = grows;
    return true;
}

static bool tensor(Operand *o, int nd, const int64_t *n, const Case *c)
{
    return tensor_of(o, nd, n, c->gap, true, c->x_values);
}

static bool parameter(Operand *o, int nd, const int64_t *n, const Case *c, WeightKind kind, const char *name)
{
    const size_t size = dtype_size(c->type);
    if (!shape(o, nd, n, c->w_values, c->type))
        return false;
    o->raw = alloc_array((size_t)o->count * size + 16, 1);
    o->gdata = alloc_array((size_t)o->count, sizeof(float));
    o->data = c->own ? alloc_array((size_t)o->count, sizeof(float)) : NULL;
    if (!o->raw || !o->gdata || (c->own && !o->data))
        return false;
    for (int64_t i = 0; i < o->count; i++) {
        const float f = (float)o->v[i];
        const _Float16 half = (_Float16)f;
        uint32_t bits;
        memcpy(&bits, &f, sizeof bits);
        const uint16_t brain = (uint16_t)(bits >> 16);
        const void *from = c->type == F16 ? (const void *)&half : c->type == BF16 ? (const void *)&brain : &f;
        memcpy(o->raw + c->shift + (size_t)i * size, from, size);
        if (c->own)
            o->data[i] = f;
    }
    o->w = (Weight){.kind = kind,
                    .type = c->type,
                    .nd = nd,
                    .file = o->raw + c->shift,
                    .own = o->data,
                    .grad = o->gdata,
                    .trainable = true};
    snprintf(o->w.name, sizeof o->w.name, "%s", name);
    memcpy(o->w.n, n, (size_t)nd * sizeof *n);
    for (int64_t i = 0; c->w_values == FINE && !c->own && i < o->count; i++) {
        float stored;
        weight_widen(&o->w, i, 1, &stored);
        o->v[i] = (double)stored;
    }
    o->grows = true;
    return true;
}

static int dims(const int64_t *n)
{
    int nd = 0;
    while (nd < 4 && n[nd])
        nd++;
    return nd;
}

static bool make_epilogue(Problem *p, const int64_t *out, int nd, int64_t wide)
{
    const Case *c = &p->c;
    int64_t rows = 1;
    for (int i = 0; i < nd - 1; i++)
        rows *= out[i];
    p->call.epi = (Epi){.row_per = c->per, .act = c->act, .scale = c->scale};
    if (c->bias && !parameter(&p->in[BIAS], 1, &wide, c, W_BIAS, "case.bias"))
        return false;
    if (c->row && !tensor(&p->in[ROW], 2, (int64_t[]){(rows + c->per - 1) / c->per, wide}, c))
        return false;
    if (c->add && !tensor(&p->in[ADD], nd, out, c))
        return false;
    p->call.epi.bias = c->bias ? &p->in[BIAS].w : NULL;
    p->call.epi.row = c->row ? &p->in[ROW].t : NULL;
    p->call.epi.add = c->add ? &p->in[ADD].t : NULL;
    return true;
}

static bool make_product(Problem *p, int64_t *out, int *nd)
{
    const Case *c = &p->c;
    const int last = *nd - 1;
    out[last] = c->act == ACT_GEGLU ? c->O / 2 : c->O;
    if (c->op == OP_CONV2D) {
        out[1] = (c->x[1] + c->pad[0] + c->pad[1] - c->kh) / c->stride + 1;
        out[2] = (c->x[2] + c->pad[2] + c->pad[3] - c->kw) / c->stride + 1;
        p->call.a.conv.stride = c->stride;
        memcpy(p->call.a.conv.pad, c->pad, sizeof c->pad);
    }
    if (c->op == OP_CONVT)
        p->call.a.frames = c->frames;
    const int64_t w[5] = {c->O, c->x[last], c->kh, c->kw, 1};
    const int w_nd = c->op == OP_CONV2D ? 4 : c->op == OP_CONVT ? 5 : 2;
    return parameter(&p->in[W0], w_nd, w, c, W_CONV, "case.weight") && make_epilogue(p, out, *nd, c->O);
}

static bool make_attention(Problem *p)
{
    const Case *c = &p->c;
    p->call.a.attn.arg = (AttnArg){c->heads, c->frames, c->in_time, c->causal, c->scale, c->width};
    p->call.a.attn.n_kv = c->n_kv;
    p->call.n_in = 1 + 2 * c->n_kv;
    for (int set = 0; set < c->n_kv; set++) {
        const bool own = c->map[set] != KV_CLIP;
        const int64_t n[3] = {own ? c->x[0] : c->x[0] / c->frames, own && c->in_time ? c->x[1] : c->L[set],
                              c->x[2]};
        p->call.a.attn.map[set] = c->map[set];
        for (int i = 1 + 2 * set; i < 3 + 2 * set; i++)
            if (!tensor(&p->in[i], 3, n, c))
                return false;
    }
    return true;
}

static bool make_embed(Problem *p, int64_t *out, int *nd)
{
    const Case *c = &p->c;
    const int64_t table[3] = {1, c->more, c->x[1]};
    const bool deep = c->no_ids; /* [1,rows,C], as motion adapters store positions */
    out[0] = c->x[0], out[1] = c->x[1], *nd = 2;
    if (!parameter(&p->in[W0], deep ? 3 : 2, deep ? table : table + 1, c, W_EMBEDDING, "case.table"))
        return false;
    if (c->no_ids)
        return true;
    p->ids = calloc((size_t)c->x[0], sizeof *p->ids);
    for (int64_t i = 0; p->ids && i < c->x[0]; i++)
        p->ids[i] = (int32_t)((uniform() + 1) / 2 * (double)c->more);
    p->in[0].t = (Tensor){.d = p->ids, .n = {c->x[0]}, .nd = 1, .ld = c->x[0], .id = -1, .type = I32};
    return p->ids != NULL;
}

/* The op's own operands; out: the result's shape. */
static bool make_rest(Problem *p, int64_t *out, int *nd)
{
    const Case *c = &p->c;
    const int last = *nd - 1;
    const int64_t C = c->x[last], second[4] = {c->x[0], c->x[1], c->x[2], c->x[3]};
    switch (c->op) {
    case OP_CONV2D:
    case OP_CONVT:
    case OP_LINEAR:
        return make_product(p, out, nd);
    case OP_NORM:
        p->call.a.norm = (NormArg){c->groups, (int)c->per, 1e-5f, c->act};
        return parameter(&p->in[W0], 1, &C, c, W_NORM_SCALE, "case.scale") &&
               parameter(&p->in[W1], 1, &C, c, W_NORM_SHIFT, "case.shift");
    case OP_ATTN:
        return make_attention(p);
    case OP_ACT:
        p->call.a.act = c->act;
        out[last] = c->act == ACT_GEGLU ? C / 2 : C;
        return true;
    case OP_ROWS:
        p->call.a.per = c->per, p->call.n_in = 2;
        return tensor(&p->in[1], 2, (int64_t[]){c->more, C}, c);
    case OP_CONCAT: {
        int64_t n[4] = {second[0], second[1], second[2], second[3]};
        n[last] = c->more, out[last] = C + c->more, p->call.n_in = 2;
        return tensor(&p->in[1], *nd, n, c);
    }
    case OP_RESIZE:
        out[1] = c->H2, out[2] = c->W2;
        return true;
    case OP_REPEAT:
        out[0] = c->x[0] * c->more;
        return true;
    case OP_ROTATE:
        p->call.a.frames = c->frames;
        return parameter(&p->in[W0], 1, &c->more, c, W_ROTARY, "case.freqs");
    case OP_BLEND:
        if (!parameter(&p->in[W0], 1, (int64_t[]){1}, c, W_BLEND, "case.alpha"))
            return false;
        p->call.n_in = 2;
        return tensor(&p->in[1], *nd, second, c);
    case OP_FIRST:
        p->call.a.frames = c->frames;
        p->call.n_in = 2;
        return tensor(&p->in[1], *nd, second, c);
    case OP_ADD:
        p->call.n_in = 2;
        return tensor(&p->in[1], *nd, second, c);
    default: /* mse: target and weights get no gradient */
        p->call.n_in = c->more ? 3 : 2;
        out[0] = 1 + (c->more ? c->x[0] : 0), *nd = 1;
        if (c->more && !tensor_of(&p->in[2], 1, c->x, 0, false, c->x_values))
            return false;
        return tensor_of(&p->in[1], dims(c->x), second, c->gap, false, c->x_values);
    }
}

bool problem_make(Problem *p, const Case *c)
{
    *p = (Problem){.c = *c, .call = {.op = c->op, .n_in = 1}};
    state = 77;
    int64_t out[MAX_DIMS] = {c->x[0], c->x[1], c->x[2], c->x[3]};
    int nd = dims(c->x);
    if (c->op == OP_EMBED) {
        p->call.n_in = c->no_ids ? 0 : 1;
        if (!make_embed(p, out, &nd))
            return false;
    } else if (!tensor(&p->in[0], nd, c->x, c) || !make_rest(p, out, &nd)) {
        return false;
    }
    for (int i = 0; i < p->call.n_in; i++)
        p->call.in[i] = &p->in[i].t;
    p->call.w[0] = p->in[W0].v ? &p->in[W0].w : NULL;
    p->call.w[1] = p->in[W1].v ? &p->in[W1].w : NULL;
    p->call.out = &p->out.t;
    return tensor_of(&p->out, nd, out, 0, true, PLAIN);
}

void problem_slim(Problem *p)
{
    for (int i = 0; i <= OPERANDS; i++) {
        Operand *o = i < OPERANDS ? &p->in[i] : &p->out;
        double *rest = o->v ? realloc(o->v, sizeof *o->v) : NULL; /* that there is one still says: in use */
        o->v = rest ? rest : o->v;
        free(o->gdata);
        o->gdata = NULL;
    }
}

void problem_free(Problem *p)
{
    for (int i = 0; i <= OPERANDS; i++) {
        Operand *o = i < OPERANDS ? &p->in[i] : &p->out;
        weight_drop(&o->w);
        free(o->v);
        free(o->data);
        free(o->gdata);
        free(o->raw);
    }
    free(p->ids);
}

static const char *values_name(Values values)
{
    static const char *const names[] = {"", " fine", " large", " offset", " denormal"};
    return names[values];
}

static const char *act_name(Act act)
{
    static const char *const names[] = {"", " silu", " gelu", " quick_gelu", " geglu"};
    return names[act];
}

void case_text(const Case *c, char *out, size_t room)
{
    char more[160] = "";
    int n = snprintf(out, room, "%s [%lld", op_name(c->op), (long long)c->x[0]);
    for (int i = 1; i < dims(c->x); i++)
        n += snprintf(out + n, room - (size_t)n, ",%lld", (long long)c->x[i]);
    if (c->op == OP_ROTATE)
        snprintf(more, sizeof more, " frames %d freqs %lld", c->frames, (long long)c->more);
    else if (c->op == OP_FIRST)
        snprintf(more, sizeof more, " frames %d", c->frames);
    else if (c->op == OP_CONV2D)
        snprintf(more, sizeof more, "x[%lld,%lld,%lld,%lld] s%d p%d,%d,%d,%d", (long long)c->O,
                 (long long)c->x[3], (long long)c->kh, (long long)c->kw, c->stride, c->pad[0], c->pad[1],
                 c->pad[2], c->pad[3]);
    else if (c->op == OP_CONVT)
        snprintf(more, sizeof more, "x[%lld,%lld,%lld,1,1] frames %d", (long long)c->O, (long long)c->x[3],
                 (long long)c->kh, c->frames);
    else if (c->op == OP_LINEAR)
        snprintf(more, sizeof more, "x[%lld,%lld]", (long long)c->O, (long long)c->x[dims(c->x) - 1]);
    else if (c->op == OP_NORM)
        snprintf(more, sizeof more, " groups %d per %lld", c->groups, (long long)c->per);
    else if (c->op == OP_ATTN)
        snprintf(more, sizeof more, " heads %d frames %d keys %s%lld%s%s%s", c->heads, c->frames,
                 c->map[0] == KV_CLIP ? "clip " : "", (long long)(c->in_time ? c->frames : c->L[0]),
                 c->map[c->n_kv - 1] == KV_WINDOW  ? "+window"
                 : c->map[c->n_kv - 1] == KV_FIRST ? "+first"
                 : c->n_kv > 1                     ? "+"
                                                   : "",
                 c->in_time ? " time" : "", c->causal ? " causal" : "");
    else if (c->op == OP_RESIZE)
        snprintf(more, sizeof more, " to %lldx%lld", (long long)c->H2, (long long)c->W2);
    else if (c->more)
        snprintf(more, sizeof more, " with %lld", (long long)c->more);
    snprintf(out + n, room - (size_t)n, "]%s%s%s%s%s%s%s%s%s%s%s%s%s%s", more, act_name(c->act),
             c->bias ? " bias" : "", c->row ? " row" : "", c->add ? " add" : "",
             c->scale != 0 ? " scale" : "", c->gap ? " view" : "", c->type != F32 ? " " : "",
             c->type != F32 ? dtype_name(c->type) : "", c->own ? " own" : "", values_name(c->x_values),
             c->w_values ? " w" : "", values_name(c->w_values), c->bf16 ? " bf16" : "");
}
