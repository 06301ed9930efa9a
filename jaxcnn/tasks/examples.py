"""Reads the labels and weights of a batch for the tasks."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.ops.check import at_least_float32
from jaxcnn.types import Example, Mean


def take(task: str, batch: Example, name: str) -> jax.Array:
    """Takes an array of a batch, with zeros in the examples of weight 0.

    Args:
      task: name of the calling task, for the message.
      batch: the examples.
      name: the array to take.

    Returns:
      The array. Examples of weight 0 hold zeros, so that padding cannot make a gradient NaN.

    Raises:
      ValueError: the batch has no such array, or its "weight" is not of shape (batch,).
    """
    if name not in batch:
        raise ValueError(f"{task} expects a batch with {name!r}, got {sorted(batch)}")
    array = jnp.asarray(batch[name])
    if "weight" not in batch:
        return array
    used = _weights_of(batch, array) != 0
    return jnp.where(jnp.expand_dims(used, tuple(range(1, array.ndim))), array, jnp.zeros((), array.dtype))


def weighted(totals: jax.Array, weights: Any, batch: Example) -> Mean:
    """Sums values of examples by the weights of the examples.

    Args:
      totals: shape (batch, ...), floating point.
      weights: weight of each total before that of its example, of the same shape; or one number for all.
      batch: the examples.

    Returns:
      The mean, of the shape without the batch, in float32 or float64. Examples of weight 0 do not count, even if their
      total is NaN.

    Raises:
      ValueError: the "weight" of the batch is not of shape (batch,).
    """
    totals = totals.astype(at_least_float32(totals.dtype))
    each = _weights_of(batch, totals)
    each = jnp.broadcast_to(jnp.expand_dims(each, tuple(range(1, totals.ndim))), totals.shape)
    weights = jnp.broadcast_to(jnp.asarray(weights, totals.dtype), totals.shape)
    total = jnp.where(each == 0, jnp.zeros((), totals.dtype), totals * each)
    return Mean(jnp.sum(total, 0), jnp.sum(weights * each, 0))


def _weights_of(batch: Example, like: jax.Array) -> jax.Array:
    """Returns the weights of the examples, (batch,), in the dtype of an array if it is floating point, else float32."""
    dtype = like.dtype if jnp.issubdtype(like.dtype, jnp.floating) else jnp.float32
    if "weight" not in batch:
        return jnp.ones(like.shape[:1], dtype)
    weight = jnp.asarray(batch["weight"])
    if weight.shape != like.shape[:1]:
        raise ValueError(f'a batch expects "weight" of shape {like.shape[:1]}, got {weight.shape}')
    return weight.astype(dtype)
