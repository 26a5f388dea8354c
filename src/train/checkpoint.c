/* checkpoint.c: a training run on disk, so that it goes on after a crash with the same bytes.
 *
 *     OUT/step-00012000/state.safetensors    param.NAME m.NAME v.NAME [ema.NAME], F32, of every trained
 * tensor weights/, ema/       what the recipe makes of them: model files manifest.json        of every file:
 * its size and SHA-256; written last metadata of the state: gimbal.state (1), .step, .config (settings that
 * decide what is learnt), .model (identity), .data_sha256, .data_count, .version, .changes (what was changed
 * at which step)
 *
 * A folder is made as step-N.tmp, every byte is brought to the disk, then it is renamed: a name without .tmp
 * is whole. There is no random state: draws are functions of the step. What is read is a stranger's file
 * until it is checked, manifest first.
 *
 * Knows the trainer's state. Refuses to know networks' shapes beside names, and when to save. */
#include "train/train.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STATE_DEPTH = 8, MAX_KINDS = 4, READ_CHUNK = 1 << 20 };
static const char version[] = "1", state_name[] = "state.safetensors", manifest_name[] = "manifest.json";
static const char *const kinds[MAX_KINDS] = {"param", "m", "v", "ema"};

static int no_memory(gimbal_error *err)
{
    return fail(err, GIMBAL_ENOMEM, "no memory for a checkpoint's texts");
}

/* ---- settings as JSON -------------------------------------------------------------------- */

/* What may differ from one part of a run to the next: freely, for it changes nothing that is learnt, or when
 * the caller says so, which is then written down. All else must be equal. */
typedef enum { STRICT, ON_DEMAND, FREE } Bound;
static const struct {
    size_t offset;
    Bound bound;
} bounds[] = {
#define FIELD(name, bound)                                                                                   \
    {                                                                                                        \
        offsetof(gimbal_train_settings, name), bound                                                         \
    }
    FIELD(recipe, FREE), /* compared by the recipe's own name */
    FIELD(model, FREE),  /* paths: the model's identity is compared */
    FIELD(motion, FREE),         FIELD(micro, FREE),
    FIELD(threads, FREE),        FIELD(recompute, FREE),
    FIELD(save_every, FREE),     FIELD(keep, FREE),
    FIELD(validate_every, FREE), FIELD(save_type, FREE),
    FIELD(cache, FREE),          FIELD(allow_change, FREE),
    FIELD(steps, ON_DEMAND),     FIELD(schedule, ON_DEMAND),
    FIELD(warmup, ON_DEMAND),    FIELD(lr, ON_DEMAND),
    FIELD(base_lr, ON_DEMAND),   FIELD(batch, ON_DEMAND),
    FIELD(dtype, ON_DEMAND),     FIELD(validation, ON_DEMAND), /* its clips are not learnt from */
};

static Bound bound_of(const gimbal_option *o)
{
    for (int i = 0; i < COUNT(bounds); i++)
        if (bounds[i].offset == o->offset)
            return bounds[i].bound;
    return STRICT;
}

static json_t *field_json(const gimbal_option *o, const gimbal_train_settings *s)
{
    const char *at = (const char *)s + o->offset;
    char seed[24];
    switch (o->type) {
    case GIMBAL_BOOL:
    case GIMBAL_INT:
        return json_integer(*(const int *)at);
    case GIMBAL_REAL:
        return json_real(*(const double *)at);
    case GIMBAL_SEED: /* as text: readers lose the upper bits of 64 */
        snprintf(seed, sizeof seed, "%llu", (unsigned long long)*(const uint64_t *)at);
        return json_string(seed);
    default:
        break;
    }
    const char *text = *(const char *const *)at;
    return text ? json_string(text) : json_null();
}

json_t *train_config(const struct gimbal_trainer *t)
{
    json_t *out = json_object();
    bool good = out && !json_object_set_new(out, "recipe", json_string(t->recipe->name));
    for (const gimbal_option *o = gimbal_train_options(); good && o->name; o++)
        if (bound_of(o) != FREE)
            good = !json_object_set_new(out, o->name, field_json(o, &t->s));
    if (good)
        return out;
    json_decref(out);
    return NULL;
}

char *train_json_text(const json_t *json)
{
    return json ? json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17)) : NULL;
}

/* ---- folders ----------------------------------------------------------------------------- */

