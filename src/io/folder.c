/* folder.c: where the weights of one part of a model lie, and what to say when they do not.
 *
 * A part ("unet/", "vae/", a motion adapter) is one safetensors file, or an index naming several shards. For
 * the stems diffusion_pytorch_model and model, in this order: STEM.safetensors, the .fp16. and .bf16.
 * variants, any other variant but non_ema, then an index. A WeightSet is all tensors of all shards in name
 * order; each name once.
 *
 * Also: a hub cache folder (models--*) leads to its snapshot. Knows file names. Refuses to know what parts a
 * family has and what the tensors are. */
#include "io/io.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct {
    const StEntry *entry;
    int file;
} Member;

struct WeightSet {
    char *path;
    SafeTensors **files; /* in order of their names */
    int n_files;
    Member *members; /* in order of tensor names */
    int n_members;
    bool load; /* files are read into memory, not mapped */
    Arena arena;
};

enum { NAMES_MAX = 20000, SHARDS_MAX = 1000 };

/* ---- what a folder has ------------------------------------------------------------------- */

typedef struct {
    char **names; /* sorted */
    int n;
} Listing;

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int list_folder(Listing *out, const char *dir, Arena *arena, gimbal_error *err)
{
    DIR *d = opendir(dir);
    *out = (Listing){0};
    if (!d)
        return fail(err, GIMBAL_EIO, "%s: the folder cannot be read", dir);
    int code = GIMBAL_OK, room = 0;
    for (struct dirent *e; !code && (e = readdir(d)) && out->n < NAMES_MAX;) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        if (out->n == room) {
            char **more = arena_alloc(arena, (size_t)(room = 2 * room + 64) * sizeof *more);
            if (more && out->n)
                memcpy(more, out->names, (size_t)out->n * sizeof *more);
            out->names = more;
        }
        char *name = out->names ? arena_printf(arena, "%s", e->d_name) : NULL;
        if (!name)
            code = fail(err, GIMBAL_ENOMEM, "%s: no memory for the folder's names", dir);
        else
            out->names[out->n++] = name;
    }
    closedir(d);
    if (!code && out->n)
        qsort(out->names, (size_t)out->n, sizeof *out->names, by_text);
    return code;
}

static bool ends(const char *name, const char *tail)
{
    const size_t n = strlen(name), t = strlen(tail);
    return n >= t && !strcmp(name + n - t, tail);
}

/* The name `head` + middle + `tail`, with any middle; "-of-" is a shard and non_ema training's leftovers. */
static const char *find_variant(const Listing *list, const char *head, const char *tail)
{
    for (int i = 0; i < list->n; i++) {
        const char *name = list->names[i];
        if (strlen(name) > strlen(head) + strlen(tail) && !strncmp(name, head, strlen(head)) &&
            ends(name, tail) && !strstr(name, "-of-") && !strstr(name, "non_ema"))
            return name;
    }
    return NULL;
}

static const char *find_exact(const Listing *list, const char *stem, const char *tail)
{
    char want[256];
    snprintf(want, sizeof want, "%s%s", stem, tail);
    for (int i = 0; i < list->n; i++)
        if (!strcmp(list->names[i], want))
            return list->names[i];
    return NULL;
}

static const char *choose(const Listing *list, const char *stem)
{
    static const char *const exact[] = {".safetensors", ".fp16.safetensors", ".bf16.safetensors"};
    static const char *const index[] = {".safetensors.index.json", ".safetensors.index.fp16.json",
                                        ".safetensors.index.bf16.json"};
    char head[256];
    const char *name = NULL;
    for (int i = 0; i < COUNT(exact) && !name; i++)
        name = find_exact(list, stem, exact[i]);
    snprintf(head, sizeof head, "%s.", stem);
    if (!name)
        name = find_variant(list, head, ".safetensors");
    for (int i = 0; i < COUNT(index) && !name; i++)
        name = find_exact(list, stem, index[i]);
    snprintf(head, sizeof head, "%s.safetensors.index.", stem);
    return name ? name : find_variant(list, head, ".json");
}

