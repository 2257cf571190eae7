"""One graph of what a network computes in training and in evaluation."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from pfedhr.reassembly.symbolic import EVALUATED_BATCHES, DecompositionError

MODE = "pfedhr_mode"
"""The name under which a graph asks whether it is in training."""


class ModesDiffer(DecompositionError):
    """A network that computes something else in training than in evaluation."""


def merge_modes(trained: fx.Graph, evaluated: fx.Graph) -> None:
    """Make `evaluated` the graph of both modes, asking for the mode where they differ in a flag, a rate or a count.

    Raises ModesDiffer, naming the first place, where they differ in anything else.
    """
    merge = _Merge(evaluated)
    for node in trained.nodes:
        if _counts_batches(node):
            merge.take_count(node)
        elif not (node.op == "get_attr" and all(map(_counts_batches, node.users))):
            merge.take(node)


class _Merge:
    """The graph of evaluation, which takes the nodes of that of training one after the other, each where its partner is."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._partner: dict[fx.Node, fx.Node] = {}
        self._ahead = iter(list(graph.nodes))
        self._next = next(self._ahead)
        self._mode: fx.Node | None = None

    def take(self, node: fx.Node) -> None:
        """Let a node of training and the next of evaluation be one."""
        here = self._next
        if (node.op, node.target) != (here.op, here.target):
            raise ModesDiffer(f"it computes something else in training than in evaluation, first at {node} against {here}")
        here.args, here.kwargs = self._merged(node.args, here.args), self._merged(node.kwargs, here.kwargs)
        self._partner[node] = here
        self._next = next(self._ahead, here)

    def take_count(self, node: fx.Node) -> None:
        """Let batches be counted before the next node, in training alone: evaluation has no node that does."""
        counted = node.args[0]
        assert isinstance(counted, fx.Node)
        with self._graph.inserting_before(self._next):
            counter = self._graph.get_attr(str(counted.target))
            counter.meta["values"] = counted.meta["values"]
            count = self._graph.call_method("add_", (counter, self._training()))
            count.meta["values"] = node.meta["values"]
        self._partner[counted] = counter

    def _training(self) -> fx.Node:
        """Return the node that tells whether this is training, the same whoever asks."""
        if self._mode is None:
            with self._graph.inserting_after(next(iter(self._graph.nodes))):
                self._mode = self._graph.call_module(MODE)
                self._mode.meta["values"] = (False,) * len(EVALUATED_BATCHES)
        return self._mode

    def _merged(self, mine: Any, theirs: Any) -> Any:
        """Return what takes the place of an argument in training and its like in evaluation."""
        if isinstance(mine, fx.Node):
            if self._partner.get(mine) is not theirs:
                raise ModesDiffer(f"it computes something else in training than in evaluation, first at {mine}")
            return theirs
        if type(mine) is type(theirs) and isinstance(mine, tuple | list) and len(mine) == len(theirs):
            return type(theirs)(self._merged(a, b) for a, b in zip(mine, theirs, strict=True))
        if isinstance(mine, slice) and isinstance(theirs, slice):
            return slice(*self._merged((mine.start, mine.stop, mine.step), (theirs.start, theirs.stop, theirs.step)))
        if isinstance(mine, dict) and isinstance(theirs, dict) and mine.keys() == theirs.keys():
            return {name: self._merged(value, theirs[name]) for name, value in mine.items()}
        if mine is True and theirs is False:
            return self._training()
        if type(mine) is type(theirs) and mine == theirs:
            return theirs
        if isinstance(mine, float) and theirs == 0.0:
            return self._rate(mine)
        raise ModesDiffer(f"it uses {mine} in training where it uses {theirs} in evaluation, at {self._next}")

    def _rate(self, trained: float) -> fx.Node:
        """Return the node that is a rate in training and 0 in evaluation."""
        with self._graph.inserting_before(self._next):
            rate = self._graph.call_function(operator.mul, (self._training(), trained))
            rate.meta["values"] = (0.0,) * len(EVALUATED_BATCHES)
        return rate


def _counts_batches(node: fx.Node) -> bool:
    """Return whether `node` is how a batch norm counts batches: num_batches_tracked.add_(1)."""
    if node.op != "call_method" or node.target != "add_" or node.args[1:] != (1,) or node.users:
        return False
    counter = node.args[0]
    return isinstance(counter, fx.Node) and counter.op == "get_attr" and str(counter.target).endswith("num_batches_tracked")
