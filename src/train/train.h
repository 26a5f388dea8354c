/* train.h: learning: data in a fixed random order, the loss of a micro-batch, gradients, AdamW, checkpoints.
 *
 *   toyworld.c     procedural clips                    order.c     which clip comes next, and its draws
 *   optimizer.c    AdamW, clipping, EMA, schedules     set.c       which parameters learn, in flat arrays
 *   batch.c        clips -> latents, noise, context    cache.c     latents that were encoded before
 *   recipe_*.c     one file per recipe: networks, loss of a batch      recipe.c   their table
 *   settings.c     the option table and its checks     trainer.c   the loop
 *   checkpoint.c   its state on disk
 *   export.c       weights as other programs read them api.c       the public functions
 *
 * LAW 1: everything random is a function of (seed, global sample number, stream), never of rank, thread,
 * micro-batch, or of what was drawn before. g = step * batch + j, j the place in the step.
 * LAW 2: a gradient is the mean over the step's clips: every micro-batch adds sum(loss)/batch.
 *
 * Rows are [B*F,h,w,C], as networks have them. Refuses to know pictures' files, argv and terminals. */
#ifndef TRAIN_H
#define TRAIN_H

#include "diffusion/engine.h"

/* ---- order and draws: order.c ------------------------------------------------------------ */

/* Place p of epoch q of n clips -> clip number: a keyed bijection (Feistel rounds of Philox over the next
 * power of 4, walked until below n). attempt > 0: a replacement for a clip that cannot be read; attempts 0 to
 * n-1 are n different clips. */
int64_t order_clip(uint64_t seed, int64_t n, int64_t g, int attempt);
/* The sample's own key; all its draws are Philox under it. */
uint64_t sample_key(uint64_t seed, int64_t g);
typedef enum {
    DRAW_START = 64, /* numbers of streams; noise streams are source.c's way with this key */
    DRAW_STRIDE,
    DRAW_FLIP,
    DRAW_TIMESTEP,
    DRAW_CAPTION,
    DRAW_IMAGE,
    DRAW_POSTERIOR,
    DRAW_NOISE_FRAME,
    DRAW_NOISE_CLIP,
    DRAW_OFFSET,
} TrainDraw;
double draw_uniform(uint64_t key, TrainDraw);           /* [0, 1) */
int64_t draw_below(uint64_t key, TrainDraw, int64_t n); /* 0..n-1 */

/* ---- optimiser: optimizer.c -------------------------------------------------------------- */

typedef struct {
    double beta1, beta2, eps, decay;
} AdamW;
/* Threads of what follows are OpenMP's own setting of the calling thread; they change no bit. */
/* One parameter tensor, as PyTorch's single-tensor form rounds: every listed operation once in float32,
 * scalars in double. s: steps that this tensor makes, this one included (1, 2, ...). */
void adamw_step(const AdamW *, double lr, int64_t s, int64_t n, float *p, const float *g, float *m, float *v);
/* sqrt(sum of squares) of n values, sums in double in a fixed order. */
double grad_norm(const float *g, int64_t n);
/* min(1, most / (norm + 1e-6)); 1 when most is 0. */
double clip_factor(double norm, double most);
/* diffusers' EMAModel: decay of update `step` (1, 2, ...). */
typedef struct {
    double decay, min_decay, inv_gamma, power;
    int64_t after;
    bool warmup;
} Ema;
double ema_decay(const Ema *, int64_t step);
void ema_update(double decay, int64_t n, float *shadow, const float *p);
/* diffusers' get_scheduler factors. */
typedef struct {
    enum { LR_CONSTANT, LR_LINEAR, LR_COSINE, LR_RESTARTS, LR_POLYNOMIAL, LR_PIECEWISE } kind;
    int64_t warmup, total;
    double cycles, power, end, lr; /* end: absolute, of LR_POLYNOMIAL; lr: the base rate it is relative to */
    int n_rules;
    struct {
        double factor;
        int64_t before;
    } rule[16];
    double last; /* of LR_PIECEWISE, behind all rules */
} LrSchedule;
/* "constant", "linear", "cosine[:CYCLES]" (0.5), "cosine_with_restarts[:CYCLES]" (1), "polynomial[:POWER]"
 * (1), "piecewise:1:10,0.1:20,0.01", which knows no warm-up; EUSAGE names the known ones. */
