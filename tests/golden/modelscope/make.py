#!/usr/bin/env python3
"""Makes the goldens beside this file:  make.py [FOLDER]

ModelScope's U-Net where the goldens one level up do not go: FreeInit around TextToVideoSDPipeline (FreeInitMixin's own
functions; no pipeline of diffusers offers it), an old folder with bfloat16 weights and old names, heads that do not fill
their channels, odd frame counts, sizes that do not halve. PyTorch 2.15, diffusers 0.33.1, transformers 4.57.6, one thread.
Nothing in the project runs this; it says where the numbers come from.

    manifest.json    the runs, in the form of ../manifest.json, paths relative to this folder
    models/old       a whole model, small; ../models/modelscope-tiny serves the other runs
    runs/            NAME.in: latents, passN; NAME.out: ids, context, passP.stepK, latents, latents_exact (float64), frames_u8
    unets/NAME       one U-Net call: x [B,C,F,h,w], t [B], context [B,L,D], act.unet.MODULE (old: of models/old)
"""
import glob, json, math, os, re, shutil, sys
import torch
import diffusers
from diffusers import AutoencoderKL, DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel
from diffusers.pipelines import free_init_utils
from diffusers.pipelines.free_init_utils import FreeInitMixin
from diffusers.pipelines.text_to_video_synthesis import pipeline_text_to_video_synth
from diffusers.schedulers import scheduling_ddim
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CROSS, PLAIN, UP_CROSS, UP = "CrossAttnDownBlock3D", "DownBlock3D", "CrossAttnUpBlock3D", "UpBlock3D"
TINY = "../models/modelscope-tiny"
# 16, 24 and 32 channels hold 1, 2 and 2 heads of 12: inner widths 12, 24 and 24
OLD_UNET = dict(block_out_channels=[16, 24, 32], down_block_types=[CROSS, PLAIN, CROSS], up_block_types=[UP_CROSS, UP_CROSS, UP],
                layers_per_block=1, norm_num_groups=8, norm_eps=1e-4, cross_attention_dim=24, attention_head_dim=12, sample_size=7)
SINGLE_UNET = dict(block_out_channels=[8], down_block_types=[CROSS], up_block_types=[UP_CROSS], layers_per_block=2,
                   norm_num_groups=2, cross_attention_dim=10, attention_head_dim=3, in_channels=6, out_channels=6)
OLD_VAE = dict(block_out_channels=[8, 8, 8, 16], layers_per_block=1, norm_num_groups=4, sample_size=56,
               down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4)
OLD_TEXT = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, projection_dim=8,
                max_position_embeddings=77, hidden_act="gelu")
SCHEDULE = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False,
                set_alpha_to_one=False)
BASE = dict(model=TINY, prompt="a dog running, in the rain!", negative="blurry", frames=5, width=72, height=40, steps=3, cfg=9.0,
            eta=0.0, seed=51, passes=1)
RUNS = {
    "ms_old": dict(BASE, model="models/old", frames=3, width=40, height=56, steps=5),
    "ms_freeinit": dict(BASE, passes=2, steps=4),
    "ms_freeinit_eta": dict(BASE, passes=2, eta=0.7, seed=52, frames=3, width=56),
}
STREAM = ("conv_in", "conv2", "conv4", "proj_in", "to_out", "ff.net.2", "out_proj", "fc2", "quant_conv")
SEEN = r"conv_in|transformer_in|time_embedding|mid_block|(down|up)_blocks\.\d+(\.(resnets|temp_convs|attentions|temp_attentions)\.[01])?"


def randomize(module, seed, stored=torch.float32):
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
                p.copy_(r * (0.8 if "conv_out" in name else 1.0) / math.sqrt(p[0].numel()))
    return module.eval().to(stored)


