/* t_families.c: which configs are accepted and which are refused, by file and key. A base config of each part
 * is changed in one key at a time. What is accepted although it says something unusual is what diffusers'
 * AnimateDiff ignores: the values of t_model.c's networks show that the numbers stay right. */
#include "model/model.h"
#include "tests/check.h"

static const char *const unet_base =
    "{\"_class_name\": \"UNet2DConditionModel\", \"block_out_channels\": [32, 64], \"layers_per_block\": 1,"
    "\"norm_num_groups\": 8, \"attention_head_dim\": 4, \"cross_attention_dim\": 12, \"sample_size\": 8,"
    "\"down_block_types\": [\"CrossAttnDownBlock2D\", \"DownBlock2D\"],"
    "\"up_block_types\": [\"UpBlock2D\", \"CrossAttnUpBlock2D\"]}";
static const char *const motion_base =
    "{\"_class_name\": \"MotionAdapter\", \"block_out_channels\": [32, 64],"
    "\"motion_layers_per_block\": 1, \"motion_max_seq_length\": 24}";
static const char *const vae_base =
    "{\"block_out_channels\": [8, 16], \"norm_num_groups\": 4, \"up_block_types\": [\"UpDecoderBlock2D\", "
    "\"UpDecoderBlock2D\"], \"down_block_types\": [\"DownEncoderBlock2D\", \"DownEncoderBlock2D\"]}";

typedef struct {
    const char *key, *value; /* JSON; NULL: the key is removed */
    const char *says;        /* beside file and key; NULL: accepted */
} Change;

static json_t *changed(const char *base, const char *key, const char *value)
{
    json_error_t e;
    json_t *j = json_loads(base, 0, &e);
    check(j != NULL, "%s: %s", base, e.text);
    if (key && value)
        json_object_set_new(j, key, json_loads(value, JSON_DECODE_ANY, &e));
    else if (key)
        json_object_del(j, key);
    return j;
}

static int shape_of(const char *unet, const char *motion, const Change *u, const Change *m, UnetShape *shape,
                    RunDefaults *run, gimbal_error *err)
{
    json_t *a = changed(unet, u ? u->key : NULL, u ? u->value : NULL),
           *b = changed(motion, m ? m->key : NULL, m ? m->value : NULL);
    const FolderConfigs configs = {
        .unet = a, .motion = b, .unet_where = "M/unet.json", .motion_where = "A/motion.json"};
    const Family *family;
    int code = family_find(&family, &configs, err);
    code = code ? code : family->shape(&configs, shape, run, err);
    json_decref(a), json_decref(b);
    return code;
}

static void check_outcome(const Change *c, int code, gimbal_error *err, const char *file)
{
    if (!c->says) {
        check(code == GIMBAL_OK, "\"%s\": %s is accepted: %.300s", c->key, c->value, err->msg);
        return;
    }
    check(code == GIMBAL_EMODEL || code == GIMBAL_EFORMAT, "\"%s\": %s is refused", c->key,
          c->value ? c->value : "absent");
    check(strstr(err->msg, file) && strstr(err->msg, c->key) && strstr(err->msg, c->says),
          "%.300s names %s, %s and \"%s\"", err->msg, file, c->key, c->says);
}

