"""Parts of a source: split for training, chosen classes, a few examples of each class."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from jaxcnn.data.cutting import Choose
from jaxcnn.data.objects import OBJECTS
from jaxcnn.data.pictures import FitPicture
from jaxcnn.data.reading import Request, default_workers, read
from jaxcnn.data.resizing import Resized
from jaxcnn.data.sources.arrays import Arrays
from jaxcnn.data.sources.object_files import ObjectFiles
from jaxcnn.data.sources.picture_files import PictureFiles
from jaxcnn.data.sources.source import (
    ArraySpec,
    Source,
    Splits,
    Subset,
    check_shapes,
    checksum,
    fitted,
    gather,
    is_source,
    preprocessing_of,
    read_part,
)
from jaxcnn.data.sources.tfds import Tfds

_PARTS = ("train", "validation", "test")

_CLASSES = ("label", "mask", "classes")
"""Entries that hold numbers of classes."""


def split(
    source: Source | Splits, *, fractions: tuple[float, float, float] = (0.6, 0.2, 0.2), seed: int = 0
) -> dict[str, Source]:
    """Splits a source into train, validation and test, stratified: each part has the same mix of classes.

    The sizes are the fractions of the source, rounded by largest remainder so that they add up. The examples of each
    class are split the same way. Every part has at least one example of every class, even if its fraction is too small
    for that. Each part keeps the order of the source. Examples without a label, or with a label for each of several
    classes, are split as if they had one class.

    Parts that a data set already has are kept as they are. The missing ones are drawn from its part "train", in
    proportion to the fractions.

    Args:
      source: a source, or the parts of one by name: "train", and "validation" or "test" or both. At least 3 examples of
        every class, or 2 if one part is missing.
      fractions: the parts of train, validation and test, each above 0, summing to 1.
      seed: random seed of the split, at least 0; the result depends only on the seed and the labels.

    Returns:
      The parts by name: "train", "validation" and "test". They are disjoint, and together the whole source.

    Raises:
      ValueError: the fractions are not positive or do not sum to 1, a class has too few examples, the seed is negative,
        the names of the given parts are not as above, or their classes differ.
      TypeError: a part is not a source.
    """
    if len(fractions) != 3 or not all(fraction > 0 for fraction in fractions):
        raise ValueError(f"fractions must be three numbers above 0 (train, validation, test), got {fractions}")
    if not math.isclose(sum(fractions), 1.0, abs_tol=1e-6):
        raise ValueError(f"fractions must sum to 1, got {fractions}, which sum to {sum(fractions):g}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    parts = dict(source) if isinstance(source, Mapping) else {"train": source}
    _check_parts(parts)
    drawn = [name for name in _PARTS if name == "train" or name not in parts]
    shares = np.array([fractions[_PARTS.index(name)] for name in drawn])
    if len(drawn) < len(_PARTS):
        shares /= shares.sum()
    parts |= zip(drawn, _stratified(parts["train"], shares, seed), strict=True)
    return {name: parts[name] for name in _PARTS}


def _check_parts(parts: Splits) -> None:
    if "train" not in parts or not parts.keys() <= set(_PARTS):
        raise ValueError(
            f"expected a part 'train', and parts 'validation' and 'test' or none of these, got {list(parts)}"
        )
    for name, part in parts.items():
        if not is_source(part):
            raise TypeError(
                "expected a source of examples, such as jaxcnn.data.digits() or jaxcnn.data.arrays(image=images, "
                f"label=labels), got a {type(part).__name__} as the part {name!r}"
            )
    classes = {name: part.class_names for name, part in parts.items()}
    for name, class_names in classes.items():
        if class_names != classes["train"]:
            raise ValueError(
                f"expected the same classes in every part, got {classes['train']} in 'train' and {class_names} in "
                f"{name!r}"
            )


def _stratified(source: Source, fractions: np.ndarray, seed: int) -> list[Source]:
    """Draws disjoint parts of a source, each with the same mix of classes."""
    if len(fractions) == 1:
        return [source]
    labels, class_names = _classes(source)
    class_sizes = np.bincount(labels, minlength=len(class_names))
    _check_rarest(
        "split", class_sizes, class_names, len(fractions), "one for each part, ", "leave that class out or merge it"
    )
    rng = np.random.default_rng(seed)
    members: list[list[np.ndarray]] = [[] for _ in fractions]
    for label, share in enumerate(_shares(class_sizes, fractions)):
        shuffled = rng.permutation(np.flatnonzero(labels == label))
        for part, chosen in zip(members, np.split(shuffled, np.cumsum(share)[:-1]), strict=True):
            part.append(chosen)
    return [_take(source, np.sort(np.concatenate(part))) for part in members]


def shared_files(splits: Splits) -> dict[str, int]:
    """Counts the pictures in each other part that are in "train" too: files of the same content, or the same records.

    Args:
      splits: parts by name, with "train". Compared are pictures in files, by checksums that are known already, and
        examples of TensorFlow Datasets by their places.

    Returns:
      The numbers by part, without parts that have none.
    """
    train = _file_checksums(splits["train"])
    if train is None:
        return {}
    others = {name: _file_checksums(part) for name, part in splits.items() if name != "train"}
    counts = {name: int(np.isin(other, train).sum()) for name, other in others.items() if other is not None}
    return {name: count for name, count in counts.items() if count}


def _file_checksums(source: Source) -> np.ndarray | None:
    """Returns a checksum of each example, by which it is known again; None if there is none that is known already."""
    if isinstance(source, ObjectFiles):
        source = source.pictures
    if isinstance(source, PictureFiles | Tfds):
        return source.digests
    if isinstance(source, Subset):
        found = _file_checksums(source.source)
        return None if found is None else found[source.indices]
    return _file_checksums(source.source) if isinstance(source, Renumbered | Resized) else None


def choose_classes(source: Source, classes: Sequence[str]) -> Source:
    """Selects the examples of some classes, and renumbers these classes.

    Args:
      source: examples with labels, or with objects.
      classes: distinct names of classes of the source; the first becomes label 0, and so on.

    Returns:
      The examples of these classes, in the order of the source. Of examples with objects, all: those of other classes
      are no longer valid, so that some images have no object.

    Raises:
      ValueError: the examples have neither labels of one class nor objects, a name is unknown or
        repeated, or there is no name.
      TypeError: `classes` is a single string.
    """
    if "boxes" not in source.spec:
        _check_labelled("choose_classes", source)
    if isinstance(classes, str):
        raise TypeError(f"classes must be a sequence of names, got the string {classes!r}")
    unknown = [name for name in classes if name not in source.class_names]
    if unknown or not classes or len(set(classes)) != len(classes):
        raise ValueError(f"classes must be different names among {source.class_names}, got {tuple(classes)}")
    if "boxes" in source.spec:
        return Renumbered(source, tuple(classes))
    chosen = np.isin(_classes(source)[0], [source.class_names.index(name) for name in classes])
    found = Renumbered(_take(source, np.flatnonzero(chosen)), tuple(classes))
    return in_memory(found) if isinstance(source, Arrays) and not source.is_mapped else found


def match_classes(source: Source, class_names: Sequence[str]) -> Source:
    """Renumbers the classes of a source by their names, to the order of another source.

    Args:
      source: examples with classes.
      class_names: the same names in any order; class k of the result is `class_names[k]`.

    Returns:
      The same examples; the source itself if the order is the same.

    Raises:
      ValueError: a name is missing on either side.
    """
    unknown = [name for name in source.class_names if name not in class_names]
    missing = [name for name in class_names if name not in source.class_names]
    faults = [
        f"{what} {', '.join(map(repr, names))}" for what, names in (("unknown", unknown), ("missing", missing)) if names
    ]
    if faults:
        raise ValueError(
            f"expected data with the classes {', '.join(map(repr, class_names))}, in any order, got "
            f"{' and '.join(faults)}; rename the classes of the data, or select some"
        )
    return source if source.class_names == tuple(class_names) else Renumbered(source, tuple(class_names))


def few(source: Source, per_class: int, *, seed: int) -> Source:
    """Draws the same number of examples from every class.

    For the same seed, a smaller number draws a subset of the examples of a larger number.

    Args:
      source: examples with labels.
      per_class: number of examples of each class, at least 1.
      seed: random seed of the choice, at least 0; the result depends only on the seed and the labels.

    Returns:
      The examples, in the order of the source.

    Raises:
      ValueError: the examples have no labels of one class, a class has fewer examples, or an argument is out of range.
    """
    _check_labelled("few", source)
    if per_class < 1:
        raise ValueError(f"per_class must be at least 1, got {per_class}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    labels, class_names = _classes(source)
    class_sizes = np.bincount(labels, minlength=len(class_names))
    _check_rarest("few", class_sizes, class_names, per_class, "", "ask for fewer, or leave that class out")
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:per_class] for label in range(len(class_sizes))]
    return _take(source, np.sort(np.concatenate(chosen)))


@dataclasses.dataclass(frozen=True, eq=False)
class Renumbered:
    """A source whose classes have other numbers; see `match_classes`.

    Args:
      source: examples with "label", "mask" or "classes".
      class_names: the names of the classes that it has examples of, in their new order; objects of others are left out.
    """

    source: Source
    class_names: tuple[str, ...]

    @property
    def spec(self) -> Mapping[str, ArraySpec]:
        """That of the source."""
        return self.source.spec

    @property
    def fingerprint(self) -> str:
        """A checksum of the source and the new order."""
        return checksum(self.source.fingerprint, *self.class_names)

    @property
    def preprocessing(self) -> FitPicture | None:
        """That of the source."""
        return preprocessing_of(self.source)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self._renumbered(self.source[index])

    def gather(self, indices: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Reads entries of several examples, as the source does."""
        more = [name for name in ("classes", "valid") if name in self.spec and {*OBJECTS, "valid"} & {*names}]
        found = self._renumbered(gather(self.source, indices, list(dict.fromkeys([*names, *more]))))
        return {name: found[name] for name in names}

    def fitted(self, index: int, fit: FitPicture) -> dict[str, np.ndarray]:
        """Reads one example with its image fitted, as the source does."""
        return self._renumbered(fitted(self.source, index, fit))

    def part(self, index: int, choose: Choose, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """Reads one example with a part of its image, as the source does."""
        return self._renumbered(read_part(self.source, index, choose, size))

    def _renumbered(self, entries: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        old_names = self.source.class_names
        several = "label" in self.spec and self.spec["label"].shape != ()
        if several and "label" in entries:
            old_numbers = [old_names.index(name) for name in self.class_names]
            return entries | {"label": entries["label"][..., old_numbers]}
        new_numbers = np.array([self.class_names.index(name) if name in self.class_names else -1 for name in old_names])
        found = {name: _looked_up(entries[name], new_numbers) for name in _CLASSES if name in entries}
        if "classes" in found:
            # Empty slots hold zeros.
            found["valid"] = valid = entries["valid"] & (found["classes"] >= 0)
            for name in OBJECTS:
                if name in entries:
                    array = found.get(name, entries[name])
                    used = valid.reshape(*valid.shape, *[1] * (array.ndim - valid.ndim))
                    found[name] = np.where(used, array, np.zeros((), array.dtype))
        return entries | found


def _looked_up(numbers: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Looks numbers up in a table. Those out of its range stay: `IGNORED`, and numbers that batches refuse."""
    numbers = np.asarray(numbers)
    known = (numbers >= 0) & (numbers < len(table))
    return np.where(known, table[np.where(known, numbers, 0)], numbers).astype(numbers.dtype)


def in_memory(source: Source, *, workers: int | None = None) -> Arrays:
    """Reads all examples of a source into memory.

    Args:
      source: examples of one size.
      workers: number of threads that read them, at least 0; None for as many as suit the source.

    Returns:
      The source itself if it is in memory already.

    Raises:
      ValueError: the sizes differ from example to example, or a label or a pixel of a mask is out of range.
    """
    if isinstance(source, Arrays):
        return source
    check_shapes(source.spec)
    workers = default_workers(source) if workers is None else workers
    (entries,) = read(source, source.spec, [Request(np.arange(len(source)))], workers)
    return Arrays(entries, source.class_names, preprocessing_of(source))


def _check_labelled(function: str, source: Source) -> None:
    if "label" not in source.spec:
        raise ValueError(f"{function} expects examples with 'label', got {', '.join(map(repr, source.spec))}")
    if shape := source.spec["label"].shape:
        raise ValueError(f"{function} expects labels of one class for each example, got labels of shape {shape}")


def _classes(source: Source) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the class of each example and the names of the classes; a single class if examples do not have one."""
    if "label" not in source.spec or source.spec["label"].shape:
        return np.zeros(len(source), np.int32), ("all",)
    return gather(source, np.arange(len(source)), ["label"])["label"], source.class_names


def _check_rarest(
    function: str, class_sizes: np.ndarray, class_names: Sequence[str], least: int, reason: str, advice: str
) -> None:
    rarest = int(np.argmin(class_sizes))
    if class_sizes[rarest] < least:
        raise ValueError(
            f"{function} expects at least {least} examples of every class, {reason}got {class_sizes[rarest]} of class "
            f"{class_names[rarest]!r}; {advice}"
        )


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


def _take(source: Source, indices: np.ndarray) -> Source:
    if isinstance(source, Arrays) and not source.is_mapped:
        return dataclasses.replace(source, entries=source.gather(indices, tuple(source.entries)))
    return Subset(source, indices)
