/* write.c: clips out. RGB8 [height][width][3], one media_put per picture, in order.
 *
 *     rgb24 (sides padded with their edge where chroma is halved) -> filter graph -> encoder -> container or
 * picture files -> rename
 *
 * Everything is written to temporary files beside the target and renamed in media_close: a clip is there
 * whole or not at all, a sequence and the recipe beside a clip included. The encoder is opened at the first
 * picture, so that a writer that waits for the sampler holds no memory. */
#include "media/ffmpeg.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libavcodec/avcodec.h>
#include <libavfilter/avfilter.h>
#include <libavfilter/buffersink.h>
#include <libavfilter/buffersrc.h>
#include <libavformat/avformat.h>
#include <libavutil/opt.h>

struct media_writer {
    const Format *format;
    Name name;
    char *path, *recipe; /* recipe: NULL without one */
    int width, height;   /* of the caller's pictures */
    int coded_width, coded_height;
    AVRational rate; /* frames per second */
    int64_t pictures;

    Stage *files; /* [1], or one per picture of a sequence */
    int n_files, room;
    Stage sidecar;

    AVFilterGraph *graph;
    AVFilterContext *source, *sink; /* of the graph */
    AVCodecContext *encoder;
    AVFormatContext *muxer;
    AVFrame *filtered;
    AVPacket *packet;
};

/* ---- opening ----------------------------------------------------------------------------- */

static int add_file(media_writer *w, gimbal_error *err)
{
    char target[PATH_ROOM];
    if (w->n_files == w->room) {
        const int room = w->room ? 2 * w->room : 1;
        Stage *more = realloc(w->files, sizeof(Stage) * (size_t)room);
        if (!more)
            return fail(err, GIMBAL_ENOMEM, "%s: no memory for the names of %d pictures", w->path, room);
        w->files = more, w->room = room;
    }
    TRY(name_at(&w->name, w->n_files, target, err));
    TRY(stage_open(&w->files[w->n_files], target, err));
    w->n_files++;
    return GIMBAL_OK;
}

int media_create(media_writer **out, const char *path, int width, int height, double fps, const char *recipe,
                 gimbal_error *err)
{
    *out = NULL;
    TRY(media_check(path, width, height, fps, err));
    quiet_ffmpeg();
    media_writer *w = calloc(1, sizeof *w);
    if (!w || !(w->path = strdup(path)) || (recipe && !(w->recipe = strdup(recipe)))) {
        media_abort(w);
        return fail(err, GIMBAL_ENOMEM, "%s: no memory to begin", path);
    }
    w->width = width, w->height = height;
    w->rate = av_d2q(fps, 1001000);
    int code = format_find(&w->format, path, err);
    const int odd = w->format->even ? 1 : 0;
    w->coded_width = width + (width & odd);
    w->coded_height = height + (height & odd);
    if (!code)
        code = name_parse(&w->name, path, err);
    if (!code)
        code = add_file(w, err);
    if (!code && recipe && !w->format->show.holds_text) {
        char target[PATH_ROOM];
        code = name_sidecar(&w->name, target, err);
        if (!code)
            code = stage_open(&w->sidecar, target, err);
    }
    if (code)
        media_abort(w);
    else
        *out = w;
    return code;
}

/* One thread: filters and x264 then give the same bytes on any number of cores. */
static int open_graph(media_writer *w, gimbal_error *err)
{
    char text[768];
    snprintf(text, sizeof text,
             "buffer@in=video_size=%dx%d:pix_fmt=rgb24:time_base=%d/%d:frame_rate=%d/%d:pixel_aspect=1/1,"
             "%s,buffersink@out",
             w->coded_width, w->coded_height, w->rate.den, w->rate.num, w->rate.num, w->rate.den,
             w->format->graph);
    w->graph = avfilter_graph_alloc();
    if (!w->graph)
        return fail_av(err, AVERROR(ENOMEM), w->path, "filter graph");
    w->graph->nb_threads = 1;
    int r = avfilter_graph_parse_ptr(w->graph, text, NULL, NULL, NULL);
    if (r >= 0)
        r = avfilter_graph_config(w->graph, NULL);
    if (r < 0)
        return fail_av(err, r, w->path, "filter graph");
    w->source = avfilter_graph_get_filter(w->graph, "buffer@in");
    w->sink = avfilter_graph_get_filter(w->graph, "buffersink@out");
    return w->source && w->sink ? GIMBAL_OK : fail_av(err, AVERROR_BUG, w->path, "filter graph");
}

static bool has_avx512(void)
{
#if defined __x86_64__ || defined __i386__
    return __builtin_cpu_supports("avx512f");
#else
    return false;
#endif
}

