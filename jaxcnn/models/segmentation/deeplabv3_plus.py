"""DeepLabV3+: convolutions of several dilations, and a decoder that refines their result by a finer map.

Source: Chen, Zhu, Papandreou, Schroff & Adam, "Encoder-decoder with atrous separable convolution for semantic image
segmentation", 2018. The sizes are those of segmentation_models_pytorch (Iakubovskii 2019).
"""

import functools
from dataclasses import dataclass

import jax

from jaxcnn.layers import Backbone, BatchNorm, Composite, Concat, Conv, Dropout, Function, Run, Sequential
from jaxcnn.models.blocks import Norm, conv, conv_norm, relu
from jaxcnn.models.segmentation.context import GridContext
from jaxcnn.models.segmentation.decoding import encoder_and_channels, encoder_decoder, he_uniform, joined
from jaxcnn.ops.resizing import resize
from jaxcnn.types import Layer

_FINE = 48
"""Channels of the finer map after its projection (section 4.1)."""

_conv_norm = functools.partial(conv_norm, kernel_init=he_uniform)


def deeplabv3_plus(
    num_classes: int = 2,
    encoder: str | Backbone = "resnet50",
    *,
    in_channels: int = 3,
    norm: Norm = BatchNorm,
    activation: Function = relu,
    depth: int = 5,
    output_stride: int = 16,
    channels: int = 256,
    rates: tuple[int, int, int] = (12, 24, 36),
    separable: bool = True,
    dropout_rate: float = 0.5,
) -> Sequential:
    """Builds a DeepLabV3+: `DeepLabV3Plus` of segmentation_models_pytorch (Chen et al. 2018, figure 2).

    Args:
      num_classes: number of logits of each pixel.
      encoder: name of a classifier of the catalog, such as "resnet50"; or the encoder itself, whose second and last
        maps are used, the second of stride 4.
      in_channels: channels of the image.
      norm: makes the normalisations of the decoder.
      activation: the nonlinearity of the decoder.
      depth: how often the encoder would halve the image without dilations: from 3 to 5.
      output_stride: stride of the encoder's last map, in pixels: 16 or 8 (section 3.1).
      channels: channels of the decoder.
      rates: dilations of the three 3x3 convolutions of the coarsest map.
      separable: whether these are a depthwise and a pointwise convolution each.
      dropout_rate: probability of dropping a value after them in training, in [0, 1).

    Returns:
      The model: check, encoder, decoder, head and upsample. An image (height, width, in_channels), both multiples of
      the output stride, gives a map of logits, shape (height, width, num_classes).

    Raises:
      ValueError: there is no such encoder, or it has no such output stride.
    """
    encoder, widths = encoder_and_channels(encoder, depth, in_channels, output_stride)
    wide = functools.partial(_separable if separable else _dilated, norm=norm, activation=activation)
    last = widths[-1]
    pyramid = Concat(
        conv1=_conv_norm(last, channels, 1, norm=norm, relu=activation),
        **{f"conv{i}": wide(last, channels, rate) for i, rate in enumerate(rates, start=2)},
        pool=GridContext(_conv_norm(last, channels, 1, norm=norm, relu=activation), 1),
    )
    decoder = DeepLabV3PlusDecoder(
        pyramid=Sequential(
            branches=pyramid,
            project=_conv_norm(5 * channels, channels, 1, norm=norm, relu=activation),
            dropout=Dropout(dropout_rate),
            refine=_separable(channels, channels, 1, norm=norm, activation=activation),
        ),
        fine=_conv_norm(widths[1], _FINE, 1, norm=norm, relu=activation),
        fuse=_separable(channels + _FINE, channels, 1, norm=norm, activation=activation),
    )
    steps = min(depth, output_stride.bit_length() - 1)
    return encoder_decoder(
        "deeplabv3_plus", encoder, decoder, channels, num_classes, depth=steps, head_size=1, upsampling=4
    )


def _dilated(in_channels: int, out_channels: int, rate: int, *, norm: Norm, activation: Function) -> Sequential:
    first = Conv(in_channels, out_channels, 3, padding=rate, dilation=rate, use_bias=False, kernel_init=he_uniform)
    return Sequential(conv=first, norm=norm(out_channels), relu=activation)


def _separable(in_channels: int, out_channels: int, rate: int, *, norm: Norm, activation: Function) -> Sequential:
    depthwise = Conv(
        in_channels,
        in_channels,
        3,
        padding=rate,
        dilation=rate,
        groups=in_channels,
        use_bias=False,
        kernel_init=he_uniform,
    )
    pointwise = conv(in_channels, out_channels, kernel_init=he_uniform)
    return Sequential(depthwise=depthwise, pointwise=pointwise, norm=norm(out_channels), relu=activation)


@dataclass(frozen=True, repr=False)
class DeepLabV3PlusDecoder(Composite):
    """The decoder, which takes the maps of an encoder, the finest first: it uses the second and the last.

    Attributes:
      pyramid: of the last map.
      fine: projection of the second one.
      fuse: convolution of both, joined.
    """

    pyramid: Layer
    fine: Layer
    fuse: Layer

    def forward(self, run: Run, x: tuple[jax.Array, ...]) -> jax.Array:
        """Turns the maps of an encoder into one."""
        coarse, fine = run.pyramid(x[-1]), run.fine(x[1])
        return run.fuse(joined([resize(coarse, fine.shape[:2], align_corners=True), fine]))