static const Change unet_changes[] = {
    {"act_fn", "\"gelu\"", "gelu"},
    {"act_fn", "\"swish\"", NULL},
    {"mid_block_type", "\"UNetMidBlock2D\"", "UNetMidBlock2D"},
    {"mid_block_type", "null", "null"},
    {"downsample_padding", "0", "0"},
    {"mid_block_scale_factor", "2.0", "2"},
    {"mid_block_scale_factor", "1.0", NULL},
    {"conv_in_kernel", "1", "1"},
    {"conv_out_kernel", "5", "5"},
    {"center_input_sample", "true", "true"},
    {"dual_cross_attention", "true", "true"},
    {"attention_type", "\"gated\"", "gated"},
    {"num_attention_heads", "4", "4"},
    {"num_attention_heads", "null", NULL},
    {"cross_attention_norm", "\"layer_norm\"", "layer_norm"},
    {"reverse_transformer_layers_per_block", "[1, 1]", "[1,1]"},
    {"transformer_layers_per_block", "[[1], 1]", "[[1],1]"},
    {"transformer_layers_per_block", "[2, 3]", NULL},
    {"resnet_time_scale_shift", "\"scale_shift\"", "scale_shift"},
    {"resnet_skip_time_act", "true", "true"},
    {"resnet_out_scale_factor", "0.5", "0.5"},
    {"time_embedding_type", "\"fourier\"", "fourier"},
    {"time_embedding_dim", "100", "128"},
    {"time_embedding_dim", "128", NULL},
    {"time_embedding_dim", "null", NULL},
    {"time_cond_proj_dim", "256", "256"},
    {"encoder_hid_dim", "1024", "1024"},
    {"encoder_hid_dim_type", "\"text_proj\"", "text_proj"},
    {"class_embed_type", "\"timestep\"", "timestep"},
    {"num_class_embeds", "1000", "1000"},
    {"class_embeddings_concat", "true", "true"},
    {"addition_embed_type", "\"text_time\"", "text_time"},
    {"down_block_types", "[\"CrossAttnDownBlock2D\", \"AttnDownBlock2D\"]", "AttnDownBlock2D"},
    {"down_block_types", "[\"CrossAttnDownBlock2D\"]", "1 entries"},
    {"down_block_types", NULL, "4 entries"},
    {"up_block_types", "[\"UpBlock2D\", 7]", "not a name"},
    {"block_out_channels", "[32, 60]", "multiple"},
    {"block_out_channels", "[]", "1 to 8"},
    {"block_out_channels", "[32, -64]", "-64"},
    {"block_out_channels", "[8,8,8,8,8,8,8,8,8]", "at most 8"},
    {"block_out_channels", "\"32\"", "32"},
    {"norm_num_groups", "0", "0"},
    {"norm_num_groups", "null", "null"},
    {"norm_eps", "-1", "-1"},
    {"layers_per_block", "[1, 2, 3]", "3 entries"},
    {"layers_per_block", "0", "0"},
    {"layers_per_block", "9", "1 to 8"},
    {"attention_head_dim", "5", "divisor"},
    {"attention_head_dim", "[4, 5]", "divisor"}, /* the mid block attends on the last level */
    {"attention_head_dim", "[2, 64]", NULL},
    {"attention_head_dim", "null", "null"},
    {"attention_head_dim", "2.5", "2.5"},
    {"cross_attention_dim", "[12, 24]", "24"},
    {"cross_attention_dim", "[12, 12]", NULL},
    {"in_channels", "9", "out_channels"},
    {"sample_size", "[8]", "[height, width]"},
    {"sample_size", "-8", "1 to 4096"},
    {"sample_size", "[8, 12]", NULL},
    {"sample_size", "null", NULL},
    {"upcast_attention", "true", NULL},
    {"only_cross_attention", "true", NULL},
    {"flip_sin_to_cos", "false", NULL},
    {"freq_shift", "1", NULL},
    {"dropout", "0.1", NULL},
    {"use_linear_projection", "1", "1"},
    {"some_key_of_tomorrow", "[1, 2]", NULL},
};

static void unet_configs_are_refused_by_file_and_key(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT(unet_changes); i++) {
        gimbal_error err = {0};
        UnetShape shape;
        RunDefaults run;
        const int code = shape_of(unet_base, motion_base, &unet_changes[i], NULL, &shape, &run, &err);
        check_outcome(&unet_changes[i], code, &err, "M/unet.json");
    }
}

static const Change motion_changes[] = {
    {"_class_name", "\"UNetMotionModel\"", "UNetMotionModel"},
    {"conv_in_channels", "9", "9"},
    {"conv_in_channels", "null", NULL},
    {"block_out_channels", "[32, 128]", "[32, 64]"},
    {"block_out_channels", NULL, "320"},
    {"motion_layers_per_block", "[1, 2]", "[1, 1]"},
    {"motion_layers_per_block", NULL, "[2, 2]"},
    {"motion_num_attention_heads", "3", "divisor"},
    {"motion_num_attention_heads", "[4, 16]", NULL},
    {"motion_num_attention_heads", "[4]", "1 entries"},
    {"motion_transformer_layers_per_block", "[2, 1]", NULL},
    {"motion_transformer_layers_per_block", "[[1, 1], [1]]", "[[1,1],[1]]"},
    {"motion_transformer_layers_per_mid_block", "[2]", NULL},
    {"motion_transformer_layers_per_mid_block", "[1, 1]", "[1,1]"},
    {"motion_transformer_layers_per_mid_block", "0", "1 to"},
    {"motion_mid_block_layers_per_block", "2", "2"},
    {"motion_max_seq_length", "0", "0"},
    {"motion_max_seq_length", "1000000", "1 to"},
    {"use_motion_mid_block", "\"no\"", "no"},
    {"motion_norm_num_groups", "5", NULL},
    {"motion_activation_fn", "\"geglu\"", NULL},
};

static void motion_adapter_configs_are_refused_by_file_and_key(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT(motion_changes); i++) {
        gimbal_error err = {0};
        UnetShape shape;
        RunDefaults run;
        const int code = shape_of(unet_base, motion_base, NULL, &motion_changes[i], &shape, &run, &err);
        check_outcome(&motion_changes[i], code, &err, "A/motion.json");
    }
}