enum { STEP_NAME = 32 };
static void step_name(char out[STEP_NAME], int64_t step, const char *ending)
{
    snprintf(out, STEP_NAME, "step-%08lld%s", (long long)step, ending);
}

/* Step of a folder's name, or -1: only names that step_name gives. */
static int64_t step_of(const char *name, const char *ending)
{
    char same[STEP_NAME];
    if (strncmp(name, "step-", 5) || strlen(name) >= STEP_NAME)
        return -1;
    const int64_t step = strtoll(name + 5, NULL, 10);
    step_name(same, step, ending);
    return step < 0 || step > INT32_MAX || strcmp(same, name) ? -1 : step;
}

/* A folder or file with all that is in it; links are not followed. 0, or errno. */
static int remove_tree(const char *path)
{
    char *const roots[] = {(char *)path, NULL};
    int why = 0;
    FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
    if (!fts)
        return errno;
    for (FTSENT *e; (e = fts_read(fts));)
        if (e->fts_info != FTS_D && remove(e->fts_accpath) && errno != ENOENT)
            why = errno;
    fts_close(fts);
    return why;
}

static int by_step(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* Steps of all folders of `output` with this ending, newest first; *out is the caller's. */
static int list_steps(const char *output, const char *ending, int64_t **out, int *n, gimbal_error *err)
{
    int room = 0, code = GIMBAL_OK;
    *out = NULL, *n = 0;
    DIR *d = opendir(output);
    if (!d)
        return fail(err, GIMBAL_EIO, "%s: %s", output, strerror(errno));
    for (struct dirent *e; !code && (e = readdir(d));) {
        const int64_t step = step_of(e->d_name, ending);
        if (step < 0)
            continue;
        if (*n == room) {
            int64_t *more = realloc(*out, (size_t)(room = 2 * room + 16) * sizeof *more);
            if (!more) {
                code = no_memory(err);
                continue;
            }
            *out = more;
        }
        (*out)[(*n)++] = step;
    }
    closedir(d);
    if (*n)
        qsort(*out, (size_t)*n, sizeof **out, by_step);
    return code;
}

/* Removes folder `step`: under a temporary name first, so that what is half removed is no checkpoint. */
static void remove_step(struct gimbal_trainer *t, int64_t step)
{
    char name[STEP_NAME], from[PATH_ROOM], to[PATH_ROOM];
    step_name(name, step, "");
    int why = path_join(from, t->output, name, NULL) ? ENAMETOOLONG : 0;
    step_name(name, step, ".tmp");
    why = why || path_join(to, t->output, name, NULL) ? ENAMETOOLONG : 0;
    if (!why)
        why = rename(from, to) ? errno : remove_tree(to);
    if (why)
        trainer_note(t, "%s: an old checkpoint cannot be removed: %s", from, strerror(why));
}

/* What a process that died left behind. */
static void remove_stale(struct gimbal_trainer *t)
{
    char name[STEP_NAME], path[PATH_ROOM];
    int64_t *step;
    int n;
    const int code = list_steps(t->output, ".tmp", &step, &n, NULL);
    for (int i = 0; i < n && !code; i++) {
        step_name(name, step[i], ".tmp");
        if (path_join(path, t->output, name, NULL))
            continue;
        const int why = remove_tree(path);
        if (why)
            trainer_note(t, "%s: cannot be removed: %s", path, strerror(why));
    }
    free(step); /* list_steps' */
}

/* All but the newest `keep` of those up to the present step go. Later ones are no part of this run. */
static void remove_old(struct gimbal_trainer *t)
{
    int64_t *step;
    int n, kept = 0;
    const int code = list_steps(t->output, "", &step, &n, NULL);
    for (int i = 0; i < n && !code && t->s.keep > 0; i++)
        if (step[i] <= t->step && ++kept > t->s.keep)
            remove_step(t, step[i]);
    free(step); /* list_steps' */
}

int checkpoint_folder(struct gimbal_trainer *t, int resume, gimbal_error *err)
{
    int64_t *step;
    int n;
    if (mkdir(t->output, 0777) && errno != EEXIST)
        return fail_hint(err, GIMBAL_EIO, errno == ENOENT ? "make the folder above it first" : "",
                         "%s: cannot be made: %s", t->output, strerror(errno));
    if (!is_folder(t->output))
        return fail(err, GIMBAL_EIO, "%s: is a file, expected a folder", t->output);
    if (!t->ranks->rank)
        remove_stale(t);
    const int code = list_steps(t->output, "", &step, &n, err);
    const int64_t newest = n ? step[0] : 0;
    free(step); /* list_steps' */
    if (code || !n || resume)
        return code;
    return fail_hint(err, GIMBAL_EUSAGE, "resume goes on with it; or give a folder of its own to each run",
                     "%s: holds %d checkpoints already, the newest of step %lld", t->output, n,
                     (long long)newest);
}

/* ---- saving: the state ------------------------------------------------------------------- */

/* Array k of the set, in the order of `kinds`. */
static float *array_of(const TrainSet *set, int k)
{
    float *const array[MAX_KINDS] = {set->value, set->m, set->v, set->ema};
    return array[k];
}

static int kinds_of(const TrainSet *set)
{
    return set->ema ? MAX_KINDS : MAX_KINDS - 1;
}

static int tensor_name(char out[PARAM_NAME + 8], const TrainSet *set, const Param *p, int kind)
{
    char name[PARAM_NAME];
    param_name(set, p->net, p->w, name);
    return snprintf(out, PARAM_NAME + 8, "%s.%s", kinds[kind], name);
}

static int state_items(const TrainSet *set, gimbal_tensor *items, Arena *scratch, gimbal_error *err)
{
    int n = 0;
    for (int k = 0; k < kinds_of(set); k++)
        for (int i = 0; i < set->n; i++, n++) {
            const Param *p = &set->p[i];
            char name[PARAM_NAME + 8];
            tensor_name(name, set, p, k);
            items[n] = (gimbal_tensor){.name = arena_printf(scratch, "%s", name),
                                       .type = "F32",
                                       .nd = p->w->nd,
                                       .data = array_of(set, k) + p->at};
            memcpy(items[n].n, p->w->n, (size_t)p->w->nd * sizeof *p->w->n);
            if (!items[n].name)
                return no_memory(err);
        }
    return GIMBAL_OK;
}

static int save_state(const struct gimbal_trainer *t, const char *folder, Arena *scratch, gimbal_error *err)
{
    char path[PATH_ROOM], step[24], count[24];
    const TrainSet *set = &t->set;
    const int n = set->n * kinds_of(set);
    gimbal_tensor *items = arena_alloc(scratch, (size_t)MAX(n, 1) * sizeof *items);
    if (!items)
        return no_memory(err);
    TRY(state_items(set, items, scratch, err));
    TRY(path_join(path, folder, state_name, err));
    json_t *json = train_config(t);
    char *config = train_json_text(json);
    json_decref(json);
    if (!config)
        return no_memory(err);
    snprintf(step, sizeof step, "%lld", (long long)t->step);
    snprintf(count, sizeof count, "%lld", (long long)t->clips->count);
    const char *const metadata[] = {"gimbal.state",
                                    version,
                                    "gimbal.step",
                                    step,
                                    "gimbal.config",
                                    config,
                                    "gimbal.model",
                                    t->engine->identity,
                                    "gimbal.data_sha256",
                                    t->clips->identity,
                                    "gimbal.data_count",
                                    count,
                                    "gimbal.version",
                                    gimbal_version(),
                                    t->changes ? "gimbal.changes" : NULL,
                                    t->changes,
                                    NULL};
    const int code = st_write(path, items, n, metadata, err);
    free(config); /* json_dumps' */
    return code;
}

static int save_weights(struct gimbal_trainer *t, const char *folder, bool ema, gimbal_error *err)
{
    char path[PATH_ROOM];
    TRY(path_join(path, folder, ema ? "ema" : "weights", err));
    if (mkdir(path, 0777))
        return fail(err, GIMBAL_EIO, "%s: %s", path, strerror(errno));
    return t->recipe->save(t->self, t, path, ema, err);
}

/* ---- saving: the manifest ---------------------------------------------------------------- */

/* Hashes what is left of an open file and says how much it was. 0, or errno. */
static int hash_open(int fd, char hex[65], int64_t *bytes)
{
    Sha256 *sha = sha256_new();
    char *chunk = malloc(READ_CHUNK);
    ssize_t got = 0;
    int why = sha && chunk ? 0 : ENOMEM;
    *bytes = 0;
    while (!why && (got = read(fd, chunk, READ_CHUNK)) != 0) {
        if (got > 0)
            sha256_add(sha, chunk, (size_t)got), *bytes += got;
        else if (errno != EINTR)
            why = errno;
    }
    free(chunk); /* scratch of this call */
    if (sha)
        sha256_end(sha, hex);
    return why;
}

/* Brings a file or folder to the disk; a file is hashed on the way. 0, or errno. */
static int sync_path(const char *path, char *hex, int64_t *bytes)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno;
    int why = fsync(fd) ? errno : 0;
    if (!why && hex)
        why = hash_open(fd, hex, bytes);
    close(fd);
    return why;
}

