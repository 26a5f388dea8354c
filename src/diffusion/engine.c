/* engine.c: gimbal_open: a model folder becomes networks with weights bound, and everything about them is
 * checked once.
 *
 * Order: find the parts (cheap, names what is missing), read configs, ask the family for the U-Net's numbers,
 * build, bind strictly, then compare the parts with each other: they were often downloaded from different
 * places. Weight files are mapped; no weight is read. The engine does not change afterwards (packed weights
 * are the backends' own, and locked), so threads may share it.
 *
 * Knows parts and families by their tables. Refuses to know runs, seeds and samplers. */
#include "diffusion/engine.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

/* ---- configs ----------------------------------------------------------------------------- */

static int read_part(gimbal_engine *e, PartKind kind, const char *folder, gimbal_error *err)
{
    Part *part = &e->part[kind];
    TRY(locate_part(part, kind, folder, &e->keep, err));
    return part_read_config(part, kind, err);
}

static int read_adapter(gimbal_engine *e, const char *folder, const char *given, gimbal_error *err)
{
    char dir[PATH_ROOM], weights[PATH_ROOM], where[PATH_ROOM];
    Part *part = &e->part[PART_MOTION];
    TRY(locate_motion(folder, given, dir, weights, err));
    if (!dir[0])
        return GIMBAL_OK;
    TRY(path_join(where, dir, part_config(PART_MOTION), err));
    part->dir = arena_printf(&e->keep, "%s", dir);
    part->weight = arena_printf(&e->keep, "%s", weights);
    part->where = arena_printf(&e->keep, "%s", where);
    if (!part->dir || !part->weight || !part->where)
        return fail(err, GIMBAL_ENOMEM, "no memory for paths of %s", dir);
    return json_read(&part->config, part->where, err);
}

static int read_configs(gimbal_engine *e, gimbal_error *err)
{
    char folder[PATH_ROOM];
    TRY(model_folder(folder, e->model, err));
    for (PartKind kind = 0; kind < PART_COUNT; kind++)
        if (kind != PART_MOTION && part_expected(kind, folder))
            TRY(read_part(e, kind, folder, err));
    return GIMBAL_OK;
}

static int read_motion(gimbal_engine *e, gimbal_error *err)
{
    char folder[PATH_ROOM];
    if (e->family->needs_motion) {
        TRY(model_folder(folder, e->model, err));
        return read_adapter(e, folder, e->motion, err);
    }
    if (!e->motion)
        return e->family->split ? read_adapter(e, e->part[PART_RESIDUAL].dir, NULL, err) : GIMBAL_OK;
    return fail_hint(err, GIMBAL_EUSAGE, "leave --motion away",
                     "--motion is %s, but %s is a %s model, which takes no motion adapter", e->motion,
                     e->model, e->family->name);
}

/* ---- family and networks ----------------------------------------------------------------- */

static FolderConfigs configs_of(const gimbal_engine *e)
{
    const Part *unet = &e->part[PART_UNET], *motion = &e->part[PART_MOTION],
               *scheduler = &e->part[PART_SCHEDULER], *residual = &e->part[PART_RESIDUAL],
               *split = &e->part[PART_SPLIT];
    return (FolderConfigs){
        .unet = unet->config,
        .motion = motion->config,
        .scheduler = scheduler->config,
        .residual = residual->config,
        .split = split->config,
        .unet_where = unet->where,
        .motion_where = motion->where,
        .scheduler_where = scheduler->where,
        .residual_where = residual->where,
        .split_where = split->where,
    };
}

/* The family says whether there is a motion adapter to read, and then what the network's numbers are. */
static int find_family(gimbal_engine *e, gimbal_error *err)
{
    FolderConfigs configs = configs_of(e);
    TRY(family_find(&e->family, &configs, err));
    TRY(read_motion(e, err));
    configs = configs_of(e);
    TRY(e->family->shape(&configs, &e->shape, &e->run, err));
    return e->family->split ? e->family->split(&configs, &e->shape, &e->residual_shape, &e->split, err)
                            : GIMBAL_OK;
}

/* Texts and pictures need no motion; sampling does, of an image model. */
int engine_can_sample(const gimbal_engine *e, gimbal_error *err)
{
    if (!e->family->needs_motion || e->part[PART_MOTION].dir)
        return GIMBAL_OK;
    return fail_hint(
        err, GIMBAL_EMODEL,
        "--motion wants the folder of a motion adapter (config.json and one weight file, diffusers "
        "layout), or its .safetensors file",
        "%s: this %s model needs a motion adapter; none was given and the folder has no motion_adapter/",
        e->model, e->family->name);
}

