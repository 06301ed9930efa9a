"""Reads a model from its text: the inverse of `repr`, without running code of the text."""

import ast
import functools
import importlib
import math
import re
from itertools import zip_longest
from typing import Any

from jaxcnn.values import Value

# The modules whose functions a text may name. None of them opens a file or starts a program.
_MODULES = ("jax.nn", "jax.nn.initializers", "jax.lax", "jax.numpy", "jaxcnn.layers", "jaxcnn.ops", "jaxcnn.models")
_READ_OR_WRITE_FILES = ("load", "save", "savez", "fromfile", "set_printoptions")
_CONSTANTS = {"inf": math.inf, "nan": math.nan}


def parse_value(text: str) -> Any:
    """Builds a layer, a model or another value from the text that `repr` gives for it.

        parse_value(repr(resnet20())) == resnet20()

    The text may come from anywhere: it can call only subclasses of `jaxcnn.values.Value`, by their names, and name
    functions of `jax.nn`, `jax.numpy`, `jax.lax` and of this library.

    Args:
      text: the constructor call. Classes of your own must have been imported; functions of your own cannot be named.

    Returns:
      The value.

    Raises:
      ValueError: the text is not such a call, it names an unknown class or function, or a class refuses its arguments.
    """
    if unnamed := re.search(r"[\w.]*<(?:lambda|locals)>[\w.<>]*", text):
        raise ValueError(
            f"expected functions that a text can name, got {unnamed[0]!r}, a lambda or a function within a function"
        )
    try:
        tree = ast.parse(text, mode="eval").body
        return _built(tree, _known_classes())
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"expected the text of a value, such as 'Conv(3, 64)', got {text[:80]!r}: {error}") from error


def difference(text: str, value: Any) -> tuple[str, str] | None:
    """Compares a text with that of a value.

    A function of a script is named "__main__.f" where the script runs, and "script.f" where it is imported: these are
    the same.

    Args:
      text: text of a value.
      value: the value that it should be.

    Returns:
      The first lines that differ, of the text and of the value; None if all are the same.
    """
    for line, other in zip_longest(text.splitlines(), repr(value).splitlines(), fillvalue=""):
        if line != other and not _imported(line, other) and not _imported(other, line):
            return line.strip(), other.strip()
    return None


def _imported(line: str, other: str) -> bool:
    """Tells whether a line is another one with the name of a module in the place of "__main__"."""
    pattern = re.escape(line).replace(re.escape("__main__."), r"(?:\w+\.)+")
    return re.fullmatch(pattern, other) is not None


def _known_classes() -> dict[str, list[type]]:
    """Lists all imported subclasses of `Value` by name; the newest of a class that a notebook defined again."""
    classes: dict[str, dict[str, type]] = {}
    seen = {Value}
    todo = [Value]
    while todo:
        # The oldest first, so that a newer class of the same name replaces it.
        for kind in todo.pop().__subclasses__():
            if kind not in seen:
                seen.add(kind)
                classes.setdefault(kind.__name__, {})[f"{kind.__module__}.{kind.__qualname__}"] = kind
                todo.append(kind)
    return {name: list(places.values()) for name, places in classes.items()}


def _built(node: ast.expr, classes: dict[str, list[type]]) -> Any:
    build = functools.partial(_built, classes=classes)
    match node:
        case ast.Constant():
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id="inf")):
            return -math.inf
        case ast.Tuple():
            return tuple(map(build, node.elts))
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.Call(func=ast.Name(id=name)):
            options = {str(keyword.arg): build(keyword.value) for keyword in node.keywords}
            return _class(name, classes)(*map(build, node.args), **options)
        case ast.Name() | ast.Attribute():
            return _function(ast.unparse(node), classes)
    raise ValueError(f"expected calls, numbers, strings, tuples and names of functions, got {ast.unparse(node)[:80]!r}")


def _class(name: str, classes: dict[str, list[type]]) -> type:
    found = classes.get(name, [])
    if len(found) != 1:
        places = [f"{kind.__module__}.{kind.__qualname__}" for kind in found]
        raise ValueError(
            f"expected the name of one class, got {name!r}, which is "
            + (f"that of {' and '.join(places)}; rename one" if found else "unknown; import the module that defines it")
        )
    return found[0]


def _function(path: str, classes: dict[str, list[type]]) -> Any:
    home, _, name = path.rpartition(".")
    allowed = any(
        home == module or (module.startswith("jaxcnn") and home.startswith(f"{module}.")) for module in _MODULES
    )
    if allowed and name not in _READ_OR_WRITE_FILES and not name.startswith("__"):
        try:
            found = getattr(importlib.import_module(home), name)
        except (ImportError, AttributeError):
            found = None
        if isinstance(found, Value) or (callable(found) and not isinstance(found, type)):
            return found
    if not home and name in classes:
        return _class(name, classes)
    raise ValueError(f"expected a function of {', '.join(_MODULES)}, got {path!r}, which a text may not name")
