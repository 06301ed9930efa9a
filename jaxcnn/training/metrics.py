"""Metrics as sums and counts, which add up exactly for batches of any size."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Metrics(NamedTuple):
    """Sums over examples and checks of training steps: device arrays for a batch, Python numbers for an epoch.

    Attributes:
      loss: sum of the losses.
      correct: number of examples whose largest logit is that of their label.
      examples: number of examples.
      gradient_norm: Euclidean norm of the gradient of the mean loss; the maximum over several steps, NaN if any is NaN.
        0 in evaluation.
      non_finite: number of parameters and running moments (arrays) that are non-finite after a training step. 0 in
        evaluation.
    """

    loss: jax.Array | float = 0.0
    correct: jax.Array | int = 0
    examples: jax.Array | int = 0
    gradient_norm: jax.Array | float = 0.0
    non_finite: jax.Array | int = 0

    def plus(self, other: "Metrics") -> "Metrics":
        """Adds the metrics of other examples; waits for the device and returns Python numbers."""
        return Metrics(
            float(self.loss) + float(other.loss),
            int(self.correct) + int(other.correct),
            int(self.examples) + int(other.examples),
            # Unlike Python's `max`, NumPy's keeps NaN.
            float(np.maximum(self.gradient_norm, other.gradient_norm)),
            int(self.non_finite) + int(other.non_finite),
        )

    def mean_loss(self) -> float:
        """The mean loss; NaN without examples."""
        return float(self.loss) / int(self.examples) if self.examples else float("nan")

    def accuracy(self) -> float:
        """The fraction of correct examples, in [0, 1]; NaN without examples."""
        return int(self.correct) / int(self.examples) if self.examples else float("nan")


def batch_metrics(losses: jax.Array, logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None) -> Metrics:
    """Computes the metrics of a batch.

    If several logits are largest, the first of them is the prediction.

    Args:
      losses: shape (batch,).
      logits: shape (batch, num_classes); or (batch, heads, num_classes), where only the first head, the main one,
        counts.
      labels: shape (batch,), integers.
      mask: shape (batch,), bools: whether an example counts; all if None.

    Returns:
      The sums, as arrays on the device: loss in the dtype of `losses`, correct and examples int32.
    """
    mask = jnp.ones(labels.shape, bool) if mask is None else mask
    main = logits[:, 0] if logits.ndim == 3 else logits
    correct = (jnp.argmax(main, axis=1).astype(jnp.int32) == labels.astype(jnp.int32)) & mask
    return Metrics(
        jnp.sum(jnp.where(mask, losses, 0)), jnp.sum(correct, dtype=jnp.int32), jnp.sum(mask, dtype=jnp.int32)
    )
