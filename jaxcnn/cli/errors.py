"""Errors that are the user's to mend: printed as one message, without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager


class CommandError(Exception):
    """Something a command was asked for that cannot be done."""


@contextmanager
def reported(*kinds: type[Exception]) -> Iterator[None]:
    """Turns errors of the library that the user can cause into messages.

    Args:
      *kinds: the exceptions to turn; all others keep their traceback.
    """
    try:
        yield
    except kinds as error:
        layers = [note for note in getattr(error, "__notes__", []) if note.startswith("in layer ")]
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise CommandError("\n".join([str(text), *layers])) from error
