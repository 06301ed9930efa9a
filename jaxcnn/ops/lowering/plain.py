"""The primitives of this package, each with a rule in lax operations that computes the same on every platform."""

from collections.abc import Callable
from typing import Any

from jax.extend.core import Primitive

PLAIN_RULES: dict[Primitive, Callable[..., Any]] = {}
"""For whoever goes through a program and knows lax only: a function of a primitive's operands and parameters."""
