/* t_io_memory.c: every loader is run with its n-th allocation failing, for all n until none fails: each time
 * it must say "no memory", give back all it had, and work when tried again.
 *
 * Needs the linker's help: -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=free
 * (without it the tests are skipped). jansson's blocks are counted but granted: jansson 2.14 takes no notice
 * when it cannot grow the buffer of a token, so nothing can be asked of it. OpenSSL and utf8proc keep their
 * own allocator. */
#include "tests/io_files.h"

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

static void *counted(void *p)
{
    live += p != NULL;
    return p;
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
    void *q = __real_realloc(p, n);
    live += !p && q;
    return q;
}

void *__wrap_aligned_alloc(size_t alignment, size_t n)
{
    return fails() ? NULL : counted(__real_aligned_alloc(alignment, n));
}

void __wrap_free(void *p)
{
    live -= p != NULL;
    __real_free(p);
}

static void *granted(size_t n)
{
    return counted(__real_malloc(n));
}

/* Runs `load` until it succeeds with every allocation granted. */
static void fail_each(int (*load)(gimbal_error *), const char *what)
{
    if (!__real_malloc)
        skip();
    json_set_alloc_funcs(granted, __wrap_free);
    long n = 0;
    for (;; n++) {
        gimbal_error err = {0};
        const long before = live;
        countdown = n;
        const int code = load(&err);
        const bool spent = countdown < 0;
        countdown = -1;
        check(live == before, "%s, allocation %ld: %ld blocks lost", what, n, live - before);
        if (!code && !spent)
            break;
        check(code == GIMBAL_ENOMEM && err.code == code && err.msg[0], "%s, allocation %ld: code %d, %.200s",
              what, n, code, err.msg);
        check(n < 100000, "%s comes to an end", what);
    }
    check(n > 0, "%s: %ld allocations were failed", what, n);
}

static int load_tensor(gimbal_error *err)
{
    float *x;
    int64_t n[6];
    TRY(gimbal_tensor_read("tests/golden/runs/ad_plain.in.safetensors", "latents", &x, n, err));
    free(x);
    return GIMBAL_OK;
}

static int load_weights(gimbal_error *err)
{
    WeightSet *set;
    TRY(weights_open(&set, folder, err));
    weights_close(set);
    return GIMBAL_OK;
}

static int store(gimbal_error *err)
{
    static const float one = 1;
    const gimbal_tensor items[] = {{"a", "F32", 0, {0}, &one}, {"b", "F32", 1, {1}, &one}};
    return st_write(in_folder("model-1-of-1.safetensors"), items, 2, (const char *const[]){"k", "v", NULL},
                    err);
}

static int load_tokenizer(gimbal_error *err)
{
    Tokenizer *t;
    TRY(tokenizer_open(&t, folder, err));
    int32_t ids[77];
    int dropped;
    const int code = tokenize(t, "a cat, a ba", ids, 77, &dropped, err);
    tokenizer_close(t);
    return code;
}

static Weight weight;

static void one_param(void *self, Params *p)
{
    (void)self;
    pv_leaf(p, "a", &weight, W_BIAS, 0, (const int64_t[]){0});
    pv_leaf(p, "b", &weight, W_BIAS, 1, (const int64_t[]){1});
}

static int load_and_bind(gimbal_error *err)
{
    WeightSet *set;
    TRY(weights_open(&set, folder, err));
    const int code = bind_weights(set, "", one_param, NULL, NULL, NULL, err);
    weights_close(set);
    return code;
}

static void loaders_survive_every_failed_allocation(void **state)
{
    (void)state;
    fail_each(load_tensor, "gimbal_tensor_read");
    fail_each(store, "st_write");
    put_text("model.safetensors.index.json",
             "{\"weight_map\":{\"a\":\"model-1-of-1.safetensors\",\"b\":\"model-1-of-1.safetensors\"}}");
    fail_each(load_weights, "weights_open");
    fail_each(load_and_bind, "bind_weights");
}

static void the_tokenizer_survives_every_failed_allocation(void **state)
{
    (void)state;
    put_text("vocab.json",
             "{\"a\":0,\"b\":1,\"a</w>\":2,\"ba\":3,\"<|endoftext|>\":4,\"<|startoftext|>\":5}");
    put_text("merges.txt", "#v\nb a\nb a</w>\n");
    put_text("special_tokens_map.json", "{\"pad_token\":\"!\"}");
    put_text("added_tokens.json", "{\"cat\":9}");
    fail_each(load_tokenizer, "tokenizer_open");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(loaders_survive_every_failed_allocation),
        IN_FOLDER(the_tokenizer_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
