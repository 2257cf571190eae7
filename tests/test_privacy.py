"""Differential privacy: what is clipped, drawn, counted, refused, and what leaves a client."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy import equal, make_cohort, separable

from pfedhr import cli
from pfedhr.algorithm import Algorithm, SettingError, Setup
from pfedhr.algorithms import ALGORITHMS
from pfedhr.algorithms.fedavg import FedAvg
from pfedhr.algorithms.fedprox import FedProx
from pfedhr.algorithms.held import Held, Shared
from pfedhr.algorithms.needs import private_training
from pfedhr.data import ClientData
from pfedhr.experiment import Experiment, ExperimentError, PrivacyOptions
from pfedhr.experiment_file import dump, override, parse
from pfedhr.federate import RoundResult, Schedule, federate
from pfedhr.in_process import Cohort, InProcess, MemoryStore, Workers
from pfedhr.launch import prepare, resume, start
from pfedhr.learning import (
    Privacy,
    epsilon,
    private_steps,
)
from pfedhr.parcel import pack, unpack
from pfedhr.transport import Admit, Order, Report, handle

COVERED = {
    "local": {},
    "local-public": {},
    "fedavg": {},
    "fedprox": {},
    "lg-fedavg": {},
    "fedmd": {"consensus_batch_size": 8},
    "fccl": {"consensus_batch_size": 8},
    "fml": {"common_network": "mlp"},
    "fedkemf": {"common_network": "mlp", "tuning_epochs": 1, "tuning_batch_size": 8},
    "feddf": {"tuning_epochs": 1, "tuning_batch_size": 8},
    "heterofl": {"global_network": f"{__name__}:wide"},
    "pfedhr": {"groups": 3, "candidates": 3, "tuning_epochs": 1, "probe": 8},
    "pfedclub": {"groups": 3, "candidates": 2, "tuning_epochs": 1, "probe": 8},
}
UNCOVERED = {"per-fedavg", "pfedme", "pfedbayes", "fedproto", "fedtgp", "fedgh", "feddistill", "fedkd"}
NETWORKS = {"fedavg": ("mlp",), "fedprox": ("mlp",), "pfedme": ("mlp",), "heterofl": (f"{__name__}:wide", f"{__name__}:narrow")}
STRONG = Privacy(noise=1.0, clip=1.0, delta=1e-5)
METHODS = [pytest.param(ALGORITHMS[name](**settings), id=name) for name, settings in COVERED.items()]


def wide(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, classes))


def narrow(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, classes))


def cohort_of(algorithm: Algorithm, privacy: Privacy | None = STRONG, **options: int) -> Cohort:
    networks = NETWORKS.get(algorithm.name, ("cnn1", "mlp"))
    features = 16 if algorithm.name in ("lg-fedavg", "fedproto", "fedtgp", "fedgh") else 0
    return make_cohort(*networks, **options, features=features, privacy=privacy)


class Overheard:
    """An engine that keeps every report."""

    def __init__(self, engine: InProcess) -> None:
        self.engine = engine
        self.reports: list[dict[str, Report]] = []

    def exchange(self, outbox: Mapping[str, Order], admit: Admit) -> dict[str, Report]:
        self.reports.append(self.engine.exchange(outbox, admit))
        return self.reports[-1]


Outcome = tuple[list[RoundResult], dict[str, bytes | None], list[dict[str, bytes | None]]]


def run(algorithm: Algorithm, cohort: Cohort, rounds: int, workers: int = 1, stop_after: int = 0) -> Outcome:
    """Every round's result, every client's last state, and all that went up."""
    store, clients, results, sent = MemoryStore(), list(cohort.federation.clients), list[RoundResult](), []
    with Workers(cohort, workers) as crew:
        for last in (stop_after, rounds):
            engine = InProcess(algorithm, crew, store)
            overheard, progress = Overheard(engine), results[-1].progress if results else None
            schedule = Schedule(last, len(clients) - 1)
            results += federate(algorithm, overheard, engine.server_view, clients, schedule, cohort.seed, progress)
            sent += [{client: report.reply for client, report in one.items()} for one in overheard.reports]
    return results, {client: store.load(client) for client in clients}, sent


def test_the_table_says_of_every_method_whether_it_is_covered() -> None:
    assert {name for name, method in ALGORITHMS.items() if method.uncovered is None} == set(COVERED)
    assert {name for name, method in ALGORITHMS.items() if method.uncovered} == UNCOVERED
    assert Algorithm.uncovered  # a new method is refused until it says otherwise
    text = (Path(__file__).parents[1] / "docs" / "privacy.md").read_text()
    assert all(f"`{name}`" in text for name in ALGORITHMS)


def test_a_method_that_is_derived_from_a_covered_one_says_so_itself_or_is_refused() -> None:
    class Derived(FedAvg):
        pass

    class Stated(FedAvg):
        uncovered = None

    class Other(ALGORITHMS["fedtgp"]):
        pass

    assert FedAvg.uncovered is None
    assert Derived.uncovered == Algorithm.uncovered
    assert Stated.uncovered is None
    assert Other.uncovered == ALGORITHMS["fedtgp"].uncovered
    with pytest.raises(SettingError, match=r"does not cover fedavg: nobody has shown"):
        check(Derived(), cohort_of(FedAvg()))


@pytest.mark.parametrize("name", sorted(UNCOVERED))
def test_methods_that_are_not_covered_are_refused_with_the_reason(name: str) -> None:
    method = ALGORITHMS[name]()
    with pytest.raises(SettingError, match=rf"privacy.noise = 1.0: .* not cover {name}: {method.uncovered}. .*algorithm.name"):
        check(method, cohort_of(method))


def check(algorithm: Algorithm, cohort: Cohort, privacy: Privacy = STRONG) -> None:
    setup = Setup(cohort.networks, cohort.federation.public, cohort.training, 3)
    counts = {client: len(data.train) for client, data in cohort.federation.clients.items()}
    private_training(algorithm, setup, privacy, counts)


def hide_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let DP-SGD see nothing of any example, as under noise without end."""
    from opacus.optimizers import DPOptimizer

    def clip_and_accumulate(self: DPOptimizer) -> None:
        for weight in self.params:
            weight.summed_grad = torch.zeros_like(weight)

    monkeypatch.setattr(DPOptimizer, "clip_and_accumulate", clip_and_accumulate)


