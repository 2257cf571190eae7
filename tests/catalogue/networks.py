"""The catalogue: classifiers of torchvision, timm and transformers, and handwritten ones, each with an input that it takes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from handwritten import HANDWRITTEN
from hugging_face import HUGGING_FACE
from torch import Tensor, nn

from benchmarks import torchvision_networks

torchvision = torchvision_networks.load()
import timm  # noqa: E402 - it imports torchvision


class Entry(NamedTuple):
    """A network of the catalogue: its name and family, how it is made, and zeros or words of the shape that it takes."""

    name: str
    family: str
    make: Callable[[], nn.Module]
    example: Tensor


# Pixels a side: as few as the network takes, for speed.
TORCHVISION = {
    "alexnet": 224, "vgg11_bn": 64, "vgg16": 64, "resnet18": 64, "resnet50": 64, "resnext50_32x4d": 64, "wide_resnet50_2": 64,
    "densenet121": 64, "mobilenet_v2": 64, "mobilenet_v3_small": 64, "mobilenet_v3_large": 64, "efficientnet_b0": 64,
    "efficientnet_v2_s": 64, "convnext_tiny": 64, "convnext_small": 64, "regnet_x_400mf": 64, "regnet_y_400mf": 64,
    "shufflenet_v2_x1_0": 64, "squeezenet1_0": 64, "squeezenet1_1": 64, "mnasnet1_0": 64, "googlenet": 64, "inception_v3": 96,
    "vit_b_16": 224, "swin_t": 64, "swin_v2_t": 64, "maxvit_t": 224,
}  # fmt: skip
WITHOUT_AUXILIARY = {"aux_logits": False, "init_weights": False}
TORCHVISION_SETTINGS = {"googlenet": WITHOUT_AUXILIARY, "inception_v3": WITHOUT_AUXILIARY}
TIMM = {
    "deit_tiny_patch16_224": 224, "vit_tiny_patch16_224": 224, "mixer_s32_224": 224, "resmlp_12_224": 224,
    "gmlp_ti16_224": 224, "mobilenetv4_conv_small": 64, "mobilenetv4_conv_medium": 64, "mobilenetv3_small_050": 64,
    "convmixer_768_32": 64, "poolformer_s12": 64, "cait_xxs24_224": 224, "levit_128s": 224, "ghostnet_100": 64,
    "regnetz_b16": 64, "xcit_nano_12_p16_224": 224, "coat_lite_tiny": 224, "edgenext_xx_small": 64, "efficientformer_l1": 224,
    "repvgg_a0": 64, "rexnet_100": 64, "tinynet_e": 64, "lcnet_050": 64, "pit_ti_224": 224, "convnext_atto": 64,
    "resnetv2_50": 64, "dla34": 64, "nfnet_l0": 64,
}  # fmt: skip


def catalogue() -> list[Entry]:
    def images(pixels: int) -> Tensor:
        return torch.zeros(1, 3, pixels, pixels)

    found = [
        Entry(
            name,
            "torchvision",
            functools.partial(getattr(torchvision, name), **TORCHVISION_SETTINGS.get(name, {})),
            images(size),
        )
        for name, size in TORCHVISION.items()
    ]
    found += [Entry(name, "timm", functools.partial(timm.create_model, name), images(size)) for name, size in TIMM.items()]
    found += [Entry(name, "transformers", *entry) for name, entry in HUGGING_FACE.items()]
    return found + [Entry(name, "handwritten", *entry) for name, entry in HANDWRITTEN.items()]
