/* safetensors.c: the safetensors format, read through a map and written whole or not at all.
 *
 *     u64 little-endian n, n bytes of JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]}}, data
 *
 * A file that opens keeps these promises: each tensor's bytes are dtype x shape, lie inside the file, and
 * all of them tile the data without hole, overlap or remainder; names are unique. Alignment is NOT promised:
 * older writers did not pad the header. All types of the format are known by size; which of them somebody
 * can use is not decided here. Knows bytes and JSON. Refuses to know what the names mean. */
#include "io/io.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct SafeTensors {
    char *path;
    Mapped map;
    size_t header; /* bytes of JSON, behind the first 8 */
    StEntry *entries;
    int count;
    json_t *metadata; /* or NULL */
    Arena arena;
};

enum { HEADER_DEPTH = 16 };
static const uint64_t header_limit = 100000000;

/* Every type of the format, with its bits and, where the engine has it, its DType. */
static const struct {
    const char *name;
    int bits;
    DType type;
} types[] = {
    {"F32", 32, F32},
    {"F16", 16, F16},
    {"BF16", 16, BF16},
    {"F64", 64, F64},
    {"I8", 8, I8},
    {"U8", 8, U8},
    {"I16", 16, I16},
    {"I32", 32, I32},
    {"I64", 64, I64},
    {"BOOL", 8, BOOL8},
    {"U16", 16, DTYPE_COUNT},
    {"U32", 32, DTYPE_COUNT},
    {"U64", 64, DTYPE_COUNT},
    {"C64", 64, DTYPE_COUNT},
    {"F8_E4M3", 8, DTYPE_COUNT},
    {"F8_E5M2", 8, DTYPE_COUNT},
    {"F8_E8M0", 8, DTYPE_COUNT},
    {"F8_E4M3FNUZ", 8, DTYPE_COUNT},
    {"F8_E5M2FNUZ", 8, DTYPE_COUNT},
    {"F6_E2M3", 6, DTYPE_COUNT},
    {"F6_E3M2", 6, DTYPE_COUNT},
    {"F4", 4, DTYPE_COUNT},
};

static int type_index(const char *name)
{
    for (int i = 0; i < COUNT(types); i++)
        if (!strcmp(types[i].name, name))
            return i;
    return -1;
}

/* ---- what is it, if not safetensors? ----------------------------------------------------- */

#define CONVERT "convert it to safetensors with the tool that wrote it"

static const struct {
    const char *magic;
    int n;
    const char *is, *hint;
} others[] = {
    {"PK\3\4", 4, "a zip archive, most likely a PyTorch pickle (.ckpt, .pt, .bin); not read yet", CONVERT},
    {"\x80\2", 2, "a PyTorch pickle (.ckpt, .pt, .bin); not read yet", CONVERT},
    {"\x80\3", 2, "a Python pickle; not read yet", CONVERT},
    {"\x80\4", 2, "a Python pickle; not read yet", CONVERT},
    {"GGUF", 4, "a GGUF file; not read yet", "use the fp16 safetensors of the same model"},
    {"\x89HDF", 4, "an HDF5 file (Keras, TensorFlow)", "use the safetensors of the same model"},
    {"7z\xBC\xAF", 4, "a packed archive (7z)", "unpack it first"},
    {"Rar!", 4, "a packed archive (rar)", "unpack it first"},
    {"\x1f\x8b", 2, "a packed archive (gzip)", "unpack it first"},
    {"{", 1, "JSON text, not a safetensors file",
     "name the weights themselves, or the folder that holds them"},
};

static int lfs_pointer(const Mapped *m, const char *path, gimbal_error *err)
{
    char text[512] = {0}, real[64] = "";
    memcpy(text, m->data, MIN(m->size, sizeof text - 1));
    const char *at = strstr(text, "\nsize ");
    if (at)
        snprintf(real, sizeof real, "; the real file has %llu bytes", strtoull(at + 6, NULL, 10));
    return fail_hint(err, GIMBAL_EFORMAT, "run git lfs pull in the model's folder",
                     "%s: a Git LFS pointer, not the weights%s", path, real);
}

