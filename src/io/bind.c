/* bind.c: gives every parameter of a network its bytes in a file, strictly both ways.
 *
 * One walk of the network's parameter visitor: each leaf is looked up by its canonical name, then under its
 * other spellings, and must have the declared shape. Shapes that differ in trailing ones only ([C,C],
 * [C,C,1,1]) hold the same bytes and are equal. What the walk did not take must be on the ignore list.
 * Nothing is copied: a Weight points into the map, so the WeightSet must outlive it. What a file may leave
 * out is given values before (bind_fresh) and is then not missed.
 *
 * Knows visitors and names. Refuses to know networks. */
#include "io/io.h"

#include <stdlib.h>
#include <string.h>

enum { SHOWN = 3 };

/* The first few names of a kind and how many there are. */
typedef struct {
    char text[SHOWN * QUOTED_ROOM];
    int count;
} Names;

typedef struct {
    Params params; /* first: the visitor's leaf gets this */
    const WeightSet *set;
    const char *prefix;
    const Rename *renames;
    bool *used; /* per member of the set */
    Names missing, surplus;
    const char *hint;
} Bind;

static void note_name(Names *names, const char *name)
{
    char q[QUOTED_ROOM];
    if (names->count < SHOWN)
        strcat(strcat(names->text, names->count ? ", " : ""), quoted(name, q));
    names->count++;
}

/* name with the first `to` replaced by `from`: the file's spelling. False when `to` is not in it. */
static bool respell(char *out, size_t room, const char *name, const Rename *rename)
{
    const char *at = strstr(name, rename->to);
    return at && snprintf(out, room, "%.*s%s%s", (int)(at - name), name, rename->from,
                          at + strlen(rename->to)) < (int)room;
}

/* Index of the parameter's tensor in the set, or -1. */
static int look_up(const Bind *b, const Weight *w)
{
    char name[512], other[512];
    snprintf(name, sizeof name, "%s%s", b->prefix, w->name);
    int i = weights_index(b->set, name);
    for (const Rename *r = b->renames; r && r->from && i < 0; r++)
        if (respell(other, sizeof other, name, r))
            i = weights_index(b->set, other);
    return i;
}

/* Dimensions without the ones that trail behind the second. */
static int core(const int64_t *n, int nd)
{
    while (nd > 2 && n[nd - 1] == 1)
        nd--;
    return nd;
}

static bool same_shape(const Weight *w, const StEntry *e)
{
    const int nd = core(w->n, w->nd);
    return nd == core(e->n, e->nd) && !memcmp(w->n, e->n, (size_t)nd * sizeof *w->n);
}

static const char *shape_text(char out[200], const int64_t *n, int nd)
{
    size_t at = 0;
    out[at++] = '[';
    for (int i = 0; i < nd; i++)
        at += (size_t)snprintf(&out[at], 200 - at, "%s%lld", i ? "," : "", (long long)n[i]);
    strcpy(&out[at], "]");
    return out;
}

static int bind_leaf(Params *p, Weight *w)
{
    Bind *b = (Bind *)p;
    const int i = look_up(b, w);
    if (i < 0) {
        if (w->kind != W_TABLE && !w->own)
            note_name(&b->missing, w->name);
        return GIMBAL_OK;
    }
    const StEntry *e = weights_entry(b->set, i);
    const char *path = weights_path(b->set);
    char q[QUOTED_ROOM], has[200], wants[200];
    if (b->used[i])
        return fail(p->err, GIMBAL_EMODEL, "%s: tensor %s is wanted by two parameters", path,
                    quoted(e->name, q));
    if (!same_shape(w, e))
        return fail_hint(p->err, GIMBAL_EMODEL,
                         "the weights and the config beside them do not belong together",
                         "%s: tensor %s is %s, expected %s", path, quoted(e->name, q),
                         shape_text(has, e->n, e->nd), shape_text(wants, w->n, w->nd));
    if (e->type != F32 && e->type != F16 && e->type != BF16)
        return fail_hint(p->err, GIMBAL_EMODEL, "convert the file to fp16 or fp32",
                         "%s: tensor %s is %s; parameters are read as F32, F16 or BF16", path,
                         quoted(e->name, q), e->spelling);
    b->used[i] = true;
    w->file = e->data, w->type = e->type;
    return GIMBAL_OK;
}

