"""YOLOX: a grid of cells without anchors, with separate towers for classes and boxes.

Source: Ge, Liu, Wang, Li & Sun, "YOLOX: exceeding YOLO series in 2021", 2021; Wang et al., "CSPNet: a new backbone that
can enhance learning capability of CNN", 2020, and Liu, Qi, Qin, Shi & Jia, "Path aggregation network for instance
segmentation", 2018, for the backbone and the neck. Layers and losses are those of the authors' code, so that their
weights fit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from jaxcnn.layers import (
    Backbone,
    BatchNorm,
    Composite,
    Concat,
    Conv,
    Function,
    MaxPool,
    Residual,
    Run,
    Sequential,
    Zip,
    identity,
)
from jaxcnn.models.blocks import Norm, NormOptions, conv_norm, silu
from jaxcnn.models.detection.detector import Detector, per_anchor
from jaxcnn.models.detection.feature_pyramid import join_finer
from jaxcnn.models.detection.retinanet import prior_bias, small_normal
from jaxcnn.tasks.yolo_detection import YOLOXDetection
from jaxcnn.types import Layer
from jaxcnn.values import Partial, Value

_norm = Partial(BatchNorm, decay=0.97, epsilon=1e-3)

_LEVELS = ("p3", "p4", "p5")
_STRIDES = (8, 16, 32)


@dataclass(frozen=True, repr=False)
class PathAggregation(Composite):
    """A path from the coarsest map down to the finest, and one back up, joined with the maps of a backbone.

    Source: Liu et al. 2018, figure 1; maps are concatenated and merged by a layer, as in YOLOv4 (Bochkovskiy et al.
    2020, figure 6).

    Attributes:
      reduce5: reduces the channels of the coarsest map, before it is enlarged.
      merge4: merges it with the middle map.
      reduce4: reduces the channels of the result, before it is enlarged.
      merge3: merges it with the finest map: the level P3.
      shrink3: halves P3.
      merge_up4: merges it with the result of `reduce4`: the level P4.
      shrink4: halves P4.
      merge_up5: merges it with the result of `reduce5`: the level P5.
    """

    reduce5: Layer
    merge4: Layer
    reduce4: Layer
    merge3: Layer
    shrink3: Layer
    merge_up4: Layer
    shrink4: Layer
    merge_up5: Layer

    def forward(self, run: Run, x: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Computes three levels of one image from three maps (height, width, channels), the finest first."""
        c3, c4, c5 = x
        top = run.reduce5(c5)
        middle = run.reduce4(run.merge4(join_finer(top, c4)))
        p3 = run.merge3(join_finer(middle, c3))
        p4 = run.merge_up4(jnp.concatenate([run.shrink3(p3), middle], axis=-1))
        return p3, p4, run.merge_up5(jnp.concatenate([run.shrink4(p4), top], axis=-1))


@dataclass(frozen=True, repr=False)
class YOLOXHead(Composite):
    """Two towers of convolutions of each level: for the classes, and for the boxes and the objectness (figure 2).

    Attributes:
      stems: reduce the channels of each level.
      class_towers: layers before the logits of the classes.
      class_logits: convolutions with a logit for each class.
      box_towers: layers before the boxes and the objectness.
      boxes: convolutions with the four numbers of a box.
      objectness: convolutions with the logit of an object.
    """

    stems: Zip
    class_towers: Zip
    class_logits: Zip
    box_towers: Zip
    boxes: Zip
    objectness: Zip

    def forward(self, run: Run, x: tuple[jax.Array, ...]) -> dict[str, jax.Array]:
        """Computes "classes" (cells, num_classes), "boxes" (cells, 4) and "objectness" (cells,) of one image."""
        x = run.stems(x)
        hidden = run.box_towers(x)
        return {
            "classes": _rows(run.class_logits(run.class_towers(x))),
            "boxes": _rows(run.boxes(hidden)),
            "objectness": _rows(run.objectness(hidden))[:, 0],
        }


@dataclass(frozen=True, repr=False)
class YOLOX(Detector):
    """A `Detector` of one box in each cell of several grids.

    Attributes:
      strides: of the levels: the size of the cells, in pixels.
    """

    strides: tuple[int, ...]

    def task(self, image_size: tuple[int, int], **options: Any) -> YOLOXDetection:
        """Returns the task for images of one size; see `Detector.task`."""
        return YOLOXDetection(image_size, self.map_sizes(image_size), **{"strides": self.strides, **options})


