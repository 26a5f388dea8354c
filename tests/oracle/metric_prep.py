#!/usr/bin/env python3
"""Goldens of preparing pictures for networks: torch's and Pillow's resizing, every 17th pixel of the result.

    python tests/oracle/metric_prep.py tests/golden/metric

Names: KIND.WxH.MODE; modes: plain and antialias (float, torch), plain8 (torch, clamped and rounded) and antialias8
(Pillow). Made with Pillow 10.4, which resizes across before down, as all versions of the metrics' time did; 13.0 goes
down first where that is less work, which moves about 7 % of the bytes by one.
"""
import sys

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

KINDS = {  # short side, crop, mode, mean, std
    "dino": (224, 0, "bilinear", (.485, .456, .406), (.229, .224, .225)),
    "clip": (224, 224, "bicubic", (.48145466, .4578275, .40821073), (.26862954, .26130258, .27577711)),
    "dino_crop": (256, 224, "bicubic", (.485, .456, .406), (.229, .224, .225)),
    "i3d": (224, -1, "bilinear", (.5, .5, .5), (.5, .5, .5)),
}
SIZES = [(53, 37), (300, 517), (640, 333)]  # w, h


def picture(f, h, w):
    y, x, c = np.meshgrid(np.arange(h), np.arange(w), np.arange(3), indexing="ij")
    return ((x * (3 + c) + y * (5 - c) + (x * y // 16) + 37 * c + 11 * f) % 256).astype(np.uint8)


def size_of(kind, w, h):
    n, crop = KINDS[kind][:2]
    if crop < 0:
        return n, n
    long = int(n * max(w, h) / min(w, h))
    return (n, long) if w <= h else (long, n)


def cut(x, n):
    h, w = x.shape[-2:]
    top, left = int(round((h - n) / 2.)), int(round((w - n) / 2.))
    return x[..., top:top + n, left:left + n]


def prepared(kind, rgb, antialias, rounded):
    n, crop, mode, mean, std = KINDS[kind]
    h, w = rgb.shape[:2]
    rw, rh = size_of(kind, w, h)
    if antialias and rounded:
        filter = Image.BICUBIC if mode == "bicubic" else Image.BILINEAR
        x = torch.from_numpy(np.array(Image.fromarray(rgb).resize((rw, rh), filter))).permute(2, 0, 1).float()
    else:
        x = torch.from_numpy(rgb).permute(2, 0, 1).float()
        x = F.interpolate(x[None], size=(rh, rw), mode=mode, antialias=antialias, align_corners=False)[0]
        if rounded:
            x = x.clamp(0, 255).round()
    if crop > 0:
        x = cut(x, crop)
    x = (x / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    return x.permute(1, 2, 0)


out = {}
for kind in KINDS:
    for w, h in SIZES:
        rgb = picture(2, h, w)
        for antialias in (False, True):
            for rounded in (False, True):
                mode = ("antialias" if antialias else "plain") + ("8" if rounded else "")
                out[f"{kind}.{w}x{h}.{mode}"] = prepared(kind, rgb, antialias, rounded)[::17, ::17].contiguous()
save_file(out, f"{sys.argv[1]}/prep.safetensors")
print(len(out), "tensors")
