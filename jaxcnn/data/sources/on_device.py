"""Examples in the memory of the device."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.dtypes import canonicalize_dtype

from jaxcnn.data.sources.arrays import Arrays
from jaxcnn.data.sources.source import ArraySpec, check_classes


@dataclasses.dataclass(frozen=True, eq=False)
class OnDevice:
    """A source in the memory of the default device: only the indices of a batch go there, and nothing is copied back.

    Its batches are arrays of JAX with the same values as those of the source.

    Args:
      source: the examples in host memory.

    Raises:
      ValueError: a label or a pixel of a mask is out of range.
    """

    source: Arrays

    def __post_init__(self) -> None:
        for name in ("label", "mask"):
            if name in self.source.entries:
                check_classes(name, self.source.entries[name], self.source.class_names)

    @property
    def spec(self) -> Mapping[str, ArraySpec]:
        """That of the source, in the dtypes of the device: without `jax_enable_x64`, it has no numbers of 64 bits."""
        return self._spec

    @functools.cached_property
    def _spec(self) -> Mapping[str, ArraySpec]:
        spec = self.source.spec
        return {name: ArraySpec(entry.shape, canonicalize_dtype(entry.dtype)) for name, entry in spec.items()}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the source."""
        return self.source.class_names

    @property
    def fingerprint(self) -> str:
        """That of the source."""
        return self.source.fingerprint

    @functools.cached_property
    def _entries(self) -> dict[str, jax.Array]:
        return jax.device_put(dict(self.source.entries))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        spec = self.spec
        return {name: value.astype(spec[name].dtype, copy=False) for name, value in self.source[index].items()}

    def gather(self, indices: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
        """Gathers entries of several examples on the device."""
        return _gather({name: self._entries[name] for name in names}, indices.astype(np.int32))


@jax.jit
def _gather(entries: dict[str, jax.Array], indices: jax.Array) -> dict[str, jax.Array]:
    # Without a check of each index: they come from the length of the source.
    return {name: entry.at[indices].get(mode="promise_in_bounds") for name, entry in entries.items()}
