"""Xception: a network of depthwise separable convolutions with residual connections.

Source: Chollet, "Xception: deep learning with depthwise separable convolutions", 2017, in the form of Keras, whose
padding is TensorFlow's.
"""

import jax

from jaxcnn.layers import (
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Function,
    GlobalAvgPool,
    Initializer,
    MaxPool,
    Residual,
    Sequential,
)
from jaxcnn.types import Layer

_init = Initializer(jax.nn.initializers.glorot_uniform)
_relu = Function(jax.nn.relu)


def xception(num_classes: int = 1000, *, in_channels: int = 3, dropout_rate: float = 0.5) -> Sequential:
    """Builds Xception (Chollet 2017, figure 5) for 299 pixels; 22,855,952 parameters.

    Its batch norms have an epsilon of 0.001 and a decay of 0.99, and its kernels start uniform as Glorot & Bengio 2010
    say (equation 16), as in the author's code.

    Args:
      num_classes: number of logits.
      in_channels: channels of the image.
      dropout_rate: probability of dropping a feature before the head, in [0, 1) (section 4.3).

    Returns:
      The model: stem, entry, middle, exit, pool, dropout, head; parameters are named like
      `middle/block0/conv1/depthwise/kernel`.

    Raises:
      ValueError: the rate is outside [0, 1).
    """
    return Sequential(
        stem=Sequential(
            conv1=Sequential(conv=_conv(in_channels, 32, 3, 2), norm=_norm(32), relu=_relu),
            conv2=Sequential(conv=_conv(32, 64, 3), norm=_norm(64), relu=_relu),
        ),
        entry=Sequential(
            # What it is given has just been through a relu.
            block0=halving_block(64, (128, 128), starts_with_relu=False),
            block1=halving_block(128, (256, 256)),
            block2=halving_block(256, (728, 728)),
        ),
        middle=Sequential(**{f"block{i}": middle_block(728) for i in range(8)}),
        exit=Sequential(
            block0=halving_block(728, (728, 1024)),
            conv1=separable_conv(1024, 1536),
            relu1=_relu,
            conv2=separable_conv(1536, 2048),
            relu2=_relu,
        ),
        pool=GlobalAvgPool(),
        dropout=Dropout(dropout_rate),
        head=Dense(2048, num_classes, kernel_init=_init),
    )


def halving_block(in_channels: int, channels: tuple[int, ...], *, starts_with_relu: bool = True) -> Residual:
    """Builds separable convolutions and a max pooling of stride 2, and a 1x1 convolution of stride 2 around them.

    Args:
      in_channels: channels of the input.
      channels: channels after each separable convolution.
      starts_with_relu: whether a relu stands before the first one, as before the others.

    Returns:
      The block, with layers relu1, conv1, relu2, conv2 and so on, pool and shortcut (Chollet 2017, figure 5).
    """
    convolutions = _convolutions(in_channels, channels, starts_with_relu)
    shortcut = Sequential(conv=_conv(in_channels, channels[-1], 1, 2), norm=_norm(channels[-1]))
    return Residual(Sequential(**convolutions, pool=MaxPool(3, strides=2, padding="SAME")), shortcut)


def middle_block(channels: int) -> Residual:
    """Builds three separable convolutions, each after a relu, and the identity around them (Chollet 2017, figure 5).

    Args:
      channels: channels of the input and of the output.

    Returns:
      The block, with layers relu1, conv1, relu2, conv2, relu3 and conv3.
    """
    return Residual(Sequential(**_convolutions(channels, (channels,) * 3)))


def separable_conv(in_channels: int, out_channels: int) -> Sequential:
    """Builds a 3x3 depthwise convolution and a 1x1 one, with nothing between them (Chollet 2017, section 4.7).

    Args:
      in_channels: channels of the input.
      out_channels: channels of the output.

    Returns:
      The layers depthwise, pointwise and norm.
    """
    depthwise = Conv(in_channels, in_channels, 3, padding=1, groups=in_channels, use_bias=False, kernel_init=_init)
    return Sequential(depthwise=depthwise, pointwise=_conv(in_channels, out_channels, 1), norm=_norm(out_channels))


def _convolutions(in_channels: int, channels: tuple[int, ...], starts_with_relu: bool = True) -> dict[str, Layer]:
    layers: dict[str, Layer] = {}
    for i, out_channels in enumerate(channels, start=1):
        if i > 1 or starts_with_relu:
            layers[f"relu{i}"] = _relu
        layers[f"conv{i}"] = separable_conv(in_channels, out_channels)
        in_channels = out_channels
    return layers


def _conv(in_channels: int, out_channels: int, kernel_size: int, strides: int = 1) -> Conv:
    return Conv(in_channels, out_channels, kernel_size, strides, "VALID", use_bias=False, kernel_init=_init)


def _norm(channels: int) -> BatchNorm:
    return BatchNorm(channels, decay=0.99, epsilon=1e-3, unbiased=False)
