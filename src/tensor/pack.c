/* pack.c: offsets for memory whose lifetimes are known.
 *
 * Slots that live at the same step must not share bytes. Packing is greedy: in some order, each slot goes to
 * the lowest offset that no placed slot of overlapping life covers. The order decides, so several are tried:
 * by size, by length of life, by birth; and each is improved by moving the slot that sticks out highest to
 * the front and placing all again, which is what a person would do. The search ends at the bound, the largest
 * sum of bytes alive at one step, or after a fixed amount of work: the same slots get the same offsets
 * everywhere.
 *
 * Knows intervals and bytes. Refuses to know what lies there. */
#include "tensor/core.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static size_t live_bound(const Slot *slots, int n, int n_steps, int64_t *change)
{
    memset(change, 0, ((size_t)n_steps + 2) * sizeof *change);
    for (int i = 0; i < n; i++) {
        change[slots[i].first] += (int64_t)slots[i].bytes;
        change[MIN(slots[i].last, n_steps) + 1] -= (int64_t)slots[i].bytes;
    }
    int64_t now = 0, most = 0;
    for (int i = 0; i <= n_steps; i++) {
        now += change[i];
        most = MAX(most, now);
    }
    return (size_t)most;
}

/* Lowest offset for slot s beside those already placed, which are sorted by offset; *at: where to put it in
 * them. */
static size_t lowest_fit(const Slot *slots, const Slot *s, const int *placed, int n, int *at)
{
    size_t end = 0;
    for (int i = 0; i < n; i++) {
        const Slot *q = &slots[placed[i]];
        if (q->last < s->first || s->last < q->first)
            continue;
        if (q->offset >= end + s->bytes)
            break;
        end = MAX(end, q->offset + q->bytes);
    }
    int low = 0, high = n;
    while (low < high) {
        const int mid = (low + high) / 2;
        if (slots[placed[mid]].offset < end)
            low = mid + 1;
        else
            high = mid;
    }
    *at = low;
    return end;
}

/* Gives every slot an offset, in the given order; returns the bytes of the whole block and the place in the
 * order of the slot that ends there. */
static size_t place_in_order(Slot *slots, const int *order, int n, int *placed, int *highest)
{
    size_t total = 0;
    *highest = 0;
    for (int i = 0; i < n; i++) {
        Slot *s = &slots[order[i]];
        int at;
        s->offset = lowest_fit(slots, s, placed, i, &at);
        memmove(placed + at + 1, placed + at, (size_t)(i - at) * sizeof *placed);
        placed[at] = order[i];
        if (s->offset + s->bytes > total) {
            total = s->offset + s->bytes;
            *highest = i;
        }
    }
    return total;
}

static int by_size(const void *a, const void *b, void *slots)
{
    const Slot *x = (const Slot *)slots + *(const int *)a, *y = (const Slot *)slots + *(const int *)b;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? 1 : -1;
    return *(const int *)a - *(const int *)b;
}

/* Longest life first: what spans the U lies at the bottom, what comes and goes above it. */
static int by_life(const void *a, const void *b, void *slots)
{
    const Slot *x = (const Slot *)slots + *(const int *)a, *y = (const Slot *)slots + *(const int *)b;
    const int64_t p = (int64_t)x->last - x->first, q = (int64_t)y->last - y->first;
    return p != q ? (p < q ? 1 : -1) : by_size(a, b, slots);
}

static int by_birth(const void *a, const void *b, void *slots)
{
    (void)slots;
    return *(const int *)a - *(const int *)b;
}

typedef struct {
    Slot *slots;
    int n, *order, *placed;
    size_t *best, bytes, bound; /* best: offsets of the tightest packing so far, which has `bytes` */
} Search;

/* Places from the present order, up to `rounds` times, each time with the slot that sticks out moved to the
 * front. */
static void improve(Search *s, int rounds)
{
    for (int k = 0; k < rounds && s->bytes > s->bound; k++) {
        int highest;
        const size_t total = place_in_order(s->slots, s->order, s->n, s->placed, &highest);
        if (total < s->bytes) {
            s->bytes = total;
            for (int i = 0; i < s->n; i++)
                s->best[i] = s->slots[i].offset;
        }
        const int slot = s->order[highest];
        memmove(s->order + 1, s->order, (size_t)highest * sizeof *s->order);
        s->order[0] = slot;
    }
}

bool pack_slots(Slot *slots, int n, int n_steps, size_t *bytes, size_t *bound)
{
    static int (*const orders[])(const void *, const void *, void *) = {by_size, by_life, by_birth};
    const size_t room = (size_t)MAX(n, 1);
    Search s = {slots,
                n,
                alloc_array(room, sizeof(int)),
                alloc_array(room, sizeof(int)),
                alloc_array(room, sizeof(size_t)),
                SIZE_MAX,
                0};
    int64_t *change = alloc_array((size_t)n_steps + 2, sizeof *change);
    const bool ok = s.order && s.placed && s.best && change;
    if (ok)
        s.bound = live_bound(slots, n, n_steps, change);
    /* placing costs about n^2 / 4 steps: a few tenths of a second for thousands of slots */
    const int rounds = (int)(2e8 / ((double)n * n + 1));
    for (int k = 0; ok && k < COUNT(orders); k++) {
        for (int i = 0; i < n; i++)
            s.order[i] = i;
        qsort_r(s.order, (size_t)n, sizeof *s.order, orders[k], slots);
        improve(&s, MIN(MAX(rounds, 2), 100));
    }
    for (int i = 0; ok && i < n; i++)
        slots[i].offset = s.best[i];
    *bytes = s.bytes, *bound = s.bound;
    free(s.order), free(s.placed), free(s.best), free(change); /* tables of this function alone */
    return ok;
}
