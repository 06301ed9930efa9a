"""Keras on its JAX backend: a functional model, called statelessly as in its guide to custom training loops."""

# Pyright also checks this file without the peer.
# pyright: reportMissingImports=false

from collections.abc import Callable, Mapping, Sequence
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
    jax_resize,
    pair,
    plain_average,
    pointwise,
    refuse,
    undilated_window,
)
from jaxcnn.benchmark.peers.plan import Call, Plan, Step, operate_on_batch, plan_of
from jaxcnn.benchmark.program import Program, Unavailable, Untranslatable
from jaxcnn.benchmark.spec import Spec
from jaxcnn.models.inception import AuxiliaryPool
from jaxcnn.models.resnet import ZeroPadShortcut
from jaxcnn.models.segmentation.u_net import check_size, check_valid_size
from jaxcnn.ops.arithmetic import transpose_padding_sides
from jaxcnn.ops.check import Sides
from jaxcnn.types import Layer, Shape

_BORDERS = {"edge": "edge", "reflect": "reflect", "circular": "wrap"}
_NO_SIDES = ((0, 0), (0, 0))

_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    IDENTITY: lambda: _same,
    check_size: lambda **options: _same,
    check_valid_size: lambda **options: _same,
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
      Untranslatable: there is no translation of a layer, or a forward draws random numbers.
    """
    if keras.backend.backend() != "jax":
        raise Unavailable(f"expected Keras on its JAX backend, got {keras.backend.backend()!r}; set KERAS_BACKEND=jax")
    return JaxProgram(spec, partial(make_model, spec, plan_of("keras", spec)))


def make_model(spec: Spec, plan: Plan) -> JaxModel:
    """Builds the model as functions of a batch (batch, height, width, channels).

    Args:
      spec: what to measure.
      plan: the plan of the model, from `plan_of("keras", ...)`.

    Returns:
      The model, with Keras's own initial parameters.
    """
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_bfloat16" if spec.precision == "bfloat16" else spec.precision)
    model, parameters = build(plan, spec.image_shape)
    params = [variable.value for variable in model.trainable_variables]
    state = [variable.value for variable in model.non_trainable_variables]

    def apply(params: Any, state: Any, images: jax.Array, train: bool, key: jax.Array | None) -> Any:
        return model.stateless_call(params, state, images, training=train)

    return JaxModel(params, state, apply, parameters)


def build(plan: Plan, image_shape: Shape) -> tuple[keras.Model, int]:
    """Builds the functional model of a plan.

    Args:
      plan: the plan of the model, from `plan_of("keras", ...)`.
      image_shape: (height, width, channels) of one image.

    Returns:
      The model, whose layers have the names `name_of(path)`; and the number of its parameters in training.

    Raises:
      Untranslatable: there is no translation of a layer, or a forward draws random numbers.
    """
    if plan.draws():
        raise Untranslatable("keras has no counterpart of random numbers that a forward draws; draw them in a layer")
    functions = {path: translate(*called, name_of(path)) for path, called in plan.layers.items()}

    def do(step: Step, operands: Sequence[Any]) -> Sequence[Any]:
        if isinstance(step.does, Call):
            return [functions[step.does.path](operands[0])]
        return Between(step.does, step.outputs, operands)([one for one in operands if _is_symbolic(one)])

    images = keras.Input(image_shape, dtype=plan.image.aval.dtype.name)
    model = keras.Model(images, plan.run(images, None, do))
    variables = [*model.trainable_variables, *_others(plan, functions)]
    return model, trees.count([variable.value for variable in variables])


def name_of(path: str) -> str:
    """Returns the name of the Keras layer that stands for the layer of a path."""
    return f"model.{path}".replace("/", ".")


def _others(plan: Plan, functions: Mapping[str, Callable[[Any], Any]]) -> list[Any]:
    """Returns the trained variables of the layers that only training calls, such as auxiliary heads."""
    called = {step.does.path for step in plan.steps if isinstance(step.does, Call)}
    inputs = {path: keras.Input(shape) for path, (_, shape) in plan.layers.items() if path not in called}
    outputs = [functions[path](x) for path, x in inputs.items()]
    return keras.Model(list(inputs.values()), outputs).trainable_variables if outputs else []


class Between(keras.layers.Layer):
    """An activation or an operation between layers, computed by JAX, which is Keras's backend.

    Args:
      does: the activation or operation.
      outputs: variables of its results.
      operands: its operands, symbolic tensors and constants.
    """

    def __init__(self, does: Any, outputs: Sequence[Any], operands: Sequence[Any]) -> None:
        super().__init__(autocast=False)
        self.does, self.outputs, self.operands = does, outputs, operands

    def call(self, tensors: Sequence[Any]) -> list[Any]:
        """Computes the results from the tensors among the operands."""
        rest = iter(tensors)
        given = [next(rest) if _is_symbolic(one) else one for one in self.operands]
        return list(operate_on_batch(self.does, given))

    def compute_output_spec(self, tensors: Sequence[Any]) -> list[Any]:
        """Returns the shapes of the results, as traced."""
        return [keras.KerasTensor((None, *one.aval.shape), one.aval.dtype.name) for one in self.outputs]


def _is_symbolic(operand: Any) -> bool:
    return isinstance(operand, keras.KerasTensor)


@singledispatch
def translate(layer: Layer, shape: Shape, name: str) -> Callable[[Any], Any]:
    """Translates a layer into Keras layers.

    Args:
      layer: a layer that is not made of layers.
      shape: shape of its input, (height, width, channels) or (features,).
      name: unique name of the layer.

    Returns:
      A function of a symbolic tensor (batch, height, width, channels) or (batch, features), which calls them.

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
def _(layer: layers.Conv, shape: Shape, name: str) -> Callable[[Any], Any]:
    pad, padding = _padding(layer, shape)
    options: dict[str, Any] = {
        "strides": pair(layer.strides),
        "padding": padding,
        "dilation_rate": pair(layer.dilation),
        "use_bias": layer.use_bias,
        "name": name,
    }
    if 1 < layer.groups == layer.in_channels:
        multiplier = layer.out_channels // layer.in_channels
        conv = keras.layers.DepthwiseConv2D(pair(layer.kernel_size), depth_multiplier=multiplier, **options)
    else:
        conv = keras.layers.Conv2D(layer.out_channels, pair(layer.kernel_size), groups=layer.groups, **options)
    return _after(pad, conv)


