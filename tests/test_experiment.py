from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from pfedhr.algorithm import QUIET
from pfedhr.algorithms import ALGORITHMS
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.data import DataError, DataOptions
from pfedhr.experiment import EngineOptions, Experiment, ExperimentError
from pfedhr.experiment_file import dump, load_experiment, override, parse, presets


def test_a_preset_of_a_method_brings_its_defaults_and_gives_way_to_what_is_said_besides() -> None:
    paper = parse('[algorithm]\nname = "pfedhr"\npreset = "paper"\ngroups = 3\ntuning_epochs = 7\n', "a test").algorithm
    assert paper == PFedHR.paper(groups=3, tuning_epochs=7)
    own = Experiment(algorithm=PFedHR(groups=3))
    words = ["--algorithm.tuning-epochs", "7", "--algorithm.preset", "paper"]
    assert override(own, words).algorithm == PFedHR.paper(groups=3, tuning_epochs=7)
    assert parse(dump(Experiment(algorithm=paper)), "a test").algorithm == paper
    with pytest.raises(ExperimentError, match=r"algorithm.preset = 'papre' in a test: known are paper"):
        parse('[algorithm]\nname = "pfedhr"\npreset = "papre"\n', "a test")
    with pytest.raises(ExperimentError, match=r"algorithm.preset = 'paper' in the command line: fedmd has none"):
        override(own, ["--algorithm.name", "fedmd", "--algorithm.preset", "paper"])


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_an_experiment_that_survives_writing(name: str) -> None:
    experiment = load_experiment(name)
    assert parse(dump(experiment), "dumped") == experiment
    assert experiment.name == name


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_field_is_written_but_quiet_ones(name: str) -> None:
    experiment = Experiment(name='a "quoted" näme\n', algorithm=ALGORITHMS[name]())
    table = tomllib.loads(dump(experiment))
    assert parse(dump(experiment), "dumped") == experiment
    for section in ("data", "public", "clients", "plan", "algorithm"):
        fields = {field.name for field in dataclasses.fields(getattr(experiment, section)) if QUIET not in field.metadata}
        assert set(table[section]) - {"name"} == fields - {"name"}
    assert table["algorithm"]["name"] == name


def test_a_quiet_field_of_a_method_is_written_where_it_says_something() -> None:
    # As in the experiments from before there was such a field, whose runs bear names that are made of them.
    assert "tuned_blocks" not in dump(Experiment(algorithm=PFedHR()))
    experiment = Experiment(algorithm=PFedHR(tuned_blocks=2))
    assert "tuned_blocks = 2" in dump(experiment)
    assert parse(dump(experiment), "dumped") == experiment


def test_a_quiet_section_is_written_where_it_says_something() -> None:
    experiment = Experiment(engine=EngineOptions(min_clients=3))
    table = tomllib.loads(dump(experiment))
    assert table["engine"]["min_clients"] == 3
    assert "privacy" not in table
    assert parse(dump(experiment), "dumped") == experiment


