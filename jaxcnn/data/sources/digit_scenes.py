"""Handwritten digits on photographs with boxes and masks of each: detection without a download."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from jaxcnn.data.objects import pad_objects
from jaxcnn.data.sources.shapes import PARTS, VISIBLE, background, enlarged, paint, read_material
from jaxcnn.data.sources.source import ArraySpec, checksum

Labels: TypeAlias = Literal["boxes", "instances", "semantic"]
"""What a scene is labelled with; see `digit_scenes`."""

_NAMES = tuple(map(str, range(10)))

_MOST = 6
"""Largest number of digits in a scene."""

_SMALLEST, _LARGEST = 16, 48
"""Sizes of a digit in pixels, of 128 of the image."""

_TRIES = 8
"""Places that are tried for a digit before it is left out."""

_OVERLAP = 5
"""One part in so many of a digit's square may lie on the square of an earlier digit."""

_BEYOND = 4
"""One part in so many of a digit's square may lie beyond the border, in each direction."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DigitScenes:
    """A part of the scenes as a source; build all parts with `digit_scenes`. Scenes are drawn when they are read.

    Args:
      part: "train", "validation" or "test".
      image_size: height and width in pixels.
      seed: random seed.
      labels: what the examples hold besides the image.
    """

    part: str
    image_size: int
    seed: int
    labels: Labels

    @property
    def spec(self) -> Mapping[str, ArraySpec]:
        """Shape and dtype of each entry."""
        return {name: ArraySpec(array.shape, array.dtype) for name, array in self._first.items()}

    @property
    def class_names(self) -> tuple[str, ...]:
        """The ten digits, after the background in "semantic" masks."""
        return ("background", *_NAMES) if self.labels == "semantic" else _NAMES

    @property
    def fingerprint(self) -> str:
        """A checksum of the arguments and the first scene."""
        return checksum(repr(dataclasses.astuple(self)), *(self._first[name] for name in sorted(self._first)))

    @functools.cached_property
    def _first(self) -> dict[str, np.ndarray]:
        return self[0]

    def __len__(self) -> int:
        return PARTS[self.part].examples

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Draws a scene: a function of the seed, the part and the index."""
        if not 0 <= index < len(self):
            raise IndexError(f"expected an example in [0, {len(self)}), got {index}")
        part = PARTS[self.part]
        rng = np.random.default_rng([self.seed, part.number, index])
        image, classes, owner = _scene(rng, self.image_size, read_material(part, len(_NAMES)))
        if self.labels == "semantic":
            table = np.array([0, *(one + 1 for one in classes)], np.uint8)
            return {"image": image, "mask": table[owner]}
        masks = owner == np.arange(1, len(classes) + 1)[:, None, None]
        objects = {"boxes": _tight(masks), "classes": np.array(classes, np.int32)}
        more = {"masks": masks} if self.labels == "instances" else {}
        return {"image": image} | pad_objects(objects | more, _MOST)

    def __repr__(self) -> str:
        return f"<{len(self):,} scenes of digits with {self.labels}, {self.image_size}x{self.image_size}, {self.part}>"


def digit_scenes(image_size: int = 128, *, labels: Labels = "boxes", seed: int = 0) -> dict[str, DigitScenes]:
    """Draws scenes of up to six handwritten digits on a part of a photograph, to be detected or segmented.

    The digits are those of `digits`, the photographs the two of scikit-learn's `load_sample_images`. Place, size,
    colour and contrast are random; a digit may be cut by the border, and may lie on a part of an earlier one. Some
    scenes have no digit. Training, validation and test use different digits and different parts of the photographs.
    Each scene is a function of the seed, the part and its index, in integer arithmetic.

    Args:
      image_size: height and width in pixels, from 64 to 128.
      labels: "boxes": "boxes", float32, shape (6, 4), edges (left, top, right, bottom) tight around the visible ink;
        "classes", int32, shape (6,), the digit; and "valid", bool, shape (6,). "instances": also "masks", bool, shape
        (6, image_size, image_size), the visible ink of each. "semantic": "mask" alone, uint8, shape (image_size,
        image_size): 0 for the background, 1 + d for digit d.
      seed: random seed, at least 0.

    Returns:
      "train" (2000 examples), "validation" (400) and "test" (400). Each has "image", uint8, shape (image_size,
      image_size, 3), and the labels.

    Raises:
      ImportError: scikit-learn or Pillow is not installed; raised when a scene is read.
      ValueError: an argument is out of range.
    """
    if not 64 <= image_size <= 128:
        raise ValueError(f"image_size must be from 64 to 128, got {image_size}")
    if labels not in get_args(Labels):
        raise ValueError(f"labels must be one of {', '.join(get_args(Labels))}, got {labels!r}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    return {part: DigitScenes(part, image_size, seed, labels) for part in PARTS}


def _scene(rng: np.random.Generator, size: int, material: Any) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Draws the image, the classes of the digits, and the number of the digit at each pixel, from 1; 0 for none."""
    image = background(rng, size, material.strips)
    owner = np.zeros((size, size), np.int64)
    squares: list[tuple[int, int, int]] = []
    classes: list[int] = []
    for _ in range(rng.integers(0, _MOST + 1)):
        chosen = rng.integers(len(material.digits))
        side = int(rng.integers(_SMALLEST * size // 128, _LARGEST * size // 128 + 1))
        places = rng.integers(-(side // _BEYOND), size - side + side // _BEYOND + 1, (_TRIES, 2)).tolist()
        free = [place for place in places if not any(_overlap((*place, side), other) for other in squares)]
        if not free:
            continue
        top, left = free[0]
        squares.append((top, left, side))
        classes.append(int(material.labels[chosen]))
        rows, columns = (slice(max(start, 0), min(start + side, size)) for start in (top, left))
        opacity = enlarged(material.digits[chosen], side)
        opacity = opacity[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        paint(rng, image[rows, columns], opacity)
        owner[rows, columns][opacity >= VISIBLE] = len(classes)
    return image, classes, owner


def _overlap(one: tuple[int, int, int], other: tuple[int, int, int]) -> bool:
    """Tells whether two squares (top, left, side) share too much of the smaller one."""
    shared = 1
    for first, second in zip(one[:2], other[:2], strict=True):
        shared *= max(min(first + one[2], second + other[2]) - max(first, second), 0)
    return shared * _OVERLAP > min(one[2], other[2]) ** 2


def _tight(masks: np.ndarray) -> np.ndarray:
    """Returns the edges around each mask, float32, shape (masks, 4)."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes
