"""FedDF: one shared network for each structure, taught by all clients' networks together on public data.

T. Lin, L. Kong, S. U. Stich, M. Jaggi, "Ensemble Distillation for Robust Model Fusion in Federated Learning", NeurIPS 2020,
arXiv 2006.07242. The server averages the networks of each structure by their examples, then trains every average on the public
inputs to minimise KL(softmax of the mean logits of all clients in the round || its own softmax). Up: the blueprint (once) and
weights. Down: the network of the client's own structure. What serves a client is that network after its own training.

Departures: a fixed number of epochs at one learning rate, because early stopping takes labelled data for validation; batches of
8 where the authors' are of 128, and no clipping of gradients; all clients in the round teach, good or bad; Adam on the clients
too. The server learns a client's structure with its first upload, so a client that takes part late is sent the networks of all
structures that once, and takes its own. Where nobody of its structure has replied it begins with the initial network that all
of it make by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pfedhr.algorithm import ClientView, Metrics, PublicUse, ServerView, Setup
from pfedhr.algorithms.admission import unfit
from pfedhr.algorithms.held import Held, KeepsShared
from pfedhr.algorithms.lessons import among
from pfedhr.algorithms.needs import above_zero, at_least, public_batches
from pfedhr.algorithms.private import common_weights, or_common, train_privately, weights_of
from pfedhr.algorithms.public_training import finite, towards, train_publicly
from pfedhr.algorithms.stopwatch import Stopwatch
from pfedhr.algorithms.uploads import (
    Upload,
    by_structure,
    check_description,
    describe_network,
    learn_structures,
    mean_by_examples,
    put_in,
    upload,
)
from pfedhr.inference import predict
from pfedhr.learning import Training, soft_targets
from pfedhr.parcel import Tensors
from pfedhr.reassembly import Blueprint, rebuild


@dataclass(frozen=True)
class Fusions:
    """The server's state: structures by hash, the network of each by its blueprint's names, and each client's structure."""

    known: dict[str, Blueprint]
    fused: dict[str, Tensors]
    structures: dict[str, str]


@dataclass(frozen=True)
class Fusion:
    """What goes down: the network of the client's structure, or of each where that is not known; and which are known by now.

    `weights`: by the hash of the structure, then by the blueprint's names.
    """

    weights: dict[str, Tensors]
    known: tuple[str, ...]


