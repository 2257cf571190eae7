"""What a teacher adds to a client's training: a round's local epochs beside it over the same epochs without one.

Clients and epochs are those of the preset `two-classes`, with half of its examples to leave time for more repeats. The teacher
is one that the server has proposed for these networks, and a demanding one: of all first blocks that of cnn4 takes longest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.timing import Measurement, Target, interleaved, ratios
from pfedhr.algorithm import ClientView
from pfedhr.algorithms.lessons import Lesson, Taught
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.private import initial_weights, train_privately, weights_of
from pfedhr.algorithms.teacher import Teacher, draft, teacher_network
from pfedhr.algorithms.uploads import deposit_sources, learn_structures, sources_of, upload
from pfedhr.experiment_file import load_experiment
from pfedhr.inference import predict
from pfedhr.launch import prepare
from pfedhr.learning import distil, soft_targets
from pfedhr.models import ModelSpec, build
from pfedhr.reassembly import BlockRef, Recipe

CLIENTS = ("cnn1", "cnn2", "cnn3")
RECIPE = Recipe((BlockRef("cnn4", 1), BlockRef("cnn1", 2), BlockRef("cnn2", 5), BlockRef("cnn3", 7)))
REPEATS = {"cnn1": 13, "cnn2": 9, "cnn3": 5}
EPOCH_REPEATS = {"cnn1": 30, "cnn2": 15, "cnn3": 7}


def measure() -> Iterator[Measurement]:
    """Yield, for each network, the ratio of a client's whole steps, then that of an epoch, the teacher's logits given."""
    whole = load_experiment("two-classes")
    cohort = prepare(replace(whole, data=replace(whole.data, examples=3000)))
    networks = {network.factory: network for network in cohort.networks.values()}
    teacher = _teacher({owner: networks[owner] for owner in sorted(RECIPE.owners)})
    for name in CLIENTS:
        client = next(client for client, network in cohort.networks.items() if network.factory == name)
        yield from _beside(cohort.client_view(client, 1), teacher)


def _teacher(networks: dict[str, ModelSpec]) -> Teacher:
    inputs = torch.zeros(1, *next(iter(networks.values())).shape)
    uploads = {owner: upload(network, weights_of(build(network, 0)), inputs, ()) for owner, network in networks.items()}
    sources = sources_of(uploads, learn_structures({}, uploads), 0)
    return draft(RECIPE, deposit_sources(sources, torch.device("cpu")), sources, "light", 1)


def _beside(view: ClientView, teacher: Teacher) -> Iterator[Measurement]:
    network, weights, method = view.network.factory, initial_weights(view), PFedHR.paper()
    beside, alone = interleaved(
        lambda: method.client_step(Taught(weights, teacher), Lesson(None, ()), view),
        lambda: method.client_step(Taught(weights, None), Lesson(None, ()), view),
        repeats=REPEATS[network],
    )
    note = f"{view.training.epochs} epochs of {len(view.train)} examples; teacher {teacher.recipe}"
    yield Measurement(f"teacher {network}", ratios(beside, alone), "times", Target(1.15, at_least=False), note)

    targets = soft_targets(
        predict(teacher_network(teacher).to(view.device), view.train.ready(view.device).inputs), method.temperature
    )
    short = replace(view, training=replace(view.training, epochs=1))

    def term(student: Tensor, batch: Tensor) -> Tensor:
        return method.distil_weight * distil(student, targets[batch], method.temperature)

    beside, alone = interleaved(
        lambda: train_privately(short, weights, term),
        lambda: train_privately(short, weights),
        repeats=EPOCH_REPEATS[network],
    )
    yield Measurement(f"teacher {network}, one epoch", ratios(beside, alone), "times", note="the teacher's logits given")
