"""AlexNet, in its form for one device.

Source: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014 (the layers: one tower, no
local response normalisation), as in torchvision; Krizhevsky, Sutskever & Hinton, "ImageNet classification with deep
convolutional neural networks", 2012 (dropout and initialisation).
"""

import jax

from jaxcnn.layers import AdaptiveAvgPool, Conv, Dense, Dropout, Flatten, Function, Initializer, MaxPool, Sequential
from jaxcnn.models.blocks import relu

_normal = Initializer(jax.nn.initializers.normal, stddev=0.01)
_ones = jax.nn.initializers.ones


def alexnet(
    num_classes: int = 1000, *, in_channels: int = 3, activation: Function = relu, dropout_rate: float = 0.5
) -> Sequential:
    """Builds AlexNet (Krizhevsky 2014); 61,100,840 parameters.

    Kernels start from a normal distribution of standard deviation 0.01; the biases of the second, fourth and fifth
    convolution and of the hidden dense layers at one, the others at zero (Krizhevsky et al. 2012, section 5).

    Args:
      num_classes: number of logits.
      in_channels: channels of the image.
      activation: the nonlinearity.
      dropout_rate: probability of dropping an input of the two hidden dense layers, in [0, 1) (Krizhevsky et al. 2012,
        section 4.2).

    Returns:
      The model: conv1 to conv5, pool, flatten, dense1, dense2, head, with relus, pools and dropouts between. An image
      has at least 63x63 pixels; if the last map is not 6x6, it is pooled to that size.

    Raises:
      ValueError: the rate is outside [0, 1).
    """
    return Sequential(
        conv1=Conv(in_channels, 64, 11, 4, padding=2, kernel_init=_normal),
        relu1=activation,
        pool1=MaxPool(3, strides=2),
        conv2=Conv(64, 192, 5, padding=2, kernel_init=_normal, bias_init=_ones),
        relu2=activation,
        pool2=MaxPool(3, strides=2),
        conv3=Conv(192, 384, 3, padding=1, kernel_init=_normal),
        relu3=activation,
        conv4=Conv(384, 256, 3, padding=1, kernel_init=_normal, bias_init=_ones),
        relu4=activation,
        conv5=Conv(256, 256, 3, padding=1, kernel_init=_normal, bias_init=_ones),
        relu5=activation,
        pool5=MaxPool(3, strides=2),
        pool=AdaptiveAvgPool(6),
        flatten=Flatten(),
        dropout1=Dropout(dropout_rate),
        dense1=Dense(6 * 6 * 256, 4096, kernel_init=_normal, bias_init=_ones),
        relu6=activation,
        dropout2=Dropout(dropout_rate),
        dense2=Dense(4096, 4096, kernel_init=_normal, bias_init=_ones),
        relu7=activation,
        head=Dense(4096, num_classes, kernel_init=_normal),
    )
