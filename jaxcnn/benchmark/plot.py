"""Draws the result of a benchmark: the ratio of jaxcnn's time to each peer's, model by model."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxcnn.benchmark.peers import PEERS
from jaxcnn.benchmark.records import Record
from jaxcnn.files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 150
# M. Okabe and K. Ito, "Color Universal Design" (2008): distinguishable with every colour vision.
_COLOURS = dict(zip(PEERS, ("#D55E00", "#E69F00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7"), strict=True))
_INK = "#222222"
_FAINT = "#DDDDDD"
_MODES = {"train": "training step", "infer": "inference"}
_BAR_INCHES = 0.24


def plot_ratios(records: Sequence[Record], path: str | os.PathLike[str]) -> None:
    """Writes `ratio_figure` to a PNG file atomically.

    Args:
      records: as in `ratio_figure`.
      path: a file with the extension .png in an existing folder; an older file is replaced.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: the extension of `path` is not .png.
      OSError: `path` cannot be written; see `jaxcnn.files.check_target`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"expected a path with the extension .png, got {str(path)!r}")
    with written_whole(path) as file:
        FigureCanvasAgg(ratio_figure(records)).print_png(file)


def ratio_figure(records: Sequence[Record]) -> "Figure":
    """Draws a panel for each mode: for each model and peer a bar from 1 to the median ratio, and its quartiles.

    The axis is logarithmic, so that twice as fast and half as fast have the same distance from 1. A peer that is
    missing or failed shows its status instead of a bar. A panel without peers says so.

    Args:
      records: records from `make_records`, of any number of races.

    Returns:
      The figure, whose height grows with the number of bars.

    Raises:
      ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("a plot expects matplotlib to be installed; pip install matplotlib") from error
    modes = [mode for mode in _MODES if any(record["mode"] == mode for record in records)]
    panels = {mode: _rows(records, mode) for mode in modes}
    bars = max((len(rows) for rows in panels.values()), default=1)
    figure = Figure(figsize=(2.2 + 5.2 * max(len(modes), 1), 1.7 + _BAR_INCHES * max(bars, 4)), dpi=_DPI)
    figure.set_layout_engine("constrained")
    figure.suptitle("Time of a jaxcnn step divided by the peer's (left of 1: jaxcnn is faster)", color=_INK)
    for axes, (mode, rows) in zip(
        figure.subplots(1, max(len(modes), 1), squeeze=False)[0], panels.items(), strict=False
    ):
        axes.set_title(_MODES[mode], color=_INK, fontsize=11)
        _draw(axes, rows)
    return figure


def _rows(records: Sequence[Record], mode: str) -> list[tuple[str, Record]]:
    """Lists the bars of a panel from the top: (model, record of a peer), the models in the order of the records."""
    return [(record["model"], record) for record in records if record["mode"] == mode and record["contestant"] in PEERS]


def _draw(axes: "Axes", rows: list[tuple[str, Record]]) -> None:
    if not rows:
        axes.text(0.5, 0.5, "no peers", transform=axes.transAxes, ha="center", color=_INK)
        axes.set_axis_off()
        return
    axes.set_xscale("log")
    place, middles, before = 0.0, {}, rows[0][0]
    for model, record in rows:
        place += 1 if model == before else 1.8
        before = model
        middles.setdefault(model, []).append(place)
        _draw_bar(axes, place, record)
    ratios = [quartile for _, record in rows if record["ratio"] for quartile in _ends(record)]
    low, high = min([0.5, *ratios]), max([2.0, *ratios])
    # Space for the labels beside the longest bars, about a fifth of the axis on each side.
    room = (high / low) ** 0.33
    axes.set_xlim(low / room, high * room)
    axes.set_ylim(place + 0.8, 0.2)
    axes.set_yticks([sum(places) / len(places) for places in middles.values()], list(middles))
    axes.tick_params(axis="y", length=0)
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if low / room <= tick <= high * room]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(axis="x", color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.axvline(1, color=_INK, linewidth=1.2)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _draw_bar(axes: "Axes", place: float, record: Record) -> None:
    name, ratio = record["contestant"], record["ratio"]
    if not ratio:
        axes.text(1, place, f" {name}: {record['status']}", va="center", fontsize=8, color=_INK)
        return
    median, (lower, upper) = ratio["median"], _ends(record)
    axes.barh(place, median - 1, left=1, height=0.8, color=_COLOURS[name])
    axes.plot([lower, upper], [place, place], color=_INK, linewidth=1.4, solid_capstyle="butt")
    faster = median < 1
    axes.annotate(
        f"{name} {median:.2f}",
        (min(lower, 1) if faster else max(upper, 1), place),
        xytext=(-4 if faster else 4, 0),
        textcoords="offset points",
        ha="right" if faster else "left",
        va="center",
        fontsize=8,
        color=_INK,
    )


def _ends(record: Record) -> tuple[float, float]:
    return record["ratio"]["lower_quartile"], record["ratio"]["upper_quartile"]
