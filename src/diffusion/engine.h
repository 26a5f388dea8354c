/* engine.h: the inside of the public API: what an opened model and a run are made of. Private to
 * src/diffusion.
 *
 *   locate.c    paths: where each part lies, what is there instead
 *   engine.c    gimbal_open: parts -> networks with bound weights
 *   settings.c  gimbal_settings -> Run: every value checked and filled in
 *   guide.c     Guide: one U-Net call for a clip, with guidance, as a Denoise
 *   guide_videofusion.c  the same of two networks that share a clip's noise    base_memo.c  what the first
 * said plans.c     Plans: the networks planned, one memory for all of them session.c   gimbal_begin ..
 * gimbal_end      cost.c  gimbal_predict      encode.c  pictures to latents driver_state.c  a run into a file
 * and back
 *
 * Knows everything left of it. Refuses to know argv, media and terminals. */
#ifndef ENGINE_H
#define ENGINE_H

#include "diffusion/diffusion.h"

enum { TOKENS = 77 }; /* of the CLIP text encoders' context */

/* ---- parts on disk: locate.c ------------------------------------------------------------- */

typedef enum {
    PART_UNET,
    PART_MOTION,
    PART_VAE,
    PART_TEXT,
    PART_TOKENIZER,
    PART_SCHEDULER,
    PART_RESIDUAL, /* of models with two networks; the base is PART_UNET then, in base/ */
    PART_SPLIT,    /* videofusion.json */
    PART_COUNT
} PartKind;

/* One part of a model: its folder, its config and, for networks, its weights. */
typedef struct {
    char *dir;    /* the part's folder */
    char *where;  /* its config file */
    char *weight; /* folder or file for weights_open */
    json_t *config;
    WeightSet *weights; /* NULL for tokenizer and scheduler */
} Part;

const char *part_name(PartKind);   /* "unet": its folder inside a model folder */
const char *part_config(PartKind); /* "config.json", ... */
bool part_has_weights(PartKind);
/* Whether a model folder must have it; the motion adapter counts, although it may lie elsewhere. */
bool part_expected(PartKind, const char *model);

/* Fills dir, where and weight of a part of the model folder; EMODEL when its config is not there. */
int locate_part(Part *, PartKind, const char *model, Arena *keep, gimbal_error *err);
/* Its config, if there is one; a scheduler's by Python's rules, because diffusers writes -Infinity there. */
int part_read_config(Part *, PartKind, gimbal_error *err);
/* The folder and the weights (folder or file) of the motion adapter. `given`: the argument, or NULL. Without
 * one, and without MODEL/motion_adapter, dir[0] is 0. */
int locate_motion(const char *model, const char *given, char dir[PATH_ROOM], char weights[PATH_ROOM],
                  gimbal_error *err);

/* ---- an opened model: engine.c ----------------------------------------------------------- */

/* What base networks predicted lately: base_memo.c */
typedef struct BaseMemo BaseMemo;

enum { MAX_NOTES = 8 };
struct gimbal_engine {
    Arena keep;
    const char *model, *motion; /* as given; motion NULL when it was not */
    bool load;                  /* weights are in memory, not mapped */
    bool training;              /* what training may begin without has values of its own, by seed */
    uint64_t seed;
    int fresh;             /* how many such parameters there are */
    Part part[PART_COUNT]; /* PART_MOTION: dir NULL when there is none */
    const Family *family;
    UnetShape shape;
    RunDefaults run;
    Unet *unet;
    int64_t unet_size;        /* its parameters, motion modules' and the residual network's included */
    UnetShape residual_shape; /* family->split: of the second network; nothing otherwise */
    NoiseSplit split;
    Unet *residual;
    BaseMemo *memo; /* locked inside: the engine does not change otherwise */
    ClipText *clip;
    Vae *vae;
    Tokenizer *tokenizer;
    const char *betas, *spacing; /* the model's own, as settings spell them; betas NULL: no such name */
    const char *sampler;         /* the model's own, of the registry */
    int train_steps;             /* T of its schedule */
    char identity[65];
    const char *note[MAX_NOTES];
    int n_notes;
};

/* gimbal_open_with for training: a video network's layers over time may be missing from its file (those that
 * the family lists), and a motion adapter may be a config without weights: they begin with random values. */
int engine_open_training(gimbal_engine **out, const char *model, const char *motion, uint64_t seed,
                         gimbal_error *err);
/* First values for all of a network's motion modules, counted in *made. What a new one adds is nothing at
 * first (Guo et al., section 4.2). */
