"""Paths of weight files: what is there, what it seems to be, and writing that happens whole or not at all."""

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

ZIP = "a zip archive"
HDF5 = "an HDF5 file; if it is one of Keras, read it with keras_file.read_keras"
SAFETENSORS = "a safetensors file; read it with safetensors_file.read_safetensors"
BEFORE_1_6 = "a file of torch before 1.6; read it with torch_file.read_torch"
"""What `describe_file` says of files that there are readers for."""

# How files begin that are taken for weights.
_BEGINNINGS = (
    (b"PK\x03\x04", ZIP),
    (b"\x89HDF\r\n\x1a\n", HDF5),
    (b"version https://git-lfs", "a pointer of Git LFS, which stands for the file itself; run `git lfs pull`"),
    (b"<", "a web page, as a failed download leaves it; download the file again"),
    (b"\x1f\x8b", "a gzip file; unpack it first"),
    (b"\x80\x02\x8a\x0a", BEFORE_1_6),
)


class FileError(ValueError):
    """A file of weights is damaged, of another format, or beyond a limit of its reader. The text names the file."""


def existing_file(path: str | os.PathLike[str]) -> Path:
    """Checks that a file of weights is there.

    Args:
      path: the file.

    Returns:
      The path.

    Raises:
      FileNotFoundError: there is nothing.
      IsADirectoryError: there is a folder.
      FileError: there is a device, a pipe or a socket, which might never end.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"expected a file of weights, got the folder {str(path)!r}")
    if not path.exists():
        raise FileNotFoundError(f"there is no file of weights {str(path)!r}")
    if not path.is_file():
        raise FileError(f"expected a file of weights, got {str(path)!r}, which is a device, a pipe or a socket")
    return path


def describe_file(path: Path) -> str:
    """Says in words what a file seems to be, by its first bytes, for the error of a reader that expected another.

    Args:
      path: an existing file.

    Returns:
      Words that complete "this is ...".
    """
    with open(path, "rb") as file:
        head = file.read(64)
    if not head:
        return "an empty file"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return SAFETENSORS
    for beginning, words in _BEGINNINGS:
        if head.startswith(beginning):
            return words
    return f"a file that begins with {head[:8]!r}"


def is_keras_archive(archive: zipfile.ZipFile) -> bool:
    """Tells whether a zip archive is a `.keras` file."""
    return {"config.json", "model.weights.h5"} <= set(archive.namelist())


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a file for writing that takes its name when the block ends well, and leaves nothing when it does not.

    It is written beside `path`, brought to the disk and renamed, so that `path` always holds the older file or the
    complete new one.

    Args:
      path: where the file is to be; its folder exists.

    Yields:
      The file, open for binary writing.

    Raises:
      FileNotFoundError: the folder is not there.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder of {str(path)!r} does not exist; create it first")
    # Not by tempfile, whose files only their owner may read.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield cast(BinaryIO, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Brings a rename to the disk, where the system can open folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
