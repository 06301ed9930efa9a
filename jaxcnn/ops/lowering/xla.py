"""Convolution by XLA's own operation and its transposes: the rule for GPU and TPU, and the reference for all others."""

import jax
from jax import lax

from jaxcnn.ops.lowering.geometry import Geometry

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(x: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    """See `lowering.convolution.convolve`."""
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
    x = jax.ShapeDtypeStruct((dy.shape[0], *input_size, kernel.shape[2] * geometry.groups), dy.dtype)
    (dx,) = jax.linear_transpose(lambda x: convolve(x, kernel, geometry=geometry), x)(dy)
    return dx


def kernel_gradient(x: jax.Array, dy: jax.Array, *, geometry: Geometry, kernel_size: tuple[int, int]) -> jax.Array:
    """See `lowering.convolution.kernel_gradient`."""
    kernel = jax.ShapeDtypeStruct((*kernel_size, x.shape[3] // geometry.groups, dy.shape[3]), x.dtype)
    (dk,) = jax.linear_transpose(lambda kernel: convolve(x, kernel, geometry=geometry), kernel)(dy)
    return dk
