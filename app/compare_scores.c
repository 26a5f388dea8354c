/* compare_scores.c: what a comparison of paired clips shows, and what it does not.
 *
 * A verdict on a score needs three things: the 95 % interval of the mean difference excludes 0, the
 * permutation p is below .05 (after Holm's correction over the scores that have a direction; scores without
 * one, the motion, are there to be read beside them and stand uncorrected), and there are at least 6 pairs,
 * for sign flips of fewer cannot give a p below .05. A frozen clip scores perfect in every measure of
 * consistency: where consistency rose and motion fell, a warning says so.
 *
 * Refuses to know files, and how scores are computed. */
#include "app/measure.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { LEAST_PAIRS = 6 };
static const double level = 0.05;

static void warn(Comparison *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void warn(Comparison *c, const char *fmt, ...)
{
    char *text;
    va_list args;
    va_start(args, fmt);
    const int n = vasprintf(&text, fmt, args);
    va_end(args);
    if (n < 0)
        return;
    json_array_append_new(c->warnings, json_text(text));
    free(text);
}

/* ---- rows -------------------------------------------------------------------------------- */

static double score_of(const Measured *clip, const char *name)
{
    const gimbal_score *score = measured_score(clip, name);
    return score ? score->value : NAN;
}

static int fill_row(Contrast *row, const Comparison *c, const gimbal_score *like, gimbal_error *err)
{
    const int n = c->pairs.n;
    *row = (Contrast){.name = like->name, .definition = like->definition, .better = like->better};
    row->a = calloc((size_t)n + 1, sizeof *row->a);
    row->b = calloc((size_t)n + 1, sizeof *row->b);
    if (!row->a || !row->b)
        return fail_memory(err);
    for (int i = 0; i < n; i++) {
        row->a[i] = score_of(&c->of_a[i], row->name);
        row->b[i] = score_of(&c->of_b[i], row->name);
        if (!isfinite(row->a[i]) || !isfinite(row->b[i]))
            row->a[i] = row->b[i] = NAN;
    }
    return GIMBAL_OK;
}

/* Mean over pairs of neighbouring frames, of which a clip of F frames has F - 1. */
static double micro(const Measured *clips, const double *values, int n)
{
    double sum = 0, weight = 0;
    for (int i = 0; i < n; i++)
        if (!isnan(values[i])) {
            sum += values[i] * (clips[i].frames - 1);
            weight += clips[i].frames - 1;
        }
    return weight > 0 ? sum / weight : NAN;
}

static bool same_frames(const Comparison *c)
{
    for (int i = 1; i < c->pairs.n; i++)
        if (c->of_a[i].frames != c->of_a[0].frames)
            return false;
    return true;
}

static void fill_micro(Contrast *row, const Comparison *c)
{
    const gimbal_score *score = measured_score(&c->of_a[0], row->name);
    row->micro_a = row->micro_b = NAN;
    if (same_frames(c) || !score || !score->values)
        return;
    row->micro_a = micro(c->of_a, row->a, c->pairs.n);
    row->micro_b = micro(c->of_b, row->b, c->pairs.n);
}

/* ---- statistics -------------------------------------------------------------------------- */

/* One pair has a difference, but nothing that says how sure it is; none has not even that. */
static Paired too_few(const double *a, const double *b, int n)
{
    Paired p = {.n = n, .mean_a = NAN, .mean_b = NAN, .mean = NAN};
    p.sd = p.low = p.high = p.wilcoxon_p = p.permutation_p = p.dz = p.rank_biserial = NAN;
    if (!n)
        return p;
    p.mean_a = a[0], p.mean_b = b[0], p.mean = b[0] - a[0];
    p.wins = p.mean > 0, p.ties = p.mean == 0, p.losses = p.mean < 0;
    return p;
}

static int compare_row(Contrast *row, int pairs, uint64_t seed, gimbal_error *err)
{
    double *a = calloc((size_t)pairs + 1, sizeof *a), *b = calloc((size_t)pairs + 1, sizeof *b);
    int n = 0, code = a && b ? GIMBAL_OK : fail_memory(err);
    for (int i = 0; !code && i < pairs; i++)
        if (!isnan(row->a[i]))
            a[n] = row->a[i], b[n++] = row->b[i];
    if (!code && n < 2)
        row->of = too_few(a, b, n);
    else if (!code)
        code = paired_compare(a, b, n, seed, &row->of, err);
    row->of_a = row->of_b = (Interval){NAN, NAN, NAN};
    if (!code && n >= 2)
        code = mean_interval(a, n, seed, &row->of_a, err);
    if (!code && n >= 2)
        code = mean_interval(b, n, seed, &row->of_b, err);
    row->holm_p = NAN;
    free(a);
    free(b);
    return code;
}

/* Holm over the scores that have a direction: the questions that are asked. */
static int correct(Comparison *c, int *asked, gimbal_error *err)
{
    double *p = calloc((size_t)c->n_rows + 1, sizeof *p);
    if (!p)
        return fail_memory(err);
    *asked = 0;
    for (int i = 0; i < c->n_rows; i++)
        if (c->rows[i].better && c->rows[i].of.n >= 2)
            p[(*asked)++] = c->rows[i].of.permutation_p;
    const int code = holm(p, *asked, err);
    for (int i = 0, k = 0; !code && i < c->n_rows; i++)
        if (c->rows[i].better && c->rows[i].of.n >= 2)
            c->rows[i].holm_p = p[k++];
    free(p);
    return code;
}

static void decide(Contrast *row)
{
    const Paired *p = &row->of;
    const double deciding = row->better ? row->holm_p : p->permutation_p;
    if (p->n >= LEAST_PAIRS && deciding < level && (p->low > 0 || p->high < 0))
        row->verdict = p->mean > 0 ? 1 : -1;
}

/* ---- warnings ---------------------------------------------------------------------------- */

/* 1: higher in B, -1: lower, 0: cannot be told from this. Weaker than a verdict: a warning may be given too
 * often. */
static int moved(const Contrast *row)
{
    const Paired *p = &row->of;
    if (p->n < LEAST_PAIRS)
        return isnan(p->mean) ? 0 : (p->mean > 0) - (p->mean < 0);
    return (p->low > 0) - (p->high < 0);
}

/* Motion has fallen by a fiftieth that is no luck, or by a tenth, whatever the interval says. */
static bool motion_fell(const Contrast *row, int side)
{
    const double before = side > 0 ? row->of.mean_a : row->of.mean_b, change = side * row->of.mean;
    const bool is_motion = !strcmp(row->name, "motion_magnitude") ||
                           !strcmp(row->name, "dynamic_degree_dis") || !strcmp(row->name, "dynamic_degree");
    if (!is_motion || !(before > 0))
        return false;
    return change < -0.1 * before || (change < -0.02 * before && moved(row) == -side);
}

/* Does the score say how alike frames are? A prompt's score does not. */
static bool is_consistency(const Contrast *row)
{
    return row->better && strcmp(row->name, "clipsim") != 0;
}

/* side 1: B may have been frozen, -1: A. */
static void warn_freezing(Comparison *c, int side)
{
    const Contrast *still = NULL, *steady = NULL;
    for (int i = 0; i < c->n_rows; i++) {
        const Contrast *row = &c->rows[i];
        if ((!still || !strcmp(row->name, "motion_magnitude")) && motion_fell(row, side))
            still = row;
        if (!steady && is_consistency(row) && moved(row) * row->better == side)
            steady = row;
    }
    if (!still || !steady)
        return;
    const double before = side > 0 ? still->of.mean_a : still->of.mean_b;
    warn(c,
         "consistency may have been bought by freezing: %s's %s is better by %.4g, but its %s is lower by "
         "%.4g (%.0f %%)",
         side > 0 ? "B" : "A", steady->name, fabs(steady->of.mean), still->name, fabs(still->of.mean),
         100 * fabs(still->of.mean) / before);
}

/* As measure calls a clip frozen: percent of the shorter side per frame. Where no flow was measured,
 * neighbours are the same. */
static const double moves_least = 0.01;

static int count_static(const Measured *clips, int n)
{
    int count = 0;
    for (int i = 0; i < n; i++) {
        const double motion = score_of(&clips[i], "motion_magnitude");
        const double alike = score_of(&clips[i], "temporal_flickering");
        if (isnan(motion) && isnan(alike))
            return -1;
        count += isnan(motion) ? alike == 1 : motion < moves_least;
    }
    return count;
}

static void warn_static(Comparison *c)
{
    c->static_a = count_static(c->of_a, c->pairs.n);
    c->static_b = count_static(c->of_b, c->pairs.n);
    if (c->static_a > 0 || c->static_b > 0)
        warn(c,
             "static clips: %d of A, %d of B; a frozen clip scores perfect in every measure of consistency",
             c->static_a, c->static_b);
}

/* The smallest p that all sign flips of n pairs can give is 2 / 2^n, and Holm multiplies it by the questions.
 */
static void warn_few(Comparison *c, int asked)
{
    const int n = c->pairs.n;
    if (n < LEAST_PAIRS)
        warn(c,
             "%d pair%s: sign flips of fewer than %d cannot give a p below %.2g, so no difference can be "
             "shown",
             n, n == 1 ? "" : "s", LEAST_PAIRS, level);
    else if (asked * ldexp(2, -n) >= level)
        warn(c,
             "%d pairs and %d scores with a direction: the least corrected p that a lone difference can "
             "reach is %.2g; "
             "name fewer scores with --metric, or compare more clips",
             n, asked, asked * ldexp(2, -n));
}

static void warn_missing(Comparison *c)
{
    for (int i = 0; i < c->n_rows; i++)
        if (c->rows[i].of.n < c->pairs.n)
            warn(c, "%s is defined for %d of %d pairs", c->rows[i].name, c->rows[i].of.n, c->pairs.n);
    if (!same_frames(c))
        warn(c, "clips differ in length: means are over clips (macro); means over pairs of frames (micro) "
                "stand beside "
                "them");
}

static void warn_notes(Comparison *c)
{
    for (int i = 0; i < c->pairs.n; i++) {
        const Measured *clips[] = {&c->of_a[i], &c->of_b[i]};
        for (int k = 0; k < 2; k++)
            if (clips[k]->note)
                warn(c, "%s: %s", clips[k]->path, clips[k]->note);
    }
}

static void warn_left(Comparison *c)
{
    if (c->pairs.n_left)
        warn(c, "%d clip%s left out: no partner by %s", c->pairs.n_left,
             c->pairs.n_left == 1 ? " was" : "s were", c->pairs.by);
}

static bool has_motion(const Comparison *c)
{
    for (int i = 0; i < c->n_rows; i++)
        if (!strcmp(c->rows[i].name, "motion_magnitude") && c->rows[i].of.n)
            return true;
    return false;
}

/* ---- together ---------------------------------------------------------------------------- */

int comparison_judge(Comparison *c, gimbal_error *err)
{
    int asked = 0;
    const Measured *like = &c->of_a[0];
    c->rows = calloc((size_t)like->n + 1, sizeof *c->rows);
    if (!c->rows)
        return fail_memory(err);
    for (int i = 0; i < like->n; i++) {
        Contrast *row = &c->rows[c->n_rows++];
        TRY(fill_row(row, c, &like->scores[i], err));
        TRY(compare_row(row, c->pairs.n, c->seed, err));
        fill_micro(row, c);
    }
    TRY(correct(c, &asked, err));
    for (int i = 0; i < c->n_rows; i++)
        decide(&c->rows[i]);
    warn_left(c);
    warn_notes(c);
    warn_few(c, asked);
    warn_missing(c);
    warn_static(c);
    warn_freezing(c, 1);
    warn_freezing(c, -1);
    if (!has_motion(c))
        warn(c, "motion was not measured: that consistency was not bought by freezing cannot be seen");
    return GIMBAL_OK;
}

void comparison_free(Comparison *c)
{
    for (int i = 0; i < c->pairs.n; i++) {
        if (c->of_a)
            measured_free(&c->of_a[i]);
        if (c->of_b)
            measured_free(&c->of_b[i]);
    }
    for (int i = 0; i < c->n_rows; i++) {
        free(c->rows[i].a);
        free(c->rows[i].b);
    }
    free(c->rows);
    free(c->of_a);
    free(c->of_b);
    pairs_free(&c->pairs);
    clips_free(&c->a);
    clips_free(&c->b);
    json_decref(c->warnings);
}
