"""What methods share whose server reassembles uploaded networks and gives each client one as its teacher.

A client trains beside its teacher and sends its weights. A method adds its server's step: which blocks make a candidate, what
is tuned, and who gets which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pfedhr.algorithm import Algorithm, ClientView, Metrics, PublicUse, ServerView, SettingError, Setup
from pfedhr.algorithms.admission import unfit
from pfedhr.algorithms.lessons import Lesson, Taught, Teachers
from pfedhr.algorithms.needs import above_zero, at_least, public_batches, shares, views_of_images
from pfedhr.algorithms.per_class import class_means
from pfedhr.algorithms.private import Term, initial_weights, restore, train_privately
from pfedhr.algorithms.teacher import Deposit, Teacher, draft, teacher_network
from pfedhr.algorithms.uploads import Source, Upload, check_description, deposit_sources, upload
from pfedhr.data import Examples
from pfedhr.inference import predict
from pfedhr.learning import Training, distil, soft_targets, steady
from pfedhr.parcel import Tensors
from pfedhr.reassembly import BlockBank, Profile, Recipe, StitchKind, cut, profile
from pfedhr.seeding import generator, seeded


@dataclass(frozen=True)
class Teaching(Algorithm):
    """A method whose clients distil from reassembled networks."""

    groups: int = 4
    """How many groups the blocks form (K)."""
    candidates: int = 16
    """How many candidates are tuned at most (M)."""
    distil_weight: float = 0.2
    """Weight of the teacher in the client's loss (lambda)."""
    temperature: float = 1.0
    """Temperature of the distillation."""
    teacher_max_age: int = 0
    """Rounds for which a teacher serves; 0 = until the next one."""
    decline_below: float = 0.0
    """A client declines what tells its own classes apart, beyond chance, less than this share as well as itself: a teacher, or
    what it has learnt beside one; 0 = none."""
    tuning_epochs: int = 3
    """Epochs of tuning on the public data."""
    tuning_batch_size: int = 8
    """Batch size of the tuning."""
    tuning_learning_rate: float = 0.001
    """Learning rate of the tuning."""
    contrastive_temperature: float = 0.5
    """Temperature of NT-Xent, for public data without labels."""
    stitch: StitchKind = "light"
    """light: maps stay maps; full: the paper's dense layers."""
    stitch_layers: int = 1
    """How many linear layers a stitch has, each followed by ReLU."""
    most_blocks: int = 0
    """Blocks that a network is cut into at most, for very deep ones; 0 = as many as it has."""
    probe: int = 512
    """How many public examples the blocks are compared on."""

    server_state = Teachers
    client_state = Taught
    message_type = Lesson
    reply_type = Upload

    def check(self, setup: Setup) -> None:
        """Raise what would stop the method on `setup`.

        SettingError for a setting out of range or more groups than blocks, DecompositionError for a network that cannot be
        cut, DescriptionError for one that cannot travel as data, ModelError for one that cannot be tuned in these batches.
        """
        at_least(self, groups=2, candidates=1, tuning_epochs=0, tuning_batch_size=1, probe=2)
        at_least(self, distil_weight=0, teacher_max_age=0, most_blocks=0, stitch_layers=1)
        shares(self, "decline_below")
        above_zero(self, "temperature", "contrastive_temperature", "tuning_learning_rate")
        aimless = not self._knows_aim and not isinstance(setup.public, Examples)
        if self.tuning_epochs and aimless:
            views_of_images(setup)
        if self._trained_in:
            public_batches(setup, "algorithm.tuning_batch_size", self._trained_in)
        self._check_blocks(setup, setup.examples)

    @property
    def _trained_in(self) -> int:
        """The batch size in which the server trains blocks of clients, 0 if it trains none."""
        return self.tuning_batch_size if self.tuning_epochs else 0

    @property
    def _knows_aim(self) -> bool:
        """Whether candidates are tuned towards something even where there are no labels."""
        return False

    def _check_blocks(self, setup: Setup, example: Tensor) -> None:
        """Raise SettingError if the cohort of a round may have fewer blocks than there are groups."""
        described = {network: check_description(network, example) for network in setup.structures}
        depth = {network: len(cut(one.blueprint, self.most_blocks)) for network, one in described.items()}
        lengths = sorted(depth[network] for network in setup.networks.values())[: setup.active]
        fewest = self._fewest_blocks(lengths)
        if self._grouped > fewest:
            raise SettingError(
                f"algorithm.groups = {self.groups}: a round of {setup.active} clients may have {fewest} blocks only; choose at "
                f"most {fewest} groups, more active clients, or deeper networks"
            )

    @property
    def _grouped(self) -> int:
        """How many groups the method makes of a round's blocks."""
        return self.groups

    def _fewest_blocks(self, lengths: Sequence[int]) -> int:
        """Return how many blocks there are to group when the networks of these lengths, in ascending order, reply."""
        return sum(lengths)

    def public_use(self, labelled: bool) -> PublicUse:
        """Return labels where there are some and the server tunes on them, else inputs."""
        return "labels at the server" if labelled and self.tuning_epochs else "inputs at the server"

    def init_server(self, view: ServerView) -> Teachers:
        """Return no teachers."""
        return Teachers({}, {}, {}, {})

    def init_client(self, view: ClientView) -> Taught:
        """Return the client's initial weights and no teacher."""
        return Taught(initial_weights(view), None)

    def message(self, server: Teachers, client: str) -> Lesson:
        """Return the teacher that waits for the client, if any."""
        teacher = server.made[server.waiting[client]] if client in server.waiting else None
        return Lesson(teacher, tuple(sorted(server.known)))

    def client_step(self, state: Taught, message: Lesson, view: ClientView) -> tuple[Taught, Upload, Metrics]:
        """Train on the private data beside the teacher: eq. (6). One that is declined is as one that never came."""
        state = replace(state, teacher=self._in_time(state.teacher, view))
        message = replace(message, teacher=self._in_time(message.teacher, view))
        own = _known(restore(view.network, state.weights), view) if self._judges(state, message, view) else None
        declined = message.teacher is not None and own is not None and self._declines(message.teacher, own, view)
        if declined:
            message = replace(message, teacher=None)
        teacher = message.teacher or state.teacher
        weights, metrics = train_privately(view, self._begin(state, message, view), self._term(teacher, view))
        if teacher is not None and own is not None and (alone := self._better_alone(weights, state, own, view)):
            (weights, metrics), teacher, declined = alone, None, True
        metrics |= {"declined": 1} if declined else {}
        sent = upload(view.network, weights, view.train.ready(view.device).inputs, message.known)
        return Taught(weights, teacher), sent, metrics

    def _in_time(self, teacher: Teacher | None, view: ClientView) -> Teacher | None:
        """Return the teacher, or None for one beyond its age, from which nothing may begin either."""
        beyond = teacher is not None and 0 < self.teacher_max_age < view.round - teacher.round
        return None if beyond else teacher

    def _judges(self, state: Taught, message: Lesson, view: ClientView) -> bool:
        """Return whether a client with a teacher judges it: not with privacy, for no noise covers what its choice tells.

        Nor do clients of one class, among which all networks are at chance.
        """
        taught = message.teacher is not None or state.teacher is not None
        return taught and self.decline_below > 0 and view.privacy is None and len(view.train.labels.unique()) > 1

    def _declines(self, teacher: Teacher, own: float, view: ClientView) -> bool:
        """Return whether the teacher knows too little of the private examples, of which the client's network knows `own`."""
        # It may be below chance, where the share of it is above it.
        return _known(teacher_network(teacher), view) < min(own, self.decline_below * own)

    def _better_alone(self, weights: Tensors, state: Taught, own: float, view: ClientView) -> tuple[Tensors, Metrics] | None:
        """Return what training without a teacher gives, if `weights`, of training beside one, know too little and it much.

        A teacher that knows no more than chance may still be a good start for a network that knows no more itself, or one
        from where it learns nothing. Only the training tells, and it does so for certain where the client learns easily alone.
        """
        beside = _known(restore(view.network, weights), view)
        if beside > max(0.0, self.decline_below * own):
            return None
        alone, metrics = train_privately(view, state.weights)
        most = 1 - 1 / len(view.train.labels.unique())
        # Never more than half: the stricter clients are, the less would be kept of what they learn alone, and at 1 nothing.
        much = max(beside, min(self.decline_below, 0.5) * most)
        return (alone, metrics) if _known(restore(view.network, alone), view) > much else None

    def _begin(self, state: Taught, message: Lesson, view: ClientView) -> Tensors:
        """Return the weights that private training starts from: those it ended with."""
        return state.weights

    def faults(self, server: Teachers, replies: Mapping[str, Upload], view: ServerView) -> dict[str, str]:
        """Return which uploads make no network for the public inputs that can be cut into blocks."""
        return unfit(replies, server.known, self.most_blocks, view, self._trained_in)

    def personal_model(self, state: Taught, view: ClientView) -> nn.Module:
        """Return the client's network."""
        return restore(view.network, state.weights)

    def teacher_model(self, state: Taught, view: ClientView) -> nn.Module | None:
        """Return the client's last teacher, if it has one."""
        return teacher_network(state.teacher) if state.teacher else None

    def _term(self, teacher: Teacher | None, view: ClientView) -> Term | None:
        """Return the second term of eq. (6), or None where no teacher serves."""
        if teacher is None or not self.distil_weight:
            return None
        # The teacher and the private data stay the same for the round: what it teaches is computed once.
        logits = predict(teacher_network(teacher).to(view.device), view.train.ready(view.device).inputs)
        targets = soft_targets(logits, self.temperature)
        return steady(lambda student, batch: self.distil_weight * distil(student, targets[batch], self.temperature))

    def _profile(self, bank: BlockBank, view: ServerView, keep: int = 0) -> Profile:
        """Return what blocks do on public examples, the same in every round, and what enters them of the first `keep`."""
        return profile(bank, view.public.take(self._probe(view)).ready(view.device).inputs, keep)

    def _probe(self, view: ServerView) -> Tensor:
        """Return the places of the public examples that blocks are compared on."""
        return torch.randperm(len(view.public), generator=generator(view.seed, "probe"))[: self.probe]

    @property
    def _tuning(self) -> Training:
        """How candidates are tuned."""
        return Training(self.tuning_epochs, self.tuning_batch_size, self.tuning_learning_rate)

    def _draft(self, recipe: Recipe, bank: BlockBank, sources: Mapping[str, Source], view: ServerView) -> Teacher:
        """Return the untuned network of a recipe, its stitches' initial weights named by round and recipe."""
        with seeded(view.seed, view.round, str(recipe), "stitches"):
            return draft(recipe, bank, sources, self.stitch, view.round, self.stitch_layers)

    def _deposit(self, sources: Mapping[str, Source], view: ServerView) -> Deposit:
        return Deposit(sources, deposit_sources(sources, view.device))

    def _whole(self, networks: Deposit, view: ServerView) -> dict[str, Teacher]:
        """Return every network of a deposit as its own chain, untuned."""
        bank, sources = networks.bank, networks.sources
        return {owner: self._draft(Recipe(bank.chain(owner)), bank, sources, view) for owner in sources}


def _known(model: nn.Module, view: ClientView) -> float:
    """Return what a network knows of the client's private examples, beyond chance."""
    examples = view.train.ready(view.device)
    return beyond_chance(predict(model.to(view.device), examples.inputs), examples.labels)


def beyond_chance(logits: Tensor, labels: Tensor) -> float:
    """Return the mean over the classes in `labels` (n,) of the share that `logits` (n, classes) get right, less chance.

    The largest logit counts among those of these k classes alone: a network that was taught all classes says others, too, and
    yet may tell these apart. One that says the same of all examples has 1 / k right, whichever class that is: this is chance.
    """
    present, places = labels.unique(return_inverse=True)
    right = (logits[:, present].argmax(1) == places).float()
    return class_means(right[:, None], labels).means.mean().item() - 1 / len(present)
