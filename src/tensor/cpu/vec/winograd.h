/* winograd.h: what the forward and the weight's gradient of Winograd's F(4x4,3x3) share: the pixels of a
 * piece and the transform of the input.
 *
 * Knows pieces of pictures. Refuses to know what is made of them. */
#ifndef WINOGRAD_H
#define WINOGRAD_H

#include "tensor/cpu/vec/simd.h"

enum { PLACES = 36 }; /* at most */

/* Finds `high` x `across` pixels from (y, x) on in a picture of lines x columns, `apart` floats from one to
 * the next; outside of it they are `zeros`. */
INLINE void find_pixels(const float *picture, int64_t lines, int64_t columns, int64_t apart, int64_t y,
                        int64_t x, int high, int across, const float *zeros, const float **p)
{
    for (int i = 0; i < high * across; i++) {
        const int64_t yy = y + i / across, xx = x + i % across;
        p[i] =
            yy < 0 || yy >= lines || xx < 0 || xx >= columns ? zeros : picture + (yy * columns + xx) * apart;
    }
}

/* B' of six values, in place. */
INLINE void input_line(V d[6])
{
    const V a = d[4] - 4 * d[2], b = d[3] - 4 * d[1], c = d[4] - d[2], e = 2 * (d[3] - d[1]);
    d[0] = 4 * d[0] - 5 * d[2] + d[4];
    d[5] = 4 * d[1] - 5 * d[3] + d[5];
    d[1] = a + b;
    d[2] = a - b;
    d[3] = c + e;
    d[4] = c - e;
}

/* B' d B of channels [c, c + n) of the 6 x across pixels at p; along the lines only where there is one pixel
 * across. */
INLINE void input_piece(const int across, const float *const *p, int64_t c, int64_t n, V d[6][6])
{
    UNROLL for (int x = 0; x < across; x++)
    {
        V line[6];
        UNROLL for (int y = 0; y < 6; y++)
        {
            const float *at = p[y * across + x] + c;
            line[y] = n >= VL ? ld(at) : ld_part(at, n);
        }
        input_line(line);
        UNROLL for (int y = 0; y < 6; y++) d[y][x] = line[y];
    }
    if (across == 6)
        UNROLL for (int y = 0; y < 6; y++) input_line(d[y]);
}

#endif
