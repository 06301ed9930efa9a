"""What MobileNets and EfficientNets are made of: inverted residuals, squeeze-and-excitations, rounded channels.

Source: Sandler, Howard, Zhu, Zhmoginov & Chen, "MobileNetV2: inverted residuals and linear bottlenecks", 2018; Hu, Shen
& Sun, "Squeeze-and-excitation networks", 2018.
"""

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

from jaxcnn.layers import BatchNorm, Conv, Dense, DropPath, Function, Gate, GlobalAvgPool, Residual, Sequential
from jaxcnn.layers.initializers import he_normal_fan_out
from jaxcnn.ops.check import Padding
from jaxcnn.types import Layer

Norm: TypeAlias = Callable[[int], Layer]
"""Makes the normalisation of so many channels, such as `Partial(BatchNorm, decay=0.99, epsilon=1e-3)`."""

PaddingRule = Literal["symmetric", "same"]
"""As many zeros on every side, as torchvision pads; or as TensorFlow and Keras do, where at stride 2 an image of even
size has more of them at the bottom and on the right. Weights trained with the one are wrong with the other."""


def inverted_residual(
    in_channels: int,
    hidden: int,
    out_channels: int,
    strides: int = 1,
    *,
    activation: Function,
    kernel_size: int = 3,
    gate: Gate | None = None,
    drop_path_rate: float | None = None,
    norm: Norm = BatchNorm,
    padding: PaddingRule = "symmetric",
) -> Residual | Sequential:
    """Builds a 1x1 convolution to more channels, a depthwise one and a linear 1x1 one back to few.

    Args:
      in_channels: channels of the input.
      hidden: channels of the depthwise convolution; if as many as `in_channels`, there is no convolution before it.
      out_channels: channels of the output.
      strides: strides of the depthwise convolution.
      activation: the nonlinearity.
      kernel_size: height and width of the depthwise kernel, in taps; odd.
      gate: what weighs the channels after the depthwise convolution: a `squeeze_excite`; None for nothing.
      drop_path_rate: probability of skipping a residual block in training, in [0, 1); None for no such layer.
      norm: makes the normalisation after each convolution.
      padding: what pads the images.

    Returns:
      The block, with layers expand, depthwise, squeeze_excite, project and drop_path; a residual one where the shape
      stays (Sandler et al. 2018, figure 4d; Howard et al. 2019, figure 4).
    """
    layers: dict[str, Layer] = {}
    if hidden != in_channels:
        layers["expand"] = conv_norm(in_channels, hidden, activation=activation, norm=norm)
    layers["depthwise"] = conv_norm(
        hidden, hidden, kernel_size, strides, groups=hidden, activation=activation, norm=norm, padding=padding
    )
    if gate is not None:
        layers["squeeze_excite"] = gate
    layers["project"] = conv_norm(hidden, out_channels, norm=norm)
    return residual_where_the_shape_stays(layers, in_channels, out_channels, strides, drop_path_rate)


def residual_where_the_shape_stays(
    layers: Mapping[str, Layer], in_channels: int, out_channels: int, strides: int, drop_path_rate: float | None
) -> Residual | Sequential:
    """Puts a way around layers in a row where it can be the identity.

    Args:
      layers: the layers by name.
      in_channels: channels of the input.
      out_channels: channels of the output.
      strides: strides of all layers together.
      drop_path_rate: probability of skipping a residual block in training, in [0, 1); None for no such layer.

    Returns:
      The block; a residual one if neither size nor channels change.
    """
    if strides != 1 or in_channels != out_channels:
        return Sequential(**layers)
    drop = {} if drop_path_rate is None else {"drop_path": DropPath(drop_path_rate)}
    return Residual(Sequential(**layers, **drop))


def squeeze_excite(channels: int, squeezed: int, *, activation: Function, gate: Function) -> Gate:
    """Builds a squeeze-and-excitation: weighs channels by what all pixels together say (Hu et al. 2018, section 3).

    Args:
      channels: channels of the image.
      squeezed: size of the hidden layer.
      activation: the nonlinearity after it.
      gate: what makes weights of the result: a sigmoid, or a hard one.

    Returns:
      The gate, with layers pool, reduce, activation, expand and gate.
    """
    return Gate(
        Sequential(
            pool=GlobalAvgPool(),
            reduce=Dense(channels, squeezed, kernel_init=he_normal_fan_out),
            activation=activation,
            expand=Dense(squeezed, channels, kernel_init=he_normal_fan_out),
            gate=gate,
        )
    )


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    strides: int = 1,
    *,
    groups: int = 1,
    activation: Function | None = None,
    norm: Norm = BatchNorm,
    padding: PaddingRule | Padding = "symmetric",
) -> Sequential:
    """Builds a convolution without bias, its normalisation and its activation.

    Args:
      in_channels: channels of the image.
      out_channels: channels of the result.
      kernel_size: height and width of the kernel, in taps; odd.
      strides: step of the kernel, in pixels.
      groups: number of channel groups.
      activation: the nonlinearity; None for none.
      norm: makes the normalisation.
      padding: "symmetric", which keeps the size at stride 1, "same", or whatever `Conv` takes.

    Returns:
      The layers conv, norm and activation.
    """
    conv = Conv(
        in_channels,
        out_channels,
        kernel_size,
        strides,
        padding=kernel_size // 2 if padding == "symmetric" else "SAME" if padding == "same" else padding,
        groups=groups,
        use_bias=False,
        kernel_init=he_normal_fan_out,
    )
    last = {} if activation is None else {"activation": activation}
    return Sequential(conv=conv, norm=norm(out_channels), **last)


def check_padding(model: str, padding: PaddingRule) -> None:
    """Refuses what is no rule of padding.

    Args:
      model: name of the model, for the message.
      padding: the rule.

    Raises:
      ValueError: it is none.
    """
    if padding not in ("symmetric", "same"):
        raise ValueError(f"{model} expects padding to be 'symmetric' or 'same', got {padding!r}")


def rounded_channels(channels: float, divisor: int = 8) -> int:
    """Rounds a number of channels to a multiple, as the code of the MobileNet papers does.

    Args:
      channels: a number of channels, positive.
      divisor: what the result is a multiple of.

    Returns:
      The nearest multiple, the larger of two; at least one divisor, and the next one where 10 % would be lost.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor
