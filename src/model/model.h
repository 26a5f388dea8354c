/* model.h: the networks, built from ops: text encoder, U-Net with motion modules, VAE; and the zoo of
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

/* Four times GroupNorm over all frames of the clip, SiLU and a convolution over 3 frames; + input. */
typedef struct {
    int channels, groups;
    struct {
        Weight norm[2], conv[2];
    } stage[4];
} TemporalConv;
void temporal_conv_params(Params *, TemporalConv *);
/* x [B*F,H,W,channels] -> the same shape. */
Tensor *temporal_conv_forward(Cx *, TemporalConv *, Tensor *x, int frames);

/* Two GroupNorms of each frame, each with SiLU and a convolution over 3 frames; + input; blended with the
 * input: x + (1 - alpha) h. consisti2v.c */
typedef struct {
    int channels; /* a multiple of BLENDED_GROUPS */
    Weight alpha;
    struct {
        Weight norm[2], conv[2];
    } stage[2];
} BlendedConv;
enum { BLENDED_GROUPS = 32 };
void blended_conv_params(Params *, BlendedConv *);
/* x [B*F,H,W,channels] -> the same shape. */
Tensor *blended_conv_forward(Cx *, BlendedConv *, Tensor *x, int frames);

/* Attention with separate to_q, to_k, to_v, to_out.0. */
typedef struct {
    int width, inner, context, heads; /* context: channels of keys' source; inner = heads * head width */
    bool qkv_bias;
    Weight q[2], k[2], v[2], out[2];
} Attention;
void attention_params(Params *, const char *name, Attention *);
/* x [B*F,S,width]; context [B,L,context], or NULL: self attention; + add (may be NULL) -> [B*F,S,width].
 * The number of heads in `arg` is filled in. Where x and add have fewer clips than the context, each text is
 * read by all of them: [F,S,width] -> [B*F,S,width]. */
Tensor *attention_forward(Cx *, Attention *, Tensor *x, Tensor *context, Tensor *add, AttnArg arg);

/* Transformer over space (self, then text) or over time (self twice, with or without a position table), in a
 * frame of GroupNorm, proj_in, ..., proj_out, + input. */
typedef struct {
    int channels, inner, groups, layers;
    bool temporal, linear_proj;   /* proj_in/out: Linear, or 1x1 conv (file shapes differ) */
    int max_frames;               /* length of the position table; 0: none */
    bool first;                   /* over space: attn1 also sees frame 0 of the clip */
    bool blended, window, rotary; /* over time, see transformer_blend */
    Weight norm[2], proj_in[2], proj_out[2], alpha;
    struct TransformerBlock *blocks; /* [layers] */
    int text_at;   /* of those that read the text: its first channel in unet_text's result; 2*inner a layer */
    Weight *table; /* [1,max_frames,inner] computed, for blocks whose position table the file leaves out */
} Transformer;
/* `blocks` is allocated from `keep`. */
int transformer_init(Transformer *, Arena *keep, int channels, int inner, int heads, int context, int groups,
                     int layers, bool temporal, bool linear_proj, int max_frames, gimbal_error *err);
/* Makes a transformer over time, just initialised without positions, one of ConsistI2V: blended with its
 * input by a learned share; attn1 also sees the pixel's neighbours in frame 0 (window); positions are angles
 * from the file (rotary), or sinusoids of half the motion modules' pitch for up to 256 frames. */
int transformer_blend(Transformer *, Arena *keep, bool window, bool rotary, gimbal_error *err);
void transformer_params(Params *, Transformer *);
/* Sinusoids of positions, table [length,width]; period: width for motion modules. */
void position_table(float *table, int length, int width, int period);
/* What a transformer over space reads beside the pictures. */
typedef struct {
    Tensor *of; /* [B,L,D], or NULL (temporal: attn2 sees the pixel's frames again) */
    bool keyed; /* no text but unet_text's result: the keys and values of every layer of the network */
} TextInput;
/* x [B*F,H,W,C], or [F,H,W,C] for all B texts: the frames are repeated where the first of them is read.
 * norm_per: frames per statistic of its GroupNorm. */
