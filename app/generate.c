/* generate.c: gimbal generate: prompts to clips.
 *
 * Order: flags and what they contradict, then places, then the model, then the cost, then the work. A run
 * that cannot succeed is refused as early as it can be known. Several clips (--count, --prompts) share one
 * opened model.
 *
 * Where a value comes from: flag > recipe of --again > the model's files.
 * Refuses to know how a clip is made (clip.c). */
#include "app/app.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    gimbal_settings s; /* first: the flags of gimbal_setting_options */
    const char *model, *motion, *output, *latents, *reinit_noise, *save_latents, *save_passes, *again,
        *prompts, *video;
    const char *image, *fit, *image_latents, *camera, *camera_preview, *reference;
    double fps;
    int count, dry_run, json, quiet;
    const char *preview;
    int preview_every, no_mmap, resume;
} Flags;

static const char *const fits[] = {"crop", "pad", "stretch", NULL};

#define AT(field) offsetof(Flags, field)
#define TEXT(name, field, help)                                                                              \
    {                                                                                                        \
        name, help, GIMBAL_TEXT, AT(field), 0, 0, 0, NULL, NULL                                              \
    }
#define BOOL(name, field, help)                                                                              \
    {                                                                                                        \
        name, help, GIMBAL_BOOL, AT(field), 0, 0, 1, NULL, NULL                                              \
    }
static const gimbal_option options[] = {
    TEXT("model", model, "a model folder in diffusers layout"),
    TEXT("motion", motion, "motion adapter, a folder or file; without it MODEL/motion_adapter"),
    TEXT("output", output,
         "OUT, also -o: clip.mp4 .webm .gif .webp .avi .y4m, f%03d.png or .jpg, or .safetensors (frames)"),
    {"fps", "frames per second", GIMBAL_REAL, AT(fps), 8, 0.01, 1000, NULL, NULL},
    {"count", "clips with seeds S, S+1, ...; OUT gets -0001 before the ending, or holds a %d", GIMBAL_INT,
     AT(count), 1, 1, 9999, NULL, NULL},
    TEXT("prompts", prompts, "a file with one prompt a line, instead of --prompt"),
    TEXT("again", again, "make a clip once more from its recipe; other flags change it"),
    TEXT("video", video, "a clip to begin from (see --strength): its first frames, scaled to the run's size"),
    TEXT("image", image, "the picture to begin from, or with --reinit frameinit the one to keep to"),
    {"fit", "what becomes of a picture of another shape: cut, bars, or stretched", GIMBAL_CHOICE, AT(fit), 0,
     0, 0, NULL, fits},
    TEXT("image-latents", image_latents,
         "file with the first frame's latent instead of encoding --image: tensor \"latents\" [1,4,1,h,w]"),
    TEXT("camera", camera,
         "a move over --image, for FrameInit: none, pan-left, pan-right, zoom-in, zoom-out, tilt-up, "
         "tilt-down, diagonal, roll, or path:FILE"),
    TEXT("camera-preview", camera_preview, "a clip of what --camera sees; needs no model"),
    TEXT("reference", reference, "a clip whose layout FrameInit keeps to, instead of --image standing still"),
    TEXT("latents", latents,
         "file with the initial noise: tensor \"latents\" [1,4,F,h,w]; of later chunks \"chunk1\", ..."),
    TEXT("reinit-noise", reinit_noise,
         "file with fresh noise of later passes: tensors \"pass1\", \"pass2\", ..."),
    TEXT("save-latents", save_latents, "file for the result before decoding: tensor \"latents\""),
    TEXT("save-passes", save_passes, "folder for the clip after every pass: pass1.mp4, pass2.mp4, ..."),
    TEXT("preview", preview, "a .png that shows the middle frame as it comes to be"),
    {"preview-every", "steps between two previews", GIMBAL_INT, AT(preview_every), 5, 1, 10000, NULL, NULL},
    BOOL("resume", resume,
         "go on where this command was killed or stopped; until then keep the state beside OUT, each minute"),
    BOOL("no-mmap", no_mmap, "read the weights into memory instead of mapping their files"),
    BOOL("dry-run", dry_run, "only say what it would take"),
    BOOL("json", json, "one JSON object per clip on stdout"),
    BOOL("quiet", quiet, "no progress, no notes"),
    {.name = NULL},
};

