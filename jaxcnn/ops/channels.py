"""Slices and shuffles the channels of one image, and moves data between channels and pixels."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.check import check_array, is_int


def channel_slice(x: jax.Array, start: int, stop: int) -> jax.Array:
    """Returns the channels from `start` to `stop`.

    Args:
      x: shape (..., channels).
      start: index of the first channel.
      stop: index after the last channel, at most `channels`.

    Returns:
      Shape (..., stop - start), dtype of `x`.

    Raises:
      ValueError: `x` does not have these channels, or the slice is empty.
    """
    channels = _channels("channel_slice", x)
    if not (is_int(start) and is_int(stop) and 0 <= start < stop <= channels):
        raise ValueError(
            f"channel_slice expects ints with 0 <= start < stop <= {channels}, the number of channels, "
            f"got start={start!r} and stop={stop!r}"
        )
    return x[..., start:stop]


def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Interleaves the channels of the groups (Zhang et al. 2018, "ShuffleNet", section 3.1).

    With 2 groups of 3 channels, the order is 0, 3, 1, 4, 2, 5: each group of the result has channels of every group of
    `x`.

    Args:
      x: shape (..., channels).
      groups: number of groups; it divides the number of channels.

    Returns:
      Same shape and dtype as `x`: output channel i * groups + g is input channel g * (channels / groups) + i.

    Raises:
      ValueError: the number of groups does not divide the number of channels.
    """
    channels = _channels("channel_shuffle", x)
    if not is_int(groups) or groups < 1 or channels % groups:
        raise ValueError(f"channel_shuffle expects a number of groups that divides {channels} channels, got {groups!r}")
    grouped = x.reshape(*x.shape[:-1], groups, channels // groups)
    return jnp.swapaxes(grouped, -1, -2).reshape(x.shape)


def pixel_shuffle(x: jax.Array, factor: int) -> jax.Array:
    """Moves groups of channels into squares of pixels (Shi et al. 2016, "sub-pixel convolution", equation 4).

    The order of channels is torch's (ONNX's "CRD"), not that of TensorFlow's `depth_to_space`.

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
    # One axis after the other: JAX refuses a reshape that merges two pairs of axes if a batch is explicitly sharded.
    return lax.collapse(lax.collapse(split.transpose(0, 3, 1, 4, 2), 2, 4), 0, 2)


def pixel_unshuffle(x: jax.Array, factor: int) -> jax.Array:
    """Moves squares of pixels into channels: the inverse of `pixel_shuffle`.

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
    check_array(op, x)
    if x.ndim != 3 or 0 in x.shape:
        advice = "; map it over a batch with jaxcnn.batched or jax.vmap" if x.ndim == 4 else ""
        raise ValueError(f"{op} expects one image of shape (height, width, channels), got {x.shape}{advice}")
    return x.shape[0], x.shape[1], x.shape[2]


def _channels(op: str, x: jax.Array) -> int:
    check_array(op, x)
    if x.ndim < 1 or not x.shape[-1]:
        raise ValueError(f"{op} expects channels on the last axis, got shape {x.shape}")
    return x.shape[-1]
