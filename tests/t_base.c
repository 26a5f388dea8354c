/* t_base.c: errors, arenas, files, staged outputs, UTF-8, and what control groups grant.
 *
 * Files lie in a folder of their own below /tmp, made before each test that needs one and removed after it.
 * Our fail() is written (fail)(...): cmocka has a macro of that name. */
#include "base/base.h"
#include "tests/check.h"

#include <dirent.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64]; /* of the running test */

static const char *in_folder(const char *name)
{
    static char path[4][256];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/gimbal_base.XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st, (void)kind, (void)where;
    return remove(path);
}

static int remove_folder(void **state)
{
    (void)state;
    return nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* Writes a file and the folders above it. */
static void put(const char *path, const char *text)
{
    char above[256];
    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(above, sizeof above, "%.*s", (int)(slash - path), path);
        mkdir(above, 0777);
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int entries(const char *path)
{
    int n = 0;
    DIR *d = opendir(path);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    closedir(d);
    return n;
}

/* ---- errors ------------------------------------------------------------------------------ */

static void the_first_error_is_kept(void **state)
{
    gimbal_error err = {0};
    (void)state;
    assert_int_equal(fail_hint(&err, GIMBAL_EIO, "look", "file %d", 1), GIMBAL_EIO);
    assert_int_equal((fail)(&err, GIMBAL_EMODEL, "file %d", 2), GIMBAL_EMODEL);
    assert_int_equal(err.code, GIMBAL_EIO);
    assert_string_equal(err.msg, "file 1");
    assert_string_equal(err.hint, "look");
    assert_int_equal((fail)(NULL, GIMBAL_EIO, "nobody asks"), GIMBAL_EIO);
    err.code = 0;
    (fail)(&err, GIMBAL_EVALUE, "anew");
    assert_string_equal(err.msg, "anew");
    assert_string_equal(err.hint, "");
}

static void messages_are_one_line_of_utf8(void **state)
{
    gimbal_error err = {0};
    (void)state;
    fail_hint(&err, GIMBAL_EIO, "a\tb", "caf\xC3\xA9\n\x1B[31m\xFF\xC3");
    assert_string_equal(err.msg, "caf\xC3\xA9  [31m??");
    assert_string_equal(err.hint, "a b");
}

static void a_long_message_is_cut_between_characters(void **state)
{
    (void)state;
    for (int shift = 0; shift < 3; shift++) {
        char longest[2000] = "xx";
        gimbal_error err = {0};
        longest[shift] = 0;
        for (int i = 0; i < 600; i++)
            strcat(longest, "\xE2\x82\xAC");
        fail_hint(&err, GIMBAL_EIO, longest, "%s", longest);
        check(utf8_check(err.msg, NULL) >= (long)sizeof err.msg - 4, "shift %d", shift);
        check(utf8_check(err.hint, NULL) >= (long)sizeof err.hint - 4, "shift %d", shift);
        assert_null(strchr(err.msg, '?'));
        assert_string_equal(err.msg + strlen(err.msg) - 3, "...");
    }
}

static void every_code_has_a_name(void **state)
{
    (void)state;
    assert_string_equal(gimbal_code_name(GIMBAL_ENOMEM), "out of memory");
    assert_string_equal(gimbal_code_name(GIMBAL_OK), "ok");
    assert_string_equal(gimbal_code_name(-1000), "unknown error");
}

static void utf8_is_checked_strictly(void **state)
{
    static const struct {
        const char *text;
        long length;
        size_t bad;
    } cases[] = {
        {"", 0, 0},
        {"plain", 5, 0},
        {"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", 9, 0},
        {"\xF4\x8F\xBF\xBF\xEE\x80\x80\xED\x9F\xBF", 10, 0},
        {"ab\x80", -1, 2},           /* a continuation alone */
        {"\xC0\x80", -1, 0},         /* overlong */
        {"\xE0\x9F\xBF", -1, 0},     /* overlong */
        {"a\xED\xA0\x80", -1, 1},    /* surrogate */
        {"\xF4\x90\x80\x80", -1, 0}, /* above U+10FFFF */
        {"\xF5\x80\x80\x80", -1, 0},
        {"ok\xE2\x82", -1, 2}, /* ends inside a character */
        {"\xC3\xA9\xF0\x9F\x98", -1, 2},
    };
    (void)state;
    for (int i = 0; i < COUNT(cases); i++) {
        size_t bad = 0;
        check(utf8_check(cases[i].text, &bad) == cases[i].length, "case %d", i);
        check(bad == cases[i].bad, "case %d: offset %zu", i, bad);
    }
}

/* ---- memory ------------------------------------------------------------------------------ */

static bool all_zero(const unsigned char *p, size_t n)
{
    while (n > 0 && !p[n - 1])
        n--;
    return n == 0;
}

static void arena_memory_is_zeroed_aligned_and_apart(void **state)
{
    static const size_t sizes[] = {1, 0, 16, 17, 100, 5000, 16384, 16400, 60000, 65536, 200000, 3};
    unsigned char *at[COUNT(sizes)];
    Arena a = {0};
    (void)state;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < COUNT(sizes); i++) {
            at[i] = arena_alloc(&a, sizes[i]);
            assert_non_null(at[i]);
            check((uintptr_t)at[i] % 16 == 0, "size %zu", sizes[i]);
            check(all_zero(at[i], sizes[i]), "round %d, size %zu", round, sizes[i]);
            memset(at[i], i + 1, sizes[i]);
        }
        for (int i = 0; i < COUNT(sizes); i++)
            for (size_t k = 0; k < sizes[i]; k++)
                check(at[i][k] == i + 1, "size %zu, byte %zu", sizes[i], k);
        arena_reset(&a);
    }
    arena_free(&a);
    assert_null(a.blocks);
    arena_reset(&a);
    arena_free(&a);
}

