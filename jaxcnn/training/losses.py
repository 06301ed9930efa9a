"""Losses for classifiers, one number for each example."""

from collections.abc import Callable
from math import isfinite

import jax
import jax.numpy as jnp
import optax

from jaxcnn.ops.check import at_least_float32


def cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Computes the softmax cross-entropy against integer labels, smoothed if asked (Szegedy et al. 2016, section 7).

    Args:
      logits: shape (batch, num_classes).
      labels: shape (batch,), integers in [0, num_classes).
      label_smoothing: weight of the uniform distribution in the target, in [0, 1).

    Returns:
      Shape (batch,), float32, or float64 for float64 logits. A label out of range has the loss NaN and the gradient
      NaN.

    Raises:
      ValueError: the shapes do not fit together, or the smoothing is outside [0, 1).
      TypeError: the labels are not integers.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        advice = "; for a model with auxiliary heads use auxiliary_loss" if logits.ndim == 3 else ""
        raise ValueError(
            "cross_entropy expects logits (batch, num_classes) and labels (batch,), "
            f"got {logits.shape} and {labels.shape}{advice}"
        )
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"cross_entropy expects a label_smoothing in [0, 1), got {label_smoothing!r}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"cross_entropy expects integer labels, got {labels.dtype}; cast them, as labels.astype(int)")
    dtype = at_least_float32(logits.dtype)
    logits = logits.astype(dtype)
    if label_smoothing == 0:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    else:
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[1], dtype=dtype), label_smoothing)
        losses = optax.softmax_cross_entropy(logits, targets)
    # Multiply rather than select: `where` would give zero gradient and hide the bad label.
    in_range = (labels >= 0) & (labels < logits.shape[1])
    return losses * jnp.where(in_range, jnp.ones((), dtype), jnp.full((), jnp.nan, dtype))


def auxiliary_loss(
    logits: jax.Array,
    labels: jax.Array,
    *,
    weight: float,
    loss: Callable[[jax.Array, jax.Array], jax.Array] = cross_entropy,
) -> jax.Array:
    """Adds the weighted losses of the auxiliary heads to that of the main head (Szegedy et al. 2015, section 5).

    `make_train_step(googlenet(), optimizer, loss=Partial(auxiliary_loss, weight=0.3))`: 0.3 is the weight of GoogLeNet
    (same section), 0.4 that of Inception v3 (torchvision's and the authors' code; the paper has none).

    Args:
      logits: shape (batch, heads, num_classes), the main head first, as a model with `AuxiliaryHeads` returns them in
        training; or shape (batch, num_classes), those of the main head, as in evaluation.
      labels: shape (batch,), integers in [0, num_classes).
      weight: weight of each auxiliary head's loss; at least 0, and finite.
      loss: function of the logits (batch, num_classes) of one head and the labels; returns losses (batch,).

    Returns:
      Shape (batch,), in the dtype of `loss`.

    Raises:
      ValueError: the weight is negative or not finite, or the logits have neither two nor three axes.
    """
    if not weight >= 0 or not isfinite(weight):
        raise ValueError(f"auxiliary_loss expects a finite weight of at least 0, got {weight!r}")
    if logits.ndim not in (2, 3):
        raise ValueError(
            "auxiliary_loss expects logits (batch, heads, num_classes), or (batch, num_classes) in evaluation, "
            f"got {logits.shape}"
        )
    if logits.ndim == 2:
        return loss(logits, labels)
    main, *others = (loss(logits[:, head], labels) for head in range(logits.shape[1]))
    return main + weight * sum(others, start=jnp.zeros_like(main))
