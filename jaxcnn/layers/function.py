"""Layers around functions without parameters."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxcnn.layers.stateless import Stateless
from jaxcnn.types import Params, State
from jaxcnn.values import Partial, Value


class Function(Stateless, Partial):
    """A function of one array as a layer: `Function(jax.nn.relu)`, `Function(jax.nn.gelu, approximate=False)`.

    Two of them are equal when function and options are, so name the function in a module: a lambda equals only itself,
    makes `jax.jit` trace every newly built model again, and cannot be pickled.

    Args:
      function: takes one image or its features, returns the same of any shape.
      **options: hashable keyword arguments for it.

    Raises:
      TypeError: the function is not callable, or an option cannot be hashed.
    """

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Calls the function on `x`."""
        del params, train, key
        return self(x), state


def _identity(x: jax.Array) -> jax.Array:
    return x


identity = Function(_identity)
"""The layer that returns what it is given: an empty place for a head, a plain shortcut."""


@dataclass(frozen=True, repr=False)
class Flatten(Stateless, Value):
    """Lays out one image as a vector, row by row, channels last: (height, width, channels) to (h * w * c,).

    torch flattens channels first: the rows of a dense layer behind it must be permuted to exchange weights.
    """

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Flattens `x`, any shape."""
        del params, train, key
        return jnp.ravel(x), state
