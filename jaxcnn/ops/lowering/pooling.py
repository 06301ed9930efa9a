"""Reductions over sliding windows of one image.

The maximum of a small window is a chain of comparisons, along the columns and then along the rows of the window,
instead of XLA's reduce-window. Its gradient is then a chain of selections: it goes to the first maximum under every
transformation, needs no select-and-scatter (which XLA refuses to compile for GPUs under its deterministic-ops flag),
and is faster on CPU. A chain has an operation for every place of the window. Larger windows are reduced by a fixed
number of operations; for their gradient they are searched for the place of the maximum.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.ops.check import Sides
from jaxcnn.ops.sizes import as_number, is_known, positions

_CHAINED = 5
"""The longest side of a window that is a chain of comparisons."""

_NOWHERE = np.iinfo(np.int32).max
"""The place of padding, after every place of the image."""


def window_max(
    x: jax.Array,
    window_shape: tuple[int, int],
    strides: tuple[int, int],
    padding: Sides,
    output_shape: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> jax.Array:
    """Takes the largest value of each window and channel; NaN if there is one.

    The gradient goes to the first maximum in row-major order; to the last NaN if there is one.

    Args:
      x: shape (height, width, channels), floating point.
      window_shape: (height, width) of the window, in taps.
      strides: step of the window.
      padding: pixels on each side, which never are the maximum. Every window has a tap inside the image.
      output_shape: number of windows, (vertical, horizontal).
      dilation: distance between neighbouring taps.

    Returns:
      Shape (*output_shape, channels).
    """
    if max(window_shape) <= _CHAINED:
        return _chain((x,), window_shape, strides, padding, output_shape, dilation)[0]

    def reduce(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, (*padding, (0, 0)), constant_values=-jnp.inf)
        window, steps, distances = (*window_shape, 1), (*strides, 1), (*dilation, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, window, steps, "VALID", window_dilation=distances)

    return _maximum(x, reduce, lambda x: _search(x, window_shape, strides, padding, dilation))


def window_argmax(
    x: jax.Array,
    window_shape: tuple[int, int],
    strides: tuple[int, int],
    padding: Sides,
    output_shape: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> tuple[jax.Array, jax.Array]:
    """Takes what `window_max` takes, and the place that its gradient goes to.

    Args:
      x: shape (height, width, channels), floating point.
      window_shape: (height, width) of the window, in taps.
      strides: step of the window.
      padding: pixels on each side, which never are the maximum. Every window has a tap inside the image.
      output_shape: number of windows, (vertical, horizontal).
      dilation: distance between neighbouring taps.

    Returns:
      The maxima, and their places as row * width + column, int32: both of shape (*output_shape, channels).
    """
    if max(window_shape) <= _CHAINED:
        maxima, places = _chain((x, _places(x)), window_shape, strides, padding, output_shape, dilation)
        return maxima, places
    places = _search(x, window_shape, strides, padding, dilation)
    return _read(x, places), places


def adaptive_max(x: jax.Array, output_shape: tuple[int, int]) -> jax.Array:
    """Takes the largest value of each channel in the windows of `adaptive_taps`; otherwise as `window_max`.

    Args:
      x: shape (height, width, channels), floating point.
      output_shape: number of windows, (vertical, horizontal).

    Returns:
      Shape (*output_shape, channels).
    """

    def reduce(x: jax.Array) -> jax.Array:
        for axis in (1, 0):
            x = jnp.max(_spread(x, axis, output_shape[axis], -jnp.inf), axis + 1)
        return x

    return _maximum(x, reduce, lambda x: _search_adaptive(x, output_shape))


def adaptive_argmax(x: jax.Array, output_shape: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Takes what `adaptive_max` takes, and the place that its gradient goes to.

    Args:
      x: shape (height, width, channels), floating point.
      output_shape: number of windows, (vertical, horizontal).

    Returns:
      The maxima, and their places as row * width + column, int32: both of shape (*output_shape, channels).
    """
    places = _search_adaptive(x, output_shape)
    return _read(x, places), places


def image_max(x: jax.Array) -> jax.Array:
    """Takes the largest value of each channel; otherwise as `window_max`.

    Args:
      x: shape (height, width, channels), floating point.

    Returns:
      Shape (channels,).
    """

    def search(x: jax.Array) -> jax.Array:
        values, places = lax.stop_gradient(x), _places(x)
        for axis in (1, 0):
            values, places = _reduce(values, places, axis)
        return places[None, None]

    return _maximum(x, lambda x: jnp.max(x, (0, 1), keepdims=True), search)[0, 0]


