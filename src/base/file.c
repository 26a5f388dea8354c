/* file.c: maps, whole files, paths, and outputs that appear whole or not at all.
 *
 * Every message begins with the path and ends with the system's reason. Refuses to know formats. */
#include "base/base.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* An open file, not a folder; -1 after fail(). O_NONBLOCK: a pipe nobody writes to must not hang us. */
static int open_input(const char *path, struct stat *st, gimbal_error *err)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, st)) {
        fail(err, GIMBAL_EIO, "%s: %s", path, strerror(errno));
    } else if (S_ISDIR(st->st_mode)) {
        fail(err, GIMBAL_EIO, "%s: expected a file, found a folder", path);
    } else {
        return fd;
    }
    if (fd >= 0)
        close(fd);
    return -1;
}

/* An open regular file, so that its size means something; -1 after fail(). */
static int open_regular(const char *path, struct stat *st, gimbal_error *err)
{
    const int fd = open_input(path, st, err);
    if (fd < 0 || S_ISREG(st->st_mode))
        return fd;
    fail(err, GIMBAL_EIO, "%s: expected a regular file, found a device or pipe", path);
    close(fd);
    return -1;
}

int map_file(Mapped *out, const char *path, gimbal_error *err)
{
    struct stat st;
    int code = GIMBAL_OK;
    *out = (Mapped){NULL, 0};
    const int fd = open_regular(path, &st, err);
    if (fd < 0)
        return GIMBAL_EIO;
    if (st.st_size > 0) {
        void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            code = fail(err, GIMBAL_EIO, "%s: cannot be mapped: %s", path, strerror(errno));
        else
            *out = (Mapped){data, (size_t)st.st_size};
    }
    close(fd); /* the map keeps the file */
    return code;
}

/* n bytes of fd into data; a file that ends before has shrunk since its size was asked. */
static int read_exactly(int fd, const char *path, uint8_t *data, size_t n, gimbal_error *err)
{
    const size_t most = 1 << 30;
    for (size_t at = 0; at < n;) {
        const ssize_t got = read(fd, data + at, MIN(n - at, most));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail(err, GIMBAL_EIO, "%s: %s", path, strerror(errno));
        if (got == 0)
            return fail(err, GIMBAL_EIO, "%s: changed while it was read: ended after %zu of %zu bytes", path,
                        at, n);
        at += (size_t)got;
    }
    return GIMBAL_OK;
}

/* Room for a file's bytes, mapped like the file itself would be, so that unmap_file serves both. */
static int load_room(Mapped *out, const char *path, size_t size, gimbal_error *err)
{
    const uint64_t have = memory_available();
    if (size > have)
        return fail_hint(err, GIMBAL_ENOMEM, "map the files instead: they then need no memory of their own",
                         "%s: %.0f MiB to read into memory, %.0f MiB are available", path,
                         (double)size / (1 << 20), (double)have / (1 << 20));
    void *data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for its %zu bytes", path, size);
    *out = (Mapped){data, size};
    return GIMBAL_OK;
}

int load_file(Mapped *out, const char *path, gimbal_error *err)
{
    struct stat st;
    int code = GIMBAL_OK;
    *out = (Mapped){NULL, 0};
    const int fd = open_regular(path, &st, err);
    if (fd < 0)
        return GIMBAL_EIO;
    if (st.st_size > 0) {
        code = load_room(out, path, (size_t)st.st_size, err);
        if (!code)
            code = read_exactly(fd, path, (uint8_t *)out->data, out->size, err);
        if (!code)
            mprotect((void *)out->data, out->size, PROT_READ); /* a stray write is then as loud as in a map */
    }
    close(fd);
    if (code)
        unmap_file(out);
    return code;
}

void unmap_file(Mapped *m)
{
    if (m->data)
        munmap((void *)m->data, m->size);
    *m = (Mapped){NULL, 0};
}

/* Reads up to `most` bytes from fd into a growing buffer with room for a zero behind them. */
static int read_all(int fd, const char *path, size_t most, char **out, size_t *size, gimbal_error *err)
{
    size_t room = 0, n = 0;
    char *data = NULL;
    for (;;) {
        if (room - n < 2) {
            room = room ? 2 * room : 16 * 1024;
            char *bigger = realloc(data, room);
            if (!bigger) {
                free(data);
                return fail(err, GIMBAL_ENOMEM, "%s: no memory for %zu bytes", path, room);
            }
            data = bigger;
        }
        const ssize_t got = read(fd, data + n, MIN(room - n - 1, most - n));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            free(data);
            return fail(err, GIMBAL_EIO, "%s: %s", path, strerror(errno));
        }
        n += (size_t)got;
        if (got == 0 || n == most)
            break;
    }
    data[n] = 0;
    *out = data;
    *size = n;
    return GIMBAL_OK;
}

int read_file(char **out, size_t *size, const char *path, size_t limit, gimbal_error *err)
{
    struct stat st;
    *out = NULL;
    *size = 0;
    const int fd = open_input(path, &st, err);
    if (fd < 0)
        return GIMBAL_EIO;
    /* The size is only a claim for files of /proc and pipes, so one byte above the limit is asked for. */
    const int code = read_all(fd, path, MIN(limit, PTRDIFF_MAX - 1) + 1, out, size, err);
    close(fd);
    if (code || *size <= limit)
        return code;
    free(*out); /* read_all's */
    *out = NULL;
    *size = 0;
    return fail(err, GIMBAL_EFORMAT, "%s: larger than the %zu bytes expected at most", path, limit);
}

