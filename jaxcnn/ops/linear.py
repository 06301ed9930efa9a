"""The fully connected layer of one image or vector."""

import jax
import jax.numpy as jnp

from jaxcnn.ops.check import check_array, check_floating, check_vector
from jaxcnn.ops.wide import add_bias


def dense(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Multiplies the last axis by a matrix.

    Applied to an image, this equals a 1x1 convolution.

    Args:
      x: shape (..., in_features), floating point.
      kernel: shape (in_features, out_features); computed in the dtype of `x`.
      bias: shape (out_features,), or None.

    Returns:
      Shape (..., out_features), in the dtype of `x`.

    Raises:
      ValueError: the shapes do not fit together.
      TypeError: `x` is not floating point.
    """
    check_array("dense", x)
    if kernel.ndim != 2:
        raise ValueError(f"dense expects a kernel of shape (in_features, out_features), got {kernel.shape}")
    if x.ndim < 1 or x.shape[-1] != kernel.shape[0]:
        raise ValueError(
            f"dense expects {kernel.shape[0]} features on the last axis, got shape {x.shape}; "
            "put Flatten or a global pooling before it if this is an image"
        )
    check_floating("dense", x)
    check_floating("dense, kernel", kernel)
    check_vector("dense", "bias", bias, kernel.shape[1])
    return add_bias(jnp.matmul(x, kernel.astype(x.dtype)), bias)
