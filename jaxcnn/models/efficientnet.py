"""EfficientNets: networks of inverted residuals, scaled in width, depth and image size together.

Source: Tan & Le, "EfficientNet: rethinking model scaling for convolutional neural networks", 2019; Tan & Le,
"EfficientNetV2: smaller models and faster training", 2021. The batch norms are by default those of torchvision's
models, which differ between the variants.
"""

import functools
import math
from typing import NamedTuple, Unpack

import jax

from jaxcnn.layers import BatchNorm, Dense, Dropout, Function, GlobalAvgPool, Initializer, Residual, Sequential
from jaxcnn.models.blocks import (
    Norm,
    Options,
    PaddingRule,
    build_stages,
    check_padding,
    conv_norm,
    inverted_residual,
    residual_where_the_shape_stays,
    rounded_channels,
    sigmoid,
    silu,
    squeeze_excite,
)
from jaxcnn.ops.check import check_rate
from jaxcnn.values import Partial


class Stage(NamedTuple):
    """A row of the tables of the EfficientNets.

    Attributes:
      fused: whether its blocks have one dense convolution in place of an expanding and a depthwise one.
      expansion: ratio of the channels inside a block to those of its input.
      kernel_size: height and width of the kernel, in taps.
      strides: strides of the first block.
      out_channels: channels of the output.
      blocks: number of blocks.
    """

    fused: bool
    expansion: int
    kernel_size: int
    strides: int
    out_channels: int
    blocks: int


_B0 = (
    Stage(False, 1, 3, 1, 16, 1),
    Stage(False, 6, 3, 2, 24, 2),
    Stage(False, 6, 5, 2, 40, 2),
    Stage(False, 6, 3, 2, 80, 3),
    Stage(False, 6, 5, 1, 112, 3),
    Stage(False, 6, 5, 2, 192, 4),
    Stage(False, 6, 3, 1, 320, 1),
)
"""EfficientNet-B0, which the others are scaled from (Tan & Le 2019, table 1)."""

_V2_S = (
    Stage(True, 1, 3, 1, 24, 2),
    Stage(True, 4, 3, 2, 48, 4),
    Stage(True, 4, 3, 2, 64, 4),
    Stage(False, 4, 3, 2, 128, 6),
    Stage(False, 6, 3, 1, 160, 9),
    Stage(False, 6, 3, 2, 256, 15),
)
"""EfficientNetV2-S (Tan & Le 2021, table 4)."""

_V2_M = (
    Stage(True, 1, 3, 1, 24, 3),
    Stage(True, 4, 3, 2, 48, 5),
    Stage(True, 4, 3, 2, 80, 5),
    Stage(False, 4, 3, 2, 160, 7),
    Stage(False, 6, 3, 1, 176, 14),
    Stage(False, 6, 3, 2, 304, 18),
    Stage(False, 6, 3, 1, 512, 5),
)
"""EfficientNetV2-M, scaled up from S (section 3.3); the sizes are those of the paper's code."""

_V2_L = (
    Stage(True, 1, 3, 1, 32, 4),
    Stage(True, 4, 3, 2, 64, 7),
    Stage(True, 4, 3, 2, 96, 7),
    Stage(False, 4, 3, 2, 192, 10),
    Stage(False, 6, 3, 1, 224, 19),
    Stage(False, 6, 3, 2, 384, 25),
    Stage(False, 6, 3, 1, 640, 7),
)
"""EfficientNetV2-L, likewise."""

# A uniform distribution up to 1 / sqrt(num_classes), as in the papers' code.
_head_init = Initializer(jax.nn.initializers.variance_scaling, scale=1 / 3, mode="fan_out", distribution="uniform")
_slow_norm = Partial(BatchNorm, decay=0.99, epsilon=1e-3)
_v2_norm = Partial(BatchNorm, epsilon=1e-3)


class EfficientOptions(Options, total=False):
    """Options of `efficientnet` that have the same defaults in all variants."""

    drop_path: float
    padding: PaddingRule


