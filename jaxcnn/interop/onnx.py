"""Models as ONNX files, for runtimes that know nothing of jax.

    program = export_onnx(model, params, state, (224, 224, 3))
    program.save("model.onnx")  # and model.onnx.json beside it

The conversion is jax2onnx's. It has been seen to drop a padding without a word, so a file is handed out only after it
ran in onnxruntime and gave what jaxcnn gives. jax2onnx asks for an older orbax-checkpoint than the command line of
jaxcnn needs, without importing it: where both are wanted, install it without its dependencies,

    pip install 'jaxcnn[cli,export-onnx]' && pip install --no-deps jax2onnx
"""

import functools
import importlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax
from jax.extend.core import ClosedJaxpr, Literal

from jaxcnn.interop.export import ExportedModel, Forward, describe, image_sizes
from jaxcnn.layers import fold_batch_norm
from jaxcnn.ops.lowering import PLAIN_RULES
from jaxcnn.types import Layer, Params, Shape, State

TOLERANCE = 1e-4
"""Largest difference between onnxruntime and jaxcnn, of the largest result; a wrong padding makes some 0.1."""

_BATCHES = (1, 2, 5)

_CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat2": "jaxpr",  # jax.checkpoint
}
"""Primitives that hold a program of their own, and the name that they hold it by."""


def export_onnx(
    model: Layer,
    params: Params,
    state: State,
    image_shape: Shape,
    *,
    fold: bool = True,
    class_names: Sequence[str] = (),
    preprocessing: str = "",
) -> ExportedModel:
    """Converts a model, as it is in evaluation, to ONNX, and compares what onnxruntime makes of it with jaxcnn.

    The program takes images (batch, height, width, channels) in float32, for any batch and the height and width given,
    and gives results in float32.

    Args:
      model: any layer or model.
      params: its parameters.
      state: its state.
      image_shape: (height, width, channels) of the images.
      fold: whether to fold batch norms into convolutions (`jaxcnn.layers.fold_batch_norm`).
      class_names: for the description.
      preprocessing: what to do with an image before, in words, for the description.

    Returns:
      The program; it has run in onnxruntime and given the results of jaxcnn.

    Raises:
      ImportError: jax2onnx or onnxruntime is not installed.
      ValueError: the model cannot be converted, onnxruntime does not take the file, or its results are others.
    """
    jax2onnx, onnxruntime = _package("jax2onnx"), _package("onnxruntime")
    given = Forward(model, jnp.float32)
    expected = jax.jit(lambda images: given(params, state, images))
    folded = fold_batch_norm(model, params, state) if fold else (model, params, state)
    sizes = image_sizes(*folded, image_shape, False)
    forward = Forward(folded[0], jnp.float32).bound(*folded[1:])
    try:
        content = _converted(jax2onnx, jax.make_jaxpr(forward)(sizes.struct()), image_shape)
    except Exception as error:  # jax2onnx raises whatever its plugins raise.
        raise ValueError(
            f"export expects a model that jax2onnx can convert, got {type(error).__name__}: {_first_line(error)}; "
            "export it as StableHLO"
        ) from error
    _compare(onnxruntime, content, expected, image_shape)
    outputs = jax.eval_shape(forward, sizes.struct())
    return ExportedModel(
        content,
        {
            "format": "onnx",
            **describe(
                sizes, [outputs], jnp.float32, fold, class_names, preprocessing, ("jax2onnx", "onnx", "onnxruntime")
            ),
        },
        (
            "import onnxruntime",
            'session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])',
            "(logits,) = session.run(None, {{session.get_inputs()[0].name: images}})",
        ),
    )


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"ONNX expects {name} to be installed; pip install 'jaxcnn[export-onnx]' && pip install --no-deps jax2onnx"
        ) from error


def _converted(jax2onnx: Any, program: ClosedJaxpr, image_shape: Shape) -> bytes:
    """Converts a program that was traced before jax2onnx put its own functions in the place of jax's."""

    def run(images: jax.Array) -> jax.Array:
        (result,) = _evaluate(program, [images], images.shape[0])
        return result

    # It warns of each shape that it does not write down.
    log = logging.getLogger("onnx_ir")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        return jax2onnx.to_onnx(run, [("b", *image_shape)]).SerializeToString()
    finally:
        log.setLevel(before)


