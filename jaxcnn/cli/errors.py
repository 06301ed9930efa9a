"""Errors that the user can fix: printed as one message, without a traceback."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from jaxcnn.training.memory import OutOfMemoryError
from jaxcnn.training.recipe import RecipeError


class CommandError(Exception):
    """A command cannot do what it was asked for; the message says why."""


class OutputError(Exception):
    """Standard output is closed, or takes no more text."""


@contextmanager
def reported(*kinds: type[Exception]) -> Iterator[None]:
    """Turns errors of the library that the user can cause into messages.

    Args:
      *kinds: the exceptions to turn, besides `RecipeError` and `OutOfMemoryError`; all others keep their traceback.
    """
    try:
        yield
    except (RecipeError, OutOfMemoryError) as error:
        raise CommandError(_in_options(error)) from error
    except kinds as error:
        # Other notes are JAX's, about tracebacks, which are not shown here.
        places = [note for note in getattr(error, "__notes__", []) if note.startswith("in ")]
        raise CommandError("\n".join([str(error), *places])) from error


def flag(name: str) -> str:
    """Returns the option of a field, such as "--learning-rate"."""
    return f"--{name.replace('_', '-')}"


def _in_options(error: RecipeError | OutOfMemoryError) -> str:
    """Returns the message of an error about fields of a recipe, with options instead of fields."""
    names = re.compile(rf"\b({'|'.join(map(re.escape, error.fields))})\b")
    return names.sub(lambda found: flag(found[0]), str(error), count=len(error.fields))
