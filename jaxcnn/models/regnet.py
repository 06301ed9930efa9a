"""RegNet X and Y: residual networks of grouped convolutions whose widths follow a line.

Source: Radosavovic, Kosaraju, Girshick, He & Dollár, "Designing network design spaces", 2020. All padding is symmetric
and each width is rounded to a multiple of its group width as in torchvision, so that published weights fit.
"""

from collections.abc import Callable
from math import log
from typing import NamedTuple, Unpack

import jax

from jaxcnn.layers import BatchNorm, Dense, Function, GlobalAvgPool, Initializer, Residual, Sequential, identity
from jaxcnn.models.blocks import (
    Norm,
    NormOptions,
    build_stages,
    conv,
    conv_norm,
    relu,
    rounded_channels,
    sigmoid,
    squeeze_excite,
)
from jaxcnn.types import Layer

_STEM_CHANNELS = 32

_head_init = Initializer(jax.nn.initializers.normal, stddev=0.01)


class LinearRule(NamedTuple):
    """The parameters that determine the widths of a RegNet (Radosavovic et al. 2020, section 3.3).

    Attributes:
      depth: number of blocks, d.
      initial_width: channels of the first block on the line, w_0; a multiple of 8.
      slope: channels by which the line rises from a block to the next, w_a; at least 0.
      step: factor between the widths of neighbouring stages, w_m; above 1.
      group_width: channels of each group of the 3x3 convolutions, g.
    """

    depth: int
    initial_width: int
    slope: float
    step: float
    group_width: int


class Stage(NamedTuple):
    """A stage of a RegNet.

    Attributes:
      blocks: number of blocks.
      channels: channels of each.
      groups: number of channel groups of their 3x3 convolutions.
    """

    blocks: int
    channels: int
    groups: int


RULES = {
    "x_400mf": LinearRule(22, 24, 24.48, 2.54, 16),
    "x_800mf": LinearRule(16, 56, 35.73, 2.28, 16),
    "x_1_6gf": LinearRule(18, 80, 34.01, 2.25, 24),
    "x_3_2gf": LinearRule(25, 88, 26.31, 2.25, 48),
    "x_8gf": LinearRule(23, 80, 49.56, 2.88, 120),
    "x_16gf": LinearRule(22, 216, 55.59, 2.1, 128),
    "x_32gf": LinearRule(23, 320, 69.86, 2.0, 168),
    "y_400mf": LinearRule(16, 48, 27.89, 2.09, 8),
    "y_800mf": LinearRule(14, 56, 38.84, 2.4, 16),
    "y_1_6gf": LinearRule(27, 48, 20.71, 2.65, 24),
    "y_3_2gf": LinearRule(21, 80, 42.63, 2.66, 24),
    "y_8gf": LinearRule(17, 192, 76.82, 2.19, 56),
    "y_16gf": LinearRule(18, 200, 106.23, 2.48, 112),
    "y_32gf": LinearRule(20, 232, 115.89, 2.53, 232),
}
"""The published networks (figures 16 and 17; slope and step with the decimals that the paper's code has)."""