@translate.register
def _(layer: layers.ConvTranspose, shape: Shape, name: str) -> Callable[[Any], Any]:
    if layer.border != "zeros":
        raise refuse("keras", layer, "only transposed convolutions with border 'zeros' are translated")
    sides = transpose_padding_sides(layer.padding)
    kernel, strides = pair(layer.kernel_size), pair(layer.strides)
    too_small = any(k < s for k, s in zip(kernel, strides, strict=True))
    if layer.groups > 1 or pair(layer.dilation) != (1, 1) or pair(layer.output_padding) != (0, 0) or too_small:
        raise refuse(
            "keras", layer, "groups, dilation, output padding and kernels smaller than the strides differ there"
        )
    conv = keras.layers.Conv2DTranspose(layer.out_channels, kernel, strides, use_bias=layer.use_bias, name=name)
    return conv if sides == _NO_SIDES else _after(conv, keras.layers.Cropping2D(sides))


@translate.register
def _(layer: layers.BatchNorm, shape: Shape, name: str) -> Callable[[Any], Any]:
    return keras.layers.BatchNormalization(
        momentum=layer.decay, epsilon=layer.epsilon, center=layer.use_bias, scale=layer.use_scale, name=name
    )


@translate.register
def _(layer: layers.LayerNorm, shape: Shape, name: str) -> Callable[[Any], Any]:
    channels_of("keras", layer)
    return keras.layers.LayerNormalization(
        epsilon=layer.epsilon, center=layer.use_bias, scale=layer.use_scale, name=name
    )


