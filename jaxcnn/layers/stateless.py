"""The bases of layers without parameters and state."""

from collections.abc import Callable
from typing import Any

import jax

from jaxcnn.types import Params, State


class Stateless:
    """A layer without parameters and state."""

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Returns no parameters and no state; the key is not used."""
        del key
        return {}, {}


class Pure(Stateless):
    """A layer that is a function of one image, `layer(image)`, in training and in evaluation."""

    __call__: Callable[[Any], Any]

    def apply(
        self, params: Params, state: State, x: Any, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Any, State]:
        """Calls the layer."""
        del params, train, key
        return self(x), state
