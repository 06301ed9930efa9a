"""Figures of training: the curves of one run, and of several runs together."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from jaxcnn.evaluation.intervals import mean_interval
from jaxcnn.plots.figures import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LABEL,
    ORANGE,
    PINK,
    SKY_BLUE,
    TICK,
    VERMILLION,
    counted,
    drawable,
    fit_below_heading,
    new_figure,
    percent,
    shorten,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Sequence[Mapping[str, Any]]
"""One mapping for each epoch, in order, with numbers by name; None for a number that is missing."""

_MAX_DOTTED_EPOCHS = 15
_CURVE_STYLES = {"training": (GREY, 2.0), "validation": (BLUE, 2.8)}
_COLOURS = (BLUE, VERMILLION, GREEN, PINK, ORANGE, SKY_BLUE)
_DASHES = ("solid", "dashed", "dotted", "dashdot")


def curves(
    history: History,
    *,
    metric: str | None = "accuracy",
    best_epoch: int | None = None,
    train_note: str | None = None,
    subtitle: str = "",
) -> "Figure":
    """Draws loss and metric over the epochs, training and validation in one panel each.

    The loss axis is logarithmic if all values are above 0 and the largest is at least 10 times the smallest. The axis
    of the metric may cut off the lowest tenth of a curve, so that a bad start does not flatten the rest. A value that
    is None or non-finite is omitted: the line continues to the next value, and the panel gives the number of such
    epochs. A curve of up to 15 values has a dot for each value, so that a single epoch is visible.

    Args:
      history: one mapping for each epoch, in order, with the numbers 'epoch', 'train_loss', 'validation_loss' and
        'validation_<metric>'; 'train_<metric>' is drawn if the first epoch has it. Other keys are ignored.
      metric: name of a metric in [0, 1] of which more is better; None to draw the losses alone.
      best_epoch: the epoch of the history to mark; None for no mark.
      train_note: how the training curves were measured, for example 'measured on augmented images'.
      subtitle: names model, data and seed, such as 'lenet5 on digits, seed 0'.

    Returns:
      A figure 12.8 inches wide, or 8 inches without a metric.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: the history is empty, lacks a key, has epochs that do not increase or a metric outside [0, 1], or the
        best epoch is not in the history or has no validation metric.
    """
    columns = _checked_history(history, metric)
    epochs, judged = columns["epoch"], columns[f"validation_{metric or 'loss'}"]
    best = None if best_epoch is None else _checked_best(epochs, judged, best_epoch, metric or "loss")
    detail = counted(len(epochs), "epoch") + (f"; training: {train_note}" if train_note else "")
    width, height = (8.0 if metric is None else 12.8), 5.2
    figure = new_figure(width, height, _curves_title(epochs, judged, best, metric), subtitle, detail)
    fit_below_heading(figure, height)
    panels = figure.subplots(1, 1 if metric is None else 2, squeeze=False)[0]
    losses = {"training": columns["train_loss"], "validation": columns["validation_loss"]}
    _scale_loss(panels[0], "loss", list(losses.values()), pad=32)
    _draw_curves(panels[0], epochs, losses, best, "" if best is None else f"epoch {epochs[best]:g}")
    if metric is not None:
        measured = {"training": columns.get(f"train_{metric}"), "validation": judged}
        fractions = {name: 100 * curve for name, curve in measured.items() if curve is not None}
        shown = () if best is None else (100 * judged[best],)
        _scale_percent(panels[1], metric, list(fractions.values()), shown, pad=32)
        _draw_curves(panels[1], epochs, fractions, best, "" if best is None else percent(judged[best], 2))
    return figure


def comparison(
    histories: Sequence[History],
    labels: Sequence[str],
    *,
    metric: str | None = "accuracy",
    subtitle: str = "",
    band: Literal["range", "confidence"] = "range",
) -> "Figure":
    """Draws several runs together: training loss, validation loss and validation metric over the epochs.

    Runs with the same label, such as those of several seeds, are one line: their mean, with a band. It covers the
    epochs in which every one of these runs has a finite value.

    Args:
      histories: for each run, one mapping for each epoch, in order, with the numbers 'epoch', 'train_loss',
        'validation_loss' and 'validation_<metric>'; other keys are ignored.
      labels: the label of each run.
      metric: name of a metric in [0, 1] of which more is better; None to draw the losses alone.
      subtitle: what the runs have in common, such as 'lenet5 on digits'.
      band: "range", from the smallest to the largest value; or "confidence", the 95 % confidence interval of the mean,
        see `jaxcnn.evaluation.mean_interval`.

    Returns:
      A figure 16 inches wide, or 11.5 inches without a metric, with a legend at the bottom.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: there are no histories, one is invalid as in `curves`, the number of labels differs, or runs with the
        same label have no epoch in common.
    """
    if not histories or len(histories) != len(labels):
        raise ValueError(
            f"comparison expects at least one history and a label for each, got {len(histories)} histories and "
            f"{len(labels)} labels"
        )
    groups: dict[str, list[dict[str, np.ndarray]]] = {}
    for label, history in zip(labels, histories, strict=True):
        groups.setdefault(label, []).append(_checked_history(history, metric))
    names = ["train_loss", "validation_loss", *([] if metric is None else [f"validation_{metric}"])]
    several = any(len(runs) > 1 for runs in groups.values())
    width_of_band = "smallest to largest value" if band == "range" else "95 % confidence interval of the mean"
    detail = f"line: mean of the runs with the same label; band: {width_of_band}" if several else ""
    width, height = (11.5 if metric is None else 16.0), 5.2 + 0.3 * -(-len(groups) // 3)
    figure = new_figure(width, height, counted(len(histories), "run"), subtitle, detail)
    fit_below_heading(figure, height)
    panels = figure.subplots(1, len(names))
    for axes, name in zip(panels, names, strict=True):
        spreads = [_spread(label, runs, name, band) for label, runs in groups.items()]
        bounds = [bound for spread in spreads for bound in (spread.low, spread.high)]
        title = name.replace("train_", "training ")
        if name.endswith("_loss"):
            _scale_loss(axes, title, bounds)
        else:
            _scale_percent(axes, title, bounds)
        for place, spread in enumerate(spreads):
            _draw_spread(axes, spread, place)
        _scale_epochs(axes, np.concatenate([spread.epochs for spread in spreads]))
    texts = [shorten(text, 44) for text in drawable(list(groups))]
    counts = [f" ({counted(len(runs), 'run')})" if several else "" for runs in groups.values()]
    legend = figure.legend(
        panels[0].lines,
        [text + count for text, count in zip(texts, counts, strict=True)],
        loc="outside lower left",
        ncols=min(3, len(groups)),
        frameon=False,
        borderaxespad=1.6,
        fontsize=TICK,
        labelcolor=INK,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


class _Spread(NamedTuple):
    """A number over the epochs, in runs with the same label."""

    epochs: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _spread(label: str, runs: Sequence[Mapping[str, np.ndarray]], name: str, band: str) -> _Spread:
    """Returns mean and band in the epochs that all runs have; metrics in percent."""
    finite = [dict(zip(run["epoch"], run[name], strict=True)) for run in runs]
    finite = [{epoch: value for epoch, value in run.items() if np.isfinite(value)} for run in finite]
    common = sorted(set.intersection(*(set(run) for run in finite)))
    if not common:
        raise ValueError(
            f"runs with the same label need an epoch in which each has a finite {name}, but the {len(runs)} runs "
            f"{label!r} have none; give them different labels"
        )
    values = np.array([[run[epoch] for epoch in common] for run in finite]) * (1 if name.endswith("_loss") else 100)
    if band == "confidence" and len(values) > 1:
        mean, low, high, _ = mean_interval(values)
        return _Spread(np.array(common), mean, low, high)
    return _Spread(np.array(common), values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def _draw_spread(axes: "Axes", spread: _Spread, place: int) -> None:
    colour, dash = _COLOURS[place % len(_COLOURS)], _DASHES[place // len(_COLOURS) % len(_DASHES)]
    marker = "o" if len(spread.epochs) <= _MAX_DOTTED_EPOCHS else None
    axes.fill_between(spread.epochs, spread.low, spread.high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(spread.epochs, spread.mean, color=colour, linestyle=dash, linewidth=2.4, marker=marker, markersize=5)


def _curves_title(epochs: np.ndarray, judged: np.ndarray, best: int | None, metric: str | None) -> str:
    name = "validation loss" if metric is None else f"validation {_words(metric)}"

    def written(place: int) -> str:
        return f"{judged[place]:.4g}" if metric is None else percent(judged[place], 2)

    measured = np.flatnonzero(np.isfinite(judged)).tolist()
    if best is not None:
        return f"Best {name} {written(best)} at epoch {epochs[best]:g}"
    if measured:
        return f"{_capitalized(name)} {written(measured[-1])} after epoch {epochs[measured[-1]]:g}"
    return f"No {name}"


def _words(name: str) -> str:
    return name.replace("_", " ").replace("iou", "IoU")


def _capitalized(name: str) -> str:
    words = _words(name)
    return words[:1].upper() + words[1:]


def _scale_loss(axes: "Axes", name: str, curves: Sequence[np.ndarray], pad: float = 10.0) -> None:
    """Sets the limits and the scale of a loss axis, and the title of the panel."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    values = np.concatenate([curve[np.isfinite(curve)] for curve in curves])
    low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
    logarithmic = low > 0 and high / low >= 10
    if logarithmic:
        margin = (high / low) ** 0.05
        axes.set_yscale("log")
        axes.set_ylim(low / margin, high * margin)
        # Within three decades, the powers of ten alone would be too few labels.
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1000 else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
        axes.set_ylim(low - margin, high + margin)
        axes.ticklabel_format(axis="y", useOffset=False)
    style_axes(axes, _capitalized(name) + (" (log scale)" if logarithmic else ""), pad)


