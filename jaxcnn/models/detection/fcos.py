"""FCOS: boxes as distances from points, without anchors.

Source: Tian, Shen, Chen & He, "FCOS: fully convolutional one-stage object detection", 2019, and their "FCOS: a simple
and strong anchor-free object detector", 2020. Layers, points and losses are those of torchvision, so that published
weights fit.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.layers import Backbone, BatchNorm, Composite, Conv, Function, GroupNorm, Run
from jaxcnn.models.blocks import Norm, relu
from jaxcnn.models.detection.detector import Detector, per_anchor
from jaxcnn.models.detection.feature_pyramid import feature_pyramid
from jaxcnn.models.detection.retinanet import prior_bias, small_normal, tower
from jaxcnn.models.resnet import resnet50
from jaxcnn.tasks.detection import PointDetection
from jaxcnn.types import Layer


@dataclass(frozen=True, repr=False)
class FCOSHead(Composite):
    """Two towers of convolutions, shared by all levels: for the classes, and for boxes and centerness (figure 2).

    Attributes:
      class_tower: layers before the logits.
      class_logits: convolution with a logit for each class.
      box_tower: layers before the distances and the centerness.
      distances: convolution with the distances of the four edges, in strides; a ReLU makes them at least 0.
      centerness: convolution with the logit of how central the place is in its object.
    """

    class_tower: Layer
    class_logits: Layer
    box_tower: Layer
    distances: Layer
    centerness: Layer

    def forward(self, run: Run, x: tuple[jax.Array, ...]) -> dict[str, jax.Array]:
        """Computes "classes" (places, num_classes), "boxes" (places, 4) and "centerness" (places,) of one image."""
        outputs: dict[str, list[jax.Array]] = {"classes": [], "boxes": [], "centerness": []}
        for level in x:
            logits = run.class_logits(run.class_tower(level))
            outputs["classes"].append(per_anchor(logits, logits.shape[-1]))
            hidden = run.box_tower(level)
            outputs["boxes"].append(per_anchor(jax.nn.relu(run.distances(hidden)), 4))
            outputs["centerness"].append(jnp.ravel(run.centerness(hidden)))
        return {name: jnp.concatenate(parts) for name, parts in outputs.items()}


@dataclass(frozen=True, repr=False)
class FCOS(Detector):
    """A `Detector` of distances from points.

    Attributes:
      strides: of the levels, in pixels: the unit of the distances.
    """

    strides: tuple[int, ...]

    def task(self, image_size: tuple[int, int], **options: Any) -> PointDetection:
        """Returns the task for images of one size; see `Detector.task`."""
        return PointDetection(image_size, self.map_sizes(image_size), **{"strides": self.strides, **options})


def fcos_resnet50_fpn(
    num_classes: int = 90, *, in_channels: int = 3, norm: Norm = BatchNorm, activation: Function = relu
) -> FCOS:
    """Builds FCOS with ResNet-50 and the levels P3 to P7; 32,320,415 parameters.

    Args:
      num_classes: number of classes, without a background. The 90 are those of torchvision: class c is the category
        c + 1 of COCO, ten of which do not occur.
      in_channels: channels of the image.
      norm: makes the normalisations of the backbone. Published weights were trained with frozen ones: before
        fine-tuning with few images in a batch, freeze them.
      activation: the nonlinearity of the backbone and of the head.

    Returns:
      The model: stem, stage1 to stage4, neck, head. It takes images of any size.
    """
    return FCOS(
        Backbone(
            resnet50(in_channels=in_channels, norm=norm, activation=activation), at=["stage2", "stage3", "stage4"]
        ),
        feature_pyramid((512, 1024, 2048), extra_input="pyramid"),
        fcos_head(num_classes, activation=activation),
        strides=(8, 16, 32, 64, 128),
    )


def fcos_head(
    num_classes: int,
    channels: int = 256,
    *,
    depth: int = 4,
    norm: Norm = GroupNorm,
    activation: Function = relu,
) -> FCOSHead:
    """Builds the head of FCOS.

    Args:
      num_classes: number of classes.
      channels: channels of the levels and of the towers.
      depth: 3x3 convolutions in each tower.
      norm: makes the normalisation after each of them.
      activation: the nonlinearity.

    Returns:
      The head: class_tower, class_logits, box_tower, distances, centerness.
    """
    return FCOSHead(
        tower(channels, depth, norm, activation, use_bias=True),
        Conv(channels, num_classes, kernel_init=small_normal, bias_init=prior_bias),
        tower(channels, depth, norm, activation, use_bias=True),
        Conv(channels, 4, kernel_init=small_normal),
        Conv(channels, 1, kernel_init=small_normal),
    )
