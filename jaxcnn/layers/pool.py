"""Pooling layers."""

from dataclasses import dataclass

import jax

from jaxcnn import ops
from jaxcnn.layers.stateless import Pure
from jaxcnn.ops.check import Padding, Size, as_adaptive_size, as_padding, as_pair
from jaxcnn.values import Value


@dataclass(frozen=True, repr=False)
class MaxPool(Pure, Value):
    """Maximum of each window: `jaxcnn.ops.max_pool`.

    Attributes:
      window_shape: (height, width) of the window, in taps.
      strides: step of the window, in pixels; the window's shape if None.
      padding: "VALID", "SAME", "SAME_LOWER", an int or ((top, bottom), (left, right)).
      ceil_mode: whether to take a last window that hangs over the bottom or right edge.
      dilation: distance between neighbouring taps of the window, in pixels.
    """

    window_shape: Size = (2, 2)
    strides: Size | None = None
    padding: Padding = "VALID"
    ceil_mode: bool = False
    dilation: Size = (1, 1)

    def __post_init__(self) -> None:
        _normalize_window(self)
        object.__setattr__(self, "dilation", as_pair("dilation", self.dilation))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pools one image (height, width, channels)."""
        return ops.max_pool(
            x,
            self.window_shape,
            strides=self.strides,
            padding=self.padding,
            ceil_mode=self.ceil_mode,
            dilation=self.dilation,
        )


@dataclass(frozen=True, repr=False)
class AvgPool(Pure, Value):
    """Mean of each window: `jaxcnn.ops.avg_pool`.

    Attributes:
      window_shape: (height, width) of the window, in pixels.
      strides: step of the window, in pixels; the window's shape if None.
      padding: "VALID", "SAME", "SAME_LOWER", an int or ((top, bottom), (left, right)).
      ceil_mode: whether to take a last window that hangs over the bottom or right edge.
      count_include_pad: whether padded pixels count as zeros in the mean.
    """

    window_shape: Size = (2, 2)
    strides: Size | None = None
    padding: Padding = "VALID"
    ceil_mode: bool = False
    count_include_pad: bool = True

    def __post_init__(self) -> None:
        _normalize_window(self)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pools one image (height, width, channels)."""
        return ops.avg_pool(
            x,
            self.window_shape,
            strides=self.strides,
            padding=self.padding,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
        )


@dataclass(frozen=True, repr=False)
class GlobalAvgPool(Pure, Value):
    """Mean of each channel over the image: (height, width, channels) to (channels,)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pools one image (height, width, channels)."""
        return ops.global_avg_pool(x)


@dataclass(frozen=True, repr=False)
class GlobalMaxPool(Pure, Value):
    """Maximum of each channel over the image: (height, width, channels) to (channels,)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pools one image (height, width, channels)."""
        return ops.global_max_pool(x)


@dataclass(frozen=True, repr=False)
class _Adaptive(Pure, Value):
    """What both adaptive poolings share: their option."""

    output_shape: Size | tuple[int | None, int | None]

    def __post_init__(self) -> None:
        height, width = as_adaptive_size(self.output_shape, (1, 1))
        if isinstance(shape := self.output_shape, tuple | list):
            height, width = (n if kept is not None else None for n, kept in zip((height, width), shape, strict=True))
        object.__setattr__(self, "output_shape", (height, width))


@dataclass(frozen=True, repr=False)
class AdaptiveAvgPool(_Adaptive):
    """Means of a grid of windows with a given output size: `jaxcnn.ops.adaptive_avg_pool`.

    Attributes:
      output_shape: (height, width) of the output; None keeps the size of an axis.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pools one image (height, width, channels)."""
        return ops.adaptive_avg_pool(x, self.output_shape)


@dataclass(frozen=True, repr=False)
class AdaptiveMaxPool(_Adaptive):
    """Maxima of a grid of windows with a given output size: `jaxcnn.ops.adaptive_max_pool`.

    Attributes:
      output_shape: (height, width) of the output; None keeps the size of an axis.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pools one image (height, width, channels)."""
        return ops.adaptive_max_pool(x, self.output_shape)


def _normalize_window(layer: MaxPool | AvgPool) -> None:
    object.__setattr__(layer, "window_shape", as_pair("window_shape", layer.window_shape))
    if layer.strides is not None:
        object.__setattr__(layer, "strides", as_pair("strides", layer.strides))
    object.__setattr__(layer, "padding", as_padding(layer.padding))
