"""Reads the formats that image sets are published in: CIFAR's binary records, IDX, and arrays of MATLAB 5.

Nothing is unpickled, and no archive is unpacked to the disk.
"""

import gzip
import math
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

_CIFAR_SHAPE = (3, 32, 32)

_MATLAB_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Data types of MATLAB 5 files (MAT-File Format, table 1-1)."""

_MATRIX, _COMPRESSED = 14, 15
_NUMERIC_CLASSES = range(6, 16)


class ArchiveError(ValueError):
    """An archive lacks a file, or a file in it has another format. The message names the file."""


def read_cifar(archive: Path, parts: Mapping[str, Sequence[str]], labels: int) -> dict[str, dict[str, np.ndarray]]:
    """Reads the binary version of CIFAR-10 or CIFAR-100 (https://www.cs.toronto.edu/~kriz/cifar.html).

    Args:
      archive: the .tar.gz file.
      parts: for each part, the names of its files in the archive, without folders.
      labels: number of label bytes before each image; 1, or 2 for coarse and fine labels.

    Returns:
      For each part, "image", uint8, shape (examples, 32, 32, 3), and "labels", uint8, shape (examples, labels).

    Raises:
      ArchiveError: a file is missing, or its size is no whole number of records.
    """
    names = [name for part in parts.values() for name in part]
    files = _tar_members(archive, names)
    found = {}
    for part, members in parts.items():
        length = labels + math.prod(_CIFAR_SHAPE)
        for name in members:
            if not files[name] or len(files[name]) % length:
                raise ArchiveError(
                    f"expected records of {length} bytes in {name} of {str(archive)!r}, got {len(files[name])} bytes"
                )
        records = np.frombuffer(b"".join(files[name] for name in members), np.uint8).reshape(-1, length)
        images = records[:, labels:].reshape(-1, *_CIFAR_SHAPE).transpose(0, 2, 3, 1)
        found[part] = {"image": np.ascontiguousarray(images), "labels": records[:, :labels].copy()}
    return found


def read_names(archive: Path, name: str) -> tuple[str, ...]:
    """Reads a list of class names from an archive.

    Args:
      archive: a .tar.gz file.
      name: of the text file in it, with a class in each line, without folders.

    Returns:
      The names.

    Raises:
      ArchiveError: the file is missing.
    """
    lines = _tar_members(archive, [name])[name].decode().splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def read_idx(file: IO[bytes], name: str, rank: int) -> np.ndarray:
    """Reads an array of bytes in the IDX format of MNIST (http://yann.lecun.com/exdb/mnist).

    Args:
      file: the file, open for reading, compressed by gzip.
      name: what it is called in errors.
      rank: its number of axes.

    Returns:
      The array, uint8.

    Raises:
      ArchiveError: the file is not in this format, or its size does not match its header.
    """
    try:
        with gzip.open(file) as opened:
            content = opened.read()
    except (OSError, EOFError, zlib.error) as error:
        raise ArchiveError(f"expected a file compressed by gzip in {name}, got: {error}") from error
    header = 4 + 4 * rank
    if content[:4] != bytes([0, 0, 8, rank]) or len(content) < header:
        raise ArchiveError(f"expected an IDX file of bytes with {rank} axes in {name}, got {content[:4]!r} first")
    shape = struct.unpack(f">{rank}I", content[4:header])
    if math.prod(shape) != len(content) - header:
        raise ArchiveError(f"expected {math.prod(shape):,} values in {name}, got {len(content) - header:,}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def open_zipped(archive: Path, name: str) -> IO[bytes]:
    """Opens a file of a zip archive.

    Args:
      archive: the zip file.
      name: of the file in it, without folders.

    Returns:
      The file, open for reading.

    Raises:
      ArchiveError: it is not there, or the archive is damaged.
    """
    try:
        opened = zipfile.ZipFile(archive)
        [member] = [entry for entry in opened.namelist() if Path(entry).name == name]
        return opened.open(member)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ArchiveError(f"expected one file {name} in the zip archive {str(archive)!r}: {error}") from error


def read_matlab(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads numeric arrays from a file of MATLAB 5 (MathWorks, MAT-File Format), as SVHN is published in.

    Args:
      path: the .mat file, little endian.
      names: of the arrays; others are skipped.

    Returns:
      The arrays by name.

    Raises:
      ArchiveError: an array is missing, or the file is not in this format.
    """
    content = path.read_bytes()
    if content[124:128] != b"\x00\x01IM":
        raise ArchiveError(f"expected a file of MATLAB 5, little endian, in {str(path)!r}, got {content[:20]!r} first")
    found = {}
    try:
        for kind, data in _elements(content[128:]):
            if kind == _COMPRESSED:
                [(kind, data)] = _elements(zlib.decompress(data))
            if kind == _MATRIX:
                found |= _matrix(data, names)
    except (ValueError, struct.error, zlib.error, KeyError) as error:
        raise ArchiveError(f"expected numeric arrays of MATLAB 5 in {str(path)!r}, got damage: {error}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise ArchiveError(f"expected arrays {', '.join(names)} in {str(path)!r}, got none for {', '.join(missing)}")
    return found


def _tar_members(archive: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Reads files of a .tar.gz archive into memory, in one pass."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r|gz") as opened:
            for member in opened:
                name = Path(member.name).name
                if member.isreg() and name in names and name not in found:
                    file = opened.extractfile(member)
                    found[name] = file.read() if file else b""
                if len(found) == len(names):
                    break
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ArchiveError(f"expected a .tar.gz archive, got {str(archive)!r}: {error}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise ArchiveError(f"expected {', '.join(missing)} in {str(archive)!r}, got no such file")
    return found


def _elements(content: bytes) -> list[tuple[int, bytes]]:
    """Splits data into elements: their types and their data."""
    found, start = [], 0
    while start + 8 <= len(content):
        kind, size = struct.unpack_from("<II", content, start)
        if kind >> 16:  # at most four bytes, which stand where the size would be
            kind, size, first, end = kind & 0xFFFF, kind >> 16, start + 4, start + 8
        else:
            first = start + 8
            end = first + size + (0 if kind == _COMPRESSED else -size % 8)
        if first + size > len(content):
            raise ValueError(f"an element of {size} bytes ends after the file")
        found.append((kind, content[first : first + size]))
        start = end
    return found


def _matrix(content: bytes, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads an array if it is one of the names."""
    (_, flags), (_, sizes), (_, name), *parts = _elements(content)
    if name.decode("latin-1") not in names:
        return {}
    if flags[0] not in _NUMERIC_CLASSES or len(parts) != 1:
        raise ValueError(f"{name.decode('latin-1')} is not an array of real numbers")
    kind, data = parts[0]
    shape = np.frombuffer(sizes, "<i4")
    return {name.decode("latin-1"): np.frombuffer(data, f"<{_MATLAB_TYPES[kind]}").reshape(shape, order="F")}
