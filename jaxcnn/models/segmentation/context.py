"""Layers that see the coarsest map of an encoder, and means of it over regions as context."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from jaxcnn.layers import Composite, Run
from jaxcnn.ops import adaptive_avg_pool
from jaxcnn.ops.resizing import resize
from jaxcnn.types import Layer


@dataclass(frozen=True, repr=False)
class OnCoarsest(Composite):
    """Applies a layer to the last of several maps. Parameters and state are those of the layer.

    Attributes:
      layer: the layer.
    """

    inlined: ClassVar[str | None] = "layer"

    layer: Layer

    def forward(self, run: Run, x: tuple[jax.Array, ...]) -> Any:
        """Returns the result of the layer for the last map."""
        return run.layer(x[-1])


@dataclass(frozen=True, repr=False)
class GridContext(Composite):
    """Means over the regions of a grid, projected and enlarged to the size of the map (Zhao et al. 2017, section 3.2).

    Parameters and state are those of the projection.

    Attributes:
      project: the projection, usually a 1x1 convolution with normalisation and activation.
      size: rows and columns of the grid.
      align_corners: how the result is enlarged; see `jaxcnn.ops.resize`.
    """

    inlined: ClassVar[str | None] = "project"

    project: Layer
    size: int
    align_corners: bool = False

    def forward(self, run: Run, x: jax.Array) -> jax.Array:
        """Returns a map of the height and width of `x`."""
        y = run.project(adaptive_avg_pool(x, self.size))
        return resize(y, (x.shape[0], x.shape[1]), align_corners=self.align_corners)
