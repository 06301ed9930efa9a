"""Figures of a classifier's results: the confusion matrix and the mistakes."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from jaxcnn.plots.figures import (
    BLUE,
    FAINT_LINE,
    INK,
    LABEL,
    MARGIN_INCHES,
    TICK,
    VERMILLION,
    checked_images,
    counted,
    drawable,
    em,
    fit_below_heading,
    new_figure,
    percent,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_NUMBERED_CLASSES = 25
_MAX_NAMED_CLASSES = 100


def confusion(labels: ArrayLike, predictions: ArrayLike, class_names: Sequence[str], *, subtitle: str = "") -> "Figure":
    """Draws the confusion matrix: counts with the true class in rows and the predicted class in columns.

    The colour is the fraction of the true class: blue for correct, vermillion for errors. Errors are scaled by the
    largest error, so that they are visible beside a full diagonal. Empty cells are white. With up to 25 classes, each
    cell shows its count. The right margin shows the recall of each class, or 'n/a' without examples.

    Args:
      labels: the true classes, integers in [0, classes), shape (examples,).
      predictions: the predicted classes, integers in [0, classes), shape (examples,).
      class_names: one name for each class; with more than 100 classes only every second, third, ... is shown.
      subtitle: names model, data and set, such as 'lenet5 on digits, test set'.

    Returns:
      A figure whose size grows with the number of classes, up to about 15 inches on each side.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError: labels or predictions are not integers.
      ValueError: there are no examples, the lengths differ, or a class is out of range.
    """
    labels, predictions = _checked_classes(labels, predictions, class_names)
    classes = len(class_names)
    counts = np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)
    errors = int(np.count_nonzero(labels != predictions))
    return _draw_confusion(
        counts,
        drawable(class_names),
        f"Accuracy {percent(1 - errors / len(labels), 2)} (n = {len(labels):,}, {counted(errors, 'error')})",
        subtitle,
    )


def detection_confusion(
    counts: ArrayLike, class_names: Sequence[str], *, overlap: float = 0.5, score: float = 0.25, subtitle: str = ""
) -> "Figure":
    """Draws the confusion matrix of a detector, as `confusion` does.

    The last column has the missed objects of each class, and the last row the spurious detections; their colour is
    their number for each object of the class.

    Args:
      counts: of `jaxcnn.evaluation.detection_confusion`, shape (classes + 1, classes + 1).
      class_names: one name for each class.
      overlap: least overlap of a pair, for the heading.
      score: least score of a detection, for the heading.
      subtitle: names model, data and set.

    Returns:
      A figure, as of `confusion`.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: the counts have another shape.
    """
    counts, classes = np.asarray(counts), len(class_names)
    if counts.shape != (classes + 1, classes + 1):
        raise ValueError(f"expected counts of shape {(classes + 1, classes + 1)}, got {counts.shape}")
    objects, right = int(counts[:classes].sum()), int(np.diagonal(counts)[:classes].sum())
    wrong = int(counts[:classes, :classes].sum()) - right
    return _draw_confusion(
        counts,
        [*drawable(class_names), "none"],
        f"{right:,} of {counted(objects, 'object')} found",
        subtitle,
        f"{counts[:classes, classes].sum():,} missed, {wrong:,} of a wrong class, {counts[classes].sum():,} spurious; "
        f"scores of at least {score:g}, overlaps of at least {overlap:g}",
        with_none=True,
    )


def _draw_confusion(
    counts: np.ndarray, class_names: Sequence[str], title: str, *subtitles: str, with_none: bool = False
) -> "Figure":
    """Draws a confusion matrix; `with_none`: its last class stands for no object."""
    classes = len(class_names)
    class_sizes = counts.sum(axis=1)
    if with_none:
        # There is no number of places without an object: compare with the objects of the detected class.
        class_sizes[-1] = 0
        shares = counts / np.maximum(class_sizes, 1)[:, np.newaxis]
        shares[-1] = np.minimum(counts[-1] / np.maximum(class_sizes, 1), 1)
    else:
        shares = counts / np.maximum(class_sizes, 1)[:, np.newaxis]
    recalls = np.diagonal(shares)
    worst = np.where(np.eye(classes, dtype=bool), 0.0, shares).max()
    numbered = classes <= _MAX_NUMBERED_CLASSES

    names = [shorten(name, 18) for name in class_names]
    longest = max(len(name) for name in names)
    font = TICK if numbered else 7.0
    side = min(max(4.6, 0.64 * classes), 10.5) if numbered else 12.0
    label_inches = longest * em(font)
    across = label_inches < 0.85 * side / classes
    height = side + (0.3 if across else label_inches) + 0.9
    figure = new_figure(
        max(side + label_inches + 2.1, 8.0),
        height,
        title,
        *subtitles,
        f"Share of the true class: blue correct, orange wrong (darkest: {100 * worst:.3g} %)"
        if worst
        else "Share of the true class: blue correct",
    )
    fit_below_heading(figure, height)
    axes = figure.subplots()
    intensity = _intensity(shares, worst)
    axes.imshow(_confusion_colours(intensity), interpolation="nearest", aspect="equal")
    if numbered:
        size = min(15.0, 72 * side / classes / (0.75 * max(3, len(str(counts.max())))))
        for row, column in np.argwhere(counts):
            colour = "white" if row == column and intensity[row, column] > 0.6 else INK
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=size, color=colour)
        edges = np.arange(1, classes) - 0.5
        axes.hlines(edges, -0.5, classes - 0.5, color=FAINT_LINE, linewidth=0.8)
        axes.vlines(edges, -0.5, classes - 0.5, color=FAINT_LINE, linewidth=0.8)

    ticks = np.arange(0, classes, -(-classes // _MAX_NAMED_CLASSES))
    written = [names[tick] for tick in ticks]
    recall_texts = [percent(recalls[tick], 1).removesuffix(" %") if class_sizes[tick] else "n/a" for tick in ticks]
    recall_axis = axes.secondary_yaxis("right")
    axes.set_xticks(ticks, written, rotation=0 if across else 90, parse_math=False)
    axes.set_yticks(ticks, written, parse_math=False)
    recall_axis.set_yticks(ticks, recall_texts)
    axes.tick_params(length=0, labelsize=font, labelcolor=INK)
    recall_axis.tick_params(length=0, labelsize=font, labelcolor=INK)
    axes.set_xlabel("predicted class", fontsize=LABEL, color=INK, labelpad=8)
    axes.set_ylabel("true class", fontsize=LABEL, color=INK, labelpad=8)
    recall_axis.set_ylabel("recall (%)", fontsize=LABEL, color=INK, labelpad=8)
    for spine in (*axes.spines.values(), *recall_axis.spines.values()):
        spine.set_color(FAINT_LINE)
    return figure


def mistakes(
    images: ArrayLike | Callable[[np.ndarray], ArrayLike],
    labels: ArrayLike,
    predictions: ArrayLike,
    probabilities: ArrayLike,
    class_names: Sequence[str],
    *,
    limit: int = 24,
    subtitle: str = "",
) -> "Figure":
    """Draws the misclassified images, the most confident mistake first.

    Each has a title with the true class, the predicted class and its probability. Equal probabilities keep the order of
    the images. Without mistakes, the figure says so.

    Args:
      images: grey or RGB, floating point in [0, 1], shape (examples, height, width, 1 or 3); or a function that reads
        them: it is given the indices of the images to draw, shape (n,), and not called without mistakes.
      labels: the true classes, integers in [0, classes), shape (examples,).
      predictions: the predicted classes, integers in [0, classes), shape (examples,).
      probabilities: of all classes, in [0, 1] up to rounding, shape (examples, classes).
      class_names: one name for each class; names longer than 16 characters are shortened.
      limit: largest number of images to draw, at least 1.
      subtitle: names model, data and set, such as 'lenet5 on digits, test set'.

    Returns:
      A figure 8 to 14 inches wide, with 3 to 6 columns.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError: labels or predictions are not integers, or images are not floating point.
      ValueError: there are no examples, the shapes do not fit, a value is out of range, or `limit` is below 1.
    """
    labels, predictions = _checked_classes(labels, predictions, class_names)
    if not callable(images):
        images = checked_images(images)
        if len(images) != len(labels):
            raise ValueError(f"expected as many labels as images, got {len(images)} images and {len(labels)} labels")
    probabilities = _checked_probabilities(probabilities, (len(labels), len(class_names)))
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")

    wrong = np.flatnonzero(labels != predictions)
    if not wrong.size:
        return new_figure(
            8.0, 0.2, "No mistakes", subtitle, f"{counted(len(labels), 'image')}, all classified correctly"
        )
    confidences = probabilities[wrong, predictions[wrong]]
    order = np.argsort(-confidences, kind="stable")[:limit]
    shown = wrong[order]
    drawn = checked_images(images(shown)) if callable(images) else images[shown]
    if len(drawn) != len(shown):
        raise ValueError(f"expected {counted(len(shown), 'image')} from the function, got {len(drawn)}")
    names = np.array([shorten(name, 16) for name in drawable(class_names)])
    captions = [
        f"true {true},\npredicted {predicted} ({percent(confidence, 0)})"
        for true, predicted, confidence in zip(
            names[labels[shown]], names[predictions[shown]], confidences[order].tolist(), strict=True
        )
    ]

    longest = max(len(line) for caption in captions for line in caption.split("\n"))
    gap, caption_height = 0.2, 0.6
    cell = max(1.75, longest * em(TICK)) + gap
    picture = min(cell - gap, 2.3)
    picture_height = picture * min(1.0, drawn.shape[1] / drawn.shape[2])
    columns = int(min(6, 13.4 // cell, max(4, len(shown))))
    rows = -(-len(shown) // columns)
    below = rows * (caption_height + picture_height + gap) + MARGIN_INCHES
    figure = new_figure(
        max(columns * cell + 2 * MARGIN_INCHES, 8.0),
        below,
        f"{len(shown):,} of {counted(len(wrong), 'mistake')}" + (", most confident first" if len(shown) > 1 else ""),
        subtitle,
        f"{counted(len(wrong), 'mistake')} in {counted(len(labels), 'image')} ({percent(len(wrong) / len(labels), 1)})",
    )
    width, height = figure.get_size_inches()
    for place, (image, caption) in enumerate(zip(drawn, captions, strict=True)):
        row, column = divmod(place, columns)
        left = MARGIN_INCHES + column * cell
        bottom = below - (row + 1) * (caption_height + picture_height) - row * gap
        axes = figure.add_axes((left / width, bottom / height, picture / width, picture_height / height), anchor="NW")
        axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
        axes.set_axis_off()
        axes.set_title(caption, loc="left", fontsize=TICK, color=INK, pad=5, linespacing=1.15, parse_math=False)
    return figure


def _intensity(shares: np.ndarray, worst: float) -> np.ndarray:
    """Returns the colour intensity of each cell of a confusion matrix, in [0, 1], 0 for an empty cell.

    Errors are scaled by `worst`, the largest error. Cells with a count are visibly darker than empty cells.
    """
    scaled = np.where(np.eye(len(shares), dtype=bool), shares, shares / (worst or 1.0))
    return np.where(shares > 0, 0.15 + 0.85 * scaled, 0.0)


def _confusion_colours(intensity: np.ndarray) -> np.ndarray:
    """Returns RGB in [0, 1], shape (classes, classes, 3): white to blue on the diagonal, white to vermillion off it."""
    from matplotlib.colors import to_rgb

    diagonal = np.eye(len(intensity), dtype=bool)[..., np.newaxis]
    full = np.where(diagonal, to_rgb(BLUE), to_rgb(VERMILLION))
    return 1 - intensity[..., np.newaxis] * (1 - full)


def _checked_classes(
    labels: ArrayLike, predictions: ArrayLike, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Checks labels and predictions, and returns them as int64 arrays of shape (examples,)."""
    checked_labels = _checked_indices("labels", labels, len(class_names))
    checked_predictions = _checked_indices("predictions", predictions, len(class_names))
    if len(checked_labels) != len(checked_predictions):
        raise ValueError(
            f"expected as many predictions as labels, got {len(checked_labels)} labels "
            f"and {len(checked_predictions)} predictions"
        )
    return checked_labels, checked_predictions


