"""A server that makes teachers: candidates reassembled of all uploads' blocks, or whole networks, tuned."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pfedhr.algorithm import QUIET, Metrics, PublicUse, ServerView, SettingError, Setup
from pfedhr.algorithms.assignment import assign, described, sound_ones, within_budget
from pfedhr.algorithms.candidates import Limits, search
from pfedhr.algorithms.label_names import called_alike
from pfedhr.algorithms.lessons import Teachers
from pfedhr.algorithms.needs import above, at_least, shares
from pfedhr.algorithms.solving import SOLVED_ON, known_of, logits_of_donors, solve_drafts
from pfedhr.algorithms.stopwatch import Stopwatch
from pfedhr.algorithms.teacher import Deposit, Teacher
from pfedhr.algorithms.teaching import Teaching
from pfedhr.algorithms.tuning import Heard, Tuned, TuningJob, logits_on_public, mean_prediction, softmaxes, tune
from pfedhr.algorithms.uploads import Upload, learn_structures, sources_of, structure_means
from pfedhr.data import Examples
from pfedhr.parcel import Tensors
from pfedhr.reassembly import Recipe, Score, agreement, block_similarity, complement, layout
from pfedhr.seeding import generator

Made = tuple[dict[str, Teacher], Heard, Metrics]
"""The teacher of each client, what the uploads say, and what the round's record says."""


