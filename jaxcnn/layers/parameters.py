"""Draws and checks the parameters of layers."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from jaxcnn.layers.drawing import draw, split_key
from jaxcnn.ops.check import check_array, is_int
from jaxcnn.types import Params, Shape


class _Affine(Protocol):
    @property
    def kernel_shape(self) -> Shape: ...
    @property
    def use_bias(self) -> bool: ...
    @property
    def kernel_init(self) -> Callable[..., jax.Array]: ...
    @property
    def bias_init(self) -> Callable[..., jax.Array]: ...


def init_kernel_and_bias(layer: _Affine, key: jax.Array) -> Params:
    """Draws the parameters of a convolution or a dense layer, in float32.

    Args:
      layer: has the initializers, the shape of the kernel, whose last axis is the output, and whether there is a bias.
      key: typed random key, consumed.

    Returns:
      `{"kernel": ..., "bias": ...}`, or the kernel alone.
    """
    kernel_key, bias_key = split_key(key, 2)
    params = {"kernel": draw(layer.kernel_init, kernel_key, layer.kernel_shape)}
    if layer.use_bias:
        params["bias"] = draw(layer.bias_init, bias_key, layer.kernel_shape[-1:])
    return params


def affine_shapes(layer: _Affine) -> dict[str, Shape]:
    """Returns the shapes of the parameters of a convolution or a dense layer.

    Args:
      layer: has the shape of the kernel, whose last axis is the output, and whether there is a bias.

    Returns:
      The shape of "kernel" and, if there is one, of "bias".
    """
    shapes = {"kernel": layer.kernel_shape, "bias": layer.kernel_shape[-1:]}
    return shapes if layer.use_bias else {"kernel": shapes["kernel"]}


def check_names(what: str, tree: dict, names: Iterable[str]) -> None:
    """Refuses a tree whose names are not those of a layer.

    Args:
      what: name of the tree for the message, such as "Conv parameters".
      tree: the tree to check.
      names: the expected names.

    Raises:
      ValueError: a name is missing or unknown, or the tree is not a dict.
    """
    names = tuple(names)
    if not isinstance(tree, dict) or set(tree) != set(names):
        got = tuple(tree) if isinstance(tree, dict) else type(tree).__name__
        raise ValueError(f"{what}: expected a dict of the names {names}, got {got}; was it made by this layer's init?")


def check_shapes(what: str, tree: dict, shapes: Mapping[str, Shape]) -> None:
    """Refuses arrays whose names or shapes are not those of a layer.

    Args:
      what: name of the tree for the message, such as "Conv parameters".
      tree: the arrays by name.
      shapes: the expected shapes by name.

    Raises:
      ValueError: a name is missing or unknown, the tree is not a dict, or an array has another shape.
    """
    check_names(what, tree, shapes)
    for name, shape in shapes.items():
        if (got := np.shape(tree[name])) != shape:
            raise ValueError(
                f"{what}: expected {name!r} of shape {shape}, got {got}; was it made by the init of this layer?"
            )


def check_channels(layer: str, in_channels: int, out_channels: int, groups: int = 1) -> None:
    """Refuses invalid numbers of channels or groups.

    Args:
      layer: name of the layer, for the message.
      in_channels: channels of the input.
      out_channels: channels of the output.
      groups: number of channel groups.

    Raises:
      ValueError: a number is not a positive int, or the groups do not divide the channels.
    """
    for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
        check_positive(layer, name, value)
    if in_channels % groups or out_channels % groups:
        raise ValueError(
            f"{layer} expects groups that divide in_channels={in_channels} and out_channels={out_channels}, "
            f"got groups={groups}"
        )


def check_positive(layer: str, name: str, value: int) -> None:
    """Refuses sizes that are not positive ints.

    Args:
      layer: name of the layer, for the message.
      name: name of the size, for the message.
      value: the size.

    Raises:
      ValueError: the size is not a positive int.
    """
    if not is_int(value) or value < 1:
        raise ValueError(f"{layer} expects {name} to be an int of at least 1, got {value!r}")


def check_last_sizes(layer: str, sizes: Shape, x: Any) -> None:
    """Refuses inputs whose last axes do not match a layer.

    Args:
      layer: name of the layer, for the message.
      sizes: expected sizes of the last axes.
      x: the input.

    Raises:
      ValueError: the last axes have other sizes, or there are fewer axes.
      TypeError: the input is not an array.
    """
    check_array(layer, x)
    if x.shape[-len(sizes) :] != sizes:
        expected = f"{sizes[0]} channels on the last axis" if len(sizes) == 1 else f"last axes of {sizes}"
        raise ValueError(f"{layer} expects {expected}, got shape {x.shape}")
