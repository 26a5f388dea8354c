/* cache.c: what was encoded before, on disk: records of a fixed number of floats, found by (clip, frame,
 * flip).
 *
 *     FOLDER/NAME-K-R.bin   K: the key's first 16 digits, R: the rank, or, ... where another process
 *                           writes that one
 *     file   = head, record, record, ...
 *     head   = 128 bytes: magic, floats, checksum, key[64]
 *     record = clip i64, frame i32, flip u32, sum u64, check u64, floats
 *
 * A file grows at its end and by its one writer, who holds its lock; everybody reads all files of the key,
 * and looks what the others have added whenever something is missing. sum is of the floats, check of the four
 * fields before it. A record whose check is wrong is passed over when the file is read; floats whose sum is
 * wrong are found when they are wanted, and forgotten. What is behind the last whole record is cut off by the
 * next writer. Files of another key have other names and are never touched. Bytes are this machine's own
 * order; magic tells.
 *
 * The index is a hash table in memory, open addressing, 48 bytes a slot and at most half full. Knows
 * bytes and files. Refuses to know what the floats mean. */
#include "train/train.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEY = 64, SHORT_KEY = 16, NAME_ROOM = 64, MOST_WRITERS = 64, NO_FILE = -1 };
static const uint64_t MAGIC = 0x31304C4254474347u; /* "GCGTBL01" where the low byte is first */
static const int64_t MOST_FLOATS = (int64_t)1 << 28;

typedef struct {
    uint64_t magic;
    int64_t floats;
    uint64_t check; /* of magic, floats and key */
    char key[KEY];
    char zero[40];
} Head;
typedef struct {
    int64_t clip;
    int32_t frame;
    uint32_t flip;
    uint64_t sum, check;
} RecordHead;
_Static_assert(sizeof(Head) == 128 && sizeof(RecordHead) == 32, "files have no padding of the compiler's");

typedef struct {
    RecordHead head; /* clip, frame, flip count; sum and check of the record on disk */
    int64_t at;      /* of the record in its file, bytes */
    int32_t file;    /* NO_FILE: the record turned out to be damaged */
    bool used;
} Slot;

typedef struct {
    int fd;
    dev_t device;
    ino_t inode;
    int64_t end; /* behind what is in the index: of the one that is written, where it goes on */
} File;

struct Cache {
    char folder[PATH_ROOM], path[PATH_ROOM]; /* path: of the file that is written */
    char prefix[NAME_ROOM + SHORT_KEY + 3];  /* of the names: NAME-K- */
    Head head;
    File *file; /* [files]; 0 is the one that is written */
    int files;
    uint8_t *record; /* room for one */
    size_t record_bytes;
    Slot *slot; /* [room], a power of 2 */
    int64_t room, taken, count;
};

/* ---- checksums --------------------------------------------------------------------------- */

/* Word by word: xor, times an odd number, high half into low half. Each step can be undone, so that one
 * changed word always changes the result; several do by all but one chance in 2^64. */
static uint64_t mix(uint64_t h, uint64_t word)
{
    h = (h ^ word) * 0x9E3779B97F4A7C15u;
    return h ^ (h >> 32);
}

static uint64_t mix_bytes(uint64_t h, const void *data, size_t n)
{
    const uint8_t *at = data;
    for (uint64_t word = 0; n; word = 0) {
        const size_t part = MIN(n, sizeof word);
        memcpy(&word, at, part);
        h = mix(h, word);
        at += part, n -= part;
    }
    return h;
}

static uint64_t place_of(const RecordHead *r)
{
    return mix(mix(0x6A09E667F3BCC909u, (uint64_t)r->clip),
               (uint64_t)(uint32_t)r->frame << 1 | (r->flip & 1));
}

static uint64_t check_of_record(const RecordHead *r)
{
    return mix(mix(place_of(r), r->flip), r->sum);
}

static uint64_t check_of_head(const Head *h)
{
    return mix_bytes(mix(mix(0, h->magic), (uint64_t)h->floats), h->key, sizeof h->key);
}

/* ---- index ------------------------------------------------------------------------------- */

/* Where the record is, or would be put. */
static Slot *find_slot(const Cache *c, const RecordHead *r)
{
    for (uint64_t i = place_of(r);; i++) {
        Slot *s = &c->slot[i & (uint64_t)(c->room - 1)];
        if (!s->used || (s->head.clip == r->clip && s->head.frame == r->frame && s->head.flip == r->flip))
            return s;
    }
}

