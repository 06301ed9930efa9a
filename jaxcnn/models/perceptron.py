"""The multi-layer perceptron: a baseline without convolutions."""

from math import prod

import jax

from jaxcnn.layers import Dense, Flatten, Function, Initializer, Sequential
from jaxcnn.models.blocks import relu
from jaxcnn.ops.check import Size, as_pair

_HE_NORMAL = Initializer(jax.nn.initializers.he_normal)


def mlp(
    num_classes: int = 10,
    *,
    in_channels: int = 1,
    activation: Function = relu,
    image_size: Size = 32,
    hidden: tuple[int, ...] = (256, 128),
) -> Sequential:
    """Builds a multi-layer perceptron on the pixels of an image, with an activation between its layers.

    Args:
      num_classes: number of logits.
      in_channels: channels of the image.
      activation: the nonlinearity.
      image_size: (height, width) of the image, in pixels.
      hidden: widths of the hidden layers; none is a linear classifier.

    Returns:
      The model: flatten, dense1, relu1, ..., head.
    """
    widths = (prod(as_pair("image_size", image_size)) * in_channels, *hidden)
    layers = {}
    for i, (width_in, width_out) in enumerate(zip(widths, hidden, strict=False), start=1):
        layers[f"dense{i}"] = Dense(width_in, width_out, kernel_init=_HE_NORMAL)
        layers[f"relu{i}"] = activation
    return Sequential(flatten=Flatten(), **layers, head=Dense(widths[-1], num_classes))
