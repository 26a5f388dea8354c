/* train_data.c: what `gimbal train --data` names, as clips that are known by number.
 *
 *     toyworld:count=4096,first=0     the library's procedural clips
 *     FOLDER/metadata.jsonl           {"file_name": "a/1.mp4", "text": "..."} a line (train_list.h)
 *     FOLDER/NAME.csv, the only one   a table with a column of files and one of captions (train_list.h)
 *     FOLDER                          every clip and picture in it, at any depth; a.txt: words of a.mp4
 *     FILE.jsonl, FILE.csv            such a list by itself; files are found from its folder
 *
 * A picture is a clip of one frame; a folder of pictures, where a list names one, is a clip. What a look at
 * names and sizes shows to be useless is named on stderr and left out; a file that cannot be decoded is found
 * when it is wanted, and the trainer is told. Clips are in the order of their names, whatever order the disk
 * has.
 *
 * A clip's number of frames is looked up when it is first wanted: what the container says, or where it says
 * nothing by decoding. Frames are decoded from the first to the last that is asked for, scaled to cover the
 * wanted size (Lanczos, a low pass where it shrinks: what aliases in one frame flickers in a clip), and the
 * middle is cut out.
 *
 * Refuses to know what is done with the frames. */
#include "app/train.h"
#include "app/train_list.h"

#include <dirent.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { SMALL = 16, MOST_DEPTH = 16, MOST_NAMED = 10 };
static const size_t LIST_LIMIT = (size_t)4 << 30, CAPTION_LIMIT = 64 << 10;

/* Of a clip, when it was opened once; frames 0: not yet. */
typedef struct {
    int frames, width, height;
} Seen;

typedef struct {
    char *root; /* folder of the names */
    ClipList list;
    Seen *seen; /* [list.count] */
    char identity[65];
} Data;

static char *path_below(const char *root, const char *name)
{
    char *path = NULL;
    return asprintf(&path, "%s/%s", root, name) < 0 ? NULL : path;
}

/* ---- texts ------------------------------------------------------------------------------- */

/* A whole file with a zero behind it; caller frees. */
static int read_text(const char *path, size_t limit, char **out, size_t *size, gimbal_error *err)
{
    struct stat st;
    *out = NULL;
    FILE *file = fopen(path, "rbe");
    if (!file || fstat(fileno(file), &st) || !S_ISREG(st.st_mode)) {
        const int reason = file ? EINVAL : errno;
        if (file)
            fclose(file);
        return complain(err, GIMBAL_EIO, NULL, "%s: %s", path, strerror(reason));
    }
    int code = (uint64_t)st.st_size <= limit
                   ? GIMBAL_OK
                   : complain(err, GIMBAL_EFORMAT, NULL, "%s: %lld bytes, at most %zu are read", path,
                              (long long)st.st_size, limit);
    *out = code ? NULL : malloc((size_t)st.st_size + 1);
    if (!code && !*out)
        code = fail_memory(err);
    *size = code ? 0 : fread(*out, 1, (size_t)st.st_size, file);
    if (!code && ferror(file))
        code = complain(err, GIMBAL_EIO, NULL, "%s: cannot be read", path);
    if (*out)
        (*out)[*size] = 0;
    fclose(file);
    return code;
}

/* Blanks around it go, line breaks inside become blanks. */
static char *trim(char *text)
{
    static const char blanks[] = " \t\r\n";
    text += strspn(text, blanks);
    size_t n = strlen(text);
    while (n && strchr(blanks, text[n - 1]))
        n--;
    text[n] = 0;
    for (char *c = text; *c; c++)
        if (*c == '\n' || *c == '\r')
            *c = ' ';
    return text;
}

/* ---- a folder without a list ------------------------------------------------------------- */

static bool is_media(const char *name)
{
    static const char *const endings[] = {".mp4",  ".mov", ".mkv", ".webm", ".avi",  ".m4v",
                                          ".mpg",  ".ts",  ".gif", ".y4m",  ".png",  ".jpg",
                                          ".webp", ".bmp", ".tif", ".tiff", ".jpeg", ".mpeg"};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof endings / sizeof *endings; i++)
        if (!strcasecmp(dot, endings[i]))
            return true;
    return false;
}

