/* clip.c: one clip of `gimbal generate`, from settings to files.
 *
 *     --video, --image -> encoder ─┐
 *     given tensors -> session -> all passes -> latents [C,F,h,w] -> pictures -> OUT    (--save-latents)
 *                                    └ result of each pass ───────> pictures -> DIR/passN  (--save-passes)
 *
 * Everything that can fail without work fails in clip_begin; the output's temporary file is made before
 * sampling. After Ctrl-C nothing is left of OUT; finished passes are kept as latents when --save-passes asked
 * for them. Refuses to know flags. */
#include "app/app.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static size_t count_of(gimbal_shape s)
{
    return (size_t)s.c * (size_t)s.f * (size_t)s.h * (size_t)s.w;
}

/* Of what one chunk samples; without chunks that is the clip. */
static gimbal_shape chunk_shape(const Clip *clip)
{
    gimbal_shape s = clip->shape;
    s.f = clip->settings.frames;
    return s;
}

/* ---- begin ------------------------------------------------------------------------------- */

/* A pass has ended: its result is kept when it will be shown. */
static int keep_pass(Clip *clip, const gimbal_progress *p)
{
    const size_t bytes = sizeof(float) * count_of(clip->shape);
    float *copy = malloc(bytes);
    if (!copy)
        return -1;
    memcpy(copy, p->latents, bytes);
    free(clip->finished[p->pass - 1]);
    clip->finished[p->pass - 1] = copy;
    return 0;
}

static int on_progress(void *user, const gimbal_progress *p)
{
    Clip *clip = user;
    const bool ended = !strcmp(p->stage, "pass") && p->pass <= clip->passes;
    if (clip->save_passes && ended && keep_pass(clip, p))
        return -1;
    if (clip->save_passes && ended)
        resume_keep_pass(&clip->resume, p);
    resume_keep(&clip->resume, clip->session, p);
    preview_show(&clip->preview, clip->session, p, &clip->progress);
    return progress_show(&clip->progress, p);
}

static int read_fitting(const char *path, const char *tensor, gimbal_shape want, float **out,
                        gimbal_error *err)
{
    gimbal_shape s;
    TRY(latents_read(path, tensor, out, &s, err));
    if (s.c == want.c && s.f == want.f && s.h == want.h && s.w == want.w)
        return GIMBAL_OK;
    return complain(err, GIMBAL_EMODEL, "--frames, --width and --height decide the shape",
                    "%s: tensor \"%s\" is [1,%d,%d,%d,%d], this run needs [1,%d,%d,%d,%d]", path, tensor, s.c,
                    s.f, s.h, s.w, want.c, want.f, want.h, want.w);
}

/* Tensors WORD1 .. of a file, `wanted` of them one after the other: *out [wanted][C,F,h,w], the clip's. */
static int read_series(const char *path, const char *word, int wanted, gimbal_shape shape, float **out,
                       gimbal_error *err)
{
    const size_t n = count_of(shape);
    *out = calloc((size_t)wanted * n, sizeof(float));
    if (!*out)
        return fail_memory(err);
    for (int i = 0; i < wanted; i++) {
        char name[24];
        float *one = NULL;
        snprintf(name, sizeof name, "%s%d", word, i + 1);
        const int code = read_fitting(path, name, shape, &one, err);
        if (!code)
            memcpy(*out + (size_t)i * n, one, n * sizeof(float));
        free(one);
        if (code)
            return code;
    }
    return GIMBAL_OK;
}

static int read_fresh(Clip *clip, gimbal_error *err)
{
    gimbal_settings *s = &clip->settings;
    if (clip->passes < 2)
        return complain(err, GIMBAL_EUSAGE, "add --reinit freeinit:passes=3",
                        "--reinit-noise is for the passes after the first, and this run has one pass");
    TRY(read_series(clip->reinit_noise, "pass", clip->passes - 1, chunk_shape(clip), &clip->fresh, err));
    s->fresh = clip->fresh;
    s->n_fresh = clip->passes - 1;
    return GIMBAL_OK;
}