int engine_begin_motion(Unet *, uint64_t seed, Arena *keep, int *made, gimbal_error *err);
/* SHA-256 over some parts (bits of PartKind): configs and weight headers, and with `numbers` every number of
 * their weights; parts that are absent count as such. A model's identity is that of all, without numbers. */
enum { ALL_PARTS = (1 << PART_COUNT) - 1 };
int parts_hash(const Part part[PART_COUNT], unsigned kinds, bool numbers, char hex[65], gimbal_error *err);
/* EMODEL where the model opens but cannot make clips: an image model without a motion adapter. */
int engine_can_sample(const gimbal_engine *, gimbal_error *err);
/* The schedule under the settings' betas and spacing (NULL: the model's own). */
int engine_schedule(const gimbal_engine *, const char *betas, const char *spacing, Schedule *,
                    const char **note, Arena *keep, gimbal_error *err);

/* ---- settings against a model: settings.c ------------------------------------------------ */

/* What a run is, before any memory: settings with every field filled, plug-ins parsed, passes counted. */
typedef struct {
    Arena keep;
    gimbal_settings s;         /* texts borrowed from the caller */
    gimbal_shape shape, whole; /* of a chunk, of the video */
    bool hold;                 /* frame 0 is the image */
    int batch; /* branches of the largest call: 1, 2 where a pass is guided, 3 by the image too */
    Schedule schedule;
    const Noise *noise;
    const Sampler *sampler;
    const Reinit *reinit;
    void *noise_self, *sampler_self, *reinit_self;
    int passes, calls, calls_of[3]; /* network calls of all chunks: all; those of one branch, two, three */
    /* of two networks: branches of the base's calls, which may be guided differently; each frame's share of
     * the base noise [F] */
    int base_of[2];
    bool over_time; /* the residual's network has layers over time */
    const double *share;
} Run;
/* Pictures that are encoded for a run before it begins: of a clip or a reference, of an image; 0: none. */
static inline int run_pictures(const Run *r)
{
    return r->s.clip || r->s.reference ? r->shape.f : r->s.image ? 1 : 0;
}
/* On error nothing needs freeing. */
int run_resolve(Run *, const gimbal_engine *, const gimbal_settings *, gimbal_error *err);
void run_free(Run *);
/* EUSAGE, naming `what`, when one of n values is not finite; x NULL: fine. */
int check_given(const char *what, const float *x, size_t n, gimbal_error *err);
/* What dtype "auto" means: "bf16" or "f32". Small networks are not bound by products: they stay exact. */
const char *engine_fastest_type(const gimbal_engine *);
/* Fills what the caller left to the model (NULL texts, "auto"): the values a recipe writes down. */
void settings_fill(gimbal_settings *, const gimbal_engine *);

/* A context's own error, copied to the caller's; its code. */
static inline int pass_on(const gimbal_error *from, gimbal_error *to)
{
    const int code = from->code ? from->code : GIMBAL_EVALUE;
    return from == to ? code : fail_hint(to, code, from->hint, "%s", from->msg);
}

/* ---- one U-Net call for a clip: guide.c -------------------------------------------------- */

typedef struct {
    Cx *cx;
    Plan *plan[3]; /* of a call with one branch, two, three; NULL: no pass makes any */
    Plan *text;    /* of unet_text; NULL: the network reads no text */
    UnetCall call;
    gimbal_shape shape;
    int batch, time_width, context_width, keys_width; /* batch: the most branches of a call */
    bool held;        /* frame 0 of x is the image: its prediction means nothing */
    bool strided;     /* the network is told the frame stride */
    bool numbered;    /* it is told each frame's number */
    double cfg_image; /* > 1: three branches */
    double rescale;   /* phi */
    float *context;   /* [batch,77,D]: negative (twice with three branches), prompt */
    float *keys;      /* [batch,77,keys_width], made of it by guide_text */
    float *x, *time;  /* [F,h,w,C], [time_width]: of all branches; of three each has its own */
    float *stride;    /* as time */
    float *numbers;   /* [F,time_width], of a numbered network */
    float *blank;     /* [C,1,h,w] frame 0 of the branch that must not see the image */
} Guide;
/* x [C,F,h,w] -> rows [F,h,w,C] */
void to_rows(const float *x, gimbal_shape, float *rows);
/* Plans the call of b branches, 1 to 3; the arrays may still be NULL. NULL on error (in cx->err). */
Plan *guide_plan(Guide *, int b);
/* The same for the text's keys and values. */
Plan *guide_plan_text(Guide *);
/* Makes them: once for a context, before its first prediction. */
int guide_text(Guide *, gimbal_error *err);
Denoise guide_denoise(Guide *);
/* One call for x [C,F,h,w] as planned, of two branches at cfg above 1, else of one: `guided` [C,F,h,w], and
 * unless it is NULL `alone`, the prompt's branch by itself. number [F]: of the frames, for a numbered
 * network.
 */
