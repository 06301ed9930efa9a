"""Folding of batch norms into the convolutions before them: the same model for inference, with less to compute."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend import core

from jaxcnn import ops
from jaxcnn.layers.backbone import Backbone
from jaxcnn.layers.composite import Composite, layer_paths, named, path_of_child
from jaxcnn.layers.conv import Conv, ConvTranspose, StackedConv
from jaxcnn.layers.dense import Dense
from jaxcnn.layers.flow import Dataflow, dataflow, structure
from jaxcnn.layers.frozen import unfreeze
from jaxcnn.layers.function import identity
from jaxcnn.layers.measures import arrays_of
from jaxcnn.layers.norm import BatchNorm
from jaxcnn.layers.parameters import check_names
from jaxcnn.layers.regularize import Dropout, DropPath
from jaxcnn.types import Layer, Params, Shape, State

_CONVOLUTIONS = (Conv, ConvTranspose, Dense, StackedConv)

_TRANSPARENT = (Dropout, DropPath)
"""Layers that return their input in evaluation."""

_USUAL_SIZES = (224, 32, 64, 299, 28, 128, 16, 331, 512)

_Part: TypeAlias = tuple[Any, Params, State]
"""A layer, its parameters and its state."""


def fold_batch_norm(
    model: Layer, params: Params, state: State, input_shape: Shape | None = None
) -> tuple[Any, Params, State]:
    """Folds each batch norm that follows a convolution into its kernel and bias (Jacob et al. 2018, eq. 14).

        model, params, state = fold_batch_norm(model, params, state)

    With `train=False` the new model computes what the old one did, to rounding. The convolutions keep their names and
    have a bias. Containers lose the batch norms, names included; in a composite of your own, a field that held one
    holds `identity`, and so does the name of one whose result a `Backbone` returns. `Conv`, `ConvTranspose`, `Dense`
    and `StackedConv` count as convolutions; a `Dropout` or `DropPath` between the two does not matter, since it does
    nothing in evaluation.

    Other batch norms stay: before a convolution, after a pooling, a sum or a concatenation, and where the result of
    the convolution is used elsewhere too or a layer is applied several times. `foldable` lists the folded ones.

    With `train=True` the new model is a plain one with biases: it does not normalise by the moments of the batch, and
    does not train as the old one did. So train first and fold at the end. Frozen layers are unfrozen.

    Args:
      model: a layer or a whole model.
      params: its parameters.
      state: its state, with the running moments to fold.
      input_shape: shape of an input that the model takes, as the model is traced; a tree of shapes if the model takes a
        tree. Default: that of an image of a usual size with the channels of the first convolution.

    Returns:
      The new model, its parameters and its state. Kernels and biases keep their dtype and are computed in at least
      float32; arrays that do not change are those of the given trees, not copies.

    Raises:
      ValueError: parameters or state are not those of the model, or the model takes no image of a usual size.
    """
    model = unfreeze(model)
    leaves = dict(_leaves(model, params, state, ""))
    pairs = foldable(model, input_shape)
    folded: dict[str, _Part] = {}
    # The pairs are in order of use: of several batch norms in a row, the first is folded first.
    for norm, conv in pairs.items():
        with _naming(norm):
            folded[conv] = _folded(folded.get(conv, leaves[conv]), leaves[norm])
    returned = set(_returned(model, ""))
    return _rebuilt(model, params, state, "", folded, {norm: norm in returned for norm in pairs})


def foldable(model: Layer, input_shape: Shape | None = None) -> dict[str, str]:
    """Lists the batch norms that `fold_batch_norm` folds.

    Args:
      model: a layer or a whole model.
      input_shape: as in `fold_batch_norm`.

    Returns:
      The path of the convolution by the path of the batch norm after it.

    Raises:
      ValueError: the model takes no image of a usual size, and `input_shape` is None.
    """
    model = unfreeze(model)
    if not any(type(layer) is BatchNorm for layer in _leaf_layers(model)):
        return {}
    flow = _trace(model, input_shape)
    # A layer that is applied several times has "#2" in the path of its second call.
    repeated = {path.partition("#")[0] for path in flow.layers if "#" in path}
    calls = {path: equation for path, equation in flow.calls().items() if not _within(path, repeated)}
    producers: dict[Any, str] = {variable: path for path, equation in calls.items() for variable in equation.outvars}
    uses: Counter[Any] = Counter(
        variable
        for variables in (flow.jaxpr.jaxpr.outvars, *(equation.invars for equation in flow.jaxpr.jaxpr.eqns))
        for variable in variables
        if isinstance(variable, core.Var)
    )
    pairs = {}
    for path, equation in calls.items():
        if type(flow.layers[path]) is BatchNorm:
            source = equation.invars[-1]
            before = producers.get(source)
            # Exact types only: a derived class may compute something else.
            while before and uses[source] == 1 and (before in pairs or type(flow.layers[before]) in _TRANSPARENT):
                source = calls[before].invars[-1]
                before = producers.get(source)
            if before and uses[source] == 1 and type(flow.layers[before]) in _CONVOLUTIONS:
                pairs[path] = before
    return pairs


def _within(path: str, repeated: set[str]) -> bool:
    names = path.split("/")
    return any("/".join(names[: end + 1]).partition("#")[0] in repeated for end in range(len(names)))


def _trace(model: Layer, input_shape: Shape | None) -> Dataflow:
    # Auxiliary heads are computed too: a result that they use must not be folded.
    trace = partial(dataflow, model, asked=frozenset(layer_paths(model)))
    if input_shape is not None:
        return trace(arrays_of(input_shape))
    refused: dict[Shape, Exception] = {}
    for shape in usual_shapes(model):
        try:
            return trace(jax.ShapeDtypeStruct(shape, jnp.float32))
        except (TypeError, ValueError) as error:
            refused[shape] = error
    first = next(iter(refused.values()), None)
    raise ValueError(
        f"fold_batch_norm expects an input shape that the model takes, got refusals of {list(refused)}; "
        f"pass input_shape=. The first error: {first}"
    ) from first


def usual_shapes(model: Layer) -> list[Shape]:
    """Returns shapes of inputs to try, by the channels of the first layer that tells them.

    Args:
      model: a layer or a whole model.

    Returns:
      Shapes that such a model may take; none if no layer tells its channels.
    """
    for layer in _leaf_layers(model):
        if channels := getattr(layer, "in_channels", getattr(layer, "channels", None)):
            return [(size, size, channels) for size in _USUAL_SIZES]
        if features := getattr(layer, "in_features", None):
            return [(features,), (1, 1, features), (28, 28, 1), (32, 32, 3)]
    return []


def _leaf_layers(model: Layer) -> Iterator[Layer]:
    if isinstance(model, Composite):
        for child in model.children().values():
            yield from _leaf_layers(child)
    else:
        yield model


def _leaves(layer: Layer, params: Params, state: State, path: str) -> Iterator[tuple[str, _Part]]:
    """Yields the layers within a model that are not composites, with their parameters and their state, by path."""
    if not isinstance(layer, Composite):
        for what, tree, names in zip(("parameters", "state"), (params, state), structure(layer), strict=True):
            check_names(f"{type(layer).__name__} {what}", tree, names)
        yield path, (layer, params, state)
        return
    inner_params, inner_state = layer.parts("parameters", params), layer.parts("state", state)
    for name, child in layer.children().items():
        with layer.naming(name):
            yield from _leaves(child, inner_params[name], inner_state[name], path_of_child(layer, path, name))


def _returned(layer: Layer, path: str) -> Iterator[str]:
    """Yields the paths of the layers whose results a backbone returns."""
    if isinstance(layer, Backbone):
        yield from (f"{path}/{one}" if path else one for one in layer.at)
    if isinstance(layer, Composite):
        for name, child in layer.children().items():
            yield from _returned(child, path_of_child(layer, path, name))


def _rebuilt(
    layer: Layer, params: Params, state: State, path: str, folded: Mapping[str, _Part], gone: Mapping[str, bool]
) -> _Part:
    """Returns a layer with folded ones. `gone` tells of each batch norm to remove whether the identity replaces it."""
    if not isinstance(layer, Composite):
        return folded.get(path, (layer, params, state))
    inner_params, inner_state = layer.parts("parameters", params), layer.parts("state", state)
    children = layer.children()
    for name, child in children.items():
        inner = path_of_child(layer, path, name)
        if inner in gone and not isinstance(child, Composite):
            layer = layer.replace({name: identity}) if gone[inner] else layer.without(name)
    parts = {
        name: _rebuilt(
            children[name], inner_params[name], inner_state[name], path_of_child(layer, path, name), folded, gone
        )
        if child is children[name]
        else (child, {}, {})
        for name, child in layer.children().items()
    }
    return (
        layer.with_children({name: part[0] for name, part in parts.items()}),
        layer.joined({name: part[1] for name, part in parts.items()}),
        layer.joined({name: part[2] for name, part in parts.items()}),
    )


@contextmanager
def _naming(path: str) -> Iterator[None]:
    with ExitStack() as stack:
        for name in path.split("/"):
            stack.enter_context(named(name))
        yield


def _folded(part: _Part, norm_part: _Part) -> _Part:
    """Folds a batch norm into the convolution before it."""
    layer, params, state = part
    norm, norm_params, norm_state = norm_part
    kernel = jnp.asarray(params["kernel"])
    bias = params.get("bias", jnp.zeros(kernel.shape[-1:], kernel.dtype))
    # The result is linear in kernel and bias, whose last axis holds the output channels. So normalising both normalises
    # the result; only the bias is shifted.
    bias, _ = norm.apply(norm_params, norm_state, bias, train=False)
    no_mean = jnp.zeros_like(norm_state["mean"])
    kernel = ops.normalize(kernel, no_mean, norm_state["var"], norm_params.get("scale"), epsilon=norm.epsilon)
    return replace(layer, use_bias=True), {"kernel": kernel, "bias": bias}, state
