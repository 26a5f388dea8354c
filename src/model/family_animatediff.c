/* family_animatediff.c: an SD 1.x image U-Net and a MotionAdapter, read as diffusers' AnimateDiffPipeline
 * reads them.
 *
 * That pipeline builds a new network from both configs and copies weights into it, so some keys mean
 * something else here than in an image pipeline. Ignored, whatever they say: upcast_attention,
 * only_cross_attention, flip_sin_to_cos, freq_shift, dropout, sample_size beyond the default picture; of the
 * adapter motion_norm_num_groups (the U-Net's norm_num_groups serves). attention_head_dim is the number of
 * heads. Every other key of the two constructors is read below or refused by name in the tables.
 *
 * Guo et al., AnimateDiff, ICLR 2024. Knows the two configs. Refuses to know weights, files and schedulers.
 */
#include "model/model.h"

#include <string.h>

enum { MAX_WIDTH = 16384, MAX_DEPTH = 64 };

/* Keys of UNet2DConditionModel of which one value is implemented. */
static const ConfigRule unet_rules[] = {
    {"act_fn", "\"silu\"|\"swish\""},
    {"mid_block_type", "\"UNetMidBlock2DCrossAttn\""},
    {"downsample_padding", "1"},
    {"mid_block_scale_factor", "1"},
    {"conv_in_kernel", "3"},
    {"conv_out_kernel", "3"},
    {"center_input_sample", "false"},
    {"dual_cross_attention", "false"},
    {"attention_type", "\"default\""},
    {"num_attention_heads", "null"}, /* diffusers refuses it too: attention_head_dim holds the count */
    {"mid_block_only_cross_attention", "null|false"},
    {"cross_attention_norm", "null"},
    {"reverse_transformer_layers_per_block", "null"},
    {"resnet_time_scale_shift", "\"default\""},
    {"resnet_skip_time_act", "false"},
    {"resnet_out_scale_factor", "1"},
    {"time_embedding_type", "\"positional\""},
    {"time_embedding_act_fn", "null"},
    {"timestep_post_act", "null"},
    {"time_cond_proj_dim", "null"},
    {"encoder_hid_dim", "null"},
    {"encoder_hid_dim_type", "null"},
    {"class_embed_type", "null"},
    {"num_class_embeds", "null"},
    {"class_embeddings_concat", "false"},
    {"projection_class_embeddings_input_dim", "null"},
    {"addition_embed_type", "null"},
    {"addition_time_embed_dim", "null"},
    {NULL, NULL},
};

static const ConfigRule motion_rules[] = {
    {"_class_name", "\"MotionAdapter\""},
    {"conv_in_channels", "null|0"}, /* PIA: 9 */
    {NULL, NULL},
};

/* Asked only when the mid block has motion at all: diffusers' network has room for one module there. */
static const ConfigRule mid_rules[] = {{"motion_mid_block_layers_per_block", "1"}, {NULL, NULL}};

/* A config with its path, and where the first error goes. */
typedef struct {
    const json_t *json;
    const char *where;
    gimbal_error *err;
} Config;

/* ---- lists, one number per level --------------------------------------------------------- */

static int wrong_length(const Config *c, const char *key, size_t n, int levels)
{
    return fail(c->err, GIMBAL_EMODEL,
                "%s: \"%s\" has %zu entries, expected %d, one for each of \"block_out_channels\"", c->where,
                key, n, levels);
}

/* A number for all levels or a list with one for each, in 1..max. */
static int per_level(const Config *c, const char *key, int def, int levels, int max, int out[MAX_LEVELS])
{
    const json_t *value = json_object_get(c->json, key);
    int n = 0;
    if (json_is_null(value))
        return fail(c->err, GIMBAL_EMODEL, "%s: \"%s\" is null, expected an integer or a list of %d",
                    c->where, key, levels);
    if (json_is_array(value) && json_array_size(value) != (size_t)levels)
        return wrong_length(c, key, json_array_size(value), levels);
    TRY(json_get_ints(c->json, c->where, key, levels, out, MAX_LEVELS, &n, c->err));
    for (int i = 0; i < levels; i++) {
        out[i] = n ? out[i] : def;
        if (out[i] < 1 || out[i] > max)
            return fail(c->err, GIMBAL_EMODEL, "%s: \"%s\" of level %d is %d, expected 1 to %d", c->where,
                        key, i, out[i], max);
    }
    return GIMBAL_OK;
}

/* block_out_channels; SD 1.5's when absent, as both constructors have it. */
static int widths(const Config *c, int out[MAX_LEVELS], int *levels)
{
    static const int sd15[] = {320, 640, 1280, 1280};
    const char *key = "block_out_channels";
    const json_t *value = json_object_get(c->json, key);
    if (!value) {
        memcpy(out, sd15, sizeof sd15);
        *levels = COUNT(sd15);
        return GIMBAL_OK;
    }
    TRY(json_get_ints(c->json, c->where, key, 0, out, MAX_LEVELS, levels, c->err));
    if (!*levels)
        return fail(c->err, GIMBAL_EMODEL, "%s: \"%s\" must list 1 to %d widths", c->where, key, MAX_LEVELS);
    for (int i = 0; i < *levels; i++)
        if (out[i] < 1 || out[i] > MAX_WIDTH)
            return fail(c->err, GIMBAL_EMODEL, "%s: \"%s\"[%d] is %d, expected 1 to %d", c->where, key, i,
                        out[i], MAX_WIDTH);
    return GIMBAL_OK;
}

