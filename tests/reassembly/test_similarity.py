from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pfedhr.models import ModelSpec, build
from pfedhr.reassembly import block_similarity, cka, deposit, hsic, profile, run_chain
from pfedhr.reassembly.blocks import flatten_for
from pfedhr.reassembly.similarity import gram
from pfedhr.seeding import generator


def slow_hsic(x: Tensor, y: Tensor) -> Tensor:
    """trace(K H L H) / (n - 1)^2, as the formula has it."""
    x, y = x.flatten(1), y.flatten(1)
    n = len(x)
    h = torch.eye(n, dtype=x.dtype) - 1 / n
    return torch.trace(x @ x.T @ h @ y @ y.T @ h) / (n - 1) ** 2


def slow_cka(x: Tensor, y: Tensor) -> Tensor:
    return slow_hsic(x, y) / (slow_hsic(x, x) * slow_hsic(y, y)).sqrt()


CROSS = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])


def test_cka_known_answers() -> None:
    assert cka(CROSS, CROSS[:, :1]) == pytest.approx(1 / math.sqrt(2))
    assert cka(torch.tensor([[1.0], [-1], [0], [0]]), torch.tensor([[0.0], [0], [1], [-1]])) == 0
    assert cka(CROSS, CROSS) == pytest.approx(1)


def test_hsic_known_answers() -> None:
    x = torch.tensor([[1.0], [2], [3], [5]])
    assert hsic(x, x) == pytest.approx(8.50694, abs=1e-5)
    assert hsic(x, x, unbiased=True) == pytest.approx(4.66667, abs=1e-5)


def test_the_unbiased_hsic_of_independent_features_is_zero_on_average() -> None:
    rng = generator(0, "independent")
    pairs = [(torch.randn(8, 3, generator=rng), torch.randn(8, 3, generator=rng)) for _ in range(2000)]
    unbiased = torch.stack([hsic(x, y, unbiased=True) for x, y in pairs])
    biased = torch.stack([hsic(x, y) for x, y in pairs])
    # 2,000 draws: the standard error of the mean is the sample's deviation over sqrt(2000)
    assert abs(unbiased.mean()) < 4 * unbiased.std() / math.sqrt(2000)
    assert biased.mean() == pytest.approx(1.27, abs=0.1)


def test_hsic_needs_four_samples_to_be_unbiased() -> None:
    with pytest.raises(ValueError, match="not 3"):
        hsic(torch.ones(3, 1), torch.ones(3, 1), unbiased=True)


@pytest.mark.parametrize("shape", [(3,), (40,), (4, 3, 3)])
def test_cka_is_the_slow_formula(shape: tuple[int, ...]) -> None:
    rng = generator(0, "slow")
    x, y = torch.randn(12, *shape, generator=rng).double(), torch.randn(12, 5, generator=rng).double() + 3
    assert cka(x, y).item() == pytest.approx(slow_cka(x, y).item(), abs=1e-12)


def test_cka_is_blind_to_rotation_scale_and_shift_and_to_nothing_more() -> None:
    rng = generator(0, "blind")
    x = torch.randn(20, 6, generator=rng).double()
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=rng).double()).Q
    assert cka(x, 3 * x @ rotation + 5).item() == pytest.approx(1, abs=1e-12)
    stretched = x * torch.tensor([10.0, 1, 1, 1, 1, 1]).double()
    assert cka(x, stretched).item() < 0.9


def test_constant_activations_are_like_nothing() -> None:
    assert cka(torch.ones(5, 3), torch.randn(5, 3)) == 0
    # These have no exact mean over five samples.
    first, second = torch.full((5, 3), 0.1), torch.tensor([0.7, 1.3, -3e4]).expand(5, 3)
    assert cka(first, second) == 0
    assert cka(first, torch.nextafter(first, torch.ones(())).where(torch.rand(5, 3) < 0.5, first)) == 0
    # Among many samples, too; and what is constant among the first of them alone is not.
    noise = torch.randn(40, 2)
    late = torch.full((40, 1), 0.1)
    late[20:] = 5.0
    for features in (torch.cat([noise, torch.full((40, 1), -3e4)], 1), torch.cat([noise, late], 1)):
        centred = features.double() - features.double().mean(0)
        assert torch.allclose(gram(features), (centred @ centred.T).float(), atol=1e-4)
    inexact = torch.tensor([0.7, 123.456, 3.3333]).expand(40, 3)
    assert (inexact != inexact.mean(0)).any()
    assert cka(inexact, inexact) == 0
    little = torch.randn(5, 3) * 1e-3
    assert cka(little + 1, little).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e-12, 1e9, 1e20, 1e36])
