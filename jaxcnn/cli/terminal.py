"""Prints to the terminal, and escapes the untrusted text of files, users and other libraries."""

import contextlib
import io
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

from rich.console import Console

from jaxcnn.cli.errors import OutputError
from jaxcnn.text import printable


def shown(text: object) -> str:
    """Escapes a name, a path or other untrusted text for one line or table cell of the output.

    Args:
      text: any object; its `str` is shown.

    Returns:
      One line of printable characters that standard output can encode; the others are escaped, such as a line break as
      "\\n".
    """
    return _encodable(printable(text), sys.stdout)


def columns() -> int | None:
    """Returns the width of standard output in characters; None for a file or a pipe, which have no limit.

    The environment variable COLUMNS overrides the width of the terminal.
    """
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def escaped(text: str) -> str:
    """Escapes a message of several lines for standard output.

    Args:
      text: the lines.

    Returns:
      The same lines; characters that are not printable or cannot be encoded are escaped.
    """
    return _encodable(printable(text, keep="\n"), sys.stdout)


def say(text: str, *, flush: bool = False) -> None:
    """Prints lines to standard output.

    Args:
      text: the lines; characters that are not printable are escaped, except line breaks.
      flush: whether to show them at once.

    Raises:
      OutputError: standard output takes no more.
    """
    with writing():
        print(escaped(text), flush=flush)


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Turns the errors of a block that only prints to standard output into `OutputError`.

    Raises:
      OutputError: standard output takes no more.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write to standard output: {error.strerror}") from error


def finish() -> None:
    """Flushes standard output.

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
      text: the lines; characters that are not printable are escaped, except line breaks.
    """
    # Keep the order of messages if both streams go to one file. `finish` reports that standard output is full. If
    # standard error is full too, only the exit status is left.
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        print(_encodable(printable(text, keep="\n"), sys.stderr), file=sys.stderr)


class _Notices(logging.Handler):
    """Shows the records of a logger, each by a function that prints a line."""

    def __init__(self, show: Callable[[str], None], level: int) -> None:
        super().__init__(level)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        """Shows a record."""
        self._show(printable(record.getMessage()))


@contextlib.contextmanager
def notices(show: Callable[[str], None] = complain, level: int = logging.WARNING) -> Iterator[None]:
    """Shows the notices of the library, which are those of the logger "jaxcnn", while the block runs.

    Args:
      show: prints a line; within another block, this one's function alone.
      level: least level of a notice.
    """
    logger = logging.getLogger("jaxcnn")
    before = logger.level, logger.propagate, logger.handlers
    # Packages add handlers to the root logger, which would show a notice a second time.
    logger.setLevel(level)
    logger.propagate, logger.handlers = False, [_Notices(show, level)]
    try:
        yield
    finally:
        logger.setLevel(before[0])
        _, logger.propagate, logger.handlers = before


def make_console(*, stderr: bool = False) -> Console:
    """Makes a rich console that does not interpret markup: brackets in a name are printed.

    Args:
      stderr: whether it prints to standard error.

    Returns:
      The console; escape untrusted text with `shown` or `escaped` first.
    """
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


@contextlib.contextmanager
def errors_escaped() -> Iterator[None]:
    """Captures the standard error of another library, and prints it with everything but its colours escaped."""
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
