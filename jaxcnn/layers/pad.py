"""The padding layer."""

from dataclasses import dataclass

import jax

from jaxcnn import ops
from jaxcnn.layers.stateless import Stateless
from jaxcnn.ops.arithmetic import pad_sides
from jaxcnn.ops.check import Sides
from jaxcnn.ops.convolution import Border
from jaxcnn.types import Params, State
from jaxcnn.values import Value


@dataclass(frozen=True, repr=False)
class Pad(Stateless, Value):
    """Pads an image: `jaxcnn.ops.pad`. Convolution and pooling pad by themselves; use this layer for other borders.

    Attributes:
      padding: number of pixels: an int for all sides or ((top, bottom), (left, right)).
      border: values of these pixels: "zeros", "edge", "reflect", "circular", or a number.
    """

    padding: int | Sides
    border: Border | float = "zeros"

    def __post_init__(self) -> None:
        object.__setattr__(self, "padding", pad_sides(self.padding))

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Pads one image (height, width, channels)."""
        del params, train, key
        return ops.pad(x, self.padding, border=self.border), state
