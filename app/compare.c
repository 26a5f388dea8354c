/* compare.c: gimbal compare: two sets of clips, paired, score by score, and whether their difference is more
 * than luck.
 *
 * Clips are measured pair by pair through measure_clip; a pair whose clips differ in size or length is
 * refused, for scores of different sizes cannot be compared. Motion is always measured too, where the build
 * has optical flow: consistency without it says nothing.
 *
 * Refuses to know statistics (compare_scores.c), pairing (compare_pairs.c) and layout (compare_show.c). */
#include "app/measure.h"
#include "flow/flow.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const char *with, *metric, *weights, *prompt, *by, *report;
    uint64_t seed;
    int partial, json, quiet, threads;
} Flags;

static const char *const ways[] = {"auto", "name", "recipe", "order", NULL};

static const gimbal_option options[] = {
    {"with", "the clips B, or folders of them: the value and all words after it", GIMBAL_TEXT,
     offsetof(Flags, with), 0, 0, 0, NULL, NULL},
    {"metric", "scores to compare, with commas or repeated; without it all that need no weights", GIMBAL_TEXT,
     offsetof(Flags, metric), 0, 0, 0, NULL, NULL},
    {"weights", "folder of the networks that some scores need", GIMBAL_TEXT, offsetof(Flags, weights), 0, 0,
     0, NULL, NULL},
    {"prompt", "for clipsim; without it each clip's own", GIMBAL_TEXT, offsetof(Flags, prompt), 0, 0, 0, NULL,
     NULL},
    {"by",
     "what pairs clips: their names, prompt and seed of their recipes, or their order; auto: name, then "
     "recipe",
     GIMBAL_CHOICE, offsetof(Flags, by), 0, 0, 0, "auto", ways},
    {"partial", "leave out clips without a partner", GIMBAL_BOOL, offsetof(Flags, partial), 0, 0, 1, NULL,
     NULL},
    {"seed", "of the resampling", GIMBAL_SEED, offsetof(Flags, seed), 0, 0, 0, NULL, NULL},
    {"json", "one JSON object on stdout", GIMBAL_BOOL, offsetof(Flags, json), 0, 0, 1, NULL, NULL},
    {"report", "FILE.html: tables, intervals, and the pairs that differ most", GIMBAL_TEXT,
     offsetof(Flags, report), 0, 0, 0, NULL, NULL},
    {"threads", "0: what affinity and control groups allow", GIMBAL_INT, offsetof(Flags, threads), 0, 0, 1024,
     NULL, NULL},
    {"quiet", "no progress on stderr, also -q", GIMBAL_BOOL, offsetof(Flags, quiet), 0, 0, 1, NULL, NULL},
    {.name = NULL},
};

void show_clip_progress(int done, int all, double started)
{
    const double each = (clock_seconds() - started) / done;
    const long left = (long)(each * (all - done) + 0.5);
    const bool terminal = isatty(STDERR_FILENO);
    fprintf(stderr, "%sclip %d/%d, %.2g s/clip, ETA %ld:%02ld%s", terminal ? "\r" : "", done, all, each,
            left / 60, left % 60, !terminal || done == all ? "\n" : "   ");
    fflush(stderr);
}

/* ---- which clips ------------------------------------------------------------------------- */

/* Words before the first --with are A; its values and all words after it are B. */
static int find_clips(const Args *args, Comparison *c, gimbal_error *err)
{
    int first = 0;
    while (first < args->n_flags && strcmp(args->flags[first].name, "with"))
        first++;
    if (first == args->n_flags)
        return complain(err, GIMBAL_EUSAGE, "gimbal compare plain/ --with steady/", "--with is missing");
    for (int i = first; i < args->n_flags; i++)
        if (!strcmp(args->flags[i].name, "with"))
            TRY(clips_find(&c->b, &args->flags[i].value, 1, err));
    for (int i = 0; i < args->n_words; i++)
        TRY(clips_find(args->flags_before[i] > first ? &c->b : &c->a, &args->words[i], 1, err));
    if (!c->a.n)
        return complain(err, GIMBAL_EUSAGE, "gimbal compare plain/ --with steady/",
                        "no clip stands before --with");
    return GIMBAL_OK;
}

/* Sides of the first picture; false: not known before measuring. */
static bool look(const char *path, media_info *info)
{
    media_reader *in;
    if (ends_with(path, ".safetensors") || media_open(&in, path, info, NULL))
        return false;
    media_free(in);
    return true;
}

static int refuse_pair(const char *a, const char *b, const int size_a[3], const int size_b[3],
                       gimbal_error *err)
{
    char frames_a[32] = "", frames_b[32] = "";
    if (size_a[2] != size_b[2]) {
        snprintf(frames_a, sizeof frames_a, " with %d frames", size_a[2]);
        snprintf(frames_b, sizeof frames_b, " with %d", size_b[2]);
    }
    return complain(err, GIMBAL_EUSAGE, "make both clips with the same size and number of frames",
                    "%s is %dx%d%s, %s is %dx%d%s: their scores cannot be compared", a, size_a[0], size_a[1],
                    frames_a, b, size_b[0], size_b[1], frames_b);
}

