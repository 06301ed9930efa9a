"""Normalisation: moments over a batch, over groups of channels, over channels, over neighbouring channels."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.ops import lowering
from jaxcnn.ops.check import (
    at_least_float32,
    check_array,
    check_epsilon,
    check_floating,
    check_image,
    check_vector,
    is_int,
)
from jaxcnn.ops.sizes import is_known
from jaxcnn.ops.wide import over_channels


def batch_moments(x: jax.Array, axis_name: str, *, mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Computes each channel's mean and variance over the pixels of all images of a batch.

    The pixels are read once. The sums are those of differences from a sampled mean, so that the variance is accurate
    also far from zero (Chan, Golub & LeVeque 1983).

    In half precision, cast `x` to float32 once, for this function and `normalize`: the gradients of the two nearly
    cancel, and each is rounded to the dtype of its `x`.

    Args:
      x: one image of the batch, shape (height, width, channels), or its features, shape (channels,); floating point.
      axis_name: name of the `jax.vmap` axis that runs over the batch.
      mask: whether the image counts, shape (), or each of its pixels, shape (height, width); bool. None counts all. If
        nothing counts in the whole batch, both moments are zero.

    Returns:
      Mean and biased variance (divided by the count), each of shape (channels,), float32, or float64 for float64 `x`.

    Raises:
      ValueError: there is no axis of that name, `x` has neither one nor three axes, or the mask another shape.
      TypeError: `x` is not floating point, or the mask not bool.
    """
    check_array("batch_moments", x)
    if x.ndim != 1:
        check_image("batch_moments", x)
    check_floating("batch_moments", x)
    pixels = _as_pixels(x.astype(at_least_float32(x.dtype)))
    count = batch_count(x, axis_name, mask=mask)
    if mask is None:
        shift = lax.stop_gradient(lax.pmean(jnp.mean(_sample(pixels), axis=1), axis_name))
        mean, squares = lowering.own_moments(pixels, shift)
        first, second = mean, squares / pixels.shape[1] + jnp.square(mean)
        first, second = lax.pmean((first, second), axis_name)
    else:
        share = 1 / jnp.maximum(count, 1).astype(pixels.dtype)
        counts = jnp.broadcast_to(mask[..., None], (*x.shape[:-1], 1)).reshape(1, -1, 1)

        def mean_of(values: jax.Array) -> jax.Array:
            return lax.psum(jnp.sum(values, axis=1), axis_name) * share

        shift = lax.stop_gradient(mean_of(jnp.where(counts, pixels, 0)))
        # Masked pixels may be NaN. Zero them before squaring: 0 * NaN would be NaN in the gradient.
        centred = jnp.where(counts, pixels - shift[:, None], 0)
        first, second = mean_of(centred), mean_of(jnp.square(centred))
    var = second - jnp.square(first)
    # Rounding can make the difference of two nearly equal numbers negative. jnp.maximum would halve the gradient where
    # the difference is zero.
    return (first + shift)[0], jnp.where(var < 0, jnp.zeros_like(var), var)[0]


