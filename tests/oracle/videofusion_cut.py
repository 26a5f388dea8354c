"""Cuts the recording of VideoFusion's loss and gradients (float64) into two files of float32 below 300 kB.

python videofusion_cut.py RECORDING.safetensors OUT_FOLDER   ->   OUT_FOLDER/videofusion-base.safetensors, -residual
"""
import sys

from safetensors.torch import load_file, save_file

data = {k: v.float().contiguous() for k, v in load_file(sys.argv[1]).items()}
parts = {"base": ("bhat", "loss", "frame_loss", "base_grad."), "residual": ("z_res", "rhat", "res_grad.")}
for part, words in parts.items():
    mine = {k: v.reshape(-1) if v.dim() == 0 else v for k, v in data.items() if k.startswith(words)}
    save_file(mine, f"{sys.argv[2]}/videofusion-{part}.safetensors")