def yolox_nano(num_classes: int = 80, **options: Unpack[NormOptions]) -> YOLOX:
    """Builds YOLOX-nano, for images of 416x416 pixels; 912,159 parameters. See `yolox`."""
    return yolox(num_classes, depth=0.33, width=0.25, depthwise=True, **options)


def yolox_tiny(num_classes: int = 80, **options: Unpack[NormOptions]) -> YOLOX:
    """Builds YOLOX-tiny, for images of 416x416 pixels; 5,055,855 parameters. See `yolox`."""
    return yolox(num_classes, depth=0.33, width=0.375, **options)


def yolox_s(num_classes: int = 80, **options: Unpack[NormOptions]) -> YOLOX:
    """Builds YOLOX-s, for images of 640x640 pixels; 8,968,255 parameters. See `yolox`."""
    return yolox(num_classes, depth=0.33, width=0.5, **options)


def yolox_m(num_classes: int = 80, **options: Unpack[NormOptions]) -> YOLOX:
    """Builds YOLOX-m, for images of 640x640 pixels; 25,326,495 parameters. See `yolox`."""
    return yolox(num_classes, depth=0.67, width=0.75, **options)


def yolox_l(num_classes: int = 80, **options: Unpack[NormOptions]) -> YOLOX:
    """Builds YOLOX-l, for images of 640x640 pixels; 54,208,895 parameters. See `yolox`."""
    return yolox(num_classes, **options)


def yolox_x(num_classes: int = 80, **options: Unpack[NormOptions]) -> YOLOX:
    """Builds YOLOX-x, for images of 640x640 pixels; 99,071,455 parameters. See `yolox`."""
    return yolox(num_classes, depth=1.33, width=1.25, **options)


def yolox(
    num_classes: int,
    *,
    depth: float = 1.0,
    width: float = 1.0,
    depthwise: bool = False,
    in_channels: int = 3,
    norm: Norm = _norm,
    activation: Function = silu,
) -> YOLOX:
    """Builds a YOLOX of any size.

    Args:
      num_classes: number of classes, without a background. The 80 are COCO's categories in the order of their numbers.
      depth: factor of the numbers of blocks, 1 for YOLOX-l.
      width: factor of the numbers of channels.
      depthwise: whether 3x3 convolutions are split into a depthwise and a 1x1 one.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels; the default is batch norm with an epsilon of 0.001 and a
        decay of 0.97, as the authors'.
      activation: the nonlinearity.

    Returns:
      The model: stem, stage1 to stage4, neck, head. It takes images of at least 2x2 pixels.
    """
    make = _Blocks(depthwise, norm, activation)
    channels = [int(64 * width) * 2**i for i in range(5)]
    blocks = max(round(3 * depth), 1)
    stages: dict[str, Layer] = {}
    for i, count in enumerate((blocks, 3 * blocks, 3 * blocks, blocks)):
        before, after = channels[i], channels[i + 1]
        is_last = i == 3
        stages[f"stage{i + 1}"] = Sequential(
            conv=make.conv(before, after, 3, 2),
            **({"pyramid": make.pyramid_pooling(after)} if is_last else {}),
            csp=make.csp(after, after, count, shortcut=not is_last),
        )
    # A 3x3 convolution of the squares of 2x2 pixels, whose 12 numbers are channels, in the authors' words the focus: it
    # is a convolution of 6x6 pixels, with as many numbers.
    stem = conv_norm(in_channels, channels[0], 6, 2, norm=norm, padding=2, activation=activation)
    c3, c4, c5 = channels[2:]
    neck = PathAggregation(
        reduce5=make.plain(c5, c4),
        merge4=make.csp(2 * c4, c4, blocks),
        reduce4=make.plain(c4, c3),
        merge3=make.csp(2 * c3, c3, blocks),
        shrink3=make.conv(c3, c3, 3, 2),
        merge_up4=make.csp(2 * c3, c4, blocks),
        shrink4=make.conv(c4, c4, 3, 2),
        merge_up5=make.csp(2 * c4, c5, blocks),
    )
    return YOLOX(
        Backbone(Sequential(stem=stem, **stages), at=["stage2", "stage3", "stage4"]),
        neck,
        yolox_head(num_classes, (c3, c4, c5), int(256 * width), depthwise=depthwise, norm=norm, activation=activation),
        strides=_STRIDES,
    )


