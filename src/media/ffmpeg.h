/* ffmpeg.h: what the files of this folder share: the table of output formats, names with a number in them,
 * and FFmpeg's error numbers as ours. Private to src/media.
 *
 *   format.c   the formats, names, the checks before any work
 *   write.c    media_writer: RGB -> filter graph -> encoder -> container -> staged file
 *   read.c     media_reader: file -> decoder -> RGB, and the recipe that a clip carries
 *
 * A format is data: everything between RGB pictures and bytes in a file is a filter graph, an encoder and a
 * container that FFmpeg has, so that a new format is one struct and one line. */
#ifndef MEDIA_FFMPEG_H
#define MEDIA_FFMPEG_H

#include "base/base.h"
#include "media/media.h"

#include <libavutil/avutil.h>

typedef struct {
    media_format show;
    const char *muxer;                           /* NULL: every packet is a file of its own (pictures) */
    const char *encoder;                         /* FFmpeg's names */
    const char *encoder_options, *muxer_options; /* "key=value:key=value", or NULL */
    const char *graph;                           /* from rgb24 to what the encoder takes */
    bool even;                                   /* chroma is halved both ways: sides must be even */
    bool bt709;                                  /* flagged as BT.709, limited range */
    double max_fps;
    /* Rough anonymous memory while writing, bytes: fixed + (per_pixel + per_frame_pixel * frames held) * W *
     * H. */
    double fixed, per_pixel, per_frame_pixel;
    int held; /* frames at most in the encoder at once; 0: all of the clip */
} Format;
#define FORMATS(X) X(mp4) X(gif) X(y4m) X(png)

enum { MAX_SIDE = 16384, RECIPE_LIMIT = 1 << 20 };

/* The format of a path's ending. ENOSUP lists what there is. */
int format_find(const Format **out, const char *path, gimbal_error *err);

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

/* FFmpeg prints nothing from now on. */
void quiet_ffmpeg(void);
/* "path: doing: FFmpeg's reason", with the code that fits the reason. */
int fail_av(gimbal_error *err, int averror, const char *path, const char *doing);

#endif
