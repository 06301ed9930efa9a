"""The figure of a segmenter's results: images with their true and predicted masks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from jaxcnn.plots.figures import (
    GREY,
    INK,
    LABEL,
    MARGIN_INCHES,
    TICK,
    checked_images,
    class_colour,
    counted,
    drawable,
    em,
    new_figure,
    percent,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OPACITY = 0.6
_IGNORED = (1.0, 1.0, 1.0)
_COLUMNS = ("image", "truth", "prediction")


def segmentations(
    images: ArrayLike,
    masks: ArrayLike,
    predictions: ArrayLike,
    class_names: Sequence[str],
    *,
    ignore_index: int | None = None,
    limit: int = 6,
    subtitle: str = "",
) -> "Figure":
    """Draws images beside their true and predicted masks, one row for each image, in the given order.

    A mask is drawn in the colours of its classes over the image in grey. The legend lists the classes that occur.
    Pixels to ignore are white in the true mask, and do not count in the pixel accuracy.

    Args:
      images: grey or RGB, floating point in [0, 1], shape (examples, height, width, 1 or 3).
      masks: the true class of each pixel, integers in [0, classes) or `ignore_index`, shape (examples, height, width).
      predictions: the predicted class of each pixel, integers in [0, classes), shape (examples, height, width).
      class_names: one name for each class; names longer than 18 characters are shortened.
      ignore_index: the value of pixels in `masks` to ignore; None if there is none.
      limit: largest number of images to draw, at least 1.
      subtitle: names model, data and set, such as 'unet on shapes, test set'.

    Returns:
      A figure about 9 inches wide, with up to `limit` rows of three pictures.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError: masks or predictions are not integers, or images are not floating point.
      ValueError: there are no images, the shapes do not fit, a value is out of range, or `limit` is below 1.
    """
    pixels = checked_images(images)
    truth = _checked_masks("masks", masks, pixels.shape[:3], len(class_names), ignore_index)
    guess = _checked_masks("predictions", predictions, pixels.shape[:3], len(class_names), None)
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    shown = slice(0, min(limit, len(pixels)))
    counts = np.ones(truth.shape, bool) if ignore_index is None else truth != ignore_index
    palette = [class_colour(k) for k in range(len(class_names))]
    colours = np.array(palette)
    occurring = np.union1d(truth[shown][counts[shown]], guess[shown])
    legend = [(shorten(text, 18), palette[k]) for k, text in enumerate(drawable(class_names)) if k in occurring]
    if not counts[shown].all():
        legend.append(("ignored", _IGNORED))
    rows = shown.stop
    size, gap, label_inches = 2.6, 0.12, 0.35
    tall = size * pixels.shape[1] / pixels.shape[2]
    entry = 0.55 + max(len(name) for name, _ in legend) * em(TICK)
    height = max(label_inches + rows * (tall + gap), label_inches + 0.3 * len(legend)) + MARGIN_INCHES
    figure = new_figure(
        3 * (size + gap) + 2 * MARGIN_INCHES + entry,
        height,
        f"Pixel accuracy {percent(np.mean((truth == guess)[counts]), 1)}" if counts.any() else "No pixel to compare",
        subtitle,
        f"{rows} of {counted(len(pixels), 'image')}",
    )
    width, total = figure.get_size_inches()
    for row in range(rows):
        grey = pixels[row].mean(axis=-1, keepdims=True).repeat(3, axis=-1)
        drawn = pixels[row].repeat(3, axis=-1) if pixels.shape[-1] == 1 else pixels[row]
        true_colours = np.where(counts[row][..., None], colours[np.where(counts[row], truth[row], 0)], _IGNORED)
        pictures = (drawn, _overlay(grey, true_colours), _overlay(grey, colours[guess[row]]))
        for column, (name, picture) in enumerate(zip(_COLUMNS, pictures, strict=True)):
            left = MARGIN_INCHES + column * (size + gap)
            bottom = height - label_inches - (row + 1) * (tall + gap) + gap
            axes = figure.add_axes((left / width, bottom / total, size / width, tall / total))
            axes.imshow(picture, vmin=0, vmax=1, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            if row == 0:
                axes.set_title(name, loc="left", fontsize=LABEL, fontweight="bold", color=INK, pad=6)
    left = MARGIN_INCHES + 3 * (size + gap)
    _draw_legend(figure.add_axes((left / width, 0, entry / width, (height - label_inches) / total)), legend)
    return figure


def _draw_legend(axes: "Axes", legend: Sequence[tuple[str, tuple[float, float, float]]]) -> None:
    """Draws a square of each colour beside its name, from the top."""
    from matplotlib.patches import Patch

    axes.set_axis_off()
    squares = [Patch(facecolor=colour, edgecolor=GREY, label=name) for name, colour in legend]
    drawn = axes.legend(
        handles=squares,
        loc="upper left",
        frameon=False,
        fontsize=TICK,
        labelcolor=INK,
        borderaxespad=0,
        handlelength=1.2,
    )
    for text in drawn.get_texts():
        text.set_parse_math(False)


def _overlay(grey: np.ndarray, colours: np.ndarray) -> np.ndarray:
    return (1 - _OPACITY) * grey + _OPACITY * colours


def _checked_masks(
    name: str, masks: ArrayLike, shape: tuple[int, ...], classes: int, ignore_index: int | None
) -> np.ndarray:
    """Checks masks, and returns them as int64 of the shape of the images without channels."""
    checked = np.asarray(masks)
    if checked.shape != shape:
        raise ValueError(f"{name} must have shape (examples, height, width) = {shape}, got {checked.shape}")
    if not np.issubdtype(checked.dtype, np.integer):
        raise TypeError(f"{name} must be integers, got {checked.dtype}; cast them, or take the argmax of probabilities")
    checked = checked.astype(np.int64)
    outside = (checked < 0) | (checked >= classes)
    if ignore_index is not None:
        outside &= checked != ignore_index
    if outside.any():
        raise ValueError(f"{name} must be in [0, {classes}), got {checked[outside][0]}; name all classes")
    return checked
