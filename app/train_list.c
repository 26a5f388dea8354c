/* train_list.c: metadata.jsonl and .csv tables of clips and captions.
 *
 *     text -> lines -> JSON objects ──┐
 *     text -> rows -> cells by column ┴> {file, caption, line, bad}
 *
 * What is wrong with one line is that clip's own trouble, told by its line; the others stay. A file's name
 * must be relative and stay below the list's folder. Tables are RFC 4180: cells in quotes may hold commas,
 * line breaks and doubled quotes; lines end in LF or CR LF; a byte order mark is passed over.
 *
 * Refuses to know files. */
#include "app/train_list.h"

#include "app/app.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MOST_CELLS = 64, MOST_LINE = 1 << 20 };

/* ---- a list ------------------------------------------------------------------------------ */

int list_spoil(ListedClip *clip, const char *reason, gimbal_error *err)
{
    if (!clip->bad)
        clip->bad = strdup(reason);
    return clip->bad ? GIMBAL_OK : fail_memory(err);
}

/* jansson checks UTF-8 when it makes a string. */
static bool is_utf8(const char *text)
{
    json_t *string = json_string(text);
    json_decref(string);
    return string != NULL;
}

static bool has_control(const char *text)
{
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        if (*c < 0x20 || *c == 0x7f)
            return true;
    return false;
}

/* Is some part of the path ".."? */
static bool climbs(const char *path)
{
    for (const char *part = path; part; part = strchr(part, '/')) {
        part += *part == '/';
        if (!strncmp(part, "..", 2) && (part[2] == '/' || !part[2]))
            return true;
    }
    return false;
}

static const char *what_is_wrong(const char *file, const char *caption)
{
    if (!file || !*file)
        return "names no file";
    if (has_control(file))
        return "its name holds control characters";
    if (*file == '/' || climbs(file))
        return "leaves the folder of the list: names are relative and without \"..\"";
    if (!caption)
        return "has no caption";
    return is_utf8(caption) ? NULL : "its caption is not UTF-8";
}

int list_add(ClipList *list, const char *file, const char *caption, int64_t line, const char *bad,
             gimbal_error *err)
{
    if (list->count == list->room) {
        const int64_t room = list->room ? 2 * list->room : 64;
        ListedClip *more = realloc(list->clip, (size_t)room * sizeof *more);
        if (!more)
            return fail_memory(err);
        list->clip = more, list->room = room;
    }
    bad = bad ? bad : what_is_wrong(file, caption);
    ListedClip *c = &list->clip[list->count++];
    *c = (ListedClip){.file = file ? strdup(file) : NULL,
                      .caption = caption ? strdup(caption) : NULL,
                      .bad = bad ? strdup(bad) : NULL,
                      .line = line};
    const bool failed = (file && !c->file) || (caption && !c->caption) || (bad && !c->bad);
    return failed ? fail_memory(err) : GIMBAL_OK;
}

void list_free(ClipList *list)
{
    for (int64_t i = 0; i < list->count; i++) {
        free(list->clip[i].file);
        free(list->clip[i].caption);
        free(list->clip[i].bad);
    }
    free(list->clip);
    *list = (ClipList){0};
}

/* Passes a byte order mark over. Text with zeros is UTF-16, or none. */
static int begin_text(const char **text, size_t *n, const char *where, gimbal_error *err)
{
    if (*n >= 3 && !memcmp(*text, "\xef\xbb\xbf", 3))
        *text += 3, *n -= 3;
    if (*n && memchr(*text, 0, *n))
        return complain(err, GIMBAL_EFORMAT, "save it as UTF-8", "%s: holds zero bytes, expected text",
                        where);
    return GIMBAL_OK;
}

/* ---- JSON lines -------------------------------------------------------------------------- */

/* The first of the keys that is there; NULL: none, or one that is no text, whose name is *odd. */
static const char *text_of(const json_t *object, const char *const *keys, const char **odd)
{
    for (; *keys; keys++) {
        const json_t *value = json_object_get(object, *keys);
        if (!value || json_is_null(value))
            continue;
        if (!json_is_string(value))
            *odd = *keys;
        return json_string_value(value);
    }
    return NULL;
}

static int add_object(ClipList *list, const json_t *object, int64_t line, gimbal_error *err)
{
    static const char *const files[] = {"file_name", "video", "path", NULL};
    static const char *const captions[] = {"text", "caption", "prompt", NULL};
    const char *odd = NULL;
    char reason[64];
    const char *file = text_of(object, files, &odd), *caption = text_of(object, captions, &odd);
    if (!odd)
        return list_add(list, file, caption, line, NULL, err);
    snprintf(reason, sizeof reason, "its \"%s\" is no text", odd);
    return list_add(list, file, caption, line, reason, err);
}

static bool is_blank(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n", text[i]))
            return false;
    return true;
}

static int add_line(ClipList *list, const char *text, size_t n, int64_t line, gimbal_error *err)
{
    json_error_t e = {0};
    char reason[64];
    if (is_blank(text, n))
        return GIMBAL_OK;
    if (n > MOST_LINE)
        return list_add(list, NULL, NULL, line, "is longer than a megabyte", err);
    json_t *object = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    if (!object && json_error_code(&e) == json_error_out_of_memory)
        return fail_memory(err);
    snprintf(reason, sizeof reason, "is not valid JSON, column %d", e.column);
    const int code = json_is_object(object)
                         ? add_object(list, object, line, err)
                         : list_add(list, NULL, NULL, line, object ? "is no JSON object" : reason, err);
    json_decref(object);
    return code;
}