/* What stays the same for all clips of one call. */
typedef struct {
    const Args *args;
    Flags flags;
    gimbal_recipe *recipe; /* of --again, or NULL */
    char *recipe_text, *latents, *reinit_noise, *video;
    Image image;
    media_info seen; /* of --video */
    uint8_t *begin;  /* its pictures [F][H][W][3] */
    gimbal_engine *engine;
    char *prompt_file;
    gimbal_shape shape;   /* of a clip's latents */
    gimbal_cost cost;     /* of one clip: prompts and seeds change nothing */
    const char **prompts; /* lines of prompt_file, or one entry: NULL for the settings' own */
    int n_prompts;
} Job;

/* ---- what can be refused without a model ------------------------------------------------- */

static int check_prompts(const Flags *f, gimbal_error *err)
{
    if (f->prompts && f->s.prompt)
        return complain(err, GIMBAL_EUSAGE, NULL, "--prompt and --prompts are both given");
    if (!f->prompts && !f->s.prompt && !f->again)
        return complain(err, GIMBAL_EUSAGE, "--prompt \"a large red circle moving right\"",
                        "--prompt is missing");
    TRY(check_utf8("--prompt", f->s.prompt, err));
    return check_utf8("--negative", f->s.negative, err);
}

/* The folder of --save-passes is made at the end; now it must be one, or be possible. */
static int check_folder(const char *path, gimbal_error *err)
{
    struct stat st;
    if (stat(path, &st))
        return check_place(path, err);
    if (!S_ISDIR(st.st_mode))
        return complain(err, GIMBAL_EIO, NULL, "--save-passes %s: is a file, expected a folder", path);
    char *inside;
    if (asprintf(&inside, "%s/pass1", path) < 0)
        return fail_memory(err);
    const int code = check_place(inside, err);
    free(inside);
    return code;
}

static int check_outputs(const Flags *f, gimbal_error *err)
{
    if (!f->output)
        return complain(err, GIMBAL_EUSAGE, "-o clip.mp4", "-o is missing: where should the clip go?");
    char *name = names_clips(f->output) ? numbered_path(f->output, 1) : strdup(f->output);
    if (!name)
        return fail_memory(err);
    int code = output_check(name, f->fps, err);
    if (!code && f->s.frames)
        code = output_fits(name, 16, 16, f->s.frames, f->fps, err);
    free(name);
    TRY(code);
    if (f->save_latents)
        TRY(check_place(f->save_latents, err));
    if (f->preview)
        TRY(preview_check(f->preview, err));
    return f->save_passes ? check_folder(f->save_passes, err) : GIMBAL_OK;
}

/* A camera may be looked at alone, without a model. */
static bool only_previews(const Flags *f)
{
    return f->camera_preview && !f->model && !f->again && !f->output;
}

static int check_flags(const Args *args, const Flags *f, gimbal_error *err)
{
    if (args->n_words)
        return complain(err, GIMBAL_EUSAGE, "put a prompt of several words in quotes",
                        "\"%.60s\": unexpected argument", args->words[0]);
    if (f->camera_preview)
        TRY(output_check(f->camera_preview, f->fps, err));
    if (only_previews(f))
        return GIMBAL_OK;
    if (!f->model && !f->again)
        return complain(err, GIMBAL_EUSAGE, "a folder in diffusers layout, e.g. models/toyworld",
                        "--model is missing");
    TRY(check_prompts(f, err));
    return check_outputs(f, err);
}

/* ---- prompts -------------------------------------------------------------------------------- */

static int find_prompts(Job *job, gimbal_error *err)
{
    if (job->flags.prompts)
        return prompts_read("--prompts", job->flags.prompts, &job->prompt_file, &job->prompts,
                            &job->n_prompts, err);
    job->prompts = calloc(1, sizeof *job->prompts);
    job->n_prompts = 1;
    return job->prompts ? GIMBAL_OK : fail_memory(err);
}

/* ---- --again ----------------------------------------------------------------------------- */

