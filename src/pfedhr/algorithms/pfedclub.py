"""pFedClub: each client's teacher is its own network with blocks of others in the places of its own, no larger than allowed.

J. Wang, Q. Li, L. Lyu, F. Ma, "pFedClub: Controllable Heterogeneous Model Aggregation for Personalized Federated Learning",
NeurIPS 2024 (OpenReview xW6ga9i4eA; there is no arXiv number). Blocks are grouped by the sum of two CKAs, of what enters and
of what leaves. For each client the search CMSR draws an anchor from the group of its first block, takes the block of each
further place from the group of its own block there, in rising order of index, and completes with its own blocks where none is
left. The blocks stay frozen; only stitches and a new head learn. The candidate whose logits on the public data have the largest
mean cosine with those of the client's network teaches it: CE + lambda KL. Up: the client's weights. Down: the teacher, once,
when the client next takes part. With `size_budget` it is pFedClub+: a teacher holds at most (1 + eta) times what the network
does.

Departures: where the paper leaves it open, groups by k-medoids, `light` stitches by default and none between blocks that were
neighbours; no fully connected block before a convolution, own blocks that complete included; a client's unchanged network is
never its teacher; where these rules leave no candidate, own blocks follow from an earlier place, and where that leaves none
another anchor is drawn; of all candidates a sample of `candidates` is looked at, not each; a size counts all values that
travel, stitches, head and running statistics too, and if every candidate is too large the smallest serves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pfedhr.algorithm import Metrics, ServerView, Setup
from pfedhr.algorithms.assignment import assign, sound_ones
from pfedhr.algorithms.lessons import Teachers
from pfedhr.algorithms.needs import above
from pfedhr.algorithms.stopwatch import Stopwatch
from pfedhr.algorithms.teaching import Teaching
from pfedhr.algorithms.tuning import Tuned, TuningJob, tune
from pfedhr.algorithms.uploads import Upload, deposit_sources, learn_structures, sources_of
from pfedhr.reassembly import (
    AnchorChoice,
    BlockBank,
    CompletionRules,
    Completions,
    Groups,
    Recipe,
    Similarity,
    Sizes,
    block_similarity,
    complete,
    group,
)
from pfedhr.seeding import generator


@dataclass(frozen=True)
class PFedClub(Teaching):
    """Personalised federated learning by controllable model aggregation."""

    candidates: int = 16
    """How many candidates are tuned for each client at most."""
    contrastive_temperature: float = 0.07
    """Temperature of NT-Xent, for public data without labels."""
    size_budget: float = math.inf
    """How much larger than the client's network its teacher may be, as a share of it (eta); inf = as large as it comes."""
    anchor: AnchorChoice = "random"
    """The block that begins a client's candidates: random, most similar to its first, or of the smallest index."""
    increasing_index: bool = True
    """Whether blocks that replace others come in rising order of index."""
    completion: bool = True
    """Whether the client's own blocks follow where no other is left."""
    operation_order: bool = True
    """Whether a fully connected block never comes before a convolution."""

    name = "pfedclub"
    uncovered = None

    def check(self, setup: Setup) -> None:
        """Raise what Teaching does, and SettingError for a budget that no network keeps to."""
        super().check(setup)
        above(self, size_budget=-1)

    @property
    def _trained_in(self) -> int:
        """0: the blocks stay frozen."""
        return 0

    def server_step(self, server: Teachers, replies: Mapping[str, Upload], view: ServerView) -> tuple[Teachers, Metrics]:
        """Decompose, group, search for each client, assemble, tune the stitches, match."""
        watch = Stopwatch()
        known = learn_structures(server.known, replies)
        with watch("profile"):
            sources = sources_of({client: replies[client] for client in sorted(replies)}, known, self.most_blocks)
            bank = deposit_sources(sources, view.device)
            similarity = block_similarity(self._profile(bank, view))
        with watch("group"):
            groups = group(similarity, min(self.groups, len(bank)))
        with watch("propose"):
            sizes = Sizes(bank, self.stitch, self.stitch_layers)
            found = {client: self._search(client, groups, bank, similarity, sizes, view) for client in bank.owners}
            offered = {client: one.recipes for client, one in found.items()}
            recipes = {recipe for own in offered.values() for recipe in own}
        with watch("assemble"):
            # An upload is its own chain, reassembled: with its blocks frozen and no stitch it stays what it is.
            chains = {client: Recipe(bank.chain(client)) for client in sources if recipes}
            wanted = sorted(recipes.union(chains.values()), key=lambda recipe: recipe.blocks)
            drafts = [self._draft(recipe, bank, sources, view) for recipe in wanted]
        with watch("tune"):
            jobs = [TuningJob(one, self._tuning, self.contrastive_temperature, frozen=True) for one in drafts]
            tuned = {result.teacher.recipe: result for result in view.map(tune, jobs, Tuned)}
        with watch("match"):
            offered = sound_ones(offered, tuned)
            teachers, described = assign(chains, offered, tuned)
        names = [[str(ref) for ref in members] for members in groups]
        metrics = {"candidates": len(recipes), "groups": names, **_described(found), **described, **watch.seconds}
        return server.after(replies, teachers, known), metrics

    def _search(
        self, client: str, groups: Groups, bank: BlockBank, similarity: Similarity, sizes: Sizes, view: ServerView
    ) -> Completions:
        """Return the client's candidates; the anchor is drawn anew each round."""
        own = sizes.whole(Recipe(bank.chain(client)))
        return complete(
            client,
            groups,
            bank,
            similarity,
            rules=CompletionRules(self.anchor, self.increasing_index, self.completion, self.operation_order),
            limit=self.candidates,
            rng=generator(view.seed, view.round, client, "candidates"),
            sizes=sizes,
            most=(1 + self.size_budget) * own,
        )


def _described(found: Mapping[str, Completions]) -> Metrics:
    """Return what the round's record says of the search: how many there were to choose from, and what was out of the way."""
    return {
        "found": {client: one.total for client, one in found.items()},
        "own_chains_left_out": [client for client, one in found.items() if one.own],
        "over_budget": [client for client, one in found.items() if not one.fits],
    }
