/* pixels.c: one decoded picture of any format into RGB8 [height][width][3]: colour, transparency, size,
 * orientation.
 *
 *     frame -> (RGBA, over black) -> RGB of the wanted size -> turned
 *
 * Range: what the file says; where it says nothing, grey and the yuvj formats are full range, other YUV is
 * limited range. Matrix: what the file says, else BT.601, as swscale does. Transparency is composited on
 * black, because what lies under transparent pixels is whatever the encoder left there. Orientations are
 * counted as in EXIF: stored pixel (x, y) is shown at (a x + c y, b x + d y), shifted into the picture.
 *
 * Refuses to know files and clips. */
#include "media/ffmpeg.h"

#include <string.h>

#include <libavutil/display.h>
#include <libavutil/imgutils.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>

/* ---- orientation ------------------------------------------------------------------------- */

static const struct {
    int a, b, c, d;
} turns[9] = {
    {1, 0, 0, 1},   {1, 0, 0, 1}, /* 0 is no orientation, 1 upright */
    {-1, 0, 0, 1},                /* 2 mirrored */
    {-1, 0, 0, -1},               /* 3 upside down */
    {1, 0, 0, -1},                /* 4 upside down and mirrored */
    {0, 1, 1, 0},                 /* 5 to 8: the stored rows are columns */
    {0, 1, -1, 0},  {0, -1, -1, 0}, {0, -1, 1, 0},
};

bool orientation_swaps(int orientation)
{
    return turns[orientation].a == 0;
}

/* The nearest of the eight to a display matrix; matrices that are no turn of a picture leave it as it is. */
static int orientation_of_matrix(const int32_t m[9])
{
    const double p[4] = {m[0], m[1], m[3], m[4]};
    int best = 1;
    double most = 0;
    for (int i = 1; i <= 8; i++) {
        const double fit = p[0] * turns[i].a + p[1] * turns[i].b + p[2] * turns[i].c + p[3] * turns[i].d;
        if (fit > most * (1 + 1e-9))
            most = fit, best = i;
    }
    return best;
}

int orientation_of(const AVFrame *frame, const AVStream *stream)
{
    int32_t matrix[9];
    size_t size = 0;
    const AVFrameSideData *own = av_frame_get_side_data(frame, AV_FRAME_DATA_DISPLAYMATRIX);
    const uint8_t *data = own ? own->data : NULL;
    size = own ? own->size : 0;
    if (!data && stream)
        data = av_stream_get_side_data(stream, AV_PKT_DATA_DISPLAYMATRIX, &size);
    if (data && size >= sizeof matrix) {
        memcpy(matrix, data, sizeof matrix);
        return orientation_of_matrix(matrix);
    }
    /* WebP's EXIF becomes metadata only. */
    const AVDictionaryEntry *tag = av_dict_get(frame->metadata, "Orientation", NULL, 0);
    const char *digit = tag ? tag->value + strspn(tag->value, " ") : "";
    return digit[0] >= '1' && digit[0] <= '8' && !digit[1] ? digit[0] - '0' : 1;
}

/* from: dense rows of `stride` bytes, w x h as stored; to: dense, upright. */
static void turn(const uint8_t *from, ptrdiff_t stride, int w, int h, int orientation, uint8_t *to)
{
    const int a = turns[orientation].a, b = turns[orientation].b;
    const int c = turns[orientation].c, d = turns[orientation].d;
    const ptrdiff_t width = a ? w : h, height = a ? h : w;
    const ptrdiff_t x0 = a + c < 0 ? width - 1 : 0, y0 = b + d < 0 ? height - 1 : 0;
    for (int y = 0; y < h; y++) {
        const uint8_t *in = from + stride * y;
        for (int x = 0; x < w; x++, in += 3) {
            uint8_t *out = to + 3 * (width * (y0 + b * x + d * y) + x0 + a * x + c * y);
            out[0] = in[0], out[1] = in[1], out[2] = in[2];
        }
    }
}

/* ---- colour ------------------------------------------------------------------------------ */

static bool has_alpha(const AVFrame *f)
{
    const AVPixFmtDescriptor *d = av_pix_fmt_desc_get(f->format);
    return d && d->flags & (AV_PIX_FMT_FLAG_ALPHA | AV_PIX_FMT_FLAG_PAL);
}

