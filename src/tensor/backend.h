/* backend.h: what a kernel author sees: one call of an op, the op table, and a backend's table of kernels.
 *
 * A chain of backends is asked, best first, whether it supports a call; the answer is kept in the plan. `ref`
 * (cpu/ref.c) supports everything in both directions: it is the meaning of every op.
 *
 * Rules for kernels. Inputs may be channel views (ld > C); outputs are dense. The result must not depend on
 * cx->threads: cut work into tiles whose size does not depend on it. No -ffast-math. Backward accumulates
 * (+=) into gradients. A kernel returns 0 or fails with cx_fail and returns the code. Kernels run inside
 * OpenMP `parallel for num_threads(cx->threads)` of their own; none may be nested.
 *
 * Backward may read out's gradient, weights, and the data of inputs (not of epi.add, and nothing for add,
 * rows, concat, resize, repeat and first), for attention also of out. Plans count on it (backward_reads): the
 * rest may be dead. */
#ifndef BACKEND_H
#define BACKEND_H

#include "tensor/tensor.h"

#define OPS(X)                                                                                               \
    X(CONV2D, "conv2d")                                                                                      \
    X(CONVT, "convt")                                                                                        \
    X(LINEAR, "linear")                                                                                      \
    X(NORM, "norm")                                                                                          \
    X(ATTN, "attention")                                                                                     \
    X(ACT, "act")                                                                                            \
    X(ADD, "add")                                                                                            \
    X(ROWS, "rows")                                                                                          \
    X(CONCAT, "concat")                                                                                      \
    X(RESIZE, "resize")                                                                                      \
    X(REPEAT, "repeat")                                                                                      \
    X(ROTATE, "rotate")                                                                                      \
    X(BLEND, "blend")                                                                                        \
    X(FIRST, "first")                                                                                        \
    X(EMBED, "embed")                                                                                        \
    X(MSE, "mse")
#define OP_ENUM(op, name) OP_##op,
typedef enum { OPS(OP_ENUM) OP_COUNT } OpCode;
const char *op_name(OpCode);

/* Everything about one call. What shape(), kernels, tape, plan and opcheck all see. */
typedef struct Call {
    OpCode op;
    Tensor *in[2 * MAX_KV + 1]; /* x | a, b | x, rows | q, k0, v0, k1, v1, ... | ids */
    int n_in;
    Weight *w[2]; /* w | scale, shift | table | freqs | alpha */
    Tensor *out;
    Epi epi; /* conv2d, convt and linear; epi.row and epi.add are tensors of the call too */
    union {
        struct {
            int stride, pad[4];
        } conv;
        int frames; /* convt, rotate, first */
        NormArg norm;
        struct {
            AttnArg arg;
            KvMap map[MAX_KV];
            int n_kv;
        } attn;
        Act act;
        int64_t per; /* rows */
    } a;
    double flops;   /* multiply and add count 2; set by the op's front */
    size_t scratch; /* bytes that the chosen kernel wants beside tensors; set by supports */
    char *tmp;      /* `scratch` bytes, 64-byte aligned, uninitialised; valid during the kernel */
} Call;

typedef int (*Kernel)(Cx *, const Call *);

struct Backend {
    const char *name; /* "ref", "dnn", "vec" */
    const char *isa;  /* of vec: the instruction set it was compiled for, "avx2"; else NULL */
    int slot;         /* of Weight.pack, or -1 */
    /* 1: will do this call (backward: its gradients); may set call->scratch. Must not touch data: dry runs
     * ask. */
    int (*supports)(const Cx *, Call *, bool backward);
    Kernel forward[OP_COUNT], backward[OP_COUNT];
    /* How this forward call is done, for people ("winograd 4x4"), and in *flops what is really multiplied and
     * added, which Winograd makes less than call->flops. NULL: by the op's definition. */
    const char *(*method)(const Cx *, const Call *, double *flops);
    /* Bytes that running this call will keep packed for weight w (0, or if already packed its size). NULL:
     * never. */
    size_t (*pack_bytes)(const Call *, const Weight *w);
    void (*drop)(void *pack); /* frees a pack */
};

/* The CPU chain, best first: vec, dnn, ref. Constant. For tests GIMBAL_BACKEND=dnn|ref drops the better ones,
 * GIMBAL_ISA=sse2|avx2|wide|avx512|avx512bf16 limits vec's instruction set. */
const Backend *const *cpu_chain(void);
extern const Backend backend_ref, backend_dnn;
/* vec for the i-th instruction set that this CPU can run, from the plainest; NULL past the last. */
const Backend *vec_backend(int i);
/* FLOP/s that cx->threads threads reach in a loop of nothing but multiply-adds on registers, of float32 or of
 * bf16 pairs, with the chain's best instruction set; measured for about 0.1 s. */
double cpu_peak(const Cx *, bool bf16);
/* Bytes/s, read and written together, of cx->threads threads in arrays that no cache holds; for about 0.3 s,
 * on 192 MiB. 0: no memory. */
double cpu_bandwidth(const Cx *);
/* Whether the CPU multiplies bf16 pairs natively (and GIMBAL_ISA allows it). */
bool cpu_has_bf16(void);

/* Runs a prepared call eagerly through one backend (opcheck, timing): checks nothing. */
int call_run(Cx *, const Backend *, Call *, bool backward);

/* The gradient buffer of t as the kernel sees it: float32 with row stride *ld, or NULL when none is wanted.
 * For a view it points into the owner's buffer. Allocated before the kernel is called. */
float *grad_of(const Tensor *t, int64_t *ld);

/* Row r of a tensor, as floats. */
static inline float *row_at(const Tensor *t, int64_t r)
{
    return (float *)t->d + r * t->ld;
}

/* The whole weight as float32, widened once and kept in pack slot 0 (owned by ref), or `own` itself.
 * Thread-safe. NULL: no memory (cx->err set). */
const float *weight_floats(Cx *, Weight *);

#endif
