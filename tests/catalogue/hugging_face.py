"""Classifiers of Hugging Face transformers built from small configurations, without weights; wrapped to return their logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks import torchvision_networks

torchvision_networks.load()  # transformers imports torchvision where it finds it
import transformers  # noqa: E402


class Logits(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs).logits


TEXT_SIZES = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
IMAGE_SIZES = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
IMAGE_SIZES |= {"intermediate_size": 64}
IMAGE, TOKENS = torch.zeros(1, 3, 32, 32), torch.arange(1, 17)[None]
LARGER, LARGE = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 224, 224)


def classifier(family: str, task: str, **settings: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        configuration = getattr(transformers, f"{family}Config")(num_labels=5, **settings)
        return Logits(getattr(transformers, f"{family}For{task}Classification")(configuration))

    return make


DISTILBERT = {"vocab_size": 120, "dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 64}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 1, 2], "num_heads": [1, 2, 4], "window_size": 4}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 32, 64], "depths": [2, 2, 2, 2], "layer_type": "basic"}
CONVBERT = TEXT_SIZES | {"embedding_size": 32}
FNET = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 64}
XLNET = {"vocab_size": 120, "d_model": 32, "n_layer": 3, "n_head": 2, "d_inner": 64}
HUGGING_FACE = {
    "ViT": (classifier("ViT", "Image", **IMAGE_SIZES), IMAGE),
    "DeiT": (classifier("DeiT", "Image", **IMAGE_SIZES), IMAGE),
    "BEiT": (classifier("Beit", "Image", **IMAGE_SIZES), IMAGE),
    "Swin": (classifier("Swin", "Image", **SWIN), IMAGE),
    "ResNet": (classifier("ResNet", "Image", **RESNET), IMAGE),
    "ConvNeXt": (classifier("ConvNext", "Image", hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1]), IMAGE),
    "BERT": (classifier("Bert", "Sequence", **TEXT_SIZES), TOKENS),
    "RoBERTa": (classifier("Roberta", "Sequence", **TEXT_SIZES), TOKENS),
    "ELECTRA": (classifier("Electra", "Sequence", embedding_size=16, **TEXT_SIZES), TOKENS),
    "DistilBERT": (classifier("DistilBert", "Sequence", **DISTILBERT), TOKENS),
    "ALBERT": (classifier("Albert", "Sequence", embedding_size=16, **TEXT_SIZES), TOKENS),
    "GPT-2": (
        classifier("GPT2", "Sequence", vocab_size=120, n_embd=32, n_layer=3, n_head=2, n_positions=32, pad_token_id=0),
        TOKENS,
    ),
    "MobileNetV2": (classifier("MobileNetV2", "Image", image_size=32), IMAGE),
    "PoolFormer": (classifier("PoolFormer", "Image"), LARGER),
    "CvT": (classifier("Cvt", "Image"), LARGER),
    "LeViT": (classifier("Levit", "Image"), LARGE),
    "MPNet": (classifier("MPNet", "Sequence", **TEXT_SIZES), TOKENS),
    "Llama": (classifier("Llama", "Sequence", pad_token_id=0, **TEXT_SIZES), TOKENS),
    "DINOv2": (classifier("Dinov2", "Image", **IMAGE_SIZES), IMAGE),
    "DeBERTa-v2": (classifier("DebertaV2", "Sequence", **TEXT_SIZES), TOKENS),
    "ConvBERT": (classifier("ConvBert", "Sequence", **CONVBERT), TOKENS),
    "XLNet": (classifier("XLNet", "Sequence", **XLNET), TOKENS),
    "FNet": (classifier("FNet", "Sequence", **FNET), TOKENS),
}
