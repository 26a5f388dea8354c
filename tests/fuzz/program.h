/* program.h: what the program's files (app/) need of it when they are compiled into a fuzz target: errors, as
 * in app/cli.c. app/app.h itself cannot meet base.h in one file. */
#ifndef FUZZ_PROGRAM_H
#define FUZZ_PROGRAM_H

#include "tests/fuzz/fuzz.h"

PRINTF_LIKE(4, 5) int complain(gimbal_error *err, int code, const char *hint, const char *fmt, ...);
int fail_memory(gimbal_error *err);

int complain(gimbal_error *err, int code, const char *hint, const char *fmt, ...)
{
    va_list args;
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

#endif
