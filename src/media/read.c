/* read.c: clips and pictures in, as RGB8 [height][width][3] of the first picture's size (or the size asked
 * for), and the recipe a clip carries.
 *
 *     path -> source.c: files -> FFmpeg (or webp.c) -> frames -> pixels.c: RGB
 *
 * Files are hostile: only the file protocol is open to FFmpeg (a playlist cannot reach the network), the size
 * of a picture is bounded before it is decoded, a picture that decodes with errors is an error, not a grey
 * block, and so is a file that was cut short. The first picture is decoded when the clip is opened: only
 * then are its size and orientation known for certain, and a clip without pictures is found at once.
 *
 * Refuses to know what the pictures show and what a recipe says. */
#include "media/ffmpeg.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libavcodec/avcodec.h>

struct media_reader {
    char path[PATH_ROOM]; /* of the file that is open */
    Source source;
    int width, height;           /* of the pictures given out */
    int file_width, file_height; /* of the first picture, upright */
    AVFormatContext *demuxer;
    AVCodecContext *decoder;
    int stream;
    WebpClip *webp;              /* instead of demuxer and decoder */
    bool flushing;               /* the file has ended, the decoder may still hold pictures */
    int64_t pictures, last_byte; /* decoded from this file; read from it */
    double shown, gap;    /* time of the last picture, from the first to the second; in the stream's ticks */
    bool uneven, untimed; /* some other gap differs from that one by more than a fifth; a time was missing */
    bool waiting;         /* frame holds a picture that media_get has not given yet */
    AVPacket *packet;
    AVFrame *frame;
    Pixels pixels;
};

/* ---- one file ---------------------------------------------------------------------------- */

static int open_demuxer(AVFormatContext **out, const char *path, gimbal_error *err)
{
    char url[PATH_ROOM + 8];
    AVDictionary *options = NULL;
    *out = NULL;
    if (!is_file(path))
        return fail(err, GIMBAL_EIO, "%s: no such file", path);
    if (access(path, R_OK))
        return fail(err, GIMBAL_EIO, "%s: %s", path, strerror(errno));
    quiet_ffmpeg();
    snprintf(url, sizeof url, "file:%s", path);
    int r = av_dict_set(&options, "protocol_whitelist", "file", 0);
    if (r >= 0)
        r = av_dict_set(&options, "pattern_type", "none", 0); /* a % in a name stays a % */
    if (r >= 0)
        r = avformat_open_input(out, url, NULL, &options);
    av_dict_free(&options);
    if (r >= 0 && strcmp((*out)->iformat->name, "tty"))
        return GIMBAL_OK;
    avformat_close_input(out);
    return fail_hint(err, r == AVERROR(ENOMEM) ? GIMBAL_ENOMEM : GIMBAL_EFORMAT,
                     "expected a clip or picture in a format that FFmpeg reads", "%s: not a clip: %s", path,
                     r < 0 ? av_err2str(r) : "text");
}

/* The decoders that look into the streams are bounded as ours is. */
static int probe_streams(AVFormatContext *demuxer)
{
    const unsigned n = demuxer->nb_streams;
    AVDictionary **options = calloc(n + 1, sizeof(AVDictionary *));
    int code = options ? 0 : AVERROR(ENOMEM);
    for (unsigned i = 0; code >= 0 && i < n; i++)
        code = av_dict_set_int(&options[i], "max_pixels", MAX_PIXELS, 0);
    if (code >= 0)
        code = avformat_find_stream_info(demuxer, options);
    for (unsigned i = 0; options && i < n; i++)
        av_dict_free(&options[i]);
    free(options);
    return code;
}

/* FFmpeg's demuxers of single pictures. */
static bool is_still(const AVFormatContext *demuxer)
{
    const char *name = demuxer->iformat->name;
    const size_t n = strlen(name);
    return !strcmp(name, "image2") || (n > 5 && !strcmp(name + n - 5, "_pipe"));
}

static int open_decoder(media_reader *r, gimbal_error *err)
{
    const AVCodec *codec = NULL;
    int code = probe_streams(r->demuxer);
    if (code < 0)
        return fail_av(err, code, r->path, "reading");
    r->stream = av_find_best_stream(r->demuxer, AVMEDIA_TYPE_VIDEO, -1, -1, &codec, 0);
    if (r->stream < 0 || !codec)
        return fail(err, GIMBAL_EFORMAT, "%s: a %s file without pictures that can be decoded", r->path,
                    r->demuxer->iformat->name);
    AVStream *stream = r->demuxer->streams[r->stream];
    TRY(check_whole(r->demuxer, stream, r->path, err));
    r->decoder = avcodec_alloc_context3(codec);
    if (!r->decoder)
        return fail_av(err, AVERROR(ENOMEM), r->path, "decoder");
    code = avcodec_parameters_to_context(r->decoder, stream->codecpar);
    r->decoder->thread_count = 1;
    r->decoder->max_pixels = MAX_PIXELS;
    if (is_still(r->demuxer))
        r->decoder->err_recognition |=
            AV_EF_EXPLODE; /* or half a JPEG passes; clips in the wild need mercy */
    if (code >= 0)
        code = avcodec_open2(r->decoder, codec, NULL);
    if (code < 0)
        return fail_av(err, code, r->path, "decoder");
    return GIMBAL_OK;
}

static void close_file(media_reader *r)
{
    avcodec_free_context(&r->decoder);
    avformat_close_input(&r->demuxer);
    webp_free(r->webp);
    r->webp = NULL;
    r->flushing = false;
    r->pictures = r->last_byte = 0;
}

static int open_file(media_reader *r, gimbal_error *err)
{
    if (is_file(r->path) && webp_is_clip(r->path))
        return webp_open(&r->webp, r->path, err);
    TRY(open_demuxer(&r->demuxer, r->path, err));
    return open_decoder(r, err);
}

/* The stream's next packet into the decoder; at the end of the file, the call for what it still holds. */
static int feed(media_reader *r, gimbal_error *err)
{
    int code;
    do {
        av_packet_unref(r->packet);
        code = av_read_frame(r->demuxer, r->packet);
    } while (code >= 0 && r->packet->stream_index != r->stream);
    if (code < 0 && code != AVERROR_EOF)
        return fail_av(err, code, r->path, "reading");
    r->flushing = code < 0;
    if (!r->flushing)
        r->last_byte = r->packet->pos + r->packet->size;
    code = avcodec_send_packet(r->decoder, r->flushing ? NULL : r->packet);
    av_packet_unref(r->packet);
    return code < 0 ? fail_av(err, code, r->path, "decoding") : GIMBAL_OK;
}

/* Containers count time in ticks that a frame need not be a whole number of: one more or less says nothing.
 * In double, because times are the file's word and their differences may overflow. */
static void watch_time(media_reader *r)
{
    const int64_t time = r->frame->pts; /* not the decoder's best guess */
    const double gap = (double)time - r->shown;
    if (time == AV_NOPTS_VALUE)
        r->untimed = true;
    if (r->pictures == 2)
        r->gap = gap;
    if (r->pictures > 2 && !r->untimed && fabs(gap - r->gap) > MAX(1.0, r->gap / 5))
        r->uneven = true;
    r->shown = (double)time;
}

/* 1: r->frame holds the file's next picture; 0: there is none; negative: error. */
static int next_in_file(media_reader *r, gimbal_error *err)
{
    if (r->webp)
        return webp_next(r->webp, r->frame, err);
    for (;;) {
        const int code = avcodec_receive_frame(r->decoder, r->frame);
        if (code == AVERROR_EOF || (code == AVERROR(EAGAIN) && r->flushing))
            return check_end(r->demuxer, r->demuxer->streams[r->stream], r->pictures, r->last_byte, r->path,
                             err);
        if (code < 0 && code != AVERROR(EAGAIN))
            return fail_av(err, code, r->path, "decoding");
        if (code >= 0)
            break;
        TRY(feed(r, err));
    }
    r->pictures++;
    watch_time(r);
    if (r->frame->decode_error_flags || (r->frame->flags & AV_FRAME_FLAG_CORRUPT))
        return fail(err, GIMBAL_EFORMAT, "%s: a picture is damaged", r->path);
    return 1;
}

