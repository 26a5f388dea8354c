/* bench_configs.c: the configs of published models, as data: shapes of real size without a download.
 *
 *     animatediff-sd15      Stable Diffusion 1.5 with the second motion adapter (a module in the mid block)
 *     animatediff-sd15-v3   the same with the third, which has none there
 *     modelscope            ModelScope text-to-video, 1.7 billion parameters
 *     consisti2v            ConsistI2V, 1.2 billion in the U-Net: a clip that begins with a picture
 *     sd21                  Stable Diffusion 2.1: an image model, its frames are pictures of a batch
 *
 * Keys are those that diffusers and transformers need to build the same networks; a key left out has its
 * constructor's default. Refuses to know what the numbers mean. */
#include "diffusion/bench.h"

#include <string.h>

#define JSON(...) #__VA_ARGS__ /* JSON as it is written in a file */
#undef true                    /* words of JSON below */
#undef false

// clang-format off
#define SD15_UNET JSON({ \
    "_class_name": "UNet2DConditionModel", "act_fn": "silu", "attention_head_dim": 8, \
    "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false, "cross_attention_dim": 768, \
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", \
    "DownBlock2D"], \
    "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4, \
    "layers_per_block": 2, \
    "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, \
    "sample_size": 64, \
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]})

#define SD21_UNET JSON({ \
    "_class_name": "UNet2DConditionModel", "act_fn": "silu", "attention_head_dim": [5, 10, 20, 20], \
    "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false, "cross_attention_dim": 1024, \
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", \
    "DownBlock2D"], \
    "downsample_padding": 1, "dual_cross_attention": false, "flip_sin_to_cos": true, "freq_shift": 0, \
    "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-05, \
    "norm_num_groups": 32, "only_cross_attention": false, "out_channels": 4, "sample_size": 96, \
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"], \
    "use_linear_projection": true})

#define MODELSCOPE_UNET JSON({ \
    "_class_name": "UNet3DConditionModel", "act_fn": "silu", "attention_head_dim": 64, \
    "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 1024, \
    "down_block_types": ["CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "CrossAttnDownBlock3D", \
    "DownBlock3D"], \
    "downsample_padding": 1, "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1, \
    "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 32, \
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"]})

#define CONSISTI2V_UNET JSON({ \
    "_class_name": "VideoLDMUNet3DConditionModel", "act_fn": "silu", "attention_head_dim": [5, 10, 20, 20], \
    "augment_temporal_attention": true, "block_out_channels": [320, 640, 1280, 1280], \
    "cross_attention_dim": 1024, \
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", \
    "DownBlock2D"], \
    "first_frame_condition_mode": "concat", "in_channels": 4, "layers_per_block": 2, "n_frames": 16, \
    "n_temp_heads": 8, "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64, \
    "temp_pos_embedding": "rotary", \
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"], \
    "use_frame_stride_condition": true, "use_linear_projection": true, "use_temporal": true})

#define MOTION(mid) JSON({ \
    "_class_name": "MotionAdapter", "block_out_channels": [320, 640, 1280, 1280], \
    "motion_layers_per_block": 2, \
    "motion_max_seq_length": 32, "motion_mid_block_layers_per_block": 1, "motion_norm_num_groups": 32, \
    "motion_num_attention_heads": 8, "use_motion_mid_block": mid})

#define VAE JSON({ \
    "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [128, 256, 512, 512], \
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", \
    "DownEncoderBlock2D"], \
    "in_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3, \
    "sample_size": 512, "scaling_factor": 0.18215, \
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]})

#define CLIP_L JSON({ \
    "architectures": ["CLIPTextModel"], "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "quick_gelu", \
    "hidden_size": 768, "intermediate_size": 3072, "layer_norm_eps": 1e-05, "max_position_embeddings": 77, \
    "model_type": "clip_text_model", "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1, \
    "projection_dim": 768, "vocab_size": 49408})

#define CLIP_H JSON({ \
    "architectures": ["CLIPTextModel"], "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "gelu", \
    "hidden_size": 1024, "intermediate_size": 4096, "layer_norm_eps": 1e-05, "max_position_embeddings": 77, \
    "model_type": "clip_text_model", "num_attention_heads": 16, "num_hidden_layers": 23, "pad_token_id": 1, \
    "projection_dim": 512, "vocab_size": 49408})

