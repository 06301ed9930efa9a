"""Keras on its JAX backend: a functional model, called statelessly as in its guide to custom training loops."""

# Pyright also checks this file without the peer.
# pyright: reportMissingImports=false

from collections.abc import Callable
from functools import partial, singledispatch
from typing import Any

import jax
import jax.numpy as jnp
import keras

from jaxcnn import layers, ops, trees
from jaxcnn.benchmark.jax_program import JaxModel, JaxProgram
from jaxcnn.benchmark.peers.common import (
    IDENTITY,
    channels_of,
    conv_sides,
    equal_windows,
    pair,
    plain_average,
    pointwise,
    refuse,
    undilated_window,
)
from jaxcnn.benchmark.program import Program, Unavailable
from jaxcnn.benchmark.spec import Spec
from jaxcnn.models.inception import AuxiliaryPool
from jaxcnn.models.resnet import ZeroPadShortcut
from jaxcnn.models.u_net import check_size
from jaxcnn.ops.arithmetic import transpose_padding_sides
from jaxcnn.ops.check import Sides
from jaxcnn.types import Layer

_BORDERS = {"edge": "edge", "reflect": "reflect", "circular": "wrap"}
_NO_SIDES = ((0, 0), (0, 0))

_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    IDENTITY: lambda: lambda x: x,
    check_size: lambda depth: lambda x: x,
    ops.gelu: lambda: partial(keras.ops.gelu, approximate=False),
    ops.channel_slice: lambda start, stop: lambda x: x[..., start:stop],
    ops.channel_shuffle: lambda groups: partial(_shuffle, groups=groups),
    jax.nn.relu: lambda: keras.ops.relu,
    jax.nn.relu6: lambda: keras.ops.relu6,
    jax.nn.gelu: lambda approximate=True: partial(keras.ops.gelu, approximate=approximate),
    jax.nn.silu: lambda: keras.ops.silu,
    jax.nn.hard_swish: lambda: keras.ops.hard_silu,
    jax.nn.hard_sigmoid: lambda: keras.ops.hard_sigmoid,
    jax.nn.sigmoid: lambda: keras.ops.sigmoid,
    jax.nn.tanh: lambda: keras.ops.tanh,
    jnp.tanh: lambda: keras.ops.tanh,
    jax.nn.elu: lambda alpha=1.0: partial(keras.ops.elu, alpha=alpha),
    jax.nn.leaky_relu: lambda negative_slope=1e-2: partial(keras.ops.leaky_relu, negative_slope=negative_slope),
    jax.nn.softplus: lambda: keras.ops.softplus,
}


def make_program(spec: Spec) -> Program:
    """Builds and compiles Keras's program.

    Args:
      spec: what to measure.

    Returns:
      The program, before its first step.

    Raises:
      Unavailable: Keras runs on another backend.
      Untranslatable: a layer has no translation.
    """
    if keras.backend.backend() != "jax":
        raise Unavailable(f"expected Keras on its JAX backend, got {keras.backend.backend()!r}; set KERAS_BACKEND=jax")
    return JaxProgram(spec, partial(make_model, spec))


def make_model(spec: Spec) -> JaxModel:
    """Builds the model as functions of a batch (batch, height, width, channels).

    Args:
      spec: what to measure.

    Returns:
      The model, with Keras's own initial parameters.
    """
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_bfloat16" if spec.precision == "bfloat16" else spec.precision)
    model = build(spec.model, spec.image_shape)
    params = [variable.value for variable in model.trainable_variables]
    state = [variable.value for variable in model.non_trainable_variables]

    def apply(params: Any, state: Any, images: jax.Array, train: bool, key: jax.Array | None) -> Any:
        return model.stateless_call(params, state, images, training=train)

    return JaxModel(params, state, apply, trees.count(params))


def build(layer: Layer, image_shape: tuple[int, ...]) -> keras.Model:
    """Builds the functional model of a layer.

    Args:
      layer: a layer or a whole model.
      image_shape: (height, width, channels) of one image.

    Returns:
      The model; its layers are named by the paths in `layer`, joined by ".".
    """
    images = keras.Input(image_shape)
    return keras.Model(images, translate(layer, images, "model"))