static const Change vae_changes[] = {
    {"_class_name", "\"AutoencoderTiny\"", "AutoencoderTiny"},
    {"act_fn", "\"relu\"", "relu"},
    {"out_channels", "4", "4"},
    {"shift_factor", "0.1", "0.1"},
    {"shift_factor", "null", NULL},
    {"latents_mean", "[0.1, 0.2, 0.3, 0.4]", "0.1"},
    {"latents_std", "[1, 1, 1, 1]", "[1,1,1,1]"},
    {"up_block_types", "[\"UpDecoderBlock2D\", \"AttnUpDecoderBlock2D\"]", "AttnUpDecoderBlock2D"},
    {"up_block_types", "[\"UpDecoderBlock2D\"]", "list of 2"},
    {"down_block_types", NULL, "list of 2"},
    {"block_out_channels", "[8, 18]", "multiple"},
    {"block_out_channels", "[]", "empty"},
    {"layers_per_block", "100", "1 to 8"},
    {"scaling_factor", "0", "positive"},
    {"scaling_factor", "null", "null"},
    {"latent_channels", "16", NULL},
    {"force_upcast", "false", NULL},
    {"sample_size", "[64, 64]", NULL},
};

static void vae_configs_are_refused_by_file_and_key(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT(vae_changes); i++) {
        gimbal_error err = {0};
        Arena keep = {0};
        Vae *vae;
        json_t *j = changed(vae_base, vae_changes[i].key, vae_changes[i].value);
        check_outcome(&vae_changes[i], vae_build(&vae, &keep, j, "M/vae.json", &err), &err, "M/vae.json");
        json_decref(j), arena_free(&keep);
    }
}

static const Change text_changes[] = {
    {"hidden_act", "\"gelu_new\"", "gelu_new"},
    {"hidden_act", "\"gelu\"", NULL},
    {"model_type", "\"t5\"", "t5"},
    {"num_attention_heads", "7", "divisor"},
    {"num_hidden_layers", "0", "1 to"},
    {"layer_norm_eps", "2", "between"},
    {"vocab_size", "99999999999", "99999999999"},
    {"projection_dim", "7", NULL},
    {"max_position_embeddings", "\"77\"", "77"},
};

static void text_encoder_configs_are_refused_by_file_and_key(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT(text_changes); i++) {
        gimbal_error err = {0};
        Arena keep = {0};
        ClipText *clip;
        json_t *j = changed("{}", text_changes[i].key, text_changes[i].value);
        check_outcome(&text_changes[i], clip_build(&clip, &keep, j, "M/text.json", &err), &err,
                      "M/text.json");
        json_decref(j), arena_free(&keep);
    }
}

static void defaults_come_from_the_configs(void **state)
{
    (void)state;
    gimbal_error err = {0};
    UnetShape shape;
    RunDefaults run;
    const Change wide = {"sample_size", "[8, 12]", NULL}, none = {"sample_size", NULL, NULL},
                 few = {"motion_max_seq_length", "9", NULL};
    check_ok(shape_of(unet_base, motion_base, &wide, &few, &shape, &run, &err), err);
    check(run.width == 96 && run.height == 64 && run.frames == 9, "%d x %d, %d frames", run.width, run.height,
          run.frames);
    check(shape.max_frames == 9 && shape.motion && shape.motion_mid, "the adapter's numbers");
    check_ok(shape_of(unet_base, motion_base, &none, NULL, &shape, &run, &err), err);
    check(run.width == 512 && run.frames == 16 && run.steps == 25, "SD's size when none is given");
}

static void unknown_families_say_what_is_known_and_adapters_may_be_missing(void **state)
{
    (void)state;
    gimbal_error err = {0};
    UnetShape shape;
    RunDefaults run;
    const Change other = {"_class_name", "\"UNetSpatioTemporalConditionModel\"", NULL},
                 gone = {"_class_name", NULL, NULL};
    check_fails(shape_of(unet_base, motion_base, &other, NULL, &shape, &run, &err), GIMBAL_EMODEL, err,
                "UNet2DConditionModel (animatediff), UNet3DConditionModel (modelscope)");
    check_fails(shape_of(unet_base, motion_base, &gone, NULL, &shape, &run, &err), GIMBAL_EMODEL, err,
                "absent");

    json_t *unet = changed(unet_base, "_class_name", NULL),
           *index = json_pack("{s:[ss]}", "unet", "diffusers", "UNet2DConditionModel");
    const FolderConfigs configs = {.index = index, .unet = unet, .unet_where = "M/unet.json"};
    const Family *family;
    check_ok(family_find(&family, &configs, &err), err);
    check_ok(family->shape(&configs, &shape, &run, &err), err);
    check(!shape.motion && run.frames == 16, "without an adapter the image model alone is described");
    json_decref(unet), json_decref(index);
    for (int i = 0; family_at(i); i++)
        check(family_at(i)->name && family_at(i)->help && family_at(i)->source && family_at(i)->shape,
              "family %d is whole", i);
    check(!family_at(-1), "no family before the first");
}

TESTS(unet_configs_are_refused_by_file_and_key, motion_adapter_configs_are_refused_by_file_and_key,
      vae_configs_are_refused_by_file_and_key, text_encoder_configs_are_refused_by_file_and_key,
      defaults_come_from_the_configs, unknown_families_say_what_is_known_and_adapters_may_be_missing)
