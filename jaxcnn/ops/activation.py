"""Activations that are faster here than in `jax.nn`, where all others come from."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops.check import at_least_float32, check_floating


def gelu(x: jax.Array) -> jax.Array:
    """Weights each value by the probability that a normal variable is below it (Hendrycks & Gimpel 2016).

    x * (1 + erf(x / sqrt(2))) / 2, as torch computes it; 0 at -inf, where torch gives NaN.
    `jax.nn.gelu(x, approximate=False)` computes the same function with erfc, which keeps relative precision where the
    result is nearly zero, costs several times as much, and keeps three arrays for the gradient. This one keeps only `x`
    and computes the others again.

    Args:
      x: any shape, floating point.

    Returns:
      Same shape and dtype as `x`; computed in at least float32.

    Raises:
      TypeError: `x` is not floating point.
    """
    check_floating("gelu", x)
    return _gelu(x.astype(at_least_float32(x.dtype))).astype(x.dtype)


@jax.checkpoint
def _gelu(x: jax.Array) -> jax.Array:
    # -inf * 0 would be NaN, where the limit is 0.
    x = jnp.where(x == -jnp.inf, jnp.finfo(x.dtype).min, x)
    return x * ((1 + lax.erf(x * math.sqrt(0.5))) / 2)
