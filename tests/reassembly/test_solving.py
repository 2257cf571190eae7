"""Stitches in closed form: known answers, and the obvious slow twins."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from pfedhr.inference import predict
from pfedhr.models import ModelSpec, build
from pfedhr.reassembly import (
    BlockBank,
    BlockRef,
    Joint,
    Recipe,
    StitchKind,
    assemble,
    deposit,
    layout,
    profile,
    solved_joints,
    solving,
)
from pfedhr.reassembly.blocks import flatten_for
from pfedhr.reassembly.solving import MOST_ROWS, RIDGE, WIDEST, Solution, _solve, _spread, ridge

SHAPES = [(6,), (4, 6), (9, 5), (10, 6), (3, 4, 4), (5, 8, 8), (6, 2, 3)]
SIGNALS = [(4, 6), (6, 9), (3, 1)]
ENDS = [*((shape, False) for shape in SHAPES), *((shape, True) for shape in SIGNALS)]


def test_a_linear_relation_is_found() -> None:
    inputs, weight, bias = torch.randn(200, 7), torch.randn(3, 7), torch.randn(3)
    found, level = ridge(inputs, inputs @ weight.T + bias)
    torch.testing.assert_close(found.float(), weight, rtol=0, atol=0.01)
    torch.testing.assert_close(level.float(), bias, rtol=0, atol=0.01)


@pytest.mark.parametrize("width", [4, 50, 70])
def test_ridge_is_least_squares_with_rows_that_hold_the_weights_small(width: int) -> None:
    """The slow twin: one more row an input, and a column of ones that nothing holds; more inputs than rows, too."""
    inputs, targets = torch.randn(50, width, dtype=torch.float64) + 1, torch.randn(50, 2, dtype=torch.float64)
    centred = inputs - inputs.mean(0)
    strength = RIDGE * centred.square().sum(0).mean()
    rows = torch.cat(
        [torch.cat([inputs, torch.ones(50, 1)], 1), torch.cat([strength.sqrt() * torch.eye(width), torch.zeros(width, 1)], 1)]
    )
    expected = torch.linalg.lstsq(rows, torch.cat([targets, torch.zeros(width, 2)])).solution.T
    weight, bias = ridge(inputs, targets)
    torch.testing.assert_close(torch.cat([weight, bias[:, None]], 1), expected)


@pytest.mark.parametrize("width", [3, 30])
def test_what_is_not_finite_gives_weights_that_are_not_and_raises_nothing(width: int) -> None:
    inputs = torch.randn(20, width)
    inputs[3, 1] = torch.nan
    assert not ridge(inputs, torch.randn(20, 2))[0].isfinite().all()


def test_of_many_pixels_as_many_are_taken_from_every_column() -> None:
    columns = _spread(torch.arange(256 * 16).repeat(16)[:, None] % 16)  # 256 maps of 16 x 16
    assert len(columns) == MOST_ROWS
    counts = columns.flatten().bincount()
    assert len(counts) == 16
    assert counts.min() > 0.9 * counts.max()
    few = torch.randn(MOST_ROWS, 1)
    assert _spread(few) is few


def test_inputs_that_never_change_leave_the_mean() -> None:
    weight, bias = ridge(torch.ones(9, 3), torch.arange(18.0).view(9, 2))
    assert not weight.any()
    torch.testing.assert_close(bias.float(), torch.tensor([8.0, 9.0]))


def network(name: str, seed: int = 0) -> nn.Module:
    return build(ModelSpec(name, (1, 8, 8), 4), seed).eval()


def solve(recipe: Recipe, bank: BlockBank, probe: Tensor, outputs: Tensor) -> Solution:
    return solved_joints({recipe: layout(recipe, bank)}, bank, profile(bank, probe, len(probe)).intakes, probe, outputs)[recipe]


def put(solution: Solution, candidate: nn.Sequential) -> None:
    for name, part in solution.modules.items():
        if not name.startswith("block"):
            candidate.get_submodule(name).load_state_dict(part.state_dict())


@pytest.mark.parametrize("name", ["cnn1", "cnn2", "resnet", "mlp", "toy:convolutional"])
def test_between_two_copies_of_one_network_a_solved_stitch_changes_nothing(name: str) -> None:
    """Every second block is the other copy's, so there is a stitch at each place, and what it should do is nothing."""
    shape = (2, 37) if name == "toy:convolutional" else (1, 8, 8)
    model, probe = build(ModelSpec(name, shape, 4), 0).eval(), torch.rand(128, *shape) * 2 - 1
    bank = deposit({"a": model, "b": copy.deepcopy(model)}, probe[:2])
    chain = bank.chain("a")
    recipe = Recipe(tuple(BlockRef("ab"[place % 2], ref.index) for place, ref in enumerate(chain)))
    expected = predict(model, probe)
    solution = solve(recipe, bank, probe, expected)
    candidate, untuned = assemble(recipe, bank), assemble(recipe, bank)
    put(solution, candidate)
    torch.testing.assert_close(solution.logits, predict(candidate, probe))
    error, before = ((predict(one, probe) - expected).square().mean() for one in (candidate, untuned))
    # Resizing loses what it must; where maps keep their size nothing is lost but by the ridge.
    assert error < 0.05 * expected.var()
    assert error < 0.1 * before