/* Called for a file that does not begin like safetensors; silent when it cannot tell. */
static int identify(const Mapped *m, const char *path, gimbal_error *err)
{
    const uint8_t *d = m->data;
    if (m->size >= 23 && !memcmp(d, "version https://git-lfs", 23))
        return lfs_pointer(m, path, err);
    size_t i = m->size >= 3 && !memcmp(d, "\xEF\xBB\xBF", 3) ? 3 : 0;
    while (i < MIN(m->size, 256) && (d[i] == ' ' || d[i] == '\n' || d[i] == '\r' || d[i] == '\t'))
        i++;
    if (i < m->size && d[i] == '<')
        return fail_hint(err, GIMBAL_EFORMAT,
                         "the download gave a page instead of the file: log in or fetch it again",
                         "%s: a web page, not a model", path);
    for (int k = 0; k < COUNT(others); k++)
        if (m->size >= (size_t)others[k].n && !memcmp(d, others[k].magic, (size_t)others[k].n))
            return fail_hint(err, GIMBAL_EFORMAT, others[k].hint, "%s: %s", path, others[k].is);
    return GIMBAL_OK;
}

/* Finds the header: *n bytes of JSON at map + 8. */
static int find_header(const Mapped *m, const char *path, size_t *n, gimbal_error *err)
{
    if (m->size == 0)
        return fail_hint(err, GIMBAL_EFORMAT, "the download did not finish", "%s: an empty file", path);
    uint64_t length = 0;
    for (int i = 7; i >= 0 && m->size >= 8; i--)
        length = length << 8 | m->data[i];
    if (m->size < 9 || length > header_limit || m->data[8] != '{')
        TRY(identify(m, path, err));
    if (m->size < 8)
        return fail(err, GIMBAL_EFORMAT, "%s: %zu bytes, too short for a safetensors file", path, m->size);
    if (length > header_limit)
        return fail(err, GIMBAL_EFORMAT,
                    "%s: not a safetensors file: header of %llu bytes, at most %llu are allowed", path,
                    (unsigned long long)length, (unsigned long long)header_limit);
    if (length > m->size - 8)
        return fail_hint(err, GIMBAL_EFORMAT, "the download did not finish",
                         "%s: truncated: the header ends at byte %llu, the file has %zu", path,
                         (unsigned long long)length + 8, m->size);
    if (length < 2 || m->data[8] != '{')
        return fail(err, GIMBAL_EFORMAT,
                    "%s: not a safetensors file: no JSON header behind the first 8 bytes", path);
    *n = (size_t)length;
    return GIMBAL_OK;
}

/* ---- one tensor of the header ------------------------------------------------------------ */