def make_old(folder):
    """As folders of 2023 are: bfloat16, the VAE's attention as query, key, value, proj_attn, position_ids among the text."""
    shutil.copytree(f"{os.path.dirname(folder)}/../{TINY}/tokenizer", f"{folder}/tokenizer", copy_function=shutil.copyfile)
    tok = CLIPTokenizer.from_pretrained(f"{folder}/tokenizer")
    text = CLIPTextModel(CLIPTextConfig(vocab_size=len(tok), bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id,
                                        pad_token_id=tok.pad_token_id, **OLD_TEXT))
    parts = dict(unet=UNet3DConditionModel(**OLD_UNET), vae=AutoencoderKL(**OLD_VAE), text_encoder=text)
    for i, (name, m) in enumerate(parts.items()):
        randomize(m, 700 + i, torch.bfloat16).save_pretrained(f"{folder}/{name}")
    DDIMScheduler(**SCHEDULE).save_pretrained(f"{folder}/scheduler")
    path = f"{folder}/vae/diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    save_file({re.sub(r"\.(to_q|to_k|to_v|to_out\.0)\.", lambda m: f".{old[m[1]]}.", k): v for k, v in load_file(path).items()}, path)
    path = f"{folder}/text_encoder/model.safetensors"
    save_file(load_file(path) | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, path)
    config = json.load(open(f"{folder}/unet/config.json"))
    config.update(use_linear_projection=False, upcast_attention=False, mid_block_type="UNetMidBlock3DCrossAttn")
    json.dump(config, open(f"{folder}/unet/config.json", "w"), indent=2)