static void impossible_sizes_give_null(void **state)
{
    Arena a = {0};
    (void)state;
    assert_null(arena_alloc(&a, SIZE_MAX));
    assert_null(arena_alloc(&a, SIZE_MAX - 15));
    assert_null(arena_alloc(&a, (size_t)PTRDIFF_MAX));
    assert_null(a.blocks);
    assert_null(alloc_array(SIZE_MAX / 2, 3));
    assert_null(alloc_array(SIZE_MAX, 1));
    assert_null(alloc_array((size_t)1 << 62, 4));
    void *p = alloc_array(0, 8), *q = alloc_array(3, 5);
    assert_true(p && q && (uintptr_t)p % 64 == 0 && (uintptr_t)q % 64 == 0);
    free(p);
    free(q);
}

static void arena_printf_formats_texts_of_any_length(void **state)
{
    Arena a = {0};
    (void)state;
    assert_string_equal(arena_printf(&a, "%s-%d", "x", 7), "x-7");
    assert_string_equal(arena_printf(&a, "%s", ""), "");
    assert_int_equal(strlen(arena_printf(&a, "%0100000d", 1)), 100000);
    arena_free(&a);
}

static void memory_of_this_process_is_seen(void **state)
{
    const size_t n = 32 << 20;
    (void)state;
    const uint64_t before = anon_bytes_now();
    char *p = malloc(n);
    assert_non_null(p);
    memset(p, 1, n);
    check(before > 0 && anon_bytes_now() > before + n / 2, "%llu bytes before", (unsigned long long)before);
    free(p);
    check(memory_available() > 1 << 20 && memory_available() < UINT64_C(1) << 50, "bytes available");
}

/* ---- files ------------------------------------------------------------------------------- */

static void files_are_read_whole_and_mapped(void **state)
{
    gimbal_error err = {0};
    char *text;
    size_t size;
    Mapped m;
    (void)state;
    put(in_folder("a"), "hello");
    put(in_folder("empty"), "");
    check_ok(read_file(&text, &size, in_folder("a"), 5, &err), err);
    assert_string_equal(text, "hello");
    assert_int_equal(size, 5);
    free(text);
    check_ok(read_file(&text, &size, in_folder("empty"), 0, &err), err);
    assert_string_equal(text, "");
    free(text);
    check_ok(map_file(&m, in_folder("a"), &err), err);
    assert_memory_equal(m.data, "hello", 5);
    assert_int_equal(m.size, 5);
    unmap_file(&m);
    assert_null(m.data);
    check_ok(map_file(&m, in_folder("empty"), &err), err);
    assert_true(!m.data && m.size == 0);
    unmap_file(&m);
    assert_true(is_file(in_folder("a")) && !is_folder(in_folder("a")) && !is_file(in_folder("none")));
    assert_true(is_folder(folder) && !is_file(folder));
}

static void large_files_are_read_whole(void **state)
{
    const size_t n = 100000;
    char *want = calloc(1, n + 1), *text;
    size_t size;
    gimbal_error err = {0};
    (void)state;
    assert_non_null(want);
    for (size_t i = 0; i < n; i++)
        want[i] = (char)('a' + i % 23);
    put(in_folder("large"), want);
    check_ok(read_file(&text, &size, in_folder("large"), n, &err), err);
    assert_int_equal(size, n);
    assert_memory_equal(text, want, n + 1);
    free(text);
    check_fails(read_file(&text, &size, in_folder("large"), n - 1, &err), GIMBAL_EFORMAT, err, "larger than");
    assert_null(text);
    free(want);
}

