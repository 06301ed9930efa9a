"""Convolution arithmetic: sizes of outputs, paddings in pixels, and the composition of kernels.

Source: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning", 2016 (arXiv:1603.07285).
"""

import jax
import jax.numpy as jnp
from jax.core import max_dim, min_dim

from jaxcnn.ops.check import Padding, Sides, Size, as_image_size, as_padding, as_pair


def padding_sides(
    size: tuple[int, int],
    window_shape: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding,
    dilation: tuple[int, int] = (1, 1),
) -> Sides:
    """Turns a padding into pixels on each side.

    "SAME" pads so that the output has ceil(size / strides) pixels; an odd total puts the extra pixel at the
    bottom and at the right, as TensorFlow does, or with "SAME_LOWER" at the top and at the left (ONNX). At stride 2
    that differs from torch's symmetric padding.

    Args:
      size: (height, width) of the image.
      window_shape: (height, width) of the kernel or window.
      strides: step of the window, (vertical, horizontal).
      padding: "VALID", "SAME", "SAME_LOWER", an int or ((top, bottom), (left, right)).
      dilation: distance between neighbouring taps, (vertical, horizontal).

    Returns:
      ((top, bottom), (left, right)).
    """
    padding = as_padding(padding)
    if padding == "VALID":
        return (0, 0), (0, 0)
    if not isinstance(padding, str):
        return padding
    vertical, horizontal = (
        max_dim((n - 1) // s * s + d * (k - 1) + 1 - n, 0)
        for n, k, s, d in zip(size, window_shape, strides, dilation, strict=True)
    )
    sides = (vertical // 2, vertical - vertical // 2), (horizontal // 2, horizontal - horizontal // 2)
    if padding == "SAME_LOWER":
        sides = (vertical - vertical // 2, vertical // 2), (horizontal - horizontal // 2, horizontal // 2)
    return sides


def conv_output_size(
    size: Size, kernel_size: Size, *, strides: Size = 1, padding: Padding = "VALID", dilation: Size = 1
) -> tuple[int, int]:
    """Computes the size of a convolution's output: floor((n + pads - dilation (k - 1) - 1) / stride) + 1.

    Args:
      size: (height, width) of the image, in pixels.
      kernel_size: (height, width) of the kernel, in taps.
      strides: step of the kernel, in pixels.
      padding: "VALID", "SAME", "SAME_LOWER", an int or ((top, bottom), (left, right)).
      dilation: distance between neighbouring taps, in pixels.

    Returns:
      (height, width) of the output.

    Raises:
      ValueError: the dilated kernel is larger than the padded image.
    """
    size, kernel_size = as_image_size("size", size), as_pair("kernel_size", kernel_size)
    strides, dilation = as_pair("strides", strides), as_pair("dilation", dilation)
    sides = padding_sides(size, kernel_size, strides, padding, dilation)
    extent = tuple(d * (k - 1) + 1 for k, d in zip(kernel_size, dilation, strict=True))
    padded = tuple(n + sum(side) for n, side in zip(size, sides, strict=True))
    if extent[0] > padded[0] or extent[1] > padded[1]:
        raise ValueError(
            f"expected a kernel that fits the padded image of {padded[0]}x{padded[1]} pixels, got one that spans "
            f"{extent[0]}x{extent[1]}; use a smaller kernel or dilation, more padding or a larger image"
        )
    return (padded[0] - extent[0]) // strides[0] + 1, (padded[1] - extent[1]) // strides[1] + 1


def conv_transpose_output_size(
    size: Size,
    kernel_size: Size,
    *,
    strides: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    dilation: Size = 1,
) -> tuple[int, int]:
    """Computes the size of a transposed convolution's output, as torch defines it.

    (n - 1) stride - pads + dilation (k - 1) + output_padding + 1.

    Args:
      size: (height, width) of the image, in pixels.
      kernel_size: (height, width) of the kernel, in taps.
      strides: distance between neighbouring copies of the kernel, in pixels of the output.
      padding: pixels removed from the output: "VALID" (none), an int or ((top, bottom), (left, right)).
      output_padding: pixels added at the bottom and at the right.
      dilation: distance between neighbouring taps, in pixels of the output.

    Returns:
      (height, width) of the output.

    Raises:
      ValueError: the padding is "SAME" or "SAME_LOWER" or removes the whole output, or the output padding reaches both
        the stride and the dilation.
    """
    size, kernel_size = as_image_size("size", size), as_pair("kernel_size", kernel_size)
    strides, dilation = as_pair("strides", strides), as_pair("dilation", dilation)
    output_padding = as_pair("output_padding", output_padding, minimum=0)
    sides = transpose_padding_sides(padding)
    for axis in (0, 1):
        if output_padding[axis] and output_padding[axis] >= max(strides[axis], dilation[axis]):
            raise ValueError(
                "expected an output_padding smaller than the strides or the dilation, got output_padding "
                f"{output_padding}, strides {strides}, dilation {dilation}"
            )
    height, width = (
        (size[axis] - 1) * strides[axis]
        - sum(sides[axis])
        + dilation[axis] * (kernel_size[axis] - 1)
        + output_padding[axis]
        + 1
        for axis in (0, 1)
    )
    if height < 1 or width < 1:
        raise ValueError(
            f"expected a padding that leaves some output, got {sides}, which leaves {height}x{width} pixels; "
            "use less padding or a larger image"
        )
    return height, width


def transpose_padding_sides(padding: Padding) -> Sides:
    """Turns the padding of a transposed convolution into pixels on each side.

    Args:
      padding: "VALID", an int or ((top, bottom), (left, right)).

    Returns:
      ((top, bottom), (left, right)).

    Raises:
      ValueError: the padding is "SAME" or "SAME_LOWER", which match several output sizes.
    """
    padding = as_padding(padding)
    if padding in ("SAME", "SAME_LOWER"):
        raise ValueError(
            f"conv_transpose expects a padding in pixels, got {padding!r}, which fits several output sizes; "
            "give an int or ((top, bottom), (left, right)), and output_padding"
        )
    return ((0, 0), (0, 0)) if padding == "VALID" else padding


def pad_sides(padding: int | Sides) -> Sides:
    """Turns the padding of `pad` into pixels on each side.

    Args:
      padding: an int or ((top, bottom), (left, right)).

    Returns:
      ((top, bottom), (left, right)).

    Raises:
      ValueError: the padding is neither, or it is negative.
    """
    sides = as_padding(padding)
    if isinstance(sides, str):
        raise ValueError(f"pad expects a number of pixels or ((top, bottom), (left, right)), got {padding!r}")
    return sides if not isinstance(sides, int) else ((sides, sides), (sides, sides))


def pool_output_size(
    size: Size,
    window_shape: Size,
    *,
    strides: Size | None = None,
    padding: Padding = "VALID",
    ceil_mode: bool = False,
    dilation: Size = 1,
) -> tuple[int, int]:
    """Computes the size of a pooling layer's output.

    Args:
      size: (height, width) of the image, in pixels.
      window_shape: (height, width) of the window, in taps.
      strides: step of the window, in pixels; the window's shape if None.
      padding: "VALID", "SAME", "SAME_LOWER", an int or ((top, bottom), (left, right)); each side smaller than the
        dilated window, so that no window lies entirely in the border.
      ceil_mode: also take a last window that hangs over the bottom or right edge, as long as it starts inside
        the image or its top or left border (torch's rule).
      dilation: distance between neighbouring taps of the window, in pixels.

    Returns:
      (height, width) of the output.

    Raises:
      ValueError: a side of the padding is not smaller than the dilated window, the dilated window is larger than the
        padded image, or the taps of a window lie on both sides of the image and none inside.
    """
    size, window_shape = as_image_size("size", size), as_pair("window_shape", window_shape)
    strides = window_shape if strides is None else as_pair("strides", strides)
    dilation = as_pair("dilation", dilation)
    sides = padding_sides(size, window_shape, strides, padding, dilation)
    extent = tuple(d * (k - 1) + 1 for k, d in zip(window_shape, dilation, strict=True))
    output = []
    for n, k, s, d, (before, after) in zip(size, extent, strides, dilation, sides, strict=True):
        if before >= k or after >= k:
            raise ValueError(
                f"expected a padding smaller than the window of {extent} pixels, got {sides}: "
                "a window wholly in the border has no value"
            )
        room = n + before + after - k
        # In ceil mode a window may be larger than the padded image, by less than its step (torch's rule).
        if room + (s - 1 if ceil_mode else 0) < 0:
            raise ValueError(
                f"expected a window that fits the padded image, got a window of {extent} for an image of "
                f"{size} with padding {sides}; use a smaller window, more padding or a larger image"
            )
        # Ceil mode adds no window that starts beyond the image.
        output.append((min_dim((room - 1) // s + 1, (n + before - 1) // s) if ceil_mode else room // s) + 1)
        # Taps whose distance exceeds the size of the image may all miss it.
        if before and n < d and any((i * s - before) % d >= n for i in range(output[-1]) if i * s < before):
            raise ValueError(
                f"expected windows that have a tap inside the image, got a dilation of {dilation} for an image of "
                f"{size} with padding {sides}; use less dilation or less padding"
            )
    return output[0], output[1]


def compose_kernels(
    first: jax.Array,
    second: jax.Array,
    *,
    first_strides: Size = 1,
    first_dilation: Size = 1,
    second_dilation: Size = 1,
) -> jax.Array:
    """Computes the one kernel that equals two convolutions in a row: 3x3 and 3x3 make 5x5.

    `conv(conv(x, first, strides=s), second, strides=t)` equals `conv(x, composed, strides=s * t)`, all with
    padding "VALID" and without bias or groups (Dumoulin & Visin 2016, section 2; Simonyan & Zisserman 2015,
    section 2.3, for stacks of 3x3).

    Args:
      first: kernel applied first, shape (height, width, in_channels, mid_channels).
      second: kernel applied to its output, shape (height, width, mid_channels, out_channels).
      first_strides: strides of the first convolution.
      first_dilation: dilation of the first convolution.
      second_dilation: dilation of the second convolution, in pixels of the first one's output.

    Returns:
      The kernel, shape (height, width, in_channels, out_channels), with its dilations filled with zeros; along each
      axis it spans d1 (k1 - 1) + 1 + s1 d2 (k2 - 1) pixels.

    Raises:
      ValueError: a kernel does not have four axes, or the output channels of the first are not the input channels of
        the second.
    """
    if first.ndim != 4 or second.ndim != 4 or first.shape[3] != second.shape[2]:
        raise ValueError(
            "compose_kernels expects kernels of shapes (height, width, in, mid) and (height, width, mid, out), "
            f"got {first.shape} and {second.shape}"
        )
    strides = as_pair("first_strides", first_strides)
    inner = as_pair("first_dilation", first_dilation)
    outer = tuple(s * d for s, d in zip(strides, as_pair("second_dilation", second_dilation), strict=True))
    span = tuple(inner[axis] * (first.shape[axis] - 1) + outer[axis] * (second.shape[axis] - 1) + 1 for axis in (0, 1))
    composed = jnp.zeros((*span, first.shape[2], second.shape[3]), first.dtype)
    for row in range(second.shape[0]):
        for column in range(second.shape[1]):
            top, left = row * outer[0], column * outer[1]
            bottom = top + inner[0] * (first.shape[0] - 1) + 1
            right = left + inner[1] * (first.shape[1] - 1) + 1
            taps = jnp.einsum("hwim,mo->hwio", first, second[row, column], precision="highest")
            composed = composed.at[top : bottom : inner[0], left : right : inner[1]].add(taps)
    return composed
