"""Values: immutable objects that compare by content and print as their constructor call."""

import dataclasses
import functools
import importlib
import pickle
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np

# Public modules of JAX that export functions of private modules.
_PUBLIC_HOMES = ("jax.nn", "jax.numpy", "jax.lax", "jax.nn.initializers")


class Value:
    """Base of frozen dataclasses that print as their constructor call.

    Required fields are printed by position, the others by name if they differ from their default, as in
    `Conv(3, 64, strides=(2, 2))`.

    Equal values print alike and compute alike. NumPy numbers, also within tuples, become Python numbers before
    `__post_init__`. Numbers are converted to the annotated `float` or `bool`. A copy is the object itself. Functions
    in a value must be importable by name to be pickled.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if own := vars(cls).get("__post_init__"):

            @functools.wraps(own)
            def with_plain_numbers(self: Value, *arguments: Any) -> None:
                super(cls, self).__post_init__()  # pyright: ignore[reportAttributeAccessIssue]
                own(self, *arguments)

            cls.__post_init__ = with_plain_numbers

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # pyright: ignore[reportArgumentType]
            if hasattr(self, field.name):
                object.__setattr__(self, field.name, _as_annotated(field.type, plain(getattr(self, field.name))))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: _to_pickle(self, value) for name, value in vars(self).items()}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._arguments())})"

    def _arguments(self) -> list[str]:
        arguments = []
        for field in dataclasses.fields(self):  # pyright: ignore[reportArgumentType]
            value = getattr(self, field.name)
            if field.default is dataclasses.MISSING:
                arguments.append(describe(value))
            elif value != field.default:
                arguments.append(f"{field.name}={describe(value)}")
        return arguments


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Partial(Value):
    """A function with keyword arguments, like `functools.partial`, but compared by content.

    `Partial(jax.nn.gelu, approximate=False)` equals another `Partial` with the same arguments, so a model that holds it
    is not traced again. Use a function with a name in a module: a lambda equals only itself.

    Args:
      function: any hashable callable.
      **options: hashable keyword arguments.

    Raises:
      TypeError: the function is not callable, or an option is not hashable.
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
                    f"{type(self).__name__} expects hashable options, got {name}={option!r}; "
                    "use a tuple for a list, and pass arrays as arguments"
                ) from None
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "options", tuple((name, plain(options[name])) for name in sorted(options)))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function with its options and the given arguments."""
        return self.function(*args, **dict(self.options), **kwargs)

    def __repr__(self) -> str:
        options = [f"{name}={describe(value)}" for name, value in self.options]
        return f"{type(self).__name__}({', '.join([describe(self.function), *options])})"


def plain(value: Any) -> Any:
    """Converts NumPy numbers to Python numbers, whose text does not depend on the version of NumPy.

    Args:
      value: anything; the items of tuples and lists are converted too.

    Returns:
      The same value, with `bool`, `int` and `float` instead of NumPy's scalars.
    """
    match value:
        case np.bool_():
            return bool(value)
        case np.integer():
            return int(value)
        case np.floating():
            return float(value)
        case np.generic():
            return value.item()
        case tuple() if hasattr(value, "_make"):
            return type(value)._make(map(plain, value))  # pyright: ignore[reportAttributeAccessIssue]
        case tuple() | list():
            return type(value)(map(plain, value))
    return value


def describe(value: Any) -> str:
    """Returns a value as Python source if possible: functions by their public dotted name.

    Args:
      value: anything.

    Returns:
      Source text; for other objects their `repr`.
    """
    name = _name(value)
    if not callable(value) or name is None:
        return repr(value)
    found = _found_by_name(value)
    return f"{value.__module__}.{name}" if found is None else f"{found.module}.{found.name}"


def call(name: str, arguments: list[str]) -> str:
    """Formats a constructor call, on several lines if it is long.

    Args:
      name: name of the class.
      arguments: source text of each argument.

    Returns:
      Source text.
    """
    line = f"{name}({', '.join(arguments)})"
    if len(line) <= 100 and "\n" not in line:
        return line
    body = ",\n".join(arguments).replace("\n", "\n    ")
    return f"{name}(\n    {body},\n)"


class _Named(NamedTuple):
    """The module and name that stand for a function in a pickle."""

    module: str
    name: str

    def __reduce__(self) -> tuple[Any, ...]:
        return _look_up, (self.module, self.name)


def _look_up(module: str, name: str) -> Any:
    try:
        return functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise pickle.UnpicklingError(
            f"the pickle holds the function {module}.{name}, which cannot be imported: {error}; "
            "make it available under this name, or build the value again"
        ) from error


def _name(value: Any) -> str | None:
    # The universal functions of jax.numpy have only a __name__.
    return getattr(value, "__qualname__", None) or getattr(value, "__name__", None)


def _found_by_name(value: Any) -> _Named | None:
    """Returns the shortest public path of a function or class, or None if no module has it under its name."""
    name, home = _name(value), getattr(value, "__module__", None)
    if name is None or home is None:
        return None
    parts = home.split(".")
    for module in (*_PUBLIC_HOMES, *(".".join(parts[: i + 1]) for i in range(len(parts)))):
        try:
            found = functools.reduce(getattr, name.split("."), sys.modules.get(module))
        except AttributeError:
            continue
        if found is value:
            return _Named(module, name)
    return None


def _to_pickle(holder: Value, value: Any) -> Any:
    """Replaces functions by module and name: many of JAX's, such as `jax.nn.relu`, cannot be pickled themselves."""
    if value is None or isinstance(value, Value | bool | int | float | str):
        return value
    if type(value) is tuple:
        return tuple(_to_pickle(holder, item) for item in value)
    if callable(value) and (found := _found_by_name(value)) is not None:
        return found
    try:
        pickle.dumps(value)
    except Exception as error:
        raise pickle.PicklingError(
            f"{type(holder).__name__} cannot be pickled, because it holds {describe(value)}: {error}; "
            "define a function at the top level of a module, and give its options by Function, Initializer or Partial"
        ) from error
    return value


def _as_annotated(annotation: Any, value: Any) -> Any:
    # The annotation is a string in modules with `from __future__ import annotations`.
    if annotation in (float, "float") and type(value) is int:
        return float(value)
    if annotation in (bool, "bool") and type(value) is int and value in (0, 1):
        return bool(value)
    return value
