/* image.c: the picture that generate --image begins from: read, fitted, moved by a camera, encoded.
 *
 *     FILE -> RGB8 [h][w][3] ─ fit ───> pixels [1][H][W][3] ─ encoder ─> first frame [C,1,h',w']
 *                            └ camera > pixels [F][H][W][3] ─ encoder ─> reference [C,F,h',w'], its frame 0
 *     --reference CLIP -> RGB8 [F][H][W][3] ───────────────── encoder ─> reference
 *
 * A picture is upright (EXIF), transparency lies over black, and of a moving one the first frame is taken;
 * the last two are said. A recipe keeps the path and the SHA-256 of "WxH\n" and the bytes of the picture.
 *
 * Refuses to know how pictures are fitted and cameras move (the library), and what a run does with them. */
#include "app/app.h"

#include <errno.h>
#include <math.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

/* ---- what contradicts -------------------------------------------------------------------- */

static bool moves(const Image *image)
{
    return image->camera && strcmp(image->camera, "none");
}

int image_check(const Image *image, gimbal_error *err)
{
    const char *alone = moves(image) ? "--camera" : image->fit ? "--fit" : NULL;
    if (alone && !image->path)
        return complain(err, GIMBAL_EUSAGE, "add --image FILE", "%s is for a picture, and none is given",
                        alone);
    if (moves(image) && image->fit)
        return complain(err, GIMBAL_EUSAGE, "leave --fit out",
                        "--fit and --camera both say how the picture is cut");
    if (moves(image) && image->latents)
        return complain(err, GIMBAL_EUSAGE, "leave --image-latents out",
                        "--camera encodes every frame itself, the first one too");
    if (moves(image) && image->reference)
        return complain(err, GIMBAL_EUSAGE, "leave one of them out",
                        "--camera and --reference both give FrameInit its low band");
    return GIMBAL_OK;
}

/* ---- reading ----------------------------------------------------------------------------- */

static int hash(const void *head, size_t head_size, const void *body, size_t body_size, char hex[65],
                gimbal_error *err)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    EVP_MD_CTX *cx = EVP_MD_CTX_new();
    const bool good =
        cx && EVP_DigestInit_ex(cx, EVP_sha256(), NULL) == 1 && EVP_DigestUpdate(cx, head, head_size) == 1 &&
        EVP_DigestUpdate(cx, body, body_size) == 1 && EVP_DigestFinal_ex(cx, digest, &n) == 1 && n == 32;
    EVP_MD_CTX_free(cx);
    if (!good)
        return complain(err, GIMBAL_ENOSUP, NULL, "SHA-256 cannot be computed by this machine's OpenSSL");
    for (int i = 0; i < 32; i++)
        snprintf(&hex[2 * i], 3, "%02x", digest[i]);
    return GIMBAL_OK;
}

static int hash_picture(Image *image, gimbal_error *err)
{
    char size[32];
    const int n = snprintf(size, sizeof size, "%dx%d\n", image->width, image->height);
    return hash(size, (size_t)n, image->rgb, 3 * (size_t)image->width * (size_t)image->height, image->sha256,
                err);
}

/* The file of a path that the camera follows, so that a recipe knows when it is another one. */
static int hash_camera(Image *image, gimbal_error *err)
{
    static const char prefix[] = "path:";
    enum { MOST = 1 << 20 };
    if (!moves(image) || strncmp(image->camera, prefix, sizeof prefix - 1))
        return GIMBAL_OK;
    const char *path = image->camera + sizeof prefix - 1;
    FILE *file = fopen(path, "rb");
    const int reason = errno;
    if (!file)
        return complain(err, GIMBAL_EIO, NULL, "--camera %s: %s", path, strerror(reason));
    char *text = malloc(MOST);
    const size_t n = text ? fread(text, 1, MOST, file) : 0;
    const bool failed = ferror(file);
    fclose(file);
    int code = text ? GIMBAL_OK : fail_memory(err);
    if (!code && (failed || n == MOST))
        code = complain(err, failed ? GIMBAL_EIO : GIMBAL_EFORMAT, NULL, "--camera %s: %s", path,
                        failed ? "cannot be read" : "larger than a megabyte");
    code = code ? code : hash("", 0, text, n, image->camera_sha256, err);
    free(text);
    return code;
}

