"""Images and labels as pairs, for training steps that do not take examples."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxcnn import data


class Dataset(NamedTuple):
    """Labelled images in memory.

    Attributes:
      images: float32 in [0, 1], shape (examples, height, width, channels).
      labels: class indices, int32, shape (examples,).
      class_names: one name for each class.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]


class Splits(NamedTuple):
    """The three parts of a data set."""

    train: Dataset
    validation: Dataset
    test: Dataset


def dataset(source: data.Source) -> Dataset:
    """Reads a source into memory.

    Args:
      source: examples with "image" and "label".

    Returns:
      Its images and labels.
    """
    (batch,) = data.eval_batches(source, len(source))
    return Dataset(batch["image"], batch["label"], source.class_names)


def splits(parts: data.Splits) -> Splits:
    """Reads the parts of a data set into memory.

    Args:
      parts: "train", "validation" and "test".

    Returns:
      Their images and labels.
    """
    return Splits(*(dataset(parts[name]) for name in Splits._fields))


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """Training batches as pairs of images and labels; see `jaxcnn.data.Batches`."""

    dataset: Dataset
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "batches", data.Batches(_source(self.dataset), self.batch_size, seed=self.seed))

    @property
    def steps_per_epoch(self) -> int:
        """The number of whole batches in the data set."""
        return self.batches.steps_per_epoch  # pyright: ignore[reportAttributeAccessIssue]

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return self.batches[step]  # pyright: ignore[reportAttributeAccessIssue]


def eval_batches(dataset: Dataset, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields every image once; see `jaxcnn.data.eval_batches`."""
    return data.eval_batches(_source(dataset), batch_size)


def _source(dataset: Dataset) -> data.Arrays:
    return data.Arrays({"image": dataset.images, "label": dataset.labels}, dataset.class_names)
