"""Models that normalise the pixels of their images first, as published weights expect."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcnn.layers import AuxiliaryHeads, Function, Sequential
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


def normalized(model: Layer, normalization: Normalization | None) -> Any:
    """Puts a normalization of the pixels before a model, as a layer named "normalize".

    Args:
      model: a model whose layers have names: `Sequential` or `AuxiliaryHeads`.
      normalization: the normalization that its weights expect, or None.

    Returns:
      The model, with this layer; unchanged for None.

    Raises:
      TypeError: it is another kind of layer.
    """
    if normalization is None:
        return model
    if not isinstance(model, Sequential | AuxiliaryHeads):
        raise TypeError(f"normalized expects a Sequential or AuxiliaryHeads, got {model!r:.200}")
    layers = {"normalize": Function(normalize, **normalization._asdict()), **dict(model.layers)}
    return AuxiliaryHeads(*model.heads, **layers) if isinstance(model, AuxiliaryHeads) else Sequential(**layers)


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