/* The program's own part of a recipe: flags win over it. */
static int apply_own_part(Job *job, gimbal_error *err)
{
    json_t *root = json_loads(job->recipe_text, 0, NULL);
    const json_t *fps = json_object_get(root, "fps");
    const char *latents = json_string_value(json_object_get(root, "latents"));
    const char *noise = json_string_value(json_object_get(root, "reinit-noise"));
    const char *video = json_string_value(json_object_get(root, "video"));
    Flags *f = &job->flags;
    if (json_is_number(fps) && !args_has(job->args, "fps"))
        f->fps = json_number_value(fps);
    if (latents && !f->latents)
        f->latents = job->latents = strdup(latents);
    if (noise && !f->reinit_noise)
        f->reinit_noise = job->reinit_noise = strdup(noise);
    if (video && !f->video)
        f->video = job->video = strdup(video);
    const bool no_memory = (latents && !f->latents) || (noise && !f->reinit_noise) || (video && !f->video);
    image_from_recipe(&job->image, root);
    json_decref(root);
    return no_memory ? fail_memory(err) : GIMBAL_OK;
}

static int read_again(Job *job, gimbal_error *err)
{
    Flags *f = &job->flags;
    if (!f->again)
        return GIMBAL_OK;
    TRY(recipe_read(f->again, &job->recipe_text, err));
    if (!job->recipe_text)
        return complain(err, GIMBAL_EFORMAT, "only clips made by gimbal carry one",
                        "%s: no recipe in it or beside it", f->again);
    TRY(gimbal_recipe_parse(&job->recipe, job->recipe_text, err));
    if (!f->model) {
        f->model = gimbal_recipe_model(job->recipe);
        f->motion = f->motion ? f->motion : gimbal_recipe_motion(job->recipe);
    }
    return apply_own_part(job, err);
}

/* ---- --video ----------------------------------------------------------------------------- */

/* Before the model is opened: is it a clip? */
static int check_video(Job *job, gimbal_error *err)
{
    const Flags *f = &job->flags;
    if (f->video)
        return video_look(f->video, 1, &job->seen, err);
    return args_has(job->args, "strength")
               ? complain(err, GIMBAL_EUSAGE, "add --video CLIP",
                          "--strength says how much of a clip is made anew, and no clip is given")
               : GIMBAL_OK;
}

/* What neither flags nor a recipe say follows the clip: frames up to the model's maximum, and fps. */
static int follow_video(Job *job, gimbal_settings *s, gimbal_error *err)
{
    enum { MOST = 4096 };
    const int limit = gimbal_most_frames(job->engine);
    Flags *f = &job->flags;
    if (job->recipe)
        return GIMBAL_OK;
    if (!args_has(job->args, "frames")) {
        TRY(video_look(f->video, limit > 0 ? limit : MOST, &job->seen, err));
        s->frames = job->seen.frames;
    }
    if (!args_has(job->args, "fps") && job->seen.fps >= 0.01 && job->seen.fps <= 1000)
        f->fps = job->seen.fps;
    return GIMBAL_OK;
}

static int read_video(Job *job, const gimbal_settings *s, gimbal_error *err)
{
    if (!job->flags.quiet)
        video_note_shape(job->flags.video, &job->seen, s->width, s->height, gimbal_size_step(job->engine));
    return video_read("--video", job->flags.video, s->width, s->height, s->frames, &job->begin, err);
}

/* ---- --image ----------------------------------------------------------------------------- */

/* What a camera sees, before the model works or without one: ConsistI2V's own size is what nobody chose. */
static int preview_camera(Job *job, int width, int height, gimbal_error *err)
{
    const Flags *f = &job->flags;
    TRY(image_preview(&job->image, f->camera_preview, width, height, f->fps, err));
    if (!only_previews(f))
        return GIMBAL_OK;
    puts(f->camera_preview);
    return flush_stdout(err);
}

static int preview_alone(Job *job, gimbal_error *err)
{
    enum { SIDE = 256, FRAMES = 16 };
    static const uint64_t most_bytes = 1ull << 32; /* there is no plan that would know what can be had */
    const gimbal_settings *s = &job->flags.s;
    const int width = s->width ? s->width : SIDE, height = s->height ? s->height : SIDE;
    const int frames = s->frames ? s->frames : FRAMES;
    char bytes[24];
    if (image_bytes(&job->image, width, height, frames) > most_bytes)
        return complain(err, GIMBAL_EUSAGE, "fewer --frames, or a smaller --width and --height",
                        "--camera-preview of %d frames of %dx%d would take %s", frames, width, height,
                        print_bytes(image_bytes(&job->image, width, height, frames), bytes));
    TRY(image_fit(&job->image, width, height, frames, job->flags.quiet, err));
    return preview_camera(job, width, height, err);
}

