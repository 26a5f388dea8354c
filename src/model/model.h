/* model.h: the networks, built from ops: text encoder, U-Net with motion modules, VAE decoder; and the zoo of
 * families.
 *
 * A network is a struct of blocks; blocks are structs of Weights. Each has three functions: configure
 * (numbers from a config), params (declares every parameter once, canonical diffusers names) and forward
 * (straight-line ops, a Graph). Knows ops and its own parameters. Refuses to know files' bytes, seeds,
 * schedules, samplers and prompts. */
#ifndef MODEL_H
#define MODEL_H

#include "io/io.h"

/* ---- blocks: blocks.c -------------------------------------------------------------------- */

/* ResNet block: norm1, silu, conv1, + time, norm2, silu, conv2, + shortcut. */
typedef struct {
    int in, out, time_width, groups; /* time_width 0: no time embedding (VAE) */
    float eps;
    Weight norm1[2], conv1[2], time[2], norm2[2], conv2[2], shortcut[2];
} Resnet;
void resnet_params(Params *, Resnet *);
/* x [N,H,W,in]; time [B, time_width] already through SiLU, serving N/B frames each, or NULL. */
Tensor *resnet_forward(Cx *, Resnet *, Tensor *x, Tensor *time);

/* Attention with separate to_q, to_k, to_v, to_out.0. */
typedef struct {
    int width, inner, context, heads; /* context: channels of keys' source; inner = heads * head width */
    bool qkv_bias;
    Weight q[2], k[2], v[2], out[2];
} Attention;
void attention_params(Params *, const char *name, Attention *);
/* x [B*F,S,width]; context [B,L,context], or NULL: self attention; + add (may be NULL) -> [B*F,S,width].
 * The number of heads in `arg` is filled in. */
Tensor *attention_forward(Cx *, Attention *, Tensor *x, Tensor *context, Tensor *add, AttnArg arg);

/* Transformer over space (self, then text) or over time (self twice, with a position table), in a frame of
 * GroupNorm, proj_in, ..., proj_out, + input. */
typedef struct {
    int channels, inner, groups, layers;
    bool temporal, linear_proj; /* proj_in/out: Linear, or 1x1 conv (file shapes differ) */
    int max_frames;             /* length of the position table; 0: none */
    Weight norm[2], proj_in[2], proj_out[2];
    struct TransformerBlock *blocks; /* [layers] */
    Weight *table; /* [1,max_frames,inner] computed, for blocks whose position table the file leaves out */
} Transformer;
/* `blocks` is allocated from `keep`. */
int transformer_init(Transformer *, Arena *keep, int channels, int inner, int heads, int context, int groups,
                     int layers, bool temporal, bool linear_proj, int max_frames, gimbal_error *err);
void transformer_params(Params *, Transformer *);
/* x [B*F,H,W,C]; context [B,L,D] or NULL (temporal). norm_per: frames per statistic of its GroupNorm. */
Tensor *transformer_forward(Cx *, Transformer *, Tensor *x, Tensor *context, int frames, int norm_per);

