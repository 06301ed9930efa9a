"""Errors that are the user's to mend: printed as one message, without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager


class CommandError(Exception):
    """Something a command was asked for that cannot be done."""


class OutputError(Exception):
    """Standard output is closed, or takes no more text."""


@contextmanager
def reported(*kinds: type[Exception]) -> Iterator[None]:
    """Turns errors of the library that the user can cause into messages.

    Args:
      *kinds: the exceptions to turn; all others keep their traceback.
    """
    try:
        yield
    except kinds as error:
        # JAX's own notes are about tracebacks, which are not shown here.
        places = [note for note in getattr(error, "__notes__", []) if note.startswith("in ")]
        raise CommandError("\n".join([str(error), *places])) from error
