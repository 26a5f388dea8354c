/* compare_show.c: what a comparison looks like: a table, JSON, and a page with the pairs that differ most.
 *
 * The pairs shown are those with the largest |d| / sd in any score that has a direction; they are read once
 * more for their pictures. Bars are in units of the differences' standard deviation, so that all scores fit
 * one axis.
 *
 * Refuses to know how anything was decided. */
#include "app/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the table --------------------------------------------------------------------------- */

enum { COLUMNS = 12, CELL = 64, MOST_SHOWN = 3, THUMBNAILS = 6 };
typedef char Cell[CELL];

static const char *const heads[COLUMNS] = {
    "score", "better",           "A",      "B", "B - A", "95 % interval", "Wilcoxon", "flips", "Holm",
    "dz",    "wins/ties/losses", "verdict"};

static void number(Cell out, const char *format, double x)
{
    if (isnan(x))
        snprintf(out, CELL, "-");
    else
        snprintf(out, CELL, format, x);
}

static const char *verdict_text(const Contrast *row)
{
    if (!row->verdict)
        return "no difference shown";
    if (!row->better)
        return row->verdict > 0 ? "B higher" : "B lower";
    if (row->verdict * row->better > 0)
        return row->verdict > 0 ? "B higher: better" : "B lower: better";
    return row->verdict > 0 ? "B higher: worse" : "B lower: worse";
}

static void fill_cells(const Contrast *row, Cell cell[COLUMNS])
{
    const Paired *p = &row->of;
    snprintf(cell[0], CELL, "%s", row->name);
    snprintf(cell[1], CELL, "%s", row->better > 0 ? "high" : row->better < 0 ? "low" : "-");
    number(cell[2], "%.5g", p->mean_a);
    number(cell[3], "%.5g", p->mean_b);
    number(cell[4], "%+.4g", p->mean);
    if (isnan(p->low))
        snprintf(cell[5], CELL, "-");
    else
        snprintf(cell[5], CELL, "[%+.4g, %+.4g]", p->low, p->high);
    number(cell[6], "%.3g", p->wilcoxon_p);
    number(cell[7], "%.3g", p->permutation_p);
    number(cell[8], "%.3g", row->holm_p);
    number(cell[9], "%+.2f", p->dz);
    snprintf(cell[10], CELL, "%d/%d/%d", p->wins, p->ties, p->losses);
    snprintf(cell[11], CELL, "%s", verdict_text(row));
}

/* [n_rows + 1][COLUMNS], the head first; caller frees. NULL: no memory. */
static Cell *make_cells(const Comparison *c)
{
    Cell *cells = calloc(((size_t)c->n_rows + 1) * COLUMNS, sizeof *cells);
    for (int k = 0; cells && k < COLUMNS; k++)
        snprintf(cells[k], CELL, "%s", heads[k]);
    for (int i = 0; cells && i < c->n_rows; i++)
        fill_cells(&c->rows[i], cells + (i + 1) * COLUMNS);
    return cells;
}

static void print_cells(Cell *cells, int rows, FILE *out)
{
    int width[COLUMNS] = {0};
    for (int i = 0; i < rows * COLUMNS; i++) {
        const int n = (int)strlen(cells[i]);
        width[i % COLUMNS] = n > width[i % COLUMNS] ? n : width[i % COLUMNS];
    }
    for (int i = 0; i < rows * COLUMNS; i++) {
        const int k = i % COLUMNS;
        if (k == 0)
            fprintf(out, "%-*s", width[k], cells[i]);
        else if (k == COLUMNS - 1)
            fprintf(out, "  %s\n", cells[i]);
        else
            fprintf(out, "  %*s", width[k], cells[i]);
    }
}

static const char rule_text[] = "A verdict needs an interval without 0, 6 pairs, and a p of sign flips below "
                                ".05: after Holm's correction over the "
                                "scores with a direction, uncorrected for the others. dz: mean difference by "
                                "its standard deviation. Means are over "
                                "clips.";

static void print_micro(const Contrast *row, FILE *out)
{
    if (!isnan(row->micro_a) && !isnan(row->micro_b))
        fprintf(out, "%s over pairs of frames (micro): A %.5g, B %.5g\n", row->name, row->micro_a,
                row->micro_b);
}

void comparison_print(const Comparison *c, FILE *out)
{
    size_t i;
    json_t *text;
    Cell *cells = make_cells(c);
    fprintf(out, "%d pair%s by %s\n\n", c->pairs.n, c->pairs.n == 1 ? "" : "s", c->pairs.by);
    if (cells)
        print_cells(cells, c->n_rows + 1, out);
    free(cells);
    fputc('\n', out);
    for (int k = 0; k < c->n_rows; k++)
        print_micro(&c->rows[k], out);
    json_array_foreach(c->warnings, i, text) fprintf(out, "warning: %s\n", json_string_value(text));
    for (int k = 0; k < c->pairs.n_left; k++)
        fprintf(out, "left out: %s\n", c->pairs.left[k]);
    fprintf(out, "%s\n", rule_text);
}

