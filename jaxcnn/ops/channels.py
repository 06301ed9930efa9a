"""Channels of one image: a part of them, another order, and their exchange with pixels."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.check import is_int


def channel_slice(x: jax.Array, start: int, stop: int) -> jax.Array:
    """Takes the channels from one number to another.

    Args:
      x: shape (..., channels).
      start: the first channel taken, counted from 0.
      stop: the first one behind them, at most `channels`.

    Returns:
      Shape (..., stop - start), dtype of `x`.

    Raises:
      ValueError: there are no such channels, or none is taken.
    """
    channels = _channels("channel_slice", x)
    if not (is_int(start) and is_int(stop) and 0 <= start < stop <= channels):
        raise ValueError(
            f"channel_slice expects ints with 0 <= start < stop <= {channels}, the number of channels, "
            f"got start={start!r} and stop={stop!r}"
        )
    return x[..., start:stop]


def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Deals the channels of each group out over the whole (Zhang et al. 2018, "ShuffleNet", section 3.1).

    With 2 groups of 3 channels, the order is 0, 3, 1, 4, 2, 5: behind it, each group holds channels of all.

    Args:
      x: shape (..., channels).
      groups: number of groups, which divides the channels.

    Returns:
      Same shape and dtype as `x`: output channel i * groups + g is input channel g * (channels / groups) + i.

    Raises:
      ValueError: the groups do not divide the channels.
    """
    channels = _channels("channel_shuffle", x)
    if not is_int(groups) or groups < 1 or channels % groups:
        raise ValueError(f"channel_shuffle expects a number of groups that divides {channels} channels, got {groups!r}")
    grouped = x.reshape(*x.shape[:-1], groups, channels // groups)
    return jnp.swapaxes(grouped, -1, -2).reshape(x.shape)


def pixel_shuffle(x: jax.Array, factor: int) -> jax.Array:
    """Spreads groups of channels out over squares of pixels (Shi et al. 2016, "sub-pixel convolution", equation 4).

    The channels of an output pixel lie apart, in torch's order (and ONNX's "CRD"): those of TensorFlow's
    `depth_to_space` lie together.

    Args:
      x: image, shape (height, width, channels), of any dtype.
      factor: side of the squares, in pixels; its square divides the channels.

    Returns:
      Shape (height * factor, width * factor, channels / factor**2), dtype of `x`: pixel (i, j) of a square holds, as
      channel c, input channel c * factor**2 + i * factor + j.

    Raises:
      ValueError: `x` is not one image, or the factor does not fit its channels.
    """
    height, width, channels = _image_shape("pixel_shuffle", x)
    if not is_int(factor) or factor < 1 or channels % factor**2:
        raise ValueError(
            f"pixel_shuffle expects a factor of at least 1 whose square divides {channels} channels, got {factor!r}"
        )
    split = x.reshape(height, width, channels // factor**2, factor, factor)
    # One axis after the other: a reshape that merges two pairs at once is refused where a batch is sharded explicitly.
    return lax.collapse(lax.collapse(split.transpose(0, 3, 1, 4, 2), 2, 4), 0, 2)


def pixel_unshuffle(x: jax.Array, factor: int) -> jax.Array:
    """Gathers squares of pixels into channels: the inverse of `pixel_shuffle`.

    Args:
      x: image, shape (height, width, channels), of any dtype.
      factor: side of the squares, in pixels; it divides the height and the width.

    Returns:
      Shape (height / factor, width / factor, channels * factor**2), dtype of `x`.

    Raises:
      ValueError: `x` is not one image, or the factor does not divide its size.
    """
    height, width, channels = _image_shape("pixel_unshuffle", x)
    if not is_int(factor) or factor < 1 or height % factor or width % factor:
        raise ValueError(
            f"pixel_unshuffle expects a factor of at least 1 that divides {height}x{width} pixels, got {factor!r}"
        )
    rows = x.reshape(height // factor, factor, width, channels)
    split = rows.reshape(height // factor, factor, width // factor, factor, channels)
    return lax.collapse(split.transpose(0, 2, 4, 1, 3), 2, 5)


def _image_shape(op: str, x: jax.Array) -> tuple[int, int, int]:
    if x.ndim != 3 or 0 in x.shape:
        advice = "; map it over a batch with jaxcnn.batched or jax.vmap" if x.ndim == 4 else ""
        raise ValueError(f"{op} expects one image of shape (height, width, channels), got {x.shape}{advice}")
    return x.shape[0], x.shape[1], x.shape[2]


def _channels(op: str, x: jax.Array) -> int:
    if x.ndim < 1 or not x.shape[-1]:
        raise ValueError(f"{op} expects channels on the last axis, got shape {x.shape}")
    return x.shape[-1]
