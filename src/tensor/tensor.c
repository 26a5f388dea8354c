/* tensor.c: number formats, tensors as headers, views, weights' bytes, and the context.
 *
 * A tensor is rows x channels with `ld` elements from row to row; a view is another header on the owner's
 * memory. Weights come in whatever type and at whatever alignment their file has; widen() reads any of them
 * as float32.
 *
 * Knows bytes and shapes. Refuses to know operators, plans' insides and files. */
#include "tensor/core.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>

/* ---- number formats ---------------------------------------------------------------------- */

static const struct {
    const char *name;
    size_t size;
} formats[DTYPE_COUNT] = {
    [F32] = {"F32", 4}, [F16] = {"F16", 2}, [BF16] = {"BF16", 2}, [F64] = {"F64", 8}, [I8] = {"I8", 1},
    [U8] = {"U8", 1},   [I16] = {"I16", 2}, [I32] = {"I32", 4},   [I64] = {"I64", 8}, [BOOL8] = {"BOOL", 1},
};

size_t dtype_size(DType type)
{
    return formats[type].size;
}

const char *dtype_name(DType type)
{
    return formats[type].name;
}

/* Loads from any address; safetensors aligns nothing. */
typedef uint16_t u16_any __attribute__((aligned(1), may_alias));
typedef int16_t i16_any __attribute__((aligned(1), may_alias));
typedef int32_t i32_any __attribute__((aligned(1), may_alias));
typedef int64_t i64_any __attribute__((aligned(1), may_alias));
typedef double f64_any __attribute__((aligned(1), may_alias));

static inline float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Exponent and fraction of the half, put where a float has them, are the value times 2^-112, subnormals
 * included; only infinities and NaNs need their exponent filled up. Branch-free, so that the loop becomes
 * vector code. */
