"""Losses against labels, one number for each example or pixel."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from jaxcnn.ops.check import at_least_float32


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
) -> jax.Array:
    """Computes the softmax cross-entropy against labels, smoothed if asked (Szegedy et al. 2016, section 7).

    Args:
      logits: shape (..., num_classes).
      labels: shape (...), integers in [0, num_classes); or shape (..., num_classes), floating point: the share of each
        class.
      label_smoothing: weight of the uniform distribution in the target, in [0, 1).
      class_weights: factor of the loss of each class, at least 0, or None for 1. With smoothing or shares, each class
        counts by its own factor.

    Returns:
      Shape (...), float32, or float64 for float64 logits. A label out of range has the loss NaN and the gradient NaN.

    Raises:
      ValueError: the shapes do not fit together, the smoothing is outside [0, 1), or the number of weights is not that
        of the classes.
      TypeError: the labels are of shape (...) and not integers.
    """
    check_smoothing("cross_entropy", label_smoothing)
    dtype = at_least_float32(logits.dtype)
    logits = logits.astype(dtype)
    if labels.shape == logits.shape and jnp.issubdtype(labels.dtype, jnp.floating):
        targets = labels.astype(dtype)
    else:
        _check_labels(logits, labels)
        if label_smoothing == 0 and class_weights is None:
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return nan_unless(_in_range(labels, logits.shape[-1]), losses)
        targets = soft_targets(labels, logits.shape[-1], dtype=dtype)
    if label_smoothing:
        targets = optax.smooth_labels(targets, label_smoothing)
    if class_weights is not None:
        targets = targets * as_weights("cross_entropy", class_weights, logits)
    return optax.softmax_cross_entropy(logits, targets)


def soft_targets(labels: jax.Array, num_classes: int, *, dtype: jnp.dtype | type = jnp.float32) -> jax.Array:
    """Turns integer labels into shares of the classes: one for the label, zero for the others.

    Args:
      labels: shape (...), integers in [0, num_classes).
      num_classes: number of classes.
      dtype: dtype of the result, floating point.

    Returns:
      Shape (..., num_classes). A label out of range has NaN in all classes.
    """
    shares = jax.nn.one_hot(labels, num_classes, dtype=dtype)
    return jnp.where(_in_range(labels, num_classes)[..., None], shares, jnp.full((), jnp.nan, dtype))


def nan_unless(valid: jax.Array, losses: jax.Array) -> jax.Array:
    """Makes the losses of invalid labels NaN, and so their gradients.

    Args:
      valid: which labels are valid, bool, of the shape of the losses.
      losses: floating point.

    Returns:
      The losses.
    """
    # Multiply rather than select: `where` would give zero gradient and hide the bad label.
    return losses * jnp.where(valid, jnp.ones((), losses.dtype), jnp.full((), jnp.nan, losses.dtype))


def as_weights(caller: str, class_weights: Sequence[float], logits: jax.Array) -> jax.Array:
    """Makes an array of the weights of classes.

    Args:
      caller: name of the caller, for the message.
      class_weights: one number for each class.
      logits: shape (..., num_classes).

    Returns:
      Shape (num_classes,), in the dtype of the logits.

    Raises:
      ValueError: the number of weights is not that of the classes.
    """
    if len(class_weights) != logits.shape[-1]:
        raise ValueError(
            f"{caller} expects one weight for each of {logits.shape[-1]} classes, got {len(class_weights)} weights"
        )
    return jnp.asarray(class_weights, logits.dtype)


def check_smoothing(caller: str, label_smoothing: float) -> None:
    """Refuses a label smoothing outside [0, 1).

    Args:
      caller: name of the caller, for the message.
      label_smoothing: weight of the uniform distribution.

    Raises:
      ValueError: it is out of range.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"{caller} expects a label_smoothing in [0, 1), got {label_smoothing!r}")


def check_weights(task: str, name: str, weights: tuple[float, ...] | None) -> None:
    """Refuses weights of classes that are negative, not finite, or all 0.

    Args:
      task: name of the task, for the message.
      name: name of the option.
      weights: one number for each class, or None.

    Raises:
      ValueError: a weight is negative or not finite, or all are 0.
      TypeError: the weights are not a tuple.
    """
    if weights is None:
        return
    if not isinstance(weights, tuple):
        raise TypeError(f"{task} expects {name} as a tuple of one number for each class, got {weights!r}")
    if not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
        raise ValueError(f"{task} expects {name} of at least 0, finite and not all 0, got {weights}")


def _check_labels(logits: jax.Array, labels: jax.Array) -> None:
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            "cross_entropy expects logits (..., num_classes), and labels (...) or shares of classes "
            f"(..., num_classes), got {logits.shape} and {labels.shape}"
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"cross_entropy expects integer labels, got {labels.dtype}; cast them, as labels.astype(int)")


def _in_range(labels: jax.Array, num_classes: int) -> jax.Array:
    # Small integers may not hold the number of classes.
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    return (labels >= 0) & (labels < num_classes)
