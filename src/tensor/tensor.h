/* tensor.h: what a model builder sees: tensors, weights, operators, planned memory, gradients.
 *
 * Model code is straight-line C that runs as it reads: no scopes, no frees. The same code is met three times:
 *   dry    plan_make: counts, records each tensor's first and last use, picks kernels, packs offsets
 *   run    plan_run: the same calls again, at the planned places; a call that differs is an error naming both
 *   eager  no plan: each tensor gets memory of its own (tests, small things)
 * With a tape in the context, ops are recorded and backward() walks them in reverse; it may be part of a
 * graph that is planned, so training memory is planned by the same means.
 *
 * LAW: model code never looks at tensor data to decide what to do; the dry run must meet the same calls.
 *
 * Activations are rows x channels: [B*F,H,W,C] or [B*F,S,C], clip slowest, frame next (row = clip*F + frame),
 * channels last. Errors are sticky: an op given NULL, or called after an error, returns NULL; the first
 * message stays in cx->err.
 *
 * Knows shapes and the backend table. Refuses to know what a network is. */
#ifndef TENSOR_H
#define TENSOR_H

#include "base/base.h"

#include <stdatomic.h>

typedef enum { F32, F16, BF16, F64, I8, U8, I16, I32, I64, BOOL8, DTYPE_COUNT } DType;
size_t dtype_size(DType);
const char *dtype_name(DType); /* as safetensors spells it: "F32", "BF16", ... */

enum { MAX_DIMS = 5 };

/* A block of activations, float32 (ids: I32). Rows of n[nd-1] channels, `ld` elements from row to row, so
 * that a range of channels is a view. Lives in the context's header arena, valid until the next
 * plan_run/cx_reset. */
typedef struct Tensor {
    void *d;
    int64_t n[MAX_DIMS], ld;
    int nd, id; /* id: slot in the plan, -1 for inputs and eager tensors */
    DType type;
    bool need_grad;
    struct Tensor *base; /* a view's owner of memory and gradient, else NULL */
    struct Tensor *grad; /* of owners, allocated on first use in backward, zeroed, dense, same shape */
} Tensor;

int64_t tensor_count(const Tensor *); /* all elements */
int64_t tensor_rows(const Tensor *);  /* elements / channels */
static inline int64_t tensor_channels(const Tensor *t)
{
    return t->n[t->nd - 1];
}

/* What a parameter is for: decides initialisation and, for TABLE, that a file may leave it out. */
typedef enum {
    W_CONV,
    W_LINEAR,
    W_BIAS,
    W_NORM_SCALE,
    W_NORM_SHIFT,
    W_EMBEDDING,
    W_TABLE,
    W_BLEND, /* share of a block's input in its result: at first all of it */
    W_ROTARY /* angles per frame: at first 10000^(-i / n) */
} WeightKind;

/* The only form in which ops take a parameter. `file` is the mapped file's own bytes in the file's own type
 * and order (O,I,kh,kw or O,I,k,1,1), at ANY alignment; read it through weight_widen or a backend's packing.
 * `own`, when not NULL, replaces it: float32, dense (training's master copy, or a table computed because the
 * file has none). */
typedef struct Weight {
    char name[160]; /* full canonical path, for messages: "down_blocks.0.resnets.0.conv1.weight" */
    WeightKind kind;
    DType type;
    int nd;
    int64_t n[MAX_DIMS];
    const void *file;
    float *own, *grad; /* grad: same count, accumulated into by backward; only when trainable */
    bool trainable;
    void *pack[4]; /* one slot per backend (Backend.slot); owned by that backend, dropped by weight_drop */
} Weight;

int64_t weight_count(const Weight *);
static inline bool weight_given(const Weight *w)
{
    return w->file || w->own;
}
/* Elements [from, from+count) as float32. */
void weight_widen(const Weight *, int64_t from, int64_t count, float *out);
/* F16, BF16, F64, integers to float32; source at any alignment. */
void widen(DType, const void *src, int64_t from, int64_t count, float *out);
/* Frees packs and nothing else. */
void weight_drop(Weight *);

/* ---- context ----------------------------------------------------------------------------- */

typedef struct Plan Plan;
typedef struct Tape Tape;
typedef struct Backend Backend;

