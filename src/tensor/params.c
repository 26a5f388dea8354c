/* params.c: the visitor that a network's parameters are declared to, once.
 *
 * A walk carries the path from the root; pv_in and pv_out enter and leave a name, pv_leaf hands one parameter
 * with its full name, kind and shape to `leaf`. Counting, binding, initialising, saving and printing are leaf
 * functions. Here is the one for parameters that training begins with; their values depend on the seed and
 * their own name alone, so that a network with one block more begins with the same others.
 *
 * Knows names, shapes and kinds. Refuses to know files and devices. */
#include "tensor/tensor.h"

#include <math.h>
#include <string.h>

/* The first failure stays and silences the rest of the walk. */
static void stop(Params *p, int code)
{
    if (!p->code)
        p->code = code;
}

/* Appends "name" behind a dot. Returns whether it fitted. */
static bool path_add(Params *p, const char *name)
{
    const size_t dot = p->at > 0, length = strlen(name);
    if (length + dot >= sizeof p->path - p->at) {
        stop(p, fail(p->err, GIMBAL_EMODEL, "the name of a parameter, %s.%.80s, is longer than %zu letters",
                     p->path, name, sizeof p->path - 1));
        return false;
    }
    if (dot)
        p->path[p->at++] = '.';
    memcpy(p->path + p->at, name, length + 1);
    p->at += length;
    return true;
}

void pv_in(Params *p, const char *fmt, ...)
{
    char name[sizeof p->path + 1];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    if (p->depth >= COUNT(p->mark))
        stop(p, fail(p->err, GIMBAL_EMODEL, "%s.%.80s: more than %d levels of names", p->path, name,
                     COUNT(p->mark)));
    else
        p->mark[p->depth] = (unsigned char)p->at;
    p->depth++; /* also after a failure, so that every pv_out finds its pv_in */
    if (!p->code)
        path_add(p, name);
}

void pv_out(Params *p)
{
    p->depth--;
    if (p->depth >= COUNT(p->mark))
        return;
    p->at = p->mark[p->depth];
    p->path[p->at] = 0;
}

void pv_leaf(Params *p, const char *name, Weight *w, WeightKind kind, int nd, const int64_t *n)
{
    const size_t at = p->at;
    if (p->code || !path_add(p, name))
        return;
    memcpy(w->name, p->path, p->at + 1);
    w->kind = kind;
    w->nd = nd;
    memset(w->n, 0, sizeof w->n);
    memcpy(w->n, n, (size_t)nd * sizeof *n);
    stop(p, p->leaf(p, w));
    p->at = at;
    p->path[at] = 0;
}

void pv_conv(Params *p, const char *name, Weight wb[2], int in, int out, int k)
{
    pv_in(p, "%s", name);
    pv_leaf(p, "weight", &wb[0], W_CONV, 4, (int64_t[]){out, in, k, k});
    pv_leaf(p, "bias", &wb[1], W_BIAS, 1, (int64_t[]){out});
    pv_out(p);
}

void pv_convt(Params *p, const char *name, Weight wb[2], int in, int out, int k)
{
    pv_in(p, "%s", name);
    pv_leaf(p, "weight", &wb[0], W_CONV, 5, (int64_t[]){out, in, k, 1, 1});
    pv_leaf(p, "bias", &wb[1], W_BIAS, 1, (int64_t[]){out});
    pv_out(p);
}

void pv_linear(Params *p, const char *name, Weight wb[2], int in, int out, bool bias)
{
    pv_in(p, "%s", name);
    pv_leaf(p, "weight", &wb[0], W_LINEAR, 2, (int64_t[]){out, in});
    if (bias)
        pv_leaf(p, "bias", &wb[1], W_BIAS, 1, (int64_t[]){out});
    pv_out(p);
}

void pv_norm(Params *p, const char *name, Weight wb[2], int c)
{
    pv_in(p, "%s", name);
    pv_leaf(p, "weight", &wb[0], W_NORM_SCALE, 1, (int64_t[]){c});
    pv_leaf(p, "bias", &wb[1], W_NORM_SHIFT, 1, (int64_t[]){c});
    pv_out(p);
}

/* ---- how parameters begin ---------------------------------------------------------------- */

uint64_t weight_hash(const Weight *w)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (const char *c = w->name; *c; c++)
        h = (h ^ (unsigned char)*c) * 0x100000001b3u;
    return h;
}

/* Uniform in -1..1, of the weight's own sequence. */
static void draw_uniform(const Weight *w, uint64_t seed, float *out)
{
    const uint64_t name = weight_hash(w);
    const int64_t count = weight_count(w);
    uint32_t word[4];
    for (int64_t i = 0; i < count; i++) {
        if (i % 4 == 0)
            philox((uint32_t[]){(uint32_t)(i / 4), (uint32_t)((uint64_t)(i / 4) >> 32), (uint32_t)name,
                                (uint32_t)(name >> 32)},
                   seed, word);
        out[i] = (float)(((double)word[i % 4] + 0.5) * 0x1p-31 - 1);
    }
}

void weight_begin(const Weight *w, uint64_t seed, float *out)
{
    const int64_t count = weight_count(w);
    const bool drawn = w->kind == W_CONV || w->kind == W_LINEAR || w->kind == W_EMBEDDING;
    const double width = w->kind == W_EMBEDDING ? 1 : 1 / sqrt((double)(count / MAX(w->n[0], 1)));
    if (drawn)
        draw_uniform(w, seed, out);
    for (int64_t i = 0; i < count; i++)
        out[i] = drawn                                           ? (float)(out[i] * width)
                 : w->kind == W_ROTARY                           ? (float)pow(1e4, -(double)i / (double)count)
                 : w->kind == W_NORM_SCALE || w->kind == W_BLEND ? 1
                                                                 : 0;
}
