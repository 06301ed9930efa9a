"""RetinaNet: a feature pyramid with nine anchors at each place, and the focal loss.

Source: Lin, Goyal, Girshick, He & Dollár, "Focal loss for dense object detection", 2017; the second version: Zhang,
Chi, Yao, Lei & Li, "Bridging the gap between anchor-based and anchor-free detection via adaptive training sample
selection", 2020. Layers, anchors and losses are those of torchvision, so that published weights fit.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcnn.layers import Backbone, BatchNorm, Composite, Conv, Function, GroupNorm, Initializer, Run, Sequential
from jaxcnn.models.blocks import Norm, relu
from jaxcnn.models.detection.detector import Detector, per_anchor
from jaxcnn.models.detection.feature_pyramid import ExtraInput, feature_pyramid
from jaxcnn.models.resnet import basic_block, resnet, resnet50
from jaxcnn.tasks.detection import AnchorDetection, BoxLoss
from jaxcnn.types import Layer

_PRIOR = 0.01
"""Probability of an object that each class of each anchor starts with (section 4.1)."""

_THIRDS = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))

small_normal = Initializer(jax.nn.initializers.normal, stddev=0.01)
"""Draws the kernels of heads (section 4.1)."""

prior_bias = Initializer(jax.nn.initializers.constant, value=-math.log((1 - _PRIOR) / _PRIOR))
"""The bias of logits with which each class starts at a probability of 0.01, so that the many places without an object
do not drown the others at the start (section 3.3)."""


@dataclass(frozen=True, repr=False)
class RetinaNetHead(Composite):
    """Two towers of convolutions, shared by all levels: for the classes, and for the boxes (section 4, figure 3).

    Attributes:
      class_tower: layers before the logits.
      class_logits: convolution with a logit for each class of each anchor.
      box_tower: layers before the boxes.
      box_deltas: convolution with four numbers for each anchor.
      num_classes: number of classes.
    """

    class_tower: Layer
    class_logits: Layer
    box_tower: Layer
    box_deltas: Layer
    num_classes: int

    def forward(self, run: Run, x: tuple[jax.Array, ...]) -> dict[str, jax.Array]:
        """Computes "classes" (anchors, num_classes) and "boxes" (anchors, 4) of one image."""
        classes = [per_anchor(run.class_logits(run.class_tower(level)), self.num_classes) for level in x]
        boxes = [per_anchor(run.box_deltas(run.box_tower(level)), 4) for level in x]
        return {"classes": jnp.concatenate(classes), "boxes": jnp.concatenate(boxes)}


@dataclass(frozen=True, repr=False)
class RetinaNet(Detector):
    """A `Detector` with anchors.

    Attributes:
      anchor_sizes: of each level, the roots of the areas of its anchors, in pixels.
      aspect_ratios: of the anchors, height / width.
      box_loss: "l1" between the encoded boxes, or "giou".
    """

    anchor_sizes: tuple[tuple[float, ...], ...]
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    box_loss: BoxLoss = "l1"

    def task(self, image_size: tuple[int, int], **options: Any) -> AnchorDetection:
        """Returns the task for images of one size; see `Detector.task`."""
        own = {"sizes": self.anchor_sizes, "aspect_ratios": self.aspect_ratios, "box_loss": self.box_loss}
        return AnchorDetection(image_size, self.map_sizes(image_size), **{**own, **options})


def retinanet_resnet50_fpn(
    num_classes: int = 90, *, in_channels: int = 3, norm: Norm = BatchNorm, activation: Function = relu
) -> RetinaNet:
    """Builds RetinaNet with ResNet-50 and the levels P3 to P7; 34,047,374 parameters.

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
    body = resnet50(in_channels=in_channels, norm=norm, activation=activation)
    return _retinanet(body, num_classes, activation)


