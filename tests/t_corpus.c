/* t_corpus.c: every file of tests/fuzz/corpus/NAME/ is fed to the fuzz target NAME, compiled in without
 * libFuzzer: what fuzzing found once stays mended, on every run of the suite and under its sanitizers.
 *
 * A folder without a target, a target without files, and a fuzz_NAME.c that is not in the list below are
 * failures. Knows targets by name. Refuses to know what they test. */
#define FUZZ_CORPUS
#include "tests/fuzz/fuzz_clips.c"
#include "tests/fuzz/fuzz_config.c"
#include "tests/fuzz/fuzz_folder.c"
#include "tests/fuzz/fuzz_json.c"
#include "tests/fuzz/fuzz_npy.c"
#include "tests/fuzz/fuzz_options.c"
#include "tests/fuzz/fuzz_recipe.c"
#include "tests/fuzz/fuzz_safetensors.c"
#include "tests/fuzz/fuzz_state.c"
#include "tests/fuzz/fuzz_tokenizer.c"

#include "tests/check.h"

#include <dirent.h>

#define TARGETS(X)                                                                                           \
    X(clips) X(config) X(folder) X(json) X(npy) X(options) X(recipe) X(safetensors) X(state) X(tokenizer)
#define CORPUS "tests/fuzz/corpus"

static char current[PATH_ROOM]; /* the file that is being fed */

void corpus_broken(const char *property)
{
    fail_msg("%s: broken: %s", current, property);
}

/* Calls f(name) for every entry of `dir` that begins with `head` and ends in `tail`; their number. */
static int each_entry(const char *dir, const char *head, const char *tail, void (*f)(const char *name))
{
    DIR *d = opendir(dir);
    int n = 0;
    check(d != NULL, "%.200s", dir);
    for (struct dirent *e; (e = readdir(d));) {
        const size_t length = strlen(e->d_name);
        if (e->d_name[0] == '.' || strncmp(e->d_name, head, strlen(head)) || length < strlen(tail) ||
            strcmp(e->d_name + length - strlen(tail), tail))
            continue;
        n++;
        if (f)
            f(e->d_name);
    }
    closedir(d);
    return n;
}

/* In a heap block of its very size, so that a sanitizer sees a byte too far. */
static void feed(const char *dir, const char *name, int (*target)(const uint8_t *, size_t))
{
    char *text;
    size_t n;
    gimbal_error err = {0};
    check_ok(path_join(current, dir, name, &err), err);
    check_ok(read_file(&text, &n, current, 1 << 20, &err), err);
    uint8_t *bytes = malloc(n ? n : 1);
    memcpy(bytes, text, n);
    free(text);
    target(bytes, n);
    free(bytes);
}

static void feed_all(const char *name, int (*target)(const uint8_t *, size_t))
{
    char dir[PATH_ROOM];
    int n = 0;
    snprintf(dir, sizeof dir, CORPUS "/%s", name);
    DIR *d = opendir(dir);
    check(d != NULL, "%.200s: no corpus", dir);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.')
            feed(dir, e->d_name, target), n++;
    closedir(d);
    check(n >= 5, "%.200s has %d files", dir, n);
}

#define TEST(name)                                                                                           \
    static void corpus_of_##name(void **state)                                                               \
    {                                                                                                        \
        (void)state;                                                                                         \
        feed_all(#name, fuzz_##name);                                                                        \
    }
TARGETS(TEST)

#define NAME(name) #name,
static const char *const targets[] = {TARGETS(NAME)};

static void check_known(const char *name)
{
    for (int i = 0; i < COUNT(targets); i++)
        if (!strcmp(name, targets[i]))
            return;
    fail_msg("%s is not in the list of t_corpus.c", name);
}

static void check_source(const char *file)
{
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)(strlen(file) - strlen("fuzz_.c")), file + strlen("fuzz_"));
    check_known(name);
}

static void every_corpus_and_every_target_is_known(void **state)
{
    (void)state;
    assert_int_equal(each_entry(CORPUS, "", "", check_known), COUNT(targets));
    assert_int_equal(each_entry("tests/fuzz", "fuzz_", ".c", check_source), COUNT(targets));
}

int main(void)
{
#define ROW(name) cmocka_unit_test(corpus_of_##name),
    const struct CMUnitTest tests[] = {TARGETS(ROW) cmocka_unit_test(every_corpus_and_every_target_is_known)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