bool name_matches(const char *pattern, const char *name)
{
    const char *star = NULL, *again = NULL;
    while (*name) {
        if (*pattern == '*')
            star = pattern++, again = name;
        else if (*pattern == *name)
            pattern++, name++;
        else if (star)
            pattern = star + 1, name = ++again;
        else
            return false;
    }
    while (*pattern == '*')
        pattern++;
    return !*pattern;
}

static bool ignored(const char *const *ignore, const char *name)
{
    for (; ignore && *ignore; ignore++)
        if (name_matches(*ignore, name))
            return true;
    return false;
}

static int report(const Bind *b, gimbal_error *err)
{
    const Names *m = &b->missing, *s = &b->surplus;
    char missing[520] = "", surplus[520] = "";
    if (m->count)
        snprintf(missing, sizeof missing, "%d missing (%s%s)", m->count, m->text,
                 m->count > SHOWN ? ", ..." : "");
    if (s->count)
        snprintf(surplus, sizeof surplus, "%d unknown (%s%s)", s->count, s->text,
                 s->count > SHOWN ? ", ..." : "");
    return fail_hint(err, GIMBAL_EMODEL,
                     b->hint ? b->hint : "the weights and the config beside them do not belong together",
                     "%s: tensors do not fit: %s%s%s", weights_path(b->set), missing,
                     m->count && s->count ? ", " : "", surplus);
}

int bind_weights(const WeightSet *set, const char *prefix, void (*params)(void *self, Params *), void *self,
                 const char *const *ignore, const Rename *renames, gimbal_error *err)
{
    const int n = weights_count(set);
    Bind b = {.params = {.leaf = bind_leaf, .err = err},
              .set = set,
              .prefix = prefix ? prefix : "",
              .renames = renames};
    b.used = calloc((size_t)n + 1, sizeof *b.used);
    if (!b.used)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for %d tensors", weights_path(set), n);
    params(self, &b.params);
    for (int i = 0; i < n && !b.params.code; i++) {
        const char *name = weights_entry(set, i)->name;
        if (b.used[i] || ignored(ignore, name))
            continue;
        note_name(&b.surplus, name);
        b.hint = b.hint ? b.hint : foreign_spelling(name);
    }
    free(b.used); /* scratch of this call */
    if (b.params.code)
        return b.params.code;
    return b.missing.count || b.surplus.count ? report(&b, err) : GIMBAL_OK;
}

/* ---- what a file may leave out ----------------------------------------------------------- */

typedef struct {
    Params params; /* first: the visitor's leaf gets this */
    Bind names;    /* for looking up */
    const char *const *fresh;
    uint64_t seed;
    Arena *keep;
    int made;
} Fresh;

static int fresh_leaf(Params *p, Weight *w)
{
    Fresh *f = (Fresh *)p;
    if (w->kind == W_TABLE || !ignored(f->fresh, w->name) || (f->names.set && look_up(&f->names, w) >= 0))
        return GIMBAL_OK;
    w->own = arena_alloc(f->keep, sizeof *w->own * (size_t)weight_count(w));
    if (!w->own)
        return fail(p->err, GIMBAL_ENOMEM, "%s: no memory for %lld values", w->name,
                    (long long)weight_count(w));
    weight_begin(w, f->seed, w->own);
    f->made++;
    return GIMBAL_OK;
}

int bind_fresh(const WeightSet *set, const char *prefix, void (*params)(void *self, Params *), void *self,
               const char *const *fresh, uint64_t seed, Arena *keep, int *made, gimbal_error *err)
{
    Fresh f = {.params = {.leaf = fresh_leaf, .err = err},
               .names = {.set = set, .prefix = prefix ? prefix : ""},
               .fresh = fresh,
               .seed = seed,
               .keep = keep};
    params(self, &f.params);
    if (made)
        *made = f.made;
    return f.params.code;
}