int list_jsonl(ClipList *list, const char *text, size_t n, const char *where, gimbal_error *err)
{
    int64_t line = 1;
    TRY(begin_text(&text, &n, where, err));
    for (const char *end = text + n; text < end; line++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        stop = stop ? stop : end;
        TRY(add_line(list, text, (size_t)(stop - text), line, err));
        text = stop + (stop < end);
    }
    return GIMBAL_OK;
}

/* ---- tables ------------------------------------------------------------------------------ */

/* A copy of the text, in which cells are unquoted and ended where they stand. */
typedef struct {
    char *at, *end; /* *end may be written */
    int64_t line, row_line;
    char *cell[MOST_CELLS]; /* of this row */
    int n;                  /* may be more than have room */
    bool open;              /* a quote of this row was never closed */
} Table;

/* True: another cell of this row follows. */
static bool next_cell(Table *t)
{
    char *const from = t->at, *out = t->at;
    bool quoted = t->at < t->end && *t->at == '"';
    for (t->at += quoted; t->at < t->end; t->at++) {
        if (quoted && *t->at == '"') {
            quoted = t->at + 1 < t->end && t->at[1] == '"';
            if (!quoted)
                continue;
            t->at++;
        } else if (!quoted && strchr(",\r\n", *t->at)) {
            break;
        }
        t->line += *t->at == '\n';
        *out++ = *t->at;
    }
    t->open |= quoted;
    const char stop = t->at < t->end ? *t->at : 0;
    t->at += stop != 0;
    if (stop == '\r' && t->at < t->end && *t->at == '\n')
        t->at++;
    t->line += stop == '\n' || stop == '\r';
    *out = 0;
    if (t->n++ < MOST_CELLS)
        t->cell[t->n - 1] = from;
    return stop == ',';
}

/* The next row that is not empty. */
static bool next_row(Table *t)
{
    while (t->at < t->end) {
        t->n = 0, t->open = false, t->row_line = t->line;
        while (next_cell(t))
            ;
        if (t->n > 1 || *t->cell[0])
            return true;
    }
    return false;
}

/* The first of the names that a column has; -1: none. */
static int find_column(const Table *t, const char *const *names)
{
    for (; *names; names++)
        for (int i = 0; i < t->n && i < MOST_CELLS; i++) {
            const char *cell = t->cell[i] + strspn(t->cell[i], " ");
            const size_t n = strlen(*names);
            if (!strncasecmp(cell, *names, n) && !cell[n + strspn(cell + n, " ")])
                return i;
        }
    return -1;
}

static int miss_column(const Table *t, const char *what, const char *where, gimbal_error *err)
{
    char hint[200] = "its columns are: ";
    size_t at = strlen(hint);
    for (int i = 0; i < t->n && i < MOST_CELLS && at + 24 < sizeof hint; i++)
        at += (size_t)snprintf(hint + at, sizeof hint - at, "%s%.16s", i ? ", " : "", t->cell[i]);
    for (char *c = hint; *c; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e)
            *c = '?';
    return complain(err, GIMBAL_EFORMAT, hint, "%s: no column %s", where, what);
}

typedef struct {
    int file, caption;
    bool video_id;
} Columns;

static int find_columns(Columns *c, Table *t, const char *where, gimbal_error *err)
{
    static const char *const files[] = {"file_name", "file", "path", "video", "videoid", NULL};
    static const char *const captions[] = {"caption", "text", "prompt", "name", NULL};
    if (!next_row(t))
        return complain(err, GIMBAL_EFORMAT, "its first row names the columns, as in: file,caption",
                        "%s: an empty table", where);
    c->file = find_column(t, files), c->caption = find_column(t, captions);
    c->video_id = c->file == find_column(t, &files[4]);
    if (c->file < 0)
        return miss_column(t, "file_name, file, path, video or videoid", where, err);
    return c->caption < 0 ? miss_column(t, "caption, text, prompt or name", where, err) : GIMBAL_OK;
}

static int add_row(ClipList *list, const Columns *c, const Table *t, gimbal_error *err)
{
    char *with_ending = NULL;
    if (t->open)
        return list_add(list, NULL, NULL, t->row_line, "begins a quote that never ends", err);
    if (t->n > MOST_CELLS || t->n <= c->file || t->n <= c->caption)
        return list_add(list, NULL, NULL, t->row_line,
                        t->n > MOST_CELLS ? "has more than 64 cells" : "has too few cells", err);
    const char *file = t->cell[c->file];
    if (c->video_id && *file && !strchr(file, '.')) {
        if (asprintf(&with_ending, "%s.mp4", file) < 0)
            return fail_memory(err);
        file = with_ending;
    }
    const int code = list_add(list, file, t->cell[c->caption], t->row_line, NULL, err);
    free(with_ending);
    return code;
}

int list_csv(ClipList *list, const char *text, size_t n, const char *where, gimbal_error *err)
{
    Columns columns = {0};
    TRY(begin_text(&text, &n, where, err));
    char *copy = malloc(n + 1);
    if (!copy)
        return fail_memory(err);
    memcpy(copy, text, n);
    Table table = {.at = copy, .end = copy + n, .line = 1};
    int code = find_columns(&columns, &table, where, err);
    while (!code && next_row(&table))
        code = add_row(list, &columns, &table, err);
    free(copy);
    return code;
}
