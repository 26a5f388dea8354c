/* export.c: what was learnt as model files that other programs read.
 *
 *     a network    FOLDER/config.json, FOLDER/diffusion_pytorch_model.safetensors: names as bound, values of
 *                  the set (or of its running mean) where trained, the file's otherwise; tensors of the file
 *                  that no parameter has are copied through unchanged
 *     motion       modules also in AnimateDiff's own spelling in one file, each module's position table
 * twice, which ComfyUI's loader wants; position tables are written even where the file had none
 *
 * Values are float32 and rounded once, to the nearest even, where F16 or BF16 are asked for. Files are
 * written tensor by tensor: gigabytes need no memory. The same state gives the same bytes: no dates, no
 * paths.
 *
 * Knows parameters by their visitor, and the trainer's settings. Refuses to know what networks compute. */
#include "train/train.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- rounding ---------------------------------------------------------------------------- */

/* false: the rounded number is not finite. */
static bool half_of(float x, uint16_t *out)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    const uint32_t a = bits & 0x7fffffff;
    if (a < 0x38800000) /* below 2^-14: multiples of 2^-24 */
        *out = sign | (uint16_t)lrintf(fabsf(x) * 0x1p24f);
    else
        *out = sign | (uint16_t)((a + 0xfff + (a >> 13 & 1) - 0x38000000) >> 13);
    return a < 0x477ff000; /* 65520 is nearer to 2^16 */
}

static bool bf16_of(float x, uint16_t *out)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    *out = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    return (bits & 0x7f800000) != 0x7f800000 && (*out & 0x7f80) != 0x7f80;
}

/* ---- what goes into a file --------------------------------------------------------------- */

/* One tensor: a parameter, a computed table in its place, or a stored tensor's own bytes. */
typedef struct {
    const Weight *w;
    const float *table;
    const StEntry *raw;
} Piece;

typedef struct {
    Params params; /* first: the visitor's leaf gets this */
    const struct gimbal_trainer *t;
    bool ema, original; /* original: AnimateDiff's spelling */
    DType type;
    Piece *piece;
    gimbal_tensor *item; /* what st_stream is told of piece i */
    int n, room;
    float *wide; /* [ST_CHUNK / 2] */
    gimbal_error *err;
    Arena arena;
} File;

static int no_memory(gimbal_error *err)
{
    return fail(err, GIMBAL_ENOMEM, "no memory for an export");
}

static int count_leaf(Params *p, Weight *w)
{
    (void)w;
    ((File *)p)->room += 2; /* a table may come twice */
    return GIMBAL_OK;
}

/* The first `what` of a name replaced. */
static bool replace(char out[PARAM_NAME], const char *name, const char *what, const char *by)
{
    const char *at = strstr(name, what);
    return at &&
           snprintf(out, PARAM_NAME, "%.*s%s%s", (int)(at - name), name, by, at + strlen(what)) < PARAM_NAME;
}

/* A canonical name in the original spelling. */
static const char *original_name(const char *name, Arena *arena)
{
    char now[PARAM_NAME], next[PARAM_NAME];
    snprintf(now, sizeof now, "%s", name);
    for (const Rename *r = animatediff_names; r->from; r++)
        if (replace(next, now, r->to, r->from))
            memcpy(now, next, sizeof now);
    return arena_printf(arena, "%s", now);
}

static int add(File *f, Piece piece, const char *name, const char *type, int nd, const int64_t *n)
{
    char q[QUOTED_ROOM];
    if (!name)
        return no_memory(f->err);
    if (nd > COUNT(f->item->n))
        return fail(f->err, GIMBAL_EMODEL, "%s: a tensor of %d dimensions cannot be copied", quoted(name, q),
                    nd);
    f->piece[f->n] = piece;
    f->item[f->n] = (gimbal_tensor){.name = name, .type = type, .nd = nd};
    memcpy(f->item[f->n].n, n, (size_t)nd * sizeof *n);
    f->n++;
    return GIMBAL_OK;
}

/* Position tables that the file left out are what the network computes in their place. */
static int computed(File *f, const Weight *w, const float **table)
{
    const int64_t length = w->n[w->nd - 2], width = w->n[w->nd - 1];
    if (w->kind != W_TABLE)
        return fail(f->err, GIMBAL_EMODEL, "%s: has no value to be written", w->name);
    float *made = arena_alloc(&f->arena, (size_t)weight_count(w) * sizeof *made);
    if (!made)
        return no_memory(f->err);
    position_table(made, (int)length, (int)width, (int)width);
    *table = made;
    return GIMBAL_OK;
}

