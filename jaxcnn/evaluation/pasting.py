"""Masks of boxes as masks of the whole picture."""

from typing import Any

import numpy as np


def paste_masks(masks: Any, boxes: Any, size: tuple[int, int], *, threshold: float = 0.5) -> np.ndarray:
    """Resizes the mask of each box to the box, and puts it into an empty picture; on the host.

    The probability of a pixel is that of its centre, by bilinear interpolation between the centres of the pixels of the
    mask. torchvision's pasting differs: it rounds boxes to whole pixels after it has enlarged them by 1/28 (He et al.
    2017 leave it open).

    Args:
      masks: probabilities, shape (slots, height, width), such as "box_masks" of one image, of
        `MaskDetection.decode`.
      boxes: edges (left, top, right, bottom) in pixels of the picture, shape (slots, 4).
      size: (height, width) of the picture.
      threshold: least probability of a pixel of the object.

    Returns:
      Bool, shape (slots, *size); False outside of the box. A box without an area has an empty mask.

    Raises:
      ValueError: the shapes do not fit together.
    """
    masks, boxes = np.asarray(masks, np.float64), np.asarray(boxes, np.float64)
    if masks.ndim != 3 or boxes.shape != (len(masks), 4):
        raise ValueError(
            f"paste_masks expects masks (slots, height, width) and boxes (slots, 4), got {masks.shape} and "
            f"{boxes.shape}"
        )
    pasted = np.zeros((len(masks), *size), bool)
    for mask, (left, top, right, bottom), result in zip(masks, boxes, pasted, strict=True):
        rows, vertical = _samples(top, bottom, size[0], mask.shape[0])
        columns, horizontal = _samples(left, right, size[1], mask.shape[1])
        result[np.ix_(rows, columns)] = vertical @ mask @ horizontal.T >= threshold
    return pasted


def _samples(first: float, last: float, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels inside an extent, and the weights of the pixels of a mask at their centres."""
    centres = np.arange(size) + 0.5
    pixels = np.flatnonzero((centres > first) & (centres < last))
    places = np.clip((centres[pixels] - first) / (last - first or 1) * count - 0.5, 0, count - 1)
    return pixels, np.maximum(1 - np.abs(places[:, None] - np.arange(count)), 0)
