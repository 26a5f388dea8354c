/* report_plot.c: lines, points and bands over a pair of axes as inline SVG.
 *
 *     values -> placed (log10 where the axis is) -> thinned to a least and a largest per pixel column -> path
 *
 * A value that has no place (NaN, infinite, beyond 1e300, not above zero on a log axis) is a gap. A page
 * carries every plot twice, wide with names at the lines' ends and narrow with the names below, and its style
 * shows the one that fits.
 *
 * Ours, not gnuplot's or PLplot's: gnuplot is a program to be run, and its SVG has fixed colours and ids that
 * repeat when two plots stand in one page; PLplot's development package brings 48 others on Debian 12.
 *
 * Refuses to know what the lines mean. */
#include "app/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Colours that colour-blind readers tell apart, after Okabe and Ito (2008), darker or lighter where the
 * ground asks for it; dashes tell the lines apart without any colour. Concrete colours, for viewers of SVG
 * files that know no var(). */
const char plot_style[] =
    ".plot text{font:12px system-ui,sans-serif;fill:#1c1f23}.plot .soft{fill:#5c636b}.plot "
    ".e{text-anchor:end}"
    ".plot .c{text-anchor:middle}.plot .grid{stroke:#e3e6e9;fill:none}.plot .axis{stroke:#8a9199;fill:none}"
    ".plot .mark{stroke:#a33f00;stroke-dasharray:2 3;fill:none}.plot .ground{fill:#fff}"
    ".plot .l{fill:none;stroke-width:1.8;stroke-linejoin:round}.plot .l.fine{stroke-width:1}.plot "
    ".b{stroke:none;fill-opacity:.16}"
    ".plot .hollow{fill:#fff}.plot .h{fill-opacity:0;stroke:none}.plot .h:hover{fill-opacity:.5}"
    ".c0{stroke:#0072b2;fill:#0072b2}.c1{stroke:#d55e00;fill:#d55e00}.c2{stroke:#008a64;fill:#008a64}"
    ".c3{stroke:#b0568f;fill:#b0568f}.c4{stroke:#a87400;fill:#a87400}.c5{stroke:#2f93cc;fill:#2f93cc}"
    ".c6{stroke:#1c1f23;fill:#1c1f23}\n"
    "@media screen and (prefers-color-scheme:dark){.plot text{fill:#e6e8ea}.plot .soft{fill:#a2a9b0}"
    ".plot .grid{stroke:#2c3136}.plot .axis{stroke:#6d757d}.plot .mark{stroke:#ff9b5e}.plot .ground,.plot "
    ".hollow{fill:#16191c}"
    ".c0{stroke:#56b4e9;fill:#56b4e9}.c1{stroke:#f08a4b;fill:#f08a4b}.c2{stroke:#35c79a;fill:#35c79a}"
    ".c3{stroke:#d99ac6;fill:#d99ac6}.c4{stroke:#e6a93a;fill:#e6a93a}.c5{stroke:#a6d8f5;fill:#a6d8f5}"
    ".c6{stroke:#e6e8ea;fill:#e6e8ea}}\n";
static const char *const dashes[] = {"", "7 3", "2 2.5", "9 3 2 3", "4 2", "12 3", "1 3", "6 2 1 2 1 2"};
enum { COLOURS = 7, DASHES = 8 };

enum {
    BUCKETS = 480, /* pixel columns: two values each */
    MOST_DOTS = 2 * BUCKETS,
    MOST_TITLED = 240, /* values of a line that can be pointed at */
    MOST_TICKS = 24,
    LABEL_STEP = 15, /* between two names, units */
    MOST_LABEL = 26  /* letters of a name at a line's end */
};
static const double letter = 6.5; /* mean width at 12 units */

typedef struct {
    double x, y, low, high; /* placed; NaN: none */
} Dot;
typedef struct {
    double at;
    char text[32];
} Tick;
/* WIDE and NARROW are the two faces of one plot, SMALL is one of several side by side. */
enum { WIDE, NARROW, SMALL, ALONE };
static const char *const kinds[] = {"plot wide", "plot narrow", "plot", "plot"};

typedef struct {
    Page *page;
    const Axes *axes;
    const Line *lines;
    int n;
    int kind;
    bool wide, empty;
    double width, height, left, right, top, bottom; /* the picture; the plot inside it */
    double x0, x1, y0, y1;                          /* placed values at its edges */
    Tick x_ticks[MOST_TICKS], y_ticks[MOST_TICKS];
    int n_x, n_y;
    double label[64]; /* heights of names at the lines' ends */
} Plot;

/* ---- places ------------------------------------------------------------------------------ */

static double place(double v, bool log)
{
    if (!isfinite(v) || fabs(v) > 1e300 || (log && v <= 0))
        return NAN;
    return log ? log10(v) : v;
}

static double x_at(const Line *line, int i, const Axes *axes)
{
    return place(line->x ? line->x[i] : i, axes->log_x);
}

static double across(const Plot *p, double x)
{
    return p->left + (x - p->x0) / (p->x1 - p->x0) * (p->right - p->left);
}

/* Bands may reach beyond the plot: on a log axis to minus infinity. */
static double down(const Plot *p, double y)
{
    const double at = p->bottom - (y - p->y0) / (p->y1 - p->y0) * (p->bottom - p->top);
    return fmin(fmax(at, p->top), p->bottom);
}

static void include(double v, double *low, double *high)
{
    *low = fmin(*low, v), *high = fmax(*high, v); /* fmin and fmax take no notice of NaN */
}

/* Room around values that would touch the edges, and around a single one. */
static void widen(double *low, double *high, double share, bool log)
{
    const double span = *high - *low, size = .05 * fmax(fabs(*low), fabs(*high));
    double room = share * span;
    if (span <= 1e-11 * size || span < 1e-290)
        room = log ? .5 : size > 1e-290 ? size : 1;
    *low -= room, *high += room;
}

static void find_ranges(Plot *p)
{
    const Axes *axes = p->axes;
    p->x0 = p->y0 = INFINITY, p->x1 = p->y1 = -INFINITY;
    for (int k = 0; k < p->n; k++)
        for (int i = 0; i < p->lines[k].n; i++) {
            const Line *line = &p->lines[k];
            const double x = x_at(line, i, axes), y = place(line->y[i], axes->log_y);
            include(x, &p->x0, &p->x1); /* where y is missing too: plots of one clip share their axis */
            if (isnan(x) || isnan(y))
                continue;
            include(y, &p->y0, &p->y1);
            if (line->low && line->high) {
                include(place(line->low[i], axes->log_y), &p->y0, &p->y1);
                include(place(line->high[i], axes->log_y), &p->y0, &p->y1);
            }
        }
    p->empty = !(p->y0 <= p->y1);
    if (!(p->x0 <= p->x1))
        p->x0 = 0, p->x1 = 1;
    if (p->empty)
        p->y0 = 0, p->y1 = 1;
    widen(&p->x0, &p->x1, axes->points ? .02 : 0, axes->log_x);
    widen(&p->y0, &p->y1, .05, axes->log_y);
}

/* ---- ticks ------------------------------------------------------------------------------- */

/* "1.50e+06" -> "1.50e6" */
static void tidy_exponent(char *text)
{
    char *e = strchr(text, 'e');
    if (!e)
        return;
    char *from = e + 1, *to = e + 1;
    if (*from == '-')
        to++;
    from += *from == '-' || *from == '+';
    from += strspn(from, "0");
    memmove(to, *from ? from : "0", strlen(*from ? from : "0") + 1);
}

static void print_tick(char out[32], double v, double step, double size)
{
    if (size < 1e6 && step >= 1e-5) {
        const int places = (int)fmax(0, ceil(-log10(step) - 1e-9));
        snprintf(out, 32, "%.*f", places, v);
        return;
    }
    const double digits = v == 0 ? 0 : floor(log10(fabs(v)) + 1e-9) - floor(log10(step) + 1e-9);
    snprintf(out, 32, "%.*e", (int)fmin(fmax(digits, 0), 15), v);
    tidy_exponent(out);
}

/* Multiples of 1, 2 or 5 times a power of ten, about `most` of them. */
static int linear_ticks(Tick *out, double low, double high, int most)
{
    const double raw = (high - low) / most, power = pow(10, floor(log10(raw))), part = raw / power;
    const double step = power * (part < 1.5 ? 1 : part < 3.5 ? 2 : part < 7.5 ? 5 : 10);
    const double size = fmax(fabs(low), fabs(high));
    int n = 0;
    for (double k = ceil(low / step - 1e-9); k <= high / step + 1e-9 && n < MOST_TICKS; k++) {
        out[n].at = k == 0 ? 0 : k * step; /* no minus zero */
        print_tick(out[n].text, out[n].at, step, size);
        n++;
    }
    return n;
}

