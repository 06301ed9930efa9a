"""Xception: a network of depthwise separable convolutions with residual connections.

Source: Chollet, "Xception: deep learning with depthwise separable convolutions", 2017, in the form of Keras, whose
padding is TensorFlow's.
"""

import functools

import jax

from jaxcnn.layers import BatchNorm, Dense, Dropout, Function, GlobalAvgPool, Initializer, MaxPool, Residual, Sequential
from jaxcnn.models.blocks import Norm, conv, conv_norm, relu
from jaxcnn.types import Layer
from jaxcnn.values import Partial

_init = Initializer(jax.nn.initializers.glorot_uniform)
_batch_norm = Partial(BatchNorm, decay=0.99, epsilon=1e-3, unbiased=False)
_conv_norm = functools.partial(conv_norm, padding="VALID", kernel_init=_init)


def xception(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    norm: Norm = _batch_norm,
    activation: Function = relu,
    dropout_rate: float = 0.5,
) -> Sequential:
    """Builds Xception (Chollet 2017, figure 5) for 299 pixels; 22,855,952 parameters.

    Its batch norms have an epsilon of 0.001 and a decay of 0.99, and its kernels start from the uniform distribution of
    Glorot & Bengio 2010 (equation 16), as in the author's code.

    Args:
      num_classes: number of logits.
      in_channels: channels of the image.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.
      dropout_rate: probability of dropping a feature before the head, in [0, 1) (section 4.3).

    Returns:
      The model: stem, entry, middle, exit, pool, dropout, head; parameters are named like
      `middle/block0/conv1/depthwise/kernel`.

    Raises:
      ValueError: the rate is outside [0, 1).
    """
    halving = functools.partial(halving_block, norm=norm, activation=activation)
    middle = middle_block(728, norm=norm, activation=activation)
    return Sequential(
        stem=Sequential(
            conv1=_conv_norm(in_channels, 32, 3, 2, norm=norm, relu=activation),
            conv2=_conv_norm(32, 64, 3, norm=norm, relu=activation),
        ),
        entry=Sequential(
            # The stem ends with an activation.
            block0=halving(64, (128, 128), starts_with_relu=False),
            block1=halving(128, (256, 256)),
            block2=halving(256, (728, 728)),
        ),
        middle=Sequential(**{f"block{i}": middle for i in range(8)}),
        exit=Sequential(
            block0=halving(728, (728, 1024)),
            conv1=separable_conv(1024, 1536, norm),
            relu1=activation,
            conv2=separable_conv(1536, 2048, norm),
            relu2=activation,
        ),
        pool=GlobalAvgPool(),
        dropout=Dropout(dropout_rate),
        head=Dense(2048, num_classes, kernel_init=_init),
    )


def halving_block(
    in_channels: int,
    channels: tuple[int, ...],
    *,
    starts_with_relu: bool = True,
    norm: Norm = _batch_norm,
    activation: Function = relu,
) -> Residual:
    """Builds separable convolutions and a max pooling of stride 2, with a 1x1 convolution of stride 2 as shortcut.

    Args:
      in_channels: channels of the input.
      channels: channels after each separable convolution.
      starts_with_relu: whether there is an activation before the first one, as before the others.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.

    Returns:
      The block, with layers relu1, conv1, relu2, conv2 and so on, pool and shortcut (Chollet 2017, figure 5).
    """
    convolutions = _convolutions(in_channels, channels, norm, activation, starts_with_relu)
    shortcut = _conv_norm(in_channels, channels[-1], 1, 2, norm=norm)
    return Residual(Sequential(**convolutions, pool=MaxPool(3, strides=2, padding="SAME")), shortcut)


def middle_block(channels: int, *, norm: Norm = _batch_norm, activation: Function = relu) -> Residual:
    """Builds three separable convolutions, each after an activation, and a shortcut (Chollet 2017, figure 5).

    Args:
      channels: channels of the input and of the output.
      norm: makes the normalisation for a number of channels.
      activation: the nonlinearity.

    Returns:
      The block, with layers relu1, conv1, relu2, conv2, relu3 and conv3.
    """
    return Residual(Sequential(**_convolutions(channels, (channels,) * 3, norm, activation)))


def separable_conv(in_channels: int, out_channels: int, norm: Norm = _batch_norm) -> Sequential:
    """Builds a 3x3 depthwise convolution and a 1x1 one, with nothing between them (Chollet 2017, section 4.7).

    Args:
      in_channels: channels of the input.
      out_channels: channels of the output.
      norm: makes the normalisation for a number of channels.

    Returns:
      The layers depthwise, pointwise and norm.
    """
    return Sequential(
        depthwise=conv(in_channels, in_channels, 3, groups=in_channels, kernel_init=_init),
        pointwise=conv(in_channels, out_channels, padding="VALID", kernel_init=_init),
        norm=norm(out_channels),
    )


def _convolutions(
    in_channels: int, channels: tuple[int, ...], norm: Norm, activation: Function, starts_with_relu: bool = True
) -> dict[str, Layer]:
    layers: dict[str, Layer] = {}
    for i, out_channels in enumerate(channels, start=1):
        if i > 1 or starts_with_relu:
            layers[f"relu{i}"] = activation
        layers[f"conv{i}"] = separable_conv(in_channels, out_channels, norm)
        in_channels = out_channels
    return layers
