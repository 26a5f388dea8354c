/* analyze.h: what the studies of `gimbal analyze` share. A study is a constant struct and a line in STUDIES.
 *
 *   analyze.c       the subcommand: table of studies, flags, model and session
 *   analyze_show.c  what was found: as a table on stdout, as JSON, as a plot, as a page
 *   analyze_clip.c  clips as pictures or as luma
 *   analyze_snr.c analyze_leak.c analyze_filters.c analyze_realnoise.c analyze_passes.c    one study each
 *
 * A study fills Findings and prints nothing. Refuses to know how findings look. */
#ifndef APP_ANALYZE_H
#define APP_ANALYZE_H

#include "app/measure.h"

typedef struct {
    gimbal_settings s; /* first: the flags of gimbal_setting_options */
    const char *model, *motion, *output, *report, *latents;
    double ds, dt, fps;
    int order, draws, no_mmap, json, quiet;
} AnalyzeFlags;

/* ---- what was found: analyze_show.c ------------------------------------------------------ */

enum { MOST_COLUMNS = 16, MOST_LINES = 16, MOST_NOTES = 8 };

/* Zero-initialise. Lack of memory is remembered and comes out of findings_show. */
typedef struct {
    char **cells; /* [rows][columns], the first row is the head */
    int rows, columns;
    json_t *json, *list; /* keys of the whole; objects of "rows", NULL until there is one */
    char *note[MOST_NOTES];
    Axes axes;
    Line line[MOST_LINES]; /* names and numbers are this struct's */
    int notes, lines;
    bool no_memory;
} Findings;
/* Cells with tabs between; the first call makes the head. */
void findings_row(Findings *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A sentence below the table. */
void findings_note(Findings *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* An object of "rows", and a key of the whole; both take the reference, NULL is lack of memory. */
void findings_object(Findings *, json_t *row);
void findings_key(Findings *, const char *key, json_t *value);
/* A line of the plot; copies. The first sets the plot up: axes must be filled. */
void findings_line(Findings *, const char *name, const double *x, const double *y, int n);
void findings_free(Findings *);
/* null where x is not finite, which JSON cannot say. */
json_t *number_json(double x);
/* "-17.7", "-inf", or "-" for NaN. */
const char *number_text(double x, const char *fmt, char out[32]);

/* ---- a study under way: analyze.c -------------------------------------------------------- */

typedef struct Study Study;
typedef struct Analysis {
    const Study *study;
    const Args *args;
    AnalyzeFlags flags; /* after analysis_open: flags.s is filled, by the model and the flags */
    const char *const *clips;
    int n_clips;
    Findings found;
    gimbal_engine *engine;
    gimbal_session *session;
    Progress progress;
    /* Also called with every state of a run; nonzero cancels. May be NULL. */
    int (*see)(struct Analysis *, const gimbal_progress *);
    void *own; /* the study's, for `see` */
} Analysis;

struct Study {
    const char *name, *help;
    const char *shows;     /* one line above the table: what it shows, and the paper */
    const char *flags[16]; /* what means something to it, beside output, report, json and quiet */
    bool settings;         /* so do all flags of gimbal_setting_options */
    bool makes_clips;      /* -o names clips, not a plot */
    int least_clips, most_clips;
    int (*run)(Analysis *, gimbal_error *);
};
#define STUDIES(X) X(snr) X(leak) X(filters) X(realnoise) X(passes)
#define STUDY_EXTERN(name) extern const Study study_##name;
STUDIES(STUDY_EXTERN)

/* Opens --model and fills flags.s. */
int analysis_open(Analysis *, gimbal_error *);
/* Begins a session with these settings, whose progress is shown and which Ctrl-C cancels. */
int analysis_begin(Analysis *, const gimbal_settings *, gimbal_error *);
/* Begins the smallest session there is, which encodes and decodes clips of any size and tells the latents'
 * shape. */
int analysis_begin_small(Analysis *, gimbal_error *);
/* Of such a session: latents of pictures of --width x --height. EUSAGE when these are no multiples. */
int analysis_shape(Analysis *, int frames, gimbal_shape *, gimbal_error *);
void analysis_end(Analysis *); /* its session */
/* A run of the session: latents [C,F,h,w] out. */
int analysis_sample(Analysis *, float *latents, gimbal_error *);

/* The bands that all studies print, in FreeInit's radius with ds = dt. */
enum { BANDS = 6 };
extern const double band_edges[BANDS - 1];
extern const char *const band_names[BANDS];

static inline size_t clip_values(gimbal_shape s)
{
    return (size_t)s.c * (size_t)s.f * (size_t)s.h * (size_t)s.w;
}

/* ---- clips: analyze_clip.c --------------------------------------------------------------- */

/* The first `most` frames scaled to width x height, or as many as there are: *rgb
 * [*frames][height][width][3], caller frees. Two at least, else EUSAGE. Says on stderr when they were scaled,
 * unless quiet. */
int clip_pictures(const char *path, int most, int width, int height, bool quiet, uint8_t **rgb, int *frames,
                  gimbal_error *);
/* The same as luma (Rec. 601), averaged over areas to side x side and standardised over the clip to mean 0
 * and variance 1: *luma [1,*frames,side,side]. EUSAGE where nothing in the clip differs. */
int clip_luma(const char *path, int most, int side, float **luma, int *frames, gimbal_error *);

/* ---- findings as words: analyze_show.c --------------------------------------------------- */

/* On stdout as a table or as JSON; as a plot into --output, if the study makes none of its own, and as a page
 * into
 * --report. */
int findings_show(Analysis *, gimbal_error *);

#endif