@dataclass(frozen=True)
class Reassembling(Teaching):
    """A method whose server makes each client a teacher of the round's uploads."""

    repeat_groups: bool = False
    """Whether a group may give several blocks to one candidate."""
    average_structures: bool = False
    """Whether uploads of one structure are averaged before grouping, for large cohorts."""
    teachers: Literal["reassembled", "own", "structure"] = "structure"
    """What a client learns from: the reassembled candidate that suits it; its own network as the server has tuned it; or so the
    mean of the last uploads of all clients of its structure, with which one that comes late begins, too."""
    tuning_targets: Literal["labels", "cohort", "both"] = "both"
    """What networks are tuned to: the labels (NT-Xent without any), the mean prediction of all uploads, or both."""
    label_significance: float = field(default=0.1, metadata={QUIET: True})
    """How probable it may be that labels of other things ever teach beside that prediction: labels of six classes and more wait
    until a permutation test finds in it that their classes are called alike; 1 = they teach untested."""
    donors: Literal["active", "all"] = "all"
    """Whose uploads make that prediction: those of this round's clients, or the last one of each that ever took part."""
    tuned_blocks: int = field(default=0, metadata={QUIET: True})
    """How many of a network's last blocks the server tunes, on what those before them give it; 0 = all."""
    stitch_start: Literal["random", "solved"] = "random"
    """What stitches and heads begin with: torch's initial weights, or the solution of ridge regression on the probe."""
    match: Literal["likeness", "benefit"] = field(default="likeness", metadata={QUIET: True})
    """Which candidate a client gets: that whose logits point where its own do, or that which knows what it does not."""
    size_budget: float = field(default=math.inf, metadata={QUIET: True})
    """How much larger than the client's network a candidate may be, as a share of it; inf = as large as it comes."""
    tuned_candidates: Literal["all", "chosen"] = field(default="all", metadata={QUIET: True})
    """Which solved candidates are tuned: all, to choose among them then; or those that were chosen as they were solved."""

    def check(self, setup: Setup) -> None:
        """Raise what Teaching does, and SettingError for blocks that have no aim, or a choice among no candidates."""
        super().check(setup)
        at_least(self, tuned_blocks=0)
        above(self, size_budget=-1, label_significance=0)
        shares(self, "label_significance")
        if self.tuned_blocks and not self._knows_aim and not isinstance(setup.public, Examples):
            raise SettingError(
                f"algorithm.tuned_blocks = {self.tuned_blocks}: without labels all of a network is tuned, on two views of each "
                f'image; give labelled public data, or set algorithm.tuning_targets = "cohort"'
            )
        for setting in ("match", "size_budget", "tuned_candidates"):
            value = getattr(self, setting)
            if value != getattr(type(self), setting) and self.teachers != "reassembled":
                raise SettingError(
                    f"algorithm.{setting} = {value}: there are candidates to choose from only with algorithm.teachers = "
                    f'"reassembled"; set that, or leave this out'
                )
        if self.label_significance != type(self).label_significance and self.tuning_targets != "both":
            raise SettingError(
                f"algorithm.label_significance = {self.label_significance}: labels are tested only where there is something "
                f'else to tune to meanwhile; set algorithm.tuning_targets = "both", or leave this out'
            )
        if self.tuned_candidates == "chosen" and not self._solves:
            raise SettingError(
                "algorithm.tuned_candidates = chosen: before any tuning a candidate tells nothing unless its stitches are "
                'solved; set algorithm.stitch_start = "solved"'
            )

    @property
    def _grouped(self) -> int:
        return super()._grouped if self.teachers == "reassembled" else 0

    @property
    def _knows_aim(self) -> bool:
        return self.tuning_targets != "labels"

    @property
    def _hears(self) -> bool:
        """Whether anything depends on what the uploads say on the public data."""
        return self._knows_aim or self._solves or self.match == "benefit"

    @property
    def _takes_labels(self) -> bool:
        return self.tuning_targets != "cohort"

    @property
    def _tests_labels(self) -> bool:
        """Whether labels teach only once they have passed a test, and what the uploads say does until then."""
        return self.tuning_targets == "both" and self.label_significance < 1

    @property
    def _solves(self) -> bool:
        return self.teachers == "reassembled" and self.stitch_start == "solved"

    def public_use(self, labelled: bool) -> PublicUse:
        """Return labels where networks are tuned to them, heads solved for them or candidates chosen by them, else inputs."""
        labelled = labelled and self._takes_labels
        asked = self._solves or self.match == "benefit"
        return "labels at the server" if labelled and asked else super().public_use(labelled)

    def _fewest_blocks(self, lengths: Sequence[int]) -> int:
        """Return those of the shortest network where structures are averaged, for all may be of one."""
        return lengths[0] if self.average_structures else super()._fewest_blocks(lengths)

    def server_step(self, server: Teachers, replies: Mapping[str, Upload], view: ServerView) -> tuple[Teachers, Metrics]:
        """Make a teacher for each client that replied: a candidate, or its own or its structure's network, tuned."""
        watch = Stopwatch()
        known = learn_structures(server.known, replies)
        with watch("profile"):
            uploads = self._deposit(sources_of(dict(sorted(replies.items())), known, self.most_blocks), view)
        structures = server.structures.heard(replies) if self.teachers == "structure" else server.structures
        if self.teachers == "reassembled":
            teachers, heard, told = self._reassemble(uploads, server, view, watch)
        else:
            with watch("assemble"):
                own = chains = self._whole(uploads, view)
                if self.teachers == "structure":
                    fellows = sources_of(structures.fellows(replies.values()), known, self.most_blocks)
                    means = self._deposit(structure_means(fellows), view)
                    shared = {means.sources[name].structure: chain for name, chain in self._whole(means, view).items()}
                    chains = {client: shared[source.structure] for client, source in uploads.sources.items()}
            teachers, heard, told = self._tune_whole(own, chains, server, view, watch)
        if self.teachers == "structure":
            structures = structures.taught({replies[client].structure: one for client, one in teachers.items()})
            teachers = {}  # none waits for one client alone
        after = server.after(replies, teachers, known, heard.said if self.donors == "all" else {})
        if self._tests_labels and isinstance(view.public, Examples):
            told["labels"] = heard.labels
        return replace(after, structures=structures, labels=heard.labels), {**told, **watch.seconds}

    def _tune_whole(
        self, own: Mapping[str, Teacher], chains: Mapping[str, Teacher], server: Teachers, view: ServerView, watch: Stopwatch
    ) -> Made:
        """Tune each client's chain, which is its teacher, to what the clients' own networks say."""
        heard = self._hear(self._logits(own, view, watch), server, view)
        if self._hears and heard.mean is None:
            return {}, heard, {"candidates": 0, "groups": []}
        tuned = self._tune(chains.values(), heard, view, watch)
        recipes = {client: chain.recipe for client, chain in chains.items()}
        teachers = {client: tuned[recipe].teacher for client, recipe in recipes.items() if tuned[recipe].sound}
        return teachers, heard, {"candidates": 0, "groups": [], **described(recipes, teachers, tuned)}

    def _reassemble(self, uploads: Deposit, server: Teachers, view: ServerView, watch: Stopwatch) -> Made:
        """Decompose, group, propose, assemble and tune, match: Algorithm 1 and eqs. (1) to (5)."""
        with watch("profile"):
            donors = self._deposit(structure_means(uploads.sources), view) if self.average_structures else uploads
            profile = self._profile(donors.bank, view, SOLVED_ON if self._solves else 0)
            similarity = block_similarity(profile)
        limits = Limits(self.groups, self.candidates, self.repeat_groups)
        groups, recipes = search(similarity, donors.bank, limits, generator(view.seed, view.round, "candidates"), watch)
        told: Metrics = {"candidates": len(recipes), "groups": [list(map(str, members)) for members in groups]}
        with watch("assemble"):
            drafts = {recipe: self._draft(recipe, donors.bank, donors.sources, view) for recipe in recipes}
            own = self._whole(uploads, view)
            offered = within_budget(own, drafts, self.size_budget)
        if self._solves and donors is uploads:  # what the profile tells is not computed again
            with watch("ensemble"):
                logits = logits_of_donors(donors.bank, profile, self._probe(view), view)
        else:
            logits = self._logits(own, view, watch)
        heard = self._hear(logits, server, view)
        if not any(offered.values()) or (self._hears and heard.mean is None):
            return {}, heard, told
        tuned: dict[Recipe, Tuned] = {}
        if self._solves and heard.mean is not None:
            with watch("assemble"):
                parts = {recipe: layout(recipe, donors.bank, self.stitch, self.stitch_layers) for recipe in recipes}
                tuned = solve_drafts(drafts, parts, donors.bank, profile, self._probe(view), heard.mean, heard.labels, view)
            drafts = {recipe: one.teacher for recipe, one in tuned.items()}
            tuned = {one.recipe: Tuned(one, logits[client]) for client, one in own.items()} | tuned
        chosen_first = bool(tuned) and (self.tuned_candidates == "chosen" or not self.tuning_epochs)
        if not chosen_first:
            tuned = self._tune([*drafts.values(), *own.values()], heard, view, watch)
        offered = sound_ones(offered, tuned)
        with watch("match"):
            chains = {client: chain.recipe for client, chain in own.items()}
            teachers, matched = assign(chains, offered, tuned, self._score(heard, view))
        if chosen_first and self.tuning_epochs:
            tuned = self._tune(teachers.values(), heard, view, watch)
            teachers = {client: tuned[one.recipe].teacher for client, one in teachers.items() if tuned[one.recipe].sound}
        return teachers, heard, {**told, **matched}

    def _logits(self, own: Mapping[str, Teacher], view: ServerView, watch: Stopwatch) -> Tensors:
        """Return the clients' networks' logits on the public data, if anything asks for them."""
        if not self._hears:
            return {}
        with watch("ensemble"):
            return {client: logits_on_public(chain, view) for client, chain in own.items()}

    def _hear(self, logits: Tensors, server: Teachers, view: ServerView) -> Heard:
        """Return what networks of these logits (n, classes) say, and whether the labels may teach beside it."""
        said = softmaxes(logits)
        mean = mean_prediction(said if self.donors == "active" else {**server.said, **said})
        if not self._tests_labels or not isinstance(view.public, Examples):
            return Heard(said, mean, self._takes_labels)
        if server.labels or mean is None:
            return Heard(said, mean, server.labels)
        rng = generator(view.seed, view.round, "namings")
        return Heard(said, mean, called_alike(mean, view.public.labels, self.label_significance, view.round, rng))

    def _score(self, heard: Heard, view: ServerView) -> Score:
        if self.match == "likeness" or heard.mean is None:
            return agreement
        return functools.partial(complement, known=known_of(heard.mean, view.public, heard.labels))

    def _tune(self, networks: Iterable[Teacher], heard: Heard, view: ServerView, watch: Stopwatch) -> dict[Recipe, Tuned]:
        """Return every network tuned to the labels, to what the cohort says, or to both."""
        with watch("tune"):
            targets = heard.mean.log() if self._knows_aim and heard.mean is not None else None
            aims = (self.contrastive_temperature, False, targets, heard.labels, self.tuned_blocks)
            jobs = [TuningJob(one, self._tuning, *aims) for one in {one.recipe: one for one in networks}.values()]
            return {result.teacher.recipe: result for result in view.map(tune, jobs, Tuned)}
