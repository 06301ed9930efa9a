"""The steps of a model for its translation to a peer: its layers in order of use, and the operations between them.

A model is traced once, with the call of each layer as one step (`jaxcnn.layers.flow`). So a peer needs translations
only of layers that are not made of layers.
"""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.extend import core

from jaxcnn import ops
from jaxcnn.benchmark.peers.common import jax_resize, resized
from jaxcnn.benchmark.program import Untranslatable
from jaxcnn.benchmark.spec import Spec
from jaxcnn.layers import Function, Resize
from jaxcnn.layers.flow import called_path, dataflow, structure
from jaxcnn.ops.lowering import PLAIN_RULES
from jaxcnn.ops.resizing import Method
from jaxcnn.types import Layer, Shape

ELEMENTWISE = frozenset({
    "abs", "add", "and", "ceil", "clamp", "convert_element_type", "copy", "cos", "div", "eq", "erf", "exp", "expm1",
    "floor", "ge", "gt", "integer_pow", "is_finite", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul",
    "ne", "neg", "not", "or", "pow", "rsqrt", "select_n", "sign", "sin", "sqrt", "square", "stop_gradient", "sub",
    "tanh",
})  # fmt: skip
"""Names of primitives whose result does not depend on the order of axes."""

_CALLS = frozenset({"jit", "closed_call"})
_OWN_DERIVATIVES = frozenset({"custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint"})
"""Names of primitives that call a function, with or without a derivative of its own."""

_ACTIVATIONS = (
    Function(jax.nn.relu),
    Function(jax.nn.relu6),
    Function(jax.nn.gelu),
    Function(jax.nn.gelu, approximate=False),
    Function(ops.gelu),
    Function(jax.nn.silu),
    Function(jax.nn.hard_swish),
    Function(jax.nn.hard_sigmoid),
    Function(jax.nn.elu),
    Function(jax.nn.leaky_relu),
    Function(jax.nn.softplus),
)
"""Functions that are recognised where a forward calls them, because peers have them as one operation."""

_RESIZES = (
    *({"method": method, "align_corners": False, "antialias": False} for method in get_args(Method)),
    *(
        {"method": method, "align_corners": not antialias, "antialias": antialias}
        for method in ("bilinear", "bicubic")
        for antialias in (False, True)
    ),
)
"""Options of `jaxcnn.ops.resize`, which is known again too."""


class Call(NamedTuple):
    """A call of a layer.

    Attributes:
      path: path of the layer, the same for all its calls; "" if the model is not made of layers.
      layer: the layer.
    """

    path: str
    layer: Layer


class Step(NamedTuple):
    """A step of a model: the call of a layer, or an operation between the layers.

    Attributes:
      does: the called layer, an activation or a resize, or the equation of another operation.
      inputs: the operands: variables of the program, or literals.
      outputs: variables of the results.
    """

    does: Call | Function | core.JaxprEqn
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """The steps of a model for one image (height, width, channels) or one vector, in training or in evaluation.

    Attributes:
      layers: all layers and the shapes of their inputs, by path, in the order of use in training.
      steps: in order, without steps whose result is not used.
      constants: values of variables that do not depend on the image.
      image: variable of the image.
      key: variable of the random key.
      results: tree of the variables of the result.
    """

    layers: Mapping[str, tuple[Layer, Shape]]
    steps: tuple[Step, ...]
    constants: Mapping[Any, Any]
    image: Any
    key: Any
    results: Any

    def uses(self) -> Counter[Any]:
        """Counts how often each variable is used."""
        read = [*(step.inputs for step in self.steps), jax.tree.leaves(self.results)]
        return Counter(one for inputs in read for one in inputs if not isinstance(one, core.Literal))

    def draws(self) -> bool:
        """Tells whether a forward draws random numbers itself, besides those of its layers."""
        return self.uses()[self.key] > 0

    def run(self, x: Any, key: Any, do: Callable[[Step, list[Any]], Sequence[Any]]) -> Any:
        """Runs the steps one after the other.

        Args:
          x: the image, or a symbol for it.
          key: the random key, or a symbol for it, if the plan draws.
          do: computes the results of a step from its operands. An operand is a result of an earlier step, `x`, `key`, a
            constant array, or the number of a literal.

        Returns:
          The tree of results.
        """
        values = {**self.constants, self.image: x, self.key: key}

        def read(variable: Any) -> Any:
            return variable.val if isinstance(variable, core.Literal) else values[variable]

        for step in self.steps:
            values.update(zip(step.outputs, do(step, [read(variable) for variable in step.inputs]), strict=True))
        return jax.tree.map(read, self.results)


