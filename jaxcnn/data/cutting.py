"""Cuts parts out of examples, and resizes them."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from jaxcnn.data.pictures import resize_mask, resize_picture


class Box(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


Choose: TypeAlias = Callable[[int, int], Box]
"""Chooses the part of a picture of a height and a width."""


def cut(example: Mapping[str, np.ndarray], choose: Choose, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Cuts a part out of the image, and the same part out of its mask, and resizes it.

    Args:
      example: "image", uint8 or float32, shape (height, width, channels); perhaps "mask", shape (height, width). Other
        entries stay as they are.
      choose: chooses the part.
      size: (height, width) of the result.

    Returns:
      The example with "image" of shape (*size, channels), and "mask" of shape `size`.
    """
    top, left, height, width = choose(*example["image"].shape[:2])
    resized = {"image": resize_picture, "mask": resize_mask}
    return dict(example) | {
        name: resize(example[name][top : top + height, left : left + width], size)
        for name, resize in resized.items()
        if name in example
    }
