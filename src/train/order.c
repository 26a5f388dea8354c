/* order.c: which clip is learnt next, and every random number that belongs to it, from its number alone.
 *
 *     g = q n + p    sample g is place p of epoch q over n clips
 *     clip           a keyed bijection of 0..n-1: Feistel rounds over the next power of 4, walked on while
 * the result is not below n (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002) draw Philox
 * under the sample's own key, one stream for each purpose
 *
 * No list is shuffled and no generator has a state: a run that goes on after a crash, or with other ranks or
 * micro-batches, draws the same. Refuses to know what a clip is and what a draw decides. */
#include "train/train.h"

#include <assert.h>

enum { ROUNDS = 6 };
/* Last words of Philox' counter under the run's seed: what is drawn there, in letters. */
enum { FOR_ORDER = 0x6f726472, FOR_OTHER = 0x6f746872, FOR_SAMPLE = 0x73616d70 };

static uint64_t philox64(const uint32_t counter[4], uint64_t key)
{
    uint32_t word[4];
    philox(counter, key, word);
    return (uint64_t)word[1] << 32 | word[0];
}

/* The key that (seed, number) has for a purpose. */
static uint64_t key_of(uint64_t seed, int64_t number, uint32_t purpose)
{
    const uint64_t x = (uint64_t)number;
    return philox64((uint32_t[]){(uint32_t)x, (uint32_t)(x >> 32), 0, purpose}, seed);
}

/* One pass of the rounds over 2 * half bits. */
static uint64_t feistel(uint64_t key, int half, uint64_t x)
{
    const uint64_t mask = (UINT64_C(1) << half) - 1;
    uint64_t left = x >> half, right = x & mask;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        const uint32_t at[4] = {(uint32_t)right, (uint32_t)(right >> 32), round, 0};
        const uint64_t mixed = left ^ (philox64(at, key) & mask);
        left = right, right = mixed;
    }
    return left << half | right;
}

/* Place p of a permutation of 0..n-1. Fewer than 4 steps on average, for the domain is at most 4 n. */
static int64_t permuted(uint64_t key, int64_t n, int64_t p)
{
    int half = 1;
    while (half < 31 && (INT64_C(1) << (2 * half)) < n)
        half++;
    uint64_t x = (uint64_t)p;
    do
        x = feistel(key, half, x);
    while (x >= (uint64_t)n);
    return (int64_t)x;
}

int64_t order_clip(uint64_t seed, int64_t n, int64_t g, int attempt)
{
    assert(n > 0 && n <= INT64_C(1) << 62 && g >= 0 && attempt >= 0);
    const int64_t first = permuted(key_of(seed, g / n, FOR_ORDER), n, g % n);
    if (!attempt || n == 1)
        return first;
    /* the n - 1 others, in an order of this sample's own */
    const int64_t other = permuted(key_of(seed, g, FOR_OTHER), n - 1, (attempt - 1) % (n - 1));
    return (first + 1 + other) % n;
}

uint64_t sample_key(uint64_t seed, int64_t g)
{
    return key_of(seed, g, FOR_SAMPLE);
}

double draw_uniform(uint64_t key, TrainDraw stream)
{
    return (double)(philox64((uint32_t[]){0, 0, 0, stream}, key) >> 11) * 0x1p-53;
}

int64_t draw_below(uint64_t key, TrainDraw stream, int64_t n)
{
    assert(n > 0);
    /* the high half of a product: unequal by n / 2^64 at most */
    return (int64_t)((unsigned __int128)philox64((uint32_t[]){0, 0, 0, stream}, key) * (uint64_t)n >> 64);
}
