"""Handwritten digits on photographs, with the class of each pixel: segmentation without a download."""

import functools
from typing import NamedTuple

import numpy as np

from jaxcnn.data.sources.arrays import Arrays, arrays

_DIGITS = 4
"""The digits 0 to 3 are used: with fewer classes, a small network learns faster."""

_SMALLEST, _LARGEST = 26, 42
"""Sizes of a digit in pixels, of 64 of the image."""

_LOWEST, _HIGHEST = 80, 150
"""Contrast of the ink with the photograph under it, of 255."""

VISIBLE = 64
"""Opacity from which a pixel belongs to the digit, of 255."""


class Part(NamedTuple):
    """The material of the examples of one split.

    Attributes:
      number: number of the split, for its random numbers.
      examples: number of examples.
      digits: the split takes the digits whose index has one of these remainders after division by 5.
      columns: ranges of columns of the photographs.
    """

    number: int
    examples: int
    digits: tuple[int, ...]
    columns: tuple[tuple[int, int], ...]


PARTS = {
    "train": Part(0, 2000, (0, 1, 2), ((0, 256), (512, 640))),
    "validation": Part(1, 400, (3,), ((256, 384),)),
    "test": Part(2, 400, (4,), ((384, 512),)),
}


def shapes(image_size: int = 48, *, seed: int = 0) -> dict[str, Arrays]:
    """Draws one to three handwritten digits, 0 to 3, on a part of a photograph, for each example.

    The digits are those of `digits`, the photographs the two of scikit-learn's `load_sample_images`. Position, size,
    colour and contrast are random; a digit may be darker or brighter than the photograph. Training, validation and test
    use different digits and different parts of the photographs. Each example is a function of the seed, the part and
    its index, in integer arithmetic.

    Args:
      image_size: height and width in pixels, from 32 to 128.
      seed: random seed, at least 0.

    Returns:
      "train" (2000 examples), "validation" (400) and "test" (400). Each has "image", uint8, shape (image_size,
      image_size, 3), and "mask", uint8, shape (image_size, image_size): 0 for the background, 1 + d for digit d.

    Raises:
      ImportError: scikit-learn or Pillow is not installed.
      ValueError: the image size or the seed is out of range.
    """
    if not 32 <= image_size <= 128:
        raise ValueError(f"image_size must be from 32 to 128, got {image_size}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    class_names = ("background", *map(str, range(_DIGITS)))
    splits = {}
    for name, part in PARTS.items():
        material = read_material(part, _DIGITS)
        examples = [
            _example(np.random.default_rng([seed, part.number, index]), image_size, *material)
            for index in range(part.examples)
        ]
        images, masks = map(np.stack, zip(*examples, strict=True))
        splits[name] = arrays(image=images, mask=masks, class_names=class_names)
    return splits


class Material(NamedTuple):
    """What the scenes of one part are made of.

    Attributes:
      digits: of 0 to 16, shape (digits, 8, 8).
      labels: the digits that they are, shape (digits,).
      strips: parts of photographs, uint8, each of shape (height, width, 3).
    """

    digits: np.ndarray
    labels: np.ndarray
    strips: list[np.ndarray]


@functools.cache
def read_material(part: Part, num_digits: int) -> Material:
    """Reads the digits and the photographs of a part from scikit-learn.

    Args:
      part: which of them.
      num_digits: the digits below this number are used.

    Returns:
      The material; parts of other `digits` and `columns` have other material.

    Raises:
      ImportError: scikit-learn or Pillow is not installed.
    """
    try:
        from sklearn.datasets import load_digits, load_sample_images

        photographs = load_sample_images().images
    except ImportError as error:
        raise ImportError(
            "the digits and photographs are part of scikit-learn, and Pillow reads them; pip install 'jaxcnn[cli]'"
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = pixels[labels < num_digits], labels[labels < num_digits]
    own = np.isin(np.arange(len(labels)) % 5, part.digits)
    strips = [photograph[:, slice(*columns)] for photograph in photographs for columns in part.columns]
    return Material(pixels[own].reshape(-1, 8, 8).astype(np.int64), labels[own], strips)


def _example(
    rng: np.random.Generator, size: int, digits: np.ndarray, labels: np.ndarray, strips: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one example: image (size, size, 3) and mask (size, size)."""
    image = background(rng, size, strips)
    mask = np.zeros((size, size), np.uint8)
    free = np.ones((size, size), bool)
    for _ in range(rng.integers(1, 4)):
        chosen = rng.integers(len(digits))
        side = int(rng.integers(_SMALLEST * size // 64, _LARGEST * size // 64 + 1))
        top, left = rng.integers(0, size - side + 1, 2)
        place = slice(top, top + side), slice(left, left + side)
        # A digit that would overlap another one is left out.
        if not free[place].all():
            continue
        free[place] = False
        opacity = enlarged(digits[chosen], side)
        paint(rng, image[place], opacity)
        mask[place] = np.where(opacity >= VISIBLE, labels[chosen] + 1, 0)
    return image, mask


def background(rng: np.random.Generator, size: int, strips: list[np.ndarray]) -> np.ndarray:
    """Cuts a square out of a photograph, mirrored or not, with its colours in random order.

    Args:
      rng: random numbers.
      size: height and width of the square.
      strips: parts of photographs, uint8, at least as large.

    Returns:
      Shape (size, size, 3), a new array.
    """
    strip = strips[rng.integers(len(strips))]
    top, left = (rng.integers(0, length - size + 1) for length in strip.shape[:2])
    square = strip[top : top + size, left : left + size]
    mirrored = square[:, ::-1] if rng.integers(2) else square
    return mirrored[..., rng.permutation(3)].copy()


def paint(rng: np.random.Generator, place: np.ndarray, opacity: np.ndarray) -> None:
    """Paints a digit in a random colour.

    The colour is darker or brighter than the mean of the pixels under it, at random if the range allows both.

    Args:
      rng: random numbers.
      place: a part of an image, uint8, shape (height, width, 3); it changes.
      opacity: of the ink, 0 to 255, shape (height, width).
    """
    under = place.astype(np.int64)
    mean = under.sum(axis=(0, 1)) // (under.shape[0] * under.shape[1])
    contrast = rng.integers(_LOWEST, _HIGHEST + 1)
    brighter = bool(rng.integers(2))
    if mean.sum() > 3 * (255 - contrast):
        brighter = False
    elif mean.sum() < 3 * contrast:
        brighter = True
    ink = np.clip(mean + (contrast if brighter else -contrast) + rng.integers(-20, 21, 3), 0, 255)
    place[...] = (under * (255 - opacity[..., None]) + ink * opacity[..., None] + 127) // 255


def enlarged(digit: np.ndarray, side: int) -> np.ndarray:
    """Enlarges a digit bilinearly, exactly in integers, with steeper edges.

    Args:
      digit: of 0 to 16, shape (8, 8).
      side: height and width of the result.

    Returns:
      Opacities of 0 to 255, shape (side, side).
    """
    # Pixel centres are at odd multiples of 1 / (2 side) of the digit's width: all weights are multiples of that.
    centres = np.clip((2 * np.arange(side) + 1) * 8 - side, 0, 7 * 2 * side)
    before, after = centres // (2 * side), np.minimum(centres // (2 * side) + 1, 7)
    weight = centres % (2 * side)
    rows = digit[before] * (2 * side - weight)[:, None] + digit[after] * weight[:, None]
    both = rows[:, before] * (2 * side - weight) + rows[:, after] * weight
    opacity = both * 255 // (16 * (2 * side) ** 2)
    return np.clip(2 * opacity - 128, 0, 255)
