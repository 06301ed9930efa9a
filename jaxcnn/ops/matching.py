"""Matching: which object of an image each anchor, point or prediction of a detector has to find, if any.

The objects of an image are arrays of a fixed number of slots, with `valid` telling which slots hold an object. A match
is the index of an object, or BACKGROUND, or IGNORED for an anchor that counts neither as an object nor as background.

An empty slot changes nothing, wherever it stands and whatever it holds. The order of the objects only decides between
equal overlaps, where the first one wins, but see `match_ssd`. Nothing here has a gradient.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.boxes import as_boxes, box_area, common_dtype, pairwise_iou
from jaxcnn.ops.check import check_array, check_floating, is_int, is_number

BACKGROUND = -1
IGNORED = -2


class Assignment(NamedTuple):
    """Matches and how good they are.

    Attributes:
      matches: index of an object, or BACKGROUND, int32, shape (predictions,).
      quality: target of the score of each prediction, in [0, 1], shape (predictions,); 0 for the background.
    """

    matches: jax.Array
    quality: jax.Array


class Sample(NamedTuple):
    """Some of the anchors, in arrays of fixed size.

    Attributes:
      indices: places of the anchors, int32, shape (count,): first those with an object, then background, then unused
        slots, which hold 0.
      positive: which of them have an object, bool, shape (count,).
      valid: which slots are used, bool, shape (count,).
    """

    indices: jax.Array
    positive: jax.Array
    valid: jax.Array


def match_by_iou(
    overlaps: jax.Array,
    valid: jax.Array,
    *,
    foreground_iou: float,
    background_iou: float,
    allow_low_quality: bool = False,
) -> jax.Array:
    """Matches each anchor with the object that it overlaps most (Ren et al. 2015, "Faster R-CNN", section 3.1.2).

    Args:
      overlaps: intersection over union, shape (objects, anchors): `pairwise_iou(boxes, anchors)`.
      valid: which slots hold an object, bool, shape (objects,).
      foreground_iou: least overlap of a match, in [0, 1].
      background_iou: an anchor that overlaps every object by less is background; IGNORED between the two numbers.
      allow_low_quality: whether the anchors that overlap an object most, all of equal overlap, are matched even below
        `foreground_iou`; each with the object that it overlaps most itself. As in torchvision and Detectron2, an object
        that overlaps no anchor at all has this overlap, 0, with all of them.

    Returns:
      Index of an object, BACKGROUND or IGNORED, int32, shape (anchors,).

    Raises:
      ValueError: a shape does not fit, or not 0 <= background_iou <= foreground_iou <= 1.
      TypeError: overlaps are not floating point, or valid not bool.
    """
    overlaps, valid = _pairs("match_by_iou", overlaps, valid)
    if not all(map(is_number, (background_iou, foreground_iou))) or not 0 <= background_iou <= foreground_iou <= 1:
        raise ValueError(
            "match_by_iou expects 0 <= background_iou <= foreground_iou <= 1, got "
            f"background_iou={background_iou!r} and foreground_iou={foreground_iou!r}"
        )
    closest, best = _argmax(overlaps), jnp.max(overlaps, axis=0)
    matches = jnp.where(best < background_iou, BACKGROUND, jnp.where(best < foreground_iou, IGNORED, closest))
    if allow_low_quality:
        # Rows of empty slots equal their own largest overlap everywhere.
        of_best = (overlaps == jnp.max(overlaps, axis=1, keepdims=True)) & valid[:, None]
        matches = jnp.where(jnp.any(of_best, axis=0), closest, matches)
    return matches.astype(jnp.int32)


def match_ssd(overlaps: jax.Array, valid: jax.Array, *, iou_threshold: float = 0.5) -> jax.Array:
    """Matches default boxes by overlap, and every object with its best one (Liu et al. 2016, "SSD", section 2.2).

    If two objects have the same best default box, the last one gets it, as in torchvision.

    Args:
      overlaps: intersection over union, shape (objects, anchors): `pairwise_iou(boxes, anchors)`.
      valid: which slots hold an object, bool, shape (objects,).
      iou_threshold: least overlap of other matches, in [0, 1].

    Returns:
      Index of an object or BACKGROUND, int32, shape (anchors,).

    Raises:
      ValueError: a shape does not fit, or the threshold is out of range.
      TypeError: overlaps are not floating point, or valid not bool.
    """
    overlaps, valid = _pairs("match_ssd", overlaps, valid)
    matches = match_by_iou(overlaps, valid, foreground_iou=iou_threshold, background_iou=iou_threshold)
    anchor = jnp.arange(overlaps.shape[1], dtype=jnp.int32)
    is_best = (jnp.argmax(overlaps, axis=1).astype(jnp.int32)[:, None] == anchor) & valid[:, None]
    owner = jnp.max(jnp.where(is_best, jnp.arange(len(valid), dtype=jnp.int32)[:, None], BACKGROUND), axis=0)
    return jnp.where(owner >= 0, owner, matches)


def match_fcos(
    boxes: jax.Array,
    valid: jax.Array,
    points: Any,
    strides: Any,
    *,
    radius: float = 1.5,
    size_factors: tuple[float, float] = (4.0, 8.0),
) -> jax.Array:
    """Matches points near the centre of an object of the size of their level (Tian et al. 2019, "FCOS", section 3).

    A point is matched with an object if it is inside of its box, less than `radius` strides away from the centre in x
    and in y, and if the largest distance to an edge is between `size_factors` strides. The finest level has no lower
    limit, the coarsest no upper one. Of several objects, the smallest is taken.

    Areas are compared exactly. torchvision compares 1e8 - area, which in float32 takes areas for equal that differ by
    less than 8 square pixels.

    Args:
      boxes: shape (objects, 4), two corners, in pixels.
      valid: which slots hold an object, bool, shape (objects,).
      points: (x, y), shape (points, 2), in pixels; see `grid_points`.
      strides: stride of each point's level, shape (points,), in pixels.
      radius: in strides.
      size_factors: smallest and largest distance, in strides.

    Returns:
      Index of an object or BACKGROUND, int32, shape (points,).

    Raises:
      ValueError: a shape does not fit.
      TypeError: an argument is not floating point, or valid not bool.
    """
    boxes, valid, points, strides = _objects_and_points("match_fcos", boxes, valid, points, strides)
    near = _distance(boxes, points) < radius * strides
    edges = _edges(boxes, points)
    largest = jnp.max(edges, axis=-1)
    lower = jnp.where(strides == jnp.min(strides), 0, size_factors[0] * strides)
    upper = jnp.where(strides == jnp.max(strides), jnp.inf, size_factors[1] * strides)
    matched = near & (jnp.min(edges, axis=-1) > 0) & (largest > lower) & (largest < upper) & valid[:, None]
    return _choose(matched, -box_area(boxes)[:, None])


def match_atss(
    boxes: jax.Array, valid: jax.Array, anchors: Any, level_sizes: tuple[int, ...], *, candidates: int = 9
) -> jax.Array:
    """Matches by a threshold for each object: adaptive training sample selection (Zhang et al. 2020, algorithm 1).

    The candidates of an object are the anchors of each level whose centres are next to its centre. They are matched if
    their overlap is at least the mean plus the standard deviation (with n - 1) of the candidates' overlaps, and their
    centre is inside of the box. Of several objects, an anchor takes the one that it overlaps most.

    Args:
      boxes: shape (objects, 4), two corners, in pixels.
      valid: which slots hold an object, bool, shape (objects,).
      anchors: shape (anchors, 4), level after level.
      level_sizes: number of anchors of each level.
      candidates: number of anchors of each level, at least 1.

    Returns:
      Index of an object or BACKGROUND, int32, shape (anchors,).

    Raises:
      ValueError: a shape does not fit, or a number is out of range.
      TypeError: boxes or anchors are not floating point, or valid not bool.
    """
    (anchors,) = as_boxes("match_atss", anchors=anchors)
    if sum(level_sizes) != len(anchors) or not all(is_int(size) and size > 0 for size in level_sizes):
        raise ValueError(
            f"match_atss expects level_sizes of at least 1 that sum to the {len(anchors)} anchors, got {level_sizes}"
        )
    if not is_int(candidates) or candidates < 1:
        raise ValueError(f"match_atss expects candidates of at least 1, got {candidates!r}")
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    boxes, valid, centres, _ = _objects_and_points("match_atss", boxes, valid, centres, jnp.ones(len(centres)))
    overlaps = pairwise_iou(boxes, lax.stop_gradient(anchors))
    apart = jnp.sum((centres - (boxes[:, None, :2] + boxes[:, None, 2:]) / 2) ** 2, axis=-1)
    chosen, start = [], 0
    for size in level_sizes:
        _, nearest = lax.top_k(-apart[:, start : start + size], min(candidates, size))
        chosen.append(nearest.astype(jnp.int32) + start)
        start += size
    chosen = jnp.concatenate(chosen, axis=1)
    values = jnp.take_along_axis(overlaps, chosen, axis=1)
    spread = jnp.std(values, axis=1, ddof=1) if values.shape[1] > 1 else 0
    enough = overlaps >= (jnp.mean(values, axis=1) + spread)[:, None]
    inside = jnp.min(_edges(boxes, centres), axis=-1) > 0
    return _choose(_marked(chosen, valid[:, None], overlaps.shape) & enough & inside, overlaps)


def match_simota(
    boxes: jax.Array,
    classes: jax.Array,
    valid: jax.Array,
    predictions: jax.Array,
    class_logits: jax.Array,
    objectness_logits: jax.Array | None,
    points: Any,
    strides: Any,
    *,
    radius: float = 1.5,
    candidates: int = 10,
    iou_weight: float = 3.0,
) -> Assignment:
    """Matches predictions by their cost, a number of them that depends on the object (Ge et al. 2021, "YOLOX", 2.1).

    The cost of a pair is the cross-entropy of the class scores plus `iou_weight` times -log(iou), and 1e6 more unless
    the point is less than `radius` strides away from the object's centre in x and in y. Points that are so near to no
    object are background. An object takes the k predictions of the least cost, with k the sum of its `candidates`
    largest overlaps, rounded down, at least 1. A prediction that several objects take goes to the one of least cost.

    Args:
      boxes: shape (objects, 4), two corners, in pixels.
      classes: shape (objects,), integers in [0, num_classes).
      valid: which slots hold an object, bool, shape (objects,).
      predictions: predicted boxes, shape (predictions, 4), two corners, in pixels.
      class_logits: shape (predictions, num_classes).
      objectness_logits: shape (predictions,), or None. The score of a class is the root of the product of both
        probabilities, or the class's probability alone.
      points: centres (x, y) of the predictions' cells, shape (predictions, 2), in pixels.
      strides: size of the cells, shape (predictions,), in pixels.
      radius: in strides.
      candidates: number of overlaps that are summed, at least 1.
      iou_weight: weight of the overlap in the cost.

    Returns:
      The matches, and as their quality the overlap of the predicted box with the object.

    Raises:
      ValueError: a shape does not fit, or a number is out of range.
      TypeError: boxes, logits or points are not floating point, classes not integers, or valid not bool.
    """
    op = "match_simota"
    classes, valid = _classes(op, boxes, classes, valid)
    boxes, valid, points, strides = _objects_and_points(op, boxes, valid, points, strides)
    predictions, class_logits = _predictions(op, predictions, class_logits, len(points))
    if not is_int(candidates) or candidates < 1:
        raise ValueError(f"{op} expects candidates of at least 1, got {candidates!r}")
    log_score = jax.nn.log_sigmoid(class_logits)
    if objectness_logits is not None:
        check_floating(f"{op}, objectness_logits,", objectness_logits)
        if objectness_logits.shape != (len(points),):
            raise ValueError(f"{op} expects objectness_logits of shape ({len(points)},), got {objectness_logits.shape}")
        objectness = lax.stop_gradient(jnp.asarray(objectness_logits, log_score.dtype))
        log_score = (log_score + jax.nn.log_sigmoid(objectness)[:, None]) / 2
    # The cross-entropy with all classes absent, plus what the object's class changes: no array has (objects,
    # predictions, classes).
    log_rest = jnp.maximum(jnp.log1p(-jnp.exp(log_score)), -100)
    own = (log_rest - jnp.maximum(log_score, -100))[:, classes].T
    near = (_distance(boxes, points) < radius * strides) & valid[:, None]
    eligible = jnp.any(near, axis=0) & valid[:, None]
    overlaps = jnp.where(eligible, pairwise_iou(boxes, predictions), 0)
    cost = own - jnp.sum(log_rest, axis=1) - iou_weight * jnp.log(overlaps + 1e-8)
    cost = jnp.where(eligible, jnp.where(near, cost, cost + 1e6), jnp.inf)
    rank = jnp.arange(min(candidates, len(points)), dtype=jnp.int32)
    largest, _ = lax.top_k(overlaps, len(rank))
    number = jnp.maximum(jnp.sum(largest, axis=1).astype(jnp.int32), 1)
    negative_cost, chosen = lax.top_k(-cost, len(rank))
    taken = _marked(chosen, (rank < number[:, None]) & jnp.isfinite(negative_cost), cost.shape)
    takers = jnp.sum(taken, axis=0, dtype=jnp.int32)
    matches = jnp.where(takers > 1, _argmax(-cost), _argmax(taken.astype(jnp.int32)))
    return _assigned(jnp.where(takers > 0, matches, BACKGROUND), overlaps)


def match_task_aligned(
    boxes: jax.Array,
    classes: jax.Array,
    valid: jax.Array,
    predictions: jax.Array,
    scores: jax.Array,
    points: Any,
    *,
    candidates: int = 13,
    score_power: float = 1.0,
    iou_power: float = 6.0,
) -> Assignment:
    """Matches predictions that both classify and locate an object well (Feng et al. 2021, "TOOD", section 3.2).

    The alignment of a pair is t = score^score_power * iou^iou_power. An object takes the predictions of the largest t
    above 0 among those whose point is inside of its box. A prediction that several objects take goes to the one that
    it overlaps most. The quality is t, rescaled so that the largest t of an object's matches becomes the largest
    overlap of its matches.

    Args:
      boxes: shape (objects, 4), two corners, in pixels.
      classes: shape (objects,), integers in [0, num_classes).
      valid: which slots hold an object, bool, shape (objects,).
      predictions: predicted boxes, shape (predictions, 4), two corners, in pixels.
      scores: probabilities of the classes, shape (predictions, num_classes), in [0, 1].
      points: (x, y), shape (predictions, 2), in pixels.
      candidates: number of predictions that an object takes, at least 1.
      score_power: alpha in the paper.
      iou_power: beta in the paper.

    Returns:
      The matches and their quality.

    Raises:
      ValueError: a shape does not fit, or a number is out of range.
      TypeError: boxes, scores or points are not floating point, classes not integers, or valid not bool.
    """
    op = "match_task_aligned"
    classes, valid = _classes(op, boxes, classes, valid)
    boxes, valid, points, _ = _objects_and_points(op, boxes, valid, points, jnp.ones(len(points)))
    predictions, scores = _predictions(op, predictions, scores, len(points))
    if not is_int(candidates) or candidates < 1:
        raise ValueError(f"{op} expects candidates of at least 1, got {candidates!r}")
    overlaps = pairwise_iou(boxes, predictions)
    inside = (jnp.min(_edges(boxes, points), axis=-1) > 0) & valid[:, None]
    alignment = jnp.where(inside, scores[:, classes].T ** score_power * overlaps**iou_power, 0)
    best, chosen = lax.top_k(alignment, min(candidates, len(points)))
    matches = _choose(_marked(chosen, best > 0, overlaps.shape), overlaps)
    is_match = matches == jnp.arange(len(valid), dtype=jnp.int32)[:, None]
    most_aligned = jnp.max(jnp.where(is_match, alignment, 0), axis=1, keepdims=True)
    most_overlap = jnp.max(jnp.where(is_match, overlaps, 0), axis=1, keepdims=True)
    return _assigned(matches, alignment / jnp.where(most_aligned > 0, most_aligned, 1) * most_overlap)


def sample_balanced(matches: jax.Array, count: int, positive_fraction: float, *, key: jax.Array | None) -> Sample:
    """Draws anchors with and without an object, at random (Ren et al. 2015, "Faster R-CNN", section 3.1.3).

    Args:
      matches: index of an object, BACKGROUND or IGNORED, int32, shape (anchors,).
      count: number of slots. If there are fewer anchors that are not ignored, the other slots are unused.
      positive_fraction: at most int(count * positive_fraction) anchors have an object, in [0, 1]; background fills up.
      key: typed random key, consumed; None takes the first anchors of each kind, for tests.

    Returns:
      The chosen anchors.

    Raises:
      ValueError: the matches are not of shape (anchors,), or a number is out of range.
    """
    check_array("sample_balanced", matches)
    if matches.ndim != 1:
        raise ValueError(
            f"sample_balanced expects matches (anchors,) of one image, got {matches.shape}; "
            "map it over a batch with jax.vmap"
        )
    if not is_int(count) or count < 1:
        raise ValueError(f"sample_balanced expects a count of at least 1, got {count!r}")
    if not is_number(positive_fraction) or not 0 <= positive_fraction <= 1:
        raise ValueError(f"sample_balanced expects a positive_fraction in [0, 1], got {positive_fraction!r}")
    matches = jnp.pad(matches.astype(jnp.int32), (0, max(count - len(matches), 0)), constant_values=IGNORED)
    if key is None:
        luck = jnp.arange(len(matches), 0, -1, dtype=jnp.float32)
    else:
        luck = jax.random.uniform(key, matches.shape, minval=1, maxval=2)

    def draw(wanted: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
        _, chosen = lax.top_k(jnp.where(wanted, luck, 0), count)
        return chosen.astype(jnp.int32), jnp.minimum(jnp.sum(wanted, dtype=jnp.int32), most)

    positives, number = draw(matches >= 0, int(count * positive_fraction))
    negatives, others = draw(matches == BACKGROUND, count)
    slot = jnp.arange(count, dtype=jnp.int32)
    positive, valid = slot < number, slot < number + others
    indices = jnp.where(positive, positives, negatives[jnp.maximum(slot - number, 0)])
    return Sample(jnp.where(valid, indices, 0), positive, valid)


def _argmax(values: jax.Array) -> jax.Array:
    return jnp.argmax(values, axis=0).astype(jnp.int32)


def _choose(matched: jax.Array, preference: jax.Array) -> jax.Array:
    """Returns of the matched objects the one of the largest preference, BACKGROUND where there is none."""
    best = _argmax(jnp.where(matched, preference, -jnp.inf))
    return jnp.where(jnp.any(matched, axis=0), best, BACKGROUND)


def _assigned(matches: jax.Array, quality: jax.Array) -> Assignment:
    """Takes the quality (objects, predictions) of the matches."""
    each = jnp.take_along_axis(quality, jnp.maximum(matches, 0)[None], axis=0)[0]
    return Assignment(matches, jnp.where(matches >= 0, each, 0))


def _marked(chosen: jax.Array, used: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns a table (objects, anchors) of bools, True at the columns `chosen` (objects, k) that are used."""
    column = jnp.where(used, chosen.astype(jnp.int32), shape[1])
    row = jnp.arange(shape[0], dtype=jnp.int32)[:, None]
    return jnp.zeros(shape, bool).at[row, column].set(True, mode="drop")


