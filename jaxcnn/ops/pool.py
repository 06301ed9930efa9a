"""Pooling and unpooling of one image."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import max_dim

from jaxcnn.ops import lowering
from jaxcnn.ops.arithmetic import padding_sides, pool_output_size
from jaxcnn.ops.check import (
    Padding,
    Sides,
    Size,
    as_adaptive_size,
    as_image_size,
    as_pair,
    at_least_float32,
    check_image,
)
from jaxcnn.ops.sizes import as_number, positions


def max_pool(
    x: jax.Array,
    window_shape: Size,
    *,
    strides: Size | None = None,
    padding: Padding = "VALID",
    ceil_mode: bool = False,
    dilation: Size = 1,
) -> jax.Array:
    """Computes the maximum of each channel in a sliding window.

    A window that holds NaN gives NaN. The gradient goes to the first maximum of a window in row-major order, as in
    torch.

    Args:
      x: image, shape (height, width, channels), floating point.
      window_shape: (height, width) of the window, in taps.
      strides: step of the window, in pixels; the window's shape if None (no overlap).
      padding: "VALID", "SAME", "SAME_LOWER", an int or ((top, bottom), (left, right)), each smaller than the dilated
        window (torch: at most half of it). Padding is never the maximum: the gradient of a window that holds only -inf
        goes to its first pixel inside the image.
      ceil_mode: also take a last window that hangs over the bottom or right edge (torch's rule).
      dilation: distance between neighbouring taps of the window, in pixels.

    Returns:
      Shape (out_height, out_width, channels), in the dtype of `x`.

    Raises:
      ValueError: `x` is not one image, or the window or padding does not fit it.
      TypeError: `x` is not floating point.
    """
    dilation = as_pair("dilation", dilation)
    window, strides, sides, output_shape = _windows("max_pool", x, window_shape, strides, padding, ceil_mode, dilation)
    # The gradients of windows that share their maximum are summed in this dtype.
    wide = x.astype(at_least_float32(x.dtype))
    return lowering.window_max(wide, window, strides, sides, output_shape, dilation).astype(x.dtype)


def max_pool_with_indices(
    x: jax.Array,
    window_shape: Size,
    *,
    strides: Size | None = None,
    padding: Padding = "VALID",
    ceil_mode: bool = False,
    dilation: Size = 1,
) -> tuple[jax.Array, jax.Array]:
    """Computes the maximum of each channel in a sliding window, and its index.

    Args:
      x: image, shape (height, width, channels), floating point.
      window_shape: (height, width) of the window, in taps.
      strides: step of the window, in pixels; the window's shape if None (no overlap).
      padding: as in `max_pool`.
      ceil_mode: as in `max_pool`.
      dilation: as in `max_pool`.

    Returns:
      The maxima, shape (out_height, out_width, channels), in the dtype of `x`; and the index row * width + column in
      `x` of the first maximum of each window in row-major order, same shape, int32. A window that holds NaN gives NaN
      and the index of its last NaN.

    Raises:
      ValueError: `x` is not one image, or the window or padding does not fit it.
      TypeError: `x` is not floating point.
    """
    dilation = as_pair("dilation", dilation)
    window, strides, sides, output_shape = _windows(
        "max_pool_with_indices", x, window_shape, strides, padding, ceil_mode, dilation
    )
    wide = x.astype(at_least_float32(x.dtype))
    maxima, places = lowering.window_argmax(wide, window, strides, sides, output_shape, dilation)
    return maxima.astype(x.dtype), places


def max_unpool(y: jax.Array, indices: jax.Array, output_shape: Size) -> jax.Array:
    """Writes maxima to their indices, and zeros elsewhere (Zeiler & Fergus 2014, section 2.1).

    Overlapping windows may share their maximum: its value is written once, not summed.

    Args:
      y: maxima, shape (height, width, channels), floating point.
      indices: their indices row * width + column in the output, same shape, as `max_pool_with_indices` returns them.
        Values with an index outside the output are dropped.
      output_shape: (height, width) of the output: the size of the image that was pooled.

    Returns:
      Shape (*output_shape, channels), in the dtype of `y`.

    Raises:
      ValueError: `y` is not one image, or the shapes differ.
      TypeError: `y` is not floating point, or `indices` are not integers.
    """
    check_image("max_unpool", y)
    height, width = as_image_size("output_shape", output_shape)
    if indices.shape != y.shape:
        raise ValueError(f"max_unpool expects one index for each value of shape {y.shape}, got {indices.shape}")
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise TypeError(f"max_unpool expects integer indices, got {indices.dtype}")
    # Small integer types cannot hold the size of the output.
    places = jnp.asarray(indices if indices.dtype.itemsize == 8 else indices.astype(jnp.int32))
    pixels, columns = as_number(height) * as_number(width), as_number(width)
    inside = (places >= 0) & (places < pixels)
    row = jnp.where(inside, places // columns, as_number(height)).astype(jnp.int32)
    column, channel = (places % columns).astype(jnp.int32), lax.broadcasted_iota(jnp.int32, y.shape, 2)
    return jnp.zeros((height, width, y.shape[2]), y.dtype).at[row, column, channel].set(y, mode="drop")


def avg_pool(
    x: jax.Array,
    window_shape: Size,
    *,
    strides: Size | None = None,
    padding: Padding = "VALID",
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> jax.Array:
    """Computes the mean of each channel in a sliding window.

    Args:
      x: image, shape (height, width, channels), floating point.
      window_shape: (height, width) of the window, in pixels.
      strides: step of the window, in pixels; the window's shape if None (no overlap).
      padding: "VALID", "SAME", "SAME_LOWER", an int or ((top, bottom), (left, right)), each smaller than the window.
      ceil_mode: also take a last window that hangs over the bottom or right edge. Pixels beyond the padding are never
        counted (torch's rule).
      count_include_pad: True: padded pixels count as zeros in the mean (flax's and torch's default). False: each sum is
        divided by the number of pixels inside the image (TensorFlow's "SAME").

    Returns:
      Shape (out_height, out_width, channels), in the dtype of `x`; summed in at least float32.

    Raises:
      ValueError: `x` is not one image, or the window or padding does not fit it.
      TypeError: `x` is not floating point.
    """
    window, strides, sides, output_shape = _windows("avg_pool", x, window_shape, strides, padding, ceil_mode, (1, 1))
    named = padding_sides((x.shape[0], x.shape[1]), window, strides, padding)
    rows, columns = (
        _counted(x.shape[axis], window[axis], strides[axis], named[axis], output_shape[axis], count_include_pad)
        for axis in (0, 1)
    )
    dtype = at_least_float32(x.dtype)
    counts = jnp.asarray((rows[:, None, None] * columns[None, :, None]).astype(dtype))
    return (lowering.window_sum(x.astype(dtype), window, strides, sides) / counts).astype(x.dtype)


def global_avg_pool(x: jax.Array) -> jax.Array:
    """Computes the mean of each channel over the image (Lin et al. 2014, section 3.2).

    Args:
      x: image, shape (height, width, channels), floating point.

    Returns:
      Shape (channels,), in the dtype of `x`; summed in at least float32.

    Raises:
      ValueError: `x` is not one image.
      TypeError: `x` is not floating point.
    """
    check_image("global_avg_pool", x)
    return jnp.mean(x.astype(at_least_float32(x.dtype)), axis=(0, 1)).astype(x.dtype)


def global_max_pool(x: jax.Array) -> jax.Array:
    """Computes the maximum of each channel over the image.

    Among equal maxima the gradient goes to the first in row-major order.

    Args:
      x: image, shape (height, width, channels), floating point.

    Returns:
      Shape (channels,), in the dtype of `x`.

    Raises:
      ValueError: `x` is not one image.
      TypeError: `x` is not floating point.
    """
    check_image("global_max_pool", x)
    return lowering.image_max(x)


def adaptive_avg_pool(x: jax.Array, output_shape: Size | tuple[int | None, int | None]) -> jax.Array:
    """Computes the means of a grid of windows with a given output size.

    Window i of n spans floor(i size / n) to ceil((i + 1) size / n), so windows may overlap by a pixel, and repeat
    pixels if the output is larger than the image (torch's AdaptiveAvgPool2d).

    Args:
      x: image, shape (height, width, channels), floating point.
      output_shape: (height, width) of the output; None keeps the size of an axis.

    Returns:
      Shape (*output_shape, channels), in the dtype of `x`.

    Raises:
      ValueError: `x` is not one image, or the output shape is not positive.
      TypeError: `x` is not floating point.
    """
    check_image("adaptive_avg_pool", x)
    y = x.astype(at_least_float32(x.dtype))
    for axis, n in enumerate(as_adaptive_size(output_shape, (x.shape[0], x.shape[1]))):
        taps, inside = lowering.adaptive_taps(y.shape[axis], n)
        counts = jnp.asarray(inside.sum(1).astype(y.dtype))
        y = lowering.resample(y, axis, taps, inside) / jnp.expand_dims(counts, tuple({0, 1, 2} - {axis}))
    return y.astype(x.dtype)


def adaptive_max_pool(x: jax.Array, output_shape: Size | tuple[int | None, int | None]) -> jax.Array:
    """Computes the maxima of a grid of windows with a given output size.

    The windows are those of `adaptive_avg_pool`. Among equal maxima the gradient goes to the first in row-major order.

    Args:
      x: image, shape (height, width, channels), floating point.
      output_shape: (height, width) of the output; None keeps the size of an axis.

    Returns:
      Shape (*output_shape, channels), in the dtype of `x`.

    Raises:
      ValueError: `x` is not one image, or the output shape is not positive.
      TypeError: `x` is not floating point.
    """
    check_image("adaptive_max_pool", x)
    output_shape = as_adaptive_size(output_shape, (x.shape[0], x.shape[1]))
    return lowering.adaptive_max(x.astype(at_least_float32(x.dtype)), output_shape).astype(x.dtype)


def adaptive_max_pool_with_indices(
    x: jax.Array, output_shape: Size | tuple[int | None, int | None]
) -> tuple[jax.Array, jax.Array]:
    """Computes the maxima of a grid of windows with a given output size, and their indices.

    Args:
      x: image, shape (height, width, channels), floating point.
      output_shape: (height, width) of the output; None keeps the size of an axis.

    Returns:
      The maxima of `adaptive_max_pool`, shape (*output_shape, channels), in the dtype of `x`; and their indices in `x`,
      as `max_pool_with_indices` returns them.

    Raises:
      ValueError: `x` is not one image, or the output shape is not positive.
      TypeError: `x` is not floating point.
    """
    check_image("adaptive_max_pool_with_indices", x)
    output_shape = as_adaptive_size(output_shape, (x.shape[0], x.shape[1]))
    maxima, places = lowering.adaptive_argmax(x.astype(at_least_float32(x.dtype)), output_shape)
    return maxima.astype(x.dtype), places


def _windows(
    op: str,
    x: jax.Array,
    window_shape: Size,
    strides: Size | None,
    padding: Padding,
    ceil_mode: bool,
    dilation: tuple[int, int],
) -> tuple[tuple[int, int], tuple[int, int], Sides, tuple[int, int]]:
    """Returns the window, the strides, the padding adjusted for ceil or floor mode, and the output size."""
    check_image(op, x)
    window = as_pair("window_shape", window_shape)
    strides = window if strides is None else as_pair("strides", strides)
    size = (x.shape[0], x.shape[1])
    sides = padding_sides(size, window, strides, padding, dilation)
    output = pool_output_size(size, window, strides=strides, padding=sides, ceil_mode=ceil_mode, dilation=dilation)
    (top, bottom), (left, right) = (
        (before, max_dim(after, (n_out - 1) * s + d * (k - 1) + 1 - n - before) if ceil_mode else after)
        for n, n_out, s, k, d, (before, after) in zip(size, output, strides, window, dilation, sides, strict=True)
    )
    return window, strides, ((top, bottom), (left, right)), output


def _counted(size: int, window: int, stride: int, side: tuple[int, int], windows: int, pad: bool) -> Any:
    """Counts the pixels of each window's mean along one axis."""
    start = positions(windows) * stride - side[0]
    end, size = start + window, as_number(size)
    if pad:
        return end - (end - size - as_number(side[1])).clip(0) - start
    return end - (end - size).clip(0) - start.clip(0)
