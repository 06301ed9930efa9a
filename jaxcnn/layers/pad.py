"""The padding layer."""

from dataclasses import dataclass

import jax

from jaxcnn import ops
from jaxcnn.layers.stateless import Pure
from jaxcnn.ops.arithmetic import pad_sides
from jaxcnn.ops.check import Sides
from jaxcnn.ops.convolution import Border
from jaxcnn.values import Value


@dataclass(frozen=True, repr=False)
class Pad(Pure, Value):
    """Pads an image: `jaxcnn.ops.pad`. Convolution and pooling pad by themselves; use this layer for other borders.

    Attributes:
      padding: number of pixels: an int for all sides or ((top, bottom), (left, right)).
      border: values of these pixels: "zeros", "edge", "reflect", "circular", or a number.
    """

    padding: int | Sides
    border: Border | float = "zeros"

    def __post_init__(self) -> None:
        object.__setattr__(self, "padding", pad_sides(self.padding))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pads one image (height, width, channels)."""
        return ops.pad(x, self.padding, border=self.border)
