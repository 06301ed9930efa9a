"""Flax: the model in the style of flax.linen, with XLA's default or best options."""

from collections.abc import Callable, Mapping, Sequence
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
    jax_resize,
    pair,
    plain_average,
    refuse,
    undilated_window,
)
from jaxcnn.benchmark.peers.plan import Call, Plan, Step, operate_on_batch, plan_of
from jaxcnn.benchmark.program import Program, Unavailable
from jaxcnn.benchmark.spec import Spec
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
    return JaxProgram(spec, partial(make_model, spec, plan_of("flax", spec)), compiler_options=options)


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


def make_model(spec: Spec, plan: Plan) -> JaxModel:
    """Builds the model as functions of a batch (batch, height, width, channels).

    Args:
      spec: what to measure.
      plan: the plan of the model, from `plan_of("flax", ...)`.

    Returns:
      The model, with flax's own initial parameters.
    """
    module = build(plan, jnp.dtype(spec.precision))
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


def build(plan: Plan, dtype: Any) -> "Model":
    """Builds the module of a model.

    Args:
      plan: its plan, from `make_plan("flax", ...)`.
      dtype: dtype of the computation; parameters are float32.

    Returns:
      The module: `module(images, train)`, with flax's own initial parameters.

    Raises:
      Untranslatable: there is no translation of a layer.
    """
    return Model({path: translate(*called, dtype) for path, called in plan.layers.items()}, plan)


@singledispatch
def translate(layer: Layer, shape: Shape, dtype: Any) -> nn.Module:
    """Translates a layer into a linen module of batches: `module(images, train)`.

    Args:
      layer: a layer that is not made of layers.
      shape: shape of its input, (height, width, channels) or (features,).
      dtype: dtype of the computation; parameters are float32.

    Returns:
      The module, with flax's own initial parameters.

    Raises:
      Untranslatable: there is no translation; register one.
    """
    raise refuse("flax", layer)


class Model(nn.Module):
    """The modules of a model's layers, and the plan that uses them.

    Attributes:
      layers: the modules by path.
      plan: the plan, from `make_plan("flax", ...)`.
    """

    layers: Mapping[str, nn.Module]
    plan: Plan

    def __call__(self, x: jax.Array, train: bool) -> Any:
        """Runs the plan on a batch; returns the tree of results."""
        if self.is_initializing():
            # Also layers that only training calls, such as auxiliary heads.
            for path, (_, shape) in self.plan.layers.items():
                self.layers[path](jnp.zeros((1, *shape), x.dtype), train)
        keys = jax.random.split(self.make_rng("dropout"), x.shape[0]) if self.plan.draws() else None
        return self.plan.run(x, keys, partial(self._do, train))

    def _do(self, train: bool, step: Step, operands: Sequence[Any]) -> Sequence[Any]:
        if isinstance(step.does, Call):
            return [self.layers[step.does.path](operands[0], train)]
        return operate_on_batch(step.does, operands)


class Always(nn.Module):
    """A module or function that does not depend on `train`."""

    function: Callable[[jax.Array], jax.Array]

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Applies the module or function."""
        return self.function(x)


class Padded(nn.Module):
    """A convolution after a padding that it does not support."""

    pad: Callable[[jax.Array], jax.Array]
    conv: nn.Module

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Pads, then applies the convolution."""
        return self.conv(self.pad(x))


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
    return Padded(pad, conv)


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
def _(layer: layers.DropPath, shape: Shape, dtype: Any) -> nn.Module:
    # One draw for each image, broadcast over all its axes.
    return Dropout(nn.Dropout(layer.rate, broadcast_dims=tuple(range(1, len(shape) + 1))))


@translate.register
def _(layer: ZeroPadShortcut, shape: Shape, dtype: Any) -> nn.Module:
    return Always(partial(_zero_pad, strides=layer.strides, channels=layer.out_channels - layer.in_channels))


@translate.register
def _(layer: layers.Function, shape: Shape, dtype: Any) -> nn.Module:
    # flax's own functions: those of jaxcnn are optimized.
    if layer.function is ops.resize:
        return Always(jax_resize("flax", layers.Resize(**dict(layer.options)), shape))
    return Always(partial(jax.nn.gelu, approximate=False) if layer.function is ops.gelu else jax.vmap(layer))


for _kind, _translation in {
    layers.Dense: lambda layer, shape, dtype: Always(nn.Dense(layer.out_features, layer.use_bias, dtype=dtype)),
    layers.LayerScale: lambda layer, shape, dtype: LayerScale(layer.channels, layer.init_value, dtype),
    layers.Resize: lambda layer, shape, dtype: Always(jax_resize("flax", layer, shape)),
    AuxiliaryPool: lambda layer, shape, dtype: translate(layer.on(shape), shape, dtype),
    layers.GlobalAvgPool: lambda layer, shape, dtype: Always(partial(jnp.mean, axis=(1, 2))),
    layers.GlobalMaxPool: lambda layer, shape, dtype: Always(partial(jnp.max, axis=(1, 2))),
    layers.Flatten: lambda layer, shape, dtype: Always(_flatten),
    layers.Dropout: lambda layer, shape, dtype: Dropout(nn.Dropout(layer.rate)),
}.items():
    translate.register(_kind, _translation)


def _pool(pool: Callable[..., jax.Array], window: Any, strides: Any, sides: Any) -> Callable[..., jax.Array]:
    return partial(pool, window_shape=window, strides=strides, padding=sides)


def _flatten(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


def _zero_pad(x: jax.Array, strides: int, channels: int) -> jax.Array:
    return jnp.pad(x[:, ::strides, ::strides], ((0, 0), (0, 0), (0, 0), (0, channels)))
