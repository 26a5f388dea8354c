/* fuzz.h: what the fuzz targets share: files in memory, named by path, since loaders take paths.
 *
 * Build one (clang only; base and io are compiled in, so that they are instrumented, the rest comes from a
 * release build):
 *     clang -std=gnu11 -g -O1 -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -DGIMBAL_VERSION='"fuzz"' \
 *         -Iinclude -Isrc -I. tests/fuzz/fuzz_safetensors.c src/io/[a-z]*.c src/base/[a-z]*.c
 * build/release/libgimbal.a \ -o /tmp/fuzz_safetensors -ldnnl -lkissfft-float -ljansson -lcrypto -lutf8proc
 * -l:libgomp.so.1 -lm Run it:  /tmp/fuzz_safetensors -max_len=4096 -max_total_time=60 -rss_limit_mb=4096
 * CORPUS_FOLDER */
#ifndef FUZZ_H
#define FUZZ_H

#include "io/io.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The same file each time, with these bytes. */
static inline void refill(int fd, const void *data, size_t size)
{
    if (ftruncate(fd, 0) || pwrite(fd, data, size, 0) != (ssize_t)size)
        abort();
}

/* Every failure must have a message. */
static inline void want_message(int code, const gimbal_error *err)
{
    if (code && (!err->msg[0] || err->code != code))
        abort();
}

#endif