static inline float half_value(uint16_t h)
{
    const float magnitude = float_of((uint32_t)(h & 0x7fff) << 13) * 0x1p112f;
    uint32_t bits;
    memcpy(&bits, &magnitude, sizeof bits);
    bits |= (h & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u;
    return float_of(bits | (uint32_t)(h & 0x8000) << 16);
}

#define WIDEN(type, value)                                                                                   \
    do {                                                                                                     \
        const type *p = (const type *)src + from;                                                            \
        for (int64_t i = 0; i < count; i++)                                                                  \
            out[i] = (float)(value);                                                                         \
    } while (0)

void widen(DType type, const void *src, int64_t from, int64_t count, float *out)
{
    switch (type) {
    case F32:
        memcpy(out, (const char *)src + from * 4, (size_t)count * 4);
        break;
    case F16:
        WIDEN(u16_any, half_value(p[i]));
        break;
    case BF16:
        WIDEN(u16_any, float_of((uint32_t)p[i] << 16));
        break;
    case F64:
        WIDEN(f64_any, p[i]);
        break;
    case I8:
        WIDEN(int8_t, p[i]);
        break;
    case U8:
        WIDEN(uint8_t, p[i]);
        break;
    case I16:
        WIDEN(i16_any, p[i]);
        break;
    case I32:
        WIDEN(i32_any, p[i]);
        break;
    case I64:
        WIDEN(i64_any, p[i]);
        break;
    case BOOL8:
        WIDEN(uint8_t, p[i] != 0);
        break;
    case DTYPE_COUNT:
        break;
    }
}

/* ---- weights ----------------------------------------------------------------------------- */

int64_t weight_count(const Weight *w)
{
    int64_t count = 1;
    for (int i = 0; i < w->nd; i++)
        count *= w->n[i];
    return count;
}

void weight_widen(const Weight *w, int64_t from, int64_t count, float *out)
{
    if (w->own)
        memcpy(out, w->own + from, (size_t)count * sizeof *out);
    else
        widen(w->type, w->file, from, count, out);
}

void weight_drop(Weight *w)
{
    for (const Backend *const *b = cpu_chain(); *b; b++) {
        const int slot = (*b)->slot;
        if (slot < 0 || !w->pack[slot] || !(*b)->drop)
            continue;
        (*b)->drop(w->pack[slot]);
        w->pack[slot] = NULL;
    }
}

/* ---- tensors ----------------------------------------------------------------------------- */

int64_t tensor_count(const Tensor *t)
{
    int64_t count = 1;
    for (int i = 0; i < t->nd; i++)
        count *= t->n[i];
    return count;
}

int64_t tensor_rows(const Tensor *t)
{
    return tensor_count(t) / tensor_channels(t);
}

size_t tensor_bytes(const Tensor *t)
{
    return (size_t)tensor_count(t) * dtype_size(t->type);
}

bool tensor_finite(const Tensor *t)
{
    const int64_t rows = tensor_rows(t), channels = tensor_channels(t);
    if (t->type != F32)
        return true;
    for (int64_t r = 0; r < rows; r++) {
        const float *x = row_at(t, r);
        int bad = 0;
        for (int64_t c = 0; c < channels; c++)
            bad |= !isfinite(x[c]);
        if (bad)
            return false;
    }
    return true;
}

Text shape_text(int nd, const int64_t *n)
{
    Text t = {"["};
    size_t at = 1;
    for (int i = 0; i < nd && at < sizeof t.s - 1; i++)
        at += (size_t)snprintf(t.s + at, sizeof t.s - at, "%s%" PRId64, i ? "," : "", n[i]);
    snprintf(t.s + MIN(at, sizeof t.s - 2), 2, "]");
    return t;
}

/* More elements than any machine holds are a fault of some size upstream; refusing them here keeps every
 * later product of dimensions inside 64 bits. */
static const int64_t max_count = (int64_t)1 << 42;

static bool shape_possible(int nd, const int64_t *n)
{
    int64_t count = 1;
    if (nd < 1 || nd > MAX_DIMS)
        return false;
    for (int i = 0; i < nd; i++)
        if (n[i] < 1 || __builtin_mul_overflow(count, n[i], &count) || count > max_count)
            return false;
    return true;
}

Tensor *header_in(Cx *cx, Arena *arena, DType type, int nd, const int64_t *n)
{
    if (cx_failed(cx))
        return NULL;
    if (!shape_possible(nd, n))
        return cx_fail(cx, GIMBAL_EMODEL,
                       "a tensor of shape %s cannot be: sizes must be 1 to 5, positive and fit memory",
                       shape_text(MIN(nd, MAX_DIMS), n).s);
    Tensor *t = arena_alloc(arena, sizeof *t);
    if (!t)
        return cx_fail(cx, GIMBAL_ENOMEM, "no memory for a tensor's header");
    t->type = type, t->nd = nd, t->id = -1;
    memcpy(t->n, n, (size_t)nd * sizeof *n);
    t->ld = n[nd - 1];
    return t;
}

Tensor *header(Cx *cx, DType type, int nd, const int64_t *n)
{
    return header_in(cx, plan_headers(cx), type, nd, n);
}

Tensor *tensor_input(Cx *cx, DType type, int nd, const int64_t *n, const void *data)
{
    Tensor *t = header(cx, type, nd, n);
    if (t)
        t->d = (void *)data;
    return t;
}

/* Another header on x's memory, `from` elements further. Addresses are reckoned as integers: in a dry run the
 * owner lies at 0. */
static Tensor *view_of(Cx *cx, Tensor *x, int nd, const int64_t *n, int64_t from)
{
    Tensor *v = header(cx, x->type, nd, n);
    if (!v)
        return NULL;
    v->d = (void *)((uintptr_t)x->d + (size_t)from * dtype_size(x->type));
    v->ld = x->ld;
    v->base = owner(x);
    v->id = x->id;
    v->need_grad = x->need_grad;
    return v;
}

Tensor *op_view(Cx *cx, Tensor *x, int nd, const int64_t *n)
{
    if (!x)
        return cx_fail(cx, GIMBAL_EMODEL, "view: given no tensor");
    if (cx_failed(cx))
        return NULL;
    if (!shape_possible(nd, n))
        return cx_fail(cx, GIMBAL_EMODEL, "view: shape %s cannot be", shape_text(MIN(nd, MAX_DIMS), n).s);
    int64_t count = 1;
    for (int i = 0; i < nd; i++)
        count *= n[i];
    if (count != tensor_count(x))
        return cx_fail(cx, GIMBAL_EMODEL, "view: %s has %" PRId64 " elements, %s would have %" PRId64,
                       shape_text(x->nd, x->n).s, tensor_count(x), shape_text(nd, n).s, count);
    const bool dense = x->ld == tensor_channels(x);
    if (!dense && n[nd - 1] != tensor_channels(x))
        return cx_fail(cx, GIMBAL_EMODEL,
                       "view: %s is a range of channels (row stride %" PRId64
                       "), so %s must keep its %" PRId64 " channels",
                       shape_text(x->nd, x->n).s, x->ld, shape_text(nd, n).s, tensor_channels(x));
    Tensor *v = view_of(cx, x, nd, n, 0);
    if (v && dense)
        v->ld = n[nd - 1];
    return v;
}

Tensor *op_channels(Cx *cx, Tensor *x, int64_t from, int64_t width)
{
    if (!x)
        return cx_fail(cx, GIMBAL_EMODEL, "channels: given no tensor");
    const int64_t channels = tensor_channels(x);
    if (from < 0 || width < 1 || from > channels || width > channels - from)
        return cx_fail(cx, GIMBAL_EMODEL, "channels: %" PRId64 " from %" PRId64 " on do not lie in %s", width,
                       from, shape_text(x->nd, x->n).s);
    int64_t n[MAX_DIMS];
    memcpy(n, x->n, sizeof n);
    n[x->nd - 1] = width;
    return view_of(cx, x, x->nd, n, from);
}

/* ---- context ----------------------------------------------------------------------------- */

void cx_init(Cx *cx, const Backend *const *chain, int threads, gimbal_error *err)
{
    memset(cx, 0, sizeof *cx);
    cx->chain = chain;
    cx->threads = threads > 0 ? threads : threads_available();
    cx->err = err ? err : &cx->own_err;
    cx->mode = EAGER;
}

static void drop_work(Cx *cx)
{
    if (cx->mapped)
        munmap(cx->work, cx->mapped);
    cx->work = NULL, cx->work_bytes = cx->mapped = 0;
}

void cx_reset(Cx *cx)
{
    arena_reset(&cx->eager);
    arena_reset(&cx->headers);
}

int cx_work(Cx *cx, size_t bytes, gimbal_error *err)
{
    const size_t need = MAX(bytes, 64);
    if (need <= cx->work_bytes)
        return GIMBAL_OK;
    drop_work(cx);
    char *work = mmap(NULL, need, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (work == MAP_FAILED)
        return fail(err, GIMBAL_ENOMEM, "cannot map %.0f MiB for the networks' tensors",
                    (double)need / (1 << 20));
    cx->work = work, cx->work_bytes = cx->mapped = need;
    return GIMBAL_OK;
}

void cx_free(Cx *cx)
{
    drop_work(cx);
    arena_free(&cx->eager);
    arena_free(&cx->headers);
}

bool cx_failed(const Cx *cx)
{
    return cx->err->code != 0;
}

void *cx_fail(Cx *cx, int code, const char *fmt, ...)
{
    char text[sizeof cx->err->msg];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    fail(cx->err, code, "%s", text);
    return NULL;
}

bool halted(Cx *cx)
{
    if (!cx_failed(cx) && cx->cancel && atomic_load(cx->cancel))
        cx_fail(cx, GIMBAL_ECANCEL, "cancelled");
    return cx_failed(cx);
}
