"""Makes the help of the options readable: whole paragraphs, plain names of types, defaults that add information."""

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from typing import Annotated, Any, TypeVar, get_args, get_origin

import tyro

T = TypeVar("T")


def readable(kind: type[T]) -> type[T]:
    """Prepares a dataclass of options for tyro.

    tyro keeps the line breaks of a description as they are in the source, writes `{None}|INT` for an optional number,
    and shows `(default: None)` where the description says what the default means.

    Args:
      kind: a dataclass with a description in a string after each field.

    Returns:
      A subclass with the same fields, described in one paragraph each.
    """
    descriptions = _descriptions(kind)
    hints = typing.get_type_hints(kind, include_extras=True)
    options = {}
    for field in dataclasses.fields(kind):  # pyright: ignore[reportArgumentType]
        if get_origin(hints[field.name]) is Annotated:  # its annotation already says how it is shown
            continue
        says_more = field.default not in (None, ()) and field.default is not False
        hint = None if says_more and "Default:" not in descriptions.get(field.name, "") else ""
        options[field.name] = Annotated[
            hints[field.name],
            tyro.conf.arg(
                help=descriptions.get(field.name),
                metavar=_metavar(hints[field.name]),
                help_behavior_hint=hint,
            ),
        ]
    namespace = {"__doc__": kind.__doc__, "__annotations__": options, "__module__": kind.__module__}
    subclass: Any = type(kind.__name__, (kind,), namespace)
    return subclass


def _descriptions(kind: type) -> dict[str, str]:
    """Reads the string after each field from the source of a dataclass and of its bases."""
    found = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        definition = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(definition, ast.ClassDef)
        for field, text in itertools.pairwise(definition.body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as words)):
                    found[name] = " ".join(words.split())
    return found


def _metavar(hint: Any) -> str | None:
    """Names the type of an optional value; None where tyro's own name is fine."""
    if get_origin(hint) not in (types.UnionType, typing.Union):
        return None
    [kind] = [one for one in get_args(hint) if one is not type(None)]
    parts = get_args(kind) if get_origin(kind) is tuple else [kind]
    return " ".join(part.__name__.upper() for part in parts)