static int open_encoder(media_writer *w, gimbal_error *err)
{
    const Format *format = w->format;
    const AVCodec *codec = avcodec_find_encoder_by_name(format->encoder);
    AVCodecContext *c = w->encoder = avcodec_alloc_context3(codec);
    AVDictionary *options = NULL;
    if (!c)
        return fail_av(err, AVERROR(ENOMEM), w->path, "encoder");
    c->width = av_buffersink_get_w(w->sink);
    c->height = av_buffersink_get_h(w->sink);
    c->pix_fmt = av_buffersink_get_format(w->sink);
    c->time_base = av_buffersink_get_time_base(w->sink);
    c->framerate = w->rate;
    c->sample_aspect_ratio = (AVRational){1, 1};
    c->thread_count = 1;
    c->flags |= AV_CODEC_FLAG_BITEXACT;
    if (format->bt709) {
        c->colorspace = AVCOL_SPC_BT709;
        c->color_primaries = AVCOL_PRI_BT709;
        c->color_trc = AVCOL_TRC_BT709;
        c->color_range = AVCOL_RANGE_MPEG;
    }
    if (w->muxer && (w->muxer->oformat->flags & AVFMT_GLOBALHEADER))
        c->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    int r =
        format->encoder_options ? av_dict_parse_string(&options, format->encoder_options, "=", ":", 0) : 0;
    if (r >= 0 && format->wide_options && has_avx512())
        r = av_dict_parse_string(&options, format->wide_options, "=", ":", 0);
    if (r >= 0)
        r = avcodec_open2(c, codec, &options);
    av_dict_free(&options);
    return r < 0 ? fail_av(err, r, w->path, "encoder") : GIMBAL_OK;
}

/* The container's first bytes, into the staged file. */
static int open_muxer(media_writer *w, gimbal_error *err)
{
    char url[PATH_ROOM + 8];
    AVDictionary *options = NULL;
    AVStream *stream = avformat_new_stream(w->muxer, NULL);
    if (!stream)
        return fail_av(err, AVERROR(ENOMEM), w->path, "container");
    /* "file:" keeps FFmpeg from reading a protocol into a name with a colon. */
    snprintf(url, sizeof url, "file:%s", w->files[0].path);
    stream->time_base = w->encoder->time_base;
    stream->avg_frame_rate = w->rate;
    w->muxer->flags |= AVFMT_FLAG_BITEXACT;
    w->muxer->url = av_strdup(url); /* faststart reads the file back by it */
    int r = w->muxer->url ? avcodec_parameters_from_context(stream->codecpar, w->encoder) : AVERROR(ENOMEM);
    if (r >= 0 && w->recipe && w->format->show.holds_text)
        r = av_dict_set(&w->muxer->metadata, "comment", w->recipe, 0);
    if (r >= 0 && w->format->muxer_options)
        r = av_dict_parse_string(&options, w->format->muxer_options, "=", ":", 0);
    if (r >= 0)
        r = avio_open(&w->muxer->pb, url, AVIO_FLAG_WRITE);
    if (r >= 0)
        r = avformat_write_header(w->muxer, &options);
    av_dict_free(&options);
    return r < 0 ? fail_av(err, r, w->path, "container") : GIMBAL_OK;
}

static int open_all(media_writer *w, gimbal_error *err)
{
    w->filtered = av_frame_alloc();
    w->packet = av_packet_alloc();
    if (!w->filtered || !w->packet)
        return fail_av(err, AVERROR(ENOMEM), w->path, "encoder");
    TRY(open_graph(w, err));
    if (w->format->muxer) {
        const int r = avformat_alloc_output_context2(&w->muxer, NULL, w->format->muxer, NULL);
        if (r < 0)
            return fail_av(err, r, w->path, "container");
    }
    TRY(open_encoder(w, err));
    return w->muxer ? open_muxer(w, err) : GIMBAL_OK;
}

/* ---- the way of a picture ---------------------------------------------------------------- */

/* Into a staged file; messages name what it will be. */
static int write_bytes(const Stage *to, const void *data, size_t size, gimbal_error *err)
{
    FILE *f = fopen(to->path, "wb");
    if (!f)
        return fail(err, GIMBAL_EIO, "%s: %s", to->target, strerror(errno));
    const bool whole = fwrite(data, 1, size, f) == size;
    const int reason = errno;
    if (fclose(f) || !whole)
        return fail(err, GIMBAL_EIO, "%s: cannot write: %s", to->target, strerror(whole ? errno : reason));
    return GIMBAL_OK;
}

/* A packet is a picture's whole file, or the container's business. */
static int write_packet(media_writer *w, gimbal_error *err)
{
    AVPacket *p = w->packet;
    if (!w->muxer)
        return write_bytes(&w->files[w->n_files - 1], p->data, (size_t)p->size, err);
    AVStream *stream = w->muxer->streams[0];
    if (!p->duration)
        p->duration = 1; /* of the encoder's time base: without it the last picture has no length */
    av_packet_rescale_ts(p, w->encoder->time_base, stream->time_base);
    p->stream_index = 0;
    const int r = av_interleaved_write_frame(w->muxer, p);
    return r < 0 ? fail_av(err, r, w->path, "writing") : GIMBAL_OK;
}

