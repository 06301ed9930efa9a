"""DenseNet: every layer of a block takes the results of all layers before it.

Source: Huang, Liu, van der Maaten & Weinberger, "Densely connected convolutional networks", 2017: the DenseNet-BC of
its table 1, with bottlenecks and compression. All padding is symmetric, as in torchvision, so that published weights
fit.
"""

import functools
from typing import Unpack

import jax

from jaxcnn.layers import (
    AvgPool,
    BatchNorm,
    Concat,
    Dense,
    Dropout,
    Function,
    GlobalAvgPool,
    Initializer,
    MaxPool,
    Sequential,
    identity,
)
from jaxcnn.models.blocks import Norm, NormDropoutOptions, conv, conv_norm, relu
from jaxcnn.ops.check import check_rate

# Variance 2 / fan_in: the initialisation of He et al. 2015, which the paper's section 4.2 names.
_he_normal = Initializer(jax.nn.initializers.variance_scaling, scale=2.0, mode="fan_in", distribution="normal")
_conv = functools.partial(conv, kernel_init=_he_normal)


def densenet121(num_classes: int = 1000, **options: Unpack[NormDropoutOptions]) -> Sequential:
    """Builds DenseNet-121: 6, 12, 24 and 16 layers that add 32 channels each; 7,978,856 parameters. See `densenet`."""
    return densenet((6, 12, 24, 16), 32, 64, num_classes, **options)


def densenet161(num_classes: int = 1000, **options: Unpack[NormDropoutOptions]) -> Sequential:
    """Builds DenseNet-161: 6, 12, 36 and 24 layers that add 48 channels each; 28,681,000 parameters. See `densenet`."""
    return densenet((6, 12, 36, 24), 48, 96, num_classes, **options)


def densenet169(num_classes: int = 1000, **options: Unpack[NormDropoutOptions]) -> Sequential:
    """Builds DenseNet-169: 6, 12, 32 and 32 layers that add 32 channels each; 14,149,480 parameters. See `densenet`."""
    return densenet((6, 12, 32, 32), 32, 64, num_classes, **options)


def densenet201(num_classes: int = 1000, **options: Unpack[NormDropoutOptions]) -> Sequential:
    """Builds DenseNet-201: 6, 12, 48 and 32 layers that add 32 channels each; 20,013,928 parameters. See `densenet`."""
    return densenet((6, 12, 48, 32), 32, 64, num_classes, **options)


def densenet(
    stage_sizes: tuple[int, ...],
    growth: int,
    stem_channels: int,
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    norm: Norm = BatchNorm,
    activation: Function = relu,
    dropout_rate: float = 0.0,
) -> Sequential:
    """Builds a DenseNet-BC (Huang et al. 2017, section 3 and table 1).

    A stage is a dense block; from the second one on, it starts with a transition that halves the channels and the
    image.

    Args:
      stage_sizes: number of dense layers in each stage.
      growth: channels that each dense layer adds, the paper's growth rate k.
      stem_channels: channels of the first convolution.
      num_classes: number of logits.
      in_channels: channels of the image, which has at least 29 x 29 pixels with four stages.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
      dropout_rate: probability of dropping a value after each convolution but the first, in [0, 1); the paper has 0.2
        where images are not augmented, and 0 for ImageNet (section 4.2).

    Returns:
      The model: stem, stages from stage1 on, norm, relu, pool, head; parameters are named like
      `stage2/transition/conv/kernel` and `stage2/layer0/new/conv1/kernel`.

    Raises:
      ValueError: the rate is outside [0, 1).
    """
    check_rate("densenet", dropout_rate)
    pool = MaxPool(3, strides=2, padding=1)
    stem = conv_norm(in_channels, stem_channels, 7, 2, norm=norm, kernel_init=_he_normal, relu=activation, pool=pool)
    options = {"norm": norm, "activation": activation, "dropout_rate": dropout_rate}
    stages, channels = {}, stem_channels
    for i, size in enumerate(stage_sizes):
        layers = {}
        if i > 0:
            layers["transition"] = transition(channels, channels // 2, **options)
            channels //= 2
        for j in range(size):
            layers[f"layer{j}"] = dense_layer(channels, growth, **options)
            channels += growth
        stages[f"stage{i + 1}"] = Sequential(**layers)
    return Sequential(
        stem=stem,
        **stages,
        norm=norm(channels),
        relu=activation,
        pool=GlobalAvgPool(),
        head=Dense(channels, num_classes),
    )


def dense_layer(
    channels: int,
    growth: int,
    *,
    norm: Norm = BatchNorm,
    activation: Function = relu,
    dropout_rate: float = 0.0,
) -> Concat:
    """Builds a 1x1 and a 3x3 convolution, each after batch norm and ReLU, whose result joins the input.

    Args:
      channels: channels of the input.
      growth: channels that are added; the 1x1 convolution has four times as many (section 3, "bottleneck layers").
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
      dropout_rate: probability of dropping a value after each convolution, in [0, 1).

    Returns:
      The layer, with branches `old` and `new`; its output has channels + growth channels, the old ones first.
    """
    new = Sequential(
        norm1=norm(channels),
        relu1=activation,
        conv1=_conv(channels, 4 * growth, 1),
        dropout1=Dropout(dropout_rate),
        norm2=norm(4 * growth),
        relu2=activation,
        conv2=_conv(4 * growth, growth, 3),
        dropout2=Dropout(dropout_rate),
    )
    return Concat(old=identity, new=new)


def transition(
    in_channels: int,
    out_channels: int,
    *,
    norm: Norm = BatchNorm,
    activation: Function = relu,
    dropout_rate: float = 0.0,
) -> Sequential:
    """Builds a 1x1 convolution after batch norm and ReLU, and average pooling that halves the image (section 3).

    Args:
      in_channels: channels of the input.
      out_channels: channels of the output.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
      dropout_rate: probability of dropping a value after the convolution, in [0, 1).

    Returns:
      The transition, with layers norm, relu, conv, dropout and pool; an odd last row or column is left out.
    """
    return Sequential(
        norm=norm(in_channels),
        relu=activation,
        conv=_conv(in_channels, out_channels, 1),
        dropout=Dropout(dropout_rate),
        pool=AvgPool(2),
    )