/* low and high are powers: whole decades; 1, 2, 5 of each where there are few; plain ticks within one. */
static int log_ticks(Tick *out, double low, double high, int most)
{
    static const double parts[] = {1, 2, 5};
    const double span = high - low;
    const int step = (int)fmax(1, ceil(span / most)), used = span < 2.5 ? 3 : 1;
    int n = 0;
    for (double k = floor(low / step) * step; k <= high && n < MOST_TICKS; k += step)
        for (int i = 0; i < used && n < MOST_TICKS; i++) {
            const double at = k + log10(parts[i]);
            if (at < low - 1e-9 || at > high + 1e-9)
                continue;
            out[n].at = at;
            if (fabs(k) > 3)
                snprintf(out[n].text, sizeof out[n].text, "%.0fe%.0f", parts[i], k);
            else
                snprintf(out[n].text, sizeof out[n].text, "%.4g", parts[i] * pow(10, k));
            n++;
        }
    if (n >= 2)
        return n;
    n = linear_ticks(out, pow(10, low), pow(10, high), most);
    int kept = 0;
    for (int i = 0; i < n; i++)
        if (out[i].at > 0)
            out[kept] = out[i], out[kept].at = log10(out[i].at), kept++;
    return kept;
}

static void find_ticks(Plot *p)
{
    const int room_x = p->wide ? 8 : 4, most_y = p->axes->log_y ? 8 : 5;
    bool counts = true; /* x is a number of frames, steps, ...: no halves */
    for (int k = 0; k < p->n; k++)
        counts &= !p->lines[k].x;
    const int most_x = counts && p->x1 - p->x0 < room_x ? (int)fmax(1, p->x1 - p->x0) : room_x;
    p->n_x = (p->axes->log_x ? log_ticks : linear_ticks)(p->x_ticks, p->x0, p->x1, most_x);
    p->n_y = (p->axes->log_y ? log_ticks : linear_ticks)(p->y_ticks, p->y0, p->y1, most_y);
}

/* ---- thinning ---------------------------------------------------------------------------- */

/* What is kept of one pixel column: the least and the largest value, in their order. */
typedef struct {
    Dot least, largest;
    int at_least, at_largest;
    double low, high;
} Bucket;
static const Bucket no_bucket = {.at_least = -1, .at_largest = -1, .low = INFINITY, .high = -INFINITY};

static void bucket_add(Bucket *b, const Dot *d, int i)
{
    if (isnan(d->x) || isnan(d->y))
        return;
    if (b->at_least < 0 || d->y < b->least.y)
        b->least = *d, b->at_least = i;
    if (b->at_largest < 0 || d->y > b->largest.y)
        b->largest = *d, b->at_largest = i;
    b->low = fmin(b->low, d->low), b->high = fmax(b->high, d->high);
}

static int bucket_take(Bucket *b, Dot *out)
{
    int n = 0;
    if (b->at_least < 0) {
        out[n++] = (Dot){NAN, NAN, NAN, NAN};
    } else {
        const bool least_first = b->at_least <= b->at_largest;
        out[n++] = least_first ? b->least : b->largest;
        if (b->at_least != b->at_largest)
            out[n++] = least_first ? b->largest : b->least;
        for (int i = 0; i < n; i++)
            if (b->low <= b->high)
                out[i].low = b->low, out[i].high = b->high;
    }
    *b = no_bucket;
    return n;
}

static Dot dot_of(const Plot *p, const Line *line, int i)
{
    const bool band = line->low && line->high, log = p->axes->log_y;
    Dot d = {x_at(line, i, p->axes), place(line->y[i], log), NAN, NAN};
    if (band && !isnan(d.y) && isfinite(line->high[i]) && isfinite(line->low[i])) {
        d.high = place(line->high[i], log);
        d.low = log && line->low[i] <= 0 ? p->y0 : place(line->low[i], log);
    }
    return d;
}

static bool is_sorted(const Plot *p, const Line *line)
{
    double last = -INFINITY;
    for (int i = 0; i < line->n; i++) {
        const double x = x_at(line, i, p->axes);
        if (x < last)
            return false;
        last = isnan(x) ? last : x;
    }
    return true;
}

