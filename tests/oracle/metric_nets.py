#!/usr/bin/env python3
"""Goldens of the metrics' networks: tiny random weights in the published spellings, and what PyTorch makes of them.

    python tests/oracle/metric_nets.py tests/golden/metric

Needs torch, torchvision, transformers, safetensors, numpy. DINO's original code and I3D are in no package: their
forward passes are written out below, from the papers and the keys of the published files. Weights are rounded to
float16 and stored so. Pictures are a formula of whole numbers that the C tests repeat (`picture`).
"""
import json
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(7)


def picture(f, h, w):
    """[h,w,3] uint8"""
    y, x, c = np.meshgrid(np.arange(h), np.arange(w), np.arange(3), indexing="ij")
    return ((x * (3 + c) + y * (5 - c) + (x * y // 16) + 37 * c + 11 * f) % 256).astype(np.uint8)


def pictures(n, h, w):
    """[n,3,h,w] float, -2..2"""
    p = np.stack([picture(f, h, w) for f in range(n)]).astype(np.float32)
    return torch.from_numpy((p / np.float32(255) - np.float32(0.5)) / np.float32(0.25)).permute(0, 3, 1, 2)


def shake(tensors, scale):
    """Random values, with norms near 1 and variances positive, exact in float16."""
    for name, t in tensors.items():
        if not t.is_floating_point():
            continue
        fan = t[0].numel() if t.dim() > 1 else 1
        r = torch.randn(t.shape)
        if "running_var" in name:
            r = 0.5 + r.abs()
        elif t.dim() == 1 and name.endswith("weight"):
            r = 1 + 0.2 * r
        elif t.dim() == 1:
            r = 0.1 * r
        else:
            r = r * scale / fan**0.5
        t.copy_(r.half().float())


def save(path, tensors, meta):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    half = {k: v.half().contiguous().clone() if v.is_floating_point() else v.contiguous().clone() for k, v in tensors.items()}
    save_file(half, path, metadata=meta)


# ---- DINO, original spelling: width 64, one head, patch 8, trained grid 4 x 4 ----

def dino_state(D=64, inner=96, layers=2, patch=8, grid=4):
    s = {"cls_token": torch.zeros(1, 1, D), "pos_embed": torch.zeros(1, 1 + grid * grid, D),
         "patch_embed.proj.weight": torch.zeros(D, 3, patch, patch), "patch_embed.proj.bias": torch.zeros(D),
         "norm.weight": torch.zeros(D), "norm.bias": torch.zeros(D)}
    for i in range(layers):
        for name, shape in {"norm1.weight": [D], "norm1.bias": [D], "attn.qkv.weight": [3 * D, D], "attn.qkv.bias": [3 * D],
                            "attn.proj.weight": [D, D], "attn.proj.bias": [D], "norm2.weight": [D], "norm2.bias": [D],
                            "mlp.fc1.weight": [inner, D], "mlp.fc1.bias": [inner], "mlp.fc2.weight": [D, inner],
                            "mlp.fc2.bias": [D]}.items():
            s[f"blocks.{i}.{name}"] = torch.zeros(shape)
    return s


def dino_positions(pos, h, w, patch):
    N = pos.shape[1] - 1
    if (h // patch) * (w // patch) == N and h == w:
        return pos
    side = int(N**0.5)
    grid = pos[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=((h // patch + 0.1) / side, (w // patch + 0.1) / side), mode="bicubic")
    assert grid.shape[2:] == (h // patch, w // patch)
    return torch.cat([pos[:, :1], grid.permute(0, 2, 3, 1).reshape(1, -1, pos.shape[2])], 1)


def dino(s, x, heads=1):
    D, patch = s["cls_token"].shape[2], s["patch_embed.proj.weight"].shape[3]
    n, _, h, w = x.shape
    t = F.conv2d(x, s["patch_embed.proj.weight"], s["patch_embed.proj.bias"], stride=patch).flatten(2).transpose(1, 2)
    t = torch.cat([s["cls_token"].expand(n, -1, -1), t], 1) + dino_positions(s["pos_embed"], h, w, patch)
    norm = lambda v, p: F.layer_norm(v, [D], s[p + ".weight"], s[p + ".bias"], 1e-6)
    i = 0
    while f"blocks.{i}.norm1.weight" in s:
        b = f"blocks.{i}."
        qkv = F.linear(norm(t, b + "norm1"), s[b + "attn.qkv.weight"], s[b + "attn.qkv.bias"])
        q, k, v = qkv.reshape(n, -1, 3, heads, D // heads).permute(2, 0, 3, 1, 4)
        a = ((q @ k.transpose(-2, -1)) * (D // heads)**-0.5).softmax(-1) @ v
        t = t + F.linear(a.transpose(1, 2).reshape(n, -1, D), s[b + "attn.proj.weight"], s[b + "attn.proj.bias"])
        m = F.gelu(F.linear(norm(t, b + "norm2"), s[b + "mlp.fc1.weight"], s[b + "mlp.fc1.bias"]))
        t = t + F.linear(m, s[b + "mlp.fc2.weight"], s[b + "mlp.fc2.bias"])
        i += 1
    return norm(t, "norm")[:, 0]


# ---- I3D with few channels ----

MIXED = ["3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c"]


def i3d_state(width=4, classes=400):
    s = {}

    def unit(name, i, o, k):
        s[name + ".conv3d.weight"] = torch.zeros(o, i, k, k, k)
        for n in ("weight", "bias", "running_mean", "running_var"):
            s[f"{name}.bn.{n}"] = torch.zeros(o)
        s[name + ".bn.num_batches_tracked"] = torch.tensor(0)

    unit("Conv3d_1a_7x7", 3, width, 7)
    unit("Conv3d_2b_1x1", width, width, 1)
    unit("Conv3d_2c_3x3", width, width + 2, 3)
    c = width + 2
    for m in MIXED:
        for name, i, o, k in (("b0", c, 3, 1), ("b1a", c, 2, 1), ("b1b", 2, 4, 3), ("b2a", c, 3, 1), ("b2b", 3, 2, 3), ("b3b", c, 3, 1)):
            unit(f"Mixed_{m}.{name}", i, o, k)
        c = 12
    s["logits.conv3d.weight"], s["logits.conv3d.bias"] = torch.zeros(classes, c, 1, 1, 1), torch.zeros(classes)
    return s


def same(x, k, stride):
    """TensorFlow's SAME, zeros."""
    pad = []
    for size, kk, st in reversed(list(zip(x.shape[2:], k, stride))):
        total = max((-(-size // st) - 1) * st + kk - size, 0)
        pad += [total // 2, total - total // 2]
    return F.pad(x, pad)


def i3d(s, x, eps):
    def unit(name, v, stride=1):
        w = s[name + ".conv3d.weight"]
        v = F.conv3d(same(v, w.shape[2:], [stride] * 3), w, stride=stride)
        b = name + ".bn."
        return F.relu(F.batch_norm(v, s[b + "running_mean"], s[b + "running_var"], s[b + "weight"], s[b + "bias"], eps=eps))

    pool = lambda v, k, st: F.max_pool3d(same(v, k, st), k, st)
    x = pool(unit("Conv3d_1a_7x7", x, 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit("Conv3d_2c_3x3", unit("Conv3d_2b_1x1", x)), (1, 3, 3), (1, 2, 2))
    for m in MIXED:
        if m == "4b":
            x = pool(x, (3, 3, 3), (2, 2, 2))
        if m == "5b":
            x = pool(x, (2, 2, 2), (2, 2, 2))
        p = f"Mixed_{m}."
        x = torch.cat([unit(p + "b0", x), unit(p + "b1b", unit(p + "b1a", x)), unit(p + "b2b", unit(p + "b2a", x)),
                       unit(p + "b3b", pool(x, (3, 3, 3), (1, 1, 1)))], 1)
    x = F.conv3d(F.avg_pool3d(x, (2, 7, 7), 1), s["logits.conv3d.weight"], s["logits.conv3d.bias"])
    return x.squeeze(4).squeeze(3).mean(2)[0]


# ---- all ----

def main(out):
    want = {}

    s = dino_state()
    shake(s, 1.5)
    save(f"{out}/nets/dino-vits16.safetensors", s, {"network": "dino-vits16"})
    want["dino.native"] = dino(s, pictures(3, 32, 32))
    want["dino.odd"] = dino(s, pictures(2, 32, 39))  # the trained number of patches, but not square
    want["dino.wide"] = dino(s, pictures(2, 43, 85))

    from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel
    config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32,
                       patch_size=8, layer_norm_eps=1e-6)
    model = ViTModel(config, add_pooling_layer=False).eval()
    shake(model.state_dict(), 1.5)
    save(f"{out}/nets/dino-vitb16/model.safetensors", {"vit." + k: v for k, v in model.state_dict().items()},
         {"network": "dino-vitb16", "format": "pt"})
    json.dump({"hidden_size": 32, "num_attention_heads": 2}, open(f"{out}/nets/dino-vitb16/config.json", "w"))
    want["vit.native"] = model(pictures(3, 32, 32)).last_hidden_state[:, 0]

    vision = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=224, patch_size=16)
    text = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=657,
                max_position_embeddings=77, eos_token_id=656, bos_token_id=655, pad_token_id=656)
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=24)).eval()
    shake(clip.state_dict(), 1.5)
    save(f"{out}/nets/clip/model.safetensors", clip.state_dict(), {"network": "clip-vit-base-patch32", "format": "pt"})
    json.dump({"vision_config": {k: vision[k] for k in ("hidden_size", "num_attention_heads")},
               "text_config": {k: text[k] for k in ("hidden_size", "num_attention_heads")}}, open(f"{out}/nets/clip/config.json", "w"))
    want["clip.pictures"] = clip.get_image_features(pictures(2, 224, 224))
    ids = torch.full([1, 77], 656)
    ids[0, :5] = torch.tensor([655, 300, 12, 77, 656])
    want["clip.ids"] = ids[0].int()
    want["clip.text"] = clip.get_text_features(ids, attention_mask=torch.ones_like(ids))[0]

    from torchvision.models.optical_flow.raft import (RAFT, BottleneckBlock, ConvGRU, CorrBlock, FeatureEncoder, FlowHead,
                                                      MaskPredictor, MotionEncoder, RecurrentBlock, ResidualBlock, UpdateBlock)
    from torch.nn import BatchNorm2d, InstanceNorm2d
    raft = RAFT(feature_encoder=FeatureEncoder(block=ResidualBlock, layers=(6, 6, 8, 10, 16), strides=(2, 1, 2, 2), norm_layer=InstanceNorm2d),
                context_encoder=FeatureEncoder(block=ResidualBlock, layers=(6, 6, 8, 10, 22), strides=(2, 1, 2, 2), norm_layer=BatchNorm2d),
                corr_block=CorrBlock(num_levels=4, radius=4),
                update_block=UpdateBlock(motion_encoder=MotionEncoder(in_channels_corr=324, corr_layers=(12, 10), flow_layers=(8, 6), out_channels=14),
                                         recurrent_block=RecurrentBlock(input_size=14 + 12, hidden_size=10, kernel_size=((1, 5), (5, 1)), padding=((0, 2), (2, 0))),
                                         flow_head=FlowHead(in_channels=10, hidden_size=12)),
                mask_predictor=MaskPredictor(in_channels=10, hidden_size=8)).eval()
    shake(raft.state_dict(), 1.3)
    save(f"{out}/nets/raft.safetensors", raft.state_dict(), {})
    a, b = ((torch.from_numpy(picture(f, 128, 144)).float() / 255 * 2 - 1).permute(2, 0, 1)[None] for f in (0, 3))
    flow = raft(a, b, num_flow_updates=20)[-1][0].permute(1, 2, 0)
    print("raft: flow to", flow.abs().max().item())
    want["raft.flow"] = flow[::5, ::5]

    s = i3d_state()
    shake(s, 1.6)
    save(f"{out}/nets/i3d.safetensors", s, {"bn_eps": "1e-3"})
    x = torch.from_numpy(np.stack([picture(f, 224, 224) for f in range(11)])).float() / 255 * 2 - 1
    want["i3d.logits"] = i3d(s, x.permute(3, 0, 1, 2)[None], 1e-3)

    for k, v in want.items():
        print(k, list(v.shape), v.float().std().item())
    save_file({k: v.contiguous().clone() for k, v in want.items()}, f"{out}/nets_want.safetensors")


with torch.no_grad():
    main(sys.argv[1])