/* "latents" of the first chunk, "chunk1" .. of the later ones. */
static int read_noise(Clip *clip, gimbal_error *err)
{
    gimbal_settings *s = &clip->settings;
    TRY(read_fitting(clip->latents, "latents", chunk_shape(clip), &clip->given, err));
    s->latents = clip->given;
    if (s->chunks < 2)
        return GIMBAL_OK;
    TRY(read_series(clip->latents, "chunk", s->chunks - 1, chunk_shape(clip), &clip->given_chunks, err));
    s->chunk_latents = clip->given_chunks;
    s->n_chunk_latents = s->chunks - 1;
    return GIMBAL_OK;
}

/* The picture's latents: read here, or filled before sampling. */
static int begin_image(Clip *clip, gimbal_error *err)
{
    const gimbal_shape s = chunk_shape(clip), one = {s.c, 1, s.h, s.w};
    if (clip->image->latents)
        TRY(read_fitting(clip->image->latents, "latents", one, &clip->first, err));
    else if (image_begins(clip->image) && !(clip->first = calloc(count_of(one), sizeof(float))))
        return fail_memory(err);
    if (image_refers(clip->image) && !(clip->reference = calloc(count_of(s), sizeof(float))))
        return fail_memory(err);
    clip->settings.image = clip->first;
    clip->settings.reference = clip->reference;
    return GIMBAL_OK;
}

static int read_given(Clip *clip, gimbal_error *err)
{
    if (clip->latents)
        TRY(read_noise(clip, err));
    TRY(begin_image(clip, err));
    if (clip->video) { /* filled before sampling */
        clip->encoded = calloc(count_of(clip->shape), sizeof(float));
        if (!clip->encoded)
            return fail_memory(err);
        clip->settings.clip = clip->encoded;
    }
    return clip->reinit_noise ? read_fresh(clip, err) : GIMBAL_OK;
}

int clip_begin(Clip *clip, gimbal_error *err)
{
    gimbal_settings *s = &clip->settings;
    s->progress = on_progress;
    s->user = clip;
    TRY(output_fits(clip->output, s->width, s->height, clip->shape.f, clip->fps, err));
    TRY(read_given(clip, err));
    TRY(gimbal_begin(&clip->session, clip->engine, s, err));
    signals_watch(clip->session);
    clip->recipe = recipe_make(clip->engine, s, clip->fps, clip->latents, clip->reinit_noise, clip->video);
    if (clip->recipe && !image_to_recipe(clip->image, clip->recipe))
        clip->recipe_text = json_dumps(clip->recipe, JSON_COMPACT | JSON_REAL_PRECISION(17));
    return clip->recipe_text ? GIMBAL_OK : fail_memory(err);
}

void clip_end(Clip *clip)
{
    signals_watch(NULL);
    gimbal_end(clip->session);
    for (int i = 0; clip->finished && i < clip->passes; i++)
        free(clip->finished[i]);
    free(clip->finished);
    free(clip->given);
    free(clip->fresh);
    free(clip->given_chunks);
    free(clip->encoded);
    free(clip->first);
    free(clip->reference);
    free(clip->result);
    free(clip->recipe_text);
    json_decref(clip->recipe);
    resume_end(&clip->resume);
}

/* ---- decoding ---------------------------------------------------------------------------- */

typedef struct {
    Output *to[2]; /* second may be NULL */
    gimbal_error *err;
    int code;
} Sink;

static int on_frame(void *user, int i, const uint8_t *rgb, int width, int height)
{
    Sink *sink = user;
    (void)i, (void)width, (void)height;
    for (int k = 0; k < 2 && !sink->code; k++)
        if (sink->to[k])
            sink->code = output_put(sink->to[k], rgb, sink->err);
    return sink->code || signals_seen();
}

