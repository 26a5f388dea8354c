"""Makes tests/golden/training/optim_bits.safetensors: what PyTorch's single-tensor AdamW gives in float32, bit for bit,
from the parameters and gradients of optim.safetensors beside it. Needs torch (made with 2.15, CPU with AVX2, one thread)."""
import pathlib

import torch
from safetensors.torch import load_file, save_file

folder = pathlib.Path(__file__).resolve().parent.parent / "golden" / "training"
given = load_file(folder / "optim.safetensors")
cases = {
    "default": dict(lr=1e-3),
    "fast": dict(lr=1e-2, betas=(0.5, 0.9), eps=1e-4, weight_decay=0.1),
    "nodecay": dict(lr=3e-4, weight_decay=0.0),
    "slow_mean": dict(lr=2e-3, betas=(0.3, 0.95), eps=1e-6, weight_decay=0.02),
}
torch.set_num_threads(1)
out = {}
for name, settings in cases.items():
    p = torch.nn.Parameter(given["p0"].clone())
    adamw = torch.optim.AdamW([p], foreach=False, fused=False, **settings)
    for g in given["g"]:
        p.grad = g.clone()
        adamw.step()
    state = adamw.state[p]
    out |= {f"{name}.p": p.detach().clone(), f"{name}.m": state["exp_avg"], f"{name}.v": state["exp_avg_sq"]}
save_file(out, folder / "optim_bits.safetensors")
