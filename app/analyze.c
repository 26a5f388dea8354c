/* analyze.c: gimbal analyze: what FreeInit (Wu et al., ECCV 2024) rests on, for any model and any clips.
 *
 *     analyze snr | leak | filters | realnoise | passes
 *
 * A study computes, analyze_show.c prints. Refuses to know what is studied. */
#include "app/analyze.h"

#include <stdlib.h>
#include <string.h>

#define AT(field) offsetof(AnalyzeFlags, field)
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
         "OUT, also -o: the plot, a .svg; of realnoise its clips: a folder, or a name's beginning"),
    TEXT("report", report, "file for table and plot as one page, a .html"),
    TEXT("latents", latents, "filters: FxHxW in latent pixels, instead of --frames, --width and --height"),
    {"ds", "filters: stop frequency in space, 1 = Nyquist", GIMBAL_REAL, AT(ds), 0.25, 0.001, 2, NULL, NULL},
    {"dt", "filters: stop frequency in time, 1 = Nyquist", GIMBAL_REAL, AT(dt), 0.25, 0.001, 2, NULL, NULL},
    {"order", "filters: steepness of butterworth's edge", GIMBAL_INT, AT(order), 4, 1, 64, NULL, NULL},
    {"draws",
     "filters: pairs of white clips that are mixed; realnoise: pairs of clips that are made, 1 unless given",
     GIMBAL_INT, AT(draws), 4, 1, 1000, NULL, NULL},
    {"fps", "realnoise: frames per second of its clips", GIMBAL_REAL, AT(fps), 8, 0.01, 1000, NULL, NULL},
    BOOL("no-mmap", no_mmap, "read the weights into memory instead of mapping their files"),
    BOOL("json", json, "one JSON object on stdout"),
    BOOL("quiet", quiet, "no progress, no notes"),
    {.name = NULL},
};

#define STUDY_REF(name) &study_##name,
static const Study *const studies[] = {STUDIES(STUDY_REF)};
enum { STUDY_COUNT = sizeof studies / sizeof *studies };

const double band_edges[BANDS - 1] = {0.05, 0.1, 0.25, 0.5, 1};
const char *const band_names[BANDS] = {"0-.05", ".05-.1", ".1-.25", ".25-.5", ".5-1", ">1"};

/* ---- the command line -------------------------------------------------------------------- */

static int find_study(const Args *args, const Study **out, gimbal_error *err)
{
    const char *names[STUDY_COUNT + 1] = {0};
    for (int i = 0; i < STUDY_COUNT; i++)
        names[i] = studies[i]->name;
    if (!args->n_words)
        return complain(err, GIMBAL_EUSAGE, "gimbal analyze leak",
                        "expected one of snr, leak, filters, realnoise and "
                        "passes, found nothing");
    TRY(unknown_word(names, "study", args->words[0], err));
    for (int i = 0; i < STUDY_COUNT; i++)
        if (!strcmp(names[i], args->words[0]))
            *out = studies[i];
    return GIMBAL_OK;
}

static bool is_listed(const char *const *list, const char *name)
{
    while (*list && strcmp(*list, name))
        list++;
    return *list;
}

static bool is_setting(const char *name)
{
    const gimbal_option *o = gimbal_setting_options();
    while (o->name && strcmp(o->name, name))
        o++;
    return o->name;
}

static int check_flags(const Analysis *a, gimbal_error *err)
{
    static const char *const everywhere[] = {"output", "report", "json", "quiet", NULL};
    const Study *study = a->study;
    for (int i = 0; i < a->args->n_flags; i++) {
        const char *name = a->args->flags[i].name;
        if (!is_listed(everywhere, name) && !is_listed(study->flags, name) &&
            !(study->settings && is_setting(name)))
            return complain(err, GIMBAL_EUSAGE, NULL, "analyze %s: --%s has no meaning here", study->name,
                            name);
    }
    if (a->n_clips >= study->least_clips && a->n_clips <= study->most_clips)
        return GIMBAL_OK;
    return complain(err, GIMBAL_EUSAGE, study->most_clips ? "gimbal analyze --help" : NULL,
                    "analyze %s: %d clips are given, expected %s", study->name, a->n_clips,
                    !study->most_clips      ? "none"
                    : study->most_clips > 1 ? "at least one"
                                            : "one");
}

/* Plot and page are refused before the work where they cannot be. */
static int check_places(const Analysis *a, gimbal_error *err)
{
    const AnalyzeFlags *f = &a->flags;
    if (f->output && !a->study->makes_clips) {
        if (!ends_with(f->output, ".svg"))
            return complain(err, GIMBAL_EUSAGE, "-o plot.svg", "-o %s: expected the name of a .svg",
                            f->output);
        TRY(check_place(f->output, err));
    }
    if (f->report && !ends_with(f->report, ".html"))
        return complain(err, GIMBAL_EUSAGE, "--report page.html", "--report %s: expected the name of a .html",
                        f->report);
    return f->report ? check_place(f->report, err) : GIMBAL_OK;
}

/* ---- a model and its session ------------------------------------------------------------- */

