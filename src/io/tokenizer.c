/* tokenizer.c: CLIP's byte-pair tokenizer, id for id the slow CLIPTokenizer of transformers without ftfy.
 *
 *     text -> cut at added tokens (leftmost, longest) -> words (words.c)
 *          -> bytes as symbols, the last with </w> -> merges, lowest rank first
 *          -> ids [start, 75 tokens at most, end, padding ...]
 *
 * Special tokens, the padding token among them, are recognised inside the text. Each symbol's id is resolved
 * when the files are read, so that tokenizing looks up pairs of numbers only.
 *
 * Knows vocab.json, merges.txt and their companions. Refuses to know Unicode (words.c) and text encoders. */
#include "io/io.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { MERGES_MAX = 49152 - 256 - 2, ADDED_MAX = 1000, TEXT_MAX = 1 << 20 };

/* A token that is cut out of the text as a whole. */
typedef struct {
    const char *text;
    size_t n;
    int32_t id;
} Added;

typedef struct {
    int32_t a, b, result; /* symbols */
} Merge;

struct Tokenizer {
    int32_t byte_symbol[2][256]; /* [1]: ends a word */
    int32_t *symbol_id;          /* -1: not in the vocabulary, nor is there an unknown token */
    int symbols, symbol_room;
    Merge *merges; /* by rank */
    int n_merges;
    uint64_t *pair_key; /* open addressing: symbols a << 32 | b */
    int32_t *pair_rank; /* -1: free */
    size_t pair_mask;
    Added *added;
    int n_added;
    int32_t start, end, pad, unknown; /* ids */
    int32_t start_text, end_text;     /* ids of "<|startoftext|>", "<|endoftext|>", always */
    int vocab;                        /* largest id + 1 */
    Arena arena;
};

/* What is needed while the files are read. */
typedef struct {
    Tokenizer *t;
    json_t *vocab, *config, *map; /* map: special_tokens_map.json, when it counts */
    json_t *index;                /* symbol text -> symbol */
    int vocab_tokens;             /* in vocab.json plus added ones that are not in it: the next free id */
    char dir[PATH_ROOM];
} Loader;

/* ---- ids --------------------------------------------------------------------------------- */

static const Added *find_added(const Tokenizer *t, const char *text)
{
    for (int i = 0; i < t->n_added; i++)
        if (!strcmp(t->added[i].text, text))
            return &t->added[i];
    return NULL;
}

/* Added tokens come before the vocabulary; -1 when neither has it. */
static int32_t known_id(const Loader *l, const char *text)
{
    const Added *a = find_added(l->t, text);
    const json_t *id = json_object_get(l->vocab, text);
    return a ? a->id : id ? (int32_t)json_integer_value(id) : -1;
}

static int32_t id_of(const Loader *l, const char *text)
{
    const int32_t id = known_id(l, text);
    return id >= 0 ? id : l->t->unknown;
}

static int read_vocab(Loader *l, gimbal_error *err)
{
    char path[PATH_ROOM], q[QUOTED_ROOM];
    const char *text;
    json_t *id;
    TRY(path_join(path, l->dir, "vocab.json", err));
    if (!is_file(path))
        return fail_hint(err, GIMBAL_EIO,
                         "vocab.json and merges.txt are needed (tokenizer.json alone is not read)",
                         "%s: no such file", path);
    TRY(json_read(&l->vocab, path, err));
    json_object_foreach(l->vocab, text, id)
    {
        const json_int_t v = json_is_integer(id) ? json_integer_value(id) : -1;
        if (v < 0 || v >= INT_MAX)
            return fail(err, GIMBAL_EFORMAT, "%s: the id of %s is not a number from 0 to 2^31-2", path,
                        quoted(text, q));
        l->t->vocab = MAX(l->t->vocab, (int)v + 1);
    }
    l->vocab_tokens = (int)json_object_size(l->vocab);
    return GIMBAL_OK;
}

