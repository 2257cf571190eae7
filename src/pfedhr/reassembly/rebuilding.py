"""Making a module of a blueprint that came from elsewhere: everything in it is checked before anything is computed.

Layers are made on torch's meta device, and the graph is run on shapes only, so a hostile size costs no memory. What is wrong
with a blueprint or its weights ends in ParcelError.
"""

from __future__ import annotations

import copy
import functools
import json
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from pfedhr.parcel import ParcelError, Tensors
from pfedhr.reassembly.blueprint import Blueprint
from pfedhr.reassembly.modes import MODE
from pfedhr.reassembly.shapes import COUNT_LIMIT, run_shapes, whole_number
from pfedhr.reassembly.symbolic import TRAINED_BATCHES, Mode
from pfedhr.reassembly.vocabulary import ATTRIBUTES, DTYPES, EQUATION, FUNCTIONS, METHODS, STRINGS, layer_class

TEXT_LIMIT = 8_000_000
"""Characters of one blueprint."""
LAYERS_LIMIT = 64
"""Layers that one recurrent layer may stack."""
WEIGHTS_LIMIT = 2_000_000_000
"""Weights of one network."""


def rebuild(blueprint: Blueprint, weights: Tensors) -> nn.Module:
    """Return a module that computes what the described one did with these weights, bit for bit; it can be trained, and what
    did not learn there does not learn here.

    `weights`: every tensor by the name that the blueprint gives it, as Description.weights returns them; they are copied.
    Raises ParcelError for a blueprint that is damaged, hostile or of layers not known here, and for weights that do not fit it
    or are not finite.
    """
    bare, ties = skeleton(blueprint.graph)
    wanted = {name: value for name, value in bare.state_dict().items() if name not in ties}
    if wanted.keys() != weights.keys():
        different = sorted(wanted.keys() ^ weights.keys())[:5]
        raise ParcelError(f"the weights are not those of the blueprint: {', '.join(different)} on one side only")
    learnt = dict(bare.named_parameters())
    for name, value in weights.items():
        if value.shape != wanted[name].shape or value.dtype != wanted[name].dtype:
            raise ParcelError(f"{name} is {value.dtype} of shape {tuple(value.shape)}, where the blueprint says otherwise")
        trained = name in learnt
        if value.is_floating_point() and (not value.isfinite().all() if trained else value.isnan().any()):
            raise ParcelError(f"{name} holds values that are not finite")
    module = copy.deepcopy(bare)
    full = {name: weights[ties.get(name, name)].clone() for name in module.state_dict()}
    module.load_state_dict(full, assign=True)
    for name, first in ties.items():
        owner, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(owner), attribute, operator.attrgetter(first)(module))
    return module.train()


def input_of(blueprint: Blueprint, count: int) -> Tensor:
    """Return `count` inputs of zeros, of the shape and type that the blueprint says. Raises ParcelError."""
    skeleton(blueprint.graph)  # once it has been read, its input is in order
    dtype, shape = json.loads(blueprint.graph)["input"]
    return torch.zeros(count, *shape, dtype=DTYPES[dtype])


@functools.lru_cache(maxsize=1024)
def check_batch(blueprint: Blueprint, batch: int, *, training: bool) -> None:
    """Raise ParcelError unless the described network runs on a batch of so many inputs, within the limits; on shapes alone."""
    bare = skeleton(blueprint.graph)[0]
    dtype, shape = json.loads(blueprint.graph)["input"]
    try:
        run_shapes(bare.train(training), [batch, *shape], DTYPES[dtype])
    except ParcelError as error:
        raise ParcelError(f"in a batch of {batch}, {error}") from error
    except Exception as error:  # whatever a hostile graph makes of torch
        raise ParcelError(f"it cannot run on a batch of {batch}: {type(error).__name__}: {error}") from error


