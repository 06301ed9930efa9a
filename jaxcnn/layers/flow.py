"""The dataflow of a model, read from its traced forward: which layers take the result of which."""

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from jaxcnn.layers.composite import Composite, apply_around, is_open
from jaxcnn.layers.conv import Conv, ConvTranspose
from jaxcnn.layers.dense import Dense
from jaxcnn.layers.parameters import affine_shapes
from jaxcnn.types import Layer, Params, State

_PREFIX, _COMPOSITE = "layer ", "composite "


class Dataflow(NamedTuple):
    """A traced model, in which the call of each layer that is not a composite is one equation.

    Attributes:
      jaxpr: of a function of parameters, state and input that returns the result; everything between the layers, such
        as sums and activations of composites, is in plain equations.
      layers: the layers by path, in order of use; the path of the second call of a layer ends in "#2".
      output: tree of the result, of `jax.ShapeDtypeStruct`s.
      called: the layer and the tree of its result by the name of the equation that calls it; see `Call`.
    """

    jaxpr: core.ClosedJaxpr
    layers: Mapping[str, Layer]
    output: Any
    called: Mapping[str, "Call"]

    def calls(self) -> dict[str, core.JaxprEqn]:
        """Returns the equation of each call by path, without those within loops or functions compiled on their own."""
        named = ((called_path(equation), equation) for equation in self.jaxpr.jaxpr.eqns)
        return {path: equation for path, equation in named if path is not None}


class Call(NamedTuple):
    """A call of a layer within a traced model.

    Attributes:
      path: path of the layer; that of the second call ends in "#2".
      layer: the layer.
      result: tree of its result, of `jax.ShapeDtypeStruct`s. In the equation, the arrays of its state follow.
    """

    path: str
    layer: Layer
    result: Any


def is_call(equation: core.JaxprEqn) -> bool:
    """Tells whether an equation calls a layer or a composite."""
    name = equation.params.get("name")
    return isinstance(name, str) and name.startswith((_PREFIX, _COMPOSITE))


def called_path(equation: core.JaxprEqn) -> str | None:
    """Returns the path of the layer that an equation calls; None if it calls none."""
    name = equation.params.get("name")
    return name.removeprefix(_PREFIX) if isinstance(name, str) and name.startswith(_PREFIX) else None


def dataflow(
    model: Layer, x: Any, *, train: bool = False, asked: frozenset[str] = frozenset(), composites: bool = False
) -> Dataflow:
    """Traces a model on one image; nothing is computed.

    Args:
      model: a layer or a whole model; one that is not made of layers is the only call, with the path "".
      x: the input: a tree of arrays or of `jax.ShapeDtypeStruct`s.
      train: whether to trace training rather than evaluation.
      asked: paths of layers to compute even if evaluation does not need them, such as auxiliary heads.
      composites: whether the call of each composite, the model included, is an equation too, around those of its
        layers.

    Returns:
      The dataflow.

    Raises:
      ValueError: the input does not fit the model; a note names the layer.
    """
    layers: dict[str, Layer] = {}
    called: dict[str, Call] = {}

    def call(name: str, path: str, layer: Layer, apply: Any, params: Params, state: State, x: Any) -> tuple[Any, State]:
        def traced(params: Params, state: State, x: Any) -> tuple[Any, State]:
            y, state = apply(params, state, x)
            called[name] = Call(
                path, layer, jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), y)
            )
            return y, state

        traced.__name__ = name
        return jax.jit(traced)(params, state, x)

    def around(path: str, layer: Layer, apply: Any, params: Params, state: State, x: Any) -> tuple[Any, State]:
        if not is_open(layer):
            layers[path] = layer
            if not train:
                apply = partial(_evaluated, layer)
            return call(f"{_PREFIX}{path}", path, layer, apply, params, state, x)
        if composites:
            return call(f"{_COMPOSITE}{path}", path, layer, apply, params, state, x)
        return apply(params, state, x)

    def forward(params: Params, state: State, x: Any, key: jax.Array) -> Any:
        options: Any = {"train": train, "key": key if train else None}
        if isinstance(model, Composite):
            within = partial(apply_around, model, around=around, asked=asked, **options)
            return around("", model, within, params, state, x)[0]
        return around("", model, partial(model.apply, **options), params, state, x)[0]

    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = structure(model)
    axes: Any = [("batch", 2)] if train else None
    jaxpr, output = jax.make_jaxpr(forward, axis_env=axes, return_shape=True)(params, state, x, key)
    return Dataflow(jaxpr, layers, output, called)


@partial(jax.jit, static_argnums=0)
def _evaluated(layer: Layer, params: Params, state: State, x: Any) -> tuple[Any, State]:
    """Applies a layer in evaluation. Jitted, because models repeat a few layers many times: each is traced once."""
    return layer.apply(params, state, x, train=False)


def structure(layer: Layer) -> tuple[Params, State]:
    """Describes the parameters and the state that a layer or model draws.

    Args:
      layer: a layer or a whole model.

    Returns:
      Both trees, of `jax.ShapeDtypeStruct`s. Do not change them: parts of them are cached.
    """
    if not isinstance(layer, Composite) or type(layer).init is not Composite.init:
        return _drawn(layer)
    parts = {}
    for name, child in layer.children().items():
        with layer.naming(name):
            parts[name] = structure(child)
    params, state = (layer.joined({name: part[i] for name, part in parts.items()}) for i in (0, 1))
    return params, state


@lru_cache(maxsize=4096)
def _drawn(layer: Layer) -> tuple[Params, State]:
    """Describes what a layer draws. Cached, because models repeat a few layers many times."""
    # Without tracing, most of which would be the drawing. Exact types only: a derived class may draw something else.
    if type(layer) in (Conv, ConvTranspose, Dense):
        shapes = affine_shapes(layer)  # pyright: ignore[reportArgumentType]
        return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}, {}
    # The key is made inside the traced function: a concrete key would start a device.
    return jax.eval_shape(lambda: layer.init(jax.random.key(0)))
