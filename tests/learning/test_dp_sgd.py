"""DP-SGD against itself written out, its noise, what it spends, and the networks that it cannot train."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy import separable

from pfedhr.data import Examples
from pfedhr.learning import (
    Privacy,
    PrivacyError,
    Training,
    check_gradients,
    epsilon,
    evaluate,
    fit_privately,
    private_steps,
)
from pfedhr.seeding import generator
from pfedhr.zoo import ZOO

STRONG = Privacy(noise=1.0, clip=1.0, delta=1e-5)


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 4))


def slow_twin(
    model: nn.Module, examples: Examples, training: Training, privacy: Privacy, held: float, *generators: torch.Generator
) -> None:
    """DP-SGD as algorithm 1 is written: a loop over examples."""
    rng, noise = generators
    weights, count = list(model.parameters()), len(examples)
    start = [weight.detach().clone() for weight in weights]
    optimiser = torch.optim.Adam(weights, training.learning_rate, weight_decay=training.weight_decay)
    for _ in range(training.epochs * -(-count // training.batch_size)):
        drawn = torch.rand(count, generator=rng, dtype=torch.float64) < training.batch_size / count
        sums = [torch.zeros_like(weight) for weight in weights]
        for place in drawn.nonzero().flatten().tolist():
            one = slice(place, place + 1)
            loss = functional.cross_entropy(model(examples.inputs[one]), examples.labels[one])
            gradients = torch.autograd.grad(loss, weights)
            norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
            for total, gradient in zip(sums, gradients, strict=True):
                total += gradient * min(1.0, privacy.clip / norm)
        for weight, total, first in zip(weights, sums, start, strict=True):
            noisy = total + torch.randn(weight.shape, generator=noise) * privacy.noise * privacy.clip
            weight.grad = noisy / training.batch_size + held * (weight.detach() - first)
        optimiser.step()


@pytest.mark.parametrize(("noise", "clip", "held"), [(0.0, 0.5, 0.0), (0.0, 1e9, 0.3), (0.7, 0.5, 0.3)])
def test_training_is_that_of_a_loop_over_examples(noise: float, clip: float, held: float) -> None:
    examples = separable(21, "private").ready(torch.device("cpu"))
    training, privacy = Training(2, 8, 0.01, 0.1), Privacy(noise, clip, 1e-5)
    fast, slow = two_layers(), two_layers()
    start = [weight.detach().clone() for weight in fast.parameters()]

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return functional.cross_entropy(model(examples.inputs[batch]), examples.labels[batch])

    def penalty() -> Tensor:
        pairs = zip(fast.parameters(), start, strict=True)
        return held / 2 * torch.stack([(weight - first).square().sum() for weight, first in pairs]).sum()

    names = ("batches", "noise")
    fit_privately(fast, 21, loss, training, privacy, *(generator(3, name) for name in names), penalty=penalty if held else None)
    slow_twin(slow, examples, training, privacy, held, *(generator(3, name) for name in names))
    for one, other in zip(fast.parameters(), slow.parameters(), strict=True):
        assert torch.allclose(one, other, atol=2e-5)


def test_an_example_moves_the_sum_by_no_more_than_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also through a layer and a loss that mix the examples of a batch: each example is a batch of its own."""

    class Mixing(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return values + 100 * values.mean(0)

    def gradient(examples: Examples) -> Tensor:
        model = nn.Sequential(nn.Flatten(), Mixing(), two_layers())

        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            logits = model(examples.inputs[batch])
            return functional.cross_entropy(logits, examples.labels[batch]) + logits.mean(0).square().sum()

        # All are in every batch, and one step is taken: its gradient is the sum over the batch size.
        summed = gradients_of_steps(monkeypatch)
        fit_privately(model, 16, loss, Training(1, 16, 0.01), Privacy(0.0, 0.5, 1e-5), *(generator(0, name) for name in "ab"))
        (one,) = summed
        return one * 16

    examples = separable(16, "private").ready(torch.device("cpu"))
    other = examples.inputs.clone()
    other[5] = -50.0
    moved = gradient(examples) - gradient(dataclasses.replace(examples, inputs=other))
    assert 0 < moved.norm() <= 2 * 0.5  # one is taken away, another is added


def gradients_of_steps(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What Adam is given at every step from now on, each as one vector."""
    seen, real = list[Tensor](), torch.optim.Adam.step

    def step(self: torch.optim.Adam) -> object:
        weights = self.param_groups[0]["params"]
        seen.append(torch.cat([weight.grad.flatten() for weight in weights]))
        return real(self)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    return seen


def test_noise_has_the_deviation_that_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = gradients_of_steps(monkeypatch)
    model = nn.Linear(200, 100)
    fit_privately(
        model,
        40,
        lambda model, batch: 0 * model(torch.ones(1, 200)).sum(),
        Training(2, 8, 1e-3),
        Privacy(noise=3.0, clip=0.5, delta=1e-5),
        *(generator(0, name) for name in ("batches", "noise")),
    )
    drawn = torch.stack(seen) * 8 / (3.0 * 0.5)  # 2 * 40 / 8 steps, 20,100 weights: standard normal values
    assert drawn.shape == (10, 20_100)
    assert abs(drawn.mean()) < 5 / math.sqrt(drawn.numel())
    assert abs(drawn.std() - 1) < 5 / math.sqrt(2 * drawn.numel())
    assert (drawn.abs() > 1.96).float().mean() == pytest.approx(0.05, abs=0.003)
    assert (torch.corrcoef(drawn) - torch.eye(10)).abs().max() < 5 / math.sqrt(20_100)


def test_a_step_without_examples_is_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = gradients_of_steps(monkeypatch)
    examples = separable(200, "private").ready(torch.device("cpu"))
    sizes = list[int]()

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return functional.cross_entropy(model(examples.inputs[batch]), examples.labels[batch])

    real = torch.Tensor.nonzero
    monkeypatch.setattr(torch.Tensor, "nonzero", lambda self: sizes.append(int(self.sum())) or real(self))
    fit_privately(two_layers(), 200, loss, Training(1, 1, 0.01), STRONG, *(generator(0, name) for name in "ab"))
    assert len(seen) == len(sizes) == 200
    assert sizes.count(0) == pytest.approx(200 * 0.995**200, abs=25)  # about a third: chance (1 - 1/200)^200 each
    assert sum(sizes) == pytest.approx(200, abs=60)
    assert all(bool(one.isfinite().all()) and bool(one.any()) for one in seen)


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_epsilon_of_whole_batches_is_that_of_composed_gaussians(steps: int) -> None:
    """Each step costs alpha / (2 sigma^2) at order alpha (Mironov 2017, proposition 7); the conversion is Balle et al.'s."""
    sigma, delta = 4.0, 1e-5
    orders = [1 + number / 10 for number in range(1, 5000)]
    best = min(
        steps * alpha / (2 * sigma**2) + math.log((alpha - 1) / alpha) - (math.log(delta) + math.log(alpha)) / (alpha - 1)
        for alpha in orders
    )
    found = epsilon(Privacy(sigma, 1.0, delta), 1.0, steps)
    assert best <= found + 1e-9
    assert found == pytest.approx(best, rel=0.002)


def test_epsilon_is_opacus_own_and_grows_as_it_should() -> None:
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    for _ in range(300):
        accountant.step(noise_multiplier=1.1, sample_rate=0.05)
    found = epsilon(Privacy(1.1, 7.0, 1e-5), 0.05, 300)
    assert found == pytest.approx(accountant.get_epsilon(1e-5))
    assert found < epsilon(Privacy(1.1, 7.0, 1e-6), 0.05, 300)
    assert found < epsilon(Privacy(1.0, 7.0, 1e-5), 0.05, 300)
    assert found < epsilon(Privacy(1.1, 7.0, 1e-5), 0.06, 300)
    assert found < epsilon(Privacy(1.1, 7.0, 1e-5), 0.05, 301)
    assert epsilon(STRONG, 0.05, 0) == 0.0
    assert private_steps(25, Training(3, 10, 0.1)) == 9


def test_a_separable_set_is_learnt_under_a_little_noise() -> None:
    examples, test = (separable(count, "learn", str(count)).ready(torch.device("cpu")) for count in (400, 100))

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return functional.cross_entropy(model(examples.inputs[batch]), examples.labels[batch])

    model = two_layers()
    last = fit_privately(
        model, 400, loss, Training(3, 40, 0.01), Privacy(0.5, 1.0, 1e-5), *(generator(0, name) for name in "ab")
    )
    assert evaluate(model, test.inputs, test.labels).accuracy > 0.9  # chance is a quarter
    assert last < 0.7


class Recording(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(64))
        self.head = nn.Linear(64, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        self.last = 0.9 * self.last + inputs.flatten(1).detach().mean(0)
        return self.head(inputs.flatten(1))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(inputs.flatten(1)) * (2 if inputs.sum() > 0 else 1)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)), r"batch norm \(2\)"),
        (nn.Sequential(nn.BatchNorm2d(1, affine=False), nn.Flatten(), nn.Linear(64, 4)), r"batch norm \(0\)"),
        (nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten(), nn.Linear(64, 4)), "cannot be computed"),
        (Recording(), "last"),
        (Branching(), "cannot be computed"),
    ],
)
def test_networks_that_keep_or_mix_examples_are_refused(model: nn.Module, words: str) -> None:
    with pytest.raises(PrivacyError, match=words):
        check_gradients(model, torch.rand(3, 1, 8, 8))


def test_other_norms_do_no_harm() -> None:
    norms = nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.Flatten(), nn.LayerNorm(144)
    check_gradients(nn.Sequential(nn.Conv2d(1, 4, 3), *norms, nn.Linear(144, 4)), torch.rand(3, 1, 8, 8))


@pytest.mark.parametrize("name", ["lstm", "transformer", "bag"])
def test_networks_of_the_zoo_for_text_can_be_trained_with_privacy(name: str) -> None:
    torch.manual_seed(0)
    check_gradients(ZOO[name]((12,), 4), torch.randint(0, 50, (3, 12)))