def _evaluate(program: ClosedJaxpr, arguments: Sequence[Any], batch: Any) -> list[Any]:
    """Evaluates a program in what jax2onnx knows: lax operations, with no program inside of another.

    Args:
      program: of lax operations and our primitives, for a batch of unknown size "b".
      arguments: of the program.
      batch: that size where the result is traced.

    Returns:
      The results.
    """
    jaxpr = program.jaxpr
    values = dict(zip(jaxpr.constvars, program.consts, strict=True)) | dict(zip(jaxpr.invars, arguments, strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        name, operands = equation.primitive.name, [read(variable) for variable in equation.invars]
        options = {option: _renamed(value, batch) for option, value in equation.params.items()}
        if name in _CALLS:
            inner = options[_CALLS[name]]
            results = _evaluate(inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ()), operands, batch)
        else:
            rule = _RULES.get(equation.primitive, equation.primitive.bind)
            results = rule(*operands, **options)
            results = results if equation.primitive.multiple_results else [results]
        values |= zip(equation.outvars, results, strict=True)
    return [read(variable) for variable in jaxpr.outvars]


def _renamed(value: Any, batch: Any) -> Any:
    """Puts the size of the batch, and what was computed from it, into another scope of symbols."""
    if export.is_symbolic_dim(value):
        return export.symbolic_shape(str(value), scope=batch.scope)[0]
    return tuple(_renamed(item, batch) for item in value) if type(value) is tuple else value


def _pad(x: jax.Array, filling: jax.Array, *, padding_config: Sequence[tuple[int, int, int]]) -> jax.Array:
    """Pads by concatenation, since jax2onnx's padding wants a batch of known size."""
    for axis, (before, after, between) in enumerate(padding_config):
        if between or before < 0 or after < 0:
            return lax.pad_p.bind(x, filling, padding_config=padding_config)
        sides = [jnp.broadcast_to(filling, (*x.shape[:axis], n, *x.shape[axis + 1 :])) for n in (before, after)]
        parts = [part for part, n in zip((sides[0], x, sides[1]), (before, 1, after), strict=True) if n]
        x = parts[0] if len(parts) == 1 else lax.concatenate(parts, axis)
    return x


def _window_max(x: jax.Array, **options: Any) -> jax.Array:
    """Compares the taps of a window one after the other, since jax2onnx's pooling has another order of axes."""
    if any(map(any, options["padding"])) or max(options["base_dilation"]) > 1:
        return lax.reduce_window_max_p.bind(x, **options)
    windows = zip(options["window_dimensions"], options["window_strides"], options["window_dilation"], strict=True)
    for axis, (taps, stride, apart) in enumerate(windows):
        if (taps, stride) != (1, 1):
            reach = (x.shape[axis] - apart * (taps - 1) - 1) // stride * stride + 1
            cut = (lax.slice_in_dim(x, i * apart, i * apart + reach, stride, axis) for i in range(taps))
            x = functools.reduce(lax.max, cut)
    return x


_RULES = {**PLAIN_RULES, lax.pad_p: _pad, lax.reduce_window_max_p: _window_max}


def _compare(onnxruntime: Any, content: bytes, expected: Callable[[jax.Array], jax.Array], image_shape: Shape) -> None:
    """Refuses a file that onnxruntime does not take, or that gives other results than jaxcnn."""
    random = np.random.default_rng(0)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for batch in _BATCHES:
        images = random.uniform(-1, 1, (batch, *image_shape)).astype(np.float32)
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            (got,) = session.run(None, {session.get_inputs()[0].name: images})
        except Exception as error:  # Each of onnxruntime's errors has a class of its own.
            raise ValueError(
                f"export expects a model that onnxruntime can run as jax2onnx converts it, got {type(error).__name__}: "
                f"{_first_line(error)}; export it as StableHLO"
            ) from error
        want = np.asarray(expected(jnp.asarray(images)))
        if got.shape != want.shape:
            raise ValueError(f"export expects results of shape {want.shape} from onnxruntime, got {got.shape}")
        difference, scale = np.max(np.abs(got - want)), np.max(np.abs(want))
        if not difference <= TOLERANCE * scale:
            raise ValueError(
                f"export expects what onnxruntime computes to be what jaxcnn computes to within {TOLERANCE:g} of the "
                f"largest result, got a difference of {difference / scale:.2g} of it for a batch of {batch}: jax2onnx "
                "has converted the model wrongly; export it as StableHLO"
            )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
