/* train_sample.c: clips from the checkpoint that was just saved, so that progress can be seen.
 *
 *     OUT/model -> gimbal_open -> generate's own path -> OUT/samples/step-N-1.mp4, -2, ...
 *                                                     └> OUT/samples/step-N.png, a row each
 *
 * The saved files are opened as any program would open them, so that a checkpoint that cannot be used is
 * noticed at once. Prompt i has seed i at every checkpoint: what changes is the network. Families that begin
 * from a picture get the first frame of the data's last clips, which are for validation. Refuses to know
 * networks. */
#include "app/train.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SHEET_COLUMNS = 8 };
static const double sample_fps = 8;

/* ---- prompts ----------------------------------------------------------------------------- */

int train_samples_read(TrainSamples *samples, const TrainFlags *f, gimbal_error *err)
{
    if (f->sample_prompt && f->sample_prompts)
        return complain(err, GIMBAL_EUSAGE, NULL, "--sample-prompt and --sample-prompts are both given");
    if (f->sample_every && !f->sample_prompt && !f->sample_prompts)
        return complain(err, GIMBAL_EUSAGE, "--sample-prompt \"a red circle moving left\"",
                        "--sample-every is given, and no prompt to make samples of");
    if (f->sample_prompts)
        return prompts_read("--sample-prompts", f->sample_prompts, &samples->text, &samples->prompts,
                            &samples->n, err);
    if (!f->sample_prompt)
        return GIMBAL_OK;
    TRY(check_utf8("--sample-prompt", f->sample_prompt, err));
    samples->prompts = calloc(1, sizeof *samples->prompts);
    if (!samples->prompts)
        return fail_memory(err);
    samples->prompts[0] = f->sample_prompt;
    samples->n = 1;
    return GIMBAL_OK;
}

void train_samples_free(TrainSamples *samples)
{
    free(samples->prompts);
    free(samples->text);
}

/* ---- one clip ---------------------------------------------------------------------------- */

/* What all clips of a checkpoint share. */
typedef struct {
    const TrainFlags *flags;
    const gimbal_clips *clips;
    gimbal_engine *engine;
    gimbal_settings settings;
    char *folder; /* OUT/samples */
    int step;
} Round;

/* OUT/samples/step-00000010-1.mp4; caller frees. */
static char *file_name(const Round *r, int number, const char *ending)
{
    char *out, part[16] = "";
    if (number)
        snprintf(part, sizeof part, "-%d", number);
    return asprintf(&out, "%s/step-%08d%s%s", r->folder, r->step, part, ending) < 0 ? NULL : out;
}

/* The first frame of the number-th last clip, as the picture that the clip begins with: *path, caller frees.
 */
static int begin_picture(const Round *r, int number, char **path, gimbal_error *err)
{
    const int width = r->settings.width, height = r->settings.height, first = 0;
    const int64_t clip = r->clips->count - 1 - (number - 1) % r->clips->count;
    uint8_t *rgb = malloc(3 * (size_t)width * (size_t)height);
    media_writer *out = NULL;
    *path = NULL;
    if (!rgb || asprintf(path, "%s/begin-%d.png", r->folder, number) < 0) {
        *path = NULL;
        free(rgb);
        return fail_memory(err);
    }
    int code = r->clips->read(r->clips->self, clip, &first, 1, width, height, rgb, err);
    if (!code)
        code = media_create(&out, *path, width, height, 1, NULL, err);
    if (!code && (code = media_put(out, rgb, err)))
        media_abort(out);
    else if (!code)
        code = media_close(out, err);
    free(rgb);
    return code;
}

/* As generate makes it. */
static int make_clip(const Round *r, const gimbal_settings *s, const Image *image, const char *output,
                     gimbal_error *err)
{
    gimbal_session *probe;
    const float some = 0; /* that there will be a picture is all that counts here */
    gimbal_settings like = *s;
    like.image = image_begins(image) ? &some : NULL;
    TRY(gimbal_begin(&probe, r->engine, &like, err));
    Clip clip = {.engine = r->engine,
                 .settings = *s,
                 .shape = gimbal_latent_shape(probe),
                 .output = output,
                 .image = image,
                 .fps = sample_fps,
                 .passes = 1,
                 .preview = {.every = 1}, /* none: it has no path */
                 .progress = progress_begin(true)};
    gimbal_end(probe);
    int code = clip_begin(&clip, err);
    if (!code)
        code = clip_make(&clip, err);
    clip_end(&clip);
    return code;
}

