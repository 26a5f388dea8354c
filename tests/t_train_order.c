/* t_train_order.c: the order of clips is a permutation of its own in every epoch, and draws are uniform and
 * independent. */
#include "train/train.h" /* before cmocka.h, which makes a macro of fail */

#include "tests/check.h"

static const int64_t sizes[] = {1, 2, 3, 4, 5, 16, 17, 64, 1000, 4097};

/* Counts how often each clip comes in epoch q. */
static void epoch(uint64_t seed, int64_t n, int64_t q, int *seen)
{
    memset(seen, 0, (size_t)n * sizeof *seen);
    for (int64_t p = 0; p < n; p++) {
        const int64_t clip = order_clip(seed, n, q * n + p, 0);
        check(clip >= 0 && clip < n, "clip %lld of %lld", (long long)clip, (long long)n);
        seen[clip]++;
    }
}

static void every_epoch_shows_every_clip_once(void **state)
{
    (void)state;
    static int seen[5000];
    for (int s = 0; s < COUNT(sizes); s++)
        for (int64_t q = 0; q < 3; q++)
            for (uint64_t seed = 0; seed < 3; seed++) {
                epoch(seed * 0x9e3779b97f4a7c15u, sizes[s], q, seen);
                for (int64_t i = 0; i < sizes[s]; i++)
                    check(seen[i] == 1, "clip %lld of %lld came %d times", (long long)i, (long long)sizes[s],
                          seen[i]);
            }
}

/* How many of n places two runs share. */
static int shared_places(uint64_t seed_a, int64_t q_a, uint64_t seed_b, int64_t q_b, int64_t n)
{
    int same = 0;
    for (int64_t p = 0; p < n; p++)
        same += order_clip(seed_a, n, q_a * n + p, 0) == order_clip(seed_b, n, q_b * n + p, 0);
    return same;
}

static void epochs_and_seeds_have_orders_of_their_own(void **state)
{
    (void)state;
    int in_place = 0, neighbours = 0;
    assert_in_range(shared_places(1, 0, 1, 1, 1000), 0, 8); /* 1 is expected */
    assert_in_range(shared_places(1, 0, 2, 0, 1000), 0, 8);
    assert_in_range(shared_places(1, 0, UINT64_C(1) << 63 | 1, 0, 1000), 0, 8);
    assert_int_equal(shared_places(7, 5, 7, 5, 1000), 1000);
    for (int64_t p = 0; p < 1000; p++) {
        in_place += order_clip(1, 1000, p, 0) == p;
        neighbours += p && llabs(order_clip(1, 1000, p, 0) - order_clip(1, 1000, p - 1, 0)) == 1;
    }
    assert_in_range(in_place, 0, 8);
    assert_in_range(neighbours, 0, 12); /* 2 are expected */
}

static void any_clip_can_come_first(void **state)
{
    (void)state;
    int first[5] = {0};
    for (uint64_t seed = 0; seed < 2000; seed++)
        first[order_clip(seed, 5, 0, 0)]++;
    for (int i = 0; i < 5; i++)
        check(first[i] > 300 && first[i] < 500, "clip %d came first %d times of 2000", i, first[i]);
}

static void replacements_are_other_clips_until_all_were_tried(void **state)
{
    (void)state;
    static int seen[5000];
    for (int s = 0; s < COUNT(sizes); s++) {
        const int64_t n = sizes[s], g = 12345;
        memset(seen, 0, sizeof seen);
        for (int attempt = 0; attempt < n; attempt++)
            seen[order_clip(9, n, g, attempt)]++;
        for (int64_t i = 0; i < n; i++)
            check(seen[i] == 1, "of %lld clips, clip %lld was tried %d times", (long long)n, (long long)i,
                  seen[i]);
        order_clip(9, n, g, (int)n + 3); /* and goes on without end */
    }
}

static void draws_are_uniform(void **state)
{
    (void)state;
    enum { N = 20000, BINS = 10 };
    double sum = 0, squares = 0, product = 0;
    int bin[BINS] = {0}, whole[BINS] = {0};
    for (int64_t g = 0; g < N; g++) {
        const uint64_t key = sample_key(3, g);
        const double u = draw_uniform(key, DRAW_TIMESTEP), other = draw_uniform(key, DRAW_FLIP);
        check(u >= 0 && u < 1, "%g is not in [0,1)", u);
        sum += u, squares += u * u, product += (u - 0.5) * (other - 0.5);
        bin[(int)(u * BINS)]++;
        const int64_t k = draw_below(key, DRAW_START, BINS);
        assert_in_range(k, 0, BINS - 1);
        whole[k]++;
        assert_int_equal(draw_below(key, DRAW_START, 1), 0);
    }
    check_near(sum / N, 0.5, 0.01, "mean");
    check_near(squares / N, 1.0 / 3, 0.01, "mean square");
    check_near(product / N, 0, 0.003, "covariance of two streams");
    for (int i = 0; i < BINS; i++) {
        check_near(bin[i], N / BINS, 200, "bin %d", i); /* 4.7 deviations */
        check_near(whole[i], N / BINS, 200, "number %d", i);
    }
}

static void draws_depend_on_seed_sample_and_stream(void **state)
{
    (void)state;
    const uint64_t key = sample_key(1, 0);
    assert_true(key == sample_key(1, 0));
    assert_true(key != sample_key(1, 1) && key != sample_key(2, 0) && key != sample_key(1, INT64_C(1) << 32));
    for (int a = DRAW_START; a <= DRAW_OFFSET; a++)
        for (int b = DRAW_START; b < a; b++)
            check(draw_uniform(key, a) != draw_uniform(key, b), "streams %d and %d are one", a, b);
    const int64_t huge = INT64_C(1) << 60;
    const int64_t x = draw_below(key, DRAW_START, huge);
    check(x > 0 && x < huge, "%lld", (long long)x);
}

/* A run that is resumed by a newer library must meet the same data: these may not change. */
static void orders_stay_what_they_were(void **state)
{
    (void)state;
    static const int64_t first[8] = {264, 413, 243, 13, 167, 245, 438, 899};
    for (int p = 0; p < 8; p++)
        assert_int_equal(order_clip(42, 1000, p, 0), first[p]);
    assert_int_equal(order_clip(42, 1000, 0, 1), 461);
    assert_true(sample_key(42, 7) == UINT64_C(0xbcc8bf0aeb9a6217));
    assert_int_equal(draw_below(sample_key(42, 7), DRAW_TIMESTEP, 1000), 847);
}

TESTS(every_epoch_shows_every_clip_once, epochs_and_seeds_have_orders_of_their_own, any_clip_can_come_first,
      replacements_are_other_clips_until_all_were_tried, draws_are_uniform,
      draws_depend_on_seed_sample_and_stream, orders_stay_what_they_were)