static int decode(Clip *clip, const float *latents, Output *a, Output *b, gimbal_error *err)
{
    Sink sink = {{a, b}, err, GIMBAL_OK};
    const int code = gimbal_decode(clip->session, latents, clip->shape, on_frame, &sink, err);
    return sink.code ? sink.code : code;
}

static int open_output(const Clip *clip, Output *out, const char *path, gimbal_error *err)
{
    const gimbal_settings *s = &clip->settings;
    return output_open(out, path, s->width, s->height, clip->shape.f, clip->fps, clip->recipe_text, err);
}

/* ---- passes ------------------------------------------------------------------------------ */

/* DIR/pass2.mp4 in OUT's format, DIR/pass2-%03d.png for a sequence, DIR/0001-pass2.mp4 of several clips. */
static char *pass_path(const Clip *clip, int pass, const char *ending)
{
    char *out, number[16] = "";
    const char *percent = strrchr(clip->output, '%'), *dot = strrchr(clip->output, '.');
    const bool sequence = !ending && percent && percent < dot && names_pictures(clip->output);
    if (clip->number)
        snprintf(number, sizeof number, "%04d-", clip->number);
    const int n = asprintf(&out, "%s/%spass%d%s%s", clip->save_passes, number, pass, sequence ? "-" : "",
                           ending     ? ending
                           : sequence ? percent
                                      : dot);
    return n < 0 ? NULL : out;
}

static int make_folder(const char *path, gimbal_error *err)
{
    if (!mkdir(path, 0777) || errno == EEXIST)
        return GIMBAL_OK;
    return complain(err, GIMBAL_EIO, NULL, "%s: cannot be made: %s", path, strerror(errno));
}

/* The clips of the passes before the last one. */
static int show_passes(Clip *clip, gimbal_error *err)
{
    for (int i = 0; i < clip->passes - 1; i++) {
        Output out;
        char *path = pass_path(clip, i + 1, NULL);
        if (!path)
            return fail_memory(err);
        int code = open_output(clip, &out, path, err);
        if (!code) {
            code = decode(clip, clip->finished[i], &out, NULL, err);
            code = code ? code : output_close(&out, err);
            output_drop(&out);
        }
        free(path);
        if (code)
            return code;
    }
    return GIMBAL_OK;
}

/* After Ctrl-C: what the finished passes found, as latents; nothing is decoded, so that the program ends at
 * once. Returns how many were kept. */
static int rescue_passes(Clip *clip)
{
    int kept = 0;
    gimbal_error ignored = {0};
    if (!clip->save_passes || !clip->finished || !clip->finished[0] ||
        make_folder(clip->save_passes, &ignored))
        return 0;
    while (kept < clip->passes && clip->finished[kept]) {
        char *path = pass_path(clip, kept + 1, ".safetensors");
        const int code =
            path ? latents_write(path, clip->finished[kept], clip->shape, clip->recipe_text, &ignored) : -1;
        free(path);
        if (code)
            break;
        kept++;
    }
    return kept;
}

/* ---- making ------------------------------------------------------------------------------ */

/* The error of a run that was stopped says where it was and what is left of it. */
static int say_cancelled(Clip *clip, gimbal_error *err)
{
    const gimbal_progress *p = &clip->progress.last;
    const bool resumable = p->pass && resume_save(&clip->resume, clip->session);
    char where[128] = "before the first step", kept[320] = "nothing was kept", chunk[48] = "";
    const int n = rescue_passes(clip);
    if (p->chunks > 1)
        snprintf(chunk, sizeof chunk, "chunk %d of %d, ", p->chunk, p->chunks);
    if (p->pass)
        snprintf(where, sizeof where, "in %spass %d of %d, after step %d of %d", chunk, p->pass, p->passes,
                 p->step, p->steps);
    else if (p->stage && !strcmp(p->stage, "decode"))
        snprintf(where, sizeof where, "while decoding, after frame %d of %d", p->step, p->steps);
    else if (p->stage && !strcmp(p->stage, "encode"))
        snprintf(where, sizeof where, "while encoding the clip, after frame %d of %d", p->step, p->steps);
    if (n)
        snprintf(kept, sizeof kept, "kept the latents of %d finished pass%s in %.200s", n, n > 1 ? "es" : "",
                 clip->save_passes);
    if (resumable)
        snprintf(kept, sizeof kept, "kept the state in %.200s", clip->resume.path);
    err->code = 0;
    return complain(err, GIMBAL_ECANCEL,
                    resumable ? "the same command goes on from there"
                    : n       ? "gimbal decode turns them into clips"
                              : NULL,
                    "cancelled %s; %s", where, kept);
}

