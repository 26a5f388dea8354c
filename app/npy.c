/* npy.c: float32 arrays in NumPy's .npy files, version 1.0.
 *
 *     "\x93NUMPY" 1 0, u16 n, n bytes "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4, 16, 64, 64),
 * }" padded with blanks so that the data begin at a multiple of 64, '\n', data in row-major order
 *
 * The format is NumPy's own: numpy.org, NEP 1 and numpy.lib.format. Written whole or not at all. Read: what
 * numpy.save makes of a C-ordered float32 array; everything else is refused by name.
 * Refuses to know what the numbers are. */
#include "app/app.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char magic[] = "\x93NUMPY\1"; /* and a 0, its own */
enum { MAGIC = 8, PREFIX = MAGIC + 2, ALIGN = 64, HEADER_ROOM = 256, MOST_DIMS = 6 };

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define FLOAT32 "'<f4'"
#else
#define FLOAT32 "'>f4'"
#endif

/* ---- out --------------------------------------------------------------------------------- */

/* Everything before the data; returns its length, a multiple of ALIGN. */
static size_t make_header(char out[HEADER_ROOM], const int64_t *n, int nd)
{
    memset(out, ' ', HEADER_ROOM);
    memcpy(out, magic, MAGIC);
    size_t at = PREFIX;
    at += (size_t)snprintf(out + at, HEADER_ROOM - at,
                           "{'descr': " FLOAT32 ", 'fortran_order': False, 'shape': (");
    for (int i = 0; i < nd; i++)
        at += (size_t)snprintf(out + at, HEADER_ROOM - at, "%lld,%s", (long long)n[i], i < nd - 1 ? " " : "");
    at += (size_t)snprintf(out + at, HEADER_ROOM - at, "), }");
    out[at] = ' '; /* snprintf's zero */
    const size_t all = (at + 1 + ALIGN - 1) / ALIGN * ALIGN, rest = all - PREFIX;
    out[all - 1] = '\n';
    out[MAGIC] = (char)(rest & 255), out[MAGIC + 1] = (char)(rest >> 8);
    return all;
}

int npy_write(const char *path, const float *x, const int64_t *n, int nd, gimbal_error *err)
{
    char header[HEADER_ROOM];
    size_t count = 1;
    for (int i = 0; i < nd; i++)
        count *= (size_t)n[i];
    return write_whole(path, header, make_header(header, n, nd), x, count * sizeof *x, err);
}

/* ---- in ---------------------------------------------------------------------------------- */

static int bad(const char *path, const char *what, gimbal_error *err)
{
    return complain(err, GIMBAL_EFORMAT,
                    "numpy.save of a C-ordered float32 array of at most six axes is read", "%s: %s", path,
                    what);
}

/* The sizes behind 'shape'; n gets MOST_DIMS, leading ones 1. */
static int read_shape(const char *path, const char *header, int64_t n[MOST_DIMS], gimbal_error *err)
{
    int64_t sizes[MOST_DIMS];
    int nd = 0;
    const char *at = strstr(header, "'shape':");
    at = at ? strchr(at, '(') : NULL;
    if (!at)
        return bad(path, "its header names no shape", err);
    for (at++; *at && *at != ')'; at += strspn(at, ", ")) {
        char *end;
        const long long size = strtoll(at, &end, 10); /* its overflow is above the limit */
        if (end == at || size < 1 || size > INT32_MAX || nd == MOST_DIMS)
            return bad(path, "a shape that is not one to six whole numbers", err);
        sizes[nd++] = size;
        at = end;
    }
    for (int i = 0; i < MOST_DIMS; i++)
        n[i] = i < MOST_DIMS - nd ? 1 : sizes[i - (MOST_DIMS - nd)];
    return GIMBAL_OK;
}

/* Up to the data. */
static int read_header(const char *path, FILE *file, int64_t n[MOST_DIMS], gimbal_error *err)
{
    unsigned char prefix[PREFIX];
    char header[65536];
    if (fread(prefix, 1, PREFIX, file) != PREFIX || memcmp(prefix, magic, MAGIC))
        return bad(path, "not a .npy file of version 1.0", err);
    const size_t size = (size_t)prefix[MAGIC] | (size_t)prefix[MAGIC + 1] << 8;
    if (fread(header, 1, size, file) != size)
        return bad(path, "ends within its header", err);
    header[size] = 0; /* at most 65535 */
    if (!strstr(header, FLOAT32))
        return bad(path, "holds no float32 values of this machine's byte order", err);
    if (!strstr(header, "'fortran_order': False"))
        return bad(path, "is in Fortran order", err);
    return read_shape(path, header, n, err);
}

/* The values, and nothing behind them. The file's own size is asked before memory is taken for its word. */
static int read_values(const char *path, FILE *file, const int64_t n[MOST_DIMS], float **out,
                       gimbal_error *err)
{
    struct stat st;
    int64_t bytes = sizeof(float);
    for (int i = 0; i < MOST_DIMS; i++)
        if (__builtin_mul_overflow(bytes, n[i], &bytes))
            return bad(path, "a shape that overflows", err);
    if (fstat(fileno(file), &st) || !S_ISREG(st.st_mode) || st.st_size - ftell(file) != bytes)
        return bad(path, "its size is not what its shape needs", err);
    *out = malloc((size_t)bytes);
    if (!*out)
        return fail_memory(err);
    if (fread(*out, 1, (size_t)bytes, file) == (size_t)bytes)
        return GIMBAL_OK;
    free(*out);
    *out = NULL;
    return complain(err, GIMBAL_EIO, NULL, "%s: cannot be read: %s", path, strerror(errno));
}

int npy_read(const char *path, float **out, int64_t n[6], gimbal_error *err)
{
    *out = NULL;
    FILE *file = fopen(path, "rbe");
    if (!file)
        return complain(err, GIMBAL_EIO, NULL, "%s: %s", path, strerror(errno));
    int code = read_header(path, file, n, err);
    code = code ? code : read_values(path, file, n, out, err);
    fclose(file);
    return code;
}
