"""A deployment's server among clients that say what no client should: they are left out, and the run ends without them."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from flower.postbox import Postbox, engine_of, experiment_of
from test_parcel import parcel_of_shape
from toy import make_cohort

from pfedhr.algorithms.local import Local
from pfedhr.experiment_file import dump
from pfedhr.flower.errands import Answer, Presence
from pfedhr.flower.mailbox import Delivery, FederationError, Letter
from pfedhr.flower.serving import ServerData, serve
from pfedhr.launch import outcomes, run_on, spent
from pfedhr.learning import Privacy, Score
from pfedhr.parcel import ParcelError, pack, unpack
from pfedhr.run import ClientOutcome, RunDirectory, read_rounds
from pfedhr.transport import Scores
from pfedhr.watching import Silent

COHORT = make_cohort("mlp", clients=3)


def server_of(postbox: Postbox, folder: Path, count: int, **engine: float) -> list[ClientOutcome]:
    """Serve so many of the three clients in `folder`/runs, all of them in both rounds."""
    experiment = experiment_of(Local(), COHORT, **engine)
    plan, clients = (dataclasses.replace(experiment.plan, active=count), dataclasses.replace(experiment.clients, count=count))
    experiment = dataclasses.replace(experiment, plan=plan, clients=clients)
    public = COHORT.federation.public
    return serve(postbox, experiment, ServerData(public, COHORT.federation.classes, mirror=False), folder / "runs")


def test_a_run_is_gone_on_with_under_other_engine_settings_and_under_no_others(tmp_path: Path) -> None:
    """As `flwr run` does again, whatever stopped it."""
    first = server_of(Postbox(COHORT, tmp_path / "nodes"), tmp_path, 3)
    again = server_of(Postbox(COHORT, tmp_path / "nodes"), tmp_path, 3, retries=2, min_clients=2, round_timeout=0.3)
    assert again == first
    assert [one["round"] for one in read_rounds(tmp_path / "runs")] == [1, 2]
    with pytest.raises(FederationError, match="holds a run of another experiment"):
        server_of(Postbox(COHORT, tmp_path / "nodes"), tmp_path, 2)


def changes(postbox: Postbox, kind: str, **change: object) -> None:
    """Let the node of client01 change what it says in answer to letters of this kind."""

    def tamper(letter: Letter, delivery: Delivery) -> Delivery:
        if letter.node != 101 or letter.kind != kind:
            return delivery
        said = unpack(Presence if kind == "roll call" else Answer, delivery.head)
        return dataclasses.replace(delivery, head=pack(dataclasses.replace(said, **change)))

    postbox.tamper = tamper


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"client": "../../../escaped/x"}, "'../../../escaped/x' cannot be the name of a client: choose"),
        ({"client": "a\0b"}, "cannot be the name"),
        ({"client": "a" * 65}, "cannot be the name"),
        ({"client": ""}, "cannot be the name"),
        ({"client": ".hidden"}, "cannot be the name"),
        ({"client": "clinic\n"}, "cannot be the name"),
        ({"client": "\N{LATIN SMALL LETTER E WITH ACUTE}" * 64}, "cannot be the name"),  # 128 bytes
        ({"train": 0}, "client01 has 0 examples for training and 12 for testing"),
        ({"test": 0}, "client01 has 24 examples for training and 0 for testing"),
        ({"train": -1}, "-1 examples"),
        ({"train": 10**400}, "client01 has 1000"),
        ({"model": "\ud800"}, "the name of its network"),
    ],
)
def test_a_client_that_cannot_be_is_left_out(
    change: dict[str, object], words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    postbox = Postbox(COHORT, tmp_path / "nodes")
    changes(postbox, "roll call", **change)
    assert [one.client for one in server_of(postbox, tmp_path / "server", 2)] == ["client00", "client02"]
    assert words in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nodes", "server"]


@pytest.mark.parametrize("name", ["server", "latest", "server.1", "a" * 64])
def test_no_client_is_called_as_a_file_of_the_servers(name: str, tmp_path: Path) -> None:
    postbox = Postbox(COHORT, tmp_path / "nodes")
    postbox.participants[101] = dataclasses.replace(postbox.participants[101], id=name)
    assert sorted(one.client for one in server_of(postbox, tmp_path, 3)) == sorted(["client00", name, "client02"])
    assert all(len(one["losses"]) == 3 for one in read_rounds(tmp_path / "runs"))


@pytest.mark.parametrize(
    "change",
    [
        {"scores": Scores(Score(math.nan, 12), None)},
        {"scores": Scores(Score(math.inf, 12), None)},
        {"scores": Scores(Score(1.01, 12), None)},
        {"scores": Scores(Score(1.0, 12), Score(-0.01, 12))},
        {"metrics": f'{{"train_seconds": 1{"0" * 400}}}'},
        {"metrics": '{"train_seconds": -1}'},
        {"metrics": '{"train_seconds": NaN}'},
        {"metrics": '{"train_seconds": 1, "evaluate_seconds": Infinity}'},
        {"metrics": '{"train_seconds": 1, "loss": "x"}'},
        {"metrics": '{"train_seconds": 1, "loss": NaN}'},
        {"metrics": f'{{"train_seconds": 1, "loss": -1{"0" * 400}}}'},
        {"metrics": "[" * 200_000},
    ],
)
def test_an_answer_that_cannot_be_is_refused_and_the_round_goes_on(
    change: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    postbox = Postbox(COHORT, tmp_path / "nodes")
    changes(postbox, "errand", **change)
    assert [one.client for one in server_of(postbox, tmp_path, 3)] == ["client00", "client02"]
    assert "the answer of client client01 in round 2 is refused" in caplog.text
    assert "client client01 was never evaluated" in caplog.text
    assert all(sorted(one["losses"]) == ["client00", "client02"] for one in read_rounds(tmp_path / "runs"))


def test_with_privacy_no_run_ends_for_a_client_that_claims_fewer_examples_than_a_batch(tmp_path: Path) -> None:
    pytest.importorskip("opacus")
    simulate(Postbox(COHORT, tmp_path / "nodes"), tmp_path)
    directory, training = RunDirectory(tmp_path / "run"), COHORT.training
    few, batch = (
        spent(Privacy(1.0, 1.0, 1e-5), training, {"client01": count}, directory)["client01"]
        for count in (1, training.batch_size)
    )
    assert few == batch > 0


OVERFLOWING, DEEP = parcel_of_shape([0, 2**62, 2**62], b""), parcel_of_shape([1] * 65, b"\0" * 4)


def left_out(kind: str, change: dict[str, Any], folder: Path) -> None:
    """See that a run ends without client01, whose node changes so the bytes of its answers to letters of this kind."""
    postbox = Postbox(COHORT, folder / "nodes")

    def tamper(letter: Letter, delivery: Delivery) -> Delivery:
        return dataclasses.replace(delivery, **change) if (letter.node, letter.kind) == (101, kind) else delivery

    postbox.tamper = tamper
    ended = server_of(postbox, folder, 2 if kind == "roll call" else 3)
    assert [one.client for one in ended] == ["client00", "client02"]


def bomb(size: int) -> bytes:
    """A parcel whose header is of about so many bytes, and takes 25 times as many once it is read."""
    header = b'{"x":[' + b"{}," * (size // 3) + b"0]}"
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    ("kind", "change"),
    [("roll call", {"head": bomb(1_000_000)}), ("errand", {"head": bomb(1_000_000)}), ("errand", {"body": bomb(16_000_000)})],
)
def test_a_header_that_is_too_long_is_not_read(
    kind: str, change: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left_out(kind, change, tmp_path)
    assert "are the most" in caplog.text


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("roll call", {"head": OVERFLOWING}),
        ("roll call", {"head": DEEP}),
        ("errand", {"head": OVERFLOWING}),
        ("errand", {"head": DEEP}),
        ("errand", {"body": OVERFLOWING}),
        ("errand", {"body": DEEP}),
    ],
)
def test_a_tensor_of_a_shape_that_cannot_be_ends_no_run(kind: str, change: dict[str, bytes], tmp_path: Path) -> None:
    left_out(kind, change, tmp_path)


FORGED = "x\nWARNING pfedhr client client00 has not answered\r\x1b[2K\u2028"


def forging(words: str) -> dict[tuple[str, str], dict[str, object]]:
    """What a client may change, by letter and part, so that its words come into a log."""
    tensors = safetensors.torch.save({words: torch.ones(1)}, {"parcel": "{}"})
    return {
        ("roll call", "problem"): {"head": pack(Presence("client01", "mlp", 1, 1, 1, words))},
        ("roll call", "failure"): {"failure": f"error 2: {words}"},
        ("errand", "failure"): {"failure": f"error 2: {words}"},
        ("errand", "fields"): {"head": safetensors.torch.save({}, {"parcel": json.dumps({words: 1})})},
        ("errand", "tensors"): {"body": tensors},
    }


@pytest.mark.parametrize("words", [FORGED, "x" * 500_000], ids=["line", "length"])
@pytest.mark.parametrize(("kind", "part"), list(forging("")))
def test_no_client_writes_lines_into_the_log(
    kind: str, part: str, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left_out(kind, forging(words)[kind, part], tmp_path)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("x" in line for line in told)
    assert all(line.isprintable() and len(line) < 1200 for line in told)
    refused = [why for one in read_rounds(tmp_path / "runs") for why in one["refused"].values()]
    assert all(why.isprintable() and len(why) < 1200 for why in refused)


@pytest.mark.parametrize(("cls", "value"), [(Presence, Presence("a", "b", 1, 1, 1, "")), (Answer, Answer("a", 1, "{}", None))])
def test_a_head_holds_no_tensors(cls: type, value: object) -> None:
    data = pack(value)
    size = int.from_bytes(data[:8], "little")
    tree = json.loads(data[8 : 8 + size])["__metadata__"]
    with pytest.raises(ParcelError, match="tensors that nothing refers to"):
        unpack(cls, safetensors.torch.save({"value/client": torch.ones(1)}, tree))


def simulate(postbox: Postbox, folder: Path, **engine: float) -> list[ClientOutcome]:
    """Run, or go on with, what Flower's simulation does, in this process."""
    experiment = experiment_of(Local(), COHORT, **engine)
    if not (folder / "run").exists():
        RunDirectory.create(folder / "run", dump(experiment))
    return run_on(
        experiment,
        folder / "run",
        Silent(),
        lambda experiment, directory: engine_of(experiment, COHORT, postbox, folder / "nodes", directory)[0],
        functools.partial(outcomes, COHORT),
    )