/* ---- special and added tokens ------------------------------------------------------------ */

/* A token is text, or an object with "content". */
static const char *content(const json_t *token)
{
    return json_string_value(json_is_object(token) ? json_object_get(token, "content") : token);
}

/* id < 0: the vocabulary's, or a new one behind it. A second mention of a text only changes its id. */
static int add_text(Loader *l, const char *text, int64_t id, gimbal_error *err)
{
    Tokenizer *t = l->t;
    char q[QUOTED_ROOM];
    Added *a = (Added *)find_added(t, text);
    const bool is_new = known_id(l, text) < 0;
    if (id < 0)
        id = is_new ? l->vocab_tokens : known_id(l, text);
    if (id >= INT_MAX)
        return fail(err, GIMBAL_EFORMAT, "%s: added token %s has the id %lld", l->dir, quoted(text, q),
                    (long long)id);
    if (!a && t->n_added == ADDED_MAX)
        return fail(err, GIMBAL_EFORMAT, "%s: more than %d added tokens", l->dir, ADDED_MAX);
    if (!a) {
        a = &t->added[t->n_added];
        a->n = strlen(text);
        a->text = arena_printf(&t->arena, "%s", text);
        if (!a->text)
            return fail(err, GIMBAL_ENOMEM, "%s: no memory for added tokens", l->dir);
        t->n_added++;
    }
    l->vocab_tokens += is_new;
    a->id = (int32_t)id;
    t->vocab = MAX(t->vocab, a->id + 1);
    return GIMBAL_OK;
}

static int add_token(Loader *l, const json_t *token, int64_t id, gimbal_error *err)
{
    const char *text = content(token);
    char q[QUOTED_ROOM];
    if (!text)
        return fail(err, GIMBAL_EFORMAT, "%s: an added token without text", l->dir);
    if (json_is_true(json_object_get(token, "single_word")))
        return fail(err, GIMBAL_ENOSUP,
                    "%s: added token %s: \"single_word\" is true; only false is supported", l->dir,
                    quoted(text, q));
    return *text ? add_text(l, text, id, err) : GIMBAL_OK;
}

/* {"49408": {"content": "<new>", ...}} of tokenizer_config.json */
static int add_decoder(Loader *l, const json_t *decoder, gimbal_error *err)
{
    const char *key;
    json_t *token;
    char q[QUOTED_ROOM];
    json_object_foreach((json_t *)decoder, key, token)
    {
        char *end;
        const long long id = strtoll(key, &end, 10);
        if (end == key || *end || id < 0 || !json_is_object(token))
            return fail(err, GIMBAL_EFORMAT,
                        "%s: tokenizer_config.json: added token %s is not an id with an object", l->dir,
                        quoted(key, q));
        TRY(add_token(l, token, id, err));
    }
    return GIMBAL_OK;
}

/* {"<new>": 49408} of added_tokens.json */
static int add_map(Loader *l, json_t *map, const char *path, gimbal_error *err)
{
    const char *text;
    json_t *id;
    json_object_foreach(map, text, id)
    {
        char q[QUOTED_ROOM];
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return fail(err, GIMBAL_EFORMAT, "%s: the id of %s is not a number >= 0", path, quoted(text, q));
        if (*text)
            TRY(add_text(l, text, json_integer_value(id), err));
    }
    return GIMBAL_OK;
}

/* [{"id": 49408, "content": "<new>"}] of tokenizer.json */
static int add_list(Loader *l, const json_t *list, const char *path, gimbal_error *err)
{
    size_t i;
    json_t *token;
    json_array_foreach(list, i, token)
    {
        const json_t *id = json_object_get(token, "id");
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return fail(err, GIMBAL_EFORMAT, "%s: added token %zu has no id", path, i);
        TRY(add_token(l, token, json_integer_value(id), err));
    }
    return GIMBAL_OK;
}

