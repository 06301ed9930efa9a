"""Detection by regions: the losses of the regions, and of the layers that propose them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxcnn.ops.anchors import anchor_boxes
from jaxcnn.ops.box_coding import decode_deltas, encode_deltas
from jaxcnn.ops.boxes import pairwise_iou
from jaxcnn.ops.matching import IGNORED, match_by_iou
from jaxcnn.ops.regions import roi_align
from jaxcnn.ops.suppression import Pairs, top_pairs
from jaxcnn.tasks.box_losses import smooth_l1_loss
from jaxcnn.tasks.detection import Detection, own_objects
from jaxcnn.tasks.examples import take, weighted
from jaxcnn.types import Example, Mean

_BETA = 1 / 9
"""Where the smooth L1 loss becomes linear."""


@dataclass(frozen=True, repr=False)
class ClassifiedRegions(Detection):
    """Classes and boxes of regions: the part that R-CNN and Faster R-CNN share.

    Outputs are "proposals" (batch, regions, 4), "valid" (batch, regions), "classes" (batch, regions, 1 + num_classes),
    logits, the background first, and "boxes" (batch, regions, 1 + num_classes, 4), relative to the proposals.

    A region belongs to the object that it overlaps most by at least `region_foreground_iou`; it is background if it
    overlaps none by `region_background_iou`. The loss of an image is the mean over its regions of the cross-entropy,
    and of the smooth L1 loss of the encoded boxes with an object. It is averaged over the images.

    Attributes:
      region_foreground_iou, region_background_iou: of the regions.
      box_weights: factors of the encoded boxes of the regions.
    """

    candidates: int = 2000
    max_detections: int = 100
    region_foreground_iou: float = 0.5
    region_background_iou: float = 0.5
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)

    @property
    def min_size(self) -> float:
        """Least width and height of a detection, in pixels."""
        return 0.01

    def match_regions(self, regions: jax.Array, boxes: jax.Array, valid: jax.Array) -> jax.Array:
        """Returns the object of each region of one image, BACKGROUND or IGNORED, int32, shape (regions,).

        Args:
          regions: two corners in pixels, shape (regions, 4).
          boxes: of the objects, shape (slots, 4).
          valid: which slots hold an object, shape (slots,).
        """
        return match_by_iou(
            pairwise_iou(boxes, regions),
            valid,
            foreground_iou=self.region_foreground_iou,
            background_iou=self.region_background_iou,
        )

    def num_classes(self, outputs: Mapping[str, Any]) -> int:
        """Returns the number of classes of the outputs, without the background."""
        return outputs["classes"].shape[-1] - 1

    def scores(self, outputs: Mapping[str, Any]) -> jax.Array:
        """Computes the probabilities of the classes of one image, 0 in slots without a region."""
        return jnp.where(outputs["valid"][:, None], jax.nn.softmax(outputs["classes"])[:, 1:], 0)

    def decode_boxes(self, outputs: Mapping[str, Any]) -> jax.Array:
        """Computes the boxes of one image for each class, two corners in pixels, shape (regions, num_classes, 4)."""
        return decode_deltas(outputs["boxes"][:, 1:], outputs["proposals"][:, None], weights=self.box_weights)

    def best_pairs(self, scores: jax.Array) -> Pairs:
        """Returns the best pairs of a region and a class of the whole image."""
        return top_pairs(scores, self.candidates)

    def pair_boxes(self, outputs: Mapping[str, Any], best: Pairs) -> jax.Array:
        """Returns the box of each pair, that of its class; see `Detection.pair_boxes`."""
        return self.decode_boxes(outputs)[best.indices, best.classes]

    def losses(self, outputs: Mapping[str, Any], boxes: Any, classes: Any, valid: Any) -> dict[str, Mean]:
        """Computes "class_loss" and "box_loss" of one image; see `Detection.losses`."""
        matches = self.region_matches(outputs, boxes, valid)
        owned, counted = matches >= 0, matches != IGNORED
        targets = jnp.where(owned, 1 + classes[jnp.maximum(matches, 0)], 0)
        entropy = optax.softmax_cross_entropy_with_integer_labels(outputs["classes"], targets)
        codes = encode_deltas(own_objects(matches, boxes), outputs["proposals"], weights=self.box_weights)
        # A sum rather than a gather, whose gradient is slow on GPU.
        own = jnp.arange(outputs["boxes"].shape[1], dtype=targets.dtype)[None] == targets[:, None]
        deltas = jnp.sum(jnp.where(own[..., None], outputs["boxes"], 0), axis=1)
        errors = smooth_l1_loss(deltas, codes, beta=_BETA)
        return {"class_loss": _mean(entropy, counted, counted), "box_loss": _mean(errors, owned, counted)}

    def region_matches(self, outputs: Mapping[str, Any], boxes: Any, valid: Any) -> jax.Array:
        """Returns the object of each region of one image, or IGNORED where the loss leaves the region out."""
        if "region_matches" in outputs:
            return outputs["region_matches"]
        return jnp.where(outputs["valid"], self.match_regions(outputs["proposals"], boxes, valid), IGNORED)

    def _check_rows(self, outputs: Mapping[str, Any]) -> None:
        kind = type(self).__name__
        if missing := [name for name in ("proposals", "valid") if name not in outputs]:
            raise ValueError(f"{kind} expects outputs with 'proposals' and 'valid', got none of {missing[0]!r}")
        valid, classes, boxes = (outputs[name].shape for name in ("valid", "classes", "boxes"))
        if len(classes) != 3 or boxes != (*classes, 4) or valid != classes[:2]:
            raise ValueError(
                f"{kind} expects valid (batch, regions), classes (batch, regions, 1 + num_classes) and boxes (batch, "
                f"regions, 1 + num_classes, 4), got {valid}, {classes} and {boxes}"
            )


@dataclass(frozen=True, repr=False)
class RCNNDetection(ClassifiedRegions):
    """Classes and boxes of given proposals: R-CNN (Girshick et al. 2014).

    A batch also has "proposals", shape (batch, regions, 4), two corners in pixels, and "proposals_valid", bool, shape
    (batch, regions), which tells the slots that hold one. In training the objects themselves are proposals too.
    """

    def training_input(self, images: Any, batch: Example) -> dict[str, Any]:
        """Returns what the model takes in training: the images, the proposals and the objects.

        Args:
          images: of the batch, in the dtype of the computation.
          batch: the examples.
        """
        proposals, valid = self._given(batch)
        boxes, there = (take(type(self).__name__, batch, name) for name in ("boxes", "valid"))
        proposals = jnp.concatenate([proposals, boxes.astype(proposals.dtype)], axis=1)
        return _with_proposals(images, proposals, jnp.concatenate([valid, there], axis=1))

    def evaluation_input(self, images: Any, batch: Example) -> dict[str, Any]:
        """Returns what the model takes in evaluation: the images and the proposals; see `training_input`."""
        return _with_proposals(images, *self._given(batch))

    def _given(self, batch: Example) -> tuple[jax.Array, jax.Array]:
        """Returns the proposals of a batch, and which of them are valid."""
        kind = type(self).__name__
        proposals, valid = (take(kind, batch, name) for name in ("proposals", "proposals_valid"))
        if proposals.ndim != 3 or proposals.shape[2] != 4 or valid.shape != proposals.shape[:2]:
            raise ValueError(
                f"{kind} expects proposals (batch, regions, 4) and proposals_valid (batch, regions), got "
                f"{proposals.shape} and {valid.shape}"
            )
        return proposals, valid


def _with_proposals(images: Any, proposals: jax.Array, valid: jax.Array) -> dict[str, Any]:
    """Returns what R-CNN takes; slots without a proposal hold a box of one pixel, whose losses are finite."""
    pixel = jnp.asarray([0, 0, 1, 1], proposals.dtype)
    return {"image": images, "proposals": jnp.where(valid[..., None], proposals, pixel), "valid": valid}


@dataclass(frozen=True, repr=False)
class RegionDetection(ClassifiedRegions):
    """Proposals relative to anchors, and classes and boxes of the proposed regions: Faster R-CNN (Ren et al. 2015).

    Outputs are those of `FasterRCNN`; "classes" have a logit for the background first.

    An anchor belongs to the object that it overlaps most, if the intersection over union is at least
    `anchor_foreground_iou`, or if no anchor overlaps that object more. It is background if it overlaps no object by
    `anchor_background_iou`, and does not count in between. Regions are as in `ClassifiedRegions`.

    The loss of an image has four parts: the cross-entropy of the objectness and the smooth L1 loss of the encoded boxes
    with an object, both over the number of anchors that count; and likewise of the regions. It is averaged over the
    images. torchvision divides by the numbers of the whole batch, which is the same if each image has all its samples.
    In training the anchors and regions count that the model has sampled; in evaluation, where it does not see the
    objects, all of them.

    Attributes:
      sizes: of each level, the roots of the areas of its anchors, in pixels.
      aspect_ratios: of the anchors, height / width.
      anchor_foreground_iou, anchor_background_iou: of the anchors.
    """

    sizes: tuple[tuple[float, ...], ...] = ()
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    anchor_foreground_iou: float = 0.7
    anchor_background_iou: float = 0.3

    def __post_init__(self) -> None:
        # A wrong number of levels is refused there.
        _ = self.anchors

    @property
    def per_place(self) -> int:
        """Anchors at each place of a map."""
        return len(self.sizes[0]) * len(self.aspect_ratios)

    @property
    def anchors(self) -> np.ndarray:
        """The anchors of all levels, two corners in pixels, float32, shape (anchors, 4)."""
        return np.concatenate(anchor_boxes(self.image_size, self.map_sizes, self.sizes, self.aspect_ratios))

    def training_input(self, images: Any, batch: Example) -> dict[str, Any]:
        """Returns what the model takes in training: the images, and the boxes that it samples regions by.

        Args:
          images: of the batch, in the dtype of the computation.
          batch: the examples.
        """
        return {"image": images, **{name: take(type(self).__name__, batch, name) for name in ("boxes", "valid")}}

    def match_anchors(self, boxes: jax.Array, valid: jax.Array) -> jax.Array:
        """Returns the object of each anchor of one image, BACKGROUND or IGNORED, int32, shape (anchors,).

        Args:
          boxes: of the objects, shape (slots, 4).
          valid: which slots hold an object, shape (slots,).
        """
        return match_by_iou(
            pairwise_iou(boxes, jnp.asarray(self.anchors)),
            valid,
            foreground_iou=self.anchor_foreground_iou,
            background_iou=self.anchor_background_iou,
            allow_low_quality=True,
        )

    def losses(self, outputs: Mapping[str, Any], boxes: Any, classes: Any, valid: Any) -> dict[str, Mean]:
        """Computes "objectness_loss", "proposal_loss", "class_loss" and "box_loss" of one image."""
        matches = outputs["anchor_matches"] if "anchor_matches" in outputs else self.match_anchors(boxes, valid)
        owned, counted = matches >= 0, matches != IGNORED
        entropy = optax.sigmoid_binary_cross_entropy(outputs["objectness"], owned.astype(outputs["objectness"].dtype))
        codes = encode_deltas(own_objects(matches, boxes), jnp.asarray(self.anchors))
        errors = smooth_l1_loss(outputs["deltas"], codes, beta=_BETA)
        parts = {"objectness_loss": _mean(entropy, counted, counted), "proposal_loss": _mean(errors, owned, counted)}
        return parts | super().losses(outputs, boxes, classes, valid)

    def _check_rows(self, outputs: Mapping[str, Any]) -> None:
        names = ("boxes", "classes", "deltas", "objectness", "proposals", "valid")
        kind, anchors = type(self).__name__, sum(self.level_sizes)
        if missing := [name for name in names if name not in outputs]:
            raise ValueError(
                f"{kind} expects outputs with {', '.join(map(repr, names))}, as FasterRCNN gives, got none of "
                f"{missing[0]!r}"
            )
        objectness, classes, boxes = (outputs[name].shape for name in ("objectness", "classes", "boxes"))
        if objectness[1:] != (anchors,) or len(classes) != 3 or boxes != (*classes, 4):
            height, width = self.image_size
            raise ValueError(
                f"{kind} expects objectness (batch, {anchors}), classes (batch, regions, 1 + num_classes) and boxes "
                f"(batch, regions, 1 + num_classes, 4) for images of {height}x{width}, got {objectness}, {classes} and "
                f"{boxes}; make the task by model.task(image_size)"
            )


@dataclass(frozen=True, repr=False)
class MaskDetection(RegionDetection):
    """Detection with a mask for each object: Mask R-CNN (He et al. 2017, section 3).

    A batch also has "masks", bool or numbers in [0, 1], shape (batch, slots, height, width). Outputs are those of
    `MaskRCNN`.

    The loss has one more part: the mean cross-entropy of the pixels of the masks of regions with an object, each for
    the class of its object alone. The target of a region is the object's mask, cut out by `roi_align` and not rounded.
    In evaluation the masks are those of the detections, and count where these overlap an object by
    `region_foreground_iou`.
    """

    def chosen(self, outputs: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Returns the detections of one image, without masks; see `Detection.decode`."""
        return super()._decode_one(outputs)

    def mask_loss(
        self, outputs: Mapping[str, Any], boxes: jax.Array, classes: jax.Array, valid: jax.Array, masks: jax.Array
    ) -> Mean:
        """Computes the loss of the masks of one image.

        Args:
          outputs: of one image.
          boxes: shape (slots, 4).
          classes: shape (slots,).
          valid: shape (slots,).
          masks: of the objects, shape (slots, height, width).

        Returns:
          The mean, of weight 1.
        """
        logits = outputs["masks"]
        if "detections" in outputs:
            found = outputs["detections"]
            regions = found["boxes"]
            matches = jnp.where(found["valid"], self.match_regions(regions, boxes, valid), IGNORED)
        else:
            regions = outputs["proposals"][: len(logits)]
            matches = self.region_matches(outputs, boxes, valid)[: len(logits)]
            label = 1 + classes[jnp.maximum(matches, 0)]
            own = jnp.arange(logits.shape[3], dtype=label.dtype)[None] == label[:, None]
            logits = jnp.sum(jnp.where(own[:, None, None], logits, 0), axis=3)
        dtype, size = logits.dtype, (logits.shape[1], logits.shape[2])

        def cut(region: tuple[jax.Array, jax.Array]) -> jax.Array:
            match, box = region
            mask = masks[jnp.maximum(match, 0)].astype(dtype)
            return roi_align(mask[..., None], box[None], size)[0, ..., 0]

        owned = matches >= 0
        targets = lax.stop_gradient(lax.map(cut, (matches, regions)))
        entropy = jnp.mean(optax.sigmoid_binary_cross_entropy(logits, targets), axis=(1, 2))
        return _mean(entropy, owned, owned)

    def _parts(self, outputs: Mapping[str, Any], batch: Example) -> dict[str, Mean]:
        parts = super()._parts(outputs, batch)
        kind = type(self).__name__
        boxes, classes, valid, masks = (take(kind, batch, name) for name in ("boxes", "classes", "valid", "masks"))
        if masks.shape != (*valid.shape, *self.image_size):
            height, width = self.image_size
            raise ValueError(f"{kind} expects masks (batch, slots, {height}, {width}), got {masks.shape}")
        if not masks.shape[1]:
            return {
                **parts,
                "mask_loss": jax.tree.map(jnp.zeros_like, parts["box_loss"])._replace(weight=parts["box_loss"].weight),
            }
        boxes = jax.vmap(empty_boxes)(boxes, valid)
        part = jax.vmap(self.mask_loss)(dict(outputs), boxes, jnp.where(valid, classes, 0), valid, masks)
        return {**parts, "mask_loss": weighted(part.total, part.weight, batch)}

    def decode(self, outputs: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Turns the outputs for a batch into detections, the best first; see `Detection.decode`.

        Args:
          outputs: of the model, in evaluation.

        Returns:
          Those of `Detection.decode`; and "box_masks", shape (batch, max_detections, 28, 28), the probability of the
          object in each part of its box. `jaxcnn.evaluation.paste_masks` makes masks of the picture of them. Outputs
          of training have no detections, and give no masks.
        """
        return super().decode(outputs)

    def _decode_one(self, outputs: Mapping[str, Any]) -> dict[str, jax.Array]:
        if "detections" not in outputs:
            return super()._decode_one(outputs)
        return {**outputs["detections"], "box_masks": jax.nn.sigmoid(outputs["masks"])}


def empty_boxes(boxes: jax.Array, valid: jax.Array) -> jax.Array:
    """Returns boxes with zeros in slots without an object, whatever these held.

    Args:
      boxes: shape (slots, 4).
      valid: shape (slots,).
    """
    return jnp.where(valid[:, None], boxes, jnp.zeros((), boxes.dtype))


def _mean(errors: jax.Array, wanted: jax.Array, counted: jax.Array) -> Mean:
    """Sums the wanted errors over the number that counts, or over 1; the mean of one image has the weight 1."""
    count = jnp.maximum(jnp.sum(counted, dtype=jnp.int32), 1).astype(errors.dtype)
    return Mean(jnp.sum(jnp.where(wanted, errors, 0)) / count, jnp.ones((), errors.dtype))