def yolox_head(
    num_classes: int,
    in_channels: tuple[int, int, int],
    channels: int,
    *,
    depthwise: bool = False,
    norm: Norm = _norm,
    activation: Function = silu,
) -> YOLOXHead:
    """Builds the head of YOLOX.

    Args:
      num_classes: number of classes.
      in_channels: channels of each level.
      channels: channels of the towers.
      depthwise: see `yolox`.
      norm: see `yolox`.
      activation: the nonlinearity.

    Returns:
      The head: stems, class_towers, class_logits, box_towers, boxes, objectness, each with layers p3, p4 and p5.
    """
    make = _Blocks(depthwise, norm, activation)

    def towers() -> Zip:
        return _each(
            Sequential(conv1=make.conv(channels, channels, 3), conv2=make.conv(channels, channels, 3)) for _ in _LEVELS
        )

    def outputs(size: int, **options: Any) -> Zip:
        return _each(Conv(channels, size, 1, kernel_init=small_normal, **options) for _ in _LEVELS)

    return YOLOXHead(
        stems=_each(make.plain(size, channels) for size in in_channels),
        class_towers=towers(),
        class_logits=outputs(num_classes, bias_init=prior_bias),
        box_towers=towers(),
        boxes=outputs(4),
        objectness=outputs(1, bias_init=prior_bias),
    )


@dataclass(frozen=True, repr=False)
class _Blocks(Value):
    """Builds the blocks of one model.

    Attributes:
      depthwise: whether 3x3 convolutions are split into a depthwise and a 1x1 one.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
    """

    depthwise: bool
    norm: Norm
    activation: Function

    def plain(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, strides: int = 1, groups: int = 1
    ) -> Sequential:
        """Builds a convolution with normalisation and activation."""
        options: Any = {"norm": self.norm, "groups": groups, "activation": self.activation}
        return conv_norm(in_channels, out_channels, kernel_size, strides, **options)

    def conv(self, in_channels: int, out_channels: int, kernel_size: int, strides: int = 1) -> Sequential:
        """Builds a convolution, split if the model has split ones."""
        if not self.depthwise:
            return self.plain(in_channels, out_channels, kernel_size, strides)
        return Sequential(
            depthwise=self.plain(in_channels, in_channels, kernel_size, strides, groups=in_channels),
            pointwise=self.plain(in_channels, out_channels),
        )

    def csp(self, in_channels: int, out_channels: int, blocks: int, *, shortcut: bool = False) -> Sequential:
        """Builds a cross-stage-partial block: half of the channels skip its blocks (Wang et al. 2020, figure 2b)."""
        hidden = out_channels // 2
        rows: dict[str, Layer] = {}
        for i in range(blocks):
            block = Sequential(conv1=self.plain(hidden, hidden), conv2=self.conv(hidden, hidden, 3))
            rows[f"block{i}"] = Residual(block) if shortcut else block
        halves = Concat(
            main=Sequential(reduce=self.plain(in_channels, hidden), **rows), other=self.plain(in_channels, hidden)
        )
        return Sequential(halves=halves, project=self.plain(2 * hidden, out_channels))

    def pyramid_pooling(self, channels: int) -> Sequential:
        """Builds spatial pyramid pooling: max pooling of three sizes (He et al. 2015, SPP-net)."""
        hidden = channels // 2
        pools: Mapping[str, Layer] = {f"pool{size}": MaxPool(size, 1, size // 2) for size in (5, 9, 13)}
        return Sequential(
            reduce=self.plain(channels, hidden),
            pools=Concat(same=identity, **pools),
            project=self.plain(4 * hidden, channels),
        )


def _each(layers: Any) -> Zip:
    return Zip(**dict(zip(_LEVELS, layers, strict=True)))


def _rows(levels: tuple[jax.Array, ...]) -> jax.Array:
    return jnp.concatenate([per_anchor(level, level.shape[-1]) for level in levels])
