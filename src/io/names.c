/* names.c: spellings of tensor names that are not the canonical ones (diffusers'). Data, no logic.
 *
 * Renames are for files that we read; foreign spellings only tell a reader what file he has. Refuses to know
 * shapes and models. */
#include "io/io.h"

#include <string.h>

/* Until diffusers 0.17 the VAE's attention was spelled so; Stable Diffusion 1.5's own VAE still is. Its 4
 * matrices may be [C,C] or [C,C,1,1]. */
const Rename old_diffusers_names[] = {
    {".query.", ".to_q."},         {".key.", ".to_k."}, {".value.", ".to_v."},
    {".proj_attn.", ".to_out.0."}, {NULL, NULL},
};

/* Motion modules as AnimateDiff's own files spell them; every rename applies, in this order from canonical
 * names and to them. The file has a module's position table twice: attention 1 carries it too. */
const Rename animatediff_names[] = {
    {".temporal_transformer.norm.", ".norm."},
    {".temporal_transformer.proj_in.", ".proj_in."},
    {".temporal_transformer.proj_out.", ".proj_out."},
    {".temporal_transformer.transformer_blocks.", ".transformer_blocks."},
    {".attention_blocks.0.pos_encoder.", ".pos_embed."},
    {".attention_blocks.0.", ".attn1."},
    {".attention_blocks.1.", ".attn2."},
    {".norms.0.", ".norm1."},
    {".norms.1.", ".norm2."},
    {".ff_norm.", ".norm3."},
    {NULL, NULL},
};

static const struct {
    const char *inside, *is;
} foreign[] = {
    {"lora", "the file looks like a LoRA: not read yet"},
    {"model.diffusion_model.",
     "the file is a single-file checkpoint: not read yet; give a folder in diffusers layout"},
    {"first_stage_model.",
     "the file is a single-file checkpoint: not read yet; give a folder in diffusers layout"},
    {"cond_stage_model.",
     "the file is a single-file checkpoint: not read yet; give a folder in diffusers layout"},
    {"temporal_transformer.",
     "the file has AnimateDiff's original spelling: not read yet; use its diffusers form (MotionAdapter)"},
    {"temporal_attentions.", "the file looks like HotshotXL: not read yet"},
    {"input_blocks.",
     "the file has the original Stable Diffusion spelling: not read yet; use its diffusers form"},
    {"encoder.down.", "the file has the original VAE spelling: not read yet; use its diffusers form"},
    {"double_blocks.", "the file looks like Flux: not read"},
    {"joint_blocks.", "the file looks like Stable Diffusion 3: not read"},
};

const char *foreign_spelling(const char *name)
{
    for (int i = 0; i < COUNT(foreign); i++)
        if (strstr(name, foreign[i].inside))
            return foreign[i].is;
    return NULL;
}