static int by_path(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

/* All files of `folder` to the disk and into `files`: {"weights/config.json": {"bytes": .., "sha256": ..}}.
 */
static int sync_all(const char *folder, json_t *files, gimbal_error *err)
{
    char *const roots[] = {(char *)folder, NULL}, hex[65];
    int64_t bytes;
    int why = 0;
    FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, by_path);
    if (!fts)
        return fail(err, GIMBAL_EIO, "%s: %s", folder, strerror(errno));
    for (FTSENT *e; !why && (e = fts_read(fts));) {
        if (e->fts_info == FTS_DP)
            why = sync_path(e->fts_path, NULL, NULL);
        else if (e->fts_info == FTS_F)
            why = sync_path(e->fts_path, hex, &bytes);
        else if (e->fts_info != FTS_D)
            why = e->fts_errno ? e->fts_errno : EINVAL;
        if (!why && e->fts_info == FTS_F &&
            json_object_set_new(files, e->fts_path + strlen(folder) + 1,
                                json_pack("{s:I, s:s}", "bytes", (json_int_t)bytes, "sha256", hex)))
            why = ENOMEM;
        if (why)
            fail(err, why == ENOMEM ? GIMBAL_ENOMEM : GIMBAL_EIO, "%s: %s", e->fts_path, strerror(why));
    }
    fts_close(fts);
    return !why ? GIMBAL_OK : why == ENOMEM ? GIMBAL_ENOMEM : GIMBAL_EIO;
}

