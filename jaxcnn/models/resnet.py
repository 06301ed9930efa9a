"""Residual networks: ResNet, ResNeXt and Wide ResNet for ImageNet or small images, and ResNet-20 to -110 for CIFAR.

Source: He, Zhang, Ren & Sun, "Deep residual learning for image recognition", 2016; Xie, Girshick, Dollár, Tu & He,
"Aggregated residual transformations for deep neural networks", 2017; Zagoruyko & Komodakis, "Wide residual networks",
2016. The bottleneck has its stride on the 3x3 convolution, as in torchvision ("v1.5"), and all padding is symmetric, so
that published weights fit. Models with "v1" in their name have it on the first 1x1 convolution, as in the paper.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.layers import (
    BatchNorm,
    Dense,
    Function,
    GlobalAvgPool,
    MaxPool,
    Residual,
    Sequential,
    identity,
)
from jaxcnn.layers.parameters import check_positive
from jaxcnn.layers.stateless import Pure
from jaxcnn.models.blocks import (
    DropPathOptions,
    Norm,
    build_stages,
    conv,
    conv_norm,
    dilated,
    drop_path_layer,
    drop_path_rates,
    relu,
    zero_scaled,
)
from jaxcnn.types import Layer
from jaxcnn.values import Partial, Value

Stem = Literal["imagenet", "cifar"]
""""imagenet": a 7x7 convolution and a 3x3 max pooling, both of stride 2. "cifar": one 3x3 convolution, for images of
about 32 pixels."""

keras_norm = Partial(BatchNorm, decay=0.99, epsilon=1.001e-5, unbiased=False)
"""The batch norm of the ResNets of Keras."""


class ResNetOptions(DropPathOptions, total=False):
    """Options of `resnet`."""

    stem: Stem
    zero_init_residual: bool
    output_stride: int


def resnet18(num_classes: int = 1000, **options: Unpack[ResNetOptions]) -> Sequential:
    """Builds ResNet-18: two basic blocks in each stage; 11,689,512 parameters. See `resnet`."""
    return resnet(basic_block, (2, 2, 2, 2), num_classes, **options)


def resnet34(num_classes: int = 1000, **options: Unpack[ResNetOptions]) -> Sequential:
    """Builds ResNet-34: 3, 4, 6 and 3 basic blocks; 21,797,672 parameters. See `resnet`."""
    return resnet(basic_block, (3, 4, 6, 3), num_classes, **options)


def resnet50(num_classes: int = 1000, **options: Unpack[ResNetOptions]) -> Sequential:
    """Builds ResNet-50: 3, 4, 6 and 3 bottleneck blocks; 25,557,032 parameters. See `resnet`."""
    return resnet(bottleneck_block, (3, 4, 6, 3), num_classes, **options)


def resnet101(num_classes: int = 1000, **options: Unpack[ResNetOptions]) -> Sequential:
    """Builds ResNet-101: 3, 4, 23 and 3 bottleneck blocks; 44,549,160 parameters. See `resnet`."""
    return resnet(bottleneck_block, (3, 4, 23, 3), num_classes, **options)


def resnet152(num_classes: int = 1000, **options: Unpack[ResNetOptions]) -> Sequential:
    """Builds ResNet-152: 3, 8, 36 and 3 bottleneck blocks; 60,192,808 parameters. See `resnet`."""
    return resnet(bottleneck_block, (3, 8, 36, 3), num_classes, **options)


def resnext50_32x4d(num_classes: int = 1000, **options: Unpack[ResNetOptions]) -> Sequential:
    """Builds ResNeXt-50: bottlenecks of 32 groups of 4 channels; 25,028,904 parameters. See `resnet`."""
    return resnet(bottleneck_block, (3, 4, 6, 3), num_classes, groups=32, width_per_group=4, **options)


def resnext101_32x8d(num_classes: int = 1000, **options: Unpack[ResNetOptions]) -> Sequential:
    """Builds ResNeXt-101: bottlenecks of 32 groups of 8 channels; 88,791,336 parameters. See `resnet`."""
    return resnet(bottleneck_block, (3, 4, 23, 3), num_classes, groups=32, width_per_group=8, **options)


def resnext101_64x4d(num_classes: int = 1000, **options: Unpack[ResNetOptions]) -> Sequential:
    """Builds ResNeXt-101: bottlenecks of 64 groups of 4 channels; 83,455,272 parameters. See `resnet`."""
    return resnet(bottleneck_block, (3, 4, 23, 3), num_classes, groups=64, width_per_group=4, **options)


def wide_resnet50_2(num_classes: int = 1000, **options: Unpack[ResNetOptions]) -> Sequential:
    """Builds Wide ResNet-50-2: bottlenecks twice as wide; 68,883,240 parameters. See `resnet`."""
    return resnet(bottleneck_block, (3, 4, 6, 3), num_classes, width_per_group=128, **options)


def wide_resnet101_2(num_classes: int = 1000, **options: Unpack[ResNetOptions]) -> Sequential:
    """Builds Wide ResNet-101-2: bottlenecks twice as wide; 126,886,696 parameters. See `resnet`."""
    return resnet(bottleneck_block, (3, 4, 23, 3), num_classes, width_per_group=128, **options)


def resnet50_v1(num_classes: int = 1000, **options: Unpack[DropPathOptions]) -> Sequential:
    """Builds ResNet-50 as in the paper and in Keras; 25,583,592 parameters. See `resnet_v1`."""
    return resnet_v1((3, 4, 6, 3), num_classes, **options)


def resnet101_v1(num_classes: int = 1000, **options: Unpack[DropPathOptions]) -> Sequential:
    """Builds ResNet-101 as in the paper and in Keras; 44,601,832 parameters. See `resnet_v1`."""
    return resnet_v1((3, 4, 23, 3), num_classes, **options)


def resnet152_v1(num_classes: int = 1000, **options: Unpack[DropPathOptions]) -> Sequential:
    """Builds ResNet-152 as in the paper and in Keras; 60,268,520 parameters. See `resnet_v1`."""
    return resnet_v1((3, 8, 36, 3), num_classes, **options)


def resnet20(num_classes: int = 10, **options: Unpack[DropPathOptions]) -> Sequential:
    """Builds the CIFAR ResNet of 20 layers; 269,722 parameters. See `cifar_resnet`."""
    return cifar_resnet(20, num_classes, **options)


def resnet32(num_classes: int = 10, **options: Unpack[DropPathOptions]) -> Sequential:
    """Builds the CIFAR ResNet of 32 layers; 464,154 parameters. See `cifar_resnet`."""
    return cifar_resnet(32, num_classes, **options)


def resnet44(num_classes: int = 10, **options: Unpack[DropPathOptions]) -> Sequential:
    """Builds the CIFAR ResNet of 44 layers; 658,586 parameters. See `cifar_resnet`."""
    return cifar_resnet(44, num_classes, **options)


def resnet56(num_classes: int = 10, **options: Unpack[DropPathOptions]) -> Sequential:
    """Builds the CIFAR ResNet of 56 layers; 853,018 parameters. See `cifar_resnet`."""
    return cifar_resnet(56, num_classes, **options)


def resnet110(num_classes: int = 10, **options: Unpack[DropPathOptions]) -> Sequential:
    """Builds the CIFAR ResNet of 110 layers; 1,727,962 parameters. See `cifar_resnet`."""
    return cifar_resnet(110, num_classes, **options)


def resnet(
    block: Callable[..., Residual],
    stage_sizes: tuple[int, ...],
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    stem: Stem = "imagenet",
    norm: Norm = BatchNorm,
    activation: Function = relu,
    drop_path: float = 0.0,
    zero_init_residual: bool = False,
    output_stride: int = 32,
    groups: int = 1,
    width_per_group: int = 64,
) -> Sequential:
    """Builds a residual network of four stages (He et al. 2016, table 1; Xie et al. 2017, table 1).

    Args:
      block: `basic_block` or `bottleneck_block`.
      stage_sizes: number of blocks in each stage.
      num_classes: number of logits.
      in_channels: channels of the image.
      stem: "imagenet" for images of about 224 pixels, "cifar" for about 32.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
      drop_path: probability of skipping the last block in training, in [0, 1); it rises linearly from zero for the
        first one (Huang et al. 2016, section 3). At 0 there is no such layer.
      zero_init_residual: whether each block starts as its shortcut, by a zero scale in its last normalisation (Goyal
        et al. 2017, section 5.1).
      output_stride: 32, or for segmentation 16 or 8: then the 3x3 convolutions of the last stages have dilation 2, or 2
        and 4, in place of strides, and the first one of each such stage the dilation before it. Weights fit all three.
      groups: number of channel groups of each 3x3 convolution; other than 1 only with `bottleneck_block`.
      width_per_group: channels of each of these groups in stage 1, which double with every stage; other than 64 only
        with `bottleneck_block`.

    Returns:
      The model: stem, stage1 to stage4, pool, head; parameters are named like `stage1/block0/conv1/kernel`.

    Raises:
      ValueError: the stem or the output stride is unknown, the block has no groups, a rate is outside [0, 1), or `norm`
        has no scale that could start at zero.
    """
    block_options: dict[str, Any] = {"zero_init_residual": zero_init_residual, "norm": norm, "activation": activation}
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
        first = _imagenet_stem(in_channels, norm, activation)
    else:
        first = conv_norm(in_channels, 64, 3, norm=norm, relu=activation)
    strides = [2 if i else 1 for i in range(len(stage_sizes))]
    strides, dilations = dilated("resnet", strides, 4 if stem == "imagenet" else 1, output_stride, (8, 16, 32))
    rows = [
        (functools.partial(block, **block_options), blocks, 64 * 2**i * expansion, strides[i])
        for i, blocks in enumerate(stage_sizes)
    ]
    stages = build_stages(64, rows, drop_path_rates("resnet", drop_path, sum(stage_sizes)), dilations)
    return Sequential(stem=first, **stages, pool=GlobalAvgPool(), head=Dense(512 * expansion, num_classes))


def resnet_v1(
    stage_sizes: tuple[int, ...],
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    norm: Norm = keras_norm,
    activation: Function = relu,
    drop_path: float = 0.0,
) -> Sequential:
    """Builds a residual network of bottlenecks with the stride on their first convolution (He et al. 2016, table 1).

    It has the form of Keras: convolutions have biases, although batch norms follow, and the batch norms have an epsilon
    of 1.001e-5, a decay of 0.99 and running variances divided by n.

    Args:
      stage_sizes: number of blocks in each stage.
      num_classes: number of logits.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
      drop_path: see `resnet`.

    Returns:
      The model: stem, stage1 to stage4, pool, head; named as those of `resnet`.
    """
    block = functools.partial(bottleneck_block, norm=norm, activation=activation, strided="conv1", use_bias=True)
    rows = [(block, blocks, 64 * 2**i * 4, 2 if i else 1) for i, blocks in enumerate(stage_sizes)]
    stages = build_stages(64, rows, drop_path_rates("resnet_v1", drop_path, sum(stage_sizes)))
    stem = _imagenet_stem(in_channels, norm, activation, use_bias=True)
    return Sequential(stem=stem, **stages, pool=GlobalAvgPool(), head=Dense(2048, num_classes))


def cifar_resnet(
    depth: int,
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    norm: Norm = BatchNorm,
    activation: Function = relu,
    drop_path: float = 0.0,
) -> Sequential:
    """Builds a residual network for images of about 32 pixels (He et al. 2016, section 4.2).

    Three stages of 16, 32 and 64 channels with (depth - 2) / 6 basic blocks each, and shortcuts without parameters
    (option A).

    Args:
      depth: number of layers with weights: 20, 32, 44, 56, 110 in the paper; 6 n + 2.
      num_classes: number of logits.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
      drop_path: see `resnet`; 0.5 for 110 layers in Huang et al. 2016, section 4.

    Returns:
      The model: stem, stage1 to stage3, pool, head.

    Raises:
      ValueError: the depth is not 6 n + 2, or the rate is outside [0, 1).
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"cifar_resnet expects a depth of 6 n + 2 layers, such as 20 or 56, got {depth}")

    def block(in_channels: int, out_channels: int, strides: int, drop_path: float) -> Residual:
        shortcut = identity if strides == 1 else ZeroPadShortcut(in_channels, out_channels, strides)
        return basic_block(
            in_channels,
            out_channels,
            strides,
            shortcut=shortcut,
            norm=norm,
            activation=activation,
            drop_path=drop_path,
        )

    blocks = (depth - 2) // 6
    rates = drop_path_rates("cifar_resnet", drop_path, 3 * blocks)
    stages = build_stages(16, [(block, blocks, 16, 1), (block, blocks, 32, 2), (block, blocks, 64, 2)], rates)
    stem = conv_norm(in_channels, 16, 3, norm=norm, relu=activation)
    return Sequential(stem=stem, **stages, pool=GlobalAvgPool(), head=Dense(64, num_classes))


