"""Paths of weight files: what is there, what it seems to be, and writing that happens whole or not at all."""

import os
import zipfile
from pathlib import Path

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
        if path.is_symlink():
            raise FileNotFoundError(f"{str(path)!r} is a link to a file that is not there; download or copy the file")
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
