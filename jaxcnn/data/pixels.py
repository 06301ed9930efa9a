"""Pixels of 8 bits as numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_LEVELS = np.divide(np.arange(256), 255, dtype=np.float32)


def unit_pixels(images: Any) -> Any:
    """Converts pixels of 8 bits to float32 in [0, 1]; others stay as they are.

    Both kinds of arrays give the same bits. On the device they come from a table, since XLA would multiply by the
    rounded 1 / 255.

    Args:
      images: arrays of NumPy or JAX, of any shape.

    Returns:
      An array of the same kind and shape.
    """
    if images.dtype != np.uint8:
        return images
    if isinstance(images, jax.Array):
        return jnp.asarray(_LEVELS).at[images].get(mode="promise_in_bounds")
    return np.divide(images, 255, dtype=np.float32)
