"""Networks are tried on the data that they are to learn, before any training."""

from __future__ import annotations

import pytest
import torch
from test_models import wrong_width
from torch import nn

from pfedhr.models import ModelSpec, check_inputs_of, check_last_batch, check_network
from pfedhr.zoo import ModelError


def words(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Embedding(49, classes), nn.Flatten(), nn.Linear(2 * classes, classes))


def normed(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, classes))


def squeezing(shape: tuple[int, ...], classes: int) -> nn.Module:
    class Squeezing(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.flatten(1)).squeeze()

    return Squeezing(4, classes)


def frozen(shape: tuple[int, ...], classes: int) -> nn.Module:
    return wrong_width(shape, classes - 1).requires_grad_(False)


def test_a_last_batch_of_one_is_refused_only_where_it_fails() -> None:
    spec, image = ModelSpec(f"{__name__}:normed", (1, 2, 2), 3), torch.zeros(1, 1, 2, 2)
    with pytest.raises(ModelError, match=r"client 'a'.*21 examples in batches of 10.*another batch size"):
        check_last_batch(spec, image, 21, 10, "client 'a'")
    with pytest.raises(ModelError, match="batches of 1 leave"):
        check_last_batch(spec, image, 20, 1, "client 'a'")
    check_last_batch(spec, image, 22, 10, "client 'a'")
    # A batch norm over a map has a variance even for one image.
    check_last_batch(ModelSpec("cnn4", (1, 8, 8), 3), torch.zeros(1, 1, 8, 8), 21, 10, "client 'a'")
    with pytest.raises(ModelError, match=r"gave \(3,\) for a batch of one"):
        check_last_batch(ModelSpec(f"{__name__}:squeezing", (1, 2, 2), 3), image, 21, 10, "client 'a'")


def test_inputs_of_a_type_that_the_network_does_not_take_are_refused() -> None:
    with pytest.raises(ModelError, match=r"type torch\.int64"):
        check_network(ModelSpec("mlp", (4,), 3), torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ModelError, match="no weight that can be trained"):
        check_network(ModelSpec(f"{__name__}:frozen", (1, 2, 2), 3), torch.zeros(2, 1, 2, 2))


class Ending(nn.Module):
    """A network whose last linear layer by name is its head, one beside it, or is not called."""

    def __init__(self, classes: int, kind: str) -> None:
        super().__init__()
        self.head, self.kind = nn.Linear(4, classes), kind
        if kind in ("beside", "uncalled"):
            self.last = nn.Linear(4 if kind == "beside" else classes, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.head(x.flatten(1)[:, None]).mean(1)
        if self.kind == "beside":
            logits = logits * self.last(x.flatten(1)).sigmoid()
        return logits.log_softmax(1) if self.kind == "softmax" else logits


def beside(shape: tuple[int, ...], classes: int) -> nn.Module:
    return Ending(classes, "beside")


def uncalled(shape: tuple[int, ...], classes: int) -> nn.Module:
    return Ending(classes, "uncalled")


def softmax(shape: tuple[int, ...], classes: int) -> nn.Module:
    return Ending(classes, "softmax")


def test_an_adapter_that_would_be_put_elsewhere_than_at_the_head_is_refused() -> None:
    images = torch.randn(1, 1, 2, 2).expand(2, -1, -1, -1)
    for name in ("beside", "uncalled", "softmax"):
        check_network(ModelSpec(f"{__name__}:{name}", (1, 2, 2), 3), images)
    for name in ("dropping", "softmax"):  # what follows the head may be anything without weights
        check_network(ModelSpec(f"{__name__}:{name}", (1, 2, 2), 3, features=8), images)
    for name, why in (
        ("beside", "other weights lie behind or beside its last .*, 'last'"),
        ("uncalled", "'last', is not called"),
    ):
        with pytest.raises(ModelError, match=rf"clients\.features = 8 would put an adapter into '.*{name}' where .*{why}"):
            check_network(ModelSpec(f"{__name__}:{name}", (1, 2, 2), 3, features=8), images)


def dropping(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, classes))


def test_to_try_a_network_moves_no_draws() -> None:
    before = torch.random.get_rng_state()
    check_network(ModelSpec(f"{__name__}:dropping", (1, 2, 2), 3), torch.ones(2, 1, 2, 2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_inputs_that_a_network_fails_on_are_told() -> None:
    spec = ModelSpec(f"{__name__}:words", (2,), 3)
    check_inputs_of(spec, torch.tensor([[0, 48]]), "the last")
    with pytest.raises(ModelError, match=r"words' failed on the last of inputs .*IndexError"):
        check_inputs_of(spec, torch.tensor([[0, 3]] * 64 + [[49, 3]]), "the last")
