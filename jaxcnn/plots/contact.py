"""A contact sheet: a few examples of each class."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from jaxcnn.plots.figures import INK, LABEL, MARGIN_INCHES, checked_images, drawable, em, new_figure, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE, _GAP = 1.05, 0.06
_LONGEST = 24


def contact_sheet(rows: Sequence[tuple[str, ArrayLike]], *, title: str, subtitles: Sequence[str] = ()) -> "Figure":
    """Draws rows of images, each with its name at the left.

    Args:
      rows: at least one name and its images, grey or RGB, floating point in [0, 1], shape (examples, height, width,
        1 or 3); all of one size. Names longer than 24 characters are shortened.
      title: one line in bold.
      subtitles: grey lines below the title.

    Returns:
      A figure as wide as the longest row.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError: images are not floating point.
      ValueError: there are no rows, or images have another shape or values out of range.
    """
    if not rows:
        raise ValueError("contact_sheet expects at least one row of images, got none")
    names = [shorten(name, _LONGEST) for name in drawable([name for name, _ in rows])]
    images = [checked_images(row) for _, row in rows]
    longest = max(map(len, images))
    left = MARGIN_INCHES + max(map(len, names)) * em(LABEL) + (0.15 if any(names) else 0)
    # Wide enough for the heading.
    width = max(left + longest * (_SIZE + _GAP) + MARGIN_INCHES, 8.0)
    height = len(rows) * (_SIZE + _GAP) + MARGIN_INCHES
    figure = new_figure(width, height, title, *subtitles)
    total = figure.get_figheight()
    for place, (name, row) in enumerate(zip(names, images, strict=True)):
        bottom = height - (place + 1) * (_SIZE + _GAP)
        figure.text(
            MARGIN_INCHES / width,
            (bottom + _SIZE / 2) / total,
            name,
            va="center",
            fontsize=LABEL,
            color=INK,
            parse_math=False,
        )
        for column, image in enumerate(row):
            start = left + column * (_SIZE + _GAP)
            axes = figure.add_axes((start / width, bottom / total, _SIZE / width, _SIZE / total))
            pixels = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
            axes.imshow(pixels, vmin=0, vmax=1, interpolation="nearest", aspect="equal")
            axes.set_axis_off()
    return figure
