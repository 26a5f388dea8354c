/* report_picture.c: pictures inside a page: PNG bytes in base64 as the source of an <img>.
 *
 * Also what pictures need before: smaller ones, colours for heat maps and their scale. RGB8,
 * [height][width][3]. Refuses to know clips. */
#include "app/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- smaller ----------------------------------------------------------------------------- */

void fit_size(int width, int height, int side, int *w, int *h)
{
    const int longest = width > height ? width : height;
    const double scale = longest > side ? (double)side / longest : 1;
    *w = (int)fmax(1, rint(width * scale)), *h = (int)fmax(1, rint(height * scale));
}

/* Where box i of n begins, of `all` pixels. */
static int box(int i, int n, int all)
{
    return (int)((int64_t)i * all / n);
}

void shrink(const uint8_t *rgb, int width, int height, uint8_t *out, int w, int h)
{
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            const int y0 = box(y, h, height), y1 = box(y + 1, h, height), x0 = box(x, w, width),
                      x1 = box(x + 1, w, width);
            const uint64_t count = (uint64_t)(y1 - y0) * (uint64_t)(x1 - x0);
            uint64_t sum[3] = {count / 2, count / 2, count / 2};
            for (int i = y0; i < y1; i++)
                for (int j = x0; j < x1; j++)
                    for (int c = 0; c < 3; c++)
                        sum[c] += rgb[3 * ((size_t)i * (size_t)width + (size_t)j) + (size_t)c];
            for (int c = 0; c < 3; c++)
                *out++ = (uint8_t)(sum[c] / count);
        }
}

bool shrink_to(Picture *out, const uint8_t *rgb, int width, int height, int side, int frame)
{
    fit_size(width, height, side, &out->width, &out->height);
    out->frame = frame;
    out->rgb = malloc(3 * (size_t)out->width * (size_t)out->height);
    if (out->rgb)
        shrink(rgb, width, height, out->rgb, out->width, out->height);
    return out->rgb != NULL;
}

/* ---- colours ----------------------------------------------------------------------------- */

static const uint8_t heats[][3] = {{6, 6, 12}, {64, 22, 104}, {172, 48, 96}, {238, 132, 52}, {252, 246, 200}};
enum { HEATS = sizeof heats / sizeof *heats };

void heat_colour(double share, uint8_t rgb[3])
{
    const double at = fmin(fmax(share, 0), 1) * (HEATS - 1);
    const int i = at < HEATS - 2 ? (int)at : HEATS - 2;
    for (int c = 0; c < 3; c++)
        rgb[c] = (uint8_t)rint(heats[i][c] + (at - i) * (heats[i + 1][c] - heats[i][c]));
}

/* Steps instead of a gradient, which would need a name of its own in the page. */
void page_heat_scale(Page *page, double most, const char *unit)
{
    enum { STEPS = 50, WIDTH = 300 };
    page_printf(
        page,
        "<svg class=\"plot\" viewBox=\"0 0 320 30\" role=\"img\" aria-label=\"scale from 0, dark, to %.3g "
        "%s, bright\">",
        most, unit);
    for (int i = 0; i < STEPS; i++) {
        uint8_t c[3];
        heat_colour((i + .5) / STEPS, c);
        page_printf(page, "<rect x=\"%d\" width=\"7\" height=\"10\" fill=\"#%02x%02x%02x\"/>",
                    i * WIDTH / STEPS, c[0], c[1], c[2]);
    }
    page_printf(page,
                "<text class=\"soft\" x=\"0\" y=\"25\">0</text><text class=\"e soft\" x=\"%d\" y=\"25\">%.3g "
                "%s</text>"
                "</svg>\n",
                WIDTH, most, unit);
}

/* ---- into the page ----------------------------------------------------------------------- */

/* RFC 4648, section 4 */
static char *base64(const uint8_t *bytes, size_t n, size_t *length)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    *length = (n + 2) / 3 * 4;
    char *text = malloc(*length + 1), *to = text;
    for (size_t i = 0; text && i < n; i += 3) {
        const size_t rest = n - i;
        const uint32_t v = (uint32_t)bytes[i] << 16 | (rest > 1 ? (uint32_t)bytes[i + 1] << 8 : 0) |
                           (rest > 2 ? bytes[i + 2] : 0);
        *to++ = digits[v >> 18], *to++ = digits[v >> 12 & 63];
        *to++ = rest > 1 ? digits[v >> 6 & 63] : '=', *to++ = rest > 2 ? digits[v & 63] : '=';
    }
    return text;
}

void page_image(Page *page, const uint8_t *rgb, int width, int height, const char *alt)
{
    uint8_t *png;
    size_t size, length;
    if (page_error(page)->code || media_png(rgb, width, height, &png, &size, page_error(page)))
        return;
    char *text = base64(png, size, &length);
    free(png);
    if (!text) {
        fail_memory(page_error(page));
        return;
    }
    page_printf(page, "<img width=\"%d\" height=\"%d\" alt=\"", width, height);
    page_escaped(page, alt);
    page_printf(page, "\" src=\"data:image/png;base64,");
    page_raw(page, text, length);
    page_printf(page, "\">");
    free(text);
}

void page_picture(Page *page, const uint8_t *rgb, int width, int height, const char *caption)
{
    page_printf(page, "<figure>");
    page_image(page, rgb, width, height, caption ? caption : "");
    page_printf(page, "<figcaption>");
    page_escaped(page, caption);
    page_printf(page, "</figcaption></figure>\n");
}
