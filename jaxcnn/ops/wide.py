"""Per-channel arithmetic in at least float32, so that sums over pixels do not lose precision."""

import jax

from jaxcnn.ops.check import at_least_float32


def over_channels(vector: jax.Array, x: jax.Array) -> jax.Array:
    """Reshapes a vector to broadcast over the last axes of an array, in its dtype.

    Args:
      vector: the shape of the last axes of `x`.
      x: any array of at least as many axes.

    Returns:
      `vector` in the dtype of `x`, with leading axes of length one.
    """
    return vector.astype(x.dtype).reshape((1,) * (x.ndim - vector.ndim) + vector.shape)


def add_bias(x: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Adds a number to each channel.

    Computed in at least float32: the gradient of the bias is a sum over all pixels of all images, which would be wrong
    by half in bfloat16 after a few thousand terms.

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
