/* locate.c: where the parts of a model lie: unet/, vae/, ... inside the folder, and the motion adapter beside
 * or inside it.
 *
 * An adapter comes as a folder, as a weight file with its config.json beside it, or as MODEL/motion_adapter.
 * Downloads are cut short and folders are given one level too high or low: every error says what is there.
 *
 * Knows paths and names of files (the folder itself is found by io/folder.c). Refuses to know what configs
 * mean. */
#include "diffusion/engine.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *config;
    bool weights;
} parts[PART_COUNT] = {
    [PART_UNET] = {"unet", "config.json", true},
    [PART_MOTION] = {"motion_adapter", "config.json", true},
    [PART_VAE] = {"vae", "config.json", true},
    [PART_TEXT] = {"text_encoder", "config.json", true},
    [PART_TOKENIZER] = {"tokenizer", "tokenizer_config.json", false},
    [PART_SCHEDULER] = {"scheduler", "scheduler_config.json", false},
    [PART_RESIDUAL] = {"residual", "config.json", true},
    [PART_SPLIT] = {"noise_split", "videofusion.json", false},
};

const char *part_name(PartKind kind)
{
    return parts[kind].name;
}

const char *part_config(PartKind kind)
{
    return parts[kind].config;
}

bool part_has_weights(PartKind kind)
{
    return parts[kind].weights;
}

/* Whether there are two networks in the folder, in base/ and residual/. */
static bool is_split(const char *model)
{
    char path[PATH_ROOM];
    return (!path_join(path, model, parts[PART_SPLIT].config, NULL) && is_file(path)) ||
           (!path_join(path, model, parts[PART_RESIDUAL].name, NULL) && is_folder(path));
}

bool part_expected(PartKind kind, const char *model)
{
    return (kind != PART_RESIDUAL && kind != PART_SPLIT) || is_split(model);
}

static int visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* The names in a folder, sorted, shortened to fit. */
static void folder_names(const char *dir, char *out, size_t room)
{
    struct dirent **names = NULL;
    const int n = scandir(dir, &names, visible, alphasort);
    size_t at = 0;
    bool full = false;
    snprintf(out, room, "%s", n < 0 ? "nothing readable" : "nothing");
    for (int i = 0; i < n; i++) {
        char q[QUOTED_ROOM];
        const char *name = full ? "..." : quoted(names[i]->d_name, q);
        if (!full && at + strlen(name) + 8 >= room)
            name = "...", at += (size_t)snprintf(out + at, room - at, ", %s", name), full = true;
        else if (!full)
            at += (size_t)snprintf(out + at, room - at, "%s%s", at ? ", " : "", name);
        free(names[i]);
    }
    free(names); /* scandir's list */
}

int locate_part(Part *part, PartKind kind, const char *model, Arena *keep, gimbal_error *err)
{
    char dir[PATH_ROOM], config[PATH_ROOM], names[256];
    const bool split = is_split(model);
    const char *name = split && kind == PART_UNET ? "base" : part_name(kind);
    if (kind == PART_SPLIT)
        snprintf(dir, sizeof dir, "%s", model); /* the folder itself, whose path fits */
    else
        TRY(path_join(dir, model, name, err));
    TRY(path_join(config, dir, part_config(kind), err));
    part->dir = arena_printf(keep, "%s", dir);
    part->where = arena_printf(keep, "%s", config);
    part->weight = part->dir;
    if (!part->dir || !part->where)
        return fail(err, GIMBAL_ENOMEM, "no memory for paths of %s", model);
    /* a tokenizer's config is not needed: its vocabulary is, and tokenizer_open names what lacks */
    if (is_file(config) || (kind == PART_TOKENIZER && is_folder(dir)))
        return GIMBAL_OK;
    const bool there = is_folder(dir);
    folder_names(there ? dir : model, names, sizeof names);
    return fail_hint(
        err, GIMBAL_EMODEL,
        split ? "a VideoFusion folder has base/, residual/, videofusion.json, vae/, text_encoder/, "
                "tokenizer/ and scheduler/"
              : "a model folder has unet/, vae/, text_encoder/, tokenizer/ and scheduler/; was the "
                "download cut short?",
        "%s: no %s in it, only %s", there ? dir : model, there ? part_config(kind) : name, names);
}

int part_read_config(Part *part, PartKind kind, gimbal_error *err)
{
    if (!is_file(part->where))
        return GIMBAL_OK;
    return (kind == PART_SCHEDULER ? json_read_python : json_read)(&part->config, part->where, err);
}

/* What a lone weight file is, when no config.json lies beside it. */
static int lone_file(const char *path, gimbal_error *err)
{
    SafeTensors *st;
    TRY(st_open(&st, path, err));
    const char *what = st_count(st) ? foreign_spelling(st_entry(st, 0)->name) : NULL;
    const int code =
        fail_hint(err, GIMBAL_EMODEL,
                  what ? what : "a motion adapter in diffusers layout is config.json and one weight file",
                  "%s: no config.json beside it", path);
    st_close(st);
    return code;
}

static int motion_file(const char *path, char dir[PATH_ROOM], char weights[PATH_ROOM], gimbal_error *err)
{
    char config[PATH_ROOM];
    const char *slash = strrchr(path, '/');
    if (strlen(path) >= PATH_ROOM)
        return fail(err, GIMBAL_EUSAGE, "the adapter's path has %zu bytes, at most %d are possible",
                    strlen(path), PATH_ROOM - 1);
    snprintf(weights, PATH_ROOM, "%s", path);
    snprintf(dir, PATH_ROOM, "%.*s", slash ? (int)MAX(slash - path, 1) : 1, slash ? path : ".");
    TRY(path_join(config, dir, part_config(PART_MOTION), err));
    return is_file(config) ? GIMBAL_OK : lone_file(path, err);
}

static int motion_folder(const char *path, char dir[PATH_ROOM], char weights[PATH_ROOM], gimbal_error *err)
{
    char config[PATH_ROOM], names[256];
    TRY(hub_folder(dir, path, err));
    memcpy(weights, dir, PATH_ROOM);
    TRY(path_join(config, dir, part_config(PART_MOTION), err));
    if (is_file(config))
        return GIMBAL_OK;
    folder_names(dir, names, sizeof names);
    TRY(path_join(config, dir, "motion_adapter/config.json", err));
    return fail_hint(err, GIMBAL_EMODEL,
                     is_file(config)
                         ? "the adapter is one level down, in motion_adapter/"
                         : "a motion adapter in diffusers layout is config.json and one weight file",
                     "%s: no config.json in it, only %s", dir, names);
}

int locate_motion(const char *model, const char *given, char dir[PATH_ROOM], char weights[PATH_ROOM],
                  gimbal_error *err)
{
    if (given && is_file(given))
        return motion_file(given, dir, weights, err);
    if (given && is_folder(given))
        return motion_folder(given, dir, weights, err);
    if (given)
        return fail_hint(err, GIMBAL_EIO,
                         "--motion wants the folder of a motion adapter, or its .safetensors file",
                         "%s: no such file or folder", given);
    TRY(path_join(dir, model, part_name(PART_MOTION), err));
    if (is_folder(dir)) {
        char inside[PATH_ROOM];
        memcpy(inside, dir, PATH_ROOM);
        return motion_folder(inside, dir, weights, err);
    }
    dir[0] = 0;
    return GIMBAL_OK;
}
