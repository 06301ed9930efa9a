"""What the families of models share: their options, convolutions with normalisation, gates, stages, rounded channels.

Source: Sandler, Howard, Zhu, Zhmoginov & Chen, "MobileNetV2: inverted residuals and linear bottlenecks", 2018; Hu, Shen
& Sun, "Squeeze-and-excitation networks", 2018; Huang, Sun, Liu, Sedra & Weinberger, "Deep networks with stochastic
depth", 2016; Chen, Papandreou, Schroff & Adam, "Rethinking atrous convolution for semantic image segmentation", 2017.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict

import jax

from jaxcnn.layers import BatchNorm, Conv, Dense, DropPath, Function, Gate, GlobalAvgPool, Residual, Sequential
from jaxcnn.layers.initializers import he_normal_fan_out
from jaxcnn.ops.check import Padding, Size, as_pair, check_rate
from jaxcnn.types import Layer

Norm: TypeAlias = Callable[[int], Layer]
"""Makes the normalisation for a number of channels: `BatchNorm`, or `Partial(GroupNorm, num_groups=8)`."""

PaddingRule = Literal["symmetric", "same"]
""""symmetric": as many zeros on every side, as in torchvision. "same": as in TensorFlow and Keras, where at stride 2 an
image of even size has more zeros at the bottom and on the right. Weights trained with one are wrong with the other."""

relu, sigmoid, silu = Function(jax.nn.relu), Function(jax.nn.sigmoid), Function(jax.nn.silu)


class Options(TypedDict, total=False):
    """Options that families share, each with the same name and meaning in all of them.

    Attributes:
      in_channels: channels of the image.
      activation: the nonlinearity, such as `Function(jax.nn.silu)`. Its layers keep their names, such as "relu1".
    """

    in_channels: int
    activation: Function


class DropoutOptions(Options, total=False):
    """`Options`, and the probability of dropping a value in training, in [0, 1)."""

    dropout_rate: float


class NormOptions(Options, total=False):
    """`Options`, and the function that makes the normalisation for a number of channels."""

    norm: Norm


class NormDropoutOptions(NormOptions, DropoutOptions, total=False):
    """`NormOptions` and `DropoutOptions`."""


class DropPathOptions(NormOptions, total=False):
    """`NormOptions`, and the probability of skipping the last block in training; it rises linearly with depth."""

    drop_path: float


def conv(
    in_channels: int,
    out_channels: int,
    kernel_size: Size = 1,
    strides: int = 1,
    *,
    groups: int = 1,
    padding: PaddingRule | Padding = "symmetric",
    dilation: int = 1,
    use_bias: bool = False,
    kernel_init: Callable[..., jax.Array] = he_normal_fan_out,
) -> Conv:
    """Builds a convolution that comes before a normalisation, which makes a bias superfluous.

    Args:
      in_channels: channels of the image.
      out_channels: channels of the result.
      kernel_size: (height, width) of the kernel, in taps; odd.
      strides: step of the kernel, in pixels.
      groups: number of channel groups.
      padding: "symmetric", which keeps the size at stride 1, "same", or any padding of `Conv`.
      dilation: distance between neighbouring taps, in pixels.
      use_bias: whether to add a bias.
      kernel_init: draws the kernel.

    Returns:
      The layer.
    """
    height, width = as_pair("kernel_size", kernel_size)
    if padding == "symmetric":
        rows, columns = height // 2 * dilation, width // 2 * dilation
        padding = ((rows, rows), (columns, columns))
    return Conv(
        in_channels,
        out_channels,
        (height, width),
        strides,
        padding="SAME" if padding == "same" else padding,
        dilation=dilation,
        groups=groups,
        use_bias=use_bias,
        kernel_init=kernel_init,
    )


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: Size = 1,
    strides: int = 1,
    *,
    norm: Norm = BatchNorm,
    groups: int = 1,
    padding: PaddingRule | Padding = "symmetric",
    dilation: int = 1,
    use_bias: bool = False,
    kernel_init: Callable[..., jax.Array] = he_normal_fan_out,
    **after: Layer,
) -> Sequential:
    """Builds a convolution, its normalisation and the layers after them: `conv_norm(3, 64, 7, 2, relu=relu)`.

    Args:
      in_channels: channels of the image.
      out_channels: channels of the result.
      kernel_size: (height, width) of the kernel, in taps; odd.
      strides: step of the kernel, in pixels.
      norm: makes the normalisation.
      groups: number of channel groups.
      padding: see `conv`.
      dilation: see `conv`.
      use_bias: whether the convolution has a bias.
      kernel_init: draws the kernel.
      **after: the layers after the normalisation by name, such as an activation and a pooling.

    Returns:
      The layers conv, norm and the others.
    """
    first = conv(
        in_channels,
        out_channels,
        kernel_size,
        strides,
        groups=groups,
        padding=padding,
        dilation=dilation,
        use_bias=use_bias,
        kernel_init=kernel_init,
    )
    return Sequential(conv=first, norm=norm(out_channels), **after)


def zero_scaled(norm: Layer) -> Layer:
    """Makes the normalisation at the end of a block start at zero, so that the block starts as its shortcut.

    Args:
      norm: the normalisation.

    Returns:
      The same with a scale of zeros (Goyal et al. 2017, section 5.1).

    Raises:
      ValueError: it has no scale.
    """
    if not getattr(norm, "use_scale", False):
        raise ValueError(f"zero_init_residual expects a norm with a scale, such as BatchNorm, got {norm!r}")
    return dataclasses.replace(norm, scale_init=jax.nn.initializers.zeros)  # pyright: ignore[reportArgumentType]


def squeeze_excite(channels: int, squeezed: int, *, activation: Function, gate: Function) -> Gate:
    """Builds a squeeze-and-excitation: weighs channels by features of the whole image (Hu et al. 2018, section 3).

    Args:
      channels: channels of the image.
      squeezed: size of the hidden layer.
      activation: the nonlinearity after it.
      gate: turns the result into weights: a sigmoid, or a hard sigmoid.

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


