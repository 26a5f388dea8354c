/* read.c: clips and pictures in, as RGB8 [height][width][3] of the first picture's size, and the recipe a
 * clip carries.
 *
 * Files are hostile: only the file protocol is open to FFmpeg (a playlist cannot reach the network), the size
 * of a picture is bounded before it is decoded, and a picture that decodes with errors is an error, not a
 * grey block. A sequence f%03d.png is read one file after the other by the same path as a single picture.
 *
 * YUV that does not say its matrix is taken as BT.601, limited range, as swscale does.
 *
 * Refuses to know what the pictures show and what a recipe says. */
#include "media/ffmpeg.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/imgutils.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>

struct media_reader {
    char path[PATH_ROOM]; /* of the file that is open */
    Name name;
    int next; /* number of the sequence's next picture */
    int width, height;
    AVFormatContext *demuxer;
    AVCodecContext *decoder;
    int stream;
    bool flushing; /* the file has ended, the decoder may still hold pictures */
    AVPacket *packet;
    AVFrame *frame, *rgb;
    struct SwsContext *scaler;
};

/* ---- one file ---------------------------------------------------------------------------- */

static int open_demuxer(AVFormatContext **out, const char *path, gimbal_error *err)
{
    char url[PATH_ROOM + 8];
    AVDictionary *options = NULL;
    *out = NULL;
    if (is_folder(path))
        return fail(err, GIMBAL_EIO, "%s: is a folder, expected a clip or a picture", path);
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
    if (r < 0)
        return fail_hint(err, r == AVERROR(ENOMEM) ? GIMBAL_ENOMEM : GIMBAL_EFORMAT,
                         "expected a clip or picture in a format that FFmpeg reads", "%s: not a clip: %s",
                         path, av_err2str(r));
    return GIMBAL_OK;
}

static int open_decoder(media_reader *r, gimbal_error *err)
{
    const AVCodec *codec = NULL;
    int code = avformat_find_stream_info(r->demuxer, NULL);
    if (code < 0)
        return fail_av(err, code, r->path, "reading");
    r->stream = av_find_best_stream(r->demuxer, AVMEDIA_TYPE_VIDEO, -1, -1, &codec, 0);
    if (r->stream < 0 || !codec)
        return fail(err, GIMBAL_EFORMAT, "%s: a %s file without pictures that can be decoded", r->path,
                    r->demuxer->iformat->name);
    r->decoder = avcodec_alloc_context3(codec);
    if (!r->decoder)
        return fail_av(err, AVERROR(ENOMEM), r->path, "decoder");
    code = avcodec_parameters_to_context(r->decoder, r->demuxer->streams[r->stream]->codecpar);
    r->decoder->thread_count = 1;
    r->decoder->max_pixels = (int64_t)MAX_SIDE * MAX_SIDE;
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
    r->flushing = false;
}

static int open_file(media_reader *r, gimbal_error *err)
{
    TRY(open_demuxer(&r->demuxer, r->path, err));
    return open_decoder(r, err);
}

/* 1: r->frame holds the file's next picture; 0: there is none; negative: error. */
static int next_frame(media_reader *r, gimbal_error *err)
{
    for (;;) {
        int code = avcodec_receive_frame(r->decoder, r->frame);
        if (code >= 0) {
            if (r->frame->decode_error_flags || (r->frame->flags & AV_FRAME_FLAG_CORRUPT))
                return fail(err, GIMBAL_EFORMAT, "%s: a picture is damaged", r->path);
            return 1;
        }
        if (code == AVERROR_EOF)
            return 0;
        if (code != AVERROR(EAGAIN))
            return fail_av(err, code, r->path, "decoding");
        if (r->flushing)
            return 0;
        code = av_read_frame(r->demuxer, r->packet);
        if (code < 0 && code != AVERROR_EOF)
            return fail_av(err, code, r->path, "reading");
        if (code >= 0 && r->packet->stream_index != r->stream) {
            av_packet_unref(r->packet);
            continue;
        }
        r->flushing = code < 0;
        code = avcodec_send_packet(r->decoder, r->flushing ? NULL : r->packet);
        av_packet_unref(r->packet);
        if (code < 0)
            return fail_av(err, code, r->path, "decoding");
    }
}

/* r->frame into rgb, through a frame of its own: swscale may write past the end of a row. */
static int convert(media_reader *r, uint8_t *rgb, gimbal_error *err)
{
    AVFrame *f = r->frame;
    r->scaler = sws_getCachedContext(
        r->scaler, f->width, f->height, f->format, r->width, r->height, AV_PIX_FMT_RGB24,
        SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP, NULL, NULL, NULL);
    if (!r->scaler)
        return fail(err, GIMBAL_EFORMAT, "%s: pictures of %dx%d in %s cannot be converted to RGB", r->path,
                    f->width, f->height, av_get_pix_fmt_name(f->format));
    const int matrix = f->colorspace == AVCOL_SPC_UNSPECIFIED ? SWS_CS_ITU601 : (int)f->colorspace;
    sws_setColorspaceDetails(r->scaler, sws_getCoefficients(matrix), f->color_range == AVCOL_RANGE_JPEG,
                             sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, 1 << 16, 1 << 16);
    const int rows = sws_scale(r->scaler, (const uint8_t *const *)f->data, f->linesize, 0, f->height,
                               r->rgb->data, r->rgb->linesize);
    if (rows < 0)
        return fail_av(err, rows, r->path, "colour conversion");
    av_image_copy_plane(rgb, 3 * r->width, r->rgb->data[0], r->rgb->linesize[0], 3 * r->width, r->height);
    return 1;
}

