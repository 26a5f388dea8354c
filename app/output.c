/* output.c: where pictures go: through media.h into a clip, or as a tensor "frames" U8 [F,H,W,3] into a
 * safetensors file. Both appear whole or not at all and carry the recipe.
 *
 * Refuses to know where pictures come from. */
#include "app/app.h"

#include <stdlib.h>
#include <string.h>

static bool is_tensors(const char *path)
{
    return ends_with(path, ".safetensors");
}

int output_check(const char *path, double fps, gimbal_error *err)
{
    enum { ANY_SIZE = 16 };
    if (!is_tensors(path)) {
        const int code = media_check(path, ANY_SIZE, ANY_SIZE, fps, err);
        if (code == GIMBAL_ENOSUP && !err->hint[0])
            snprintf(err->hint, sizeof err->hint, "or .safetensors: the frames as a tensor");
        if (code)
            return code;
    }
    return check_place(path, err);
}

int output_fits(const char *path, int width, int height, int frames, double fps, gimbal_error *err)
{
    if (is_tensors(path))
        return GIMBAL_OK;
    if (frames > 1 && names_pictures(path) && !strchr(path, '%'))
        return complain(err, GIMBAL_EUSAGE, "name a sequence: f%03d.png",
                        "%s: one picture cannot hold %d frames", path, frames);
    return media_check(path, width, height, fps, err);
}

int output_open(Output *o, const char *path, int width, int height, int frames, double fps,
                const char *recipe, gimbal_error *err)
{
    *o = (Output){.path = path, .width = width, .height = height, .room = frames, .recipe = recipe};
    if (!is_tensors(path))
        return media_create(&o->media, path, width, height, fps, recipe, err);
    o->frames = calloc((size_t)frames * (size_t)height, 3 * (size_t)width);
    return o->frames ? GIMBAL_OK : fail_memory(err);
}

int output_put(Output *o, const uint8_t *rgb, gimbal_error *err)
{
    const size_t size = 3 * (size_t)o->width * (size_t)o->height;
    if (o->media)
        return media_put(o->media, rgb, err);
    if (o->count == o->room)
        return complain(err, GIMBAL_EUSAGE, NULL, "%s: more than %d frames", o->path, o->room);
    memcpy(o->frames + size * (size_t)o->count++, rgb, size);
    return GIMBAL_OK;
}

static int write_frames(const Output *o, gimbal_error *err)
{
    const gimbal_tensor frames = {"frames", "U8", 4, {o->count, o->height, o->width, 3}, o->frames};
    const char *metadata[] = {"recipe", o->recipe, NULL};
    return gimbal_tensors_write(o->path, &frames, 1, o->recipe ? metadata : NULL, err);
}

int output_close(Output *o, gimbal_error *err)
{
    int code = check_fault(err);
    if (code) {
        output_drop(o);
        return code;
    }
    code = o->media ? media_close(o->media, err) : write_frames(o, err);
    o->media = NULL; /* media_close has freed it */
    output_drop(o);
    return code;
}

void output_drop(Output *o)
{
    media_abort(o->media);
    free(o->frames);
    o->media = NULL;
    o->frames = NULL;
}

uint64_t output_bytes(const char *path, int width, int height, int frames)
{
    return is_tensors(path) ? 3 * (uint64_t)width * (uint64_t)height * (uint64_t)frames
                            : media_bytes(path, width, height, frames);
}
