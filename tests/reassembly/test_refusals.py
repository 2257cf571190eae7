"""What a blueprint would lose of a network is refused, and what the message says helps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import (
    parametrizations,
    parametrize,
    prune,
    remove_spectral_norm,
    remove_weight_norm,
    spectral_norm,
    weight_norm,
)

from pfedhr.reassembly import DescriptionError, describe, rebuild

INPUTS = torch.randn(5, 6)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))


def same(model: nn.Module) -> bool:
    """Return whether a twin of `model` gives the same outputs."""
    described = describe(model, INPUTS)
    return torch.equal(rebuild(described.blueprint, described.weights(model)).eval()(INPUTS), model.eval()(INPUTS))


HOOKS = ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook", "register_full_backward_pre_hook"]


@pytest.mark.parametrize("place", ["", "2"], ids=["network", "layer"])
@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_that_no_blueprint_holds_are_refused(hook: str, place: str) -> None:
    model = network()
    handle = getattr(model.get_submodule(place), hook)(lambda *seen: None)
    with pytest.raises(DescriptionError, match=r"(the network|2) \((Sequential|ReLU)\) has hooks.*Remedies"):
        describe(model, INPUTS)
    handle.remove()
    assert same(model)


def test_a_forward_set_on_a_layer_is_refused() -> None:
    model = network()
    model[2].forward = lambda x: x * 2
    with pytest.raises(DescriptionError, match=r"2 \(ReLU\) has hooks or a forward\(\) that its class does not have"):
        describe(model, INPUTS)


def test_a_forward_hook_that_is_followed_is_kept() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 4), nn.ReLU()), nn.Linear(4, 3))
    model[0].register_forward_hook(lambda *seen: seen[-1] * 2)
    assert same(model)


COMPUTED = {
    weight_norm: remove_weight_norm,
    spectral_norm: remove_spectral_norm,
    parametrizations.weight_norm: lambda layer: parametrize.remove_parametrizations(layer, "weight"),
    parametrizations.spectral_norm: lambda layer: parametrize.remove_parametrizations(layer, "weight"),
    lambda layer: prune.l1_unstructured(layer, "weight", 0.5): lambda layer: prune.remove(layer, "weight"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("put_on", COMPUTED)
def test_weights_that_are_computed_from_others_are_refused_until_they_are_baked_in(put_on: Any) -> None:
    model = network()
    put_on(model[0])
    with pytest.raises(DescriptionError, match=r"Remedies: before the run, bake in what computes weights"):
        describe(model, INPUTS)
    COMPUTED[put_on](model[0])
    assert same(model)


def test_weights_that_a_new_layer_would_not_take_are_refused() -> None:
    with pytest.raises(DescriptionError, match=r"a Linear holds bias, weight otherwise.*leave sizes and types"):
        describe(network().double(), INPUTS.double())
    cut_short = network()
    cut_short[5].weight = nn.Parameter(cut_short[5].weight[:2])
    cut_short[5].bias = nn.Parameter(cut_short[5].bias[:2])
    with pytest.raises(DescriptionError, match="a Linear holds bias, weight otherwise"):
        describe(cut_short, INPUTS)