def efficientnet_b0(
    num_classes: int = 1000, *, norm: Norm = BatchNorm, dropout_rate: float = 0.2, **options: Unpack[EfficientOptions]
) -> Sequential:
    """Builds EfficientNet-B0 for 224 pixels; 5,288,548 parameters. See `efficientnet_v1`."""
    return efficientnet_v1(1.0, 1.0, num_classes, norm=norm, dropout_rate=dropout_rate, **options)


def efficientnet_b1(
    num_classes: int = 1000, *, norm: Norm = BatchNorm, dropout_rate: float = 0.2, **options: Unpack[EfficientOptions]
) -> Sequential:
    """Builds EfficientNet-B1 for 240 pixels; 7,794,184 parameters. See `efficientnet_v1`."""
    return efficientnet_v1(1.0, 1.1, num_classes, norm=norm, dropout_rate=dropout_rate, **options)


def efficientnet_b2(
    num_classes: int = 1000, *, norm: Norm = BatchNorm, dropout_rate: float = 0.3, **options: Unpack[EfficientOptions]
) -> Sequential:
    """Builds EfficientNet-B2 for 260 pixels; 9,109,994 parameters. See `efficientnet_v1`."""
    return efficientnet_v1(1.1, 1.2, num_classes, norm=norm, dropout_rate=dropout_rate, **options)


def efficientnet_b3(
    num_classes: int = 1000, *, norm: Norm = BatchNorm, dropout_rate: float = 0.3, **options: Unpack[EfficientOptions]
) -> Sequential:
    """Builds EfficientNet-B3 for 300 pixels; 12,233,232 parameters. See `efficientnet_v1`."""
    return efficientnet_v1(1.2, 1.4, num_classes, norm=norm, dropout_rate=dropout_rate, **options)


def efficientnet_b4(
    num_classes: int = 1000, *, norm: Norm = BatchNorm, dropout_rate: float = 0.4, **options: Unpack[EfficientOptions]
) -> Sequential:
    """Builds EfficientNet-B4 for 380 pixels; 19,341,616 parameters. See `efficientnet_v1`."""
    return efficientnet_v1(1.4, 1.8, num_classes, norm=norm, dropout_rate=dropout_rate, **options)


def efficientnet_b5(
    num_classes: int = 1000, *, norm: Norm = _slow_norm, dropout_rate: float = 0.4, **options: Unpack[EfficientOptions]
) -> Sequential:
    """Builds EfficientNet-B5 for 456 pixels; 30,389,784 parameters. See `efficientnet_v1`."""
    return efficientnet_v1(1.6, 2.2, num_classes, norm=norm, dropout_rate=dropout_rate, **options)


def efficientnet_b6(
    num_classes: int = 1000, *, norm: Norm = _slow_norm, dropout_rate: float = 0.5, **options: Unpack[EfficientOptions]
) -> Sequential:
    """Builds EfficientNet-B6 for 528 pixels; 43,040,704 parameters. See `efficientnet_v1`."""
    return efficientnet_v1(1.8, 2.6, num_classes, norm=norm, dropout_rate=dropout_rate, **options)


def efficientnet_b7(
    num_classes: int = 1000, *, norm: Norm = _slow_norm, dropout_rate: float = 0.5, **options: Unpack[EfficientOptions]
) -> Sequential:
    """Builds EfficientNet-B7 for 600 pixels; 66,347,960 parameters. See `efficientnet_v1`."""
    return efficientnet_v1(2.0, 3.1, num_classes, norm=norm, dropout_rate=dropout_rate, **options)


def efficientnet_v2_s(
    num_classes: int = 1000, *, dropout_rate: float = 0.3, norm: Norm = _v2_norm, **options: Unpack[EfficientOptions]
) -> Sequential:
    """Builds EfficientNetV2-S for 384 pixels; 21,458,488 parameters. See `efficientnet`.

    The rates are those of the last and largest images in training (Tan & Le 2021, table 6 and section 5.1).
    """
    return efficientnet(_V2_S, 24, 1280, num_classes, norm=norm, dropout_rate=dropout_rate, **options)