/* At most MOST_DOTS of a line's values, with its peaks; what is not sorted by x is thinned by index. */
static int thin(const Plot *p, const Line *line, Dot *out)
{
    int n = 0, column = 0;
    if (line->n <= MOST_DOTS) {
        for (; n < line->n; n++)
            out[n] = dot_of(p, line, n);
        return n;
    }
    const bool sorted = is_sorted(p, line);
    Bucket bucket = no_bucket;
    for (int i = 0; i < line->n; i++) {
        const Dot d = dot_of(p, line, i);
        const double at = sorted ? (d.x - p->x0) / (p->x1 - p->x0) : (double)i / line->n;
        const int here = isnan(at) ? column : (int)fmin(fmax(at * BUCKETS, column), BUCKETS - 1);
        if (here != column && i)
            n += bucket_take(&bucket, out + n);
        column = here;
        bucket_add(&bucket, &d, i);
    }
    return n + bucket_take(&bucket, out + n);
}

/* ---- drawing ----------------------------------------------------------------------------- */

static void draw_text(const Plot *p, const char *classes, double x, double y, const char *text)
{
    page_printf(p->page, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\">", classes, x, y);
    page_escaped(p->page, text);
    page_printf(p->page, "</text>");
}

static void draw_axes(const Plot *p)
{
    page_printf(p->page, "<path class=\"grid\" d=\"");
    for (int i = 0; i < p->n_y; i++)
        page_printf(p->page, "M%.1f %.1fH%.1f", p->left, down(p, p->y_ticks[i].at), p->right);
    page_printf(p->page, "\"/><path class=\"axis\" d=\"M%.1f %.1fH%.1f", p->left, p->bottom, p->right);
    for (int i = 0; i < p->n_x; i++)
        page_printf(p->page, "M%.1f %.1fv4", across(p, p->x_ticks[i].at), p->bottom);
    page_printf(p->page, "\"/>\n");
    for (int i = 0; i < p->n_y; i++)
        draw_text(p, "e soft", p->left - 6, down(p, p->y_ticks[i].at) + 4, p->y_ticks[i].text);
    for (int i = 0; i < p->n_x; i++)
        draw_text(p, "c soft", across(p, p->x_ticks[i].at), p->bottom + 17, p->x_ticks[i].text);
    if (p->axes->y_label)
        draw_text(p, "soft", 2, 14, p->axes->y_label);
    if (p->axes->x_label)
        draw_text(p, "e soft", p->right, p->bottom + 34, p->axes->x_label);
    if (p->empty)
        draw_text(p, "c soft", (p->left + p->right) / 2, (p->top + p->bottom) / 2, "no values");
}

static void draw_mark(const Plot *p)
{
    const double x = place(p->axes->mark, p->axes->log_x), at = across(p, x);
    if (isnan(x) || x < p->x0 || x > p->x1)
        return;
    const bool left = at > (p->left + p->right) / 2;
    page_printf(p->page, "<path class=\"mark\" d=\"M%.1f %.1fV%.1f\"/>", at, p->top, p->bottom);
    if (p->axes->mark_text)
        draw_text(p, left ? "e soft" : "soft", at, p->top - 4, p->axes->mark_text);
}

/* From the first of a run of dots with a band to its last, and back below. */
static void draw_band(const Plot *p, const Dot *dots, int n, int colour)
{
    for (int i = 0, end; i < n; i = end + 1) {
        for (end = i; end < n && !isnan(dots[end].x) && !isnan(dots[end].low) && !isnan(dots[end].high);
             end++)
            ;
        if (end - i < 2)
            continue;
        page_printf(p->page, "<path class=\"b c%d\" d=\"", colour);
        for (int k = i; k < end; k++)
            page_printf(p->page, "%c%.1f %.1f", k == i ? 'M' : 'L', across(p, dots[k].x),
                        down(p, dots[k].high));
        for (int k = end - 1; k >= i; k--)
            page_printf(p->page, "L%.1f %.1f", across(p, dots[k].x), down(p, dots[k].low));
        page_printf(p->page, "Z\"/>");
    }
}

static void draw_path(const Plot *p, const Dot *dots, int n, int k)
{
    bool pen = false;
    page_printf(p->page, "<path class=\"l c%d%s\" stroke-dasharray=\"%s\" d=\"", k % COLOURS,
                n > (int)(p->right - p->left) / 2 ? " fine" : "",
                *dashes[k % DASHES] ? dashes[k % DASHES] : "none");
    for (int i = 0; i < n; i++) {
        const bool here = !isnan(dots[i].x) && !isnan(dots[i].y);
        if (here)
            page_printf(p->page, "%c%.1f %.1f", pen ? 'L' : 'M', across(p, dots[i].x), down(p, dots[i].y));
        pen = here;
    }
    page_printf(p->page, "\"/>");
}

