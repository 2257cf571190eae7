"""The server's step in the paper's form, with solved stitches, of one's own network, by default, and of the last blocks alone.

All on the same uploads and candidates.

Four clients of IID examples, each of another network, train twice alone; then the server makes their teachers of 300 labelled
public examples, with the method's own defaults. Accuracies are of the teachers that clients are given, on the test examples of
all clients. Last, what teachers made of clients of two classes each know of all ten.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from benchmarks.timing import Measurement, Target, interleaved, ratios
from pfedhr.algorithm import ServerView
from pfedhr.algorithms.lessons import Lesson
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.teacher import teacher_network
from pfedhr.algorithms.uploads import Upload
from pfedhr.data import Partition
from pfedhr.experiment_file import load_experiment
from pfedhr.in_process import Cohort, sequential
from pfedhr.launch import prepare
from pfedhr.learning import evaluate
from pfedhr.reassembly import rebuild

REPEATS = 3
FORMS = {
    "solved": PFedHR.paper(stitch_start="solved", tuning_epochs=0),
    "own": PFedHR(teachers="own"),
    "default": PFedHR(),
    "last blocks": PFedHR(tuned_blocks=2),
}


def measure() -> Iterator[Measurement]:
    """Yield how long the paper's step takes, what share of that each other form takes, and what their teachers know."""
    cohort = _cohort("iid")
    uploads, view = _uploads(cohort), sequential(lambda map: cohort.server_view(2, map))
    forms = {"paper": PFedHR.paper(), **FORMS}
    teachers: dict[str, list[torch.nn.Module]] = {}

    def step(name: str) -> None:
        teachers[name] = _teachers(forms[name], uploads, view)

    paper, *others = interleaved(*(lambda name=name: step(name) for name in forms), repeats=REPEATS)
    yield Measurement("donors' accuracy", _accuracies(cohort, _donors(uploads)), "", note="the uploads themselves")
    yield Measurement("paper, server", paper, "s", note=f"{len(view.public)} public examples")
    known = _accuracies(cohort, teachers["paper"])
    yield Measurement("paper, teachers' accuracy", known, "")
    for name, found in zip(FORMS, others, strict=True):
        yield Measurement(f"{name}, server / paper's", ratios(found, paper), "x", Target(0.1, at_least=False))
        limit = Target(statistics.median(known), at_least=True)
        yield Measurement(f"{name}, teachers' accuracy", _accuracies(cohort, teachers[name]), "", limit)
    yield from _of_two_classes()


def _of_two_classes() -> Iterator[Measurement]:
    """Yield what donors of two classes each know of all classes, and what the teachers know that are made of them."""
    cohort = _cohort("classes")
    uploads = _uploads(cohort)
    donors = _accuracies(cohort, _donors(uploads))
    yield Measurement("two classes, donors' accuracy", donors, "", note="on all classes")
    taught = _teachers(PFedHR(), uploads, sequential(lambda map: cohort.server_view(2, map)))
    limit = Target(max(donors), at_least=True)
    yield Measurement("two classes, teachers' accuracy", _accuracies(cohort, taught), "", limit)


def _cohort(partition: Partition) -> Cohort:
    whole = load_experiment("two-classes")
    data = replace(whole.data, examples=3000, partition=partition)
    return prepare(replace(whole, data=data, public=replace(whole.public, share=0.1)))


def _teachers(form: PFedHR, uploads: Mapping[str, Upload], view: ServerView) -> list[torch.nn.Module]:
    """Return what the form makes of the uploads, for each of their clients that is given one."""
    server, _ = form.server_step(form.init_server(view), uploads, view)
    lessons = [form.message(server, client) for client in uploads]
    return [teacher_network(lesson.teacher) for lesson in lessons if lesson.teacher]


def _donors(uploads: Mapping[str, Upload]) -> list[torch.nn.Module]:
    return [rebuild(one.blueprint, one.weights) for one in uploads.values() if one.blueprint]


def _uploads(cohort: Cohort) -> dict[str, Upload]:
    """Return what the first client of each network sends after training twice."""
    first = {network: client for client, network in reversed(cohort.networks.items())}
    sent: dict[str, Upload] = {}
    for client in sorted(first.values())[:4]:
        state = PFedHR.paper().init_client(cohort.client_view(client, 0))
        for round in (1, 2):
            state, sent[client], _ = PFedHR.paper().client_step(state, Lesson(None, ()), cohort.client_view(client, round))
    return sent


def _accuracies(cohort: Cohort, models: list[torch.nn.Module]) -> list[float]:
    tests = [client.test.ready(cohort.device) for client in cohort.federation.clients.values()]
    inputs, labels = torch.cat([test.inputs for test in tests]), torch.cat([test.labels for test in tests])
    return [evaluate(model, inputs, labels).accuracy for model in models]
