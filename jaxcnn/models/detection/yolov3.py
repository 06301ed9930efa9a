"""YOLOv3: three anchors in each cell of several grids.

Source: Redmon & Farhadi, "YOLOv3: an incremental improvement", 2018. Layers and anchors are those of the authors'
darknet, so that its files fit.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxcnn.layers import (
    Backbone,
    BatchNorm,
    Composite,
    Conv,
    Function,
    MaxPool,
    Residual,
    Run,
    Sequential,
    Zip,
    identity,
)
from jaxcnn.models.blocks import Norm, conv_norm
from jaxcnn.models.detection.detector import Detector, per_anchor
from jaxcnn.models.detection.feature_pyramid import join_finer
from jaxcnn.models.detection.retinanet import small_normal
from jaxcnn.tasks.yolo_detection import YOLOv3Detection
from jaxcnn.types import Layer
from jaxcnn.values import Partial

Anchors: TypeAlias = tuple[tuple[tuple[float, float], ...], ...]
"""Width and height of the anchors of each level, in pixels, the finest level first."""

ANCHORS: Anchors = (
    ((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)),
    ((30.0, 61.0), (62.0, 45.0), (59.0, 119.0)),
    ((116.0, 90.0), (156.0, 198.0), (373.0, 326.0)),
)
"""Of COCO's boxes in images of 416x416 pixels (section 2.3)."""

TINY_ANCHORS: Anchors = (
    ((10.0, 14.0), (23.0, 27.0), (37.0, 58.0)),
    ((81.0, 82.0), (135.0, 169.0), (344.0, 319.0)),
)

# Darknet divides by the deviation plus 1e-6, which is the root of 1e-12 more than a variance; see `interop.darknet`.
_norm = Partial(BatchNorm, decay=0.99, epsilon=1e-12)
leaky = Function(jax.nn.leaky_relu, negative_slope=0.1)


