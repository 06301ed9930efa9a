"""SqueezeNet: as accurate as AlexNet with a fiftieth of its parameters.

Source: Iandola, Han, Moskewicz, Ashraf, Dally & Keutzer, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters
and <0.5MB model size", 2016; version 1.1 is that of the authors' repository. Sizes at the border are torchvision's.
"""

from typing import Unpack

import jax

from jaxcnn.layers import Concat, Conv, Dropout, Function, GlobalAvgPool, Initializer, MaxPool, Sequential
from jaxcnn.models.blocks import DropoutOptions, relu
from jaxcnn.types import Layer

_V1_0 = (((16, 64), (16, 64), (32, 128)), ((32, 128), (48, 192), (48, 192), (64, 256)), ((64, 256),))
_V1_1 = (((16, 64), (16, 64)), ((32, 128), (32, 128)), ((48, 192), (48, 192), (64, 256), (64, 256)))
"""The fire modules between the poolings: channels of the squeeze and of each expand layer (table 1)."""

_he_uniform = Initializer(jax.nn.initializers.he_uniform)


def squeezenet1_0(num_classes: int = 1000, **options: Unpack[DropoutOptions]) -> Sequential:
    """Builds SqueezeNet 1.0, as in the paper; 1,248,424 parameters. See `squeezenet`."""
    return squeezenet(96, 7, _V1_0, num_classes, **options)


def squeezenet1_1(num_classes: int = 1000, **options: Unpack[DropoutOptions]) -> Sequential:
    """Builds SqueezeNet 1.1, with less than half the work of 1.0; 1,235,496 parameters. See `squeezenet`."""
    return squeezenet(64, 3, _V1_1, num_classes, **options)


def squeezenet(
    stem_channels: int,
    stem_size: int,
    stages: tuple[tuple[tuple[int, int], ...], ...],
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    activation: Function = relu,
    dropout_rate: float = 0.5,
) -> Sequential:
    """Builds a SqueezeNet (Iandola et al. 2016, section 3.3 and table 1).

    The paper leaves the initialisation open. Here kernels have the variance for ReLU (He et al. 2015, section 2.2),
    uniform, and that of the last convolution a standard deviation of 0.01, as in torchvision.

    Args:
      stem_channels: channels of the first convolution.
      stem_size: height and width of its kernel, in taps.
      stages: the fire modules after each max pooling: channels of their squeeze and of each of their expand layers.
      num_classes: number of logits.
      in_channels: channels of the image.
      activation: the nonlinearity.
      dropout_rate: probability of dropping a value of the last map, in [0, 1) (section 3.3).

    Returns:
      The model: conv1, relu1, pool1, fire2 and so on with a pooling between stages, dropout, head; parameters are named
      like `fire2/expand/conv3x3/kernel`. The head is the last convolution with its ReLU and the global pooling after
      it, so that logits are at least 0; a head of `GlobalAvgPool()` gives features.

    Raises:
      ValueError: the rate is outside [0, 1).
    """
    stem = Conv(in_channels, stem_channels, stem_size, 2, "VALID", kernel_init=_he_uniform)
    layers: dict[str, Layer] = {"conv1": stem, "relu1": activation}
    channels, fire = stem_channels, 2
    for i, stage in enumerate(stages, start=1):
        layers[f"pool{i}"] = MaxPool(3, strides=2, ceil_mode=True)
        for squeezed, expanded in stage:
            layers[f"fire{fire}"] = fire_module(channels, squeezed, expanded, activation)
            channels, fire = 2 * expanded, fire + 1
    head = Conv(channels, num_classes, 1, kernel_init=Initializer(jax.nn.initializers.normal, stddev=0.01))
    return Sequential(
        **layers,
        dropout=Dropout(dropout_rate),
        head=Sequential(conv=head, relu=activation, pool=GlobalAvgPool()),
    )


def fire_module(in_channels: int, squeezed: int, expanded: int, activation: Function = relu) -> Sequential:
    """Builds a 1x1 convolution to few channels, then a 1x1 and a 3x3 one side by side to many (section 3.2).

    Args:
      in_channels: channels of the input.
      squeezed: channels of the squeeze layer.
      expanded: channels of each of the two expand layers; the output has twice as many.
      activation: the nonlinearity.

    Returns:
      The module, with layers squeeze, relu1, expand and relu2.
    """
    return Sequential(
        squeeze=Conv(in_channels, squeezed, 1, kernel_init=_he_uniform),
        relu1=activation,
        expand=Concat(
            conv1x1=Conv(squeezed, expanded, 1, kernel_init=_he_uniform),
            conv3x3=Conv(squeezed, expanded, 3, padding=1, kernel_init=_he_uniform),
        ),
        relu2=activation,
    )