static int bad(const SafeTensors *st, const char *name, gimbal_error *err, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
static int bad(const SafeTensors *st, const char *name, gimbal_error *err, const char *fmt, ...)
{
    char q[QUOTED_ROOM], text[320];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return fail(err, GIMBAL_EFORMAT, "%s: tensor %s: %s", st->path, quoted(name, q), text);
}

/* Sizes into e->n; *bits = what the data must have. Sizes of 0 are legal and do not hide an overflow. */
static int read_shape(const SafeTensors *st, StEntry *e, const json_t *shape, int type, int64_t *bits,
                      gimbal_error *err)
{
    if (!json_is_array(shape))
        return bad(st, e->name, err, "\"shape\" is not a list");
    if (json_array_size(shape) > (size_t)COUNT(e->n))
        return bad(st, e->name, err, "has %zu dimensions, at most %d are read", json_array_size(shape),
                   COUNT(e->n));
    e->nd = (int)json_array_size(shape);
    int64_t all = types[type].bits;
    bool empty = false;
    for (int i = 0; i < e->nd; i++) {
        const json_t *size = json_array_get(shape, (size_t)i);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return bad(st, e->name, err, "size %d of its shape is not a whole number >= 0", i);
        e->n[i] = json_integer_value(size);
        empty |= e->n[i] == 0;
        if (__builtin_mul_overflow(all, MAX(e->n[i], 1), &all))
            return bad(st, e->name, err, "its shape overflows 64 bits");
    }
    *bits = empty ? 0 : all;
    return GIMBAL_OK;
}

static int read_offsets(const SafeTensors *st, StEntry *e, const json_t *offsets, gimbal_error *err)
{
    const json_t *from = json_array_get(offsets, 0), *to = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(from) || !json_is_integer(to))
        return bad(st, e->name, err, "\"data_offsets\" is not a list of two whole numbers");
    const int64_t begin = json_integer_value(from), end = json_integer_value(to);
    const size_t room = st->map.size - 8 - st->header;
    if (begin < 0 || end < begin)
        return bad(st, e->name, err, "data from byte %lld to %lld", (long long)begin, (long long)end);
    if ((uint64_t)end > room)
        return fail_hint(err, GIMBAL_EFORMAT, "the download did not finish, or the header lies",
                         "%s: truncated: a tensor ends at byte %llu, the file has %zu", st->path,
                         (unsigned long long)end + 8 + st->header, st->map.size);
    e->data = st->map.data + 8 + st->header + begin;
    e->bytes = (size_t)(end - begin);
    return GIMBAL_OK;
}

static int read_entry(SafeTensors *st, StEntry *e, const char *name, const json_t *value, gimbal_error *err)
{
    e->name = arena_printf(&st->arena, "%s", name);
    if (!e->name)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for names", st->path);
    if (!json_is_object(value))
        return bad(st, name, err, "is not described by an object");
    const char *spelling = json_string_value(json_object_get(value, "dtype"));
    const int type = spelling ? type_index(spelling) : -1;
    char q[QUOTED_ROOM];
    if (type < 0)
        return bad(st, name, err, "\"dtype\" is %s, which the format does not have",
                   spelling ? quoted(spelling, q) : "not text");
    e->type = types[type].type;
    e->spelling = types[type].name;
    int64_t bits = 0;
    TRY(read_shape(st, e, json_object_get(value, "shape"), type, &bits, err));
    TRY(read_offsets(st, e, json_object_get(value, "data_offsets"), err));
    if (bits % 8 || (uint64_t)bits / 8 != e->bytes)
        return bad(st, name, err, "%s of its shape needs %lld bytes, it has %zu", e->spelling,
                   (long long)(bits / 8 + (bits % 8 != 0)), e->bytes);
    return GIMBAL_OK;
}

/* ---- all of them ------------------------------------------------------------------------- */

static int by_place(const void *a, const void *b)
{
    const StEntry *x = a, *y = b;
    const uint8_t *p = x->data, *q = y->data;
    return p != q ? (p > q) - (p < q) : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const StEntry *)a)->name, ((const StEntry *)b)->name);
}

/* The tensors, in order of place, must tile the data. */
static int check_tiling(const SafeTensors *st, gimbal_error *err)
{
    const uint8_t *at = st->map.data + 8 + st->header, *end = st->map.data + st->map.size;
    for (int i = 0; i < st->count; i++) {
        const StEntry *e = &st->entries[i];
        if ((const uint8_t *)e->data < at)
            return bad(st, e->name, err, "overlaps another tensor");
        if ((const uint8_t *)e->data > at)
            return bad(st, e->name, err, "%td bytes before it belong to no tensor",
                       (const uint8_t *)e->data - at);
        at += e->bytes;
    }
    if (at != end)
        return fail(err, GIMBAL_EFORMAT,
                    "%s: %td bytes behind the last tensor: it ends at byte %td, the file has %zu", st->path,
                    end - at, at - st->map.data, st->map.size);
    return GIMBAL_OK;
}

