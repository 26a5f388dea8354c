/* media.h: clips and pictures in and out, through FFmpeg's libraries. A small library of its own (it links
 * the codecs, so that libgimbal does not). Pictures are RGB8, [height][width][3], dense.
 *
 * Knows containers, codecs and colour. Refuses to know models, latents and how frames were made. */
#ifndef MEDIA_H
#define MEDIA_H

#include "gimbal.h"

/* One output format: a constant struct and a line in format.c's table. */
typedef struct {
    const char *ending, *help; /* ".mp4" */
    int holds_text;            /* 1: metadata has a place in the file */
    int pictures;              /* 1: every picture is a file of its own: f%03d.png */
} media_format;
const media_format *media_format_at(int i); /* NULL past the end */
/* FFmpeg's own version, e.g. "5.1.6-0+deb12u1". */
const char *media_version(void);

typedef struct media_writer media_writer;
/* OUT's ending decides, see format.c: .mp4, .webm and .avi (4:2:0, even sizes; odd ones are padded by one
 * pixel), .gif (own palette over the whole clip), .webp (animated, lossless), .y4m (4:4:4, lossless up to the
 * colour matrix), f%03d.png or .jpg (a picture sequence, numbered from 0) or a single picture (one frame).
 * The place is checked and the temporary file made at once. `recipe` (may be NULL) goes into the metadata;
 * where the format has no place, into OUT.json beside it (pattern: the pattern's name without %..d, .json).
 * ENOSUP: an ending or encoder that this build does not have; the message lists those it has. */
int media_create(media_writer **out, const char *path, int width, int height, double fps, const char *recipe,
                 gimbal_error *err);
/* The same check without making anything. */
int media_check(const char *path, int width, int height, double fps, gimbal_error *err);
int media_put(media_writer *, const uint8_t *rgb, gimbal_error *err);
/* Finishes and renames into place; frees the writer whatever happens. */
int media_close(media_writer *, gimbal_error *err);
/* Removes what was begun. NULL is fine. */
void media_abort(media_writer *);
/* Rough peak of anonymous memory that writing such a clip takes. */
uint64_t media_bytes(const char *path, int width, int height, int frames);

/* The bytes of a PNG file of one picture [height][width][3]: *out [*size], the caller's (free). EUSAGE: a
 * size that cannot be; ENOSUP: no such encoder here. */
int media_png(const uint8_t *rgb, int width, int height, uint8_t **out, size_t *size, gimbal_error *err);

typedef struct {
    int width, height;           /* of the pictures that media_get gives, upright */
    int file_width, file_height; /* before scaling, upright: what media_open would give */
    int frames;                  /* 0 when the container does not say */
    int orientation; /* of the first picture, as EXIF counts: 1 upright .. 8; media_get has applied it */
    double fps;      /* 0: pictures have no rate; variable rates give their mean */
    char format[64];
} media_info;
typedef struct media_reader media_reader;
/* Anything FFmpeg reads, an animated WebP, an image pattern f%03d.png, or a folder: its pictures (.png, .jpg,
 * .jpeg, .webp, .bmp, .tif, .tiff) in natural order of their names (f2 before f10), other files ignored. The
 * pictures of a pattern or folder must all have the size of the first. Frames come as they are stored,
 * without regard to their times, turned as the file's display matrix or EXIF orientation says, transparent
 * ones over black. The first picture is decoded here. EFORMAT, EIO. */
int media_open(media_reader **out, const char *path, media_info *info, gimbal_error *err);
/* The same with every picture scaled to width x height (Lanczos; nothing is cropped, so that the aspect ratio
 * is the caller's business). EUSAGE: a size that cannot be. */
int media_open_scaled(media_reader **out, const char *path, int width, int height, media_info *info,
                      gimbal_error *err);
/* 1: rgb filled; 0: end of clip; negative: error. */
int media_get(media_reader *, uint8_t *rgb, gimbal_error *err);
/* The recipe stored in the file or beside it (OUT.json); caller frees. 0 with *text NULL: there is none. */
int media_recipe(const char *path, char **text, gimbal_error *err);
/* Have the pictures read so far come at uneven times (a variable frame rate)? Animated WebP is not looked at.
 */
int media_uneven(const media_reader *);
/* Was any pixel given so far transparent in the file? */
int media_transparent(const media_reader *);
void media_free(media_reader *); /* NULL is fine */

#endif
