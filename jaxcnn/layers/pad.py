"""Padding as a layer of its own."""

from dataclasses import dataclass

import jax

from jaxcnn import ops
from jaxcnn.layers.stateless import Stateless
from jaxcnn.ops.arithmetic import pad_sides
from jaxcnn.ops.check import Sides
from jaxcnn.ops.conv import Border
from jaxcnn.types import Params, State
from jaxcnn.values import Value


@dataclass(frozen=True, repr=False)
class Pad(Stateless, Value):
    """Pixels around an image: `jaxcnn.ops.pad`. Convolutions and poolings pad by themselves; this is for other borders.

    Attributes:
      padding: number of pixels: an int for all sides or ((top, bottom), (left, right)).
      border: what they hold: "zeros", "edge", "reflect", "circular", or a number.
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
