/* diffusion.h: schedules, samplers, noise priors, re-initialisers, guidance: plain array code on host
 * float32.
 *
 * LAW: between two network calls everything is float32 [C,F,h,w], one clip, x_t = a(t) x0 + s(t) eps with eps
 * of unit variance, for every sampler; k-diffusion's scalings stay inside the Euler file; flow matching is a
 * = 1 - s. Tensors exist only below Denoise. A plug-in is a constant struct and one X-macro line; its private
 * struct of `size` bytes is zeroed, then filled from its option table. */
#ifndef DIFFUSION_H
#define DIFFUSION_H

#include "model/model.h"
#include "signal/signal.h"

static inline size_t shape_count(gimbal_shape s)
{
    return (size_t)s.c * s.f * s.h * s.w;
}

/* ---- schedule: schedule.c ---------------------------------------------------------------- */

typedef enum { PREDICT_EPSILON, PREDICT_V, PREDICT_SAMPLE } Prediction;
typedef enum { SPACING_LEADING, SPACING_LINSPACE, SPACING_TRAILING } Spacing;

/* x_t = a(t) x0 + s(t) eps for t = 0..T-1. From a scheduler_config.json; alphas_cumprod in double. */
typedef struct {
    int T;
    double *alpha_bar;  /* [T] abar(t) = a(t)^2; s^2 = 1 - abar */
    double final_alpha; /* abar "before" step 0: 1, or abar(0) (set_alpha_to_one false) */
    Prediction prediction;
    Spacing spacing;
    int steps_offset;
    bool clip_sample, zero_snr;
    double clip_range;
    double lambda_min; /* DPM-Solver's lambda_min_clipped: timesteps with ln(a/s) below it are not sampled */
    const char *betas; /* the beta_schedule in effect; NULL: a list of trained_betas */
    const char *sampler; /* the registry's that does what the file's class does, or "ddim" in its place */
} Schedule;
/* Config keys with diffusers' defaults of class `_class_name`; unknown values refused by name. betas: NULL,
 * or the setting that replaces beta_schedule; spacing likewise. Allocates from keep. note: set to a sentence
 * when something was replaced (PNDM). */
int schedule_read(Schedule *, const json_t *config, const char *where, const char *betas, const char *spacing,
                  bool has_motion, Arena *keep, const char **note, gimbal_error *err);
double schedule_a(const Schedule *, double t); /* t < 0: of the clean clip (final_alpha) */
double schedule_s(const Schedule *, double t);
/* s/a at t, between timesteps linear in itself (as a and s then are too); 0 of the clean clip, t < 0. Zero
 * signal counts as abar = 2^-24, as in diffusers' Euler and DPM-Solver, so that it is finite. */
double schedule_sigma(const Schedule *, double t);

/* The timesteps of one pass, descending, may be fractional. */
typedef struct {
    int n;
    int ratio; /* DDIM's previous step is t - ratio, T / steps; 0: steps lead from timestep to timestep, the
                  last to the clean clip */
    double start; /* what unit noise is multiplied by where a pass starts from noise alone */
    const double *t;
} Grid;
/* DDIM's, and every sampler's that has no grid of its own. */
int grid_make(Grid *, const Schedule *, int steps, Arena *keep, gimbal_error *err);
/* The timestep that step k leads to; < 0: the clean clip. */
double grid_next(const Grid *, int k);

/* ---- where random tensors come from: source.c -------------------------------------------- */

typedef enum { DRAW_INIT, DRAW_FRESH, DRAW_STEP, DRAW_ENCODE } Draw; /* ENCODE: of the VAE's posterior */
typedef struct {
    Draw why;
    int pass, step; /* 0-based */
    int lane;       /* 0: a frame's own noise; 1: shared by the clip */
    int64_t frame0; /* absolute number of the first frame */
    gimbal_shape shape;
} DrawReq;
/* rng, prior or file: callers cannot tell. out [C,F,h,w], N(0,1). */
typedef struct {
    int (*draw)(void *self, const DrawReq *, float *out);
    void *self;
} Source;
/* White noise. philox: stream = why<<28 | lane<<24 | pass<<16 | step, values are functions of the absolute
 * place. torch: successive torch.randn([1,C,F,h,w]) of one generator, in the order of calls. */
typedef struct {
    bool torch;
    unsigned frames_first;      /* torch: bits 1 << why: what is drawn as torch.randn([F,C,h,w]) instead */
    uint64_t seed, shared_seed; /* the latter of lane 1; white_init: the same */
    TorchRng rng;
} WhiteNoise;
int white_init(WhiteNoise *, const char *rng, uint64_t seed, gimbal_error *err);
Source white_source(WhiteNoise *);

#define PLUGIN                                                                                               \
    const char *name, *help, *source;                                                                        \
    const gimbal_option *options;                                                                            \
    size_t size

/* ---- noise priors: noise_*.c ------------------------------------------------------------- */

