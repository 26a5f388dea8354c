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

static const ConfigRule motion_rules[] = {
    {"_class_name", "\"MotionAdapter\""},
    {"conv_in_channels", "null|0"}, /* PIA: 9 */
    {NULL, NULL},
};

/* Asked only when the mid block has motion at all: diffusers' network has room for one module there. */
static const ConfigRule mid_rules[] = {{"motion_mid_block_layers_per_block", "1"}, {NULL, NULL}};

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
    if (depth[0] < 1 || depth[0] > CONFIG_DEPTH || (json_object_get(c->json, key) && !n))
        return fail(c->err, GIMBAL_EMODEL, "%s: \"%s\" must be a number from 1 to %d", c->where, key,
                    CONFIG_DEPTH);
    return GIMBAL_OK;
}

int config_motion(const Config *c, const char *unet_where, UnetShape *s)
{
    int width[MAX_LEVELS], levels, layers[MAX_LEVELS];
    TRY(json_refuse(c->json, c->where, motion_rules, c->err));
    TRY(config_widths(c, width, &levels));
    TRY(same_list(c, "block_out_channels", width, levels, "block_out_channels", s->width, s->levels,
                  unet_where));
    TRY(config_per_level(c, "motion_layers_per_block", 2, levels, MAX_LAYERS, layers));
    TRY(same_list(c, "motion_layers_per_block", layers, levels, "layers_per_block", s->layers, s->levels,
                  unet_where));
    TRY(config_per_level(c, "motion_num_attention_heads", 8, levels, CONFIG_WIDTH, s->motion_heads));
    TRY(config_per_level(c, "motion_transformer_layers_per_block", 1, levels, CONFIG_DEPTH, s->motion_depth));
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
    int size[2];
    TRY(config_sample_size(c, 64, size));
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
    TRY(config_unet2d(&unet, false, &s));
    TRY(unet_check(&s, unet.where, NULL, err)); /* its own faults before the adapter is held against it */
    if (motion.json) /* without one the model still opens: for its text encoder and VAE */
        TRY(config_motion(&motion, unet.where, &s));
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
