"""Tensors that are read when their values are needed, as the readers return them."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np


class Tensor(Protocol):
    """A tensor of a file: each call of `numpy.asarray(tensor)` reads its values.

    Attributes:
      shape: its shape, in the file's order of axes.
      dtype: the numpy dtype of its values.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, in the file's order of axes."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """The numpy dtype of the values, in the machine's byte order."""
        ...

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads the values into a new array."""
        ...

    def rows(self, start: int, stop: int, /) -> np.ndarray:
        """Reads a part along the first axis into a new array."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class LazyTensor:
    """A `Tensor` that is read by functions.

    Args:
      shape: its shape.
      dtype: the numpy dtype of its values.
      read: returns a new array of that shape and dtype.
      rows: given start and stop, returns that part of the first axis as a new array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray] = dataclasses.field(repr=False)
    rows: Callable[[int, int], np.ndarray] = dataclasses.field(repr=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads the values.

        Args:
          dtype: another numpy dtype to cast the values to.
          copy: as numpy passes it; False is refused, because the values of a file are always copied.

        Returns:
          A new array, shape `shape`.

        Raises:
          ValueError: `copy` is False, or the values cannot be read.
        """
        if copy is False:
            raise ValueError("a tensor of a file expects copy=True or None, since reading copies, got copy=False")
        values = self.read()
        return values if dtype is None else values.astype(dtype, copy=False)


def swap_bytes(values: np.ndarray) -> None:
    """Swaps the bytes of every number of an array in place, also for dtypes that are not NumPy's own.

    Args:
      values: the array.
    """
    known = values if values.dtype.kind != "V" else values.view(f"u{values.itemsize}")
    known.byteswap(inplace=True)