def adaptive_taps(size: Any, windows: Any) -> tuple[Any, Any]:
    """Lists the pixels of adaptive windows along one axis.

    Args:
      size: pixels along the axis.
      windows: number of windows.

    Returns:
      The pixels of each window, integers of shape (windows, widest window), and which of them belong to it, bool: NumPy
      arrays where the sizes are known.
    """
    window, pixels, number = positions(windows), as_number(size), as_number(windows)
    first, end = window * pixels // number, -(-(window + 1) * pixels // number)
    # No window is wider; where the sizes are known, what all windows leave out is cut off.
    place = first[:, None] + positions((size - 1) // windows + 2)[None, :]
    inside = place < end[:, None]
    if is_known((size, windows)):
        widest = np.max(end - first)
        place, inside = place[:, :widest], inside[:, :widest]
    return place.clip(0, pixels - 1), inside


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


def _chain(
    operands: tuple[jax.Array, ...],
    window_shape: tuple[int, int],
    strides: tuple[int, int],
    padding: Sides,
    output_shape: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[jax.Array, ...]:
    """Compares the taps of each window one after the other by the first operand; the others follow it."""
    fill = (-jnp.inf, *(0 for _ in operands[1:]))
    best = tuple(jnp.pad(x, (*padding, (0, 0)), constant_values=value) for x, value in zip(operands, fill, strict=True))
    for axis in (1, 0):
        taps = zip(
            *(_cut(x, axis, window_shape, strides, output_shape, dilation) for x in best),
            strict=True,
        )
        best = next(taps)
        for tap, others in enumerate(taps):
            wins = (others[0] > best[0]) | jnp.isnan(others[0])
            # A window that holds only -inf still finds its first pixel inside the image.
            before, reached = padding[axis][0], tap * dilation[axis]
            if not is_known((before,)) or reached < before:
                outside = positions(output_shape[axis]) * strides[axis] + reached < as_number(before)
                wins |= jnp.expand_dims(jnp.asarray(outside), (1 - axis, 2))
            best = tuple(jnp.where(wins, other, x) for other, x in zip(others, best, strict=True))
    return best


def _cut(
    x: jax.Array,
    axis: int,
    window_shape: tuple[int, int],
    strides: tuple[int, int],
    output_shape: tuple[int, int],
    dilation: tuple[int, int],
) -> list[jax.Array]:
    """Cuts out, for each tap of the window along an axis, the pixels that fall on it."""
    reach = (output_shape[axis] - 1) * strides[axis] + 1
    starts = range(0, window_shape[axis] * dilation[axis], dilation[axis])
    return [lax.slice_in_dim(x, start, start + reach, strides[axis], axis) for start in starts]


def _search(
    x: jax.Array,
    window_shape: tuple[int, int],
    strides: tuple[int, int],
    padding: Sides,
    dilation: tuple[int, int],
) -> jax.Array:
    """Finds the place of the maximum of each window: shape (out_height, out_width, channels)."""
    values = jnp.pad(lax.stop_gradient(x), (*padding, (0, 0)), constant_values=-jnp.inf)
    places = jnp.pad(_places(x), (*padding, (0, 0)), constant_values=_NOWHERE)
    for axis in (1, 0):
        window, steps, distances = (
            tuple(sizes[axis] if i == axis else 1 for i in range(3)) for sizes in (window_shape, strides, dilation)
        )
        values, places = lax.reduce_window(
            (values, places), _start(values), _larger, window, steps, "VALID", window_dilation=distances
        )
    return places


def _search_adaptive(x: jax.Array, output_shape: tuple[int, int]) -> jax.Array:
    """Finds the place of the maximum of each adaptive window: shape (*output_shape, channels)."""
    values, places = lax.stop_gradient(x), _places(x)
    for axis in (1, 0):
        values = _spread(values, axis, output_shape[axis], -jnp.inf)
        places = _spread(places, axis, output_shape[axis], _NOWHERE)
        values, places = _reduce(values, places, axis + 1)
    return places


def _spread(x: jax.Array, axis: int, windows: int, filling: float) -> jax.Array:
    """Writes every adaptive window out along one axis, at the size of the widest: the axis becomes two."""
    taps, inside = adaptive_taps(x.shape[axis], windows)
    inside = jnp.expand_dims(jnp.asarray(inside), tuple(set(range(4)) - {axis, axis + 1}))
    return jnp.where(inside, jnp.take(x, jnp.asarray(taps), axis=axis, mode="clip"), filling)


def _maximum(
    x: jax.Array, reduce: Callable[[jax.Array], jax.Array], search: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Reduces an image to maxima, whose places are searched for only where the gradient is wanted."""

    @jax.custom_jvp
    def maximum(x: jax.Array) -> jax.Array:
        # XLA's reductions on CPU lose NaN in some programs.
        has_nan = reduce(jnp.isnan(x).astype(x.dtype)) > 0
        return jnp.where(has_nan, jnp.nan, reduce(x))

    @maximum.defjvp
    def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
        (x,), (dx,) = primals, tangents
        places = search(x)
        return _read(x, places), _read(dx, places)

    return maximum(x)


def _reduce(values: jax.Array, places: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Takes the largest value along an axis, with its place."""
    values, places = lax.reduce((values, places), _start(values), _larger, (axis,))
    return values, places


def _start(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.asarray(-jnp.inf, values.dtype), jnp.asarray(_NOWHERE, jnp.int32)


def _larger(one: tuple[jax.Array, jax.Array], other: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Chooses the larger of two values with their places: of equal ones the first place, of NaN the last."""
    (a, i), (b, j) = one, other
    nan = b != b
    wins = (b > a) | ((b == a) & (j < i)) | (nan & ((a == a) | (j > i)))
    return lax.select(wins, b, a), lax.select(wins, j, i)


def _places(x: jax.Array) -> jax.Array:
    """Numbers the pixels of an image in row-major order: int32, the shape of `x`."""
    row, column = (lax.broadcasted_iota(jnp.int32, x.shape, axis) for axis in (0, 1))
    return row * as_number(x.shape[1]) + column


def _read(x: jax.Array, places: jax.Array) -> jax.Array:
    """Reads the values at places of an image: the shape of `places`. The gradient is added up there."""
    width = as_number(x.shape[1])
    # Not as one axis of height * width pixels: of sizes that are not known, that product could not be proved positive.
    channel = lax.broadcasted_iota(jnp.int32, places.shape, 2)
    return (
        jnp.asarray(x)
        .at[places // width, places % width, channel]
        .get(mode="promise_in_bounds", wrap_negative_indices=False)
    )
