"""Computes output shapes, parameters, multiply-adds and receptive fields from the layer value alone.

Nothing here runs or traces a convolution. The numbers follow from the sizes by the formulas of Dumoulin & Visin 2016
(output sizes), Howard et al. 2017, section 3.1 (multiply-adds) and Araujo et al. 2019, "Computing receptive fields of
convolutional neural networks" (receptive fields). `jaxcnn.inspection` measures the same by tracing and by gradients.

Register the formulas of your own layers:

    @output_shape.register
    def _(layer: MyLayer, shape): ...
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from math import floor, lcm, prod
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcnn import ops, trees
from jaxcnn.layers.composite import LAYER_NOTE
from jaxcnn.layers.containers import (
    AuxiliaryHeads,
    Concat,
    Gate,
    Residual,
    Sequential,
    _check_joined,
    _check_weights,
)
from jaxcnn.layers.conv import Conv, ConvTranspose
from jaxcnn.layers.dense import Dense
from jaxcnn.layers.frozen import Frozen
from jaxcnn.layers.function import Flatten, Function
from jaxcnn.layers.norm import BatchNorm, GroupNorm, LayerNorm
from jaxcnn.layers.pad import Pad
from jaxcnn.layers.parameters import check_last_sizes
from jaxcnn.layers.pool import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool
from jaxcnn.layers.regularize import Dropout, DropPath
from jaxcnn.layers.resize import PixelShuffle, PixelUnshuffle, Resize
from jaxcnn.layers.scale import LayerScale
from jaxcnn.ops.arithmetic import pad_sides, transpose_padding_sides
from jaxcnn.ops.check import Size, as_adaptive_size, as_pair
from jaxcnn.types import Layer, Shape


class Span(NamedTuple):
    """The receptive field of one row (or column) of output pixels, along one axis.

    Output pixel i sees the input pixels from `start + i * stride` to `start + i * stride + extent`; pixels beyond the
    border are padding. After a transposed convolution these bounds are fractions, and the integers between them count.
    """

    extent: Fraction
    stride: Fraction
    start: Fraction

    @property
    def size(self) -> int:
        """Largest number of input pixels that an output pixel sees."""
        return floor(self.extent) + 1


@dataclass(frozen=True)
class ReceptiveField:
    """The input pixels that an output pixel depends on.

    Attributes:
      height: along the vertical axis.
      width: along the horizontal axis.
      whole: whether it is the whole image; then height and width span the image.
    """

    height: Span
    width: Span
    whole: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of the input."""
        return self.height.size, self.width.size

    def __str__(self) -> str:
        return "all" if self.whole else f"{self.height.size}x{self.width.size}"


class Window(NamedTuple):
    """The receptive field of one output pixel of a layer in the layer's own input, along one axis.

    Output pixel i sees the input pixels from `start + i * stride` to `start + i * stride + extent`.
    """

    extent: Fraction = Fraction(0)
    stride: Fraction = Fraction(1)
    start: Fraction = Fraction(0)


POINT = Window()
"""Each output pixel sees only the input pixel at its own position."""


class Row(NamedTuple):
    """The arithmetic of one layer within a model.

    Attributes:
      path: names of the containers and of the layer.
      layer: the layer.
      output_shape: shape of its output.
      parameters: number of its parameters.
      multiply_adds: its multiply-adds for one image.
      receptive_field: receptive field of a pixel of its output in the model's input.
      training_only: whether it is part of an auxiliary head, which evaluation does not compute.
    """

    path: str
    layer: Layer
    output_shape: Shape
    parameters: int
    multiply_adds: int
    receptive_field: ReceptiveField
    training_only: bool = False


def arithmetic(layer: Layer, input_shape: Shape) -> list[Row]:
    """Lists the arithmetic of every layer within a layer, in order of use.

    Args:
      layer: a layer or a whole model.
      input_shape: (height, width, channels) of one image, or (features,).

    Returns:
      A row for each layer that is not a container. After the layers of a `Residual`, `Concat` or `Gate`, a row for the
      container itself, without parameters or multiply-adds. The receptive field is that of the layer's output pixels in
      the input of the whole model; for a vector, it is the whole image. The rows of auxiliary heads are marked, because
      evaluation does not compute them.

    Raises:
      TypeError: a layer has no registered formulas.
      ValueError: the shapes do not fit together; a note names the layer.
    """
    return list(_walk(layer, tuple(input_shape), _pixel(input_shape), "", tuple(input_shape)))


