"""A mailbox without a network: nodes in this process, whose letters can be lost, held back or tampered with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from pfedhr.algorithm import Algorithm, ServerView
from pfedhr.experiment import ClientOptions, EngineOptions, Experiment, PlanOptions
from pfedhr.experiment_file import dump
from pfedhr.flower.errands import Errand, Participant, RollCall, States, perform, present
from pfedhr.flower.mailbox import Delivery, Letter
from pfedhr.flower.remote import Remote
from pfedhr.flower.roster import Roster
from pfedhr.in_process import Cohort, MemoryStore, Store, sequential
from pfedhr.parcel import pack, unpack

RUN = "0123456789abcdef"
Tamper = Callable[[Letter, Delivery], Delivery | None]


class Postbox:
    """Node n is client n of a cohort. `online` are the nodes there are; `tamper` may change or lose what comes back."""

    def __init__(self, cohort: Cohort, folder: Path) -> None:
        self.participants = {
            number: Participant(name, cohort.networks[name], data.train, data.test, cohort.federation.public, folder / name)
            for number, (name, data) in enumerate(cohort.federation.clients.items(), 100)
        }
        self.online: set[int] = set(self.participants)
        self.tamper: Tamper = lambda letter, delivery: delivery
        self.sent: list[Letter] = []
        self._waiting: dict[str, Delivery] = {}

    def nodes(self) -> Collection[int]:
        return self.online

    def send(self, letters: Sequence[Letter]) -> list[str | None]:
        numbers: list[str | None] = []
        for letter in letters:
            self.sent.append(letter)
            number = f"letter{len(self.sent)}"
            came = self.tamper(letter, self._answer(number, letter))
            if came is not None:
                self._waiting[number] = came
            numbers.append(number)
        return numbers

    def collect(self, letters: Collection[str]) -> list[Delivery]:
        return [self._waiting.pop(letter) for letter in letters if letter in self._waiting]

    def _answer(self, number: str, letter: Letter) -> Delivery:
        participant = self.participants[letter.node]
        try:
            if letter.kind == "roll call":
                return Delivery(number, letter.node, pack(present(participant, unpack(RollCall, letter.head))))
            answer, reply = perform(participant, unpack(Errand, letter.head), letter.body)
        except Exception as error:
            return Delivery(number, letter.node, failure=f"{type(error).__name__}: {error}")
        return Delivery(number, letter.node, pack(answer), reply)

    def errands(self) -> list[Errand]:
        """The errands that were sent."""
        return [unpack(Errand, letter.head) for letter in self.sent if letter.kind == "errand"]


def experiment_of(algorithm: Algorithm, cohort: Cohort, rounds: int = 2, **engine: float) -> Experiment:
    """An experiment whose plan is the cohort's."""
    training = cohort.training
    plan = PlanOptions(
        rounds=rounds,
        active=len(cohort.networks),
        local_epochs=training.epochs,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
    )
    options = EngineOptions(**({"round_timeout": 0.2, "retries": 0} | engine))
    clients = ClientOptions(count=len(cohort.networks))
    return Experiment(
        seed=cohort.seed, compare_local=False, clients=clients, plan=plan, algorithm=algorithm, engine=options, device="cpu"
    )


def engine_of(
    experiment: Experiment, cohort: Cohort, postbox: Postbox, folder: Path, store: Store | None = None
) -> tuple[Remote, Roster]:
    """The engine over a postbox, whose clients have been called once."""
    roster = Roster(postbox, dump(experiment))
    clients = list(cohort.federation.clients)
    roster.wanted = frozenset(clients)
    roster.gather(len(postbox.online), 0.2)

    def view(round: int) -> ServerView:
        return sequential(lambda map: cohort.server_view(round, map))

    def states(client: str, round: int) -> bytes | None:
        return States(folder / client / RUN).load(round)

    return Remote(experiment, RUN, postbox, roster, clients, store or MemoryStore(), view, states), roster
