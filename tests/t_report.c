/* t_report.c: pages of HTML (app/report*.c): every page is well-formed whatever its texts and numbers are,
 * plots keep peaks and gaps, names stand apart, pictures come back bit by bit, a clip's view finds what it
 * should, and a page is there whole or not at all. The program's files are compiled in. */
#include "app/report.h"
#include "tests/check.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* As the program's own, which stand in a file that needs all of it. */
int complain(gimbal_error *err, int code, const char *hint, const char *fmt, ...)
{
    va_list args;
    if (err->code)
        return code;
    va_start(args, fmt);
    vsnprintf(err->msg, sizeof err->msg, fmt, args);
    va_end(args);
    snprintf(err->hint, sizeof err->hint, "%s", hint ? hint : "");
    return err->code = code;
}

int fail_memory(gimbal_error *err)
{
    return complain(err, GIMBAL_ENOMEM, NULL, "out of memory");
}

/* ---- reading pages ----------------------------------------------------------------------- */

static char *folder(void)
{
    static char name[64];
    snprintf(name, sizeof name, "/tmp/gimbal-report-%d", (int)getpid());
    mkdir(name, 0700);
    return name;
}

static char *file_in_folder(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder(), name);
    return path;
}

static char *text_of(const char *path)
{
    FILE *f = fopen(path, "rb");
    check(f != NULL, "%s", path);
    fseek(f, 0, SEEK_END);
    const long n = ftell(f);
    rewind(f);
    char *text = malloc((size_t)n + 1);
    check(fread(text, 1, (size_t)n, f) == (size_t)n, "%s", path);
    text[n] = 0;
    fclose(f);
    return text;
}

static int files_left(void)
{
    DIR *d = opendir(folder());
    int n = 0;
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.' || strlen(e->d_name) > 2;
    closedir(d);
    return n;
}

static bool starts(const char *s, const char *with)
{
    return !strncmp(s, with, strlen(with));
}

static bool is_void(const char *name)
{
    return !strcmp(name, "meta") || !strcmp(name, "img") || !strcmp(name, "!DOCTYPE");
}

static void check_entity(const char *s)
{
    check(starts(s, "&lt;") || starts(s, "&gt;") || starts(s, "&amp;") || starts(s, "&quot;") ||
              starts(s, "&#39;"),
          "a bare & at \"%.40s\"", s);
}

/* Past a tag's end; its attributes are quoted, without < and without numbers that are none. */
static const char *check_attributes(const char *s, bool *closed)
{
    for (; *s != '>'; s++) {
        check(*s && *s != '<', "a tag without end at \"%.40s\"", s);
        if (*s != '"')
            continue;
        const char *value = ++s;
        for (; *s != '"'; s++) {
            check(*s && *s != '<' && *s != '>', "an attribute without end: \"%.40s\"", value);
            if (*s == '&')
                check_entity(s);
        }
        const bool drawn =
            starts(value - 3, "d=\"") || starts(value - 3, "x=\"") || starts(value - 3, "y=\"");
        for (const char *c = value; drawn && c < s; c++)
            check(!starts(c, "nan") && !starts(c, "inf"), "coordinates without value: %.60s", value);
    }
    *closed = s[-1] == '/';
    return s + 1;
}

/* Every tag that is opened is closed, in order. */
static void check_well_formed(const char *text)
{
    char open[64][16];
    int depth = 0, tags = 0;
    for (const char *s = text; *s;) {
        if (*s == '&')
            check_entity(s);
        check(*s != '>', "a bare > at \"%.40s\"", s);
        if (*s != '<') {
            s++;
            continue;
        }
        const bool end = s[1] == '/';
        const size_t n = strcspn(s + 1 + end, " />\n");
        char name[16];
        check(n > 0 && n < sizeof name, "no tag at \"%.40s\"", s);
        snprintf(name, sizeof name, "%.*s", (int)n, s + 1 + end);
        bool closed;
        const char *after = check_attributes(s + 1 + end, &closed);
        tags++;
        if (end)
            check(depth > 0 && !strcmp(open[--depth], name), "</%s> closes <%.15s>", name,
                  depth >= 0 ? open[depth] : "");
        else if (!closed && !is_void(name)) {
            check(depth < 64, "too deep");
            strcpy(open[depth++], name);
        }
        s = !end && !strcmp(name, "style") ? strstr(after, "</style>") : after;
    }
    check(depth == 0, "<%s> is never closed", open[depth > 0 ? depth - 1 : 0]);
    check(tags > 0, "no tags at all");
}