def efficientnet_v2_m(
    num_classes: int = 1000, *, dropout_rate: float = 0.4, norm: Norm = _v2_norm, **options: Unpack[EfficientOptions]
) -> Sequential:
    """Builds EfficientNetV2-M for 480 pixels; 54,139,356 parameters. See `efficientnet`.

    The rates are those of the last and largest images in training (Tan & Le 2021, table 6 and section 5.1).
    """
    return efficientnet(_V2_M, 24, 1280, num_classes, norm=norm, dropout_rate=dropout_rate, **options)


def efficientnet_v2_l(
    num_classes: int = 1000, *, dropout_rate: float = 0.5, norm: Norm = _v2_norm, **options: Unpack[EfficientOptions]
) -> Sequential:
    """Builds EfficientNetV2-L for 480 pixels; 118,515,272 parameters. See `efficientnet`.

    The rates are those of the last and largest images in training (Tan & Le 2021, table 6 and section 5.1).
    """
    return efficientnet(_V2_L, 32, 1280, num_classes, norm=norm, dropout_rate=dropout_rate, **options)


def efficientnet_v1(
    width: float,
    depth: float,
    num_classes: int = 1000,
    *,
    norm: Norm = BatchNorm,
    dropout_rate: float = 0.2,
    **options: Unpack[EfficientOptions],
) -> Sequential:
    """Builds an EfficientNet scaled up from B0 (Tan & Le 2019, section 3.3 and table 1).

    Dropout rises with the size of the model, from 0.2 to 0.5; the rate of skipped blocks is 0.2 in all (section 5.2).

    Args:
      width: multiplies all numbers of channels, which are then rounded to multiples of 8.
      depth: multiplies the number of blocks in each stage, which is then rounded up.
      num_classes: number of logits.
      norm: makes the normalisation for a number of channels.
      dropout_rate: probability of dropping a feature before the head, in [0, 1).
      **options: see `efficientnet`.

    Returns:
      The model, see `efficientnet`.

    Raises:
      ValueError: the padding is unknown, or a rate is outside [0, 1).
    """
    stages = tuple(
        stage._replace(
            out_channels=rounded_channels(stage.out_channels * width), blocks=math.ceil(stage.blocks * depth)
        )
        for stage in _B0
    )
    stem_channels, features = rounded_channels(32 * width), rounded_channels(1280 * width)
    return efficientnet(stages, stem_channels, features, num_classes, norm=norm, dropout_rate=dropout_rate, **options)


def efficientnet(
    stages: tuple[Stage, ...],
    stem_channels: int,
    features: int,
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    norm: Norm = BatchNorm,
    activation: Function = silu,
    dropout_rate: float = 0.2,
    drop_path: float = 0.2,
    padding: PaddingRule = "symmetric",
) -> Sequential:
    """Builds an EfficientNet of either version from its table.

    Args:
      stages: the stages.
      stem_channels: channels after the first convolution.
      features: channels after the last one.
      num_classes: number of logits.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
      dropout_rate: probability of dropping a feature before the head, in [0, 1).
      drop_path: in [0, 1); of n blocks, block i, counted from 0, is skipped in training with a probability of
        i / n times this, if it is a residual one (Huang et al. 2016, section 3, as in the papers' code).
      padding: "symmetric" as torchvision pads, or "same" as TensorFlow and Keras do.

    Returns:
      The model: stem, stages from stage1 on, last, pool, dropout, head; parameters are named like
      `stage2/block0/expand/conv/kernel`.

    Raises:
      ValueError: the padding is unknown, or a rate is outside [0, 1).
    """
    check_rate("efficientnet", drop_path)
    check_padding("efficientnet", padding)
    options = {"norm": norm, "activation": activation, "padding": padding}
    rows = [
        (
            functools.partial(
                fused_block if stage.fused else mbconv_block,
                expansion=stage.expansion,
                kernel_size=stage.kernel_size,
                **options,
            ),
            stage.blocks,
            stage.out_channels,
            stage.strides,
        )
        for stage in stages
    ]
    total = sum(stage.blocks for stage in stages)
    return Sequential(
        stem=conv_norm(in_channels, stem_channels, 3, 2, norm=norm, padding=padding, activation=activation),
        **build_stages(stem_channels, rows, [drop_path * i / total for i in range(total)]),
        last=conv_norm(stages[-1].out_channels, features, norm=norm, activation=activation),
        pool=GlobalAvgPool(),
        dropout=Dropout(dropout_rate),
        head=Dense(features, num_classes, kernel_init=_head_init),
    )