def with_other_examples(cohort: Cohort) -> Cohort:
    """The same cohort, whose clients hold as many other examples, of two classes only."""
    held = {
        client: ClientData(dataclasses.replace(separable(24, client, "other"), labels=torch.arange(24) % 2), data.test)
        for client, data in cohort.federation.clients.items()
    }
    return dataclasses.replace(cohort, federation=dataclasses.replace(cohort.federation, clients=held))


@pytest.mark.parametrize("algorithm", METHODS)
def test_nothing_but_clipped_and_noisy_gradients_tells_of_private_examples(
    algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = cohort_of(algorithm)
    check(algorithm, cohort)
    algorithm.check(Setup(cohort.networks, cohort.federation.public, cohort.training, 3))
    _, seen, sent_as_seen = run(algorithm, with_other_examples(cohort), 2)
    hide_gradients(monkeypatch)
    _, states, sent = run(algorithm, cohort, 3)
    _, other_states, other_sent = run(algorithm, with_other_examples(cohort), 3)
    assert states == other_states
    assert sent == other_sent
    assert seen != states  # which the examples do change where gradients are seen
    assert sent_as_seen[0] != sent[0] or algorithm.name in ("local", "local-public")


@pytest.mark.parametrize("name", ["pfedme", "fedproto", "fedtgp", "fedgh", "feddistill"])
def test_what_is_refused_would_tell_of_private_examples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = ALGORITHMS[name]()
    cohort = cohort_of(method)
    with pytest.raises(SettingError, match=f"does not cover {name}"):
        run(method, cohort, 1)  # whoever left out the check
    monkeypatch.setattr(type(method), "uncovered", None)
    hide_gradients(monkeypatch)
    _, states, sent = run(method, cohort, 1)
    _, other_states, other_sent = run(method, with_other_examples(cohort), 1)
    assert (states, sent) != (other_states, other_sent)


@pytest.mark.parametrize("algorithm", METHODS)
def test_the_steps_that_are_counted_are_those_that_are_taken(algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch) -> None:
    from opacus.optimizers import DPOptimizer

    steps, real = list[float](), DPOptimizer.step
    monkeypatch.setattr(DPOptimizer, "step", lambda self: steps.append(self.noise_multiplier) or real(self))
    cohort = cohort_of(algorithm, epochs=2)
    results, _, _ = run(algorithm, cohort, 3)
    assert len(steps) == sum(len(result.active) for result in results) * private_steps(24, cohort.training) == 9 * 6
    assert set(steps) == {1.0}


def test_no_two_runs_share_their_noise() -> None:
    """Whoever sees what two of them tell would have the difference without any."""

    def weights(method: FedAvg, cohort: Cohort) -> dict[str, torch.Tensor]:
        order = Order(1, pack(Shared(None)), evaluate=False)
        _, state = handle(method, cohort.client_view("client00", 1), separable(4), order, None)
        return unpack(Held, state or b"").weights

    private, plain = (make_cohort("mlp", privacy=privacy) for privacy in (STRONG, None))
    assert equal(weights(FedAvg(), plain), weights(FedProx(proximal_weight=0.0), plain))
    assert equal(weights(FedAvg(), private), weights(FedAvg(), private))
    assert not equal(weights(FedAvg(), private), weights(FedProx(proximal_weight=0.0), private))
    assert not equal(weights(FedProx(proximal_weight=1e-9), private), weights(FedProx(proximal_weight=0.0), private))
    experiment = parse(EXPERIMENT, "the test")
    elsewhere = dataclasses.replace(experiment, name="another", workers=2, compare_local=False, algorithm=FedProx())
    longer = dataclasses.replace(experiment, plan=dataclasses.replace(experiment.plan, rounds=4))
    first, same, other = (prepare(one).privacy for one in (experiment, elsewhere, longer))
    assert first == same  # the method is in what a step draws, not in this
    assert first != other


def test_noise_and_batches_are_not_of_a_seed_that_can_be_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch seeds its generator from 32 bits of a number, which can all be tried."""
    seen = generators_of_training(monkeypatch)
    view = make_cohort("mlp", privacy=STRONG).client_view("client00", 1)
    FedAvg().client_step(FedAvg().init_client(view), Shared(None), view)
    assert len(seen) == 2
    for one in seen:
        assert not torch.equal(one.get_state(), torch.Generator().manual_seed(one.initial_seed()).get_state())


def generators_of_training(monkeypatch: pytest.MonkeyPatch) -> list[torch.Generator]:
    """What private training draws its batches and its noise from, from now on; it trains nothing."""
    seen = list[torch.Generator]()

    def fit_privately(*given: Any) -> float:
        seen.extend(one for one in given if isinstance(one, torch.Generator))
        return 0.0

    monkeypatch.setattr("pfedhr.algorithms.private.fit_privately", fit_privately)
    return seen


def test_no_two_steps_of_a_round_share_their_noise_whatever_a_server_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the same step again draws the same: a server may ask twice for one round, with two messages or settings."""
    seen, draws = generators_of_training(monkeypatch), list[bytes]()
    view = make_cohort("mlp", privacy=STRONG).client_view("client00", 1)
    weights = FedAvg().init_client(view).weights
    halves = {name: value / 2 for name, value in weights.items()}
    faster = dataclasses.replace(view, training=dataclasses.replace(view.training, learning_rate=0.5))
    tighter = dataclasses.replace(view, privacy=dataclasses.replace(STRONG, clip=0.5))
    steps = [
        *((view, Shared(sent), None) for sent in (None, weights, halves)),
        *((view, Shared(weights), Held(state, None)) for state in (weights, halves)),
        *((other, Shared(weights), None) for other in (faster, tighter, dataclasses.replace(view, seed=1))),
    ]
    for at, message, state in [*steps, *steps]:
        handle(FedAvg(), at, separable(4), Order(1, pack(message), False), None if state is None else pack(state))
        draws.append(b"".join(one.get_state().numpy().tobytes() for one in seen[-2:]))
    assert draws[: len(steps)] == draws[len(steps) :]
    assert len(set(draws)) == len(steps)


def test_a_seed_of_any_size_is_kept_as_it_is() -> None:
    long = override(parse(EXPERIMENT, "the test"), ["--seed", str(2**200 + 1)])
    assert parse(dump(long), "dumped").seed == 2**200 + 1
    assert prepare(long).privacy != prepare(dataclasses.replace(long, seed=1)).privacy


def test_it_is_the_same_after_a_stop_and_in_processes() -> None:
    algorithm = ALGORITHMS["pfedhr"](**COVERED["pfedhr"])
    cohort = cohort_of(algorithm)
    _, states, sent = run(algorithm, cohort, 2)
    assert run(algorithm, cohort, 2, stop_after=1)[1:] == (states, sent)
    assert run(algorithm, cohort, 2, workers=2)[1:] == (states, sent)
    assert run(algorithm, dataclasses.replace(cohort, seed=1), 2)[1] != states
    assert run(algorithm, cohort_of(algorithm, None), 2)[1] != states


@pytest.mark.parametrize("name", ["cnn1", "cnn2", "cnn3", "vit", "mlp", "mlp-wide", "mlp-deep"])
def test_networks_of_the_zoo_can_be_trained_with_privacy(name: str) -> None:
    check(FedAvg(), make_cohort(name))


@pytest.mark.parametrize("name", ["cnn4", "resnet", "mobilenet"])
def test_a_network_with_batch_norm_is_refused_by_client(name: str) -> None:
    words = rf"'{name}', which client client01 trains, .*privacy.noise = 1.0: batch norm .*group or layer norm"
    with pytest.raises(SettingError, match=words):
        check(ALGORITHMS["pfedhr"](), make_cohort("mlp", name))
    with pytest.raises(SettingError, match=f"'{name}', which client client00 trains"):
        check(ALGORITHMS["fml"](common_network=name), make_cohort("mlp"))


def test_too_few_examples_and_too_large_a_delta_are_refused_by_client() -> None:
    cohort = make_cohort("mlp")
    few = dataclasses.replace(cohort, training=dataclasses.replace(cohort.training, batch_size=25))
    with pytest.raises(SettingError, match=r"plan.batch_size = 25: client client00 has 24 .* at most 24"):
        check(FedAvg(), few)
    with pytest.raises(SettingError, match=r"privacy.delta = 0.05: client client00 has 24 .* less than 1 / 24"):
        check(FedAvg(), cohort, Privacy(1.0, 1.0, 0.05))


def test_without_opacus_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"pip install 'pfedhr\[dp\]'"):
        check(FedAvg(), make_cohort("mlp"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("noise", -1), ("noise", math.inf), ("clip", 0), ("clip", -1), ("delta", 0), ("delta", 1), ("noise", math.nan)],
)
def test_options_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(ExperimentError, match=f"privacy.{field} = {value}"):
        PrivacyOptions(**{field: value})


