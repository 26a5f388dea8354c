/* report_clip.c: a page's part on one clip: what it is, its scores, its pictures, its scores over time.
 *
 *     contact sheet   frame round(k (F - 1) / (N - 1)) for k = 0 .. N - 1, or the nearest that was kept, and
 * the pair of neighbours with the largest mean difference slices          the middle column's pixels (y) and
 * the middle row's (x) downwards, time to the right: what stands still is a straight line, what flickers a
 * stripe, a cut an edge plots           every score that has a value per frame, and the clip's mean luma with
 * its spectrum over time
 *
 * Knows what report_view.c keeps. Refuses to know how scores are made. */
#include "app/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LEAST_SPECTRUM = 8 };

/* ---- facts and scores -------------------------------------------------------------------- */

static void draw_facts(Page *page, const Measured *m)
{
    page_heading(page, "%s", m->path);
    if (m->fps > 0)
        page_text(page, "%d frame%s of %d\xC3\x97%d pixels at %.4g frames per second: %.3g s.", m->frames,
                  m->frames == 1 ? "" : "s", m->width, m->height, m->fps, m->frames / m->fps);
    else
        page_text(page, "%d frame%s of %d\xC3\x97%d pixels; the file gives no rate.", m->frames,
                  m->frames == 1 ? "" : "s", m->width, m->height);
    if (m->recipe) {
        page_printf(page, "<details><summary>Recipe that the clip carries</summary><pre>");
        page_escaped(page, m->recipe);
        page_printf(page, "</pre></details>\n");
    }
}

static const char *better_word(int better)
{
    return better > 0 ? "higher" : better < 0 ? "lower" : "\xE2\x80\x93";
}

static void draw_scores(Page *page, const Measured *m)
{
    enum { COLUMNS = 5, VALUE_ROOM = 32 };
    int columns = COLUMNS - 1; /* the notes' is there when there are any */
    if (m->n < 1)
        return;
    for (int i = 0; i < m->n; i++)
        if (m->scores[i].why)
            columns = COLUMNS;
    const char **cells = calloc((size_t)(m->n + 1) * COLUMNS, sizeof *cells);
    char(*values)[VALUE_ROOM] = calloc((size_t)m->n, sizeof *values);
    if (cells && values) {
        static const char *const head[COLUMNS] = {"score", "value", "better", "definition", "note"};
        memcpy(cells, head, (size_t)columns * sizeof *cells);
        for (int i = 0; i < m->n; i++) {
            const gimbal_score *s = &m->scores[i];
            snprintf(values[i], sizeof values[i], isnan(s->value) ? "\xE2\x80\x93" : "%.6g", s->value);
            const char *const row[COLUMNS] = {s->name, values[i], better_word(s->better), s->definition,
                                              s->why};
            memcpy(cells + (i + 1) * columns, row, (size_t)columns * sizeof *cells);
        }
        page_table(page, m->n + 1, columns, cells, "Scores of the whole clip");
    } else {
        fail_memory(page_error(page));
    }
    free(cells);
    free(values);
}

/* ---- contact sheet ----------------------------------------------------------------------- */

/* The kept thumbnail that is nearest to a frame; the last frame has its own. */
static const Picture *nearest_thumb(const ClipView *v, const Picture *last, int frame)
{
    if (frame == last->frame)
        return last;
    int i = (frame + v->thumb_stride / 2) / v->thumb_stride;
    i = i < v->n_thumbs ? i : v->n_thumbs - 1;
    return &v->thumbs[i];
}

static void draw_thumb(Page *page, const Picture *p, bool marked)
{
    char alt[64];
    snprintf(alt, sizeof alt, "frame %d%s", p->frame, marked ? ", one of the pair that differs most" : "");
    page_printf(page, "<li%s>", marked ? " class=\"m\"" : "");
    page_image(page, p->rgb, p->width, p->height, alt);
    page_printf(page, "%d%s</li>\n", p->frame, marked ? ": largest change" : "");
}

/* Evenly spread frames, and the pair among them, each once and in order. */
static int choose(const ClipView *v, const Picture *last, const Picture *out[MOST_THUMBS + 2])
{
    const Picture *pair[] = {v->before.rgb ? &v->before : NULL, v->after.rgb ? &v->after : NULL};
    const int wanted = v->most < v->frames ? v->most : v->frames;
    int n = 0;
    for (int k = 0; k < wanted; k++) {
        const double at = wanted > 1 ? rint((double)k * (v->frames - 1) / (wanted - 1)) : 0;
        const Picture *p = nearest_thumb(v, last, (int)at);
        if (!n || p->frame > out[n - 1]->frame)
            out[n++] = p;
    }
    for (int k = 0; k < 2 && pair[k]; k++) {
        int at = n;
        while (at && out[at - 1]->frame > pair[k]->frame)
            at--;
        if (at && out[at - 1]->frame == pair[k]->frame) {
            out[at - 1] = pair[k];
            continue;
        }
        memmove(out + at + 1, out + at, (size_t)(n++ - at) * sizeof *out);
        out[at] = pair[k];
    }
    return n;
}

