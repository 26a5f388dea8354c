/* cpu.h: what the CPU backends share among themselves: cutting calls into rows, a key set's rows, and the
 * epilogue of products with its backward.
 *
 * Knows one call at a time. Refuses to know plans, tapes and networks. */
#ifndef CPU_H
#define CPU_H

#include "tensor/backend.h"

#include <math.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#else /* builds for ThreadSanitizer and fuzzing: kernels run on the calling thread */
static inline int omp_get_thread_num(void)
{
    return 0;
}
static inline int omp_get_max_threads(void)
{
    return 1;
}
static inline void omp_set_num_threads(int n)
{
    (void)n;
}
#endif

/* One thread or all for work that takes about `ns` nanoseconds on one. Starting and joining costs a few
 * microseconds, and milliseconds where other programs want the cores. Never a number between: libgomp would
 * end the others. */
static inline int team(const Cx *cx, double ns)
{
    return ns < 60e3 ? 1 : cx->threads;
}
#define HEAVY 1e9

/* `parallel for` over independent work; the cut never depends on the number of threads. */
#define PRAGMA(text) _Pragma(#text)
#ifdef _OPENMP
#define PARALLEL_FOR(cx, ns) PRAGMA(omp parallel for num_threads(team(cx, ns)) schedule(static))
#define PARALLEL_TILES(cx, ns) PRAGMA(omp parallel for num_threads(team(cx, ns)) schedule(dynamic))
#else
#define PARALLEL_FOR(cx, ns) (void)team(cx, ns);
#define PARALLEL_TILES(cx, ns) (void)team(cx, ns);
#endif

/* Nanoseconds on one core, roughly: a moved value, and a FLOP (as the fronts count them) of each kind. For
 * team(). */
static const double NS_MOVE = 0.4, NS_ACT = 0.1, NS_NORM = 0.06, NS_FLOP = 0.01, NS_ATTENTION = 0.03;

static inline float *weight_grad(const Weight *w)
{
    return w && w->trainable ? w->grad : NULL;
}

/* This thread's share of call->tmp when each has `bytes`. */
static inline void *thread_scratch(const Call *call, size_t bytes)
{
    return call->tmp + (size_t)omp_get_thread_num() * bytes;
}
static inline size_t round64(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

/* The shape of a convolution; a linear is 1x1 on one picture of 1 x rows, a convolution over time k x 1 on
 * one picture of frames x pixels per clip: the layout is the same. Channels `wide` = out channels, or twice
 * that before GEGLU. */
typedef struct {
    int64_t N, H, W, I, Ho, Wo, wide, kh, kw, ld;
    int stride, pad[4]; /* top, bottom, left, right */
} ConvShape;
ConvShape conv_shape(const Call *);

/* Keys of one set for the query (row f of B*F, position s): `count` rows from `first`, `step` apart; or, with
 * a width, the neighbours of (y, x) in the picture that begins at `first`. */
typedef struct {
    int64_t first, step, count, width, height, y, x;
} KeyRows;
int64_t key_row(const KeyRows *, int64_t j); /* the row of the j-th */
KeyRows key_rows(const Call *, int set, int64_t f, int64_t s);
int64_t key_total(const Call *);
float attention_scale(const Call *);

/* The tail of conv2d, convt and linear on rows [r0, r0 + n) of z [.., wide], which hold x*w without bias:
 * writes the call's out rows. z may be out's own memory (no GEGLU then). Of dnn and ref; vec has its own. */
void epilogue_rows(const Call *, const float *z, int64_t ldz, int64_t r0, int64_t n, const float *bias);

/* First half of the backward of conv2d, convt and linear. z [rows, wide] holds x*w without bias, and becomes
 * the gradient of it: gradients of add, bias and row are done here. z may be uninitialised when
 * epilogue_needs_z() is false. */
void epilogue_back(Cx *, const Call *, float *z);
static inline bool epilogue_needs_z(const Call *call)
{
    return call->epi.act != ACT_NONE;
}

/* A weight of which weight_floats must make a copy: bytes of that copy. */
size_t floats_bytes(const Weight *);

#endif
