/* t_tokenizer.c: ids equal those of transformers' slow CLIPTokenizer: the golden cases, and some 180 odd
 * texts of tests/golden/tokenizer.json (marks, ideographs, emoji, controls, special tokens inside the text,
 * long prompts). */
#include "tests/io_files.h"

#define TINY "tests/golden/models/animatediff-tiny/tokenizer"
enum { LENGTH = 77 };

static void copy(const char *from, const char *name)
{
    gimbal_error err = {0};
    char *bytes;
    size_t n;
    check_ok(read_file(&bytes, &n, from, 1 << 20, &err), err);
    put_bytes(name, bytes, n);
    free(bytes);
}

/* The tiny vocabulary in the test's folder with files of one's own (NULL: none). */
static Tokenizer *variant(const char *config, const char *map, const char *added)
{
    gimbal_error err = {0};
    Tokenizer *t;
    copy(TINY "/vocab.json", "vocab.json");
    copy(TINY "/merges.txt", "merges.txt");
    if (config)
        put_text("tokenizer_config.json", config);
    if (map)
        put_text("special_tokens_map.json", map);
    if (added)
        put_text("added_tokens.json", added);
    check_ok(tokenizer_open(&t, folder, &err), err);
    return t;
}

static json_t *golden_json(const char *path)
{
    gimbal_error err = {0};
    json_t *json;
    check_ok(json_read(&json, path, &err), err);
    return json;
}

static void check_ids(const Tokenizer *t, const char *text, const int32_t *want, int n)
{
    gimbal_error err = {0};
    int32_t ids[LENGTH];
    int dropped;
    check_ok(tokenize(t, text, ids, LENGTH, &dropped, &err), err);
    for (int i = 0; i < n; i++)
        check(ids[i] == want[i], "\"%.80s\": id %d is %d, expected %d", text, i, ids[i], want[i]);
}

static void golden_ids_are_exact(void **state)
{
    (void)state;
    gimbal_error err = {0};
    json_t *manifest = golden_json("tests/golden/manifest.json"), *item;
    Tokenizer *tiny, *bang = variant("{\"pad_token\":\"!\"}", NULL, NULL);
    check_ok(tokenizer_open(&tiny, TINY, &err), err);
    assert_int_equal(tokenizer_vocab(tiny), 657);
    static const char *const sets[] = {"animatediff-tiny", "modelscope-tiny"};
    for (int k = 0; k < 2; k++) {
        const json_t *cases = json_object_get(json_object_get(manifest, "tokenizer"), sets[k]);
        check(json_array_size(cases) > 5, "%s has cases", sets[k]);
        size_t i;
        json_array_foreach(cases, i, item)
        {
            int32_t want[LENGTH];
            for (size_t j = 0; j < LENGTH; j++)
                want[j] = (int32_t)json_integer_value(json_array_get(json_object_get(item, "ids"), j));
            check_ids(k ? bang : tiny, json_string_value(json_object_get(item, "text")), want, LENGTH);
        }
    }
    tokenizer_close(tiny);
    tokenizer_close(bang);
    json_decref(manifest);
}

/* Tokens [n] between start and end, then padding. */
static void check_tokens(const Tokenizer *t, const char *text, const json_t *tokens, int dropped, int32_t pad)
{
    gimbal_error err = {0};
    int32_t want[LENGTH], ids[LENGTH];
    int found, n = (int)json_array_size(tokens);
    want[0] = 655;
    for (int i = 0; i < n; i++)
        want[1 + i] = (int32_t)json_integer_value(json_array_get(tokens, (size_t)i));
    want[1 + n] = 656;
    for (int i = n + 2; i < LENGTH; i++)
        want[i] = pad;
    check_ids(t, text, want, LENGTH);
    check_ok(tokenize(t, text, ids, LENGTH, &found, &err), err);
    check(found == dropped, "\"%.80s\": %d dropped, expected %d", text, found, dropped);
}

