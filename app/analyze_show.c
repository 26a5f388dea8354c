/* analyze_show.c: what a study found, as a table for people, as one JSON object, as a plot and as a page.
 *
 * Columns whose first value is a number are set to the right. Values that are no numbers are "-" in tables
 * and null in JSON. Refuses to know what was studied. */
#include "app/analyze.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* ---- gathering --------------------------------------------------------------------------- */

json_t *number_json(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

const char *number_text(double x, const char *fmt, char out[32])
{
    if (isnan(x))
        return "-";
    snprintf(out, 32, isinf(x) ? "%+f" : fmt, x);
    return out;
}

static char *print(Findings *f, const char *fmt, va_list args)
{
    char *out = NULL;
    if (vasprintf(&out, fmt, args) < 0) {
        f->no_memory = true;
        return NULL;
    }
    return out;
}

/* Room for one more row, its cells NULL. */
static char **new_row(Findings *f)
{
    const size_t columns = (size_t)f->columns, rows = (size_t)f->rows;
    char **more = realloc(f->cells, (rows + 1) * columns * sizeof *more);
    if (!more) {
        f->no_memory = true;
        return NULL;
    }
    f->cells = more;
    f->rows++;
    return memset(more + rows * columns, 0, columns * sizeof *more);
}

void findings_row(Findings *f, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    char *text = print(f, fmt, args), *rest = text;
    va_end(args);
    if (!f->columns && text) {
        f->columns = 1;
        for (const char *c = text; *c; c++)
            f->columns += *c == '\t';
    }
    char **row = text ? new_row(f) : NULL;
    for (int i = 0; row && i < f->columns; i++) {
        const char *cell = rest ? strsep(&rest, "\t") : "";
        row[i] = strdup(cell);
        f->no_memory |= !row[i];
    }
    free(text);
}

void findings_note(Findings *f, const char *fmt, ...)
{
    va_list args;
    if (f->notes == MOST_NOTES)
        return;
    va_start(args, fmt);
    char *text = print(f, fmt, args);
    va_end(args);
    if (text)
        f->note[f->notes++] = text;
}

void findings_key(Findings *f, const char *key, json_t *value)
{
    f->json = f->json ? f->json : json_object();
    if (!value || json_object_set_new(f->json, key, value))
        f->no_memory = true;
}

void findings_object(Findings *f, json_t *row)
{
    f->list = f->list ? f->list : json_array();
    if (!row || json_array_append_new(f->list, row))
        f->no_memory = true;
}

void findings_line(Findings *f, const char *name, const double *x, const double *y, int n)
{
    double *numbers = f->lines < MOST_LINES && n > 0 ? calloc(2 * (size_t)n, sizeof *numbers) : NULL;
    char *copy = numbers ? strdup(name) : NULL;
    if (!copy) {
        f->no_memory = true;
        free(numbers);
        return;
    }
    memcpy(numbers, x, (size_t)n * sizeof *x);
    memcpy(numbers + n, y, (size_t)n * sizeof *y);
    f->line[f->lines++] = (Line){.name = copy, .x = numbers, .y = numbers + n, .n = n};
}

void findings_free(Findings *f)
{
    for (int i = 0; i < f->rows * f->columns; i++)
        free(f->cells[i]);
    free(f->cells);
    for (int i = 0; i < f->notes; i++)
        free(f->note[i]);
    for (int i = 0; i < f->lines; i++) {
        free((char *)f->line[i].name);
        free((double *)f->line[i].x);
    }
    json_decref(f->json);
    json_decref(f->list);
}

/* ---- showing ----------------------------------------------------------------------------- */

/* Letters, not bytes: cells may hold UTF-8, of paths. */
static int letters(const char *text)
{
    int n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

static bool is_number(const char *cell)
{
    return *cell && strchr("+-.0123456789", *cell);
}

static void print_cell(const char *cell, int width, bool right, bool last)
{
    const int space = width - letters(cell);
    printf("%*s%s%*s", right ? space : 0, "", cell, right || last ? 0 : space, "");
}

static void print_table(const Findings *f)
{
    int width[MOST_COLUMNS] = {0};
    for (int i = 0; i < f->rows * f->columns; i++) {
        const int n = letters(f->cells[i]);
        width[i % f->columns] = n > width[i % f->columns] ? n : width[i % f->columns];
    }
    for (int i = 0; i < f->rows * f->columns; i++) {
        const int column = i % f->columns;
        const bool last = column == f->columns - 1;
        print_cell(f->cells[i], width[column], f->rows > 1 && is_number(f->cells[f->columns + column]), last);
        fputs(last ? "\n" : "  ", stdout);
    }
}

static int show_json(const Analysis *a, gimbal_error *err)
{
    const Findings *f = &a->found;
    json_t *notes = json_array();
    for (int i = 0; i < f->notes; i++)
        json_array_append_new(notes, json_text(f->note[i]));
    json_t *out =
        json_pack("{s:i, s:s, s:s}", "schema", 1, "study", a->study->name, "shows", a->study->shows);
    if (out && f->json)
        json_object_update(out, f->json);
    if (out && f->list)
        json_object_set(out, "rows", f->list);
    if (out)
        json_object_set_new(out, "notes", notes);
    return print_json(out, err);
}

static int write_page(const Analysis *a, gimbal_error *err)
{
    const Findings *f = &a->found;
    char title[80];
    snprintf(title, sizeof title, "gimbal analyze %s", a->study->name);
    Page *page = page_begin(title, a->study->shows);
    if (!page)
        return fail_memory(err);
    page_table(page, f->rows, f->columns, (const char *const *)f->cells, NULL);
    for (int i = 0; i < f->notes; i++)
        page_text(page, "%s", f->note[i]);
    if (f->lines)
        page_plot(page, &f->axes, f->line, f->lines);
    return page_write(page, a->flags.report, err);
}

/* Files first: where they fail nothing has been printed. */
int findings_show(Analysis *a, gimbal_error *err)
{
    const Findings *f = &a->found;
    if (f->no_memory || f->columns > MOST_COLUMNS)
        return fail_memory(err);
    if (a->flags.output && !a->study->makes_clips)
        TRY(plot_write(a->flags.output, &f->axes, f->line, f->lines, err));
    if (a->flags.report)
        TRY(write_page(a, err));
    if (a->flags.json)
        return show_json(a, err);
    printf("%s\n\n", a->study->shows);
    print_table(f);
    for (int i = 0; i < f->notes; i++)
        printf("%s%s\n", i ? "" : "\n", f->note[i]);
    return flush_stdout(err);
}
