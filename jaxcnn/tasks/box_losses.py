"""Losses of detectors, one number for each box or anchor. The focal loss is `optax.sigmoid_focal_loss`."""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxcnn.ops.boxes import Overlap, aligned_iou, as_boxes
from jaxcnn.ops.check import check_floating, is_number


def iou_loss(boxes: jax.Array, targets: jax.Array, *, kind: Overlap = "giou", epsilon: float = 1e-7) -> jax.Array:
    """Computes 1 - overlap of boxes and their targets; see `jaxcnn.ops.aligned_iou`.

    Args:
      boxes: predicted boxes, shape (..., 4), two corners.
      targets: boxes of the objects, shape (..., 4).
      kind: "iou", "giou", "diou" or "ciou".
      epsilon: is added to the denominators, at least 0; by default as in torchvision.

    Returns:
      Shape (...), at least float32. Finite, with finite gradients, also for the zeros of padding.

    Raises:
      ValueError: the shapes do not fit together, or the kind is unknown.
      TypeError: an argument is not floating point.
    """
    return 1 - aligned_iou(boxes, targets, kind=kind, epsilon=epsilon)


def smooth_l1_loss(predictions: jax.Array, targets: jax.Array, *, beta: float = 1.0) -> jax.Array:
    """Computes the sum over the four numbers of a box of an absolute error that is rounded off near 0 (Girshick 2015).

    The error e counts e^2 / (2 beta) below beta, and |e| - beta / 2 from there.

    Args:
      predictions: shape (..., 4), such as the codes of boxes.
      targets: shape (..., 4).
      beta: at least 0; 0 is the absolute error. torchvision has 1/9 in R-CNN and 1 in SSD.

    Returns:
      Shape (...), at least float32.

    Raises:
      ValueError: the shapes do not fit together, or beta is negative.
      TypeError: an argument is not floating point.
    """
    predictions, targets = as_boxes("smooth_l1_loss", predictions=predictions, targets=targets)
    if not is_number(beta) or not 0 <= beta < float("inf"):
        raise ValueError(f"smooth_l1_loss expects a finite beta of at least 0, got {beta!r}")
    if beta == 0:
        return jnp.sum(jnp.abs(predictions - targets), axis=-1)
    return jnp.sum(optax.huber_loss(predictions, targets, delta=beta), axis=-1) / beta


def hard_negatives(
    losses: jax.Array, positive: jax.Array, *, ratio: float = 3.0, valid: jax.Array | None = None
) -> jax.Array:
    """Chooses the anchors without an object that have the largest losses (Liu et al. 2016, "SSD", section 2.2).

    Args:
      losses: of the classes of each anchor, shape (anchors,).
      positive: which anchors have an object, bool, shape (anchors,).
      ratio: number of chosen anchors for each one with an object, at least 0.
      valid: which anchors count, bool, shape (anchors,); None: all.

    Returns:
      Which anchors are chosen, bool, shape (anchors,): int(ratio * number of positives) of them, or all without an
      object if there are fewer; of equal losses the first ones.

    Raises:
      ValueError: the shapes differ, or the ratio is negative.
      TypeError: the losses are not floating point.
    """
    check_floating("hard_negatives, losses,", losses)
    valid = jnp.ones(losses.shape, bool) if valid is None else valid
    if losses.ndim != 1 or positive.shape != losses.shape or valid.shape != losses.shape:
        raise ValueError(
            "hard_negatives expects losses, positive and valid of shape (anchors,), of one image, got "
            f"{losses.shape}, {positive.shape} and {valid.shape}; map it over a batch with jax.vmap"
        )
    if not is_number(ratio) or not 0 <= ratio < float("inf"):
        raise ValueError(f"hard_negatives expects a finite ratio of at least 0, got {ratio!r}")
    negative = valid & ~positive
    number = jnp.sum((positive & valid).astype(jnp.float32)) * ratio
    place = jnp.arange(len(losses), dtype=jnp.int32)
    # The negatives come first, whatever their losses are.
    *_, order = lax.sort((~negative, -lax.stop_gradient(losses), place), num_keys=2, is_stable=True)
    rank = jnp.zeros_like(place).at[order].set(place)
    return negative & (rank < jnp.floor(number).astype(jnp.int32))