/* The same across the files of a source. */
static int next_frame(media_reader *r, gimbal_error *err)
{
    for (;;) {
        const int got = next_in_file(r, err);
        if (got || !source_next(&r->source, r->path))
            return got;
        close_file(r);
        TRY(open_file(r, err));
    }
}

/* ---- a reader ---------------------------------------------------------------------------- */

static AVStream *stream_of(const media_reader *r)
{
    return r->demuxer ? r->demuxer->streams[r->stream] : NULL;
}

static int orientation(const media_reader *r)
{
    return orientation_of(r->frame, stream_of(r));
}

static void shown_size(const media_reader *r, int *width, int *height)
{
    const bool swaps = orientation_swaps(orientation(r));
    *width = swaps ? r->frame->height : r->frame->width;
    *height = swaps ? r->frame->width : r->frame->height;
}

/* 0 when the container does not say. Raw video says it as a duration in units of one frame. */
static int64_t stated_frames(const AVStream *stream, AVRational rate)
{
    if (stream->nb_frames > 0)
        return stream->nb_frames;
    const bool counts = rate.num > 0 && rate.den > 0 && !av_cmp_q(av_inv_q(rate), stream->time_base);
    return counts && stream->duration != AV_NOPTS_VALUE ? MAX(stream->duration, 0) : 0;
}

static void describe_file(const media_reader *r, media_info *info)
{
    AVStream *stream = stream_of(r);
    if (r->webp) {
        webp_describe(r->webp, &info->frames, &info->fps);
        snprintf(info->format, sizeof info->format, "webp, animated");
        return;
    }
    const AVRational rate = av_guess_frame_rate(r->demuxer, stream, NULL);
    const bool picture = is_still(r->demuxer); /* FFmpeg gives them 25 frames per second; they have no rate */
    info->frames = picture ? 1 : (int)MIN(stated_frames(stream, rate), INT32_MAX);
    info->fps = picture || !rate.num || !rate.den ? 0 : av_q2d(rate);
    snprintf(info->format, sizeof info->format, "%s, %s", r->demuxer->iformat->name,
             avcodec_get_name(r->decoder->codec_id));
}

static void describe(const media_reader *r, media_info *info)
{
    memset(info, 0, sizeof *info);
    describe_file(r, info);
    info->width = r->width, info->height = r->height;
    info->file_width = r->file_width, info->file_height = r->file_height;
    info->orientation = orientation(r);
    const bool folder = r->source.folder != NULL;
    if (!folder && !r->source.name.sequence)
        return;
    const size_t n = strlen(info->format);
    snprintf(info->format + n, sizeof info->format - n, folder ? ", a folder" : ", a sequence");
    info->frames = r->source.count;
    info->fps = 0;
}

int check_size(int width, int height, const char *path, gimbal_error *err)
{
    if (width > 0 && height > 0 && width <= MAX_SIDE && height <= MAX_SIDE &&
        (int64_t)width * height <= MAX_PIXELS)
        return GIMBAL_OK;
    return fail(err, GIMBAL_EFORMAT,
                "%s: pictures of %dx%d pixels (1 to %d each way and %d million in all can be read)", path,
                width, height, MAX_SIDE, MAX_PIXELS / 1000000);
}

static int reader_open(media_reader *r, const char *path, media_info *info, gimbal_error *err)
{
    TRY(source_find(&r->source, path, err));
    source_next(&r->source, r->path);
    r->packet = av_packet_alloc();
    r->frame = av_frame_alloc();
    if (!r->packet || !r->frame)
        return fail_av(err, AVERROR(ENOMEM), r->path, "reader");
    TRY(open_file(r, err));
    const int got = next_in_file(r, err);
    if (got <= 0)
        return got ? got : fail(err, GIMBAL_EFORMAT, "%s: no pictures in it", r->path);
    r->waiting = true;
    shown_size(r, &r->file_width, &r->file_height);
    TRY(check_size(r->file_width, r->file_height, r->path, err));
    if (!r->width)
        r->width = r->file_width, r->height = r->file_height;
    if (info)
        describe(r, info);
    return GIMBAL_OK;
}

