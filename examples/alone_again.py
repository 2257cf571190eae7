"""What chance alone moves a client by, to hold a method's winners and losers against.

    cd examples && pfedhr compare two-classes --algorithms alone_again:AloneAgain

Learning alone once more with other random numbers: other initial weights, examples in another order. Whom this leaves better or
worse off than `local`, no method has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pfedhr.algorithm import ClientView, Metrics
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.own import Nothing, Own
from pfedhr.seeding import number


@dataclass(frozen=True)
class AloneAgain(Local):
    """Learning alone from other random numbers than `local` has; data and the choice of clients stay."""

    name = "alone-again"

    def init_client(self, view: ClientView) -> Own:
        """Return other initial weights."""
        return super().init_client(_reseeded(view))

    def client_step(self, state: Own, message: Nothing, view: ClientView) -> tuple[Own, Nothing, Metrics]:
        """Train on the examples in another order."""
        return super().client_step(state, message, _reseeded(view))


def _reseeded(view: ClientView) -> ClientView:
    return replace(view, seed=number(view.seed, "again"))
