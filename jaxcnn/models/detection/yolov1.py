"""YOLO, the first one: dense layers that see the whole image give the boxes of a coarse grid.

Source: Redmon, Divvala, Girshick & Farhadi, "You only look once: unified, real-time object detection", 2016.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.layers import Backbone, BatchNorm, Composite, Dense, Dropout, Function, MaxPool, Run, Sequential, identity
from jaxcnn.models.blocks import Norm, conv
from jaxcnn.models.detection.detector import Detector
from jaxcnn.models.detection.yolov3 import leaky
from jaxcnn.ops.check import Size, as_pair
from jaxcnn.tasks.yolo_detection import YOLOv1Detection
from jaxcnn.types import Layer

_STAGES: tuple[tuple[tuple[int, int, int], ...], ...] = (
    ((64, 7, 2),),
    ((192, 3, 1),),
    ((128, 1, 1), (256, 3, 1), (256, 1, 1), (512, 3, 1)),
    (*((256, 1, 1), (512, 3, 1)) * 4, (512, 1, 1), (1024, 3, 1)),
    (*((512, 1, 1), (1024, 3, 1)) * 2, (1024, 3, 1), (1024, 3, 2), (1024, 3, 1), (1024, 3, 1)),
)
"""Channels, size of the kernel and strides of the convolutions of each stage (figure 3)."""

_TINY_STAGES = (((16, 3, 1),), ((32, 3, 1),), ((64, 3, 1),), ((128, 3, 1),), ((256, 3, 1),))


@dataclass(frozen=True, repr=False)
class YOLOv1Head(Composite):
    """Dense layers of the whole last map (section 2.2).

    Attributes:
      hidden: layers of the flattened map.
      dense: dense layer with the numbers of all cells: the classes, and for each box the confidence and four numbers.
      num_classes: number of classes.
      boxes: boxes of each cell.
    """

    hidden: Layer
    dense: Dense
    num_classes: int
    boxes: int = 2

    def forward(self, run: Run, x: tuple[jax.Array]) -> dict[str, jax.Array]:
        """Computes "classes" (boxes, num_classes), "boxes" (boxes, 4) and "objectness" (boxes,) of one image.

        All boxes of a cell have the same classes.
        """
        (last,) = x
        cells = run.dense(run.hidden(jnp.ravel(last))).reshape(-1, self.num_classes + 5 * self.boxes)
        classes, boxes = cells[:, : self.num_classes], cells[:, self.num_classes :].reshape(-1, 5)
        return {
            "classes": jnp.repeat(classes, self.boxes, axis=0),
            "boxes": boxes[:, 1:],
            "objectness": boxes[:, 0],
        }


@dataclass(frozen=True, repr=False)
class YOLOv1(Detector):
    """A `Detector` of the boxes of one grid, for images of one size.

    Attributes:
      boxes: boxes of each cell.
    """

    boxes: int = 2

    def task(self, image_size: tuple[int, int], **options: Any) -> YOLOv1Detection:
        """Returns the task for images of one size; see `Detector.task`."""
        return YOLOv1Detection(image_size, self.map_sizes(image_size), **{"boxes": self.boxes, **options})


def yolov1(
    num_classes: int = 20,
    *,
    in_channels: int = 3,
    image_size: Size = 448,
    norm: Norm | None = None,
    activation: Function = leaky,
    dropout_rate: float = 0.5,
) -> YOLOv1:
    """Builds the network of the paper, for Pascal VOC; 271,703,550 parameters.

    Args:
      num_classes: number of classes.
      in_channels: channels of the image.
      image_size: (height, width) of the images, or one number. A cell of the grid has 64x64 pixels: 7x7 cells of an
        image of 448x448.
      norm: makes the normalisation after each convolution; None for none.
      activation: the nonlinearity.
      dropout_rate: probability of dropping a hidden unit in training, in [0, 1) (section 2.2).

    Returns:
      The model: stage1 to stage5, neck, head.
    """
    return _yolov1(_STAGES, 4096, num_classes, in_channels, image_size, norm, activation, dropout_rate)


def yolov1_tiny(
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    image_size: Size = 128,
    norm: Norm | None = BatchNorm,
    activation: Function = leaky,
    dropout_rate: float = 0.0,
) -> YOLOv1:
    """Builds a small one of five convolutions, for objects of about 12 to 64 pixels; 4,916,624 parameters.

    Args:
      num_classes: number of classes.
      in_channels: channels of the image.
      image_size: (height, width) of the images, or one number. A cell of the grid has 16x16 pixels.
      norm: makes the normalisation after each convolution; None for none.
      activation: the nonlinearity.
      dropout_rate: probability of dropping a hidden unit in training, in [0, 1).

    Returns:
      The model: stage1 to stage5, neck, head.
    """
    return _yolov1(_TINY_STAGES, 256, num_classes, in_channels, image_size, norm, activation, dropout_rate)


def _yolov1(
    sizes: tuple[tuple[tuple[int, int, int], ...], ...],
    hidden: int,
    num_classes: int,
    in_channels: int,
    image_size: Size,
    norm: Norm | None,
    activation: Function,
    dropout_rate: float,
) -> YOLOv1:
    height, width = as_pair("image_size", image_size)
    stages: dict[str, Layer] = {}
    for i, convolutions in enumerate(sizes, start=1):
        layers: dict[str, Layer] = {}
        for j, (channels, kernel_size, strides) in enumerate(convolutions, start=1):
            layers[f"conv{j}"] = conv(in_channels, channels, kernel_size, strides, use_bias=norm is None)
            layers |= {} if norm is None else {f"norm{j}": norm(channels)}
            layers[f"leaky{j}"] = activation
            in_channels = channels
            height, width = math.ceil(height / strides), math.ceil(width / strides)
        if i < len(sizes):
            layers["pool"] = MaxPool(2, ceil_mode=True)
            height, width = math.ceil(height / 2), math.ceil(width / 2)
        stages[f"stage{i}"] = Sequential(**layers)
    boxes = 2
    dense = Sequential(
        dense=Dense(height * width * in_channels, hidden), leaky=activation, dropout=Dropout(dropout_rate)
    )
    outputs = Dense(hidden, height * width * (num_classes + 5 * boxes))
    return YOLOv1(
        Backbone(Sequential(**stages), at=[f"stage{len(sizes)}"]),
        identity,
        YOLOv1Head(dense, outputs, num_classes, boxes),
        boxes,
    )
