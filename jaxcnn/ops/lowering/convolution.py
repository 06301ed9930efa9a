"""Convolution as three bilinear primitives, each lowered for the platform it runs on.

Convolution is bilinear in image and kernel, and so are its gradients with respect to either:

    convolve(x, kernel)    input_gradient(dy, kernel)    kernel_gradient(x, dy)

Each one's transposes are the other two, so the set is closed under differentiation of any order and mode. The batch of
a `jax.vmap` over images folds into the batch axis that the primitives have, so that the gradient of a batch is one
kernel gradient, not one for each image; a batch of kernels folds into channels or groups. The platform is chosen when a
program is lowered: on CPU the C++ kernels of `lowering.native` and the rules of `lowering.cpu_jax`, elsewhere XLA's own
convolution and its transposes.

Arrays are (batch, height, width, channels), kernels (height, width, in_channels / groups, out_channels).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxcnn.ops.lowering import cpu_jax, native, xla
from jaxcnn.ops.lowering.fallbacks import PLAIN_RULES
from jaxcnn.ops.lowering.geometry import Geometry

Pair = tuple[int, int]


def convolve(x: jax.Array, kernel: jax.Array, geometry: Geometry, output_size: Pair) -> jax.Array:
    """Cross-correlates images with a kernel.

    Args:
      x: shape (batch, height, width, in_channels).
      kernel: shape (kernel_height, kernel_width, in_channels / groups, out_channels), in the dtype of `x`.
      geometry: strides, padding, dilation and groups.
      output_size: (height, width) of the result, as `jaxcnn.ops.conv_output_size` computes it.

    Returns:
      Shape (batch, *output_size, out_channels), in the dtype of `x`.
    """
    return _convolve.bind(x, kernel, geometry=geometry, output_size=output_size)


def input_gradient(dy: jax.Array, kernel: jax.Array, geometry: Geometry, input_size: Pair) -> jax.Array:
    """Transposes `convolve` with respect to its images.

    Args:
      dy: shape (batch, out_height, out_width, out_channels).
      kernel: shape (kernel_height, kernel_width, in_channels / groups, out_channels), in the dtype of `dy`.
      geometry: of the convolution.
      input_size: (height, width) of its images.

    Returns:
      Shape (batch, *input_size, in_channels), in the dtype of `dy`.
    """
    return _input_gradient.bind(dy, kernel, geometry=geometry, input_size=input_size)


def kernel_gradient(x: jax.Array, dy: jax.Array, geometry: Geometry, kernel_size: Pair) -> jax.Array:
    """Transposes `convolve` with respect to its kernel.

    Args:
      x: shape (batch, height, width, in_channels).
      dy: shape (batch, out_height, out_width, out_channels), in the dtype of `x`.
      geometry: of the convolution.
      kernel_size: (height, width) of its kernel.

    Returns:
      Shape (*kernel_size, in_channels / groups, out_channels), in the dtype of `x`.
    """
    return _kernel_gradient.bind(x, dy, geometry=geometry, kernel_size=kernel_size)


_convolve = Primitive("jaxcnn_convolve")
_input_gradient = Primitive("jaxcnn_input_gradient")
_kernel_gradient = Primitive("jaxcnn_kernel_gradient")


def _like(operand: Any, shape: tuple[int, ...]) -> Any:
    """Describes a result with the dtype and the sharding of an operand, with which it shares the four axes."""
    return operand.update(shape=shape, weak_type=False)


@_convolve.def_abstract_eval
def _(x: Any, kernel: Any, *, geometry: Geometry, output_size: Pair) -> Any:
    return _like(x, (x.shape[0], *output_size, kernel.shape[3]))


@_input_gradient.def_abstract_eval
def _(dy: Any, kernel: Any, *, geometry: Geometry, input_size: Pair) -> Any:
    return _like(dy, (dy.shape[0], *input_size, kernel.shape[2] * geometry.groups))


@_kernel_gradient.def_abstract_eval
def _(x: Any, dy: Any, *, geometry: Geometry, kernel_size: Pair) -> Any:
    return _like(x, (*kernel_size, x.shape[3] // geometry.groups, dy.shape[3]))


ad.defbilinear(
    _convolve,
    lambda dy, x, kernel, *, geometry, output_size: input_gradient(dy, kernel, geometry, x.aval.shape[1:3]),
    lambda dy, x, kernel, *, geometry, output_size: kernel_gradient(x, dy, geometry, kernel.aval.shape[:2]),
)
ad.defbilinear(
    _input_gradient,
    lambda dx, dy, kernel, *, geometry, input_size: convolve(dx, kernel, geometry, dy.aval.shape[1:3]),
    lambda dx, dy, kernel, *, geometry, input_size: kernel_gradient(dx, dy, geometry, kernel.aval.shape[:2]),
)
ad.defbilinear(
    _kernel_gradient,
    lambda dk, x, dy, *, geometry, kernel_size: input_gradient(dy, dk, geometry, x.aval.shape[1:3]),
    lambda dk, x, dy, *, geometry, kernel_size: convolve(x, dk, geometry, dy.aval.shape[1:3]),
)


# Batching. An image's channels are laid out (group, channel of the group), and so are a kernel's outputs. A batch of
# kernels becomes more channels of each group where one operand is shared, and more groups where none is.


def _fold_images(x: jax.Array, axis: int) -> tuple[jax.Array, int]:
    """Moves a batch axis into the images' own: (batch * images, height, width, channels)."""
    x = jnp.moveaxis(x, axis, 0)
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), x.shape[0]


