/* measure_frames.c: the pictures of a clip one by one, from media.h or from a tensor in a safetensors file.
 *
 * The tensor is what generate -o x.safetensors writes: "frames" U8 [F,H,W,3]. Its header is checked here,
 * against the size of the file; then pictures are read as they are wanted, so that a long clip needs no more
 * memory than a short one. Refuses to know what the pictures are for. */
#include "app/measure.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { HEADER_LIMIT = 16 << 20, MOST_SIDE = 16384 };

static int not_frames(const char *path, const char *found, gimbal_error *err)
{
    return complain(err, GIMBAL_EFORMAT, "gimbal generate -o x.safetensors writes such files",
                    "%s: %s, expected a safetensors file with \"frames\" U8 [frames,height,width,3]", path,
                    found);
}

/* The header's JSON; NULL after complain(). *data: where the tensors' bytes begin. */
static json_t *read_header(Frames *f, int64_t size, int64_t *data, gimbal_error *err)
{
    uint8_t head[8];
    uint64_t n = 0;
    if (size < 10 || fread(head, 1, 8, f->file) != 8) {
        not_frames(f->path, "too short for a header", err);
        return NULL;
    }
    for (int i = 7; i >= 0; i--)
        n = n << 8 | head[i];
    if (n > HEADER_LIMIT || (int64_t)n > size - 8) {
        not_frames(f->path, "no header that fits", err);
        return NULL;
    }
    char *text = malloc((size_t)n + 1);
    json_t *root = NULL;
    if (!text)
        fail_memory(err);
    else if (fread(text, 1, (size_t)n, f->file) != n ||
             !(root = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, NULL)))
        not_frames(f->path, "no header", err);
    free(text);
    *data = 8 + (int64_t)n;
    return root;
}

static int64_t item(const json_t *list, size_t i)
{
    const json_t *value = json_array_get(list, i);
    return json_is_integer(value) ? json_integer_value(value) : -1;
}

/* Shape and place of the tensor, against each other and the file's size. */
static int check_frames(Frames *f, const json_t *frames, int64_t data, int64_t size, gimbal_error *err)
{
    const json_t *shape = json_object_get(frames, "shape"), *place = json_object_get(frames, "data_offsets");
    const char *type = json_string_value(json_object_get(frames, "dtype"));
    const int64_t n = item(shape, 0), h = item(shape, 1), w = item(shape, 2), from = item(place, 0),
                  to = item(place, 1);
    if (!frames)
        return not_frames(f->path, "no tensor \"frames\"", err);
    if (!type || strcmp(type, "U8") || json_array_size(shape) != 4 || item(shape, 3) != 3)
        return not_frames(f->path, "\"frames\" of another type or shape", err);
    if (n < 1 || n > INT32_MAX || h < 1 || w < 1 || h > MOST_SIDE || w > MOST_SIDE)
        return not_frames(f->path, "\"frames\" of an impossible size", err);
    if (from < 0 || to < from || to > size - data || (to - from) / (3 * h * w) != n ||
        (to - from) % (3 * h * w))
        return not_frames(f->path, "\"frames\" whose bytes are not all there", err);
    f->info = (media_info){.width = (int)w,
                           .height = (int)h,
                           .file_width = (int)w,
                           .file_height = (int)h,
                           .frames = (int)n,
                           .orientation = 1,
                           .format = "safetensors"};
    f->left = (int)n;
    return fseeko(f->file, (off_t)(data + from), SEEK_SET) ? not_frames(f->path, "cannot be read", err)
                                                           : GIMBAL_OK;
}

static int open_tensors(Frames *f, gimbal_error *err)
{
    struct stat st;
    int64_t data = 0;
    f->file = fopen(f->path, "rb");
    if (!f->file || fstat(fileno(f->file), &st) || !S_ISREG(st.st_mode))
        return complain(err, GIMBAL_EIO, NULL, "%s: no such file", f->path);
    json_t *root = read_header(f, st.st_size, &data, err);
    if (!root)
        return err->code;
    const int code = check_frames(f, json_object_get(root, "frames"), data, st.st_size, err);
    json_decref(root);
    return code;
}

int frames_open(Frames *f, const char *path, gimbal_error *err)
{
    *f = (Frames){.path = path};
    const int code =
        ends_with(path, ".safetensors") ? open_tensors(f, err) : media_open(&f->media, path, &f->info, err);
    if (code)
        frames_close(f);
    return code;
}

int frames_get(Frames *f, uint8_t *rgb, gimbal_error *err)
{
    if (f->media)
        return media_get(f->media, rgb, err);
    const size_t n = 3 * (size_t)f->info.width * (size_t)f->info.height;
    if (!f->left)
        return 0;
    f->left--;
    return fread(rgb, 1, n, f->file) == n
               ? 1
               : complain(err, GIMBAL_EIO, NULL, "%s: cannot be read to its end", f->path);
}

void frames_close(Frames *f)
{
    if (f->file)
        fclose(f->file);
    media_free(f->media);
    f->file = NULL, f->media = NULL;
}
