/* file.c: a file that appears whole or not at all: written beside its target, then renamed over it.
 *
 * Knows names and bytes. Refuses to know formats; clips have media.h's writer, tensors the library's. */
#include "app/app.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A new file beside the target: *out its name, caller frees. Negative after complain(). */
static int open_beside(const char *path, char **out, gimbal_error *err)
{
    const char *slash = strrchr(path, '/');
    const int folder = slash ? (int)(slash - path) + 1 : 0;
    for (int i = 0; i < 16; i++) {
        if (asprintf(out, "%.*s.gimbal-%d-%d.part", folder, path, (int)getpid(), i) < 0) {
            *out = NULL;
            return fail_memory(err);
        }
        const int fd = open(*out, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666), reason = errno;
        if (fd >= 0)
            return fd;
        free(*out);
        *out = NULL;
        errno = reason;
        if (reason != EEXIST)
            break;
    }
    return complain(err, GIMBAL_EIO, NULL, "%s: cannot be written: %s", path, strerror(errno));
}

static bool write_all(int fd, const void *data, size_t size)
{
    for (const char *at = data; size;) {
        const ssize_t n = write(fd, at, size);
        if (n < 0 && errno != EINTR)
            return false;
        at += n > 0 ? n : 0, size -= n > 0 ? (size_t)n : 0;
    }
    return true;
}

int write_whole(const char *path, const void *head, size_t head_size, const void *body, size_t body_size,
                gimbal_error *err)
{
    struct stat st;
    char *beside = NULL;
    if (!stat(path, &st) && !S_ISREG(st.st_mode))
        return complain(err, GIMBAL_EIO, NULL, "%s: is a device or folder, expected a regular file", path);
    const int fd = open_beside(path, &beside, err);
    if (fd < 0)
        return fd;
    const bool written = write_all(fd, head, head_size) && write_all(fd, body, body_size);
    int reason = written ? 0 : errno;
    if (close(fd) && !reason)
        reason = errno;
    if (!reason && rename(beside, path))
        reason = errno;
    if (reason)
        unlink(beside);
    free(beside);
    return reason ? complain(err, GIMBAL_EIO, NULL, "%s: cannot be written: %s", path, strerror(reason))
                  : GIMBAL_OK;
}
