/* train.c: gimbal train: a model learns from clips.
 *
 *     --data -> clips ─┐
 *     flags -> settings -> gimbal_train_begin -> gimbal_train_run ── events ──> stderr, OUT/log.jsonl, stdout
 *     mpirun -> ranks ─┘                              └ a checkpoint ───> OUT/model, OUT/samples,
 * OUT/index.html
 *
 * Started by mpirun, every process does the same; rank 0 alone speaks and writes beside the checkpoints. What
 * hinders looking on (samples, the page, the log) is said and does not stop the learning. Refuses to know how
 * anything is learnt. */
#include "app/train.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define AT(field) offsetof(TrainFlags, field)
#define TEXT(name, field, help)                                                                              \
    {                                                                                                        \
        name, help, GIMBAL_TEXT, AT(field), 0, 0, 0, NULL, NULL                                              \
    }
#define BOOL(name, field, help)                                                                              \
    {                                                                                                        \
        name, help, GIMBAL_BOOL, AT(field), 0, 0, 1, NULL, NULL                                              \
    }
static const gimbal_option options[] = {
    TEXT("data", data, "a folder of clips with captions, or toyworld:count=4096"),
    TEXT("output", output, "OUT, also -o: the folder for checkpoints, log.jsonl, index.html and samples"),
    BOOL("resume", resume, "go on from the newest whole checkpoint of OUT, if there is one"),
    BOOL("dry-run", dry_run, "only say what it would take"),
    TEXT("sample-prompt", sample_prompt, "make a clip of this prompt from checkpoints"),
    TEXT("sample-prompts", sample_prompts, "a file with one such prompt a line"),
    {"sample-every", "steps between samples, at the next checkpoint; 0: at every checkpoint", GIMBAL_INT,
     AT(sample_every), 0, 0, 1 << 30, NULL, NULL},
    TEXT("page", page, "only make index.html of this folder anew, from its log.jsonl"),
    BOOL("json", json, "every event as a JSON object on stdout"),
    BOOL("quiet", quiet, "no progress, no notes"),
    {.name = NULL},
};

enum { NOTES = 64 };

typedef struct {
    TrainFlags flags;
    gimbal_ranks ranks;
    gimbal_clips clips; /* count 0: not open */
    gimbal_trainer *trainer;
    TrainLog log;
    TrainShow show;
    TrainSamples samples;
    char *checkpoint;      /* the last one's folder, or NULL */
    uint64_t notes[NOTES]; /* hashes of the last ones, a ring */
    int n_notes;
    bool no_samples, no_page; /* said already */
} Training;

/* ---- events ------------------------------------------------------------------------------ */

static void warn(Training *t, const char *what, const gimbal_error *err)
{
    progress_clear(&t->show.progress);
    fprintf(stderr, "gimbal: warning: %s: %s\n", what, err->msg);
}

static void write_line(Training *t, json_t *line)
{
    gimbal_error ignored = {0};
    if (t->flags.json && line)
        print_json(json_incref(line), &ignored); /* nobody listens: the folder has it too */
    train_log_add(&t->log, line);
}

/* What hinders looking at a checkpoint, once. */
static void warn_once(Training *t, bool *warned, const char *what, const gimbal_error *err)
{
    if (!*warned && !signals_seen())
        warn(t, what, err);
    *warned = true;
}

/* A checkpoint is there: a model folder of it, samples, and the page with them. */
static void look_at(Training *t, const gimbal_train_event *e)
{
    char *model = NULL;
    json_t *line = NULL;
    gimbal_error err = {0}, page = {0};
    free(t->checkpoint);
    t->checkpoint = strdup(e->text);
    int code = train_model_link(&t->flags, e->text, &model, &err);
    if (!code)
        code = train_samples_make(&t->samples, &t->flags, &t->clips, e->step, model, &line, &err);
    if (code)
        warn_once(t, &t->no_samples, model ? "no samples" : "no folder to generate from", &err);
    write_line(t, line);
    if (train_page(t->flags.output, &page))
        warn_once(t, &t->no_page, "no page", &page);
    free(model);
}

/* A clip that cannot be read is drawn again and again; it is named once. FNV-1a. */
static bool is_repeated(Training *t, const char *note)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (const char *c = note; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 0x100000001B3u;
    for (int i = 0; i < NOTES; i++)
        if (t->notes[i] == hash)
            return true;
    t->notes[t->n_notes++ % NOTES] = hash;
    return false;
}

