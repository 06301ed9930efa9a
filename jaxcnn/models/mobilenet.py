"""MobileNets: networks of depthwise and pointwise convolutions for small devices.

Source: Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto & Adam, "MobileNets: efficient convolutional neural
networks for mobile vision applications", 2017; Sandler, Howard, Zhu, Zhmoginov & Chen, "MobileNetV2: inverted residuals
and linear bottlenecks", 2018; Howard et al., "Searching for MobileNetV3", 2019.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypedDict, Unpack

import jax

from jaxcnn.layers import BatchNorm, Dense, Dropout, Function, Gate, GlobalAvgPool, Initializer, Sequential
from jaxcnn.models.blocks import (
    Norm,
    PaddingRule,
    build_stages,
    check_padding,
    conv_norm,
    dilated,
    inverted_residual,
    relu,
    rounded_channels,
    squeeze_excite,
)
from jaxcnn.types import Layer
from jaxcnn.values import Partial

_V1_STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))
"""Output channels, blocks and strides of the first block (Howard et al. 2017, table 1)."""

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


_relu6, _hard_swish = Function(jax.nn.relu6), Function(jax.nn.hard_swish)
_hard_sigmoid = Function(jax.nn.hard_sigmoid)

_V3_LARGE = (
    (V3Block(3, 16, 16, False, relu, 1),),
    (V3Block(3, 64, 24, False, relu, 2), V3Block(3, 72, 24, False, relu, 1)),
    (V3Block(5, 72, 40, True, relu, 2), V3Block(5, 120, 40, True, relu, 1), V3Block(5, 120, 40, True, relu, 1)),
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

V3_LARGE_DETECTION = (
    *_V3_LARGE[:-1],
    (
        V3Block(5, 672, 80, True, _hard_swish, 2),
        V3Block(5, 480, 80, True, _hard_swish, 1),
        V3Block(5, 480, 80, True, _hard_swish, 1),
    ),
)
"""The stages for detectors, the last one with half the channels (Howard et al. 2019, section 6.3)."""

_V3_SMALL = (
    (V3Block(3, 16, 16, True, relu, 2),),
    (V3Block(3, 72, 24, False, relu, 2), V3Block(3, 88, 24, False, relu, 1)),
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
"""The stages of MobileNetV3-Small (table 2)."""

_head_init = Initializer(jax.nn.initializers.normal, stddev=0.01)
_v1_norm = Partial(BatchNorm, decay=0.99, epsilon=1e-3, unbiased=False)
v3_norm = Partial(BatchNorm, decay=0.99, epsilon=1e-3)
"""The batch norm of MobileNetV3."""


class MobileNetV3Options(TypedDict, total=False):
    """Options of `mobilenet_v3`."""

    in_channels: int
    norm: Norm
    width: float
    dropout_rate: float
    padding: PaddingRule
    output_stride: int


def mobilenet_v1(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    norm: Norm = _v1_norm,
    activation: Function = _relu6,
    width: float = 1.0,
    dropout_rate: float = 0.001,
) -> Sequential:
    """Builds MobileNet (Howard et al. 2017, table 1) in the form of Keras; 4,231,976 parameters at width 1.

    Its batch norms have an epsilon of 0.001 and a decay of 0.99. Images of any size that a depthwise convolution halves
    are padded at the bottom and on the right.

    Args:
      num_classes: number of logits.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
      width: multiplies all numbers of channels, which are then rounded down (section 3.3); above 0.
      dropout_rate: probability of dropping a feature before the head, in [0, 1); the paper wants little regularization
        (section 3.2).

    Returns:
      The model: stem, stage1 to stage5, pool, dropout, head; parameters are named like
      `stage2/block0/depthwise/conv/kernel`.

    Raises:
      ValueError: the width leaves a layer without channels, or the rate is outside [0, 1).
    """
    _check_width("mobilenet_v1", width)
    channels = int(32 * width)
    block = functools.partial(depthwise_separable, norm=norm, activation=activation)
    rows = [(block, blocks, int(out * width), strides) for out, blocks, strides in _V1_STAGES]
    features = rows[-1][2]
    return Sequential(
        stem=conv_norm(in_channels, channels, 3, 2, norm=norm, padding="same", activation=activation),
        **build_stages(channels, rows),
        pool=GlobalAvgPool(),
        dropout=Dropout(dropout_rate),
        head=Dense(features, num_classes, kernel_init=_head_init),
    )


def mobilenet_v2(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    norm: Norm = BatchNorm,
    activation: Function = _relu6,
    width: float = 1.0,
    dropout_rate: float = 0.2,
    padding: PaddingRule = "symmetric",
) -> Sequential:
    """Builds MobileNetV2 (Sandler et al. 2018, table 2); 3,504,872 parameters at width 1.

    Args:
      num_classes: number of logits.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
      width: multiplies all numbers of channels, which are then rounded to multiples of 8; above 0. The last
        convolution keeps its 1,280 channels below 1.
      dropout_rate: probability of dropping a feature before the head, in [0, 1).
      padding: "symmetric" as torchvision pads, or "same" as TensorFlow and Keras do.

    Returns:
      The model: stem, stage1 to stage7, last, pool, dropout, head; parameters are named like
      `stage2/block0/expand/conv/kernel`.

    Raises:
      ValueError: the width is not positive, the padding is unknown, or the rate is outside [0, 1).
    """
    _check_width("mobilenet_v2", width)
    check_padding("mobilenet_v2", padding)
    channels = rounded_channels(32 * width)
    stem = conv_norm(in_channels, channels, 3, 2, norm=norm, padding=padding, activation=activation)

    def block_of(expansion: int) -> Callable[[int, int, int], Layer]:
        def block(in_channels: int, out_channels: int, strides: int) -> Layer:
            hidden = expansion * in_channels
            return inverted_residual(
                in_channels, hidden, out_channels, strides, activation=activation, norm=norm, padding=padding
            )

        return block

    rows = [
        (block_of(expansion), blocks, rounded_channels(out * width), strides)
        for expansion, out, blocks, strides in _V2_STAGES
    ]
    features = rounded_channels(1280 * max(width, 1.0))
    return Sequential(
        stem=stem,
        **build_stages(channels, rows),
        last=conv_norm(rows[-1][2], features, norm=norm, activation=activation),
        pool=GlobalAvgPool(),
        dropout=Dropout(dropout_rate),
        head=Dense(features, num_classes, kernel_init=_head_init),
    )


def mobilenet_v3_large(num_classes: int = 1000, **options: Unpack[MobileNetV3Options]) -> Sequential:
    """Builds MobileNetV3-Large; 5,483,032 parameters at width 1. See `mobilenet_v3`."""
    return mobilenet_v3(_V3_LARGE, 1280, num_classes, **options)


def mobilenet_v3_small(num_classes: int = 1000, **options: Unpack[MobileNetV3Options]) -> Sequential:
    """Builds MobileNetV3-Small; 2,542,856 parameters at width 1. See `mobilenet_v3`."""
    return mobilenet_v3(_V3_SMALL, 1024, num_classes, **options)


def mobilenet_v3(
    stages: tuple[tuple[V3Block, ...], ...],
    features: int,
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    norm: Norm = v3_norm,
    width: float = 1.0,
    dropout_rate: float = 0.2,
    padding: PaddingRule = "symmetric",
    output_stride: int = 32,
) -> Sequential:
    """Builds a MobileNetV3 (Howard et al. 2019, tables 1 and 2).

    It has no option `activation`, because the tables give the activation of each block.

    Args:
      stages: the blocks of each stage.
      features: size of the dense layer before the head.
      num_classes: number of logits.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels; the default is batch norm with an epsilon of 0.001 and a
        decay of 0.99, as in the paper and torchvision.
      width: multiplies all numbers of channels and `features`, which are then rounded to multiples of 8, as torchvision
        does; above 0.
      dropout_rate: probability of dropping a feature before the head, in [0, 1).
      padding: "symmetric" as torchvision pads, or "same" as TensorFlow and Keras do.
      output_stride: 32, or 16 for segmentation: then the depthwise convolutions of the last stage, the first one too,
        have dilation 2 in place of a stride (section 6.4). Weights fit both.

    Returns:
      The model: stem, stages from stage1 on, last, pool, dense, hard_swish, dropout, head; parameters are named like
      `stage3/block0/squeeze_excite/reduce/kernel`.

    Raises:
      ValueError: the width is not positive, the padding or the output stride is unknown, or the rate is outside [0, 1).
    """
    _check_width("mobilenet_v3", width)
    check_padding("mobilenet_v3", padding)
    strides = [row.strides for rows in stages for row in rows]
    steps = iter(zip(*dilated("mobilenet_v3", strides, 2, output_stride, (16, 32)), strict=True))
    channels = rounded_channels(16 * width)
    stem, built = conv_norm(in_channels, channels, 3, 2, norm=norm, padding=padding, activation=_hard_swish), {}
    for i, rows in enumerate(stages):
        layers = {}
        for j, row in enumerate(rows):
            hidden, out_channels = rounded_channels(row.hidden * width), rounded_channels(row.out_channels * width)
            step, dilation = next(steps)
            layers[f"block{j}"] = inverted_residual(
                channels,
                hidden,
                out_channels,
                step,
                activation=row.activation,
                kernel_size=row.kernel_size,
                gate=v3_squeeze_excite(hidden) if row.squeeze else None,
                norm=norm,
                padding=padding,
                dilation=dilation,
            )
            channels = out_channels
        built[f"stage{i + 1}"] = Sequential(**layers)
    features = rounded_channels(features * width)
    return Sequential(
        stem=stem,
        **built,
        last=conv_norm(channels, 6 * channels, norm=norm, activation=_hard_swish),
        pool=GlobalAvgPool(),
        dense=Dense(6 * channels, features, kernel_init=_head_init),
        hard_swish=_hard_swish,
        dropout=Dropout(dropout_rate),
        head=Dense(features, num_classes, kernel_init=_head_init),
    )


def depthwise_separable(
    in_channels: int,
    out_channels: int,
    strides: int = 1,
    *,
    norm: Norm = _v1_norm,
    activation: Function = _relu6,
) -> Sequential:
    """Builds the block of MobileNet: a 3x3 depthwise convolution and a 1x1 one (Howard et al. 2017, figure 3, right).

    Args:
      in_channels: channels of the input.
      out_channels: channels of the output.
      strides: strides of the depthwise convolution; above 1 it is padded with one pixel at the bottom and on the right.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.

    Returns:
      The block, with layers depthwise and pointwise.
    """
    padding = 1 if strides == 1 else ((0, 1), (0, 1))
    return Sequential(
        depthwise=conv_norm(
            in_channels,
            in_channels,
            3,
            strides,
            norm=norm,
            groups=in_channels,
            padding=padding,
            activation=activation,
        ),
        pointwise=conv_norm(in_channels, out_channels, norm=norm, activation=activation),
    )


def v3_squeeze_excite(channels: int) -> Gate:
    """Builds the squeeze-and-excitation of MobileNetV3: to a quarter, and a hard sigmoid (section 5.3).

    Args:
      channels: channels of the image.

    Returns:
      The gate, see `squeeze_excite`.
    """
    return squeeze_excite(channels, rounded_channels(channels // 4), activation=relu, gate=_hard_sigmoid)


def _check_width(model: str, width: float) -> None:
    if not 0 < width < float("inf"):
        raise ValueError(f"{model} expects a width above 0, got {width!r}")
