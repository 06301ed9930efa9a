"""Detection: boxes with classes. A detector makes its own task: `model.task(image_size)`."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxcnn.ops.anchors import GridPoints, anchor_boxes, default_boxes, grid_points
from jaxcnn.ops.box_coding import decode_deltas, decode_distances, encode_deltas, encode_distances
from jaxcnn.ops.boxes import clip_boxes, pairwise_iou
from jaxcnn.ops.check import as_pair, is_int, is_number
from jaxcnn.ops.matching import IGNORED, match_by_iou, match_fcos, match_ssd
from jaxcnn.ops.suppression import Pairs, nms, top_pairs
from jaxcnn.tasks.box_losses import hard_negatives, iou_loss, smooth_l1_loss
from jaxcnn.tasks.examples import take, weighted
from jaxcnn.tasks.losses import nan_unless
from jaxcnn.tasks.means import figures
from jaxcnn.types import Example, Mean, Objective
from jaxcnn.values import Value

BoxLoss: TypeAlias = Literal["l1", "giou"]
"""The sum of the differences of the encoded boxes, or 1 - the generalized intersection over union of the boxes."""

_IOU = 0.5
"""Least overlap of a detection that is right, for the metrics."""

_BINS = 1000
"""Scores are rounded to so many values for the average precision, so that it can be summed over batches."""

_SSD_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Factors of the encoded boxes of SSD."""


