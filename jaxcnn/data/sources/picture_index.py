"""What is known of the picture files of a data set, kept in an index: sizes, checksums, and files that are no pictures.

Every file is examined once. Later, only its length and its times are asked for, so that a million files are listed in
seconds. The index is in the folder `pictures` of jaxcnn's caches (`jaxcnn.files.cache_folder`), never beside the data.
It can be deleted at any time.
"""

import hashlib
import io
import json
import os
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxcnn.data.pictures import PictureError, picture_size, read_picture
from jaxcnn.data.sources.kept import keep_file
from jaxcnn.files import cache_folder

_VERSION = 2
"""Of the layout of an index, and of what is examined."""

_SAMPLE = 4096
"""Bytes at each end of a compressed file that its checksum reads."""

_COMPRESSED = (b"\xff\xd8", b"\x89PNG", b"RIFF")
"""First bytes of JPEG, PNG and WebP. There, a changed pixel moves the bytes after it, or changes a checksum at the
end. Only a change within a JPEG file that keeps the number of its bits is not seen."""

_RECENT_NS = 2_000_000_000
"""A file that changed so shortly before it was examined may change again without another time: clocks are coarse."""

_CHUNK = 256
"""Files that a thread examines at once."""

_PATH = "\0"
"""What stands for the path of a file in its fault: the same index serves any spelling of the place."""

_HEADER, _PIXELS = 1, 2
"""What was read of a file: its header, or all of its pixels too."""


class Listed(NamedTuple):
    """A file that was found.

    Attributes:
      name: path below the place of the data set, with slashes.
      length: in bytes.
      modified: time of the last change of the content, in ns.
      changed: time of the last change of the file's status, in ns; unlike `modified`, programs cannot set it.
      fault: why it cannot be a picture, or "".
    """

    name: str
    length: int
    modified: int
    changed: int
    fault: str = ""


class Examined(NamedTuple):
    """What is known of files, in their order.

    Attributes:
      sizes: (height, width) of the upright pictures, int32, shape (files, 2).
      digests: checksums of the files, uint64, shape (files,).
      faults: why a file is no picture, or "".
    """

    sizes: np.ndarray
    digests: np.ndarray
    faults: list[str]


class _Index(NamedTuple):
    """An index: names of files; length and times; what was read; and what was found, as in `Examined`."""

    names: list[str]
    times: np.ndarray
    read: np.ndarray
    found: Examined


def listed(name: str, status: os.stat_result) -> Listed:
    """Describes a file that was found.

    Args:
      name: path below the place of the data set, with slashes.
      status: as the system tells it, of the file that a link leads to.

    Returns:
      The description; what is no regular file, or empty, has a fault.
    """
    fault = "" if stat.S_ISREG(status.st_mode) else "which is not a regular file"
    if not fault and status.st_size == 0:
        fault = "which is empty"
    return Listed(name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, fault)


def examine(place: Path, root: Path, files: Sequence[Listed], *, pixels: bool) -> Examined:
    """Reads the headers of picture files, or what the index of an earlier call knows of them.

    The checksum of a file is that of its length, its beginning and its end for JPEG, PNG and WebP, and of all bytes for
    other formats. A file is examined again if its length or one of its times has changed. So an edited file
    is noticed even if its length and its date are those of before, and a copy on another machine has the same checksum.

    Args:
      place: the folder or the file that lists the data set; it names the index.
      root: the folder that the names start from.
      files: the files.
      pixels: decode each file once, to notice damaged pixels too; this takes as long as an epoch, the first time.

    Returns:
      What was found.

    Raises:
      ImportError: Pillow is not installed.
    """
    started = time.time_ns()
    names = [file.name for file in files]
    times = np.array([file[1:4] for file in files], np.int64).reshape(-1, 3)
    index_file = _index_file(place)
    old = _read(index_file)
    level = _PIXELS if pixels else _HEADER
    read = np.full(len(files), level, np.int8)
    faults = [f"{_PATH}, {file.fault}" if file.fault else "" for file in files]
    found = Examined(np.zeros((len(files), 2), np.int32), np.zeros(len(files), np.uint64), faults)
    todo = [i for i in _unknown(old, names, times, level, read, found) if not files[i].fault]
    if todo:
        _examine_all(root, names, todo, level, found)
    if todo or old is None or len(old.names) != len(names):
        # What has just changed is examined again the next time.
        times[np.max(times[:, 1:], axis=1, initial=0) > started - _RECENT_NS] = -1
        _write(index_file, place, _Index(names, times, read, found))
    return found._replace(
        faults=[
            fault and fault.replace(_PATH, repr(os.path.join(root, name)))
            for fault, name in zip(found.faults, names, strict=True)
        ]
    )


