/* bench_model.c: a model of random weights: an ordinary folder, or one without a name.
 *
 *     value i of parameter p = (k + 1/2) / 2^16 - 1/2, k = half-word i mod 8 of Philox(i / 8, hash of p's
 * name) times sqrt(12) * deviation;  1 + nothing for norms' scales, the sinusoids of diffusers for positions
 *
 * The networks are built from the configs as gimbal_open builds them, and their parameter visitors say what
 * there is to write, under which names. Values are drawn while they are written: a model of 3 GB needs a
 * megabyte. A folder is made beside its place and renamed. Refuses to know what is measured with it. */
#include "diffusion/bench.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* ---- values ------------------------------------------------------------------------------ */

/* Standard deviation; 0: values are not random. */
static double deviation(const Weight *w)
{
    switch (w->kind) {
    case W_CONV:
    case W_LINEAR:
        return 1.0 / sqrt((double)(weight_count(w) / w->n[0]));
    case W_BIAS:
    case W_NORM_SHIFT:
        return 0.02;
    case W_EMBEDDING:
        return 1.0;
    default:
        return 0.0;
    }
}

/* What does not come out of chance: as the networks begin their training. */
static float fixed_value(const Weight *w, int64_t i)
{
    switch (w->kind) {
    case W_ROTARY:
        return (float)pow(1e4, -(double)i / (double)weight_count(w));
    case W_BLEND:
        return 0.5f; /* not 1, where a block's result would not matter */
    default:
        return 1;
    }
}

/* Table [1,L,C]: sine and cosine side by side, where features of timesteps have one half each. */
static void draw_positions(const Weight *w, int64_t from, int64_t count, float *out)
{
    const int64_t width = w->n[w->nd - 1];
    float row[2 * 8192];
    int64_t at = -1;
    for (int64_t i = from; i < from + count; i++) {
        const int64_t c = i % width;
        if (i / width != at && width <= COUNT(row))
            timestep_features((double)(at = i / width), (int)width, row);
        *out++ = width <= COUNT(row) ? row[c % 2 ? c / 2 : width / 2 + c / 2] : 0;
    }
}

void bench_draw(const Weight *w, uint64_t seed, int64_t from, int64_t count, float *out)
{
    const uint64_t name = weight_hash(w);
    const float scale = (float)(sqrt(12.0) * deviation(w) * 0x1p-16);
    uint32_t word[4];
    const bool drawn = scale > 0;
    int64_t block = -1;
    if (w->kind == W_TABLE) {
        draw_positions(w, from, count, out);
        return;
    }
    for (int64_t i = from; i < from + count; i++) {
        if (drawn && i / 8 != block) {
            block = i / 8;
            philox((uint32_t[]){(uint32_t)block, (uint32_t)((uint64_t)block >> 32), (uint32_t)name,
                                (uint32_t)(name >> 32)},
                   seed, word);
        }
        *out++ = !drawn ? fixed_value(w, i)
                        : scale * ((float)(word[i / 2 % 4] >> (i % 2 * 16) & 0xFFFF) - 32767.5f);
    }
}

/* To nearest, ties to even. |x| is far below the largest half, 65504. */
static uint16_t half_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    const uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
    u &= 0x7FFFFFFF;
    if (u >= 0x38800000) /* 2^-14: a normal half */
        return (uint16_t)(sign | (((u + 0xFFF + (u >> 13 & 1)) >> 13) - (112u << 10)));
    float small = fabsf(x) + 0.5f; /* the last bit is now worth 2^-24, as in a half below 2^-14 */
    memcpy(&u, &small, sizeof u);
    return (uint16_t)(sign | (u - 0x3F000000));
}

static uint16_t brain_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

static void narrow(DType type, const float *x, int64_t n, void *out)
{
    uint16_t *y = out;
    if (type == F32)
        memcpy(out, x, (size_t)n * sizeof *x);
    else
        for (int64_t i = 0; i < n; i++)
            y[i] = type == F16 ? half_of(x[i]) : brain_of(x[i]);
}

