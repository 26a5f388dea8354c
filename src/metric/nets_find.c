/* nets_find.c: which file of a folder is which network.
 *
 * Looked at are the .safetensors files of the folder and of the folders in it, in the order of their names;
 * the first that fits counts. A network shows itself by a tensor that only its spelling has and by its width
 * and patch; metadata "network" says it instead where the size is another one. What was published as a
 * PyTorch pickle is not read: such files are noticed so that the message can name them.
 *
 * Knows file names, origins and marks. Refuses to know how networks are built (nets.c). */
#include "metric/nets.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *id, *what, *file, *origin; /* id: metadata "network" */
    int width, patch;                      /* of vision transformers */
} known[NET_COUNT] = {
    [NET_DINO_S] = {"dino-vits16", "DINO ViT-S/16", "dino_deitsmall16_pretrain.pth",
                    "facebookresearch/dino; on the Hub facebook/dino-vits16", 384, 16},
    [NET_DINO_B] = {"dino-vitb16", "DINO ViT-B/16", "dino_vitbase16_pretrain.pth",
                    "facebookresearch/dino; on the Hub facebook/dino-vitb16", 768, 16},
    [NET_CLIP] = {"clip-vit-base-patch32", "CLIP ViT-B/32", "clip-vit-base-patch32/model.safetensors",
                  "openai/clip-vit-base-patch32 on the Hub", 768, 32},
    [NET_RAFT] = {"raft-large", "RAFT", "raft-things.pth",
                  "princeton-vl/RAFT, models.zip, SHA-256 fcfa4125d6418f4d...; or torchvision's raft_large",
                  0, 0},
    [NET_I3D] = {"i3d-kinetics-400", "I3D (Kinetics-400)", "i3d_pretrained_400.pt",
                 "the port in VideoGPT and TATS", 0, 0},
};

/* ---- one file ---------------------------------------------------------------------------- */

/* The entry whose name is `mark`, or ends in it behind a dot. */
static const StEntry *ending(const SafeTensors *st, const char *mark)
{
    const size_t m = strlen(mark);
    for (int i = 0; i < st_count(st); i++) {
        const StEntry *e = st_entry(st, i);
        const size_t n = strlen(e->name);
        if (n >= m && !strcmp(e->name + n - m, mark) && (n == m || e->name[n - m - 1] == '.'))
            return e;
    }
    return NULL;
}

/* The last size of the tensor `mark`, and the patch: of the one 4-dimensional tensor with 3 input channels.
 */
static void sizes_of(const SafeTensors *st, const StEntry *mark, int64_t *width, int64_t *patch)
{
    *width = mark->nd ? mark->n[mark->nd - 1] : 0;
    *patch = 0;
    for (int i = 0; i < st_count(st) && !*patch; i++) {
        const StEntry *e = st_entry(st, i);
        if (e->nd == 4 && e->n[0] == *width && e->n[1] == 3)
            *patch = e->n[3];
    }
}

static int remember(Nets *n, NetKind kind, const SafeTensors *st, const StEntry *mark, size_t length,
                    int spelling, gimbal_error *err)
{
    Found *f = &n->found[kind];
    const char *path = st_path(st), *slash = strrchr(path, '/'), *eps = st_metadata(st, "bn_eps");
    if (f->path)
        return GIMBAL_OK;
    f->spelling = spelling;
    f->eps = eps ? strtof(eps, NULL) : 1e-5f;
    f->prefix = arena_printf(&n->keep, "%.*s", (int)(strlen(mark->name) - length), mark->name);
    f->folder =
        slash ? arena_printf(&n->keep, "%.*s", (int)(slash - path), path) : arena_printf(&n->keep, ".");
    f->path = arena_printf(&n->keep, "%s", path);
    if (!(f->eps > 0 && f->eps < 1))
        return fail(err, GIMBAL_EFORMAT,
                    "%s: metadata \"bn_eps\" is \"%.40s\", expected a number between 0 and 1", path, eps);
    return f->path && f->folder && f->prefix ? GIMBAL_OK
                                             : fail(err, GIMBAL_ENOMEM, "no memory for paths of %s", path);
}

/* The kind of a vision transformer by its metadata, or by its size; NET_COUNT: none that is used here. */
static NetKind vit_kind(Nets *n, const SafeTensors *st, const StEntry *mark, VitSpelling s)
{
    const char *id = st_metadata(st, "network");
    int64_t width, patch;
    sizes_of(st, mark, &width, &patch);
    for (NetKind k = 0; k < VITS; k++) {
        if ((k == NET_CLIP) != (s == VIT_CLIP))
            continue;
        if (id ? !strcmp(id, known[k].id) : width == known[k].width && patch == known[k].patch)
            return k;
        if (!n->found[k].other)
            n->found[k].other = arena_printf(&n->keep, "%s", st_path(st));
    }
    return NET_COUNT;
}

