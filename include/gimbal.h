/* gimbal.h: steady video diffusion, as a library. The only public header.
 *
 *     gimbal_engine *engine; gimbal_session *run; gimbal_settings s; gimbal_error err = {0};
 *     if (gimbal_open(&engine, "models/toyworld", NULL, &err)) die(err.msg, err.hint);
 *     gimbal_defaults(&s, engine);
 *     s.prompt = "a large red circle moving right over a checkered black background";
 *     s.reinit = "freeinit:passes=3";
 *     gimbal_begin(&run, engine, &s, &err);
 *     gimbal_shape z = gimbal_latent_shape(run);
 *     float *latents = malloc(sizeof(float) * z.c * z.f * z.h * z.w);
 *     gimbal_sample(run, latents, &err);                      // all passes of FreeInit
 *     gimbal_decode(run, latents, z, on_frame, user, &err);   // RGB frames, one call each
 *     gimbal_end(run); gimbal_close(engine);
 *
 * Errors. Functions that return int give GIMBAL_OK (0) or a negative gimbal_code, unless their comment says
 * otherwise. `err` may be NULL; otherwise it must be zeroed before its first use, and the FIRST error is
 * kept: clear it (err->code = 0) before reuse. What a failed function was to fill is undefined unless its
 * comment says otherwise. Nothing here prints, exits, or writes a file that was not asked for.
 *
 * Arrays. [C,F,h,w] is row-major float32 on the host: w runs fastest, then h, F (frames), C (channels). There
 * is no batch axis: one clip. Latents are unit noise, x_t = a(t) x0 + s(t) eps with eps of variance 1:
 * whatever scale a sampler uses inside stays inside. h and w are latent pixels: the picture's, divided by the
 * VAE's factor (8 in Stable Diffusion). That an array is as long as its shape says is the caller's word.
 *
 * Owners. Strings given to the library are borrowed until the call returns, those in gimbal_settings until
 * gimbal_begin returns; strings given out live as long as the object they came from, unless the comment says
 * "caller frees": with free(). Text is UTF-8.
 *
 * Threads. An engine may be shared; a session, settings and a gimbal_error belong to one thread at a time.
 * Only gimbal_cancel may come from elsewhere. Functions without an object may run side by side. Callbacks
 * come on the thread that called, and must not call into the same session, gimbal_cancel excepted, and
 * gimbal_decode from the progress of gimbal_sample. */
#ifndef GIMBAL_H
#define GIMBAL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef GIMBAL_API
#if defined(__GNUC__)
#define GIMBAL_API __attribute__((visibility("default")))
#else
#define GIMBAL_API
#endif
#endif

/* ---- errors ------------------------------------------------------------------------------ */

/* One list: the enum, the strings of gimbal_code_name and the program's exit status come from it. */
#define GIMBAL_CODES(X)                                                                                      \
    X(EUSAGE, -1, "a setting is wrong")                                                                      \
    X(EFORMAT, -2, "a file is not what it should be")                                                        \
    X(EMODEL, -3, "the model and the request do not fit")                                                    \
    X(ENOMEM, -4, "out of memory")                                                                           \
    X(EIO, -5, "a file cannot be read or written")                                                           \
    X(ECANCEL, -6, "cancelled")                                                                              \
    X(ENOSUP, -7, "not supported by this build")                                                             \
    X(EVALUE, -8, "values turned non-finite during the run")

#define GIMBAL_CODE_ENUM(name, value, text) GIMBAL_##name = value,
typedef enum { GIMBAL_CODES(GIMBAL_CODE_ENUM) GIMBAL_OK = 0 } gimbal_code; /* C++98: no comma at the end */

/* msg: what, where, expected, found. hint: what to do, or empty. Both are UTF-8, one line. */
typedef struct {
    int code;
    char msg[768], hint[320];
} gimbal_error;

/* The short text of a code, e.g. "out of memory". Never NULL. */
GIMBAL_API const char *gimbal_code_name(int code);

/* "0.1.0", and a line on the build: compiler, oneDNN, instruction set in use. Constant strings. */
GIMBAL_API const char *gimbal_version(void);
GIMBAL_API const char *gimbal_build_info(void);

/* What this build is made of and what it runs on, one fact each: "commit", "compiler", "oneDNN", ...; NULL
 * past the end. Constant. No value names a path of the machine that built it. */
typedef struct {
    const char *name, *value;
} gimbal_fact;
GIMBAL_API const gimbal_fact *gimbal_build_fact(int i);

/* ---- settings ---------------------------------------------------------------------------- */

typedef struct {
    int c, f, h, w; /* channels, frames, latent height, latent width */
} gimbal_shape;

typedef enum {
    GIMBAL_BOOL,
    GIMBAL_INT,
    GIMBAL_REAL,
    GIMBAL_TEXT,
    GIMBAL_CHOICE,
    GIMBAL_SEED
} gimbal_option_type;

/* One knob: the command line, --help, recipes and plug-in specs ("freeinit:passes=3") all read such tables.
 * A table ends with name NULL. Field types by `type`: BOOL and INT int, REAL double, TEXT and CHOICE
 * const char *, SEED uint64_t. min and max are inclusive and hold for INT and REAL, whose default is `def`
 * (BOOL and SEED too); the default of TEXT and CHOICE is `text`. */
typedef struct {
    const char *name, *help;
    gimbal_option_type type;
    size_t offset;
    double def, min, max;
    const char *text;
    const char *const *choices; /* CHOICE: NULL-terminated */
} gimbal_option;

typedef struct {
    const char *stage; /* "encode", "text", "sample", "pass" (one ended: `latents` is its result), "decode" */
    int pass, passes;  /* 1-based; 0 outside sampling; of the chunk under way */
    int chunk, chunks; /* 1-based; 0 outside sampling; 1 of 1 but in long videos */
    int step, steps;   /* 1-based, of this pass or of decoding */
    int calls, total_calls; /* network calls made and planned, over all passes and chunks */
    double elapsed, eta;    /* seconds; eta < 0 while unknown */
    const float *latents;   /* the current estimate of the clean clip (of the chunk) [C,F,h,w], or NULL */
    gimbal_shape shape;
} gimbal_progress;