bool file_number(const char *path, const char *key, uint64_t *out)
{
    char *text, *end;
    size_t size;
    if (read_file(&text, &size, path, 1 << 20, NULL))
        return false;
    const size_t n = strlen(key);
    const char *at = text;
    while (at && (strncmp(at, key, n) || (n && !isspace((unsigned char)at[n])))) {
        at = strchr(at, '\n');
        at += at ? 1 : 0;
    }
    const char *digits = at ? at + n + strspn(at + n, " \t") : "";
    errno = 0;
    const uint64_t value = strtoull(digits, &end, 10);
    const bool found = isdigit((unsigned char)*digits) && !errno;
    if (found)
        *out = value;
    free(text); /* read_file's */
    return found;
}

bool is_file(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISREG(st.st_mode);
}

bool is_folder(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

int path_join(char out[PATH_ROOM], const char *folder, const char *name, gimbal_error *err)
{
    const size_t n = strlen(folder);
    const char *slash = n && folder[n - 1] != '/' ? "/" : "";
    if (snprintf(out, PATH_ROOM, "%s%s%s", folder, slash, name) >= PATH_ROOM)
        return fail(err, GIMBAL_EUSAGE, "a path is longer than %d bytes: %.80s...", PATH_ROOM - 1, folder);
    return GIMBAL_OK;
}

/* ---- staged outputs ---------------------------------------------------------------------- */

/* Length of the folder part of a path, its last slash included; 0 when it has none. */
static size_t folder_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

/* Can `target` become a file? What stands there now must be nothing, or a regular file that may be written:
 * renaming over a device or a folder would do harm. */
static int check_target(const char *target, gimbal_error *err)
{
    struct stat st;
    char folder[PATH_ROOM];
    const size_t n = folder_length(target);
    snprintf(folder, sizeof folder, "%.*s", n ? (int)n : 1, n ? target : ".");
    if (!target[n])
        return fail_hint(err, GIMBAL_EIO, "add a file name with an ending",
                         "'%s' names a folder, expected a file", target);
    if (!stat(target, &st)) {
        if (S_ISDIR(st.st_mode))
            return fail_hint(err, GIMBAL_EIO, "add a file name with an ending",
                             "%s: is a folder, expected a file", target);
        if (!S_ISREG(st.st_mode))
            return fail(err, GIMBAL_EIO, "%s: is a device or pipe, expected a regular file", target);
        if (access(target, W_OK))
            return fail(err, GIMBAL_EIO, "%s: cannot be overwritten: %s", target, strerror(errno));
    } else if (errno != ENOENT) {
        return fail(err, GIMBAL_EIO, "%s: cannot be written: %s", target, strerror(errno));
    } else if (!is_folder(folder)) {
        return fail_hint(err, GIMBAL_EIO, "make the folder first", "%s: cannot be written: no folder %s",
                         target, folder);
    }
    return GIMBAL_OK;
}

/* Bytes of `stem` to keep in the temporary name: NAME_MAX is 255, and characters stay whole. */
static int stem_length(const char *stem, size_t n)
{
    const size_t most = 64;
    if (n > most)
        for (n = most; n > 0 && (stem[n] & 0xC0) == 0x80;)
            n--;
    return (int)n;
}

/* ".clip.k3x9aq.mp4" in the target's folder; a new name with every call. Its ending may be empty. */
static int temporary_name(char out[PATH_ROOM], const char *target, gimbal_error *err)
{
    static const char letters[] = "abcdefghijkmnpqrstuvwxyz23456789"; /* 32 of them */
    const size_t folder = folder_length(target);
    const char *name = target + folder, *dot = strrchr(name, '.');
    const char *ending = dot && dot > name && strlen(dot) <= 32 ? dot : "";
    unsigned char r[8];
    char unique[9] = "";
    if (getrandom(r, sizeof r, 0) != sizeof r)
        return fail(err, GIMBAL_EIO, "%s: no random name for the temporary file: %s", target,
                    strerror(errno));
    for (int i = 0; i < 8; i++)
        unique[i] = letters[r[i] % 32];
    const int stem = stem_length(name, strlen(name) - strlen(ending));
    const int n = snprintf(out, PATH_ROOM, "%.*s.%.*s.%s%s", (int)folder, target, stem, name, unique, ending);
    return n < PATH_ROOM
               ? GIMBAL_OK
               : fail(err, GIMBAL_EIO, "a path is longer than %d bytes: %.80s...", PATH_ROOM - 1, target);
}

int stage_open(Stage *s, const char *target, gimbal_error *err)
{
    s->open = false;
    s->path[0] = s->target[0] = 0;
    if (snprintf(s->target, sizeof s->target, "%s", target) >= (int)sizeof s->target)
        return fail(err, GIMBAL_EIO, "a path is longer than %d bytes: %.80s...", PATH_ROOM - 1, target);
    TRY(check_target(target, err));
    for (int tries = 0; tries < 16; tries++) {
        TRY(temporary_name(s->path, target, err));
        const int fd = open(s->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0) {
            close(fd);
            s->open = true;
            return GIMBAL_OK;
        }
        if (errno != EEXIST)
            break;
    }
    return fail(err, GIMBAL_EIO, "%s: cannot be written: %s", target, strerror(errno));
}

int stage_commit(Stage *s, gimbal_error *err)
{
    if (rename(s->path, s->target)) {
        fail(err, GIMBAL_EIO, "%s: cannot be put in place: %s", s->target, strerror(errno));
        stage_abort(s);
        return GIMBAL_EIO;
    }
    s->open = false;
    return GIMBAL_OK;
}

void stage_abort(Stage *s)
{
    if (s->open)
        unlink(s->path);
    s->open = false;
}
