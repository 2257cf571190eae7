from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from pfedhr.learning import Training, TrainingError, evaluate, fit
from pfedhr.seeding import generator


def make_task() -> tuple[torch.Tensor, torch.Tensor]:
    rng = generator(0, "task")
    inputs = torch.randn(23, 4, generator=rng)
    return inputs, (inputs[:, 0] > 0).long()


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def test_fit_is_the_loop_that_one_would_write_by_hand() -> None:
    inputs, labels = make_task()
    training = Training(epochs=3, batch_size=5, learning_rate=0.01, weight_decay=0.1)
    fitted, by_hand = make_model(), make_model()

    def loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(model(inputs[batch]), labels[batch])

    last = fit(fitted, len(inputs), loss, training, generator(0, "order"))

    rng = generator(0, "order")
    optimiser = torch.optim.Adam(by_hand.parameters(), lr=0.01, weight_decay=0.1, fused=True)
    for _ in range(3):
        order = torch.randperm(23, generator=rng)
        losses = []
        for start in range(0, 23, 5):
            batch = order[start : start + 5]
            value = functional.cross_entropy(by_hand(inputs[batch]), labels[batch])
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            losses += [value.item()] * len(batch)
    assert all(torch.equal(a, b) for a, b in zip(fitted.parameters(), by_hand.parameters(), strict=True))
    assert last == pytest.approx(sum(losses) / 23, abs=1e-6)


def test_a_task_is_learnt_and_evaluated() -> None:
    inputs, labels = make_task()
    model = make_model()
    training = Training(epochs=60, batch_size=5, learning_rate=0.01)
    fit(model, 23, lambda model, batch: functional.cross_entropy(model(inputs[batch]), labels[batch]), training, generator(0))
    score = evaluate(model, inputs, labels)
    assert (score.accuracy, score.count) == (1.0, 23)
    flipped = evaluate(model, inputs, torch.cat([1 - labels[:10], labels[10:]]))
    assert flipped.accuracy == pytest.approx(13 / 23)


def test_a_loss_that_is_not_finite_stops_training_in_its_epoch() -> None:
    inputs, labels = make_task()
    inputs[3, 0] = math.nan
    with pytest.raises(TrainingError, match=r"nan in epoch 1 of 2, at learning rate 0.01"):
        fit(
            make_model(),
            23,
            lambda model, batch: functional.cross_entropy(model(inputs[batch]), labels[batch]),
            Training(2, 5, 0.01),
            generator(0),
        )


def test_frozen_weights_stay() -> None:
    inputs, labels = make_task()
    model = make_model()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    fit(
        model,
        23,
        lambda model, batch: functional.cross_entropy(model(inputs[batch]), labels[batch]),
        Training(1, 5, 0.01, weight_decay=0.1),
        generator(0),
    )
    assert torch.equal(model[0].weight, before)