int lr_parse(LrSchedule *, const char *text, int64_t warmup, int64_t total, double lr, gimbal_error *err);
double lr_factor(const LrSchedule *, int64_t done); /* done: optimiser steps already made */

/* ---- what learns: set.c ------------------------------------------------------------------ */

typedef struct {
    Weight *w;
    int net;           /* of the recipe's networks: its learning rate, clipping and prefix */
    int64_t at, count; /* in the flat arrays; at is a multiple of 16 */
} Param;
enum { MAX_NETS = 2 };
typedef struct {
    Param *p;
    int n;
    int64_t total;                     /* floats of each flat array, padding included (zeros) */
    int64_t begin[MAX_NETS + 1];       /* net i: [begin[i], begin[i+1]) */
    float *value, *grad, *m, *v, *ema; /* [total]; ema NULL: none */
    int64_t parameters;                /* of all networks, frozen ones too; without tables of positions */
    int nets;
} TrainSet;
/* What stands before a parameter's name where a recipe has two networks: "residual." of net 0, "base." of 1.
 */
extern const char *const net_names[MAX_NETS];
enum { PARAM_NAME = 200 };
void param_name(const TrainSet *, int net, const Weight *, char out[PARAM_NAME]);
typedef struct {
    void (*params)(void *self, Params *);
    void *self;
    int net;
} TrainPart;
/* Walks the parts; parameters whose name matches a pattern of `patterns` ("*motion_modules*,conv_in.*")
 * become trainable: Weight.trainable. Values are not touched yet. Patterns are held against param_name, and
 * each must match something: EUSAGE with what a misspelt one is near to. Tables of
 * positions are never trained. */
int set_mark(TrainSet *, const TrainPart *, int parts, const char *patterns, Arena *keep, gimbal_error *err);
/* Whether any parameter of a network was marked. */
bool set_learns(void (*params)(void *self, Params *), void *self);
/* Parameters that no gradient reaches (told by the plan) stay as they are: neither decayed nor counted. */
void set_drop(TrainSet *, const Plan *const *plans, int n);
/* Takes the flat arrays; Weight.own and .grad point into value and grad; ema begins as value. ENOMEM; EMODEL:
 * a parameter has no value. */
int set_memory(TrainSet *, bool ema, gimbal_error *err);
/* To be called while the networks still live: their weights are the file's again. */
void set_free(TrainSet *);

/* ---- a micro-batch: batch.c -------------------------------------------------------------- */

/* B clips of F frames, rows [B*F,h,w,C]. */
typedef struct {
    int clips;
    gimbal_shape shape; /* of one clip */
    float *x0, *noise,
        *z;         /* clean latents times the scaling factor; N(0,1); sqrt(abar) x0 + sqrt(1-abar) noise */
    float *context; /* [B,77,D] */
    float *target;  /* what the network is to give: noise, or v */
    double *t;      /* [B] */
    float *weight;  /* [B] min-SNR's, or 1 */
    int *stride;    /* [B] frames of the film between two of the clip */
    bool *no_image; /* [B] the first frame is noised too (image dropout) */
    int64_t *sample, *clip; /* [B] global sample numbers; numbers in the data */
    /* videofusion: base noise [B,h,w,C], residual noise rows, share of the base in each frame [F]; else NULL
     */
    float *base, *residual;
    double *lambda;
} Batch;
enum { MAX_CLIP_FRAMES = 4096 };
/* lambda is the caller's to fill. ENOMEM. */
int batch_make(Batch *, int clips, gimbal_shape, int context_width, bool decomposed, gimbal_error *err);
void batch_free(Batch *);
uint64_t batch_bytes(int clips, gimbal_shape, int context_width);
struct gimbal_trainer;
/* Samples g, g + 1, ... of the run. EUSAGE when many clips in a row cannot be used; else each is reported. */
int batch_fill(struct gimbal_trainer *, Batch *, int64_t g, gimbal_error *err);
/* Clips v, v + 1, ... of the validation set at the middle timestep of a band. */
int batch_validation(struct gimbal_trainer *, Batch *, int v, int band, gimbal_error *err);
/* z, target and weight of place i from its x0, noise and t. */
void batch_diffuse(const struct gimbal_trainer *, Batch *, int i);

