"""FPN for segmentation: a feature pyramid whose levels are enlarged to one size and merged.

Source: Lin, Dollar, Girshick, He, Hariharan & Belongie, "Feature pyramid networks for object detection", 2017;
Kirillov, Girshick, He & Dollar, "Panoptic feature pyramid networks", 2019. The sizes are those of
segmentation_models_pytorch (Iakubovskii 2019).
"""

import functools
import operator
from dataclasses import dataclass
from typing import Literal

import jax

from jaxcnn.layers import Backbone, Composite, Conv, Dropout, Function, GroupNorm, Resize, Run, Sequential
from jaxcnn.models.blocks import Norm, relu
from jaxcnn.models.segmentation.decoding import (
    conv_relu,
    doubled,
    encoder_and_channels,
    encoder_decoder,
    he_uniform,
    joined,
)
from jaxcnn.ops.resizing import Method
from jaxcnn.types import Layer
from jaxcnn.values import Partial

_group_norm = Partial(GroupNorm, num_groups=32)


def fpn(
    num_classes: int = 2,
    encoder: str | Backbone = "resnet34",
    *,
    in_channels: int = 3,
    norm: Norm | None = _group_norm,
    activation: Function = relu,
    depth: int = 5,
    pyramid_channels: int = 256,
    segmentation_channels: int = 128,
    merge: Literal["add", "cat"] = "add",
    dropout_rate: float = 0.2,
    method: Method = "nearest",
) -> Sequential:
    """Builds an FPN: `FPN` of segmentation_models_pytorch (Kirillov et al. 2019, figure 3).

    Args:
      num_classes: number of logits of each pixel.
      encoder: name of a classifier of the catalog, such as "resnet34"; or the encoder itself, with four maps or more,
        each twice as large as the next.
      in_channels: channels of the image.
      norm: makes the normalisations of the decoder; None for none, with biases instead.
      activation: the nonlinearity of the decoder.
      depth: how often the encoder halves the image: 4 or 5. The logits are computed from maps of 1 / 2**(depth - 3) of
        the size of the image, and then enlarged.
      pyramid_channels: channels of the levels of the pyramid.
      segmentation_channels: channels of the enlarged levels.
      merge: whether to add the enlarged levels or to concatenate them.
      dropout_rate: probability of dropping a channel of the merged map in training, in [0, 1).
      method: how the levels are doubled on the way down the pyramid; see `jaxcnn.ops.resize`.

    Returns:
      The model: check, encoder, decoder, head and upsample. An image (height, width, in_channels), both multiples of
      2**depth, gives a map of logits, shape (height, width, num_classes).

    Raises:
      ValueError: there is no such encoder, or an option has a value other than those above.
    """
    if merge not in ("add", "cat"):
        raise ValueError(f"fpn expects merge to be 'add' or 'cat', got {merge!r}")
    if depth not in (4, 5):
        raise ValueError(f"fpn expects a depth of 4 or 5, got {depth!r}")
    encoder, channels = encoder_and_channels(encoder, depth, in_channels)
    if len(channels) < 4:
        raise ValueError(f"fpn expects an encoder with at least 4 maps, got {len(channels)}")

    def lateral(channels: int) -> Conv:
        return Conv(channels, pyramid_channels, 1, kernel_init=he_uniform)

    def enlarge(times: int) -> Sequential:
        layers, width = {}, pyramid_channels
        for i in range(max(times, 1)):
            block = conv_relu(width, segmentation_channels, norm=norm, activation=activation)
            layers[f"conv{i + 1}"] = block
            if times:
                layers[f"double{i + 1}"] = Resize(scale_factor=2, align_corners=True)
            width = segmentation_channels
        return Sequential(**layers)

    decoder = FPNDecoder(
        *(lateral(width) for width in channels[:-5:-1]),
        *(enlarge(times) for times in (3, 2, 1, 0)),
        dropout=Dropout(dropout_rate, whole_channels=True),
        merge=merge,
        method=method,
    )
    width = segmentation_channels * (4 if merge == "cat" else 1)
    return encoder_decoder(
        "fpn", encoder, decoder, width, num_classes, depth=depth, head_size=1, upsampling=2 ** (depth - 3)
    )


@dataclass(frozen=True, repr=False)
class FPNDecoder(Composite):
    """The pyramid, which takes the maps of an encoder, the finest first, and of which it uses the last four.

    Attributes:
      lateral5: 1x1 convolution of the coarsest map.
      lateral4: of the next one.
      lateral3: of the next one.
      lateral2: of the next one.
      enlarge5: enlarges the coarsest level of the pyramid to the size of the finest.
      enlarge4: likewise.
      enlarge3: likewise.
      enlarge2: of the finest level, whose size stays.
      dropout: of the merged map.
      merge: "add" or "cat".
      method: how a level is doubled for the next.
    """

    lateral5: Layer
    lateral4: Layer
    lateral3: Layer
    lateral2: Layer
    enlarge5: Layer
    enlarge4: Layer
    enlarge3: Layer
    enlarge2: Layer
    dropout: Layer
    merge: str = "add"
    method: Method = "nearest"

    def forward(self, run: Run, x: tuple[jax.Array, ...]) -> jax.Array:
        """Turns the maps of an encoder into one."""
        c2, c3, c4, c5 = x[-4:]
        p5 = run.lateral5(c5)
        p4 = doubled(p5, self.method) + run.lateral4(c4)
        p3 = doubled(p4, self.method) + run.lateral3(c3)
        p2 = doubled(p3, self.method) + run.lateral2(c2)
        levels = [run.enlarge5(p5), run.enlarge4(p4), run.enlarge3(p3), run.enlarge2(p2)]
        return run.dropout(joined(levels) if self.merge == "cat" else functools.reduce(operator.add, levels))
