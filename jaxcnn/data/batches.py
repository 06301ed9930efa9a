"""Batches of a dataset in memory: step-indexed for training, padded for evaluation."""

import dataclasses
import functools
import operator
from collections.abc import Iterator

import numpy as np

from jaxcnn.data.arrays import Dataset, check_labels


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """Endless training batches, where `batches[step]` is a pure function of (seed, step).

    Each epoch visits the examples in a new order, which depends only on (seed, epoch). So a resumed run needs only the
    step number. An epoch omits its last examples if they do not fill a batch; since the order changes, each epoch omits
    different examples. Iteration starts at step 0 and never ends.

    Args:
      dataset: the examples.
      batch_size: examples in a batch, from 1 to the number of examples.
      seed: random seed of the orders, at least 0.

    Raises:
      ValueError: a batch size, a seed or a label out of range.
    """

    dataset: Dataset
    batch_size: int
    _: dataclasses.KW_ONLY
    seed: int

    def __post_init__(self):
        _check_batch_size(self.batch_size)
        count = len(self.dataset.labels)
        if self.batch_size > count:
            raise ValueError(
                f"batch_size must be at most the number of examples, got {self.batch_size} for {count} examples"
            )
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        check_labels(self.dataset.labels, self.dataset.class_names)

    @property
    def steps_per_epoch(self) -> int:
        """The number of whole batches in the dataset."""
        return len(self.dataset.labels) // self.batch_size

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the batch of a step.

        Args:
          step: counted from 0 over all epochs.

        Returns:
          Images (batch, height, width, channels) and labels (batch,), fresh copies.

        Raises:
          IndexError: the step is negative.
        """
        step = operator.index(step)
        if step < 0:
            raise IndexError(f"step must be at least 0, got {step}: the batches are endless and have no last step")
        epoch, position = divmod(step, self.steps_per_epoch)
        order = _order(self.seed, epoch, len(self.dataset.labels))
        chosen = order[position * self.batch_size : (position + 1) * self.batch_size]
        return self.dataset.images[chosen], self.dataset.labels[chosen]


def eval_batches(dataset: Dataset, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields every example exactly once, in order, in batches of equal size.

    The last batch is padded with the first images of the dataset and label 0, so that one compiled program handles all
    batches. The mask is False for the padding.

    Args:
      dataset: the examples.
      batch_size: examples in a batch, at least 1; it may exceed the number of examples.

    Returns:
      An iterator over images (batch, height, width, channels), labels (batch,) and mask (batch,), bool.

    Raises:
      ValueError: the batch size is below 1, or a label is out of range.
    """
    _check_batch_size(batch_size)
    check_labels(dataset.labels, dataset.class_names)
    starts = range(0, len(dataset.labels), batch_size)
    return (_padded_batch(dataset, np.arange(start, start + batch_size)) for start in starts)


def _padded_batch(dataset: Dataset, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = len(dataset.labels)
    mask = indices < count
    wrapped = indices % count
    return dataset.images[wrapped], np.where(mask, dataset.labels[wrapped], np.int32(0)), mask


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")


# Cached here, not in `Batches`, which is a value: a cache of a pure function can be shared.
@functools.lru_cache(maxsize=8)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Returns the order in which an epoch visits the examples, shape (count,), read-only."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    order.flags.writeable = False
    return order