static int add_leaf(Params *p, Weight *w)
{
    File *f = (File *)p;
    Piece piece = {.w = w};
    char twin[PARAM_NAME];
    if (!weight_given(w))
        TRY(computed(f, w, &piece.table));
    const char *name = f->original ? original_name(w->name, &f->arena) : w->name;
    TRY(add(f, piece, name, dtype_name(f->type), w->nd, w->n));
    if (!f->original ||
        !replace(twin, name, ".attention_blocks.0.pos_encoder.", ".attention_blocks.1.pos_encoder."))
        return GIMBAL_OK;
    return add(f, piece, arena_printf(&f->arena, "%s", twin), dtype_name(f->type), w->nd, w->n);
}

static bool has(const File *f, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(f->item[i].name, name))
            return true;
    return false;
}

/* Tensors of the file that no parameter has. */
static int add_rest(File *f, const WeightSet *source)
{
    const int leaves = f->n;
    for (int i = 0; i < weights_count(source); i++) {
        const StEntry *e = weights_entry(source, i);
        if (!has(f, leaves, e->name))
            TRY(add(f, (Piece){.raw = e}, e->name, e->spelling, e->nd, e->n));
    }
    return GIMBAL_OK;
}

static int gather(File *f, const Export *x, gimbal_error *err)
{
    const WeightSet *rest = f->original ? NULL : x->part->weights;
    f->err = err;
    f->params = (Params){.leaf = count_leaf, .err = err};
    x->params(x->self, &f->params);
    f->room += rest ? weights_count(rest) : 0;
    f->piece = arena_alloc(&f->arena, (size_t)MAX(f->room, 1) * sizeof *f->piece);
    f->item = arena_alloc(&f->arena, (size_t)MAX(f->room, 1) * sizeof *f->item);
    f->wide = arena_alloc(&f->arena, ST_CHUNK / 2 * sizeof *f->wide);
    if (!f->piece || !f->item || !f->wide)
        return no_memory(err);
    f->params = (Params){.leaf = add_leaf, .err = err};
    x->params(x->self, &f->params);
    TRY(f->params.code);
    return rest ? add_rest(f, rest) : GIMBAL_OK;
}

/* ---- bytes ------------------------------------------------------------------------------- */

/* Numbers [from, from + count) of a piece. */
static void values(const File *f, const Piece *piece, int64_t from, int64_t count, float *out)
{
    const TrainSet *set = &f->t->set;
    const Weight *w = piece->w;
    if (piece->table)
        memcpy(out, piece->table + from, (size_t)count * sizeof *out);
    else if (f->ema && set->ema && w->trainable)
        memcpy(out, set->ema + (w->own - set->value) + from, (size_t)count * sizeof *out);
    else
        weight_widen(w, from, count, out);
}

static int fill(void *user, int i, size_t from, size_t n, void *out)
{
    File *f = user;
    const Piece *piece = &f->piece[i];
    const size_t each = dtype_size(f->type);
    if (piece->raw) {
        memcpy(out, (const char *)piece->raw->data + from, n);
        return GIMBAL_OK;
    }
    if (f->type == F32) {
        values(f, piece, (int64_t)(from / each), (int64_t)(n / each), out);
        return GIMBAL_OK;
    }
    uint16_t *narrow = out;
    values(f, piece, (int64_t)(from / each), (int64_t)(n / each), f->wide);
    for (size_t k = 0; k < n / each; k++)
        if (!(f->type == F16 ? half_of : bf16_of)(f->wide[k], &narrow[k]))
            return fail_hint(f->err, GIMBAL_EVALUE, "--save-type F32 holds what was learnt as it is",
                             "%s: %g does not fit into %s", f->item[i].name, (double)f->wide[k],
                             dtype_name(f->type));
    return GIMBAL_OK;
}

/* ---- what is said of it ------------------------------------------------------------------ */

/* All that is needed to learn the same again, but for the data: one line of JSON; free() it. */
static char *recipe_text(const struct gimbal_trainer *t, bool ema)
{
    json_t *changes = t->changes ? json_loads(t->changes, 0, NULL) : NULL;
    json_t *root =
        json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:b, s:o, s:o*}", "gimbal", gimbal_version(), "model",
                  t->engine->identity, "family", t->engine->family->name, "data_sha256", t->clips->identity,
                  "data_count", (json_int_t)t->clips->count, "step", (json_int_t)t->step, "ema", ema,
                  "settings", train_config(t), "changes", changes);
    char *text = train_json_text(root);
    json_decref(root);
    return text;
}

/* ---- files ------------------------------------------------------------------------------- */

static DType save_type(const struct gimbal_trainer *t)
{
    static const DType types[] = {F32, F16, BF16};
    for (int i = 0; i < COUNT(types); i++)
        if (t->s.save_type && !strcmp(t->s.save_type, dtype_name(types[i])))
            return types[i];
    return F32;
}

