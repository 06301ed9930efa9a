"""Stochastic depth whose rates are a share of the model's own, which changes from step to step.

The contract of a layer has no place for the step, and a layer holds no arrays. So the share is an entry of the state:
within a training step, each `DropPath` is replaced by a layer that finds the share there. The state outside of the step
has no such entry, and checkpoints and evaluation do not know of it.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn import ops
from jaxcnn.layers import Composite, DropPath, Frozen
from jaxcnn.types import Layer, Params, State


def has_drop_path(model: Layer) -> bool:
    """Tells whether a model drops residual branches in training: by a `DropPath` of a rate above 0, not frozen.

    Args:
      model: a layer or a whole model.
    """
    return scheduled(model) != model


def scheduled(model: Layer) -> Layer:
    """Returns a model whose `DropPath` layers drop with a share of their rates.

    Args:
      model: a layer or a whole model.

    Returns:
      A model for the same parameters and for the state that `with_share` returns.
    """
    if type(model) is DropPath and model.rate > 0:
        return _Scheduled(model.rate)
    if not isinstance(model, Composite) or isinstance(model, Frozen):
        return model
    return model.with_children({name: scheduled(child) for name, child in model.children().items()})


def with_share(model: Layer, state: State, share: jax.Array) -> State:
    """Adds the share to the state.

    Args:
      model: a model that `scheduled` returned.
      state: state of the original model.
      share: share of the rates, a scalar in [0, 1].

    Returns:
      State of the model.
    """
    return _with_entry(model, state, {"share": share})


def without_share(model: Layer, state: State) -> State:
    """Removes what `with_share` added.

    Args:
      model: a model that `scheduled` returned.
      state: its state.

    Returns:
      State of the original model.
    """
    return _with_entry(model, state, {})


@dataclass(frozen=True, repr=False)
class _Scheduled(DropPath):
    """A `DropPath` that reads from its state which share of its rate holds."""

    def init(self, key: jax.Array) -> tuple[Params, State]:
        return {}, {"share": jnp.ones(())}

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        if not train:
            return x, state
        assert key is not None
        return ops.drop_path(key, x, self.rate * state["share"]), state


def _with_entry(model: Layer, state: Any, entry: dict[str, jax.Array]) -> Any:
    if isinstance(model, _Scheduled):
        return entry
    if not isinstance(model, Composite):
        return state
    parts = model.parts("state", state)
    return model.joined({name: _with_entry(child, parts[name], entry) for name, child in model.children().items()})
