#!/usr/bin/env python3
"""Makes the goldens beside this file:  make.py [FOLDER]

Three sets of small networks with unusual configs, random weights, an input and the outputs of many modules, computed in
float32 by PyTorch 2.15, diffusers 0.33.1 and transformers 4.57.6. Nothing in the project runs this; it says where the
numbers come from. Each NAME/ has unet, motion, vae and text in diffusers' layout and acts.safetensors: x [B,C,F,h,w],
t [B], context [B,L,D], ids [1,L], z [N,C,h,w], and act.PART.MODULE as PyTorch lays them out."""
import math, os, re, shutil, sys
import torch
from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

CROSS, PLAIN, UP_CROSS, UP = "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"
coder = lambda n: dict(down_block_types=["DownEncoderBlock2D"] * n, up_block_types=["UpDecoderBlock2D"] * n)
CASES = {
    "lists": dict(
        seed=21, stored=torch.float16, clips=2, frames=5, size=(9, 13), tokens=11, t=981.0, z=(3, 4, 3, 5),
        unet=dict(block_out_channels=[8, 12, 16], down_block_types=[PLAIN, CROSS, CROSS], up_block_types=[UP_CROSS, UP_CROSS, UP],
                  layers_per_block=[1, 2, 1], attention_head_dim=[2, 3, 4], transformer_layers_per_block=[1, 2, 1],
                  use_linear_projection=True, norm_num_groups=4, norm_eps=1e-4, cross_attention_dim=12, sample_size=[9, 13]),
        motion=dict(block_out_channels=[8, 12, 16], motion_layers_per_block=[1, 2, 1], motion_num_attention_heads=[2, 6, 1],
                    motion_transformer_layers_per_block=[1, 2, 1], motion_max_seq_length=7, use_motion_mid_block=False,
                    motion_norm_num_groups=2),
        vae=dict(block_out_channels=[8, 12, 16], layers_per_block=2, norm_num_groups=4, mid_block_add_attention=False,
                 scaling_factor=0.5, **coder(3)),
        text=dict(vocab_size=50, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=3,
                  max_position_embeddings=11, hidden_act="gelu", layer_norm_eps=1e-4)),
    "single": dict(
        seed=22, stored=torch.float32, clips=1, frames=6, size=(1, 7), tokens=3, t=37.5, z=(2, 6, 7, 4), tables=False,
        unet=dict(block_out_channels=[8], down_block_types=[CROSS], up_block_types=[UP_CROSS], layers_per_block=2,
                  attention_head_dim=4, transformer_layers_per_block=2, norm_num_groups=2, cross_attention_dim=[10],
                  sample_size=None, in_channels=6, out_channels=6, flip_sin_to_cos=False, freq_shift=1, upcast_attention=True),
        motion=dict(block_out_channels=[8], motion_layers_per_block=2, motion_num_attention_heads=2, motion_max_seq_length=6,
                    motion_transformer_layers_per_mid_block=[2], motion_norm_num_groups=4),
        vae=dict(block_out_channels=[12], layers_per_block=1, norm_num_groups=3, latent_channels=6, use_post_quant_conv=False,
                 use_quant_conv=False, **coder(1)),
        text=dict(vocab_size=20, hidden_size=10, intermediate_size=12, num_hidden_layers=1, num_attention_heads=1,
                  max_position_embeddings=3)),
    "deep": dict(
        seed=23, stored=torch.bfloat16, clips=2, frames=1, size=(5, 3), tokens=4, t=1.0, z=(1, 4, 1, 2),
        unet=dict(block_out_channels=[8, 8, 16, 16], down_block_types=[CROSS, PLAIN, CROSS, PLAIN],
                  up_block_types=[UP, UP_CROSS, UP, UP_CROSS], layers_per_block=1, attention_head_dim=2, norm_num_groups=8,
                  cross_attention_dim=6),
        motion=dict(block_out_channels=[8, 8, 16, 16], motion_layers_per_block=1, motion_num_attention_heads=1,
                    motion_max_seq_length=2, motion_norm_num_groups=2),
        vae=dict(block_out_channels=[4, 8], layers_per_block=1, norm_num_groups=2, **coder(2)),
        text=dict(vocab_size=20, hidden_size=6, intermediate_size=30, num_hidden_layers=2, num_attention_heads=2,
                  max_position_embeddings=4)),
}
STREAM = ("conv_in", "conv2", "proj_in", "to_out", "ff.net.2", "out_proj", "fc2", "quant_conv")
SEEN = dict(text=r"text_model\.(embeddings|encoder\.layers\.\d+)",
            unet=r"conv_in|time_embedding|mid_block|(down|up)_blocks\.\d+(\.(resnets|attentions|motion_modules)\.0)?",
            vae=r"post_quant_conv|decoder(\.conv_in|\.mid_block|\.up_blocks\.\d+)?")