/* Everything that decides what a clip looks like. Fill with gimbal_defaults, then change fields. A number
 * that the caller does not touch keeps the model's own default. */
typedef struct {
    size_t size; /* sizeof(gimbal_settings), set by gimbal_defaults */
    const char *prompt, *negative;
    int frames, width, height; /* of one chunk; pixels; multiples of gimbal_size_step */
    int chunks;       /* K > 1: a video of K (frames - 1) + 1 frames, chunk after chunk, each beginning
                         with the last one's last latent frame (Ren et al., ConsistI2V, section 4.4);
                         for families that begin from a picture, else EUSAGE */
    int steps;        /* network calls of one full pass */
    double cfg;       /* guidance scale; guidance is off at values <= 1 */
    double cfg_image; /* > 1: guidance by the picture too, three branches a step, whatever cfg is
                         (Ren et al., equation 5); for families that begin from a picture */
    double rescale;   /* 0..1: share of the guided prediction brought back to the prompt branch's
                         standard deviation (Lin et al. 2023, section 3.4); not with cfg_image > 1 */
    int frame_stride; /* frames of the film between two of the clip: the larger, the faster the motion.
                         0: the model's own; EUSAGE for families that were not told of it */
    double cfg_base;  /* guidance scale of the base network (VideoFusion); 0: cfg's */
    double eta;       /* DDIM's eta: 0 deterministic, 1 DDPM-like */
    double strength;  /* with `clip`: share of the steps that is run; 0 keeps the clip, 1 forgets it */
    uint64_t seed;
    uint64_t
        base_seed;   /* of the noise that all frames share alone ("shared", "mixed"), so that clips of other
                        seeds have the same base, or clips of one seed other ones; 0: as seed. philox only */
    const char *rng; /* "philox" (gimbal's own) or "torch" (PyTorch's CPU generator) */
    const char *sampler;     /* registry "sampler" */
    const char *spacing;     /* "leading", "linspace", "trailing" */
    const char *betas;       /* "linear", "scaled_linear" */
    const char *motion_norm; /* GroupNorm statistics of motion modules: "clip" (diffusers) or "frame" */
    const char *noise;       /* registry "noise", e.g. "white" */
    const char *reinit;      /* registry "reinit", e.g. "freeinit:passes=3,filter=gaussian" */
    const char *dtype; /* arithmetic of the U-Net: "f32"; "bf16": inputs of products rounded, float32 sums, on
                          any CPU; "auto": bf16 where the CPU has it and the network is large, else f32 */
    int threads;       /* 0: what affinity and cgroup allow */

    /* Tensors given instead of drawn; not part of the option table. Borrowed until gimbal_end. */
    const float *latents; /* unit noise [C,F,h,w] or NULL */
    const float *fresh;   /* noise of passes 2..n_fresh+1, [n_fresh][C,F,h,w], or NULL */
    const float *clip; /* clean latents [C,F,h,w] to begin from, or NULL: they are noised to the first of the
                          steps that `strength` leaves. Read by gimbal_sample, so that gimbal_encode of the
                          same session may fill them first */
    int n_fresh;
    /* Read by gimbal_sample and gimbal_state_*, so that gimbal_encode_pixels of the session may fill both
     * first; gimbal_begin and gimbal_predict look only at whether they are there. */
    const float *image; /* the picture to begin from, [C,1,h,w] clean latents times the VAE's scaling factor,
                           or NULL. Frame 0 of the result, bit for bit, in families that begin from a picture
                           (EUSAGE without one); elsewhere FrameInit reads it */
    const float *reference; /* clean latents [C,F,h,w] whose low band FrameInit takes (the first chunk's), or
                               NULL: `image` in every frame. EUSAGE where the re-initialiser reads none */
    const float *chunk_latents; /* as `latents`, of chunks 2..n_chunk_latents+1: [n_chunk_latents][C,F,h,w] */
    int n_chunk_latents;

    /* Called on the calling thread after every step; nonzero cancels. May be NULL. */
    int (*progress)(void *user, const gimbal_progress *);
    void *user;
} gimbal_settings;

/* The table behind gimbal_settings: names are the command line's long flags without dashes. */
GIMBAL_API const gimbal_option *gimbal_setting_options(void);

/* Set one field of `object` (laid out as `table` says) from text. Checks type, range and choices; numbers
 * refuse trailing text, nan and overflow. TEXT keeps the pointer, CHOICE the table's own. EUSAGE names the
 * nearest known option. `what` stands before the name in messages: "--", "freeinit: ". */
GIMBAL_API int gimbal_set(const gimbal_option *table, void *object, const char *name, const char *value,
                          const char *what, gimbal_error *err);

/* ---- registries -------------------------------------------------------------------------- */

typedef struct {
    const char *name, *help, *source; /* source: the paper or code it follows */
    const gimbal_option *options;     /* NULL: none */
} gimbal_plugin;

/* The i-th entry of registry `kind` ("noise", "reinit", "sampler", "family", "metric", "recipe"), from 0;
 * EUSAGE past the end. What *out points to is constant. */
GIMBAL_API int gimbal_plugin_at(const char *kind, int i, gimbal_plugin *out);

/* ---- engine: a loaded model, immutable, may be shared by threads ------------------------- */

typedef struct gimbal_engine gimbal_engine;

/* Opens a model folder (diffusers layout). Maps weight files and binds every tensor by name and shape; reads
 * no weights. `motion`: folder or file of a motion adapter; NULL: MODEL/motion_adapter. On success *out is
 * the caller's, to be given to gimbal_close; on error it is NULL. */
GIMBAL_API int gimbal_open(gimbal_engine **out, const char *model, const char *motion, gimbal_error *err);

