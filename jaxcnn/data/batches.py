"""Batches of examples: step-indexed for training, padded for evaluation."""

import dataclasses
import functools
import operator
from collections.abc import Iterator

import numpy as np

from jaxcnn.data.sources.source import Source, check_classes, check_entries, gather


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """Endless training batches, where `batches[step]` is a pure function of (seed, step).

    Each epoch visits the examples in a new order, which depends only on (seed, epoch). So a resumed run needs only the
    step number. An epoch omits its last examples if they do not fill a batch; since the order changes, each epoch omits
    different examples. Iteration starts at step 0 and never ends.

    Args:
      source: the examples, of one size.
      batch_size: examples in a batch, from 1 to the number of examples.
      seed: random seed of the orders, at least 0.

    Raises:
      ValueError: the batch size or the seed is out of range, or the examples differ in size.
    """

    source: Source
    batch_size: int
    _: dataclasses.KW_ONLY
    seed: int

    def __post_init__(self):
        _check_batch_size(self.batch_size)
        count = len(self.source)
        if self.batch_size > count:
            raise ValueError(
                f"batch_size must be at most the number of examples, got {self.batch_size} for {count} examples"
            )
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        check_entries(self.source, tuple(self.source.spec))

    @property
    def steps_per_epoch(self) -> int:
        """The number of whole batches in the source."""
        return len(self.source) // self.batch_size

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Returns the batch of a step.

        Args:
          step: counted from 0 over all epochs.

        Returns:
          The entries of the source with the batch as their first axis, as new arrays. Images of uint8 become float32
          in [0, 1].

        Raises:
          IndexError: the step is negative.
          ValueError: a label or a pixel of a mask is out of range.
        """
        step = operator.index(step)
        if step < 0:
            raise IndexError(f"step must be at least 0, got {step}: the batches are endless and have no last step")
        epoch, position = divmod(step, self.steps_per_epoch)
        order = _order(self.seed, epoch, len(self.source))
        return _batch(self.source, order[position * self.batch_size : (position + 1) * self.batch_size])


def eval_batches(source: Source, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields every example exactly once, in order, in batches of equal size.

    The last batch is padded with the first examples of the source, so that one compiled program handles all batches.
    Their weight is 0.

    Args:
      source: the examples, of one size.
      batch_size: examples in a batch, at least 1; it may exceed the number of examples.

    Returns:
      An iterator over batches as those of `Batches`, with one more entry: "weight", float32, shape (batch,), the weight
      of each example, which is 1 if the source has no weights, and 0 for the padding.

    Raises:
      ValueError: the batch size is below 1, or the examples differ in size; later, a label or a pixel of a mask is out
        of range.
    """
    _check_batch_size(batch_size)
    check_entries(source, tuple(source.spec))
    starts = range(0, len(source), batch_size)
    return (_padded_batch(source, np.arange(start, start + batch_size)) for start in starts)


def _padded_batch(source: Source, indices: np.ndarray) -> dict[str, np.ndarray]:
    batch = _batch(source, indices % len(source))
    counts = (indices < len(source)).astype(np.float32)
    return batch | {"weight": counts * batch.get("weight", np.float32(1))}


def _batch(source: Source, indices: np.ndarray) -> dict[str, np.ndarray]:
    batch = gather(source, indices)
    for name in ("label", "mask"):
        if name in batch:
            check_classes(name, batch[name], source.class_names)
    if "image" in batch and batch["image"].dtype == np.uint8:
        batch["image"] = np.divide(batch["image"], 255, dtype=np.float32)
    return batch


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
