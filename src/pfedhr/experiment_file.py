"""Experiments as TOML, as presets, and as the command line changes them; every error names field, value and place."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import typing
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pfedhr.algorithm import QUIET, Algorithm
from pfedhr.data import reads_files
from pfedhr.disk import named_path
from pfedhr.errors import nearest
from pfedhr.experiment import Experiment, ExperimentError
from pfedhr.imports import NotFoundError, check_loaded
from pfedhr.methods import find_method, name_of


def presets() -> dict[str, str]:
    """Return the presets: name and TOML text."""
    files = resources.files("pfedhr") / "presets"
    found = sorted(files.iterdir(), key=lambda path: path.name)
    return {path.name.removesuffix(".toml"): path.read_text(encoding="utf-8") for path in found if path.name.endswith(".toml")}


def load_experiment(name: str) -> Experiment:
    """Return the preset of this name, or what is in the file `name`. Raises ExperimentError if there is neither."""
    known = presets()
    if name in known:
        return parse(known[name], f"preset {name}")
    path = named_path(name)
    if path.is_file():
        return parse(read(path), name)
    raise ExperimentError(f"there is no preset and no file {name!r}: {nearest(name, known)}presets are {', '.join(known)}")


def read(path: Path) -> str:
    """Return the text of an experiment file. Raises ExperimentError if it is no text."""
    try:
        return path.read_text(encoding="utf-8-sig")  # editors on Windows begin a file with a mark of its encoding
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path} is not TOML: {error}") from error


def parse(text: str, place: str) -> Experiment:
    """Return the experiment of a TOML text; `place` is where it was found. Raises ExperimentError naming field and place.

    A method of the user's own is imported.
    """
    return _from_table(Experiment, _table(text, place), "", place)


def parse_foreign(text: str, place: str) -> Experiment:
    """Return what `parse` does of a text that another machine has sent: nothing is imported for it."""
    table = _table(text, place)
    section = table.get("algorithm")
    name = section.get("name") if isinstance(section, dict) else None
    if isinstance(name, str) and ":" in name:
        try:
            check_loaded(name)
        except NotFoundError as error:
            raise _no_method(name, place, error) from error
    return _from_table(Experiment, table, "", place)


def _table(text: str, place: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ExperimentError(f"{place} is not TOML: {error}") from error


def override(experiment: Experiment, words: Sequence[str]) -> Experiment:
    """Return the experiment with the fields that a command line sets: --plan.rounds 3 --clients.models cnn1 mlp.

    Another --algorithm.name brings that method's defaults, an --algorithm.preset those of its preset. Raises ExperimentError,
    also for a folder of data that neither the clients' nor the public set is read from.
    """
    table = tomllib.loads(dump(experiment))
    place = "the command line"
    options: dict[str, list[str]] = {}
    for name, values in _options(words):
        if name in options:
            raise ExperimentError(f"--{name} is given twice in {place}: leave one out")
        options[name] = values
    if (method := options.get("algorithm.name", [])) and method != [name_of(type(experiment.algorithm))]:
        table["algorithm"] = {"name": method[0]}
    if preset := options.pop("algorithm.preset", []):
        table["algorithm"] |= _preset(_method(table["algorithm"]["name"], place), " ".join(preset), place)
    method = _method(table["algorithm"]["name"], place)
    kinds = _kinds(Experiment, method)
    for name, values in options.items():
        if name not in kinds:
            raise _unknown(name, kinds, method, place, "--")
        if not values or (len(values) > 1 and kinds[name] != tuple[str, ...]):
            raise ExperimentError(f"--{name} {' '.join(values)} in {place}: one value was expected, not {len(values)}")
        section, _, field = name.rpartition(".")
        (table.setdefault(section, {}) if section else table)[field] = _from_words(kinds[name], values)
    changed: Experiment = _from_table(Experiment, table, "", place)
    if changed.data.dir and not (reads_files(changed.data.name) or reads_files(changed.public.name)):
        raise ExperimentError(f"data.dir = {changed.data.dir!r} is not used by {changed.data.name}: did you forget data.name?")
    return changed


def _options(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield every option with its values: the words up to the next option, or what follows "=" in the same word."""
    name, values = "", list[str]()
    for word in words:
        if not word.startswith("--"):
            if not name:
                raise ExperimentError(f"{word!r} in the command line: fields are set as --plan.rounds 3")
            values.append(word)
            continue
        if name:
            yield name, values
        name, equals, value = word[2:].partition("=")
        name, values = name.replace("-", "_"), [value] if equals else []
    if name:
        yield name, values


def _unknown(name: str, known: Iterable[str], method: type[Algorithm], place: str, before: str = "") -> ExperimentError:
    """Return the error of a field that is not among `known`, all by their dotted names; `before` stands before names there."""
    section, _, field = name.rpartition(".")
    beside = sorted(other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == section)
    if section != "algorithm" and (not beside or (before and not section)):  # all fields are too many for a line
        return ExperimentError(f"unknown field {before}{name} in {place}: {nearest(name, known, before)}see --help")
    meant = beside
    if section == "algorithm":
        beside = [other for other in beside if other != "name"]
        meant = [*beside, *(["preset"] if method.presets else [])]
    told = f"known are {', '.join(beside)}" if beside else f"{method.name} has no setting {field}"
    prefix = f"{before}{section}." if section else before
    return ExperimentError(f"unknown field {before}{name} in {place}: {nearest(field, meant, prefix)}{told}")


