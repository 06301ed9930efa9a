"""Reads batches from sources, several examples at once in threads."""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from jaxcnn.data.sources.arrays import Arrays
from jaxcnn.data.sources.source import ArraySpec, Source, check_classes, gather
from jaxcnn.environment import usable_cores

_AHEAD = 2
"""Batches that are read at once, so that no thread waits for the last example of a batch."""

_PARTS, _LONGEST = 4, 64
"""Parts of a batch for each thread, and most examples in a part."""


_ALIGNMENT = 64
"""Bytes; `kMinAlign` of XLA's buffers on the CPU."""


class Prepare(Protocol):
    """Prepares one example on the host, such as `jaxcnn.data.RandomResizedCrop`; called from several threads."""

    def __call__(self, rng: np.random.Generator, example: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the prepared example; the same one for the same random numbers."""
        ...

    def spec(self, spec: Mapping[str, ArraySpec]) -> Mapping[str, ArraySpec]:
        """Returns shape and dtype of each entry of prepared examples, from those of the source."""
        ...


@runtime_checkable
class Reads(Protocol):
    """What a `Prepare` has that reads an example faster than the source, since it needs only a part."""

    def read(self, rng: np.random.Generator, source: Source, index: int) -> dict[str, np.ndarray]:
        """Returns the prepared example of an index."""
        ...


class Request(NamedTuple):
    """The examples of a batch.

    Attributes:
      indices: of the examples, in the order of the batch, shape (n,).
      prepare: reads and prepares the example of an index; None for no preparation.
      more: further entries of the batch, with the batch as their first axis.
    """

    indices: np.ndarray
    prepare: Callable[[int], dict[str, np.ndarray]] | None = None
    more: Mapping[str, np.ndarray] = MappingProxyType({})


def read(
    source: Source, spec: Mapping[str, ArraySpec], requests: Iterable[Request], workers: int
) -> Generator[dict[str, np.ndarray], None, None]:
    """Yields batches in the order of their requests, while threads read the examples of the next one.

    Threads suffice: the decoders of pictures and NumPy's copies let other threads run meanwhile.

    Args:
      source: the examples.
      spec: shape and dtype of each entry of an example, after its preparation, without None, and without the entries
        that `Request.more` adds.
      requests: which examples to read.
      workers: number of threads; 0 reads in the calling thread. The batches do not depend on it.

    Yields:
      Each entry with the batch as its first axis, as new arrays.

    Raises:
      ValueError: an example does not have the shape and dtype of the spec, or a label or a pixel of a mask is out of
        range.
    """
    if workers == 0:
        for request in requests:
            yield {**_checked(source, _read(source, spec, request)), **request.more}
        return
    waiting: deque[tuple[Request, dict[str, np.ndarray], list[Future[None]]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="jaxcnn reader")

    def next_batch() -> dict[str, np.ndarray]:
        request, batch, parts = waiting.popleft()
        for part in parts:
            part.result()
        return {**_checked(source, batch), **request.more}

    try:
        for request in requests:
            count = len(request.indices)
            batch, length = _empty(spec, count), min(math.ceil(count / (_PARTS * workers)), _LONGEST)
            parts = (slice(first, min(first + length, count)) for first in range(0, count, length))
            filled = [pool.submit(_fill, batch, source, spec, request, part) for part in parts]
            waiting.append((request, batch, filled))
            if len(waiting) == _AHEAD:
                yield next_batch()
        while waiting:
            yield next_batch()
    finally:
        pool.shutdown(cancel_futures=True)


def default_workers(source: Source) -> int:
    """Returns the number of threads that read a source: none for arrays in memory, otherwise one for each core.

    Args:
      source: any source; of one with an attribute `source`, such as a `Subset`, that one counts.
    """
    while not isinstance(source, Arrays) and hasattr(source, "source"):
        source = source.source  # pyright: ignore[reportAttributeAccessIssue]
    return 0 if isinstance(source, Arrays) else usable_cores()


def _empty(spec: Mapping[str, ArraySpec], count: int) -> dict[str, np.ndarray]:
    return {name: _aligned((count, *entry.shape), entry.dtype) for name, entry in spec.items()}


def _aligned(shape: Any, dtype: np.dtype) -> np.ndarray:
    """Returns an array that XLA uses on the CPU without a copy, for which its address must be a multiple of 64."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _read(source: Source, spec: Mapping[str, ArraySpec], request: Request) -> dict[str, np.ndarray]:
    """Reads a batch in the calling thread."""
    if request.prepare is None:
        batch = gather(source, request.indices)
        for name, values in batch.items():
            _check(name, values.shape[1:], values.dtype, spec[name])
        return batch
    batch = _empty(spec, len(request.indices))
    _fill(batch, source, spec, request, slice(0, len(request.indices)))
    return batch


def _fill(
    batch: Mapping[str, np.ndarray], source: Source, spec: Mapping[str, ArraySpec], request: Request, part: slice
) -> None:
    """Reads a part of a batch into its arrays."""
    indices = request.indices[part]
    if request.prepare is None:
        for name, values in gather(source, indices).items():
            # NumPy would repeat a smaller array, and convert another dtype.
            _check(name, values.shape[1:], values.dtype, spec[name])
            batch[name][part] = values
        return
    for place, index in enumerate(indices.tolist(), part.start):
        for name, value in request.prepare(index).items():
            _check(name, value.shape, value.dtype, spec[name])
            batch[name][place] = value


def _check(name: str, shape: tuple[int, ...], dtype: np.dtype, spec: ArraySpec) -> None:
    if (shape, dtype) != spec:
        raise ValueError(
            f"expected {name!r} of {spec.dtype} {spec.shape}, as the spec of the examples says, got {dtype} {shape}"
        )


def _checked(source: Source, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for name in ("label", "mask", "classes"):
        # What is on the device was checked on the way there: a look at it would wait for the device.
        if isinstance(batch.get(name), np.ndarray):
            check_classes(name, batch[name], source.class_names)
    return batch