static double shown(double placed, bool log)
{
    return log ? pow(10, placed) : placed;
}

/* Dots where they are wanted, and where a value stands alone; elsewhere something to point at. */
static void draw_dots(const Plot *p, const Dot *dots, int n, int k)
{
    const char *name = p->lines[k].name;
    for (int i = 0; i < n; i++) {
        if (isnan(dots[i].x) || isnan(dots[i].y))
            continue;
        const bool alone = (!i || isnan(dots[i - 1].y)) && (i == n - 1 || isnan(dots[i + 1].y));
        const bool visible = p->axes->points || alone, titled = p->kind != NARROW && n <= MOST_TITLED;
        if (!visible && !titled)
            continue;
        page_printf(p->page, "<circle class=\"%sc%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"%s\"", visible ? "" : "h ",
                    k % COLOURS, across(p, dots[i].x), down(p, dots[i].y), visible ? "2.6" : "5");
        if (!titled) {
            page_printf(p->page, "/>");
            continue;
        }
        page_printf(p->page, "><title>");
        page_escaped(p->page, name);
        page_printf(p->page, "%s%.6g: %.6g</title></circle>", name && *name ? ", " : "",
                    shown(dots[i].x, p->axes->log_x), shown(dots[i].y, p->axes->log_y));
    }
}

static void draw_sample(const Plot *p, int k, double x, double y)
{
    page_printf(p->page, "<path class=\"l c%d\" stroke-dasharray=\"%s\" d=\"M%.1f %.1fh18\"/>", k % COLOURS,
                *dashes[k % DASHES] ? dashes[k % DASHES] : "none", x, y - 4);
}

static void draw_label(const Plot *p, int k, double x, double y, int most)
{
    draw_sample(p, k, x, y);
    page_printf(p->page, "<text x=\"%.1f\" y=\"%.1f\">", x + 23, y);
    page_clipped(p->page, p->lines[k].name ? p->lines[k].name : "", most);
    page_printf(p->page, "</text>\n");
}

/* ---- names ------------------------------------------------------------------------------- */

static bool is_named(const Plot *p)
{
    for (int k = 0; k < p->n; k++)
        if (p->lines[k].name && *p->lines[k].name)
            return p->n > 1;
    return false;
}

static int longest_name(const Plot *p)
{
    int most = 0;
    for (int k = 0; k < p->n; k++)
        if (p->lines[k].name)
            most = text_letters(p->lines[k].name) > most ? text_letters(p->lines[k].name) : most;
    return most < MOST_LABEL ? most : MOST_LABEL;
}

/* Do the names fit beside the lines' ends? */
static bool names_at_ends(const Plot *p)
{
    return p->wide && is_named(p) && p->n < (int)((p->bottom - p->top) / LABEL_STEP) &&
           p->n <= (int)(sizeof p->label / sizeof *p->label);
}

/* Columns of names below the plot. */
static int name_columns(const Plot *p)
{
    const int columns = (int)((p->width - 8) / (letter * longest_name(p) + 40));
    return columns < 1 ? 1 : columns > p->n ? p->n : columns;
}

/* Names at the lines' last values, moved apart until none covers another: down in order, then up from the
 * end. */
static void set_labels(Plot *p)
{
    int order[64];
    for (int k = 0; k < p->n; k++) {
        const Line *line = &p->lines[k];
        int i = line->n - 1;
        while (i >= 0 && isnan(place(line->y[i], p->axes->log_y)))
            i--;
        p->label[k] = i < 0 ? p->bottom : down(p, place(line->y[i], p->axes->log_y));
        int at = k;
        for (; at && p->label[order[at - 1]] > p->label[k]; at--)
            order[at] = order[at - 1];
        order[at] = k;
    }
    for (int i = 1; i < p->n; i++)
        p->label[order[i]] = fmax(p->label[order[i]], p->label[order[i - 1]] + LABEL_STEP);
    double limit = p->bottom;
    for (int i = p->n - 1; i >= 0; i--, limit -= LABEL_STEP)
        p->label[order[i]] = fmin(p->label[order[i]], limit);
}

