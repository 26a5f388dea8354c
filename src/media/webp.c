/* webp.c: animated WebP in, which FFmpeg writes but does not read: its decoder knows stills only.
 *
 *     RIFF size WEBP, VP8X, ANIM, then per picture ANMF: x/2 y/2 w-1 h-1 duration (24 bits each), flags,
 *     and inside it the chunks of a still: [ALPH] VP8 | VP8L
 *
 * Each ANMF becomes a still WebP in memory, goes through FFmpeg's decoder, and is laid on a canvas RGBA
 * [height][width][4] as its flags say (blended or not; its place cleared afterwards or not). All sizes are
 * checked against the file when it is opened. Source: the WebP container specification.
 *
 * Refuses to know bits of pictures, colour beyond RGBA, and loops. */
#include "media/ffmpeg.h"

#include <stdlib.h>
#include <string.h>

#include <libavcodec/avcodec.h>

enum {
    ANIMATED = 2, /* flag of VP8X */
    HAS_ALPHA = 16,
    REPLACE = 2, /* flags of ANMF: no blending; clear afterwards */
    CLEAR = 1,
    MOST_BYTES = 1 << 29
};

struct WebpClip {
    const char *path;
    char *data; /* the file */
    size_t size, at;
    int width, height, frames;
    int64_t milliseconds;
    AVPacket *packet;
    AVFrame *picture, *canvas;
    Pixels pixels;
    struct Place {
        int x, y, w, h;
        bool clear;
    } last; /* what the next picture has to clear first */
};

/* ---- chunks ------------------------------------------------------------------------------ */

static uint32_t little(const void *data, int bytes)
{
    const uint8_t *p = data;
    uint32_t v = 0;
    for (int i = 0; i < bytes; i++)
        v |= (uint32_t)p[i] << 8 * i;
    return v;
}

static bool is_tag(const void *data, const char tag[4])
{
    return !memcmp(data, tag, 4);
}

bool webp_is_clip(const char *path)
{
    char head[21];
    FILE *f = fopen(path, "rb");
    const bool whole = f && fread(head, 1, sizeof head, f) == sizeof head;
    if (f)
        fclose(f);
    return whole && is_tag(head, "RIFF") && is_tag(head + 8, "WEBP") && is_tag(head + 12, "VP8X") &&
           head[20] & ANIMATED;
}

/* Bytes of the chunk at `at`, padding included; 0 when it does not fit. */
static size_t chunk_bytes(const WebpClip *w, size_t at)
{
    if (w->size - at < 8)
        return 0;
    const size_t n = (size_t)little(w->data + at + 4, 4);
    const size_t bytes = MIN(8 + n + (n & 1), w->size - at); /* the file's last padding may be missing */
    return bytes >= 8 + n ? bytes : 0;
}

/* Walks all chunks: counts pictures and time, and finds a file that is cut short. */
static int survey(WebpClip *w, gimbal_error *err)
{
    for (size_t at = 12, n; at < w->size; at += n) {
        n = chunk_bytes(w, at);
        if (!n)
            return fail(err, GIMBAL_EFORMAT,
                        "%s: cut short: a chunk at byte %zu ends after the file's %zu bytes", w->path, at,
                        w->size);
        if (!is_tag(w->data + at, "ANMF"))
            continue;
        if (n < 8 + 16 + 8)
            return fail(err, GIMBAL_EFORMAT, "%s: the picture at byte %zu has %zu bytes, too few", w->path,
                        at, n);
        w->frames++;
        w->milliseconds += little(w->data + at + 8 + 12, 3);
    }
    return w->frames ? GIMBAL_OK : fail(err, GIMBAL_EFORMAT, "%s: no pictures in it", w->path);
}

/* ---- a clip ------------------------------------------------------------------------------ */

