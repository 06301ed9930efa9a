"""The figure of augmented examples beside their originals."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcnn.plots.detection import MASK_OPACITY, draw_boxes, with_masks
from jaxcnn.plots.figures import (
    INK,
    LABEL,
    MARGIN_INCHES,
    checked_images,
    class_colour,
    drawable,
    new_figure,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE, _GAP = 1.7, 0.1


def augmented(
    rows: Sequence[Sequence[Mapping[str, Any]]],
    titles: Sequence[str] = (),
    *,
    ignore_index: int | None = None,
    subtitle: str = "",
) -> "Figure":
    """Draws originals and augmented forms of them, one row for each original.

    A mask lies over its image in the colours of its classes, white where it belongs to no class. Objects have a frame,
    and their masks lie over the image, in the colour of their class.

    Args:
      rows: at least one; the original first, and then its augmented forms, as many in each row. Each is an example
        with "image", grey or RGB, floating point in [0, 1], shape (height, width, 1 or 3); optionally with "mask",
        shape (height, width), integers; optionally with "boxes", shape (boxes, 4), edges (left, top, right, bottom) in
        pixels, "valid", shape (boxes,), "classes", shape (boxes,), and "masks", bool, shape (boxes, height, width).
      titles: of the originals, such as their classes; names longer than 18 characters are shortened.
      ignore_index: the value of the pixels of a mask that belong to no class; None if there is none.
      subtitle: what was drawn, such as the data and the augmentation.

    Returns:
      A figure with one picture for each example.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError: images are not floating point.
      ValueError: there is no row, the rows differ in length, or images have another shape or values out of range.
    """
    counts = {len(row) for row in rows}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"augmented expects rows of the same number of examples, at least 1, got {sorted(counts)}")
    [columns] = counts
    if titles and len(titles) != len(rows):
        raise ValueError(f"augmented expects a title for each of the {len(rows)} rows, got {len(titles)}")
    pictures = [[_drawn(example, ignore_index) for example in row] for row in rows]
    heights = [max(_SIZE * picture.shape[0] / picture.shape[1] for picture in row) for row in pictures]
    label_inches = 0.32 if titles else 0.0
    height = sum(heights) + len(rows) * (_GAP + label_inches) + MARGIN_INCHES
    # As wide as a heading of one line needs.
    total_width = max(columns * (_SIZE + _GAP) + 2 * MARGIN_INCHES, 6.0)
    figure = new_figure(total_width, height, "Original and augmented", subtitle)
    width, total = figure.get_size_inches()
    bottom = height
    names = [shorten(text, 18) for text in drawable(titles)]
    for place, (row, row_height) in enumerate(zip(pictures, heights, strict=True)):
        bottom -= row_height + label_inches + _GAP
        for column, picture in enumerate(row):
            tall = _SIZE * picture.shape[0] / picture.shape[1]
            left = MARGIN_INCHES + column * (_SIZE + _GAP)
            axes = figure.add_axes((left / width, (bottom + row_height - tall) / total, _SIZE / width, tall / total))
            axes.imshow(picture, vmin=0, vmax=1, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            if "boxes" in rows[place][column]:
                draw_boxes(axes, rows[place][column])
            if names and column == 0:
                axes.set_title(names[place], loc="left", fontsize=LABEL, color=INK, pad=4, parse_math=False)
    return figure


def _drawn(example: Mapping[str, Any], ignore_index: int | None) -> np.ndarray:
    """Returns the picture of an example with its mask, RGB."""
    # Interpolation rounds, and may leave the range by the last bit.
    image = np.asarray(example["image"])
    image = np.clip(image, 0, 1) if image.dtype.kind == "f" and np.abs(image - 0.5).max() <= 0.501 else image
    [pixels] = checked_images(image[None])
    pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    if "mask" in example:
        mask, colours = np.asarray(example["mask"]), np.ones_like(pixels)
        for value in np.unique(mask):
            if value != ignore_index:
                colours[mask == value] = class_colour(int(value))
        pixels = (1 - MASK_OPACITY) * pixels + MASK_OPACITY * colours
    return with_masks(pixels, example)
