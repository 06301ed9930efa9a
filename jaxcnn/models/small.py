"""A small convolutional classifier for 32x32 colour images."""

from math import prod

import jax

from jaxcnn.layers import Conv, Dense, Flatten, Function, Initializer, MaxPool, Sequential, output_shape
from jaxcnn.models.blocks import relu
from jaxcnn.ops.check import Size, as_pair

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
