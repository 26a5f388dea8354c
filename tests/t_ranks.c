/* t_ranks.c: sums over processes: the same bits as one process that adds in the order of ranks, for any
 * number of them, and no rank that waits for another which failed.
 *
 * The tests start this program again under mpirun, as `t_ranks CASE`; each of those processes checks what it
 * sees and ends with status 0, or says what is wrong. Where mpirun is not installed these tests are skipped.
 */
#include "base/base.h"
#include "ranks/ranks.h"

#include "tests/check.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- what every rank knows of every rank ------------------------------------------------- */

/* Value i of a rank's array: signs, and magnitudes over twelve decades, so that the order of a sum matters.
 */
static double value(int rank, size_t i, unsigned salt)
{
    uint64_t z = (i * 64 + (unsigned)rank) * 0x9E3779B97F4A7C15u + salt; /* splitmix64's last steps */
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (z & 1 ? -1 : 1) * ldexp(1 + (double)(z >> 12) * 0x1p-52, (int)(z >> 1 & 63) % 40 - 20);
}

/* One process, ranks in order: floats are summed in double and rounded once. */
static double serial(int size, size_t i, unsigned salt, bool wide)
{
    double sum = 0;
    for (int r = 0; r < size; r++) {
        const double v = wide ? value(r, i, salt) : (float)value(r, i, salt);
        sum = r ? sum + v : v;
    }
    return sum;
}

#define need(condition, ...)                                                                                 \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "rank %d of %d: ", r->rank, r->size);                                            \
            fprintf(stderr, __VA_ARGS__);                                                                    \
            fputc('\n', stderr);                                                                             \
            return 1;                                                                                        \
        }                                                                                                    \
    } while (0)

static float *floats(const gimbal_ranks *r, size_t n, unsigned salt)
{
    float *x = malloc((n + 1) * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)value(r->rank, i, salt);
    return x;
}

static int check_floats(const gimbal_ranks *r, const float *x, size_t n, unsigned salt)
{
    for (size_t i = 0; i < n; i++) {
        const float want = (float)serial(r->size, i, salt, false);
        need(!memcmp(&x[i], &want, sizeof want), "value %zu of %zu is %.9g, expected %.9g", i, n,
             (double)x[i], (double)want);
    }
    return 0;
}

/* ---- the cases, on every rank ------------------------------------------------------------ */

static const size_t sizes[] = {0, 1, 2, 3, 5, 1000, 4097, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 2222222};

static int run_one_by_one(gimbal_ranks *r)
{
    gimbal_error err = {0};
    for (int k = 0; k < COUNT(sizes); k++) {
        float *x = floats(r, sizes[k], (unsigned)k);
        need(!r->sum_begin(r->self, x, sizes[k], &err) && !r->sum_end(r->self, &err), "%s", err.msg);
        if (check_floats(r, x, sizes[k], (unsigned)k))
            return 1;
        free(x);
    }
    return 0;
}

/* All at once, with a sum of doubles and a share between, while somebody else works. */
static int run_together(gimbal_ranks *r)
{
    gimbal_error err = {0};
    enum { WIDE = 100001 };
    float *x[COUNT(sizes)];
    double *wide = malloc(WIDE * sizeof *wide);
    char word[6] = "none";
    for (int k = 0; k < COUNT(sizes); k++) {
        x[k] = floats(r, sizes[k], (unsigned)k);
        need(!r->sum_begin(r->self, x[k], sizes[k], &err), "%s", err.msg);
        for (int turn = 0; turn < 10 * r->rank; turn++)
            r->poll(r->self);
    }
    for (size_t i = 0; i < WIDE; i++)
        wide[i] = value(r->rank, i, 77);
    need(!r->sum(r->self, wide, WIDE, &err), "%s", err.msg);
    for (size_t i = 0; i < WIDE; i++)
        need(wide[i] == serial(r->size, i, 77, true), "double %zu is %.17g", i, wide[i]);
    if (!r->rank)
        memcpy(word, "hello", 6);
    need(!r->share(r->self, word, sizeof word, &err) && !strcmp(word, "hello"), "shared %s: %s", word,
         err.msg);
    need(!r->sum_end(r->self, &err), "%s", err.msg);
    for (int k = 0; k < COUNT(sizes); k++) {
        if (check_floats(r, x[k], sizes[k], (unsigned)k))
            return 1;
        free(x[k]);
    }
    free(wide);
    return 0;
}

/* Larger than one block. */
static int run_share(gimbal_ranks *r)
{
    gimbal_error err = {0};
    enum { BYTES = (9 << 20) + 1 };
    char *x = calloc(1, BYTES);
    for (size_t i = 0; i < BYTES && !r->rank; i++)
        x[i] = (char)(i * 31 + i / 4096);
    need(!r->share(r->self, x, BYTES, &err), "%s", err.msg);
    for (size_t i = 0; i < BYTES; i++)
        need(x[i] == (char)(i * 31 + i / 4096), "byte %zu", i);
    free(x);
    return 0;
}

