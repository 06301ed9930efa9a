"""Equinox: the model in the style of its documentation, channels first, mapped over the batch by `jax.vmap`."""

# Pyright also checks this file without the peer, which declares the `__call__` of StatefulLayer as a field.
# pyright: reportMissingImports=false, reportCallIssue=false

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, singledispatch
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

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
from jaxcnn.benchmark.peers.plan import ELEMENTWISE, Call, Plan, Step, call_function, evaluate, plan_of
from jaxcnn.benchmark.program import Program
from jaxcnn.benchmark.spec import Spec
from jaxcnn.layers import Function
from jaxcnn.models.inception import AuxiliaryPool
from jaxcnn.models.resnet import ZeroPadShortcut
from jaxcnn.models.segmentation.u_net import check_size, check_valid_size
from jaxcnn.ops.arithmetic import transpose_padding_sides
from jaxcnn.types import Layer, Shape

_AXIS = "batch"
_POINTWISE = (
    jax.nn.relu,
    jax.nn.relu6,
    jax.nn.gelu,
    jax.nn.silu,
    jax.nn.hard_swish,
    jax.nn.hard_sigmoid,
    jax.nn.sigmoid,
    jax.nn.tanh,
    jnp.tanh,
    jax.nn.elu,
    jax.nn.leaky_relu,
    jax.nn.softplus,
)
_FUNCTIONS: dict[Any, Callable[..., eqx.Module]] = {
    IDENTITY: eqx.nn.Identity,
    check_size: lambda **options: eqx.nn.Identity(),
    check_valid_size: lambda **options: eqx.nn.Identity(),
    ops.gelu: lambda: eqx.nn.Lambda(partial(jax.nn.gelu, approximate=False)),
    ops.channel_slice: lambda start, stop: eqx.nn.Lambda(lambda x: x[start:stop]),
    ops.channel_shuffle: lambda groups: eqx.nn.Lambda(partial(_shuffle, groups=groups)),
    **{
        function: lambda function=function, **options: eqx.nn.Lambda(partial(function, **options))
        for function in _POINTWISE
    },
}


def make_program(spec: Spec) -> Program:
    """Builds and compiles Equinox's program.

    Args:
      spec: what to measure.

    Returns:
      The program, before its first step.

    Raises:
      Untranslatable: there is no translation of a layer.
    """
    return JaxProgram(spec, partial(make_model, spec, plan_of("equinox", spec)))


def make_model(spec: Spec, plan: Plan) -> JaxModel:
    """Builds the model as functions of a batch (batch, channels, height, width).

    Args:
      spec: what to measure.
      plan: the plan of the model, from `plan_of("equinox", ...)`.

    Returns:
      The model, with Equinox's own initial parameters.
    """
    modules, state = eqx.nn.make_with_state(_translated)(plan, jax.random.key(0))
    params, static = eqx.partition(modules, eqx.is_inexact_array)
    dtype = jnp.dtype(spec.precision)

    def apply(params: Any, state: Any, images: jax.Array, train: bool, key: jax.Array | None) -> Any:
        # Equinox computes in the dtype of the parameters.
        modules = eqx.combine(jax.tree.map(lambda leaf: leaf.astype(dtype), params), static)
        modules = modules if train else eqx.nn.inference_mode(modules)
        keys = None if key is None else jax.random.split(key, images.shape[0])
        one = partial(_run, plan, modules)
        in_axes = (0, None, None if keys is None else 0)
        results, state = jax.vmap(one, in_axes, out_axes=(0, None), axis_name=_AXIS)(images, state, keys)
        return jax.tree.map(lambda result: jnp.moveaxis(result, 1, -1), results), state

    return JaxModel(params, state, apply, trees.count(params), channels_first)


def _translated(plan: Plan, key: jax.Array) -> dict[str, eqx.Module]:
    """Translates all layers, by path."""
    keys = jax.random.split(key, len(plan.layers) + 1)
    return {path: translate(*called, k) for k, (path, called) in zip(keys, plan.layers.items(), strict=False)}


