/* t_io_memory.c: every loader of src/io with each of its allocations failing in turn (failing.h says how).
 * t_memory.c does the same for the engine. */
#include "tests/io_files.h"

#include "tests/failing.h"

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
