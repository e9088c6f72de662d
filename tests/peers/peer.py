"""A peer at the same work as our programs, timed when asked: what compare.py runs beside them.

usage: peer.py WORK PEER fp32|bf16 [FOLDER]

Captions are padded to the model's context (32 or 77 tokens), as open_clip and what is exported from
it compute them; ours are not. WORK is step-tiny, step-B-32, image-B-32, text-B-32, one-image-B-32, loss or embed; PEER is eager or
compile (PyTorch) or openvino. It prints "ready", then for each line it reads the seconds of one run
(of several, their median, where one is short), and at the end the most bytes this process ever held.
"""
import resource
import statistics
import sys
import time

import open_clip
import torch

TINY = dict(embed_dim=256, quick_gelu=True,
            vision_cfg=dict(image_size=64, layers=6, width=192, head_width=64, patch_size=8),
            text_cfg=dict(context_length=32, vocab_size=8192, width=192, heads=3, layers=6))


def captions(batch, length, context, vocabulary):
    texts = torch.zeros(batch, context, dtype=torch.long)
    texts[:, :length] = torch.randint(1, vocabulary - 2, (batch, length))
    texts[:, 0], texts[:, length - 1] = vocabulary - 2, vocabulary - 1
    return texts


def training_step(name, peer, precision):
    if name == "tiny":
        model, batch, length, size, context, vocabulary = open_clip.CLIP(**TINY), 256, 12, 64, 32, 8192
    else:
        model, batch, length, size, context, vocabulary = (
            open_clip.create_model("ViT-B-32"), 32, 16, 224, 77, 49408)
    model.train()
    forward = torch.compile(model) if peer == "compile" else model
    images = torch.randn(batch, 3, size, size)
    texts = captions(batch, length, context, vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.98), eps=1e-6,
                                  weight_decay=0.2, foreach=True)
    loss_of = open_clip.ClipLoss()

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of(*forward(images, texts)[:3])
        loss.backward()
        optimizer.step()
    return step


class TextTower(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, text):
        return self.model.encode_text(text)


def tower(work, peer, precision):
    model = open_clip.create_model("ViT-B-32").eval()
    if work == "text-B-32":
        module, sample = TextTower(model), captions(32, 16, 77, 49408)
    else:
        module, sample = model.visual, torch.randn(1 if work.startswith("one") else 32, 3, 224, 224)
    if peer == "openvino":
        import openvino
        torch.backends.mha.set_fastpath_enabled(False)  # the fused path cannot be exported
        converted = openvino.convert_model(module, example_input=sample)
        core = openvino.Core()
        hints = {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
                 "PERFORMANCE_HINT": "LATENCY"}
        request = core.compile_model(converted, "CPU", hints).create_infer_request()
        numbers = sample.numpy()
        return lambda: request.infer([numbers])
    if precision == "bf16":
        module = module.to(torch.bfloat16)
        sample = sample.to(torch.bfloat16) if sample.is_floating_point() else sample
    if peer == "compile":
        module = torch.compile(module)

    def run():
        with torch.inference_mode():
            module(sample)
    return run


def loss():
    rows, width = 16384, 512
    images, texts = (torch.nn.functional.normalize(torch.randn(rows, width)).requires_grad_()
                     for _ in range(2))
    scale = torch.tensor(14.3, requires_grad=True)
    loss_of = open_clip.ClipLoss()

    def run():
        images.grad = texts.grad = scale.grad = None
        loss_of(images, texts, scale).backward()
    return run


def embed(precision, folder):
    import pathlib
    from PIL import Image
    model, _, transform = open_clip.create_model_and_transforms("ViT-B-32")
    model.eval()
    files = sorted(pathlib.Path(folder).iterdir())

    class Pictures(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, i):
            return transform(Image.open(files[i]))

    def run():
        loader = torch.utils.data.DataLoader(Pictures(), batch_size=32, num_workers=2)
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16,
                                                    enabled=precision == "bf16"):
            for images in loader:
                torch.nn.functional.normalize(model.encode_image(images), dim=-1).float().numpy()
    return run


def main():
    work, peer, precision = sys.argv[1:4]
    torch.manual_seed(1)
    if work.startswith("step-"):
        run = training_step(work[5:], peer, precision)
    elif work == "loss":
        run = loss()
    elif work == "embed":
        run = embed(precision, sys.argv[4])
    else:
        run = tower(work, peer, precision)
    for _ in range(2):
        run()
    print("ready", flush=True)
    for _ in sys.stdin:
        seconds, start = [], time.perf_counter()
        while not seconds or time.perf_counter() - start < 1:
            begin = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - begin)
        print(statistics.median(seconds), flush=True)
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)


main()
