"""Stitches in closed form: ridge regression from what reaches a stitch to what the block behind it took in its own network.

No gradient is taken. A stitch is a linear map between a pooling before and an interpolation after, so its best weights solve a
linear system; the ReLU behind it is left out of account, for what blocks take is mostly what a ReLU gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pfedhr.inference import predict
from pfedhr.reassembly.assembly import Joint
from pfedhr.reassembly.bank import BlockBank, BlockRef
from pfedhr.reassembly.recipes import Recipe
from pfedhr.reassembly.sharing import run_shared

RIDGE = 1e-3
"""Weight of the squared weights against the mean square of what they multiply."""
WIDEST = 4096
"""Inputs that a layer may have to be solved; wider ones, which `full` stitches can be, keep their initial weights."""
MOST_ROWS = 10_007
"""Pixels or tokens that a layer is solved on at most. A prime, so that even steps through them meet all columns of a map."""


class Solution(NamedTuple):
    """A reassembled network's modules by their names in its `layout`, and its logits (samples, classes) on the probe."""

    modules: Mapping[str, nn.Module]
    logits: Tensor


class _Step(NamedTuple):
    """A part, the block that a stitch leads to, and whether all up to here is as in the block's own network."""

    name: str
    part: BlockRef | Joint
    target: BlockRef | None
    own: bool


class _Reached(NamedTuple):
    """What leaves a step, and the modules up to there by their names."""

    values: Tensor
    modules: Mapping[str, nn.Module]


def solved_joints(
    layouts: Mapping[Recipe, Mapping[str, BlockRef | Joint]],
    bank: BlockBank,
    intakes: Mapping[BlockRef, Tensor],
    probe: Tensor,
    outputs: Float[Tensor, "samples classes"],
) -> dict[Recipe, Solution]:
    """Return reassembled networks by their `layout`, their joints solved one after the other.

    `intakes`: what each block takes in its own network on `probe` (samples, ...), as `profile` keeps it; `outputs`: the logits
    that a head shall give. Each joint is solved for what really reaches it, so it makes up for the errors of those before it.
    What networks have in common from the input on is solved once.
    """

    def take(before: _Reached, step: _Step) -> _Reached:
        part = step.part
        module = bank[part].module if isinstance(part, BlockRef) else part.build().to(probe.device)
        modules = {**before.modules, step.name: module}
        if isinstance(part, BlockRef):
            following = BlockRef(part.owner, part.index + 1)
            if step.own and following in intakes:
                return _Reached(intakes[following].reshape(len(probe), *bank[part].out_shape), modules)
        elif part.kind != "flatten":
            _solve(module, before.values, outputs if step.target is None else intakes[step.target])
        return _Reached(predict(module, before.values), modules)

    ends = run_shared({recipe: _steps(parts) for recipe, parts in layouts.items()}, _Reached(probe, {}), take)
    return {recipe: Solution(end.modules, end.values) for recipe, end in ends.items()}


def _steps(parts: Mapping[str, BlockRef | Joint]) -> list[_Step]:
    """Return the parts of a network as steps, which are equal where the same is to be done."""
    behind = [*parts.values(), None][1:]
    steps: list[_Step] = []
    own, before = True, None
    for (name, part), following in zip(parts.items(), behind, strict=True):
        if isinstance(part, BlockRef):
            own = own and part.index == (before.index + 1 if before else 1) and part.owner == (before or part).owner
            before = part
        else:
            own = own and part.kind == "flatten"
        target = following if isinstance(part, Joint) and isinstance(following, BlockRef) else None
        steps.append(_Step(name, part, target, own))
    return steps


@torch.no_grad()
def _solve(joint: nn.Module, values: Tensor, wanted: Tensor) -> None:
    """Give the first layer of `joint` the weights that lead from `values` to `wanted`, and later ones those of the identity."""
    first, *later = [module for module in joint.children() if isinstance(module, nn.Linear | nn.Conv2d)]
    for module in joint.children():
        if module is first:
            break
        values = module(values)
    # Of what the layer gives now only the shape matters, which one sample tells.
    reached = first(values[:1]).expand(len(values), *[-1] * (values.dim() - 1))
    inputs, targets = (_spread(_rows(first, one)) for one in (values, _pulled(wanted, reached)))
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
    rows, width = inputs.shape
    # The same weights come of a system of as many unknowns as there are inputs, or rows.
    products = inputs.T @ inputs if width <= rows else inputs @ inputs.T
    # Inputs that never change give nothing to scale by, and need no weight.
    scale = float(products.diagonal().sum()) / width or 1.0
    products.diagonal().add_(RIDGE * scale)
    factor, _ = torch.linalg.cholesky_ex(products)  # unlike cholesky, it lets NaN through
    if width <= rows:
        weight = torch.cholesky_solve(inputs.T @ targets, factor).T
    else:
        weight = torch.cholesky_solve(targets, factor).T @ inputs
    return weight, level - weight @ centre


def _rows(layer: nn.Module, values: Tensor) -> Tensor:
    """Return values before or behind a layer as one row a sample, pixel or token."""
    return values.movedim(1, -1).flatten(0, -2) if isinstance(layer, nn.Conv2d) else values.flatten(0, -2)


def _spread(rows: Tensor) -> Tensor:
    """Return MOST_ROWS of more rows, evenly from all samples and places."""
    return rows if len(rows) <= MOST_ROWS else rows[torch.arange(MOST_ROWS, device=rows.device) * len(rows) // MOST_ROWS]


def _pulled(wanted: Tensor, reached: Tensor) -> Tensor:
    """Return what the first layer should give, shaped as `reached`, for what follows it to come near to `wanted`.

    What follows reshapes and interpolates from fewer places to more: its way back is the mean over the places.
    """
    if wanted.dim() == 3 and reached.dim() != 3:  # a signal, for what leads to a sequence gives one from its first layer on
        wanted = wanted[:, :, None]
    if wanted.numel() == reached.numel():
        return wanted.reshape(reached.shape) if wanted.dim() != 4 or reached.dim() != 3 else wanted.flatten(2).mT
    if reached.dim() == 4:
        return functional.adaptive_avg_pool2d(wanted, (reached.shape[2], reached.shape[3]))
    tokens = wanted.flatten(2).mT if wanted.dim() == 4 else wanted
    return tokens.mean(1) if reached.dim() == 2 else functional.adaptive_avg_pool1d(tokens.mT, reached.shape[1]).mT
