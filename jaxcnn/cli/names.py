"""Looks up the names on the command line: of data sets, tasks and models."""

import dataclasses
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from jaxcnn import data
from jaxcnn.cli import own_models
from jaxcnn.cli.errors import CommandError, flag, reported
from jaxcnn.cli.options import Train
from jaxcnn.cli.prepare import progress_bar
from jaxcnn.cli.terminal import shown
from jaxcnn.data import FitPicture, Prepare, RandomResizedCrop, Source, Splits, named
from jaxcnn.models import catalog
from jaxcnn.tasks import Classification, Detection, MultiLabel, Regression, Segmentation
from jaxcnn.text import nearest
from jaxcnn.training.experiment import choose_task
from jaxcnn.types import Layer, Shape, Task

T = TypeVar("T")


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


def load_data(name: str, **options: Any) -> Source | Splits:
    """Reads a data set, and shows its download.

    Args:
      name: as for `jaxcnn.data.load`.
      **options: those of `jaxcnn.data.load`.

    Returns:
      The data set, or its parts if it has any.

    Raises:
      CommandError: the name is unknown, the data cannot be read, or an option does not apply to them.
    """
    if named.find(name) is None:
        raise CommandError(unknown("data set", name, [*named.NAMES, *named.DOWNLOADED, *named.PATTERNS]))
    with reported(ValueError, OSError, TypeError, ImportError), progress_bar() as progress:
        return data.load(name, progress=progress, **options)


def load_part(name: str, part: str | None, **options: Any) -> Source:
    """Reads a data set, or one of its parts.

    Args:
      name: as in `load_data`.
      part: name of a part; None for data without parts.
      **options: those of `jaxcnn.data.load`.

    Returns:
      The examples.

    Raises:
      CommandError: the data cannot be read, have no such part, or have several parts and `part` is None.
    """
    source = load_data(name, **options)
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
    reading = _reading(options)
    source = load_data(options.data, **reading)
    own = {"validation": options.validation_data, "test": options.test_data}
    with reported(ValueError):
        if options.classes:
            source = _only(source, options.classes)
        parts = dict(source) if isinstance(source, Mapping) else {"train": source}
        for part, name in own.items():
            if name is not None:
                parts[part] = _whole(name, part, options, reading, parts["train"].class_names)
        if not options.random_resized_crop:
            parts = _of_one_size(parts, options)
        splits = data.split(parts, fractions=options.recipe.split_fractions, seed=options.recipe.split_seed)
        if options.examples_per_class is not None:
            few = data.few(splits["train"], options.examples_per_class, seed=options.recipe.split_seed)
            splits["train"] = few
        if options.random_resized_crop:
            splits |= data.resized({name: splits[name] for name in ("validation", "test")}, _fit(options, splits))
    return splits


def make_prepare(options: Train, splits: Splits) -> Prepare | None:
    """Makes what prepares the pictures of a training on the host.

    Args:
      options: the options of a training.
      splits: its data, from `load_splits`.

    Returns:
      The random crop, of the size of --training-size or of the validation images; None without --random-resized-crop.

    Raises:
      CommandError: the size is invalid.
    """
    if not options.random_resized_crop:
        return None
    with reported(ValueError):
        size = named.size_pair(options.training_size or image_shape(splits)[:2], "training_size")
        return RandomResizedCrop(size)


def image_shape(splits: Splits) -> Shape:
    """Returns the shape of the images that the model of a training takes.

    Args:
      splits: its data, from `load_splits`.
    """
    shape: Any = splits["validation"].spec["image"].shape
    return shape


_LABELS = {"classification": "labels of whole images", "detection": "boxes", "segmentation": "masks"}
"""What data are labelled with, by the kind of the models for them."""

_KINDS = {"classification": "classes", "multi-label": "multi-label", "regression": "numbers"}
"""What the labels of a table are, by the option --task."""


def _reading(options: Train) -> dict[str, Any]:
    """Returns the options of `jaxcnn.data.load`; those of tables only where they say something."""
    found = named.find(options.data)
    is_table = found is not None and found.scheme == "manifest"
    return {
        "image_size": () if options.random_resized_crop else options.image_size,
        "resize": options.resize if options.image_size and not options.random_resized_crop else "crop",
        "channels": options.channels,
        "skip_bad": options.skip_bad,
        "labels": options.labels,
        "separator": options.separator,
        "kind": _KINDS.get(options.task, "auto") if is_table else "auto",
        **object_reading(options),
    }


