"""Trajectories of diffusers' DDPMScheduler (fixed_small) with a toy denoiser, for tests/t_sampler.c.

python ddpm.py OUT.safetensors   ->   NAME.timesteps [n], NAME.trajectory [n+1,72], NAME.noise [n,72]; a config as JSON in
the header under NAME. Noise is not injected at timestep 0, as there.
"""
import json
import sys

import torch
from diffusers import DDPMScheduler
from safetensors.torch import save_file

CASES = {
    "leading": (dict(timestep_spacing="leading", steps_offset=1), 10),
    "every": (dict(timestep_spacing="leading", num_train_timesteps=30, beta_start=1e-3, beta_end=0.2), 30),
    "linspace": (dict(timestep_spacing="linspace", beta_schedule="scaled_linear"), 7),
    "trailing": (dict(timestep_spacing="trailing", prediction_type="v_prediction"), 9),
    "clipped": (dict(timestep_spacing="leading", clip_sample=True, clip_sample_range=1.5), 8),
}
tensors, header = {}, {}
for name, (changes, steps) in CASES.items():
    config = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False) | changes
    s = DDPMScheduler(variance_type="fixed_small", **config)
    s.set_timesteps(steps)
    g = torch.Generator().manual_seed(5)
    x = torch.randn(1, 72, generator=g)
    path, noises = [x], []
    for t in s.timesteps:
        raw = 0.8 * torch.sin(x + 0.001 * t) + 0.1 * x
        draw = torch.Generator().manual_seed(int(t) + 1)
        again = torch.Generator().manual_seed(int(t) + 1)
        noises.append(torch.randn(1, 72, generator=again))
        x = s.step(raw, t, x, generator=draw).prev_sample
        path.append(x)
    tensors |= {f"{name}.timesteps": s.timesteps.float(), f"{name}.trajectory": torch.stack(path),
                f"{name}.noise": torch.stack(noises)}
    header[name] = json.dumps(dict(config, _class_name="DDIMScheduler", steps=steps))
save_file(tensors, sys.argv[1], header)
