/* bandwidth.c: how fast this machine's memory is read and written: the other half of what bounds an operator.
 *
 *     z[i] = x[i] + s y[i]        over arrays that no cache holds, bytes = two read, one written
 *
 * counted as the bound of an operator counts its own: each input and each result once, without what the cache
 * fetches of a line before it is overwritten. Knows memory and threads. Refuses to know operators. */
#include "tensor/backend.h"

#include <stdlib.h>

enum { LANE = 1024 };                         /* floats that a thread takes at a time */
static const size_t floats = (size_t)1 << 24; /* of one array: 64 MiB */
static const double seconds_spent = 0.1;

static void sweep(const Cx *cx, const float *x, const float *y, float *z)
{
#pragma omp parallel for schedule(static) num_threads(cx->threads)
    for (size_t block = 0; block < floats / LANE; block++)
        for (size_t i = block * LANE; i < (block + 1) * LANE; i++)
            z[i] = x[i] + 0.5f * y[i];
}

double cpu_bandwidth(const Cx *cx)
{
    float *x = alloc_array(3 * floats, sizeof *x), *y = x + floats, *z = y + floats;
    if (!x)
        return 0;
    for (size_t i = 0; i < 2 * floats; i++)
        x[i] = (float)(i % 7);
    sweep(cx, x, y, z); /* z's pages come into being */
    double least = 1e9;
    for (double sum = 0; sum < seconds_spent;) {
        const double start = seconds_now();
        sweep(cx, x, y, z);
        const double took = seconds_now() - start;
        least = MIN(least, took);
        sum += took;
    }
    free(x); /* of this function alone */
    return 3.0 * sizeof(float) * (double)floats / least;
}
