"""Sizes of images that are not known until a program is called: the symbolic dimensions of `jax.export`."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.export import is_symbolic_dim


def is_known(shape: tuple[Any, ...]) -> bool:
    """Tells whether all sizes are numbers.

    Args:
      shape: ints or symbolic dimensions.

    Returns:
      False where there is a symbolic dimension.
    """
    return not any(map(is_symbolic_dim, shape))


def as_number(size: Any) -> Any:
    """Turns a size into a number for arithmetic.

    Args:
      size: an int or a symbolic dimension.

    Returns:
      The int, or the dimension as an int32 array of shape ().
    """
    return jnp.asarray(size, jnp.int32) if is_symbolic_dim(size) else size


def positions(size: Any) -> Any:
    """Returns the integers from 0 to size - 1.

    Args:
      size: an int or a symbolic dimension.

    Returns:
      Integers of shape (size,): a NumPy array, which can become a constant; a JAX array for a symbolic dimension.
    """
    return jnp.arange(size, dtype=jnp.int32) if is_symbolic_dim(size) else np.arange(size)
