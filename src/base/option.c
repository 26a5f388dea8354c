/* option.c: option tables: text to fields and back, and the nearest known name.
 *
 * A table describes the fields of a plain struct (gimbal_option in gimbal.h). The command line, plug-in specs
 * and recipes all come through set_field, so a value means the same everywhere. Numbers are read and written
 * as in the C locale, whatever the program has chosen. Refuses to know what an option does. */
#include "base/base.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { SHOWN = 60 }; /* letters of a wrong value that a message repeats */

static void *field(const gimbal_option *o, void *object)
{
    return (char *)object + o->offset;
}

/* Number of options; a NULL table has none. */
static int table_count(const gimbal_option *table)
{
    int n = 0;
    while (table && table[n].name)
        n++;
    return n;
}

static const char *option_name(const void *table, int i)
{
    return ((const gimbal_option *)table)[i].name;
}

static const char *choice_name(const void *choices, int i)
{
    return ((const char *const *)choices)[i];
}

/* ---- names ------------------------------------------------------------------------------- */

static int lower_difference(char a, char b)
{
    return tolower((unsigned char)a) != tolower((unsigned char)b);
}

/* Edits between two words, case aside: insert, delete, replace, or swap two neighbours. Three rows of the
 * table: row[i % 3][j] is the distance of the first i letters of a and the first j of b. */
static int edit_distance(const char *a, int na, const char *b, int nb)
{
    enum { LONGEST = 255 };
    int row[3][LONGEST + 1];
    if (na > LONGEST || nb > LONGEST)
        return INT_MAX;
    for (int i = 0; i <= na; i++)
        for (int j = 0; j <= nb; j++) {
            if (i == 0 || j == 0) {
                row[i % 3][j] = i + j;
                continue;
            }
            int least = row[(i + 2) % 3][j - 1] + lower_difference(a[i - 1], b[j - 1]);
            least = MIN(least, row[(i + 2) % 3][j] + 1);
            least = MIN(least, row[i % 3][j - 1] + 1);
            if (i > 1 && j > 1 && !lower_difference(a[i - 1], b[j - 2]) &&
                !lower_difference(a[i - 2], b[j - 1]))
                least = MIN(least, row[(i + 1) % 3][j - 2] + 1);
            row[i % 3][j] = least;
        }
    return row[na % 3][nb];
}

const char *nearest_name(const char *word, const char *(*name_at)(const void *, int), const void *list, int n)
{
    const char *best = NULL;
    int least = INT_MAX;
    const int letters = (int)strnlen(word, 256);
    for (int i = 0; i < n; i++) {
        const char *name = name_at(list, i);
        const int length = (int)strnlen(name, 256);
        const int d = edit_distance(word, letters, name, length);
        if (d < least && d <= MAX(letters, length) / 3)
            least = d, best = name;
    }
    return best;
}

/* Appends to a text of `room` bytes, cutting what does not fit. */
PRINTF_LIKE(3, 4) static void append(char *text, size_t room, const char *fmt, ...)
{
    const size_t n = strlen(text);
    va_list args;
    va_start(args, fmt);
    vsnprintf(text + n, room - n, fmt, args);
    va_end(args);
}

/* "did you mean 'passes'?" and the list of names if it is short. `dash` stands before a name. */
static void suggest(char hint[320], const char *dash, const char *word,
                    const char *(*name_at)(const void *, int), const void *list, int n)
{
    const char *near = nearest_name(word, name_at, list, n);
    hint[0] = 0;
    if (near)
        append(hint, 320, "did you mean '%s%s'?", dash, near);
    if (n > 0 && n <= 12)
        append(hint, 320, near ? " known: " : "known: ");
    for (int i = 0; i < n && n <= 12; i++)
        append(hint, 320, "%s%s%s", i ? ", " : "", dash, name_at(list, i));
}

/* ---- text to fields ---------------------------------------------------------------------- */

/* A whole decimal number: sign and digits, nothing else. */
static bool is_whole(const char *s)
{
    s += *s == '-' || *s == '+';
    return *s && !s[strspn(s, "0123456789")];
}

/* strtod in the C locale; nothing but a decimal number: no blanks, no hexadecimal, no nan, no inf. */
static bool read_real(const char *s, double *out)
{
    char *end = (char *)s;
    const locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (!c)
        return false;
    if (*s && !s[strspn(s, "0123456789+-.eE")])
        *out = strtod_l(s, &end, c);
    freelocale(c);
    return end > s && !*end;
}

/* "--frames is 0, expected 1 to 1024" */
static int out_of_range(const gimbal_option *o, const char *value, const char *what, gimbal_error *err)
{
    char range[64] = "";
    const double endless = o->type == GIMBAL_INT ? INT_MAX : 1e300;
    append(range, sizeof range, o->max >= endless ? "at least %.10g" : "%.10g", o->min);
    if (o->max < endless)
        append(range, sizeof range, " to %.10g", o->max);
    return fail(err, GIMBAL_EUSAGE, "%s%s is %.*s, expected %s", what, o->name, SHOWN, value, range);
}