/* ---- the networks ------------------------------------------------------------------------ */

typedef void (*Visit)(void *network, Params *);

typedef struct {
    const BenchModel *model;
    Arena keep;
    json_t *config[PART_COUNT];
    Unet *unet;
    ClipText *clip;
    Vae *vae;
} Nets;

static const char *config_text(const BenchModel *m, PartKind part)
{
    switch (part) {
    case PART_UNET:
        return m->unet;
    case PART_MOTION:
        return m->motion;
    case PART_VAE:
        return m->vae;
    case PART_TEXT:
        return m->text;
    case PART_SCHEDULER:
        return m->scheduler;
    default:
        return NULL;
    }
}

static int read_configs(Nets *n, gimbal_error *err)
{
    for (PartKind kind = 0; kind < PART_COUNT; kind++) {
        const char *text = config_text(n->model, kind);
        if (text)
            TRY(json_parse(&n->config[kind], text, strlen(text), 32, part_name(kind), err));
    }
    return GIMBAL_OK;
}

static int nets_make(Nets *n, const BenchModel *model, gimbal_error *err)
{
    const Family *family;
    UnetShape shape;
    RunDefaults run;
    *n = (Nets){.model = model};
    TRY(read_configs(n, err));
    const FolderConfigs configs = {.unet = n->config[PART_UNET],
                                   .motion = n->config[PART_MOTION],
                                   .scheduler = n->config[PART_SCHEDULER],
                                   .unet_where = "unet",
                                   .motion_where = "motion_adapter",
                                   .scheduler_where = "scheduler"};
    TRY(family_find(&family, &configs, err));
    TRY(family->shape(&configs, &shape, &run, err));
    TRY(unet_build(&n->unet, &n->keep, &shape, err));
    TRY(clip_build(&n->clip, &n->keep, n->config[PART_TEXT], "text_encoder", err));
    return vae_build(&n->vae, &n->keep, n->config[PART_VAE], "vae", err);
}

static void nets_free(Nets *n)
{
    for (PartKind kind = 0; kind < PART_COUNT; kind++)
        json_decref(n->config[kind]);
    arena_free(&n->keep);
}

/* The network behind a part, and the walk over its parameters; NULL: the part has none. */
static void *network_of(const Nets *n, PartKind kind, Visit *visit)
{
    if (!n->config[kind] || !part_has_weights(kind))
        return NULL;
    *visit = kind == PART_UNET     ? unet_params
             : kind == PART_MOTION ? unet_motion_params
             : kind == PART_VAE    ? vae_params
                                   : clip_params;
    return kind == PART_VAE ? (void *)n->vae : kind == PART_TEXT ? (void *)n->clip : (void *)n->unet;
}

/* ---- what a part holds ------------------------------------------------------------------- */

typedef struct {
    Params params; /* first: the visitor's leaf gets this */
    const Weight **weight;
    gimbal_tensor *tensor;
    int n, room;
    int64_t values;
} List;

static int count_leaf(Params *p, Weight *w)
{
    List *l = (List *)p;
    l->n++;
    l->values += weight_count(w);
    return GIMBAL_OK;
}

static int list_leaf(Params *p, Weight *w)
{
    List *l = (List *)p;
    if (l->n == l->room)
        return GIMBAL_EMODEL;
    l->tensor[l->n].name = w->name;
    l->tensor[l->n].nd = w->nd;
    memcpy(l->tensor[l->n].n, w->n, (size_t)w->nd * sizeof *w->n);
    l->weight[l->n++] = w;
    return GIMBAL_OK;
}

static void list_free(List *l)
{
    free(l->weight);
    free(l->tensor);
}

