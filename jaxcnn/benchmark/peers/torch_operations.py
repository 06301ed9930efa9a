"""Operations between layers in PyTorch: JAX's primitives for batches in torch's layout.

An array of three axes (height, width, channels) is a tensor (batch, channels, height, width) in channels_last; others
have the batch as an additional first axis. Elementwise operations do not depend on the order of axes. The others are
applied to views with the channels last: in channels_last, the permutations move no data.
"""

# Pyright also checks this file without the peer.
# pyright: reportMissingImports=false

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jax.extend import core
from torch.fx import Graph

from jaxcnn.benchmark.peers.plan import ELEMENTWISE, refuse_operation
from jaxcnn.types import Shape


def add_operation(graph: Graph, equation: core.JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """Adds an operation to a graph.

    Args:
      graph: the graph.
      equation: the operation of one image, as traced by JAX.
      operands: nodes of the graph; elementwise operations also take numbers.

    Returns:
      The nodes of the results.

    Raises:
      Untranslatable: there is no counterpart.
    """
    name = equation.primitive.name
    ranks = [len(shape_of(variable)) for variable in equation.invars]
    if name in ELEMENTWISE:
        if name not in _ELEMENTWISE or (name in _FRACTIONS and not _is_floating(equation.outvars[0])):
            raise refuse_operation("torch", equation)
        aligned = [_aligned(graph, one, rank, max(ranks)) for one, rank in zip(operands, ranks, strict=True)]
        options = _OPTIONS[name](equation.params) if name in _OPTIONS else ()
        return [graph.call_function(_ELEMENTWISE[name], (*aligned, *options))]
    if name not in _STRUCTURAL:
        raise refuse_operation("torch", equation)
    function, arguments = _STRUCTURAL[name](equation)
    views = [_permuted(graph, one, rank, (0, 2, 3, 1)) for one, rank in zip(operands, ranks, strict=True)]
    result = graph.call_function(function, (tuple(views) if name == "concatenate" else views[0], *_plain(arguments)))
    results = [result]
    if equation.primitive.multiple_results:
        results = [graph.call_function(operator.getitem, (result, i)) for i in range(len(equation.outvars))]
    return [
        _permuted(graph, one, len(shape_of(variable)), (0, 3, 1, 2))
        for one, variable in zip(results, equation.outvars, strict=True)
    ]


def shape_of(variable: Any) -> Shape:
    """Returns the shape of a variable or literal of a traced program."""
    return variable.aval.shape


def _plain(value: Any) -> Any:
    """Turns numbers of NumPy into numbers of Python, which the code of a graph can hold."""
    if isinstance(value, slice):
        return slice(*_plain((value.start, value.stop, value.step)))
    if isinstance(value, tuple | list):
        return type(value)(_plain(one) for one in value)
    return value.item() if isinstance(value, np.generic) else value


def _is_floating(variable: Any) -> bool:
    return np.issubdtype(variable.aval.dtype, np.floating) or variable.aval.dtype.name == "bfloat16"


def _permuted(graph: Graph, node: Any, rank: int, order: tuple[int, ...]) -> Any:
    return graph.call_method("permute", (node, *order)) if rank == 3 else node


def _aligned(graph: Graph, operand: Any, rank: int, largest: int) -> Any:
    """Gives one number for each image as many axes as the images have."""
    scalars = not isinstance(operand, float | int | bool) and rank < largest
    return graph.call_method("reshape", (operand, -1, *(1 for _ in range(largest)))) if scalars else operand


def _max(x: Any, y: Any) -> torch.Tensor:
    if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
        return torch.maximum(x, y)
    return x.clamp(min=y) if isinstance(x, torch.Tensor) else y.clamp(min=x)


def _min(x: Any, y: Any) -> torch.Tensor:
    if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
        return torch.minimum(x, y)
    return x.clamp(max=y) if isinstance(x, torch.Tensor) else y.clamp(max=x)


def _clamp(low: Any, x: torch.Tensor, high: Any) -> torch.Tensor:
    return _min(_max(x, low), high)


def _select(which: torch.Tensor, if_false: Any, if_true: Any) -> torch.Tensor:
    return torch.where(which, if_true, if_false)


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


def _broadcast(x: torch.Tensor, shape: Shape, axes: Sequence[int]) -> torch.Tensor:
    sizes = [x.shape[0]] + [1] * len(shape)
    for axis, size in zip(axes, x.shape[1:], strict=True):
        sizes[axis + 1] = size
    return x.reshape(sizes).expand(-1, *shape)


def _reshape(x: torch.Tensor, shape: Shape) -> torch.Tensor:
    return x.reshape(x.shape[0], *shape)


def _concatenate(parts: Sequence[torch.Tensor], axis: int) -> torch.Tensor:
    # A constant has a batch of one.
    batch = max(part.shape[0] for part in parts)
    return torch.cat([part if part.shape[0] == batch else part.expand(batch, *part.shape[1:]) for part in parts], axis)


def _padding(equation: core.JaxprEqn) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    sides, value = equation.params["padding_config"], equation.invars[1]
    if any(between for *_, between in sides) or not isinstance(value, core.Literal):
        raise refuse_operation("torch", equation)
    flat = [size for low, high, _ in reversed(sides) for size in (low, high)]
    return F.pad, (flat, "constant", np.asarray(value.val).item())


def _slices(equation: core.JaxprEqn) -> tuple[slice, ...]:
    starts, stops, strides = (equation.params[name] for name in ("start_indices", "limit_indices", "strides"))
    steps = strides or (1,) * len(starts)
    return tuple(slice(*bounds) for bounds in zip((0, *starts), (None, *stops), (1, *steps), strict=True))


def _after_batch(axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(axis + 1 for axis in axes)


_OF_PYTHON = ("add", "eq", "ge", "gt", "le", "lt", "mul", "ne", "neg", "pow", "sub")
_OF_TORCH = (
    "abs", "ceil", "cos", "erf", "exp", "expm1", "floor", "log", "log1p", "rsqrt", "sign", "sin", "sqrt", "square",
    "tanh",
)  # fmt: skip
"""Elementwise operations that have the same name there."""

_ELEMENTWISE: Mapping[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in _OF_PYTHON},
    **{name: getattr(torch, name) for name in _OF_TORCH},
    "clamp": _clamp,
    "convert_element_type": torch.Tensor.to,
    "copy": _same,
    "div": operator.truediv,
    "integer_pow": torch.pow,
    "is_finite": torch.isfinite,
    "logistic": torch.sigmoid,
    "max": _max,
    "min": _min,
    "select_n": _select,
    "stop_gradient": torch.Tensor.detach,
}

_FRACTIONS = frozenset({"div", "integer_pow", "pow"})
"""Operations that differ for integers."""

_OPTIONS: Mapping[str, Callable[[Mapping[str, Any]], tuple[Any, ...]]] = {
    "convert_element_type": lambda options: (getattr(torch, np.dtype(options["new_dtype"]).name),),
    "integer_pow": lambda options: (options["y"],),
}

_STRUCTURAL: Mapping[str, Callable[[Any], tuple[Callable[..., Any], tuple[Any, ...]]]] = {
    "broadcast_in_dim": lambda one: (_broadcast, (one.params["shape"], one.params["broadcast_dimensions"])),
    "concatenate": lambda one: (_concatenate, (one.params["dimension"] + 1,)),
    "pad": _padding,
    "reduce_max": lambda one: (torch.amax, (_after_batch(one.params["axes"]),)),
    "reduce_min": lambda one: (torch.amin, (_after_batch(one.params["axes"]),)),
    "reduce_sum": lambda one: (torch.sum, (_after_batch(one.params["axes"]),)),
    "reshape": lambda one: (_reshape, (one.params["new_sizes"],)),
    "rev": lambda one: (torch.flip, (_after_batch(one.params["dimensions"]),)),
    "slice": lambda one: (operator.getitem, (_slices(one),)),
    "split": lambda one: (torch.split, (list(one.params["sizes"]), one.params["axis"] + 1)),
    "squeeze": lambda one: (_reshape, (shape_of(one.outvars[0]),)),
    "transpose": lambda one: (torch.permute, ((0, *_after_batch(one.params["permutation"])),)),
}
"""Functions of the equation that return a function of tensors with the channels last, and its other arguments."""
