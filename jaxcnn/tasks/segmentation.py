"""Semantic segmentation: one class for each pixel."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.check import at_least_float32, check_array
from jaxcnn.tasks.examples import take, weighted
from jaxcnn.tasks.losses import as_weights, check_smoothing, check_weights, cross_entropy
from jaxcnn.tasks.means import figures
from jaxcnn.types import Example, Mean, Objective
from jaxcnn.values import Value


@dataclass(frozen=True, repr=False)
class Segmentation(Value):
    """One class for each pixel, by softmax cross-entropy and, if asked, soft dice.

    `batch["mask"]` is (batch, height, width) of integers in [0, num_classes), or `ignore_index` for pixels that do not
    count. Outputs are logits (batch, height, width, num_classes).

    The loss is the mean over the pixels, each weighted by the class of its mask, plus `dice_weight` times the mean of
    the images' dice losses, each weighted as the pixels of its image are. The dice loss of an image is
    1 - 2 sum(p t) / (sum(p) + sum(t)), the mean over the classes in its mask; p are the probabilities, t is 1 where the
    mask has the class (after Milletari et al. 2016, section 3, without its squares).

    Attributes:
      num_classes: number of classes.
      ignore_index: value of the mask in pixels that do not count, or None.
      class_weights: weight of the pixels of each class, at least 0, or None for 1.
      label_smoothing: weight of the uniform distribution in the target of the cross-entropy, in [0, 1).
      dice_weight: weight of the dice loss, at least 0.
      boundary_width: width of the bands of the boundary IoU as a part of the image's diagonal, such as 0.02, in (0, 1);
        None for no boundary IoU, which costs more than the other metrics.
    """

    num_classes: int
    ignore_index: int | None = 255
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    dice_weight: float = 0.0
    boundary_width: float | None = None

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise ValueError(
                f"Segmentation expects at least 2 classes, the background included, got {self.num_classes}"
            )
        check_smoothing("Segmentation", self.label_smoothing)
        check_weights("Segmentation", "class_weights", self.class_weights)
        if not 0 <= self.dice_weight < float("inf"):
            raise ValueError(f"Segmentation expects a finite dice_weight of at least 0, got {self.dice_weight!r}")
        if self.boundary_width is not None and not 0 < self.boundary_width < 1:
            raise ValueError(f"Segmentation expects a boundary_width in (0, 1), got {self.boundary_width!r}")

    @property
    def objective(self) -> Objective:
        """The largest intersection over union, averaged over the classes."""
        return Objective("mean_iou", larger_is_better=True)

    def loss(self, outputs: jax.Array, batch: Example) -> Mean:
        """Computes the loss; see `jaxcnn.types.Task.loss`."""
        mask, counted = self._mask(outputs, batch)
        losses = cross_entropy(outputs, mask, label_smoothing=self.label_smoothing, class_weights=self.class_weights)
        # `where` zeroes the ignored pixels, which have class 0 in `mask`. A class out of range keeps its NaN.
        totals = _sum_of_each(jnp.where(counted, losses, jnp.zeros((), losses.dtype)))
        weights = self._pixel_weights(outputs, mask) * counted.astype(losses.dtype)
        if self.dice_weight:
            totals = totals + self.dice_weight * _sum_of_each(weights) * _dice_losses(outputs, mask, counted)
        return weighted(totals, _sum_of_each(weights), batch)

    def metrics(self, outputs: jax.Array, batch: Example) -> dict[str, Mean]:
        """Counts the pixels that are right.

        Args:
          outputs: logits (batch, height, width, num_classes).
          batch: the examples.

        Returns:
          "pixel_accuracy"; and, one mean for each class, "iou": intersection over union, and "dice": twice the
          intersection over the sum of both areas. With `boundary_width`, also "boundary_iou": intersection over union
          of the bands along the inner side of the outlines (Cheng et al. 2021, section 4); an ignored pixel belongs to
          no class. Summed over a set, these are the counts of one confusion matrix of all its pixels.
        """
        mask, counted = self._mask(outputs, batch)
        predicted = self.decode(outputs)
        each_class = jnp.arange(self.num_classes, dtype=jnp.int32)
        is_predicted, is_there = predicted[..., None] == each_class, mask[..., None] == each_class

        def pixels(which: jax.Array) -> jax.Array:
            # Integers, since float32 cannot count beyond 2**24.
            return jnp.sum(which, axis=(1, 2), dtype=jnp.int32).astype(at_least_float32(outputs.dtype))

        is_predicted, is_there = is_predicted & counted[..., None], is_there & counted[..., None]
        shared, areas = pixels(is_predicted & is_there), pixels(is_predicted) + pixels(is_there)
        found = {
            "pixel_accuracy": weighted(pixels((predicted == mask) & counted), pixels(counted), batch),
            "iou": weighted(shared, areas - shared, batch),
            "dice": weighted(2 * shared, areas, batch),
        }
        if self.boundary_width is not None:
            height, width = mask.shape[1:]
            band = max(1, round(self.boundary_width * math.hypot(height, width)))
            outlines = [_inner_band(regions, band) for regions in (is_predicted, is_there)]
            shared, areas = pixels(outlines[0] & outlines[1]), pixels(outlines[0]) + pixels(outlines[1])
            found["boundary_iou"] = weighted(shared, areas - shared, batch)
        return found

    def decode(self, outputs: jax.Array) -> jax.Array:
        """Returns the likeliest class of each pixel, shape (batch, height, width), int32."""
        return jnp.argmax(outputs, axis=-1).astype(jnp.int32)

    def report(self, sums: dict[str, Mean]) -> dict[str, float]:
        """Returns a number for each metric; see `jaxcnn.tasks.figures`."""
        return figures(sums)

    def _mask(self, outputs: jax.Array, batch: Example) -> tuple[jax.Array, jax.Array]:
        """Returns the mask, with class 0 in ignored pixels, and which pixels count."""
        check_array("Segmentation", outputs)
        mask = take("Segmentation", batch, "mask")
        if outputs.ndim != 4 or outputs.shape[-1] != self.num_classes or mask.shape != outputs.shape[:-1]:
            raise ValueError(
                f"Segmentation expects logits (batch, height, width, {self.num_classes}) and masks "
                f"(batch, height, width), got {outputs.shape} and {mask.shape}"
            )
        if not jnp.issubdtype(mask.dtype, jnp.integer):
            raise TypeError(f"Segmentation expects masks of integers, got {mask.dtype}; cast them, as mask.astype(int)")
        mask = mask.astype(jnp.int32)
        if self.ignore_index is None:
            return mask, jnp.ones(mask.shape, bool)
        counted = mask != self.ignore_index
        return jnp.where(counted, mask, jnp.zeros((), mask.dtype)), counted

    def _pixel_weights(self, outputs: jax.Array, mask: jax.Array) -> jax.Array:
        if self.class_weights is None:
            return jnp.ones(mask.shape, outputs.dtype)
        weights = as_weights("Segmentation", self.class_weights, outputs)
        return weights.at[mask].get(mode="fill", fill_value=0)


def _sum_of_each(pixels: jax.Array) -> jax.Array:
    return jnp.sum(pixels, axis=(1, 2))


def _inner_band(regions: jax.Array, width: int) -> jax.Array:
    """Returns the pixels of regions (batch, height, width, classes) that are near another region or the border.

    A pixel is near if the square of 2 width + 1 pixels around it leaves the region or the image.
    """
    outside = jnp.pad(~regions, ((0, 0), (width, width), (width, width), (0, 0)), constant_values=True)
    for axis in (1, 2):
        window = [1, 1, 1, 1]
        window[axis] = 2 * width + 1
        outside = lax.reduce_window(outside, False, lax.bitwise_or, window, (1, 1, 1, 1), "VALID")
    return regions & outside


def _dice_losses(logits: jax.Array, mask: jax.Array, counted: jax.Array) -> jax.Array:
    """Computes the dice losses of images, shape (batch,); an image without pixels that count has none."""
    probabilities = jax.nn.softmax(logits) * counted[..., None].astype(logits.dtype)
    targets = jax.nn.one_hot(mask, logits.shape[-1], dtype=logits.dtype) * counted[..., None].astype(logits.dtype)
    overlap, areas = _sum_of_each(probabilities * targets), _sum_of_each(probabilities + targets)
    there = _sum_of_each(targets) > 0
    zero, one = jnp.zeros((), logits.dtype), jnp.ones((), logits.dtype)
    losses = jnp.where(there, 1 - 2 * overlap / jnp.where(there, areas, one), zero)
    return jnp.sum(losses, axis=1) / jnp.maximum(jnp.sum(there.astype(logits.dtype), axis=1), 1)
