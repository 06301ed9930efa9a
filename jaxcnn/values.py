"""Values: objects compared by content and printed as their constructor."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

# Where JAX shows functions whose own module is private.
_PUBLIC_HOMES = ("jax.nn", "jax.numpy", "jax.lax", "jax.nn.initializers")


class Value:
    """Base of frozen dataclasses that print as the call that makes them.

    Required fields are printed by position, the others by name where they differ from their default:
    `Conv(3, 64, strides=(2, 2))`.
    """

    def __repr__(self) -> str:
        arguments = []
        for field in dataclasses.fields(self):  # pyright: ignore[reportArgumentType]
            value = getattr(self, field.name)
            if field.default is dataclasses.MISSING:
                arguments.append(describe(value))
            elif value != field.default:
                arguments.append(f"{field.name}={describe(value)}")
        return f"{type(self).__name__}({', '.join(arguments)})"


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Partial:
    """A function with some of its keyword arguments, like `functools.partial` but compared by content.

    `Partial(jax.nn.gelu, approximate=False)` equals another one made the same way, so a model that holds it is not
    traced again. The function should be a named one of a module: a lambda equals only itself.

    Args:
      function: any hashable callable.
      **options: hashable keyword arguments.

    Raises:
      TypeError: the function is not callable, or an option cannot be hashed.
    """

    function: Callable[..., Any]
    options: tuple[tuple[str, Any], ...]

    def __init__(self, function: Callable[..., Any], /, **options: Any) -> None:
        if not callable(function):
            raise TypeError(f"{type(self).__name__} expects a function, got {function!r}")
        for name, option in options.items():
            try:
                hash(option)
            except TypeError:
                raise TypeError(
                    f"{type(self).__name__} expects options that can be hashed, got {name}={option!r}; "
                    "use a tuple for a list, and pass arrays as arguments"
                ) from None
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "options", tuple(sorted(options.items())))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function with its options and the arguments given."""
        return self.function(*args, **dict(self.options), **kwargs)

    def __repr__(self) -> str:
        options = [f"{name}={describe(value)}" for name, value in self.options]
        return f"{type(self).__name__}({', '.join([describe(self.function), *options])})"


def describe(value: Any) -> str:
    """Writes a value as Python source where it can: functions by their public dotted name.

    Args:
      value: anything.

    Returns:
      Source text; for other objects their `repr`.
    """
    name = getattr(value, "__qualname__", None)
    if not callable(value) or name is None:
        return repr(value)
    parts = value.__module__.split(".")
    parents = [".".join(parts[: i + 1]) for i in range(len(parts))]
    for home in (*_PUBLIC_HOMES, *parents):
        if getattr(sys.modules.get(home), name, None) is value:
            return f"{home}.{name}"
    return f"{value.__module__}.{name}"
