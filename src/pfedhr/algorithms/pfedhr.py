"""pFedHR: the server makes teachers: of blocks of all uploads reassembled, or the tuned mean of those of one structure.

J. Wang, X. Yang, S. Cui, L. Che, L. Lyu, D. Xu, F. Ma, "Towards Personalized Federated Learning via Heterogeneous Model
Reassembly", NeurIPS 2023, arXiv 2308.08643. Up: the client's weights. Down: the teacher, when the client next takes part; with
`teachers` = structure also to clients never heard of, which are sent those of all structures and take their own.

The paper's form is the preset `paper`; docs/method.md has the default's departures and their evidence. Departures of both,
where the paper leaves things open: groups by k-medoids; a stitch only between blocks that were not neighbours; `light`
stitches by default; a client keeps its last teacher; its own unchanged network is never its teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from pfedhr.algorithm import QUIET, ClientView, Metrics, PublicUse, ServerView, SettingError, Setup
from pfedhr.algorithms.assignment import assign, described
from pfedhr.algorithms.candidates import Limits, search
from pfedhr.algorithms.lessons import Lesson, Taught, Teachers
from pfedhr.algorithms.needs import at_least
from pfedhr.algorithms.private import common_weights
from pfedhr.algorithms.solving import SOLVED_ON, logits_of_donors, solve_drafts
from pfedhr.algorithms.stopwatch import Stopwatch
from pfedhr.algorithms.teacher import Teacher, weights_in
from pfedhr.algorithms.teaching import Teaching
from pfedhr.algorithms.tuning import Tuned, TuningJob, logits_on_public, mean_prediction, tune
from pfedhr.algorithms.uploads import (
    Upload,
    deposit_sources,
    describe_network,
    learn_structures,
    put_in,
    sources_of,
    structure_means,
)
from pfedhr.data import Examples
from pfedhr.learning import soft_targets
from pfedhr.parcel import Tensors
from pfedhr.reassembly import BlockBank, Groups, Profile, Recipe, block_similarity, cut, layout
from pfedhr.seeding import generator

PAPER: Mapping[str, Any] = {
    "distil_weight": 0.2,
    "decline_below": 0.0,
    "tuning_epochs": 3,
    "tuning_batch_size": 8,
    "teachers": "reassembled",
    "tuning_targets": "labels",
    "donors": "active",
    "tuned_blocks": 0,
    "stitch_start": "random",
    "start": "own",
}
"""The paper's form, one preset away from the better one; docs/method.md has the evidence for each difference."""


