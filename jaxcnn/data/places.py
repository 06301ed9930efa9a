"""Where the examples of a training are while it runs: on the device, in host memory, or where they are stored."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax

from jaxcnn.data.sources.on_device import OnDevice
from jaxcnn.data.sources.source import Source
from jaxcnn.data.splits import in_memory
from jaxcnn.environment import memory_bytes
from jaxcnn.text import readable_bytes

Where: TypeAlias = Literal["device", "memory", "stream"]
"""In the memory of the device; in host memory; or read from the source whenever they are used."""

_SHARE = 10
"""A set goes into a memory if it takes at most one part in so many of it."""


class Place(NamedTuple):
    """Where examples are while a model trains.

    Attributes:
      where: on the device, in memory, or in their source.
      reason: why, for a person.
    """

    where: Where
    reason: str


def choose_place(sources: Sequence[Source], *, prepared: bool = False) -> Place:
    """Chooses where examples are while a model trains. The batches are the same everywhere.

    A set on the device costs no transfer and no work of the host. A set in memory is read and decoded once instead of
    in every epoch.

    Args:
      sources: the parts of a set that are used in every epoch.
      prepared: whether the host prepares each example (`Batches(prepare=...)`).

    Returns:
      The fastest place that is large enough: a set takes at most a tenth of the memory there.
    """
    if prepared:
        return Place("stream", "the host prepares each example")
    if any(None in entry.shape for source in sources for entry in source.spec.values()):
        return Place("stream", "the examples differ in size")
    size, host, device = sum(map(_bytes, sources)), memory_bytes(), _device_bytes()
    if size * _SHARE <= min(host, device):
        return Place("device", f"they take {readable_bytes(size)} of its {readable_bytes(device)}")
    if size * _SHARE <= host:
        return Place("memory", f"they take {readable_bytes(size)} of {readable_bytes(host)}")
    return Place("stream", f"in memory they would take {readable_bytes(size)} of {readable_bytes(host)}")


def put(source: Source, where: Where, *, workers: int | None = None) -> Source:
    """Puts examples where they are used.

    Args:
      source: the examples.
      where: "stream" leaves them as they are.
      workers: number of threads that read them, at least 0; None for as many as suit the source.

    Returns:
      The same examples.

    Raises:
      ValueError: there is no such place, the examples differ in size, or a label or a pixel of a mask is out of range.
    """
    if where not in get_args(Where):
        raise ValueError(f"expected one of the places {', '.join(get_args(Where))}, got {where!r}")
    if where == "stream":
        return source
    arrays = in_memory(source, workers=workers)
    return OnDevice(arrays) if where == "device" else arrays


def _bytes(source: Source) -> int:
    shapes: Any = [entry.shape for entry in source.spec.values()]
    return len(source) * sum(
        math.prod(shape) * entry.dtype.itemsize for shape, entry in zip(shapes, source.spec.values(), strict=True)
    )


def _device_bytes() -> int:
    """Returns the memory of the default device, which is that of the host where the device does not tell."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit", memory_bytes())
