from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy import needs_cuda

from pfedhr.learning import Loss, Training, fit, steady
from pfedhr.learning import training as loop
from pfedhr.learning.replay import FEWEST_STEPS, Replayed, is_steady, replayable
from pfedhr.models import ModelSpec, build
from pfedhr.seeding import generator, seeded


class Fickle(nn.Module):
    """A network of a user's own, which may look at numbers that no device has."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs) * (1 if torch.rand(()) < 0.5 else 2)


def cross_entropy_on(inputs: Tensor, labels: Tensor) -> Loss:
    return lambda model, batch: functional.cross_entropy(model(inputs[batch]), labels[batch])


def test_what_calls_others_is_steady_only_where_they_are() -> None:
    def part() -> None: ...

    assert not is_steady(part)
    assert not is_steady(steady(lambda: part(), part))
    assert is_steady(steady(lambda: None, None))
    assert is_steady(steady(lambda: part(), steady(part), None))


def test_on_the_cpu_every_step_is_launched() -> None:
    assert not replayable(nn.Linear(4, 2), steady(lambda model, batch: model(batch)), 1000)


def on_cuda(network: str, classes: int = 10) -> tuple[nn.Module, Tensor, Tensor]:
    rng = generator(0, "task")
    inputs = torch.randn(67, 1, 28, 28, generator=rng).cuda()
    labels = torch.randint(0, classes, (67,), generator=rng).cuda()
    return build(ModelSpec(network, (1, 28, 28), classes, 64), 0).cuda(), inputs, labels


@pytest.mark.gpu
@needs_cuda
def test_only_what_is_known_to_be_steady_is_replayed_where_it_pays() -> None:
    model, inputs, labels = on_cuda("cnn1")
    loss = cross_entropy_on(inputs, labels)
    assert not replayable(model, loss, FEWEST_STEPS)
    assert replayable(model, steady(loss), FEWEST_STEPS)
    assert not replayable(model, steady(loss), FEWEST_STEPS - 1)
    assert not replayable(Fickle().cuda(), steady(loss), FEWEST_STEPS)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("network", ["cnn1", "cnn2", "cnn3", "cnn4-quarter", "resnet", "mobilenet", "vit"])
def test_replayed_steps_are_those_that_are_launched(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launched, inputs, labels = on_cuda(network)
    replayed = copy.deepcopy(launched)
    recorded: list[Replayed] = []
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)

    class Watched(Replayed):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # pyright: ignore[reportArgumentType]
            recorded.append(self)

    monkeypatch.setattr(loop, "Replayed", Watched)
    # The last batch of 67 examples is smaller, so it is launched between replays.
    training = Training(epochs=8, batch_size=10, learning_rate=0.001, weight_decay=1e-4)
    losses = []
    for model, loss in (
        (launched, cross_entropy_on(inputs, labels)),
        (replayed, steady(cross_entropy_on(inputs, labels))),
    ):
        with seeded(0, "dropout"):
            losses.append(fit(model, len(inputs), loss, training, generator(0, "batches")))
    assert len(recorded) == 1
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    for name, value in launched.state_dict().items():
        torch.testing.assert_close(replayed.state_dict()[name], value, rtol=1e-3, atol=1e-4)
