/* png.c: one picture as the bytes of a PNG file, in memory, for pages that carry their pictures themselves.
 *
 *     rgb [height][width][3] -> FFmpeg's png encoder -> bytes
 *
 * Refuses to know files and pages. */
#include "media/ffmpeg.h"

#include <stdlib.h>
#include <string.h>

#include <libavcodec/avcodec.h>
#include <libavutil/opt.h>

static int open_png(AVCodecContext **out, const AVCodec *codec, int width, int height)
{
    AVCodecContext *c = *out = avcodec_alloc_context3(codec);
    if (!c)
        return AVERROR(ENOMEM);
    c->width = width, c->height = height;
    c->pix_fmt = AV_PIX_FMT_RGB24;
    c->time_base = (AVRational){1, 1};
    c->thread_count = 1;
    const int r = av_opt_set(c->priv_data, "pred", "mixed", 0); /* the best filter for each row */
    return r < 0 ? r : avcodec_open2(c, codec, NULL);
}

static int encode(AVCodecContext *c, const uint8_t *rgb, AVFrame *frame, AVPacket *packet)
{
    if (!frame || !packet)
        return AVERROR(ENOMEM);
    frame->format = c->pix_fmt, frame->width = c->width, frame->height = c->height;
    int r = av_frame_get_buffer(frame, 0);
    for (int y = 0; r >= 0 && y < c->height; y++)
        memcpy(frame->data[0] + y * (ptrdiff_t)frame->linesize[0], rgb + 3 * (size_t)y * (size_t)c->width,
               3 * (size_t)c->width);
    r = r < 0 ? r : avcodec_send_frame(c, frame);
    r = r < 0 ? r : avcodec_send_frame(c, NULL);
    return r < 0 ? r : avcodec_receive_packet(c, packet);
}

int media_png(const uint8_t *rgb, int width, int height, uint8_t **out, size_t *size, gimbal_error *err)
{
    *out = NULL, *size = 0;
    if (width < 1 || height < 1 || width > MAX_SIDE || height > MAX_SIDE ||
        (int64_t)width * height > MAX_PIXELS)
        return fail(err, GIMBAL_EUSAGE,
                    "a picture of %dx%d pixels, expected 1 to %d each way, at most %d in all", width, height,
                    MAX_SIDE, MAX_PIXELS);
    quiet_ffmpeg();
    const AVCodec *codec = avcodec_find_encoder(AV_CODEC_ID_PNG);
    if (!codec)
        return fail(err, GIMBAL_ENOSUP, "FFmpeg's libraries here have no encoder for PNG");
    AVCodecContext *c = NULL;
    AVFrame *frame = av_frame_alloc();
    AVPacket *packet = av_packet_alloc();
    int r = open_png(&c, codec, width, height);
    r = r < 0 ? r : encode(c, rgb, frame, packet);
    if (r >= 0 && (*out = malloc((size_t)packet->size)))
        memcpy(*out, packet->data, *size = (size_t)packet->size);
    else if (r >= 0)
        r = AVERROR(ENOMEM);
    av_packet_free(&packet);
    av_frame_free(&frame);
    avcodec_free_context(&c);
    return r < 0 ? fail_av(err, r, "a picture", "PNG encoder") : GIMBAL_OK;
}