static int read_metadata(SafeTensors *st, json_t *value, gimbal_error *err)
{
    const char *key;
    json_t *text;
    if (!json_is_object(value))
        return fail(err, GIMBAL_EFORMAT, "%s: \"__metadata__\" is not an object", st->path);
    json_object_foreach(value, key, text)
    {
        char q[QUOTED_ROOM];
        if (!json_is_string(text))
            return fail(err, GIMBAL_EFORMAT, "%s: metadata %s is not text", st->path, quoted(key, q));
    }
    st->metadata = json_incref(value);
    return GIMBAL_OK;
}

static int read_header(SafeTensors *st, json_t *header, gimbal_error *err)
{
    st->entries = arena_alloc(&st->arena, (json_object_size(header) + 1) * sizeof *st->entries);
    if (!st->entries)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for %zu tensors", st->path, json_object_size(header));
    const char *name;
    json_t *value;
    json_object_foreach(header, name, value)
    {
        if (!strcmp(name, "__metadata__"))
            TRY(read_metadata(st, value, err));
        else
            TRY(read_entry(st, &st->entries[st->count++], name, value, err));
    }
    qsort(st->entries, (size_t)st->count, sizeof *st->entries, by_place);
    TRY(check_tiling(st, err));
    qsort(st->entries, (size_t)st->count, sizeof *st->entries, by_name);
    return GIMBAL_OK;
}

/* map_file or load_file */
typedef int (*Bytes)(Mapped *, const char *path, gimbal_error *err);

static int open_into(SafeTensors *st, const char *path, Bytes bytes, gimbal_error *err)
{
    st->path = arena_printf(&st->arena, "%s", path);
    if (!st->path)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory", path);
    if (is_folder(path))
        return fail(err, GIMBAL_EFORMAT, "%s: a folder, expected a safetensors file", path);
    TRY(bytes(&st->map, path, err));
    TRY(find_header(&st->map, path, &st->header, err));
    json_t *header;
    TRY(json_parse(&header, (const char *)st->map.data + 8, st->header, HEADER_DEPTH, path, err));
    const int code = read_header(st, header, err);
    json_decref(header);
    return code;
}

static int open_by(SafeTensors **out, const char *path, Bytes bytes, gimbal_error *err)
{
    *out = NULL;
    SafeTensors *st = calloc(1, sizeof *st);
    if (!st)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory", path);
    const int code = open_into(st, path, bytes, err);
    if (code)
        st_close(st);
    else
        *out = st;
    return code;
}

int st_open(SafeTensors **out, const char *path, gimbal_error *err)
{
    return open_by(out, path, map_file, err);
}

int st_load(SafeTensors **out, const char *path, gimbal_error *err)
{
    return open_by(out, path, load_file, err);
}

void st_close(SafeTensors *st)
{
    if (!st)
        return;
    json_decref(st->metadata);
    unmap_file(&st->map);
    arena_free(&st->arena);
    free(st); /* the handle itself, made by open_by */
}

int st_count(const SafeTensors *st)
{
    return st->count;
}

const StEntry *st_entry(const SafeTensors *st, int i)
{
    return i >= 0 && i < st->count ? &st->entries[i] : NULL;
}

const StEntry *st_find(const SafeTensors *st, const char *name)
{
    const StEntry key = {.name = name};
    return bsearch(&key, st->entries, (size_t)st->count, sizeof key, by_name);
}

const char *st_metadata(const SafeTensors *st, const char *key)
{
    return json_string_value(json_object_get(st->metadata, key));
}

const char *st_path(const SafeTensors *st)
{
    return st->path;
}

uint64_t st_bytes(const SafeTensors *st)
{
    return st->map.size;
}

void st_header(const SafeTensors *st, const char **json, size_t *n)
{
    *json = (const char *)st->map.data + 8, *n = st->header;
}