static int grow_index(Cache *c, gimbal_error *err)
{
    Cache larger = *c;
    larger.room = c->room ? 2 * c->room : 1024;
    larger.slot = calloc((size_t)larger.room, sizeof *larger.slot);
    if (!larger.slot)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for an index of %lld records", c->folder,
                    (long long)larger.room);
    for (int64_t i = 0; i < c->room; i++)
        if (c->slot[i].used)
            *find_slot(&larger, &c->slot[i].head) = c->slot[i];
    free(c->slot); /* the table it grew out of */
    *c = larger;
    return GIMBAL_OK;
}

/* Of several records of one place the last of a file is the one, for it may have been added because the first
 * was damaged; and our own file's, which is scanned first, before the others'. */
static int put_slot(Cache *c, const RecordHead *r, int file, int64_t at, gimbal_error *err)
{
    if (2 * (c->taken + 1) > c->room)
        TRY(grow_index(c, err));
    Slot *s = find_slot(c, r);
    if (s->used && s->file != NO_FILE && s->file != file)
        return GIMBAL_OK;
    c->taken += !s->used, c->count += !s->used || s->file == NO_FILE;
    *s = (Slot){.head = *r, .at = at, .file = file, .used = true};
    return GIMBAL_OK;
}

/* ---- files ------------------------------------------------------------------------------- */

static bool read_at(int fd, void *out, size_t n, int64_t at)
{
    for (uint8_t *to = out; n;) {
        const ssize_t got = pread(fd, to, n, at);
        if (got == 0 || (got < 0 && errno != EINTR))
            return false;
        if (got > 0)
            to += got, at += got, n -= (size_t)got;
    }
    return true;
}

/* False, with errno: not everything is written. */
static bool write_at(int fd, const void *data, size_t n, int64_t at)
{
    for (const uint8_t *from = data; n;) {
        const ssize_t put = pwrite(fd, from, n, at);
        if (put < 0 && errno != EINTR)
            return false;
        if (put > 0)
            from += put, at += put, n -= (size_t)put;
    }
    return true;
}

static int64_t size_of(int fd)
{
    struct stat st;
    return !fstat(fd, &st) && S_ISREG(st.st_mode) ? (int64_t)st.st_size : -1;
}

static bool is_ours(const Cache *c, int fd)
{
    Head h;
    return size_of(fd) >= (int64_t)sizeof h && read_at(fd, &h, sizeof h, 0) &&
           !memcmp(&h, &c->head, sizeof h);
}

/* Every whole record behind what is known of a file into the index. Heads alone are read. */
static int scan(Cache *c, int file, gimbal_error *err)
{
    File *f = &c->file[file];
    const int64_t size = size_of(f->fd), bytes = (int64_t)c->record_bytes;
    for (; f->end + bytes <= size; f->end += bytes) {
        RecordHead r;
        if (read_at(f->fd, &r, sizeof r, f->end) && r.check == check_of_record(&r) && r.flip <= 1)
            TRY(put_slot(c, &r, file, f->end, err));
    }
    return GIMBAL_OK;
}

static int keep_file(Cache *c, int fd, gimbal_error *err)
{
    struct stat st;
    File *more = realloc(c->file, (size_t)(c->files + 1) * sizeof *more);
    if (!more || fstat(fd, &st)) {
        c->file = more ? more : c->file;
        close(fd);
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for %d files", c->folder, c->files + 1);
    }
    c->file = more;
    c->file[c->files++] = (File){fd, st.st_dev, st.st_ino, sizeof(Head)};
    return GIMBAL_OK;
}

/* ---- the file that is written ------------------------------------------------------------ */

/* Locks c->path. *fd -1, and no error: another process holds it. */
static int take_file(const Cache *c, int *fd, gimbal_error *err)
{
    *fd = open(c->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*fd < 0)
        return fail(err, GIMBAL_EIO, "%s: cannot be written: %s", c->path, strerror(errno));
    if (!flock(*fd, LOCK_EX | LOCK_NB))
        return GIMBAL_OK;
    const int reason = errno;
    close(*fd);
    *fd = -1;
    return reason == EWOULDBLOCK
               ? GIMBAL_OK
               : fail(err, GIMBAL_EIO, "%s: cannot be locked: %s", c->path, strerror(reason));
}

