"""Shapes, parameters, multiply-adds and receptive fields of layers and whole models, from their traced program.

They work on layers and functions of your own without registration. Nothing is computed.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from jaxcnn import trees
from jaxcnn.layers.composite import is_open, layer_paths
from jaxcnn.layers.flow import Dataflow, dataflow, is_call, structure
from jaxcnn.tracing import count_multiply_adds, field_of, follow, receptive_fields, seen_by_image, work_of
from jaxcnn.types import Layer, Params, State


class Row(NamedTuple):
    """The arithmetic of one layer within a model.

    Attributes:
      path: names of the composites and of the layer. That of the second call of a layer ends in "#2".
      layer: the layer.
      output_shape: shape of its output; a tree of shapes if the output is a tree.
      parameters: number of its parameters; 0 in a second call.
      multiply_adds: its multiply-adds for one image, in all steps of a `jax.lax.scan` around it. A `while_loop`, whose
        number of steps is not known, counts as one step.
      receptive_field: receptive field of a pixel of its output in the model's input; a tree if the output is one.
      training_only: whether it is part of an auxiliary head, which evaluation does not compute.
    """

    path: str
    layer: Layer
    output_shape: Any
    parameters: int
    multiply_adds: int
    receptive_field: Any
    training_only: bool = False


def arithmetic(layer: Layer, input_shape: Any) -> list[Row]:
    """Lists the arithmetic of every layer within a layer, in order of use.

    Args:
      layer: a layer or a whole model.
      input_shape: (height, width, channels) of one image, or (features,); a tree of shapes if the model takes a tree.

    Returns:
      A row for each layer that is not made of layers. After the layers of a composite that computes something itself,
      such as the sum of a `Residual`, a row for the composite. The receptive field is that of the layer's output pixels
      in the input of the whole model (the first array of a tree); of a vector, it is that of all its elements together.
      The rows of auxiliary heads are marked, because evaluation does not compute them.

    Raises:
      TypeError, ValueError: the shapes do not fit together; a note names the layer.
    """
    with _plain_notes():
        return list(_rows(layer, _as_shape(input_shape)))


def receptive_field(layer: Layer | Callable[[Any], Any], input_shape: Any) -> Any:
    """Computes the receptive field of an output pixel in the input image.

    Args:
      layer: a layer, a whole model in evaluation, or any function of an image.
      input_shape: (height, width, channels) of one image.

    Returns:
      The receptive field; a tree if the output is one. It may be too large where an operation is not known, or where
      neighbouring pixels see a different number of pixels. It is never too small, except for pixels next to a border
      that repeats the image.

    Raises:
      TypeError, ValueError: the shapes do not fit together.
    """
    function, arguments = _call(layer, _as_shape(input_shape))
    with _plain_notes():
        return receptive_fields(function, *arguments)


def multiply_adds(layer: Layer | Callable[[Any], Any], input_shape: Any) -> int:
    """Counts the multiply-adds of the convolutions and matrix products for one image in evaluation.

    Biases, normalisation, pooling and activations do not count, as usual in the literature (He et al. 2016, table 1).

    Args:
      layer: a layer, a whole model, or any function of an image.
      input_shape: (height, width, channels) of one image, or (features,).

    Returns:
      The count; one multiply-add is two floating-point operations.

    Raises:
      TypeError, ValueError: the shapes do not fit together.
    """
    image = arrays_of(input_shape)
    with _plain_notes():
        if not isinstance(layer, Layer):
            return count_multiply_adds(layer, image)
        return work_of(dataflow(layer, image).jaxpr.jaxpr)


def output_shape(layer: Layer | Callable[[Any], Any], input_shape: Any) -> Any:
    """Computes the shape of an output in evaluation.

    Args:
      layer: a layer, a whole model, or any function of an image.
      input_shape: (height, width, channels) of one image, or (features,).

    Returns:
      The shape; a tree of shapes if the output is a tree.

    Raises:
      TypeError, ValueError: the shape does not fit the layer; a note names the layer within a model.
    """
    with _plain_notes():
        return _output_shape(layer, _as_shape(input_shape))


def count_parameters(layer: Layer) -> int:
    """Counts the parameters of a layer or model, without drawing them.

    Args:
      layer: a layer or a whole model.

    Returns:
      The number of parameters, without running moments, which are state.
    """
    return trees.count(structure(layer)[0])


@contextmanager
def _plain_notes() -> Iterator[None]:
    """Removes the note on traceback filtering that JAX adds to an error within a trace."""
    try:
        yield
    except Exception as error:
        error.__notes__ = [note for note in getattr(error, "__notes__", []) if not note.startswith("----")]
        raise


@functools.lru_cache(maxsize=4096)
def _output_shape(layer: Layer | Callable[[Any], Any], input_shape: Any) -> Any:
    """Traces a layer. Cached, because models repeat the same layers many times."""
    function, arguments = _call(layer, input_shape)
    return _shapes(jax.eval_shape(function, *arguments))


def _call(layer: Layer | Callable[[Any], Any], input_shape: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Returns a function of an image and of other arguments, and the shapes of the arguments."""
    image = arrays_of(input_shape)
    if not isinstance(layer, Layer):
        return layer, (image,)

    def apply(x: Any, params: Params, state: State) -> Any:
        return layer.apply(params, state, x, train=False)[0]

    return apply, (image, *structure(layer))


