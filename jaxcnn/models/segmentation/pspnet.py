"""PSPNet: the context of each pixel from means over grids of 1x1, 2x2, 3x3 and 6x6 regions.

Source: Zhao, Shi, Qi, Wang & Jia, "Pyramid scene parsing network", 2017. The sizes are those of
segmentation_models_pytorch (Iakubovskii 2019).
"""

from jaxcnn.layers import Backbone, BatchNorm, Concat, Dropout, Function, Sequential, identity
from jaxcnn.models.blocks import Norm, relu
from jaxcnn.models.segmentation.context import GridContext, OnCoarsest
from jaxcnn.models.segmentation.decoding import conv_relu, encoder_and_channels, encoder_decoder

GRIDS = (1, 2, 3, 6)
"""Rows and columns of the grids (section 3.2)."""


def pspnet(
    num_classes: int = 2,
    encoder: str | Backbone = "resnet34",
    *,
    in_channels: int = 3,
    norm: Norm | None = BatchNorm,
    activation: Function = relu,
    depth: int = 3,
    channels: int = 512,
    dropout_rate: float = 0.2,
) -> Sequential:
    """Builds a PSPNet: `PSPNet` of segmentation_models_pytorch (Zhao et al. 2017, figure 3).

    Args:
      num_classes: number of logits of each pixel.
      encoder: name of a classifier of the catalog, such as "resnet34"; or the encoder itself, whose last map is used.
      in_channels: channels of the image.
      norm: makes the normalisations of the decoder; None for none, with biases instead. The means over the whole image
        have none.
      activation: the nonlinearity of the decoder.
      depth: how often the encoder halves the image: from 3 to 5.
      channels: channels of the decoder's result.
      dropout_rate: probability of dropping a channel of that result in training, in [0, 1).

    Returns:
      The model: check, encoder, decoder, head and upsample. An image (height, width, in_channels), both multiples of
      2**depth, gives a map of logits, shape (height, width, num_classes).

    Raises:
      ValueError: there is no such encoder, or the rate is outside [0, 1).
    """
    encoder, (*_, last) = encoder_and_channels(encoder, depth, in_channels)
    grids = {
        f"grid{size}": GridContext(
            conv_relu(last, last // 4, 1, norm=norm if size > 1 else None, activation=activation),
            size,
            align_corners=True,
        )
        for size in GRIDS
    }
    decoder = Sequential(
        pool=Concat(**grids, map=identity),
        project=conv_relu(last + 4 * (last // 4), channels, 1, norm=norm, activation=activation),
        dropout=Dropout(dropout_rate, whole_channels=True),
    )
    return encoder_decoder(
        "pspnet", encoder, OnCoarsest(decoder), channels, num_classes, depth=depth, upsampling=2**depth
    )