static int nothing_usable(const Listing *list, const char *dir, gimbal_error *err)
{
    char text[480] = "";
    size_t at = 0;
    const char *hint = "is this the right folder, and is the download complete?";
    for (int i = 0; i < list->n; i++) {
        const char *name = list->names[i];
        char q[QUOTED_ROOM];
        if (at + QUOTED_ROOM + 8 < sizeof text) /* and ", ..." */
            at += (size_t)snprintf(&text[at], sizeof text - at, "%s%s", i ? ", " : "", quoted(name, q));
        else if (!ends(text, "..."))
            at += (size_t)snprintf(&text[at], sizeof text - at, ", ...");
        if (strstr(name, "-of-") && ends(name, ".safetensors"))
            hint = "the shards lack their index (NAME.safetensors.index.json)";
        else if (ends(name, ".bin") || ends(name, ".ckpt") || ends(name, ".pt") || ends(name, ".pth"))
            hint = "PyTorch pickles (.bin, .ckpt) are not read: fetch or convert to the safetensors files";
        else if (ends(name, ".incomplete"))
            hint = "the download did not finish";
    }
    return fail_hint(
        err, GIMBAL_EMODEL, hint,
        "%s: no weights: expected diffusion_pytorch_model.safetensors or model.safetensors, found %s", dir,
        list->n ? text : "an empty folder");
}

/* ---- opening ----------------------------------------------------------------------------- */

/* The text `path` up to its last '/', or ".". */
static int folder_of(char out[PATH_ROOM], const char *path, gimbal_error *err)
{
    const char *slash = strrchr(path, '/');
    const int n = slash ? (int)(slash - path) : 1;
    if (snprintf(out, PATH_ROOM, "%.*s", n, slash ? path : ".") >= PATH_ROOM)
        return fail(err, GIMBAL_EUSAGE, "%s: the path is too long", path);
    if (slash == path)
        strcpy(out, "/");
    return GIMBAL_OK;
}

/* Opens files[0..n) of `dir`. A link that leads nowhere is a download that stopped. */
static int open_files(WeightSet *set, const char *dir, const char *const *names, int n, gimbal_error *err)
{
    set->files = arena_alloc(&set->arena, (size_t)n * sizeof *set->files);
    if (!set->files)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for %d files", set->path, n);
    for (int i = 0; i < n; i++) {
        char path[PATH_ROOM];
        struct stat s;
        TRY(path_join(path, dir, names[i], err));
        if (!lstat(path, &s) && S_ISLNK(s.st_mode) && stat(path, &s))
            return fail_hint(err, GIMBAL_EIO, "the download did not finish: fetch the model again",
                             "%s: a link to a file that is not there", path);
        TRY((set->load ? st_load : st_open)(&set->files[i], path, err));
        set->n_files = i + 1;
    }
    return GIMBAL_OK;
}

static int by_member(const void *a, const void *b)
{
    return strcmp(((const Member *)a)->entry->name, ((const Member *)b)->entry->name);
}

static const Member *find_member(const WeightSet *set, const char *name)
{
    const StEntry entry = {.name = name};
    const Member key = {.entry = &entry};
    return bsearch(&key, set->members, (size_t)set->n_members, sizeof key, by_member);
}