/* ---- what was encoded before: cache.c ---------------------------------------------------- */

/* Records of `floats` numbers on disk, found by (clip, frame, flip): moments of one frame, or with frame -1 a
 * caption's context. One file per rank, NAME-KEY-RANK.bin, that grows at its end; a torn last record is cut
 * off. All ranks' files are read, and what is missing is looked for in what they have grown by. key: 64 hex
 * digits that name encoder, data set and size; KEY, its first 16: files of another key are left alone. */
typedef struct Cache Cache;
/* The folder is made where it is not there; its parent must be. EUSAGE, EIO, ENOMEM; EFORMAT: our file's name
 * is taken by something else. *out is the caller's, to be given to cache_close. */
int cache_open(Cache **out, const char *folder, const char *name, const char *key, int64_t floats, int rank,
               gimbal_error *err);
bool cache_find(Cache *, int64_t clip, int frame, bool flip, float *out); /* checksum and all */
/* A full disk is an error that leaves the cache as it was. */
int cache_add(Cache *, int64_t clip, int frame, bool flip, const float *, gimbal_error *err);
int64_t cache_count(const Cache *);
void cache_close(Cache *);

/* ---- recipes: recipe.c, recipe_*.c ------------------------------------------------------- */

typedef struct {
    const char *name, *help, *source;
    const char *(*patterns)(const struct gimbal_trainer *); /* what is trained */
    size_t size;                                            /* of its private struct, zeroed */
    bool decomposed; /* noise is a base and residuals: Batch.base, .residual, .lambda */
    void (*lambda)(const void *self, const struct gimbal_trainer *,
                   double *lambda);            /* [F]; with decomposed */
    void (*defaults)(gimbal_train_settings *); /* what it decides */
    /* The networks and their order: fills `parts`, returns how many; checks the model's family. */
    int (*parts)(void *self, struct gimbal_trainer *, TrainPart parts[4], gimbal_error *err);
    /* Plans forward, loss and backward of a micro-batch under cx->recompute, which may be called again. */
    int (*plan)(void *self, struct gimbal_trainer *, gimbal_error *err);
    size_t (*work_bytes)(const void *self);
    double (*flops)(const void *self); /* of a micro-batch's forward and backward */
    int (*plans)(const void *self, const Plan *out[4]);
    /* Adds the batch's gradients, times 1/batch size; learn false: the loss alone. loss [B]: of each clip,
     * the mean squared error, unweighted. */
    int (*learn)(void *self, struct gimbal_trainer *, const Batch *, bool learn, double *loss,
                 gimbal_error *err);
    /* Writes what it learnt into a folder as model files. ema: of the running mean. */
    int (*save)(void *self, struct gimbal_trainer *, const char *folder, bool ema, gimbal_error *err);
    void (*free)(void *self);
} Recipe;
#define RECIPES(X) X(motion) X(image) X(consisti2v) X(videofusion)
#define RECIPE_EXTERN(name) extern const Recipe recipe_##name;
RECIPES(RECIPE_EXTERN)
const Recipe *recipe_at(int i);                               /* NULL past the end */
const char *recipe_everything(const struct gimbal_trainer *); /* as patterns: all parameters */
int recipe_find(const Recipe **, const char *name, gimbal_error *err);

/* ---- settings: settings.c ---------------------------------------------------------------- */

/* The table's ranges and choices; what needs no model. */
int train_check(const gimbal_train_settings *, gimbal_error *err);
/* Fills what is left to the recipe and to the model; texts move into keep. */
int train_fill(gimbal_train_settings *, const gimbal_engine *, const Recipe *, Arena *keep,
               gimbal_error *err);

/* ---- the loop: trainer.c ----------------------------------------------------------------- */

