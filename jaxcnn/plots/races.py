"""The figure of a benchmark: the ratio of jaxcnn's time to each peer's, model by model."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxcnn.plots.figures import (
    BLUE,
    FAINT_LINE,
    GREEN,
    INK,
    LABEL,
    ORANGE,
    PINK,
    SKY_BLUE,
    VERMILLION,
    drawable,
    fit_below_heading,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OURS = "jaxcnn"
_COLOURS = (VERMILLION, ORANGE, BLUE, SKY_BLUE, GREEN, PINK)
_MODES = {"train": "training step", "infer": "inference"}
_BAR_INCHES = 0.24
_SMALL = 8.0
"""Size of the texts beside the bars, in points."""


Record = Mapping[str, Any]
"""One contestant's result, from `jaxcnn.benchmark.make_records`."""


def ratios(records: Sequence[Record], *, subtitle: str = "") -> "Figure":
    """Draws a panel for each mode: for each model and peer a bar from 1 to the median ratio, and its quartiles.

    The axis is logarithmic, so that twice as fast and half as fast have the same distance from 1. A peer that is
    missing or failed shows its status instead of a bar. A panel without peers says so. The peers have their colours in
    the order of their first record.

    Args:
      records: from `jaxcnn.benchmark.make_records`, of any number of races.
      subtitle: where the numbers were measured, such as the name of the processor.

    Returns:
      The figure, whose height grows with the number of bars.

    Raises:
      ImportError: matplotlib is not installed.
    """
    modes = [mode for mode in _MODES if any(record["mode"] == mode for record in records)]
    panels = {mode: _rows(records, mode) for mode in modes}
    bars = max((len(rows) for rows in panels.values()), default=1)
    peers = dict.fromkeys(record["contestant"] for rows in panels.values() for _, record in rows)
    colours = {peer: _COLOURS[place % len(_COLOURS)] for place, peer in enumerate(peers)}
    height = 1.1 + _BAR_INCHES * max(bars, 4)
    figure = new_figure(
        2.2 + 5.2 * max(len(modes), 1),
        height,
        "Time of a step, ours / theirs",
        subtitle,
        "jaxcnn's time divided by the peer's, with quartiles; left of 1: jaxcnn is faster",
    )
    fit_below_heading(figure, height)
    for axes, (mode, rows) in zip(
        figure.subplots(1, max(len(modes), 1), squeeze=False)[0], panels.items(), strict=False
    ):
        axes.set_title(_MODES[mode], loc="left", color=INK, fontsize=LABEL, fontweight="bold")
        _draw(axes, rows, colours)
    return figure


def _rows(records: Sequence[Record], mode: str) -> list[tuple[str, Record]]:
    """Lists the bars of a panel from the top: (model, record of a peer), the models in the order of the records."""
    return [(record["model"], record) for record in records if record["mode"] == mode and record["contestant"] != _OURS]


def _draw(axes: "Axes", rows: list[tuple[str, Record]], colours: Mapping[str, str]) -> None:
    if not rows:
        axes.text(0.5, 0.5, "no peers", transform=axes.transAxes, ha="center", color=INK)
        axes.set_axis_off()
        return
    axes.set_xscale("log")
    place, middles, before = 0.0, {}, rows[0][0]
    for model, record in rows:
        place += 1 if model == before else 1.8
        before = model
        middles.setdefault(model, []).append(place)
        _draw_bar(axes, place, record, colours[record["contestant"]])
    ratios = [quartile for _, record in rows if record["ratio"] for quartile in _ends(record)]
    low, high = min([0.5, *ratios]), max([2.0, *ratios])
    # Space for the labels beside the longest bars, about a fifth of the axis on each side.
    room = (high / low) ** 0.33
    axes.set_xlim(low / room, high * room)
    axes.set_ylim(place + 0.8, 0.2)
    axes.set_yticks(
        [sum(places) / len(places) for places in middles.values()], drawable(list(middles)), parse_math=False
    )
    axes.tick_params(axis="y", length=0)
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if low / room <= tick <= high * room]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(axis="x", color=FAINT_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.axvline(1, color=INK, linewidth=1.2)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _draw_bar(axes: "Axes", place: float, record: Record, colour: str) -> None:
    name, ratio = record["contestant"], record["ratio"]
    if not ratio:
        axes.text(1, place, f" {name}: {record['status']}", va="center", fontsize=_SMALL, color=INK)
        return
    median, (lower, upper) = ratio["median"], _ends(record)
    axes.barh(place, median - 1, left=1, height=0.8, color=colour)
    axes.plot([lower, upper], [place, place], color=INK, linewidth=1.4, solid_capstyle="butt")
    faster = median < 1
    axes.annotate(
        f"{name} {median:.2f}",
        (min(lower, 1) if faster else max(upper, 1), place),
        xytext=(-4 if faster else 4, 0),
        textcoords="offset points",
        ha="right" if faster else "left",
        va="center",
        fontsize=_SMALL,
        color=INK,
    )


def _ends(record: Record) -> tuple[float, float]:
    return record["ratio"]["lower_quartile"], record["ratio"]["upper_quartile"]
