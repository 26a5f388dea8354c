#!/usr/bin/env python3
"""A training step of motion modules, gimbal beside PyTorch, in turns.

    bench/train.py [--model models/toyworld] [--batch 2] [--rounds 3] [--steps 12] [--threads 2]
                   [--gimbal build/release/gimbal] [--python PYTHON_WITH_TORCH]

Both sides: the same folder, float32, frozen image U-Net, AdamW on the motion modules, clips of 16 frames; a step is forward,
loss, backward, clipping and the optimiser. gimbal's step also fetches its (encoded) clips; PyTorch's inputs lie ready in
memory. Prints the median seconds of a step on either side for every round and the ratio. PyTorch and diffusers come from PyPI
(bench/compare.py --install); nothing here is needed to build, run or test gimbal.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile

PEER = r"""
import sys, json, time, torch
from diffusers import UNet2DConditionModel, MotionAdapter, UNetMotionModel
import logging; logging.disable(logging.WARNING)
model, batch, steps, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(threads)
unet = UNetMotionModel.from_unet2d(UNet2DConditionModel.from_pretrained(model + "/unet"),
                                   MotionAdapter.from_pretrained(model + "/motion_adapter")).float().train()
for n, p in unet.named_parameters():
    p.requires_grad_("motion_modules." in n)
learn = [p for p in unet.parameters() if p.requires_grad]
adamw = torch.optim.AdamW(learn, lr=1e-4)
size = 16
x, e = torch.randn(batch, 4, 16, size, size), torch.randn(batch, 4, 16, size, size)
text = torch.randn(batch, 77, unet.config.cross_attention_dim).repeat_interleave(16, dim=0)
for line in sys.stdin:
    took = []
    for i in range(steps):
        since = time.perf_counter()
        t = torch.randint(0, 1000, (batch,))
        loss = torch.nn.functional.mse_loss(unet(x, t, text).sample, e)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learn, 1.0)
        adamw.step()
        adamw.zero_grad()
        took.append(time.perf_counter() - since)
    print(json.dumps(took[2:]), flush=True)
"""


def gimbal_steps(o, folder, round):
    """Seconds of each step after the first passes over the eight clips, which are then in the cache."""
    cached = 8 // o.batch + 1
    out = os.path.join(folder, f"run{round}")
    made = subprocess.run([o.gimbal, "train", "--recipe", "motion", "--model", o.model, "--data", "toyworld:count=8",
                           "-o", out, "--cache", os.path.join(folder, "cache"), "--steps", str(cached + o.steps),
                           "--batch", str(o.batch), "--micro", str(o.batch), "--threads", str(o.threads), "--dtype", "f32",
                           "--validation", "0", "--validate-every", "0", "--save-every", "100000", "--json", "--quiet"],
                          check=True, stdout=subprocess.PIPE, text=True)
    at = [e["elapsed"] for e in map(json.loads, made.stdout.splitlines()) if e.get("what") == "step"]
    return [b - a for a, b in zip(at[cached:], at[cached + 1:])]


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--model", default="models/toyworld")
    a.add_argument("--gimbal", default="build/release/gimbal")
    a.add_argument("--python", default=sys.executable)
    a.add_argument("--batch", type=int, default=2)
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--steps", type=int, default=12)
    a.add_argument("--threads", type=int, default=2)
    o = a.parse_args()
    peer = subprocess.Popen([o.python, "-c", PEER, o.model, str(o.batch), str(o.steps + 2), str(o.threads)],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        gimbal_steps(o, folder, "warm")  # fills the cache; not counted
        for r in range(o.rounds):
            ours = statistics.median(gimbal_steps(o, folder, r))
            peer.stdin.write("go\n")
            peer.stdin.flush()
            theirs = statistics.median(json.loads(peer.stdout.readline()))
            ratios.append(theirs / ours)
            print(f"round {r + 1}: gimbal {ours:.3f} s, PyTorch {theirs:.3f} s a step of {o.batch} clips: {ratios[-1]:.2f}", flush=True)
    peer.stdin.close()
    peer.wait()
    print(f"gimbal {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times as fast as PyTorch")


main()