typedef struct {
    PLUGIN;
    /* N(0,1) per value; `white` gives independent normals. */
    int (*draw)(const void *self, Source white, const DrawReq *, float *out);
    /* Correlation of the noise of frames i and j. */
    double (*corr)(const void *self, int i, int j);
    /* What the spec left to the clip, or to a model that was trained on this prior: share [frames] of the
     * noise that all frames have, 1 of the key frame; NULL: the model has no say. Asked once, before any
     * draw. NULL: nothing is left open. EUSAGE. */
    int (*fit)(void *self, int frames, const double *share, gimbal_error *err);
    bool shares; /* lane 1 is the noise that all frames have: it may have a seed of its own */
} Noise;
#define NOISES(X) X(white) X(mixed) X(progressive) X(shared)

/* ---- re-initialisers: reinit_*.c --------------------------------------------------------- */

/* One sampling pass; the plan of a re-initialiser is a list of these. It starts at the grid's first step, or
 * where a given clip comes in. A pass that stops early hands on x where it stopped, and its x0. */
typedef struct {
    int steps;    /* asked of the grid */
    int run;      /* steps really made, 1..steps; 0: all */
    double until; /* stop at the first timestep <= this, but after one step; 0: do not */
    double cfg;   /* guidance scale of this pass; 0: the run's. <= 1: one branch, half the price */
} Pass;
enum { MAX_PASSES = 64 };

typedef struct {
    const Schedule *schedule;
    double t;       /* the first timestep that the pass samples */
    int pass;       /* 0-based */
    int64_t frame0; /* absolute number of the first frame */
    gimbal_shape shape;
    const float *image;     /* the picture that is begun from, [C,1,h,w] clean latents, or NULL */
    const float *reference; /* a clean clip [C,F,h,w] to take after, or NULL: `image` in every frame */
    const float *eps0;      /* unit noise the first pass started from */
    const float *x0; /* the last pass's estimate of the clean clip; its result when it ran to the end */
    const float *x;  /* where the last pass stopped: a(x_t) x0 + s(x_t) eps */
    double x_t;      /* its timestep; < 0: the end */
    /* DRAW_FRESH of a pass: step 0 is its fresh noise, given or of the prior; 1, 2, ... more of the prior */
    Source noise;
} ReinitIn;

typedef struct {
    PLUGIN;
    /* The passes, and so the cost, before any runs. Pure. Returns their number, 1..max, or a negative code.
     */
    int (*plan)(const void *self, int steps, Pass *out, int max);
    /* Asked before the first pass: eps [C,F,h,w], the initial unit noise as drawn or given, becomes what the
     * pass starts from and later passes see as eps0. in: x0 and x are NULL. NULL: stays as it is. */
    int (*first)(const void *self, const ReinitIn *in, float *eps, gimbal_error *err);
    /* Asked before each later pass: x at `t` as a(t) x0 + s(t) eps. NULL: there are none. */
    int (*start)(const void *self, const ReinitIn *, float *x, gimbal_error *err);
    /* Its low-pass filter, for gimbal_mask; NULL: none. */
    int (*lowpass)(const void *self, Lowpass *out);
    bool one_noise;     /* both bands hold the same noise, and are mixed with m and 1 - m */
    bool reads_picture; /* it cannot do without `image` or `reference` */
    /* Options that a schedule cannot serve: EUSAGE. NULL: there are none. */
    int (*check)(const void *self, const Schedule *, gimbal_error *err);
    /* Why this sampler, or a run that begins from a clip, cannot be served; or NULL. compat=1 of FreeInit is
     * sound with DDIM from noise only. */
    const char *(*refuses)(const void *self, const char *sampler, bool from_clip);
} Reinit;
/* Reinit.plan of those that make one whole pass: reinit_none.c. */
int plan_one_pass(const void *self, int steps, Pass *out, int max);
#define REINITS(X) X(none) X(freeinit) X(freqprior) X(redraw) X(frameinit)

/* ---- samplers: sampler_*.c --------------------------------------------------------------- */

/* A step function; the driver owns the loop. x, x0, eps, next: [C,F,h,w], unit-noise form. */
typedef struct {
    PLUGIN;
    /* Its own timesteps of a pass; NULL: grid_make. Through sampler_grid. */
    int (*grid)(Grid *, const Schedule *, int steps, Arena *keep, gimbal_error *err);
    int history;    /* clips that it remembers from step to step */
    bool takes_eta; /* eta means something to it */
    /* Prepare private state for one pass. eta as asked. history: [history][C,F,h,w], the caller's, from now
     * to the last step; all that a pass in the middle needs to go on, besides x: begin forgets it, and a
     * caller may put back afterwards what it held. */
    int (*begin)(void *self, const Schedule *, const Grid *, double eta, float *history, gimbal_error *err);
    /* Does step k want injected noise? NULL: never. */
    bool (*injects)(const void *self, int k);
    /* From t[k] to the next step. raw: the network's own prediction; inject: N(0,1) or NULL. x0 out (may be
     * NULL): estimate. */
    int (*step)(void *self, int k, size_t n, const float *x, const float *raw, const float *inject,
                float *next, float *x0);
} Sampler;
#define SAMPLERS(X) X(ddim) X(euler) X(dpmpp2m) X(ddpm)

