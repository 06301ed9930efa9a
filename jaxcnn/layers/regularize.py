"""Layers that drop at random in training and do nothing otherwise."""

from dataclasses import dataclass

import jax

from jaxcnn import ops
from jaxcnn.layers.stateless import Stateless
from jaxcnn.ops.check import check_rate
from jaxcnn.types import Params, State
from jaxcnn.values import Value


@dataclass(frozen=True, repr=False)
class Dropout(Stateless, Value):
    """Drops single values in training, or whole channels: `jaxcnn.ops.dropout`.

    Attributes:
      rate: probability of dropping, in [0, 1).
      whole_channels: whether all pixels of a channel are dropped together (Tompson et al. 2015, section 3.2), as by
        torch's `Dropout2d`.
    """

    rate: float
    whole_channels: bool = False

    def __post_init__(self) -> None:
        check_rate("Dropout", self.rate)

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Drops values of `x`, any shape; in training it needs the key."""
        del params
        if not train or self.rate == 0:
            return x, state
        return ops.dropout(_needed("Dropout", key), x, self.rate, whole_channels=self.whole_channels), state


@dataclass(frozen=True, repr=False)
class DropPath(Stateless, Value):
    """Drops a whole residual branch for an image in training: `jaxcnn.ops.drop_path`.

    Attributes:
      rate: probability of dropping, in [0, 1).
    """

    rate: float

    def __post_init__(self) -> None:
        check_rate("DropPath", self.rate)

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Drops all of `x` or nothing; in training it needs the key."""
        del params
        if not train or self.rate == 0:
            return x, state
        return ops.drop_path(_needed("DropPath", key), x, self.rate), state


def _needed(layer: str, key: jax.Array | None) -> jax.Array:
    if key is None:
        raise ValueError(f"{layer} draws random numbers in training and expects a key, got None; pass key=...")
    return key
