/* report.c: one self-contained page of HTML: headings, paragraphs, tables, and what report_plot.c,
 * report_bars.c and report_picture.c put between them.
 *
 * The page grows in memory and appears whole. It asks nothing of a network and runs no script; it reads on a
 * phone, on paper, in light and in dark. Texts come from files and may hold anything: page_escaped() makes
 * them letters that mean nothing to HTML, in valid UTF-8. The first error is kept until page_write. Refuses
 * to know what was measured. */
#include "app/measure.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct Page {
    char *text;
    size_t n, room;
    gimbal_error error;
};

static const char style[] =
    ":root{color-scheme:light dark;--ink:#1c1f23;--soft:#5c636b;--line:#d9dde1;--ground:#fff;--mark:#fff1d6;"
    "--bad:#a33f00}\n"
    "@media screen and (prefers-color-scheme:dark){:root{--ink:#e6e8ea;--soft:#a2a9b0;--line:#3a4046;"
    "--ground:#16191c;--mark:#4a3a17;--bad:#ff9b5e}}\n"
    "@media print{:root{color-scheme:light}figure,tr,li{break-inside:avoid}h2,h3{break-after:avoid}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,sans-serif}\n"
    "main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 4rem}\n"
    "h1{font-size:1.6rem;line-height:1.25;margin:0 0 .5rem;overflow-wrap:anywhere}\n"
    "h2{font-size:1.2rem;line-height:1.3;margin:2.5rem 0 .5rem;padding-top:1rem;border-top:1px solid "
    "var(--line);"
    "overflow-wrap:anywhere}\n"
    "h3{font-size:1rem;margin:1.75rem 0 .25rem}\n"
    "p{margin:.5rem 0;max-width:44rem;overflow-wrap:anywhere}\n"
    ".lead{font-size:1.1rem;color:var(--soft)}\n"
    ".scroll{overflow-x:auto;margin:1rem 0}\n"
    "table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}\n"
    "caption,figcaption{color:var(--soft);font-size:.9rem;text-align:left;padding:.25rem "
    "0;overflow-wrap:anywhere}\n"
    "th,td{padding:.3rem .9rem .3rem 0;text-align:left;vertical-align:top;border-bottom:1px solid "
    "var(--line)}\n"
    "th{font-weight:600}.r{text-align:right;white-space:nowrap}td.m{background:var(--mark);font-weight:600}\n"
    "td:not(.r){max-width:30rem;overflow-wrap:break-word}\n"
    "figure{margin:1.25rem 0}figure svg{display:block;width:100%;height:auto;max-width:100%}\n"
    "svg.narrow{display:none!important}\n"
    "img{display:block;max-width:100%;height:auto}\n"
    "\n"
    ".sheet{list-style:none;padding:0;margin:1rem 0;display:grid;gap:.5rem;"
    "grid-template-columns:repeat(auto-fill,minmax(7.5rem,1fr))}\n"
    ".sheet img{width:100%}.sheet li{font-size:.8rem;color:var(--soft);font-variant-numeric:tabular-nums}\n"
    ".sheet li.m{color:var(--bad);font-weight:600}.sheet li.m img{outline:3px solid var(--bad)}\n"
    ".row{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));align-items:start}\n"
    ".slices img{width:100%}.slices.wide{image-rendering:pixelated}\n"
    ".plots{display:grid;gap:0 1.5rem;grid-template-columns:repeat(auto-fill,minmax(min(20rem,100%),1fr))}\n"
    ".row figure{margin:.5rem 0}.row img{width:100%}\n"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.8rem}summary{cursor:pointer}\n"
    "@media(max-width:36rem){svg.wide{display:none!important}svg.narrow{display:block!important}"
    ".sheet{grid-template-columns:repeat(3,1fr)}h1{font-size:1.35rem}}\n"
    "@media print{body{font-size:11pt}main{max-width:none;padding:0}svg.wide{display:block!important}"
    "svg.narrow{display:none!important}}\n";

/* ---- growing ----------------------------------------------------------------------------- */

gimbal_error *page_error(Page *p)
{
    return &p->error;
}

void page_raw(Page *p, const char *html, size_t n)
{
    if (p->error.code)
        return;
    if (n > SIZE_MAX / 4 - p->n) {
        fail_memory(&p->error);
        return;
    }
    if (p->n + n > p->room) {
        const size_t room = 2 * (p->n + n) + 4096;
        char *more = realloc(p->text, room);
        if (!more) {
            fail_memory(&p->error);
            return;
        }
        p->text = more, p->room = room;
    }
    memcpy(p->text + p->n, html, n);
    p->n += n;
}