Tensor *transformer_forward(Cx *, Transformer *, Tensor *x, TextInput text, int frames, int norm_per);
/* Layer i's keys, then values, of context [B,L,D] -> [B,L,2*inner]. */
Tensor *transformer_keys(Cx *, Transformer *, int i, Tensor *context);

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
    /* of networks made for video (UNet3DConditionModel): a temporal convolution after every ResNet block,
     * attention over time after attention over space, and at the entry, all among the U-Net's own weights */
    bool temporal;
    int head_width, entry_heads; /* of all its attention; of the entry's. head_width 0: channels / heads */
    /* of networks that begin from a picture (VideoLDMUNet3DConditionModel). given: frame 0 of x is the
     * picture's latent, free of noise, and the prediction of that frame means nothing. Then what reads it:
     * attention over space, which has its pixels beside the frame's own; the entry of every block, where it
     * takes the place of frame 0. Attention over time sees the pixel's neighbours in frame 0 (window). */
    bool given, given_space, given_entry, window;
    int blend_heads; /* temporal layers that are blended with their input: heads over time; 0: none */
    bool rotary;     /* their positions rotate queries and keys, or are sinusoids added to what is read */
    bool stride;     /* the distance of frames is embedded as the timestep is */
    bool numbered;   /* so is every frame's own number (class_embed_type "timestep"); no layers over time */
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
void unet_params(void *unet, Params *); /* the names of UNet2DConditionModel, or UNet3DConditionModel */
void unet_motion_params(void *unet, Params *); /* motion modules: the names of MotionAdapter */
const UnetShape *unet_shape(const Unet *);

/* One call's constants; the `self` of unet_forward. Nothing here for networks that begin from a picture: its
 * latent stands in x, as frame 0 of every clip. */
typedef struct {
    Unet *unet;
    int frames;
    bool norm_clip; /* motion modules' GroupNorm covers all frames of the clip (diffusers), or one frame */
    bool still;     /* motion modules are passed by: pictures, not clips */
    bool keyed;     /* in[2] is unet_text's result [B,L,unet_text_width], not the context */
} UnetCall;
/* in: x [B*F,h,w,in], t [B,width0] sinusoidal features, context [B,L,D] -> prediction [B*F,h,w,out]; with
 * shape.stride a fourth input: features of the frame stride (timestep_features of the number), shaped as t;
 * with shape.numbered that of frames' numbers, counted from 1: [B*F,width0].
 * x and t of one clip serve B contexts (guidance): what no text has reached yet is computed once. Clips whose
 * frame 0 differs (guidance by the image) are not one clip. */
Tensor *unet_forward(Cx *, void *unet_call, Tensor **in);
/* The keys and values of all layers that read the text: they depend on nothing else, so a run needs them
 * once. in: context [B,L,D] -> [B,L,unet_text_width]. */
Tensor *unet_text(Cx *, void *unet, Tensor **in);
int unet_text_width(const Unet *); /* 0: no layer reads the text */
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
void vae_params(void *vae, Params *);
int vae_factor(const Vae *);   /* pixels per latent: 2^(levels-1) */
int vae_channels(const Vae *); /* latent channels */
double vae_scaling(const Vae *);
/* in: z [N,h,w,C], already divided by the scaling factor -> pictures [N,H,W,3], about -1..1 */
Tensor *vae_decode(Cx *, void *vae, Tensor **in);
/* in: pictures [N,H,W,3], about -1..1 -> moments [N,h,w,2C] of the posterior: mean, then log variance as the
 * network gives it; the mean is not yet times the scaling factor. */
Tensor *vae_encode(Cx *, void *vae, Tensor **in);
/* A draw from the posterior, eps from N(0,1); the log variance is clamped to -30..20 (diffusers). */
float vae_draw(float mean, float log_variance, float eps);
extern const char *const vae_ignore[];

/* The decoder cut at its group norms, for pictures too large to be decoded whole (diffusion/tiles.c): behind
 * the middle every piece but UP takes what its norm gave, not yet through SiLU, and looks at most one row
 * away.
 *   MIDDLE z [N,h,w,C] -> [N,h,w,c], all that sees the whole picture       UP x [N,h,w,c] -> [N,2h,2w,c]
 *   FIRST norm1(x) -> h     SECOND norm2(h), x -> h's convolution + x, the ResNet's result
 *   OUT norm_out(x) -> pictures [N,H,W,3]
 * Levels from low to high resolution; `resnet` of FIRST and SECOND only. UP leads from `level` to the next.
 */
typedef enum { VAE_MIDDLE, VAE_UP, VAE_FIRST, VAE_SECOND, VAE_OUT } VaePart;
typedef struct {
    Vae *vae;
    VaePart part;
    int level, resnet;
} VaePiece;
Tensor *vae_piece(Cx *, void *piece, Tensor **in);
/* The norm in front of FIRST, SECOND and OUT. */
typedef struct {
    const Weight *scale, *shift;
    int channels, groups;
    float eps;
} VaeNorm;
VaeNorm vae_norm(const VaePiece *);
int vae_levels(const Vae *);
int vae_resnets(const Vae *);          /* of each of the decoder's levels */
int vae_width(const Vae *, int level); /* channels of the decoder's level behind its first ResNet */
int vae_middle_width(const Vae *);

