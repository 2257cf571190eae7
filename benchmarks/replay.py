"""Training on a CUDA device whose steps are recorded and replayed, against the same steps launched one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.timing import Measurement, interleaved, ratios
from pfedhr.learning import Loss, Training, fit, steady
from pfedhr.models import ModelSpec, build
from pfedhr.seeding import generator

NETWORKS = ("cnn1", "cnn2", "cnn3", "cnn4", "resnet")
SHAPE = (3, 32, 32)
CLASSES = 10
EXAMPLES = 2000
REPEATS = 5
TRAINING = Training(epochs=1, batch_size=10, learning_rate=0.001, weight_decay=0.0001)


def measure() -> Iterator[Measurement]:
    """Yield, for each network, the time of launched steps over that of replayed ones; nothing where there is no CUDA device."""
    if not torch.cuda.is_available():
        return
    inputs = torch.randn(EXAMPLES, *SHAPE, generator=generator(0, "inputs")).cuda()
    labels = torch.randint(0, CLASSES, (EXAMPLES,), generator=generator(0, "labels")).cuda()

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return functional.cross_entropy(model(inputs[batch]), labels[batch])

    def training(loss: Loss) -> Callable[[], object]:
        model = build(ModelSpec(network, SHAPE, CLASSES), 0).cuda()
        return lambda: fit(model, EXAMPLES, loss, TRAINING, generator(0, "batches"))

    for network in NETWORKS:
        launched = training(lambda model, batch: loss(model, batch))
        step, replayed = interleaved(launched, training(steady(loss)), repeats=REPEATS)
        microseconds = 1e6 * min(replayed) * TRAINING.batch_size / EXAMPLES
        yield Measurement(f"replay {network}", ratios(step, replayed), "times", note=f"steps of {microseconds:.0f} us")
