"""Exports models as ONNX files, for runtimes without jax.

    program = export_onnx(model, params, state, (224, 224, 3))
    program.save("model.onnx")  # and model.onnx.json next to it

jax2onnx converts the model. It has dropped a padding without an error, so a file is returned only if onnxruntime gives
the results of jaxcnn. jax2onnx requires an older orbax-checkpoint than jaxcnn's command line, but does not import it:
to have both, install it without its dependencies,

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
from jaxcnn.trees import named_leaves
from jaxcnn.types import Layer, Params, Shape, State

TOLERANCE = 1e-4
"""Largest difference between onnxruntime and jaxcnn, relative to the largest result."""

_BATCHES = (1, 2, 5)

_CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat2": "jaxpr",  # jax.checkpoint
}
"""Primitives with an inner program, and the name of its parameter."""


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
    """Converts a model in evaluation mode to ONNX, and compares the results of onnxruntime with those of jaxcnn.

    The program takes float32 images (batch, height, width, channels) with any batch size and the given height and
    width, and returns float32.

    Args:
      model: any layer or model.
      params: its parameters.
      state: its state.
      image_shape: (height, width, channels) of the images.
      fold: whether to fold batch norms into convolutions (`jaxcnn.layers.fold_batch_norm`).
      class_names: for the description.
      preprocessing: preprocessing of the images in words, for the description.

    Returns:
      The program, whose results in onnxruntime match jaxcnn's.

    Raises:
      ImportError: jax2onnx or onnxruntime is not installed.
      ValueError: the model cannot be converted, onnxruntime cannot run the file, or its results do not match.
    """
    jax2onnx, onnxruntime = _package("jax2onnx"), _package("onnxruntime")
    given = Forward(model, jnp.float32)
    expected = jax.jit(lambda images: given(params, state, images))
    folded = fold_batch_norm(model, params, state, image_shape) if fold else (model, params, state)
    sizes = image_sizes(*folded, image_shape, False)
    forward = Forward(folded[0], jnp.float32).bound(*folded[1:])
    try:
        content = _converted(jax2onnx, jax.make_jaxpr(forward)(sizes.struct()), image_shape)
    except Exception as error:  # The plugins of jax2onnx raise many types.
        raise ValueError(
            f"export expects a model that jax2onnx can convert, got {type(error).__name__}: {_first_line(error)}; "
            "export it as StableHLO"
        ) from error
    _compare(onnxruntime, content, expected, image_shape)
    outputs = jax.eval_shape(forward, sizes.struct())
    names = ", ".join("logits" if not path else path.replace("/", "_") for path in named_leaves(outputs))
    return ExportedModel(
        content,
        {
            "format": "onnx",
            **describe(
                sizes, outputs, jnp.float32, fold, class_names, preprocessing, ("jax2onnx", "onnx", "onnxruntime")
            ),
        },
        (
            "import onnxruntime",
            'session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])',
            f"({names},) = session.run(None, {{{{session.get_inputs()[0].name: images}}}})",
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
    """Converts a program that was traced before jax2onnx patched functions of jax."""

    def run(images: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(_evaluate(program, [images], images.shape[0]))

    # jax2onnx warns about each shape that it does not write.
    log = logging.getLogger("onnx_ir")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        return jax2onnx.to_onnx(run, [("b", *image_shape)]).SerializeToString()
    finally:
        log.setLevel(before)


def _evaluate(program: ClosedJaxpr, arguments: Sequence[Any], batch: Any) -> list[Any]:
    """Evaluates a program with operations that jax2onnx supports: lax operations, without nested programs.

    Args:
      program: program of lax operations and jaxcnn's primitives, for a batch of unknown size "b".
      arguments: arguments of the program.
      batch: the batch size in the scope of the new trace.

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
    """Converts the batch size, and sizes computed from it, to another scope of symbols."""
    if export.is_symbolic_dim(value):
        return export.symbolic_shape(str(value), scope=batch.scope)[0]
    return tuple(_renamed(item, batch) for item in value) if type(value) is tuple else value


def _pad(x: jax.Array, filling: jax.Array, *, padding_config: Sequence[tuple[int, int, int]]) -> jax.Array:
    """Pads by concatenation, because jax2onnx's padding needs a known batch size."""
    for axis, (before, after, between) in enumerate(padding_config):
        if between or before < 0 or after < 0:
            return lax.pad_p.bind(x, filling, padding_config=padding_config)
        sides = [jnp.broadcast_to(filling, (*x.shape[:axis], n, *x.shape[axis + 1 :])) for n in (before, after)]
        parts = [part for part, n in zip((sides[0], x, sides[1]), (before, 1, after), strict=True) if n]
        x = parts[0] if len(parts) == 1 else lax.concatenate(parts, axis)
    return x


def _window_max(x: jax.Array, **options: Any) -> jax.Array:
    """Compares the taps of a window one by one, because jax2onnx's pooling has another order of axes."""
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


def _compare(onnxruntime: Any, content: bytes, expected: Callable[[jax.Array], Any], image_shape: Shape) -> None:
    """Refuses a file that onnxruntime cannot run, or whose results do not match jaxcnn's."""
    random = np.random.default_rng(0)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for batch in _BATCHES:
        images = random.uniform(-1, 1, (batch, *image_shape)).astype(np.float32)
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            results = session.run(None, {session.get_inputs()[0].name: images})
        except Exception as error:  # onnxruntime's errors have no common base class.
            raise ValueError(
                f"export expects a model that onnxruntime can run after the conversion, got {type(error).__name__}: "
                f"{_first_line(error)}; export it as StableHLO"
            ) from error
        for got, want in zip(results, map(np.asarray, jax.tree.leaves(expected(jnp.asarray(images)))), strict=True):
            _compare_one(got, want, batch)


def _compare_one(got: np.ndarray, want: np.ndarray, batch: int) -> None:
    if got.shape != want.shape:
        raise ValueError(f"export expects results of shape {want.shape} from onnxruntime, got {got.shape}")
    difference, scale = np.max(np.abs(got - want)), np.max(np.abs(want))
    if not difference <= TOLERANCE * scale:
        raise ValueError(
            f"export expects the results of onnxruntime to match jaxcnn's to within {TOLERANCE:g} of the "
            f"largest result, got a difference of {difference / scale:.2g} of it for a batch of {batch}: jax2onnx "
            "converted the model wrongly; export it as StableHLO"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
