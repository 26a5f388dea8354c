/* memory.c: arenas, aligned arrays, and how much memory there is.
 *
 * An arena is a list of blocks, the one being filled first. Small requests share blocks of 64 KiB; a large
 * one gets a block of its own behind the head, so that the head's room is not lost. Blocks come from calloc:
 * big ones cost no page until touched. Refuses to know what is stored. */
#include "base/base.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { ALIGN = 16, BLOCK = 64 * 1024 };

typedef struct ArenaBlock {
    struct ArenaBlock *next;
    size_t size, used; /* bytes of data */
    _Alignas(ALIGN) unsigned char data[];
} ArenaBlock;

static ArenaBlock *block_new(size_t size)
{
    ArenaBlock *b = size <= PTRDIFF_MAX - sizeof *b ? calloc(1, sizeof *b + size) : NULL;
    if (b)
        b->size = size;
    return b;
}

void *arena_alloc(Arena *a, size_t bytes)
{
    if (bytes > PTRDIFF_MAX - ALIGN)
        return NULL;
    bytes = (MAX(bytes, 1) + ALIGN - 1) / ALIGN * ALIGN;

    ArenaBlock *b = a->blocks;
    if (!b || b->size - b->used < bytes) {
        const bool own = bytes > BLOCK / 4;
        ArenaBlock *fresh = block_new(own ? bytes : BLOCK);
        if (!fresh)
            return NULL;
        ArenaBlock **at = own && b ? &b->next : &a->blocks;
        fresh->next = *at;
        *at = fresh;
        b = fresh;
    }
    void *p = b->data + b->used;
    b->used += bytes;
    return p;
}

char *arena_printf(Arena *a, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    const int n = vsnprintf(NULL, 0, fmt, args);
    char *out = n < 0 ? NULL : arena_alloc(a, (size_t)n + 1);
    if (out)
        vsnprintf(out, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(args);
    return out;
}

void arena_free(Arena *a)
{
    for (ArenaBlock *b = a->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    a->blocks = NULL;
}

void arena_reset(Arena *a)
{
    ArenaBlock *largest = a->blocks;
    for (ArenaBlock *b = a->blocks; b; b = b->next)
        if (b->size > largest->size)
            largest = b;
    if (!largest)
        return;
    for (ArenaBlock *b = a->blocks, *next; b; b = next) {
        next = b->next;
        if (b != largest)
            free(b);
    }
    memset(largest->data, 0, largest->used); /* what arena_alloc promises */
    largest->used = 0;
    largest->next = NULL;
    a->blocks = largest;
}

void *alloc_array(size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > PTRDIFF_MAX - 64)
        return NULL;
    return aligned_alloc(64, (MAX(bytes, 1) + 63) / 64 * 64);
}

uint64_t anon_bytes_now(void)
{
    uint64_t kib = 0;
    return file_number("/proc/self/status", "RssAnon:", &kib) ? kib * 1024 : 0;
}

/* Bytes that RLIMIT_AS counts, and RLIMIT_DATA: all maps, and the private writable ones with the stack. Read
 * into a place of its own: close to a limit there may be no other. */
static bool counted_bytes(uint64_t *all, uint64_t *data)
{
    char text[256];
    const int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (fd >= 0)
        close(fd);
    text[MAX(n, 0)] = 0;
    if (sscanf(text, "%" SCNu64 " %*u %*u %*u %*u %" SCNu64, all, data) != 2)
        return false;
    *all *= page, *data *= page;
    return true;
}

/* Bytes until a limit of this process; UINT64_MAX without one. */
static uint64_t bytes_until(int resource, uint64_t used)
{
    struct rlimit limit;
    if (getrlimit(resource, &limit) || limit.rlim_cur == RLIM_INFINITY)
        return UINT64_MAX;
    return limit.rlim_cur - MIN(limit.rlim_cur, used);
}

uint64_t stack_bytes(int threads)
{
    struct rlimit stack;
    const bool counted = bytes_until(RLIMIT_AS, 0) < UINT64_MAX || bytes_until(RLIMIT_DATA, 0) < UINT64_MAX;
    if (!counted || getrlimit(RLIMIT_STACK, &stack))
        return 0;
    const uint64_t usual = UINT64_C(2) << 20; /* glibc's where the limit is none */
    return (uint64_t)MAX(threads - 1, 0) * (stack.rlim_cur == RLIM_INFINITY ? usual : stack.rlim_cur);
}

uint64_t memory_available(void)
{
    uint64_t kib = 0, all, data, least = cgroup_memory("");
    if (file_number("/proc/meminfo", "MemAvailable:", &kib))
        least = MIN(least, kib * 1024);
    if (counted_bytes(&all, &data))
        least = MIN(least, MIN(bytes_until(RLIMIT_AS, all), bytes_until(RLIMIT_DATA, data)));
    return least;
}