def _checked_indices(name: str, indices: ArrayLike, classes: int) -> np.ndarray:
    """Checks class indices, and returns them as an int64 array of shape (examples,)."""
    checked = np.asarray(indices)
    if checked.ndim != 1 or not checked.size:
        raise ValueError(f"{name} must have shape (examples,) with at least one example, got {checked.shape}")
    if not np.issubdtype(checked.dtype, np.integer):
        raise TypeError(f"{name} must be integers, got {checked.dtype}; cast them, or take the argmax of probabilities")
    outside = np.flatnonzero((checked < 0) | (checked >= classes))
    if outside.size:
        first = int(outside[0])
        raise ValueError(f"{name} must be in [0, {classes}), got {checked[first]} at index {first}; name all classes")
    return checked.astype(np.int64)


def _checked_probabilities(probabilities: ArrayLike, shape: tuple[int, int]) -> np.ndarray:
    """Checks probabilities, and returns them as float64 of shape (examples, classes)."""
    checked = np.asarray(probabilities).astype(np.float64)
    if checked.shape != shape:
        raise ValueError(f"probabilities must have shape (examples, classes) = {shape}, got {checked.shape}")
    low, high = checked.min(), checked.max()
    if not (low >= 0 and high <= 1 + 1e-6):
        raise ValueError(
            f"probabilities must be in [0, 1], got values from {low:g} to {high:g}; take the softmax of logits first"
        )
    return checked
