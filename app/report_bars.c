/* report_bars.c: values with their intervals as a forest plot in inline SVG: one row each, around a line at
 * zero.
 *
 *     wide:    name | ----o---- | value [low, high]        narrow:  name      value [low, high]
 *     (note)                                                        ---------o--------------
 *
 * Whether an interval leaves zero out is told by the dot, filled or hollow, not by colour alone.
 * Refuses to know how intervals are made. */
#include "app/measure.h"

#include <math.h>
#include <string.h>

typedef struct {
    Page *page;
    bool wide;
    double width, left, right; /* the picture; the plot's sides inside it */
    double row;                /* height of one */
    double low, high, zero;    /* values at the sides, and the line's */
} Forest;

static bool is_interval(const Bar *b)
{
    return isfinite(b->low) && isfinite(b->high) && b->low <= b->high && fabs(b->low) < 1e300 &&
           fabs(b->high) < 1e300;
}

static bool is_value(const Bar *b)
{
    return isfinite(b->value) && fabs(b->value) < 1e300;
}

static double across(const Forest *f, double v)
{
    return f->left + (v - f->low) / (f->high - f->low) * (f->right - f->left);
}

static void find_range(Forest *f, const Bar *bars, int n)
{
    f->low = f->high = f->zero;
    for (int i = 0; i < n; i++) {
        if (is_value(&bars[i]))
            f->low = fmin(f->low, bars[i].value), f->high = fmax(f->high, bars[i].value);
        if (is_value(&bars[i]) && is_interval(&bars[i]))
            f->low = fmin(f->low, bars[i].low), f->high = fmax(f->high, bars[i].high);
    }
    const double span = f->high - f->low;
    const double room = span > 1e-12 * fabs(f->zero) && span > 1e-290 ? .04 * span : fmax(fabs(f->zero), 1);
    f->low -= room, f->high += room;
}

static void name_text(const Forest *f, const char *name, double y, int most, const char *classes)
{
    page_printf(f->page, "<text class=\"%s\" x=\"2\" y=\"%.1f\">", classes, y);
    page_clipped(f->page, name ? name : "", most);
    page_printf(f->page, "</text>");
}

static void draw_bar(const Forest *f, const Bar *b, double top)
{
    const double y = top + (f->wide ? 14 : 30);
    if (!f->wide) /* a piece of the line for each: the words above stay free */
        page_printf(f->page, "<path class=\"axis\" d=\"M%.1f %.1fv16\"/>", across(f, f->zero), y - 8);
    const bool interval = is_interval(b), leaves = interval && (b->low > f->zero || b->high < f->zero);
    name_text(f, b->name, top + 18, f->wide ? 24 : 26, "");
    page_printf(f->page, "<text class=\"e\" x=\"%.1f\" y=\"%.1f\">", f->width - 2, top + 18);
    if (is_value(b))
        page_printf(f->page, "%.4g", b->value);
    else
        page_printf(f->page, "not defined");
    if (is_value(b) && interval)
        page_printf(f->page, " [%.3g, %.3g]", b->low, b->high);
    page_printf(f->page, "</text>");
    if (is_value(b)) {
        if (interval)
            page_printf(f->page, "<path class=\"l c0\" d=\"M%.1f %.1fv8m0 -4H%.1fm0 -4v8\"/>",
                        across(f, b->low), y - 4, across(f, b->high));
        page_printf(f->page, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" stroke-width=\"1.8\"/>",
                    leaves ? "c0" : "hollow c0", across(f, b->value), y);
    }
    if (b->note && *b->note)
        name_text(f, b->note, top + (f->wide ? 34 : 48), f->wide ? 100 : 52, "soft");
    page_printf(f->page, "\n");
}

static double rows_height(const Forest *f, const Bar *bars, int n)
{
    double height = 0;
    for (int i = 0; i < n; i++)
        height += f->row + (bars[i].note && *bars[i].note ? 16 : 0);
    return height;
}

static void draw(Page *page, const char *title, double zero, const Bar *bars, int n, bool wide)
{
    Forest f = {.page = page, .wide = wide, .width = wide ? 720 : 360, .row = wide ? 28 : 40, .zero = zero};
    f.left = wide ? 180 : 8, f.right = wide ? 510 : 352;
    find_range(&f, bars, n);
    const double height = rows_height(&f, bars, n);
    page_printf(page, "<svg class=\"plot %s\" viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"",
                wide ? "wide" : "narrow", f.width, height + 26);
    page_escaped(page, title);
    page_printf(page, "\">\n");
    if (wide)
        page_printf(page, "<path class=\"axis\" d=\"M%.1f 2V%.1f\"/>", across(&f, zero), height + 6);
    page_printf(page, "<text class=\"c soft\" x=\"%.1f\" y=\"%.1f\">%.4g</text>\n", across(&f, zero),
                height + 20, zero);
    double top = 0;
    for (int i = 0; i < n; i++) {
        draw_bar(&f, &bars[i], top);
        top += f.row + (bars[i].note && *bars[i].note ? 16 : 0);
    }
    page_printf(page, "</svg>\n");
}

void page_bars(Page *page, const char *title, double zero, const Bar *bars, int n)
{
    page_printf(page, "<figure><figcaption>");
    page_escaped(page, title);
    page_printf(page, "</figcaption>\n");
    draw(page, title, zero, bars, n, true);
    draw(page, title, zero, bars, n, false);
    page_printf(page, "</figure>\n");
}
