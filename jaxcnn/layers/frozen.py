"""Layers that do not learn: their parameters are state, so that no gradient and no optimizer knows of them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax

from jaxcnn.layers.containers import Container, Part
from jaxcnn.layers.parameters import check_names
from jaxcnn.types import Layer, Params, State
from jaxcnn.values import Value

# A longer list than this would push the message itself off the screen.
_LISTED = 20


@dataclass(frozen=True, repr=False)
class Frozen(Value):
    """A layer as it is after training: its parameters and its statistics stay, and nothing in it is dropped.

    Its parameters are held as state, under the same names beside the running moments. So `jax.grad` does not
    differentiate them, an optimizer holds no moments for them, and a training step has no backward pass through the
    frozen layers that stand before all others. Those after a layer that learns pass its gradient on. `freeze` makes it
    of a layer within a trained model, `unfreeze` undoes it.

    Attributes:
      layer: any layer or whole model whose parameters and state have no leaf name in common.
    """

    layer: Layer

    def init(self, key: jax.Array) -> tuple[Params, State]:
        """Draws the layer's parameters and state; all of them are state here."""
        _, params, state = _frozen(self.layer, *self.layer.init(key))
        return params, state

    def apply(
        self, params: Params, state: State, x: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, State]:
        """Applies the layer to one image as in evaluation, whatever `train` says; the state stays as it is."""
        del train, key
        _, inner_params, inner_state = _thawed(self, params, state)
        y, _ = self.layer.apply(inner_params, inner_state, x, train=False)
        return y, state


def freeze(model: Layer, params: Params, state: State, pattern: str) -> tuple[Any, Params, State]:
    """Freezes the layers whose path matches a regular expression.

        model, params, state = freeze(model, params, state, "stem|stage[12]")
        model, params, state = freeze(model, params, state, "(?!head).*")  # all but the head

    A layer within a layer that matches is frozen with it. The new model is trained like any other, and computes what
    the old one does with `train=False` in its frozen part. Nothing is copied: the arrays only move from the parameters
    to the state.

    Args:
      model: a whole model, or a container.
      params: its parameters.
      state: its state.
      pattern: regular expression; it must match the whole path of a layer, such as "stage1/block0/conv1".

    Returns:
      The new model, with each such layer in a `Frozen`, its parameters and its state.

    Raises:
      ValueError: no layer matches, or parameters or state are not those of the model.
    """
    matches: dict[str, bool] = {}

    def within(path: str, layer: Layer, params: Params, state: State) -> Part:
        if path:
            matches[path] = re.fullmatch(pattern, path) is not None
            if matches[path]:
                return _frozen(*unfreeze(layer, params, state))
        return _mapped(layer, params, state, lambda name, *part: within("/".join(filter(None, (path, name))), *part))

    frozen = within("", model, params, state)
    if not any(matches.values()):
        listed = ", ".join([*list(matches)[:_LISTED], *(["..."] if len(matches) > _LISTED else [])])
        raise ValueError(f"freeze expects a pattern that matches the path of a layer, got {pattern!r}; paths: {listed}")
    return frozen


def unfreeze(model: Layer, params: Params, state: State) -> tuple[Any, Params, State]:
    """Undoes every `Frozen` in a model: moves what it holds as state back to the parameters.

        model, params, state = unfreeze(model, params, state)

    Args:
      model: a layer or a whole model.
      params: its parameters.
      state: its state.

    Returns:
      The model without `Frozen`, its parameters and its state; what nothing was frozen in comes back as it is.

    Raises:
      ValueError: parameters or state are not those of the model.
    """
    if isinstance(model, Frozen):
        return unfreeze(*_thawed(model, params, state))
    return _mapped(model, params, state, lambda name, *part: unfreeze(*part))


def _mapped(layer: Layer, params: Params, state: State, change: Callable[..., Part]) -> Part:
    return layer.map_parts(params, state, change) if isinstance(layer, Container) else (layer, params, state)


def _frozen(layer: Layer, params: Params, state: State) -> Part:
    return Frozen(layer), _nesting(params), _merged(params, state)


def _thawed(frozen: Frozen, params: Params, state: State) -> Part:
    if jax.tree.leaves(params):
        raise ValueError(
            "Frozen expects no parameters, since its own are state, got "
            f"{len(jax.tree.leaves(params))} of them; was the model made by freeze, with its parameters and state?"
        )
    like_params, like_state = _structure(frozen.layer)
    _check_nesting(state, _merged(like_params, like_state))
    return frozen.layer, _chosen(state, like_params), _chosen(state, like_state)


@lru_cache(maxsize=1024)
def _structure(layer: Layer) -> tuple[Params, State]:
    return jax.eval_shape(layer.init, jax.random.key(0))


def _nesting(tree: dict) -> dict:
    """The dicts of a tree without its leaves."""
    return {name: _nesting(inner) for name, inner in tree.items() if isinstance(inner, dict)}


def _merged(params: dict, state: dict) -> dict:
    """Puts the leaves of two trees of the same nesting into one."""
    merged = {**params, **state}
    for name in params.keys() & state.keys():
        if not isinstance(params[name], dict) or not isinstance(state[name], dict):
            raise ValueError(
                f"Frozen expects a layer whose parameters and state have no leaf name in common, got {name!r} in both"
            )
        merged[name] = _merged(params[name], state[name])
    return merged


def _chosen(tree: dict, like: dict) -> dict:
    """Takes the leaves out of a tree that another one has."""
    return {name: _chosen(tree[name], inner) if isinstance(inner, dict) else tree[name] for name, inner in like.items()}


def _check_nesting(state: dict, like: dict) -> None:
    check_names("Frozen state", state, like)
    for name, inner in like.items():
        if isinstance(inner, dict):
            _check_nesting(state[name], inner)
