"""Models that normalise the pixels of their images first, as published weights expect."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxcnn.layers import AuxiliaryHeads, Composite, Function, Run, Sequential
from jaxcnn.types import Layer


class Normalization(NamedTuple):
    """Normalization of pixels in [0, 1] that weights expect.

    Attributes:
      mean: mean of each channel.
      std: standard deviation of each channel.
      reverse: whether the order of the channels is reversed first.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    reverse: bool = False


@dataclass(frozen=True, repr=False)
class Normalized(Composite):
    """A model after a normalization of the pixels; its parameters and state are those of the model.

    Attributes:
      normalize: the normalization.
      body: the model.
    """

    inlined: ClassVar[str | None] = "body"

    normalize: Layer
    body: Layer

    def forward(self, run: Run, x: Any) -> Any:
        """Normalises one image, or the image of an example, and applies the model."""
        if isinstance(x, Mapping):
            return run.body({**x, "image": run.normalize(x["image"])})
        return run.body(run.normalize(x))


def normalized(model: Layer, normalization: Normalization | None) -> Any:
    """Puts a normalization of the pixels before a model, as a layer named "normalize".

    Args:
      model: a model made of layers.
      normalization: the normalization that its weights expect, or None.

    Returns:
      The model, with this layer as its first, or a `Normalized` for one that is not a row of layers; unchanged for
      None.

    Raises:
      TypeError: it is a single layer.
    """
    if normalization is None:
        return model
    layer = Function(normalize, **normalization._asdict())
    match model:
        case AuxiliaryHeads():
            return AuxiliaryHeads(*model.heads, normalize=layer, **dict(model.layers))
        case Sequential():
            return Sequential(normalize=layer, **dict(model.layers))
        case Composite():
            return Normalized(layer, model)
    raise TypeError(f"normalized expects a model made of layers, got {model!r:.200}")


def normalize(image: jax.Array, *, mean: tuple[float, ...], std: tuple[float, ...], reverse: bool = False) -> jax.Array:
    """Subtracts the mean of each channel and divides by its standard deviation, in float32.

    Args:
      image: shape (height, width, channels).
      mean: mean of each channel.
      std: standard deviation of each channel.
      reverse: whether the order of the channels is reversed first.

    Returns:
      The normalised image, in the dtype of `image`.
    """
    pixels = (image[..., ::-1] if reverse else image).astype(jnp.float32)
    return ((pixels - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)).astype(image.dtype)
