"""What a teacher adds to a client's training: a round's local epochs beside it over the same epochs without one.

Setting, clients and epochs are those of the preset `two-classes`. The teachers are those that the server gives to four clients
with different networks, not tuned: their weights do not change what they cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from benchmarks.timing import Measurement, Target, interleaved, ratios
from pfedhr.algorithm import ClientView
from pfedhr.algorithms.pfedhr import Lesson, PFedHR, Taught, Teachers
from pfedhr.algorithms.private import initial_weights, train_privately
from pfedhr.algorithms.teacher import Teacher, rebuild
from pfedhr.algorithms.uploads import Upload
from pfedhr.experiment import load_experiment
from pfedhr.in_process import InProcess, Workers
from pfedhr.inference import predict
from pfedhr.launch import prepare
from pfedhr.learning import distil

NETWORKS = ("cnn1", "cnn2", "cnn3")
REPEATS = {"cnn1": 7, "cnn2": 5, "cnn3": 3}
EPOCH_REPEATS = {"cnn1": 30, "cnn2": 15, "cnn3": 7}


def measure() -> Iterator[Measurement]:
    """Yield, for each network, the ratio of a client's whole steps, and that of the epochs, the teacher's logits given."""
    cohort = prepare(load_experiment("two-classes"))
    with Workers(cohort) as workers:
        clients = list(cohort.networks)[: len(set(cohort.networks.values()))]
        views = {client: cohort.client_view(client, 1) for client in clients}
        uploads = {client: Upload(view.network, initial_weights(view), len(view.train)) for client, view in views.items()}
        method = PFedHR(candidates=8, tuning_epochs=0, probe=64)
        given, _ = method.server_step(Teachers({}), uploads, InProcess(method, workers).server_view(1))
    for client, view in views.items():
        if view.network.factory in NETWORKS:
            yield from _beside(view, given.waiting[client])


def _beside(view: ClientView, teacher: Teacher) -> Iterator[Measurement]:
    network, weights, method = view.network.factory, initial_weights(view), PFedHR()
    beside, alone = interleaved(
        lambda: method.client_step(Taught(weights, teacher), Lesson(None), view),
        lambda: method.client_step(Taught(weights, None), Lesson(None), view),
        repeats=REPEATS[network],
    )
    blocks = " ".join(f"{teacher.networks[ref.owner].factory}.{ref.index}" for ref in teacher.recipe.blocks)
    note = f"{view.training.epochs} epochs of {len(view.train)} examples; teacher {blocks}"
    yield Measurement(f"teacher {network}", ratios(beside, alone), "times", Target(1.15, at_least=False), note)

    logits = predict(rebuild(teacher).to(view.device), view.train.ready(view.device).inputs)
    short = replace(view, training=replace(view.training, epochs=1))

    def term(student: Tensor, batch: Tensor) -> Tensor:
        return method.distil_weight * distil(student, logits[batch], method.temperature)

    beside, alone = interleaved(
        lambda: train_privately(short, weights, term),
        lambda: train_privately(short, weights),
        repeats=EPOCH_REPEATS[network],
    )
    yield Measurement(f"teacher {network}, one epoch", ratios(beside, alone), "times", note="the teacher's logits given")
