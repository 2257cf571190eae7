"""Which values of a graph are signals (batch, channels, length), as 1d convolutions take them, not (batch, tokens, width).

Shapes do not tell. The operations do that take a value or make it, or that take or make another from which it differs in one
axis alone, or in the order of the two.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from pfedhr.reassembly.modes import MODE
from pfedhr.reassembly.symbolic import shaped

_ON_SIGNALS = (
    *(nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d, nn.GroupNorm, nn.Dropout1d, nn.Upsample),
    *(nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d),
)
_SIGNAL_FUNCTIONS = frozenset(
    (
        *(functional.conv1d, functional.conv_transpose1d, functional.interpolate, functional.dropout1d),
        *(functional.batch_norm, functional.instance_norm, functional.group_norm),
        *(functional.max_pool1d, functional.avg_pool1d),
        *(functional.adaptive_avg_pool1d, functional.adaptive_max_pool1d),
    )
)
"""What has its channels in the second of three axes."""
_SWAPPING = frozenset(
    (
        *(torch.transpose, torch.swapaxes, torch.permute, torch.movedim, getattr),
        *("transpose", "swapaxes", "permute", "movedim"),
    )
)
"""What may change the order of axes; of attributes `mT` alone gives three."""


def signals(model: nn.Module, graph: fx.Graph) -> frozenset[fx.Node]:
    """Return the values of `graph` that are (batch, channels, length)."""
    known: dict[fx.Node, bool] = {}
    links: list[tuple[fx.Node, fx.Node, bool]] = []  # of two values, and whether their axes are in the same order
    for node in graph.nodes:
        taken = [one for one in node.all_input_nodes if one.op != "get_attr" and _three_axes(one)]
        made = [node] if node.op != "output" and _three_axes(node) else []
        if (told := _told(model, node)) is not None:
            known |= dict.fromkeys((one for one in (*taken, *made) if one not in known), told)
        links += [(one, node, same) for one in taken if made and (same := _same_order(one, node)) is not None]
    count = -1
    while count < len(known):  # a value may be told by what comes long before it or behind it
        count = len(known)
        for one, other, same in links:
            if one in known:
                known.setdefault(other, known[one] == same)
        for one, other, same in reversed(links):
            if other in known:
                known.setdefault(one, known[other] == same)
    return frozenset(node for node, signal in known.items() if signal)


def _three_axes(node: fx.Node) -> bool:
    value = shaped(node)
    return isinstance(value, Tensor) and value.dim() == 3


def _told(model: nn.Module, node: fx.Node) -> bool | None:
    """Return whether what a node takes and makes are signals, or None where that says nothing about it."""
    if node.op != "call_module" or node.target == MODE:
        return True if node.target in _SIGNAL_FUNCTIONS else None
    layer = model.get_submodule(str(node.target))
    if isinstance(layer, nn.RNNBase | nn.MultiheadAttention) and layer.batch_first:
        return False
    return True if isinstance(layer, _ON_SIGNALS) else None


def _same_order(one: fx.Node, other: fx.Node) -> bool | None:
    """Return whether a value made from `one` has its axes in the same order; None where it keeps neither of them."""
    first, second = tuple(shaped(one).shape[1:]), tuple(shaped(other).shape[1:])
    if other.target in _SWAPPING:
        return False if first == second[::-1] else None
    return True if any(a == b for a, b in zip(first, second, strict=True)) else None