/* Writes the page, checks it, gives its text; caller frees. */
static char *finished(Page *page)
{
    gimbal_error err = {0};
    char *path = file_in_folder("page.html");
    check_ok(page_write(page, path, &err), err);
    char *text = text_of(path);
    check_well_formed(text);
    check(!strstr(text, "http") && !strstr(text, "url(") && !strstr(text, "<script"),
          "the page asks for more than it has");
    unlink(path);
    rmdir(folder());
    return text;
}

static Page *page_of(const char *title)
{
    Page *page = page_begin(title, "What the page shows.");
    assert_non_null(page);
    return page;
}

static int count_of(const char *text, const char *what)
{
    int n = 0;
    for (const char *s = text; (s = strstr(s, what)); s += strlen(what))
        n++;
    return n;
}

/* ---- texts and tables -------------------------------------------------------------------- */

static void texts_are_escaped(void **state)
{
    (void)state;
    Page *page = page_of("<script>alert(\"a\" & 'b')</script>");
    page_heading(page, "%s",
                 "a\x80"
                 "b \xC3\xA4 \xE2\x82\xAC \xF0\x9F\x8E\xA5 \xC0\xAF \xED\xA0\x80 \xF4\x90\x80\x80 \xE2\x82");
    page_text(page, "bell\a zero-width \x7F tab\t line\n%s", "100 %s &amp;");
    char *text = finished(page);
    assert_non_null(
        strstr(text, "<title>&lt;script&gt;alert(&quot;a&quot; &amp; &#39;b&#39;)&lt;/script&gt;</title>"));
    assert_null(strstr(text, "<script"));
    /* one replacement for each byte that begins no character */
    assert_non_null(strstr(text, "<h2>a\xEF\xBF\xBD"
                                 "b \xC3\xA4 \xE2\x82\xAC \xF0\x9F\x8E\xA5 \xEF\xBF\xBD\xEF\xBF\xBD "));
    assert_non_null(strstr(text, "bell\xEF\xBF\xBD zero-width \xEF\xBF\xBD tab\t line\n100 %s &amp;amp;"));
    assert_non_null(strstr(text, "<html lang=\"en\">"));
    free(text);
}

static void tables_align_numbers(void **state)
{
    (void)state;
    const char *cells[] = {
        "name", "value",   "interval",     "note",  "a<b", "0.5", "[-1, 2]", "3 of 4 went well, a long story",
        "c",    "!1e-3 %", "\xE2\x80\x93", "infos", NULL,  "-",   "",        "12"};
    Page *page = page_of("tables");
    page_table(page, 4, 4, cells, "what <it> shows");
    page_table(page, 1, 2, cells, NULL);
    page_table(page, 0, 0, cells, NULL);
    char *text = finished(page);
    assert_non_null(strstr(text, "<th scope=\"col\">name</th><th scope=\"col\" class=\"r\">value</th>"));
    assert_non_null(
        strstr(text, "<td>a&lt;b</td><td class=\"r\">0.5</td><td class=\"r\">[-1, 2]</td><td>3 of"));
    assert_non_null(strstr(text, "<td class=\"r m\">1e-3 %</td>"));
    assert_non_null(strstr(text, "<td></td><td class=\"r\">-</td>"));
    assert_non_null(strstr(text, "<caption>what &lt;it&gt; shows</caption>"));
    assert_int_equal(count_of(text, "<table>"), 2);
    free(text);
}

