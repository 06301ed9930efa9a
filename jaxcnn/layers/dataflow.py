"""The dataflow of a model: what follows what, read from its traced forward."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax.extend import core

from jaxcnn.layers.composite import Composite, apply_around, is_open
from jaxcnn.types import Layer, Params, State

_PREFIX = "layer "


class Dataflow(NamedTuple):
    """A traced model, in which the call of each layer that is not a composite is one equation.

    Attributes:
      jaxpr: of a function of parameters, state and input that returns the result; everything between the layers, such
        as sums and activations of composites, is in plain equations.
      layers: the layers by path, in order of use; the path of the second call of a layer ends in "#2".
      output: tree of the result, of `jax.ShapeDtypeStruct`s.
    """

    jaxpr: core.ClosedJaxpr
    layers: Mapping[str, Layer]
    output: Any

    def calls(self) -> dict[str, core.JaxprEqn]:
        """Returns the equation of each call by path, without those within loops or functions compiled on their own."""
        named = ((called_path(equation), equation) for equation in self.jaxpr.jaxpr.eqns)
        return {path: equation for path, equation in named if path is not None}


def called_path(equation: core.JaxprEqn) -> str | None:
    """Returns the path of the layer that an equation calls; None if it calls none."""
    name = equation.params.get("name")
    return name.removeprefix(_PREFIX) if isinstance(name, str) and name.startswith(_PREFIX) else None


def dataflow(model: Layer, x: Any, *, train: bool = False, asked: frozenset[str] = frozenset()) -> Dataflow:
    """Traces a model on one image; nothing is computed.

    Args:
      model: a layer or a whole model; one that is not made of layers is the only call, with the path "".
      x: the input: a tree of arrays or of `jax.ShapeDtypeStruct`s.
      train: whether to trace training rather than evaluation.
      asked: paths of layers to compute even if evaluation does not need them, such as auxiliary heads.

    Returns:
      The dataflow.

    Raises:
      ValueError: the input does not fit the model; a note names the layer.
    """
    layers: dict[str, Layer] = {}

    def around(path: str, layer: Layer, apply: Any, params: Params, state: State, x: Any) -> tuple[Any, State]:
        if is_open(layer):
            return apply(params, state, x)
        layers[path] = layer

        def called(params: Params, state: State, x: Any) -> tuple[Any, State]:
            return apply(params, state, x)

        called.__name__ = f"{_PREFIX}{path}"
        return jax.jit(called)(params, state, x)

    def forward(params: Params, state: State, x: Any, key: jax.Array) -> Any:
        options: Any = {"train": train, "key": key if train else None}
        if isinstance(model, Composite):
            return apply_around(model, params, state, x, around, asked=asked, **options)[0]
        return around("", model, lambda *args: model.apply(*args, **options), params, state, x)[0]

    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(model.init, key)
    axes: Any = [("batch", 1)] if train else None
    jaxpr, output = jax.make_jaxpr(forward, axis_env=axes, return_shape=True)(params, state, x, key)
    return Dataflow(jaxpr, layers, output)