#define DDIM(betas, prediction, one) JSON({ \
    "_class_name": "DDIMScheduler", "beta_end": 0.012, "beta_schedule": betas, "beta_start": 0.00085, \
    "clip_sample": false, "num_train_timesteps": 1000, "prediction_type": prediction, \
    "set_alpha_to_one": one, \
    "steps_offset": 1, "timestep_spacing": "leading"})

#define PARTS \
    "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"], \
    "tokenizer": ["transformers", "CLIPTokenizer"], "vae": ["diffusers", "AutoencoderKL"]
#define INDEX(...) JSON({__VA_ARGS__})
#define ANIMATEDIFF_INDEX INDEX("_class_name": "AnimateDiffPipeline", "feature_extractor": [null, null], \
    "image_encoder": [null, null], "motion_adapter": ["diffusers", "MotionAdapter"], \
    "unet": ["diffusers", "UNet2DConditionModel"], PARTS)
#define MODELSCOPE_INDEX INDEX("_class_name": "TextToVideoSDPipeline", \
    "unet": ["diffusers", "UNet3DConditionModel"], PARTS)
#define CONSISTI2V_INDEX INDEX("_class_name": "ConditionalAnimationPipeline", \
    "unet": ["models", "VideoLDMUNet3DConditionModel"], PARTS)
#define SD_INDEX INDEX("_class_name": "StableDiffusionPipeline", "feature_extractor": [null, null], \
    "image_encoder": [null, null], "requires_safety_checker": false, "safety_checker": [null, null], \
    "unet": ["diffusers", "UNet2DConditionModel"], PARTS)
// clang-format on

static const BenchModel models[] = {
    {"animatediff-sd15", "Stable Diffusion 1.5 with AnimateDiff's second motion adapter", "animatediff",
     ANIMATEDIFF_INDEX, SD15_UNET, MOTION(true), VAE, CLIP_L, DDIM("linear", "epsilon", true),
     "<|endoftext|>"},
    {"animatediff-sd15-v3", "the same with the third adapter, whose mid block has no motion", "animatediff",
     ANIMATEDIFF_INDEX, SD15_UNET, MOTION(false), VAE, CLIP_L, DDIM("linear", "epsilon", true),
     "<|endoftext|>"},
    {"modelscope", "ModelScope text-to-video, 1.7 billion parameters", "modelscope", MODELSCOPE_INDEX,
     MODELSCOPE_UNET, NULL, VAE, CLIP_H, DDIM("scaled_linear", "epsilon", false), "!"},
    {"consisti2v", "ConsistI2V, 1.2 billion parameters: begins with a picture", "consisti2v",
     CONSISTI2V_INDEX, CONSISTI2V_UNET, NULL, VAE, CLIP_H, DDIM("linear", "epsilon", true), "!"},
    {"sd21", "Stable Diffusion 2.1, an image model: frames are a batch of pictures", "animatediff", SD_INDEX,
     SD21_UNET, NULL, VAE, CLIP_H, DDIM("scaled_linear", "v_prediction", false), "!"},
};

static const char *const names[] = {GIMBAL_BENCH_FAMILIES, NULL};
_Static_assert(COUNT(names) == COUNT(models) + 1, "GIMBAL_BENCH_FAMILIES and this table are one list");

const BenchModel *bench_model_at(int i)
{
    return i >= 0 && i < COUNT(models) ? &models[i] : NULL;
}

int bench_model_find(const BenchModel **out, const char *name, gimbal_error *err)
{
    const gimbal_option choice[] = {{.name = "family", .type = GIMBAL_CHOICE, .choices = names},
                                    {.name = NULL}};
    const char *chosen;
    TRY(gimbal_set(choice, &chosen, "family", name ? name : "", "--", err));
    for (int i = 0; i < COUNT(models); i++)
        if (!strcmp(models[i].name, chosen))
            *out = &models[i];
    return GIMBAL_OK;
}
