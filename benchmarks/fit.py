"""The training loop against a bare one written by hand: the same network, examples, batches and optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.timing import Measurement, Target, interleaved, ratios
from pfedhr.learning import Training, fit
from pfedhr.models import ModelSpec, build
from pfedhr.seeding import generator

NETWORKS = ("cnn1", "cnn2", "resnet")
SHAPE = (1, 28, 28)
CLASSES = 10
# Short epochs, and many: single times differ by a tenth however long they are, and only their number brings the median down to
# the few per cent that are to be told apart.
EXAMPLES = 100
REPEATS = {"cnn1": 160, "cnn2": 100, "resnet": 50}
TRAINING = Training(epochs=1, batch_size=10, learning_rate=0.001, weight_decay=0.0001)


def measure() -> Iterator[Measurement]:
    """Yield, for each network, examples a second over those of the bare loop with a fused Adam, then with Adam's defaults."""
    inputs = torch.randn(EXAMPLES, *SHAPE, generator=generator(0, "inputs"))
    labels = torch.randint(0, CLASSES, (EXAMPLES,), generator=generator(0, "labels"))
    for network in NETWORKS:
        product = _product(_network(network), inputs, labels)
        fused = _bare(_network(network), inputs, labels, fused=True)
        default = _bare(_network(network), inputs, labels, fused=None)
        ours, bare, plain = interleaved(product, fused, default, repeats=REPEATS[network])
        yield Measurement(f"fit {network}", ratios(bare, ours), "times", Target(0.95, at_least=True), "of a bare loop's speed")
        yield Measurement(f"fit {network}, default Adam", ratios(plain, ours), "times", note="the bare loop's Adam not fused")


def _network(name: str) -> nn.Module:
    return build(ModelSpec(name, SHAPE, CLASSES), 0)


def _product(model: nn.Module, inputs: Tensor, labels: Tensor) -> Callable[[], object]:
    rng = generator(0, "batches")

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return functional.cross_entropy(model(inputs[batch]), labels[batch])

    return lambda: fit(model, len(labels), loss, TRAINING, rng)


def _bare(model: nn.Module, inputs: Tensor, labels: Tensor, fused: bool | None) -> Callable[[], object]:
    rng = generator(0, "batches")

    def train() -> None:
        rate, decay = TRAINING.learning_rate, TRAINING.weight_decay
        optimiser = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=decay, fused=fused)
        model.train()
        for batch in torch.randperm(len(labels), generator=rng).split(TRAINING.batch_size):
            optimiser.zero_grad()
            functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimiser.step()

    return train