def basic_block(
    in_channels: int,
    out_channels: int,
    strides: int = 1,
    *,
    shortcut: Layer | None = None,
    zero_init_residual: bool = False,
    norm: Norm = BatchNorm,
    activation: Function = relu,
    drop_path: float = 0.0,
    dilation: tuple[int, int] = (1, 1),
) -> Residual:
    """Builds two 3x3 convolutions and a shortcut around them (He et al. 2016, figure 5, left).

    Args:
      in_channels: channels of the input.
      out_channels: channels of the output.
      strides: strides of the first convolution and of the shortcut.
      shortcut: if None, the identity, or a 1x1 convolution if the shape changes (option B).
      zero_init_residual: whether the last normalisation starts with a zero scale.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
      drop_path: probability of skipping the block in training, in [0, 1); see `drop_path_layer`.
      dilation: of the first and of the second convolution.

    Returns:
      The block, with layers conv1, norm1, relu, conv2, norm2, drop_path and shortcut.
    """
    body = Sequential(
        conv1=conv(in_channels, out_channels, 3, strides, dilation=dilation[0]),
        norm1=norm(out_channels),
        relu=activation,
        conv2=conv(out_channels, out_channels, 3, dilation=dilation[1]),
        norm2=_last_norm(norm, out_channels, zero_init_residual),
        **drop_path_layer(drop_path),
    )
    return Residual(body, shortcut or _projection(in_channels, out_channels, strides, norm), activation)


