/* dnn.h: what the files of the oneDNN backend share: running it on one thread, and cached convolutions.
 *
 * oneDNN's results depend on its number of threads, and so does the blocking it chooses; it is therefore
 * created and called with one thread, on tiles that depend on shapes only, inside our own parallel loops. */
#ifndef DNN_H
#define DNN_H

#include "tensor/cpu/cpu.h"

#include <pthread.h>
#include <signal.h>

#include <dnnl.h>

/* What tells one convolution primitive from another: one picture, or a band of its rows with its own padding.
 */
typedef struct {
    int64_t H, W, I, Ho, Wo, O, kh, kw, stride, top, bottom, left, right, bias;
} ConvKey;

/* A primitive of the cache, held by whoever asked until conv_release. `primitive` is made on demand. */
typedef struct {
    ConvKey key;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t primitive;
    dnnl_memory_desc_t src, dst, bias, weights, scratchpad;
    size_t scratch, packed; /* bytes of the scratchpad and of weights in this layout */
    uint64_t used;          /* when last asked for */
    int holders;
} Conv;

/* NULL when oneDNN has nothing better than its reference code, or no memory. ready: with the primitive. */
Conv *conv_acquire(const ConvKey *, bool ready);
void conv_release(Conv *);
dnnl_engine_t dnn_engine(void);

/* The weight in the layout that `conv` wants, packed once and kept in w->pack[1]. A weight with `own` values
 * may change between calls: it is laid out anew in `room` (conv->packed bytes) and *owned says so: destroy it
 * then. */
dnnl_memory_t conv_weights(Cx *, Weight *, const Conv *, void *room, bool *owned);
void conv_drop(void *pack);

/* Around every call into oneDNN: how many threads it may use, and no signal handler on this thread meanwhile.
 * Its compiled products keep data in the stack pointer, so that the frame of a handler would be written over
 * the heap (seen as "corrupted size vs. prev_size" after Ctrl-C in one run of twenty). Faults stay
 * deliverable. */
typedef struct {
    int threads;
    sigset_t signals;
} DnnGuard;
static inline DnnGuard dnn_enter(int threads)
{
    DnnGuard was = {.threads = omp_get_max_threads()};
    sigset_t block;
    sigfillset(&block);
    sigdelset(&block, SIGSEGV), sigdelset(&block, SIGBUS), sigdelset(&block, SIGFPE),
        sigdelset(&block, SIGILL);
    pthread_sigmask(SIG_BLOCK, &block, &was.signals);
    omp_set_num_threads(threads);
    return was;
}
static inline void dnn_leave(DnnGuard was)
{
    omp_set_num_threads(was.threads);
    pthread_sigmask(SIG_SETMASK, &was.signals, NULL);
}

/* A matrix product: 1x1, stride 1, no padding. */
bool is_linear(const Call *);

int dnn_linear(Cx *, const Call *), dnn_conv(Cx *, const Call *), dnn_back(Cx *, const Call *);
size_t dnn_linear_scratch(const Cx *, const Call *);
/* False: not for oneDNN. plain: for dnn_conv_plain. */
bool dnn_conv_scratch(const Cx *, const Call *, bool plain, size_t *bytes);
size_t dnn_back_scratch(const Cx *, const Call *);
size_t dnn_conv_packed(const Call *);

/* z [rows, wide] = x*w, without bias: what a backward through an activation needs again. */
int dnn_linear_plain(Cx *, const Call *, float *z);
int dnn_conv_plain(Cx *, const Call *, float *z, char *room);

#endif
