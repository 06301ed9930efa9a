"""MobileNets: networks of depthwise and pointwise convolutions for small devices.

Source: Sandler, Howard, Zhu, Zhmoginov & Chen, "MobileNetV2: inverted residuals and linear bottlenecks", 2018; Howard
et al., "Searching for MobileNetV3", 2019. All padding is symmetric, as torchvision does, so that published weights fit.
"""

from typing import NamedTuple

import jax

from jaxcnn.layers import (
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Function,
    Gate,
    GlobalAvgPool,
    Initializer,
    Residual,
    Sequential,
)
from jaxcnn.layers.initializers import he_normal_fan_out
from jaxcnn.types import Layer

_V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, output channels, blocks and strides of the first block (Sandler et al. 2018, table 2)."""


class V3Block(NamedTuple):
    """A row of the tables of MobileNetV3.

    Attributes:
      kernel_size: height and width of the depthwise kernel, in taps.
      hidden: channels of the depthwise convolution.
      out_channels: channels of the output.
      squeeze: whether there is a squeeze-and-excitation.
      activation: the nonlinearity.
      strides: strides of the depthwise convolution.
    """

    kernel_size: int
    hidden: int
    out_channels: int
    squeeze: bool
    activation: Function
    strides: int


_relu, _relu6, _hard_swish = Function(jax.nn.relu), Function(jax.nn.relu6), Function(jax.nn.hard_swish)

_V3_LARGE = (
    (V3Block(3, 16, 16, False, _relu, 1),),
    (V3Block(3, 64, 24, False, _relu, 2), V3Block(3, 72, 24, False, _relu, 1)),
    (V3Block(5, 72, 40, True, _relu, 2), V3Block(5, 120, 40, True, _relu, 1), V3Block(5, 120, 40, True, _relu, 1)),
    (
        V3Block(3, 240, 80, False, _hard_swish, 2),
        V3Block(3, 200, 80, False, _hard_swish, 1),
        V3Block(3, 184, 80, False, _hard_swish, 1),
        V3Block(3, 184, 80, False, _hard_swish, 1),
    ),
    (V3Block(3, 480, 112, True, _hard_swish, 1), V3Block(3, 672, 112, True, _hard_swish, 1)),
    (
        V3Block(5, 672, 160, True, _hard_swish, 2),
        V3Block(5, 960, 160, True, _hard_swish, 1),
        V3Block(5, 960, 160, True, _hard_swish, 1),
    ),
)
"""The stages, each of one number of output channels (Howard et al. 2019, table 1)."""

_V3_SMALL = (
    (V3Block(3, 16, 16, True, _relu, 2),),
    (V3Block(3, 72, 24, False, _relu, 2), V3Block(3, 88, 24, False, _relu, 1)),
    (
        V3Block(5, 96, 40, True, _hard_swish, 2),
        V3Block(5, 240, 40, True, _hard_swish, 1),
        V3Block(5, 240, 40, True, _hard_swish, 1),
    ),
    (V3Block(5, 120, 48, True, _hard_swish, 1), V3Block(5, 144, 48, True, _hard_swish, 1)),
    (
        V3Block(5, 288, 96, True, _hard_swish, 2),
        V3Block(5, 576, 96, True, _hard_swish, 1),
        V3Block(5, 576, 96, True, _hard_swish, 1),
    ),
)
"""The same for the small one (table 2)."""

_head_init = Initializer(jax.nn.initializers.normal, stddev=0.01)


def mobilenet_v2(
    num_classes: int = 1000, *, in_channels: int = 3, width: float = 1.0, dropout_rate: float = 0.2
) -> Sequential:
    """Builds MobileNetV2 (Sandler et al. 2018, table 2); 3,504,872 parameters at width 1.

    Args:
      num_classes: number of logits.
      in_channels: channels of the image.
      width: multiplies all numbers of channels, which are then rounded to multiples of 8; above 0. The last
        convolution keeps its 1,280 channels below 1.
      dropout_rate: probability of dropping a feature before the head, in [0, 1).

    Returns:
      The model: stem, stage1 to stage7, last, pool, dropout, head; parameters are named like
      `stage2/block0/expand/conv/kernel`.

    Raises:
      ValueError: the width is not positive, or the rate is outside [0, 1).
    """
    _check_width("mobilenet_v2", width)
    channels = rounded_channels(32 * width)
    stem, stages = _conv_norm(in_channels, channels, 3, 2), {}
    for i, (expansion, out, blocks, strides) in enumerate(_V2_STAGES):
        layers = {}
        for j in range(blocks):
            out_channels = rounded_channels(out * width)
            layers[f"block{j}"] = inverted_residual(channels, out_channels, strides if j == 0 else 1, expansion)
            channels = out_channels
        stages[f"stage{i + 1}"] = Sequential(**layers)
    features = rounded_channels(1280 * max(width, 1.0))
    return Sequential(
        stem=stem,
        **stages,
        last=_conv_norm(channels, features),
        pool=GlobalAvgPool(),
        dropout=Dropout(dropout_rate),
        head=Dense(features, num_classes, kernel_init=_head_init),
    )


def mobilenet_v3_large(
    num_classes: int = 1000, *, in_channels: int = 3, width: float = 1.0, dropout_rate: float = 0.2
) -> Sequential:
    """Builds MobileNetV3-Large; 5,483,032 parameters at width 1. See `mobilenet_v3`."""
    return mobilenet_v3(_V3_LARGE, 1280, num_classes, in_channels, width, dropout_rate)


def mobilenet_v3_small(
    num_classes: int = 1000, *, in_channels: int = 3, width: float = 1.0, dropout_rate: float = 0.2
) -> Sequential:
    """Builds MobileNetV3-Small; 2,542,856 parameters at width 1. See `mobilenet_v3`."""
    return mobilenet_v3(_V3_SMALL, 1024, num_classes, in_channels, width, dropout_rate)


def mobilenet_v3(
    stages: tuple[tuple[V3Block, ...], ...],
    features: int,
    num_classes: int,
    in_channels: int,
    width: float,
    dropout_rate: float,
) -> Sequential:
    """Builds a MobileNetV3 (Howard et al. 2019, tables 1 and 2).

    Its batch norms have an epsilon of 0.001 and a decay of 0.99, as the paper's and torchvision's.

    Args:
      stages: the blocks of each stage.
      features: size of the dense layer before the head.
      num_classes: number of logits.
      in_channels: channels of the image.
      width: multiplies all numbers of channels and `features`, which are then rounded to multiples of 8, as torchvision
        does; above 0.
      dropout_rate: probability of dropping a feature before the head, in [0, 1).

    Returns:
      The model: stem, stages from stage1 on, last, pool, dense, hard_swish, dropout, head; parameters are named like
      `stage3/block0/squeeze_excite/reduce/kernel`.

    Raises:
      ValueError: the width is not positive, or the rate is outside [0, 1).
    """
    _check_width("mobilenet_v3", width)
    channels = rounded_channels(16 * width)
    stem, built = _v3_conv_norm(in_channels, channels, _hard_swish, 3, 2), {}
    for i, rows in enumerate(stages):
        layers = {}
        for j, row in enumerate(rows):
            out_channels = rounded_channels(row.out_channels * width)
            layers[f"block{j}"] = squeezed_residual(
                channels,
                rounded_channels(row.hidden * width),
                out_channels,
                row.kernel_size,
                row.strides,
                row.squeeze,
                row.activation,
            )
            channels = out_channels
        built[f"stage{i + 1}"] = Sequential(**layers)
    features = rounded_channels(features * width)
    return Sequential(
        stem=stem,
        **built,
        last=_v3_conv_norm(channels, 6 * channels, _hard_swish),
        pool=GlobalAvgPool(),
        dense=Dense(6 * channels, features, kernel_init=_head_init),
        hard_swish=_hard_swish,
        dropout=Dropout(dropout_rate),
        head=Dense(features, num_classes, kernel_init=_head_init),
    )


def squeezed_residual(
    in_channels: int,
    hidden: int,
    out_channels: int,
    kernel_size: int,
    strides: int,
    squeeze: bool,
    activation: Function,
) -> Residual | Sequential:
    """Builds the block of MobileNetV3: an inverted residual with a squeeze-and-excitation in its middle.

    Args:
      in_channels: channels of the input.
      hidden: channels of the depthwise convolution; if as many as `in_channels`, there is no convolution before it.
      out_channels: channels of the output.
      kernel_size: height and width of the depthwise kernel, in taps; odd.
      strides: strides of the depthwise convolution.
      squeeze: whether there is a squeeze-and-excitation.
      activation: the nonlinearity.

    Returns:
      The block, with layers expand, depthwise, squeeze_excite and project; a residual one where the shape stays (Howard
      et al. 2019, figure 4).
    """
    layers: dict[str, Layer] = (
        {} if hidden == in_channels else {"expand": _v3_conv_norm(in_channels, hidden, activation)}
    )
    layers["depthwise"] = _v3_conv_norm(hidden, hidden, activation, kernel_size, strides, hidden)
    if squeeze:
        layers["squeeze_excite"] = squeeze_excite(hidden, rounded_channels(hidden // 4))
    layers["project"] = Sequential(conv=_conv(hidden, out_channels), norm=_v3_norm(out_channels))
    body = Sequential(**layers)
    return Residual(body) if strides == 1 and in_channels == out_channels else body


def squeeze_excite(channels: int, squeezed: int) -> Gate:
    """Builds a squeeze-and-excitation: weighs channels by what all pixels together say (Hu et al. 2018, section 3).

    Args:
      channels: channels of the image.
      squeezed: size of the hidden layer.

    Returns:
      The gate, with layers pool, reduce, relu, expand and hard_sigmoid, the gate of MobileNetV3 (Howard et al. 2019,
      section 5.3).
    """
    return Gate(
        Sequential(
            pool=GlobalAvgPool(),
            reduce=Dense(channels, squeezed, kernel_init=he_normal_fan_out),
            relu=_relu,
            expand=Dense(squeezed, channels, kernel_init=he_normal_fan_out),
            hard_sigmoid=Function(jax.nn.hard_sigmoid),
        )
    )


def inverted_residual(
    in_channels: int, out_channels: int, strides: int = 1, expansion: int = 6
) -> Residual | Sequential:
    """Builds a 1x1 convolution to more channels, a 3x3 depthwise one and a linear 1x1 one back to few.

    Args:
      in_channels: channels of the input.
      out_channels: channels of the output.
      strides: strides of the depthwise convolution.
      expansion: how many times the channels of the input the depthwise convolution has; at 1 there is no first one.

    Returns:
      The block, with layers expand, depthwise and project; a residual one where the shape stays (Sandler et al. 2018,
      figure 4d).
    """
    hidden = in_channels * expansion
    first = {} if expansion == 1 else {"expand": _conv_norm(in_channels, hidden)}
    body = Sequential(
        **first,
        depthwise=_conv_norm(hidden, hidden, 3, strides, groups=hidden),
        project=Sequential(conv=_conv(hidden, out_channels), norm=BatchNorm(out_channels)),
    )
    return Residual(body) if strides == 1 and in_channels == out_channels else body


def rounded_channels(channels: float, divisor: int = 8) -> int:
    """Rounds a number of channels to a multiple, as the code of the MobileNet papers does.

    Args:
      channels: a number of channels, positive.
      divisor: what the result is a multiple of.

    Returns:
      The nearest multiple, the larger of two; at least one divisor, and the next one where 10 % would be lost.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


