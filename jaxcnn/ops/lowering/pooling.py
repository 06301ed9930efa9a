"""Reductions over sliding windows of one image.

The maximum of a small window is a chain of comparisons, along the columns and then along the rows of the window,
instead of XLA's reduce-window. Its gradient is then a chain of selections. It goes to the first maximum under every
transformation. It needs no select-and-scatter, which XLA refuses to compile for GPUs under its deterministic-ops flag.
It is faster on CPU. A chain has one operation for each tap of the window. Larger windows are reduced by a fixed number
of operations; their gradient finds the index of the maximum.
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
"""The longest side of a window that is reduced by a chain of comparisons."""

_NOWHERE = np.iinfo(np.int32).max
"""The index of padding, larger than every index of the image."""


def window_max(
    x: jax.Array,
    window_shape: tuple[int, int],
    strides: tuple[int, int],
    padding: Sides,
    output_shape: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> jax.Array:
    """Computes the maximum of each window and channel; NaN if the window holds NaN.

    The gradient goes to the first maximum in row-major order, or to the last NaN.

    Args:
      x: shape (height, width, channels), floating point.
      window_shape: (height, width) of the window, in taps.
      strides: step of the window.
      padding: pixels on each side; padding is never the maximum. Every window has a tap inside the image.
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
    """Computes `window_max` and the index of each maximum.

    Args:
      x: shape (height, width, channels), floating point.
      window_shape: (height, width) of the window, in taps.
      strides: step of the window.
      padding: pixels on each side; padding is never the maximum. Every window has a tap inside the image.
      output_shape: number of windows, (vertical, horizontal).
      dilation: distance between neighbouring taps.

    Returns:
      The maxima, and their indices row * width + column, int32; both have shape (*output_shape, channels).
    """
    if max(window_shape) <= _CHAINED:
        maxima, places = _chain((x, _places(x)), window_shape, strides, padding, output_shape, dilation)
        return maxima, places
    places = _search(x, window_shape, strides, padding, dilation)
    return _read(x, places), places


def adaptive_max(x: jax.Array, output_shape: tuple[int, int]) -> jax.Array:
    """Computes the maximum of each channel in the windows of `adaptive_taps`; otherwise as `window_max`.

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
    """Computes `adaptive_max` and the index of each maximum.

    Args:
      x: shape (height, width, channels), floating point.
      output_shape: number of windows, (vertical, horizontal).

    Returns:
      The maxima, and their indices row * width + column, int32; both have shape (*output_shape, channels).
    """
    places = _search_adaptive(x, output_shape)
    return _read(x, places), places


def image_max(x: jax.Array) -> jax.Array:
    """Computes the maximum of each channel; otherwise as `window_max`.

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
      The pixels of each window, integers of shape (windows, widest window), and whether they belong to the window,
      bool, same shape. NumPy arrays if the sizes are known.
    """
    window, pixels, number = positions(windows), as_number(size), as_number(windows)
    first, end = window * pixels // number, -(-(window + 1) * pixels // number)
    # No window is wider. If the sizes are known, columns that no window uses are dropped.
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
    """Selects the tap with the largest first operand in each window, for all operands."""
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
            # The maximum of a window that holds only -inf is its first pixel inside the image.
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
    """Returns, for each tap of the window along an axis, the pixels that it reads."""
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
    """Returns the index of the maximum of each window: shape (out_height, out_width, channels)."""
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
    """Returns the index of the maximum of each adaptive window: shape (*output_shape, channels)."""
    values, places = lax.stop_gradient(x), _places(x)
    for axis in (1, 0):
        values = _spread(values, axis, output_shape[axis], -jnp.inf)
        places = _spread(places, axis, output_shape[axis], _NOWHERE)
        values, places = _reduce(values, places, axis + 1)
    return places


def _spread(x: jax.Array, axis: int, windows: int, filling: float) -> jax.Array:
    """Gathers the adaptive windows along one axis, padded to the widest: the axis becomes two."""
    taps, inside = adaptive_taps(x.shape[axis], windows)
    inside = jnp.expand_dims(jnp.asarray(inside), tuple(set(range(4)) - {axis, axis + 1}))
    return jnp.where(inside, jnp.take(x, jnp.asarray(taps), axis=axis, mode="clip"), filling)


def _maximum(
    x: jax.Array, reduce: Callable[[jax.Array], jax.Array], search: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Reduces an image to maxima; only the gradient computes their indices."""

    @jax.custom_jvp
    def maximum(x: jax.Array) -> jax.Array:
        # XLA's CPU reductions drop NaN in some programs.
        has_nan = reduce(jnp.isnan(x).astype(x.dtype)) > 0
        return jnp.where(has_nan, jnp.nan, reduce(x))

    @maximum.defjvp
    def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
        (x,), (dx,) = primals, tangents
        places = search(x)
        return _read(x, places), _read(dx, places)

    return maximum(x)


def _reduce(values: jax.Array, places: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Computes the maximum along an axis, and its index."""
    values, places = lax.reduce((values, places), _start(values), _larger, (axis,))
    return values, places


def _start(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.asarray(-jnp.inf, values.dtype), jnp.asarray(_NOWHERE, jnp.int32)


def _larger(one: tuple[jax.Array, jax.Array], other: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Selects the larger of two values and its index: the first index if they are equal, the last NaN."""
    (a, i), (b, j) = one, other
    nan = b != b
    wins = (b > a) | ((b == a) & (j < i)) | (nan & ((a == a) | (j > i)))
    return lax.select(wins, b, a), lax.select(wins, j, i)


def _places(x: jax.Array) -> jax.Array:
    """Numbers the pixels of an image in row-major order: int32, the shape of `x`."""
    row, column = (lax.broadcasted_iota(jnp.int32, x.shape, axis) for axis in (0, 1))
    return row * as_number(x.shape[1]) + column


def _read(x: jax.Array, places: jax.Array) -> jax.Array:
    """Gathers the values of an image at `places`, in their shape. The gradient is a scatter-add."""
    width = as_number(x.shape[1])
    # Two axes, not one of height * width pixels: JAX cannot prove that a product of symbolic sizes is positive.
    channel = lax.broadcasted_iota(jnp.int32, places.shape, 2)
    return (
        jnp.asarray(x)
        .at[places // width, places % width, channel]
        .get(mode="promise_in_bounds", wrap_negative_indices=False)
    )