@dataclass(frozen=True, repr=False)
class YOLOv3Neck(Composite):
    """A path from the coarsest map down to the finest: each level is enlarged and joined with a map of the backbone.

    Attributes:
      merge5: layers of the coarsest map.
      reduce4: reduces the channels of the result, before it is enlarged.
      merge4: layers after it is joined with the map before.
      reduce3, merge3: likewise for a third level; None for two levels.
    """

    merge5: Layer
    reduce4: Layer
    merge4: Layer
    reduce3: Layer | None = None
    merge3: Layer | None = None

    def forward(self, run: Run, x: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """Computes the levels of one image from maps (height, width, channels), the finest first."""
        *finer, top = x
        levels = (run.merge5(top),)
        for number, level in zip((4, 3), reversed(finer), strict=False):
            joined = join_finer(run[f"reduce{number}"](levels[0]), level)
            levels = (run[f"merge{number}"](joined), *levels)
        return levels


@dataclass(frozen=True, repr=False)
class YOLOv3Head(Composite):
    """A convolution and the outputs of each level.

    Attributes:
      towers: 3x3 convolutions of the levels.
      outputs: convolutions with the numbers of each anchor: four of the box, the objectness, and the classes.
      num_classes: number of classes.
    """

    towers: Zip
    outputs: Zip
    num_classes: int

    def forward(self, run: Run, x: tuple[jax.Array, ...]) -> dict[str, jax.Array]:
        """Computes "classes" (anchors, num_classes), "boxes" (anchors, 4) and "objectness" (anchors,) of one image."""
        levels = [per_anchor(level, 5 + self.num_classes) for level in run.outputs(run.towers(x))]
        rows = jnp.concatenate(levels)
        return {"boxes": rows[:, :4], "objectness": rows[:, 4], "classes": rows[:, 5:]}


@dataclass(frozen=True, repr=False)
class YOLOv3(Detector):
    """A `Detector` of anchors in the cells of several grids.

    Attributes:
      strides: of the levels: the size of the cells, in pixels.
      anchors: width and height of the anchors of each level, in pixels.
    """

    strides: tuple[int, ...]
    anchors: Anchors

    def task(self, image_size: tuple[int, int], **options: Any) -> YOLOv3Detection:
        """Returns the task for images of one size; see `Detector.task`."""
        own = {"strides": self.strides, "anchors": self.anchors}
        return YOLOv3Detection(image_size, self.map_sizes(image_size), **{**own, **options})


def yolov3(num_classes: int = 80, *, in_channels: int = 3, norm: Norm = _norm, activation: Function = leaky) -> YOLOv3:
    """Builds YOLOv3 with Darknet-53, for images of 416x416 pixels; 61,949,149 parameters.

    Args:
      num_classes: number of classes, without a background. The 80 are COCO's categories in the order of their numbers.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels; the default is batch norm as in darknet.
      activation: the nonlinearity.

    Returns:
      The model: stem, stage1 to stage5, neck, head. It takes images of any size.
    """
    options: Any = {"norm": norm, "activation": activation}
    stages: dict[str, Layer] = {"stem": _conv(in_channels, 32, 3, **options)}
    for i, blocks in enumerate((1, 2, 8, 8, 4), start=1):
        channels = 32 * 2**i
        layers: dict[str, Layer] = {"down": _conv(channels // 2, channels, 3, 2, **options)}
        for j in range(blocks):
            layers[f"block{j}"] = Residual(
                Sequential(
                    conv1=_conv(channels, channels // 2, **options), conv2=_conv(channels // 2, channels, 3, **options)
                )
            )
        stages[f"stage{i}"] = Sequential(**layers)
    neck = YOLOv3Neck(
        merge5=_merge(1024, 512, **options),
        reduce4=_conv(512, 256, **options),
        merge4=_merge(256 + 512, 256, **options),
        reduce3=_conv(256, 128, **options),
        merge3=_merge(128 + 256, 128, **options),
    )
    return YOLOv3(
        Backbone(Sequential(**stages), at=["stage3", "stage4", "stage5"]),
        neck,
        yolov3_head(num_classes, (128, 256, 512), **options),
        strides=(8, 16, 32),
        anchors=ANCHORS,
    )


def yolov3_tiny(
    num_classes: int = 80, *, in_channels: int = 3, norm: Norm = _norm, activation: Function = leaky
) -> YOLOv3:
    """Builds YOLOv3-tiny, of seven convolutions and two levels, for images of 416x416 pixels; 8,852,366 parameters.

    Args:
      num_classes: as in `yolov3`.
      in_channels: channels of the image.
      norm: as in `yolov3`.
      activation: the nonlinearity.

    Returns:
      The model: stage1 to stage7, neck, head. It takes images of any size.
    """
    options: Any = {"norm": norm, "activation": activation}
    stages: dict[str, Layer] = {}
    channels = (in_channels, 16, 32, 64, 128, 256, 512, 1024)
    for i in range(1, 8):
        # Darknet pools a last odd row too. The last pool has strides of 1, and looks one pixel down and right.
        pool = MaxPool(2, ceil_mode=True) if i < 7 else MaxPool(2, 1, ((0, 1), (0, 1)))
        before = {} if i == 1 else {"pool": pool}
        stages[f"stage{i}"] = Sequential(**before, conv=_conv(channels[i - 1], channels[i], 3, **options))
    neck = YOLOv3Neck(_conv(1024, 256, **options), _conv(256, 128, **options), identity)
    return YOLOv3(
        Backbone(Sequential(**stages), at=["stage5", "stage7"]),
        neck,
        yolov3_head(num_classes, (128 + 256, 256), (256, 512), **options),
        strides=(16, 32),
        anchors=TINY_ANCHORS,
    )


def yolov3_head(
    num_classes: int,
    in_channels: tuple[int, ...],
    channels: tuple[int, ...] | None = None,
    *,
    anchors: int = 3,
    norm: Norm = _norm,
    activation: Function = leaky,
) -> YOLOv3Head:
    """Builds the head of YOLOv3.

    Args:
      num_classes: number of classes.
      in_channels: channels of each level, the finest first.
      channels: channels of each tower; None for twice those of its level.
      anchors: anchors in each cell.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.

    Returns:
      The head: towers and outputs, with layers up to p5.
    """
    wide = tuple(2 * size for size in in_channels) if channels is None else channels
    names = [f"p{6 - len(in_channels) + i}" for i in range(len(in_channels))]
    towers = [_conv(*pair, 3, norm=norm, activation=activation) for pair in zip(in_channels, wide, strict=True)]
    outputs = [Conv(size, anchors * (5 + num_classes), 1, kernel_init=small_normal) for size in wide]
    return YOLOv3Head(
        Zip(**dict(zip(names, towers, strict=True))), Zip(**dict(zip(names, outputs, strict=True))), num_classes
    )


def _conv(in_channels: int, out_channels: int, kernel_size: int = 1, strides: int = 1, **options: Any) -> Sequential:
    return conv_norm(in_channels, out_channels, kernel_size, strides, **options)


def _merge(in_channels: int, channels: int, **options: Any) -> Sequential:
    """Builds five convolutions that alternate between few channels and twice as many."""
    layers = {"conv1": _conv(in_channels, channels, **options)}
    for i in (2, 4):
        layers[f"conv{i}"] = _conv(channels, 2 * channels, 3, **options)
        layers[f"conv{i + 1}"] = _conv(2 * channels, channels, **options)
    return Sequential(**layers)
