/* describe.c: gimbal_describe: what a path is, as JSON: a model folder, a motion adapter or another network's
 * folder, a safetensors file.
 *
 * Works on damaged folders too: each part is looked at by itself and says what is wrong with it under
 * "error"; whether the whole would run is asked of the engine and stands under "usable". An error comes back
 * only when nothing can be said. Values that memory does not suffice for are left out.
 *
 *     {"kind": "model", "path": .., "usable": true, "family": .., "identity": .., "notes": [..],
 *      "defaults": {..}, "parts": {"unet": {"file": .., "bytes": .., "tensors": .., "parameters": ..,
 *                                           "types": {"F16": 686}, "config": {..}}, ..}}
 *
 * Knows every layer's way of saying what it found. Refuses to know how it is shown. */
#include "diffusion/engine.h"

#include <string.h>

enum { HEADER_DEPTH = 8, NAMES = 16 };

static void put(json_t *object, const char *key, json_t *value)
{
    json_object_set_new(object, key, value);
}

/* Text from a file's name or header: escaped where it is no plain UTF-8. */
static json_t *text_json(const char *text)
{
    char q[QUOTED_ROOM];
    size_t bad;
    return json_string(utf8_check(text, &bad) >= 0 ? text : quoted(text, q));
}

static void put_error(json_t *object, const gimbal_error *err)
{
    put(object, "error", text_json(err->msg));
    if (err->hint[0])
        put(object, "hint", text_json(err->hint));
}

/* ---- weights ----------------------------------------------------------------------------- */

static int64_t elements(const StEntry *entry)
{
    int64_t n = 1;
    for (int i = 0; i < entry->nd; i++)
        n *= entry->n[i]; /* st_open has checked the product */
    return n;
}

/* file, bytes, tensors, parameters and how many tensors there are of each type. */
static void put_weights(json_t *out, const WeightSet *set)
{
    json_t *types = json_object();
    int64_t parameters = 0;
    for (int i = 0; i < weights_count(set); i++) {
        const StEntry *entry = weights_entry(set, i);
        const json_int_t before = json_integer_value(json_object_get(types, entry->spelling));
        put(types, entry->spelling, json_integer(before + 1));
        parameters += elements(entry);
    }
    put(out, "file", text_json(weights_path(set)));
    put(out, "bytes", json_integer((json_int_t)weights_bytes(set)));
    put(out, "tensors", json_integer(weights_count(set)));
    put(out, "parameters", json_integer(parameters));
    put(out, "types", types);
}

/* Name, type and shape of every tensor. */
static json_t *tensors_json(const WeightSet *set)
{
    json_t *list = json_array();
    for (int i = 0; i < weights_count(set); i++) {
        const StEntry *entry = weights_entry(set, i);
        json_t *shape = json_array();
        for (int k = 0; k < entry->nd; k++)
            json_array_append_new(shape, json_integer(entry->n[k]));
        json_array_append_new(list, json_pack("{s:o, s:s, s:o}", "name", text_json(entry->name), "type",
                                              entry->spelling, "shape", shape));
    }
    return list;
}

/* ---- parts ------------------------------------------------------------------------------- */

/* What of a config is worth reading. */
static const char *const config_keys[PART_COUNT][NAMES] = {
    [PART_UNET] = {"_class_name", "block_out_channels", "layers_per_block", "attention_head_dim",
                   "cross_attention_dim", "in_channels", "out_channels", "sample_size",
                   "use_linear_projection"},
    [PART_MOTION] = {"_class_name", "block_out_channels", "motion_layers_per_block",
                     "motion_num_attention_heads", "motion_max_seq_length", "use_motion_mid_block"},
    [PART_VAE] = {"_class_name", "block_out_channels", "layers_per_block", "latent_channels",
                  "scaling_factor"},
    [PART_TEXT] = {"architectures", "hidden_size", "num_hidden_layers", "num_attention_heads",
                   "intermediate_size", "hidden_act", "max_position_embeddings", "vocab_size"},
    [PART_TOKENIZER] = {"tokenizer_class", "model_max_length"},
    [PART_SCHEDULER] = {"_class_name", "beta_schedule", "beta_start", "beta_end", "num_train_timesteps",
                        "prediction_type", "timestep_spacing", "steps_offset", "set_alpha_to_one",
                        "clip_sample", "rescale_betas_zero_snr"},
    [PART_RESIDUAL] = {"_class_name", "class_embed_type", "block_out_channels", "layers_per_block",
                       "attention_head_dim", "cross_attention_dim", "in_channels", "out_channels"},
    [PART_SPLIT] = {"lambda", "key_frame", "frame_count", "rescale", "width", "height"},
};