static void what_cannot_be_read_is_named_with_the_reason(void **state)
{
    gimbal_error err = {0};
    char *text;
    size_t size;
    Mapped m;
    (void)state;
    check_fails(map_file(&m, in_folder("none"), &err), GIMBAL_EIO, err, "No such file");
    check_fails(read_file(&text, &size, in_folder("none"), 9, &err), GIMBAL_EIO, err, in_folder("none"));
    check_fails(map_file(&m, folder, &err), GIMBAL_EIO, err, "found a folder");
    check_fails(read_file(&text, &size, folder, 9, &err), GIMBAL_EIO, err, "found a folder");
    assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
    check_fails(map_file(&m, in_folder("pipe"), &err), GIMBAL_EIO, err, "regular file");
    check_fails(map_file(&m, "/dev/zero", &err), GIMBAL_EIO, err, "regular file");
    check_fails(read_file(&text, &size, "/dev/zero", 1000, &err), GIMBAL_EFORMAT, err, "1000 bytes");
}

static void numbers_are_found_by_their_key(void **state)
{
    uint64_t v = 1;
    (void)state;
    put(in_folder("stat"), "12345 9\nactive_file_x 7\nactive_file 8\nRss:\t  99 kB\nword max\nlast 5");
    assert_true(file_number(in_folder("stat"), "", &v) && v == 12345);
    assert_true(file_number(in_folder("stat"), "active_file", &v) && v == 8);
    assert_true(file_number(in_folder("stat"), "Rss:", &v) && v == 99);
    assert_true(file_number(in_folder("stat"), "last", &v) && v == 5);
    assert_false(file_number(in_folder("stat"), "word", &v));
    assert_false(file_number(in_folder("stat"), "none", &v));
    assert_false(file_number(in_folder("none"), "", &v));
    put(in_folder("quota"), "-1\n");
    assert_false(file_number(in_folder("quota"), "", &v));
    assert_int_equal(v, 5);
}

static void paths_are_joined_or_refused(void **state)
{
    char path[PATH_ROOM], longest[PATH_ROOM + 1] = "";
    gimbal_error err = {0};
    (void)state;
    check_ok(path_join(path, "a/b", "c", &err), err);
    assert_string_equal(path, "a/b/c");
    check_ok(path_join(path, "a/", "c", &err), err);
    assert_string_equal(path, "a/c");
    check_ok(path_join(path, "", "c", &err), err);
    assert_string_equal(path, "c");
    memset(longest, 'x', PATH_ROOM - 3);
    check_ok(path_join(path, longest, "c", &err), err);
    longest[PATH_ROOM - 3] = 'x';
    check_fails(path_join(path, longest, "c", &err), GIMBAL_EUSAGE, err, "longer than");
}

/* ---- staged outputs ---------------------------------------------------------------------- */