def make_plan(peer: str, model: Layer, image_shape: Shape, *, train: bool, dtype: Any = jnp.float32) -> Plan:
    """Traces a model.

    Args:
      peer: name of the peer, for messages.
      model: a layer or a whole model.
      image_shape: (height, width, channels) of one image, or (features,).
      train: whether to plan training rather than evaluation.
      dtype: dtype of the image.

    Returns:
      The plan.

    Raises:
      Untranslatable: a layer takes or returns several arrays, or an operation between the layers is one of jaxcnn's
        own, such as `jaxcnn.ops.conv`, or a resize that the peer does not compute.
    """
    image = jax.ShapeDtypeStruct(tuple(image_shape), dtype)
    plan = _traced(peer, model, image, train=True)
    return plan if train else replace(_traced(peer, model, image, train=False), layers=plan.layers)


def plan_of(peer: str, spec: Spec) -> Plan:
    """Returns the plan of the model of a spec, in the dtype of its computation; see `make_plan`."""
    train, dtype = spec.mode == "train", jnp.dtype(spec.precision)
    return make_plan(peer, spec.model, spec.image_shape, train=train, dtype=dtype)


def evaluate(equation: core.JaxprEqn, operands: Sequence[Any]) -> Sequence[Any]:
    """Computes an operation in JAX as it was traced: for one image."""
    results = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))
    return results if equation.primitive.multiple_results else [results]


def operate_on_batch(does: Function | core.JaxprEqn, operands: Sequence[Any]) -> Sequence[Any]:
    """Computes an activation, a resize or another operation in JAX for a batch.

    Args:
      does: the operation.
      operands: arrays whose first axis is the batch, with the channels last; also constants without that axis.

    Returns:
      The results, with the batch as their first axis.
    """
    if isinstance(does, Function):
        return [call_function(does, operands[0])]
    pairs = zip(does.invars, operands, strict=True)
    axes = tuple(None if jnp.ndim(operand) == one.aval.ndim else 0 for one, operand in pairs)  # pyright: ignore
    return jax.vmap(lambda *images: evaluate(does, images), axes)(*operands)


def call_function(function: Function, x: jax.Array) -> jax.Array:
    """Applies an activation or a resize in JAX as a peer would: jaxcnn's own functions are optimized.

    Args:
      function: as in a step.
      x: the operand; for a resize, its axes 1 and 2 are height and width.

    Returns:
      The result.
    """
    if function.function is ops.gelu:
        return jax.nn.gelu(x, approximate=False)
    if function.function is ops.resize:
        options = dict(function.options)
        return resized(x, options["output_shape"], options["method"], options["antialias"])
    return function(x)


def refuse_operation(peer: str, equation: core.JaxprEqn) -> Untranslatable:
    """Makes the error for an operation between layers that has no translation to a peer.

    Args:
      peer: name of the peer.
      equation: the operation.

    Returns:
      The error, to be raised.
    """
    path = str(equation.source_info.name_stack)
    return Untranslatable(
        f"{peer} has no counterpart of the operation {equation.primitive.name!r}"
        + (f" in the forward of layer {path!r}" if path else " in the forward of the model")
        + "; make it a layer of its own and register its translation with "
        f"jaxcnn.benchmark.peers.to_{peer}.translate.register"
    )


