/* format.c: the output formats, names with a number in them, and the checks that come before any work.
 *
 * Every format takes rgb24 [height][width][3]. Colour: mp4 and webm are BT.709, limited range, and say so;
 * y4m has no place to say it and is BT.601, limited range, which is what readers assume of it; jpg and avi
 * are BT.601, full range, which is what JPEG means; gif, png and webp stay RGB. Encoders run on one thread
 * and without time stamps or version strings of the container, so that the same pictures give the same bytes
 * on any machine with the same libraries.
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

#define YUV(matrix, range, format)                                                                           \
    "scale=out_color_matrix=" matrix ":out_range=" range                                                     \
    ":flags=bicubic+accurate_rnd+full_chroma_int,format=" format

/* Constant quality 16 is close to transparent; the container keeps its index in front, so that clips start to
 * play while they load. */
static const Format format_mp4 = {
    .show = {".mp4", "H.264, 4:2:0, plays everywhere", 1, 0},
    .muxer = "mp4",
    .encoder = "libx264",
    .encoder_options = "crf=16:preset=medium",
    /* With AVX-512, macroblock trees and B-frames, Debian 12's x264 reads uninitialised memory at many widths
     * (72, 134): its bytes then depend on the heap. AVX2 is as fast here. */
    .wide_options = "x264-params=asm=avx2",
    .muxer_options = "movflags=+faststart",
    .graph = YUV("bt709", "limited", "yuv420p"),
    .even = true,
    .bt709 = true,
    .max_fps = 1000,
    .fixed = 4e6,
    .per_pixel = 32,
    .per_frame_pixel = 4.3,
    .held = 52, /* x264's lookahead and references */
};

/* One palette for the whole clip and ordered dithering: a still background stays still, which error diffusion
 * would not leave so. Delays are whole hundredths of a second, and viewers slow anything under two of them
 * down. */
static const Format format_gif = {
    .show = {".gif", "256 colours, one palette for the whole clip, loops forever", 0, 0},
    .muxer = "gif",
    .encoder = "gif",
    .muxer_options = "loop=0",
    .graph = "split[a][b];[a]palettegen=reserve_transparent=0[p];[b][p]paletteuse=dither=bayer:bayer_scale=3",
    .max_fps = 50,
    .fixed = 37e6, /* tables of colours */
    .per_pixel = 21,
    .per_frame_pixel = 4.3,
};

static const Format format_y4m = {
    .show = {".y4m", "uncompressed 4:4:4, for tools that measure", 0, 0},
    .muxer = "yuv4mpegpipe",
    .encoder = "wrapped_avframe",
    .graph = YUV("bt601", "limited", "yuv444p"),
    .max_fps = 1000,
    .fixed = 0.3e6,
    .per_pixel = 10,
};

/* VP9 at constant quality. One thread, no row threads and one column of tiles: the bytes do not depend on the
 * machine's cores. Quality 8 is as close as our
 * H.264 (PSNR of toyworld's clips) in four fifths of its bytes. */
static const Format format_webm = {
    .show = {".webm", "VP9, 4:2:0, free of patents, for the web", 1, 0},
    .muxer = "webm",
    .encoder = "libvpx-vp9",
    .encoder_options =
        "crf=8:b=0:deadline=good:cpu-used=2:row-mt=0:tile-columns=0:tile-rows=0:lag-in-frames=25:"
        "auto-alt-ref=1",
    .graph = YUV("bt709", "limited", "yuv420p"),
    .even = true,
    .bt709 = true,
    .max_fps = 1000,
    .fixed = 19.5e6,
    .per_pixel = 155, /* libvpx takes the whole lookahead at once */
};

/* Motion JPEG, not MPEG-4: Windows, OpenCV, MATLAB and ImageJ read it in an AVI without another codec, every
 * picture stands alone, so that it cuts anywhere, and the codec neither hides flicker nor adds its own. */