def bottleneck_block(
    in_channels: int,
    out_channels: int,
    strides: int = 1,
    *,
    shortcut: Layer | None = None,
    zero_init_residual: bool = False,
    groups: int = 1,
    width_per_group: int = 64,
    norm: Norm = BatchNorm,
    activation: Function = relu,
    drop_path: float = 0.0,
    dilation: tuple[int, int] = (1, 1),
    strided: Literal["conv1", "conv2"] = "conv2",
    use_bias: bool = False,
) -> Residual:
    """Builds a 1x1, a 3x3 and a 1x1 convolution and a shortcut around them (He et al. 2016, figure 5, right).

    With groups it is the block of ResNeXt (Xie et al. 2017, figure 3c).

    Args:
      in_channels: channels of the input.
      out_channels: channels of the output; the 3x3 convolution has a quarter of them times groups * width_per_group /
        64, which is groups * width_per_group for 256.
      strides: strides of one convolution and of the shortcut.
      shortcut: if None, the identity, or a 1x1 convolution if the shape changes (option B).
      zero_init_residual: whether the last normalisation starts with a zero scale.
      groups: number of channel groups of the 3x3 convolution.
      width_per_group: channels of each group where the output has 256.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
      drop_path: probability of skipping the block in training, in [0, 1); see `drop_path_layer`.
      dilation: of the 3x3 convolution, which is the first one that can have any; the second number has no effect.
      strided: the convolution that has the strides: "conv2", the 3x3 one, or "conv1", as in the paper.
      use_bias: whether the convolutions have biases.

    Returns:
      The block, with layers conv1, norm1, relu1, conv2, norm2, relu2, conv3, norm3, drop_path and
      shortcut.

    Raises:
      ValueError: the width of a group would not be an integer, or `strided` is neither of the two.
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
        conv1=conv(in_channels, width, 1, first, use_bias=use_bias),
        norm1=norm(width),
        relu1=activation,
        conv2=conv(width, width, 3, second, groups=groups, dilation=dilation[0], use_bias=use_bias),
        norm2=norm(width),
        relu2=activation,
        conv3=conv(width, out_channels, 1, use_bias=use_bias),
        norm3=_last_norm(norm, out_channels, zero_init_residual),
        **drop_path_layer(drop_path),
    )
    return Residual(body, shortcut or _projection(in_channels, out_channels, strides, norm, use_bias), activation)


@dataclass(frozen=True, repr=False)
class ZeroPadShortcut(Pure, Value):
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

    def __call__(self, x: jax.Array) -> jax.Array:
        """Shrinks and pads one image (height, width, in_channels)."""
        if x.ndim != 3 or x.shape[2] != self.in_channels:
            raise ValueError(
                f"ZeroPadShortcut expects one image of shape (height, width, {self.in_channels}), got {x.shape}"
            )
        taken = lax.slice(x, (0, 0, 0), x.shape, (self.strides, self.strides, 1))
        return jnp.pad(taken, ((0, 0), (0, 0), (0, self.out_channels - self.in_channels)))


def _last_norm(norm: Norm, channels: int, zero_init: bool) -> Layer:
    return zero_scaled(norm(channels)) if zero_init else norm(channels)


def _projection(in_channels: int, out_channels: int, strides: int, norm: Norm, use_bias: bool = False) -> Layer:
    if strides == 1 and in_channels == out_channels:
        return identity
    return conv_norm(in_channels, out_channels, 1, strides, norm=norm, use_bias=use_bias)


def _imagenet_stem(in_channels: int, norm: Norm, activation: Function, use_bias: bool = False) -> Sequential:
    pool = MaxPool(3, strides=2, padding=1)
    return conv_norm(in_channels, 64, 7, 2, norm=norm, use_bias=use_bias, relu=activation, pool=pool)
