/* measure.c: gimbal measure: how steady clips are, and how much they move.
 *
 * Clips are measured one by one. One that cannot be read does not stop the others; it is named, and the exit
 * status says so. What is wrong with the order itself (a score that is unknown, weights that are not there)
 * ends everything. With --features it is sets of clips that are compared, which measure_sets.c does.
 *
 * Refuses to know how scores are computed and clips are read. */
#include "app/measure.h"
#include "flow/flow.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *metric, *suite, *weights, *prompt, *image, *antialias, *report, *features, *with;
    int per_frame, json, threads, quiet;
} Flags;

static const char *const antialias_words[] = {"0", "1", NULL};

#define AT(field) offsetof(Flags, field)
static const gimbal_option options[] = {
    {"metric", "what to measure: names with commas, may be repeated; without it all that needs no weights",
     GIMBAL_TEXT, AT(metric), 0, 0, 0, NULL, NULL},
    {"suite", "the measures of a published benchmark, as far as they can be had here", GIMBAL_CHOICE,
     AT(suite), 0, 0, 0, NULL, suite_words},
    {"weights", "folder of the networks' safetensors files, for the metrics that need them", GIMBAL_TEXT,
     AT(weights), 0, 0, 0, NULL, NULL},
    {"prompt", "for clipsim; without it the one of the clip's recipe", GIMBAL_TEXT, AT(prompt), 0, 0, 0, NULL,
     NULL},
    {"image", "for i2v_subject: the picture that the clip began with; without it its first frame",
     GIMBAL_TEXT, AT(image), 0, 0, 0, NULL, NULL},
    {"antialias", "when pictures are resized for networks; without it as each metric's definition says",
     GIMBAL_CHOICE, AT(antialias), 0, 0, 0, NULL, antialias_words},
    {"per-frame", "the values of every frame too", GIMBAL_BOOL, AT(per_frame), 0, 0, 1, NULL, NULL},
    {"features", "compare sets: a safetensors file with \"features\" or \"logits\", or a folder of clips",
     GIMBAL_TEXT, AT(features), 0, 0, 0, NULL, NULL},
    {"with", "the set to compare --features with", GIMBAL_TEXT, AT(with), 0, 0, 0, NULL, NULL},
    {"report", "a page of HTML with pictures and plots", GIMBAL_TEXT, AT(report), 0, 0, 0, NULL, NULL},
    {"threads", "0: all this process may use", GIMBAL_INT, AT(threads), 0, 0, 1024, NULL, NULL},
    {"json", "a JSON object on stdout", GIMBAL_BOOL, AT(json), 0, 0, 1, NULL, NULL},
    {"quiet", "no progress, no notes", GIMBAL_BOOL, AT(quiet), 0, 0, 1, NULL, NULL},
    {.name = NULL},
};

typedef struct {
    Flags flags;
    gimbal_measure_order order;
    char *names;    /* of scores, joined */
    uint8_t *image; /* [height][width][3] */
    json_t *clips, *failed;
    json_t *absent; /* {name: reason}, with --suite */
    Page *page;
    int code; /* of the first clip that could not be measured */
} Job;

/* ---- the order --------------------------------------------------------------------------- */

/* --metric a --metric b,c -> "a,b,c"; NULL: none was given. */
static int join_names(const Args *args, char **out, gimbal_error *err)
{
    *out = NULL;
    for (int i = 0; i < args->n_flags; i++) {
        char *longer;
        if (strcmp(args->flags[i].name, "metric"))
            continue;
        if (asprintf(&longer, "%s%s%s", *out ? *out : "", *out ? "," : "", args->flags[i].value) < 0)
            return fail_memory(err);
        free(*out);
        *out = longer;
    }
    return GIMBAL_OK;
}

static int read_image(Job *job, gimbal_error *err)
{
    media_reader *reader;
    media_info info;
    TRY(media_open(&reader, job->flags.image, &info, err));
    job->image = malloc(3 * (size_t)info.width * (size_t)info.height);
    const int got = job->image ? media_get(reader, job->image, err) : fail_memory(err);
    media_free(reader);
    job->order.image = job->image;
    job->order.image_width = info.width, job->order.image_height = info.height;
    return got < 0 ? got : GIMBAL_OK;
}

static int make_order(Job *job, const Args *args, gimbal_error *err)
{
    const Flags *f = &job->flags;
    TRY(join_names(args, &job->names, err));
    gimbal_measure_defaults(&job->order);
    job->order.scores = job->names;
    job->order.weights = f->weights;
    job->order.prompt = f->prompt;
    job->order.threads = f->threads;
    job->order.antialias = f->antialias ? !strcmp(f->antialias, "1") : -1;
    if (f->suite)
        TRY(suite_begin(&job->order, &job->names, &job->absent, err));
    if (!job->names && !flow_version() && !f->quiet)
        fputs("gimbal: note: this build has no OpenCV: scores that need optical flow are left out\n", stderr);
    return f->image ? read_image(job, err) : GIMBAL_OK;
}

/* ---- clips ------------------------------------------------------------------------------- */