/* What older folders have in place of added_tokens_decoder. */
static int add_legacy(Loader *l, gimbal_error *err)
{
    char path[PATH_ROOM];
    json_t *json;
    TRY(path_join(path, l->dir, "added_tokens.json", err));
    if (is_file(path)) {
        TRY(json_read(&json, path, err));
        const int code = add_map(l, json, path, err);
        json_decref(json);
        TRY(code);
    }
    TRY(path_join(path, l->dir, "tokenizer.json", err));
    if (!is_file(path))
        return GIMBAL_OK;
    TRY(json_read(&json, path, err));
    const int code = add_list(l, json_object_get(json, "added_tokens"), path, err);
    json_decref(json);
    return code;
}

/* The token that plays a role, from the map or the configuration; NULL: not named. */
static const json_t *role(const Loader *l, const char *key)
{
    const json_t *token = json_object_get(l->map, key);
    if (!token || json_is_null(token))
        token = json_object_get(l->config, key);
    return token && !json_is_null(token) ? token : NULL;
}

static int add_roles(Loader *l, gimbal_error *err)
{
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                       "pad_token", "cls_token", "mask_token"};
    const json_t *lists[] = {json_object_get(l->config, "additional_special_tokens"),
                             json_object_get(l->map, "additional_special_tokens")};
    for (int i = 0; i < COUNT(keys); i++)
        if (role(l, keys[i]))
            TRY(add_token(l, role(l, keys[i]), -1, err));
    for (int k = 0; k < COUNT(lists); k++)
        for (size_t i = 0; i < json_array_size(lists[k]); i++)
            TRY(add_token(l, json_array_get(lists[k], i), -1, err));
    const char *name;
    json_t *token;
    json_object_foreach(json_object_get(l->config, "extra_special_tokens"), name, token)
        TRY(add_token(l, token, -1, err));
    return GIMBAL_OK;
}

static int optional_json(json_t **out, const char *dir, const char *name, gimbal_error *err)
{
    char path[PATH_ROOM];
    TRY(path_join(path, dir, name, err));
    if (is_file(path))
        return json_read(out, path, err);
    *out = json_object();
    return *out ? GIMBAL_OK : fail(err, GIMBAL_ENOMEM, "%s: no memory", path);
}

/* CLIPTokenizer's own defaults, for a folder that does not name them. */
static int default_role(Loader *l, const char *key, const char *text, gimbal_error *err)
{
    if (role(l, key))
        return GIMBAL_OK;
    return json_object_set_new(l->config, key, json_string(text))
               ? fail(err, GIMBAL_ENOMEM, "%s: no memory for the tokenizer", l->dir)
               : GIMBAL_OK;
}

static int resolve_roles(Loader *l, gimbal_error *err)
{
    Tokenizer *t = l->t;
    /* the unknown token counts only if the vocabulary itself has it */
    const char *unknown = content(role(l, "unk_token"));
    t->unknown = json_object_get(l->vocab, unknown)
                     ? (int32_t)json_integer_value(json_object_get(l->vocab, unknown))
                     : -1;
    t->start = id_of(l, content(role(l, "bos_token")));
    t->end = id_of(l, content(role(l, "eos_token")));
    t->pad = id_of(l, content(role(l, "pad_token")));
    t->start_text = id_of(l, "<|startoftext|>");
    t->end_text = id_of(l, "<|endoftext|>");
    if (t->start < 0 || t->end < 0 || t->pad < 0)
        return fail(err, GIMBAL_EFORMAT, "%s: the vocabulary lacks the start, end or padding token", l->dir);
    return GIMBAL_OK;
}

