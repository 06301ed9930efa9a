"""Residual networks: ResNet, ResNeXt and Wide ResNet for ImageNet or small images, and ResNet-20 to -110 for CIFAR.

Source: He, Zhang, Ren & Sun, "Deep residual learning for image recognition", 2016; Xie, Girshick, Dollár, Tu & He,
"Aggregated residual transformations for deep neural networks", 2017; Zagoruyko & Komodakis, "Wide residual networks",
2016. The bottleneck has its stride on the 3x3 convolution, as torchvision does ("v1.5"), and all padding is symmetric,
so that published weights fit; those with "v1" in their name have it on the first 1x1 convolution, as the paper.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.layers import (
    BatchNorm,
    Conv,
    Dense,
    Function,
    GlobalAvgPool,
    MaxPool,
    Residual,
    Sequential,
    identity,
)
from jaxcnn.layers.initializers import he_normal_fan_out
from jaxcnn.layers.parameters import check_positive
from jaxcnn.layers.stateless import Stateless
from jaxcnn.types import Layer, Params, State
from jaxcnn.values import Partial, Value

Stem = Literal["imagenet", "cifar"]
"""7x7 convolution of stride 2 and 3x3 max pooling of stride 2; or one 3x3 convolution for images of some 32 pixels."""

_relu = Function(jax.nn.relu)


def resnet18(
    num_classes: int = 1000, *, in_channels: int = 3, stem: Stem = "imagenet", zero_init_residual: bool = False
) -> Sequential:
    """Builds ResNet-18: two basic blocks a stage; 11,689,512 parameters. See `resnet`."""
    return resnet(basic_block, (2, 2, 2, 2), num_classes, in_channels, stem, zero_init_residual)


def resnet34(
    num_classes: int = 1000, *, in_channels: int = 3, stem: Stem = "imagenet", zero_init_residual: bool = False
) -> Sequential:
    """Builds ResNet-34: 3, 4, 6 and 3 basic blocks; 21,797,672 parameters. See `resnet`."""
    return resnet(basic_block, (3, 4, 6, 3), num_classes, in_channels, stem, zero_init_residual)


def resnet50(
    num_classes: int = 1000, *, in_channels: int = 3, stem: Stem = "imagenet", zero_init_residual: bool = False
) -> Sequential:
    """Builds ResNet-50: 3, 4, 6 and 3 bottleneck blocks; 25,557,032 parameters. See `resnet`."""
    return resnet(bottleneck_block, (3, 4, 6, 3), num_classes, in_channels, stem, zero_init_residual)


def resnet101(
    num_classes: int = 1000, *, in_channels: int = 3, stem: Stem = "imagenet", zero_init_residual: bool = False
) -> Sequential:
    """Builds ResNet-101: 3, 4, 23 and 3 bottleneck blocks; 44,549,160 parameters. See `resnet`."""
    return resnet(bottleneck_block, (3, 4, 23, 3), num_classes, in_channels, stem, zero_init_residual)


def resnet152(
    num_classes: int = 1000, *, in_channels: int = 3, stem: Stem = "imagenet", zero_init_residual: bool = False
) -> Sequential:
    """Builds ResNet-152: 3, 8, 36 and 3 bottleneck blocks; 60,192,808 parameters. See `resnet`."""
    return resnet(bottleneck_block, (3, 8, 36, 3), num_classes, in_channels, stem, zero_init_residual)


def resnext50_32x4d(
    num_classes: int = 1000, *, in_channels: int = 3, stem: Stem = "imagenet", zero_init_residual: bool = False
) -> Sequential:
    """Builds ResNeXt-50: bottlenecks of 32 groups of 4 channels; 25,028,904 parameters. See `resnet`."""
    return resnet(
        bottleneck_block, (3, 4, 6, 3), num_classes, in_channels, stem, zero_init_residual, groups=32, width_per_group=4
    )


def resnext101_32x8d(
    num_classes: int = 1000, *, in_channels: int = 3, stem: Stem = "imagenet", zero_init_residual: bool = False
) -> Sequential:
    """Builds ResNeXt-101: bottlenecks of 32 groups of 8 channels; 88,791,336 parameters. See `resnet`."""
    return resnet(
        bottleneck_block,
        (3, 4, 23, 3),
        num_classes,
        in_channels,
        stem,
        zero_init_residual,
        groups=32,
        width_per_group=8,
    )


def resnext101_64x4d(
    num_classes: int = 1000, *, in_channels: int = 3, stem: Stem = "imagenet", zero_init_residual: bool = False
) -> Sequential:
    """Builds ResNeXt-101: bottlenecks of 64 groups of 4 channels; 83,455,272 parameters. See `resnet`."""
    return resnet(
        bottleneck_block,
        (3, 4, 23, 3),
        num_classes,
        in_channels,
        stem,
        zero_init_residual,
        groups=64,
        width_per_group=4,
    )


def wide_resnet50_2(
    num_classes: int = 1000, *, in_channels: int = 3, stem: Stem = "imagenet", zero_init_residual: bool = False
) -> Sequential:
    """Builds Wide ResNet-50-2: bottlenecks twice as wide; 68,883,240 parameters. See `resnet`."""
    return resnet(
        bottleneck_block, (3, 4, 6, 3), num_classes, in_channels, stem, zero_init_residual, width_per_group=128
    )


def wide_resnet101_2(
    num_classes: int = 1000, *, in_channels: int = 3, stem: Stem = "imagenet", zero_init_residual: bool = False
) -> Sequential:
    """Builds Wide ResNet-101-2: bottlenecks twice as wide; 126,886,696 parameters. See `resnet`."""
    return resnet(
        bottleneck_block, (3, 4, 23, 3), num_classes, in_channels, stem, zero_init_residual, width_per_group=128
    )


def resnet50_v1(num_classes: int = 1000, *, in_channels: int = 3) -> Sequential:
    """Builds ResNet-50 as in the paper and in Keras; 25,583,592 parameters. See `resnet_v1`."""
    return resnet_v1((3, 4, 6, 3), num_classes, in_channels)


def resnet101_v1(num_classes: int = 1000, *, in_channels: int = 3) -> Sequential:
    """Builds ResNet-101 as in the paper and in Keras; 44,601,832 parameters. See `resnet_v1`."""
    return resnet_v1((3, 4, 23, 3), num_classes, in_channels)


def resnet152_v1(num_classes: int = 1000, *, in_channels: int = 3) -> Sequential:
    """Builds ResNet-152 as in the paper and in Keras; 60,268,520 parameters. See `resnet_v1`."""
    return resnet_v1((3, 8, 36, 3), num_classes, in_channels)


def resnet20(num_classes: int = 10, *, in_channels: int = 3) -> Sequential:
    """Builds the CIFAR ResNet of 20 layers; 269,722 parameters. See `cifar_resnet`."""
    return cifar_resnet(20, num_classes, in_channels)


def resnet32(num_classes: int = 10, *, in_channels: int = 3) -> Sequential:
    """Builds the CIFAR ResNet of 32 layers; 464,154 parameters. See `cifar_resnet`."""
    return cifar_resnet(32, num_classes, in_channels)


def resnet44(num_classes: int = 10, *, in_channels: int = 3) -> Sequential:
    """Builds the CIFAR ResNet of 44 layers; 658,586 parameters. See `cifar_resnet`."""
    return cifar_resnet(44, num_classes, in_channels)


def resnet56(num_classes: int = 10, *, in_channels: int = 3) -> Sequential:
    """Builds the CIFAR ResNet of 56 layers; 853,018 parameters. See `cifar_resnet`."""
    return cifar_resnet(56, num_classes, in_channels)


def resnet110(num_classes: int = 10, *, in_channels: int = 3) -> Sequential:
    """Builds the CIFAR ResNet of 110 layers; 1,727,962 parameters. See `cifar_resnet`."""
    return cifar_resnet(110, num_classes, in_channels)


def resnet(
    block: Callable[..., Residual],
    stage_sizes: tuple[int, ...],
    num_classes: int,
    in_channels: int,
    stem: Stem,
    zero_init_residual: bool,
    *,
    groups: int = 1,
    width_per_group: int = 64,
    norm: Callable[..., BatchNorm] = BatchNorm,
) -> Sequential:
    """Builds a residual network of four stages (He et al. 2016, table 1; Xie et al. 2017, table 1).

    Args:
      block: `basic_block` or `bottleneck_block`.
      stage_sizes: number of blocks in each stage.
      num_classes: number of logits.
      in_channels: channels of the image.
      stem: "imagenet" for images of some 224 pixels, "cifar" for some 32.
      zero_init_residual: whether each block starts as its shortcut, by a zero scale in its last batch norm (Goyal et
        al. 2017, section 5.1).
      groups: number of channel groups of each 3x3 convolution; other than 1 only with `bottleneck_block`.
      width_per_group: channels of each of these groups in stage 1, which double with every stage; other than 64 only
        with `bottleneck_block`.
      norm: makes the batch norm for so many channels; `scale_init=` may come with it.

    Returns:
      The model: stem, stage1 to stage4, pool, head; parameters are named like `stage1/block0/conv1/kernel`.

    Raises:
      ValueError: the stem is unknown, or the block has no groups.
    """
    block_options: dict[str, Any] = {"zero_init_residual": zero_init_residual, "norm": norm}
    if block is bottleneck_block:
        block_options |= {"groups": groups, "width_per_group": width_per_group}
        expansion = 4
    elif (groups, width_per_group) == (1, 64):
        expansion = 1
    else:
        raise ValueError(
            f"resnet expects groups=1 and width_per_group=64 with a block other than bottleneck_block, "
            f"got {groups} and {width_per_group}"
        )
    if stem not in ("imagenet", "cifar"):
        raise ValueError(f"stem expects 'imagenet' or 'cifar', got {stem!r}")
    if stem == "imagenet":
        first = _imagenet_stem(in_channels, norm)
    else:
        first = Sequential(conv=_conv(in_channels, 64, 3), norm=norm(64), relu=_relu)
    stages = _stages(functools.partial(block, **block_options), stage_sizes, expansion)
    return Sequential(stem=first, **stages, pool=GlobalAvgPool(), head=Dense(512 * expansion, num_classes))


def resnet_v1(stage_sizes: tuple[int, ...], num_classes: int, in_channels: int) -> Sequential:
    """Builds a residual network of bottlenecks with the stride on their first convolution (He et al. 2016, table 1).

    It is Keras' form: convolutions have biases, though batch norms follow, and these have an epsilon of 1.001e-5, a
    decay of 0.99 and running variances divided by n.

    Args:
      stage_sizes: number of blocks in each stage.
      num_classes: number of logits.
      in_channels: channels of the image.

    Returns:
      The model: stem, stage1 to stage4, pool, head; named as those of `resnet`.
    """
    norm = Partial(BatchNorm, decay=0.99, epsilon=1.001e-5, unbiased=False)
    block = functools.partial(bottleneck_block, norm=norm, strided="conv1", use_bias=True)
    stages = _stages(block, stage_sizes, 4)
    stem = _imagenet_stem(in_channels, norm, use_bias=True)
    return Sequential(stem=stem, **stages, pool=GlobalAvgPool(), head=Dense(2048, num_classes))


def cifar_resnet(depth: int, num_classes: int = 10, in_channels: int = 3) -> Sequential:
    """Builds a residual network for images of some 32 pixels (He et al. 2016, section 4.2).

    Three stages of 16, 32 and 64 channels with (depth - 2) / 6 basic blocks each, and shortcuts without parameters
    (option A).

    Args:
      depth: number of layers with weights: 20, 32, 44, 56, 110 in the paper; 6 n + 2.
      num_classes: number of logits.
      in_channels: channels of the image.

    Returns:
      The model: stem, stage1 to stage3, pool, head.

    Raises:
      ValueError: the depth is not 6 n + 2.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"cifar_resnet expects a depth of 6 n + 2 layers, such as 20 or 56, got {depth}")
    stages, channels = {}, 16
    for i in range(3):
        blocks = {}
        for j in range((depth - 2) // 6):
            out_channels, strides = 16 * 2**i, 2 if i > 0 and j == 0 else 1
            around = ZeroPadShortcut(channels, out_channels, strides) if strides == 2 else identity
            blocks[f"block{j}"] = basic_block(channels, out_channels, strides, shortcut=around)
            channels = out_channels
        stages[f"stage{i + 1}"] = Sequential(**blocks)
    stem = Sequential(conv=_conv(in_channels, 16, 3), norm=BatchNorm(16), relu=_relu)
    return Sequential(stem=stem, **stages, pool=GlobalAvgPool(), head=Dense(64, num_classes))


def basic_block(
    in_channels: int,
    out_channels: int,
    strides: int = 1,
    *,
    shortcut: Layer | None = None,
    zero_init_residual: bool = False,
    norm: Callable[..., BatchNorm] = BatchNorm,
) -> Residual:
    """Builds two 3x3 convolutions and a way around them (He et al. 2016, figure 5, left).

    Args:
      in_channels: channels of the input.
      out_channels: channels of the output.
      strides: strides of the first convolution and of the shortcut.
      shortcut: the way around; if None, the identity, or a 1x1 convolution where the shape changes (option B).
      zero_init_residual: whether the last batch norm starts with a zero scale.
      norm: makes the batch norm for so many channels.

    Returns:
      The block, with layers conv1, norm1, relu, conv2, norm2 and shortcut.
    """
    body = Sequential(
        conv1=_conv(in_channels, out_channels, 3, strides),
        norm1=norm(out_channels),
        relu=_relu,
        conv2=_conv(out_channels, out_channels, 3),
        norm2=_last_norm(norm, out_channels, zero_init_residual),
    )
    return Residual(body, shortcut or _projection(in_channels, out_channels, strides, norm), _relu)


def bottleneck_block(
    in_channels: int,
    out_channels: int,
    strides: int = 1,
    *,
    shortcut: Layer | None = None,
    zero_init_residual: bool = False,
    groups: int = 1,
    width_per_group: int = 64,
    norm: Callable[..., BatchNorm] = BatchNorm,
    strided: Literal["conv1", "conv2"] = "conv2",
    use_bias: bool = False,
) -> Residual:
    """Builds a 1x1, a 3x3 and a 1x1 convolution and a way around them (He et al. 2016, figure 5, right).

    With groups it is the block of ResNeXt (Xie et al. 2017, figure 3c).

    Args:
      in_channels: channels of the input.
      out_channels: channels of the output; the 3x3 convolution has a quarter of them times groups * width_per_group /
        64, which is groups * width_per_group for 256.
      strides: strides of one convolution and of the shortcut.
      shortcut: the way around; if None, the identity, or a 1x1 convolution where the shape changes (option B).
      zero_init_residual: whether the last batch norm starts with a zero scale.
      groups: number of channel groups of the 3x3 convolution.
      width_per_group: channels of each group where the output has 256.
      norm: makes the batch norm for so many channels.
      strided: the convolution that has the strides: "conv2", the 3x3 one, or "conv1", as in the paper.
      use_bias: whether the convolutions have biases.

    Returns:
      The block, with layers conv1, norm1, relu1, conv2, norm2, relu2, conv3, norm3 and shortcut.

    Raises:
      ValueError: the width of a group would be no whole number, or `strided` is neither of the two.
    """
    if strided not in ("conv1", "conv2"):
        raise ValueError(f"bottleneck_block expects strided 'conv1' or 'conv2', got {strided!r}")
    if out_channels // 4 * width_per_group % 64:
        raise ValueError(
            "bottleneck_block expects out_channels / 4 * width_per_group to be a multiple of 64, "
            f"got out_channels={out_channels} and width_per_group={width_per_group}"
        )
    width = out_channels // 4 * width_per_group // 64 * groups
    first, second = (strides, 1) if strided == "conv1" else (1, strides)
    body = Sequential(
        conv1=_conv(in_channels, width, 1, first, use_bias=use_bias),
        norm1=norm(width),
        relu1=_relu,
        conv2=_conv(width, width, 3, second, groups, use_bias=use_bias),
        norm2=norm(width),
        relu2=_relu,
        conv3=_conv(width, out_channels, 1, use_bias=use_bias),
        norm3=_last_norm(norm, out_channels, zero_init_residual),
    )
    return Residual(body, shortcut or _projection(in_channels, out_channels, strides, norm, use_bias), _relu)


@dataclass(frozen=True, repr=False)
class ZeroPadShortcut(Stateless, Value):
    """Takes every n-th pixel and adds channels of zeros: a shortcut without parameters (option A).

    Attributes:
      in_channels: channels of the input.
      out_channels: channels of the output; the new ones come last.
      strides: distance between the pixels taken.
    """

    in_channels: int
    out_channels: int
    strides: int

    def __post_init__(self) -> None:
        check_positive("ZeroPadShortcut", "in_channels", self.in_channels)
        check_positive("ZeroPadShortcut", "strides", self.strides)
        if self.out_channels < self.in_channels:
            raise ValueError(
                f"ZeroPadShortcut expects at least as many output channels as the {self.in_channels} of the input, "
                f"got {self.out_channels}"
            )

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Shrinks and pads one image (height, width, in_channels)."""
        del params, train, key
        if x.ndim != 3 or x.shape[2] != self.in_channels:
            raise ValueError(
                f"ZeroPadShortcut expects one image of shape (height, width, {self.in_channels}), got {x.shape}"
            )
        taken = lax.slice(x, (0, 0, 0), x.shape, (self.strides, self.strides, 1))
        return jnp.pad(taken, ((0, 0), (0, 0), (0, self.out_channels - self.in_channels))), state


def _conv(
    in_channels: int, out_channels: int, kernel_size: int, strides: int = 1, groups: int = 1, use_bias: bool = False
) -> Conv:
    return Conv(
        in_channels,
        out_channels,
        kernel_size,
        strides,
        padding=kernel_size // 2,
        groups=groups,
        use_bias=use_bias,
        kernel_init=he_normal_fan_out,
    )


def _last_norm(norm: Callable[..., BatchNorm], channels: int, zero_init: bool) -> BatchNorm:
    return norm(channels, scale_init=jax.nn.initializers.zeros) if zero_init else norm(channels)


def _projection(
    in_channels: int, out_channels: int, strides: int, norm: Callable[..., BatchNorm], use_bias: bool = False
) -> Layer:
    if strides == 1 and in_channels == out_channels:
        return identity
    return Sequential(conv=_conv(in_channels, out_channels, 1, strides, use_bias=use_bias), norm=norm(out_channels))


def _imagenet_stem(in_channels: int, norm: Callable[..., BatchNorm], use_bias: bool = False) -> Sequential:
    return Sequential(
        conv=_conv(in_channels, 64, 7, strides=2, use_bias=use_bias),
        norm=norm(64),
        relu=_relu,
        pool=MaxPool(3, strides=2, padding=1),
    )


def _stages(block: Callable[..., Residual], stage_sizes: tuple[int, ...], expansion: int) -> dict[str, Sequential]:
    stages, channels = {}, 64
    for i, blocks in enumerate(stage_sizes):
        out_channels = 64 * 2**i * expansion
        first = block(channels, out_channels, 1 if i == 0 else 2)
        others = (block(out_channels, out_channels) for _ in range(1, blocks))
        stages[f"stage{i + 1}"] = Sequential(**{f"block{j}": layer for j, layer in enumerate((first, *others))})
        channels = out_channels
    return stages