static int check_image(const Job *job, const gimbal_settings *s, gimbal_error *err)
{
    if (job->flags.save_passes && s->chunks > 1)
        return complain(err, GIMBAL_EUSAGE, NULL,
                        "--save-passes keeps the passes of one chunk, and --chunks makes %d", s->chunks);
    if (image_refers(&job->image) && strncmp(s->reinit, "frameinit", 9))
        return complain(err, GIMBAL_EUSAGE, "add --reinit frameinit",
                        "%s gives FrameInit its low band, and --reinit is %s",
                        job->image.reference ? "--reference" : "--camera", s->reinit);
    return GIMBAL_OK;
}

static void warn_other_model(const Job *job)
{
    const char *was = job->recipe ? gimbal_recipe_identity(job->recipe) : NULL;
    const char *is = gimbal_identity(job->engine);
    if (was && strcmp(was, is))
        fprintf(stderr,
                "gimbal: warning: %s was made by another model (identity %.12s..., this one is %.12s...): "
                "the clip will "
                "differ\n",
                job->flags.again, was, is);
}

/* The model's defaults, under the recipe, under the flags. */
static int resolve(Job *job, gimbal_settings *out, gimbal_error *err)
{
    Flags all = job->flags;
    gimbal_defaults(&all.s, job->engine);
    if (job->recipe)
        TRY(gimbal_recipe_apply(job->recipe, &all.s, err));
    TRY(args_apply(job->args, &all, err));
    *out = all.s;
    if (!job->flags.quiet && out->cfg <= 1 && args_has(job->args, "negative") && *out->negative)
        fprintf(stderr, "gimbal: note: --negative has no effect at --cfg %g: guidance is off\n", out->cfg);
    return job->flags.video ? follow_video(job, out, err) : GIMBAL_OK;
}

/* ---- results ----------------------------------------------------------------------------- */

static json_t *seed_json(uint64_t seed)
{
    char text[24];
    if (seed <= INT64_MAX)
        return json_integer((json_int_t)seed);
    snprintf(text, sizeof text, "%llu", (unsigned long long)seed);
    return json_string(text);
}

static json_t *result_json(const Clip *clip)
{
    const gimbal_settings *s = &clip->settings;
    return json_pack("{s:i, s:o, s:o, s:f, s:i, s:i, s:i, s:i, s:f, s:I, s:O}", "schema", 1, "output",
                     json_text(clip->output), "seed", seed_json(s->seed), "seconds", clip->seconds, "passes",
                     clip->passes, "frames", clip->shape.f, "width", s->width, "height", s->height, "fps",
                     clip->fps, "peak_anon_bytes", (json_int_t)clip->progress.peak_anon, "recipe",
                     clip->recipe);
}

static int report(const Job *job, const Clip *clip, gimbal_error *err)
{
    const gimbal_settings *s = &clip->settings;
    char memory[24];
    if (!job->flags.quiet)
        fprintf(stderr, "%s: %d frames of %dx%d, %d pass%s, seed %llu, %.1f s, %s\n", clip->output,
                clip->shape.f, s->width, s->height, clip->passes, clip->passes > 1 ? "es" : "",
                (unsigned long long)s->seed, clip->seconds, print_bytes(clip->progress.peak_anon, memory));
    if (job->flags.json)
        return print_json(result_json(clip), err);
    puts(clip->output);
    return flush_stdout(err);
}

/* Bytes of the library's plan and of writing the clip, which run at the same time. */
static uint64_t total_bytes(const Clip *clip, const gimbal_cost *cost)
{
    const gimbal_settings *s = &clip->settings;
    return cost->anon_bytes + output_bytes(clip->output, s->width, s->height, clip->shape.f);
}

static int report_dry(const Job *job, const Clip *clip, const gimbal_cost *cost, gimbal_error *err)
{
    const uint64_t anon = total_bytes(clip, cost);
    json_t *out =
        json_pack("{s:i, s:b, s:o, s:{s:i, s:i, s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:I}, s:O}", "schema", 1,
                  "dry_run", 1, "output", json_text(clip->output), "cost", "passes", cost->passes, "calls",
                  cost->calls, "relative", cost->relative, "seconds", cost->seconds, "flops", cost->flops,
                  "anon_bytes", (json_int_t)anon, "work_bytes", (json_int_t)cost->work_bytes, "pack_bytes",
                  (json_int_t)cost->pack_bytes, "host_bytes", (json_int_t)cost->host_bytes, "mapped_bytes",
                  (json_int_t)cost->mapped_bytes, "recipe", clip->recipe);
    if (job->flags.json || !out)
        return print_json(out, err);
    print_tree(out, 0, stdout);
    json_decref(out);
    return flush_stdout(err);
}