def slowly_solved(recipe: Recipe, bank: BlockBank, probe: Tensor, outputs: Tensor) -> dict[str, nn.Module]:
    """The slow twin: one network after the other, from the input on."""
    parts, values, modules = layout(recipe, bank), probe, dict[str, nn.Module]()
    names = list(parts)
    for place, name in enumerate(names):
        part = parts[name]
        modules[name] = part.build() if isinstance(part, Joint) else bank[part].module
        if isinstance(part, Joint) and part.kind != "flatten":
            wanted, behind = outputs, parts[names[place + 1]] if part.kind != "head" else None
            if isinstance(behind, BlockRef):
                wanted = probe
                for ref in bank.chain(behind.owner)[: behind.index - 1]:
                    wanted = predict(bank[ref].module, flatten_for(bank[ref], wanted))
                wanted = flatten_for(bank[behind], wanted)
            _solve(modules[name], values, wanted)
        values = predict(modules[name], values)
    return modules


def test_candidates_that_begin_alike_are_solved_as_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    runs: list[nn.Module] = []

    def counted(module: nn.Module, values: Tensor) -> Tensor:
        runs.append(module)
        return predict(module, values)

    probe, outputs = torch.rand(40, 1, 8, 8), torch.randn(40, 4)
    bank = deposit({"a": network("cnn1"), "b": network("cnn3", 1), "c": network("mlp", 2)}, probe[:2])
    a, b, c = (bank.chain(owner) for owner in "abc")
    chains = [a, a[:2] + b[2:], a[:2] + b[3:], a[:2] + c[2:], a[:1] + b[1:3] + a[3:], b[1:], b[:3], c[:1] + a[2:]]
    recipes = [Recipe(blocks) for blocks in chains]
    layouts, kept = {recipe: layout(recipe, bank) for recipe in recipes}, profile(bank, probe, len(probe)).intakes
    with monkeypatch.context() as patched:
        patched.setattr(solving, "predict", counted)
        together = solved_joints(layouts, bank, kept, probe, outputs)
    assert list(together) == recipes
    # What begins alike runs once, and what begins a network as in its own, not at all but for that network's last block.
    beginnings = {
        (*steps[:end], steps[end] if isinstance(steps[end - 1], Joint) else None)
        for recipe in recipes
        for steps in [[*layouts[recipe].values(), None]]
        for end in range(1, len(steps))
    }
    kept_blocks = {
        beginning
        for beginning in beginnings
        if (blocks := [part for part in beginning if isinstance(part, BlockRef)])
        and all(part is None or isinstance(part, BlockRef) or part.kind == "flatten" for part in beginning)
        and isinstance(beginning[-2], BlockRef)
        and tuple(blocks) == bank.chain(blocks[0].owner)[: len(blocks)] != bank.chain(blocks[0].owner)
    }
    assert len(runs) == len(beginnings) - len(kept_blocks)
    assert len(kept_blocks) > 5
    for recipe in recipes:
        alone, slow = solve(recipe, bank, probe, outputs), slowly_solved(recipe, bank, probe, outputs)
        assert list(together[recipe].modules) == list(alone.modules) == list(slow) == list(layouts[recipe])
        assert torch.equal(together[recipe].logits, alone.logits)
        for name, module in together[recipe].modules.items():
            for key, value in module.state_dict().items():
                assert torch.equal(value, alone.modules[name].state_dict()[key])
                torch.testing.assert_close(value, slow[name].state_dict()[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("source", "target"), list(itertools.product(ENDS, ENDS)))
@pytest.mark.parametrize("kind", ["light", "full"])
@pytest.mark.parametrize("layers", [1, 2])
def test_in_every_direction_a_solved_stitch_is_nearer_than_one_that_is_not(
    source: tuple[tuple[int, ...], bool], target: tuple[tuple[int, ...], bool], kind: StitchKind, layers: int
) -> None:
    torch.manual_seed(0)
    joint_of = Joint(kind, source[0], target[0], layers=layers, from_signal=source[1], to_signal=target[1])
    values = torch.rand(64, *source[0])
    joint = joint_of.build().eval()
    with torch.no_grad():
        wanted: Tensor = 2 + joint(values) + 0.1 * torch.rand(64, *target[0])  # positive, as behind a ReLU
        solved = joint_of.build().eval()
        before = (solved(values) - wanted).square().mean()
        _solve(solved, values, wanted)
        after = (solved(values) - wanted).square().mean()
    assert after < 0.1 * before


def test_a_head_leads_to_the_outputs_that_are_asked_for() -> None:
    probe = torch.rand(128, 1, 8, 8)
    bank = deposit({"a": network("cnn1")}, probe[:2])
    recipe = Recipe(bank.chain("a")[:-1])
    assert list(layout(recipe, bank))[-1] == "head"
    outputs = predict(network("cnn1"), probe)  # a linear layer of its features gives just these
    candidate = assemble(recipe, bank)
    put(solve(recipe, bank, probe, outputs), candidate)
    assert (predict(candidate, probe) - outputs).square().mean() < 0.05 * outputs.var()


def test_what_is_too_wide_to_be_solved_keeps_its_first_weights() -> None:
    source = (WIDEST + 1,)
    joint = Joint("light", source, (2,)).build()
    before = copy.deepcopy(joint.state_dict())
    with torch.no_grad():
        _solve(joint, torch.rand(3, *source), torch.rand(3, 2))
    assert all(torch.equal(before[name], value) for name, value in joint.state_dict().items())