static int write_text(const char *path, const char *text, gimbal_error *err)
{
    FILE *f = fopen(path, "wbxe");
    const size_t n = strlen(text);
    bool good = f && fwrite(text, 1, n, f) == n && !fflush(f) && !fsync(fileno(f));
    int why = errno;
    if (f && fclose(f) && good)
        good = false, why = errno;
    return good ? GIMBAL_OK : fail(err, GIMBAL_EIO, "%s: %s", path, strerror(why));
}

static int save_manifest(const struct gimbal_trainer *t, const char *folder, gimbal_error *err)
{
    char path[PATH_ROOM];
    json_t *files = json_object();
    TRY(path_join(path, folder, manifest_name, err));
    int code = files ? sync_all(folder, files, err) : no_memory(err);
    json_t *root = json_pack("{s:s, s:I, s:o}", "gimbal", gimbal_version(), "step", (json_int_t)t->step,
                             "files", files); /* takes files over */
    char *text = code || !root ? NULL : json_dumps(root, JSON_INDENT(1));
    if (!code)
        code = text ? write_text(path, text, err) : no_memory(err);
    free(text); /* json_dumps' */
    json_decref(root);
    const int why = code ? 0 : sync_path(folder, NULL, NULL);
    return why ? fail(err, GIMBAL_EIO, "%s: %s", folder, strerror(why)) : code;
}

/* ---- saving: all of it ------------------------------------------------------------------- */

static int write_all(struct gimbal_trainer *t, const char *folder, gimbal_error *err)
{
    Arena scratch = {0};
    remove_tree(folder);
    if (mkdir(folder, 0777))
        return fail(err, GIMBAL_EIO, "%s: %s", folder, strerror(errno));
    int code = save_state(t, folder, &scratch, err);
    arena_free(&scratch);
    if (!code)
        code = save_weights(t, folder, false, err);
    if (!code && t->set.ema)
        code = save_weights(t, folder, true, err);
    return code ? code : save_manifest(t, folder, err);
}

/* The finished folder under its name, in place of a broken or equal one. */
static int put_in_place(const struct gimbal_trainer *t, const char *from, const char *to, gimbal_error *err)
{
    int why = rename(from, to) ? errno : 0;
    if (why == EEXIST || why == ENOTEMPTY) {
        why = renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE) ? errno : 0;
        if (why == EINVAL || why == ENOSYS) { /* a file system that cannot: the old one must go first */
            why = remove_tree(to);
            if (!why && rename(from, to))
                why = errno;
        }
    }
    if (!why)
        why = sync_path(t->output, NULL, NULL);
    return why ? fail(err, GIMBAL_EIO, "%s: cannot be put in place: %s", to, strerror(why)) : GIMBAL_OK;
}

