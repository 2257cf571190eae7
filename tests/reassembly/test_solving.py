"""Stitches in closed form: known answers, and the obvious slow twins."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from pfedhr.inference import predict
from pfedhr.models import ModelSpec, build
from pfedhr.reassembly import BlockRef, Joint, Recipe, StitchKind, assemble, deposit, intakes, layout, solved_joints
from pfedhr.reassembly.blocks import flatten_for
from pfedhr.reassembly.solving import RIDGE, WIDEST, _solve, ridge

SHAPES = [(6,), (4, 6), (9, 5), (10, 6), (3, 4, 4), (5, 8, 8), (6, 2, 3)]


def test_a_linear_relation_is_found() -> None:
    inputs, weight, bias = torch.randn(200, 7), torch.randn(3, 7), torch.randn(3)
    found, level = ridge(inputs, inputs @ weight.T + bias)
    torch.testing.assert_close(found.float(), weight, rtol=0, atol=0.01)
    torch.testing.assert_close(level.float(), bias, rtol=0, atol=0.01)


def test_ridge_is_least_squares_with_rows_that_hold_the_weights_small() -> None:
    """The slow twin: one more row an input, and a column of ones that nothing holds."""
    inputs, targets = torch.randn(50, 4, dtype=torch.float64) + 1, torch.randn(50, 2, dtype=torch.float64)
    centred = inputs - inputs.mean(0)
    strength = RIDGE * centred.square().sum(0).mean()
    rows = torch.cat(
        [torch.cat([inputs, torch.ones(50, 1)], 1), torch.cat([strength.sqrt() * torch.eye(4), torch.zeros(4, 1)], 1)]
    )
    expected = torch.linalg.lstsq(rows, torch.cat([targets, torch.zeros(4, 2)])).solution.T
    weight, bias = ridge(inputs, targets)
    torch.testing.assert_close(torch.cat([weight, bias[:, None]], 1), expected)


def test_inputs_that_never_change_leave_the_mean() -> None:
    weight, bias = ridge(torch.ones(9, 3), torch.arange(18.0).view(9, 2))
    assert not weight.any()
    torch.testing.assert_close(bias.float(), torch.tensor([8.0, 9.0]))


def network(name: str, seed: int = 0) -> nn.Module:
    return build(ModelSpec(name, (1, 8, 8), 4), seed).eval()


@pytest.mark.parametrize("name", ["cnn1", "cnn2", "resnet", "mlp"])
def test_between_two_copies_of_one_network_a_solved_stitch_changes_nothing(name: str) -> None:
    """Every second block is the other copy's, so there is a stitch at each place, and what it should do is nothing."""
    model, probe = network(name), torch.rand(128, 1, 8, 8) * 2 - 1
    bank = deposit({"a": model, "b": copy.deepcopy(model)}, probe[:2])
    chain = bank.chain("a")
    recipe = Recipe(tuple(BlockRef("ab"[place % 2], ref.index) for place, ref in enumerate(chain)))
    parts = layout(recipe, bank)
    expected = predict(model, probe)
    joints = solved_joints(parts, bank, intakes(bank, probe), probe, expected)
    candidate, untuned = assemble(recipe, bank), assemble(recipe, bank)
    for name_, joint in joints.items():
        candidate.get_submodule(name_).load_state_dict(joint.state_dict())
    error, before = ((predict(one, probe) - expected).square().mean() for one in (candidate, untuned))
    # Resizing loses what it must; where maps keep their size nothing is lost but by the ridge.
    assert error < 0.05 * expected.var()
    assert error < 0.1 * before


def test_what_a_block_takes_is_what_its_own_network_gives_it() -> None:
    probe = torch.rand(9, 1, 8, 8)
    bank = deposit({"a": network("cnn1"), "b": network("mlp")}, probe[:2])
    intake = intakes(bank, probe)
    for owner in bank.owners:
        values = probe
        for ref in bank.chain(owner):
            values = flatten_for(bank[ref], values)
            assert torch.equal(intake(ref), values)
            with torch.no_grad():
                values = bank[ref].module.eval()(values)


@pytest.mark.parametrize(("source", "target"), list(itertools.product(SHAPES, SHAPES)))
@pytest.mark.parametrize("kind", ["light", "full"])
@pytest.mark.parametrize("layers", [1, 2])
def test_in_every_direction_a_solved_stitch_is_nearer_than_one_that_is_not(
    source: tuple[int, ...], target: tuple[int, ...], kind: StitchKind, layers: int
) -> None:
    torch.manual_seed(0)
    values = torch.rand(64, *source)
    joint = Joint(kind, source, target, layers=layers).build().eval()
    with torch.no_grad():
        wanted: Tensor = 2 + joint(values) + 0.1 * torch.rand(64, *target)  # positive, as behind a ReLU
        solved = Joint(kind, source, target, layers=layers).build().eval()
        before = (solved(values) - wanted).square().mean()
        _solve(solved, values, wanted)
        after = (solved(values) - wanted).square().mean()
    assert after < 0.1 * before


def test_a_head_leads_to_the_outputs_that_are_asked_for() -> None:
    probe = torch.rand(128, 1, 8, 8)
    bank = deposit({"a": network("cnn1")}, probe[:2])
    recipe = Recipe(bank.chain("a")[:-1])
    parts = layout(recipe, bank)
    assert list(parts)[-1] == "head"
    outputs = predict(network("cnn1"), probe)  # a linear layer of its features gives just these
    joints = solved_joints(parts, bank, intakes(bank, probe), probe, outputs)
    candidate = assemble(recipe, bank)
    candidate.get_submodule("head").load_state_dict(joints["head"].state_dict())
    assert (predict(candidate, probe) - outputs).square().mean() < 0.05 * outputs.var()


def test_what_is_too_wide_to_be_solved_keeps_its_first_weights() -> None:
    source = (WIDEST + 1,)
    joint = Joint("light", source, (2,)).build()
    before = copy.deepcopy(joint.state_dict())
    with torch.no_grad():
        _solve(joint, torch.rand(3, *source), torch.rand(3, 2))
    assert all(torch.equal(before[name], value) for name, value in joint.state_dict().items())
