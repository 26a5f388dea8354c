/* rng.c: random numbers: Philox, our own, and PyTorch's CPU generator.
 *
 * Philox4x32-10 (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011) is a keyed bijection of
 * a 128-bit counter: a value has a place and needs no history, so a longer clip, a window and any number of
 * threads draw the same frames. Each normal value spends one counter: u1 = (word0 + 1) / 2^32,  u2 = word1 /
 * 2^32,  value = sqrt(-2 ln u1) cos(2 pi u2) PyTorch's generator is MT19937 (Matsumoto and Nishimura 1998)
 * with torch.randn's own use of its words. Refuses to know what is drawn and why. */
#include "base/base.h"

#include <math.h>

static const double two_pi = 6.283185307179586476925286766559;

/* ---- Philox ------------------------------------------------------------------------------ */

void philox(const uint32_t counter[4], uint64_t key, uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t a = UINT64_C(0xD2511F53) * c0, b = UINT64_C(0xCD9E8D57) * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9, k1 += 0xBB67AE85;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

void philox_normal(uint64_t seed, uint32_t stream, int64_t frame0, gimbal_shape s, float *out)
{
    for (int c = 0; c < s.c; c++)
        for (int f = 0; f < s.f; f++)
            for (int y = 0; y < s.h; y++)
                for (int x = 0; x < s.w; x++) {
                    const uint32_t at[4] = {(uint32_t)y << 16 | (uint32_t)x, (uint32_t)(frame0 + f),
                                            (uint32_t)c, stream};
                    uint32_t word[4];
                    philox(at, seed, word);
                    const double u1 = ((double)word[0] + 1.0) * 0x1p-32, u2 = (double)word[1] * 0x1p-32;
                    *out++ = (float)(sqrt(-2.0 * log(u1)) * cos(two_pi * u2));
                }
}

/* ---- PyTorch's CPU generator ------------------------------------------------------------- */

enum { MT_N = 624, MT_M = 397 };

void torch_seed(TorchRng *r, uint64_t seed)
{
    r->mt[0] = (uint32_t)seed; /* the low half, as PyTorch does */
    for (uint32_t i = 1; i < MT_N; i++)
        r->mt[i] = 1812433253u * (r->mt[i - 1] ^ r->mt[i - 1] >> 30) + i;
    r->at = MT_N;
    r->has_next = false;
    r->next = 0.0;
}

static void mt_refill(TorchRng *r)
{
    for (int i = 0; i < MT_N; i++) {
        const uint32_t y = (r->mt[i] & 0x80000000u) | (r->mt[(i + 1) % MT_N] & 0x7FFFFFFFu);
        r->mt[i] = r->mt[(i + MT_M) % MT_N] ^ y >> 1 ^ (y & 1 ? 0x9908B0DFu : 0);
    }
    r->at = 0;
}

static uint32_t mt_word(TorchRng *r)
{
    if (r->at >= MT_N)
        mt_refill(r);
    uint32_t y = r->mt[r->at++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9D2C5680u;
    y ^= y << 15 & 0xEFC60000u;
    return y ^ y >> 18;
}

static float uniform24(TorchRng *r)
{
    return (float)(mt_word(r) & 0xFFFFFF) * 0x1p-24f;
}

static double uniform53(TorchRng *r)
{
    const uint64_t high = mt_word(r);
    return (double)((high << 32 | mt_word(r)) & ((UINT64_C(1) << 53) - 1)) * 0x1p-53;
}

/* x[16]: uniforms in [0, 1) become normals, the cosine halves in front, the sine halves behind. */
static void normal_16(float *x)
{
    for (int j = 0; j < 8; j++) {
        const float radius = sqrtf(-2.0f * logf(1.0f - x[j])), angle = (float)two_pi * x[j + 8];
        x[j] = radius * cosf(angle);
        x[j + 8] = radius * sinf(angle);
    }
}

/* Fewer than 16 values: in double, the sine half kept for the next small draw. */
static double normal_pair(TorchRng *r)
{
    if (r->has_next) {
        r->has_next = false;
        return r->next;
    }
    const double u1 = uniform53(r), u2 = uniform53(r);
    const double radius = sqrt(-2.0 * log1p(-u2)), angle = two_pi * u1;
    r->next = radius * sin(angle);
    r->has_next = true;
    return radius * cos(angle);
}

void torch_randn(TorchRng *r, float *out, size_t n)
{
    if (n < 16) {
        for (size_t i = 0; i < n; i++)
            out[i] = (float)normal_pair(r);
        return;
    }
    for (size_t i = 0; i < n; i++)
        out[i] = uniform24(r);
    for (size_t i = 0; i + 16 <= n; i += 16)
        normal_16(out + i);
    if (n % 16) { /* the last 16 places are drawn again */
        float *tail = out + n - 16;
        for (int j = 0; j < 16; j++)
            tail[j] = uniform24(r);
        normal_16(tail);
    }
}
