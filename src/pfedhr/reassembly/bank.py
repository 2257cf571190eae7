"""The blocks of all uploaded networks under the names (owner, index)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from pfedhr.reassembly.blocks import Block, Shape, decompose
from pfedhr.reassembly.symbolic import DecompositionError


class BlockRef(NamedTuple):
    """A block by the name of its network and its place there; `index` counts from 1, as in the paper."""

    owner: str
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]  - tuple.index() is not missed

    @property
    def place(self) -> tuple[int, str]:
        """What blocks are sorted by: where they stand, then whose they are."""
        return self.index, self.owner

    def __str__(self) -> str:
        return f"{self.owner}.{self.index}"


class BlockBank(Mapping[BlockRef, Block]):
    """Every block of a cohort, immutable, iterated by (index, owner) so that no order of arrival shows in a result.

    `classes`: how many logits all networks give; `input_shape`, without batch, `integers` and `signal`: what all of them take,
    a signal if the first layer of any of them says so.
    """

    def __init__(self, chains: Mapping[str, Sequence[Block]], input_shape: Shape) -> None:
        if not chains:
            raise ValueError("a block bank needs at least one network")
        outputs = {blocks[-1].out_shape for blocks in chains.values()}
        if len(outputs) != 1 or len(shape := next(iter(outputs))) != 1:
            raise ValueError(f"the networks end in {sorted(outputs)}: all must give the same number of logits")
        self.input_shape = tuple(input_shape)
        for owner, blocks in chains.items():
            if blocks[0].in_shape not in (self.input_shape, (math.prod(self.input_shape),)):
                raise ValueError(f"the network of {owner} takes {blocks[0].in_shape}, the others {self.input_shape}")
        if len(kinds := {blocks[0].integers for blocks in chains.values()}) != 1:
            raise ValueError("some networks take whole numbers and others do not: all must take the same inputs")
        self.classes = shape[0]
        (self.integers,) = kinds
        self.signal = any(blocks[0].takes_signal for blocks in chains.values())
        self._lengths = {owner: len(chains[owner]) for owner in sorted(chains)}
        self._blocks = {
            BlockRef(owner, index): chains[owner][index - 1]
            for index in range(1, max(self._lengths.values()) + 1)
            for owner, length in self._lengths.items()
            if index <= length
        }

    def __getitem__(self, ref: BlockRef) -> Block:
        return self._blocks[ref]

    def __iter__(self) -> Iterator[BlockRef]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def owners(self) -> tuple[str, ...]:
        """The names of the networks, sorted."""
        return tuple(self._lengths)

    @property
    def operations(self) -> frozenset[str]:
        """The kinds of operation that every network has: O in the paper, whose networks all have the same kinds."""
        chains = ({self[ref].op for ref in self.chain(owner)} for owner in self.owners)
        return frozenset.intersection(*map(frozenset, chains))

    def chain(self, owner: str) -> tuple[BlockRef, ...]:
        """Return the blocks of one network in order."""
        return tuple(BlockRef(owner, index) for index in range(1, self._lengths[owner] + 1))

    def gives_integers(self, ref: BlockRef) -> bool:
        """Return whether `ref` gives whole numbers, as its own successor takes them."""
        following = BlockRef(ref.owner, ref.index + 1)
        return following in self and self[following].integers

    def is_last(self, ref: BlockRef) -> bool:
        """Return whether `ref` gives its network's logits."""
        return ref.index == self._lengths[ref.owner]


def deposit(models: Mapping[str, nn.Module], example: Tensor) -> BlockBank:
    """Cut every model and return the bank of their blocks, which share the models' tensors.

    `example`: (n >= 1, ...), a batch that all models take. Raises DecompositionError for a model that cannot be cut, with
    its name.
    """
    chains: dict[str, tuple[Block, ...]] = {}
    for owner, model in models.items():
        try:
            chains[owner] = decompose(model, example)
        except DecompositionError as error:
            raise DecompositionError(f"the network of {owner}: {error}") from error
    return BlockBank(chains, tuple(example.shape[1:]))
