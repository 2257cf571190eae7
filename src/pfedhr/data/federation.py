"""Who holds which examples: the clients' private train and test shares, and the server's public ones.

An option out of range raises DataError, which names its field.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from pfedhr.data.examples import DataError, Examples, Public, check_inputs, check_labels, extremes
from pfedhr.data.images import like
from pfedhr.data.partition import ALPHAS, by_classes, dirichlet, holdout, iid, stratified
from pfedhr.data.sources import Dataset, load
from pfedhr.disk import is_writable
from pfedhr.seeding import generator

Partition = Literal["iid", "classes", "dirichlet"]


@dataclass(frozen=True)
class DataOptions:
    """The clients' data: which set, how much, how it is shared out."""

    name: str = "fashion-mini"
    """fashion-mini (embedded), mnist, fashion-mnist, cifar-10, svhn, digits (64 measurements), sentences (generated), or your
    own package.module:function."""
    dir: str = ""
    """Folder that holds the files of the set, or a folder of its name that does."""
    hub: bool = False
    """Take mnist, fashion-mnist, cifar-10 and svhn from the Hugging Face hub rather than from files."""
    examples: int = 0
    """Number of examples to take from the set, stratified by class; 0 takes all."""
    partition: Partition = "classes"
    """How examples are shared out: at random, a few classes a client, or in Dirichlet proportions a class."""
    classes_per_client: int = 2
    """Number of distinct classes that a client holds (partition classes)."""
    shard_size: int = 0
    """Number of examples a class and client (partition classes); 0 takes as many as all clients can have."""
    alpha: float = 0.5
    """Concentration of the Dirichlet distribution (partition dirichlet); small means unlike clients."""
    test_share: float = 0.2
    """Share of each client's examples that is kept for testing, in the client's own mix of classes."""

    def __post_init__(self) -> None:
        _check_option("data.dir", ascii(self.dir), is_writable(self.dir), "a folder whose name is UTF-8 without a zero byte")
        _check_option("data.examples", self.examples, self.examples >= 0, "0 for all, or a positive number")
        kinds = get_args(Partition)
        _check_option("data.partition", self.partition, self.partition in kinds, f"one of {', '.join(kinds)}")
        _check_option("data.classes_per_client", self.classes_per_client, self.classes_per_client >= 1, "at least 1")
        _check_option(
            "data.shard_size",
            self.shard_size,
            self.shard_size >= 0,
            "0 for the largest, or a positive number",
        )
        lowest, highest = ALPHAS
        _check_option(
            "data.alpha",
            self.alpha,
            lowest <= self.alpha <= highest,
            f"a number from {lowest:g} to {highest:g}",
        )
        _check_share("data.test_share", self.test_share)


@dataclass(frozen=True)
class PublicOptions:
    """The server's public data."""

    share: float = 0.1
    """Number of public examples, as a share of the clients' set; as many leave it even if another gives them; 0 = none."""
    name: str = ""
    """Another set to take public examples from, images resized to the clients'; empty takes those that left theirs."""
    labelled: bool = True
    """Whether the server may see the labels of the public examples."""

    def __post_init__(self) -> None:
        _check_option("public.share", self.share, 0 <= self.share < 1, "0 for none, or a number above 0 and below 1")


@dataclass(frozen=True)
class ClientData:
    """What one client holds: examples to learn from, and examples to be tested on."""

    train: Examples
    test: Examples


