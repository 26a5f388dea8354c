/* metric.h: measuring a clip: the registry of metrics, one file and one line each, and the meter that feeds
 * them.
 *
 * A meter is given a clip frame by frame and keeps only a few of them. Whatever several metrics need of the
 * same frames (grey pictures, optical flow, network features) is computed once, when the first of them asks.
 * A metric is a constant struct: begin, frame after frame, end; its scores are named. Definitions follow the
 * papers' public code; each has an identifier that goes into every result.
 *
 * Frames are RGB8 [h][w][3]; grey is luma 0..255 float [h][w], 0.299 R + 0.587 G + 0.114 B; flow from a to b
 * is [h][w][2], x then y in pixels: what lies at p in a lies at p + flow(p) in b.
 *
 * Knows pictures, flow, features. Refuses to know containers, codecs, how the frames were made and how scores
 * are shown. */
#ifndef METRIC_H
#define METRIC_H

#include "base/base.h"

/* ---- networks of metrics: nets.c --------------------------------------------------------- */

/* DINO's feature: the CLS token behind the final norm; CLIP's: projected; both as the network gives them, not
 * yet of unit length. */
typedef enum { NET_DINO_S, NET_DINO_B, NET_CLIP, NET_RAFT, NET_I3D, NET_COUNT } NetKind;
enum { NET_BATCH = 16, FEATURE_MAX = 1024 };

typedef struct Nets Nets;
/* Looks through `folder` (its .safetensors files and those one level down) and tells the networks apart by
 * their tensors' names and shapes, or by what their metadata says ("network": "dino-vits16", "dino-vitb16",
 * "clip-vit-base-patch32", "raft-large", "i3d-kinetics-400"); opens those that are `needed`, bits 1 <<
 * NetKind, CLIP's text tower and words (vocab.json, merges.txt beside the weights) too when `text`. A network
 * that is not there: EMODEL, naming what file is expected, where it comes from and its SHA-256 where known.
 * folder NULL is such a case too. */
int nets_open(Nets **out, const char *folder, unsigned needed, bool text, int threads, gimbal_error *err);
void nets_close(Nets *); /* NULL is fine */
/* Of the whole weights file, 64 hex digits; computed when first asked for. NULL: err is filled. */
const char *nets_sha256(Nets *, NetKind, gimbal_error *err);
int nets_width(const Nets *, NetKind); /* of a feature: 384, 768, 512; I3D 400 */

/* How a picture becomes a network's input; each metric's definition names one (metrics.md's traps). */
typedef enum {
    PREP_DINO,      /* short side 224, bilinear, no crop; ImageNet mean, std */
    PREP_CLIP,      /* short side 224, bicubic, centre 224x224; CLIP mean, std */
    PREP_DINO_CROP, /* short side 256, bicubic, centre 224x224; ImageNet (i2v_subject) */
    PREP_I3D,       /* 224x224 whatever its shape, bilinear; 2x/255 - 1 */
} Prep;
/* Size of the prepared picture. */
void prep_size(Prep, int w, int h, int *pw, int *ph);
/* rgb [h][w][3] -> out [ph][pw][3] normalised. antialias: widen the kernel when shrinking. round: to bytes
 * between resizing and normalising, as for uint8 tensors and PIL images. ENOMEM. */
int prep_picture(Prep, const uint8_t *rgb, int w, int h, bool antialias, bool round, float *out,
                 gimbal_error *err);
/* n <= NET_BATCH prepared pictures [n][ph][pw][3] -> features [n][nets_width]. */
int nets_features(Nets *, NetKind, const float *pictures, int n, int pw, int ph, float *features,
                  gimbal_error *err);
/* CLIP's text feature [512]. EUSAGE: not UTF-8. */
int nets_text(Nets *, const char *prompt, float *feature, gimbal_error *err);
/* RAFT, 20 updates: flow from a to b, both RGB8 [h][w][3], each side padded to a multiple of 8 by repeating
 * its borders as VBench does, and like there not cut back: out [nets_padded(h)][nets_padded(w)][2]. */
int nets_padded(int side);
int nets_flow(Nets *, const uint8_t *a, const uint8_t *b, int w, int h, float *out, gimbal_error *err);
/* I3D's 400 logits of a clip [frames][h][w][3] as PREP_I3D, half-pixel centres, no antialiasing. */
int nets_logits(Nets *, const uint8_t *rgb, int frames, int w, int h, float *logits, gimbal_error *err);

/* ---- the meter: meter.c (frames, pictures, flows), meter_feed.c (features), meter_api.c (the public calls)
 */

typedef struct gimbal_meter Meter;