/* Everything the part's network declares, of type `type`. list_free also after an error. */
static int list_make(List *l, const Nets *n, PartKind kind, DType type, gimbal_error *err)
{
    Visit visit = NULL;
    void *network = network_of(n, kind, &visit);
    *l = (List){.params = {.leaf = count_leaf, .err = err}};
    if (!network)
        return GIMBAL_OK;
    visit(network, &l->params);
    const int count = l->n;
    l->weight = calloc((size_t)count, sizeof *l->weight);
    l->tensor = calloc((size_t)count, sizeof *l->tensor);
    if (!l->weight || !l->tensor)
        return fail(err, GIMBAL_ENOMEM, "no memory to list %d parameters", count);
    for (int i = 0; i < count; i++)
        l->tensor[i].type = dtype_name(type);
    l->room = count, l->n = 0;
    l->params = (Params){.leaf = list_leaf, .err = err};
    visit(network, &l->params);
    return l->params.code;
}

int bench_model_count(const BenchModel *m, PartKind kind, BenchCount *out, gimbal_error *err)
{
    Nets nets;
    List list = {0};
    int code = nets_make(&nets, m, err);
    if (!code)
        code = list_make(&list, &nets, kind, F32, err);
    *out = (BenchCount){list.n, list.values};
    list_free(&list);
    nets_free(&nets);
    return code;
}

/* ---- writing weights --------------------------------------------------------------------- */

/* All parts of one model on their way into files. */
typedef struct {
    Nets nets;
    List list[PART_COUNT];
    DType type;
    uint64_t seed;
    BenchProgress progress;
    uint64_t all, done; /* bytes */
    const List *now;
} Writer;

static int writer_make(Writer *w, const BenchModel *m, DType type, uint64_t seed, BenchProgress progress,
                       gimbal_error *err)
{
    memset(w, 0, sizeof *w);
    w->type = type, w->seed = seed, w->progress = progress;
    TRY(nets_make(&w->nets, m, err));
    for (PartKind kind = 0; kind < PART_COUNT; kind++) {
        TRY(list_make(&w->list[kind], &w->nets, kind, type, err));
        w->all += (uint64_t)w->list[kind].values * dtype_size(type);
    }
    return GIMBAL_OK;
}

static void writer_free(Writer *w)
{
    for (PartKind kind = 0; kind < PART_COUNT; kind++)
        list_free(&w->list[kind]);
    nets_free(&w->nets);
}

static int fill(void *user, int i, size_t from, size_t n, void *out)
{
    Writer *w = user;
    enum { BLOCK = 4096 };
    float x[BLOCK];
    const size_t size = dtype_size(w->type);
    for (size_t at = 0; at < n; at += BLOCK * size) {
        const size_t count = MIN((n - at) / size, BLOCK);
        bench_draw(w->now->weight[i], w->seed, (int64_t)((from + at) / size), (int64_t)count, x);
        narrow(w->type, x, (int64_t)count, (char *)out + at);
    }
    w->done += n;
    return w->progress.progress && w->progress.progress(w->progress.user, (double)w->done / (double)w->all)
               ? GIMBAL_ECANCEL
               : GIMBAL_OK;
}

/* `format` is what transformers asks for. The file is closed. */
static int write_weights(Writer *w, PartKind kind, FILE *f, const char *name, gimbal_error *err)
{
    const char *const metadata[] = {"format", "pt", NULL};
    w->now = &w->list[kind];
    return st_stream(f, name, w->now->tensor, w->now->n, metadata, fill, w, err);
}

/* ---- the small files --------------------------------------------------------------------- */

static FILE *open_new(const char *path, gimbal_error *err)
{
    FILE *f = fopen(path, "wbx");
    if (!f)
        fail(err, GIMBAL_EIO, "%s: %s", path, strerror(errno));
    return f;
}

static int write_text(const char *folder, const char *name, const char *text, gimbal_error *err)
{
    char path[PATH_ROOM];
    TRY(path_join(path, folder, name, err));
    FILE *f = open_new(path, err);
    if (!f)
        return GIMBAL_EIO;
    const bool good = fputs(text, f) >= 0 && fputc('\n', f) != EOF;
    return fclose(f) == 0 && good ? GIMBAL_OK
                                  : fail(err, GIMBAL_EIO, "%s: cannot be written: %s", path, strerror(errno));
}