/* One per session and thread. Zero-initialise, then cx_init. */
typedef struct Cx {
    const Backend *const *chain; /* best first, ends with ref then NULL; cpu_chain() */
    gimbal_error *err;
    const atomic_int *cancel; /* may be NULL; nonzero: the next op fails with ECANCEL */
    int threads;
    bool bf16;      /* linears and attention round their inputs to bf16, sums are float32; kept by plans */
    bool recompute; /* block() keeps only a block's inputs on the tape and runs it again in backward */
    Tape *tape;     /* NULL: inference */
    char *work;     /* memory for plan_run, 64-byte aligned, at least plan_bytes(plan) */
    size_t work_bytes;
    /* Sees the output of every module that a network names, as it is made; for tests and debugging of eager
     * runs. */
    void (*tap)(void *user, const char *module, const Tensor *output);
    void *tap_user;
    /* Called after every step of plan_run; for work beside it, such as sending gradients that are finished.
     */
    void (*stepped)(void *user, const Plan *, int step);
    void *stepped_user;
    /* the rest belongs to tensor/ */
    Plan *plan;
    int mode;
    bool in_block; /* in block(), which will run again in backward: no tape, but gradients will be wanted */
    bool watch;    /* check every op's output for non-finite values (plan_run does a second run with it) */
    size_t mapped; /* of work, by cx_work; 0: it is the caller's */
    gimbal_error own_err;
    Arena headers, eager;
} Cx;

/* threads 0: threads_available(). err may be NULL: the context then keeps its own (cx->err is never NULL). */
void cx_init(Cx *, const Backend *const *chain, int threads, gimbal_error *err);
void cx_reset(Cx *); /* drops eager tensors and headers */
/* At least so much work memory, until cx_free; pages count only once they are used. What lay in it is lost when
 * it grows. ENOMEM: there is none then. */
