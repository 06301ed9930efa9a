"""ShuffleNet V2: a network for small devices whose units split their channels and shuffle them.

Source: Ma, Zhang, Zheng & Sun, "ShuffleNet V2: practical guidelines for efficient CNN architecture design", 2018. All
padding is symmetric, as in torchvision, so that published weights fit. The paper names no initialisation; here it is
that of He et al. 2015 for convolutions before ReLU.
"""

from typing import Unpack

from jaxcnn import ops
from jaxcnn.layers import BatchNorm, Concat, Dense, Function, GlobalAvgPool, MaxPool, Sequential
from jaxcnn.models.blocks import Norm, NormOptions, build_stages, conv, conv_norm, relu
from jaxcnn.types import Layer

_STAGE_SIZES = (4, 8, 4)
"""Units of each stage (Ma et al. 2018, table 5)."""

_STEM_CHANNELS = 24


def shufflenet_v2_x0_5(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds ShuffleNet V2 0.5x: 48 to 192 channels; 1,366,792 parameters. See `shufflenet_v2`."""
    return shufflenet_v2((48, 96, 192), 1024, num_classes, **options)


def shufflenet_v2_x1_0(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds ShuffleNet V2 1x: 116 to 464 channels; 2,278,604 parameters. See `shufflenet_v2`."""
    return shufflenet_v2((116, 232, 464), 1024, num_classes, **options)


def shufflenet_v2_x1_5(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds ShuffleNet V2 1.5x: 176 to 704 channels; 3,503,624 parameters. See `shufflenet_v2`."""
    return shufflenet_v2((176, 352, 704), 1024, num_classes, **options)


def shufflenet_v2_x2_0(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds ShuffleNet V2 2x: 244 to 976 channels; 7,393,996 parameters. See `shufflenet_v2`."""
    return shufflenet_v2((244, 488, 976), 2048, num_classes, **options)


def shufflenet_v2(
    channels: tuple[int, int, int],
    features: int,
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    norm: Norm = BatchNorm,
    activation: Function = relu,
) -> Sequential:
    """Builds a ShuffleNet V2 (Ma et al. 2018, table 5).

    Args:
      channels: channels of the three stages, even; the first unit of each halves the image.
      features: channels of the last convolution.
      num_classes: number of logits.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.

    Returns:
      The model: stem, stage1 to stage3 (the paper's stages 2 to 4), last, pool, head; parameters are named like
      `stage1/block0/join/right/conv1/kernel`.

    Raises:
      ValueError: a number of channels is odd.
    """

    def unit(in_channels: int, out_channels: int, strides: int) -> Sequential:
        if strides == 2:
            return downsampling_unit(in_channels, out_channels, norm=norm, activation=activation)
        return shuffle_unit(out_channels, norm=norm, activation=activation)

    pool = MaxPool(3, strides=2, padding=1)
    rows = [(unit, units, out_channels, 2) for units, out_channels in zip(_STAGE_SIZES, channels, strict=True)]
    return Sequential(
        stem=conv_norm(in_channels, _STEM_CHANNELS, 3, 2, norm=norm, relu=activation, pool=pool),
        **build_stages(_STEM_CHANNELS, rows),
        last=conv_norm(channels[-1], features, norm=norm, relu=activation),
        pool=GlobalAvgPool(),
        head=Dense(features, num_classes),
    )


def shuffle_unit(channels: int, *, norm: Norm = BatchNorm, activation: Function = relu) -> Sequential:
    """Builds a unit that convolves half of the channels, and shuffles all of them (Ma et al. 2018, figure 3c).

    Args:
      channels: channels of the input and of the output, even.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.

    Returns:
      The unit: join, whose branch `left` returns the first half unchanged, and shuffle.

    Raises:
      ValueError: the number of channels is odd.
    """
    half = _half("shuffle_unit", channels)
    left = Function(ops.channel_slice, start=0, stop=half)
    right = Sequential(
        split=Function(ops.channel_slice, start=half, stop=channels), **_convolutions(half, half, 1, norm, activation)
    )
    return _joined(left, right)


def downsampling_unit(
    in_channels: int, out_channels: int, *, norm: Norm = BatchNorm, activation: Function = relu
) -> Sequential:
    """Builds a unit of stride 2, both of whose branches convolve the whole input (Ma et al. 2018, figure 3d).

    Args:
      in_channels: channels of the input.
      out_channels: channels of the output, even; each branch gives half of them.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.

    Returns:
      The unit: join, with branches `left` and `right`, and shuffle.

    Raises:
      ValueError: the number of output channels is odd.
    """
    half = _half("downsampling_unit", out_channels)
    left = Sequential(
        conv1=conv(in_channels, in_channels, 3, 2, groups=in_channels),
        norm1=norm(in_channels),
        conv2=conv(in_channels, half),
        norm2=norm(half),
        relu=activation,
    )
    return _joined(left, Sequential(**_convolutions(in_channels, half, 2, norm, activation)))


def _joined(left: Layer, right: Layer) -> Sequential:
    return Sequential(join=Concat(left=left, right=right), shuffle=Function(ops.channel_shuffle, groups=2))


def _convolutions(
    in_channels: int, out_channels: int, strides: int, norm: Norm, activation: Function
) -> dict[str, Layer]:
    """Lists a 1x1, a depthwise 3x3 and a 1x1 convolution; there is no activation after the depthwise one."""
    return {
        "conv1": conv(in_channels, out_channels),
        "norm1": norm(out_channels),
        "relu1": activation,
        "conv2": conv(out_channels, out_channels, 3, strides, groups=out_channels),
        "norm2": norm(out_channels),
        "conv3": conv(out_channels, out_channels),
        "norm3": norm(out_channels),
        "relu3": activation,
    }


def _half(unit: str, channels: int) -> int:
    if channels < 2 or channels % 2:
        raise ValueError(f"{unit} expects an even number of channels, half for each branch, got {channels}")
    return channels // 2