static int merge(WeightSet *set, gimbal_error *err)
{
    size_t n = 0;
    for (int i = 0; i < set->n_files; i++)
        n += (size_t)st_count(set->files[i]);
    set->members = arena_alloc(&set->arena, (n + 1) * sizeof *set->members);
    if (!set->members)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for %zu tensors", set->path, n);
    for (int i = 0; i < set->n_files; i++)
        for (int k = 0; k < st_count(set->files[i]); k++)
            set->members[set->n_members++] = (Member){st_entry(set->files[i], k), i};
    qsort(set->members, n, sizeof *set->members, by_member);
    for (int i = 1; i < set->n_members; i++) {
        const Member *a = &set->members[i - 1], *b = &set->members[i];
        char q[QUOTED_ROOM];
        if (!by_member(a, b))
            return fail(err, GIMBAL_EFORMAT, "%s: tensor %s is in two shards: %s and %s", set->path,
                        quoted(a->entry->name, q), st_path(set->files[a->file]),
                        st_path(set->files[b->file]));
    }
    return GIMBAL_OK;
}

/* A shard's name must be a plain file name beside the index. */
static int check_shard_name(const char *name, const char *index, gimbal_error *err)
{
    char q[QUOTED_ROOM];
    if (!*name || strchr(name, '/') || strchr(name, '\\') || !strcmp(name, ".") || !strcmp(name, ".."))
        return fail(err, GIMBAL_EFORMAT, "%s: shard %s is not a plain file name", index, quoted(name, q));
    if (!ends(name, ".safetensors"))
        return fail_hint(err, GIMBAL_EFORMAT, "PyTorch pickles (.bin, .ckpt) are not read",
                         "%s: shard %s is not a safetensors file", index, quoted(name, q));
    return GIMBAL_OK;
}

/* The distinct files of weight_map, sorted, into *out (arena). */
static int shard_names(WeightSet *set, json_t *map, char ***out, int *n, gimbal_error *err)
{
    const size_t count = json_object_size(map);
    char **names = arena_alloc(&set->arena, (count + 1) * sizeof *names);
    if (!names)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for %zu names", set->path, count);
    const char *tensor;
    json_t *file;
    size_t at = 0;
    json_object_foreach(map, tensor, file)
    {
        char q[QUOTED_ROOM];
        if (!json_is_string(file))
            return fail(err, GIMBAL_EFORMAT, "%s: the file of tensor %s is not text", set->path,
                        quoted(tensor, q));
        TRY(check_shard_name(json_string_value(file), set->path, err));
        names[at++] = (char *)json_string_value(file);
    }
    qsort(names, count, sizeof *names, by_text);
    *n = 0;
    for (size_t i = 0; i < count; i++)
        if (i == 0 || strcmp(names[i], names[*n - 1]))
            names[(*n)++] = names[i];
    if (*n == 0 || *n > SHARDS_MAX)
        return fail(err, GIMBAL_EFORMAT, "%s: names %d shards, expected 1 to %d", set->path, *n, SHARDS_MAX);
    *out = names;
    return GIMBAL_OK;
}

/* Every tensor of weight_map must be in the shard that it names. */
static int check_map(const WeightSet *set, json_t *map, gimbal_error *err)
{
    const char *tensor;
    json_t *file;
    json_object_foreach(map, tensor, file)
    {
        const Member *m = find_member(set, tensor);
        const char *path = m ? st_path(set->files[m->file]) : "";
        const char *slash = strrchr(path, '/');
        char q[QUOTED_ROOM], q2[QUOTED_ROOM];
        if (!m || strcmp(slash ? slash + 1 : path, json_string_value(file)))
            return fail(err, GIMBAL_EFORMAT, "%s: tensor %s is not in its shard %s", set->path,
                        quoted(tensor, q), quoted(json_string_value(file), q2));
    }
    return GIMBAL_OK;
}

static int open_index(WeightSet *set, const char *dir, json_t *json, gimbal_error *err)
{
    json_t *map = json_object_get(json, "weight_map");
    char **names = NULL;
    int n = 0;
    if (!json_is_object(map))
        return fail(err, GIMBAL_EFORMAT, "%s: \"weight_map\" is missing or not an object", set->path);
    TRY(shard_names(set, map, &names, &n, err));
    TRY(open_files(set, dir, (const char *const *)names, n, err));
    TRY(merge(set, err));
    return check_map(set, map, err);
}