static int show_clip(Job *job, const Measured *m, const ClipView *view, gimbal_error *err)
{
    const bool per_frame = job->flags.per_frame;
    if (job->page)
        page_clip(job->page, view, m);
    if (job->flags.json)
        return json_array_append_new(job->clips, measured_json(m, per_frame)) ? fail_memory(err) : GIMBAL_OK;
    measured_print(m, per_frame, stdout);
    return flush_stdout(err);
}

static int measure_one(Job *job, const char *path, gimbal_error *err)
{
    enum { THUMBNAILS = 8 };
    Measured m;
    ClipView *view = job->page ? clip_view_new(THUMBNAILS) : NULL;
    if (job->page && !view)
        return fail_memory(err);
    int code = measure_clip(path, &job->order, job->flags.quiet, view ? clip_view_see : NULL, view, &m, err);
    if (!code) {
        code = show_clip(job, &m, view, err);
        measured_free(&m);
    }
    clip_view_free(view);
    return code;
}

/* One clip's own fault: the others may still be measured. */
static bool is_of_clip(int code)
{
    return code == GIMBAL_EFORMAT || code == GIMBAL_EIO;
}

static int measure_all(Job *job, const char *const *paths, int n, gimbal_error *err)
{
    for (int i = 0; i < n; i++) {
        gimbal_error own = {0};
        const int code = measure_one(job, paths[i], &own);
        if (code && (n == 1 || !is_of_clip(code))) {
            *err = own;
            return code;
        }
        if (!code)
            continue;
        fprintf(stderr, "gimbal: warning: %s\n", own.msg);
        job->code = job->code ? job->code : code;
        if (job->page)
            page_text(job->page, "Not measured: %s", own.msg);
        if (json_array_append_new(job->failed, json_pack("{s:o, s:o}", "path", json_text(paths[i]), "error",
                                                         json_text(own.msg))))
            return fail_memory(err);
    }
    return GIMBAL_OK;
}

/* After everything else was shown: which clips are missing. */
static int say_failed(const Job *job, int n, gimbal_error *err)
{
    char list[512] = "";
    json_t *one;
    size_t i;
    if (!job->code)
        return GIMBAL_OK;
    json_array_foreach(job->failed, i, one)
    {
        const size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "",
                 json_string_value(json_object_get(one, "path")));
    }
    return complain(err, job->code, NULL, "%zu of %d clips could not be measured: %s",
                    json_array_size(job->failed), n, list);
}

static int write_report(Job *job, gimbal_error *err)
{
    Page *page = job->page;
    job->page = NULL;
    return page ? page_write(page, job->flags.report, err) : GIMBAL_OK;
}

static int run_clips(Job *job, const Args *args, gimbal_error *err)
{
    if (!args->n_words)
        return complain(err, GIMBAL_EUSAGE, "gimbal measure clip.mp4", "no clip is given");
    if (job->flags.with)
        return complain(err, GIMBAL_EUSAGE, "gimbal compare A... --with B...",
                        "--with belongs to --features");
    TRY(make_order(job, args, err));
    job->clips = json_array();
    job->failed = json_array();
    if (!job->clips || !job->failed)
        return fail_memory(err);
    if (job->flags.report) {
        TRY(check_place(job->flags.report, err));
        job->page = page_begin(
            "How steady are these clips?",
            "Scores of consistency beside those of motion: a frozen clip is perfectly consistent.");
        if (!job->page)
            return fail_memory(err);
    }
    TRY(measure_all(job, args->words, args->n_words, err));
    TRY(write_report(job, err));
    if (job->flags.json)
        TRY(print_json(json_pack("{s:i, s:O, s:O, s:O*}", "schema", 1, "clips", job->clips, "failed",
                                 job->failed, "absent", job->absent),
                       err));
    else if (job->absent)
        TRY(suite_print_absent(job->flags.suite, job->absent, err));
    return say_failed(job, args->n_words, err);
}

static int run_sets(Job *job, const Args *args, gimbal_error *err)
{
    const Flags *f = &job->flags;
    TRY(join_names(args, &job->names, err));
    if (args->n_words || f->report || f->suite)
        return complain(err, GIMBAL_EUSAGE, "gimbal measure --features A --with B",
                        "--features compares two sets: no further clips, no report, no suite");
    return measure_sets(f->features, f->with, job->names, f->weights, f->json, f->quiet, err);
}

static int run(const Args *args, gimbal_error *err)
{
    Job job = {0};
    args_defaults(&command_measure, &job.flags);
    int code = args_apply(args, &job.flags, err);
    if (!code)
        code = job.flags.features ? run_sets(&job, args, err) : run_clips(&job, args, err);
    page_drop(job.page);
    json_decref(job.clips);
    json_decref(job.failed);
    json_decref(job.absent);
    free(job.names);
    free(job.image);
    return code;
}

const Command command_measure = {
    .name = "measure",
    .usage = "measure CLIP... [flags]",
    .help = "Measures how steady clips are and how much they move: flicker, similarity of frames, warping "
            "error, motion,\n"
            "spectra, and with --weights what DINO, CLIP and RAFT say. A clip is a file, a pattern "
            "f%03d.png, a folder of\n"
            "pictures, or a .safetensors file of frames.",
    .options = options,
    .more =
        "gimbal help metric lists what can be measured. A frozen clip is perfect in every score of "
        "consistency: read\n"
        "them beside motion_magnitude, the mean speed in percent of the picture's shorter side per frame.\n",
    .run = run,
};
