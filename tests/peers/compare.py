"""Our programs beside their peers: what `make bench BENCH_PYTHON=V/bin/python` prints last.

usage: compare.py BUILD [--rounds 5] [--only WORK ...] [--avx2]

BUILD is the folder of our programs. For each work ours and every peer run in turn, as many rounds,
and the medians and their ratios stand in one table. Ours is started anew each round, with two runs
to warm up where it times itself (embed and start are cold); a peer warms up once and stays.
--avx2 asks ours, PyTorch, its MKL and oneDNN for AVX2 at most; whether OpenVINO's own kernels obey
is not known; F32 alone, as AVX2 has no BF16. Needs torch and open_clip; openvino for the towers.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

STEPS = {"step-tiny": ["tiny", "256", "12"], "step-B-32": ["ViT-B-32", "32", "16"]}
TOWERS = {"image-B-32": "images_batch_s", "text-B-32": "texts_batch_s",
          "one-image-B-32": "image_latency_s"}
# work, precision, peers
WORKS = ([(work, precision, ["eager", "compile"]) for work in STEPS for precision in ("fp32", "bf16")] +
         [(work, precision, ["openvino", "eager"]) for work in TOWERS for precision in ("fp32", "bf16")] +
         [("loss", "fp32", ["eager"]), ("embed", "bf16", ["eager"]), ("start", "fp32", ["eager"])])
START = """
import sys, torch, open_clip
from PIL import Image
model, _, transform = open_clip.create_model_and_transforms("ViT-B-32", pretrained=sys.argv[1])
texts = open_clip.get_tokenizer("ViT-B-32")(["a photo of a cat", "a photo of a dog"])
with torch.inference_mode():
    picture = model.encode_image(transform(Image.open(sys.argv[2]))[None], normalize=True)
    print((100 * picture @ model.encode_text(texts, normalize=True).T).softmax(-1))
"""
MAKE_FILES = """
import sys, pathlib, numpy, open_clip, safetensors.torch
from PIL import Image
folder = pathlib.Path(sys.argv[1])
(folder / "pictures").mkdir()
random = numpy.random.default_rng(1)
for i in range(int(sys.argv[2])):
    small = random.integers(0, 256, (12, 16, 3), dtype=numpy.uint8)
    noise = random.normal(0, 12, (480, 640, 3))
    pixels = numpy.asarray(Image.fromarray(small).resize((640, 480), Image.BICUBIC)) + noise
    Image.fromarray(pixels.clip(0, 255).astype(numpy.uint8)).save(folder / f"pictures/{i:04}.jpg", quality=90)
