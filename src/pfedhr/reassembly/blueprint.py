"""A network as data: a JSON graph over an allow-list of torch, which any process makes into a module that computes the same.

The weights travel beside it, under names that the blueprint gives: `layer3.weight`, `tensor0`. A blueprint holds no name of the
network's own, so networks of equal structure have equal blueprints.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from pfedhr.parcel import Tensors
from pfedhr.reassembly.modes import MODE
from pfedhr.reassembly.symbolic import shaped
from pfedhr.reassembly.tracing import trace
from pfedhr.reassembly.vocabulary import (
    ATTRIBUTES,
    DTYPE_NAMES,
    DTYPES,
    EQUATION,
    FUNCTION_NAMES,
    METHODS,
    REMEDIES,
    STRINGS,
    DescriptionError,
    check_as_made,
    registered_in,
    settings_of,
)


@dataclass(frozen=True)
class Blueprint:
    """The structure of a network: `graph` is JSON text, the same for the same structure."""

    graph: str

    @cached_property
    def hash(self) -> str:
        """What identifies the structure: the SHA-256 of the text, in hexadecimal."""
        return hashlib.sha256(self.graph.encode()).hexdigest()


@dataclass(frozen=True)
class Description:
    """A network's blueprint, the network's own name for each weight of it, and the constants that its forward() computed."""

    blueprint: Blueprint
    names: dict[str, str]
    constants: Tensors

    def weights(self, module: nn.Module) -> Tensors:
        """Return copies of the tensors of `module`, a network of this structure and naming, under the blueprint's names."""
        found = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
        return {name: value.detach().cpu().clone() for name, value in self.renamed(found).items()}

    def renamed(self, tensors: Tensors) -> Tensors:
        """Return `tensors`, found under the network's own names, under the blueprint's, and the constants beside them."""
        return {name: tensors[own] for name, own in self.names.items()} | self.constants