/* The same with flags. A mapped file that is cut short while the engine lives raises SIGBUS where its weights
 * are used; with GIMBAL_NO_MMAP they are read into memory first, and the files may change afterwards. */
enum { GIMBAL_NO_MMAP = 1 };
GIMBAL_API int gimbal_open_with(gimbal_engine **out, const char *model, const char *motion, unsigned flags,
                                gimbal_error *err);

GIMBAL_API void gimbal_close(gimbal_engine *); /* NULL is fine */

/* Things worth saying about this model ("PNDM scheduler replaced by DDIM, linear betas"); NULL past the end.
 */
GIMBAL_API const char *gimbal_note(const gimbal_engine *, int i);

/* SHA-256 over the headers of all weight files and the configs, 64 hex digits: names a model without reading
 * gigabytes. */
GIMBAL_API const char *gimbal_identity(const gimbal_engine *);

/* Name of the model's family in registry "family". */
GIMBAL_API const char *gimbal_family(const gimbal_engine *);

/* Width and height must be multiples of this many pixels. */
GIMBAL_API int gimbal_size_step(const gimbal_engine *);

/* 1: the family begins from a picture: settings.image must be given, and cfg_image, chunks and frame_stride
 * mean something. */
GIMBAL_API int gimbal_needs_image(const gimbal_engine *);

/* Frames of the longest clip that the model can make; 0: no limit is known. */
GIMBAL_API int gimbal_most_frames(const gimbal_engine *);

/* Fills all settings with what this model wants, and the rest with their defaults; no prompt, seed 0. */
GIMBAL_API void gimbal_defaults(gimbal_settings *, const gimbal_engine *);

typedef struct {
    uint64_t work_bytes;   /* planned tensors: the largest of the text, network and VAE plans */
    uint64_t pack_bytes;   /* weights repacked or widened in memory */
    uint64_t host_bytes;   /* latents, noise, FFT buffers */
    uint64_t anon_bytes;   /* predicted peak of this process's anonymous memory */
    uint64_t mapped_bytes; /* model files, in page cache */
    uint64_t limit_bytes;  /* what anon_bytes may be: free memory, control groups, RLIMIT_DATA, RLIMIT_AS */
    double flops;          /* of the whole run */
    double seconds;        /* predicted from short timings of the plan's own operators */
    double relative;       /* network calls against plain sampling with the same steps */
    int passes, calls;     /* of the re-initialiser's plan; network calls over all passes */
} gimbal_cost;

/* The dry run: checks the settings, plans every network, allocates no tensor. Takes a second or two. */
GIMBAL_API int gimbal_predict(gimbal_engine *, const gimbal_settings *, gimbal_cost *out, gimbal_error *err);

/* ids: the text encoder's full context, 77 for CLIP. *truncated: how many tokens did not fit. */
GIMBAL_API int gimbal_tokenize(const gimbal_engine *, const char *text, int32_t ids[77], int *truncated,
                               gimbal_error *err);

/* ---- recipes: all that is needed to make a clip again, as one line of JSON --------------- */

typedef struct gimbal_recipe gimbal_recipe;

/* Model, identity and every setting. Caller frees; NULL: no memory. */
GIMBAL_API char *gimbal_recipe_json(const gimbal_engine *, const gimbal_settings *);

/* The way back. EFORMAT for anything else than a recipe. On success *out is the caller's, to be given to
 * gimbal_recipe_free. */
GIMBAL_API int gimbal_recipe_parse(gimbal_recipe **out, const char *json, gimbal_error *err);

GIMBAL_API const char *gimbal_recipe_model(const gimbal_recipe *);    /* path as it was given */
GIMBAL_API const char *gimbal_recipe_motion(const gimbal_recipe *);   /* or NULL */
GIMBAL_API const char *gimbal_recipe_identity(const gimbal_recipe *); /* compare with gimbal_identity */

/* Fills the fields of the option table, all or none; texts stay owned by the recipe. */
GIMBAL_API int gimbal_recipe_apply(const gimbal_recipe *, gimbal_settings *, gimbal_error *err);
GIMBAL_API void gimbal_recipe_free(gimbal_recipe *); /* NULL is fine */

/* What a model folder or a safetensors file is, as JSON (caller frees). */
GIMBAL_API int gimbal_describe(const char *path, char **json, gimbal_error *err);

/* ---- session: one run, used by one thread at a time -------------------------------------- */

typedef struct gimbal_session gimbal_session;

/* Checks the settings, plans the networks and takes the run's memory, so that what cannot work fails here.
 * The engine must outlive the session. On success *out is the caller's, to be given to gimbal_end; on error
 * it is NULL. EUSAGE, EMODEL, ENOMEM. */
GIMBAL_API int gimbal_begin(gimbal_session **out, gimbal_engine *, const gimbal_settings *,
                            gimbal_error *err);
GIMBAL_API void gimbal_end(gimbal_session *); /* NULL is fine */

/* The shape of what gimbal_sample writes; known before it is called. With chunks its F is that of the whole
 * video, chunks (frames - 1) + 1. */
GIMBAL_API gimbal_shape gimbal_latent_shape(const gimbal_session *);

/* Last hidden state of the text encoder: context [77,D], D from gimbal_context_width. */
GIMBAL_API int gimbal_context_width(const gimbal_engine *);
GIMBAL_API int gimbal_context(gimbal_session *, const char *text, float *context, gimbal_error *err);

/* All passes of all chunks. latents [C,F,h,w] out, of gimbal_latent_shape. After ECANCEL a second call goes
 * on where the first one stopped. */
GIMBAL_API int gimbal_sample(gimbal_session *, float *latents, gimbal_error *err);

/* A run in a safetensors file, whole or not at all, to go on with in another process: legal inside the
 * progress callback of gimbal_sample, and after its ECANCEL. A few clips large. EUSAGE before the first step,
 * EIO. */
GIMBAL_API int gimbal_state_save(gimbal_session *, const char *path, gimbal_error *err);