def inverted_residual(
    in_channels: int,
    hidden: int,
    out_channels: int,
    strides: int = 1,
    *,
    activation: Function,
    kernel_size: int = 3,
    gate: Gate | None = None,
    drop_path: float = 0.0,
    norm: Norm = BatchNorm,
    padding: PaddingRule = "symmetric",
    dilation: int = 1,
) -> Residual | Sequential:
    """Builds a 1x1 convolution to more channels, a depthwise convolution, and a linear 1x1 one back to few channels.

    Args:
      in_channels: channels of the input.
      hidden: channels of the depthwise convolution; if as many as `in_channels`, there is no convolution before it.
      out_channels: channels of the output.
      strides: strides of the depthwise convolution.
      activation: the nonlinearity.
      kernel_size: height and width of the depthwise kernel, in taps; odd.
      gate: weighs the channels after the depthwise convolution: a `squeeze_excite`; None for no gate.
      drop_path: probability of skipping a residual block in training, in [0, 1); see `drop_path_layer`.
      norm: makes the normalisation after each convolution.
      padding: how images are padded; see `PaddingRule`.
      dilation: distance between neighbouring taps of the depthwise kernel, in pixels.

    Returns:
      The block, with layers expand, depthwise, squeeze_excite, project and drop_path; it is residual if input and
      output have the same shape (Sandler et al. 2018, figure 4d; Howard et al. 2019, figure 4).
    """
    layers: dict[str, Layer] = {}
    if hidden != in_channels:
        layers["expand"] = conv_norm(in_channels, hidden, norm=norm, activation=activation)
    layers["depthwise"] = conv_norm(
        hidden,
        hidden,
        kernel_size,
        strides,
        norm=norm,
        groups=hidden,
        padding=padding,
        dilation=dilation,
        activation=activation,
    )
    if gate is not None:
        layers["squeeze_excite"] = gate
    layers["project"] = conv_norm(hidden, out_channels, norm=norm)
    return residual_where_the_shape_stays(layers, in_channels, out_channels, strides, drop_path)


def residual_where_the_shape_stays(
    layers: Mapping[str, Layer], in_channels: int, out_channels: int, strides: int, drop_path: float
) -> Residual | Sequential:
    """Puts a shortcut around layers in a row if it can be the identity.

    Args:
      layers: the layers by name.
      in_channels: channels of the input.
      out_channels: channels of the output.
      strides: strides of all layers together.
      drop_path: probability of skipping a residual block in training, in [0, 1); see `drop_path_layer`.

    Returns:
      The block; a residual one if neither size nor channels change.
    """
    if strides != 1 or in_channels != out_channels:
        return Sequential(**layers)
    return Residual(Sequential(**layers, **drop_path_layer(drop_path)))


