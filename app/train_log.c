/* train_log.c: OUT/log.jsonl: what happened in training, one JSON object a line.
 *
 * Lines are appended whole, by one write each, so that a kill leaves at most one torn line at the end. On
 * resuming, lines of steps beyond the checkpoint are dropped: what they tell is done again. Numbers that are
 * not known are null. Refuses to know what lines mean, but for "step". */
#include "app/train.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

TrainLog train_log(void)
{
    return (TrainLog){.fd = -1, .waiting = json_array()};
}

static char *log_path(const char *output)
{
    char *path;
    return asprintf(&path, "%s/log.jsonl", output) < 0 ? NULL : path;
}

/* ---- reading ----------------------------------------------------------------------------- */

static int read_bytes(const char *path, char **text, size_t *n, gimbal_error *err)
{
    struct stat st;
    FILE *file = fopen(path, "rb");
    *text = NULL, *n = 0;
    const bool known = file && !fstat(fileno(file), &st);
    const size_t size = known && st.st_size > 0 ? (size_t)st.st_size : 0;
    if (known && S_ISREG(st.st_mode))
        *text = malloc(size + 1);
    if (*text)
        *n = fread(*text, 1, size, file);
    const bool failed = !known || ferror(file);
    const int reason = errno;
    if (file)
        fclose(file);
    if (failed)
        return complain(err, GIMBAL_EIO, NULL, "%s: cannot be read: %s", path, strerror(reason));
    if (!S_ISREG(st.st_mode))
        return complain(err, GIMBAL_EIO, NULL, "%s: is no regular file", path);
    return *text ? GIMBAL_OK : fail_memory(err);
}

/* Whole lines that are objects; what else there is (a torn end) is passed over. */
static json_t *parse_lines(const char *text, size_t n)
{
    json_t *lines = json_array();
    const char *end = text + n, *stop;
    for (const char *line = text; lines && (stop = memchr(line, '\n', (size_t)(end - line)));
         line = stop + 1) {
        json_t *one = json_loadb(line, (size_t)(stop - line), 0, NULL);
        if (json_is_object(one))
            json_array_append(lines, one);
        json_decref(one);
    }
    return lines;
}

int train_log_read(const char *output, json_t **lines, gimbal_error *err)
{
    char *path = log_path(output), *text = NULL;
    size_t n = 0;
    *lines = NULL;
    int code = path ? read_bytes(path, &text, &n, err) : fail_memory(err);
    if (!code)
        *lines = parse_lines(text, n);
    if (!code && !*lines)
        code = fail_memory(err);
    if (!code && !json_array_size(*lines)) {
        code = complain(err, GIMBAL_EFORMAT, "it is written by gimbal train", "%s: no line of a log in it",
                        path);
        json_decref(*lines);
        *lines = NULL;
    }
    free(text);
    free(path);
    return code;
}

/* ---- writing ----------------------------------------------------------------------------- */

static char *dump(const json_t *line)
{
    return line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
}

/* 0, or errno. What a full disk took of a line is taken back: it would spoil the next one. */
static int write_line(int fd, const char *line, size_t n)
{
    const ssize_t done = write(fd, line, n);
    const int reason = done < 0 ? errno : (size_t)done < n ? ENOSPC : 0;
    const off_t end = reason && done > 0 ? lseek(fd, 0, SEEK_END) : -1;
    const bool spoilt = end >= done && end > 0 && ftruncate(fd, end - done);
    return spoilt ? errno : reason;
}

static void append(TrainLog *log, const json_t *line)
{
    char *text = dump(line), *whole = NULL;
    const int n = text ? asprintf(&whole, "%s\n", text) : -1;
    const int reason = n < 0 ? ENOMEM : write_line(log->fd, whole, (size_t)n);
    if (reason && !log->warned) {
        fprintf(stderr, "gimbal: warning: log.jsonl lacks lines: %s\n", strerror(reason));
        log->warned = true;
    }
    if (n >= 0)
        free(whole);
    free(text);
}

void train_log_add(TrainLog *log, json_t *line)
{
    if (!line)
        return;
    if (log->fd >= 0)
        append(log, line);
    else if (log->waiting)
        json_array_append(log->waiting, line);
    json_decref(line);
}

/* The lines that stay, as they are rewritten: *text, the caller's. */
static int keep_lines(const char *output, int step, char **text, size_t *n, gimbal_error *err)
{
    json_t *lines = NULL, *line;
    size_t i;
    gimbal_error none = {0};
    FILE *out = open_memstream(text, n);
    if (!out)
        return fail_memory(err);
    if (step > 0 && train_log_read(output, &lines, &none))
        lines = NULL; /* no log, no lines */
    json_array_foreach(lines, i, line)
    {
        const json_t *at = json_object_get(line, "step");
        char *one = json_is_integer(at) && json_integer_value(at) <= step ? dump(line) : NULL;
        if (one)
            fprintf(out, "%s\n", one);
        free(one);
    }
    json_decref(lines);
    return fclose(out) ? fail_memory(err) : GIMBAL_OK;
}

static int open_at(TrainLog *log, const char *path, const char *output, int step, gimbal_error *err)
{
    char *text = NULL;
    size_t n = 0;
    int code = keep_lines(output, step, &text, &n, err);
    if (!code)
        code = write_whole(path, text, n, NULL, 0, err);
    free(text);
    TRY(code);
    log->fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    return log->fd >= 0 ? GIMBAL_OK
                        : complain(err, GIMBAL_EIO, NULL, "%s: cannot be written: %s", path, strerror(errno));
}

int train_log_open(TrainLog *log, const char *output, int step, gimbal_error *err)
{
    json_t *line;
    size_t i;
    char *path = log_path(output);
    const int code = path ? open_at(log, path, output, step, err) : fail_memory(err);
    free(path);
    TRY(code);
    json_array_foreach(log->waiting, i, line) append(log, line);
    json_decref(log->waiting);
    log->waiting = NULL;
    return GIMBAL_OK;
}

void train_log_close(TrainLog *log)
{
    if (log->fd >= 0)
        close(log->fd);
    json_decref(log->waiting);
    log->fd = -1, log->waiting = NULL;
}