/* The words beside a clip: its name with .txt for its ending. *out NULL: there are none. */
static int read_sidecar(const char *root, const char *file, char **out, gimbal_error *err)
{
    char *path = NULL;
    size_t size;
    struct stat st;
    const int stem = (int)(strrchr(file, '.') - file);
    *out = NULL;
    if (asprintf(&path, "%s/%.*s.txt", root, stem, file) < 0)
        return fail_memory(err);
    const int code = stat(path, &st) ? GIMBAL_OK : read_text(path, CAPTION_LIMIT, out, &size, err);
    free(path);
    return code;
}

static int add_media(Data *d, const char *file, gimbal_error *err)
{
    char *text;
    gimbal_error why = {0};
    const int code = read_sidecar(d->root, file, &text, &why);
    if (code == GIMBAL_ENOMEM)
        return fail_memory(err);
    const int added = list_add(&d->list, file, text ? trim(text) : NULL, 0, code ? why.msg : NULL, err);
    free(text);
    return added;
}

static int walk(Data *d, const char *below, int depth, gimbal_error *err);

/* Folders that are links are passed over: they may lead in a circle. */
static int walk_entry(Data *d, const char *below, const char *name, int depth, gimbal_error *err)
{
    struct stat st, link;
    char *file = *below ? path_below(below, name) : strdup(name);
    char *path = file ? path_below(d->root, file) : NULL;
    int code = path ? GIMBAL_OK : fail_memory(err);
    if (!code && !lstat(path, &link) && !stat(path, &st)) {
        if (S_ISDIR(link.st_mode) && depth < MOST_DEPTH)
            code = walk(d, file, depth + 1, err);
        else if (S_ISREG(st.st_mode) && is_media(name))
            code = add_media(d, file, err);
    }
    free(path);
    free(file);
    return code;
}

static int walk(Data *d, const char *below, int depth, gimbal_error *err)
{
    char *path = path_below(d->root, below);
    if (!path)
        return fail_memory(err);
    DIR *dir = opendir(path);
    int code = dir ? GIMBAL_OK : complain(err, GIMBAL_EIO, NULL, "%s: %s", path, strerror(errno));
    for (struct dirent *e; !code && (e = readdir(dir));)
        if (e->d_name[0] != '.')
            code = walk_entry(d, below, e->d_name, depth, err);
    if (dir)
        closedir(dir);
    free(path);
    return code;
}

/* ---- which list -------------------------------------------------------------------------- */

static int read_list(Data *d, const char *path, gimbal_error *err)
{
    char *text;
    size_t size;
    int code = read_text(path, LIST_LIMIT, &text, &size, err);
    if (!code)
        code = (ends_with(path, ".csv") ? list_csv : list_jsonl)(&d->list, text, size, path, err);
    free(text);
    return code;
}

/* The list that a folder has: *out, caller frees; NULL: none. */
static int find_list(const char *root, char **out, gimbal_error *err)
{
    struct stat st;
    *out = path_below(root, "metadata.jsonl");
    if (!*out)
        return fail_memory(err);
    if (!stat(*out, &st))
        return GIMBAL_OK;
    free(*out);
    *out = NULL;
    DIR *dir = opendir(root);
    int code = dir ? GIMBAL_OK : complain(err, GIMBAL_EIO, NULL, "%s: %s", root, strerror(errno));
    for (struct dirent *e; !code && (e = readdir(dir));) {
        if (e->d_name[0] == '.' || !ends_with(e->d_name, ".csv"))
            continue;
        if (*out)
            code = complain(err, GIMBAL_EUSAGE, "name the one that is meant: --data FOLDER/LIST.csv",
                            "--data %s: has several .csv lists, %s is one", root, e->d_name);
        else if (!(*out = path_below(root, e->d_name)))
            code = fail_memory(err);
    }
    if (dir)
        closedir(dir);
    return code;
}

static int list_folder(Data *d, const char *folder, gimbal_error *err)
{
    char *list = NULL;
    d->root = strdup(folder);
    if (!d->root)
        return fail_memory(err);
    int code = find_list(folder, &list, err);
    if (!code)
        code = list ? read_list(d, list, err) : walk(d, "", 0, err);
    free(list);
    return code;
}

static int list_file(Data *d, const char *path, gimbal_error *err)
{
    const char *slash = strrchr(path, '/');
    if (!ends_with(path, ".csv") && !ends_with(path, ".jsonl"))
        return complain(err, GIMBAL_EUSAGE,
                        "a folder of clips, a list .csv or .jsonl, or toyworld:count=4096",
                        "--data %s: is a file, and no list", path);
    d->root = slash ? strndup(path, (size_t)(slash - path) + (slash == path)) : strdup(".");
    return d->root ? read_list(d, path, err) : fail_memory(err);
}