static int on_event(void *user, const gimbal_train_event *e)
{
    Training *t = user;
    if (t->ranks.rank || (e->what == GIMBAL_TRAIN_NOTE && e->text && is_repeated(t, e->text)))
        return 0;
    write_line(t, train_event_json(e));
    train_show(&t->show, e);
    if (e->what == GIMBAL_TRAIN_SAVED)
        look_at(t, e);
    return fault_file() != NULL;
}

/* ---- checks ------------------------------------------------------------------------------ */

static int check_flags(const Args *args, const TrainFlags *f, gimbal_error *err)
{
    if (args->n_words)
        return complain(err, GIMBAL_EUSAGE, NULL, "\"%.60s\": unexpected argument", args->words[0]);
    if (!f->s.model)
        return complain(err, GIMBAL_EUSAGE, "a folder in diffusers layout, e.g. models/toyworld",
                        "--model is missing");
    if (f->dry_run)
        return GIMBAL_OK;
    if (!f->data)
        return complain(err, GIMBAL_EUSAGE, "--data toyworld:count=4096, or a folder of clips",
                        "--data is missing: what shall be learnt from?");
    if (!f->output || !*f->output)
        return complain(err, GIMBAL_EUSAGE, "-o run", "-o is missing: which folder shall checkpoints go to?");
    return GIMBAL_OK;
}

/* What the recipe decides, under the flags. */
static int read_flags(Training *t, const Args *args, gimbal_error *err)
{
    TrainFlags *f = &t->flags;
    TRY(gimbal_train_defaults(&f->s, f->s.recipe, err));
    return args_apply(args, f, err);
}

/* ---- the work ---------------------------------------------------------------------------- */

static json_t *begin_line(const Training *t)
{
    char stamp[32] = "";
    const time_t now = time(NULL);
    struct tm utc;
    if (gmtime_r(&now, &utc))
        strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%SZ", &utc);
    const TrainFlags *f = &t->flags;
    return json_pack("{s:s, s:i, s:i, s:s, s:s, s:o, s:o, s:o, s:I, s:o, s:i, s:o}", "what", "begin", "step",
                     gimbal_train_step(t->trainer), "steps", f->s.steps, "time", stamp, "version",
                     gimbal_version(), "recipe", json_text(f->s.recipe), "model", json_text(f->s.model),
                     "data", json_text(f->data), "clips", (json_int_t)t->clips.count, "data_sha256",
                     json_text(t->clips.identity), "ranks", t->ranks.size, "settings",
                     train_settings_json(&f->s));
}

static int dry_run(const Training *t, gimbal_error *err)
{
    gimbal_train_cost cost;
    signals_nothing_begun(true);
    const int code = gimbal_train_predict(&t->flags.s, t->ranks.size, &cost, err);
    signals_nothing_begun(false);
    TRY(code);
    return t->ranks.rank ? GIMBAL_OK : train_print_cost(&t->flags, &cost, t->ranks.size, err);
}

static int begin(Training *t, gimbal_error *err)
{
    const TrainFlags *f = &t->flags;
    signals_nothing_begun(true);
    int code = clips_open(f->data, t->ranks.rank > 0, &t->clips, err);
    if (!code)
        code = gimbal_train_begin(&t->trainer, &f->s, &t->clips, t->ranks.self ? &t->ranks : NULL, f->output,
                                  f->resume, on_event, t, err);
    signals_nothing_begun(false);
    TRY(code);
    t->samples.before = gimbal_train_step(t->trainer);
    if (t->ranks.rank)
        return GIMBAL_OK;
    TRY(train_log_open(&t->log, f->output, gimbal_train_step(t->trainer), err));
    write_line(t, begin_line(t));
    if (!f->quiet && gimbal_train_step(t->trainer))
        fprintf(stderr, "gimbal: going on after step %d of %d\n", gimbal_train_step(t->trainer), f->s.steps);
    return GIMBAL_OK;
}

