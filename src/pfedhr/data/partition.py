"""Sharing examples out among clients, and splitting a share: pure functions of the labels and a generator.

Every function takes `labels` (n,) int64 and returns int64 index tensors into them that have no index in
common.
"""

from __future__ import annotations

import heapq

import numpy as np
import torch
from torch import Tensor

from pfedhr.data.examples import DataError

ALPHAS = (1e-6, 1e6)  # below, a class goes to one client; above, to all alike: nothing changes beyond these


def iid(labels: Tensor, clients: int, rng: torch.Generator) -> tuple[Tensor, ...]:
    """Return random shares of all examples, sizes differing by at most one. DataError if one were empty."""
    _check_clients(clients)
    if len(labels) < clients:
        raise DataError(
            f"{len(labels)} examples for {clients} clients: have more examples (data.examples) or fewer clients (clients.count)"
        )
    return torch.randperm(len(labels), generator=rng).tensor_split(clients)


def by_classes(
    labels: Tensor, clients: int, classes_per_client: int, rng: torch.Generator, shard_size: int = 0
) -> tuple[Tensor, ...]:
    """Return shares of `classes_per_client` distinct classes each, with equally many examples of every one.

    No class is dealt to more than one client more than another is, so all are covered when there are enough
    clients. A client gets `shard_size` examples a class, or as many as all can have when it is 0; the rest is
    left out. DataError names the class that runs out.
    """
    _check_clients(clients)
    present, class_of, available = labels.unique(return_inverse=True, return_counts=True)
    if not 1 <= classes_per_client <= len(present):
        raise DataError(
            f"{classes_per_client} classes a client, of {len(present)} that the examples have: give 1 to {len(present)}"
        )
    used = torch.zeros_like(available)
    hands: list[Tensor] = []
    for _ in range(clients):
        # The classes used least so far, ties broken by the shuffle: always distinct, and use never differs by
        # over one.
        order = torch.randperm(len(present), generator=rng)
        hand = order[used[order].argsort(stable=True)[:classes_per_client]]
        used[hand] += 1
        hands.append(hand)
    most = torch.where(used > 0, available // used.clamp(min=1), len(labels))
    scarcest = int(most.argmin())
    size = shard_size or int(most[scarcest])
    if most[scarcest] < 1:
        raise DataError(
            f"class {present[scarcest]} has {available[scarcest]} examples for {used[scarcest]} clients, fewer than one each: "
            "have more examples (data.examples, 0 = all), fewer clients (clients.count) or fewer classes a client "
            "(data.classes_per_client), leave the class out of the data, or set data.partition = iid or dirichlet"
        )
    if not 1 <= size <= most[scarcest]:
        raise DataError(
            f"shards of {size} examples: class {present[scarcest]} has {available[scarcest]} examples for "
            f"{used[scarcest]} clients, so the largest shard is {most[scarcest]}: give smaller shards "
            "(data.shard_size), fewer clients (clients.count) or fewer classes a client (data.classes_per_client)"
        )
    shards = [
        iter((class_of == label).nonzero()[:, 0][torch.randperm(int(count), generator=rng)].split(size))
        for label, count in enumerate(available)
    ]
    return tuple(torch.cat([next(shards[label]) for label in hand.tolist()]) for hand in hands)


def dirichlet(labels: Tensor, clients: int, alpha: float, rng: torch.Generator, minimum: int = 10) -> tuple[Tensor, ...]:
    """Return shares of all examples, each class divided in proportions drawn from Dirichlet(alpha).

    The proportions are drawn once, whatever alpha is. Then every client below `minimum` is filled up with
    random examples of the client that is largest at that moment, so no more examples move than must.
    DataError if `minimum` is below 1 or more than all clients can have, or alpha is outside `ALPHAS`.
    """
    _check_clients(clients)
    if not ALPHAS[0] <= alpha <= ALPHAS[1]:
        raise DataError(f"alpha = {alpha}: give a number from {ALPHAS[0]:g} to {ALPHAS[1]:g}")
    if not 1 <= minimum <= len(labels) // clients:
        raise DataError(
            f"{len(labels)} examples for {clients} clients of at least {minimum}: have more examples (data.examples), "
            f"fewer clients (clients.count), or a minimum from 1 to {len(labels) // clients}"
        )
    # torch's Dirichlet takes no generator.
    draws = np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=rng)))
    shares: list[list[Tensor]] = [[] for _ in range(clients)]
    for label in labels.unique():
        indices = (labels == label).nonzero()[:, 0]
        # A Gamma(alpha) variable is a Gamma(alpha + 1) one times U**(1/alpha), which underflows unless kept
        # as a logarithm.
        logs = np.log(draws.standard_gamma(alpha + 1, clients)) - draws.standard_exponential(clients) / alpha
        proportions = torch.from_numpy(logs).softmax(0)
        cuts = (proportions.cumsum(0)[:-1] * len(indices)).round().long()
        pieces = indices[torch.randperm(len(indices), generator=rng)].tensor_split(cuts)
        for share, piece in zip(shares, pieces, strict=True):
            share.append(piece)
    whole = [torch.cat(share) for share in shares]
    return _fill([share[torch.randperm(len(share), generator=rng)] for share in whole], minimum)