static int look_into(Nets *n, const SafeTensors *st, gimbal_error *err)
{
    static const VitSpelling order[] = {VIT_HF, VIT_CLIP, VIT_DINO}; /* DINO's mark ends HF's, too */
    const StEntry *e;
    for (int i = 0; i < COUNT(order); i++)
        if ((e = ending(st, vit_mark(order[i])))) {
            const NetKind kind = vit_kind(n, st, e, order[i]);
            return kind == NET_COUNT
                       ? GIMBAL_OK
                       : remember(n, kind, st, e, strlen(vit_mark(order[i])), (int)order[i], err);
        }
    for (RaftSpelling s = 0; s < RAFT_SPELLINGS; s++)
        if ((e = ending(st, raft_mark(s))))
            return remember(n, NET_RAFT, st, e, strlen(raft_mark(s)), (int)s, err);
    e = ending(st, i3d_mark());
    return e ? remember(n, NET_I3D, st, e, strlen(i3d_mark()), 0, err) : GIMBAL_OK;
}

static int look_at_file(Nets *n, const char *path, gimbal_error *err)
{
    SafeTensors *st;
    if (st_open(&st, path, &n->damaged)) /* matters only when a network is missing; the first one is kept */
        return GIMBAL_OK;
    const int code = look_into(n, st, err);
    st_close(st);
    return code;
}

/* ---- folders ----------------------------------------------------------------------------- */

static bool ends(const char *name, const char *tail)
{
    const size_t n = strlen(name), t = strlen(tail);
    return n >= t && !strcmp(name + n - t, tail);
}

static void note_pickle(Nets *n, const char *name, const char *path)
{
    static const char *const tails[] = {".pth", ".pt", ".bin", ".ckpt"};
    for (int i = 0; i < COUNT(tails); i++)
        if (ends(name, tails[i]) && !n->pickle)
            n->pickle = arena_printf(&n->keep, "%s", path);
    for (NetKind k = 0; k < NET_COUNT; k++)
        if (!strcmp(name, known[k].file))
            n->found[k].pickle = arena_printf(&n->keep, "%s", path);
}

static int look_in_folder(Nets *n, const char *folder, int depth, gimbal_error *err)
{
    struct dirent **list;
    const int count = scandir(folder, &list, NULL, alphasort);
    int code =
        count < 0 ? fail(err, GIMBAL_EIO, "%s: the folder of networks cannot be read", folder) : GIMBAL_OK;
    for (int i = 0; i < count; i++) {
        char path[PATH_ROOM];
        const char *name = list[i]->d_name;
        if (!code && name[0] != '.')
            code = path_join(path, folder, name, err);
        if (code || name[0] == '.') {
            free(list[i]); /* scandir's, as below */
            continue;
        }
        if (ends(name, ".safetensors") && is_file(path))
            code = look_at_file(n, path, err);
        else if (depth > 0 && is_folder(path))
            code = look_in_folder(n, path, depth - 1, err);
        else
            note_pickle(n, name, path);
        free(list[i]);
    }
    if (count >= 0)
        free(list);
    return code;
}

int nets_look(Nets *n, const char *folder, gimbal_error *err)
{
    if (!folder)
        return GIMBAL_OK;
    if (!is_folder(folder))
        return fail(err, GIMBAL_EIO, "%s: no such folder of networks", folder);
    return look_in_folder(n, folder, 1, err);
}

/* ---- messages and configs ---------------------------------------------------------------- */

int nets_missing(const Nets *n, NetKind kind, const char *folder, gimbal_error *err)
{
    const Found *f = &n->found[kind];
    const char *pickle = f->pickle ? f->pickle : n->pickle;
    const char *hint =
        "convert once with Python: sd = torch.load(FILE, map_location=\"cpu\"); "
        "safetensors.torch.save_file({k: v.contiguous() for k, v in sd.items()}, \"FILE.safetensors\")";
    char there[512] = "";
    if (n->damaged.code)
        snprintf(there, sizeof there, "; %.480s", n->damaged.msg);
    else if (f->other)
        snprintf(there, sizeof there, "; %.400s is one of another size", f->other);
    else if (pickle)
        snprintf(there, sizeof there, "; %.400s is a PyTorch pickle, which is not read", pickle);
    if (!folder)
        hint = "--weights wants the folder with the networks' safetensors files";
    else if (n->damaged.code && n->damaged.hint[0])
        hint = n->damaged.hint;
    else if (kind == NET_CLIP)
        hint = "fetch model.safetensors, config.json, vocab.json and merges.txt of that repository into a "
               "folder";
    return fail_hint(err, GIMBAL_EMODEL, hint, "%s: no weights of %s as safetensors; published as %s (%s)%s",
                     folder ? folder : "no folder of networks", known[kind].what, known[kind].file,
                     known[kind].origin, there);
}

static int read_heads(json_t *config, const char *where, const char *part, int width, int *heads,
                      gimbal_error *err)
{
    const json_t *inner = json_object_get(config, part);
    if (!json_is_object(inner))
        inner = config;
    int hidden;
    TRY(json_get_int(inner, where, "hidden_size", 0, 0, 1 << 20, &hidden, err));
    if (hidden != width)
        return GIMBAL_OK;
    return json_get_int(inner, where, "num_attention_heads", 0, 0, 1 << 14, heads, err);
}

int nets_heads(const Found *f, const char *part, int width, int *heads, gimbal_error *err)
{
    char path[PATH_ROOM];
    json_t *config;
    *heads = 0;
    TRY(path_join(path, f->folder, "config.json", err));
    if (!is_file(path))
        return GIMBAL_OK;
    TRY(json_read(&config, path, err));
    const int code = read_heads(config, path, part, width, heads, err);
    json_decref(config);
    return code;
}
