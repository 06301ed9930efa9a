"""Metrics as sums and counts, so that batches of any size add up exactly."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Metrics(NamedTuple):
    """Sums over examples: of a batch on the device, of an epoch as Python numbers; and the health of training steps.

    Attributes:
      loss: sum of the losses.
      correct: number of examples whose largest logit is that of their label.
      examples: number of examples.
      gradient_norm: Euclidean norm of the gradient of the mean loss; the largest of several steps, NaN if there is one.
        0 in evaluation.
      non_finite: number of arrays, of parameters and running moments, in which a training step left NaN or infinity.
        0 in evaluation.
    """

    loss: jax.Array | float = 0.0
    correct: jax.Array | int = 0
    examples: jax.Array | int = 0
    gradient_norm: jax.Array | float = 0.0
    non_finite: jax.Array | int = 0

    def plus(self, other: "Metrics") -> "Metrics":
        """Adds the metrics of other examples, as Python numbers; waits for the device."""
        return Metrics(
            float(self.loss) + float(other.loss),
            int(self.correct) + int(other.correct),
            int(self.examples) + int(other.examples),
            # Unlike Python's max, NumPy's keeps NaN.
            float(np.maximum(self.gradient_norm, other.gradient_norm)),
            int(self.non_finite) + int(other.non_finite),
        )

    def mean_loss(self) -> float:
        """The loss of the mean example; NaN if there is none."""
        return float(self.loss) / int(self.examples) if self.examples else float("nan")

    def accuracy(self) -> float:
        """The share of correct examples, in [0, 1]; NaN if there is none."""
        return int(self.correct) / int(self.examples) if self.examples else float("nan")


def batch_metrics(losses: jax.Array, logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None) -> Metrics:
    """Sums up a batch.

    Where several logits are largest, the first of them is the prediction.

    Args:
      losses: shape (batch,).
      logits: shape (batch, num_classes); or (batch, heads, num_classes), of which the first head's count, the main one.
      labels: shape (batch,), integers.
      mask: shape (batch,), bools: which examples count; all if None.

    Returns:
      The sums, as arrays on the device: loss in the dtype of `losses`, correct and examples int32.
    """
    mask = jnp.ones(labels.shape, bool) if mask is None else mask
    main = logits[:, 0] if logits.ndim == 3 else logits
    correct = (jnp.argmax(main, axis=1).astype(jnp.int32) == labels.astype(jnp.int32)) & mask
    return Metrics(
        jnp.sum(jnp.where(mask, losses, 0)), jnp.sum(correct, dtype=jnp.int32), jnp.sum(mask, dtype=jnp.int32)
    )