@translate.register
def _(layer: layers.GroupNorm, shape: Shape, name: str) -> Callable[[Any], Any]:
    return keras.layers.GroupNormalization(
        layer.num_groups, epsilon=layer.epsilon, center=layer.use_bias, scale=layer.use_scale, name=name
    )


@translate.register
def _(layer: layers.MaxPool, shape: Shape, name: str) -> Callable[[Any], Any]:
    window, strides, sides = undilated_window("keras", layer, shape)
    pool = keras.layers.MaxPooling2D(window, strides)
    return pool if sides == _NO_SIDES else _after(_pad(sides, constant_values=-float("inf")), pool)


@translate.register
def _(layer: layers.AvgPool, shape: Shape, name: str) -> Callable[[Any], Any]:
    window, strides, sides = plain_average("keras", layer, shape)
    return _after(_zeros(sides), keras.layers.AveragePooling2D(window, strides))


@translate.register
def _(layer: layers.AdaptiveAvgPool, shape: Shape, name: str) -> Callable[[Any], Any]:
    return keras.layers.AveragePooling2D(equal_windows("keras", layer, shape))


@translate.register
def _(layer: layers.DropPath, shape: Shape, name: str) -> Callable[[Any], Any]:
    return keras.layers.Dropout(layer.rate, noise_shape=(None, *(1 for _ in shape)))


@translate.register
def _(layer: ZeroPadShortcut, shape: Shape, name: str) -> Callable[[Any], Any]:
    sides = ((0, 0), (0, 0), (0, 0), (0, layer.out_channels - layer.in_channels))
    return lambda x: keras.ops.pad(x[:, :: layer.strides, :: layer.strides], sides)


for _kind, _translation in {
    layers.Dense: lambda layer, shape, name: keras.layers.Dense(layer.out_features, use_bias=layer.use_bias, name=name),
    layers.LayerScale: lambda layer, shape, name: LayerScale(layer.channels, layer.init_value, name=name),
    layers.Resize: lambda layer, shape, name: keras.layers.Lambda(jax_resize("keras", layer, shape)),
    AuxiliaryPool: lambda layer, shape, name: translate(layer.on(shape), shape, name),
    layers.GlobalAvgPool: lambda layer, shape, name: keras.layers.GlobalAveragePooling2D(),
    layers.GlobalMaxPool: lambda layer, shape, name: keras.layers.GlobalMaxPooling2D(),
    layers.Flatten: lambda layer, shape, name: keras.layers.Flatten(),
    layers.Dropout: lambda layer, shape, name: keras.layers.Dropout(layer.rate),
    layers.Function: lambda layer, shape, name: pointwise("keras", layer, _FUNCTIONS),
}.items():
    translate.register(_kind, _translation)


def _padding(layer: layers.Conv, shape: Shape) -> tuple[Callable[[Any], Any], str]:
    """Returns the padding that Keras's convolutions do not support, as a function, and the remaining padding."""
    sides = conv_sides(layer, shape)
    if layer.border != "zeros":
        return _pad(sides, mode=_BORDERS[layer.border]), "valid"
    kernel, strides, dilation = pair(layer.kernel_size), pair(layer.strides), pair(layer.dilation)
    if sides == ops.padding_sides((shape[0], shape[1]), kernel, strides, "SAME", dilation):
        return _same, "same"
    return _zeros(sides), "valid"


def _pad(sides: Sides, **options: Any) -> Callable[[Any], Any]:
    return partial(keras.ops.pad, pad_width=((0, 0), *sides, (0, 0)), **options)


def _zeros(sides: Sides) -> Callable[[Any], Any]:
    return _same if sides == _NO_SIDES else keras.layers.ZeroPadding2D(sides)


def _same(x: Any) -> Any:
    return x


def _after(first: Callable[[Any], Any], second: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: second(first(x))


def _shuffle(x: Any, groups: int) -> Any:
    *size, channels = x.shape[1:]
    grouped = keras.layers.Reshape((*size, groups, channels // groups))(x)
    return keras.layers.Reshape((*size, channels))(keras.ops.swapaxes(grouped, -1, -2))