def _split_images(y: jax.Array, batch: int) -> jax.Array:
    return y.reshape(batch, y.shape[0] // batch, *y.shape[1:])


def _fold_channels(x: jax.Array, axis: int, groups: int) -> jax.Array:
    """Moves a batch axis of an image or a kernel into its last axis: (..., group, batch, channel)."""
    x = jnp.moveaxis(x, axis, -2)
    *outer, batch, channels = x.shape
    x = x.reshape(*outer, batch, groups, channels // groups)
    return jnp.swapaxes(x, -3, -2).reshape(*outer, groups * batch * (channels // groups))


def _split_channels(y: jax.Array, batch: int, groups: int) -> jax.Array:
    """Undoes `_fold_channels`, with the batch first."""
    *outer, channels = y.shape
    y = jnp.moveaxis(y.reshape(*outer, groups, batch, channels // (groups * batch)), -2, 0)
    return y.reshape(batch, *outer, channels // batch)


def _fold_groups(x: jax.Array, axis: int) -> jax.Array:
    """Moves a batch axis before the last axis' groups: (..., batch * group * channel)."""
    x = jnp.moveaxis(x, axis, -2)
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def _split_groups(y: jax.Array, batch: int) -> jax.Array:
    """Undoes `_fold_groups`, with the batch first."""
    return jnp.moveaxis(y.reshape(*y.shape[:-1], batch, y.shape[-1] // batch), -2, 0)


def _fold_kernel_inputs(kernel: jax.Array, axis: int) -> jax.Array:
    """Moves a batch axis of a kernel into its input channels: (height, width, batch * in, out)."""
    kernel = jnp.moveaxis(kernel, axis, 2)
    height, width, batch, channels, outputs = kernel.shape
    return kernel.reshape(height, width, batch * channels, outputs)


def _batch_convolve(operands: Any, axes: Any, *, geometry: Geometry, output_size: Pair) -> tuple[jax.Array, int]:
    (x, kernel), (x_axis, kernel_axis) = operands, axes
    groups = geometry.groups
    if kernel_axis is None:
        x, batch = _fold_images(x, x_axis)
        return _split_images(convolve(x, kernel, geometry, output_size), batch), 0
    batch = kernel.shape[kernel_axis]
    if x_axis is None:
        y = convolve(x, _fold_channels(kernel, kernel_axis, groups), geometry, output_size)
        return _split_channels(y, batch, groups), 0
    folded = geometry.times_groups(batch)
    y = convolve(_fold_groups(x, x_axis), _fold_groups(kernel, kernel_axis), folded, output_size)
    return _split_groups(y, batch), 0


def _batch_input_gradient(operands: Any, axes: Any, *, geometry: Geometry, input_size: Pair) -> tuple[jax.Array, int]:
    (dy, kernel), (dy_axis, kernel_axis) = operands, axes
    groups = geometry.groups
    if kernel_axis is None:
        dy, batch = _fold_images(dy, dy_axis)
        return _split_images(input_gradient(dy, kernel, geometry, input_size), batch), 0
    batch = kernel.shape[kernel_axis]
    if dy_axis is None:
        dx = input_gradient(dy, _fold_kernel_inputs(kernel, kernel_axis), geometry, input_size)
        return _split_channels(dx, batch, groups), 0
    folded = geometry.times_groups(batch)
    dx = input_gradient(_fold_groups(dy, dy_axis), _fold_groups(kernel, kernel_axis), folded, input_size)
    return _split_groups(dx, batch), 0


def _batch_kernel_gradient(operands: Any, axes: Any, *, geometry: Geometry, kernel_size: Pair) -> tuple[jax.Array, int]:
    (x, dy), (x_axis, dy_axis) = operands, axes
    groups = geometry.groups
    if x_axis is None:
        batch = dy.shape[dy_axis]
        dk = kernel_gradient(x, _fold_channels(dy, dy_axis, groups), geometry, kernel_size)
        return _split_channels(dk, batch, groups), 0
    batch = x.shape[x_axis]
    if dy_axis is None:
        dk = kernel_gradient(_fold_channels(x, x_axis, groups), dy, geometry, kernel_size)
        height, width, channels, outputs = dk.shape
        return jnp.moveaxis(dk.reshape(height, width, batch, channels // batch, outputs), 2, 0), 0
    folded = geometry.times_groups(batch)
    dk = kernel_gradient(_fold_groups(x, x_axis), _fold_groups(dy, dy_axis), folded, kernel_size)
    return _split_groups(dk, batch), 0


def _define(
    primitive: Primitive,
    batch: Callable[..., Any],
    image_and_kernel: Callable[..., tuple[Any, tuple[int, ...]]],
    general: Callable[..., Any],
    on_cpu: Callable[..., Any],
    in_native: Callable[..., Any],
    *,
    is_summed: bool = False,
) -> None:
    """Gives a primitive its remaining rules: outside of jit, under vmap, and on each platform."""

    @partial(jax.jit, static_argnames=("geometry", "output_size", "input_size", "kernel_size"))
    def run(*operands: jax.Array, **options: Any) -> jax.Array:
        return primitive.bind(*operands, **options)

    def batch_of_any_size(operands: Any, axes: Any, **options: Any) -> tuple[jax.Array, int]:
        avals = [
            jax.ShapeDtypeStruct(x.shape if axis is None else (*x.shape[:axis], *x.shape[axis + 1 :]), x.dtype)
            for x, axis in zip(operands, axes, strict=True)
        ]
        sizes = [x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None]
        if sizes[0] == 0:
            y = jax.eval_shape(partial(primitive.bind, **options), *avals)
            return jnp.zeros((0, *y.shape), y.dtype), 0
        return batch(operands, axes, **options)

    def lower_on_cpu(ctx: Any, *operands: Any, **options: Any) -> Any:
        image, kernel_shape = image_and_kernel(*ctx.avals_in, **options)
        rule, split = on_cpu, native.split_of(ctx)
        if split is not None and native.takes(image, kernel_shape, options["geometry"]) and native.ready():
            rule = split.each(in_native, (True, is_summed), is_summed=is_summed)
        return mlir.lower_fun(_in_its_precision(rule), multiple_results=False)(ctx, *operands, **options)

    primitive.def_impl(run)
    batching.primitive_batchers[primitive] = batch_of_any_size
    PLAIN_RULES[primitive] = general
    mlir.register_lowering(primitive, mlir.lower_fun(_in_its_precision(general), multiple_results=False))
    mlir.register_lowering(primitive, lower_on_cpu, platform="cpu")


def _in_its_precision(rule: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a rule so that it is lowered with the precision stored in its geometry."""

    def lowered(*operands: jax.Array, geometry: Geometry, **options: Any) -> jax.Array:
        with jax.default_matmul_precision(geometry.precision):
            return rule(*operands, geometry=geometry, **options)

    return lowered


_define(
    _convolve,
    _batch_convolve,
    lambda x, kernel, **_: (x, kernel.shape),
    xla.convolve,
    cpu_jax.convolve,
    native.convolve,
)
_define(
    _input_gradient,
    _batch_input_gradient,
    lambda dy, kernel, **_: (dy, kernel.shape),
    xla.input_gradient,
    cpu_jax.input_gradient,
    native.input_gradient,
)
_define(
    _kernel_gradient,
    _batch_kernel_gradient,
    lambda x, dy, *, geometry, kernel_size: (x, (*kernel_size, x.shape[3] // geometry.groups, dy.shape[3])),
    xla.kernel_gradient,
    cpu_jax.kernel_gradient,
    native.kernel_gradient,
    is_summed=True,
)

# A convolution in the layout of the others, so that converters need not flip a kernel.
PLAIN_RULES[_input_gradient] = xla.input_gradient_as_convolution