/* Is there any file of weights, of whatever kind, where weights_open would look? */
static bool holds_weights(const char *path)
{
    DIR *dir = opendir(path);
    bool found = !dir; /* a file by itself */
    for (const struct dirent *entry; dir && !found && (entry = readdir(dir));) {
        const char *dot = strrchr(entry->d_name, '.');
        found = dot && (!strcmp(dot, ".safetensors") || !strcmp(dot, ".bin") || !strcmp(dot, ".ckpt"));
    }
    if (dir)
        closedir(dir);
    return found;
}

static int open_weights(gimbal_engine *e, gimbal_error *err)
{
    for (PartKind kind = 0; kind < PART_COUNT; kind++)
        if (part_has_weights(kind) && e->part[kind].dir &&
            !(e->training && kind == PART_MOTION && !holds_weights(e->part[kind].weight)))
            TRY((e->load ? weights_load : weights_open)(&e->part[kind].weights, e->part[kind].weight, err));
    return GIMBAL_OK;
}

static int count_leaf(Params *p, Weight *w)
{
    *(int64_t *)p->user += weight_count(w);
    return 0;
}

static int64_t count_unet(const gimbal_engine *e)
{
    int64_t count = 0;
    Params p = {.leaf = count_leaf, .user = &count};
    unet_params(e->unet, &p);
    unet_motion_params(e->unet, &p);
    if (e->residual)
        unet_params(e->residual, &p), unet_motion_params(e->residual, &p);
    return count;
}

/* The second network of a model that has two. */
static int build_residual(gimbal_engine *e, gimbal_error *err)
{
    if (!e->family->split)
        return GIMBAL_OK;
    TRY(unet_build(&e->residual, &e->keep, &e->residual_shape, err));
    e->memo = memo_new();
    if (!e->memo)
        return fail(err, GIMBAL_ENOMEM, "no memory for an engine");
    return bind_weights(e->part[PART_RESIDUAL].weights, "", unet_params, e->residual, e->family->unet_ignore,
                        NULL, err);
}

static int silence_leaf(Params *p, Weight *w)
{
    (void)p;
    if (w->own && strstr(w->name, ".proj_out."))
        memset(w->own, 0, sizeof *w->own * (size_t)weight_count(w));
    return GIMBAL_OK;
}

int engine_begin_motion(Unet *unet, uint64_t seed, Arena *keep, int *made, gimbal_error *err)
{
    static const char *const everything[] = {"*", NULL};
    Params p = {.leaf = silence_leaf};
    TRY(bind_fresh(NULL, "", unet_motion_params, unet, everything, seed, keep, made, err));
    unet_motion_params(unet, &p);
    return GIMBAL_OK;
}

/* What training begins without. */
static int begin_fresh(gimbal_engine *e, gimbal_error *err)
{
    const Part *unet = &e->part[PART_UNET], *motion = &e->part[PART_MOTION];
    int made = 0;
    if (!e->training)
        return GIMBAL_OK;
    if (e->family->unet_fresh)
        TRY(bind_fresh(unet->weights, "", unet_params, e->unet, e->family->unet_fresh, e->seed, &e->keep,
                       &e->fresh, err));
    if (motion->dir && !motion->weights)
        TRY(engine_begin_motion(e->unet, e->seed, &e->keep, &made, err));
    e->fresh += made;
    return GIMBAL_OK;
}

static int build(gimbal_engine *e, gimbal_error *err)
{
    const Part *part = e->part;
    TRY(unet_build(&e->unet, &e->keep, &e->shape, err));
    TRY(build_residual(e, err));
    e->unet_size = count_unet(e);
    TRY(clip_build(&e->clip, &e->keep, part[PART_TEXT].config, part[PART_TEXT].where, err));
    TRY(vae_build(&e->vae, &e->keep, part[PART_VAE].config, part[PART_VAE].where, err));
    TRY(begin_fresh(e, err));
    TRY(bind_weights(part[PART_UNET].weights, "", unet_params, e->unet, e->family->unet_ignore, NULL, err));
    if (part[PART_MOTION].weights) /* of two networks the residual's */
        TRY(bind_weights(part[PART_MOTION].weights, "", unet_motion_params,
                         e->residual ? e->residual : e->unet, e->family->motion_ignore, NULL, err));
    TRY(bind_weights(part[PART_VAE].weights, "", vae_params, e->vae, vae_ignore, old_diffusers_names, err));
    return bind_weights(part[PART_TEXT].weights, "", clip_params, e->clip, clip_ignore, NULL, err);
}

