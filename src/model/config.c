/* config.c: what families read from U-Net configs in the same way: widths, block types, lists per level,
 * norms, sizes; all of UNet2DConditionModel.
 *
 * Every reader checks its range and names file, key, expected and found. Defaults that differ between the
 * constructors of diffusers are the caller's to say.
 *
 * Knows the keys that UNet2DConditionModel, UNet3DConditionModel and MotionAdapter share. Refuses to know
 * families. */
#include "model/model.h"

#include <string.h>

/* ---- lists, one number per level --------------------------------------------------------- */

static int wrong_length(const Config *c, const char *key, size_t n, int levels)
{
    return fail(c->err, GIMBAL_EMODEL,
                "%s: \"%s\" has %zu entries, expected %d, one for each of \"block_out_channels\"", c->where,
                key, n, levels);
}

int config_per_level(const Config *c, const char *key, int def, int levels, int max, int out[MAX_LEVELS])
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

int config_widths(const Config *c, int out[MAX_LEVELS], int *levels)
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
        if (out[i] < 1 || out[i] > CONFIG_WIDTH)
            return fail(c->err, GIMBAL_EMODEL, "%s: \"%s\"[%d] is %d, expected 1 to %d", c->where, key, i,
                        out[i], CONFIG_WIDTH);
    return GIMBAL_OK;
}

int config_block_types(const Config *c, const char *key, const char *with, const char *without, int plain,
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

/* ---- single numbers ---------------------------------------------------------------------- */

int config_norm(const Config *c, UnetShape *s)
{
    double eps;
    TRY(json_get_int(c->json, c->where, "norm_num_groups", 32, 1, CONFIG_WIDTH, &s->groups, c->err));
    TRY(json_get_real(c->json, c->where, "norm_eps", 1e-5, &eps, c->err));
    if (!(eps > 0 && eps < 1))
        return fail(c->err, GIMBAL_EMODEL, "%s: \"norm_eps\" is %g, expected between 0 and 1", c->where, eps);
    s->eps = (float)eps;
    return GIMBAL_OK;
}

int config_channels(const Config *c, UnetShape *s)
{
    TRY(json_get_int(c->json, c->where, "in_channels", 4, 1, 256, &s->in, c->err));
    TRY(json_get_int(c->json, c->where, "out_channels", 4, 1, 256, &s->out, c->err));
    if (s->in != s->out)
        return fail_hint(
            c->err, GIMBAL_EMODEL, "inpainting, instruction and variance-predicting models are not supported",
            "%s: \"in_channels\" is %d and \"out_channels\" %d, expected the same", c->where, s->in, s->out);
    return GIMBAL_OK;
}

int config_sample_size(const Config *c, int def, int size[2])
{
    int n = 0;
    size[0] = size[1] = def;
    TRY(json_get_ints(c->json, c->where, "sample_size", 2, size, 2, &n, c->err));
    const json_t *value = json_object_get(c->json, "sample_size");
    if ((json_is_array(value) && n != 2) || size[0] < 1 || size[1] < 1 || MAX(size[0], size[1]) > 4096)
        return fail(c->err, GIMBAL_EMODEL,
                    "%s: \"sample_size\" must be a number from 1 to 4096, or [height, width]", c->where);
    return GIMBAL_OK;
}

/* ---- an image U-Net, whole --------------------------------------------------------------- */

/* Keys of UNet2DConditionModel of which one value is implemented. */
static const ConfigRule unet2d_rules[] = {
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
    {"num_class_embeds", "null"},
    {"class_embeddings_concat", "false"},
    {"projection_class_embeddings_input_dim", "null"},
    {"addition_embed_type", "null"},
    {"addition_time_embed_dim", "null"},
    {NULL, NULL},
};

/* One width for all levels: there is one text. */
static int text_width(const Config *c, UnetShape *s)
{
    int width[MAX_LEVELS];
    TRY(config_per_level(c, "cross_attention_dim", 1280, s->levels, CONFIG_WIDTH, width));
    for (int i = 1; i < s->levels; i++)
        if (width[i] != width[0])
            return fail(c->err, GIMBAL_EMODEL,
                        "%s: \"cross_attention_dim\" differs between levels (%d and %d): one text "
                        "encoder cannot serve both",
                        c->where, width[0], width[i]);
    s->context = width[0];
    return GIMBAL_OK;
}

/* Whether the network is told a number beside the timestep: VideoFusion's residual network, each frame's. */
static int class_embedding(const Config *c, bool numbered)
{
    static const ConfigRule none[] = {{"class_embed_type", "null"}, {NULL, NULL}},
                            number[] = {{"class_embed_type", "\"timestep\""}, {NULL, NULL}};
    if (!numbered)
        return json_refuse(c->json, c->where, none, c->err);
    if (!json_object_get(c->json, "class_embed_type"))
        return fail(c->err, GIMBAL_EMODEL,
                    "%s: \"class_embed_type\" is absent, expected \"timestep\": this network is told each "
                    "frame's number",
                    c->where);
    return json_refuse(c->json, c->where, number, c->err);
}

int config_unet2d(const Config *c, bool numbered, UnetShape *s)
{
    int time_width;
    TRY(json_refuse(c->json, c->where, unet2d_rules, c->err));
    TRY(class_embedding(c, numbered));
    TRY(config_widths(c, s->width, &s->levels));
    TRY(config_block_types(c, "down_block_types", "CrossAttnDownBlock2D", "DownBlock2D", 3, s->levels,
                           s->down_attn));
    TRY(config_block_types(c, "up_block_types", "CrossAttnUpBlock2D", "UpBlock2D", 0, s->levels, s->up_attn));
    TRY(config_per_level(c, "layers_per_block", 2, s->levels, MAX_LAYERS, s->layers));
    TRY(config_per_level(c, "attention_head_dim", 8, s->levels, CONFIG_WIDTH, s->heads));
    TRY(config_per_level(c, "transformer_layers_per_block", 1, s->levels, CONFIG_DEPTH, s->depth));
    TRY(text_width(c, s));
    TRY(config_norm(c, s));
    TRY(json_get_bool(c->json, c->where, "use_linear_projection", false, &s->linear_proj, c->err));
    s->mid_attn = true;
    s->numbered = numbered;
    const int usual = 4 * s->width[0];
    if (!json_is_null(json_object_get(c->json, "time_embedding_dim"))) {
        TRY(json_get_int(c->json, c->where, "time_embedding_dim", usual, 1, 1 << 20, &time_width, c->err));
        if (time_width != usual)
            return fail(c->err, GIMBAL_EMODEL,
                        "%s: \"time_embedding_dim\" is %d; only null or 4 x \"block_out_channels\"[0], "
                        "%d, is supported",
                        c->where, time_width, usual);
    }
    return config_channels(c, s);
}
