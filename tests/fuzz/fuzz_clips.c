/* fuzz_clips.c: any bytes as a list of clips to learn from (app/train_list.c, which is compiled in): a table
 * where the first byte is a 't', else JSON lines. A clip that is not bad names a file below the folder and
 * has a caption; written as a table and read again, all such clips are the same. */
#include "tests/fuzz/program.h"

#include "app/train_list.h"

static void want_inside(const char *file)
{
    WANT(file[0] && file[0] != '/');
    for (const char *part = file; part; part = strchr(part, '/')) {
        part += *part == '/';
        WANT(strcmp(part, "..") && strncmp(part, "../", 3));
    }
    for (const char *c = file; *c; c++)
        WANT((unsigned char)*c >= 0x20 && *c != 0x7f);
}

/* Returns how many are not bad. */
static int64_t want_clips(const ClipList *list, size_t size)
{
    int64_t good = 0, line = 0;
    WANT(list->count <= (int64_t)size);
    for (int64_t i = 0; i < list->count; i++) {
        const ListedClip *c = &list->clip[i];
        WANT(c->line > line);
        line = c->line;
        if (c->bad)
            continue;
        good++;
        WANT(c->file && c->caption && utf8_check(c->caption, NULL) >= 0);
        want_inside(c->file);
    }
    return good;
}

static void put_cell(FILE *out, const char *text, char behind)
{
    fputc('"', out);
    for (; *text; text++)
        fprintf(out, *text == '"' ? "\"\"" : "%c", *text);
    fprintf(out, "\"%c", behind);
}

static void round_trip_list(const ClipList *list, int64_t good)
{
    char *text = NULL;
    size_t size = 0;
    gimbal_error err = {0};
    ClipList again = {0};
    FILE *out = open_memstream(&text, &size);
    WANT(out != NULL);
    fprintf(out, "caption,file\n");
    for (int64_t i = 0; i < list->count; i++)
        if (!list->clip[i].bad)
            put_cell(out, list->clip[i].caption, ','), put_cell(out, list->clip[i].file, '\n');
    fclose(out);
    WANT(!list_csv(&again, text, size, "again", &err) && again.count == good);
    for (int64_t i = 0, k = 0; i < list->count; i++) {
        if (list->clip[i].bad)
            continue;
        const ListedClip *c = &again.clip[k++];
        WANT(!c->bad && !strcmp(c->file, list->clip[i].file) && !strcmp(c->caption, list->clip[i].caption));
    }
    free(text);
    list_free(&again);
}

FUZZ(clips)
{
    gimbal_error err = {0};
    ClipList list = {0};
    const bool table = size && *data == 't';
    const size_t n = size ? size - 1 : 0;
    const char *text = (const char *)data + (size > 0);
    const int code = (table ? list_csv : list_jsonl)(&list, text, n, "list", &err);
    want_message(code, &err);
    const int64_t good = want_clips(&list, size);
    if (!code)
        round_trip_list(&list, good);
    list_free(&list);
    return 0;
}