bool st_is_single_checkpoint(const SafeTensors *st)
{
    static const char *const parts[] = {"model.diffusion_model.", "cond_stage_model.", "first_stage_model."};
    for (int i = 0; i < st->count; i++)
        for (int k = 0; k < COUNT(parts); k++)
            if (!strncmp(st->entries[i].name, parts[k], strlen(parts[k])))
                return true;
    return false;
}

/* ---- one tensor as floats ---------------------------------------------------------------- */

static int no_such_tensor(const SafeTensors *st, const char *name, gimbal_error *err)
{
    char list[400] = "", q[QUOTED_ROOM];
    size_t at = 0;
    for (int i = 0; i < st->count && at + QUOTED_ROOM < sizeof list; i++)
        at += (size_t)snprintf(&list[at], sizeof list - at, "%s%s", i ? ", " : "",
                               quoted(st->entries[i].name, q));
    return fail(err, GIMBAL_EFORMAT, "%s: no tensor %s; it has %d: %s", st->path, quoted(name, q), st->count,
                list);
}

static int read_floats(const SafeTensors *st, const char *name, float **out, int64_t n[6], gimbal_error *err)
{
    const StEntry *e = st_find(st, name);
    if (!e)
        return no_such_tensor(st, name, err);
    if (e->type != F32 && e->type != F16 && e->type != BF16)
        return bad(st, name, err, "is %s, expected F32, F16 or BF16", e->spelling);
    if (e->nd > 6)
        return bad(st, name, err, "has %d dimensions, at most 6 are read", e->nd);
    const size_t count = e->bytes / dtype_size(e->type);
    *out = alloc_array(MAX(count, 1), sizeof **out);
    if (!*out)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for %zu floats", st->path, count);
    widen(e->type, e->data, 0, (int64_t)count, *out);
    for (int i = 0; i < 6; i++)
        n[i] = i < 6 - e->nd ? 1 : e->n[i - (6 - e->nd)];
    return GIMBAL_OK;
}

int gimbal_tensor_read(const char *path, const char *name, float **out, int64_t n[6], gimbal_error *err)
{
    SafeTensors *st;
    *out = NULL;
    TRY(st_open(&st, path, err));
    const int code = read_floats(st, name, out, n, err);
    st_close(st);
    return code;
}

/* ---- writing ----------------------------------------------------------------------------- */

/* One tensor to write: where its bytes go. */
typedef struct {
    const gimbal_tensor *t;
    size_t bytes, begin;
    int bits;
} Item;

static int measure(Item *item, const gimbal_tensor *t, bool data, const char *path, gimbal_error *err)
{
    char q[QUOTED_ROOM];
    const int type = t->type ? type_index(t->type) : -1;
    if (!t->name || !strcmp(t->name, "__metadata__"))
        return fail(err, GIMBAL_EUSAGE, "%s: a tensor cannot be named %s", path, t->name ? t->name : "NULL");
    if (type < 0 || types[type].bits % 8)
        return fail(err, GIMBAL_EUSAGE, "%s: tensor %s has the type \"%s\", which cannot be written", path,
                    quoted(t->name, q), t->type ? t->type : "NULL");
    if (t->nd < 0 || t->nd > COUNT(t->n))
        return fail(err, GIMBAL_EUSAGE, "%s: tensor %s has %d dimensions", path, quoted(t->name, q), t->nd);
    int64_t bytes = types[type].bits / 8;
    for (int i = 0; i < t->nd; i++)
        if (t->n[i] < 0 || __builtin_mul_overflow(bytes, t->n[i], &bytes))
            return fail(err, GIMBAL_EUSAGE, "%s: tensor %s has an impossible shape", path,
                        quoted(t->name, q));
    if (data && bytes && !t->data)
        return fail(err, GIMBAL_EUSAGE, "%s: tensor %s has no data", path, quoted(t->name, q));
    *item = (Item){.t = t, .bytes = (size_t)bytes, .bits = types[type].bits};
    return GIMBAL_OK;
}

