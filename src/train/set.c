/* set.c: which parameters learn, and their values, gradients and moments in flat arrays.
 *
 *     value, grad, m, v, ema [total]    parameter i at [p[i].at, p[i].at + p[i].count), padding zero
 *
 * A parameter learns when a pattern matches its name, a gradient reaches it, and it is no table of positions,
 * which is computed and not learnt. Flat arrays make norms, sums over ranks and files a matter of one loop;
 * networks see them through Weight.own and Weight.grad.
 *
 * Knows weights by their names. Refuses to know what networks compute. */
#include "train/train.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16 }; /* floats: 64 bytes */

const char *const net_names[MAX_NETS] = {"residual.", "base."};

/* ---- patterns ---------------------------------------------------------------------------- */

typedef struct {
    Params params; /* first: the visitor's leaf gets this */
    TrainSet *set;
    const TrainPart *part;
    char **pattern;
    int64_t *hits;                /* of each pattern */
    int n_patterns, room, leaves; /* parameters met */
    Weight **leaf;                /* [room] all that were met; NULL: they are being counted */
} Mark;

/* Cuts a copy of `text` at a letter; -1: no memory. */
static int cut(char ***out, const char *text, char at, Arena *keep)
{
    int n = 1;
    for (const char *c = text; *c; c++)
        n += *c == at;
    char *copy = arena_printf(keep, "%s", text), **part = arena_alloc(keep, (size_t)n * sizeof *part);
    if (!copy || !part)
        return -1;
    for (int i = 0; i < n; i++) {
        char *end = strchr(copy, at);
        part[i] = copy;
        if (end)
            *end = 0, copy = end + 1;
    }
    *out = part;
    return n;
}

static int read_patterns(Mark *m, const char *text, Arena *keep, gimbal_error *err)
{
    m->n_patterns = cut(&m->pattern, text, ',', keep);
    m->hits = m->n_patterns < 0 ? NULL : arena_alloc(keep, (size_t)m->n_patterns * sizeof *m->hits);
    if (!m->hits)
        return fail(err, GIMBAL_ENOMEM, "no memory for patterns");
    for (int i = 0; i < m->n_patterns; i++)
        if (!*m->pattern[i])
            return fail(err, GIMBAL_EUSAGE, "--train '%.80s': a pattern is empty", text);
    return GIMBAL_OK;
}

static bool matches_any(Mark *m, const char *name)
{
    bool any = false;
    for (int i = 0; i < m->n_patterns; i++) {
        const bool one = name_matches(m->pattern[i], name);
        m->hits[i] += one;
        any |= one;
    }
    return any;
}

/* ---- the walk ---------------------------------------------------------------------------- */

void param_name(const TrainSet *set, int net, const Weight *w, char out[PARAM_NAME])
{
    snprintf(out, PARAM_NAME, "%s%s", set->nets > 1 ? net_names[net] : "", w->name);
}

static int mark_leaf(Params *params, Weight *w)
{
    Mark *m = (Mark *)params;
    TrainSet *set = m->set;
    char name[PARAM_NAME];
    if (!m->leaf) {
        m->room++;
        return GIMBAL_OK;
    }
    m->leaf[m->leaves++] = w;
    w->trainable = false;
    if (w->kind == W_TABLE)
        return GIMBAL_OK;
    set->parameters += weight_count(w);
    param_name(set, m->part->net, w, name);
    if (matches_any(m, name)) {
        w->trainable = true;
        set->p[set->n++] = (Param){.w = w, .net = m->part->net, .count = weight_count(w)};
    }
    return GIMBAL_OK;
}

/* Parameters stand in the order of their networks, then of the parts and their walks. */
static int walk(Mark *m, const TrainPart *part, int parts, gimbal_error *err)
{
    for (int net = 0; net < MAX_NETS; net++)
        for (int i = 0; i < parts; i++) {
            if (part[i].net != net)
                continue;
            m->part = &part[i];
            m->params = (Params){.leaf = mark_leaf, .err = err};
            part[i].params(part[i].self, &m->params);
            TRY(m->params.code);
        }
    return GIMBAL_OK;
}

/* Gives every parameter its place. */
static void lay_out(TrainSet *set)
{
    int64_t at = 0;
    for (int net = 0, i = 0; net < MAX_NETS; net++) {
        set->begin[net] = at;
        for (; i < set->n && set->p[i].net == net; i++) {
            set->p[i].at = at;
            at += (set->p[i].count + ALIGN - 1) / ALIGN * ALIGN;
        }
    }
    set->begin[MAX_NETS] = set->total = at;
}

/* ---- what is said of a pattern that matches nothing --------------------------------------- */

static const char *text_at(const void *list, int i)
{
    return ((char *const *)list)[i];
}

/* Pieces of names between dots; a misspelt pattern is near one of them, hardly ever near a whole name. */
static int name_pieces(const Mark *m, char ***out, Arena *keep)
{
    char **list = arena_alloc(keep, (size_t)MAX(m->leaves, 1) * sizeof *list * COUNT(m->params.mark));
    int n = 0;
    for (int i = 0; list && i < m->leaves; i++) {
        char **piece;
        const int more = cut(&piece, m->leaf[i]->name, '.', keep);
        for (int k = 0; k < more && k < COUNT(m->params.mark); k++)
            list[n++] = piece[k];
    }
    *out = list;
    return n;
}

