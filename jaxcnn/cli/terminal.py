"""The one way to a terminal: text of files, users and other libraries never gets there as it is."""

import contextlib
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console

from jaxcnn.cli.errors import OutputError
from jaxcnn.text import printable


def shown(text: object) -> str:
    """Makes a name, a path or a word from a file fit for a line or a table of the output.

    Args:
      text: anything; its `str` is shown.

    Returns:
      One line of printable characters, of those only that standard output can encode; the others are escaped, such as
      a line break by "\\n".
    """
    return _encodable(printable(text), sys.stdout)


def columns() -> int | None:
    """Returns the characters in a line of standard output; None for a file or a pipe, which take lines of any length.

    The environment variable COLUMNS overrides what the terminal says.
    """
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def escaped(text: str) -> str:
    """Makes a message of several lines fit for standard output.

    Args:
      text: the lines.

    Returns:
      The same lines; what is not printable in them, or cannot be encoded, is escaped.
    """
    return _encodable(printable(text, keep="\n"), sys.stdout)


def say(text: str, *, flush: bool = False) -> None:
    """Prints lines to standard output.

    Args:
      text: the lines; what is not printable in them is escaped, but for line breaks.
      flush: whether to show them at once.

    Raises:
      OutputError: standard output takes no more.
    """
    with writing():
        print(escaped(text), flush=flush)


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Turns the errors of a block that does nothing but print to standard output.

    Raises:
      OutputError: standard output takes no more.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write to standard output: {error.strerror}") from error


def finish() -> None:
    """Shows what was said and is still held back.

    Raises:
      OutputError: standard output takes no more.
    """
    try:
        with writing():
            sys.stdout.flush()
    except OutputError:
        # Python writes the rest again when it ends, which must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def complain(text: str) -> None:
    """Prints lines to standard error.

    Args:
      text: the lines; what is not printable in them is escaped, but for line breaks.
    """
    # In the order in which they were said, where both streams go to one file. `finish` reports what standard output
    # does not take; where standard error takes nothing, the exit status alone can tell.
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        print(_encodable(printable(text, keep="\n"), sys.stderr), file=sys.stderr)


def make_console(*, stderr: bool = False) -> Console:
    """Makes a console of rich that prints text as it is: brackets in a name are no colours.

    Args:
      stderr: whether it prints to standard error.

    Returns:
      The console; what it prints of others must have gone through `shown` or `escaped`.
    """
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


@contextlib.contextmanager
def errors_escaped() -> Iterator[None]:
    """Holds back what another library prints to standard error, and prints it with all but its colours escaped."""
    held = io.StringIO()
    try:
        with contextlib.redirect_stderr(held):
            yield
    finally:
        pieces = re.split(r"(\x1b\[[\d;]*m)", held.getvalue())
        pieces[::2] = [_encodable(printable(piece, keep="\n"), sys.stderr) for piece in pieces[::2]]
        with contextlib.suppress(OSError):
            sys.stderr.write("".join(pieces))


def _encodable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