def mbconv_block(
    in_channels: int,
    out_channels: int,
    strides: int = 1,
    *,
    expansion: int = 6,
    kernel_size: int = 3,
    norm: Norm = BatchNorm,
    activation: Function = silu,
    drop_path: float = 0.0,
    padding: PaddingRule = "symmetric",
) -> Residual | Sequential:
    """Builds an inverted residual with a squeeze-and-excitation to a quarter of its input's channels (MBConv).

    Args:
      in_channels: channels of the input.
      out_channels: channels of the output.
      strides: strides of the depthwise convolution.
      expansion: ratio of the channels of the depthwise convolution to those of the input; at 1 there is no convolution
        before it.
      kernel_size: height and width of the depthwise kernel, in taps; odd.
      norm: makes the normalisation after each convolution.
      activation: the nonlinearity.
      drop_path: probability of skipping a residual block in training, in [0, 1); see `drop_path_layer`.
      padding: how images are padded; see `PaddingRule`.

    Returns:
      The block, with layers expand, depthwise, squeeze_excite, project and drop_path; it is residual if input and
      output have the same shape (Tan & Le 2021, figure 2, left).
    """
    hidden = in_channels * expansion
    return inverted_residual(
        in_channels,
        hidden,
        out_channels,
        strides,
        activation=activation,
        kernel_size=kernel_size,
        gate=squeeze_excite(hidden, max(1, in_channels // 4), activation=activation, gate=sigmoid),
        drop_path=drop_path,
        norm=norm,
        padding=padding,
    )


def fused_block(
    in_channels: int,
    out_channels: int,
    strides: int = 1,
    *,
    expansion: int = 4,
    kernel_size: int = 3,
    norm: Norm = BatchNorm,
    activation: Function = silu,
    drop_path: float = 0.0,
    padding: PaddingRule = "symmetric",
) -> Residual | Sequential:
    """Builds a dense convolution to more channels and a linear 1x1 one back to few channels (Fused-MBConv).

    Args:
      in_channels: channels of the input.
      out_channels: channels of the output.
      strides: strides of the first convolution.
      expansion: ratio of the channels of the first convolution to those of the input; at 1 it is the only one, with an
        activation.
      kernel_size: height and width of its kernel, in taps; odd.
      norm: makes the normalisation after each convolution.
      activation: the nonlinearity.
      drop_path: probability of skipping a residual block in training, in [0, 1); see `drop_path_layer`.
      padding: how images are padded; see `PaddingRule`.

    Returns:
      The block, with layers expand, project and drop_path, without expand at an expansion of 1; it is residual if input
      and output have the same shape (Tan & Le 2021, figure 2, right, without squeeze-and-excitation, as in table 4).
    """
    hidden = in_channels * expansion
    whole = conv_norm(
        in_channels,
        out_channels if expansion == 1 else hidden,
        kernel_size,
        strides,
        norm=norm,
        padding=padding,
        activation=activation,
    )
    layers = (
        {"project": whole}
        if expansion == 1
        else {"expand": whole, "project": conv_norm(hidden, out_channels, norm=norm)}
    )
    return residual_where_the_shape_stays(layers, in_channels, out_channels, strides, drop_path)