/* ---- JSON -------------------------------------------------------------------------------- */

static json_t *real(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *row_json(const Contrast *row)
{
    const Paired *p = &row->of;
    const int good = row->verdict * row->better;
    json_t *out = json_pack("{s:i, s:i, s:o, s:o, s:o, s:o, s:o}", "pairs", p->n, "direction", row->better,
                            "a", real(p->mean_a), "b", real(p->mean_b), "difference", real(p->mean), "low",
                            real(p->low), "high", real(p->high));
    json_t *tests = json_pack("{s:o, s:o, s:o, s:o, s:o, s:i, s:i, s:i}", "wilcoxon_p", real(p->wilcoxon_p),
                              "permutation_p", real(p->permutation_p), "holm_p", real(row->holm_p), "dz",
                              real(p->dz), "rank_biserial", real(p->rank_biserial), "wins", p->wins, "ties",
                              p->ties, "losses", p->losses);
    json_t *sides = json_pack("{s:[o,o], s:[o,o]}", "a_interval", real(row->of_a.low), real(row->of_a.high),
                              "b_interval", real(row->of_b.low), real(row->of_b.high));
    json_object_update(out, tests);
    json_object_update(out, sides);
    json_decref(tests);
    json_decref(sides);
    if (!isnan(row->micro_a)) {
        json_object_set_new(out, "micro_a", real(row->micro_a));
        json_object_set_new(out, "micro_b", real(row->micro_b));
    }
    json_object_set_new(out, "verdict",
                        json_string(row->verdict > 0   ? "higher"
                                    : row->verdict < 0 ? "lower"
                                                       : "none"));
    json_object_set_new(out, "better", json_string(good > 0 ? "b" : good < 0 ? "a" : "none"));
    return out;
}

static json_t *pair_json(const Comparison *c, int i)
{
    json_t *scores = json_object();
    for (int k = 0; k < c->n_rows; k++)
        json_object_set_new(scores, c->rows[k].name,
                            json_pack("{s:o, s:o}", "a", real(c->rows[k].a[i]), "b", real(c->rows[k].b[i])));
    return json_pack("{s:o, s:o, s:i, s:o}", "a", json_text(c->of_a[i].path), "b", json_text(c->of_b[i].path),
                     "frames", c->of_a[i].frames, "scores", scores);
}

static json_t *count(int n)
{
    return n < 0 ? json_null() : json_integer(n);
}

json_t *comparison_json(const Comparison *c)
{
    char seed[24]; /* as text, as in recipes: JSON's numbers end at 2^53 for many readers */
    json_t *scores = json_object(), *definitions = json_object(), *clips = json_array(), *left = json_array();
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)c->seed);
    for (int k = 0; k < c->n_rows; k++) {
        json_object_set_new(scores, c->rows[k].name, row_json(&c->rows[k]));
        json_object_set_new(definitions, c->rows[k].name, json_text(c->rows[k].definition));
    }
    for (int i = 0; i < c->pairs.n; i++)
        json_array_append_new(clips, pair_json(c, i));
    for (int i = 0; i < c->pairs.n_left; i++)
        json_array_append_new(left, json_text(c->pairs.left[i]));
    return json_pack("{s:i, s:s, s:s, s:o, s:o, s:{s:o, s:o}, s:O, s:o, s:o}", "pairs", c->pairs.n, "by",
                     c->pairs.by, "seed", seed, "scores", scores, "definitions", definitions, "static", "a",
                     count(c->static_a), "b", count(c->static_b), "warnings", c->warnings, "left_out", left,
                     "clips", clips);
}

/* ---- the page ---------------------------------------------------------------------------- */

/* The columns `which` of the table, as a table of its own: all of them are wider than a page. */
static int page_columns(Page *page, const Comparison *c, const int *which, int columns, const char *caption,
                        gimbal_error *err)
{
    const int rows = c->n_rows + 1;
    Cell *cells = make_cells(c);
    const char **texts = calloc((size_t)(rows * columns), sizeof *texts);
    const int code = cells && texts ? GIMBAL_OK : fail_memory(err);
    for (int i = 0; !code && i < rows * columns; i++)
        texts[i] = cells[i / columns * COLUMNS + which[i % columns]];
    if (!code)
        page_table(page, rows, columns, texts, caption);
    free(cells);
    free(texts);
    return code;
}

