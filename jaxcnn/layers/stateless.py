"""The base of layers without parameters and state."""

import jax

from jaxcnn.types import Params, State


class Stateless:
    """A layer without parameters and state."""

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Returns no parameters and no state; the key is not used."""
        del key
        return {}, {}
