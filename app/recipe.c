/* recipe.c: models, latents and recipes in and out of files, for every subcommand.
 *
 * Latents in files are unit noise, [1,4,F,h,w] float32. A recipe is the library's line of JSON with three
 * keys of the program's beside it: "fps", and the paths "latents" and "reinit-noise" when tensors came from
 * files. So is "video", the clip that a run begins from. Refuses to know how
 * clips are made. */
#include "app/app.h"

#include <stdlib.h>
#include <string.h>

int open_model(gimbal_engine **out, const char *model, const char *motion, bool no_mmap, bool quiet,
               gimbal_error *err)
{
    *out = NULL;
    if (!model)
        return complain(err, GIMBAL_EUSAGE, "a folder in diffusers layout, e.g. models/toyworld",
                        "--model is missing");
    signals_nothing_begun(true);
    const int code = gimbal_open_with(out, model, motion, no_mmap ? GIMBAL_NO_MMAP : 0, err);
    signals_nothing_begun(false);
    TRY(code);
    for (int i = 0; !quiet && gimbal_note(*out, i); i++)
        fprintf(stderr, "gimbal: note: %s\n", gimbal_note(*out, i));
    return GIMBAL_OK;
}

int warn_truncated(const gimbal_engine *engine, const char *what, const char *text, gimbal_error *err)
{
    int32_t ids[77];
    int dropped = 0;
    TRY(gimbal_tokenize(engine, text, ids, &dropped, err));
    if (dropped > 0)
        fprintf(stderr,
                "gimbal: warning: the %s is too long for the text encoder: its last %d tokens were dropped\n",
                what, dropped);
    return GIMBAL_OK;
}

/* ---- latents ----------------------------------------------------------------------------- */

int latents_read(const char *path, const char *tensor, float **out, gimbal_shape *shape, gimbal_error *err)
{
    int64_t n[6];
    TRY(gimbal_tensor_read(path, tensor, out, n, err));
    bool fits = n[0] == 1 && n[1] == 1;
    for (int i = 2; i < 6; i++)
        fits = fits && n[i] > 0 && n[i] < 1 << 20;
    if (!fits) {
        free(*out);
        *out = NULL;
        return complain(
            err, GIMBAL_EFORMAT, NULL,
            "%s: tensor \"%s\" is [%lld,%lld,%lld,%lld,%lld], expected [1,channels,frames,height,width]",
            path, tensor, (long long)n[1], (long long)n[2], (long long)n[3], (long long)n[4],
            (long long)n[5]);
    }
    *shape = (gimbal_shape){(int)n[2], (int)n[3], (int)n[4], (int)n[5]};
    return GIMBAL_OK;
}

int latents_write(const char *path, const float *latents, gimbal_shape s, const char *recipe,
                  gimbal_error *err)
{
    const gimbal_tensor tensor = {"latents", "F32", 5, {1, s.c, s.f, s.h, s.w}, latents};
    const char *metadata[] = {"recipe", recipe, NULL};
    TRY(check_fault(err));
    return gimbal_tensors_write(path, &tensor, 1, recipe ? metadata : NULL, err);
}

/* ---- recipes ----------------------------------------------------------------------------- */

json_t *recipe_make(const gimbal_engine *engine, const gimbal_settings *settings, double fps,
                    const char *latents, const char *reinit_noise, const char *video)
{
    char *text = gimbal_recipe_json(engine, settings);
    json_t *recipe = text ? json_loads(text, 0, NULL) : NULL;
    free(text);
    if (!recipe)
        return NULL;
    json_object_del(json_object_get(recipe, "settings"), "threads");
    if (!video)
        json_object_del(json_object_get(recipe, "settings"), "strength");
    int failed = json_object_set_new(recipe, "fps", json_real(fps));
    if (latents)
        failed |= json_object_set_new(recipe, "latents", json_text(latents));
    if (reinit_noise)
        failed |= json_object_set_new(recipe, "reinit-noise", json_text(reinit_noise));
    if (video)
        failed |= json_object_set_new(recipe, "video", json_text(video));
    if (failed) {
        json_decref(recipe);
        return NULL;
    }
    return recipe;
}

/* The header's metadata of a safetensors file, through the library's description of it. */
static int recipe_in_tensors(const char *path, char **text, gimbal_error *err)
{
    char *described;
    TRY(gimbal_describe(path, &described, err));
    json_t *root = json_loads(described, 0, NULL);
    free(described);
    const char *recipe = json_string_value(json_object_get(json_object_get(root, "metadata"), "recipe"));
    *text = recipe ? strdup(recipe) : NULL;
    json_decref(root);
    return recipe && !*text ? fail_memory(err) : GIMBAL_OK;
}

int recipe_read(const char *path, char **text, gimbal_error *err)
{
    *text = NULL;
    return ends_with(path, ".safetensors") ? recipe_in_tensors(path, text, err)
                                           : media_recipe(path, text, err);
}
