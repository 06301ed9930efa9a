"""Convolution on CPU in plain JAX, for what `lowering.native` does not take and where it cannot be built.

XLA's own operation is fast only for the forward pass of dense kernels. Each rule here is plain JAX that XLA's CPU
compiler turns into matrix products and fused loops. They are chosen by shape when a program is lowered:

    kernel        forward                    input gradient             kernel gradient
    1x1           matrix product             matrix product             matrix product
    depthwise     sum of shifted products    the same, flipped          sums of products, row by row
    grouped       dense in bundles           dense in bundles           dense in bundles
    dense         XLA                        XLA                        XLA
"""

import functools
import math
import operator
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.check import at_least_float32
from jaxcnn.ops.lowering import xla
from jaxcnn.ops.lowering.geometry import Geometry

Pair = tuple[int, int]

_BUNDLE_CHANNELS = 32
"""Input channels of a bundle of groups: fewer leave the matrix units idle, more multiply too many zeros."""

_LANES = 8
"""Images that a depthwise kernel gradient goes through side by side: a batch over so many devices stays where it is."""

_MOST_BUNDLES = 32
"""Above it the program would become too long."""


def convolve(x: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    """See `lowering.convolution.convolve`."""
    if _is_pointwise(kernel.shape[:2], geometry):
        return jnp.einsum("nhwi,io->nhwo", _strided(x, geometry), kernel[0, 0])
    if _is_depthwise(kernel.shape[2], geometry):
        return _depthwise(x, kernel, geometry)
    if _in_bundles(kernel.shape[2], geometry):
        n = _bundles(geometry, kernel.shape[2])
        together, dense = geometry.groups // n, replace(geometry, groups=1)
        parts = zip(_split(x, n), _split(kernel, n), strict=True)
        return jnp.concatenate(
            [convolve(image, block_diagonal(part, together), geometry=dense) for image, part in parts], axis=-1
        )
    return xla.convolve(x, kernel, geometry=geometry)


def input_gradient(dy: jax.Array, kernel: jax.Array, *, geometry: Geometry, input_size: Pair) -> jax.Array:
    """See `lowering.convolution.input_gradient`."""
    if _is_pointwise(kernel.shape[:2], geometry):
        return _spread(jnp.einsum("nhwo,io->nhwi", dy, kernel[0, 0]), geometry.strides, input_size)
    if _is_depthwise(kernel.shape[2], geometry):
        return _depthwise_input_gradient(dy, kernel, geometry, input_size)
    if _in_bundles(kernel.shape[2], geometry):
        n = _bundles(geometry, kernel.shape[2])
        together, dense = geometry.groups // n, replace(geometry, groups=1)
        parts = zip(_split(dy, n), _split(kernel, n), strict=True)
        return jnp.concatenate(
            [
                input_gradient(gradient, block_diagonal(part, together), geometry=dense, input_size=input_size)
                for gradient, part in parts
            ],
            axis=-1,
        )
    return xla.input_gradient(dy, kernel, geometry=geometry, input_size=input_size)


def kernel_gradient(x: jax.Array, dy: jax.Array, *, geometry: Geometry, kernel_size: Pair) -> jax.Array:
    """See `lowering.convolution.kernel_gradient`."""
    channels = x.shape[3] // geometry.groups
    if _is_pointwise(kernel_size, geometry):
        return jnp.einsum("nhwi,nhwo->io", _strided(x, geometry), dy)[None, None]
    if _is_depthwise(channels, geometry):
        return _depthwise_kernel_gradient(x, dy, geometry, kernel_size)
    if _in_bundles(channels, geometry):
        n = _bundles(geometry, channels)
        together, dense = geometry.groups // n, replace(geometry, groups=1)
        parts = zip(_split(x, n), _split(dy, n), strict=True)
        return jnp.concatenate(
            [
                diagonal_blocks(kernel_gradient(image, gradient, geometry=dense, kernel_size=kernel_size), together)
                for image, gradient in parts
            ],
            axis=-1,
        )
    return xla.kernel_gradient(x, dy, geometry=geometry, kernel_size=kernel_size)


def _is_pointwise(kernel_size: tuple[int, ...], geometry: Geometry) -> bool:
    return tuple(kernel_size) == (1, 1) and geometry.groups == 1 and geometry.padding == ((0, 0), (0, 0))


def _is_depthwise(channels: int, geometry: Geometry) -> bool:
    return channels == 1 and geometry.groups > 1


def _strided(x: jax.Array, geometry: Geometry) -> jax.Array:
    down, across = geometry.strides
    return lax.slice(x, (0, 0, 0, 0), x.shape, (1, down, across, 1))


def _spread(y: jax.Array, strides: Pair, size: Pair) -> jax.Array:
    """Puts pixels `strides` apart into an image of zeros."""
    config = [(0, 0, 0)] + [
        (0, n - (m - 1) * s - 1, s - 1) for n, m, s in zip(size, y.shape[1:3], strides, strict=True)
    ]
    return lax.pad(y, jnp.zeros((), y.dtype), [*config, (0, 0, 0)])


def _padded(x: jax.Array, geometry: Geometry) -> jax.Array:
    (top, bottom), (left, right) = geometry.padding
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0)])