@dataclass(frozen=True)
class Federation:
    """The private data of every client by its id, and the public data; inputs of any one dtype and shape.

    Labels lie in [0, classes); `mirror` says whether a left-right mirror image of a public one keeps its class; `unused`
    private examples were there that no client holds. DataError names the client that lacks examples, or whose inputs or labels
    do not fit the rest or cannot be learnt from.
    """

    clients: dict[str, ClientData]
    public: Public
    classes: int
    mirror: bool
    unused: int = 0

    def __post_init__(self) -> None:
        if not self.clients:
            raise DataError("a federation without clients: give at least one")
        first = next(iter(self.clients.values())).train.inputs
        for place, examples in self._parts():
            if len(examples) == 0:
                if examples is self.public:
                    continue  # methods that use it refuse
                raise DataError(
                    f"{place} holds no examples: give at least one, by sharing more examples out or among fewer clients"
                )
            inputs = examples.inputs
            if inputs.shape[1:] != first.shape[1:] or inputs.dtype != first.dtype:
                raise DataError(
                    f"{place} holds inputs of shape {tuple(inputs.shape[1:])} and type {inputs.dtype}, where "
                    f"the first client has {tuple(first.shape[1:])} and {first.dtype}: make them alike"
                )
            check_inputs(place, inputs)
            if isinstance(examples, Examples):
                check_labels(place, examples.labels, self.classes)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, without a batch axis."""
        return tuple(next(iter(self.clients.values())).train.inputs.shape[1:])

    @property
    def extremes(self) -> Tensor:
        """The inputs (n, ...) of the least and the largest numbers of things (`extremes`), among clients' and public ones."""
        return extremes([examples.inputs for _, examples in self._parts()])

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the examples in order, those of the `clients` and the `public` ones: equal data has equal ones."""
        found = {"clients": hashlib.sha256(), "public": hashlib.sha256()}
        for place, examples in self._parts():
            digest = found["public" if examples is self.public else "clients"]
            for tensor in (examples.inputs, *([examples.labels] if isinstance(examples, Examples) else [])):
                digest.update(f"{place} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return {part: digest.hexdigest() for part, digest in found.items()}

    def _parts(self) -> Iterator[tuple[str, Public]]:
        for client, data in self.clients.items():
            yield f"the train part of client {client!r}", data.train
            yield f"the test part of client {client!r}", data.test
        yield "the public part", self.public


def build_federation(data: DataOptions, public: PublicOptions, clients: int, seed: int) -> Federation:
    """Return the federation that the options describe; equal arguments give equal federations.

    Public examples leave the pool first, then the pool is shared out, then each share is split into train and
    test; no example is in two places. The clients are "client00", "client01" and so on. DataError says which
    option cannot be met.
    """
    main = source = load(data.name, data.dir, data.hub)
    pool = main.examples
    if data.examples:
        count, most = data.examples, len(pool)
        _check_option("data.examples", count, count <= most, f"at most the {most} that {data.name} has")
        pool = pool.take(stratified(pool.labels, count, generator(seed, "examples")))
    whole, shared = len(pool), pool.take(torch.arange(0))
    if public.share:
        kept, drawn = holdout(pool.labels, public.share, generator(seed, "public"))
        shared, pool = pool.take(drawn), pool.take(kept)
    if public.share and public.name not in ("", data.name):
        if {public.name, data.name} == {"fashion-mini", "fashion-mnist"}:
            raise DataError(
                f"public.name = {public.name!r}: fashion-mini is a part of fashion-mnist, so that public examples could be the "
                f"clients' test examples; choose another set, or leave public.name empty"
            )
        # What leaves the pool is not used then, but clients hold the same examples whatever the public data is.
        source = load(public.name, data.dir, data.hub)
        shared = _foreign(source, main, whole, public, seed)
    shares = _share_out(pool.labels, clients, data, generator(seed, "partition"))
    width = max(2, len(str(clients - 1)))
    held: dict[str, ClientData] = {}
    for number, share in enumerate(shares):
        client = f"client{number:0{width}}"
        if len(share) < 2:
            instead = ", or data.partition = iid or dirichlet, for by classes no shard is larger than the scarcest allows"
            raise DataError(
                f"{client} is left with {len(share)} of {len(pool)} private examples, and needs two, one to be tested on: "
                "raise data.examples or data.shard_size, where they are above 0, or choose fewer clients (clients.count)"
                f"{instead if data.partition == 'classes' else ''}"
            )
        train, test = holdout(pool.labels[share], data.test_share, generator(seed, "holdout", client))
        held[client] = ClientData(pool.take(share[train]), pool.take(share[test]))
    unused = len(pool) - sum(map(len, shares))
    return Federation(held, shared if public.labelled else shared.without_labels(), main.classes, source.mirror, unused)


def _foreign(other: Dataset, main: Dataset, pool_size: int, public: PublicOptions, seed: int) -> Examples:
    """Return public examples from a set other than the clients', made to look like theirs."""
    if public.labelled and other.classes != main.classes:
        raise DataError(
            f"public.name = {public.name!r} has {other.classes} classes and the clients' {main.name!r} has "
            f"{main.classes}, so its labels mean nothing to the clients: set public.labelled = false"
        )
    count = max(round(public.share * pool_size), 1)
    most = len(other.examples) / pool_size
    _check_option(
        "public.share",
        public.share,
        count <= len(other.examples),
        f"at most {most:g}: {public.name} has no more",
    )
    chosen = other.examples.take(stratified(other.examples.labels, count, generator(seed, "public")))
    kind = main.examples.inputs
    if chosen.inputs.shape[1:] == kind.shape[1:] and chosen.inputs.dtype == kind.dtype:
        return chosen
    return Examples(like(chosen.inputs, tuple(kind.shape[1:])), chosen.labels)


def _share_out(labels: Tensor, clients: int, data: DataOptions, rng: torch.Generator) -> tuple[Tensor, ...]:
    try:
        match data.partition:
            case "iid":
                return iid(labels, clients, rng)
            case "classes":
                return by_classes(labels, clients, data.classes_per_client, rng, data.shard_size)
            case "dirichlet":
                return dirichlet(labels, clients, data.alpha, rng, minimum=max(1, min(10, len(labels) // clients)))
    except DataError as error:
        raise DataError(f"data.partition = {data.partition!r}: {error}") from error


def _check_option(field: str, value: object, fits: bool, remedy: str) -> None:
    if not fits:
        raise DataError(f"{field} = {value}: give {remedy}")


def _check_share(field: str, value: float) -> None:
    _check_option(field, value, 0 < value < 1, "a number above 0 and below 1")