/* Parts come from different places; each pair that meets in a run is compared here. */
static int check_parts(const gimbal_engine *e, gimbal_error *err)
{
    const Part *part = e->part;
    const int words = tokenizer_vocab(e->tokenizer), rows = clip_vocab(e->clip);
    if (words > rows)
        return fail_hint(err, GIMBAL_EMODEL, "take tokenizer/ and text_encoder/ from the same model",
                         "%s has %d token ids, the table of %s only %d rows", part[PART_TOKENIZER].dir, words,
                         part[PART_TEXT].where, rows);
    if (clip_positions(e->clip) != TOKENS)
        return fail(err, GIMBAL_EMODEL, "%s: max_position_embeddings is %d, expected %d",
                    part[PART_TEXT].where, clip_positions(e->clip), TOKENS);
    if (clip_width(e->clip) != e->shape.context)
        return fail_hint(err, GIMBAL_EMODEL, "take unet/ and text_encoder/ from the same model",
                         "%s: cross_attention_dim is %d, but the text encoder gives %d (hidden_size in %s)",
                         part[PART_UNET].where, e->shape.context, clip_width(e->clip), part[PART_TEXT].where);
    if (e->shape.in != e->shape.out || e->shape.in != vae_channels(e->vae))
        return fail_hint(
            err, GIMBAL_EMODEL,
            "models for inpainting, depth or editing have more input channels; they are not supported",
            "%s: in_channels is %d and out_channels %d, expected the VAE's latent_channels, %d",
            part[PART_UNET].where, e->shape.in, e->shape.out, vae_channels(e->vae));
    return GIMBAL_OK;
}

/* ---- schedule ---------------------------------------------------------------------------- */

int engine_schedule(const gimbal_engine *e, const char *betas, const char *spacing, Schedule *out,
                    const char **note, Arena *keep, gimbal_error *err)
{
    const Part *part = &e->part[PART_SCHEDULER];
    *note = NULL;
    return schedule_read(out, part->config, part->where, betas, spacing, e->part[PART_MOTION].dir != NULL,
                         keep, note, err);
}

/* The model's own betas, spacing and sampler under the names that settings have; other betas have none and
 * stay NULL. */
static int name_schedule(gimbal_engine *e, gimbal_error *err)
{
    static const char *const betas[] = {"linear", "scaled_linear"};
    static const char *const spacings[] = {
        [SPACING_LEADING] = "leading", [SPACING_LINSPACE] = "linspace", [SPACING_TRAILING] = "trailing"};
    Schedule own;
    const char *note;
    TRY(engine_schedule(e, NULL, NULL, &own, &note, &e->keep, err));
    if (e->family->split && own.prediction != PREDICT_EPSILON)
        return fail(err, GIMBAL_EMODEL,
                    "%s: \"prediction_type\" is not epsilon, but the networks of a %s model share noise",
                    e->part[PART_SCHEDULER].where, e->family->name);
    for (int i = 0; i < COUNT(betas); i++)
        if (own.betas && !strcmp(own.betas, betas[i]))
            e->betas = betas[i];
    e->spacing = spacings[own.spacing];
    e->sampler = own.sampler;
    e->train_steps = own.T;
    if (note)
        e->note[e->n_notes++] = note;
    return GIMBAL_OK;
}

/* ---- identity ---------------------------------------------------------------------------- */

/* A file by its name inside the part; one that is not there counts as such. */
static int hash_file(Sha256 *sha, const char *dir, const char *name, gimbal_error *err)
{
    char path[PATH_ROOM], line[PATH_ROOM], *text = NULL;
    size_t size = 0;
    TRY(path_join(path, dir, name, err));
    if (is_file(path))
        TRY(read_file(&text, &size, path, 64u << 20, err));
    const int n = snprintf(line, sizeof line, "%s %zu\n", name, size);
    sha256_add(sha, line, (size_t)n);
    if (text)
        sha256_add(sha, text, size);
    free(text);
    return GIMBAL_OK;
}

static int hash_part(Sha256 *sha, const Part *part, PartKind kind, gimbal_error *err)
{
    static const char *const vocabulary[] = {"vocab.json", "merges.txt", "special_tokens_map.json"};
    const char *name = part_name(kind);
    if (!part->dir && (kind == PART_RESIDUAL || kind == PART_SPLIT))
        return GIMBAL_OK; /* younger than other models' identities, which stay what they were */
    sha256_add(sha, name, strlen(name) + 1);
    if (!part->dir)
        return GIMBAL_OK;
    TRY(hash_file(sha, part->dir, part_config(kind), err));
    for (int i = 0; kind == PART_TOKENIZER && i < COUNT(vocabulary); i++)
        TRY(hash_file(sha, part->dir, vocabulary[i], err));
    if (part->weights)
        weights_hash(part->weights, sha);
    return GIMBAL_OK;
}

int parts_hash(const Part part[PART_COUNT], unsigned kinds, bool numbers, char hex[65], gimbal_error *err)
{
    Sha256 *sha = sha256_new();
    if (!sha)
        return fail(err, GIMBAL_ENOMEM, "no memory for a hash");
    int code = GIMBAL_OK;
    for (PartKind kind = 0; kind < PART_COUNT && !code; kind++) {
        if (!(kinds >> kind & 1))
            continue;
        code = hash_part(sha, &part[kind], kind, err);
        const WeightSet *weights = numbers ? part[kind].weights : NULL;
        for (int i = 0; weights && i < weights_count(weights); i++)
            sha256_add(sha, weights_entry(weights, i)->data, weights_entry(weights, i)->bytes);
    }
    sha256_end(sha, hex);
    return code;
}

