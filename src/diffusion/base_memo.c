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
    uint64_t used; /* when it was last found or made; 0: nothing is here */
} Entry;

struct BaseMemo {
    pthread_mutex_t lock;
    Entry *entry;  /* [room] */
    float *values; /* [room][3][n]: x, alone, guided */
    int room;
    size_t n;
    uint64_t clock;
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
    free(m->entry); /* memo_room's, as is the other */
    free(m->values);
    m->entry = NULL, m->values = NULL, m->room = 0;
}

void memo_free(BaseMemo *m)
{
    if (!m)
        return;
    forget(m);
    pthread_mutex_destroy(&m->lock);
    free(m); /* memo_new's */
}

static int make_room(BaseMemo *m, int room, size_t n, gimbal_error *err)
{
    if (m->room == room && m->n == n)
        return GIMBAL_OK;
    forget(m);
    m->entry = calloc((size_t)room, sizeof *m->entry);
    m->values = alloc_array((size_t)room, 3 * n * sizeof *m->values);
    if (!m->entry || !m->values) {
        forget(m);
        return fail(err, GIMBAL_ENOMEM, "no memory for %d predictions of %zu values", room, n);
    }
    m->room = room, m->n = n;
    return GIMBAL_OK;
}

int memo_room(BaseMemo *m, int room, size_t n, gimbal_error *err)
{
    pthread_mutex_lock(&m->lock);
    const int code = make_room(m, room, n, err);
    pthread_mutex_unlock(&m->lock);
    return code;
}

static float *values_of(const BaseMemo *m, const Entry *e)
{
    return m->values + (size_t)(e - m->entry) * 3 * m->n;
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
        const float *was = values_of(m, e);
        found = e->used && same_key(&e->key, key) && !memcmp(was, x, n * sizeof *x);
        if (found) {
            e->used = ++m->clock;
            memcpy(alone, was + n, n * sizeof *alone);
            memcpy(guided, was + 2 * n, n * sizeof *guided);
        }
    }
    pthread_mutex_unlock(&m->lock);
    return found;
}

void memo_keep(BaseMemo *m, const MemoKey *key, const float *x, size_t n, const float *alone,
               const float *guided)
{
    pthread_mutex_lock(&m->lock);
    Entry *e = m->n == n && m->room ? m->entry : NULL; /* else another run has taken the room */
    for (int i = 1; e && i < m->room; i++)             /* the one that nobody wanted for longest */
        if (m->entry[i].used < e->used)
            e = &m->entry[i];
    if (e) {
        float *to = values_of(m, e);
        e->key = *key, e->used = ++m->clock;
        memcpy(to, x, n * sizeof *x);
        memcpy(to + n, alone, n * sizeof *alone);
        memcpy(to + 2 * n, guided, n * sizeof *guided);
    }
    pthread_mutex_unlock(&m->lock);
}