@dataclass(frozen=True)
class PFedHR(Teaching):
    """Personalised federated learning by heterogeneous model reassembly."""

    groups: int = 4
    """How many groups the blocks form (K); fewer are tried where no candidate exists."""
    distil_weight: float = 1.0
    """Weight of the teacher in the client's loss (lambda)."""
    decline_below: float = 0.5
    """A client declines what tells its own classes apart, beyond chance, less than this share as well as itself; 0 = none."""
    tuning_epochs: int = 10
    """Epochs of tuning on the public data."""
    tuning_batch_size: int = 32
    """Batch size of the tuning."""
    repeat_groups: bool = False
    """Whether a group may give several blocks to one candidate."""
    average_structures: bool = False
    """Whether uploads of one structure are averaged before grouping, for large cohorts."""
    teachers: Literal["reassembled", "own", "structure"] = "structure"
    """What a client learns from: the reassembled candidate that suits it; its own network as the server has tuned it; or so the
    mean of the last uploads of all clients of its structure, with which one that comes late begins, too."""
    tuning_targets: Literal["labels", "cohort", "both"] = "both"
    """What networks are tuned to: the labels (NT-Xent without any), the mean prediction of all uploads, or both."""
    donors: Literal["active", "all"] = "all"
    """Whose uploads make that prediction: those of this round's clients, or the last one of each that ever took part."""
    tuned_blocks: int = field(default=0, metadata={QUIET: True})
    """How many of a network's last blocks the server tunes, on what those before them give it; 0 = all."""
    stitch_start: Literal["random", "solved"] = "random"
    """What stitches and heads begin with: torch's initial weights, or the solution of ridge regression on the probe."""
    start: Literal["own", "teacher"] = "teacher"
    """What private training starts from: the client's own weights, or its network as the server has tuned it, if that came."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": PAPER}
    name = "pfedhr"
    uncovered = None

    @classmethod
    def paper(cls, **changes: Any) -> PFedHR:
        """Return the method in the paper's form, but for `changes`."""
        return cls(**{**PAPER, **changes})

    def check(self, setup: Setup) -> None:
        """Raise what Teaching does, and SettingError for a start that no teacher can give, or blocks that have no aim."""
        super().check(setup)
        at_least(self, tuned_blocks=0)
        if self.start == "teacher" and self.teachers == "reassembled":
            raise SettingError(
                'algorithm.start = "teacher": training can start from a network of one\'s own structure only, and a '
                'reassembled teacher is another; set algorithm.teachers = "own" or "structure"'
            )
        if self.tuned_blocks and not self._knows_aim and not isinstance(setup.public, Examples):
            raise SettingError(
                f"algorithm.tuned_blocks = {self.tuned_blocks}: without labels all of a network is tuned, on two views of each "
                f'image; give labelled public data, or set algorithm.tuning_targets = "cohort"'
            )

    @property
    def _grouped(self) -> int:
        return super()._grouped if self.teachers == "reassembled" else 0

    @property
    def _knows_aim(self) -> bool:
        return self.tuning_targets != "labels"

    @property
    def _takes_labels(self) -> bool:
        return self.tuning_targets != "cohort"

    @property
    def _solves(self) -> bool:
        return self.teachers == "reassembled" and self.stitch_start == "solved"

    def public_use(self, labelled: bool) -> PublicUse:
        """Return labels where networks are tuned to them or heads solved for them, else inputs."""
        labelled = labelled and self._takes_labels
        return "labels at the server" if labelled and self._solves else super().public_use(labelled)

    def init_client(self, view: ClientView) -> Taught:
        """Return what Teaching does, but weights that all of a structure begin with where they are averaged later."""
        if self.teachers != "structure":
            return super().init_client(view)
        return Taught(common_weights(view.network, view.seed), None)

    def message(self, server: Teachers, client: str) -> Lesson:
        """Return the teacher that waits for the client; or, of structures, its own, or all to one that was never heard of."""
        if self.teachers != "structure":
            return super().message(server, client)
        sent, made = server.structures.uploads.get(client), server.structures.teachers
        known = tuple(sorted(server.known))
        return Lesson(None, known, made) if sent is None else Lesson(made.get(sent.structure), known)

    def client_step(self, state: Taught, message: Lesson, view: ClientView) -> tuple[Taught, Upload, Metrics]:
        """Do what Teaching does, with the teacher of the client's structure among those offered."""
        if message.offered:
            structure = describe_network(view.network, view.train.ready(view.device).inputs.dtype).blueprint.hash
            message = Lesson(message.offered.get(structure), message.known)
        return super().client_step(state, message, view)

    def _begin(self, state: Taught, message: Lesson, view: ClientView) -> Tensors:
        """Return the network of the client's structure as the server has tuned it, if it shall start from there and it came."""
        if self.start == "own" or message.teacher is None:
            return state.weights
        description = describe_network(view.network, view.train.ready(view.device).inputs.dtype)
        tuned = weights_in(message.teacher, cut(description.blueprint, self.most_blocks))
        return state.weights if tuned is None else put_in(view.network, description, state.weights, tuned)

    def _fewest_blocks(self, lengths: Sequence[int]) -> int:
        """Return those of the shortest network where structures are averaged, for all may be of one."""
        return lengths[0] if self.average_structures else super()._fewest_blocks(lengths)

    def server_step(self, server: Teachers, replies: Mapping[str, Upload], view: ServerView) -> tuple[Teachers, Metrics]:
        """Decompose, group, propose, assemble and tune, match: Algorithm 1 and eqs. (1) to (5)."""
        if not replies:
            return server, {"candidates": 0}
        watch = Stopwatch()
        known = learn_structures(server.known, replies)
        with watch("profile_seconds"):
            uploads = sources_of({client: replies[client] for client in sorted(replies)}, known, self.most_blocks)
            sources = structure_means(uploads) if self.average_structures else uploads
            bank = deposit_sources(sources, view.device)
        profile, groups, recipes = self._propose(bank, view, watch) if self.teachers == "reassembled" else (None, (), ())
        with watch("assemble_seconds"):
            drafts = {recipe: self._draft(recipe, bank, sources, view) for recipe in recipes}
            # Each upload as its own chain: what candidates are matched with, what the cohort says, or the teacher itself.
            own = bank if sources is uploads else deposit_sources(uploads, view.device)
            clones = self._whole(uploads, own, view) if drafts or self.teachers != "reassembled" else {}
        logits: Tensors = {}
        if self._knows_aim or self._solves:
            with watch("ensemble_seconds"):
                if profile and self._solves and own is bank:  # what the profile told
                    logits = logits_of_donors(bank, profile, self._probe(view), view)
                else:
                    logits = {client: logits_on_public(one, view) for client, one in clones.items()}
        said = {client: soft_targets(logits[client]).exp() for client in clones if client in logits}
        mean = mean_prediction(said if self.donors == "active" else {**server.said, **said})
        tuned: dict[Recipe, Tuned] = {}
        if profile and self._solves and drafts and mean is not None:
            with watch("solve_seconds"):
                parts = {recipe: layout(recipe, bank, self.stitch, self.stitch_layers) for recipe in drafts}
                solved = solve_drafts(drafts, parts, bank, profile, self._probe(view), mean, self._takes_labels, view)
            drafts = {recipe: one.teacher for recipe, one in solved.items()}
            if not self.tuning_epochs:  # what all of them say is known
                tuned = {one.recipe: Tuned(one, logits[client]) for client, one in clones.items()} | solved
        structures = server.structures
        if self.teachers == "structure":
            with watch("assemble_seconds"):
                structures = structures.heard(replies)
                means = structure_means(sources_of(structures.fellows(replies.values()), known, self.most_blocks))
                shared = self._whole(means, deposit_sources(means, view.device), view)
                by_structure = {means[name].structure: one for name, one in shared.items()}
                clones = {client: by_structure[source.structure] for client, source in uploads.items()}
        chains = {client: one.recipe for client, one in clones.items()}
        tuned = tuned or self._tune(drafts | {one.recipe: one for one in clones.values()}, mean, view, watch)
        with watch("match_seconds"):
            teachers, told = self._choose(chains, recipes, tuned)
        if self.teachers == "structure":
            structures = structures.taught({replies[client].structure: one for client, one in teachers.items()})
            teachers = {}  # none waits for one client alone
        told = {"candidates": len(recipes), "groups": [list(map(str, members)) for members in groups], **told, **watch.seconds}
        after = server.after(replies.keys(), teachers, known, said if self.donors == "all" else {})
        return replace(after, structures=structures), told

    def _tune(
        self, networks: Mapping[Recipe, Teacher], mean: Tensor | None, view: ServerView, watch: Stopwatch
    ) -> dict[Recipe, Tuned]:
        """Return every network tuned to the labels, to what the cohort says, or to both."""
        with watch("tune_seconds"):
            targets = mean.log() if self._knows_aim and mean is not None else None
            aims = (self.contrastive_temperature, False, targets, self._takes_labels, self.tuned_blocks)
            jobs = [TuningJob(one, self._tuning, *aims) for one in networks.values()]
            return {result.teacher.recipe: result for result in view.map(tune, jobs, Tuned)}

    def _choose(
        self, chains: Mapping[str, Recipe], recipes: Sequence[Recipe], tuned: Mapping[Recipe, Tuned]
    ) -> tuple[dict[str, Teacher], Metrics]:
        """Return the teacher of each client, and what the round's record says of them."""
        if self.teachers != "reassembled":
            teachers = {client: tuned[chain].teacher for client, chain in chains.items()}
            return teachers, described(chains, teachers, tuned)
        return assign(chains, dict.fromkeys(chains, recipes), tuned) if recipes else ({}, {})

    def _propose(self, bank: BlockBank, view: ServerView, watch: Stopwatch) -> tuple[Profile, Groups, Sequence[Recipe]]:
        with watch("profile_seconds"):
            profile = self._profile(bank, view, SOLVED_ON if self._solves else 0)
            similarity = block_similarity(profile)
        limits = Limits(self.groups, self.candidates, self.repeat_groups)
        return profile, *search(similarity, bank, limits, generator(view.seed, view.round, "candidates"), watch)
