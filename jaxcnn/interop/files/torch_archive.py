"""Reads the zip archive of a torch checkpoint in pieces, and verifies its checksums."""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from jaxcnn.interop.files.opened import OpenFile, unquoted
from jaxcnn.interop.files.paths import FileError, describe_file, is_keras_archive

# Limits on the directory of an archive and on the pickle, in bytes; both are larger than any model needs.
_MAX_DIRECTORY = 2**22
_MAX_PICKLE = 2**24
# Reading any tensor of a compressed storage decompresses all of it.
_MAX_SHARING = 16
PIECE = 2**20
"""The number of bytes that are read at once if values are not contiguous."""


class Archive:
    """An open archive.

    Args:
      path: the file.

    Attributes:
      path: the file.
      byte_order: "little" or "big", of the values.

    Raises:
      FileError: the file is not an archive of torch, is damaged, or its directory is longer than 4 MiB.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = OpenFile(path)
        self.path = self._file.path
        try:
            with _Directory(self._file.file.fileno(), closefd=False) as file, zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                keras = is_keras_archive(archive)
        except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, OverflowError, struct.error) as error:
            raise FileError(self._not_a_checkpoint()) from error
        if keras:
            raise FileError(f"{self._path_text} is a .keras file; see keras_file.read_keras for the supported formats")
        self._entries = {entry.filename: entry for entry in entries}
        if len(self._entries) < len(entries):
            raise FileError(f"{self._path_text} is damaged: it has two entries of one name; download or copy it again")
        self._checked: set[str] = set()
        roots = [name.removesuffix("data.pkl") for name in self._entries if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise FileError(
                f"{self._path_text} is a zip archive, but not a checkpoint of torch: expected one data.pkl, "
                f"got {len(roots)}"
            )
        self._root = roots[0]
        if self._root + "constants.pkl" in self._entries:
            raise FileError(
                f"{self._path_text} is a TorchScript program; expected a state dict: save "
                "torch.jit.load(path).state_dict() with torch.save"
            )
        self.byte_order = "little"
        if self._root + "byteorder" in self._entries:
            self.byte_order = self._read("byteorder", 16).decode("ascii", "replace")
            if self.byte_order not in ("little", "big"):
                raise FileError(
                    f"{self._path_text} is damaged: expected byte order 'little' or 'big', got {self.byte_order!r}"
                )

    @property
    def _path_text(self) -> str:
        """The path in error messages."""
        return repr(str(self.path))

    @property
    def max_operations(self) -> int:
        """The largest number of operations in the pickle of the structure."""
        return 2**18 + 200 * len(self._entries)

    def pickle(self) -> bytes:
        """Returns the pickle of the structure, of at most 16 MiB."""
        return self._read("data.pkl", _MAX_PICKLE)

    def declare(self, key: str, elements: int, itemsize: int) -> None:
        """Checks the declared size of a storage against its entry.

        Args:
          key: key of the storage.
          elements: number of its elements.
          itemsize: bytes of an element.

        Raises:
          ValueError: the entry is missing or too short.
        """
        available = self._entry(f"data/{key}").file_size
        if elements * itemsize > available:
            raise ValueError(
                f"expected {elements} elements in data/{unquoted(key)}, got {available} bytes; the file is damaged"
            )

    def finish(self, tensors: dict[str, list[int]]) -> None:
        """Refuses compressed storages that are larger than their tensors or shared by too many.

        Args:
          tensors: the size of every tensor in bytes, by the key of its storage.

        Raises:
          ValueError: there is such a storage.
        """
        for key, sizes in tensors.items():
            size = self._entry(f"data/{key}").file_size
            if self.packed(key) and size > sum(sizes):
                raise ValueError(
                    f"data/{key[:100]} is compressed and holds {size} bytes for tensors of {sum(sizes)}; save the file "
                    "again with torch.save"
                )
            if self.packed(key) and len(sizes) > _MAX_SHARING:
                raise ValueError(
                    f"data/{key[:100]} is compressed and has {len(sizes)} tensors, expected at most {_MAX_SHARING}; "
                    "save the file again with torch.save"
                )

    def packed(self, key: str) -> bool:
        """Returns whether a storage is compressed: then reading any part decompresses all of it."""
        return self._entry(f"data/{key}").compress_type != zipfile.ZIP_STORED

    def fill(self, key: str, buffer: Any, start: int) -> None:
        """Reads a part of a storage. The first read verifies the checksum of the whole storage.

        Args:
          key: key of the storage.
          buffer: uint8 array of the size of the part.
          start: offset of the part in the storage, in bytes.

        Raises:
          FileError: the storage is damaged.
        """
        self._fill(f"data/{key}", buffer, start)

    def _entry(self, name: str) -> zipfile.ZipInfo:
        if self._root + name not in self._entries:
            raise FileError(f"{self._path_text} is damaged: it lacks {unquoted(name)}")
        return self._entries[self._root + name]

    def _read(self, name: str, limit: int) -> bytes:
        size = self._entry(name).file_size
        if size > limit:
            raise FileError(f"{self._path_text} has a {unquoted(name)} of {size} bytes; expected at most {limit}")
        buffer = bytearray(size)
        self._fill(name, memoryview(buffer), 0)
        return bytes(buffer)

    def _fill(self, name: str, buffer: Any, start: int) -> None:
        entry = self._entry(name)
        stored = entry.compress_type == zipfile.ZIP_STORED
        # torch can save without checksums: then they are zero.
        if stored and (name in self._checked or not entry.CRC) and entry.compress_size == entry.file_size:
            self._file.fill(buffer, self._begin(name, entry) + start)
            return
        position, checksum, end = 0, 0, start + len(buffer)
        for piece in self._pieces(name, entry):
            checksum = zlib.crc32(piece, checksum)
            low, high = max(start, position), min(end, position + len(piece))
            if low < high:
                buffer[low - start : high - start] = memoryview(piece)[low - position : high - position]
            position += len(piece)
            if position > entry.file_size:
                break
        if position != entry.file_size or (entry.CRC and checksum != entry.CRC):
            raise self._damaged(name)
        self._checked.add(name)

    def _pieces(self, name: str, entry: zipfile.ZipInfo) -> Iterator[bytes]:
        """Yields the decompressed bytes of an entry."""
        begin, end = self._begin(name, entry), self._begin(name, entry) + entry.compress_size
        unpack = zlib.decompressobj(-zlib.MAX_WBITS)
        for at in range(begin, end, PIECE):
            data = self._file.read(at, min(PIECE, end - at))
            if entry.compress_type == zipfile.ZIP_STORED:
                yield data
                continue
            try:
                while data and not unpack.eof:
                    yield unpack.decompress(data, PIECE)
                    data = unpack.unconsumed_tail
            except zlib.error as error:
                raise self._damaged(name) from error

    def _begin(self, name: str, entry: zipfile.ZipInfo) -> int:
        """Returns the offset of the bytes of an entry, after its local header."""
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise FileError(
                f"{self._path_text} is compressed by method {entry.compress_type}; expected stored or deflated entries"
            )
        header = self._file.read(entry.header_offset, 30)
        if header[:4] != b"PK\x03\x04" or entry.flag_bits & 1:
            raise self._damaged(name)
        # The lengths of name and padding in the local header differ from those in the directory.
        begin = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
        if begin + entry.compress_size > self._file.size:
            raise self._damaged(name)
        return begin

    def _damaged(self, name: str) -> FileError:
        return FileError(f"{self._path_text} is damaged at {unquoted(name)}; download or copy it again")

    def _not_a_checkpoint(self) -> str:
        """Describes a file that is not a zip archive."""
        words = describe_file(self.path)
        if words == "a zip archive":
            return f"{self._path_text} is truncated or damaged; download or copy it again"
        return f"read_torch expects a file written by torch.save, but {self._path_text} is {words}"


class _Directory(io.FileIO):
    """The file for `zipfile`, with a limit on the directory, since `zipfile` makes an object for each entry."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_DIRECTORY:
            raise zipfile.BadZipFile(f"a directory of {size} bytes; expected at most {_MAX_DIRECTORY}")
        return super().read(size)
