"""Labelled images in memory: the checked constructor, the stratified split and the .npz reader."""

import math
import os
import zipfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Dataset(NamedTuple):
    """Labelled images in host memory; build one with `dataset`, which checks the parts.

    Args:
      images: pixels in [0, 1], float32, shape (examples, height, width, channels).
      labels: class indices, int32, shape (examples,). `len(labels)` is the number of examples.
      class_names: one name for each class; label k means `class_names[k]`.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]


class Splits(NamedTuple):
    """Three disjoint parts of one dataset: fit on the first, choose on the second, report the third."""

    train: Dataset
    validation: Dataset
    test: Dataset


def dataset(
    images: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str] | None = None,
    *,
    num_classes: int | None = None,
) -> Dataset:
    """Checks images and labels, and converts them to a `Dataset`.

    Args:
      images: uint8, or floating point in [0, 1]; shape (examples, height, width, channels), or
        (examples, height, width) for one channel. uint8 is divided by 255.
      labels: integers in [0, number of classes), shape (examples,).
      class_names: distinct names of the classes.
      num_classes: the number of classes; they are named '0', '1', ... . Give either this or `class_names`, or neither:
        then the labels must use every number from 0 to the largest, so that a missing class is an error.

    Returns:
      The dataset. Images and labels of the right dtype are not copied.

    Raises:
      ValueError: an array is empty, has the wrong rank or holds a value out of range, or the numbers of images and
        labels differ.
      TypeError: the labels are not integers, the pixels are neither uint8 nor floating point, or the class names are
        not strings.
    """
    pixels = _checked_pixels(np.asarray(images))
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"labels must have shape (examples,), got {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}; cast them, as labels.astype('int32')")
    _check_counts(pixels, labels)
    names = _checked_class_names(labels, class_names, num_classes)
    check_labels(labels, names)
    return Dataset(pixels, labels.astype(np.int32, copy=False), names)


def _check_counts(images: np.ndarray, labels: np.ndarray) -> None:
    if len(images) != len(labels):
        raise ValueError(f"expected as many labels as images, got {len(images)} images and {len(labels)} labels")


def check_labels(labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Refuses labels out of range.

    Args:
      labels: integers, shape (examples,).
      class_names: one name for each class.

    Raises:
      ValueError: a label is not in [0, number of classes).
    """
    outside = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if outside.size:
        first = int(outside[0])
        raise ValueError(
            f"labels must be in [0, {len(class_names)}), got {labels[first]} at index {first}; "
            "number the classes from 0, or give a name for each"
        )


def split(dataset: Dataset, *, fractions: tuple[float, float, float] = (0.6, 0.2, 0.2), seed: int = 0) -> Splits:
    """Splits a dataset into train, validation and test, stratified: each part has the same mix of classes.

    The sizes are the fractions of the dataset, rounded by largest remainder so that they add up. The examples of each
    class are split the same way. Every part has at least one example of every class, even if its fraction is too small
    for that. Each part keeps the order of the dataset.

    Args:
      dataset: at least 3 examples of every class.
      fractions: the parts of train, validation and test, each above 0, summing to 1.
      seed: random seed of the split, at least 0; the result depends only on the seed and the labels.

    Returns:
      The parts: disjoint, and together the whole dataset.

    Raises:
      ValueError: the fractions are not positive or do not sum to 1, a class has fewer than 3 examples, or the seed is
        negative.
    """
    if len(fractions) != 3 or not all(fraction > 0 for fraction in fractions):
        raise ValueError(f"fractions must be three numbers above 0 (train, validation, test), got {fractions}")
    if not math.isclose(sum(fractions), 1.0, abs_tol=1e-6):
        raise ValueError(f"fractions must sum to 1, got {fractions}, which sum to {sum(fractions):g}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    class_sizes = np.bincount(dataset.labels, minlength=len(dataset.class_names))
    rarest = int(np.argmin(class_sizes))
    if class_sizes[rarest] < 3:
        raise ValueError(
            f"split expects at least 3 examples of every class, one for each part, "
            f"got {class_sizes[rarest]} of class {dataset.class_names[rarest]!r}; leave that class out or merge it"
        )

    rng = np.random.default_rng(seed)
    shares = _shares(class_sizes, np.asarray(fractions, np.float64))
    members: tuple[list[np.ndarray], ...] = ([], [], [])
    for label, share in enumerate(shares):
        shuffled = rng.permutation(np.flatnonzero(dataset.labels == label))
        for part, chosen in zip(members, np.split(shuffled, np.cumsum(share)[:-1]), strict=True):
            part.append(chosen)
    train, validation, test = (_take(dataset, np.sort(np.concatenate(part))) for part in members)
    return Splits(train, validation, test)


def choose_classes(dataset: Dataset, classes: Sequence[str]) -> Dataset:
    """Selects the examples of some classes, and renumbers these classes.

    Args:
      dataset: any dataset.
      classes: distinct names of classes of the dataset; the first becomes label 0, and so on.

    Returns:
      The examples of these classes, in the order of the dataset.

    Raises:
      ValueError: a name is unknown or repeated, or there is no name.
      TypeError: `classes` is a single string.
    """
    if isinstance(classes, str):
        raise TypeError(f"classes must be a sequence of names, got the string {classes!r}")
    unknown = [name for name in classes if name not in dataset.class_names]
    if unknown or not classes or len(set(classes)) != len(classes):
        raise ValueError(f"classes must be different names among {dataset.class_names}, got {tuple(classes)}")
    numbers = np.full(len(dataset.class_names), -1, np.int32)
    numbers[[dataset.class_names.index(name) for name in classes]] = np.arange(len(classes))
    labels = numbers[dataset.labels]
    return Dataset(dataset.images[labels >= 0], labels[labels >= 0], tuple(classes))


def few(dataset: Dataset, per_class: int, *, seed: int) -> Dataset:
    """Draws the same number of examples from every class.

    For the same seed, a smaller number draws a subset of the examples of a larger number.

    Args:
      dataset: any dataset.
      per_class: number of examples of each class, at least 1.
      seed: random seed of the choice, at least 0; the result depends only on the seed and the labels.

    Returns:
      The examples, in the order of the dataset.

    Raises:
      ValueError: a class has fewer examples, or an argument is out of range.
    """
    if per_class < 1:
        raise ValueError(f"per_class must be at least 1, got {per_class}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    class_sizes = np.bincount(dataset.labels, minlength=len(dataset.class_names))
    rarest = int(np.argmin(class_sizes))
    if class_sizes[rarest] < per_class:
        raise ValueError(
            f"few expects at least {per_class} examples of every class, got {class_sizes[rarest]} of class "
            f"{dataset.class_names[rarest]!r}; ask for fewer, or leave that class out"
        )
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(dataset.labels == label))[:per_class] for label in range(len(class_sizes))]
    return _take(dataset, np.sort(np.concatenate(chosen)))