def describe(module: nn.Module, example: Tensor) -> Description:
    """Return the description of `module` as it runs on inputs like `example` (n >= 1, ...), in training and in evaluation.

    Raises DecompositionError if the module cannot be traced, DescriptionError naming a layer, operation or argument that no
    blueprint may hold.
    """
    found = trace(module, example, registered_in(module))
    description = _Writer(module, found.constants).write(found.graph)
    _check_unhooked(module, found.graph)
    return description


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Attributes in which torch keeps what is called before or after a module."""


def _check_unhooked(module: nn.Module, graph: fx.Graph) -> None:
    """Raise DescriptionError for what was set on a module that is taken whole, or for the way back: following misses it."""
    called = [
        module.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module" and node.target != MODE
    ]
    whole = {module, *(part for layer in called for part in layer.modules())}
    for name, part in module.named_modules():
        if any(vars(part).get(kind) for kind in (("forward", *_HOOKS) if part in whole else _HOOKS[2:])):
            raise DescriptionError(
                f"{name or 'the network'} ({type(part).__name__}) has hooks or a forward() that its class does not have, and "
                f"no blueprint holds them. Remedies: remove them before the run, or put what they do into a module's forward()"
            )


def _dtype_name(dtype: torch.dtype) -> str:
    if dtype not in DTYPE_NAMES:
        raise DescriptionError(
            f"values of type {dtype} are none that a blueprint may hold: those are {', '.join(DTYPES)}. {REMEDIES}"
        )
    return DTYPE_NAMES[dtype]


class _Writer:
    """Writes one graph down, numbering layers, tensors and values in the order in which they are used."""

    def __init__(self, module: nn.Module, constants: dict[str, Tensor]) -> None:
        self._module = module
        self._found = constants
        self._parameters = dict(module.named_parameters(remove_duplicate=False))
        self._buffers = dict(module.named_buffers(remove_duplicate=False))
        self._layers: dict[str, int] = {}
        self._tensors: dict[str, int] = {}
        self._values: dict[fx.Node, int] = {}
        self._first: dict[int, str] = {}  # a tied weight's identity, and the name under which it came first
        self._ties: list[list[str]] = []
        self._frozen: list[str] = []
        self._names: dict[str, str] = {}
        self._constants: Tensors = {}
        self._layer_settings: list[Any] = []
        self._tensor_shapes: list[Any] = []

    def write(self, graph: fx.Graph) -> Description:
        """Return the description of `graph`."""
        lines: list[Any] = []
        source = result = None
        for node in graph.nodes:
            if node.op == "placeholder":
                source = shaped(node)
                self._values[node] = 0
            elif node.op == "output":
                result = self._encode(node.args[0])
            elif node.op not in ("get_attr",) and node.target != MODE:
                lines.append(self._line(node))
                self._values[node] = len(lines)
        assert isinstance(source, Tensor)
        tree = {
            "input": [_dtype_name(source.dtype), list(source.shape[1:])],
            "layers": self._layer_settings,
            "tensors": self._tensor_shapes,
            "ties": self._ties,
            "values": lines,
            "output": result,
        }
        if self._frozen:  # only then: the hashes of all other networks are what they were before this part was
            tree["frozen"] = self._frozen
        text = json.dumps(tree, separators=(",", ":"), sort_keys=True)
        return Description(Blueprint(text), self._names, self._constants)

    def _line(self, node: fx.Node) -> list[Any]:
        arguments = [self._encode(node.args), {name: self._encode(value) for name, value in sorted(node.kwargs.items())}]
        if node.op == "call_module":
            return ["layer", self._layer(str(node.target)), *arguments]
        if node.op == "call_method":
            if node.target not in METHODS:
                raise DescriptionError(
                    f"the method {node.target!r} of a tensor is not one that a blueprint may call. {REMEDIES}"
                )
            return ["method", node.target, *arguments]
        if node.target is getattr and node.args[1] not in ATTRIBUTES:
            raise DescriptionError(
                f"the attribute {node.args[1]!r} of a tensor is not one that a blueprint may read. {REMEDIES}"
            )
        known = FUNCTION_NAMES.get(node.target)  # pyright: ignore[reportArgumentType, reportCallIssue]
        if known is None:
            raise DescriptionError(f"the function {node.target} is not one that a blueprint may call. {REMEDIES}")
        return ["function", known, *arguments]

    def _layer(self, own: str) -> int:
        if own not in self._layers:
            number = self._layers[own] = len(self._layers)
            layer = self._module.get_submodule(own)
            name, settings = settings_of(layer)
            check_as_made(layer, name, settings)
            self._layer_settings.append([name, {key: self._encode(value) for key, value in sorted(settings.items())}])
            for key in layer.state_dict():
                self._record(f"layer{number}.{key}", f"{own}.{key}")
        return self._layers[own]

    def _tensor(self, own: str) -> int:
        if own not in self._tensors:
            number = self._tensors[own] = len(self._tensors)
            value = self._found[own] if own in self._found else (self._parameters | self._buffers)[own]
            kind = "parameter" if own in self._parameters else "buffer"
            self._tensor_shapes.append([kind, _dtype_name(value.dtype), list(value.shape)])
            if own in self._found:
                self._constants[f"tensor{number}"] = value.detach().cpu()
            else:
                self._record(f"tensor{number}", own)
        return self._tensors[own]

    def _record(self, name: str, own: str) -> None:
        """Note the network's own name of a weight, or that it is one that came before."""
        value = (self._parameters | self._buffers)[own]
        first = self._first.setdefault(id(value), name)
        if first != name:
            self._ties.append([name, first])
        else:
            self._names[name] = own
            if own in self._parameters and value.is_floating_point() and not value.requires_grad:
                self._frozen.append(name)

    def _encode(self, value: Any) -> Any:
        """Return an argument as JSON: plain values as they are, anything else as an object of one key that says what it is."""
        match value:
            case fx.Node():
                if value.op == "get_attr":
                    return {"tensor": self._tensor(str(value.target))}
                return {"mode": True} if value.target == MODE else {"value": self._values[value]}
            case None | bool() | int():
                return value
            case float():
                return value if value - value == 0 else {"float": str(value)}
            case str():
                if value not in STRINGS | ATTRIBUTES and not EQUATION.fullmatch(value):
                    raise DescriptionError(f"the text {value!r} is not one that a blueprint may hold. {REMEDIES}")
                return value
            case tuple():
                return {"tuple": [self._encode(item) for item in value]}
            case list():
                return [self._encode(item) for item in value]
            case slice():
                return {"slice": [self._encode(item) for item in (value.start, value.stop, value.step)]}
            case torch.dtype():
                return {"dtype": _dtype_name(value)}
            case torch.device():
                return {"device": True}  # where the weights of the rebuilt network are
            case _ if value is Ellipsis:
                return {"ellipsis": True}
            case _:
                raise DescriptionError(
                    f"an argument of type {type(value).__name__} is not one that a blueprint may hold. {REMEDIES}"
                )