/* attn[i]: does block i attend? `with` and `without` are the two block types; in SD 1.5 the only block
 * without is the one at the lowest resolution: index `plain` when the key is absent. */
static int block_types(const Config *c, const char *key, const char *with, const char *without, int plain,
                       int levels, bool attn[MAX_LEVELS])
{
    const json_t *list = json_object_get(c->json, key);
    const size_t n = list ? json_array_size(list) : 4; /* the constructor's default has four */
    if (n != (size_t)levels)
        return wrong_length(c, key, n, levels);
    for (int i = 0; i < levels; i++) {
        const char *type = json_string_value(json_array_get(list, (size_t)i));
        char q[QUOTED_ROOM];
        attn[i] = list ? type && !strcmp(type, with) : i != plain;
        if (list && !attn[i] && (!type || strcmp(type, without)))
            return fail(c->err, GIMBAL_EMODEL, "%s: \"%s\"[%d] is %s; only \"%s\" and \"%s\" are supported",
                        c->where, key, i, type ? quoted(type, q) : "not a name", with, without);
    }
    return GIMBAL_OK;
}

/* ---- the U-Net's config ------------------------------------------------------------------ */

/* One width for all levels: there is one text. */
static int text_width(const Config *c, UnetShape *s)
{
    int width[MAX_LEVELS];
    TRY(per_level(c, "cross_attention_dim", 1280, s->levels, MAX_WIDTH, width));
    for (int i = 1; i < s->levels; i++)
        if (width[i] != width[0])
            return fail(c->err, GIMBAL_EMODEL,
                        "%s: \"cross_attention_dim\" differs between levels (%d and %d): one text "
                        "encoder cannot serve both",
                        c->where, width[0], width[i]);
    s->context = width[0];
    return GIMBAL_OK;
}

static int unet_config(const Config *c, UnetShape *s)
{
    double eps;
    int time_width;
    TRY(json_refuse(c->json, c->where, unet_rules, c->err));
    TRY(widths(c, s->width, &s->levels));
    TRY(block_types(c, "down_block_types", "CrossAttnDownBlock2D", "DownBlock2D", 3, s->levels,
                    s->down_attn));
    TRY(block_types(c, "up_block_types", "CrossAttnUpBlock2D", "UpBlock2D", 0, s->levels, s->up_attn));
    TRY(per_level(c, "layers_per_block", 2, s->levels, MAX_LAYERS, s->layers));
    TRY(per_level(c, "attention_head_dim", 8, s->levels, MAX_WIDTH, s->heads));
    TRY(per_level(c, "transformer_layers_per_block", 1, s->levels, MAX_DEPTH, s->depth));
    TRY(text_width(c, s));
    TRY(json_get_int(c->json, c->where, "in_channels", 4, 1, 256, &s->in, c->err));
    TRY(json_get_int(c->json, c->where, "out_channels", 4, 1, 256, &s->out, c->err));
    TRY(json_get_int(c->json, c->where, "norm_num_groups", 32, 1, MAX_WIDTH, &s->groups, c->err));
    TRY(json_get_real(c->json, c->where, "norm_eps", 1e-5, &eps, c->err));
    TRY(json_get_bool(c->json, c->where, "use_linear_projection", false, &s->linear_proj, c->err));
    if (!(eps > 0 && eps < 1))
        return fail(c->err, GIMBAL_EMODEL, "%s: \"norm_eps\" is %g, expected between 0 and 1", c->where, eps);
    s->eps = (float)eps, s->mid_attn = true;
    const int usual = 4 * s->width[0];
    if (!json_is_null(json_object_get(c->json, "time_embedding_dim"))) {
        TRY(json_get_int(c->json, c->where, "time_embedding_dim", usual, 1, 1 << 20, &time_width, c->err));
        if (time_width != usual)
            return fail(c->err, GIMBAL_EMODEL,
                        "%s: \"time_embedding_dim\" is %d; only null or 4 x \"block_out_channels\"[0], "
                        "%d, is supported",
                        c->where, time_width, usual);
    }
    if (s->in != s->out)
        return fail_hint(
            c->err, GIMBAL_EMODEL, "inpainting, instruction and variance-predicting models are not supported",
            "%s: \"in_channels\" is %d and \"out_channels\" %d, expected the same", c->where, s->in, s->out);
    return GIMBAL_OK;
}

/* ---- the motion adapter's config --------------------------------------------------------- */

static void print_list(const int *x, int n, char *out, size_t room)
{
    size_t at = 0;
    for (int i = 0; i < n && at < room; i++)
        at += (size_t)snprintf(&out[at], room - at, "%s%d", i ? ", " : "", x[i]);
}