def receptive_field(layer: Layer, input_shape: Shape) -> ReceptiveField:
    """Computes the receptive field of an output pixel of a layer or model in the input image.

    Args:
      layer: a layer or a whole model.
      input_shape: (height, width, channels) of one image.

    Returns:
      The receptive field of the last layer; one pixel if there is no layer. The size is an upper bound after a
      transposed convolution that is dilated (its taps may miss pixels) or that inverts earlier strides.

    Raises:
      TypeError: a layer has no registered formulas.
      ValueError: the shapes do not fit together.
    """
    rows = arithmetic(layer, input_shape)
    return rows[-1].receptive_field if rows else _pixel(input_shape)


def count_parameters(layer: Layer) -> int:
    """Counts the parameters of a layer or model, without drawing them.

    Args:
      layer: a layer or a whole model.

    Returns:
      The number of parameters, without running moments, which are state.
    """
    # Only these exact types: a subclass may draw other parameters.
    if type(layer) in (Sequential, Concat):
        return sum(count_parameters(inner) for _, inner in layer.layers)  # pyright: ignore[reportAttributeAccessIssue]
    if type(layer) is Residual:
        return count_parameters(layer.body) + count_parameters(layer.shortcut)
    if type(layer) in (Conv, ConvTranspose, Dense):
        shape: Shape = layer.kernel_shape  # pyright: ignore[reportAttributeAccessIssue]
        return prod(shape) + (shape[-1] if layer.use_bias else 0)  # pyright: ignore[reportAttributeAccessIssue]
    if type(layer) is LayerNorm:
        return prod(layer.sizes) * (layer.use_scale + layer.use_bias)
    if type(layer) in (BatchNorm, GroupNorm):
        return layer.channels * (layer.use_scale + layer.use_bias)  # pyright: ignore[reportAttributeAccessIssue]
    return _count_drawn(layer)


@functools.lru_cache(maxsize=4096)
def _count_drawn(layer: Layer) -> int:
    """Counts the parameters that a layer draws. Cached, because models repeat a few layers many times."""
    return trees.count(jax.eval_shape(layer.init, jax.random.key(0))[0])


@functools.singledispatch
def output_shape(layer: Layer, shape: Shape) -> Shape:
    """Computes the shape of a layer's output.

    Args:
      layer: a layer or a whole model.
      shape: shape of its input, (height, width, channels) or (features,).

    Returns:
      The shape of its output.

    Raises:
      TypeError: the layer has no registered formula.
      ValueError: the shape does not fit the layer.
    """
    raise TypeError(_unknown("output_shape", layer))


@functools.singledispatch
def multiply_adds(layer: Layer, shape: Shape) -> int:
    """Counts the multiply-adds of a layer's kernels for one image.

    Biases, normalisation, pooling and activations do not count, as usual in the literature (He et al. 2016, table 1).

    Args:
      layer: a layer or a whole model.
      shape: shape of its input, (height, width, channels) or (features,).

    Returns:
      The count; one multiply-add is two floating-point operations.

    Raises:
      TypeError: the layer has no registered formula.
    """
    raise TypeError(_unknown("multiply_adds", layer))


@functools.singledispatch
def windows(layer: Layer, shape: Shape) -> tuple[Window, Window] | None:
    """Returns the receptive field of one output pixel of a layer in the layer's own input.

    Args:
      layer: a layer that is not a container.
      shape: shape of its input, (height, width, channels) or (features,).

    Returns:
      The window along the vertical and the horizontal axis; None if it is the whole input.

    Raises:
      TypeError: the layer has no registered formula.
    """
    raise TypeError(_unknown("windows", layer))


@output_shape.register
def _(layer: Sequential, shape: Shape) -> Shape:
    for _, inner in layer.layers:
        shape = output_shape(inner, shape)
    return shape


@output_shape.register
def _(layer: Residual, shape: Shape) -> Shape:
    return _same_shape(output_shape(layer.body, shape), output_shape(layer.shortcut, shape))


@output_shape.register
def _(layer: AuxiliaryHeads, shape: Shape) -> Shape:
    for name, inner in layer.layers:
        shape = shape if name in layer.heads else output_shape(inner, shape)
    return shape


@output_shape.register
def _(layer: Concat, shape: Shape) -> Shape:
    return _joined_shape({name: output_shape(branch, shape) for name, branch in layer.layers})


