"""What the names on the command line stand for."""

import dataclasses
import functools
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from jaxcnn import data
from jaxcnn.cli.errors import CommandError, reported
from jaxcnn.cli.options import Train
from jaxcnn.cli.prepare import progress_bar
from jaxcnn.cli.terminal import shown
from jaxcnn.data import Source, Splits
from jaxcnn.models import catalog
from jaxcnn.tasks import Classification, MultiLabel, Regression, Segmentation
from jaxcnn.text import nearest
from jaxcnn.training.experiment import choose_task
from jaxcnn.types import Shape, Task

T = TypeVar("T")

DATA: dict[str, Callable[[], Source | Splits]] = {"digits": data.digits, "shapes": data.shapes}

DOWNLOADED: dict[str, Callable[..., Splits]] = {
    "cifar10": data.cifar10,
    "cifar100": data.cifar100,
    "cifar100_coarse": functools.partial(data.cifar100, labels="coarse"),
    "mnist": data.mnist,
    "fashion_mnist": data.fashion_mnist,
    "emnist_digits": data.emnist_digits,
    "svhn": data.svhn,
}
"""Data sets that are downloaded and prepared when they are first used."""

SCHEMES: dict[str, Callable[[str], Source | Splits]] = {"tfds": data.tfds}
"""What reads the names that begin with a word and a colon."""

_PATTERNS = ("tfds:NAME", "FILE.npz", "FOLDER")


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
    return f"unknown {kind} {name!r}{nearest(name, known)}\n{_listed(known)}"


def _listed(known: Iterable[str]) -> str:
    """Lists names in lines of at most 80 characters."""
    text = f"known: {', '.join(known)}"
    return textwrap.fill(text, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def is_name(name: str) -> bool:
    """Returns whether a data set is known by name, so that a file of that name is not meant."""
    return name in DATA or name in DOWNLOADED or name.partition(":")[0] in SCHEMES


def load_data(name: str) -> Source | Splits:
    """Reads a data set.

    Args:
      name: a name of `DATA` or `DOWNLOADED`; "tfds:" and a name for `jaxcnn.data.tfds`; the path of an .npz file; or a
        folder of pictures and masks (`jaxcnn.data.mask_folder`).

    Returns:
      The data set, or the parts that it brings along.

    Raises:
      CommandError: there is none of that name, or the file cannot be read.
    """
    scheme, colon, rest = name.partition(":")
    if colon and scheme in SCHEMES:
        with reported(ValueError, OSError, ImportError):
            return SCHEMES[scheme](rest)
    if name in DOWNLOADED:
        with reported(ValueError, OSError), progress_bar() as progress:
            return DOWNLOADED[name](progress=progress)
    if name not in DATA and Path(name).is_dir():
        with reported(ValueError, OSError, ImportError):
            return data.mask_folder(name)
    if name not in DATA and (name.endswith(".npz") or Path(name).exists()):
        with reported(ValueError, OSError, TypeError):
            return data.load_npz(name)
    if name not in DATA:
        raise CommandError(unknown("data set", name, [*DATA, *DOWNLOADED, *_PATTERNS]))
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
      CommandError: the data cannot be read, or have no such part, or have several of which none is named.
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
