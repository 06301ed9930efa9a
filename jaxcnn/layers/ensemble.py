"""Several members of one model, with their parameters stacked, as one layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.layers.flow import structure
from jaxcnn.types import Layer, Params, State
from jaxcnn.values import Value


@dataclass(frozen=True, repr=False)
class Ensemble(Value):
    """An ensemble: the mean of what its members predict for one image.

        ensemble, params, state = Ensemble.of(lenet5(), [(params1, state1), (params2, state2)])
        logits, _ = ensemble.apply(params, state, image, train=False)

    The members have the same layer and different numbers. Every array of the parameters and the state has one more
    axis in front, of the members. It is a layer like any other: it can be evaluated, trained and
    exported as StableHLO, but not as ONNX.

    On CPU, members are computed one after the other, each for the whole batch, since the convolutions of one use all
    cores; elsewhere all at once.

    Attributes:
      layer: the model of a member.
      size: number of members, at least 1.
      combine: "probabilities" gives logits whose softmax over the last axis is the mean of the members' softmax, as
        deep ensembles of classifiers do (Lakshminarayanan et al. 2017, section 2.4); "outputs" gives the mean of the
        outputs, which may be a tree of arrays.
    """

    layer: Layer
    size: int
    combine: Literal["probabilities", "outputs"] = "probabilities"

    def __post_init__(self) -> None:
        if not isinstance(self.layer, Layer):
            raise TypeError(f"Ensemble expects a layer, with init and apply, got {self.layer!r:.200}")
        if self.size < 1:
            raise ValueError(f"Ensemble expects a size of at least 1, got {self.size}")
        if self.combine not in ("probabilities", "outputs"):
            raise ValueError(f"Ensemble expects combine to be 'probabilities' or 'outputs', got {self.combine!r}")

    @classmethod
    def of(
        cls,
        layer: Layer,
        members: Sequence[tuple[Params, State]],
        combine: Literal["probabilities", "outputs"] = "probabilities",
    ) -> tuple[Self, Params, State]:
        """Makes an ensemble of trained members.

        Args:
          layer: the model of a member.
          members: parameters and state of each, at least one.
          combine: see the class.

        Returns:
          The ensemble, its parameters and its state.

        Raises:
          ValueError: there are no members, or one has other arrays than the layer.
        """
        expected = _shapes(structure(layer))
        for place, member in enumerate(members):
            if _shapes(member) != expected:
                raise ValueError(
                    f"Ensemble.of expects members with the arrays of the layer, but member {place} differs"
                )
        ensemble = cls(layer, len(members), combine)
        params, state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(tuple, members))
        return ensemble, params, state

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Draws all members, each from a key of its own; see `jaxcnn.types.Layer.init`."""
        return jax.vmap(self.layer.init)(jax.random.split(key, self.size))

    def apply(
        self, params: Params, state: State, x: Any, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Any, State]:
        """Combines what the members give for one image; see `jaxcnn.types.Layer.apply`."""
        keys = None if key is None else jax.random.split(key, self.size)

        def one(member: Any) -> tuple[Any, State]:
            own_params, own_state, own_key, _ = member
            return self.layer.apply(own_params, own_state, x, train=train, key=own_key)

        # The numbers tell the size where no member has arrays.
        members = params, state, keys, jnp.arange(self.size)
        outputs, state = lax.platform_dependent(members, cpu=partial(lax.map, one), default=jax.vmap(one))
        if self.combine == "outputs":
            return jax.tree.map(lambda each: jnp.mean(each, axis=0), outputs), state
        if not isinstance(outputs, jax.Array):
            raise TypeError(
                "Ensemble expects members that give logits for combine='probabilities', got a tree of arrays; give "
                "combine='outputs', or use another layer"
            )
        return jax.nn.logsumexp(jax.nn.log_softmax(outputs), axis=0) - jnp.log(self.size).astype(outputs.dtype), state


def _shapes(trees: Any) -> Any:
    params, state = trees
    return jax.tree.map(jnp.shape, (params, state))
