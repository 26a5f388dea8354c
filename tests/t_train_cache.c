/* t_train_cache.c: latents that were encoded before (src/train/cache.c): what comes back is what was put in,
 * and whatever happened to the files, nothing else does. */
#include "train/train.h"

#include "tests/check.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { FLOATS = 24, RECORD = 32 + 4 * FLOATS, HEAD = 128 };
#define KEY_A "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define KEY_B "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"

static char folder[] = "/tmp/gimbal-cache.XXXXXX";

static const char *file_of(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}
#define OWN "moments-0123456789abcdef-0.bin"

static int count_files(bool remove_them)
{
    DIR *d = opendir(folder);
    int n = 0;
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.') {
            n++;
            if (remove_them)
                remove(file_of(e->d_name));
        }
    if (d)
        closedir(d);
    return n;
}

static int set_up(void **state)
{
    (void)state;
    strcpy(folder + strlen(folder) - 6, "XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    count_files(true);
    return rmdir(folder);
}

static Cache *open_as(const char *key, int rank)
{
    Cache *c;
    gimbal_error err = {0};
    check_ok(cache_open(&c, folder, "moments", key, FLOATS, rank, &err), err);
    return c;
}

/* What record (clip, frame, flip) holds. */
static void fill(int64_t clip, int frame, bool flip, float x[FLOATS])
{
    for (int i = 0; i < FLOATS; i++)
        x[i] = (float)(clip % 1000 * 1000 + frame * 10 + flip) + (float)i / 32;
}

static void add(Cache *c, int64_t clip, int frame, bool flip)
{
    float x[FLOATS];
    gimbal_error err = {0};
    fill(clip, frame, flip, x);
    check_ok(cache_add(c, clip, frame, flip, x, &err), err);
}

/* Is it there? Then it is whole. */
static bool has(Cache *c, int64_t clip, int frame, bool flip)
{
    float x[FLOATS], want[FLOATS];
    if (!cache_find(c, clip, frame, flip, x))
        return false;
    fill(clip, frame, flip, want);
    assert_memory_equal(x, want, sizeof x);
    return true;
}

static void add_ten(int rank)
{
    Cache *c = open_as(KEY_A, rank);
    for (int i = 0; i < 10; i++)
        add(c, 10 * rank + i, i % 3 - 1, i % 2);
    cache_close(c);
}

static int count_of(Cache *c, int rank)
{
    int n = 0;
    for (int i = 0; i < 10; i++)
        n += has(c, 10 * rank + i, i % 3 - 1, i % 2);
    return n;
}

static void flip_bit(const char *name, long at)
{
    FILE *f = fopen(file_of(name), "r+b");
    check(f != NULL, "%s", name);
    fseek(f, at, SEEK_SET);
    const int c = fgetc(f);
    fseek(f, at, SEEK_SET);
    fputc(c ^ 4, f);
    fclose(f);
}

static long size_of(const char *name)
{
    struct stat st;
    return stat(file_of(name), &st) ? -1 : (long)st.st_size;
}

/* ---- tests ------------------------------------------------------------------------------- */

static void records_come_back(void **state)
{
    (void)state;
    Cache *c = open_as(KEY_A, 0);
    assert_int_equal(cache_count(c), 0);
    assert_false(has(c, 0, 0, false));
    add(c, 7, 3, false), add(c, 7, 3, true), add(c, 7, -1, false), add(c, INT64_MAX, 3, false);
    for (int round = 0; round < 2; round++) {
        assert_true(has(c, 7, 3, false) && has(c, 7, 3, true) && has(c, 7, -1, false));
        assert_true(has(c, INT64_MAX, 3, false));
        assert_false(has(c, 7, 2, false) || has(c, 3, 7, false) || has(c, 7, -1, true));
        assert_int_equal(cache_count(c), 4);
        if (!round)
            cache_close(c), c = open_as(KEY_A, 0);
    }
    cache_close(c);
    assert_int_equal(count_files(false), 1);
    assert_int_equal(size_of(OWN), HEAD + 4 * RECORD);
}

/* Whereever the file was torn, what is whole before that stays, and new records are whole too. */
static void a_torn_end_is_cut_off(void **state)
{
    (void)state;
    for (long cut = 0; cut <= RECORD; cut += cut < 40 ? 8 : 23) {
        add_ten(0);
        assert_int_equal(truncate(file_of(OWN), HEAD + 6 * RECORD + cut), 0);
        Cache *c = open_as(KEY_A, 0);
        const int whole = 6 + cut / RECORD;
        assert_int_equal(cache_count(c), whole);
        assert_int_equal(count_of(c, 0), whole);
        add(c, 99, 0, false);
        cache_close(c);
        assert_int_equal(size_of(OWN), HEAD + (whole + 1) * RECORD);
        c = open_as(KEY_A, 0);
        assert_true(has(c, 99, 0, false));
        cache_close(c);
        count_files(true);
    }
}

/* A process may have ended while it made the file. */
static void a_torn_head_is_made_anew(void **state)
{
    (void)state;
    for (long cut = 0; cut < HEAD; cut += 32) {
        add_ten(0);
        assert_int_equal(truncate(file_of(OWN), cut), 0);
        Cache *c = open_as(KEY_A, 0);
        assert_int_equal(cache_count(c), 0);
        add(c, 1, 1, false);
        cache_close(c);
        assert_int_equal(size_of(OWN), HEAD + RECORD);
        c = open_as(KEY_A, 0);
        assert_true(has(c, 1, 1, false));
        cache_close(c);
        count_files(true);
    }
}

/* Whichever byte of a record is another one: that record is gone, its neighbours are there, and it can be put
 * in again for good. */
static void a_flipped_bit_loses_one_record(void **state)
{
    (void)state;
    for (long byte = 0; byte < RECORD; byte++) {
        add_ten(0);
        flip_bit(OWN, HEAD + 4 * RECORD + byte);
        Cache *c = open_as(KEY_A, 0);
        assert_int_equal(count_of(c, 0), 9);
        assert_false(has(c, 4, 0, false));
        assert_int_equal(cache_count(c), 9);
        add(c, 4, 0, false);
        assert_int_equal(count_of(c, 0), 10);
        cache_close(c);
        c = open_as(KEY_A, 0);
        assert_int_equal(count_of(c, 0), 10);
        assert_int_equal(cache_count(c), 10);
        cache_close(c);
        count_files(true);
    }
}

/* Words of a record that changed places, or are all zero as after a lost write. */
static void exchanged_and_lost_blocks_are_found(void **state)
{
    (void)state;
    add_ten(0);
    FILE *f = fopen(file_of(OWN), "r+b");
    char data[HEAD + 10 * RECORD], swap[8];
    assert_int_equal(fread(data, 1, sizeof data, f), sizeof data);
    char *floats = data + HEAD + 2 * RECORD + 32;
    memcpy(swap, floats, 8), memcpy(floats, floats + 8, 8), memcpy(floats + 8, swap, 8);
    memset(data + HEAD + 5 * RECORD, 0, RECORD);
    memset(data + HEAD + 7 * RECORD + 32, 0, RECORD - 32);
    memcpy(data + HEAD + 8 * RECORD + 32, data + HEAD + 3 * RECORD + 32, RECORD - 32); /* another's floats */
    rewind(f);
    fwrite(data, 1, sizeof data, f);
    fclose(f);
    Cache *c = open_as(KEY_A, 0);
    assert_int_equal(count_of(c, 0), 6);
    cache_close(c);
}

static void ranks_read_each_other(void **state)
{
    (void)state;
    add_ten(0), add_ten(1), add_ten(12);
    assert_int_equal(count_files(false), 3);
    Cache *c = open_as(KEY_A, 1);
    assert_int_equal(cache_count(c), 30);
    assert_int_equal(count_of(c, 0) + count_of(c, 1) + count_of(c, 12), 30);
    const long before = size_of(OWN);
    add(c, 1000, 0, false);
    cache_close(c);
    assert_int_equal(size_of(OWN), before);
    assert_int_equal(size_of("moments-0123456789abcdef-1.bin"), HEAD + 11 * RECORD);
    /* another's record that is damaged is put into our own file, and found there from then on */
    flip_bit(OWN, HEAD + 3 * RECORD + 60);
    c = open_as(KEY_A, 1);
    assert_int_equal(count_of(c, 0), 9);
    add(c, 3, -1, true);
    cache_close(c);
    c = open_as(KEY_A, 1);
    assert_int_equal(count_of(c, 0), 10);
    cache_close(c);
    /* and a torn end of another's file may be one that is being written: it is left */
    assert_int_equal(truncate(file_of(OWN), HEAD + 5 * RECORD + 7), 0);
    cache_close(open_as(KEY_A, 1));
    assert_int_equal(size_of(OWN), HEAD + 5 * RECORD + 7);
}

static void two_runs_do_not_write_one_file(void **state)
{
    (void)state;
    Cache *a = open_as(KEY_A, 0), *b = open_as(KEY_A, 0);
    add(a, 1, 0, false), add(b, 2, 0, false), add(a, 3, 0, false);
    cache_close(a), cache_close(b);
    assert_int_equal(count_files(false), 2);
    a = open_as(KEY_A, 0);
    assert_true(has(a, 1, 0, false) && has(a, 2, 0, false) && has(a, 3, 0, false));
    cache_close(a);
    assert_int_equal(count_files(false), 2);
}

/* What another rank adds while both learn is found, in a file that was there before and in a new one. */
static void ranks_that_run_together_share(void **state)
{
    (void)state;
    Cache *a = open_as(KEY_A, 0), *b = open_as(KEY_A, 1);
    add(b, 1, 0, false);
    assert_true(has(a, 1, 0, false));
    add(b, 2, 0, true), add(a, 3, 0, false);
    assert_true(has(a, 2, 0, true) && has(b, 3, 0, false));
    assert_false(has(a, 4, 0, false));
    flip_bit("moments-0123456789abcdef-1.bin", HEAD + 2 * RECORD - 4);
    assert_false(has(a, 2, 0, true)); /* damaged, and not met again */
    assert_false(has(a, 2, 0, true));
    assert_int_equal(cache_count(a), 2);
    add(a, 2, 0, true);
    assert_true(has(a, 2, 0, true));
    /* half a record is none yet */
    add(b, 5, 0, false);
    const char *path = file_of("moments-0123456789abcdef-1.bin");
    const long whole = size_of("moments-0123456789abcdef-1.bin");
    assert_int_equal(truncate(path, whole - 20), 0);
    assert_false(has(a, 5, 0, false));
    cache_close(b);
    b = open_as(KEY_A, 1);
    add(b, 5, 0, false);
    assert_true(has(a, 5, 0, false));
    cache_close(a), cache_close(b);
}

static void another_key_is_another_cache(void **state)
{
    (void)state;
    add_ten(0);
    const long before = size_of(OWN);
    Cache *c = open_as(KEY_B, 0), *texts;
    gimbal_error err = {0};
    assert_int_equal(cache_count(c), 0);
    assert_false(has(c, 0, -1, false));
    add(c, 500, 0, false);
    check_ok(cache_open(&texts, folder, "texts", KEY_A, FLOATS, 0, &err), err);
    assert_int_equal(cache_count(texts), 0);
    cache_close(texts), cache_close(c);
    assert_int_equal(size_of(OWN), before);
    c = open_as(KEY_A, 0);
    assert_int_equal(cache_count(c), 10);
    cache_close(c);
}

/* A file of our name that is another one is not written over; a stranger's among the others' is passed over.
 */
static void foreign_files_are_left_alone(void **state)
{
    (void)state;
    gimbal_error err = {0};
    Cache *c;
    add_ten(0), add_ten(1);
    check_fails(cache_open(&c, folder, "moments", KEY_A, FLOATS + 1, 0, &err), GIMBAL_EFORMAT, err, OWN);
    assert_null(c);
    flip_bit(OWN, 9);
    check_fails(cache_open(&c, folder, "moments", KEY_A, FLOATS, 0, &err), GIMBAL_EFORMAT, err, "remove it");
    assert_int_equal(size_of(OWN), HEAD + 10 * RECORD);
    c = open_as(KEY_A, 1);
    assert_int_equal(cache_count(c), 10);
    cache_close(c);
}

static void a_full_disk_leaves_the_cache_usable(void **state)
{
    (void)state;
    struct rlimit was, small;
    gimbal_error err = {0};
    float x[FLOATS] = {0};
    getrlimit(RLIMIT_FSIZE, &was);
    signal(SIGXFSZ, SIG_IGN);
    Cache *c = open_as(KEY_A, 0);
    for (int i = 0; i < 10; i++)
        add(c, i, i % 3 - 1, i % 2);
    small = (struct rlimit){HEAD + 10 * RECORD + 50, was.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (int i = 0; i < 3; i++)
        check_fails(cache_add(c, 50, 0, false, x, &err), GIMBAL_EIO, err, OWN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    assert_int_equal(size_of(OWN), HEAD + 10 * RECORD);
    assert_false(has(c, 50, 0, false));
    assert_int_equal(count_of(c, 0), 10);
    add(c, 50, 0, false); /* there is room again */
    assert_true(has(c, 50, 0, false));
    cache_close(c);
    c = open_as(KEY_A, 0);
    assert_int_equal(cache_count(c), 11);
    cache_close(c);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    Cache *c;
    gimbal_error err = {0};
    check_fails(cache_open(&c, folder, "../x", KEY_A, FLOATS, 0, &err), GIMBAL_EUSAGE, err, "../x");
    check_fails(cache_open(&c, folder, "x", "abc", FLOATS, 0, &err), GIMBAL_EUSAGE, err, "64 hexadecimal");
    check_fails(cache_open(&c, folder, "x", KEY_A, 0, 0, &err), GIMBAL_EUSAGE, err, "0 floats");
    check_fails(cache_open(&c, folder, "x", KEY_A, INT64_MAX / 4, 0, &err), GIMBAL_EUSAGE, err, "floats");
    check_fails(cache_open(&c, file_of("no/where"), "x", KEY_A, 1, 0, &err), GIMBAL_EIO, err, "no/where");
    FILE *f = fopen(file_of("file"), "w");
    fclose(f);
    check_fails(cache_open(&c, file_of("file"), "x", KEY_A, 1, 0, &err), GIMBAL_EIO, err, "file/");
}

static void a_hundred_thousand_records_are_quick(void **state)
{
    (void)state;
    enum { MANY = 100000 };
    clock_t at[5] = {clock()};
    Cache *c = open_as(KEY_A, 0);
    for (int i = 0; i < MANY; i++)
        add(c, i / 16, i % 16, false);
    cache_close(c);
    at[1] = clock();
    c = open_as(KEY_A, 0);
    at[2] = clock();
    assert_int_equal(cache_count(c), MANY);
    for (int i = 0; i < MANY; i++)
        assert_true(has(c, i / 16, i % 16, false));
    at[3] = clock();
    for (int i = 0; i < MANY; i++)
        assert_false(has(c, i / 16, i % 16, true));
    at[4] = clock();
    cache_close(c);
    for (int i = 0; i < 4; i++) {
        const double us = 1e6 * (double)(at[i + 1] - at[i]) / CLOCKS_PER_SEC / MANY;
        print_message("%s: %.2f us a record\n", (const char *[]){"add", "open", "find", "miss"}[i], us);
        check(us < 100, "%g us", us); /* one encoding takes thousands */
    }
}

#define IN_FOLDER(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(records_come_back),
        IN_FOLDER(a_torn_end_is_cut_off),
        IN_FOLDER(a_torn_head_is_made_anew),
        IN_FOLDER(a_flipped_bit_loses_one_record),
        IN_FOLDER(exchanged_and_lost_blocks_are_found),
        IN_FOLDER(ranks_read_each_other),
        IN_FOLDER(two_runs_do_not_write_one_file),
        IN_FOLDER(ranks_that_run_together_share),
        IN_FOLDER(another_key_is_another_cache),
        IN_FOLDER(foreign_files_are_left_alone),
        IN_FOLDER(a_full_disk_leaves_the_cache_usable),
        IN_FOLDER(what_cannot_be_is_refused),
        IN_FOLDER(a_hundred_thousand_records_are_quick),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
