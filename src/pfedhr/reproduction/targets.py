"""What each table and figure of the pFedHR paper varies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from pfedhr.algorithm import Algorithm
from pfedhr.algorithms import ALGORITHMS
from pfedhr.algorithms.pfedclub import PFedClub
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.data import Partition
from pfedhr.errors import nearest
from pfedhr.experiment import Experiment, ExperimentError
from pfedhr.reproduction.scales import Scale
from pfedhr.study import Setting

PAPER_SETS = ("mnist", "svhn", "cifar-10")
OTHER_SET = {"mnist": "fashion-mnist", "fashion-mnist": "mnist", "cifar-10": "fashion-mnist", "svhn": "mnist"}
"""Where public data of another set comes from; the paper's own choice is known for SVHN alone."""
PARTITIONS: tuple[Partition, ...] = ("iid", "classes")
PUBLIC = {True: "labelled", False: "unlabelled"}
COMPARED = {True: ("local-public", "fedmd", "fedgh"), False: ("fedkemf", "fccl")}
"""What the paper compares with, by whether the public data is labelled; and the same labels without a federation."""
PROTOTYPES = ("fedproto", "fedtgp")
HOMOGENEOUS = ("fedavg", "fedprox", "per-fedavg", "pfedme", "pfedbayes")


class Conditions(NamedTuple):
    """What a setting is: how data is shared out, whether public data is labelled, and the axis's value, if there is one."""

    partition: str
    public: str
    value: str

    def __str__(self) -> str:
        return "/".join(self)

    @classmethod
    def parse(cls, setting: str) -> Conditions:
        """Return the conditions that a setting's name tells."""
        return cls(*setting.split("/"))


@dataclass(frozen=True)
class Target:
    """A table or figure: its title, its axis, the paper's data sets, its settings at a scale, and what else is to be said."""

    name: str
    title: str
    axis: str
    sets: tuple[str, ...]
    settings: Callable[[Scale, Experiment], Iterator[Setting]]
    note: str = ""


def settings_of(target: Target, scale: Scale, data: str, directory: str) -> list[Setting]:
    """Return the settings of a target on one data set, whose files are in `directory`."""
    experiment = replace(scale.experiment, data=replace(scale.experiment.data, name=data, dir=directory))
    return list(target.settings(scale, experiment))


def with_methods(settings: Sequence[Setting], names: Sequence[str]) -> list[Setting]:
    """Return the settings with those of their methods alone that are named, and learning alone; with all where none is named.

    Raises ExperimentError for a name that none of the settings has.
    """
    known = dict.fromkeys(method for setting in settings for method in setting.methods)
    for name in names:
        if name not in known:
            raise ExperimentError(f"there is no method {name!r} here: {nearest(name, known)}choose among {', '.join(known)}")
    wanted = {"local", *names} if names else known.keys()
    chosen = [{name: method for name, method in one.methods.items() if name in wanted} for one in settings]
    return [replace(one, methods=methods) for one, methods in zip(settings, chosen, strict=True)]


def _table2(scale: Scale, base: Experiment) -> Iterator[Setting]:
    for partition in PARTITIONS:
        for labelled in PUBLIC:
            yield _setting(base, partition, labelled, "", (*COMPARED[labelled], _pfedhr(base)))


def _table3(scale: Scale, base: Experiment) -> Iterator[Setting]:
    clients, plan = replace(base.clients, count=100), replace(base.plan, active=10)
    yield from _table2(
        scale, replace(base, clients=clients, plan=plan, algorithm=replace(_pfedhr(base), average_structures=True))
    )


def _table4(scale: Scale, base: Experiment) -> Iterator[Setting]:
    for value, network in (("M1", scale.smallest), ("M4", scale.largest)):
        alike = replace(base, clients=replace(base.clients, models=(network,)))
        for partition in PARTITIONS:
            yield _setting(alike, partition, True, value, (*HOMOGENEOUS, _pfedhr(base)))


def _figure1(scale: Scale, base: Experiment) -> Iterator[Setting]:
    if base.data.name not in OTHER_SET:
        raise ExperimentError(f"no other set is known for {base.data.name!r}: choose --datasets of {', '.join(OTHER_SET)}")
    for value, name in (("same", ""), ("other", OTHER_SET[base.data.name])):
        experiment = replace(base, public=replace(base.public, name=name))
        for partition in PARTITIONS:
            for labelled in PUBLIC:
                # FedGH takes no public data here, so another set changes nothing for it.
                compared = [method for method in COMPARED[labelled] if method != "fedgh"]
                yield _setting(experiment, partition, labelled, value, (*compared, _pfedhr(base)))


