"""Reads the format of torch before 1.6, which some of torchvision's files still have: pickles, then storages.

The pickles are a magic number, the version of the format, the type of machine, the structure, and the keys of the
storages in their order. Each storage is the number of elements in 8 bytes, then the values. There are no checksums.
Source: the function `_legacy_save` of torch 2.13.
"""

import io
import os
import pickletools
from typing import Any, Literal

from jaxcnn.interop.files.opened import OpenFile, unquoted
from jaxcnn.interop.files.restricted_pickle import unpickle

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_MAX_PICKLES = 2**24
_MAX_OPERATIONS = 2**18


class LegacyFile:
    """An open file in the older format, with the methods of `torch_archive.Archive`.

    Args:
      path: the file.

    Attributes:
      path: the file.
      byte_order: "little" or "big", of the values.

    Raises:
      ValueError: the file has another format, or its pickles exceed 16 MiB or 262,144 operations.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = OpenFile(path)
        self.path = self._file.path
        stream = io.BytesIO(self._file.read(0, min(self._file.size, _MAX_PICKLES)))
        magic, version, machine = (_plain(_next_pickle(stream)) for _ in range(3))
        if (magic, version) != (_MAGIC, _VERSION) or not isinstance(machine, dict):
            raise ValueError(f"expected a file of torch's version {_VERSION}, got {version!r:.100}")
        self.byte_order: Literal["little", "big"] = "little" if machine.get("little_endian") else "big"
        self._structure = _next_pickle(stream)
        self._keys = _plain(_next_pickle(stream))
        self._begin = stream.tell()
        self._declared: dict[str, tuple[int, int]] = {}
        self._places: dict[str, int] = {}

    @property
    def max_operations(self) -> int:
        """The largest number of operations in the pickle of the structure."""
        return _MAX_OPERATIONS

    def pickle(self) -> bytes:
        """Returns the pickle of the structure."""
        return self._structure

    def declare(self, key: str, elements: int, itemsize: int) -> None:
        """Records the declared size of a storage."""
        if self._declared.setdefault(key, (elements, itemsize)) != (elements, itemsize):
            raise ValueError(f"storage {unquoted(key)} has two sizes; the file is damaged")

    def finish(self, tensors: dict[str, list[int]]) -> None:
        """Finds the storages, after all are declared."""
        del tensors
        if not isinstance(self._keys, list) or sorted(map(str, self._keys)) != sorted(self._declared):
            raise ValueError("the keys of the storages do not match the structure; the file is damaged")
        at = self._begin
        for key in self._keys:
            elements, itemsize = self._declared[key]
            stored = int.from_bytes(self._file.read(at, 8), self.byte_order)
            if stored != elements:
                raise ValueError(
                    f"expected {elements} elements in storage {unquoted(key)}, got {stored}; it is damaged"
                )
            self._places[key] = at + 8
            at += 8 + elements * itemsize
        if at > self._file.size:
            raise ValueError("the file is truncated; download or copy it again")

    def packed(self, key: str) -> bool:
        """Returns False: no storage is compressed."""
        del key
        return False

    def fill(self, key: str, buffer: Any, start: int) -> None:
        """Reads a part of a storage; see `torch_archive.Archive.fill`."""
        self._file.fill(buffer, self._places[key] + start)


def _next_pickle(stream: io.BytesIO) -> bytes:
    """Returns the bytes of the next pickle."""
    start = stream.tell()
    for count, _ in enumerate(pickletools.genops(stream)):
        if count >= _MAX_OPERATIONS:
            raise ValueError(f"a pickle has more than {_MAX_OPERATIONS} operations, more than weights need")
    return stream.getbuffer()[start : stream.tell()].tobytes()


def _plain(pickle: bytes) -> Any:
    """Reads a pickle of numbers and strings."""

    def refuse(*_: Any) -> Any:
        raise ValueError("the pickle calls a function; the file is damaged")

    return unpickle(pickle, max_operations=_MAX_OPERATIONS, allowed=(), call=refuse, load_persistent=refuse)