static void odd_texts_are_exact(void **state)
{
    (void)state;
    json_t *json = golden_json("tests/golden/tokenizer.json"), *item;
    Tokenizer *tiny = variant(NULL, NULL, NULL);
    gimbal_error err = {0};
    Tokenizer *bang;
    put_text("special_tokens_map.json", "{\"pad_token\":{\"content\":\"!\"}}");
    check_ok(tokenizer_open(&bang, folder, &err), err);
    size_t i;
    check(json_array_size(json_object_get(json, "cases")) > 150, "cases");
    json_array_foreach(json_object_get(json, "cases"), i, item)
    {
        const char *text = json_string_value(json_array_get(item, 0));
        const json_t *a = json_array_get(item, 1), *b = json_array_get(item, 3);
        const int dropped = (int)json_integer_value(json_array_get(item, 2));
        check_tokens(tiny, text, a, dropped, 656);
        check_tokens(bang, text, b ? b : a, dropped, 0);
    }
    tokenizer_close(tiny);
    tokenizer_close(bang);
    json_decref(json);
}

static void added_tokens_come_from_any_of_the_files(void **state)
{
    (void)state;
    /* "walk" is cut out of "walking"; <new> gets the next free id; a decoder in the configuration silences
     * the map */
    Tokenizer *t =
        variant("{}", "{\"additional_special_tokens\":[\"<new>\",{\"content\":\"cat\"}]}", "{\"walk\":900}");
    gimbal_error err = {0};
    check_ids(t, "<new>walking Cat cat", (int32_t[]){655, 657, 900, 72, 77, 326, 513, 658, 656}, 9);
    check_ids(t, "cat", (int32_t[]){655, 658, 656}, 3);
    assert_int_equal(tokenizer_vocab(t), 901);
    tokenizer_close(t);
    put_text("tokenizer_config.json",
             "{\"added_tokens_decoder\":{\"700\":{\"content\":\"cat\"},\"701\":{\"content\":\"c\"}}}");
    check_ok(tokenizer_open(&t, folder, &err), err);
    check_ids(t, "catc", (int32_t[]){655, 700, 701, 656}, 4);
    tokenizer_close(t);
}

static void long_texts_cost_little_and_are_counted(void **state)
{
    (void)state;
    enum { N = 200000 };
    gimbal_error err = {0};
    Tokenizer *t;
    int32_t ids[LENGTH];
    int dropped;
    char *text = malloc(N + 1);
    check_ok(tokenizer_open(&t, TINY, &err), err);
    memset(text, 'q', N), text[N] = 0; /* one word of 200,000 letters that never merge */
    check_ok(tokenize(t, text, ids, LENGTH, &dropped, &err), err);
    assert_int_equal(dropped, N - 75);
    for (int i = 0; i < N; i++)
        text[i] = "walking"[i % 7];
    check_ok(tokenize(t, text, ids, LENGTH, &dropped, &err), err);
    check(dropped > 1000 && ids[76] == 656, "cut at 75 tokens, then the end");
    for (int i = 0; i + 1 < N; i += 2)
        memcpy(&text[i], i % 4 ? "\xcc\xa7" : "\xcc\x81", 2); /* combining marks in the wrong order */
    check_fails(tokenize(t, text, ids, LENGTH, &dropped, &err), GIMBAL_EUSAGE, err, "combining marks");
    free(text);
    tokenizer_close(t);
}

static void texts_that_cannot_be_encoded_are_refused(void **state)
{
    (void)state;
    gimbal_error err = {0};
    Tokenizer *t;
    int32_t ids[LENGTH];
    int dropped;
    check_ok(tokenizer_open(&t, TINY, &err), err);
    check_fails(tokenize(t, "a cat \xff", ids, LENGTH, &dropped, &err), GIMBAL_EUSAGE, err,
                "not UTF-8 at byte 6");
    check_fails(tokenize(t, "a\xc3", ids, LENGTH, &dropped, &err), GIMBAL_EUSAGE, err, "not UTF-8 at byte 1");
    check_fails(tokenize(t, "a", ids, 1, &dropped, &err), GIMBAL_EUSAGE, err, "cannot hold start and end");
    check_ok(tokenize(t, "a cat", ids, 3, &dropped, &err), err);
    check(ids[0] == 655 && ids[1] == 320 && ids[2] == 656 && dropped == 1, "a context of three");
    tokenizer_close(t);
}