state = open_clip.create_model("ViT-B-32").state_dict()
safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, folder / "B-32.safetensors")
"""
PICTURES = 256


def wait_for(command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True).stdout


class Ours:
    """Seconds of one run of our program; its memory where it tells."""

    def __init__(self, build, work, precision, files):
        self.memory = None
        self.tells_memory = work in STEPS or work == "loss"  # elsewhere a peer's has more in it than the work
        apps = build / "apps"
        common = ["--precision", precision, "--device", "cpu", "--json"]
        if work in STEPS:
            model, batch, length = STEPS[work]
            self.command = [apps / "bench", "--step", model, "--batch-size", batch, "--text-length", length,
                            "--steps", "3", "--warmup", "2", *common]
        elif work in TOWERS:
            self.command = [apps / "bench", "--infer", "ViT-B-32", "--batch-size", "32", "--text-length", "16",
                            "--steps", "3", "--warmup", "2", *common]
        elif work == "loss":
            self.command = [build / "tests/loss_bench", "16384"]
        elif work == "embed":
            self.command = [apps / "embed", "--checkpoint", files / "B-32.safetensors", "--model", "ViT-B-32", "--images", files / "pictures",
                            "--out", files / "ours.npy", "--overwrite", *common]
        else:
            self.command = [apps / "zero_shot", "--checkpoint", files / "B-32.safetensors", "--model", "ViT-B-32", "--images",
                            files / "pictures/0000.jpg", "--labels", "cat,dog", "--device", "cpu"]
        self.field = {"embed": "seconds", **dict.fromkeys(STEPS, "step_s"), "loss": "seconds", **TOWERS}.get(work)

    def run(self):
        start = time.perf_counter()
        text = wait_for([str(word) for word in self.command])
        if self.field is None:
            return time.perf_counter() - start
        result = json.loads(text[text.index("{"):])
        if self.tells_memory:
            self.memory = result.get("peak_memory_bytes")
        return result[self.field]


class Peer:
    """A peer.py that does one run when asked."""

    def __init__(self, work, peer, precision, files):
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [sys.executable, pathlib.Path(__file__).with_name("peer.py"), work, peer, precision, str(files / "pictures")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.memory = None
        self.what = f"{peer}, {work} in {precision}"
        self.read("ready")

    def read(self, expected=None):
        line = self.process.stdout.readline().strip()
        if not line or (expected and line != expected):
            self.process.kill()
            self.process.wait()
            self.errors.seek(0)
            reason = self.errors.read().strip().splitlines()
            raise RuntimeError(f"{self.what}: {reason[-1] if reason else 'ended without a word'}")
        return line

    def run(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self.read())

    def end(self):
        self.process.stdin.close()
        self.memory = int(self.read())
        self.process.wait()


class Start:
    """A Python that names one picture and ends."""
    memory = None

    def __init__(self, files):
        self.command = [sys.executable, "-c", START, files / "B-32.safetensors", files / "pictures/0000.jpg"]

    def run(self):
        start = time.perf_counter()
        wait_for([str(word) for word in self.command])
        return time.perf_counter() - start

    def end(self):
        pass


def compare(build, work, precision, peers, rounds, files):
    ours, others = Ours(build, work, precision, files), {}
    for peer in peers:
        try:
            others[peer] = Start(files) if work == "start" else Peer(work, peer, precision, files)
        except RuntimeError as error:
            print(f"{error}", file=sys.stderr)
    seconds = {name: [] for name in ["ours", *others]}
    for _ in range(rounds):
        seconds["ours"].append(ours.run())
        for peer, process in others.items():
            seconds[peer].append(process.run())
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    line = f"{work:15} {precision}  ours {medians['ours']:9.4f} s"
    memories = [(ours.memory, "ours")] if ours.memory else []
    for peer, process in others.items():
        process.end()
        line += f"   {peer} {medians[peer]:9.4f} s  {medians[peer] / medians['ours']:6.2f} x"
        if process.memory and ours.memory:
            memories.append((process.memory, peer))
    if memories:
        line += "   GiB: " + ", ".join(f"{name} {size / 2**30:.2f}" for size, name in memories)
    print(line, flush=True)


def main():
    options = argparse.ArgumentParser(usage=__doc__)
    options.add_argument("build", type=pathlib.Path)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--only", nargs="+", default=[])
    options.add_argument("--avx2", action="store_true")
    chosen = options.parse_args()
    if chosen.avx2:
        os.environ.update(ONEDNN_MAX_CPU_ISA="AVX2", ATEN_CPU_CAPABILITY="avx2",
                          GLIBC_TUNABLES="glibc.cpu.hwcaps=-AVX512F")
    with tempfile.TemporaryDirectory() as folder:
        files = pathlib.Path(folder)
        (files / "pictures").mkdir(exist_ok=True)
        works = [w for w in WORKS if not chosen.only or w[0] in chosen.only]
        if chosen.avx2:
            works = [w for w in works if w[1] == "fp32"]
        if any(work in ("embed", "start") for work, _, _ in works):
            (files / "pictures").rmdir()
            subprocess.run([sys.executable, "-c", MAKE_FILES, folder, str(PICTURES)], check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        print(f"Medians of {chosen.rounds} rounds, ours and the peers' in turn; x: how often ours fits into theirs")
        for work, precision, peers in works:
            compare(chosen.build, work, precision, peers, chosen.rounds, files)


main()