def _scale_percent(
    axes: "Axes", name: str, curves: Sequence[np.ndarray], shown: Sequence[float] = (), pad: float = 10.0
) -> None:
    """Sets the limits of an axis in percent, which include the values `shown`, and the title of the panel."""
    finite = [curve[np.isfinite(curve)] for curve in curves]
    finite = [curve for curve in finite if curve.size] or [np.array([0.0, 100.0])]
    # Include the last value, which has the name of the curve.
    low = min([*(min(np.quantile(curve, 0.1, method="lower"), curve[-1]) for curve in finite), *shown])
    high = max(curve.max() for curve in finite)
    # At least two percentage points, so that the noise of a flat curve is not magnified.
    margin = max(0.06 * (high - low), (2.0 - (high - low)) / 2)
    # Space above 100 %, so that the mark of a perfect epoch is not cut off.
    axes.set_ylim(max(low - margin, -2.0), min(high + margin, 100 + 0.03 * (100 - low) + 0.05))
    axes.ticklabel_format(axis="y", useOffset=False)
    style_axes(axes, f"{_capitalized(name)} (%)", pad)


def _scale_epochs(axes: "Axes", epochs: np.ndarray, note: str = "") -> None:
    """Sets the limits and the whole numbers of the axis of epochs."""
    from matplotlib.ticker import MaxNLocator

    margin = max(0.03 * (epochs.max() - epochs.min()), 0.3)
    axes.set_xlim(epochs.min() - margin, epochs.max() + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.set_xlabel(f"epoch{note}", fontsize=LABEL, color=INK, labelpad=6)


def _draw_curves(
    axes: "Axes", epochs: np.ndarray, curves: Mapping[str, np.ndarray], best: int | None, best_text: str
) -> None:
    """Draws a training and a validation curve with labels at the right end, and marks the best epoch."""
    incomplete = np.count_nonzero(~np.isfinite(list(curves.values())).all(axis=0))
    _scale_epochs(axes, epochs, f" ({incomplete} of {len(epochs)} lack a finite value)" if incomplete else "")
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
            fontsize=LABEL,
            color=_CURVE_STYLES[name][0],
        )
    if best is not None:
        _mark_best(axes, epochs[best], curves["validation"][best], best_text)


