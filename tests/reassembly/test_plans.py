"""Blocks as data: what is rebuilt of a plan and weights is the network, however finely it was cut."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pfedhr.models import ModelSpec, build
from pfedhr.parcel import ParcelError
from pfedhr.reassembly import cut, describe, rebuild_blocks, run_chain
from pfedhr.zoo import IMAGES, TEXT


def network_and_inputs(name: str) -> tuple[nn.Module, torch.Tensor]:
    inputs = torch.randint(256, (4, 9)) if name in TEXT else torch.randn(4, 3, 12, 12)
    model = build(ModelSpec(name, tuple(inputs.shape[1:]), 5), 3)
    return model.eval(), inputs


@pytest.mark.parametrize("most", [0, 2, 1])
@pytest.mark.parametrize("name", [*IMAGES, *TEXT, "mlp-deep"])
def test_rebuilt_blocks_in_order_are_the_network(name: str, most: int) -> None:
    model, inputs = network_and_inputs(name)
    description = describe(model, inputs)
    weights = description.weights(model)
    plans = cut(description.blueprint, most)
    blocks = rebuild_blocks(plans, weights)
    assert len(blocks) <= (most or len(blocks))
    assert sorted(own for block in blocks for own in block.names) == sorted(weights)
    for block in blocks:
        block.module.eval()
    with torch.no_grad():
        assert torch.equal(run_chain(blocks, inputs), model(inputs))
    assert cut(description.blueprint, most) is plans  # a structure is cut once


def test_weights_of_another_structure_are_refused() -> None:
    model, inputs = network_and_inputs("cnn1")
    description = describe(model, inputs)
    weights = description.weights(model)
    name, value = next(iter(weights.items()))
    plans = cut(description.blueprint)
    for wrong in ({}, {**weights, "more": value}, {**weights, name: value[..., :1]}, {**weights, name: value.double()}):
        with pytest.raises(ParcelError):
            rebuild_blocks(plans, wrong)
