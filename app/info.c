/* info.c: gimbal info: what a path is: a model folder, a safetensors file, or a clip with its recipe.
 *
 * Refuses to know file formats: models are the library's to describe, clips media.h's. */
#include "app/app.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct {
    int json;
} Flags;

static const gimbal_option options[] = {
    {"json", "one JSON object on stdout", GIMBAL_BOOL, offsetof(Flags, json), 0, 0, 1, NULL, NULL},
    {.name = NULL},
};

static bool is_folder(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

/* Weights are described by the library, which also says what is wrong with what it cannot read. */
static bool is_model(const char *path)
{
    static const char *const endings[] = {".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".json"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (ends_with(path, endings[i]))
            return true;
    return false;
}

static int describe_model(const char *path, json_t **out, gimbal_error *err)
{
    char *text;
    TRY(gimbal_describe(path, &text, err));
    *out = json_loads(text, 0, NULL);
    free(text);
    return *out ? GIMBAL_OK : fail_memory(err);
}

static int describe_clip(const char *path, json_t **out, gimbal_error *err)
{
    media_reader *reader;
    media_info info;
    char *text;
    TRY(media_open(&reader, path, &info, err));
    media_free(reader);
    TRY(media_recipe(path, &text, err));
    json_t *recipe = text ? json_loads(text, 0, NULL) : NULL;
    *out = json_pack("{s:s, s:o, s:s, s:i, s:i, s:o, s:i, s:o, s:o}", "kind", "clip", "path", json_text(path),
                     "format", info.format, "width", info.width, "height", info.height, "frames",
                     info.frames ? json_integer(info.frames) : json_null(), "orientation", info.orientation,
                     "fps", info.fps > 0 ? json_real(info.fps) : json_null(), "recipe",
                     recipe ? recipe : json_text(text));
    free(text);
    return *out ? GIMBAL_OK : fail_memory(err);
}

/* A folder is a model; one that is none, but holds pictures, is a clip. */
static int describe(const char *path, json_t **out, gimbal_error *err)
{
    media_reader *reader;
    if (!is_folder(path))
        return is_model(path) ? describe_model(path, out, err) : describe_clip(path, out, err);
    gimbal_error why = {0};
    if (!describe_model(path, out, &why))
        return GIMBAL_OK;
    if (!media_open(&reader, path, NULL, NULL)) {
        media_free(reader);
        return describe_clip(path, out, err);
    }
    return complain(err, why.code, why.hint, "%s", why.msg);
}

/* A recipe kept as text in a safetensors file is shown as the object it is. */
static void open_recipe(json_t *root)
{
    json_t *metadata = json_object_get(root, "metadata");
    const char *text = json_string_value(json_object_get(metadata, "recipe"));
    json_t *recipe = text ? json_loads(text, 0, NULL) : NULL;
    if (recipe)
        json_object_set_new(metadata, "recipe", recipe);
}

static int run(const Args *args, gimbal_error *err)
{
    Flags flags = {0};
    json_t *root = NULL;
    TRY(args_apply(args, &flags, err));
    if (args->n_words != 1)
        return complain(err, GIMBAL_EUSAGE, "gimbal info PATH", "%d paths are given, expected one",
                        args->n_words);
    const char *path = args->words[0];
    TRY(describe(path, &root, err));
    open_recipe(root);
    if (flags.json) {
        json_object_set_new(root, "schema", json_integer(1));
        return print_json(root, err);
    }
    print_tree(root, 0, stdout);
    json_decref(root);
    return flush_stdout(err);
}

const Command command_info = {
    .name = "info",
    .usage = "info PATH [--json]",
    .help =
        "Says what a model folder, a safetensors file or a clip is; of a clip made here, the whole recipe.",
    .options = options,
    .run = run,
};