static void a_stage_appears_whole_or_not_at_all(void **state)
{
    gimbal_error err = {0};
    Stage s;
    char *text;
    size_t size;
    struct stat st;
    (void)state;
    const mode_t mask = umask(022);
    check_ok(stage_open(&s, in_folder("clip.mp4"), &err), err);
    umask(mask);
    check(!strncmp(s.path, in_folder(".clip."), strlen(in_folder(".clip."))), "%.200s", s.path);
    assert_string_equal(s.path + strlen(s.path) - 4, ".mp4");
    assert_true(is_file(s.path) && !is_file(in_folder("clip.mp4")));
    put(s.path, "new");
    check_ok(stage_commit(&s, &err), err);
    check_ok(read_file(&text, &size, in_folder("clip.mp4"), 10, &err), err);
    assert_string_equal(text, "new");
    free(text);
    assert_int_equal(entries(folder), 1);
    assert_int_equal(stat(in_folder("clip.mp4"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0644); /* as any new file, not private as temporary ones are */
    stage_abort(&s);
    assert_true(is_file(in_folder("clip.mp4")));

    check_ok(stage_open(&s, in_folder("clip.mp4"), &err), err);
    put(s.path, "never seen");
    stage_abort(&s);
    stage_abort(&s);
    check_ok(read_file(&text, &size, in_folder("clip.mp4"), 10, &err), err);
    assert_string_equal(text, "new");
    free(text);
    assert_int_equal(entries(folder), 1);
}

static void stages_of_one_target_do_not_meet(void **state)
{
    gimbal_error err = {0};
    Stage a, b;
    (void)state;
    check_ok(stage_open(&a, in_folder("x.gif"), &err), err);
    check_ok(stage_open(&b, in_folder("x.gif"), &err), err);
    assert_string_not_equal(a.path, b.path);
    check_ok(stage_commit(&a, &err), err);
    check_ok(stage_commit(&b, &err), err);
    assert_int_equal(entries(folder), 1);
}

static void places_that_cannot_be_written_are_found_at_once(void **state)
{
    gimbal_error err = {0};
    Stage s;
    char longest[PATH_ROOM + 10] = "";
    (void)state;
    check_fails(stage_open(&s, in_folder("no/such/clip.mp4"), &err), GIMBAL_EIO, err,
                "make the folder first");
    stage_abort(&s);
    assert_int_equal(mkdir(in_folder("d.mp4"), 0777), 0);
    check_fails(stage_open(&s, in_folder("d.mp4"), &err), GIMBAL_EIO, err, "is a folder");
    check_fails(stage_open(&s, in_folder("d.mp4/"), &err), GIMBAL_EIO, err, "names a folder");
    check_fails(stage_open(&s, "", &err), GIMBAL_EIO, err, "names a folder");
    put(in_folder("f"), "");
    check_fails(stage_open(&s, in_folder("f/clip.mp4"), &err), GIMBAL_EIO, err, "Not a directory");
    check_fails(stage_open(&s, "/dev/null", &err), GIMBAL_EIO, err, "device");
    check_fails(stage_open(&s, "/proc/clip.mp4", &err), GIMBAL_EIO, err, "/proc/clip.mp4: cannot be written");
    memset(longest, 'x', PATH_ROOM);
    check_fails(stage_open(&s, longest, &err), GIMBAL_EIO, err, "longer than");
    longest[300] = 0;
    check_fails(stage_open(&s, in_folder(""), &err), GIMBAL_EIO, err, "names a folder");
    check_fails(stage_open(&s, longest, &err), GIMBAL_EIO, err, "File name too long");
    if (geteuid() != 0) {
        chmod(in_folder("d.mp4"), 0555);
        check_fails(stage_open(&s, in_folder("d.mp4/clip.mp4"), &err), GIMBAL_EIO, err, "Permission denied");
    }
    assert_int_equal(entries(folder), 2);
}

static void names_of_any_kind_can_be_staged(void **state)
{
    static const char *const names[] = {"plain", ".hidden", "a.b.c", "end.", "f%03d.png", "caf\xC3\xA9.gif"};
    char longest[256] = "";
    gimbal_error err = {0};
    Stage s;
    (void)state;
    for (int i = 0; i < COUNT(names); i++) {
        check_ok(stage_open(&s, in_folder(names[i]), &err), err);
        assert_int_equal(strrchr(s.path, '/')[1], '.');
        check_ok(stage_commit(&s, &err), err);
        assert_true(is_file(in_folder(names[i])));
    }
    for (int i = 0; i < 80; i++)
        strcat(longest, "\xE2\x82\xAC"); /* 240 bytes of a name, 255 allowed */
    strcat(longest, ".mp4");
    check_ok(stage_open(&s, in_folder(longest), &err), err);
    check(utf8_check(s.path, NULL) > 0, "%.200s", s.path);
    check_ok(stage_commit(&s, &err), err);
    assert_int_equal(entries(folder), COUNT(names) + 1);
}

static void a_commit_that_fails_leaves_nothing(void **state)
{
    gimbal_error err = {0};
    Stage s;
    (void)state;
    check_ok(stage_open(&s, in_folder("x.gif"), &err), err);
    assert_int_equal(mkdir(in_folder("x.gif"), 0777), 0); /* somebody was faster */
    check_fails(stage_commit(&s, &err), GIMBAL_EIO, err, "cannot be put in place");
    assert_int_equal(entries(folder), 1);
}

/* ---- threads and control groups ---------------------------------------------------------- */

static void at_least_one_thread_is_available(void **state)
{
    (void)state;
    check(threads_available() >= 1 && threads_available() <= 1 << 20, "%d", threads_available());
    const double t = seconds_now();
    usleep(2000);
    check(seconds_now() - t >= 0.002 && seconds_now() - t < 60, "time stands still");
}

static void version_2_groups_and_all_above_are_asked(void **state)
{
    (void)state;
    put(in_folder("proc/self/cgroup"), "0::/work/job\n");
    put(in_folder("sys/fs/cgroup/work/job/cpu.max"), "max 100000\n");
    put(in_folder("sys/fs/cgroup/work/job/memory.max"), "max\n");
    assert_true(isinf(cgroup_cpus(folder)) && cgroup_memory(folder) == UINT64_MAX);
    put(in_folder("sys/fs/cgroup/work/cpu.max"), "250000 100000\n");
    put(in_folder("sys/fs/cgroup/work/memory.max"), "1000000\n");
    put(in_folder("sys/fs/cgroup/work/memory.current"), "700000\n");
    put(in_folder("sys/fs/cgroup/work/memory.stat"), "anon 5\ninactive_file 200000\nactive_file 100000\n");
    check_near(cgroup_cpus(folder), 2.5, 0, "cpus");
    assert_int_equal(cgroup_memory(folder), 600000);
    put(in_folder("sys/fs/cgroup/cpu.max"), "150000 100000\n");
    put(in_folder("sys/fs/cgroup/memory.max"), "600000\n");
    put(in_folder("sys/fs/cgroup/memory.current"), "700000\n");
    check_near(cgroup_cpus(folder), 1.5, 0, "cpus");
    assert_int_equal(cgroup_memory(folder), 0);
}

static void version_1_groups_are_asked(void **state)
{
    (void)state;
    put(in_folder("proc/self/cgroup"), "5:memory:/a/b\n4:cpuacct,cpu:/\n3:cpuset:/c\n0::/other\n");
    put(in_folder("sys/fs/cgroup/cpu/cpu.cfs_quota_us"), "-1\n");
    put(in_folder("sys/fs/cgroup/cpu/cpu.cfs_period_us"), "100000\n");
    put(in_folder("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes"), "9223372036854771712\n");
    assert_true(isinf(cgroup_cpus(folder)) && cgroup_memory(folder) == UINT64_MAX);
    put(in_folder("sys/fs/cgroup/cpu/cpu.cfs_quota_us"), "50000\n");
    put(in_folder("sys/fs/cgroup/memory/a/memory.limit_in_bytes"), "1000\n");
    put(in_folder("sys/fs/cgroup/memory/a/memory.usage_in_bytes"), "900\n");
    put(in_folder("sys/fs/cgroup/memory/a/memory.stat"), "inactive_file 1\ntotal_inactive_file 100\n");
    check_near(cgroup_cpus(folder), 0.5, 0, "cpus");
    assert_int_equal(cgroup_memory(folder), 200);
}

/* A container without a namespace of its own sees the host's path in /proc and its own files at the mount. */
static void a_path_of_the_host_ends_at_the_mount(void **state)
{
    (void)state;
    put(in_folder("proc/self/cgroup"), "0::/docker/0123\n");
    put(in_folder("sys/fs/cgroup/cpu.max"), "300000 100000\n");
    check_near(cgroup_cpus(folder), 3.0, 0, "cpus");
    put(in_folder("proc/self/cgroup"), "0::/../sibling\n");
    check_near(cgroup_cpus(folder), 3.0, 0, "cpus");
    put(in_folder("proc/self/cgroup"), "garbage\n::\n");
    check(!(cgroup_cpus(folder) < 3.0), "a broken file grants no fewer");
    assert_true(cgroup_memory(in_folder("none")) == UINT64_MAX);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_error_is_kept),
        cmocka_unit_test(messages_are_one_line_of_utf8),
        cmocka_unit_test(a_long_message_is_cut_between_characters),
        cmocka_unit_test(every_code_has_a_name),
        cmocka_unit_test(utf8_is_checked_strictly),
        cmocka_unit_test(arena_memory_is_zeroed_aligned_and_apart),
        cmocka_unit_test(impossible_sizes_give_null),
        cmocka_unit_test(arena_printf_formats_texts_of_any_length),
        cmocka_unit_test(memory_of_this_process_is_seen),
        IN_FOLDER(files_are_read_whole_and_mapped),
        IN_FOLDER(large_files_are_read_whole),
        IN_FOLDER(what_cannot_be_read_is_named_with_the_reason),
        IN_FOLDER(numbers_are_found_by_their_key),
        IN_FOLDER(paths_are_joined_or_refused),
        IN_FOLDER(a_stage_appears_whole_or_not_at_all),
        IN_FOLDER(stages_of_one_target_do_not_meet),
        IN_FOLDER(places_that_cannot_be_written_are_found_at_once),
        IN_FOLDER(names_of_any_kind_can_be_staged),
        IN_FOLDER(a_commit_that_fails_leaves_nothing),
        cmocka_unit_test(at_least_one_thread_is_available),
        IN_FOLDER(version_2_groups_and_all_above_are_asked),
        IN_FOLDER(version_1_groups_are_asked),
        IN_FOLDER(a_path_of_the_host_ends_at_the_mount),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