@output_shape.register
def _(layer: Gate, shape: Shape) -> Shape:
    _check_weights(output_shape(layer.body, shape), shape)
    return shape


@output_shape.register
def _(layer: Frozen, shape: Shape) -> Shape:
    return output_shape(layer.layer, shape)


@output_shape.register
def _(layer: Conv, shape: Shape) -> Shape:
    height, width = _image("Conv", layer.in_channels, shape)
    size = ops.conv_output_size(
        (height, width), layer.kernel_size, strides=layer.strides, padding=layer.padding, dilation=layer.dilation
    )
    return (*size, layer.out_channels)


@output_shape.register
def _(layer: ConvTranspose, shape: Shape) -> Shape:
    size = ops.conv_transpose_output_size(
        _image("ConvTranspose", layer.in_channels, shape),
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        output_padding=layer.output_padding,
        dilation=layer.dilation,
    )
    return (*size, layer.out_channels)


@output_shape.register
def _(layer: Dense, shape: Shape) -> Shape:
    if not shape or shape[-1] != layer.in_features:
        raise ValueError(f"Dense expects {layer.in_features} features on the last axis, got shape {shape}")
    return (*shape[:-1], layer.out_features)


@output_shape.register(BatchNorm)
@output_shape.register(GroupNorm)
@output_shape.register(LayerNorm)
@output_shape.register(LayerScale)
def _(layer: BatchNorm | GroupNorm | LayerNorm | LayerScale, shape: Shape) -> Shape:
    check_last_sizes(type(layer).__name__, layer.sizes if isinstance(layer, LayerNorm) else (layer.channels,), shape)
    return shape


@output_shape.register(MaxPool)
@output_shape.register(AvgPool)
def _(layer: MaxPool | AvgPool, shape: Shape) -> Shape:
    size = ops.pool_output_size(
        _image(type(layer).__name__, None, shape),
        layer.window_shape,
        strides=layer.strides,
        padding=layer.padding,
        ceil_mode=layer.ceil_mode,
        dilation=_taps_apart(layer),
    )
    return (*size, shape[2])


@output_shape.register
def _(layer: Pad, shape: Shape) -> Shape:
    height, width = _image("Pad", None, shape)
    (top, bottom), (left, right) = pad_sides(layer.padding)
    return (height + top + bottom, width + left + right, shape[2])


@output_shape.register(GlobalAvgPool)
@output_shape.register(GlobalMaxPool)
def _(layer: GlobalAvgPool | GlobalMaxPool, shape: Shape) -> Shape:
    _image(type(layer).__name__, None, shape)
    return (shape[2],)


@output_shape.register(AdaptiveAvgPool)
@output_shape.register(AdaptiveMaxPool)
def _(layer: AdaptiveAvgPool | AdaptiveMaxPool, shape: Shape) -> Shape:
    size = _image(type(layer).__name__, None, shape)
    return (*as_adaptive_size(layer.output_shape, size), shape[2])


@output_shape.register(Resize)
@output_shape.register(PixelShuffle)
@output_shape.register(PixelUnshuffle)
def _(layer: Resize | PixelShuffle | PixelUnshuffle, shape: Shape) -> Shape:
    _image(type(layer).__name__, None, shape)
    return jax.eval_shape(
        lambda x: layer.apply({}, {}, x, train=False)[0], jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
    ).shape


@output_shape.register
def _(layer: Flatten, shape: Shape) -> Shape:
    return (prod(shape),)


@output_shape.register(Dropout)
@output_shape.register(DropPath)
def _(layer: Dropout | DropPath, shape: Shape) -> Shape:
    return shape


@output_shape.register
def _(layer: Function, shape: Shape) -> Shape:
    return _traced_shape(layer, tuple(shape))


@functools.lru_cache(maxsize=4096)
def _traced_shape(layer: Function, shape: Shape) -> Shape:
    """Traces a function. Cached, because models repeat the same activation many times."""
    return jax.eval_shape(layer, jax.ShapeDtypeStruct(shape, jnp.float32)).shape


@multiply_adds.register(Sequential)
@multiply_adds.register(AuxiliaryHeads)
def _(layer: Sequential | AuxiliaryHeads, shape: Shape) -> int:
    return sum(row.multiply_adds for row in arithmetic(layer, shape) if not row.training_only)


@multiply_adds.register
def _(layer: Residual, shape: Shape) -> int:
    return multiply_adds(layer.body, shape) + multiply_adds(layer.shortcut, shape)


