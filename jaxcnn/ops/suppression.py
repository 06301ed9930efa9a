"""From many scored boxes to a few: the best pairs of box and class, and greedy non-maximum suppression."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.boxes import as_boxes, common_dtype, pairwise_iou
from jaxcnn.ops.check import check_floating, is_int, is_number

_TILE = 128
"""Boxes that are decided together; the fastest on CPU of 64 to 512, see experiments/detection_ops.py."""


class Kept(NamedTuple):
    """What `nms` keeps, in an array of fixed size.

    Attributes:
      indices: places of the kept boxes, best score first, int32, shape (max_outputs,); 0 in unused slots.
      valid: which slots are used, bool, shape (max_outputs,); the used ones come first.
    """

    indices: jax.Array
    valid: jax.Array


class Pairs(NamedTuple):
    """Pairs of a box and a class.

    Attributes:
      scores: largest first, shape (pairs,).
      indices: places of the boxes, int32, shape (pairs,).
      classes: int32, shape (pairs,).
    """

    scores: jax.Array
    indices: jax.Array
    classes: jax.Array


def nms(
    boxes: jax.Array,
    scores: jax.Array,
    *,
    iou_threshold: float,
    max_outputs: int,
    classes: jax.Array | None = None,
    valid: jax.Array | None = None,
) -> Kept:
    """Keeps boxes of large score that do not overlap: greedy non-maximum suppression.

    Boxes are visited from the largest score to the smallest, those of equal score in their order. A box is kept unless
    its intersection over union with a box kept before is greater than the threshold. The result is exactly that of
    the loop, in all shapes of fixed size. There is no gradient.

    Args:
      boxes: shape (n, 4), two corners, in pixels.
      scores: shape (n,), floating point. A box of score NaN is not kept.
      iou_threshold: in [0, 1].
      max_outputs: number of slots of the result; when they are full, the search ends.
      classes: shape (n,), integers: only boxes of one class suppress each other. None: all boxes do.
      valid: shape (n,), bool: which boxes exist, such as `scores > 0.05`. None: all do.

    Returns:
      The indices of the kept boxes and which slots are used.

    Raises:
      ValueError: a shape does not fit, or a number is out of range.
      TypeError: boxes or scores are not floating point, classes not integers, or valid not bool.
    """
    boxes, scores, alive, classes = _candidates(boxes, scores, classes, valid)
    if not is_number(iou_threshold) or not 0 <= iou_threshold <= 1:
        raise ValueError(f"nms expects an iou_threshold in [0, 1], got {iou_threshold!r}")
    if not is_int(max_outputs) or max_outputs < 1:
        raise ValueError(f"nms expects max_outputs of at least 1, got {max_outputs!r}")
    # At least one tile, so that no boxes need no code of their own.
    padding = max(-len(boxes) % _TILE, _TILE - len(boxes))
    boxes = jnp.pad(boxes, ((0, padding), (0, 0)))
    scores, alive, classes = (jnp.pad(array, (0, padding)) for array in (scores, alive, classes))
    place = jnp.arange(len(boxes), dtype=jnp.int32)
    # By existence first, since a score may be -inf.
    *_, order = lax.sort((~alive, jnp.where(alive, -scores, 0), place), num_keys=2, is_stable=True)
    kept, count = _greedy(boxes[order], classes[order], jnp.sum(alive, dtype=jnp.int32), iou_threshold, max_outputs)
    used = jnp.arange(max_outputs, dtype=jnp.int32) < count
    return Kept(jnp.where(used, order[kept], 0), used)


def _greedy(
    boxes: jax.Array, classes: jax.Array, exist: jax.Array, threshold: float, max_outputs: int
) -> tuple[jax.Array, jax.Array]:
    """Visits sorted boxes, tile by tile.

    A tile is compared with all boxes that are kept so far. Within the tile, greedy suppression is the fixed point of
    "kept unless a kept box before overlaps", which is reached after as many rounds as the longest chain of boxes that
    suppress each other.

    Args:
      boxes: shape (n, 4), n a multiple of the tile.
      classes: shape (n,).
      exist: number of boxes that exist, the first ones.
      threshold: of the intersection over union.
      max_outputs: number of slots.

    Returns:
      Places in `boxes`, int32, shape (max_outputs,), and the number of used slots.
    """
    place = jnp.arange(_TILE, dtype=jnp.int32)
    slot = jnp.arange(max_outputs, dtype=jnp.int32)
    before = place[None, :] < place[:, None]

    def collides(one: tuple[jax.Array, jax.Array], other: tuple[jax.Array, jax.Array]) -> jax.Array:
        return (pairwise_iou(one[0], other[0]) > threshold) & (one[1][:, None] == other[1][None, :])

    def unfinished(carry: Any) -> jax.Array:
        start, count, *_ = carry
        return (start < exist) & (count < max_outputs)

    def decide_tile(carry: Any) -> Any:
        start, count, kept, kept_boxes, kept_classes = carry
        tile = lax.dynamic_slice_in_dim(boxes, start, _TILE), lax.dynamic_slice_in_dim(classes, start, _TILE)
        # `any` goes over the last axis, which is several times as fast on CPU as over the first.
        hit = jnp.any(collides(tile, (kept_boxes, kept_classes)) & (slot < count)[None, :], axis=1)
        free = ~hit & (start + place < exist)
        suppresses = collides(tile, tile) & before

        def next_round(rounds: Any) -> Any:
            keep, _ = rounds
            new = free & ~jnp.any(suppresses & keep[None, :], axis=1)
            return new, jnp.any(new != keep)

        keep, _ = lax.while_loop(lambda rounds: rounds[1], next_round, (free, jnp.any(free)))
        target = jnp.where(keep, count + jnp.cumsum(keep, dtype=jnp.int32) - 1, max_outputs)
        return (
            start + _TILE,
            count + jnp.sum(keep, dtype=jnp.int32),
            kept.at[target].set(start + place, mode="drop"),
            kept_boxes.at[target].set(tile[0], mode="drop"),
            kept_classes.at[target].set(tile[1], mode="drop"),
        )

    zero, slots = jnp.zeros((), jnp.int32), jnp.zeros(max_outputs, jnp.int32)
    nothing = (zero, zero, slots, jnp.zeros((max_outputs, 4), boxes.dtype), slots)
    _, count, kept, _, _ = lax.while_loop(unfinished, decide_tile, nothing)
    return kept, count


def top_pairs(scores: jax.Array, count: int) -> Pairs:
    """Finds the largest scores of all boxes and classes, without sorting them all.

    The `count` best pairs are among the `count` boxes with the best score of any class, so a `top_k` over the boxes
    comes first, and another over the pairs that are left. The result is exactly `jax.lax.top_k` over all pairs, with
    equal scores in the order of boxes and classes.

    Args:
      scores: shape (boxes, classes), floating point.
      count: number of pairs, at least 1.

    Returns:
      The pairs, min(count, boxes * classes) of them.

    Raises:
      ValueError: the scores do not have two axes, or count is less than 1.
      TypeError: the scores are not floating point.
    """
    check_floating("top_pairs", scores)
    if scores.ndim != 2:
        raise ValueError(
            f"top_pairs expects scores of shape (boxes, classes), got {scores.shape}; map it over a batch with jax.vmap"
        )
    if not is_int(count) or count < 1:
        raise ValueError(f"top_pairs expects a count of at least 1, got {count!r}")
    indices = jnp.arange(len(scores), dtype=jnp.int32)
    if count < len(scores):
        _, indices = lax.top_k(jnp.max(scores, axis=1), count)
        # In their order, so that equal scores stay in theirs.
        indices = jnp.sort(indices).astype(jnp.int32)
        scores = scores[indices]
    best, flat = lax.top_k(scores.reshape(-1), min(count, scores.size))
    row, column = jnp.divmod(flat.astype(jnp.int32), scores.shape[1])
    return Pairs(best, indices[row], column)


def _candidates(
    boxes: jax.Array, scores: jax.Array, classes: jax.Array | None, valid: jax.Array | None
) -> tuple[jax.Array, ...]:
    """Checks the arguments of `nms`; returns boxes, scores, which of them exist, and classes."""
    (boxes,) = as_boxes("nms", boxes=boxes)
    check_floating("nms, scores,", scores)
    if boxes.ndim != 2 or scores.shape != boxes.shape[:1]:
        raise ValueError(
            f"nms expects boxes (n, 4) and scores (n,) of one image, got {boxes.shape} and {scores.shape}; "
            "map it over a batch with jax.vmap"
        )
    classes = jnp.zeros(scores.shape, jnp.int32) if classes is None else jnp.asarray(classes)
    valid = jnp.ones(scores.shape, bool) if valid is None else jnp.asarray(valid)
    for name, array, kind in (("classes", classes, jnp.integer), ("valid", valid, jnp.bool_)):
        if array.shape != scores.shape:
            raise ValueError(f"nms expects {name} of shape {scores.shape}, as the scores, got {array.shape}")
        if not jnp.issubdtype(array.dtype, kind):
            raise TypeError(f"nms expects {name} of {'integers' if name == 'classes' else 'bool'}, got {array.dtype}")
    boxes, scores = (lax.stop_gradient(array) for array in (boxes, jnp.asarray(scores)))
    return boxes, scores.astype(common_dtype(scores)), valid & ~jnp.isnan(scores), classes.astype(jnp.int32)
