"""The primitives of this package, each with a rule in lax operations that computes the same on every platform."""

from collections.abc import Callable
from typing import Any

from jax.extend.core import Primitive

PLAIN_RULES: dict[Primitive, Callable[..., Any]] = {}
"""For programs that go through a jaxpr and know lax only: a function of the operands and parameters of a primitive."""
