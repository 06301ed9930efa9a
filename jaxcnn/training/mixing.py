"""Mixes the images of a batch and their labels: mixup and CutMix."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxcnn.tasks import soft_targets
from jaxcnn.types import Example
from jaxcnn.values import Value

Mix: TypeAlias = Callable[[jax.Array, Example], dict[str, Any]]
"""Maps a typed random key and a batch to a batch with images of the same shape; labels may become shares of classes."""


@dataclass(frozen=True, repr=False)
class Mixup(Value):
    """Mixes each image with another one of the batch, and their labels in the same shares (Zhang et al. 2018).

    The share of the first image is one number for the whole batch, drawn from Beta(alpha, alpha).
    `batch["label"]` is (batch,) of integers, or (batch, num_classes) of shares; it becomes shares.

    Attributes:
      num_classes: number of classes.
      alpha: parameter of the distribution, above 0: 0.1 to 0.4 for ImageNet (section 3.1).
    """

    num_classes: int
    alpha: float = 0.2

    def __post_init__(self) -> None:
        _check(self, self.num_classes, self.alpha)

    def __call__(self, key: jax.Array, batch: Example) -> dict[str, Any]:
        """Mixes a batch.

        Args:
          key: typed random key, consumed.
          batch: examples with "image" and "label", without "weight".

        Returns:
          The batch, with mixed images and labels.

        Raises:
          ValueError: the batch has weights, which have no meaning for a mixed example.
        """
        share_key, order_key = jax.random.split(key)
        share = jax.random.beta(share_key, self.alpha, self.alpha, dtype=jnp.float32)
        labels, images = _labels(self, batch), batch["image"]
        other = jax.random.permutation(order_key, images.shape[0])
        return {
            **batch,
            "image": _blend(share.astype(images.dtype), images, images[other]),
            "label": _blend(share, labels, labels[other]),
        }


@dataclass(frozen=True, repr=False)
class CutMix(Value):
    """Puts a rectangle of another image of the batch into each image; labels by area (Yun et al. 2019).

    One rectangle serves the whole batch. Its sides are sqrt(1 - share) of the image's, where the share is drawn from
    Beta(alpha, alpha), and its centre is anywhere in the image; the part outside the image is cut off. The labels are
    mixed by the area that remains (section 3.1 and appendix A). `batch["label"]` is as for `Mixup`.

    Attributes:
      num_classes: number of classes.
      alpha: parameter of the distribution, above 0; 1 in the paper.
    """

    num_classes: int
    alpha: float = 1.0

    def __post_init__(self) -> None:
        _check(self, self.num_classes, self.alpha)

    def __call__(self, key: jax.Array, batch: Example) -> dict[str, Any]:
        """Mixes a batch; see `Mixup.__call__`."""
        share_key, order_key, row_key, column_key = jax.random.split(key, 4)
        share = jax.random.beta(share_key, self.alpha, self.alpha, dtype=jnp.float32)
        labels, images = _labels(self, batch), batch["image"]
        side = jnp.sqrt(1 - share)
        rows = _interval(row_key, images.shape[1], side)
        columns = _interval(column_key, images.shape[2], side)
        inside = rows[:, None] & columns[None, :]
        kept = 1 - jnp.mean(inside.astype(jnp.float32))
        other = jax.random.permutation(order_key, images.shape[0])
        return {
            **batch,
            "image": jnp.where(inside[None, :, :, None], images[other], images),
            "label": _blend(kept, labels, labels[other]),
        }


@dataclass(frozen=True, repr=False)
class RandomMix(Value):
    """Applies one of several mixes to each batch, drawn anew for every batch, all equally likely.

    `RandomMix((Mixup(1000, 0.2), CutMix(1000, 1.0)))` mixes as `RandomChoice` of torchvision's training script, and as
    timm with `mixup_switch_prob` 0.5.

    Attributes:
      mixes: at least one, such as a `Mixup` and a `CutMix`.
    """

    mixes: tuple[Mix, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.mixes, tuple) or not self.mixes:
            raise ValueError(f"RandomMix expects a tuple of at least one mix, got {self.mixes!r}")

    def __call__(self, key: jax.Array, batch: Example) -> dict[str, Any]:
        """Mixes a batch; see `Mixup.__call__`."""
        choice_key, mix_key = jax.random.split(key)
        choice = jax.random.randint(choice_key, (), 0, len(self.mixes), jnp.int32)
        return jax.lax.switch(choice, self.mixes, mix_key, dict(batch))


@dataclass(frozen=True, repr=False)
class MixInTurn(Value):
    """Applies several mixes to each batch, one after the other: `MixInTurn((Mosaic(), ObjectMixup()))`.

    Attributes:
      mixes: at least one.
    """

    mixes: tuple[Mix, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.mixes, tuple) or not self.mixes:
            raise ValueError(f"MixInTurn expects a tuple of at least one mix, got {self.mixes!r}")

    def __call__(self, key: jax.Array, batch: Example) -> dict[str, Any]:
        """Mixes a batch; see `Mixup.__call__`."""
        mixed = dict(batch)
        for mix, mix_key in zip(self.mixes, jax.random.split(key, len(self.mixes)), strict=True):
            mixed = mix(mix_key, mixed)
        return mixed


def _interval(key: jax.Array, size: int, share: jax.Array) -> jax.Array:
    """Marks the pixels of a random interval of this share of the size, cut off at the ends."""
    centre = jax.random.randint(key, (), 0, size).astype(jnp.float32)
    half = share * size / 2
    pixels = jnp.arange(size, dtype=jnp.float32)
    return (pixels >= jnp.round(centre - half)) & (pixels < jnp.round(centre + half))


def _blend(share: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
    return share * one + (1 - share) * other


def _labels(mix: Mixup | CutMix, batch: Example) -> jax.Array:
    name = type(mix).__name__
    if "weight" in batch:
        raise ValueError(f'{name} expects a batch without "weight", got one; mix whole batches of training examples')
    if "label" not in batch:
        raise ValueError(f"{name} expects a batch with 'label', got {sorted(batch)}")
    labels = jnp.asarray(batch["label"])
    if labels.ndim == 1 and jnp.issubdtype(labels.dtype, jnp.integer):
        return soft_targets(labels, mix.num_classes)
    if labels.shape != (batch["image"].shape[0], mix.num_classes) or not jnp.issubdtype(labels.dtype, jnp.floating):
        raise ValueError(
            f"{name} expects labels (batch,) of integers or shares (batch, {mix.num_classes}), got "
            f"{labels.dtype} {labels.shape}"
        )
    return labels.astype(jnp.float32)


def _check(mix: Mixup | CutMix, num_classes: int, alpha: float) -> None:
    name = type(mix).__name__
    if num_classes < 2:
        raise ValueError(f"{name} expects at least 2 classes, got {num_classes}")
    if not 0 < alpha < float("inf"):
        raise ValueError(f"{name} expects a finite alpha above 0, got {alpha!r}")
