/* ffmpeg.h: what the files of this folder share: the table of output formats, names with a number in them,
 * and FFmpeg's error numbers as ours. Private to src/media.
 *
 *   format.c   the formats, names, the checks before any work
 *   write.c    media_writer: RGB -> filter graph -> encoder -> container -> staged file
 *   read.c     media_reader: file -> decoder -> RGB, and the recipe that a clip carries
 *   source.c   which files a path means: one, a numbered sequence, a folder's pictures
 *   pixels.c   a decoded picture -> RGB, upright, of the wanted size
 *   webp.c     animated WebP, which FFmpeg does not read
 *   whole.c    files that were cut short
 *   png.c      one picture as PNG in memory
 *
 * A format is data: everything between RGB pictures and bytes in a file is a filter graph, an encoder and a
 * container that FFmpeg has, so that a new format is one struct and one line. */
#ifndef MEDIA_FFMPEG_H
#define MEDIA_FFMPEG_H

#include "base/base.h"
#include "media/media.h"

#include <libavformat/avformat.h>
#include <libavutil/frame.h>

typedef struct {
    media_format show;
    const char *muxer;                           /* NULL: every packet is a file of its own (pictures) */
    const char *encoder;                         /* FFmpeg's names */
    const char *encoder_options, *muxer_options; /* "key=value:key=value", or NULL */
    const char *wide_options;                    /* the encoder's besides, on CPUs with AVX-512; or NULL */
    const char *graph;                           /* from rgb24 to what the encoder takes */
    bool even;                                   /* chroma is halved both ways: sides must be even */
    bool bt709;                                  /* flagged as BT.709, limited range */
    double max_fps;
    /* Rough anonymous memory while writing, bytes: fixed + (per_pixel + per_frame_pixel * frames held) * W *
     * H. */
    double fixed, per_pixel, per_frame_pixel;
    int held; /* frames at most in the encoder at once; 0: all of the clip */
} Format;
#define FORMATS(X) X(mp4) X(webm) X(gif) X(webp) X(avi) X(y4m) X(png) X(jpg)

enum { MAX_SIDE = 16384, MAX_PIXELS = 1 << 27, RECIPE_LIMIT = 1 << 20 };

/* The format of a path's ending. ENOSUP lists what there is. */
int format_find(const Format **out, const char *path, gimbal_error *err);
/* Do FFmpeg's libraries here have what the format needs? ENOSUP names what they lack and lists the formats
 * that they can write. */
int format_check(const Format *, const char *path, gimbal_error *err);
/* Can pictures of this size be read? EFORMAT. */
int check_size(int width, int height, const char *path, gimbal_error *err);

/* A path, or a sequence of paths: head, number of at least `digits` digits, tail. */
typedef struct {
    char head[PATH_ROOM], tail[PATH_ROOM];
    int digits;
    bool sequence;
} Name;
/* Exactly one %d or %0Nd in the file's name (not its folder's) makes a sequence; EUSAGE for any other use of
 * %. */
int name_parse(Name *, const char *path, gimbal_error *err);
/* The path of picture i; EUSAGE when it is too long. */
int name_at(const Name *, int i, char out[PATH_ROOM], gimbal_error *err);
/* Where the recipe lies when the format has no place for it: the path without its number, and ".json". */
int name_sidecar(const Name *, char out[PATH_ROOM], gimbal_error *err);

/* ---- reading ----------------------------------------------------------------------------- */

typedef struct {
    Name name;          /* a sequence, or one file: name.head */
    const char *folder; /* or the pictures of a folder, whose names are sorted; NULL otherwise */
    const char **names;
    int first, count, next; /* number of the first picture; files; files given out */
    Arena arena;
} Source;
/* EIO: nothing there. source_free it whatever happens. */
int source_find(Source *, const char *path, gimbal_error *err);
/* The next file's path; false past the last. */
bool source_next(Source *, char path[PATH_ROOM]);
/* Where the recipe of what was found may lie. */
int source_sidecar(const Source *, char out[PATH_ROOM], gimbal_error *err);
void source_free(Source *);

typedef struct {
    struct SwsContext *to_rgba, *to_rgb;
    AVFrame *rgba, *rgb;
    bool transparent; /* a pixel so far was not opaque */
} Pixels;
/* p->rgba: the frame as RGBA of its own size, as stored, colours not premultiplied. */
int pixels_rgba(Pixels *p, const AVFrame *, const char *path, gimbal_error *err);
/* rgb [height][width][3]: upright, over black, scaled where the size differs. */
int pixels_rgb(Pixels *, const AVFrame *, int orientation, int width, int height, uint8_t *rgb,
               const char *path, gimbal_error *err);
void pixels_free(Pixels *);
/* 1 to 8, as EXIF counts: of the frame, else of its stream (may be NULL), else 1. 5 to 8 swap the sides. */
int orientation_of(const AVFrame *, const AVStream *);
bool orientation_swaps(int orientation);

typedef struct WebpClip WebpClip;
bool webp_is_clip(const char *path);
/* path is borrowed. EFORMAT. */
int webp_open(WebpClip **out, const char *path, gimbal_error *err);
/* fps: the mean, 0 without any time. */
void webp_describe(const WebpClip *, int *frames, double *fps);
/* 1: out (blank before) refers to the next picture, RGBA of the clip's size; 0: end; negative: error. */
int webp_next(WebpClip *, AVFrame *out, gimbal_error *err);
void webp_free(WebpClip *); /* NULL is fine */

/* EFORMAT when the file is shorter than its container says. */
int check_whole(AVFormatContext *, AVStream *, const char *path, gimbal_error *err);
/* The same once all is read: so many pictures, the last one up to that byte of the file. */
int check_end(AVFormatContext *, AVStream *, int64_t pictures, int64_t last_byte, const char *path,
              gimbal_error *err);

/* ---- FFmpeg's voice: format.c ------------------------------------------------------------ */

/* FFmpeg prints nothing from now on. */
void quiet_ffmpeg(void);
/* "path: doing: FFmpeg's reason", with the code that fits the reason. */
int fail_av(gimbal_error *err, int averror, const char *path, const char *doing);

#endif
