"""Checks the paths of weight files, and recognises their formats."""

import os
import zipfile
from pathlib import Path

ZIP = "a zip archive"
HDF5 = "an HDF5 file; if it is one of Keras, read it with keras_file.read_keras"
SAFETENSORS = "a safetensors file; read it with safetensors_file.read_safetensors"
BEFORE_1_6 = "a file of torch before 1.6; read it with torch_file.read_torch"
"""Descriptions of the formats that have a reader."""

# First bytes of files that are often mistaken for weights, and their descriptions.
_BEGINNINGS = (
    (b"PK\x03\x04", ZIP),
    (b"\x89HDF\r\n\x1a\n", HDF5),
    (b"version https://git-lfs", "a Git LFS pointer instead of the file itself; run `git lfs pull`"),
    (b"<", "a web page, probably from a failed download; download the file again"),
    (b"\x1f\x8b", "a gzip file; decompress it first"),
    (b"\x80\x02\x8a\x0a", BEFORE_1_6),
)


class FileError(ValueError):
    """A file of weights is damaged, has another format or exceeds a limit of its reader. The message names the file."""


def existing_file(path: str | os.PathLike[str]) -> Path:
    """Checks that a file of weights exists and is a regular file.

    Args:
      path: the file.

    Returns:
      The path.

    Raises:
      FileNotFoundError: the file does not exist.
      IsADirectoryError: the path is a folder.
      FileError: the path is a device, pipe or socket, whose reading may never end.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"expected a file of weights, got the folder {str(path)!r}")
    if not path.exists():
        if path.is_symlink():
            raise FileNotFoundError(f"{str(path)!r} is a link to a file that is not there; download or copy the file")
        raise FileNotFoundError(f"expected a file of weights, got {str(path)!r}, which does not exist")
    if not path.is_file():
        raise FileError(
            f"expected a file of weights, got {str(path)!r}: it is a device, pipe or socket, whose reading may not end"
        )
    return path


def describe_file(path: Path) -> str:
    """Describes the format of a file by its first bytes, for the errors of readers.

    Args:
      path: an existing file.

    Returns:
      The description, which completes "this is ...".
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
    """Returns whether a zip archive is a `.keras` file."""
    return {"config.json", "model.weights.h5"} <= set(archive.namelist())
