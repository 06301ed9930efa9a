"""Classification of whole images: one label for an image, or several."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcnn.ops.check import at_least_float32, check_array
from jaxcnn.tasks.examples import take, weighted
from jaxcnn.tasks.losses import as_weights, check_smoothing, check_weights, cross_entropy, nan_unless
from jaxcnn.tasks.means import figures
from jaxcnn.types import Example, Mean, Objective
from jaxcnn.values import Value


@dataclass(frozen=True, repr=False)
class Classification(Value):
    """One label for each image, by softmax cross-entropy.

    `batch["label"]` is (batch,) of integers in [0, num_classes), or (batch, num_classes) of floating point: the share
    of each class, as mixup makes them. Outputs are logits (batch, num_classes).

    The loss of an example has the weight of its class, `class_weights[label]`; with shares, the mean of the class
    weights by the shares. So a share of 1 for one class gives the same as its label.
    `torch.nn.functional.cross_entropy` does the same for labels; for shares it divides by the number of examples.

    Attributes:
      label_smoothing: weight of the uniform distribution in the target, in [0, 1).
      class_weights: weight of each class, at least 0, or None for 1.
      per_class: whether the metrics include "precision", "recall" and "f1" of each class.
    """

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    per_class: bool = False

    def __post_init__(self) -> None:
        check_smoothing("Classification", self.label_smoothing)
        check_weights("Classification", "class_weights", self.class_weights)

    @property
    def objective(self) -> Objective:
        """The largest accuracy."""
        return Objective("accuracy", larger_is_better=True)

    def loss(self, outputs: jax.Array, batch: Example) -> Mean:
        """Computes the cross-entropy; see `jaxcnn.types.Task.loss`."""
        check_array("Classification", outputs)
        labels = take("Classification", batch, "label")
        losses = cross_entropy(outputs, labels, label_smoothing=self.label_smoothing, class_weights=self.class_weights)
        if self.class_weights is None:
            return weighted(losses, 1, batch)
        each = as_weights("Classification", self.class_weights, outputs).astype(losses.dtype)
        if labels.ndim == 1:
            return weighted(losses, each.at[labels].get(mode="fill", fill_value=0), batch)
        return weighted(losses, labels.astype(losses.dtype) @ each, batch)

    def metrics(self, outputs: jax.Array, batch: Example) -> dict[str, Mean]:
        """Counts examples whose largest logit is that of their label, and whose label is among the five largest.

        Of equal logits, the first counts as the largest. If labels are shares, the class with the largest share counts.

        Args:
          outputs: logits (batch, num_classes).
          batch: the examples.

        Returns:
          "accuracy", and "top5_accuracy" if there are more than 5 classes; with `per_class` also "precision", "recall"
          and "f1", one mean for each class. The weight of a recall is the weight of the examples of its class.
        """
        labels = take("Classification", batch, "label")
        labels = (jnp.argmax(labels, 1) if labels.ndim == 2 else labels).astype(jnp.int32)
        outputs = jax.lax.stop_gradient(outputs)

        def among_largest(count: int) -> Mean:
            _, largest = jax.lax.top_k(outputs, count)
            hits = jnp.any(largest.astype(jnp.int32) == labels[:, None], axis=1)
            return weighted(hits.astype(at_least_float32(outputs.dtype)), 1, batch)

        measured = {"accuracy": among_largest(1)}
        if outputs.shape[1] > 5:
            measured["top5_accuracy"] = among_largest(5)
        if self.per_class:
            each_class = jnp.arange(outputs.shape[1], dtype=jnp.int32)
            predicted = jnp.argmax(outputs, axis=1).astype(jnp.int32)
            measured |= _of_each_class(
                labels[:, None] == each_class, predicted[:, None] == each_class, outputs.dtype, batch
            )
        return measured

    def decode(self, outputs: jax.Array) -> jax.Array:
        """Returns the probabilities of the classes, shape (batch, num_classes)."""
        return jax.nn.softmax(outputs)

    def report(self, sums: dict[str, Mean]) -> dict[str, float]:
        """Returns a number for each metric; see `jaxcnn.tasks.figures`."""
        return figures(sums)


@dataclass(frozen=True, repr=False)
class MultiLabel(Value):
    """Any number of labels for each image, by sigmoid cross-entropy of each class.

    `batch["label"]` is (batch, num_classes) with 1 for the classes of the image and 0 for the others, of any dtype;
    shares between 0 and 1 are accepted. Outputs are logits (batch, num_classes). A label outside [0, 1] has the loss
    NaN. The loss of an example is the mean over its classes.

    Attributes:
      positive_weights: factor of the loss of each class in images that have it, at least 0, or None for 1
        (`pos_weight` of torch).
      threshold: least probability with which a class is predicted, in (0, 1).
    """

    positive_weights: tuple[float, ...] | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_weights("MultiLabel", "positive_weights", self.positive_weights)
        if not 0 < self.threshold < 1:
            raise ValueError(f"MultiLabel expects a threshold in (0, 1), got {self.threshold!r}")

    @property
    def objective(self) -> Objective:
        """The largest F1 score, averaged over the classes."""
        return Objective("mean_f1", larger_is_better=True)

    def loss(self, outputs: jax.Array, batch: Example) -> Mean:
        """Computes the sigmoid cross-entropy; see `jaxcnn.types.Task.loss`."""
        labels = self._labels(outputs, batch)
        losses = optax.sigmoid_binary_cross_entropy(outputs, labels)
        if self.positive_weights is not None:
            factors = as_weights("MultiLabel", self.positive_weights, outputs) - 1
            losses = losses + factors * labels * jax.nn.softplus(-outputs)
        losses = nan_unless((labels >= 0) & (labels <= 1), losses)
        return weighted(jnp.mean(losses, axis=1), 1, batch)

    def metrics(self, outputs: jax.Array, batch: Example) -> dict[str, Mean]:
        """Counts right and wrong classes.

        Args:
          outputs: logits (batch, num_classes).
          batch: the examples.

        Returns:
          "precision", "recall" and "f1", one mean for each class; and "subset_accuracy", the share of the examples
          with no wrong class.
        """
        there = self._labels(outputs, batch) >= 0.5
        predicted = self.decode(jax.lax.stop_gradient(outputs)) >= self.threshold

        all_right = jnp.all(there == predicted, axis=1)
        return {
            **_of_each_class(there, predicted, outputs.dtype, batch),
            "subset_accuracy": weighted(all_right.astype(at_least_float32(outputs.dtype)), 1, batch),
        }

    def decode(self, outputs: jax.Array) -> jax.Array:
        """Returns the probability of each class, shape (batch, num_classes)."""
        return jax.nn.sigmoid(outputs)

    def report(self, sums: dict[str, Mean]) -> dict[str, float]:
        """Returns a number for each metric; see `jaxcnn.tasks.figures`."""
        return figures(sums)

    def _labels(self, outputs: jax.Array, batch: Example) -> jax.Array:
        check_array("MultiLabel", outputs)
        labels = take("MultiLabel", batch, "label")
        if labels.shape != outputs.shape:
            raise ValueError(
                f"MultiLabel expects logits and labels (batch, num_classes), got {outputs.shape} and {labels.shape}"
            )
        return labels.astype(outputs.dtype)


def _of_each_class(there: jax.Array, predicted: jax.Array, dtype: Any, batch: Example) -> dict[str, Mean]:
    """Counts right and wrong examples of each class.

    Args:
      there: which classes the examples have, bool, shape (batch, num_classes).
      predicted: which classes are predicted, of the same shape.
      dtype: of the outputs.
      batch: the examples.

    Returns:
      "precision", "recall" and "f1", of shape (num_classes,).
    """
    right, relevant, chosen = (which.astype(at_least_float32(dtype)) for which in (there & predicted, there, predicted))
    return {
        "precision": weighted(right, chosen, batch),
        "recall": weighted(right, relevant, batch),
        "f1": weighted(2 * right, relevant + chosen, batch),
    }
