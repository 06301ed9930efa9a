"""The one contract of the library: what a layer is, and what it is given and returns."""

from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax

Params: TypeAlias = dict[str, Any]
"""Trainable arrays: a nested dict with the names of the model, `{}` under a layer that has none."""

State: TypeAlias = dict[str, Any]
"""Arrays that training updates without a gradient (running moments): nested as `Params`."""

Shape: TypeAlias = tuple[int, ...]


@runtime_checkable
class Layer(Protocol):
    """A pair of pure functions, written for one image, held by a hashable value.

    A layer or a whole model is a frozen dataclass: comparable, hashable, printable as its constructor and
    therefore usable as a static argument of `jax.jit`. It holds sizes and options, never arrays.
    """

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Draws fresh parameters and state.

        Args:
          key: typed random key (`jax.random.key`); it is consumed.

        Returns:
          The parameters and the state: nested dicts of the same names. No two leaves share an array.
        """
        ...

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Computes the layer on one image.

        Args:
          params: as `init` returned them, or trained since.
          state: as `init` returned it, or updated since.
          x: one image, shape (height, width, channels), or whatever the layer before it returned.
          train: a Python bool. True: normalise by the moments of the batch, drop units, update the state.
            False: use the state, return it unchanged.
          key: typed random key, consumed; needed only when `train` and a layer draws random numbers.

        Returns:
          The result in the dtype of `x`, and the state in the structure of `state`.
        """
        ...
