/* failing.h: a function is run with its n-th allocation failing, for all n until none fails: each time it
 * must say "no memory", give back all it had, and work when tried again.
 *
 * Needs the linker's help: -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=free
 * (without it the tests are skipped). jansson's blocks are counted but granted: jansson 2.14 takes no notice
 * when it cannot grow the buffer of a token, so nothing can be asked of it. OpenSSL, utf8proc, oneDNN and
 * kissfft keep their own allocator. Allocations of one thread at a time. */
#ifndef FAILING_H
#define FAILING_H

#include "tests/check.h"

#include <jansson.h>
#include <stdbool.h>

#define WEAK __attribute__((weak))
void *__real_malloc(size_t) WEAK;
void *__real_calloc(size_t, size_t) WEAK;
void *__real_realloc(void *, size_t) WEAK;
void *__real_aligned_alloc(size_t, size_t) WEAK;
void __real_free(void *) WEAK;
void *__wrap_malloc(size_t);
void *__wrap_calloc(size_t, size_t);
void *__wrap_realloc(void *, size_t);
void *__wrap_aligned_alloc(size_t, size_t);
void __wrap_free(void *);

static long countdown = -1; /* allocations until one fails; -1: never */
static long live;           /* blocks given and not freed */

static bool fails(void)
{
    return countdown >= 0 && countdown-- == 0;
}

/* How many of our blocks have this hash: a library's own blocks come to free() as well (kissfft's plans) and
 * must not be counted. */
static uint8_t *ours(const void *p)
{
    static uint8_t known[1 << 22];
    return &known[((uintptr_t)p >> 4) * 0x9E3779B97F4A7C15u >> 42];
}

static void *counted(void *p)
{
    if (p)
        live++, ++*ours(p);
    return p;
}

static void forget(const void *p)
{
    if (p && *ours(p))
        live--, --*ours(p);
}

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : counted(__real_malloc(n));
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : counted(__real_calloc(n, size));
}

void *__wrap_realloc(void *p, size_t n)
{
    if (fails())
        return NULL;
    forget(p);
    void *q = __real_realloc(p, n);
    counted(q ? q : p); /* a failure leaves the old block */
    return q;
}

void *__wrap_aligned_alloc(size_t alignment, size_t n)
{
    return fails() ? NULL : counted(__real_aligned_alloc(alignment, n));
}

void __wrap_free(void *p)
{
    forget(p);
    __real_free(p);
}

static void *granted(size_t n)
{
    return counted(__real_malloc(n));
}

/* Runs `load` until it succeeds with every allocation granted. `lenient`: it may also do without and succeed.
 */
static inline void fail_each_of(int (*load)(gimbal_error *), const char *what, bool lenient)
{
    if (!__real_malloc)
        skip();
    json_set_alloc_funcs(granted, __wrap_free);
    long n = 0;
    for (;; n++) {
        gimbal_error e = {0};
        const long before = live;
        countdown = n;
        const int code = load(&e);
        const bool spent = countdown < 0;
        countdown = -1;
        check(live == before, "%s, allocation %ld: %ld blocks lost (code %d)", what, n, live - before, code);
        if (!code && !spent)
            break;
        check((lenient && !code) || (code == GIMBAL_ENOMEM && e.code == code && e.msg[0]),
              "%s, allocation %ld: code %d, %.200s", what, n, code, e.msg);
        check(n < 100000, "%s comes to an end", what);
    }
    check(n > 0, "%s: %ld allocations were failed", what, n);
}

static inline void fail_each(int (*load)(gimbal_error *), const char *what)
{
    fail_each_of(load, what, false);
}

#endif