/* Before any work, as far as it is known then. */
static int check_pictures(const Comparison *c, gimbal_error *err)
{
    for (int i = 0; i < c->pairs.n; i++) {
        const char *a = c->a.paths[c->pairs.at[i][0]], *b = c->b.paths[c->pairs.at[i][1]];
        media_info ia, ib;
        TRY(check_signals(err));
        if (!look(a, &ia) || !look(b, &ib) || (ia.width == ib.width && ia.height == ib.height))
            continue;
        return refuse_pair(a, b, (int[]){ia.width, ia.height, 0}, (int[]){ib.width, ib.height, 0}, err);
    }
    return GIMBAL_OK;
}

/* ---- measuring --------------------------------------------------------------------------- */

static bool names(const char *list, const char *name)
{
    const size_t n = strlen(name);
    for (const char *at = list; at; at = strchr(at, ','), at += at != NULL)
        if (!strncmp(at, name, n) && (!at[n] || at[n] == ','))
            return true;
    return false;
}

static int append(char **list, const char *more, gimbal_error *err)
{
    char *longer;
    if (asprintf(&longer, "%s%s%s", *list ? *list : "", *list ? "," : "", more) < 0)
        return fail_memory(err);
    free(*list);
    *list = longer;
    return GIMBAL_OK;
}

/* What --metric names, and motion. *out NULL: all that need no weights. Caller frees, also on error. */
static int wanted_scores(const Args *args, char **out, gimbal_error *err)
{
    static const char *const controls[] = {"motion_magnitude", "dynamic_degree_dis"};
    for (int i = 0; i < args->n_flags; i++)
        if (!strcmp(args->flags[i].name, "metric"))
            TRY(append(out, args->flags[i].value, err));
    for (int i = 0; *out && flow_version() && i < 2; i++)
        if (!names(*out, controls[i]))
            TRY(append(out, controls[i], err));
    return GIMBAL_OK;
}

static int measure_pair(Comparison *c, int i, const gimbal_measure_order *order, gimbal_error *err)
{
    Measured *a = &c->of_a[i], *b = &c->of_b[i];
    TRY(check_signals(err));
    TRY(measure_clip(c->a.paths[c->pairs.at[i][0]], order, true, NULL, NULL, a, err));
    TRY(check_signals(err));
    TRY(measure_clip(c->b.paths[c->pairs.at[i][1]], order, true, NULL, NULL, b, err));
    if (a->width == b->width && a->height == b->height && a->frames == b->frames)
        return GIMBAL_OK;
    return refuse_pair(a->path, b->path, (int[]){a->width, a->height, a->frames},
                       (int[]){b->width, b->height, b->frames}, err);
}

static int measure_pairs(Comparison *c, const Flags *flags, const char *scores, gimbal_error *err)
{
    gimbal_measure_order order;
    gimbal_measure_defaults(&order);
    order.scores = scores, order.weights = flags->weights, order.prompt = flags->prompt,
    order.threads = flags->threads;
    c->of_a = calloc((size_t)c->pairs.n, sizeof *c->of_a);
    c->of_b = calloc((size_t)c->pairs.n, sizeof *c->of_b);
    if (!c->of_a || !c->of_b)
        return fail_memory(err);
    const double start = clock_seconds();
    for (int i = 0; i < c->pairs.n; i++) {
        TRY(measure_pair(c, i, &order, err));
        if (!flags->quiet)
            show_clip_progress(2 * i + 2, 2 * c->pairs.n, start);
    }
    return GIMBAL_OK;
}

/* ---- the subcommand ---------------------------------------------------------------------- */

static int compare(Comparison *c, const Args *args, const Flags *flags, gimbal_error *err)
{
    char *scores = NULL;
    c->warnings = json_array();
    TRY(find_clips(args, c, err));
    TRY(pairs_make(&c->pairs, &c->a, &c->b, flags->by, flags->partial, err));
    TRY(check_pictures(c, err));
    int code = wanted_scores(args, &scores, err);
    code = code ? code : measure_pairs(c, flags, scores, err);
    free(scores);
    TRY(code);
    TRY(comparison_judge(c, err));
    if (flags->report)
        TRY(comparison_report(c, flags->report, err));
    if (flags->json)
        return print_json(comparison_json(c), err);
    comparison_print(c, stdout);
    return flush_stdout(err);
}

static int run(const Args *args, gimbal_error *err)
{
    Flags flags;
    args_defaults(&command_compare, &flags);
    TRY(args_apply(args, &flags, err));
    if (flags.report)
        TRY(check_place(flags.report, err));
    Comparison c = {.seed = flags.seed};
    const int code = compare(&c, args, &flags, err);
    comparison_free(&c);
    return code;
}

const Command command_compare = {
    .name = "compare",
    .usage =
        "compare A... --with B... [--metric NAME,...] [--by name|recipe|order] [--json] [--report OUT.html]",
    .help = "Compares two sets of clips, paired: every score's difference, its 95 % interval, and whether it "
            "is more than "
            "luck.",
    .options = options,
    .more = "A and B are clips or folders of clips; words after --with belong to B. Pairs are made by file "
            "name, else by\n"
            "prompt and seed. A verdict needs an interval without 0, a permutation p below .05 after Holm's "
            "correction\n"
            "over the scores that have a direction, and 6 pairs. Part of a gain can be the luck of a redrawn "
            "sample:\n"
            "compare a re-initialiser with --reinit redraw too, which draws the same fresh noise and learns "
            "nothing,\n"
            "on some hundred pairs. A frozen clip scores perfect in consistency: read motion beside it.\n",
    .run = run,
};