static void draw_sheet(Page *page, const ClipView *v)
{
    const Picture *chosen[MOST_THUMBS + 2];
    Picture last;
    if (!shrink_to(&last, v->last, v->width, v->height, THUMB_SIDE, v->frames - 1)) {
        fail_memory(page_error(page));
        return;
    }
    const int n = choose(v, &last, chosen);
    page_subheading(page, "Frames");
    page_text(page, "Evenly spread over the clip, numbered from 0%s.",
              v->before.rgb ? "; marked are the two neighbours that differ most" : "");
    page_printf(page, "<ol class=\"sheet\">\n");
    for (int i = 0; i < n; i++)
        draw_thumb(page, chosen[i], v->before.rgb && (chosen[i] == &v->before || chosen[i] == &v->after));
    page_printf(page, "</ol>\n");
    free(last.rgb);
}

/* ---- slices ------------------------------------------------------------------------------ */

/* slices [n][side][3] -> a picture with time to the right, each frame `wide` pixels. */
static void draw_slice(Page *page, const uint8_t *slices, int n, int side, int wide, const char *caption)
{
    const int width = n * wide;
    uint8_t *rgb = malloc(3 * (size_t)width * (size_t)side);
    if (!rgb) {
        fail_memory(page_error(page));
        return;
    }
    for (int y = 0; y < side; y++)
        for (int x = 0; x < width; x++)
            memcpy(rgb + 3 * ((size_t)y * (size_t)width + (size_t)x),
                   slices + 3 * ((size_t)(x / wide) * (size_t)side + (size_t)y), 3);
    page_picture(page, rgb, width, side, caption);
    free(rgb);
}

static void draw_slices(Page *page, const ClipView *v)
{
    enum { LEAST_WIDTH = 480 };
    if (v->n_slices < 2)
        return;
    /* stretched to the page: both share its time axis */
    const int wide = v->n_slices < LEAST_WIDTH ? LEAST_WIDTH / v->n_slices : 1;
    char caption[160];
    page_subheading(page, "Slices through time");
    page_text(
        page,
        "One line of pixels of every %s, side by side. What stands still draws straight lines, what moves "
        "draws slanted ones, flicker draws stripes from top to bottom.",
        v->slice_stride > 1 ? "shown frame" : "frame");
    page_printf(page, "<div class=\"slices%s\">\n", wide > 1 ? " wide" : "");
    snprintf(caption, sizeof caption,
             "Middle row: x downwards (left edge at the top), frames 0 to %d to the right%s",
             (v->n_slices - 1) * v->slice_stride, v->slice_stride > 1 ? ", thinned" : "");
    draw_slice(page, v->across, v->n_slices, v->across_side, wide, caption);
    snprintf(caption, sizeof caption, "Middle column: y downwards, frames 0 to %d to the right%s",
             (v->n_slices - 1) * v->slice_stride, v->slice_stride > 1 ? ", thinned" : "");
    draw_slice(page, v->down, v->n_slices, v->down_side, wide, caption);
    page_printf(page, "</div>\n");
}

/* ---- the pair that differs most ---------------------------------------------------------- */

static void draw_heat(Page *page, const ClipView *v)
{
    const int width = v->before.width, height = v->before.height;
    const size_t n = (size_t)width * (size_t)height;
    float most = 0;
    uint8_t *rgb = malloc(3 * n);
    if (!rgb) {
        fail_memory(page_error(page));
        return;
    }
    for (size_t i = 0; i < n; i++)
        most = v->heat[i] > most ? v->heat[i] : most;
    for (size_t i = 0; i < n; i++)
        heat_colour(v->heat[i] / (most > 0 ? most : 1), rgb + 3 * i);
    page_printf(page, "<figure>");
    page_image(page, rgb, width, height, "their difference, pixel by pixel");
    page_heat_scale(page, most, "grey levels");
    page_printf(page, "<figcaption>|difference|, mean of the three channels</figcaption></figure>\n");
    free(rgb);
}