int guide_eps(void *guide, const float *x, const int *number, double t, double cfg, float *alone,
              float *guided, gimbal_error *err);

/* ---- two networks that share a clip's noise: guide_videofusion.c, base_memo.c -------------- */

/* guide_eps of a Guide, or a stub's. */
typedef struct {
    int (*eps)(void *self, const float *x, const int *number, double t, double cfg, float *alone,
               float *guided, gimbal_error *err);
    void *self;
} EpsNet;

/* What a base network predicted, found again by everything that it depends on; at most `room` predictions of
 * one shape, those that were not wanted for longest go first. For several threads. */
BaseMemo *memo_new(void); /* NULL: no memory */
void memo_free(BaseMemo *);
/* Makes room for those of a run, `n` values each; forgets those of another size. ENOMEM. */
int memo_room(BaseMemo *, int room, size_t n, gimbal_error *err);
typedef struct {
    double t, cfg;
    bool bf16;
    char text[65]; /* SHA-256 of the prompts' context */
} MemoKey;
/* x [n] and the key the same to the last bit: fills alone and guided [n]. */
bool memo_find(BaseMemo *, const MemoKey *, const float *x, size_t n, float *alone, float *guided);
void memo_keep(BaseMemo *, const MemoKey *, const float *x, size_t n, const float *alone,
               const float *guided);

enum {
    PICTURE_STEPS = 8
}; /* of the base alone from pure noise to the key frame's picture, fewer from less */
typedef struct {
    const Schedule *schedule;
    gimbal_shape shape;  /* of the clip */
    int key, group;      /* the key frame; frames of one call of the residual's network */
    bool over_time;      /* they see each other and the key frame */
    int key_place;       /* then the key frame's place in a call */
    const double *share; /* [F] of the base in each frame's noise */
    bool rescale;
    double cfg_base; /* of the base's network; 0: as the residual's */
    EpsNet base, residual;
    BaseMemo *memo;                /* NULL: nothing is kept */
    MemoKey memo_key;              /* text and bf16 */
    float *frame, *alone, *guided; /* [C,1,h,w]: the key frame of x; the base's two predictions for it */
    float *picture;                /* [C,1,h,w] where the base leads, with over_time */
    float *rows, *rhat;            /* [C,group,h,w] */
    int *number, *place;           /* [group] frames of the group: counted from 1, from 0 */
} Split;
/* Most frames of a group: by the picture's size alone, so that memory stays bounded and nothing else decides;
 * with layers over time as many as were trained. */
int split_group(const NoiseSplit *, const UnetShape *residual, gimbal_shape);
int split_calls(const Split *);                        /* of the residual's network in one prediction */
int split_base_calls(bool over_time, int predictions); /* of the base's, about */
int split_memory(Split *, gimbal_error *err);
void split_free(Split *);
Denoise split_denoise(Split *);
/* The timestep whose abar is nearest to that of a frame freed of the base noise and brought to unit variance;
 * *scale: what brings it there. */
double split_timestep(const Schedule *, double t, double share, double *scale);

/* ---- pictures too large to be decoded whole: tiles.c -------------------------------------- */

/* One picture through the VAE's decoder, band by band, with the whole picture's group statistics. */
typedef struct Tiles Tiles;
/* Plans a picture of latents [c,1,h,w] in bands of about `values` values of the widest tensor of their level.
 * cx: its errors are copied. */
int tiles_make(Tiles **, Cx *, Vae *, gimbal_shape, int64_t values, gimbal_error *err);
void tiles_free(Tiles *);
size_t tiles_bytes(const Tiles *); /* of cx->work that tiles_decode needs */
size_t tiles_pack_bytes(const Tiles *);
double tiles_flops(const Tiles *); /* of one picture */
/* z [h,w,C], divided by the scaling factor -> picture [H,W,3], about -1..1, in cx->work until the next run.
 * NULL on error (in cx->err). */
const float *tiles_decode(Tiles *, Cx *, const float *z);

/* ---- the three networks, planned: plans.c ------------------------------------------------ */