/* ---- what is useless --------------------------------------------------------------------- */

static int check_file(Data *d, ListedClip *c, gimbal_error *err)
{
    struct stat st;
    char *path = path_below(d->root, c->file);
    if (!path)
        return fail_memory(err);
    const int reason = stat(path, &st) ? errno : 0;
    free(path);
    if (reason)
        return list_spoil(c, strerror(reason), err);
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return list_spoil(c, "is neither a file nor a folder", err);
    c->bytes = S_ISREG(st.st_mode) ? (int64_t)st.st_size : 0;
    return S_ISREG(st.st_mode) && !st.st_size ? list_spoil(c, "is empty", err) : GIMBAL_OK;
}

/* For messages: a clip's name, or its line. Returns out. */
static const char *call_it(const ListedClip *c, char out[256])
{
    if (c->line && c->file)
        snprintf(out, 256, "%.200s (line %lld)", c->file, (long long)c->line);
    else if (c->line)
        snprintf(out, 256, "line %lld", (long long)c->line);
    else
        snprintf(out, 256, "%.200s", c->file);
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    return out;
}

/* Those that stay move together. */
static int64_t leave_out(Data *d, bool quiet)
{
    int64_t bad = 0, kept = 0;
    char called[256];
    for (int64_t i = 0; i < d->list.count; i++) {
        ListedClip *c = &d->list.clip[i];
        if (!c->bad) {
            const ListedClip moved = d->list.clip[kept];
            d->list.clip[kept++] = *c, *c = moved;
            continue;
        }
        if (bad++ < MOST_NAMED && !quiet)
            fprintf(stderr, "gimbal: warning: --data: %s: %s: left out\n", call_it(c, called), c->bad);
    }
    if (bad > MOST_NAMED && !quiet)
        fprintf(stderr, "gimbal: warning: --data: %lld more are left out\n", (long long)(bad - MOST_NAMED));
    return kept;
}

static int compare_clips(const void *pa, const void *pb)
{
    const ListedClip *a = pa, *b = pb;
    const int order = strcmp(a->file ? a->file : "", b->file ? b->file : "");
    if (order || !a->caption || !b->caption)
        return order ? order : (a->line > b->line) - (a->line < b->line);
    return strcmp(a->caption, b->caption);
}

/* Cuts the list down to what can be used. */
static int keep_good(Data *d, const char *spec, bool quiet, gimbal_error *err)
{
    char called[256];
    if (!d->list.count)
        return complain(err, GIMBAL_EFORMAT,
                        "clips or pictures with a .txt of the same name beside each, or a metadata.jsonl",
                        "--data %s: no clips in it", spec);
    qsort(d->list.clip, (size_t)d->list.count, sizeof *d->list.clip, compare_clips);
    for (int64_t i = 0; i < d->list.count; i++)
        if (!d->list.clip[i].bad)
            TRY(check_file(d, &d->list.clip[i], err));
    const int64_t kept = leave_out(d, quiet);
    if (!kept)
        return complain(err, GIMBAL_EFORMAT,
                        "each clip needs words: a .txt of the same name, or a list metadata.jsonl or .csv",
                        "--data %s: none of %lld clips can be used; %s: %s", spec, (long long)d->list.count,
                        call_it(&d->list.clip[0], called), d->list.clip[0].bad);
    while (d->list.count > kept) {
        ListedClip *c = &d->list.clip[--d->list.count];
        free(c->file), free(c->caption), free(c->bad);
    }
    return GIMBAL_OK;
}

/* ---- identity ---------------------------------------------------------------------------- */