@dataclass(frozen=True, repr=False)
class Detection(Value):
    """Boxes with classes: what the tasks of all families of detectors share.

    A batch has "boxes", shape (batch, slots, 4), two corners in pixels; "classes", shape (batch, slots), integers in
    [0, num_classes), without a background; and "valid", bool, shape (batch, slots), which tells the slots that hold an
    object. What the other slots hold, how many there are and the order of the objects changes nothing.

    Outputs are a dict of arrays with one row for each anchor, or each place, of all levels: "classes", shape (batch,
    anchors, num_classes), logits, "boxes", shape (batch, anchors, 4), and others of the family.

    Attributes:
      image_size: (height, width) of the images, in pixels.
      map_sizes: (height, width) of the maps of all levels.
      score_threshold: scores of detections are greater, in [0, 1].
      iou_threshold: of two detections of one class whose intersection over union is greater, the better one is kept.
      candidates: most pairs of a box and a class of a level among which detections are chosen.
      max_detections: slots of the detections of an image.
      measures_precision: whether the metrics include the average precision, for which the outputs are decoded.
      agnostic: whether detections of different classes suppress each other too. An object is then not found once for
        each class that it resembles, but COCO's average precision, which forgives wrong second guesses, is smaller.
    """

    image_size: tuple[int, int]
    map_sizes: tuple[tuple[int, int], ...]
    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    candidates: int = 1000
    max_detections: int = 300
    measures_precision: bool = False
    agnostic: bool = False

    def __post_init__(self) -> None:
        kind = type(self).__name__
        object.__setattr__(self, "image_size", as_pair("image_size", self.image_size))
        object.__setattr__(self, "map_sizes", tuple(as_pair("map_sizes", size) for size in self.map_sizes))
        for name in ("score_threshold", "iou_threshold"):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value <= 1:
                raise ValueError(f"{kind} expects {name} in [0, 1], got {value!r}")
        for name in ("candidates", "max_detections"):
            value = getattr(self, name)
            if not is_int(value) or value < 1:
                raise ValueError(f"{kind} expects {name} of at least 1, got {value!r}")

    @property
    def objective(self) -> Objective:
        """The largest average precision at an overlap of 0.5."""
        return Objective("ap50", larger_is_better=True)

    @property
    def per_place(self) -> int:
        """Anchors at each place of a map."""
        return 1

    @property
    def min_size(self) -> float:
        """Least width and height of a detection, in pixels."""
        return 0.0

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Number of anchors of each level."""
        return tuple(self.per_place * height * width for height, width in self.map_sizes)

    def num_classes(self, outputs: Mapping[str, Any]) -> int:
        """Returns the number of classes of the outputs."""
        return outputs["classes"].shape[-1]

    def losses(self, outputs: Mapping[str, Any], boxes: Any, classes: Any, valid: Any) -> dict[str, Mean]:
        """Computes the parts of the loss of one image; the loss is the sum of their totals over that of their weights.

        Args:
          outputs: of one image.
          boxes: shape (slots, 4).
          classes: shape (slots,).
          valid: shape (slots,).

        Returns:
          Totals and weights by name, such as "class_loss" and "box_loss". All parts have the same weight.
        """
        raise NotImplementedError(
            f"{type(self).__name__} expects a method losses(self, outputs, boxes, classes, valid)"
        )

    def scores(self, outputs: Mapping[str, Any]) -> jax.Array:
        """Computes the scores of one image, in [0, 1], shape (anchors, num_classes)."""
        return jax.nn.sigmoid(outputs["classes"])

    def decode_boxes(self, outputs: Mapping[str, Any]) -> jax.Array:
        """Computes the boxes of one image, two corners in pixels, shape (anchors, 4)."""
        raise NotImplementedError(f"{type(self).__name__} expects a method decode_boxes(self, outputs)")

    def best_pairs(self, scores: jax.Array) -> Pairs:
        """Returns the pairs of an anchor and a class among which detections are chosen: the best ones of each level.

        Args:
          scores: of one image, shape (anchors, num_classes).

        Returns:
          The pairs.
        """
        parts, start = [], 0
        for size in self.level_sizes:
            best = top_pairs(scores[start : start + size], self.candidates)
            parts.append(best._replace(indices=best.indices + start))
            start += size
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def pair_boxes(self, outputs: Mapping[str, Any], best: Pairs) -> jax.Array:
        """Returns the box of each pair of one image, two corners in pixels, shape (pairs, 4).

        Args:
          outputs: of one image.
          best: the pairs.
        """
        return self.decode_boxes(outputs)[best.indices]

    def loss(self, outputs: Mapping[str, Any], batch: Example) -> Mean:
        """Computes the loss: the sum of its parts. See `jaxcnn.types.Task.loss`."""
        parts = list(self._parts(outputs, batch).values())
        return Mean(sum(part.total for part in parts), parts[0].weight)

    def metrics(self, outputs: Mapping[str, Any], batch: Example) -> dict[str, Mean]:
        """Computes the parts of the loss, and counts right detections if `measures_precision`.

        Args:
          outputs: of the model.
          batch: the examples.

        Returns:
          "class_loss", "box_loss" and other parts; and for the average precision "right", detections of each class and
          score that find an object, of all detections, shape (num_classes, scores); and "recall", objects of each class
          that a detection finds, of all objects, shape (num_classes,).
        """
        outputs = lax.stop_gradient(outputs)
        parts = self._parts(outputs, batch)
        if not self.measures_precision:
            return parts
        objects = [take(type(self).__name__, batch, name) for name in ("boxes", "classes", "valid")]
        count = functools.partial(_count_right, num_classes=self.num_classes(outputs))
        right, detected, found, there = jax.vmap(count)(self.decode(outputs), *objects)
        return {**parts, "right": weighted(right, detected, batch), "recall": weighted(found, there, batch)}

    def decode(self, outputs: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Turns the outputs for a batch into detections, the best first.

        Args:
          outputs: of the model.

        Returns:
          "boxes", shape (batch, max_detections, 4), two corners in pixels, within the image; "scores" and "classes",
          shape (batch, max_detections); and "valid", which tells the slots that hold a detection. The others hold
          zeros.
        """
        self._check(outputs)
        return jax.vmap(self._decode_one)(dict(outputs))

    def report(self, sums: Mapping[str, Mean]) -> dict[str, float]:
        """Returns the parts of the loss; and "ap50", the mean over the classes of the average precision, and "recall".

        The average precision of a class is the mean of 101 precisions, at recalls from 0 to 1: the largest precision at
        that recall or a larger one (as COCO's). Scores are rounded to 0.001. A class without objects does not count.
        """
        result = figures({name: mean for name, mean in sums.items() if name not in ("right", "recall")})
        if "right" not in sums:
            return result
        right, found = sums["right"], sums["recall"]
        recall = Mean(np.sum(found.total), np.sum(found.weight)).value
        return {"ap50": _average_precision(right, found), "recall": float(recall), **result}

    def _decode_one(self, outputs: Mapping[str, Any]) -> dict[str, jax.Array]:
        best = self.best_pairs(self.scores(outputs))
        boxes = clip_boxes(self.pair_boxes(outputs, best), self.image_size)
        large = jnp.all(boxes[:, 2:] - boxes[:, :2] >= self.min_size, axis=1)
        kept = nms(
            boxes,
            best.scores,
            iou_threshold=self.iou_threshold,
            max_outputs=self.max_detections,
            classes=None if self.agnostic else best.classes,
            valid=large & (best.scores > self.score_threshold),
        )

        def chosen(array: jax.Array) -> jax.Array:
            used = jnp.expand_dims(kept.valid, tuple(range(1, array.ndim)))
            return jnp.where(used, array[kept.indices], jnp.zeros((), array.dtype))

        return {
            "boxes": chosen(boxes),
            "classes": chosen(best.classes),
            "scores": chosen(best.scores),
            "valid": kept.valid,
        }

    def _parts(self, outputs: Mapping[str, Any], batch: Example) -> dict[str, Mean]:
        self._check(outputs)
        kind = type(self).__name__
        boxes, classes, valid = (take(kind, batch, name) for name in ("boxes", "classes", "valid"))
        self._check_objects(batch, boxes, classes, valid)
        if not boxes.shape[1]:
            boxes, classes, valid = (jnp.pad(x, [(0, 0), (0, 1), (0, 0)][: x.ndim]) for x in (boxes, classes, valid))
        # Finite numbers in empty slots, whatever they held.
        boxes = jnp.where(valid[..., None], boxes, jnp.zeros((), boxes.dtype))
        in_range = (classes >= 0) & (classes < self.num_classes(outputs))
        parts = jax.vmap(self.losses)(dict(outputs), boxes, jnp.where(valid, classes, 0), valid)
        labelled = jnp.all(in_range | ~valid, axis=1)
        return {name: weighted(nan_unless(labelled, part.total), part.weight, batch) for name, part in parts.items()}

    def _check(self, outputs: Any) -> None:
        kind = type(self).__name__
        if not isinstance(outputs, Mapping) or not {"boxes", "classes"} <= set(outputs):
            got = sorted(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
            raise ValueError(f"{kind} expects outputs with 'boxes' and 'classes', as a detector gives, got {got}")
        self._check_rows(outputs)

    def _check_rows(self, outputs: Mapping[str, Any]) -> None:
        """Refuses outputs of other shapes than those of images of `image_size`."""
        kind, rows = type(self).__name__, sum(self.level_sizes)
        boxes, classes = outputs["boxes"].shape, outputs["classes"].shape
        if len(classes) != 3 or boxes != (classes[0], rows, 4) or classes[:2] != boxes[:2]:
            height, width = self.image_size
            raise ValueError(
                f"{kind} expects boxes (batch, {rows}, 4) and classes (batch, {rows}, num_classes) for images of "
                f"{height}x{width}, got {boxes} and {classes}; make the task by model.task(image_size)"
            )

    def _check_objects(self, batch: Example, boxes: Any, classes: Any, valid: Any) -> None:
        kind, slots = type(self).__name__, boxes.shape[:2]
        if boxes.ndim != 3 or boxes.shape[2] != 4 or classes.shape != slots or valid.shape != slots:
            raise ValueError(
                f"{kind} expects boxes (batch, slots, 4), classes and valid (batch, slots), got {boxes.shape}, "
                f"{classes.shape} and {valid.shape}"
            )
        if not jnp.issubdtype(classes.dtype, jnp.integer) or valid.dtype != jnp.bool_:
            raise TypeError(f"{kind} expects classes of integers and valid of bool, got {classes.dtype}, {valid.dtype}")
        size = jnp.shape(batch["image"])[1:3] if "image" in batch else self.image_size
        if size != self.image_size:
            height, width = self.image_size
            raise ValueError(
                f"{kind} expects images of {height}x{width}, got {size[0]}x{size[1]}; make the task by "
                f"model.task({tuple(size)})"
            )


@dataclass(frozen=True, repr=False)
class AnchorDetection(Detection):
    """Boxes relative to anchors, each class by itself, with the focal loss: RetinaNet (Lin et al. 2017, section 4).

    An anchor belongs to the object that it overlaps most, if the intersection over union is at least `foreground_iou`,
    or if no anchor overlaps that object more. It is background if it overlaps no object by `background_iou`, and does
    not count in between. The losses of an image, summed over anchors, are divided by the number of anchors with an
    object, or by 1, and averaged over the images.

    Attributes:
      sizes: of each level, the roots of the areas of its anchors, in pixels.
      aspect_ratios: of the anchors, height / width.
      foreground_iou: least overlap of an anchor with its object.
      background_iou: overlap below which an anchor is background.
      alpha: weight of the classes that are there in the focal loss; the others have 1 - alpha.
      gamma: exponent of the focal loss, at least 0.
      box_loss: "l1" or "giou".
    """

    sizes: tuple[tuple[float, ...], ...] = ()
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    foreground_iou: float = 0.5
    background_iou: float = 0.4
    alpha: float = 0.25
    gamma: float = 2.0
    box_loss: BoxLoss = "l1"

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.map_sizes):
            raise ValueError(
                f"AnchorDetection expects sizes of anchors for each of {len(self.map_sizes)} maps, got "
                f"{len(self.sizes)}"
            )
        if len({len(level) for level in self.sizes}) > 1:
            raise ValueError(f"AnchorDetection expects as many sizes for each level, got {self.sizes}")
        if self.box_loss not in get_args(BoxLoss):
            raise ValueError(f"AnchorDetection expects a box_loss among {get_args(BoxLoss)}, got {self.box_loss!r}")

    @property
    def per_place(self) -> int:
        """Anchors at each place of a map."""
        return len(self.sizes[0]) * len(self.aspect_ratios)

    @property
    def anchors(self) -> np.ndarray:
        """The anchors of all levels, two corners in pixels, float32, shape (anchors, 4)."""
        return np.concatenate(anchor_boxes(self.image_size, self.map_sizes, self.sizes, self.aspect_ratios))

    def decode_boxes(self, outputs: Mapping[str, Any]) -> jax.Array:
        """Computes the boxes of one image; see `Detection.decode_boxes`."""
        return decode_deltas(outputs["boxes"], self.anchors)

    def losses(self, outputs: Mapping[str, Any], boxes: Any, classes: Any, valid: Any) -> dict[str, Mean]:
        """Computes "class_loss" and "box_loss" of one image; see `Detection.losses`."""
        anchors: Any = self.anchors
        matches = match_by_iou(
            pairwise_iou(boxes, anchors),
            valid,
            foreground_iou=self.foreground_iou,
            background_iou=self.background_iou,
            allow_low_quality=True,
        )
        owned = matches >= 0
        targets = target_classes(matches, classes, outputs["classes"])
        focal = optax.sigmoid_focal_loss(outputs["classes"], targets, alpha=self.alpha, gamma=self.gamma)
        class_loss = jnp.sum(jnp.where((matches != IGNORED)[:, None], focal, 0))
        own_boxes = own_objects(matches, boxes)
        if self.box_loss == "l1":
            errors = smooth_l1_loss(outputs["boxes"], encode_deltas(own_boxes, anchors), beta=0)
        else:
            errors = iou_loss(self.decode_boxes(outputs), own_boxes)
        box_loss = jnp.sum(jnp.where(owned, errors, 0))
        count = jnp.maximum(jnp.sum(owned), 1).astype(class_loss.dtype)
        one = jnp.ones((), class_loss.dtype)
        return {"class_loss": Mean(class_loss / count, one), "box_loss": Mean(box_loss / count, one)}


