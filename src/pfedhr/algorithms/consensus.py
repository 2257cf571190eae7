"""What methods share whose clients agree on public examples: the mean of their logits goes down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pfedhr.algorithm import ClientView, Metrics, ServerView
from pfedhr.algorithms.own import OwnNetwork
from pfedhr.seeding import generator


@dataclass(frozen=True)
class Consensus:
    """The server's state, and what goes down: mean scores (k, classes) on the subset of `round`, None before there are any."""

    scores: Tensor | None
    round: int


@dataclass(frozen=True)
class PublicScores:
    """What goes up: logits (k, classes) on the round's subset of the public data."""

    logits: Tensor


class ByConsensus(OwnNetwork):
    """A method whose clients send their scores on a round's public subset and get their mean. It adds the client's step."""

    server_state = Consensus
    message_type = Consensus
    reply_type = PublicScores

    def init_server(self, view: ServerView) -> Consensus:
        """Return no scores."""
        return Consensus(None, 0)

    def message(self, server: Consensus, client: str) -> Consensus:
        """Return the consensus."""
        return server

    def server_step(
        self, server: Consensus, replies: Mapping[str, PublicScores], view: ServerView
    ) -> tuple[Consensus, Metrics]:
        """Return the mean of the scores."""
        if not replies:
            return server, {}
        return Consensus(torch.stack([replies[client].logits for client in sorted(replies)]).mean(0), view.round), {}


def public_inputs(view: ClientView, round: int, most: int) -> Tensor:
    """Return the public inputs, `most` or fewer, that all clients score in `round`, on the view's device."""
    order = torch.randperm(len(view.public), generator=generator(view.seed, round, "alignment"))
    return view.public.take(order[:most]).ready(view.device).inputs
