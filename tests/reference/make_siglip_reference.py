"""Writes siglip_reference.json: open_clip's SigLipLoss and its gradients for a few random batches.

Needs torch and open_clip. Features are drawn as tests/siglip_loss_test.cpp draws them.
Usage: python make_siglip_reference.py > siglip_reference.json
"""
import json

import torch
from open_clip.loss import SigLipLoss

from philox import Random

WIDTH = 8
CASES = [dict(pairs=1, logit_scale=2.302585092994046, logit_bias=-10.0),
         dict(pairs=5, logit_scale=2.302585092994046, logit_bias=-10.0),
         dict(pairs=13, logit_scale=4.605170185988092, logit_bias=-3.0)]


def unit_rows(pairs, name):
    random = Random(3, name)
    rows = torch.tensor([random.uniform(-1, 1) for _ in range(pairs * WIDTH)], dtype=torch.float64)
    rows = rows.reshape(pairs, WIDTH)
    return (rows / rows.norm(dim=1, keepdim=True)).requires_grad_()


def values(case):
    images, texts = (unit_rows(case["pairs"], f"{kind} {case['pairs']}") for kind in ("images", "texts"))
    scale, bias = (torch.tensor(case[name], dtype=torch.float64, requires_grad=True)
                   for name in ("logit_scale", "logit_bias"))
    loss = SigLipLoss()(images, texts, scale.exp(), bias)
    loss.backward()
    return dict(case, loss=loss.item(), images=images.grad.flatten().tolist(), texts=texts.grad.flatten().tolist(),
                dlogit_scale=scale.grad.item(), dlogit_bias=bias.grad.item())


print(json.dumps([values(case) for case in CASES], indent=1))
