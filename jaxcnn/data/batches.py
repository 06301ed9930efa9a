"""Batches of examples: step-indexed for training, padded for evaluation."""

import dataclasses
import functools
import operator
from collections.abc import Generator, Iterable, Iterator, Mapping

import numpy as np

from jaxcnn.data.reading import Prepare, Reads, Request, default_workers, read
from jaxcnn.data.sources.source import ArraySpec, Source, check_shapes

_POSITION = ("index", "epoch")
"""Entries that `Batches` can add to each example."""


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """Endless training batches, where `batches[step]` is a pure function of (seed, step).

    Each epoch visits the examples in a new order, which depends only on (seed, epoch). So a resumed run needs only the
    step number. An epoch omits its last examples if they do not fill a batch; since the order changes, each epoch omits
    different examples. Iteration starts at step 0 and never ends.

    Args:
      source: the examples, of one size after `prepare`.
      batch_size: examples in a batch, over all shards, from 1 to the number of examples.
      seed: random seed of the orders and of `prepare`, at least 0.
      prepare: prepares each example on the host, such as `RandomResizedCrop`. Its random numbers depend only on
        (seed, epoch, index of the example).
      shard: (i, n): of every batch, the i-th of n equal parts, for process i of n. The parts in order are the batch of
        one process.
      workers: number of threads that read examples, at least 0; None for as many as suit the source. The batches do
        not depend on it.
      add: entries to add to each example, int32: "index", its index in the source, and "epoch", counted from 0. An
        augmentation lists the entries that it needs in its attribute `reads`.

    Raises:
      ValueError: an argument is out of range, the examples differ in size, or they already have an entry of `add`.
    """

    source: Source
    batch_size: int
    _: dataclasses.KW_ONLY
    seed: int
    prepare: Prepare | None = None
    shard: tuple[int, int] = (0, 1)
    workers: int | None = None
    add: tuple[str, ...] = ()

    def __post_init__(self):
        _check(self.batch_size, self.shard, self.workers)
        count = len(self.source)
        if self.batch_size > count:
            raise ValueError(
                f"batch_size must be at most the number of examples, got {self.batch_size} for {count} examples"
            )
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        check_shapes(self._read_spec)
        for name in self.add:
            if name not in _POSITION:
                raise ValueError(f"add expects names among {', '.join(map(repr, _POSITION))}, got {name!r}")
            if name in self._read_spec:
                raise ValueError(
                    f"expected examples without the entry {name!r}, which add={self.add} adds, got one; rename it"
                )

    @property
    def spec(self) -> Mapping[str, ArraySpec]:
        """Shape and dtype of each entry of an example, after `prepare` and with the entries of `add`."""
        return {**self._read_spec, **dict.fromkeys(self.add, ArraySpec((), np.dtype(np.int32)))}

    @property
    def _read_spec(self) -> Mapping[str, ArraySpec]:
        return self.source.spec if self.prepare is None else self.prepare.spec(self.source.spec)

    @property
    def steps_per_epoch(self) -> int:
        """The number of whole batches in the source."""
        return len(self.source) // self.batch_size

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Returns the batch of a step.

        Args:
          step: counted from 0 over all epochs.

        Returns:
          The entries of the source, and those of `add`, with the batch as their first axis, as new arrays.

        Raises:
          IndexError: the step is negative.
          ValueError: a label or a pixel of a mask is out of range, or an example is not as its spec says.
        """
        (batch,) = self.at([step])
        return batch

    def at(self, steps: Iterable[int]) -> Generator[dict[str, np.ndarray], None, None]:
        """Yields the batches of several steps; where threads read, they read the next batch meanwhile.

        Args:
          steps: as for `batches[step]`, which each batch is equal to.
        """
        workers = default_workers(self.source) if self.workers is None else self.workers
        return read(self.source, self._read_spec, map(self._request, steps), workers)

    def _request(self, step: int) -> Request:
        step = operator.index(step)
        if step < 0:
            raise IndexError(f"step must be at least 0, got {step}: the batches are endless and have no last step")
        epoch, position = divmod(step, self.steps_per_epoch)
        order = _order(self.seed, epoch, len(self.source))
        indices = order[position * self.batch_size : (position + 1) * self.batch_size][
            _part(self.batch_size, self.shard)
        ]
        prepare = None if self.prepare is None else functools.partial(self._prepared, epoch)
        if not self.add:
            return Request(indices, prepare)
        added = {"index": indices.astype(np.int32), "epoch": np.full(len(indices), epoch, np.int32)}
        return Request(indices, prepare, {name: added[name] for name in self.add})

    def _prepared(self, epoch: int, index: int) -> dict[str, np.ndarray]:
        assert self.prepare is not None
        # A spawn key: without it the numbers of example 0 would be those of the order.
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, epoch), spawn_key=(index,)))
        if isinstance(self.prepare, Reads):
            return self.prepare.read(rng, self.source, index)
        return self.prepare(rng, self.source[index])


def eval_batches(
    source: Source, batch_size: int, *, shard: tuple[int, int] = (0, 1), workers: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every example exactly once, in order, in batches of equal size.

    The last batch is padded with the first examples of the source, so that one compiled program handles all batches.
    Their weight is 0.

    Args:
      source: the examples, of one size.
      batch_size: examples in a batch, over all shards, at least 1; it may exceed the number of examples.
      shard: (i, n): of every batch, the i-th of n equal parts. All shards have the same number of batches, and together
        every example once.
      workers: as for `Batches`.

    Returns:
      An iterator over batches as those of `Batches`, with one more entry: "weight", float32, shape (batch,), the weight
      of each example, which is 1 if the source has no weights, and 0 for the padding.

    Raises:
      ValueError: an argument is out of range, or the examples differ in size; later, a label or a pixel of a mask is
        out of range, or an example is not as its spec says.
    """
    _check(batch_size, shard, workers)
    check_shapes(source.spec)
    part, firsts = _part(batch_size, shard), range(0, len(source), batch_size)
    indices = [np.arange(first, first + batch_size)[part] for first in firsts]
    workers = default_workers(source) if workers is None else workers
    batches = read(source, source.spec, (Request(each % len(source)) for each in indices), workers)
    return (_weighted(batch, each < len(source)) for batch, each in zip(batches, indices, strict=True))


def _weighted(batch: dict[str, np.ndarray], counts: np.ndarray) -> dict[str, np.ndarray]:
    return batch | {"weight": counts.astype(np.float32) * batch.get("weight", np.float32(1))}


def _part(batch_size: int, shard: tuple[int, int]) -> slice:
    """Returns where the part of a shard is in a batch."""
    index, count = shard
    return slice(index * batch_size // count, (index + 1) * batch_size // count)


def _check(batch_size: int, shard: tuple[int, int], workers: int | None) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard must be (i, n) with 0 <= i < n, got {shard}")
    if batch_size % count:
        raise ValueError(f"batch_size must be a multiple of the {count} shards, got {batch_size}")
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be at least 0, or None, got {workers}")


# Cached here, not in `Batches`, which is a value: a cache of a pure function can be shared.
@functools.lru_cache(maxsize=8)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Returns the order in which an epoch visits the examples, shape (count,), read-only."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    order.flags.writeable = False
    return order