/* SHA-256 of name, 0, size as decimal digits, 0, caption, 0, of each clip in their order. */
static int identify(Data *d, gimbal_error *err)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    char size[32];
    EVP_MD_CTX *cx = EVP_MD_CTX_new();
    bool good = cx && EVP_DigestInit_ex(cx, EVP_sha256(), NULL) == 1;
    for (int64_t i = 0; good && i < d->list.count; i++) {
        const ListedClip *c = &d->list.clip[i];
        const int digits = snprintf(size, sizeof size, "%lld", (long long)c->bytes);
        good = EVP_DigestUpdate(cx, c->file, strlen(c->file) + 1) == 1 &&
               EVP_DigestUpdate(cx, size, (size_t)digits + 1) == 1 &&
               EVP_DigestUpdate(cx, c->caption, strlen(c->caption) + 1) == 1;
    }
    good = good && EVP_DigestFinal_ex(cx, digest, &n) == 1 && n == 32;
    EVP_MD_CTX_free(cx);
    for (int i = 0; good && i < 32; i++)
        snprintf(&d->identity[2 * i], 3, "%02x", digest[i]);
    return good ? GIMBAL_OK
                : complain(err, GIMBAL_ENOSUP, NULL, "SHA-256 cannot be computed by this machine's OpenSSL");
}

/* ---- one clip ---------------------------------------------------------------------------- */

static int clip_of(const Data *d, int64_t i, char **path, gimbal_error *err)
{
    if (i < 0 || i >= d->list.count)
        return complain(err, GIMBAL_EUSAGE, NULL, "clip %lld of %lld", (long long)i,
                        (long long)d->list.count);
    *path = path_below(d->root, d->list.clip[i].file);
    return *path ? GIMBAL_OK : fail_memory(err);
}

/* Frames and size of the clip, from the file or as they were found before. */
static int see(Data *d, int64_t i, const char *path, gimbal_error *err)
{
    uint8_t small[SMALL * SMALL * 3];
    media_reader *reader;
    media_info info;
    Seen *seen = &d->seen[i];
    if (seen->frames)
        return GIMBAL_OK;
    TRY(media_open_scaled(&reader, path, SMALL, SMALL, &info, err));
    int got = 1;
    if (info.frames <= 0)
        for (info.frames = 0; info.frames < INT32_MAX && (got = media_get(reader, small, err)) > 0;)
            info.frames++;
    media_free(reader);
    if (got < 0)
        return got;
    if (!info.frames)
        return complain(err, GIMBAL_EFORMAT, NULL, "%s: no picture in it", path);
    *seen = (Seen){info.frames, info.file_width, info.file_height};
    return GIMBAL_OK;
}

static int look(void *self, int64_t i, int *frames, const char **caption, gimbal_error *err)
{
    Data *d = self;
    char *path;
    TRY(clip_of(d, i, &path, err));
    const int code = see(d, i, path, err);
    free(path);
    TRY(code);
    *frames = d->seen[i].frames;
    *caption = d->list.clip[i].caption;
    return GIMBAL_OK;
}

/* The least size of that shape which covers width x height. */
static void cover(const Seen *seen, int width, int height, int *w, int *h)
{
    const int64_t across = (int64_t)width * seen->height, down = (int64_t)height * seen->width;
    *w = width, *h = height;
    if (across > down) /* the clip is taller in shape */
        *h = (int)((across + seen->width / 2) / seen->width);
    else
        *w = (int)((down + seen->height / 2) / seen->height);
    *w = *w > width ? *w : width, *h = *h > height ? *h : height;
}

typedef struct {
    const int *at;           /* [n] */
    int n, last;             /* largest of at */
    int width, height, w, h; /* w, h: before the middle is cut out */
    uint8_t *rgb;            /* [n][height][width][3] */
} Wanted;

static void put(const Wanted *k, int frame, const uint8_t *picture)
{
    const size_t row = 3 * (size_t)k->width, left = (size_t)(k->w - k->width) / 2,
                 top = (size_t)(k->h - k->height) / 2;
    for (int i = 0; i < k->n; i++)
        for (size_t y = 0; k->at[i] == frame && y < (size_t)k->height; y++)
            memcpy(k->rgb + ((size_t)i * (size_t)k->height + y) * row,
                   picture + 3 * ((top + y) * (size_t)k->w + left), row);
}

static int read_wanted(const Wanted *k, const char *path, gimbal_error *err)
{
    media_reader *reader;
    int got = 1, n = 0;
    uint8_t *picture = malloc(3 * (size_t)k->w * (size_t)k->h);
    if (!picture)
        return fail_memory(err);
    const int code = media_open_scaled(&reader, path, k->w, k->h, NULL, err);
    for (; !code && n <= k->last && (got = media_get(reader, picture, err)) > 0; n++)
        put(k, n, picture);
    if (!code)
        media_free(reader);
    free(picture);
    if (code || got < 0)
        return code ? code : got;
    return n > k->last ? GIMBAL_OK
                       : complain(err, GIMBAL_EFORMAT, "its container says that there are more",
                                  "%s: ends after %d frames, frame %d is wanted", path, n, k->last);
}