/* The last rank fails while the others wait for it: all end with its words. */
static int run_failure(gimbal_ranks *r, bool waiting)
{
    gimbal_error err = {0};
    const int last = r->size - 1, rank = r->rank, size = r->size;
    char want[64];
    float x[100] = {0};
    int code = GIMBAL_OK;
    if (rank == last)
        code = fail_hint(&err, GIMBAL_EVALUE, "try another", "clip 7 is bad");
    else if (waiting && !r->sum_begin(r->self, x, COUNT(x), &err))
        code = r->sum_end(r->self, &err);
    need(code || !waiting, "the others went on");
    code = ranks_end(r, code, &err);
    snprintf(want, sizeof want, last ? "rank %d of %d: clip 7 is bad" : "clip 7 is bad", last, size);
    need(code == GIMBAL_EVALUE && !strcmp(err.msg, want) && !strcmp(err.hint, "try another"), "%d, %s", code,
         err.msg);
    if (waiting && size > 1) /* MPI could not be ended: mpirun says so, and would end ranks that still are */
        _exit(rank ? 0 : 9);
    return 0;
}

static int run_cancel(gimbal_ranks *r)
{
    gimbal_error err = {0};
    const int rank = r->rank;
    int code = rank == r->size - 1 ? fail_hint(&err, GIMBAL_EIO, "", "no disk")
                                   : fail_hint(&err, GIMBAL_ECANCEL, "", "gave up");
    code = ranks_end(r, code, &err);
    need(code == GIMBAL_EIO && strstr(err.msg, "no disk"), "%d, %s", code, err.msg);
    return 0;
}

static int run_death(gimbal_ranks *r)
{
    gimbal_error err = {0};
    float x[100] = {0};
    if (r->rank == r->size - 1)
        raise(SIGKILL);
    r->sum_begin(r->self, x, COUNT(x), &err);
    r->sum_end(r->self, &err);
    return 0;
}

static int run_case(const char *name)
{
    gimbal_ranks ranks, *r = &ranks;
    gimbal_error err = {0};
    if (ranks_begin(r, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    need(ranks_threads(r) >= 1, "no threads");
    int status = !strcmp(name, "sums")      ? run_one_by_one(r) || run_together(r) || run_share(r)
                 : !strcmp(name, "failure") ? run_failure(r, false)
                 : !strcmp(name, "waiting") ? run_failure(r, true)
                 : !strcmp(name, "cancel")  ? run_cancel(r)
                                            : run_death(r);
    return ranks_end(r, status, &err) ? 1 : status;
}

/* ---- starting them ----------------------------------------------------------------------- */

static bool has_mpirun(void)
{
    return ranks_version() && !system("command -v mpirun > /dev/null 2>&1");
}

/* mpirun's own status. */
static int start(int n, const char *name)
{
    char command[512];
    if (!has_mpirun()) {
        print_message("mpirun is not installed, or the build has no MPI: skipped\n");
        skip();
    }
    setenv("ASAN_OPTIONS", "detect_leaks=0", 0); /* MPI's own: 120 kB at its end */
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    char self[256];
    const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(length > 0);
    self[length] = 0;
    snprintf(command, sizeof command, "timeout 60 mpirun --oversubscribe -n %d %s %s", n, self, name);
    const int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static void test_sums_are_those_of_one_process(void **state)
{
    (void)state;
    for (int n = 1; n <= 4; n++)
        assert_int_equal(start(n, "sums"), 0);
}

static void test_a_failure_is_told_to_all(void **state)
{
    (void)state;
    assert_int_equal(start(1, "failure"), 0);
    assert_int_equal(start(3, "failure"), 0);
}

static void test_nobody_waits_for_a_rank_that_failed(void **state)
{
    (void)state;
    assert_int_equal(start(3, "waiting"), 9);
}

static void test_a_cause_counts_more_than_its_consequence(void **state)
{
    (void)state;
    assert_int_equal(start(2, "cancel"), 0);
}

static void test_a_dead_rank_ends_the_job(void **state)
{
    (void)state;
    const int status = start(2, "death");
    assert_true(status != 0 && status != 124); /* timeout's */
}

static void test_alone_nothing_is_begun(void **state)
{
    gimbal_ranks r;
    gimbal_error err = {0};
    (void)state;
    check_ok(ranks_begin(&r, &err), err);
    assert_true(r.size == 1 && r.rank == 0 && !r.self);
    assert_int_equal(ranks_threads(&r), threads_available());
    assert_int_equal(ranks_end(&r, GIMBAL_EIO, &err), GIMBAL_EIO);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alone_nothing_is_begun),
        cmocka_unit_test(test_sums_are_those_of_one_process),
        cmocka_unit_test(test_a_failure_is_told_to_all),
        cmocka_unit_test(test_nobody_waits_for_a_rank_that_failed),
        cmocka_unit_test(test_a_cause_counts_more_than_its_consequence),
        cmocka_unit_test(test_a_dead_rank_ends_the_job),
    };
    return argc > 1 ? run_case(argv[1]) : cmocka_run_group_tests(tests, NULL, NULL);
}
