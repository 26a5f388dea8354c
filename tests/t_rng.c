/* t_rng.c: Philox against the published vectors of Random123, our normals as a function of their place, and
 * torch.randn against values that PyTorch drew (tests/golden/rng.safetensors: `seedS.nN` is the first draw of
 * N from a fresh generator, `seedS.streamI.nN` the I-th draw from one). */
#include "base/base.h"
#include "tests/check.h"

#define FILE_OF_DRAWS "tests/golden/rng.safetensors"

static const gimbal_shape shape = {.c = 4, .f = 7, .h = 33, .w = 21};

static size_t count_of(gimbal_shape s)
{
    return (size_t)s.c * s.f * s.h * s.w;
}

static size_t place(gimbal_shape s, int c, int f, int y, int x)
{
    return (((size_t)c * s.f + f) * s.h + y) * s.w + x;
}

static float *normals(uint64_t seed, uint32_t stream, int64_t frame0, gimbal_shape s)
{
    float *out = malloc(sizeof(float) * count_of(s));
    assert_non_null(out);
    philox_normal(seed, stream, frame0, s, out);
    return out;
}

static void philox_gives_the_published_words(void **state)
{
    static const struct {
        uint32_t counter[4];
        uint64_t key;
        uint32_t words[4];
    } known[] = {
        {{0, 0, 0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         0xffffffffffffffff,
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         0x299f31d0a4093822,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    (void)state;
    for (int i = 0; i < COUNT(known); i++) {
        uint32_t got[4];
        philox(known[i].counter, known[i].key, got);
        for (int k = 0; k < 4; k++)
            check(got[k] == known[i].words[k], "vector %d, word %d: %08x", i, k, got[k]);
    }
}

static void a_normal_value_follows_from_its_place_alone(void **state)
{
    const int64_t frame0 = 4294967290; /* the last frames that a counter word can hold: 0..2^32-1 */
    const gimbal_shape s = {.c = 3, .f = 6, .h = 5, .w = 9};
    const uint64_t seed = 0x0123456789abcdef;
    (void)state;
    float *x = normals(seed, 77, frame0, s);
    for (int c = 0; c < s.c; c++)
        for (int f = 0; f < s.f; f++) {
            uint32_t word[4];
            philox((const uint32_t[]){3u << 16 | 8u, (uint32_t)(frame0 + f), (uint32_t)c, 77}, seed, word);
            const double u1 = (word[0] + 1.0) / 4294967296.0, u2 = word[1] / 4294967296.0;
            check_near(x[place(s, c, f, 3, 8)], sqrt(-2 * log(u1)) * cos(2 * M_PI * u2), 1e-6, "c %d, f %d",
                       c, f);
        }
    free(x);
}

static void a_longer_clip_begins_with_the_shorter_one(void **state)
{
    gimbal_shape longer = shape;
    longer.f = 12;
    (void)state;
    float *a = normals(7, 1, 0, shape), *b = normals(7, 1, 0, longer);
    for (int c = 0; c < shape.c; c++)
        assert_memory_equal(a + place(shape, c, 0, 0, 0), b + place(longer, c, 0, 0, 0),
                            sizeof(float) * (size_t)(shape.f * shape.h * shape.w));
    free(a);
    free(b);
}

static void a_window_of_frames_rows_and_columns_equals_the_whole(void **state)
{
    const gimbal_shape small = {.c = 2, .f = 3, .h = 10, .w = 5};
    (void)state;
    float *whole = normals(7, 1, 100, shape), *window = normals(7, 1, 104, small);
    for (int c = 0; c < small.c; c++)
        for (int f = 0; f < small.f; f++)
            for (int y = 0; y < small.h; y++)
                assert_memory_equal(window + place(small, c, f, y, 0), whole + place(shape, c, f + 4, y, 0),
                                    sizeof(float) * (size_t)small.w);
    free(whole);
    free(window);
}

static double correlation(const float *a, const float *b, size_t n)
{
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++)
        ab += (double)a[i] * b[i], aa += (double)a[i] * a[i], bb += (double)b[i] * b[i];
    return ab / sqrt(aa * bb);
}

static void another_seed_stream_frame_or_channel_is_independent(void **state)
{
    const size_t n = count_of(shape), channel = n / (size_t)shape.c, frame = (size_t)shape.h * shape.w;
    (void)state;
    float *x = normals(7, 1, 0, shape);
    float *others[] = {normals(8, 1, 0, shape), normals(7 + (UINT64_C(1) << 32), 1, 0, shape),
                       normals(7, 2, 0, shape), normals(7, 1, 50, shape)};
    for (int i = 0; i < COUNT(others); i++) {
        check_near(correlation(x, others[i], n), 0.0, 4.0 / sqrt((double)n), "draw %d", i);
        free(others[i]);
    }
    check_near(correlation(x, x + channel, n - channel), 0.0, 4.0 / sqrt((double)n), "next channel");
    check_near(correlation(x, x + frame, n - frame), 0.0, 4.0 / sqrt((double)n), "next frame");
    check_near(correlation(x, x + shape.w, n - shape.w), 0.0, 4.0 / sqrt((double)n), "next row");
    check_near(correlation(x, x + 1, n - 1), 0.0, 4.0 / sqrt((double)n), "next column");
    free(x);
}

static int ascending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Largest distance of the sorted values' distribution from the normal one (Kolmogorov and Smirnov), times
 * sqrt(n): above 1.95 once in a thousand draws. */
static double distance_from_normal(float *x, size_t n)
{
    double largest = 0;
    qsort(x, n, sizeof *x, ascending);
    for (size_t i = 0; i < n; i++) {
        const double p = 0.5 * erfc(-x[i] / sqrt(2.0));
        largest = fmax(largest, fmax(fabs(p - (double)i / n), fabs(p - (double)(i + 1) / n)));
    }
    return largest * sqrt((double)n);
}

static void check_moments(float *x, size_t n, const char *what)
{
    double sum = 0, squares = 0, fourth = 0;
    for (size_t i = 0; i < n; i++) {
        const double v = (double)x[i] * x[i];
        sum += x[i], squares += v, fourth += v * v;
    }
    check_near(sum / n, 0.0, 3.0 / sqrt((double)n), "%s: mean", what);
    check_near(squares / n, 1.0, 3.0 * sqrt(2.0 / n), "%s: variance", what);
    check_near(fourth / n, 3.0, 3.0 * sqrt(96.0 / n), "%s: fourth moment", what);
    check(distance_from_normal(x, n) < 1.95, "%s: distribution", what);
}

static void both_generators_are_standard_normal(void **state)
{
    const gimbal_shape s = {.c = 4, .f = 16, .h = 65, .w = 63};
    (void)state;
    float *x = normals(1, 0, 0, s);
    check_moments(x, count_of(s), "philox");
    TorchRng r;
    torch_seed(&r, 1);
    torch_randn(&r, x, count_of(s));
    check_moments(x, count_of(s), "torch");
    free(x);
}

static void check_draw(TorchRng *r, const char *name, int count)
{
    size_t n;
    float *want = golden(FILE_OF_DRAWS, name, &n);
    check(n == (size_t)count, "%s: %zu values", name, n);
    float *got = malloc(sizeof(float) * n);
    assert_non_null(got);
    torch_randn(r, got, n);
    for (size_t i = 0; i < n; i++)
        check_near(got[i], want[i], n < 16 ? 1e-6 : 3e-6, "%s[%zu]", name, i);
    free(got);
    free(want);
}

static const uint64_t seeds[] = {0, 1, 42, 1234567890123};

static void the_first_draw_is_what_pytorch_draws(void **state)
{
    static const int counts[] = {1, 7, 15, 16, 17, 100, 4096};
    (void)state;
    for (int s = 0; s < COUNT(seeds); s++)
        for (int i = 0; i < COUNT(counts); i++) {
            char name[64];
            TorchRng r;
            torch_seed(&r, seeds[s]);
            snprintf(name, sizeof name, "seed%llu.n%d", (unsigned long long)seeds[s], counts[i]);
            check_draw(&r, name, counts[i]);
        }
}

/* Small draws between large ones: the cached value survives a large draw and serves the next small one. */
static void successive_draws_are_what_pytorch_draws(void **state)
{
    static const int counts[] = {4096, 16, 5, 17, 5, 1, 100, 1, 2048};
    (void)state;
    for (int s = 0; s < COUNT(seeds); s++) {
        TorchRng r;
        torch_seed(&r, seeds[s]);
        for (int i = 0; i < COUNT(counts); i++) {
            char name[64];
            snprintf(name, sizeof name, "seed%llu.stream%d.n%d", (unsigned long long)seeds[s], i, counts[i]);
            check_draw(&r, name, counts[i]);
        }
    }
}

static void torch_reads_the_low_half_of_a_seed(void **state)
{
    float a[20], b[20];
    TorchRng r;
    (void)state;
    torch_seed(&r, 42);
    torch_randn(&r, a, 20);
    torch_seed(&r, 42 + (UINT64_C(9) << 32));
    torch_randn(&r, b, 20);
    assert_memory_equal(a, b, sizeof a);
}

TESTS(philox_gives_the_published_words, a_normal_value_follows_from_its_place_alone,
      a_longer_clip_begins_with_the_shorter_one, a_window_of_frames_rows_and_columns_equals_the_whole,
      another_seed_stream_frame_or_channel_is_independent, both_generators_are_standard_normal,
      the_first_draw_is_what_pytorch_draws, successive_draws_are_what_pytorch_draws,
      torch_reads_the_low_half_of_a_seed)
