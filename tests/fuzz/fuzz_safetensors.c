/* fuzz_safetensors.c: any bytes as a safetensors file. What opens must lie inside the file: all of it is
 * read. */
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static volatile unsigned sum;
    char path[64];
    gimbal_error err = {0};
    SafeTensors *st;
    if (fd < 0)
        fd = memfd_create("fuzz", 0);
    refill(fd, data, size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const int code = st_open(&st, path, &err);
    want_message(code, &err);
    if (code)
        return 0;
    for (int i = 0; i < st_count(st); i++) {
        const StEntry *e = st_entry(st, i);
        if (st_find(st, e->name) != e)
            abort();
        for (size_t k = 0; k < e->bytes; k++)
            sum += ((const uint8_t *)e->data)[k];
    }
    sum += (unsigned)st_is_single_checkpoint(st);
    st_close(st);
    return 0;
}