static int read_special(Loader *l, gimbal_error *err)
{
    static const ConfigRule rules[] = {
        {"tokenizer_class", "null|\"CLIPTokenizer\"|\"CLIPTokenizerFast\""},
        {"padding_side", "\"right\""},
        {"truncation_side", "\"right\""},
        {"split_special_tokens", "false"},
        {NULL, NULL},
    };
    const char *const start = "<|startoftext|>", *const end = "<|endoftext|>";
    char path[PATH_ROOM];
    Tokenizer *t = l->t;
    TRY(path_join(path, l->dir, "tokenizer_config.json", err));
    TRY(optional_json(&l->config, l->dir, "tokenizer_config.json", err));
    TRY(json_refuse(l->config, path, rules, err));
    t->added = arena_alloc(&t->arena, ADDED_MAX * sizeof *t->added);
    if (!t->added)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for the tokenizer", l->dir);
    const json_t *decoder = json_object_get(l->config, "added_tokens_decoder");
    if (decoder) {
        TRY(add_decoder(l, decoder, err));
    } else {
        TRY(optional_json(&l->map, l->dir, "special_tokens_map.json", err));
        TRY(add_legacy(l, err));
    }
    TRY(default_role(l, "bos_token", start, err));
    TRY(default_role(l, "eos_token", end, err));
    TRY(default_role(l, "unk_token", end, err));
    TRY(default_role(l, "pad_token", end, err));
    TRY(add_roles(l, err));
    return resolve_roles(l, err);
}

/* ---- symbols and merges ------------------------------------------------------------------ */

/* The number of a symbol; a new one gets the next number. Negative: no memory. */
static int32_t symbol(Loader *l, const char *text)
{
    Tokenizer *t = l->t;
    const json_t *known = json_object_get(l->index, text);
    if (known)
        return (int32_t)json_integer_value(known);
    if (t->symbols >= t->symbol_room || json_object_set_new(l->index, text, json_integer(t->symbols)))
        return -1;
    t->symbol_id[t->symbols] = id_of(l, text);
    return t->symbols++;
}

/* CLIP writes each byte as one printable character: 33..126, 161..172 and 174..255 as themselves, the rest,
 * in order, from 256 on; its vocabulary has them in this order. */