def test_an_experiment_without_privacy_is_written_as_before_there_was_any() -> None:
    assert list(tomllib.loads(dump(Experiment()))) == [
        *("name", "seed", "device", "workers", "compare_local"),
        *("data", "public", "clients", "plan", "algorithm"),
    ]
    private = override(Experiment(), ["--privacy.noise", "1.5"])
    assert private.privacy == PrivacyOptions(noise=1.5)
    assert tomllib.loads(dump(private))["privacy"] == {"noise": 1.5, "clip": 1.0, "delta": 1e-05}
    assert parse(dump(private), "dumped") == private
    assert override(private, ["--privacy.clip", "2"]).privacy == PrivacyOptions(1.5, 2.0)
    assert dump(override(private, ["--privacy.noise", "0"])) == dump(Experiment())
    assert parse("[privacy]\nnoise = 2", "text").privacy == PrivacyOptions(noise=2.0)
    with pytest.raises(ExperimentError, match=r"did you mean 'privacy.noise'"):
        parse("[privacy]\nnoises = 2", "text")
    with pytest.raises(ExperimentError, match=r"unknown field --privacy.noises .*did you mean '--privacy.noise'"):
        override(Experiment(), ["--privacy.noises", "2"])


EXPERIMENT = """
name = "toy"
[data]
name = "test_run:quarters"
partition = "iid"
[clients]
count = 4
models = ["mlp"]
[plan]
rounds = 3
active = 2
local_epochs = 2
[privacy]
noise = 1.0
[algorithm]
name = "fedavg"
"""


