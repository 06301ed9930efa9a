"""Counts the work of a function by tracing it: a check on the arithmetic of layers by another road."""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import jax
from jax.extend import core


def count_multiply_adds(function: Callable[..., Any], *args: Any) -> int:
    """Counts the multiply-adds of the convolutions and matrix products that a function would do.

    The function is traced on abstract arrays; nothing is computed. Bodies of loops count once. Taps that fall on
    padding count like the others, as they do in the literature; zeros between the pixels of a dilated image do not.

    Args:
      function: any function of arrays.
      *args: its arguments, arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      The number of multiply-adds.
    """
    return sum(_work(equation) for equation in _equations(jax.make_jaxpr(function)(*args).jaxpr))


def _equations(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr)
        ):
            if isinstance(value, core.ClosedJaxpr):
                yield from _equations(value.jaxpr)
            elif isinstance(value, core.Jaxpr):
                yield from _equations(value)


def _work(equation: core.JaxprEqn) -> int:
    shapes = [variable.aval.shape for variable in (*equation.invars, *equation.outvars)]  # pyright: ignore[reportAttributeAccessIssue]
    if equation.primitive.name in ("jaxcnn_convolve", "jaxcnn_input_gradient", "jaxcnn_kernel_gradient"):
        # Of the image, the kernel and the output, each pixel of the output meets one tap after the other of the kernel.
        image, kernel, output = {
            "jaxcnn_convolve": shapes,
            "jaxcnn_input_gradient": (shapes[2], shapes[1], shapes[0]),
            "jaxcnn_kernel_gradient": (shapes[0], shapes[2], shapes[1]),
        }[equation.primitive.name]
        return prod(output) * prod(kernel[:3])
    if equation.primitive.name == "conv_general_dilated":
        image, kernel, output = shapes
        layout = equation.params["dimension_numbers"]
        taps = prod(kernel) // kernel[layout.rhs_spec[0]]
        if prod(equation.params["lhs_dilation"]) > 1:
            return prod(image) * prod(kernel) // kernel[layout.rhs_spec[1]] // equation.params["feature_group_count"]
        return prod(output) * taps
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return prod(shapes[-1]) * prod(shapes[0][axis] for axis in contracted)
    return 0