static json_t *config_json(const json_t *config, PartKind kind)
{
    json_t *out = json_object();
    for (const char *const *key = config_keys[kind]; *key; key++) {
        json_t *value = json_object_get(config, *key);
        if (value)
            json_object_set(out, *key, value);
    }
    return out;
}

/* Reads one part as far as it goes; part->dir NULL: there is none. */
static json_t *part_json(Part *part, PartKind kind, gimbal_error *err)
{
    json_t *out = json_object();
    if (!err->code && is_file(part->where) && !part_read_config(part, kind, err))
        put(out, "config", config_json(part->config, kind));
    if (!err->code && part_has_weights(kind) && !weights_open(&part->weights, part->weight, err))
        put_weights(out, part->weights);
    if (err->code)
        put_error(out, err);
    return out;
}

static const Family *family_of(const Part part[PART_COUNT])
{
    const Part *unet = &part[PART_UNET];
    const FolderConfigs configs = {
        .unet = unet->config, .split = part[PART_SPLIT].config, .unet_where = unet->where};
    const Family *family = NULL;
    if (unet->config)
        family_find(&family, &configs, NULL);
    return family;
}

/* Where a part lies: of two networks the motion adapter is the residual's. */
static int home_of(char home[PATH_ROOM], PartKind kind, const char *folder, gimbal_error *err)
{
    if (kind == PART_MOTION && part_expected(PART_SPLIT, folder))
        return path_join(home, folder, part_name(PART_RESIDUAL), err);
    snprintf(home, PATH_ROOM, "%s", folder);
    return GIMBAL_OK;
}

/* A motion adapter beside a model that takes none is none of its parts. */
static bool has_motion(const Part part[PART_COUNT], const char *home, gimbal_error *err)
{
    char dir[PATH_ROOM], weights[PATH_ROOM];
    const Family *family = family_of(part);
    if (family && !family->needs_motion && !family->split)
        return false;
    return locate_motion(home, NULL, dir, weights, err) || dir[0];
}

/* Every part of the folder; `sound` is cleared when one of them has an error. */
static json_t *parts_json(Part part[PART_COUNT], const char *folder, Arena *keep, bool *sound)
{
    json_t *out = json_object();
    for (PartKind kind = 0; kind < PART_COUNT; kind++) {
        gimbal_error err = {0};
        char home[PATH_ROOM] = "";
        home_of(home, kind, folder, &err);
        if (kind == PART_MOTION ? !has_motion(part, home, &err) : !part_expected(kind, folder))
            continue;
        if (!err.code)
            locate_part(&part[kind], kind, home, keep, &err);
        put(out, part_name(kind), part_json(&part[kind], kind, &err));
        *sound = *sound && !err.code;
    }
    return out;
}

static void close_parts(Part part[PART_COUNT])
{
    for (PartKind kind = 0; kind < PART_COUNT; kind++) {
        weights_close(part[kind].weights);
        json_decref(part[kind].config);
    }
}

/* ---- a model ----------------------------------------------------------------------------- */

/* What only an opened model knows. */
static void put_engine(json_t *out, const gimbal_engine *e)
{
    gimbal_settings s;
    json_t *notes = json_array();
    gimbal_defaults(&s, e);
    for (int i = 0; gimbal_note(e, i); i++)
        json_array_append_new(notes, text_json(gimbal_note(e, i)));
    put(out, "notes", notes);
    put(out, "size_step", json_integer(gimbal_size_step(e)));
    put(out, "latent_factor", json_integer(vae_factor(e->vae)));
    put(out, "max_frames", json_integer(e->shape.max_frames));
    put(out, "context_width", json_integer(e->shape.context));
    put(out, "defaults",
        json_pack("{s:i, s:i, s:i, s:i, s:f, s:s?, s:s?}", "frames", s.frames, "width", s.width, "height",
                  s.height, "steps", s.steps, "cfg", s.cfg, "betas", s.betas, "spacing", s.spacing));
}