/* ---- open and close ---------------------------------------------------------------------- */

static int open_engine(gimbal_engine *e, gimbal_error *err)
{
    TRY(read_configs(e, err));
    TRY(find_family(e, err));
    TRY(open_weights(e, err));
    TRY(build(e, err));
    TRY(tokenizer_open(&e->tokenizer, e->part[PART_TOKENIZER].dir, err));
    TRY(check_parts(e, err));
    TRY(name_schedule(e, err));
    return parts_hash(e->part, ALL_PARTS, false, e->identity, err);
}

int gimbal_open(gimbal_engine **out, const char *model, const char *motion, gimbal_error *err)
{
    return gimbal_open_with(out, model, motion, 0, err);
}

/* `as`: how it is to be opened. */
static int open_as(gimbal_engine **out, const gimbal_engine *as, const char *model, const char *motion,
                   gimbal_error *err)
{
    *out = NULL;
    gimbal_engine *e = calloc(1, sizeof *e);
    if (!e)
        return fail(err, GIMBAL_ENOMEM, "no memory for an engine");
    *e = *as;
    e->model = arena_printf(&e->keep, "%s", model ? model : "");
    e->motion = motion ? arena_printf(&e->keep, "%s", motion) : NULL;
    const bool named = e->model && (e->motion || !motion);
    const int code = named ? open_engine(e, err) : fail(err, GIMBAL_ENOMEM, "no memory for the model's path");
    if (code)
        gimbal_close(e);
    else
        *out = e;
    return code;
}

int gimbal_open_with(gimbal_engine **out, const char *model, const char *motion, unsigned flags,
                     gimbal_error *err)
{
    *out = NULL;
    if (flags & ~(unsigned)GIMBAL_NO_MMAP)
        return fail(err, GIMBAL_EUSAGE, "flags are 0x%x, this library knows 0x%x", flags, GIMBAL_NO_MMAP);
    return open_as(out, &(gimbal_engine){.load = flags & GIMBAL_NO_MMAP}, model, motion, err);
}

int engine_open_training(gimbal_engine **out, const char *model, const char *motion, uint64_t seed,
                         gimbal_error *err)
{
    return open_as(out, &(gimbal_engine){.training = true, .seed = seed}, model, motion, err);
}

static int drop_pack(Params *p, Weight *w)
{
    (void)p;
    weight_drop(w);
    return 0;
}

static void drop_packs(void (*params)(void *, Params *), void *network)
{
    Params p = {.leaf = drop_pack};
    if (network)
        params(network, &p);
}

void gimbal_close(gimbal_engine *e)
{
    if (!e)
        return;
    drop_packs(unet_params, e->unet);
    drop_packs(unet_motion_params, e->unet);
    drop_packs(unet_params, e->residual);
    drop_packs(unet_motion_params, e->residual);
    memo_free(e->memo);
    drop_packs(vae_params, e->vae);
    drop_packs(clip_params, e->clip);
    tokenizer_close(e->tokenizer);
    for (PartKind kind = 0; kind < PART_COUNT; kind++) {
        weights_close(e->part[kind].weights);
        json_decref(e->part[kind].config);
    }
    arena_free(&e->keep);
    free(e); /* the engine itself is not in its arena: it holds it */
}

/* ---- questions --------------------------------------------------------------------------- */

const char *gimbal_note(const gimbal_engine *e, int i)
{
    return i >= 0 && i < e->n_notes ? e->note[i] : NULL;
}

const char *gimbal_identity(const gimbal_engine *e)
{
    return e->identity;
}

const char *gimbal_family(const gimbal_engine *e)
{
    return e->family->name;
}

int gimbal_size_step(const gimbal_engine *e)
{
    return MAX(8, vae_factor(e->vae)); /* both are powers of two */
}

int gimbal_needs_image(const gimbal_engine *e)
{
    return e->shape.given;
}

int gimbal_most_frames(const gimbal_engine *e)
{
    return MAX(e->shape.max_frames, 0);
}

int gimbal_context_width(const gimbal_engine *e)
{
    return e->shape.context;
}

int gimbal_tokenize(const gimbal_engine *e, const char *text, int32_t ids[77], int *truncated,
                    gimbal_error *err)
{
    int dropped = 0;
    TRY(tokenize(e->tokenizer, text ? text : "", ids, TOKENS, &dropped, err));
    if (truncated)
        *truncated = dropped;
    return GIMBAL_OK;
}
