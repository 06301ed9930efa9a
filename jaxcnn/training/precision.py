"""The dtypes of a computation."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.ops.check import at_least_float32
from jaxcnn.values import Value


@dataclass(frozen=True, repr=False)
class Precision(Value):
    """The dtypes of a training or of an evaluation, by name.

    Small dtypes for parameters save memory, but an update that is much smaller than its parameter is rounded away: keep
    float32 unless you run out of memory.

    Attributes:
      compute: dtype of the images, and so of all layers. Layers compute in the dtype of their input.
      params: dtype of the parameters, or None to leave them as the model draws them, in float32.
      outputs: dtype of the model's outputs for the loss and the metrics, or None for float32 (float64 if `compute` is).
    """

    compute: str = "float32"
    params: str | None = None
    outputs: str | None = None

    def __post_init__(self) -> None:
        for name in ("compute", "params", "outputs"):
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, _dtype_name(name, given))

    def cast_images(self, images: jax.Array) -> jax.Array:
        """Casts images, or any array, to the dtype of the computation."""
        return images.astype(self.compute)

    def cast_params(self, params: Any) -> Any:
        """Casts the floating-point leaves of parameters; leaves them as they are if `params` is None."""
        return params if self.params is None else _cast(params, lambda dtype: self.params)

    def cast_outputs(self, outputs: Any) -> Any:
        """Casts the floating-point leaves of a model's outputs."""
        return _cast(outputs, lambda dtype: at_least_float32(dtype) if self.outputs is None else self.outputs)


def as_precision(precision: Any) -> Precision:
    """Turns a dtype of the computation into a `Precision`; returns a `Precision` as it is.

    Args:
      precision: a `Precision`; or a dtype or its name, such as "bfloat16", for `Precision(compute=...)`.

    Returns:
      The precision.

    Raises:
      ValueError: it is not a floating-point dtype.
    """
    return precision if isinstance(precision, Precision) else Precision(precision)


def _dtype_name(field: str, given: Any) -> str:
    try:
        dtype = jnp.dtype(given)
    except TypeError:
        dtype = None
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"Precision expects {field} as a floating-point dtype, such as 'float32' or 'bfloat16', got {given!r}"
        )
    return dtype.name


def _cast(tree: Any, chosen: Any) -> Any:
    return jax.tree.map(
        lambda leaf: leaf.astype(chosen(leaf.dtype)) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree
    )
