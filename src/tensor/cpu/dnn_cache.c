/* dnn_cache.c: oneDNN convolutions and the weights packed for them.
 *
 * Making a primitive compiles code (0.1 to 3 ms), so it is kept, in a table of fixed size whose least
 * recently used entry makes room. A plan's dry run makes descriptions only. Weights are packed once per
 * layout; layouts hang in a list on the weight, since another picture size may want another one. */
#include "tensor/cpu/dnn.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { CACHE = 512 };

static pthread_mutex_t cache_lock = PTHREAD_MUTEX_INITIALIZER, pack_lock = PTHREAD_MUTEX_INITIALIZER;
static Conv *cache[CACHE];
static uint64_t clock_now;
static dnnl_engine_t engine;

/* oneDNN 2.6 does not look whether it got memory for the code that it compiles, and crashes where the address
 * space is nearly used up (ulimit -v): there must be more than it takes. */
static bool code_fits(void)
{
    const size_t room = (size_t)32 << 20;
    void *trial = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return trial != MAP_FAILED && !munmap(trial, room);
}

/* The first product compiles the kernels of all: here, where it is known that they fit. */
static void make_engine(void)
{
    enum { N = 64 };
    static float x[N * N], z[N * N];
    if (!code_fits() || dnnl_engine_create(&engine, dnnl_cpu, 0) != dnnl_success) {
        engine = NULL;
        return;
    }
    const DnnGuard was = dnn_enter(1);
    dnnl_sgemm('N', 'T', N, N, N, 1.0f, x, N, x, N, 0.0f, z, N);
    dnn_leave(was);
}

dnnl_engine_t dnn_engine(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_engine);
    return engine;
}

static void conv_free(Conv *c)
{
    if (!c)
        return;
    if (c->primitive)
        dnnl_primitive_destroy(c->primitive);
    if (c->desc)
        dnnl_primitive_desc_destroy(c->desc);
    free(c);
}

/* The description: channels-last in and out, weights as oneDNN likes them. */
static bool describe(Conv *c)
{
    const ConvKey *k = &c->key;
    const dnnl_dims_t src = {1, k->I, k->H, k->W}, dst = {1, k->O, k->Ho, k->Wo},
                      w = {k->O, k->I, k->kh, k->kw}, bias = {k->O}, stride = {k->stride, k->stride},
                      before = {k->top, k->left}, after = {k->bottom, k->right};
    dnnl_memory_desc_t any;
    dnnl_convolution_desc_t conv;
    dnnl_primitive_attr_t attr = NULL;
    if (dnnl_memory_desc_init_by_tag(&c->src, 4, src, dnnl_f32, dnnl_nhwc) ||
        dnnl_memory_desc_init_by_tag(&c->dst, 4, dst, dnnl_f32, dnnl_nhwc) ||
        dnnl_memory_desc_init_by_tag(&c->bias, 1, bias, dnnl_f32, dnnl_a) ||
        dnnl_memory_desc_init_by_tag(&any, 4, w, dnnl_f32, dnnl_format_tag_any) ||
        dnnl_convolution_forward_desc_init(&conv, dnnl_forward_inference, dnnl_convolution_direct, &c->src,
                                           &any, k->bias ? &c->bias : NULL, &c->dst, stride, before, after) ||
        dnnl_primitive_attr_create(&attr))
        return false;
    const bool done = !dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user) &&
                      !dnnl_primitive_desc_create(&c->desc, &conv, attr, dnn_engine(), NULL);
    dnnl_primitive_attr_destroy(attr);
    return done;
}

static Conv *conv_make(const ConvKey *key)
{
    const char *kind = NULL;
    Conv *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->key = *key;
    if (!describe(c) || dnnl_primitive_desc_query(c->desc, dnnl_query_impl_info_str, 0, &kind) ||
        !strncmp(kind, "ref", 3)) {
        conv_free(c);
        return NULL;
    }
    c->weights = *dnnl_primitive_desc_query_md(c->desc, dnnl_query_weights_md, 0);
    c->scratchpad = *dnnl_primitive_desc_query_md(c->desc, dnnl_query_scratchpad_md, 0);
    c->scratch = dnnl_memory_desc_get_size(&c->scratchpad);
    c->packed = dnnl_memory_desc_get_size(&c->weights);
    return c;
}

/* The entry's place, or the place to put it: a free one, or that of the oldest entry nobody holds. */
static Conv **find(const ConvKey *key)
{
    Conv **oldest = NULL;
    for (int i = 0; i < CACHE; i++) {
        if (!cache[i])
            return &cache[i];
        if (!memcmp(&cache[i]->key, key, sizeof *key))
            return &cache[i];
        if (!cache[i]->holders && (!oldest || cache[i]->used < (*oldest)->used))
            oldest = &cache[i];
    }
    return oldest;
}