def _distance(boxes: jax.Array, points: jax.Array) -> jax.Array:
    """Returns the distance of points from the centres of boxes, the larger one of x and y, (objects, points)."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return jnp.max(jnp.abs(points[None] - centres[:, None]), axis=-1)


def _edges(boxes: jax.Array, points: jax.Array) -> jax.Array:
    """Returns the distances of points from the edges of boxes, (objects, points, 4), positive inside."""
    return jnp.concatenate([points[None] - boxes[:, None, :2], boxes[:, None, 2:] - points[None]], axis=-1)


def _valid(op: str, valid: Any, slots: int) -> jax.Array:
    check_array(f"{op}, valid,", valid)
    if valid.shape != (slots,):
        raise ValueError(f"{op} expects valid of shape ({slots},), one for each slot of objects, got {valid.shape}")
    if valid.dtype != jnp.bool_:
        raise TypeError(f"{op} expects valid of bool, got {valid.dtype}")
    return jnp.asarray(valid)


def _pairs(op: str, overlaps: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns overlaps with -1 in empty slots, and `valid`; at least one slot."""
    check_floating(f"{op}, overlaps,", overlaps)
    if overlaps.ndim != 2:
        raise ValueError(
            f"{op} expects overlaps (objects, anchors) of one image, got {overlaps.shape}; map it over a batch with "
            "jax.vmap"
        )
    valid = _valid(op, valid, len(overlaps))
    overlaps = lax.stop_gradient(jnp.where(valid[:, None], overlaps, -1))
    if len(valid):
        return overlaps, valid
    return jnp.full((1, overlaps.shape[1]), -1, overlaps.dtype), jnp.zeros(1, bool)