/* ---- plots ------------------------------------------------------------------------------- */

static char *plot_of(const Axes *axes, const Line *lines, int n)
{
    Page *page = page_of("plot");
    page_plot(page, axes, lines, n);
    return finished(page);
}

static const Axes plain = {.title = "t & u", .x_label = "frame", .y_label = "<y>", .mark = NAN};

static void plots_take_any_numbers(void **state)
{
    (void)state;
    static const double sets[][4] = {
        {0, 0, 0, 0},
        {NAN, NAN, NAN, NAN},
        {1e308, -1e308, 1, INFINITY},
        {9e299, -9e299, 1, -INFINITY},
        {5e-324, 0, 1e-310, 5e-324},
        {5e-324, 5e-324, 5e-324, 5e-324},
        {1e-300, 2e-300, 3e-300, 1e-300},
        {1e9, 1e9 + 1e-6, 1e9, 1e9},
        {-3, NAN, 4, 1e-9},
        {1e15, 1e15 + 8, 1e15 + 3, 1e15},
    };
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        for (int kind = 0; kind < 8; kind++)
            for (int n = 0; n <= 4; n += n ? 3 : 1) {
                Axes axes = plain;
                axes.log_x = kind & 1, axes.log_y = kind & 2, axes.points = kind & 4;
                axes.mark = sets[i][1], axes.mark_text = "mark";
                const Line lines[] = {{"one", kind & 1 ? sets[i] : NULL, sets[i], NULL, NULL, n},
                                      {"two", NULL, sets[(i + 1) % 10], sets[i], sets[8], n}};
                free(plot_of(&axes, lines, 2));
            }
    char *text = plot_of(&plain, NULL, 0);
    assert_int_equal(count_of(text, "no values"), 2);
    assert_int_equal(count_of(text, "<svg"), 2); /* wide and narrow */
    free(text);
}

static void plots_have_round_ticks(void **state)
{
    (void)state;
    const double y[] = {0, 1, .4}, decades[] = {1e-6, 1, 1e4}, few[] = {1, 30, 9};
    Line line = {NULL, NULL, y, NULL, NULL, 3};
    char *text = plot_of(&plain, &line, 1);
    static const char *const fifths[] = {">0.0<", ">0.2<", ">0.4<", ">0.6<", ">0.8<", ">1.0<"};
    for (int i = 0; i < 6; i++)
        check(strstr(text, fifths[i]) != NULL, "tick %s", fifths[i]);
    check(strstr(text, ">0<") && strstr(text, ">1<") && strstr(text, ">2<") && !strstr(text, ">0.5<"),
          "whole frames");
    free(text);
    Axes axes = plain;
    axes.log_y = true;
    line.y = decades;
    text = plot_of(&axes, &line, 1);
    check(strstr(text, ">1e-6<") && strstr(text, ">1e4<") && strstr(text, ">1<"), "decades");
    free(text);
    line.y = few;
    text = plot_of(&axes, &line, 1);
    check(strstr(text, ">2<") && strstr(text, ">5<") && strstr(text, ">10<") && strstr(text, ">20<"),
          "1, 2, 5");
    free(text);
}

static void gaps_break_the_line(void **state)
{
    (void)state;
    const double y[] = {1, 2, NAN, 3, NAN, 4, 5};
    const Line line = {NULL, NULL, y, NULL, NULL, 7};
    char *text = plot_of(&plain, &line, 1), *path = strstr(text, "class=\"l c0\"");
    path = strstr(path, " d=\"") + 4;
    *strchr(path, '"') = 0;
    assert_int_equal(count_of(path, "M"), 3);
    assert_int_equal(count_of(path, "L"), 2);
    check(strstr(path + strlen(path) + 1, "r=\"2.6\"") != NULL, "the value that stands alone has no dot");
    free(text);
}