static const Format format_avi = {
    .show = {".avi", "Motion JPEG, 4:2:0, for editors and laboratory programs", 1, 0},
    .muxer = "avi",
    .encoder = "mjpeg",
    .encoder_options = "flags=+qscale:global_quality=236", /* 2 * FF_QP2LAMBDA: near the best of 1 to 31 */
    .graph = YUV("bt601", "full", "yuvj420p"),
    .even = true,
    .max_fps = 1000,
    .fixed = 0.9e6,
    .per_pixel = 14,
};

static const Format format_png = {
    .show = {".png", "one picture, or f%03d.png: a sequence numbered from 0", 0, 1},
    .encoder = "png",
    .graph = "format=rgb24",
    .max_fps = 1000,
    .fixed = 0.6e6,
    .per_pixel = 9,
};

/* JFIF says BT.601, full range; chroma is kept whole. */
static const Format format_jpg = {
    .show = {".jpg", "one picture, or f%03d.jpg: a sequence numbered from 0; nearly lossless 4:4:4", 0, 1},
    .encoder = "mjpeg",
    .encoder_options = "flags=+qscale:global_quality=236",
    .graph = YUV("bt601", "full", "yuvj444p"),
    .max_fps = 1000,
    .fixed = 1e6,
    .per_pixel = 21,
};

/* Lossless: mp4 and webm are there for small files. Opaque pictures have nothing under transparent pixels, so
 * that FFmpeg's default of not keeping it costs nothing. */
static const Format format_webp = {
    .show = {".webp", "animated WebP, lossless, loops forever, for web pages", 0, 0},
    .muxer = "webp",
    .encoder = "libwebp_anim",
    .encoder_options = "lossless=1:compression_level=4:quality=75",
    .muxer_options = "loop=0",
    .graph = "format=bgra",
    .max_fps = 1000,
    .fixed = 7e6,
    .per_pixel = 34,
    .per_frame_pixel = 3.5,
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

static bool has_encoder(const Format *format)
{
    return avcodec_find_encoder_by_name(format->encoder);
}

static bool has_muxer(const Format *format)
{
    return !format->muxer || av_guess_format(format->muxer, NULL, NULL);
}

/* The endings that these libraries can write, ".mp4, .gif". */
static const char *known_endings(char *text, size_t room)
{
    size_t n = 0;
    text[0] = 0;
    for (int i = 0; i < COUNT(formats) && n < room; i++)
        if (has_encoder(formats[i]) && has_muxer(formats[i]))
            n += (size_t)snprintf(text + n, room - n, "%s%s", n ? ", " : "", formats[i]->show.ending);
    return text;
}

int format_find(const Format **out, const char *path, gimbal_error *err)
{
    const char *dot = strrchr(file_part(path), '.');
    char known[160], hint[64] = "";
    for (int i = 0; i < COUNT(formats); i++)
        if (dot && !strcasecmp(dot, formats[i]->show.ending)) {
            *out = formats[i];
            return GIMBAL_OK;
        }
    known_endings(known, sizeof known);
    if (!dot)
        return fail_hint(err, GIMBAL_ENOSUP, "the ending decides the format: clip.mp4",
                         "%s: the name has no ending; this build writes %s", path, known);
    const char *near = nearest_name(dot, ending_at, formats, COUNT(formats));
    if (near)
        snprintf(hint, sizeof hint, "did you mean %s?", near);
    return fail_hint(err, GIMBAL_ENOSUP, hint, "%s: cannot write %s; this build writes %s", path, dot, known);
}

int format_check(const Format *format, const char *path, gimbal_error *err)
{
    const bool encoder = has_encoder(format);
    char known[160];
    if (encoder && has_muxer(format))
        return GIMBAL_OK;
    return fail_hint(err, GIMBAL_ENOSUP,
                     "install a build of FFmpeg's libraries that has it, or choose another ending",
                     "%s: FFmpeg's libraries here have no %s %s; with them this build writes %s", path,
                     encoder ? "container" : "encoder", encoder ? format->muxer : format->encoder,
                     known_endings(known, sizeof known));
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
    TRY(format_check(format, path, err));
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
