"""Data sets of the package `datasets` of Hugging Face as sources."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.data.pictures import PictureError, read_picture
from jaxcnn.data.sources.parts import PARTS
from jaxcnn.data.sources.source import ArraySpec, checksum


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class HuggingFace:
    """A data set of pictures and classes; `hugging_face` builds and checks it.

    Args:
      dataset: a `datasets.Dataset`.
      image: name of the column of pictures.
      label: name of the column of classes.
      channels: 1 or 3.
    """

    dataset: Any
    image: str
    label: str
    channels: int

    @property
    def spec(self) -> Mapping[str, ArraySpec]:
        """Shape and dtype of "image", whose height and width differ from example to example, and "label"."""
        return {
            "image": ArraySpec((None, None, self.channels), np.dtype(np.uint8)),
            "label": ArraySpec((), np.dtype(np.int32)),
        }

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return tuple(self.dataset.features[self.label].names)

    @property
    def fingerprint(self) -> str:
        """A checksum of the data set's own fingerprint and the columns."""
        return checksum(self.dataset._fingerprint, self.image, self.label, str(self.channels), *self.class_names)

    @functools.cached_property
    def _encoded(self) -> Any:
        """The data set with pictures as the content of their files."""
        kind = type(self.dataset.features[self.image])
        chosen = self.dataset.with_format(None).select_columns([self.image, self.label])
        return chosen.cast_column(self.image, kind(decode=False))

    @functools.cached_property
    def _labels(self) -> Any:
        return self.dataset.with_format(None).select_columns([self.label])

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Reads one example.

        Args:
          index: of the example.

        Returns:
          "image", uint8, shape (height, width, channels), decoded by `jaxcnn.data.pictures.read_picture`, and "label".

        Raises:
          PictureError: the picture cannot be decoded.
        """
        row = self._encoded[int(index)]
        file = row[self.image]
        try:
            image = read_picture(file["path"] if file["bytes"] is None else file["bytes"], self.channels)
        except PictureError as error:
            raise PictureError(f"example {index}, column {self.image!r}: {error}") from error
        return {"image": image, "label": _index(row[self.label])}

    def gather(self, indices: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Reads entries of several examples. For labels alone, no picture is read."""
        if "image" in names:
            examples = [self[int(index)] for index in indices]
            return {name: np.stack([example[name] for example in examples]) for name in names}
        rows = self._labels[np.asarray(indices).tolist()]
        return {name: np.array([_index(label) for label in rows[self.label]], np.int32) for name in names}

    def __repr__(self) -> str:
        return f"<{len(self)} pictures of {len(self.class_names)} classes of Hugging Face>"


def hugging_face(
    dataset: Any, *, image: str | None = None, label: str | None = None, channels: int = 3
) -> HuggingFace | dict[str, HuggingFace]:
    """Makes a source of a data set of Hugging Face: `hugging_face(datasets.load_dataset("cifar10"))`.

    Args:
      dataset: a `datasets.Dataset` with a column of kind `Image` and one of kind `ClassLabel`, or a
        `datasets.DatasetDict` of such.
      image: name of the column of pictures; None for the only one.
      label: name of the column of classes; None for the only one.
      channels: 1 reads the pictures as grey, 3 as red, green and blue.

    Returns:
      The source; or, for a `DatasetDict`, a source for each name: "train", "validation", "test" are what `split` knows.

    Raises:
      TypeError: the data set has no columns, or is a stream.
      ValueError: a column is missing or not of that kind, there are several, or `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"hugging_face expects 1 or 3 channels, got {channels}")
    if isinstance(dataset, Mapping):
        return {name: _source(part, image, label, channels) for name, part in dataset.items()}
    return _source(dataset, image, label, channels)


def load_hugging_face(name: str, *, channels: int = 3) -> HuggingFace | dict[str, HuggingFace]:
    """Loads a data set of Hugging Face by its name, as `jaxcnn train --data hf:NAME` does.

    Args:
      name: "NAME[:SPLIT]". NAME is a folder that `save_to_disk` of the package `datasets` wrote, or what `load_dataset`
        takes: a set on the hub, which is downloaded once, as "cifar10" or "owner/flowers", or a folder. SPLIT of such a
        set may have parts, as in "train[:80%]".
      channels: 1 reads the pictures as grey, 3 as red, green and blue.

    Returns:
      The source if `name` has a split or the set has none. Otherwise the parts "train", "validation" and "test", as far
      as they are there; splits of other names have to be named.

    Raises:
      ImportError: the package `datasets` is not installed.
      ValueError: the set cannot be loaded, has no such split or none of these names, or does not fit `hugging_face`.
    """
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "data sets of Hugging Face are loaded by the package datasets; pip install datasets"
        ) from error
    path, _, split = (name, "", "") if os.path.isdir(name) else name.partition(":")
    saved = any(os.path.exists(os.path.join(path, file)) for file in ("state.json", "dataset_dict.json"))
    try:
        found = datasets.load_from_disk(path) if saved else datasets.load_dataset(path, split=split or None)
    except Exception as error:
        # Builders and the hub raise many kinds of exceptions.
        raise ValueError(
            f"expected a data set that the package datasets can load, got {path!r}"
            f"{f' with the split {split!r}' if split else ''}: {error}"
        ) from error
    if saved and split:
        if split not in (known := list(found) if isinstance(found, Mapping) else []):
            raise ValueError(f"expected one of the splits {', '.join(known) or '(none)'} of {path!r}, got {split!r}")
        found = found[split]
    if not isinstance(found, Mapping):
        return _source(found, None, None, channels)
    parts = {PARTS[known.lower()]: part for known, part in found.items() if known.lower() in PARTS}
    if len(parts) < len(found):
        raise ValueError(
            f"expected one split for each of train, validation and test in {path!r}, got {', '.join(found)}; name one, "
            f"as hf:{path}:{next(iter(found))}"
        )
    return {part: _source(parts[part], None, None, channels) for part in dict.fromkeys(PARTS.values()) if part in parts}


def _source(dataset: Any, image: str | None, label: str | None, channels: int) -> HuggingFace:
    if not (hasattr(dataset, "features") and hasattr(dataset, "__len__") and hasattr(dataset, "select_columns")):
        raise TypeError(
            f"expected a datasets.Dataset or DatasetDict, got {type(dataset).__name__}; a stream has no indices"
        )
    return HuggingFace(
        dataset, _column(dataset, "Image", image, "image"), _column(dataset, "ClassLabel", label, "label"), channels
    )


def _column(dataset: Any, kind: str, name: str | None, option: str) -> str:
    """Finds the column of a kind."""
    found = [column for column, feature in dataset.features.items() if type(feature).__name__ == kind]
    if name is not None:
        found = [column for column in found if column == name]
    if len(found) != 1:
        columns = ", ".join(f"{column} ({type(feature).__name__})" for column, feature in dataset.features.items())
        wanted = "one column" if name is None else f"the column {name!r}"
        raise ValueError(f"expected {wanted} of kind {kind}, as {option}= tells, among {columns}")
    return found[0]


def _index(label: int | None) -> np.ndarray:
    """Returns a class index; -1, which batches refuse, for a missing one."""
    return np.asarray(-1 if label is None else label, np.int32)