def _mark_best(axes: "Axes", epoch: float, value: float, text: str) -> None:
    axes.axvline(epoch, color=GREY, linewidth=1.2, linestyle=(0, (2, 2)), zorder=1)
    axes.plot(
        epoch, value, marker="o", markersize=11, markerfacecolor="white", markeredgecolor=BLUE, markeredgewidth=2.5
    )
    above = axes.get_xaxis_transform()
    axes.text(epoch, 1.035, text, transform=above, ha="center", va="bottom", fontsize=TICK, color=BLUE)


def _apart(heights: Mapping[str, float], distance: float) -> dict[str, float]:
    """Moves at most two heights apart, around their mean, to a distance of at least `distance`."""
    if len(heights) < 2:
        return dict(heights)
    (low_name, low), (high_name, high) = sorted(heights.items(), key=lambda item: item[1])
    push = max(0.0, distance - (high - low)) / 2
    return {low_name: low - push, high_name: high + push}


def _checked_history(history: History, metric: str | None) -> dict[str, np.ndarray]:
    """Checks a history, and returns the epochs and the curves as float64 arrays (epochs,), with None as NaN."""
    if not history:
        raise ValueError("history is empty, expected one mapping per epoch; draw the curves after the first epoch")
    names = ["epoch", "train_loss", "validation_loss"]
    if metric is not None:
        names += [*([f"train_{metric}"] if f"train_{metric}" in history[0] else []), f"validation_{metric}"]
    columns = {name: np.full(len(history), np.nan) for name in names}
    for place, row in enumerate(history):
        lacking = [name for name in columns if name not in row]
        if lacking:
            raise ValueError(f"history needs the keys {lacking}, but entry {place} has only {sorted(row)}")
        for name, column in columns.items():
            try:
                column[place] = np.nan if row[name] is None else float(row[name])
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name} must be a number or None, got {row[name]!r} in entry {place}") from error
    _check_epochs(columns["epoch"])
    for name in names[3:]:
        outside = np.flatnonzero((columns[name] < 0) | (columns[name] > 1))
        if outside.size:
            raise ValueError(
                f"{name} must be a fraction in [0, 1], got {columns[name][outside[0]]:g} at epoch "
                f"{columns['epoch'][outside[0]]:g}; divide percent by 100"
            )
    return columns


def _check_epochs(epochs: np.ndarray) -> None:
    if not np.isfinite(epochs).all():
        place = int(np.argmin(np.isfinite(epochs)))
        raise ValueError(f"epoch must be a finite number, got {epochs[place]} in entry {place}")
    backward = np.flatnonzero(~(np.diff(epochs) > 0))
    if backward.size:
        before, after = epochs[backward[0]], epochs[backward[0] + 1]
        raise ValueError(
            f"the epochs of the history must increase, got {after:g} after {before:g}; drop repeated epochs"
        )


def _checked_best(epochs: np.ndarray, judged: np.ndarray, best_epoch: int, name: str) -> int:
    """Checks the best epoch, and returns its index in the history."""
    places = np.flatnonzero(epochs == best_epoch)
    if not places.size:
        raise ValueError(
            f"best_epoch must be an epoch of the history ({epochs[0]:g} to {epochs[-1]:g}), got {best_epoch}"
        )
    if not np.isfinite(judged[places[0]]):
        raise ValueError(
            f"best_epoch {best_epoch} has the validation {_words(name)} {judged[places[0]]}; choose another"
        )
    return int(places[0])
