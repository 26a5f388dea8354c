/* measure.h: what measure, compare, analyze and the report share: one measured clip, and a page of HTML.
 *
 *   measure.c        the subcommand measure            measure_clip.c   one clip through a meter
 *   measure_frames.c pictures from a clip or a tensor  measure_show.c   tables and JSON of measured clips
 *   measure_suite.c  the measures of a benchmark
 *   measure_sets.c   measure --features: distances of sets of features
 *   compare.c        the subcommand compare            compare_pairs.c  which clip goes with which
 *   compare_scores.c statistics, verdicts, warnings    compare_show.c   tables, JSON and report of a
 * comparison analyze.c        the subcommand analyze, and analyze_snr.c ... one file a study report.c pages
 * of HTML                     report_plot.c    lines over axes as inline SVG report_bars.c    intervals as
 * inline SVG           report_picture.c pictures inside a page report_view.c    what a page needs of a clip
 * report_clip.c    the page's part on one clip */
#ifndef APP_MEASURE_H
#define APP_MEASURE_H

#include "app/app.h"
#include "stats/stats.h"

/* ---- pictures one by one: measure_frames.c ------------------------------------------------ */

/* A clip to be read frame by frame: anything that media.h reads, or a .safetensors file with "frames" U8
 * [F,H,W,3], of which one picture at a time is in memory. */
typedef struct {
    const char *path; /* borrowed */
    media_reader *media;
    FILE *file; /* of tensors, at the next picture */
    int left;   /* of these */
    media_info info;
} Frames;
int frames_open(Frames *, const char *path, gimbal_error *);
/* 1: rgb [info.height][info.width][3] filled; 0: end of clip; negative: error. */
int frames_get(Frames *, uint8_t *rgb, gimbal_error *);
void frames_close(Frames *);

/* ---- one clip: measure_clip.c ------------------------------------------------------------ */

typedef struct {
    char *path;
    int frames, width, height;
    double fps; /* 0: pictures, which have none */
    int n;
    gimbal_score *scores; /* [n]; texts and values belong to this struct, `values` [frames] or NULL */
    char *recipe;         /* the clip's own, or NULL */
    char *note;           /* worth saying about the clip itself, or NULL */
} Measured;

/* Sees every picture on its way, for reports; nonzero stops. */
typedef int (*SeeFrame)(void *user, int i, const uint8_t *rgb, int width, int height, gimbal_error *);

/* `order`: scores, weights, prompt, image, antialias, threads; the rest is filled from the clip, a prompt
 * that is not given from its recipe, the flow with the program's own where it has one. Progress on stderr
 * unless quiet. On error *out holds nothing. */
int measure_clip(const char *path, const gimbal_measure_order *order, bool quiet, SeeFrame see, void *user,
                 Measured *out, gimbal_error *err);
void measured_free(Measured *);
const gimbal_score *measured_score(const Measured *, const char *name); /* NULL: not measured */

/* ---- suites: measure_suite.c ------------------------------------------------------------- */

extern const char *const suite_words[]; /* NULL-terminated */
/* What of the suite (there is one) can be measured with the order's weights becomes *names (caller frees;
 * joined with what it holds already) and order->scores; what cannot, *absent {name: reason}, the caller's. */
int suite_begin(gimbal_measure_order *order, char **names, json_t **absent, gimbal_error *err);
int suite_print_absent(const char *suite, const json_t *absent, gimbal_error *err);

/* ---- tables and JSON: measure_show.c ----------------------------------------------------- */

/* One line a score, with a word of warning where consistency says nothing because nothing moves. */
void measured_print(const Measured *, bool per_frame, FILE *);
/* {"path":..,"frames":..,"fps":..(null:
 * unknown),"width":..,"height":..,"scores":{..},"definitions":{..},"weights":{..},"notes":{..}}; scores that
 * are not defined are null. per_frame: "per_frame":{name:[..]} too. NULL: no memory. */
