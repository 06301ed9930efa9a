"""What the names on the command line stand for."""

import difflib
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from jaxcnn import data
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.models import catalog
from jaxcnn.types import Shape

T = TypeVar("T")

DATA: dict[str, Callable[[], data.Arrays]] = {"digits": data.digits}

AUGMENTATIONS: dict[str, data.Composition | None] = {
    "affine": data.compose(data.Step(data.affine, max_degrees=12, max_scale=0.12, max_shear=8, max_shift=4)),
    "crop-flip": data.compose(data.Step(data.random_crop, padding=4), data.Step(data.flip)),
    "none": None,
}


def choose(kind: str, name: str, known: Mapping[str, T]) -> T:
    """Looks up a name.

    Args:
      kind: what it names, for the message.
      name: the name.
      known: what there is, by name.

    Returns:
      What the name stands for.

    Raises:
      CommandError: there is none of that name; the message lists those there are and the nearest.
    """
    if name not in known:
        raise CommandError(unknown(kind, name, known))
    return known[name]


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Writes the message for a name that there is not.

    Args:
      kind: what it names.
      name: the name.
      known: the names there are.

    Returns:
      The message, with the nearest name first.
    """
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"unknown {kind} {name!r}{hint}\n{_listed(known)}"


def _listed(known: Iterable[str]) -> str:
    """Lists names in lines of at most 80 characters."""
    text = f"known: {', '.join(known)}"
    return textwrap.fill(text, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def load_data(name: str) -> data.Arrays:
    """Reads a data set.

    Args:
      name: a name of `DATA`, or the path of an .npz file.

    Returns:
      The data set.

    Raises:
      CommandError: there is none of that name, or the file cannot be read.
    """
    if name not in DATA and (name.endswith(".npz") or Path(name).exists()):
        with reported(ValueError, OSError, TypeError):
            return data.load_npz(name)
    if name not in DATA:
        raise CommandError(unknown("data set", name, [*DATA, "FILE.npz"]))
    with reported(ImportError):
        return DATA[name]()


def build_model(name: str, num_classes: int, image_shape: Shape) -> catalog.Model:
    """Builds a model of the catalog.

    Args:
      name: its name.
      num_classes: number of logits.
      image_shape: (height, width, channels) of the images.

    Returns:
      The model.

    Raises:
      CommandError: there is no model of that name, or it cannot take such images.
    """
    choose("model", name, catalog.CATALOG)
    with reported(ValueError):
        return catalog.build(name, num_classes, image_shape)
