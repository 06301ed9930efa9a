"""Layers that resize images or move data between channels and pixels."""

from dataclasses import dataclass
from typing import get_args

import jax

from jaxcnn import ops
from jaxcnn.layers.stateless import Pure
from jaxcnn.ops.check import Size, as_pair, as_scale
from jaxcnn.ops.resizing import Method
from jaxcnn.values import Value


@dataclass(frozen=True, repr=False)
class Resize(Pure, Value):
    """Resizes an image: `jaxcnn.ops.resize`.

    Attributes:
      output_shape: (height, width) of the output, in pixels; or None if `scale_factor` is given.
      scale_factor: factor of enlargement, (vertical, horizontal) or one number for both.
      method: "bilinear", "bicubic", "nearest", "nearest-exact" or "area".
      align_corners: whether the centres of the outermost pixels coincide.
      antialias: whether to widen the filter when shrinking.
    """

    output_shape: Size | None = None
    scale_factor: float | tuple[float, float] | None = None
    method: Method = "bilinear"
    align_corners: bool = False
    antialias: bool = False

    def __post_init__(self) -> None:
        if (self.output_shape is None) == (self.scale_factor is None):
            raise ValueError(f"Resize expects either output_shape or scale_factor, got {self!r}")
        if self.output_shape is not None:
            object.__setattr__(self, "output_shape", as_pair("output_shape", self.output_shape))
        if self.scale_factor is not None:
            object.__setattr__(self, "scale_factor", as_scale("scale_factor", self.scale_factor))
        if self.method not in get_args(Method):
            raise ValueError(f"Resize expects a method among {', '.join(map(repr, get_args(Method)))}, got {self!r}")

    def __call__(self, x: jax.Array) -> jax.Array:
        """Resizes one image (height, width, channels)."""
        return ops.resize(
            x,
            self.output_shape,
            scale_factor=self.scale_factor,
            method=self.method,
            align_corners=self.align_corners,
            antialias=self.antialias,
        )


@dataclass(frozen=True, repr=False)
class PixelShuffle(Pure, Value):
    """Moves groups of channels into squares of pixels: `jaxcnn.ops.pixel_shuffle`.

    Attributes:
      factor: side of the squares, in pixels.
    """

    factor: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", as_pair("factor", (self.factor, self.factor))[0])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the shuffle to one image (height, width, channels)."""
        return ops.pixel_shuffle(x, self.factor)


@dataclass(frozen=True, repr=False)
class PixelUnshuffle(Pure, Value):
    """Moves squares of pixels into channels: `jaxcnn.ops.pixel_unshuffle`.

    Attributes:
      factor: side of the squares, in pixels.
    """

    factor: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", as_pair("factor", (self.factor, self.factor))[0])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the inverse shuffle to one image (height, width, channels)."""
        return ops.pixel_unshuffle(x, self.factor)
