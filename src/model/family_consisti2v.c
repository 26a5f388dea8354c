/* family_consisti2v.c: ConsistI2V: a VideoLDMUNet3DConditionModel, which makes a clip out of a picture.
 *
 * Stable Diffusion 2.1's U-Net with temporal convolutions and attention over time, both blended with their
 * input. The picture's latent is frame 0 of x; attention over space sees that frame beside its own, attention
 * over time a window of it. attention_head_dim is the number of heads over space, n_temp_heads that over
 * time. n_frames is the clip's length in training; weights know nothing of it. Absent keys have the
 * constructor's defaults, which are not the published model's. upcast_attention, dropout and sample_size
 * beyond the default picture are ignored: float32 needs none of them. The published weights are of 256 x 256.
 *
 * Ren et al., ConsistI2V, TMLR 2024. Knows the config. Refuses to know weights, files and schedulers. */
#include "model/model.h"

#include <string.h>

/* Keys of which one value is implemented. */
static const ConfigRule rules[] = {
    {"act_fn", "\"silu\"|\"swish\""},
    {"mid_block_type", "\"UNetMidBlock2DCrossAttn\""},
    {"transformer_layers_per_block", "1|[1,1,1,1]"},
    {"downsample_padding", "1"},
    {"mid_block_scale_factor", "1"},
    {"conv_in_kernel", "3"},
    {"conv_out_kernel", "3"},
    {"flip_sin_to_cos", "true"},
    {"freq_shift", "0"},
    {"center_input_sample", "false"},
    {"dual_cross_attention", "false"},
    {"only_cross_attention", "false"},
    {"attention_type", "\"default\""},
    {"num_attention_heads", "null"}, /* the constructor refuses it too */
    {"mid_block_only_cross_attention", "null|false"},
    {"cross_attention_norm", "null"},
    {"resnet_time_scale_shift", "\"default\""},
    {"resnet_skip_time_act", "false"},
    {"resnet_out_scale_factor", "1"},
    {"time_embedding_type", "\"positional\""},
    {"time_embedding_dim", "null"},
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

/* One of the words, as its index; the first when the key is absent. */
static int choice(const Config *c, const char *key, const char *const *words, int *out)
{
    const char *word;
    char known[120] = "", q[QUOTED_ROOM];
    *out = 0;
    TRY(json_get_text(c->json, c->where, key, words[0], &word, c->err));
    for (int i = 0; words[i]; i++) {
        if (!strcmp(word, words[i])) {
            *out = i;
            return GIMBAL_OK;
        }
        const size_t at = strlen(known);
        snprintf(&known[at], sizeof known - at, "%s%s", i ? ", " : "", words[i]);
    }
    return fail(c->err, GIMBAL_EMODEL, "%s: \"%s\" is %s, expected one of %s", c->where, key, quoted(word, q),
                known);
}

/* How the picture and the frames' order enter. */
static int first_frame_config(const Config *c, UnetShape *s)
{
    enum { NONE, CONCAT, INPUT_ONLY, CONV2D };
    static const char *const modes[] = {"none", "concat", "input_only", "conv2d", NULL},
                             *const positions[] = {"sinusoidal", "rotary", NULL};
    int mode, position, heads;
    bool temporal;
    TRY(choice(c, "first_frame_condition_mode", modes, &mode));
    TRY(choice(c, "temp_pos_embedding", positions, &position));
    TRY(json_get_bool(c->json, c->where, "use_temporal", true, &temporal, c->err));
    TRY(json_get_bool(c->json, c->where, "augment_temporal_attention", false, &s->window, c->err));
    TRY(json_get_bool(c->json, c->where, "use_frame_stride_condition", false, &s->stride, c->err));
    TRY(json_get_int(c->json, c->where, "n_temp_heads", 8, 1, CONFIG_WIDTH, &heads, c->err));
    s->given = mode != NONE;
    s->given_space = mode == CONCAT || mode == CONV2D;
    s->given_entry = mode == CONV2D;
    s->blend_heads = temporal ? heads : 0;
    s->rotary = position == 1;
    return GIMBAL_OK;
}

static int unet_config(const Config *c, UnetShape *s)
{
    TRY(json_refuse(c->json, c->where, rules, c->err));
    TRY(config_widths(c, s->width, &s->levels));
    TRY(config_block_types(c, "down_block_types", "CrossAttnDownBlock2D", "DownBlock2D", 3, s->levels,
                           s->down_attn));
    TRY(config_block_types(c, "up_block_types", "CrossAttnUpBlock2D", "UpBlock2D", 0, s->levels, s->up_attn));
    TRY(config_per_level(c, "layers_per_block", 2, s->levels, MAX_LAYERS, s->layers));
    TRY(config_per_level(c, "attention_head_dim", 8, s->levels, CONFIG_WIDTH, s->heads));
    TRY(json_get_int(c->json, c->where, "cross_attention_dim", 1280, 1, CONFIG_WIDTH, &s->context, c->err));
    TRY(config_norm(c, s));
    TRY(json_get_bool(c->json, c->where, "use_linear_projection", false, &s->linear_proj, c->err));
    for (int i = 0; i < s->levels; i++)
        s->depth[i] = 1;
    s->mid_attn = true;
    TRY(first_frame_config(c, s));
    return config_channels(c, s);
}

/* The inference settings that were published with the model. */
static int shape(const FolderConfigs *configs, UnetShape *out, RunDefaults *run, gimbal_error *err)
{
    enum { TRAINED = 256, FRAMES = 1024 };
    const Config unet = {configs->unet, configs->unet_where, err};
    UnetShape s = {0};
    int size[2], frames;
    TRY(unet_config(&unet, &s));
    TRY(unet_check(&s, unet.where, NULL, err));
    TRY(config_sample_size(&unet, 64, size));
    TRY(json_get_int(unet.json, unet.where, "n_frames", 8, 1, FRAMES, &frames, err));
    *run = (RunDefaults){.frames = frames,
                         .width = MIN(8 * size[1], TRAINED),
                         .height = MIN(8 * size[0], TRAINED),
                         .steps = 50,
                         .cfg = 7.5,
                         .fps = 8,
                         .frame_stride = s.stride ? 3 : 0,
                         .noise = "mixed:alpha=1",
                         .reinit = s.given ? "frameinit:level=850,filter=gaussian,ds=0.25,dt=0.25" : NULL};
    *out = s;
    return GIMBAL_OK;
}

/* What the published file carries and its network never reads. */
static const char *const dead[] = {"*.conv3ds.*.time_emb_proj.*",
                                   "*.rotary_bias.relative_attention_bias.weight", "*.pos_enc.dummy", NULL},
                         *const nothing[] = {NULL},
                         /* of an image model: its U-Net has the layers over space, and no more */
                             *const added[] = {"*.conv3ds.*", "*.tempo_attns.*", "frame_stride_embedding.*",
                                               "*.first_frame_conv.*", NULL};

const Family family_consisti2v = {
    .name = "consisti2v",
    .help = "ConsistI2V: a picture and a prompt become a clip that begins with the picture",
    .source = "Ren et al., ConsistI2V: Enhancing Visual Consistency for Image-to-Video Generation, TMLR 2024",
    .unet_class = "VideoLDMUNet3DConditionModel",
    .shape = shape,
    .unet_ignore = dead,
    .motion_ignore = nothing,
    .unet_fresh = added,
};
