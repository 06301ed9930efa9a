"""Reads darknet's `.weights` files: a header, and all numbers in the order of the layers, without names or shapes."""

import os
import struct

import numpy as np

from jaxcnn.interop.files.paths import FileError, describe_file, existing_file

_VERSION = struct.Struct("<iii")
_LARGEST_VERSION = 1000


def read_darknet(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads the numbers of a file; the file is mapped into memory, so do not overwrite it in place.

    The header holds three numbers of a version, and the number of images seen in training: 8 bytes from version 0.2 on,
    and 4 before (`load_weights_upto` in darknet's parser.c).

    Args:
      path: the file.

    Returns:
      float32, one axis.

    Raises:
      FileNotFoundError: the file does not exist.
      FileError: it is too short for a header, has another format, or ends within a number.
    """
    path = existing_file(path)
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(_VERSION.size)
    if len(head) < _VERSION.size:
        raise FileError(f"expected a .weights file of darknet, got {size} bytes in {str(path)!r}; it is {_what(path)}")
    major, minor, _ = _VERSION.unpack(head)
    if not (0 <= major < _LARGEST_VERSION and 0 <= minor < _LARGEST_VERSION):
        raise FileError(
            f"expected a .weights file of darknet, which begins with a version such as 0.2, got {major}.{minor} in "
            f"{str(path)!r}; it is {_what(path)}"
        )
    start = _VERSION.size + (8 if 10 * major + minor >= 2 else 4)
    if size < start or (size - start) % 4:
        raise FileError(
            f"expected a header of {start} bytes and numbers of 4 bytes each, got {size} bytes in {str(path)!r}; the "
            "file is cut off or damaged: download it again"
        )
    if size == start:
        return np.empty(0, np.float32)
    return np.memmap(path, "<f4", "r", start)


def _what(path: os.PathLike[str]) -> str:
    return describe_file(existing_file(path))