def holdout(labels: Tensor, share: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return (kept, held) in random order, where held is `share` of all examples in the same mix of labels.

    Both parts have at least one example when there are two. Where classes have equal claims to the last examples held out,
    those of the lowest numbers get them. DataError unless `share` lies between 0 and 1.
    """
    if not 0 < share < 1:
        raise DataError(f"a share of {share} to hold out: give a number above 0 and below 1")
    total = max(min(round(share * len(labels)), len(labels) - 1), min(len(labels) - 1, 1), 0)
    order, chosen = _stratify(labels, total, rng)
    return order[~chosen], order[chosen]


def stratified(labels: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Return `count` indices in random order and the same mix of labels. DataError if there are too few."""
    if not 0 <= count <= len(labels):
        raise DataError(f"{count} examples of {len(labels)}: give a number from 0 to {len(labels)}")
    order, chosen = _stratify(labels, count, rng)
    return order[chosen]


def _stratify(labels: Tensor, total: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a random order of all examples and a mask over it that has `total` in the mix of the labels."""
    order = torch.randperm(len(labels), generator=rng)
    _, class_of, counts = labels[order].unique(return_inverse=True, return_counts=True)
    # The largest remainders are rounded up; whole numbers keep them exact.
    quotas, remainders = counts * total // len(labels), counts * total % len(labels)
    quotas[remainders.argsort(descending=True, stable=True)[: total - int(quotas.sum())]] += 1
    by_class = class_of.argsort(stable=True)
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    chosen = torch.empty(len(labels), dtype=torch.bool)
    chosen[by_class] = rank < quotas.repeat_interleave(counts)
    return order, chosen


def _fill(shares: list[Tensor], minimum: int) -> tuple[Tensor, ...]:
    """Move examples, one at a time from the end of the largest share, until all shares have `minimum`."""
    sizes = [len(share) for share in shares]
    # Some share is above the minimum while another is below it, because together they have enough.
    largest = [(-size, client) for client, size in enumerate(sizes) if size > minimum]
    heapq.heapify(largest)
    received: list[list[Tensor]] = [[] for _ in shares]
    for client, size in enumerate(sizes):
        for _ in range(minimum - size):
            negative, donor = largest[0]
            heapq.heapreplace(largest, (negative + 1, donor))
            received[client].append(shares[donor][-negative - 1])
    left = {donor: -negative for negative, donor in largest}
    return tuple(
        torch.cat([share[: left.get(client, len(share))], *(one[None] for one in received[client])])
        for client, share in enumerate(shares)
    )


def _check_clients(clients: int) -> None:
    if clients < 1:
        raise DataError(f"{clients} clients: give at least 1")