/* The next gimbal_sample goes on from a saved state and gives the bytes that the run would have given. at, or
 * NULL: where that is, as progress (stage "sample" or "pass"; no latents). EUSAGE, naming the difference,
 * when the state is of a run with another model, other settings (but for threads) or other tensors given;
 * then, and on EIO and EFORMAT, the session begins anew. */
GIMBAL_API int gimbal_state_load(gimbal_session *, const char *path, gimbal_progress *at, gimbal_error *err);

/* Pictures to latents: rgb [n][height][width][3] of any frame count -> latents [C,n,h,w], times the VAE's
 * scaling factor, which is what settings.clip wants. width and height: multiples of the VAE's factor. sample
 * 0: the mean of the posterior; else a draw from it with the session's rng and seed, the same in every
 * session; "torch" draws it in diffusers' order (video to video), and a run that begins from a clip goes on
 * behind it. EUSAGE, EMODEL, ENOMEM, ECANCEL. */
GIMBAL_API int gimbal_encode(gimbal_session *, const uint8_t *rgb, int width, int height, int n, int sample,
                             float *latents, gimbal_error *err);

/* The same from pixels as gimbal_fit and gimbal_camera make them: [n][height][width][3] in -1..1. With
 * "torch" the posterior of all n is one draw of [n,C,h,w], and a run with settings.image or
 * settings.reference goes on behind such a draw of 1 or of F pictures (the reference's order, ConsistI2V). */
GIMBAL_API int gimbal_encode_pixels(gimbal_session *, const float *pixels, int width, int height, int n,
                                    int sample, float *latents, gimbal_error *err);

/* Latents [C,F,h,w] of any frame count to RGB8: `frame` is called in order with rgb [height][width][3], valid
 * during the call; nonzero from it stops with ECANCEL. Legal inside the progress callback of gimbal_sample,
 * for a preview: between two network calls the work memory is free, and nothing of the run changes. No
 * progress is reported from there. The other calls on a session are refused inside a callback. */
GIMBAL_API int gimbal_decode(gimbal_session *, const float *latents, gimbal_shape shape,
                             int (*frame)(void *user, int i, const uint8_t *rgb, int width, int height),
                             void *user, gimbal_error *err);

/* Async-signal-safe; seen between two operators. Cleared when the interrupted call has returned ECANCEL. */
GIMBAL_API void gimbal_cancel(gimbal_session *);

/* ---- a picture to begin from ------------------------------------------------------------- */

/* A picture rgb [h][w][3] of any size as pixels [height][width][3] in -1..1 (rgb / 255 * 2 - 1). fit:
 *   "crop"     ConsistI2V's own way: the smaller side becomes `height` (whatever `width` is), then the middle
 *              is cut out; where that is smaller than asked for, black is put around it
 *   "pad"      the whole picture as large as fits, black around it
 *   "stretch"  the whole picture, its proportions changed
 * NULL: "crop". Bilinear, without antialiasing, as the model was trained. EUSAGE, ENOMEM. */
GIMBAL_API int gimbal_fit(const uint8_t *rgb, int w, int h, const char *fit, int width, int height,
                          float *pixels, gimbal_error *err);

/* A camera moving over that picture: pixels [frames][height][width][3] in -1..1, for settings.reference (and
 * their first frame for settings.image). Frame i is at time i / frames of a published move, and at
 * i / (frames - 1) of ours. spec:
 *   "none"                    the picture as "crop" has it, in every frame
 *   "pan-left", "pan-right"   ConsistI2V's: the smaller side becomes `height`, a window of the whole height
 *                             moves along; EUSAGE where the picture is then narrower than `width` (portraits)
 *   "zoom-in", "zoom-out"     ConsistI2V's: squares between the whole and two thirds of the smaller side;
 *                             EUSAGE unless width equals height. The published zoom-out fails; this is what
 *                             it means
 *   "tilt-up", "tilt-down", "diagonal", "roll"
 *                             ours: up, down, from the upper left to the lower right, a turn of 20 degrees
 *                             clockwise, each with a window that stays inside the picture
 *   "path:FILE"               ours: JSON {"frames": [{"time": 0, "x": 0.5, "y": 0.5, "scale": 1,
 *                             "angle": 0}, ..]}: key frames in order of time (0..1), linear between them, the
 *                             first and the last kept outside; x, y: the window's middle, 0..1 of the
 *                             picture; scale: 1 = the largest upright window that fits, 0.5 = half as wide;
 *                             angle: degrees clockwise
 * Windows of ours that leave the picture are moved and, if need be, shrunk until they fit: *clamped (may be
 * NULL) is the number of frames where that was so. boxes (may be NULL) [frames][4]: top, left, height, width
 * of each window; of published moves in the resized picture, of ours, before they are turned, in the given
 * one. Width, height: as large as settings'. EUSAGE, EFORMAT, EIO, ENOMEM. */
GIMBAL_API int gimbal_camera(const char *spec, const uint8_t *rgb, int w, int h, int width, int height,
                             int frames, float *pixels, int (*boxes)[4], int *clamped, gimbal_error *err);

/* ---- noise without a model --------------------------------------------------------------- */

/* Draw a prior's initial noise ("white", "mixed:alpha=2") for absolute frames frame0, frame0+1, ...: out
 * [C,F,h,w], each value N(0,1). With rng "philox" a value depends on (seed, frame, channel, y, x) alone, so
 * that a clip can be drawn in pieces; "torch" is torch.randn([1,C,F,h,w]) and starts at frame 0. EUSAGE. */
GIMBAL_API int gimbal_noise(const char *spec, const char *rng, uint64_t seed, int64_t frame0,
                            gimbal_shape shape, float *out, gimbal_error *err);

/* A re-initialiser's low-pass mask, e.g. "freeinit:filter=gaussian,ds=0.25,dt=0.25": out [F,h,w] in 0..1, in
 * FFT order (frequency 0 first in every axis). shape.c is not used but must be 1 or more. ds and dt are
 * fractions of Nyquist in space and time. EUSAGE for one without a filter. */
