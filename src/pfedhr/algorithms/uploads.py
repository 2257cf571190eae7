"""What clients of different networks send up, and what a server makes of it before it reassembles."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from pfedhr.algorithms.averaging import weighted_mean
from pfedhr.algorithms.private import restore, weights_of
from pfedhr.inference import predict
from pfedhr.models import ModelSpec, build
from pfedhr.parcel import ParcelError, Tensors
from pfedhr.reassembly import (
    BlockBank,
    BlockPlan,
    Blueprint,
    DecompositionError,
    Description,
    DescriptionError,
    check_used,
    cut,
    describe,
    input_of,
    rebuild,
    rebuild_blocks,
)
from pfedhr.reassembly.tracing import BLOCKS_BY_HAND


@dataclass(frozen=True)
class Upload:
    """What goes up: the hash of the network's blueprint, its weights by the blueprint's names, and how many examples it saw.

    `blueprint` is there unless the server has said that it knows this structure.
    """

    structure: str
    blueprint: Blueprint | None
    weights: Tensors
    examples: int


@dataclass(frozen=True)
class Source:
    """A network that blocks are taken from: its structure, that of its blocks, and its weights by the blueprint's names."""

    blueprint: Blueprint
    plans: tuple[BlockPlan, ...]
    weights: Tensors
    examples: int

    @property
    def structure(self) -> str:
        """The hash of the blueprint."""
        return self.blueprint.hash


Network = TypeVar("Network", Upload, Source)


@functools.cache
def describe_network(network: ModelSpec, dtype: torch.dtype) -> Description:
    """Return the description of a network as it runs on inputs of type `dtype`.

    Raises DescriptionError or DecompositionError, naming the network, if it cannot travel as data or be cut into blocks.
    """
    try:
        model = build(network, 0)
        description = describe(model, torch.zeros(1, *network.shape, dtype=dtype))
        check_used(model, description.names.values())
        cut(description.blueprint)
    except (DescriptionError, DecompositionError) as error:
        reason = str(error).replace(BLOCKS_BY_HAND, "")
        raise type(error)(
            f"the network {network.factory!r}: {reason}; or choose a method that sends no networks as data, such as fedmd, "
            f"fccl or fedproto"
        ) from error
    return description


def check_description(network: ModelSpec, example: Tensor) -> Description:
    """Return the description of a network once it has computed the same on `example` (n >= 1, ...), bit for bit.

    Raises DescriptionError otherwise.
    """
    description = describe_network(network, example.dtype)
    model = build(network, 0)
    twin = rebuild(description.blueprint, description.weights(model))
    if not torch.equal(predict(model, example).nan_to_num(), predict(twin, example).nan_to_num()):
        raise DescriptionError(
            f"the network {network.factory!r} and its blueprint give different outputs: something in forward() depends on the "
            f"inputs' values or on chance"
        )
    return description


def upload(network: ModelSpec, weights: Tensors, inputs: Tensor, known: Collection[str]) -> Upload:
    """Return what a client of `network`, trained on `inputs` (n, ...), sends to a server that knows these structures."""
    description = describe_network(network, inputs.dtype)
    structure = description.blueprint.hash
    blueprint = None if structure in known else description.blueprint
    return Upload(structure, blueprint, description.weights(restore(network, weights)), len(inputs))


def put_in(network: ModelSpec, description: Description, own: Tensors, given: Tensors) -> Tensors:
    """Return the weights `own` of `network` with what is `given`, by the blueprint's names, in its place, ties as they were."""
    model = restore(network, own)
    held = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    with torch.no_grad():  # in place, so that tied weights stay tied
        for name, place in description.names.items():
            held[place].copy_(given[name])
    return weights_of(model)


def learn_structures(known: Mapping[str, Blueprint], uploads: Mapping[str, Upload]) -> dict[str, Blueprint]:
    """Return every structure that is known by now, by its hash. Raises ParcelError for an upload of one that is not."""
    found = dict(known)
    for client, sent in sorted(uploads.items()):  # the state is the same whoever replied first
        if sent.blueprint is not None:
            if sent.blueprint.hash != sent.structure:
                raise ParcelError(f"client {client} uploaded a blueprint that is not of the structure it names")
            found[sent.structure] = sent.blueprint
        if sent.structure not in found:
            raise ParcelError(
                f"client {client} uploaded a network of structure {sent.structure[:12]}, which it never described"
            )
    return found


def sources_of(uploads: Mapping[str, Upload], known: Mapping[str, Blueprint], most: int) -> dict[str, Source]:
    """Return the uploaded networks, each cut into at most `most` blocks unless that is 0.

    Raises ParcelError or DecompositionError for one that cannot be rebuilt or cut.
    """
    blueprints = {client: known[sent.structure] for client, sent in uploads.items()}
    return {
        client: Source(blueprint, cut(blueprint, most), uploads[client].weights, uploads[client].examples)
        for client, blueprint in blueprints.items()
    }


def deposit_sources(sources: Mapping[str, Source], device: torch.device) -> BlockBank:
    """Return the bank of all blocks, on `device`. Raises ParcelError for weights that are not the blueprint's."""
    chains = {owner: rebuild_blocks(source.plans, source.weights) for owner, source in sources.items()}
    for blocks in chains.values():
        for block in blocks:
            block.module.to(device)
    first = next(iter(sources.values())).blueprint
    return BlockBank(chains, tuple(input_of(first, 1).shape[1:]))


def by_structure(sent: Mapping[str, Network]) -> dict[str, dict[str, Network]]:
    """Return the networks of each structure by its hash, each by its client, both in the order in which they were given."""
    cohorts: dict[str, dict[str, Network]] = {}
    for client, one in sent.items():
        cohorts.setdefault(one.structure, {})[client] = one
    return cohorts


def mean_by_examples(cohort: Mapping[str, Network]) -> Tensors:
    """Return the mean of networks of one structure by the examples that they saw."""
    members = cohort.values()
    return weighted_mean([one.weights for one in members], [one.examples for one in members])


def structure_means(sources: Mapping[str, Source]) -> dict[str, Source]:
    """Return one network a structure: the mean of its clients' weights by their examples (large-N variant).

    It bears the name of its first client, with how many others it stands for: `client00+3`.
    """
    averaged: dict[str, Source] = {}
    for members in by_structure(sources).values():
        if len(members) == 1:
            averaged |= members
        else:
            examples = sum(member.examples for member in members.values())
            averaged[f"{min(members)}+{len(members) - 1}"] = replace(
                members[min(members)], weights=mean_by_examples(members), examples=examples
            )
    return averaged