def _traced(peer: str, model: Layer, image: jax.ShapeDtypeStruct, *, train: bool) -> Plan:
    flow = dataflow(model, image, train=train)
    program = _open(flow.jaxpr, _CALLS | (_OWN_DERIVATIVES if peer == "torch" else frozenset()))
    jaxpr = program.jaxpr
    *_, x, key = jaxpr.invars
    needed = {one for one in jaxpr.outvars if not isinstance(one, core.Literal)}
    steps: list[Step] = []
    for step in reversed(_grouped(peer, jaxpr.eqns, flow.layers)):
        if needed.intersection(step.outputs):
            steps.append(step)
            needed.update(one for one in step.inputs if not isinstance(one, core.Literal))
    constants = dict(zip(jaxpr.constvars, program.consts, strict=True))
    steps = _without_known(steps[::-1], constants)
    layers: dict[str, tuple[Layer, Shape]] = {}
    for step in steps:
        if isinstance(step.does, Call):
            layers.setdefault(step.does.path, (step.does.layer, step.inputs[0].aval.shape))
    results = jax.tree.unflatten(jax.tree.structure(flow.output), jaxpr.outvars)
    return Plan(layers, tuple(steps), constants, x, key, results)


def _open(program: core.ClosedJaxpr, opened: frozenset[str]) -> core.ClosedJaxpr:
    """Replaces calls of functions by the bodies of the functions; calls of layers and of activations stay."""

    def run(jaxpr: core.Jaxpr, consts: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *operands], strict=True))

        def read(variable: Any) -> Any:
            return variable.val if isinstance(variable, core.Literal) else values[variable]

        for equation in jaxpr.eqns:
            inner = _called(equation) if equation.primitive.name in opened else None
            inputs = [read(variable) for variable in equation.invars]
            if inner is None:
                results = evaluate(equation, inputs)
            else:
                with jax.named_scope(str(equation.source_info.name_stack)):
                    results = run(inner.jaxpr, inner.consts, inputs)
            values.update(zip(equation.outvars, results, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    shapes = [jax.ShapeDtypeStruct(one.aval.shape, one.aval.dtype) for one in program.jaxpr.invars]  # pyright: ignore
    return jax.make_jaxpr(lambda *operands: run(program.jaxpr, program.consts, operands))(*shapes)


def _called(equation: core.JaxprEqn) -> core.ClosedJaxpr | None:
    """Returns the program of the function that an equation calls; None for a layer or an activation."""
    if called_path(equation) is not None or _known([equation])[0] is not None:
        return None
    inner: Any = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    return inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())


def _grouped(peer: str, equations: Sequence[core.JaxprEqn], layers: Mapping[str, Layer]) -> list[Step]:
    """Turns equations into steps; those of an activation or a resize become one step."""
    steps, rest = [], list(equations)
    while rest:
        equation = rest[0]
        path = called_path(equation)
        step, count = _known(rest) if path is None else (_call(peer, path, layers[path], equation), 1)
        if step is None and _is_optimized(equation):
            raise refuse_operation(peer, equation)
        if step and peer != "torch" and isinstance(step.does, Function) and step.does.function is ops.resize:
            # Refuses a resize that the peer cannot compute.
            jax_resize(peer, Resize(**dict(step.does.options)), step.inputs[0].aval.shape)
        steps.append(step or Step(equation, tuple(equation.invars), tuple(equation.outvars)))
        del rest[:count]
    return steps


def _call(peer: str, path: str, layer: Layer, equation: core.JaxprEqn) -> Step:
    """Reads the call of a layer, whose operands are random keys, parameters, state and the input, in this order."""
    keys = sum(_is_key(one.aval) for one in equation.invars)
    params, state = _sizes(layer)
    inputs, outputs = len(equation.invars) - keys - params - state, len(equation.outvars) - state
    if (inputs, outputs) != (1, 1):
        raise Untranslatable(
            f"{peer} has no counterpart of {layer!r} in layer {path!r}: expected one array as its input and one as its "
            f"result, got {inputs} and {outputs}"
        )
    every_call = "/".join(name.partition("#")[0] for name in path.split("/"))
    return Step(Call(every_call, layer), (equation.invars[-1],), (equation.outvars[0],))


def _without_known(steps: Sequence[Step], constants: dict[Any, Any]) -> list[Step]:
    """Computes the steps that do not depend on the image into the constants, and returns the other steps."""
    rest = []
    for step in steps:
        if isinstance(step.does, core.JaxprEqn) and all(
            isinstance(one, core.Literal) or one in constants for one in step.inputs
        ):
            operands = [one.val if isinstance(one, core.Literal) else constants[one] for one in step.inputs]
            constants.update(zip(step.outputs, evaluate(step.does, operands), strict=True))
        else:
            rest.append(step)
    return rest


def _known(equations: Sequence[core.JaxprEqn]) -> tuple[Step | None, int]:
    """Returns the activation or resize that the first equations compute, if they do, and how many they are."""
    result: Any = equations[0].outvars[0].aval
    if not jnp.issubdtype(result.dtype, jnp.floating):
        return None, 1
    candidates = [(function, result) for function in _ACTIVATIONS]
    candidates += [(function, equations[0].invars[0].aval) for function in _resizes(equations)]
    for function, x in candidates:
        program, text = _program(function, x.shape, x.dtype)
        part = list(equations[: len(program.eqns)])
        if [equation.primitive for equation in part] == [equation.primitive for equation in program.eqns]:
            inputs, outputs = _free(part), tuple(part[-1].outvars)
            if len(inputs) == 1 and str(program.replace(invars=inputs, outvars=outputs, eqns=part)) == text:
                return Step(function, inputs, outputs), len(part)
    return None, 1


def _resizes(equations: Sequence[core.JaxprEqn]) -> list[Function]:
    """Returns the resizes that the first equations may be: one along each axis, after a conversion to float32."""
    along_axis = [one for one in equations[:3] if one.primitive.name == "jaxcnn_resample"]
    if len(along_axis) < 2 or along_axis[0] not in equations[:2]:
        return []
    result: Any = along_axis[1].outvars[0].aval
    return [Function(ops.resize, output_shape=result.shape[:2], **options) for options in _RESIZES]


@functools.lru_cache(maxsize=4096)
def _program(function: Function, shape: Shape, dtype: Any) -> tuple[core.Jaxpr, str]:
    """Returns the program of a traced function, also as text."""
    jaxpr = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, dtype)).jaxpr
    return jaxpr, str(jaxpr)


def _free(equations: Sequence[core.JaxprEqn]) -> tuple[core.Var, ...]:
    """Returns the variables that equations read and do not compute."""
    computed = {variable for equation in equations for variable in equation.outvars}
    read = (one for equation in equations for one in equation.invars if isinstance(one, core.Var))
    return tuple(dict.fromkeys(one for one in read if one not in computed))


@functools.lru_cache(maxsize=4096)
def _sizes(layer: Layer) -> tuple[int, int]:
    """Returns the numbers of arrays in the parameters and in the state of a layer."""
    params, state = structure(layer)
    return len(jax.tree.leaves(params)), len(jax.tree.leaves(state))


def _is_optimized(equation: core.JaxprEqn) -> bool:
    """Tells whether an operation, or one within it, is a primitive of jaxcnn: work that the peer must do itself."""
    inner = core.jaxprs_in_params(equation.params)
    return equation.primitive in PLAIN_RULES or any(_is_optimized(one) for jaxpr in inner for one in jaxpr.eqns)


def _is_key(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jax.dtypes.prng_key)
