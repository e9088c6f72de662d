"""Writes weights/: small models with random parameters in the files of every library, and what each computes.

Needs torch, open_clip, transformers and safetensors.
  python make_weights_reference.py                      writes weights/ and weights_features.json
  python make_weights_reference.py --exact NAME FOLDER  writes one model of real size and FOLDER/features.json
Pictures and texts are drawn as tests/reference_features.cpp draws them.
"""
import json
import os
import sys
import warnings
from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from philox import Random

warnings.simplefilter("ignore")
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])
PICTURES, TEXTS = 4, 8


def pictures(size):
    random = Random(3, "pictures")
    pixels = [random.below(256) for _ in range(PICTURES * size * size * 3)]
    images = torch.tensor(pixels, dtype=torch.float32).reshape(PICTURES, size, size, 3)
    return ((images / 255 - MEAN) / STD).permute(0, 3, 1, 2).contiguous()


def texts(context, vocabulary):
    """Lengths from 2 (no word) to all of the context; padded with 0."""
    random = Random(3, "texts")
    ids = torch.zeros(TEXTS, context, dtype=torch.long)
    for row in range(TEXTS):
        words = (context - 2) * row // (TEXTS - 1)
        text = [vocabulary - 2] + [random.below(vocabulary - 2) for _ in range(words)] + [vocabulary - 1]
        ids[row, :len(text)] = torch.tensor(text)
    return ids


def randomize(model, dtype, seed):
    """Every parameter, rounded to dtype; of a size at which real models' activations are."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            width = p.shape[-1] if p.ndim > 1 else 64
            values = torch.rand(p.shape, generator=generator) * 2 - 1
            values = values * (3 / width) ** 0.5 if p.ndim > 1 else values * 0.2
            if p.ndim == 1 and ("ln_" in name or "norm" in name) and name.endswith("weight"):
                values = values + 1
            if "embedding" in name:
                values = values * 0.3
            if name == "logit_scale":
                values = values + 2.6
            p.copy_(values.to(dtype).float())


def features(encode_image, encode_text, size, context, vocabulary):
    with torch.no_grad():
        image, text = encode_image(pictures(size)), encode_text(texts(context, vocabulary))
    return dict(image_features=image.float().flatten().tolist(), text_features=text.float().flatten().tolist())


# ---- OpenAI's model: its names, its order of operations, its archive ----------------------------------------------
class QuickGELU(nn.Module):
    def forward(self, x: torch.Tensor):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width, heads, hidden, mask):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(OrderedDict([("c_fc", nn.Linear(width, hidden)), ("gelu", QuickGELU()),
                                              ("c_proj", nn.Linear(hidden, width))]))
        self.ln_2 = nn.LayerNorm(width)
        self.attn_mask = mask

    def forward(self, x: torch.Tensor):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=self.attn_mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width, layers, heads, hidden, mask=None):
        super().__init__()
        self.resblocks = nn.Sequential(*[Block(width, heads, hidden, mask) for _ in range(layers)])

    def forward(self, x: torch.Tensor):
        return self.resblocks(x)


class Vision(nn.Module):
    def __init__(self, size, patch, width, layers, hidden, embed):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros((size // patch) ** 2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, width // 64, hidden)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.zeros(width, embed))

    def forward(self, x: torch.Tensor):
        x = self.conv1(x).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.class_embedding.expand(x.shape[0], 1, -1), x], 1) + self.positional_embedding
        x = self.transformer(self.ln_pre(x).permute(1, 0, 2)).permute(1, 0, 2)
        return self.ln_post(x[:, 0]) @ self.proj


class OpenAi(nn.Module):
    def __init__(self, embed, size, patch, width, layers, hidden, context, vocabulary, text_width, text_layers,
                 text_hidden):
        super().__init__()
        mask = torch.full((context, context), float("-inf")).triu_(1)
        self.visual = Vision(size, patch, width, layers, hidden, embed)
        self.transformer = Transformer(text_width, text_layers, text_width // 64, text_hidden, mask)
        self.token_embedding = nn.Embedding(vocabulary, text_width)
        self.positional_embedding = nn.Parameter(torch.zeros(context, text_width))
        self.ln_final = nn.LayerNorm(text_width)
        self.text_projection = nn.Parameter(torch.zeros(text_width, embed))
        self.logit_scale = nn.Parameter(torch.zeros([]))
        for name, number in [("input_resolution", size), ("context_length", context), ("vocab_size", vocabulary)]:
            self.register_buffer(name, torch.tensor(number))

    def encode_text(self, text):
        x = self.token_embedding(text) + self.positional_embedding
        x = self.ln_final(self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2))
        return x[torch.arange(x.shape[0]), text.argmax(-1)] @ self.text_projection

    def forward(self, image, text):
        return self.visual(image), self.encode_text(text)


def write_openai(path, seed, **sizes):
    model = OpenAi(**sizes).eval()
    randomize(model, torch.float16, seed)
    size, context, vocabulary = sizes["size"], sizes["context"], sizes["vocabulary"]
    result = features(model.visual, model.encode_text, size, context, vocabulary)
    script = torch.jit.trace(model, (pictures(size)[:1], texts(context, vocabulary)[-1:]), check_trace=False)
    torch.jit.save(halved(script), path)
    return result


def halved(model):
    """As OpenAI's files are: all but norms, embeddings and the scale."""
    for name, p in model.named_parameters():
        if not any(part in name for part in ["ln_", "bn", "downsample.1", "embedding", "logit_scale"]):
            p.data = p.data.half()
    return model


