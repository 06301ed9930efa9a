"""Writes masks of classes as PNG files."""

import colorsys
from pathlib import Path

import numpy as np

from jaxcnn.files import written_whole

_OPACITY = 0.5


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Writes the class of each pixel as its grey value.

    Args:
      path: a PNG file.
      mask: class indices in [0, 255], or in [0, 65535] for 16 bits, shape (height, width).

    Raises:
      OSError: the file cannot be written.
    """
    _write(path, mask.astype(np.uint8 if mask.max() < 256 else np.uint16))


def write_overlay(path: Path, image: np.ndarray, mask: np.ndarray, num_classes: int) -> None:
    """Writes an image with its classes in colours; class 0, the background, has none.

    Args:
      path: a PNG file.
      image: pixels in [0, 1], shape (height, width, 1 or 3).
      mask: class indices, shape (height, width).
      num_classes: number of classes.

    Raises:
      OSError: the file cannot be written.
    """
    hues = (k / max(num_classes - 1, 1) for k in range(num_classes - 1))
    colours = np.array([(0.0, 0.0, 0.0), *(colorsys.hsv_to_rgb(hue, 0.9, 1.0) for hue in hues)])
    opacity = np.where(mask > 0, _OPACITY, 0.0)[..., None]
    mixed = (1 - opacity) * np.broadcast_to(image, (*mask.shape, 3)) + opacity * colours[mask]
    _write(path, (255 * mixed).round().astype(np.uint8))


def _write(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    with written_whole(path) as file:
        Image.fromarray(pixels).save(file, format="PNG")