def _figure3(scale: Scale, base: Experiment) -> Iterator[Setting]:
    for share in (0.02, 0.05, 0.1):
        experiment = replace(base, public=replace(base.public, share=share))
        for partition in PARTITIONS:
            yield _setting(experiment, partition, True, f"{share:g}", (_pfedhr(base),))


def _varying(field: str, values: Sequence[Any], labels: Sequence[bool]) -> Callable[[Scale, Experiment], Iterator[Setting]]:
    """Return the settings of a figure that varies one field of pFedHR."""

    def settings(scale: Scale, base: Experiment) -> Iterator[Setting]:
        for value in values:
            method = replace(_pfedhr(base), **{field: value})
            for partition in PARTITIONS:
                for labelled in labels:
                    yield _setting(base, partition, labelled, str(value), (method,))

    return settings


def _ablation(scale: Scale, base: Experiment) -> Iterator[Setting]:
    """Yield the paper's form, others of reassembled teachers, then it with one piece after the other, up to the default one."""
    paper = _pfedhr(base)
    for partition in PARTITIONS:
        for labelled in PUBLIC:
            setting = _setting(base, partition, labelled, "", ("local-public", paper) if labelled else (paper,))
            pieces, form = pieces_of(labelled), paper
            forms = _reassembled(paper, pieces["own-ensemble"])
            for piece, values in pieces.items():
                forms[piece] = form = replace(form, **values)
            yield replace(setting, methods={**setting.methods, **forms})


def _reassembled(paper: PFedHR, ensemble: dict[str, Any]) -> dict[str, PFedHR]:
    """Return forms whose teachers are reassembled, too, but otherwise made or given: a piece or two beside the paper's."""
    tuned = replace(paper, stitch_start="solved", **ensemble)
    solved = replace(paper, stitch_start="solved", tuning_epochs=0)
    return {
        "reassembled-ensemble": replace(paper, **ensemble),
        "benefit": replace(paper, match="benefit"),
        "solved": solved,
        "solved-benefit": replace(solved, match="benefit"),
        "solved-budget": replace(solved, size_budget=0.0),
        "solved-tuned": tuned,
        "solved-chosen": replace(tuned, tuned_candidates="chosen"),
    }


def _benefit(scale: Scale, base: Experiment) -> Iterator[Setting]:
    """Yield the settings of Table 2, and Dirichlet proportions, with more methods, and pFedHR in four forms."""
    # pFedClub takes the scale's cut, as the paper's form does.
    club = PFedClub(candidates=_pfedhr(base).candidates, tuning_batch_size=_pfedhr(base).tuning_batch_size)
    uneven = replace(base, data=replace(base.data, alpha=0.3))
    partitions: dict[Partition, Experiment] = {**dict.fromkeys(PARTITIONS, base), "dirichlet": uneven}
    for partition, one in partitions.items():
        for labelled in PUBLIC:
            setting = _setting(one, partition, labelled, "", (*COMPARED[labelled], *PROTOTYPES, club, "feddf"))
            form = _default_form(setting)
            others = {"own": replace(form, teachers="own"), "last-blocks": replace(form, tuned_blocks=2)}
            yield replace(setting, methods={**setting.methods, "paper": _pfedhr(base), **others, "pfedhr": form})


def _exchange(scale: Scale, base: Experiment) -> Iterator[Setting]:
    """Yield the settings of Figure 1 with pFedHR in its better form instead of the paper's."""
    for setting in _figure1(scale, base):
        yield replace(setting, methods={**setting.methods, "pfedhr": _default_form(setting)})


def _default_form(setting: Setting) -> PFedHR:
    """Return pFedHR in its better form, all else as the setting has it."""
    pieces = pieces_of(setting.experiment.public.labelled)
    changes = {field: value for values in pieces.values() for field, value in values.items()}
    return replace(_pfedhr(setting.experiment), **changes)


