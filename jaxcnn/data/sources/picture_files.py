"""Pictures in files, with what is known of each."""

import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxcnn.data.cutting import Choose
from jaxcnn.data.pictures import FitPicture, PictureError, check_channels, read_picture, read_picture_part
from jaxcnn.data.sources.faults import refuse_faults
from jaxcnn.data.sources.picture_index import Examined
from jaxcnn.data.sources.source import ArraySpec, checksum

_LOG = logging.getLogger("jaxcnn")

_ADVICE = "repair or remove such files, or leave them out: skip_bad=True, on the command line --skip-bad"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PictureFiles:
    """A source of pictures in files; `image_folder` and `manifest` build and check it.

    Args:
      root: the folder that the names start from.
      names: the files, in the order of the examples, with slashes.
      entries: the other entries of the examples by name, as arrays with the examples as their first axis.
      class_names: one name for each class; empty without classes.
      channels: 1 reads the pictures as grey, 3 as red, green and blue.
      sizes: (height, width) of the upright pictures, shape (examples, 2).
      digests: checksums of the files, shape (examples,).
      faults: one line for each file that was left out.
    """

    root: str
    names: tuple[str, ...]
    entries: Mapping[str, np.ndarray]
    class_names: tuple[str, ...]
    channels: int
    sizes: np.ndarray
    digests: np.ndarray
    faults: tuple[str, ...] = ()

    @property
    def spec(self) -> Mapping[str, ArraySpec]:
        """Shape and dtype of each entry; None for a height or width that differs from picture to picture."""
        return {"image": self._image_spec} | {
            name: ArraySpec(array.shape[1:], array.dtype) for name, array in self.entries.items()
        }

    @functools.cached_property
    def _image_spec(self) -> ArraySpec:
        sides = (int(side[0]) if (side == side[0]).all() else None for side in self.sizes.T)
        return ArraySpec((*sides, self.channels), np.dtype(np.uint8))

    @property
    def fingerprint(self) -> str:
        """A checksum of names, contents, labels and classes; see `jaxcnn.data.sources.picture_index.examine`.

        It does not depend on the place and the dates of the files: a copy on another machine has the same one.
        """
        return self._checksum

    @functools.cached_property
    def _checksum(self) -> str:
        entries = (part for name in sorted(self.entries) for part in (name, self.entries[name]))
        return checksum("\0".join(self.names), self.digests, *entries, *self.class_names, str(self.channels))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Reads one example.

        Args:
          index: of the example.

        Returns:
          "image", uint8, shape (height, width, channels), as `jaxcnn.data.pictures.read_picture` reads it, and the
          other entries.

        Raises:
          PictureError: the file cannot be read.
        """
        with _advised():
            image = read_picture(self.path(index), self.channels)
        return {"image": image, **self._others(index)}

    def __repr__(self) -> str:
        return f"<{len(self):,} pictures in {self.root!r}, {len(self.class_names)} classes>"

    def path(self, index: int) -> str:
        """Returns the path of the file of an example."""
        return os.path.join(self.root, self.names[index])

    def fitted(self, index: int, fit: FitPicture) -> dict[str, np.ndarray]:
        """Reads one example with its image fitted; a large JPEG file is decoded at a smaller scale."""
        check_channels(self.channels, fit)
        with _advised():
            image = fit.read(self.path(index))
        return {"image": image, **self._others(index)}

    def part(self, index: int, choose: Choose, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """Reads one example with a part of its image; a large JPEG file is decoded at a smaller scale."""
        height, width = self.sizes[index].tolist()
        part = choose(height, width)
        with _advised():
            image = read_picture_part(self.path(index), self.channels, (height, width), part, size)
        return {"image": image, **self._others(index)}

    def gather(self, indices: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Reads entries of several examples; without "image", no file is read."""
        read = {"image": lambda: np.stack([self[int(index)]["image"] for index in indices])}
        return {name: read[name]() if name in read else self.entries[name][indices] for name in names}

    def _others(self, index: int) -> dict[str, np.ndarray]:
        return {name: np.asarray(array[index]) for name, array in self.entries.items()}


def left_out(place: Path, found: Examined, *, skip_bad: bool) -> tuple[list[int], tuple[str, ...]]:
    """Refuses files that are no pictures, or leaves them out and says how many.

    Args:
      place: the folder or the file that lists the data set.
      found: what is known of its files.
      skip_bad: whether to leave them out.

    Returns:
      The places of the pictures in the list, and a line for each of the other files.

    Raises:
      ValueError: there are other files, and `skip_bad` is False.
    """
    faults = tuple(fault for fault in found.faults if fault)
    if not skip_bad:
        refuse_faults(place, faults, "nothing but pictures", _ADVICE)
    if faults:
        more = "" if len(faults) == 1 else f" and {len(faults) - 1:,} more"
        _LOG.warning("left out what is no picture: %s%s", faults[0], more)
    return [i for i, fault in enumerate(found.faults) if not fault], faults


@contextlib.contextmanager
def _advised() -> Iterator[None]:
    """Adds what to do to the error about a damaged file."""
    try:
        yield
    except PictureError as error:
        raise PictureError(f"{error}; {_ADVICE}") from error