/* ---- vision transformers of metrics: vit.c ----------------------------------------------- */

/* Whose names the file has: DINO's own, transformers' ViTModel, or the vision tower of CLIPModel. */
typedef enum { VIT_DINO, VIT_HF, VIT_CLIP, VIT_SPELLINGS } VitSpelling;
const char *vit_mark(VitSpelling); /* a tensor that only such files have */
typedef struct Vit Vit;
/* Sizes are read off the set's tensors, whose names begin with `prefix`. heads 0: heads are 64 wide. EMODEL.
 */
int vit_build(Vit **out, Arena *keep, const WeightSet *, const char *prefix, VitSpelling, int heads,
              gimbal_error *err);
void vit_params(void *vit, Params *);
void vit_bound(Vit *);      /* to be called once the weights are bound */
int vit_width(const Vit *); /* of a feature */
/* Positions for pictures of h x w (CLIP knows its own size only). EMODEL, ENOMEM. */
int vit_place(Vit *, int h, int w, gimbal_error *err);
/* in: normalised pictures [n,h,w,3] of the size that vit_place was told -> features [n,width], as the network
 * gives them */
Tensor *vit_forward(Cx *, void *vit, Tensor **in);
void vit_drop(Vit *); /* weights' packs and positions, before the arena goes; NULL is fine */
extern const char *const vit_ignore[];

/* ---- convolutions with folded batch norm: normed.c --------------------------------------- */

typedef enum { SQUASH_NONE, SQUASH_RELU, SQUASH_SIGMOID, SQUASH_TANH } Squash;
typedef struct {
    int in, out, k[3]; /* frames (0: none, 4 dimensions), height, width */
    bool bias;
    Weight w[2], norm[4]; /* weight, bias; scale, shift, mean, variance of the batch norm, if there is one */
} Normed;
/* Names of the convolution and of its batch norm, which may be NULL. */
void normed_params(Params *, const char *conv, const char *norm, Normed *);
/* Once bound: w becomes [out,k*in,h,w] with the norm inside, float32, from `keep`. */
int normed_fold(Normed *, float eps, Arena *keep, gimbal_error *err);
/* Eager runs only. x [N,H,W,k*in] -> [N,Ho,Wo,out] */
Tensor *normed_conv(Cx *, Normed *, Tensor *x, int stride, const int pad[4], Squash);
/* In place, dense tensors; returns t. */
Tensor *squash(Cx *, Tensor *t, Squash);

/* ---- optical flow: raft.c ---------------------------------------------------------------- */

/* torchvision's raft_large, or the original's raft-things. */
typedef enum { RAFT_TORCHVISION, RAFT_ORIGINAL, RAFT_SPELLINGS } RaftSpelling;
enum { RAFT_STEP = 8, RAFT_LEAST = 128 }; /* sides: multiples of the first, not below the second */
const char *raft_mark(RaftSpelling);
typedef struct Raft Raft;
int raft_build(Raft **out, Arena *keep, const WeightSet *, const char *prefix, RaftSpelling,
               gimbal_error *err);
void raft_params(void *raft, Params *);
int raft_bound(Raft *, Arena *keep, gimbal_error *err); /* once the weights are bound */
/* a, b [H,W,3] in -1..1 -> flow from a to b [H,W,2], x then y in pixels, after `updates` refinements. Errors
 * are the context's too. */
int raft_flow(Raft *, Cx *, const float *a, const float *b, int H, int W, int updates, float *flow);
extern const char *const raft_ignore[];

/* ---- features of clips: i3d.c ------------------------------------------------------------ */

enum { I3D_SIDE = 224, I3D_CLASSES = 400, I3D_LEAST = 9 }; /* pixels, logits, frames */
const char *i3d_mark(void);
typedef struct I3d I3d;
int i3d_build(I3d **out, Arena *keep, const WeightSet *, const char *prefix, gimbal_error *err);
void i3d_params(void *i3d, Params *);
int i3d_bound(I3d *, float eps, Arena *keep, gimbal_error *err); /* eps: of its batch norms */
/* clip [T,224,224,3] in -1..1, T >= 9 -> logits [400], the mean over time. */
int i3d_logits(I3d *, Cx *, const float *clip, int T, float *logits);
extern const char *const i3d_ignore[];

