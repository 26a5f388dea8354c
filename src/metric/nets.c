/* nets.c: the networks of metrics, opened: files to networks with bound weights.
 *
 * Every network takes its sizes from its own file and is bound strictly: a missing, surplus or misshapen
 * tensor is named. Files are mapped; weights are read where they lie. One context serves all networks, one
 * after the other.
 *
 * Knows which network is built how. Refuses to know folders (nets_find.c) and pictures (nets_run.c). */
#include "metric/nets.h"

#include <stdlib.h>
#include <string.h>

/* ---- vision transformers ----------------------------------------------------------------- */

/* Width of the tokens: of the tensor that marks the file. */
static int token_width(const Found *f)
{
    char name[512];
    snprintf(name, sizeof name, "%.250s%.250s", f->prefix, vit_mark((VitSpelling)f->spelling));
    const StEntry *e = weights_find(f->weights, name);
    return e && e->nd && e->n[e->nd - 1] < 1 << 20 ? (int)e->n[e->nd - 1] : 0;
}

static int open_vit(Nets *n, NetKind kind, gimbal_error *err)
{
    const Found *f = &n->found[kind];
    int heads;
    TRY(nets_heads(f, "vision_config", token_width(f), &heads, err));
    TRY(vit_build(&n->vit[kind], &n->keep, f->weights, f->prefix, (VitSpelling)f->spelling, heads, err));
    TRY(bind_weights(f->weights, f->prefix, vit_params, n->vit[kind], vit_ignore, NULL, err));
    vit_bound(n->vit[kind]);
    if (vit_width(n->vit[kind]) > FEATURE_MAX)
        return fail(err, GIMBAL_EMODEL, "%s: features of %d numbers, expected at most %d", f->path,
                    vit_width(n->vit[kind]), FEATURE_MAX);
    return GIMBAL_OK;
}

/* ---- CLIP's text tower ------------------------------------------------------------------- */

static const char *const text_ignore[] = {"*vision_model.*", "*visual_projection.weight", "*logit_scale",
                                          "*position_ids", NULL};

static void text_params(void *text, Params *p)
{
    Text *t = text;
    clip_params(t->clip, p);
    pv_linear(p, "text_projection", t->projection, clip_width(t->clip), t->out, false);
}

/* Dimension `dim` of a matrix of the tower; 0: no such matrix, or too large to be believed. */
static int text_size(const Found *f, const char *name, int dim)
{
    char full[512];
    snprintf(full, sizeof full, "%.250s%.250s", f->prefix, name);
    const StEntry *e = weights_find(f->weights, full);
    return e && e->nd == 2 && e->n[dim] < 1 << 24 ? (int)e->n[dim] : 0;
}

/* The config that the tower's file stands for. NULL: no memory. */
static json_t *text_config(const Found *f, int heads)
{
    int layers = 0, more = 1;
    while (layers < 256 && more) {
        char name[128];
        snprintf(name, sizeof name, "text_model.encoder.layers.%d.mlp.fc1.weight", layers);
        more = text_size(f, name, 0) > 0;
        layers += more;
    }
    const int width = text_size(f, "text_model.embeddings.token_embedding.weight", 1);
    return json_pack("{s:i,s:i,s:i,s:i,s:i,s:i}", "vocab_size",
                     text_size(f, "text_model.embeddings.token_embedding.weight", 0), "hidden_size", width,
                     "intermediate_size", text_size(f, "text_model.encoder.layers.0.mlp.fc1.weight", 0),
                     "num_hidden_layers", layers, "num_attention_heads", heads ? heads : MAX(width / 64, 1),
                     "max_position_embeddings",
                     text_size(f, "text_model.embeddings.position_embedding.weight", 0));
}

static int build_text(Nets *n, gimbal_error *err)
{
    const Found *f = &n->found[NET_CLIP];
    const int width = text_size(f, "text_model.embeddings.token_embedding.weight", 1);
    int heads;
    if (!width)
        return fail_hint(err, GIMBAL_EMODEL, "the whole CLIP model is wanted, not its vision tower alone",
                         "%s: CLIP's text tower is not in the file", f->path);
    TRY(nets_heads(f, "text_config", width, &heads, err));
    json_t *config = text_config(f, heads);
    if (!config)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for the text tower", f->path);
    const int code = clip_build(&n->text.clip, &n->keep, config, f->path, err);
    json_decref(config);
    return code;
}

