"""The blocks of all uploaded networks under the names (owner, index)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from pfedhr.reassembly.blocks import Block, decompose
from pfedhr.reassembly.symbolic import DecompositionError


class BlockRef(NamedTuple):
    """A block by the name of its network and its place there; `index` counts from 1, as in the paper."""

    owner: str
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]  - tuple.index() is not missed

    def __str__(self) -> str:
        return f"{self.owner}.{self.index}"


class BlockBank(Mapping[BlockRef, Block]):
    """Every block of a cohort, immutable, iterated by (index, owner) so that no order of arrival shows in a result."""

    def __init__(self, chains: Mapping[str, Sequence[Block]]) -> None:
        if not chains:
            raise ValueError("a block bank needs at least one network")
        outputs = {blocks[-1].out_shape for blocks in chains.values()}
        if len(outputs) != 1 or len(shape := next(iter(outputs))) != 1:
            raise ValueError(f"the networks end in {sorted(outputs)}: all must give the same number of logits")
        self.classes = shape[0]
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
        """The kinds of operation that occur: O in the paper."""
        return frozenset(block.op for block in self.values())

    def chain(self, owner: str) -> tuple[BlockRef, ...]:
        """Return the blocks of one network in order."""
        return tuple(BlockRef(owner, index) for index in range(1, self._lengths[owner] + 1))

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
    return BlockBank(chains)
