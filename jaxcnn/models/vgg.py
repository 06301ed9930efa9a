"""VGG: stacks of 3x3 convolutions, with and without batch norm.

Source: Simonyan & Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015. The batch norm
of the `_bn` models came later (Ioffe & Szegedy 2015), in the place where torchvision puts it.
"""

from typing import Unpack

import jax

from jaxcnn.layers import (
    AdaptiveAvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Function,
    Initializer,
    MaxPool,
    Sequential,
)
from jaxcnn.models.blocks import DropoutOptions, Norm, relu
from jaxcnn.types import Layer

_CHANNELS = (64, 128, 256, 512, 512)
"""Channels of each stage (Simonyan & Zisserman 2015, table 1)."""

_A, _B, _D, _E = (1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)
"""Convolutions in each stage of the configurations of table 1."""

_glorot = Initializer(jax.nn.initializers.glorot_normal)


def vgg11(num_classes: int = 1000, *, norm: Norm | None = None, **options: Unpack[DropoutOptions]) -> Sequential:
    """Builds VGG-11, configuration A; 132,863,336 parameters. See `vgg`."""
    return vgg(_A, num_classes, norm=norm, **options)


def vgg13(num_classes: int = 1000, *, norm: Norm | None = None, **options: Unpack[DropoutOptions]) -> Sequential:
    """Builds VGG-13, configuration B; 133,047,848 parameters. See `vgg`."""
    return vgg(_B, num_classes, norm=norm, **options)


def vgg16(num_classes: int = 1000, *, norm: Norm | None = None, **options: Unpack[DropoutOptions]) -> Sequential:
    """Builds VGG-16, configuration D; 138,357,544 parameters. See `vgg`."""
    return vgg(_D, num_classes, norm=norm, **options)


def vgg19(num_classes: int = 1000, *, norm: Norm | None = None, **options: Unpack[DropoutOptions]) -> Sequential:
    """Builds VGG-19, configuration E; 143,667,240 parameters. See `vgg`."""
    return vgg(_E, num_classes, norm=norm, **options)


def vgg11_bn(num_classes: int = 1000, *, norm: Norm = BatchNorm, **options: Unpack[DropoutOptions]) -> Sequential:
    """Builds VGG-11 with batch norm; 132,868,840 parameters. See `vgg`."""
    return vgg(_A, num_classes, norm=norm, **options)


def vgg13_bn(num_classes: int = 1000, *, norm: Norm = BatchNorm, **options: Unpack[DropoutOptions]) -> Sequential:
    """Builds VGG-13 with batch norm; 133,053,736 parameters. See `vgg`."""
    return vgg(_B, num_classes, norm=norm, **options)


def vgg16_bn(num_classes: int = 1000, *, norm: Norm = BatchNorm, **options: Unpack[DropoutOptions]) -> Sequential:
    """Builds VGG-16 with batch norm; 138,365,992 parameters. See `vgg`."""
    return vgg(_D, num_classes, norm=norm, **options)


def vgg19_bn(num_classes: int = 1000, *, norm: Norm = BatchNorm, **options: Unpack[DropoutOptions]) -> Sequential:
    """Builds VGG-19 with batch norm; 143,678,248 parameters. See `vgg`."""
    return vgg(_E, num_classes, norm=norm, **options)


def vgg(
    stage_sizes: tuple[int, ...],
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    norm: Norm | None = None,
    activation: Function = relu,
    dropout_rate: float = 0.5,
) -> Sequential:
    """Builds a VGG network (Simonyan & Zisserman 2015, section 2.1 and table 1).

    Kernels start as in Glorot & Bengio 2010, with which the authors trained without pre-training (section 3.1).

    Args:
      stage_sizes: number of convolutions in each of the five stages.
      num_classes: number of logits.
      in_channels: channels of the image.
      norm: makes the normalisation after each convolution; None for none.
      activation: the nonlinearity.
      dropout_rate: probability of dropping an output of the two hidden dense layers, in [0, 1) (section 3.1).

    Returns:
      The model: stage1 to stage5, pool, flatten, dense1, relu1, dropout1, dense2, relu2, dropout2, head; parameters are
      named like `stage1/conv1/kernel`. An image has at least 32x32 pixels; if the last map is not 7x7, it is pooled
      to that size.

    Raises:
      ValueError: there are not five stages, or the rate is outside [0, 1).
    """
    if len(stage_sizes) != len(_CHANNELS):
        raise ValueError(f"vgg expects the sizes of {len(_CHANNELS)} stages, got {stage_sizes}")
    stages = {}
    for i, (convolutions, channels) in enumerate(zip(stage_sizes, _CHANNELS, strict=True), start=1):
        layers: dict[str, Layer] = {}
        for j in range(1, convolutions + 1):
            layers[f"conv{j}"] = Conv(in_channels, channels, 3, padding=1, kernel_init=_glorot)
            if norm is not None:
                layers[f"norm{j}"] = norm(channels)
            layers[f"relu{j}"] = activation
            in_channels = channels
        stages[f"stage{i}"] = Sequential(**layers, pool=MaxPool(2))
    return Sequential(
        **stages,
        pool=AdaptiveAvgPool(7),
        flatten=Flatten(),
        dense1=Dense(7 * 7 * in_channels, 4096, kernel_init=_glorot),
        relu1=activation,
        dropout1=Dropout(dropout_rate),
        dense2=Dense(4096, 4096, kernel_init=_glorot),
        relu2=activation,
        dropout2=Dropout(dropout_rate),
        head=Dense(4096, num_classes, kernel_init=_glorot),
    )
