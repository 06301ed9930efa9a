"""Objects of an image: boxes with their classes and masks, as arrays of a fixed number of slots.

An example of detection has "boxes", shape (slots, 4), and "valid", shape (slots,), which tells the slots that hold an
object. The others hold zeros. `OBJECTS` names what else it may have for each object.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

OBJECTS = ("boxes", "classes", "crowd", "difficult", "masks")
"""Entries of an example with the objects as their first axis, besides "valid"."""

_LEAST_SIDE = 1.0
"""Pixels that each side of a box must keep, unless it was shorter before."""


def pad_objects(objects: Mapping[str, np.ndarray], slots: int, name: str = "the image") -> dict[str, np.ndarray]:
    """Pads the objects of an image with zeros.

    Args:
      objects: entries among `OBJECTS`, with the objects as their first axis.
      slots: number of slots.
      name: of the image, for the message.

    Returns:
      The entries with `slots` as their first axis, and "valid", bool, shape (slots,).

    Raises:
      ValueError: there are more objects than slots.
    """
    count = len(objects["boxes"])
    if count > slots:
        raise ValueError(
            f"expected at most {slots} objects in {name}, the slots of an example, got {count}; read it with "
            f"max_objects={count} or more, on the command line --max-objects {count}"
        )

    def padded(array: np.ndarray) -> np.ndarray:
        whole = np.zeros((slots, *array.shape[1:]), array.dtype)
        whole[:count] = array
        return whole

    return {entry: padded(array) for entry, array in objects.items()} | {"valid": np.arange(slots) < count}


def moved_objects(
    objects: Mapping[str, Any], moved: Any, size: tuple[int, int], *, least_visible: float = 0.1, centred: bool = False
) -> dict[str, Any]:
    """Clips objects to a new image, and drops those of which too little is left.

    An object is no longer valid if less than `least_visible` of its moved box is in the image (or, if `centred`, the
    centre of its box is not), if a side has become shorter than a pixel, or if its mask is empty.

    Args:
      objects: "boxes", shape (slots, 4), before the move; "valid"; and other entries of `OBJECTS`, with masks of the
        new image. NumPy or JAX arrays.
      moved: the boxes after the move, shape (slots, 4), not yet clipped.
      size: (height, width) of the new image.
      least_visible: the part of the area of a moved box that must be in the image, in [0, 1].
      centred: whether the place of the centre decides, as in SSD.

    Returns:
      The entries of the new image, with zeros in the slots that are not valid.
    """
    xp = moved.__array_namespace__()
    height, width = size
    limits = xp.asarray([width, height, width, height], dtype=moved.dtype)
    clipped = xp.clip(moved, xp.zeros_like(limits), limits)
    before, whole, left = (boxes[:, 2:] - boxes[:, :2] for boxes in (objects["boxes"], moved, clipped))
    if centred:
        centres = (moved[:, 2:] + moved[:, :2]) / 2
        enough = ((centres >= 0) & (centres < limits[2:])).all(1)
    else:
        enough = left.prod(1) >= least_visible * whole.prod(1)
    large = ((left > 0) & ((left >= _LEAST_SIDE) | (left >= before))).all(1)
    valid = objects["valid"] & enough & large
    if "masks" in objects:
        valid = valid & objects["masks"].any((1, 2))
    entries = {**objects, "boxes": clipped}
    return {"valid": valid} | {
        name: xp.where(valid.reshape(-1, *[1] * (entries[name].ndim - 1)), entries[name], xp.zeros_like(entries[name]))
        for name in OBJECTS
        if name in objects
    }
