"""Open files of weights: they are read in pieces, and every fault of a file is one kind of error.

A file is not mapped into memory: if another program truncates a mapped file, the process that reads it is killed.
"""

import contextlib
import json
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxcnn.interop.files.paths import FileError, existing_file
from jaxcnn.text import printable

MAX_JSON = 2**22
"""Largest size of JSON in bytes: the largest models have some hundred kB, and each byte may take 30 of memory."""


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns the errors of a decoder into `FileError`.

    Args:
      path: the file, for the text of the error.

    Raises:
      FileError: the block failed, other than by a missing file or package.
    """
    try:
        yield
    except (FileError, FileNotFoundError, IsADirectoryError, ImportError):
        raise
    except PermissionError as error:
        raise FileError(f"{os.fspath(path)!r} cannot be read: {error.strerror}; change its permissions") from error
    # Damaged bytes can fail anywhere in a decoder: too deep, too large, of a wrong type, out of range.
    except Exception as error:
        reason = unquoted(f"{type(error).__name__}: {error}", 200)
        raise FileError(
            f"{os.fspath(path)!r} cannot be read, and is probably damaged; download or copy it again ({reason})"
        ) from error


class OpenFile:
    """A regular file that is open for reading as long as the object exists.

    Args:
      path: the file, also for the text of errors.
      file: the open file, if it has no name of its own; None to open `path`.

    Attributes:
      path: the file.
      size: its size in bytes when it was opened.
      file: the open file itself.
    """

    def __init__(self, path: str | os.PathLike[str], file: BinaryIO | None = None) -> None:
        self.path = Path(path) if file else existing_file(path)
        self.file = file or open(self.path, "rb", buffering=0)  # noqa: SIM115
        self.size = os.fstat(self.file.fileno()).st_size
        self._lock = threading.Lock()
        weakref.finalize(self, self.file.close)

    def fill(self, buffer: Any, offset: int) -> None:
        """Reads as many bytes as a buffer has.

        Args:
          buffer: contiguous and writable.
          offset: of the first byte in the file.

        Raises:
          FileError: the file ends before.
        """
        rest = memoryview(buffer).cast("B")
        with self._lock:
            self.file.seek(offset)
            while len(rest):
                count = self.file.readinto(rest)  # pyright: ignore[reportAttributeAccessIssue]
                if not count:
                    raise FileError(f"{str(self.path)!r} is truncated or damaged; download or copy it again")
                rest = rest[count:]

    def read(self, offset: int, size: int) -> bytes:
        """Reads some bytes.

        Args:
          offset: of the first one in the file.
          size: number of bytes; all of them are held in memory.

        Returns:
          The bytes.

        Raises:
          FileError: the file ends before.
        """
        if not 0 <= offset <= offset + size <= self.size:
            raise FileError(f"{str(self.path)!r} is truncated or damaged; download or copy it again")
        buffer = bytearray(size)
        self.fill(buffer, offset)
        return bytes(buffer)

    def array(self, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Reads an array whose values lie together, in little-endian order.

        Args:
          offset: of the first byte in the file.
          shape: of the array.
          dtype: of the array, in the machine's byte order.

        Returns:
          A new array.

        Raises:
          FileError: the file ends before.
        """
        values = np.empty(shape, dtype)
        if values.size:
            self.fill(values.reshape(-1).view(np.uint8), offset)
        return values


def parse_json(text: bytes) -> Any:
    """Parses JSON of a bounded size.

    Args:
      text: in UTF-8.

    Returns:
      The value.

    Raises:
      ValueError: it is not JSON, or too long.
      RecursionError: it is nested too deeply.
    """
    if len(text) > MAX_JSON:
        raise ValueError(f"expected at most {MAX_JSON} bytes of JSON, got {len(text)}")
    return json.loads(text.decode("utf-8"))


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a file of JSON.

    Args:
      path: the file.

    Returns:
      The value.

    Raises:
      FileNotFoundError: the file does not exist.
      FileError: it is not JSON, nested too deeply, or longer than 4 MiB.
    """
    file = OpenFile(path)
    if file.size > MAX_JSON:
        raise FileError(f"{str(file.path)!r} has {file.size} bytes; expected at most {MAX_JSON} of JSON")
    try:
        return parse_json(file.read(0, file.size))
    except (ValueError, RecursionError) as error:
        raise FileError(f"{str(file.path)!r} is no JSON: {str(error)[:200]}; download it again") from error


def shown(value: Any) -> str:
    """Formats a value of a file for an error, shortened if it is long.

    Args:
      value: a text or a number.

    Returns:
      Its `repr`, of at most 100 characters.
    """
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def unquoted(name: object, limit: int = 100) -> str:
    """Formats a name in a file for an error, without quotes.

    Args:
      name: the name.
      limit: largest number of characters.

    Returns:
      The name in one line of printable characters, shortened if it is long.
    """
    text = printable(str(name)[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def few(names: Sequence[str], most: int = 5) -> str:
    """Lists names in a file for an error.

    Args:
      names: the names.
      most: largest number of names to list.

    Returns:
      The first names, and the number of the others.
    """
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(unquoted, names[:most])) + rest