/* What people may not expect of their file. */
static int say_odd(const char *path, media_reader *reader, const media_info *info, gimbal_error *err)
{
    gimbal_error ignored = {0};
    if (media_transparent(reader))
        fprintf(stderr, "gimbal: note: %s is partly transparent: it lies over black\n", path);
    uint8_t *next = malloc(3 * (size_t)info->width * (size_t)info->height);
    if (!next)
        return fail_memory(err);
    const int got = media_get(reader, next, &ignored);
    free(next);
    if (got > 0)
        fprintf(stderr, "gimbal: note: %s holds several pictures: the first one is taken\n", path);
    return GIMBAL_OK;
}

static int read_picture(Image *image, bool quiet, gimbal_error *err)
{
    media_reader *reader;
    media_info info;
    TRY(media_open(&reader, image->path, &info, err));
    image->width = info.width, image->height = info.height;
    image->rgb = malloc(3 * (size_t)info.width * (size_t)info.height);
    int code = image->rgb ? media_get(reader, image->rgb, err) : fail_memory(err);
    if (!code)
        code = complain(err, GIMBAL_EFORMAT, NULL, "--image %s: no picture in it", image->path);
    if (code > 0)
        code = quiet ? GIMBAL_OK : say_odd(image->path, reader, &info, err);
    media_free(reader);
    return code;
}

/* The recipe's picture has to be what it was; one that a flag names may be another. */
static int check_same(const char *what, const char *path, const char *was, const char *is, gimbal_error *err)
{
    if (!was || !strcmp(was, is))
        return GIMBAL_OK;
    return complain(err, GIMBAL_EFORMAT, "give it with the flag to take it as it is now",
                    "%s %s: has changed since the clip was made (SHA-256 %.12s..., was %.12s...)", what, path,
                    is, was);
}

int image_open(Image *image, bool quiet, gimbal_error *err)
{
    TRY(image_check(image, err));
    if (!image->path)
        return GIMBAL_OK;
    TRY(read_picture(image, quiet, err));
    TRY(hash_picture(image, err));
    TRY(hash_camera(image, err));
    TRY(check_same("--image", image->path, image->was_sha256, image->sha256, err));
    return check_same("--camera", image->camera, image->was_camera_sha256, image->camera_sha256, err);
}

void image_free(Image *image)
{
    free(image->rgb);
    free(image->pixels);
    free(image->clip);
    json_decref(image->recipe);
    *image = (Image){0};
}

/* ---- fitting ----------------------------------------------------------------------------- */

static int move_camera(Image *image, int width, int height, int frames, bool quiet, gimbal_error *err)
{
    int clamped = 0;
    TRY(gimbal_camera(image->camera, image->rgb, image->width, image->height, width, height, frames,
                      image->pixels, NULL, &clamped, err));
    if (clamped && !quiet)
        fprintf(stderr,
                "gimbal: warning: --camera %s: %d of %d frames would leave the picture and are held at its "
                "edge\n",
                image->camera, clamped, frames);
    return GIMBAL_OK;
}

int image_fit(Image *image, int width, int height, int frames, bool quiet, gimbal_error *err)
{
    if (image->rgb && !image->latents) {
        const int n = moves(image) ? frames : 1;
        image->pixels = calloc((size_t)n * 3 * (size_t)width * (size_t)height, sizeof(float));
        if (!image->pixels)
            return fail_memory(err);
        image->n = n;
        if (moves(image))
            TRY(move_camera(image, width, height, frames, quiet, err));
        else
            TRY(gimbal_fit(image->rgb, image->width, image->height, image->fit ? image->fit : "crop", width,
                           height, image->pixels, err));
    }
    return image->reference
               ? video_read("--reference", image->reference, width, height, frames, &image->clip, err)
               : GIMBAL_OK;
}

uint64_t image_bytes(const Image *image, int width, int height, int frames)
{
    const uint64_t picture = 3 * (uint64_t)width * (uint64_t)height;
    const uint64_t fitted = image->rgb && !image->latents ? moves(image) ? (uint64_t)frames : 1 : 0;
    return picture * (fitted * sizeof(float) + (image->reference ? (uint64_t)frames : 0));
}

