"""Weighted sums of a few pixels along one axis, as a linear primitive.

Each output reads only its own pixels, so an infinite pixel affects only the outputs that use it. A product with a
matrix that is zero elsewhere would spread it as NaN. The transpose is the same operation: each pixel reads the outputs
that used it. `jnp.take` alone would transpose to a scatter, which is slow on CPU and sums in no fixed order on GPU.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxcnn.ops.lowering.fallbacks import PLAIN_RULES

_WRITTEN_OUT = 16
"""Largest number of taps that are summed one by one, which XLA fuses. With more taps, the pixels are gathered first."""


@dataclass(frozen=True)
class _Table:
    """Pixels and weights, both (outputs, taps), as a hashable value."""

    size: int
    outputs: int
    place_bytes: bytes
    weight_bytes: bytes

    @classmethod
    def of(cls, size: int, places: np.ndarray, weights: np.ndarray) -> "_Table":
        return cls(size, len(places), places.astype(np.int64).tobytes(), weights.astype(np.float64).tobytes())

    @cached_property
    def places(self) -> np.ndarray:
        return np.frombuffer(self.place_bytes, np.int64).reshape(self.outputs, -1)

    @cached_property
    def weights(self) -> np.ndarray:
        return np.frombuffer(self.weight_bytes, np.float64).reshape(self.outputs, -1)

    @cached_property
    def transposed(self) -> "_Table":
        """The table of the transpose, with as many taps as the largest number of outputs that use one pixel."""
        output, tap = np.nonzero(self.weights)
        # At a border an output may read a pixel several times: these weights are added.
        entries, same = np.unique(self.places[output, tap] * self.outputs + output, return_inverse=True)
        weight = np.bincount(same, self.weights[output, tap], len(entries))
        place, output = np.divmod(entries, self.outputs)
        readers = np.bincount(place, minlength=self.size)
        rank = np.arange(len(place)) - (np.cumsum(readers) - readers)[place]
        places, weights = (np.zeros((self.size, max(readers.max(initial=0), 1)), dtype) for dtype in (int, float))
        places[place, rank], weights[place, rank] = output, weight
        return _Table.of(self.outputs, places, weights)


def resample(x: jax.Array, axis: int, places: Any, weights: Any) -> jax.Array:
    """Computes weighted sums of pixels along an axis. A pixel of weight zero is ignored, even if it is infinite.

    Args:
      x: floating point, at least float32.
      axis: the axis of the sums.
      places: the pixels of each output, shape (outputs, taps), integers of at least 0 and less than the size of the
        axis: NumPy arrays where that size is known.
      weights: their weights, same shape.

    Returns:
      The shape and dtype of `x`, with `outputs` as the size of the axis.
    """
    if isinstance(places, np.ndarray) and isinstance(weights, np.ndarray):
        return _resample.bind(x, axis=axis, table=_Table.of(x.shape[axis], places, weights))
    return _gathered(x, axis, places, weights)


_resample = Primitive("jaxcnn_resample")


@_resample.def_abstract_eval
def _(x: Any, *, axis: int, table: _Table) -> Any:
    shape = (*x.shape[:axis], table.outputs, *x.shape[axis + 1 :])
    return x.update(shape=shape, weak_type=False)


def _by_table(x: jax.Array, *, axis: int, table: _Table) -> jax.Array:
    if table.places.shape[1] > _WRITTEN_OUT:
        return _gathered(x, axis, table.places, table.weights)
    others = tuple(set(range(x.ndim)) - {axis})
    total = None
    for places, weights in zip(table.places.T, table.weights.astype(x.dtype).T, strict=True):
        term = jnp.take(x, jnp.asarray(places), axis=axis, mode="clip")
        if np.any(weights != 1):
            term = jnp.expand_dims(jnp.asarray(weights), others) * term
        if np.any(weights == 0):
            term = jnp.where(jnp.expand_dims(jnp.asarray(weights != 0), others), term, 0)
        total = term if total is None else total + term
    assert total is not None
    return total


def _gathered(x: jax.Array, axis: int, places: Any, weights: Any) -> jax.Array:
    weights = jnp.asarray(weights.astype(x.dtype))
    weights = jnp.expand_dims(weights, tuple(set(range(x.ndim + 1)) - {axis, axis + 1}))
    taps = jnp.take(x, jnp.asarray(places), axis=axis, mode="clip")
    return jnp.sum(jnp.where(weights != 0, weights * taps, 0), axis + 1)


def _transpose(dy: Any, x: Any, *, axis: int, table: _Table) -> list[Any]:
    if type(dy) is ad.Zero:
        return [ad.Zero(x.aval)]
    return [_resample.bind(dy, axis=axis, table=table.transposed)]


def _batch(operands: Any, dims: Any, *, axis: int, table: _Table) -> tuple[jax.Array, int]:
    (x,), (dim,) = operands, dims
    return _resample.bind(x, axis=axis + (dim <= axis), table=table), dim


_resample.def_impl(jax.jit(_by_table, static_argnames=("axis", "table")))
mlir.register_lowering(_resample, mlir.lower_fun(_by_table, multiple_results=False))
ad.deflinear2(_resample, _transpose)
batching.primitive_batchers[_resample] = _batch
PLAIN_RULES[_resample] = _by_table