static int set_int(const gimbal_option *o, int *out, const char *value, const char *what, gimbal_error *err)
{
    if (!is_whole(value))
        return fail(err, GIMBAL_EUSAGE, "%s%s: '%.*s' is not a whole number", what, o->name, SHOWN, value);
    errno = 0;
    const long long v = strtoll(value, NULL, 10);
    if (errno || v < INT_MIN || v > INT_MAX || (double)v < o->min || (double)v > o->max)
        return out_of_range(o, value, what, err);
    *out = (int)v;
    return GIMBAL_OK;
}

static int set_real(const gimbal_option *o, double *out, const char *value, const char *what,
                    gimbal_error *err)
{
    double v = 0;
    if (!read_real(value, &v))
        return fail(err, GIMBAL_EUSAGE, "%s%s: '%.*s' is not a number", what, o->name, SHOWN, value);
    if (!isfinite(v) || v < o->min || v > o->max)
        return out_of_range(o, value, what, err);
    *out = v;
    return GIMBAL_OK;
}

static int set_bool(const gimbal_option *o, int *out, const char *value, const char *what, gimbal_error *err)
{
    static const char *const words[] = {"0", "1", "no", "yes", "false", "true", "off", "on"};
    for (int i = 0; i < COUNT(words); i++)
        if (!strcasecmp(value, words[i])) {
            *out = i % 2;
            return GIMBAL_OK;
        }
    return fail_hint(err, GIMBAL_EUSAGE, "say 1 or 0, yes or no, true or false, on or off",
                     "%s%s: '%.*s' is neither yes nor no", what, o->name, SHOWN, value);
}

static int set_seed(const gimbal_option *o, uint64_t *out, const char *value, const char *what,
                    gimbal_error *err)
{
    const bool hex = value[0] == '0' && (value[1] == 'x' || value[1] == 'X');
    const char *digits = hex ? value + 2 : value;
    errno = 0;
    const unsigned long long v = strtoull(digits, NULL, hex ? 16 : 10);
    if (!*digits || digits[strspn(digits, hex ? "0123456789abcdefABCDEF" : "0123456789")] || errno)
        return fail_hint(err, GIMBAL_EUSAGE, "a seed is a whole number, decimal or 0x hexadecimal",
                         "%s%s is %.*s, expected 0 to 18446744073709551615", what, o->name, SHOWN, value);
    *out = v;
    return GIMBAL_OK;
}

static int set_choice(const gimbal_option *o, const char **out, const char *value, const char *what,
                      gimbal_error *err)
{
    char list[256] = "", hint[320];
    int n = 0;
    for (; o->choices[n]; n++) {
        if (!strcmp(o->choices[n], value)) {
            *out = o->choices[n];
            return GIMBAL_OK;
        }
        append(list, sizeof list, "%s%s", n ? ", " : "", o->choices[n]);
    }
    const char *near = nearest_name(value, choice_name, o->choices, n);
    snprintf(hint, sizeof hint, near ? "did you mean '%s'?" : "%s", near ? near : "");
    return fail_hint(err, GIMBAL_EUSAGE, hint, "%s%s is '%.*s', expected one of %s", what, o->name, SHOWN,
                     value, list);
}

static int set_field(const gimbal_option *o, void *object, const char *value, const char *what,
                     gimbal_error *err)
{
    void *out = field(o, object);
    switch (o->type) {
    case GIMBAL_BOOL:
        return set_bool(o, out, value, what, err);
    case GIMBAL_INT:
        return set_int(o, out, value, what, err);
    case GIMBAL_REAL:
        return set_real(o, out, value, what, err);
    case GIMBAL_SEED:
        return set_seed(o, out, value, what, err);
    case GIMBAL_CHOICE:
        return set_choice(o, out, value, what, err);
    case GIMBAL_TEXT:
        *(const char **)out = value;
    }
    return GIMBAL_OK;
}

/* The option called `name`, or NULL after fail(). */
static const gimbal_option *find(const gimbal_option *table, const char *name, const char *what,
                                 gimbal_error *err)
{
    char hint[320];
    const int n = table_count(table);
    for (int i = 0; i < n; i++)
        if (!strcmp(table[i].name, name))
            return &table[i];
    suggest(hint, what[0] == '-' ? what : "", name, option_name, table, n);
    fail_hint(err, GIMBAL_EUSAGE, hint, "%s%.*s: no such option", what, SHOWN, name);
    return NULL;
}

int gimbal_set(const gimbal_option *table, void *object, const char *name, const char *value,
               const char *what, gimbal_error *err)
{
    const gimbal_option *o = find(table, name, what, err);
    return o ? set_field(o, object, value, what, err) : GIMBAL_EUSAGE;
}