/* A head is written where there is none; half a one is of a process that ended while it made the file. */
static int begin_file(Cache *c, gimbal_error *err)
{
    const int fd = c->file[0].fd;
    const int64_t size = size_of(fd);
    if (size >= (int64_t)sizeof c->head)
        return is_ours(c, fd) ? GIMBAL_OK
                              : fail_hint(err, GIMBAL_EFORMAT, "remove it, or give another folder",
                                          "%s: not a cache of %lld floats under this key", c->path,
                                          (long long)c->head.floats);
    if (size < 0 || !write_at(fd, &c->head, sizeof c->head, 0)) {
        const int reason = errno;
        const bool cut = size >= 0 && !ftruncate(fd, 0);
        return fail(err, GIMBAL_EIO, "%s: cannot be written: %s%s", c->path,
                    size < 0 ? "no regular file" : strerror(reason), cut ? "" : "; remove it");
    }
    return GIMBAL_OK;
}

/* Ranks have files of their own; a second run of the same rank takes the next free name. */
static int open_own(Cache *c, int rank, gimbal_error *err)
{
    int fd = -1;
    for (int i = 0; i < MOST_WRITERS && fd < 0; i++) {
        char name[NAME_ROOM + SHORT_KEY + 48], turn[16] = "";
        if (i)
            snprintf(turn, sizeof turn, "-%d", i);
        snprintf(name, sizeof name, "%s%d%s.bin", c->prefix, rank, turn);
        TRY(path_join(c->path, c->folder, name, err));
        TRY(take_file(c, &fd, err));
    }
    if (fd < 0)
        return fail(err, GIMBAL_EIO, "%s: in use, as are %d more of its name", c->path, MOST_WRITERS - 1);
    TRY(keep_file(c, fd, err));
    TRY(begin_file(c, err));
    TRY(scan(c, 0, err));
    if (size_of(fd) > c->file[0].end && ftruncate(fd, c->file[0].end))
        return fail(err, GIMBAL_EIO, "%s: its torn end cannot be cut off: %s", c->path, strerror(errno));
    return GIMBAL_OK;
}

/* ---- the others' files ------------------------------------------------------------------- */

static bool is_open(const Cache *c, const struct stat *st)
{
    for (int i = 0; i < c->files; i++)
        if (c->file[i].device == st->st_dev && c->file[i].inode == st->st_ino)
            return true;
    return false;
}

/* A file that cannot be read is one that has nothing for us. */
static int add_other(Cache *c, int folder, const char *name, gimbal_error *err)
{
    struct stat st;
    if (fstatat(folder, name, &st, 0) || !S_ISREG(st.st_mode) || is_open(c, &st))
        return GIMBAL_OK;
    const int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0 && is_ours(c, fd))
        return keep_file(c, fd, err);
    if (fd >= 0)
        close(fd);
    return GIMBAL_OK;
}

/* Takes in what the others have written since: in their files, and in files that are new. */
static int catch_up(Cache *c, gimbal_error *err)
{
    DIR *d = opendir(c->folder);
    int code = GIMBAL_OK;
    if (!d)
        return fail(err, GIMBAL_EIO, "%s: %s", c->folder, strerror(errno));
    for (struct dirent *e; !code && (e = readdir(d));) {
        const size_t n = strlen(e->d_name);
        if (!strncmp(e->d_name, c->prefix, strlen(c->prefix)) && n > 4 && !strcmp(e->d_name + n - 4, ".bin"))
            code = add_other(c, dirfd(d), e->d_name, err);
    }
    closedir(d);
    for (int i = 1; !code && i < c->files; i++)
        code = scan(c, i, err);
    return code;
}

/* ---- a cache ----------------------------------------------------------------------------- */

static int check_names(const char *name, const char *key, int64_t floats, int rank, gimbal_error *err)
{
    if (!*name || strlen(name) > NAME_ROOM || strchr(name, '/'))
        return fail(err, GIMBAL_EUSAGE, "a cache is called \"%.80s\", expected 1 to %d letters", name,
                    NAME_ROOM);
    if (strlen(key) != KEY || key[strspn(key, "0123456789abcdef")])
        return fail(err, GIMBAL_EUSAGE, "a cache's key is \"%.80s\", expected %d hexadecimal digits", key,
                    KEY);
    if (floats < 1 || floats > MOST_FLOATS || rank < 0)
        return fail(err, GIMBAL_EUSAGE, "a cache of %lld floats for rank %d", (long long)floats, rank);
    return GIMBAL_OK;
}