def _sample(pixels: jax.Array) -> jax.Array:
    """Takes at least 16 of an image's pixels, or all if it has fewer; one if their number is unknown.

    Images are (images, pixels, channels).
    """
    count = pixels.shape[1]
    return pixels[:, :: max(1, count // 16)] if is_known((count,)) else pixels[:, :1]


def batch_count(x: jax.Array, axis_name: str, *, mask: jax.Array | None = None) -> int | jax.Array:
    """Counts the pixels that `batch_moments` averages over.

    Args:
      x: one image of the batch, shape (height, width, channels), or its features, shape (channels,).
      axis_name: name of the `jax.vmap` axis that runs over the batch.
      mask: as in `batch_moments`.

    Returns:
      height * width * batch size, or the batch size for features. With a mask, the number of pixels that count, int32,
      shape ().

    Raises:
      ValueError: there is no axis of that name, or the mask has another shape.
      TypeError: the mask is not bool.
    """
    try:
        batch_size = lax.axis_size(axis_name)
    except NameError:
        raise ValueError(
            f"batch normalisation in training expects a batch: a jax.vmap with axis_name={axis_name!r}, got one image; "
            "use jaxcnn.batched, or train=False to use the running moments"
        ) from None
    if mask is None:
        return math.prod(x.shape[:-1]) * batch_size
    if mask.shape not in ((), x.shape[:-1]):
        raise ValueError(f"expected a mask of shape () or {x.shape[:-1]}, one bool for each pixel, got {mask.shape}")
    if mask.dtype != jnp.bool_:
        raise TypeError(f"expected a mask of bools, got {mask.dtype}")
    return lax.psum(jnp.sum(jnp.broadcast_to(mask, x.shape[:-1]), dtype=jnp.int32), axis_name)


def normalize(
    x: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    *,
    epsilon: float,
) -> jax.Array:
    """Brings each channel to mean zero and variance one, then scales and shifts it.

    (x - mean) / sqrt(var + epsilon) * scale + bias (Ioffe & Szegedy 2015, algorithm 1).

    Args:
      x: shape (..., channels), floating point.
      mean: shape (channels,).
      var: shape (channels,), at least zero.
      scale: shape (channels,), or None for one.
      bias: shape (channels,), or None for zero.
      epsilon: added to the variance, so that a constant channel gives zeros, not NaN; at least 0.

    Returns:
      Same shape and dtype as `x`; computed in at least float32.

    Raises:
      ValueError: the shapes do not fit together, or epsilon is negative.
      TypeError: `x` is not floating point.
    """
    _check_affine("normalize", x, epsilon, mean=mean, var=var, scale=scale, bias=bias)
    dtype = at_least_float32(x.dtype)
    mean = mean.astype(dtype)
    # 1 / sqrt is more accurate than lax.rsqrt on CPU, and runs once for each channel.
    factor = 1 / jnp.sqrt(var.astype(dtype) + jnp.asarray(epsilon, dtype))
    if scale is not None:
        factor = factor * scale.astype(dtype)
    # Subtract the mean as a constant, which is exact where it is large. Its gradient comes from `term`, where the mean
    # minus the constant is zero.
    origin = lax.stop_gradient(mean)
    term = (origin - mean) * factor
    if bias is not None:
        term = term + bias.astype(dtype)
    if not is_known(x.shape):
        # JAX cannot reshape to a product of unknown sizes in every case.
        return ((x.astype(dtype) - origin) * factor + term).astype(x.dtype)
    y = lowering.affine(_as_pixels(x.astype(dtype)), factor[None], term[None], origin[None])
    return y.reshape(x.shape).astype(x.dtype)


def _as_pixels(x: jax.Array) -> jax.Array:
    """Brings an array (..., channels) to (1, pixels, channels)."""
    return x.reshape(1, math.prod(x.shape[:-1]), x.shape[-1])


def group_norm(
    x: jax.Array,
    num_groups: int,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    *,
    epsilon: float = 1e-5,
) -> jax.Array:
    """Normalises one image over its pixels and groups of neighbouring channels (Wu & He 2018).

    One group is layer norm over the whole image; as many groups as channels is instance norm.

    Args:
      x: image, shape (height, width, channels), floating point.
      num_groups: number of groups; it divides the channels.
      scale: shape (channels,), or None for one.
      bias: shape (channels,), or None for zero.
      epsilon: added to the variance; at least 0.

    Returns:
      Same shape and dtype as `x`; computed in at least float32.

    Raises:
      ValueError: `x` is not one image, or the groups do not divide its channels.
      TypeError: `x` is not floating point.
    """
    check_image("group_norm", x)
    _check_affine("group_norm", x, epsilon, scale=scale, bias=bias)
    channels = x.shape[2]
    if not is_int(num_groups) or num_groups < 1 or channels % num_groups:
        raise ValueError(f"group_norm expects groups that divide the {channels} channels, got {num_groups!r}")
    size = channels // num_groups
    pixels = _as_pixels(x.astype(at_least_float32(x.dtype)))

    def mean_of(values: jax.Array) -> jax.Array:
        """Averages numbers of channels, shape (1, channels), over groups: (1, num_groups, 1)."""
        return jnp.mean(values.reshape(1, num_groups, size), axis=2, keepdims=True)

    def spread(values: jax.Array) -> jax.Array:
        return jnp.broadcast_to(values, (1, num_groups, size)).reshape(1, channels)

    # Subtract a constant near the mean first, to avoid cancellation.
    shift = spread(lax.stop_gradient(mean_of(jnp.mean(_sample(pixels), axis=1))))
    means, squares = lowering.own_moments(pixels, shift)
    mean = mean_of(means)
    var = mean_of(squares / pixels.shape[1] + jnp.square(means - spread(mean)))
    factor = spread(1 / jnp.sqrt(var + jnp.asarray(epsilon, var.dtype)))
    if scale is not None:
        factor = factor * over_channels(scale, factor)
    term = -spread(mean) * factor
    if bias is not None:
        term = term + over_channels(bias, term)
    if not is_known(x.shape):
        y = (pixels - shift[:, None]) * factor[:, None] + term[:, None]
    else:
        y = lowering.affine(pixels, factor, term, shift)
    return y.reshape(x.shape).astype(x.dtype)


def layer_norm(
    x: jax.Array,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    *,
    num_axes: int = 1,
    epsilon: float = 1e-6,
) -> jax.Array:
    """Normalises over the last axes (Ba et al. 2016), such as each pixel over its channels (Liu et al. 2022, ConvNeXt).

    Args:
      x: shape (..., channels), floating point.
      scale: the shape of the last `num_axes` axes, or None for one.
      bias: the same shape, or None for zero.
      num_axes: number of axes to normalise over: 1 for the channels of each pixel, 3 for a whole image.
      epsilon: added to the variance; at least 0.

    Returns:
      Same shape and dtype as `x`; computed in at least float32.

    Raises:
      ValueError: the shapes do not fit together, or `num_axes` is not in [1, axes of `x`].
      TypeError: `x` is not floating point.
    """
    check_array("layer_norm", x)
    if not is_int(num_axes) or not 1 <= num_axes <= max(x.ndim, 1):
        raise ValueError(f"layer_norm expects a num_axes from 1 to the {x.ndim} axes of the array, got {num_axes!r}")
    _check_affine("layer_norm", x, epsilon, num_axes, scale=scale, bias=bias)
    return _normalized(x, scale, bias, tuple(range(-num_axes, 0)), epsilon)


def local_response_norm(
    x: jax.Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> jax.Array:
    """Divides each value by a power of the energy of its neighbouring channels (Krizhevsky et al. 2012, section 3.3).

    x / (k + alpha / size * sum of squares over `size` channels)^beta: torch's convention. The paper's alpha is not
    divided: its k=2, n=5, alpha=1e-4 is `k=2.0, size=5, alpha=5e-4` here. Channels beyond the first and last count as
    zero; an even size takes one channel more below than above.

    Args:
      x: image, shape (height, width, channels), floating point.
      size: number of neighbouring channels, at least 1.
      alpha: weight of their mean square, at least 0.
      beta: exponent.
      k: added to the weighted mean square; positive.

    Returns:
      Same shape and dtype as `x`; computed in at least float32.

    Raises:
      ValueError: `x` is not one image, the size is not a positive int, k is not positive or alpha is negative.
      TypeError: `x` is not floating point.
    """
    check_image("local_response_norm", x)
    if not is_int(size) or size < 1:
        raise ValueError(f"local_response_norm expects a size of at least 1 channel, got {size!r}")
    if not (0 < k < np.inf and 0 <= alpha < np.inf):
        raise ValueError(
            "local_response_norm expects a positive k and an alpha of at least 0, which keep it from dividing by zero, "
            f"got k={k!r}, alpha={alpha!r}"
        )
    wide = x.astype(at_least_float32(x.dtype))
    below = size // 2
    energy = lax.reduce_window(
        jnp.square(wide), 0.0, lax.add, (1, 1, size), (1, 1, 1), ((0, 0), (0, 0), (below, size - 1 - below))
    )
    return (wide / (k + alpha / size * energy) ** beta).astype(x.dtype)


def _check_affine(op: str, x: jax.Array, epsilon: float, num_axes: int = 1, **factors: jax.Array | None) -> None:
    check_floating(op, x)
    check_epsilon(op, epsilon)
    if x.ndim == 0:
        raise ValueError(f"{op} expects an array of shape (..., channels), got a scalar")
    for name, factor in factors.items():
        if num_axes == 1:
            check_vector(op, name, factor, x.shape[-1])
        elif factor is not None:
            check_floating(f"{op}, {name}", factor)
            if factor.shape != x.shape[-num_axes:]:
                raise ValueError(f"{op} expects a {name} of shape {x.shape[-num_axes:]}, got {factor.shape}")


# For the gradient, only the arguments are kept and the rest is computed again. XLA would keep the deviations, and the
# scale and the standard deviations broadcast to the size of the image.
@partial(jax.checkpoint, static_argnums=(3, 4))
def _normalized(
    x: jax.Array, scale: jax.Array | None, bias: jax.Array | None, axes: tuple[int, ...], epsilon: float
) -> jax.Array:
    """Normalises over some of the last axes."""
    wide = x.astype(at_least_float32(x.dtype))
    # Subtract the mean twice: first as a rounded constant, then what its rounding left.
    wide = wide - lax.stop_gradient(jnp.mean(wide, axes, keepdims=True))
    centred = wide - jnp.mean(wide, axes, keepdims=True)
    var = jnp.mean(jnp.square(centred), axes, keepdims=True)
    y = centred * lax.rsqrt(var + jnp.asarray(epsilon, var.dtype))
    y = y if scale is None else y * over_channels(scale, y)
    y = y if bias is None else y + over_channels(bias, y)
    return y.astype(x.dtype)
