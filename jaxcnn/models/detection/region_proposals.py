"""Region proposals: boxes that may hold an object, whatever its class.

Source: Ren, He, Girshick & Sun, "Faster R-CNN: towards real-time object detection with region proposal networks", 2015,
section 3.1; Lin, Dollár, Girshick, He, Hariharan & Belongie, "Feature pyramid networks for object detection", 2017,
section 4.1, for the levels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.layers import Composite, Conv, Function, Run
from jaxcnn.models.blocks import relu
from jaxcnn.models.detection.detector import per_anchor
from jaxcnn.models.detection.retinanet import small_normal, tower
from jaxcnn.ops.anchors import anchor_boxes
from jaxcnn.ops.box_coding import decode_deltas
from jaxcnn.ops.boxes import clip_boxes
from jaxcnn.ops.check import at_least_float32
from jaxcnn.ops.suppression import nms
from jaxcnn.types import Layer

_MIN_SIZE = 1e-3
"""Least width and height of a proposal, in pixels."""


class Regions(NamedTuple):
    """Boxes of one image, in arrays of fixed size.

    Attributes:
      boxes: two corners in pixels, at least float32, shape (slots, 4).
      valid: which slots hold a box, bool, shape (slots,).
    """

    boxes: jax.Array
    valid: jax.Array


@dataclass(frozen=True, repr=False)
class RegionProposals(Composite):
    """A small network that slides over all levels, and tells objects from background at each anchor.

    Attributes:
      tower: layers before the two convolutions.
      objectness: 1x1 convolution with a logit for each anchor.
      deltas: 1x1 convolution with four numbers for each anchor.
      anchor_sizes: of each level, the roots of the areas of its anchors, in pixels; as many for each level.
      aspect_ratios: of the anchors, height / width.
      candidates: best anchors of each level among which proposals are chosen, in training and in evaluation.
      slots: most proposals of an image, in training and in evaluation.
      iou_threshold: of two proposals of one level whose intersection over union is greater, the better one is kept.
      score_threshold: least probability of an object, in [0, 1].
    """

    tower: Layer
    objectness: Layer
    deltas: Layer
    anchor_sizes: tuple[tuple[float, ...], ...]
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    candidates: tuple[int, int] = (2000, 1000)
    slots: tuple[int, int] = (2000, 1000)
    iou_threshold: float = 0.7
    score_threshold: float = 0.0

    def forward(self, run: Run, x: tuple[jax.Array, ...]) -> dict[str, jax.Array]:
        """Computes "objectness" (anchors,), logits, and "deltas" (anchors, 4) of one image."""
        hidden = [run.tower(level) for level in x]
        return {
            "objectness": jnp.concatenate([run.objectness(level).reshape(-1) for level in hidden]),
            "deltas": jnp.concatenate([per_anchor(run.deltas(level), 4) for level in hidden]),
        }

    def propose(
        self,
        outputs: Mapping[str, Any],
        image_size: tuple[int, int],
        map_sizes: tuple[tuple[int, int], ...],
        *,
        train: bool,
    ) -> Regions:
        """Chooses proposals: the best anchors of each level, without anchors that overlap a better one.

        Args:
          outputs: of `forward`.
          image_size: (height, width) of the image, in pixels.
          map_sizes: (height, width) of the maps of all levels.
          train: whether to take the numbers of training.

        Returns:
          The proposals, the best first, within the image. They have no gradient.
        """
        candidates, slots = (pair[0 if train else 1] for pair in (self.candidates, self.slots))
        objectness, deltas = (lax.stop_gradient(outputs[name]) for name in ("objectness", "deltas"))
        objectness = objectness.astype(at_least_float32(objectness.dtype))
        scores, boxes, levels, start = [], [], [], 0
        for i, anchors in enumerate(anchor_boxes(image_size, map_sizes, self.anchor_sizes, self.aspect_ratios)):
            best, indices = lax.top_k(objectness[start : start + len(anchors)], min(candidates, len(anchors)))
            scores.append(jax.nn.sigmoid(best))
            boxes.append(decode_deltas(deltas[start + indices], jnp.asarray(anchors)[indices]))
            levels.append(jnp.full(len(best), i, jnp.int32))
            start += len(anchors)
        every = clip_boxes(jnp.concatenate(boxes), image_size)
        score = jnp.concatenate(scores)
        large = jnp.all(every[:, 2:] - every[:, :2] >= _MIN_SIZE, axis=1)
        kept = nms(
            every,
            score,
            iou_threshold=self.iou_threshold,
            max_outputs=slots,
            classes=jnp.concatenate(levels),
            valid=large & (score >= self.score_threshold),
        )
        return Regions(jnp.where(kept.valid[:, None], every[kept.indices], 0), kept.valid)


def region_proposals(
    channels: int,
    anchor_sizes: tuple[tuple[float, ...], ...],
    *,
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
    depth: int = 1,
    activation: Function = relu,
    **options: Any,
) -> RegionProposals:
    """Builds a network of region proposals.

    Args:
      channels: channels of the levels.
      anchor_sizes: of each level, the roots of the areas of its anchors, in pixels; as many for each level.
      aspect_ratios: of the anchors, height / width.
      depth: number of 3x3 convolutions in the tower.
      activation: the nonlinearity.
      **options: fields of `RegionProposals`.

    Returns:
      The network: tower, objectness, deltas.
    """
    anchors = len(anchor_sizes[0]) * len(aspect_ratios)
    return RegionProposals(
        tower(channels, depth, None, activation, use_bias=True),
        Conv(channels, anchors, 1, kernel_init=small_normal),
        Conv(channels, anchors * 4, 1, kernel_init=small_normal),
        anchor_sizes,
        aspect_ratios,
        **options,
    )