json_t *measured_json(const Measured *, bool per_frame);

/* ---- pages: report.c --------------------------------------------------------------------- */

/* One self-contained HTML file: no script, no network. Grows in memory, appears whole. Texts are escaped and
 * may hold any bytes; what is no UTF-8 becomes the replacement character. */
typedef struct Page Page;
Page *page_begin(const char *title, const char *lead); /* lead: a sentence, or NULL. NULL: no memory */
void page_heading(Page *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void page_subheading(Page *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Plain text, escaped; a paragraph. */
void page_text(Page *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Cells row by row; the first row is the head. A column of numbers ("0.97", "12 %", "[0.1, 0.2]", empty or a
 * dash between them) is right-aligned. A cell that begins with '!' is marked. NULL: an empty cell; caption
 * NULL: none. */
void page_table(Page *, int rows, int columns, const char *const *cells, const char *caption);
/* Ends and writes; frees the page whatever happens. Errors met on the way come out here. EIO; page NULL:
 * ENOMEM. */
int page_write(Page *, const char *path, gimbal_error *);
void page_drop(Page *); /* NULL is fine */

/* For the other report_*.c: raw HTML, and texts that are escaped. */
void page_raw(Page *, const char *html, size_t n);
void page_printf(Page *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void page_escaped(Page *, const char *text);
/* At most so many letters, an ellipsis behind what was cut and the whole as a <title>: for texts inside SVG.
 */
void page_clipped(Page *, const char *text, int most);
int text_letters(const char *utf8);
gimbal_error *page_error(Page *);
Page *page_blank(void); /* without HTML's head; NULL: no memory */
/* Writes the page and `tail` behind it, and frees the page. */
int page_end(Page *, const char *path, const char *tail, gimbal_error *);

/* ---- plots: report_plot.c ---------------------------------------------------------------- */

typedef struct {
    const char *name;
    const double *x,
        *y; /* [n]; NaN, infinite, beyond 1e300, not above 0 on a log axis: a gap. x NULL: 0, 1, 2, ... */
    const double *low, *high; /* a band around y, or NULL */
    int n;
} Line;
typedef struct {
    const char *title, *x_label, *y_label;
    bool log_x, log_y, points; /* points: a dot at every value */
    double mark;               /* a vertical line at this x; NaN: none */
    const char *mark_text;
} Axes;
/* Inline SVG as wide as the page, readable in light and dark, with the values as a <title> of each dot. Long
 * lines are thinned to the least and the largest value per pixel column. Names are shown where there are two
 * lines or more. */
void page_plot(Page *, const Axes *, const Line *, int lines);
/* The same plot as an SVG file of its own, whole or not at all. */
int plot_write(const char *path, const Axes *, const Line *, int lines, gimbal_error *);
extern const char plot_style[]; /* CSS of what is inside <svg class="plot"> */

/* Values with intervals (a forest plot), one row each, around a vertical line at `zero`; filled where the
 * interval leaves zero out. A value that is not finite is "not defined"; bounds that are not finite: no
 * interval. report_bars.c */
typedef struct {
    const char *name;
    double value, low, high;
    const char *note; /* or NULL */
} Bar;
void page_bars(Page *, const char *title, double zero, const Bar *, int n);

/* ---- pictures: report_picture.c ---------------------------------------------------------- */

/* RGB8 [h][w][3] as a PNG data URI in an <img> with its caption. */
void page_picture(Page *, const uint8_t *rgb, int width, int height, const char *caption);
/* Gathers what a report shows of a clip while it streams by: at most `most` (2 to 32) evenly spread
 * thumbnails, an x-t and a y-t slice (the middle row and column of at most 1024 evenly spread frames), the
 * two neighbours with the largest mean difference and their difference as a heat map, and two numbers of each
 * frame. report_view.c */
typedef struct ClipView ClipView;
ClipView *clip_view_new(int most); /* NULL: no memory */
int clip_view_see(void *clip_view, int i, const uint8_t *rgb, int width, int height,
                  gimbal_error *); /* SeeFrame */
/* Heading, facts and recipe, a table of the scores, contact sheet, largest change, slices, plots per frame,
 * and the spectrum of the mean luma's steps over time. */
void page_clip(Page *, const ClipView *, const Measured *); /* report_clip.c */
void clip_view_free(ClipView *);

/* ---- distances of sets: measure_sets.c --------------------------------------------------- */

/* measure --features: distances between two sets of features, printed. features, with: safetensors files with
 * "features" [N,D] and "logits" [N,C], or folders of clips, whose I3D logits are computed with the network in
 * `weights`. metric: of "frechet,kvd,is", NULL: all that the files have tensors for. EUSAGE: sets of
 * different width; EFORMAT. */
int measure_sets(const char *features, const char *with, const char *metric, const char *weights, bool json,
                 bool quiet, gimbal_error *);

/* ---- lists and pairs of clips: compare_pairs.c ------------------------------------------- */

typedef struct {
    char **paths, **names; /* name: the file's without folder and ending; what pairs by name */
    int n, room;
} Clips;
/* Appends: each word is a clip, or a folder of clips (files of moving pictures, by their ending, and folders
 * of pictures), which gives them in natural order. Another folder is itself a clip: its pictures. clips_free
 * whatever happens. */
int clips_find(Clips *, const char *const *words, int n, gimbal_error *);
void clips_free(Clips *);

typedef struct {
    const char *by; /* "name", "recipe", "order" */
    int n, n_left;
    int (*at)[2];      /* [n]: indices into a and b */
    const char **left; /* [n_left]: paths of the clips without a partner, borrowed */
} Pairs;
/* by "auto": by name, and where that leaves clips alone and prompt and seed of their recipes do not, by
 * these. EUSAGE: clips are left alone and not partial; no pair at all; two clips of one side that cannot be
 * told apart. pairs_free whatever happens. */
int pairs_make(Pairs *, const Clips *a, const Clips *b, const char *by, bool partial, gimbal_error *);
void pairs_free(Pairs *);

/* ---- comparisons: compare.c, compare_scores.c, compare_show.c ---------------------------- */

/* "clip 3/12, 0.8 s/clip, ETA 0:07" on stderr; started: clock_seconds() before the first. */
void show_clip_progress(int done, int all, double started);

/* One score over all pairs. */
typedef struct {
    const char *name, *definition;
    int better;          /* as gimbal_score's */
    double *a, *b;       /* [pairs]; NaN: not defined for a clip of the pair, which then does not count */
    Paired of;           /* n: pairs that count; intervals and p are NaN when there are fewer than 2 */
    Interval of_a, of_b; /* each side's mean */
    double holm_p;       /* permutation_p after Holm over the scores with a direction; NaN for the others */
    double micro_a, micro_b; /* means over pairs of frames, not clips; NaN: no such thing, or the same */
    int verdict;             /* 1: B is higher, -1: lower, 0: no difference shown */
} Contrast;

typedef struct {
    Clips a, b;
    Pairs pairs;
    Measured *of_a, *of_b; /* [pairs.n] */
    Contrast *rows;
    int n_rows;
    int static_a, static_b; /* clips that do not move; -1: not known */
    json_t *warnings;       /* array of texts */
    uint64_t seed;
} Comparison;
/* Rows, statistics, verdicts and warnings of what was measured. EVALUE, ENOMEM. */
int comparison_judge(Comparison *, gimbal_error *);
void comparison_free(Comparison *);
void comparison_print(const Comparison *, FILE *); /* a table for people */
json_t *comparison_json(const Comparison *);       /* NULL: no memory */
/* A page with the table, intervals and the pairs that differ most, which are read once more. */
int comparison_report(const Comparison *, const char *path, gimbal_error *);

#endif