static Conv *acquire_locked(const ConvKey *key, bool ready)
{
    Conv **place = find(key);
    if (!place)
        return NULL;
    if (!*place || memcmp(&(*place)->key, key, sizeof *key)) {
        Conv *made = code_fits() ? conv_make(key) : NULL;
        if (!made)
            return NULL;
        conv_free(*place);
        *place = made;
    }
    Conv *c = *place;
    if (ready && !c->primitive && (!code_fits() || dnnl_primitive_create(&c->primitive, c->desc))) {
        c->primitive = NULL;
        return NULL;
    }
    c->used = ++clock_now;
    c->holders++;
    return c;
}

Conv *conv_acquire(const ConvKey *key, bool ready)
{
    if (!dnn_engine())
        return NULL;
    const DnnGuard was = dnn_enter(1);
    pthread_mutex_lock(&cache_lock);
    Conv *c = acquire_locked(key, ready);
    pthread_mutex_unlock(&cache_lock);
    dnn_leave(was);
    return c;
}

void conv_release(Conv *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&cache_lock);
    c->holders--;
    pthread_mutex_unlock(&cache_lock);
}

/* ---- packed weights ---------------------------------------------------------------------- */

typedef struct Pack {
    struct Pack *next;
    dnnl_memory_desc_t layout;
    dnnl_memory_t memory;
    void *data;
} Pack;

void conv_drop(void *pack)
{
    for (Pack *p = pack, *next; p; p = next) {
        next = p->next;
        if (p->memory)
            dnnl_memory_destroy(p->memory);
        free(p->data);
        free(p);
    }
}

/* plain [O,I,kh,kw] into the layout of `to`. A reorder moves values, so that threads cannot change its
 * result. */
static bool reorder(const Cx *cx, const Weight *w, const float *plain, dnnl_memory_t to)
{
    const dnnl_dims_t dims = {w->n[0], w->n[1], w->n[2], w->n[3]};
    dnnl_memory_desc_t from_desc;
    const dnnl_memory_desc_t *to_desc = NULL;
    dnnl_primitive_desc_t desc = NULL;
    dnnl_primitive_t primitive = NULL;
    dnnl_memory_t from = NULL;
    dnnl_stream_t stream = NULL;
    const DnnGuard was = dnn_enter(cx->threads);
    bool done =
        !dnnl_memory_desc_init_by_tag(&from_desc, 4, dims, dnnl_f32, dnnl_oihw) &&
        !dnnl_memory_get_memory_desc(to, &to_desc) &&
        !dnnl_memory_create(&from, &from_desc, dnn_engine(), (void *)plain) &&
        !dnnl_reorder_primitive_desc_create(&desc, &from_desc, dnn_engine(), to_desc, dnn_engine(), NULL) &&
        !dnnl_primitive_create(&primitive, desc) &&
        !dnnl_stream_create(&stream, dnn_engine(), dnnl_stream_default_flags);
    if (done) {
        const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
        done = !dnnl_primitive_execute(primitive, stream, 2, args) && !dnnl_stream_wait(stream);
    }
    if (stream)
        dnnl_stream_destroy(stream);
    if (primitive)
        dnnl_primitive_destroy(primitive);
    if (desc)
        dnnl_primitive_desc_destroy(desc);
    if (from)
        dnnl_memory_destroy(from);
    dnn_leave(was);
    return done;
}

/* A new pack in conv's layout; the widened copy lives only meanwhile. */
static Pack *pack_make(const Cx *cx, const Weight *w, const Conv *conv)
{
    const size_t count = (size_t)weight_count(w);
    Pack *p = calloc(1, sizeof *p);
    float *plain = alloc_array(count, sizeof *plain);
    bool done = p && plain && (p->data = alloc_array(conv->packed, 1));
    if (done) {
        weight_widen(w, 0, (int64_t)count, plain);
        p->layout = conv->weights;
        done = !dnnl_memory_create(&p->memory, &p->layout, dnn_engine(), p->data) &&
               reorder(cx, w, plain, p->memory);
    }
    free(plain);
    if (done)
        return p;
    conv_drop(p);
    return NULL;
}

static dnnl_memory_t pack_find(const Cx *cx, Weight *w, const Conv *conv)
{
    Pack *p = w->pack[1];
    while (p && !dnnl_memory_desc_equal(&p->layout, &conv->weights))
        p = p->next;
    if (!p && (p = pack_make(cx, w, conv))) {
        p->next = w->pack[1];
        w->pack[1] = p;
    }
    return p ? p->memory : NULL;
}

dnnl_memory_t conv_weights(Cx *cx, Weight *w, const Conv *conv, void *room, bool *owned)
{
    dnnl_memory_t memory = NULL;
    *owned = w->own != NULL;
    if (*owned) {
        if (dnnl_memory_create(&memory, &conv->weights, dnn_engine(), room) ||
            !reorder(cx, w, w->own, memory))
            cx_fail(cx, GIMBAL_ENOMEM, "%s: oneDNN could not lay out the weight", w->name);
        return memory;
    }
    pthread_mutex_lock(&pack_lock);
    memory = pack_find(cx, w, conv);
    pthread_mutex_unlock(&pack_lock);
    if (!memory)
        cx_fail(cx, GIMBAL_ENOMEM, "%s: no memory to pack %zu bytes", w->name, conv->packed);
    return memory;
}
