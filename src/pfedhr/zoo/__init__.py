"""The networks that come with the package, by name; each is made of the inputs' shape and the number of classes."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from pfedhr.zoo.cnn import cnn1, cnn2, cnn3, cnn4, cnn4_eighth, cnn4_half, cnn4_quarter
from pfedhr.zoo.mlp import mlp, mlp_deep, mlp_wide
from pfedhr.zoo.shape import ModelError, Shape
from pfedhr.zoo.text import BagOfEmbeddings, RecurrentText, TransformerText
from pfedhr.zoo.vision import MobileNetwork, ResidualNetwork, VisionTransformer

__all__ = ["IMAGES", "TEXT", "VECTORS", "ZOO", "ModelError", "Shape"]

VECTORS: dict[str, Callable[[Shape, int], nn.Module]] = {"mlp": mlp, "mlp-wide": mlp_wide, "mlp-deep": mlp_deep}
IMAGES: dict[str, Callable[[Shape, int], nn.Module]] = {
    "cnn1": cnn1,
    "cnn2": cnn2,
    "cnn3": cnn3,
    "cnn4": cnn4,
    "cnn4-half": cnn4_half,
    "cnn4-quarter": cnn4_quarter,
    "cnn4-eighth": cnn4_eighth,
    "resnet": ResidualNetwork,
    "mobilenet": MobileNetwork,
    "vit": VisionTransformer,
}
TEXT: dict[str, Callable[[Shape, int], nn.Module]] = {
    "lstm": RecurrentText,
    "transformer": TransformerText,
    "bag": BagOfEmbeddings,
}
ZOO = IMAGES | VECTORS | TEXT
