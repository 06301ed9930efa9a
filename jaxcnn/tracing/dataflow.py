"""Follows the image through a traced program: an abstract interpreter of jaxprs."""

from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jax.extend import core

from jaxcnn.tracing.rules import RULES, Operands, Seen, mixed, together, union

_LARGEST_CONSTANT = 2**20
"""Largest number of elements of a constant that is computed to find the pixels that an index reads."""


class Value(NamedTuple):
    """The abstract value of an array of the program.

    Attributes:
      seen: what its elements see of the image.
      constant: returns the array if it does not depend on any argument; None otherwise.
    """

    seen: Seen = None
    constant: Callable[[], np.ndarray] | None = None


Observe: TypeAlias = Callable[[core.JaxprEqn, list[Seen], int], None]
"""A function that is called once for every call of a jitted function in the program, with what its results see, and how
often the call runs: the product of the lengths of the scans around it. The results see what they see in the end."""


def follow(program: core.ClosedJaxpr, inputs: Sequence[Seen], observe: Observe | None = None) -> list[Seen]:
    """Computes what the results of a program see of the image.

    Args:
      program: of `jax.make_jaxpr`.
      inputs: what each of its inputs sees.
      observe: called for every call of a jitted function.

    Returns:
      What each result sees. It contains every pixel that the result depends on.
    """
    return [value.seen for value in _closed(program, [Value(seen) for seen in inputs], observe)]


def _closed(program: core.ClosedJaxpr, inputs: Sequence[Value], observe: Observe | None) -> list[Value]:
    constants = [Value(None, _held(value)) for value in program.consts]
    return _followed(program.jaxpr, [*constants, *inputs], observe)


def _held(value: Any) -> Callable[[], np.ndarray]:
    return lambda: np.asarray(value)


