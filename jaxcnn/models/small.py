"""Small convolutional classifiers for 32x32 colour images."""

from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn import ops
from jaxcnn.layers import (
    BatchNorm,
    Conv,
    Dense,
    Flatten,
    Function,
    GlobalMaxPool,
    Initializer,
    MaxPool,
    Sequential,
    output_shape,
)
from jaxcnn.models.blocks import Norm, relu
from jaxcnn.ops.check import Size, as_pair
from jaxcnn.types import Shape
from jaxcnn.values import Partial

_HE_NORMAL = Initializer(jax.nn.initializers.he_normal)


def small_cnn(
    num_classes: int = 10, *, in_channels: int = 3, activation: Function = relu, image_size: Size = 32
) -> Sequential:
    """Builds three 3x3 convolutions (32, 64, 64 channels) with 2x2 max pooling between, and two dense layers.

    On 32x32x3: 896, 18,496, 36,928, 524,416 and 1,290 parameters.

    Args:
      num_classes: number of logits.
      in_channels: channels of the image.
      activation: the nonlinearity.
      image_size: (height, width) of the image, in pixels.

    Returns:
      The model; its head is a `Dense(128, num_classes)`.
    """
    maps = {
        "conv1": Conv(in_channels, 32, kernel_init=_HE_NORMAL),
        "relu1": activation,
        "pool1": MaxPool(2),
        "conv2": Conv(32, 64, kernel_init=_HE_NORMAL),
        "relu2": activation,
        "pool2": MaxPool(2),
        "conv3": Conv(64, 64, kernel_init=_HE_NORMAL),
        "relu3": activation,
        "flatten": Flatten(),
    }
    width = prod(output_shape(Sequential(**maps), (*as_pair("image_size", image_size), in_channels)))
    dense = Dense(width, 128, kernel_init=_HE_NORMAL)
    return Sequential(**maps, dense=dense, relu4=activation, head=Dense(128, num_classes))


_gelu = Function(ops.gelu)

_MOVING_NORM = Partial(BatchNorm, use_scale=False, decay=0.6, epsilon=1e-12)
"""Batch norm whose running moments follow those of the batches within a few steps."""


def whitened_cnn(
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    activation: Function = _gelu,
    norm: Norm = _MOVING_NORM,
    widths: tuple[int, int, int] = (64, 256, 256),
) -> Sequential:
    """Builds the network that is trained on CIFAR-10 in seconds, whose first convolution whitens patches of 2x2 pixels.

    Three groups of two 3x3 convolutions follow, each with a 2x2 max pooling, and a linear head without a bias. On
    32x32x3: 1,971,640 parameters (Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", section 3.1). The
    convolutions start as the identity of their first channels (section 3.3). `jaxcnn.training.whitened` computes the
    first one, "whiten", of images; it stays frozen.

    Args:
      num_classes: number of logits.
      in_channels: channels of the image.
      activation: the nonlinearity.
      norm: makes the normalisation for a number of channels.
      widths: channels of the three groups.

    Returns:
      The model; its head is a `Dense(widths[2], num_classes)`.
    """
    directions = in_channels * 2 * 2
    layers: dict[str, Any] = {"whiten": Conv(in_channels, 2 * directions, 2, padding="VALID"), "gelu": activation}
    width = 2 * directions
    for number, out_channels in enumerate(widths, 1):
        layers[f"group{number}"] = _group(width, out_channels, activation, norm)
        width = out_channels
    # The logits start small beside the parameters of the head, so that steps of the same length change them less.
    head = Dense(width, num_classes, use_bias=False, kernel_init=Initializer(jax.nn.initializers.normal, stddev=1.0))
    return Sequential(**layers, pool=GlobalMaxPool(), head=head, scale=Function(_scaled, factor=1 / width))


def _group(in_channels: int, channels: int, activation: Function, norm: Norm) -> Sequential:
    conv = partial(Conv, use_bias=False, kernel_init=_identity_first)
    return Sequential(
        conv1=conv(in_channels, channels),
        pool=MaxPool(2),
        norm1=norm(channels),
        gelu1=activation,
        conv2=conv(channels, channels),
        norm2=norm(channels),
        gelu2=activation,
    )


def _identity_first(key: jax.Array, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
    """Draws a kernel whose first filters copy a channel each; the others are uniform, as in torch's convolutions."""
    height, width, in_channels, out_channels = shape
    bound = (height * width * in_channels) ** -0.5
    kernel = jax.random.uniform(key, shape, dtype, -bound, bound)
    copies = min(in_channels, out_channels)
    identity = jnp.zeros((height, width, in_channels, copies), dtype)
    identity = identity.at[height // 2, width // 2].set(jnp.eye(in_channels, copies, dtype=dtype))
    return kernel.at[..., :copies].set(identity)


def _scaled(x: jax.Array, *, factor: float) -> jax.Array:
    return x * jnp.asarray(factor, x.dtype)
