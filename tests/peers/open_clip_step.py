"""One training step of open_clip, timed: what tests/gpu_check.sh sets beside apps/bench.

usage: open_clip_step.py MODEL BATCH TEXT_LENGTH fp32|bf16 STEPS [compile]

The same work as `apps/bench --step`: pixels and captions of TEXT_LENGTH tokens, forward, loss,
backward, AdamW. Captions are padded to the model's context, as open_clip computes them. bf16 is
autocast with F32 parameters. The last line is a JSON object with step_s and pairs_per_s.
"""
import json
import statistics
import sys
import time

import open_clip
import torch


def main():
    name, batch, length, precision, steps = (
        sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(1)
    model = open_clip.create_model(name, device=device).train()
    if sys.argv[6:] == ["compile"]:
        model = torch.compile(model)
    size, vocabulary = model.visual.image_size, model.vocab_size
    size = size[0] if isinstance(size, (tuple, list)) else size
    images = torch.randn(batch, 3, size, size)
    texts = torch.zeros(batch, model.context_length, dtype=torch.long)
    texts[:, :length] = torch.randint(1, vocabulary - 2, (batch, length))
    texts[:, 0], texts[:, length - 1] = vocabulary - 2, vocabulary - 1
    if device.type == "cuda":
        images = images.pin_memory()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.98), eps=1e-6,
                                  weight_decay=0.2, fused=device.type == "cuda")
    loss_of = open_clip.ClipLoss()

    def step():
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of(*model(images.to(device, non_blocking=True), texts.to(device))[:3])
        loss.backward()
        optimizer.step()
        return loss.item()  # waits for the device

    for _ in range(3):
        step()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    print(json.dumps({"model": name, "batch_size": batch, "text_length": length,
                      "precision": precision, "step_s": median, "pairs_per_s": batch / median,
                      "torch": torch.__version__, "open_clip": open_clip.__version__}))


main()
