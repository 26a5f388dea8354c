/* prompts.c: prompts in a file, one a line.
 *
 * Knows text: UTF-8, LF or CR LF. Refuses to know what prompts are for. */
#include "app/app.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int check_utf8(const char *what, const char *text, gimbal_error *err)
{
    json_t *valid = text ? json_string(text) : NULL;
    json_decref(valid);
    return !text || valid
               ? GIMBAL_OK
               : complain(err, GIMBAL_EUSAGE, "convert it: iconv -t UTF-8", "%s is not UTF-8", what);
}

static int read_text(const char *flag, const char *path, char **out, gimbal_error *err)
{
    enum { MOST = 1 << 24 };
    FILE *file = fopen(path, "rb");
    size_t n = 0;
    *out = file ? malloc(MOST + 1) : NULL;
    if (*out)
        n = fread(*out, 1, MOST + 1, file);
    const bool failed = file && ferror(file);
    const int reason = errno;
    if (file)
        fclose(file);
    if (!file || failed)
        return complain(err, GIMBAL_EIO, NULL, "%s %s: %s", flag, path, strerror(reason));
    if (!*out)
        return fail_memory(err);
    if (n > MOST)
        return complain(err, GIMBAL_EFORMAT, NULL, "%s %s: larger than %d bytes", flag, path, MOST);
    (*out)[n] = 0;
    return strlen(*out) == n ? GIMBAL_OK
                             : complain(err, GIMBAL_EFORMAT, NULL, "%s %s: holds a zero byte", flag, path);
}

int prompts_read(const char *flag, const char *path, char **text, const char ***prompts, int *n,
                 gimbal_error *err)
{
    size_t lines = 1;
    *n = 0, *prompts = NULL;
    TRY(read_text(flag, path, text, err));
    for (const char *c = *text; *c; c++)
        lines += *c == '\n';
    *prompts = calloc(lines, sizeof **prompts);
    if (!*prompts)
        return fail_memory(err);
    char *rest;
    for (char *line = strtok_r(*text, "\r\n", &rest); line; line = strtok_r(NULL, "\r\n", &rest)) {
        char what[64];
        (*prompts)[(*n)++] = line;
        snprintf(what, sizeof what, "prompt %d of %s", *n, flag);
        TRY(check_utf8(what, line, err));
    }
    return *n ? GIMBAL_OK : complain(err, GIMBAL_EUSAGE, NULL, "%s %s: no prompt in it", flag, path);
}
