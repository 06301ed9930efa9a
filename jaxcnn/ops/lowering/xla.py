"""Convolution by XLA's own operation and its transposes: the rule for GPU and TPU, and the reference for all others."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.lowering.geometry import Geometry
from jaxcnn.ops.sizes import is_known

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(x: jax.Array, kernel: jax.Array, *, geometry: Geometry, output_size: tuple[int, int]) -> jax.Array:
    """See `lowering.convolution.convolve`."""
    if not is_known((*geometry.padding[0], *geometry.padding[1])):
        x, geometry = _fitted(x, geometry, (kernel.shape[0], kernel.shape[1]), output_size)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=geometry.strides,
        padding=geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=_LAYOUT,
        feature_group_count=geometry.groups,
    )


def input_gradient(dy: jax.Array, kernel: jax.Array, *, geometry: Geometry, input_size: tuple[int, int]) -> jax.Array:
    """See `lowering.convolution.input_gradient`."""
    if not is_known((*dy.shape[1:3], *input_size)):
        return input_gradient_as_convolution(dy, kernel, geometry=geometry, input_size=input_size)
    x = jax.ShapeDtypeStruct((dy.shape[0], *input_size, kernel.shape[2] * geometry.groups), dy.dtype)
    forward = partial(convolve, kernel=kernel, geometry=geometry, output_size=(dy.shape[1], dy.shape[2]))
    (dx,) = jax.linear_transpose(forward, x)(dy)
    return dx


def exchanged(kernel: jax.Array, groups: int) -> jax.Array:
    """Exchanges the inputs and outputs of each group of a kernel.

    Args:
      kernel: shape (height, width, in_channels / groups, out_channels).
      groups: number of its groups.

    Returns:
      Shape (height, width, out_channels / groups, in_channels).
    """
    height, width, channels, outputs = kernel.shape
    grouped = kernel.reshape(height, width, channels, groups, outputs // groups)
    return grouped.transpose(0, 1, 4, 3, 2).reshape(height, width, outputs // groups, groups * channels)


def input_gradient_as_convolution(
    dy: jax.Array, kernel: jax.Array, *, geometry: Geometry, input_size: tuple[int, int]
) -> jax.Array:
    """Computes `input_gradient` as a convolution of the outputs, dilated by the strides, with the flipped kernel.

    `jax.linear_transpose` gives the same program in layouts that some converters do not support, and only for known
    sizes.

    Args:
      dy: see `lowering.convolution.input_gradient`.
      kernel: the kernel of the convolution, not flipped.
      geometry: geometry of the convolution that is transposed.
      input_size: (height, width) of its images.

    Returns:
      Shape (batch, *input_size, in_channels).
    """
    sides = []
    for axis in (0, 1):
        reach = geometry.dilation[axis] * (kernel.shape[axis] - 1)
        before = reach - geometry.padding[axis][0]
        spread = (dy.shape[axis + 1] - 1) * geometry.strides[axis] + 1
        sides.append((before, input_size[axis] + reach - before - spread))
    turned = exchanged(kernel[::-1, ::-1], geometry.groups)
    spreads = geometry.strides
    if not is_known((*sides[0], *sides[1])):
        config = [(*side, stride - 1) for side, stride in zip(sides, spreads, strict=True)]
        dy = lax.pad(dy, jnp.zeros((), dy.dtype), [(0, 0, 0), *config, (0, 0, 0)])
        sides, spreads = [(0, 0), (0, 0)], (1, 1)
    return lax.conv_general_dilated(
        dy,
        turned,
        window_strides=(1, 1),
        padding=sides,
        lhs_dilation=spreads,
        rhs_dilation=geometry.dilation,
        dimension_numbers=_LAYOUT,
        feature_group_count=geometry.groups,
    )


def kernel_gradient(x: jax.Array, dy: jax.Array, *, geometry: Geometry, kernel_size: tuple[int, int]) -> jax.Array:
    """See `lowering.convolution.kernel_gradient`."""
    output_size = (dy.shape[1], dy.shape[2])
    if not is_known((*x.shape[1:3], *output_size)):
        x, geometry = _fitted(x, geometry, kernel_size, output_size)
    kernel = jax.ShapeDtypeStruct((*kernel_size, x.shape[3] // geometry.groups, dy.shape[3]), x.dtype)
    forward = partial(convolve, x, geometry=geometry, output_size=output_size)
    (dk,) = jax.linear_transpose(forward, kernel)(dy)
    return dk


def _fitted(
    x: jax.Array, geometry: Geometry, kernel_size: tuple[int, int], output_size: tuple[int, int]
) -> tuple[jax.Array, Geometry]:
    """Pads images, and crops pixels that no kernel reads, so that the convolution needs no padding.

    `lax.conv_general_dilated` does not support paddings that depend on symbolic sizes; `lax.pad` does.
    """
    config = [(0, 0, 0)]
    for axis in (0, 1):
        before = geometry.padding[axis][0]
        spanned = (output_size[axis] - 1) * geometry.strides[axis] + geometry.dilation[axis] * (kernel_size[axis] - 1)
        config.append((before, spanned + 1 - x.shape[axis + 1] - before, 0))
    padded = lax.pad(x, jnp.zeros((), x.dtype), [*config, (0, 0, 0)])
    return padded, replace(geometry, padding=((0, 0), (0, 0)))
