"""Layers that apply functions without parameters."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxcnn.layers.stateless import Pure
from jaxcnn.values import Partial, Value


class Function(Partial, Pure):
    """A function of one array as a layer: `Function(jax.nn.relu)`, `Function(jax.nn.gelu, approximate=False)`.

    Two are equal if their functions and options are equal. So use a function with a name in a module: a lambda equals
    only itself, makes `jax.jit` trace every newly built model again, and cannot be pickled.

    Args:
      function: function of one image or its features; its output may have any shape.
      **options: hashable keyword arguments of the function.

    Raises:
      TypeError: the function is not callable, or an option is not hashable.
    """


def _identity(x: jax.Array) -> jax.Array:
    return x


identity = Function(_identity)
"""The layer that returns its input: instead of a head, or as a plain shortcut."""


@dataclass(frozen=True, repr=False)
class Flatten(Pure, Value):
    """Flattens one image to a vector, row by row, channels last: (height, width, channels) to (h * w * c,).

    torch flattens channels first: to exchange weights, permute the rows of the dense layer after it.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Flattens `x`, any shape."""
        return jnp.ravel(x)
