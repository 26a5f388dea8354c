/* engine.h: the inside of the public API: what an opened model and a run are made of. Private to
 * src/diffusion.
 *
 *   locate.c    paths: where each part lies, what is there instead
 *   engine.c    gimbal_open: parts -> networks with bound weights
 *   settings.c  gimbal_settings -> Run: every value checked and filled in
 *   guide.c     Guide: one U-Net call for a clip, with guidance, as a Denoise
 *   plans.c     Plans: the three networks planned, one memory for all of them
 *   session.c   gimbal_begin .. gimbal_end      cost.c  gimbal_predict
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

/* Fills dir, where and weight of a part of the model folder; EMODEL when its config is not there. */
int locate_part(Part *, PartKind, const char *model, Arena *keep, gimbal_error *err);
/* The folder and the weights (folder or file) of the motion adapter. `given`: the argument, or NULL. Without
 * one, and without MODEL/motion_adapter, dir[0] is 0. */
int locate_motion(const char *model, const char *given, char dir[PATH_ROOM], char weights[PATH_ROOM],
                  gimbal_error *err);

/* ---- an opened model: engine.c ----------------------------------------------------------- */

enum { MAX_NOTES = 8 };
struct gimbal_engine {
    Arena keep;
    const char *model, *motion; /* as given; motion NULL when it was not */
    Part part[PART_COUNT];      /* PART_MOTION: dir NULL when there is none */
    const Family *family;
    UnetShape shape;
    RunDefaults run;
    Unet *unet;
    ClipText *clip;
    Vae *vae;
    Tokenizer *tokenizer;
    const char *betas, *spacing; /* the model's own, as settings spell them; betas NULL: no such name */
    int train_steps;             /* T of its schedule */
    char identity[65];
    const char *note[MAX_NOTES];
    int n_notes;
};

/* SHA-256 over the parts' configs and weight headers; parts that are absent count as such. */
int parts_identity(const Part part[PART_COUNT], char hex[65], gimbal_error *err);
/* EMODEL where the model opens but cannot make clips: an image model without a motion adapter. */
int engine_can_sample(const gimbal_engine *, gimbal_error *err);
/* The schedule under the settings' betas and spacing (NULL: the model's own). */
int engine_schedule(const gimbal_engine *, const char *betas, const char *spacing, Schedule *,
                    const char **note, Arena *keep, gimbal_error *err);

/* ---- settings against a model: settings.c ------------------------------------------------ */

/* What a run is, before any memory: settings with every field filled, plug-ins parsed, passes counted. */
typedef struct {
    Arena keep;
    gimbal_settings s; /* texts borrowed from the caller */
    gimbal_shape shape;
    int batch; /* 2 with guidance, else 1 */
    Schedule schedule;
    const Noise *noise;
    const Sampler *sampler;
    const Reinit *reinit;
    void *noise_self, *sampler_self, *reinit_self;
    int passes, calls;
} Run;
/* On error nothing needs freeing. */
int run_resolve(Run *, const gimbal_engine *, const gimbal_settings *, gimbal_error *err);
void run_free(Run *);
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
    Plan *plan;
    UnetCall call;
    gimbal_shape shape;
    int batch, time_width, context_width;
    double cfg;
    float *context;  /* [batch,77,D]: negative, prompt */
    float *x, *time; /* [batch*F,h,w,C], [batch,time_width] */
} Guide;
/* Plans the call; the arrays may still be NULL. NULL on error (in cx->err). */
Plan *guide_plan(Guide *);
Denoise guide_denoise(Guide *);

/* ---- the three networks, planned: plans.c ------------------------------------------------ */

/* One memory serves the text encoder, then the U-Net, then the VAE. */
typedef struct {
    const gimbal_engine *engine;
    Cx cx;
    gimbal_error err; /* cx's own: a call starts with it clear */
    Plan *text, *vae;
    Guide guide;
    gimbal_shape decode; /* shape of the VAE's plan: f frames a call */
    char *work;          /* mapped, so that pages count only once they are used */
    size_t work_bytes;
    uint64_t host_bytes; /* arrays beside the plans: latents, noise, FFT buffers */
} Plans;
/* Plans all three for a run; takes no memory for tensors. */
int plans_make(Plans *, const gimbal_engine *, const Run *, gimbal_error *err);
/* Plans the VAE again when `shape` asks for other chunks. */
int plans_decode(Plans *, gimbal_shape shape, gimbal_error *err);
/* Refuses with the numbers when there is too little memory, then takes it: work and the guide's arrays. */
int plans_memory(Plans *, gimbal_error *err);
/* Before a call: forgets an earlier error and earlier inputs. */
void plans_clear(Plans *);
/* ids [77] -> context [77,D]. */
int plans_text(Plans *, const int32_t *ids, float *context, gimbal_error *err);
/* z [f,h,w,C] of the planned chunk, divided by the scaling factor -> pictures [f,H,W,3], valid until the next
 * call. */
int plans_picture(Plans *, const float *z, const float **pictures, gimbal_error *err);
size_t plans_work_bytes(const Plans *);
size_t plans_pack_bytes(const Plans *);
void plans_free(Plans *);

/* ---- a run: session.c -------------------------------------------------------------------- */

struct gimbal_session {
    gimbal_engine *engine;
    Run run;
    Plans plans;
    int32_t ids[2][TOKENS]; /* negative, prompt */
    bool encoded;           /* guide.context is filled */
    WhiteNoise white;
    PriorNoise prior;
    Driver driver;
    bool running; /* driver holds a run that is not finished */
    atomic_int cancel;
};

#endif
