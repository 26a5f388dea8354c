/* format.c: the output formats, names with a number in them, and the checks that come before any work.
 *
 * Every format takes rgb24 [height][width][3]. Colour: mp4 is BT.709, limited range, and says so; y4m has no
 * place to say it and is BT.601, limited range, which is what readers assume of it; gif and png stay RGB.
 * Encoders run on one thread and without time stamps or version strings of the container, so that the same
 * pictures give the same bytes on any machine with the same libraries.
 *
 * Refuses to know how frames are made or read back. */
#include "media/ffmpeg.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>

/* Constant quality 16 is close to transparent; the container keeps its index in front, so that clips start to
 * play while they load. */
static const Format format_mp4 = {
    .show = {".mp4", "H.264, 4:2:0, plays everywhere", 1},
    .muxer = "mp4",
    .encoder = "libx264",
    .encoder_options = "crf=16:preset=medium",
    .muxer_options = "movflags=+faststart",
    .graph = "scale=out_color_matrix=bt709:out_range=limited:flags=bicubic+accurate_rnd+full_chroma_int,"
             "format=yuv420p",
    .even = true,
    .bt709 = true,
    .max_fps = 1000,
    .fixed = 2.5e6,
    .per_pixel = 12,
    .per_frame_pixel = 4.3,
    .held = 52, /* x264's lookahead and references */
};

/* One palette for the whole clip and ordered dithering: a still background stays still, which error diffusion
 * would not leave so. Delays are whole hundredths of a second, and viewers slow anything under two of them
 * down. */
static const Format format_gif = {
    .show = {".gif", "256 colours, one palette for the whole clip, loops forever", 0},
    .muxer = "gif",
    .encoder = "gif",
    .muxer_options = "loop=0",
    .graph = "split[a][b];[a]palettegen=reserve_transparent=0[p];[b][p]paletteuse=dither=bayer:bayer_scale=3",
    .max_fps = 50,
    .fixed = 34e6, /* tables of colours */
    .per_pixel = 6,
    .per_frame_pixel = 4.3,
};

static const Format format_y4m = {
    .show = {".y4m", "uncompressed 4:4:4, for tools that measure", 0},
    .muxer = "yuv4mpegpipe",
    .encoder = "wrapped_avframe",
    .graph = "scale=out_color_matrix=bt601:out_range=limited:flags=bicubic+accurate_rnd+full_chroma_int,"
             "format=yuv444p",
    .max_fps = 1000,
    .fixed = 0.3e6,
    .per_pixel = 10,
};

static const Format format_png = {
    .show = {".png", "one picture, or f%03d.png: a sequence numbered from 0", 0},
    .encoder = "png",
    .graph = "format=rgb24",
    .max_fps = 1000,
    .fixed = 0.6e6,
    .per_pixel = 5,
};

#define FORMAT_REF(name) &format_##name,
static const Format *const formats[] = {FORMATS(FORMAT_REF)};

const media_format *media_format_at(int i)
{
    return i >= 0 && i < COUNT(formats) ? &formats[i]->show : NULL;
}

static const char *ending_at(const void *list, int i)
{
    return ((const Format *const *)list)[i]->show.ending;
}

static const char *file_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

int format_find(const Format **out, const char *path, gimbal_error *err)
{
    const char *dot = strrchr(file_part(path), '.');
    char known[128] = "";
    for (int i = 0; i < COUNT(formats); i++) {
        if (dot && !strcasecmp(dot, formats[i]->show.ending)) {
            *out = formats[i];
            return GIMBAL_OK;
        }
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "",
                 formats[i]->show.ending);
    }
    if (!dot)
        return fail_hint(err, GIMBAL_ENOSUP, "the ending decides the format: clip.mp4",
                         "%s: the name has no ending; this build writes %s", path, known);
    const char *near = nearest_name(dot, ending_at, formats, COUNT(formats));
    char hint[64] = "";
    if (near)
        snprintf(hint, sizeof hint, "did you mean %s?", near);
    return fail_hint(err, GIMBAL_ENOSUP, hint, "%s: cannot write %s; this build writes %s", path, dot, known);
}

/* ---- names ------------------------------------------------------------------------------- */

int name_parse(Name *name, const char *path, gimbal_error *err)
{
    const char *percent = strchr(file_part(path), '%');
    memset(name, 0, sizeof *name);
    if (strlen(path) >= PATH_ROOM - 32) /* room for the number and the temporary file's ending */
        return fail(err, GIMBAL_EUSAGE, "a path of %zu bytes is too long (at most %d)", strlen(path),
                    PATH_ROOM - 33);
    if (!percent) {
        strcpy(name->head, path);
        return GIMBAL_OK;
    }
    const char *after = percent + 1;
    name->sequence = true;
    name->digits = 1;
    if (after[0] == '0' && after[1] >= '1' && after[1] <= '9')
        name->digits = after[1] - '0', after += 2;
    if (*after != 'd' || strchr(after, '%'))
        return fail_hint(err, GIMBAL_EUSAGE, "write a picture sequence as f%03d.png",
                         "%s: a name may hold one %%d or %%01d to %%09d and no other %%", path);
    memcpy(name->head, path, (size_t)(percent - path));
    strcpy(name->tail, after + 1);
    return GIMBAL_OK;
}