bool image_begins(const Image *image)
{
    return image->path || image->latents;
}

bool image_refers(const Image *image)
{
    return image->reference || moves(image);
}

/* ---- encoding ---------------------------------------------------------------------------- */

/* Frame 0 of [C,F,h,w] -> [C,1,h,w]. */
static void first_of(const float *clip, gimbal_shape s, float *first)
{
    const size_t plane = (size_t)s.h * (size_t)s.w;
    for (size_t c = 0; c < (size_t)s.c; c++)
        memcpy(first + c * plane, clip + c * plane * (size_t)s.f, plane * sizeof *first);
}

int image_encode(const Image *image, gimbal_session *session, int width, int height, gimbal_shape s,
                 float *first, float *reference, gimbal_error *err)
{
    if (image->n == 1)
        TRY(gimbal_encode_pixels(session, image->pixels, width, height, 1, 1, first, err));
    if (image->n > 1) {
        TRY(gimbal_encode_pixels(session, image->pixels, width, height, image->n, 1, reference, err));
        first_of(reference, s, first);
    }
    return image->clip ? gimbal_encode(session, image->clip, width, height, s.f, 0, reference, err)
                       : GIMBAL_OK;
}

/* ---- the camera's clip ------------------------------------------------------------------- */

static int put_frames(const Image *image, Output *out, int width, int height, gimbal_error *err)
{
    const size_t n = 3 * (size_t)width * (size_t)height;
    uint8_t *rgb = malloc(n);
    int code = rgb ? GIMBAL_OK : fail_memory(err);
    for (int f = 0; !code && f < image->n; f++) {
        for (size_t i = 0; i < n; i++)
            rgb[i] = (uint8_t)lrintf((image->pixels[(size_t)f * n + i] + 1) * 127.5f);
        code = output_put(out, rgb, err);
    }
    free(rgb);
    return code ? code : output_close(out, err);
}

int image_preview(const Image *image, const char *path, int width, int height, double fps, gimbal_error *err)
{
    Output out;
    if (image->n < 2)
        return complain(err, GIMBAL_EUSAGE, "add --image FILE --camera pan-right",
                        "--camera-preview %s: no camera moves", path);
    TRY(output_open(&out, path, width, height, image->n, fps, NULL, err));
    const int code = put_frames(image, &out, width, height, err);
    output_drop(&out);
    return code;
}

/* ---- recipes ----------------------------------------------------------------------------- */

static int put_text(json_t *recipe, const char *key, const char *text)
{
    return text && *text ? json_object_set_new(recipe, key, json_text(text)) : 0;
}

int image_to_recipe(const Image *image, json_t *recipe)
{
    int failed = put_text(recipe, "image", image->path);
    failed |= put_text(recipe, "image-sha256", image->sha256);
    failed |= put_text(recipe, "fit", image->path && !moves(image) ? image->fit ? image->fit : "crop" : NULL);
    failed |= put_text(recipe, "camera", moves(image) ? image->camera : NULL);
    failed |= put_text(recipe, "camera-sha256", image->camera_sha256);
    failed |= put_text(recipe, "image-latents", image->latents);
    failed |= put_text(recipe, "reference", image->reference);
    return failed ? -1 : 0;
}

static const char *text_of(const Image *image, const char *key)
{
    return json_string_value(json_object_get(image->recipe, key));
}

void image_from_recipe(Image *image, const json_t *recipe)
{
    image->recipe = json_incref((json_t *)recipe);
    if (!image->latents && !image->path)
        image->latents = text_of(image, "image-latents");
    if (!image->reference)
        image->reference = text_of(image, "reference");
    if (!image->camera && !image->fit) {
        image->camera = text_of(image, "camera");
        image->was_camera_sha256 = text_of(image, "camera-sha256");
        image->fit = text_of(image, "fit");
    }
    if (!image->path) {
        image->path = text_of(image, "image");
        image->was_sha256 = text_of(image, "image-sha256");
    }
}
