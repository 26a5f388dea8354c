#!/usr/bin/env python3
"""Makes the goldens beside this file:  make.py [FOLDER]   (from the top of the checkout, whose models it reads)

Computed in float32 by PyTorch 2.15 and diffusers 0.33.1. Nothing in the project runs this; it says where the numbers
come from.

NAME.safetensors, one for each VAE: x [N,3,H,W] in -1..1 and act.vae.MODULE of the encoder; act.vae.quant_conv are the
moments before clamping (act.vae.encoder where there is no such convolution).

CASE.run.safetensors, a run of AnimateDiffVideoToVideoPipeline: rgb [F,H,W,3] u8, latents of the encoder's mean and of
its sample [1,C,F,h,w] (scaled), noise [1,C,F,h,w] added to them, start [1,C,F,h,w], timesteps, and the result [1,C,F,h,w]."""
import functools, os, re, sys
import numpy as np, torch
from diffusers import AnimateDiffVideoToVideoPipeline, AutoencoderKL, DDIMScheduler, MotionAdapter, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

TINY = "tests/golden/models/animatediff-tiny"
SEEN = r"quant_conv|encoder(\.conv_in|\.mid_block(\.attentions\.0)?|\.down_blocks\.\d+)?"
# sizes that no level halves evenly but in the last two
VAES = {
    "lists": ("tests/golden/shapes/lists/vae", 31, (2, 3, 23, 14)),
    "single": ("tests/golden/shapes/single/vae", 32, (2, 3, 7, 5)),
    "deep": ("tests/golden/shapes/deep/vae", 33, (3, 3, 2, 5)),
    "tiny": (TINY + "/vae", 34, (2, 3, 24, 40)),
    "toyworld": ("models/toyworld/vae", 35, (1, 3, 40, 56)),
}
RUNS = {
    "plain": dict(seed=42, frames=5, size=(72, 40), strength=0.6, steps=5, eta=0.0, cfg=7.5),
    "drawn": dict(seed=7, frames=18, size=(24, 16), strength=0.5, steps=5, eta=1.0, cfg=1.0),  # 18: more than a chunk of 16
}


def scene(frames, width, height, seed):
    """A disc that moves over a slanted checkerboard with a bit of grain: u8 [F,H,W,3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    out = np.empty((frames, height, width, 3), np.uint8)
    for f in range(frames):
        board = (np.floor((x + 0.3 * y) / 7) + np.floor(y / 5)) % 2
        picture = np.stack([60 + 120 * board, 90 + 60 * board, 200 - 3 * y], -1)
        cx, cy, r = width * (0.25 + 0.5 * f / max(frames - 1, 1)), height * 0.45, 0.3 * min(width, height)
        inside = np.clip(r - np.hypot(x - cx, y - cy) + 0.5, 0, 1)[..., None]
        picture = picture * (1 - inside) + np.array([230.0, 40.0, 30.0]) * inside + rng.normal(0, 4, picture.shape)
        out[f] = np.clip(np.rint(picture), 0, 255)
    return out


def vae_acts(path, seed, shape):
    vae = AutoencoderKL.from_pretrained(path).float().eval()
    rgb = scene(shape[0], shape[3], shape[2], seed)
    x = torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 255 * 2 - 1
    out = {"x": x}
    for name, m in vae.named_modules():
        if re.fullmatch(SEEN, name):
            m.register_forward_hook(lambda _, a, o, key="act.vae." + name: out.update({key: o.detach().clone()}))
    with torch.no_grad():
        vae.encode(x)
    return out


def run(c):
    pipe = AnimateDiffVideoToVideoPipeline(
        vae=AutoencoderKL.from_pretrained(TINY + "/vae"), text_encoder=CLIPTextModel.from_pretrained(TINY + "/text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(TINY + "/tokenizer"), unet=UNet2DConditionModel.from_pretrained(TINY + "/unet"),
        motion_adapter=MotionAdapter.from_pretrained(TINY + "-motion"), scheduler=DDIMScheduler.from_pretrained(TINY + "/scheduler"))
    pipe.set_progress_bar_config(disable=True)
    rgb = scene(c["frames"], *c["size"], c["seed"])
    out = {"rgb": torch.from_numpy(rgb)}
    to_clip = lambda z: z.permute(1, 0, 2, 3)[None]
    encode_video, add_noise, step = pipe.encode_video, pipe.scheduler.add_noise, pipe.scheduler.step

    def watched_encode(video, generator, decode_chunk_size=16):
        out["mean"] = to_clip(pipe.vae.encode(video).latent_dist.mean) * pipe.vae.config.scaling_factor
        z = encode_video(video, generator, decode_chunk_size)
        out["sample"] = to_clip(z) * pipe.vae.config.scaling_factor
        return z

    def watched_noise(latents, noise, t):
        out["noise"] = noise.permute(0, 2, 1, 3, 4).clone()
        noised = add_noise(latents, noise, t)
        out["start"] = noised.permute(0, 2, 1, 3, 4).clone()
        return noised

    @functools.wraps(step)  # the pipeline asks for its parameters' names before it passes eta and generator
    def watched_step(eps, t, *a, **k):
        out.setdefault("timesteps", []).append(float(t))
        return step(eps, t, *a, **k)

    pipe.encode_video, pipe.scheduler.add_noise, pipe.scheduler.step = watched_encode, watched_noise, watched_step
    with torch.no_grad():
        result = pipe(video=[Image.fromarray(f) for f in rgb], prompt="a red ball rolls", negative_prompt="blur",
                      width=c["size"][0], height=c["size"][1], num_inference_steps=c["steps"], strength=c["strength"],
                      guidance_scale=c["cfg"], eta=c["eta"], generator=torch.Generator().manual_seed(c["seed"]),
                      output_type="latent", return_dict=False)[0]
    out["timesteps"] = torch.tensor(out["timesteps"])
    out["result"] = result
    return out


if __name__ == "__main__":
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    torch.set_num_threads(1)
    made = {name: vae_acts(*v) for name, v in VAES.items()} | {name + ".run": run(c) for name, c in RUNS.items()}
    for name, tensors in made.items():
        path = f"{root}/{name}.safetensors"
        save_file({k: v.contiguous() for k, v in tensors.items()}, path)
        os.chmod(path, 0o644)