GIMBAL_API int gimbal_mask(const char *spec, gimbal_shape shape, float *out, gimbal_error *err);

/* How that re-initialiser itself mixes, for gimbal_mix: *power 1 (variance kept), or 0 (FreeInit's compat=1;
 * FrameInit, whose two bands hold one noise). */
GIMBAL_API int gimbal_mask_power(const char *spec, int *power, gimbal_error *err);

/* out = F^-1( F(low)*m + F(high)*g ) with g = sqrt(1-m^2) if `power`, else 1-m; F is the 3-D Fourier
 * transform of each channel. All [C,F,h,w]; mask [F,h,w] as gimbal_mask makes it. out may be low or high.
 * With `power` two independent white clips give a white clip of the same variance; 1-m, FreeInit as
 * published, loses some. EUSAGE, ENOMEM. */
GIMBAL_API int gimbal_mix(const float *low, const float *high, const float *mask, int power,
                          gimbal_shape shape, float *out, gimbal_error *err);

/* ---- studies ----------------------------------------------------------------------------- */

/* The forward process x_t = a(t) x0 + s(t) eps, abar = a^2, s^2 = 1 - abar, and the timesteps that one full
 * pass samples. One block of memory: free() it. */
typedef struct {
    const char *betas;         /* "linear", "scaled_linear", ..., or "trained": a list in the model's file */
    const char *spacing;       /* "leading", "linspace", "trailing" */
    const char *sampler;       /* in registry "sampler" */
    int timesteps, steps;      /* trained on; sampled */
    int zero_snr;              /* 1: nothing of the clip is left at the last timestep */
    double start;              /* what the sampler multiplies unit noise by before its first step */
    const double *alpha_bar;   /* [timesteps] */
    const double *t;           /* [steps] descending, may be fractional */
    const double *t_alpha_bar; /* [steps] abar there */
} gimbal_schedule;

/* A model's schedule, or with engine NULL Stable Diffusion's (betas 0.00085 to 0.012, 1000 timesteps). betas,
 * spacing, sampler NULL and steps 0: the model's own, or linear, leading, ddim and 25. On success *out is the
 * caller's, free(); on error it is NULL. EUSAGE, EFORMAT, ENOMEM. */
GIMBAL_API int gimbal_schedule_of(gimbal_schedule **out, const gimbal_engine *, const char *betas,
                                  const char *spacing, const char *sampler, int steps, gimbal_error *err);

/* One radial band of spatio-temporal frequency. power: mean over its bins and the channels of |X|^2 / (F h
 * w), so that white noise of variance 1 has power 1, and powers times counts times channels add up to the sum
 * of squares. Powers and correlation of a band without bins are NaN, correlation also where one of the two is
 * zero. */
typedef struct {
    int64_t count;         /* bins of one channel; all bands together have F h w */
    double power, power_y; /* of x, of y */
    double correlation;    /* of x and y: sum Re X conj Y / sqrt(sum |X|^2 sum |Y|^2), the mean included */
} gimbal_band;

/* Bands of x [C,F,h,w] and y, or of x alone (y NULL: y is x). Band i holds radii from edges[i-1] up to but
 * without edges[i]; the first begins at 0, the last has no end: edges [n-1], ascending. The radius is
 * FreeInit's, sqrt((ratio f_t)^2 + f_y^2 + f_x^2), with f = 1 at Nyquist and ratio = ds / dt (Wu et al.,
 * FreeInit, ECCV 2024). out [n]. EUSAGE, ENOMEM. */
GIMBAL_API int gimbal_bands(const float *x, const float *y, gimbal_shape shape, const double *edges, int n,
                            double ratio, gimbal_band *out, gimbal_error *err);

/* ---- measuring clips --------------------------------------------------------------------- */

/* Dense optical flow between two pictures [height][width][3] of the same size: out [height][width][2], x
 * (right) and y (down) in pixels: what lies at p in a lies at p + out(p) in b. GIMBAL_OK or an error code.
 * Several calls run side by side, on the meter's threads. The library has none of its own without weights:
 * the caller brings one (the program: OpenCV's DIS). */
typedef int (*gimbal_flow)(void *user, const uint8_t *a, const uint8_t *b, int width, int height, float *out,
                           gimbal_error *err);

/* What to measure. Fill with gimbal_measure_defaults, then change fields; texts and pictures are borrowed
 * until gimbal_measure_free. */
typedef struct {
    size_t size;        /* sizeof(gimbal_measure_order), set by gimbal_measure_defaults */
    const char *scores; /* names of scores, or of metrics for all their scores, with commas between; NULL: all
                           that need no weights, and whose flow is there */
    const char *weights;  /* folder of the networks' safetensors files, or NULL */
    const char *prompt;   /* for clipsim, or NULL */
    const uint8_t *image; /* the picture the clip began with [image_height][image_width][3], or NULL: its own
                             first frame */
    int image_width, image_height;
    int antialias; /* of resizing for networks: 0 or 1; -1: as each metric's definition says */
    int width, height;
    double fps;       /* 0: unknown; metrics that count in seconds then take 8 */
    int threads;      /* 0: what affinity and cgroup allow */
    gimbal_flow flow; /* or NULL */
    void *flow_user;
} gimbal_measure_order;
GIMBAL_API void gimbal_measure_defaults(gimbal_measure_order *);

/* One score of a clip. Texts and arrays live until gimbal_measure_free. */
typedef struct {
    const char *name;       /* "warp_error" */
    const char *metric;     /* in registry "metric" */
    const char *definition; /* identifier of what was computed, options included */
    const char *help;       /* what it says, in a few words */
    const char *weights;    /* SHA-256 of the network's file, or NULL */
    int better;             /* 1: higher is better, -1: lower, 0: neither */
    double value;           /* NaN: not defined for this clip; `why` says why */
    const char *why;        /* or NULL */
    const double *values;   /* [frames] per frame, or for the pair of a frame and the one before it; NaN where
                               there   is none; NULL: the score has no such values */
} gimbal_score;