int cx_work(Cx *, size_t bytes, gimbal_error *err);
void cx_free(Cx *);
bool cx_failed(const Cx *);
/* Records an error (the first one stays), returns NULL so that ops can return it. */
void *cx_fail(Cx *, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* ---- plans ------------------------------------------------------------------------------- */

/* A network as straight-line code. `self` is the network with its call's constants (frames, ...). */
typedef Tensor *(*Graph)(Cx *, void *self, Tensor **in);

/* Meets the graph dry: inputs need shapes only (d may be NULL). NULL on error (in cx->err). */
Plan *plan_make(Cx *, Graph, void *self, Tensor **in);
/* Runs it at cx->work. Shapes of `in` must be the plan's. A non-finite value in the result makes a second run
 * that names the first operator whose output is not finite (EVALUE). The result is valid until the next run.
 */
Tensor *plan_run(Cx *, Plan *, Graph, void *self, Tensor **in);
void plan_free(Plan *);

size_t plan_bytes(const Plan *);      /* memory that plan_run needs: tensors and kernels' scratch */
size_t plan_pack_bytes(const Plan *); /* weights that kernels will pack, each counted once */
size_t plan_bound(const Plan *);      /* liveness bound: no packing of offsets can be below it */
double plan_flops(const Plan *);
/* The last step of the plan that adds to this weight's gradient; -1: none does. */
int plan_learnt(const Plan *, const Weight *);
/* Predicted seconds: times the plan's distinct calls on scratch data for at most `budget` seconds, dearest
 * first, with fewer rows where a call is long, and extends by FLOPs and bytes. Needs memory of one call at a
 * time. */
double plan_seconds(Cx *, Plan *, double budget);
/* "conv2d [32,16,16,32]x[64,32,3,3] dnn 12x 3.4 ms"-like lines, one per distinct call, for bench and
 * --dry-run. */
int plan_print(const Plan *, char *out, size_t room);

/* What operators are sorted into when their times are summed up. CONV3: stride 1. */
#define CALL_CLASSES(X)                                                                                      \
    X(CONV3, "conv 3x3")                                                                                     \
    X(LINEAR, "linear")                                                                                      \
    X(CONV, "other conv")                                                                                    \
    X(ATTENTION, "attention")                                                                                \
    X(TIME, "temporal attention")                                                                            \
    X(NORM, "norm")                                                                                          \
    X(REST, "rest")
#define CALL_CLASS_ENUM(name, text) CLASS_##name,
typedef enum { CALL_CLASSES(CALL_CLASS_ENUM) CLASS_COUNT } CallClass;
const char *call_class_name(CallClass);

/* One distinct call of a plan, and how it is done. Numbers are of one call of `count`. */
typedef struct {
    char text[256]; /* "conv2d [32,16,16,32]x[64,32,3,3] conv_in.weight": with the first weight of its kind */
    CallClass kind;
    const char *backend, *isa, *method; /* isa and method may be NULL */
    bool slow;                          /* of an operator that has fast kernels, but ref does it */
    bool bf16;                          /* may multiply bf16 */
    int count, runs;                    /* runs: by plan_run, of all of them together */
    double flops;                       /* by definition */
    double made;                        /* really multiplied and added by this kernel */
    double need;    /* the fewest that are known: Winograd F(4x4,3x3)'s products, else flops */
    double bytes;   /* inputs, weights as they are stored, result: each once */
    double seconds; /* < 0: could not be measured */
} PlanCall;
typedef int (*PlanVisit)(void *user, const PlanCall *); /* nonzero stops and is returned */
/* Every distinct call, dearest first, with the mean time of its runs by plan_run since plan_make or
 * plan_forget_times; < 0: not run. */
int plan_times(Cx *, const Plan *, PlanVisit, void *user);
void plan_forget_times(Plan *);
/* The same, each call run whole and alone on memory of its own, once to warm up and then at least once, more
 * often while its share of `budget` seconds lasts; the least time counts. The real weights are used. */
int plan_trials(Cx *, const Plan *, double budget, PlanVisit, void *user);

/* ---- tensors ----------------------------------------------------------------------------- */

/* Wraps caller's memory, dense. data may be NULL in a dry run. */
Tensor *tensor_input(Cx *, DType, int nd, const int64_t *n, const void *data);
/* Same elements, other shape; the channel count may change only if the tensor is dense. */
Tensor *op_view(Cx *, Tensor *, int nd, const int64_t *n);
/* Channels [from, from+width) of every row, no copy. */
Tensor *op_channels(Cx *, Tensor *, int64_t from, int64_t width);

/* ---- operators --------------------------------------------------------------------------- */

typedef enum { ACT_NONE, ACT_SILU, ACT_GELU, ACT_QUICK_GELU, ACT_GEGLU } Act; /* GELU: exact, erf */

/* What follows a convolution (over space or time) or linear in the same pass:
 *     y = act(x*w + bias + row[r / row_per]) * scale + add
 * row [n_rows, C] serves row_per consecutive rows each (a time embedding per clip: row_per = F*H*W);
 * ACT_GEGLU takes 2C channels to C: value half times GELU of the gate half. bias may have no data
 * (weight_given 0): none. */
typedef struct Epi {
    Weight *bias;
    Tensor *row, *add;
    int64_t row_per;
    Act act;
    float scale; /* 0 means 1 */
} Epi;

/* x [N,H,W,I], w [O,I,kh,kw] -> [N,Ho,Wo,O]. pad: top, bottom, left, right. */
Tensor *op_conv2d(Cx *, Tensor *x, Weight *w, int stride, const int pad[4], Epi);
/* Over the frames of a clip, pixel by pixel: x [B*F,H,W,I], w [O,I,k,1,1], k odd -> [B*F,H,W,O]. Beyond a
 * clip's ends lie zeros: y[f] = sum over t of w[t] x[f + t - k/2]. */
Tensor *op_convt(Cx *, Tensor *x, Weight *w, int frames, Epi);
/* x [...,I], w [O,I] or [O,I,1,1] -> [...,O] (GEGLU: O/2). */
Tensor *op_linear(Cx *, Tensor *x, Weight *w, Epi);

/* GroupNorm over groups of C/groups channels; one statistic covers `per` frames (1, or all frames of a clip).
 * groups 0: LayerNorm over the channels of each row. Biased variance. act: ACT_NONE or ACT_SILU. */
typedef struct {
    int groups, per;
    float eps;
    Act act;
} NormArg;
Tensor *op_norm(Cx *, Tensor *x, Weight *scale, Weight *shift, NormArg);

/* softmax(q k' * scale) v per head of C/heads channels. The key set of a query is the concatenation of n_kv
 * sets: KV_SELF  in space: the rows of its own frame; in time: the same position in all frames of its clip
 *   KV_CLIP  k, v [B,L,C]: one set for all frames of a clip (text)
 *   KV_FIRST  in space: the rows of frame 0 of the clip
 *   KV_WINDOW  in time: the eight neighbours of the position in frame 0 of the clip, coordinates clamped to a
 *     frame of S / width lines; row by row, the position itself left out
 * q [B*F,S,C], and k, v too but for KV_CLIP, so that sets may share them; result has q's shape. in_time:
 * queries attend over frames, straight on this layout. No score matrix beyond a tile is ever stored. */
typedef enum { KV_SELF, KV_CLIP, KV_FIRST, KV_WINDOW } KvMap;
enum { WINDOW_KEYS = 8 };
typedef struct {
    Tensor *k, *v;
    KvMap map;
} Kv;
enum { MAX_KV = 3 };
typedef struct {
    int heads, frames; /* frames F of a clip: q->n[0] = B*F */
    bool in_time, causal;
    float scale; /* 0: 1/sqrt(C/heads) */
    int width;   /* positions of a line, for KV_WINDOW */
} AttnArg;
Tensor *op_attention(Cx *, Tensor *q, const Kv *kv, int n_kv, AttnArg);

Tensor *op_act(Cx *, Tensor *x, Act);                        /* GEGLU halves the channels */
Tensor *op_add(Cx *, Tensor *a, Tensor *b);                  /* same shape */
Tensor *op_rows(Cx *, Tensor *x, Tensor *rows, int64_t per); /* y[r] = x[r] + rows[(r / per) % rows->n[0]] */
Tensor *op_concat(Cx *, Tensor *a, Tensor *b);               /* channels: [a, b] */
/* Nearest neighbour to H x W: source index floor(i * in / out). x [N,h,w,C]. */
Tensor *op_resize(Cx *, Tensor *x, int64_t H, int64_t W);
/* The whole tensor, `times` times one after the other: x [N,...] -> [times*N,...]; once is x itself. */
Tensor *op_repeat(Cx *, Tensor *x, int64_t times);
/* Rotary positions (Su et al. 2021) by frame: x [B*F,...,C], freqs [P], 2P <= C. In frame f of its clip the
 * pair of channels 2i, 2i+1 turns by f * freqs[i]; channels from 2P on stay. Frame 0 stays as it is. */
Tensor *op_rotate(Cx *, Tensor *x, Weight *freqs, int frames);
/* k a + (1 - k) b, k = alpha [1] clamped to 0..1; of one shape. */
Tensor *op_blend(Cx *, Tensor *a, Tensor *b, Weight *alpha);
/* x [B*F,...,C] with frame 0 of every clip taken from `first`, of the same shape. */
Tensor *op_first(Cx *, Tensor *x, Tensor *first, int frames);
/* Rows of a table [n,C]: ids I32 [N] or NULL for 0..count-1. Ids outside the table are an EMODEL error. ->
 * [count,C] */
Tensor *op_embed(Cx *, Weight *table, Tensor *ids, int64_t count);
/* Mean of squared differences, [1]. The target gets no gradient. */
Tensor *op_mse(Cx *, Tensor *x, Tensor *target);
/* The same row by row of the first dimension: x [N,...], weight [N] -> [1 + N]: the sum of weight[i] m[i],
 * then m[i], row i's mean of squared differences. The weights get no gradient. */
Tensor *op_mse_weighted(Cx *, Tensor *x, Tensor *target, Tensor *weight);

/* The one place that decides about recomputation: with cx->tape && cx->recompute only `in` and the result are
 * kept and the graph is run again in backward; else plainly graph(cx, self, in). At most 4 inputs. */
Tensor *block(Cx *, Graph, void *self, Tensor **in, int n_in);

/* ---- gradients --------------------------------------------------------------------------- */

Tape *tape_new(void);
void tape_clear(Tape *);
void tape_free(Tape *);
int tape_length(const Tape *);
/* Fills grad of every tensor and trainable weight that led to `loss` [1] (d loss = 1); weights accumulate.
 * Returns 0 or the error code in cx->err. */
int backward(Cx *, Tensor *loss);

/* ---- parameters: declared once, walked by any visitor ------------------------------------ */

/* A network's params function calls pv_* in any order; `leaf` is called for every parameter with its full
 * name. Walks that only count, bind, initialise, save or print differ in `leaf` alone. */
typedef struct Params {
    int (*leaf)(struct Params *, Weight *); /* w: name, kind, nd, n are set; nonzero stops the walk */
    void *user;
    gimbal_error *err;
    int code; /* first nonzero result of leaf */
    size_t at;
    char path[160];
    int depth; /* of pv_in, and where each began in path */
    unsigned char mark[32];
} Params;
void pv_in(Params *, const char *fmt, ...) PRINTF_LIKE(2, 3); /* "down_blocks.%d": enter */
void pv_out(Params *);                                        /* leave the last pv_in */
void pv_leaf(Params *, const char *name, Weight *, WeightKind, int nd, const int64_t *n);
/* The value with which training begins a parameter that no file has: convolutions and linears uniform within
 * 1/sqrt(inputs), embeddings within 1, biases and shifts 0, scales 1, blends and rotary angles as their kinds
 * say. A function of (seed, name, index). */
void weight_begin(const Weight *, uint64_t seed, float *out);
uint64_t weight_hash(const Weight *); /* of its name */
/* wb[0] weight, wb[1] bias. bias 0: no bias tensor exists. */
void pv_conv(Params *, const char *name, Weight wb[2], int in, int out, int k);
void pv_convt(Params *, const char *name, Weight wb[2], int in, int out, int k);
void pv_linear(Params *, const char *name, Weight wb[2], int in, int out, bool bias);
void pv_norm(Params *, const char *name, Weight wb[2], int c);

#endif