/* A million values, one of them a peak, some of them missing; in order and not. */
static void long_lines_keep_peaks(void **state)
{
    (void)state;
    enum { N = 1000000 };
    double *x = malloc(N * sizeof *x), *y = calloc(N, sizeof *y);
    for (int i = 0; i < N; i++)
        x[i] = 1 + i;
    y[777777] = 1;
    for (int i = 300000; i < 310000; i++)
        y[i] = NAN;
    for (int kind = 0; kind < 3; kind++) {
        Axes axes = plain;
        axes.log_x = kind == 1, axes.points = kind == 2;
        if (kind == 2)
            x[5] = 1e6; /* not sorted */
        const Line line = {"long", x, y, NULL, NULL, N};
        char *text = plot_of(&axes, &line, 1);
        /* y from -.05 to 1.05 over 230 units above 260: 1 is at 40.5 */
        check(count_of(text, " 40.5L") >= 1, "kind %d: the peak is lost", kind);
        check(strlen(text) < 300000, "kind %d: %zu bytes", kind, strlen(text));
        char *path = strstr(strstr(text, "class=\"l c0 fine\""), " d=\"");
        *strchr(path + 4, '"') = 0;
        check(count_of(path, "L") < 1000, "kind %d: %d points", kind, count_of(path, "L"));
        check(count_of(path, "M") == 2 || axes.log_x, "kind %d: %d pieces", kind, count_of(path, "M"));
        free(text);
    }
    free(x);
    free(y);
}

static void names_stand_apart(void **state)
{
    (void)state;
    enum { MOST = 14 };
    double y[MOST][2];
    char names[MOST][64];
    Line lines[MOST];
    for (int n = 2; n <= MOST; n += 3) {
        for (int i = 0; i < n; i++) {
            y[i][0] = i, y[i][1] = i % 3 ? .5 : 1e-3 * i;
            snprintf(names[i], sizeof names[i], "line & number %d, %s", i,
                     i ? "short" : "of very many words");
            lines[i] = (Line){names[i], NULL, y[i], NULL, NULL, 2};
        }
        char *text = plot_of(&plain, lines, n);
        char *wide_end = strstr(text, "</svg>");
        double at[MOST];
        int found = 0;
        for (char *s = text; (s = strstr(s, "<text x=\"")) && s < wide_end; s++) {
            double x;
            check(sscanf(s, "<text x=\"%lf\" y=\"%lf\"", &x, &at[found]) == 2, "%.40s", s);
            check(at[found] > 0 && at[found] < 310, "name at %g", at[found]);
            for (int k = 0; k < found; k++)
                check(fabs(at[k] - at[found]) > 14.8, "%d lines: names at %g and %g", n, at[k], at[found]);
            found++;
        }
        check(found == n, "%d names of %d", found, n);
        check(strstr(text, "<title>line &amp; number 0, of very many words</title>") != NULL,
              "the whole name");
        free(text);
    }
}

static void bands_and_marks(void **state)
{
    (void)state;
    const double x[] = {1, 10, 100, 1000}, y[] = {1, 2, 3, 4}, low[] = {0, 1, NAN, 3}, high[] = {2, 3, 4, 5};
    const Line line = {"band", x, y, low, high, 4};
    const Axes axes = {"log", "x", "y", true, true, true, 10, "half & half"};
    char *text = plot_of(&axes, &line, 1);
    assert_int_equal(count_of(text, "class=\"b c0\""), 2); /* 0..1, in both pictures; 3 alone is no band */
    assert_non_null(strstr(text, "half &amp; half"));
    assert_int_equal(count_of(text, "class=\"mark\""), 2);
    assert_non_null(strstr(text, "<title>band, 100: 3</title>"));
    free(text);
}