def channels_first(images: np.ndarray) -> np.ndarray:
    """Turns images (batch, height, width, channels) into (batch, channels, height, width)."""
    return np.ascontiguousarray(np.moveaxis(images, -1, 1))


def _run(plan: Plan, modules: dict[str, Any], x: jax.Array, state: Any, key: jax.Array | None) -> Any:
    """Runs a plan on one image; returns the tree of results and the new state."""
    own, *keys = [None] * (len(plan.steps) + 1) if key is None else jax.random.split(key, len(plan.steps) + 1)
    rest = iter(keys)
    plan = replace(plan, constants={name: _moved(value, -1, 0) for name, value in plan.constants.items()})

    def do(step: Step, operands: Sequence[Any]) -> Sequence[Any]:
        nonlocal state
        step_key = next(rest)
        if not isinstance(step.does, Call):
            return _operate(step.does, operands)
        x, module = operands[0], modules[step.does.path]
        if isinstance(module, eqx.nn.StatefulLayer):
            y, state = module(x, state, key=step_key)
        else:
            y = module(x, key=step_key)
        # Equinox's norms compute in float32.
        return [y.astype(x.dtype)]

    return plan.run(x, own, do), state


def _operate(does: Function | core.JaxprEqn, operands: Sequence[Any]) -> Sequence[Any]:
    """Computes an activation, a resize or another operation of one image (channels, height, width)."""
    if isinstance(does, Function):
        return [call_function(does, operands[0])]
    name = does.primitive.name
    if name in ELEMENTWISE:
        return evaluate(does, operands)
    if name == "concatenate" and jnp.ndim(operands[0]) == 3:
        return [jnp.concatenate(operands, (does.params["dimension"] + 1) % 3)]
    return [_moved(result, -1, 0) for result in evaluate(does, [_moved(one, 0, -1) for one in operands])]


def _moved(x: Any, source: int, target: int) -> Any:
    return jnp.moveaxis(x, source, target) if jnp.ndim(x) == 3 else x


@singledispatch
def translate(layer: Layer, shape: Shape, key: jax.Array) -> eqx.Module:
    """Translates a layer into an Equinox module of one image (channels, height, width) or (features,).

    Args:
      layer: a layer that is not made of layers.
      shape: shape of its input, (height, width, channels) or (features,).
      key: typed random key, consumed.

    Returns:
      The module, with Equinox's own initial parameters.

    Raises:
      Untranslatable: there is no translation; register one.
    """
    raise refuse("equinox", layer)


class PerPixel(eqx.Module):
    """A module of a vector, mapped over the pixels of an image."""

    module: Callable[..., jax.Array]

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Applies the module to the channels of each pixel."""
        return jax.vmap(jax.vmap(self.module, in_axes=1, out_axes=1), in_axes=2, out_axes=2)(x)


class LayerScale(eqx.Module):
    """One trained factor for each channel."""

    scale: jax.Array

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Scales the channels."""
        return x * self.scale


