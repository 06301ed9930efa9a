"""Counts the multiply-adds of any function by tracing it."""

from collections.abc import Callable
from math import prod
from typing import Any

import jax
from jax.extend import core


def count_multiply_adds(function: Callable[..., Any], *args: Any) -> int:
    """Counts the multiply-adds of the convolutions and matrix products that a function would do.

    The function is traced on abstract arrays; nothing is computed. The body of a loop of known length counts as often
    as it runs, that of a `while_loop` once; of the branches of a condition, the one with the most work counts. Taps
    that fall on padding count like the others, as they do in the literature; zeros between the pixels of a dilated
    image do not.

    Args:
      function: any function of arrays.
      *args: its arguments, arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      The number of multiply-adds.
    """
    return work_of(jax.make_jaxpr(function)(*args).jaxpr)


def work_of(jaxpr: core.Jaxpr, leave_out: Callable[[core.JaxprEqn], bool] = lambda equation: False) -> int:
    """Counts the multiply-adds of a traced program; see `count_multiply_adds`.

    Args:
      jaxpr: the program.
      leave_out: tells which equations do not count.

    Returns:
      The number of multiply-adds.
    """
    return sum(_work(equation, leave_out) for equation in jaxpr.eqns if not leave_out(equation))


def _work(equation: core.JaxprEqn, leave_out: Callable[[core.JaxprEqn], bool]) -> int:
    name, params = equation.primitive.name, equation.params
    shapes = [variable.aval.shape for variable in (*equation.invars, *equation.outvars)]  # pyright: ignore[reportAttributeAccessIssue]
    if name in ("jaxcnn_convolve", "jaxcnn_input_gradient", "jaxcnn_kernel_gradient"):
        # Of the image, the kernel and the output, each pixel of the output meets one tap after the other of the kernel.
        _, kernel, output = {
            "jaxcnn_convolve": shapes,
            "jaxcnn_input_gradient": (shapes[2], shapes[1], shapes[0]),
            "jaxcnn_kernel_gradient": (shapes[0], shapes[2], shapes[1]),
        }[name]
        return prod(output) * prod(kernel[:3])
    if name == "conv_general_dilated":
        image, kernel, output = shapes
        layout = params["dimension_numbers"]
        if prod(params["lhs_dilation"]) > 1:
            return prod(image) * prod(kernel) // kernel[layout.rhs_spec[1]] // params["feature_group_count"]
        return prod(output) * (prod(kernel) // kernel[layout.rhs_spec[0]])
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return prod(shapes[-1]) * prod(shapes[0][axis] for axis in contracted)
    if name == "cond":
        return max(work_of(branch.jaxpr, leave_out) for branch in params["branches"])
    inner = sum(
        work_of(value.jaxpr if isinstance(value, core.ClosedJaxpr) else value, leave_out)
        for value in jax.tree.leaves(list(params.values()), is_leaf=_is_program)
        if _is_program(value)
    )
    return inner * (params["length"] if name == "scan" else 1)


def _is_program(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)