int analysis_open(Analysis *a, gimbal_error *err)
{
    AnalyzeFlags all = a->flags;
    TRY(open_model(&a->engine, a->flags.model, a->flags.motion, a->flags.no_mmap, a->flags.quiet, err));
    gimbal_defaults(&all.s, a->engine);
    TRY(args_apply(a->args, &all, err));
    a->flags = all;
    return check_signals(err);
}

static int on_progress(void *user, const gimbal_progress *p)
{
    Analysis *a = user;
    if (a->see && a->see(a, p))
        return -1;
    return progress_show(&a->progress, p);
}

int analysis_begin(Analysis *a, const gimbal_settings *settings, gimbal_error *err)
{
    gimbal_settings s = *settings;
    s.progress = on_progress;
    s.user = a;
    TRY(gimbal_begin(&a->session, a->engine, &s, err));
    signals_watch(a->session);
    return GIMBAL_OK;
}

enum { SMALL = 8 }; /* size steps: networks that are not asked are planned as small as they go */

int analysis_begin_small(Analysis *a, gimbal_error *err)
{
    gimbal_settings small = a->flags.s;
    small.width = small.height = SMALL * gimbal_size_step(a->engine);
    small.frames = 1;
    small.reinit = "none";
    return analysis_begin(a, &small, err);
}

int analysis_shape(Analysis *a, int frames, gimbal_shape *out, gimbal_error *err)
{
    const gimbal_settings *s = &a->flags.s;
    const int step = gimbal_size_step(a->engine);
    const gimbal_shape own = gimbal_latent_shape(a->session);
    const int factor = SMALL * step / own.w;
    if (s->width % step || s->height % step)
        return complain(err, GIMBAL_EUSAGE, NULL, "--width %d --height %d: expected multiples of %d",
                        s->width, s->height, step);
    *out = (gimbal_shape){own.c, frames, s->height / factor, s->width / factor};
    return GIMBAL_OK;
}

void analysis_end(Analysis *a)
{
    signals_watch(NULL);
    gimbal_end(a->session);
    a->session = NULL;
}

int analysis_sample(Analysis *a, float *latents, gimbal_error *err)
{
    const int code = gimbal_sample(a->session, latents, err);
    progress_clear(&a->progress);
    return code;
}

/* ---- the subcommand ---------------------------------------------------------------------- */

static int run_study(Analysis *a, gimbal_error *err)
{
    TRY(find_study(a->args, &a->study, err));
    a->clips = a->args->words + 1;
    a->n_clips = a->args->n_words - 1;
    args_defaults(&command_analyze, &a->flags);
    TRY(args_apply(a->args, &a->flags, err));
    TRY(check_flags(a, err));
    TRY(check_places(a, err));
    a->progress = progress_begin(a->flags.quiet);
    const int code = a->study->run(a, err);
    progress_clear(&a->progress);
    TRY(code);
    TRY(check_fault(err));
    return findings_show(a, err);
}

static int run(const Args *args, gimbal_error *err)
{
    Analysis a = {.args = args};
    const int code = run_study(&a, err);
    analysis_end(&a);
    gimbal_close(a.engine);
    findings_free(&a.found);
    return code;
}

const Command command_analyze = {
    .name = "analyze",
    .usage = "analyze snr|leak|filters|realnoise|passes [CLIP...] [flags]",
    .help = "shows what FreeInit rests on: how much of a clip survives in its noise, band by band",
    .options = options,
    .settings = gimbal_setting_options,
    .more =
        "snr CLIP...  signal to noise in each band of spatio-temporal frequency, when clips are diffused: of "
        "a\n"
        "             model's latents, or without --model of 64x64 luma. Takes --frames, --betas, "
        "--spacing,\n"
        "             --steps, --sampler; with a model --width and --height\n"
        "leak         what the schedule leaves of the clip at the last and at the first sampled timestep: "
        "of\n"
        "             --model, or of both common schedules. Takes --betas, --spacing, --steps, --sampler\n"
        "filters      the four low-pass filters, as published and corrected: what they keep, their faults, "
        "and\n"
        "             the variance of a mix. Takes --frames, --width, --height or --latents, --ds, --dt\n"
        "realnoise    --model, --prompt, CLIP: the clip is diffused to the first sampled timestep; its low "
        "band\n"
        "             under a new high band makes one clip, noise under the same high band another. Which "
        "is\n"
        "             more like the clip? --reinit gives the filter; -o PREFIX keeps both; --draws makes "
        "more\n"
        "             pairs. Takes all settings\n"
        "passes       --model, --prompt: each band's power after every pass of --reinit, and how alike\n"
        "             neighbouring passes are. Takes all settings\n\n"
        "Bands are of FreeInit's radius, sqrt(f_t^2 + f_y^2 + f_x^2), with f = 1 at Nyquist. Powers and "
        "signal to\n"
        "noise are against white noise of variance 1.\n\n"
        "  gimbal analyze snr clip.mp4 -o snr.svg\n"
        "  gimbal analyze leak --model models/toyworld --report leak.html\n"
        "  gimbal analyze passes --model models/toyworld --prompt \"a large red circle\" --reinit "
        "freeinit:passes=5\n",
    .run = run,
};