def randomize_resnet(visual, seed):
    """Convolutions that keep the size of activations behind a ReLU; residual branches a fifth as large as the stream."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor, low, high):
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for name, module in visual.named_modules():
            if isinstance(module, nn.Conv2d):
                bound = (6 / module.weight[0].numel()) ** 0.5
                draw(module.weight, -bound, bound)
                module.weight.copy_(module.weight.half().float())
            if isinstance(module, nn.BatchNorm2d):
                gain = 0.2 if name.startswith("layer") and name.endswith("bn3") else 1
                draw(module.weight, 0.5 * gain, 1.5 * gain)
                draw(module.bias, -0.2, 0.2)
                draw(module.running_mean, -0.2, 0.2)
                draw(module.running_var, 0.5, 1.5)
                module.num_batches_tracked.fill_(100000)  # more than F16 holds


def write_openai_resnet(path, seed, embed, size, width, stages, context, vocabulary, text_width, text_layers, archive,
                        text_hidden):
    """OpenAI's ResNets have the names that open_clip's have. An archive is TorchScript, else a state dict is written."""
    from open_clip.model import CLIP
    model = CLIP(embed, dict(image_size=size, layers=stages, width=width),
                 dict(context_length=context, vocab_size=vocabulary, width=text_width, heads=text_width // 64,
                      layers=text_layers, mlp_ratio=text_hidden / text_width), quick_gelu=True).eval()
    randomize(model, torch.float16, seed)
    randomize_resnet(model.visual, seed)
    result = features(model.encode_image, model.encode_text, size, context, vocabulary)
    for name, number in [("input_resolution", size), ("context_length", context), ("vocab_size", vocabulary)]:
        model.__dict__.pop(name, None)  # open_clip has some of them as plain numbers
        model.register_buffer(name, torch.tensor(number))
    if archive:
        inputs = pictures(size)[:1], texts(context, vocabulary)[-1:]
        torch.jit.save(halved(torch.jit.trace(model, inputs, check_trace=False)), path)
    else:
        torch.save(halved(model).state_dict(), path)
    return result


# ---- open_clip ----------------------------------------------------------------------------------------------------
def open_clip_model(config, seed, dtype):
    from open_clip.model import CLIP
    model = CLIP(**config).eval()
    randomize(model, dtype, seed)
    vision, text = config["vision_cfg"], config["text_cfg"]
    return model, features(model.encode_image, model.encode_text, vision["image_size"], text["context_length"],
                           text["vocab_size"])


def write_open_clip_folder(folder, config, seed, dtype):
    from safetensors.torch import save_file
    os.makedirs(folder, exist_ok=True)
    model, result = open_clip_model(config, seed, dtype)
    save_file({k: v.to(dtype) for k, v in model.state_dict().items()}, f"{folder}/open_clip_model.safetensors")
    with open(f"{folder}/open_clip_config.json", "w") as file:
        json.dump(dict(model_cfg=config), file, indent=1)
    return result


def write_state_dict(path, config, seed, dtype):
    model, result = open_clip_model(config, seed, dtype)
    torch.save({k: v.to(dtype) for k, v in model.state_dict().items()}, path)
    return result


def write_training_checkpoint(path, config, seed):
    model, result = open_clip_model(config, seed, torch.float16)
    state = OrderedDict(("module." + k, v.half()) for k, v in model.state_dict().items())
    # A matrix that lies in the file column by column, as a transposed view is saved.
    name = "module.text_projection"
    state[name] = state[name].t().contiguous().t()
    optimizer = torch.optim.AdamW([model.logit_scale], lr=1e-3)
    torch.save(dict(epoch=3, name="run", state_dict=state, optimizer=optimizer.state_dict()), path)
    return result


# ---- Hugging Face -------------------------------------------------------------------------------------------------
def write_hugging_face(folder, vision, text, embed, seed, dtype, **saving):
    from transformers import CLIPConfig, CLIPModel
    text = dict(text, eos_token_id=2, bos_token_id=0, pad_token_id=1)  # wrong, as in many published files
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=embed)).eval()
    randomize(model, dtype, seed)

    def plain(output):
        return output if isinstance(output, torch.Tensor) else output.pooler_output

    result = features(lambda x: plain(model.get_image_features(pixel_values=x)),
                      lambda x: plain(model.get_text_features(input_ids=x)), vision["image_size"],
                      text["max_position_embeddings"], text["vocab_size"])
    model.to(dtype).save_pretrained(folder, **saving)
    return result


def small():
    here = os.path.dirname(os.path.abspath(__file__))
    folder = os.path.join(here, "weights")
    os.makedirs(folder, exist_ok=True)
    config = dict(embed_dim=12, quick_gelu=False,
                  vision_cfg=dict(image_size=8, patch_size=4, width=16, head_width=8, layers=1),
                  text_cfg=dict(context_length=12, vocab_size=48, width=16, heads=4, layers=2))
    quick = dict(config, quick_gelu=True)
    short = dict(config, text_cfg=dict(config["text_cfg"], layers=1))

    def vision(act, layers, hidden):
        return dict(image_size=8, patch_size=4, hidden_size=16, intermediate_size=hidden, num_hidden_layers=layers,
                    num_attention_heads=2, hidden_act=act)

    def text(act, layers):
        return dict(max_position_embeddings=12, vocab_size=48, hidden_size=16, intermediate_size=64,
                    num_hidden_layers=layers, num_attention_heads=4, hidden_act=act)

    result = {
        "openai.pt": write_openai(f"{folder}/openai.pt", 1, embed=12, size=8, patch=4, width=64, layers=1, hidden=16,
                                  context=12, vocabulary=48, text_width=64, text_layers=1, text_hidden=16),
        "resnet.pt": write_openai_resnet(f"{folder}/resnet.pt", 10, embed=12, size=64, width=2, stages=[2, 1, 1, 1],
                                         context=12, vocabulary=48, text_width=64, text_layers=1, text_hidden=16,
                                         archive=False),
        "open_clip": write_open_clip_folder(f"{folder}/open_clip", quick, 2, torch.float16),
        "state_dict.bin": write_state_dict(f"{folder}/state_dict.bin", short, 3, torch.bfloat16),
        "training.pt": write_training_checkpoint(f"{folder}/training.pt", short, 4),
        "hugging_face": write_hugging_face(f"{folder}/hugging_face", vision("quick_gelu", 1, 40),
                                           text("quick_gelu", 2), 12, 5, torch.float16),
        "hugging_face_gelu": write_hugging_face(f"{folder}/hugging_face_gelu", vision("gelu", 1, 64), text("gelu", 1),
                                                12, 6, torch.bfloat16, max_shard_size="10KB"),
    }
    result["positions"] = resized_positions()
    with open(os.path.join(here, "weights_features.json"), "w") as file:
        json.dump(result, file, indent=0)


# ---- Position embeddings of another size ---------------------------------------------------------------------------
def draw(count, name):
    random = Random(4, name)
    return torch.tensor([random.uniform(-1, 1) for _ in range(count)]).float()


def resized_positions():
    """By open_clip's own functions; width 2."""
    from types import SimpleNamespace
    from open_clip.model import resize_pos_embed, resize_text_pos_embed
    result = {}
    for old, new in [(3, 5), (7, 4), (4, 4), (2, 9)]:
        name = f"image {old} {new}"
        state = {"visual.positional_embedding": draw((1 + old * old) * 2, name).reshape(-1, 2)}
        resize_pos_embed(state, SimpleNamespace(visual=SimpleNamespace(grid_size=(new, new))))
        result[name] = state["visual.positional_embedding"].flatten().tolist()
    for old, new in [(12, 20), (12, 7), (5, 5), (2, 9)]:
        name = f"text {old} {new}"
        state = {"positional_embedding": draw(old * 2, name).reshape(-1, 2)}
        resize_text_pos_embed(state, SimpleNamespace(positional_embedding=torch.zeros(new, 2)))
        result[name] = state["positional_embedding"].flatten().tolist()
    return result


