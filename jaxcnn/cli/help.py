"""Makes the help of the options readable: whole paragraphs, plain names of types, defaults that add information."""

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, TextIO, TypeVar, get_args, get_origin

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


@contextlib.contextmanager
def wrapped() -> Iterator[None]:
    """Breaks the long lines that the block prints at the width of the terminal.

    tyro does so for options, but writes each paragraph of a description as one line.
    """
    printed = _LikeStandardOutput(sys.stdout)
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        width = shutil.get_terminal_size().columns
        for line in printed.getvalue().splitlines():
            # Only prose: tyro fits boxes itself, escape sequences, which it writes elsewhere, take no room, and a line
            # of options is there to be copied.
            print(line if set(line) & set("\x1b│|") or line.startswith("--") else textwrap.fill(line, width))


class _LikeStandardOutput(io.StringIO):
    """A text that tyro writes as it would write to a stream: in colour for a terminal, and in its characters."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()


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