static int make_one(const Round *r, const char *prompt, int number, const char *output, gimbal_error *err)
{
    gimbal_settings s = r->settings;
    Image image = {.fit = "crop"};
    char *picture = NULL;
    int code = GIMBAL_OK;
    s.prompt = prompt;
    s.seed = (uint64_t)number;
    if (gimbal_needs_image(r->engine)) {
        code = begin_picture(r, number, &picture, err);
        image.path = picture;
        if (!code)
            code = image_open(&image, true, err);
        if (!code)
            code = image_fit(&image, s.width, s.height, s.frames, true, err);
    }
    if (!code)
        code = make_clip(r, &s, &image, output, err);
    image_free(&image);
    free(picture);
    return code;
}

/* ---- a checkpoint ------------------------------------------------------------------------ */

/* What training was told, as far as generating knows it too. */
static void set_settings(Round *r)
{
    const gimbal_train_settings *t = &r->flags->s;
    gimbal_settings *s = &r->settings;
    gimbal_defaults(s, r->engine);
    s->frames = t->frames > 1 ? t->frames : s->frames;
    s->width = t->width > 0 ? t->width : s->width;
    s->height = t->height > 0 ? t->height : s->height;
    s->betas = t->betas ? t->betas : s->betas;
    s->motion_norm = t->motion_norm ? t->motion_norm : s->motion_norm;
    s->threads = t->threads;
}

static int make_all(const Round *r, const TrainSamples *samples, char **paths, gimbal_error *err)
{
    for (int i = 0; i < samples->n; i++) {
        paths[i] = file_name(r, i + 1, ".mp4");
        if (!paths[i])
            return fail_memory(err);
        TRY(make_one(r, samples->prompts[i], i + 1, paths[i], err));
    }
    char *sheet = file_name(r, 0, ".png");
    const int code = sheet ? sheet_write((const char *const *)paths, samples->n, SHEET_COLUMNS, sheet, err)
                           : fail_memory(err);
    free(sheet);
    return code;
}

static json_t *line_of(const Round *r, const TrainSamples *samples)
{
    char sheet[64];
    json_t *prompts = json_array();
    for (int i = 0; i < samples->n; i++)
        json_array_append_new(prompts, json_text(samples->prompts[i]));
    snprintf(sheet, sizeof sheet, "samples/step-%08d.png", r->step);
    return json_pack("{s:s, s:i, s:s, s:o}", "what", "sample", "step", r->step, "sheet", sheet, "prompts",
                     prompts);
}

static int run_round(Round *r, const TrainSamples *samples, const char *model, gimbal_error *err)
{
    if (mkdir(r->folder, 0777) && errno != EEXIST)
        return complain(err, GIMBAL_EIO, NULL, "%s: cannot be made: %s", r->folder, strerror(errno));
    char **paths = calloc((size_t)samples->n, sizeof *paths);
    int code = paths ? gimbal_open(&r->engine, model, NULL, err) : fail_memory(err);
    if (!code) {
        set_settings(r);
        code = make_all(r, samples, paths, err);
    }
    for (int i = 0; paths && i < samples->n; i++)
        free(paths[i]);
    free(paths);
    gimbal_close(r->engine);
    return code;
}

int train_samples_make(TrainSamples *samples, const TrainFlags *f, const gimbal_clips *clips, int step,
                       const char *model, json_t **line, gimbal_error *err)
{
    Round r = {.flags = f, .clips = clips, .step = step};
    const int every = f->sample_every, before = samples->before;
    *line = NULL;
    samples->before = step;
    if (!samples->n || (every && step / every == before / every))
        return GIMBAL_OK;
    if (asprintf(&r.folder, "%s/samples", f->output) < 0)
        return fail_memory(err);
    const int code = run_round(&r, samples, model, err);
    if (!code)
        *line = line_of(&r, samples);
    free(r.folder);
    return code;
}