def test_the_file_of_the_readme_and_the_default_agree() -> None:
    experiment = load_experiment("two-classes")
    assert experiment == dataclasses.replace(Experiment(), name="two-classes")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[plan]\nround = 3", ["unknown field plan.round", "exp.toml", "did you mean 'plan.rounds'?"]),
        ("[plans]\nrounds = 3", ["unknown field plans", "did you mean 'plan'?"]),
        ("[plan]\nrounds = '3'", ["plan.rounds = '3'", "int was expected"]),
        ("[plan]\nrounds = true", ["plan.rounds = True", "int was expected"]),
        ("[plan]\nrounds = 0", ["plan.rounds = 0", "1 or more"]),
        ("[plan]\nlearning_rate = -1", ["plan.learning_rate = -1.0", "above 0"]),
        ("plan = 3", ["plan = 3", "section [plan]"]),
        ("[clients]\ncount = 3", ["plan.active = 4", "3 clients only"]),
        ("[clients]\nmodels = []", ["clients.models", "at least one"]),
        ("[clients]\nmodels = [1]", ["clients.models = [1]", "list of strings"]),
        ("[clients]\nmodels = 'cnn1'", ["clients.models = 'cnn1'", "list of strings"]),
        ("[algorithm]\nname = 'pfedhrr'", ["algorithm.name = 'pfedhrr'", "did you mean 'pfedhr'?", "local"]),
        ("[algorithm]\ngroup = 4", ["unknown field algorithm.group", "did you mean 'algorithm.groups'?"]),
        ("[algorithm]\nprset = 'paper'", ["unknown field algorithm.prset", "did you mean 'algorithm.preset'?"]),
        ("[algorithm]\nstitch = 'heavy'", ["algorithm.stitch = 'heavy'", "light, full"]),
        ("[algorithm]\nname = 'local'\ngroups = 4", ["unknown field algorithm.groups"]),
        ("[algorithm]\nname = 'fedavg'\ngroups = 3", ["unknown field algorithm.groups", "fedavg has no setting groups"]),
        ("[algorithm]\nname = ['pfedhr']", ["algorithm.name = ['pfedhr']", "known are local"]),
        ("[algorithm]\npreset = ['paper']", ["algorithm.preset = ['paper']", "known are paper"]),
        ("[algorithm]\nstitch = ['full']", ["algorithm.stitch = ['full']", "light, full"]),
        ("[public]\nlabelled = 'no'", ["public.labelled = 'no'", "choose true or false"]),
        ("[plan]\nlearning_rate = inf", ["plan.learning_rate = inf", "above 0"]),
        ("[plan]\nweight_decay = inf", ["plan.weight_decay = inf", "0, or a number above it"]),
        ("[clients]\nmodels = ['cnn1,cnn2']", ["clients.models = ['cnn1,cnn2']", "with spaces between"]),
        ("workers = 0", ["workers = 0", "1 or more"]),
        ("device = 'tpu'", ["device = 'tpu'", "auto, cpu, cuda"]),
        ("name = 'a/b'", ["name = 'a/b'", "slash"]),
        (r'name = "a\u0000b"', [r"name = 'a\x00b'", "zero byte"]),
        ("rounds = = 3", ["exp.toml is not TOML", "line 1"]),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_a_remedy(text: str, words: list[str]) -> None:
    with pytest.raises(ExperimentError) as refusal:
        parse(text, "exp.toml")
    assert all(word in str(refusal.value) for word in words), refusal.value


@pytest.mark.parametrize("folder", ["a\udcffb", "a\0b"])
def test_a_folder_whose_name_goes_into_no_file_is_refused(folder: str) -> None:
    with pytest.raises(DataError, match=r"data\.dir = 'a\\.*b': give a folder"):
        DataOptions(dir=folder)


def test_every_other_character_survives_writing() -> None:
    experiment = dataclasses.replace(Experiment(), name="a\x7fb", data=DataOptions("mnist", dir='a\x7f\t"\\é'))
    assert parse(dump(experiment), "dumped") == experiment


def test_a_data_option_out_of_range_is_named() -> None:
    with pytest.raises(DataError, match=r"data\.alpha = -1"):
        parse("[data]\nalpha = -1", "exp.toml")


@pytest.mark.parametrize("name", ["fashion-mini", "sentences", "digits"])
def test_a_folder_for_a_set_that_is_read_from_none_is_refused(name: str) -> None:
    with pytest.raises(ExperimentError, match=f"data.dir = '/files' is not used by {name}: did you forget data.name?"):
        override(Experiment(), ["--data.name", name, "--data.dir", "/files"])
    for more in (["--data.name", "mnist"], ["--data.name", "own:load"], ["--data.name", name, "--public.name", "mnist"]):
        assert override(Experiment(), ["--data.dir", "/files", *more]).data.dir == "/files"


def test_a_file_may_begin_with_a_mark_of_its_encoding(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(b"\xef\xbb\xbfseed = 3\n")
    assert load_experiment(str(file)).seed == 3


def test_an_unknown_preset_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"'demoo'.*did you mean 'demo'"):
        load_experiment("demoo")
    file = tmp_path / "mine.toml"
    file.write_text("name = 'mine'")
    assert load_experiment(str(file)).name == "mine"