int name_at(const Name *name, int i, char out[PATH_ROOM], gimbal_error *err)
{
    const int n = name->sequence
                      ? snprintf(out, PATH_ROOM, "%s%0*d%s", name->head, name->digits, i, name->tail)
                      : snprintf(out, PATH_ROOM, "%s", name->head);
    if (n < 0 || n >= PATH_ROOM)
        return fail(err, GIMBAL_EUSAGE, "%s%d%s: the path is too long", name->head, i, name->tail);
    return GIMBAL_OK;
}

int name_sidecar(const Name *name, char out[PATH_ROOM], gimbal_error *err)
{
    const char *stem = *file_part(name->head) ? "" : "frames"; /* of folder/%03d.png: no hidden file */
    if (snprintf(out, PATH_ROOM, "%s%s%s.json", name->head, stem, name->tail) >= PATH_ROOM)
        return fail(err, GIMBAL_EUSAGE, "%s%s: the path is too long", name->head, name->tail);
    return GIMBAL_OK;
}

/* ---- FFmpeg's voice ---------------------------------------------------------------------- */

void quiet_ffmpeg(void)
{
    av_log_set_level(AV_LOG_QUIET);
}

int fail_av(gimbal_error *err, int averror, const char *path, const char *doing)
{
    char reason[AV_ERROR_MAX_STRING_SIZE];
    av_strerror(averror, reason, sizeof reason);
    const int system = AVUNERROR(averror);
    const int code = averror == AVERROR(ENOMEM)                        ? GIMBAL_ENOMEM
                     : system > 0 && system < 4096 && system != EINVAL ? GIMBAL_EIO
                                                                       : GIMBAL_EFORMAT;
    return fail(err, code, "%s: %s: %s", path, doing, reason);
}

/* ---- checks before any work -------------------------------------------------------------- */

/* Is there a folder that takes new files, and no folder where the file should be? */
static int check_place(const char *path, gimbal_error *err)
{
    char folder[PATH_ROOM];
    const size_t n = (size_t)(file_part(path) - path);
    memcpy(folder, path, n);
    folder[n] = 0;
    if (!n)
        strcpy(folder, ".");
    if (!is_folder(folder))
        return fail_hint(err, GIMBAL_EIO, "create it first", "%s: the folder %s does not exist", path,
                         folder);
    if (is_folder(path))
        return fail_hint(err, GIMBAL_EIO, "give the name of a file", "%s: is a folder", path);
    if (access(folder, W_OK | X_OK))
        return fail(err, GIMBAL_EIO, "%s: the folder %s cannot be written: %s", path, folder,
                    strerror(errno));
    return GIMBAL_OK;
}

static int check_libraries(const Format *format, const char *path, gimbal_error *err)
{
    if (!avcodec_find_encoder_by_name(format->encoder))
        return fail_hint(err, GIMBAL_ENOSUP,
                         "install a build of libavcodec that has it, or choose another ending",
                         "%s: FFmpeg's libraries here have no encoder %s", path, format->encoder);
    if (format->muxer && !av_guess_format(format->muxer, NULL, NULL))
        return fail_hint(err, GIMBAL_ENOSUP, "choose another ending",
                         "%s: FFmpeg's libraries here cannot write %s", path, format->muxer);
    return GIMBAL_OK;
}

int media_check(const char *path, int width, int height, double fps, gimbal_error *err)
{
    const Format *format;
    Name name;
    char first[PATH_ROOM];
    if (!path || !*path)
        return fail(err, GIMBAL_EUSAGE, "the output's name is empty");
    TRY(format_find(&format, path, err));
    if (width < 1 || height < 1 || width > MAX_SIDE || height > MAX_SIDE)
        return fail(err, GIMBAL_EUSAGE, "%s: pictures of %dx%d pixels cannot be written (1 to %d each way)",
                    path, width, height, MAX_SIDE);
    if (!(fps > 0 && fps <= format->max_fps))
        return fail(err, GIMBAL_EUSAGE, "%s: %g frames per second: %s takes more than 0, at most %g", path,
                    fps, format->show.ending, format->max_fps);
    TRY(name_parse(&name, path, err));
    if (format->muxer && name.sequence)
        return fail_hint(err, GIMBAL_EUSAGE, "numbers in the name are for picture sequences: f%03d.png",
                         "%s: a %s file holds the whole clip, its name takes no %%", path,
                         format->show.ending);
    TRY(check_libraries(format, path, err));
    TRY(name_at(&name, 0, first, err));
    return check_place(first, err);
}

uint64_t media_bytes(const char *path, int width, int height, int frames)
{
    const Format *format;
    if (!path || width < 1 || height < 1 || frames < 1 || format_find(&format, path, NULL))
        return 0;
    const double pixels = (double)width * height;
    const int held = format->held ? MIN(frames, format->held) : frames;
    return (uint64_t)(format->fixed + (format->per_pixel + format->per_frame_pixel * held) * pixels);
}
