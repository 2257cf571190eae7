"""Buffers that several blocks use: those that are only read are in all of them, what may change keeps its blocks together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy import Masked, make_cohort

from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.teacher import draft, teacher_network, weights_in
from pfedhr.algorithms.uploads import Source, deposit_sources
from pfedhr.federate import Schedule, federate
from pfedhr.in_process import InProcess, Workers
from pfedhr.inference import predict
from pfedhr.parcel import unpack
from pfedhr.reassembly import (
    BlockRef,
    Recipe,
    assemble,
    coarsen,
    cut,
    decompose,
    deposit,
    describe,
    rebuild_blocks,
    run_chain,
)
from pfedhr.seeding import seeded

IMAGES = torch.randn(5, 1, 8, 8)


@pytest.mark.parametrize("most", [0, 3, 1])
@pytest.mark.parametrize("persistent", [True, False])
def test_a_network_whose_layers_share_a_mask_is_cut_as_its_description_is(persistent: bool, most: int) -> None:
    model = Masked(4, persistent).eval()
    description = describe(model, IMAGES)
    weights, plans = description.weights(model), cut(description.blueprint, most)
    live = coarsen(decompose(model, IMAGES), most) if most else decompose(model, IMAGES)
    rebuilt = rebuild_blocks(plans, weights)
    assert len(live) == len(rebuilt) == (most or 5)
    assert [len(block.names) for block in live] == [len(block.module.state_dict()) for block in live]
    assert sorted(name for block in live for name in block.names) == sorted(model.state_dict())
    assert sorted(name for block in rebuilt for name in block.names) == sorted(weights)
    assert [block.op for block in live] == [block.op for block in rebuilt]
    for blocks in (live, rebuilt):
        for block in blocks:
            block.module.eval()
        with torch.no_grad():
            assert torch.equal(run_chain(blocks, IMAGES), model(IMAGES))
    assert len(model.state_dict()) == (12 if persistent else 10)  # the model is left as it was


def test_the_buffers_are_named_by_the_first_block_that_reads_them() -> None:
    blocks = decompose(Masked(4), IMAGES)
    assert [[name for name in block.names if name in ("mask", "places")] for block in blocks] == [
        ["places"],
        ["mask"],
        [],
        [],
        [],
    ]


def test_a_teacher_of_later_blocks_carries_the_buffers_of_their_network() -> None:
    model = Masked(4)
    model.mask.copy_(torch.ones(8, 8).triu().bool())  # others than those of another client
    description = describe(model, IMAGES)
    source = Source(description.blueprint, cut(description.blueprint), description.weights(model), 9)
    bank = deposit_sources({"a": source}, torch.device("cpu"))
    recipe = Recipe((BlockRef("a", 1), BlockRef("a", 4), BlockRef("a", 5)))
    with seeded(0):
        teacher = draft(recipe, bank, {"a": source}, "light", 1)
    with seeded(0):
        live = assemble(recipe, deposit({"a": model}, IMAGES))
    assert any(torch.equal(value, model.mask) for name, value in teacher.weights.items() if name.startswith("block2."))
    assert torch.equal(predict(teacher_network(teacher), IMAGES), predict(live, IMAGES))
    whole = draft(Recipe(bank.chain("a")), bank, {"a": source}, "light", 1)
    found = weights_in(whole, source.plans)
    assert found is not None
    assert found.keys() == source.weights.keys()
    assert all(torch.equal(value, source.weights[name]) for name, value in found.items())


def test_a_network_whose_layers_share_a_mask_takes_part() -> None:
    cohort = make_cohort("toy:masked", "mlp")
    algorithm = PFedHR.paper(groups=3, candidates=8, tuning_epochs=1, probe=16)
    engine = InProcess(algorithm, Workers(cohort))
    results = list(federate(algorithm, engine, engine.server_view, list(cohort.networks), Schedule(2, 4), cohort.seed))
    made = unpack(algorithm.server_state, results[-1].progress.server).made.values()
    own = {client for client, network in cohort.networks.items() if network.factory == "toy:masked"}
    later = [one for one in made if any(ref.owner in own and ref.index in (3, 4) for ref in one.recipe.blocks)]
    assert later
    for teacher in later:
        assert any(torch.equal(value, Masked(4).mask) for value in teacher.weights.values())


class Counting(nn.Module):
    """Two of three layers count in the same buffer how often they were called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 3)
        self.register_buffer("count", torch.zeros(2))

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = self.first(inputs).relu()
        self.count[:1].add_(1)
        inputs = self.second(inputs).relu()
        self.count.view(-1).mul_(1)
        return self.head(inputs)


class Normed(nn.Module):
    """Two of three layers are followed by a norm of the same statistics, as a function or as a layer without weights."""

    def __init__(self, layer: bool) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.layer = nn.BatchNorm1d(5, affine=False) if layer else None
        if not layer:
            self.register_buffer("mean", torch.zeros(5))
            self.register_buffer("variance", torch.ones(5))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.norm(self.second(self.norm(self.first(inputs)).relu())).relu())

    def norm(self, inputs: Tensor) -> Tensor:
        if self.layer is not None:
            return self.layer(inputs)
        return functional.batch_norm(inputs, self.mean, self.variance, training=self.training)


@pytest.mark.parametrize("model", [Counting(), Normed(layer=True), Normed(layer=False)])
def test_blocks_that_use_a_buffer_which_changes_are_one(model: nn.Module) -> None:
    inputs = torch.randn(3, 4)
    live, plans = decompose(model, inputs), cut(describe(model, inputs).blueprint)
    assert len(live) == len(plans) == 2
    assert live[1].names == ("head.weight", "head.bias")


class Twice(nn.Module):
    """Two layers, each with a buffer of its own that is the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(64, 6), nn.Linear(6, 3)
        self.register_buffer("scale", torch.tensor(0.5))
        self.register_buffer("other", self.scale)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.first(images.flatten(1)).relu() * self.scale) * self.other


def test_a_buffer_of_two_names_travels_under_the_first() -> None:
    model = Twice().eval()
    description = describe(model, IMAGES)
    blocks = rebuild_blocks(cut(description.blueprint), description.weights(model))
    assert [len(block.names) for block in blocks] == [3, 2]
    for block in blocks:
        block.module.eval()
    with torch.no_grad():
        assert torch.equal(run_chain(blocks, IMAGES), model(IMAGES))
