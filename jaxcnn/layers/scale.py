"""The layer that scales channels."""

from dataclasses import dataclass
from math import isfinite

import jax

from jaxcnn.layers.drawing import fill
from jaxcnn.layers.parameters import check_last_sizes, check_positive, check_shapes
from jaxcnn.ops.wide import scale_channels
from jaxcnn.types import Params, State
from jaxcnn.values import Value


@dataclass(frozen=True, repr=False)
class LayerScale(Value):
    """Multiplies each channel by a trained number (Touvron et al. 2021, "Going deeper with image transformers").

    Put at the end of a residual branch, it lets a deep network start near the identity.

    Attributes:
      channels: channels of the image (its last axis).
      init_value: where the numbers start; finite.
    """

    channels: int
    init_value: float = 1e-6

    def __post_init__(self) -> None:
        check_positive("LayerScale", "channels", self.channels)
        if not isfinite(self.init_value):
            raise ValueError(f"LayerScale expects a finite init_value, got {self.init_value!r}")

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Returns the scale, `init_value` for each channel."""
        return {"scale": fill(self.init_value, key, (self.channels,))}, {}

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Scales the last axis of `x`, shape (..., channels)."""
        del train, key
        check_shapes("LayerScale parameters", params, {"scale": (self.channels,)})
        check_last_sizes("LayerScale", (self.channels,), x)
        return scale_channels(x, params["scale"]), state