/* The error of a run that was stopped says what is left of it. */
static int say_stopped(const Training *t, gimbal_error *err)
{
    const int step = gimbal_train_step(t->trainer), of = t->flags.s.steps;
    err->code = 0;
    if (t->checkpoint)
        return complain(err, GIMBAL_ECANCEL, "the same command with --resume goes on from there",
                        "stopped after step %d of %d; kept %.400s", step, of, t->checkpoint);
    return complain(err, GIMBAL_ECANCEL, NULL, "stopped after step %d of %d", step, of);
}

static int print_result(const Training *t, gimbal_error *err)
{
    const char *last = t->checkpoint ? t->checkpoint : t->flags.output;
    char memory[24];
    if (t->ranks.rank)
        return GIMBAL_OK;
    if (!t->flags.quiet)
        fprintf(stderr, "%s: %d steps, %s\n", t->flags.output, gimbal_train_step(t->trainer),
                print_bytes(t->show.progress.peak_anon, memory));
    if (t->flags.json)
        return print_json(json_pack("{s:s, s:i, s:o, s:I}", "what", "end", "step",
                                    gimbal_train_step(t->trainer), "checkpoint", json_text(last),
                                    "peak_anon_bytes", (json_int_t)t->show.progress.peak_anon),
                          err);
    puts(last);
    return flush_stdout(err);
}

static int learn(Training *t, gimbal_error *err)
{
    TRY(begin(t, err));
    signals_watch_trainer(t->trainer);
    const int code = gimbal_train_run(t->trainer, err);
    signals_watch_trainer(NULL);
    progress_clear(&t->show.progress);
    if (code == GIMBAL_ECANCEL && signals_seen() && !t->ranks.rank)
        return say_stopped(t, err);
    return code ? code : print_result(t, err);
}

static int work(Training *t, const Args *args, gimbal_error *err)
{
    TrainFlags *f = &t->flags;
    TRY(read_flags(t, args, err));
    TRY(check_flags(args, f, err));
    TRY(train_samples_read(&t->samples, f, err));
    if (f->s.threads == 0 && t->ranks.self)
        f->s.threads = ranks_threads(&t->ranks);
    f->quiet = f->quiet || t->ranks.rank;
    t->show.progress = progress_begin(f->quiet);
    return f->dry_run ? dry_run(t, err) : learn(t, err);
}

static int make_page(const Args *args, const char *folder, gimbal_error *err)
{
    if (args->n_flags > 1 || args->n_words)
        return complain(err, GIMBAL_EUSAGE, "gimbal train --page OUT", "--page stands alone");
    TRY(train_page(folder, err));
    printf("%s/index.html\n", folder);
    return flush_stdout(err);
}

static void training_free(Training *t)
{
    gimbal_train_end(t->trainer);
    train_log_close(&t->log);
    train_samples_free(&t->samples);
    if (t->clips.close)
        t->clips.close(t->clips.self);
    free(t->checkpoint);
}

static int run_ranks(Training *t, const Args *args, gimbal_error *err)
{
    TRY(ranks_begin(&t->ranks, err));
    return ranks_end(&t->ranks, work(t, args, err), err);
}

static int run(const Args *args, gimbal_error *err)
{
    Training t = {.log = train_log()};
    args_defaults(&command_train, &t.flags);
    int code = args_apply(args, &t.flags, err);
    if (!code)
        code = t.flags.page ? make_page(args, t.flags.page, err) : run_ranks(&t, args, err);
    training_free(&t);
    return t.ranks.rank ? GIMBAL_OK : code; /* what happened is rank 0's to tell */
}

const Command command_train = {
    .name = "train",
    .usage = "train --recipe NAME --model DIR --data FOLDER|toyworld -o OUT [flags]",
    .help = "Trains a model on clips with captions. OUT gets checkpoints with the weights in the model's own "
            "layout, a log,\n"
            "and a page with curves and samples. Prints the last checkpoint's folder.",
    .options = options,
    .settings = gimbal_train_options,
    .more = "gimbal help recipe lists what can be learnt. Ctrl-C finishes the step and saves; --resume goes "
            "on, with\n"
            "the same bytes as if nothing had happened. Several processes or machines: mpirun -n N gimbal "
            "train ...\n"
            "example: gimbal train --model models/toyworld --data toyworld:count=4096 --steps 200 \\\n"
            "         --sample-prompt \"a large red circle moving right over a white background\" -o run\n",
    .run = run,
};
