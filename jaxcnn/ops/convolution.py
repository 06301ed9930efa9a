"""Convolution and transposed convolution of one image."""

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import max_dim

from jaxcnn.ops import lowering
from jaxcnn.ops.arithmetic import (
    conv_output_size,
    conv_transpose_output_size,
    pad_sides,
    padding_sides,
    transpose_padding_sides,
)
from jaxcnn.ops.check import (
    Padding,
    Sides,
    Size,
    as_pair,
    at_least_float32,
    check_floating,
    check_image,
    check_vector,
    is_int,
    is_number,
)
from jaxcnn.ops.sizes import as_number, positions
from jaxcnn.ops.wide import add_bias

Border: TypeAlias = Literal["zeros", "edge", "reflect", "circular"]
"""Values of padded pixels: zeros; the nearest pixel; the image mirrored at its outermost pixels; the opposite side."""


def conv(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    strides: Size = 1,
    padding: Padding = "SAME",
    dilation: Size = 1,
    groups: int = 1,
    border: Border = "zeros",
) -> jax.Array:
    """Convolves one image with a kernel, without flipping it (cross-correlation, as in every CNN library).

    y[i, j, o] = bias[o] + sum over u, v, c of kernel[u, v, c, o] x[s i + d u - top, s j + d v - left, c], where with
    groups the sum runs over the input channels of the output channel's own group (LeCun et al. 1998, section II;
    groups: Krizhevsky et al. 2012, section 3.2). Under "SAME" an even kernel gets its extra pixel of padding at the
    bottom right.

    Args:
      x: image, shape (height, width, in_channels), floating point.
      kernel: shape (kernel_height, kernel_width, in_channels / groups, out_channels); computed in the dtype of `x`.
      bias: shape (out_channels,), or None.
      strides: step of the kernel, in pixels.
      padding: "VALID" (none), "SAME" (ceil(size / strides) outputs, the odd pixel at the bottom and right),
        "SAME_LOWER" (the odd pixel at the top and left), an int for all sides or ((top, bottom), (left, right)).
      dilation: distance between neighbouring taps, in pixels.
      groups: number of channel groups; it divides in_channels and out_channels.
      border: values of the padded pixels: "zeros", "edge", "reflect" or "circular".

    Returns:
      Shape (out_height, out_width, out_channels), in the dtype of `x`.

    Raises:
      ValueError: the shapes, sizes, groups or padding do not fit together.
      TypeError: `x` is not floating point.
    """
    check_image("conv", x)
    _check_kernel("conv", x, kernel, bias, groups)
    strides, dilation = as_pair("strides", strides), as_pair("dilation", dilation)
    size, window = (x.shape[0], x.shape[1]), (kernel.shape[0], kernel.shape[1])
    sides = padding_sides(size, window, strides, padding, dilation)
    output_size = conv_output_size(size, window, strides=strides, padding=sides, dilation=dilation)
    x, sides = _pad_border(x, sides, border)
    geometry = lowering.Geometry(strides, sides, dilation, groups, _precision())
    y = lowering.convolve(x[None], kernel.astype(x.dtype), geometry, output_size)[0]
    return add_bias(y, bias)


def conv_transpose(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    strides: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    border: Literal["zeros", "circular"] = "zeros",
) -> jax.Array:
    """Adds the kernel, scaled by each pixel of the image, to the output (torch's ConvTranspose2d).

    y[s i + d u - top, s j + d v - left, o] is the sum of x[i, j, c] kernel[u, v, c, o]. This is the gradient of `conv`
    with respect to its image (Dumoulin & Visin 2016, chapter 4; Zeiler et al. 2010).

    Args:
      x: image, shape (height, width, in_channels), floating point.
      kernel: shape (kernel_height, kernel_width, in_channels / groups, out_channels). torch's weight has the same
        numbers with axes (in_channels, out_channels / groups, kernel_height, kernel_width).
      bias: shape (out_channels,), or None.
      strides: distance between neighbouring copies of the kernel, in pixels of the output.
      padding: pixels removed from the output: "VALID" (none), an int for all sides or ((top, bottom), (left, right)).
      output_padding: pixels added at the bottom and at the right; smaller than the strides or the dilation.
      dilation: distance between neighbouring taps, in pixels of the output.
      groups: number of channel groups; it divides in_channels and out_channels.
      border: border of the convolution whose gradient this is. "zeros" drops the pixels that the padding removes;
        "circular" adds them on the opposite side. flax and Equinox have both, torch and Keras only "zeros", none of
        them "edge" or "reflect".

    Returns:
      Shape (out_height, out_width, out_channels), in the dtype of `x`, where
      out = (in - 1) stride - pads + dilation (kernel - 1) + output_padding + 1.

    Raises:
      ValueError: the shapes, sizes, groups or padding do not fit together, or the padding is "SAME" or "SAME_LOWER".
      TypeError: `x` is not floating point.
    """
    check_image("conv_transpose", x)
    _check_kernel("conv_transpose", x, kernel, bias, groups)
    strides, dilation = as_pair("strides", strides), as_pair("dilation", dilation)
    output_padding = as_pair("output_padding", output_padding, minimum=0)
    size, window = (x.shape[0], x.shape[1]), (kernel.shape[0], kernel.shape[1])
    output_size = conv_transpose_output_size(
        size, window, strides=strides, padding=padding, output_padding=output_padding, dilation=dilation
    )
    (top, bottom), (left, right) = transpose_padding_sides(padding)
    if border not in ("zeros", "circular"):
        raise ValueError(f"conv_transpose expects border 'zeros' or 'circular', got {border!r}")
    cut, stamped_size = ((top, bottom), (left, right)), output_size
    if border == "circular":
        _check_repeats(output_size, cut, border)
        stamped_size = (output_size[0] + top + bottom, output_size[1] + left + right)
        (top, bottom), (left, right) = (0, 0), (0, 0)
    # The output padding first restores pixels that the padding removed; any further pixels are zero.
    sides = (top, bottom - output_padding[0]), (left, right - output_padding[1])
    geometry = lowering.Geometry(strides, sides, dilation, groups, _precision())
    y = lowering.input_gradient(x[None], lowering.exchanged(kernel.astype(x.dtype), groups), geometry, stamped_size)[0]
    if border == "circular":
        y = _wrapped(y, cut, output_size)
    return add_bias(y, bias)