static void page_vprintf(Page *p, const char *fmt, va_list args)
{
    char *text = NULL;
    const int n = vasprintf(&text, fmt, args);
    if (n < 0) {
        fail_memory(&p->error);
        return;
    }
    page_raw(p, text, (size_t)n);
    free(text);
}

void page_printf(Page *p, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    page_vprintf(p, fmt, args);
    va_end(args);
}

/* ---- texts ------------------------------------------------------------------------------- */

/* Bytes of the character of UTF-8 at s, shortest form, no surrogates; 0: there is none. */
static size_t utf8_at(const unsigned char *s)
{
    const unsigned lead = s[0];
    const size_t n = lead < 0x80                   ? 1
                     : lead >= 0xC2 && lead < 0xE0 ? 2
                     : lead >= 0xE0 && lead < 0xF0 ? 3
                     : lead >= 0xF0 && lead < 0xF5 ? 4
                                                   : 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80) /* a zero ends the text and stops here */
            return 0;
    const bool long_form = (lead == 0xE0 && s[1] < 0xA0) || (lead == 0xF0 && s[1] < 0x90);
    const bool no_character = (lead == 0xED && s[1] >= 0xA0) || (lead == 0xF4 && s[1] >= 0x90);
    return long_form || no_character ? 0 : n;
}

