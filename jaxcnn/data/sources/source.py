"""The protocol of a source of examples, and functions that read several examples at once."""

import dataclasses
import hashlib
import inspect
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias, TypeGuard, runtime_checkable

import numpy as np

from jaxcnn.data.cutting import Choose, cut
from jaxcnn.data.objects import moved_objects
from jaxcnn.data.pictures import FitPicture

IGNORED = 255
"""Value of the pixels of a mask that belong to no class: they count neither in the loss nor in the metrics."""

_SAMPLE = 4096
"""Bytes at each end of a file that a fingerprint reads."""


class ArraySpec(NamedTuple):
    """Shape and dtype of an entry of an example.

    Attributes:
      shape: without an axis of examples; None for an axis whose size differs from example to example.
      dtype: its dtype.
    """

    shape: tuple[int | None, ...]
    dtype: np.dtype


class Source(Protocol):
    """Examples by index. Sources that can read many examples at once also have `Gathers.gather`.

    The entries of an example have fixed names:

    - "image": shape (height, width, channels), uint8, or float32 in [0, 1];
    - "label": a class index, int32, shape (); or for several classes 0 or 1 for each class, shape (num_classes,);
    - "mask": the class of each pixel, shape (height, width), integers; `IGNORED` for none;
    - "target": numbers to predict, such as probabilities of classes, float32.

    Objects have slots, of which "valid", bool, shape (slots,), tells those in use; the others hold zeros:

    - "boxes": edges (left, top, right, bottom) in pixels, float32, shape (slots, 4); 0 is the outer edge of the first
      pixel, so that a box around it alone is (0, 0, 1, 1);
    - "classes": class indices, int32, shape (slots,); the background is no class;
    - "crowd": whether it is a group of objects, "difficult": whether it is hard to see; bool, shape (slots,);
    - "masks": the pixels of each object, bool, shape (slots, height, width).
    """

    @property
    def spec(self) -> Mapping[str, ArraySpec]:
        """Shape and dtype of each entry, by name."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes of labels, masks or objects, in the order of their indices; () without classes."""
        ...

    @property
    def fingerprint(self) -> str:
        """A checksum that changes with the examples, their order and the class names. It need not read every pixel."""
        ...

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Reads one example; the same one for the same index."""
        ...


def is_source(value: object) -> TypeGuard[Source]:
    """Tells whether a value has what a source has. It computes none of it: a fingerprint may read files.

    Args:
      value: any value.
    """
    names = ("spec", "class_names", "fingerprint", "__len__", "__getitem__")
    return not isinstance(value, type) and all(inspect.getattr_static(value, name, None) is not None for name in names)


Splits: TypeAlias = Mapping[str, Source]
"""Disjoint parts of a data set by name: "train", "validation" and "test", or some of them."""


@runtime_checkable
class Gathers(Protocol):
    """The method of a source that can read several examples faster than one by one, or single entries."""

    def gather(self, indices: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Reads entries of several examples.

        Args:
          indices: of the examples, shape (n,).
          names: of the entries. The others need not be read: a source that knows its labels opens no image for them.

        Returns:
          Each entry with the examples as its first axis, as new arrays.
        """
        ...


@runtime_checkable
class Fits(Protocol):
    """What a source has that reads a fitted image faster than a whole one, as from a large JPEG file."""

    def fitted(self, index: int, fit: FitPicture) -> dict[str, np.ndarray]:
        """Reads one example with its image fitted.

        Args:
          index: of the example.
          fit: fits the image.

        Returns:
          The example.
        """
        ...


def fitted(source: Source, index: int, fit: FitPicture) -> dict[str, np.ndarray]:
    """Reads one example with its image fitted.

    Args:
      source: any source with images.
      index: of the example.
      fit: fits the image.

    Returns:
      The example, with an image of the shape of `fit`, of the dtype of the source.

    Raises:
      ValueError: the image has another number of channels.
    """
    if isinstance(source, Fits):
        return source.fitted(index, fit)
    example = source[index]
    return fitted_objects(example, fit, example["image"].shape[:2]) | {"image": fit.fitted(example["image"])}


def fitted_objects(example: Mapping[str, np.ndarray], fit: FitPicture, size: Sequence[int]) -> dict[str, np.ndarray]:
    """Moves the objects of an example with its image.

    Args:
      example: with or without objects.
      fit: fits the image.
      size: (height, width) of the image before.

    Returns:
      The example with moved objects, if it has any; see `jaxcnn.data.objects.moved_objects`.
    """
    if "boxes" not in example:
        return dict(example)
    place = fit.placement(size[0], size[1])
    masks = {"masks": place.masks(example["masks"])} if "masks" in example else {}
    return {**example, **moved_objects({**example, **masks}, place.boxes(example["boxes"]), place.size)}