@dataclass(frozen=True)
class FedDF(KeepsShared):
    """Federated learning by ensemble distillation."""

    tuning_epochs: int = 3
    """Epochs of distillation on the public inputs."""
    tuning_batch_size: int = 8
    """Batch size of it."""
    tuning_learning_rate: float = 0.001
    """Learning rate of it."""
    temperature: float = 1.0
    """Temperature of it."""

    name = "feddf"
    uncovered = None
    server_state = Fusions
    message_type = Fusion
    reply_type = Upload

    def check(self, setup: Setup) -> None:
        """Raise what would stop the method on `setup`.

        SettingError for settings out of range, DescriptionError or DecompositionError for a network that cannot travel as
        data, ModelError for one that cannot be trained on the public data in these batches.
        """
        at_least(self, tuning_epochs=0, tuning_batch_size=1)
        above_zero(self, "tuning_learning_rate", "temperature")
        for network in setup.structures:
            check_description(network, setup.examples)
        if self.tuning_epochs:
            public_batches(setup, "algorithm.tuning_batch_size", self.tuning_batch_size)

    def public_use(self, labelled: bool) -> PublicUse:
        """Return inputs, unless nothing is distilled."""
        return "inputs at the server" if self.tuning_epochs else "none"

    def init_server(self, view: ServerView) -> Fusions:
        """Return no networks."""
        return Fusions({}, {}, {})

    def init_client(self, view: ClientView) -> Held:
        """Return the initial weights that all clients of one structure begin with."""
        return Held(common_weights(view.network, view.seed), None)

    def message(self, server: Fusions, client: str) -> Fusion:
        """Return the network of the client's structure, or those of all for a client never heard of."""
        structures = [server.structures[client]] if client in server.structures else sorted(server.fused)
        fused = {one: server.fused[one] for one in structures if one in server.fused}  # none if its training was not finite
        return Fusion(fused, tuple(sorted(server.known)))

    def client_step(self, state: Held, message: Fusion, view: ClientView) -> tuple[Held, Upload, Metrics]:
        """Train the network of the client's structure on the private examples."""
        inputs = view.train.ready(view.device).inputs
        description, shared = describe_network(view.network, inputs.dtype), None
        if description.blueprint.hash in message.weights:
            shared = put_in(view.network, description, state.weights, message.weights[description.blueprint.hash])
        weights, metrics = train_privately(view, or_common(shared, view.network, view.seed))
        return Held(weights, shared), upload(view.network, weights, inputs, message.known), metrics

    def faults(self, server: Fusions, replies: Mapping[str, Upload], view: ServerView) -> dict[str, str]:
        """Return which uploads make no network for the public inputs."""
        return unfit(replies, server.known, 0, view, self.tuning_batch_size if self.tuning_epochs else 0)

    def server_step(self, server: Fusions, replies: Mapping[str, Upload], view: ServerView) -> tuple[Fusions, Metrics]:
        """Average the networks of each structure, and teach each average what all know together."""
        watch = Stopwatch()
        sent = {client: replies[client] for client in sorted(replies)}
        known = learn_structures(server.known, sent)
        fused = {structure: mean_by_examples(cohort) for structure, cohort in by_structure(sent).items()}
        losses: dict[str, float] = {}
        # One client is its own ensemble: there is nothing to learn, and Adam would take steps along rounding errors.
        if self.tuning_epochs and len(sent) > 1:
            with watch("ensemble"):
                models = (rebuild(known[one.structure], one.weights) for one in sent.values())
                said = ensemble_logits(models, view)
            with watch("tune"):
                distilled = {} if said is None else self._distil(fused, known, said, view)
            # Of the others the server keeps the network from before, or none.
            fused = {structure: one.weights for structure, one in distilled.items() if one.loss is not None}
            losses = {structure[:12]: one.loss for structure, one in distilled.items() if one.loss is not None}
        structures = server.structures | {client: one.structure for client, one in sent.items()}
        used = set(structures.values())
        after = Fusions(among(used, known), among(used, server.fused | fused), structures)
        return after, {"distil_loss": losses, **watch.seconds}

    def _distil(
        self, fused: Mapping[str, Tensors], known: Mapping[str, Blueprint], said: Tensor, view: ServerView
    ) -> dict[str, Distilled]:
        """Return each structure's network once it was taught what all know together, by their mean logits `said`."""
        targets = soft_targets(said, self.temperature).cpu()
        training = Training(self.tuning_epochs, self.tuning_batch_size, self.tuning_learning_rate)
        jobs = [DistillationJob(known[one], held, targets, self.temperature, training) for one, held in fused.items()]
        return dict(zip(fused, view.map(distil_into, jobs, Distilled), strict=True))


@dataclass(frozen=True)
class DistillationJob:
    """A network to be taught on the public inputs, what it is to say there, and how it is trained."""

    blueprint: Blueprint
    weights: Tensors
    targets: Tensor
    temperature: float
    training: Training


@dataclass(frozen=True)
class Distilled:
    """The weights of a network that was taught, and its last loss; None if its training was not finite."""

    weights: Tensors
    loss: float | None


def distil_into(job: DistillationJob, view: ServerView) -> Distilled:
    """Train a network towards the ensemble's targets."""
    loss = towards(job.targets.to(view.device), view.public.ready(view.device).inputs, job.temperature)
    model = rebuild(job.blueprint, job.weights).to(view.device)
    structure = job.blueprint.hash
    last = train_publicly(model, loss, job.training, view, f"distilling structure {structure[:12]}", structure, "distillation")
    taught = weights_of(model)  # and the names of tied weights, which a blueprint gives once
    return Distilled({name: taught[name] for name in job.weights}, last)


def ensemble_logits(models: Iterable[nn.Module], view: ServerView) -> Tensor | None:
    """Return the mean logits (n, classes) on the public inputs of those networks whose are finite; None if none's are."""
    inputs = view.public.ready(view.device).inputs
    total, count = torch.zeros((), device=view.device), 0
    for model in models:  # one at a time: a round's networks together may not fit on the device
        logits = predict(model.to(view.device), inputs)
        if finite(logits, "a client"):
            total, count = total + logits, count + 1
    return total / count if count else None