static int prepare(WebpClip *w, gimbal_error *err)
{
    w->packet = av_packet_alloc();
    w->picture = av_frame_alloc();
    w->canvas = av_frame_alloc();
    if (!w->packet || !w->picture || !w->canvas)
        return fail_av(err, AVERROR(ENOMEM), w->path, "decoder");
    w->canvas->format = AV_PIX_FMT_RGBA, w->canvas->width = w->width, w->canvas->height = w->height;
    const int code = av_frame_get_buffer(w->canvas, 0);
    if (code < 0)
        return fail_av(err, code, w->path, "decoder");
    memset(w->canvas->data[0], 0, (size_t)w->canvas->linesize[0] * (size_t)w->height);
    return GIMBAL_OK;
}

static int open_clip(WebpClip *w, gimbal_error *err)
{
    TRY(read_file(&w->data, &w->size, w->path, MOST_BYTES, err));
    if (w->size < 30 || little(w->data + 16, 4) < 10)
        return fail(err, GIMBAL_EFORMAT, "%s: cut short in its header", w->path);
    w->width = (int)little(w->data + 24, 3) + 1, w->height = (int)little(w->data + 27, 3) + 1;
    TRY(check_size(w->width, w->height, w->path, err));
    TRY(survey(w, err));
    w->at = 12;
    return prepare(w, err);
}

int webp_open(WebpClip **out, const char *path, gimbal_error *err)
{
    *out = NULL;
    quiet_ffmpeg();
    WebpClip *w = calloc(1, sizeof *w);
    if (!w)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for a reader", path);
    w->path = path;
    const int code = open_clip(w, err);
    if (code)
        webp_free(w);
    else
        *out = w;
    return code;
}

void webp_describe(const WebpClip *w, int *frames, double *fps)
{
    *frames = w->frames;
    *fps = w->milliseconds ? 1000.0 * w->frames / (double)w->milliseconds : 0;
}

void webp_free(WebpClip *w)
{
    if (!w)
        return;
    av_packet_free(&w->packet);
    av_frame_free(&w->picture);
    av_frame_free(&w->canvas);
    pixels_free(&w->pixels);
    free(w->data); /* read_file's */
    free(w);
}

/* ---- a picture --------------------------------------------------------------------------- */