@dataclass(frozen=True, repr=False)
class PointDetection(Detection):
    """Boxes as distances from points, each class by itself, with the focal loss: FCOS (Tian et al. 2019, section 3).

    A point belongs to the smallest object whose centre is near and whose size is that of its level; see
    `jaxcnn.ops.match_fcos`. The loss is the sum of the focal loss over all points, of 1 - the generalized intersection
    over union and of the cross-entropy of the centerness over points with an object; all over the number of points with
    an object in the whole batch, or over 1.

    Attributes:
      strides: of the levels, in pixels: the unit of the distances.
      radius: largest distance of a point from the centre of its object, in strides.
      alpha: weight of the classes that are there in the focal loss; the others have 1 - alpha.
      gamma: exponent of the focal loss, at least 0.
    """

    score_threshold: float = 0.2
    iou_threshold: float = 0.6
    max_detections: int = 100
    strides: tuple[int, ...] = ()
    radius: float = 1.5
    alpha: float = 0.25
    gamma: float = 2.0

    def __post_init__(self) -> None:
        if len(self.strides) != len(self.map_sizes):
            raise ValueError(
                f"PointDetection expects strides for each of {len(self.map_sizes)} maps, got {len(self.strides)}"
            )

    @property
    def points(self) -> GridPoints:
        """The points of all levels, in pixels."""
        return grid_points(self.map_sizes, self.strides, image_size=self.image_size)

    def scores(self, outputs: Mapping[str, Any]) -> jax.Array:
        """Computes the root of the product of both probabilities; see `Detection.scores`."""
        return jnp.sqrt(jax.nn.sigmoid(outputs["classes"]) * jax.nn.sigmoid(outputs["centerness"])[:, None])

    def decode_boxes(self, outputs: Mapping[str, Any]) -> jax.Array:
        """Computes the boxes of one image; see `Detection.decode_boxes`."""
        points = self.points
        return decode_distances(outputs["boxes"], points.points, points.strides)

    def losses(self, outputs: Mapping[str, Any], boxes: Any, classes: Any, valid: Any) -> dict[str, Mean]:
        """Computes "class_loss", "box_loss" and "centerness_loss" of one image; see `Detection.losses`."""
        points = self.points
        matches = match_fcos(boxes, valid, points.points, points.strides, radius=self.radius)
        owned = matches >= 0
        targets = target_classes(matches, classes, outputs["classes"])
        focal = optax.sigmoid_focal_loss(outputs["classes"], targets, alpha=self.alpha, gamma=self.gamma)
        own_boxes = own_objects(matches, boxes)
        errors = iou_loss(self.decode_boxes(outputs), own_boxes)
        centerness = jnp.where(owned, _centerness(encode_distances(own_boxes, points.points)), 0)
        entropy = optax.sigmoid_binary_cross_entropy(outputs["centerness"], centerness.astype(targets.dtype))
        count = jnp.sum(owned).astype(targets.dtype)
        return {
            "class_loss": Mean(jnp.sum(focal), count),
            "box_loss": Mean(jnp.sum(jnp.where(owned, errors, 0)), count),
            "centerness_loss": Mean(jnp.sum(jnp.where(owned, entropy, 0)), count),
        }


