"""Flax: the model in the style of flax.linen, with XLA's default or best options."""

from collections.abc import Callable
from functools import partial, singledispatch
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn import layers, ops, trees
from jaxcnn.benchmark.jax_program import JaxModel, JaxProgram
from jaxcnn.benchmark.peers.common import (
    channels_of,
    conv_sides,
    equal_windows,
    pair,
    plain_average,
    refuse,
    undilated_window,
)
from jaxcnn.benchmark.program import Program, Unavailable
from jaxcnn.benchmark.spec import Spec
from jaxcnn.layers import output_shape
from jaxcnn.models.inception import AuxiliaryPool
from jaxcnn.models.resnet import ZeroPadShortcut
from jaxcnn.ops.arithmetic import transpose_padding_sides
from jaxcnn.types import Layer, Shape

BEST_OPTIONS = {"cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}}
"""Compiler options of flax-flags by platform: on CPU, YNNPACK for dense convolutions and matrix products."""

_BORDERS = {"edge": "edge", "reflect": "reflect", "circular": "wrap"}


def make_program(spec: Spec) -> Program:
    """Builds and compiles flax's program.

    Args:
      spec: what to measure.

    Returns:
      The program, before its first step.

    Raises:
      Unavailable: options are requested, but none are known for this platform or jaxlib refuses them.
      Untranslatable: a layer has no translation.
    """
    options = best_options() if spec.contestant == "flax-flags" else {}
    return JaxProgram(spec, partial(make_model, spec), compiler_options=options)


def best_options() -> dict[str, str]:
    """Returns the fastest known XLA options for plain XLA convolutions on this platform.

    Raises:
      Unavailable: none are known, or the installed jaxlib refuses them.
    """
    platform = jax.default_backend()
    if platform not in BEST_OPTIONS:
        raise Unavailable(f"no better XLA options than the defaults are known on {platform}")
    try:
        jax.jit(jnp.negative, compiler_options=BEST_OPTIONS[platform])(jnp.zeros(()))
    except RuntimeError as error:
        raise Unavailable(f"this jaxlib refuses {BEST_OPTIONS[platform]}: {error}") from error
    return BEST_OPTIONS[platform]


def make_model(spec: Spec) -> JaxModel:
    """Builds the model as functions of a batch (batch, height, width, channels).

    Args:
      spec: what to measure.

    Returns:
      The model, with flax's own initial parameters.
    """
    module = translate(spec.model, spec.image_shape, jnp.dtype(spec.precision))
    images = jnp.zeros((1, *spec.image_shape), spec.precision)
    variables = jax.jit(partial(module.init, train=False))(jax.random.key(0), images)

    def apply(params: Any, state: Any, images: jax.Array, train: bool, key: jax.Array | None) -> Any:
        variables = {"params": params, "batch_stats": state}
        if not train:
            return module.apply(variables, images, train=False), state
        rngs: Any = {"dropout": key}
        logits, updates = module.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
        return logits, updates.get("batch_stats", {})

    params, state = variables.get("params", {}), variables.get("batch_stats", {})
    return JaxModel(params, state, apply, trees.count(params))


@singledispatch
def translate(layer: Layer, shape: Shape, dtype: Any) -> nn.Module:
    """Translates a layer into a linen module of batches: `module(images, train)`.

    Args:
      layer: a layer or a whole model.
      shape: shape of its input, (height, width, channels) or (features,).
      dtype: dtype of the computation; parameters are float32.

    Returns:
      The module, with flax's own initial parameters.

    Raises:
      Untranslatable: there is no translation; register one.
    """
    raise refuse("flax", layer)


class Sequential(nn.Module):
    """Modules in a row."""

    modules: tuple[nn.Module, ...]

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Applies the modules in order."""
        for module in self.modules:
            x = module(x, train)
        return x


class Residual(nn.Module):
    """activation(body(x) + shortcut(x))."""

    body: nn.Module
    shortcut: nn.Module
    activation: nn.Module

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Applies body and shortcut."""
        return self.activation(self.body(x, train) + self.shortcut(x, train), train)


class AuxiliaryHeads(nn.Module):
    """Modules in a row, with auxiliary heads in training: (batch, heads, num_classes), the main head first."""

    modules: tuple[nn.Module, ...]
    heads: tuple[int, ...]

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Applies the modules, and in training the heads."""
        results = []
        for i, module in enumerate(self.modules):
            if i not in self.heads:
                x = module(x, train)
            elif train or self.is_initializing():
                results.append(module(x, train))
        return jnp.stack([x, *results], axis=1) if train else x


class Concat(nn.Module):
    """The outputs of the branches, concatenated along the channels."""

    branches: tuple[nn.Module, ...]

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Applies the branches."""
        return jnp.concatenate([branch(x, train) for branch in self.branches], axis=-1)


class Gate(nn.Module):
    """x * body(x), where the body may return one number for each channel."""

    body: nn.Module

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Scales the input by the body's output."""
        weights = self.body(x, train)
        return x * jnp.expand_dims(weights, tuple(range(1, 1 + x.ndim - weights.ndim)))


class Always(nn.Module):
    """A module or function that does not depend on `train`."""

    function: Callable[[jax.Array], jax.Array]

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Applies the module or function."""
        return self.function(x)


class BatchNorm(nn.Module):
    """`nn.BatchNorm`, with running moments in evaluation."""

    norm: nn.BatchNorm

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalises the batch."""
        return self.norm(x, use_running_average=not train)


class Dropout(nn.Module):
    """`nn.Dropout`, active only in training."""

    dropout: nn.Dropout

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Drops in training."""
        return self.dropout(x, deterministic=not train)


class LayerScale(nn.Module):
    """One trained factor for each channel."""

    channels: int
    init_value: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Scales the channels."""
        scale = self.param("scale", nn.initializers.constant(self.init_value), (self.channels,))
        return x * scale.astype(self.dtype)


@translate.register
def _(layer: layers.Sequential, shape: Shape, dtype: Any) -> nn.Module:
    modules = []
    for _, inner in layer.layers:
        modules.append(translate(inner, shape, dtype))
        shape = output_shape(inner, shape)
    return Sequential(tuple(modules))


@translate.register
def _(layer: layers.AuxiliaryHeads, shape: Shape, dtype: Any) -> nn.Module:
    modules = []
    for name, inner in layer.layers:
        modules.append(translate(inner, shape, dtype))
        shape = shape if name in layer.heads else output_shape(inner, shape)
    return AuxiliaryHeads(tuple(modules), tuple(layer.names.index(name) for name in layer.heads))


@translate.register
def _(layer: layers.Residual, shape: Shape, dtype: Any) -> nn.Module:
    return Residual(
        translate(layer.body, shape, dtype),
        translate(layer.shortcut, shape, dtype),
        translate(layer.activation, output_shape(layer, shape), dtype),
    )


@translate.register
def _(layer: layers.Concat, shape: Shape, dtype: Any) -> nn.Module:
    return Concat(tuple(translate(branch, shape, dtype) for _, branch in layer.layers))


@translate.register
def _(layer: layers.Gate, shape: Shape, dtype: Any) -> nn.Module:
    return Gate(translate(layer.body, shape, dtype))


@translate.register
def _(layer: layers.Conv, shape: Shape, dtype: Any) -> nn.Module:
    sides = conv_sides(layer, shape)
    zeros = layer.border == "zeros"
    conv = nn.Conv(
        layer.out_channels,
        pair(layer.kernel_size),
        pair(layer.strides),
        padding=sides if zeros else "VALID",
        kernel_dilation=pair(layer.dilation),
        feature_group_count=layer.groups,
        use_bias=layer.use_bias,
        dtype=dtype,
    )
    if zeros:
        return Always(conv)
    pad = partial(jnp.pad, pad_width=((0, 0), *sides, (0, 0)), mode=_BORDERS[layer.border])
    return Sequential((Always(pad), Always(conv)))


@translate.register
def _(layer: layers.ConvTranspose, shape: Shape, dtype: Any) -> nn.Module:
    if layer.border != "zeros":
        raise refuse("flax", layer, "only transposed convolutions with border 'zeros' are translated")
    if layer.groups > 1:
        raise refuse("flax", layer, "nn.ConvTranspose has no groups")
    kernel, dilation, extra = pair(layer.kernel_size), pair(layer.dilation), pair(layer.output_padding)
    sides = transpose_padding_sides(layer.padding)
    # Flax pads the dilated image; jaxcnn and torch remove pixels from the result.
    padding = [
        (d * (k - 1) - before, d * (k - 1) - after + e)
        for k, d, e, (before, after) in zip(kernel, dilation, extra, sides, strict=True)
    ]
    conv = nn.ConvTranspose(
        layer.out_channels,
        kernel,
        pair(layer.strides),
        padding=padding,
        kernel_dilation=dilation,
        use_bias=layer.use_bias,
        dtype=dtype,
    )
    return Always(conv)


@translate.register
def _(layer: layers.Dense, shape: Shape, dtype: Any) -> nn.Module:
    return Always(nn.Dense(layer.out_features, layer.use_bias, dtype=dtype))


@translate.register
def _(layer: layers.BatchNorm, shape: Shape, dtype: Any) -> nn.Module:
    norm = nn.BatchNorm(
        momentum=layer.decay,
        epsilon=layer.epsilon,
        use_scale=layer.use_scale,
        use_bias=layer.use_bias,
        dtype=dtype,
    )
    return BatchNorm(norm)


@translate.register
def _(layer: layers.LayerNorm, shape: Shape, dtype: Any) -> nn.Module:
    channels_of("flax", layer)
    return Always(nn.LayerNorm(layer.epsilon, use_scale=layer.use_scale, use_bias=layer.use_bias, dtype=dtype))


@translate.register
def _(layer: layers.GroupNorm, shape: Shape, dtype: Any) -> nn.Module:
    norm = nn.GroupNorm(
        layer.num_groups, epsilon=layer.epsilon, use_scale=layer.use_scale, use_bias=layer.use_bias, dtype=dtype
    )
    return Always(norm)


@translate.register
def _(layer: layers.LayerScale, shape: Shape, dtype: Any) -> nn.Module:
    return LayerScale(layer.channels, layer.init_value, dtype)


@translate.register
def _(layer: layers.MaxPool, shape: Shape, dtype: Any) -> nn.Module:
    window, strides, sides = undilated_window("flax", layer, shape)
    return Always(_pool(nn.max_pool, window, strides, sides))


@translate.register
def _(layer: layers.AvgPool, shape: Shape, dtype: Any) -> nn.Module:
    window, strides, sides = plain_average("flax", layer, shape)
    return Always(_pool(nn.avg_pool, window, strides, sides))


@translate.register
def _(layer: layers.AdaptiveAvgPool, shape: Shape, dtype: Any) -> nn.Module:
    window = equal_windows("flax", layer, shape)
    return Always(partial(nn.avg_pool, window_shape=window, strides=window))


@translate.register
def _(layer: AuxiliaryPool, shape: Shape, dtype: Any) -> nn.Module:
    return translate(layer.on(shape), shape, dtype)


@translate.register
def _(layer: layers.GlobalAvgPool, shape: Shape, dtype: Any) -> nn.Module:
    return Always(partial(jnp.mean, axis=(1, 2)))


@translate.register
def _(layer: layers.GlobalMaxPool, shape: Shape, dtype: Any) -> nn.Module:
    return Always(partial(jnp.max, axis=(1, 2)))


@translate.register
def _(layer: layers.Flatten, shape: Shape, dtype: Any) -> nn.Module:
    return Always(_flatten)


@translate.register
def _(layer: layers.Dropout, shape: Shape, dtype: Any) -> nn.Module:
    return Dropout(nn.Dropout(layer.rate))


@translate.register
def _(layer: layers.DropPath, shape: Shape, dtype: Any) -> nn.Module:
    # One draw for each image, broadcast over all its axes.
    return Dropout(nn.Dropout(layer.rate, broadcast_dims=tuple(range(1, len(shape) + 1))))


@translate.register
def _(layer: ZeroPadShortcut, shape: Shape, dtype: Any) -> nn.Module:
    return Always(partial(_zero_pad, strides=layer.strides, channels=layer.out_channels - layer.in_channels))


@translate.register
def _(layer: layers.Function, shape: Shape, dtype: Any) -> nn.Module:
    # flax's own function: jaxcnn's is optimized.
    return Always(partial(jax.nn.gelu, approximate=False) if layer.function is ops.gelu else jax.vmap(layer))


def _pool(pool: Callable[..., jax.Array], window: Any, strides: Any, sides: Any) -> Callable[..., jax.Array]:
    return partial(pool, window_shape=window, strides=strides, padding=sides)


def _flatten(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


def _zero_pad(x: jax.Array, strides: int, channels: int) -> jax.Array:
    return jnp.pad(x[:, ::strides, ::strides], ((0, 0), (0, 0), (0, 0), (0, channels)))