def test_only_the_direction_of_activations_counts(size: float) -> None:
    rng = generator(0, "sizes")
    x, y = torch.randn(24, 30, generator=rng), torch.randn(24, 3, 4, generator=rng)
    large = (x * size).double()
    tolerance = 1e-6 if size > 1e-38 else 0.02  # below, float32 itself has few digits
    assert cka(x * size, x).item() == pytest.approx(1, abs=tolerance)
    assert cka(x * size, y).item() == pytest.approx(slow_cka(large, y.double()).item(), abs=tolerance)
    power = 2.0 ** round(math.log2(size))
    if size > 1e-38:
        assert torch.equal(cka(x * power, y), cka(x, y))  # to the last bit


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("samples", [slice(3, 4), slice(None)])
def test_activations_that_are_not_finite_are_like_nothing(value: float, samples: slice) -> None:
    x, y = torch.randn(12, 5), torch.randn(12, 4)
    x[samples, 2] = value
    assert cka(x, y) == cka(y, x) == cka(x, x) == 0


def test_all_pairs_at_once_are_the_pairwise_loop() -> None:
    shape = (1, 12, 12)
    models = {name: build(ModelSpec(name, shape, 3), 0, name) for name in ("cnn1", "cnn3", "mlp", "resnet")}
    probe = torch.randn(16, *shape, generator=generator(0, "probe"))
    bank = deposit(models, probe)
    fast = block_similarity(profile(bank, probe))

    seen: dict = {}
    for owner, model in models.items():
        model.eval()
        chain = bank.chain(owner)
        blocks = [bank[ref] for ref in chain]
        with torch.no_grad():
            for at, ref in enumerate(chain):
                seen[ref] = (run_chain(blocks[:at], probe), run_chain(blocks[: at + 1], probe))
    for row, first in enumerate(fast.refs):
        for column, second in enumerate(fast.refs):
            slow = sum(slow_cka(a.double(), b.double()) for a, b in zip(seen[first], seen[second], strict=True))
            assert fast.values[row, column].item() == pytest.approx(slow.item(), abs=2e-5), (first, second)


@pytest.mark.parametrize("keep", [0, 5, 9, 20])
def test_what_a_block_takes_is_what_its_own_network_gives_it(keep: int) -> None:
    probe = torch.rand(9, 1, 12, 12)
    models = {name: build(ModelSpec(name, (1, 12, 12), 3), 0, name) for name in ("cnn1", "mlp")}
    bank = deposit(models, probe[:2])
    found = profile(bank, probe, keep)
    assert set(found.intakes) == (set(bank) if keep else set())
    for owner in bank.owners:
        values = probe
        for ref in bank.chain(owner):
            values = flatten_for(bank[ref], values)
            if keep:
                assert torch.equal(found.intakes[ref], values[:keep])
                assert found.intakes[ref].untyped_storage().nbytes() == values[:keep].nbytes  # and nothing of the rest
            with torch.no_grad():
                values = bank[ref].module.eval()(values)
        assert torch.equal(found.logits[owner], values)


class Shifting(nn.Sequential):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.sub_(0.5))


def test_what_one_network_changes_in_place_no_other_sees() -> None:
    layers, probe = nn.Linear(4, 3), torch.randn(9, 4, generator=generator(0, "probe"))
    before = probe.clone()
    found = profile(deposit({"a": Shifting(layers), "b": layers}, probe), probe)
    assert torch.equal(probe, before)
    assert torch.equal(found.logits["b"], layers(before))
    assert torch.equal(found.logits["a"], layers(before - 0.5))


def test_blocks_of_identical_networks_are_at_half_a_unit() -> None:
    model = build(ModelSpec("cnn1", (1, 12, 12), 3), 0)
    probe = torch.randn(16, 1, 12, 12, generator=generator(0, "probe"))
    bank = deposit({"a": model, "b": model}, probe)
    similarity = block_similarity(profile(bank, probe))
    twins = [similarity.values[at, at + 1].item() for at in range(0, len(bank), 2)]
    assert twins == pytest.approx([2.0] * len(twins), abs=1e-5)  # dis = 1 / 2


def test_profiling_leaves_train_mode_and_running_statistics_alone() -> None:
    model = build(ModelSpec("cnn4", (1, 8, 8), 3), 0).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    profile(deposit({"a": model}, torch.zeros(1, 1, 8, 8)), torch.randn(8, 1, 8, 8))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_word_numbers_are_compared_as_one_hot_vectors() -> None:
    words = torch.randint(5, (7, 4), generator=torch.Generator().manual_seed(0))
    one_hot = torch.nn.functional.one_hot(words, 5).float()
    assert torch.allclose(gram(words), gram(one_hot), atol=1e-5)
    assert torch.allclose(gram(words), gram((words * 3 + 1) % 5), atol=1e-5)  # other numbers for the same words
