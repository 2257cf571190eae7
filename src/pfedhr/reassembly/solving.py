"""Stitches in closed form: ridge regression from what reaches a stitch to what the block behind it took in its own network.

No gradient is taken. A stitch is a linear map between a pooling before and an interpolation after, so its best weights solve a
linear system; the ReLU behind it is left out of account, for what blocks take is mostly what a ReLU gave.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pfedhr.inference import inference
from pfedhr.reassembly.assembly import Joint
from pfedhr.reassembly.bank import BlockBank, BlockRef
from pfedhr.reassembly.blocks import flatten_for

RIDGE = 1e-3
"""Weight of the squared weights against the mean square of what they multiply."""
WIDEST = 4096
"""Inputs that a layer may have to be solved; wider ones, which `full` stitches can be, keep their initial weights."""


def solved_joints(
    parts: Mapping[str, BlockRef | Joint],
    bank: BlockBank,
    intake: Callable[[BlockRef], Tensor],
    probe: Tensor,
    outputs: Float[Tensor, "samples classes"],
) -> dict[str, nn.Module]:
    """Return the joints of a reassembled network by their names in `parts`, its `layout`, solved one after the other.

    `intake` gives what a block takes in its own network on `probe` (samples, ...), as `intakes` does; `outputs`: the logits
    that a head shall give. Each joint is solved for what really reaches it, so it makes up for the errors of those before it.
    """
    names, joints, values = list(parts), dict[str, nn.Module](), probe
    for place, name in enumerate(names):
        part = parts[name]
        if isinstance(part, BlockRef):
            module = bank[part].module
        else:
            module = joints[name] = part.build().to(probe.device)
        with inference(module):
            if isinstance(part, Joint) and part.kind != "flatten":
                following = None if part.kind == "head" else parts[names[place + 1]]
                _solve(module, values, intake(following) if isinstance(following, BlockRef) else outputs)
            values = module(values)
    return joints


def intakes(bank: BlockBank, probe: Tensor) -> Callable[[BlockRef], Tensor]:
    """Return what gives the input of any block of the bank, in its own network on `probe`, in eval mode."""

    @functools.cache
    def intake(ref: BlockRef) -> Tensor:
        if ref.index == 1:
            return flatten_for(bank[ref], probe)
        before = BlockRef(ref.owner, ref.index - 1)
        with inference(bank[before].module):
            return flatten_for(bank[ref], bank[before].module(intake(before)))

    return intake


def _solve(joint: nn.Module, values: Tensor, wanted: Tensor) -> None:
    """Give the first layer of `joint` the weights that lead from `values` to `wanted`, and later ones those of the identity."""
    first, *later = [module for module in joint.children() if isinstance(module, nn.Linear | nn.Conv2d)]
    for module in joint.children():
        if module is first:
            break
        values = module(values)
    inputs, targets = _rows(first, values), _rows(first, _pulled(wanted, first(values)))
    if inputs.shape[1] <= WIDEST:
        weight, bias = ridge(inputs, targets)
        first.weight.copy_(weight.view_as(first.weight))
        first.bias.copy_(bias)  # pyright: ignore[reportOptionalMemberAccess]  - every joint's layers have one
    for module in later:
        module.weight.copy_(torch.eye(len(module.weight)).view_as(module.weight))
        module.bias.zero_()  # pyright: ignore[reportOptionalMemberAccess]


def ridge(inputs: Float[Tensor, "rows inputs"], targets: Float[Tensor, "rows outputs"]) -> tuple[Tensor, Tensor]:
    """Return weight (outputs, inputs) and bias (outputs,) of the best linear map, its weight held small by RIDGE."""
    inputs, targets = inputs.double(), targets.double()
    centre, level = inputs.mean(0), targets.mean(0)
    inputs, targets = inputs - centre, targets - level
    gram = inputs.T @ inputs
    scale = float(gram.diagonal().mean()) or 1.0  # inputs that never change give nothing to scale by, and need no weight
    weight = torch.linalg.solve(gram + RIDGE * scale * torch.eye(len(gram)).to(gram), inputs.T @ targets).T
    return weight, level - weight @ centre


def _rows(layer: nn.Module, values: Tensor) -> Tensor:
    """Return values before or behind a layer as one row a sample, pixel or token."""
    return values.movedim(1, -1).flatten(0, -2) if isinstance(layer, nn.Conv2d) else values.flatten(0, -2)


def _pulled(wanted: Tensor, reached: Tensor) -> Tensor:
    """Return what the first layer should give, shaped as `reached`, for what follows it to come near to `wanted`.

    What follows reshapes and interpolates from fewer places to more: its way back is the mean over the places.
    """
    if wanted.numel() == reached.numel():
        return wanted.reshape(reached.shape) if wanted.dim() != 4 or reached.dim() != 3 else wanted.flatten(2).mT
    if reached.dim() == 4:
        return functional.adaptive_avg_pool2d(wanted, (reached.shape[2], reached.shape[3]))
    tokens = wanted.flatten(2).mT if wanted.dim() == 4 else wanted
    return tokens.mean(1) if reached.dim() == 2 else functional.adaptive_avg_pool1d(tokens.mT, reached.shape[1]).mT