static int open_set(WeightSet *set, const char *path, gimbal_error *err)
{
    char dir[PATH_ROOM], full[PATH_ROOM];
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    if (is_folder(path)) {
        Listing list;
        TRY(list_folder(&list, path, &set->arena, err));
        name = choose(&list, "diffusion_pytorch_model");
        if (!name && !(name = choose(&list, "model")))
            return nothing_usable(&list, path, err);
        TRY(path_join(full, path, name, err));
        TRY(path_join(dir, path, "", err));
    } else {
        if (snprintf(full, sizeof full, "%s", path) >= (int)sizeof full)
            return fail(err, GIMBAL_EUSAGE, "%s: the path is too long", path);
        TRY(folder_of(dir, path, err));
    }
    set->path = arena_printf(&set->arena, "%s", full);
    if (!set->path)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory", path);
    if (!ends(name, ".json")) {
        TRY(open_files(set, dir, &name, 1, err));
        return merge(set, err);
    }
    json_t *json;
    TRY(json_read(&json, full, err));
    const int code = open_index(set, dir, json, err);
    json_decref(json);
    return code;
}

static int make_set(WeightSet **out, const char *dir_or_file, bool load, gimbal_error *err)
{
    *out = NULL;
    WeightSet *set = calloc(1, sizeof *set);
    if (!set)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory", dir_or_file);
    set->load = load;
    const int code = open_set(set, dir_or_file, err);
    if (code)
        weights_close(set);
    else
        *out = set;
    return code;
}

int weights_open(WeightSet **out, const char *dir_or_file, gimbal_error *err)
{
    return make_set(out, dir_or_file, false, err);
}

int weights_load(WeightSet **out, const char *dir_or_file, gimbal_error *err)
{
    return make_set(out, dir_or_file, true, err);
}

void weights_close(WeightSet *set)
{
    if (!set)
        return;
    for (int i = 0; i < set->n_files; i++)
        st_close(set->files[i]);
    arena_free(&set->arena);
    free(set); /* the handle itself, made by make_set */
}

int weights_count(const WeightSet *set)
{
    return set->n_members;
}

const StEntry *weights_entry(const WeightSet *set, int i)
{
    return i >= 0 && i < set->n_members ? set->members[i].entry : NULL;
}

int weights_index(const WeightSet *set, const char *name)
{
    const Member *m = find_member(set, name);
    return m ? (int)(m - set->members) : -1;
}

const StEntry *weights_find(const WeightSet *set, const char *name)
{
    const Member *m = find_member(set, name);
    return m ? m->entry : NULL;
}

uint64_t weights_bytes(const WeightSet *set)
{
    uint64_t sum = 0;
    for (int i = 0; i < set->n_files; i++)
        sum += st_bytes(set->files[i]);
    return sum;
}

const char *weights_path(const WeightSet *set)
{
    return set->path;
}

void weights_hash(const WeightSet *set, Sha256 *hash)
{
    for (int i = 0; i < set->n_files; i++) {
        const char *json;
        size_t n;
        uint8_t length[8];
        st_header(set->files[i], &json, &n);
        for (int k = 0; k < 8; k++)
            length[k] = (uint8_t)((uint64_t)n >> (8 * k));
        sha256_add(hash, length, sizeof length);
        sha256_add(hash, json, n);
    }
}

/* ---- model folders ----------------------------------------------------------------------- */

static bool has(const char *folder, const char *name, bool (*is)(const char *))
{
    char path[PATH_ROOM];
    return !path_join(path, folder, name, NULL) && is(path);
}

static bool is_model(const char *folder)
{
    return has(folder, "model_index.json", is_file) ||
           (has(folder, "unet", is_folder) && has(folder, "vae", is_folder));
}

