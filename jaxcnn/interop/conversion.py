"""Converts the arrays of a file to parameters and state and back: by name, each exactly once, with checked shapes."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import trees
from jaxcnn.interop.files.opened import shown, unquoted
from jaxcnn.interop.files.tensor import Tensor
from jaxcnn.interop.records.record import Record
from jaxcnn.layers.flow import structure
from jaxcnn.types import Layer, Params, Shape, State

# The alignment, in bytes, with which XLA on CPU uses memory without a copy.
_ALIGNMENT = 64
# The number of bytes of a leaf that are read at a time.
_PIECE = 2**24


class Target(NamedTuple):
    """The leaf that an array of the source is for.

    Attributes:
      keys: names on the path to the leaf, such as ("stage1", "block0", "conv1", "kernel").
      tree: 0 for a parameter, 1 for state.
      layer: the layer of the leaf.
      shape: shape of the leaf.
      dtype: of the leaf.
      stored: shape of the array in the source.
    """

    keys: tuple[str, ...]
    tree: int
    layer: Layer
    shape: Shape
    dtype: Any
    stored: Shape

    @property
    def floating(self) -> bool:
        """Whether the leaf holds floating-point numbers, of which the precision may change."""
        return is_floating(self.dtype)

    @property
    def path(self) -> str:
        """Path of the layer."""
        return "/".join(self.keys[:-1])


def targets(record: Record, model: Any) -> dict[str, Target]:
    """Lists all leaves of a model by their names in the source.

    Args:
      record: record of the source.
      model: the model.

    Returns:
      The leaves of parameters and state by the name of the array in the source.

    Raises:
      ValueError: the record gives two leaves the same name.
    """
    found: dict[str, Target] = {}
    for tree, leaves in enumerate(structure(model)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(leaves):
            keys = tuple(entry.key for entry in path)
            where = "/".join(keys[:-1])
            layer = model[where] if where else model
            name = record.names(where, layer, keys[-1])
            if name in found:
                raise ValueError(f"expected one array for each leaf, got {name!r} for {keys} and {found[name].keys}")
            stored = record.to_source(where, layer, keys[-1], np.broadcast_to(np.float32(0), leaf.shape)).shape
            found[name] = Target(keys, tree, layer, leaf.shape, leaf.dtype, stored)
    return found


def differences(wanted: Mapping[str, Target], given: Mapping[str, Tensor]) -> Iterator[str]:
    """Lists the differences between the arrays of a file and those of a model.

    Args:
      wanted: leaves of the model, by name.
      given: arrays of the file, by name.

    Yields:
      One line for each array that is missing, left over, or has another shape.
    """
    for name, target in wanted.items():
        if name not in given:
            yield f"missing: {unquoted(name)} {target.stored}, for {'/'.join(target.keys)}"
        elif tuple(given[name].shape) != target.stored:
            shape = tuple(given[name].shape)
            yield f"shape: {unquoted(name)} is {shape}, expected {target.stored} for {'/'.join(target.keys)}"
    yield from (f"left over: {unquoted(name)} {tuple(given[name].shape)}" for name in given if name not in wanted)


def usable(record: Record, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the arrays of a file that the model uses.

    Args:
      record: record of the source.
      tensors: the arrays of the file by name.

    Returns:
      The arrays by the names of the record.

    Raises:
      ValueError: two arrays have the same name in the record.
    """
    found: dict[str, Tensor] = {}
    numbered = record.renumbered(tensors)
    for name, tensor in tensors.items():
        if record.ignores(name):
            continue
        rewritten = record.rewritten(numbered[name])
        if rewritten in found:
            raise ValueError(f"expected each array once, got {shown(rewritten)} twice, once of them as {shown(name)}")
        found[rewritten] = record.without_background(rewritten, tensor)
    return found


