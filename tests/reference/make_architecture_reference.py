"""Writes architecture_reference.json: what open_clip computes for small models of other plans than the plain ViT.

A ModifiedResNet (features, gradients, 20 steps, running statistics) and ViTs with LayerScale, average pooling and no
first norm. Parameters, buffers, pixels and captions are drawn as tests/architectures_test.cpp draws them.
Usage: python make_architecture_reference.py > architecture_reference.json
"""
import json

import torch

from make_clip_reference import CONFIG, batch, draw, gradient_signature, loss_of, make_model, train

TEXT = CONFIG["text_cfg"]
RESNET = dict(embed_dim=24, vision_cfg=dict(image_size=64, layers=[2, 1, 1, 1], width=4, head_width=16), text_cfg=TEXT)


def vit(text={}, **vision):
    return dict(embed_dim=24, vision_cfg=dict(CONFIG["vision_cfg"], **vision), text_cfg=dict(TEXT, **text))


VITS = {
    "layer_scale": vit(ls_init_value=0.1, text=dict(ls_init_value=0.1)),
    "average": vit(pool_type="avg"),
    "average_then_norm": vit(pool_type="avg", final_ln_after_pool=True, no_ln_pre=True),
}


def make_resnet():
    model = make_model(True, RESNET)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(draw(tuple(buffer.shape), -0.3, 0.3, name))
        if name.endswith("running_var"):
            buffer.copy_(draw(tuple(buffer.shape), 0.5, 1.5, name))
    return model


def image_features(model, size):
    with torch.no_grad():
        return model.encode_image(batch(0, size)[0]).flatten().tolist()


def gradients(model):
    loss = loss_of(model, 0)
    loss.backward()
    return dict(loss=loss.item(),
                gradients={name: gradient_signature(name, p.grad) for name, p in model.named_parameters()})


def resnet():
    result = dict(image_features=image_features(make_resnet().eval(), 64))
    result.update(gradients(make_resnet()))
    model = make_resnet()
    result["training"] = train(model)
    result["buffers"] = {name: gradient_signature(name, buffer.double()) for name, buffer in model.named_buffers()
                         if name.startswith("visual.")}
    result["trained_image_features"] = image_features(model.eval(), 64)
    return result


def main():
    result = dict(resnet=resnet())
    for name, config in VITS.items():
        model = make_model(True, config)
        with torch.no_grad():
            text = model.encode_text(batch(0)[1]).flatten().tolist()
        result[name] = dict(image_features=image_features(model, 24), text_features=text)
        result[name].update(gradients(model))
    print(json.dumps(result, indent=1))


main()
