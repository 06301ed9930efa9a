"""What segmentation networks share: a classifier without its end, a decoder, and logits in the size of the image."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from jaxcnn.layers import BatchNorm, Composite, Conv, Dropout, Function, Run, Sequential
from jaxcnn.models.blocks import Norm, conv_norm, relu
from jaxcnn.ops.check import check_image
from jaxcnn.ops.resizing import resize
from jaxcnn.types import Layer


@dataclass(frozen=True, repr=False)
class Segmenter(Composite):
    """A backbone, a decoder and a head; the logits are enlarged to the image (bilinear, as in torchvision).

    In training with an auxiliary head, the result is a dict: the logits of the head are "main", those of the auxiliary
    head "aux". In evaluation, the result is the logits alone, shape (height, width, num_classes). Parameters and state
    of the backbone have the names that they have in the classifier.

    Attributes:
      backbone: gives a tuple of maps, the finest first; a `Backbone`.
      decoder: gets the last map.
      head: turns the result of the decoder into logits.
      aux: gets the first map, and gives logits; None for no auxiliary head.
    """

    inlined: ClassVar[str | None] = "backbone"

    backbone: Layer
    decoder: Layer
    head: Layer
    aux: Layer | None = None

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the auxiliary heads, as in `AuxiliaryHeads`."""
        return () if self.aux is None else ("aux",)

    def forward(self, run: Run, x: jax.Array) -> Any:
        """Computes the logits of one image (height, width, channels)."""
        check_image("Segmenter", x)
        height, width, _ = x.shape
        size = height, width
        maps = run.backbone(x)
        logits = resize(run.head(run.decoder(maps[-1])), size)
        if self.aux is None or not (run.train or run.is_asked_for("aux")):
            return logits
        aux = resize(run.aux(maps[0]), size)
        return {"main": logits, "aux": aux} if run.train else logits


def fcn_decoder(
    channels: int, *, norm: Norm = BatchNorm, activation: Function = relu, dropout_rate: float = 0.1
) -> Sequential:
    """Builds the decoder of an FCN: a 3x3 convolution to a quarter of the channels, normalisation and dropout.

    Args:
      channels: channels of the map.
      norm: makes the normalisation.
      activation: the nonlinearity.
      dropout_rate: probability of dropping a value, in [0, 1).

    Returns:
      The decoder, with layers conv, norm, relu and dropout.
    """
    return conv_norm(channels, channels // 4, 3, norm=norm, relu=activation, dropout=Dropout(dropout_rate))


def auxiliary_head(channels: int, num_classes: int, **options: Any) -> Sequential:
    """Builds the auxiliary head of FCN and DeepLab: a decoder of an FCN, and its head.

    Args:
      channels: channels of the map.
      num_classes: number of logits of each pixel.
      **options: those of `fcn_decoder`.

    Returns:
      The layers conv, norm, relu, dropout and head.
    """
    decoder = fcn_decoder(channels, **options)
    return Sequential(**dict(decoder.layers), head=Conv(channels // 4, num_classes, 1))
