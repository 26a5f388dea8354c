/* fuzz_tokenizer.c: bytes cut at 0xFE into vocab.json, merges.txt, tokenizer_config.json,
 * special_tokens_map.json, added_tokens.json, tokenizer.json and a text. With less than two parts it is a
 * text for the tiny vocabulary of the golden model. Files of empty parts are not there. */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>

static void encode(const Tokenizer *t, const char *text)
{
    gimbal_error err = {0};
    int32_t ids[77];
    int dropped = -1;
    const int code = tokenize(t, text, ids, 77, &dropped, &err);
    want_message(code, &err);
    WANT(code || dropped >= 0);
    for (int i = 0; i < 77 && !code; i++)
        WANT(ids[i] >= 0 && ids[i] < tokenizer_vocab(t));
}

static void put_file(const char *dir, const char *name, const uint8_t *data, size_t size)
{
    char path[PATH_ROOM];
    WANT(!path_join(path, dir, name, NULL));
    unlink(path);
    if (!size)
        return;
    const int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    WANT(fd >= 0);
    refill(fd, data, size);
    close(fd);
}

static const char *const tokenizer_files[] = {
    "vocab.json",        "merges.txt",    "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "tokenizer.json"};
static char fuzz_dir[64];

static void remove_dir(void)
{
    for (int i = 0; i < COUNT(tokenizer_files); i++)
        put_file(fuzz_dir, tokenizer_files[i], NULL, 0);
    rmdir(fuzz_dir);
}

static void encode_with_tiny(const uint8_t *data, size_t size)
{
    static Tokenizer *tiny; /* kept to the end: opening reads files */
    gimbal_error err = {0};
    if (!tiny)
        WANT(!tokenizer_open(&tiny, "tests/golden/models/animatediff-tiny/tokenizer", &err));
    char *text = next_text(&data, &size, 0);
    encode(tiny, text);
    free(text);
}

FUZZ(tokenizer)
{
    gimbal_error err = {0};
    if (size == 0 || !memchr(data, 0xFE, size)) {
        encode_with_tiny(data, size);
        return 0;
    }
    if (!fuzz_dir[0]) {
        strcpy(fuzz_dir, "/dev/shm/gimbal-fuzz-XXXXXX");
        WANT(mkdtemp(fuzz_dir) != NULL);
        atexit(remove_dir);
    }
    for (int i = 0; i < COUNT(tokenizer_files); i++) {
        const uint8_t *cut = size ? memchr(data, 0xFE, size) : NULL;
        const size_t n = cut ? (size_t)(cut - data) : 0;
        put_file(fuzz_dir, tokenizer_files[i], data, n);
        data += n + (cut != NULL), size -= n + (cut != NULL);
    }
    char *text = next_text(&data, &size, 0);
    Tokenizer *t;
    const int code = tokenizer_open(&t, fuzz_dir, &err);
    want_message(code, &err);
    if (!code)
        encode(t, text), encode(t, "a cat, a ba");
    tokenizer_close(t);
    free(text);
    return 0;
}
