/* whole.c: is a file as long as its container says? FFmpeg reads a clip that was cut short up to the cut and
 * ends there without a word.
 *
 *     RIFF (avi, webp)   bytes 4..7: what follows
 *     Matroska, WebM     the Segment's size, unless it is marked as unknown
 *     with an index      the end of the last picture that the index places (mp4, mov)
 *
 *     gif                known when it ends: the pictures that the demuxer counted
 *     y4m                known when it ends: pictures have one size, nothing may be left over
 *
 * Recordings that were never finished do not say, and are left to the decoder.
 * Refuses to know what the bytes mean. */
#include "media/ffmpeg.h"

#include <string.h>

#include <libavformat/avformat.h>

enum { HEAD = 128 };

/* EBML's number of n bytes: the leading zeros of the first byte tell n, all ones mean unknown (UINT64_MAX).
 */
static uint64_t ebml_number(const uint8_t *p, size_t room, size_t *n)
{
    *n = 1;
    while (*n <= 8 && room && !(p[0] & 0x100 >> *n))
        ++*n;
    if (*n > room || *n > 8)
        return *n = 0;
    uint64_t v = p[0] & (0xFFu >> *n);
    bool unknown = v == 0xFFu >> *n;
    for (size_t i = 1; i < *n; i++) {
        v = v << 8 | p[i];
        unknown &= p[i] == 0xFF;
    }
    return unknown ? UINT64_MAX : v;
}

/* Where the Segment ends; 0 when the head does not tell. */
static uint64_t matroska_end(const uint8_t *p, size_t size)
{
    size_t at = 4, n;
    const uint64_t header = ebml_number(p + at, size - at, &n);
    if (!n || header > HEAD)
        return 0;
    at += n + (size_t)header;
    if (at + 4 > size || memcmp(p + at, "\x18\x53\x80\x67", 4))
        return 0;
    at += 4;
    const uint64_t segment = ebml_number(p + at, size - at, &n);
    return n && segment < INT64_MAX ? at + n + segment : 0;
}

static uint64_t container_end(const char *path)
{
    uint8_t p[HEAD];
    FILE *f = fopen(path, "rb");
    const size_t n = f ? fread(p, 1, sizeof p, f) : 0;
    if (f)
        fclose(f);
    if (n > 12 && !memcmp(p, "RIFF", 4)) {
        const uint32_t size =
            (uint32_t)p[4] | (uint32_t)p[5] << 8 | (uint32_t)p[6] << 16 | (uint32_t)p[7] << 24;
        return size == UINT32_MAX ? 0 : 8 + (uint64_t)size; /* all ones: written to a pipe */
    }
    return n > 4 && !memcmp(p, "\x1A\x45\xDF\xA3", 4) ? matroska_end(p, n) : 0;
}

static uint64_t index_end(AVStream *stream)
{
    int64_t end = 0;
    for (int i = 0; i < avformat_index_get_entries_count(stream); i++) {
        const AVIndexEntry *e = avformat_index_get_entry(stream, i);
        if (e && e->pos >= 0 && e->size > 0 && e->pos < INT64_MAX / 2)
            end = MAX(end, e->pos + e->size);
    }
    return (uint64_t)end;
}

int check_whole(AVFormatContext *demuxer, AVStream *stream, const char *path, gimbal_error *err)
{
    const int64_t size = demuxer->pb ? avio_size(demuxer->pb) : -1;
    const uint64_t container = container_end(path), index = index_end(stream), end = MAX(container, index);
    /* A missing byte of padding harms nothing. */
    if (size > 0 && end > (uint64_t)size + 1)
        return fail(err, GIMBAL_EFORMAT, "%s: cut short: %lld bytes, its %s expects %llu", path,
                    (long long)size, index > container ? "index" : "header", (unsigned long long)end);
    return GIMBAL_OK;
}

int check_end(AVFormatContext *demuxer, AVStream *stream, int64_t pictures, int64_t last_byte,
              const char *path, gimbal_error *err)
{
    const char *name = demuxer->iformat->name;
    const int64_t size = demuxer->pb ? avio_size(demuxer->pb) : -1;
    if (!strcmp(name, "gif") && pictures < stream->nb_frames)
        return fail(err, GIMBAL_EFORMAT, "%s: cut short: picture %lld of %lld is not whole", path,
                    (long long)pictures + 1, (long long)stream->nb_frames);
    if (!strcmp(name, "yuv4mpegpipe") && last_byte < size)
        return fail(err, GIMBAL_EFORMAT, "%s: cut short: picture %lld ends after the file's %lld bytes", path,
                    (long long)pictures + 1, (long long)size);
    return GIMBAL_OK;
}