def _objects_and_points(op: str, boxes: Any, valid: Any, points: Any, strides: Any) -> tuple[jax.Array, ...]:
    """Checks the arguments, and returns them in one dtype; at least one slot, zeros in empty ones."""
    (boxes,), (points,) = as_boxes(op, boxes=boxes), as_boxes(op, 2, points=points)
    if boxes.ndim != 2 or points.ndim != 2:
        raise ValueError(
            f"{op} expects boxes (objects, 4) and points (points, 2) of one image, got {boxes.shape} and "
            f"{points.shape}; map it over a batch with jax.vmap"
        )
    valid = _valid(op, valid, len(boxes))
    dtype = common_dtype(boxes, points)
    strides = jnp.asarray(strides, dtype)
    if strides.shape != (len(points),):
        raise ValueError(f"{op} expects strides of shape ({len(points)},), one for each point, got {strides.shape}")
    boxes = jnp.where(valid[:, None], boxes.astype(dtype), 0)
    if not len(valid):
        boxes, valid = jnp.zeros((1, 4), dtype), jnp.zeros(1, bool)
    return lax.stop_gradient(boxes), valid, points.astype(dtype), strides


def _classes(op: str, boxes: Any, classes: Any, valid: Any) -> tuple[jax.Array, jax.Array]:
    """Checks the classes and returns them, 0 in empty slots, at least one; and `valid`."""
    check_array(f"{op}, classes,", classes)
    if classes.shape != boxes.shape[:1]:
        raise ValueError(f"{op} expects classes of shape {boxes.shape[:1]}, one for each box, got {classes.shape}")
    if not jnp.issubdtype(classes.dtype, jnp.integer):
        raise TypeError(f"{op} expects classes of integers, got {classes.dtype}")
    valid = _valid(op, valid, len(classes))
    each = jnp.where(valid, jnp.asarray(classes).astype(jnp.int32), 0)
    return (each if len(each) else jnp.zeros(1, jnp.int32)), valid


def _predictions(op: str, predictions: Any, scores: Any, count: int) -> tuple[jax.Array, jax.Array]:
    (predictions,) = as_boxes(op, predictions=predictions)
    check_floating(f"{op}, scores of classes,", scores)
    if predictions.shape != (count, 4) or scores.ndim != 2 or len(scores) != count:
        raise ValueError(
            f"{op} expects predictions ({count}, 4) and scores of classes ({count}, num_classes), one for each point, "
            f"got {predictions.shape} and {scores.shape}"
        )
    dtype = common_dtype(predictions, scores)
    return lax.stop_gradient(predictions.astype(dtype)), lax.stop_gradient(jnp.asarray(scores, dtype))