@multiply_adds.register
def _(layer: Concat, shape: Shape) -> int:
    return sum(multiply_adds(branch, shape) for _, branch in layer.layers)


@multiply_adds.register
def _(layer: Gate, shape: Shape) -> int:
    return multiply_adds(layer.body, shape)


@multiply_adds.register
def _(layer: Frozen, shape: Shape) -> int:
    return multiply_adds(layer.layer, shape)


@multiply_adds.register
def _(layer: Conv, shape: Shape) -> int:
    taps = prod(as_pair("kernel_size", layer.kernel_size)) * layer.in_channels // layer.groups
    return prod(output_shape(layer, shape)) * taps


@multiply_adds.register
def _(layer: ConvTranspose, shape: Shape) -> int:
    return prod(shape) * prod(as_pair("kernel_size", layer.kernel_size)) * layer.out_channels // layer.groups


@multiply_adds.register
def _(layer: Dense, shape: Shape) -> int:
    return prod(shape) * layer.out_features


@windows.register
def _(layer: Conv, shape: Shape) -> tuple[Window, Window]:
    kernel, strides, dilation = _pairs(layer.kernel_size, layer.strides, layer.dilation)
    sides = ops.padding_sides((shape[0], shape[1]), kernel, strides, layer.padding, dilation)
    vertical, horizontal = (
        Window(Fraction(dilation[axis] * (kernel[axis] - 1)), Fraction(strides[axis]), Fraction(-sides[axis][0]))
        for axis in (0, 1)
    )
    return vertical, horizontal


@windows.register
def _(layer: ConvTranspose, shape: Shape) -> tuple[Window, Window]:
    kernel, strides, dilation = _pairs(layer.kernel_size, layer.strides, layer.dilation)
    sides = transpose_padding_sides(layer.padding)
    # Input i is added to output o if o = stride i + dilation tap - padding for some tap.
    vertical, horizontal = (
        Window(
            extent=Fraction(dilation[axis] * (kernel[axis] - 1), strides[axis]),
            stride=Fraction(1, strides[axis]),
            start=Fraction(sides[axis][0] - dilation[axis] * (kernel[axis] - 1), strides[axis]),
        )
        for axis in (0, 1)
    )
    return vertical, horizontal


@windows.register(MaxPool)
@windows.register(AvgPool)
def _(layer: MaxPool | AvgPool, shape: Shape) -> tuple[Window, Window]:
    window = as_pair("window_shape", layer.window_shape)
    strides = window if layer.strides is None else as_pair("strides", layer.strides)
    dilation = _taps_apart(layer)
    sides = ops.padding_sides((shape[0], shape[1]), window, strides, layer.padding, dilation)
    vertical, horizontal = (
        Window(Fraction(dilation[axis] * (window[axis] - 1)), Fraction(strides[axis]), Fraction(-sides[axis][0]))
        for axis in (0, 1)
    )
    return vertical, horizontal


@windows.register
def _(layer: Pad, shape: Shape) -> tuple[Window, Window]:
    # Each output pixel is assumed to see the input pixel at its own position; pixels of a repeating border see others.
    (top, _), (left, _) = pad_sides(layer.padding)
    return Window(start=Fraction(-top)), Window(start=Fraction(-left))


@windows.register(AdaptiveAvgPool)
@windows.register(AdaptiveMaxPool)
def _(layer: AdaptiveAvgPool | AdaptiveMaxPool, shape: Shape) -> tuple[Window, Window]:
    output = as_adaptive_size(layer.output_shape, (shape[0], shape[1]))
    vertical, horizontal = (_adaptive(size, n) for size, n in zip(shape, output, strict=False))
    return vertical, horizontal


