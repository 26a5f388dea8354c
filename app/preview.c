/* preview.c: generate --preview: the running clip's middle frame as a picture, every few steps.
 *
 * What is shown is the current estimate of the clean clip, decoded by the model's own VAE between two network
 * calls; the run is not changed by it. The file is replaced whole each time, so that a viewer never sees half
 * of one. A preview that fails is a warning and the last one: a run is worth more than a picture of it.
 * Refuses to know where latents come from. */
#include "app/app.h"

#include <stdlib.h>
#include <string.h>

int preview_check(const char *path, gimbal_error *err)
{
    if (!ends_with(path, ".png") || strchr(path, '%'))
        return complain(err, GIMBAL_EUSAGE, "--preview preview.png",
                        "--preview %s: must name one picture, a .png", path);
    return output_check(path, 1, err);
}

/* [C,F,h,w] -> its middle frame, [C,1,h,w]; NULL: no memory. */
static float *middle(const float *latents, gimbal_shape s)
{
    const size_t plane = (size_t)s.h * (size_t)s.w;
    float *one = malloc((size_t)s.c * plane * sizeof *one);
    for (size_t c = 0; one && c < (size_t)s.c; c++)
        memcpy(one + c * plane, latents + (c * (size_t)s.f + (size_t)s.f / 2) * plane, plane * sizeof *one);
    return one;
}

typedef struct {
    const char *path;
    gimbal_error *err;
    int code;
} Picture;

static int on_frame(void *user, int i, const uint8_t *rgb, int width, int height)
{
    Picture *p = user;
    media_writer *out;
    (void)i;
    p->code = media_create(&out, p->path, width, height, 1, NULL, p->err);
    if (!p->code)
        p->code = media_put(out, rgb, p->err);
    else
        return p->code;
    if (!p->code)
        p->code = check_fault(p->err);
    if (p->code)
        media_abort(out);
    else
        p->code = media_close(out, p->err);
    return p->code;
}

static int draw(const Preview *preview, gimbal_session *session, const gimbal_progress *p, gimbal_error *err)
{
    const gimbal_shape shape = {p->shape.c, 1, p->shape.h, p->shape.w};
    Picture picture = {.path = preview->path, .err = err};
    float *one = middle(p->latents, p->shape);
    if (!one)
        return fail_memory(err);
    const int code = gimbal_decode(session, one, shape, on_frame, &picture, err);
    free(one);
    return picture.code ? picture.code : code;
}

void preview_show(Preview *preview, gimbal_session *session, const gimbal_progress *p, Progress *progress)
{
    gimbal_error err = {0};
    const bool due =
        p->latents && !strcmp(p->stage, "sample") && (p->step % preview->every == 0 || p->step == p->steps);
    if (!preview->path || !due || signals_seen())
        return;
    const int code = draw(preview, session, p, &err);
    if (!code || code == GIMBAL_ECANCEL)
        return;
    progress_clear(progress);
    fprintf(stderr, "gimbal: warning: no more previews: %s\n", err.msg[0] ? err.msg : gimbal_code_name(code));
    preview->path = NULL;
}
