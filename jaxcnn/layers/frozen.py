"""Frozen layers, whose parameters and running moments training does not change."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from jax import lax

from jaxcnn.layers.composite import Composite, Run, layer_paths, path_of_child
from jaxcnn.types import Layer, Params, State

# A longer list than this would push the message itself off the screen.
_LISTED = 20


@dataclass(frozen=True, repr=False)
class Frozen(Composite):
    """A layer that always computes as in evaluation: its parameters and running moments stay, and nothing is dropped.

    Parameters and state are those of the layer. Its parameters have the gradient zero. So a training step has no
    backward pass through frozen layers that come before every trained layer; a frozen layer after a trained one passes
    the gradient on. An optimizer must not change its parameters: see `trainable`, which
    `jaxcnn.training.make_train_step` uses. `freeze` wraps layers within a model in it, and `unfreeze` unwraps them.

    Attributes:
      layer: any layer or whole model.
    """

    inlined: ClassVar[str | None] = "layer"

    layer: Layer

    def forward(self, run: Run, x: Any) -> Any:
        """Applies the layer to one image."""
        return run.layer(x)

    def _apply(self, params: Params, state: State, x: Any, *, train: bool, **options: Any) -> tuple[Any, State]:
        return super()._apply(lax.stop_gradient(params), state, x, **{**options, "train": False, "key": None})


def freeze(model: Layer, pattern: str) -> Any:
    """Freezes the layers whose path matches a regular expression.

        model = freeze(model, "stem|stage[12]")
        model = freeze(model, "(?!head).*")  # all but the head

    A layer within a layer that matches is frozen with it. The new model takes the same parameters and the same state.
    It is trained like any other; its frozen part computes as the old model does with `train=False`.

    Args:
      model: a whole model, or another layer made of layers.
      pattern: regular expression; it must match the whole path of a layer, such as "stage1/block0/conv1".

    Returns:
      The new model, with each such layer in a `Frozen`.

    Raises:
      ValueError: no layer matches, or `pattern` is not a regular expression.
      TypeError: `pattern` is not a string.
    """
    if not isinstance(pattern, str):
        raise TypeError(f"freeze expects a regular expression as a string, got {pattern!r}")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"freeze expects a regular expression, got {pattern!r}: {error}") from error
    paths = list(layer_paths(model))
    if not any(map(compiled.fullmatch, paths)):
        listed = ", ".join([*paths[:_LISTED], *(["..."] if len(paths) > _LISTED else [])])
        raise ValueError(f"freeze expects a pattern that matches the path of a layer, got {pattern!r}; paths: {listed}")
    return _freeze(model, compiled, "")


def unfreeze(model: Layer) -> Any:
    """Unwraps every `Frozen` in a model.

    Args:
      model: a layer or a whole model.

    Returns:
      The model without `Frozen`, for the same parameters and the same state.
    """
    if isinstance(model, Frozen):
        return unfreeze(model.layer)
    if not isinstance(model, Composite):
        return model
    return model.with_children({name: unfreeze(child) for name, child in model.children().items()})


def trainable(model: Layer, params: Params) -> Any:
    """Tells which parameters are trained: those outside of every `Frozen`.

    Args:
      model: a layer or a whole model.
      params: its parameters, or a tree of that structure.

    Returns:
      A tree like `params` of bools, for `optax.masked` and `optax.partition`.

    Raises:
      ValueError: the parameters are not those of the model.
    """
    if isinstance(model, Frozen) or not isinstance(model, Composite):
        return jax.tree.map(lambda _: not isinstance(model, Frozen), params)
    parts = model.parts("parameters", params)
    return model.joined({name: trainable(child, parts[name]) for name, child in model.children().items()})


def _freeze(layer: Layer, pattern: re.Pattern, path: str) -> Layer:
    if not isinstance(layer, Composite) or isinstance(layer, Frozen):
        return layer
    children = {}
    for name, child in layer.children().items():
        inner = path_of_child(layer, path, name)
        # An inlined child has no path of its own.
        matches = name != layer.inlined and pattern.fullmatch(inner)
        children[name] = Frozen(unfreeze(child)) if matches else _freeze(child, pattern, inner)
    return layer.with_children(children)
