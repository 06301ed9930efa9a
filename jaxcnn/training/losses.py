"""Losses for classifiers, one number for each example."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Computes the softmax cross-entropy against integer labels, smoothed if asked (Szegedy et al. 2016, section 7).

    Args:
      logits: shape (batch, num_classes).
      labels: shape (batch,), integers in [0, num_classes).
      label_smoothing: weight of the uniform distribution in the target, in [0, 1).

    Returns:
      Shape (batch,), float32.

    Raises:
      ValueError: the shapes do not fit together, or the smoothing is outside [0, 1).
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            "cross_entropy expects logits (batch, num_classes) and labels (batch,), "
            f"got {logits.shape} and {labels.shape}"
        )
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"cross_entropy expects a label_smoothing in [0, 1), got {label_smoothing!r}")
    logits = logits.astype(jnp.float32)
    if label_smoothing == 0:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[1]), label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)