@singledispatch
def translate(layer: Layer, x: Any, name: str) -> Any:
    """Translates a layer into Keras layers, and calls them on a symbolic tensor.

    Args:
      layer: a layer or a whole model.
      x: symbolic tensor (batch, height, width, channels) or (batch, features).
      name: unique name of the layer.

    Returns:
      The symbolic result.

    Raises:
      Untranslatable: there is no translation; register one.
    """
    raise refuse("keras", layer)


class LayerScale(keras.layers.Layer):
    """One trained factor for each channel."""

    def __init__(self, channels: int, init_value: float, **options: Any) -> None:
        super().__init__(**options)
        self.channels, self.init_value = channels, init_value

    def build(self, input_shape: Any) -> None:
        """Makes the factors."""
        self.scale = self.add_weight(shape=(self.channels,), initializer=keras.initializers.Constant(self.init_value))

    def call(self, x: Any) -> Any:
        """Scales the channels."""
        return x * self.scale


@translate.register
def _(layer: layers.Sequential, x: Any, name: str) -> Any:
    for inner_name, inner in layer.layers:
        x = translate(inner, x, f"{name}.{inner_name}")
    return x


@translate.register
def _(layer: layers.AuxiliaryHeads, x: Any, name: str) -> Any:
    raise refuse("keras", layer, "the graph of a functional model is the same in training and inference")


@translate.register
def _(layer: layers.Residual, x: Any, name: str) -> Any:
    total = translate(layer.body, x, name) + translate(layer.shortcut, x, f"{name}.shortcut")
    return translate(layer.activation, total, f"{name}.activation")


@translate.register
def _(layer: layers.Concat, x: Any, name: str) -> Any:
    branches = [translate(branch, x, f"{name}.{branch_name}") for branch_name, branch in layer.layers]
    return keras.layers.Concatenate()(branches) if len(branches) > 1 else branches[0]


@translate.register
def _(layer: layers.Gate, x: Any, name: str) -> Any:
    weights = translate(layer.body, x, name)
    if len(weights.shape) < len(x.shape):
        weights = keras.layers.Reshape((1, 1, weights.shape[-1]))(weights)
    return x * weights


@translate.register
def _(layer: layers.Conv, x: Any, name: str) -> Any:
    x, padding = _padded(layer, x)
    options: dict[str, Any] = {
        "strides": pair(layer.strides),
        "padding": padding,
        "dilation_rate": pair(layer.dilation),
        "use_bias": layer.use_bias,
        "name": name,
    }
    if 1 < layer.groups == layer.in_channels:
        multiplier = layer.out_channels // layer.in_channels
        return keras.layers.DepthwiseConv2D(pair(layer.kernel_size), depth_multiplier=multiplier, **options)(x)
    return keras.layers.Conv2D(layer.out_channels, pair(layer.kernel_size), groups=layer.groups, **options)(x)


@translate.register
def _(layer: layers.ConvTranspose, x: Any, name: str) -> Any:
    if layer.border != "zeros":
        raise refuse("keras", layer, "only transposed convolutions with border 'zeros' are translated")
    (top, bottom), (left, right) = transpose_padding_sides(layer.padding)
    kernel, strides = pair(layer.kernel_size), pair(layer.strides)
    too_small = any(k < s for k, s in zip(kernel, strides, strict=True))
    if layer.groups > 1 or pair(layer.dilation) != (1, 1) or pair(layer.output_padding) != (0, 0) or too_small:
        raise refuse(
            "keras", layer, "groups, dilation, output padding and kernels smaller than the strides differ there"
        )
    x = keras.layers.Conv2DTranspose(layer.out_channels, kernel, strides, use_bias=layer.use_bias, name=name)(x)
    sides = ((top, bottom), (left, right))
    return x if sides == _NO_SIDES else keras.layers.Cropping2D(sides)(x)


@translate.register
def _(layer: layers.Dense, x: Any, name: str) -> Any:
    return keras.layers.Dense(layer.out_features, use_bias=layer.use_bias, name=name)(x)


@translate.register
def _(layer: layers.BatchNorm, x: Any, name: str) -> Any:
    return keras.layers.BatchNormalization(
        momentum=layer.decay, epsilon=layer.epsilon, center=layer.use_bias, scale=layer.use_scale, name=name
    )(x)