static void plot_file_is_whole(void **state)
{
    (void)state;
    gimbal_error err = {0};
    const double y[] = {1, 2, 4};
    const Line lines[] = {{"a", NULL, y, NULL, NULL, 3}, {"b<", NULL, y, NULL, NULL, 2}};
    char *path = file_in_folder("plot.svg");
    check_ok(plot_write(path, &plain, lines, 2, &err), err);
    char *text = text_of(path);
    check_well_formed(text);
    check(starts(text, "<svg xmlns=\"http://www.w3.org/2000/svg\""), "%.60s", text);
    assert_int_equal(count_of(text, "<svg"), 1);
    free(text);
    check_fails(plot_write("/nowhere/at/all.svg", &plain, lines, 2, &err), GIMBAL_EIO, err,
                "/nowhere/at/all.svg");
    unlink(path);
    assert_int_equal(files_left(), 0);
    rmdir(folder());
}

static void bars_take_any_numbers(void **state)
{
    (void)state;
    const Bar bars[] = {{"clear & sound", .5, .2, .8, "36 pairs, p = .01 <"},
                        {"crosses", -.1, -.4, .2, NULL},
                        {NULL, NAN, 1, 2, "nothing to compare"},
                        {"no interval", 1, NAN, INFINITY, ""},
                        {"huge", 1e308, -1e308, 1e308, NULL},
                        {"turned round", 1, 2, -2, NULL}};
    Page *page = page_of("bars");
    page_bars(page, "differences", 0, bars, 6);
    page_bars(page, "none", 0, bars, 0);
    page_bars(page, "the same", 3, (Bar[]){{"three", 3, 3, 3, NULL}}, 1);
    char *text = finished(page);
    assert_non_null(strstr(text, ">0.5 [0.2, 0.8]<"));
    assert_int_equal(count_of(text, "not defined"), 2 * 2);
    assert_int_equal(count_of(text, "<circle class=\"c0\""),
                     2); /* only "clear" leaves zero out, drawn twice */
    assert_int_equal(count_of(text, "hollow c0"), 2 * 4);
    free(text);
}

/* ---- pictures ---------------------------------------------------------------------------- */

static int digit_of(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = strchr(digits, c);
    check(c && at, "'%c' in base64", c);
    return (int)(at - digits);
}

/* The picture behind the n-th "base64," of a page, decoded by media.h: *rgb, caller frees. */
static void picture_of(const char *text, int n, uint8_t **rgb, int *width, int *height)
{
    const char *s = text;
    for (int i = 0; i <= n; i++, s += 7)
        check((s = strstr(s, "base64,")) != NULL, "no picture %d", i);
    char *path = file_in_folder("picture.png");
    FILE *f = fopen(path, "wb");
    for (; *s != '"'; s += 4) {
        const int v = digit_of(s[0]) << 18 | digit_of(s[1]) << 12 | (s[2] == '=' ? 0 : digit_of(s[2])) << 6 |
                      (s[3] == '=' ? 0 : digit_of(s[3]));
        fputc(v >> 16, f);
        if (s[2] != '=')
            fputc(v >> 8 & 255, f);
        if (s[3] != '=')
            fputc(v & 255, f);
    }
    fclose(f);
    gimbal_error err = {0};
    media_reader *in;
    media_info info;
    check_ok(media_open(&in, path, &info, &err), err);
    *rgb = malloc(3 * (size_t)info.width * (size_t)info.height);
    check(media_get(in, *rgb, &err) == 1, "%.400s", err.msg);
    media_free(in);
    *width = info.width, *height = info.height;
    unlink(path);
    rmdir(folder());
}

static void pictures_come_back(void **state)
{
    (void)state;
    for (int width = 1; width < 40; width += 13) {
        const int height = 11;
        uint8_t rgb[3 * 40 * 11], *back;
        int w, h;
        for (int i = 0; i < 3 * width * height; i++)
            rgb[i] = (uint8_t)(i * 7919 >> 3);
        Page *page = page_of("picture");
        page_picture(page, rgb, width, height, "a \"picture\"");
        char *text = finished(page);
        assert_non_null(strstr(text, "alt=\"a &quot;picture&quot;\""));
        picture_of(text, 0, &back, &w, &h);
        assert_int_equal(w, width);
        assert_int_equal(h, height);
        assert_memory_equal(rgb, back, (size_t)(3 * width * height));
        free(back);
        free(text);
    }
}

