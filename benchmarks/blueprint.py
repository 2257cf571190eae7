"""Networks as data: how fast a rebuilt one trains, and what describing, rebuilding and cutting the large ones takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import torchvision_networks
from benchmarks.timing import Measurement, Target, interleaved, ratios, seconds
from pfedhr.models import ModelSpec, build
from pfedhr.reassembly import decompose, describe, rebuild
from pfedhr.reassembly.rebuilding import skeleton

NETWORKS = ("cnn1", "resnet", "vit")
SHAPE = (3, 32, 32)
REPEATS = {"cnn1": 160, "resnet": 40, "vit": 60}
STEPS = 4
BATCH = 16
LARGE_REPEATS = 5


def measure() -> Iterator[Measurement]:
    """Yield steps a second of rebuilt networks over the originals' and, for large ones, seconds."""
    inputs, labels = torch.randn(BATCH, *SHAPE), torch.randint(10, (BATCH,))
    for name in NETWORKS:
        original = build(ModelSpec(name, SHAPE, 10), 0)
        described = describe(original, inputs)
        rebuilt = rebuild(described.blueprint, described.weights(original))
        theirs, ours = interleaved(_steps(original, inputs, labels), _steps(rebuilt, inputs, labels), repeats=REPEATS[name])
        yield Measurement(
            f"rebuilt {name}", ratios(theirs, ours), "times", Target(0.97, at_least=True), "of the original's speed"
        )
    models = torchvision_networks.load()
    resnet, example = models.resnet50(), torch.zeros(1, 3, 224, 224)

    def travel() -> None:
        found = describe(resnet, example)
        rebuild(found.blueprint, found.weights(resnet))

    def first() -> None:
        skeleton.cache_clear()
        travel()

    first()
    yield Measurement("resnet50 as data, first", [seconds(first) for _ in range(LARGE_REPEATS)], "s", Target(2, at_least=False))
    described = describe(resnet, example)
    weights = described.weights(resnet)
    again = [seconds(lambda: rebuild(described.blueprint, weights)) for _ in range(LARGE_REPEATS)]
    yield Measurement("resnet50 rebuilt again", again, "s", note="its structure read before")
    swin = models.swin_t()
    taken = [seconds(lambda: decompose(swin, example)) for _ in range(LARGE_REPEATS)]
    yield Measurement("swin_t cut", taken, "s", Target(5, at_least=False))


def _steps(model: nn.Module, inputs: Tensor, labels: Tensor) -> Callable[[], None]:
    optimiser = torch.optim.Adam(model.train().parameters(), fused=True)

    def train() -> None:
        for _ in range(STEPS):
            optimiser.zero_grad()
            functional.cross_entropy(model(inputs), labels).backward()
            optimiser.step()

    return train