@functools.lru_cache(maxsize=16)
def _rows(layer: Layer, input_shape: Any) -> tuple[Row, ...]:
    image = arrays_of(input_shape)
    traced = dataflow(layer, image, composites=True)
    rows = _rows_of(traced, image)
    computed = {call.path for call in traced.called.values()}
    heads = frozenset(layer_paths(layer)) - computed
    if heads:
        with_heads = _rows_of(dataflow(layer, image, composites=True, asked=heads), image)
        rows = [row._replace(training_only=row.path not in computed) for row in with_heads]
        if rows and rows[-1].training_only:
            rows.append(Row("", layer, output_shape(layer, input_shape), 0, 0, receptive_field(layer, input_shape)))
    return tuple(rows)


def _rows_of(traced: Dataflow, image: Any) -> list[Row]:
    """Follows the image through a traced model, and writes a row for each layer where it is called."""
    rows: list[Row] = []
    written: set[str] = set()

    def write(equation: core.JaxprEqn, seen: list[Any], times: int) -> None:
        if not is_call(equation):
            return
        path, layer, result = traced.called[equation.params["name"]]
        jaxpr, is_composite = equation.params["jaxpr"].jaxpr, is_open(layer)
        arrays, tree = jax.tree.flatten(result)
        work = work_of(jaxpr, leave_out=is_call)
        if is_composite and not work and not _computes(jaxpr, len(arrays)):
            return
        fields = [field_of(one, array.shape) for one, array in zip(seen, arrays, strict=False)]
        # A function that is compiled once and called twice has one name for the calls of its layers.
        parameters = 0 if is_composite or path in written or "#" in path else count_parameters(layer)
        written.add(path)
        rows.append(Row(path, layer, _shapes(result), parameters, work * times, jax.tree.unflatten(tree, fields)))

    first, *others = jax.tree.leaves(image)
    program = traced.jaxpr
    before = len(program.jaxpr.invars) - len(others) - 2  # Parameters and state; a key comes last.
    inputs = [None] * before + [seen_by_image(first.shape)] + [None] * (len(others) + 1)
    follow(program, inputs, write)
    return rows


def _computes(jaxpr: core.Jaxpr, results: int) -> bool:
    """Tells whether a composite computes one of its results itself, rather than returning that of a layer."""
    own = {variable for equation in jaxpr.eqns if not is_call(equation) for variable in equation.outvars}
    return any(not isinstance(variable, core.Literal) and variable in own for variable in jaxpr.outvars[:results])


def _as_shape(shape: Any) -> Any:
    """Turns lists of sizes into tuples."""
    return tuple(shape) if isinstance(shape, list) else shape


def is_shape(value: Any) -> bool:
    """Tells whether a value is one shape, rather than a tree of shapes."""
    return isinstance(value, tuple) and all(isinstance(size, int) for size in value)


def arrays_of(shape: Any) -> Any:
    """Describes float32 arrays of a shape, or of a tree of shapes."""
    return jax.tree.map(lambda one: jax.ShapeDtypeStruct(one, jnp.float32), _as_shape(shape), is_leaf=is_shape)


def _shapes(arrays: Any) -> Any:
    return jax.tree.map(lambda array: array.shape, arrays)