@dataclass(frozen=True, repr=False)
class DefaultBoxDetection(Detection):
    """Boxes relative to default boxes, with one class or the background for each: SSD (Liu et al. 2016, section 2.2).

    Outputs "classes" have a logit for the background first: shape (batch, anchors, 1 + num_classes).

    A default box belongs to the object that it overlaps most, by at least `foreground_iou`, and each object has its
    best default box. The loss is the sum of the smooth L1 losses of the encoded boxes with an object, and of the
    cross-entropies of these and of the background boxes with the largest ones, `negatives` times as many in each image;
    all over the number of default boxes with an object in the whole batch, or over 1.

    Attributes:
      aspect_ratios: of each level, the ratios besides 1.
      scales: size of the default boxes of each level over that of the image, and one scale more.
      steps: pixels between two places of each level, or None for the size of the image over that of the map.
      foreground_iou: least overlap of a default box with its object.
      negatives: background boxes that count, for each box with an object.
    """

    score_threshold: float = 0.01
    iou_threshold: float = 0.45
    candidates: int = 400
    max_detections: int = 200
    aspect_ratios: tuple[tuple[float, ...], ...] = ()
    scales: tuple[float, ...] = ()
    steps: tuple[int, ...] | None = None
    foreground_iou: float = 0.5
    negatives: float = 3.0

    def __post_init__(self) -> None:
        # A wrong number of levels is refused there.
        _ = self.anchors

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Number of default boxes of each level."""
        return tuple(len(level) for level in self._levels)

    @property
    def anchors(self) -> np.ndarray:
        """The default boxes of all levels, two corners in pixels, float32, shape (anchors, 4)."""
        return np.concatenate(self._levels)

    @property
    def _levels(self) -> tuple[np.ndarray, ...]:
        return default_boxes(self.image_size, self.map_sizes, self.aspect_ratios, scales=self.scales, steps=self.steps)

    def num_classes(self, outputs: Mapping[str, Any]) -> int:
        """Returns the number of classes of the outputs, without the background."""
        return outputs["classes"].shape[-1] - 1

    def scores(self, outputs: Mapping[str, Any]) -> jax.Array:
        """Computes the probabilities of the classes of one image; see `Detection.scores`."""
        return jax.nn.softmax(outputs["classes"])[:, 1:]

    def decode_boxes(self, outputs: Mapping[str, Any]) -> jax.Array:
        """Computes the boxes of one image; see `Detection.decode_boxes`."""
        return decode_deltas(outputs["boxes"], self.anchors, weights=_SSD_WEIGHTS)

    def best_pairs(self, scores: jax.Array) -> Pairs:
        """Returns the best pairs of each class, rather than those of each level."""
        count = min(self.candidates, len(scores))
        best, indices = lax.top_k(scores.T, count)
        classes = jnp.repeat(jnp.arange(scores.shape[1], dtype=jnp.int32), count)
        return Pairs(best.reshape(-1), indices.reshape(-1).astype(jnp.int32), classes)

    def losses(self, outputs: Mapping[str, Any], boxes: Any, classes: Any, valid: Any) -> dict[str, Mean]:
        """Computes "class_loss" and "box_loss" of one image; see `Detection.losses`."""
        anchors: Any = self.anchors
        matches = match_ssd(pairwise_iou(boxes, anchors), valid, iou_threshold=self.foreground_iou)
        owned = matches >= 0
        targets = jnp.where(owned, 1 + classes[jnp.maximum(matches, 0)], 0)
        entropy = optax.softmax_cross_entropy_with_integer_labels(outputs["classes"], targets)
        counted = owned | hard_negatives(entropy, owned, ratio=self.negatives)
        codes = encode_deltas(own_objects(matches, boxes), anchors, weights=_SSD_WEIGHTS)
        errors = smooth_l1_loss(outputs["boxes"], codes)
        count = jnp.sum(owned)
        count = count.astype(entropy.dtype)
        return {
            "class_loss": Mean(jnp.sum(jnp.where(counted, entropy, 0)), count),
            "box_loss": Mean(jnp.sum(jnp.where(owned, errors, 0)), count),
        }


def own_objects(matches: jax.Array, boxes: jax.Array) -> jax.Array:
    """Returns the box of the object of each anchor; without an object, that of any other.

    Args:
      matches: index of an object or a negative number, shape (anchors,).
      boxes: shape (slots, 4).

    Returns:
      Shape (anchors, 4).
    """
    return boxes[jnp.maximum(matches, 0)]


def _centerness(distances: jax.Array) -> jax.Array:
    """Computes how central a point is in its box, in [0, 1] (Tian et al. 2019, equation 3); 0 outside of it."""
    left, top, right, bottom = (distances[:, i] for i in range(4))
    inside = jnp.min(distances, axis=1) > 0

    def ratio(one: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.minimum(one, other) / jnp.where(inside, jnp.maximum(one, other), 1)

    return jnp.where(inside, jnp.sqrt(jnp.where(inside, ratio(left, right) * ratio(top, bottom), 1)), 0)


def target_classes(matches: jax.Array, classes: jax.Array, logits: jax.Array) -> jax.Array:
    """Returns 1 for the class of the object of each anchor, and 0 for the others.

    Args:
      matches: index of an object or a negative number, shape (anchors,).
      classes: of the objects, shape (slots,).
      logits: shape (anchors, num_classes), for the shape and the dtype.

    Returns:
      Shape (anchors, num_classes).
    """
    own = jnp.where(matches >= 0, classes[jnp.maximum(matches, 0)], -1)
    return jax.nn.one_hot(own, logits.shape[1], dtype=logits.dtype)


def _count_right(
    detections: Mapping[str, jax.Array], boxes: jax.Array, classes: jax.Array, valid: jax.Array, *, num_classes: int
) -> tuple[jax.Array, ...]:
    """Compares the detections of one image with its objects.

    From the best score to the worst, a detection finds the object of its class that it overlaps most, of those that no
    detection has found yet, if the overlap is at least 0.5.

    Args:
      detections: as of `Detection.decode`, of one image.
      boxes: shape (slots, 4).
      classes: shape (slots,).
      valid: shape (slots,).
      num_classes: number of classes.

    Returns:
      Right detections and all detections by class and score, shape (num_classes, _BINS + 1); found objects and all
      objects by class, shape (num_classes,).
    """
    same = (detections["classes"][:, None] == classes) & valid & detections["valid"][:, None]
    overlaps = jnp.where(same, pairwise_iou(detections["boxes"], boxes), 0)

    def find(taken: jax.Array, overlap: jax.Array) -> tuple[jax.Array, jax.Array]:
        free = jnp.where(taken, 0, overlap)
        is_right = jnp.max(free) >= _IOU
        return taken | (is_right & (jnp.arange(len(taken)) == jnp.argmax(free))), is_right

    taken, right = lax.scan(find, jnp.zeros(len(valid), bool), overlaps)
    dtype = overlaps.dtype
    # One-hot products rather than a scatter, which is slow on GPU and serial on CPU.
    bins = jnp.round(detections["scores"] * _BINS).astype(jnp.int32)
    by_class = jax.nn.one_hot(detections["classes"], num_classes, dtype=dtype) * detections["valid"][:, None].astype(
        dtype
    )
    by_score = jax.nn.one_hot(bins, _BINS + 1, dtype=dtype)
    objects = jax.nn.one_hot(classes, num_classes, dtype=dtype) * valid[:, None].astype(dtype)
    return (
        (by_class * right[:, None].astype(dtype)).T @ by_score,
        by_class.T @ by_score,
        taken.astype(dtype) @ objects,
        jnp.sum(objects, axis=0),
    )


def _average_precision(right: Mean, found: Mean) -> float:
    """Computes the average precision from the counts of `_count_right`; NaN if there are no objects."""
    totals, counts = (np.cumsum(np.asarray(part, float)[:, ::-1], axis=1) for part in right)
    objects = np.asarray(found.weight, float)
    each = []
    for true, all_detections, number in zip(totals, counts, objects, strict=True):
        if number > 0:
            used = all_detections > 0
            precision = true[used] / all_detections[used]
            # The largest precision at this recall or a larger one.
            envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
            places = np.searchsorted(true[used] / number, np.linspace(0, 1, 101))
            each.append(envelope[places].mean())
    return float(np.mean(each)) if each else math.nan
