/* steady.c: libgimbal from beginning to end in one file: a prompt becomes a consistent clip, with FreeInit.
 *
 *     steady MODEL PROMPT OUT.y4m [STEPS]
 *     steady models/toyworld "a large red circle" circle.y4m 25
 *
 * Nothing but the library and libc: the clip is written as YUV4MPEG2, 4:4:4, which players and ffmpeg read.
 * Build:
 *
 *     cc steady.c $(pkg-config --cflags --libs gimbal)
 */
#include "gimbal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the callbacks need; the file is opened with the first frame. */
typedef struct {
    const char *path;
    FILE *file;
} Out;

static int on_step(void *user, const gimbal_progress *p)
{
    (void)user;
    if (!strcmp(p->stage, "sample"))
        fprintf(stderr, "pass %d/%d, step %d/%d, %.1f s to go\n", p->pass, p->passes, p->step, p->steps,
                p->eta < 0 ? 0 : p->eta);
    return 0; /* nonzero would stop the run */
}

/* RGB to one plane of BT.601, limited range. Rows: Y, Cb, Cr. */
static int to_plane(int plane, const uint8_t *rgb)
{
    static const double row[3][4] = {
        {16, 65.481, 128.553, 24.966}, {128, -37.797, -74.203, 112.0}, {128, 112.0, -93.786, -18.214}};
    const double *k = row[plane];
    return (int)(k[0] + (k[1] * rgb[0] + k[2] * rgb[1] + k[3] * rgb[2]) / 255 + 0.5);
}

/* One frame of the decoded clip, rgb [height][width][3]. */
static int on_frame(void *user, int i, const uint8_t *rgb, int width, int height)
{
    Out *out = user;
    if (i == 0) {
        out->file = fopen(out->path, "wb");
        if (!out->file)
            return -1;
        fprintf(out->file, "YUV4MPEG2 W%d H%d F8:1 Ip A1:1 C444\n", width, height);
    }
    fputs("FRAME\n", out->file);
    for (int plane = 0; plane < 3; plane++)
        for (int k = 0; k < width * height; k++)
            putc(to_plane(plane, rgb + 3 * k), out->file);
    return ferror(out->file);
}

/* The run itself: settings, memory, all passes, pictures. */
static int make(gimbal_engine *engine, const char *prompt, int steps, Out *out, gimbal_error *err)
{
    gimbal_settings s;
    gimbal_session *run;
    gimbal_defaults(&s, engine);
    s.prompt = prompt;
    s.reinit = "freeinit:passes=2";
    s.cfg = 5;
    s.seed = 47;
    s.progress = on_step;
    if (steps > 0)
        s.steps = steps;
    int code = gimbal_begin(&run, engine, &s, err);
    if (code)
        return code;
    const gimbal_shape z = gimbal_latent_shape(run);
    float *latents = calloc((size_t)z.c * z.f, sizeof(float) * z.h * z.w);
    code = latents ? gimbal_sample(run, latents, err) : GIMBAL_ENOMEM;
    if (!code)
        code = gimbal_decode(run, latents, z, on_frame, out, err);
    free(latents);
    gimbal_end(run);
    return code;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: steady MODEL PROMPT OUT.y4m [STEPS]\n");
        return 2;
    }
    gimbal_error err = {0};
    gimbal_engine *engine;
    Out out = {.path = argv[3]};
    int code = gimbal_open(&engine, argv[1], NULL, &err);
    if (!code)
        code = make(engine, argv[2], argc > 4 ? atoi(argv[4]) : 0, &out, &err);
    gimbal_close(engine);
    if (out.file && fclose(out.file) && !code)
        code = GIMBAL_EIO;
    if (code) {
        fprintf(stderr, "steady: %s\n", err.msg[0] ? err.msg : gimbal_code_name(code));
        if (err.hint[0])
            fprintf(stderr, "  %s\n", err.hint);
        remove(argv[3]);
        return 1;
    }
    puts(argv[3]);
    return 0;
}
