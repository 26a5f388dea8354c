/* base.h: what every folder stands on: errors, memory, files, option tables, random numbers, threads.
 *
 * Knows libc and POSIX. Refuses to know tensors, models, and file formats. */
#ifndef BASE_H
#define BASE_H

#include "gimbal.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

/* ---- errors: error.c --------------------------------------------------------------------- */

#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))

/* Keep the first error of *err (err may be NULL) and return `code`, so that failing is one line:
 *     return fail(err, GIMBAL_EFORMAT, "%s: header is %zu bytes, file has %zu", path, n, size);
 * A message names what, where, expected and found. */
int fail(gimbal_error *err, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* The same with a hint: what the reader can do about it. */
int fail_hint(gimbal_error *err, int code, const char *hint, const char *fmt, ...) PRINTF_LIKE(4, 5);

#define TRY(call)                                                                                            \
    do {                                                                                                     \
        int try_code_ = (call);                                                                              \
        if (try_code_)                                                                                       \
            return try_code_;                                                                                \
    } while (0)

/* ---- memory: memory.c -------------------------------------------------------------------- */

/* Grows in blocks, frees all at once. Zero-initialise to start. Memory is zeroed and 16-byte aligned.
 * NULL when the system has none left. */
typedef struct Arena {
    struct ArenaBlock *blocks;
} Arena;
void *arena_alloc(Arena *, size_t bytes);
char *arena_printf(Arena *, const char *fmt, ...) PRINTF_LIKE(2, 3);
void arena_free(Arena *);  /* everything, back to the zero state */
void arena_reset(Arena *); /* everything, but keeps the largest block for reuse */

/* 64-byte aligned, not zeroed; free() it. NULL on overflow of count * size as well. */
void *alloc_array(size_t count, size_t size);

/* Anonymous resident bytes of this process now; 0 where the system does not say. */
uint64_t anon_bytes_now(void);
/* Bytes of memory that can still be had before swapping, or before a limit: the least of system, cgroup and
 * the process's own RLIMIT_DATA and RLIMIT_AS; UINT64_MAX where none says. */
uint64_t memory_available(void);
/* What the stacks of `threads` take of the process's own limits; 0 without them, for a stack costs no memory
 * until it is used. */
uint64_t stack_bytes(int threads);

/* ---- files: file.c ----------------------------------------------------------------------- */

typedef struct {
    const uint8_t *data;
    size_t size;
} Mapped;
/* Read-only map. An empty file gives data NULL, size 0. EIO with the system's reason. */
int map_file(Mapped *out, const char *path, gimbal_error *err);
/* The same bytes in memory of our own: what happens to the file afterwards does not matter. ENOMEM. */
int load_file(Mapped *out, const char *path, gimbal_error *err);
void unmap_file(Mapped *);

/* The whole file with a zero behind it; *out is the caller's (free). EFORMAT above `limit` bytes. */
int read_file(char **out, size_t *size, const char *path, size_t limit, gimbal_error *err);
/* The number behind `key` at the start of a line of a small text file (/proc, /sys); key "": at its very
 * start. */
bool file_number(const char *path, const char *key, uint64_t *out);
bool is_file(const char *path);
bool is_folder(const char *path);
/* "a/b" into out[PATH_ROOM]; EUSAGE when it does not fit. */
enum { PATH_ROOM = 4096 };
int path_join(char out[PATH_ROOM], const char *folder, const char *name, gimbal_error *err);

/* Outputs appear whole or not at all: write to stage.path, then stage_commit renames it to the target;
 * stage_abort removes it. The temporary file lies in the target's folder and keeps its ending.
 * stage_open creates it, so that a place that cannot be written is found before any work. */
typedef struct {
    char path[PATH_ROOM], target[PATH_ROOM];
    bool open;
} Stage;
int stage_open(Stage *, const char *target, gimbal_error *err);
int stage_commit(Stage *, gimbal_error *err);
void stage_abort(Stage *); /* nothing to do after a commit */

/* ---- text and option tables: option.c ---------------------------------------------------- */

/* Fill the fields that `table` describes with its defaults. */
void options_default(const gimbal_option *table, void *object);
/* "passes=3,filter=gaussian" into object, after its defaults. TEXT values are copied into *keep. */
int options_parse(const gimbal_option *table, void *object, const char *text, const char *what, Arena *keep,
                  gimbal_error *err);
/* The value of one field as text that options_parse and gimbal_set read back. */
void option_print(const gimbal_option *, const void *object, char *out, size_t room);
/* The nearest of n names (edit distance, at most a third of the letters), or NULL. */
const char *nearest_name(const char *word, const char *(*name_at)(const void *, int i), const void *list,
                         int n);
/* Length in bytes of valid UTF-8 from s, or -1 with *bad = offset of the first bad byte. */
long utf8_check(const char *s, size_t *bad);

/* ---- random numbers: rng.c --------------------------------------------------------------- */

/* Philox4x32-10 (Salmon et al., SC 2011): 128-bit counter, 64-bit key. */
void philox(const uint32_t counter[4], uint64_t key, uint32_t out[4]);

/* A normal value is a function of (seed, stream, absolute frame, channel, y, x): counter (y<<16|x, frame,
 * channel, stream), key seed, Box-Muller on the first two words. out [C,F,h,w]. frame in 0..2^32-1. */
void philox_normal(uint64_t seed, uint32_t stream, int64_t frame0, gimbal_shape shape, float *out);

/* PyTorch's CPU generator (MT19937, torch.randn float32): successive calls draw what successive torch.randn
 * calls draw, with the cached second value of small draws. */
typedef struct {
    uint32_t mt[624];
    int at;
    bool has_next;
    double next;
} TorchRng;
void torch_seed(TorchRng *, uint64_t seed);
void torch_randn(TorchRng *, float *out, size_t n);

/* ---- threads and time: thread.c ---------------------------------------------------------- */

/* What affinity and cgroup quota allow, at least 1. */
int threads_available(void);
double seconds_now(void); /* monotonic */

/* What the process's control groups grant (cgroup.c): CPUs, INFINITY without a quota; bytes until the memory
 * limit, UINT64_MAX without one. `root` stands before /proc and /sys: "" but in tests. */
double cgroup_cpus(const char *root);
uint64_t cgroup_memory(const char *root);

#endif
