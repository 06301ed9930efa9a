"""Dropout and stochastic depth, for training."""

import math

import jax
import jax.numpy as jnp

from jaxcnn.ops.check import check_floating, check_rate


def dropout(key: jax.Array, x: jax.Array, rate: float, *, whole_channels: bool = False) -> jax.Array:
    """Sets each value to zero with probability `rate`, and scales the others by 1 / (1 - rate).

    This keeps the expectation of every value (Srivastava et al. 2014; scaled at training time).

    Args:
      key: typed random key, consumed.
      x: any shape, floating point.
      rate: probability of dropping, in [0, 1).
      whole_channels: whether all values of a channel, the last axis, are dropped together.

    Returns:
      Same shape and dtype as `x`: zero, or x / (1 - rate).

    Raises:
      ValueError: the rate is outside [0, 1).
      TypeError: `x` is not floating point.
    """
    check_floating("dropout", x)
    check_rate("dropout", rate)
    rate = float(rate)
    # Drawn along one axis: under vmap, XLA takes much longer to compile draws of several axes for CPU.
    shape = x.shape[-1:] if whole_channels else x.shape
    keep = jax.random.bernoulli(key, 1.0 - rate, (math.prod(shape),)).reshape(shape)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


def drop_path(key: jax.Array, x: jax.Array, rate: float | jax.Array) -> jax.Array:
    """Sets an image to zero with probability `rate`, or scales it up: stochastic depth (Huang et al. 2016).

    Put at the end of a residual branch, it skips the branch for this image.

    Args:
      key: typed random key, consumed.
      x: one image or its features, any shape, floating point.
      rate: probability of dropping, in [0, 1); a scalar array may change without a new compilation, and is not checked.

    Returns:
      Same shape and dtype as `x`: zeros, or x / (1 - rate).

    Raises:
      ValueError: the rate is a number outside [0, 1), or an array that is not a scalar.
      TypeError: `x` is not floating point.
    """
    check_floating("drop_path", x)
    if isinstance(rate, jax.Array):
        if rate.shape:
            raise ValueError(f"drop_path expects a rate that is a number or a scalar array, got shape {rate.shape}")
        kept = 1 - rate
        return jnp.where(jax.random.bernoulli(key, kept), x / kept.astype(x.dtype), jnp.zeros_like(x))
    check_rate("drop_path", rate)
    rate = float(rate)
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate), x / (1 - rate), jnp.zeros_like(x))