/* The piece that a misspelt piece of the pattern is near to, or NULL. */
static const char *nearest_piece(const Mark *m, const char *pattern, Arena *scratch)
{
    char word[PARAM_NAME] = "", **known, **piece;
    size_t at = 0;
    for (const char *c = pattern; *c && at + 1 < sizeof word; c++)
        if (*c != '*')
            word[at++] = *c;
    const int n = name_pieces(m, &known, scratch), pieces = cut(&piece, word, '.', scratch);
    for (int i = 0; known && i < pieces; i++) {
        const char *near = *piece[i] ? nearest_name(piece[i], text_at, known, n) : NULL;
        if (near && strcmp(near, piece[i]))
            return near;
    }
    return NULL;
}

static int no_match(const Mark *m, const char *pattern, gimbal_error *err)
{
    Arena scratch = {0};
    char hint[320] = "";
    const char *near = nearest_piece(m, pattern, &scratch);
    if (near)
        snprintf(hint, sizeof hint, "did you mean '%.100s'? ", near);
    snprintf(hint + strlen(hint), sizeof hint - strlen(hint),
             "a pattern is held against whole names, such as %s; * stands for any text",
             m->leaves ? m->leaf[0]->name : "(none)");
    arena_free(&scratch);
    return fail_hint(err, GIMBAL_EUSAGE, hint, "--train: none of %d parameters matches '%.80s'", m->leaves,
                     pattern);
}

int set_mark(TrainSet *set, const TrainPart *part, int parts, const char *patterns, Arena *keep,
             gimbal_error *err)
{
    Mark m = {.set = set};
    *set = (TrainSet){.nets = 1};
    for (int i = 0; i < parts; i++)
        set->nets = MAX(set->nets, part[i].net + 1);
    TRY(read_patterns(&m, patterns, keep, err));
    TRY(walk(&m, part, parts, err));
    m.leaf = arena_alloc(keep, (size_t)MAX(m.room, 1) * sizeof(Weight *));
    set->p = arena_alloc(keep, (size_t)MAX(m.room, 1) * sizeof *set->p);
    if (!m.leaf || !set->p)
        return fail(err, GIMBAL_ENOMEM, "no memory for a list of %d parameters", m.room);
    TRY(walk(&m, part, parts, err));
    for (int i = 0; i < m.n_patterns; i++)
        if (!m.hits[i])
            return no_match(&m, m.pattern[i], err);
    lay_out(set);
    return GIMBAL_OK;
}

static int marked_leaf(Params *p, Weight *w)
{
    *(bool *)p->user |= w->trainable;
    return GIMBAL_OK;
}

bool set_learns(void (*params)(void *, Params *), void *self)
{
    bool any = false;
    Params p = {.leaf = marked_leaf, .user = &any};
    params(self, &p);
    return any;
}

void set_drop(TrainSet *set, const Plan *const *plans, int n)
{
    int left = 0;
    for (int i = 0; i < set->n; i++) {
        bool learns = false;
        for (int k = 0; k < n && !learns; k++)
            learns = plan_learnt(plans[k], set->p[i].w) >= 0;
        set->p[i].w->trainable = learns;
        if (learns)
            set->p[left++] = set->p[i];
    }
    set->n = left;
    lay_out(set);
}

/* ---- memory ------------------------------------------------------------------------------ */

static float *zeros(int64_t n)
{
    float *x = alloc_array((size_t)MAX(n, ALIGN), sizeof *x);
    if (x)
        memset(x, 0, (size_t)n * sizeof *x);
    return x;
}

int set_memory(TrainSet *set, bool ema, gimbal_error *err)
{
    for (int i = 0; i < set->n; i++)
        if (!weight_given(set->p[i].w))
            return fail(err, GIMBAL_EMODEL, "%s: is to be trained and has no value to begin with",
                        set->p[i].w->name);
    float **const array[] = {&set->value, &set->grad, &set->m, &set->v, &set->ema};
    for (int i = 0; i < COUNT(array) - !ema; i++)
        if (!(*array[i] = zeros(set->total))) {
            set_free(set);
            return fail(err, GIMBAL_ENOMEM, "no memory for %lld parameters, their gradients and moments",
                        (long long)set->total);
        }
    for (int i = 0; i < set->n; i++) {
        const Param *p = &set->p[i];
        weight_widen(p->w, 0, p->count, set->value + p->at);
        weight_drop(p->w);
        p->w->own = set->value + p->at, p->w->grad = set->grad + p->at;
    }
    if (ema)
        memcpy(set->ema, set->value, (size_t)set->total * sizeof *set->ema);
    return GIMBAL_OK;
}

void set_free(TrainSet *set)
{
    for (int i = 0; i < set->n && set->value; i++) {
        Weight *w = set->p[i].w;
        if (w->own != set->value + set->p[i].at)
            continue; /* memory ended before it was its turn */
        weight_drop(w);
        w->own = w->grad = NULL, w->trainable = false;
    }
    /* arrays of their own, as large as all parameters: no arena's */
    free(set->value), free(set->grad), free(set->m), free(set->v), free(set->ema);
    *set = (TrainSet){0};
}
