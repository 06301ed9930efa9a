"""Reductions over sliding windows of one image.

The maximum is a chain of comparisons, along the rows and then along the columns of the window, instead of XLA's
reduce-window. Its gradient is then a chain of selections: it goes to the first maximum under every transformation,
needs no select-and-scatter (which XLA refuses to compile for GPUs under its deterministic-ops flag), and is faster on
CPU.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.check import Sides


def window_max(
    x: jax.Array,
    window_shape: tuple[int, int],
    strides: tuple[int, int],
    padding: Sides,
    output_shape: tuple[int, int],
) -> jax.Array:
    """Takes the largest value of each window and channel; NaN if there is one.

    The gradient goes to the first maximum in row-major order.

    Args:
      x: shape (height, width, channels), floating point.
      window_shape: (height, width) of the window.
      strides: step of the window.
      padding: pixels of -inf on each side.
      output_shape: number of windows, (vertical, horizontal).

    Returns:
      Shape (*output_shape, channels).
    """
    x = jnp.pad(x, (*padding, (0, 0)), constant_values=-jnp.inf)
    for axis in (1, 0):
        best, *others = _cut(x, axis, window_shape, strides, output_shape)
        for value in others:
            best = jnp.where(_wins(value, best), value, best)
        x = best
    return x


def window_argmax(
    x: jax.Array,
    places: jax.Array,
    window_shape: tuple[int, int],
    strides: tuple[int, int],
    padding: Sides,
    output_shape: tuple[int, int],
) -> tuple[jax.Array, jax.Array]:
    """Takes the largest value of each window and channel, and the place of the first one in row-major order.

    Args:
      x: shape (height, width, channels), floating point.
      places: shape (height, width, channels), integers of at least 0: what to call each place.
      window_shape: (height, width) of the window.
      strides: step of the window.
      padding: pixels of -inf on each side; they have no place.
      output_shape: number of windows, (vertical, horizontal).

    Returns:
      The maxima and their places, both of shape (*output_shape, channels).
    """
    x = jnp.pad(x, (*padding, (0, 0)), constant_values=-jnp.inf)
    places = jnp.pad(places, (*padding, (0, 0)), constant_values=-1)
    for axis in (1, 0):
        best, *others = _cut(x, axis, window_shape, strides, output_shape)
        where, *other_places = _cut(places, axis, window_shape, strides, output_shape)
        for value, place in zip(others, other_places, strict=True):
            # A window that holds only -inf still finds its first pixel inside the image.
            wins = _wins(value, best) | ((where < 0) & (place >= 0))
            best, where = jnp.where(wins, value, best), jnp.where(wins, place, where)
        x, places = best, where
    return x, places


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


def _wins(value: jax.Array, best: jax.Array) -> jax.Array:
    return (value > best) | jnp.isnan(value)


def _cut(
    x: jax.Array,
    axis: int,
    window_shape: tuple[int, int],
    strides: tuple[int, int],
    output_shape: tuple[int, int],
) -> list[jax.Array]:
    """Cuts out, for each place of the window along an axis, the pixels that fall on it."""
    reach = (output_shape[axis] - 1) * strides[axis] + 1
    return [lax.slice_in_dim(x, i, i + reach, strides[axis], axis) for i in range(window_shape[axis])]