def _followed(jaxpr: core.Jaxpr, inputs: Sequence[Value], observe: Observe | None) -> list[Value]:
    """Interprets equation after equation; the inputs begin with the constants of the program."""
    known: dict[core.Var, Value] = dict(zip([*jaxpr.constvars, *jaxpr.invars], inputs, strict=True))

    def read(variable: Any) -> Value:
        return Value(None, _held(variable.val)) if isinstance(variable, core.Literal) else known[variable]

    for equation in jaxpr.eqns:
        values = _results(equation, [read(variable) for variable in equation.invars], observe)
        known.update(zip(equation.outvars, values, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _results(equation: core.JaxprEqn, values: list[Value], observe: Observe | None) -> list[Value]:
    name = equation.primitive.name
    if name in _LOOPS:
        return _LOOPS[name](equation, values, observe)
    inner = _inner(equation)
    if inner is not None:
        results = (
            _closed(inner, values, observe)
            if isinstance(inner, core.ClosedJaxpr)
            else _followed(inner, values, observe)
        )
        if observe is not None and name == "jit":
            observe(equation, [value.seen for value in results], 1)
        return results
    if all(value.seen is None for value in values):
        return [Value(None, constant) for constant in _computed(equation, values)]
    shapes = [variable.aval.shape for variable in equation.outvars]  # pyright: ignore[reportAttributeAccessIssue]
    if all(prod(shape) == 0 for shape in shapes):
        return [Value() for _ in shapes]
    seen = RULES.get(name, mixed)(_operands(equation, values), equation.params, shapes)
    # An array without elements depends on nothing.
    return [
        Value(one if prod(shape) else None)
        for one, shape in zip(seen if isinstance(seen, list) else [seen], shapes, strict=True)
    ]


def _operands(equation: core.JaxprEqn, values: list[Value]) -> Operands:
    def known(i: int) -> np.ndarray | None:
        constant = values[i].constant
        return None if constant is None else constant()

    shapes = [variable.aval.shape for variable in equation.invars]  # pyright: ignore[reportAttributeAccessIssue]
    return Operands([value.seen for value in values], shapes, known)


def _computed(equation: core.JaxprEqn, values: list[Value]) -> list[Callable[[], np.ndarray] | None]:
    """Returns functions that compute the results of an equation, each None unless all operands are small constants."""
    sizes = [prod(variable.aval.shape) for variable in equation.outvars]  # pyright: ignore[reportAttributeAccessIssue]
    constants = [value.constant for value in values]
    if any(constant is None for constant in constants) or max(sizes, default=0) > _LARGEST_CONSTANT:
        return [None] * len(sizes)

    @cache
    def compute() -> list[np.ndarray]:
        operands = [constant() for constant in constants if constant is not None]
        with jax.ensure_compile_time_eval():
            results = equation.primitive.bind(*operands, **equation.params)
        return [np.asarray(one) for one in (results if equation.primitive.multiple_results else [results])]

    return [lambda i=i: compute()[i] for i in range(len(sizes))]


def _inner(equation: core.JaxprEqn) -> core.Jaxpr | core.ClosedJaxpr | None:
    """Returns the program that an equation calls with its own operands, as those of jit and of custom gradients."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(name)
        jaxpr = inner.jaxpr if isinstance(inner, core.ClosedJaxpr) else inner
        if (
            isinstance(jaxpr, core.Jaxpr)
            and _shapes(jaxpr.invars) == _shapes(equation.invars)
            and _shapes(jaxpr.outvars) == _shapes(equation.outvars)
        ):
            return inner
    return None


def _shapes(variables: Sequence[Any]) -> list[Any]:
    return [getattr(variable.aval, "shape", None) for variable in variables]


# Control flow. A loop is followed until what its carried arrays see no longer grows; they see all of it if it does.


def _cond(equation: core.JaxprEqn, values: list[Value], observe: Observe | None) -> list[Value]:
    index, *operands = values
    branches = [_closed(branch, operands, observe) for branch in equation.params["branches"]]
    return [
        Value(union([together(index.seen), *(value.seen for value in results)], variable.aval.shape))  # pyright: ignore[reportAttributeAccessIssue]
        for variable, *results in zip(equation.outvars, *branches, strict=True)
    ]


def _while(equation: core.JaxprEqn, values: list[Value], observe: Observe | None) -> list[Value]:
    params = equation.params
    split = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    tests, constants, carried = values[: split[0]], values[split[0] : split[1]], values[split[1] :]

    def step(carry: list[Value], observe: Observe | None = None) -> list[Value]:
        (test,) = _closed(params["cond_jaxpr"], [*tests, *carry], observe)
        results = _closed(params["body_jaxpr"], [*constants, *carry], observe)
        return [
            Value(union([value.seen, together(test.seen)], shape))
            for value, shape in zip(results, _shapes(equation.outvars), strict=True)
        ]

    settled = _settled(carried, step, _shapes(equation.outvars))
    if observe is not None:
        step(settled, observe)
    return settled


def _scan(equation: core.JaxprEqn, values: list[Value], observe: Observe | None) -> list[Value]:
    params = equation.params
    body = params["jaxpr"].jaxpr
    # Versions of JAX differ in how they give the numbers of operands. A step takes slices of those with one more axis.
    sliced = _with_more_axes(equation.invars, body.invars)
    num_carried = len(equation.outvars) - _with_more_axes(equation.outvars, body.outvars)
    split = len(values) - sliced - num_carried, len(values) - sliced
    constants, carried = values[: split[0]], values[split[0] : split[1]]
    slices = [Value(_shifted(value.seen, -1)) for value in values[split[1] :]]

    def run(carry: list[Value], observe: Observe | None = None) -> list[Value]:
        return _closed(params["jaxpr"], [*constants, *carry, *slices], observe)

    def observe_step(inner: core.JaxprEqn, seen: list[Seen], times: int) -> None:
        if observe is not None:
            observe(inner, seen, times * params["length"])

    shapes = _shapes(equation.outvars)[: len(carried)]
    carried = _settled(carried, lambda carry: run(carry)[: len(carry)], shapes)
    stacked = [Value(_shifted(value.seen, 1)) for value in run(carried, observe_step)[len(carried) :]]
    return [*carried, *stacked]


def _with_more_axes(outer: Sequence[Any], inner: Sequence[Any]) -> int:
    """Counts the variables that have more axes outside of a loop than in it."""
    return sum(len(one) > len(other) for one, other in zip(_shapes(outer), _shapes(inner), strict=True))


def _shifted(seen: Seen, by: int) -> Seen:
    """Adds or takes away the first axis, that of a loop."""
    if seen is None:
        return None
    vertical, horizontal = (
        line if line.axis is None else line.together if line.axis + by < 0 else line.along(line.axis + by)
        for line in seen
    )
    return vertical, horizontal


def _settled(carried: list[Value], step: Callable[[list[Value]], list[Value]], shapes: list[Any]) -> list[Value]:
    """Returns what the carried arrays of a loop see after any number of steps."""
    carried = [Value(value.seen) for value in carried]
    for _ in range(2):
        after = [
            Value(union([before.seen, value.seen], shape))
            for before, value, shape in zip(carried, step(carried), shapes, strict=True)
        ]
        if all(_same(one.seen, other.seen) for one, other in zip(carried, after, strict=True)):
            return after
        carried = after
    # All that the loop reads, in each of its results.
    everything = union([together(value.seen) for value in step([*carried])] + [together(c.seen) for c in carried], ())
    return [Value(everything) for _ in carried]


def _same(one: Seen, other: Seen) -> bool:
    if one is None or other is None:
        return one is other
    return all(
        a.is_like(b) and np.array_equal(a.first, b.first) and np.array_equal(a.last, b.last)
        for a, b in zip(one, other, strict=True)
    )


_LOOPS = {"cond": _cond, "while": _while, "scan": _scan}