static void draw_names(Plot *p)
{
    if (!is_named(p))
        return;
    if (names_at_ends(p)) {
        set_labels(p);
        for (int k = 0; k < p->n; k++)
            draw_label(p, k, p->right + 8, p->label[k] + 4, MOST_LABEL);
        return;
    }
    const int columns = name_columns(p), most = (int)((p->width / columns - 34) / letter);
    const double column = p->width / columns, top = p->bottom + (p->axes->x_label ? 54 : 38);
    for (int k = 0; k < p->n; k++)
        draw_label(p, k, 4 + column * (k % columns), top + 18 * (k / columns), most < 70 ? most : 70);
}

/* ---- one picture ------------------------------------------------------------------------- */

static void lay_out(Plot *p)
{
    p->width = p->wide ? 720 : 360;
    p->top = 12 + (p->axes->y_label ? 18 : 0) + (isfinite(p->axes->mark) && p->axes->mark_text ? 12 : 0);
    p->bottom = p->top + (p->wide ? 230 : 180);
    find_ranges(p);
    find_ticks(p);
    int most = 1;
    for (int i = 0; i < p->n_y; i++)
        most = (int)strlen(p->y_ticks[i].text) > most ? (int)strlen(p->y_ticks[i].text) : most;
    p->left = 12 + 7 * most;
    p->right = p->width - (names_at_ends(p) ? 38 + letter * longest_name(p) : 18);
    p->height = p->bottom + (p->axes->x_label ? 42 : 26);
    if (is_named(p) && !names_at_ends(p))
        p->height += 18 * ((p->n + name_columns(p) - 1) / name_columns(p)) + 6;
}

/* What stands before the plot: of a file of its own also style, ground and title. */
static void draw_head(const Plot *p)
{
    const bool alone = p->kind == ALONE;
    page_printf(p->page, "<svg %sclass=\"%s\" viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"",
                alone ? "xmlns=\"http://www.w3.org/2000/svg\" " : "", kinds[p->kind], p->width,
                p->height + (alone ? 26 : 0));
    page_escaped(p->page, p->axes->title);
    page_printf(p->page, "\">\n");
    if (!alone)
        return;
    page_printf(p->page, "<style>%s</style>\n<rect class=\"ground\" width=\"100%%\" height=\"100%%\"/>",
                plot_style);
    draw_text(p, "", 2, 18, p->axes->title ? p->axes->title : "");
    page_printf(p->page, "\n<g transform=\"translate(0 26)\">\n");
}

static void draw(Page *page, const Axes *axes, const Line *lines, int n, int kind)
{
    Plot *p = calloc(1, sizeof *p);
    Dot *dots = calloc(MOST_DOTS + 2, sizeof *dots);
    if (!p || !dots) {
        fail_memory(page_error(page));
    } else {
        *p = (Plot){.page = page, .axes = axes, .lines = lines, .n = n, .kind = kind};
        p->wide = kind == WIDE || kind == ALONE;
        lay_out(p);
        draw_head(p);
        draw_axes(p);
        for (int k = 0; k < n; k++) {
            const int m = thin(p, &lines[k], dots);
            draw_band(p, dots, m, k % COLOURS);
            draw_path(p, dots, m, k);
            draw_dots(p, dots, m, k);
        }
        draw_mark(p);
        draw_names(p);
        page_printf(page, kind == ALONE ? "</g>\n</svg>\n" : "</svg>\n");
    }
    free(p);
    free(dots);
}

static void begin_figure(Page *page, const char *title)
{
    page_printf(page, "<figure><figcaption>");
    page_escaped(page, title);
    page_printf(page, "</figcaption>\n");
}

void page_plot(Page *page, const Axes *axes, const Line *lines, int n)
{
    begin_figure(page, axes->title);
    draw(page, axes, lines, n, WIDE);
    draw(page, axes, lines, n, NARROW);
    page_printf(page, "</figure>\n");
}

void page_small_plot(Page *page, const Axes *axes, const Line *lines, int n)
{
    begin_figure(page, axes->title);
    draw(page, axes, lines, n, SMALL);
    page_printf(page, "</figure>\n");
}

int plot_write(const char *path, const Axes *axes, const Line *lines, int n, gimbal_error *err)
{
    Page *page = page_blank();
    if (!page)
        return fail_memory(err);
    draw(page, axes, lines, n, ALONE);
    return page_end(page, path, "", err);
}
