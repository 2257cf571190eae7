from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest
from flower.postbox import RUN, Postbox, experiment_of
from methods import METHODS, suited
from test_remote import WIDE
from toy import equal

from pfedhr.algorithm import Algorithm
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.own import Nothing
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.data import Examples
from pfedhr.experiment import PrivacyOptions
from pfedhr.experiment_file import dump
from pfedhr.flower.errands import Errand, ErrandError, Participant, RollCall, perform, present
from pfedhr.parcel import pack


def errand(**change: object) -> Errand:
    text = dump(experiment_of(Local(), WIDE))
    return dataclasses.replace(Errand(RUN, text, "client00", 1, 0, True, True), **change)


@pytest.mark.parametrize("algorithm", METHODS)
def test_only_methods_that_use_public_data_at_clients_ask_clients_for_it(algorithm: Algorithm, tmp_path: Path) -> None:
    cohort = suited(algorithm, "cnn1", "cnn2")
    one = Postbox(cohort, tmp_path).participants[100]
    assert isinstance(one.public, Examples)
    without = replace(one, public=Examples(one.public.inputs[:0], one.public.labels[:0]))
    call = RollCall(dump(experiment_of(algorithm, cohort)))
    used = "at clients" in algorithm.public_use(labelled=True)
    assert present(one, call).problem == ""
    assert ("needs public data" in present(without, call).problem) is used
    assert (present(without, call).problem != "") is used


def test_a_shallow_network_is_welcome_where_a_round_of_such_has_blocks_enough(tmp_path: Path) -> None:
    cohort = suited(PFedHR.paper(groups=3), "mlp")
    one = Postbox(cohort, tmp_path).participants[100]
    problems = [present(one, RollCall(dump(experiment_of(PFedHR.paper(groups=count), cohort)))).problem for count in (12, 100)]
    assert problems[0] == ""
    assert "a round of 4 clients may have" in problems[1]


def test_a_client_draws_its_noise_from_a_number_that_only_it_knows(tmp_path: Path) -> None:
    cohort = suited(Local(), "mlp", clients=2)
    one = Postbox(cohort, tmp_path).participants[100]
    plain = experiment_of(Local(), cohort)
    experiment = replace(plain, privacy=PrivacyOptions(noise=1.0))
    assert one.view(plain, "a", 1).privacy is None
    assert not (one.folder / "secret").exists()

    def secret(participant: Participant, run: str = "a") -> int:
        privacy = participant.view(experiment, run, 1).privacy
        assert privacy is not None
        assert privacy.secret is not None
        return privacy.secret

    assert secret(one) == secret(one)  # kept in its folder
    assert [secret(replace(one, secret=len), run) for run in ("a", "run")] == [1, 3]  # given, it is of the run as well
    secrets = [secret(one), secret(one, "b"), secret(replace(one, folder=tmp_path / "other")), cohort.seed]
    assert len(set(secrets)) == 4  # no two runs share noise, nor two clients
    weights = [
        Local().client_step(Local().init_client(view), Nothing(), view)[0].weights
        for view in (one.view(experiment, "a", 1), one.view(experiment, "a", 1), one.view(experiment, "b", 1))
    ]
    assert equal(weights[0], weights[1])
    assert not equal(weights[0], weights[2])
    assert (one.folder / "secret").stat().st_mode & 0o077 == 0


def test_a_clients_secret_is_too_long_to_be_found_by_trying(tmp_path: Path) -> None:
    cohort = suited(Local(), "mlp", clients=2)
    one = Postbox(cohort, tmp_path).participants[100]
    experiment = replace(experiment_of(Local(), cohort), privacy=PrivacyOptions(noise=1.0))

    def secret() -> int:
        privacy = one.view(experiment, "a", 1).privacy
        assert privacy is not None
        return privacy.drawn_for("fedavg", 0).secret or 0

    assert secret().bit_length() > 200
    assert int((one.folder / "secret").read_text()).bit_length() > 200
    (one.folder / "secret").write_text(str(2**61))  # as it was drawn before
    assert secret().bit_length() > 200
    assert int((one.folder / "secret").read_text()).bit_length() > 200


@pytest.mark.parametrize(
    "change",
    [{"client": "client01"}, {"run": "../../etc"}, {"run": ""}, {"round": 0}, {"since": 1}, {"since": -1}, {"step": False}],
)
def test_a_client_refuses_what_makes_no_sense(change: dict[str, object], tmp_path: Path) -> None:
    participant = Postbox(WIDE, tmp_path).participants[100]
    message = pack(Local().message(Local().init_server(WIDE.server_view(0, map)), "client00"))
    with pytest.raises(ErrandError):
        perform(participant, errand(**change), message)
    assert list(tmp_path.iterdir()) == []
    answer, reply = perform(participant, errand(), message)
    assert reply is not None
    assert answer.scores is not None
    assert json.loads(answer.metrics)["loss"] > 0
