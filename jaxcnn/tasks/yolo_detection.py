"""Detection in the cells of grids: the first YOLO, YOLOv3 and YOLOX."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxcnn.ops.anchors import GridPoints, grid_points
from jaxcnn.ops.boxes import aligned_iou, box_area, convert_boxes, pairwise_iou
from jaxcnn.ops.check import is_int, is_number
from jaxcnn.ops.matching import BACKGROUND, match_simota
from jaxcnn.ops.suppression import Pairs
from jaxcnn.tasks.detection import Detection, own_objects, target_classes
from jaxcnn.types import Mean

_BOX_WEIGHT = 5.0
"""Weight of the loss of boxes, in the code of the authors of YOLOX."""


@dataclass(frozen=True, repr=False)
class CellDetection(Detection):
    """Boxes with the probability of an object, and of each class if there is one: what the YOLO family shares.

    Outputs have "objectness" too, shape (batch, boxes), logits. The score of a class is the product of both
    probabilities.

    Attributes:
      strides: of the levels: the size of the cells, in pixels.
    """

    score_threshold: float = 0.01
    strides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.strides) != len(self.map_sizes):
            raise ValueError(
                f"{type(self).__name__} expects strides for each of {len(self.map_sizes)} maps, got {len(self.strides)}"
            )

    @property
    def cells(self) -> GridPoints:
        """The upper left corners of the cells of all levels, in pixels."""
        return grid_points(self.map_sizes, self.strides)

    def _cells(self, outputs: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
        """Returns corners (boxes, 2) and strides (boxes, 1) of the cell of each box, in the dtype of the boxes."""
        corners, strides, _ = self.cells
        dtype = outputs["boxes"].dtype
        each = (np.repeat(array, self.per_place, axis=0) for array in (corners, strides[:, None]))
        corners, strides = (jnp.asarray(array, dtype) for array in each)
        return corners, strides

    def scores(self, outputs: Mapping[str, Any]) -> jax.Array:
        """Computes the product of both probabilities; see `Detection.scores`."""
        return jax.nn.sigmoid(outputs["classes"]) * jax.nn.sigmoid(outputs["objectness"])[:, None]


@dataclass(frozen=True, repr=False)
class YOLOXDetection(CellDetection):
    """A box in each cell, with the losses of YOLOX (Ge et al. 2021, section 2.1, and the code of the authors).

    The numbers of a box are the distance of its centre from the corner of the cell, and the logarithms of its width and
    height, all in strides. Objects take cells by their cost; see `jaxcnn.ops.match_simota`. The loss is the sum, over
    cells with an object, of 5 * (1 - iou^2) and of the cross-entropies of the classes, where the target of the class is
    the intersection over union; and over all cells of the cross-entropy of the objectness; all over the number of cells
    with an object in the whole batch, or over 1. A detection has the likeliest class of its box.

    Attributes:
      radius: largest distance of a cell's centre from the centre of its object, in strides.
      l1_weight: weight of the absolute differences of the four numbers, at least 0. The authors have 1 in the last
        epochs, which are without mosaic, and 0 before.
    """

    iou_threshold: float = 0.65
    radius: float = 1.5
    l1_weight: float = 0.0

    def __post_init__(self) -> None:
        if not is_number(self.l1_weight) or not 0 <= self.l1_weight < float("inf"):
            raise ValueError(f"YOLOXDetection expects a finite l1_weight of at least 0, got {self.l1_weight!r}")

    def plain(self) -> Self:
        """Returns the task of the last epochs of a training, whose images are not mixed: `l1_weight` is 1."""
        return self if self.l1_weight else dataclasses.replace(self, l1_weight=1.0)

    def best_pairs(self, scores: jax.Array) -> Pairs:
        """Returns the best boxes of all levels, each with its likeliest class."""
        best, indices = lax.top_k(jnp.max(scores, axis=1), min(self.candidates, len(scores)))
        return Pairs(best, indices.astype(jnp.int32), jnp.argmax(scores[indices], axis=1).astype(jnp.int32))

    def decode_boxes(self, outputs: Mapping[str, Any]) -> jax.Array:
        """Computes the boxes of one image; see `Detection.decode_boxes`."""
        corners, strides = self._cells(outputs)
        centres = outputs["boxes"][:, :2] * strides + corners
        sizes = jnp.exp(outputs["boxes"][:, 2:]) * strides
        return convert_boxes(jnp.concatenate([centres, sizes], axis=1), "cxcywh", "xyxy")

    def losses(self, outputs: Mapping[str, Any], boxes: Any, classes: Any, valid: Any) -> dict[str, Mean]:
        """Computes "class_loss", "box_loss", "objectness_loss" and "l1_loss" of one image."""
        corners, strides = self._cells(outputs)
        decoded, logits, objectness = self.decode_boxes(outputs), outputs["classes"], outputs["objectness"]
        matches, quality = match_simota(
            boxes,
            classes,
            valid,
            decoded,
            logits,
            objectness,
            corners + strides / 2,
            strides[:, 0],
            radius=self.radius,
        )
        owned = matches >= 0
        own_boxes = own_objects(matches, boxes)
        targets = target_classes(matches, classes, logits) * quality[:, None].astype(logits.dtype)
        entropy = jnp.sum(optax.sigmoid_binary_cross_entropy(logits, targets), axis=1)
        errors = 1 - aligned_iou(decoded, own_boxes, epsilon=1e-16) ** 2
        there = optax.sigmoid_binary_cross_entropy(objectness, owned.astype(objectness.dtype))
        count = jnp.sum(owned).astype(logits.dtype)
        wanted = convert_boxes(own_boxes, "xyxy", "cxcywh").astype(decoded.dtype)
        places = (wanted[:, :2] - corners) / strides
        codes = jnp.concatenate([places, jnp.log(wanted[:, 2:] / strides + 1e-8)], axis=1)
        apart = jnp.sum(jnp.abs(outputs["boxes"] - codes), axis=1)
        return {
            "class_loss": Mean(jnp.sum(jnp.where(owned, entropy, 0)), count),
            "box_loss": Mean(_BOX_WEIGHT * jnp.sum(jnp.where(owned, errors, 0)), count),
            "objectness_loss": Mean(jnp.sum(there), count),
            "l1_loss": Mean(self.l1_weight * jnp.sum(jnp.where(owned, apart, 0)), count),
        }


@dataclass(frozen=True, repr=False)
class YOLOv3Detection(CellDetection):
    """Anchors in each cell, with the losses of YOLOv3 (Redmon & Farhadi 2018, section 2, and the authors' darknet).

    The numbers of a box are t: its centre is at sigmoid(t_x), sigmoid(t_y) in the cell, in strides, and its size is
    that of the anchor times exp(t_w), exp(t_h). An object has one box: in the cell of its centre, on the level of the
    anchor whose shape fits it best. If several objects have the same box, the one that fits the anchor best counts. The
    loss of an image is the sum of the cross-entropies of the objectness, but for boxes without an object that overlap
    one by more than `ignore_iou`; and, for boxes with an object, of the cross-entropies of all classes, and of the
    losses of the four numbers, with a weight from 1 to 2 that is larger for small objects: the cross-entropies of
    the places in the cell, and half of the squared differences of t_w and t_h. It is averaged over images.

    Attributes:
      anchors: width and height of the anchors of each level, in pixels; of all levels the same number.
      ignore_iou: in [0, 1]. The paper has 0.5.
    """

    iou_threshold: float = 0.45
    anchors: tuple[tuple[tuple[float, float], ...], ...] = ()
    ignore_iou: float = 0.5

    def __post_init__(self) -> None:
        if len(self.anchors) != len(self.map_sizes) or len({len(level) for level in self.anchors}) != 1:
            raise ValueError(
                f"YOLOv3Detection expects as many anchors for each of {len(self.map_sizes)} maps, got {self.anchors}"
            )
        sizes = [size for level in self.anchors for pair in level for size in pair]
        if not all(is_number(size) and 0 < size < float("inf") for size in sizes):
            raise ValueError(f"YOLOv3Detection expects sizes of anchors above 0, got {self.anchors}")
        if not is_number(self.ignore_iou) or not 0 <= self.ignore_iou <= 1:
            raise ValueError(f"YOLOv3Detection expects ignore_iou in [0, 1], got {self.ignore_iou!r}")

    @property
    def per_place(self) -> int:
        """Anchors in each cell."""
        return len(self.anchors[0])

    def decode_boxes(self, outputs: Mapping[str, Any]) -> jax.Array:
        """Computes the boxes of one image; see `Detection.decode_boxes`."""
        corners, strides = self._cells(outputs)
        centres = jax.nn.sigmoid(outputs["boxes"][:, :2]) * strides + corners
        sizes = jnp.exp(outputs["boxes"][:, 2:]) * self._sizes(outputs)
        return convert_boxes(jnp.concatenate([centres, sizes], axis=1), "cxcywh", "xyxy")

    def losses(self, outputs: Mapping[str, Any], boxes: Any, classes: Any, valid: Any) -> dict[str, Mean]:
        """Computes "class_loss", "box_loss" and "objectness_loss" of one image; see `Detection.losses`."""
        (corners, strides), numbers, logits = self._cells(outputs), outputs["boxes"], outputs["classes"]
        matches = self.match(boxes, valid)
        owned = matches >= 0
        overlaps = pairwise_iou(boxes, lax.stop_gradient(self.decode_boxes(outputs)))
        near = jnp.any((overlaps > self.ignore_iou) & valid[:, None], axis=0)
        there = optax.sigmoid_binary_cross_entropy(outputs["objectness"], owned.astype(logits.dtype))
        entropy = jnp.sum(optax.sigmoid_binary_cross_entropy(logits, target_classes(matches, classes, logits)), axis=1)
        own = convert_boxes(own_objects(matches, boxes), "xyxy", "cxcywh").astype(numbers.dtype)
        anchors = self._sizes(outputs)
        sizes = jnp.where(owned[:, None], own[:, 2:], anchors)
        places = optax.sigmoid_binary_cross_entropy(numbers[:, :2], (own[:, :2] - corners) / strides)
        apart = (numbers[:, 2:] - jnp.log(sizes / anchors)) ** 2 / 2
        height, width = self.image_size
        errors = (2 - sizes[:, 0] * sizes[:, 1] / (height * width)) * jnp.sum(places + apart, axis=1)
        one = jnp.ones((), logits.dtype)
        return {
            "class_loss": Mean(jnp.sum(jnp.where(owned, entropy, 0)), one),
            "box_loss": Mean(jnp.sum(jnp.where(owned, errors, 0)), one),
            "objectness_loss": Mean(jnp.sum(jnp.where(owned | ~near, there, 0)), one),
        }

    def match(self, boxes: jax.Array, valid: jax.Array) -> jax.Array:
        """Finds the box of each object, by the shapes of the anchors.

        Args:
          boxes: of the objects, shape (slots, 4).
          valid: which slots hold an object, shape (slots,).

        Returns:
          Index of an object or BACKGROUND, int32, shape (anchors of all levels,).
        """
        shapes = jnp.asarray([pair for level in self.anchors for pair in level], boxes.dtype)
        own = convert_boxes(boxes, "xyxy", "cxcywh")
        # As if all had the same centre.
        shared = jnp.prod(jnp.minimum(own[:, None, 2:], shapes), axis=-1)
        union = jnp.prod(own[:, None, 2:], axis=-1) + jnp.prod(shapes, axis=-1) - shared
        fit = shared / union
        level, anchor = jnp.divmod(jnp.argmax(fit, axis=1).astype(jnp.int32), self.per_place)
        rows, columns = (jnp.asarray(sizes, jnp.int32)[level] for sizes in zip(*self.map_sizes, strict=True))
        start = jnp.asarray(np.cumsum((0, *self.level_sizes[:-1])), jnp.int32)[level]
        stride = jnp.asarray(self.strides, boxes.dtype)[level]
        column = jnp.clip((own[:, 0] / stride).astype(jnp.int32), 0, columns - 1)
        row = jnp.clip((own[:, 1] / stride).astype(jnp.int32), 0, rows - 1)
        place = start + (row * columns + column) * self.per_place + anchor
        taken = (place[:, None] == jnp.arange(sum(self.level_sizes), dtype=jnp.int32)) & valid[:, None]
        best = jnp.argmax(jnp.where(taken, jnp.max(fit, axis=1)[:, None], -1), axis=0)
        return jnp.where(jnp.any(taken, axis=0), best, BACKGROUND).astype(jnp.int32)

    def _sizes(self, outputs: Mapping[str, Any]) -> jax.Array:
        """Returns width and height of all anchors, shape (anchors, 2)."""
        levels = [
            np.tile(level, (height * width, 1))
            for level, (height, width) in zip(self.anchors, self.map_sizes, strict=True)
        ]
        return jnp.asarray(np.concatenate(levels), outputs["boxes"].dtype)


@dataclass(frozen=True, repr=False)
class YOLOv1Detection(Detection):
    """Boxes of the cells of one grid, with squared errors: the first YOLO (Redmon et al. 2016, section 2).

    Outputs are no logits. "boxes" has the place of the centre in its cell, x and y in [0, 1], and the roots of width
    and height, each over those of the image; "objectness" the confidence, and "classes" the probabilities of the
    classes if there is an object, the same for all boxes of a cell. The score of a class is the product, cut to [0, 1].

    An object belongs to the cell of its centre; of several in a cell, the largest one counts. Of the boxes of the cell,
    the one that overlaps the object most is responsible, or the nearest one if none overlaps. The loss of an image is
    (equation 3), averaged over images: `box_weight` times the squared errors of the four numbers of responsible boxes,
    the squared errors of the confidences, whose target is the overlap or 0, of the others times `background_weight`,
    and the squared errors of the classes of cells with an object.

    Attributes:
      boxes: boxes of each cell.
      box_weight: lambda_coord, above 0.
      background_weight: lambda_noobj, above 0.
    """

    score_threshold: float = 0.01
    iou_threshold: float = 0.5
    boxes: int = 2
    box_weight: float = 5.0
    background_weight: float = 0.5

    def __post_init__(self) -> None:
        if len(self.map_sizes) != 1:
            raise ValueError(f"YOLOv1Detection expects one map, got {len(self.map_sizes)}")
        if not is_int(self.boxes) or self.boxes < 1:
            raise ValueError(f"YOLOv1Detection expects boxes of at least 1, got {self.boxes!r}")
        for name in ("box_weight", "background_weight"):
            value = getattr(self, name)
            if not is_number(value) or not 0 < value < float("inf"):
                raise ValueError(f"YOLOv1Detection expects a finite {name} above 0, got {value!r}")

    @property
    def per_place(self) -> int:
        """Boxes of each cell."""
        return self.boxes

    def scores(self, outputs: Mapping[str, Any]) -> jax.Array:
        """Computes the product of both probabilities; see `Detection.scores`."""
        return jnp.clip(outputs["classes"] * outputs["objectness"][:, None], 0, 1)

    def decode_boxes(self, outputs: Mapping[str, Any]) -> jax.Array:
        """Computes the boxes of one image; see `Detection.decode_boxes`."""
        numbers = outputs["boxes"]
        corners, cell, image = self._grid(numbers.dtype)
        corners = jnp.repeat(corners, self.boxes, axis=0)
        boxes = jnp.concatenate([corners + numbers[:, :2] * cell, jnp.square(numbers[:, 2:]) * image], axis=1)
        return convert_boxes(boxes, "cxcywh", "xyxy")

    def losses(self, outputs: Mapping[str, Any], boxes: Any, classes: Any, valid: Any) -> dict[str, Mean]:
        """Computes "class_loss", "box_loss" and "objectness_loss" of one image; see `Detection.losses`."""
        numbers, confidence = outputs["boxes"], outputs["objectness"]
        corners, cell, image = self._grid(numbers.dtype)
        owner = self.match(boxes, valid)
        has_object = owner >= 0
        own_boxes = jnp.repeat(own_objects(owner, boxes), self.boxes, axis=0)
        decoded = lax.stop_gradient(self.decode_boxes(outputs))
        overlaps = aligned_iou(decoded, own_boxes).reshape(-1, self.boxes)
        apart = jnp.sum(jnp.square(decoded - own_boxes.astype(decoded.dtype)), axis=1).reshape(-1, self.boxes)
        best = jnp.where(jnp.max(overlaps, axis=1) > 0, jnp.argmax(overlaps, axis=1), jnp.argmin(apart, axis=1))
        responsible = (jnp.arange(self.boxes) == best[:, None]) & has_object[:, None]
        own = convert_boxes(own_objects(owner, boxes), "xyxy", "cxcywh").astype(numbers.dtype)
        wanted = jnp.concatenate([(own[:, :2] - corners) / cell, jnp.sqrt(own[:, 2:] / image)], axis=1)
        errors = jnp.sum(jnp.square(numbers.reshape(-1, self.boxes, 4) - wanted[:, None]), axis=-1)
        confidence = confidence.reshape(-1, self.boxes)
        there = jnp.square(confidence - overlaps.astype(confidence.dtype))
        background = self.background_weight * jnp.square(confidence)
        logits = outputs["classes"][:: self.boxes]
        different = jnp.sum(jnp.square(logits - target_classes(owner, classes, logits)), axis=1)
        one = jnp.ones((), logits.dtype)
        return {
            "class_loss": Mean(jnp.sum(jnp.where(has_object, different, 0)), one),
            "box_loss": Mean(self.box_weight * jnp.sum(jnp.where(responsible, errors, 0)), one),
            "objectness_loss": Mean(jnp.sum(jnp.where(responsible, there, background)), one),
        }

    def match(self, boxes: jax.Array, valid: jax.Array) -> jax.Array:
        """Finds the object of each cell.

        Args:
          boxes: of the objects, shape (slots, 4).
          valid: which slots hold an object, shape (slots,).

        Returns:
          Index of an object or BACKGROUND, int32, shape (cells,).
        """
        ((rows, columns),) = self.map_sizes
        _, cell, _ = self._grid(boxes.dtype)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        place = jnp.clip((centres / cell).astype(jnp.int32), 0, jnp.asarray([columns - 1, rows - 1], jnp.int32))
        index = place[:, 1] * columns + place[:, 0]
        taken = (index[:, None] == jnp.arange(rows * columns, dtype=jnp.int32)) & valid[:, None]
        largest = jnp.argmax(jnp.where(taken, box_area(boxes)[:, None], -1), axis=0)
        return jnp.where(jnp.any(taken, axis=0), largest, BACKGROUND).astype(jnp.int32)

    def _grid(self, dtype: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns corners of the cells (cells, 2), and width and height of a cell and of the image, in pixels."""
        ((rows, columns),), (height, width) = self.map_sizes, self.image_size
        cell = np.array([width / columns, height / rows])
        places = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
        return jnp.asarray(places * cell, dtype), jnp.asarray(cell, dtype), jnp.asarray([width, height], dtype)