/* The last pass's pictures go to OUT and, with --save-passes, to the folder too; then the latents are
 * written, and OUT appears last. */
static int write_result(Clip *clip, Output *out, gimbal_error *err)
{
    Output last;
    if (clip->save_passes) {
        TRY(make_folder(clip->save_passes, err));
        TRY(show_passes(clip, err));
        char *path = pass_path(clip, clip->passes, NULL);
        int code = path ? open_output(clip, &last, path, err) : fail_memory(err);
        if (!code) {
            code = decode(clip, clip->result, out, &last, err);
            code = code ? code : output_close(&last, err);
            output_drop(&last);
        }
        free(path);
        TRY(code);
    } else {
        TRY(decode(clip, clip->result, out, NULL, err));
    }
    if (clip->save_latents)
        TRY(latents_write(clip->save_latents, clip->result, clip->shape, clip->recipe_text, err));
    const int code = output_close(out, err);
    if (code && clip->save_latents)
        unlink(clip->save_latents);
    return code;
}

/* A draw from the posterior, as diffusers' pipeline does: the seed decides it. */
static int encode(Clip *clip, gimbal_error *err)
{
    const gimbal_settings *s = &clip->settings;
    TRY(image_encode(clip->image, clip->session, s->width, s->height, chunk_shape(clip), clip->first,
                     clip->reference, err));
    return clip->video ? gimbal_encode(clip->session, clip->begin, s->width, s->height, s->frames, 1,
                                       clip->encoded, err)
                       : GIMBAL_OK;
}

/* Where an earlier process was stopped, and what its passes found. */
static int go_on(Clip *clip, gimbal_error *err)
{
    gimbal_progress at;
    TRY(resume_load(&clip->resume, clip->session, &at, err));
    const int finished = at.pass && !strcmp(at.stage, "pass") ? at.pass : at.pass - 1;
    for (int i = 0; clip->save_passes && i < finished && i < clip->passes; i++) {
        gimbal_shape s;
        TRY(resume_load_pass(&clip->resume, i + 1, &s, &clip->finished[i], err));
        if (count_of(s) != count_of(clip->shape))
            return complain(err, GIMBAL_EFORMAT, "remove it, and begin again",
                            "%s: the result of pass %d beside it has another shape", clip->resume.path,
                            i + 1);
    }
    if (!clip->progress.quiet)
        resume_say(&at);
    return GIMBAL_OK;
}

int clip_make(Clip *clip, gimbal_error *err)
{
    const double since = clock_seconds();
    Output out;
    TRY(check_signals(err));
    clip->result = calloc(count_of(clip->shape), sizeof(float));
    clip->finished = calloc((size_t)clip->passes, sizeof *clip->finished);
    if (!clip->result || !clip->finished)
        return fail_memory(err);
    TRY(open_output(clip, &out, clip->output, err));
    int code = encode(clip, err);
    if (!code)
        code = go_on(clip, err);
    if (!code)
        code = gimbal_sample(clip->session, clip->result, err);
    if (!code)
        code = write_result(clip, &out, err);
    if (!code)
        resume_forget(&clip->resume, clip->passes);
    output_drop(&out);
    progress_clear(&clip->progress);
    clip->seconds = clock_seconds() - since;
    return code == GIMBAL_ECANCEL ? say_cancelled(clip, err) : code;
}