@translate.register
def _(layer: layers.LayerNorm, x: Any, name: str) -> Any:
    channels_of("keras", layer)
    return keras.layers.LayerNormalization(
        epsilon=layer.epsilon, center=layer.use_bias, scale=layer.use_scale, name=name
    )(x)


@translate.register
def _(layer: layers.GroupNorm, x: Any, name: str) -> Any:
    return keras.layers.GroupNormalization(
        layer.num_groups, epsilon=layer.epsilon, center=layer.use_bias, scale=layer.use_scale, name=name
    )(x)


@translate.register
def _(layer: layers.LayerScale, x: Any, name: str) -> Any:
    return LayerScale(layer.channels, layer.init_value, name=name)(x)


@translate.register
def _(layer: layers.MaxPool, x: Any, name: str) -> Any:
    window, strides, sides = undilated_window("keras", layer, x.shape[1:])
    if sides != _NO_SIDES:
        x = keras.ops.pad(x, ((0, 0), *sides, (0, 0)), constant_values=-float("inf"))
    return keras.layers.MaxPooling2D(window, strides)(x)


@translate.register
def _(layer: layers.AvgPool, x: Any, name: str) -> Any:
    window, strides, sides = plain_average("keras", layer, x.shape[1:])
    return keras.layers.AveragePooling2D(window, strides)(_with_zeros(x, sides))


@translate.register
def _(layer: layers.AdaptiveAvgPool, x: Any, name: str) -> Any:
    return keras.layers.AveragePooling2D(equal_windows("keras", layer, x.shape[1:]))(x)


@translate.register
def _(layer: AuxiliaryPool, x: Any, name: str) -> Any:
    return translate(layer.on(x.shape[1:]), x, name)


@translate.register
def _(layer: layers.GlobalAvgPool, x: Any, name: str) -> Any:
    return keras.layers.GlobalAveragePooling2D()(x)


@translate.register
def _(layer: layers.GlobalMaxPool, x: Any, name: str) -> Any:
    return keras.layers.GlobalMaxPooling2D()(x)


@translate.register
def _(layer: layers.Flatten, x: Any, name: str) -> Any:
    return keras.layers.Flatten()(x)


@translate.register
def _(layer: layers.Dropout, x: Any, name: str) -> Any:
    return keras.layers.Dropout(layer.rate)(x)


@translate.register
def _(layer: layers.DropPath, x: Any, name: str) -> Any:
    return keras.layers.Dropout(layer.rate, noise_shape=(None, *(1 for _ in x.shape[1:])))(x)


@translate.register
def _(layer: ZeroPadShortcut, x: Any, name: str) -> Any:
    taken = x[:, :: layer.strides, :: layer.strides]
    return keras.ops.pad(taken, ((0, 0), (0, 0), (0, 0), (0, layer.out_channels - layer.in_channels)))


@translate.register
def _(layer: layers.Function, x: Any, name: str) -> Any:
    return pointwise("keras", layer, _FUNCTIONS)(x)


def _padded(layer: layers.Conv, x: Any) -> tuple[Any, str]:
    """Applies the padding that Keras's convolutions do not support; returns the tensor and the remaining padding."""
    shape = x.shape[1:]
    sides = conv_sides(layer, shape)
    if layer.border != "zeros":
        return keras.ops.pad(x, ((0, 0), *sides, (0, 0)), mode=_BORDERS[layer.border]), "valid"
    kernel, strides, dilation = pair(layer.kernel_size), pair(layer.strides), pair(layer.dilation)
    if sides == ops.padding_sides((shape[0], shape[1]), kernel, strides, "SAME", dilation):
        return x, "same"
    return _with_zeros(x, sides), "valid"


def _shuffle(x: Any, groups: int) -> Any:
    *size, channels = x.shape[1:]
    grouped = keras.layers.Reshape((*size, groups, channels // groups))(x)
    return keras.layers.Reshape((*size, channels))(keras.ops.swapaxes(grouped, -1, -2))


def _with_zeros(x: Any, sides: Sides) -> Any:
    return x if sides == _NO_SIDES else keras.layers.ZeroPadding2D(sides)(x)
