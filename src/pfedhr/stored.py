"""The experiment of a run on disk, and that it is still the one that the run was begun with."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pfedhr.disk import write
from pfedhr.experiment import Experiment
from pfedhr.experiment_file import dump, parse
from pfedhr.run import RunError, read_begun, read_experiment, read_rounds

DATA = "data.sha256"
"""Holds, in a run's directory, digests of the clients' and the public examples."""

UNSAID = "its default"
"""What a field that an experiment's text leaves out is said to be."""


def stored_experiment(path: Path) -> Experiment:
    """Return the experiment of the run in `path`, of which `plan.rounds` may have been changed since the run was begun.

    Raises RunError if there is none, or if anything else has changed that its numbers depend on.
    """
    experiment = parse(read_experiment(path), f"{path}/experiment.toml")
    text = read_begun(path)
    if text is not None:
        _check_same(path, experiment, parse(text, f"{path}/checkpoint/experiment.toml"))
    ended = max(len(read_rounds(path)), len(read_rounds(path / "local")))
    if experiment.plan.rounds < ended:
        raise RunError(f"plan.rounds = {experiment.plan.rounds}: in {path} {ended} rounds have ended; give {ended} or more")
    return experiment


def keep_data(path: Path, digests: Mapping[str, str]) -> None:
    """Keep the `Federation.digests` of the run in `path`, as it begins; later, check them as `check_data` does."""
    check_data(path, digests)
    if not read_data(path):  # nor has a run of before there were any
        write(path / DATA, "".join(f"{digest}  {part}\n" for part, digest in digests.items()).encode())


def check_data(path: Path, digests: Mapping[str, str]) -> None:
    """Raise RunError if the run in `path` was begun with other examples than those of `digests`."""
    for part, digest in read_data(path).items():
        if digests.get(part) != digest:
            raise RunError(
                f"{path}: the data ({part}) is no longer that of the run: restore the files that it is read from, or, where it "
                f"is a function of your own, let load give the same examples each time"
            )


def read_data(path: Path) -> dict[str, str]:
    """Return the digests that the run in `path` has kept, none if it was begun before there were any."""
    file = path / DATA
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {part: digest for digest, part in (line.split() for line in lines)}


def numbers_alone(experiment: Experiment) -> Experiment:
    """Return the experiment with its defaults in all that says but where and how it is carried out."""
    plain, data = Experiment(), replace(experiment.data, dir="", hub=False)
    carried_out = {name: getattr(plain, name) for name in ("name", "device", "workers", "compare_local", "engine")}
    return replace(experiment, data=data, **carried_out)


def _check_same(path: Path, now: Experiment, begun: Experiment) -> None:
    """Raise RunError if rounds under `now` would not follow from those under `begun`."""
    free = set() if begun.privacy.noise else {"plan.rounds"}  # noise is drawn for an experiment, its rounds included
    is_now, was = (_fields(numbers_alone(one)) for one in (now, begun))
    changed = [name for name in {**was, **is_now} if was.get(name) != is_now.get(name) and name not in free]
    if changed:
        told = "; ".join(f"{name} was {was.get(name, UNSAID)}, is {is_now.get(name, UNSAID)}" for name in changed)
        raise RunError(
            f"{path}/experiment.toml has changed since the run was begun ({told}), and its rounds so far are of what it was: "
            f"restore it, or run the new one in a folder of its own by `pfedhr run FILE --out DIR`"
        )


def _fields(experiment: Experiment) -> dict[str, Any]:
    """Return every value of an experiment by its dotted name."""
    fields: dict[str, Any] = {}
    for name, value in tomllib.loads(dump(experiment)).items():
        fields |= {f"{name}.{key}": held for key, held in value.items()} if isinstance(value, dict) else {name: value}
    return fields