static void put_little(uint8_t *p, size_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

/* The still inside an ANMF, [n] bytes of chunks, as a file: RIFF, and VP8X where transparency needs it. */
static int make_still(WebpClip *w, const char *chunks, size_t n, const struct Place *at)
{
    const size_t extra = is_tag(chunks, "ALPH") ? 18 : 0;
    const int code = av_new_packet(w->packet, (int)(12 + extra + n));
    if (code < 0)
        return code;
    uint8_t *p = w->packet->data;
    memcpy(p, "RIFF....WEBPVP8X", MIN(12 + extra, 16));
    put_little(p + 4, 4 + extra + n, 4);
    if (extra) {
        put_little(p + 16, 10, 4);
        put_little(p + 20, HAS_ALPHA, 4);
        put_little(p + 24, (size_t)at->w - 1, 3);
        put_little(p + 27, (size_t)at->h - 1, 3);
    }
    memcpy(p + 12 + extra, chunks, n);
    return 0;
}

/* The packet's picture. A decoder of its own for each: FFmpeg's carries transparency of one still into the
 * next. */
static int decode_still(WebpClip *w, gimbal_error *err)
{
    const AVCodec *codec = avcodec_find_decoder(AV_CODEC_ID_WEBP);
    if (!codec)
        return fail(err, GIMBAL_ENOSUP, "%s: FFmpeg's libraries here cannot decode WebP", w->path);
    AVCodecContext *decoder = avcodec_alloc_context3(codec);
    int code = AVERROR(ENOMEM);
    if (decoder) {
        decoder->thread_count = 1;
        decoder->max_pixels = MAX_PIXELS;
        decoder->err_recognition |= AV_EF_EXPLODE;
        code = avcodec_open2(decoder, codec, NULL);
    }
    if (code >= 0)
        code = avcodec_send_packet(decoder, w->packet);
    if (code >= 0)
        code = avcodec_receive_frame(decoder, w->picture);
    avcodec_free_context(&decoder);
    return code < 0 ? fail_av(err, code, w->path, "decoding") : GIMBAL_OK;
}

static int decode(WebpClip *w, const char *chunks, size_t n, const struct Place *at, gimbal_error *err)
{
    const int made = make_still(w, chunks, n, at);
    int code = made < 0 ? fail_av(err, made, w->path, "picture") : decode_still(w, err);
    av_packet_unref(w->packet);
    TRY(code);
    const AVFrame *f = w->picture;
    if (f->decode_error_flags || (f->flags & AV_FRAME_FLAG_CORRUPT))
        return fail(err, GIMBAL_EFORMAT, "%s: a picture is damaged", w->path);
    if (f->width != at->w || f->height != at->h)
        return fail(err, GIMBAL_EFORMAT, "%s: a picture of %dx%d pixels where %dx%d were announced", w->path,
                    f->width, f->height, at->w, at->h);
    code = pixels_rgba(&w->pixels, f, w->path, err);
    av_frame_unref(w->picture);
    return code;
}

/* Colours are not premultiplied. */
static void blend(uint8_t *to, const uint8_t *from)
{
    const unsigned a = from[3], rest = to[3] * (255 - a), sum = 255 * a + rest; /* 255 times the result's */
    for (int i = 0; i < 3 && sum; i++)
        to[i] = (uint8_t)((255 * a * from[i] + rest * to[i] + sum / 2) / sum);
    to[3] = (uint8_t)((sum + 127) / 255);
}

static uint8_t *canvas_at(const WebpClip *w, int x, int y)
{
    return w->canvas->data[0] + (ptrdiff_t)y * w->canvas->linesize[0] + 4 * (ptrdiff_t)x;
}

static void lay(const WebpClip *w, const struct Place *at, bool replace)
{
    for (int y = 0; y < at->h; y++) {
        const uint8_t *from = w->pixels.rgba->data[0] + (ptrdiff_t)y * w->pixels.rgba->linesize[0];
        uint8_t *to = canvas_at(w, at->x, at->y + y);
        if (replace)
            memcpy(to, from, 4 * (size_t)at->w);
        for (int x = 0; !replace && x < at->w; x++)
            blend(to + 4 * x, from + 4 * x);
    }
}

/* data: an ANMF chunk of n bytes. */
static int show(WebpClip *w, const char *data, size_t n, AVFrame *out, gimbal_error *err)
{
    const char *head = data + 8;
    const int x = 2 * (int)little(head, 3), y = 2 * (int)little(head + 3, 3);
    const int width = (int)little(head + 6, 3) + 1, height = (int)little(head + 9, 3) + 1;
    const struct Place at = {x, y, width, height, head[15] & CLEAR};
    if (x > w->width - width || y > w->height - height)
        return fail(err, GIMBAL_EFORMAT, "%s: a picture of %dx%d at %d, %d lies outside the clip's %dx%d",
                    w->path, width, height, x, y, w->width, w->height);
    TRY(decode(w, head + 16, n - 24, &at, err));
    /* Whoever asked for the last picture may still hold it. */
    int code = av_frame_make_writable(w->canvas);
    for (int row = 0; code >= 0 && w->last.clear && row < w->last.h; row++)
        memset(canvas_at(w, w->last.x, w->last.y + row), 0, 4 * (size_t)w->last.w);
    if (code >= 0) {
        lay(w, &at, head[15] & REPLACE);
        w->last = at;
        code = av_frame_ref(out, w->canvas);
    }
    return code < 0 ? fail_av(err, code, w->path, "picture") : 1;
}

int webp_next(WebpClip *w, AVFrame *out, gimbal_error *err)
{
    while (w->at < w->size) {
        const char *data = w->data + w->at;
        const size_t n = chunk_bytes(w, w->at);
        w->at += n;
        if (is_tag(data, "ANMF"))
            return show(w, data, n, out, err);
    }
    return 0;
}