static int open_text(Nets *n, gimbal_error *err)
{
    const Found *f = &n->found[NET_CLIP];
    TRY(build_text(n, err));
    n->text.out = text_size(f, "text_projection.weight", 0);
    if (n->text.out != vit_width(n->vit[NET_CLIP]))
        return fail(err, GIMBAL_EMODEL, "%s: text features have %d numbers, those of pictures %d", f->path,
                    n->text.out, vit_width(n->vit[NET_CLIP]));
    TRY(bind_weights(f->weights, f->prefix, text_params, &n->text, text_ignore, NULL, err));
    TRY(tokenizer_open(&n->text.tokenizer, f->folder, err));
    if (tokenizer_vocab(n->text.tokenizer) > clip_vocab(n->text.clip))
        return fail(err, GIMBAL_EMODEL, "%s has %d token ids, the table in %s only %d rows", f->folder,
                    tokenizer_vocab(n->text.tokenizer), f->path, clip_vocab(n->text.clip));
    return GIMBAL_OK;
}

/* ---- RAFT, I3D --------------------------------------------------------------------------- */

static int open_raft(Nets *n, gimbal_error *err)
{
    const Found *f = &n->found[NET_RAFT];
    TRY(raft_build(&n->raft, &n->keep, f->weights, f->prefix, (RaftSpelling)f->spelling, err));
    TRY(bind_weights(f->weights, f->prefix, raft_params, n->raft, raft_ignore, NULL, err));
    return raft_bound(n->raft, &n->keep, err);
}

static int open_i3d(Nets *n, gimbal_error *err)
{
    const Found *f = &n->found[NET_I3D];
    TRY(i3d_build(&n->i3d, &n->keep, f->weights, f->prefix, err));
    TRY(bind_weights(f->weights, f->prefix, i3d_params, n->i3d, i3d_ignore, NULL, err));
    return i3d_bound(n->i3d, f->eps, &n->keep, err);
}

/* ---- all --------------------------------------------------------------------------------- */

static int open_net(Nets *n, NetKind kind, const char *folder, gimbal_error *err)
{
    Found *f = &n->found[kind];
    if (!f->path)
        return nets_missing(n, kind, folder, err);
    TRY(weights_open(&f->weights, f->path, err));
    return kind < VITS ? open_vit(n, kind, err) : kind == NET_RAFT ? open_raft(n, err) : open_i3d(n, err);
}

static int open_all(Nets *n, const char *folder, unsigned needed, bool text, gimbal_error *err)
{
    TRY(nets_look(n, folder, err));
    for (NetKind kind = 0; kind < NET_COUNT; kind++)
        if (needed >> kind & 1 || (text && kind == NET_CLIP))
            TRY(open_net(n, kind, folder, err));
    return text ? open_text(n, err) : GIMBAL_OK;
}

int nets_open(Nets **out, const char *folder, unsigned needed, bool text, int threads, gimbal_error *err)
{
    *out = NULL;
    Nets *n = calloc(1, sizeof *n);
    if (!n)
        return fail(err, GIMBAL_ENOMEM, "no memory for networks");
    cx_init(&n->cx, cpu_chain(), threads, &n->err);
    const int code = open_all(n, folder, needed, text, err);
    if (code)
        nets_close(n);
    else
        *out = n;
    return code;
}

static int drop_leaf(Params *p, Weight *w)
{
    (void)p;
    weight_drop(w);
    return 0;
}

void nets_close(Nets *n)
{
    if (!n)
        return;
    Params p = {.leaf = drop_leaf};
    for (int i = 0; i < VITS; i++)
        vit_drop(n->vit[i]);
    if (n->text.clip)
        text_params(&n->text, &p);
    if (n->raft)
        raft_params(n->raft, &p);
    if (n->i3d)
        i3d_params(n->i3d, &p);
    tokenizer_close(n->text.tokenizer);
    plan_free(n->plan);
    cx_free(&n->cx);
    for (int i = 0; i < NET_COUNT; i++)
        weights_close(n->found[i].weights);
    arena_free(&n->keep);
    free(n); /* itself is in no arena */
}

int nets_width(const Nets *n, NetKind kind)
{
    return kind == NET_I3D ? I3D_CLASSES : kind < VITS && n->vit[kind] ? vit_width(n->vit[kind]) : 0;
}

const char *nets_sha256(Nets *n, NetKind kind, gimbal_error *err)
{
    Found *f = &n->found[kind];
    Mapped file;
    if (f->sha[0])
        return f->sha;
    if (!f->path) {
        fail(err, GIMBAL_EMODEL, "that network is not open");
        return NULL;
    }
    if (map_file(&file, f->path, err))
        return NULL;
    Sha256 *sha = sha256_new();
    if (sha) {
        sha256_add(sha, file.data, file.size);
        sha256_end(sha, f->sha);
    } else {
        fail(err, GIMBAL_ENOMEM, "no memory for a hash");
    }
    unmap_file(&file);
    return sha ? f->sha : NULL;
}