enum { BYTES = 256, START = 49406, END };

/* The bytes, in the order of CLIP's vocabulary, then the bytes that end a word, then its two special tokens:
 * every text has ids, whatever its language, if many of them. */
static json_t *vocabulary(void)
{
    json_t *vocab = json_object();
    int failed = !vocab;
    for (int last = 0; last < 2; last++)
        for (int byte = 0; byte < BYTES; byte++) {
            char text[16];
            const int place = clip_byte(byte, text);
            if (last)
                strcat(text, "</w>");
            failed |= json_object_set_new(vocab, text, json_integer(last * BYTES + place));
        }
    failed |= json_object_set_new(vocab, "<|startoftext|>", json_integer(START));
    failed |= json_object_set_new(vocab, "<|endoftext|>", json_integer(END));
    if (failed) {
        json_decref(vocab);
        return NULL;
    }
    return vocab;
}

static int write_json(const char *folder, const char *name, json_t *value, gimbal_error *err)
{
    char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
    json_decref(value);
    const int code = text ? write_text(folder, name, text, err)
                          : fail(err, GIMBAL_ENOMEM, "%s: no memory for %s", folder, name);
    free(text); /* json_dumps hands it over */
    return code;
}

static int write_tokenizer(const char *folder, const char *pad, gimbal_error *err)
{
    const char *start = "<|startoftext|>", *end = "<|endoftext|>";
    TRY(write_json(folder, "vocab.json", vocabulary(), err));
    TRY(write_text(folder, "merges.txt", "#version: 0.2", err));
    TRY(write_json(folder, "special_tokens_map.json",
                   json_pack("{s:s, s:s, s:s, s:s}", "bos_token", start, "eos_token", end, "pad_token", pad,
                             "unk_token", end),
                   err));
    return write_json(folder, "tokenizer_config.json",
                      json_pack("{s:s, s:i, s:b, s:s, s:s, s:s, s:s}", "tokenizer_class", "CLIPTokenizer",
                                "model_max_length", TOKENS, "do_lower_case", 1, "bos_token", start,
                                "eos_token", end, "pad_token", pad, "unk_token", end),
                      err);
}

/* ---- a folder ---------------------------------------------------------------------------- */

static const char *weights_name(PartKind kind)
{
    return kind == PART_TEXT ? "model.safetensors" : "diffusion_pytorch_model.safetensors";
}

/* Puts a part's weights at `path`. */
typedef int (*Put)(Writer *, PartKind, const char *path, void *user, gimbal_error *err);

static int make_part(Writer *w, PartKind kind, const char *folder, Put put, void *user, gimbal_error *err)
{
    char dir[PATH_ROOM], path[PATH_ROOM];
    const BenchModel *m = w->nets.model;
    const char *config = config_text(m, kind);
    if (!config && kind != PART_TOKENIZER)
        return GIMBAL_OK;
    TRY(path_join(dir, folder, part_name(kind), err));
    if (mkdir(dir, 0777))
        return fail(err, GIMBAL_EIO, "%s: cannot be made: %s", dir, strerror(errno));
    if (kind == PART_TOKENIZER)
        return write_tokenizer(dir, m->pad, err);
    TRY(write_text(dir, part_config(kind), config, err));
    TRY(path_join(path, dir, weights_name(kind), err));
    return part_has_weights(kind) ? put(w, kind, path, user, err) : GIMBAL_OK;
}