def object_reading(options: Any) -> dict[str, Any]:
    """Returns the options of `jaxcnn.data.load` for pictures with objects.

    Args:
      options: those of a command, with fields of these names.
    """
    check_count(options, "max_objects")
    return {name: getattr(options, name) for name in ("instances", "clip_boxes", "one_based", "max_objects")}


def _of_one_size(parts: dict[str, Source], options: Train) -> dict[str, Source]:
    """Fits images of different sizes into the size that the model was made for."""
    specs = [part.spec["image"].shape for part in parts.values() if "image" in part.spec]
    whole = len(set(specs)) <= 1 and all(None not in shape for shape in specs)
    if whole and options.resize != "crop" and not options.image_size:
        raise CommandError(
            f"--resize {options.resize} has an effect only with --image-size, or on pictures of different sizes; omit "
            "it"
        )
    if whole or options.model not in catalog.CATALOG or any("mask" in part.spec for part in parts.values()):
        return parts
    height, width, _ = catalog.CATALOG[options.model].image_shape
    return data.resized(parts, (height, width), mode=options.resize)


def _fit(options: Train, splits: Splits) -> FitPicture:
    """Returns how the pictures of validation and test are fitted where those of training are cut at random."""
    shape: Any = splits["train"].spec["image"].shape
    *size, channels = shape
    if channels is None:
        raise CommandError("--random-resized-crop expects pictures of one number of channels; give --channels")
    if options.image_size:
        size = named.size_pair(options.image_size)
    elif options.model in catalog.CATALOG:
        size = catalog.CATALOG[options.model].image_shape[:2]
    elif None in size:
        raise CommandError("--random-resized-crop expects --image-size for a model of your own, got none")
    return FitPicture((*size, channels), options.resize, options.crop_fraction)


def _whole(name: str, part: str, options: Train, reading: Mapping[str, Any], class_names: tuple[str, ...]) -> Source:
    """Reads a data set that is one part of a training: all of it, or its part of that name if it has several."""
    found = named.find(name)
    takes = named.SCHEMES[found.scheme].takes if found and found.scheme else frozenset()
    words = {field: value for field, value in reading.items() if field in takes or field in ("image_size", "resize")}
    source = load_data(name, **words, **({"class_names": class_names} if "class_names" in takes else {}))
    if isinstance(source, Mapping):
        source = next(iter(source.values())) if len(source) == 1 else choose("part", part, source)
    chosen = data.choose_classes(source, options.classes) if options.classes else source
    return data.match_classes(chosen, class_names)


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
    if "boxes" in source.spec and options.task == "auto":
        _check_kind(options.model, "detection")
        shape: Any = source.spec["image"].shape
        model = build_model(options.model, len(source.class_names), shape)
    else:
        model = None
    with reported(ValueError):
        task: Any = choose_task(source, model) if options.task == "auto" else kinds[options.task]()
    if not options.label_smoothing:
        return task
    if not 0 <= options.label_smoothing < 1:
        raise CommandError(f"--label-smoothing expects a number in [0, 1), got {options.label_smoothing}")
    if not isinstance(task, Classification | Segmentation):
        raise CommandError(f"--label-smoothing expects classification or segmentation, got {type(task).__name__}")
    return dataclasses.replace(task, label_smoothing=options.label_smoothing)


def check_model(name: str, task: Task) -> None:
    """Refuses a model of the catalog that is for another task than that of a training.

    Args:
      name: name of the model; unknown ones, and those of one's own, are not checked.
      task: the task of the training.

    Raises:
      CommandError: the model gives what the task does not take.
    """
    if isinstance(task, Detection):
        _check_kind(name, "detection")
    else:
        _check_kind(name, "segmentation" if isinstance(task, Segmentation) else "classification")


def _check_kind(name: str, wanted: catalog.Kind) -> None:
    given = catalog.CATALOG[name].task if name in catalog.CATALOG else None
    if given in (None, wanted):
        return
    fitting = [other for other, entry in catalog.CATALOG.items() if entry.task == wanted]
    raise CommandError(
        f"expected a model for data with {_LABELS[wanted]}, such as {fitting[0]}, got {name}, which is for {given}"
    )


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