class Stopped(BaseException):
    """Stands for a kill."""


class Watch:
    def __init__(self, last: int = 0) -> None:
        self.last = last

    def begin(self, label: str, rounds: int, done: int) -> None:
        pass

    def end_round(self, label: str, record: Mapping[str, Any]) -> None:
        if (label, record["round"]) == ("fedavg", self.last):
            raise Stopped


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((path / "clients.csv").read_text().splitlines()))


def test_a_run_tells_every_clients_epsilon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "toy.toml").write_text(EXPERIMENT)
    cli.main(["run", str(tmp_path / "toy.toml"), "--out", str(tmp_path / "run")])
    assert "epsilon" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    rows = rows_of(tmp_path / "run")
    for row in rows:
        rounds, count = sum(row["client"] in line["active"] for line in lines), int(row["train"])
        assert float(row["epsilon"]) == epsilon(STRONG, 10 / count, rounds * 2 * -(-count // 10))
    assert len({row["epsilon"] for row in rows}) > 1  # clients took part in different numbers of rounds
    assert {row["client"]: row["epsilon"] for row in rows_of(tmp_path / "run" / "local")} == {
        row["client"]: row["epsilon"] for row in rows
    }


def test_a_stopped_run_ends_with_the_same_rows(tmp_path: Path) -> None:
    experiment = parse(EXPERIMENT, "the test")
    start(experiment, tmp_path / "whole", Watch())
    with pytest.raises(Stopped):
        start(experiment, tmp_path / "stopped", Watch(last=2))
    resume(tmp_path / "stopped", Watch(), workers=2)
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "whole")
    for file in sorted((tmp_path / "whole" / "models").iterdir()):
        assert file.read_bytes() == (tmp_path / "stopped" / "models" / file.name).read_bytes()


def test_without_privacy_the_column_is_empty_and_the_table_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "toy.toml").write_text(EXPERIMENT)
    cli.main(["run", str(tmp_path / "toy.toml"), "--out", str(tmp_path / "run"), "--privacy.noise", "0", "--plan.rounds", "1"])
    assert "epsilon" not in capsys.readouterr().out
    assert {row["epsilon"] for row in rows_of(tmp_path / "run")} == {""}
    assert "[privacy]" not in (tmp_path / "run" / "experiment.toml").read_text()


def test_nothing_is_trained_before_a_refusal(tmp_path: Path) -> None:
    experiment = override(parse(EXPERIMENT, "the test"), ["--clients.models", "cnn4-eighth"])
    with pytest.raises(SettingError, match="batch norm"):
        prepare(experiment)
    with pytest.raises(SettingError, match="batch norm"):
        start(experiment, tmp_path / "run", Watch())
    assert not (tmp_path / "run").exists()
