/* source.c: which files a path means, in which order: one file, a numbered sequence f%03d.png, or a folder's
 * pictures in natural order (f2 before f10).
 *
 * A file of that very name wins over a sequence. A sequence begins with one of the numbers 0 to 4 and ends at
 * the first gap. Of a folder, names that begin with a dot and endings that are no picture's are passed over.
 *
 * Refuses to know what the files hold. */
#include "media/ffmpeg.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { FIRST_NUMBERS = 5 }; /* a sequence begins with a number below this */

/* ---- natural order ----------------------------------------------------------------------- */

/* Runs of digits compare as numbers of any length, everything else byte by byte. */
static int compare_natural(const char *a, const char *b)
{
    while (*a && *b) {
        if (isdigit((unsigned char)*a) && isdigit((unsigned char)*b)) {
            a += strspn(a, "0"), b += strspn(b, "0");
            const size_t n = strspn(a, "0123456789"), m = strspn(b, "0123456789");
            const int order = n != m ? (n < m ? -1 : 1) : memcmp(a, b, n);
            if (order)
                return order;
            a += n, b += m;
        } else if (*a != *b) {
            break;
        } else {
            a++, b++;
        }
    }
    return (unsigned char)*a - (unsigned char)*b;
}

static int compare_names(const void *pa, const void *pb)
{
    const char *a = *(const char *const *)pa, *b = *(const char *const *)pb;
    const int order = compare_natural(a, b);
    return order ? order : strcmp(a, b); /* f01 and f1 are equal as numbers */
}

/* ---- a folder ---------------------------------------------------------------------------- */

static bool is_picture(const char *folder, const char *name)
{
    static const char *const endings[] = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"};
    const char *dot = strrchr(name, '.');
    char path[PATH_ROOM];
    bool known = false;
    for (int i = 0; i < COUNT(endings); i++)
        known |= dot && dot > name && name[0] != '.' && !strcasecmp(dot, endings[i]);
    return known && !path_join(path, folder, name, NULL) && is_file(path);
}

static int add_name(Source *s, const char *folder, const char *name, gimbal_error *err)
{
    const bool full = s->count && !(s->count & (s->count - 1)); /* room is the next power of two */
    const size_t room = s->count ? 2 * (size_t)s->count : 1;
    if (full || !s->count) {
        const char **more = realloc(s->names, room * sizeof *more);
        if (!more)
            return fail(err, GIMBAL_ENOMEM, "%s: no memory for the names of %zu pictures", folder, room);
        s->names = more;
    }
    const char *kept = arena_printf(&s->arena, "%s", name);
    if (!kept)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for the names of %d pictures", folder, s->count + 1);
    s->names[s->count++] = kept;
    return GIMBAL_OK;
}

static int list_folder(Source *s, const char *folder, gimbal_error *err)
{
    DIR *d = opendir(folder);
    int code = GIMBAL_OK;
    if (!d)
        return fail(err, GIMBAL_EIO, "%s: %s", folder, strerror(errno));
    for (struct dirent *e; !code && s->count < INT32_MAX / 2 && (e = readdir(d));)
        if (is_picture(folder, e->d_name))
            code = add_name(s, folder, e->d_name, err);
    closedir(d);
    TRY(code);
    if (!s->count)
        return fail(err, GIMBAL_EIO, "%s: a folder without pictures, expected .png, .jpg or .webp files",
                    folder);
    qsort(s->names, (size_t)s->count, sizeof *s->names, compare_names);
    s->folder = arena_printf(&s->arena, "%s", folder);
    return s->folder ? GIMBAL_OK : fail(err, GIMBAL_ENOMEM, "%s: no memory for its name", folder);
}

/* ---- a source ---------------------------------------------------------------------------- */

static bool numbered_file(const Source *s, int i, char path[PATH_ROOM])
{
    return !name_at(&s->name, i, path, NULL) && is_file(path);
}

static int find_number(Source *s, const char *path, gimbal_error *err)
{
    char file[PATH_ROOM];
    TRY(name_parse(&s->name, path, err));
    for (s->first = 0; s->first < FIRST_NUMBERS; s->first++)
        if (!s->name.sequence || numbered_file(s, s->first, file))
            break;
    if (s->first == FIRST_NUMBERS)
        return fail(err, GIMBAL_EIO, "%s: no such pictures: none is numbered 0 to %d", path,
                    FIRST_NUMBERS - 1);
    while (s->name.sequence && numbered_file(s, s->first + s->count, file))
        s->count++;
    return GIMBAL_OK;
}

int source_find(Source *s, const char *path, gimbal_error *err)
{
    memset(s, 0, sizeof *s);
    if (!path || !*path)
        return fail(err, GIMBAL_EUSAGE, "the clip's name is empty");
    if (strlen(path) >= PATH_ROOM)
        return fail(err, GIMBAL_EUSAGE, "a path of %zu bytes is too long", strlen(path));
    if (is_folder(path))
        return list_folder(s, path, err);
    if (!is_file(path) && strchr(path, '%'))
        TRY(find_number(s, path, err));
    if (s->name.sequence)
        return GIMBAL_OK;
    strcpy(s->name.head, path);
    s->count = 1;
    return GIMBAL_OK;
}

bool source_next(Source *s, char path[PATH_ROOM])
{
    if (s->next >= s->count)
        return false;
    const int i = s->next++;
    if (s->folder)
        return !path_join(path, s->folder, s->names[i], NULL);
    return !name_at(&s->name, s->first + i, path, NULL);
}

/* A folder's recipe is that of the sequence that its first picture belongs to: f000.png, f.png.json. */
int source_sidecar(const Source *s, char out[PATH_ROOM], gimbal_error *err)
{
    Name name = s->name;
    if (!s->folder)
        return name_sidecar(&name, out, err);
    TRY(path_join(name.head, s->folder, s->names[0], err));
    char *end = name.head + strlen(name.head);
    while (end > name.head && end[-1] != '/' && !isdigit((unsigned char)end[-1]))
        end--;
    char *digits = end;
    while (digits > name.head && isdigit((unsigned char)digits[-1]))
        digits--;
    if (digits < end) {
        strcpy(name.tail, end);
        *digits = 0;
    }
    return name_sidecar(&name, out, err);
}

void source_free(Source *s)
{
    free(s->names); /* list_folder's */
    arena_free(&s->arena);
}
