"""The zip archive of a checkpoint of torch: its entries, read piece by piece, with their checksums."""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from jaxcnn.interop.files.opened import OpenFile, unquoted
from jaxcnn.interop.files.paths import FileError, describe_file, is_keras_archive

# The directory of an archive takes some 70 bytes an entry, the pickle some 300 bytes a tensor.
_MAX_DIRECTORY = 2**22
_MAX_PICKLE = 2**24
# Every tensor of a packed storage unpacks all of it.
_MAX_SHARING = 16
PIECE = 2**20
"""How many bytes are read at once where values do not lie together."""


class Archive:
    """An archive that is open for reading.

    Args:
      path: the file.

    Attributes:
      path: the file.
      byte_order: "little" or "big", of the values.

    Raises:
      FileError: it is no archive of torch, is damaged, or its directory is longer than 4 MiB.
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
            raise FileError(f"{self._path_text} is a .keras file; see keras_file.read_keras for what can be read")
        self._entries = {entry.filename: entry for entry in entries}
        if len(self._entries) < len(entries):
            raise FileError(f"{self._path_text} is damaged: it has two entries of one name; download or copy it again")
        self._checked: set[str] = set()
        roots = [name.removesuffix("data.pkl") for name in self._entries if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise FileError(
                f"{self._path_text} is a zip archive, but no checkpoint of torch: expected one data.pkl, "
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
        """The path as errors have it."""
        return repr(str(self.path))

    @property
    def max_operations(self) -> int:
        """How many operations the pickle of the structure may have: a state dict takes some 50 for a tensor."""
        return 2**18 + 200 * len(self._entries)

    def pickle(self) -> bytes:
        """Returns the pickle of the structure, of at most 16 MiB."""
        return self._read("data.pkl", _MAX_PICKLE)

    def declare(self, key: str, elements: int, itemsize: int) -> None:
        """Compares what the structure says of a storage with its entry.

        Args:
          key: of the storage.
          elements: how many it has.
          itemsize: bytes of each.

        Raises:
          ValueError: the entry is missing, or shorter.
        """
        available = self._entry(f"data/{key}").file_size
        if elements * itemsize > available:
            raise ValueError(
                f"expected {elements} elements in data/{unquoted(key)}, got {available} bytes; the file is damaged"
            )

    def finish(self, tensors: dict[str, list[int]]) -> None:
        """Refuses packed storages that cost more to unpack than their tensors are large.

        Args:
          tensors: the bytes of every tensor by the key of its storage.

        Raises:
          ValueError: there is one.
        """
        for key, sizes in tensors.items():
            size = self._entry(f"data/{key}").file_size
            if self.packed(key) and size > sum(sizes):
                raise ValueError(
                    f"data/{key[:100]} is packed and holds {size} bytes for tensors of {sum(sizes)}; save the file "
                    "anew with torch.save"
                )
            if self.packed(key) and len(sizes) > _MAX_SHARING:
                raise ValueError(
                    f"data/{key[:100]} is packed and shared by {len(sizes)} tensors, expected at most {_MAX_SHARING}; "
                    "save the file anew with torch.save"
                )

    def packed(self, key: str) -> bool:
        """Says whether a storage is packed, so that all of it is unpacked for any part of it."""
        return self._entry(f"data/{key}").compress_type != zipfile.ZIP_STORED

    def fill(self, key: str, buffer: Any, start: int) -> None:
        """Reads a part of a storage. The first time, its checksum is verified, which reads all of it.

        Args:
          key: of the storage.
          buffer: uint8 array, as long as the part.
          start: of the part in the storage, in bytes.

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
        # torch can save without checksums; it then writes zero.
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
        """Yields the bytes of an entry, unpacked."""
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
        """Returns where the bytes of an entry begin, after a header of its own."""
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise FileError(
                f"{self._path_text} is packed by method {entry.compress_type}; expected stored or deflated entries"
            )
        header = self._file.read(entry.header_offset, 30)
        if header[:4] != b"PK\x03\x04" or entry.flag_bits & 1:
            raise self._damaged(name)
        # The lengths of name and padding in the entry's own header differ from those in the directory.
        begin = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
        if begin + entry.compress_size > self._file.size:
            raise self._damaged(name)
        return begin

    def _damaged(self, name: str) -> FileError:
        return FileError(f"{self._path_text} is damaged at {unquoted(name)}; download or copy it again")

    def _not_a_checkpoint(self) -> str:
        """Says why a file that is no zip archive is none."""
        words = describe_file(self.path)
        if words == "a zip archive":
            return f"{self._path_text} is cut short or damaged; download or copy it again"
        return f"read_torch expects a file as torch.save writes it, but {self._path_text} is {words}"


class _Directory(io.FileIO):
    """The file as `zipfile` reads it, which takes the directory of an archive at once and makes an object an entry."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_DIRECTORY:
            raise zipfile.BadZipFile(f"a directory of {size} bytes; expected at most {_MAX_DIRECTORY}")
        return super().read(size)
