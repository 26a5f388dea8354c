/* family_modelscope.c: ModelScope text-to-video and its descendants: a UNet3DConditionModel, read as
 * diffusers' TextToVideoSDPipeline runs it.
 *
 * The layers over time are the network's own: a temporal convolution after every ResNet block, attention over
 * time (no positions, so any number of frames) after every attention over space, and once behind conv_in.
 * GroupNorms over time cover the clip, all others a frame. attention_head_dim is the width of a head here: a
 * level has as many heads as fit into its channels, and the attention behind conv_in has 8 whatever its
 * channels are. Every key of the constructor is read below or refused by name; keys that early exports carry
 * besides (use_linear_projection, upcast_attention, class_embed_type, ...) are ignored, as there.
 *
 * Wang et al., ModelScope Text-to-Video Technical Report, 2023. Knows the config. Refuses to know weights,
 * files and schedulers. */
#include "model/model.h"

enum { ENTRY_HEADS = 8 };

/* Keys of UNet3DConditionModel of which one value is implemented. */
static const ConfigRule rules[] = {
    {"act_fn", "\"silu\"|\"swish\""}, {"downsample_padding", "1"},
    {"mid_block_scale_factor", "1"},  {"num_attention_heads", "null"}, /* diffusers refuses it too */
    {"time_cond_proj_dim", "null"},   {NULL, NULL},
};

static int unet_config(const Config *c, UnetShape *s)
{
    int layers;
    TRY(json_refuse(c->json, c->where, rules, c->err));
    TRY(config_widths(c, s->width, &s->levels));
    TRY(config_block_types(c, "down_block_types", "CrossAttnDownBlock3D", "DownBlock3D", 3, s->levels,
                           s->down_attn));
    TRY(config_block_types(c, "up_block_types", "CrossAttnUpBlock3D", "UpBlock3D", 0, s->levels, s->up_attn));
    TRY(json_get_int(c->json, c->where, "layers_per_block", 2, 1, MAX_LAYERS, &layers, c->err));
    TRY(json_get_int(c->json, c->where, "attention_head_dim", 64, 1, CONFIG_WIDTH / ENTRY_HEADS,
                     &s->head_width, c->err));
    TRY(json_get_int(c->json, c->where, "cross_attention_dim", 1024, 1, CONFIG_WIDTH, &s->context, c->err));
    TRY(config_norm(c, s));
    for (int i = 0; i < s->levels; i++)
        s->layers[i] = layers, s->depth[i] = 1;
    s->temporal = s->mid_attn = s->linear_proj = true;
    s->entry_heads = ENTRY_HEADS;
    return config_channels(c, s);
}

static int shape(const FolderConfigs *configs, UnetShape *out, RunDefaults *run, gimbal_error *err)
{
    const Config unet = {configs->unet, configs->unet_where, err};
    UnetShape s = {0};
    int size[2];
    TRY(unet_config(&unet, &s));
    TRY(unet_check(&s, unet.where, NULL, err));
    TRY(config_sample_size(&unet, 32, size));
    *run = (RunDefaults){
        .frames = 16, .width = 8 * size[1], .height = 8 * size[0], .steps = 50, .cfg = 9, .fps = 8};
    *out = s;
    return GIMBAL_OK;
}

static const char *const nothing[] = {NULL};

const Family family_modelscope = {
    .name = "modelscope",
    .help = "ModelScope text-to-video, zeroscope and other models with layers over time of their own",
    .source = "Wang et al., ModelScope Text-to-Video Technical Report, 2023",
    .unet_class = "UNet3DConditionModel",
    .step_by_frame = true,
    .shape = shape,
    .unet_ignore = nothing,
    .motion_ignore = nothing,
};
