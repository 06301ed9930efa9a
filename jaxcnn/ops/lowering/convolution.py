"""Convolution of one image by XLA's general convolution."""

import jax
from jax import lax

from jaxcnn.ops.check import Sides

_LAYOUT = lax.ConvDimensionNumbers(lhs_spec=(0, 3, 1, 2), rhs_spec=(3, 2, 0, 1), out_spec=(0, 3, 1, 2))


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: tuple[int, int] = (1, 1),
    padding: Sides,
    input_dilation: tuple[int, int] = (1, 1),
    kernel_dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> jax.Array:
    """Cross-correlates one image with a kernel.

    Args:
      x: shape (height, width, in_channels).
      kernel: shape (height, width, in_channels / groups, out_channels), in the dtype of `x`.
      strides: step of the kernel.
      padding: zeros on each side; negative numbers cut pixels off.
      input_dilation: distance between neighbouring pixels of `x`, with zeros between them.
      kernel_dilation: distance between neighbouring taps.
      groups: number of channel groups.

    Returns:
      Shape (out_height, out_width, out_channels), in the dtype of `x`.
    """
    return lax.conv_general_dilated(
        x[None],
        kernel,
        window_strides=strides,
        padding=padding,
        lhs_dilation=input_dilation,
        rhs_dilation=kernel_dilation,
        dimension_numbers=_LAYOUT,
        feature_group_count=groups,
    )[0]
