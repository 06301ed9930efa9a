"""Residual networks whose blocks begin with batch norm and ReLU: ResNet v2, and wide ones such as WRN-28-10 for CIFAR.

Source: He, Zhang, Ren & Sun, "Identity mappings in deep residual networks", 2016; Zagoruyko & Komodakis, "Wide residual
networks", 2016. ResNet v2 has the form of Keras, so that its weights fit: strides are in the last block of a stage, and
the zeros around the first max pooling count.
"""

import functools
from typing import Unpack

from jaxcnn.layers import (
    BatchNorm,
    Dense,
    Dropout,
    Function,
    GlobalAvgPool,
    MaxPool,
    Pad,
    Residual,
    Sequential,
    identity,
)
from jaxcnn.layers.parameters import check_positive
from jaxcnn.models.blocks import Norm, NormDropoutOptions, NormOptions, build_stages, conv, relu
from jaxcnn.models.resnet import keras_norm
from jaxcnn.types import Layer


def resnet50_v2(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds ResNet-50 v2: 3, 4, 6 and 3 blocks; 25,568,360 parameters. See `resnet_v2`."""
    return resnet_v2((3, 4, 6, 3), num_classes, **options)


def resnet101_v2(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds ResNet-101 v2: 3, 4, 23 and 3 blocks; 44,577,896 parameters. See `resnet_v2`."""
    return resnet_v2((3, 4, 23, 3), num_classes, **options)


def resnet152_v2(num_classes: int = 1000, **options: Unpack[NormOptions]) -> Sequential:
    """Builds ResNet-152 v2: 3, 8, 36 and 3 blocks; 60,236,904 parameters. See `resnet_v2`."""
    return resnet_v2((3, 8, 36, 3), num_classes, **options)


def wrn_28_10(num_classes: int = 10, **options: Unpack[NormDropoutOptions]) -> Sequential:
    """Builds WRN-28-10: 28 layers, ten times as wide as ResNet-20; 36,479,194 parameters. See `wide_resnet`."""
    return wide_resnet(28, 10, num_classes, **options)


def resnet_v2(
    stage_sizes: tuple[int, ...],
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    norm: Norm = keras_norm,
    activation: Function = relu,
) -> Sequential:
    """Builds a residual network of bottlenecks with batch norm and ReLU first (He et al. 2016, figure 4e, table 3).

    Batch norms have an epsilon of 1.001e-5, a decay of 0.99 and running variances divided by n, as in Keras.

    Args:
      stage_sizes: number of blocks in each stage.
      num_classes: number of logits.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.

    Returns:
      The model: stem, stage1 to stage4, norm, relu, pool, head; parameters are named like
      `stage1/block1/conv1/kernel`, those of a stage's first block like `stage1/block0/residual/conv1/kernel`.
    """
    stem = Sequential(conv=conv(in_channels, 64, 7, 2, use_bias=True), pad=Pad(1), pool=MaxPool(3, strides=2))
    stages, channels = {}, 64
    for i, blocks in enumerate(stage_sizes):
        width = 64 * 2**i
        layers: dict[str, Layer] = {"block0": _first_bottleneck(channels, width, norm, activation)}
        channels = 4 * width
        for j in range(1, blocks):
            strides = 2 if j == blocks - 1 and i < len(stage_sizes) - 1 else 1
            convolutions = _bottleneck(channels, width, strides, norm, activation)
            body = Sequential(norm0=norm(channels), relu0=activation, **convolutions)
            layers[f"block{j}"] = Residual(body, identity if strides == 1 else MaxPool(1, strides=strides))
        stages[f"stage{i + 1}"] = Sequential(**layers)
    return Sequential(
        stem=stem,
        **stages,
        norm=norm(channels),
        relu=activation,
        pool=GlobalAvgPool(),
        head=Dense(channels, num_classes),
    )


def wide_resnet(
    depth: int,
    width: int,
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    norm: Norm = BatchNorm,
    activation: Function = relu,
    dropout_rate: float = 0.0,
) -> Sequential:
    """Builds a wide residual network for images of about 32 pixels (Zagoruyko & Komodakis 2016, table 1).

    Args:
      depth: number of layers with weights, 6 n + 4: 28 has four blocks in each of three stages.
      width: factor on the 16, 32 and 64 channels of the stages.
      num_classes: number of logits.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
      dropout_rate: probability of dropping a value between the convolutions of a block, in [0, 1): 0 or 0.3 in section
        3.4, which draws for each value.

    Returns:
      The model: stem, stage1 to stage3, norm, relu, pool, head.

    Raises:
      ValueError: the depth is not 6 n + 4, the width not positive, or the rate outside [0, 1).
    """
    check_positive("wide_resnet", "width", width)
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"wide_resnet expects a depth of 6 n + 4 layers, such as 16 or 28, got {depth}")
    block = functools.partial(_wide_block, norm=norm, activation=activation, dropout_rate=dropout_rate)
    blocks = (depth - 4) // 6
    rows = [(block, blocks, 16 * width, 1), (block, blocks, 32 * width, 2), (block, blocks, 64 * width, 2)]
    return Sequential(
        stem=conv(in_channels, 16, 3),
        **build_stages(16, rows),
        norm=norm(64 * width),
        relu=activation,
        pool=GlobalAvgPool(),
        head=Dense(64 * width, num_classes),
    )


def _first_bottleneck(in_channels: int, width: int, norm: Norm, activation: Function) -> Sequential:
    """Builds the first block of a stage, whose projection also takes the result of the first norm and activation."""
    projection = Sequential(conv=conv(in_channels, 4 * width, 1, use_bias=True))
    body = Sequential(**_bottleneck(in_channels, width, 1, norm, activation))
    return Sequential(norm=norm(in_channels), relu=activation, residual=Residual(body, projection))


def _bottleneck(in_channels: int, width: int, strides: int, norm: Norm, activation: Function) -> dict[str, Layer]:
    return {
        "conv1": conv(in_channels, width, 1),
        "norm1": norm(width),
        "relu1": activation,
        "conv2": conv(width, width, 3, strides),
        "norm2": norm(width),
        "relu2": activation,
        "conv3": conv(width, 4 * width, 1, use_bias=True),
    }


def _wide_block(
    in_channels: int, out_channels: int, strides: int, *, norm: Norm, activation: Function, dropout_rate: float
) -> Layer:
    layers: dict[str, Layer] = {
        "conv1": conv(in_channels, out_channels, 3, strides),
        "norm2": norm(out_channels),
        "relu2": activation,
        "dropout": Dropout(dropout_rate),
        "conv2": conv(out_channels, out_channels, 3),
    }
    if in_channels == out_channels:
        return Residual(Sequential(norm1=norm(in_channels), relu1=activation, **layers))
    residual = Residual(Sequential(**layers), Sequential(conv=conv(in_channels, out_channels, 1, strides)))
    return Sequential(norm1=norm(in_channels), relu1=activation, residual=residual)
