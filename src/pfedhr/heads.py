"""A network as an extractor of features and a linear head: how to find the head, adapt it to a width, and see the features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pfedhr.errors import PfedhrError
from pfedhr.inference import inference


class HeadError(PfedhrError):
    """A network that does not end in a linear layer; the message says what that means for it."""


def head_name(model: nn.Module, classes: int) -> str:
    """Return the name of the last linear layer with `classes` outputs. Raises HeadError if there is none."""
    found = [
        name for name, part in model.named_modules() if isinstance(part, nn.Linear) and part.out_features == classes and name
    ]
    if not found:
        raise HeadError(
            f"the network has no linear layer of {classes} outputs as a part of it, so its features cannot be told from its "
            f"head: let it end in nn.Linear(features, {classes})"
        )
    return found[-1]


def adapt(model: nn.Module, features: int, classes: int) -> None:
    """Put Linear(entering, features), ReLU and Linear(features, classes) in the place of the head, in place.

    Networks of any width then have features of one width before a head of one shape, as methods need that share heads or
    prototypes. Raises HeadError if there is no head.
    """
    name = head_name(model, classes)
    entering = _part(model, name).in_features
    parent, _, own = name.rpartition(".")
    setattr(
        model.get_submodule(parent),
        own,
        nn.Sequential(nn.Linear(entering, features), nn.ReLU(), nn.Linear(features, classes)),
    )


def check_adapted(model: nn.Module, classes: int, example: Tensor) -> None:
    """Raise HeadError unless what `model` gives for `example` (n, ...) comes all through the adapter that `adapt` put in.

    With the adapter's outputs held at zero, no other weight may have a gradient. What follows it may be any function without
    weights, such as a softmax.
    """
    name = head_name(model, classes)
    place, held = name.rpartition(".")[0], list[Tensor]()

    def hold(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        held.append(torch.zeros_like(output))
        return held[-1]

    handle = _part(model, name).register_forward_hook(hold)
    try:
        with torch.enable_grad():
            output = model(example.clone())
    finally:
        handle.remove()
    if not held:
        raise HeadError(f"its last linear layer of {classes} outputs, {place!r}, is not called")
    if output.requires_grad:
        raise HeadError(f"other weights lie behind or beside its last linear layer of {classes} outputs, {place!r}")


class Extractor:
    """Runs a network and keeps what enters its head: `features` and logits at once."""

    def __init__(self, model: nn.Module, classes: int) -> None:
        """Raises HeadError if the model has no head."""
        self.model = model
        self.head_name = head_name(model, classes)
        self.head = _part(model, self.head_name)

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features (batch, width) and logits (batch, classes) of `inputs`, in the mode that the model is in.

        Raises HeadError if the model does not call its head.
        """
        seen: list[Tensor] = []

        def see(_: nn.Module, arguments: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            seen.append([*arguments, *named.values()][0])  # by place or by keyword

        handle = self.head.register_forward_pre_hook(see, with_kwargs=True)
        try:
            logits = self.model(inputs)
        finally:
            handle.remove()
        if not seen:
            mode = "training" if self.model.training else "evaluation"
            raise HeadError(
                f"the network's last linear layer of {self.head.out_features} outputs, {self.head_name!r}, is not called in "
                f"{mode}: let __init__() make it before the layer whose outputs forward() returns, or remove it"
            )
        return seen[-1], logits

    def check(self, example: Tensor) -> None:
        """Raise HeadError unless what the head gives for `example` (n, ...) is what the network returns."""
        with inference(self.model):
            features, logits = self(example.clone())  # for the network may change in place what it takes
            if features.dim() != 2 or not self.head(features).equal(logits):
                raise HeadError(
                    f"the network's last linear layer, {self.head_name!r}, is not what it returns: let its forward() end there"
                )


def _part(model: nn.Module, name: str) -> nn.Linear:
    part = model.get_submodule(name)
    assert isinstance(part, nn.Linear)
    return part