enum {
    NEED_FLOW = 1,       /* the caller's optical flow (DIS) */
    NEED_RAFT = 2,       /* RAFT's */
    NEED_DINO_S = 4,     /* features; the metric's frames come later, in order, when their batch is full */
    NEED_DINO_B = 8,     /* as PREP_DINO */
    NEED_CLIP = 16,      /* as PREP_CLIP */
    NEED_DINO_CROP = 32, /* ViT-B/16 as PREP_DINO_CROP, antialiased */
    NEED_CLIP_ANTIALIAS = 64, /* as PREP_CLIP with antialiasing, rounded to bytes: CLIPSIM's definition */
    NEED_TEXT = 128,          /* a prompt */
    NEED_IMAGE = 256,         /* the picture the clip was to begin with */
};
/* A metric has at most one of these. */
#define NEED_FEATURES (NEED_DINO_S | NEED_DINO_B | NEED_CLIP | NEED_DINO_CROP | NEED_CLIP_ANTIALIAS)
#define NEED_NETWORK (NEED_FEATURES | NEED_RAFT | NEED_TEXT)

/* What a metric sees of one frame. */
typedef struct {
    int i, w, h; /* number from 0 */
    double fps;  /* 0: unknown */
    const uint8_t *rgb, *prev,
        *first;           /* prev NULL at i == 0, or not kept; all NULL for metrics of features */
    const float *feature; /* of the one network it NEEDs, [width]; NULL for others */
    int width;
    Meter *meter;
} Frame;

/* What a metric may ask for inside its calls. NULL: it failed or is not kept; the meter has the error, and
 * the metric returns any code. Picture j: this frame or one that the metric keeps. */
const uint8_t *meter_picture(Meter *, int j);
const float *meter_grey(Meter *, int j); /* the same, grey */
/* Flow from picture a to b, both kept; computed once. raft: by RAFT, as nets_flow gives it. */
const float *meter_flow(Meter *, int a, int b, bool raft);
const float *meter_text(Meter *); /* CLIP's feature of the prompt [width] */
/* The feature [width] of the order's image (without one: the clip's first frame) by the network and
 * preparation of the asking metric, antialiased and rounded to bytes as for a picture from a file. */
const float *meter_image(Meter *);
/* A value of score `score` (index in the metric's list) for frame i, or the pair (i-1, i). ENOMEM. */
int meter_frame_value(Meter *, int score, int i, double value);
int meter_threads(const Meter *);

typedef struct {
    const char *name, *help;
    int better; /* 1: higher, -1: lower, 0: neither (how much moves) */
} Score;

enum { SCORE_MOST = 4, PAIR_MOST = 4 };

typedef struct Metric {
    const char *name, *help, *source;
    const char *definition; /* "vbench:temporal_flickering/1" */
    const Score *scores;    /* at most SCORE_MOST; ends with name NULL */
    unsigned needs;
    int least;   /* pixels a side; a smaller clip has no such scores */
    size_t size; /* of its own state, zeroed before begin */
    int (*begin)(void *self, Meter *, int w, int h, double fps, gimbal_error *); /* may be NULL */
    /* Is picture j <= i looked at again after frame i? NULL: just picture i. Not asked of metrics of
     * features. */
    bool (*keeps)(const void *self, int j, int i);
    /* The flows {from, to} that frame i will ask for (the caller's flow), so that they are computed side by
     * side; returns how many, at most PAIR_MOST. NULL: none. */
    int (*flows)(const void *self, int i, int pairs[PAIR_MOST][2]);
    int (*frame)(void *self, const Frame *, gimbal_error *);
    /* values[k] of scores[k]; NaN where the clip is too short or gives none, and *why then (a constant text).
     */
    int (*end)(void *self, int frames, double *values, const char **why, gimbal_error *);
    void (*close)(void *self); /* may be NULL */
} Metric;

/* What many metrics end with: the mean of a sum over the pairs of neighbours, or of later frames with the
 * first; `alone` is why there is none of one frame. */
static inline int mean_over_pairs(double sum, int frames, const char *alone, double *value, const char **why)
{
    if (frames < 2)
        *why = alone;
    else
        *value = sum / (frames - 1);
    return GIMBAL_OK;
}

#define METRICS(X)                                                                                           \
    X(temporal_flickering)                                                                                   \
    X(psnr)                                                                                                  \
    X(ssim)                                                                                                  \
    X(warp)                                                                                                  \
    X(dynamic_degree_dis)                                                                                    \
    X(motion_smoothness_dis)                                                                                 \
    X(motion_magnitude)                                                                                      \
    X(lowpass_share)                                                                                         \
    X(static_share)                                                                                          \
    X(dino_first)                                                                                            \
    X(subject_consistency)                                                                                   \
    X(background_consistency)                                                                                \
    X(clip_frame_consistency)                                                                                \
    X(clipsim)                                                                                               \
    X(i2v_subject)                                                                                           \
    X(dynamic_degree)
#define METRIC_EXTERN(name) extern const Metric metric_##name;
METRICS(METRIC_EXTERN)
const Metric *metric_at(int i); /* NULL past the end */

#endif