static int page_rows(Page *page, const Comparison *c, gimbal_error *err)
{
    static const int found[] = {0, 11, 2, 3, 4, 5}, tests[] = {0, 1, 6, 7, 8, 9, 10};
    TRY(page_columns(page, c, found, sizeof found / sizeof *found, "What was found", err));
    TRY(page_columns(page, c, tests, sizeof tests / sizeof *tests, "p-values and effect sizes", err));
    page_text(page, "%s", rule_text);
    return GIMBAL_OK;
}

static int page_intervals(Page *page, const Comparison *c, gimbal_error *err)
{
    Bar *bars = calloc((size_t)c->n_rows + 1, sizeof *bars);
    int n = 0;
    if (!bars)
        return fail_memory(err);
    for (int i = 0; i < c->n_rows; i++) {
        const Paired *p = &c->rows[i].of;
        if (p->sd > 0)
            bars[n++] = (Bar){c->rows[i].name, p->mean / p->sd, p->low / p->sd, p->high / p->sd,
                              verdict_text(&c->rows[i])};
    }
    if (n)
        page_bars(page, "B - A in standard deviations of the pairs' differences, with 95 % intervals", 0,
                  bars, n);
    free(bars);
    return GIMBAL_OK;
}

/* How far pair i lies from no difference: the largest |d| / sd, and in which score. */
static double distance(const Comparison *c, int i, const Contrast **in)
{
    double most = 0;
    for (int k = 0; k < c->n_rows; k++) {
        const Contrast *row = &c->rows[k];
        const double d = fabs(row->b[i] - row->a[i]) / row->of.sd;
        if (row->better && row->of.sd > 0 && d > most)
            most = d, *in = row;
    }
    return most;
}

static int page_view(Page *page, const Measured *clip, gimbal_error *err)
{
    static const char begin[] = "<div style=\"min-width:0\">", end[] = "</div>";
    Measured again;
    gimbal_measure_order order;
    gimbal_measure_defaults(&order);
    order.scores = "temporal_flickering"; /* the pictures are what is wanted */
    ClipView *view = clip_view_new(THUMBNAILS);
    int code = view ? GIMBAL_OK : fail_memory(err);
    code = code ? code : measure_clip(clip->path, &order, true, clip_view_see, view, &again, err);
    if (!code) {
        measured_free(&again);
        page_raw(page, begin, sizeof begin - 1);
        page_clip(page, view, clip);
        page_raw(page, end, sizeof end - 1);
    }
    clip_view_free(view);
    return code;
}

static int page_pair(Page *page, const Comparison *c, int i, const Contrast *row, gimbal_error *err)
{
    static const char begin[] =
        "<div "
        "style=\"display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1rem\">";
    page_subheading(page, "%s: A %.5g, B %.5g", row->name, row->a[i], row->b[i]);
    page_raw(page, begin, sizeof begin - 1);
    TRY(page_view(page, &c->of_a[i], err));
    TRY(page_view(page, &c->of_b[i], err));
    page_raw(page, "</div>", 6);
    return GIMBAL_OK;
}

static int page_extremes(Page *page, const Comparison *c, gimbal_error *err)
{
    bool *shown = calloc((size_t)c->pairs.n, sizeof *shown);
    int code = shown ? GIMBAL_OK : fail_memory(err);
    if (!code)
        page_heading(page, "Pairs that differ most, A beside B");
    for (int k = 0; !code && k < MOST_SHOWN; k++) {
        const Contrast *row = NULL, *best = NULL;
        double most = 0;
        int at = -1;
        for (int i = 0; i < c->pairs.n; i++) {
            const double d = shown[i] ? 0 : distance(c, i, &row);
            if (d > most)
                most = d, at = i, best = row;
        }
        if (at < 0)
            break;
        shown[at] = true;
        code = page_pair(page, c, at, best, err);
    }
    free(shown);
    return code;
}

static int page_fill(Page *page, const Comparison *c, gimbal_error *err)
{
    size_t i;
    json_t *text;
    json_array_foreach(c->warnings, i, text) page_text(page, "Warning: %s", json_string_value(text));
    for (int k = 0; k < c->pairs.n_left; k++)
        page_text(page, "Left out: %s", c->pairs.left[k]);
    TRY(page_intervals(page, c, err));
    page_heading(page, "Scores");
    TRY(page_rows(page, c, err));
    return page_extremes(page, c, err);
}

int comparison_report(const Comparison *c, const char *path, gimbal_error *err)
{
    char lead[128];
    snprintf(lead, sizeof lead, "%d pairs of clips, paired by %s: B against A, score by score.", c->pairs.n,
             c->pairs.by);
    Page *page = page_begin("Comparison of clips", lead);
    if (!page)
        return fail_memory(err);
    const int code = page_fill(page, c, err);
    if (!code)
        return page_write(page, path, err);
    page_drop(page);
    return code;
}