/* One memory serves the text encoder, then the U-Net, then the VAE. */
typedef struct {
    const gimbal_engine *engine;
    Cx cx;
    gimbal_error err;           /* cx's own: a call starts with it clear */
    Plan *text, *vae, *encoder; /* encoder NULL until a run begins from pictures, or some are encoded */
    Tiles *tiles;               /* in vae's place where pictures are large */
    Guide guide;                /* of the network; of two, of the residual's */
    Guide base;                 /* of the base's network, where there are two (plan[0] or plan[1] is there) */
    Split split;                /* then what makes one prediction of both */
    int groups, memo_entries;   /* calls of `guide` in one prediction; of the base's that are kept */
    gimbal_shape decode, encode; /* latents' shape in the VAE's plans: f frames a call */
    int frame_stride;
    uint64_t host_bytes; /* arrays beside the plans: latents, noise, FFT buffers */
} Plans;
/* Plans all three for a run; takes no memory for tensors. */
int plans_make(Plans *, const gimbal_engine *, const Run *, gimbal_error *err);
/* Plans the VAE again when `shape` asks for other chunks. */
int plans_decode(Plans *, gimbal_shape shape, gimbal_error *err);
/* Plans the encoder for pictures whose latents have this shape, when it is not planned so. */
int plans_encode(Plans *, gimbal_shape latents, gimbal_error *err);
/* Refuses with the numbers when there is too little memory, then takes it: work and the guide's arrays. */
int plans_memory(Plans *, gimbal_error *err);
/* Before a call: forgets an earlier error and earlier inputs. */
void plans_clear(Plans *);
/* The guides' keys and values of a context that is filled. */
int plans_keys(Plans *, gimbal_error *err);
/* One prediction for a clip, of one network or two. */
Denoise plans_denoise(Plans *);
double plans_flops(const Plans *, const Run *); /* of all predictions of a run */
/* The text encoder and the VAE's encoder alone, with their memory, for pictures whose latents have this
 * shape: what training needs. */
int plans_encoders(Plans *, const gimbal_engine *, int threads, gimbal_shape latents, gimbal_error *err);
/* ids [77] -> context [77,D]. */
int plans_text(Plans *, const int32_t *ids, float *context, gimbal_error *err);
/* z [f,h,w,C] of the planned chunk, divided by the scaling factor -> pictures [f,H,W,3], valid until the next
 * call. */
int plans_picture(Plans *, const float *z, const float **pictures, gimbal_error *err);
/* pictures [f,H,W,3] of the planned chunk, -1..1 -> moments [f,h,w,2C], valid until the next call. */
int plans_moments(Plans *, const float *pictures, const float **moments, gimbal_error *err);
size_t plans_work_bytes(const Plans *);
size_t plans_pack_bytes(const Plans *);
uint64_t plans_beside_bytes(const Plans *); /* anonymous memory beside tensors, packs and arrays */
void plans_free(Plans *);

/* ---- a run: session.c -------------------------------------------------------------------- */

struct gimbal_session {
    gimbal_engine *engine;
    Run run;
    Plans plans;
    char *recipe;           /* of the settings as they were given */
    int32_t ids[2][TOKENS]; /* negative, prompt */
    bool encoded;           /* guide.context and keys are filled */
    WhiteNoise white;
    PriorNoise prior;
    Driver driver;
    bool running;  /* driver holds a run that is not finished */
    bool busy;     /* a call is under way: a callback's further calls are refused, but for a decode ... */
    bool paused;   /* ... while sampling waits for its progress callback, */
    bool decoding; /* one at a time */
    atomic_int cancel;
};

/* Every call on a session begins and ends with these two; one inside another is refused. */
int session_enter(gimbal_session *, const char *what, gimbal_error *err);
int session_leave(gimbal_session *, int code); /* returns the code; a cancel is spent */
/* The prompts through the text encoder into the guide's context and its keys; once. */
int session_texts(gimbal_session *, gimbal_error *err);
/* Makes s->driver anew, at its beginning, and the random numbers too. */
int session_start_run(gimbal_session *, gimbal_error *err);
/* Progress of what is no sampling; ECANCEL when the callback says so. since: seconds_now() at its start. */
int session_report(const gimbal_session *, const char *stage, int step, int steps, double since,
                   gimbal_error *err);

/* ---- pictures to latents: encode.c ------------------------------------------------------- */

/* The encoder's noise eps [C,F,h,w], the first that is drawn from `white`, `most` frames a draw; out NULL:
 * drawn and dropped. */
enum { CLIP_DRAW = 16 }; /* of clips: decode_chunk_size of diffusers, which encodes by it too */
int encode_noise(WhiteNoise *white, gimbal_shape, int most, float *out, gimbal_error *err);

#endif
