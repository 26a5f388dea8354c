/* io_files.h: what the tests of src/io share: a folder of one's own, files with given bytes, hand-made
 * safetensors. */
#ifndef IO_FILES_H
#define IO_FILES_H

#include "io/io.h" /* before cmocka.h, which makes a macro of fail */

#include "tests/check.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64]; /* of the running test */

/* Removes `path`: a file, or a folder and all in it (two levels of folders at most, as these tests make). */
static inline void remove_all(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        char inner[512];
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        snprintf(inner, sizeof inner, "%.200s/%.255s", path, e->d_name);
        struct stat s;
        if (!lstat(inner, &s) && S_ISDIR(s.st_mode))
            remove_all(inner);
        else
            unlink(inner);
    }
    if (d)
        closedir(d);
    rmdir(path);
}

static inline int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/gimbal-io-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static inline int drop_folder(void **state)
{
    (void)state;
    remove_all(folder);
    return 0;
}

/* "name" inside the test's folder; eight may be in use at once. */
static inline const char *in_folder(const char *name)
{
    static char paths[8][256];
    static int turn;
    char *path = paths[turn++ % 8];
    snprintf(path, sizeof paths[0], "%s/%.180s", folder, name);
    return path;
}

static inline const char *put_bytes(const char *name, const void *bytes, size_t n)
{
    const char *path = in_folder(name);
    FILE *f = fopen(path, "wb");
    check(f && fwrite(bytes, 1, n, f) == n && !fclose(f), "%s", path);
    return path;
}

static inline const char *put_text(const char *name, const char *text)
{
    return put_bytes(name, text, strlen(text));
}

/* Length, `json`, then `data` bytes 0, 1, 2, ... */
static inline const char *put_safetensors(const char *name, const char *json, size_t data)
{
    const size_t n = strlen(json);
    uint8_t *bytes = calloc(1, 8 + n + data);
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)((uint64_t)n >> (8 * i));
    memcpy(bytes + 8, json, n);
    for (size_t i = 0; i < data; i++)
        bytes[8 + n + i] = (uint8_t)i;
    const char *path = put_bytes(name, bytes, 8 + n + data);
    free(bytes);
    return path;
}

/* TESTS with a fresh folder for each test. */
#define IN_FOLDER(f) cmocka_unit_test_setup_teardown(f, make_folder, drop_folder)

#endif