int checkpoint_save(struct gimbal_trainer *t, char folder[PATH_ROOM], gimbal_error *err)
{
    char name[STEP_NAME], temporary[PATH_ROOM];
    step_name(name, t->step, "");
    TRY(path_join(folder, t->output, name, err));
    step_name(name, t->step, ".tmp");
    TRY(path_join(temporary, t->output, name, err));
    int code = write_all(t, temporary, err);
    if (!code)
        code = put_in_place(t, temporary, folder, err);
    remove_tree(temporary); /* of a failure, or what stood in its place */
    if (!code)
        remove_old(t);
    return code;
}

/* ---- loading: is it whole? --------------------------------------------------------------- */

/* A path that stays inside: no piece is a beginning of "..": empty, "." or itself. */
static bool inside(const char *path)
{
    for (size_t n; *path; path += n + (path[n] == '/')) {
        n = strcspn(path, "/");
        if ((n <= 2 && !strncmp(path, "..", n)) || (path[n] && !path[n + 1]))
            return false;
    }
    return true;
}

static int verify_file(const char *folder, const char *name, const json_t *entry, gimbal_error *err)
{
    char path[PATH_ROOM], hex[65] = "", q[QUOTED_ROOM];
    const json_t *bytes = json_object_get(entry, "bytes"), *sha = json_object_get(entry, "sha256");
    struct stat st;
    int64_t got = 0;
    if (!*name || !inside(name) || !json_is_integer(bytes) || !json_is_string(sha))
        return fail(err, GIMBAL_EFORMAT, "%s: the entry %s is damaged", manifest_name, quoted(name, q));
    TRY(path_join(path, folder, name, err));
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    int why = fd < 0 || fstat(fd, &st) ? errno : 0;
    const bool size = !why && S_ISREG(st.st_mode) && st.st_size == json_integer_value(bytes);
    if (size)
        why = hash_open(fd, hex, &got);
    if (fd >= 0)
        close(fd);
    if (why)
        return fail(err, GIMBAL_EFORMAT, "%s: %s", quoted(name, q), strerror(why));
    if (!size || got != st.st_size)
        return fail(err, GIMBAL_EFORMAT, "%s has %lld bytes, expected %lld", quoted(name, q),
                    (long long)st.st_size, (long long)json_integer_value(bytes));
    return strcmp(hex, json_string_value(sha))
               ? fail(err, GIMBAL_EFORMAT, "%s is damaged: its SHA-256 differs", quoted(name, q))
               : GIMBAL_OK;
}

static int verify(const char *folder, int64_t step, gimbal_error *err)
{
    char path[PATH_ROOM];
    json_t *root, *entry;
    const char *name;
    TRY(path_join(path, folder, manifest_name, err));
    TRY(json_read(&root, path, err));
    json_t *files = json_object_get(root, "files");
    const json_t *number = json_object_get(root, "step");
    int code = GIMBAL_OK;
    if (!json_is_integer(number) || json_integer_value(number) != step || !json_is_object(files) ||
        !json_object_get(files, state_name))
        code = fail(err, GIMBAL_EFORMAT, "%s: is not of step %lld", path, (long long)step);
    json_object_foreach(files, name, entry) if (!code) code = verify_file(folder, name, entry, err);
    json_decref(root);
    return code;
}

/* ---- loading: is it of this run? --------------------------------------------------------- */

typedef struct {
    char refused[400]; /* "lr is 0.001, the checkpoint's 0.0001, ..." */
    int n_refused, n_strict;
    json_t *changed; /* texts of what differs and is allowed */
    bool allow;
} Differences;

static int differ(Differences *d, const char *name, Bound bound, const json_t *was, const json_t *is)
{
    char text[240];
    char *before = train_json_text(was), *now = train_json_text(is);
    snprintf(text, sizeof text, "%s is %.80s, the checkpoint's %.80s", name, now ? now : "unknown",
             before ? before : "unknown");
    free(before), free(now); /* json_dumps' */
    if (bound == ON_DEMAND && d->allow)
        return json_array_append_new(d->changed, json_string(text)) ? GIMBAL_ENOMEM : GIMBAL_OK;
    if (strlen(text) + 3 < sizeof d->refused - strlen(d->refused))
        strcat(strcat(d->refused, d->n_refused ? "; " : ""), text);
    d->n_refused++;
    d->n_strict += bound == STRICT;
    return GIMBAL_OK;
}