@runtime_checkable
class ReadsParts(Protocol):
    """What a source has that reads a part of an image faster than the whole one, as from a large JPEG file."""

    def part(self, index: int, choose: Choose, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """Reads one example with a part of its image; see `read_part`."""
        ...


def read_part(source: Source, index: int, choose: Choose, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Reads one example with a part of its image, resized, and the same part of its mask.

    Args:
      source: any source with images.
      index: of the example.
      choose: chooses the part.
      size: (height, width) of the result.

    Returns:
      The example, with "image" of shape (*size, channels), and "mask" of shape `size`.
    """
    if isinstance(source, ReadsParts):
        return source.part(index, choose, size)
    return cut(source[index], choose, size)


def preprocessing_of(source: Source) -> FitPicture | None:
    """Returns what fitted the images of a source, for pictures to come; None if nothing did.

    Args:
      source: any source; `jaxcnn.data.resized` makes one that tells it.
    """
    return getattr(source, "preprocessing", None)


def gather(source: Source, indices: np.ndarray, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Reads several examples as arrays.

    Args:
      source: any source.
      indices: of the examples, shape (n,).
      names: of the entries to read; all of them if None.

    Returns:
      Each entry with the examples as its first axis, as new arrays.

    Raises:
      ValueError: the source has no such entry, or the shape of an entry differs from example to example.
    """
    names = tuple(source.spec if names is None else names)
    check_entries(source, names)
    # Not by `isinstance(source, Gathers)`, which Python 3.11 answers more slowly than a small batch is gathered.
    if (gathers := getattr(source, "gather", None)) is not None:
        return gathers(indices, names)
    # Of each example, only the entries are kept: the images of a large set would not fit into memory.
    examples = [[example[name] for name in names] for example in map(source.__getitem__, indices.tolist())]
    return {name: np.stack(values) for name, values in zip(names, zip(*examples, strict=True), strict=True)}


def check_entries(source: Source, names: Sequence[str]) -> None:
    """Refuses a source whose examples lack an entry, or differ in its shape.

    Args:
      source: any source.
      names: of the entries.

    Raises:
      ValueError: the source has no such entry, or the shape of an entry differs from example to example.
    """
    spec = source.spec
    for name in names:
        if name not in spec:
            raise ValueError(f"expected examples with {name!r}, got {', '.join(map(repr, spec))}")
    check_shapes({name: spec[name] for name in names})


def check_shapes(spec: Mapping[str, ArraySpec]) -> None:
    """Refuses entries whose shape differs from example to example.

    Args:
      spec: shape and dtype of each entry, by name.

    Raises:
      ValueError: there is a None in a shape.
    """
    for name, entry in spec.items():
        if None in entry.shape:
            raise ValueError(
                f"a batch expects examples of one shape, got {name!r} of shape {entry.shape}, where None differs from "
                "example to example; resize or crop them to one size"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Subset:
    """Some examples of a source.

    Args:
      source: any source.
      indices: of the examples in it, in their new order, shape (n,).
    """

    source: Source
    indices: np.ndarray

    @property
    def spec(self) -> Mapping[str, ArraySpec]:
        """That of the source."""
        return self.source.spec

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the source."""
        return self.source.class_names

    @property
    def fingerprint(self) -> str:
        """A checksum of the source and the indices."""
        return checksum(self.source.fingerprint, np.asarray(self.indices, np.int64))

    @property
    def preprocessing(self) -> FitPicture | None:
        """That of the source."""
        return preprocessing_of(self.source)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.source[int(self.indices[index])]

    def gather(self, indices: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Reads entries of several examples, as the source does."""
        return gather(self.source, self.indices[indices], names)

    def fitted(self, index: int, fit: FitPicture) -> dict[str, np.ndarray]:
        """Reads one example with its image fitted, as the source does."""
        return fitted(self.source, int(self.indices[index]), fit)

    def part(self, index: int, choose: Choose, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """Reads one example with a part of its image, as the source does."""
        return read_part(self.source, int(self.indices[index]), choose, size)


def checksum(*parts: str | bytes | np.ndarray) -> str:
    """Computes a checksum of texts, bytes and arrays; the dtypes and shapes of arrays count.

    Args:
      *parts: in order.

    Returns:
      32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            part = np.ascontiguousarray(part).data
        elif isinstance(part, str):
            part = part.encode(errors="surrogateescape")
        # The length separates this part from the next one.
        digest.update(f"{memoryview(part).nbytes}:".encode())
        digest.update(part)
    return digest.hexdigest()


def file_sample(path: str | os.PathLike[str]) -> bytes:
    """Reads what a fingerprint takes of a file: its length, its beginning and its end.

    Args:
      path: the file.

    Returns:
      At most 8200 bytes.

    Raises:
      OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        first = file.read(_SAMPLE)
        length = file.seek(0, os.SEEK_END)
        file.seek(max(length - _SAMPLE, 0))
        return length.to_bytes(8, "little") + first + file.read()


def check_classes(name: str, values: np.ndarray, class_names: Sequence[str]) -> None:
    """Refuses class indices out of range.

    Args:
      name: "label"; "mask", in which `IGNORED` is no class; or "classes" of objects.
      values: integers, with the examples as the first axis.
      class_names: one name for each class.

    Raises:
      ValueError: a value is not in [0, number of classes).
    """
    outside = (values < 0) | (values >= len(class_names))
    ignored = ""
    if name == "mask":
        outside &= values != IGNORED
        ignored = f", or {IGNORED} for pixels of no class"
    if outside.any():
        first = tuple(np.argwhere(outside)[0])
        names = name if name == "classes" else f"{name}s"
        raise ValueError(
            f"{names} must be in [0, {len(class_names)}){ignored}, got {values[first]} at index {first[0]}; "
            "number the classes from 0, or give a name for each"
        )