/* Sizes that can be, and frames that are there. */
static int check_wanted(Wanted *k, const Seen *seen, const char *path, gimbal_error *err)
{
    enum { MOST_SIDE = 8192 };
    if (k->width < 1 || k->height < 1 || k->width > MOST_SIDE || k->height > MOST_SIDE)
        return complain(err, GIMBAL_EUSAGE, NULL, "pictures of %dx%d, expected sides of 1 to %d pixels",
                        k->width, k->height, MOST_SIDE);
    for (int i = 0; i < k->n; i++) {
        if (k->at[i] < 0 || k->at[i] >= seen->frames)
            return complain(err, GIMBAL_EUSAGE, NULL, "%s: frame %d of %d", path, k->at[i], seen->frames);
        k->last = k->at[i] > k->last ? k->at[i] : k->last;
    }
    return GIMBAL_OK;
}

static int read_frames(void *self, int64_t i, const int *at, int n, int width, int height, uint8_t *rgb,
                       gimbal_error *err)
{
    Data *d = self;
    Wanted k = {.at = at, .n = n, .width = width, .height = height, .rgb = rgb};
    char *path;
    TRY(clip_of(d, i, &path, err));
    int code = see(d, i, path, err);
    code = code ? code : check_wanted(&k, &d->seen[i], path, err);
    if (!code && n > 0) {
        cover(&d->seen[i], width, height, &k.w, &k.h);
        code = read_wanted(&k, path, err);
    }
    free(path);
    return code;
}

static const char *name_of(void *self, int64_t i)
{
    const Data *d = self;
    return i >= 0 && i < d->list.count ? d->list.clip[i].file : "no clip";
}

static void close_data(void *self)
{
    Data *d = self;
    list_free(&d->list);
    free(d->seen);
    free(d->root);
    free(d);
}

/* ---- the set ----------------------------------------------------------------------------- */

/* A set of which no clip can be decoded is found here, not after a model is opened. */
static int look_once(Data *d, const char *spec, gimbal_error *err)
{
    gimbal_error first = {0};
    const char *caption;
    int frames;
    for (int64_t i = 0; i < d->list.count; i++) {
        gimbal_error why = {0};
        if (!look(d, i, &frames, &caption, &why))
            return GIMBAL_OK;
        if (!i)
            first = why;
    }
    return complain(err, GIMBAL_EFORMAT, first.hint[0] ? first.hint : NULL,
                    "--data %.200s: none of %lld clips can be read; %.200s", spec, (long long)d->list.count,
                    first.msg);
}

static int open_data(Data *d, const char *spec, bool quiet, gimbal_error *err)
{
    struct stat st;
    if (stat(spec, &st))
        return complain(err, GIMBAL_EUSAGE,
                        "a folder of clips, a list .csv or .jsonl, or toyworld:count=4096", "--data %s: %s",
                        spec, strerror(errno));
    TRY(S_ISDIR(st.st_mode) ? list_folder(d, spec, err) : list_file(d, spec, err));
    TRY(keep_good(d, spec, quiet, err));
    TRY(identify(d, err));
    d->seen = calloc((size_t)d->list.count, sizeof *d->seen);
    return d->seen ? look_once(d, spec, err) : fail_memory(err);
}

int clips_open(const char *spec, bool quiet, gimbal_clips *out, gimbal_error *err)
{
    static const char toyworld[] = "toyworld";
    const char *rest = strncmp(spec, toyworld, sizeof toyworld - 1) ? NULL : spec + sizeof toyworld - 1;
    if (rest && (!*rest || *rest == ':'))
        return gimbal_toyworld(*rest ? rest + 1 : "", out, err);
    Data *d = calloc(1, sizeof *d);
    *out = (gimbal_clips){0};
    if (!d)
        return fail_memory(err);
    const int code = open_data(d, spec, quiet, err);
    if (code) {
        close_data(d);
        return code;
    }
    *out = (gimbal_clips){.count = d->list.count,
                          .identity = d->identity,
                          .look = look,
                          .read = read_frames,
                          .name = name_of,
                          .close = close_data,
                          .self = d};
    return GIMBAL_OK;
}