def load(folder, dtype):
    get = lambda cls, sub: cls.from_pretrained(f"{folder}/{sub}", torch_dtype=torch.float32, low_cpu_mem_usage=False).eval().to(dtype)
    scheduler = DDIMScheduler.from_pretrained(f"{folder}/scheduler")
    if dtype == torch.float64:
        c = scheduler.config
        beta = torch.linspace(c.beta_start ** 0.5, c.beta_end ** 0.5, c.num_train_timesteps, dtype=dtype) ** 2
        scheduler.alphas_cumprod = torch.cumprod(1 - beta, 0)
        scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    pipe = TextToVideoSDPipeline(get(AutoencoderKL, "vae"), get(CLIPTextModel, "text_encoder"),
                                 CLIPTokenizer.from_pretrained(f"{folder}/tokenizer"), get(UNet3DConditionModel, "unet"), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def exact_features(t, dim, flip_sin_to_cos=False, downscale_freq_shift=1, scale=1, max_period=10000):
    angle = t[:, None].double() * torch.exp(-math.log(max_period) * torch.arange(dim // 2).double() / (dim // 2 - downscale_freq_shift))
    return torch.cat([angle.cos(), angle.sin()] if flip_sin_to_cos else [angle.sin(), angle.cos()], -1)


def sample(run, folder, dtype):
    """All passes; float32 draws whatever the type of the run."""
    torch.set_default_dtype(dtype)
    pipe, out, draws, mixin = load(folder, dtype), {}, [], FreeInitMixin()
    g = torch.Generator().manual_seed(run["seed"])

    def draw(shape, generator=None, device=None, dtype=None, layout=None):
        draws.append(torch.randn(shape, generator=generator, dtype=torch.float32))
        return draws[-1].to(pipe.unet.dtype)

    hosts = (free_init_utils, pipeline_text_to_video_synth, scheduling_ddim)
    saved, features = [h.randn_tensor for h in hosts], diffusers.models.embeddings.get_timestep_embedding
    for h in hosts:
        h.randn_tensor = draw
    if dtype == torch.float64:
        diffusers.models.embeddings.get_timestep_embedding = exact_features
    mixin.scheduler = pipe.scheduler
    mixin.enable_free_init(num_iters=run["passes"])
    latents = draw((1, 4, run["frames"], run["height"] // 8, run["width"] // 8), g)
    for p in range(run["passes"]):
        latents, times = mixin._apply_free_init(latents, p, run["steps"], "cpu", latents.dtype, g)
        if p:
            out[f"draw.pass{p}"] = draws[-1]
        out[f"pass{p}.timesteps"] = times.float()
        step = lambda i, t, x: out.update({f"pass{p}.step{i}": x.clone()})
        latents = pipe(run["prompt"], run["height"], run["width"], run["frames"], run["steps"], run["cfg"], run["negative"], run["eta"],
                       g, latents, output_type="latent", callback=step).frames
    for h, f in zip(hosts, saved):
        h.randn_tensor = f
    diffusers.models.embeddings.get_timestep_embedding = features
    with torch.no_grad():
        frames = pipe.video_processor.postprocess_video(pipe.decode_latents(latents), output_type="np")[0]
        for key in ("", "neg_"):
            text = run["negative" if key else "prompt"]
            out[key + "ids"] = pipe.tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
            out[key + "context"] = pipe.text_encoder(out[key + "ids"])[0]
    torch.set_default_dtype(torch.float32)
    out.update({"draw.latents": draws[0], "latents": latents, "frames_u8": torch.from_numpy((frames * 255).round().astype("uint8"))})
    return out


def make_run(name, run, root):
    folder = f"{root}/{run['model']}"
    f32, f64 = sample(run, folder, torch.float32), sample(run, folder, torch.float64)
    f32["latents_exact"] = f64["latents"].float()
    distance = float((f32["latents"] - f64["latents"]).norm() / f64["latents"].norm())
    f32 = {k: v.contiguous() for k, v in f32.items()}
    save_file({k[5:]: f32.pop(k) for k in list(f32) if k.startswith("draw.")}, f"{root}/runs/{name}.in.safetensors")
    save_file(f32, f"{root}/runs/{name}.out.safetensors")
    args = ["generate", "--model", run["model"]]
    for key in ("prompt", "negative", "frames", "width", "height", "steps", "cfg", "eta", "seed"):
        args += [f"--{key}", str(run[key])]
    args += ["--sampler", "ddim", "--spacing", "leading", "--rng", "torch", "--noise", "white"]
    if run["passes"] > 1:
        args += ["--reinit", f"freeinit:passes={run['passes']},filter=butterworth,order=4,ds=0.25,dt=0.25,fast=0,compat=1"]
    given, noise = list(args), f"runs/{name}.in.safetensors"
    if not run["eta"]:  # step noise cannot be given
        given += ["--latents", noise] + (["--reinit-noise", noise] if run["passes"] > 1 else [])
    print(name, f"float32 against float64: {distance:.1e}, std {float(f32['latents'].std()):.3f}")
    return dict(args=given, args_seed_only=args, rel_rms_f32_vs_f64=distance)


def make_unet(net, path, seed, clips, frames, size, tokens, t):
    out, g = {}, torch.Generator().manual_seed(seed)
    for name, m in net.named_modules():
        if re.fullmatch(SEEN, name):
            keep = lambda _, args, o, name=name: out.update({f"act.unet.{name}": (o if torch.is_tensor(o) else o[0]).detach().clone()})
            m.register_forward_hook(keep)
    x = torch.randn((clips, net.config.in_channels, frames, *size), generator=g)
    context = torch.randn((clips, tokens, net.config.cross_attention_dim), generator=g)
    with torch.no_grad():
        out["act.unet.unet"] = net(x, torch.full((clips,), t), context).sample
    out.update(x=x, t=torch.full((clips,), t), context=context)
    save_file({k: v.contiguous() for k, v in out.items()}, path)


def main(root):
    for d in ("models", "runs", "unets"):
        shutil.rmtree(f"{root}/{d}", ignore_errors=True)
        os.makedirs(f"{root}/{d}")
    make_old(f"{root}/models/old")
    net = UNet3DConditionModel.from_pretrained(f"{root}/models/old/unet", torch_dtype=torch.float32).eval()
    make_unet(net, f"{root}/unets/old.safetensors", 71, clips=2, frames=5, size=(5, 9), tokens=7, t=981.0)
    net = randomize(UNet3DConditionModel(**SINGLE_UNET), 710)
    net.save_pretrained(f"{root}/unets/single")
    make_unet(net, f"{root}/unets/single.safetensors", 72, clips=1, frames=1, size=(1, 7), tokens=3, t=37.5)
    runs = {name: make_run(name, run, root) for name, run in RUNS.items()}
    json.dump(dict(runs=runs), open(f"{root}/manifest.json", "w"), indent=1)
    for path in glob.glob(f"{root}/**/*.safetensors", recursive=True):
        os.chmod(path, 0o644)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__)))