static int make_parts(Writer *w, const char *folder, Put put, void *user, gimbal_error *err)
{
    for (PartKind kind = 0; kind < PART_COUNT; kind++)
        TRY(make_part(w, kind, folder, put, user, err));
    return write_text(folder, "model_index.json", w->nets.model->index, err);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

static void remove_folder(const char *path)
{
    nftw(path, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

/* Is there room for the weights in the file system of `folder`? */
static bool has_room(const char *folder, uint64_t bytes, uint64_t *found)
{
    struct statvfs st;
    if (statvfs(folder, &st))
        return false;
    *found = (uint64_t)st.f_bavail * st.f_frsize;
    return bytes + bytes / 64 + (1 << 20) <= *found;
}

static int put_file(Writer *w, PartKind kind, const char *path, void *user, gimbal_error *err)
{
    (void)user;
    FILE *f = open_new(path, err);
    return f ? write_weights(w, kind, f, path, err) : GIMBAL_EIO;
}

/* "a/b" -> its folder "a" (or "."), and a hidden name beside it for the time of writing. */
static int beside(const char *folder, char parent[PATH_ROOM], char aside[PATH_ROOM], gimbal_error *err)
{
    const char *slash = strrchr(folder, '/');
    const int n = slash ? (int)(slash - folder) : 0;
    snprintf(parent, PATH_ROOM, "%.*s", slash ? MAX(n, 1) : 1, slash ? folder : ".");
    if (snprintf(aside, PATH_ROOM, "%.*s.%s.%d", slash ? n + 1 : 0, folder, slash ? slash + 1 : folder,
                 (int)getpid()) >= PATH_ROOM)
        return fail(err, GIMBAL_EUSAGE, "a path is longer than %d bytes: %.80s...", PATH_ROOM - 1, folder);
    return is_folder(parent) ? GIMBAL_OK
                             : fail_hint(err, GIMBAL_EIO, "make the folder first",
                                         "%s: cannot be made: no folder %s", folder, parent);
}

static bool is_empty(const char *folder)
{
    DIR *dir = opendir(folder);
    int entries = 0;
    while (dir && readdir(dir))
        entries++;
    if (dir)
        closedir(dir);
    return dir && entries == 2; /* itself and its parent */
}

/* An empty folder may stand there already. */
static int check_free(const char *folder, gimbal_error *err)
{
    struct stat st;
    if (lstat(folder, &st) || (S_ISDIR(st.st_mode) && is_empty(folder)))
        return GIMBAL_OK;
    return fail_hint(err, GIMBAL_EIO, "give the name of a new folder", "%s: is there already", folder);
}

static int write_folder(Writer *w, const char *folder, gimbal_error *err)
{
    char parent[PATH_ROOM], aside[PATH_ROOM];
    uint64_t found = 0;
    TRY(beside(folder, parent, aside, err));
    TRY(check_free(folder, err));
    if (!has_room(parent, w->all, &found))
        return fail(err, GIMBAL_EIO, "%s: %llu MB of weights, %llu MB are free there", folder,
                    (unsigned long long)w->all / 1000000, (unsigned long long)found / 1000000);
    if (mkdir(aside, 0777))
        return fail(err, GIMBAL_EIO, "%s: cannot be made: %s", folder, strerror(errno));
    int code = make_parts(w, aside, put_file, NULL, err);
    if (!code && rename(aside, folder))
        code = fail(err, GIMBAL_EIO, "%s: cannot be put in place: %s", folder, strerror(errno));
    if (code)
        remove_folder(aside);
    return code;
}

int bench_model_write(const BenchModel *m, DType type, uint64_t seed, const char *folder,
                      BenchProgress progress, gimbal_error *err)
{
    Writer w;
    char path[PATH_ROOM];
    size_t n = strlen(folder);
    while (n > 1 && folder[n - 1] == '/')
        n--;
    if (!n || n >= sizeof path)
        return fail(err, GIMBAL_EUSAGE, "the folder's name is %s", n ? "too long" : "empty");
    snprintf(path, sizeof path, "%.*s", (int)n, folder);
    int code = writer_make(&w, m, type, seed, progress, err);
    if (!code)
        code = write_folder(&w, path, err);
    writer_free(&w);
    return code;
}

int gimbal_bench_model(const char *family, const char *type, uint64_t seed, const char *folder,
                       int (*progress)(void *user, double done), void *user, gimbal_error *err)
{
    static const DType types[] = {F16, F32, BF16};
    const BenchModel *m;
    TRY(bench_model_find(&m, family, err));
    for (int i = 0; i < COUNT(types); i++)
        if (type && !strcmp(dtype_name(types[i]), type))
            return bench_model_write(m, types[i], seed, folder, (BenchProgress){progress, user}, err);
    return fail(err, GIMBAL_EUSAGE, "weights of type \"%.20s\", expected F16, F32 or BF16", type ? type : "");
}

/* ---- a model without a name -------------------------------------------------------------- */

/* A file that no folder lists: in the first temporary place with room, else in memory. -1: none. */
static int nameless(uint64_t all, uint64_t *found)
{
    const char *const places[] = {getenv("TMPDIR"), "/var/tmp", "/tmp"};
    for (int i = 0; i < COUNT(places); i++) {
        uint64_t room = 0;
        const int fd = places[i] && has_room(places[i], all, &room)
                           ? open(places[i], O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)
                           : -1;
        if (fd >= 0)
            return fd;
        *found = MAX(*found, room);
    }
    return memory_available() > all + all / 8 ? memfd_create("gimbal-bench", MFD_CLOEXEC) : -1;
}

static int write_nameless(Writer *w, PartKind kind, int *fd, gimbal_error *err)
{
    uint64_t found = 0;
    *fd = nameless(w->all - w->done, &found);
    const int twin = *fd >= 0 ? dup(*fd) : -1;
    FILE *f = twin >= 0 ? fdopen(twin, "wb") : NULL;
    if (!f)
        return fail_hint(err, GIMBAL_ENOMEM, "set TMPDIR to a folder with room, or name a model",
                         "no place for %llu MB of random weights: temporary folders have %llu MB, and memory "
                         "is too small too",
                         (unsigned long long)w->all / 1000000, (unsigned long long)found / 1000000);
    return write_weights(w, kind, f, "random weights", err);
}

/* A link to the open file stands where the engine looks for the weights. user: the parts' files. */
static int put_link(Writer *w, PartKind kind, const char *path, void *user, gimbal_error *err)
{
    const int *fd = user;
    char name[64];
    (void)w;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd[kind]);
    return symlink(name, path) ? fail(err, GIMBAL_EIO, "%s: cannot be linked: %s", path, strerror(errno))
                               : GIMBAL_OK;
}

/* The folder of configs and links lives for the moment in which the engine reads it. */
static int open_nameless(gimbal_engine **out, Writer *w, int fd[PART_COUNT], double *began, gimbal_error *err)
{
    const char *place = getenv("TMPDIR");
    char folder[PATH_ROOM];
    for (PartKind kind = 0; kind < PART_COUNT; kind++)
        if (w->list[kind].n)
            TRY(write_nameless(w, kind, &fd[kind], err));
    snprintf(folder, sizeof folder, "%.4000s/gimbal-bench-XXXXXX",
             place && is_folder(place) ? place : "/tmp");
    if (!mkdtemp(folder))
        return fail(err, GIMBAL_EIO, "%s: cannot be made: %s", folder, strerror(errno));
    int code = make_parts(w, folder, put_link, fd, err);
    *began = seconds_now();
    if (!code)
        code = gimbal_open(out, folder, NULL, err);
    remove_folder(folder);
    return code;
}

int bench_model_open(gimbal_engine **out, const BenchModel *m, DType type, uint64_t seed,
                     BenchProgress progress, double *began, gimbal_error *err)
{
    Writer w;
    int fd[PART_COUNT];
    *out = NULL;
    for (PartKind kind = 0; kind < PART_COUNT; kind++)
        fd[kind] = -1;
    int code = writer_make(&w, m, type, seed, progress, err);
    if (!code)
        code = open_nameless(out, &w, fd, began, err);
    for (PartKind kind = 0; kind < PART_COUNT; kind++)
        if (fd[kind] >= 0)
            close(fd[kind]); /* the maps keep the files */
    writer_free(&w);
    return code;
}