static void impossible_pictures_fail(void **state)
{
    (void)state;
    gimbal_error err = {0};
    uint8_t pixel[3] = {0}, *png;
    size_t n;
    check_fails(media_png(pixel, 0, 1, &png, &n, &err), GIMBAL_EUSAGE, err, "0x1");
    assert_null(png);
    check_fails(media_png(pixel, 1, 1 << 20, &png, &n, &err), GIMBAL_EUSAGE, err, "1048576");
    Page *page = page_of("picture");
    page_picture(page, pixel, -1, 1, "none");
    page_text(page, "more"); /* the first error is kept */
    char *path = file_in_folder("page.html");
    check_fails(page_write(page, path, &err), GIMBAL_EUSAGE, err, "-1x1");
    assert_int_equal(files_left(), 0);
    rmdir(folder());
}

static void shrinking_averages(void **state)
{
    (void)state;
    const uint8_t rgb[] = {0, 0, 0, 10, 20, 30, 100, 100, 100, 20, 40, 60, 30, 60, 90, 200, 200, 200};
    const uint8_t want[] = {15, 30, 45, 150, 150, 150};
    uint8_t out[6];
    shrink(rgb, 3, 2, out, 2, 1); /* boxes of one and two columns */
    assert_int_equal(out[0], 10);
    int w, h;
    fit_size(640, 360, 320, &w, &h);
    assert_int_equal(w, 320);
    assert_int_equal(h, 180);
    fit_size(16384, 1, 320, &w, &h);
    assert_int_equal(w, 320);
    assert_int_equal(h, 1);
    const uint8_t square[] = {0, 0, 0, 10, 20, 30, 20, 40, 60, 30, 60, 90};
    shrink(square, 2, 2, out, 1, 1);
    assert_memory_equal(out, want, 3);
    uint8_t last = 0, colour[3];
    for (int i = 0; i <= 20; i++) { /* lightness grows all the way */
        heat_colour(i / 20., colour);
        const double luma = .299 * colour[0] + .587 * colour[1] + .114 * colour[2];
        check(luma > last || !i, "heat %d: luma %g after %d", i, luma, last);
        last = (uint8_t)luma;
    }
}

/* ---- a clip's view ----------------------------------------------------------------------- */

enum { SIDE = 24 };

/* A bright bar that moves to the right over grey, one pixel a frame; at frame `flash` everything is brighter.
 */
static void draw_frame(uint8_t *rgb, int i, int flash)
{
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++)
            memset(rgb + 3 * (y * SIDE + x), (x == i % SIDE ? 200 : 90) + (i == flash ? 40 : 0), 3);
}

static ClipView *view_of(int frames, int flash, int most)
{
    uint8_t rgb[3 * SIDE * SIDE];
    gimbal_error err = {0};
    ClipView *v = clip_view_new(most);
    for (int i = 0; i < frames; i++) {
        draw_frame(rgb, i, flash);
        check_ok(clip_view_see(v, i, rgb, SIDE, SIDE, &err), err);
    }
    return v;
}

static Measured measured_of(int frames, gimbal_score *scores, int n)
{
    return (Measured){.path = "a <clip> & \xFF.mp4",
                      .frames = frames,
                      .width = SIDE,
                      .height = SIDE,
                      .fps = 24,
                      .n = n,
                      .scores = scores,
                      .recipe = "{\"prompt\": \"</pre><script>\"}"};
}