def _precision() -> str | None:
    """Returns the `jax.default_matmul_precision` of the caller."""
    return jax.config.values["jax_default_matmul_precision"]


def pad(x: jax.Array, padding: int | Sides, *, border: Border | float = "zeros") -> jax.Array:
    """Pads one image with a border of `conv` or with a constant.

    `conv` pads by itself. Use this before other operations, such as a max pooling whose border is zero.

    Args:
      x: image, shape (height, width, channels), floating point.
      padding: number of pixels: an int for all sides or ((top, bottom), (left, right)); at least 0.
      border: values of these pixels: "zeros", "edge", "reflect", "circular", or a number.

    Returns:
      Shape (height + top + bottom, width + left + right, channels), in the dtype of `x`.

    Raises:
      ValueError: `x` is not one image, the padding or the border is not one of the above, or the image is too small for
        this "reflect" or "circular" padding.
      TypeError: `x` is not floating point.
    """
    check_image("pad", x)
    return _padded(x, pad_sides(padding), border)


def _check_kernel(op: str, x: jax.Array, kernel: jax.Array, bias: jax.Array | None, groups: int) -> None:
    if kernel.ndim != 4 or 0 in kernel.shape:
        raise ValueError(
            f"{op} expects a kernel of shape (height, width, in_channels / groups, out_channels), got {kernel.shape}"
        )
    check_floating(f"{op}, kernel", kernel)
    in_channels, out_channels = x.shape[2], kernel.shape[3]
    if not is_int(groups) or groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(
            f"{op} expects groups to divide the {in_channels} input and {out_channels} output channels, got {groups!r}"
        )
    if kernel.shape[2] != in_channels // groups:
        raise ValueError(
            f"{op} expects an image of {kernel.shape[2] * groups} channels (a kernel of shape {kernel.shape}, "
            f"groups={groups}), got {in_channels} (an image of shape {x.shape})"
        )
    check_vector(op, "bias", bias, out_channels)


def _pad_border(x: jax.Array, sides: Sides, border: Border) -> tuple[jax.Array, Sides]:
    """Pads with a border that is not zero; the convolution itself pads with zeros."""
    return (x, sides) if border == "zeros" else (_padded(x, sides, border), ((0, 0), (0, 0)))


def _padded(x: jax.Array, sides: Sides, border: Border | float) -> jax.Array:
    if border == "zeros" or is_number(border):
        return jnp.pad(x, (*sides, (0, 0)), constant_values=0 if border == "zeros" else border)
    if border not in ("edge", "reflect", "circular"):
        raise ValueError(f"border expects 'zeros', 'edge', 'reflect' or 'circular', got {border!r}")
    _check_repeats((x.shape[0], x.shape[1]), sides, border)
    # The gradients of repeated pixels are summed in this dtype.
    y = x.astype(at_least_float32(x.dtype))
    for axis, side in enumerate(sides):
        size = x.shape[axis]
        pixel, size = positions(size + side[0] + side[1]) - as_number(side[0]), as_number(size)
        if border == "circular":
            pixel = pixel % size
        elif border == "reflect":
            pixel = size - 1 - abs(size - 1 - abs(pixel))
        places = pixel.clip(0, size - 1)[:, None]
        y = lowering.resample(y, axis, places, places * 0 + 1)
    return y.astype(x.dtype)


def _wrapped(y: jax.Array, sides: Sides, size: tuple[int, int]) -> jax.Array:
    """Adds the pixels outside an image of this size to the opposite side: the transpose of circular padding."""
    for axis, ((before, after), n) in enumerate(zip(sides, size, strict=True)):
        padded = as_number(n + before + after)
        places = (positions(n) + as_number(before))[:, None] + np.array([[-1, 0, 1]]) * as_number(n)
        inside = (places >= 0) & (places < padded)
        y = lowering.resample(y, axis, places.clip(0, padded - 1), inside)
    return y


def _check_repeats(size: tuple[int, int], sides: Sides, border: str) -> None:
    """Refuses a padding for which the image has too few pixels."""
    for n, side in zip(size, sides, strict=True):
        most = {"edge": max_dim(*side), "reflect": n - 1, "circular": n}[border]
        if max_dim(*side) > most:
            raise ValueError(
                f"border {border!r} expects a padding of at most {most} pixels for an image of {size}, got {sides}"
            )
