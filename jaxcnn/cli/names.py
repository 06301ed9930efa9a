"""Looks up the names on the command line: of data sets, tasks and models."""

import dataclasses
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from jaxcnn import data
from jaxcnn.cli import own_models
from jaxcnn.cli.errors import CommandError, flag, reported
from jaxcnn.cli.options import Train
from jaxcnn.cli.terminal import shown
from jaxcnn.data import Source, Splits
from jaxcnn.models import catalog
from jaxcnn.tasks import Classification, MultiLabel, Regression, Segmentation
from jaxcnn.text import nearest
from jaxcnn.training.experiment import choose_task
from jaxcnn.types import Layer, Shape, Task

T = TypeVar("T")

DATA: dict[str, Callable[[], Source | Splits]] = {"digits": data.digits, "shapes": data.shapes}


def choose(kind: str, name: str, known: Mapping[str, T]) -> T:
    """Looks up a name.

    Args:
      kind: kind of the object, such as "model", for the message.
      name: the name.
      known: the known objects by name.

    Returns:
      The object of that name.

    Raises:
      CommandError: the name is unknown; the message lists the known names and the nearest one.
    """
    if name not in known:
        raise CommandError(unknown(kind, name, known))
    return known[name]


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Formats the message for an unknown name.

    Args:
      kind: kind of the object, such as "model".
      name: the name.
      known: the known names.

    Returns:
      The message, with the nearest name first.
    """
    known = list(known)
    return f"unknown {kind} {name!r}{nearest(name, known)}\n{_listed(known)}"


def _listed(known: Iterable[str]) -> str:
    """Lists names in lines of at most 80 characters."""
    text = f"known: {', '.join(known)}"
    return textwrap.fill(text, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def load_data(name: str) -> Source | Splits:
    """Reads a data set.

    Args:
      name: a name of `DATA`, the path of an .npz file, or a folder of pictures and masks (`jaxcnn.data.mask_folder`).

    Returns:
      The data set, or its parts if it has any.

    Raises:
      CommandError: the name is unknown, or the file cannot be read.
    """
    if name not in DATA and Path(name).is_dir():
        with reported(ValueError, OSError, ImportError):
            return data.mask_folder(name)
    if name not in DATA and (name.endswith(".npz") or Path(name).exists()):
        with reported(ValueError, OSError, TypeError):
            return data.load_npz(name)
    if name not in DATA:
        raise CommandError(unknown("data set", name, [*DATA, "FILE.npz", "FOLDER"]))
    with reported(ImportError):
        return DATA[name]()


def load_part(name: str, part: str | None) -> Source:
    """Reads a data set, or one of its parts.

    Args:
      name: as in `load_data`.
      part: name of a part; None for data without parts.

    Returns:
      The examples.

    Raises:
      CommandError: the data cannot be read, have no such part, or have several parts and `part` is None.
    """
    source = load_data(name)
    if not isinstance(source, Mapping):
        if part is not None:
            raise CommandError(f"--split {part} expects data with parts, got {shown(name)}, which has none; omit it")
        return source
    if part is None and len(source) > 1:
        raise CommandError(f"expected --split with one of {', '.join(source)}, the parts of {shown(name)}, got none")
    return choose("part", part, source) if part is not None else next(iter(source.values()))


def load_splits(options: Train) -> dict[str, Source]:
    """Reads and splits the data of a training.

    Args:
      options: the options of a training.

    Returns:
      The parts "train", "validation" and "test".

    Raises:
      CommandError: the data cannot be read, or the options do not fit them.
    """
    source = load_data(options.data)
    own = {"validation": options.validation_data, "test": options.test_data}
    with reported(ValueError):
        if options.classes:
            source = _only(source, options.classes)
        parts = dict(source) if isinstance(source, Mapping) else {"train": source}
        for part, name in own.items():
            if name is not None:
                parts[part] = data.match_classes(_whole(name, part, options.classes), parts["train"].class_names)
        splits = data.split(parts, seed=options.recipe.split_seed)
        if options.examples_per_class is not None:
            few = data.few(splits["train"], options.examples_per_class, seed=options.recipe.split_seed)
            splits["train"] = few
    return splits


def _whole(name: str, part: str, classes: tuple[str, ...]) -> Source:
    """Reads a data set that is one part of a training: all of it, or its part of that name if it has several."""
    source = load_data(name)
    if isinstance(source, Mapping):
        source = next(iter(source.values())) if len(source) == 1 else choose("part", part, source)
    return data.choose_classes(source, classes) if classes else source


def _only(source: Source | Splits, classes: tuple[str, ...]) -> Source | Splits:
    if isinstance(source, Mapping):
        return {name: data.choose_classes(part, classes) for name, part in source.items()}
    return data.choose_classes(source, classes)


def make_task(options: Train, source: Source) -> Task:
    """Makes the task of a training.

    Args:
      options: the options of a training.
      source: its training set.

    Returns:
      The task, with the options that it takes.

    Raises:
      CommandError: the data do not fit the task, or it does not take an option that was given.
    """
    kinds: dict[str, Callable[[], Any]] = {
        "classification": Classification,
        "multi-label": MultiLabel,
        "regression": Regression,
        "segmentation": lambda: Segmentation(len(source.class_names)),
    }
    with reported(ValueError):
        task: Any = choose_task(source) if options.task == "auto" else kinds[options.task]()
    if not options.label_smoothing:
        return task
    if not 0 <= options.label_smoothing < 1:
        raise CommandError(f"--label-smoothing expects a number in [0, 1), got {options.label_smoothing}")
    if not isinstance(task, Classification | Segmentation):
        raise CommandError(f"--label-smoothing expects classification or segmentation, got {type(task).__name__}")
    return dataclasses.replace(task, label_smoothing=options.label_smoothing)


def check_count(options: Any, *fields: str) -> None:
    """Refuses options that are numbers less than 1.

    Args:
      options: the options of a command.
      *fields: names of its fields; None is allowed.

    Raises:
      CommandError: one of them is less than 1.
    """
    for name in fields:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise CommandError(f"{flag(name)} expects a number at least 1, got {value}")


def build_model(name: str, num_classes: int | None, image_shape: Shape) -> Layer:
    """Builds a model.

    Args:
      name: its name in the catalog, or a model of one's own; see `jaxcnn.cli.own_models.build`.
      num_classes: number of logits; None for that of the catalog, or of one's own function.
      image_shape: (height, width, channels) of the images.

    Returns:
      The model.

    Raises:
      CommandError: there is no model of that name, or it cannot take such images.
    """
    if own_models.is_own(name):
        return own_models.build(name, num_classes, image_shape)
    choose("model", name, catalog.CATALOG)
    with reported(ValueError):
        return catalog.build(name, num_classes, image_shape)