static void announce(const Clip *clip, const gimbal_cost *cost, int clips)
{
    char memory[24], each[40] = "";
    if (clips > 1)
        snprintf(each, sizeof each, "each of %d clips: ", clips);
    fprintf(stderr, "%s%d pass%s, %d network calls (%.3gx plain), about %.0f s, %s\n", each, cost->passes,
            cost->passes > 1 ? "es" : "", cost->calls, cost->relative, cost->seconds < 1 ? 1 : cost->seconds,
            print_bytes(total_bytes(clip, cost), memory));
}

/* ---- the work ---------------------------------------------------------------------------- */

/* With --resume, what an earlier process has finished is not made again. */
static bool is_made(const Clip *clip)
{
    if (clip->save_passes || (clip->save_latents && access(clip->save_latents, F_OK)) ||
        !resume_finished(&clip->resume, clip->output, clip->recipe))
        return false;
    if (!clip->progress.quiet)
        fprintf(stderr, "gimbal: %s is there already, made by these settings\n", clip->output);
    return true;
}

/* What a clip is made from; the names are the caller's. */
static Clip plan_clip(const Job *job, const gimbal_settings *s, int number, const char *output,
                      const char *save_latents)
{
    const Flags *f = &job->flags;
    return (Clip){.engine = job->engine,
                  .settings = *s,
                  .shape = job->shape,
                  .output = output,
                  .latents = f->latents,
                  .reinit_noise = f->reinit_noise,
                  .video = f->video,
                  .begin = job->begin,
                  .image = &job->image,
                  .save_latents = save_latents,
                  .save_passes = f->save_passes,
                  .fps = f->fps,
                  .number = number,
                  .passes = job->cost.passes,
                  .preview = {f->preview, f->preview_every},
                  .progress = progress_begin(f->quiet)};
}

/* number: 0 for the only clip, else from 1. The names live until the clip has ended. */
static int make_clip(Job *job, const gimbal_settings *s, int number, int clips, gimbal_error *err)
{
    const Flags *f = &job->flags;
    const bool numbered = number || names_clips(f->output);
    char *output = numbered ? numbered_path(f->output, number ? number : 1) : strdup(f->output),
         *latents = NULL;
    int code = GIMBAL_OK;
    if (f->save_latents)
        latents = number ? numbered_path(f->save_latents, number) : strdup(f->save_latents);
    if (!output || (f->save_latents && !latents))
        code = fail_memory(err);
    Clip clip = plan_clip(job, s, number, output, latents);
    if (!code && f->resume)
        code = resume_begin(&clip.resume, output, err);
    if (!code)
        code = clip_begin(&clip, err);
    const bool made = !code && !f->dry_run && is_made(&clip);
    if (!code && !made && !f->quiet && !f->dry_run && number <= 1)
        announce(&clip, &job->cost, clips);
    if (!code && f->dry_run) {
        code = report_dry(job, &clip, &job->cost, err);
    } else if (!code) {
        code = made ? GIMBAL_OK : clip_make(&clip, err);
        code = code ? code : report(job, &clip, err);
    }
    clip_end(&clip);
    free(output);
    free(latents);
    return code;
}

/* Writing goes on beside the run, and an encoder that gets no memory fails at the very end; a camera's
 * pictures are there all the time. */
static int check_memory(const Job *job, const gimbal_settings *s, gimbal_error *err)
{
    const char *output = job->flags.output;
    const uint64_t writing = output_bytes(output, s->width, s->height, job->shape.f) +
                             image_bytes(&job->image, s->width, s->height, s->frames);
    char run[24], write[24], limit[24];
    if (job->cost.anon_bytes + writing <= job->cost.limit_bytes)
        return GIMBAL_OK;
    return complain(err, GIMBAL_ENOMEM, "fewer frames, or a smaller width and height, need less",
                    "this process needs %s with this run, and %s for pictures and to write %s; %s can be had",
                    print_bytes(job->cost.anon_bytes, run), print_bytes(writing, write), output,
                    print_bytes(job->cost.limit_bytes, limit));
}