static void views_find_the_largest_change(void **state)
{
    (void)state;
    ClipView *v = view_of(50, 31, 8);
    assert_int_equal(v->before.frame, 30); /* into the flash: no later pair is larger */
    assert_int_equal(v->after.frame, 31);
    /* the bar leaves one column and enters the next, 110 grey levels each, both 40 brighter after */
    check_near(v->change[31], (40 * 22 + 70 + 150) / 24., 1e-9, "change");
    check_near(v->luma[0], (23 * 90 + 200) / 24., 1e-9, "luma");
    assert_true(isnan(v->change[0]));
    check_near(v->heat[0], 40, 1e-4, "heat at the left");
    check_near(v->heat[7], 150, 1e-4, "heat where the bar arrives");
    assert_int_equal(v->n_slices, 50);
    for (int i = 0; i < 50; i++)
        for (int x = 0; x < SIDE; x++)
            assert_int_equal(v->across[3 * (i * SIDE + x)], (x == i % SIDE ? 200 : 90) + (i == 31 ? 40 : 0));
    clip_view_free(v);
}

static void views_stay_small(void **state)
{
    (void)state;
    enum { LONG = 5000 };
    ClipView *v = view_of(LONG, 4321, 5);
    check(v->n_slices > MOST_SLICES / 2 && v->n_slices <= MOST_SLICES, "%d slices", v->n_slices);
    assert_int_equal(v->slice_stride, 8);
    check(v->n_thumbs >= 10 && v->n_thumbs <= 20, "%d thumbnails", v->n_thumbs);
    for (int i = 0; i < v->n_thumbs; i++)
        assert_int_equal(v->thumbs[i].frame, i * v->thumb_stride);
    for (int i = 0; i < v->n_slices; i++)
        assert_int_equal(v->across[3 * (i * SIDE + 8 * i % SIDE)], 200);
    assert_int_equal(v->after.frame, 4321);
    double values[LONG];
    for (int i = 0; i < LONG; i++)
        values[i] = i ? sin(i * .01) : NAN;
    gimbal_score score = {
        .name = "a_score", .metric = "m", .definition = "d", .better = 1, .value = .5, .values = values};
    const Measured m = measured_of(LONG, &score, 1);
    Page *page = page_of("long");
    page_clip(page, v, &m);
    char *text = finished(page);
    check(strlen(text) < 500000, "%zu bytes", strlen(text));
    free(text);
    clip_view_free(v);
}

static void clip_pages_show_all(void **state)
{
    (void)state;
    double values[50] = {NAN, 1, 2};
    gimbal_score scores[] = {
        {.name = "smooth<ness",
         .metric = "m",
         .definition = "d",
         .better = -1,
         .value = .25,
         .values = values},
        {.name = "missing", .metric = "m", .definition = "d", .value = NAN, .why = "one & only frame"}};
    const Measured m = measured_of(50, scores, 2);
    ClipView *v = view_of(50, 31, 8);
    Page *page = page_of("clip");
    page_clip(page, v, &m);
    char *text = finished(page);
    assert_non_null(strstr(text, "<h2>a &lt;clip&gt; &amp; \xEF\xBF\xBD.mp4</h2>"));
    assert_non_null(strstr(text, "&lt;/pre&gt;&lt;script&gt;"));
    assert_non_null(strstr(text, "one &amp; only frame"));
    assert_non_null(strstr(text, "smooth&lt;ness (clip: 0.25)"));
    assert_int_equal(count_of(text, "<li class=\"m\">"), 2);
    /* 8 and the pair, minus one where the pair has them; two, their difference, two slices */
    const int sheet = count_of(text, "<li");
    check(sheet >= 8 && sheet <= 10, "%d frames on the sheet", sheet);
    assert_int_equal(count_of(text, "<img"), sheet + 3 + 2);
    assert_int_equal(count_of(text, "alt=\"\""), 0);
    assert_int_equal(count_of(text, "svg class=\"plot\""), 1 + 3); /* heat's scale; luma, change, the score */
    assert_int_equal(count_of(text, "svg class=\"plot wide\""), 1); /* spectrum */
    uint8_t *rgb;
    int w, h;
    picture_of(text, sheet + 3, &rgb, &w, &h); /* the slice of rows: time to the right, x downwards */
    assert_int_equal(h, SIDE);
    assert_int_equal(w, 50 * 9);
    for (int i = 0; i < 24; i++)
        assert_int_equal(rgb[3 * ((size_t)i * (size_t)w + (size_t)i * 9)], 200);
    free(rgb);
    free(text);
    clip_view_free(v);
}

