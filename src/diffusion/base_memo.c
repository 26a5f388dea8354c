/* base_memo.c: what a base network predicted lately, so that clips which share their base noise share its
 * calls.
 *
 * In VideoFusion the key frame of a clip is an ordinary picture: with eta 0 its whole trajectory follows from
 * the base noise, the prompt and the settings, whatever the other frames' residual noise is. A prediction is
 * found again by everything that it depends on, the key frame's latents among it, bit for bit; so what comes
 * back is what the network would have given, and nobody has to know when two runs agree.
 *
 * Luo et al., VideoFusion, CVPR 2023, section 4.4 (same base, other residuals). Knows arrays. Refuses to know
 * networks and seeds. */
#include "diffusion/engine.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    MemoKey key;
    float *x;      /* [3][n]: x, alone, guided; NULL: nothing is here */
    uint64_t used; /* when it was last found or made */
} Entry;

struct BaseMemo {
    pthread_mutex_t lock;
    Entry *entry;
    int room;
    uint64_t clock;
    size_t n;
};

BaseMemo *memo_new(void)
{
    BaseMemo *m = calloc(1, sizeof *m);
    if (m)
        pthread_mutex_init(&m->lock, NULL);
    return m;
}

static void forget(BaseMemo *m)
{
    for (int i = 0; i < m->room; i++)
        free(m->entry[i].x); /* each made by memo_keep */
    free(m->entry);
    m->entry = NULL, m->room = 0;
}

void memo_free(BaseMemo *m)
{
    if (!m)
        return;
    forget(m);
    pthread_mutex_destroy(&m->lock);
    free(m); /* memo_new's */
}

void memo_room(BaseMemo *m, int room, size_t n)
{
    pthread_mutex_lock(&m->lock);
    if (m->room != room || m->n != n) {
        forget(m);
        m->entry = calloc((size_t)room, sizeof *m->entry);
        m->room = m->entry ? room : 0, m->n = n;
    }
    pthread_mutex_unlock(&m->lock);
}

static bool same_key(const MemoKey *a, const MemoKey *b)
{
    return a->t == b->t && a->cfg == b->cfg && a->bf16 == b->bf16 && !strcmp(a->text, b->text);
}

bool memo_find(BaseMemo *m, const MemoKey *key, const float *x, size_t n, float *alone, float *guided)
{
    bool found = false;
    pthread_mutex_lock(&m->lock);
    for (int i = 0; m->n == n && i < m->room && !found; i++) {
        Entry *e = &m->entry[i];
        found = e->x && same_key(&e->key, key) && !memcmp(e->x, x, n * sizeof *x);
        if (found) {
            e->used = ++m->clock;
            memcpy(alone, e->x + n, n * sizeof *alone);
            memcpy(guided, e->x + 2 * n, n * sizeof *guided);
        }
    }
    pthread_mutex_unlock(&m->lock);
    return found;
}

void memo_keep(BaseMemo *m, const MemoKey *key, const float *x, size_t n, const float *alone,
               const float *guided)
{
    pthread_mutex_lock(&m->lock);
    Entry *e = m->n == n && m->room ? m->entry : NULL;
    for (int i = 1; e && i < m->room; i++) /* the one that nobody wanted for longest */
        if (m->entry[i].used < e->used)
            e = &m->entry[i];
    if (e && !e->x)
        e->x = alloc_array(3 * n, sizeof *e->x);
    if (e && e->x) {
        e->key = *key, e->used = ++m->clock;
        memcpy(e->x, x, n * sizeof *x);
        memcpy(e->x + n, alone, n * sizeof *alone);
        memcpy(e->x + 2 * n, guided, n * sizeof *guided);
    }
    pthread_mutex_unlock(&m->lock);
}