static json_t *model_json(const char *path, const char *folder)
{
    Part part[PART_COUNT] = {0};
    Arena keep = {0};
    gimbal_error err = {0};
    gimbal_engine *e;
    bool sound = true;
    char identity[65];
    json_t *out = json_pack("{s:s, s:o}", "kind", "model", "path", text_json(path)),
           *parts = parts_json(part, folder, &keep, &sound);
    const Family *family = family_of(part);
    if (family)
        put(out, "family", json_string(family->name));
    int code = gimbal_open(&e, path, NULL, &err);
    if (!code)
        code = engine_can_sample(e, &err);
    put(out, "usable", json_boolean(!code));
    if (sound && !parts_hash(part, ALL_PARTS, false, identity, NULL))
        put(out, "identity", json_string(identity));
    if (code)
        put_error(out, &err);
    if (e)
        put_engine(out, e);
    put(out, "parts", parts);
    gimbal_close(e);
    close_parts(part);
    arena_free(&keep);
    return out;
}

/* ---- one network, one file --------------------------------------------------------------- */

static PartKind kind_of(const json_t *config)
{
    const char *name = json_string_value(json_object_get(config, "_class_name"));
    for (int i = 0; name && family_at(i); i++)
        if (!strcmp(name, family_at(i)->unet_class))
            return PART_UNET;
    return name && !strcmp(name, "MotionAdapter")   ? PART_MOTION
           : name && !strcmp(name, "AutoencoderKL") ? PART_VAE
                                                    : PART_TEXT;
}

/* A folder with config.json and weights. */
static int network_json(const char *folder, char *where, json_t **out, gimbal_error *err)
{
    Part part = {.dir = (char *)folder, .where = where, .weight = (char *)folder};
    gimbal_error wrong = {0};
    json_t *config;
    TRY(json_read(&config, where, err));
    const PartKind kind = kind_of(config);
    json_decref(config);
    *out = part_json(&part, kind, &wrong);
    put(*out, "kind", json_string(kind == PART_MOTION ? "motion adapter" : "network"));
    put(*out, "path", text_json(folder));
    put(*out, "usable", json_boolean(!wrong.code));
    weights_close(part.weights);
    json_decref(part.config);
    return GIMBAL_OK;
}

/* The header's free text: key to value. */
static json_t *metadata_json(const SafeTensors *st)
{
    const char *text;
    size_t n;
    json_t *header, *metadata = NULL;
    st_header(st, &text, &n);
    if (!json_parse(&header, text, n, HEADER_DEPTH, st_path(st), NULL)) {
        metadata = json_incref(json_object_get(header, "__metadata__"));
        json_decref(header);
    }
    return metadata ? metadata : json_object();
}

static int weights_json(const char *path, json_t **out, gimbal_error *err)
{
    WeightSet *set;
    SafeTensors *st;
    TRY(weights_open(&set, path, err));
    *out = json_pack("{s:s, s:o}", "kind", "weights", "path", text_json(path));
    put_weights(*out, set);
    const char *what = weights_count(set) ? foreign_spelling(weights_entry(set, 0)->name) : NULL;
    if (what)
        put(*out, "notes", json_pack("[s]", what));
    if (is_file(path) && !st_open(&st, path, NULL)) {
        if (st_is_single_checkpoint(st))
            put(*out, "notes", json_pack("[s]", "a single-file checkpoint: not read yet"));
        put(*out, "metadata", metadata_json(st));
        st_close(st);
    }
    put(*out, "list", tensors_json(set));
    weights_close(set);
    return GIMBAL_OK;
}

/* ---- the path ---------------------------------------------------------------------------- */

static int describe(const char *path, json_t **out, gimbal_error *err)
{
    char folder[PATH_ROOM], config[PATH_ROOM];
    gimbal_error why = {0};
    if (is_file(path))
        return weights_json(path, out, err);
    if (!is_folder(path))
        return fail(err, GIMBAL_EIO, "%s: no such file or folder", path);
    if (!model_folder(folder, path, &why)) {
        *out = model_json(path, folder);
        return GIMBAL_OK;
    }
    TRY(hub_folder(folder, path, err));
    TRY(path_join(config, folder, "config.json", err));
    if (is_file(config))
        return network_json(folder, config, out, err);
    return weights_json(folder, out, NULL) ? pass_on(&why, err) : GIMBAL_OK;
}

int gimbal_describe(const char *path, char **json, gimbal_error *err)
{
    json_t *out = NULL;
    *json = NULL;
    TRY(describe(path, &out, err));
    *json = out ? json_dumps(out, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(out);
    return *json ? GIMBAL_OK : fail(err, GIMBAL_ENOMEM, "%s: no memory to describe it", path);
}
