"""Sources of one image size, made from images of many sizes."""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.data.objects import OBJECTS
from jaxcnn.data.pictures import FitMode, FitPicture
from jaxcnn.data.sources.source import ArraySpec, Source, Splits, checksum, fitted, gather
from jaxcnn.environment import memory_bytes
from jaxcnn.ops.check import Size, as_pair
from jaxcnn.text import readable_bytes

_LOG = logging.getLogger("jaxcnn")

_MOVED = frozenset({"image", "valid", *OBJECTS})
"""Entries that change as an image is fitted."""

_SHARE = 8
"""Images are kept if they take at most this part of the computer's memory."""


class Choice(NamedTuple):
    """A choice, and why it was made.

    Attributes:
      keep: whether images are kept in memory once they are read.
      reason: why, as a part of a sentence.
    """

    keep: bool
    reason: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Resized:
    """A source whose images are fitted into one shape, with their objects; `resized` builds and checks it.

    Args:
      source: examples with images.
      preprocessing: fits the images. A run records it, and `predict` applies it.
      keep: whether each image is kept in memory once it is read.
    """

    source: Source
    preprocessing: FitPicture
    keep: bool

    @property
    def spec(self) -> Mapping[str, ArraySpec]:
        """That of the source, with the shape of the fitted images."""
        spec = self.source.spec
        fitted = {"image": ArraySpec(self.preprocessing.image_shape, spec["image"].dtype)}
        if "masks" in spec:
            fitted["masks"] = ArraySpec((spec["masks"].shape[0], *self.preprocessing.image_shape[:2]), np.dtype(bool))
        return {**spec, **fitted}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the source."""
        return self.source.class_names

    @property
    def fingerprint(self) -> str:
        """A checksum of the source and of how its images are fitted."""
        return checksum(self.source.fingerprint, repr(self.preprocessing))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        kept = self._kept if self.keep else None
        if kept is None or not kept.there[index]:
            example = fitted(self.source, index, self.preprocessing)
            if kept is not None:
                for name, array in kept.entries.items():
                    array[index] = example[name]
                kept.there[index] = True  # after the entries, for other threads
            return example
        others = [name for name in self.spec if name not in kept.entries]
        rest = gather(self.source, np.array([index]), others) if others else {}
        return {name: array[index].copy() for name, array in kept.entries.items()} | {
            name: rest[name][0] for name in others
        }

    def __repr__(self) -> str:
        return f"<{len(self):,} examples of {self.source!r}, fitted by {self.preprocessing!r}>"

    def __getstate__(self) -> dict[str, object]:
        # Images that are kept stay in their process.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def gather(self, indices: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Reads entries of several examples; without "image" and entries of objects, no image is read."""
        moved = [name for name in names if name in _MOVED]
        others = [name for name in names if name not in _MOVED]
        found = gather(self.source, indices, others) if others else {}
        if not moved:
            return found
        if not self.keep:
            examples = [self[int(index)] for index in indices]
            return {**found, **{name: np.stack([example[name] for example in examples]) for name in moved}}
        for index in np.unique(indices[~self._kept.there[indices]]):
            self[int(index)]
        return {**found, **{name: self._kept.entries[name][indices] for name in moved}}

    @functools.cached_property
    def _kept(self) -> "_Kept":
        # The system gives memory page by page, as images are written.
        entries = {name: _empty(len(self), spec) for name, spec in self.spec.items() if name in _MOVED}
        return _Kept(entries, np.zeros(len(self), bool))


class _Kept(NamedTuple):
    """What is kept of examples, by name, and which of them are there."""

    entries: dict[str, np.ndarray]
    there: np.ndarray


def _empty(count: int, spec: ArraySpec) -> np.ndarray:
    shape: Any = (count, *spec.shape)
    return np.empty(shape, spec.dtype)


def resized(
    source: Source | Splits,
    size: Size | FitPicture,
    *,
    mode: FitMode = "crop",
    crop_fraction: float = 1.0,
    keep: bool | None = None,
) -> Any:
    """Makes a source of one image size from images of many sizes.

        photographs = resized(image_folder("flowers"), 224)  # and train with them

    Images are resized when they are read, and stay uint8 if they are. Boxes and masks of objects move along; mode
    "fit", a letterbox, keeps whole objects. A run that is trained with them records how they were fitted, so that
    `predict` prepares a photograph in the same way.

    Args:
      source: examples with "image" and without "mask", or parts of them by name.
      size: (height, width) of the images, or one number for both; or a `FitPicture`, which tells all the rest.
      mode: "crop", "fit" or "stretch"; see `jaxcnn.data.pictures.FitPicture`.
      crop_fraction: of mode "crop": the part of the shorter side that is kept, in (0, 1].
      keep: whether each image is kept in memory once it is read. None: `choose_to_keep` decides, for all parts
        together; the logger "jaxcnn" says why.

    Returns:
      A `Resized`, or one for each part by name.

    Raises:
      ValueError: the examples have no images or have masks, the number of channels differs, or an option is out of
        range.
    """
    parts = dict(source) if isinstance(source, Mapping) else {"": source}
    for part in parts.values():
        if "image" not in part.spec or "mask" in part.spec:
            raise ValueError(
                f"resized expects examples with 'image' and without 'mask', got {', '.join(map(repr, part.spec))}; "
                "mask_folder(path, size=...) resizes masks too"
            )
    image = next(iter(parts.values())).spec["image"]
    if (channels := image.shape[2]) is None:
        raise ValueError(
            "resized expects images of one number of channels, got some that differ; make them grey or RGB"
        )
    fit = size if isinstance(size, FitPicture) else FitPicture((*as_pair("size", size), channels), mode, crop_fraction)
    if keep is None:
        # A mask of an object takes as much as a channel of 8 bits.
        slots = [part.spec["masks"].shape[0] or 0 for part in parts.values() if "masks" in part.spec]
        planes = *fit.image_shape[:2], fit.channels + max(slots, default=0)
        keep, reason = choose_to_keep(sum(map(len, parts.values())), planes, image.dtype)
        _LOG.log(
            logging.DEBUG if keep else logging.INFO,
            "images are %s: %s",
            "kept in memory" if keep else "read in every epoch",
            reason,
        )
    found = {name: Resized(part, fit, keep) for name, part in parts.items()}
    return found if isinstance(source, Mapping) else found[""]


def choose_to_keep(count: int, image_shape: Sequence[int], dtype: np.dtype) -> Choice:
    """Decides whether images are kept in memory: if they take at most an eighth of it.

    Args:
      count: number of images.
      image_shape: (height, width, channels) of each.
      dtype: of the pixels.

    Returns:
      The choice, with the reason.
    """
    needed = count * int(np.prod(image_shape)) * dtype.itemsize
    keep = needed * _SHARE <= (memory := memory_bytes())
    compared = "at most" if keep else "more than"
    return Choice(
        keep, f"{count:,} take {readable_bytes(needed)}, {compared} an eighth of the memory of {readable_bytes(memory)}"
    )