/* Widest types first, so that every tensor is aligned to its own size; else in the caller's order. */
static int by_width(const void *a, const void *b)
{
    const Item *x = a, *y = b;
    return x->bits != y->bits ? y->bits - x->bits : (x->t > y->t) - (x->t < y->t);
}

/* Adds `value` (taken over, even on failure) under a name that must be new and UTF-8. */
static int add_new(json_t *object, const char *name, json_t *value, const char *path, gimbal_error *err)
{
    char q[QUOTED_ROOM];
    size_t at;
    const char *why = json_object_get(object, name) ? "used twice" : NULL;
    if (utf8_check(name, &at) < 0)
        why = "not UTF-8";
    if (why) {
        json_decref(value);
        return fail(err, GIMBAL_EUSAGE, "%s: the name %s is %s", path, quoted(name, q), why);
    }
    if (json_object_set_new(object, name, value))
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for the header", path);
    return GIMBAL_OK;
}

static json_t *describe(const Item *item)
{
    json_t *shape = json_array();
    bool good = shape != NULL;
    for (int i = 0; i < item->t->nd && good; i++)
        good = !json_array_append_new(shape, json_integer(item->t->n[i]));
    if (!good) {
        json_decref(shape);
        return NULL;
    }
    return json_pack("{s:s, s:o, s:[I,I]}", "dtype", item->t->type, "shape", shape, "data_offsets",
                     (json_int_t)item->begin, (json_int_t)(item->begin + item->bytes));
}

static int build_header(json_t *root, const Item *items, int count, const char *const *metadata,
                        const char *path, gimbal_error *err)
{
    if (metadata && metadata[0]) {
        json_t *meta = json_object();
        TRY(add_new(root, "__metadata__", meta, path, err));
        for (int i = 0; metadata[i]; i += 2) {
            size_t at;
            if (!metadata[i + 1] || utf8_check(metadata[i + 1], &at) < 0)
                return fail(err, GIMBAL_EUSAGE, "%s: metadata %s is not UTF-8 text", path, metadata[i]);
            TRY(add_new(meta, metadata[i], json_string(metadata[i + 1]), path, err));
        }
    }
    for (int i = 0; i < count; i++)
        TRY(add_new(root, items[i].t->name, describe(&items[i]), path, err));
    return GIMBAL_OK;
}

/* Where tensors' bytes come from: `fill`, or their own data. */
typedef struct {
    StFill fill;
    void *user;
    const gimbal_tensor *first; /* the caller's items[0] */
} Source;

static bool write_header(FILE *f, const char *json)
{
    const size_t n = strlen(json), padded = (n + 7) / 8 * 8;
    uint8_t length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)((uint64_t)padded >> (8 * i));
    return fwrite(length, 1, 8, f) == 8 && fwrite(json, 1, n, f) == n &&
           fwrite("        ", 1, padded - n, f) == padded - n;
}

/* The code of `fill`, or EIO without a message: errno says why. */
static int write_filled(FILE *f, const Item *item, const Source *source, char *chunk)
{
    for (size_t at = 0; at < item->bytes; at += ST_CHUNK) {
        const size_t n = MIN(item->bytes - at, ST_CHUNK);
        TRY(source->fill(source->user, (int)(item->t - source->first), at, n, chunk));
        if (fwrite(chunk, 1, n, f) != n)
            return GIMBAL_EIO;
    }
    return GIMBAL_OK;
}

static int write_data(FILE *f, const Item *items, int count, const Source *source)
{
    char *chunk = source->fill ? malloc(ST_CHUNK) : NULL;
    int code = source->fill && !chunk ? GIMBAL_ENOMEM : GIMBAL_OK;
    for (int i = 0; i < count && !code; i++)
        if (source->fill)
            code = write_filled(f, &items[i], source, chunk);
        else if (items[i].bytes && fwrite(items[i].t->data, 1, items[i].bytes, f) != items[i].bytes)
            code = GIMBAL_EIO;
    free(chunk); /* scratch of this call */
    return code;
}

