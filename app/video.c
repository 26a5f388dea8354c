/* video.c: the clip that generate --video begins from, or --reference names, as RGB8 [F][H][W][3] of the
 * run's size.
 *
 * The first frames of the clip are taken, one for one, whatever rates clip and run have; every picture is
 * scaled to the run's width and height (Lanczos), as diffusers does. Where that changes its shape a note says
 * so, with a size that would not.
 *
 * Refuses to know latents and flags. */
#include "app/app.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Frames are counted by decoding them, for containers lie and many do not say; on pictures this small. */
enum { SMALL = 16 };

int video_look(const char *path, int most, media_info *info, gimbal_error *err)
{
    uint8_t small[SMALL * SMALL * 3];
    media_reader *reader;
    TRY(media_open_scaled(&reader, path, SMALL, SMALL, info, err));
    int n = 0, got = 1;
    while (n < most && (got = media_get(reader, small, err)) > 0)
        n++;
    media_free(reader);
    info->frames = n;
    if (got < 0)
        return got;
    return n ? GIMBAL_OK : complain(err, GIMBAL_EFORMAT, NULL, "--video %s: no picture in it", path);
}

int video_read(const char *flag, const char *path, int width, int height, int frames, uint8_t **rgb,
               gimbal_error *err)
{
    const size_t picture = 3 * (size_t)width * (size_t)height;
    media_reader *reader;
    *rgb = malloc(picture * (size_t)frames);
    if (!*rgb)
        return fail_memory(err);
    TRY(media_open_scaled(&reader, path, width, height, NULL, err));
    int n = 0, got = 1;
    while (n < frames && (got = media_get(reader, *rgb + (size_t)n * picture, err)) > 0)
        n++;
    media_free(reader);
    if (got < 0)
        return got;
    return n == frames ? GIMBAL_OK
                       : complain(err, GIMBAL_EUSAGE, "--frames decides how many are needed",
                                  "%s %s has %d frame%s, this run needs %d", flag, path, n, n == 1 ? "" : "s",
                                  frames);
}

/* As many pixels as the run has, in the clip's shape, both sides multiples of `step`. */
static void same_shape(const media_info *info, int width, int height, int step, int out[2])
{
    const double ratio = (double)info->file_width / info->file_height, area = (double)width * height;
    const long w = lround(sqrt(area * ratio) / step), h = lround(sqrt(area / ratio) / step);
    out[0] = step * (int)(w > 1 ? w : 1), out[1] = step * (int)(h > 1 ? h : 1);
}

void video_note_shape(const char *path, const media_info *info, int width, int height, int step)
{
    int better[2];
    const double was = log((double)info->file_width / info->file_height);
    same_shape(info, width, height, step, better);
    const double now = fabs(log((double)width / height) - was);
    if (now < 0.02 || now <= fabs(log((double)better[0] / better[1]) - was))
        return;
    fprintf(stderr,
            "gimbal: note: %s is %dx%d, its pictures are stretched to %dx%d; --width %d --height %d is "
            "nearer to their shape\n",
            path, info->file_width, info->file_height, width, height, better[0], better[1]);
}
