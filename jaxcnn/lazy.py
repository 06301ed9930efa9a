"""Attributes of a package that are imported when they are first used (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_attributes(
    package: str, names: Sequence[str], objects: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Makes the functions `__getattr__` and `__dir__` of a package.

        __getattr__, __dir__ = lazy_attributes(__name__, ["load", "models"], {"load": "network"})

    Args:
      package: name of the package.
      names: names of the attributes.
      objects: for each of them that is a function or class, the module of the package that defines it. The others are
        modules of the package.

    Returns:
      The functions. `dir` and completion offer the names of `__all__` before anything is imported.
    """
    homes = dict(objects or {})

    def get(name: str) -> Any:
        if name in homes:
            return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        if name in names:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def offered() -> list[str]:
        return sorted(vars(sys.modules[package])["__all__"])

    return get, offered
