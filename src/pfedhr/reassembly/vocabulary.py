"""What a blueprint may speak of: layers with their settings, functions and methods of torch, and no other names.

Everything here computes on tensors and numbers alone: nothing reads or writes a file, imports, or calls back.
"""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrize import ParametrizationList

from pfedhr.errors import PfedhrError


class DescriptionError(PfedhrError):
    """A network that no blueprint can describe; the message names the layer or operation and the remedy."""


REMEDIES = (
    "Remedies: compute the same by what is in the vocabulary of blueprints (docs/blueprints.md), or inside a layer of its own "
    "that every node allows by pfedhr.register(...)"
)


class StochasticDepth(nn.Module):
    """Drops a branch for a share `p` of the examples of a batch while training (Huang et al., ECCV 2016)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, branch: Tensor) -> Tensor:
        """Map (batch, ...) to the same shape, some examples zero and the rest scaled up to keep the mean."""
        if not self.training or self.p == 0:
            return branch
        kept = branch.new_empty((len(branch), *[1] * (branch.dim() - 1))).bernoulli_(1 - self.p)
        return branch * (kept.div_(1 - self.p) if self.p < 1 else kept)


_LAYERS = """
Linear Bilinear Identity Flatten Unflatten Embedding EmbeddingBag
Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d
BatchNorm1d BatchNorm2d BatchNorm3d LayerNorm GroupNorm InstanceNorm1d InstanceNorm2d InstanceNorm3d RMSNorm LocalResponseNorm
Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout
ReLU ReLU6 LeakyReLU PReLU RReLU ELU SELU CELU GELU SiLU Mish Hardswish Hardsigmoid Hardtanh Hardshrink Sigmoid Tanh Softplus
Softsign Softshrink Tanhshrink Threshold LogSigmoid Softmax Softmax2d Softmin LogSoftmax GLU
MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d LPPool1d LPPool2d LPPool3d
AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d
ZeroPad1d ZeroPad2d ZeroPad3d ConstantPad1d ConstantPad2d ConstantPad3d CircularPad1d CircularPad2d CircularPad3d
ReflectionPad1d ReflectionPad2d ReflectionPad3d ReplicationPad1d ReplicationPad2d ReplicationPad3d
Upsample UpsamplingBilinear2d UpsamplingNearest2d PixelShuffle PixelUnshuffle ChannelShuffle CosineSimilarity Fold Unfold
RNN LSTM GRU RNNCell LSTMCell GRUCell MultiheadAttention TransformerEncoderLayer TransformerDecoderLayer
"""

LAYERS: dict[str, type[nn.Module]] = {name: getattr(nn, name) for name in _LAYERS.split()}
LAYERS[StochasticDepth.__name__] = StochasticDepth


BAKING = (
    "Remedies: before the run, bake in what computes weights, by parametrize.remove_parametrizations, remove_weight_norm, "
    "remove_spectral_norm or prune.remove of torch.nn.utils"
)

_RECURRENT = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
_SIMILAR = (
    (re.compile(r"torchvision\.ops\.stochastic_depth\.StochasticDepth"), "p"),
    (re.compile(r"(timm\.layers\.drop\.|transformers\.models\..*\.[A-Z]\w*)DropPath"), "drop_prob"),
)
"""Classes of other libraries that are StochasticDepth under another name, with the name of their share."""

registered: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {}
"""Layers that the nodes of a federation share, by the name they agreed on, with the names of their settings."""


def register(cls: type[nn.Module], name: str | None = None) -> type[nn.Module]:
    """Allow blueprints to hold layers of class `cls`, under its own name or `name`; serves as a decorator.

    Every node that rebuilds such a blueprint must have registered a class of that name, for only names travel. An object must
    keep each argument of the constructor as an attribute of the same name, a plain value, and run where tensors have shapes and
    no numbers (torch's meta device). Raises DescriptionError for a name that torch's layers or another class have.
    """
    name = name or cls.__name__
    if name in LAYERS or registered.get(name, (cls, ()))[0] is not cls:
        raise DescriptionError(f"a layer called {name!r} is known already: register {cls.__qualname__} under another name")
    arguments = inspect.signature(cls).parameters.values()
    settings = tuple(one.name for one in arguments if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD))
    registered[name] = (cls, settings)  # nn.Module's own constructor takes whatever there is, and means nothing by it
    return cls


def registered_in(model: nn.Module) -> list[nn.Module]:
    """Return the layers of `model` whose classes are registered: they stay whole."""
    classes = tuple(cls for cls, _ in registered.values())
    return [module for module in model.modules() if isinstance(module, classes)]


def layer_class(name: str) -> type[nn.Module] | None:
    """Return the class of layers that a blueprint calls `name`, if one is allowed."""
    return LAYERS.get(name) or registered.get(name, (None,))[0]


def check_as_made(layer: nn.Module, name: str, settings: dict[str, Any]) -> None:
    """Raise DescriptionError unless a layer made anew from its name and settings in blueprints takes the tensors of `layer`."""
    cls = layer_class(name)
    assert cls is not None
    try:
        with torch.device("meta"):
            made = cls(**settings)
    except Exception as error:  # whatever the constructor of a registered class makes of them
        raise DescriptionError(
            f"no other {name} can be made from its settings: {type(error).__name__}: {error}. Remedy: let its constructor take "
            f"them as the object keeps them, and run on torch's meta device"
        ) from error
    held, new = ({key: (value.shape, value.dtype) for key, value in each.state_dict().items()} for each in (layer, made))
    if different := sorted(key for key in held.keys() | new.keys() if held.get(key) != new.get(key)):
        raise DescriptionError(
            f"a {name} holds {', '.join(different[:5])} otherwise than its constructor makes them, which no blueprint can say. "
            f"{BAKING}, and leave sizes and types as they were made"
        )


def settings_of(layer: nn.Module) -> tuple[str, dict[str, Any]]:
    """Return the name of the layer's class in blueprints, and its constructor's arguments. Raises DescriptionError."""
    cls = type(layer)
    place = f"{cls.__module__}.{cls.__qualname__}"
    if isinstance(layer, ParametrizationList):
        raise DescriptionError(
            f"a weight that is computed from others ({place}) is not one that a blueprint may hold. {BAKING}"
        )
    share = next((share for known, share in _SIMILAR if known.fullmatch(place)), None)
    if share and getattr(layer, "mode", "row") == "row" and getattr(layer, "scale_by_keep", True):
        return "StochasticDepth", {"p": float(getattr(layer, share) or 0.0)}
    for name, (known, settings) in registered.items():
        if cls is known:
            return name, {setting: _kept(layer, setting) for setting in settings}
    if LAYERS.get(cls.__name__) is not cls:
        raise DescriptionError(
            f"{place} is not in the vocabulary of blueprints. Remedies: compute the same by what is, in a forward() that is "
            f"followed, or let every node call pfedhr.register({cls.__name__})"
        )
    if isinstance(layer, nn.RNNBase):
        special = "nonlinearity" if isinstance(layer, nn.RNN) else "proj_size" if isinstance(layer, nn.LSTM) else "bias"
        return cls.__name__, {name: getattr(layer, name) for name in (*_RECURRENT, special)}
    if isinstance(layer, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return cls.__name__, _transformer_settings(layer)
    names = [name for name, one in inspect.signature(cls).parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    settings = {name: _setting(layer, name) for name in names if name not in ("device", "dtype") and not name.startswith("_")}
    return cls.__name__, settings


def _setting(layer: nn.Module, name: str) -> Any:
    if isinstance(layer, nn.MultiheadAttention) and name in ("bias", "add_bias_kv"):
        return getattr(layer, "in_proj_bias" if name == "bias" else "bias_k") is not None
    if name == "bias" and not isinstance(layer, nn.RNNCellBase):
        return _kept(layer, name) is not None
    return _kept(layer, name)


def _kept(layer: nn.Module, name: str) -> Any:
    try:
        return getattr(layer, name)
    except AttributeError as error:
        raise DescriptionError(
            f"a {type(layer).__qualname__} does not keep its constructor's parameter {name!r}, so no blueprint can say how to "
            f"make one. Remedy: let the constructor, or that of a subclass, set self.{name}"
        ) from error


def _transformer_settings(layer: nn.TransformerEncoderLayer | nn.TransformerDecoderLayer) -> dict[str, Any]:
    activations: dict[Any, str] = {functional.relu: "relu", functional.gelu: "gelu"}
    if layer.activation not in activations:
        raise DescriptionError(
            f"a {type(layer).__qualname__} with the activation {layer.activation} is not one that a blueprint may hold. "
            f"Remedy: give 'relu' or 'gelu' by name"
        )
    return {
        "d_model": layer.linear1.in_features,
        "nhead": layer.self_attn.num_heads,
        "dim_feedforward": layer.linear1.out_features,
        "dropout": layer.dropout.p,
        "activation": activations[layer.activation],
        "layer_norm_eps": layer.norm1.eps,
        "batch_first": layer.self_attn.batch_first,
        "norm_first": layer.norm_first,
        "bias": _setting(layer.linear1, "bias"),
    }


_TORCH = """
abs add addcmul addmm amax amin
arange argmax argmin baddbmm bmm broadcast_to cat chunk clamp clip concat conv1d conv2d conv3d cos
cumsum div einsum empty eq erf exp expand_copy eye flatten flip floor floor_divide full full_like gather ge gt index_select
layer_norm le lerp linspace log log1p log_softmax logsumexp lt masked_fill matmul max maximum mean min minimum mm mul ne neg
norm numel ones ones_like outer permute pow prod relu reshape roll round rsqrt sigmoid sign sin softmax split sqrt square
squeeze stack std sub sum swapaxes tanh tensor_split tile transpose tril triu true_divide unbind unflatten unsqueeze var where
zeros zeros_like relu_ sigmoid_ tanh_
"""
_FUNCTIONAL = """
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d alpha_dropout avg_pool1d avg_pool2d avg_pool3d
batch_norm celu conv1d conv2d conv3d conv_transpose1d conv_transpose2d cosine_similarity dropout dropout1d dropout2d dropout3d
elu embedding embedding_bag fold gelu glu group_norm hardsigmoid hardswish hardtanh instance_norm interpolate layer_norm
leaky_relu linear local_response_norm log_softmax logsigmoid max_pool1d max_pool2d max_pool3d mish
multi_head_attention_forward normalize one_hot pad pixel_shuffle pixel_unshuffle prelu relu relu6 rms_norm
scaled_dot_product_attention selu sigmoid silu softmax softplus softsign tanh unfold
"""
_OPERATORS = """
add sub mul truediv floordiv mod neg pos matmul pow iadd isub imul itruediv getitem setitem eq ne lt le gt ge and_ or_ invert
"""

FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{f"operator.{name}": getattr(operator, name) for name in _OPERATORS.split()},
    **{f"functional.{name}": getattr(functional, name) for name in _FUNCTIONAL.split()},
    **{f"torch.{name}": getattr(torch, name) for name in _TORCH.split() if hasattr(torch, name)},
    "getattr": getattr,
}
FUNCTION_NAMES = {function: name for name, function in FUNCTIONS.items()}

_METHODS = """
abs add add_ amax amin argmax bernoulli_ bmm chunk clamp clone contiguous cos cumsum detach div div_ eq exp expand expand_as
fill_ flatten flip float ge gt index_select int le log log_softmax long lt masked_fill masked_fill_ matmul max mean min mm
movedim mul mul_ narrow ne neg new_empty new_full new_ones new_zeros norm numel permute pow prod relu relu_ repeat
repeat_interleave reshape reshape_as roll rsqrt select sigmoid sigmoid_ silu sin size softmax split sqrt squeeze std sub sub_
sum swapaxes t tanh tanh_ to transpose tril triu type_as unbind unflatten unfold unsqueeze unsqueeze_ var view view_as where
zero_
"""
METHODS = frozenset(_METHODS.split())

ATTRIBUTES = frozenset(("T", "mT"))

_STRINGS = """
area bicubic bilinear border circular constant floor gelu ij linear max mean nearest nearest-exact none reflect reflection
relu replicate same sum tanh trilinear trunc valid xy zeros
"""
STRINGS = frozenset(_STRINGS.split())

EQUATION = re.compile(r"[a-zA-Z., ]{1,60}(->[a-zA-Z. ]{0,30})?")
"""An equation of einsum."""

DTYPES = {
    name: getattr(torch, name)
    for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
