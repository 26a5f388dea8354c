/* train_page.c: OUT/index.html: the curves of a training, its samples and settings, as one self-contained
 * page.
 *
 *     OUT/log.jsonl -> lines -> series by step -> plots;   samples/step-N.png -> pictures
 *
 * The loss of a single step says little, because it depends on the timesteps that were drawn; the loss on the
 * validation set, whose timesteps and noise are fixed, is what is shown first, a line for each fifth of the
 * timesteps. The log may have been written by anybody: what is no number has no place in a plot. Refuses to
 * know trainers. */
#include "app/report.h"
#include "app/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Series by step, [n] each, in one block. */
enum { STEP, LOSS, MEAN, NORM, BASE_NORM, RATE, SPEED, SERIES };
enum { V_STEP, V_LOSS, V_BAND, V_SERIES = V_BAND + GIMBAL_TRAIN_BANDS };
typedef struct {
    const char *output;
    json_t *lines;
    double *x; /* [SERIES][n] */
    double *v; /* [V_SERIES][nv] */
    int n, nv;
    const json_t *begin; /* the last one, or NULL */
} Curves;

static const char *what_of(const json_t *line)
{
    const char *what = json_string_value(json_object_get(line, "what"));
    return what ? what : "";
}

static double value(const json_t *line, const char *key)
{
    const json_t *v = json_object_get(line, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static const char *text_of(const json_t *line, const char *key)
{
    const char *text = json_string_value(json_object_get(line, key));
    return text ? text : "";
}

/* ---- series ------------------------------------------------------------------------------ */

static void add_step(Curves *c, const json_t *line, int i)
{
    static const char *const keys[SERIES] = {
        "step", "loss", NULL, "norm", "base_norm", "lr", "clips_per_second"};
    for (int k = 0; k < SERIES; k++)
        if (keys[k])
            c->x[(size_t)k * (size_t)c->n + (size_t)i] = value(line, keys[k]);
}

static void add_validation(Curves *c, const json_t *line, int i)
{
    const json_t *band = json_object_get(line, "band");
    c->v[(size_t)V_STEP * (size_t)c->nv + (size_t)i] = value(line, "step");
    c->v[(size_t)V_LOSS * (size_t)c->nv + (size_t)i] = value(line, "loss");
    for (int k = 0; k < GIMBAL_TRAIN_BANDS; k++) {
        const json_t *one = json_array_get(band, (size_t)k);
        c->v[(size_t)(V_BAND + k) * (size_t)c->nv + (size_t)i] =
            json_is_number(one) ? json_number_value(one) : NAN;
    }
}

/* Mean over the last `window` steps, as the terminal's line shows it. */
static void smooth(double *out, const double *x, int n, int window)
{
    double sum = 0;
    int count = 0;
    for (int i = 0; i < n; i++) {
        if (isfinite(x[i]))
            sum += x[i], count++;
        if (i >= window && isfinite(x[i - window]))
            sum -= x[i - window], count--;
        out[i] = count ? sum / count : NAN;
    }
}

static int gather(Curves *c, gimbal_error *err)
{
    json_t *line;
    size_t i;
    int n = 0, nv = 0;
    json_array_foreach(c->lines, i, line)
    {
        c->n += !strcmp(what_of(line), "step");
        c->nv += !strcmp(what_of(line), "valid");
        if (!strcmp(what_of(line), "begin"))
            c->begin = line;
    }
    c->x = calloc((size_t)c->n * SERIES + 1, sizeof *c->x);
    c->v = calloc((size_t)c->nv * V_SERIES + 1, sizeof *c->v);
    if (!c->x || !c->v)
        return fail_memory(err);
    json_array_foreach(c->lines, i, line)
    {
        if (!strcmp(what_of(line), "step"))
            add_step(c, line, n++);
        if (!strcmp(what_of(line), "valid"))
            add_validation(c, line, nv++);
    }
    smooth(c->x + (size_t)MEAN * (size_t)c->n, c->x + (size_t)LOSS * (size_t)c->n, c->n, RECENT);
    return GIMBAL_OK;
}

static Line line_of(const Curves *c, const char *name, int series)
{
    return (Line){.name = name, .x = c->x, .y = c->x + (size_t)series * (size_t)c->n, .n = c->n};
}

static Line valid_of(const Curves *c, const char *name, int series)
{
    return (Line){.name = name, .x = c->v, .y = c->v + (size_t)series * (size_t)c->nv, .n = c->nv};
}

static Axes axes_of(const char *title, const char *y, bool log)
{
    return (Axes){.title = title, .x_label = "optimiser step", .y_label = y, .log_y = log, .mark = NAN};
}

static bool has_values(const Curves *c, int series)
{
    for (int i = 0; i < c->n; i++)
        if (isfinite(c->x[(size_t)series * (size_t)c->n + (size_t)i]))
            return true;
    return false;
}

/* ---- the page's parts -------------------------------------------------------------------- */

static void page_validation(Page *page, const Curves *c)
{
    Axes axes = axes_of("loss on the validation set, by timestep", "mean squared error", true);
    Line lines[1 + GIMBAL_TRAIN_BANDS];
    char names[GIMBAL_TRAIN_BANDS][40];
    if (!c->nv)
        return;
    page_heading(page, "Is it learning?");
    page_text(page,
              "The same clips, noise and timesteps every time, so that these lines may be compared with "
              "themselves. Low timesteps are nearly clear clips, high ones nearly noise.");
    for (int k = 0; k < GIMBAL_TRAIN_BANDS; k++) {
        snprintf(names[k], sizeof names[k], "t %d to %d %%", 100 * k / GIMBAL_TRAIN_BANDS,
                 100 * (k + 1) / GIMBAL_TRAIN_BANDS);
        lines[k] = valid_of(c, names[k], V_BAND + k);
    }
    lines[GIMBAL_TRAIN_BANDS] = valid_of(c, "all", V_LOSS);
    axes.points = c->nv <= 60;
    page_plot(page, &axes, lines, 1 + GIMBAL_TRAIN_BANDS);
}

static void page_steps(Page *page, const Curves *c)
{
    char name[40];
    const Axes loss = axes_of("loss of the steps' own clips", "mean squared error", true);
    const Axes norm = axes_of("norm of the gradient, before clipping", NULL, true);
    const Axes rate = axes_of("learning rate", NULL, false), speed = axes_of("clips a second", NULL, false);
    if (!c->n)
        return;
    snprintf(name, sizeof name, "mean of %d", RECENT);
    const Line losses[] = {line_of(c, "step", LOSS), line_of(c, name, MEAN)};
    const Line norms[] = {line_of(c, "gradient", NORM), line_of(c, "of the base network", BASE_NORM)};
    const Line rates = line_of(c, "rate", RATE), speeds = line_of(c, "speed", SPEED);
    page_heading(page, "Step by step");
    page_text(page,
              "Every step draws its own timesteps: single losses jump, and only their mean says something.");
    page_plot(page, &loss, losses, 2);
    page_printf(page, "<div class=\"plots\">\n");
    page_small_plot(page, &norm, norms, has_values(c, BASE_NORM) ? 2 : 1);
    page_small_plot(page, &rate, &rates, 1);
    page_small_plot(page, &speed, &speeds, 1);
    page_printf(page, "</div>\n");
}

/* Below OUT/samples, as the program names them. */
static bool is_ours(const char *sheet)
{
    return !strncmp(sheet, "samples/", 8) && !strstr(sheet, "..");
}

static void page_sheet(Page *page, const Curves *c, const json_t *line)
{
    const char *sheet = text_of(line, "sheet");
    media_reader *in = NULL;
    media_info info = {0};
    gimbal_error none = {0}; /* samples may have been removed */
    char *path, caption[64];
    if (!is_ours(sheet) || asprintf(&path, "%s/%s", c->output, sheet) < 0)
        return;
    uint8_t *rgb = NULL;
    if (!media_open(&in, path, &info, &none))
        rgb = malloc(3 * (size_t)info.width * (size_t)info.height);
    if (rgb && media_get(in, rgb, &none) == 1) {
        snprintf(caption, sizeof caption, "step %.0f", value(line, "step"));
        page_picture(page, rgb, info.width, info.height, caption);
    }
    free(rgb);
    media_free(in);
    free(path);
}

/* The first sheet and the last ones, so that the page stays small. */
static void page_samples(Page *page, const Curves *c)
{
    enum { LAST = 5 };
    const json_t *first = NULL, *last[LAST];
    const json_t *prompts = NULL;
    json_t *line;
    size_t i;
    int n = 0;
    json_array_foreach(c->lines, i, line)
    {
        if (strcmp(what_of(line), "sample"))
            continue;
        first = first ? first : line;
        last[n++ % LAST] = line;
        prompts = json_object_get(line, "prompts");
    }
    if (!n)
        return;
    page_heading(page, "Samples");
    json_array_foreach((json_t *)prompts, i, line)
    {
        if (json_is_string(line))
            page_text(page, "%zu: %s", i + 1, json_string_value(line));
    }
    if (n > LAST)
        page_sheet(page, c, first);
    for (int k = n > LAST ? n - LAST : 0; k < n; k++)
        page_sheet(page, c, last[k % LAST]);
    page_text(page, "All %d, and the clips, are in the folder samples beside this page.", n);
}

static char *print_cell(const json_t *v)
{
    if (json_is_string(v))
        return strdup(json_string_value(v));
    const bool open = json_is_null(v) || (json_is_number(v) && json_number_value(v) < 0);
    return open ? strdup("(the recipe's or the model's)")
                : json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
}

static void page_settings(Page *page, const Curves *c)
{
    json_t *settings = json_object_get(c->begin, "settings"), *v;
    const char *key;
    const int rows = 1 + (int)json_object_size(settings);
    const char **cells = calloc(2 * (size_t)rows, sizeof *cells);
    int n = 2;
    if (rows < 2 || !cells) {
        free(cells);
        return;
    }
    cells[0] = "flag", cells[1] = "value";
    json_object_foreach(settings, key, v)
    {
        cells[n++] = key;
        cells[n++] = print_cell(v);
    }
    page_heading(page, "Settings");
    page_table(page, rows, 2, cells, NULL);
    for (int i = 3; i < n; i += 2)
        free((char *)cells[i]);
    free(cells);
}

/* Beginnings, and what was noted. */
static void page_events(Page *page, const Curves *c)
{
    json_t *line;
    size_t i;
    page_heading(page, "What happened");
    json_array_foreach(c->lines, i, line)
    {
        const char *what = what_of(line);
        if (!strcmp(what, "begin"))
            page_text(page, "%s: gimbal %s %s step %.0f: %s on %s, %.0f clips of %s, processes: %.0f.",
                      text_of(line, "time"), text_of(line, "version"),
                      value(line, "step") > 0 ? "went on after" : "began at", value(line, "step"),
                      text_of(line, "recipe"), text_of(line, "model"), value(line, "clips"),
                      text_of(line, "data"), value(line, "ranks"));
        else if (!strcmp(what, "note"))
            page_text(page, "Step %.0f: %s", value(line, "step"), text_of(line, "text"));
    }
}

static int write_page(const Curves *c, gimbal_error *err)
{
    char title[160], lead[160], *path;
    const double step = c->n ? c->x[c->n - 1] : 0;
    snprintf(title, sizeof title, "Training: %.60s on %.80s", text_of(c->begin, "recipe"),
             text_of(c->begin, "model"));
    snprintf(lead, sizeof lead, "Step %.0f of %.0f.", step, value(c->begin, "steps"));
    Page *page = page_begin(title, lead);
    if (!page || asprintf(&path, "%s/index.html", c->output) < 0) {
        page_drop(page);
        return fail_memory(err);
    }
    page_validation(page, c);
    page_samples(page, c);
    page_steps(page, c);
    page_events(page, c);
    page_settings(page, c);
    const int code = page_write(page, path, err);
    free(path);
    return code;
}

int train_page(const char *output, gimbal_error *err)
{
    Curves c = {.output = output};
    int code = train_log_read(output, &c.lines, err);
    if (!code)
        code = gather(&c, err);
    if (!code)
        code = write_page(&c, err);
    free(c.x);
    free(c.v);
    json_decref(c.lines);
    return code;
}