def _kinds(cls: type, method: type[Algorithm], path: str = "") -> dict[str, Any]:
    """Return the type of every field by its dotted name."""
    kinds: dict[str, Any] = {"algorithm.name": str} if cls is Experiment else {}
    for name, kind in typing.get_type_hints(cls).items():
        if name not in {item.name for item in dataclasses.fields(cls)}:
            continue
        kind = method if kind is Algorithm else kind
        kinds |= _kinds(kind, method, f"{name}.") if dataclasses.is_dataclass(kind) else {f"{path}{name}": kind}
    return kinds


def _from_words(kind: Any, words: list[str]) -> Any:
    """Return what TOML would have given for `words`; a word that is none of the type stays as it is, to be refused."""
    if kind is bool:
        return {"true": True, "false": False}.get(words[0].lower(), words[0])
    if kind in (int, float):
        try:
            return kind(words[0])
        except ValueError:
            return words[0]
    return words if kind == tuple[str, ...] else words[0]


def _from_table(cls: Any, table: Any, path: str, place: str) -> Any:
    """Return a dataclass from a table; every key must be a field, and every value of the field's type."""
    if not isinstance(table, dict):
        raise ExperimentError(f"{path.rstrip('.')} = {table!r} in {place}: a section [{path.rstrip('.')}] was expected")
    table = dict(table)
    if cls is Algorithm:
        cls = _method(table.pop("name", "pfedhr"), place)
        if (preset := table.pop("preset", None)) is not None:
            table = {**_preset(cls, preset, place), **table}
    known = {item.name for item in dataclasses.fields(cls)}
    kinds = typing.get_type_hints(cls)
    for key in table:
        if key not in known:
            raise _unknown(f"{path}{key}", [f"{path}{other}" for other in known], cls, place)
    return cls(**{key: _from_value(kinds[key], value, f"{path}{key}", place) for key, value in table.items()})


def _method(name: Any, place: str) -> type[Algorithm]:
    try:
        return find_method(str(name))
    except NotFoundError as error:
        raise _no_method(name, place, error) from error


def _no_method(name: Any, place: str, error: NotFoundError) -> ExperimentError:
    return ExperimentError(f"algorithm.name = {name!r} in {place}: {error}")


def _preset(method: type[Algorithm], name: Any, place: str) -> dict[str, Any]:
    """Return the defaults that a method has under this name of a preset."""
    if isinstance(name, str) and name in method.presets:
        return dict(method.presets[name])
    known = f"known are {', '.join(method.presets)}" if method.presets else f"{method.name} has none"
    raise ExperimentError(f"algorithm.preset = {name!r} in {place}: {known}")


def _from_value(kind: Any, value: Any, path: str, place: str) -> Any:
    if kind is Algorithm or dataclasses.is_dataclass(kind):
        return _from_table(kind, value, f"{path}.", place)
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise ExperimentError(f"{path} = {value!r} in {place}: choose one of {', '.join(map(str, choices))}")
        return value
    if kind is float and type(value) is int:
        return float(value)
    wanted = list if typing.get_origin(kind) is tuple else kind
    if type(value) is not wanted or (wanted is list and not all(isinstance(item, str) for item in value)):
        if wanted is bool:
            raise ExperimentError(f"{path} = {value!r} in {place}: choose true or false")
        name = "list of strings" if wanted is list else wanted.__name__
        raise ExperimentError(f"{path} = {value!r} in {place}: a value of type {name} was expected")
    return tuple(value) if wanted is list else value


def dump(experiment: Experiment) -> str:
    """Return the experiment as TOML, every field of it but quiet ones at their defaults: `parse` gives it back."""
    plain = _told(experiment)
    lines = [f"{key} = {_toml(value)}" for key, value in plain.items() if not dataclasses.is_dataclass(value)]
    for section, value in plain.items():
        if dataclasses.is_dataclass(value):
            lines += ["", f"[{section}]"]
            lines += [f"name = {_toml(name_of(type(value)))}"] if isinstance(value, Algorithm) else []
            lines += [f"{name} = {_toml(held)}" for name, held in _told(value).items()]
    return "\n".join(lines) + "\n"


def _told(section: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name, without quiet ones at their defaults."""
    fields = dataclasses.fields(section)
    return {item.name: value for item in fields if not _is_quiet(item, value := getattr(section, item.name))}


def _is_quiet(item: dataclasses.Field[Any], value: Any) -> bool:
    default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
    return QUIET in item.metadata and value == default


def _toml(value: Any) -> str:
    match value:
        case tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case float():
            return repr(value)
        case _:
            return json.dumps(value, ensure_ascii=False).replace("\x7f", r"\u007f")  # which TOML, unlike JSON, wants escaped
