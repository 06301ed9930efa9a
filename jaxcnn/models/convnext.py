"""ConvNeXt: a residual network with the macro design of a vision transformer.

Source: Liu, Mao, Wu, Feichtenhofer, Darrell & Xie, "A ConvNet for the 2020s", 2022.
"""

from typing import Unpack

import jax

from jaxcnn import ops
from jaxcnn.layers import (
    Conv,
    Dense,
    Function,
    GlobalAvgPool,
    Initializer,
    LayerNorm,
    LayerScale,
    Residual,
    Sequential,
)
from jaxcnn.models.blocks import Norm, NormOptions, drop_path_layer, drop_path_rates

# The paper's code cuts this normal distribution off at -2 and 2. That is a hundred standard deviations: no effect.
_init = Initializer(jax.nn.initializers.normal, stddev=0.02)
_gelu = Function(ops.gelu)


def convnext_tiny(num_classes: int = 1000, *, drop_path: float = 0.1, **options: Unpack[NormOptions]) -> Sequential:
    """Builds ConvNeXt-T: 96 to 768 channels; 28,589,128 parameters. See `convnext`."""
    return convnext((3, 3, 9, 3), (96, 192, 384, 768), num_classes, drop_path=drop_path, **options)


def convnext_small(num_classes: int = 1000, *, drop_path: float = 0.4, **options: Unpack[NormOptions]) -> Sequential:
    """Builds ConvNeXt-S: 96 to 768 channels; 50,223,688 parameters. See `convnext`."""
    return convnext((3, 3, 27, 3), (96, 192, 384, 768), num_classes, drop_path=drop_path, **options)


def convnext_base(num_classes: int = 1000, *, drop_path: float = 0.5, **options: Unpack[NormOptions]) -> Sequential:
    """Builds ConvNeXt-B: 128 to 1,024 channels; 88,591,464 parameters. See `convnext`."""
    return convnext((3, 3, 27, 3), (128, 256, 512, 1024), num_classes, drop_path=drop_path, **options)


def convnext_large(num_classes: int = 1000, *, drop_path: float = 0.5, **options: Unpack[NormOptions]) -> Sequential:
    """Builds ConvNeXt-L: 192 to 1,536 channels; 197,767,336 parameters. See `convnext`."""
    return convnext((3, 3, 27, 3), (192, 384, 768, 1536), num_classes, drop_path=drop_path, **options)


def convnext(
    stage_sizes: tuple[int, ...],
    channels: tuple[int, ...],
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    norm: Norm = LayerNorm,
    activation: Function = _gelu,
    drop_path: float = 0.1,
) -> Sequential:
    """Builds a ConvNeXt (Liu et al. 2022, section 3 and table 9).

    A stem of 4x4 patches; from the second one on, a stage starts with a layer norm and a 2x2 convolution that halve
    the image.

    Args:
      stage_sizes: number of blocks in each stage.
      channels: channels of each stage.
      num_classes: number of logits.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels in the maps; the pooled features have a layer norm.
      activation: the nonlinearity.
      drop_path: probability of skipping the last block in training, in [0, 1); it rises linearly from zero for the
        first one (Huang et al. 2016, section 3).

    Returns:
      The model: stem, stages from stage1 on, pool, norm, head; parameters are named like
      `stage2/downsample/conv/kernel` and `stage2/block0/layer_scale/scale`.

    Raises:
      ValueError: there are not as many stages as channels, or the rate is outside [0, 1).
    """
    if len(stage_sizes) != len(channels):
        raise ValueError(
            f"convnext expects as many channels as stages, got {len(channels)} for {len(stage_sizes)} stages"
        )
    rates, stages = iter(drop_path_rates("convnext", drop_path, sum(stage_sizes))), {}
    for i, (blocks, width) in enumerate(zip(stage_sizes, channels, strict=True)):
        layers = {}
        if i > 0:
            layers["downsample"] = Sequential(norm=norm(channels[i - 1]), conv=_patches(channels[i - 1], width, 2))
        for j in range(blocks):
            layers[f"block{j}"] = convnext_block(width, next(rates), norm=norm, activation=activation)
        stages[f"stage{i + 1}"] = Sequential(**layers)
    return Sequential(
        stem=Sequential(conv=_patches(in_channels, channels[0], 4), norm=norm(channels[0])),
        **stages,
        pool=GlobalAvgPool(),
        norm=LayerNorm(channels[-1]),
        head=Dense(channels[-1], num_classes, kernel_init=_init),
    )


def convnext_block(
    channels: int, drop_path: float = 0.0, *, norm: Norm = LayerNorm, activation: Function = _gelu
) -> Residual:
    """Builds a 7x7 depthwise convolution, two dense layers of each pixel, and a shortcut around them (figure 4).

    Args:
      channels: channels of the input and of the output; there are four times as many between.
      drop_path: probability of skipping the block in training, in [0, 1); see `drop_path_layer`.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.

    Returns:
      The block, with layers conv, norm, expand, gelu, project, layer_scale and drop_path.
    """
    body = Sequential(
        conv=Conv(channels, channels, 7, padding=3, groups=channels, kernel_init=_init),
        norm=norm(channels),
        expand=Dense(channels, 4 * channels, kernel_init=_init),
        gelu=activation,
        project=Dense(4 * channels, channels, kernel_init=_init),
        layer_scale=LayerScale(channels),
        **drop_path_layer(drop_path),
    )
    return Residual(body)


def _patches(in_channels: int, out_channels: int, size: int) -> Conv:
    return Conv(in_channels, out_channels, size, size, "VALID", kernel_init=_init)
