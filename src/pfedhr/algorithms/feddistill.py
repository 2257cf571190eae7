"""FedDistill (FD): clients share their mean outputs for each class.

E. Jeong, S. Oh, H. Kim, J. Park, M. Bennis, S.-L. Kim, "Communication-Efficient On-Device Machine Learning: Federated
Distillation and Augmentation under Non-IID Private Data", NeurIPS 2018 workshop, arXiv 1811.11479. A client minimises CE +
gamma times the cross entropy with the other clients' mean output for the example's class. Up: the mean softmax output for
each class held. Down: the mean over the other clients. No data is generated (the paper's second part).

Departures: outputs are means of softmaxes in one pass after training, so a target is a distribution; those of clients that do
not take part in a round stay as they were sent last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from pfedhr.algorithm import ClientView, Metrics, ServerView, Setup
from pfedhr.algorithms.admission import improbable, unclassed
from pfedhr.algorithms.needs import at_least
from pfedhr.algorithms.own import Own, OwnNetwork
from pfedhr.algorithms.per_class import ClassMeans, ClassTable, Down, Latest, class_means, merge, on
from pfedhr.algorithms.private import Term, restore, train_model, weights_of
from pfedhr.inference import predict
from pfedhr.learning import steady


@dataclass(frozen=True)
class FedDistill(OwnNetwork):
    """Federated distillation of mean outputs."""

    distil_weight: float = 1.0
    """Weight of the other clients' outputs (gamma)."""

    name = "feddistill"
    uncovered = "clients send their mean outputs on private examples, which no noise covers"
    server_state = Latest
    message_type = Down
    reply_type = ClassMeans

    def check(self, setup: Setup) -> None:
        """Raise SettingError for a negative weight."""
        at_least(self, distil_weight=0)

    def init_server(self, view: ServerView) -> Latest:
        """Return no outputs."""
        return Latest({})

    def message(self, server: Latest, client: str) -> Down:
        """Return the mean outputs of the other clients."""
        others = {name: sent for name, sent in server.sent.items() if name != client}
        return Down(merge(others, _outputs(others)) if others else None)

    def client_step(self, state: Own, message: Down, view: ClientView) -> tuple[Own, ClassMeans, Metrics]:
        """Train towards the other clients' outputs, then take the client's own."""
        examples = view.train.ready(view.device)
        model = restore(view.network, state.weights).to(view.device)
        metrics = train_model(view, model, self._term(message, examples.labels))
        outputs = predict(model, examples.inputs).softmax(1)
        return Own(weights_of(model)), class_means(outputs, examples.labels), metrics

    def faults(self, server: Latest, replies: Mapping[str, ClassMeans], view: ServerView) -> dict[str, str]:
        """Return which replies are no means of outputs."""
        faults = unclassed(replies, view.classes, view.classes)
        return faults | improbable({client: one.means for client, one in replies.items() if client not in faults})

    def server_step(self, server: Latest, replies: Mapping[str, ClassMeans], view: ServerView) -> tuple[Latest, Metrics]:
        """Keep everyone's last outputs."""
        return server.after(replies), {}

    def _term(self, message: Down, labels: Tensor) -> Term | None:
        if message.table is None or not self.distil_weight:
            return None
        table = on(message.table, labels.device)
        return steady(lambda logits, batch: self.distil_weight * towards(logits, labels[batch], table))


def towards(logits: Tensor, labels: Tensor, table: ClassTable) -> Tensor:
    """Return the mean cross entropy of each softmax with the target of its class, 0 where that is unknown."""
    losses = functional.cross_entropy(logits, table.rows[labels], reduction="none")
    return (losses * table.known[labels]).mean()


def _outputs(sent: Mapping[str, ClassMeans]) -> int:
    """Return how many classes there are: as many as an output has values."""
    return next(iter(sent.values())).means.shape[1]
