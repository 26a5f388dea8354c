/* compare_pairs.c: which clips there are, and which of two lists belong together.
 *
 * By name: the file's name without folder and ending. By recipe: prompt and seed that the clips carry. By
 * order: as they stand. A clip without a partner is never dropped silently: it is an error that names it, or,
 * when a part is asked for, in the list of those left out.
 *
 * Refuses to know scores. */
#include "app/measure.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- lists of clips ---------------------------------------------------------------------- */

static bool is_folder(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

static bool ends_as(const char *path, const char *const *endings)
{
    for (; *endings; endings++)
        if (ends_with(path, *endings))
            return true;
    return false;
}

/* An animated WebP is a clip, another one a picture. */
static bool moves(const char *path)
{
    media_reader *in;
    media_info info;
    if (media_open(&in, path, &info, NULL))
        return false;
    media_free(in);
    return info.frames > 1;
}

static int visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static bool has_pictures(const char *folder)
{
    static const char *const endings[] = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", NULL};
    struct dirent **entries;
    const int n = scandir(folder, &entries, visible, NULL);
    bool found = false;
    for (int i = 0; i < n; i++) {
        found = found || ends_as(entries[i]->d_name, endings);
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
    return found;
}

static bool is_clip_in_folder(const char *path)
{
    static const char *const endings[] = {".mp4", ".webm", ".gif", ".avi",  ".y4m",         ".mkv",
                                          ".mov", ".m4v",  ".mpg", ".mpeg", ".safetensors", NULL};
    if (is_folder(path))
        return has_pictures(path);
    return ends_as(path, endings) || (ends_with(path, ".webp") && moves(path));
}

/* "a/cat.mp4" -> "cat", "a/cat/" -> "cat", a folder's name whole. Caller frees. */
static char *clip_name(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    size_t first = n;
    while (first > 0 && path[first - 1] != '/')
        first--;
    const char *dot = memrchr(path + first, '.', n - first);
    if (dot && dot > path + first && !is_folder(path))
        n = (size_t)(dot - path);
    return strndup(path + first, n - first);
}

static int add(Clips *clips, const char *path, gimbal_error *err)
{
    if (clips->n == clips->room) {
        const size_t room = clips->room ? 2 * (size_t)clips->room : 32;
        char **paths = realloc(clips->paths, room * sizeof *paths);
        clips->paths = paths ? paths : clips->paths;
        char **names = realloc(clips->names, room * sizeof *names);
        clips->names = names ? names : clips->names;
        if (!paths || !names)
            return fail_memory(err);
        clips->room = (int)room;
    }
    char *copy = strdup(path), *name = clip_name(path);
    clips->paths[clips->n] = copy, clips->names[clips->n++] = name;
    return copy && name ? GIMBAL_OK : fail_memory(err);
}

static int add_entry(Clips *clips, const char *folder, const char *entry, gimbal_error *err)
{
    char *path;
    const size_t n = strlen(folder);
    if (asprintf(&path, "%s%s%s", folder, n && folder[n - 1] == '/' ? "" : "/", entry) < 0)
        return fail_memory(err);
    const int code = is_clip_in_folder(path) ? add(clips, path, err) : GIMBAL_OK;
    free(path);
    return code;
}

static int add_folder(Clips *clips, const char *folder, gimbal_error *err)
{
    struct dirent **entries;
    const int before = clips->n, n = scandir(folder, &entries, visible, versionsort);
    if (n < 0)
        return complain(err, GIMBAL_EIO, NULL, "%s: cannot be read as a folder", folder);
    int code = GIMBAL_OK;
    for (int i = 0; i < n; i++) {
        code = code ? code : add_entry(clips, folder, entries[i]->d_name, err);
        free(entries[i]);
    }
    free(entries);
    if (code || clips->n > before)
        return code;
    if (has_pictures(folder))
        return add(clips, folder, err);
    return complain(err, GIMBAL_EUSAGE, "clips are .mp4, .webm, .gif, .avi, .y4m, ... or folders of pictures",
                    "%s: no clip in this folder", folder);
}

int clips_find(Clips *clips, const char *const *words, int n, gimbal_error *err)
{
    for (int i = 0; i < n; i++)
        TRY(is_folder(words[i]) ? add_folder(clips, words[i], err) : add(clips, words[i], err));
    return GIMBAL_OK;
}

void clips_free(Clips *clips)
{
    for (int i = 0; i < clips->n; i++) {
        free(clips->paths[i]);
        free(clips->names[i]);
    }
    free(clips->paths);
    free(clips->names);
    *clips = (Clips){0};
}

/* ---- keys -------------------------------------------------------------------------------- */

/* Prompt and seed of a clip's recipe as one text; caller frees; *out NULL: it has none. */
static int recipe_key(const char *path, char **out, gimbal_error *err)
{
    char *text;
    *out = NULL;
    TRY(recipe_read(path, &text, err));
    json_t *recipe = text ? json_loads(text, 0, NULL) : NULL;
    free(text);
    const json_t *settings = json_object_get(recipe, "settings");
    const json_t *prompt = json_object_get(settings, "prompt"), *seed = json_object_get(settings, "seed");
    char *number = seed ? json_dumps(seed, JSON_ENCODE_ANY) : NULL;
    int n = 0;
    if (json_is_string(prompt) && number)
        n = asprintf(out, "\"%s\", seed %s", json_string_value(prompt), number);
    free(number);
    json_decref(recipe);
    if (n < 0)
        *out = NULL;
    return n < 0 ? fail_memory(err) : GIMBAL_OK;
}

static void free_keys(char **keys, int n)
{
    for (int i = 0; keys && i < n; i++)
        free(keys[i]);
    free(keys);
}

static int recipe_keys(const Clips *clips, char ***out, gimbal_error *err)
{
    *out = calloc((size_t)clips->n + 1, sizeof **out);
    if (!*out)
        return fail_memory(err);
    for (int i = 0; i < clips->n; i++)
        TRY(recipe_key(clips->paths[i], *out + i, err));
    return GIMBAL_OK;
}

/* EUSAGE when two clips of one side have the same key. */
static int check_distinct(const Clips *clips, char *const *keys, const char *by, gimbal_error *err)
{
    for (int i = 0; i < clips->n; i++)
        for (int j = i + 1; j < clips->n; j++)
            if (keys[i] && keys[j] && !strcmp(keys[i], keys[j]))
                return complain(err, GIMBAL_EUSAGE, "--by order pairs clips as they stand",
                                "%s and %s cannot be told apart by %s: both are %s", clips->paths[i],
                                clips->paths[j], by, keys[i]);
    return GIMBAL_OK;
}

/* ---- pairs ------------------------------------------------------------------------------- */

void pairs_free(Pairs *pairs)
{
    free(pairs->at);
    free(pairs->left);
    *pairs = (Pairs){0};
}

static int pairs_room(Pairs *pairs, const char *by, const Clips *a, const Clips *b, gimbal_error *err)
{
    *pairs = (Pairs){.by = by};
    pairs->at = calloc((size_t)a->n + 1, sizeof *pairs->at);
    pairs->left = calloc((size_t)a->n + (size_t)b->n + 1, sizeof *pairs->left);
    return pairs->at && pairs->left ? GIMBAL_OK : fail_memory(err);
}

static int partner(const char *key, char *const *keys, int n)
{
    for (int j = 0; key && j < n; j++)
        if (keys[j] && !strcmp(key, keys[j]))
            return j;
    return -1;
}

static int match_keys(Pairs *pairs, const char *by, const Clips *a, char *const *keys_a, const Clips *b,
                      char *const *keys_b, gimbal_error *err)
{
    TRY(check_distinct(a, keys_a, by, err));
    TRY(check_distinct(b, keys_b, by, err));
    TRY(pairs_room(pairs, by, a, b, err));
    for (int i = 0; i < a->n; i++) {
        const int j = partner(keys_a[i], keys_b, b->n);
        if (j >= 0)
            pairs->at[pairs->n][0] = i, pairs->at[pairs->n++][1] = j;
        else
            pairs->left[pairs->n_left++] = a->paths[i];
    }
    for (int j = 0; j < b->n; j++)
        if (partner(keys_b[j], keys_a, a->n) < 0)
            pairs->left[pairs->n_left++] = b->paths[j];
    return GIMBAL_OK;
}

static int match_recipes(Pairs *pairs, const Clips *a, const Clips *b, gimbal_error *err)
{
    char **keys_a = NULL, **keys_b = NULL;
    int code = recipe_keys(a, &keys_a, err);
    code = code ? code : recipe_keys(b, &keys_b, err);
    code = code ? code : match_keys(pairs, "recipe", a, keys_a, b, keys_b, err);
    free_keys(keys_a, a->n);
    free_keys(keys_b, b->n);
    return code;
}

static int match_order(Pairs *pairs, const Clips *a, const Clips *b, gimbal_error *err)
{
    TRY(pairs_room(pairs, "order", a, b, err));
    for (; pairs->n < a->n && pairs->n < b->n; pairs->n++)
        pairs->at[pairs->n][0] = pairs->at[pairs->n][1] = pairs->n;
    for (int i = pairs->n; i < a->n || i < b->n; i++)
        pairs->left[pairs->n_left++] = i < a->n ? a->paths[i] : b->paths[i];
    return GIMBAL_OK;
}

/* By name; by recipe where that leaves fewer clips alone. What names cannot do is told when recipes cannot
 * either. */
static int match_either(Pairs *pairs, const Clips *a, const Clips *b, gimbal_error *err)
{
    Pairs other = {0};
    gimbal_error why = {0}, why_other = {0};
    const int code = match_keys(pairs, "name", a, a->names, b, b->names, &why);
    if (!code && !pairs->n_left)
        return GIMBAL_OK;
    const int other_code = match_recipes(&other, a, b, &why_other);
    const bool better = !other_code && other.n && (code || other.n > pairs->n);
    if (better) {
        const Pairs swap = *pairs;
        *pairs = other, other = swap;
    }
    pairs_free(&other);
    return better || !code ? GIMBAL_OK : complain(err, code, why.hint, "%s", why.msg);
}

/* "a.mp4, b.mp4 and 3 more" */
static void list_left(const Pairs *pairs, char *out, size_t room)
{
    size_t used = 0;
    int i = 0;
    *out = 0;
    for (; i < pairs->n_left && used + strlen(pairs->left[i]) + 32 < room; i++)
        used += (size_t)snprintf(out + used, room - used, "%s%s", i ? ", " : "", pairs->left[i]);
    if (i < pairs->n_left)
        snprintf(out + used, room - used, "%s%d more", i ? " and " : "", pairs->n_left - i);
}

int pairs_make(Pairs *pairs, const Clips *a, const Clips *b, const char *by, bool partial, gimbal_error *err)
{
    char list[480];
    *pairs = (Pairs){0};
    if (!strcmp(by, "order"))
        TRY(match_order(pairs, a, b, err));
    else if (!strcmp(by, "name"))
        TRY(match_keys(pairs, "name", a, a->names, b, b->names, err));
    else if (!strcmp(by, "recipe"))
        TRY(match_recipes(pairs, a, b, err));
    else
        TRY(match_either(pairs, a, b, err));
    list_left(pairs, list, sizeof list);
    if (!pairs->n)
        return complain(err, GIMBAL_EUSAGE, "--by order pairs clips as they stand",
                        "no clip has a partner by %s: %s", pairs->by, list);
    if (pairs->n_left && !partial)
        return complain(err, GIMBAL_EUSAGE, "--partial compares the pairs there are",
                        "%d pair%s by %s, but %d clip%s %s no partner: %s", pairs->n,
                        pairs->n == 1 ? "" : "s", pairs->by, pairs->n_left, pairs->n_left == 1 ? "" : "s",
                        pairs->n_left == 1 ? "has" : "have", list);
    return GIMBAL_OK;
}