def read(
    record: Record,
    model: Any,
    wanted: Mapping[str, Target],
    given: Mapping[str, Tensor],
    *,
    keep_precision: bool = False,
) -> tuple[Params, State]:
    """Reads the arrays of a file into parameters and state, one by one and in pieces.

    Args:
      record: record of the source.
      model: the model.
      wanted: leaves of the model, by name.
      given: arrays with the same names and shapes.
      keep_precision: whether half precision stays.

    Returns:
      Parameters and state in float32, or in the dtypes of the file; float64 arrays stay float64 if JAX has it enabled.
      Leaves that are not floating point keep their own dtype.
    """
    leaves: tuple[dict[tuple[str, ...], jax.Array], ...] = ({}, {})
    for name, target in wanted.items():
        tensor = given[name]
        # With JAX's order and alignment, `device_put` uses the memory directly: nothing is compiled or copied twice.
        leaf = _aligned(target.shape, np.dtype(_dtype(tensor, keep_precision) if target.floating else target.dtype))
        there = record.source_view(target.path, target.layer, target.keys[-1], leaf)
        if there.ndim and len(there) == tensor.shape[0]:
            rows = max(1, _PIECE * len(there) // max(1, leaf.nbytes))
            for start in range(0, len(there), rows):
                piece = there[start : start + rows]
                piece[...] = tensor.rows(start, start + len(piece)).reshape(piece.shape)
        else:
            there[...] = np.asarray(tensor).reshape(there.shape)
        leaves[target.tree][target.keys] = jax.device_put(leaf)
    params, state = (
        jax.tree_util.tree_map_with_path(lambda path, _, found=found: found[tuple(entry.key for entry in path)], like)
        for found, like in zip(leaves, structure(model), strict=True)
    )
    return params, state


def _dtype(tensor: Tensor, keep_precision: bool) -> Any:
    if tensor.dtype == np.float64:
        return np.float64 if jax.config.values["jax_enable_x64"] else np.float32
    return tensor.dtype if keep_precision else np.float32


def _aligned(shape: Shape, dtype: np.dtype) -> np.ndarray:
    """Makes an array with the alignment that JAX needs."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def check(model: Any, params: Params, state: State) -> None:
    """Refuses parameters and state of another model.

    Args:
      model: the model.
      params: the parameters to check.
      state: the state to check.

    Raises:
      ValueError: names, shapes or kinds of numbers do not match the model.
    """
    for what, tree, like in zip(("parameters", "state"), (params, state), structure(model), strict=True):
        got, expected = trees.named_leaves(tree), trees.named_leaves(like)
        wrong = sorted(name for name in got.keys() | expected.keys() if _kind(got, name) != _kind(expected, name))
        if wrong:
            lines = [f"{name}: expected {_kind(expected, name)}, got {_kind(got, name)}" for name in wrong]
            raise ValueError("\n  ".join([f"expected the {what} of the model, got differences:", *lines]))


def is_floating(dtype: Any) -> bool:
    """Tells whether a dtype is floating point, of any precision.

    Args:
      dtype: a dtype of NumPy or JAX.

    Returns:
      Whether it is.
    """
    return jnp.issubdtype(dtype, jnp.floating)


def _kind(leaves: Mapping[str, Any], name: str) -> str:
    """Describes what a file must keep of a leaf: its shape, and its dtype unless that is floating point."""
    if name not in leaves:
        return "none"
    leaf = leaves[name]
    return f"{tuple(leaf.shape)}" if is_floating(leaf.dtype) else f"{tuple(leaf.shape)} of {leaf.dtype}"


def written(record: Record, model: Any, params: Params, state: State) -> dict[str, np.ndarray]:
    """Converts parameters and state to the arrays of the source.

    Args:
      record: record of the source.
      model: the model.
      params: its parameters.
      state: its state.

    Returns:
      The arrays by name, including torch's batch counters and arrays that the source does not use (zero).

    Raises:
      ValueError: parameters or state do not match the model.
      KeyError: the record does not know a layer of the model.
    """
    check(model, params, state)
    arrays: dict[str, np.ndarray] = {}
    for name, target in targets(record, model).items():
        leaf: Any = (params, state)[target.tree]
        for key in target.keys:
            leaf = leaf[key]
        stored = record.to_source(target.path, target.layer, target.keys[-1], np.asarray(leaf))
        arrays[name] = record.with_background(name, np.asarray(stored, order="C"))
    if record.unused is not None:
        arrays |= {name: np.zeros(shape, np.float32) for name, shape in record.unused().items()}
    variances = [name for name in arrays if name.endswith(".running_var")]
    arrays |= {f"{name.removesuffix('running_var')}num_batches_tracked": np.zeros((), np.int64) for name in variances}
    return arrays