static int stream(File *f, const Export *x, const char *path, gimbal_error *err)
{
    Stage stage;
    char title[96], resolution[32];
    const struct gimbal_trainer *t = f->t;
    char *recipe = recipe_text(t, f->ema);
    if (!recipe)
        return no_memory(err);
    snprintf(title, sizeof title, "%s, step %lld%s", t->recipe->name, (long long)t->step,
             f->ema ? ", running mean" : "");
    snprintf(resolution, sizeof resolution, "%dx%d", t->s.width, t->s.height);
    const char *const metadata[] = {"format",
                                    "pt",
                                    "modelspec.sai_model_spec",
                                    "1.0.0",
                                    "modelspec.architecture",
                                    x->architecture,
                                    "modelspec.title",
                                    title,
                                    "modelspec.prediction_type",
                                    t->schedule.prediction == PREDICT_V ? "v" : "epsilon",
                                    "modelspec.resolution",
                                    resolution,
                                    "gimbal.recipe",
                                    recipe,
                                    NULL};
    int code = stage_open(&stage, path, err);
    FILE *file = code ? NULL : fopen(stage.path, "wbe");
    if (!code && !file)
        code = fail(err, GIMBAL_EIO, "%s: %s", path, strerror(errno));
    if (!code)
        code = st_stream(file, path, f->item, f->n, metadata, fill, f, err);
    if (!code)
        code = stage_commit(&stage, err);
    stage_abort(&stage);
    free(recipe); /* recipe_text's */
    return code;
}

static int write_file(const struct gimbal_trainer *t, const Export *x, const char *path, bool ema,
                      bool original, gimbal_error *err)
{
    File f = {.t = t, .ema = ema, .original = original, .type = save_type(t)};
    int code = gather(&f, x, err);
    if (!code)
        code = stream(&f, x, path, err);
    arena_free(&f.arena);
    return code;
}

/* The bytes of the part's own config, or the text in its place. */
static int write_config(const Export *x, const char *path, gimbal_error *err)
{
    enum { LIMIT = 64 << 20 };
    char *text = NULL;
    size_t n = x->config ? strlen(x->config) : 0;
    Stage stage = {0};
    if (!x->config)
        TRY(read_file(&text, &n, x->part->where, LIMIT, err));
    int code = stage_open(&stage, path, err);
    FILE *file = code ? NULL : fopen(stage.path, "wbe");
    bool good = file && fwrite(x->config ? x->config : text, 1, n, file) == n;
    int why = errno;
    if (file && fclose(file) && good)
        good = false, why = errno;
    if (!code)
        code = good ? stage_commit(&stage, err) : fail(err, GIMBAL_EIO, "%s: %s", path, strerror(why));
    stage_abort(&stage);
    free(text); /* read_file's */
    return code;
}

int export_network(const struct gimbal_trainer *t, const Export *x, const char *folder, bool ema,
                   gimbal_error *err)
{
    char path[PATH_ROOM];
    if (mkdir(folder, 0777) && errno != EEXIST)
        return fail(err, GIMBAL_EIO, "%s: %s", folder, strerror(errno));
    TRY(path_join(path, folder, "config.json", err));
    TRY(write_config(x, path, err));
    TRY(path_join(path, folder, "diffusion_pytorch_model.safetensors", err));
    return write_file(t, x, path, ema, false, err);
}

int export_motion(const struct gimbal_trainer *t, const Export *x, const char *path, bool ema,
                  gimbal_error *err)
{
    return write_file(t, x, path, ema, true, err);
}

int export_unet(const struct gimbal_trainer *t, const char *folder, bool ema, gimbal_error *err)
{
    char path[PATH_ROOM], architecture[64];
    const gimbal_engine *e = t->engine;
    snprintf(architecture, sizeof architecture, "%s/unet", e->family->name);
    const Export unet = {unet_params, e->unet, &e->part[PART_UNET], NULL, architecture},
                 motion = {unet_motion_params, e->unet, &e->part[PART_MOTION], NULL,
                           "stable-diffusion-v1/motion-module"};
    if (set_learns(unet.params, unet.self)) {
        TRY(path_join(path, folder, part_name(PART_UNET), err));
        TRY(export_network(t, &unet, path, ema, err));
    }
    if (!motion.part->dir || !set_learns(motion.params, motion.self))
        return GIMBAL_OK;
    TRY(path_join(path, folder, part_name(PART_MOTION), err));
    TRY(export_network(t, &motion, path, ema, err));
    TRY(path_join(path, folder, "motion_module.safetensors", err));
    return export_motion(t, &motion, path, ema, err);
}
