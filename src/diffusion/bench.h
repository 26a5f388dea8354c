/* bench.h: random models of published shapes, and what bench.c measures with them. Private to src/diffusion
 * and to the tests.
 *
 *   bench_configs.c  the published configs, as data     bench_model.c  a model of such configs: weights,
 * files bench.c          gimbal_bench: whole networks       bench_ops.c    the same, operator by operator
 *
 * Refuses to know argv and how results are shown. */
#ifndef BENCH_H
#define BENCH_H

#include "diffusion/engine.h"

/* ---- shapes: bench_configs.c ------------------------------------------------------------- */

/* A model as its config files say: JSON texts. motion NULL: the family takes no adapter. */
typedef struct {
    const char *name, *help, *family; /* family: of registry "family" */
    const char *index, *unet, *motion, *vae, *text, *scheduler;
    const char *pad; /* the tokenizer's padding token */
} BenchModel;

/* EUSAGE names the nearest. */
int bench_model_find(const BenchModel **out, const char *name, gimbal_error *err);
const BenchModel *bench_model_at(int i); /* NULL past the end */

/* ---- random models: bench_model.c -------------------------------------------------------- */

/* Parameters of a part of the model: how many tensors, how many values. */
typedef struct {
    int tensors;
    int64_t values;
} BenchCount;
int bench_model_count(const BenchModel *, PartKind, BenchCount *out, gimbal_error *err);

/* `done` is the share of the bytes that are written, 0 to 1; nonzero from the callback cancels. */
typedef struct {
    int (*progress)(void *user, double done);
    void *user;
} BenchProgress;

/* As gimbal_bench_model. */
int bench_model_write(const BenchModel *, DType, uint64_t seed, const char *folder, BenchProgress,
                      gimbal_error *err);
/* Opens such a model whose files have no names: they lie in a temporary folder's file system, or in memory
 * where there is no room, and vanish with the engine, however the process ends. *began: seconds_now() when
 * the files were there and opening began. */
int bench_model_open(gimbal_engine **out, const BenchModel *, DType, uint64_t seed, BenchProgress,
                     double *began, gimbal_error *err);

/* Values [from, from + count) of a parameter; a function of (seed, its name, the index). For weights of n
 * inputs uniform with variance 1/n, so that a layer keeps the size of what it reads; norms' scales 1; biases
 * and shifts small; embeddings of variance 1; tables of positions and rotary angles what they are; blends
 * half and half. */
void bench_draw(const Weight *, uint64_t seed, int64_t from, int64_t count, float *out);

/* ---- what is measured: bench.c, bench_ops.c ---------------------------------------------- */

typedef struct {
    const gimbal_bench_order *order;
    gimbal_bench_result *result;
    gimbal_engine *engine;
    gimbal_session *session;
    float *picture; /* a latent, for families that begin from one; only its being there is looked at */
    uint64_t anon;  /* bytes of this process before anything was opened */
} Bench;

/* Raises result->peak_bytes to what the process has now beyond its beginning. */
void bench_note_memory(Bench *);
/* The plan of the order's U-Net call. */
Plan *bench_unet_plan(const Bench *);

/* peak_f32, peak_bf16 (0 where the CPU has none) and bandwidth, on the run's threads. */
void bench_peaks(Bench *);
/* The order's U-Net call, its operators one by one; then as bench_classes. */
int bench_ops(Bench *, gimbal_error *err);
/* Rows for the classes of operators of a plan that has run since plan_forget_times, as often as order->repeat
 * says; result's flops, made and bound become their sums. */
int bench_classes(Bench *, const Plan *, gimbal_error *err);

#endif
