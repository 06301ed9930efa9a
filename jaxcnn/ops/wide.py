"""Arithmetic in float32 for images of any dtype: what is summed up over pixels, forward or for a gradient, is wide."""

import jax

from jaxcnn.ops.check import at_least_float32


def over_channels(vector: jax.Array, x: jax.Array) -> jax.Array:
    """Brings what belongs to the last axes into the dtype and rank of an array.

    Args:
      vector: the shape of the last axes of `x`.
      x: any array of at least as many axes.

    Returns:
      `vector` in the dtype of `x`, with axes of length one before its own.
    """
    return vector.astype(x.dtype).reshape((1,) * (x.ndim - vector.ndim) + vector.shape)


def add_bias(x: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Adds a number to each channel.

    In at least float32, since the gradient of the bias is a sum over all pixels of all images: in bfloat16 it would be
    off by a half after some thousand terms.

    Args:
      x: shape (..., channels), floating point.
      bias: shape (channels,), or None for zero.

    Returns:
      Shape and dtype of `x`.
    """
    if bias is None:
        return x
    wide = x.astype(at_least_float32(x.dtype))
    return (wide + over_channels(bias, wide)).astype(x.dtype)


def scale_channels(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Multiplies each channel by a number, in at least float32 for the reason that `add_bias` gives.

    Args:
      x: shape (..., channels), floating point.
      scale: shape (channels,).

    Returns:
      Shape and dtype of `x`.
    """
    wide = x.astype(at_least_float32(x.dtype))
    return (wide * over_channels(scale, wide)).astype(x.dtype)