static bool is_full_range(const AVFrame *f)
{
    if (f->color_range != AVCOL_RANGE_UNSPECIFIED)
        return f->color_range == AVCOL_RANGE_JPEG;
    const AVPixFmtDescriptor *d = av_pix_fmt_desc_get(f->format);
    return d && (d->nb_components < 3 || !strncmp(d->name, "yuvj", 4));
}

static int make_frame(AVFrame **out, int format, int width, int height)
{
    AVFrame *f = *out;
    if (f && f->width == width && f->height == height)
        return 0;
    av_frame_free(out);
    f = *out = av_frame_alloc();
    if (!f)
        return AVERROR(ENOMEM);
    f->format = format, f->width = width, f->height = height;
    return av_frame_get_buffer(f, 0);
}

static int convert(struct SwsContext **scaler, const AVFrame *from, AVFrame *to, const char *path,
                   gimbal_error *err)
{
    const bool same = from->width == to->width && from->height == to->height;
    *scaler = sws_getCachedContext(
        *scaler, from->width, from->height, from->format, to->width, to->height, to->format,
        (same ? SWS_BICUBIC : SWS_LANCZOS) | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP, NULL,
        NULL, NULL);
    if (!*scaler)
        return fail(err, GIMBAL_EFORMAT, "%s: pictures of %dx%d in %s cannot be converted to RGB", path,
                    from->width, from->height, av_get_pix_fmt_name(from->format));
    const int matrix = from->colorspace == AVCOL_SPC_UNSPECIFIED ? SWS_CS_ITU601 : (int)from->colorspace;
    sws_setColorspaceDetails(*scaler, sws_getCoefficients(matrix), is_full_range(from),
                             sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, 1 << 16, 1 << 16);
    const int rows = sws_scale(*scaler, (const uint8_t *const *)from->data, from->linesize, 0, from->height,
                               to->data, to->linesize);
    return rows < 0 ? fail_av(err, rows, path, "colour conversion") : GIMBAL_OK;
}

int pixels_rgba(Pixels *p, const AVFrame *frame, const char *path, gimbal_error *err)
{
    const int code = make_frame(&p->rgba, AV_PIX_FMT_RGBA, frame->width, frame->height);
    if (code < 0)
        return fail_av(err, code, path, "picture");
    return convert(&p->to_rgba, frame, p->rgba, path, err);
}

/* RGBA over black, in place. True where something was not opaque. */
static bool blacken(AVFrame *f)
{
    bool found = false;
    for (int y = 0; y < f->height; y++) {
        uint8_t *p = f->data[0] + (ptrdiff_t)y * f->linesize[0];
        for (int x = 0; x < f->width; x++, p += 4)
            if (p[3] != 255) {
                found = true;
                for (int i = 0; i < 3; i++)
                    p[i] = (uint8_t)((p[i] * p[3] + 127) / 255);
                p[3] = 255;
            }
    }
    return found;
}

int pixels_rgb(Pixels *p, const AVFrame *frame, int orientation, int width, int height, uint8_t *rgb,
               const char *path, gimbal_error *err)
{
    const bool swaps = orientation_swaps(orientation);
    const int w = swaps ? height : width, h = swaps ? width : height; /* as stored */
    if (has_alpha(frame)) {
        TRY(pixels_rgba(p, frame, path, err));
        p->transparent |= blacken(p->rgba);
        frame = p->rgba;
    }
    /* Through a frame of its own: swscale may write past the end of a row. */
    const int code = make_frame(&p->rgb, AV_PIX_FMT_RGB24, w, h);
    if (code < 0)
        return fail_av(err, code, path, "picture");
    TRY(convert(&p->to_rgb, frame, p->rgb, path, err));
    if (orientation == 1)
        av_image_copy_plane(rgb, 3 * w, p->rgb->data[0], p->rgb->linesize[0], 3 * w, h);
    else
        turn(p->rgb->data[0], p->rgb->linesize[0], w, h, orientation, rgb);
    return GIMBAL_OK;
}

void pixels_free(Pixels *p)
{
    sws_freeContext(p->to_rgba);
    sws_freeContext(p->to_rgb);
    av_frame_free(&p->rgba);
    av_frame_free(&p->rgb);
}