static Bound bound_of_name(const char *name)
{
    for (const gimbal_option *o = gimbal_train_options(); o->name; o++)
        if (!strcmp(o->name, name) && strcmp(name, "recipe"))
            return bound_of(o);
    return STRICT;
}

/* Both ways: a setting that only one of them has differs too. */
static int compare_config(Differences *d, json_t *was, json_t *is)
{
    const char *name;
    json_t *value;
    json_object_foreach(is, name, value)
    {
        const json_t *other = json_object_get(was, name);
        if (!other || !json_equal(value, other))
            TRY(differ(d, name, bound_of_name(name), other, value));
    }
    json_object_foreach(was, name, value) if (!json_object_get(is, name))
        TRY(differ(d, name, STRICT, value, NULL));
    return GIMBAL_OK;
}

static int compare_text(Differences *d, const SafeTensors *st, const char *key, const char *name, Bound bound,
                        const char *is)
{
    const char *was = st_metadata(st, key);
    if (was && !strcmp(was, is))
        return GIMBAL_OK;
    json_t *a = was ? json_string(was) : NULL, *b = json_string(is);
    const int code = differ(d, name, bound, a, b);
    json_decref(a), json_decref(b);
    return code;
}

static int compare_all(Differences *d, const struct gimbal_trainer *t, const SafeTensors *st,
                       gimbal_error *err)
{
    char count[24];
    const char *text = st_metadata(st, "gimbal.config");
    json_t *was = NULL, *is = train_config(t);
    int code = is ? GIMBAL_OK : no_memory(err);
    snprintf(count, sizeof count, "%lld", (long long)t->clips->count);
    if (!code && !text)
        code = fail(err, GIMBAL_EFORMAT, "%s: its header lacks gimbal.config", st_path(st));
    if (!code)
        code = json_parse(&was, text, strlen(text), STATE_DEPTH, st_path(st), err);
    if (!code &&
        (compare_config(d, was, is) ||
         compare_text(d, st, "gimbal.model", "the model's identity", STRICT, t->engine->identity) ||
         compare_text(d, st, "gimbal.data_sha256", "the data's identity", ON_DEMAND, t->clips->identity) ||
         compare_text(d, st, "gimbal.data_count", "the number of clips", ON_DEMAND, count)))
        code = no_memory(err);
    json_decref(was), json_decref(is);
    return code;
}

/* What was changed before, and now, by step: {"12000": ["batch is 8, ..."]}. */
static int keep_changes(struct gimbal_trainer *t, const SafeTensors *st, const char *step, json_t *now,
                        gimbal_error *err)
{
    const char *text = st_metadata(st, "gimbal.changes");
    json_t *all = NULL;
    if (text)
        TRY(json_parse(&all, text, strlen(text), STATE_DEPTH, st_path(st), err));
    else if (!(all = json_object()))
        return no_memory(err);
    json_t *here = json_object_get(all, step);
    bool good = true;
    if (json_array_size(now) && json_is_array(here))
        good = !json_array_extend(here, now);
    else if (json_array_size(now))
        good = !json_object_set(all, step, now);
    char *dump = json_object_size(all) ? train_json_text(all) : NULL;
    t->changes = dump ? arena_printf(&t->keep, "%s", dump) : NULL;
    good = good && (t->changes || !json_object_size(all));
    free(dump); /* json_dumps' */
    json_decref(all);
    return good ? GIMBAL_OK : no_memory(err);
}

static int check_run(struct gimbal_trainer *t, const SafeTensors *st, int64_t step, gimbal_error *err)
{
    char number[24];
    const char *state = st_metadata(st, "gimbal.state"), *of = st_metadata(st, "gimbal.step");
    Differences d = {.changed = json_array(), .allow = t->s.allow_change};
    snprintf(number, sizeof number, "%lld", (long long)step);
    int code = d.changed ? GIMBAL_OK : no_memory(err);
    if (!code && (!state || strcmp(state, version) || !of || strcmp(of, number)))
        code = fail(err, GIMBAL_EFORMAT, "%s: is no training state, version %s, of step %s", st_path(st),
                    version, number);
    if (!code)
        code = compare_all(&d, t, st, err);
    if (!code && d.n_refused)
        code = fail_hint(err, GIMBAL_EUSAGE,
                         d.n_strict ? "another run needs an output folder of its own"
                                    : "--allow-change 1 goes on nevertheless, and writes it down",
                         "%s is of another run: %s", st_path(st), d.refused);
    if (!code)
        code = keep_changes(t, st, number, d.changed, err);
    for (size_t i = 0; !code && i < json_array_size(d.changed); i++)
        trainer_note(t, "step %s: changed: %s", number, json_string_value(json_array_get(d.changed, i)));
    json_decref(d.changed);
    return code;
}