/* frame NULL: the encoder gives out what it still holds. */
static int encode(media_writer *w, AVFrame *frame, gimbal_error *err)
{
    if (frame) {
        frame->pict_type = AV_PICTURE_TYPE_NONE;
        frame->quality = w->encoder->global_quality; /* encoders of constant quality read it here */
    }
    int r = avcodec_send_frame(w->encoder, frame);
    while (r >= 0) {
        r = avcodec_receive_packet(w->encoder, w->packet);
        if (r == AVERROR(EAGAIN) || r == AVERROR_EOF)
            return GIMBAL_OK;
        if (r < 0)
            break;
        const int code = write_packet(w, err);
        av_packet_unref(w->packet);
        if (code)
            return code;
    }
    return fail_av(err, r, w->path, "encoding");
}

static int drain_graph(media_writer *w, gimbal_error *err)
{
    for (;;) {
        const int r = av_buffersink_get_frame(w->sink, w->filtered);
        if (r == AVERROR(EAGAIN) || r == AVERROR_EOF)
            return GIMBAL_OK;
        if (r < 0)
            return fail_av(err, r, w->path, "colour conversion");
        const int code = encode(w, w->filtered, err);
        av_frame_unref(w->filtered);
        if (code)
            return code;
    }
}

/* rgb [height][width][3] as a frame; the added column and row of an odd size repeat the edge. */
static AVFrame *frame_of(const media_writer *w, const uint8_t *rgb)
{
    AVFrame *frame = av_frame_alloc();
    if (!frame)
        return NULL;
    frame->format = AV_PIX_FMT_RGB24;
    frame->width = w->coded_width, frame->height = w->coded_height;
    frame->sample_aspect_ratio = (AVRational){1, 1};
    frame->pts = w->pictures;
    if (av_frame_get_buffer(frame, 0) < 0) {
        av_frame_free(&frame);
        return NULL;
    }
    for (int y = 0; y < w->coded_height; y++) {
        uint8_t *row = frame->data[0] + (ptrdiff_t)y * frame->linesize[0];
        memcpy(row, rgb + 3 * (size_t)w->width * (size_t)MIN(y, w->height - 1), 3 * (size_t)w->width);
        for (int x = w->width; x < w->coded_width; x++)
            memcpy(row + 3 * (size_t)x, row + 3 * (size_t)(w->width - 1), 3);
    }
    return frame;
}

int media_put(media_writer *w, const uint8_t *rgb, gimbal_error *err)
{
    if (!w->graph)
        TRY(open_all(w, err));
    if (!w->muxer && w->pictures) {
        if (!w->name.sequence)
            return fail_hint(err, GIMBAL_EUSAGE, "name a sequence: f%03d.png",
                             "%s: holds one picture, not a clip", w->path);
        TRY(add_file(w, err));
    }
    AVFrame *frame = frame_of(w, rgb);
    if (!frame)
        return fail_av(err, AVERROR(ENOMEM), w->path, "picture");
    const int r = av_buffersrc_add_frame(w->source, frame);
    av_frame_free(&frame);
    if (r < 0)
        return fail_av(err, r, w->path, "colour conversion");
    w->pictures++;
    return drain_graph(w, err);
}

/* ---- closing ----------------------------------------------------------------------------- */

static int flush(media_writer *w, gimbal_error *err)
{
    if (!w->pictures)
        return fail(err, GIMBAL_EUSAGE, "%s: no picture was given", w->path);
    int r = av_buffersrc_add_frame(w->source, NULL);
    if (r < 0)
        return fail_av(err, r, w->path, "colour conversion");
    TRY(drain_graph(w, err));
    TRY(encode(w, NULL, err));
    if (w->muxer) {
        r = av_write_trailer(w->muxer);
        const int closed = avio_closep(&w->muxer->pb);
        if (r < 0 || closed < 0)
            return fail_av(err, r < 0 ? r : closed, w->path, "writing");
    }
    if (w->sidecar.open)
        TRY(write_bytes(&w->sidecar, w->recipe, strlen(w->recipe), err));
    return GIMBAL_OK;
}

/* All files or none: what was renamed before one fails is taken back. */
static int commit(media_writer *w, gimbal_error *err)
{
    int code = GIMBAL_OK, done = 0;
    while (!code && done < w->n_files)
        if (!(code = stage_commit(&w->files[done], err)))
            done++;
    if (!code && w->sidecar.open)
        code = stage_commit(&w->sidecar, err);
    if (code)
        while (done-- > 0)
            unlink(w->files[done].target);
    return code;
}

int media_close(media_writer *w, gimbal_error *err)
{
    int code = flush(w, err);
    if (!code)
        code = commit(w, err);
    media_abort(w);
    return code;
}

void media_abort(media_writer *w)
{
    if (!w)
        return;
    avfilter_graph_free(&w->graph);
    avcodec_free_context(&w->encoder);
    if (w->muxer)
        avio_closep(&w->muxer->pb);
    avformat_free_context(w->muxer);
    av_frame_free(&w->filtered);
    av_packet_free(&w->packet);
    for (int i = 0; i < w->n_files; i++)
        stage_abort(&w->files[i]);
    stage_abort(&w->sidecar);
    free(w->files);
    free(w->path);
    free(w->recipe);
    free(w);
}
