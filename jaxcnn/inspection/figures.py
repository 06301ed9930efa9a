"""Draws the curves, the confusion matrix and the mistakes of a training run.

`*_figure` returns a matplotlib figure; `plot_*` writes it as a PNG file. Nothing here uses pyplot, so no display is
needed and no figure stays in memory.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from jaxcnn.files import written_whole
from jaxcnn.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 150
_HEADING_INCHES = 1.05
_MARGIN_INCHES = 0.3

# Blue and vermillion of M. Okabe and K. Ito, "Color Universal Design" (2008): distinguishable with every colour vision.
_BLUE = "#0072B2"
_VERMILLION = "#D55E00"
_GREY = "#8C8C8C"
_INK = "#222222"
_FAINT_INK = "#5A5A5A"
_FAINT_LINE = "#DDDDDD"

# Font sizes in points.
_TITLE, _SUBTITLE, _LABEL, _TICK = 19.0, 13.5, 14.0, 12.5

_MAX_DOTTED_EPOCHS = 15
_MAX_NUMBERED_CLASSES = 25
_MAX_NAMED_CLASSES = 100
_CURVES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
_CURVE_STYLES = {"training": (_GREY, 2.0), "validation": (_BLUE, 2.8)}


def plot_curves(
    history: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    *,
    best_epoch: int | None = None,
    train_note: str | None = None,
) -> None:
    """Writes `curves_figure` to a PNG file atomically.

    Args:
      history: as in `curves_figure`.
      path: a file with the extension .png in an existing folder; an older file is replaced.
      best_epoch: as in `curves_figure`.
      train_note: as in `curves_figure`.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: as in `curves_figure`, or the extension of `path` is not .png.
      OSError: `path` cannot be written; see `jaxcnn.files.check_target`.
    """
    _write(curves_figure(history, best_epoch=best_epoch, train_note=train_note), path)


def plot_confusion(
    labels: ArrayLike, predictions: ArrayLike, class_names: Sequence[str], path: str | os.PathLike[str]
) -> None:
    """Writes `confusion_figure` to a PNG file atomically.

    Args:
      labels: as in `confusion_figure`.
      predictions: as in `confusion_figure`.
      class_names: as in `confusion_figure`.
      path: a file with the extension .png in an existing folder; an older file is replaced.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError: as in `confusion_figure`.
      ValueError: as in `confusion_figure`, or the extension of `path` is not .png.
      OSError: `path` cannot be written; see `jaxcnn.files.check_target`.
    """
    _write(confusion_figure(labels, predictions, class_names), path)


def plot_mistakes(
    images: ArrayLike,
    labels: ArrayLike,
    predictions: ArrayLike,
    probabilities: ArrayLike,
    class_names: Sequence[str],
    path: str | os.PathLike[str],
    limit: int = 24,
) -> None:
    """Writes `mistakes_figure` to a PNG file atomically.

    Args:
      images: as in `mistakes_figure`.
      labels: as in `mistakes_figure`.
      predictions: as in `mistakes_figure`.
      probabilities: as in `mistakes_figure`.
      class_names: as in `mistakes_figure`.
      path: a file with the extension .png in an existing folder; an older file is replaced.
      limit: as in `mistakes_figure`.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError: as in `mistakes_figure`.
      ValueError: as in `mistakes_figure`, or the extension of `path` is not .png.
      OSError: `path` cannot be written; see `jaxcnn.files.check_target`.
    """
    _write(mistakes_figure(images, labels, predictions, probabilities, class_names, limit), path)


def curves_figure(
    history: Sequence[Mapping[str, Any]], *, best_epoch: int | None = None, train_note: str | None = None
) -> "Figure":
    """Draws loss and accuracy over the epochs, training and validation in one panel each.

    The loss axis is logarithmic if all values are above 0 and the largest is at least 10 times the smallest. The
    accuracy axis may cut off the lowest tenth of a curve, so that a bad start does not flatten the rest. A value that
    is None or non-finite is omitted: the line continues to the next value, and the panel gives the number of such
    epochs. A curve of up to 15 values has a dot for each value, so that a single epoch is visible.

    Args:
      history: one mapping per epoch, in order, with the numbers 'epoch', 'train_loss', 'train_accuracy',
        'validation_loss' and 'validation_accuracy', accuracies in [0, 1]; other keys are ignored.
      best_epoch: the epoch of the history to mark; None for no mark.
      train_note: how the training curves were measured, for example 'measured on augmented images'.

    Returns:
      A figure of 12.8 x 6 inches.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: the history is empty, lacks a key, has epochs that do not increase or an accuracy outside [0, 1], or
        the best epoch is not in the history or has no validation accuracy.
    """
    columns = _checked_history(history)
    epochs, accuracy = columns["epoch"], columns["validation_accuracy"]
    best = None if best_epoch is None else _checked_best(epochs, accuracy, best_epoch)
    measured = np.flatnonzero(np.isfinite(accuracy)).tolist()
    if best is not None:
        title = f"Best validation accuracy {_percent(accuracy[best], 2)} at epoch {epochs[best]:g}"
    elif measured:
        title = f"Validation accuracy {_percent(accuracy[measured[-1]], 2)} after epoch {epochs[measured[-1]]:g}"
    else:
        title = "No validation accuracy"
    subtitle = _count(len(epochs), "epoch") + (f"; training: {train_note}" if train_note else "")

    figure = _new_figure(12.8, 5.2, title, subtitle)
    _fit_below_heading(figure)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    losses = {"training": columns["train_loss"], "validation": columns["validation_loss"]}
    accuracies = {"training": 100 * columns["train_accuracy"], "validation": 100 * accuracy}
    _scale_loss(loss_axes, losses)
    _scale_accuracy(accuracy_axes, accuracies, best)
    _draw_curves(loss_axes, epochs, losses, best, "" if best is None else f"epoch {epochs[best]:g}")
    _draw_curves(accuracy_axes, epochs, accuracies, best, "" if best is None else _percent(accuracy[best], 2))
    return figure


def confusion_figure(labels: ArrayLike, predictions: ArrayLike, class_names: Sequence[str]) -> "Figure":
    """Draws the confusion matrix: counts with the true class in rows and the predicted class in columns.

    The colour is the fraction of the true class: blue for correct, vermillion for errors. Errors are scaled by the
    largest error, so that they are visible beside a full diagonal. Empty cells are white. With up to 25 classes, each
    cell shows its count. The right margin shows the recall of each class, or 'n/a' without examples.

    Args:
      labels: the true classes, integers in [0, classes), shape (examples,).
      predictions: the predicted classes, integers in [0, classes), shape (examples,).
      class_names: one name for each class; with more than 100 classes only every second, third, ... is shown.

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
    class_sizes = counts.sum(axis=1)
    shares = counts / np.maximum(class_sizes, 1)[:, np.newaxis]
    recalls = np.diagonal(shares)
    worst = np.where(np.eye(classes, dtype=bool), 0.0, shares).max()
    errors = int(np.count_nonzero(labels != predictions))
    numbered = classes <= _MAX_NUMBERED_CLASSES

    names = [_shorten(printable(name), 18) for name in class_names]
    longest = max(len(name) for name in names)
    font = _TICK if numbered else 7.0
    side = min(max(4.6, 0.64 * classes), 10.5) if numbered else 12.0
    label_inches = longest * _em(font)
    across = label_inches < 0.85 * side / classes
    figure = _new_figure(
        max(side + label_inches + 2.1, 8.0),
        side + (0.3 if across else label_inches) + 0.9,
        f"Accuracy {_percent(1 - errors / len(labels), 2)} (n = {len(labels):,}, {_count(errors, 'error')})",
        f"Share of the true class: blue correct, orange wrong (darkest: {100 * worst:.3g} %)"
        if errors
        else "Share of the true class: blue correct",
    )
    _fit_below_heading(figure)
    axes = figure.subplots()
    intensity = _intensity(shares, worst)
    axes.imshow(_confusion_colours(intensity), interpolation="nearest", aspect="equal")
    if numbered:
        size = min(15.0, 72 * side / classes / (0.75 * max(3, len(str(counts.max())))))
        for row, column in np.argwhere(counts):
            colour = "white" if row == column and intensity[row, column] > 0.6 else _INK
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=size, color=colour)
        edges = np.arange(1, classes) - 0.5
        axes.hlines(edges, -0.5, classes - 0.5, color=_FAINT_LINE, linewidth=0.8)
        axes.vlines(edges, -0.5, classes - 0.5, color=_FAINT_LINE, linewidth=0.8)

    ticks = np.arange(0, classes, -(-classes // _MAX_NAMED_CLASSES))
    written = [names[tick] for tick in ticks]
    recall_texts = [_percent(recalls[tick], 1).removesuffix(" %") if class_sizes[tick] else "n/a" for tick in ticks]
    recall_axis = axes.secondary_yaxis("right")
    axes.set_xticks(ticks, written, rotation=0 if across else 90, parse_math=False)
    axes.set_yticks(ticks, written, parse_math=False)
    recall_axis.set_yticks(ticks, recall_texts)
    axes.tick_params(length=0, labelsize=font, labelcolor=_INK)
    recall_axis.tick_params(length=0, labelsize=font, labelcolor=_INK)
    axes.set_xlabel("predicted class", fontsize=_LABEL, color=_INK, labelpad=8)
    axes.set_ylabel("true class", fontsize=_LABEL, color=_INK, labelpad=8)
    recall_axis.set_ylabel("recall (%)", fontsize=_LABEL, color=_INK, labelpad=8)
    for spine in (*axes.spines.values(), *recall_axis.spines.values()):
        spine.set_color(_FAINT_LINE)
    return figure


def mistakes_figure(
    images: ArrayLike,
    labels: ArrayLike,
    predictions: ArrayLike,
    probabilities: ArrayLike,
    class_names: Sequence[str],
    limit: int = 24,
) -> "Figure":
    """Draws the misclassified images, the most confident mistake first.

    Each has a title with the true class, the predicted class and its probability. Equal probabilities keep the order of
    the images. Without mistakes, the figure says so.

    Args:
      images: grey or RGB, floating point in [0, 1], shape (examples, height, width, 1 or 3).
      labels: the true classes, integers in [0, classes), shape (examples,).
      predictions: the predicted classes, integers in [0, classes), shape (examples,).
      probabilities: of all classes, in [0, 1] up to rounding, shape (examples, classes).
      class_names: one name for each class; names longer than 16 characters are shortened.
      limit: largest number of images to draw, at least 1.

    Returns:
      A figure 8 to 14 inches wide, with 3 to 6 columns.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError: labels or predictions are not integers, or images are not floating point.
      ValueError: there are no examples, the shapes do not fit, a value is out of range, or `limit` is below 1.
    """
    labels, predictions = _checked_classes(labels, predictions, class_names)
    images = _checked_images(images, len(labels))
    probabilities = _checked_probabilities(probabilities, (len(labels), len(class_names)))
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")

    wrong = np.flatnonzero(labels != predictions)
    if not wrong.size:
        return _new_figure(8.0, 0.2, "No mistakes", f"{_count(len(labels), 'image')}, all classified correctly")
    confidences = probabilities[wrong, predictions[wrong]]
    order = np.argsort(-confidences, kind="stable")[:limit]
    shown = wrong[order]
    names = np.array([_shorten(printable(name), 16) for name in class_names])
    captions = [
        f"true {true},\npredicted {predicted} ({_percent(confidence, 0)})"
        for true, predicted, confidence in zip(
            names[labels[shown]], names[predictions[shown]], confidences[order].tolist(), strict=True
        )
    ]

    longest = max(len(line) for caption in captions for line in caption.split("\n"))
    gap, caption_height = 0.2, 0.6
    cell = max(1.75, longest * _em(_TICK)) + gap
    picture = min(cell - gap, 2.3)
    picture_height = picture * min(1.0, images.shape[1] / images.shape[2])
    columns = int(min(6, 13.4 // cell, max(4, len(shown))))
    rows = -(-len(shown) // columns)
    figure = _new_figure(
        max(columns * cell + 2 * _MARGIN_INCHES, 8.0),
        rows * (caption_height + picture_height + gap) + _MARGIN_INCHES,
        f"{len(shown):,} of {_count(len(wrong), 'mistake')}" + (", most confident first" if len(shown) > 1 else ""),
        f"{_count(len(wrong), 'mistake')} in {_count(len(labels), 'image')} ({_percent(len(wrong) / len(labels), 1)})",
    )
    width, height = figure.get_size_inches()
    for place, (index, caption) in enumerate(zip(shown, captions, strict=True)):
        row, column = divmod(place, columns)
        left = _MARGIN_INCHES + column * cell
        bottom = height - _HEADING_INCHES - (row + 1) * (caption_height + picture_height) - row * gap
        axes = figure.add_axes((left / width, bottom / height, picture / width, picture_height / height), anchor="NW")
        axes.imshow(images[index][..., 0] if images.shape[-1] == 1 else images[index], cmap="gray", vmin=0, vmax=1)
        axes.set_axis_off()
        axes.set_title(caption, loc="left", fontsize=_TICK, color=_INK, pad=5, linespacing=1.15, parse_math=False)
    return figure


def _new_figure(width: float, height: float, title: str, subtitle: str) -> "Figure":
    """Returns an empty figure with a heading; `width` and `height` are the size below the heading, in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures expect matplotlib to be installed; pip install 'jaxcnn[cli]'") from error
    total = height + _HEADING_INCHES
    figure = Figure(figsize=(width, total), dpi=_DPI, facecolor="white")
    left = _MARGIN_INCHES / width
    figure.text(
        left, 1 - 0.25 / total, title, va="top", fontsize=_TITLE, fontweight="bold", color=_INK, parse_math=False
    )
    figure.text(left, 1 - 0.65 / total, subtitle, va="top", fontsize=_SUBTITLE, color=_FAINT_INK, parse_math=False)
    return figure


def _fit_below_heading(figure: "Figure") -> None:
    """Fits the axes below the heading, which the layout engine ignores."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    below = 1 - _HEADING_INCHES / figure.get_figheight()
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, 0, 1, below), w_pad=0.2, h_pad=0.12, wspace=0.04))


def _write(figure: "Figure", path: str | os.PathLike[str]) -> None:
    """Writes a figure to a PNG file atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"expected a path with the extension .png, got {str(path)!r}")
    with written_whole(path) as file:
        # Not `savefig`: the user's settings may change its size and background.
        FigureCanvasAgg(figure).print_png(file)


def _scale_loss(axes: "Axes", curves: Mapping[str, np.ndarray]) -> None:
    """Sets the limits and the scale of the loss axis, and the title of the panel."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    values = np.concatenate([curve[np.isfinite(curve)] for curve in curves.values()])
    low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
    if low > 0 and high / low >= 10:
        margin = (high / low) ** 0.05
        axes.set_yscale("log")
        axes.set_ylim(low / margin, high * margin)
        # Within three decades, the powers of ten alone would be too few labels.
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1000 else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="minor", length=0)
        title = "Loss (log scale)"
    else:
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
        axes.set_ylim(low - margin, high + margin)
        axes.ticklabel_format(axis="y", useOffset=False)
        title = "Loss"
    axes.set_title(title, loc="left", fontsize=_LABEL, fontweight="bold", color=_INK, pad=32)


def _scale_accuracy(axes: "Axes", curves: Mapping[str, np.ndarray], best: int | None) -> None:
    """Sets the limits of the accuracy axis, in percent, and the title of the panel."""
    finite = [curve[np.isfinite(curve)] for curve in curves.values()]
    finite = [curve for curve in finite if curve.size] or [np.array([0.0, 100.0])]
    # Include the last value, which has the name of the curve.
    low = min(min(np.quantile(curve, 0.1, method="lower"), curve[-1]) for curve in finite)
    if best is not None:
        low = min(low, curves["validation"][best])
    high = max(curve.max() for curve in finite)
    # At least two percentage points, so that the noise of a flat curve is not magnified.
    margin = max(0.06 * (high - low), (2.0 - (high - low)) / 2)
    # Space above 100 %, so that the mark of a perfect epoch is not cut off.
    axes.set_ylim(max(low - margin, -2.0), min(high + margin, 100 + 0.03 * (100 - low) + 0.05))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_title("Accuracy (%)", loc="left", fontsize=_LABEL, fontweight="bold", color=_INK, pad=32)


def _draw_curves(
    axes: "Axes", epochs: np.ndarray, curves: Mapping[str, np.ndarray], best: int | None, best_text: str
) -> None:
    """Draws a training and a validation curve with labels at the right end, and marks the best epoch."""
    from matplotlib.ticker import MaxNLocator

    margin = max(0.03 * (epochs[-1] - epochs[0]), 0.3)
    axes.set_xlim(epochs[0] - margin, epochs[-1] + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    incomplete = np.count_nonzero(~np.isfinite(list(curves.values())).all(axis=0))
    note = f" ({incomplete} of {len(epochs)} lack a finite value)" if incomplete else ""
    axes.set_xlabel(f"epoch{note}", fontsize=_LABEL, color=_INK, labelpad=6)
    axes.tick_params(labelsize=_TICK, labelcolor=_INK, color=_FAINT_LINE)
    axes.grid(axis="y", color=_FAINT_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_GREY)

    ends: dict[str, np.ndarray] = {}
    to_fraction = axes.transData + axes.transAxes.inverted()
    for name, curve in curves.items():
        colour, width = _CURVE_STYLES[name]
        there = np.isfinite(curve)
        if there.any():
            marker = "o" if np.count_nonzero(there) <= _MAX_DOTTED_EPOCHS else None
            axes.plot(epochs[there], curve[there], color=colour, linewidth=width, marker=marker, markersize=5.5)
            ends[name] = to_fraction.transform((epochs[there][-1], curve[there][-1]))
    heights = _apart({name: height for name, (_, height) in ends.items()}, 0.07)
    for name, (right, _) in ends.items():
        axes.annotate(
            name,
            (right, heights[name]),
            xycoords="axes fraction",
            xytext=(12, 0),
            textcoords="offset points",
            va="center",
            fontsize=_LABEL,
            color=_CURVE_STYLES[name][0],
        )
    if best is not None:
        axes.axvline(epochs[best], color=_GREY, linewidth=1.2, linestyle=(0, (2, 2)), zorder=1)
        axes.plot(
            epochs[best],
            curves["validation"][best],
            marker="o",
            markersize=11,
            markerfacecolor="white",
            markeredgecolor=_BLUE,
            markeredgewidth=2.5,
        )
        axes.text(
            epochs[best],
            1.035,
            best_text,
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=_TICK,
            color=_BLUE,
        )


def _apart(heights: Mapping[str, float], distance: float) -> dict[str, float]:
    """Moves at most two heights apart, around their mean, to a distance of at least `distance`."""
    if len(heights) < 2:
        return dict(heights)
    (low_name, low), (high_name, high) = sorted(heights.items(), key=lambda item: item[1])
    push = max(0.0, distance - (high - low)) / 2
    return {low_name: low - push, high_name: high + push}


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
    full = np.where(diagonal, to_rgb(_BLUE), to_rgb(_VERMILLION))
    return 1 - intensity[..., np.newaxis] * (1 - full)


def _percent(fraction: float, decimals: int) -> str:
    """Returns a percentage such as '98.3 %'; '>99.9 %' if rounding would give 100 %."""
    text = f"{100 * fraction:.{decimals}f}"
    if fraction < 1 and float(text) == 100:
        text = f">{100 - 10**-decimals:.{decimals}f}"
    return f"{text} %"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _shorten(name: str, length: int) -> str:
    """Shortens a long name in the middle: names often differ at the end."""
    if len(name) <= length:
        return name
    tail = (length - 1) // 2
    return f"{name[: length - 1 - tail]}…{name[-tail:]}"


def _em(font: float) -> float:
    """Returns the mean width of a character of DejaVu Sans, in inches, for a font size in points."""
    return 0.57 * font / 72


def _checked_history(history: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Checks a history, and returns the epochs and the four curves as float64 arrays (epochs,), with None as NaN."""
    if not history:
        raise ValueError("history is empty, expected one mapping per epoch; draw the curves after the first epoch")
    columns = {name: np.full(len(history), np.nan) for name in ("epoch", *_CURVES)}
    for place, row in enumerate(history):
        lacking = [name for name in columns if name not in row]
        if lacking:
            raise ValueError(f"history needs the keys {lacking}, but entry {place} has only {sorted(row)}")
        for name, column in columns.items():
            try:
                column[place] = np.nan if row[name] is None else float(row[name])
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name} must be a number or None, got {row[name]!r} in entry {place}") from error
    epochs = columns["epoch"]
    if not np.isfinite(epochs).all():
        place = int(np.argmin(np.isfinite(epochs)))
        raise ValueError(f"epoch must be a finite number, got {epochs[place]} in entry {place}")
    backward = np.flatnonzero(~(np.diff(epochs) > 0))
    if backward.size:
        before, after = epochs[backward[0]], epochs[backward[0] + 1]
        raise ValueError(
            f"the epochs of the history must increase, got {after:g} after {before:g}; drop repeated epochs"
        )
    for name in ("train_accuracy", "validation_accuracy"):
        outside = np.flatnonzero((columns[name] < 0) | (columns[name] > 1))
        if outside.size:
            raise ValueError(
                f"{name} must be a fraction in [0, 1], got {columns[name][outside[0]]:g} at epoch "
                f"{epochs[outside[0]]:g}; divide percent by 100"
            )
    return columns


def _checked_best(epochs: np.ndarray, accuracy: np.ndarray, best_epoch: int) -> int:
    """Checks the best epoch, and returns its index in the history."""
    places = np.flatnonzero(epochs == best_epoch)
    if not places.size:
        raise ValueError(
            f"best_epoch must be an epoch of the history ({epochs[0]:g} to {epochs[-1]:g}), got {best_epoch}"
        )
    if not np.isfinite(accuracy[places[0]]):
        raise ValueError(f"best_epoch {best_epoch} has the validation accuracy {accuracy[places[0]]}; choose another")
    return int(places[0])


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


def _checked_images(images: ArrayLike, examples: int) -> np.ndarray:
    """Checks images, and returns them as float32."""
    pixels = np.asarray(images)
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(f"images must have shape (examples, height, width, 1 or 3), got {pixels.shape}")
    if len(pixels) != examples:
        raise ValueError(f"expected as many labels as images, got {len(pixels)} images and {examples} labels")
    if pixels.dtype.kind in "biu":
        raise TypeError(f"images must be floating point in [0, 1], got {pixels.dtype}; divide 8-bit pixels by 255")
    pixels = pixels.astype(np.float32, copy=False)
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"images must be in [0, 1], got values from {low:g} to {high:g}; draw them before normalization"
        )
    return pixels


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