/* What stands for a character that means something to HTML, or may not be in it; NULL: itself. */
static const char *entity(const unsigned char *s, size_t n)
{
    switch (*s) {
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '&':
        return "&amp;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    }
    const bool control = (*s < 0x20 && *s != '\n' && *s != '\t') || *s == 0x7F || (*s == 0xC2 && s[1] < 0xA0);
    return !n || control ? "\xEF\xBF\xBD" : NULL; /* the replacement character */
}

void page_escaped(Page *p, const char *text)
{
    const unsigned char *s = (const unsigned char *)(text ? text : ""), *plain = s;
    while (*s) {
        const size_t n = utf8_at(s);
        const char *other = entity(s, n);
        if (other) {
            page_raw(p, (const char *)plain, (size_t)(s - plain));
            page_raw(p, other, strlen(other));
        }
        s += n ? n : 1;
        plain = other ? s : plain;
    }
    page_raw(p, (const char *)plain, (size_t)(s - plain));
}

int text_letters(const char *s)
{
    int n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

void page_clipped(Page *p, const char *text, int most)
{
    char head[4 * 128];
    const int limit = most - (text_letters(text) > most);
    size_t end = 0;
    for (int n = 0; text[end] && end + 8 < sizeof head; end++)
        if (((unsigned char)text[end] & 0xC0) != 0x80 && ++n > limit)
            break;
    snprintf(head, sizeof head, "%.*s%s", (int)end, text, text[end] ? "\xE2\x80\xA6" : "");
    page_escaped(p, head);
    if (text[end]) {
        page_printf(p, "<title>");
        page_escaped(p, text);
        page_printf(p, "</title>");
    }
}

/* <tag> text </tag>, the text made by fmt. */
static void element(Page *p, const char *open, const char *close, const char *fmt, va_list args)
{
    char *text = NULL;
    if (vasprintf(&text, fmt, args) < 0) {
        fail_memory(&p->error);
        return;
    }
    page_raw(p, open, strlen(open));
    page_escaped(p, text);
    page_raw(p, close, strlen(close));
    free(text);
}

void page_heading(Page *p, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    element(p, "<h2>", "</h2>\n", fmt, args);
    va_end(args);
}

void page_subheading(Page *p, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    element(p, "<h3>", "</h3>\n", fmt, args);
    va_end(args);
}

void page_text(Page *p, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    element(p, "<p>", "</p>\n", fmt, args);
    va_end(args);
}

/* ---- tables ------------------------------------------------------------------------------ */

static bool is_blank(const char *cell)
{
    return !*cell || !strcmp(cell, "-") || !strcmp(cell, "\xE2\x80\x93") || !strcmp(cell, "\xE2\x80\x94");
}

/* "0.97", "12 %", "1.5e-3 [1e-3, 2e-3]", "[0.1, 0.2]": a number, and perhaps a little behind it. */
static bool is_number(const char *cell)
{
    enum { MOST_BEHIND = 28 };
    const char *at = cell + strspn(cell, "[(<>~= \xC2\xB1");
    char *end;
    strtod(at, &end);
    if (end == at || (isalpha((unsigned char)*at) && *end))
        return false;
    return !*end || (strchr(" %,])/\xC2", *end) && strlen(end) <= MOST_BEHIND);
}

/* Does every cell below the head hold a number, or nothing? One number at least. */
static bool column_is_numbers(int rows, int columns, const char *const *cells, int column)
{
    bool any = false;
    for (int row = 1; row < rows; row++) {
        const char *cell = cells[(size_t)row * (size_t)columns + (size_t)column];
        cell = cell ? cell : "";
        cell += *cell == '!';
        if (!is_blank(cell) && !is_number(cell))
            return false;
        any |= !is_blank(cell);
    }
    return any;
}

static void table_cell(Page *p, const char *cell, bool head, bool number)
{
    cell = cell ? cell : "";
    const bool marked = !head && *cell == '!';
    const char *classes = number ? marked ? " class=\"r m\"" : " class=\"r\"" : marked ? " class=\"m\"" : "";
    page_printf(p, "<%s%s%s>", head ? "th" : "td", head ? " scope=\"col\"" : "", classes);
    page_escaped(p, cell + marked);
    page_printf(p, "</%s>", head ? "th" : "td");
}

static void table_row(Page *p, int row, int columns, const char *const *cells, const bool *numbers)
{
    page_printf(p, row == 0 ? "<thead><tr>" : row == 1 ? "<tbody>\n<tr>" : "<tr>");
    for (int column = 0; column < columns; column++)
        table_cell(p, cells[(size_t)row * (size_t)columns + (size_t)column], !row, numbers[column]);
    page_printf(p, row == 0 ? "</tr></thead>\n" : "</tr>\n");
}

void page_table(Page *p, int rows, int columns, const char *const *cells, const char *caption)
{
    bool *numbers = rows > 0 && columns > 0 ? calloc((size_t)columns, sizeof *numbers) : NULL;
    if (rows < 1 || columns < 1)
        return;
    if (!numbers) {
        fail_memory(&p->error);
        return;
    }
    for (int column = 0; column < columns; column++)
        numbers[column] = column_is_numbers(rows, columns, cells, column);
    page_printf(p, "<div class=\"scroll\" tabindex=\"0\"><table>\n");
    if (caption && *caption) {
        page_printf(p, "<caption>");
        page_escaped(p, caption);
        page_printf(p, "</caption>\n");
    }
    for (int row = 0; row < rows; row++)
        table_row(p, row, columns, cells, numbers);
    page_printf(p, rows > 1 ? "</tbody></table></div>\n" : "</table></div>\n");
    free(numbers);
}

/* ---- begin and end ----------------------------------------------------------------------- */

Page *page_blank(void)
{
    return calloc(1, sizeof(Page));
}

Page *page_begin(const char *title, const char *lead)
{
    Page *p = page_blank();
    if (!p)
        return NULL;
    page_printf(p, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                   "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
                   "<meta name=\"generator\" content=\"gimbal " GIMBAL_VERSION "\">\n<title>");
    page_escaped(p, title);
    page_printf(p, "</title>\n<style>\n%s%s</style>\n", style, plot_style);
    page_printf(p, "</head>\n<body>\n<main>\n<h1>");
    page_escaped(p, title);
    page_printf(p, "</h1>\n");
    if (lead && *lead) {
        page_printf(p, "<p class=\"lead\">");
        page_escaped(p, lead);
        page_printf(p, "</p>\n");
    }
    return p;
}

void page_drop(Page *p)
{
    if (p)
        free(p->text);
    free(p);
}

int page_end(Page *p, const char *path, const char *tail, gimbal_error *err)
{
    int code = p->error.code ? complain(err, p->error.code, p->error.hint, "%s", p->error.msg) : GIMBAL_OK;
    code = code ? code : write_whole(path, p->text, p->n, tail, strlen(tail), err);
    page_drop(p);
    return code;
}

int page_write(Page *p, const char *path, gimbal_error *err)
{
    if (!p)
        return fail_memory(err);
    return page_end(p, path, "</main>\n</body>\n</html>\n", err);
}
