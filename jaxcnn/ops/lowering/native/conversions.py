"""Finds the numbers of 16 bits that an operand of a C++ kernel was converted from, so that the kernel reads those.

A layer casts its image to float32 where it must not round between two steps. A kernel that is called from XLA needs its
operands in memory: it would read an array that is twice as large as the image, and that XLA would have to write first.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray

from jaxcnn.ops.lowering.native.build import reads

_DTYPES = {"bf16": jnp.bfloat16, "f16": jnp.float16}


def before_conversion(
    ctx: Any, operands: tuple[Any, ...], arrays: int, rule: Callable[..., Any]
) -> tuple[Any, tuple[Any, ...], Callable[..., Any]]:
    """Replaces operands by the arrays of 16 bits that they are conversions of, if all are, and of one dtype.

    Args:
      ctx: context of the lowering.
      operands: values of the program that is being lowered.
      arrays: number of the first operands, which may be replaced.
      rule: a function of the operands. It must accept the first ones in float16 and bfloat16 as well.

    Returns:
      Context, operands and rule, with the new operands or unchanged.
    """
    # An image that was converted to float64 is summed in float64.
    if any(aval.dtype != jnp.float32 for aval in ctx.avals_in[:arrays]):
        return ctx, operands, rule
    sources = [_source(operand) for operand in operands[:arrays]]
    dtypes = {_DTYPES.get(str(source.type.element_type)) for source in sources}
    dtype = dtypes.pop()
    if dtypes or dtype is None or not reads(jnp.dtype(dtype)):
        return ctx, operands, rule
    shapes = [aval.shape for aval in ctx.avals_in[:arrays]]

    def on_sources(*found: jax.Array) -> Any:
        return rule(*(x.reshape(shape) for x, shape in zip(found, shapes, strict=False)), *found[arrays:])

    avals = [ShapedArray(tuple(source.type.shape), jnp.dtype(dtype)) for source in sources]
    ctx = ctx.replace(avals_in=[*avals, *ctx.avals_in[arrays:]])
    return ctx, (*sources, *operands[arrays:]), on_sources


def _source(value: Any) -> Any:
    """Follows a value of a program back through reshapes, and one conversion to float32."""
    while (name := getattr(value.owner, "name", None)) in ("stablehlo.reshape", "stablehlo.convert"):
        before = value.owner.operands[0]
        if name == "stablehlo.convert":
            return before
        value = before
    return value
