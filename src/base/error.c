/* error.c: the first error of a call, kept as a code, a message and a hint.
 *
 * Messages carry names from files and command lines, which may hold anything. What is kept is always UTF-8 on
 * one line, so that a terminal, a log and a JSON writer can take it as it is: control characters become
 * spaces, bytes that are no UTF-8 become '?', and a text that does not fit ends in "...". Refuses to know who
 * shows it: nothing here prints or exits. */
#include "base/base.h"

#include <string.h>

const char *gimbal_code_name(int code)
{
    switch (code) {
    case GIMBAL_OK:
        return "ok";
#define NAME_CASE(name, value, text)                                                                         \
    case value:                                                                                              \
        return text;
        GIMBAL_CODES(NAME_CASE)
#undef NAME_CASE
    }
    return "unknown error";
}

/* Makes text[0..] one line of UTF-8; `cut`: it was too long and ends in "...". */
static void clean(char *text, size_t room, bool cut)
{
    size_t bad;
    if (cut) {
        size_t end = room - 4;
        while (end > 0 && (text[end] & 0xC0) == 0x80)
            end--;
        memcpy(text + end, "...", 4);
    }
    for (char *s = text; utf8_check(s, &bad) < 0; s += bad + 1)
        s[bad] = '?';
    for (unsigned char *s = (unsigned char *)text; *s; s++)
        if (*s < 0x20 || *s == 0x7F)
            *s = ' ';
}

static int keep(gimbal_error *err, int code, const char *hint, const char *fmt, va_list args)
{
    if (!err || err->code)
        return code;
    err->code = code;
    const int n = vsnprintf(err->msg, sizeof err->msg, fmt, args);
    clean(err->msg, sizeof err->msg, n >= (int)sizeof err->msg);
    const int k = snprintf(err->hint, sizeof err->hint, "%s", hint);
    clean(err->hint, sizeof err->hint, k >= (int)sizeof err->hint);
    return code;
}

int fail(gimbal_error *err, int code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    keep(err, code, "", fmt, args);
    va_end(args);
    return code;
}

int fail_hint(gimbal_error *err, int code, const char *hint, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    keep(err, code, hint ? hint : "", fmt, args);
    va_end(args);
    return code;
}