typedef struct gimbal_meter gimbal_meter;
/* Opens what the scores need. On success *out is the caller's, to be given to gimbal_measure_free; on error
 * it is NULL. EUSAGE: an unknown score (the nearest is named), a size that cannot be, a prompt that is wanted
 * and not there; EMODEL: a network that is not in `weights`; ENOSUP: flow is needed and there is none. */
GIMBAL_API int gimbal_measure_begin(gimbal_meter **out, const gimbal_measure_order *, gimbal_error *err);
/* The next frame, [height][width][3]. Memory does not grow with the number of frames but for a few numbers of
 * each. ENOMEM, or what a flow or network said. */
GIMBAL_API int gimbal_measure_frame(gimbal_meter *, const uint8_t *rgb, gimbal_error *err);
/* No more frames follow: the scores become known. EUSAGE without any frame. */
GIMBAL_API int gimbal_measure_end(gimbal_meter *, gimbal_error *err);
/* The i-th score, from 0, in the registry's order; EUSAGE past the end. After gimbal_measure_end. */
GIMBAL_API int gimbal_measure_score(const gimbal_meter *, int i, gimbal_score *out);
GIMBAL_API int gimbal_measure_frames(const gimbal_meter *);
GIMBAL_API void gimbal_measure_free(gimbal_meter *); /* NULL is fine */

/* The logits of I3D (Kinetics-400) for a clip [frames][height][width][3], the features of Frechet video
 * distance: out [400]. At least 9 frames. EMODEL without the network in `weights`. */
GIMBAL_API int gimbal_measure_logits(const char *weights, const uint8_t *rgb, int frames, int width,
                                     int height, float *out, gimbal_error *err);

/* ---- training ---------------------------------------------------------------------------- */

/* Clips to learn from, by number. Functions are called on the trainer's thread, one at a time. */
typedef struct {
    int64_t count;
    const char *identity; /* 64 hex digits that name the whole set: files, sizes, captions */
    /* How many frames clip i has, at least 1, and its caption (UTF-8, "" is fine; valid until the next call).
     * An error code: this clip cannot be used, *err says why; the trainer takes another and reports it. */
    int (*look)(void *self, int64_t i, int *frames, const char **caption, gimbal_error *err);
    /* Frames at[0], ..., at[n-1] of clip i, from 0, each as RGB [height][width][3] resized to cover that size
     * and cropped to it. Codes as look's. */
    int (*read)(void *self, int64_t i, const int *at, int n, int width, int height, uint8_t *rgb,
                gimbal_error *err);
    const char *(*name)(void *self, int64_t i); /* for messages; valid until the next call */
    void (*close)(void *self);                  /* or NULL */
    void *self;
} gimbal_clips;

/* Procedural clips of the bundled model's world: one coloured shape over a background, 16 frames of 128x128,
 * 8 a second, and a caption; clip i is a function of first + i alone. spec: "count=4096,first=0", both may be
 * absent. The caller calls out->close. EUSAGE, ENOMEM. */
GIMBAL_API int gimbal_toyworld(const char *spec, gimbal_clips *out, gimbal_error *err);

/* Several processes that learn together. All functions are called in the same order by every rank and give
 * every rank the same bits. NULL in the trainer's arguments: alone. */
typedef struct {
    int rank, size;
    /* x[n] becomes the sum over all ranks. */
    int (*sum)(void *self, double *x, size_t n, gimbal_error *err);
    /* Begins such a sum of floats, which goes on during the following calls of poll; x must stay. */
    int (*sum_begin)(void *self, float *x, size_t n, gimbal_error *err);
    void (*poll)(void *self);
    /* Waits for everything that was begun. */
    int (*sum_end)(void *self, gimbal_error *err);
    /* x[n] of rank 0 to all. */
    int (*share)(void *self, void *x, size_t bytes, gimbal_error *err);
    void *self;
} gimbal_ranks;

/* Everything that decides what is learnt. Fill with gimbal_train_defaults, then change fields. Numbers below
 * 0 and texts that are NULL: the recipe's own, or the model's. Texts are borrowed until gimbal_train_begin
 * returns. */
typedef struct {
    size_t size;        /* sizeof(gimbal_train_settings), set by gimbal_train_defaults */
    const char *recipe; /* registry "recipe": "motion", "image", "consisti2v", "videofusion" */
    const char *model;  /* model folder to begin from */
    const char *motion; /* motion adapter to begin from; NULL: the model folder's own */
    int fresh;          /* 1: what is trained begins with random values, not with the file's */
    const char *train;  /* which parameters: patterns with *, commas between; NULL: the recipe's */
    int steps;          /* optimiser steps */
    int batch;          /* clips per step, over all ranks */
    int micro;          /* clips of one forward and backward; batch is a multiple of ranks x micro */
    int frames, frame_stride, width, height; /* of what is learnt; frame_stride of the source's frames */
    double flip;          /* probability of mirroring a clip (text that says left or right then lies) */
    double lr, base_lr;   /* learning rate; videofusion: of the residual's network, and of the base's */
    const char *schedule; /* "constant", "linear", "cosine", "cosine_with_restarts", "polynomial",
                             "piecewise:1:10,0.1:20,0.01", as diffusers computes them */
    int warmup;           /* optimiser steps from factor 0 to 1 */
    double beta1, beta2, eps, decay; /* AdamW (Loshchilov and Hutter 2019), as PyTorch computes it */
    double clip;                     /* largest global norm of the gradient; 0: not clipped */
    double ema;                      /* largest decay of the running mean of parameters; 0: none */
    int ema_warmup; /* 0: decay (1+s)/(10+s); 1: 1 - (1+s)^-ema_power (diffusers' EMAModel) */
    double ema_power;
    double snr_gamma; /* min-SNR weighting (Hang et al. 2023); 0: none */
    int debiased;     /* 1: weight 1/sqrt(min(SNR, 1000)), of v 1/(SNR + 1) (Yu et al., Debias the Training of
                         Diffusion Models, 2024): noisy timesteps, where layout and motion are decided, count
                         as much as clear ones; not with snr_gamma */
    double caption_dropout, image_dropout; /* probability of the empty caption; of no first frame */
    double noise_offset;                   /* of one normal number a clip and channel */
    const char *prediction;                /* "epsilon", "v_prediction"; NULL: the model's */
    const char *betas;                     /* as in gimbal_settings */
    const char *motion_norm;
    const char *noise;    /* registry "noise": of the noise that is learnt from; NULL: white */
    double lambda;        /* videofusion: share of the base noise off the key frame, in [0, 1) */
    int key_frame;        /* videofusion: counted from 0; the recipe's own is floor(frames / 2) - 1 */
    const char *residual; /* videofusion: how the residual's network of an image model begins: "base": as the
                             base's, and reads its frames at unit variance; "video": the same with the motion
                             adapter's modules, its layers over time; "new": at random */
    int freeze_base;      /* videofusion: 1: the base is not trained */
    int stop_gradient;    /* videofusion: 0: as in the ablation, gradients of the residual reach the base */
    uint64_t seed;
    const char *dtype; /* as in gimbal_settings; masters, moments, norms and sums stay float32 */
    int recompute;     /* 1: blocks keep their inputs only and run again in backward; 0: not; -1: where memory
                          is short. Gradients are the same to the bit */
    int threads;
    int save_every;        /* steps between checkpoints */
    int keep;              /* checkpoints that stay; 0: all */
    int validate_every;    /* steps between looks at the validation set; 0: never */
    int validation;        /* clips of it: the last ones of the data, which are never learnt from */
    const char *save_type; /* "F32", "F16", "BF16": of exported weights */
    const char *cache;     /* folder for encoded frames and captions; NULL: output/cache; "none": no cache */
    int allow_change;      /* resuming: another batch, data set or schedule is allowed, and noted */
} gimbal_train_settings;

