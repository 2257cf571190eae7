"""Your own method, by name beside all others.

    cd examples && pfedhr compare demo --algorithms own_method:UniformTeacher,fedmd,pfedhr

A method is a frozen dataclass that implements `pfedhr.algorithm.Algorithm`, by itself or from the parts in `pfedhr.algorithms`.
Its fields become settings, here `--uniform-teacher.weight 0.5`; it is run, kept, resumed and compared as the package's own are.
This one shows what a teacher is worth that knows nothing: one that finds all classes equally likely, which is label smoothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pfedhr.algorithm import ClientView, Metrics
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.own import Nothing, Own
from pfedhr.algorithms.private import train_privately
from pfedhr.learning import distil


@dataclass(frozen=True)
class UniformTeacher(Local):
    """Learning alone beside a teacher that finds every class equally likely, from the second round on.

    As with pFedHR, nobody has a teacher in the first round; unlike there, everybody has one in the second.
    """

    weight: float = 0.2
    """Weight of the teacher in the client's loss, as the paper's form of pFedHR has it."""

    name = "uniform-teacher"
    uncovered = None  # the teacher knows nothing: differential privacy covers this training as it does learning alone

    def client_step(self, state: Own, message: Nothing, view: ClientView) -> tuple[Own, Nothing, Metrics]:
        """Train beside the teacher."""

        def term(logits: Tensor, batch: Tensor) -> Tensor:
            return self.weight * distil(logits, logits.new_zeros(logits.shape).log_softmax(1), temperature=1.0)

        weights, metrics = train_privately(view, state.weights, term if view.round > 1 else None)
        return Own(weights), Nothing(), metrics
