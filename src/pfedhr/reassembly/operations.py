"""What kind of operation a block is, and the natural order of kinds that rule R2 keeps."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

import torch
from torch import fx, nn
from torch.nn import functional

from pfedhr.reassembly.symbolic import WHOLE_LAYERS

RANKS = {"embedding": 0, "conv": 1, "recurrent": 2, "attention": 2, "tokenwise": 2, "other": 2, "fc": 3}
"""The place of each kind in the natural order: conv before fc as in the paper; equal places may follow each other both ways.

`tokenwise` is a linear layer on every token or pixel by itself, the other half of a transformer's layer; `fc` gives a vector.
"""

OPERATIONS = tuple(RANKS)

_CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(functional.conv1d, functional.conv2d, functional.conv3d, torch.conv1d, torch.conv2d, torch.conv3d),
    *(functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d),
)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag, functional.embedding, functional.embedding_bag)
_LINEAR = (nn.Linear, nn.Bilinear, functional.linear, functional.bilinear)
_SOFTMAX = (nn.Softmax, functional.softmax, torch.softmax, "softmax")
_BATCHED = (operator.matmul, torch.matmul, torch.bmm, torch.baddbmm, torch.einsum, "matmul", "__matmul__", "bmm", "baddbmm")
"""Products that attention over a batch may be made of."""
_PRODUCTS = (*_BATCHED, torch.mm, torch.addmm, "mm", "addmm")
_APPLYING = (*_CONVOLUTIONS, *_EMBEDDINGS, *_LINEAR, *_PRODUCTS, functional.multi_head_attention_forward)
MATRIX_FUNCTIONS = frozenset(one for one in _APPLYING if not isinstance(one, type))
"""What applies a matrix or a kernel: functions, and methods by their names."""


def operation(model: nn.Module, nodes: Sequence[fx.Node], out_shape: tuple[int, ...]) -> str:
    """Return the kind of the block that `nodes` compute, which gives `out_shape` without the batch axis."""
    used = {_what(model, node) for node in nodes}

    def any_of(kinds: Sequence[object]) -> bool:
        return any(kind in used for kind in kinds)

    if any_of((*WHOLE_LAYERS, functional.scaled_dot_product_attention)) or (any_of(_SOFTMAX) and any_of(_BATCHED)):
        return "attention"
    if any(isinstance(one, type) and issubclass(one, nn.RNNBase | nn.RNNCellBase) for one in used):
        return "recurrent"
    if any_of(_CONVOLUTIONS):
        return "conv"
    if any_of(_EMBEDDINGS):
        return "embedding"
    linear = any_of(_LINEAR) or any(one in _PRODUCTS for one in used)
    return "other" if not linear else "fc" if len(out_shape) == 1 else "tokenwise"


def strongest(kinds: Iterable[str]) -> str:
    """Return the kind of a block made of blocks of these kinds: the first of them that names a whole in `operation`."""
    found = set(kinds)
    return next(kind for kind in ("attention", "recurrent", "conv", "embedding", "tokenwise", "other", "fc") if kind in found)


def _what(model: nn.Module, node: fx.Node) -> object:
    """Return the type of a layer, or the function or method's name."""
    if node.op != "call_module":
        return node.target
    layer = type(model.get_submodule(str(node.target)))
    known = (*WHOLE_LAYERS, *_CONVOLUTIONS, *_EMBEDDINGS, *_LINEAR)
    return next((kind for kind in known if isinstance(kind, type) and issubclass(layer, kind)), layer)