def pieces_of(labelled: bool) -> dict[str, dict[str, Any]]:
    """Return the pieces that turn the paper's form into the default one, each with what it sets, in their order."""
    default = asdict(PFedHR())
    fields = {
        "own-ensemble": "tuning_targets",
        "own-ensemble-start": "start",
        "all-donors": "donors",
        "longer": "tuning_epochs",
        "heavier": "distil_weight",
        "declining": "decline_below",
        "shared": "teachers",
    }
    pieces = {"own": {"teachers": "own"}, **{piece: {field: default[field]} for piece, field in fields.items()}}
    # Without labels both aims are one; the finished runs are of the experiments that say so.
    return pieces if labelled else {**pieces, "own-ensemble": {"tuning_targets": "cohort"}}


def _figure7(scale: Scale, base: Experiment) -> Iterator[Setting]:
    # The paper's teacher has five blocks of four groups, so groups must be allowed to give several.
    yield _setting(base, "classes", True, "", (replace(_pfedhr(base), repeat_groups=True),))


def _setting(base: Experiment, partition: Partition, labelled: bool, value: str, methods: Sequence[str | Algorithm]) -> Setting:
    """Return a setting with these methods, a name standing for the method's defaults, beside learning alone."""
    made = [ALGORITHMS[method]() if isinstance(method, str) else method for method in ("local", *methods)]
    data, public = replace(base.data, partition=partition), replace(base.public, labelled=labelled)
    name = str(Conditions(partition, PUBLIC[labelled], value))
    return Setting(name, replace(base, data=data, public=public), {method.name: method for method in made})


def _pfedhr(base: Experiment) -> PFedHR:
    assert isinstance(base.algorithm, PFedHR)
    return base.algorithm


_AVERAGED = "uploads of one structure are averaged before grouping, as in the paper"
_ABLATION = (
    "the forms before own are the paper's but for a piece or two: benefit: the candidate that knows what the client does not; "
    "solved: stitches by ridge regression, untuned; budget: none larger than one's own network; tuned: three epochs to what "
    "the uploads say, too; chosen: those alone that some client gets. From own on each has what the one before has. own: one's "
    "own network, tuned; ensemble: tuned on the uploads' mean prediction, too; start: training starts from it; all-donors: "
    "the mean of all last uploads; longer: ten epochs of tuning instead of three; heavier: a weight of distillation of 1 "
    "instead of 0.2; declining: no teacher that knows less than half of what the client knows itself of its own classes; "
    "shared: the tuned mean of all clients' last uploads of one structure, for all of them"
)
_BENEFIT = (
    "pfedhr is the form that the ablation ends with; own: with one's own network instead of the structure's mean; last-blocks: "
    "with the last two blocks tuned alone; paper: the paper's; dirichlet: proportions of Dirichlet(0.3) a class"
)
_EXCHANGE = "pfedhr is the form that the ablation ends with; all else is Figure 1"
_TARGETS = (
    Target("table2", "Heterogeneous networks, 12 clients", "", PAPER_SETS, _table2),
    Target("table3", "Heterogeneous networks, 100 clients", "", ("svhn",), _table3, _AVERAGED),
    Target("table4", "One network for all clients", "network", PAPER_SETS, _table4),
    Target("figure1", "Public data of another data set", "public data", ("svhn",), _figure1),
    Target("figure3", "How much public data", "share", ("svhn",), _figure3, "the share of public data is what varies"),
    Target("figure4", "How many groups", "groups (K)", ("svhn",), _varying("groups", (3, 4, 5), (True, False))),
    Target("figure5", "How deep stitches are", "layers a stitch", ("svhn",), _varying("stitch_layers", (1, 2, 3), (True,))),
    Target("figure6", "How long teachers are tuned", "epochs", ("svhn",), _varying("tuning_epochs", (3, 4, 5), (True,))),
    Target("figure7", "The teacher of one client at two rounds", "", ("svhn",), _figure7, "a group may give several blocks"),
    Target("benefit", "Who is better off than alone", "", PAPER_SETS, _benefit, _BENEFIT),
    Target("exchange", "The default form with public data of another set", "public data", PAPER_SETS, _exchange, _EXCHANGE),
    Target("ablation", "What each piece of pFedHR brings", "", PAPER_SETS, _ablation, _ABLATION),
)

TARGETS = {target.name: target for target in _TARGETS}
