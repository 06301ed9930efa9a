"""Functions that the translations share."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import ops
from jaxcnn.benchmark.program import Untranslatable
from jaxcnn.layers import AvgPool, Conv, Function, LayerNorm, MaxPool, Resize, identity, output_shape
from jaxcnn.ops.check import Sides, as_adaptive_size, as_pair
from jaxcnn.types import Layer, Shape

Pair = tuple[int, int]


def refuse(peer: str, layer: Layer, reason: str = "it has no translation") -> Untranslatable:
    """Makes the error for a layer that has no translation to a peer.

    Args:
      peer: name of the peer.
      layer: the layer.
      reason: the reason.

    Returns:
      The error, to be raised.
    """
    return Untranslatable(
        f"{peer} has no counterpart of {layer!r}: {reason}; "
        f"register one with jaxcnn.benchmark.peers.to_{peer}.translate.register"
    )


def pair(size: Any) -> Pair:
    """Returns a size, which a layer has checked, as (height, width)."""
    return as_pair("size", size, minimum=0)


def conv_sides(layer: Conv, shape: Shape) -> Sides:
    """Returns the padding of a convolution in pixels: ((top, bottom), (left, right)).

    Args:
      layer: the convolution.
      shape: (height, width, channels) of its input.

    Returns:
      The padding.
    """
    size = (shape[0], shape[1])
    return ops.padding_sides(size, pair(layer.kernel_size), pair(layer.strides), layer.padding, pair(layer.dilation))


def declared_sides(layer: MaxPool | AvgPool, shape: Shape) -> tuple[Pair, Pair, Sides]:
    """Returns window, strides and declared padding of a pooling layer.

    Args:
      layer: the pooling layer.
      shape: (height, width, channels) of its input.

    Returns:
      (height, width) of the window, its strides, and ((top, bottom), (left, right)).
    """
    window = pair(layer.window_shape)
    strides = window if layer.strides is None else pair(layer.strides)
    return window, strides, ops.padding_sides((shape[0], shape[1]), window, strides, layer.padding, taps_apart(layer))


def taps_apart(layer: MaxPool | AvgPool) -> Pair:
    """Returns the dilation of a pooling layer.

    Args:
      layer: the pooling layer.

    Returns:
      (vertical, horizontal), in pixels.
    """
    return pair(layer.dilation) if isinstance(layer, MaxPool) else (1, 1)


def undilated_window(peer: str, layer: MaxPool, shape: Shape) -> tuple[Pair, Pair, Sides]:
    """Returns window, strides and padding, including that of ceil mode, of a max pooling without dilation.

    Args:
      peer: name of the peer, for the message.
      layer: the pooling layer.
      shape: (height, width, channels) of its input.

    Returns:
      As `window_sides`.

    Raises:
      Untranslatable: the window is dilated.
    """
    if taps_apart(layer) != (1, 1):
        raise refuse(peer, layer, "its max pooling has no dilation")
    return window_sides(layer, shape)


def window_sides(layer: MaxPool | AvgPool, shape: Shape) -> tuple[Pair, Pair, Sides]:
    """Returns window, strides and padding of a pooling layer, including ceil mode's at the bottom and right.

    Args:
      layer: the pooling layer.
      shape: (height, width, channels) of its input.

    Returns:
      As `declared_sides`.
    """
    window, strides, sides = declared_sides(layer, shape)
    output = output_shape(layer, shape)
    vertical, horizontal = (
        (before, max(after, (n_out - 1) * s + d * (k - 1) + 1 - n - before))
        for n, n_out, s, k, d, (before, after) in zip(
            shape, output, strides, window, taps_apart(layer), sides, strict=False
        )
    )
    return window, strides, (vertical, horizontal)


def plain_average(peer: str, layer: AvgPool, shape: Shape) -> tuple[Pair, Pair, Sides]:
    """Returns window, strides and padding of an average pooling whose every mean divides by the whole window.

    Args:
      peer: name of the peer, for the message.
      layer: the pooling layer.
      shape: (height, width, channels) of its input.

    Returns:
      As `declared_sides`.

    Raises:
      Untranslatable: some windows count fewer pixels.
    """
    window, strides, sides = declared_sides(layer, shape)
    hangs_over = window_sides(layer, shape)[2] != sides
    leaves_out = not layer.count_include_pad and any(max(side) for side in sides)
    if hangs_over or leaves_out:
        raise refuse(peer, layer, "its windows at the border count fewer pixels")
    return window, strides, sides


def equal_windows(peer: str, layer: Any, shape: Shape) -> Pair:
    """Returns the window of an adaptive pooling whose windows are all equal.

    Args:
      peer: name of the peer, for the message.
      layer: the pooling layer.
      shape: (height, width, channels) of its input.

    Returns:
      (height, width) of the window.

    Raises:
      Untranslatable: the output size does not divide the image.
    """
    output = as_adaptive_size(layer.output_shape, (shape[0], shape[1]))
    if shape[0] % output[0] or shape[1] % output[1]:
        raise refuse(peer, layer, f"its windows on an image of {shape[0]}x{shape[1]} pixels are not all equal")
    return shape[0] // output[0], shape[1] // output[1]


def channels_of(peer: str, layer: LayerNorm) -> int:
    """Returns the channels that a layer norm normalises each pixel over.

    Args:
      peer: name of the peer, for the message.
      layer: the norm.

    Returns:
      The size of the last axis.

    Raises:
      Untranslatable: the layer normalises over several axes, whose order differs in the peer.
    """
    if isinstance(layer.channels, tuple):
        raise refuse(peer, layer, "it normalises over several axes")
    return layer.channels


def pointwise(peer: str, layer: Function, counterparts: Mapping[Any, Callable[..., Any]]) -> Any:
    """Returns a peer's counterpart of a function without parameters.

    Args:
      peer: name of the peer, for the message.
      layer: the function.
      counterparts: functions of the options that return the counterpart, by function of the layer.

    Returns:
      The counterpart for the layer's options.

    Raises:
      Untranslatable: there is no counterpart.
    """
    if layer.function not in counterparts:
        raise refuse(peer, layer)
    try:
        return counterparts[layer.function](**dict(layer.options))
    except TypeError as error:
        raise refuse(peer, layer, "its options have no translation") from error


_JAX_METHODS = {"nearest": "nearest", "nearest-exact": "nearest", "bilinear": "linear", "bicubic": "cubic"}


def jax_resize(peer: str, layer: Resize, shape: Shape) -> Callable[[jax.Array], jax.Array]:
    """Returns `jax.image.resize`, where it computes the same as a layer: this is tried on an image.

    Args:
      peer: name of the peer, for the message.
      layer: the resize.
      shape: (height, width, channels) of its input.

    Returns:
      A function of an array whose axes 1 and 2 are height and width.

    Raises:
      Untranslatable: the results differ, or there is no such method.
    """
    if layer.method not in _JAX_METHODS:
        raise refuse(peer, layer, f"jax.image.resize has no method {layer.method!r}")
    resize = partial(resized, size=output_shape(layer, shape)[:2], method=layer.method, antialias=layer.antialias)
    image = jnp.asarray(np.random.default_rng(0).standard_normal((*shape[:2], 1), np.float32))
    ours, _ = layer.apply({}, {}, image, train=False)
    if not np.allclose(resize(image[None])[0], ours, atol=1e-4):
        raise refuse(peer, layer, f"jax.image.resize gives other pixels on an image of {shape[0]}x{shape[1]}")
    return resize


def resized(x: jax.Array, size: Pair, method: str, antialias: bool) -> jax.Array:
    """Calls `jax.image.resize`.

    Args:
      x: an array whose axes 1 and 2 are height and width.
      size: (height, width) of the result.
      method: a method of `jaxcnn.ops.resize`.
      antialias: whether to widen the filter when shrinking.

    Returns:
      The resized array.
    """
    return jax.image.resize(x, (x.shape[0], *size, *x.shape[3:]), _JAX_METHODS[method], antialias)


IDENTITY = identity.function