void options_default(const gimbal_option *table, void *object)
{
    for (const gimbal_option *o = table; o && o->name; o++) {
        void *out = field(o, object);
        switch (o->type) {
        case GIMBAL_BOOL:
        case GIMBAL_INT:
            *(int *)out = (int)o->def;
            break;
        case GIMBAL_REAL:
            *(double *)out = o->def;
            break;
        case GIMBAL_SEED:
            *(uint64_t *)out = (uint64_t)o->def;
            break;
        case GIMBAL_TEXT:
        case GIMBAL_CHOICE:
            *(const char **)out = o->text;
        }
    }
}

/* One item "name=value" (or "name", a boolean that is meant to be 1). `seen` marks the options met before. */
static int parse_item(const gimbal_option *table, void *object, char *item, const char *what, bool *seen,
                      gimbal_error *err)
{
    char *equals = strchr(item, '=');
    if (equals)
        *equals = 0;
    const gimbal_option *o = find(table, item, what, err);
    if (!o)
        return GIMBAL_EUSAGE;
    if (seen[o - table])
        return fail(err, GIMBAL_EUSAGE, "%s%s is given twice", what, o->name);
    seen[o - table] = true;
    if (!equals && o->type != GIMBAL_BOOL)
        return fail(err, GIMBAL_EUSAGE, "%s%s has no value, expected %s=...", what, o->name, o->name);
    return set_field(o, object, equals ? equals + 1 : "1", what, err);
}

int options_parse(const gimbal_option *table, void *object, const char *text, const char *what, Arena *keep,
                  gimbal_error *err)
{
    enum { MOST = 128 };
    bool seen[MOST] = {false};
    assert(table_count(table) <= MOST);
    options_default(table, object);
    if (!text || !*text)
        return GIMBAL_OK;
    char *item = arena_printf(keep, "%s", text); /* TEXT fields point into it */
    if (!item)
        return fail(err, GIMBAL_ENOMEM, "%sno memory for the options", what);
    for (char *next; item; item = next) {
        char *comma = strchr(item, ',');
        next = comma ? comma + 1 : NULL;
        if (comma)
            *comma = 0;
        if (!*item)
            return fail(err, GIMBAL_EUSAGE, "%san option is missing beside a comma in '%.*s'", what, SHOWN,
                        text);
        TRY(parse_item(table, object, item, what, seen, err));
    }
    return GIMBAL_OK;
}

/* ---- fields to text ---------------------------------------------------------------------- */

/* The shortest decimal that reads back as the same double. */
static void print_real(double v, char *out, size_t room)
{
    double back = 0;
    const locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    const locale_t was = c ? uselocale(c) : (locale_t)0;
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, room, "%.*g", digits, v);
        if (read_real(out, &back) && back == v)
            break;
    }
    if (c) {
        uselocale(was);
        freelocale(c);
    }
}

void option_print(const gimbal_option *o, const void *object, char *out, size_t room)
{
    const void *in = (const char *)object + o->offset;
    switch (o->type) {
    case GIMBAL_BOOL:
    case GIMBAL_INT:
        snprintf(out, room, "%d", *(const int *)in);
        break;
    case GIMBAL_REAL:
        print_real(*(const double *)in, out, room);
        break;
    case GIMBAL_SEED:
        snprintf(out, room, "%llu", (unsigned long long)*(const uint64_t *)in);
        break;
    case GIMBAL_TEXT:
    case GIMBAL_CHOICE: {
        const char *text = *(const char *const *)in;
        snprintf(out, room, "%s", text ? text : "");
    }
    }
}

/* ---- UTF-8 ------------------------------------------------------------------------------- */

/* Length of the character at s, or 0 when it is not one: overlong forms, surrogates and what lies above
 * U+10FFFF are none. The terminating zero stops a truncated one. */
static int utf8_length(const unsigned char *s)
{
    static const struct {
        unsigned char first, last, low, high; /* first byte; range of the second */
        int length;
    } forms[] = {
        {0x01, 0x7F, 0, 0, 1},       {0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3},
        {0xE1, 0xEC, 0x80, 0xBF, 3}, {0xED, 0xED, 0x80, 0x9F, 3}, {0xEE, 0xEF, 0x80, 0xBF, 3},
        {0xF0, 0xF0, 0x90, 0xBF, 4}, {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4},
    };
    for (int i = 0; i < COUNT(forms); i++) {
        if (s[0] < forms[i].first || s[0] > forms[i].last)
            continue;
        if (forms[i].length > 1 && (s[1] < forms[i].low || s[1] > forms[i].high))
            return 0;
        for (int k = 2; k < forms[i].length; k++)
            if ((s[k] & 0xC0) != 0x80)
                return 0;
        return forms[i].length;
    }
    return 0;
}

long utf8_check(const char *s, size_t *bad)
{
    size_t n = 0;
    while (s[n]) {
        const int length = utf8_length((const unsigned char *)s + n);
        if (!length) {
            if (bad)
                *bad = n;
            return -1;
        }
        n += (size_t)length;
    }
    return (long)n;
}