@functools.lru_cache(maxsize=256)
def skeleton(text: str) -> tuple[fx.GraphModule, dict[str, str]]:
    """Return the module of a blueprint without numbers, and its tied weights, each with the name of the one that it is.

    Raises ParcelError.
    """
    try:
        if len(text) > TEXT_LIMIT:
            raise ParcelError(f"the blueprint has {len(text)} characters, more than {TEXT_LIMIT}")
        return _Reader(json.loads(text, object_pairs_hook=_no_doubles)).read()
    except ParcelError:
        raise
    except Exception as error:  # whatever a hostile graph makes of torch
        raise ParcelError(f"this is not a blueprint of a network: {type(error).__name__}: {error}") from error


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ParcelError("the blueprint has the same key twice")
    return found


class _Reader:
    """Reads one graph, refusing what is not in the vocabulary."""

    def __init__(self, tree: dict[str, Any]) -> None:
        if set(tree) - {"frozen"} != {"input", "layers", "tensors", "ties", "values", "output"}:
            raise ParcelError(f"the blueprint has the parts {sorted(tree)}")
        for part in ("layers", "tensors", "ties", "values", "frozen"):
            if not isinstance(tree.get(part, []), list) or len(tree.get(part, [])) > COUNT_LIMIT:
                raise ParcelError(f"the part {part!r} of the blueprint is not a list of at most {COUNT_LIMIT}")
        self._tree = tree
        self._graph = fx.Graph()
        self._held = 0
        self._nodes: list[fx.Node] = [self._graph.placeholder("inputs")]
        self._parts: dict[str, Any] = {MODE: Mode()}
        self._mode = self._graph.call_module(MODE)

    def read(self) -> tuple[fx.GraphModule, dict[str, str]]:
        """Return the module on the meta device and the ties."""
        with torch.device("meta"):
            for number, (name, settings) in enumerate(self._tree["layers"]):
                self._parts[f"layer{number}"] = self._layer(name, settings)
            for number, (kind, dtype, shape) in enumerate(self._tree["tensors"]):
                value = torch.empty([whole_number(size) for size in shape], dtype=DTYPES[dtype])
                learns = value.is_floating_point()
                self._parts[f"tensor{number}"] = nn.Parameter(value, learns) if kind == "parameter" else value
        for line in self._tree["values"]:
            self._nodes.append(self._node(*line))
        result = self._decode(self._tree["output"])
        if not isinstance(result, fx.Node):
            raise ParcelError("the blueprint's output is not a value of its graph")
        self._graph.output(result)
        module = fx.GraphModule(self._parts, self._graph)
        if sum(value.numel() for value in module.state_dict().values()) > WEIGHTS_LIMIT:
            raise ParcelError(f"the blueprint has more than {WEIGHTS_LIMIT} weights")
        ties = {str(name): str(first) for name, first in self._tree["ties"]}
        state = module.state_dict()
        for name, first in ties.items():
            if first in ties or state[name].shape != state[first].shape or state[name].dtype != state[first].dtype:
                raise ParcelError(f"the blueprint ties {name[:40]} to {first[:40]}, which is another")
        self._freeze(module, ties)
        self._run(module)
        return module, ties

    def _freeze(self, module: fx.GraphModule, ties: dict[str, str]) -> None:
        """Let every parameter learn but those that the blueprint names. Raises ParcelError."""
        if self._tree.get("frozen") == []:
            raise ParcelError("the blueprint has an empty part 'frozen': leave it out where every weight learns")
        floats = {name: value for name, value in module.named_parameters() if value.is_floating_point()}
        learning = {name: value.requires_grad_() for name, value in floats.items() if name not in ties}
        for name in self._tree.get("frozen", ()):
            if not isinstance(name, str) or name not in learning:
                raise ParcelError(f"the blueprint freezes {str(name)[:40]}, which is no weight that learns, or is named twice")
            learning.pop(name).requires_grad_(False)

    def _run(self, module: fx.GraphModule) -> None:
        """Run the graph on shapes, at every batch size and in both modes."""
        dtype, shape = self._tree["input"]
        for batch in TRAINED_BATCHES:
            for training in (True, False):
                run_shapes(module.train(training), [batch, *map(whole_number, shape)], DTYPES[dtype])

    def _layer(self, name: str, settings: dict[str, Any]) -> nn.Module:
        cls = layer_class(name)
        if cls is None:
            raise ParcelError(f"layers called {str(name)[:40]!r} are not known here: pfedhr.register allows one of your own")
        decoded = {key: self._plain(value) for key, value in settings.items()}
        if decoded.get("num_layers", 1) > LAYERS_LIMIT:
            raise ParcelError(f"a recurrent layer stacks more than {LAYERS_LIMIT} layers")
        layer = cls(**decoded)
        self._held += len(layer.state_dict())
        if self._held > COUNT_LIMIT:  # a recurrent layer has up to ten for every layer that it stacks
            raise ParcelError(f"the layers of the blueprint hold more than {COUNT_LIMIT} tensors")
        return layer

    def _plain(self, value: Any) -> Any:
        decoded = self._decode(value)
        if isinstance(decoded, fx.Node):
            raise ParcelError("a setting of a layer is a value of the graph")
        return decoded

    def _node(self, kind: str, target: Any, args: Any, kwargs: Any) -> fx.Node:
        arguments = self._decode(args), {name: self._decode(value) for name, value in kwargs.items()}
        if not isinstance(arguments[0], tuple) or not all(name.isidentifier() for name in kwargs):
            raise ParcelError("the arguments of an operation are not a tuple and names")
        if kind == "layer" and type(target) is int and 0 <= target < len(self._tree["layers"]):
            return self._graph.call_module(f"layer{target}", *arguments)
        if kind == "method" and target in METHODS and isinstance(next(iter(arguments[0]), None), fx.Node):
            return self._graph.call_method(target, *arguments)
        if kind == "function" and target in FUNCTIONS:
            if target == "getattr" and (len(arguments[0]) != 2 or arguments[0][1] not in ATTRIBUTES):
                raise ParcelError("the blueprint reads an attribute that is not one of a tensor's")
            return self._graph.call_function(FUNCTIONS[target], *arguments)
        raise ParcelError(f"the blueprint has an operation that is not allowed: {str(kind)[:20]} {str(target)[:40]}")

    def _decode(self, value: Any) -> Any:
        match value:
            case None | bool() | float():
                return value
            case int():
                return whole_number(value, signed=True)
            case str() if value in STRINGS | ATTRIBUTES or EQUATION.fullmatch(value):
                return value
            case list():
                return [self._decode(item) for item in value]
            case dict() if len(value) == 1:
                return self._decode_object(*next(iter(value.items())))
            case _:
                raise ParcelError(f"the blueprint holds an argument that is not allowed: {str(value)[:40]}")

    def _decode_object(self, key: str, content: Any) -> Any:
        match key, content:
            case "value", int() if 0 <= content < len(self._nodes):
                return self._nodes[content]
            case "tensor", int() if 0 <= content < len(self._tree["tensors"]):
                return self._graph.get_attr(f"tensor{content}")
            case "mode", True:
                return self._mode
            case "tuple", list():
                return tuple(self._decode(item) for item in content)
            case "slice", [start, stop, step]:
                return slice(*(self._decode(item) for item in (start, stop, step)))
            case "dtype", str() if content in DTYPES:
                return DTYPES[content]
            case "float", "inf" | "-inf" | "nan":
                return float(content)
            case "device", True:  # where the inputs are
                return self._graph.call_function(getattr, (self._nodes[0], "device"))
            case "ellipsis", True:
                return ...
            case _:
                raise ParcelError(f"the blueprint holds an argument that is not allowed: {str(key)[:20]} {str(content)[:40]}")
