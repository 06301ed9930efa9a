"""Reductions over sliding windows of one image."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.check import Sides


def window_max(x: jax.Array, window_shape: tuple[int, int], strides: tuple[int, int], padding: Sides) -> jax.Array:
    """Takes the largest value of each window and channel.

    The gradient goes to the first maximum in row-major order.

    Args:
      x: shape (height, width, channels), floating point.
      window_shape: (height, width) of the window.
      strides: step of the window.
      padding: pixels of -inf on each side.

    Returns:
      Shape (out_height, out_width, channels).
    """
    return lax.reduce_window(x, -jnp.inf, lax.max, (*window_shape, 1), (*strides, 1), (*padding, (0, 0)))


def window_sum(x: jax.Array, window_shape: tuple[int, int], strides: tuple[int, int], padding: Sides) -> jax.Array:
    """Sums each window and channel.

    Args:
      x: shape (height, width, channels), floating point.
      window_shape: (height, width) of the window.
      strides: step of the window.
      padding: zeros on each side.

    Returns:
      Shape (out_height, out_width, channels).
    """
    return lax.reduce_window(x, 0.0, lax.add, (*window_shape, 1), (*strides, 1), (*padding, (0, 0)))


def window_slices(
    x: jax.Array, window_shape: tuple[int, int], strides: tuple[int, int], output_shape: tuple[int, int]
) -> list[jax.Array]:
    """Cuts out, for each place in the window, the pixels that fall on it.

    Args:
      x: shape (height, width, channels), already padded.
      window_shape: (height, width) of the window.
      strides: step of the window.
      output_shape: number of windows, (vertical, horizontal).

    Returns:
      One array of shape (*output_shape, channels) for each place of the window, in row-major order.
    """
    (rows, columns), (down, across) = output_shape, strides
    return [
        x[top : top + (rows - 1) * down + 1 : down, left : left + (columns - 1) * across + 1 : across]
        for top in range(window_shape[0])
        for left in range(window_shape[1])
    ]