int clip_byte(int byte, char out[3])
{
    int c = byte;
    if (!((byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174))
        c = 256 + (byte <= 32 ? byte : byte <= 160 ? 33 + byte - 127 : 67);
    if (c < 0x80)
        out[0] = (char)c, out[1] = 0;
    else
        out[0] = (char)(0xC0 | c >> 6), out[1] = (char)(0x80 | (c & 0x3F)), out[2] = 0;
    return c <= 126 ? c - 33 : c <= 172 ? c - 67 : c - 68;
}

static int make_symbols(Loader *l, gimbal_error *err)
{
    Tokenizer *t = l->t;
    t->symbol_room = 512 + 3 * t->n_merges;
    t->symbol_id = arena_alloc(&t->arena, (size_t)t->symbol_room * sizeof *t->symbol_id);
    l->index = json_object();
    for (int byte = 0; byte < 256 && t->symbol_id; byte++)
        for (int last = 0; last < 2; last++) {
            char text[16];
            clip_byte(byte, text);
            if (last)
                strcat(text, "</w>");
            t->byte_symbol[last][byte] = symbol(l, text);
            if (t->byte_symbol[last][byte] < 0)
                return fail(err, GIMBAL_ENOMEM, "%s: no memory for symbols", l->dir);
        }
    return t->symbol_id ? GIMBAL_OK : fail(err, GIMBAL_ENOMEM, "%s: no memory for symbols", l->dir);
}

static size_t pair_slot(const Tokenizer *t, int32_t a, int32_t b)
{
    const uint64_t key = (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
    uint64_t h = key * 0x9E3779B97F4A7C15u;
    size_t i = (size_t)(h ^ h >> 32) & t->pair_mask;
    while (t->pair_rank[i] >= 0 && t->pair_key[i] != key)
        i = (i + 1) & t->pair_mask;
    return i;
}

/* Rank of a pair of symbols, -1: they do not merge. */
static int32_t pair_rank(const Tokenizer *t, int32_t a, int32_t b)
{
    return t->pair_rank[pair_slot(t, a, b)];
}

/* "th e</w>" with its line's number: rank and symbols. A pair that comes twice has its later rank. */
static int add_merge(Loader *l, int rank, char *line, const char *path, gimbal_error *err)
{
    Tokenizer *t = l->t;
    char *rest = NULL, *a = strtok_r(line, " \t", &rest), *b = strtok_r(NULL, " \t", &rest);
    if (!b || strtok_r(NULL, " \t", &rest))
        return fail(err, GIMBAL_EFORMAT, "%s: merge %d is not two symbols", path, rank + 1);
    char *both = arena_printf(&t->arena, "%s%s", a, b);
    const Merge m = {symbol(l, a), symbol(l, b), both ? symbol(l, both) : -1};
    if (m.a < 0 || m.b < 0 || m.result < 0)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for merges", path);
    const size_t i = pair_slot(t, m.a, m.b);
    t->pair_key[i] = (uint64_t)(uint32_t)m.a << 32 | (uint32_t)m.b;
    t->pair_rank[i] = rank;
    t->merges[rank] = m;
    return GIMBAL_OK;
}

/* The first line of merges.txt is a heading, whatever it says; lines[n] gets the others, not empty. */
static int cut_lines(char *text, char **lines)
{
    char *rest = NULL;
    int n = -1;
    for (char *line = strtok_r(text, "\r\n", &rest); line && n < MERGES_MAX;
         line = strtok_r(NULL, "\r\n", &rest)) {
        if (line[strspn(line, " \t")] == 0)
            continue;
        if (n >= 0)
            lines[n] = line;
        n++;
    }
    return MAX(n, 0);
}

static int make_merges(Loader *l, char *text, const char *path, gimbal_error *err)
{
    Tokenizer *t = l->t;
    char **lines = arena_alloc(&t->arena, MERGES_MAX * sizeof *lines);
    t->n_merges = lines ? cut_lines(text, lines) : 0;
    size_t slots = 16;
    while (slots < 2 * (size_t)t->n_merges)
        slots *= 2;
    t->pair_mask = slots - 1;
    t->pair_key = arena_alloc(&t->arena, slots * sizeof *t->pair_key);
    t->pair_rank = arena_alloc(&t->arena, slots * sizeof *t->pair_rank);
    t->merges = arena_alloc(&t->arena, ((size_t)t->n_merges + 1) * sizeof *t->merges);
    if (!lines || !t->pair_key || !t->pair_rank || !t->merges)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for %d merges", path, t->n_merges);
    memset(t->pair_rank, -1, slots * sizeof *t->pair_rank);
    TRY(make_symbols(l, err));
    for (int i = 0; i < t->n_merges; i++)
        TRY(add_merge(l, i, lines[i], path, err));
    return GIMBAL_OK;
}

static int read_merges(Loader *l, gimbal_error *err)
{
    char path[PATH_ROOM], *text;
    size_t n, bad;
    TRY(path_join(path, l->dir, "merges.txt", err));
    TRY(read_file(&text, &n, path, (size_t)64 << 20, err));
    int code = GIMBAL_OK;
    if (strlen(text) != n || utf8_check(text, &bad) < 0)
        code = fail(err, GIMBAL_EFORMAT, "%s: not UTF-8 text", path);
    if (!code)
        code = make_merges(l, text, path, err);
    free(text); /* read_file hands it over */
    return code;
}

int tokenizer_open(Tokenizer **out, const char *dir, gimbal_error *err)
{
    *out = NULL;
    Loader l = {.t = calloc(1, sizeof *l.t)};
    int code = l.t ? GIMBAL_OK : fail(err, GIMBAL_ENOMEM, "%s: no memory for the tokenizer", dir);
    if (!code && snprintf(l.dir, sizeof l.dir, "%s", dir) >= (int)sizeof l.dir)
        code = fail(err, GIMBAL_EUSAGE, "%s: the path is too long", dir);
    if (!code)
        code = read_vocab(&l, err);
    if (!code)
        code = read_special(&l, err);
    if (!code)
        code = read_merges(&l, err);
    json_decref(l.vocab);
    json_decref(l.config);
    json_decref(l.map);
    json_decref(l.index);
    if (code)
        tokenizer_close(l.t);
    else
        *out = l.t;
    return code;
}

void tokenizer_close(Tokenizer *t)
{
    if (!t)
        return;
    arena_free(&t->arena);
    free(t); /* the handle itself, made by tokenizer_open */
}

int tokenizer_vocab(const Tokenizer *t)
{
    return t->vocab;
}

/* ---- byte pairs -------------------------------------------------------------------------- */

/* One run of tokenize. A word is a linked list of symbols; `heap` holds rank << 32 | position of pairs that
 * may still stand there, `fresh` those that the merges of the present rank have made: they wait until it is
 * done. */
typedef struct {
    const Tokenizer *t;
    int32_t *ids;
    int room;     /* tokens that fit */
    int64_t seen; /* tokens met */
    gimbal_error *err;
    int32_t *sym, *prev, *next;
    uint64_t *heap, *fresh;
    size_t n_heap, n_fresh, size;
} Run;

static int emit(Run *r, int32_t id)
{
    if (id < 0)
        return fail(r->err, GIMBAL_EMODEL,
                    "the tokenizer has no token for a part of the text, nor an unknown token");
    if (r->seen < r->room)
        r->ids[r->seen] = id;
    r->seen++;
    return GIMBAL_OK;
}

static void heap_push(Run *r, uint64_t key)
{
    size_t i = r->n_heap++;
    for (; i > 0 && r->heap[(i - 1) / 2] > key; i = (i - 1) / 2)
        r->heap[i] = r->heap[(i - 1) / 2];
    r->heap[i] = key;
}

static uint64_t heap_pop(Run *r)
{
    const uint64_t top = r->heap[0], last = r->heap[--r->n_heap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < r->n_heap; i = child) {
        if (child + 1 < r->n_heap && r->heap[child + 1] < r->heap[child])
            child++;
        if (r->heap[child] >= last)
            break;
        r->heap[i] = r->heap[child];
    }
    r->heap[i] = last;
    return top;
}

static int make_room(Run *r, size_t n)
{
    if (n <= r->size)
        return GIMBAL_OK;
    free(r->sym), free(r->prev), free(r->next), free(r->heap), free(r->fresh); /* scratch, doubled */
    r->size = MAX(2 * r->size, MAX(n, 64));
    r->sym = alloc_array(r->size, sizeof *r->sym);
    r->prev = alloc_array(r->size, sizeof *r->prev);
    r->next = alloc_array(r->size, sizeof *r->next);
    r->heap = alloc_array(3 * r->size, sizeof *r->heap); /* n - 1 pairs, and each merge makes 2 */
    r->fresh = alloc_array(2 * r->size, sizeof *r->fresh);
    if (!r->sym || !r->prev || !r->next || !r->heap || !r->fresh) {
        r->size = 0;
        return fail(r->err, GIMBAL_ENOMEM, "no memory for a word of %zu bytes", n);
    }
    return GIMBAL_OK;
}

/* Notes the pair that begins at `at`, if it merges. */
static void note_pair(Run *r, int32_t at)
{
    const int32_t rank = at < 0 || r->next[at] < 0 ? -1 : pair_rank(r->t, r->sym[at], r->sym[r->next[at]]);
    if (rank >= 0)
        r->fresh[r->n_fresh++] = (uint64_t)(uint32_t)rank << 32 | (uint32_t)at;
}

static void merge_at(Run *r, int32_t at, const Merge *m)
{
    const int32_t right = r->next[at];
    if (r->sym[at] != m->a || right < 0 || r->sym[right] != m->b)
        return; /* an earlier merge has used one of them */
    r->sym[at] = m->result;
    r->sym[right] = -1;
    r->next[at] = r->next[right];
    if (r->next[at] >= 0)
        r->prev[r->next[at]] = at;
    note_pair(r, r->prev[at]);
    note_pair(r, at);
}

/* One word in UTF-8. Merges go rank by rank, all places of a pair from the left before the next pair. */
static int encode_word(void *user, const char *word, size_t n)
{
    Run *r = user;
    const Tokenizer *t = r->t;
    if (n == 15 && !memcmp(word, "<|startoftext|>", n))
        return emit(r, t->start_text);
    if (n == 13 && !memcmp(word, "<|endoftext|>", n))
        return emit(r, t->end_text);
    TRY(make_room(r, n));
    r->n_heap = r->n_fresh = 0;
    for (size_t i = 0; i < n; i++) {
        r->sym[i] = t->byte_symbol[i + 1 == n][(uint8_t)word[i]];
        r->prev[i] = (int32_t)i - 1;
        r->next[i] = i + 1 == n ? -1 : (int32_t)i + 1;
    }
    for (size_t i = 0; i < n; i++)
        note_pair(r, (int32_t)i);
    for (;;) {
        while (r->n_fresh)
            heap_push(r, r->fresh[--r->n_fresh]);
        if (!r->n_heap)
            break;
        const uint64_t rank = r->heap[0] >> 32;
        while (r->n_heap && r->heap[0] >> 32 == rank)
            merge_at(r, (int32_t)(uint32_t)heap_pop(r), &t->merges[rank]);
    }
    for (int32_t at = 0; at >= 0; at = r->next[at])
        TRY(emit(r, t->symbol_id[r->sym[at]]));
    return GIMBAL_OK;
}

/* ---- text -------------------------------------------------------------------------------- */

/* The longest added token that stands at `text`, or NULL. */
static const Added *added_at(const Tokenizer *t, const char *text)
{
    const Added *best = NULL;
    for (int i = 0; i < t->n_added; i++)
        if (t->added[i].text[0] == *text && !strncmp(t->added[i].text, text, t->added[i].n) &&
            (!best || t->added[i].n > best->n))
            best = &t->added[i];
    return best;
}

static int encode_text(Run *r, const char *text)
{
    const char *from = text, *at = text;
    while (*at) {
        const Added *a = added_at(r->t, at);
        if (!a) {
            at++;
            continue;
        }
        if (at > from)
            TRY(clip_words(from, (size_t)(at - from), encode_word, r, r->err));
        TRY(emit(r, a->id));
        from = at += a->n;
    }
    return at > from ? clip_words(from, (size_t)(at - from), encode_word, r, r->err) : GIMBAL_OK;
}

int tokenize(const Tokenizer *t, const char *text, int32_t *ids, int room, int *dropped, gimbal_error *err)
{
    size_t bad;
    const size_t n = strnlen(text, TEXT_MAX + 1);
    *dropped = 0;
    if (room < 2)
        return fail(err, GIMBAL_EUSAGE, "a context of %d tokens cannot hold start and end", room);
    if (n > TEXT_MAX)
        return fail(err, GIMBAL_EUSAGE, "the text is longer than %d bytes", TEXT_MAX);
    if (utf8_check(text, &bad) < 0)
        return fail_hint(err, GIMBAL_EUSAGE, "save or type it as UTF-8", "the text is not UTF-8 at byte %zu",
                         bad);
    Run r = {.t = t, .ids = ids + 1, .room = room - 2, .err = err};
    const int code = encode_text(&r, text);
    free(r.sym), free(r.prev), free(r.next), free(r.heap), free(r.fresh); /* scratch */
    if (code)
        return code;
    const int kept = (int)MIN(r.seen, r.room);
    ids[0] = t->start;
    ids[1 + kept] = t->end;
    for (int i = kept + 2; i < room; i++)
        ids[i] = t->pad;
    *dropped = (int)(r.seen - kept);
    return GIMBAL_OK;
}
