"""The per-channel primitives of batch normalisation: sums over pixels, and a scale and shift of each channel.

    own_moments(x, shift)     mean of (x - shift), sum of squared deviations from the mean
    moments(x, y, shift)      sum of y, sum of (x - shift) * y
    affine(x, a, b, shift)    (x - shift) * a + b
    multiply(x, a)            x * a

Their derivatives are made of the same primitives. So the backward pass also reads its data once for both sums. It keeps
only x, where plain arithmetic would also keep x - mean. The shift is a constant in differentiation. On CPU the sums are
C++. On other platforms, and for the pixelwise primitives, they are plain JAX that XLA fuses with its neighbours.

Arrays are (images, pixels, channels). Per-channel arguments are (1, channels) or (images, channels). Sums are (images,
channels): one for each image.
"""

import functools
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxcnn.ops.lowering import native
from jaxcnn.ops.lowering.fallbacks import PLAIN_RULES


def own_moments(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes the mean of each image and channel, and the sum of squared deviations from it.

    Args:
      x: shape (images, pixels, channels), float32 or wider.
      shift: shape (1, channels) or (images, channels), a constant in differentiation. It should be near the mean. The
        mean is returned as its difference from `shift`, which is exact even if the mean is large and the deviations are
        small.

    Returns:
      Mean of (x - shift) over the pixels, and sum of (x - mean of x)^2, each of shape (images, channels).
    """
    return tuple(_own_moments.bind(x, shift))


def affine(x: jax.Array, a: jax.Array, b: jax.Array, shift: jax.Array) -> jax.Array:
    """Computes (x - shift) * a + b.

    Args:
      x: shape (images, pixels, channels), float32 or wider.
      a: shape (1, channels) or (images, channels).
      b: shape (1, channels) or (images, channels).
      shift: shape (1, channels) or (images, channels), a constant in differentiation.

    Returns:
      The shape of `x`.
    """
    return _affine.bind(x, a, b, shift)


def _moments_of(x: jax.Array, y: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    return tuple(_moments.bind(x, y, shift))


def _none(x: jax.Array) -> jax.Array:
    return jnp.zeros((1, x.shape[2]), x.dtype)


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    return _moments_of(x, y, _none(x))[1]


def _joined(sums: jax.Array, images: int) -> jax.Array:
    """Adds the sums of all images if the argument is shared by all images."""
    return jnp.sum(sums, axis=0, keepdims=True) if images == 1 else sums


_own_moments = Primitive("jaxcnn_own_moments")
_own_moments.multiple_results = True
_moments = Primitive("jaxcnn_moments")
_moments.multiple_results = True
_affine = Primitive("jaxcnn_affine")
_multiply = Primitive("jaxcnn_multiply")


def _sums_like(x: Any) -> list[Any]:
    return [x.update(shape=(x.shape[0], x.shape[2]), weak_type=False) for _ in range(2)]


_own_moments.def_abstract_eval(lambda x, shift: _sums_like(x))
_moments.def_abstract_eval(lambda x, y, shift: _sums_like(x))
_affine.def_abstract_eval(lambda x, a, b, shift: x.update(weak_type=False))
_multiply.def_abstract_eval(lambda x, a: x.update(weak_type=False))


def _is_zero(tangent: Any) -> bool:
    return type(tangent) is ad.Zero


def _constant_shift(tangent: Any) -> None:
    if not _is_zero(tangent):
        raise ValueError("the shift of a sum over pixels is a constant; pass it through jax.lax.stop_gradient")


def _own_moments_jvp(primals: Any, tangents: Any) -> Any:
    (x, shift), (dx, dshift) = primals, tangents
    _constant_shift(dshift)
    mean, squares = own_moments(x, shift)
    # `origin` is a constant near the mean. `mean + (shift - origin)` is zero up to rounding, but it has a derivative.
    origin = jax.lax.stop_gradient(mean + shift)
    first, second = _moments_of(x, dx, origin)
    return (mean, squares), (first / x.shape[1], 2 * (second - (mean + (shift - origin)) * first))


def _moments_jvp(primals: Any, tangents: Any) -> Any:
    (x, y, shift), (dx, dy, dshift) = primals, tangents
    _constant_shift(dshift)
    sums = _moments_of(x, y, shift)
    if _is_zero(dx):
        return sums, _moments_of(x, dy, shift)
    if _is_zero(dy):
        return sums, (jnp.zeros_like(sums[0]), _dot(y, dx))
    first, second = _moments_of(x, dy, shift)
    return sums, (first, second + _dot(y, dx))


def _affine_jvp(primals: Any, tangents: Any) -> Any:
    (x, a, b, shift), (dx, da, db, dshift) = primals, tangents
    _constant_shift(dshift)
    terms = []
    if not _is_zero(dx):
        terms.append(_multiply.bind(dx, a))
    if not (_is_zero(da) and _is_zero(db)):
        terms.append(affine(x, ad.instantiate_zeros(da), ad.instantiate_zeros(db), shift))
    return affine(x, a, b, shift), functools.reduce(operator.add, terms)


def _moments_transpose(sums: Any, x: Any, y: Any, shift: Any) -> Any:
    first, second = (ad.instantiate_zeros(total) for total in sums)
    return [None, affine(x, second, first, shift), None]


def _affine_transpose(dy: Any, x: Any, a: Any, b: Any, shift: Any) -> Any:
    first, second = _moments_of(x, dy, shift)
    da = _joined(second, a.aval.shape[0]) if ad.is_undefined_primal(a) else None
    db = _joined(first, b.aval.shape[0]) if ad.is_undefined_primal(b) else None
    return [None, da, db, None]


ad.primitive_jvps[_own_moments] = _own_moments_jvp
ad.primitive_jvps[_moments] = _moments_jvp
ad.primitive_jvps[_affine] = _affine_jvp
ad.primitive_transposes[_moments] = _moments_transpose
ad.primitive_transposes[_affine] = _affine_transpose
ad.defbilinear(
    _multiply,
    lambda dy, x, a: _multiply.bind(dy, a),
    lambda dy, x, a: _joined(_dot(x, dy), a.aval.shape[0]),
)


def _batch(primitive: Primitive, arrays: int, operands: Any, axes: Any) -> Any:
    """Folds a batch into the images: the first `arrays` operands are arrays, the others are per-channel."""
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    images = operands[0].shape[0] if axes[0] is None else jnp.moveaxis(operands[0], axes[0], 0).shape[1]
    folded = []
    for i, (x, axis) in enumerate(zip(operands, axes, strict=True)):
        if axis is None and i >= arrays and x.shape[0] == 1:
            folded.append(x)
            continue
        x = jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        x = jnp.broadcast_to(x, (size, images, *x.shape[2:]))
        folded.append(x.reshape(size * images, *x.shape[2:]))
    results = primitive.bind(*folded)

    def split(y: jax.Array) -> jax.Array:
        return y.reshape(size, images, *y.shape[1:])

    if primitive.multiple_results:
        return [split(y) for y in results], [0] * len(results)
    return split(results), 0


def _own_moments_rule(x: jax.Array, shift: jax.Array) -> list[jax.Array]:
    centred = x - shift[:, None]
    mean = jnp.mean(centred, axis=1)
    # Rounding can make the difference of two nearly equal numbers negative.
    return [mean, jnp.maximum(jnp.sum(jnp.square(centred), axis=1) - x.shape[1] * jnp.square(mean), 0)]


def _moments_rule(x: jax.Array, y: jax.Array, shift: jax.Array) -> list[jax.Array]:
    return [jnp.sum(y, axis=1), jnp.sum((x - shift[:, None]) * y, axis=1)]


def _affine_rule(x: jax.Array, a: jax.Array, b: jax.Array, shift: jax.Array) -> jax.Array:
    return (x - shift[:, None]) * a[:, None] + b[:, None]


def _multiply_rule(x: jax.Array, a: jax.Array) -> jax.Array:
    return x * a[:, None]


def _define(primitive: Primitive, arrays: int, rule: Callable[..., Any], in_native: Callable[..., Any] | None) -> None:
    """Registers the remaining rules of a primitive."""
    many = primitive.multiple_results
    primitive.def_impl(jax.jit(primitive.bind))
    batching.primitive_batchers[primitive] = partial(_batch, primitive, arrays)
    PLAIN_RULES[primitive] = rule
    mlir.register_lowering(primitive, mlir.lower_fun(rule, multiple_results=many))
    if in_native is None:
        return

    def lower_on_cpu(ctx: Any, *operands: Any) -> Any:
        chosen, split, images = rule, native.split_of(ctx), ctx.avals_in[0].shape[0]
        if split is not None and native.sums(ctx.avals_in[0]) and native.ready():
            chosen = split.each(in_native, [operand.shape[0] == images for operand in ctx.avals_in])
            ctx, operands, chosen = native.before_conversion(ctx, operands, arrays, chosen)
        return mlir.lower_fun(chosen, multiple_results=many)(ctx, *operands)

    mlir.register_lowering(primitive, lower_on_cpu, platform="cpu", cacheable=False)


_define(_own_moments, 1, _own_moments_rule, native.own_moments)
_define(_moments, 2, _moments_rule, native.moments)
_define(_affine, 1, _affine_rule, None)
_define(_multiply, 1, _multiply_rule, None)
