"""Lite R-ASPP: a small segmentation network for MobileNetV3.

Source: Howard et al., "Searching for MobileNetV3", 2019, section 6.4 and figure 10, in the form of torchvision: the
gate sees the whole image, so that it works at any size.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax

from jaxcnn.layers import Backbone, BatchNorm, Composite, Conv, Dense, GlobalAvgPool, Run, Sequential
from jaxcnn.layers.initializers import he_normal_fan_out
from jaxcnn.models.blocks import Norm, conv_norm, relu, sigmoid
from jaxcnn.models.mobilenet import mobilenet_v3_large, v3_norm
from jaxcnn.ops.check import check_image
from jaxcnn.ops.resizing import resize
from jaxcnn.ops.wide import scale_channels
from jaxcnn.types import Layer


@dataclass(frozen=True, repr=False)
class LiteRASPP(Composite):
    """Two maps of a backbone, the coarse one gated by the whole image; logits in the size of the image (figure 10).

    Parameters and state of the backbone have the names that they have in the classifier.

    Attributes:
      backbone: gives two maps, the finer one first; a `Backbone`.
      conv: gets the coarse map.
      gate: gives a weight for each channel of the result of `conv`, from the coarse map.
      head: turns the finer map and the gated one into logits; a `TwoScaleHead`.
    """

    inlined: ClassVar[str | None] = "backbone"

    backbone: Layer
    conv: Layer
    gate: Layer
    head: Layer

    def forward(self, run: Run, x: jax.Array) -> jax.Array:
        """Computes the logits of one image, shape (height, width, num_classes)."""
        check_image("LiteRASPP", x)
        fine, coarse = run.backbone(x)
        gated = scale_channels(run.conv(coarse), run.gate(coarse))
        height, width, _ = x.shape
        return resize(run.head((fine, gated)), (height, width))


@dataclass(frozen=True, repr=False)
class TwoScaleHead(Composite):
    """Adds the logits of a coarse map to those of a finer one, in the size of the finer one.

    Attributes:
      fine: gives the logits of the finer map.
      coarse: gives the logits of the coarse map. They are computed before the enlargement: both are linear, so that the
        result is the same, with less to compute.
    """

    fine: Layer
    coarse: Layer

    def forward(self, run: Run, x: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Computes the logits of two maps, shape (height, width, num_classes) of the finer one."""
        fine, coarse = x
        height, width, _ = fine.shape
        return run.fine(fine) + resize(run.coarse(coarse), (height, width))


def lraspp_mobilenet_v3_large(
    num_classes: int = 21,
    *,
    in_channels: int = 3,
    norm: Norm | None = None,
    output_stride: int = 16,
) -> LiteRASPP:
    """Builds Lite R-ASPP of MobileNetV3-Large; 3,221,538 parameters. See `lraspp`.

    Args:
      num_classes: number of logits of each pixel.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels; None for that of MobileNetV3 in its layers, with an
        epsilon of 0.001, and `BatchNorm` after them, as in torchvision.
      output_stride: see `jaxcnn.models.mobilenet.mobilenet_v3`.

    Returns:
      The model: stem, stage1 to stage6, last, conv, gate and head; parameters are named as those of `mobilenet_v3`.

    Raises:
      ValueError: the output stride is unknown.
    """
    model = mobilenet_v3_large(in_channels=in_channels, norm=norm or v3_norm, output_stride=output_stride)
    return lraspp(Backbone(model, ["stage3/block0", "last"]), num_classes, norm=norm or BatchNorm)


def lraspp(backbone: Backbone, num_classes: int = 21, *, norm: Norm = BatchNorm, channels: int = 128) -> LiteRASPP:
    """Builds Lite R-ASPP of any classifier: `lraspp(Backbone(mobilenet_v2(), at=["stage3", "last"]), 2)`.

    Args:
      backbone: the classifier and two of its maps: in the paper those of strides 8 and 16.
      num_classes: number of logits of each pixel.
      norm: makes the normalisation of the convolution on the coarse map.
      channels: channels of that convolution.

    Returns:
      The model: the layers of the classifier, conv, gate and head. An image may have any size that the classifier
      takes; its map of logits has the same.

    Raises:
      ValueError: the backbone has other than two results, or they are not maps.
    """
    levels = backbone.levels()
    if len(levels) != 2:
        raise ValueError(f"lraspp expects a backbone of two maps, got {backbone.at}")
    fine, coarse = (level.channels for level in levels)
    gate = Sequential(
        pool=GlobalAvgPool(),
        conv=Dense(coarse, channels, use_bias=False, kernel_init=he_normal_fan_out),
        sigmoid=sigmoid,
    )
    head = TwoScaleHead(Conv(fine, num_classes, 1), Conv(channels, num_classes, 1))
    return LiteRASPP(backbone, conv_norm(coarse, channels, norm=norm, relu=relu), gate, head)