static int open_cache(Cache *c, const char *folder, const char *name, const char *key, int64_t floats,
                      int rank, gimbal_error *err)
{
    TRY(check_names(name, key, floats, rank, err));
    if (strlen(folder) >= sizeof c->folder)
        return fail(err, GIMBAL_EUSAGE, "a cache's folder of %zu bytes is too long", strlen(folder));
    strcpy(c->folder, folder);
    snprintf(c->prefix, sizeof c->prefix, "%s-%.*s-", name, SHORT_KEY, key);
    c->head = (Head){.magic = MAGIC, .floats = floats};
    memcpy(c->head.key, key, KEY);
    c->head.check = check_of_head(&c->head);
    c->record_bytes = sizeof(RecordHead) + (size_t)floats * sizeof(float);
    c->record = malloc(c->record_bytes);
    if (!c->record)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for a record of %lld floats", folder,
                    (long long)floats);
    if (mkdir(folder, 0777) && errno != EEXIST)
        return fail(err, GIMBAL_EIO, "%s: cannot be made: %s", folder, strerror(errno));
    TRY(grow_index(c, err));
    TRY(open_own(c, rank, err));
    return catch_up(c, err);
}

int cache_open(Cache **out, const char *folder, const char *name, const char *key, int64_t floats, int rank,
               gimbal_error *err)
{
    *out = NULL;
    Cache *c = calloc(1, sizeof *c);
    if (!c)
        return fail(err, GIMBAL_ENOMEM, "%s: no memory for a cache", folder);
    const int code = open_cache(c, folder, name, key, floats, rank, err);
    if (code)
        cache_close(c);
    else
        *out = c;
    return code;
}

static bool has_floats(const Cache *c, const Slot *s, float *out)
{
    const size_t bytes = c->record_bytes - sizeof(RecordHead);
    return read_at(c->file[s->file].fd, out, bytes, s->at + (int64_t)sizeof(RecordHead)) &&
           mix_bytes(place_of(&s->head), out, bytes) == s->head.sum;
}

bool cache_find(Cache *c, int64_t clip, int frame, bool flip, float *out)
{
    const RecordHead wanted = {.clip = clip, .frame = frame, .flip = flip};
    Slot *s = find_slot(c, &wanted);
    if (!s->used || s->file == NO_FILE) {
        catch_up(c, NULL); /* if that fails, there is just nothing new */
        s = find_slot(c, &wanted);
    }
    if (!s->used || s->file == NO_FILE)
        return false;
    if (has_floats(c, s, out))
        return true;
    s->file = NO_FILE, c->count--;
    return false;
}

int cache_add(Cache *c, int64_t clip, int frame, bool flip, const float *x, gimbal_error *err)
{
    RecordHead r = {.clip = clip, .frame = frame, .flip = flip};
    const size_t bytes = c->record_bytes - sizeof r;
    r.sum = mix_bytes(place_of(&r), x, bytes);
    r.check = check_of_record(&r);
    memcpy(c->record, &r, sizeof r);
    memcpy(c->record + sizeof r, x, bytes);
    File *f = &c->file[0];
    if (!write_at(f->fd, c->record, c->record_bytes, f->end)) {
        const int reason = errno;
        const char *torn = ftruncate(f->fd, f->end) ? "; its torn end stays until it is opened again" : "";
        return fail_hint(err, GIMBAL_EIO, "make room; what was encoded before stays usable",
                         "%s: a record of %zu bytes cannot be written: %s%s", c->path, c->record_bytes,
                         strerror(reason), torn);
    }
    TRY(put_slot(c, &r, 0, f->end, err));
    f->end += (int64_t)c->record_bytes;
    return GIMBAL_OK;
}

int64_t cache_count(const Cache *c)
{
    return c->count;
}

void cache_close(Cache *c)
{
    if (!c)
        return;
    for (int i = 0; i < c->files; i++)
        close(c->file[i].fd); /* and with it goes the lock */
    free(c->file);
    free(c->slot);
    free(c->record);
    free(c); /* cache_open's */
}