def _adaptive(size: int, n: int) -> Window:
    return Window(Fraction(max(-(-(i + 1) * size // n) - i * size // n for i in range(n)) - 1), Fraction(size, n))


@windows.register
def _(layer: Resize, shape: Shape) -> tuple[Window, Window]:
    output, factors = output_shape(layer, shape), layer.scale_factor
    vertical, horizontal = (
        _resized(layer, shape[axis], output[axis], factors[axis] if isinstance(factors, tuple) else None)
        for axis in (0, 1)
    )
    return vertical, horizontal


def _resized(layer: Resize, size: int, n: int, factor: float | None) -> Window:
    """Returns the receptive field of an output pixel along an axis; an upper bound with antialias."""
    if layer.method == "area":
        return _adaptive(size, n)
    corners = layer.align_corners
    stride = Fraction(size - 1, max(n - 1, 1)) if corners else Fraction(1 / factor) if factor else Fraction(size, n)
    if layer.antialias:
        reach = (1 if layer.method == "bilinear" else 2) * max(stride, Fraction(1))
        return Window(2 * reach, stride, stride / 2 - reach - Fraction(1, 2))
    # The taps are the pixel at or before the centre, and its neighbours.
    low, high = {"bilinear": (0, 1), "bicubic": (-1, 2)}.get(layer.method, (0, 0))
    centre = Fraction(0)
    if layer.method == "nearest-exact":
        centre = stride / 2
    elif layer.method in ("bilinear", "bicubic") and not corners:
        centre = stride / 2 - Fraction(1, 2)
    # Centres are integer multiples of 1 / parts, less than one pixel after the pixel before them.
    parts = lcm(stride.denominator, centre.denominator)
    if parts == 1:
        low = high = 0  # Centres of pixels: the neighbours have weight zero.
    most = 1 - Fraction(1, parts)
    return Window(high - low + most, stride, centre - most + low)


@windows.register
def _(layer: PixelShuffle, shape: Shape) -> tuple[Window, Window]:
    most = 1 - Fraction(1, layer.factor)
    return Window(most, Fraction(1, layer.factor), -most), Window(most, Fraction(1, layer.factor), -most)


@windows.register
def _(layer: PixelUnshuffle, shape: Shape) -> tuple[Window, Window]:
    square = Window(Fraction(layer.factor - 1), Fraction(layer.factor))
    return square, square


@windows.register(Dense)
@windows.register(BatchNorm)
@windows.register(LayerScale)
@windows.register(Dropout)
@windows.register(DropPath)
def _(layer: Layer, shape: Shape) -> tuple[Window, Window]:
    return POINT, POINT


@windows.register
def _(layer: LayerNorm, shape: Shape) -> tuple[Window, Window] | None:
    return (POINT, POINT) if len(layer.sizes) == 1 else None


@windows.register(GroupNorm)
@windows.register(GlobalAvgPool)
@windows.register(GlobalMaxPool)
@windows.register(Flatten)
def _(layer: Layer, shape: Shape) -> None:
    return None


@windows.register
def _(layer: Function, shape: Shape) -> tuple[Window, Window] | None:
    # The receptive field of an unknown function is not visible from outside: one that keeps the shape is assumed
    # pointwise.
    return (POINT, POINT) if output_shape(layer, shape)[:2] == shape[:2] else None


def _no_kernel(layer: Layer, shape: Shape) -> int:
    del layer, shape
    return 0


for _kind in (
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    AvgPool,
    BatchNorm,
    DropPath,
    Dropout,
    Flatten,
    Function,
    GlobalAvgPool,
    GlobalMaxPool,
    GroupNorm,
    LayerNorm,
    LayerScale,
    MaxPool,
    Pad,
    PixelShuffle,
    PixelUnshuffle,
    Resize,
):
    multiply_adds.register(_kind)(_no_kernel)


def _walk(layer: Layer, shape: Shape, field: ReceptiveField, path: str, image: Shape) -> Iterator[Row]:
    """Yields the rows of a layer's parts; the last row has the shape and the receptive field of the layer itself."""
    if isinstance(layer, Sequential):
        for name, inner in layer.layers:
            for row in _walk(inner, shape, field, f"{path}/{name}".lstrip("/"), image):
                yield row
                shape, field = row.output_shape, row.receptive_field
        return
    if isinstance(layer, AuxiliaryHeads):
        last = None
        for name, inner in layer.layers:
            for row in _walk(inner, shape, field, f"{path}/{name}".lstrip("/"), image):
                if name in layer.heads:
                    yield row._replace(training_only=True)
                else:
                    yield row
                    shape, field = row.output_shape, row.receptive_field
                last = name
        if last in layer.heads:
            yield Row(path, layer, shape, 0, 0, field)
        return
    if isinstance(layer, Residual):
        ends = []
        for inner, place in ((layer.body, path), (layer.shortcut, f"{path}/shortcut".lstrip("/"))):
            rows = list(_walk(inner, shape, field, place, image))
            yield from rows
            ends.append((rows[-1].output_shape, rows[-1].receptive_field) if rows else (shape, field))
        with _located(path):
            joined = _same_shape(ends[0][0], ends[1][0])
        yield Row(path, layer, joined, 0, 0, _union(ends[0][1], ends[1][1], image))
        return
    if isinstance(layer, Concat):
        ends = {}
        for name, branch in layer.layers:
            rows = list(_walk(branch, shape, field, f"{path}/{name}".lstrip("/"), image))
            yield from rows
            ends[name] = (rows[-1].output_shape, rows[-1].receptive_field) if rows else (shape, field)
        with _located(path):
            joined = _joined_shape({name: end for name, (end, _) in ends.items()})
        seen = functools.reduce(functools.partial(_union, image=image), (end for _, end in ends.values()))
        yield Row(path, layer, joined, 0, 0, seen)
        return
    if isinstance(layer, Gate):
        rows = list(_walk(layer.body, shape, field, path, image))
        yield from rows
        weights, seen = (rows[-1].output_shape, rows[-1].receptive_field) if rows else (shape, field)
        with _located(path):
            _check_weights(weights, shape)
        yield Row(path, layer, shape, 0, 0, _union(field, seen, image))
        return
    if isinstance(layer, Frozen):
        yield from _walk(layer.layer, shape, field, path, image)
        return
    with _located(path):
        out = output_shape(layer, shape)
        work, seen = multiply_adds(layer, shape), windows(layer, shape)
    if field.whole or seen is None or len(out) != 3:
        field = _whole(image)
    else:
        field = ReceptiveField(_through(field.height, seen[0]), _through(field.width, seen[1]))
    yield Row(path, layer, out, count_parameters(layer), work, field)


@contextmanager
def _located(path: str) -> Iterator[None]:
    """Adds a note with the layer's path to an error."""
    try:
        yield
    except (TypeError, ValueError) as error:
        error.add_note(f"{LAYER_NOTE}{path!r}")
        raise


def _joined_shape(shapes: dict[str, Shape]) -> Shape:
    _check_joined(shapes)
    *size, _ = next(iter(shapes.values()))
    return (*size, sum(shape[-1] for shape in shapes.values()))


def _same_shape(body: Shape, shortcut: Shape) -> Shape:
    if body != shortcut:
        raise ValueError(f"Residual expects body and shortcut to give the same shape, got {body} and {shortcut}")
    return body


def _through(span: Span, window: Window) -> Span:
    """Extends a span by a window over the pixels that have this span."""
    return Span(
        extent=span.extent + window.extent * span.stride,
        stride=span.stride * window.stride,
        start=span.start + window.start * span.stride,
    )


def _union(one: ReceptiveField, other: ReceptiveField, image: Shape) -> ReceptiveField:
    if one.whole or other.whole:
        return _whole(image)

    def join(a: Span, b: Span) -> Span:
        start = min(a.start, b.start)
        return Span(max(a.start + a.extent, b.start + b.extent) - start, a.stride, start)

    return ReceptiveField(join(one.height, other.height), join(one.width, other.width))


def _whole(image: Shape) -> ReceptiveField:
    height, width = (image[0], image[1]) if len(image) == 3 else (1, 1)
    vertical, horizontal = (Span(Fraction(n - 1), Fraction(n), Fraction(0)) for n in (height, width))
    return ReceptiveField(vertical, horizontal, whole=True)


def _pixel(image: Shape) -> ReceptiveField:
    """Returns the receptive field of the image itself."""
    pixel = Span(Fraction(0), Fraction(1), Fraction(0))
    return ReceptiveField(pixel, pixel) if len(image) == 3 else _whole(image)


def _image(layer: str, channels: int | None, shape: Shape) -> tuple[int, int]:
    if len(shape) != 3 or channels not in (None, shape[2]):
        wanted = "channels" if channels is None else channels
        raise ValueError(f"{layer} expects one image of shape (height, width, {wanted}), got {shape}")
    return shape[0], shape[1]


def _pairs(kernel_size: Size, strides: Size, dilation: Size) -> tuple[tuple[int, int], ...]:
    return as_pair("kernel_size", kernel_size), as_pair("strides", strides), as_pair("dilation", dilation)


def _taps_apart(layer: MaxPool | AvgPool) -> tuple[int, int]:
    return as_pair("dilation", layer.dilation) if isinstance(layer, MaxPool) else (1, 1)


def _unknown(formula: str, layer: Layer) -> str:
    return (
        f"{type(layer).__name__} has no formula for its {formula}; "
        f"register a function of the layer and its input shape with jaxcnn.layers.arithmetic.{formula}.register"
    )