def _taps(x: jax.Array, geometry: Geometry, kernel_size: Pair, output_size: Pair) -> list[jax.Array]:
    """Cuts out of padded images, for each tap of the kernel, the pixels it meets: (batch, *output_size, channels)."""
    (rows, columns), (down, across) = output_size, geometry.strides
    return [
        x[
            :,
            i * geometry.dilation[0] : i * geometry.dilation[0] + (rows - 1) * down + 1 : down,
            j * geometry.dilation[1] : j * geometry.dilation[1] + (columns - 1) * across + 1 : across,
        ]
        for i in range(kernel_size[0])
        for j in range(kernel_size[1])
    ]


def _total(terms: list[jax.Array]) -> jax.Array:
    return functools.reduce(operator.add, terms)


def _depthwise(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Sums up the taps, each an image times one number for each channel; XLA makes one loop of it."""
    kernel_size = (kernel.shape[0], kernel.shape[1])
    size = geometry.output_size((x.shape[1], x.shape[2]), kernel_size)
    channels = x.shape[3]
    multiplier = kernel.shape[3] // channels
    taps = _taps(_padded(x, geometry), geometry, kernel_size, size)
    rows = kernel.reshape(-1, channels, multiplier)
    if multiplier == 1:
        return _total([tap * row[:, 0] for tap, row in zip(taps, rows, strict=True)])
    y = _total([tap[..., None] * row for tap, row in zip(taps, rows, strict=True)])
    return y.reshape(*y.shape[:3], channels * multiplier)


def _depthwise_input_gradient(dy: jax.Array, kernel: jax.Array, geometry: Geometry, input_size: Pair) -> jax.Array:
    """Sums up the taps of the turned kernel over the outputs, spread out by the strides."""
    kernel_size = (kernel.shape[0], kernel.shape[1])
    multiplier = kernel.shape[3] // geometry.groups
    config = [(0, 0, 0)]
    for axis in (0, 1):
        reach = geometry.dilation[axis] * (kernel_size[axis] - 1)
        before = reach - geometry.padding[axis][0]
        spread = (dy.shape[axis + 1] - 1) * geometry.strides[axis] + 1
        config.append((before, input_size[axis] + reach - before - spread, geometry.strides[axis] - 1))
    padded = lax.pad(dy, jnp.zeros((), dy.dtype), [*config, (0, 0, 0)])
    taps = _taps(padded, Geometry(dilation=geometry.dilation), kernel_size, input_size)
    rows = kernel.reshape(-1, geometry.groups, multiplier)[::-1]
    if multiplier == 1:
        return _total([tap * row[:, 0] for tap, row in zip(taps, rows, strict=True)])
    split = [tap.reshape(*tap.shape[:3], geometry.groups, multiplier) for tap in taps]
    return _total([jnp.sum(tap * row, axis=-1) for tap, row in zip(split, rows, strict=True)])


def _depthwise_kernel_gradient(x: jax.Array, dy: jax.Array, geometry: Geometry, kernel_size: Pair) -> jax.Array:
    """Adds up the products of image and output row by row, in a row of sums for each tap.

    XLA reduces a product over images and pixels one channel at a time; sums as wide as a row keep its loops vectorised
    and all that they touch in the cache.
    """
    images, height, width, outputs = dy.shape
    channels = x.shape[3]
    dtype = at_least_float32(x.dtype)
    (down, across), (row_step, column_step) = geometry.strides, geometry.dilation
    reach = row_step * (kernel_size[0] - 1) + 1
    x = _padded(x, geometry)
    lanes = math.gcd(images, _LANES) if isinstance(images, int) else 1
    x = x.reshape(lanes, images // lanes, *x.shape[1:])
    dy = dy.reshape(lanes, images // lanes, *dy.shape[1:])

    def add_row(sums: tuple[jax.Array, ...], index: jax.Array) -> tuple[tuple[jax.Array, ...], None]:
        image, row = index // height, index % height
        gradient = lax.dynamic_slice(dy, (0, image, row, 0, 0), (lanes, 1, 1, width, outputs))
        gradient = gradient.reshape(lanes, width, channels, -1).astype(dtype)
        start, size = (0, image, row * down, 0, 0), (lanes, 1, reach, x.shape[3], channels)
        rows = lax.dynamic_slice(x, start, size)[:, 0, ::row_step]
        taps = [
            rows[:, i, j * column_step : j * column_step + (width - 1) * across + 1 : across, :, None].astype(dtype)
            for i in range(kernel_size[0])
            for j in range(kernel_size[1])
        ]
        return tuple(total + tap * gradient for total, tap in zip(sums, taps, strict=True)), None

    zeros = jnp.zeros((lanes, width, channels, outputs // channels), dtype)
    steps = jnp.arange(images // lanes * height)
    sums, _ = lax.scan(add_row, (zeros,) * (kernel_size[0] * kernel_size[1]), steps)
    totals = [jnp.sum(total, axis=(0, 1)) for total in sums]
    return jnp.stack(totals).astype(x.dtype).reshape(*kernel_size, 1, outputs)


def _bundles(geometry: Geometry, channels: int) -> int:
    """Chooses into how many dense convolutions the groups are bundled."""
    together = max(1, _BUNDLE_CHANNELS // channels)
    while geometry.groups % together:
        together -= 1
    return geometry.groups // together


def _in_bundles(channels: int, geometry: Geometry) -> bool:
    return geometry.groups > 1 and _bundles(geometry, channels) <= _MOST_BUNDLES


def _split(x: jax.Array, bundles: int) -> list[jax.Array]:
    return jnp.split(x, bundles, axis=-1)


def block_diagonal(kernel: jax.Array, groups: int) -> jax.Array:
    """Writes a grouped kernel as a dense one, with zeros between channels of different groups.

    Args:
      kernel: shape (height, width, in_channels / groups, out_channels).
      groups: number of its groups.

    Returns:
      Shape (height, width, in_channels, out_channels).
    """
    height, width, channels, outputs = kernel.shape
    grouped = kernel.reshape(height, width, channels, groups, outputs // groups)
    same = jnp.eye(groups, dtype=kernel.dtype)
    blocks = grouped[:, :, None] * same[:, None, :, None]
    return blocks.reshape(height, width, groups * channels, outputs)


def diagonal_blocks(kernel: jax.Array, groups: int) -> jax.Array:
    """Undoes `block_diagonal`.

    Args:
      kernel: shape (height, width, in_channels, out_channels).
      groups: number of groups.

    Returns:
      Shape (height, width, in_channels / groups, out_channels).
    """
    height, width, channels, outputs = kernel.shape
    blocks = kernel.reshape(height, width, groups, channels // groups, groups, outputs // groups)
    diagonal = jnp.stack([blocks[:, :, group, :, group] for group in range(groups)], axis=3)
    return diagonal.reshape(height, width, channels // groups, outputs)
