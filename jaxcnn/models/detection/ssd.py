"""SSD and SSDlite: default boxes on maps of several sizes, without a pyramid.

Source: Liu, Anguelov, Erhan, Szegedy, Reed, Fu & Berg, "SSD: single shot multibox detector", 2016; Sandler, Howard,
Zhu, Zhmoginov & Chen, "MobileNetV2: inverted residuals and linear bottlenecks", 2018, section 6.2, and Howard et al.,
"Searching for MobileNetV3", 2019, section 6.3, for SSDlite. Layers, default boxes and losses are those of torchvision,
so that published weights fit.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.layers import (
    Backbone,
    BatchNorm,
    Composite,
    Conv,
    Function,
    Initializer,
    LayerScale,
    MaxPool,
    Run,
    Sequential,
    Zip,
    identity,
)
from jaxcnn.models.blocks import Norm, conv_norm, relu
from jaxcnn.models.detection.detector import Detector, per_anchor
from jaxcnn.models.mobilenet import V3_LARGE_DETECTION, mobilenet_v3
from jaxcnn.models.vgg import vgg
from jaxcnn.ops.anchors import default_scales
from jaxcnn.ops.check import at_least_float32
from jaxcnn.tasks.detection import DefaultBoxDetection
from jaxcnn.types import Layer
from jaxcnn.values import Partial

_OPTIONS = (
    "aspect_ratios",
    "scales",
    "steps",
    "score_threshold",
    "iou_threshold",
    "candidates",
    "max_detections",
)
"""The fields of `SSD` that its task has too."""

_VGG16 = (2, 2, 3, 3, 3)
"""Convolutions of each stage of VGG-16."""

_relu6 = Function(jax.nn.relu6)
_lite_norm = Partial(BatchNorm, decay=0.97, epsilon=1e-3)
_lite_normal = Initializer(jax.nn.initializers.normal, stddev=0.03)
_glorot = Initializer(jax.nn.initializers.glorot_uniform)


@dataclass(frozen=True, repr=False)
class SSDNeck(Composite):
    """The finest map rescaled, and coarser maps computed from the last one of the backbone (figure 2).

    Attributes:
      rescale: applied to the first of the two maps of the backbone.
      extra: returns a tuple of maps computed from the second; a `Backbone`.
    """

    rescale: Layer
    extra: Layer

    def forward(self, run: Run, x: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        """Computes the levels of one image, the finest first."""
        fine, coarse = x
        return run.rescale(fine), *run.extra(coarse)


@dataclass(frozen=True, repr=False)
class SSDHead(Composite):
    """A convolution of each level for the classes, and one for the boxes (section 2.1).

    Attributes:
      classes: one layer for each level; for each default box, a logit for the background and one for each class.
      boxes: one layer for each level, with four numbers for each default box.
      num_classes: number of classes, without the background.
    """

    classes: Zip
    boxes: Zip
    num_classes: int

    def forward(self, run: Run, x: tuple[jax.Array, ...]) -> dict[str, jax.Array]:
        """Computes "classes" (anchors, 1 + num_classes), the background first, and "boxes" (anchors, 4)."""
        classes = [per_anchor(y, 1 + self.num_classes) for y in run.classes(x)]
        boxes = [per_anchor(y, 4) for y in run.boxes(x)]
        return {"classes": jnp.concatenate(classes), "boxes": jnp.concatenate(boxes)}


@dataclass(frozen=True, repr=False)
class SSD(Detector):
    """A `Detector` with default boxes.

    Attributes:
      aspect_ratios: of each level, the ratios besides 1; each stands for its inverse too.
      scales: size of the default boxes of each level over that of the image, and one scale more.
      steps: pixels between two places of each level, or None for the size of the image over that of the map.
      score_threshold, iou_threshold, candidates, max_detections: of the task; see `Detection`.
    """

    aspect_ratios: tuple[tuple[float, ...], ...]
    scales: tuple[float, ...]
    steps: tuple[int, ...] | None = None
    score_threshold: float = 0.01
    iou_threshold: float = 0.45
    candidates: int = 400
    max_detections: int = 200

    def task(self, image_size: tuple[int, int], **options: Any) -> DefaultBoxDetection:
        """Returns the task for images of one size; see `Detector.task`."""
        own = {name: getattr(self, name) for name in _OPTIONS}
        return DefaultBoxDetection(image_size, self.map_sizes(image_size), **{**own, **options})


def ssd300_vgg16(
    num_classes: int = 90, *, in_channels: int = 3, norm: Norm | None = None, activation: Function = relu
) -> SSD:
    """Builds SSD300 with VGG-16; 35,641,826 parameters.

    Args:
      num_classes: number of classes, without a background. The 90 are those of torchvision: class c is the category
        c + 1 of COCO, ten of which do not occur.
      in_channels: channels of the image.
      norm: makes the normalisations of the backbone; None for none.
      activation: the nonlinearity.

    Returns:
      The model: stage1 to stage5, neck, head. It is made for images of 300x300 pixels.
    """
    body = vgg(_VGG16, in_channels=in_channels, norm=norm, activation=activation)
    body = body.replace({"stage3/pool": MaxPool(2, ceil_mode=True)})
    extra = {
        "fc": Sequential(
            pool=MaxPool(3, 1, 1),
            conv1=Conv(512, 1024, 3, padding=6, dilation=6, kernel_init=_glorot),
            relu1=activation,
            conv2=Conv(1024, 1024, 1, kernel_init=_glorot),
            relu2=activation,
        ),
        "extra1": _extra(1024, 256, 2, activation),
        "extra2": _extra(512, 128, 2, activation),
        "extra3": _extra(256, 128, 1, activation),
        "extra4": _extra(256, 128, 1, activation),
    }
    ratios = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))
    return SSD(
        Backbone(body, at=["stage4/relu3", "stage5/relu3"]),
        SSDNeck(
            Sequential(normalize=Function(unit_length), scale=LayerScale(512, 20.0)),
            Backbone(Sequential(**extra), at=list(extra)),
        ),
        ssd_head(num_classes, (512, 1024, 512, 256, 256, 256), [2 + 2 * len(level) for level in ratios]),
        aspect_ratios=ratios,
        scales=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
        steps=(8, 16, 32, 64, 100, 300),
    )


def ssdlite320_mobilenet_v3_large(num_classes: int = 90, *, in_channels: int = 3, norm: Norm = _lite_norm) -> SSD:
    """Builds SSDlite320 with MobileNetV3-Large; 3,440,060 parameters.

    Convolutions of the head and of the extra levels are split into a depthwise and a 1x1 one. The last stage of the
    backbone has half its channels.

    Args:
      num_classes: as in `ssd300_vgg16`.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels; the default is batch norm with an epsilon of 0.001 and a
        decay of 0.97, as in torchvision.

    Returns:
      The model: stem, stages from stage1 on, last, neck, head. It is made for images of 320x320 pixels.
    """
    body = mobilenet_v3(V3_LARGE_DETECTION, 1280, in_channels=in_channels, norm=norm)
    widths = (480, 512, 256, 256, 128)
    extra: dict[str, Layer] = {"last": identity}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
        extra[f"extra{i}"] = _lite_extra(inputs, outputs, norm)
    # The first level is the expansion in the block that halves the map (Sandler et al. 2018, section 6.2).
    channels = (672, *widths)
    ratios = ((2.0, 3.0),) * len(channels)
    anchors = [6] * len(channels)
    return SSD(
        Backbone(body, at=["stage6/block0/expand", "last"]),
        SSDNeck(identity, Backbone(Sequential(**extra), at=list(extra))),
        SSDHead(
            _lite_convolutions(channels, anchors, 1 + num_classes, norm),
            _lite_convolutions(channels, anchors, 4, norm),
            num_classes,
        ),
        aspect_ratios=ratios,
        scales=default_scales(len(channels), 0.2, 0.95),
        score_threshold=0.001,
        iou_threshold=0.55,
        candidates=300,
        max_detections=300,
    )


def ssd_head(num_classes: int, channels: Sequence[int], anchors: Sequence[int]) -> SSDHead:
    """Builds the head of SSD.

    Args:
      num_classes: number of classes, without the background.
      channels: channels of each level.
      anchors: default boxes at each place of each level.

    Returns:
      The head: classes and boxes, each with layers level0, level1 and so on.
    """

    def convolutions(size: int) -> Zip:
        pairs = enumerate(zip(channels, anchors, strict=True))
        return Zip(**{f"level{i}": Conv(inputs, size * count, kernel_init=_glorot) for i, (inputs, count) in pairs})

    return SSDHead(convolutions(1 + num_classes), convolutions(4), num_classes)


def unit_length(x: jax.Array) -> jax.Array:
    """Scales the channels of each pixel to length 1 (Liu, Rabinovich & Berg 2016, "ParseNet", section 3.3).

    Args:
      x: shape (height, width, channels).

    Returns:
      The same shape and dtype. A pixel of zeros stays zeros; lengths below 1e-12 count as that.
    """
    wide = x.astype(at_least_float32(x.dtype))
    square = jnp.sum(jnp.square(wide), axis=-1, keepdims=True)
    positive = square > 0
    # The root has no gradient at 0.
    length = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
    return (wide / jnp.maximum(length, 1e-12)).astype(x.dtype)


def _extra(in_channels: int, hidden: int, strides: int, activation: Function) -> Sequential:
    """Builds a 1x1 convolution and a 3x3 one: with strides, padded; without, each side loses two pixels."""
    return Sequential(
        conv1=Conv(in_channels, hidden, 1, kernel_init=_glorot),
        relu1=activation,
        conv2=Conv(hidden, 2 * hidden, 3, strides, padding=strides - 1, kernel_init=_glorot),
        relu2=activation,
    )


def _lite_extra(in_channels: int, out_channels: int, norm: Norm) -> Sequential:
    """Builds a 1x1 convolution, a depthwise one that halves the map, and another 1x1 one."""
    hidden = out_channels // 2
    options: dict[str, Any] = {"norm": norm, "kernel_init": _lite_normal, "activation": _relu6}
    return Sequential(
        reduce=conv_norm(in_channels, hidden, **options),
        depthwise=conv_norm(hidden, hidden, 3, 2, groups=hidden, **options),
        expand=conv_norm(hidden, out_channels, **options),
    )


def _lite_convolutions(channels: Sequence[int], anchors: Sequence[int], size: int, norm: Norm) -> Zip:
    """Builds a depthwise and a 1x1 convolution of each level."""
    layers = {}
    for i, (inputs, count) in enumerate(zip(channels, anchors, strict=True)):
        depthwise = conv_norm(inputs, inputs, 3, groups=inputs, norm=norm, kernel_init=_lite_normal, activation=_relu6)
        layers[f"level{i}"] = Sequential(
            depthwise=depthwise, project=Conv(inputs, size * count, 1, kernel_init=_lite_normal)
        )
    return Zip(**layers)
