"""pFedHR: the server takes the uploaded networks apart and gives each client a reassembled one as its teacher.

J. Wang, X. Yang, S. Cui, L. Che, L. Lyu, D. Xu, F. Ma, "Towards Personalized Federated Learning via Heterogeneous Model
Reassembly", NeurIPS 2023, arXiv 2308.08643. Up: the client's weights. Down: the teacher, once, when the client next takes part.

Departures from the paper, which leaves them open: groups by k-medoids; a stitch only between blocks that were not neighbours;
`light` stitches by default; a client keeps its last teacher; its own unchanged network is never its teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pfedhr.algorithm import Metrics, ServerView
from pfedhr.algorithms.stopwatch import Stopwatch
from pfedhr.algorithms.teacher import Tuned, TuningJob, assign, tune
from pfedhr.algorithms.teaching import Teachers, Teaching
from pfedhr.algorithms.uploads import Upload, average_structures, deposit_sources, learn_structures, sources_of
from pfedhr.reassembly import BlockBank, Groups, Recipe, Similarity, group, propose
from pfedhr.seeding import generator


@dataclass(frozen=True)
class PFedHR(Teaching):
    """Personalised federated learning by heterogeneous model reassembly."""

    groups: int = 4
    """How many groups the blocks form (K); fewer are tried where no candidate exists."""
    repeat_groups: bool = False
    """Whether a group may give several blocks to one candidate."""
    average_structures: bool = False
    """Whether uploads of one structure are averaged before grouping, for large cohorts."""

    name = "pfedhr"
    uncovered = None

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
            sources = average_structures(uploads) if self.average_structures else uploads
            bank = deposit_sources(sources, view.device)
            similarity = self._similarity(bank, view)
        groups, recipes = self._search(similarity, bank, generator(view.seed, view.round, "candidates"), watch)
        with watch("assemble_seconds"):
            drafts = {recipe: self._draft(recipe, bank, sources, view) for recipe in recipes}
            # A clone of each upload is tuned as the candidates are, for matching only: it is its own chain, reassembled.
            own = bank if sources is uploads else deposit_sources(uploads, view.device)
            chains = {client: Recipe(own.chain(client)) for client in uploads if drafts}
            clones = {recipe: self._draft(recipe, own, uploads, view) for recipe in chains.values()}
        with watch("tune_seconds"):
            jobs = [TuningJob(one, self._tuning, self.contrastive_temperature) for one in (drafts | clones).values()]
            tuned = {result.teacher.recipe: result for result in view.map(tune, jobs, Tuned)}
        with watch("match_seconds"):
            teachers, described = assign(chains, dict.fromkeys(chains, recipes), tuned) if drafts else ({}, {})
        names = [[str(ref) for ref in members] for members in groups]
        metrics = {"candidates": len(recipes), "groups": names, **described, **watch.seconds}
        return server.after(replies.keys(), teachers, known), metrics

    def _search(
        self, similarity: Similarity, bank: BlockBank, rng: torch.Generator, watch: Stopwatch
    ) -> tuple[Groups, Sequence[Recipe]]:
        """Return groups and recipes; where the rules allow none, with the next smaller number of groups."""
        deepest = max(ref.index for ref in bank)
        most = len(bank) if self.repeat_groups else min(len(bank), deepest)  # by R1 no chain is longer than the deepest network
        for count in range(min(self.groups, most), 1, -1):
            with watch("group_seconds"):
                groups = group(similarity, count)
            with watch("propose_seconds"):
                recipes = propose(groups, bank, limit=self.candidates, rng=rng, repeat_groups=self.repeat_groups)
            if recipes:
                return groups, recipes
        return (), ()
