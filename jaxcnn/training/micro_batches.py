"""Splits a batch into micro-batches, so that only one of them needs memory at a time."""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.types import Example, State

Part = Callable[[State, Any, jax.Array], tuple[Any, State]]
"""Maps state, micro-batch and key to a tree of sums and the new state."""


def sum_over(part: Part, count: int, state: State, batch: Example, key: jax.Array) -> tuple[Any, State]:
    """Sums a function over the micro-batches of a batch, one after the other in a `jax.lax.scan`.

    Micro-batch i holds the examples i, i + count, i + 2 count and so on: on a mesh, each device keeps its examples.

    Args:
      part: the function; the state that it returns goes to the next micro-batch.
      count: number of micro-batches; 1 calls the function on the batch.
      state: the first state.
      batch: arrays of one length, which `count` divides.
      key: typed random key, consumed; split into one for each of several micro-batches.

    Returns:
      The sums and the last state.

    Raises:
      ValueError: `count` does not divide the batch.
    """
    if count == 1:
        return part(state, batch, key)
    each = split_in_turn(batch, count), jax.random.split(key, count)
    shapes, _ = jax.eval_shape(part, state, *jax.tree.map(lambda array: array[0], each))
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)

    def body(carry: tuple[Any, State], each: tuple[Any, jax.Array]) -> tuple[tuple[Any, State], None]:
        sums, state = carry
        more, state = part(state, *each)
        return (jax.tree.map(operator.add, sums, more), state), None

    (sums, state), _ = jax.lax.scan(body, (zeros, state), each)
    return sums, state


def split_in_turn(batch: Example, count: int) -> Example:
    """Splits a batch into micro-batches as `sum_over` does.

    Args:
      batch: arrays of one length, which `count` divides.
      count: number of micro-batches.

    Returns:
      The arrays, with the micro-batch as their first axis.

    Raises:
      ValueError: `count` does not divide the batch.
    """
    return jax.tree.map(lambda array: _split(array, count), batch)


def _split(array: jax.Array, count: int) -> jax.Array:
    if array.shape[0] % count:
        raise ValueError(f"micro_batches={count} expects a batch size that it divides, got {array.shape[0]} examples")
    return jnp.swapaxes(array.reshape(array.shape[0] // count, count, *array.shape[1:]), 0, 1)
