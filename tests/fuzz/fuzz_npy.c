/* fuzz_npy.c: any bytes as a .npy file (app/npy.c, which is compiled in). What is read has sizes of at least
 * one whose product is the array's length, and written and read it is the same. */
#include "tests/fuzz/program.h"

/* The program's own, from app/app.h. */
int npy_write(const char *path, const float *x, const int64_t *n, int nd, gimbal_error *err);
int npy_read(const char *path, float **out, int64_t n[6], gimbal_error *err);

static void round_trip_npy(const float *x, const int64_t n[6], size_t count)
{
    char path[64];
    gimbal_error err = {0};
    float *back;
    int64_t m[6];
    snprintf(path, sizeof path, "/dev/shm/gimbal-fuzz-%d.npy", (int)getpid());
    WANT(!npy_write(path, x, n, 6, &err));
    WANT(!npy_read(path, &back, m, &err) && !memcmp(m, n, sizeof m));
    WANT(!memcmp(x, back, count * sizeof *x));
    free(back);
    unlink(path);
}

FUZZ(npy)
{
    static MemoryFile file;
    gimbal_error err = {0};
    float *x;
    int64_t n[6];
    if (!file.path[0])
        memory_file(&file);
    refill(file.fd, data, size);
    const int code = npy_read(file.path, &x, n, &err);
    want_message(code, &err);
    WANT(!code == (x != NULL));
    if (code)
        return 0;
    size_t count = 1;
    for (int i = 0; i < 6; i++) {
        WANT(n[i] >= 1 && (size_t)n[i] <= size / sizeof *x / count);
        count *= (size_t)n[i];
    }
    round_trip_npy(x, n, count);
    free(x);
    return 0;
}
