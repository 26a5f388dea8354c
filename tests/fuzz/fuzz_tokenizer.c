/* fuzz_tokenizer.c: bytes cut at 0xFE into vocab.json, merges.txt, tokenizer_config.json,
 * special_tokens_map.json and a text. With less than five parts the last is a text for the tiny vocabulary of
 * the golden model (run from the checkout's top). */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>

static const char *const names[] = {"vocab.json", "merges.txt", "tokenizer_config.json",
                                    "special_tokens_map.json"};

static void encode(const Tokenizer *t, const uint8_t *text, size_t n)
{
    gimbal_error err = {0};
    int32_t ids[77];
    int dropped;
    char *copy = malloc(n + 1);
    memcpy(copy, text, n), copy[n] = 0;
    const int code = tokenize(t, copy, ids, 77, &dropped, &err);
    want_message(code, &err);
    for (int i = 0; i < 77 && !code; i++)
        if (ids[i] < 0 || ids[i] >= tokenizer_vocab(t) || dropped < 0)
            abort();
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char dir[] = "/dev/shm/gimbal-fuzz-XXXXXX";
    static int fds[4];
    static Tokenizer *tiny;
    gimbal_error err = {0};
    if (!tiny) {
        if (!mkdtemp(dir) || tokenizer_open(&tiny, "tests/golden/models/animatediff-tiny/tokenizer", &err))
            abort();
        for (int i = 0; i < 4; i++) {
            char path[PATH_ROOM];
            path_join(path, dir, names[i], NULL);
            fds[i] = open(path, O_RDWR | O_CREAT, 0600);
        }
    }
    for (int i = 0; i < 4; i++) {
        const uint8_t *cut = memchr(data, 0xFE, size);
        if (!cut) {
            encode(tiny, data, size);
            return 0;
        }
        refill(fds[i], data, (size_t)(cut - data));
        size -= (size_t)(cut - data) + 1;
        data = cut + 1;
    }
    Tokenizer *t;
    const int code = tokenizer_open(&t, dir, &err);
    want_message(code, &err);
    if (!code)
        encode(t, data, size);
    tokenizer_close(t);
    return 0;
}