def load_npz(path: str | os.PathLike[str]) -> Dataset:
    """Reads a dataset from an .npz file, as `numpy.savez(path, images=images, labels=labels)` writes it.

    Nothing is unpickled, so an untrusted file cannot run code. Other arrays in the file are ignored.

    Args:
      path: a file with the arrays 'images' and 'labels', as in `dataset`. If the labels are strings, the classes are
        the distinct labels in sorted order. An optional array 'class_names' of strings names the classes, as in
        `dataset`; for labels that are strings, it sets their order.

    Returns:
      The dataset.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not an .npz file, is damaged or lacks an array, or `dataset` refuses a value or a dtype.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no file {path!r}; expected an .npz file with 'images' and 'labels'")
    # Reading from a pipe or a device may never end.
    if not os.path.isfile(path) or not zipfile.is_zipfile(path):
        raise ValueError(f"{path!r} is not an .npz file; write one with numpy.savez(path, images=..., labels=...)")
    try:
        arrays, others = _read_arrays(path, "images", "labels", "class_names")
    # On damaged files the decoders of zip, deflate and NumPy raise many kinds of exceptions.
    except Exception as error:
        raise ValueError(
            f"{path!r} has an array that cannot be read ({str(error)[:200]}); write the file again"
        ) from error
    for name in ("images", "labels"):
        if name not in arrays:
            raise ValueError(f"{path!r} has no array {name!r}, only {[*arrays, *others]}; add it with numpy.savez")
    try:
        return _named(arrays["images"], arrays["labels"], arrays.get("class_names"))
    except MemoryError as error:
        raise ValueError(f"{path!r} holds arrays that do not fit into memory; split the file") from error
    # Strings may hold invalid characters.
    except (ValueError, TypeError, SystemError) as error:
        raise ValueError(f"{path!r}: {error}") from error


def _read_arrays(path: str, *names: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads the known arrays of an .npz file, checks their sizes, and lists the names of the others."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        for name in names:
            if name not in entries:
                continue
            entry = entries[name]
            with archive.open(entry) as file:
                version = np.lib.format.read_magic(file)
                read_header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read_header(file)
                if dtype.hasobject:
                    raise ValueError(f"{name!r} holds pickled Python objects, which are not read")
                if dtype.itemsize == 0:
                    raise ValueError(f"{name!r} holds values of no bytes, which a file may claim any number of")
                if min((*shape, 0)) < 0 or math.prod(shape) * dtype.itemsize != entry.file_size - file.tell():
                    raise ValueError(f"the size of {name!r} does not match its shape {shape}")
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: arrays[entries[name].filename] for name in names if name in entries}
    return found, sorted(entries.keys() - set(names))[:10]


def _named(images: np.ndarray, labels: np.ndarray, class_names: np.ndarray | None) -> Dataset:
    """Builds a dataset from labels that are numbers or strings."""
    names = None if class_names is None else _as_text(class_names).tolist()
    if labels.dtype.kind not in "US" or labels.ndim != 1:
        return dataset(images, labels, names)
    if images.ndim:
        # Strings take far more memory than the bytes of a file.
        _check_counts(images, labels)
    texts = _as_text(labels)
    names = sorted(set(texts.tolist())) if names is None else names
    numbers = {name: number for number, name in enumerate(names)}
    unknown = [text for text in texts.tolist() if text not in numbers]
    if unknown:
        raise ValueError(f"labels must be among class_names, got {unknown[0]!r}; the names are {names[:10]}")
    return dataset(images, np.array([numbers[text] for text in texts.tolist()], np.int32), names)


def _as_text(array: np.ndarray) -> np.ndarray:
    """Returns strings; decodes bytes as UTF-8."""
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array.astype(str)


def _checked_pixels(images: np.ndarray) -> np.ndarray:
    """Checks images, and returns them as float32 (examples, height, width, channels) in [0, 1]."""
    if images.ndim not in (3, 4):
        raise ValueError(
            "images must have shape (examples, height, width, channels) or (examples, height, width), "
            f"got {images.shape}"
        )
    if images.size == 0:
        raise ValueError(f"images must hold at least one example and one pixel, got shape {images.shape}")
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.dtype == np.uint8:
        return np.divide(images, 255, dtype=np.float32)
    if not np.issubdtype(images.dtype, np.floating):
        raise TypeError(f"images must be uint8, or floating point in [0, 1], got {images.dtype}")
    low, high = images.min(), images.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(np.argmin(np.isfinite(images).all(axis=(1, 2, 3))))
        raise ValueError(f"images must be finite, but image {bad} holds nan or infinity; repair or remove it")
    if low < 0 or high > 1:
        raise ValueError(
            f"floating point images must be in [0, 1], got values from {low:g} to {high:g}; rescale them, or give uint8"
        )
    return images.astype(np.float32, copy=False)


def _checked_class_names(
    labels: np.ndarray, class_names: Sequence[str] | None, num_classes: int | None
) -> tuple[str, ...]:
    """Returns the names of the classes: from `class_names`, `num_classes` or the labels."""
    if class_names is not None:
        if num_classes is not None:
            raise ValueError("give class_names or num_classes, not both")
        if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names):
            raise TypeError(f"class_names must be a sequence of strings, got {class_names!r}")
        if len(set(class_names)) != len(class_names):
            raise ValueError(f"class_names must all be different, got {tuple(class_names)}")
        return tuple(class_names)
    if num_classes is None:
        present = np.unique(labels)
        num_classes = len(present)
        if present[0] != 0 or present[-1] != num_classes - 1:
            raise ValueError(
                f"cannot count the classes: {num_classes} different labels lie between {present[0]} and "
                f"{present[-1]}; number them 0 to {num_classes - 1}, or give class_names or num_classes"
            )
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    return tuple(str(label) for label in range(num_classes))


def _shares(class_sizes: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Returns the number of examples of each class in each part, shape (classes, parts); no entry is 0.

    Each part in turn takes its total from the remaining examples, in proportion to the classes, and leaves one example
    of every class for each later part. So rows and columns add up without a search.
    """
    num_classes, total = len(class_sizes), class_sizes.sum()
    part_sizes = _apportion(total * fractions, total, low=num_classes, high=total)
    left, columns = class_sizes, []
    for part, part_size in enumerate(part_sizes):
        parts_to_come = len(part_sizes) - 1 - part
        column = _apportion(left * (part_size / left.sum()), part_size, low=1, high=left - parts_to_come)
        left = left - column
        columns.append(column)
    return np.stack(columns, axis=1)


def _apportion(quotas: np.ndarray, total: int, *, low: int, high: np.ndarray | int) -> np.ndarray:
    """Rounds quotas to integers in [low, high] that sum to total, by largest remainder."""
    counts = np.clip(np.floor(quotas).astype(np.int64), low, high)
    while counts.sum() < total:
        counts[np.argmax(np.where(counts < high, quotas - counts, -np.inf))] += 1
    while counts.sum() > total:
        counts[np.argmin(np.where(counts > low, quotas - counts, np.inf))] -= 1
    return counts


def _take(dataset: Dataset, indices: np.ndarray) -> Dataset:
    return Dataset(dataset.images[indices], dataset.labels[indices], dataset.class_names)
