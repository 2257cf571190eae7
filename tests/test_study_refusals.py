"""What a study refuses, whom it names, and which cells are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from toy_runs import quarters
from toy_studies import BASE, TINY, Told

from pfedhr.algorithm import SettingError
from pfedhr.algorithms.fedavg import FedAvg
from pfedhr.algorithms.fedmd import FedMD
from pfedhr.algorithms.fedproto import FedProto
from pfedhr.algorithms.local import Local
from pfedhr.data import Dataset
from pfedhr.study import Setting, cells_of, is_finished, run_cells


def test_what_a_method_does_not_use_makes_no_cell_of_its_own() -> None:
    methods = {"local": Local(), "fedmd": FedMD(pretraining_epochs=0), "pfedhr": TINY}
    unlabelled = replace(BASE, public=replace(BASE.public, labelled=False))
    folders = [{cell.method: cell.folder for cell in cells_of([Setting("x", one, methods)], [3])} for one in (BASE, unlabelled)]
    assert folders[0]["local"] == folders[1]["local"]
    assert folders[0]["fedmd"] == folders[1]["fedmd"]
    assert folders[0]["pfedhr"] != folders[1]["pfedhr"]
    more = replace(BASE, public=replace(BASE.public, share=0.2))  # this leaves clients fewer examples
    assert cells_of([Setting("x", more, methods)], [3])[0].folder != folders[0]["local"]
    workers = replace(BASE, workers=2, name="other")
    assert cells_of([Setting("x", workers, {"called": TINY})], [3])[0].folder == folders[0]["pfedhr"]


def test_seeds_differ_and_share_a_folder_above() -> None:
    cells = cells_of([Setting("toy", BASE, {"local": Local(), "pfedhr": TINY})], [0, 1])
    parents = {cell.method: set() for cell in cells}
    for cell in cells:
        parents[cell.method].add(Path(cell.folder).parent)
    assert all(len(found) == 1 for found in parents.values())
    assert len({cell.folder for cell in cells}) == 4


def faulty_once(directory: str) -> Dataset:
    """A data set that is there whenever it is wanted but the second time."""
    calls = Path(directory) / "calls"
    count = int(calls.read_text()) + 1 if calls.exists() else 1
    calls.write_text(str(count))
    if count == 2:
        raise OSError("no space left")
    return quarters(directory)


def test_a_run_that_failed_before_it_began_can_be_run_again(tmp_path: Path) -> None:
    experiment = replace(BASE, data=replace(BASE.data, name=f"{__name__}:faulty_once", dir=str(tmp_path)))
    (cell,) = cells_of([Setting("toy", experiment, {"local": Local()})], [0])
    path = tmp_path / "store"
    assert list(run_cells([cell], path, 1, Told())) == [cell.folder]
    assert (path / cell.folder / "failure.txt").exists()
    assert run_cells([cell], path, 1, Told()) == {}
    assert is_finished(path / cell.folder)
    assert not (path / cell.folder / "failure.txt").exists()


def test_where_the_files_of_a_known_set_lie_makes_no_other_cell() -> None:
    def folder(name: str, directory: str, public: str = "") -> str:
        data, other = replace(BASE.data, name=name, dir=directory), replace(BASE.public, name=public)
        return cells_of([Setting("x", replace(BASE, data=data, public=other), {"fedmd": FedMD()})], [0])[0].folder

    assert folder("mnist", "here") == folder("mnist", "./there/")
    assert folder("own:data", "here") != folder("own:data", "there")
    assert folder("mnist", "here", "own:data") != folder("mnist", "there", "own:data")


@pytest.mark.parametrize(("method", "words"), [(FedAvg(), "clients.models"), (FedProto(), "clients.features")])
def test_nothing_is_trained_before_all_cells_have_been_checked(method: FedAvg | FedProto, words: str, tmp_path: Path) -> None:
    cells = cells_of([Setting("toy", BASE, {"local": Local(), method.name: method})], [0])
    with pytest.raises(SettingError, match=f"{method.name}.*{words}"):
        run_cells(cells, tmp_path / "store", 1, Told())
    assert not (tmp_path / "store").exists()