static inline int sampler_grid(const Sampler *sampler, Grid *grid, const Schedule *schedule, int steps,
                               Arena *keep, gimbal_error *err)
{
    return (sampler->grid ? sampler->grid : grid_make)(grid, schedule, steps, keep, err);
}

/* raw prediction -> x0 and eps at t, by schedule->prediction, clip_sample applied to x0. Shared by samplers.
 */
void predict_x0_eps(const Schedule *, double t, size_t n, const float *x, const float *raw, float *x0,
                    float *eps);
/* The same where the level is sigma = s/a, without clipping: what k-diffusion's samplers go by. */
void predict_at_sigma(Prediction, double sigma, size_t n, const float *x, const float *raw, float *x0,
                      float *eps);

#define NOISE_EXTERN(n) extern const Noise noise_##n;
#define REINIT_EXTERN(n) extern const Reinit reinit_##n;
#define SAMPLER_EXTERN(n) extern const Sampler sampler_##n;
NOISES(NOISE_EXTERN)
REINITS(REINIT_EXTERN)
SAMPLERS(SAMPLER_EXTERN)

/* registry.c: "freeinit:passes=3" -> the plug-in and its filled private struct (from keep). EUSAGE suggests
 * names. */
int noise_parse(const char *spec, const Noise **, void **self, Arena *keep, gimbal_error *err);
int reinit_parse(const char *spec, const Reinit **, void **self, Arena *keep, gimbal_error *err);
int sampler_parse(const char *spec, const Sampler **, void **self, Arena *keep, gimbal_error *err);
/* This folder's part of gimbal_plugin_at. EUSAGE: none of its kinds, or past the end; i >= 0. */
int diffusion_plugin_at(const char *kind, int i, gimbal_plugin *out);

/* A prior over white noise, as a Source. */
typedef struct {
    const Noise *noise;
    const void *self;
    Source white;
} PriorNoise;
Source prior_source(PriorNoise *);

/* ---- the denoiser and guidance: guide.c -------------------------------------------------- */

/* One prediction for a clip at timestep t: raw [C,F,h,w]. Guidance is inside, guide.c. */
typedef struct {
    /* cfg: guidance scale of this call; <= 1: the prompt's branch alone */
    int (*predict)(void *self, const float *x, gimbal_shape, double t, double cfg, float *raw,
                   gimbal_error *err);
    void *self;
} Denoise;

/* ---- the driver: pipeline.c -------------------------------------------------------------- */

/* All passes of one clip, or of its chunks one after the other, as arrays and a Denoise. Can be called again
 * after ECANCEL. */
typedef struct {
    const Schedule *schedule;
    const Sampler *sampler;
    void *sampler_self;
    const Reinit *reinit;
    void *reinit_self;
    Source noise;       /* the prior, over the rng */
    const float *given; /* initial unit noise, or NULL */
    const float *fresh; /* [n_fresh] of later passes, or NULL */
    const float *clip;  /* clean latents to begin from (video to video), or NULL */
    double strength;    /* with clip: share of the steps that is run, 0..1 (diffusers' meaning) */
    int n_fresh, steps;
    double eta, cfg;
    const float *image;     /* the picture to begin from [C,1,h,w], or NULL */
    const float *reference; /* for re-initialisers: [C,F,h,w], or NULL; the first chunk's */
    bool hold;              /* the image is frame 0 of x all the way, the other frames alone are sampled */
    float *blank;     /* with hold: [C,1,h,w], where the net looks for frame 0's noise in the branch that
                         must not see the image; written when a pass begins */
    double cfg_image; /* > 1: guidance by the image too, three branches a call */
    int chunks;       /* K > 1: each further chunk begins with the last one's last frame; needs hold */
    const float *chunk_given; /* [n_chunk_given][C,F,h,w] initial unit noise of chunks 1, 2, ..., or NULL */
    int n_chunk_given;
    gimbal_shape shape; /* of a chunk */
    Denoise net;
    const atomic_int *cancel;
    int (*progress)(void *user, const gimbal_progress *);
    void *user;
    struct DriverState *state; /* owned by the driver; driver_end */
} Driver;
/* What a run will do: the steps from..to-1 of each pass's grid. to < grid.n: the pass stops early. */
typedef struct {
    Grid grid;
    int from, to;
    double cfg;
    int branches; /* of a call */
} PlannedPass;
/* The passes of one chunk. Fills out[MAX_PASSES], the grids from keep; returns the count or a negative code.
 * Checks all that can be wrong before the first network call; of the driver it reads schedule, sampler,
 * reinit, steps, cfg, cfg_image, strength and whether there is a clip, an image, a reference. */
int driver_plan(const Driver *, PlannedPass *out, Arena *keep, gimbal_error *err);
/* Of a call without guidance by the image. */
static inline int branches(double cfg)
{
    return cfg > 1 ? 2 : 1;
}
/* Frames of all chunks together. */
static inline int driver_frames(const Driver *d)
{
    return MAX(d->chunks, 1) * (d->shape.f - 1) + 1;
}
/* latents [C,driver_frames,h,w] out. */
int driver_run(Driver *, float *latents, gimbal_error *err);
void driver_end(Driver *);

#endif
