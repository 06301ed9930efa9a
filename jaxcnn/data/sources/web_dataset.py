"""Pictures and labels in tar files, as the library WebDataset writes them, at random."""

import dataclasses
import functools
import glob
import os
import re
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxcnn.data.cutting import Choose
from jaxcnn.data.pictures import (
    EXTENSIONS,
    FitPicture,
    PictureError,
    check_channels,
    picture_size,
    read_picture,
    read_picture_part,
)
from jaxcnn.data.sources.kept import kept_array
from jaxcnn.data.sources.source import ArraySpec, checksum, file_sample

_LABEL = ".cls"
_MAX_LABEL = 999_999
"""Largest number of a class: a name is made for each up to the largest one."""

_COLUMNS = ("shard", "offset", "size", "label")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class WebDatasetError(ValueError):
    """A tar file is damaged, or its files are not pictures with a label each. The message names the file."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class WebDataset:
    """A source of pictures in tar files; `web_dataset` builds and checks it.

    Args:
      files: the tar files.
      index: number of the file, offset, size and label of each picture, int64, shape (examples, 4).
      class_names: one name for each class.
      channels: 1 or 3.
    """

    files: tuple[Path, ...]
    index: np.ndarray
    class_names: tuple[str, ...]
    channels: int

    @property
    def spec(self) -> Mapping[str, ArraySpec]:
        """Shape and dtype of "image", whose height and width differ from example to example, and "label"."""
        return {
            "image": ArraySpec((None, None, self.channels), np.dtype(np.uint8)),
            "label": ArraySpec((), np.dtype(np.int32)),
        }

    @property
    def fingerprint(self) -> str:
        """A checksum of the places and labels of the pictures, and of sizes, beginnings and ends of the files."""
        return self._checksum

    @functools.cached_property
    def _checksum(self) -> str:
        samples = (part for file in self.files for part in (file.name, file_sample(file)))
        return checksum(*samples, self.index, str(self.channels), *self.class_names)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Reads one example.

        Args:
          index: of the example.

        Returns:
          "image", uint8, shape (height, width, channels), and "label".

        Raises:
          PictureError: the picture cannot be decoded.
          OSError: the file cannot be read.
        """
        return self._read(index, lambda content: read_picture(content, self.channels))

    def fitted(self, index: int, fit: FitPicture) -> dict[str, np.ndarray]:
        """Reads one example with its image fitted; a large JPEG file is decoded at a smaller scale."""
        check_channels(self.channels, fit)
        return self._read(index, fit.read)

    def part(self, index: int, choose: Choose, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """Reads one example with a part of its image; a large JPEG file is decoded at a smaller scale."""

        def read(content: bytes) -> np.ndarray:
            whole = picture_size(content)
            return read_picture_part(content, self.channels, whole, choose(*whole), size)

        return self._read(index, read)

    def _read(self, index: int, read: Callable[[bytes], np.ndarray]) -> dict[str, np.ndarray]:
        shard, offset, size, label = self.index[index].tolist()
        with open(self.files[shard], "rb", buffering=0) as file:
            file.seek(offset)
            content = file.read(size)
        try:
            image = read(content)
        except PictureError as error:
            raise PictureError(f"{str(self.files[shard])!r}, byte {offset:,}: {error}") from error
        return {"image": image, "label": np.asarray(label, np.int32)}

    def gather(self, indices: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Reads entries of several examples. For labels alone, no file is read."""
        found = {"label": self.index[indices, 3].astype(np.int32)}
        if "image" in names:
            found["image"] = np.stack([self[int(index)]["image"] for index in indices])
        return {name: found[name] for name in names}

    def __repr__(self) -> str:
        return f"<{len(self)} pictures of {len(self.class_names)} classes in {len(self.files)} tar files>"


def web_dataset(pattern: str, *, class_names: Sequence[str] | None = None, channels: int = 3) -> WebDataset:
    """Reads pictures and labels from local tar files: `web_dataset("flowers/train-{0000..0011}.tar")`.

    An example is a picture and a file `.cls` with the number of its class, of the same name up to the first dot. Other
    files are left out. WebDataset itself reads a stream; here the tar files are read at random, so that the order of an
    epoch is a true shuffle, and a resumed run needs no state. The places of the pictures are read once and kept in the
    folder of caches, until a tar file changes.

    Args:
      pattern: path of the tar files, which are not compressed, with "*", "?" or a range of numbers "{0000..0011}". The
        order is that of the sorted paths.
      class_names: one name for each class. None names them '0', '1', ..., up to the largest label.
      channels: 1 reads the pictures as grey, 3 as red, green and blue.

    Returns:
      The source.

    Raises:
      FileNotFoundError: no file matches, or one of a range is missing.
      WebDatasetError: a file is no tar file or is truncated, or a picture has no label or a label no picture.
      ValueError: `channels` is neither 1 nor 3, or a label is out of range.
    """
    if channels not in (1, 3):
        raise ValueError(f"web_dataset expects 1 or 3 channels, got {channels}")
    files = tuple(map(Path, _expanded(pattern)))
    index = _cached_index(files)
    count = int(index[:, 3].max()) + 1
    names = tuple(map(str, range(count))) if class_names is None else tuple(class_names)
    if len(names) < count or len(set(names)) < len(names):
        raise ValueError(f"expected different names for at least {count} classes, got {len(names)}: {names!r:.80}")
    return WebDataset(files, index, names, channels)


def _expanded(pattern: str) -> list[str]:
    """Returns the sorted paths of a pattern."""
    if os.path.isfile(pattern):  # a name may have brackets
        return [pattern]
    span = _RANGE.search(pattern)
    if span is None:
        found = sorted(path for path in glob.glob(pattern) if os.path.isfile(path))
        if not found:
            raise FileNotFoundError(f"expected tar files, got {pattern!r}, which matches no file")
        return found
    first, last = span.groups()
    if int(first) > int(last):
        raise FileNotFoundError(f"expected a range from the smaller to the larger number, got {span[0]!r}")
    numbers = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
    return [path for number in numbers for path in _expanded(pattern[: span.start()] + number + pattern[span.end() :])]


def _cached_index(files: tuple[Path, ...]) -> np.ndarray:
    """Reads the index from the folder of caches, or makes it."""

    def make() -> np.ndarray:
        index = np.array([row for shard, file in enumerate(files) for row in _index(shard, file)], np.int64)
        if not len(index):
            raise WebDatasetError(f"expected pictures with {_LABEL} files in {str(files[0])!r}, got none")
        return index

    statuses = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    name = f"web_dataset/{checksum(repr(statuses))}.npy"
    return kept_array(name, str(files[0]), lambda index: index.ndim == 2 and index.shape[1] == len(_COLUMNS), make)


def _index(shard: int, path: Path) -> list[tuple[int, int, int, int]]:
    """Returns the rows of the index for a file."""
    pictures: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    length = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isreg():
                    continue
                if member.offset_data + member.size > length:
                    raise tarfile.ReadError(f"the file at byte {member.offset:,} ends after the archive")
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                key = f"{folder}/{stem}"
                if f".{extension.lower()}" in EXTENSIONS:
                    if key in pictures:
                        raise WebDatasetError(f"expected one picture of the name {key!r} in {str(path)!r}, got several")
                    pictures[key] = member.offset_data, member.size
                elif f".{extension.lower()}" == _LABEL:
                    if key in labels:
                        raise WebDatasetError(f"expected one label of the name {key!r} in {str(path)!r}, got several")
                    labels[key] = _label(archive, member, path)
            # tarfile takes a damaged or truncated header for the end, which is a block of zeros.
            with open(path, "rb") as file:
                file.seek(archive.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError(f"the header at byte {archive.offset:,} is damaged or truncated")
    except tarfile.TarError as error:
        raise WebDatasetError(
            f"expected a tar file that is whole and not compressed, got {str(path)!r}: {error}; copy or write it again"
        ) from error
    alone = [key for key in pictures if key not in labels] + [key for key in labels if key not in pictures]
    if alone:
        raise WebDatasetError(
            f"expected a picture and a {_LABEL} file of each name in {str(path)!r}, got only one of both for "
            f"{len(alone)} names, the first {alone[0]!r}"
        )
    return [(shard, offset, size, labels[key]) for key, (offset, size) in pictures.items()]


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> int:
    file = archive.extractfile(member)
    text = file.read(32).strip() if file is not None else b""
    if not text.isdigit() or int(text) > _MAX_LABEL:
        raise WebDatasetError(
            f"expected the number of a class, from 0 to {_MAX_LABEL:,}, in {member.name} of {str(path)!r}, got {text!r}"
        )
    return int(text)