/* ---- the zoo: zoo.c, family_*.c ---------------------------------------------------------- */

/* What configs lie in a folder; json NULL where a part is absent. `where` fields are paths for messages. */
typedef struct {
    const json_t *index, *unet, *motion, *scheduler, *residual, *split; /* the last: videofusion.json */
    const char *unet_where, *motion_where, *scheduler_where, *residual_where, *split_where;
} FolderConfigs;

/* One of them, and where the first error goes. */
typedef struct {
    const json_t *json;
    const char *where;
    gimbal_error *err;
} Config;

/* Readers that families share: config.c. EMODEL or EFORMAT names file, key, expected and found. */
enum {
    CONFIG_WIDTH = 16384,
    CONFIG_DEPTH = 64
}; /* the most channels and transformer layers that are believed */
/* A number for all levels or a list with one for each, in 1..max. */
int config_per_level(const Config *, const char *key, int def, int levels, int max, int out[MAX_LEVELS]);
/* block_out_channels; 320, 640, 1280, 1280 when absent, as all constructors have it. */
int config_widths(const Config *, int out[MAX_LEVELS], int *levels);
/* attn[i]: does block i attend? `with` and `without` are the two block types; key absent: four blocks, of
 * which only the one at the lowest resolution, index `plain`, is without. */
int config_block_types(const Config *, const char *key, const char *with, const char *without, int plain,
                       int levels, bool attn[MAX_LEVELS]);
int config_norm(const Config *, UnetShape *);     /* norm_num_groups, norm_eps */
int config_channels(const Config *, UnetShape *); /* in_channels, out_channels: the same number */
/* sample_size, a number or [height, width]; `def` when it is absent or null. */
int config_sample_size(const Config *, int def, int size[2]);
/* All of a UNet2DConditionModel as diffusers builds it; keys of which one value is implemented are refused by
 * name. numbered: it must be one that is told a number beside the timestep, else it must not. */
int config_unet2d(const Config *, bool numbered, UnetShape *);
/* A MotionAdapter's config, for the U-Net that the shape tells already (family_animatediff.c). */
int config_motion(const Config *, const char *unet_where, UnetShape *);

/* Numbers a run falls back on. */
typedef struct {
    int frames, width, height, steps;
    double cfg, fps;
    int frame_stride;           /* with UnetShape.stride */
    const char *noise, *reinit; /* specs of the noise that it was trained with; NULL: white, none */
} RunDefaults;

/* How VideoFusion splits a clip's noise: eps[f] = sqrt(l) base + sqrt(1 - l) residual[f], l the share of
 * frame f, 1 of the key frame, whose noise is the base. family_videofusion.c */
enum { SPLIT_FRAMES = 512 }; /* of the longest clip */
typedef struct {
    int frames, key;             /* of what was trained; key counted from 0 */
    bool listed;                 /* lambda holds a share for each frame, else one for all but the key frame */
    double lambda[SPLIT_FRAMES]; /* in [0,1) off the key frame */
    bool rescale; /* the residual network reads its frames at unit variance, at the timestep that they then
                     have */
} NoiseSplit;
/* Of a clip of `frames` frames; a listed split knows its own number only. */
int split_key(const NoiseSplit *, int frames);
double split_share(const NoiseSplit *, int frames, int frame);

/* A model family: one file and one line in FAMILIES. */
typedef struct {
    const char *name, *help, *source;
    const char *unet_class; /* "_class_name" of unet/config.json */
    bool needs_motion;      /* weights also come from a motion adapter folder; else none is taken */
    bool step_by_frame;     /* its pipeline draws step noise frame by frame, [F,C,h,w]: --rng torch follows */
    int (*shape)(const FolderConfigs *, UnetShape *out, RunDefaults *, gimbal_error *err);
    /* Of two networks, the one that `shape` tells and a second one; NULL: one network. */
    int (*split)(const FolderConfigs *, const UnetShape *base, UnetShape *residual, NoiseSplit *,
                 gimbal_error *err);
    const char *const *unet_ignore, *const *motion_ignore;
    const char *const *unet_fresh; /* what training may begin without (bind_fresh); NULL: nothing */
} Family;
#define FAMILIES(X) X(animatediff) X(modelscope) X(consisti2v) X(videofusion)
#define FAMILY_EXTERN(name) extern const Family family_##name;
FAMILIES(FAMILY_EXTERN)
const Family *family_at(int i); /* NULL past the end */
/* By class name, and whether there is a videofusion.json; EMODEL lists the known ones. */
int family_find(const Family **out, const FolderConfigs *, gimbal_error *err);

#endif