/* The commit that refs/main names; empty when there is none. */
static int read_ref(char id[128], const char *cache, gimbal_error *err)
{
    char path[PATH_ROOM], *text = NULL;
    size_t n;
    id[0] = 0;
    TRY(path_join(path, cache, "refs/main", err));
    if (!is_file(path))
        return GIMBAL_OK;
    TRY(read_file(&text, &n, path, 4096, err));
    snprintf(id, 128, "%.*s", (int)strcspn(text, " \r\n"), text);
    free(text); /* read_file hands it over */
    if (strchr(id, '/') || id[0] == '.')
        return fail(err, GIMBAL_EFORMAT, "%s: not the name of a snapshot", path);
    return GIMBAL_OK;
}

/* Without a reference exactly one snapshot will do. */
static int only_snapshot(char id[128], const char *snapshots, gimbal_error *err)
{
    Arena arena = {0};
    Listing list;
    int code = list_folder(&list, snapshots, &arena, err);
    if (!code && list.n != 1)
        code = fail_hint(err, GIMBAL_EMODEL, list.n ? "name one of them" : "the download did not finish",
                         "%s: %d snapshots and no refs/main", snapshots, list.n);
    if (!code)
        snprintf(id, 128, "%s", list.names[0]);
    arena_free(&arena);
    return code;
}

int hub_folder(char out[PATH_ROOM], const char *path, gimbal_error *err)
{
    char snapshots[PATH_ROOM], id[128];
    if (snprintf(out, PATH_ROOM, "%s", path) >= PATH_ROOM)
        return fail(err, GIMBAL_EUSAGE, "%s: the path is too long", path);
    if (!has(path, "snapshots", is_folder))
        return GIMBAL_OK;
    TRY(path_join(snapshots, path, "snapshots", err));
    TRY(read_ref(id, path, err));
    if (!id[0])
        TRY(only_snapshot(id, snapshots, err));
    TRY(path_join(out, snapshots, id, err));
    if (!is_folder(out))
        return fail_hint(err, GIMBAL_EMODEL, "the download did not finish: fetch the model again",
                         "%s: refs/main names the snapshot %s, which is not there", path, id);
    return GIMBAL_OK;
}

/* A file where a model folder was expected. */
static int not_a_folder(const char *path, gimbal_error *err)
{
    SafeTensors *st;
    TRY(st_open(&st, path, err));
    const bool single = st_is_single_checkpoint(st);
    st_close(st);
    return fail_hint(err, GIMBAL_EMODEL,
                     "give a folder in diffusers layout: model_index.json, unet/, vae/, text_encoder/, ...",
                     "%s: %s", path,
                     single ? "a single-file checkpoint: not read yet" : "a file, expected a model folder");
}

/* One level up and down, for the hint. */
static int no_model_here(const char *dir, gimbal_error *err)
{
    char near[PATH_ROOM],
        hint[320] = "expected model_index.json, unet/, vae/, text_encoder/, tokenizer/, scheduler/";
    Arena arena = {0};
    Listing list;
    int code = list_folder(&list, dir, &arena, err);
    bool found = false;
    for (int i = 0; !code && i < list.n && !found; i++)
        found = !path_join(near, dir, list.names[i], NULL) && is_folder(near) && is_model(near);
    if (!code && !found)
        found = !path_join(near, dir, "..", NULL) && is_model(near);
    if (found)
        snprintf(hint, sizeof hint, "did you mean %.250s?", near);
    if (!code)
        code = fail_hint(err, GIMBAL_EMODEL, hint,
                         "%s: not a model folder: neither model_index.json nor unet/ and vae/ in it", dir);
    arena_free(&arena);
    return code;
}

int model_folder(char out[PATH_ROOM], const char *path, gimbal_error *err)
{
    if (is_file(path))
        return not_a_folder(path, err);
    if (!is_folder(path))
        return fail(err, GIMBAL_EIO, "%s: no such folder", path);
    TRY(hub_folder(out, path, err));
    return is_model(out) ? GIMBAL_OK : no_model_here(out, err);
}