/* ---- loading: values --------------------------------------------------------------------- */

static bool fits(const StEntry *e, const Weight *w)
{
    return e->type == F32 && e->nd == w->nd && !memcmp(e->n, w->n, (size_t)w->nd * sizeof *w->n);
}

/* Every number finite, and of second moments none below 0. */
static bool sound(const StEntry *e, int64_t n, bool square)
{
    for (int64_t i = 0; i < n; i++) {
        float x;
        memcpy(&x, (const char *)e->data + i * (int64_t)sizeof x, sizeof x);
        if (!isfinite(x) || (square && x < 0))
            return false;
    }
    return true;
}

/* Looks at everything before anything is taken. */
static int check_tensors(const TrainSet *set, const SafeTensors *st, gimbal_error *err)
{
    char name[PARAM_NAME + 8];
    const int want = set->n * kinds_of(set);
    for (int k = 0; k < kinds_of(set); k++)
        for (int i = 0; i < set->n; i++) {
            const Param *p = &set->p[i];
            tensor_name(name, set, p, k);
            const StEntry *e = st_find(st, name);
            if (!e || !fits(e, p->w))
                return fail(err, GIMBAL_EMODEL, "%s: tensor %s %s", st_path(st), name,
                            e ? "has another shape or type than the network's" : "is missing");
            if (!sound(e, p->count, array_of(set, k) == set->v))
                return fail(err, GIMBAL_EFORMAT, "%s: tensor %s holds numbers that cannot be", st_path(st),
                            name);
        }
    if (st_count(st) != want)
        return fail(err, GIMBAL_EMODEL, "%s: has %d tensors, expected %d", st_path(st), st_count(st), want);
    return GIMBAL_OK;
}

static void take_values(TrainSet *set, const SafeTensors *st)
{
    char name[PARAM_NAME + 8];
    for (int k = 0; k < kinds_of(set); k++)
        for (int i = 0; i < set->n; i++) {
            const Param *p = &set->p[i];
            tensor_name(name, set, p, k);
            memcpy(array_of(set, k) + p->at, st_find(st, name)->data, (size_t)p->count * sizeof(float));
        }
}

static int take(struct gimbal_trainer *t, const char *folder, int64_t step, gimbal_error *err)
{
    char path[PATH_ROOM];
    SafeTensors *st;
    TRY(verify(folder, step, err));
    TRY(path_join(path, folder, state_name, err));
    TRY(st_open(&st, path, err));
    int code = check_run(t, st, step, err);
    if (!code)
        code = check_tensors(&t->set, st, err);
    if (!code)
        take_values(&t->set, st);
    st_close(st);
    if (!code)
        t->step = step;
    return code;
}

int checkpoint_load(struct gimbal_trainer *t, bool *found, gimbal_error *err)
{
    char name[STEP_NAME], folder[PATH_ROOM];
    int64_t *step;
    int n;
    gimbal_error why = {0};
    *found = false;
    int code = list_steps(t->output, "", &step, &n, err);
    for (int i = 0; i < n && !code && !*found; i++) {
        step_name(name, step[i], "");
        why = (gimbal_error){0};
        code = path_join(folder, t->output, name, &why);
        if (!code)
            code = take(t, folder, step[i], &why);
        *found = !code;
        if (code == GIMBAL_EFORMAT || code == GIMBAL_EIO) {
            trainer_note(t, "%s is not whole and is skipped: %s", folder, why.msg);
            code = GIMBAL_OK;
        }
    }
    free(step); /* list_steps' */
    if (code)
        return why.code ? pass_on(&why, err) : code;
    if (n && !*found)
        return fail_hint(err, GIMBAL_EFORMAT, "move these folders away to begin anew",
                         "%s: none of its %d checkpoints is whole; of the last: %s", t->output, n, why.msg);
    return GIMBAL_OK;
}
