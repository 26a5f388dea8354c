/* memory.c: arenas, aligned arrays, and how much memory there is.
 *
 * An arena is a list of blocks, the one being filled first. Small requests share blocks of 64 KiB; a large
 * one gets a block of its own behind the head, so that the head's room is not lost. Blocks come from calloc:
 * big ones cost no page until touched. Refuses to know what is stored. */
#include "base/base.h"

#include <stdlib.h>
#include <string.h>

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

uint64_t memory_available(void)
{
    uint64_t kib = 0;
    const uint64_t limit = cgroup_memory("");
    if (!file_number("/proc/meminfo", "MemAvailable:", &kib))
        return limit;
    return MIN(kib * 1024, limit);
}