static int open_reader(media_reader **out, const char *path, int width, int height, media_info *info,
                       gimbal_error *err)
{
    *out = NULL;
    media_reader *r = calloc(1, sizeof *r);
    if (!r)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for a reader", path);
    r->width = width, r->height = height;
    const int code = reader_open(r, path, info, err);
    if (code)
        media_free(r);
    else
        *out = r;
    return code;
}

int media_open(media_reader **out, const char *path, media_info *info, gimbal_error *err)
{
    return open_reader(out, path, 0, 0, info, err);
}

int media_open_scaled(media_reader **out, const char *path, int width, int height, media_info *info,
                      gimbal_error *err)
{
    *out = NULL;
    if (width < 1 || height < 1 || width > MAX_SIDE || height > MAX_SIDE)
        return fail(err, GIMBAL_EUSAGE, "%s: cannot be scaled to %dx%d pixels (1 to %d each way)", path,
                    width, height, MAX_SIDE);
    return open_reader(out, path, width, height, info, err);
}

/* The pictures of a sequence or folder belong together; one of another size is a stranger. */
static int check_same_size(const media_reader *r, gimbal_error *err)
{
    int width, height;
    shown_size(r, &width, &height);
    if (r->source.count == 1 || (width == r->file_width && height == r->file_height))
        return GIMBAL_OK;
    return fail_hint(err, GIMBAL_EFORMAT, "all pictures of a clip have one size; move this one away",
                     "%s: %dx%d pixels, expected %dx%d as in the first picture", r->path, width, height,
                     r->file_width, r->file_height);
}

int media_get(media_reader *r, uint8_t *rgb, gimbal_error *err)
{
    const int got = r->waiting ? 1 : next_frame(r, err);
    if (got <= 0)
        return got;
    r->waiting = false;
    int code = check_same_size(r, err);
    if (!code)
        code = pixels_rgb(&r->pixels, r->frame, orientation(r), r->width, r->height, rgb, r->path, err);
    av_frame_unref(r->frame);
    return code ? code : 1;
}

int media_uneven(const media_reader *r)
{
    return r->uneven;
}

int media_transparent(const media_reader *r)
{
    return r->pixels.transparent;
}

void media_free(media_reader *r)
{
    if (!r)
        return;
    close_file(r);
    av_packet_free(&r->packet);
    av_frame_free(&r->frame);
    pixels_free(&r->pixels);
    source_free(&r->source);
    free(r);
}

/* ---- the recipe -------------------------------------------------------------------------- */

/* A comment that is no JSON object is someone else's. */
static int recipe_inside(const char *path, char **text, gimbal_error *err)
{
    AVFormatContext *demuxer;
    TRY(open_demuxer(&demuxer, path, err));
    const AVDictionaryEntry *entry = av_dict_get(demuxer->metadata, "comment", NULL, 0);
    const bool found = entry && entry->value[0] == '{' && strlen(entry->value) <= RECIPE_LIMIT;
    if (found)
        *text = strdup(entry->value);
    avformat_close_input(&demuxer);
    return found && !*text ? fail(err, GIMBAL_ENOMEM, "%s: no memory for the recipe", path) : GIMBAL_OK;
}

/* No recipe beside it either: GIMBAL_OK and *text stays NULL. */
static int recipe_of(Source *source, char **text, gimbal_error *err)
{
    char path[PATH_ROOM], sidecar[PATH_ROOM];
    size_t size;
    source_next(source, path);
    TRY(recipe_inside(path, text, err));
    if (*text)
        return GIMBAL_OK;
    TRY(source_sidecar(source, sidecar, err));
    return is_file(sidecar) ? read_file(text, &size, sidecar, RECIPE_LIMIT, err) : GIMBAL_OK;
}

int media_recipe(const char *path, char **text, gimbal_error *err)
{
    Source source;
    *text = NULL;
    int code = source_find(&source, path, err);
    if (!code)
        code = recipe_of(&source, text, err);
    source_free(&source);
    return code;
}