def regnet_x_400mf(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds RegNetX-400MF: 32 to 400 channels; 5,495,976 parameters. See `regnet`."""
    return regnet(RULES["x_400mf"], num_classes, squeeze=False, **options)


def regnet_x_800mf(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds RegNetX-800MF: 64 to 672 channels; 7,259,656 parameters. See `regnet`."""
    return regnet(RULES["x_800mf"], num_classes, squeeze=False, **options)


def regnet_x_1_6gf(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds RegNetX-1.6GF: 72 to 912 channels; 9,190,136 parameters. See `regnet`."""
    return regnet(RULES["x_1_6gf"], num_classes, squeeze=False, **options)


def regnet_x_3_2gf(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds RegNetX-3.2GF: 96 to 1,008 channels; 15,296,552 parameters. See `regnet`."""
    return regnet(RULES["x_3_2gf"], num_classes, squeeze=False, **options)


def regnet_x_8gf(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds RegNetX-8GF: 80 to 1,920 channels; 39,572,648 parameters. See `regnet`."""
    return regnet(RULES["x_8gf"], num_classes, squeeze=False, **options)


def regnet_x_16gf(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds RegNetX-16GF: 256 to 2,048 channels; 54,278,536 parameters. See `regnet`."""
    return regnet(RULES["x_16gf"], num_classes, squeeze=False, **options)


def regnet_x_32gf(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds RegNetX-32GF: 336 to 2,520 channels; 107,811,560 parameters. See `regnet`."""
    return regnet(RULES["x_32gf"], num_classes, squeeze=False, **options)


def regnet_y_400mf(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds RegNetY-400MF: 48 to 440 channels; 4,344,144 parameters. See `regnet`."""
    return regnet(RULES["y_400mf"], num_classes, squeeze=True, **options)


def regnet_y_800mf(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds RegNetY-800MF: 64 to 784 channels; 6,432,512 parameters. See `regnet`."""
    return regnet(RULES["y_800mf"], num_classes, squeeze=True, **options)


def regnet_y_1_6gf(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds RegNetY-1.6GF: 48 to 888 channels; 11,202,430 parameters. See `regnet`."""
    return regnet(RULES["y_1_6gf"], num_classes, squeeze=True, **options)


def regnet_y_3_2gf(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds RegNetY-3.2GF: 72 to 1,512 channels; 19,436,338 parameters. See `regnet`."""
    return regnet(RULES["y_3_2gf"], num_classes, squeeze=True, **options)


def regnet_y_8gf(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds RegNetY-8GF: 224 to 2,016 channels; 39,381,472 parameters. See `regnet`."""
    return regnet(RULES["y_8gf"], num_classes, squeeze=True, **options)


def regnet_y_16gf(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds RegNetY-16GF: 224 to 3,024 channels; 83,590,140 parameters. See `regnet`."""
    return regnet(RULES["y_16gf"], num_classes, squeeze=True, **options)


def regnet_y_32gf(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds RegNetY-32GF: 232 to 3,712 channels; 145,046,770 parameters. See `regnet`."""
    return regnet(RULES["y_32gf"], num_classes, squeeze=True, **options)


def regnet(
    rule: LinearRule,
    num_classes: int = 1000,
    *,
    squeeze: bool,
    in_channels: int = 3,
    norm: Norm = BatchNorm,
    activation: Function = relu,
    multiple: Callable[[float, int], int] = rounded_channels,
) -> Sequential:
    """Builds a RegNet (Radosavovic et al. 2020, section 3.2 and figure 3).

    Kernels start as in He et al. 2015, with variance 2 / fan_out, and the head with a deviation of 0.01, as in the
    paper's code and torchvision; the paper names no initialisation. There is neither dropout nor stochastic depth,
    which the paper leaves out to keep its training simple.

    Args:
      rule: determines the widths.
      num_classes: number of logits.
      squeeze: whether each block has a squeeze-and-excitation: RegNetY rather than RegNetX (section 5).
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
      multiple: see `stages`.

    Returns:
      The model: stem, stages from stage1 on, pool, head; parameters are named like `stage1/block0/conv1/kernel` and
      `stage1/block0/squeeze_excite/reduce/kernel`.

    Raises:
      ValueError: a number of the rule is out of range.
    """

    def block_of(groups: int) -> Callable[[int, int, int], Residual]:
        def block(in_channels: int, out_channels: int, strides: int) -> Residual:
            # A quarter of the input channels of the block (section 5), not of the channels that are squeezed.
            squeezed = round(in_channels / 4) if squeeze else 0
            return regnet_block(in_channels, out_channels, strides, groups, squeezed, norm=norm, activation=activation)

        return block

    sizes = stages(rule, multiple)
    rows = [(block_of(stage.groups), stage.blocks, stage.channels, 2) for stage in sizes]
    return Sequential(
        stem=conv_norm(in_channels, _STEM_CHANNELS, 3, 2, norm=norm, relu=activation),
        **build_stages(_STEM_CHANNELS, rows),
        pool=GlobalAvgPool(),
        head=Dense(sizes[-1].channels, num_classes, kernel_init=_head_init),
    )


def stages(rule: LinearRule, multiple: Callable[[float, int], int] = rounded_channels) -> tuple[Stage, ...]:
    """Computes the stages of a RegNet (Radosavovic et al. 2020, equations 2 to 4).

    Block j has w_0 + w_a j channels on the line; the nearest w_0 w_m^s with a whole number s, rounded to a multiple of
    8, is its width; the blocks of one width are a stage.

    Args:
      rule: determines the widths.
      multiple: rounds a width, the first argument, to a multiple of the group width, the second: as in torchvision, or
        `nearest_multiple`, as in the paper's code. Of the published networks, x_400mf, y_800mf and y_8gf differ.

    Returns:
      The stages.

    Raises:
      ValueError: a number of the rule is out of range.
    """
    if rule.depth < 1 or rule.initial_width < 8 or rule.initial_width % 8 or rule.group_width < 1:
        raise ValueError(
            "regnet expects at least one block, an initial width that is a multiple of 8 and groups of at least one "
            f"channel, got {rule}"
        )
    if rule.slope < 0 or rule.step <= 1:
        raise ValueError(f"regnet expects a slope of at least 0 and a step above 1, got {rule}")
    blocks: dict[int, int] = {}
    for j in range(rule.depth):
        on_line = rule.initial_width + rule.slope * j
        power = round(log(on_line / rule.initial_width) / log(rule.step))
        width = 8 * round(rule.initial_width * rule.step**power / 8)
        blocks[width] = blocks.get(width, 0) + 1
    result = []
    for width, number in blocks.items():
        group_width = min(rule.group_width, width)
        channels = multiple(width, group_width)
        result.append(Stage(number, channels, channels // group_width))
    return tuple(result)


def nearest_multiple(width: float, divisor: int) -> int:
    """Rounds a width to the nearest multiple, the even one of two that are equally near, as the paper's code does.

    Args:
      width: a number of channels, positive.
      divisor: the result is a multiple of it.

    Returns:
      The multiple; at least one divisor.
    """
    return max(1, round(width / divisor)) * divisor


def regnet_block(
    in_channels: int,
    out_channels: int,
    strides: int,
    groups: int,
    squeezed: int = 0,
    *,
    norm: Norm = BatchNorm,
    activation: Function = relu,
) -> Residual:
    """Builds a 1x1, a grouped 3x3 and a 1x1 convolution of one width, and a shortcut around them (figures 3c and 4).

    Args:
      in_channels: channels of the input.
      out_channels: channels of the output, and between.
      strides: strides of the 3x3 convolution and of the shortcut.
      groups: number of channel groups of the 3x3 convolution.
      squeezed: size of the hidden layer of the squeeze-and-excitation after the 3x3 convolution; at 0 there is none.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.

    Returns:
      The block, with layers conv1, norm1, relu1, conv2, norm2, relu2, squeeze_excite, conv3, norm3 and shortcut.
    """
    layers: dict[str, Layer] = {
        "conv1": conv(in_channels, out_channels),
        "norm1": norm(out_channels),
        "relu1": activation,
        "conv2": conv(out_channels, out_channels, 3, strides, groups=groups),
        "norm2": norm(out_channels),
        "relu2": activation,
    }
    if squeezed:
        layers["squeeze_excite"] = squeeze_excite(out_channels, squeezed, activation=activation, gate=sigmoid)
    layers |= {"conv3": conv(out_channels, out_channels), "norm3": norm(out_channels)}
    shortcut = identity
    if strides != 1 or in_channels != out_channels:
        shortcut = conv_norm(in_channels, out_channels, 1, strides, norm=norm)
    return Residual(Sequential(**layers), shortcut, activation)