def randomize(module, seed, stored):
    """Unit-gain matrices, uneven norms, and a residual stream small enough for a wrong epsilon to show."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            r = torch.randn(p.shape, generator=g) * (0.06 if any(s in name for s in STREAM) and "norm" not in name else 1.0)
            if name.endswith("embedding.weight"):
                p.copy_(r)
            elif p.ndim == 1:
                p.copy_(0.1 * r if name.endswith("bias") else 1 + 0.25 * r)
            else:
                p.copy_(r / math.sqrt(p[0].numel()))
    return module.eval().to(stored)


def watch(part, module, out):
    def hook(name):
        def keep(_, args, o):
            out[f"act.{part}.{name}"] = (o if torch.is_tensor(o) else o[0]).detach().clone()
        return keep
    for name, m in module.named_modules():
        if re.fullmatch(SEEN[part], name):
            m.register_forward_hook(hook(name))


def make(folder, c):
    shutil.rmtree(folder, ignore_errors=True)
    new = lambda cls, part, i: randomize(cls(CLIPTextConfig(**c[part])) if part == "text" else cls(**c[part]), 100 * c["seed"] + i, c["stored"])
    parts = dict(unet=new(UNet2DConditionModel, "unet", 0), motion=new(MotionAdapter, "motion", 9),
                 vae=new(AutoencoderKL, "vae", 1), text=new(CLIPTextModel, "text", 2))
    for name, m in parts.items():
        m.save_pretrained(f"{folder}/{name}")
        m.float()
    if not c.get("tables", True):
        path = f"{folder}/motion/diffusion_pytorch_model.safetensors"
        save_file({k: v for k, v in load_file(path).items() if not k.endswith(".pe")}, path)
    net = UNetMotionModel.from_unet2d(parts["unet"], parts["motion"]).eval()
    out, g = {}, torch.Generator().manual_seed(c["seed"])
    for part, m in (("unet", net), ("vae", parts["vae"]), ("text", parts["text"])):
        watch(part, m, out)
    width = next(m.to_k.in_features for n, m in net.named_modules() if n.endswith("attn2") and "motion" not in n)
    x = torch.randn((c["clips"], net.config.in_channels, c["frames"], *c["size"]), generator=g)
    t = torch.full((c["clips"],), c["t"])
    ids = torch.randint(0, c["text"]["vocab_size"], (1, c["tokens"]), generator=g)
    z = torch.randn(c["z"], generator=g)
    context = torch.randn((c["clips"], c["tokens"], width), generator=g)
    with torch.no_grad():
        out["act.unet.unet"] = net(x, t, context.repeat_interleave(c["frames"], 0)).sample
        out["act.text.text_model"] = parts["text"](ids)[0]
        parts["vae"].decode(z)
    out.update(x=x, t=t, ids=ids.int(), z=z, context=context)
    save_file({k: v.contiguous() for k, v in out.items()}, f"{folder}/acts.safetensors")


if __name__ == "__main__":
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    torch.set_num_threads(1)
    for case, config in CASES.items():
        make(f"{root}/{case}", config)
    for d, _, files in os.walk(root):
        for f in files:
            if f.endswith((".safetensors", ".json")):
                os.chmod(os.path.join(d, f), 0o644)
