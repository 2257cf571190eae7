"""Chains of steps that begin alike, such as candidates of the same first blocks: what they have in common is done once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from pfedhr.inference import LARGEST_BATCH, inference

Key = TypeVar("Key")
Step = TypeVar("Step", bound=Hashable)
State = TypeVar("State")


def run_shared(chains: Mapping[Key, Sequence[Step]], start: State, take: Callable[[State, Step], State]) -> dict[Key, State]:
    """Return the state at the end of every chain, `take` giving the one after a step.

    Steps that chains share from the beginning on are taken once. Depth first, so that no more states are held than the longest
    chain has steps.
    """
    ended: dict[Key, State] = {}
    waiting: list[tuple[State, int, list[Key]]] = [(start, 0, list(chains))]
    while waiting:
        state, depth, keys = waiting.pop()
        ended |= {key: state for key in keys if len(chains[key]) == depth}
        onward = [key for key in keys if len(chains[key]) > depth]
        if not onward:
            continue
        step = chains[onward[0]][depth]
        if others := [key for key in onward if chains[key][depth] != step]:
            waiting.append((state, depth, others))
        waiting.append((take(state, step), depth + 1, [key for key in onward if chains[key][depth] == step]))
    return {key: ended[key] for key in chains}


def predict_chains(chains: Mapping[Key, Sequence[nn.Module]], inputs: Tensor) -> dict[Key, Tensor]:
    """Return the outputs (n, ...) of chains of modules on `inputs` (n >= 1, ...), each as `predict` gives them."""

    def take(values: Tensor, module: nn.Module) -> Tensor:
        return module(values.clone())  # for a module may change in place what others take, too

    with inference(*(module for chain in chains.values() for module in chain)):
        batches = [run_shared(chains, batch, take) for batch in inputs.split(LARGEST_BATCH)]
    return {key: torch.cat([batch[key] for batch in batches]) for key in chains}
