"""Initializers of `jax.nn.initializers`, as values that a layer can hold."""

from typing import Any

import jax

from jaxcnn.types import Shape
from jaxcnn.values import Partial


class Initializer(Partial):
    """An initializer with its options: `Initializer(jax.nn.initializers.variance_scaling, scale=2.0, ...)`.

    The function that `jax.nn.initializers.he_normal()` returns works too, but it equals only itself, so two models
    built the same way would differ.
    """

    def __call__(self, key: jax.Array, shape: Shape, dtype: Any) -> jax.Array:
        """Draws an array.

        Args:
          key: typed random key, consumed.
          shape: shape of the array; for kernels the last two axes are input and output.
          dtype: its dtype.

        Returns:
          The array.
        """
        return self.function(**dict(self.options))(key, shape, dtype)


lecun_normal = Initializer(jax.nn.initializers.lecun_normal)
"""Variance 1 / fan_in, truncated normal (LeCun et al. 1998): keeps the variance through linear layers."""

he_normal_fan_out = Initializer(jax.nn.initializers.variance_scaling, scale=2.0, mode="fan_out", distribution="normal")
"""Variance 2 / fan_out, normal (He et al. 2015, section 2.2, backward form): for convolutions before ReLU."""
