/* fuzz.h: what the fuzz targets share: a name for each, properties that must hold, files in memory.
 *
 * A target is one function of bytes, FUZZ(name), in fuzz_name.c. It is compiled twice:
 *   - by clang with libFuzzer (cmake --preset fuzz; `make fuzz` runs all targets), where a broken property
 *     aborts and the bytes are kept;
 *   - into tests/t_corpus.c (FUZZ_CORPUS), which feeds it every file of tests/fuzz/corpus/name/ on each run
 *     of the suite, so that what was found once stays mended.
 * Targets run from the top of the checkout and keep nothing from one input to the next but descriptors. */
#ifndef FUZZ_H
#define FUZZ_H

#include "io/io.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef FUZZ_CORPUS
#define FUZZ(name) static int fuzz_##name(const uint8_t *data, size_t size)
void corpus_broken(const char *property); /* fails the test, naming the file */
#define BROKEN(property) corpus_broken(property)
#else
#define FUZZ(name)                                                                                           \
    int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);                                            \
    int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
#define BROKEN(property) (fprintf(stderr, "broken: %s\n", property), abort())
#endif

/* A property that holds for every input. */
#define WANT(condition)                                                                                      \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            BROKEN(#condition);                                                                              \
    } while (0)

/* A file of its own, in memory; its path is what loaders take. */
typedef struct {
    int fd;
    char path[40];
} MemoryFile;

static inline void memory_file(MemoryFile *m)
{
    m->fd = memfd_create("fuzz", MFD_CLOEXEC);
    WANT(m->fd >= 0);
    snprintf(m->path, sizeof m->path, "/proc/self/fd/%d", m->fd);
}

/* The same file again, with these bytes. */
static inline void refill(int fd, const void *data, size_t size)
{
    WANT(!ftruncate(fd, 0) && pwrite(fd, data, size, 0) == (ssize_t)size);
}

/* Every failure has its code and a message of one line. */
static inline void want_message(int code, const gimbal_error *err)
{
    WANT(!code || (err->msg[0] && err->code == code && !strchr(err->msg, '\n') && !strchr(err->hint, '\n')));
}

/* The next part of the input, as text with a zero behind it (free): up to `cut`, which is passed over, or
 * all. A zero inside ends the text. */
static inline char *next_text(const uint8_t **data, size_t *size, char cut)
{
    const uint8_t *end = *size ? memchr(*data, cut, *size) : NULL;
    const size_t n = end ? (size_t)(end - *data) : *size;
    char *text = malloc(n + 1);
    WANT(text != NULL);
    memcpy(text, n ? (const void *)*data : "", n), text[n] = 0;
    *data += n + (end != NULL), *size -= n + (end != NULL);
    return text;
}

#endif
