"""Convolution on CPU in plain JAX, where `lowering.native` is not supported or cannot be built.

XLA's own operation is fast only for the forward pass of dense kernels. Each rule here is plain JAX that XLA's CPU
compiler turns into matrix products and fused loops. The rule is chosen by shape when a program is lowered:

    kernel        forward                    input gradient             kernel gradient
    1x1           matrix product             matrix product             matrix product
    depthwise     sum of shifted products    the same, flipped          sums of products, row by row
    grouped       dense in bundles           dense in bundles           dense in bundles
    many groups   products of patches        the same, flipped          products of patches
    dense         XLA                        XLA                        XLA

Types shorter than float32 are summed in float32. The length of the programs is bounded: it does not grow with the
number of images, groups or taps beyond the limits below.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.check import at_least_float32
from jaxcnn.ops.lowering import xla
from jaxcnn.ops.lowering.geometry import Geometry

Pair = tuple[int, int]

_BUNDLE_CHANNELS = 32
"""Input channels of a bundle of groups. Fewer leave the matrix units idle; more multiply too many zeros."""

_MOST_BUNDLES = 32
"""Largest number of bundles: each adds operations to the program."""

_LANES = 8
"""Images that a depthwise kernel gradient processes in parallel. A batch that is sharded over this many devices is not
moved."""

_MOST_TAPS = 64
"""Largest number of taps of a kernel that are unrolled; larger kernels use a loop."""

_MOST_TAPS_OF_ANY_SIZE = 25
"""The same in a program for images of any size, where each unrolled tap adds about 70 operations on sizes: JAX took
more than 8 minutes to load ConvNeXt with 49 unrolled taps."""


def convolve(x: jax.Array, kernel: jax.Array, *, geometry: Geometry, output_size: Pair) -> jax.Array:
    """See `lowering.convolution.convolve`."""
    if _is_pointwise(kernel.shape[:2], geometry):
        return _product("nhwi,io->nhwo", _strided(x, geometry), kernel[0, 0])
    if _is_depthwise(kernel.shape[2], geometry):
        return _depthwise(x, kernel, geometry, output_size)
    if geometry.groups > 1:
        dense = partial(convolve, geometry=replace(geometry, groups=1), output_size=output_size)

        def by_group() -> jax.Array:
            return _grouped(_padded(x, geometry), kernel, geometry, output_size)

        return _in_bundles(dense, by_group, x, kernel, geometry.groups)
    return xla.convolve(x, kernel, geometry=geometry, output_size=output_size)


def input_gradient(dy: jax.Array, kernel: jax.Array, *, geometry: Geometry, input_size: Pair) -> jax.Array:
    """See `lowering.convolution.input_gradient`."""
    if _is_pointwise(kernel.shape[:2], geometry):
        return _spread(_product("nhwo,io->nhwi", dy, kernel[0, 0]), geometry.strides, input_size)
    if _is_depthwise(kernel.shape[2], geometry):
        return _depthwise_input_gradient(dy, kernel, geometry, input_size)
    if geometry.groups > 1:
        dense = partial(input_gradient, geometry=replace(geometry, groups=1), input_size=input_size)

        def by_group() -> jax.Array:
            spread = _spread_for(dy, geometry, (kernel.shape[0], kernel.shape[1]), input_size)
            flipped = Geometry(dilation=geometry.dilation, groups=geometry.groups)
            return _grouped(spread, xla.exchanged(kernel[::-1, ::-1], geometry.groups), flipped, input_size)

        return _in_bundles(dense, by_group, dy, kernel, geometry.groups)
    return xla.input_gradient(dy, kernel, geometry=geometry, input_size=input_size)


def kernel_gradient(x: jax.Array, dy: jax.Array, *, geometry: Geometry, kernel_size: Pair) -> jax.Array:
    """See `lowering.convolution.kernel_gradient`."""
    channels = x.shape[3] // geometry.groups
    if _is_pointwise(kernel_size, geometry):
        return _product("nhwi,nhwo->io", _strided(x, geometry), dy)[None, None]
    if _is_depthwise(channels, geometry):
        return _depthwise_kernel_gradient(x, dy, geometry, kernel_size)
    if geometry.groups > 1:
        together, bundles = _bundles(geometry.groups, channels)
        if bundles <= _MOST_BUNDLES:
            dense = partial(kernel_gradient, geometry=replace(geometry, groups=1), kernel_size=kernel_size)
            pairs = zip(jnp.split(x, bundles, axis=-1), jnp.split(dy, bundles, axis=-1), strict=True)
            return jnp.concatenate([_diagonal_blocks(dense(*pair), together) for pair in pairs], axis=-1)
        outputs = dy.reshape(*dy.shape[:3], geometry.groups, -1)
        patches = _patches(_padded(x, geometry), geometry, kernel_size, (dy.shape[1], dy.shape[2]))
        return _product("nhwgtc,nhwgo->tcgo", patches, outputs).reshape(*kernel_size, channels, dy.shape[3])
    return xla.kernel_gradient(x, dy, geometry=geometry, kernel_size=kernel_size)


def _product(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, a, b, preferred_element_type=at_least_float32(a.dtype)).astype(a.dtype)


def _in_bundles(
    dense: Callable[..., jax.Array], by_group: Callable[[], jax.Array], x: jax.Array, kernel: jax.Array, groups: int
) -> jax.Array:
    """Computes a grouped convolution, or its input gradient, as dense convolutions of bundles of groups.

    A bundle multiplies the channels of other groups by zero, and zero times infinity is NaN. So a non-finite result is
    computed again group by group. So are convolutions with too many bundles.
    """
    together, bundles = _bundles(groups, kernel.shape[2])
    if bundles > _MOST_BUNDLES:
        return by_group()
    pairs = zip(jnp.split(x, bundles, axis=-1), jnp.split(kernel, bundles, axis=-1), strict=True)
    y = jnp.concatenate([dense(part, _block_diagonal(own, together)) for part, own in pairs], axis=-1)
    return y if together == 1 else lax.cond(jnp.all(jnp.isfinite(y)), lambda: y, by_group)


def _bundles(groups: int, channels: int) -> tuple[int, int]:
    """Returns the number of groups in a bundle, and the number of bundles."""
    together = max(1, _BUNDLE_CHANNELS // channels)
    while groups % together:
        together -= 1
    return together, groups // together


def _block_diagonal(kernel: jax.Array, groups: int) -> jax.Array:
    """Expands a kernel (height, width, channels / groups, outputs) to (height, width, channels, outputs) with zeros."""
    height, width, channels, outputs = kernel.shape
    grouped = kernel.reshape(height, width, 1, channels, groups, outputs // groups)
    same = jnp.eye(groups, dtype=bool)[:, None, :, None]
    return jnp.where(same, grouped, jnp.zeros((), kernel.dtype)).reshape(height, width, groups * channels, outputs)


def _diagonal_blocks(kernel: jax.Array, groups: int) -> jax.Array:
    """Inverts `_block_diagonal`."""
    height, width, channels, outputs = kernel.shape
    blocks = kernel.reshape(height, width, groups, channels // groups, groups, outputs // groups)
    diagonal = jnp.moveaxis(jnp.diagonal(blocks, axis1=2, axis2=4), -1, 3)
    return diagonal.reshape(height, width, channels // groups, outputs)


def _grouped(x: jax.Array, kernel: jax.Array, geometry: Geometry, output_size: Pair) -> jax.Array:
    """Convolves padded images with a grouped kernel, as the product of patches and kernel for each group."""
    height, width, channels, outputs = kernel.shape
    patches = _patches(x, geometry, (height, width), output_size)
    y = _product("nhwgtc,tcgo->nhwgo", patches, kernel.reshape(height * width, channels, geometry.groups, -1))
    return y.reshape(*y.shape[:3], outputs)


def _patches(x: jax.Array, geometry: Geometry, kernel_size: Pair, output_size: Pair) -> jax.Array:
    """Gathers the pixels of each tap: (batch, *output_size, groups, taps, channels of a group)."""
    x = x.reshape(*x.shape[:3], geometry.groups, -1)

    def at(tap: int | jax.Array) -> jax.Array:
        return _tap(x, tap, geometry, kernel_size, output_size)

    taps = math.prod(kernel_size)
    if _unrolls(taps, output_size):
        return jnp.stack([at(tap) for tap in range(taps)], axis=4)
    return jnp.moveaxis(lax.map(at, jnp.arange(taps)), 0, 4)


def _is_pointwise(kernel_size: tuple[int, ...], geometry: Geometry) -> bool:
    return tuple(kernel_size) == (1, 1) and geometry.groups == 1 and geometry.padding == ((0, 0), (0, 0))


def _is_depthwise(channels: int, geometry: Geometry) -> bool:
    return channels == 1 and geometry.groups > 1


def _unrolls(taps: int, output_size: Pair) -> bool:
    fixed = all(isinstance(n, int) for n in output_size)
    return taps <= (_MOST_TAPS if fixed else _MOST_TAPS_OF_ANY_SIZE)


def _strided(x: jax.Array, geometry: Geometry) -> jax.Array:
    down, across = geometry.strides
    return lax.slice(x, (0, 0, 0, 0), x.shape, (1, down, across, 1))


def _spread(y: jax.Array, strides: Pair, size: Pair) -> jax.Array:
    """Puts pixels `strides` apart into an image of zeros."""
    config = [(0, 0, 0)] + [
        (0, n - (m - 1) * s - 1, s - 1) for n, m, s in zip(size, y.shape[1:3], strides, strict=True)
    ]
    return lax.pad(y, jnp.zeros((), y.dtype), [*config, (0, 0, 0)])


def _spread_for(dy: jax.Array, geometry: Geometry, kernel_size: Pair, input_size: Pair) -> jax.Array:
    """Dilates the outputs by the strides, and pads them so that the flipped kernel gives `input_size`."""
    config = [(0, 0, 0)]
    for axis in (0, 1):
        reach = geometry.dilation[axis] * (kernel_size[axis] - 1)
        before = reach - geometry.padding[axis][0]
        spread = (dy.shape[axis + 1] - 1) * geometry.strides[axis] + 1
        config.append((before, input_size[axis] + reach - before - spread, geometry.strides[axis] - 1))
    return lax.pad(dy, jnp.zeros((), dy.dtype), [*config, (0, 0, 0)])


def _padded(x: jax.Array, geometry: Geometry) -> jax.Array:
    (top, bottom), (left, right) = geometry.padding
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0)])


def _sum_of_taps(x: jax.Array, rows: jax.Array, geometry: Geometry, kernel_size: Pair, output_size: Pair) -> jax.Array:
    """Sums, over the taps of a kernel, the pixels of padded images times the numbers of the tap.

    Args:
      x: padded images, shape (batch, height, width, channels, any).
      rows: shape (taps, channels, any), which broadcasts over the pixels.
      geometry: strides and dilation; its padding is ignored.
      kernel_size: (height, width) of the kernel.
      output_size: (height, width) of the result.

    Returns:
      Shape (batch, *output_size, channels, any), in at least float32.
    """
    dtype = at_least_float32(x.dtype)
    rows = rows.astype(dtype)[:, None, None, None]

    def term(tap: int | jax.Array) -> jax.Array:
        return _tap(x, tap, geometry, kernel_size, output_size).astype(dtype) * rows[tap]

    taps = math.prod(kernel_size)
    if _unrolls(taps, output_size):
        return reduce(operator.add, map(term, range(taps)))
    return lax.fori_loop(1, taps, lambda tap, total: total + term(tap), term(0))


def _tap(x: jax.Array, tap: int | jax.Array, geometry: Geometry, kernel_size: Pair, output_size: Pair) -> jax.Array:
    """Returns the pixels of padded images (batch, height, width, ...) that one tap reads, one for each output pixel."""
    place = (tap // kernel_size[1], tap % kernel_size[1])
    for axis in (0, 1):
        reach = (output_size[axis] - 1) * geometry.strides[axis] + 1
        x = lax.dynamic_slice_in_dim(x, place[axis] * geometry.dilation[axis], reach, axis + 1)
        x = lax.slice_in_dim(x, 0, None, geometry.strides[axis], axis + 1)
    return x


def _depthwise(x: jax.Array, kernel: jax.Array, geometry: Geometry, output_size: Pair) -> jax.Array:
    """Sums the taps, each an image times one number for each channel; XLA fuses them into one loop."""
    kernel_size = (kernel.shape[0], kernel.shape[1])
    channels, outputs = x.shape[3], kernel.shape[3]
    rows = kernel.reshape(-1, channels, outputs // channels)
    y = _sum_of_taps(_padded(x, geometry)[..., None], rows, geometry, kernel_size, output_size)
    return y.reshape(*y.shape[:3], outputs).astype(x.dtype)


def _depthwise_input_gradient(dy: jax.Array, kernel: jax.Array, geometry: Geometry, input_size: Pair) -> jax.Array:
    """Sums the taps of the flipped kernel over the outputs, dilated by the strides."""
    kernel_size = (kernel.shape[0], kernel.shape[1])
    multiplier = kernel.shape[3] // geometry.groups
    padded = _spread_for(dy, geometry, kernel_size, input_size)
    padded = padded.reshape(*padded.shape[:3], geometry.groups, multiplier)
    rows = kernel.reshape(-1, geometry.groups, multiplier)[::-1]
    dx = _sum_of_taps(padded, rows, Geometry(dilation=geometry.dilation), kernel_size, input_size)
    return jnp.sum(dx, axis=-1).astype(dy.dtype)


def _depthwise_kernel_gradient(x: jax.Array, dy: jax.Array, geometry: Geometry, kernel_size: Pair) -> jax.Array:
    """Sums the products of image and output row by row, with a row of sums for each tap.

    XLA reduces a product over images and pixels one channel at a time; sums as wide as a row keep its loops vectorised
    and their data in the cache.
    """
    images, height, width, outputs = dy.shape
    channels = x.shape[3]
    dtype = at_least_float32(x.dtype)
    if not _unrolls(math.prod(kernel_size), (height, width)):
        padded, wide = _padded(x, geometry)[..., None], dy.reshape(*dy.shape[:3], channels, -1).astype(dtype)

        def sum_of(tap: jax.Array) -> jax.Array:
            return jnp.sum(_tap(padded, tap, geometry, kernel_size, (height, width)).astype(dtype) * wide, (0, 1, 2))

        sums = lax.map(sum_of, jnp.arange(math.prod(kernel_size)))
        return sums.astype(x.dtype).reshape(*kernel_size, 1, outputs)
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