/* Into f, which is closed. */
static int write_bytes(FILE *f, const char *name, const char *json, const Item *items, int count,
                       const Source *source, gimbal_error *err)
{
    int code = write_header(f, json) ? write_data(f, items, count, source) : GIMBAL_EIO;
    int why = errno;
    if (fclose(f) && !code)
        code = GIMBAL_EIO, why = errno;
    if (code == GIMBAL_EIO)
        return fail(err, code, "%s: %s", name, strerror(why));
    return code ? fail(err, code, "%s: writing it ended early: %s", name, gimbal_code_name(code)) : GIMBAL_OK;
}

/* The header as text; caller frees. */
static int header_text(char **json, const Item *items, int count, const char *const *metadata,
                       const char *path, gimbal_error *err)
{
    json_t *root = json_object();
    int code = root ? build_header(root, items, count, metadata, path, err)
                    : fail(err, GIMBAL_ENOMEM, "%s: no memory for the header", path);
    *json = code ? NULL : json_dumps(root, JSON_COMPACT);
    json_decref(root);
    if (!code && !*json)
        code = fail(err, GIMBAL_ENOMEM, "%s: no memory for the header", path);
    return code;
}

static int write_items(const char *path, const Item *items, int count, const char *const *metadata,
                       gimbal_error *err)
{
    const Source own = {0};
    char *json;
    Stage stage = {0};
    int code = header_text(&json, items, count, metadata, path, err);
    if (!code)
        code = stage_open(&stage, path, err);
    FILE *f = code ? NULL : fopen(stage.path, "wb");
    if (!code && !f)
        code = fail(err, GIMBAL_EIO, "%s: %s", path, strerror(errno));
    if (!code)
        code = write_bytes(f, path, json, items, count, &own, err);
    if (!code)
        code = stage_commit(&stage, err);
    stage_abort(&stage);
    free(json); /* json_dumps hands it over */
    return code;
}

/* Measured, in the file's order and with their places; caller frees. */
static int lay_out(Item **out, const gimbal_tensor *tensors, int count, bool data, const char *path,
                   gimbal_error *err)
{
    Item *items = *out = alloc_array((size_t)MAX(count, 1), sizeof *items);
    if (!items)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for %d tensors", path, count);
    for (int i = 0; i < count; i++)
        TRY(measure(&items[i], &tensors[i], data, path, err));
    qsort(items, (size_t)count, sizeof *items, by_width);
    for (int i = 0; i < count; i++)
        items[i].begin = i ? items[i - 1].begin + items[i - 1].bytes : 0;
    return GIMBAL_OK;
}

int st_write(const char *path, const gimbal_tensor *tensors, int count, const char *const *metadata,
             gimbal_error *err)
{
    Item *items;
    int code = lay_out(&items, tensors, count, true, path, err);
    if (!code)
        code = write_items(path, items, count, metadata, err);
    free(items); /* lay_out's */
    return code;
}

int st_stream(FILE *f, const char *name, const gimbal_tensor *tensors, int count, const char *const *metadata,
              StFill fill, void *user, gimbal_error *err)
{
    const Source source = {fill, user, tensors};
    Item *items;
    char *json = NULL;
    int code = lay_out(&items, tensors, count, false, name, err);
    if (!code)
        code = header_text(&json, items, count, metadata, name, err);
    if (code)
        fclose(f);
    else
        code = write_bytes(f, name, json, items, count, &source, err);
    free(json);  /* json_dumps hands it over */
    free(items); /* lay_out's */
    return code;
}

int gimbal_tensors_write(const char *path, const gimbal_tensor *items, int count, const char *const *metadata,
                         gimbal_error *err)
{
    return st_write(path, items, count, metadata, err);
}