class DropPath(eqx.Module):
    """Stochastic depth, by one draw of `eqx.nn.Dropout` for the whole image."""

    dropout: eqx.nn.Dropout

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Drops the image or scales it up in training."""
        return x * self.dropout(jnp.ones((), x.dtype), key=key)


@translate.register
def _(layer: layers.Conv, shape: Shape, key: jax.Array) -> eqx.Module:
    modes = {"zeros": "ZEROS", "edge": "REPLICATE", "reflect": "REFLECT", "circular": "CIRCULAR"}
    return eqx.nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        pair(layer.kernel_size),
        pair(layer.strides),
        conv_sides(layer, shape),
        pair(layer.dilation),
        layer.groups,
        layer.use_bias,
        modes[layer.border],
        key=key,
    )


@translate.register
def _(layer: layers.ConvTranspose, shape: Shape, key: jax.Array) -> eqx.Module:
    if layer.border != "zeros":
        raise refuse("equinox", layer, "only transposed convolutions with border 'zeros' are translated")
    return eqx.nn.ConvTranspose2d(
        layer.in_channels,
        layer.out_channels,
        pair(layer.kernel_size),
        pair(layer.strides),
        pair(layer.output_padding),
        transpose_padding_sides(layer.padding),
        pair(layer.dilation),
        layer.groups,
        layer.use_bias,
        key=key,
    )


@translate.register
def _(layer: layers.Dense, shape: Shape, key: jax.Array) -> eqx.Module:
    return _per_pixel(eqx.nn.Linear(layer.in_features, layer.out_features, layer.use_bias, key=key), shape)


@translate.register
def _(layer: layers.BatchNorm, shape: Shape, key: jax.Array) -> eqx.Module:
    if layer.use_scale != layer.use_bias:
        raise refuse("equinox", layer, "its batch norm has both scale and bias or neither")
    return eqx.nn.BatchNorm(layer.channels, _AXIS, layer.epsilon, layer.use_scale, layer.decay, mode="batch")


@translate.register
def _(layer: layers.LayerNorm, shape: Shape, key: jax.Array) -> eqx.Module:
    norm = eqx.nn.LayerNorm(
        channels_of("equinox", layer), layer.epsilon, use_weight=layer.use_scale, use_bias=layer.use_bias
    )
    return _per_pixel(norm, shape)


@translate.register
def _(layer: layers.GroupNorm, shape: Shape, key: jax.Array) -> eqx.Module:
    if layer.use_scale != layer.use_bias:
        raise refuse("equinox", layer, "its group norm has both scale and bias or neither")
    return eqx.nn.GroupNorm(layer.num_groups, layer.channels, layer.epsilon, layer.use_scale)


@translate.register
def _(layer: layers.LayerScale, shape: Shape, key: jax.Array) -> eqx.Module:
    return LayerScale(jnp.full((layer.channels, *(1 for _ in shape[:-1])), layer.init_value))


@translate.register
def _(layer: layers.AdaptiveAvgPool, shape: Shape, key: jax.Array) -> eqx.Module:
    window = equal_windows("equinox", layer, shape)
    return eqx.nn.AvgPool2d(window, window)


@translate.register
def _(layer: ZeroPadShortcut, shape: Shape, key: jax.Array) -> eqx.Module:
    return eqx.nn.Lambda(partial(_zero_pad, strides=layer.strides, channels=layer.out_channels - layer.in_channels))


for _kind, _translation in {
    layers.MaxPool: lambda layer, shape, key: eqx.nn.MaxPool2d(*undilated_window("equinox", layer, shape)),
    layers.Resize: lambda layer, shape, key: eqx.nn.Lambda(jax_resize("equinox", layer, shape)),
    layers.AvgPool: lambda layer, shape, key: eqx.nn.AvgPool2d(*plain_average("equinox", layer, shape)),
    AuxiliaryPool: lambda layer, shape, key: translate(layer.on(shape), shape, key),
    layers.GlobalAvgPool: lambda layer, shape, key: eqx.nn.Lambda(partial(jnp.mean, axis=(1, 2))),
    layers.GlobalMaxPool: lambda layer, shape, key: eqx.nn.Lambda(partial(jnp.max, axis=(1, 2))),
    layers.Flatten: lambda layer, shape, key: eqx.nn.Lambda(jnp.ravel),
    layers.Dropout: lambda layer, shape, key: eqx.nn.Dropout(layer.rate),
    layers.DropPath: lambda layer, shape, key: DropPath(eqx.nn.Dropout(layer.rate)),
    layers.Function: lambda layer, shape, key: pointwise("equinox", layer, _FUNCTIONS),
}.items():
    translate.register(_kind, _translation)


def _shuffle(x: jax.Array, groups: int) -> jax.Array:
    grouped = x.reshape(groups, x.shape[0] // groups, *x.shape[1:])
    return jnp.swapaxes(grouped, 0, 1).reshape(x.shape)


def _zero_pad(x: jax.Array, strides: int, channels: int) -> jax.Array:
    return jnp.pad(x[:, ::strides, ::strides], ((0, channels), (0, 0), (0, 0)))


def _per_pixel(module: Any, shape: Shape) -> eqx.Module:
    return PerPixel(module) if len(shape) == 3 else module