def _conv(in_channels: int, out_channels: int, kernel_size: int = 1, strides: int = 1, groups: int = 1) -> Conv:
    return Conv(
        in_channels,
        out_channels,
        kernel_size,
        strides,
        padding=kernel_size // 2,
        groups=groups,
        use_bias=False,
        kernel_init=he_normal_fan_out,
    )


def _conv_norm(
    in_channels: int, out_channels: int, kernel_size: int = 1, strides: int = 1, groups: int = 1
) -> Sequential:
    conv = _conv(in_channels, out_channels, kernel_size, strides, groups)
    return Sequential(conv=conv, norm=BatchNorm(out_channels), relu6=_relu6)


def _v3_norm(channels: int) -> BatchNorm:
    return BatchNorm(channels, decay=0.99, epsilon=1e-3)


def _v3_conv_norm(
    in_channels: int, out_channels: int, activation: Function, kernel_size: int = 1, strides: int = 1, groups: int = 1
) -> Sequential:
    conv = _conv(in_channels, out_channels, kernel_size, strides, groups)
    return Sequential(conv=conv, norm=_v3_norm(out_channels), activation=activation)


def _check_width(model: str, width: float) -> None:
    if not 0 < width < float("inf"):
        raise ValueError(f"{model} expects a width above 0, got {width!r}")
