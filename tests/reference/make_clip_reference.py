"""Writes clip_reference.json: what open_clip computes for a small ViT CLIP whose parameters are all random.

Needs torch and open_clip. Parameters, pixels and captions are drawn as tests/clip_reference_test.cpp draws them.
Usage: python make_clip_reference.py > clip_reference.json
"""
import json
import math

import numpy as np
import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP

from philox import Random

MEAN = torch.tensor(np.array([0.48145466, 0.4578275, 0.40821073], np.float32).astype(np.float64))
STD = torch.tensor(np.array([0.26862954, 0.26130258, 0.27577711], np.float32).astype(np.float64))
PAIRS, IMAGE, CONTEXT, VOCABULARY = 5, 24, 12, 64
CONFIG = dict(embed_dim=24,
              vision_cfg=dict(image_size=IMAGE, patch_size=8, width=48, head_width=16, layers=2),
              text_cfg=dict(context_length=CONTEXT, vocab_size=VOCABULARY, width=32, heads=2, layers=2))


def draw(shape, low, high, name):
    random = Random(1, name)
    count = int(np.prod(shape))
    return torch.tensor([random.uniform(low, high) for _ in range(count)], dtype=torch.float64).reshape(shape)


def make_model(quick_gelu, config=CONFIG):
    model = CLIP(**config, quick_gelu=quick_gelu).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "logit_scale":
                parameter.copy_(draw((), 1.0, 2.0, name))
            elif name.endswith("gamma") or parameter.ndim == 1 and name.endswith("weight"):
                parameter.copy_(draw(tuple(parameter.shape), 0.5, 1.5, name))
            else:
                parameter.copy_(draw(tuple(parameter.shape), -0.3, 0.3, name))
    return model


def batch(step, image=IMAGE):
    random = Random(2, f"batch {step}")
    pixels = [random.below(256) for _ in range(PAIRS * image * image * 3)]
    images = torch.tensor(pixels, dtype=torch.float64).reshape(PAIRS, image, image, 3)
    images = ((images / 255 - MEAN) / STD).permute(0, 3, 1, 2).contiguous()
    texts = torch.zeros(PAIRS, CONTEXT, dtype=torch.long)
    for row in range(PAIRS):
        words = random.below(CONTEXT - 1)
        ids = [VOCABULARY - 2] + [random.below(VOCABULARY - 2) for _ in range(words)] + [VOCABULARY - 1]
        texts[row, :len(ids)] = torch.tensor(ids)
    return images, texts


def loss_of(model, step):
    size = np.atleast_1d(model.visual.image_size)[0]
    image_features, text_features, scale = model(*batch(step, size))
    return ClipLoss()(image_features, text_features, scale)


def gradient_signature(name, gradient):
    """Length and two projections: an error in any element shows."""
    flat = gradient.flatten()
    along = [float(flat @ draw(flat.shape, -1, 1, f"{name} {i}")) for i in range(2)]
    return [float(flat.norm())] + along


def train(model, steps=20, warmup=5, base_lr=3e-3, max_norm=1.0):
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([dict(params=matrices, weight_decay=0.2), dict(params=others, weight_decay=0.0)],
                                  betas=(0.9, 0.98), eps=1e-6)
    losses, norms = [], []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = (base_lr * (step + 1) / warmup if step < warmup else
                           0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) * base_lr)
        optimizer.zero_grad()
        loss = loss_of(model, step)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)))
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        losses.append(loss.item())
    return dict(losses=losses, gradient_norms=norms, logit_scale=model.logit_scale.item())


def main():
    result = {}
    for kind, quick in [("quick_gelu", True), ("gelu", False)]:
        model = make_model(quick)
        images, texts = batch(0)
        with torch.no_grad():
            result[kind] = dict(image_features=model.encode_image(images).flatten().tolist(),
                                text_features=model.encode_text(texts).flatten().tolist())
    model = make_model(True)
    loss = loss_of(model, 0)
    loss.backward()
    result["loss"] = loss.item()
    result["gradients"] = {name: gradient_signature(name, p.grad) for name, p in model.named_parameters()}
    result["training"] = train(make_model(True))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