# ---- Models of real size ------------------------------------------------------------------------------------------
OPENAI = {  # patch, size, width, layers, text width, embed
    "ViT-B-32": (32, 224, 768, 12, 512, 512), "ViT-B-16": (16, 224, 768, 12, 512, 512),
    "ViT-L-14": (14, 224, 1024, 24, 768, 768), "ViT-L-14-336": (14, 336, 1024, 24, 768, 768)}
RESNETS = {  # stages, width, size, text width, embed
    "RN50": ([3, 4, 6, 3], 64, 224, 512, 1024), "RN101": ([3, 4, 23, 3], 64, 224, 512, 512),
    "RN50x4": ([4, 6, 10, 6], 80, 288, 640, 640), "RN50x16": ([6, 8, 18, 8], 96, 384, 768, 768),
    "RN50x64": ([3, 15, 36, 10], 128, 448, 1024, 1024)}


def exact(name, folder):
    os.makedirs(folder, exist_ok=True)
    if name in OPENAI:
        patch, size, width, layers, text_width, embed = OPENAI[name]
        result = write_openai(f"{folder}/model.pt", 7, embed=embed, size=size, patch=patch, width=width, layers=layers,
                              hidden=4 * width, context=77, vocabulary=49408, text_width=text_width, text_layers=12,
                              text_hidden=4 * text_width)
    elif name in RESNETS:
        stages, width, size, text_width, embed = RESNETS[name]
        result = write_openai_resnet(f"{folder}/model.pt", 11, embed=embed, size=size, width=width, stages=stages,
                                     context=77, vocabulary=49408, text_width=text_width, text_layers=12, text_hidden=4 * text_width,
                                     archive=True)
    elif name == "hugging-face-B-32":
        result = write_hugging_face(f"{folder}/model", dict(image_size=224),
                                    dict(max_position_embeddings=77, vocab_size=49408), 512, 8, torch.float32)
    else:
        assert name == "H-14-two-layers", name
        config = dict(embed_dim=1024, vision_cfg=dict(image_size=224, patch_size=14, width=1280, head_width=80,
                                                      layers=2),
                      text_cfg=dict(context_length=77, vocab_size=49408, width=1024, heads=16, layers=2))
        result = write_open_clip_folder(f"{folder}/model", config, 9, torch.float32)
    with open(f"{folder}/features.json", "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--exact"]:
        exact(*sys.argv[2:4])
    else:
        small()
