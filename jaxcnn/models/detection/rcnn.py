"""R-CNN, the first one: a classifier looks at each proposed region by itself.

Source: Girshick, Donahue, Darrell & Malik, "Rich feature hierarchies for accurate object detection and semantic
segmentation", 2014.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.layers import Composite, Dense, Run, identity
from jaxcnn.models.detection.faster_rcnn import RegionHead, region_head
from jaxcnn.models.small import small_cnn
from jaxcnn.ops.check import check_image, is_int
from jaxcnn.ops.regions import roi_align
from jaxcnn.tasks.region_detection import RCNNDetection
from jaxcnn.types import Layer


@dataclass(frozen=True, repr=False)
class RCNN(Composite):
    """A classifier of warped regions, which are given with the image (section 2.1).

    It takes "image" (height, width, channels), "proposals" (regions, 4), two corners in pixels, and "valid" (regions,),
    of which `RCNNDetection.training_input` and `evaluation_input` make a batch. The outputs are "proposals", "valid"
    and, of each region, "classes" (regions, 1 + num_classes), logits, the background first, and "boxes" (regions, 1 +
    num_classes, 4), relative to the proposals.

    The authors train in three steps: the classifier, a support vector machine for each class, and the boxes by ridge
    regression. Here they have one loss, as in Girshick 2015, "Fast R-CNN"; and all regions count, not 32 with an object
    and 96 without.

    Attributes:
      body: computes features from one warped region. Its state does not change, and it draws no random numbers: no
        batch norm that is trained, and no dropout.
      head: classes and boxes from the features of all regions.
      crop_size: height and width of a warped region, in pixels.
      context: pixels of it that lie around the proposal, on each side (appendix A). The paper has 16 of 227.
    """

    body: Layer
    head: RegionHead
    crop_size: int
    context: int = 0

    def __post_init__(self) -> None:
        for name, least in (("crop_size", 1), ("context", 0)):
            value = getattr(self, name)
            if not is_int(value) or value < least:
                raise ValueError(f"RCNN expects {name} of at least {least}, got {value!r}")
        if 2 * self.context >= self.crop_size:
            raise ValueError(f"RCNN expects context below half of crop_size {self.crop_size}, got {self.context}")

    def forward(self, run: Run, x: Any) -> dict[str, jax.Array]:
        """Computes the outputs for one image with its proposals."""
        if not isinstance(x, Mapping) or not {"image", "proposals", "valid"} <= set(x):
            got = sorted(x) if isinstance(x, Mapping) else f"a {type(x).__name__}"
            raise ValueError(
                f"RCNN expects an image with its proposals, {{'image', 'proposals', 'valid'}}, got {got}; it does not "
                "propose regions itself, as FasterRCNN does"
            )
        crops = warp_regions(x["image"], x["proposals"], self.crop_size, context=self.context)
        features = jax.vmap(run.body)(crops)
        return {"proposals": x["proposals"], "valid": x["valid"], **run.head(features)}

    def task(self, image_size: tuple[int, int], **options: Any) -> RCNNDetection:
        """Returns the task for images of one size; see `Detector.task`."""
        return RCNNDetection(image_size, (), **options)


def warp_regions(image: jax.Array, boxes: jax.Array, size: int, *, context: int = 0) -> jax.Array:
    """Cuts regions out of an image and resizes each to a square, whatever its shape (section 2.1 and appendix A).

    A pixel is the mean of bilinear samples. Those more than a pixel outside the image are 0, which is the mean of a
    normalised image.

    Args:
      image: shape (height, width, channels).
      boxes: shape (regions, 4), two corners in pixels.
      size: height and width of the results, in pixels.
      context: pixels of a result that lie around the box, on each side.

    Returns:
      Shape (regions, size, size, channels).
    """
    check_image("warp_regions", image)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    reach = sides * (size / (size - 2 * context) / 2)
    return roi_align(image, jnp.concatenate([centres - reach, centres + reach], axis=1), size, aligned=True)


def rcnn(classifier: Layer, num_classes: int, *, crop_size: int = 227, context: int = 16) -> RCNN:
    """Builds R-CNN from a classifier of the catalog, such as `alexnet(dropout_rate=0)`.

    Args:
      classifier: its last layer is a `Dense` named "head", which is replaced.
      num_classes: number of classes, without a background.
      crop_size: height and width of the images that the classifier takes, in pixels.
      context: pixels of a warped region around its proposal, on each side.

    Returns:
      The model: body, head.

    Raises:
      ValueError: the classifier has no `Dense` named "head".
    """
    head = classifier.children().get("head") if isinstance(classifier, Composite) else None
    if not isinstance(head, Dense):
        raise ValueError(f"rcnn expects a classifier with a Dense layer named 'head', got {classifier!r:.100}")
    body: Any = classifier
    body = body.with_children({**body.children(), "head": identity})
    return RCNN(body, region_head(num_classes, head.in_features), crop_size, context)


def small_rcnn(num_classes: int = 10, *, in_channels: int = 3) -> RCNN:
    """Builds a small R-CNN: `small_cnn` on regions of 32x32 pixels.

    Args:
      num_classes: number of classes, without a background.
      in_channels: channels of the image.

    Returns:
      The model: body, head.
    """
    return rcnn(small_cnn(in_channels=in_channels), num_classes, crop_size=32, context=4)