static void damaged_folders_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *file, *text;
        int code;
        const char *says;
    } wrong[] = {
        {"vocab.json", "{\"a\":-1}", GIMBAL_EFORMAT, "the id of \"a\""},
        {"vocab.json", "{\"a\":\"1\"}", GIMBAL_EFORMAT, "the id of \"a\""},
        {"vocab.json", "{\"a\":2147483647}", GIMBAL_EFORMAT, "the id of \"a\""},
        {"vocab.json", "[]", GIMBAL_EFORMAT, "expected an object"},
        {"merges.txt", "#v\na b c\n", GIMBAL_EFORMAT, "merge 1 is not two symbols"},
        {"merges.txt", "#v\na\xff b\n", GIMBAL_EFORMAT, "not UTF-8"},
        {"tokenizer_config.json", "{\"tokenizer_class\":\"T5Tokenizer\"}", GIMBAL_EMODEL,
         "\"tokenizer_class\" is \"T5Tokenizer\""},
        {"tokenizer_config.json", "{\"padding_side\":\"left\"}", GIMBAL_EMODEL, "padding_side"},
        {"tokenizer_config.json", "{\"pad_token\":3}", GIMBAL_EFORMAT, "an added token without text"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\":{\"x\":{\"content\":\"y\"}}}", GIMBAL_EFORMAT,
         "added token \"x\""},
        {"tokenizer_config.json", "{\"added_tokens_decoder\":{\"99999999999\":{\"content\":\"y\"}}}",
         GIMBAL_EFORMAT, "has the id 99999999999"},
        {"tokenizer_config.json", "{\"mask_token\":{\"content\":\"y\",\"single_word\":true}}", GIMBAL_ENOSUP,
         "single_word"},
        {"added_tokens.json", "{\"x\":-1}", GIMBAL_EFORMAT, "the id of \"x\""},
        {"tokenizer.json", "{\"added_tokens\":[{\"content\":\"x\"}]}", GIMBAL_EFORMAT, "has no id"},
    };
    gimbal_error err = {0};
    for (int i = 0; i < COUNT(wrong); i++) {
        Tokenizer *t = variant(NULL, NULL, NULL);
        tokenizer_close(t);
        put_text(wrong[i].file, wrong[i].text);
        check_fails(tokenizer_open(&t, folder, &err), wrong[i].code, err, wrong[i].says);
        assert_null(t);
        unlink(in_folder(wrong[i].file));
    }
    Tokenizer *t;
    unlink(in_folder("merges.txt"));
    copy(TINY "/vocab.json", "vocab.json");
    check_fails(tokenizer_open(&t, folder, &err), GIMBAL_EIO, err, "merges.txt");
    unlink(in_folder("vocab.json"));
    check_fails(tokenizer_open(&t, folder, &err), GIMBAL_EIO, err, "tokenizer.json alone is not read");
}

/* Order of merging: all places of the pair with the lowest rank, from the left, before the next pair, even
 * when a merge has made a pair of lower rank. */
static void merges_go_rank_by_rank(void **state)
{
    (void)state;
    gimbal_error err = {0};
    Tokenizer *t;
    put_text("vocab.json", "{\"a\":0,\"b\":1,\"b</w>\":2,\"ab\":3,\"ab</w>\":4,\"aba\":5,\"abab</"
                           "w>\":6,\"aa\":7,\"a</w>\":8,\"?\":9,"
                           "\"<|endoftext|>\":10,\"<|startoftext|>\":11}");
    put_text("merges.txt", "#v\r\nab a\r\na b\r\na b</w>\r\n\r\na a\r\n");
    check_ok(tokenizer_open(&t, folder, &err), err);
    check_ids(t, "ababab", (int32_t[]){11, 3, 5, 2, 10}, 5); /* a merge at once would give aba, b, ab */
    check_ids(t, "aaaa aaa", (int32_t[]){11, 7, 0, 8, 7, 8, 10}, 7);
    check_ids(t, "c", (int32_t[]){11, 10, 10}, 3); /* unknown */
    tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(golden_ids_are_exact),
        IN_FOLDER(odd_texts_are_exact),
        IN_FOLDER(added_tokens_come_from_any_of_the_files),
        IN_FOLDER(long_texts_cost_little_and_are_counted),
        IN_FOLDER(texts_that_cannot_be_encoded_are_refused),
        IN_FOLDER(damaged_folders_are_refused_by_name),
        IN_FOLDER(merges_go_rank_by_rank),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