static void short_and_frozen_clips(void **state)
{
    (void)state;
    for (int frames = 0; frames <= 3; frames++) {
        const Measured m = measured_of(frames, NULL, 0);
        ClipView *v = clip_view_new(0);
        uint8_t rgb[3 * SIDE * SIDE];
        gimbal_error err = {0};
        draw_frame(rgb, 3, -1);
        for (int i = 0; i < frames; i++)
            check_ok(clip_view_see(v, i, rgb, SIDE, SIDE, &err), err);
        Page *page = page_of("frozen");
        page_clip(page, v, &m);
        char *text = finished(page);
        assert_int_equal(count_of(text, "No frame differs"), frames > 1);
        free(text);
        if (frames)
            check_fails(clip_view_see(v, frames, rgb, SIDE, 2, &err), GIMBAL_EUSAGE, err, "24x2");
        check_fails(clip_view_see(v, frames + 2, rgb, SIDE, SIDE, &err), GIMBAL_EUSAGE, err, "picture");
        clip_view_free(v);
    }
}

static void spectra_find_flicker(void **state)
{
    (void)state;
    double x[3000], amplitude[MOST_SLICES / 2 + 1];
    for (int n = 9; n < 3000; n = n * 3 + 1) {
        const int m = n < MOST_SLICES ? n : MOST_SLICES, at = m / 3;
        for (int i = 0; i < n; i++)
            x[i] = 2 * cos(2 * M_PI * at * i / m + 1) + .25 + (m % 2 ? 0 : i % 2 ? -.5 : .5);
        assert_int_equal(time_spectrum(x, n, amplitude), m);
        for (int k = 0; k <= m / 2; k++)
            check_near(amplitude[k],
                       k == at      ? 2
                       : k == 0     ? .25
                       : 2 * k == m ? .5
                                    : 0,
                       1e-9, "n %d, k %d", n, k);
    }
}

/* ---- places ------------------------------------------------------------------------------ */

static void pages_are_whole_or_not_there(void **state)
{
    (void)state;
    gimbal_error err = {0};
    check_fails(page_write(page_of("x"), "/nowhere/at/all.html", &err), GIMBAL_EIO, err,
                "/nowhere/at/all.html");
    check_fails(page_write(page_of("x"), "/dev/full", &err), GIMBAL_EIO, err, "/dev/full");
    check_fails(page_write(page_of("x"), folder(), &err), GIMBAL_EIO, err, "folder");
    check_fails(page_write(NULL, "x.html", &err), GIMBAL_ENOMEM, err, "memory");
    char *path = file_in_folder("page.html");
    FILE *f = fopen(path, "wb");
    fputs("old", f);
    fclose(f);
    struct rlimit before, little = {1000, 1000};
    getrlimit(RLIMIT_FSIZE, &before);
    little.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN); /* the write fails instead, as on a full disk */
    setrlimit(RLIMIT_FSIZE, &little);
    const int code = page_write(page_of("x"), path, &err);
    setrlimit(RLIMIT_FSIZE, &before);
    check_fails(code, GIMBAL_EIO, err, "page.html");
    char *text = text_of(path);
    assert_string_equal(text, "old");
    free(text);
    assert_int_equal(files_left(), 1);
    unlink(path);
    rmdir(folder());
    page_drop(NULL);
    page_drop(page_of("dropped"));
    clip_view_free(NULL);
}

TESTS(texts_are_escaped, tables_align_numbers, plots_take_any_numbers, plots_have_round_ticks,
      gaps_break_the_line, long_lines_keep_peaks, names_stand_apart, bands_and_marks, plot_file_is_whole,
      bars_take_any_numbers, pictures_come_back, impossible_pictures_fail, shrinking_averages,
      views_find_the_largest_change, views_stay_small, clip_pages_show_all, short_and_frozen_clips,
      spectra_find_flicker, pages_are_whole_or_not_there)