/* The adapter must have been made for this U-Net's `key`. */
static int same_list(const Config *c, const char *key, const int *got, int n_got, const char *unet_key,
                     const int *want, int n_want, const char *unet_where)
{
    if (n_got == n_want && !memcmp(got, want, sizeof *got * (size_t)n_got))
        return GIMBAL_OK;
    char a[120] = "", b[120] = "";
    print_list(got, n_got, a, sizeof a);
    print_list(want, n_want, b, sizeof b);
    return fail_hint(c->err, GIMBAL_EMODEL, "this motion adapter was made for another U-Net",
                     "%s: \"%s\" is [%s], but \"%s\" of %s is [%s]", c->where, key, a, unet_key, unet_where,
                     b);
}

/* The mid block has one motion module; its depth is a number or a list of one. */
static int mid_config(const Config *c, UnetShape *s)
{
    int n = 0, depth[1] = {1};
    const char *key = "motion_transformer_layers_per_mid_block";
    TRY(json_get_bool(c->json, c->where, "use_motion_mid_block", true, &s->motion_mid, c->err));
    if (!s->motion_mid)
        return GIMBAL_OK;
    TRY(json_refuse(c->json, c->where, mid_rules, c->err));
    TRY(json_get_ints(c->json, c->where, key, 1, depth, 1, &n, c->err));
    s->motion_mid_depth = depth[0];
    if (depth[0] < 1 || depth[0] > MAX_DEPTH || (json_object_get(c->json, key) && !n))
        return fail(c->err, GIMBAL_EMODEL, "%s: \"%s\" must be a number from 1 to %d", c->where, key,
                    MAX_DEPTH);
    return GIMBAL_OK;
}

static int motion_config(const Config *c, const char *unet_where, UnetShape *s)
{
    int width[MAX_LEVELS], levels, layers[MAX_LEVELS];
    TRY(json_refuse(c->json, c->where, motion_rules, c->err));
    TRY(widths(c, width, &levels));
    TRY(same_list(c, "block_out_channels", width, levels, "block_out_channels", s->width, s->levels,
                  unet_where));
    TRY(per_level(c, "motion_layers_per_block", 2, levels, MAX_LAYERS, layers));
    TRY(same_list(c, "motion_layers_per_block", layers, levels, "layers_per_block", s->layers, s->levels,
                  unet_where));
    TRY(per_level(c, "motion_num_attention_heads", 8, levels, MAX_WIDTH, s->motion_heads));
    TRY(per_level(c, "motion_transformer_layers_per_block", 1, levels, MAX_DEPTH, s->motion_depth));
    TRY(json_get_int(c->json, c->where, "motion_max_seq_length", 32, 1, 1 << 20, &s->max_frames, c->err));
    TRY(mid_config(c, s));
    s->motion = true;
    return GIMBAL_OK;
}

/* ---- the family -------------------------------------------------------------------------- */

/* Pictures of 8 x sample_size (a number, or [height, width]); clips of 16 frames, or as many as the adapter
 * can. */
static int defaults(const Config *c, const UnetShape *s, RunDefaults *run)
{
    int size[2] = {64, 64}, n = 0;
    TRY(json_get_ints(c->json, c->where, "sample_size", 2, size, 2, &n, c->err));
    const json_t *value = json_object_get(c->json, "sample_size");
    if ((json_is_array(value) && n != 2) || size[0] < 1 || size[1] < 1 || MAX(size[0], size[1]) > 4096)
        return fail(c->err, GIMBAL_EMODEL,
                    "%s: \"sample_size\" must be a number from 1 to 4096, or [height, width]", c->where);
    *run = (RunDefaults){.frames = s->motion ? MIN(16, s->max_frames) : 16,
                         .width = 8 * size[1],
                         .height = 8 * size[0],
                         .steps = 25,
                         .cfg = 7.5,
                         .fps = 8};
    return GIMBAL_OK;
}

static int shape(const FolderConfigs *configs, UnetShape *out, RunDefaults *run, gimbal_error *err)
{
    const Config unet = {configs->unet, configs->unet_where, err},
                 motion = {configs->motion, configs->motion_where, err};
    UnetShape s = {0};
    TRY(unet_config(&unet, &s));
    TRY(unet_check(&s, unet.where, NULL, err)); /* its own faults before the adapter is held against it */
    if (motion.json) /* without one the model still opens: for its text encoder and VAE */
        TRY(motion_config(&motion, unet.where, &s));
    TRY(unet_check(&s, unet.where, motion.where, err));
    TRY(defaults(&unet, &s, run));
    *out = s;
    return GIMBAL_OK;
}

static const char *const nothing[] = {NULL};

const Family family_animatediff = {
    .name = "animatediff",
    .help = "a Stable Diffusion 1.x model with a motion adapter",
    .source = "Guo et al., AnimateDiff, ICLR 2024",
    .unet_class = "UNet2DConditionModel",
    .needs_motion = true,
    .shape = shape,
    .unet_ignore = nothing,
    .motion_ignore = nothing,
};