/* The table behind it: names are the command line's long flags without dashes. */
GIMBAL_API const gimbal_option *gimbal_train_options(void);
/* All fields to what the table says, then those that a recipe decides (NULL: "motion"). EUSAGE. */
GIMBAL_API int gimbal_train_defaults(gimbal_train_settings *, const char *recipe, gimbal_error *err);

/* What training would need: bytes of this process. activations: planned tensors and scratch, with and without
 * recomputation, for one micro-batch. */
typedef struct {
    int64_t parameters, trained, tensors; /* of the networks; those that learn; their number */
    uint64_t weights_bytes;               /* mapped files of the networks */
    uint64_t master_bytes, gradient_bytes, moment_bytes, ema_bytes;
    uint64_t activation_bytes, recompute_bytes; /* without and with recomputation */
    uint64_t anon_bytes;                        /* predicted peak of anonymous memory, as settings say */
    uint64_t limit_bytes;                       /* as in gimbal_cost */
    double flops;                               /* of a clip's forward, backward and recomputation */
    double seconds;                             /* predicted, of one optimiser step of this rank */
} gimbal_train_cost;
GIMBAL_API int gimbal_train_predict(const gimbal_train_settings *, int ranks, gimbal_train_cost *out,
                                    gimbal_error *err);

/* What happens while a trainer runs. Numbers that are not known are NaN, texts NULL. */
typedef enum {
    GIMBAL_TRAIN_NOTE,  /* `text`: something worth knowing (a clip that could not be read) */
    GIMBAL_TRAIN_CACHE, /* latents are being encoded: clip `done` of `total` */
    GIMBAL_TRAIN_MICRO, /* within a step: `done` of `total` micro-batches */
    GIMBAL_TRAIN_STEP,  /* an optimiser step is finished */
    GIMBAL_TRAIN_VALID, /* the validation set was looked at: `band` */
    GIMBAL_TRAIN_SAVED  /* a checkpoint is on disk: `text` is its folder */
} gimbal_train_what;
enum { GIMBAL_TRAIN_BANDS = 5 }; /* equal parts of the timesteps, the clearest first */
typedef struct {
    gimbal_train_what what;
    int step, steps, done, total;
    double loss; /* of this step, unweighted by min-SNR where that is on: `weighted` is what is learnt */
    double weighted;
    double norm, base_norm; /* of the gradient, before clipping; of the base network (videofusion) */
    double lr, clips_per_second, elapsed, eta;
    double band[GIMBAL_TRAIN_BANDS]; /* losses by timestep: of this step's clips, or of the validation set */
    const char *text;
} gimbal_train_event;

typedef struct gimbal_trainer gimbal_trainer;
/* Opens the model, plans a step, takes its memory and, with `resume`, the newest whole checkpoint of
 * `output`, whose other ones are named in notes. output: a folder, made if it is not there; EUSAGE when it
 * holds checkpoints and resume is 0. The clips and ranks must outlive the trainer. `event` may be NULL;
 * nonzero from it stops after the step and its checkpoint. On success *out is the caller's, to be given to
 * gimbal_train_end. EUSAGE: a setting, nothing to train, a checkpoint of another recipe; EMODEL; ENOMEM; EIO.
 */
GIMBAL_API int gimbal_train_begin(gimbal_trainer **out, const gimbal_train_settings *, const gimbal_clips *,
                                  const gimbal_ranks *, const char *output, int resume,
                                  int (*event)(void *user, const gimbal_train_event *), void *user,
                                  gimbal_error *err);
/* Steps until all are made; a checkpoint every save_every steps and at the end. ECANCEL after
 * gimbal_train_stop or when the callback says so: the step under way is finished and a checkpoint saved.
 * EVALUE: the loss is not finite; names step and clip; the last checkpoint stays. EIO: after a failed save
 * training goes on and tries again at the next one; the last one's failure is returned. */
GIMBAL_API int gimbal_train_run(gimbal_trainer *, gimbal_error *err);
GIMBAL_API void gimbal_train_stop(gimbal_trainer *);      /* async-signal-safe */
GIMBAL_API int gimbal_train_step(const gimbal_trainer *); /* optimiser steps made so far */
GIMBAL_API void gimbal_train_end(gimbal_trainer *);       /* NULL is fine */