def _unknown(
    old: _Index | None, names: list[str], times: np.ndarray, level: int, read: np.ndarray, found: Examined
) -> list[int]:
    """Copies what an index knows, and returns the places of the other files."""
    if old is None:
        return list(range(len(names)))
    if old.names == names:  # nothing to look up, which takes a second for a million files
        rows = np.arange(len(names))
    else:
        places = {name: i for i, name in enumerate(old.names)}
        rows = np.fromiter((places.get(name, -1) for name in names), np.int64, len(names))
    known = rows >= 0
    known[known] = (old.times[rows[known]] == times[known]).all(axis=1) & (old.read[rows[known]] >= level)
    there = rows[known]
    read[known] = old.read[there]
    found.sizes[known], found.digests[known] = old.found.sizes[there], old.found.digests[there]
    for i, row in zip(np.flatnonzero(known).tolist(), there.tolist(), strict=True):
        found.faults[i] = found.faults[i] or old.found.faults[row]
    return np.flatnonzero(~known).tolist()


def _examine_all(root: Path, names: Sequence[str], todo: list[int], level: int, found: Examined) -> None:
    """Examines files in threads: most of the time, they wait for the disk or decode."""

    def some(places: list[int]) -> None:
        for i in places:
            path = os.path.join(root, names[i])
            try:
                found.sizes[i] = picture_size(path)
                found.digests[i] = _digest(path)
                if level == _PIXELS:
                    read_picture(path, 1, at_least=(1, 1))
            except PictureError as error:
                found.faults[i] = str(error).replace(repr(path), _PATH)

    chunks = [todo[start : start + _CHUNK] for start in range(0, len(todo), _CHUNK)]
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(some, chunks):
            pass


def _digest(path: str) -> int:
    with open(path, "rb") as file:
        content = file.read(_SAMPLE)
        if content.startswith(_COMPRESSED):
            length = file.seek(0, os.SEEK_END)
            file.seek(max(length - _SAMPLE, 0))
            content = length.to_bytes(8, "little") + content
        content += file.read()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _index_file(place: Path) -> Path:
    name = hashlib.blake2b(os.fsencode(os.path.realpath(place)), digest_size=16).hexdigest()
    return cache_folder() / "pictures" / f"{name}-{_VERSION}.npz"


def _read(file: Path) -> _Index | None:
    """Reads an index; None if there is none, or it is damaged."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        names = os.fsdecode(arrays["names"].tobytes()).split("\0") if len(arrays["times"]) else []
        faults = [""] * len(names)
        for i, fault in json.loads(arrays["faults"].tobytes()).items():
            faults[int(i)] = fault
        found = Examined(arrays["sizes"], arrays["digests"], faults)
        index = _Index(names, arrays["times"], arrays["read"], found)
        lengths = {len(names), *map(len, (index.times, index.read, found.sizes, found.digests))}
        return index if len(lengths) == 1 else None
    except FileNotFoundError:
        return None
    # On damaged files NumPy and zip raise many kinds of exceptions. All is examined again then.
    except Exception:
        return None


def _write(file: Path, place: Path, index: _Index) -> None:
    faults = {i: fault for i, fault in enumerate(index.found.faults) if fault}
    arrays = {
        "names": np.frombuffer(os.fsencode("\0".join(index.names)), np.uint8),
        "times": index.times,
        "read": index.read,
        "sizes": index.found.sizes,
        "digests": index.found.digests,
        "faults": np.frombuffer(json.dumps(faults).encode(), np.uint8),
    }
    content = io.BytesIO()
    np.savez(content, **arrays)
    keep_file(file, content.getvalue(), str(place))
