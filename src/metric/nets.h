/* nets.h: the inside of a set of networks, for nets.c, nets_find.c and nets_run.c alone. */
#ifndef NETS_H
#define NETS_H

#include "metric/metric.h"
#include "model/model.h"
#include "tensor/backend.h"

/* A network's file. */
typedef struct {
    char *path, *folder, *prefix; /* path NULL: not found */
    int spelling;                 /* VitSpelling, RaftSpelling */
    float eps;                    /* I3D's batch norms */
    const char *other;            /* a file of this kind, but of another size; or NULL */
    const char *pickle;           /* a file of the usual name that is not read; or NULL */
    WeightSet *weights;           /* NULL: not needed */
    char sha[65];
} Found;

/* CLIP's text tower and what it needs beside its file. */
typedef struct {
    ClipText *clip; /* NULL: not needed */
    Weight projection[2];
    Tokenizer *tokenizer;
    int out;
} Text;

#define VITS (NET_CLIP + 1) /* the kinds that are vision transformers come first */

struct Nets {
    Arena keep;
    gimbal_error err; /* the context's */
    Cx cx;
    Found found[NET_COUNT];
    const char *pickle;   /* any PyTorch file in the folder, or NULL */
    gimbal_error damaged; /* of the first file that could not be opened */
    Vit *vit[VITS];
    Raft *raft;
    I3d *i3d;
    Text text;
    Plan *plan; /* of the features asked for last */
    NetKind planned;
    int n, pw, ph;
};

/* Fills found, pickle and damaged: nets_find.c */
int nets_look(Nets *, const char *folder, gimbal_error *err);
/* EMODEL: what is missing, where it comes from, what lies there instead. folder may be NULL. */
int nets_missing(const Nets *, NetKind, const char *folder, gimbal_error *err);
/* Heads by the config.json beside a file: "num_attention_heads" where "hidden_size" is `width`, at the top or
 * in `part`; 0: it does not say. */
int nets_heads(const Found *, const char *part, int width, int *heads, gimbal_error *err);

#endif