/* ---- benchmarks -------------------------------------------------------------------------- */

/* Published models whose shapes are built in. */
#define GIMBAL_BENCH_FAMILIES "animatediff-sd15", "animatediff-sd15-v3", "modelscope", "consisti2v", "sd21"

/* Writes an ordinary model folder (diffusers layout) of such a shape, with random weights of `type` "F16",
 * "F32" or "BF16": a function of family, seed and type. Whole or not at all; `folder` must be new or empty.
 * progress (may be NULL) gets the share that is done, 0 to 1; nonzero from it cancels. EUSAGE, EIO (also
 * where there is too little room, before anything is written), ECANCEL. */
GIMBAL_API int gimbal_bench_model(const char *family, const char *type, uint64_t seed, const char *folder,
                                  int (*progress)(void *user, double done), void *user, gimbal_error *err);

/* One line of a benchmark: a class of operators, or one operator as a plan meets it. seconds, flops and the
 * like are of all its `count` calls together. */
typedef struct {
    const char *name;                   /* "linear"; "conv2d [32,16,16,32]x[64,32,3,3] conv_in.weight" */
    const char *kind;                   /* the class of an operator; NULL: this is a class */
    const char *backend, *isa, *method; /* which kernel ran; NULL: several, or not told apart */
    int count;
    double seconds; /* < 0: could not be measured */
    double flops;   /* by the operators' definition: what rates are given in */
    double made;    /* really multiplied and added: Winograd makes fewer */
    double bytes;   /* inputs, weights as stored, results: each once */
    double ideal; /* seconds that `made` takes at the measured peak of its type; 0 where none was measured */
    double bound; /* seconds that no kernel can beat at the measured peaks; 0 where they were not measured */
} gimbal_bench_row;

/* What was measured. Texts live as long as the program or the order that they came from. */
typedef struct {
    const char *what, *family;                  /* family: of the order, or of the opened model */
    const char *isa, *dtype;                    /* the CPU kernels' instruction set; "f32" or "bf16" */
    int frames, width, height, threads, repeat; /* of a text: no frames, no sizes */
    double seconds, least; /* of one call: median and least. For "ops": the sum over the operators */
    double flops, made, ideal, bound;      /* of one call: the rows' sums */
    double open_seconds;                   /* from opening the folder to the first operator; 0 for "mix" */
    double peak_f32, peak_bf16, bandwidth; /* measured: FLOP/s (bf16 0: the CPU has none), bytes/s; or 0 */
    uint64_t peak_bytes; /* anonymous memory beyond what the process had before; mapped files do not count */
    uint64_t mapped_bytes; /* weight files that the measured network reads */
} gimbal_bench_result;

/* What to measure. Fill with gimbal_bench_defaults, then change fields. */
typedef struct {
    size_t size;        /* sizeof(gimbal_bench_order), set by gimbal_bench_defaults */
    const char *what;   /* "unet": guided calls; "ops": their operators, one by one; "vae": decoding a clip;
                           "text": encoding a prompt; "mix": FreeInit's mix of a clip, on one thread */
    const char *model;  /* a model folder; NULL: random F16 weights of `family`, in files without a name */
    const char *motion; /* as in gimbal_open */
    const char *family; /* of GIMBAL_BENCH_FAMILIES; with a model: NULL, or what it is called */
    const char *dtype;  /* as in gimbal_settings */
    const char *input;  /* unet: file with "latents" [1,C,F,h,w], "context" [1 or 2,77,D] (negative, prompt)
                           and "timestep" [1], instead of drawing them; or NULL */
    const char *save;   /* unet: file for these three, "guidance" [1] and "prediction" [1,C,F,h,w]; or NULL */
    int frames, width, height; /* pixels */
    int guidance;              /* 1: both branches in one call, as at a cfg above 1; 0: one */
    int threads;               /* 0: what affinity and cgroup allow */
    int repeat;                /* timed calls, after one to warm up */
    double budget;             /* "ops": seconds to spend, about; each operator runs twice at least */
    uint64_t seed;             /* of random weights and inputs */
    int (*progress)(void *user, double done); /* of making random weights; nonzero cancels; may be NULL */
    /* Rows as they become known (of "unet", "vae", "text": by class, at the end); what so_far holds is
     * filled but for the figures of the whole. May be NULL. */
    void (*row)(void *user, const gimbal_bench_row *, const gimbal_bench_result *so_far);
    void *user;
} gimbal_bench_order;

/* "unet" of "animatediff-sd15", 16 frames of 256 x 256, guided, three times. */
GIMBAL_API void gimbal_bench_defaults(gimbal_bench_order *);

/* Measures. EUSAGE, EMODEL, ENOMEM as gimbal_begin; ENOSUP when an operator that has fast kernels was left to
 * the reference loops ("ops"; *out is filled then too). */
GIMBAL_API int gimbal_bench(const gimbal_bench_order *, gimbal_bench_result *out, gimbal_error *err);

/* ---- tensors in files -------------------------------------------------------------------- */

typedef struct {
    const char *name;
    const char *type; /* "F32", "U8", "I32" */
    int nd;
    int64_t n[6];
    const void *data;
} gimbal_tensor;

/* Reads one float tensor (F32, F16 or BF16, widened) of a safetensors file: *out float32, caller frees; NULL
 * on error. n gets 6 sizes, leading ones 1. EIO, EFORMAT (naming the tensors that the file has), ENOMEM. */
GIMBAL_API int gimbal_tensor_read(const char *path, const char *name, float **out, int64_t n[6],
                                  gimbal_error *err);

/* Writes a safetensors file, whole or not at all. metadata: key, value, ..., NULL; or NULL. */
GIMBAL_API int gimbal_tensors_write(const char *path, const gimbal_tensor *items, int count,
                                    const char *const *metadata, gimbal_error *err);

#ifdef __cplusplus
}
#endif
#endif