static void draw_pair(Page *page, const ClipView *v)
{
    char caption[64];
    if (!v->before.rgb)
        return;
    page_subheading(page, "Largest change");
    const double change = v->change[v->after.frame];
    if (!(change > 0)) {
        page_text(
            page,
            "No frame differs from the one before it. Scores of steadiness are perfect here, which says "
            "nothing about a clip that should move.");
        return;
    }
    page_text(page, "From frame %d to %d values change by %.3g of 255 grey levels on average.",
              v->before.frame, v->after.frame, change);
    page_printf(page, "<div class=\"row\">\n");
    snprintf(caption, sizeof caption, "frame %d", v->before.frame);
    page_picture(page, v->before.rgb, v->before.width, v->before.height, caption);
    snprintf(caption, sizeof caption, "frame %d", v->after.frame);
    page_picture(page, v->after.rgb, v->after.width, v->after.height, caption);
    draw_heat(page, v);
    page_printf(page, "</div>\n");
}

/* ---- plots over time --------------------------------------------------------------------- */

static void draw_line(Page *page, const ClipView *v, const char *title, const char *unit, const double *y,
                      int n)
{
    char mark[32];
    const bool marked = v->before.rgb && v->change[v->after.frame] > 0;
    snprintf(mark, sizeof mark, "frame %d", v->after.frame);
    const Axes axes = {.title = title,
                       .x_label = "frame",
                       .y_label = unit,
                       .mark = marked ? v->after.frame : NAN,
                       .mark_text = mark};
    const Line line = {.name = NULL, .y = y, .n = n};
    page_small_plot(page, &axes, &line, 1);
}

static bool any_value(const double *y, int n)
{
    for (int i = 0; y && i < n; i++)
        if (isfinite(y[i]))
            return true;
    return false;
}

static void draw_lines(Page *page, const ClipView *v, const Measured *m)
{
    char title[192];
    page_subheading(page, "Frame by frame");
    if (v->before.rgb && v->change[v->after.frame] > 0)
        page_text(page, "The dotted line marks the largest change of the pictures, to frame %d.",
                  v->after.frame);
    page_printf(page, "<div class=\"plots\">\n");
    draw_line(page, v, "Mean luma of each frame", "grey levels", v->luma, v->frames);
    draw_line(page, v, "Mean change from the frame before", "grey levels", v->change, v->frames);
    for (int i = 0; i < m->n; i++) {
        const gimbal_score *s = &m->scores[i];
        if (!any_value(s->values, m->frames))
            continue;
        snprintf(title, sizeof title, isnan(s->value) ? "%s" : "%s (clip: %.5g)", s->name, s->value);
        draw_line(page, v, title,
                  s->better > 0   ? "higher is better"
                  : s->better < 0 ? "lower is better"
                                  : NULL,
                  s->values, m->frames);
    }
    page_printf(page, "</div>\n");
}

/* Flicker of the whole picture shows as peaks; the frequency 0 is the clip's drift and left out. */
static void draw_spectrum(Page *page, const ClipView *v, double fps)
{
    enum { MOST = MOST_SLICES / 2 + 1 };
    const int n = v->frames - 1;
    if (n < LEAST_SPECTRUM)
        return;
    double *step = malloc((size_t)n * sizeof *step), amplitude[MOST], frequency[MOST];
    if (!step) {
        fail_memory(page_error(page));
        return;
    }
    for (int i = 0; i < n; i++)
        step[i] = v->luma[i + 1] - v->luma[i];
    const int m = time_spectrum(step, n, amplitude);
    free(step);
    for (int k = 0; k <= m / 2; k++)
        frequency[k] = (double)k / m * (fps > 0 ? fps : 1);
    page_subheading(page, "Flicker of the whole picture");
    page_text(
        page,
        "How strongly the mean luma's steps from frame to frame repeat, by frequency%s. A peak is a regular "
        "flicker; the right end is a change of direction at every frame.",
        n > m ? ", mean power of windows of 1024 frames" : "");
    const Axes axes = {.title = "Temporal spectrum of the steps of mean luma",
                       .x_label = fps > 0 ? "Hz" : "cycles per frame",
                       .y_label = "amplitude, grey levels",
                       .mark = NAN};
    const Line line = {.name = NULL, .x = frequency + 1, .y = amplitude + 1, .n = m / 2};
    page_plot(page, &axes, &line, 1);
}

void page_clip(Page *page, const ClipView *v, const Measured *m)
{
    draw_facts(page, m);
    draw_scores(page, m);
    if (!v->frames)
        return;
    draw_sheet(page, v);
    draw_pair(page, v);
    draw_slices(page, v);
    draw_lines(page, v, m);
    draw_spectrum(page, v, m->fps);
}