def drop_path_layer(rate: float) -> dict[str, DropPath]:
    """Builds the last layer of a residual branch, which skips the branch at random; none at a rate of 0.

    Args:
      rate: probability of skipping the branch in training, in [0, 1).

    Returns:
      The layer by its name, drop_path, or an empty dict.
    """
    return {"drop_path": DropPath(rate)} if rate else {}


def build_stages(
    in_channels: int,
    stages: Iterable[tuple[Callable[..., Layer], int, int, int]],
    drop_path: Iterable[float] | None = None,
    dilations: Iterable[int] | None = None,
) -> dict[str, Sequential]:
    """Builds stages of blocks, the first of which changes the channels and the size.

    Args:
      in_channels: channels of the input of the first stage.
      stages: for each stage the function that builds a block, called with channels of input and output and strides;
        the number of blocks; their output channels; and the strides of the first one. The others have strides of 1.
      drop_path: probability of skipping each block of all stages, passed to it as `drop_path=`; None to pass nothing.
      dilations: dilation of each stage, passed to its blocks as `dilation=` with that of the stage before for the first
        convolution of its first block: a pair; None to pass nothing.

    Returns:
      The stages, stage1 and so on, with layers block0 and so on.
    """
    rates, built = None if drop_path is None else iter(drop_path), {}
    of_stages, before = None if dilations is None else iter(dilations), 1
    for i, (block, blocks, out_channels, strides) in enumerate(stages, start=1):
        layers: dict[str, Layer] = {}
        dilation = 1 if of_stages is None else next(of_stages)
        for j in range(blocks):
            options: dict[str, Any] = {} if rates is None else {"drop_path": next(rates)}
            if of_stages is not None:
                options["dilation"] = (before, dilation)
            before = dilation
            layers[f"block{j}"] = block(in_channels, out_channels, 1 if j else strides, **options)
            in_channels = out_channels
        built[f"stage{i}"] = Sequential(**layers)
    return built


def dilated(
    model: str, strides: Sequence[int], stem_stride: int, output_stride: int, allowed: tuple[int, ...]
) -> tuple[list[int], list[int]]:
    """Replaces the last strides of a network by dilation, so that its maps stay large (Chen et al. 2017, section 3.2).

    Args:
      model: name of the model, for the message.
      strides: strides of the stages, or of the blocks.
      stem_stride: product of the strides before them.
      output_stride: largest product of strides to keep.
      allowed: the output strides that the model has.

    Returns:
      The strides that stay, and the dilation of each stage or block.

    Raises:
      ValueError: the output stride is not one of those allowed.
    """
    if output_stride not in allowed:
        raise ValueError(f"{model} expects output_stride to be one of {allowed}, got {output_stride!r}")
    kept, dilations, stride, dilation = [], [], stem_stride, 1
    for step in strides:
        if stride * step > output_stride:
            dilation *= step
            step = 1
        stride *= step
        kept.append(step)
        dilations.append(dilation)
    return kept, dilations


def drop_path_rates(model: str, last: float, blocks: int) -> list[float]:
    """Lists the probabilities of skipping blocks, which rise linearly with depth (Huang et al. 2016, section 3).

    Args:
      model: name of the model, for the message.
      last: probability for the last block, in [0, 1).
      blocks: number of blocks.

    Returns:
      The probabilities, from 0 for the first block on.

    Raises:
      ValueError: the probability is outside [0, 1).
    """
    check_rate(model, last)
    return [last * i / max(blocks - 1, 1) for i in range(blocks)]


def check_padding(model: str, padding: PaddingRule) -> None:
    """Refuses an unknown rule of padding.

    Args:
      model: name of the model, for the message.
      padding: the rule.

    Raises:
      ValueError: the rule is neither "symmetric" nor "same".
    """
    if padding not in ("symmetric", "same"):
        raise ValueError(f"{model} expects padding to be 'symmetric' or 'same', got {padding!r}")


def rounded_channels(channels: float, divisor: int = 8) -> int:
    """Rounds a number of channels to a multiple, as the code of the MobileNet papers does.

    Args:
      channels: a number of channels, positive.
      divisor: the result is a multiple of it.

    Returns:
      The nearest multiple, the larger of two that are equally near; at least `divisor`. If more than 10 % of the
      channels would be lost, the next multiple.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor
