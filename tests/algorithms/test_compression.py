"""Known answers of the compression of changes that FedKD sends."""

from __future__ import annotations

import pytest
import torch
from toy import equal

from pfedhr.algorithms.averaging import differences, mixed
from pfedhr.algorithms.compression import Change, apply, change_fault, change_size, compress, expand, rank
from pfedhr.algorithms.private import common_weights
from pfedhr.models import ModelSpec
from pfedhr.parcel import pack, unpack


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_ranks_have_their_known_values() -> None:
    assert rank(torch.tensor([1.0, 0.1]), 0.95) == 1
    assert rank(torch.tensor([5.0, 0.0, 0.0]), 0.999) == 1
    assert rank(torch.ones(10), 0.95) == 10  # a flat spectrum takes all, not none
    assert rank(torch.ones(100), 0.95) == 95
    assert rank(torch.tensor([1.0, 1e-6]), 1.0) == 2  # energy 1 is all of it, though float32 would not tell
    assert rank(torch.zeros(3), 0.95) == 0


def test_all_the_energy_is_the_change_itself() -> None:
    added = {"wide": noise(6, 40), "conv": noise(8, 3, 5, 5), "bias": noise(6)}
    change = compress(added, 1.0, ())
    assert all(torch.allclose(value, added[name], atol=1e-5) for name, value in expand(change, added).items())
    narrow = noise(30, 4) @ noise(4, 20, seed=1)
    rounded = compress({"narrow": narrow}, 1 - 1e-9, ())
    assert rounded.left["narrow"].shape == (30, 4)
    assert torch.allclose(expand(rounded, {"narrow": narrow})["narrow"], narrow, atol=1e-5)


@pytest.mark.parametrize("energy", [0.1, 0.5, 0.9, 0.999])
def test_a_matrix_of_rank_one_takes_one_part(energy: float) -> None:
    matrix = torch.outer(noise(9), noise(7, seed=1)).reshape(9, 7, 1, 1)
    change = compress({"conv": matrix}, energy, ())
    assert (change.left["conv"].shape, change.right["conv"].shape) == ((9, 1), (1, 7))
    assert change_size(change) == 16
    assert torch.allclose(expand(change, {"conv": matrix})["conv"], matrix, atol=1e-5)


@pytest.mark.parametrize("energy", [0.5, 0.8, 0.95])
def test_a_change_keeps_its_energy_and_one_part_less_would_not(energy: float) -> None:
    matrix = noise(60, 60) @ torch.diag(0.8 ** torch.arange(60.0))
    change = compress({"w": matrix}, energy, ())
    total = matrix.square().sum()
    assert expand(change, {"w": matrix})["w"].square().sum() >= energy * total * (1 - 1e-5)
    shorter = change.left["w"][:, :-1] @ change.right["w"][:-1]
    assert shorter.square().sum() < energy * total


def test_only_matrices_that_gain_by_it_are_compressed() -> None:
    thin = torch.outer(noise(8), noise(8, seed=1))
    added = {"head": thin, "flat": torch.eye(10), "row": noise(1, 5), "bias": noise(8), "seen": torch.tensor(7), "w": thin}
    change = compress(added, 0.95, {"head"})
    assert change.left.keys() == change.right.keys() == {"w"}
    assert equal(change.whole, {name: value for name, value in added.items() if name != "w"})


def test_changes_survive_the_wire_and_a_network_that_stood_still_sends_next_to_nothing() -> None:
    before = common_weights(ModelSpec("mlp", (1, 8, 8), 4), 0)
    still = compress(differences(before, before), 0.95, ())
    assert change_size(still) == sum(value.numel() for name, value in before.items() if value.dim() < 2)
    assert equal(apply(unpack(Change, pack(still)), before), before)


def test_counters_are_replaced_and_floats_added() -> None:
    before = {"w": torch.tensor([1.0, 2.0]), "seen": torch.tensor(4)}
    after = {"w": torch.tensor([1.5, 0.0]), "seen": torch.tensor(9)}
    change = compress(differences(before, after), 0.95, ())
    assert equal(change.whole, {"w": torch.tensor([0.5, -2.0]), "seen": torch.tensor(9)})
    assert equal(apply(change, before), after)


def test_a_mask_stays_as_it_is() -> None:
    mask = torch.tensor([0.0, -torch.inf])
    added = differences({"mask": mask}, {"mask": mask.clone()})
    assert added["mask"].tolist() == [0.0, 0.0]
    assert torch.equal(apply(compress(added, 0.95, ()), {"mask": mask})["mask"], mask)
    assert torch.equal(mixed({"mask": mask}, {"mask": mask.clone()}, 0.3)["mask"], mask)


def test_a_change_whose_product_is_not_finite_is_none() -> None:
    like = {"w": torch.zeros(4, 4), "mask": torch.tensor([0.0, -torch.inf])}
    whole = {"mask": torch.zeros(2)}
    assert not change_fault(Change(whole, {"w": torch.ones(4, 1)}, {"w": torch.ones(1, 4)}), like)
    large = torch.full((4, 1), 1e30)
    assert change_fault(Change(whole, {"w": large}, {"w": large.T}), like) == "its part w is not finite"
    broken = Change({"mask": like["mask"]}, {"w": torch.ones(4, 1)}, {"w": torch.ones(1, 4)})
    assert change_fault(broken, like) == "its part mask is not finite"