/* ---- a reader ---------------------------------------------------------------------------- */

enum { FIRST_NUMBERS = 5 }; /* a sequence begins with a number below this */

static bool numbered_file(const media_reader *r, int i, char path[PATH_ROOM])
{
    return !name_at(&r->name, i, path, NULL) && is_file(path);
}

/* A file of that very name wins over a sequence. */
static int find_first(media_reader *r, const char *path, gimbal_error *err)
{
    if (!path || !*path)
        return fail(err, GIMBAL_EUSAGE, "the clip's name is empty");
    if (strlen(path) >= PATH_ROOM)
        return fail(err, GIMBAL_EUSAGE, "a path of %zu bytes is too long", strlen(path));
    strcpy(r->path, path);
    if (is_file(path) || !strchr(path, '%'))
        return GIMBAL_OK;
    TRY(name_parse(&r->name, path, err));
    while (r->next < FIRST_NUMBERS)
        if (!r->name.sequence || numbered_file(r, r->next++, r->path))
            return GIMBAL_OK;
    return fail(err, GIMBAL_EIO, "%s: no such pictures: none is numbered 0 to %d", path, FIRST_NUMBERS - 1);
}

static int count_pictures(const media_reader *r)
{
    char path[PATH_ROOM];
    int n = 1;
    while (numbered_file(r, r->next + n - 1, path))
        n++;
    return n;
}

/* 0 when the container does not say. Raw video says it as a duration in units of one frame. */
static int64_t stated_frames(const AVStream *stream, AVRational rate)
{
    if (stream->nb_frames > 0)
        return stream->nb_frames;
    const bool counts = rate.num > 0 && rate.den > 0 && !av_cmp_q(av_inv_q(rate), stream->time_base);
    return counts && stream->duration != AV_NOPTS_VALUE ? MAX(stream->duration, 0) : 0;
}

static void describe(media_reader *r, media_info *info)
{
    AVStream *stream = r->demuxer->streams[r->stream];
    const AVRational rate = av_guess_frame_rate(r->demuxer, stream, NULL);
    const char *name = r->demuxer->iformat->name;
    const size_t n = strlen(name);
    /* FFmpeg gives pictures 25 frames per second; they have no rate. */
    const bool picture = !strcmp(name, "image2") || (n > 5 && !strcmp(name + n - 5, "_pipe"));
    memset(info, 0, sizeof *info);
    info->width = r->width, info->height = r->height;
    info->frames = r->name.sequence ? count_pictures(r)
                   : picture        ? 1
                                    : (int)MIN(stated_frames(stream, rate), INT32_MAX);
    info->fps = picture || !rate.num || !rate.den ? 0 : av_q2d(rate);
    snprintf(info->format, sizeof info->format, "%s, %s%s", name, avcodec_get_name(r->decoder->codec_id),
             r->name.sequence ? ", a sequence" : "");
}

static int reader_open(media_reader *r, const char *path, media_info *info, gimbal_error *err)
{
    TRY(find_first(r, path, err));
    TRY(open_file(r, err));
    r->width = r->decoder->width, r->height = r->decoder->height;
    if (r->width < 1 || r->height < 1 || r->width > MAX_SIDE || r->height > MAX_SIDE)
        return fail(err, GIMBAL_EFORMAT, "%s: pictures of %dx%d pixels (1 to %d each way can be read)",
                    r->path, r->width, r->height, MAX_SIDE);
    r->packet = av_packet_alloc();
    r->frame = av_frame_alloc();
    r->rgb = av_frame_alloc();
    if (!r->packet || !r->frame || !r->rgb)
        return fail_av(err, AVERROR(ENOMEM), r->path, "reader");
    r->rgb->format = AV_PIX_FMT_RGB24, r->rgb->width = r->width, r->rgb->height = r->height;
    if (av_frame_get_buffer(r->rgb, 0) < 0)
        return fail_av(err, AVERROR(ENOMEM), r->path, "reader");
    if (info)
        describe(r, info);
    return GIMBAL_OK;
}

int media_open(media_reader **out, const char *path, media_info *info, gimbal_error *err)
{
    *out = NULL;
    media_reader *r = calloc(1, sizeof *r);
    if (!r)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for a reader", path);
    const int code = reader_open(r, path, info, err);
    if (code)
        media_free(r);
    else
        *out = r;
    return code;
}

int media_get(media_reader *r, uint8_t *rgb, gimbal_error *err)
{
    for (;;) {
        const int got = next_frame(r, err);
        if (got < 0)
            return got;
        if (got) {
            const int code = convert(r, rgb, err);
            av_frame_unref(r->frame);
            return code;
        }
        if (!r->name.sequence || !numbered_file(r, r->next, r->path))
            return 0;
        r->next++;
        close_file(r);
        TRY(open_file(r, err));
    }
}

void media_free(media_reader *r)
{
    if (!r)
        return;
    close_file(r);
    av_packet_free(&r->packet);
    av_frame_free(&r->frame);
    av_frame_free(&r->rgb);
    sws_freeContext(r->scaler);
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

int media_recipe(const char *path, char **text, gimbal_error *err)
{
    media_reader r = {0};
    char sidecar[PATH_ROOM];
    size_t size;
    *text = NULL;
    TRY(find_first(&r, path, err));
    TRY(recipe_inside(r.path, text, err));
    if (*text)
        return GIMBAL_OK;
    if (!r.name.sequence)
        strcpy(r.name.head, path);
    TRY(name_sidecar(&r.name, sidecar, err));
    return is_file(sidecar) ? read_file(text, &size, sidecar, RECIPE_LIMIT, err) : GIMBAL_OK;
}
