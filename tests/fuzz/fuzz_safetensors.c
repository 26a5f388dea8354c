/* fuzz_safetensors.c: any bytes as a safetensors file. What opens lies inside the file (all of it is read),
 * and what st_write makes of its tensors opens again and holds the same. */
#include "tests/fuzz/fuzz.h"

extern unsigned fuzz_sum;
unsigned fuzz_sum; /* not static: reading must not be optimised away */

static void read_all(const SafeTensors *st)
{
    size_t n;
    const char *json;
    st_header(st, &json, &n);
    for (size_t i = 0; i < n; i++)
        fuzz_sum += (unsigned char)json[i];
    for (int i = 0; i < st_count(st); i++) {
        const StEntry *e = st_entry(st, i);
        WANT(st_find(st, e->name) == e);
        WANT(i == 0 || strcmp(st_entry(st, i - 1)->name, e->name) < 0);
        for (size_t k = 0; k < e->bytes; k++)
            fuzz_sum += ((const uint8_t *)e->data)[k];
    }
    fuzz_sum += (unsigned)st_is_single_checkpoint(st) + (st_metadata(st, "format") != NULL);
    WANT(!st_entry(st, -1) && !st_entry(st, st_count(st)) && !strncmp(st_path(st), "/proc/", 6));
}

/* As floats, for callers of the API. */
static void read_floats_of(const char *path, const SafeTensors *st)
{
    for (int i = 0; i <= st_count(st) && i < 4; i++) {
        gimbal_error err = {0};
        float *x;
        int64_t n[6];
        const char *name = i < st_count(st) ? st_entry(st, i)->name : "no such tensor";
        const int code = gimbal_tensor_read(path, name, &x, n, &err);
        want_message(code, &err);
        WANT(!code == (x != NULL));
        free(x);
    }
}

/* Written by us and read back. */
static void round_trip(const SafeTensors *st)
{
    enum { MOST = 64 };
    static char path[64];
    gimbal_tensor items[MOST];
    gimbal_error err = {0};
    const int n = MIN(st_count(st), MOST);
    snprintf(path, sizeof path, "/dev/shm/gimbal-fuzz-%d.safetensors", (int)getpid());
    for (int i = 0; i < n; i++) {
        const StEntry *e = st_entry(st, i);
        items[i] = (gimbal_tensor){.name = e->name, .type = e->spelling, .nd = e->nd, .data = e->data};
        memcpy(items[i].n, e->n, sizeof items[i].n);
    }
    int code = st_write(path, items, n, (const char *const[]){"format", "pt", NULL}, &err);
    want_message(code, &err);
    SafeTensors *back = NULL;
    if (!code)
        WANT(!st_open(&back, path, &err) && st_count(back) == n);
    for (int i = 0; i < n && back; i++) {
        const StEntry *a = st_entry(st, i), *b = st_find(back, a->name);
        WANT(b && b->bytes == a->bytes && b->nd == a->nd && !strcmp(b->spelling, a->spelling));
        WANT(!a->bytes || !memcmp(a->data, b->data, a->bytes));
    }
    st_close(back);
    unlink(path);
}

FUZZ(safetensors)
{
    static MemoryFile file;
    gimbal_error err = {0};
    SafeTensors *st;
    if (!file.path[0])
        memory_file(&file);
    refill(file.fd, data, size);
    const int code = st_open(&st, file.path, &err);
    want_message(code, &err);
    if (code)
        return 0;
    read_all(st);
    read_floats_of(file.path, st);
    round_trip(st);
    st_close(st);
    return 0;
}