def retinanet_resnet50_fpn_v2(
    num_classes: int = 90, *, in_channels: int = 3, norm: Norm = BatchNorm, activation: Function = relu
) -> RetinaNet:
    """Builds the second version of `retinanet_resnet50_fpn`; 38,178,190 parameters.

    P6 is computed from the last map of the backbone, the towers of the head have group norms, and boxes are compared by
    their generalized intersection over union.

    Args:
      num_classes: as in `retinanet_resnet50_fpn`.
      in_channels: channels of the image.
      norm: makes the normalisations of the backbone.
      activation: the nonlinearity of the backbone and of the head.

    Returns:
      The model, named as that of `retinanet_resnet50_fpn`.
    """
    body = resnet50(in_channels=in_channels, norm=norm, activation=activation)
    return _retinanet(body, num_classes, activation, version=2)


def small_retinanet(
    num_classes: int = 10, *, in_channels: int = 3, norm: Norm = BatchNorm, activation: Function = relu
) -> RetinaNet:
    """Builds a small RetinaNet for objects of about 12 to 64 pixels, with strides 8 and 16; 1,527,444 parameters.

    The backbone is a ResNet with one basic block in each of its first three stages, as wide as ResNet-18.

    Args:
      num_classes: number of classes, without a background.
      in_channels: channels of the image.
      norm: makes the normalisations of the backbone.
      activation: the nonlinearity of the backbone and of the head.

    Returns:
      The model: stem, stage1 to stage3, neck, head. It takes images of any size.
    """
    body = resnet(basic_block, (1, 1, 1, 1), in_channels=in_channels, norm=norm, activation=activation)
    return RetinaNet(
        Backbone(body, at=["stage2", "stage3"]),
        feature_pyramid((128, 256), 64),
        retinanet_head(num_classes, 64, anchors=6, depth=2, activation=activation),
        anchor_sizes=((16.0, 24.0), (32.0, 48.0)),
    )


def retinanet_head(
    num_classes: int,
    channels: int = 256,
    *,
    anchors: int = 9,
    depth: int = 4,
    norm: Norm | None = None,
    activation: Function = relu,
) -> RetinaNetHead:
    """Builds the head of RetinaNet.

    Args:
      num_classes: number of classes.
      channels: channels of the levels and of the towers.
      anchors: anchors at each place.
      depth: 3x3 convolutions in each tower.
      norm: makes the normalisation after each of them, which then have no bias; None for none.
      activation: the nonlinearity.

    Returns:
      The head: class_tower, class_logits, box_tower, box_deltas.
    """
    return RetinaNetHead(
        tower(channels, depth, norm, activation, use_bias=norm is None),
        Conv(channels, anchors * num_classes, kernel_init=small_normal, bias_init=prior_bias),
        tower(channels, depth, norm, activation, use_bias=norm is None),
        Conv(channels, anchors * 4, kernel_init=small_normal),
        num_classes,
    )


def tower(channels: int, depth: int, norm: Norm | None, activation: Function = relu, *, use_bias: bool) -> Sequential:
    """Builds 3x3 convolutions in a row, each with a nonlinearity.

    Args:
      channels: channels of all maps.
      depth: number of convolutions.
      norm: makes the normalisation before each nonlinearity; None for none.
      activation: the nonlinearity.
      use_bias: whether the convolutions have biases.

    Returns:
      The layers conv1, norm1, relu1 and so on.
    """
    layers: dict[str, Layer] = {}
    for i in range(1, depth + 1):
        layers[f"conv{i}"] = Conv(channels, channels, use_bias=use_bias, kernel_init=small_normal)
        layers |= {} if norm is None else {f"norm{i}": norm(channels)}
        layers[f"relu{i}"] = activation
    return Sequential(**layers)


def _retinanet(body: Layer, num_classes: int, activation: Function, *, version: Literal[1, 2] = 1) -> RetinaNet:
    extra_input: ExtraInput = "pyramid" if version == 1 else "backbone"
    return RetinaNet(
        Backbone(body, at=["stage2", "stage3", "stage4"]),
        feature_pyramid((512, 1024, 2048), extra_input=extra_input),
        retinanet_head(num_classes, norm=None if version == 1 else GroupNorm, activation=activation),
        # torchvision rounds the sizes down to whole pixels.
        anchor_sizes=tuple(tuple(float(int(size * third)) for third in _THIRDS) for size in (32, 64, 128, 256, 512)),
        box_loss="l1" if version == 1 else "giou",
    )