/* Begun and ended at once, a session refuses what cannot run (sizes, memory) before time goes into the
 * estimate, and tells the shape that given tensors must have. */
static int probe(Job *job, const gimbal_settings *s, gimbal_error *err)
{
    static const float some; /* what is encoded is read by sampling only, but counted here */
    gimbal_session *session;
    gimbal_settings like = *s;
    like.clip = job->flags.video ? &some : NULL;
    like.image = image_begins(&job->image) ? &some : NULL;
    like.reference = image_refers(&job->image) ? &some : NULL;
    signals_nothing_begun(true);
    int code = gimbal_begin(&session, job->engine, &like, err);
    if (!code) {
        job->shape = gimbal_latent_shape(session);
        gimbal_end(session);
        code = gimbal_predict(job->engine, &like, &job->cost, err);
        code = code ? code : check_memory(job, s, err);
    }
    if (!code)
        code = image_fit(&job->image, s->width, s->height, s->frames, job->flags.quiet, err);
    signals_nothing_begun(false);
    return code ? code : check_signals(err);
}

static int make_clips(Job *job, gimbal_error *err)
{
    gimbal_settings s;
    TRY(resolve(job, &s, err));
    const int clips = job->n_prompts * job->flags.count;
    TRY(check_image(job, &s, err));
    TRY(probe(job, &s, err));
    if (job->flags.camera_preview)
        TRY(preview_camera(job, s.width, s.height, err));
    if (job->flags.video)
        TRY(read_video(job, &s, err));
    for (int i = 0; i < clips; i++) {
        gimbal_settings one = s;
        if (job->prompts[i / job->flags.count])
            one.prompt = job->prompts[i / job->flags.count];
        one.seed = s.seed + (uint64_t)(i % job->flags.count);
        TRY(check_utf8("the prompt", one.prompt, err));
        if (i % job->flags.count == 0)
            TRY(warn_truncated(job->engine, "prompt", one.prompt, err));
        TRY(make_clip(job, &one, clips > 1 ? i + 1 : 0, clips, err));
    }
    return GIMBAL_OK;
}

static int run_job(Job *job, gimbal_error *err)
{
    Flags *f = &job->flags;
    args_defaults(&command_generate, f);
    TRY(args_apply(job->args, f, err));
    TRY(check_flags(job->args, f, err));
    TRY(find_prompts(job, err));
    job->image = (Image){.path = f->image,
                         .fit = f->fit,
                         .camera = f->camera,
                         .latents = f->image_latents,
                         .reference = f->reference};
    TRY(read_again(job, err));
    TRY(check_video(job, err));
    TRY(image_open(&job->image, f->quiet, err));
    if (only_previews(f))
        return preview_alone(job, err);
    TRY(open_model(&job->engine, f->model, f->motion, f->no_mmap, f->quiet, err));
    warn_other_model(job);
    TRY(check_signals(err));
    if (f->s.negative)
        TRY(warn_truncated(job->engine, "negative prompt", f->s.negative, err));
    return make_clips(job, err);
}

static int run(const Args *args, gimbal_error *err)
{
    Job job = {.args = args};
    const int code = run_job(&job, err);
    gimbal_close(job.engine);
    gimbal_recipe_free(job.recipe);
    free(job.recipe_text);
    free(job.latents);
    free(job.reinit_noise);
    free(job.video);
    free(job.begin);
    image_free(&job.image);
    free(job.prompt_file);
    free(job.prompts);
    return code;
}

const Command command_generate = {
    .name = "generate",
    .usage = "generate --model DIR [--motion DIR|FILE] --prompt TEXT -o OUT [flags]",
    .help =
        "Turns a prompt into a clip. Prints OUT, or with --json a JSON object with all settings and figures.",
    .options = options,
    .settings = gimbal_setting_options,
    .more =
        "registries with knobs of their own: gimbal help noise, gimbal help reinit, gimbal help sampler\n"
        "example: gimbal generate --model models/toyworld --prompt \"a large red circle moving right over a\n"
        "         checkered black background\" --cfg 5 --reinit freeinit:passes=3 -o steady.mp4\n",
    .run = run,
};