struct gimbal_trainer {
    Arena keep;
    gimbal_train_settings s; /* every field filled, texts in keep */
    gimbal_engine *engine;
    Schedule schedule;
    const Recipe *recipe;
    void *self;
    TrainSet set;
    AdamW adamw;
    Ema ema;
    LrSchedule lr;
    Cx cx;
    gimbal_error err;
    Batch batch;
    Plans encoders; /* text and VAE, frozen */
    const Noise *noise;
    void *noise_self;
    float *empty, *draw; /* context of the empty caption; one clip [C,F,h,w] */
    const gimbal_clips *clips;
    const gimbal_ranks *ranks; /* never NULL: alone is one rank */
    const char *output;
    int64_t learnt_from;   /* clips of the data that are not validation */
    int64_t step;          /* optimiser steps made */
    double begun, seconds; /* of this run; of a step, running mean */
    int (*event)(void *, const gimbal_train_event *);
    void *user;
    atomic_int stop;
    struct Bucket *bucket; /* of gradients, for sums over ranks */
    int n_buckets;
    gimbal_error sum_err;
    Cache *moments, *texts; /* NULL: encoded every time */
    const char *changes;    /* JSON: what was changed at which step when the run was resumed; NULL: nothing */
};
/* One optimiser step of the gradients in the set, which are means over the step already: norms, clipping,
 * AdamW, EMA, the learning rate; then the gradients are zeroed. norm [MAX_NETS]: before clipping. EVALUE when
 * they are not finite: nothing is changed. */
int trainer_update(struct gimbal_trainer *, double norm[MAX_NETS], gimbal_error *err);
/* A note to who trains; their answer may end the run, as after any event. */
void trainer_note(struct gimbal_trainer *, const char *fmt, ...) PRINTF_LIKE(2, 3);
int trainer_buckets(struct gimbal_trainer *, gimbal_error *err);
double trainer_lr(const struct gimbal_trainer *, int net); /* of the step that comes next */

/* ---- state on disk: checkpoint.c --------------------------------------------------------- */

/* OUT/step-00012000: state.safetensors (param., m., v., ema. of every tensor; scalars as metadata), weights/
 * and ema/ (what Recipe.save writes), manifest.json (sizes, SHA-256). Whole or not at all, on the disk when
 * it returns; older ones beyond `keep` go. Of one rank. */
int checkpoint_save(struct gimbal_trainer *, char folder[PATH_ROOM], gimbal_error *err);
/* The output folder, made if it is not there; what dead runs left half written is removed. EUSAGE: it holds
 * checkpoints, and resume is 0. */
int checkpoint_folder(struct gimbal_trainer *, int resume, gimbal_error *err);
/* The newest whole one; broken ones are told as notes. *found false: there is none. EUSAGE names what differs
 * from the settings; EFORMAT: there are some, but none is whole; EMODEL: other tensors. On error nothing was
 * taken. */
int checkpoint_load(struct gimbal_trainer *, bool *found, gimbal_error *err);
/* The settings that decide what is learnt, without paths; json_decref. NULL: no memory. */
json_t *train_config(const struct gimbal_trainer *);
/* Compact, numbers read back exactly; free. NULL: no memory, or json is NULL. */
char *train_json_text(const json_t *);

/* ---- model files: export.c --------------------------------------------------------------- */

/* A network, and what it was opened from: its config's bytes, and tensors that no parameter has. */
typedef struct {
    void (*params)(void *self, Params *);
    void *self;
    const Part *part;
    const char *config;       /* JSON text in place of the part's own; NULL: its own */
    const char *architecture; /* modelspec.architecture: "stable-diffusion-v1/motion-module" */
} Export;
/* folder/config.json and folder/diffusion_pytorch_model.safetensors, in the settings' save_type. ema: the
 * running mean of what was trained. EVALUE: a number does not fit the type. */
int export_network(const struct gimbal_trainer *, const Export *, const char *folder, bool ema,
                   gimbal_error *err);
/* Motion modules in AnimateDiff's own spelling: one file. */
int export_motion(const struct gimbal_trainer *, const Export *, const char *path, bool ema,
                  gimbal_error *err);
/* The engine's U-Net and motion modules, those of which something was trained: folder/unet/,
 * folder/motion_adapter/ and, in AnimateDiff's spelling, folder/motion_module.safetensors. */
int export_unet(const struct gimbal_trainer *, const char *folder, bool ema, gimbal_error *err);

#endif