/* Shows a module's output to cx->tap under its canonical name; returns it. */
Tensor *tap(Cx *, Tensor *output, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* ---- U-Net: unet.c ----------------------------------------------------------------------- */

/* Numbers of a U-Net, from a config or two. Levels from high to low resolution. */
enum { MAX_LEVELS = 8, MAX_LAYERS = 8 };
typedef struct {
    int in, out, levels, width[MAX_LEVELS], layers[MAX_LEVELS], heads[MAX_LEVELS],
        depth[MAX_LEVELS];                                     /* depth: transformer layers */
    bool down_attn[MAX_LEVELS], up_attn[MAX_LEVELS], mid_attn; /* up_attn in the order of up_blocks */
    int groups, context;
    float eps;
    bool linear_proj;
    /* motion modules: one after every site; motion_heads[i] 0 means none at all */
    int motion_heads[MAX_LEVELS], motion_depth[MAX_LEVELS], motion_mid_depth, motion_layers, max_frames;
    bool motion, motion_mid;
} UnetShape;

/* EMODEL for numbers that cannot be (width not a multiple of groups or heads), naming the file. */
int unet_check(const UnetShape *, const char *where, const char *motion_where, gimbal_error *err);

typedef struct Unet Unet;
/* Allocates the blocks from `keep`. EMODEL for numbers that cannot be (width not a multiple of groups or
 * heads). */
int unet_build(Unet **out, Arena *keep, const UnetShape *, gimbal_error *err);
void unet_params(void *unet, Params *);        /* image part: the names of UNet2DConditionModel */
void unet_motion_params(void *unet, Params *); /* motion part: the names of MotionAdapter */
const UnetShape *unet_shape(const Unet *);

/* One call's constants; the `self` of unet_forward. */
typedef struct {
    Unet *unet;
    int frames;
    bool norm_clip; /* motion modules' GroupNorm covers all frames of the clip (diffusers), or one frame */
} UnetCall;
/* in: x [B*F,h,w,in], t [B,width0] sinusoidal features, context [B,L,D] -> prediction [B*F,h,w,out] */
Tensor *unet_forward(Cx *, void *unet_call, Tensor **in);
/* Features of timestep t (may be fractional): cos first, then sin; width even. */
void timestep_features(double t, int width, float *out);

/* ---- text encoder: clip.c ---------------------------------------------------------------- */

typedef struct ClipText ClipText;
int clip_build(ClipText **out, Arena *keep, const json_t *config, const char *where, gimbal_error *err);
void clip_params(void *clip, Params *);
int clip_width(const ClipText *);
int clip_positions(const ClipText *); /* 77 */
int clip_vocab(const ClipText *);
/* in: ids I32 [L] -> last hidden state after the final norm [1,L,D] */
Tensor *clip_forward(Cx *, void *clip, Tensor **in);
extern const char *const clip_ignore[];

/* ---- VAE: vae.c -------------------------------------------------------------------------- */

typedef struct Vae Vae;
int vae_build(Vae **out, Arena *keep, const json_t *config, const char *where, gimbal_error *err);
void vae_params(void *vae, Params *); /* decoder, and encoder names too, so that binding is strict */
int vae_factor(const Vae *);          /* pixels per latent: 2^(levels-1) */
int vae_channels(const Vae *);        /* latent channels */
double vae_scaling(const Vae *);
/* in: z [N,h,w,C], already divided by the scaling factor -> pictures [N,H,W,3], about -1..1 */
Tensor *vae_decode(Cx *, void *vae, Tensor **in);
extern const char *const vae_ignore[];

/* ---- the zoo: zoo.c, family_*.c ---------------------------------------------------------- */

/* What configs lie in a folder; json NULL where a part is absent. `where` fields are paths for messages. */
typedef struct {
    const json_t *index, *unet, *motion, *scheduler;
    const char *unet_where, *motion_where, *scheduler_where;
} FolderConfigs;

/* Numbers a run falls back on. */
typedef struct {
    int frames, width, height, steps;
    double cfg, fps;
} RunDefaults;

/* A model family: one file and one line in FAMILIES. */
typedef struct {
    const char *name, *help, *source;
    const char *unet_class; /* "_class_name" of unet/config.json */
    bool needs_motion;      /* weights also come from a motion adapter folder */
    int (*shape)(const FolderConfigs *, UnetShape *out, RunDefaults *, gimbal_error *err);
    const char *const *unet_ignore, *const *motion_ignore;
} Family;
#define FAMILIES(X) X(animatediff)
#define FAMILY_EXTERN(name) extern const Family family_##name;
FAMILIES(FAMILY_EXTERN)
const Family *family_at(int i); /* NULL past the end */
/* By class name; EMODEL lists the known ones. */
int family_find(const Family **out, const FolderConfigs *, gimbal_error *err);

#endif
